import os
import socket
import sys

import pytest
from django_formula.database import sqlite
from django_formula.deploy import preflight
from django_formula.host import daemons, disk, file, users
from django_formula.host.commands import DeploymentError
from django_formula.host.disk import Space
from django_formula.process import systemd
from django_formula.proxy import maintenance, nginx
from django_formula.release import health, instances
from django_formula.release.health import Finding
from django_formula.server import mod_wsgi
from django_formula.verbs import operations
from world import commit

ONE = f"0001-{commit('one')[:12]}"


@pytest.fixture
def two(world):
    """A site whose release is live, and a commit that is to be."""
    world.apply()
    world.push("two")
    return world


def refused(world, match):
    """A release is refused before anything is done, a dry run says so, and once the cause is gone it comes."""
    site = world.site
    releases, commands, numbers = world.releases, len(world.commands), site.deploys.read_text()
    with pytest.raises(DeploymentError, match=match) as caught:
        world.apply()
    assert caught.value.transient and caught.value.hint.endswith(f"{ONE} still runs")
    assert world.releases == releases
    started = [argv for argv in world.commands[commands:] if argv[:2] != ["nginx", "-t"]]
    assert started == [] and numbers in site.deploys.read_text()
    told = world.apply(test=True)["source"]["refused"]
    assert told.splitlines()[0] == caught.value.message.removeprefix("source: ")
    world.check_leftovers()
    return caught.value


# Python


def test_a_server_that_is_built_for_another_python_is_refused_before_anything_is_done(two, monkeypatch):
    two.options = {"server": {"kind": "mod_wsgi"}}
    monkeypatch.setattr(mod_wsgi.SERVER, "python", lambda site: "3.13")
    refused(two, r"^source: mod_wsgi of this system is built for Python 3\.13, and python3 is 3\.11\.2")
    monkeypatch.setattr(mod_wsgi.SERVER, "python", lambda site: "3.11")
    two.apply()
    assert two.live.startswith("0002-")


# Disk


def sized(world, release, virtualenv):
    live = world.deployment().live
    live.update(size={"release": release, "virtualenv": virtualenv})


@pytest.mark.parametrize(
    ("left", "requirements", "flag"),
    [
        (Space(20 << 20, 200), False, None),
        (Space((20 << 20) - 1, 200), False, "-h"),
        (Space(20 << 20, 199), False, "-i"),
        (Space(20 << 20, 200), True, "-h"),
        (Space(220 << 20, 2200), True, None),
        (Space(220 << 20, 2199), True, "-i"),
    ],
)
def test_a_disk_has_room_for_two_releases(two, monkeypatch, left, requirements, flag):
    sized(two, [10 << 20, 100], [100 << 20, 1000])
    monkeypatch.setattr(disk, "free", lambda path: left)
    if requirements:
        monkeypatch.setattr(
            "django_formula.source.commits.commit_difference",
            lambda site, old, new: {"files": 1, "requirements": {"requirements.txt": "+x"}},
        )
    if flag is None:
        assert "live" in two.apply()
        return
    error = refused(two, r"^source: the disk has \d+ MB and \d+ inodes left, and two releases .* take \d+ MB")
    assert f"df {flag} {two.site.root}; " in error.hint
    monkeypatch.setattr(disk, "free", lambda path: Space(1 << 40, 1 << 40))
    two.apply()
    two.check()


def test_the_virtualenv_is_asked_for_where_it_is_new(two, monkeypatch):
    """What a commit requires is known only when it is here."""
    sized(two, [10 << 20, 100], [100 << 20, 1000])
    monkeypatch.setattr(disk, "free", lambda path: Space(30 << 20, 10_000))
    two.options = {"python_packages": ["gunicorn"]}
    with pytest.raises(DeploymentError, match=r"^virtualenv: the disk has 30 MB and 10000 inodes left"):
        two.apply()
    assert two.live == ONE and list(two.releases) == [ONE]


