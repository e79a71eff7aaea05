"""The webhook of a site: the program of its unit, which git servers reach through the proxy.

It has no rights but one: to ask the unit of the site's requests. It answers each request as soon as it is whole, and
exits when there is none for a while. It has the standard library only, and imports little of that: it starts for a
request.
"""

import contextlib
import json
import re
import selectors
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from django_formula.request import delivery
from django_formula.untrusted.text import tell

#: Bytes of a body, as GitHub sends at most, and of all headers.
SIZE, _HEAD = 25 << 20, 32 << 10
#: Seconds for a whole request, for the answer of the unit of requests, and without a connection until the exit.
PATIENCE, _DOOR, _IDLE = 15.0, 8.0, 30.0
#: Requests that are read at once, and the bytes of all of them, above which the oldest is answered as one that is late:
#: Apache passes a large body on as slowly as it is sent, and that delays no other request.
_MOST, _KEPT = 200, 64 << 20
#: Bytes of the answer of the unit of requests.
_ANSWER = 4096
_ADDRESS = re.compile(r"[0-9A-Fa-f.:]{2,45}")
_NUMBER = re.compile(r"[0-9a-f]{1,32}")
_REASONS = {200: "OK", 202: "Accepted", 400: "Bad Request", 403: "Forbidden", 405: "Method Not Allowed"}
_REASONS |= {408: "Request Timeout", 413: "Content Too Large", 503: "Service Unavailable"}


class Answer(NamedTuple):
    """An answer of HTTP: its status, and its only line."""

    status: int
    text: str


