"""What the workers of a site do: `django.workers`, the lines of `django.status`, `django.restart`."""

import os
import time
from pathlib import Path
from typing import Any

from django_formula.host import clock, proc
from django_formula.host.commands import DeploymentError
from django_formula.kind import kinds
from django_formula.process import contract
from django_formula.project import queue as project_queue
from django_formula.proxy import maintenance
from django_formula.release import instances, releases
from django_formula.release import workers as release_workers
from django_formula.release.releases import Release
from django_formula.release.workers import Finishing
from django_formula.secret import secrets as secret_secrets
from django_formula.site.sites import Site
from django_formula.store import stores
from django_formula.worker import workers as worker_workers
from django_formula.worker.workers import State

#: Names of tasks that a line has.
_NAMES = 5


def rows(site: Site, live: Release | None) -> list[dict[str, Any]]:
    """Return the rows of `django.workers`: those of the active release, then what older ones still finish."""
    states = release_workers.states(site, live.path) if live else {}
    found = [_row(site, live.path, name, state) for name, state in states.items()] if live else []
    for one in _finishing(site, live):
        found.append(_row(site, one.release, one.worker, one.state, does="finishes tasks"))
    return found


def _row(site: Site, release: Path, name: str, state: State | None, does: str = "") -> dict[str, Any]:
    pid = instances.process_manager(site, release).pid(site, release, name)
    return {
        "worker": name,
        "kind": worker_workers.recorded(release)[name]["kind"],
        "release": release.name,
        "unit": contract.unit(site, release, name),
        "does": (does or _does(site, state)) if pid else "does not run",
        "active": state.active if state and pid else None,
        "reserved": state.reserved if state and pid else None,
        "done": state.done if state and pid else None,
        "tasks": ", ".join(_named(state)) if pid else "",
        "pid": pid,
        "memory": f"{proc.memory_of_tree(pid) >> 20} MB" if pid else "",
        "age": _age(pid) if pid else "",
    }


def _age(pid: int) -> str:
    return clock.age(clock.timestamp(time.time() - proc.age(pid)))


def _does(site: Site, state: State | None) -> str:
    """Return what a worker of the active release does."""
    if state is None:
        return "starting"
    if state.failed and not state.active:
        return f"fails ({state.failed} times)"
    if state.fetching:
        return "takes tasks"
    return "waits until maintenance ends" if maintenance.holds_workers(site) else "takes no tasks"


def _named(state: State | None) -> list[str]:
    names = state.tasks if state else ()
    return [*names[:_NAMES], *([f"and {len(names) - _NAMES} more"] if len(names) > _NAMES else [])]


def _finishing(site: Site, live: Release | None) -> list[Finishing]:
    older = [one.path for one in releases.releases(site) if not live or one.name != live.name]
    return release_workers.finishing(site, older)


def status(site: Site, live: Release | None) -> dict[str, str]:
    """Return the workers' lines of `django.status`; empty without workers."""
    states = release_workers.states(site, live.path) if live else {}
    manager = instances.process_manager(site, live.path) if live and states else None
    running = {name for name in states if manager and live and manager.pid(site, live.path, name)}
    return {
        "workers": ", ".join(_short(site, name, state, name in running) for name, state in states.items()),
        "finishing": ", ".join(
            f"{one.release.name.split('-')[0]} {one.worker}{_count(one.state)}" for one in _finishing(site, live)
        ),
    }


def _short(site: Site, name: str, state: State | None, runs: bool) -> str:
    return f"{name} {_does(site, state)}{_count(state)}" if runs else f"{name} does not run"


def _count(state: State | None) -> str:
    """Return the number of tasks that a worker has, and their names, without a comma: that separates workers."""
    if not state or not state.active:
        return ""
    names = "; ".join(name.replace(",", ";") for name in _named(state))
    return f" ({state.active} running{f': {names}' if names else ''})"


def restart(site: Site, live: Release, worker: str | None) -> dict[str, str]:
    """Restart the workers of the active release, or one of them; each finishes its tasks first.

    Returns:
        What each does, by name; it is not waited for.

    Raises:
        DeploymentError: there is no such worker.
    """
    check_name(live, worker)
    states = release_workers.states(site, live.path)
    manager = instances.process_manager(site, live.path)
    chosen = [worker] if worker else [*states]
    for name in chosen:
        manager.restart(site, live.path, name)
    return {name: f"restarts{_first(states[name])}" for name in chosen}


def _first(state: State | None) -> str:
    return f"; tasks that run are finished first: {state.active}" if state and state.active else ""


def refuse_without_server(release: Release, worker: str | None) -> None:
    """Check that a release has a server, where no worker is named.

    Raises:
        DeploymentError: this host only runs workers of the site.
    """
    if worker is None and not instances.serves(release.path):
        names = ", ".join(worker_workers.recorded(release.path)) or "none"
        raise DeploymentError(
            f"{release.name} has no application server on this host, which has the part worker",
            hint=f"name one of its workers: {names}",
        )


def check_name(release: Release, worker: str | None) -> None:
    """Check that a release has a worker of this name, or none is asked for.

    Raises:
        DeploymentError: there is no such worker.
    """
    names = [*worker_workers.recorded(release.path)]
    if worker is not None and worker not in names:
        hint = f"its workers are {', '.join(names)}"
        hint = hint if names else release.site.to_workers()
        raise DeploymentError(f"{release.name} has no worker {worker!r}", hint=hint)


# What waits in their queues: `django.queue`

#: What is counted of a queue, as far as its kind has it.
_COUNTS = ("waiting", "unacknowledged", "abandoned", "parked", "failed", "scheduled")
#: Characters of a task's name that are shown; the queue's tasks may be anybody's.
_LONGEST = 200


def queue_rows(site: Site, live: Release, *, names: bool, give_back: bool, drop: str) -> list[dict[str, Any]]:
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
    secrets = secret_secrets.known(site)
    task = f"task-{os.getpid()}"  # the unit of a task named queue would be that of the site's own queue
    found = project_queue.read(
        site, live.path, live.facts, secrets, names=names, give_back=give_back, drop=drop, task=task
    )
    memory = _queue_memory(site)
    return [{"queue": name, **_queue_row(queue), "memory": memory} for name, queue in sorted(found.items())]


def _queue_row(queue: dict[str, Any]) -> dict[str, Any]:
    counts = {key: queue.get(key) for key in _COUNTS}
    return {**counts, **{key: _counted(queue.get(key)) for key in ("names", "parked_names")}}


def _counted(names: dict[str, int] | None) -> dict[str, int]:
    """Return the numbers of tasks by their names, the most first."""
    ordered = sorted((names or {}).items(), key=lambda one: (-one[1], one[0]))
    return {"".join(filter(str.isprintable, name))[:_LONGEST]: count for name, count in ordered}


def _queue_memory(site: Site) -> str:
    """Return the memory of the site's own queue, empty where it has none."""
    for kind, server in stores.own_servers(site):
        if server.name == "queue":
            usage = kind.usage(server)
            return f"{usage.used >> 20}M of {usage.limit >> 20}M"
    return ""
