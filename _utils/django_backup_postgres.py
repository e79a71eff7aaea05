"""PostgreSQL, by its own clients, which run as the site's user and get the password in a file in memory."""

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from typing import IO, Any, cast

import django_backup_dump
import django_host_command
import django_wall_shape
from django_backup_dump import Database
from django_host_command import DeploymentError

SUFFIX = "dump"
_PACKAGE = "postgresql-client"
#: Characters of an answer; the rows of each table, by their names.
_LINE, _COUNTED = 1 << 22, {str: int}
#: What a driver is told, and the variable by which the clients are.
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
_LOOK = """SELECT json_build_object('size', pg_database_size(current_database()), 'tables', (
  SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')));"""
#: An extension's own tables are no part of a dump.
_ROWS = """SELECT coalesce(json_object_agg(n.nspname || '.' || c.relname, (xpath('/row/rows/text()', query_to_xml(
    format('SELECT count(*) AS rows FROM ONLY %I.%I', n.nspname, c.relname), false, true, '')))[1]::text::bigint), '{}')
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' AND NOT EXISTS (
    SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e');"""
_MIGRATIONS = """SELECT to_regclass('django_migrations') IS NOT NULL AS migrated \\gset
\\if :migrated
SELECT coalesce(json_agg(app || '.' || name ORDER BY app, name), '[]') FROM django_migrations;
\\else
SELECT '[]';
\\endif
"""
#: A database like this one, but empty: its locale, comment and settings, who may connect, and as whom.
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
#: Nobody gets into the database any more, and who is in it has to go.
_CLOSE = """SELECT format('ALTER DATABASE %I ALLOW_CONNECTIONS false', :'old') \\gexec
SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname = :'old' AND pid <> pg_backend_pid();
"""
_RENAME = """SELECT format('ALTER DATABASE %I RENAME TO %I', :'old', :'new') \\gexec
"""
_OPEN = """SELECT format('ALTER DATABASE %I ALLOW_CONNECTIONS true', :'new') \\gexec
"""


def look(database: Database) -> dict[str, int]:
    """As `django_backup_dump.Engine.look`."""
    found: dict[str, int] = _answered(database, _psql(database, _LOOK), {"size": int, "tables": int})
    return found


def _answered(database: Database, text: str, shape: Any) -> Any:
    """What the server of a database has answered as JSON; which server that is, the project decides."""
    return django_wall_shape.parse(text, shape, doing=f"asking {database.name}")


def dump(database: Database, file: int) -> dict[str, Any]:
    """As `django_backup_dump.Engine.dump`: rows are counted, and pg_dump reads, in one snapshot."""
    program = django_backup_dump.client(database, ["pg_dump"], _PACKAGE)
    with _session(database) as ask:
        ask("SET statement_timeout = 0;\nBEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;\nSELECT 1;\n")
        snapshot = ask("SELECT pg_export_snapshot();\n")
        rows, migrations = ask(f"{_ROWS}\n"), ask(_MIGRATIONS)
        found = {"rows": _answered(database, rows, _COUNTED), "migrations": _answered(database, migrations, [str])}
        argv = [program, "--format=custom", "--no-password", f"--snapshot={snapshot}", "--lock-wait-timeout=60s"]
        with django_backup_dump.received(f"dumping {database.name}", django_backup_dump.into(file)) as pipe:
            _run(database, argv, doing=f"dumping {database.name}", output=pipe)
    return found


def load(database: Database, name: str, file: int) -> dict[str, Any]:
    """As `django_backup_dump.Engine.load`."""
    program = django_backup_dump.client(database, ["pg_restore"], _PACKAGE)
    try:
        _psql(database, _CREATE, new=name)
    except DeploymentError as error:
        if "permission denied to create database" in error.log:
            raise DeploymentError(
                f"{database.said.get('user')} may not create databases on its server, and a backup is loaded into one",
                hint=f'as a superuser there: ALTER ROLE "{database.said.get("user")}" CREATEDB;',
            ) from None
        raise
    argv = [program, "--exit-on-error", "--no-owner", "--no-password", f"--dbname={name}"]
    _run(database, argv, doing=f"loading {name}", stdin=file)
    loaded = database._replace(name=name)
    return {"rows": rows(loaded), "migrations": _answered(loaded, _psql(loaded, _MIGRATIONS), [str])}


