"""Backups: when they are made, their manifests, which are kept, restores and drills."""

import contextlib
import json
import os
import re
import stat
import time
import types
from pathlib import Path

import pytest
from django_formula.backup import backups, dumps, loading, restore
from django_formula.backup.dumps import Database
from django_formula.deploy import migration
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.proxy import maintenance as proxy_maintenance
from django_formula.release import releases
from django_formula.site import sites
from django_formula.verbs import backup as verbs_backup
from django_formula.verbs import operations

ROWS = {"public.guestbook_entry": 3, "public.auth_user": 1}


def _page(site):
    return site.root / "maintenance/on"


@pytest.fixture
def clock(monkeypatch):
    """A clock by the hour, so that no two backups are of the same moment."""
    moments = iter(range(1772366400, 1 << 40, 3600))
    current = [next(moments)]

    real = time.gmtime
    monkeypatch.setattr(time, "gmtime", lambda moment=None: real(current[0] if moment is None else moment))
    return lambda: current.__setitem__(0, next(moments))


@pytest.fixture
def site(world, monkeypatch):
    """A world in which a site is live, whose database has two tables; maintenance needs no nginx."""
    world.apply()
    world.server.databases["blog"] = {"rows": dict(ROWS), "migrations": ["guestbook.0001"]}

    def on(site, message="", *, by):
        (site.root / "maintenance").mkdir(exist_ok=True)
        (site.root / "maintenance/on").touch()

    monkeypatch.setattr(proxy_maintenance, "on", on)
    monkeypatch.setattr(proxy_maintenance, "off", lambda site: (site.root / "maintenance/on").unlink())
    about = {"by": "django.restore"}
    monkeypatch.setattr(sites, "known_maintenance", lambda site: about if _page(site).exists() else None)
    return world.site


def names(site):
    return sorted(path.name for path in site.backups.iterdir() if not path.name.startswith("."))


def backup(site, why=backups.BY_COMMAND, **options):
    live = releases.linked(site, site.current)
    return [path.name for path in backups.make(site, live, why=why, secrets=[], **options)]


def test_manifest_of_backup(world, site, clock):
    (name,) = backup(site)
    assert name == f"default-20260301T120000Z-{world.live}.dump" and names(site) == [name, f"{name}.json"]
    (about,) = backups.manifests(site)
    expected = {
        "backup": f"20260301T120000Z-{world.live}",
        "name": name,
        "alias": "default",
        "engine": "postgres",
        "database": "blog",
        "taken": "2026-03-01T12:00:00Z",
        "why": "command",
        "release": world.live,
        "rows": ROWS,
        "migrations": ["guestbook.0001"],
        "size": (site.backups / name).stat().st_size,
    }
    assert {key: about[key] for key in expected} == expected and len(about["sha256"]) == 64
    modes = {stat.S_IMODE((site.backups / one).stat().st_mode) for one in names(site)}
    assert modes == {0o600} and "pw" not in (site.backups / f"{name}.json").read_text()
    backups.verify(site, about, site.backups)
    world.check_leftovers()


def test_database_without_tables_not_backed_up(world, site):
    world.server.databases["blog"]["rows"] = {}
    live = releases.linked(site, site.current)
    live.update(facts={**live.facts, "migrations": {"default": {"applied": [], "pending": []}}})
    assert backup(site) == [] == names(site)


def test_backup_refused_for_database_that_has_lost_its_tables(world, site):
    """As where the file of SQLite is gone: the backup would be good, and have nothing in it."""
    live = releases.linked(site, site.current)
    live.update(facts={**live.facts, "migrations": {"default": {"applied": ["blog.0001_first"], "pending": []}}})
    (made,) = backup(site)
    world.server.databases["blog"]["rows"] = {}
    with pytest.raises(DeploymentError, match=f"the database 'default' has no tables, though {live.name}") as error:
        backup(site)
    assert "django.restore blog" in error.value.hint and made in names(site)


