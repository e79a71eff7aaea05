"""A release whose database is another one than the active release's."""

import sqlite3

import pytest
from django_formula.database import setup
from django_formula.deploy import database as deploy_database
from django_formula.host.commands import DeploymentError
from django_formula.release import releases
from django_formula.verbs import operations
from world import commit

ONE, TWO = (f"000{number}-{commit(name)[:12]}" for number, name in ((1, "one"), (2, "two")))
INITIAL = "blog.0001_initial"
POSTGRES = {"engine": "postgres", "name": "blog", "user": "blog", "host": "db1"}


def server(engine="django.db.backends.postgresql", host="", port="", name="blog"):
    return {"default": {"engine": engine, "name": name, "host": host, "port": port}}


def has(*names):
    """The answer of a start about a database that has these migrations."""
    return {"default": {"applied": list(names), "pending": [] if names else [INITIAL]}}


@pytest.fixture
def on_sqlite(world):
    """A site that is live on a SQLite file with a table, and a new commit."""
    path = world.site.database.top / "db.sqlite3"
    world.answers["databases"] = {"default": {"engine": "django.db.backends.sqlite3", "name": str(path)}}
    world.apply()
    create(path)
    world.push("two")
    world.old = f"sqlite:///{path}"
    return world


def create(path):
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE django_migrations (app, name); INSERT INTO django_migrations VALUES (1, 2)")
    connection.close()


def moves_to(world, databases, migrations):
    world.answers.update(databases=databases, migrations=migrations, migrated={"default": [INITIAL]})


@pytest.mark.parametrize(
    ("databases", "place"),
    [
        (server(), "postgres:///blog"),
        (server(host="localhost", port="5432"), "postgres:///blog"),
        (server(host="db1", port="5433"), "postgres://db1:5433/blog"),
        (server(host="fd00::1"), "postgres://[fd00::1]/blog"),
        (server("django.db.backends.mysql", host="db1", port="3306"), "mysql://db1/blog"),
        (server("mssql", host="db1"), "mssql:blog"),
    ],
)
def test_release_with_empty_database_of_another_engine_is_refused(on_sqlite, databases, place):
    moves_to(on_sqlite, databases, has())
    with pytest.raises(DeploymentError) as error:
        on_sqlite.apply()
    assert error.value.message == (
        f"static: the database 'default' would be {place}, which is empty; the data is in {on_sqlite.old}"
    )
    assert error.value.hint.splitlines()[0] == (
        "copy the data first, docs/guides/databases.md#another-database; or set django:sites:blog:database:replaces: "
        f"{on_sqlite.old} to begin with an empty one"
    )
    assert on_sqlite.live == ONE


def test_release_with_empty_database_is_accepted_by_the_key(on_sqlite):
    on_sqlite.options = {"databases": {"default": {**POSTGRES, "replaces": on_sqlite.old}}}
    moves_to(on_sqlite, server(host="db1"), has())
    on_sqlite.apply()
    assert on_sqlite.live == TWO
    assert on_sqlite.last.warnings == [
        f"the database 'default' is now postgres://db1/blog, which is empty; {ONE} has written to {on_sqlite.old}"
    ]


def test_key_of_another_place_accepts_nothing(on_sqlite):
    on_sqlite.options = {"databases": {"default": {**POSTGRES, "replaces": "sqlite:////srv/old.sqlite3"}}}
    moves_to(on_sqlite, server(host="db1"), has())
    with pytest.raises(DeploymentError, match="which is empty"):
        on_sqlite.apply()


def test_removed_key_makes_no_release(on_sqlite):
    test_release_with_empty_database_is_accepted_by_the_key(on_sqlite)
    on_sqlite.options = {"databases": {"default": POSTGRES}}
    on_sqlite.answers["migrations"] = has(INITIAL)
    assert on_sqlite.apply().keys() <= {"site"} and on_sqlite.live == TWO


def test_release_with_copied_data_is_released(on_sqlite):
    moves_to(on_sqlite, server(host="db1"), has())
    with pytest.raises(DeploymentError):
        on_sqlite.apply()
    on_sqlite.answers["migrations"] = has(INITIAL)
    on_sqlite.apply()
    assert on_sqlite.live.endswith(TWO[4:])
    assert on_sqlite.last.warnings == [
        f"the database 'default' is now postgres://db1/blog; {ONE} has written to {on_sqlite.old}"
    ]


def test_release_with_other_database_is_released_where_the_former_was_empty(world):
    moves_to(world, server(), has())
    world.options = {"migrate": {"run": False}}
    world.apply()
    world.push("two")
    moves_to(world, server(host="db1"), has())
    world.apply()
    assert world.live == TWO


