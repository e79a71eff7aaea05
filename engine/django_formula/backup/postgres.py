"""Back up and restore PostgreSQL with its clients, as the site's user, with the password in a file in memory."""

import contextlib
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from typing import IO, Any, cast

from django_formula.backup import dumps
from django_formula.backup.dumps import Database, Dumper, Prepare, nothing
from django_formula.database import engines
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.untrusted import shapes

#: Characters of an answer, and its shape where it has the rows of each table.
_LINE, _ROW_COUNTS = 1 << 22, {str: int}
#: Parameters of a driver, and the variables that the clients read for the same.
_VARIABLES = {
    "host": "PGHOST",
    "hostaddr": "PGHOSTADDR",
    "port": "PGPORT",
    "user": "PGUSER",
    "passfile": "PGPASSFILE",
    "service": "PGSERVICE",
    "sslmode": "PGSSLMODE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
    "gssencmode": "PGGSSENCMODE",
    "channel_binding": "PGCHANNELBINDING",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
    "connect_timeout": "PGCONNECT_TIMEOUT",
}
_MEASURE = """SELECT json_build_object('size', pg_database_size(current_database()), 'tables', (
  SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')));"""
#: Without the tables of extensions, which are not part of a dump.
_ROWS = """SELECT coalesce(json_object_agg(n.nspname || '.' || c.relname, (xpath('/row/rows/text()', query_to_xml(
    format('SELECT count(*) AS rows FROM ONLY %I.%I', n.nspname, c.relname), false, true, '')))[1]::text::bigint), '{}')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e');"""
#: The tables of extensions, by schema and name as pg_restore lists them.
_OF_EXTENSIONS = """SELECT coalesce(json_agg(n.nspname || ' ' || c.relname), '[]')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e';"""
_MIGRATIONS = """SELECT to_regclass('django_migrations') IS NOT NULL AS migrated \\gset
\\if :migrated
SELECT coalesce(json_agg(app || '.' || name ORDER BY app, name), '[]') FROM django_migrations;
\\else
SELECT '[]';
\\endif
"""
#: Create an empty database like this one: its locale, comment, settings and rights, and the role that logins act as.
_CREATE = """SELECT format('CREATE DATABASE %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L', :'new',
    pg_encoding_to_char(encoding), datcollate, datctype) FROM pg_database WHERE datname = current_database() \\gexec
SELECT format('COMMENT ON DATABASE %I IS %L', :'new', shobj_description(oid, 'pg_database')) FROM pg_database
  WHERE datname = current_database() AND shobj_description(oid, 'pg_database') IS NOT NULL \\gexec
SELECT format('ALTER DATABASE %I SET %s TO %s', :'new', split_part(one, '=', 1),
    CASE WHEN split_part(one, '=', 1) = 'search_path' THEN substr(one, strpos(one, '=') + 1)
    ELSE quote_literal(substr(one, strpos(one, '=') + 1)) END)
  FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) one
  WHERE s.setrole = 0 AND d.datname = current_database() \\gexec
SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', :'new')
  FROM pg_database WHERE datname = current_database() AND datacl IS NOT NULL \\gexec
SELECT format('GRANT %s ON DATABASE %I TO %s', a.privilege_type, :'new',
    CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END)
  FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = current_database() AND a.grantee <> d.datdba \\gexec
SET ROLE NONE;
SELECT format('ALTER ROLE %I IN DATABASE %I SET %s TO %L', session_user, :'new', split_part(one, '=', 1),
    substr(one, strpos(one, '=') + 1))
  FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) one
  WHERE s.setrole = (SELECT oid FROM pg_roles WHERE rolname = session_user) AND d.datname = current_database() \\gexec
"""
#: Refuse new connections to the database, and end those that are open. Only a superuser may end autovacuum, which has
#: no user; PostgreSQL ends it itself when the database is renamed.
_CLOSE = "SELECT format('ALTER DATABASE %I ALLOW_CONNECTIONS false', :'old') \\gexec\n" + engines.ending_sessions(
    "pid", "FROM pg_stat_activity WHERE datname = :'old' AND usesysid IS NOT NULL AND pid <> pg_backend_pid()"
)
_RENAME = """SELECT format('ALTER DATABASE %I RENAME TO %I', :'old', :'new') \\gexec
"""
_OPEN = """SELECT format('ALTER DATABASE %I ALLOW_CONNECTIONS true', :'new') \\gexec
"""