def test_a_release_is_measured_once(two, monkeypatch):
    record = file.read_json(two.site.current / "release.json")
    size = record["size"]
    assert size["release"][1] > 10 and size["virtualenv"] == list(
        disk.of_tree(two.site.virtualenvs / record["virtualenv"])
    )
    measured, of_tree = [], disk.of_tree
    monkeypatch.setattr(disk, "of_tree", lambda path: (measured.append(path), of_tree(path))[1])
    two.apply()
    assert measured == [two.site.current.resolve()], "the virtualenv is the same"
    assert file.read_json(two.site.current / "release.json")["size"]["virtualenv"] == size["virtualenv"]
    operations.rollback("blog")
    assert len(measured) == 1


def test_a_first_release_and_one_of_before_are_not_refused(two, monkeypatch):
    monkeypatch.setattr(disk, "free", lambda path: Space(0, 0))
    live = two.deployment().live
    del live.record["size"]
    live.update()
    assert "live" in two.apply()


# Databases


def answering(world, **database):
    """The live release has a database such as this one."""
    live = world.deployment().live
    live.update(facts={**live.facts, "databases": {"default": {"engine": "django.db.backends.postgresql", **database}}})


def test_a_server_of_databases_that_is_down(two):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    answering(two, name="blog", host="127.0.0.1", port=str(port))
    error = refused(
        two, f"^source: the database 'default' of {ONE} is not available: 127.0.0.1:{port}: Connection refused"
    )
    assert "salt-call django.release blog" in error.hint
    with socket.create_server(("127.0.0.1", port)):
        two.apply()
    two.check()


@pytest.mark.parametrize("how", ["on the command line", "another database", "environment"])
def test_a_release_that_may_have_another_database_is_not_refused(two, how):
    answering(two, name="blog", host="127.0.0.1", port="1")
    if how == "environment":
        two.options = {"environment": {"DATABASE_HOST": "db2"}}
    elif how == "another database":
        two.options = {"database": {"engine": "postgres", "host": "db2", "name": "blog", "user": "blog"}}
    two.apply(again=how == "on the command line")
    assert two.live.startswith("0002-")


@pytest.mark.parametrize(
    ("engine", "host", "port", "listens", "problem"),
    [
        ("postgresql", "{folder}", "", ".s.PGSQL.5432", ""),
        ("postgresql", "{folder}", "5433", ".s.PGSQL.5433", ""),
        ("postgresql", "{folder}", "5433", ".s.PGSQL.5432", ""),
        ("postgresql", "127.0.0.1,{folder}", "1,5433", ".s.PGSQL.5433", ""),
        ("postgresql", "127.0.0.1,{folder}", "5499", ".s.PGSQL.5499", ""),
        ("postgresql", "{folder},127.0.0.1", "", ".s.PGSQL.5432", ""),
        ("postgresql", "127.0.0.1,127.0.0.2", "1", None, "127.0.0.2:1: Connection refused"),
        ("mysql", "{folder}/mysqld.sock", "", "mysqld.sock", ""),
        ("mysql", "localhost", "", None, ""),
        ("postgresql", "", "", None, ""),
        ("postgresql", "localhost", "none", None, ""),
        ("oracle", "db.example.org", "1521", None, ""),
        ("postgresql", "127.0.0.1", "1", None, "127.0.0.1:1: Connection refused"),
        ("mysql", "127.0.0.1", "1", None, "127.0.0.1:1: Connection refused"),
    ],
)
def test_where_a_server_listens(tmp_path, own_host, engine, host, port, listens, problem):
    with socket.socket(socket.AF_UNIX) as server:
        if listens:
            server.bind(str(tmp_path / listens))
            server.listen()
        database = {"engine": f"django.db.backends.{engine}", "host": host.format(folder=tmp_path), "port": port}
        assert preflight._server_problem(database) == problem
    if listens and listens.endswith(port) and "," not in host:
        assert "Connection refused" in preflight._server_problem(database), "it has been closed"


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("/run/{x}", ""),
        ("/run/{0.x}", "5433"),
        ("127.0.0.1", "99999"),
        ("127.0.0.1", "²"),
        (f"{'a' * 64}.example.org", ""),
    ],
)
def test_address_of_the_project_that_is_none_is_no_exception(host, port):
    database = {"engine": "django.db.backends.postgresql", "host": host, "port": port}
    assert isinstance(preflight._server_problem(database), str)


