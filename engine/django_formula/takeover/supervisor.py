"""Programs of supervisor in a takeover: workers finish what they have in hand, however long supervisor would wait."""

import contextlib
import re
import threading
import time

from django_formula.host import commands, proc
from django_formula.host.commands import DeploymentError

#: What supervisorctl answers where there is nothing to do.
_NOTHING = (
    *("no such file", "refused connection", "no such group", "no such process", "not running"),
    *("already active", "already started"),
)
#: The state of a process that does not run, of which `supervisorctl status` exits with 3.
_DOES_NOT_RUN = re.compile(r"\b(?:STOPPED|EXITED|FATAL)\b")
#: Seconds within which a program that supervisor has just started again is stopped and removed.
_AGAIN = 20.0


class Ending:
    """A program whose processes end, and which is removed when they have, so that supervisor does not start it again.

    `supervisorctl stop` would kill them after ``stopwaitsecs``, and with ``stopasgroup`` signal the processes of a pool
    too, whose tasks are lost then.
    """

    def __init__(self, name: str, signal: str, timeout: float):
        """Ask the processes to end.

        Args:
            signal: on which they finish what they have in hand, such as TERM.
            timeout: seconds after which the program is stopped in supervisor's way.
        """
        self._name, self._timeout = name, timeout
        status = _run("status", f"{name}:*", name=name)
        self._pids = [int(pid) for pid in re.findall(r"\bpid (\d+),", status)]
        _run("signal", signal, f"{name}:*", name=name)
        self._thread = threading.Thread(target=self._remove_ended, daemon=True)
        self._thread.start()

    def _remove_ended(self) -> None:
        deadline = time.monotonic() + self._timeout
        while any(map(proc.is_running, self._pids)) and time.monotonic() < deadline:
            time.sleep(0.02)
        with contextlib.suppress(DeploymentError):  # the end of the takeover tries it again, and reports it
            stop(self._name)

    def join(self) -> None:
        """Wait until the program is removed."""
        self._thread.join()

    def start_again(self) -> None:
        """Wait until the program is removed, and have supervisor run it again if it ran before.

        Raises:
            DeploymentError: supervisor refuses it.
        """
        self.join()
        add(self._name)
        if self._pids:  # supervisor starts those with autostart only
            _run("start", f"{self._name}:*", name=self._name, doing="starting")


def add(name: str) -> None:
    """Have supervisor know a program again that was removed; one that starts by itself runs then.

    Raises:
        DeploymentError: supervisor refuses it.
    """
    _run("add", name, name=name, doing="starting")


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


def _run(verb: str, *arguments: str, name: str, doing: str = "stopping") -> str:
    """Run supervisorctl; return what it prints, or nothing where there is nothing to do."""
    try:
        return commands.run(["supervisorctl", verb, *arguments], doing=f"{doing} {name}", timeout=120)
    except DeploymentError as error:
        if verb == "status" and _DOES_NOT_RUN.search(error.log):
            return error.log
        said = f"{error.message}\n{error.log}".lower()  # in the message, where there is no supervisorctl any more
        if not any(answer in said for answer in _NOTHING):
            raise
    return ""
