"""Whether the running release can live with pending migrations, and an older one with those that are there."""

import sqlite3

import pytest
from django_formula.deploy import migration as deploy_migration
from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.project import ask, program
from django_formula.proxy import maintenance as proxy_maintenance
from django_formula.release import releases
from django_formula.site import sites
from django_formula.verbs import operations as verbs_operations
from world import commit

ONE, TWO, THREE = (f"{number:04}-{commit(name)[:12]}" for number, name in enumerate(["one", "two", "three"], 1))


def operation(name, model, field="", kind="safe", why="", way=""):
    about = {"operation": name, "model": model, "field": field, "class": kind, "why": why, "way": way}
    return {**about, "reversible": True, "lock": "", "sql": ""}


def migration(name, *operations, kind=None, reversible=True):
    kind = kind or (operations[-1]["class"] if operations else "safe")
    return {"name": name, "class": kind, "reversible": reversible, "operations": list(operations)}


ADDED = migration("blog.0002_note", operation("AddField", "blog.Post", "note"))
USED = "the running release still uses it"
GONE = operation("RemoveField", "blog.Post", "title", "breaking", USED, "first release …")
REMOVED = migration("blog.0002_gone", GONE, reversible=False)
RENAMED = migration("blog.0002_name", operation("RenameField", "blog.Post", "title", "breaking", "known", "add …"))
FILLED = migration("blog.0002_fill", operation("RunPython", "", "", "data", "code of the project changes rows"))
BY_SQL = migration("blog.0002_sql", operation("RunSQL", "", "", "opaque", "SQL of the project's own"), reversible=False)


def lacks(world, *schema, applied=("blog.0001",)):
    """The next release lacks these migrations."""
    names = [one["name"] for one in schema]
    world.answers["migrations"] = {"default": {"applied": list(applied), "pending": names}}
    world.answers["schema"] = {"default": list(schema)}


@pytest.fixture
def one(world):
    """A world with a release, and the next commit pushed."""
    world.answers = {"migrations": {"default": {"applied": ["blog.0001"], "pending": []}}}
    world.apply()
    world.push("two")
    return world


@pytest.mark.parametrize(
    ("schema", "unsafe", "warnings"),
    [
        (ADDED, "refuse", []),
        (FILLED, "refuse", ["blog.0002_fill changes rows by code of the project: only its author knows whether "]),
        (BY_SQL, "refuse", ["blog.0002_sql runs SQL, or operations that are not Django's: only its author knows "]),
        (REMOVED, "allow", [f"{ONE} cannot run with blog.0002_gone"]),
    ],
)
def test_what_is_let_through(one, schema, unsafe, warnings):
    one.options = {"migrate": {"unsafe": unsafe}}
    lacks(one, schema)
    assert one.apply()["migration"] == {"migrations": {"default": [schema["name"]]}}
    assert one.live == TWO and len(one.last.warnings) == len(warnings)
    assert all(found.startswith(said) for found, said in zip(one.last.warnings, warnings, strict=True))
    assert deploy_migration.recorded_schema(releases.Release(one.site, TWO)) == {"default": [schema]}


def test_what_is_refused(one):
    lacks(one, ADDED, migration("blog.0003_gone", *[GONE] * 7))
    with pytest.raises(DeploymentError) as error:
        one.apply()
    assert error.value.message == f"migration: 7 operations would break {ONE}, which still serves"
    lines = str(error.value).splitlines()
    assert len(lines) <= 10 and lines[-1] == f"{ONE} still runs"
    assert "blog.0003_gone: RemoveField blog.Post.title: the running release still uses it" in lines[1]
    assert lines[5] == "  | and 3 more" and lines[6].startswith(
        "first release …; or django:sites:blog:migrate:unsafe: "
    )
    assert one.live == ONE and one.requests[-1]["mode"] == "start"
    one.check()
    with pytest.raises(DeploymentError, match="failed before with the same inputs"):
        one.apply()
    one.options = {"migrate": {"unsafe": "allow"}}
    one.apply()
    assert one.live.startswith("0003-")


