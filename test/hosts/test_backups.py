"""Backups of SQLite, PostgreSQL and MariaDB: before migrations, by command, by timer; restored under load."""

import json
import re
import time
from pathlib import PurePosixPath
from typing import Any

import pytest
import servers
from client import Load
from sites import Site, version

PASSWORD = 'grenadier-7f3 p@s:s/w%20#?+"$x\\'
#: A page that writes, and says what it has written.
NOTE = """

def note(request):
    entry = Entry.objects.create(name=__import__("uuid").uuid4().hex, message="(1), '2'\\n\\\\ ä \\";")
    return HttpResponse(entry.name)
"""
MIGRATION = """
from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [("guestbook", "{before}")]
    operations = [migrations.CreateModel("{model}", [("id", models.BigAutoField(primary_key=True))])]
"""
ROLES = f"""
CREATE ROLE blog LOGIN PASSWORD '{PASSWORD}';
CREATE DATABASE blog OWNER blog;
REVOKE CONNECT ON DATABASE blog FROM PUBLIC;
"""
USERS = f"""
CREATE USER blog@localhost IDENTIFIED BY '{PASSWORD.replace(chr(92), chr(92) * 2)}';
CREATE DATABASE blog CHARACTER SET utf8mb4;
GRANT ALL ON blog.* TO blog@localhost;
"""
DATABASES: dict[str, Any] = {
    "sqlite": {"engine": "sqlite"},
    "postgres": {"engine": "postgres", "host": "127.0.0.1", "password": PASSWORD},
    "mysql": {"engine": "mysql", "host": "127.0.0.1", "password": PASSWORD},
}
#: MySQL is one of the long products, and so are the longest tests on more than one engine.
ENGINES = ["sqlite", *(pytest.param(name, marks=pytest.mark.full) for name in ("postgres", "mysql"))]
#: The place of each, which another engine replaces with an empty one.
PLACES = {"sqlite": "sqlite:////srv/django/blog/database/db.sqlite3", "postgres": "postgres:///blog"}
ENDS = {"sqlite": "sqlite3", "postgres": "dump.zst", "mysql": "sql.zst"}
#: Where zstd is not installed, and the first bytes then.
WITHOUT_ZSTD = {"postgres": ("dump", b"PGDMP"), "mysql": ("sql.gz", b"\x1f\x8b")}


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(kind="live")
    site = Site(host, repositories(host))
    views, urls = (site.repository.read(f"guestbook/{name}") for name in ("views.py", "urls.py"))
    urls = urls.replace("urlpatterns = [", 'urlpatterns = [path("note", views.note),')
    site.repository.commit({"guestbook/views.py": views + NOTE, "guestbook/urls.py": urls})
    return site


@pytest.fixture(scope="module")
def postgres(blog) -> None:
    """Install the server."""
    servers.set_up(blog.host, postgres=ROLES)


@pytest.fixture(scope="module")
def mysql(blog) -> None:
    """Install the server."""
    servers.set_up(blog.host, mysql=USERS)


@pytest.fixture(scope="module", params=ENGINES)
def engine(blog, request) -> str:
    """A kind of database that the site has from now on, with three entries."""
    former = (blog.options.get("database") or DATABASES["sqlite"])["engine"]  # a part may begin with any of them
    if request.param != "sqlite":
        request.getfixturevalue(request.param)
    blog.deploy(
        database={**DATABASES[request.param], "replaces": None if former == request.param else PLACES.get(former)}
    )
    for _ in range(3):
        assert blog.get("/note").status_code == 200
    return str(request.param)


def backups(blog: Site, **options: Any) -> list[dict[str, Any]]:
    return list(blog.host.call("django.backups", "blog", **options))


def manifest(blog: Site, name: str) -> dict[str, Any]:
    return dict(json.loads(blog.host.read(f"{blog.root}/backups/{name}.json")))


def entries(blog: Site) -> set[str]:
    """The entries that the site has."""
    program = "from guestbook.models import Entry; print(*Entry.objects.values_list('name', flat=True))"
    return set(str(blog.manage(f'shell -c "{program}"')).splitlines()[-1].split())


