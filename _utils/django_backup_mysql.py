"""MySQL and MariaDB, by their own clients, which run as the site's user and get the login in a file in memory."""

import contextlib
import errno
import gzip
import os
import re
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import django_backup_dump
import django_host_command
import django_wall_shape
from django_backup_dump import Database
from django_host_command import DeploymentError

SUFFIX = "sql.gz"
_PACKAGE = "mariadb-client"
#: Bytes of a line of a dump, which is a row at the least; the clients take no larger rows by themselves.
_LINE = 64 << 20
#: What a driver is told, and what the clients call it.
_OPTIONS = {"user": "user", "password": "password", "port": "port", "connect_timeout": "connect-timeout"}
_TLS = {"ca": "ssl-ca", "capath": "ssl-capath", "cert": "ssl-cert", "key": "ssl-key", "cipher": "ssl-cipher"}
_DUMP = ["--single-transaction", "--quick", "--routines", "--hex-blob", "--no-tablespaces"]
_TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
_LOOK = """SELECT JSON_OBJECT('size', COALESCE(SUM(data_length + index_length), 0), 'tables', COUNT(*))
  FROM information_schema.tables WHERE table_schema = DATABASE()"""
_UNMOVED = """SELECT COALESCE(GROUP_CONCAT(what), '') FROM (
  SELECT CONCAT('view ', table_name) AS what FROM information_schema.views WHERE table_schema = DATABASE()
  UNION SELECT CONCAT('trigger ', trigger_name) FROM information_schema.triggers WHERE trigger_schema = DATABASE()
  UNION SELECT CONCAT(LOWER(routine_type), ' ', routine_name) FROM information_schema.routines
    WHERE routine_schema = DATABASE()) AS unmoved"""
#: The last line of a whole dump.
_END = b"-- Dump completed"
_STRINGS = re.compile(rb"'[^'\\]*(?:\\.[^'\\]*)*'", re.DOTALL)


def look(database: Database) -> dict[str, int]:
    """As `django_backup_dump.Engine.look`."""
    shape = {"size": float, "tables": int}
    found: dict[str, int] = django_wall_shape.parse(_sql(database, _LOOK), shape, doing=f"asking {database.name}")
    return found


def dump(database: Database, file: int) -> dict[str, Any]:
    """As `django_backup_dump.Engine.dump`; rows are counted in the dump: no other session shares its snapshot."""
    program = django_backup_dump.client(database, ["mariadb-dump", "mysqldump"], _PACKAGE)
    migrations = _migrations(database)
    read, write = os.pipe()
    counter = _Counter(read, file)
    counter.start()
    try:
        argv = [*_DUMP, database.name]
        _run(database, program, argv, doing=f"dumping {database.name}", output=write)
    except DeploymentError:
        if not counter.error:
            raise
    finally:
        os.close(write)
        counter.join(django_backup_dump.PATIENCE)
    if counter.is_alive():
        raise DeploymentError(f"dumping {database.name}: a process that it has left behind goes on writing")
    if counter.error:
        raise counter.error
    if not counter.last.startswith(_END):
        raise DeploymentError(f"the dump of {database.name} has no end", transient=True)
    return {"rows": counter.rows, "migrations": migrations}


class _Counter(threading.Thread):
    """Packs a dump that comes through a pipe, and counts the rows of each table."""

    def __init__(self, read: int, file: int):
        super().__init__(daemon=True)
        self.read, self.file = read, file
        self.rows: dict[str, int] = {}
        self.table, self.last = "", b""
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            with (
                open(self.read, "rb") as lines,
                open(os.dup(self.file), "wb") as raw,
                gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6, mtime=0) as packed,
            ):
                while line := lines.readline(_LINE):
                    if len(line) == _LINE:
                        raise OSError(errno.EFBIG, f"a row has more than {_LINE >> 20} MiB")
                    self._count(line)
                    packed.write(line)
        except OSError as error:  # of the last bytes too, which are written when it is closed
            self.error = error

    def _count(self, line: bytes) -> None:
        made = re.match(rb"CREATE TABLE `((?:[^`]|``)+)`", line)
        filled = re.match(rb"INSERT INTO `((?:[^`]|``)+)` (?:\([^)]*\) )?VALUES", line)
        if made:
            self.rows[_name(made)] = 0
        elif filled or (self.table and line.startswith(b"(")):
            self.table = _name(filled) if filled else self.table
            values = _STRINGS.sub(b"", line[filled.end() :] if filled else line)
            self.rows[self.table] = self.rows.get(self.table, 0) + values.count(b"(")
            self.table = "" if values.rstrip().endswith(b";") else self.table
        if line.strip():
            self.last = line


def _name(found: re.Match[bytes]) -> str:
    """The name of a table as it stands in a statement."""
    return found[1].replace(b"``", b"`").decode(errors="surrogateescape")