def test_what_a_package_brings_has_only_one_way(one):
    lacks(one, migration("shelf.0002_gone", {**GONE, "way": ""}))
    with pytest.raises(DeploymentError) as error:
        one.apply()
    assert error.value.hint.startswith(
        "django:sites:blog:migrate:unsafe: maintenance shows the maintenance page meanwhile, "
    )


def test_a_first_release_is_never_refused(world):
    lacks(world, REMOVED)
    world.apply()
    assert world.live == ONE and world.last.warnings == []


def test_the_live_release_is_never_refused_what_it_needs(one):
    """Its database was replaced by an older one."""
    lacks(one, REMOVED)
    one.options = {"migrate": {"unsafe": "allow"}}
    one.apply()
    one.options = {}
    one.answers["migrations"] = {"default": {"applied": ["blog.0001", "blog.0002_gone"], "pending": []}}
    assert verbs_operations.migrate("blog")["migrated"] == {"default": []}


# Going back


@pytest.fixture
def went(one):
    """Make a second release that has done these migrations, and tell which programs are asked from then on."""

    def go(*schema, recorded=True):
        one.options = {"migrate": {"unsafe": "allow"}}
        lacks(one, *schema)
        if not recorded:
            one.answers["schema"], one.answers["classes"] = {}, {"default": list(schema)}
        one.apply()
        live = releases.Release(one.site, TWO)
        names = {"applied": ["blog.0001", *(each["name"] for each in schema)], "pending": []}
        live.update(facts={**live.facts, "migrations": {"default": names}})
        one.commands.clear()
        one.requests.clear()
        return one

    return go


def test_back_to_what_can_live_with_it(went):
    world = went(ADDED, FILLED)
    deployment, changes = verbs_operations.rollback("blog")
    assert world.live == ONE
    assert changes["rollback"] == {
        "schema": "safe",
        "newer": ["blog.0002_note", "blog.0002_fill"],
        "taken_back": False,
    }
    kept = "blog.0002_note, blog.0002_fill (data)"
    assert deployment.warnings == [f"the database keeps migrations that {ONE} does not have: {kept}"]
    assert not world.requests
    world.check()


def test_back_without_any_migration(went):
    went()
    deployment, changes = verbs_operations.rollback("blog")
    assert changes["rollback"] == {"schema": "safe", "newer": [], "taken_back": False} and deployment.warnings == []


def test_unrecorded_migrations_are_classified_by_the_active_release(went):
    world = went(RENAMED, recorded=False)
    with pytest.raises(DeploymentError, match=r"reversible: blog\.0002_name renamed blog\.Post\.title: known"):
        verbs_operations.rollback("blog")
    assert world.requests[-1]["mode"] == "classify" and world.requests[-1]["known"] == {"default": ["blog.0001"]}
    assert world.live == TWO
    world.answers["classes"] = {"default": []}
    verbs_operations.rollback("blog")
    assert world.live == ONE


KEPT = migration("blog.0002_price", {**operation("AddField", "blog.Post", "price"), "default": "7"})


def test_back_to_what_new_columns_have_defaults_for(one, went):
    one.answers["migrated"] = {"default": ["blog.0002_price"]}
    world = went(KEPT)
    assert releases.Release(world.site, TWO).record["migrated"] == ["blog.0002_price"]
    _deployment, changes = verbs_operations.rollback("blog")
    assert world.live == ONE and changes["rollback"]["schema"] == "safe" and not world.requests


