"""supervisor as process manager: its programs, the process of a release, starting, logs and commands."""

import contextlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from django_formula.deploy import removal
from django_formula.host import commands, daemons
from django_formula.host import users as host_users
from django_formula.host.commands import DeploymentError
from django_formula.process import contract, systemd
from django_formula.process import supervisor as process_supervisor
from django_formula.process.command import ProjectCommand
from django_formula.process.supervisor import Program
from django_formula.release import instances
from django_formula.server import uwsgi
from django_formula.site import sites
from django_formula.untrusted import delegate, reaper
from django_formula.verbs import operations
from specimen import FACTS, formula_templates
from world import commit

NAME = "django-blog-0042"


@pytest.fixture
def supervised(world):
    """A host in miniature on which supervisor keeps the releases."""
    world.process = "supervisor"
    return world


# Releases


def test_first_release_is_activated_and_second_apply_changes_nothing(supervised):
    changes = supervised.apply()
    assert changes["instance"] == {"instance": "django-blog-0001 started"}
    (warning,) = supervised.last.warnings
    assert warning.startswith("supervisor has no sandbox")
    supervised.check()
    assert not {"systemd-run", "journalctl"} & {argv[0] for argv in supervised.commands}
    assert supervised.apply() == {} and supervised.last.warnings == []


def test_previous_release_is_stopped_and_started_again_by_rollback(supervised):
    supervised.apply()
    supervised.push("two")
    supervised.commands.clear()
    supervised.apply()
    supervised.check()
    told = [argv[1:] for argv in supervised.commands if argv[0] == "supervisorctl"]
    assert told == [["update", "django-blog-0002"], ["update", "django-blog-0001"]]
    operations.rollback("blog")
    assert supervised.live.startswith("0001")
    supervised.check()
    assert supervised.apply() == {}


def test_change_of_process_manager_is_a_release_and_each_manager_has_its_own_files(world):
    world.apply()
    for process in ("supervisor", "systemd"):
        world.process = process
        assert "process" in world.apply()["source"]["changed"]
        world.check()
        assert world.apply() == {}
    assert world.live.startswith("0003")
    operations.rollback("blog")
    assert world.running == {"django-blog-0002.conf"}
    world.check()
    operations.rollback("blog")
    world.check()
    assert world.running == {"django-blog-0001.service", "django-blog-0001.socket"}


def test_previous_release_serves_when_server_does_not_start(supervised):
    supervised.apply()
    supervised.push("two")
    supervised.fails["update django-blog-0002"] = DeploymentError(
        "starting django-blog-0002 failed (exit 1)", log="why"
    )
    with pytest.raises(DeploymentError) as error:
        supervised.apply()
    assert error.value.message == f"instance: the application server of 0002-{commit('two')[:12]} does not start"
    assert error.value.log == "why"
    assert error.value.hint.splitlines()[0] == f"read the whole log: {supervised.site.log.top}/0002.log"
    supervised.fails.clear()
    assert supervised.live.startswith("0001")
    supervised.check()


@pytest.mark.parametrize("process", ["systemd", "supervisor"])
def test_site_is_removed_with_either_process_manager(world, process):
    for one in ("systemd", "supervisor"):
        world.process = one
        world.apply()
    world.process = process
    world.options = {"state": "absent"}
    site = world.site
    assert str(process_supervisor.PROGRAMS / "django-blog-0002.conf") in removal.present(site)
    removal.remove(site, "a test")
    assert world.running == set() and removal.present(site) == {}


def test_unrecorded_process_manager_is_found_by_its_files(make_site):
    site = make_site(process="supervisor")
    release = site.releases / "0042-3f2a9c1b77de"
    (release / "config").mkdir(parents=True)
    assert instances.process_manager(site, release) is process_supervisor.MANAGER
    (systemd.UNITS / f"{NAME}.service").write_text("")
    assert instances.process_manager(site, release) is systemd.MANAGER
    (systemd.UNITS / f"{NAME}.service").unlink()
    (release / "config/instance.json").write_text('{"address": "/x", "protocol": "uwsgi"}')
    assert instances.process_manager(site, release) is systemd.MANAGER
    old = sites.Site({key: value for key, value in site.config.items() if key != "process"}, site.platform)
    assert old.process == "systemd"


