"""One database as a backup sees it: how its engine is asked, and what every engine has to be able to do."""

import contextlib
import fcntl
import os
import select
import shutil
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import django_database
import django_database_sqlite
import django_host_command
import django_host_user
import django_project_program
import django_wall_delegate
import django_wall_shape
from django_host_command import DeploymentError
from django_release import Release
from django_site import Site

#: The kind of an engine by a part of its name, as Django has it.
#: Bytes of an answer of a program that runs as the site's user.
_ANSWER = 4 << 20
#: Seconds that a pipe may stay open after the command that wrote to it.
PATIENCE = 5.0
#: What is found in a dump: the rows of each table, and the migrations.
FOUND = {"rows": {str: int}, "migrations": [str]}
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
        return django_host_command.seconds(self.site.config["timeouts"]["backup"])


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
        path = django_database.database_file(site, release.path, release.facts, said)
        if kind is None:
            raise DeploymentError(
                f"the formula cannot back up the database {alias!r}: it has no way to dump a {said['engine']}",
                hint=f"do it by other means, and say so: django:sites:{site.name}:migrate: {{backup: false}}",
            )
        if path:
            found[alias] = Database(site, alias, kind, str(django_database_sqlite.resolved(site, path)[0]))
        elif kind != "sqlite":
            found[alias] = Database(site, alias, kind, said["name"])
            asked.append(alias)
    if asked:
        request = {"mode": "connections", "aliases": asked}
        for alias, said in django_project_program.backup(site, release.path, release.facts, request, secrets).items():
            found[alias] = found[alias]._replace(name=str(said.get("name") or found[alias].name), said=said)
    return list(found.values())


def free(folder: Path) -> int:
    """The bytes that root may still write into a folder."""
    return shutil.disk_usage(folder).free


def room(site: Site, folder: Path) -> tuple[int, int]:
    """Return the file system of a folder that the project has chosen, and the bytes that are free there.

    Raises:
        DeploymentError: the site's user cannot look at it.
    """
    device, left = django_wall_delegate.ask(
        site.user, lambda: [os.stat(folder).st_dev, free(folder)], doing=f"looking at {folder}"
    )
    return device, left


def client(database: Database, programs: list[str], package: str) -> str:
    """The path of a client's program, the first of these names that there is.

    Raises:
        DeploymentError: the host has none of them.
    """
    for program in programs:
        path = shutil.which(program, path=django_host_command.PATH)
        if path:
            return path
    at = f"django:sites:{database.site.name}"
    raise DeploymentError(f"{programs[0]} is not on this host", hint=f"{at}:packages: [{package}], then apply")


@contextlib.contextmanager
def private_file(site: Site, content: str) -> Iterator[int]:
    """A file in memory that only the site's user reads; who inherits the descriptor finds it below /proc/self/fd."""
    descriptor = os.memfd_create("django-formula", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR)
        os.fchown(descriptor, django_host_user.user_id(site.user), django_host_user.group_id(site.user))
        os.write(descriptor, content.encode(errors="surrogateescape"))
        if not content:  # it is to be written to: no process of the site's user makes it larger
            os.ftruncate(descriptor, _ANSWER)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def differences(expected: Mapping[str, int], found: Mapping[str, int]) -> dict[str, list[int]]:
    """The tables that have other numbers of rows: both numbers, -1 where there is no such table."""
    names = sorted({*expected, *found})
    pairs = {name: [expected.get(name, -1), found.get(name, -1)] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def read_answer(descriptor: int, shape: Any, *, doing: str) -> Any:
    """Return what a program has written into a file in memory, as JSON.

    Raises:
        DeploymentError: it is no JSON, or has another shape.
    """
    text = os.pread(descriptor, _ANSWER, 0).rstrip(b"\0").decode(errors="surrogateescape")
    return django_wall_shape.parse(text, shape, doing=doing)


@contextlib.contextmanager
def received(doing: str, take: Callable[[bytes], object]) -> Iterator[int]:
    """Yield a pipe for a command of the site's user, whose output goes to a function part by part.

    No process of that user has a descriptor of what root writes it to, so none can change it later.

    Raises:
        DeploymentError: the function raises OSError; or the pipe stays open after the command has ended.
    """
    read, write = os.pipe()
    receiver = _Receiver(read, take)
    receiver.start()
    try:
        yield write
    except DeploymentError:
        os.close(write)
        write = -1
        receiver.end()
        if not receiver.error:
            raise
    finally:
        if write >= 0:
            os.close(write)
        receiver.end()
        os.close(read)
    if receiver.error:
        raise DeploymentError(f"{doing}: {receiver.error}", transient=True)


class _Receiver(threading.Thread):
    """Reads a pipe until it is closed, or for a few seconds more."""

    def __init__(self, read: int, take: Callable[[bytes], object]):
        super().__init__(daemon=True)
        self.read, self.take = read, take
        self.error = ""
        self._over = threading.Event()

    def run(self) -> None:
        try:
            while not self._over.is_set():
                if select.select([self.read], [], [], 0.2)[0]:
                    part = os.read(self.read, 1 << 18)
                    if not part:
                        return
                    if not self.error:
                        self._take(part)
        except OSError as error:
            self.error = error.strerror or str(error)
        else:
            self.error = self.error or "a process that it has left behind goes on writing"

    def _take(self, part: bytes) -> None:
        """Hand a part on; after an error the rest is read all the same, or the command would wait for ever."""
        try:
            self.take(part)
        except OSError as error:
            self.error = error.strerror or str(error)

    def end(self) -> None:
        """Wait until the pipe is closed, but not for long."""
        if self.is_alive():
            self.join(PATIENCE)
            self._over.set()
            self.join()


def into(file: int) -> Callable[[bytes], None]:
    """Return a function that writes all of what it is given to a descriptor."""

    def write(part: bytes) -> None:
        while part:
            part = part[os.write(file, part) :]

    return write
