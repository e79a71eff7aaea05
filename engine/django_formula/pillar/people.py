"""What people may do with each site: `people`. It is nothing of a site on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django_formula.pillar.check import Problem


def contradictions(sites: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what contradicts itself in the people of the sites of a host: a key is one person's, who has one."""
    keys: dict[str, tuple[str, str]] = {}
    names: dict[str, tuple[str, str]] = {}
    for site, name, person in _people(sites):
        path = ("django", "sites", site, "people", name)
        if not person["may"]:
            yield (*path, "may"), "missing: the functions that this person may call, such as [status, logs]"
        if not person["ssh_key"]:
            continue
        key = _key(person["ssh_key"])
        other, where = keys.setdefault(key, (name, site))
        if other != name:
            yield (*path, "ssh_key"), f"is the key of {other} in site {where}: a key tells who a person is"
        own, where = names.setdefault(name, (key, site))
        if own != key:
            yield (*path, "ssh_key"), f"is not the one of {name} in site {where}: a person has one key on a host"


def compiled(sites: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rights and the keys of people, and take them out of the configurations of the sites.

    Returns:
        ``sites``: functions by site and person, without sites that have no people; ``keys``: by person.
    """
    found: dict[str, Any] = {"sites": {}, "keys": {}}
    for site, name, person in _people(sites):
        found["sites"].setdefault(site, {})[name] = person["may"]
        if person["ssh_key"]:
            found["keys"][name] = person["ssh_key"]
    for configuration in sites.values():
        configuration.pop("people", None)
    return found


def _people(sites: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for site, configuration in sorted(sites.items()):
        if configuration["state"] != "absent":
            for name, person in sorted((configuration.get("people") or {}).items()):
                yield site, name, person


def _key(text: str) -> str:
    """Return a key without the comment that comes after it."""
    return " ".join(text.split()[:2])
