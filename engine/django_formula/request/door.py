"""The door of the requests of a site: what a program that is not root connects to, to have a commit released.

systemd accepts each connection to ``/run/django-requests/<site>.sock`` and runs this program as root for it. The
program reads one line of JSON, puts a request into the queue, and answers lines of JSON: docs/decisions/0156. The user
who asks is the one that the kernel tells; what the line has of names is only shown.
"""

import ipaddress
import json
import re
import socket
import struct
import time
from typing import Any, NamedTuple

from django_formula.audit.caller import Caller
from django_formula.host import users
from django_formula.host.commands import DeploymentError
from django_formula.request import follow, queue
from django_formula.request.queue import WAITING, Request
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.site.users import push_user
from django_formula.source import git
from django_formula.untrusted import shapes
from django_formula.untrusted.text import tell

#: Bytes of the line that is read, and the seconds in which it has to arrive.
LIMIT, PATIENCE = 4096, 5.0
_SHAPE = {
    **{"do": str, "commit?": str, "id?": str, "by?": str, "from?": str},
    **{"follow?": bool, "rewind?": bool},
}
_NUMBER = re.compile(r"[0-9a-f]{1,32}")
#: What may be in the name of who asks.
_NAME = re.compile(r"[A-Za-z0-9_.@:/() -]{1,120}", re.ASCII)


class Unreadable(ValueError):
    """A client that is no program of ours has sent something else."""


class Gone(Exception):
    """The client has closed the connection."""


class Asked(NamedTuple):
    """What a client asks for.

    Attributes:
        do: ``request``, or ``result`` of a request that was accepted.
        commit: what is to be released.
        number: the request whose result is asked for.
        by: who asks, as the client names it, and its address.
        is_followed: whether the steps and the final status are sent.
        is_rewind: as of a `queue.Request`.
    """

    do: str
    commit: str = ""
    number: str = ""
    by: str = ""
    origin: str = ""
    is_followed: bool = False
    is_rewind: bool = False


def parsed(line: bytes) -> Asked:
    """Return what a line asks for.

    Raises:
        Unreadable: it is not such a line.
    """
    try:
        text = line.decode()
    except ValueError:
        raise Unreadable("the request is not UTF-8") from None
    try:
        found: dict[str, Any] = shapes.parse(text, _SHAPE, doing="reading the request")
    except DeploymentError:
        raise Unreadable("the request is no such object of JSON") from None
    asked = Asked(
        found["do"],
        found.get("commit", ""),
        found.get("id", ""),
        found.get("by", ""),
        found.get("from", ""),
        found.get("follow", False),
        found.get("rewind", False),
    )
    if asked.do == "result":
        if not _NUMBER.fullmatch(asked.number):
            raise Unreadable("the id of the request is not one")
        return asked
    if asked.do != "request":
        raise Unreadable("there is only: do request, do result")
    if not git.COMMIT.fullmatch(asked.commit):
        raise Unreadable("the commit is not 40 hexadecimal digits")
    if not _NAME.fullmatch(asked.by):
        raise Unreadable("the name of who asks has other characters than letters, digits and . @ : / ( ) - _")
    return asked._replace(origin=_address(asked.origin))


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text)) if text and "%" not in text else ""
    except ValueError:
        raise Unreadable("the address of who asks is none") from None


def read_line(connection: socket.socket) -> bytes:
    """Return the line that a client sends.

    Raises:
        Unreadable: it is too long, too slow, or not a whole one.
    """
    data, until = b"", time.monotonic() + PATIENCE
    while b"\n" not in data:
        left = until - time.monotonic()
        if left <= 0:
            raise Unreadable(f"no whole line within {PATIENCE:g} s")
        if len(data) > LIMIT:
            raise Unreadable(f"the request has more than {LIMIT} bytes")
        connection.settimeout(left)
        try:
            part = connection.recv(LIMIT)
        except TimeoutError:
            continue
        if not part:
            raise Unreadable("the request ends within a line")
        data += part
    line = data.partition(b"\n")[0]
    if len(line) > LIMIT:
        raise Unreadable(f"the request has more than {LIMIT} bytes")
    return line


def main(name: str) -> int:
    """Answer the client at standard input; return the exit code."""
    with socket.socket(fileno=0) as connection:

        def send(answer: dict[str, Any]) -> None:
            try:
                connection.sendall(json.dumps(answer).encode() + b"\n")
            except OSError as error:
                raise Gone(str(error)) from None

        try:
            try:
                answer(sites.find(name), parsed(read_line(connection)), peer(connection), send)
            except (Unreadable, DeploymentError) as error:
                send({"status": queue.REFUSED, "why": str(error)})
            except OSError as error:  # such as a full disk
                tell(error, is_error=True)
                send({"status": queue.FAILED, "why": str(error)})
        except Gone as error:  # the client has gone: what was accepted is released all the same
            tell(error, is_error=True)
    return 0


def peer(connection: socket.socket) -> str:
    """Return the user who has connected."""
    uid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
    return users.user_name(uid) or f"uid {uid}"


def answer(site: Site, asked: Asked, user: str, send: Any) -> None:
    """Put what is asked for into the queue, and tell what comes of it.

    Raises:
        DeploymentError: the files are not free in time.
        OSError: the request cannot be written.
        Gone: the client has gone.
    """
    if asked.do == "result":
        _tell_result(site, asked.number, send)
        return
    pushes = user == push_user(site.name)
    how = {"is_checked": not pushes, "is_rewind": asked.is_rewind and pushes}
    request = queue.put(site, asked.commit, Caller(asked.by, asked.origin, user), **how)
    send({"accepted": request.number})
    follow.begin(site)
    if asked.is_followed:
        _tell(_followed(site, request, send), send)


def _followed(site: Site, request: Request, send: Any) -> dict[str, Any]:
    """Return an accepted request with its final status; where no program works it off, it is on disk and waits."""
    try:
        return follow.follow(site, request, lambda step: send({"step": step}))
    except (DeploymentError, OSError) as error:
        return {"status": WAITING, "why": str(error)}


def _tell_result(site: Site, number: str, send: Any) -> None:
    """Tell the final status of a request that was accepted before, as soon as it has one."""
    found = queue.ended(site, number)
    open_ones = [one for one in (queue.running(site), queue.waiting(site)) if one]
    # one that takes the place of another has that in its file, which ends it at the next look
    open_ones += [one.replaces for one in open_ones if one.replaces]
    request = next((one for one in open_ones if one.number == number), None)
    found = found or (request and _followed(site, request, send))
    found = found or queue.ended(site, number)  # it has ended between the two looks
    _tell(found or {"status": queue.REFUSED, "why": "there is no such request"}, send)


def _tell(found: dict[str, Any], send: Any) -> None:
    send({"status": found["status"], "why": found["why"]})
