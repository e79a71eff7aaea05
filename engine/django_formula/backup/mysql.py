"""Back up and restore MySQL and MariaDB with their clients, as the site's user, with the login in a file in memory."""

import contextlib
import errno
import re
from collections.abc import Callable, Iterator
from typing import Any

from django_formula.backup import dumps
from django_formula.backup.dumps import Database, Dumper, Prepare, nothing
from django_formula.database.engines import start_of_copies
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.untrusted import shapes

#: Bytes of a line of a dump, which holds one row or more; by default the clients refuse larger rows.
_LINE = 64 << 20
#: Parameters of a driver, and the names of the same options of the clients.
_OPTIONS = {"user": "user", "password": "password", "port": "port", "connect_timeout": "connect-timeout"}
_TLS = {"ca": "ssl-ca", "capath": "ssl-capath", "cert": "ssl-cert", "key": "ssl-key", "cipher": "ssl-cipher"}
#: Modes of TLS by which a driver connects without it too.
_PLAIN = ("", "DISABLED", "PREFERRED")
_DUMP = ["--single-transaction", "--quick", "--routines", "--hex-blob", "--no-tablespaces"]
_TABLES = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()"
_MEASURE = """SELECT JSON_OBJECT('size', COALESCE(SUM(data_length + index_length), 0), 'tables', COUNT(*))
  FROM information_schema.tables WHERE table_schema = DATABASE()"""
_UNMOVABLE = """SELECT COALESCE(GROUP_CONCAT(what), '') FROM (
  SELECT CONCAT('view ', table_name) AS what FROM information_schema.views WHERE table_schema = DATABASE()
  UNION SELECT CONCAT('trigger ', trigger_name) FROM information_schema.triggers WHERE trigger_schema = DATABASE()
  UNION SELECT CONCAT(LOWER(routine_type), ' ', routine_name) FROM information_schema.routines
    WHERE routine_schema = DATABASE()) AS unmovable"""
#: The last line of a complete dump.
_END = b"-- Dump completed"
_STRINGS = re.compile(rb"'[^'\\]*(?:\\.[^'\\]*)*'", re.DOTALL)


class MySQLDumper(Dumper):
    """MySQL and MariaDB."""

    suffix = "sql.gz"
    zstd_suffix = "sql.zst"

    def measure(self, database: Database) -> dict[str, int]:
        shape, doing = {"size": float, "tables": int}, f"querying {database.name}"
        found: dict[str, int] = shapes.parse(_sql(database, _MEASURE), shape, doing=doing)
        return found

    def dump(self, database: Database, file: int) -> dict[str, Any]:
        """Write a dump, and count its rows in passing: no other session can share its snapshot."""
        program = dumps.client(database, "mariadb-dump", "mysqldump")
        migrations, doing = _migrations(database), f"dumping {database.name}"
        with dumps.compressed(database, file) as take:
            counter = _Counter(take)
            with dumps.received(doing, counter.take) as pipe:
                _run(database, program, [*_DUMP, database.name], doing=doing, output=pipe)
        if not counter.last.startswith(_END):
            raise DeploymentError(f"the dump of {database.name} is incomplete", transient=True)
        return {"rows": counter.rows, "migrations": migrations}

    def load(self, database: Database, name: str, file: int, _prepare: Prepare = nothing) -> dict[str, Any]:
        _create(database, name)
        loaded = database._replace(name=name)
        with dumps.content(database, file) as statements:
            _run(loaded, _client(database), [name], doing=f"loading {name}", stdin=statements)
        return {"rows": self.count_rows(loaded), "migrations": _migrations(loaded)}

    def count_rows(self, database: Database) -> dict[str, int]:
        names = _tables(database)
        if not names:
            return {}
        counts = " UNION ALL ".join(f"SELECT COUNT(*) FROM {_quoted(name)}" for name in names)  # noqa: S608  # nosec B608
        numbers = _sql(database, counts).split()
        if len(numbers) != len(names) or not all(number.isdecimal() and len(number) < 19 for number in numbers):
            raise DeploymentError(f"querying {database.name}: it ended without a usable answer")
        return dict(zip(names, map(int, numbers), strict=True))

    def check_swappable(self, database: Database) -> None:
        """Refuse a database with views, triggers or routines: only tables can be moved to another database."""
        unmovable = _sql(database, _UNMOVABLE).strip()
        if unmovable:
            raise DeploymentError(
                f"{database.name} cannot be exchanged: only tables can be moved to another database, and it has "
                f"{unmovable}",
                hint="load the dump into a new database on the command line (docs/guides/backups.md), and set "
                f"{database.site.at}:database:name to that",
            )

    def swap(self, database: Database, name: str, kept: str) -> None:
        """Move all tables of both databases in one statement."""
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
        self.drop(database, name)

    def drop(self, database: Database, name: str) -> None:
        # To drop one that is not there needs the right to drop it; a login sees the databases that it may use.
        if name in _sql(database, "SHOW DATABASES").splitlines():
            _sql(database, f"DROP DATABASE `{name}`")


