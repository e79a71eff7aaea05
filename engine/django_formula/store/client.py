"""Talk to a store's server on this host over its unix socket, within a deadline and a number of bytes."""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from django_formula.host.commands import DeploymentError
from django_formula.untrusted.response import Bounded, TooLongError

#: Seconds for an answer, and bytes of it.
PATIENCE, BYTES = 10.0, 8 << 20
#: The deepest nesting of an answer of Redis that is read.
_DEPTH = 4
#: Errors of a server that runs: it answers late, its queue of connections is full, or it closes one that is too many.
_BUSY = (TimeoutError, BlockingIOError, BrokenPipeError, ConnectionResetError)


class BusyError(DeploymentError):
    """A server runs and serves nothing: a script does not end, or clients have all of its connections."""


@contextlib.contextmanager
def connection(path: Path, *, patience: float = PATIENCE, limit: int = BYTES) -> Iterator[tuple[Bounded, IO[bytes]]]:
    """Yield a connection to a server, and the stream of its answers.

    Raises:
        DeploymentError: the server does not accept connections, or an answer is late, too long or damaged.
    """
    try:
        with socket.socket(socket.AF_UNIX) as connected:
            connected.settimeout(patience)
            connected.connect(str(path))
            _refuse_another_server(connected, path)
            bounded = Bounded(connected, time.monotonic() + patience, limit)
            with bounded.makefile() as stream:
                yield bounded, stream
    except (OSError, TooLongError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        kind = BusyError if isinstance(error, _BUSY) else DeploymentError
        raise kind(f"the store at {path} does not answer: {cause}", transient=True) from error


def _refuse_another_server(connected: socket.socket, path: Path) -> None:
    """Check that a server of the user of the socket's folder listens: that user may put a link to another socket there.

    Raises:
        ConnectionError: another one does, such as the server of another site.
    """
    _pid, user = _listener(connected)
    if user != os.lstat(path.parent).st_uid:
        raise ConnectionError(f"a process of another user (uid {user}) listens there")


def _listener(connected: socket.socket) -> tuple[int, int]:
    """Return the process that listens at the other end, and its user."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, user, _group = struct.unpack("3i", credentials)
    return pid, user


def process(path: Path) -> int:
    """Return the process that listens on a socket.

    Raises:
        DeploymentError: none does.
    """
    with connection(path) as (bounded, _stream):
        return _listener(bounded.connection)[0]


def redis(path: Path, commands: Sequence[Sequence[str]], *, patience: float = PATIENCE) -> list[Any]:
    """Send commands to a Redis server; return the answer to each: text, a number, a list or None.

    Raises:
        DeploymentError: the server does not answer, or refuses a command.
    """
    with connection(path, patience=patience) as (bounded, stream):
        send(bounded, commands)
        return [answer(stream, path) for _command in commands]


def refuse_silence(path: Path, patience: float) -> None:
    """Check that a Redis server answers, though it be that it wants a password first.

    Raises:
        DeploymentError: it does not.
    """
    with connection(path, patience=patience) as (bounded, stream):
        send(bounded, [["PING"]])
        _line(stream)


def send(connected: Bounded, commands: Sequence[Sequence[str]]) -> None:
    """Send commands to a Redis server.

    Raises:
        TimeoutError: it does not receive them in time.
    """
    connected.sendall(b"".join(_encoded(command) for command in commands))


def _encoded(command: Sequence[str]) -> bytes:
    parts = [part.encode(errors="surrogateescape") for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def answer(stream: IO[bytes], path: Path, depth: int = 0) -> Any:
    """Read the answer of a Redis server to one command: text, a number, a list or None.

    Raises:
        DeploymentError: the server refuses the command.
        ValueError: it is no answer of Redis.
        ConnectionError: the connection was closed.
    """
    line = _line(stream)
    kind, text = line[:1], line[1:]
    if kind == "-":
        message, unit = f"the store at {path} refuses a command: {text}", path.parent.name
        if text.startswith("BUSY "):
            raise BusyError(message, hint=f"a script of the project does not end: restart {unit}", transient=True)
        if "max number of clients" in text:
            raise BusyError(
                message, hint=f"end the project's processes that connect, and restart {unit}", transient=True
            )
        raise DeploymentError(message, transient=text.startswith(("LOADING", "MISCONF")))
    if kind == "+":
        return text
    if kind == ":":
        return int(text)
    if kind == "$":
        size = int(text)
        return None if size < 0 else _exactly(stream, size)
    if kind == "*" and depth < _DEPTH:
        return [answer(stream, path, depth + 1) for _number in range(int(text))]
    raise ValueError("it is no answer of Redis")


def _line(stream: IO[bytes]) -> str:
    line = stream.readline(BYTES)
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the connection was closed")
    return line[:-2].decode(errors="surrogateescape")


def _exactly(stream: IO[bytes], size: int) -> str:
    found = stream.read(size + 2) if size <= BYTES else b""
    if len(found) != size + 2:
        raise ConnectionError("the connection was closed")
    return found[:-2].decode(errors="surrogateescape")


def memcached(path: Path, command: str, last: tuple[str, ...]) -> list[str]:
    """Send a command to a Memcached server; return the lines of its answer before the one that ends it.

    Args:
        last: the lines with which the answer may end.

    Raises:
        DeploymentError: the server does not answer, or refuses the command.
    """
    with connection(path) as (bounded, stream):
        bounded.sendall(f"{command}\r\n".encode())
        lines: list[str] = []
        while (line := _line(stream)) not in last:
            if line.startswith(("ERROR", "CLIENT_ERROR", "SERVER_ERROR", "MEMLIMIT_")):
                raise DeploymentError(f"the store at {path} refuses a command: {line}")
            lines.append(line)
        return lines
