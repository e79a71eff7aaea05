"""Classify migrations by what they do to the release that runs meanwhile: class, reason, lock and SQL of operations.

`safe` leaves what the running release reads and writes as it is; `breaking` does not; `data` changes rows by code of
the project; `opaque` can only be judged by its author: SQL, and operations that are not Django's.
"""

import collections
import copy
import re
import sys

#: The classes, the worst last: a migration is of the worst class among its operations.
CLASSES = ("safe", "data", "opaque", "breaking")
SAFE = ("safe", "", "")
_NOT_WRITTEN = "the running release's INSERTs leave it out, and "
_REPEATED = "the running release's second INSERT repeats its default"
_NULL_FIRST = "first release it with null=True or db_default, then fill and tighten it"
_FITS = "first release code that only writes what fits, then allow this one"
_INTEGERS = {"smallint": 1, "smallserial": 1, "mediumint": 2, "integer": 3, "int": 3, "serial": 3}
_INTEGERS |= {"bigint": 4, "bigserial": 4}
_TEXTS = {"text", "longtext", "varchar", "clob", "citext"}


def classify(connection, executor, chosen, is_applied=False):
    """Return the class and operations of migrations that are pending, or treated as if they were, in their order.

    If a database has no other migrations nothing can break, and operations are not classified.

    Args:
        chosen: the migrations, as pairs of application and name.
        is_applied: whether the database has them; the defaults of its columns are read then.
    """
    chosen, loader = set(chosen), executor.loader
    order = [migration for migration, _ in executor.migration_plan(loader.graph.leaf_nodes(), clean_start=True)]
    before = set(loader.applied_migrations) - chosen
    planned = [migration for migration in order if (migration.app_label, migration.name) in chosen]
    if not before:
        return [_migration(migration, []) for migration in planned]
    state = executor._create_project_state()
    for migration in order:
        if (migration.app_label, migration.name) in before:
            migration.mutate_state(state, preserve=False)
    guard = Guard(connection, {app for app, _name in before}, is_applied)
    return [_migration(migration, guard.classify(migration, state)) for migration in planned]


def _migration(migration, operations):
    return {
        "name": f"{migration.app_label}.{migration.name}",
        "class": max((operation["class"] for operation in operations), key=CLASSES.index, default="safe"),
        "reversible": all(operation["reversible"] for operation in operations)
        if operations
        else all(operation.reversible for operation in migration.operations),
        "operations": operations,
    }


def _is_installed(migration):
    """Return whether a migration is part of a package, which the project cannot change."""
    return str(getattr(sys.modules.get(type(migration).__module__), "__file__", "")).startswith(f"{sys.prefix}/")


Default = collections.namedtuple("Default", ["sql", "is_constant", "value"])
_NONE = Default(None, False, None)


