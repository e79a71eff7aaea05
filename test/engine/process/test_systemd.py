"""systemd as process manager: the process of a release, starting, and the commands of a project."""

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

import pytest
from django_formula.host import commands as host_commands
from django_formula.host import locks, units
from django_formula.host.commands import DeploymentError, Ended, TimedOut
from django_formula.host.units import Overdue
from django_formula.process import contract, sandbox, systemd, transient
from django_formula.process.command import ProjectCommand
from django_formula.release import instances
from specimen import FACTS, configured

RELEASE = Path("/srv/django/blog/releases/0042-3f2a9c1b77de")


# Processes and units


@pytest.fixture
def proc(own_host, monkeypatch):
    """A host on which the unit of release 0042 has main process 42 and a child 43 of that."""
    (own_host / "sys/fs/cgroup/cgroup.controllers").touch()
    files = {
        "sys/fs/cgroup/system.slice/django-blog-0042.service/cgroup.procs": "43\n42\n",
        "proc/1/cgroup": "0::/init.scope\n",
        "proc/42/stat": stat(42, 1),
        "proc/43/stat": stat(43, 42),
    }
    for name, content in files.items():
        (own_host / name).parent.mkdir(parents=True, exist_ok=True)
        (own_host / name).write_text(content)
    (own_host / "run/django-blog-0042").mkdir()
    (own_host / "run/django-blog-0042/pid").symlink_to("/dev/zero")  # the pid file, which the site writes, is not read
    monkeypatch.setattr(host_commands, "run", lambda argv, **_options: pytest.fail("systemd is asked"))
    return own_host


def stat(number, parent, state="S"):
    return f"{number} (uwsgi) (x) {state} {parent} {' '.join(['0'] * 17)} 4711 0\n"


@pytest.mark.parametrize(
    ("changed", "content", "expected"),
    [
        (None, None, 42),
        ("proc/43/stat", None, 42),
        ("proc/42/stat", None, 43),
        ("proc/42/stat", stat(42, 1, "Z"), 43),
        ("sys/fs/cgroup/system.slice/django-blog-0042.service/cgroup.procs", "", None),
        ("sys/fs/cgroup/system.slice/django-blog-0042.service/cgroup.procs", None, None),
    ],
)
def test_pid_is_process_that_systemd_started(make_site, proc, changed, content, expected):
    if changed:
        (proc / changed).unlink()
        if content is not None:
            (proc / changed).write_text(content)
    site = make_site()
    assert systemd.MANAGER.pid(site, site.releases / "0042-3f2a9c1b77de") == expected


@pytest.mark.parametrize(
    ("own", "group"),
    [
        ("9:name=systemd:/init.scope", "systemd/system.slice"),
        ("9:name=systemd:/libpod_parent/libpod-1/init.scope", "systemd/libpod_parent/libpod-1/system.slice"),
        ("9:name=systemd:/docker/1/init.scope", "systemd/system.slice"),
        ("2:cpu:/init.scope\n0::/init.scope", "systemd/system.slice"),
    ],
)
def test_pid_is_found_on_cgroup_v1_and_in_containers(make_site, proc, own, group):
    top = proc / "sys/fs/cgroup"
    (top / "cgroup.controllers").unlink()
    (top / group).parent.mkdir(parents=True)
    (top / "system.slice").rename(top / group)
    (proc / "proc/1/cgroup").write_text(own + "\n")
    site = make_site()
    assert systemd.MANAGER.pid(site, site.releases / "0042-3f2a9c1b77de") == 42


@pytest.mark.parametrize(("printed", "expected"), [("42\n", 42), ("0\n", None), ("", None)])
@pytest.mark.parametrize("why", ["a daemon of the project", "another slice"])
def test_systemd_is_queried_when_control_group_is_ambiguous(make_site, proc, monkeypatch, why, printed, expected):
    if why == "another slice":
        (proc / "sys/fs/cgroup/system.slice/django-blog-0042.service/cgroup.procs").unlink()
        wants = systemd.UNITS / "multi-user.target.wants"
        wants.mkdir()
        (wants / "django-blog-0042.service").symlink_to("/x")
    else:
        (proc / "proc/43/stat").write_text(stat(43, 1))
    monkeypatch.setattr(host_commands, "run", lambda argv, **_options: printed)
    site = make_site()
    assert systemd.MANAGER.pid(site, site.releases / "0042-3f2a9c1b77de") == expected


