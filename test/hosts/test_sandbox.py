"""The sandbox on hosts of several rights: which walls are there, what the trial says of them, and how commands end."""

import json

import pytest
from conftest import EACH_RELEASE
from lab import CONTAINER, MACHINE, Needs

NEEDS = Needs(MACHINE, "each wall of a unit is seen in force")

#: Run on a host, with the formula's modules: what is to be known of its sandbox, in JSON.
PRELUDE = """
import json, logging, subprocess, sys, time
sys.path.insert(0, "/srv/formula/engine")
from django_formula.process import sandbox
from django_formula.site import sites
from django_formula.process import systemd
from django_formula.process import trial
from django_formula.process import transient
from django_formula.host.commands import DeploymentError
from pathlib import Path
config = {"name": "blog", "user": "blog", "root": "/srv/django/blog", "sandbox": {}, "resources": {}, "writable": []}
config |= {"databases": {}, "mount": ""}
site = sites.Site(config, {"nginx": {"group": "www-data"}})
Path("/run/django").mkdir(exist_ok=True)
"""
TRIAL = """
def names(lines):
    return {name for line in lines for name in line.partition(": ")[2].partition(";")[0].split(", ")}
asked = trial.questions(site)
answers = {"": sorted(names(systemd.MANAGER.warnings(site)))}
directives = trial.properties(site, sandbox.refused(site))
for left_out in sorted({name for name, _value in directives} & set(sys.argv[1:])):
    properties = transient.options((name, value) for name, value in directives if name != left_out)
    answer = transient.run_unit(
        "trial.service", properties, trial.LOOK, doing="x", timeout=30, stdin=json.dumps(asked)
    )
    found = {**trial.parse_answer(answer, asked), "outside": trial.outside()}
    answers[left_out] = sorted(names(trial.not_in_force(site, found)))
print(json.dumps(answers))
"""
#: Directives that the trial sees one by one; the others are filters of system calls, or the same by other means.
SEEN = (
    *("CapabilityBoundingSet", "InaccessiblePaths", "MemoryDenyWriteExecute", "PrivateIPC", "PrivateTmp"),
    *("PrivateUsers", "ProcSubset", "ProtectControlGroups", "ProtectHome", "ProtectProc", "ProtectSystem"),
    *("ReadOnlyPaths", "TemporaryFileSystem"),
)
WALLS = """
directives = trial.properties(site, sandbox.refused(site))
more = [("ReadWritePaths", "/srv/django/blog/runtime/0001")]
program = '''
import json, multiprocessing, os, socket
from multiprocessing import shared_memory
def tried(function):
    try:
        function()
    except OSError as error:
        return os.strerror(error.errno)
    return "done"
def connect(path):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(path)
def share():
    one = shared_memory.SharedMemory(create=True, size=1000)
    one.unlink()
    one.close()
print(json.dumps({
    **{path: tried(lambda: open(path + "/x", "w")) for path in (
        "/run /run/lock /run/django /run/django/blog /srv/django/blog/runtime/0001 /dev/shm /tmp /etc /srv".split()
    )},
    "bus": tried(lambda: connect("/run/dbus/system_bus_socket")),
    "open": tried(lambda: connect("/run/open.sock")),
    "journal": tried(lambda: connect("/run/systemd/journal/stdout")),
    "lock": tried(multiprocessing.Lock),
    "memory": tried(share),
    "seen": os.listdir("/dev/shm"),
}))
'''
for path in ("/dev/shm/of-the-host", "/run/lock/of-the-host"):
    Path(path).touch()
print(transient.run_unit(
    "walls.service", transient.options([*directives, *more]), ["/usr/bin/python3", "-c", program],
    doing="x", timeout=30,
))
"""
ENDS = """
import io
said = io.StringIO()
logging.basicConfig(level=logging.WARNING, stream=said)
def run(program, timeout=20.0, clear=True):
    if clear:
        transient.end("django-blog-task.service")  # as MANAGER.run does
    began = time.monotonic()
    try:
        end = transient.run_unit(
            "django-blog-task.service", ["--property=User=blog"], ["/bin/sh", "-c", program],
            doing="trying", timeout=timeout,
        )
    except DeploymentError as error:
        end = [str(error), error.transient]
    return [end, round(time.monotonic() - began)]
ends = {
    "ends": run("echo out"),
    "fails": run("echo out; exit 3"),
    "leaves": run("setsid sleep 100 >/dev/null 2>&1 & sleep 0.2; echo out"),
    "stubborn": run('(trap "" TERM; exec setsid sleep 101) & sleep 0.2; echo out'),
    "hangs": run("echo out; sleep 102", 2),
    "again": run("echo out"),
}
former = ["systemd-run", "--quiet", "--remain-after-exit", "--unit=django-blog-task.service", "true"]
subprocess.run(former, check=True)
time.sleep(0.5)
ends["not started"] = run("echo out", clear=False)
for _look in range(300):  # the kernel may be about to end what systemd has killed
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    if "sleep 10" not in processes:
        break
    time.sleep(0.1)
failed = subprocess.run(["systemctl", "--failed", "--no-legend"], capture_output=True, text=True).stdout
print(json.dumps({**ends, "left": "sleep 10" in processes, "failed": failed, "said": said.getvalue()}))
"""


