import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path

import pytest
from django_formula.kind import kinds
from django_formula.release import instances
from django_formula.server import servers, uwsgi
from django_formula.site.sites import Site
from django_formula.untrusted.foreign import Foreign
from specimen import FACTS, ROOT, configured, contract, formula_templates

PROGRAM = ROOT / "django/files/django_formula_listen.py"
UVICORN = {"kind": "gunicorn", "options": {"worker_class": "uvicorn"}}
GRANIAN_WSGI = {"kind": "granian", "threads": 3, "options": {"interface": "wsgi"}}
GEVENT = {"kind": "gunicorn", "options": {"worker_class": "gevent"}}
SHOWS = (
    "import os, socket; s = socket.socket(fileno=3); print(s.getsockname(), os.environ['LISTEN_FDS'],"
    " int(os.environ['LISTEN_PID']) == os.getpid(), s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))"
)


def serving(**server: object) -> Site:
    return configured(server=server)


@pytest.mark.parametrize("kind", [kind for kind, own in servers.SERVERS.items() if own.SERVES])
def test_every_kind_has_its_class_and_templates(kind):
    own = servers.SERVERS[kind]
    site = serving(kind=kind)
    assert servers.configured(site) is own and kind == own.KIND
    assert set(own.templates) <= set(formula_templates())


def test_schema_enumerates_every_kind():
    assert len(servers.SERVERS) == len([*servers.SERVERS]) and "contract" not in servers.SERVERS
    host = contract("schema.yaml")["$defs"]
    assert host["site"]["properties"]["server"]["properties"]["kind"]["enum"] == [
        *(kind for kind in servers.SERVERS if kind != kinds.NO_SERVER),
        None,
    ]
    options = host["site"]["properties"]["server"]["properties"]["options"]["kinds"]
    assert {*options} == {*servers.SERVERS} - {kinds.NO_SERVER}
    assert host["django"]["properties"]["process"]["enum"] == ["auto", *kinds.PROCESS_MANAGERS, None]
    assert [*instances.PROCESS_MANAGERS] == [*kinds.PROCESS_MANAGERS]


@pytest.mark.parametrize(
    ("server", "packages", "expected"),
    [
        ({"kind": "gunicorn"}, {}, ["gunicorn", "gunicorn"]),
        ({"kind": "gunicorn"}, {"gunicorn": "20.1.0"}, []),
        (GEVENT, {"gunicorn": "20"}, ["gevent", "gevent", "packaging"]),
        (GEVENT, {"gunicorn": "20", "gevent": "1", "packaging": "1"}, []),
        (UVICORN, {"gunicorn": "27", "uvicorn": "0.54", "wsproto": "1"}, ["uvloop", "httptools", "uvicorn"]),
        ({"kind": "granian"}, {"uvloop": "0.20"}, ["granian", "granian"]),
        ({"kind": "granian"}, {"granian": "2.2.4", "uvloop": "0.20"}, []),
        ({"kind": "mod_wsgi"}, {}, []),
        ({"kind": "uwsgi"}, {}, ["pyuwsgi"]),
        ({"kind": "uwsgi"}, {"uwsgi": "2"}, []),
        ({"kind": "uvicorn"}, {"uvicorn": "0.30", "uvloop": "0.20", "wsproto": "1"}, ["httptools"]),
    ],
)
def test_only_missing_packages_are_installed(server, packages, expected):
    site = serving(**server)
    missing = servers.requirements(site, packages)
    assert [re.match(r"\w+", requirement)[0] for requirement in missing] == expected
    assert set(missing) <= set(servers.requirements(site))


@pytest.mark.parametrize(
    ("server", "interface", "keeps_threads"),
    [
        ({}, "wsgi", True),
        ({"kind": "gunicorn"}, "wsgi", True),
        (GEVENT, "wsgi", False),
        (UVICORN, "asgi", False),
        ({"kind": "uvicorn"}, "asgi", False),
        ({"kind": "granian"}, "asgi", False),
        (GRANIAN_WSGI, "wsgi", False),
        ({"kind": "mod_wsgi"}, "wsgi", True),
    ],
)
def test_interface_and_threads_follow_kind_and_options(server, interface, keeps_threads):
    site = serving(**server)
    own = servers.configured(site)
    assert (own.interface(site), own.keeps_threads(site)) == (interface, keeps_threads)


