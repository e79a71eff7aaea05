"""PostgreSQL of a host becomes a newer version with the sites that have databases there, and goes back."""

import http.client
import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest
from client import Load, Writer
from lab import Host, Result
from sites import AFTER_RESTART, Site, release_of, until

pytestmark = pytest.mark.full

#: A cluster of Debian 12 on a host with Debian 13, as an upgrade of Debian leaves it.
FORMER = """
set -eu
export DEBIAN_FRONTEND=noninteractive
get="apt-get -qq --option=Dpkg::Use-Pty=0"
echo 'deb http://deb.debian.org/debian bookworm main' >/etc/apt/sources.list.d/bookworm.list
printf 'Package: *\\nPin: release n=bookworm*\\nPin-Priority: 100\\n' >/etc/apt/preferences.d/bookworm
$get update >/dev/null
$get install --no-install-recommends postgresql-15 >/dev/null
"""
#: A program that says when it is called, and waits before it does what it is for.
_SLOW = """#!/bin/sh
case "$*" in {pattern}) touch /tmp/called; sleep 4;; esac
exec {program}.real "$@"
"""
ROWS = "SELECT 'a' || g, repeat('x', 200), now(), '', false FROM generate_series(1, 20000) g"
SUM = "SELECT count(*), sum(hashtext(t::text)) FROM guestbook_entry t WHERE name LIKE 'a%'"
INSERT = "INSERT INTO guestbook_entry (name, message, created, attachment, hidden)"


class Sites(NamedTuple):
    """Two sites of one cluster."""

    blog: Site
    shop: Site

    @property
    def host(self) -> Host:
        return self.blog.host

    def upgrade(self, *arguments: str, **options: Any) -> Any:
        return self.host.call("django.upgrade_database", "blog", *arguments, **options)

    def refused(self, *arguments: str, **options: Any) -> str:
        done: Result = self.host.salt("django.upgrade_database", "blog", *arguments, **options)
        assert done.returncode == 1, done
        return str(json.loads(done.stdout)[self.host.minion])

    def version(self, site: Site) -> str:
        """The version of the server that a site has its database in, by the site's own settings."""
        code = "from django.db import connection as c; c.ensure_connection(); print(c.pg_version // 10000)"
        return str(site.manage(f"shell -c {code!r}")).split()[-1]

    @property
    def versions(self) -> list[str]:
        return [self.version(site) for site in self]

    @property
    def clusters(self) -> list[str]:
        lines = self.host.run(["pg_lsclusters", "--no-header"]).stdout.splitlines()
        return [" ".join(line.split()[:4]) for line in lines]

    def sql(self, script: str, database: str = "blog") -> str:
        return self.host.run(["runuser", "-u", "postgres", "--", "psql", "-XAtqc", script, database]).stdout.strip()

    def serve(self) -> None:
        for site in self:
            assert site.answering["release"] == site.live
            assert self.host.run(["test", "-e", f"{site.root}/maintenance/on"], check=False).returncode == 1
        assert self.sql("SELECT count(*) FROM pg_replication_slots") == "0"
        assert [self.sql("SELECT count(*) FROM pg_publication", name) for name in ("blog", "shop")] == ["0", "0"]

    @property
    def sums(self) -> list[str]:
        return [self.sql(SUM, name) for name in ("blog", "shop")]

    def replicate(self, is_possible: bool = True) -> None:
        """Have the former cluster replicate, or not for want of a key."""
        if self.sql("SHOW wal_level") != "logical":
            self.sql("ALTER SYSTEM SET wal_level = logical", "postgres")
            self.host.run(["pg_ctlcluster", "15", "main", "restart"])
        self.sql("DROP TABLE IF EXISTS keyless")
        self.sql("" if is_possible else "CREATE TABLE keyless (number int)")
        assert self.upgrade()["way"] == ("live" if is_possible else "maintenance")

    @contextmanager
    def load(self) -> Iterator[list[Load]]:
        address = f"http://{self.host.address}/"
        loads = [Load(address, site.domain, connections=2, pause=0.1, release=release_of) for site in self]
        for load in loads:
            load.__enter__()
        try:
            for load in loads:
                load.wait(20)
            yield loads
            for load in loads:
                load.wait(20)
        finally:
            for load in loads:
                load.__exit__(None, None, None)


@pytest.fixture(scope="module")
def sites(module_hosts, repositories) -> Sites:
    return started(module_hosts("trixie", kind="ready", name="web1"), repositories)


def started(host: Host, repositories: Any) -> Sites:
    host.run(FORMER, timeout=900)
    blog = Site(host, repositories(host), database={"engine": "postgres"})
    shop = Site(host, blog.repository, "shop", neighbour=blog, database={"engine": "postgres"})
    blog.deploy()
    found = Sites(blog, shop)
    for name in ("blog", "shop"):
        found.sql(f"{INSERT} {ROWS}", name)
    assert found.versions == ["15", "15"]
    return found


