"""What every kind of data implements to be backed up and restored, and how their client programs are run."""

import contextlib
import fcntl
import os
import select
import shutil
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.database import databases as database_databases
from django_formula.database import engines, sqlite
from django_formula.host import commands, users
from django_formula.host.commands import Command, DeploymentError, Ended
from django_formula.project import ask
from django_formula.release.releases import Release
from django_formula.site.sites import Site
from django_formula.untrusted import delegate, shapes

#: Bytes of an answer of a program that runs as the site's user.
_ANSWER = 4 << 20
#: Seconds that a pipe may stay open after the command that wrote to it has exited.
PIPE_TIMEOUT = 5.0
#: Bytes that may be in a pipe when the command that wrote to it has exited: where more comes, a process keeps writing.
_IN_PIPE = 1 << 20
#: What compresses a dump. What has not changed since the last one becomes the same bytes again, which copies share.
_ZSTD = ("zstd", "-3", "-T1", "--rsyncable", "--check", "--quiet")
#: What does so where that is not installed.
_GZIP = ("gzip", "-6", "--no-name")
#: The first bytes of what each has compressed.
_MAGIC = {b"\x28\xb5\x2f\xfd": "zstd", b"\x1f\x8b": "gzip"}
#: The shape of what a dump contains: the rows of each table, and the migrations.
CONTENTS = {"rows": {str: int}, "migrations": [str]}


class Database(NamedTuple):
    """A database of a site, or its uploads.

    Attributes:
        kind: name of its engine in the pillar, or ``media``.
        name: name on its server; of SQLite and of uploads the path.
        connection: parameters that the project gives to its database driver, including the password.
    """

    site: Site
    alias: str
    kind: str
    name: str
    connection: Mapping[str, Any] = {}

    def secrets(self) -> list[str]:
        """Return the texts that no output may show."""
        return [str(self.connection["password"])] if self.connection.get("password") else []

    def timeout(self) -> float:
        """Return the seconds that dumping or loading it may take."""
        return commands.seconds(self.site.config["timeouts"]["backup"])


class Damaged(DeploymentError):
    """A dump cannot be decompressed."""


#: Prepares the copy of a database: creates in it what only the server's superuser may, and returns whether it did.
Prepare = Callable[[Database, str], bool]


def nothing(_database: Database, _name: str) -> bool:
    """Prepare nothing, as for a server that the formula does not set up."""
    return False


class Dumper:
    """How one kind of data is dumped, loaded and exchanged. Dumps are descriptors of files that root has opened.

    Every method raises DeploymentError if a server or client program fails.

    Attributes:
        suffix: the last part of a dump's name.
        zstd_suffix: the same of one that zstd has compressed; empty where none is.
        is_path: whether the data is a path on this host, so that it is loaded next to it, and needs room there.
    """

    suffix = ""
    zstd_suffix = ""
    is_path = False

    def measure(self, database: Database) -> dict[str, int]:
        """Return the ``size`` of a database in bytes, and the number of its ``tables``."""
        raise NotImplementedError

    def dump(self, database: Database, file: int) -> dict[str, Any]:
        """Write a dump of a single moment; returns the ``rows`` of each table in it, and its ``migrations``."""
        raise NotImplementedError

    def load(self, database: Database, name: str, file: int, prepare: Prepare = nothing) -> dict[str, Any]:
        """Load a dump into a new database and check that; returns its ``rows`` and ``migrations``.

        Args:
            prepare: called once that database exists, before it is loaded.
        """
        raise NotImplementedError

    def count_rows(self, database: Database) -> dict[str, int]:
        """Return the present rows of each table."""
        raise NotImplementedError

    def check_swappable(self, database: Database) -> None:
        """Refuse a database that can be dumped and loaded, but not exchanged."""

    def swap(self, database: Database, name: str, kept: str) -> None:
        """Rename the database, to keep it, and give its name to the one that was loaded."""
        raise NotImplementedError

    def undo_partial_swap(self, database: Database, kept: str) -> None:
        """Give the former database its name back, if a swap was killed between the two renames."""

    def drop(self, database: Database, name: str) -> None:
        """Remove a database that was loaded."""
        raise NotImplementedError