def test_back_when_another_program_has_applied_what_keeps_a_default(went):
    """Only the database can tell whether the column has it."""
    world = went(KEPT)
    lost = "the running release's INSERTs leave it out, and it has no default in the database"
    broken = {**KEPT["operations"][0], "class": "breaking", "why": lost}
    world.answers["classes"] = {"default": [migration("blog.0002_price", broken)]}
    with pytest.raises(DeploymentError, match=r"reversible: blog\.0002_price added blog\.Post\.price"):
        verbs_operations.rollback("blog")
    assert world.requests[-1]["mode"] == "classify" and world.live == TWO


def test_back_to_what_needs_what_is_gone(went):
    world = went(ADDED, REMOVED)
    for options in ({}, {"migrate": True}):
        with pytest.raises(DeploymentError) as error:
            verbs_operations.rollback("blog", **options)
        assert error.value.message == (f"rollback: unsafe: blog.0002_gone removed blog.Post.title: {ONE} still uses it")
        assert error.value.hint == (
            "restore a backup from before it, or deploy forward; "
            f"salt-call django.rollback blog {ONE} force=True rolls back anyway\n{TWO} still runs"
        )
        assert world.live == TWO and not world.requests
        world.check()
    deployment, changes = verbs_operations.rollback("blog", force=True)
    assert world.live == ONE and changes["rollback"]["schema"] == "unsafe"
    assert "blog.0002_gone (breaking)" in deployment.warnings[0]


def test_back_to_what_needs_what_can_be_taken_back(went):
    world = went(ADDED, RENAMED)
    with pytest.raises(DeploymentError) as error:
        verbs_operations.rollback("blog")
    assert error.value.message.startswith("rollback: reversible: blog.0002_name renamed blog.Post.title")
    assert f" {ONE} migrate=True reverses blog.0002_note, blog.0002_name first" in error.value.hint
    assert world.live == TWO and not world.requests
    _deployment, changes = verbs_operations.rollback("blog", migrate=True)
    assert world.live == ONE and changes["rollback"]["taken_back"]
    (request,) = world.requests
    assert request["mode"] == "reverse" and request["databases"] == {"default": ["blog.0002_note", "blog.0002_name"]}
    facts = releases.Release(world.site, TWO).facts
    left = {"applied": ["blog.0001"], "pending": ["blog.0002_note", "blog.0002_name"]}
    assert facts["migrations"]["default"] == left
    world.check()


def test_taking_back_what_it_could_live_with(went):
    world = went(ADDED, BY_SQL)
    with pytest.raises(DeploymentError, match=f"blog.0002_sql cannot be reversed\n{ONE} works without that"):
        verbs_operations.rollback("blog", migrate=True)
    verbs_operations.rollback("blog")
    assert world.live == ONE


def test_an_older_release_that_does_not_come_up_once_migrations_are_taken_back(went):
    world = went(RENAMED)
    world.fails["enable"] = DeploymentError("it does not start")
    with pytest.raises(DeploymentError, match="it does not start") as error:
        verbs_operations.rollback("blog", migrate=True)
    assert error.value.hint.splitlines()[-1] == "its migrations were reversed, and are applied again"
    assert [request["mode"] for request in world.requests] == ["reverse", "migrate"] and world.live == TWO


def test_taking_back_that_stops_half_way(went, monkeypatch):
    world = went(ADDED, RENAMED)
    stopped = ask.PartlyMigrated("it does not balance", hint="mend it")
    facts = releases.Release(world.site, TWO).facts

    def reverse(*_arguments):
        raise stopped

    monkeypatch.setattr(program, "reverse", reverse)
    with pytest.raises(DeploymentError, match="it does not balance") as error:
        verbs_operations.rollback("blog", migrate=True)
    back = "its migrations were reversed, and are applied again"
    assert error.value.hint == f"mend it\n{back}\n{TWO} still runs"
    assert [request["mode"] for request in world.requests] == ["migrate"] and world.live == TWO
    releases.Release(world.site, TWO).update(facts=facts)
    world.fails["systemd-run"] = DeploymentError("the server is gone")
    stopped.hint = ""
    with pytest.raises(DeploymentError) as error:
        verbs_operations.rollback("blog", migrate=True)
    assert "cannot be applied again: migrating the database: the server is gone" in error.value.hint