def test_backups_of_same_second_have_different_names(site, clock, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: clock())
    assert backup(site) != backup(site)


@pytest.mark.parametrize("engine", ["django.db.backends.oracle", "mssql"])
def test_backup_refused_for_unsupported_engine(world, site, engine):
    live = releases.linked(site, site.current)
    live.update(facts={**live.facts, "databases": {"default": {"engine": engine, "name": "blog"}}})
    with pytest.raises(
        DeploymentError, match=f"the database 'default' cannot be backed up: {engine} is not sup"
    ) as error:
        backup(site)
    assert "django:sites:blog:migrate: {backup: false}" in error.value.hint


def test_database_in_memory_not_backed_up(site):
    live = releases.linked(site, site.current)
    live.update(facts={**live.facts, "databases": {"default": {"engine": "sqlite3", "name": ":memory:"}}})
    assert backup(site) == []


def test_refused_when_disk_has_not_enough_room(world, site, clock, monkeypatch):
    world.server.size = 5 << 20
    with pytest.raises(DeploymentError, match=r"a backup needs 5.24 MB in /\S+/backups, and 1.05 MB are free") as error:
        backup(site)
    assert "django:sites:blog:backup:directory" in error.value.hint and error.value.transient and names(site) == []
    world.server.size = 1000
    backup(site)
    world.server.size = 5 << 30
    monkeypatch.setattr(dumps, "free", lambda folder: 2 << 20)
    clock()
    assert len(backup(site)) == 1, "the last one says how large a dump of it is"


def test_failed_backup_leaves_no_file(world, site):
    world.server.fails["dump"] = DeploymentError("the server is gone")
    with pytest.raises(DeploymentError, match="the server is gone"):
        backup(site)
    assert names(site) == []
    world.check_leftovers()


def test_files_of_killed_backup_removed(world, site, clock):
    name = f"default-20260101T000000Z-{world.live}.dump"
    left = [f".{name}.new", f".{name}.json.new", name, f"{name.replace('T00', 'T01')}.json"]
    for one in [*left, "notes.txt"]:
        (site.backups / one).touch()
    (made,) = backup(site)
    assert names(site) == [made, f"{made}.json", "notes.txt"] and not (site.backups / left[0]).exists()


def test_second_backup_waits_for_first(world, site):
    world.options = {"timeouts": {"lock": "0s"}}
    with backups.lock(world.site, "another").held(), pytest.raises(DeploymentError) as error:
        backup(world.site)
    assert error.value.message.startswith("another backup of blog is under way: another, pid ")


# Before a migration


@pytest.fixture
def pending(world):
    """Each new release has a migration to come."""

    def push(name):
        world.push(name)
        world.answers["migrations"] = {"default": {"applied": ["guestbook.0001"], "pending": [f"guestbook.{name}"]}}
        world.answers["migrated"] = {"default": [f"guestbook.{name}"]}

    return push


def test_backup_made_before_migration(world, site, pending, clock):
    before = world.live
    pending("0002")
    world.apply()
    live = releases.linked(site, site.current)
    (about,) = backups.manifests(site)
    assert live.record["backups"] == [about["name"]] and about["release"] == before != live.name
    assert about["why"] == "migration" and backups.newest_before(site, "2026-03-01T12:00:00Z") == about
    assert backups.newest_before(site, "2026-03-01T11:59:59Z") is None


@pytest.mark.slow
def test_backup_is_discarded_when_another_host_has_migrated(world, site, pending):
    """It waited for the lock of the migrations; the backup of before them is that of the other host."""
    live, older = releases.linked(site, site.current), backup(site, backups.MIGRATION)
    live.update(backups=older)
    for is_of_fleet in (False, True):
        if is_of_fleet:
            live.site.config["fleet"] = {}
        migration.back_up_and_migrate(None, live, ["default"], [])
        assert live.record["backups"][:1] == older and len(live.record["backups"]) == 2
        assert sorted(live.record["backups"]) == sorted(one["name"] for one in backups.manifests(site))


