"""Migrate in a site's virtualenv, as its user: under a lock, and with short waits for locks of the running release.

stdin has a request, stdout gets the answer, both JSON. With arguments manage.py runs under the same lock: the first
argument is the request, the rest are those of manage.py.
"""

import contextlib
import json
import os
import runpy
import sys
import time

import django_formula_guard as guard
import django_formula_keep as keep
import django_formula_lock as locks
import django_formula_start as start

TRIES = 5
#: Projects leave out what needs a table, as in AppConfig.ready(), where the command line has the command's name.
_MIGRATE = ["manage.py", "migrate"]
#: Statements that change nothing.
_READS = ("SELECT", "SHOW", "SET ", "PRAGMA", "EXPLAIN", "SAVEPOINT", "RELEASE", "ROLLBACK", "BEGIN")


#: A write that changes nothing. On SQLite a transaction that reads first cannot write once another one has written, as
#: Django does when it records a migration: it looks for its table before.
_NOTHING = "DELETE FROM django_migrations WHERE 0"


class Blocked(Exception):
    """A lock was not free in time; trying again later may help."""

    def __init__(self, text, error=None):
        super().__init__(text)
        self.told = {**getattr(error, "told", {}), "blocked": "yes"}


def migrate(request):
    """Migrate the databases in the order of the request, and run Django's checks."""
    sys.argv = _MIGRATE
    start.import_application(request["application"])
    done = {}
    for alias in request["databases"]:
        done[alias] = _under_lock(alias, request, Forwards())
    return {
        "migrations": {alias: start.migrations(alias) for alias in request["databases"]},
        "migrated": done,
        "checks": [*start.checks(request), *start.not_made(request["databases"])],
    }


def reverse(request):
    """Reverse the named migrations of each database, and no others."""
    sys.argv = _MIGRATE
    start.import_application(request["application"])
    done = {}
    for alias, names in request["databases"].items():
        done[alias] = _under_lock(alias, request, Backwards(names))
    return {"migrations": {alias: start.migrations(alias) for alias in done}, "migrated": done}


def classify(request):
    """Classify named migrations that the databases have, for a release that has all others.

    A squashed migration is left out if that release has all migrations that it replaces.
    """
    start.import_application(request["application"])
    from django.db import connections

    answer = {}
    for alias, names in request["databases"].items():
        executor = _executor(connections[alias])
        known = set(request["known"].get(alias, ()))
        chosen = {key for key in executor.loader.graph.nodes if ".".join(key) in names}
        replaced = {key: {".".join(one) for one in executor.loader.graph.nodes[key].replaces} for key in chosen}
        chosen -= {key for key, names in replaced.items() if names and names <= known}
        with keep.keeping(connections[alias]):
            answer[alias] = guard.classify(connections[alias], executor, chosen, is_applied=True)
    return {"schema": answer}


def manage(request, arguments):
    """Run the project's manage.py under the lock of the database that it may migrate."""
    start.import_application(request["application"])
    from django.db import connections

    def run():
        sys.argv = ["manage.py", *arguments]
        sys.path[0] = os.getcwd()
        runpy.run_path("manage.py", run_name="__main__")

    alias = _option(arguments, "--database") or "default"
    if {"--plan", "--check", "--help", "-h"} & {*arguments} or alias not in connections:
        return run()
    _end_connections()
    timeout = request["lock_timeout"]
    try:
        with _lock_timeout(request), _lock(alias, request) as lock, lock.watch(connections[alias], timeout) as watch:
            try:
                with _defaults_kept(connections[alias]):
                    return run()
            except Exception as error:
                if not is_lock_timeout(error):
                    raise
                raise Blocked(f"waited {timeout:g} s for a lock; {watch.described()}") from error
    except Blocked as error:
        raise SystemExit(str(error)) from None


def _option(arguments, name):
    for position, argument in enumerate(arguments):
        if argument == name:
            return arguments[position + 1] if position + 1 < len(arguments) else ""
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return ""


def _under_lock(alias, request, act):
    """Run an action on a database under its lock; returns the names of the migrations."""
    from django.db import connections

    _end_connections()
    with _lock_timeout(request), _lock(alias, request) as lock:
        return _with_retries(connections[alias], lock, request, act)