@pytest.mark.parametrize("whole", [[True], [False, True]])
def test_unit_is_restarted_when_its_socket_was_deleted(make_site, monkeypatch, whole):
    """systemd does not start what runs, and does not notice what was deleted."""
    ran, found = [], iter(whole)
    monkeypatch.setattr(host_commands, "run", lambda argv, **_options: ran.append(argv) or "")
    monkeypatch.setattr(contract, "is_whole", lambda site, release, part: next(found))
    site = make_site()
    release = site.releases / "0042-3f2a9c1b77de"
    (release / "config").mkdir(parents=True)
    systemd.MANAGER.start(site, release)
    assert [argv[1] for argv in ran] == ["enable", *["restart"] * (len(whole) - 1)]
    assert ran[-1][-2:] == ["django-blog-0042.socket", "django-blog-0042.service"]


@pytest.mark.parametrize(
    ("state", "times"), [("activating\nSubState=start", 2), ("activating\nSubState=auto-restart", 1), ("failed", 1)]
)
def test_start_that_joins_one_from_before_is_made_again(make_site, monkeypatch, state, times):
    """systemd starts what ends each time again and again: a start from before its cause was mended fails."""
    ran = []

    def run(argv, **_options):
        ran.append(argv[1])
        if argv[1] == "enable":
            raise DeploymentError("Job for django-blog-0042.service failed")
        return f"ActiveState={state}\n"

    monkeypatch.setattr(host_commands, "run", run)
    monkeypatch.setattr(units, "_is_done", lambda *argv, **_options: run(("systemctl", *argv)))
    site = make_site()
    release = site.releases / "0042-3f2a9c1b77de"
    (release / "config").mkdir(parents=True)
    for suffix in ("service", "socket"):
        (systemd.UNITS / f"django-blog-0042.{suffix}").touch()
    with pytest.raises(DeploymentError, match="failed"):
        systemd.MANAGER.start(site, release)
    assert ran.count("enable") == times


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("lost", [None, "folder", "link", "socket", "stale", "other"])
def test_instance_is_not_whole_when_its_files_were_deleted(make_site, lost, is_old):
    site = make_site()
    release = site.releases / "0042-3f2a9c1b77de"
    run = contract.RUN / "django-blog-0042" if is_old else site.run / "0042"
    (release / "config").mkdir(parents=True)
    folder = Path(tempfile.mkdtemp(prefix="df-"))
    where = folder / "0042.sock"
    recorded = {"address": str(where)} | ({} if is_old else {"run": str(site.run)})
    (release / "config/instance.json").write_text(json.dumps(recorded))
    run.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(str(where))
        listener.listen()
        if lost == "folder":
            run.rmdir()
        elif lost == "link":
            run.rmdir()
            run.symlink_to("/")
        elif lost:
            where.unlink()
        if lost == "stale":
            other.bind(str(where))
        elif lost == "other":
            where.write_text("")
        assert contract.is_whole(site, release) is (lost is None)
        assert instances.pid(site, release) is None
    shutil.rmtree(folder)


@pytest.mark.parametrize("part", ["", "mail"])
def test_folder_of_a_part_is_below_the_root_of_the_site(make_site, monkeypatch, part):
    """A site that fills its folder fills its own disk, not /run, which every site of the host needs."""
    monkeypatch.setattr(host_commands, "run", lambda argv, **_options: "")
    monkeypatch.setattr(contract, "is_whole", lambda site, release, part: True)
    site = make_site()
    release = site.releases / "0042-3f2a9c1b77de"
    (release / "config").mkdir(parents=True)
    systemd.MANAGER.start(site, release, part)
    made = site.root / "runtime" / f"0042{'-mail' if part else ''}"
    assert made.is_dir() and made.stat().st_mode & 0o7777 == 0o750
    assert str(contract.folder(site, release, part)) == str(made)
    systemd.MANAGER.remove(site, release)
    assert not made.exists()


