"""Contradictions about the containers of a site."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django_formula.pillar.check import Problem

Site = dict[str, Any]  # the configuration of a site


def container(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield limits that are a part of the host's, which engines do not take."""
    if site.get("container") is None:
        return
    places: dict[tuple[str, ...], Any] = {("resources",): site["resources"]}
    places |= {("workers", name, "resources"): one["resources"] for name, one in site.get("workers", {}).items()}
    for at, limits in places.items():
        for name in ("MemoryMax", "TasksMax"):
            if str(limits.get(name, "")).endswith("%"):
                yield (*at, name), f"expected a number in a container, got {limits[name]}"


def without_systemd(sites: dict[str, Site]) -> Iterator[Problem]:
    """Yield the sites in containers of a host where systemd is not PID 1, whose control groups engines need."""
    for name, site in sorted(sites.items()):
        if site.get("container") is not None:
            text = "supported where systemd is PID 1, which it is not on this host"
            yield ("django", "sites", name, "container"), f"{text}: remove it, or see docs/guides/compose.md"
