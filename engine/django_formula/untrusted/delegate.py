"""Call a function of ours in a process of a less trusted user.

Files that a repository, a build or a site created are read and changed with the rights of their own user, within limits
of time and memory: a link leads only where that user may go anyway.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.untrusted import foreign

#: Bytes of an answer.
_ANSWER = 16 << 20
#: The most seconds that are waited: `poll` takes no more milliseconds than 2 ** 31.
_LONGEST = 20 * 86400.0
# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def ask(
    user: str | None,
    function: Callable[..., Any],
    *arguments: Any,
    doing: str = "",
    timeout: float = 30,
    memory: int = 256 << 20,
) -> Any:
    """Call a function in a process that has irrevocably become a user, and return its answer.

    The process is a fork of this one, without its locks and open files.

    Args:
        user: the user, with that user's own group and no other; None is the user of this process.
        function: one of ours; its answer must be JSON (tuples become lists, sets are refused).
        doing: what it does, as in "reading the source"; errors begin with it.
        timeout: seconds.
        memory: bytes that it may allocate in addition to what this process has.

    Returns:
        What the function returns.

    Raises:
        DeploymentError: the function's own, or it timed out or ended without an answer.
    """
    what, timeout = doing or f"{function.__name__} as {user}", min(timeout, _LONGEST)
    called = {getattr(one, "__module__", None) or "" for one in (function, *filter(callable, arguments))}
    _of_finder("run_reachable", called)  # the process cannot read them later
    identity = commands.identity(user)
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        _answer(identity, writer, function, arguments, timeout, memory)
    os.close(writer)
    try:
        text = _read(reader, time.monotonic() + timeout)
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return _result(text, what, user, timeout)


def _of_finder(name: str, *arguments: Any) -> None:
    """Call a method of what finds our modules (`host.lazy`), which archives of timers do not have."""
    for finder in sys.meta_path:
        if hasattr(finder, name):
            getattr(finder, name)(*arguments)


def _result(text: bytes | None, what: str, user: str | None, timeout: float) -> Any:
    """Return what the function returned, or raise what it raised."""
    if text is None:
        raise DeploymentError(f"{what}: timed out after {timeout:g} s", transient=True)
    try:
        kind, answer = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise DeploymentError(f"{what}: it ended without an answer") from None
    if kind == "error":
        raise DeploymentError(**answer)
    if kind == "os":
        number, reason, path = answer
        is_closed = number in (errno.EACCES, errno.EPERM, errno.ELOOP)
        hint = f"{user} may not open it, or the target of a link in its path" if is_closed and user else ""
        raise DeploymentError(": ".join(filter(None, [what, path, reason])), hint=hint, transient=not is_closed)
    if kind == "failed":
        raise DeploymentError(f"{what}: {answer}")
    return answer


def _read(descriptor: int, deadline: float) -> bytes | None:
    """Return what is sent until the pipe is closed, None on timeout, or nothing if it is more than `_ANSWER` bytes."""
    text = bytearray()
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while len(text) <= _ANSWER:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return None
        part = os.read(descriptor, 1 << 16)
        if not part:
            return bytes(text)
        text += part
    return b""


def _answer(
    identity: dict[str, Any],
    writer: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    timeout: float,
    memory: int,
) -> None:
    """Become the user, call the function, send its answer, and exit: this never returns."""
    try:
        _confine(identity, writer, timeout, memory)
        if identity:
            _of_finder("seal")
        text = json.dumps(_called(function, arguments)).encode()
        while text:
            text = text[os.write(writer, text) :]
    finally:
        os._exit(0)


def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
    """Return the answer or the error of a function, as JSON values."""
    try:
        return ["answer", json.loads(json.dumps(function(*arguments)))]
    except DeploymentError as error:
        details = {"log": error.log[-20000:], "hint": error.hint, "transient": error.transient}
        return ["error", {"message": error.message, **details}]
    except OSError as error:
        return ["os", [error.errno or 0, error.strerror or str(error)[:300], str(error.filename or "")]]
    except Exception as error:
        return ["failed", f"{type(error).__name__}: {str(error)[:300]}"]


def _confine(identity: dict[str, Any], writer: int, timeout: float, memory: int) -> None:
    """Become the user irrevocably, with limits, and close all descriptors but that of the answer."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != writer:
            with contextlib.suppress(OSError):
                os.close(int(name))
    control = ctypes.CDLL(None).prctl
    control(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if identity:
        os.setgroups(identity["extra_groups"])
        os.setresgid(*[identity["group"]] * 3)
        os.setresuid(*[identity["user"]] * 3)
    control(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.umask(0o022)
    signal.alarm(int(timeout) + 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(timeout) + 1, int(timeout) + 1))
    hard_limit = resource.getrlimit(resource.RLIMIT_AS)[1]
    size = _own_size() + memory
    resource.setrlimit(
        resource.RLIMIT_AS, (size if hard_limit == resource.RLIM_INFINITY else min(size, hard_limit), hard_limit)
    )
    foreign.Trust.is_root = False


def _own_size() -> int:
    """Return the size of the address space of this process in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
