"""Runs in a virtualenv with Django: what new columns do to the INSERTs of the former models, on a real database.

Arguments: the folder of the formula's programs, the database as JSON; stdin has cases, as in defaults.yaml.
"""
# ruff: noqa: E402

import datetime
import json
import random
import sys
import uuid
from decimal import Decimal

import django
from django.conf import settings

if len(sys.argv) > 3:  # a driver in place of mysqlclient
    import pymysql

    pymysql.version_info = (2, 2, 7, "final", 0)
    pymysql.install_as_MySQLdb()
settings.configure(DATABASES={"default": json.loads(sys.argv[2])}, USE_TZ=True, TIME_ZONE="Europe/Berlin")
settings.DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
django.setup()
sys.path.insert(0, sys.argv[1])

import django_formula_guard as guard
import django_formula_keep as keep
from django.db import connection, migrations, models, transaction
from django.db.migrations.state import ProjectState
from django.utils import timezone

NAMES = {**vars(models), **vars(migrations), "timezone": timezone, "uuid": uuid, "random": random}
NAMES |= {
    "datetime": datetime,
    "Decimal": Decimal,
    "first": lambda: 1,
    "later": lambda: timezone.now() + datetime.timedelta(days=30),
}


def check(condition):
    """A constraint, whose condition has had two names."""
    named = {"check" if django.VERSION < (5, 1) else "condition": condition}
    return models.CheckConstraint(name="c", **named)


NAMES["check"] = check


class Migration(migrations.Migration):
    """The project's, not a package's."""


def operations(expressions):
    return [eval(expression, NAMES) for expression in expressions]


def ran(expressions, state):
    """Run operations, each in a schema editor of its own as migrations of their own, and return the state."""
    for operation in operations(expressions):
        before, state = state, state.clone()
        operation.state_forwards("shop", state)
        with connection.schema_editor(atomic=True) as editor:
            operation.database_forwards("shop", editor, before, state)
    return state


def cleared():
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            return
        off, on = {"sqlite": ("PRAGMA foreign_keys=0", "PRAGMA foreign_keys=1")}.get(
            connection.vendor, ("SET foreign_key_checks=0", "SET foreign_key_checks=1")
        )
        cursor.execute(off)
        for table in connection.introspection.table_names():
            cursor.execute(f"DROP TABLE {connection.ops.quote_name(table)}")
        cursor.execute(on)


def tried(work):
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    return "ok"


def answer(case, before):
    """What the guard says of a case, and what then happens to the former models."""
    expressions = case["operations"]
    migration = Migration("0002_case", "shop")
    migration.operations = operations(expressions)
    cleared()
    old = ran(before, ProjectState())
    group, item = (old.apps.get_model("shop", name) for name in ("Group", "Item"))
    group.objects.create(name="a")
    for number in range(case.get("rows", 3)):
        item.objects.create(name=f"i{number}", old="o", parent_id=1)

    def insert():
        for number in range(2):
            with transaction.atomic():
                item.objects.create(name=f"n{number}", parent_id=1)
        item.objects.filter(name="n0").update(note="x")
        assert item.objects.filter(note="x").count() == 1

    with keep.keeping(connection):
        told = guard.Guard(connection, {"shop"}).classify(migration, old.clone())
        states = []
        migrated = tried(lambda: states.append(ran(expressions, old)))
    result = {"told": told, "migrated": migrated}
    if migrated == "ok":
        result["inserted"] = tried(insert)
        names = [name for name in ("f", "ff") if name in [field.name for field in old_fields(states[0])]]
        if result["inserted"] == "ok" and names:
            result["value"] = repr(states[0].apps.get_model("shop", "Item").objects.values_list(*names).last()[0])
    return result


def old_fields(state):
    return state.apps.get_model("shop", "Item")._meta.get_fields()


request = json.load(sys.stdin)
answers = []
for case in request["cases"]:
    try:
        answers.append(answer(case, request["before"]))
    except (TypeError, NameError) as error:
        answers.append(f"not in this Django: {error}")
json.dump(answers, sys.stdout)