def test_plan_and_rehearsal_change_nothing(sites):
    before = sites.clusters
    plan = sites.upgrade()
    assert (plan["from"], plan["to"], plan["sites"]) == ("15 main, port 5432", "17", ["blog", "shop"])
    assert plan["way"] == "maintenance" and "wal_level is replica" in plan["because"][0] and plan["problems"] == []
    sites.sql("CREATE DATABASE other", "postgres")
    answer = sites.host.salt("django.upgrade_database", "blog", "plan")
    assert answer.returncode == 1 and "the database other of postgres belongs to no site" in answer.stdout
    assert "the database other of postgres belongs to no site" in sites.refused("run")
    sites.sql("DROP DATABASE other", "postgres")
    sites.host.call("django.backup", "blog")
    rehearsed = sites.upgrade("rehearse")
    assert rehearsed["result"] == "good" and rehearsed["rows"]["default"] > 20000, rehearsed
    print(rehearsed["seconds"])
    assert sites.clusters == before and sites.versions == ["15", "15"]


def test_upgrade_in_maintenance_and_back(sites):
    sums = sites.sums
    with sites.load() as loads:
        answer = sites.upgrade("run")
    failed = [one for load in loads for one in load.failed]
    print(answer, f"{len(failed)} of {sum(len(load.answers) for load in loads)} got the maintenance page")
    assert {one.status for one in failed} <= {503}, failed
    assert sites.versions == ["17", "17"] and sites.clusters == ["15 main 5433 down", "17 main 5432 online"]
    assert sites.sums == sums
    sites.serve()
    for site in sites:
        assert sites.host.call("django.backup", site.name) and sites.host.call("django.restore_drill", site.name)
    again = sites.blog.apply()
    assert again.ok and not again.changed, again
    sites.sql(f"{INSERT} VALUES ('b', '', now(), '', false)")
    refused = sites.refused("back")
    assert "blog: public.guestbook_entry: 1 inserted" in refused and "lose=True" in refused, refused
    assert sites.versions == ["17", "17"]
    answer = sites.upgrade("back", lose=True)
    assert "blog: public.guestbook_entry: 1 inserted" in answer["lost"], answer
    assert sites.versions == ["15", "15"] and sites.sums == sums
    sites.serve()


def test_upgrade_loses_no_request_and_no_write(sites):
    assert_lossless(sites)


def assert_lossless(sites: Sites) -> None:
    """A live upgrade, and `back`, with visitors and writers."""
    sites.replicate()
    sums, address = sites.sums, f"http://{sites.host.address}"
    with ExitStack() as stack:
        writers = [stack.enter_context(Writer(address, sites.blog.domain, pause=0.02)) for _ in range(4)]
        loads = stack.enter_context(sites.load())
        answer = sites.upgrade("run")
    answers = [one for load in loads for one in load.answers]
    written = [name for one in writers for name in one.acknowledged]
    print(answer)
    print(f"{len(answers)} requests, the longest {max(one.duration for one in answers):.1f} s; {len(written)} writes")
    assert [one for load in loads for one in load.failed] == [] and [one.refused for one in writers] == [[]] * 4
    assert sites.versions == ["17", "17"] and sites.sums == sums
    there = {*sites.sql("SELECT name FROM guestbook_entry").splitlines()}
    assert there >= {*written} and len(written) > 20
    sites.serve()
    assert "guestbook_entry" in sites.refused("back")
    sites.upgrade("back", lose=True)
    assert sites.versions == ["15", "15"] and sites.sums == sums
    sites.serve()


def test_boot_starts_the_cluster_that_serves(sites):
    sites.upgrade("run")
    sites.host.restart()
    assert sites.clusters == ["15 main 5433 down", "17 main 5432 online"] and sites.versions == ["17", "17"]
    sites.serve()
    sites.upgrade("back", lose=True)
    sites.host.restart()
    assert sites.clusters == ["15 main 5432 online", "17 main 5433 down"] and sites.versions == ["15", "15"]


#: Where `run` is killed: a program that it calls, and a pattern of its arguments.
STEPS = {
    "the new cluster is made": ("/usr/bin/pg_createcluster", "*main*"),
    "the roles are read": ("/usr/lib/postgresql/17/bin/pg_dumpall", "*"),
    "the first database is copied": ("/usr/lib/postgresql/17/bin/pg_dump", "*dbname=blog*"),
    "the second database is loaded": ("/usr/lib/postgresql/17/bin/pg_restore", "*"),
    "the copy is analyzed": ("/usr/lib/postgresql/17/bin/vacuumdb", "*"),
    "the sites stop": ("/usr/bin/systemctl", "stop*django-shop*"),
    "the clusters stop": ("/usr/bin/systemctl", "stop*postgresql@17*"),
    "the former cluster gets its port": ("/usr/bin/pg_conftool", "15\\ main*"),
    "the new cluster gets its port": ("/usr/bin/pg_conftool", "17\\ main*"),
    "the sites start": ("/usr/bin/systemctl", "enable*--now*django-shop*"),
}