def test_server_of_release_is_the_recorded_one(tmp_path):
    (tmp_path / "config").mkdir()
    assert servers.of_release(tmp_path) is uwsgi.SERVER, "before there were others"
    (tmp_path / "config/instance.json").write_text('{"address": "/x", "protocol": "http", "server": "gunicorn"}')
    assert servers.of_release(tmp_path) is servers.SERVERS["gunicorn"]


@pytest.mark.parametrize(
    ("server", "seconds"),
    [
        ({}, 60),
        ({"options": {"harakiri": 7}}, 7),
        ({"kind": "gunicorn"}, 60),
        ({"kind": "gunicorn", "options": {"timeout": 7}}, 7),
        ({"kind": "mod_wsgi"}, 60),
        ({"kind": "mod_wsgi", "options": {"request-timeout": 7}}, 7),
        ({"kind": "mod_wsgi", "options": {"mode": "embedded"}}, 60),
    ],
)
def test_timeout_follows_the_option_of_the_kind(server, seconds):
    site = serving(**server)
    assert servers.configured(site).timeout(site) == seconds


@pytest.fixture
def gunicorn(tmp_path, monkeypatch):
    """What gunicorn reads, of a release with some options: its settings; a gunicorn that knows few stands in."""
    known = ("workers", "threads", "timeout", "keepalive", "preload_app", "raw_env", "pidfile", "worker_class")
    config = types.ModuleType("gunicorn.config")
    config.make_settings = lambda: dict.fromkeys(known)
    package = types.ModuleType("gunicorn")
    package.__version__, package.config = "1.2", config
    monkeypatch.setitem(sys.modules, "gunicorn", package)
    monkeypatch.setitem(sys.modules, "gunicorn.config", config)
    monkeypatch.setenv("SPT_NOENV", "")
    monkeypatch.setattr(sys, "path", [*sys.path])

    def read(**site):
        release = tmp_path / "0001-0123456789ab"
        (release / "config").mkdir(parents=True)
        (release / "virtualenv/bin").mkdir(parents=True)
        site = configured(**site)
        for name, text in instances.configuration(site, release, FACTS, formula_templates()).items():
            (release / "config" / name).write_text(text)
        settings = json.loads((release / "config/gunicorn.json").read_text())
        settings["ready"] = str(tmp_path / "ready")
        (release / "config/gunicorn.json").write_text(json.dumps(settings))
        return runpy.run_path(str(release / "config/gunicorn.conf.py"))

    return read


def test_gunicorn_reads_settings_of_the_release(gunicorn, tmp_path, monkeypatch):
    read = gunicorn(path="/shop", server={"kind": "gunicorn", "threads": 3, "options": {"keepalive": 9, "timeout": 5}})
    assert (read["threads"], read["timeout"], read["keepalive"], read["preload_app"]) == (3, 5, 9, True)
    assert read["raw_env"] == ["SCRIPT_NAME=/shop"] and "max_requests" not in read, "not in this version"
    assert os.environ["SPT_NOENV"] == "1"
    warmed = types.ModuleType("django_formula_warm")
    warmed.warm = lambda: (tmp_path / "warm").touch()
    monkeypatch.setitem(sys.modules, "django_formula_warm", warmed)
    read["when_ready"](types.SimpleNamespace(cfg=types.SimpleNamespace(preload_app=True)))
    assert (tmp_path / "warm").exists()
    assert (tmp_path / "ready").exists()