class Guard:
    """Classifies operations one after another, as they would run on a database.

    Args:
        connection: the database, with `django_formula_keep.keeping` if its migrations keep defaults; names of
            constraints, defaults of columns and the rows that default foreign keys refer to are read from it.
        apps: the applications whose tables the running release has.
        is_applied: whether the database has the migrations.
    """

    def __init__(self, connection, apps, is_applied=False):
        self.connection = connection
        self.apps = apps
        self.is_applied = is_applied
        #: Models and fields that earlier operations of the plan have added, which the running release does not use.
        self.new_models = set()
        self.new_fields = set()
        #: What new columns keep as their `Default` in the database, by application, model and field.
        self.defaults = {}

    def classify(self, migration, state):
        """Return the classified operations of a migration; the state is moved on by them."""
        found = self._classify(migration.app_label, migration.operations, state)
        if _is_installed(migration):
            for operation in found:
                operation["way"] = ""
        return found

    def _classify(self, app, operations, state):
        found = []
        for operation in operations:
            name = _django_name(operation)
            before = state.clone()
            if name == "SeparateDatabaseAndState":
                found += self._classify(app, operation.database_operations, state.clone())
                operation.state_forwards(app, state)
                continue
            operation.state_forwards(app, state)
            try:
                found.append(self._described(name, app, operation, before, state))
            except Exception as error:  # for example of a custom field
                why = f"it cannot be classified: {type(error).__name__}: {error}"
                empty = dict.fromkeys(("model", "field", "way", "lock", "sql"), "")
                about = {"operation": type(operation).__name__, "class": "opaque", "why": why, "reversible": False}
                found.append({**empty, **about})
        return found

    def _described(self, name, app, operation, before, after):
        models = self._models(name, app, operation, before, after)
        if models is None:
            verdict = _unmodelled(name, operation)
        elif self._is_elsewhere(operation, models[-1]) or self._is_new(app, models[0]._meta.model_name):
            verdict = SAFE
        else:
            verdict = getattr(self, f"_judge_{name}", lambda *_: SAFE)(operation, *models)
        kind, why, way = verdict
        sql = self._sql(name, app, operation, before, after)
        known = {
            model._meta.db_table
            for model in before.apps.get_models(include_auto_created=True)
            if not self._is_new(model._meta.app_label, model._meta.model_name)
        }
        own = models[0]._meta.db_table if models else ""
        rewrites = _rewrites(self.connection, name, operation, models)
        field = "_order" if name == "AlterOrderWithRespectTo" else getattr(operation, "name", "")
        default = self.defaults.get(self._key(models[-1], field), _NONE).sql if models and kind == "safe" else ""
        self._remember(name, app, operation, models)
        return {
            "operation": type(operation).__name__,
            "model": models[0]._meta.label if models else "",
            "field": _field_of(operation),
            "class": kind,
            "why": why,
            "way": way,
            "reversible": operation.reversible and not (kind == "breaking" and name in ("DeleteModel", "RemoveField")),
            "lock": lock(self.connection.vendor, sql, rewrites, known, own),
            "sql": ";\n".join(statement.rstrip("; \n") for statement in sql)[:4000],
            **({"default": default[:200]} if default else {}),
        }

    def _is_elsewhere(self, operation, model):
        """Return whether a model has no table here: a proxy, an unmanaged model, or one of another database."""
        return not operation.allow_migrate_model(self.connection.alias, model)

    def _is_new(self, app, model):
        return app not in self.apps or (app, model) in self.new_models

    def _models(self, name, app, operation, before, after):
        """Return the model before and after an operation, as far as they exist; None without a model."""
        named = "name" if name in _WHOLE else "model_name"
        if name in ("", "RunPython", "RunSQL") or not hasattr(operation, named):
            return None
        if name == "RenameModel":
            names = [(before, operation.old_name), (after, operation.new_name)]
        else:
            model = operation.name if name in _WHOLE else operation.model_name
            names = [(before, model)] * (name != "CreateModel") + [(after, model)] * (name != "DeleteModel")
        return [state.apps.get_model(app, model) for state, model in names]

    def _remember(self, name, app, operation, models):
        if not models:
            return
        model = models[-1]._meta.model_name
        if name == "CreateModel" or (name == "RenameModel" and self._is_new(app, models[0]._meta.model_name)):
            self.new_models.add((app, model))
        elif name == "AddField":
            self.new_fields.add((app, model, operation.name))
        elif name == "RenameField" and (app, model, operation.old_name) in self.new_fields:
            self.new_fields.add((app, model, operation.new_name))
            default = self.defaults.pop((app, model, operation.old_name), None)
            if default:
                self.defaults[app, model, operation.new_name] = default

    def _column(self, field):
        """Return the column of a field in its model's table, or None if it has none, such as a ManyToManyField."""
        return field.column if field.db_parameters(connection=self.connection)["type"] else None

    def _is_new_field(self, model, name):
        return self._key(model, name) in self.new_fields

    def _key(self, model, name):
        return model._meta.app_label, model._meta.model_name, name

    def _sql(self, name, app, operation, before, after):
        """Return the SQL of an operation of Django's; empty if it depends on operations that have not run yet."""
        if name in ("", "RunPython"):
            return []
        editor = self._editor()
        editor.deferred_sql = []
        try:
            operation.database_forwards(app, editor, before, after)
        except Exception:
            return []
        statements = [*editor.collected_sql, *map(str, editor.deferred_sql)]
        return [statement for statement in statements if not statement.startswith("--")]

    def _editor(self):
        return self.connection.schema_editor(collect_sql=True, atomic=False)

    # What the INSERTs of the running release write into a new column that is NOT NULL

    def _lacks(self, model, field, name):
        """Return why the running release's INSERTs fail on a new column; if they do not, its default is remembered."""
        editor = self._editor()
        if not hasattr(editor, "kept"):
            return f"{_NOT_WRITTEN}Django drops its default"
        kept = editor.kept(field)
        if not kept:
            return _NOT_WRITTEN + editor.why_not(field)
        if self.is_applied and field.column not in editor.found(model):
            return f"{_NOT_WRITTEN}it has no default in the database"
        default = Default(editor.shown(kept), editor.is_constant(kept), editor._effective_default(field))
        return self._unfit(model, field, name, default)

    def _lacks_once_altered(self, model, before, after, name):
        """Return why the running release's INSERTs fail on a new column that is altered."""
        default = self.defaults.pop(self._key(model, name), _NONE)
        if has_db_default(after):
            return _REPEATED if after.unique and not before.unique else ""
        if self.is_applied or (before.null and not after.null) or not hasattr(self._editor(), "kept"):
            return "" if after.null else self._lacks(model, after, name)
        carried = self._editor().carried(default.sql, before, after)
        if carried and carried[0] == default.sql:
            return self._unfit(model, after, name, default)
        if carried:
            return self._lacks(model, after, name)
        return "" if after.null else f"{_NOT_WRITTEN}it keeps no default in the database"

    def _unfit(self, model, field, name, default):
        """Return why the rows that the running release inserts cannot have a default; else it is remembered."""
        if field.unique and default.is_constant:
            return _REPEATED
        if _target(field) and default.is_constant and not self._has_row(field, default.value):
            value = str(default.value)[:40]
            return f"the running release's INSERTs write its default {value}, which is no row of {_target(field)}"
        self.defaults[self._key(model, name)] = default
        return ""

    def _has_row(self, field, value):
        """Return whether the row that the default of a foreign key refers to is there, before the migrations run."""
        target = field.remote_field.model
        if self._is_new(target._meta.app_label, target._meta.model_name):
            return False
        rows = target._base_manager.using(self.connection.alias)
        try:
            return rows.filter(**{field.target_field.attname: value}).exists()
        except Exception:  # for example a key that an earlier operation of the plan renames
            return False

    # What each operation does to the running release: class, reason, and an alternative

    def _judge_CreateModel(self, operation, model):
        return SAFE

    def _judge_DeleteModel(self, operation, model):
        return ("breaking", "the running release still uses it", _without(model._meta.label))

    def _judge_RenameModel(self, operation, old, new):
        return self._renamed(old._meta.db_table, new._meta.db_table, "table")

    def _judge_AlterModelTable(self, operation, old, new):
        return self._renamed(old._meta.db_table, new._meta.db_table, "table")

    def _judge_AlterOrderWithRespectTo(self, operation, old, new):
        was, becomes = (model._meta.order_with_respect_to for model in (old, new))
        if becomes and not was:
            field = new._meta.get_field("_order")
            why = self._lacks(new, field if field.has_default() else with_default(field, 0), "_order")
            way = f"first create the column {new._meta.label}._order with a default by SQL"
            return ("breaking", why, way) if why else SAFE
        return ("breaking", "the running release still reads it", _without("_order")) if was and not becomes else SAFE

    def _judge_AddField(self, operation, old, new):
        field = _with_its_default(new._meta.get_field(operation.name), operation)
        if not self._column(field) or _fills_itself(field):
            return SAFE
        if field.primary_key:
            return (
                "breaking",
                "the running release identifies rows by another key",
                "create a new model and copy the rows",
            )
        if field.unique and has_db_default(field):
            return ("breaking", _REPEATED, _FITS)
        why = "" if field.null else self._lacks(new, field, operation.name)
        return ("breaking", why, _NULL_FIRST) if why else SAFE

    def _judge_RemoveField(self, operation, old, new):
        field = old._meta.get_field(operation.name)
        through = field.many_to_many and field.remote_field.through._meta.auto_created
        if self._is_new_field(old, operation.name) or not (self._column(field) or through):
            return SAFE
        return ("breaking", "the running release still uses it", _without(f"{old._meta.label}.{operation.name}"))

    def _judge_RenameField(self, operation, old, new):
        before, after = old._meta.get_field(operation.old_name), new._meta.get_field(operation.new_name)
        if self._is_new_field(old, operation.old_name) or not self._column(before):
            return SAFE
        return self._renamed(before.column, after.column, "column")

    def _renamed(self, old, new, what):
        if old == new:
            return SAFE
        way = "add the new one, copy, change the code and remove the old one, in a release each; or keep the "
        return ("breaking", f"the running release knows the {what} as {old}", f"{way}name: db_{what}={old!r}")

    def _judge_AlterField(self, operation, old, new):
        before = old._meta.get_field(operation.name)
        after = _with_its_default(new._meta.get_field(operation.name), operation)
        if not self._column(before) and not self._column(after):
            return SAFE
        if self._is_new_field(old, operation.name):
            why = self._lacks_once_altered(new, before, after, operation.name)
            return ("breaking", why, _NULL_FIRST) if why else SAFE
        if before.column != after.column:
            return self._renamed(before.column, after.column, "column")
        problems = list(self._narrowed(before, after))
        return ("breaking", "; ".join(problems), _FITS) if problems else SAFE

    def _narrowed(self, before, after):
        """Yield what the running release may write or expect that a changed field no longer accepts or provides."""
        old, new = (field.db_parameters(connection=self.connection) for field in (before, after))
        if before.null and not after.null:
            yield "the running release may write NULL"
        if has_db_default(before) and not has_db_default(after) and not after.null:
            yield "the running release leaves it to the default in the database"
        if not widens(str(old["type"]), str(new["type"])):
            yield f"{old['type']} becomes {new['type']}"
        if new.get("check") and new.get("check") != old.get("check"):
            yield f"the running release may write what it refuses: CHECK {new['check']}"
        if after.primary_key != before.primary_key:
            yield "the running release identifies rows by another key"
        elif after.unique and not before.unique:
            yield "the running release may write the same twice"
        target = _target(after)
        if target and target != _target(before):
            yield f"the running release may write what is not in {target}"

    def _judge_AlterTogetherOptionOperation(self, operation, old, new):
        if operation.option_name != "unique_together":
            return SAFE
        added = set(new._meta.unique_together) - set(old._meta.unique_together)
        return self._unique(new, [fields for fields in added if not self._has_new_null(new, fields)])

    def _judge_AddConstraint(self, operation, old, new):
        constraint = operation.constraint
        condition = getattr(constraint, "condition", None) or getattr(constraint, "check", None)  # Django 6: a method
        fields = getattr(constraint, "fields", ()) or ()
        if type(constraint).__name__ == "CheckConstraint":
            names = list(_names(condition))
            if names and all(name and self._is_new_field(new, name) for name in names):
                defaults = [name for name in names if self._key(new, name) in self.defaults]
                if not defaults or self._accepts_defaults(new, condition, names, defaults):
                    return SAFE
            return ("breaking", "the running release may write what it refuses", _FITS)
        return SAFE if self._has_new_null(new, fields) else self._unique(new, [fields or (constraint.name,)])

    _judge_AddConstraintNotValid = _judge_AddConstraint

    def _unique(self, model, together):
        names = ", ".join(name for fields in together for name in fields)
        return ("breaking", f"the running release may write the same twice: {names}", _FITS) if together else SAFE

    def _has_new_null(self, model, fields):
        """Return whether the running release leaves one of these fields NULL, and NULL is never a duplicate."""
        names = [n for n in fields if self._is_new_field(model, n) and self._key(model, n) not in self.defaults]
        new = [model._meta.get_field(name) for name in names]
        return any(field.null and not has_db_default(field) for field in new)

    def _accepts_defaults(self, model, condition, names, defaults):
        """Return whether a condition is true of a row with the defaults of new columns, and NULL in the others."""
        from django.db.models import Value

        kept = {name: self.defaults.get(self._key(model, name), _NONE) for name in names}
        if not hasattr(condition, "check") or not all(kept[name].is_constant for name in defaults):
            return False
        values = {
            name: Value(default.value, output_field=model._meta.get_field(name)) for name, default in kept.items()
        }
        try:
            return condition.check(values, using=self.connection.alias)
        except Exception:
            return False


