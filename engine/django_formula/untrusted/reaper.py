"""A small process of root that runs a command as a less trusted user, and leaves no process of it behind.

It replaces a unit of systemd. The command's descendants become its children when their parents end
(PR_SET_CHILD_SUBREAPER), however they daemonize; it ends when there are none. It also ends them if the process that
started it is killed, and holds the site's lock until then, which the command itself never inherits.

This file runs as a program, so it imports nothing of ours. See docs/decisions/0048.
"""

import contextlib
import ctypes
import inspect
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 1, 36, 38
#: Seconds between SIGTERM and SIGKILL for the command, and within which its killed descendants have to end.
_GRACE, _SWEEP = 1.0, 10.0
#: Seconds in which it ends, whatever the command does: the grace time of the process that ends it.
PATIENCE = _GRACE + _SWEEP + 1


def command(
    argv: Sequence[str], user: int, group: int, groups: Sequence[int], folder: str, nice: int = 0, processes: int = 0
) -> list[str]:
    """Return the command line that runs a command as a user.

    Args:
        argv: the program and its arguments.
        user, group, groups: the ids of the user, the group and further groups.
        folder: its working directory, entered with the rights of the user.
        nice: the increment of its nice value.
        processes: the most processes that the user may have in total; 0 for no limit.
    """
    numbers = [str(user), str(group), ",".join(map(str, groups)), str(nice), str(processes)]
    return ["/usr/bin/python3", "-I", "-S", *_program(), *numbers, folder, *argv]


def _program() -> list[str]:
    """Return the arguments by which Python runs this file: its text where it is in the archive of a scheduled task."""
    path = __file__.replace(".pyc", ".py")
    return [path] if os.path.isfile(path) else ["-c", inspect.getsource(sys.modules[__name__])]


def _main(user: str, group: str, groups: str, nice: str, processes: str, folder: str, *argv: str) -> int:
    control = ctypes.CDLL(None, use_errno=True).prctl
    control(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    control(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    if os.getppid() == 1:
        return 143
    child = os.fork()
    if not child:
        with contextlib.suppress(Exception):
            _become(control, int(user), int(group), [int(one) for one in groups.split(",") if one])
            if int(processes):
                resource.setrlimit(resource.RLIMIT_NPROC, (int(processes), int(processes)))
            os.nice(int(nice))
            _start(folder, argv)
        os._exit(127)
    try:
        code = _wait(child)
    except _StoppedError:
        code = 143
        with contextlib.suppress(ProcessLookupError, ChildProcessError, _StoppedError):
            os.killpg(child, signal.SIGTERM)
            _reap(child, _GRACE)
    left = [name for number, name in _descendants() if number != child]
    _sweep()
    if left and code != 143:
        print(f"ended processes that it left behind: {', '.join(left[:5])}", file=sys.stderr)
    return code


class _StoppedError(Exception):
    """The process that started this one has ended, or sent SIGTERM."""


def _stop(*_signal: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise _StoppedError


def _become(control: Any, user: int, group: int, groups: list[int]) -> None:
    """Become the user irrevocably, and close all descriptors but the first three."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.close(int(name))
    os.setsid()
    os.setgroups(groups)
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    control(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _start(folder: str, argv: tuple[str, ...]) -> None:
    try:
        os.chdir(folder)
        os.execvp(argv[0], argv)  # noqa: S606 - an argument list, never a shell
    except OSError as error:
        print(f"{argv[0]} cannot be started in {folder}: {error.strerror}", file=sys.stderr, flush=True)


def _wait(child: int) -> int:
    """Wait until the command ends, and for descendants that end before; return its exit code as a shell does."""
    while True:
        number, status = os.waitpid(-1, 0)
        if number == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _reap(child: int, seconds: float) -> None:
    """Wait some seconds until the command has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and os.waitpid(-1, os.WNOHANG)[0] != child:
        time.sleep(0.02)


def _sweep() -> None:
    """Kill all descendants until none is left."""
    deadline = time.monotonic() + _SWEEP
    while time.monotonic() < deadline:
        for number, _name in _descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)


def _descendants() -> list[tuple[int, str]]:
    """Return the descendants of this process that have not ended: pid, and name with pid."""
    children: dict[int, list[tuple[int, str]]] = {}
    for number, parent, name in _processes():
        children.setdefault(parent, []).append((number, name))
    found: list[tuple[int, str]] = []
    todo = [os.getpid()]
    while todo:
        below = children.pop(todo.pop(), [])
        found += below
        todo += [number for number, _name in below]
    return found


def _processes() -> Iterator[tuple[int, int, str]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                before, _brace, after = file.read(4096).rpartition(b")")
                state, parent = after.split()[:2]
                name = "".join(filter(str.isprintable, before.partition(b"(")[2].decode(errors="replace")))
                if state not in (b"Z", b"X"):
                    yield int(entry), int(parent), f"{name} (pid {entry})"


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