def test_what_is_new_to_an_older_release_cannot_break_it(went):
    """An application that came after it."""
    shop = migration("shop.0001", operation("CreateModel", "shop.Cart"))
    world = went(shop, migration("shop.0002", operation("RemoveField", "shop.Cart", "x", "breaking"), reversible=False))
    verbs_operations.rollback("blog")
    assert world.live == ONE


def test_what_the_file_no_longer_has_does_not_matter(one, went):
    """Play a restored backup."""
    database = {"engine": "django.db.backends.sqlite3", "name": str(one.site.database.top / "db.sqlite3")}
    one.answers["databases"] = {"default": database}
    first = releases.Release(one.site, ONE)
    first.update(facts={**first.facts, "databases": {"default": database}})
    with sqlite3.connect(database["name"]) as connection:
        connection.execute("CREATE TABLE django_migrations (app TEXT, name TEXT)")
        connection.execute("INSERT INTO django_migrations VALUES ('blog', '0001')")
    world = went(REMOVED)
    verbs_operations.rollback("blog")
    assert world.live == ONE


@pytest.mark.parametrize(
    ("operation_of", "why", "told"),
    [
        ("AddField", "the running release's INSERTs leave it out", "added blog.Post.x: {}'s INSERTs leave it out"),
        ("AlterField", "the running release may write NULL", "changed blog.Post.x: {} may write NULL"),
        ("RenameField", "the running release knows the column as x", "renamed blog.Post.x: {} knows the column as x"),
        ("Custom", "", "did Custom blog.Post.x: {} cannot run with it"),
    ],
)
def test_refusal_says_what_the_older_release_cannot_run_with(went, operation_of, why, told):
    went(migration("blog.0002_x", operation(operation_of, "blog.Post", "x", "breaking", why)))
    with pytest.raises(DeploymentError) as error:
        verbs_operations.rollback("blog")
    assert error.value.message == f"rollback: reversible: blog.0002_x {told.format(ONE)}"


@pytest.fixture
def moved(world):
    """Two releases with a SQLite file each: in `shared` without the overlay, then that of the overlay."""

    files = [world.site.shared.top / "data/db.sqlite3", world.site.database.top / "db.sqlite3"]
    world.answers["databases"] = {"default": sqlite(files[0])}
    world.apply()
    for path in files:
        path.parent.mkdir(exist_ok=True)
        create(path)
    world.push("two")
    world.answers["databases"] = {"default": sqlite(files[1])}
    world.apply()
    return world, files


def sqlite(path):
    return {"engine": "django.db.backends.sqlite3", "name": str(path)}


def create(path):
    """Create a database with an applied migration."""
    connection = sqlite3.connect(path)
    connection.executescript("CREATE TABLE django_migrations (app, name); INSERT INTO django_migrations VALUES (1, 2)")
    connection.close()


def test_rollback_refused_when_release_has_another_sqlite_file(moved):
    world, (old, new) = moved
    with pytest.raises(DeploymentError) as error:
        verbs_operations.rollback("blog")
    assert error.value.message == (
        f"rollback: the database 'default' of {ONE} is {old}, and {TWO} writes to {new}: what was written since would "
        "be missing"
    )
    assert error.value.hint == (
        f"copy the data, which replaces what is in {old}: runuser -u blog -- python3 -c "
        f'\'import sqlite3 as s; t = s.connect("{old}"); t.execute("PRAGMA journal_mode=DELETE"); '
        f's.connect("{new}").backup(t)\'; '
        f"then salt-call django.rollback blog {ONE} force=True rolls back\n{TWO} still runs"
    )
    assert world.live == TWO
    verbs_operations.rollback("blog", force=True)
    assert world.live == ONE


