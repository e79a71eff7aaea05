"""The formula's uv: its installation, and what it reports of the system."""

import tomllib
from pathlib import Path

import django_host_command
import django_process_build
import django_virtualenv_uv
import pytest
from django_host_command import DeploymentError
from specimen import ROOT


def test_uv_is_installed_once_per_version(own_host, monkeypatch):
    calls = []
    monkeypatch.setattr(django_host_command, "run", lambda argv, **options: calls.append((argv, options)) or make(argv))

    def make(argv):
        django_virtualenv_uv.UV.mkdir(parents=True, exist_ok=True)
        return ""

    assert not django_virtualenv_uv.is_installed()
    django_virtualenv_uv.install()
    uv = str(django_virtualenv_uv.UV)
    requirement = f"uv=={django_virtualenv_uv.VERSION}"
    assert [argv for argv, _options in calls] == [
        ["python3", "-m", "venv", uv],
        [f"{uv}/bin/pip", "install", "--quiet", "--disable-pip-version-check", requirement],
    ]
    assert django_virtualenv_uv.is_installed()
    monkeypatch.setattr(django_virtualenv_uv, "VERSION", "9")
    assert not django_virtualenv_uv.is_installed()


def test_uv_version_is_the_one_of_the_test_dependencies():
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["uv"]
    assert pins == [f"uv=={django_virtualenv_uv.VERSION}"]


MISSING = {
    "Error: pg_config executable not found.": "gcc, libc6-dev, libpq-dev, python3-dev",
    "fatal error: Python.h: No such file or directory": "python3-dev",
    "error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory": "gcc",
    "Can not find valid pkg-config name. Specify MYSQLCLIENT_CFLAGS": "default-libmysqlclient-dev, pkg-config",
}


@pytest.mark.parametrize("reported", MISSING)
def test_failed_build_names_the_missing_system_packages(make_site, monkeypatch, reported):
    def run(site, argv, **options):
        raise DeploymentError("installing packages failed (exit 1)", log=reported, hint=options["hint"])

    monkeypatch.setattr(django_process_build, "run", run)
    with pytest.raises(DeploymentError) as error:
        django_virtualenv_uv.Uv(make_site(), Path("v"), Path("w"), None).install("x")
    assert error.value.hint == f"a package is built from source: set django:sites:blog:packages: [{MISSING[reported]}]"
