"""The distribution of this host, and what its next release has instead: one table (docs/decisions/0128)."""

import re
from pathlib import Path
from typing import NamedTuple

from django_formula.host import commands, file
from django_formula.host.commands import DeploymentError

#: Names and versions of the distribution, and the clusters of PostgreSQL by their major versions.
_RELEASE, _CLUSTERS = Path("/etc/os-release"), Path("/etc/postgresql")


class Release(NamedTuple):
    """A release of a distribution.

    Attributes:
        name: with its version, for people.
        codename: by which sources of apt know it.
        python: the series of its Python.
        postgres: the major version of its PostgreSQL.
    """

    name: str
    codename: str
    python: str
    postgres: str


#: What each release is upgraded to, by ID and VERSION_ID of os-release.
NEXT = {
    "debian 12": Release("Debian 13", "trixie", python="3.13", postgres="17"),
    "ubuntu 22.04": Release("Ubuntu 24.04", "noble", python="3.12", postgres="16"),
}


def next_release() -> Release:
    """Return the release that this host is upgraded to next.

    Raises:
        DeploymentError: none is known.
    """
    found = dict(re.findall(r'(?m)^(ID|VERSION_ID)="?([\w.]+)', file.read_text(_RELEASE) or ""))
    name = f"{found.get('ID', 'unknown')} {found.get('VERSION_ID', '')}".strip()
    if name not in NEXT:
        raise DeploymentError(
            f"no upgrade of this host is known: it is {name}",
            hint=f"those of {' and '.join(NEXT)} are (docs/reference/support.md)",
        )
    return NEXT[name]


def postgres_clusters() -> list[str]:
    """Return the clusters of PostgreSQL on this host, such as ``15 main``."""
    return sorted(" ".join(path.parts[-3:-1]) for path in _CLUSTERS.glob("*/*/postgresql.conf"))


def is_of_project(version: str) -> bool:
    """Return whether a major version of PostgreSQL is installed from apt.postgresql.org."""
    argv = ["dpkg-query", "--show", "--showformat", "${Version}", f"postgresql-{version}"]
    try:
        return "pgdg" in commands.run(argv, doing=f"reading the version of PostgreSQL {version}")
    except DeploymentError:
        return False
