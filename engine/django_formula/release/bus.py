"""Begin and end of a deployment of this host as events of its master, sent by its minion.

Nothing waits for them: without a minion's daemon, or where that does not take an event, it is dropped. Of a deployment
on several hosts the master sends the events itself (`fleet.record`).
"""

import contextlib
import contextvars
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.audit import caller as audit_caller
from django_formula.site.sites import Site

#: Milliseconds that the minion's daemon may take for an event.
_PATIENCE = 300
#: The most characters of an error.
LONGEST = 1000
_options: contextvars.ContextVar[Mapping[str, Any] | None] = contextvars.ContextVar("options", default=None)


@contextlib.contextmanager
def of_minion(options: Mapping[str, Any]) -> Iterator[None]:
    """Send the events of deployments of this block, if these options are those of a minion with a master."""
    has_master = options.get("file_client") != "local" and not options.get("local")
    token = _options.set(options if has_master else None)
    try:
        yield
    finally:
        _options.reset(token)


def begin(site: Site, asked_by: str, **about: str) -> None:
    """Send that a deployment has begun.

    Args:
        asked_by: its origin, as it is recorded.
        about: ``revision``, ``commit`` and ``release``.
    """
    _send(site, "begin", asked_by, about)


def end(site: Site, attempt: Mapping[str, Any]) -> None:
    """Send how a deployment has ended, by what was recorded of it."""
    if attempt["result"] == "unchanged":
        return
    about = {"revision": site.config.get("revision") or "", **attempt}
    named = {key: str(about.get(key) or "") for key in ("revision", "commit", "release", "step")}
    error = str(attempt.get("error") or "")[:LONGEST]
    told = {**named, "result": attempt["result"], "error": error, "seconds": attempt.get("seconds", 0)}
    _send(site, "end", str(attempt.get("asked_by") or ""), told)


def _send(site: Site, phase: str, asked_by: str, about: Mapping[str, Any]) -> None:
    options = _options.get()
    if options is None:
        return
    with contextlib.suppress(Exception):  # whatever it is: no deployment depends on an event
        if not _has_daemon(options):
            return
        import salt.utils.event

        function, caller = audit_caller.of_request(asked_by)
        data = {"site": site.name, "phase": phase, "user": caller.who, **about}
        tag = f"django/{site.name}/{function.rpartition('.')[2]}/{phase}"
        event = {"data": data, "tag": tag, "events": None, "pretag": None}
        with salt.utils.event.get_event("minion", opts={**options}, listen=False) as bus:
            bus.fire_event(event, "fire_master", timeout=_PATIENCE)


def _has_daemon(options: Mapping[str, Any]) -> bool:
    """Return whether a minion's daemon listens: Salt itself tries a socket that is there for a second."""
    for path in Path(options["sock_dir"]).glob("minion_event_*_pull.ipc"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PATIENCE / 1000)
            connection.connect(str(path))
            return True
    return False
