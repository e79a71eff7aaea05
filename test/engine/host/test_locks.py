"""Locks between processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from django_formula.host import commands, file, locks, proc
from django_formula.host.commands import DeploymentError
from specimen import ROOT


@pytest.fixture(autouse=True)
def own_processes(own_host, monkeypatch):
    """A host whose processes are those that run the tests."""
    monkeypatch.setattr(proc, "PROC", Path("/proc"))


HOLD = """
import sys, time
from pathlib import Path
from django_formula.host.locks import Lock
lock = Lock(Path(sys.argv[1]), "salt job 42", busy="another deployment of blog", timeout="1s", hint="")
lock.take()
if sys.argv[2:]:
    from django_formula.host import commands
    commands.run(["sh", "-c", "echo $$ > " + sys.argv[2] + "; exec sleep 60"], doing="sleeping")
print("held", flush=True)
time.sleep(60)
"""


def holder(lock_file: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Another process that takes the lock."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "engine")}
    argv = [sys.executable, "-c", HOLD, str(lock_file), *arguments]
    return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)


def test_lock_is_exclusive_and_ends_with_its_process(make_site):
    site = make_site(timeouts={"lock": "300ms"})
    with holder(site.lock_file) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        lock = site.lock("salt job 43")
        began = time.monotonic()
        with pytest.raises(DeploymentError) as error:
            lock.take()
        assert 0.3 <= time.monotonic() - began < 20
        expected = rf"another deployment of blog is under way: salt job 42, pid {other.pid}, since \S+Z; waited 300ms"
        assert error.match(expected) and error.value.transient and not commands.locks
        other.send_signal(signal.SIGSTOP)
        with pytest.raises(DeploymentError):
            lock.take()
        other.kill()
    lock.take()
    assert f"salt job 43, pid {os.getpid()}, since" in site.lock_file.read_text()
    lock.take()
    with pytest.raises(DeploymentError, match="salt job 43"):
        site.lock("salt job 44").take()
    lock.release()
    lock.release()
    assert site.lock_file.read_text() == "" and not commands.locks
    after = site.lock("salt job 44")
    after.take()
    after.release()


def test_lock_is_taken_once_its_holder_ends(make_site):
    site = make_site(timeouts={"lock": "5s"})
    with holder(site.lock_file) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -9 {other.pid}"])
        lock = site.lock("next")
        lock.take()
        lock.release()


@pytest.fixture
def meets(monkeypatch):
    """An event: a lock was found to be another's."""
    event, is_taken = threading.Event(), locks._is_taken
    monkeypatch.setattr(locks, "_is_taken", lambda *arguments: is_taken(*arguments) or event.set())
    return event


def test_who_waits_for_a_lock_that_is_removed_takes_the_next_one(make_site, meets):
    """Or a deployment that waited for a removal would run next to one that came after it."""
    site = make_site(timeouts={"lock": "10s"})
    removal, waiting, later = (site.lock(f"salt job {number}") for number in range(3))
    removal.take()
    with ThreadPoolExecutor() as threads:
        taken = threads.submit(waiting.take)
        assert meets.wait(30)
        later.path = site.lock_file.with_name("later")
        later.take()
        later.path = later.path.replace(site.lock_file)  # in one step, or the one that waits may be the first
        removal.release()
        time.sleep(0.3)
        assert not waiting.is_held and site.lock("").holder().startswith("salt job 2")
        later.release()
        taken.result()
    assert site.lock("").holder().startswith("salt job 1")
    waiting.release()


def test_a_lock_whose_folder_is_removed_meanwhile_is_refused(make_site, meets):
    site = make_site(timeouts={"lock": "10s"})
    removal, waiting = site.lock("salt job 1"), site.lock("salt job 2")
    removal.take()
    with ThreadPoolExecutor() as threads:
        taken = threads.submit(waiting.take)
        assert meets.wait(30)
        site.root.rename(site.root.with_name("removed"))  # at once: the other one would make the lock file again
        removal.release()
        message = f"{site.root} was removed while another deployment of blog was waited for"
        with pytest.raises(DeploymentError, match=message):
            taken.result()


