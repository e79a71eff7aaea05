"""Runs in a virtualenv with Django: a release that inserts while the formula's programs migrate.

Arguments: a folder for a project, the folder of the formula's programs, the database as JSON, and any fourth one for a
driver in place of mysqlclient. Prints what came of it as JSON.
"""

import json
import os
import shutil
import subprocess
import sys
import time

SETTINGS = """
import json, os
if "DRIVER" in os.environ:
    import pymysql
    pymysql.version_info = (2, 2, 7, "final", 0)
    pymysql.install_as_MySQLdb()
SECRET_KEY = "x" * 50
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
INSTALLED_APPS = ["shop"]
DATABASES = {"default": json.loads(os.environ["DATABASE"])}
"""
WSGI = "import django\ndjango.setup()\napplication = print\n"
MANAGE = """
import sys
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
#: The release of before: fifty INSERTs a second by models without the new columns, until a file is there.
FORMER = """
import json, os, time
import django
django.setup()
from django.db import connection, models

class Item(models.Model):
    name = models.CharField(max_length=30)
    class Meta:
        app_label, db_table = "former", "shop_item"

counts, errors, slowest, number = {"INSERT": 0, "UPDATE": 0, "SELECT": 0, "failed": 0}, {}, 0, 0
print("ready", flush=True)
while not os.path.exists("stop"):
    number += 1
    began = time.monotonic()
    for kind in ("INSERT", "UPDATE", "SELECT"):
        try:
            if kind == "INSERT":
                Item.objects.create(name="n%d" % number)
            elif kind == "UPDATE":
                Item.objects.filter(name="n%d" % (number - 1)).update(name="u%d" % (number - 1))
            else:
                list(Item.objects.order_by("-pk")[:5])
            counts[kind] += 1
        except Exception as error:
            counts["failed"] += 1
            errors[str(error)[:150]] = errors.get(str(error)[:150], 0) + 1
    slowest = max(slowest, time.monotonic() - began)
    time.sleep(max(0, 0.02 - (time.monotonic() - began)))
print(json.dumps({**counts, "errors": errors, "slowest": round(slowest, 3)}))
"""
MIGRATION = """
import time, uuid
from django.db import migrations, models
from django.utils import timezone

def pause(apps, editor):
    time.sleep(1)

class Migration(migrations.Migration):
    dependencies = {dependencies}
    operations = [{operations}]
"""
FIRST = [
    "migrations.CreateModel('Group', [('id', models.AutoField(primary_key=True))])",
    "migrations.CreateModel('Item', [('id', models.AutoField(primary_key=True)),"
    " ('name', models.CharField(max_length=30))])",
    "migrations.RunPython(lambda apps, editor: apps.get_model('shop', 'Group').objects.create(id=1))",
]
FIELDS = {
    "label": "models.CharField(max_length=9, default='x')",
    "active": "models.BooleanField(default=True)",
    "note": "models.TextField(default='')",
    "data": "models.JSONField(default=dict)",
    "made": "models.DateTimeField(default=timezone.now)",
    "token": "models.UUIDField(default=uuid.uuid4)",
    "parent": "models.ForeignKey('shop.Group', models.CASCADE, default=1)",
}
PLAN = {
    "0002_fields": [f"migrations.AddField('item', '{name}', {field})" for name, field in FIELDS.items()],
    "0003_pause": ["migrations.RunPython(pause, migrations.RunPython.noop)"],
    "0004_wider": [
        "migrations.AlterField('item', 'label', models.CharField(max_length=90, default='x'))",
        "migrations.AddField('item', 'more', models.IntegerField(default=3))",
    ],
}
COUNTED = {"0005_counted": ["migrations.AlterField('item', 'active', models.IntegerField(default=0))"]}


class Project:
    def __init__(self, folder, programs, database, *driver):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(programs, folder)
        os.makedirs(f"{folder}/shop/migrations")
        self.folder, self.names = folder, []
        self.environment = {"DATABASE": database, "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": "."}
        self.environment.update({"DRIVER": "pymysql"} if driver else {})
        for name, text in {"settings": SETTINGS, "wsgi": WSGI, "manage": MANAGE, "former": FORMER}.items():
            self.write(f"{name}.py", text)
        for name in ("shop/__init__.py", "shop/migrations/__init__.py"):
            self.write(name, "")

    def write(self, name, text):
        with open(f"{self.folder}/{name}", "w") as file:
            file.write(text)

    def add(self, plan):
        for name, operations in plan.items():
            dependencies = [("shop", self.names[-1])] if self.names else []
            self.names.append(name)
            text = MIGRATION.format(dependencies=dependencies, operations=", ".join(operations))
            self.write(f"shop/migrations/{name}.py", text)

    def python(self, *arguments, **options):
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, program, **request):
        limits = {"timeout": 60, "lock_timeout": 5, "check": "error", "ignored_checks": []}
        started = {"collect": False, "migrate": {}, "write_ahead": True}
        request = {"application": "wsgi", **limits, **started, **request}
        output, _errors = self.python(f"django_formula_{program}.py").communicate(json.dumps(request))
        return json.loads(output)

    def manage(self, *arguments):
        request = {"application": "wsgi", "timeout": 60, "lock_timeout": 5}
        process = self.python("django_formula_migrate.py", json.dumps(request), *arguments)
        process.communicate()
        return process.returncode


def classes(answer):
    return sorted({migration["class"] for migration in answer.get("schema", {}).get("default", [])})


def main():
    project = Project(*sys.argv[1:])
    project.add({"0001_first": FIRST})
    project.ask("start", mode="start")  # which has SQLite write ahead
    project.ask("migrate", mode="migrate", databases=["default"])
    former = project.python("former.py")
    former.stdout.readline()
    time.sleep(1)
    project.add(PLAN)
    result = {"classes": classes(project.ask("start", mode="start"))}
    migrated = project.ask("migrate", mode="migrate", databases=["default"])["migrated"]["default"]
    result["migrated"] = len(migrated)
    time.sleep(1)
    applied = {"default": [f"shop.{name}" for name in PLAN]}
    known = {"default": ["shop.0001_first"]}
    result["applied"] = classes(project.ask("migrate", mode="classify", databases=applied, known=known))
    project.add(COUNTED)
    result["counted"] = project.manage("migrate", "shop")
    time.sleep(0.5)
    reverse = {"default": [f"shop.{name}" for name in reversed(project.names[1:])]}
    left = project.ask("migrate", mode="reverse", databases=reverse)["migrations"]["default"]["applied"]
    result["left"] = left
    time.sleep(0.5)
    project.write("stop", "")
    output, _errors = former.communicate()
    print(json.dumps({**result, **json.loads(output)}))


main()
