"""Contradictions about the application server of a site."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django_formula.pillar.check import Problem, is_number
from django_formula.server import servers

Site = dict[str, Any]  # the configuration of a site

KEPT_IDLE = 60  # seconds that a proxy keeps an idle connection to a server


def modules(site: Site, own: Site) -> Iterator[Problem]:
    """Yield a module of the project that the server does not run."""
    runs = servers.traits(site["server"]).interface
    unused = "wsgi" if runs == "asgi" else "asgi"
    if own.get(unused) and not own.get(runs):
        kind = site["server"]["kind"]
        yield (unused,), f"has no effect: {kind} runs {runs.upper()} here; set {runs}, or another server:kind"


def threads(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield threads of a server whose processes serve many requests in one thread."""
    server = site["server"]
    concurrency = servers.traits(server).concurrency
    if concurrency and server["threads"] > 1:
        text = f"expected 1 with {concurrency}, which serves many requests at a time in one thread"
        yield ("server", "threads"), f"{text}, got {server['threads']}"


def embedded(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield options of mod_wsgi's daemon processes where the project runs in Apache's own."""
    server = site["server"]
    used = servers.traits(server).used_options
    for option in sorted({*server["options"]} - {*used}) if used is not None else ():
        text = "has no effect with mode: embedded; it is an option of the processes of mode: daemon"
        yield ("server", "options", option), text


def keepalive(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield servers that close a connection after its request, or before the proxy does."""
    if not site["proxy"]["keepalive"] or site["proxy"]["kind"] == "none":
        return
    server = site["server"]
    kind, options = servers.traits(server), server["options"]
    if not kind.keepalive:
        text = f"not supported with {kind.title}; it is with uvicorn, and with gunicorn and threads, gevent or uvicorn"
        yield ("proxy", "keepalive"), text
    elif kind.is_cutting and server["max_requests"]:
        text = "expected 0 with proxy:keepalive, since uvicorn cuts the connections of a process that it replaces"
        yield ("server", "max_requests"), f"{text}, got {server['max_requests']}"
    idle = options.get(kind.keepalive)
    if is_number(idle) and idle <= KEPT_IDLE:
        text = f"expected more than the {KEPT_IDLE} seconds that the proxy keeps a connection"
        yield ("server", "options", kind.keepalive), f"{text}, got {idle}"