def test_lock_ends_with_its_process_while_a_child_runs(make_site, tmp_path):
    site = make_site(timeouts={"lock": "200ms"})
    with holder(site.lock_file, str(tmp_path / "child")) as other:
        deadline = time.monotonic() + 60
        while not (child := file.read_text(tmp_path / "child")) and time.monotonic() < deadline:
            time.sleep(0.02)
        other.kill()
        other.wait()
        lock = site.lock("next")
        lock.take()
        lock.release()
        assert child
        os.kill(int(child), signal.SIGKILL)


def test_lock_that_cannot_be_recorded_is_free_again(make_site, monkeypatch):
    """On a full disk; the process may be a minion's, which runs on."""
    site = make_site(timeouts={"lock": "300ms"})

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            site.lock("first").take()
    assert site.lock("next").holder() == ""
    with site.lock("next").held():
        assert site.lock("another").holder().startswith("next, pid ")


def test_lock_is_released_where_its_record_cannot_be_cleared(make_site, monkeypatch):
    """On a disk that has become read-only; the process may be a minion's, which runs on."""
    site = make_site(timeouts={"lock": "300ms"})
    lock = site.lock("first")
    lock.take()

    def refuse(*_arguments):
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patched:
        patched.setattr(os, "ftruncate", refuse)
        lock.release()
    assert not lock.is_held and site.lock("next").holder() == ""
    with site.lock("next").held():
        assert site.lock("another").holder().startswith("next, pid ")


def test_process_with_the_pid_of_a_killed_holder_is_no_holder(make_site):
    site = make_site()
    with holder(site.lock_file) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        recorded = site.lock_file.read_text()
        assert locks.runs(recorded) and site.lock("").holder() == recorded.partition("\n")[0]
        other.kill()
    assert site.lock_file.read_text() == recorded and not locks.runs(recorded)
    assert not locks.runs(recorded.replace(f"pid {other.pid}", f"pid {os.getpid()}"))
    assert locks.runs(f"salt job 1, pid {os.getpid()}, since 2026-03-01T12:00:00Z\n"), "of a former version"
    assert not locks.runs("")


def test_process_that_does_not_know_the_boot_holds_its_lock(monkeypatch):
    known, unknown = (f"salt job 1, pid {os.getpid()}, since now\n{one}\n" for one in _identities(monkeypatch))
    assert locks.runs(known) and locks.runs(unknown)
    monkeypatch.setattr(proc, "boot_id", lambda: "")
    assert locks.runs(known) and locks.runs(unknown)


def _identities(monkeypatch):
    """What identifies this process, and what it is in a unit with ProcSubset=pid."""
    known = proc.identity(os.getpid())
    with monkeypatch.context() as inside:
        inside.setattr(proc, "boot_id", lambda: "")
        return known, proc.identity(os.getpid())


def test_lock_file_that_is_a_link_is_refused(make_site):
    site = make_site()
    site.lock_file.symlink_to("/dev/null")
    with pytest.raises(OSError, match="symbolic links"):
        site.lock("next").take()


def test_holder_of_a_lock_is_ended(make_site):
    site = make_site(timeouts={"lock": "2s"})
    assert site.lock("next").end_holders() == []
    with holder(site.lock_file) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        lock = site.lock("next")
        assert lock.holder().startswith("salt job 42, pid ") and lock.end_holders() == [other.pid]
        assert other.wait(5) == -signal.SIGTERM
    lock.take()
    lock.release()


def test_holder_of_a_lock_is_killed_after_the_patience(make_site):
    site = make_site()
    with holder(site.lock_file) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        other.send_signal(signal.SIGSTOP)
        assert site.lock("next").end_holders(patience=0.3) == [other.pid]
        assert other.wait(5) in (-signal.SIGKILL, -signal.SIGTERM)  # both are there for it once it goes on