@pytest.mark.parametrize("options", [{"migrate": {"backup": False}}, {"migrate": {"run": False}}])
def test_no_backup_when_disabled(world, site, pending, options):
    world.options = options
    pending("0002")
    world.apply()
    assert names(world.site) == []


def test_migration_refused_when_backup_fails(world, site, pending):
    before = world.live
    world.server.fails["dump"] = DeploymentError("the server is gone")
    pending("0002")
    world.commands.clear()
    with pytest.raises(DeploymentError, match="migration: the server is gone"):
        world.apply()
    assert world.live == before and sum("systemd-run" in command for command in world.commands) == 1


def test_failed_migration_names_backup(world, site, pending, clock, monkeypatch):
    def fail(*_arguments):
        raise DeploymentError("it does not balance", hint="mend it")

    monkeypatch.setattr(migration, "migrate", fail)
    pending("0002")
    with pytest.raises(DeploymentError, match="migration: it does not balance") as error:
        world.apply()
    which = f"20260301T120000Z-{world.live}"
    way = f"to restore the database as it was before: salt-call django.restore blog {which}"
    assert error.value.hint == f"mend it\n{way}\n{world.live} still runs"
    clock()
    assert verbs_backup.restore("blog", which)["restored"]


# Retention


def test_backups_kept_as_configured(world, site, clock):
    world.options = {"backup": {"keep": 2}}
    made = []
    for why in (backups.BY_COMMAND, backups.BY_TIMER, backups.BY_COMMAND):
        made += backup(world.site, why)
        clock()
    assert [one["name"] for one in backups.manifests(site)] == made[:0:-1]


@pytest.mark.parametrize("error", [1e8, -1e8])
def test_newest_backup_is_the_last_one_although_the_clock_was_wrong(world, site, monkeypatch, error):
    """Of one that was ahead the former backups are the newest by their names, of one that is late the next are old."""
    world.options = {"backup": {"keep": 2}}
    real, now = time.gmtime, time.time()
    made = []
    for hours, wrong in enumerate([0, 0, error]) if error < 0 else enumerate([error, 0, 0, 0]):
        moment = now + wrong + 3600 * hours
        monkeypatch.setattr(time, "gmtime", lambda given=None, at=moment: real(at if given is None else given))
        monkeypatch.setattr(time, "time", lambda at=moment: at)
        made += backup(world.site)
    kept = made[-2:] if error > 0 else [made[2], made[1]][::-1]
    assert {one["name"] for one in backups.manifests(site)} == {*kept}
    assert backups.find(site, None)[0]["name"] == made[-1]


def test_backups_before_migrations_kept_with_releases(world, site, pending, clock):
    world.options = {"backup": {"keep": 1}, "releases": {"keep": 2}}
    for number in range(2, 7):
        clock()
        pending(f"000{number}")
        world.apply()
    whys = [one["why"] for one in backups.manifests(site)]
    assert whys == ["migration"] * 3  # the live release's, the previous one's, and that of the one that just went
    for _ in range(3):
        clock()
        backup(world.site)
    named = {name for release in releases.releases(site) for name in release.record.get("backups", ())}
    assert named <= {one["name"] for one in backups.manifests(site)}
    assert [one["why"] for one in backups.manifests(site)].count("command") == 1


def test_backup_before_a_migration_hides_no_timer_that_makes_none(world, site, clock):
    """It may have a single database: the watch tells that the backups by the schedule are too old."""
    backup(site, why=backups.MIGRATION, aliases=["default"])
    (first,) = [one["taken"] for one in backups.manifests(site)]
    assert backups.status(site)["backup"] == first
    clock()
    backup(site, why=backups.BY_TIMER)
    newest = backups.manifests(site)[0]["taken"]
    clock()
    backup(site, why=backups.MIGRATION, aliases=["default"])
    assert backups.status(site)["backup"] == newest != first


