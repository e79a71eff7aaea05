"""The workers of a site: what their kinds make of the configuration, and what contradicts itself in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django_formula.kind import kinds
from django_formula.pillar.check import Problem, Rules
from django_formula.pillar.layers import fill_by_kind
from django_formula.pillar.rules import used

Site = dict[str, Any]  # the configuration of a site

#: The variable by which Celery takes the signals that end a worker for others, and why a site has none.
REMAP = "REMAP_SIGTERM"


def complete(site: Site, own: Site, rules: Rules, name: str) -> Iterator[Problem]:
    """Complete the workers of a site by their kinds, and yield what these refuse; without workers nothing changes.

    Args:
        site: the configuration, which is changed.
        own: what the site itself sets.
        rules: of a site.
        name: of the site.
    """
    of_one = rules["properties"]["workers"]["additionalProperties"]
    completed = {}
    for worker, chosen in (site.pop("workers", None) or {}).items():
        place = ("workers", worker)
        if not chosen["kind"]:
            continue
        own_part = (own.get("workers") or {}).get(worker) or {}
        yield from fill_by_kind(place, chosen, own_part, of_one, name)
        resources = {**site["resources"], **chosen["resources"]}
        completed[worker] = {**{option: chosen[option] for option in used(of_one, chosen)}, "resources": resources}
    if completed:
        site["workers"] = completed


def single(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield a second worker of a kind of which a site has one."""
    first: dict[str, str] = {}
    for name, worker in site.get("workers", {}).items():
        kind = worker["kind"]
        other = first.setdefault(kind, name)
        if kinds.WORKERS[kind].is_single and other != name:
            yield ("workers", name, "kind"), f"{other} is of kind {kind} too, and two of them send each task twice"


def signals(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield the variable by which a worker of Celery would lose what it has in hand when it is stopped."""
    if any(worker["kind"] == "celery" for worker in site.get("workers", {}).values()):
        for key in ("environment", "secrets"):
            if REMAP in site[key]:
                text = "refused: with it Celery takes the SIGTERM of a stop for an order to abort running tasks"
                yield (key, REMAP), text
