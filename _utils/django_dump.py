"""One database as a backup sees it: how its engine is asked, and what every engine has to be able to do."""

import contextlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import django_command
import django_database
import django_program
import django_site
from django_command import DeploymentError
from django_release import Release
from django_site import Site

#: The kind of an engine by a part of its name, as Django has it.
_KINDS = {"sqlite": "sqlite", "spatialite": "sqlite", "postg": "postgres", "mysql": "mysql", "mariadb": "mysql"}


class Database(NamedTuple):
    """A database of a site.

    kind: ``sqlite``, ``postgres`` or ``mysql``.
    name: on its server; of SQLite the path of its file.
    said: what the project's driver is given to reach it, the password among it.
    """

    site: Site
    alias: str
    kind: str
    name: str
    said: Mapping[str, Any] = {}

    def masked(self) -> list[str]:
        """The texts that no output may show."""
        return [str(self.said["password"])] if self.said.get("password") else []

    def timeout(self) -> float:
        """The seconds that its dump, or loading one, may take."""
        return django_command.seconds(self.site.config["timeouts"]["backup"])


class Engine(Protocol):
    """What a kind of database can do; each is a module of its own. Files are descriptors that root has opened.

    All raise DeploymentError where the server or its client says no.
    """

    #: The end of a dump's name.
    SUFFIX: str

    def look(self, database: Database) -> dict[str, int]:
        """``size``, in bytes, and the number of ``tables``."""

    def dump(self, database: Database, file: int) -> dict[str, Any]:
        """Write a dump, all of one moment; returns the ``rows`` of each table in it, and the ``migrations``."""

    def load(self, database: Database, name: str, file: int) -> dict[str, Any]:
        """Make a database of that name from a dump, and look it through; returns ``rows`` and ``migrations``."""

    def rows(self, database: Database) -> dict[str, int]:
        """The rows of each table as they are now."""

    def refuse(self, database: Database) -> None:
        """Whether it cannot be exchanged, though it can be dumped and loaded."""

    def swap(self, database: Database, name: str, kept: str) -> None:
        """Give the database another name to keep it under, and its own to the one that was loaded."""

    def drop(self, database: Database, name: str) -> None:
        """Remove a database that was loaded."""


def find(release: Release, aliases: list[str], secrets: list[str]) -> list[Database]:
    """The databases of a release by alias; those in memory have nothing to back up.

    Raises:
        DeploymentError: there is no way to dump one, or the project does not say where they are.
    """
    site, asked = release.site, []
    found: dict[str, Database] = {}
    for alias in aliases:
        said = release.facts["databases"][alias]
        kind = next((kind for part, kind in _KINDS.items() if part in said["engine"]), None)
        path = django_database.file_of(site, release.path, release.facts, said)
        if kind is None:
            raise DeploymentError(
                f"the formula cannot back up the database {alias!r}: it has no way to dump a {said['engine']}",
                hint=f"do it by other means, and say so: django:sites:{site.name}:migrate: {{backup: false}}",
            )
        if path:
            found[alias] = Database(site, alias, kind, os.path.realpath(path))
        elif kind != "sqlite":
            found[alias] = Database(site, alias, kind, said["name"])
            asked.append(alias)
    if asked:
        request = {"mode": "connections", "aliases": asked}
        for alias, said in django_program.backup(site, release.path, release.facts, request, secrets).items():
            found[alias] = found[alias]._replace(name=str(said.get("name") or found[alias].name), said=said)
    return list(found.values())


def free(folder: Path) -> int:
    """The bytes that root may still write into a folder."""
    return shutil.disk_usage(folder).free


def client(database: Database, programs: list[str], package: str) -> str:
    """The path of a client's program, the first of these names that there is.

    Raises:
        DeploymentError: the host has none of them.
    """
    for program in programs:
        path = shutil.which(program, path=django_command.PATH)
        if path:
            return path
    at = f"django:sites:{database.site.name}"
    raise DeploymentError(f"{programs[0]} is not on this host", hint=f"{at}:packages: [{package}], then apply")


@contextlib.contextmanager
def private_file(site: Site, content: str) -> Iterator[int]:
    """A file in memory that only the site's user reads; who inherits the descriptor finds it below /proc/self/fd."""
    descriptor = os.memfd_create("django-formula", os.MFD_CLOEXEC)
    try:
        os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR)
        os.fchown(descriptor, django_site.user_id(site.user), django_site.group_id(site.user))
        os.write(descriptor, content.encode(errors="surrogateescape"))
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def differences(expected: Mapping[str, int], found: Mapping[str, int]) -> dict[str, list[int]]:
    """The tables that have other numbers of rows: both numbers, -1 where there is no such table."""
    names = sorted({*expected, *found})
    pairs = {name: [expected.get(name, -1), found.get(name, -1)] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def read_answer(descriptor: int) -> Any:
    """What a program has written into a file in memory, as JSON."""
    with open(os.dup(descriptor), "rb") as file:
        file.seek(0)
        return json.loads(file.read())
