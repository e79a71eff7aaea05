"""Programs of supervisor in a takeover: workers finish what they have in hand, however long supervisor would wait."""

import contextlib
import re
import threading
import time

import django_host_command
import django_host_proc
from django_host_command import DeploymentError

#: What supervisorctl answers where there is nothing to stop or to remove.
_NOTHING = ("no such file", "refused connection", "no such group", "no such process", "not running")
#: Seconds within which a program that supervisor has just started again is stopped and removed.
_AGAIN = 20.0


def ask_to_end(name: str, signal: str, timeout: float) -> threading.Thread:
    """Have a program's processes end, and remove it when they have, so that supervisor does not start it again.

    `supervisorctl stop` would kill them after ``stopwaitsecs``, and with ``stopasgroup`` signal the processes of a pool
    too, whose tasks are lost then.

    Args:
        signal: on which they finish what they have in hand, such as TERM.
        timeout: seconds after which the program is stopped in supervisor's way.

    Returns:
        The thread that waits for them.
    """
    found = _run("status", f"{name}:*", name=name)
    pids = [int(pid) for pid in re.findall(r"\bpid (\d+),", found)]
    _run("signal", signal, f"{name}:*", name=name)
    thread = threading.Thread(target=_remove_ended, args=(name, pids, timeout), daemon=True)
    thread.start()
    return thread


def _remove_ended(name: str, pids: list[int], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while any(map(django_host_proc.is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    with contextlib.suppress(DeploymentError):  # the end of the takeover tries it again, and reports it
        stop(name)


def stop(name: str) -> None:
    """Stop a program and remove it, unless supervisor does not run or does not have it.

    Raises:
        DeploymentError: supervisor refuses it.
    """
    deadline = time.monotonic() + _AGAIN
    while True:
        _run("stop", f"{name}:*", name=name)
        try:
            _run("remove", name, name=name)
        except DeploymentError as error:
            if "still running" not in error.log or time.monotonic() > deadline:
                raise
        else:
            return


def start_again(name: str) -> None:
    """Have supervisor run a program again that was removed."""
    _run("add", name, name=name)


def _run(verb: str, *arguments: str, name: str) -> str:
    """Run supervisorctl; return what it prints, or nothing where there is nothing to do."""
    try:
        return django_host_command.run(["supervisorctl", verb, *arguments], doing=f"stopping {name}", timeout=120)
    except DeploymentError as error:
        if not any(answer in error.log.lower() for answer in _NOTHING):
            raise
    return ""