def test_files_of_a_site_exclude_programs_of_other_sites(make_site):
    names = ("django-blog-0042", "django-blog-0007", "django-blog-two-0001", "django-blog-x", "other")
    for name in names:
        (process_supervisor.PROGRAMS / f"{name}.conf").write_text("")
    site = make_site(process="supervisor")
    assert process_supervisor.MANAGER.enabled(site) == set(names[:2])
    assert [path.name for path in instances.strays(site, site.releases / "0042-3f2a9c1b77de")] == ["0007-gone"]


# Starting


@pytest.fixture
def release(make_site, own_host, monkeypatch):
    """A release to start. `commands` are only recorded; `plays` has what each of them does."""
    site = make_site(process="supervisor", timeouts={"start": "200ms"})
    path = site.releases / "0042-3f2a9c1b77de"
    (path / "config").mkdir(parents=True)
    (path / f"config/{NAME}.conf").write_text("[program]")
    made = SimpleNamespace(site=site, path=path, run=site.run / "0042", proc=own_host / "proc")
    made.commands, made.plays, made.supervisor, made.program = [], {}, 7, None
    made.starts = own_host / "run" / f"{NAME}.starts"
    (own_host / "run/supervisord.pid").touch()
    os.utime(own_host / "run/supervisord.pid", (0, 0))

    def run(argv, **options):
        made.commands.append(argv)
        return made.plays.get(argv[1], lambda: "")()

    def process():
        """The server's own process."""
        made.run.mkdir(parents=True, exist_ok=True)
        (made.run / "ready").touch()
        made.program = Program(42, 100.0, "RUNNING")
        return "updated"

    def start_daemon(daemon):
        made.commands.append([daemon.service])
        made.supervisor = 7

    made.process = process
    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(daemons, "pid", lambda daemon: made.supervisor)
    monkeypatch.setattr(daemons, "start", start_daemon)
    monkeypatch.setattr(process_supervisor, "_program", lambda name: made.program if made.supervisor else None)
    return made


def test_start_updates_only_its_own_program(release):
    release.plays["update"] = release.process
    release.supervisor = None
    process_supervisor.MANAGER.start(release.site, release.path)
    assert release.commands == [["supervisor"], ["supervisorctl", "update", NAME]]
    assert (process_supervisor.PROGRAMS / f"{NAME}.conf").read_text() == "[program]"
    assert process_supervisor.MANAGER.is_kept_alive(release.site, release.path)
    (process_supervisor.PROGRAMS / f"{NAME}.conf").write_text("[other]")
    assert not process_supervisor.MANAGER.is_kept_alive(release.site, release.path)


def test_way_to_start_is_one_that_supervisor_can_go(release):
    def way():
        return process_supervisor.MANAGER.way_to_start(release.site, release.path)

    assert way() == f"supervisorctl update {NAME}"  # which is in no list of supervisor's
    release.program = Program(None, 100.0, "STOPPED")
    assert way() == f"supervisorctl restart {NAME}"
    release.supervisor = None
    assert way() == "service supervisor start"


def test_stopped_program_is_started_again(release):
    (process_supervisor.PROGRAMS / f"{NAME}.conf").write_text("[program]")
    installed = []

    def update():
        installed.append(bool(process_supervisor.MANAGER.files(release.site)))
        return release.process() if installed[-1] else ""

    release.plays["update"] = update
    process_supervisor.MANAGER.start(release.site, release.path)
    assert installed == [False, True]


def test_running_server_is_not_restarted(release):
    release.process()
    (process_supervisor.PROGRAMS / f"{NAME}.conf").write_text("[program]")
    process_supervisor.MANAGER.start(release.site, release.path)
    assert release.commands == [] and release.run.exists()


