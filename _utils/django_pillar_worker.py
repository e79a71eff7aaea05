"""The workers of a site: what their kinds make of the configuration, and what contradicts itself in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import django_kinds
from django_pillar_check import Problem, Rules
from django_pillar_layers import fill_by_kind

Site = dict[str, Any]  # the configuration of a site

#: The options of every kind of worker.
OF_EVERY_KIND = ("kind", "patience", "resources")
#: The variable by which Celery takes the signals that end a worker for others, and why a site has none.
REMAP = "REMAP_SIGTERM"


def run() -> dict[str, Any]:
    """Return nothing: Salt's py renderer only registers this module (see `django_pillar_render`)."""
    return {}


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
            kinds = ", ".join(django_kinds.WORKERS)
            yield ("django", "sites", name, *place, "kind"), f"missing: expected one of {kinds}"
            continue
        yield from ((("django", "sites", name, *place, *key), text) for key, text in _unused(chosen, of_one))
        own_part = (own.get("workers") or {}).get(worker) or {}
        yield from fill_by_kind(place, chosen, own_part, of_one, name)
        used = (*OF_EVERY_KIND, *django_kinds.WORKERS[chosen["kind"]].used_options)
        resources = {**site["resources"], **chosen["resources"]}
        completed[worker] = {**{option: chosen[option] for option in used}, "resources": resources}
    if completed:
        site["workers"] = completed


def _unused(worker: dict[str, Any], rules: Rules) -> Iterator[Problem]:
    """Yield options that have no effect with the worker's kind."""
    used = {*OF_EVERY_KIND, *django_kinds.WORKERS[worker["kind"]].used_options}
    for option, rule in rules["properties"].items():
        if option not in used and worker[option] != rule["default"]:
            with_effect = [kind for kind, facts in django_kinds.WORKERS.items() if option in facts.used_options]
            text = f"has no effect with kind: {worker['kind']}; it is an option of {', '.join(with_effect)}"
            yield (option,), text


def commands(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield workers of kind command without one."""
    for name, worker in site.get("workers", {}).items():
        if worker["kind"] == "command" and not worker["command"]:
            yield ("workers", name, "command"), "missing: expected a command on one line, such as manage.py follow_feed"


def single(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield a second worker of a kind of which a site has one."""
    first: dict[str, str] = {}
    for name, worker in site.get("workers", {}).items():
        kind = worker["kind"]
        other = first.setdefault(kind, name)
        if django_kinds.WORKERS[kind].is_single and other != name:
            yield ("workers", name, "kind"), f"{other} is of kind {kind} too, and two of them send each task twice"


def signals(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield the variable by which a worker of Celery would lose what it has in hand when it is stopped."""
    if any(worker["kind"] == "celery" for worker in site.get("workers", {}).values()):
        for key in ("environment", "secrets"):
            if REMAP in site[key]:
                text = "refused: with it Celery takes the SIGTERM of a stop for an order to abort running tasks"
                yield (key, REMAP), text


def resources(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield limits that only systemd enforces, on a host with another process manager."""
    for name, worker in site.get("workers", {}).items() if site["process"] != "systemd" else ():
        if worker["resources"] and not site["resources"] and site.get("container") is None:
            manager = site["process"]
            text = f"supported with systemd only, and the process manager of this host is {manager}: remove it"
            yield ("workers", name, "resources"), text