def databases(release: Release, aliases: list[str], secrets: list[str]) -> list[Database]:
    """Return the databases of a release by their aliases, without those in memory, which cannot be backed up.

    Raises:
        DeploymentError: the engine of one is not supported, or the project does not report its connection.
    """
    site, on_servers = release.site, []
    found: dict[str, Database] = {}
    for alias in aliases:
        settings = release.facts["databases"][alias]
        engine = engines.find(settings["engine"])
        path = database_databases.database_file(site, release.path, release.facts, settings)
        if engine is None:
            raise DeploymentError(
                f"the database {alias!r} cannot be backed up: {settings['engine']} is not supported",
                hint=f"back it up by other means, and set {site.at}:migrate: {{backup: false}}",
            )
        if path:
            found[alias] = Database(site, alias, engine.name, str(sqlite.resolved(site, path)[0]))
        elif engine.is_server:
            found[alias] = Database(site, alias, engine.name, settings["name"])
            on_servers.append(alias)
    if on_servers:
        request = {"mode": "connections", "aliases": on_servers}
        answer = ask.backup(site, release.path, release.facts, request, secrets)
        for alias, connection in answer.items():
            name = str(connection.get("name") or found[alias].name)
            found[alias] = found[alias]._replace(name=name, connection=connection)
    return list(found.values())


def distinct(databases: Sequence[Database]) -> list[Database]:
    """Return databases without those that are another one of them by a second alias; `default` stays."""
    first: dict[tuple[str, ...], Database] = {}
    for one in sorted(databases, key=lambda one: one.alias != "default"):
        server = (str(one.connection.get(key) or "") for key in ("host", "port"))
        first.setdefault((one.kind, one.name, *server), one)
    return [one for one in databases if one in first.values()]


def free(folder: Path) -> int:
    """Return the bytes that root may still write into a folder."""
    return shutil.disk_usage(folder).free


def free_as_site(site: Site, folder: Path) -> tuple[int, int]:
    """Return the file system of a folder that the project has chosen, and the bytes that are free there.

    Raises:
        DeploymentError: the site's user cannot read the folder.
    """
    device, left = delegate.ask(site.user, lambda: [os.stat(folder).st_dev, free(folder)], doing=f"looking at {folder}")
    return device, left


def client(database: Database, *programs: str) -> str:
    """Return the path of a client program: the first of these names that is installed.

    Raises:
        DeploymentError: none of them is.
    """
    for program in programs:
        path = shutil.which(program, path=commands.PATH)
        if path:
            return path
    own = programs[0] in _MAGIC.values()  # the package of its name has it
    package = programs[0] if own else engines.ENGINES[database.kind].client_package
    key = f"{database.site.at}:packages"
    raise DeploymentError(f"{programs[0]} is not installed", hint=f"{key}: [{package}], then apply")


def has_zstd() -> bool:
    """Return whether zstd is installed; where it is not, a dump is what it was before the formula used zstd."""
    return bool(shutil.which("zstd", path=commands.PATH))