def test_server_is_restarted_when_its_program_was_edited(release):
    release.process()
    (release.run / "kept").write_text("")
    release.starts.write_text("\n\n")
    (process_supervisor.PROGRAMS / f"{NAME}.conf").write_text("[edited]")
    release.plays["update"] = lambda: release.process() if process_supervisor.MANAGER.files(release.site) else ""
    process_supervisor.MANAGER.start(release.site, release.path)
    assert [argv[1] for argv in release.commands] == ["update", "update"] and not (release.run / "kept").exists()
    assert process_supervisor.MANAGER.is_kept_alive(release.site, release.path)


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        ("\n\n", "it exits as soon as it is started"),
        ("\n", "it did not become ready within 200ms: the server did not report that it is ready"),
        ("", f"it did not become ready within 200ms: supervisor runs no process of {NAME}"),
    ],
)
def test_start_fails_when_server_does_not_become_ready(release, starts, message):
    def begin():
        release.starts.write_text(starts)
        release.program = Program(42 if starts else None, 1.0, "RUNNING")
        return "updated"

    release.plays["update"] = begin
    with pytest.raises(DeploymentError) as error:
        instances.start(release.site, release.path)
    assert error.value.message == f"the application server of {release.path.name} does not start: {message}"
    assert process_supervisor.MANAGER.files(release.site) == []
    assert not release.run.exists() and not release.starts.exists()


def test_ready_file_of_earlier_start_is_ignored(release):
    release.run.mkdir(parents=True)
    (release.run / "ready").touch()
    release.starts.write_text("\n\n")
    release.plays["update"] = release.process
    process_supervisor.MANAGER.start(release.site, release.path)
    assert not release.starts.exists()


@pytest.fixture
def restarted(release, own_host):
    """The release on a host that has just started: its program is known, supervisor runs for `age` seconds."""
    (process_supervisor.PROGRAMS / f"{NAME}.conf").write_text("[program]")
    release.starts.write_text("\n")

    def restarted(age: float) -> None:
        (own_host / "run/supervisord.pid").touch()
        os.utime(own_host / "run/supervisord.pid", (time.time() - age,) * 2)

    return restarted


def begin(release, age):
    """Have supervisor begin the program, which is not the server yet."""
    release.program = Program(41, age, "RUNNING")
    release.run.mkdir(parents=True, exist_ok=True)


@pytest.fixture
def clock(monkeypatch):
    """What is done at each of the coming sleeps, which take no time; how long all have taken."""
    clock = SimpleNamespace(does=lambda: None, now=0.0)

    def sleep(duration):
        clock.now += duration
        clock.does()

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


@pytest.mark.parametrize(("age", "begun"), [(0, None), (0, 0.0), (60, 0.0), (60, 1.0)])
def test_program_that_supervisor_is_starting_is_waited_for(release, restarted, clock, age, begun):
    restarted(age)
    if begun is not None:
        begin(release, begun)
    clock.does = release.process
    assert process_supervisor.MANAGER.is_kept_alive(release.site, release.path)
    assert release.commands == [] and clock.now > 0


@pytest.mark.parametrize(
    ("age", "begun", "starts", "waits"),
    [(60, None, 1, 0), (60, 5.0, 1, 0), (60, 0.0, 3, 0.05), (60, 0.0, 2, 0.25), (0, None, 1, 0.25)],
    ids=["stopped", "its time is up", "it crashes", "it hangs", "it is not begun"],
)
def test_wait_ends_when_supervisor_does_not_start_the_program(release, restarted, clock, age, begun, starts, waits):
    restarted(age)
    if begun is not None:
        begin(release, begun)
    clock.does = lambda: release.starts.write_text("\n" * starts)
    assert not process_supervisor.MANAGER.is_kept_alive(release.site, release.path)
    assert clock.now == pytest.approx(waits)


def test_no_wait_when_supervisor_does_not_run(release, restarted, clock):
    restarted(0)
    release.supervisor = None
    assert not process_supervisor.MANAGER.is_kept_alive(release.site, release.path)
    assert clock.now == 0


