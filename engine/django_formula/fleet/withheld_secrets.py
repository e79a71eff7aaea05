"""Plain secrets of a site's pillar, which the master gives only to the hosts that use them.

Salt gives the same pillar to every minion that `top.sls` names. What this module returns is merged over it, so that a
host gets `WITHHELD` where it has no use for a secret. References (``sdb://``) and paths are no secrets, and stay.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from django_formula.kind.kinds import RELEASED

#: What a host gets instead of a secret. It has the form of a reference, which is valid wherever a secret is.
WITHHELD = "sdb://withheld/the-part-of-this-host-does-not-use-it"
#: The parts that use a secret, by its path in a site's pillar, with ``*`` for any name.
USES: dict[tuple[str, ...], Collection[str]] = {
    ("deploy_key",): RELEASED,
    ("index", "password"): RELEASED,
    ("secret_key",): RELEASED,
    ("secrets", "*"): RELEASED,
    ("secrets", "*", "value"): RELEASED,
    ("database", "password"): RELEASED,
    ("databases", "*", "password"): RELEASED,
    ("queue", "password"): RELEASED,
    ("cache", "password"): RELEASED,
    ("caches", "*", "password"): RELEASED,
    ("email", "password"): RELEASED,
    ("static", "push", "secret"): RELEASED,
    ("static", "push", "ssh_key"): RELEASED,
    ("container", "login", "password"): RELEASED,
    ("balancer", "status", "password"): ("balancer",),
    ("tls", "certificate"): ("app", "balancer"),
    ("tls", "key"): ("app", "balancer"),
    ("tls", "eab", "key"): ("app", "balancer"),
}

Parts = Collection[str]


def of_site(site: Mapping[str, Any], parts: Parts, all_parts: Parts) -> dict[str, Any]:
    """Return what is merged over the pillar of a site for one of its hosts.

    Args:
        site: its pillar, over that of the defaults.
        parts: those of the host; none for a minion that is no host of the site.
        all_parts: those of all hosts of the site. Behind a balancer, no other host has certificates.
    """
    unused = {path for path, users in USES.items() if not _uses(path, users, parts, all_parts)}
    replaced = _replaced(site, unused, ())
    return replaced if isinstance(replaced, dict) else {}


def of_defaults(defaults: Mapping[str, Any], sites: Collection[tuple[Parts, Parts] | None]) -> dict[str, Any]:
    """Return what is merged over the defaults of all sites: a secret is withheld if it is from each of them.

    Args:
        defaults: their pillar.
        sites: for each site the parts of this host and those of all hosts; None for one that is on this host alone.
    """
    known = [one for one in sites if one]
    if len(known) < len(sites):
        return {}
    unused = {path for path, users in USES.items() if not any(_uses(path, users, *one) for one in known)}
    replaced = _replaced(defaults, unused, ())
    return replaced if isinstance(replaced, dict) else {}


def _uses(path: tuple[str, ...], users: Parts, parts: Parts, all_parts: Parts) -> bool:
    """Return whether a host uses a secret."""
    if path[0] == "tls" and "balancer" in all_parts:
        users = ("balancer",)
    return not {*users}.isdisjoint(parts)


def _replaced(value: Any, unused: Collection[tuple[str, ...]], path: tuple[str, ...]) -> Any:
    """Return the part of a pillar that is withheld, with the same keys; None where nothing is."""
    if isinstance(value, dict):
        below = {name: _replaced(one, unused, (*path, str(name))) for name, one in value.items()}
        return {name: one for name, one in below.items() if one is not None} or None
    if value is None or not any(_matches(path, one) for one in unused) or _is_reference(str(value), path):
        return None
    return WITHHELD


def _matches(path: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    return len(path) == len(pattern) and all(one in ("*", name) for name, one in zip(path, pattern, strict=True))


def _is_reference(value: str, path: tuple[str, ...]) -> bool:
    """Return whether a value is no secret itself; a certificate or its key may be a file."""
    return value.startswith(("sdb://", "salt://", "/") if path[0] == "tls" else "sdb://")