class PostgreSQLDumper(Dumper):
    """PostgreSQL."""

    suffix = "dump"
    zstd_suffix = "dump.zst"

    def measure(self, database: Database) -> dict[str, int]:
        found: dict[str, int] = _query(database, _MEASURE, {"size": int, "tables": int})
        return found

    def dump(self, database: Database, file: int) -> dict[str, Any]:
        """Write a dump from the same snapshot in which its rows are counted; without zstd pg_dump compresses it."""
        program = dumps.client(database, "pg_dump")
        with _session(database) as ask:
            ask("SET statement_timeout = 0;\nBEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;\nSELECT 1;\n")
            snapshot = ask("SELECT pg_export_snapshot();\n")
            rows, migrations = ask(f"{_ROWS}\n"), ask(_MIGRATIONS)
            found = {"rows": _parsed(database, rows, _ROW_COUNTS), "migrations": _parsed(database, migrations, [str])}
            argv = [program, "--format=custom", "--no-password", f"--snapshot={snapshot}", "--lock-wait-timeout=60s"]
            doing, has_zstd = f"dumping {database.name}", dumps.has_zstd()
            argv += ["--compress=0"] if has_zstd else []
            packing = dumps.compressed(database, file) if has_zstd else contextlib.nullcontext(dumps.writer(file))
            with packing as take, dumps.received(doing, take) as pipe:
                _run(database, argv, doing=doing, output=pipe)
        return found

    def load(self, database: Database, name: str, file: int, prepare: Prepare = nothing) -> dict[str, Any]:
        program = dumps.client(database, "pg_restore")
        _create(database, name)
        loaded = database._replace(name=name)
        argv = [program, "--exit-on-error", "--no-owner", "--no-password", f"--dbname={name}"]
        if prepare(database, name):
            with dumps.content(database, file, whole=False) as begin:  # which has the list
                listed_entries = _run(database, [program, "--list"], doing="reading the dump", stdin=begin)
            entries = _entries_of_site(loaded, listed_entries)
            with dumps.private_file(database.site, entries) as listed, dumps.content(database, file) as whole:
                argv.append(f"--use-list=/proc/self/fd/{listed}")
                _run(database, argv, doing=f"loading {name}", stdin=whole, more=[listed])
        else:
            with dumps.content(database, file) as whole:
                _run(database, argv, doing=f"loading {name}", stdin=whole)
        return {"rows": self.count_rows(loaded), "migrations": _query(loaded, _MIGRATIONS, [str])}

    def count_rows(self, database: Database) -> dict[str, int]:
        """Return the rows of each table, in a transaction without the time limit that the role may have."""
        script = f"BEGIN READ ONLY;\nSET LOCAL statement_timeout = 0;\n{_ROWS}\nCOMMIT;\n"
        found: dict[str, int] = _query(database, script, _ROW_COUNTS)
        return found

    def check_swappable(self, database: Database) -> None:
        """Refuse a database that belongs to another role: only its owner may rename it."""
        owner = _psql(database, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database();")
        is_owner = "SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database();"
        if _psql(database, is_owner).strip() != "t":
            user = database.connection.get("user")
            raise DeploymentError(
                f"the database {database.name} is owned by {owner.strip()}, and only its owner may rename it",
                hint=f'as a superuser there: ALTER DATABASE "{database.name}" OWNER TO "{user}";',
            )

    def swap(self, database: Database, name: str, kept: str) -> None:
        """Rename each database over a connection to the other one."""
        loaded, former = database._replace(name=name), database._replace(name=kept)
        try:
            _psql(loaded, _CLOSE + _RENAME, old=database.name, new=kept)
        except DeploymentError:
            _psql(loaded, _OPEN, new=database.name)
            raise
        _psql(loaded, _OPEN, new=kept)
        try:
            _psql(former, _RENAME, old=name, new=database.name)
        except DeploymentError:
            _psql(loaded, _RENAME, old=kept, new=database.name)
            raise

    def drop(self, database: Database, name: str) -> None:
        _psql(database, "SELECT format('DROP DATABASE IF EXISTS %I', :'new') \\gexec\n", new=name)


def _query(database: Database, script: str, shape: Any) -> Any:
    return _parsed(database, _psql(database, script), shape)


def _parsed(database: Database, text: str, shape: Any) -> Any:
    """Return the JSON that a server has answered; the project decides which server that is."""
    return shapes.parse(text, shape, doing=f"querying {database.name}")


def _create(database: Database, name: str) -> None:
    """Create an empty database like another one."""
    try:
        _psql(database, _CREATE, new=name)
    except DeploymentError as error:
        if "permission denied to create database" not in error.log:
            raise
        user = database.connection.get("user")
        raise DeploymentError(
            f"{user} may not create databases on its server, and a backup is loaded into one",
            hint=f'as a superuser there: ALTER ROLE "{user}" CREATEDB;',
        ) from None


def _entries_of_site(loaded: Database, listed: str) -> str:
    """Return the entries of a dump without those that only the owner of an extension, the superuser, may load."""
    tables = [f"TABLE DATA {table} " for table in _query(loaded, _OF_EXTENSIONS, [str])]
    left_out = re.compile("|".join([r"COMMENT - EXTENSION", *map(re.escape, tables)]))
    return "".join(f"{line}\n" for line in listed.splitlines() if not left_out.search(line))


def _psql(database: Database, script: str, **variables: str) -> str:
    """Return the output of a script, without headers."""
    options = [f"--set={name}={value}" for name, value in variables.items()]
    return _run(database, [*_client(database), *options, "--file=-"], doing=f"querying {database.name}", stdin=script)


def _client(database: Database) -> list[str]:
    options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--no-password", "--set=ON_ERROR_STOP=1"]
    return [dumps.client(database, "psql"), *options]


def _run(database: Database, argv: list[str], *, doing: str, more: Sequence[int] = (), **streams: Any) -> str:
    """Run a client as the site's user; it has `more` descriptors."""
    with _client_environment(database) as (environment, descriptors):
        return commands.run(
            argv,
            doing=doing,
            user=database.site.user,
            environment=environment,
            descriptors=[*descriptors, *more],
            timeout=database.timeout(),
            secrets=database.secrets(),
            **streams,
        )


@contextlib.contextmanager
def _client_environment(database: Database) -> Iterator[tuple[dict[str, str], list[int]]]:
    """Yield the variables and descriptors by which a client connects to the database."""
    connection = {_VARIABLES[key]: str(value) for key, value in database.connection.items() if key in _VARIABLES}
    environment = {"PGDATABASE": database.name, "PGAPPNAME": "django-formula", **connection}
    password = str(database.connection.get("password") or "")
    line = password.replace("\\", "\\\\").replace(":", "\\:")
    with dumps.private_file(database.site, f"*:*:*:*:{line}\n") as descriptor:
        if password:
            environment["PGPASSFILE"] = f"/proc/self/fd/{descriptor}"
        yield environment, [descriptor]


@contextlib.contextmanager
def _session(database: Database) -> Iterator[Any]:
    """Open a session; yields a function that sends a script and returns the line that the server answers."""
    with _client_environment(database) as (environment, descriptors):
        process = subprocess.Popen(  # noqa: S603 - an argument list, never a shell
            _client(database),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": commands.PATH, "LANG": "C.UTF-8", "HOME": "/nonexistent", **environment},
            pass_fds=tuple(descriptors),
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
            **commands.identity(database.site.user),
        )
        timeout = threading.Timer(database.timeout(), process.kill)
        timeout.start()

        def ask(script: str) -> str:
            questions, answers, errors = (
                cast(IO[str], pipe) for pipe in (process.stdin, process.stdout, process.stderr)
            )
            with contextlib.suppress(BrokenPipeError):
                questions.write(script)
                questions.flush()
            answer = answers.readline(_LINE)
            if not answer:
                text = commands.redact(errors.read(_LINE), database.secrets())
                raise DeploymentError(f"querying {database.name} failed", log=text, transient=True)
            return answer.strip()

        try:
            yield ask
        finally:
            timeout.cancel()
            process.kill()
            process.communicate()
