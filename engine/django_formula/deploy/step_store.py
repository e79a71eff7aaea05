"""The step `store`: the servers of the site's own for its queue and caches."""

import time
from collections.abc import Iterator

from django_formula.deploy.deployment import Changes, Deployment
from django_formula.release import releases as release_releases
from django_formula.release import workers
from django_formula.store import service, setup, stores
from django_formula.store.contract import OwnServer

#: Seconds in which workers have to finish what they have taken, before the restart of a queue is put off.
_PATIENCE = 30.0
_PAUSE = 0.1


def store(deployment: Deployment) -> Iterator[Changes]:
    """Have the site's queue and caches in servers of its own; those that the pillar has no more are removed last."""
    servers = [*stores.own_servers(deployment.site)]
    if servers:
        service.try_sandbox(deployment.site)
    pending = setup.pending(servers, deployment.templates)
    if not pending:
        return
    yield {name: change for one in pending for name, change in one.changes().items()}
    deployment.take_lock()
    for found in pending:
        one, freed = setup.free(found)
        deployment.warn(filter(None, [freed, setup.apply(one)]))
        if one.restarts and one.server.name == "queue":
            _restart_queue(deployment, one.server)
        elif one.restarts:
            setup.restart(one.server)


def _restart_queue(deployment: Deployment, server: OwnServer) -> None:
    """Restart a queue while no worker takes tasks or has one in hand; otherwise warn, and leave it to a later apply.

    What a worker has taken when its connection ends is given to another one only after Celery's visibility timeout.
    """
    deployment.switch_lock.take()
    try:
        deadline = time.monotonic() + _PATIENCE
        while busy := _busy(deployment, server):
            if time.monotonic() > deadline:
                text = f"{server.unit} keeps running as it was started, until a later apply: {busy}, and a restart now"
                deployment.warn([f"{text} would delay them by Celery's visibility timeout"])
                return
            time.sleep(_PAUSE)
        setup.restart(server)
    finally:
        deployment.let_tasks_go()


def _busy(deployment: Deployment, server: OwnServer) -> str:
    """Return which tasks a restart of the queue would delay; empty where there is none."""
    site = deployment.site
    releases = [release.path for release in release_releases.releases(site)]
    running = [one for one in workers.finishing(site, releases) if one.state]
    names = [
        one.worker for one in running if one.state and (one.state.fetching or one.state.active or one.state.reserved)
    ]
    taken = setup.taken(server)
    found = [f"workers have tasks in hand ({', '.join(sorted(names))})"] if names else []
    return " and ".join([*found, *([f"{taken} messages are not acknowledged"] if taken else [])])
