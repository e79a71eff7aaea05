"""The metrics by HTTP: one request on stdin, the answer on stdout, as a user without rights; systemd has the socket."""

import contextlib
import ipaddress
import os
import sys
from collections.abc import Sequence

#: The most bytes of a request, and of the metrics.
_REQUEST, _METRICS = 8192, 16 << 20


def main(path: str, *allowed: str) -> int:
    """Answer a request; return the exit code.

    Args:
        path: of the metrics.
        allowed: networks of which clients get them, besides this host.
    """
    line = ""
    status, body = "403 Forbidden", b"this address is not in django:metrics:allow\n"
    if is_allowed(os.environ.get("REMOTE_ADDR", ""), allowed):  # of others nothing is read, which they could delay
        line = _request_line()
        status, body = _answer(path, line)
    kind = "text/plain; version=0.0.4; charset=utf-8"
    head = f"HTTP/1.0 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with contextlib.suppress(OSError):
        sys.stdout.buffer.write(head.encode() + (b"" if line.startswith("HEAD ") else body))
        sys.stdout.buffer.flush()
    return 0


def _request_line() -> str:
    """Return the first line of the request, once its headers are read."""
    left, first = _REQUEST, ""
    while left > 0:
        line = sys.stdin.buffer.readline(left)
        left -= len(line)
        first = first or line.decode(errors="replace").strip()
        if line in (b"\r\n", b"\n", b""):
            break
    return first


def _answer(path: str, line: str) -> tuple[str, bytes]:
    words = line.split(" ")
    if len(words) != 3 or words[0] not in ("GET", "HEAD"):
        return "405 Method Not Allowed", b"GET /metrics\n"
    if words[1].partition("?")[0] != "/metrics":
        return "404 Not Found", b"GET /metrics\n"
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return "200 OK", file.read(_METRICS)
    except OSError:
        return "503 Service Unavailable", b"the watch has not written them yet\n"


def is_allowed(client: str, allowed: Sequence[str]) -> bool:
    """Return whether an address gets the metrics: one of this host, or of a network that is named."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or any(address in ipaddress.ip_network(one, strict=False) for one in allowed)
