"""The relay of a site: requests that nginx cannot pass to the site's server wait here until it accepts them.

It is the program of `proxy.waiting`, run by the host's Python as a user without rights, and imports nothing of ours.
What it relays it does not look into: uwsgi, http and WebSockets pass unchanged. nginx has read a request as a whole
before, and nothing of it has been sent: docs/decisions/0167.
"""

import asyncio
import contextlib
import grp
import json
import os
import pwd
import re
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: The header by which the checks of balancers are recognized, as http and uwsgi write it.
CHECK = "X-Django-Check"
_CHECK = (CHECK.lower().encode(), f"HTTP_{CHECK}".replace("-", "_").upper().encode())
#: What it answers to these while visitors wait.
WAITS = "requests wait"
#: The link in a release that is closed: to the socket of its server, which `socket` points to otherwise.
HELD = "held"
#: Connections in the kernel's queue, which nginx is refused beyond.
_BACKLOG = 4096
#: The least seconds between two tries to connect, and the most.
_SHORT, _LONG = 0.02, 0.2
#: Seconds without a connection after which a relay that systemd starts again ends, and for which a visitor that was
#: refused is listened to.
_IDLE, _LINGER = 60.0, 10.0
#: Seconds in which a relay that is stopped passes on what it has, and those for the answers of what it cannot.
_ENDS, _ANSWERS = 7.0, 1.0
#: Bytes that are relayed at once, and those of a request in which the header of a check is.
_BLOCK, _HEAD = 1 << 16, 1 << 13
_FIRST_FD = 3
#: nginx's defaults, the open files of a process by systemd's, and the part of its connections that may wait: each
#: request takes two of them.
_CONNECTIONS, _PROCESSES, _FILES, _PART = 512, 1, 1024, 8
#: nginx's own file: a relay knows from it how many may wait.
NGINX = Path("/etc/nginx/nginx.conf")


@dataclass(eq=False)
class Waiting:
    """A connection of nginx that waits, since when, and whether it was looked at if it is a check of a balancer."""

    connection: socket.socket
    since: float
    is_known: bool = False

    def is_check(self) -> bool:
        """Return whether it is one that was not looked at yet, by its first bytes, which stay unread."""
        if self.is_known:
            return False
        head = b""
        with contextlib.suppress(OSError):  # nothing has come yet
            head = self.connection.recv(_HEAD, socket.MSG_PEEK)
        self.is_known = bool(head)
        if head.startswith(b"\0"):  # uwsgi, with the length of its variables
            return _CHECK[1] in head[: 4 + int.from_bytes(head[1:3], "little")]
        return _CHECK[0] in head.partition(b"\r\n\r\n")[0].lower()