def test_truncated_backup_ignored(site, clock):
    (first,) = backup(site)
    clock()
    (second,) = backup(site)
    os.truncate(site.backups / second, 5)
    assert [one["name"] for one in backups.manifests(site)] == [first]


def test_backups_of_both_suffixes_listed(world, site, clock, monkeypatch):
    """As where zstd has been installed, and was removed again."""
    monkeypatch.setattr(world.server, "zstd_suffix", "dump.zst", raising=False)
    made = []
    for has_zstd in (False, True, False):
        monkeypatch.setattr(dumps, "has_zstd", lambda has_zstd=has_zstd: has_zstd)
        made += backup(site)
        clock()
    assert [name.partition(world.live)[2] for name in made] == [".dump", ".dump.zst", ".dump"]
    assert [one["name"] for one in backups.manifests(site)] == made[::-1]
    for name in made:
        assert verbs_backup.restore("blog", name)["restored"]["default"].startswith(f"{name}, taken")
        clock()


def test_overview_lists_backups(world, site, clock, monkeypatch):
    backup(site)
    monkeypatch.setattr(time, "time", lambda: 1772366400 + 3 * 3600)
    (row,) = backups.overview(site)
    assert row == {
        "backup": f"default-20260301T120000Z-{world.live}.dump",
        "age": "3 h",
        "size": row["size"],
        "why": "command",
        "release": world.live,
        "rows": 4,
        "verified": "",
    }
    assert row["size"].endswith(" B")


# Restoring


def test_names_of_copies_fit_servers_and_are_those_of_one_database(site):
    """PostgreSQL would cut a longer one, and the copies of two databases would have the same name."""
    start = "accounting_of_the_department_of_printing"
    names = ["blog", f"{start}_books", f"{start}_wages", "ж" * 31]
    databases = [Database(site, name, "postgres", name) for name in names]
    found = loading.names_with(databases, f"restore_{loading.stamp()}")
    assert len({*found.values()}) == 4 and all(len(name.encode()) <= 63 for name in found.values())
    assert found["blog"].startswith("blog_restore_2")


def _in_twice(site):
    """Have the active release reach its database by a second alias, which comes before `default` in their order."""
    live = releases.linked(site, site.current)
    databases, migrations = live.facts["databases"], live.facts["migrations"]
    again = {"databases": {"archive": databases["default"], **databases}}
    live.update(facts={**live.facts, **again, "migrations": {"archive": migrations["default"], **migrations}})


def test_database_of_two_aliases_is_backed_up_and_restored_once(world, site, clock):
    _in_twice(site)
    (name,) = backup(site)
    assert name.startswith("default-")
    world.server.databases["blog"]["rows"]["public.guestbook_entry"] = 9
    done = verbs_backup.restore("blog")
    assert world.server.databases[done["kept"]["default"]]["rows"]["public.guestbook_entry"] == 9
    assert world.server.databases["blog"]["rows"] == ROWS
    assert verbs_backup.restore_drill("blog")["result"] == "good"


def test_backup_in_which_a_database_is_twice_is_restored_once(world, site, clock, monkeypatch):
    """One of before: the second exchange would rename what is restored over the former database."""
    _in_twice(site)
    with monkeypatch.context() as former:
        former.setattr(dumps, "distinct", list)
        assert len(backup(site)) == 2
    world.server.databases["blog"]["rows"]["public.guestbook_entry"] = 9
    done = verbs_backup.restore("blog")
    assert [*done["kept"]] == ["default"]
    assert world.server.databases[done["kept"]["default"]]["rows"]["public.guestbook_entry"] == 9
    world.server.databases["blog"]["rows"] = {}
    assert verbs_backup.restore("blog", names(site)[0])["kept"].keys() == {"archive"}


