"""Tables and columns that models have and the database lacks after all migrations: no migration makes them."""

import os

#: The query for tables and views with their columns, by the vendor of a database.
_COLUMNS = {
    "sqlite": """
        SELECT tables.name, columns.name FROM sqlite_master AS tables, pragma_table_xinfo(tables.name) AS columns
        WHERE tables.type = 'table' AND tables.sql NOT LIKE 'CREATE VIRTUAL %'
        UNION ALL SELECT name, NULL FROM sqlite_master WHERE type = 'view' OR sql LIKE 'CREATE VIRTUAL %'
    """,
    "postgresql": """
        SELECT relname, attname FROM pg_catalog.pg_attribute
        JOIN pg_catalog.pg_class ON pg_class.oid = attrelid
        WHERE relkind IN ('r', 'p', 'v', 'm', 'f') AND attnum > 0 AND NOT attisdropped
        AND relnamespace <> 'pg_catalog'::regnamespace AND pg_catalog.pg_table_is_visible(pg_class.oid)
    """,
    "mysql": "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = DATABASE()",
}
#: Of tables and columns, the most that a warning names.
SHOWN = 5


def not_made(aliases):
    """Return a warning for each database whose models have what no migration makes."""
    texts = {alias: _warning(*_missing(alias)) for alias in aliases}
    return [f"{text} (database {alias})" if alias != "default" else text for alias, text in texts.items() if text]


def _missing(alias):
    """Return the missing tables and columns, and the applications of packages that they are in."""
    from django.apps import apps
    from django.db import connections, router

    connection = connections[alias]
    present = _present(connection)
    names, packages = [], set()
    for model in apps.get_models(include_auto_created=True) if present is not None else ():
        options = model._meta
        table = options.db_table
        is_plain = '"' not in table and "." not in table and len(table) <= (connection.ops.max_name_length() or 64)
        if not is_plain or not options.can_migrate(connection) or not router.allow_migrate_model(alias, model):
            continue
        columns = present.get(table.casefold())
        missing = [table] if columns is None else _missing_columns(connection, options, columns)
        names += missing
        if missing and f"{os.sep}site-packages{os.sep}" in options.app_config.path:
            packages.add(options.app_label)
    return names, packages


def _missing_columns(connection, options, present):
    """Return the columns that a table lacks; of a view or virtual table of SQLite they are unknown."""
    columns = [field.column for field in options.local_concrete_fields if field.db_type(connection)]
    return [f"{options.db_table}.{column}" for column in columns if present and column.casefold() not in present]


def _present(connection):
    """Return the columns of each table and view, by one query that waits for no lock of a table; None if unknown."""
    query = _COLUMNS.get(connection.vendor)
    if query is None:
        return None
    found = {}
    with connection.cursor() as cursor:
        cursor.execute(query)
        for table, column in cursor.fetchall():
            columns = found.setdefault(table.casefold(), set())
            columns.update({column.casefold()} if column else ())
    return found


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