def test_copy_command_of_an_empty_database_names_files_that_stay(world):
    """Not the one in the release, which is deleted when it is refused."""
    world.options = {"shared": ["data"]}
    old = world.site.database.top / "db.sqlite3"
    world.answers["databases"] = {"default": sqlite(old)}
    world.apply()
    create(old)
    world.push("two")
    world.answers["databases"] = {"default": sqlite("data/db.sqlite3")}
    with pytest.raises(DeploymentError) as error:
        world.apply()
    new = world.site.shared.top / "data/db.sqlite3"
    assert error.value.message == f"static: the database 'default' would be {new}, which is empty; the data is in {old}"
    assert error.value.hint == (
        f"set django:sites:blog:database:name, or django:sites:blog:database:replaces: sqlite:///{old} to begin with "
        "an empty one, or copy the data: runuser -u blog -- python3 -c "
        f'\'import sqlite3 as s; t = s.connect("{new}"); t.execute("PRAGMA journal_mode=DELETE"); '
        f's.connect("{old}").backup(t)\'\n{ONE} still runs'
    )


# Where to


@pytest.mark.parametrize("to", [ONE, 1, "1", "0001", commit("one"), commit("one")[:7]])
def test_going_back_to_one_that_is_named(one, to):
    one.apply()
    one.push("three")
    one.apply()
    verbs_operations.rollback("blog", to)
    assert one.live == ONE and one.releases == {ONE: "good", TWO: "good", THREE: "held"}
    one.check()


@pytest.mark.parametrize(
    ("to", "problem"),
    [
        (7, "blog has no release 7 on this host"),
        (commit("one")[:6], f"blog has no release {commit('one')[:6]} on this host"),
        (TWO, f"{TWO} is live"),
        (ONE, f"{ONE} cannot be activated again: it has failed"),
    ],
)
def test_going_back_to_where_one_cannot(one, to, problem):
    one.apply()
    one.push("three")
    one.apply()
    verbs_operations.rollback("blog")
    releases.Release(one.site, ONE).update(state="failed")
    with pytest.raises(DeploymentError) as error:
        verbs_operations.rollback("blog", to)
    assert error.value.message == f"rollback: {problem}" and "salt-call django.release" in error.value.hint
    assert one.live == TWO


# Behind the maintenance page


@pytest.fixture
def closing(one, monkeypatch):
    """The next release breaks the live one, and the pillar has the site closed for it; what visitors get is noted."""
    one.options = {"migrate": {"unsafe": "maintenance"}}
    lacks(one, REMOVED)
    migrate, one.seen, one.stops = program.migrate, [], None

    def watched(site, *arguments):
        one.seen.append((sites.known_maintenance(site) or {}).get("by"))
        if one.stops:
            raise one.stops
        return migrate(site, *arguments)

    monkeypatch.setattr(program, "migrate", watched)
    return one


CLOSED = f"a migration that {ONE} cannot run with"


def test_the_site_is_closed_for_a_migration(closing):
    changes = closing.apply()
    assert closing.seen == [CLOSED] and closing.live == TWO and sites.known_maintenance(closing.site) is None
    assert changes["live"].pop("receipt")
    assert changes["live"] == {"live": {"old": ONE, "new": TWO}, "maintenance": "off"}
    closing.check()


def test_failing_release_stays_when_the_old_one_is_incompatible(one):
    one.options = {"migrate": {"unsafe": "allow"}}
    lacks(one, REMOVED)
    one.problems["0002"] = "returned 500"
    one.apply()
    assert one.live == TWO and "there is no better release to return to" in " ".join(one.last.warnings)


def test_the_site_is_not_closed_for_what_is_safe(closing):
    lacks(closing, ADDED)
    closing.apply()
    assert closing.seen == [None] and closing.live == TWO