def test_start_is_counted_when_program_fails_as_root(make_site, tmp_path, monkeypatch):
    """The lines that root runs: the second start is counted, so that the wait for the server ends."""
    monkeypatch.setattr(uwsgi, "_binary", lambda virtualenv: Path("/x"))
    site = make_site(process="supervisor")
    files = instances.configuration(site, site.releases / "0042-3f2a9c1b77de", FACTS, formula_templates())
    (tmp_path / "bin").mkdir()
    for name, does in (("install", "echo 'install: invalid user' >&2; exit 1"), ("sleep", "exit 0")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    script = files["supervisor.sh"].replace("starts=/run/", f"starts={tmp_path}/run/")
    for starts in (1, 2):
        done = subprocess.run(
            ["/bin/sh", "-c", script], env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and done.stderr == "install: invalid user\n"
        assert (tmp_path / "run" / f"{NAME}.starts").stat().st_size == starts


@pytest.mark.parametrize("is_there", [True, False])
def test_program_makes_missing_folder_of_its_log(make_site, tmp_path, monkeypatch, is_there):
    """What is run as root, up to the change of the user."""
    monkeypatch.setattr(uwsgi, "_binary", lambda virtualenv: Path("/x"))
    site = make_site(process="supervisor")
    files = instances.configuration(site, site.releases / "0042-3f2a9c1b77de", FACTS, formula_templates())
    for folder in (tmp_path / "bin", tmp_path / "run"):
        folder.mkdir(exist_ok=True)
    if not is_there:
        site.log.top.rmdir()
    for name, does in (("install", 'echo "$@"'), ("sleep", "exit 0")):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    script = files["supervisor.sh"].replace("starts=/run/", f"starts={tmp_path}/run/")
    done = subprocess.run(
        ["/bin/sh", "-c", script], env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True, check=False
    )
    made = f"-d -o blog -g adm -m 0750 {site.log.top}"
    assert (made in done.stdout.splitlines()) is not is_there, done.stdout


@pytest.mark.parametrize("lost", ["the socket", "the folder", "the mark"])
def test_server_is_restarted_when_its_files_in_run_were_deleted(release, restarted, monkeypatch, lost):
    restarted(60)
    release.process()
    monkeypatch.setattr(release.site, "config", {**release.site.config, "timeouts": {"start": "30s"}})
    assert process_supervisor.MANAGER.is_kept_alive(release.site, release.path)
    if lost == "the socket":
        (release.path / "config/instance.json").write_text(json.dumps({"address": f"{release.site.runtime}/0042.sock"}))
    elif lost == "the folder":
        shutil.rmtree(release.run)
    else:
        (release.run / "ready").unlink()
    assert not process_supervisor.MANAGER.is_kept_alive(release.site, release.path)


@pytest.mark.parametrize("verb", ["start", "stop"])
def test_server_that_outlived_supervisor_is_ended(release, monkeypatch, verb):
    """By its own user, whose pid file and environment are its own word."""
    asked = []
    monkeypatch.setattr(host_users, "find_user", lambda name: SimpleNamespace(pw_uid=1))
    monkeypatch.setattr(delegate, "ask", lambda user, function, *arguments, **_: asked.append((user, arguments)))
    release.run.mkdir(parents=True)
    (release.run / "pid").write_text("42")
    release.plays["update"] = lambda: release.process() if process_supervisor.MANAGER.files(release.site) else ""
    (process_supervisor.PROGRAMS / f"{NAME}.conf").write_text("[program]")
    getattr(process_supervisor.MANAGER, verb)(release.site, release.path)
    assert asked == [("blog", (str(release.run), release.path.name))]


def test_server_that_outlived_supervisor_and_hangs_is_ended_by_force(supervised):
    """Supervisor ends its own so; else the next server would wait for that one for ever."""
    supervised.apply()
    site = supervised.site
    release = site.releases / supervised.live
    script = re.sub(r"-lt \d+", "-lt 5", (release / "config/supervisor.sh").read_text())
    script = re.sub(r"(?m)^exec (?!>>).*", "exec true", script.partition("\nset -a\n")[0] + "\nexec true\n")
    run = contract.run_folder(site, release)
    run.mkdir(parents=True, exist_ok=True)
    hung = subprocess.Popen(
        ["/bin/sh", "-c", 'trap "" TERM; echo; exec sleep 60'],
        env={"DJANGO_RELEASE": release.name},
        stdout=subprocess.PIPE,
    )
    assert hung.stdout and hung.stdout.readline()
    (run / "pid").write_text(f"{hung.pid}\n")
    ending = threading.Thread(target=hung.wait, daemon=True)
    ending.start()
    try:
        subprocess.run(["/bin/sh", "-c", script, "supervisor.sh", f"as {site.user}"], check=True, timeout=15)
        ending.join(5)
        assert hung.returncode == -signal.SIGKILL
    finally:
        hung.kill()


@pytest.mark.parametrize(
    ("release_of_it", "pid_file", "is_ended"),
    [("0042-x", "{}", True), ("0041-x", "{}", False), ("0042-x", "none", False), ("0042-x", None, False)],
)
def test_process_of_pid_file_is_ended_only_when_of_the_release(tmp_path, release_of_it, pid_file, is_ended):
    process = subprocess.Popen(["sleep", "60"], env={"DJANGO_RELEASE": release_of_it})
    while not Path(f"/proc/{process.pid}/environ").read_bytes():  # Popen returns before exec has set it
        time.sleep(0.01)
    if pid_file is None:
        os.mkfifo(tmp_path / "pid")
    else:
        (tmp_path / "pid").write_text(pid_file.format(process.pid))
    waiting = threading.Thread(target=process.wait, daemon=True)
    waiting.start()
    process_supervisor._end(str(tmp_path), "0042-x")
    waiting.join(5 if is_ended else 0)
    assert process.poll() == (-signal.SIGTERM if is_ended else None)
    process.kill()


ANSWER = """\
<?xml version='1.0'?><methodResponse><params><param><value><struct>
<member><name>name</name><value><string>django-blog-0042</string></value></member>
<member><name>start</name><value><int>1000</int></value></member>
<member><name>now</name><value><int>1007</int></value></member>
<member><name>statename</name><value><string>{state}</string></value></member>
<member><name>description</name><value><string>pid 7, uptime 0:00:07</string></value></member>
<member><name>pid</name><value><int>{pid}</int></value></member>
</struct></value></param></params></methodResponse>
"""
FAULT = "<methodResponse><fault><value><struct><member><name>faultString</name></member></struct></value></fault>"


@pytest.fixture
def supervisord(own_host, monkeypatch):
    """A supervisor that gives these answers; what it was asked."""
    monkeypatch.setattr(daemons, "pid", lambda daemon: 7)
    folder = Path(tempfile.mkdtemp(prefix="df-"))
    monkeypatch.setattr(daemons, "RUN", folder)
    made = SimpleNamespace(answers=[], asked=[])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "supervisor.sock"))
        listener.listen()

        def serve():
            for answer in made.answers:
                connection, _address = listener.accept()
                with connection:
                    made.asked.append(connection.recv(65536).decode())
                    connection.sendall(f"HTTP/1.0 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n{answer}".encode())

        made.serve = lambda *answers: (
            made.answers.extend(answers),
            threading.Thread(target=serve, daemon=True).start(),
        )
        yield made
    shutil.rmtree(folder)