def test_a_sqlite_file_that_is_gone(two, tmp_path):
    path = tmp_path / "data" / "db.sqlite3"
    answering(two, engine="django.db.backends.sqlite3", name=str(path))
    refused(two, f"is not available: there is no file {path}")
    path.parent.mkdir()
    path.touch()
    two.apply()
    two.check()


@pytest.mark.parametrize(("mode", "owner", "well"), [(0o755, True, True), (0o755, False, False), (0o777, False, True)])
def test_a_folder_in_which_the_site_cannot_write(two, tmp_path, monkeypatch, mode, owner, well):
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(mode)
    (folder / "db.sqlite3").touch()
    real = users.user_id
    monkeypatch.setattr(users, "user_id", lambda name: real(name) if owner else 4242)
    problem = sqlite._problem(two.site, folder / "db.sqlite3")
    assert problem == ("" if well else f"blog cannot write in {folder}")
    (two.site.database.top / "db.sqlite3").touch()
    assert sqlite._problem(two.site, two.site.database.top / "db.sqlite3") == ""


def test_a_file_system_that_is_read_only(two, tmp_path, monkeypatch):
    (tmp_path / "db.sqlite3").touch()
    found = os.statvfs_result((4096, 4096, 100, 50, 40, 10, 5, 5, os.ST_RDONLY, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: found)
    problem = sqlite._problem(two.site, tmp_path / "db.sqlite3")
    assert problem == f"the file system of {tmp_path} is read-only"


def test_a_database_that_was_never_used_is_not_asked(two):
    live = two.deployment().live
    facts = {"databases": {"geo": {"engine": "django.db.backends.sqlite3", "name": "/none.sqlite3"}}, "migrations": {}}
    live.update(facts=live.facts | facts)
    two.apply()
    assert two.live.startswith("0002-")


# Whether anybody notices


@pytest.mark.parametrize(
    ("before", "then", "says"),
    [
        ({}, {}, "yes"),
        (
            {"server": {"bind": "127.0.0.1:8001"}},
            {"server": {"bind": "127.0.0.1:8001"}},
            "yes, with a reload of nginx: django:sites:blog:server:bind is an address; with unix a rename is enough",
        ),
        (
            {"server": {"kind": "mod_wsgi"}},
            {"server": {"kind": "mod_wsgi", "threads": 2}},
            "yes, with a reload of nginx: django:sites:blog:server:kind listens on ports; for another on a unix "
            "socket a rename is enough",
        ),
        (
            {"server": {"kind": "gunicorn", "threads": 2}, "proxy": {"keepalive": 8}},
            {"server": {"kind": "gunicorn", "threads": 2}},
            "yes, with a reload of nginx: django:sites:blog:proxy:keepalive keeps connections; without it a rename "
            "is enough",
        ),
        (
            {},
            {"server": {"protocol": "http"}},
            "yes, with a reload of nginx: it will reach the site by unix and http; the next release needs none over a "
            "unix socket",
        ),
        (
            {},
            {"releases": {"overlap": False}},
            "no: django:sites:blog:releases:overlap: false stops the live instance before the new one starts; "
            "true would not",
        ),
        (
            {},
            {"proxy": {"kind": "none"}, "server": {"bind": "0.0.0.0:8000"}},
            "no: django:sites:blog:proxy:kind: none removes the site from the proxy; visitors need 0.0.0.0:8000 then",
        ),
    ],
)
def test_whether_visitors_notice_is_said(world, before, then, says):
    world.options = before
    world.apply()
    world.push("two")
    world.options = then
    assert world.apply(test=True)["source"]["gapless"] == says
    assert world.apply()["source"]["gapless"] == says


def test_switch_behind_the_maintenance_page_is_gapless(two):
    maintenance.on(two.site, by="Ada")
    two.options = {"releases": {"overlap": False}}
    says = "yes, visitors get the maintenance page, before and after: django.maintenance blog off ends that"
    assert two.apply(test=True)["source"]["gapless"] == two.apply()["source"]["gapless"] == says
    maintenance.off(two.site)
    two.push("three")
    assert two.apply(test=True)["source"]["gapless"].startswith("no: ")


def test_who_does_not_serve_has_nothing_to_lose(two, monkeypatch):
    monkeypatch.setattr(daemons, "pid", lambda daemon: None)
    assert two.apply(test=True)["source"]["gapless"] == "no: nginx does not serve the site now"
    monkeypatch.setattr(systemd.MANAGER, "pid", lambda site, release, part="": None)
    assert two.apply(test=True)["source"]["gapless"] == f"no: {ONE} does not run"


# nginx


BROKEN = DeploymentError("x", log="nginx: [emerg] broken in /etc/nginx/sites-enabled/other:3")


def test_a_switch_that_reloads_needs_a_sane_nginx(two):
    two.options = {"server": {"bind": "127.0.0.1:8001"}}
    two.fails["nginx -t"] = BROKEN
    error = refused(two, "^source: nginx refuses its configuration: broken in /etc/nginx/sites-enabled/other:3")
    assert "correct that file" in error.hint
    two.fails.clear()
    two.apply()
    two.check()


def test_what_a_broken_neighbour_will_stop_is_said_before(two):
    two.options = {"media": {"max_upload": "5M"}}
    two.fails["nginx -t"] = BROKEN
    changes = two.apply(test=True)
    assert changes["source"]["warnings"] == [
        "nginx refuses its configuration: broken in /etc/nginx/sites-enabled/other:3; the release is activated without "
        "a reload, and the proxy's files of the site stay unchanged"
    ]
    with pytest.raises(DeploymentError, match=r"^proxy: nginx refuses"):
        two.apply()
    assert two.live.startswith("0002-")


def test_switch_by_rename_does_not_check_nginx(two):
    two.fails["nginx -t"] = BROKEN
    two.apply()
    two.check()
    assert [argv for argv in two.commands if argv[0] == "nginx"] == [["nginx", "-t", "-q"]], "of the first release"


def test_a_file_in_the_way_is_left_to_the_step_that_says_it(two):
    two.options = {"redirect_domains": ["old.example.org"]}
    path = nginx.ETC / "sites-available/old.example.org"
    path.write_text("mine")
    with pytest.raises(DeploymentError, match=r"^site: .*old\.example\.org is in the way"):
        two.apply()


# Who is at it


def test_a_dry_run_says_who_has_the_lock(two):
    other = two.deployment()
    assert other.lock.holder() == "" and "waits_for" not in two.apply(test=True)["source"]
    other.lock.take()
    holder = two.apply(test=True)["source"]["waits_for"]
    assert holder.startswith(f"a test, pid {os.getpid()}, since ")
    other.lock.release()
    assert other.lock.holder() == ""


def test_a_lock_that_was_never_taken_has_no_holder(make_site):
    assert make_site().lock("x").holder() == ""


# Before the switch


def test_a_server_that_does_not_stay_up_is_no_server(two, monkeypatch):
    monkeypatch.undo()
    pids = iter([1, 2])
    monkeypatch.setattr(instances, "pid", lambda site, release: next(pids))
    monkeypatch.setattr(health, "find", lambda site, release, deadline: Finding(""))
    monkeypatch.setattr(systemd.MANAGER, "journal", lambda site, release, since, part="": "Killed")
    with pytest.raises(DeploymentError) as caught:
        health.check(two.site, two.site.releases / ONE)
    assert caught.value.message == (f"the application server of {ONE} exited during its health check")
    assert caught.value.log == "Killed" and "journalctl -u django-blog-0001" in caught.value.hint


def test_every_limit_has_a_size():
    assert str(Space(5 << 20, 7)) == "5 MB and 7 inodes" and sys.maxsize > 1 << 40
