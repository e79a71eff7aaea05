"""The process that kills what a command of a less trusted user leaves behind."""

import json
import os
import pwd
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
from django_formula.host.commands import Command, execute
from django_formula.untrusted import reaper

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="left out: another identity is taken, which needs root"),
    pytest.mark.slow,  # real processes that race or are waited for
]
NOBODY = pwd.getpwnam("nobody")
#: A process that gets away from its parent, its group, its session and its terminal.
DAEMON = """
import os, signal, sys, time
for number in range(1, 32):
    try: signal.signal(number, signal.SIG_IGN)
    except OSError: pass
def away(depth):
    if depth:
        if os.fork(): os._exit(0)
        os.setsid()
        away(depth - 1)
    for number in range(int(sys.argv[2])):
        if not os.fork(): break
    with open(sys.argv[1], "a") as file: file.write(f"{os.getpid()}\\n")
    time.sleep(600)
if not os.fork(): away(3)
while open(sys.argv[1]).read().count("\\n") <= int(sys.argv[2]): time.sleep(0.01)
"""


def run(argv, **options):
    command = reaper.command(argv, NOBODY.pw_uid, NOBODY.pw_gid, [], "/")
    return execute(Command(command, doing="testing", grace=reaper.PATIENCE, **options))


def alive(numbers):
    """Those processes of them that have not ended."""
    found = []
    for number in numbers:
        try:
            if Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(number)
        except FileNotFoundError:
            pass
    return found


@pytest.fixture
def notes(open_folder):
    path = open_folder / "notes"
    path.touch()
    path.chmod(0o666)
    return path


def test_command_has_identity_and_exit_code():
    ended = run(["sh", "-c", "id -u; id -G; grep -h NoNewPrivs /proc/self/status; ls -l /proc/self/fd | wc -l; exit 7"])
    uid, gid, privileges, descriptors = ended.printed.splitlines()
    assert (ended.code, uid, gid) == (7, str(NOBODY.pw_uid), str(NOBODY.pw_gid))
    assert privileges.split() == ["NoNewPrivs:", "1"] and int(descriptors) == 5
    assert run(["sh", "-c", "kill -9 $$"]).code == 137
    missing = run(["/no/program"])
    assert (missing.code, missing.errors) == (127, "/no/program cannot be started in /: No such file or directory\n")


def test_program_of_a_scheduled_task_has_it_in_its_archive(tmp_path):
    """No file of the archive can be run by its path."""
    archive = tmp_path / "task.pyz"
    call = f"command(['/usr/bin/id', '-un'], {NOBODY.pw_uid}, {NOBODY.pw_gid}, [], '/')"
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("reaper.py", Path(reaper.__file__).read_text())
        members.writestr("__main__.py", f"import json, reaper; print(json.dumps(reaper.{call}))")
    made = subprocess.run(["/usr/bin/python3", "-I", archive], capture_output=True, text=True, check=True)
    done = subprocess.run(json.loads(made.stdout), capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("nobody\n", 0), done.stderr


@pytest.mark.parametrize("children", [0, 20])
def test_daemons_of_a_command_are_killed(notes, children):
    ended = run(["python3", "-c", DAEMON, str(notes), str(children)], timeout=20)
    numbers = notes.read_text().split()
    assert ended.code == 0 and len(numbers) == children + 1 and alive(numbers) == []
    assert ended.errors.startswith("ended processes that it left behind: python3 (pid ")


def test_command_is_killed_with_its_daemons_on_timeout(notes):
    began = time.monotonic()
    argv = ["sh", "-c", f"trap '' TERM; python3 -c '{DAEMON}' {notes} 3; sleep 600"]
    assert run(argv, timeout=4).code is None
    assert time.monotonic() - began < 60
    assert len(notes.read_text().split()) == 4 and alive(notes.read_text().split()) == []


def test_processes_are_killed_with_the_parent_under_its_lock(notes, tmp_path):
    script = f"trap '' TERM; ls -l /proc/self/fd >&2; python3 -c '{DAEMON}' {notes} 2; sleep 600"
    program = f"""
import sys; sys.path.insert(0, {str(Path(reaper.__file__).parent)!r})
import fcntl, os, subprocess, reaper
lock = os.open({str(tmp_path / "lock")!r}, os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
argv = ["sh", "-c", {script!r}]
subprocess.Popen(reaper.command(argv, {NOBODY.pw_uid}, {NOBODY.pw_gid}, [], "/"), pass_fds=[lock],
                 stderr=open({str(tmp_path / "errors")!r}, "w")).wait()
"""
    parent = subprocess.Popen(["/usr/bin/python3", "-c", program])
    deadline = time.monotonic() + 60
    while len(notes.read_text().split()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    numbers = notes.read_text().split()
    assert len(numbers) == 3 and alive(numbers) == numbers
    assert "lock" not in (tmp_path / "errors").read_text()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    began = time.monotonic()
    with open(tmp_path / "lock") as lock:
        subprocess.run(["flock", "--timeout", "60", str(lock.fileno())], pass_fds=[lock.fileno()], check=True)
    assert time.monotonic() - began < 60 and alive(numbers) == []