def test_application_of_uwsgi_has_script_name(monkeypatch):
    """Which uWSGI leaves out where it is empty; other servers have it always."""
    monkeypatch.syspath_prepend(ROOT / "django/files")
    modules = {
        "uwsgi": types.SimpleNamespace(opt={"set-ph": b"application=shop.wsgi"}),
        "django_formula_application": types.SimpleNamespace(load=lambda _name: lambda environ, _start: environ),
        "django_formula_warm": types.SimpleNamespace(warm=gc.enable),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "django_formula_uwsgi", raising=False)
    application = importlib.import_module("django_formula_uwsgi").application
    assert application({"wsgi.input": None}, None)["SCRIPT_NAME"] == ""
    assert application({"wsgi.input": None, "SCRIPT_NAME": "/shop"}, None)["SCRIPT_NAME"] == "/shop"


@pytest.fixture
def reading_on(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "django/files")
    return importlib.import_module("django_formula_unread").reading_on


class Lazy:
    """An answer that reads the request while it is sent."""

    streaming, closed = True, False

    def __init__(self, body):
        self.body = body

    def __iter__(self):
        yield self.body.read(3)

    def close(self):
        self.closed = True


def test_unread_request_is_read_to_its_end(reading_on):
    body = io.BytesIO(b"x" * 200_000)
    answer = reading_on(lambda environ, start: [environ["wsgi.input"].read(5)])
    assert answer({"wsgi.input": body, "CONTENT_LENGTH": "200000"}, None) == [b"xxxxx"] and body.read() == b""
    for none in ({}, {"CONTENT_LENGTH": ""}, {"CONTENT_LENGTH": "0"}):
        assert answer({"wsgi.input": io.BytesIO(b"next request"), **none}, None) == [b"next "]


def test_streamed_answer_may_read_the_request(reading_on):
    body = io.BytesIO(b"one two")
    lazy = Lazy(body)
    answer = reading_on(lambda environ, start: lazy)({"wsgi.input": body, "CONTENT_LENGTH": "7"}, None)
    assert next(iter(answer)) == b"one" and body.tell() == 3
    answer.close()
    assert body.read() == b"" and lazy.closed


def test_closed_connection_is_no_error(reading_on):
    class Gone:
        def read(self, size):
            raise ConnectionResetError

    answer = reading_on(lambda environ, start: [b"ok"])
    assert answer({"wsgi.input": Gone(), "CONTENT_LENGTH": "7"}, None) == [b"ok"]


@pytest.mark.parametrize("path", ["/", "/shop"])
def test_uvicorn_workers_set_root_path(gunicorn, monkeypatch, path):
    def load(self):
        self.wsgi = application

    async def application(scope, receive, send):
        told.append(scope.get("root_path"))

    told = []
    package = types.ModuleType("uvicorn_worker")
    package.UvicornWorker = type("UvicornWorker", (), {"load_wsgi": load})
    monkeypatch.setitem(sys.modules, "uvicorn_worker", package)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: types.SimpleNamespace(prctl=lambda *_: None))
    worker = gunicorn(path=path, asgi="blog.asgi", server=UVICORN)["worker_class"]()
    worker.load_wsgi()
    with contextlib.suppress(StopIteration):
        worker.wsgi({"type": "http"}, None, None).send(None)
    assert told == [None if path == "/" else "/shop"]


def test_unknown_gunicorn_option_is_named(gunicorn):
    with pytest.raises(SystemExit, match=r"gunicorn 1\.2 has no setting harakiri, max_fd \(server:options\)"):
        gunicorn(server={"kind": "gunicorn", "options": {"harakiri": 9, "max_fd": 1, "timeout": 1}})


@pytest.mark.parametrize("address", ["unix", "127.0.0.1:0", "[::1]:0"])
def test_listen_program_passes_bound_socket(tmp_path, address):
    path = tmp_path / "0042.sock"
    if address == "unix":
        path.touch()
        address = str(path)
    argv = [sys.executable, "-I", PROGRAM, address, sys.executable, "-c", SHOWS]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert shown.endswith(" 1 True 1\n")
    if address == str(path):
        assert path.stat().st_mode & 0o777 == 0o660 and path.is_socket() and shown.startswith(address)
    else:
        assert socket.AF_INET and shown.startswith(f"('{address.rpartition(':')[0].strip('[]')}', ")


