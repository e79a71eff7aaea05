"""Contradictions about the application server of a site."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django_pillar_check import Problem, is_number

Site = dict[str, Any]  # the configuration of a site

KEPT_IDLE = 60  # seconds that a proxy keeps an idle connection to a server


def run() -> dict[str, Any]:
    """Return nothing: Salt's py renderer only registers this module (see `django_pillar_render`)."""
    return {}


def interface(server: dict[str, Any]) -> str:
    """Return what a server runs of the project, ``wsgi`` or ``asgi``; its module in the engine agrees."""
    if server["kind"] == "granian":
        return "wsgi" if server["options"].get("interface") == "wsgi" else "asgi"
    is_uvicorn = server["kind"] == "uvicorn" or server["options"].get("worker_class") == "uvicorn"
    return "asgi" if is_uvicorn else "wsgi"


def modules(site: Site, own: Site) -> Iterator[Problem]:
    """Yield a module of the project that the server does not run."""
    runs = interface(site["server"])
    unused = "wsgi" if runs == "asgi" else "asgi"
    if own.get(unused) and not own.get(runs):
        kind = site["server"]["kind"]
        yield (unused,), f"has no effect: {kind} runs {runs.upper()} here; set {runs}, or another server:kind"


def threads(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield threads of a server whose processes serve many requests in one thread."""
    server = site["server"]
    concurrency = _concurrency(server)
    if concurrency and server["threads"] > 1:
        text = f"expected 1 with {concurrency}, which serves many requests at a time in one thread"
        yield ("server", "threads"), f"{text}, got {server['threads']}"


def _concurrency(server: dict[str, Any]) -> str:
    """Return what lets one thread of a server serve many requests; empty where each request has a thread."""
    options = server["options"]
    if server["kind"] == "granian":
        return "" if options.get("interface") == "wsgi" else "ASGI"
    return str(options["worker_class"]) if options.get("worker_class") in ("gevent", "uvicorn") else ""


def embedded(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield options of mod_wsgi's daemon processes where the project runs in Apache's own."""
    options = site["server"]["options"]
    if site["server"]["kind"] == "mod_wsgi" and options.get("mode") == "embedded":
        for option in sorted({*options} - {"mode"}):
            text = "has no effect with mode: embedded; it is an option of the processes of mode: daemon"
            yield ("server", "options", option), text


def keepalive(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield servers that close a connection after its request, or before the proxy does."""
    if not site["proxy"]["keepalive"] or site["proxy"]["kind"] == "none":
        return
    server = site["server"]
    kind, options = server["kind"], server["options"]
    is_uvicorn = "uvicorn" in (kind, options.get("worker_class"))
    is_sync = server["threads"] == 1 and options.get("worker_class", "sync") == "sync"
    if kind not in ("gunicorn", "uvicorn") or (kind == "gunicorn" and is_sync):
        what = "gunicorn with worker_class sync" if kind == "gunicorn" else kind
        text = f"not supported with {what}; it is with uvicorn, and with gunicorn and threads, gevent or uvicorn"
        yield ("proxy", "keepalive"), text
    elif is_uvicorn and server["max_requests"]:
        text = "expected 0 with proxy:keepalive, since uvicorn cuts the connections of a process that it replaces"
        yield ("server", "max_requests"), f"{text}, got {server['max_requests']}"
    for option in sorted({"keepalive", "timeout_keep_alive"} & {*options}):
        if is_number(options[option]) and options[option] <= KEPT_IDLE:
            text = f"expected more than the {KEPT_IDLE} seconds that the proxy keeps a connection"
            yield ("server", "options", option), f"{text}, got {options[option]}"