def rows(database: Database) -> dict[str, int]:
    """As `django_backup_dump.Engine.rows`."""
    found: dict[str, int] = _answered(database, _psql(database, _ROWS), _COUNTED)
    return found


def refuse(database: Database) -> None:
    """As `django_backup_dump.Engine.refuse`: only its owner may rename a database."""
    owner = _psql(database, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database();")
    mine = "SELECT pg_has_role(datdba, 'USAGE') FROM pg_database WHERE datname = current_database();"
    if _psql(database, mine).strip() != "t":
        user = database.said.get("user")
        raise DeploymentError(
            f"the database {database.name} belongs to {owner.strip()}, and only its owner may rename it",
            hint=f'as a superuser there: ALTER DATABASE "{database.name}" OWNER TO "{user}";',
        )


def swap(database: Database, name: str, kept: str) -> None:
    """As `django_backup_dump.Engine.swap`: each database is renamed from within the other."""
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


def drop(database: Database, name: str) -> None:
    """As `django_backup_dump.Engine.drop`."""
    _psql(database, "SELECT format('DROP DATABASE IF EXISTS %I', :'new') \\gexec\n", new=name)


def _psql(database: Database, script: str, **variables: str) -> str:
    """What a script of statements answers, without headers."""
    told = [f"--set={name}={value}" for name, value in variables.items()]
    return _run(database, [*_client(database), *told, "--file=-"], doing=f"asking {database.name}", stdin=script)


def _client(database: Database) -> list[str]:
    options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--no-password", "--set=ON_ERROR_STOP=1"]
    return [django_backup_dump.client(database, ["psql"], _PACKAGE), *options]


def _run(database: Database, argv: list[str], *, doing: str, **streams: Any) -> str:
    with _reached(database) as (environment, descriptors):
        return django_host_command.run(
            argv,
            doing=doing,
            user=database.site.user,
            environment=environment,
            descriptors=descriptors,
            timeout=database.timeout(),
            secrets=database.masked(),
            **streams,
        )


@contextlib.contextmanager
def _reached(database: Database) -> Iterator[tuple[dict[str, str], list[int]]]:
    """The variables and descriptors by which a client reaches the database."""
    said = {_VARIABLES[key]: str(value) for key, value in database.said.items() if key in _VARIABLES}
    environment = {"PGDATABASE": database.name, "PGAPPNAME": "django-formula", **said}
    password = str(database.said.get("password") or "")
    line = password.replace("\\", "\\\\").replace(":", "\\:")
    with django_backup_dump.private_file(database.site, f"*:*:*:*:{line}\n") as descriptor:
        if password:
            environment["PGPASSFILE"] = f"/proc/self/fd/{descriptor}"
        yield environment, [descriptor]


@contextlib.contextmanager
def _session(database: Database) -> Iterator[Any]:
    """A session at the server: what it yields sends a script, and returns the one line that it answers."""
    with _reached(database) as (environment, descriptors):
        process = subprocess.Popen(  # noqa: S603 - an argument list, never a shell
            _client(database),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": django_host_command.PATH, "LANG": "C.UTF-8", "HOME": "/nonexistent", **environment},
            pass_fds=tuple(descriptors),
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
            **django_host_command.identity(database.site.user),
        )
        patience = threading.Timer(database.timeout(), process.kill)
        patience.start()

        def ask(script: str) -> str:
            questions, answers, errors = (
                cast(IO[str], pipe) for pipe in (process.stdin, process.stdout, process.stderr)
            )
            with contextlib.suppress(BrokenPipeError):
                questions.write(script)
                questions.flush()
            answer = answers.readline(_LINE)
            if not answer:
                text = django_host_command.redact(errors.read(_LINE), database.masked())
                raise DeploymentError(f"asking {database.name} failed", log=text, transient=True)
            return answer.strip()

        try:
            yield ask
        finally:
            patience.cancel()
            process.kill()
            process.communicate()