def test_listen_program_reports_address_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        shown = subprocess.run([sys.executable, "-I", PROGRAM, address, "/bin/true"], capture_output=True, text=True)
    assert shown.returncode and "Address already in use" in shown.stderr


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            {
                "listen_queue": 3,
                "workers": [
                    {"status": "busy", "requests": 5, "exceptions": 1},
                    {"status": "idle", "requests": 2, "exceptions": 0},
                ],
            },
            "1 of 2 busy, 3 waiting, 7 requests, 1 exceptions",
        ),
        ({"workers": [{}]}, ""),
        ([], ""),
        ({"workers": [{"status": "x", "requests": float("inf"), "exceptions": 0}]}, ""),
        (b"x" * 65536, ""),
        (None, ""),
    ],
)
def test_workers_are_what_uwsgi_reports(tmp_path, answer, told):
    folder = Path(tempfile.mkdtemp(prefix="df-"))
    with socket.socket(socket.AF_UNIX) as listener:
        if answer is not None:
            listener.bind(str(folder / "stats.sock"))
            listener.listen()
            threading.Thread(target=say, args=(listener, answer), daemon=True).start()
        assert uwsgi.SERVER.workers(Foreign(folder)) == told
    shutil.rmtree(folder)


def say(listener, answer):
    connection, _address = listener.accept()
    with connection, contextlib.suppress(OSError):
        while isinstance(answer, bytes):
            connection.sendall(answer)
        connection.sendall(json.dumps(answer).encode())


OLD_GRANIAN = """
import os, socket, time

__version__ = "2.0"


class Granian:
    respawn_failed_workers = False

    def __init__(self, target, interface, workers, PATHaddress=None):
        self.path = str(locals().get("uds"))

    def serve(self, target_loader, wrap_loader):
        os.umask(0o027)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self.path)
        listener.listen()
        open(os.path.join(os.environ["RUN"], "imported"), "w").close()
        while not os.path.exists(os.path.join(os.environ["RUN"], "ready")):
            time.sleep(0.01)
"""


@pytest.mark.parametrize("has_sockets", [True, False])
def test_older_granian_has_a_socket_for_the_proxy_or_says_what_it_lacks(tmp_path, has_sockets):
    """It has unix sockets since 2.5, and their mode some versions later: the release failed, or the proxy got 502."""
    program = shutil.copy(ROOT / "django/files/django_formula_granian.py", tmp_path)
    for name in ("application", "ready", "unread"):
        shutil.copy(ROOT / f"django/files/django_formula_{name}.py", tmp_path)
    (tmp_path / "granian/utils").mkdir(parents=True)
    (tmp_path / "granian/utils/__init__.py").write_text("proxies = None\n")
    text = OLD_GRANIAN.replace("PATH", "uds=None, " if has_sockets else "")
    (tmp_path / "granian/__init__.py").write_text(text)
    folder = Path(tempfile.mkdtemp(prefix="granian-"))
    address = folder / "server.sock"
    settings = {"interface": "asgi", "workers": 2, "log_access": False}
    given = {"module": "x", "folder": "/", "settings": settings, "options": {}, "trusted": [], "run": str(folder)}
    (tmp_path / "granian.json").write_text(json.dumps({**given, "address": str(address)}))
    try:
        environment = {**os.environ, "RUN": str(folder), "NOTIFY_SOCKET": ""}
        ended = subprocess.run(
            [sys.executable, program], env=environment, capture_output=True, text=True, timeout=30, check=False
        )
        if has_sockets:
            assert (ended.returncode, address.stat().st_mode & 0o777) == (0, 0o660), ended.stderr
        else:
            assert ended.stderr == "granian 2.0 has no unix sockets: require 2.5, or set server:bind to a port\n"
    finally:
        shutil.rmtree(folder)