def test_databases_whose_aliases_differ_in_a_character_have_dumps_of_their_own(world, site, clock):
    live = releases.linked(site, site.current)
    databases, migrations = live.facts["databases"]["default"], live.facts["migrations"]["default"]
    aliases = ["site-a", "site_a"]
    facts = {"databases": {alias: {**databases, "name": alias} for alias in aliases}}
    live.update(facts={**live.facts, **facts, "migrations": dict.fromkeys(aliases, migrations)})
    for number, alias in enumerate(aliases, 1):
        world.server.databases[alias] = {"rows": {"public.page": number}, "migrations": []}
    backup(site)
    world.server.databases |= {alias: {"rows": {}, "migrations": []} for alias in aliases}
    verbs_backup.restore("blog")
    assert [world.server.databases[alias]["rows"]["public.page"] for alias in aliases] == [1, 2]


def test_database_that_is_called_media_is_restored_with_uploads(world, site, clock, monkeypatch):
    live, uploads = releases.linked(site, site.current), type(world.server)()
    databases, migrations = live.facts["databases"], live.facts["migrations"]
    more = {"databases": {**databases, "media": {**databases["default"], "name": "films"}}}
    live.update(facts={**live.facts, **more, "migrations": {**migrations, "media": migrations["default"]}})
    world.server.databases["films"] = {"rows": {"public.film": 2}, "migrations": []}
    uploads.suffix, uploads.databases = "tar", {str(site.media): {"rows": {"files": 1}, "migrations": []}}
    monkeypatch.setitem(backups.DUMPERS, "media", uploads)
    site.config["backup"]["media"] = True
    assert [name.partition("-2")[0] for name in backup(site)] == ["default", "media", "media_uploads"]
    world.server.databases["films"]["rows"], uploads.databases[str(site.media)]["rows"] = {}, {}
    assert {*verbs_backup.restore("blog", media=True)["kept"]} == {"default", "media", "media_uploads"}
    assert world.server.databases["films"]["rows"] == {"public.film": 2}
    assert uploads.databases[str(site.media)]["rows"] == {"files": 1}


def test_restore_refused_where_a_database_is_in_memory_now(world, site, clock):
    backup(site)
    live = releases.linked(site, site.current)
    live.update(facts={**live.facts, "databases": {"default": {"engine": "sqlite3", "name": ":memory:"}}})
    with pytest.raises(DeploymentError, match=f"{live.name} has no database 'default', which is in the backup"):
        verbs_backup.restore("blog")


def test_restore_exchanges_databases(world, site, clock):
    backup(site)
    world.server.databases["blog"]["rows"]["public.guestbook_entry"] = 5
    clock()
    answer = verbs_backup.restore("blog")
    kept = "blog_before_20260301t130000"
    assert world.server.databases["blog"]["rows"] == ROWS and set(world.server.databases) == {"blog", kept}
    assert world.server.databases[kept]["rows"]["public.guestbook_entry"] == 5
    assert answer["kept"] == {"default": kept} and kept in answer["note"]
    assert answer["rows"] == {"default": {"public.guestbook_entry": "5 before, 3 now"}}
    assert world.server.swapped == [("blog", True)] and not sites.known_maintenance(site)
    assert backups.overview(site)[0]["verified"] == "2026-03-01T13:00:00Z"
    world.check()


def test_maintenance_stays_on_after_restore(site, clock):
    backup(site)
    proxy_maintenance.on(site, by="Ada")
    clock()
    verbs_backup.restore("blog")
    assert sites.known_maintenance(site)


@pytest.mark.parametrize(
    ("which", "message"),
    [("nonsense", "restore: there is no backup nonsense of blog"), (None, "restore: blog has no backup")],
)
def test_restore_refused_without_backup(site, which, message):
    with pytest.raises(DeploymentError, match=message):
        verbs_backup.restore("blog", which)


def damaged(world, site):
    path = site.backups / backups.manifests(site)[0]["name"]
    path.write_bytes(path.read_bytes()[:-1] + b" ")