#: Operations on a model as a whole: their `name` is its name.
_WHOLE = {"CreateModel", "DeleteModel", "RenameModel", "AlterModelTable", "AlterModelTableComment", "AlterModelOptions"}
_WHOLE |= {"AlterModelManagers", "AlterOrderWithRespectTo", "AlterTogetherOptionOperation"}


def _django_name(operation):
    """Return the name of Django's class whose `database_forwards` an operation uses; empty if it has its own."""
    for one in type(operation).__mro__:
        if "database_forwards" in vars(one):
            return one.__name__ if one.__module__.startswith(("django.db.migrations.", "django.contrib.")) else ""
    return ""


def _unmodelled(name, operation):
    """Return the class of an operation that names no model."""
    if name == "RunPython":
        nothing = operation.code is type(operation).noop
        return SAFE if nothing else ("data", "code of the project changes rows", "")
    if name == "RunSQL":
        return ("opaque", "SQL of the project's own", "") if operation.sql else SAFE
    if name in ("CreateExtension", "CreateCollation", "ValidateConstraint"):
        return SAFE
    return ("opaque", "not one of Django's operations on models", "")


def _field_of(operation):
    if not hasattr(operation, "model_name"):
        return ""
    for attribute in ("old_name", "name"):
        if isinstance(getattr(operation, attribute, None), str):
            return getattr(operation, attribute)
    return getattr(getattr(operation, "index", None) or getattr(operation, "constraint", None), "name", "")