def entries_kept(blog: Site, engine: str, kept: str) -> set[str]:
    """The entries of a database that was kept aside."""
    query = "SELECT name FROM guestbook_entry"
    program = f"import sqlite3; [print(*row) for row in sqlite3.connect('{kept}').execute('{query}')]"
    argv = {
        "sqlite": ["python3", "-c", program],
        "postgres": ["runuser", "-u", "postgres", "--", "psql", "-tA", f"--dbname={kept}", f"--command={query}"],
        "mysql": ["mariadb", "-Ne", query, kept],
    }
    return set(blog.host.run(argv[engine]).stdout.split())


def migrate(blog: Site, engine: str) -> str:
    """Commit and deploy a migration; returns its name."""
    folder = blog.repository.worktree / "guestbook/migrations"
    before = max(path.stem for path in folder.glob("0*.py"))
    name = f"{int(before[:4]) + 1:04d}_{engine}"
    text = MIGRATION.format(before=before, model=f"Mood{engine}")
    blog.repository.commit({f"guestbook/migrations/{name}.py": text} | version(name))
    blog.deploy()
    return name


def test_no_backup_before_first_migration(blog, engine):
    assert not [one for one in backups(blog) if one["backup"].endswith(ENDS[engine])]


def test_backup_made_by_command(blog, engine):
    answer = blog.host.call("django.backup", "blog")
    (path,) = answer["made"]
    name = PurePosixPath(path).name
    assert re.fullmatch(rf"default-\d{{8}}T\d{{6}}Z-{blog.live}\.{ENDS[engine]}", name)
    file = blog.host.testinfra.file(path)
    assert (file.user, file.mode, file.size > 1000) == ("root", 0o600, True)
    about = manifest(blog, name)
    rows = {name.split(".")[-1]: number for name, number in about["rows"].items()}
    assert rows["guestbook_entry"] == 3 and rows["django_migrations"] == len(about["migrations"]) > 15
    assert rows["django_session"] == 0 and about["why"] == "command" and about["engine"] == engine
    told = backups(blog)[0]
    assert told["backup"] == name and told["rows"] == sum(rows.values()) and told["verified"] == ""
    assert not blog.apply().changed


def test_loading_refused_when_role_cannot_create_databases(blog, engine):
    if engine == "sqlite":
        pytest.skip("has no roles")
    for verb in ("restore", "restore_drill"):
        done = blog.host.salt(f"django.{verb}", "blog")
        told = json.loads(done.stdout)["local"]
        assert done.returncode == 1 and "blog may not create databases on its server" in told, told
    grant = re.search(r"there: (.*;)$", told, re.MULTILINE)
    assert grant and blog.get().status_code == 200
    client = {"postgres": ["runuser", "-u", "postgres", "--", "psql"], "mysql": ["mariadb"]}[engine]
    blog.host.run(client, stdin=grant[1])


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_restore_under_load(blog, engine):
    """What was written until the site was stopped is in the restored database or in the one that is kept: all of it."""
    live, backup = blog.live, backups(blog)[0]["backup"]
    saved = entries(blog)
    url = f"http://{blog.host.address}/note"
    with Load(url, blog.domain, connections=2, pause=0.05, release=lambda body: body.decode()[:40]) as load:
        load.wait(10)
        answer = blog.host.call("django.restore", "blog")
        load.wait(10)
    assert answer["restored"]["default"].startswith(backup) and answer["release"] == live == blog.live
    written = {(answer.time, str(answer.release)) for answer in load.answers if answer.status == 200}
    refused = [answer for answer in load.answers if answer.status not in (200, 503)]
    assert not refused, refused[:3]
    kept = entries_kept(blog, engine, answer["kept"]["default"])
    now = entries(blog)
    first = min(moment for moment, one in written if one in now - saved)
    before, after = ({one for moment, one in written if (moment < first) == early} for early in (True, False))
    assert saved <= now and before <= kept and after <= now and len(before) > 5 and len(after) > 5
    assert answer["kept"]["default"] in answer["note"]
    told = [text for name, text in answer["rows"]["default"].items() if name.endswith("guestbook_entry")]
    assert told == [f"{len(kept)} before, {len(saved)} now"]
    assert backups(blog)[0]["verified"] and not blog.apply().changed
    assert blog.host.salt("django.maintenance", "blog").returncode == 0 and blog.get().status_code == 200


