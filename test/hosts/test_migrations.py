"""Migrations on servers: one at a time, behind nobody's lock, judged before they are run; and going back from them."""

import threading
import time

import pytest
import servers
from client import Writer
from faults import provoked
from sites import Site, lines

PASSWORD = "grenadier-7f3"
ROLES = f"""
CREATE ROLE blog LOGIN PASSWORD '{PASSWORD}';
CREATE DATABASE blog OWNER blog;
"""
USERS = f"""
CREATE USER shop@localhost IDENTIFIED BY '{PASSWORD}';
CREATE DATABASE shop CHARACTER SET utf8mb4;
GRANT ALL ON shop.* TO shop@localhost;
"""
MIGRATION = """
import time
from django.db import migrations, models

def slow(apps, editor):
    apps.get_model("guestbook", "Entry").objects.create(name="made by a migration", message="x")
    time.sleep(7)

class Migration(migrations.Migration):
    dependencies = [("guestbook", "{after}")]
    operations = [{operation}]
"""
NOTE = "migrations.AddField('entry', 'note', models.CharField(max_length=9, null=True))"
SLOW = "migrations.RunPython(slow, migrations.RunPython.noop)"
REMARK = "migrations.RenameField('entry', 'note', 'remark')"
GONE = "migrations.RemoveField('entry', 'note')"
HALF = "migrations.RunSQL('CREATE TABLE ledger (id integer)'), migrations.RunSQL('SELECT 1/0')"
WHOLE = "migrations.RunSQL('CREATE TABLE ledger (id integer)')"
MADE = "from guestbook.models import Entry; print(Entry.objects.filter(name='made by a migration').count())"
#: Who has read and now takes its time, as each server says it.
SLEEPS = {
    "blog": """runuser -u postgres -- psql -tAc "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'" """,
    "shop": """mariadb -BNe "SELECT id FROM information_schema.processlist WHERE state = 'User sleep'" """,
}

MOOD = (
    "migrations.AddField('entry', 'mood', models.CharField(max_length=9, default='fine')), "
    "migrations.AddField('entry', 'seen', models.DateTimeField(auto_now=True))"
)
WIDER = "migrations.AlterField('entry', 'mood', models.CharField(max_length=20, default='fine'))"
WITHOUT = (
    "from django.db import connection as c; k = c.cursor(); "
    "k.execute('SELECT count(*) FROM guestbook_entry WHERE mood <> %s', ['fine']); "
    "print(k.fetchone()[0])"
)


#: Sites on PostgreSQL and on MariaDB; the second is one of the long products.
NAMES = ["blog", pytest.param("shop", marks=pytest.mark.full)]


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(kind="ready")
    servers.set_up(host, postgres=ROLES)
    database = {"engine": "postgres", "host": "127.0.0.1", "password": PASSWORD}
    blog = Site(host, repositories(host), database=database)
    blog.deploy()
    return blog


@pytest.fixture(scope="module")
def shop(blog, repositories) -> Site:
    """Another site of the host, on MariaDB."""
    servers.set_up(blog.host, mysql=USERS)
    database = {"engine": "mysql", "host": "127.0.0.1", "password": PASSWORD}
    shop = Site(blog.host, repositories(blog.host, "/srv/git/shop.git"), name="shop", neighbour=blog, database=database)
    shop.deploy()
    return shop


def add(site: Site, name: str, operation: str, after: str) -> None:
    text = MIGRATION.format(after=after, operation=operation)
    site.repository.commit({f"guestbook/migrations/{name}.py": text})


def verb(site: Site, *words: str) -> str:
    """Return what a verb prints on the command line, whether it fails or not."""
    return site.host.salt(*words).stdout