#: What takes its time in systemd: a verb of the process manager, the command of systemctl, and the most seconds of it.
OVERDUE = {
    "start": ("enable", 300 + 5),
    "stop": ("disable", 30 + 10 + 5),
    "pause": ("stop", 30 + 10 + 5),
    "remove": ("disable", 30 + 10 + 5),
}


@pytest.mark.parametrize("verb", OVERDUE)
def test_unit_that_extends_its_timeout_is_killed(make_site, monkeypatch, verb):
    command, most = OVERDUE[verb]
    ran, site = [], make_site()
    release = site.releases / "0042-3f2a9c1b77de"
    (release / "config").mkdir(parents=True)
    for name in ("django-blog-0042.service", "django-blog-0042.socket"):
        (systemd.UNITS / name).touch()
    wants = systemd.UNITS / "multi-user.target.wants"
    wants.mkdir()
    (wants / "django-blog-0042.service").symlink_to("/x")

    def run(argv, *, doing, timeout=60.0):
        ran.append(argv[1:])
        if argv[1] == command and "--no-block" not in argv:
            assert timeout == most
            raise TimedOut(f"{doing}: timed out after {timeout:g} s")
        return "inactive\ninactive\n" if ["kill", "--signal=SIGKILL"] in [one[:2] for one in ran] else "activating\n"

    monkeypatch.setattr(host_commands, "run", run)
    monkeypatch.setattr(units, "_AGAIN", 0)
    started = pytest.raises(Overdue) if verb == "start" else contextlib.nullcontext()
    with started:
        getattr(systemd.MANAGER, verb)(site, release)
    after = ran[[one[0] for one in ran].index(command) + 1 :]
    commands = [one[:2] for one in after if one[0] != "show"]
    assert commands[:2] == [["stop", "--no-block"], ["kill", "--signal=SIGKILL"]]
    assert "django-blog-0042.service" in after[0]


def test_release_that_never_starts_fails_with_what_to_set(make_site, monkeypatch):
    def start(*_arguments, doing, **_options):
        raise Overdue(f"{doing}: not ready after 305 s; its processes were killed")

    monkeypatch.setattr(units, "start", start)
    monkeypatch.setattr(host_commands, "run", lambda argv, **_options: "")
    site = make_site()
    release = site.releases / "0042-3f2a9c1b77de"
    (release / "config").mkdir(parents=True)
    with pytest.raises(DeploymentError) as error:
        instances.start(site, release)
    assert str(error.value) == (
        "the application server of 0042-3f2a9c1b77de does not start: starting django-blog-0042: not ready after 305 s; "
        "its processes were killed\nif its imports take that long, set django:sites:blog:timeouts:start"
    )
    assert not error.value.transient, "the next apply does not wait for it again"


@pytest.mark.parametrize(
    ("cause", "hint"),
    [
        ("ModuleNotFoundError: x", "read the whole log: journalctl -u django-blog-0042"),
        (
            "ImportError: libpq.so.5: cannot open shared object file: No such file or directory",
            "a library is missing on this host: set django:sites:blog:packages: [libpq5]",
        ),
    ],
)
def test_failed_start_reports_log_and_what_to_do(make_site, monkeypatch, cause, hint):
    def run(argv, *, doing, **_options):
        if argv[0] == "journalctl":
            assert "django-blog-0042" in argv
            return (
                f"Starting Django site blog\n*** Starting uWSGI 2.0 ***\n\n{cause}\n"
                "django-blog-0042.service: Main process exited\nFailed to start Django\n"
            )
        if "enable" in argv:
            raise DeploymentError(f"{doing} failed (exit 1)", log="Job failed. See journalctl")
        return ""

    monkeypatch.setattr(host_commands, "run", run)
    site = make_site()
    release = site.releases / "0042-3f2a9c1b77de"
    (release / "config").mkdir(parents=True)
    with pytest.raises(DeploymentError) as error:
        instances.start(site, release)
    assert str(error.value) == (f"the application server of 0042-3f2a9c1b77de does not start\n  | {cause}\n{hint}")


