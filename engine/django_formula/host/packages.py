"""Packages of the operating system."""

import contextlib
import re
from collections.abc import Collection, Mapping
from typing import Any

from django_formula.host import commands
from django_formula.host.commands import Command, DeploymentError

#: Seconds for an answer of apt's lists.
_PATIENCE = 30.0
#: What apt says of packages that none of its sources has.
_NOT_FOUND = re.compile(r"E: (?:Unable to locate package |Package ')([a-z0-9][a-z0-9.+-]*)")


def missing(names: Collection[str], installed: Collection[str]) -> set[str]:
    """Return the packages that are not installed, nor provided by one that is: libmagic1 by libmagic1t64.

    Args:
        names: the names of the packages.
        installed: those that are installed.
    """
    absent = {*names} - {*installed}
    if not absent:
        return set()
    program = ["dpkg-query", "--show", "--showformat", r"${db:Status-Abbrev} ${Provides}\n"]
    text = commands.run(program, doing="listing the installed packages")
    lists = [line[2:] for line in text.splitlines() if line[1:2] == "i"]  # "hi" where apt holds it
    provided = {re.split(r"[\s(:]", part.strip())[0] for line in lists for part in line.split(",")}
    return absent - provided


def hint(comment: str, pillar: Mapping[str, Any]) -> str:
    """Return what to do about packages that apt does not find, to be added to its comment; empty for other failures.

    Args:
        comment: of Salt.
        pillar: its part ``django``.
    """
    absent = _NOT_FOUND.findall(comment)
    if not absent:
        return ""
    places = {f"sites:{name}": site for name, site in (pillar.get("sites") or {}).items()}
    places["defaults"] = pillar.get("defaults")
    given = {place: (options or {}).get("packages") or () for place, options in places.items()}
    keys = [f"django:{place}:packages" for place, names in given.items() if {*absent} & {*names}]
    ways = f"correct {' and '.join(keys)}, or add" if keys else "add"
    return f"\n{ways} the repository that has {' and '.join(dict.fromkeys(absent))} to apt's sources"


def offered(names: Collection[str]) -> set[str]:
    """Return the packages that apt's lists have; none where there are no lists."""
    if not names:
        return set()
    argv = ["apt-cache", "--no-all-versions", "show", "--", *names]
    with contextlib.suppress(DeploymentError, OSError):
        text = commands.execute(Command(argv, doing="reading apt's lists", timeout=_PATIENCE)).printed
        return {*names} & {*re.findall(r"^Package: (\S+)", text, re.MULTILINE)}
    return set()


def named(pattern: str, prefix: str) -> str:
    """Return the package of apt's lists whose name matches a pattern, the shortest one; empty if none does.

    Args:
        prefix: what its name begins with, in the characters of such names.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]*", prefix):
        return ""
    with contextlib.suppress(DeploymentError, OSError):
        argv = ["apt-cache", "pkgnames", prefix]
        names = commands.run(argv, doing="reading the names of packages", timeout=_PATIENCE).split()
        return min(
            (name for name in names if re.fullmatch(pattern, name)), key=lambda name: (len(name), name), default=""
        )
    return ""
