"""The requests of a site on several hosts, in the master's store: of those that wait the newest is deployed.

The runner that has their lock works them off, until none waits; another one has done its part with its request on disk.
Where that runner is killed, what ends its deployment goes on with them.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.audit.caller import Caller
from django_formula.fleet.deployment import Overtaken
from django_formula.fleet.store import Store
from django_formula.host.commands import DeploymentError
from django_formula.request import checks, queue
from django_formula.request.queue import Request
from django_formula.untrusted.text import in_command, tell

#: Seconds between two looks at what is waited for, and those without a runner after which a request is abandoned.
_TICK, _ABANDONED = 0.5, 60.0
#: What is returned of a request whose checks have not passed yet.
_WAITS = "waits"
#: Seconds after which a deployment of another master, of which nothing was heard, keeps no request waiting.
_ENTERED = 600.0


class Verbs(NamedTuple):
    """What the runner does for requests; a revision of None is the one of the pillar.

    Attributes:
        deploy: releases a revision for who has asked; returns what is active then.
        look: returns the commit of a revision.
        token: returns the secret that a text of the pillar is, or refers to.
    """

    deploy: Callable[[str | None, Caller], str]
    look: Callable[[str | None], str]
    token: Callable[[str], str]


class Place(NamedTuple):
    """Where the store has the requests of a site, and who has approved a commit for it."""

    root: Path
    name: str


def place(store: Store) -> Place:
    """Return where the store has those of its site."""
    return Place(store.folder, store.site)


def make(store: Store) -> None:
    """Make the folder of requests, for root only."""
    store.make()
    queue.folder(place(store)).mkdir(mode=0o700, exist_ok=True)


def is_open(store: Store) -> bool:
    """Return whether a request waits, runs, or was interrupted."""
    return any(path.exists() for path in queue.paths(place(store)))


def waits(store: Store) -> bool:
    """Return whether a request waits."""
    return queue.waiting(place(store)) is not None


def put(store: Store, revision: str | None, by: Caller, *, is_promoted: bool = False) -> Request:
    """Have a request wait, instead of the one that waits.

    Args:
        is_promoted: whether `django.promote` asks; other requests are refused for a site with `promote`.

    Raises:
        DeploymentError: the store knows no host of the site, or it gets its commits from another one.
    """
    site, wanted = store.site, store.promotion()
    if wanted and not is_promoted:
        raise DeploymentError(
            f"{site} gets its commits from {wanted['from']}",
            hint=f"run: {in_command('salt-run', 'django.promote', site)}; or deploy it now: "
            f"{in_command('salt-run', 'django.deploy', site, *filter(None, [revision]))}",
        )
    if not store.hosts():
        raise DeploymentError(
            f"the master knows no hosts of {site}",
            hint="name them in the pillar (hosts), and apply on them: salt '*' state.apply django",
        )
    make(store)
    return queue.put(place(store), revision or "", by)


def work(store: Store, verbs: Verbs) -> None:
    """Work off the requests of a site, one after another, until none waits; nothing where another runner does."""
    while is_open(store):  # again after the lock is free: who comes in between finds it held, and goes
        lock = queue.work_lock(place(store))
        try:
            lock.take()
        except DeploymentError:
            return
        try:
            gate = checks.Gate()
            while is_open(store):
                _work(store, verbs, gate)
        finally:
            lock.release()


def _work(store: Store, verbs: Verbs, gate: checks.Gate) -> None:
    kept = place(store)
    if store.is_deployed(_ENTERED):  # meanwhile a newer request may take the place of the one that waits
        time.sleep(_TICK)
        return
    queue.recover(kept, store.release()["commit"])
    waiting = queue.waiting(kept)
    if not waiting:
        return
    problem = _problem(store, waiting, verbs, gate)
    if problem == _WAITS:
        time.sleep(_TICK)
        return
    request = queue.take(kept, waiting.number)  # a newer one has checks of its own
    if not request:
        return
    if problem:
        queue.finish(kept, request, queue.FAILED, problem)
        return
    if verdict := gate.verdict or _verdict(store, request.commit):
        queue.finish(kept, request, *verdict)
        return
    try:
        status, why = queue.RELEASED, verbs.deploy(gate.commit or request.commit or None, request.by)
    except Overtaken as error:
        status, why = queue.SUPERSEDED, error.message
    except DeploymentError as error:
        if error.transient and store.is_deployed(_ENTERED):
            return  # another deployment began just now: the request is recovered after it
        status, why = queue.FAILED, str(error)
    queue.finish(kept, request, status, why)


def _problem(store: Store, request: Request, verbs: Verbs, gate: checks.Gate) -> str:
    """Return why a request cannot be judged by its checks; empty where it may be worked off, `_WAITS` where not yet."""
    before = gate.why
    try:
        wanted = store.checks()
        subject = checks.Subject(
            wanted,
            commit=lambda: verbs.look(request.commit or None),
            token=lambda: verbs.token(wanted["token"]),
            verdict=lambda commit: _verdict(store, commit),
        )
        if gate.admit(place(store), request, subject):
            return ""
    except DeploymentError as error:
        return str(error)
    if gate.why != before:
        tell(f"{store.site}: {gate.why}", is_error=True)
    return _WAITS


def _verdict(store: Store, commit: str) -> tuple[str, str] | None:
    """Return status and reason of a request for the commit that is active, which needs no deployment."""
    is_active = commit and commit == store.release()["commit"]
    return (queue.RELEASED, "it was active already") if is_active else None


def ended(store: Store, request: Request, *, wait: bool) -> dict[str, Any]:
    """Return the status of a request, with `wait` the final one.

    Raises:
        DeploymentError: no runner works it off.
    """
    kept, site, seen = place(store), store.site, time.monotonic()
    about = {"request": request.number, "commit": request.commit}
    while not (found := queue.ended(kept, request.number)):
        if not wait:
            return {**about, "status": queue.WAITING, "why": f"see: salt-run django.requests {site}"}
        time.sleep(_TICK)
        if queue.work_lock(kept).holder():
            seen = time.monotonic()
        elif time.monotonic() - seen > _ABANDONED:
            raise DeploymentError(
                f"the request of {site} waits, and no runner works it off",
                hint=f"request it again: salt-run django.request {site}",
            )
    return {**about, "status": found["status"], "why": found["why"]}


def rows(store: Store) -> list[dict[str, Any]]:
    """Return a row for each request of a site, the newest first, those that wait with what for."""
    kept = place(store)
    return [
        row | ({"why": checks.waits_for(kept, row["request"])} if row["status"] == queue.WAITING else {})
        for row in queue.rows(kept)
    ]