def migrating(site: Site, times: int) -> list[str]:
    """What `django.manage migrate` prints, so many times at once."""
    said: list[str] = []
    threads = [
        threading.Thread(target=lambda: said.append(verb(site, "django.manage", site.name, "migrate")))
        for _ in range(times)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return said


def begin_to_read(site: Site) -> None:
    """Start a client that reads the table of entries in a transaction that takes its time; return once it has read."""
    sleep = "pg_sleep" if site.name == "blog" else "SLEEP"
    sql = f"BEGIN; SELECT count(*) FROM guestbook_entry WHERE name = 'Ada Lovelace'; SELECT {sleep}(600)"
    argv = ["mariadb", "--user=shop", f"--password={PASSWORD}", "--host=127.0.0.1", "shop", "-e", sql]
    if site.name == "blog":
        login = [f"PGPASSWORD={PASSWORD}", "PGAPPNAME=report"]
        argv = ["env", *login, "psql", "--host=127.0.0.1", "--username=blog", "blog", f"--command={sql}"]
    ends = "--property=KillSignal=SIGINT"  # at which it takes its query back; else the server would go on with it
    site.host.run(["systemd-run", "--quiet", "--collect", "--unit=reader", ends, "--", *argv])
    site.host.run(f'until [ "$({SLEEPS[site.name]})" ]; do sleep 0.2; done')


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.full
def test_requests_served_while_migration_waits_for_lock(request, name):
    site: Site = request.getfixturevalue(name)
    old = site.live
    add(site, "0004_note", NOTE, "0003_entry_hidden")
    begin_to_read(site)
    migrate = {"lock_timeout": "500ms" if name == "blog" else "1s"}
    try:
        comment = site.apply(migrate=migrate).failed[f"{name} has its database migrated"]
        assert site.get().status_code == 200 and site.answering["release"] == old
    finally:
        site.host.run("systemctl stop reader")
    holds = "(report, blog, " if name == "blog" else "(shop, localhost"
    assert "guestbook.0004_note: waited 5 times" in comment and holds in comment, comment
    assert "SLEEP" in comment.upper() and "Lovelace" not in comment and PASSWORD not in comment
    assert lines(comment) <= 10 and f"{old} still runs" in comment
    site.deploy(migrate=None)
    assert site.live != old
    (said,) = [one for one in site.record()["schema"]["default"] if one["name"] == "guestbook.0004_note"]
    (operation,) = said["operations"]
    lock = {"blog": "ACCESS EXCLUSIVE", "shop": "EXCLUSIVE"}[name]
    assert operation["lock"] == f"{lock} on guestbook_entry for a moment" and "ADD COLUMN" in operation["sql"]
    assert not site.apply().changed


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.full
def test_killed_migration_releases_lock(request, name):
    site: Site = request.getfixturevalue(name)
    add(site, "0005_slow", SLOW, "0004_note")
    applied = site.deploy(migrate={"run": False})
    assert "guestbook.0005_slow" in str(applied.warnings)
    first = threading.Thread(target=migrating, args=(site, 1))
    first.start()
    while not site.host.run(["pgrep", "-f", "bin/python [^ ]*/django_formula_migrate.py"], check=False).stdout:
        time.sleep(0.1)
    time.sleep(4)
    site.host.run(["pkill", "-KILL", "-f", "bin/python [^ ]*/django_formula_migrate.py"])
    first.join()
    said = migrating(site, 2)
    assert sorted("Applying guestbook.0005_slow" in text for text in said) == [False, True], said
    assert site.manage(f'shell -c "{MADE}"').splitlines()[-1] == "1"
    site.configure(migrate=None)


@pytest.mark.full
def test_breaking_migration_refused(blog):
    old = blog.live
    add(blog, "0006_remark", REMARK, "0005_slow")
    comment = blog.apply().failed["blog has its database migrated"]
    assert "guestbook.0006_remark: RenameField guestbook.Entry.note" in comment and "unsafe: maintenance" in comment
    assert lines(comment) <= 10 and f"{old} still runs" in comment
    assert "0006" not in blog.manage("showmigrations guestbook") and blog.answering["release"] == old
    blog.deploy(migrate={"unsafe": "maintenance"})
    assert blog.live != old and blog.get().status_code == 200


@pytest.mark.full
def test_rollback_to_former_release(blog):
    before = [name for name in blog.releases if blog.record(name)["state"] == "good"][-2]
    told = verb(blog, "django.rollback", "blog")
    assert "reversible: guestbook.0006_remark renamed guestbook.Entry.note" in told and blog.live != before
    told = verb(blog, "django.rollback", "blog", "migrate=True")
    assert blog.live == before and '"taken_back": true' in told, told
    assert "[ ] 0006_remark" not in blog.manage("showmigrations guestbook")
    assert blog.get().status_code == 200
    told = verb(blog, "django.rollback", "blog", before[:4].lstrip("0"))
    assert f"{before} is live" in told

    blog.repository.commit({"guestbook/migrations/0006_remark.py": None})
    add(blog, "0006_gone", GONE, "0005_slow")
    blog.deploy()
    latest = blog.live
    told = verb(blog, "django.rollback", "blog")
    assert "unsafe: guestbook.0006_gone removed guestbook.Entry.note" in told and blog.live == latest
    assert "django.restore blog default-" in told
    assert verb(blog, "django.rollback", "blog", "migrate=True") == told

    blog.repository.commit({"note": "nothing about the database"})
    blog.deploy()
    told = verb(blog, "django.rollback", "blog")
    assert blog.live == latest and '"schema": "safe"' in told


@pytest.mark.full
def test_migration_that_fails_in_part_names_what_was_applied(blog):
    old, recorded = blog.live, blog.manage("showmigrations guestbook")
    add(blog, "0007_ledger", HALF, "0006_gone")
    comment = blog.apply().failed["blog has its database migrated"]
    assert "guestbook.0007_ledger" in comment and "division by zero" in comment and f"{old} still runs" in comment
    assert lines(comment) <= 10 and blog.answering["release"] == old == blog.live
    assert blog.manage("showmigrations guestbook") == recorded, "nothing of it is recorded"
    add(blog, "0007_ledger", WHOLE, "0006_gone")
    blog.deploy()
    assert "[X] 0007_ledger" in blog.manage("showmigrations guestbook"), "no table of the first attempt was in the way"


@pytest.mark.full
def test_new_columns_lose_no_entry_of_former_release(blog):
    """They are NOT NULL, and the former release does not write them: their defaults stay in the database."""
    old = blog.live
    add(blog, "0008_mood", MOOD, "0007_ledger")
    add(blog, "0009_wider", WIDER, "0008_mood")
    blog.configure(migrate=None)
    with Writer(f"http://{blog.host.address}", blog.domain, pause=0.02) as writer:
        time.sleep(1)
        applied = blog.deploy()
        told = verb(blog, "django.rollback", "blog")
        time.sleep(1)
    assert writer.refused == [] and len(writer.acknowledged) > 20
    assert '"schema": "safe"' in told and blog.live == old and not applied.failed
    newest = max(blog.releases)
    schema = blog.record(newest)["schema"]["default"]
    assert [(one["name"], one["class"]) for one in schema] == [
        ("guestbook.0008_mood", "safe"),
        ("guestbook.0009_wider", "safe"),
    ]
    assert schema[0]["operations"][0]["default"] == "'fine'" and blog.record(newest)["migrated"][0] == schema[0]["name"]
    assert blog.manage(f'shell -c "{WITHOUT}"').splitlines()[-1] == "0"


@pytest.mark.full
def test_release_fails_when_server_stops_before_health_check(blog):
    old = blog.live
    blog.repository.commit({"note": "all the same"})
    away = provoked(blog.host, "instance", "first", "systemctl stop postgresql")
    try:
        comment = blog.host.apply(environment=away).failed["blog has its instance"]
    finally:
        blog.host.run("systemctl start postgresql")
    assert "returned 503" in comment and f"{old} still runs" in comment and lines(comment) <= 10
    assert blog.live == old and blog.get().status_code == 200 and blog.answering["release"] == old
    blog.host.call("django.release", "blog")
    assert blog.live != old and blog.get().status_code == 200
    assert not blog.apply().changed