@contextmanager
def slow(host: Host, program: str, pattern: str) -> Iterator[None]:
    """Have a program wait where it is called with some arguments."""
    host.run(["rm", "-f", "/tmp/called"])
    host.run(["mv", program, f"{program}.real"])
    host.write(program, _SLOW.format(pattern=pattern, program=program), mode="0755")
    try:
        yield
    finally:
        host.run(["mv", f"{program}.real", program])


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("way", ["live", "maintenance"])
def test_killed_upgrade_leaves_the_former_cluster_serving(sites, way, step):
    assert_survives(sites, way, step)


def assert_survives(sites: Sites, way: str, step: str) -> None:
    """An upgrade that is killed at a step leaves the former cluster serving, and the next one works."""
    host, (program, pattern) = sites.host, STEPS[step]
    sites.replicate(is_possible=way == "live")
    sums = sites.sums
    with sites.load() as loads, slow(host, program, pattern):
        host.run("(salt-call --local django.upgrade_database blog run >/tmp/run.log 2>&1 &)")
        until(lambda: not host.run(["test", "-e", "/tmp/called"], check=False).returncode)
        pid = re.findall(r"django.upgrade_database, pid (\d+)", host.read(f"{sites.blog.root}/lock"))[0]
        host.run(["kill", "-9", pid])
        began = time.monotonic()
        until(lambda: sites.blog.get("/release").status_code == sites.shop.get("/release").status_code == 200)
        print(f"{step}: serves again after {time.monotonic() - began:.1f} s")
        until(lambda: host.run(["flock", "-n", f"{sites.blog.root}/lock", "true"], check=False).returncode == 0)
    failed = [one for load in loads for one in load.failed]
    assert {one.status for one in failed} <= (set() if way == "live" else {503}), failed
    assert "15 main 5432 online" in sites.clusters and sites.versions == ["15", "15"]
    if sites.upgrade().get("upgrade") and step in list(STEPS)[::2]:
        assert sites.upgrade("back")["serves"] == "15 main"
    sites.upgrade("run")
    assert sites.versions == ["17", "17"] and sites.sums == sums
    sites.serve()
    sites.upgrade("back", lose=True)
    assert sites.versions == ["15", "15"] and sites.sums == sums
    sites.serve()


@pytest.fixture(scope="module")
def plain(module_hosts, repositories) -> Sites:
    """The same on a host without systemd, whose container starts what the docs name, PostgreSQL first."""
    command = ["sh", "-c", f"service postgresql start; {AFTER_RESTART[2]}"]
    host = module_hosts("trixie", kind="ready", name="web2", init=False, command=command, options=["--tmpfs=/run"])
    return started(host, repositories)


def test_host_without_systemd_loses_nothing_either(plain):
    assert_lossless(plain)


@pytest.mark.parametrize("way", ["live", "maintenance"])
def test_upgrade_that_is_killed_without_systemd_leaves_the_former_cluster_serving(plain, way):
    assert_survives(plain, way, "the former cluster gets its port")


def test_container_that_is_restarted_starts_the_cluster_that_serves(plain):
    for verb, expected in {
        "run": ["15 main 5433 down", "17 main 5432 online"],
        "back": ["15 main 5432 online"],
    }.items():
        plain.upgrade(verb, **({"lose": True} if verb == "back" else {}))
        plain.host.restart()
        plain.host.run("until (: </dev/tcp/127.0.0.1/80) 2>/dev/null; do sleep 0.2; done", timeout=60)
        until(lambda: plain.blog.get("/release").status_code == plain.shop.get("/release").status_code == 200)
        assert plain.clusters[: len(expected)] == expected
        plain.serve()


PLACES = """CREATE EXTENSION postgis; CREATE TABLE place (id int PRIMARY KEY, at geometry(Point, 4326));
INSERT INTO place SELECT g, ST_SetSRID(ST_MakePoint(g % 180, g % 90), 4326) FROM generate_series(1, 10000) g;
CREATE INDEX place_at ON place USING gist (at); ALTER TABLE place OWNER TO blog;
INSERT INTO spatial_ref_sys (srid, auth_name, proj4text) VALUES (990001, 'own', '+proj=longlat +datum=WGS84')"""
NEAR = """SET enable_seqscan = off; SELECT md5(string_agg(ST_AsEWKT(at), ',' ORDER BY id)) FROM place
WHERE at && ST_MakeEnvelope(10, 10, 40, 40, 4326); SELECT proj4text FROM spatial_ref_sys WHERE srid = 990001"""