class Forwards:
    """Apply the pending migrations of a database; a later try returns those that were pending at the first."""

    def __init__(self):
        self.pending = None

    def __call__(self, connection):
        from django.core.management import call_command

        if self.pending is None:
            self.pending = start.migrations(connection.alias)["pending"]
        if self.pending:  # a later try may only have to do what follows the migrations
            call_command("migrate", database=connection.alias, interactive=False, verbosity=1, stdout=sys.stderr)
        return self.pending

    def under_way(self, executor):
        """Return the migration that is applied next, or None."""
        plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
        return plan[0][0] if plan else None


class Backwards:
    """Reverse the named migrations of a database."""

    def __init__(self, names):
        self.names = names

    def __call__(self, connection):
        from django.core.management import call_command

        graph = _executor(connection).loader.graph
        keys = {key for key in graph.nodes if ".".join(key) in self.names}
        for app in sorted({app for app, _name in keys}):
            applied = set(_executor(connection).loader.applied_migrations)
            kept = {key for key in graph.nodes if key[0] == app and key in applied} - keys
            last = [key for key in kept if not kept & {child.key for child in graph.node_map[key].children}]
            if len(last) > 1:
                names = ", ".join(sorted(name for _app, name in last))
                raise RuntimeError(f"{app} has several last migrations: {names}")
            target = last[0][1] if last else "zero"
            options = {"database": connection.alias, "interactive": False, "verbosity": 1, "stdout": sys.stderr}
            call_command("migrate", app, target, **options)
        return self.names

    def under_way(self, executor):
        """Return the migration that is reversed next, or None."""
        applied = executor.loader.applied_migrations
        order = [one for one, _ in executor.migration_plan(executor.loader.graph.leaf_nodes(), clean_start=True)]
        keys = ((one, (one.app_label, one.name)) for one in reversed(order))
        return next((one for one, key in keys if key in applied and ".".join(key) in self.names), None)


def _executor(connection):
    from django.db.migrations.executor import MigrationExecutor

    return MigrationExecutor(connection)


def _end_connections():
    """Close the connections that importing the project has opened, without the lock timeout."""
    from django.db import connections

    connections.close_all()


# Retries


def _with_retries(connection, lock, request, act):
    """Run an action; retry it with growing pauses if a lock has stopped it and nothing was applied.

    Raises:
        Blocked: the lock was not free in time; names the sessions that hold it.
    """
    began, timeout = time.monotonic(), request["lock_timeout"]
    before = None
    for attempt in range(1, TRIES + 1):
        with _Statements(connection) as statements, lock.watch(connection, timeout) as watch:
            try:
                before = before or _applied(connection)
                statements.is_used = bool(before)
                with _defaults_kept(connection):
                    return act(connection)
            except Exception as error:
                name, again = _interrupted(connection, act, statements, before, error)
                if not is_lock_timeout(error):
                    raise
                text = f"waited {f'{attempt} times ' if attempt > 1 else ''}{timeout:g} s for a lock"
                text = f"{text}; {watch.described()}"
                if not again:
                    text = f"{text}; it is not atomic and was not retried: check what it has applied"
                    raise Blocked(text, error) from error
                if attempt == TRIES or time.monotonic() - began > request["timeout"]:
                    raise Blocked(text, error) from error
                print(f"{name} {text}; retrying", file=sys.stderr)
        time.sleep(timeout * 2 ** (attempt - 1))
    raise AssertionError("not reached")


def _interrupted(connection, act, statements, before, error):
    """Return the migration that an error has stopped, and whether it can be retried; the error gets both in words."""
    name, again = "", statements.written == 0
    with contextlib.suppress(Exception):
        if connection.in_atomic_block:  # SQLite's schema editor raises before it ends its transaction
            connection.close()
            connection.connect()
        connection.close_if_unusable_or_obsolete()
        executor = _executor(connection)
        migration = act.under_way(executor)
        name = f"{migration.app_label}.{migration.name}" if migration else ""
        again = migration is None or _has_applied_nothing(connection, migration, statements)
        since = ", ".join(sorted(before ^ _applied(connection)))
        error.told = {"migration": name, "applied": since}
        error.told["repeated"] = _repeated(executor.loader, migration) if migration else ""
    return name, again


def _repeated(loader, migration):
    """Return the first model or field that a migration adds though those before it have; empty if it adds none."""
    app = migration.app_label
    state = loader.project_state((app, migration.name), at_end=False)
    for operation in migration.operations:
        kind = type(operation).__name__
        model = getattr(operation, "name" if kind == "CreateModel" else "model_name", "")
        found = state.models.get((app, model.lower()))
        if found and kind == "CreateModel":
            return f"{app}.{found.name}"
        if found and kind == "AddField" and operation.name in dict(found.fields):
            return f"{app}.{found.name}.{operation.name}"
        operation.state_forwards(app, state)
    return ""