def test_pid_is_what_supervisor_reports(supervisord, make_site):
    site = make_site(process="supervisor")
    path = site.releases / "0042-3f2a9c1b77de"
    supervisord.serve(ANSWER.format(state="RUNNING", pid=42), ANSWER.format(state="BACKOFF", pid=0), FAULT)
    assert process_supervisor._program(NAME) == (42, 7.0, "RUNNING")
    assert process_supervisor._program(NAME) == (None, 7.0, "BACKOFF")
    assert process_supervisor.MANAGER.pid(site, path) is None
    assert "supervisor.getProcessInfo" in supervisord.asked[0] and f"<string>{NAME}</string>" in supervisord.asked[0]


@pytest.mark.parametrize(("printed", "expected"), [("42\n", 42), ("0\n", None), ("No such process\n", None)])
def test_supervisorctl_is_used_when_socket_is_elsewhere(make_site, monkeypatch, printed, expected):
    site = make_site(process="supervisor")
    monkeypatch.setattr(daemons, "pid", lambda daemon: 7)
    monkeypatch.setattr(commands, "run", lambda argv, **_options: printed)
    assert process_supervisor.MANAGER.pid(site, site.releases / "0042-3f2a9c1b77de") == expected


@pytest.mark.parametrize("supervisor", [7, None])
def test_stopped_release_leaves_no_program_and_no_files_in_run(release, supervisor):
    (process_supervisor.PROGRAMS / f"{NAME}.conf").write_text("[program]")
    release.run.mkdir(parents=True)
    release.supervisor = supervisor
    process_supervisor.MANAGER.stop(release.site, release.path)
    assert release.commands == ([["supervisorctl", "update", NAME]] if supervisor else [])
    assert not release.run.exists() and process_supervisor.MANAGER.files(release.site) == []
    process_supervisor.MANAGER.stop(release.site, release.path)
    assert len(release.commands) <= 1


