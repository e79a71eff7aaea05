"""Keep the defaults of columns that migrations add, for the INSERTs of a release that does not know these columns.

Django fills the rows with a field's default and then drops it from the column. A schema editor of `keeping` leaves it
there, as a constant or as the expression that the server computes for each row. Only the connection's instance has that
editor: no class of Django's is changed. docs/decisions/0056
"""

import contextlib
import datetime
import time
import uuid

import django_formula_guard as guard

ENGINES = ("sqlite", "postgresql", "mysql")
NOW = {
    "postgresql": "(now())",
    "mysql": "(utc_timestamp(6))",
    "sqlite": "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))",
    "sqlite local": "(strftime('%Y-%m-%d %H:%M:%f000', 'now', 'localtime'))",
}
UUID = {
    "postgresql": "(gen_random_uuid())",
    "mysql": "(replace(uuid(), '-', ''))",
    "mysql uuid": "(uuid())",
    "sqlite": "(lower(hex(randomblob(16))))",
}
#: How far a default that means "now" may be from it, as one that is rounded to minutes.
MOMENT = datetime.timedelta(seconds=60)
#: How long to wait between two calls of a default, whose clock must not say the same twice.
TICK = 0.001
#: How often to call a default that may be a random choice of a few values.
CALLS = 7
#: The defaults of a table on PostgreSQL, which finds it by the search path as Django's statements do.
_POSTGRESQL = """
    SELECT attname, pg_get_expr(adbin, adrelid) FROM pg_attribute
    JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attrelid = to_regclass(%s)"""
_MYSQL = """
    SELECT column_name, column_default, extra FROM information_schema.columns
    WHERE table_name = %s AND table_schema = database() AND column_default IS NOT NULL"""


@contextlib.contextmanager
def keeping(connection):
    """Have the schema editors of a connection keep defaults; those of Django before 3.2 and other engines cannot."""
    import django

    own = connection.SchemaEditorClass
    if connection.vendor in ENGINES and django.VERSION >= (3, 2):
        connection.SchemaEditorClass = type("KeepingSchemaEditor", (Keeping, own), {})
    try:
        yield
    finally:
        connection.SchemaEditorClass = own


