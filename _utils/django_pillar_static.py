"""Contradictions about static files that are served or pushed elsewhere, and about the mount of uploads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import django_kinds
from django_pillar_check import Problem


def run() -> dict[str, Any]:
    """Return nothing: Salt's py renderer only registers this module (see `django_pillar_render`)."""
    return {}


def url(site: dict[str, Any], _own: Any) -> Iterator[Problem]:
    """Yield a URL of static files that is not applied, or set twice."""
    if not site["static"].get("url"):
        return
    if not site["overlay"]:
        yield ("static", "url"), "has no effect with overlay: false; have the project set STATIC_URL"
    if not site["static"]["collect"]:
        yield ("static", "url"), "has no effect with static:collect: false; have the project set STATIC_URL"
    if "STATIC_URL" in site["settings"]:
        yield ("settings", "STATIC_URL"), "static:url sets it too: remove one of them"


def push(site: dict[str, Any], own: dict[str, Any]) -> Iterator[Problem]:
    """Yield a push without static files, with missing options, or with options of another kind."""
    push = site["static"].get("push")
    if not push:
        return
    if not site["static"]["collect"]:
        yield ("static", "push"), "has no effect with static:collect: false: remove one of them"
    kind = push.get("kind")
    if kind not in django_kinds.PUSHES:
        return  # which the schema reports
    for name in django_kinds.PUSHES[kind].needed:
        if not push[name]:
            yield ("static", "push", name), f"missing: kind: {kind} needs it"
    given = (own.get("static") or {}).get("push") or {}
    for other, facts in django_kinds.PUSHES.items():
        for name in facts.options if other != kind else ():
            if given.get(name):
                yield ("static", "push", name), f"has no effect with kind: {kind}: remove it"


def mount(site: dict[str, Any], _own: Any) -> Iterator[Problem]:
    """Yield a mount of uploads that contradicts another option, or that nothing would wait for."""
    if "mount" not in site["media"]:
        return
    if site["media"]["shared"] is False and "fleet" in site:
        yield ("media", "shared"), "expected true, or nothing, with media:mount"
    if site["process"] != "systemd":
        text = f"supported with systemd only, and the process manager of this host is {site['process']}: mount it there"
        yield ("media", "mount"), text


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
