"""The parts of a site's hosts that do something for its other hosts: what contradicts them, and their states.

A part is `PART` of a module in this folder, and its name is one of the schema's; it is listed nowhere else. Hosts with
the parts `app` and `worker` have the releases themselves.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.pillar.check import Problem

Site = dict[str, Any]  # the configuration of a site
Compiled = Mapping[str, Any]  # what `pillar.compiler.compile` returns
States = dict[str, Any]


#: What an apply does on a host with sites, in its order; the first two and the watch are for any host.
_STEPS = ("sync", "clean", "place", "host", "watch", "proxy", "mysql", "postgres", "supervisor", "site")


class Part(NamedTuple):
    """A part of a site's hosts.

    Attributes:
        name: in the pillar, and of its states as an SLS, ``django.<name>``.
        states: returns the states of a host, by their ids.
        is_due: whether an apply has them.
        before: the part of an apply that they come before.
        rules: yields what contradicts the part within a site.
        has_server: whether the hosts of a release use a server of it, for which the master has a password.
        phase: of a deployment, in which these hosts are asked what they have; empty where they are not.
        verb: of `django_fleet` that they are asked with.
        what: what they have, if it lets in the site's hosts alone.
    """

    name: str
    states: Callable[[Compiled], States]
    is_due: Callable[[Compiled], bool]
    before: str = "site"
    rules: Callable[[Site, Site], Iterator[Problem]] | None = None
    has_server: bool = False
    phase: str = ""
    verb: str = ""
    what: str = ""


@functools.cache
def parts() -> tuple[Part, ...]:
    """Return every part, in the order of their states."""
    folder = Path(__file__).parent
    names = sorted(path.stem for path in folder.glob("[a-z]*.py") if "\nPART = " in path.read_text(encoding="utf-8"))
    found = [importlib.import_module(f"django_formula.pillar.{name}").PART for name in names]
    return tuple(sorted(found, key=lambda part: (_STEPS.index(part.before), part.name)))


def contradictions(site: Site, own: Site) -> Iterator[Problem]:
    """Yield what contradicts the parts of a site's hosts."""
    for part in parts():
        yield from part.rules(site, own) if part.rules else ()


def order(django: Compiled) -> list[str]:
    """Return the parts of an apply, in their order; those that are made by templates among them."""
    has_sites = bool(django["sites"])
    due = dict.fromkeys(_STEPS, has_sites) | {"sync": True, "clean": bool(django["absent"]), "watch": True}
    due |= {engine: engine in django["servers"] for engine in ("mysql", "postgres")}
    due["supervisor"] = has_sites and django["process"] == "supervisor"
    names = []
    for step in _STEPS:
        names += [part.name for part in parts() if part.before == step and part.is_due(django)]
        names += [step] if due[step] else []
    return names


def gone(django: Compiled, served: Mapping[str, Any]) -> list[str]:
    """Return the names of the sites of the pillar for which this host does not have a part."""
    return [name for name in [*django["sites"], *django["absent"]] if name not in served]
