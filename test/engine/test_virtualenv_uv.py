"""The formula's uv: its installation, and what it reports of the system."""

import tomllib

import django_host_command
import django_virtualenv_uv
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
    assert calls[1][1]["hint"] == (
        "have this host reach PyPI, or set django:defaults:index:url to an index that it reaches; proxies and "
        "certificate authorities are those of Salt's environment (docs/guides/networks.md)"
    )
    assert django_virtualenv_uv.is_installed()
    monkeypatch.setattr(django_virtualenv_uv, "VERSION", "9")
    assert not django_virtualenv_uv.is_installed()


def test_uv_version_is_the_one_of_the_test_dependencies():
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["uv"]
    assert pins == [f"uv=={django_virtualenv_uv.VERSION}"]