class Relay:
    """Passes connections on to a site's server, the oldest first; they wait while there is none.

    Args:
        listening: the socket that nginx connects to.
        target: returns the path of the socket of the server.
        is_held: returns whether all connections wait, although the server may accept them.
        seconds: that a request waits; then, and where more than `most` wait, the oldest is answered with `late`.
        idle: seconds without a connection after which `run` returns; None for never.
    """

    def __init__(
        self,
        listening: socket.socket,
        target: Callable[[], str],
        is_held: Callable[[], bool] = lambda: False,
        seconds: float = 300.0,
        most: Callable[[], int] = lambda: _BACKLOG,
        idle: float | None = None,
        late: Callable[[], bytes] = lambda: b"",
    ):
        self._listening, self._target, self._is_held, self._late = listening, target, is_held, late
        self._seconds, self._most, self._idle = seconds, most, idle
        self._waiting: deque[Waiting] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._down_since = self._ends = 0.0

    async def run(self) -> None:
        """Relay until there has been no connection for the time of `idle`, or until `stop`."""
        self._arrived, loop = asyncio.Event(), asyncio.get_running_loop()
        self._listening.setblocking(False)
        loop.add_reader(self._listening, self._accept)
        last, pause = time.monotonic(), _SHORT
        while self._goes_on(last):
            last = time.monotonic() if self._is_busy() else last
            if not self._waiting:
                self._notice_server()
                self._arrived.clear()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._arrived.wait(), min(self._idle or 1, 1))
            elif self._pass_on():
                pause = _SHORT
                await asyncio.sleep(0)
            else:
                self._end_late()
                await asyncio.sleep(pause)
                pause = min(pause * 1.3, _LONG)
        loop.remove_reader(self._listening)
        while self._waiting:
            self._answer(self._waiting.popleft(), self._late())
        if self._ends and self._tasks:
            await asyncio.wait(self._tasks, timeout=_ANSWERS)

    def stop(self) -> None:
        """Accept no more connections; `run` returns once those that there are have ended, or some seconds later."""
        asyncio.get_running_loop().remove_reader(self._listening)
        self._ends = self._ends or time.monotonic() + _ENDS
        self._arrived.set()

    def _goes_on(self, last: float) -> bool:
        if self._ends:
            return self._is_busy() and time.monotonic() < self._ends
        return self._is_busy() or self._idle is None or time.monotonic() - last < self._idle

    def _is_busy(self) -> bool:
        return bool(self._waiting or self._tasks)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _address = self._listening.accept()
                connection.setblocking(False)
                self._waiting.append(Waiting(connection, time.monotonic()))
                self._arrived.set()
                if len(self._waiting) > self._most():
                    self._answer(self._waiting.popleft(), self._late())

    def _pass_on(self) -> bool:
        """Pass the oldest connection on; return whether there is something to do at once."""
        first = self._waiting[0]
        if _is_gone(first.connection):
            self._waiting.popleft().connection.close()
            return True
        instance = None if self._is_held() else _connected(self._target())
        if instance is None:
            self._down_since = self._down_since or time.monotonic()
            return False
        self._down_since = 0.0
        self._waiting.popleft()
        self._begin(_carry(first.connection, instance))
        return True

    def _notice_server(self) -> None:
        """Notice that the server is back where nothing has waited for it: the checks that came were answered here."""
        instance = _connected(self._target()) if self._down_since and not self._is_held() else None
        if instance is not None:
            instance.close()
            self._down_since = 0.0

    def _end_late(self) -> None:
        """Answer what has waited for too long, and checks of balancers for as long as the visitors wait."""
        now = time.monotonic()
        while self._waiting and now - self._waiting[0].since > self._seconds:
            self._answer(self._waiting.popleft(), self._late())
        if now - self._down_since < self._seconds:
            for one in [one for one in self._waiting if one.is_check()]:
                self._waiting.remove(one)
                self._answer(one, response("200 OK", f"{WAITS}\n".encode(), "text/plain"))

    def _answer(self, one: Waiting, text: bytes) -> None:
        self._begin(_refuse(one.connection, text))

    def _begin(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _connected(path: str) -> socket.socket | None:
    """Return a connection to the socket of a server; None where it is missing, refuses it, or has too many."""
    instance = socket.socket(socket.AF_UNIX)
    instance.setblocking(False)
    try:
        instance.connect(path)  # asyncio's own takes EAGAIN, a full queue, for success
    except OSError:
        instance.close()
        return None
    return instance


def _is_gone(connection: socket.socket) -> bool:
    """Return whether nginx has closed a connection, since its visitor has gone."""
    poll = select.poll()
    poll.register(connection, 0)
    return any(events & select.POLLHUP for _number, events in poll.poll(0))


async def _carry(visitor: socket.socket, instance: socket.socket) -> None:
    """Relay a connection until the server has answered."""
    with visitor, instance:
        request = asyncio.get_running_loop().create_task(_pump(visitor, instance))
        try:
            await _pump(instance, visitor)
        finally:
            request.cancel()  # the answer is complete, so that no more is sent
            with contextlib.suppress(asyncio.CancelledError):
                await request


async def _pump(source: socket.socket, target: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError):
        while block := await loop.sock_recv(source, _BLOCK):
            await loop.sock_sendall(target, block)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


async def _refuse(connection: socket.socket, text: bytes) -> None:
    """Answer a connection; its request is read to the end, since nginx takes an unread one for an error."""
    with connection, contextlib.suppress(OSError, asyncio.TimeoutError):
        await asyncio.wait_for(_tell(connection, text), _LINGER)


async def _tell(connection: socket.socket, text: bytes) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, text)
    connection.shutdown(socket.SHUT_WR)
    while await loop.sock_recv(connection, _BLOCK):
        pass