# Logs


def test_logs_of_deleted_releases_are_deleted(release):
    log = release.site.log.top
    for name in ("0041.log", "0041.log.1", "0042.log", "0042.log.1", "django.log", "0041.log.old"):
        (log / name).write_text("")
    (log / "0040.log").mkdir()
    release.plays["update"] = release.process
    process_supervisor.MANAGER.start(release.site, release.path)
    assert {path.name for path in log.iterdir()} == {"0040.log", "0042.log", "0042.log.1", "django.log", "0041.log.old"}


@pytest.mark.parametrize(
    ("before", "now", "lines", "expected"),
    [
        (None, None, 3, ""),
        (None, "a\nb\n", 3, "a\nb"),
        ("a\nb\n", "c\n", 2, "b\nc"),
        ("a\n", "b\nc\nd\n", 2, "c\nd"),
    ],
)
def test_log_returns_last_lines_of_both_files(make_site, monkeypatch, before, now, lines, expected):
    site, run, users = make_site(process="supervisor"), commands.run, []
    monkeypatch.setattr(commands, "run", lambda argv, user, **options: (users.append(user), run(argv, **options))[1])
    for name, text in (("0042.log.1", before), ("0042.log", now)):
        if text is not None:
            (site.log.top / name).write_text(text)
    assert process_supervisor.MANAGER.log(site, site.releases / "0042-3f2a9c1b77de", lines) == expected
    assert set(users) <= {"blog"}


def test_journal_falls_back_to_output_before_the_log(release):
    log = release.site.log.top / "0042.log"
    began = 1000.0
    assert process_supervisor.MANAGER.journal(release.site, release.path, began) == ""
    (process_supervisor.OUTPUT / f"{NAME}.log").write_text("install: invalid user\n")
    assert process_supervisor.MANAGER.journal(release.site, release.path, began) == "install: invalid user"
    log.write_text("")
    release.plays["--quiet"] = lambda: "*** Starting uWSGI ***\nKeyError: x\n2026-11-20T11:36:00+0000 *** no app ***\n"
    assert process_supervisor.MANAGER.journal(release.site, release.path, began) == "KeyError: x"
    os.utime(log, (0, 0))
    assert process_supervisor.MANAGER.journal(release.site, release.path, began) == "install: invalid user"
    os.utime(process_supervisor.OUTPUT / f"{NAME}.log", (0, 0))
    assert process_supervisor.MANAGER.journal(release.site, release.path, began) == ""
    process_supervisor.MANAGER.remove(release.site, release.path)
    assert not (process_supervisor.OUTPUT / f"{NAME}.log").exists()


# Commands


