"""Managed interpreters: which one is chosen, where its archive comes from, and when it is deleted."""

import functools
import hashlib
import http.server
import json
import os
import platform
import re
import threading
from pathlib import Path

import pytest
import yaml
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.knowledge import python_versions
from django_formula.virtualenv import managed_python
from specimen import ROOT
from trees import write_tree

TABLE = yaml.safe_load((ROOT / "django/pythons.yaml").read_text())
CONTENT = b"an archive"
PATH = "20260101/cpython-3.13.7+20260101.tar.gz"
ARCHIVE = {"release": "3.13.7", "path": PATH, "sha256": hashlib.sha256(CONTENT).hexdigest()}


@pytest.fixture
def folder(own_host):
    return own_host / "usr/local/lib/django-formula/python"


@pytest.fixture
def mirror(tmp_path):
    (tmp_path / "mirror/20260101").mkdir(parents=True)
    (tmp_path / "mirror" / PATH).write_bytes(CONTENT)
    return tmp_path / "mirror"


@pytest.fixture
def calls(monkeypatch, folder):
    """What is run: uv, which has made an interpreter, and that interpreter."""
    calls = []

    def run(argv, **options):
        calls.append((argv, options))
        if "install" in argv:
            listed = next(value for value in argv if value.startswith("--python-downloads-json-url=file://"))
            options["list"] = json.loads(Path(listed.partition("file://")[2]).read_text())
            place = f"{argv[argv.index('install') + 1]}/bin/python3.13"
            write_tree(folder / "3.13.7", {place: "", ".lock": "", ".gitignore": "", ".temp/x": ""})
        return ""

    monkeypatch.setattr(commands, "run", run)
    return calls


def install(mirror, cached=lambda url: False):
    managed_python.install(ARCHIVE, mirror, cached)


def test_table_has_each_version_that_is_suggested_for_both_machines():
    assert {*python_versions.SERIES} <= {*TABLE["versions"]}
    for series, entry in TABLE["versions"].items():
        assert entry["version"].startswith(f"{series}.") and {*entry["archives"]} == {"aarch64", "x86_64"}
        for archive in entry["archives"].values():
            assert re.fullmatch(r"\d{8}/cpython-[\w.+-]+\.tar\.gz", archive["path"])
            assert re.fullmatch(r"[0-9a-f]{64}", archive["sha256"])


def test_archive_is_that_of_the_machine(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    known = managed_python.known(TABLE, "3.13")
    assert known == {
        "release": TABLE["versions"]["3.13"]["version"],
        **TABLE["versions"]["3.13"]["archives"]["aarch64"],
    }
    with pytest.raises(DeploymentError) as error:
        managed_python.known(TABLE, "3.7")
    assert "there is no Python 3.7 to install on this host (aarch64): the formula knows 3.15, 3.14" in str(error.value)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(DeploymentError, match="knows interpreters for other machines only"):
        managed_python.known(TABLE, "3.13")


@pytest.mark.parametrize("scheme", ["file", "salt", "http"])
def test_interpreter_is_installed_from_each_kind_of_mirror(folder, mirror, calls, scheme):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=mirror)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = {"file": f"file://{mirror}", "salt": "salt://pythons", "http": f"http://127.0.0.1:{server.server_port}"}
        install(url[scheme], cached=lambda url: str(mirror / url.removeprefix("salt://pythons/")))
        server.shutdown()
    (uv, options), (started, _options) = calls
    key = f"cpython-3.13.7-linux-{platform.machine()}-gnu"
    assert uv[1:4] == ["python", "install", key] and {"--no-config", "--no-bin", "--offline"} < {*uv}
    listed = options["list"][key]
    assert listed["sha256"] == ARCHIVE["sha256"] and listed["url"].startswith(f"file://{folder}/.new/cpython-3.13.7")
    assert started[0] == managed_python.executable("3.13") == str(folder / f"3.13.7/{key}/bin/python3.13")
    assert managed_python.is_installed("3.13.7") and not managed_python.is_installed("3.13.8")
    assert sorted(os.listdir(folder)) == ["3.13.7"]
    assert sorted(os.listdir(folder / "3.13.7")) == [".complete", key]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(b"other"), "is not the archive that the formula knows: its SHA-256 is "),
        (lambda path: path.unlink(), "cannot fetch file://"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "it is no file"),
        (lambda path: path.write_bytes(CONTENT * 100), "it is larger than 0 MiB"),
    ],
)
def test_archive_that_is_not_the_known_one_leaves_nothing(folder, mirror, calls, monkeypatch, change, message):
    monkeypatch.setattr(managed_python, "_LIMIT", 500)
    change(mirror / PATH)
    with pytest.raises(DeploymentError) as error:
        install(f"file://{mirror}")
    assert message in str(error.value) and calls == [] and os.listdir(folder) == []


def test_file_server_of_salt_without_the_archive_is_named(folder, calls):
    with pytest.raises(DeploymentError) as error:
        install("salt://pythons")
    assert "cannot fetch salt://pythons/20260101/" in str(error.value) and calls == []


def test_interpreter_that_does_not_start_leaves_nothing(folder, mirror, monkeypatch):
    def run(argv, **options):
        if "install" not in argv:
            raise DeploymentError("starting Python 3.13.7 failed (exit 127)")
        write_tree(folder / "3.13.7/x/bin", {"python3.13": ""})
        return ""

    monkeypatch.setattr(commands, "run", run)
    with pytest.raises(DeploymentError, match="exit 127"):
        install(f"file://{mirror}")
    assert os.listdir(folder) == []


def test_interpreters_that_no_virtualenv_has_are_deleted(folder, make_site):
    site = make_site(python="3.13")
    site.register()
    site.applied.write_text(json.dumps({"config": dict(site.config)}))
    for release in ("3.12.1", "3.12.2", "3.13.7", "3.13.18", "3.14.1"):
        write_tree(folder / release, {".complete": "", f"x/bin/python{release[:4]}": ""})
    write_tree(site.virtualenvs / "one", {"pyvenv.cfg": f"home = {folder}/3.12.1/x/bin\nversion_info = 3.12.1\n"})
    write_tree(site.virtualenvs / "two", {"pyvenv.cfg": f"version = 1\nhome={folder}/3.13.7/x/bin\n"})
    write_tree(site.virtualenvs, {"three/bin/python": ""})
    managed_python.prune()
    assert len(os.listdir(folder)) == 5, "of what was installed just now the site may not be registered yet"
    for complete in folder.glob("*/.complete"):
        os.utime(complete, (1, 1))
    managed_python.prune()
    assert sorted(os.listdir(folder)) == ["3.12.1", "3.13.18", "3.13.7"]