def load(database: Database, name: str, file: int) -> dict[str, Any]:
    """As `django_backup_dump.Engine.load`."""
    how = _sql(database, "SELECT CONCAT(@@character_set_database, ' COLLATE ', @@collation_database)").strip()
    loaded = database._replace(name=name)
    try:
        _sql(database, f"CREATE DATABASE `{name}` CHARACTER SET {how}")
    except DeploymentError as error:
        if "Access denied" in error.log:
            pattern = re.sub(r"([_%])", r"\\\1", database.name[:40])
            login = _sql(database, "SELECT CURRENT_USER()").strip().replace("@", "'@'")
            raise DeploymentError(
                f"{database.said.get('user')} may not create databases on its server, and a backup is loaded into one",
                hint=f"as root there: GRANT ALL ON `{pattern}\\_%`.* TO '{login}';",
            ) from None
        raise
    read, write = os.pipe()
    feeder = _Feeder(file, write)
    feeder.start()
    try:
        _run(loaded, _client(database), [name], doing=f"loading {name}", stdin=read)
    finally:
        os.close(read)
        feeder.join()
    if feeder.error:
        raise DeploymentError(f"the dump cannot be unpacked: {feeder.error}")
    return {"rows": rows(loaded), "migrations": _migrations(loaded)}


class _Feeder(threading.Thread):
    """Unpacks a dump into a pipe."""

    def __init__(self, file: int, write: int):
        super().__init__(daemon=True)
        self.file, self.write = file, write
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with (
                open(self.write, "wb") as pipe,
                open(os.dup(self.file), "rb") as raw,
                gzip.GzipFile(fileobj=raw) as packed,
            ):
                while block := packed.read(1 << 20):
                    pipe.write(block)
        except BrokenPipeError:  # the client has ended, and says why
            pass
        except (OSError, EOFError, zlib.error) as error:
            self.error = error


def rows(database: Database) -> dict[str, int]:
    """As `django_backup_dump.Engine.rows`."""
    names = _tables(database)
    if not names:
        return {}
    counts = " UNION ALL ".join(f"SELECT COUNT(*) FROM {_quoted(name)}" for name in names)  # noqa: S608  # nosec B608
    numbers = _sql(database, counts).split()
    if len(numbers) != len(names) or not all(number.isdecimal() and len(number) < 19 for number in numbers):
        raise DeploymentError(f"asking {database.name}: it ended without a usable answer")
    return dict(zip(names, map(int, numbers), strict=True))


def refuse(database: Database) -> None:
    """As `django_backup_dump.Engine.refuse`: only tables can be moved from one database to another."""
    unmoved = _sql(database, _UNMOVED).strip()
    if unmoved:
        raise DeploymentError(
            f"{database.name} cannot be exchanged: only tables move from one database to another, and it has {unmoved}",
            hint="load the dump into a new database by hand (docs/guides/backups.md), and name that: "
            f"django:sites:{database.site.name}:database:name",
        )


def swap(database: Database, name: str, kept: str) -> None:
    """As `django_backup_dump.Engine.swap`: all tables of both databases move in one statement."""
    former, loaded = _tables(database), _tables(database._replace(name=name))
    _sql(database, f"CREATE DATABASE `{kept}`")
    own = _quoted(database.name)
    moves = [f"{own}.{_quoted(table)} TO `{kept}`.{_quoted(table)}" for table in former]
    moves += [f"`{name}`.{_quoted(table)} TO {own}.{_quoted(table)}" for table in loaded]
    try:
        _sql(database, f"SET FOREIGN_KEY_CHECKS = 0; RENAME TABLE {', '.join(moves)}")
    except DeploymentError:
        _sql(database, f"DROP DATABASE `{kept}`")
        raise
    drop(database, name)


def drop(database: Database, name: str) -> None:
    """As `django_backup_dump.Engine.drop`."""
    _sql(database, f"DROP DATABASE IF EXISTS `{name}`")


def _tables(database: Database) -> list[str]:
    return _sql(database, f"{_TABLES} AND table_type = 'BASE TABLE' ORDER BY table_name").splitlines()


def _migrations(database: Database) -> list[str]:
    if "django_migrations" not in _tables(database):
        return []
    return sorted(_sql(database, "SELECT CONCAT(app, '.', name) FROM django_migrations").split())


def _sql(database: Database, statements: str) -> str:
    """What statements answer, without headers."""
    options = ["--batch", "--skip-column-names", "--raw", "--default-character-set=utf8mb4", database.name]
    return _run(database, _client(database), options, doing=f"asking {database.name}", stdin=statements)


def _client(database: Database) -> str:
    return django_backup_dump.client(database, ["mariadb", "mysql"], _PACKAGE)


def _run(database: Database, program: str, arguments: list[str], *, doing: str, **streams: Any) -> str:
    with _reached(database) as descriptor:
        argv = [program, f"--defaults-extra-file=/proc/self/fd/{descriptor}", *arguments]
        return django_host_command.run(
            argv,
            doing=doing,
            user=database.site.user,
            descriptors=[descriptor],
            timeout=database.timeout(),
            secrets=database.masked(),
            **streams,
        )


@contextlib.contextmanager
def _reached(database: Database) -> Iterator[int]:
    """A file of options by which a client reaches the database."""
    said, tls = database.said, database.said.get("ssl") or {}
    options = {_OPTIONS[key]: value for key, value in said.items() if key in _OPTIONS}
    options |= {_TLS[key]: value for key, value in tls.items() if key in _TLS} if isinstance(tls, dict) else {}
    if said.get("host"):
        options["socket" if str(said["host"]).startswith("/") else "host"] = said["host"]
    lines = [f"{name}={_option(str(value))}" for name, value in options.items()]
    with django_backup_dump.private_file(database.site, "\n".join(["[client]", *lines, ""])) as descriptor:
        yield descriptor


def _option(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