def truncated(world, site):
    os.truncate(site.backups / backups.manifests(site)[0]["name"], 5)


def undecodable(world, site):
    world.server.fails["load"] = dumps.Damaged("zstd cannot decompress it", log="checksum")


def other_rows(world, site):
    load = world.server.load

    def lossy(database, name, file, *_):
        found = load(database, name, file)
        return {**found, "rows": {**found["rows"], "public.auth_user": 0}}

    world.server.load = lossy


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        (damaged, "is damaged: it has changed since it was written on 2026-03-01T12:00:00Z"),
        (truncated, "is damaged: it has changed since it was written on 2026-03-01T12:00:00Z"),
        (undecodable, "is damaged: zstd cannot decompress it"),
        (other_rows, "is incomplete: public.auth_user has 0 rows, expected 1"),
        *[(what, "the server says no") for what in ("load", "check_swappable", "swap default")],
        ("lacking", "requires migrations that the backup does not have: guestbook.0002"),
    ],
)
def test_failed_restore_changes_nothing(world, site, clock, breaks, message):
    backup(site)
    world.server.databases["blog"]["rows"]["public.guestbook_entry"] = 5
    if callable(breaks):
        breaks(world, site)
    elif breaks == "lacking":
        world.lacking = {"default": ["guestbook.0002"]}
    else:
        world.server.fails[breaks] = DeploymentError("the server says no")
    clock()
    with pytest.raises(DeploymentError, match=message) as error:
        verbs_backup.restore("blog")
    assert error.value.hint.endswith(f"{world.live} still runs")
    assert set(world.server.databases) == {"blog"}
    assert world.server.databases["blog"]["rows"]["public.guestbook_entry"] == 5
    assert not sites.known_maintenance(site) and "verified" not in backups.find(site, None)[0]
    world.check()


def test_databases_exchanged_all_or_none(world, site, clock):
    live = releases.linked(site, site.current)
    said = {alias: {"engine": "postgresql", "name": name} for alias, name in (("default", "blog"), ("metrics", "m"))}
    nothing = {"applied": [], "pending": []}
    live.update(facts={**live.facts, "databases": said, "migrations": {"default": nothing, "metrics": nothing}})
    world.server.databases["m"] = {"rows": {"public.hits": 7}, "migrations": []}
    assert len(backup(site)) == 2
    for name in ("blog", "m"):
        world.server.databases[name]["rows"]["public.new"] = 1
    world.server.fails["swap default"] = DeploymentError("the server says no")
    clock()
    with pytest.raises(DeploymentError, match="the server says no"):
        verbs_backup.restore("blog")
    assert set(world.server.databases) == {"blog", "m"} and not sites.known_maintenance(site)
    assert all("public.new" in database["rows"] for database in world.server.databases.values())
    world.server.fails.clear()
    answer = verbs_backup.restore("blog", f"metrics-20260301T120000Z-{world.live}.dump")
    assert list(answer["kept"]) == ["metrics"] and "public.new" in world.server.databases["blog"]["rows"]


def test_maintenance_stays_when_restored_site_fails(world, site, clock):
    backup(site)
    clock()
    world.fails["enable"] = DeploymentError("no")
    with pytest.raises(DeploymentError) as error:
        verbs_backup.restore("blog")
    told = "the backup is restored; the former databases are in blog_before_20260301t130000"
    assert told in error.value.hint and "salt-call django.maintenance blog off" in error.value.hint
    assert sites.known_maintenance(site) and world.server.databases["blog"]["rows"] == ROWS


