"""Programs of supervisor in a takeover: what they have in hand ends, and supervisor does not start them again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.takeover import supervisor as takeover_supervisor
from django_formula.takeover.supervisor import Ending

#: A worker that has a task in hand when it is signalled.
WORKER = """
import os, signal, sys, time
def end(*_given):
    time.sleep(0.5)
    os.write(1, b"done\\n")  # print may be interrupted by the signal while it writes
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
os.write(1, b"begun\\n")
time.sleep(60)
"""


class Supervisor:
    """What supervisorctl does: a program that is stopped is killed at once, as with a short `stopwaitsecs`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.calls: list[tuple[str, ...]] = []
        self.refuses = 0
        self.is_removed = False
        self.process = subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout and self.process.stdout.readline() == "begun\n"
        self.status = f"shop:shop_00   RUNNING   pid {self.process.pid}, uptime 0:10:00\n"
        monkeypatch.setattr(commands, "run", self.run)

    def run(self, argv: list[str], **_given: object) -> str:
        _program, verb, *arguments = argv
        self.calls.append((verb, *arguments))
        if verb == "status" and not {"STOPPED", "FATAL"}.isdisjoint(self.status.split()):
            raise DeploymentError("stopping shop failed (exit 3)", log=self.status)
        if verb == "status":
            return self.status
        if verb == "signal":
            os.kill(self.process.pid, getattr(signal, f"SIG{arguments[0]}"))
        if verb == "stop" and self.process.poll() is None:
            self.process.kill()
        elif verb == "stop":
            raise DeploymentError("stopping shop failed (exit 1)", log="shop:shop_00: ERROR (not running)")
        if verb == "remove" and self.refuses:
            self.refuses -= 1
            raise DeploymentError("stopping shop failed (exit 1)", log="ERROR: process/group still running: shop")
        if verb == "add" and not self.is_removed:
            raise DeploymentError("starting shop failed (exit 1)", log="ERROR: process group already active")
        self.is_removed = verb == "remove" or (self.is_removed and verb != "add")
        return ""


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch):
    made = Supervisor(monkeypatch)
    yield made
    made.process.kill()
    made.process.communicate()


def test_program_ends_its_task_and_is_removed(supervisor):
    supervisor.refuses = 1  # supervisor has just started it again
    Ending("shop", "TERM", 60).join()
    assert supervisor.process.stdout.read() == "done\n" and supervisor.process.wait() == 0
    verbs = [call[0] for call in supervisor.calls]
    assert verbs == ["status", "signal", "stop", "remove", "stop", "remove"]
    assert supervisor.calls[1] == ("signal", "TERM", "shop:*")


def test_program_that_does_not_end_is_stopped(supervisor):
    Ending("shop", "WINCH", 0.2).join()
    assert supervisor.process.wait() == -signal.SIGKILL
    assert supervisor.calls[-1] == ("remove", "shop")


@pytest.mark.slow
@pytest.mark.parametrize("refuses", [0, 1000], ids=["removed", "not removed"])
def test_program_that_ran_is_started_again(supervisor, monkeypatch: pytest.MonkeyPatch, refuses: int):
    monkeypatch.setattr(takeover_supervisor, "_AGAIN", 0.1)
    supervisor.refuses = refuses
    Ending("shop", "TERM", 60).start_again()
    assert supervisor.is_removed is False
    assert supervisor.calls[-2:] == [("add", "shop"), ("start", "shop:*")]


def test_program_that_did_not_run_is_not_started(supervisor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(supervisor, "status", "shop:shop_00   STOPPED   Nov 22 09:11 AM\n")
    Ending("shop", "TERM", 60).start_again()
    assert supervisor.calls[-1] == ("add", "shop")


def test_processes_of_a_program_that_run_are_waited_for_where_others_do_not(supervisor):
    supervisor.status += "shop:shop_01   FATAL     Exited too quickly (process log may have details)\n"
    Ending("shop", "TERM", 60).join()
    assert supervisor.process.stdout.read() == "done\n" and supervisor.process.wait() == 0


@pytest.mark.parametrize(
    "answer", ["no such file", "ERROR: no such process/group: shop", "shop: ERROR (no such group)"]
)
def test_program_that_is_not_there_needs_no_stop(monkeypatch: pytest.MonkeyPatch, answer: str):
    def run(*_given: object, **_more: object) -> str:
        raise DeploymentError("stopping shop failed (exit 1)", log=answer)

    monkeypatch.setattr(commands, "run", run)
    takeover_supervisor.stop("shop")


def test_program_of_a_supervisor_that_was_removed_needs_no_stop(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Its file stays in /etc."""
    monkeypatch.setattr(commands, "PATH", str(tmp_path))
    Ending("shop", "TERM", 60).join()
    takeover_supervisor.stop("shop")


def test_other_failures_of_supervisor_are_reported(monkeypatch: pytest.MonkeyPatch):
    def run(*_given: object, **_more: object) -> str:
        raise DeploymentError("stopping shop failed (exit 1)", log="error: <class 'xmlrpc.client.Fault'>")

    monkeypatch.setattr(commands, "run", run)
    with pytest.raises(DeploymentError):
        takeover_supervisor.stop("shop")