@contextlib.contextmanager
def private_file(site: Site, content: str) -> Iterator[int]:
    """Yield a file in memory that only the site's user can read: a child with the descriptor opens it in /proc/self/fd.

    Args:
        content: its text; an empty file can be written to, up to the size of an answer.
    """
    descriptor = os.memfd_create("django-formula", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR)
        os.fchown(descriptor, users.user_id(site.user), users.group_id(site.user))
        os.write(descriptor, content.encode(errors="surrogateescape"))
        if not content:  # sealed, so that no process of the site's user can make it larger
            os.ftruncate(descriptor, _ANSWER)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def differences(expected: Mapping[str, int], found: Mapping[str, int]) -> dict[str, list[int]]:
    """Return the tables whose numbers of rows differ, with both numbers; -1 stands for a missing table."""
    names = sorted({*expected, *found})
    pairs = {name: [expected.get(name, -1), found.get(name, -1)] for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def read_answer(descriptor: int, shape: Any, *, doing: str) -> Any:
    """Return the JSON that a program has written into a file in memory.

    Raises:
        DeploymentError: it is not JSON of this shape.
    """
    text = os.pread(descriptor, _ANSWER, 0).rstrip(b"\0").decode(errors="surrogateescape")
    return shapes.parse(text, shape, doing=doing)


@contextlib.contextmanager
def received(doing: str, take: Callable[[bytes], object]) -> Iterator[int]:
    """Yield a pipe for the output of a command of the site's user, which a function receives part by part.

    No process of that user gets a descriptor of the file that root writes, so none can change it later.

    Raises:
        DeploymentError: the function raises OSError, or the pipe stays open after the command has exited.
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
    """Reads a pipe until it is closed; after `end` what is in it, if the function takes longer than that waits."""

    def __init__(self, read: int, take: Callable[[bytes], object]):
        super().__init__(daemon=True)
        self.read, self.take = read, take
        self.error = ""
        self._ended = threading.Event()

    def run(self) -> None:
        left = _IN_PIPE
        try:
            while left > 0:
                has_ended = self._ended.is_set()
                if select.select([self.read], [], [], 0 if has_ended else 0.2)[0]:
                    part = os.read(self.read, 1 << 18)
                    if not part:
                        return
                    if not self.error:
                        self._take(part)
                    left -= len(part) if has_ended else 0
                elif has_ended:
                    break
        except OSError as error:
            self.error = error.strerror or str(error)
        else:
            self.error = self.error or "a process that it left behind keeps writing"

    def _take(self, part: bytes) -> None:
        """Pass a part on; after an error the rest is still read, or the command would wait for ever."""
        try:
            self.take(part)
        except OSError as error:
            self.error = error.strerror or str(error)

    def end(self) -> None:
        """Wait until the pipe is closed, for `PIPE_TIMEOUT` and as long as the function takes what is in it."""
        if self.is_alive():
            self.join(PIPE_TIMEOUT)
            self._ended.set()
            self.join()


def writer(file: int) -> Callable[[bytes], None]:
    """Return a function that writes to a descriptor."""

    def write(part: bytes) -> None:
        while part:
            part = part[os.write(file, part) :]

    return write


# Compression, by programs that run as the site's user between its clients and root


@contextlib.contextmanager
def compressed(database: Database, file: int) -> Iterator[Callable[[bytes], None]]:
    """Yield a function for the parts of a dump, which zstd compresses, or gzip where that is not installed.

    Args:
        file: a descriptor of root's, which gets the result.

    Raises:
        DeploymentError: as `received`; or the program fails, which is the cause where the block then fails.
    """
    argv = _ZSTD if has_zstd() else _GZIP
    read, write = os.pipe()
    os.set_blocking(write, False)
    with received(f"dumping {database.name}", writer(file)) as packed:
        command = _command(database, argv, doing=f"compressing {database.name}", stdin=read, output=packed)
        with _running(command, read, commands.check) as program:
            try:
                yield _fed(program, write)
            finally:
                os.close(write)


@contextlib.contextmanager
def content(database: Database, file: int, *, whole: bool = True) -> Iterator[int]:
    """Yield a descriptor of what is in a dump: the file itself, or a pipe where that is compressed.

    Args:
        whole: whether the rest is decompressed too, at whose end there is a checksum; otherwise what the block reads.

    Raises:
        Damaged: it cannot be decompressed, which is the cause where the block fails.
        DeploymentError: the program for that is not installed.
    """
    first = os.pread(file, 4, 0)
    os.lseek(file, 0, os.SEEK_SET)
    name = next((name for magic, name in _MAGIC.items() if first.startswith(magic)), "")
    if not name:
        yield file
        return
    argv = [client(database, name), "--decompress", "--stdout"]
    read, write = os.pipe()
    command = _command(database, argv, doing=f"decompressing a dump of {database.name}", stdin=file, output=write)
    with _running(command, write, _check_content) as program:
        try:
            yield read
            while whole and program.is_alive():
                if select.select([read], [], [], 0.2)[0]:
                    os.read(read, 1 << 18)
        finally:
            os.close(read)


def _command(database: Database, argv: Sequence[str], **options: Any) -> Command:
    """Return a command of the site's user; a client that times out does so before it, and is the one that is named."""
    return Command(argv, user=database.site.user, timeout=database.timeout() + PIPE_TIMEOUT, **options)


def _check_content(command: Command, ended: Ended) -> None:
    """Check that a dump was decompressed as far as it was read."""
    if ended.code and ended.code > 0:
        raise Damaged(f"{Path(command.argv[0]).name} cannot decompress it", log=ended.errors)
    if ended.code != -signal.SIGPIPE:
        commands.check(command, ended)


@contextlib.contextmanager
def _running(command: Command, end: int, check: Callable[[Command, Ended], object]) -> "Iterator[_Program]":
    """Run a command next to the block, which has the other end of its pipe.

    Args:
        end: the command's end of that pipe.
        check: raises the error of a command that has failed, also where the block has failed.
    """
    program = _Program(command, end, check)
    program.start()
    try:
        yield program
    except (DeploymentError, OSError):
        program.join(PIPE_TIMEOUT)
        program.check()
        raise
    program.join()
    program.check()


class _Program(threading.Thread):
    """Runs a command, and closes its end of a pipe when that has exited, so that the other end does not wait."""

    def __init__(self, command: Command, end: int, check: Callable[[Command, Ended], object]):
        super().__init__(daemon=True)
        self._command, self._end, self._check = command, end, check
        self._ended: Ended | None = None
        self._error: DeploymentError | None = None

    def run(self) -> None:
        try:
            self._ended = commands.execute(self._command)
        except DeploymentError as error:
            self._error = error
        finally:
            os.close(self._end)

    def check(self) -> None:
        """Raise the error of the command, once that has exited."""
        if self._error:
            raise self._error
        if self._ended:
            self._check(self._command, self._ended)


def _fed(program: _Program, descriptor: int) -> Callable[[bytes], None]:
    """Return a function that writes to a pipe from which a program reads, as long as that runs."""

    def write(part: bytes) -> None:
        rest = memoryview(part)
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:
                while not select.select([], [descriptor], [], 0.2)[1]:
                    if not program.is_alive():
                        raise BrokenPipeError from None

    return write
