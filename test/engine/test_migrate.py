"""The program that migrates, in a virtualenv with Django, on projects with a SQLite file."""

import contextlib
import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import threading
import time

import in_django
import pytest
from specimen import ROOT
from thinned import full

pytestmark = pytest.mark.slow  # migrations by real processes

SETTINGS = """
import os
SECRET_KEY = "x" * 50
INSTALLED_APPS = ["blog"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ["DB"]}}
"""
WSGI = """
import django
django.setup()
application = print
"""
MANAGE = """
import sys
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
MIGRATION = """
import os, time
from django.db import connection, migrations, models

def slow(apps, editor):
    with open("ran", "a") as file:
        file.write("x")
    while {waits} and not os.path.exists("go"):
        time.sleep(0.02)

def fail(apps, editor):
    raise RuntimeError("it does not balance")

def read_and_write(apps, editor):
    posts = apps.get_model("blog", "Post").objects
    posts.count()
    slow(apps, editor)
    posts.create(title="written")

class Migration(migrations.Migration):
    dependencies = {dependencies}
    atomic = {atomic}
    operations = [{operations}]
"""
FIRST = "migrations.CreateModel('Post', [('id', models.AutoField(primary_key=True)), ('title', models.TextField())])"
SECOND = "migrations.AddField('post', 'note', models.TextField(null=True))"


class Project:
    """A project with its migrations, and the formula's programs next to it."""

    def __init__(self, folder):
        self.folder, self.database = folder, folder / "db.sqlite3"
        files = {"settings.py": SETTINGS, "wsgi.py": WSGI, "manage.py": MANAGE, "blog/__init__.py": ""}
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
        for path in (ROOT / "django/files").glob("django_formula_*.py"):
            (folder / path.name).write_text(path.read_text())
        (folder / "blog/migrations").mkdir()
        (folder / "blog/migrations/__init__.py").touch()
        self.names: list[str] = []
        self.add("0001_first", FIRST)

    def add(self, name, *operations, atomic=True, waits=False):
        dependencies = [("blog", self.names[-1])] if self.names else []
        self.names.append(name)
        text = MIGRATION.format(dependencies=dependencies, operations=", ".join(operations), atomic=atomic, waits=waits)
        (self.folder / f"blog/migrations/{name}.py").write_text(text)

    def go(self):
        """Let a migration end that waits."""
        (self.folder / "go").touch()

    def begin(self, *arguments, **request):
        """Start the program; with arguments as manage.py does."""
        checks = {"check": "error", "ignored_checks": []}
        said = {"application": "wsgi", "timeout": 20, "lock_timeout": 0.2, **checks, **request}
        argv = [in_django.python("django"), "-B", "django_formula_migrate.py"]
        environment = {"DB": str(self.database), "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": "."}
        process = subprocess.Popen(
            [*argv, *([json.dumps(said), *arguments] if arguments else [])],
            cwd=self.folder,
            env=environment | {"DJANGO_SITE": "blog", "DJANGO_RELEASE": "0007-abc"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if not arguments:
            process.stdin.write(json.dumps({"mode": "migrate", "databases": ["default"], **said}))
        process.stdin.close()
        process.stdin = None
        return process

    def end(self, process):
        """The answer of the program, or what it says at its end."""
        output, errors = process.communicate(timeout=60)
        if process.returncode == 0:
            return json.loads(output)
        return dict(line.partition(": ")[::2] for line in errors.splitlines() if line[:1].islower() and ": " in line)

    def migrate(self, **request):
        return self.end(self.begin(**request))

    def applied(self):
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            return [name for (name,) in connection.execute("SELECT name FROM django_migrations ORDER BY id")]

    @contextlib.contextmanager
    def locked(self, how="IMMEDIATE"):
        """Another process writes to the database for a long time; with EXCLUSIVE it cannot be read either."""
        with contextlib.closing(sqlite3.connect(self.database, isolation_level=None)) as connection:
            connection.execute(f"BEGIN {how}")
            yield
            connection.execute("ROLLBACK")


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def ran(project, times):
    """Wait until a migration's code has begun so many times."""
    deadline = time.monotonic() + 60
    while not (project.folder / "ran").exists() or len((project.folder / "ran").read_text()) < times:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_pending_migration_applied_once(project):
    answer = project.migrate()
    assert answer == {
        "migrations": {"default": {"applied": ["blog.0001_first"], "pending": []}},
        "migrated": {"default": ["blog.0001_first"]},
        "checks": answer["checks"],
    }
    assert project.migrate()["migrated"] == {"default": []}
    assert {path.name for path in project.folder.glob("db.*")} == {"db.sqlite3"}


def test_project_sees_the_command_line_of_migrate(project):
    wsgi = f"{WSGI}\nimport sys\nassert 'migrate' in sys.argv, sys.argv\n"
    (project.folder / "wsgi.py").write_text(wsgi)
    assert project.migrate()["migrated"] and project.applied() == ["0001_first"]
    project.add("0002_second", SECOND)
    assert project.migrate()["migrated"]
    answer = project.migrate(mode="reverse", databases={"default": ["blog.0002_second"]})
    assert answer["migrated"] and project.applied() == ["0001_first"]


def test_two_processes_migrate_once(project):
    project.add("0002_slow", "migrations.RunPython(slow)", waits=True)
    both = [project.begin() for _ in range(2)]
    ran(project, 1)
    project.go()
    answers = [project.end(process)["migrated"]["default"] for process in both]
    assert sorted(answers) == [[], ["blog.0001_first", "blog.0002_slow"]]
    assert (project.folder / "ran").read_text() == "x"


def test_waiting_for_migration_lock_times_out(project):
    project.add("0002_slow", "migrations.RunPython(slow)", waits=True)
    first = project.begin()
    ran(project, 1)
    told = project.migrate(timeout=0.5)
    assert told["cause"].startswith(
        "another migration of 'default' is in progress: django-formula migrate blog 0007-abc"
    )
    assert told["blocked"] == "yes" and f"pid {first.pid}" in told["cause"]
    project.go()
    assert project.end(first)["migrated"]["default"] == ["blog.0001_first", "blog.0002_slow"]


def test_lock_ends_with_killed_process(project):
    project.add("0002_slow", "migrations.RunPython(slow)", waits=True)
    first = project.begin()
    ran(project, 1)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    project.names.pop()
    project.add("0002_slow", "migrations.RunPython(slow)")
    assert project.migrate(timeout=1)["migrated"]["default"] == ["blog.0002_slow"]
    assert {path.name for path in project.folder.glob("db.*")} == {"db.sqlite3"}


@pytest.mark.parametrize("how", ["IMMEDIATE", full("EXCLUSIVE")])
def test_migration_waits_for_lock(project, how):
    project.migrate()
    project.add("0002_note", SECOND)
    with project.locked(how):
        process = project.begin(lock_timeout=0.4)
        while "waited 0.4 s for a lock" not in process.stderr.readline():
            assert process.poll() is None
    assert project.end(process)["migrated"]["default"] == ["blog.0002_note"]


def test_migration_fails_when_lock_is_held(project):
    project.migrate()
    project.add("0002_note", SECOND)
    with project.locked():
        began = time.monotonic()
        told = project.migrate(lock_timeout=0.1)
        took = time.monotonic() - began
    assert told["migration"] == "blog.0002_note" and told["blocked"] == "yes" and told["applied"] == ""
    assert told["cause"] == "waited 5 times 0.1 s for a lock; its holder is unknown"
    assert 2 < took < 60
    assert project.applied() == ["0001_first"]


def test_non_atomic_migration_not_retried(project):
    project.migrate()
    write = "migrations.RunSQL(\"INSERT INTO blog_post (title) VALUES ('x')\")"
    wait = "migrations.RunPython(slow)"
    project.add("0002_half", write, wait, SECOND, atomic=False, waits=True)
    process = project.begin()
    ran(project, 1)
    with project.locked():
        project.go()
        told = project.end(process)
    assert (
        told["migration"] == "blog.0002_half"
        and "it is not atomic and was not retried: check what it has applied" in told["cause"]
    )
    assert (project.folder / "ran").read_text() == "x"


def test_failed_migration_named(project):
    project.add("0002_ledger", "migrations.RunPython(fail)")
    told = project.migrate()
    assert told["migration"] == "blog.0002_ledger" and told["applied"] == "blog.0001_first"
    assert told["cause"] == "RuntimeError: it does not balance (blog/migrations/0002_ledger.py:12)"
    assert "blocked" not in told


@pytest.mark.parametrize(
    ("operation", "repeated"),
    [
        ("migrations.AddField('post', 'title', models.TextField(null=True))", "blog.Post.title"),
        full(f"{SECOND}, {SECOND}", "blog.Post.note"),
        full(FIRST, "blog.Post"),
        (f"migrations.RemoveField('post', 'title'), {SECOND}, migrations.RunPython(fail)", ""),
    ],
)
def test_what_migrations_add_twice_is_named(project, operation, repeated):
    project.add("0002_again", operation)
    told = project.migrate()
    assert (told["migration"], told.get("repeated", "")) == ("blog.0002_again", repeated)
    assert bool(repeated) == ("duplicate column name" in told["cause"] or "already exists" in told["cause"])


def test_migrations_reversed(project):
    project.add("0002_note", SECOND)
    project.add("0003_more", "migrations.AddField('post', 'more', models.TextField(null=True))")
    project.migrate()
    answer = project.migrate(mode="reverse", databases={"default": ["blog.0003_more", "blog.0002_note"]})
    assert answer["migrations"]["default"] == {
        "applied": ["blog.0001_first"],
        "pending": ["blog.0002_note", "blog.0003_more"],
    }
    answer = project.migrate(mode="reverse", databases={"default": ["blog.0001_first"]})
    assert answer["migrations"]["default"]["applied"] == [] == project.applied()


def test_irreversible_migration_refused(project):
    project.migrate()
    project.add("0002_slow", "migrations.RunPython(slow)")
    project.add("0003_note", SECOND)
    project.migrate()
    told = project.migrate(mode="reverse", databases={"default": ["blog.0003_note", "blog.0002_slow"]})
    assert told["migration"] == "blog.0002_slow" and told["applied"] == "blog.0003_note"
    assert "IrreversibleError" in told["cause"]


def test_applied_migrations_classified(project):
    project.add("0002_note", SECOND)
    project.add("0003_gone", "migrations.RemoveField('post', 'title')")
    project.migrate()
    names = ["blog.0002_note", "blog.0003_gone"]
    answer = project.migrate(mode="classify", databases={"default": names}, known={"default": ["blog.0001_first"]})
    assert [(one["name"], one["class"], one["reversible"]) for one in answer["schema"]["default"]] == [
        ("blog.0002_note", "safe", True),
        ("blog.0003_gone", "breaking", False),
    ]


def test_no_alternative_named_for_migration_of_package(project):
    settings = project.folder / "settings.py"
    settings.write_text(settings.read_text().replace('["blog"]', '["blog", "django.contrib.contenttypes"]'))
    project.add("0002_gone", "migrations.RemoveField('post', 'title')")
    project.migrate()
    names = ["contenttypes.0002_remove_content_type_name", "blog.0002_gone"]
    known = ["contenttypes.0001_initial", "blog.0001_first"]
    answer = project.migrate(mode="classify", databases={"default": names}, known={"default": known})
    found = {one["name"]: one["operations"][-1] for one in answer["schema"]["default"]}
    assert {name: operation["class"] for name, operation in found.items()} == dict.fromkeys(names, "breaking")
    assert [bool(found[name]["way"]) for name in names] == [False, True]


def started(project):
    """What the start of a release answers."""
    request = {"mode": "start", "application": "wsgi", "collect": False, "migrate": {}}
    request |= {"check": "error", "ignored_checks": [], "write_ahead": False}
    done = subprocess.run(
        [in_django.python("django"), "-B", "django_formula_start.py"],
        cwd=project.folder,
        env={"DB": str(project.database), "DJANGO_SETTINGS_MODULE": "settings", "PYTHONPATH": "."},
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr.splitlines()[-1]


READY = """
from django.apps import AppConfig
from django.db import connection

class Blog(AppConfig):
    name = "blog"

    def ready(self):
        connection.cursor().execute("{}")
"""


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("SELECT title FROM blog_post", "no such table: blog_post"),
        full("SELECT note FROM blog_post", "no such column: note"),
    ],
)
def test_application_that_reads_what_migrations_make(project, query, text):
    """It can be migrated, which Django alone refuses, and is read as a whole where nothing is pending."""
    if "note" in query:
        project.migrate()
        project.add("0002_note", SECOND)
    (project.folder / "blog/apps.py").write_text(READY.format(query))
    assert started(project)["unready"] == [f"blog: OperationalError: {text} (blog/apps.py:9)"]
    assert project.migrate()["migrated"]["default"] == [f"blog.{project.names[-1]}"]
    assert started(project)["unready"] == []


MODELS = """
from django.contrib.auth.models import User
from django.db import models

class Post(models.Model):
    title = models.TextField()
    note = models.TextField(null=True)

class Tag(models.Model):
    posts = models.ManyToManyField(Post)

class Report(models.Model):
    class Meta:
        managed = False

class Own(Post):
    class Meta:
        proxy = True

class Seen(models.Model):
    note = models.TextField()

class Searched(models.Model):
    note = models.TextField()

User.add_to_class("is_new", models.BooleanField(default=False))
"""


def test_tables_and_columns_that_no_migration_makes_are_named(project):
    settings = project.folder / "settings.py"
    applications = '["blog", "django.contrib.auth", "django.contrib.contenttypes"]'
    settings.write_text(settings.read_text().replace('["blog"]', applications))
    (project.folder / "blog/models.py").write_text(MODELS)
    with contextlib.closing(sqlite3.connect(project.database)) as connection:
        connection.execute("CREATE VIEW blog_seen AS SELECT 1 AS id")  # the columns of these are not looked up
        connection.execute("CREATE VIRTUAL TABLE blog_searched USING fts5(title)")
    own = (
        "which models have: pages that need them fail; run manage.py makemigrations in the project, and commit the "
        "migrations"
    )
    package = (
        "; those of auth, which is a package, belong in a folder of the project with a copy of its migrations, which "
        "MIGRATION_MODULES names"
    )
    missing = f"no migration makes blog_post.note, blog_tag_posts, blog_tag, auth_user.is_new, {own}{package}"
    assert missing in project.migrate()["checks"]
    assert missing in started(project)["checks"]
    (project.folder / "blog/models.py").write_text(MODELS.partition("class Tag")[0])
    assert f"no migration makes blog_post.note, {own}" in started(project)["checks"]
    project.add("0002_note", SECOND)
    assert not any(text.startswith("no migration makes") for text in project.migrate()["checks"])


@pytest.mark.parametrize(("migrated", "query"), [(True, "SELECT 1 FROM nowhere"), full(False, "SELECT FROM")])
def test_application_that_no_migration_makes_ready(project, migrated, query):
    if migrated:
        project.migrate()
    (project.folder / "blog/apps.py").write_text(READY.format(query))
    cause = "no such table: nowhere" if migrated else 'near "FROM": syntax error'
    assert started(project) == f"cause: OperationalError: {cause} (blog/apps.py:9)"


def test_start_classifies_pending_migrations(project):
    answer = started(project)
    first = {"name": "blog.0001_first", "class": "safe", "reversible": True, "operations": []}
    assert answer["schema"] == {"default": [first]} and "checks" not in answer
    project.migrate()
    assert "schema" not in started(project)
    project.add("0002_note", SECOND)
    (told,) = started(project)["schema"]["default"]
    assert told["class"] == "safe" and told["operations"][0]["lock"] == "the whole database: writes wait"
    assert told["operations"][0]["sql"] == 'ALTER TABLE "blog_post" ADD COLUMN "note" text NULL'
    project.add("0003_lost", "migrations.AddField('nowhere', 'note', models.TextField(null=True))")
    lost = {"name": "blog.0003_lost", "class": "opaque", "reversible": False, "operations": []}
    assert started(project)["schema"]["default"][1] == lost
    assert project.applied() == ["0001_first"]


def test_start_refused_for_inconsistent_migrations(project):
    project.add("0002_note", SECOND)
    project.migrate()
    project.names.pop()
    project.add("0002_other", "migrations.AddField('post', 'other', models.TextField(null=True))")
    why = "blog has 2 last migrations, 0002_note, 0002_other: run makemigrations --merge, and commit"
    assert started(project) == f"cause: RuntimeError: {why}"
    (project.folder / "blog/migrations/0002_other.py").unlink()
    (project.folder / "blog/migrations/0001_first.py").rename(project.folder / "blog/migrations/0001_begin.py")
    second = project.folder / "blog/migrations/0002_note.py"
    second.write_text(second.read_text().replace("0001_first", "0001_begin"))
    project.names[-1] = "0002_note"
    project.add("0003_more", "migrations.AddField('post', 'more', models.TextField(null=True))")
    assert "InconsistentMigrationHistory: Migration blog.0002_note is applied before its depend" in started(project)
    assert project.applied() == ["0001_first", "0002_note"]


def test_squashed_migration_not_classified(project):
    project.add("0002_note", SECOND)
    project.migrate()
    squashed = project.folder / "blog/migrations/0001_squashed.py"
    text = MIGRATION.format(dependencies=[], operations=f"{FIRST}, {SECOND}", atomic=True, waits=False)
    squashed.write_text(text + "    replaces = [('blog', '0001_first'), ('blog', '0002_note')]\n")
    known = ["blog.0001_first", "blog.0002_note"]
    request = {"mode": "classify", "databases": {"default": ["blog.0001_squashed"]}}
    assert project.migrate(**request, known={"default": known}) == {"schema": {"default": []}}
    found = project.migrate(**request, known={"default": known[:1]})["schema"]["default"]
    assert [one["name"] for one in found] == ["blog.0001_squashed"]


PRICE = "migrations.AddField('post', 'price', models.IntegerField(default=7))"
WIDER = "migrations.AlterField('post', 'title', models.CharField(max_length=90))"


def inserted(project, title):
    """What the columns of a row are that a release inserts which knows its title only."""
    with contextlib.closing(sqlite3.connect(project.database)) as connection, connection:
        connection.execute("INSERT INTO blog_post (title) VALUES (?)", [title])
        (columns,) = connection.execute("SELECT * FROM blog_post WHERE title = ?", [title])
        return columns[2:]


def test_default_of_new_column_kept(project):
    project.migrate()
    project.add("0002_price", PRICE)
    (told,) = started(project)["schema"]["default"]
    assert told["class"] == "safe" and told["operations"][0]["default"] == "7"
    assert '"price" integer NOT NULL DEFAULT 7' in told["operations"][0]["sql"]
    assert project.migrate()["migrated"] == {"default": ["blog.0002_price"]}
    assert inserted(project, "one") == (7,)
    project.add("0003_more", WIDER, "migrations.AddField('post', 'more', models.TextField(default=''))")
    project.migrate()
    assert inserted(project, "two") == (7, "")
    request = {"mode": "reverse", "databases": {"default": ["blog.0003_more"]}}
    assert "more" not in str(project.migrate(**request).get("cause")) and inserted(project, "three") == (7,)


def test_default_kept_when_later_migration_fails(project):
    project.migrate()
    project.add("0002_price", PRICE)
    project.add("0003_ledger", WIDER, "migrations.RunPython(fail)")
    told = project.migrate()
    assert told["migration"] == "blog.0003_ledger" and told["applied"] == "blog.0002_price"
    assert inserted(project, "one") == (7,)
    project.names.pop()
    other = "migrations.AlterField('post', 'price', models.BigIntegerField(default=8))"
    project.add("0003_ledger", WIDER, other)
    assert project.migrate()["migrated"] == {"default": ["blog.0003_ledger"]}
    assert inserted(project, "two") == (7,), "as the rows before"


@pytest.mark.full
def test_no_default_kept_in_empty_database(project):
    project.add("0002_price", PRICE)
    project.migrate()
    with pytest.raises(sqlite3.IntegrityError, match=r"NOT NULL constraint failed: blog_post\.price"):
        inserted(project, "one")


@pytest.mark.full
def test_manage_migrate_keeps_default(project):
    project.migrate()
    project.add("0002_price", PRICE)
    assert manage(project, "migrate", "blog")[0] == 0
    assert inserted(project, "one") == (7,)


@pytest.mark.parametrize(("kept", "expected"), [(True, "safe"), (False, "breaking")])
def test_applied_migration_classified_by_default_in_database(project, kept, expected):
    project.migrate() if kept else None
    project.add("0002_price", PRICE)
    project.migrate()
    request = {"mode": "classify", "databases": {"default": ["blog.0002_price"]}}
    (found,) = project.migrate(**request, known={"default": ["blog.0001_first"]})["schema"]["default"]
    assert found["class"] == expected
    why = "" if kept else "the running release's INSERTs leave it out, and it has no default in the database"
    assert found["operations"][0]["why"] == why


def test_migrations_under_load_of_former_release(project):
    """A transaction of theirs that had read first would fail as soon as another one has written."""
    project.migrate()
    with contextlib.closing(sqlite3.connect(project.database)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    for number in range(2, 22):
        field = f"migrations.AddField('post', 'n{number}', models.IntegerField(default={number}))"
        project.add(f"{number:04}_more", field)
    failed, ended = [], threading.Event()

    def write():
        with contextlib.closing(sqlite3.connect(project.database, timeout=10, isolation_level=None)) as connection:
            while not ended.wait(0.002):
                try:
                    connection.execute("INSERT INTO blog_post (title) VALUES ('x')")
                except sqlite3.Error as error:
                    failed.append(str(error))

    writer = threading.Thread(target=write)
    writer.start()
    output, errors = project.begin(lock_timeout=5).communicate(timeout=60)
    ended.set()
    writer.join()
    assert failed == [] and "retrying" not in errors
    assert len(json.loads(output)["migrated"]["default"]) == 20


def test_migration_retried_when_another_process_wrote_after_its_read(project):
    """SQLite refuses the write at once; Django raises a TransactionManagementError at the end of the transaction."""
    project.migrate()
    project.add("0002_fill", "migrations.RunPython(read_and_write)", waits=True)
    with contextlib.closing(sqlite3.connect(project.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        process = project.begin()
        ran(project, 1)
        connection.execute("INSERT INTO blog_post (title) VALUES ('x')")
        project.go()
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert json.loads(output)["migrated"]["default"] == ["blog.0002_fill"]
    assert "blog.0002_fill waited 0.2 s for a lock; its holder is unknown; retrying" in errors
    assert (project.folder / "ran").read_text() == "xx"


def manage(project, *arguments, **request):
    process = project.begin(*arguments, **request)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def test_manage_migrate_waits_for_lock(project):
    project.add("0002_slow", "migrations.RunPython(slow)", waits=True)
    first = project.begin()
    ran(project, 1)
    code, _output, errors = manage(project, "migrate", "--database=default", timeout=0.2)
    assert code == 1 and errors.startswith("another migration of 'default' is in progress")
    code, output, _errors = manage(project, "migrate", "--plan")
    assert code == 0 and "0002_slow" in output
    project.go()
    code, output, _errors = manage(project, "migrate", "--database", "default")
    assert code == 0 and "No migrations to apply" in output
    assert project.end(first)["migrated"]["default"] == ["blog.0001_first", "blog.0002_slow"]


def test_manage_migrate_does_not_stall_requests(project):
    project.migrate()
    project.add("0002_note", SECOND)
    with project.locked("EXCLUSIVE"):
        code, _output, errors = manage(project, "migrate", "blog", lock_timeout=0.3)
    assert code == 1 and errors.endswith("waited 0.3 s for a lock; its holder is unknown\n")
    code, _output, errors = manage(project, "migrate", "--database", "other")
    assert code and "other" in errors


@pytest.mark.full
def test_lock_file_of_another_program_awaited(project):
    """As a program of another make would: the file is the database's name and `.migrating`."""
    project.migrate()
    path = f"{project.database}.migrating"
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        process = project.begin()
        time.sleep(1)
        assert process.poll() is None
        os.unlink(path)
    assert project.end(process)["migrated"]["default"] == []