class Refused(Exception):
    """A request that gets an answer before it is understood."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.answer = Answer(status, text)


class Request:
    """A request as far as it has come.

    Attributes:
        until: when it has to be whole.
        headers: by names in lower case.
        body: what has come of it; before the end of the headers, what has come of them.
    """

    def __init__(self) -> None:
        self.until = time.monotonic() + PATIENCE
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self._size: int | None = None

    def take(self, part: bytes) -> bool:
        """Take what has come next; return whether the request is whole.

        Raises:
            Refused: it is no POST, or too large.
        """
        self.body += part
        if self._size is None:
            end = self.body.find(b"\r\n\r\n")
            if end < 0:
                if len(self.body) > _HEAD:
                    raise Refused(400, "the headers are too long")
                return False
            self._size = self._read_headers(end)
            del self.body[: end + 4]
        if len(self.body) < self._size:
            return False
        del self.body[self._size :]
        return True

    def _read_headers(self, end: int) -> int:
        """Read the headers, and return the size of the body."""
        first, *lines = self.body[:end].decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if not first.startswith("POST "):
            raise Refused(405, "only POST")
        size = self.headers.get("content-length", "")
        if "transfer-encoding" in self.headers or not re.fullmatch("[0-9]{1,18}", size):
            raise Refused(400, "the length of the body is missing")
        if int(size) > SIZE:
            raise Refused(413, f"the body has more than {SIZE >> 20} MiB")
        return int(size)


class Hook:
    """The webhook of one site.

    Args:
        config: ``site``; ``ref``, the only branch that is released; ``secret``, and ``former`` as long as it is not
            ``until``.
        doors: the folder with the sockets of the units of requests.
    """

    def __init__(self, config: dict[str, Any], doors: str = "/run/django-requests"):
        self._config = config
        self._door = f"{doors}/{config['site']}.sock"

    def answer(self, request: Request, part: bytes) -> Answer | None:
        """Return the answer to a request, after what it asks for is kept on disk; None until the request is whole.

        Args:
            part: what has come of it now; empty where the connection was closed.
        """
        if not part:
            return Answer(400, "the connection was closed")
        try:
            return self._judged(request.headers, request.body) if request.take(part) else None
        except Refused as refused:
            return refused.answer

    def _judged(self, headers: dict[str, str], body: bytearray) -> Answer:
        if not delivery.is_signed(headers, body, self._secrets()):
            return Answer(403, "the signature is missing or wrong")
        try:
            updates = delivery.updates(headers, body)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            return Answer(400, "this is no delivery of a git server that is known")
        ref = self._config["ref"]
        commit = next((update.commit for update in reversed(updates) if update.ref == ref), None)
        if not commit:
            why = f"{ref} was deleted" if commit == "" else f"only pushes to {ref} are released"
            return Answer(200, f"nothing to do: {why}")
        address = headers.get("x-forwarded-for", "")
        asked = {"do": "request", "commit": commit, "by": f"hook ({delivery.server(headers)})", "follow": False}
        return self._ask({**asked, "from": address if _ADDRESS.fullmatch(address) else ""})

    def _secrets(self) -> list[str]:
        former = self._config["former"] if time.time() < self._config["until"] else ""
        return [one for one in (self._config["secret"], former) if one]

    def _ask(self, asked: dict[str, Any]) -> Answer:
        """Return what the unit of requests has accepted, or why it has not."""
        try:
            with socket.socket(socket.AF_UNIX) as door:
                door.settimeout(_DOOR)
                door.connect(self._door)
                door.sendall(json.dumps(asked).encode() + b"\n")
                told = json.loads(_line(door))
        except (OSError, ValueError, RecursionError) as error:
            tell(f"{self._door}: {type(error).__name__}: {error}"[:300])
            return Answer(503, "the site takes no requests now: see the journal of its webhook")
        number = told.get("accepted") if isinstance(told, dict) else None
        if isinstance(number, str) and _NUMBER.fullmatch(number):
            return Answer(202, f"queued {asked['commit'][:12]} as {number}")
        tell(f"{self._door}: not accepted: {told!r}"[:300])
        return Answer(503, "the site does not accept the request: see the journal of its webhook")


def _line(connection: socket.socket) -> bytes:
    found = b""
    while b"\n" not in found and len(found) < _ANSWER:
        part = connection.recv(_ANSWER)
        if not part:
            break
        found += part
    return found.partition(b"\n")[0]


def _received(connection: socket.socket) -> bytes:
    with contextlib.suppress(OSError):
        return connection.recv(65536)
    return b""


def _send(connection: socket.socket, answer: Answer) -> None:
    body = f"{answer.text}\n".encode()
    head = f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\nContent-Type: text/plain; charset=utf-8\r\n"
    head += f"Content-Length: {len(body)}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    with contextlib.suppress(OSError):
        connection.settimeout(5)
        connection.sendall(head.encode() + body)


def serve(hook: Hook, listener: socket.socket, idle: float = _IDLE, stop: socket.socket | None = None) -> None:
    """Answer connections until there is none for some seconds; systemd starts the program for the next one.

    Args:
        stop: what can be read once no more connections are to be accepted; those that are open are answered before.
    """
    waiting: dict[socket.socket, Request] = {}  # the oldest first
    last = time.monotonic()
    with selectors.DefaultSelector() as selector:

        def end(connection: socket.socket, answer: Answer) -> None:
            selector.unregister(connection)
            del waiting[connection]
            with connection:
                tell(f"{answer.status} {answer.text}")
                _send(connection, answer)

        selector.register(listener, selectors.EVENT_READ)
        if stop:
            selector.register(stop, selectors.EVENT_READ, stop)
        while waiting or time.monotonic() < last + idle:
            wakes = min((request.until for request in waiting.values()), default=last + idle)
            for key, _events in selector.select(max(wakes - time.monotonic(), 0.0)):
                last, connection = time.monotonic(), key.data
                if connection is stop and stop:
                    selector.unregister(listener)
                    selector.unregister(stop)
                    idle = 0.0
                elif connection is None:
                    connection, _address = listener.accept()
                    selector.register(connection, selectors.EVENT_READ, connection)
                    waiting[connection] = Request()
                elif answer := hook.answer(waiting[connection], _received(connection)):
                    end(connection, answer)
            for connection in _late(waiting):
                end(connection, Answer(408, f"the request was not complete after {PATIENCE:.0f} s"))


def _late(waiting: Mapping[socket.socket, Request]) -> list[socket.socket]:
    """Return the connections that are ended: those whose requests are late, and the oldest of too many."""
    now, left, kept = time.monotonic(), len(waiting), sum(len(request.body) for request in waiting.values())
    late = []
    for connection, request in waiting.items():
        if request.until <= now or left > _MOST or kept > _KEPT:
            late.append(connection)
            left, kept = left - 1, kept - len(request.body)
    return late


def main() -> int:
    """Serve the socket that systemd has opened; the configuration is the standard input."""
    hook = Hook(json.load(sys.stdin))
    stop, signalled = socket.socketpair()
    signalled.setblocking(False)
    with socket.socket(fileno=3) as listener, stop, signalled:
        signal.set_wakeup_fd(signalled.fileno())
        signal.signal(signal.SIGTERM, lambda *_: None)  # else a delivery in flight is lost: few servers send it again
        serve(hook, listener, stop=stop)
        signal.set_wakeup_fd(-1)
    return 0
