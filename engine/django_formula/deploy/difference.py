"""Differences between the files of the next release and those of the active one."""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.host import file
from django_formula.host.commands import redact
from django_formula.process import contract, supervisor
from django_formula.release import instances
from django_formula.release.releases import Release
from django_formula.server import servers
from django_formula.site.sites import Site

_LINES = 60


def of_text(old: str | None, new: str | None) -> str:
    """Return the unified diff of two texts; None is a missing file."""
    if old is None or new is None:
        return "new file" if old is None else "removed"
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=1))[2:]
    return "\n".join(lines[:_LINES] + ([f"… {len(lines) - _LINES} lines more"] if len(lines) > _LINES else []))


def of_instance(
    live: Release, path: Path, facts: Mapping[str, Any], templates: Mapping[str, str], secrets: list[str]
) -> dict[str, str]:
    """Return the diffs of the configuration of the next release's server and process manager, by file.

    What differs between any two releases (names, paths, sockets) is no difference. Nothing is returned where the
    active release has lost its virtualenv, since no file of its server can be rendered then.

    Args:
        path: the folder of the next release, which may not exist yet.
        secrets: texts that are masked.
    """
    built = path if (path / "virtualenv").exists() else live.path
    if not (built / "virtualenv/bin").exists():
        return {}
    names = _names(live, path)
    rendered = instances.configuration(live.site, path, facts, templates, built=built)
    wanted = {_same(name, names): _same(text, names) for name, text in rendered.items()}
    found = {}
    for name in sorted({*wanted} | _present(live)):
        old, new = file.read_text(live.path / "config" / name), wanted.get(name)
        if old != new:
            found[name] = redact(of_text(old, new), secrets)
    return found


def expected_facts(site: Site, live: Release, commit: str) -> dict[str, Any]:
    """Return what is known of the next release before it is built: the active one's facts, and what the pillar sets."""
    config = site.config
    interface = servers.configured(site).interface(site)
    own = {"folder": config["project"], "application": config[interface], "settings_module": config["settings_module"]}
    if config["overlay"]:
        own |= {name.lower(): config["settings"].get(name) for name in ("STATIC_URL", "MEDIA_URL")}
        own |= {"static_url": config["static"]["url"]} if config["static"].get("url") else {}
    return {**live.facts, "commit": commit, **{name: value for name, value in own.items() if value}}


def _present(live: Release) -> set[str]:
    """Return the files of the active release's parts, including those that the next one does not have."""
    return {
        path.name
        for path in live.path.glob("config/*")
        if path.stem == "supervisor" or path.name.startswith("worker") or contract.parse(live.site, path.stem)
    }


def _names(live: Release, path: Path) -> dict[str, str]:
    """Return the names and paths of the next release, each with that of the active one."""
    site = live.site
    names = {
        str(path): str(live.path),
        path.name: live.name,
        contract.unit(site, path): contract.unit(site, live.path),
        str(supervisor.log_file(site, path)): str(supervisor.log_file(site, live.path)),
    }
    old, new = instances.address(site, live.path), instances.address(site, path)
    if _takes_turns(old, new):
        names[new] = old
        if new.startswith(f"{site.sockets(path)}/"):  # a folder of its own
            names[os.path.dirname(new)] = os.path.dirname(old)
    names[str(contract.run_folder(site, path))] = str(contract.run_folder(site, live.path))
    return names


def _takes_turns(old: str, new: str) -> bool:
    """Return whether two addresses are those of two consecutive releases: a socket each, or alternating ports."""
    if old.startswith("/") or new.startswith("/"):
        return old.startswith("/") and new.startswith("/")
    (host, _, port), (other, _, next_port) = old.rpartition(":"), new.rpartition(":")
    return host == other and abs(int(port) - int(next_port)) == 1


def _same(text: str, names: Mapping[str, str]) -> str:
    for new, old in names.items():
        text = text.replace(new, old)
    return text
