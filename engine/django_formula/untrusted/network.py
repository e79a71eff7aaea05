"""What answers over the network is read by a child that is root no more, within a time and a number of bytes."""

import contextlib
import json
import os
import pwd
import re
import select
import signal
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit, urlunsplit

from django_formula.host import commands
from django_formula.untrusted import shapes
from django_formula.untrusted.text import shown

#: Seconds that an action may take, and the longest time that an answer may ask to wait.
DEADLINE, LONGEST = 15.0, 86400.0
#: Digits of a time to wait: more than `LONGEST` has, and fewer than Python refuses.
_DIGITS = 9
#: The most bytes of what the child reports, and its shape.
_REPORT, _SHAPE = 1 << 16, {"error": str, "after": (int, float), "value?": object}


class Answer(NamedTuple):
    """What a child reports.

    Attributes:
        value: what the action returned, as JSON has it; None with an error. It is as hostile as what answered.
        error: why there is none; empty without an error.
        after: seconds after which what answered wants to be asked again; 0 where it does not say so.
    """

    value: Any
    error: str
    after: float


def ask(user: str, action: Callable[[], Any]) -> Answer:
    """Run an action in a child that is another user, which cannot be traced by that user's other processes.

    Args:
        user: its name. The child has this user's group alone. Where the caller is not root, such as a master that runs
            as `salt`, it has the caller's rights.
        action: what asks; it returns what JSON has, of at most 60 000 bytes.
    """
    entry = pwd.getpwnam(user)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        with contextlib.suppress(BaseException):
            for lock in commands.locks:  # else it holds them too, as a user who may not
                os.close(lock)
            if not os.geteuid():
                os.setgroups([])
                os.setgid(entry.pw_gid)
                os.setuid(entry.pw_uid)
            os.write(writer, json.dumps(_attempt(action)).encode()[:_REPORT])
        os._exit(0)
    os.close(writer)
    answer, deadline = b"", time.monotonic() + DEADLINE + 1
    while (left := deadline - time.monotonic()) > 0 and select.select([reader], [], [], left)[0]:
        part = os.read(reader, _REPORT)
        answer += part
        if not part or len(answer) > _REPORT:
            break
    os.close(reader)
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with contextlib.suppress(ValueError, RecursionError):
        report = json.loads(answer)
        if shapes.fits(report, _SHAPE):
            return Answer(report.get("value"), str(report["error"]), min(max(report["after"], 0.0), LONGEST))
    return Answer(None, f"no answer within {DEADLINE:.0f} s", 0.0)


def _attempt(action: Callable[[], Any]) -> dict[str, Any]:
    signal.setitimer(signal.ITIMER_REAL, DEADLINE)  # SIGALRM ends the child, however slowly the other end answers
    try:
        return {"error": "", "after": 0, "value": action()}
    except urllib.error.HTTPError as error:
        after = error.headers.get("Retry-After", "")
        what = "redirects, which is not followed" if error.code in (301, 302, 303, 307, 308) else error.reason
        return {
            "error": shown(f"HTTP {error.code}: {what}")[:500],
            "after": int(after[:_DIGITS]) if after.isdecimal() else 0,
        }
    except Exception as error:  # also that of a package that sends, which is no lack of an answer
        reason = getattr(error, "reason", None) or error
        return {"error": shown(f"{type(error).__name__}: {reason}")[:500], "after": 0}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: the URL of a hook and its token go to no other place."""

    def redirect_request(self, *_arguments: Any, **_options: Any) -> None:
        """Follow none."""


def request(url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> urllib.request.Request:
    """Return a request for `fetched`; the login that a URL may have is sent by its header, as browsers do.

    In the name of the host urllib would take it for a part of that, and quote it in its error.
    """
    parts = urlsplit(url)
    login, at, place = parts.netloc.rpartition("@")
    own = {"Authorization": f"Basic {b64encode(unquote(login).encode()).decode()}"} if at else {}
    url = urlunsplit(parts._replace(netloc=place)) if at else url
    return urllib.request.Request(url, body, {**own, **(headers or {})})  # noqa: S310 - http(s) by the schema


def secrets_of(url: str) -> list[str]:
    """Return what of a URL no output may show: all of it, and the password of its login."""
    found = re.match(r"[^/]*//[^/?#:]*:([^/?#]*)@", url)
    return [url, *(dict.fromkeys((found[1], unquote(found[1]))) if found else ())]


def fetched(request: urllib.request.Request, limit: int) -> bytes:
    """Return the beginning of what answers a request, in a child of `ask`; no redirect is followed.

    Raises:
        OSError, http.client.HTTPException: it does not answer, or with an error.
    """
    with urllib.request.build_opener(_NoRedirect).open(request, timeout=DEADLINE) as answer:
        return bytes(answer.read(limit))