@pytest.mark.parametrize(
    ("server", "is_there", "expected"),
    [
        ("uwsgi", (), ["socket", "service"]),
        ("granian", (), ["service"]),
        ("mod_wsgi", (), ["service"]),
        ("granian", ("socket", "service"), ["service"]),
        (None, (), ["socket", "service"]),
        (None, ("service",), ["service"]),
        (None, ("socket",), ["socket", "service"]),
    ],
)
def test_server_that_binds_its_socket_has_no_socket_unit(make_site, tmp_path, monkeypatch, server, is_there, expected):
    """`server` is None for a release that is gone, of which units may be there."""
    ran = []
    monkeypatch.setattr(host_commands, "run", lambda argv, **_options: ran.append(argv) or "")
    monkeypatch.setattr(systemd, "UNITS", tmp_path)
    site = make_site()
    release = site.releases / "0042-3f2a9c1b77de"
    if server:
        (release / "config").mkdir(parents=True)
        (release / "config/instance.json").write_text(json.dumps({"address": "/x", "server": server}))
    for suffix in is_there:
        (tmp_path / f"django-blog-0042.{suffix}").touch()
    expected = [f"django-blog-0042.{suffix}" for suffix in expected]
    assert {path.name for path in systemd.MANAGER.installed(site, release)} == {*expected}
    systemd.MANAGER.pause(site, release)
    systemd.MANAGER.stop(site, release)
    assert ran[0][2:] == expected
    if is_there:
        assert ran[1][-len(expected) :] == expected[::-1] and "disable" in ran[1]
    links = [tmp_path / "multi-user.target.wants/django-blog-0042.service"]
    links += [tmp_path / "sockets.target.wants/django-blog-0042.socket"] * (len(expected) - 1)
    monkeypatch.setattr(systemd.MANAGER, "pid", lambda *_: 42)
    monkeypatch.setattr(systemd.MANAGER, "_changed_units", lambda *_: [])
    monkeypatch.setattr(contract, "is_whole", lambda *_: True)
    for link in links:
        assert not systemd.MANAGER.is_kept_alive(site, release)
        link.parent.mkdir()
        link.touch()
    assert systemd.MANAGER.is_kept_alive(site, release)


# Commands


@pytest.fixture(autouse=True)
def tried(monkeypatch):
    """The sandbox was tried since the boot."""
    monkeypatch.setattr(transient, "_known", lambda site: {"refused": []})


@pytest.fixture
def play(monkeypatch):
    """Have a function run all commands: `play(lambda argv, **options: "output")`."""

    def play(run):
        def execute(command):
            fields = (field for field in dataclasses.fields(command) if field.name != "argv")
            given = {field.name: value for field in fields if (value := getattr(command, field.name)) != field.default}
            ended = run(command.argv, **given)
            return ended if isinstance(ended, Ended) else Ended(0, ended, "")

        monkeypatch.setattr(host_commands, "run", run)
        monkeypatch.setattr(host_commands, "execute", execute)

    return play


@pytest.fixture
def deployment(monkeypatch):
    """Have this process hold the lock of each site, as a deployment does."""
    monkeypatch.setattr(locks, "holds", lambda _path: True)