@pytest.mark.parametrize("is_named", [False, True])
def test_restore_that_has_waited_for_the_timer_looks_for_its_backup_then(world, site, clock, monkeypatch, is_named):
    """The backup of the timer is the newest one then, and `backup:keep` has had the former one deleted."""

    def lock(own, holder):
        if holder == releases.RESTORE and not newer:
            clock()
            newer.extend(backup(world.site))
        return real(own, holder)

    world.options = {"backup": {"keep": 1}}
    world.apply()
    former, newer, real = backup(world.site), [], backups.lock
    monkeypatch.setattr(backups, "lock", lock)
    if is_named:
        with pytest.raises(DeploymentError, match=f"there is no backup {former[0]} of blog"):
            verbs_backup.restore("blog", former[0])
    else:
        restored = verbs_backup.restore("blog")["restored"]["default"]
        assert restored.startswith(newer[0])
    assert names(site)[0] == newer[0] != former[0]


@pytest.fixture
def held(monkeypatch, site):
    """What becomes of a hold of the requests, and whether the maintenance page is shown then."""
    found = []
    hold = types.SimpleNamespace(end=lambda: found.append(sites.known_maintenance(site) is not None))
    monkeypatch.setattr(restore.waiting, "begin", lambda _site, _live, by: hold if by == "django.restore" else None)
    return found


def test_requests_wait_while_databases_are_exchanged(world, site, clock, held):
    backup(site)
    clock()
    verbs_backup.restore("blog")
    assert world.server.swapped == [("blog", False)] and held == [False] and not sites.known_maintenance(site)
    world.check()


def test_requests_that_wait_reach_the_site_where_the_exchange_fails(world, site, clock, held):
    backup(site)
    world.server.fails["swap default"] = DeploymentError("the server says no")
    clock()
    with pytest.raises(DeploymentError, match="the server says no"):
        verbs_backup.restore("blog")
    assert held == [False] and not sites.known_maintenance(site)
    world.check()


def test_requests_that_wait_get_the_page_when_restored_site_fails(world, site, clock, held):
    backup(site)
    clock()
    world.fails["enable"] = DeploymentError("no")
    with pytest.raises(DeploymentError, match="no"):
        verbs_backup.restore("blog")
    assert held == [True] and sites.known_maintenance(site)


def test_requests_do_not_wait_where_visitors_see_the_page(site, clock, held):
    backup(site)
    proxy_maintenance.on(site, by="Ada")
    clock()
    verbs_backup.restore("blog")
    assert held == [] and sites.known_maintenance(site)


def test_restore_with_rollback_activates_former_release(world, site, pending, clock):
    before = world.live
    pending("0002")
    world.apply()
    clock()
    answer = verbs_backup.restore("blog", rollback=True)
    assert world.live == answer["release"] == before and not sites.known_maintenance(site)
    world.check()
    assert world.apply() == {}


def test_restore_with_rollback_refused_when_release_is_gone(world, site, pending, clock):
    before = world.live
    pending("0002")
    world.apply()
    host_file.remove_tree(site.releases / before)
    with pytest.raises(DeploymentError, match=f"{before}, which the backup was made under, is not on this host") as no:
        verbs_backup.restore("blog", rollback=True)
    assert "migrate=True" in no.value.hint


def test_restore_with_rollback_refused_where_hosts_have_their_release_in_common(world, site, clock, monkeypatch):
    backup(site)
    monkeypatch.setattr(sites.Site, "has_common_release", True)
    with pytest.raises(DeploymentError, match="have their release in common") as no:
        verbs_backup.restore("blog", rollback=True)
    assert "salt-run django.rollback blog" in no.value.hint and backups.overview(site)


def test_restore_with_migrate_applies_migrations(world, site, clock):
    backup(site)
    world.lacking = {"default": ["guestbook.0002"]}
    clock()
    assert verbs_backup.restore("blog", migrate=True)["release"] == world.live


# The drill


def test_drill_loads_newest_backup(world, site, clock):
    backup(site)
    clock()
    answer = verbs_backup.restore_drill("blog")
    assert answer["result"] == "good" and answer["rows"] == {"default": 4} and answer["migrations to apply"] == {}
    assert set(world.server.databases) == {"blog"} and world.server.swapped == []
    assert backups.overview(site)[0]["verified"] == "2026-03-01T13:00:00Z"
    status = backups.status(site)
    assert status["backup"] == "2026-03-01T12:00:00Z"
    assert re.fullmatch(r"2026-03-01T13:00:00Z, \S+ s: good", status["restore_drill"])


