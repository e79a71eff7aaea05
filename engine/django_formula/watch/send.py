"""Send what waits for a channel: root keeps the spool, and a child that is root no more does all that the network sees.

Each channel has a unit of its own, so that one that hangs delays no other (docs/decisions/0131).
"""

import contextlib
import functools
import random
import ssl
import time
from collections.abc import Mapping
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any

from django_formula.git_server import servers
from django_formula.host import file
from django_formula.host.commands import DeploymentError, redact
from django_formula.host.locks import Lock
from django_formula.untrusted import network
from django_formula.untrusted.text import tell
from django_formula.watch import message, spool

#: Seconds after which a batch that could not be sent is given up.
KEPT = 86400.0
#: Seconds within which a run of the sender begins with another batch: its unit has a timeout.
_RUN = 20.0
#: The longest pause before the next try, in seconds.
_LONGEST = 3600.0


def main(name: str) -> int:
    """Send what waits for a channel, in its order, until one fails; return the exit code."""
    channel = file.read_json(spool.CHANNELS / f"{name}.json")
    if not channel:
        tell(f"there is no channel {name}", is_error=True)
        return 1
    secrets = [str(channel[key]) for key in ("token", "password") if channel.get(key)]
    secrets += network.secrets_of(channel["url"]) if channel.get("url") else []
    spool.folder(name).mkdir(mode=0o700, parents=True, exist_ok=True)
    if name == spool.HEARTBEAT:
        _value, error, _after = network.ask(spool.SENDER, lambda: _get(channel["url"]))
        spool.keep_retry(name, **({"tries": 1, "at": 0, "error": redact(error, secrets)} if error else {}))
        tell(redact(error, secrets) or "sent", is_error=bool(error))
        return 0
    lock = _lock(name)
    try:
        with contextlib.suppress(OSError):  # a full disk, which may be what waits to be told
            lock.take()
        _send_waiting(name, channel, secrets)
    except DeploymentError as error:
        tell(error.message, is_error=True)
    finally:
        lock.release()
    return 0


def _lock(name: str) -> Lock:
    """Return the lock of a channel: without systemd a look starts another sender, and so does `django.notify test`."""
    return Lock(
        spool.folder(name) / ".lock",
        "a sender",
        busy=f"sending by {name}",
        timeout=f"{_RUN:.0f}s",
        hint="what waits is sent by the next look of the watch",
    )


def _send_waiting(name: str, channel: Mapping[str, Any], secrets: list[str]) -> None:
    """Send what waits for a channel, in its order, until one fails."""
    began, known = time.monotonic(), spool.retry(name)
    for path in spool.batches(name) if known["at"] <= time.time() else ():
        batch = file.read_json(path)
        if not batch or time.time() - batch["time"] > KEPT:
            with contextlib.suppress(FileNotFoundError):  # a look has just deleted it, as too many wait
                path.rename(path.with_suffix(".lost"))
            spool.forget_lost(name)
            continue
        _value, error, after = network.ask(
            spool.SENDER, functools.partial(deliver, channel, {**batch, "id": path.stem})
        )
        if error:
            failed = redact(error, secrets)
            tries = known["tries"] + 1
            pause = max(after, min(60.0 * 2 ** (tries - 1), _LONGEST) * random.uniform(0.8, 1.2))  # noqa: S311
            spool.keep_retry(name, tries=tries, at=time.time() + min(pause, KEPT), error=failed)
            tell(f"{name}: {failed}; the next try is in {pause:.0f} s", is_error=True)
            return
        path.unlink(missing_ok=True)
        spool.keep_retry(name)
        if time.monotonic() - began > _RUN:
            return


def _get(url: str) -> None:
    network.fetched(network.request(url, headers={"User-Agent": "django-formula"}), 1000)


def deliver(channel: Mapping[str, Any], batch: message.Batch) -> None:
    """Send a batch by a channel.

    Raises:
        OSError, ValueError, http.client.HTTPException: it was not accepted.
    """
    if channel["format"] == "mail":
        _mail(channel, batch)
    elif channel["format"] == "apprise":
        _apprise(channel, batch)
    elif channel["format"] in servers.KINDS:
        _report(channel, batch["messages"][0])
    else:
        made = message.request(batch, channel["format"], channel.get("token") or "")
        network.fetched(network.request(channel["url"], made.body, made.headers), 1000)


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
    place: dict[str, Any] = {"host": channel["host"], "port": channel["port"], "timeout": network.DEADLINE}
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


def _report(channel: Mapping[str, Any], one: Mapping[str, Any]) -> None:
    """Write a deployment to a Git server; the message that tries the channel reads the project there."""
    where = channel["format"], channel["url"], channel.get("token") or ""
    if one.get("commit"):
        servers.report(*where, one, channel.get("environment") or one["site"])
    else:
        servers.call(*where)


def _apprise(channel: Mapping[str, Any], batch: message.Batch) -> None:
    import apprise  # type: ignore[import-not-found, unused-ignore]

    sender = apprise.Apprise()
    if not sender.add(channel["url"]):
        raise ValueError("apprise does not know this URL")
    if not sender.notify(title=message.title(batch), body=message.text(batch, 20000)):
        raise OSError("apprise could not send it")