@contextlib.contextmanager
def _defaults_kept(connection):
    """Keep the defaults of new columns in a database that a running release may use: it has migrations."""
    from django.db.migrations.recorder import MigrationRecorder

    is_used = bool(MigrationRecorder(connection).applied_migrations())
    with keep.keeping(connection) if is_used else contextlib.nullcontext():
        yield


def _applied(connection):
    return {*start.migrations(connection.alias)["applied"]}


def _has_applied_nothing(connection, migration, statements):
    """Return whether a failed migration has changed nothing: it was rolled back, or no statement had run.

    PostgreSQL leaves an invalid index if building it concurrently fails.
    """
    if migration.atomic and connection.features.can_rollback_ddl:
        return True
    return connection.vendor == "mysql" and statements.written == 0


class _Statements:
    """Counts the statements that have written since a migration was last recorded."""

    def __init__(self, connection):
        self.connection, self.is_used = connection, False
        self.wrapped = connection.execute_wrapper(self) if hasattr(connection, "execute_wrapper") else None
        self.written = 0 if self.wrapped else 1

    def __call__(self, execute, sql, params, many, context):
        text = str(sql).lstrip().upper()
        if "SQLITE_MASTER" in text and text.startswith("SELECT") and self.connection.in_atomic_block and self.is_used:
            execute(_NOTHING, None, False, context)
        result = execute(sql, params, many, context)
        if "DJANGO_MIGRATIONS" in text and text.startswith(("INSERT", "DELETE")):
            self.written = 0
        elif not text.startswith(_READS):
            self.written += 1
        return result

    def __enter__(self):
        if self.wrapped:
            self.wrapped.__enter__()
        return self

    def __exit__(self, *error):
        if self.wrapped:
            self.wrapped.__exit__(*error)


def is_lock_timeout(error):
    """Return whether a database error is a lock timeout or a deadlock."""
    from django.db.transaction import TransactionManagementError
    from django.db.utils import OperationalError

    if isinstance(error, TransactionManagementError) and error.__context__ is not None:
        return is_lock_timeout(error.__context__)  # raised at the end of the transaction that the timeout has broken
    if not isinstance(error, OperationalError):
        return False
    cause = error.__cause__
    code = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    number = cause.args[0] if cause is not None and cause.args else None
    text = str(error)
    return code in ("55P03", "40P01") or number in (1205, 1213) or "is locked" in text or "lock timeout" in text


@contextlib.contextmanager
def _lock_timeout(request):
    """Limit how long connections that are opened in the block wait for a lock."""
    from django.db.backends.signals import connection_created

    milliseconds = max(1, round(request["lock_timeout"] * 1000))
    statements = {
        "postgresql": [f"SET lock_timeout = {milliseconds}"],
        "mysql": [f"SET SESSION {name} = {max(1, -(-milliseconds // 1000))}" for name in _MYSQL_TIMEOUTS],
        "sqlite": [f"PRAGMA busy_timeout = {milliseconds}"],
    }

    def limit(sender, connection, **_more):
        with connection.cursor() as cursor:
            for statement in statements.get(connection.vendor, ()):
                cursor.execute(statement)

    connection_created.connect(limit, weak=False, dispatch_uid=locks.NAMESPACE)
    try:
        yield
    finally:
        connection_created.disconnect(dispatch_uid=locks.NAMESPACE)


_MYSQL_TIMEOUTS = ("lock_wait_timeout", "innodb_lock_wait_timeout")


@contextlib.contextmanager
def _lock(alias, request):
    """Hold the lock of a database, which is waited for as long as the request allows.

    Raises:
        Blocked: another process migrates it for longer.
    """
    from django.db import connections

    lock = locks.of(connections[alias], alias)
    deadline, pause = time.monotonic() + request["timeout"], 0.1
    try:
        while not lock.take():
            if time.monotonic() > deadline:
                holder = lock.holder() or "its process is unknown"
                raise Blocked(f"another migration of {alias!r} is in progress: {holder}")
            time.sleep(pause)
            pause = min(2 * pause, 2)
        yield lock
    finally:
        lock.release()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        manage(json.loads(sys.argv[1]), sys.argv[2:])
    else:
        start.serve({"migrate": migrate, "reverse": reverse, "classify": classify})
