"""Sites that are pushed to their host by git: `push`; and the names that they and those with `hook` need."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from django_formula.pillar.check import Problem

#: What git calls a branch, and what is none.
_NO_BRANCH = re.compile(r"[0-9a-f]{40}|refs/.*")
#: What the names of users and groups end in that a site has besides its own, by the option.
_OWN = {("push",): ("-push", "-ask"), ("hook",): ("-hook", "-ask"), ("releases", "wait"): ("-wait",)}


def contradictions(sites: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what contradicts itself in the sites of a host that are pushed."""
    yield from _taken_names(sites)
    for name, site in sorted(sites.items()):
        if site["state"] == "absent" or not site.get("push"):
            continue
        path = ("django", "sites", name)
        if not site["push"]["keys"]:
            yield (*path, "push", "keys"), "missing: the SSH keys of who may push, such as {ada: ssh-ed25519 AAAA…}"
        if _NO_BRANCH.fullmatch(site["revision"]):
            yield (*path, "revision"), "expected the name of a branch, which is what can be pushed"
        owners: dict[str, str] = {}
        for owner, entry in sorted(site["push"]["keys"].items()):
            other = owners.setdefault(_key(entry), owner)
            if other != owner and _key(entry):
                yield (*path, "push", "keys", owner), f"is the key of {other} too: a key tells who has pushed"


def _taken_names(sites: Mapping[str, Any]) -> Iterator[Problem]:
    users = {user: name for name, site in sites.items() for user in (name, site["user"])}
    for name, site in sorted(sites.items()):
        for path, endings in _OWN.items():
            *maps, option = path
            is_used = site["state"] != "absent" and functools.reduce(dict.__getitem__, maps, site).get(option)
            for own in (f"{name}{ending}" for ending in endings if is_used):
                if own in users:
                    text = f"needs the name {own}, which site {users[own]} has: rename one of them"
                    yield ("django", "sites", name, *path), text


def _key(entry: Any) -> str:
    """Return a key without the comment that comes after it."""
    return " ".join((entry if isinstance(entry, str) else entry.get("key", "")).split()[:2])


def complete(site: dict[str, Any]) -> None:
    """Give a site that is pushed its repository and its branch; to be called once contradictions are found."""
    if not site.get("push"):
        return
    site["repository"] = f"{site['root']}/push.git"
    site["revision"] = "main" if site["revision"] == "HEAD" else site["revision"]
    keys = {name: {"key": one} if isinstance(one, str) else one for name, one in site["push"]["keys"].items()}
    keys = {name: {"from": [], **one} for name, one in keys.items()}
    site["push"] = {**site["push"], "keys": keys}