def _without(what):
    return f"first release code that does not use {what}, then one that removes it"


def _with_its_default(field, operation):
    """Return a field with the default that its operation has only for itself, if it has one (preserve_default)."""
    return field if operation.preserve_default else with_default(field, operation.field.default)


def with_default(field, default):
    """Return a copy of a field that has another default."""
    field = copy.copy(field)
    field.__dict__.pop("_get_default", None)  # where Django keeps the function that returns it
    field.default = default
    return field


def has_db_default(field):
    from django.db.models import NOT_PROVIDED

    return getattr(field, "db_default", NOT_PROVIDED) is not NOT_PROVIDED


def _fills_itself(field):
    """Return whether the database fills a column that an INSERT omits; a unique one only if it accepts NULL."""
    unique = field.unique and not field.primary_key
    return (has_db_default(field) and not unique) or getattr(field, "generated", False)


def _target(field):
    """Return the table that a foreign key constraint of a field refers to, or None."""
    if not field.remote_field or not getattr(field, "db_constraint", False):
        return None
    return field.remote_field.model._meta.db_table


def _names(condition):
    """Yield the fields in a condition; None for a part that is not a field, or that refuses NULL."""
    for child in getattr(condition, "children", [None]):
        if child is None:
            yield None
        elif isinstance(child, tuple):
            yield None if child[0].endswith("__isnull") else child[0].split("__")[0]
        else:
            yield from _names(child)