def asked(host, program, *arguments):
    host.run(
        "getent passwd blog || useradd --system blog; "
        "mkdir -p /home/ray /run/django/blog /srv/django/blog/runtime/0001; "
        "chown blog /run/django/blog /srv/django/blog/runtime/0001"
    )
    return json.loads(host.run(["python3", "-", *arguments], stdin=PRELUDE + program).stdout)


@pytest.fixture(scope="module", params=EACH_RELEASE)
def host(module_hosts, request):
    """A host on which systemd may mount."""
    return module_hosts(request.param, kind="bare")


@pytest.fixture(scope="module", params=EACH_RELEASE)
def container(module_hosts, request):
    """A host with the rights of a container by default."""
    return module_hosts(request.param, kind="bare", rights=CONTAINER)


def test_nothing_is_said_where_all_is_in_force_and_each_wall_that_is_missing_is_named(host):
    answers = asked(host, TRIAL, *SEEN)
    assert answers.pop("") == []
    assert answers.keys() == {*SEEN}
    assert {name for name, told in answers.items() if name not in told} == set()


def test_run_and_shared_memory_are_closed(host):
    host.run(
        'systemd-run --quiet --unit=open python3 -c "import os, socket, time; s = socket.socket(socket.AF_UNIX); '
        "s.bind('/run/open.sock'); os.chmod('/run/open.sock', 0o666); s.listen(); time.sleep(1000)\"; "
        "until [ -S /run/open.sock ]; do sleep 0.1; done; sleep 0.2"
    )
    found = asked(host, WALLS)
    closed = ("/run", "/run/lock", "/run/django", "/run/django/blog", "/etc", "/srv")
    assert {found[path] for path in closed} == {"Read-only file system"}
    assert found["bus"] == "Permission denied"
    opened = ("/srv/django/blog/runtime/0001", "/dev/shm", "/tmp", "open", "journal", "lock", "memory")
    assert {name: found[name] for name in opened} == dict.fromkeys(opened, "done")
    assert found["seen"] == ["x"]


def test_container_reports_what_is_not_in_force_and_runs_commands(container):
    """Without the right to mount, and with no file system of its own, which would keep units from starting."""
    named = set(asked(container, TRIAL)[""])
    assert {"ProtectProc", "ProcSubset"} <= named
    if "ProtectSystem" in named:  # no mounts at all, not by a user namespace either
        assert {"ReadOnlyPaths", "TemporaryFileSystem", "InaccessiblePaths"} <= named
    else:
        assert not {"ReadOnlyPaths", "TemporaryFileSystem", "InaccessiblePaths", "PrivateTmp"} & named
    assert asked(container, WALLS)["/etc"] in ("Read-only file system", "Permission denied")


def test_a_command_ends_as_it_ends_itself(host):
    check(asked(host, ENDS))


def test_a_command_ends_as_it_ends_itself_in_a_container(container):
    check(asked(container, ENDS))


def check(ends):
    assert ends["ends"][0] == ends["leaves"][0] == ends["stubborn"][0] == ends["again"][0] == "out\n"
    assert ends["fails"][0] == ["trying failed (exit 3)\n  | out", False]
    assert "already loaded" in ends["not started"][0][0]
    assert ends["hangs"][0] == ["trying: timed out after 2 s\n  | out", True]
    assert max(seconds for _end, seconds in (ends[name] for name in ("stubborn", "hangs"))) <= 30
    assert not ends["left"] and ends["failed"] == ""
    if "left processes behind" in ends["said"]:  # systemd tells of those that it had to kill
        assert "(sleep)" in ends["said"]
