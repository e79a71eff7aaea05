"""Runs in a virtualenv with Django: what the guard says of operations, which stdin has as expressions in JSON."""
# ruff: noqa: E402

import json
import sys

import django
from django.conf import settings

SQLITE = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
settings.configure(DATABASES={"default": SQLITE}, INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"])
django.setup()
sys.path.insert(0, sys.argv[1])

import django_formula_guard as guard
from django.contrib.postgres import operations as postgres
from django.db import connection, migrations, models
from django.db.migrations.state import ProjectState
from django.db.models import F, Q, functions

NAMES = {**vars(models), **vars(migrations), **vars(functions), "F": F, "Q": Q, "migrations": migrations}
NAMES |= {"AddIndexConcurrently": postgres.AddIndexConcurrently, "HStoreExtension": postgres.HStoreExtension}


class Migration(migrations.Migration):
    """The project's, not a package's."""


class Own(migrations.operations.base.Operation):
    """Not Django's."""

    reversible = True

    def state_forwards(self, app_label, state):
        pass

    def database_forwards(self, app_label, schema_editor, from_state, to_state):
        raise AssertionError("it is not run")


class Odd(models.Field):
    """A field that raises when it is classified."""

    def db_type(self, connection):
        raise ValueError("not here")


class Ours(migrations.AddField):
    """Django's by another name."""


NAMES |= {"Odd": Odd, "Own": Own, "Ours": Ours, "nothing": lambda apps, editor: None, "functions": functions}


def check(condition):
    """A constraint, whose condition has had two names."""
    if django.VERSION < (5, 1):
        return models.CheckConstraint(check=condition, name="c")
    return models.CheckConstraint(condition=condition, name="c")


NAMES["check"] = check


def operations(expressions):
    return [eval(expression, NAMES) for expression in expressions]


def judged(case, before):
    """What the guard says of the operations of a case, on top of models that the running release has."""
    state = ProjectState()
    for operation in operations(before):
        operation.state_forwards("blog", state)
    migration = Migration("0002_case", case.get("app", "blog"))
    migration.operations = operations(case["operations"])
    return guard.Guard(connection, {"blog"}).classify(migration, state)


request = json.load(sys.stdin)
answers = []
for case in request["cases"]:
    try:
        answers.append(judged(case, request["before"]))
    except (TypeError, NameError) as error:
        answers.append(f"not in this Django: {error}")
json.dump(answers, sys.stdout)
