"""SQLite: everything is done by a small program that runs as the site's user, whose file it is."""

import contextlib
from typing import Any

import django_backup_dump
import django_host_command
import django_host_file
from django_backup_dump import Database
from django_host_command import DeploymentError

SUFFIX = "sqlite3"
PROGRAM = "salt://django/files/django_formula_sqlite.py"


def look(database: Database) -> dict[str, int]:
    """As `django_backup_dump.Engine.look`."""
    found: dict[str, int] = _do(database, {"size": int, "tables": int}, "look", database.name)
    return found


def dump(database: Database, file: int) -> dict[str, Any]:
    """As `django_backup_dump.Engine.dump`: by SQLite's online backup."""
    with django_backup_dump.received(f"the database {database.alias!r}", django_backup_dump.into(file)) as pipe:
        found: dict[str, Any] = _do(database, django_backup_dump.FOUND, "dump", database.name, output=pipe)
    return found


def load(database: Database, name: str, file: int) -> dict[str, Any]:
    """As `django_backup_dump.Engine.load`."""
    found: dict[str, Any] = _do(database, django_backup_dump.FOUND, "load", name, stdin=file)
    return found


def rows(database: Database) -> dict[str, int]:
    """As `django_backup_dump.Engine.rows`."""
    found: dict[str, int] = _do(database, django_backup_dump.FOUND, "count", database.name)["rows"]
    return found


def refuse(database: Database) -> None:
    """As `django_backup_dump.Engine.refuse`: a file can always be exchanged."""


def swap(database: Database, name: str, kept: str) -> None:
    """As `django_backup_dump.Engine.swap`; the site is stopped."""
    _do(database, {}, "swap", database.name, name, kept)


def mend(database: Database, kept: str) -> None:
    """Give the database its name again where an exchange was killed after it had been renamed."""
    _do(database, {}, "mend", database.name, kept)


def drop(database: Database, name: str) -> None:
    """As `django_backup_dump.Engine.drop`."""
    _do(database, {}, "remove", name)


def _do(database: Database, shape: Any, verb: str, *paths: str, **streams: Any) -> Any:
    site = database.site
    program = django_host_file.read_text(site.kept_template(PROGRAM)) or ""
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(django_backup_dump.private_file(site, program))
        answers = stack.enter_context(django_backup_dump.private_file(site, ""))
        argv = ["/usr/bin/python3", "-I", f"/proc/self/fd/{source}", str(answers), verb, *paths]
        try:
            django_host_command.run(
                argv,
                doing=f"the database {database.alias!r}",
                user=site.user,
                timeout=database.timeout(),
                descriptors=[source, answers],
                **streams,
            )
        except DeploymentError as error:
            cause = next((line for line in reversed(error.log.splitlines()) if line.strip()), error.message)
            raise DeploymentError(f"SQLite: {cause}", log=error.log, transient=error.transient) from None
        return django_backup_dump.read_answer(answers, shape, doing=f"SQLite: {verb} {paths[0]}")
