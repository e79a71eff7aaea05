"""Units of systemd: every call of systemctl.

`start` and `stop` have a deadline of ours, which what a site sends to systemd does not extend: the main process of a
unit with ``Type=notify`` may send ``EXTEND_TIMEOUT_USEC`` for as long as it runs, with which systemd waits for its
start or its end for ever.
"""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django_formula.host import commands
from django_formula.host.commands import DeploymentError, TimedOut
from django_formula.untrusted.text import in_command

#: Seconds after a unit's own timeout until its processes are killed.
SPARE = 5.0
#: Seconds that processes have to end that were killed, and between two signals: those that forked meanwhile get it too.
_KILLED, _AGAIN = 10.0, 0.2
#: States of units of which no process is left.
_ENDED = ("inactive", "failed")


#: The links by which systemd starts timers at boot.
_TIMERS = Path("/etc/systemd/system/timers.target.wants")


class Overdue(DeploymentError):
    """A unit did not start in time, and was killed."""


def control(*arguments: str, doing: str = "", **options: Any) -> str:
    """Run a command of systemctl, and return its output.

    Args:
        arguments: the command and its units: ``enable``, ``--quiet``, ``backup.timer``.
        doing: what that is, for errors; the command by default.
        options: as for `host.commands.run`.

    Raises:
        DeploymentError: it failed.
    """
    doing = doing or in_command("systemctl", *dict.fromkeys((arguments[0], arguments[-1])))
    return commands.run(["systemctl", *arguments], doing=doing, **options)


def attempt(*arguments: str, doing: str, timeout: float = 90) -> None:
    """Run a command of systemctl that may fail, as for a unit that is not loaded any more: what counts is the state.

    Args:
        timeout: in seconds.
    """
    with contextlib.suppress(DeploymentError):
        control(*arguments, doing=doing, timeout=timeout)


def daemon_reload() -> None:
    """Have systemd read its files again, those of units that were written, and those that are gone.

    Raises:
        DeploymentError: it does not.
    """
    control("daemon-reload")


def value(unit: str, name: str, **options: Any) -> str:
    """Return the value of a property of a unit, such as ``ActiveState``.

    Raises:
        DeploymentError: systemd does not answer.
    """
    return control("show", f"--property={name}", "--value", unit, doing=f"querying {unit}", **options).strip()


def start_timer(name: str) -> None:
    """Have systemd start a timer now and at each boot; nothing where it does.

    Raises:
        DeploymentError: it refuses the timer.
    """
    if not (_TIMERS / name).exists():
        control("enable", "--quiet", "--now", name, doing=f"starting {name}")


def end_timer(*names: str) -> None:
    """Stop timers, and have systemd start them no more.

    Raises:
        DeploymentError: it does not.
    """
    control("disable", "--quiet", "--now", *names, doing=f"stopping {' and '.join(names)}")


def start(*arguments: str, units: Sequence[str], doing: str, within: float) -> None:
    """Run a command of systemctl that starts units, and kill them when it takes too long.

    Args:
        arguments: the command without the units: ``enable``, ``--now``.
        within: seconds.

    Raises:
        Overdue: they did not start in time, and were killed.
        DeploymentError: the command failed.
    """
    if not _is_done(*arguments, units=units, doing=doing, within=within):
        kill(*units)
        raise Overdue(f"{doing}: not ready after {within:.0f} s; its processes were killed")


def stop(*arguments: str, units: Sequence[str], doing: str, within: float) -> None:
    """Run a command of systemctl that stops units, and kill them when it takes too long.

    Args:
        arguments: the command without the units: ``stop``, or ``disable`` with ``--now``.
        within: seconds.

    Raises:
        DeploymentError: the command failed.
    """
    if not _is_done(*arguments, units=units, doing=doing, within=within):
        kill(*units)


def kill(*units: str) -> None:
    """Have units stop, and kill their processes until none is left, for a short time."""
    attempt(
        "stop", "--no-block", *units, doing="ending units", timeout=_KILLED
    )  # so that systemd does not start them again
    deadline = time.monotonic() + _KILLED
    attempt("kill", "--signal=SIGKILL", *units, doing="killing units", timeout=_KILLED)
    while not _have_ended(units) and time.monotonic() < deadline:
        time.sleep(_AGAIN)
        attempt("kill", "--signal=SIGKILL", *units, doing="killing units", timeout=_KILLED)


def _is_done(*arguments: str, units: Sequence[str], doing: str, within: float) -> bool:
    """Return whether a command of systemctl ended in time.

    Raises:
        DeploymentError: it failed.
    """
    try:
        control(*arguments, *units, doing=doing, timeout=within)
    except TimedOut:
        return False
    return True


def _have_ended(units: Sequence[str]) -> bool:
    asked = ("show", "--property=ActiveState", "--value", *units)
    with contextlib.suppress(DeploymentError):
        states = control(*asked, doing="querying units", timeout=_KILLED).split()
        return all(state in _ENDED for state in states)
    return False