@pytest.mark.usefixtures("deployment")
def test_command_runs_in_transient_unit(monkeypatch, play):
    ran = []
    play(lambda argv, **options: ran.append((argv, options)) or "output")
    monkeypatch.setattr(transient, "_is_loaded", lambda unit: unit == "django-blog-task.service")
    monkeypatch.setattr(transient, "_BUS", Path("/"))
    site = configured(sandbox={"PrivateTmp": False, "ReadWritePaths": ["/srv/a b", "/srv/100%"]}, writable=["logs"])
    options = {"doing": "x", "timeout": 90.0, "stdin": "in", "secrets": ["s"], "writable": [Path("/w")]}
    command = ProjectCommand(
        site, RELEASE, FACTS, ["python", "x y", "$HOME ${A}"], environment_file="/root/x", **options
    )
    assert systemd.MANAGER.run(command) == "output"
    (stop, _), (forget, _), (argv, given) = ran
    assert stop == ["systemctl", "stop", "django-blog-task.service"]
    assert forget == ["systemctl", "reset-failed", "django-blog-task.service"]
    separator = argv.index("--")
    assert argv[separator:] == ["--", "python", "x y", "$$HOME $${A}"]
    assert argv[:6] == [
        *["systemd-run", "--quiet", "--pipe", "--wait", "--service-type=exec"],
        "--unit=django-blog-task.service",
    ]
    properties = [argument.removeprefix("--property=") for argument in argv[6:separator]]
    assert {
        "PrivateTmp=no",
        "ReadWritePaths=/srv/a b",
        "User=blog",
        "EnvironmentFile=/root/x",
        "RuntimeMaxSec=105",
        "TimeoutStopSec=1",
        "KillMode=control-group",
    } <= set(properties)
    assert {"ReadWritePaths=/w", "ReadWritePaths=/srv/100%", "ReadWritePaths=/srv/django/blog/media"} <= set(properties)
    assert given == {"doing": "x", "timeout": 90.0, "stdin": "in", "secrets": ["s"]}


def test_system_bus_is_started_when_it_does_not_run(monkeypatch, tmp_path, play):
    ran = []
    play(lambda argv, **_options: ran.append(argv) or "")
    monkeypatch.setattr(transient, "_is_loaded", lambda unit: False)
    monkeypatch.setattr(transient, "_BUS", tmp_path / "system_bus_socket")
    systemd.MANAGER.run(ProjectCommand(configured(), RELEASE, FACTS, ["x"], doing="x", timeout=1.0))
    assert [argv[:3] for argv in ran] == [["systemctl", "start", "dbus.socket"], ["systemd-run", "--quiet", "--pipe"]]


def test_command_of_weeks_has_a_limit_that_systemd_reads(monkeypatch, play):
    """Systemd knows no exponent: `Failed to parse RuntimeMaxSec=1.03682e+06`."""
    ran = []
    play(lambda argv, **_options: ran.append(argv) or "")
    monkeypatch.setattr(transient, "_is_loaded", lambda unit: False)
    monkeypatch.setattr(transient, "_BUS", Path("/"))
    systemd.MANAGER.run(ProjectCommand(configured(), RELEASE, FACTS, ["x"], doing="x", timeout=12 * 86400.0))
    assert [word for argv in ran for word in argv if "RuntimeMaxSec" in word] == ["--property=RuntimeMaxSec=1036815"]


def test_command_may_write_the_given_folders():
    site = configured(writable=["logs"], writable_packages=["tldextract"])
    named = dict.fromkeys(value for name, value in sandbox.directives(site, RELEASE, FACTS) if name == "ReadWritePaths")
    root = "/srv/django/blog"
    assert list(named) == [f"{root}/{name}" for name in ("database", "media", "shared", "log")] + [
        f"{RELEASE}/source/logs",
        f"-{RELEASE}/packages",
    ]


def test_command_of_a_process_without_the_lock_ends_none_of_a_deployment(monkeypatch, play, make_site):
    """As a page that `django.doctor` asks for while a release migrates."""
    ran = []
    play(lambda argv, **_options: ran.append(argv) or "")
    monkeypatch.setattr(transient, "_is_loaded", lambda unit: True)
    monkeypatch.setattr(transient, "_BUS", Path("/"))
    site = make_site()

    def units_of_a_command():
        ran.clear()
        systemd.MANAGER.run(ProjectCommand(site, RELEASE, FACTS, ["x"], doing="x", timeout=1.0))
        return {
            word.removeprefix("--unit=") for argv in ran for word in argv if "django-blog" in word and "=/" not in word
        }

    assert units_of_a_command() == {f"django-blog-task-{os.getpid()}.service"}
    with site.lock("a test").held():
        assert units_of_a_command() == {"django-blog-task.service"}


