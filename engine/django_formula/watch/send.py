"""Send what waits for a channel: root keeps the spool, and a child that is root no more does all that the network sees.

Each channel has a unit of its own, so that one that hangs delays no other (docs/decisions/0131).
"""

import contextlib
import functools
import http.client
import json
import os
import pwd
import random
import select
import signal
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any

from django_formula.host import file
from django_formula.host.commands import redact
from django_formula.untrusted import shapes
from django_formula.untrusted.text import shown, tell
from django_formula.watch import message, spool

#: Seconds that one batch may take, and after which one that could not be sent is given up.
DEADLINE, KEPT = 15.0, 86400.0
#: Seconds within which a run of the sender begins with another batch: its unit has a timeout.
_RUN = 20.0
#: The longest pause before the next try, in seconds.
_LONGEST = 3600.0
#: The most bytes of what the child reports, and its shape.
_REPORT, _SHAPE = 4096, {"error": str, "after": (int, float)}


def main(name: str) -> int:
    """Send what waits for a channel, in its order, until one fails; return the exit code."""
    channel = file.read_json(spool.CHANNELS / f"{name}.json")
    if not channel:
        tell(f"there is no channel {name}", is_error=True)
        return 1
    secrets = [str(channel[key]) for key in ("url", "token", "password") if channel.get(key)]
    if name == spool.HEARTBEAT:
        error, _after = _as_sender(lambda: _get(channel["url"]))
        spool.folder(name).mkdir(mode=0o700, parents=True, exist_ok=True)
        spool.keep_retry(name, **({"tries": 1, "at": 0, "error": redact(error, secrets)} if error else {}))
        tell(redact(error, secrets) or "sent", is_error=bool(error))
        return 0
    began, failed = time.monotonic(), ""
    known = spool.retry(name)
    for path in spool.batches(name) if known["at"] <= time.time() else ():
        batch = file.read_json(path)
        if not batch or time.time() - batch["time"] > KEPT:
            path.rename(path.with_suffix(".lost"))
            continue
        error, after = _as_sender(functools.partial(deliver, channel, {**batch, "id": path.stem}))
        if error:
            failed = redact(error, secrets)
            tries = known["tries"] + 1
            pause = max(after, min(60.0 * 2 ** (tries - 1), _LONGEST) * random.uniform(0.8, 1.2))  # noqa: S311
            spool.keep_retry(name, tries=tries, at=time.time() + min(pause, KEPT), error=failed)
            tell(f"{name}: {failed}; the next try is in {pause:.0f} s", is_error=True)
            return 0
        path.unlink(missing_ok=True)
        spool.keep_retry(name)
        if time.monotonic() - began > _RUN:
            break
    return 0


def _as_sender(action: Callable[[], None]) -> tuple[str, float]:
    """Run an action in a child that is the user of the sender; return its error, and the seconds it asks to wait."""
    user = pwd.getpwnam(spool.SENDER)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
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
            return str(report["error"]), min(max(report["after"], 0.0), KEPT)
    return f"no answer within {DEADLINE:.0f} s", 0.0


def _attempt(action: Callable[[], None]) -> dict[str, Any]:
    """Return how an action ended: its error, empty without one, and after how many seconds it may be tried again."""
    signal.setitimer(signal.ITIMER_REAL, DEADLINE)  # SIGALRM ends the child, however slowly the other end answers
    try:
        action()
    except urllib.error.HTTPError as error:
        after = error.headers.get("Retry-After", "")
        what = "redirects, which is not followed" if error.code in (301, 302, 303, 307, 308) else error.reason
        return {"error": shown(f"HTTP {error.code}: {what}")[:500], "after": int(after) if after.isdecimal() else 0}
    except (OSError, http.client.HTTPException, ValueError, ImportError) as error:
        reason = getattr(error, "reason", None) or error
        return {"error": shown(f"{type(error).__name__}: {reason}")[:500], "after": 0}
    return {"error": "", "after": 0}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error: the URL of a hook and its token go to no other place."""

    def redirect_request(self, *_arguments: Any, **_options: Any) -> None:
        """Follow none."""


def _open(request: urllib.request.Request) -> None:
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.HTTPSHandler(context=ssl.create_default_context()))
    with opener.open(request, timeout=DEADLINE) as answer:
        answer.read(1000)


def _get(url: str) -> None:
    _open(urllib.request.Request(url, headers={"User-Agent": "django-formula"}))  # noqa: S310 - http(s) by the schema


def deliver(channel: Mapping[str, Any], batch: message.Batch) -> None:
    """Send a batch by a channel.

    Raises:
        OSError, ValueError, http.client.HTTPException: it was not accepted.
    """
    if channel["format"] == "mail":
        _mail(channel, batch)
    elif channel["format"] == "apprise":
        _apprise(channel, batch)
    else:
        made = message.request(batch, channel["format"], channel.get("token") or "")
        _open(urllib.request.Request(channel["url"], made.body, made.headers))  # noqa: S310 - as above


def mail(channel: Mapping[str, Any], batch: message.Batch) -> EmailMessage:
    """Return a batch as a mail: a retry has the same id, so that it is no second mail for a reader."""
    made = EmailMessage()
    made["Subject"] = message.title(batch)
    made["From"], made["To"] = channel["from"] or f"root@{batch['host']}", ", ".join(channel["mail"])
    made["Date"] = formatdate(batch["time"])
    made["Message-ID"] = f"<{batch['id']}@{batch['host']}>"
    made["Auto-Submitted"] = "auto-generated"
    made.set_content(f"{message.text(batch, 50000)}\n")
    return made


def _mail(channel: Mapping[str, Any], batch: message.Batch) -> None:
    import smtplib

    context = ssl.create_default_context()
    place: dict[str, Any] = {"host": channel["host"], "port": channel["port"], "timeout": DEADLINE}
    secure = channel["tls"] == "tls"
    try:
        with smtplib.SMTP_SSL(**place, context=context) if secure else smtplib.SMTP(**place) as server:
            if channel["tls"] == "starttls":
                server.starttls(context=context)
            if channel.get("user"):
                server.login(channel["user"], channel["password"])
            server.send_message(mail(channel, batch))
    except smtplib.SMTPException as error:
        raise OSError(str(error)) from error


def _apprise(channel: Mapping[str, Any], batch: message.Batch) -> None:
    import apprise  # type: ignore[import-not-found, unused-ignore]

    sender = apprise.Apprise()
    if not sender.add(channel["url"]):
        raise ValueError("apprise does not know this URL")
    if not sender.notify(title=message.title(batch), body=message.text(batch, 20000)):
        raise OSError("apprise could not send it")


def host() -> str:
    """Return the name of this host in messages."""
    return socket.gethostname()