def test_maintenance_switched_on_by_an_operator_stays_on(closing):
    proxy_maintenance.on(closing.site, "back soon", by="Ada")
    closing.apply()
    assert closing.seen == ["Ada"] and sites.known_maintenance(closing.site)["by"] == "Ada"


def test_a_migration_that_fails_and_has_left_nothing(closing):
    closing.stops = DeploymentError("it does not balance")
    with pytest.raises(DeploymentError, match=f"it does not balance\n{ONE} still runs"):
        closing.apply()
    assert closing.seen == [CLOSED] and sites.known_maintenance(closing.site) is None


def test_the_site_is_open_where_its_workers_cannot_be_held_for_a_migration(closing, monkeypatch):
    def is_full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(proxy_maintenance, "hold_workers", is_full)
    with pytest.raises(DeploymentError, match="No space left"):
        closing.apply()
    assert closing.seen == [] and sites.known_maintenance(closing.site) is None and closing.live == ONE


@pytest.mark.parametrize("where", ["migration", "instance"])
def test_the_site_stays_closed_where_the_live_release_cannot_live_with_it(closing, where):
    if where == "migration":
        closing.stops = ask.PartlyMigrated("it does not balance")
        closing.stops.names = ["blog.0002_gone"]
    else:
        closing.fails["enable"] = DeploymentError("it does not start")
    with pytest.raises(DeploymentError) as error:
        closing.apply()
    assert "visitors get the maintenance page" in error.value.hint and closing.live == ONE
    assert sites.known_maintenance(closing.site)["by"] == CLOSED
    facts = releases.Release(closing.site, TWO).facts["migrations"]["default"]
    assert where == "instance" or facts == {"applied": ["blog.0001", "blog.0002_gone"], "pending": []}
    closing.push("one")
    assert closing.apply() == {} and sites.known_maintenance(closing.site)
    closing.stops, closing.fails = DeploymentError("nor does it now"), {}
    closing.push("next")
    with pytest.raises(DeploymentError, match="nor does it now"):
        closing.apply()
    assert sites.known_maintenance(closing.site)["by"] == CLOSED
    closing.stops = None
    closing.push("three")
    closing.answers["migrations"] = {"default": {"applied": ["blog.0001", "blog.0002_gone"], "pending": []}}
    del closing.answers["schema"]
    closing.apply()
    assert closing.live.endswith(commit("three")[:12]) and sites.known_maintenance(closing.site) is None


def test_a_deployment_that_was_killed_before_it_opened_the_site(closing):
    closing.apply()
    proxy_maintenance.on(closing.site, by=CLOSED)
    assert closing.apply() == {"live": {"maintenance": "off"}}
    assert closing.apply() == {} and sites.known_maintenance(closing.site) is None


def test_the_backup_that_has_what_is_gone(went):
    world = went(REMOVED)
    name = f"default-20260301T140200Z-{ONE}.dump"
    manifest = {"name": name, "backup": name, "alias": "default", "taken": "2026-03-01T14:02:00Z", "size": 0}
    manifest |= dict.fromkeys(("engine", "database", "why", "release", "sha256"), "")
    manifest |= {"rows": {}, "migrations": []}
    (world.site.backups / name).touch()
    file.write_json(world.site.backups / f"{name}.json", manifest)
    for made in ([], [name]):
        releases.Release(world.site, TWO).update(backups=made, began="2026-03-01T15:00:00Z")
        with pytest.raises(DeploymentError) as error:
            verbs_operations.rollback("blog")
        restore = f"salt-call django.restore blog {name} rollback=True"
        assert error.value.hint.startswith(f"restore the backup of 2026-03-01T14:02:00Z: {restore}, or deploy forward")
    releases.Release(world.site, TWO).update(backups=[], began="2026-03-01T12:00:00Z")
    with pytest.raises(DeploymentError) as error:
        verbs_operations.rollback("blog")
    assert error.value.hint.startswith("restore a backup from before it, or deploy forward")