def widens(old, new):
    """Return whether a column of the new type accepts and returns all values of the old type."""
    (old, old_size), (new, new_size) = (_type(text) for text in (old, new))
    if old in _INTEGERS and new in _INTEGERS:
        return _INTEGERS[new] >= _INTEGERS[old]
    if old.endswith(" unsigned") and new.endswith(" unsigned"):
        return _INTEGERS[new.partition(" ")[0]] >= _INTEGERS[old.partition(" ")[0]]
    if old.endswith(" unsigned") and new in _INTEGERS:
        return _INTEGERS[new] > _INTEGERS[old.partition(" ")[0]]
    if old in _TEXTS | {"char"} and new in _TEXTS:
        return not new_size or bool(old_size and new_size[0] >= old_size[0])
    if old == new and old in ("numeric", "decimal") and old_size and new_size:
        (digits, places), (new_digits, new_places) = old_size, new_size
        return new_places >= places and new_digits - new_places >= digits - places
    return (old, old_size) == (new, new_size)


def _type(text):
    """Return a type without its automatic value, and its size: ``varchar`` and (80,) for ``varchar(80)``."""
    text = re.sub(r" (auto_increment|generated .*|autoincrement)", "", text.lower())
    found = re.fullmatch(r"([a-z ]+?)\s*\(([\d, ]+)\)(.*)", text)
    if not found:
        return text, ()
    return found[1] + found[3], tuple(int(number) for number in found[2].split(","))


