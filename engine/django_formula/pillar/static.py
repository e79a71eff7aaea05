"""Contradictions about static files that are served or pushed elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from django_formula.pillar.check import Problem


def url(site: dict[str, Any], _own: Any) -> Iterator[Problem]:
    """Yield a URL of static files that is set twice."""
    if site["static"].get("url") and "STATIC_URL" in site["settings"]:
        yield ("settings", "STATIC_URL"), "static:url sets it too: remove one of them"


def between(sites: dict[str, Any]) -> Iterator[Problem]:
    """Yield sites that push to the same place, where each would delete files of the other."""
    pushing = {name: site for name, site in sites.items() if site["static"].get("push")}
    places = {name: _place(site) for name, site in pushing.items()}
    for (first, one), (second, other) in itertools.combinations(places.items(), 2):
        if one == other:
            key = "prefix" if sites[second]["static"]["push"].get("kind") == "s3" else "path"
            text = f"site {first} pushes to the same place, and each would delete the other's files: choose another one"
            yield ("django", "sites", second, "static", "push", key), text


def _place(site: dict[str, Any]) -> tuple[Any, ...]:
    push = site["static"]["push"]
    of_store = ("endpoint", "region", "bucket", "prefix") if push.get("kind") == "s3" else ("host", "path")
    return tuple(push[name] for name in of_store)