def test_database_that_is_not_migrated_is_not_judged(world):
    both = {**server(), "replica": server(host="db2")["default"]}
    moves_to(world, both, has(INITIAL))
    world.apply()
    world.push("two")
    moves_to(world, {**server(), "replica": server(host="db3")["default"]}, has(INITIAL))
    world.apply()
    assert world.live == TWO


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"host": "db1"}, {"host": "db2"}),
        ({"host": "db1"}, {"host": "db1", "port": "5433"}),
        ({"host": "db1"}, {"host": "db1", "name": "blog2"}),
        ({}, {"host": "/run/postgresql/other"}),
    ],
)
def test_another_server_is_another_database(world, before, after):
    moves_to(world, server(**before), has(INITIAL))
    world.apply()
    world.push("two")
    moves_to(world, server(**after), has())
    with pytest.raises(DeploymentError, match="which is empty; the data is in postgres://"):
        world.apply(again=True)
    world.answers["migrations"] = has(INITIAL)
    operations.release("blog", None)
    with pytest.raises(DeploymentError, match="what was written since would be missing"):
        operations.rollback("blog")


@pytest.mark.parametrize("host", ["", "localhost", "127.0.0.1", "::1", "/run/postgresql", "/var/run/postgresql"])
def test_names_of_this_host_are_one_place(world, host):
    moves_to(world, server(), has(INITIAL))
    world.apply()
    world.push("two")
    moves_to(world, server(host=host), has(INITIAL))
    world.apply()
    operations.rollback("blog")
    assert world.live == ONE


def test_rollback_refused_when_release_has_another_engine(on_sqlite):
    moves_to(on_sqlite, server(host="db1"), has(INITIAL))
    on_sqlite.apply()
    with pytest.raises(DeploymentError) as error:
        operations.rollback("blog")
    assert error.value.message == (
        f"rollback: the database 'default' of {ONE} is {on_sqlite.old}, and {TWO} writes to postgres://db1/blog: what "
        "was written since would be missing"
    )
    assert error.value.hint == (
        f"copy what was written since into {on_sqlite.old}; then salt-call django.rollback blog {ONE} force=True rolls "
        f"back\n{TWO} still runs"
    )
    assert on_sqlite.live == TWO
    operations.rollback("blog", force=True)
    assert on_sqlite.live == ONE


# By the pillar alone


def foresee(world, **database):
    world.options = {"databases": {"default": {**POSTGRES, **database}}}
    return deploy_database.foresee(world.site, releases.Release(world.site, ONE))


@pytest.mark.parametrize("exists", [False, True])
def test_new_database_on_this_host_is_refused_before_anything_is_changed(on_sqlite, monkeypatch, exists):
    monkeypatch.setattr(setup, "exists", lambda site, alias: exists)
    if exists:
        (warning,) = foresee(on_sqlite, host=None, manage=True)
        assert warning == (
            f"the database 'default' is going to be postgres:///blog, and the data is in {on_sqlite.old}: the release "
            "is refused if the new one is empty"
        )
        return
    with pytest.raises(DeploymentError) as error:
        foresee(on_sqlite, host=None, manage=True)
    assert error.value.message == (
        f"the database 'default' would be postgres:///blog, which is empty; the data is in {on_sqlite.old}"
    )
    assert foresee(on_sqlite, host=None, manage=True, replaces=on_sqlite.old) == []


def test_database_elsewhere_is_a_warning_before_anything_is_changed(on_sqlite):
    (warning,) = foresee(on_sqlite)
    assert "is going to be postgres://db1/blog" in warning
    assert foresee(on_sqlite, replaces=on_sqlite.old) == []


@pytest.mark.parametrize("has_tables", [False, True])
def test_sqlite_file_instead_of_a_server(world, has_tables):
    moves_to(world, server(host="db1"), has(INITIAL))
    world.apply()
    path = world.site.database.top / "new.sqlite3"
    create(path) if has_tables else None
    if has_tables:
        assert foresee(world, engine="sqlite", name="new.sqlite3", host=None, user=None) == []
        return
    with pytest.raises(DeploymentError) as error:
        foresee(world, engine="sqlite", name="new.sqlite3", host=None, user=None)
    assert error.value.message == (
        f"the database 'default' would be sqlite:///{path}, which is empty; the data is in postgres://db1/blog"
    )


def test_nothing_is_foreseen_of_the_same_database(world):
    moves_to(world, server(host="db1"), has(INITIAL))
    world.apply()
    assert foresee(world) == [] and foresee(world, port=5432) == []
