"""Wait for the final status of a request, and tell the steps of its release meanwhile."""

import time
from collections.abc import Callable
from typing import Any

from django_formula.host.commands import DeploymentError
from django_formula.request import queue, unit
from django_formula.request.queue import Request
from django_formula.site.sites import Site
from django_formula.untrusted.text import tell as tell_operator

#: Seconds between two looks at the status and two starts of the program, and those after which there is none.
_TICK, _RESTART, ABANDONED = 0.2, 5.0, 60.0
#: Bytes of the file of steps.
_STEPS = 1 << 14


def begin(site: Site) -> str:
    """Start the program that works requests off; return why it did not start, empty where it did.

    That fails no request: what waits is on disk, and the unit of its paths starts the program too.
    """
    try:
        unit.start(site)
    except (DeploymentError, OSError) as error:
        tell_operator(error, is_error=True)
        return str(error)
    return ""


def follow(site: Site, request: Request, tell: Callable[[str], None] = lambda _step: None) -> dict[str, Any]:
    """Return a request with its final status, as soon as it has one.

    Args:
        tell: is called with each step that its release begins.

    Raises:
        DeploymentError: no program works it off.
    """
    last_seen = started = began = time.monotonic()
    told, problem = 0, ""
    while not (found := queue.ended(site, request.number)):
        time.sleep(_TICK)
        for step in _begun(site, request)[told:]:
            tell(step)
            told += 1
        now = time.monotonic()
        if queue.work_lock(site).holder():
            last_seen = now
        elif now - last_seen > ABANDONED:
            raise DeploymentError(
                f"{request.commit[:12]} waits, and no program has worked the requests of {site.name} off since "
                f"{now - began:.0f} s{f': {problem}' if problem else ''}",
                hint=f"look at journalctl --unit django-{site.name}-requests",
            )
        elif now - started > _RESTART:
            problem = begin(site)
            started = now
    return found


def _begun(site: Site, request: Request) -> list[str]:
    """Return the steps that the release of a request has begun."""
    runs = queue.running(site)
    if not runs or runs.number != request.number:
        return []
    try:
        with open(queue.steps(site), "rb") as file:
            return file.read(_STEPS).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return []
