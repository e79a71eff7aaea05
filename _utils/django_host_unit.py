"""Commands of systemctl that wait for a unit, with a deadline of ours: what a site sends to systemd does not extend it.

The main process of a unit with ``Type=notify`` may send ``EXTEND_TIMEOUT_USEC`` for as long as it runs, with which
systemd waits for its start or its end for ever.
"""

import contextlib
import time
from collections.abc import Sequence

import django_host_command
from django_host_command import DeploymentError, TimedOut

#: Seconds after a unit's own timeout until its processes are killed.
SPARE = 5.0
#: Seconds that processes have to end that were killed, and between two signals: those that forked meanwhile get it too.
_KILLED, _AGAIN = 10.0, 0.2
#: States of units of which no process is left.
_ENDED = ("inactive", "failed")


class Overdue(DeploymentError):
    """A unit did not start in time, and was killed."""


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
    _quietly("stop", "--no-block", *units)  # so that systemd does not start them again
    deadline = time.monotonic() + _KILLED
    _quietly("kill", "--signal=SIGKILL", *units)
    while not _have_ended(units) and time.monotonic() < deadline:
        time.sleep(_AGAIN)
        _quietly("kill", "--signal=SIGKILL", *units)


def _is_done(*arguments: str, units: Sequence[str], doing: str, within: float) -> bool:
    """Return whether a command of systemctl ended in time.

    Raises:
        DeploymentError: it failed.
    """
    try:
        django_host_command.run(["systemctl", *arguments, *units], doing=doing, timeout=within)
    except TimedOut:
        return False
    return True


def _have_ended(units: Sequence[str]) -> bool:
    argv = ["systemctl", "show", "--property=ActiveState", "--value", *units]
    with contextlib.suppress(DeploymentError):
        states = django_host_command.run(argv, doing="querying units", timeout=_KILLED).split()
        return all(state in _ENDED for state in states)
    return False


def _quietly(*arguments: str) -> None:
    with contextlib.suppress(DeploymentError):  # of a unit without processes; what counts is the state
        django_host_command.run(["systemctl", *arguments], doing="ending units", timeout=_KILLED)