@pytest.mark.usefixtures("deployment")
@pytest.mark.parametrize(("task", "stops"), [("task", 2), ("manage-1", 1)])
def test_failed_command_leaves_no_unit(monkeypatch, play, task, stops):
    stopped = []

    def run(argv, **_options):
        if argv[0] == "systemd-run":
            raise KeyboardInterrupt
        stopped.append(argv)

    play(run)
    monkeypatch.setattr(transient, "_is_loaded", lambda unit: True)
    monkeypatch.setattr(transient, "_BUS", Path("/"))
    with pytest.raises(KeyboardInterrupt):
        systemd.MANAGER.run(ProjectCommand(configured(), RELEASE, FACTS, ["x"], doing="x", timeout=1.0, task=task))
    verbs = (["systemctl", verb, f"django-blog-{task}.service"] for verb in ("stop", "reset-failed"))
    assert stopped == [*verbs] * stops


@pytest.mark.parametrize(
    ("code", "shown", "expected"),
    [
        (1, "ExecMainCode=1\nExecMainStatus=0\nExecMainStartTimestampMonotonic={now}\n", 0),
        (1, "ExecMainStatus=0\nExecMainStartTimestampMonotonic={now}\nExecMainCode=1\n", 0),
        (3, "ExecMainCode=1\nExecMainStatus=3\nExecMainStartTimestampMonotonic={now}\n", 3),
        (1, "ExecMainCode=2\nExecMainStatus=15\nExecMainStartTimestampMonotonic={now}\n", 1),
        (226, "ExecMainCode=0\nExecMainStatus=0\nExecMainStartTimestampMonotonic=0\n", 226),
        # The former command's unit was still loaded, so systemd-run did not start this one.
        (1, "ExecMainCode=1\nExecMainStatus=0\nExecMainStartTimestampMonotonic={earlier}\n", 1),
    ],
)
def test_exit_code_is_of_the_command_not_of_systemd_run(monkeypatch, play, caplog, code, shown, expected):
    """Not that of its unit, which fails where the command has left a process behind that does not end."""

    def run(argv, **_options):
        if argv[0] == "systemd-run":
            return Ended(code, "output", "")
        now = int(time.monotonic() * 1e6)
        asked = argv[2].removeprefix("--property=").split(",")
        lines = shown.format(now=now, earlier=now - 1_000_000).splitlines(keepends=True)
        return "".join(line for line in lines if line.partition("=")[0] in asked)

    journal = "Killing process 42 (celery) with signal SIGKILL.\nUnit process 42 (celery) remains running\nx"
    play(run)
    monkeypatch.setattr(transient, "_is_loaded", lambda unit: False)
    monkeypatch.setattr(transient, "_BUS", Path("/"))
    monkeypatch.setattr(systemd.daemons, "journal", lambda name, since: journal)
    command = ProjectCommand(configured(), RELEASE, FACTS, ["x"], doing="starting Django", timeout=1.0)
    if expected:
        with pytest.raises(DeploymentError, match=rf"^starting Django failed \(exit {expected}\)"):
            systemd.MANAGER.run(command)
    else:
        assert systemd.MANAGER.run(command) == "output"
    told = "starting Django left processes behind, which were ended: 42 (celery)"
    assert [record.message for record in caplog.records] == ([told] if expected == 0 else [])