def test_drill_loads_newest_backup(blog, engine):
    answer = blog.host.call("django.restore_drill", "blog")
    assert answer["result"] == "good" and answer["rows"]["default"] > 15 and answer["migrations to apply"] == {}
    (status,) = blog.host.call("django.status", "blog")
    assert re.fullmatch(rf"{answer['date']}, \S+ s: good", status["restore_drill"]) and status["backup"]
    listed = {
        "sqlite": f"ls {blog.root}/database",
        "postgres": "runuser -u postgres -- psql -tAc 'SELECT datname FROM pg_database'",
        "mysql": "mariadb -Ne 'SHOW DATABASES'",
    }
    left = blog.host.run(listed[engine]).stdout
    assert "drill" not in left and "restore" not in left


def test_backup_without_zstd_is_what_it_was(blog, engine):
    """As between an upgrade of the formula and the next apply."""
    if engine == "sqlite":
        pytest.skip("is not compressed")
    before = backups(blog)[0]["backup"]
    blog.host.run("mv /usr/bin/zstd /usr/bin/zstd.away")
    (path,) = blog.host.call("django.backup", "blog")["made"]
    refused = json.loads(blog.host.salt("django.restore", "blog", before).stdout)["local"]
    blog.host.run("mv /usr/bin/zstd.away /usr/bin/zstd")
    assert "zstd is not installed" in refused and "django:sites:blog:packages: [zstd], then apply" in refused
    end, first = WITHOUT_ZSTD[engine]
    name = PurePosixPath(path).name
    begins = blog.host.run(f"head -c {len(first)} {path} | od -An -tx1").stdout
    assert name.endswith(f"{blog.live}.{end}") and bytes.fromhex(begins) == first
    assert [one["backup"] for one in backups(blog)][:2] == [name, before] and before.endswith(ENDS[engine])
    for which in (name, before):
        assert blog.host.call("django.restore", "blog", which)["restored"]["default"].startswith(which)
    blog.host.call("django.backup", "blog")


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_backup_before_migration_restores_former_release(blog, engine):
    before, known = blog.live, {one["backup"] for one in backups(blog)}
    name = migrate(blog, engine)
    (made,) = {one["backup"] for one in backups(blog)} - known
    assert blog.record()["backups"] == [made]
    about = manifest(blog, made)
    assert about["why"] == "migration" and about["release"] == before
    assert f"guestbook.{name}" not in about["migrations"]
    migrated = blog.live
    refused = json.loads(blog.host.salt("django.restore", "blog", made).stdout)["local"]
    assert f"requires migrations that the backup does not have: guestbook.{name}" in refused and blog.live == migrated
    assert blog.host.call("django.restore_drill", "blog")["migrations to apply"] == {"default": [f"guestbook.{name}"]}
    answer = blog.host.call("django.restore", "blog", made, rollback=True)
    assert answer["release"] == before == blog.live == blog.answering["release"]
    back = blog.host.call("django.restore", "blog", made, migrate=True)
    assert back["release"] == before and blog.get("/note").status_code == 200
    blog.host.call("django.release", "blog")
    assert blog.answering["version"] == name and not blog.apply().changed


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "sqlite"], indirect=True)
def test_password_appears_nowhere(blog, engine):
    """Not on a command line of anybody, sampled while a backup is made and restored; not in a log or a manifest."""
    sample = "for i in $(seq 20000); do cat /proc/[0-9]*/cmdline; sleep 0.01; done"
    watch = f"({sample}) > /tmp/lines 2>/dev/null </dev/null & echo $!"
    number = blog.host.run(watch).stdout.strip()
    blog.host.call("django.backup", "blog")
    blog.host.call("django.restore_drill", "blog")
    blog.host.run(f"kill {number} || true")
    seen = blog.host.run(
        "tr '\\0' ' ' < /tmp/lines | grep -cE 'pg_dump|mariadb-dump|/proc/self/fd'", check=False
    ).stdout
    assert int(seen) > 0
    found = blog.host.run(
        f"grep -rlaF grenadier-7f3 /tmp/lines {blog.root}/backups {blog.root}/deploys.jsonl /var/log; "
        "journalctl --no-pager | grep -F grenadier-7f3",
        check=False,
    )
    assert found.stdout == ""


