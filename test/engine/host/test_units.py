"""Commands of systemctl that wait for a unit: a deadline that no process of the unit extends."""

import time

import pytest
from django_formula.host import commands, units
from django_formula.host.commands import DeploymentError, TimedOut
from django_formula.host.units import Overdue

UNITS = ["blog.socket", "blog.service"]


@pytest.fixture
def systemd(monkeypatch):
    """What is run, and what systemd does: `stuck` after how many signals the unit has ended; None for never."""
    played = {"ran": [], "stuck": 1, "fails": ""}

    def run(argv, *, doing, timeout):
        played["ran"].append(argv[1:])
        signals = [one[0] for one in played["ran"]].count("kill")
        has_ended = played["stuck"] is not None and signals >= played["stuck"]
        if argv[1] == "show":
            return "inactive\nfailed\n" if has_ended else "inactive\ndeactivating\n"
        if argv[1] == played["fails"]:
            raise DeploymentError(f"{doing} failed (exit 1)")
        if argv[1] in ("enable", "disable") and not has_ended:
            assert timeout == 7
            raise TimedOut(f"{doing}: timed out after 7 s")
        return ""

    monkeypatch.setattr(commands, "run", run)
    monkeypatch.setattr(units, "_AGAIN", 0.001)
    monkeypatch.setattr(units, "_KILLED", 0.05)
    return played


@pytest.mark.parametrize("signals", [1, 3])
def test_unit_that_is_not_ready_in_time_is_killed(systemd, signals):
    systemd["stuck"] = signals
    with pytest.raises(Overdue, match=r"^starting blog: not ready after 7 s; its processes were killed$"):
        units.start("enable", "--now", units=UNITS, doing="starting blog", within=7)
    ran = [one for one in systemd["ran"] if one[0] != "show"]
    assert ran[:2] == [["enable", "--now", *UNITS], ["stop", "--no-block", *UNITS]]
    assert ran[2:] == [["kill", "--signal=SIGKILL", *UNITS]] * signals


def test_unit_that_does_not_stop_in_time_is_killed(systemd):
    units.stop("disable", "--now", units=UNITS, doing="stopping blog", within=7)
    assert ["kill", "--signal=SIGKILL", *UNITS] in systemd["ran"]


def test_process_that_cannot_be_killed_is_not_waited_for(systemd):
    systemd["stuck"], began = None, time.monotonic()
    units.stop("disable", units=UNITS, doing="stopping blog", within=7)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("call", [units.start, units.stop])
def test_unit_that_fails_is_not_killed(systemd, call):
    systemd["fails"] = "enable"
    with pytest.raises(DeploymentError, match=r"^blog failed \(exit 1\)$"):
        call("enable", units=UNITS, doing="blog", within=7)
    assert systemd["ran"] == [["enable", *UNITS]]


def test_kill_of_a_unit_without_processes_is_no_error(systemd):
    systemd["fails"] = "kill"
    units.kill(*UNITS)
    assert systemd["ran"][0] == ["stop", "--no-block", *UNITS]
