"""What waits in the queues of a site's workers: `django.queue`."""

import os
from typing import Any

from django_formula.host.commands import DeploymentError
from django_formula.kind import kinds
from django_formula.project import queue as project_queue
from django_formula.release.releases import Release
from django_formula.secret import secrets as secret_secrets
from django_formula.site.sites import Site
from django_formula.store import stores

#: What is counted of a queue, as far as its kind has it.
_COUNTS = ("waiting", "unacknowledged", "abandoned", "parked", "failed", "scheduled")
#: Characters of a task's name that are shown; the queue's tasks may be anybody's.
_LONGEST = 200


def rows(site: Site, live: Release, *, names: bool, give_back: bool, drop: str) -> list[dict[str, Any]]:
    """Return a row for each queue of the workers of the active release.

    Args:
        names: with the number of waiting tasks by name.
        give_back: give parked tasks back that the active release knows.
        drop: delete parked tasks of this name.

    Raises:
        DeploymentError: the site has no such workers, or the broker does not answer.
    """
    workers = (site.config.get("workers") or {}).values()
    if not any(kinds.WORKERS[worker["kind"]].takes_tasks for worker in workers):
        raise DeploymentError(f"no worker of {site.name} takes tasks from a queue on this host", hint=site.to_workers())
    if (give_back or drop) and not any(worker["kind"] == "celery" for worker in workers):
        raise DeploymentError("only tasks of Celery are parked", hint="leave out give_back and drop")
    secrets = list(secret_secrets.values(site, {}).values())
    task = f"task-{os.getpid()}"  # the unit of a task named queue would be that of the site's own queue
    found = project_queue.read(
        site, live.path, live.facts, secrets, names=names, give_back=give_back, drop=drop, task=task
    )
    memory = _memory(site)
    return [{"queue": name, **_row(queue), "memory": memory} for name, queue in sorted(found.items())]


def _row(queue: dict[str, Any]) -> dict[str, Any]:
    counts = {key: queue.get(key) for key in _COUNTS}
    return {**counts, **{key: _counted(queue.get(key)) for key in ("names", "parked_names")}}


def _counted(names: dict[str, int] | None) -> dict[str, int]:
    """Return the numbers of tasks by their names, the most first."""
    ordered = sorted((names or {}).items(), key=lambda one: (-one[1], one[0]))
    return {"".join(filter(str.isprintable, name))[:_LONGEST]: count for name, count in ordered}


def _memory(site: Site) -> str:
    """Return the memory of the site's own queue, empty where it has none."""
    for kind, server in stores.own_servers(site):
        if server.name == "queue":
            usage = kind.usage(server)
            return f"{usage.used >> 20}M of {usage.limit >> 20}M"
    return ""
