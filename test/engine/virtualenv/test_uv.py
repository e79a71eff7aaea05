"""The formula's uv: its installation, and what it reports of the system."""

import http.server
import io
import shutil
import subprocess
import sys
import tarfile
import threading
import tomllib

import pytest
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.process import build_user
from django_formula.virtualenv import uv as virtualenv_uv
from specimen import ROOT


def test_uv_is_installed_once_per_version(own_host, monkeypatch):
    calls = []
    monkeypatch.setattr(commands, "run", lambda argv, **options: calls.append((argv, options)) or make(argv))

    def make(argv):
        virtualenv_uv.UV.mkdir(parents=True, exist_ok=True)
        return ""

    assert not virtualenv_uv.is_installed()
    virtualenv_uv.install()
    uv = str(virtualenv_uv.UV)
    requirement = f"uv=={virtualenv_uv.VERSION}"
    assert [argv for argv, _options in calls] == [
        ["python3", "-m", "venv", uv],
        [f"{uv}/bin/pip", "install", "--quiet", "--disable-pip-version-check", requirement],
    ]
    assert calls[1][1]["hint"] == (
        "have this host reach PyPI, or set django:defaults:index:url to an index that it reaches; proxies and "
        "certificate authorities are those of Salt's environment (docs/guides/networks.md)"
    )
    assert virtualenv_uv.is_installed()
    monkeypatch.setattr(virtualenv_uv, "VERSION", "9")
    assert not virtualenv_uv.is_installed()


def test_uv_version_is_the_one_of_the_test_dependencies():
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]["uv"]
    assert pins == [f"uv=={virtualenv_uv.VERSION}"]


BACKEND = """
import zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    with open({log!r}, "a") as log:
        log.write("compiled")
    name, info = "compiled-1.0-py3-none-any.whl", "compiled-1.0.dist-info"
    with zipfile.ZipFile(f"{{folder}}/{{name}}", "w") as wheel:
        wheel.writestr("compiled.py", "")
        wheel.writestr(f"{{info}}/METADATA", "Metadata-Version: 2.1\\nName: compiled\\nVersion: 1.0\\n")
        wheel.writestr(f"{{info}}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{{info}}/RECORD", "")
    return name
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "compiled"
version = "1.0"
"""


@pytest.fixture
def index(tmp_path, request):
    """Serve an index with one source distribution and the headers of the test; return its URL."""
    archive, files = io.BytesIO(), {"pyproject.toml": PROJECT, "backend.py": BACKEND.format(log=str(tmp_path / "log"))}
    files["PKG-INFO"] = "Metadata-Version: 2.2\nName: compiled\nVersion: 1.0\n"
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"compiled-1.0/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            is_page = self.path.endswith("/")
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if is_page else "application/gzip")
            for name, value in request.param.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b'<a href="compiled-1.0.tar.gz">it</a>' if is_page else archive.getvalue())

        def log_message(self, *_arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()


@pytest.fixture
def install(make_site, monkeypatch, tmp_path, index):
    """Have uv itself install the distribution of the index into a virtualenv of a name; return its module there."""
    uv = shutil.which("uv")
    assert uv, "uv is not on PATH: run the tests by test/run"

    def run(site, argv, *, environment, **_options):
        done = subprocess.run([uv, *argv[1:]], env=environment, capture_output=True, cwd=tmp_path, text=True)
        if done.returncode:
            raise DeploymentError("installing packages failed", log=done.stderr)

    monkeypatch.setattr(build_user, "run_as_build_user", run)
    for name in commands.network_environment():
        monkeypatch.delenv(name, raising=False)
    site = make_site(index={"url": index})

    def install(name):
        installer = virtualenv_uv.Uv(site, tmp_path / name, str(tmp_path), None)
        installer.run("venv", "--python", sys.executable, str(installer.folder))
        installer.install("compiled==1.0")
        return list(installer.folder.glob("lib/*/site-packages/compiled.py"))

    return install


@pytest.mark.slow
@pytest.mark.parametrize("index", [{}, {"Cache-Control": "private, no-store"}], indirect=True, ids=["none", "no-store"])
def test_source_distribution_is_compiled_once_whatever_headers_the_index_sends(install, own_host, tmp_path):
    for name in ("first", "second"):
        assert install(name)
    assert (tmp_path / "log").read_text() == "compiled"
    assert not (own_host / "run/django/blog.uv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("index", [{}], indirect=True, ids=["none"])
def test_cache_that_has_lost_a_part_is_made_again(install, make_site, caplog):
    assert install("first")
    (damaged,) = (make_site().build.top / "uv").glob("archive-*/*/*.dist-info")
    shutil.rmtree(damaged)
    assert install("second")
    assert "blog: uv's cache is damaged and is made again: " in caplog.text