def test_command_runs_as_user_in_environment_without_secret_arguments(make_site, monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(
        commands,
        "run",
        lambda argv, **options: ran.append((argv, options)) or "output more",
    )
    monkeypatch.setattr(commands, "locks", {9})
    monkeypatch.setattr(host_users, "find_user", lambda name: SimpleNamespace(pw_dir="/home/blog", pw_gid=1001))
    monkeypatch.setattr(host_users, "user_id", lambda name: 1000)
    monkeypatch.setattr(os, "getgrouplist", lambda name, group: [group, 4])
    site = make_site(process="supervisor")
    path = site.releases / "0042-3f2a9c1b77de"
    (path / "config").mkdir(parents=True)
    (path / "config/environment").write_text('A="a"\nPATH="/venv/bin"\n')
    (site.secrets / "environment").write_text('KEY="hunter2"\n')
    (tmp_path / "more").write_text("B=b\n")
    options = {
        "doing": "x",
        "timeout": 5.0,
        "stdin": "in",
        "secrets": ["hunter2"],
        "errors_too": True,
        "only_the_end": True,
    }
    more = {"environment_file": str(tmp_path / "more"), "task": "manage-1", "writable": [path]}
    command = ProjectCommand(site, path, FACTS, ["python", "x y"], **options, **more)
    assert process_supervisor.MANAGER.run(command) == "output more"
    ((argv, given),) = ran
    assert argv == reaper.command(["python", "x y"], 1000, 1001, [1001, 4], f"{path}/source")
    variables = {"A": "a", "B": "b", "KEY": "hunter2", "PATH": "/venv/bin"}
    variables |= {"HOME": "/home/blog", "USER": "blog", "LOGNAME": "blog"}
    bounds = {"umask": 0o027, "descriptors": {9}, "grace": reaper.PATIENCE}
    assert given == {**options, "environment": variables, **bounds}


@pytest.fixture
def tmp_path(open_folder):
    """The host's folder, which another user enters."""
    return open_folder


def test_command_leaves_no_process_and_inherits_no_lock(make_site, monkeypatch, tmp_path):
    if os.getuid():
        pytest.skip("needs root")
    monkeypatch.setattr(host_users, "user_id", lambda name: 65534)
    monkeypatch.setattr(host_users, "find_user", lambda name: pwd.getpwnam("nobody"))
    site = make_site(process="supervisor")
    path = site.releases / "0042-3f2a9c1b77de"
    for folder in ("config", "source"):
        (path / folder).mkdir(parents=True)
    for folder in [path, *path.parents]:
        if folder.stat().st_uid == os.getuid() and not folder.stat().st_mode & 1:
            folder.chmod(folder.stat().st_mode | 0o711)
    (path / "config/environment").write_text('PATH="/usr/bin:/bin"\n')
    (site.secrets / "environment").write_text("")
    lock = site.lock("a test")
    lock.take()
    told = "setsid sleep 4711 >/dev/null 2>&1 & id -u; ls -l /proc/self/fd | grep -c lock"
    command = ProjectCommand(site, path, FACTS, ["sh", "-c", f"{told}; true"], doing="x", timeout=20)
    printed = process_supervisor.MANAGER.run(command)
    lock.release()
    assert printed.split() == ["65534", "0"]
    assert b"4711" not in b"".join(line for _number, line in running())


def running():
    """The processes of this machine."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            yield process.name, (process / "cmdline").read_bytes()


def test_files_of_program_contain_no_secret(make_site, monkeypatch):
    monkeypatch.setattr(uwsgi, "_binary", lambda virtualenv: Path("/x"))
    site = make_site(process="supervisor", secrets={"KEY": "hunter2hunter2"}, environment={"NAME": "ray"})
    files = instances.configuration(site, site.releases / "0042-3f2a9c1b77de", FACTS, formula_templates())
    assert not [name for name, text in files.items() if "hunter2" in text or "ray" in text]
    assert contract.unit(site, site.releases / "0042-3f2a9c1b77de") == NAME
