"""The program that runs a command of a project as a worker."""

from typing import Any

import pytest
from background import Lab, Worker, lab, until

pytestmark = pytest.mark.slow  # workers that run for seconds

__all__ = ["lab"]

FOLLOW = """
import os, signal, socket, sys, time
from shop.work import line

stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
line("begin 1")
if "NOTIFY_SOCKET" in os.environ:
    time.sleep(1)
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while not stopped:
    time.sleep(0.02)
time.sleep(float(sys.argv[1]))
line("end 1")
"""


def release(lab: Lab, number: str) -> str:
    return lab.make(number, {"follow.py": FOLLOW})


def command(lab: Lab, number: str, seconds: str = "0", **given: Any) -> Worker:
    argv = [lab.python, "follow.py", seconds]
    return lab.start(number, "command", **{"argv": argv, "processes": 1, "stop": "SIGINT", "ready_after": 0.2, **given})


def events(lab: Lab) -> list[tuple[str, str]]:
    return [(release, what) for _time, release, what, _number in lab.lines()]


def test_command_of_the_new_release_starts_when_that_of_the_former_one_has_ended(lab):
    for number in ("0001", "0002"):
        release(lab, number)
    lab.activate("0001")
    first = command(lab, "0001").ready()
    assert first.is_fetching
    second = command(lab, "0002").ready()
    assert not second.is_fetching
    with lab.switching():
        until(lambda: not first.is_fetching)
        lab.activate("0002")
    until(lambda: len(lab.lines()) == 3)
    assert events(lab) == [("0001", "begin"), ("0001", "end"), ("0002", "begin")]
    second.stop()
    assert second.wait() == 0 and events(lab)[3:] == [("0002", "end")]


def test_command_starts_again_in_the_former_release_when_a_switch_is_undone(lab):
    release(lab, "0001")
    lab.activate("0001")
    first = command(lab, "0001").ready()
    with lab.switching():
        until(lambda: not first.is_fetching)
    until(lambda: first.is_fetching and len(lab.lines()) == 3)
    assert [what for _release, what in events(lab)] == ["begin", "end", "begin"]


def test_command_that_takes_long_to_stop_is_reported_until_it_has_ended(lab):
    release(lab, "0001")
    lab.activate("0001")
    first = command(lab, "0001", "1.5").ready()
    first.stop()
    until(lambda: not first.is_fetching or first.process.poll() is not None)
    assert [what for _release, what in events(lab)] == ["begin", "end"] and first.wait() == 0


def test_command_reports_itself_when_it_is_ready(lab):
    release(lab, "0001")
    lab.activate("0001")
    first = command(lab, "0001", ready_after=None)
    until(lambda: first.is_fetching)
    assert first.state["active"] == 0 and not (first.run / "ready").exists()
    first.ready()
    until(lambda: first.state["active"] == 1)


def test_command_that_ends_is_started_again(lab):
    lab.make("0001", {"follow.py": 'from shop.work import line\nline("end 1")'})
    lab.activate("0001")
    first = command(lab, "0001", processes=2)
    until(lambda: lab.counts("end")[1] >= 5)
    assert first.state["failed"] == 0


def test_command_that_fails_is_started_again_and_counted(lab):
    lab.make("0001", {"follow.py": "raise SystemExit('no such feed')"})
    lab.activate("0001")
    first = command(lab, "0001")
    until(lambda: first.state.get("failed", 0) >= 2)
    assert first.log.read_text().splitlines()[:2] == ["no such feed", "no such feed"]


def test_command_that_its_own_stop_signal_ends_has_not_failed(lab):
    lab.make("0001", {"follow.py": "import time\nfrom shop.work import line\nline('begin 1')\ntime.sleep(60)"})
    lab.activate("0001")
    first = command(lab, "0001", stop="SIGTERM")
    until(lambda: lab.counts("begin")[1])
    with lab.switching():
        until(lambda: not first.is_fetching)
    assert first.state["failed"] == 0