@pytest.mark.full
def test_damaged_backup_detected(blog):
    blog.deploy(database=DATABASES["sqlite"])
    blog.host.call("django.backup", "blog")
    name = backups(blog)[0]["backup"]
    path = f"{blog.root}/backups/{name}"
    blog.host.run(f"cp -a {path} /root/whole")
    live = blog.answering["release"]
    for damage in (f"printf x | dd of={path} bs=1 seek=200 conv=notrunc status=none", f"truncate -s -1 {path}"):
        blog.host.run(damage)
        for verb in ("restore", "restore_drill"):
            done = blog.host.salt(f"django.{verb}", "blog")
            assert done.returncode == 1 and f"the backup {name} is damaged" in done.stdout
    (status,) = blog.host.call("django.status", "blog")
    assert " s: failed: the backup" in status["restore_drill"] and blog.answering["release"] == live
    blog.host.run(f"cp -a /root/whole {path}")


@pytest.mark.full
def test_refused_when_disk_has_not_enough_room(blog):
    blog.host.run(["mkdir", "/srv/small"])
    blog.host.mount("-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", "/srv/small")
    blog.apply(backup={"directory": "/srv/small"}, database=DATABASES["sqlite"])
    live = blog.live
    done = blog.host.salt("django.backup", "blog")
    told = json.loads(done.stdout)["local"]
    assert done.returncode == 1 and re.search("a backup needs .* kB in /srv/small/blog, and .* kB are free", told)
    assert "django:sites:blog:backup:directory" in told
    folder = blog.repository.worktree / "guestbook/migrations"
    before = max(path.stem for path in folder.glob("0*.py"))
    text = MIGRATION.format(before=before, model="Small")
    blog.repository.commit({"guestbook/migrations/0009_small.py": text})
    comment = blog.apply().failed["blog has its database migrated"]
    assert "a backup needs" in comment and f"{live} still runs" in comment and blog.live == live
    assert blog.host.run("ls -A /srv/small/blog | grep -v lock", check=False).stdout == ""


@pytest.mark.full
def test_timer_makes_backups_without_salt(blog):
    blog.deploy(backup={"schedule": "*:*:00/5", "keep": 2, "media": True})
    assert not blog.apply().changed
    blog.host.run(f"install -o blog -g www-data -m 0640 /etc/hostname {blog.root}/media/upload.txt")
    limit = time.monotonic() + 300
    while not {"default", "media"} <= {one["backup"].split("-")[0] for one in backups(blog) if one["why"] == "timer"}:
        assert time.monotonic() < limit, blog.host.run("journalctl -u django-blog-backup", check=False).stdout
        time.sleep(1)
    blog.deploy(backup={"schedule": "daily", "keep": 2, "media": True})
    made = blog.host.run(
        "systemctl start django-blog-backup; journalctl --sync; journalctl -u django-blog-backup | tail -5"
    ).stdout
    assert f"{blog.root}/backups/default-" in made
    rated = blog.host.run(["systemd-analyze", "security", "--no-pager", "django-blog-backup.service"]).stdout
    assert float(re.findall(r"exposure level for \S+: ([0-9.]+)", rated)[0]) <= 2.5, rated
    assert len({one["backup"].split("-")[1] for one in backups(blog) if one["why"] != "migration"}) == 2
    assert "django-blog-backup.timer" in blog.host.run("systemctl list-timers").stdout


@pytest.mark.full
def test_uploads_restored_on_request(blog):
    name = next(one["backup"] for one in backups(blog) if one["backup"].startswith("media-"))
    which = name.removeprefix("media-").removesuffix(".tar")
    blog.host.run(f"rm {blog.root}/media/upload.txt; touch {blog.root}/media/since.txt")
    assert list(blog.host.call("django.restore", "blog", which)["kept"]) == ["default"]
    answer = blog.host.call("django.restore", "blog", which, media=True)
    assert blog.get("/media/upload.txt").status_code == 200 and blog.get("/media/since.txt").status_code == 404
    assert blog.host.testinfra.file(f"{answer['kept']['media']}/since.txt").exists


@pytest.mark.full
def test_removal_keeps_backups(blog):
    blog.deploy(state="absent")
    assert blog.host.run(f"ls /etc/systemd/system {blog.root}").stdout.count("backup") == 1
    assert blog.host.run(f"ls {blog.root}/backups").stdout.count("default-") > 4
