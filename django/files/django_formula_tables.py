"""Tables and columns that models have and the database lacks after all migrations: no migration makes them."""

import contextlib
import os

#: Of tables and columns, the most that a warning names.
SHOWN = 5


def not_made(aliases):
    """Return a warning for each database whose models have what no migration makes."""
    texts = {alias: _warning(*_missing(alias)) for alias in aliases}
    return [f"{text} (database {alias})" if alias != "default" else text for alias, text in texts.items() if text]


def _missing(alias):
    """Return the missing tables and columns, and the applications of packages that they are in."""
    from django.apps import apps
    from django.db import DatabaseError, connections, router

    connection = connections[alias]
    names, packages = [], set()
    with connection.cursor() as cursor:
        tables = {name.casefold() for name in connection.introspection.table_names(cursor, include_views=True)}
        for model in apps.get_models(include_auto_created=True):
            options = model._meta
            table = options.db_table
            is_plain = '"' not in table and "." not in table and len(table) <= (connection.ops.max_name_length() or 64)
            if not is_plain or not options.can_migrate(connection) or not router.allow_migrate_model(alias, model):
                continue
            missing = [table]
            if table.casefold() in tables:
                missing = []
                with contextlib.suppress(DatabaseError):  # a view, or a table of another schema
                    missing = [f"{table}.{column}" for column in _missing_columns(connection, cursor, options)]
            names += missing
            if missing and f"{os.sep}site-packages{os.sep}" in options.app_config.path:
                packages.add(options.app_label)
    return names, packages


def _missing_columns(connection, cursor, options):
    cursor.execute(f"SELECT * FROM {connection.ops.quote_name(options.db_table)} WHERE 1 = 0")  # noqa: S608  # nosec B608
    present = {column[0].casefold() for column in cursor.description}
    fields = [field for field in options.local_concrete_fields if field.db_type(connection)]
    return [field.column for field in fields if field.column.casefold() not in present]


def _warning(names, packages):
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    text = (
        f"no migration makes {', '.join(names[:SHOWN])}{more}, which models have: pages that need them fail; run "
        "manage.py makemigrations in the project, and commit the migrations"
    )
    if not packages:
        return text
    return (
        f"{text}; those of {', '.join(sorted(packages))}, which is a package, belong in a folder of the project with a "
        "copy of its migrations, which MIGRATION_MODULES names"
    )