def _rewrites(connection, name, operation, models):
    """Return whether the server rewrites a table for an operation: for another type, or a generated column."""
    if name == "AddField" and models:
        return getattr(models[-1]._meta.get_field(operation.name), "generated", False)
    if name != "AlterField" or not models or len(models) < 2:
        return False
    old, new = (model._meta.get_field(operation.name).db_parameters(connection=connection)["type"] for model in models)
    texts = _type(str(old))[0] in _TEXTS and _type(str(new))[0] in _TEXTS and widens(str(old), str(new))
    return old != new and not texts


#: The lock of a statement, and how long it is held; the strongest first. {} is the table.
_LOCKS = {
    "postgresql": [
        (r"ALTER TABLE (\S+) .*ALTER COLUMN \S+ SET NOT NULL", "ACCESS EXCLUSIVE on {} while it is read"),
        (r"ALTER TABLE (\S+) VALIDATE CONSTRAINT", "SHARE UPDATE EXCLUSIVE on {}: nothing waits"),
        (r"ALTER TABLE (\S+) ADD CONSTRAINT .*FOREIGN KEY", "SHARE ROW EXCLUSIVE on {}: writes wait while it is read"),
        (r"ALTER TABLE (\S+) ADD CONSTRAINT .*NOT VALID", "ACCESS EXCLUSIVE on {} for a moment"),
        (r"ALTER TABLE (\S+) ADD CONSTRAINT", "ACCESS EXCLUSIVE on {} while it is read"),
        (r"(?:ALTER|DROP) TABLE (?:IF EXISTS )?(\S+)", "ACCESS EXCLUSIVE on {} for a moment"),
        (r"DROP INDEX CONCURRENTLY", "SHARE UPDATE EXCLUSIVE on {}: nothing waits"),
        (r"DROP INDEX", "ACCESS EXCLUSIVE on {} for a moment"),
        (r"CREATE (?:UNIQUE )?INDEX CONCURRENTLY .* ON (\S+)", "SHARE UPDATE EXCLUSIVE on {}: nothing waits"),
        (r"CREATE (?:UNIQUE )?INDEX .* ON (\S+)", "SHARE on {}: writes wait while it is read"),
    ],
    "mysql": [
        (r"ALTER TABLE (\S+) .*(?:FOREIGN KEY|CHECK)", "SHARED on {}: writes wait while it is copied"),
        (r"(?:ALTER|DROP|RENAME) TABLE (?:IF EXISTS )?(\S+)", "EXCLUSIVE on {} for a moment"),
        (r"(?:CREATE (?:UNIQUE )?|DROP )INDEX .* ON (\S+)", "EXCLUSIVE on {} for a moment"),
    ],
}
_REWRITTEN = {
    "postgresql": "ACCESS EXCLUSIVE on {} while it is rewritten",
    "mysql": "SHARED on {}: writes wait while it is copied",
}
_STRENGTH = ("ACCESS EXCLUSIVE", "SHARE ROW EXCLUSIVE", "SHARED", "EXCLUSIVE", "SHARE on", "SHARE UPDATE EXCLUSIVE")


def lock(vendor, statements, rewrites, known, own):
    """Return the strongest lock that statements take on a table of the running release; empty if there is none.

    Args:
        rewrites: whether the server rewrites the table.
        known: the tables of the running release.
        own: the table that they change.
    """
    if vendor == "sqlite":
        return "the whole database: writes wait" if statements else ""
    found = [_REWRITTEN[vendor].format(own)] if rewrites and vendor in _REWRITTEN and own in known else []
    for statement in (" ".join(one.split()) for one in statements):
        locked = ((re.match(pattern, statement, re.IGNORECASE), text) for pattern, text in _LOCKS.get(vendor, ()))
        match, text = next((one for one in locked if one[0]), (None, ""))
        table = (match[1] if match and match.re.groups else own).strip('"`;') if match else ""
        if table in known:
            found.append(text.format(table))
        elif match and vendor == "postgresql":
            referenced = re.search(r'REFERENCES "?(\w+)', statement)
            if referenced and referenced[1] in known:
                found.append(f"SHARE ROW EXCLUSIVE on {referenced[1]} for a moment")
    return min(found, key=lambda text: next(i for i, word in enumerate(_STRENGTH) if text.startswith(word)), default="")
