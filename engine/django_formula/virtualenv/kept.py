"""Debian's interpreters of virtualenvs, which an upgrade and `apt autoremove` keep (docs/decisions/0086)."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from django_formula.host import commands, file
from django_formula.host.commands import DeploymentError
from django_formula.site import sites

#: Has the names of the packages that apt does not remove by itself, and which interpreters they are for.
CONFIGURATION = Path("/etc/apt/apt.conf.d/60django-formula")
#: Has do-release-upgrade of Ubuntu remove nothing at its end: it takes the packages that the new release does not have,
#: also those that apt keeps, and `apt autoremove` those that nothing needs.
UPGRADER = Path("/etc/update-manager/release-upgrades.d/django-formula.cfg")
_UPGRADER = """# Written by django-formula: an upgrade keeps the interpreters of virtualenvs. See docs/decisions/0086.
[Distro]
RemoveObsoletes=no
"""
_HEAD = "// Written by django-formula: apt autoremove keeps the interpreters of virtualenvs. See docs/decisions/0086.\n"


def not_kept(virtualenv: Path) -> dict[str, str]:
    """Return the interpreter of a virtualenv if apt does not keep it yet; it looks at no other one."""
    used = _used([virtualenv / "bin/python"]) if CONFIGURATION.parent.is_dir() else []
    return {path: "kept" for path in used if path not in _kept(used)}


def changes() -> dict[str, str]:
    """Return the interpreters that apt has to keep, or needs to keep no longer, by their paths."""
    if not CONFIGURATION.parent.is_dir():
        return {}
    used = {*_used(_links())}
    kept = _kept(used)
    return {path: "kept" if path in used else "kept no longer" for path in sorted(kept ^ used)}


def _kept(used: Iterable[str]) -> set[str]:
    """Return the interpreters that are kept; those in use are not where Ubuntu's upgrade does not keep them."""
    kept = {*re.findall(r"(?m)^// (/.*)$", file.read_text(CONFIGURATION) or "")}
    is_told = not UPGRADER.parents[1].is_dir() or file.read_text(UPGRADER) == _UPGRADER
    return kept if is_told else kept - {*used}


def apply() -> None:
    """Have apt keep the packages of the interpreters of all virtualenvs of this host, and no others."""
    used = _used(_links())
    packages = sorted({name for path in used for name in _packages(path)})
    lines = [_HEAD, *(f"// {path}\n" for path in used)]
    if packages:
        patterns = " ".join('"^{}$";'.format(name.replace(".", r"\.").replace("+", r"\+")) for name in packages)
        lines.append(f"APT::NeverAutoRemove {{ {patterns} }};\n")
    if not used:
        CONFIGURATION.unlink(missing_ok=True)
        UPGRADER.unlink(missing_ok=True)
        return
    if UPGRADER.parents[1].is_dir():
        UPGRADER.parent.mkdir(exist_ok=True)
        file.write(UPGRADER, _UPGRADER)
    file.write(CONFIGURATION, "".join(lines))


def _links() -> Iterable[Path]:
    """Return the links to the interpreters of all virtualenvs of this host's sites."""
    return sites.REGISTRY.glob("*/virtualenvs/*/bin/python")


def _used(links: Iterable[Path]) -> list[str]:
    """Return the real paths of interpreters that are in Debian's folders."""
    paths = {os.path.realpath(link) for link in links}
    return sorted(path for path in paths if re.fullmatch(r"/usr/(?!local/)[\w.+/-]+", path) and os.path.exists(path))


def _packages(path: str) -> Iterable[str]:
    """Yield the packages of an interpreter: its own one, and those of its version that its library is of."""
    yield from _owners(path)
    name = os.path.basename(path)
    version = re.sub(r"^\D+", "", name)
    for owner in _owners(f"/usr/lib/{name}") if version else ():
        if version in owner:
            yield owner


def _owners(path: str) -> list[str]:
    """Return the packages that a path is of."""
    try:
        text = commands.run(["dpkg-query", "--search", path], doing=f"looking for the package of {path}")
    except DeploymentError:
        return []
    names = [
        name for line in text.splitlines() if line.endswith(f": {path}") for name in line.split(": ")[0].split(", ")
    ]
    return sorted({name.partition(":")[0] for name in names if re.fullmatch(r"[a-z0-9][a-z0-9+.:-]+", name)})
