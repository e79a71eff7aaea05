"""Contradictions about the containers of a site."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django_pillar_check import Problem

Site = dict[str, Any]  # the configuration of a site

LIMITS = ("CPUQuota", "LimitNOFILE", "MemoryMax", "TasksMax")  # what engines limit too
OF_FILE = ("constraints", "packages", "python_packages", "requirements", "writable_packages")  # what it installs
SYSTEMD = ("sandbox", "build_sandbox", "mount")  # what only a unit of systemd has


def run() -> dict[str, Any]:
    """Return nothing: Salt's py renderer only registers this module (see `django_pillar_render`)."""
    return {}


def container(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield what is not supported in containers."""
    if site.get("container") is None:
        return
    if site["server"]["kind"] == "mod_wsgi":
        yield ("container",), "not supported with server:kind mod_wsgi, which runs in Apache: choose another server"
    if site["adopt"]:
        yield ("adopt",), "not supported with container: take over the deployment first, then set container"
    yield from _images(site["container"], site)
    own = next((key for key in ("file", "image") if site["container"][key]), None)
    for key in OF_FILE if own else ():
        if site[key]:
            text = f"has no effect with container:{own}: remove it, and have the Dockerfile install the packages"
            yield (key,), text
    if site["container"]["base"] and site["packages"] and not own:
        text = "has no effect with container:base: remove it, and choose an image that has these packages"
        yield ("packages",), text
    for key in SYSTEMD:
        if site[key]:
            yield (key,), "has no effect in a container, which the engine confines: remove it"
    places: dict[tuple[str, ...], Any] = {("resources",): site["resources"]}
    places |= {("workers", name, "resources"): one["resources"] for name, one in site.get("workers", {}).items()}
    for at, limits in places.items():
        for name in sorted({*limits} - {*LIMITS}):
            yield (*at, name), f"not supported in a container: remove it; {', '.join(LIMITS)} are"
        for name in ("MemoryMax", "TasksMax"):
            if str(limits.get(name, "")).endswith("%"):
                yield (*at, name), f"expected a number in a container, got {limits[name]}"


def without_systemd(sites: dict[str, Site]) -> Iterator[Problem]:
    """Yield the sites in containers of a host where systemd is not PID 1, whose control groups engines need."""
    for name, site in sorted(sites.items()):
        if site.get("container") is not None:
            text = "supported where systemd is PID 1, which it is not on this host"
            yield ("django", "sites", name, "container"), f"{text}: remove it, or see docs/guides/compose.md"


def _images(container: dict[str, Any], site: Site) -> Iterator[Problem]:
    """Yield contradictions about where a site's images come from."""
    given = [key for key in ("file", "image", "base") if container[key]]
    if "base" in given and len(given) > 1:
        text = f"has no effect with container:{given[0]}, whose FROM names the base: remove one of the two"
        yield ("container", "base"), text
    if {"file", "image"} <= {*given}:
        yield ("container", "image"), "is made elsewhere, and container:file builds one here: remove one of the two"
    if container["image"] and site["folder"]:
        yield ("container", "image"), "names a commit, and a folder has none: set repository, or remove it"
    if container["image"] and container["share"]:
        yield ("container", "share"), "has no effect with container:image, which no host builds: remove it"