class Keeping:
    """A schema editor that keeps the defaults of new columns; it precedes the engine's own among the bases."""

    #: The defaults of the columns of a SQLite table while it is made anew.
    _defaults = None

    def kept(self, field):
        """Return the default that the column of a field keeps, as SQL and its parameters; None if it keeps none."""
        if field.null or field.primary_key or _is_filled(field):
            return None
        try:
            if self.skip_default(field):
                return None
            first = self._effective_default(field)
            expression = self._expression(field, first)
            is_constant = first is not None and (not _is_computed(field) or self._is_same(field, first))
        except Exception:  # of the project's own callable; where the migration needs it, Django raises it
            return None
        if expression:
            return expression, []
        return self._constant(field) if is_constant else None

    def _has_defaults_of_text(self):
        """Return whether the server has defaults of texts, and computed ones; Django 6.1 requires one that does."""
        return getattr(self, "_supports_limited_data_type_defaults", True)

    def _is_same(self, field, first):
        """Return whether each call of a default returns the same."""
        time.sleep(TICK)
        others = [self._effective_default(field) for _ in range(CALLS)]
        return all(type(other) is type(first) and bool(other == first) for other in others)

    def _constant(self, field):
        if self.connection.vendor == "sqlite":
            return self.quote_value(self.effective_default(field)), []
        return self._column_default_sql(field), [self.effective_default(field)]

    def _expression(self, field, value):
        """Return the SQL that computes for each row what a default computes for each call; empty if there is none."""
        kind = field.get_internal_type()
        if not _is_computed(field):
            return ""
        if kind == "UUIDField" and isinstance(value, uuid.UUID) and value.version in (1, 4):
            return self._uuid(field)
        if kind == "DateTimeField" and isinstance(value, datetime.datetime):
            return self._now() if abs(datetime.datetime.now(value.tzinfo) - value) < MOMENT else ""
        if kind == "DateField" and value == datetime.date.today():
            return self._today()
        return ""

    def _uuid(self, field):
        vendor, connection = self.connection.vendor, self.connection
        if vendor == "postgresql" and connection.pg_version < 130000:
            return ""
        if vendor == "mysql" and not self._has_defaults_of_text():
            return ""
        is_native = vendor == "mysql" and field.db_type(connection) == "uuid"
        return UUID["mysql uuid" if is_native else vendor]

    def _now(self):
        """Return the expression for the present time as Django writes it, in the time zone of the connection."""
        from django.conf import settings

        vendor = self.connection.vendor
        if vendor == "postgresql":
            return NOW[vendor]
        if vendor == "sqlite" and not settings.USE_TZ:  # a process of Django's has its TIME_ZONE as local time
            return NOW["sqlite local"]
        if self.connection.timezone_name != "UTC" or (vendor == "mysql" and not self._has_defaults_of_text()):
            return ""
        return NOW[vendor]

    def _today(self):
        """Return the expression for the present date in the project's time zone."""
        from django.conf import settings

        if self.connection.vendor == "postgresql" and settings.TIME_ZONE:
            return f"((now() AT TIME ZONE {self.quote_value(settings.TIME_ZONE)})::date)"
        return "(date('now', 'localtime'))" if self.connection.vendor == "sqlite" else ""

    def why_not(self, field):
        """Return why a NOT NULL column keeps no default, in words."""
        try:
            has_none = self._effective_default(field) is None
        except Exception as error:
            return f"its default raises {type(error).__name__}"
        return "it has no default" if has_none else "its default differs from call to call"

    def is_constant(self, kept):
        """Return whether a kept default is the same in each row."""
        sql, params = kept
        return bool(params) or not sql.startswith("(")

    def shown(self, kept):
        """Return a kept default as text."""
        sql, params = kept
        return sql % tuple(self._quoted(value) for value in params) if params else sql

    def _quoted(self, value):
        try:
            return self.quote_value(value)
        except Exception:  # psycopg2's adapter of an IP address has to have a connection
            return f"'{value}'"

    def found(self, model):
        """Return the defaults that the columns of a table have, as SQL."""
        table, vendor = model._meta.db_table, self.connection.vendor
        with self.connection.cursor() as cursor:
            if vendor == "sqlite":
                # A transaction that reads first cannot write once another one has: it begins with what writes nothing.
                if not self.collect_sql:
                    cursor.execute(f"DELETE FROM {self.quote_name(table)} WHERE 0")  # noqa: S608  # nosec B608
                cursor.execute(f"PRAGMA table_info({self.quote_name(table)})")
                return {row[1]: f"({row[4]})" for row in cursor.fetchall() if row[4] is not None}
            if vendor == "postgresql":
                cursor.execute(_POSTGRESQL, [self.quote_name(table)])
                return dict(cursor.fetchall())
            cursor.execute(_MYSQL, [table])
            rows = ((name, self._mysql_default(_text(value), extra)) for name, value, extra in cursor.fetchall())
            return {name: sql for name, sql in rows if sql}

    def _found(self, model, old_field, new_field):
        """Return the default of a column that may have been renamed already, as SQL, or None."""
        found = self.found(model)
        return found.get(new_field.column, found.get(old_field.column))

    def _mysql_default(self, value, extra):
        """Return a default of information_schema as SQL: MariaDB has it so, MySQL has the text of a constant."""
        if self.connection.mysql_is_mariadb:
            return "" if value == "NULL" else f"({value})"
        if "DEFAULT_GENERATED" in extra:
            return "({})".format(value.replace("\\'", "'"))
        return self.quote_value(value)

    def carried(self, default, old_field, new_field):
        """Return the default of a column after a change of its field, as SQL and its parameters; None without one.

        It keeps the one that it has, if the new type accepts that.

        Args:
            default: the default that the column has, as SQL, or None.
        """
        if old_field.null and not new_field.null:
            return self.kept(new_field)
        if default is None or _is_filled(old_field) or _is_filled(new_field):
            return None
        types = (str(field.db_parameters(connection=self.connection)["type"]) for field in (old_field, new_field))
        return (default, []) if guard.widens(*types) else self.kept(new_field)

    # PostgreSQL, MySQL and MariaDB: set what Django would drop

    def _alter_column_default_sql(self, model, old_field, new_field, drop=False):
        kept = self.kept(new_field) if drop else None
        if not kept:
            return super()._alter_column_default_sql(model, old_field, new_field, drop)
        names = {"column": self.quote_name(new_field.column), "default": kept[0], "type": ""}
        return self.sql_alter_column_default % names, kept[1]

    def skip_default(self, field):
        """Return whether an added column gets no default; an empty text gets one, which Django 5.2 leaves out."""
        return super().skip_default(field) and not (self._has_defaults_of_text() and self._is_empty_text(field))

    def skip_default_on_alter(self, field):
        return super().skip_default_on_alter(field) and not (
            self.connection.mysql_is_mariadb and self._is_empty_text(field)
        )

    def _is_empty_text(self, field):
        return self._effective_default(field) in ("", b"")

    def _alter_field(self, model, old_field, new_field, *more, **named):
        """Alter a field; one that becomes NOT NULL gets its default first, also where it had the same one before."""
        if self.connection.vendor != "sqlite" and old_field.null and not new_field.null and self.kept(new_field):
            old_field = without_default(old_field)
        super()._alter_field(model, old_field, new_field, *more, **named)

    def _alter_column_type_sql(self, model, old_field, new_field, *more):
        (sql, params), other = super()._alter_column_type_sql(model, old_field, new_field, *more)
        found = None if _is_automatic(old_field) else self._found(model, old_field, new_field)
        if not found or _is_filled(old_field) or " DEFAULT " in sql:
            return (sql, params), other
        carried = self.carried(found, old_field, new_field)
        if self.connection.vendor == "mysql":
            return _with_default((sql, params), carried), other
        # PostgreSQL converts no default to another type; in one statement the column is never without.
        column = f"ALTER COLUMN {self.quote_name(new_field.column)}"
        sql = f"{column} DROP DEFAULT, {sql}"
        if carried:
            sql, params = f"{sql}, {column} SET DEFAULT {carried[0]}", [*params, *carried[1]]
        return (sql, params), other

    def _alter_column_null_sql(self, model, old_field, new_field):
        fragment = super()._alter_column_null_sql(model, old_field, new_field)
        if self.connection.vendor != "mysql" or not fragment or " DEFAULT " in fragment[0]:
            return fragment
        # MODIFY drops the default unless it names it.
        return _with_default(fragment, self.carried(self._found(model, old_field, new_field), old_field, new_field))

    # SQLite: a table that is made anew gets the defaults of the former one, and that of the new column

    def _remake_table(self, model, create_field=None, **how):
        found = self.found(model)
        for old, new in how.get("alter_fields") or filter(None, [how.get("alter_field")]):
            carried = self.carried(found.pop(old.column, None), old, new)
            if carried:
                found[new.column] = carried[0]
        kept = self.kept(create_field) if create_field is not None and create_field.concrete else None
        if kept:
            found[create_field.column] = kept[0]
        self._defaults = found
        try:
            return super()._remake_table(model, create_field=create_field, **how)
        finally:
            self._defaults = None

    def column_sql(self, model, field, include_default=False):
        sql, params = super().column_sql(model, field, include_default)
        default = (self._defaults or {}).get(field.column)
        if sql and default and " DEFAULT " not in sql:
            sql = f"{sql} DEFAULT {default}"
        return sql, params


def without_default(field):
    """Return a copy of a field that has no default."""
    from django.db.models import NOT_PROVIDED

    return guard.with_default(field, NOT_PROVIDED)


def _is_computed(field):
    """Return whether the default of a field is computed by each call."""
    return callable(field.default) or getattr(field, "auto_now", False) or getattr(field, "auto_now_add", False)


def _is_filled(field):
    """Return whether the database fills the column of a field by itself, as the field says."""
    return guard.has_db_default(field) or getattr(field, "generated", False)


def _is_automatic(field):
    """Return whether the default of a column is the next number of a sequence."""
    return field.get_internal_type() in ("AutoField", "BigAutoField", "SmallAutoField")


def _with_default(fragment, default):
    sql, params = fragment
    return (f"{sql} DEFAULT {default[0]}", [*params, *default[1]]) if default else fragment


def _text(value):
    return value.decode() if isinstance(value, bytes) else value
