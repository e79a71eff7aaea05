"""What waits in the queues of a site's workers, read by a program in the site's virtualenv as its user."""

import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.host.commands import seconds
from django_formula.kind import kinds
from django_formula.process.command import DEPLOYMENT, ProjectCommand
from django_formula.project import program
from django_formula.site.sites import Site
from django_formula.untrusted import shapes
from django_formula.worker import workers as worker_workers

PROGRAM = "django_formula_queue.py"
_COUNTS = ({str: int}, types.NoneType)
_SHAPE = {
    "queues": {
        str: {
            "waiting": int,
            **dict.fromkeys(("unacknowledged?", "abandoned?", "parked?", "failed?", "scheduled?"), int),
            **dict.fromkeys(("names?", "parked_names?"), _COUNTS),
        }
    }
}


def read(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    secrets: list[str],
    *,
    names: bool = False,
    give_back: bool = False,
    drop: str = "",
    task: str = DEPLOYMENT,
) -> dict[str, dict[str, Any]]:
    """Return what is in the queues of the workers of a release: queue → ``waiting``, and with Celery ``parked``.

    With Redis it has ``unacknowledged`` too, and of these ``abandoned``, whose worker is gone.

    Args:
        names: count by the names of tasks too: ``names`` and ``parked_names``; None where the broker cannot show them.
        give_back: give parked tasks back whose names the release knows.
        drop: delete parked tasks of this name.
        task: the name of the command (`ProjectCommand`).

    Raises:
        DeploymentError: the broker does not answer, or the project does not start.
    """
    workers = _workers(site, facts)
    if not workers:
        return {}
    request = {"mode": "queue", "workers": workers, "modules": worker_workers.modules(facts)}
    command = ProjectCommand(
        site,
        release,
        facts,
        [f"{release}/virtualenv/bin/python", f"{release}/config/{PROGRAM}"],
        doing="reading the queues",
        timeout=seconds(site.config["timeouts"]["start"]),
        stdin=json.dumps({**request, "names": names, "give_back": give_back, "drop": drop}),
        secrets=secrets,
        task=task,
    )
    output = program.run_command(command)
    found: dict[str, dict[str, Any]] = shapes.parse(output, _SHAPE, doing=command.doing)["queues"]
    return found


def _workers(site: Site, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the workers that take tasks from queues; those of Celery with the queues that its app has."""
    apps, found = facts.get("celery", {}), []
    for name, worker in (site.config.get("workers") or {}).items():
        queues = worker.get("queues") or apps.get(name, {}).get("queues")
        if kinds.WORKERS[worker["kind"]].takes_tasks:
            found.append({"kind": worker["kind"], "app": worker.get("app"), "queues": queues or []})
    return found
