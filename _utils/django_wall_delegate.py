"""Work that a less trusted identity does for root: a function of ours in a process with that identity's rights.

What a repository, a build or a site has laid out is read and changed with no more rights than it has itself, and within
limits: a link leads nowhere that it could not go, and what has no end costs nothing but this one answer.
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

import django_host_command
import django_wall_foreign
from django_host_command import DeploymentError

#: Bytes of an answer.
_ANSWER = 16 << 20
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
    """Call a function in a process that has become a user for good, and return its answer.

    The process shares nothing with this one but what it was given: it is a copy that has no lock and no descriptor.

    Args:
        user: the identity it takes, with its own group and no other; None keeps this process's, within the limits.
        function: one of ours; its answer has to be JSON (tuples become lists, sets are not).
        doing: what it is for, as in "reading the source"; errors begin with it.
        timeout: seconds.
        memory: bytes that it may take more than this process has.

    Returns:
        What the function returns.

    Raises:
        DeploymentError: the function's own; or it has not ended in time, or has ended without an answer.
    """
    what = doing or f"{function.__name__} as {user}"
    identity = django_host_command.identity(user)
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
    if text is None:
        raise DeploymentError(f"{what}: timed out after {timeout:g} s", transient=True)
    try:
        kind, answer = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise DeploymentError(f"{what}: it ended without an answer") from None
    if kind == "error":
        raise DeploymentError(**answer)
    if kind == "os":
        number, text, path = answer
        is_closed = number in (errno.EACCES, errno.EPERM, errno.ELOOP)
        hint = f"it is closed to {user}, or leads through a link to what is" if is_closed and user else ""
        raise DeploymentError(": ".join(filter(None, [what, path, text])), hint=hint, transient=not is_closed)
    if kind == "failed":
        raise DeploymentError(f"{what}: {answer}")
    return answer


def _read(descriptor: int, deadline: float) -> bytes | None:
    """What comes until the other end is closed; None where that takes too long, and no more than `_ANSWER` bytes."""
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
    """Become the user, call the function, write down its answer, and end: this never returns."""
    try:
        _confine(identity, writer, timeout, memory)
        text = json.dumps(_called(function, arguments)).encode()
        while text:
            text = text[os.write(writer, text) :]
    finally:
        os._exit(0)


def _called(function: Callable[..., Any], arguments: tuple[Any, ...]) -> list[Any]:
    """What a function answers or raises, as JSON has it."""
    try:
        return ["answer", json.loads(json.dumps(function(*arguments)))]
    except DeploymentError as error:
        told = {"log": error.log[-20000:], "hint": error.hint, "transient": error.transient}
        return ["error", {"message": error.message, **told}]
    except OSError as error:
        return ["os", [error.errno or 0, error.strerror or str(error)[:300], str(error.filename or "")]]
    except Exception as error:
        return ["failed", f"{type(error).__name__}: {str(error)[:300]}"]


def _confine(identity: dict[str, Any], writer: int, timeout: float, memory: int) -> None:
    """Take the identity for good, with limits, and no descriptor but the one of the answer."""
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
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    size = _own_size() + memory
    resource.setrlimit(resource.RLIMIT_AS, (size if most == resource.RLIM_INFINITY else min(size, most), most))
    django_wall_foreign.Trust.is_root = False


def _own_size() -> int:
    """Bytes of the address space of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
