"""The programs of the formula around Apache and mod_wsgi; another program stands in for Apache."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from specimen import ROOT

FILES = ROOT / "django/files"
RELEASE = "0042-3f2a9c1b77de"
#: An Apache that listens, has the project loaded and stops as Apache does; that of `-t` refuses one option.
APACHE = """#!{python} -IS
import os, pathlib, signal, socket, sys, time
run = pathlib.Path({run!r})
if "-t" in sys.argv:
    sys.exit("Invalid option to WSGI daemon process definition." if any("nonsense" in one for one in sys.argv) else 0)
def end(number, _frame):
    (run / "ended").write_text(signal.Signals(number).name)
    sys.exit()
for number in (signal.SIGTERM, signal.SIGWINCH):
    signal.signal(number, end)
(run / "begun").write_text(" ".join(sys.argv[1:]))
if {does!r} == "fails":
    sys.exit(1)
listener = socket.create_server(("127.0.0.1", {port}))
if {does!r} == "breaks":
    (run / "broken").touch()
else:
    time.sleep(0.1)
    (run / "loaded").touch()
while {does!r} != "dies" or not (run / "ready").exists():
    time.sleep(0.01)
sys.exit(3)
"""


class Program:
    """The main process of an instance, with its files in a folder of its own."""

    def __init__(self, folder: Path, does: str, **options: str):
        self.run, config = folder / "run", folder / "config"
        self.run.mkdir()
        config.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        apache = folder / "apache2"
        apache.write_text(APACHE.format(python=sys.executable, run=str(self.run), does=does, port=port))
        apache.chmod(0o755)
        given = {"apache": str(apache), "address": f"127.0.0.1:{port}", "modules": "/modules", "options": options}
        (config / "mod_wsgi.json").write_text(json.dumps({**given, "run": str(self.run)}))
        self.path = config / "django_formula_mod_wsgi.py"
        for name in (self.path.name, "django_formula_ready.py"):
            shutil.copy(FILES / name, config)
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(folder / "notify"))
        self.notified.settimeout(10)
        environment = {"DJANGO_SITE": "blog", "DJANGO_RELEASE": RELEASE, "NOTIFY_SOCKET": str(folder / "notify")}
        argv = [sys.executable, "-I", "-S", str(self.path)]
        self.process = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True)

    def has(self, name: str) -> str:
        """What a file in /run has, once it is there and not empty."""
        deadline = time.monotonic() + 10
        while not (self.run / name).exists() or not (text := (self.run / name).read_text()):
            assert time.monotonic() < deadline, name
            time.sleep(0.01)
        return text

    def end(self) -> tuple[int, str]:
        """Its exit status, and what it has said."""
        _nothing, said = self.process.communicate(timeout=10)
        return self.process.returncode, said


@pytest.fixture
def program(tmp_path):
    started = []

    def start(does: str = "serves", **options: str) -> Program:
        started.append(Program(tmp_path, does, **options))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.communicate()
        one.notified.close()


def test_program_is_ready_when_project_is_loaded_and_stops_gracefully(program):
    instance = program()
    assert instance.notified.recv(100) == b"READY=1" and (instance.run / "ready").exists()
    assert instance.has("pid") == str(instance.process.pid)
    assert instance.has("begun") == f"-f {instance.path.with_name('mod_wsgi.conf')} -DFOREGROUND"
    instance.process.terminate()
    assert instance.end() == (0, "") and instance.has("ended") == "SIGWINCH"


def test_program_exits_when_project_does_not_load(program):
    instance = program("breaks")
    assert instance.end() == (1, "the project does not start\n")
    assert instance.has("ended") == "SIGTERM" and not (instance.run / "ready").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"request-timeout": "60", "nonsense": "5"}, "mod_wsgi does not take nonsense=5 (server:options)\n"),
        ({"request-timeout": "60"}, ""),
    ],
)
def test_refused_options_are_named(program, options, said):
    assert program("fails", **options).end() == (1, said)


@pytest.mark.parametrize(
    ("site", "release", "is_left"),
    [("blog", RELEASE, False), ("blog", "0041-3f2a9c1b77de", True), ("shop", RELEASE, True)],
)
def test_leftovers_are_killed_when_apache_ends(program, tmp_path, site, release, is_left):
    sleep = shutil.copy("/bin/sleep", tmp_path / "apache2 of before")
    with subprocess.Popen([sleep, "60"], env={"DJANGO_SITE": site, "DJANGO_RELEASE": release}) as left:
        while not os.readlink(f"/proc/{left.pid}/exe").startswith(str(tmp_path)):
            time.sleep(0.01)
        assert program("dies").end() == (1, "Apache has ended by itself (3)\n")
        assert (left.poll() is None) == is_left
        left.kill()


def test_no_process_of_apache_outlives_the_program(program):
    instance = program()
    instance.notified.recv(100)
    instance.process.kill()
    assert instance.has("ended") == "SIGTERM"


# The application


SCRIPT = """
import os, sys
sys.path[:0] = ["."]
import importlib.util
spec = importlib.util.spec_from_file_location("_mod_wsgi_0815", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.application, os.getcwd(), sys.stderr is sys.stdout)
"""


@pytest.mark.parametrize(
    ("source", "state", "said"),
    [
        ("print('grüße')\napplication = 42", "loaded", r"grüße\nwarm\n42 {folder} True\n"),
        ("1 / 0", "broken", r"Traceback[\s\S]*ZeroDivisionError: division by zero\n"),
        ("", "broken", r"Traceback[\s\S]*AttributeError: .*no attribute 'application'\n"),
    ],
)
def test_application_is_loaded_and_its_state_reported(tmp_path, source, state, said):
    config, folder, run = (tmp_path / name for name in ("config", "source", "run"))
    for one in (config, folder, run):
        one.mkdir()
    (folder / "blog.py").write_text(source)
    (config / "django_formula_warm.py").write_text("def warm():\n    print('warm')\n")
    (config / "mod_wsgi.json").write_text(json.dumps({"folder": str(folder), "module": "blog", "run": str(run)}))
    shutil.copy(FILES / "django_formula_application.py", config)
    script = shutil.copy(FILES / "django_formula_wsgi.py", config)
    environment = {"PYTHONPATH": str(folder), "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run([sys.executable, "-c", SCRIPT, script], env=environment, capture_output=True, text=True)
    assert re.fullmatch(said.format(folder=re.escape(str(folder))), shown.stderr), shown.stderr
    assert [path.name for path in run.iterdir()] == [state] and shown.stdout == ""
