"""Back up and restore SQLite databases, by a small program that runs as the site's user, who owns the files."""

import contextlib
from typing import Any

from django_formula.backup import dumps
from django_formula.backup.dumps import CONTENTS, Database, Dumper, Prepare, nothing
from django_formula.host import commands
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError

PROGRAM = "salt://django/files/django_formula_sqlite.py"


class SQLiteDumper(Dumper):
    """SQLite, by its online backup."""

    suffix = "sqlite3"
    is_path = True

    def measure(self, database: Database) -> dict[str, int]:
        found: dict[str, int] = _run(database, {"size": int, "tables": int}, "measure", database.name)
        return found

    def dump(self, database: Database, file: int) -> dict[str, Any]:
        doing = f"the database {database.alias!r}"
        with dumps.received(doing, dumps.writer(file)) as pipe:
            found: dict[str, Any] = _run(database, CONTENTS, "dump", database.name, output=pipe)
        return found

    def load(self, database: Database, name: str, file: int, _prepare: Prepare = nothing) -> dict[str, Any]:
        found: dict[str, Any] = _run(database, CONTENTS, "load", name, stdin=file)
        return found

    def count_rows(self, database: Database) -> dict[str, int]:
        found: dict[str, int] = _run(database, CONTENTS, "count", database.name)["rows"]
        return found

    def swap(self, database: Database, name: str, kept: str) -> None:
        """Exchange the files, while the site is stopped."""
        _run(database, {}, "swap", database.name, name, kept)

    def undo_partial_swap(self, database: Database, kept: str) -> None:
        _run(database, {}, "undo_partial_swap", database.name, kept)

    def drop(self, database: Database, name: str) -> None:
        _run(database, {}, "remove", name)


def _run(database: Database, shape: Any, verb: str, *paths: str, **streams: Any) -> Any:
    site = database.site
    program = host_file.read_text(site.kept_template(PROGRAM)) or ""
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(dumps.private_file(site, program))
        answers = stack.enter_context(dumps.private_file(site, ""))
        argv = ["/usr/bin/python3", "-I", f"/proc/self/fd/{source}", str(answers), verb, *paths]
        try:
            commands.run(
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
        return dumps.read_answer(answers, shape, doing=f"SQLite: {verb} {paths[0]}")