def response(status: str, body: bytes, kind: str = "text/html; charset=utf-8", *more: str) -> bytes:
    """Return a response as http and uwsgi have it."""
    head = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Cache-Control: no-store"]
    return "\r\n".join([*head, *more, "Connection: close", "", ""]).encode() + body


def most(folder: Path, configuration: Path = NGINX) -> int:
    """Return how many requests of one site may wait.

    A quarter of the requests that nginx has connections for, shared by the sites whose requests wait: else static files
    and other sites would be refused while one of them is down.
    """
    text = ""
    with contextlib.suppress(OSError):
        text = re.sub(r"#.*", "", configuration.read_text(errors="replace"))
    connections = min(_number(text, "worker_connections", _CONNECTIONS), _number(text, "worker_rlimit_nofile", _FILES))
    processes = _number(text, "worker_processes", None)
    sites = len([*folder.glob("*.sock")])
    return max(1, connections * processes // _PART // max(1, sites))


def _number(text: str, name: str, default: int | None) -> int:
    found = re.search(rf"\b{name}\s+(\w+)\s*;", text)
    if found and found[1].isdecimal():
        return int(found[1])
    return default or (_PROCESSES if not found else os.cpu_count() or _PROCESSES)


def is_held(record: Path) -> bool:
    """Return whether the way to a site is closed now, by the record of `proxy.waiting`."""
    try:
        return float(json.loads(record.read_text())["until"]) > time.monotonic()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def target(current: Path, own: str) -> str:
    """Return the socket of the server of the active release, also while its link leads to the relay."""
    with contextlib.suppress(OSError):
        if os.readlink(current / "socket") == own:
            return str(current / HELD)
    return str(current / "socket")


def bound(path: Path, group: int) -> socket.socket:
    """Return a socket that listens at a path, for root and a group."""
    listening = socket.socket(socket.AF_UNIX)
    path.unlink(missing_ok=True)
    listening.bind(str(path))
    os.chown(path, 0, group)
    path.chmod(0o660)
    listening.listen(_BACKLOG)
    return listening


def _own(path: Path, user: str, group: str) -> socket.socket:
    """Return a socket at a path, and be its user from then on: as supervisor starts it, which passes none."""
    path.parent.mkdir(mode=0o755, exist_ok=True)
    owner, group_id = pwd.getpwnam(user), grp.getgrnam(group).gr_gid
    listening = bound(path, group_id)
    os.setgroups([group_id])
    os.setgid(owner.pw_gid)
    os.setuid(owner.pw_uid)
    return listening


def main(path: str, current: str, seconds: str, page: str, user: str, group: str) -> int:
    """Relay the requests of a site.

    Args:
        path: of the socket that nginx connects to.
        current: the link to the active release.
        seconds: that a request may wait.
        page: the file that is shown then.
        user: whom to be, where systemd does not start this.
        group: of the proxy.
    """
    own, is_passed = Path(path), os.environ.get("LISTEN_FDS") == "1"
    listening = socket.socket(fileno=_FIRST_FD) if is_passed else _own(own, user, group)

    def late() -> bytes:
        body = b"This site does not answer at the moment.\n"
        with contextlib.suppress(OSError):
            body = Path(page).read_bytes()
        sys.stderr.write("a request gets 503: too many wait, or it has waited for too long\n")
        return response("503 Service Unavailable", body, "text/html; charset=utf-8", "Retry-After: 10")

    relay = Relay(
        listening,
        lambda: target(Path(current), path),
        lambda: is_held(own.with_suffix(".json")),
        float(seconds),
        lambda: most(own.parent),
        _IDLE if is_passed else None,
        late,
    )
    asyncio.run(_run(relay))
    return 0


async def _run(relay: Relay) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, relay.stop)
    await relay.run()