def test_drill_lists_migrations_to_apply(world, site, clock):
    backup(site)
    world.lacking = {"default": ["guestbook.0002"]}
    assert verbs_backup.restore_drill("blog")["migrations to apply"] == world.lacking
    world.lacking = {"default": ["guestbook.0001"]}
    with pytest.raises(
        DeploymentError, match=r"migrations that the backup had when it was made are missing in it: guestbook\.0001"
    ):
        verbs_backup.restore_drill("blog")


@pytest.mark.parametrize("breaks", [damaged, other_rows, "load"])
def test_failed_drill_recorded(world, site, clock, breaks):
    backup(site)
    if callable(breaks):
        breaks(world, site)
    else:
        world.server.fails[breaks] = DeploymentError("the server says no")
    with contextlib.suppress(DeploymentError):
        verbs_backup.restore_drill("blog")
    assert set(world.server.databases) == {"blog"}
    assert " s: failed: " in backups.status(site)["restore_drill"]
    assert json.loads((site.backups / "drill.json").read_text())["backup"].startswith("20260301T")


def test_restore_refused_without_room(world, site, monkeypatch):
    from django_formula.backup.dumps import Database

    monkeypatch.setattr(dumps, "free", lambda folder: 10)
    world.server.is_path = True
    with pytest.raises(DeploymentError, match=r"restoring needs 0 MB in /\S+/database, and 0 are free"):
        loading._check_room({"size": 11}, Database(site, "default", "sqlite", str(site.database.top / "db.sqlite3")))


def test_migrate_command_makes_backup(world, site, clock):
    world.lacking = {"default": []}
    operations.migrate("blog")
    assert names(site) == []
    world.lacking = {"default": ["guestbook.0002"]}
    operations.migrate("blog")
    (about,) = backups.manifests(site)
    assert about["why"] == "migration"
    assert releases.linked(site, site.current).record["backups"] == [about["name"]]


# Leftovers of a killed restore


def test_database_of_killed_restore_removed_by_backup(world, site, clock, monkeypatch):
    backup(site)
    clock()
    live = releases.linked(site, site.current)
    with monkeypatch.context() as killed:
        killed.setattr(world.server, "drop", lambda *_: (_ for _ in ()).throw(SystemExit))
        killed.setattr(restore, "_check_schema", lambda *_: (_ for _ in ()).throw(SystemExit))
        with pytest.raises(SystemExit):
            restore.restore(site, live, None, secrets=[])
    assert [name for name in world.server.databases if "_restore_" in name]
    clock()
    backup(site)
    assert list(world.server.databases) == ["blog"] and not (site.backups / ".restore.json").exists()


def test_uploads_of_killed_restore_removed_by_apply(world, site):
    (site.media.top / "photo").write_text("a photo")
    entry = {"alias": "media", "kind": "media", "database": str(site.media.top)}
    names = {"name": f"{site.media.top}.restore_1", "kept": f"{site.media.top}.before_1"}
    site.media.top.rename(names["kept"])
    Path(names["name"]).mkdir()
    host_file.write_json(site.backups / ".restore.json", {"loaded": [{**entry, **names}]})
    changes = world.apply()["site"]
    assert changes["removed"] == f"leftovers of an interrupted restore: {names['name']}"
    assert (site.media.top / "photo").read_text() == "a photo" and not Path(names["name"]).exists()
    assert world.apply() == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"loaded": 7}', '{"loaded": [{"kind": "media"}]}'])
def test_damaged_restore_journal_ignored(world, site, text):
    (site.backups / ".restore.json").write_text(text)
    assert world.apply() == {}
    backup(site)
    assert not (site.backups / ".restore.json").exists()
