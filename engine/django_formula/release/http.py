"""A request to the application server of one release, at its own socket, as the proxy would send it."""

import http.client
import socket
import string
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from django_formula.host import unix_sockets, users
from django_formula.release import instances
from django_formula.site.sites import Site
from django_formula.untrusted.response import Bounded

#: Bytes of the variables of a request in the uwsgi protocol.
_LONGEST = 0xFFFF


class Answer(NamedTuple):
    """An HTTP response: status, headers (names in lower case), the beginning of the body."""

    status: int
    headers: dict[str, str]
    body: str


def get(
    site: Site,
    release: Path,
    path: str,
    *,
    host: str = "",
    scheme: str = "http",
    headers: Mapping[str, str] | None = None,
    timeout: float = 10,
) -> Answer:
    """Request a page from a release's own socket, as the proxy would.

    Args:
        host: the domain; without it the first one of the site.
        timeout: seconds until the response is complete.

    Raises:
        OSError: nothing listens there, or the response is not complete in time (TimeoutError).
        http.client.HTTPException: the response is not HTTP, too long, or ends before its end.
    """
    deadline = time.monotonic() + timeout
    host = host or site.canonical
    where = instances.address(site, release)
    headers = {**site.config["proxy"].get("headers", {}), **(headers or {})}
    target, _mark, query = path.partition("?")
    with _connect(site, where, timeout) as connection:
        bounded = Bounded(connection, deadline)
        if instances.kind(release)[1] == "uwsgi":
            bounded.sendall(_uwsgi_request(variables(host, target, query, scheme, headers)))
        else:
            fields = {"Host": host, "X-Forwarded-Proto": scheme, "User-Agent": "django-formula"}
            fields |= {name.title(): value for name, value in headers.items()}
            lines = [f"GET {path} HTTP/1.0", *(f"{name}: {value}" for name, value in fields.items())]
            bounded.sendall("\r\n".join([*lines, "", ""]).encode())
        response = http.client.HTTPResponse(bounded)  # type: ignore[arg-type]
        response.begin()
        return read(response)


def read(response: http.client.HTTPResponse, most: int = 1 << 16) -> Answer:
    """Return a response with at most so many bytes of its body.

    Raises:
        http.client.IncompleteRead: its server has cut it short.
    """
    body = response.read(most)
    if response.length and len(body) < most:
        raise http.client.IncompleteRead(body, response.length)
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, body.decode(errors="replace"))


def redirected(url: str, answer: Answer) -> SplitResult | None:
    """Return where an answer redirects to, or None where that is no URL.

    Args:
        url: what was requested.
    """
    try:
        return urlsplit(urljoin(url, answer.headers.get("location", "")))
    except ValueError:
        return None


def target(url: SplitResult, encoding: str = "latin-1") -> str:
    """Return the path and the query of a URL as a request has them: ``/`` where it has none, and ASCII alone.

    Args:
        encoding: that of its other characters; by default the one by which headers are read.
    """
    text = (url.path or "/") + (f"?{url.query}" if url.query else "")
    return quote(text, safe=string.punctuation, encoding=encoding, errors="replace")


def get_active(site: Site, path: str, timeout: float) -> Answer:
    """Request a page from the socket of the active release, by `get`."""
    headers, release = site.config["health"]["headers"], site.current.resolve()
    return get(site, release, path, scheme=site.scheme, headers=headers, timeout=timeout)


def _connect(site: Site, where: str, timeout: float) -> socket.socket:
    """Connect to an instance; at the path of a socket that the site's user makes, there may be anything."""
    if where.startswith("/"):
        return unix_sockets.connect(where, users.user_id(site.user), timeout)
    return socket.create_connection(instances.endpoint(where), timeout)


def variables(host: str, path: str, query: str, scheme: str, headers: Mapping[str, str]) -> dict[str, str]:
    """Return the CGI variables of a request, as the proxy passes them."""
    return {
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": f"{path}?{query}" if query else path,
        "PATH_INFO": unquote(path),
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_SCHEME": scheme,
        "UWSGI_SCHEME": scheme,
        "HTTPS": "on" if scheme == "https" else "",
        "HTTP_HOST": host,
        "HTTP_X_FORWARDED_PROTO": scheme,
        "HTTP_USER_AGENT": "django-formula",
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_NAME": host,
        "SERVER_PORT": "443" if scheme == "https" else "80",
        **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()},
    }


def _uwsgi_request(given: Mapping[str, str]) -> bytes:
    """Return a request in the uwsgi protocol (https://uwsgi-docs.readthedocs.io/en/latest/Protocol.html).

    Raises:
        http.client.HTTPException: it is longer than the protocol allows.
    """
    texts = [text.encode() for pair in given.items() for text in pair]
    if sum(2 + len(text) for text in texts) > _LONGEST:
        raise http.client.HTTPException(f"the request has more than {_LONGEST} bytes")
    block = b"".join(struct.pack("<H", len(text)) + text for text in texts)
    return struct.pack("<BHB", 0, len(block), 0) + block