def test_extension_of_a_package_comes_along_with_its_own_rows(sites):
    get = "DEBIAN_FRONTEND=noninteractive apt-get -qq --option=Dpkg::Use-Pty=0 install --no-install-recommends"
    sites.host.run(f"{get} postgresql-15-postgis-3 >/dev/null", timeout=900)
    sites.sql(PLACES)
    before, plan = sites.sql(NEAR), sites.upgrade()
    assert plan["extensions"] == ["postgis"] and plan["problems"] == []
    assert "postgresql-17-postgis-3" in plan["to install"] and plan["way"] == "maintenance"
    assert any("rows of an extension: public.spatial_ref_sys" in one for one in plan["because"]), plan
    answer = sites.upgrade("run", timeout=1800)
    print(answer)
    assert sites.versions == ["17", "17"] and sites.sql(NEAR) == before and before.count("\n") == 1
    sites.serve()
    sites.upgrade("back")
    assert sites.versions == ["15", "15"] and sites.sql(NEAR) == before
    sites.sql("DROP TABLE place; DROP EXTENSION postgis")
    sites.serve()


#: A page that adds a row and returns its name.
ADD = """

def add(request, name):
    from guestbook.models import Entry

    return HttpResponse(Entry.objects.create(name=name, message="added").name)
"""
#: The rows and a checksum of each table, as far as both clusters have its rows.
ALL_SUMS = """SELECT table_name, (xpath('/row/s/text()', query_to_xml(format(
  'SELECT count(*) || ''/'' || coalesce(sum(hashtextextended(t::text, 0)), 0) AS s FROM %I t %s', table_name,
  CASE table_name WHEN 'guestbook_entry' THEN 'WHERE id <= {newest}' ELSE '' END), false, true, '')))[1]
  FROM information_schema.tables WHERE table_schema = 'public' ORDER BY table_name"""


class Adder(Writer):
    """Adds a row with each request."""

    def problem(self, name: str) -> str:
        connection = http.client.HTTPConnection(self.origin.removeprefix("http://"), timeout=60)  # costs little
        try:
            connection.request("GET", f"/add/{name}", headers={"Host": self.domain, "Connection": "close"})
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            connection.close()
        return "" if text == name else f"{answer.status} {text[:200]}"


def test_upgrade_of_a_gigabyte_at_a_hundred_writes_a_second(sites):
    blog, host = sites.blog, sites.host
    urls = blog.repository.read("guestbook/urls.py")
    blog.repository.append("guestbook/views.py", f"\nfrom django.http import HttpResponse\n{ADD}")
    path = 'urlpatterns = [path("add/<name>", views.add),'
    blog.repository.commit({"guestbook/urls.py": urls.replace("urlpatterns = [", path)})
    blog.deploy()
    sites.replicate()
    rows = "SELECT 'g' || g, repeat(md5(g::text), 30), now(), '', false FROM generate_series(1, 1000000) g"
    sites.sql(f"{INSERT} {rows}")
    assert int(sites.sql("SELECT pg_database_size('blog')")) > 1e9
    began = time.monotonic()
    with ExitStack() as stack:
        adders = [Adder(f"http://{host.address}", blog.domain, pause=0.06) for _ in range(12)]
        for adder in adders:
            stack.enter_context(adder)
        until(lambda: sum(len(one.acknowledged) for one in adders) > 200)
        answer = sites.upgrade("run", timeout=1800)
        until(lambda: blog.get("/release").status_code == 200)
    took, added = time.monotonic() - began, [name for one in adders for name in one.acknowledged]
    print(
        answer["held"],
        answer["seconds"],
        f"{len(added)} rows added in {took:.0f} s, {len(added) / took:.0f} each second",
    )
    assert [one.refused for one in adders] == [[]] * 12
    assert float(answer["held"].split()[0]) <= 10 and sites.versions == ["17", "17"]
    assert {*sites.sql("SELECT name FROM guestbook_entry WHERE message = 'added'").splitlines()} == {*added}
    host.run(["pg_ctlcluster", "15", "main", "start"])
    ask = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "blog"]
    newest = host.run([*ask, "--port=5433", "-c", "SELECT max(id) FROM guestbook_entry"]).stdout.strip()
    script = ALL_SUMS.format(newest=newest)
    former, new = (host.run([*ask, f"--port={port}", "-c", script], timeout=300).stdout for port in (5433, 5432))
    host.run(["pg_ctlcluster", "15", "main", "stop"])
    assert former == new and former.count("\n") > 5