@pytest.mark.parametrize(("looks", "waited"), [(0, 0.0), (3, 0.3), (1000, 10.0)])
def test_server_that_begins_is_not_stopped_until_it_has_begun(make_site, monkeypatch, looks, waited):
    """But no longer than a while: it may never begin."""
    site, ran, clock = make_site(), [], [0.0]
    release = site.releases / "0042-3f2a9c1b77de"
    (release / "config").mkdir(parents=True)
    (systemd.UNITS / "django-blog-0042.service").touch()
    begins = iter([True] * looks)
    monkeypatch.setattr(systemd, "_members", lambda _name: [42])
    monkeypatch.setattr(systemd.MANAGER, "is_starting", lambda *_: next(begins, False))
    monkeypatch.setattr(systemd.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(systemd.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    monkeypatch.setattr(systemd.host_units, "stop", lambda verb, *_options, **_more: ran.append((verb, clock[0])))
    systemd.MANAGER.stop(site, release, wait=False)
    assert ran == [("disable", pytest.approx(waited, abs=0.11))]


@pytest.mark.parametrize("ends", [True, False])
def test_unit_that_ended_meanwhile_counts_as_stopped(monkeypatch, ends):
    loaded = iter([True, not ends])

    def fails(argv, **_options):
        raise DeploymentError("Unit not loaded")

    monkeypatch.setattr(host_commands, "run", fails)
    monkeypatch.setattr(transient, "_is_loaded", lambda unit: next(loaded))
    if ends:
        transient.end("x.service")
    else:
        with pytest.raises(DeploymentError, match="Unit not loaded"):
            transient.end("x.service")


@pytest.mark.parametrize(
    "line",
    [
        "django-blog-0001.service: Failed to locate executable /srv/x/uwsgi: No such file or directory",
        "django-blog-0001.service: Failed at step EXEC spawning /srv/x/uwsgi: No such file or directory",
        "django-blog-0001.service: Failed to determine user credentials: No such process",
        "django-blog-0001.service: Failed to set up mount namespacing: /srv/x: No such file or directory",
        "django-blog-0001.service: Failed to load environment files: No such file or directory",
        "django-blog-0001.service: Main process exited, code=exited, status=217/USER",
    ],
)
def test_journal_keeps_why_systemd_could_not_start_the_server(make_site, monkeypatch, line):
    noise = [
        "Starting django-blog-0001.service - Django site blog, release 0001-3f2a9c1b77de...",
        "django-blog-0001.service: Main process exited, code=exited, status=1/FAILURE",
        "django-blog-0001.service: Failed with result 'exit-code'.",
        "Failed to start django-blog-0001.service - Django site blog, release 0001-3f2a9c1b77de.",
    ]
    monkeypatch.setattr(host_commands, "run", lambda argv, **options: "\n".join([noise[0], line, *noise[1:]]))
    site = make_site()
    assert systemd.MANAGER.journal(site, site.releases / "0001-3f2a9c1b77de", 0) == line


@pytest.mark.parametrize(
    ("exit", "journal", "told"),
    [
        (
            203,
            "django-blog-task.service: Failed at step EXEC spawning /x: No such file",
            "cannot execute the command: Failed at step",
        ),
        (
            217,
            "django-blog-task.service: Main process exited, code=exited, status=217/USER",
            "cannot execute the command: Main proc",
        ),
        (203, "the project's own words", "a task failed (exit 203)"),
        (1, "django-blog-task.service: Failed at step EXEC spawning /x: No such file", "a task failed (exit 1)"),
    ],
)
def test_command_that_systemd_cannot_execute_fails_as_transient(make_site, monkeypatch, play, exit, journal, told):
    def run(argv, **_options):
        if argv[0] == "systemd-run":
            return Ended(exit, "", "")
        return journal if argv[0] == "journalctl" else ""

    play(run)
    monkeypatch.setattr(transient, "_is_loaded", lambda _unit: False)
    site = make_site()
    release = site.releases / "0001-3f2a9c1b77de"
    facts = {"commit": "3f2a", "folder": ".", "settings_module": "blog.settings"}
    with pytest.raises(DeploymentError) as caught:
        systemd.MANAGER.run(ProjectCommand(site, release, facts, ["/x"], doing="a task", timeout=5))
    assert told in caught.value.message and caught.value.transient is ("cannot" in told)