def _create(database: Database, name: str) -> None:
    """Create a database with the character set of another one."""
    how = _sql(database, "SELECT CONCAT(@@character_set_database, ' COLLATE ', @@collation_database)").strip()
    try:
        _sql(database, f"CREATE DATABASE `{name}` CHARACTER SET {how}")
    except DeploymentError as error:
        if "Access denied" not in error.log:
            raise
        pattern = re.sub(r"([_%])", r"\\\1", start_of_copies(database.name))
        user = database.connection.get("user")
        login = _sql(database, "SELECT CURRENT_USER()").strip().replace("@", "'@'")
        raise DeploymentError(
            f"{user} may not create databases on its server, and a backup is loaded into one",
            hint=f"as root there: GRANT ALL ON `{pattern}\\_%`.* TO '{login}';",
        ) from None


class _Counter:
    """Counts the rows of each table in a dump that it passes on.

    Attributes:
        last: the last line that is not empty.
    """

    def __init__(self, pass_on: Callable[[bytes], None]):
        self.rows: dict[str, int] = {}
        self.last = b""
        self._pass_on, self._table, self._line = pass_on, "", bytearray()

    def take(self, part: bytes) -> None:
        """Count the rows in a part of the dump, as far as its lines are whole; the last one has an end too."""
        self._pass_on(part)
        first, *lines = part.split(b"\n")
        self._line += first
        if len(self._line) > _LINE:
            raise OSError(errno.EFBIG, f"a row has more than {_LINE >> 20} MiB")
        for line in lines:
            self._count(bytes(self._line))
            self._line = bytearray(line)

    def _count(self, line: bytes) -> None:
        made = re.match(rb"CREATE TABLE `((?:[^`]|``)+)`", line)
        filled = re.match(rb"INSERT INTO `((?:[^`]|``)+)` (?:\([^)]*\) )?VALUES", line)
        if made:
            self.rows[_table_name(made)] = 0
        elif filled or (self._table and line.startswith(b"(")):
            self._table = _table_name(filled) if filled else self._table
            values = _STRINGS.sub(b"", line[filled.end() :] if filled else line)
            self.rows[self._table] = self.rows.get(self._table, 0) + values.count(b"(")
            self._table = "" if values.rstrip().endswith(b";") else self._table
        if line.strip():
            self.last = line


def _table_name(found: re.Match[bytes]) -> str:
    """Return the name of a table in a statement."""
    return found[1].replace(b"``", b"`").decode(errors="surrogateescape")


def _tables(database: Database) -> list[str]:
    return _sql(database, f"{_TABLES} AND table_type = 'BASE TABLE' ORDER BY table_name").splitlines()


def _migrations(database: Database) -> list[str]:
    if "django_migrations" not in _tables(database):
        return []
    return sorted(_sql(database, "SELECT CONCAT(app, '.', name) FROM django_migrations").split())


def _sql(database: Database, statements: str) -> str:
    """Return the output of statements, without headers."""
    options = ["--batch", "--skip-column-names", "--raw", "--default-character-set=utf8mb4", database.name]
    return _run(database, _client(database), options, doing=f"querying {database.name}", stdin=statements)


def _client(database: Database) -> str:
    return dumps.client(database, "mariadb", "mysql")


def _run(database: Database, program: str, arguments: list[str], *, doing: str, **streams: Any) -> str:
    with _option_file(database) as descriptor:
        argv = [program, f"--defaults-extra-file=/proc/self/fd/{descriptor}", *arguments]
        return commands.run(
            argv,
            doing=doing,
            user=database.site.user,
            descriptors=[descriptor],
            timeout=database.timeout(),
            secrets=database.secrets(),
            **streams,
        )


@contextlib.contextmanager
def _option_file(database: Database) -> Iterator[int]:
    """Yield a file in memory with the options by which a client connects to the database."""
    connection, tls = database.connection, database.connection.get("ssl") or {}
    options = {_OPTIONS[key]: value for key, value in connection.items() if key in _OPTIONS}
    options |= {_TLS[key]: value for key, value in tls.items() if key in _TLS} if isinstance(tls, dict) else {}
    mode = "REQUIRED" if tls is True else str(connection.get("ssl_mode") or "").upper()
    if mode not in _PLAIN:  # MariaDB's clients know the one, MySQL's the other
        options |= {"loose-ssl": "1", "loose-ssl-mode": mode}
    if mode == "VERIFY_IDENTITY":
        options["loose-ssl-verify-server-cert"] = "1"
    if connection.get("host"):
        options["socket" if str(connection["host"]).startswith("/") else "host"] = connection["host"]
    lines = [f"{name}={_option(str(value))}" for name, value in options.items()]
    with dumps.private_file(database.site, "\n".join(["[client]", *lines, ""])) as descriptor:
        yield descriptor


def _option(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
