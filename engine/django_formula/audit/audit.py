"""The audit log: who had this host change something or read what is secret, when, and how that ended.

An act leaves a line when it begins and one when it ends; one that is killed leaves the first. The journal gets the same
lines. No act fails with the log, or waits for it. See docs/decisions/0153.
"""

import contextlib
import contextvars
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.audit import chain
from django_formula.audit.caller import Caller
from django_formula.host import clock
from django_formula.host.commands import redact
from django_formula.site import sites
from django_formula.untrusted.text import shown

JOURNAL = Path("/run/systemd/journal/socket")
IDENTIFIER = "django-audit"
#: The most characters of an argument or a result.
_LONGEST = 200
_open = contextvars.ContextVar[bool]("open", default=False)


class Act:
    """What is done by a caller.

    Args:
        verb: what was called: ``release``, ``state.apply``.
        site: the name of a site, if it is about one.
        arguments: those that may be shown.
        key: what both lines have as ``id``, where two processes write them.
    """

    def __init__(
        self, verb: str, caller: Caller, site: str = "", arguments: Mapping[str, Any] | None = None, key: str = ""
    ):
        self._about = {
            "id": key or secrets.token_hex(8),
            "who": _plain(caller.who),
            "from": _plain(caller.origin),
            "how": caller.how,
            **({"job": caller.job} if caller.job else {}),
            "verb": _plain(verb),
            "site": _plain(site),
            "arguments": {name: _plain(value) for name, value in (arguments or {}).items()},
        }
        self._began = time.monotonic()
        #: How it has ended.
        self.result = "done"
        #: What the caller has to know: why the log has no line of this act.
        self.warning = ""

    def begin(self) -> None:
        """Write that it begins."""
        self._write({"result": "begun"})

    def end(self, seconds: float | None = None) -> None:
        """Write how it has ended."""
        took = time.monotonic() - self._began if seconds is None else seconds
        self._write({"result": _plain(self.result), "seconds": round(took, 1)})

    def _write(self, more: Mapping[str, Any]) -> None:
        values = {"time": clock.now(), **self._about, **more, "release": active_release(self._about["site"])}
        try:
            line = chain.append(values)
        except OSError as error:
            self.warning = f"the audit log has no line of this: {error.strerror or error}: {chain.current()}"
            line = f"not in {chain.current()}: {error.strerror or error}"
        _tell_journal(values, line)


@contextlib.contextmanager
def recorded(act: Act) -> Iterator[Act]:
    """Record that an act begins in this block and ends with it; an error that leaves the block has failed it.

    What it has done by deployments is not recorded as acts of their own.
    """
    act.begin()
    token = _open.set(True)
    try:
        yield act
    except BaseException as error:
        act.result = f"failed: {type(error).__name__}"
        raise
    finally:
        _open.reset(token)
        act.end()


def is_open() -> bool:
    """Return whether an act is recorded of which this is a part."""
    return _open.get()


def active_release(site: str) -> str:
    """Return the name of the active release of a site, empty without one."""
    if site.isprintable() and "/" not in site:
        with contextlib.suppress(OSError):
            return os.path.basename(os.readlink(sites.REGISTRY / site / "current"))
    return ""


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int):
        return value
    text = shown(redact(str(value)))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _tell_journal(values: Mapping[str, Any], line: str) -> None:
    """Send a line to the journal, whose fields are its values; where there is none, or it does not take it, nothing."""
    fields = {
        "MESSAGE": f"{values['verb']} {values['site']} by {values['who']}: {values['result']}",
        "PRIORITY": 5,
        "SYSLOG_IDENTIFIER": IDENTIFIER,
        "DJANGO_SITE": values["site"],
        "DJANGO_VERB": values["verb"],
        "DJANGO_WHO": values["who"],
        "DJANGO_AUDIT": line,
    }
    datagram = "".join(f"{name}={value}\n" for name, value in fields.items()).encode()
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.setblocking(False)
        journal.sendto(datagram, str(JOURNAL))
