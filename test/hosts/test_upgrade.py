"""Debian 12 becomes Debian 13 under live sites, which go on, and get the new Python by the next apply.

The host has a container's rights: there the new systemd refuses units that the former one has started.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import pytest
from client import Load
from images import RELEASES
from lab import Host
from sites import Site, release_of
from test_quickstart import OFFLINE, Machine, wheels
from test_worker_switch import PROJECT, WORKERS, Shop

pytestmark = pytest.mark.full

KEPT = "/etc/apt/apt.conf.d/60django-formula"
#: The steps that Debian's release notes have, and the one that people run after them.
UPGRADE = """
set -eu
export DEBIAN_FRONTEND=noninteractive
get="apt-get -qq --option=Dpkg::Options::=--force-confold --option=Dpkg::Use-Pty=0"
apt-mark hold ca-certificates >/dev/null  # whose file the tests have mounted
sed -i s/bookworm/trixie/g $(find /etc/apt/sources.list /etc/apt/sources.list.d -type f)
$get update >/dev/null
$get upgrade --without-new-pkgs >/dev/null
$get full-upgrade >/dev/null
$get autoremove >/dev/null
"""
#: Requests that may fail while packages are replaced: PostgreSQL and nginx are restarted once each.
_LOST = 15
QUEUES = ("django-blog-queue", "django-shop-queue")


class Sites(NamedTuple):
    """The sites of the host: SQLite; PostgreSQL with a queue, in which tasks wait; workers of Celery with a queue."""

    plain: Site
    blog: Site
    shop: Shop

    @property
    def host(self) -> Host:
        return self.blog.host

    @property
    def live(self) -> list[str]:
        return [site.live for site in self]

    @contextmanager
    def load(self) -> Iterator[list[Load]]:
        """Ask each site a few times in a second until the block ends."""
        address = f"http://{self.host.address}/release"
        loads = [Load(address, site.domain, connections=1, pause=0.3, release=release_of) for site in self]
        with ExitStack() as stack:
            for load in loads:
                stack.enter_context(load)
                load.wait(5)
            yield loads
            for load in loads:
                load.wait(5)
        print(
            [
                f"{site.name}: {len(load.failed)} of {len(load.answers)} failed"
                for site, load in zip(self, loads, strict=True)
            ]
        )

    @property
    def queues(self) -> dict[str, str]:
        """The program and the process of each queue."""
        shown = {unit: self.host.run(["systemctl", "show", "--value", "-PMainPID", unit]).stdout for unit in QUEUES}
        return {
            unit: f"{pid.strip()} {self.unit_of(unit).partition('ExecStart=')[2].split()[0]}"
            for unit, pid in shown.items()
        }

    def unit_of(self, name: str) -> str:
        return self.host.read(f"/etc/systemd/system/{name}.service")

    @property
    def waiting(self) -> str:
        """The tasks that wait in the queue which no worker takes from."""
        command = ["runuser", "-u", "blog", "--", "redis-cli", "-s", "/run/django-blog-queue/socket"]
        return self.host.run([*command, "LRANGE", "celery", "0", "-1"]).stdout


@pytest.fixture(scope="module")
def sites(module_hosts, repositories) -> Sites:
    host: Host = module_hosts("bookworm", kind="ready", name="web1")
    host.run("ln -sfn /usr/bin/python3.11 /opt/salt/bin/python")  # the tests' Salt stays with its Python
    queue = {"queue": {"engine": "redis"}}
    blog = Site(host, repositories(host), database={"engine": "postgres"}, **queue)
    plain = Site(host, repositories(host, "/srv/git/plain.git"), "plain", neighbour=blog)
    more = {"environment": {"MEDIA": {"from": "media_root"}}, "workers": {"default": WORKERS["default"]}}
    shop = Shop(host, repositories(host, "/srv/git/shop.git"), "shop", neighbour=blog, **queue, **more)
    shop.repository.commit(PROJECT)
    blog.deploy()
    assert "/usr/bin/python3.11" in host.read(KEPT)
    command = ["runuser", "-u", "blog", "--", "redis-cli", "-s", "/run/django-blog-queue/socket"]
    host.run([*command, "RPUSH", "celery", "one", "two", "three"])
    return Sites(plain, blog, shop)


def python(site: Site, *arguments: str) -> str:
    """What the interpreter of the active release prints."""
    return site.host.run([f"{site.root}/current/virtualenv/bin/python", *arguments]).stdout.strip()


def checked(host: Host) -> tuple[dict[str, Any], int]:
    """The answer of the check, and its return code."""
    done = host.salt("django.upgrade_check", full=True)
    return json.loads(done.stdout)[host.minion], done.returncode


def test_check_names_what_would_not_work(sites):
    """A compiled package without a wheel for the next Python; with one that has it, nothing is wrong."""
    plain = sites.plain
    needs = plain.repository.read("requirements.txt")
    plain.repository.commit({"requirements.txt": f"{needs}MarkupSafe==2.1.2\n"})
    plain.deploy()
    answer, code = checked(sites.host)
    (row,) = (row for row in answer["rows"] if row["problem"])
    assert (row["site"], row["today"], answer["problems"], code) == ("plain", "markupsafe 2.1.2", 1, 1), answer
    assert "has no wheel for Python 3.13" in row["problem"] and "require markupsafe 3.0" in row["cure"]
    print(sites.host.run(["salt-call", "--local", "django.upgrade_check"], check=False).stdout)
    assert not sites.blog.apply().changed
    plain.repository.commit({"requirements.txt": needs})
    plain.deploy()
    answer, code = checked(sites.host)
    assert (answer["problems"], code) == (0, 0), answer
    told = {(row["site"], row["what"]): row["then"] for row in answer["rows"]}
    assert "Debian 13, which installs 17 next to it" in told["", "PostgreSQL"] and told["shop", "Python"] == "3.13"
    assert told["blog", "queue"] == told["shop", "queue"] == "stays" and "226/NAMESPACE" in told["shop", "units"]


def test_sites_go_on_while_debian_is_upgraded(sites):
    host, before, queues = sites.host, sites.live, sites.queues
    assert all("TemporaryFileSystem=" in sites.unit_of(unit) for unit in QUEUES)
    sites.shop.send("gate")
    with sites.load() as loads:
        host.run(UPGRADE, timeout=2400)
    assert sum(len(load.failed) for load in loads) <= _LOST, [load.failed for load in loads]
    assert host.run(["python3", "--version"]).stdout.startswith("Python 3.13.")
    assert sites.live == before and sites.queues == queues
    sites.shop.send("0:20")
    host.run(["touch", f"{sites.shop.root}/media/gate"])
    sites.shop.ends(0, 20)
    for site in sites:
        assert python(site, "-c", "import ssl, sqlite3, sys; print(sys.version_info[1])") == "11"
        (row,) = host.call("django.status", site.name, full=True)
        assert row["interpreter"].startswith("python3 is 3.13.") and f"{site.live} has 3.11." in row["interpreter"]
        assert host.call("django.backup", site.name)


def test_apply_gives_the_sites_the_new_python_and_leaves_the_queues(sites):
    records, before, queues = [site.record() for site in sites], sites.live, sites.queues
    foreseen = sites.blog.apply(test=True)
    assert foreseen["blog has its source"].changes["python"]["old"].startswith("3.11.")
    with sites.load() as loads:
        sites.blog.deploy()
    for site, load, record, former in zip(sites, loads, records, before, strict=True):
        assert load.failed == [] and load.releases == [former, site.live] and former != site.live
        assert site.record()["commit"] == record["commit"]
        assert python(site, "-c", "import sys; print(sys.version_info[1])") == "13"
    assert sites.queues == queues and sites.waiting.split() == ["one", "two", "three"]
    assert not any("TemporaryFileSystem=" in sites.unit_of(unit) for unit in QUEUES)
    again = sites.blog.apply()
    assert again.ok and not again.changed, again
    for site in sites:
        (row,) = sites.host.call("django.status", site.name, full=True)
        assert row["interpreter"] == "" and row["running"] is True
        assert sites.host.call("django.backup", site.name)
    sites.shop.send("20:20")
    sites.shop.ends(20, 20)


def test_former_release_is_there_until_it_is_deleted(sites):
    """Its units were written by the former systemd; the rollback starts it all the same."""
    blog = sites.blog
    former = [name for name in blog.releases if name < blog.live][-1]
    blog.host.call("django.rollback", "blog", former)
    assert blog.answering["release"] == former
    blog.host.call("django.rollback", "blog", max(blog.releases))
    for site in sites:
        site.configure(releases={"keep": 2})
    for number in range(3):
        for site in sites:
            site.repository.commit({"notes.txt": f"{number}\n"})
        blog.deploy()
    kept = blog.host.read(KEPT)
    assert "/usr/bin/python3.13" in kept and "/usr/bin/python3.11" not in kept
    simulated = blog.host.run(["apt-get", "--simulate", "autoremove"]).stdout
    assert "Remv python3.11" in simulated and "Remv python3.13" not in simulated, json.dumps(simulated)


def test_boot_starts_the_sites_and_their_queues(sites):
    programs = [line.split()[1] for line in sites.queues.values()]
    sites.host.restart()
    for site in sites:
        assert site.answering["release"] == site.live
    assert [line.split()[1] for line in sites.queues.values()] == programs == ["@/usr/bin/redis-check-rdb"] * 2
    assert sites.waiting.split() == ["one", "two", "three"]
    sites.shop.send("40:20")
    sites.shop.ends(40, 20)
    again = sites.blog.apply()
    assert again.ok and not again.changed, again


def test_quickstart_run_again_gives_salt_and_the_site_the_new_python(lab, module_hosts):
    """Its Salt has lost its Python meanwhile, and says so; the site goes on."""
    options = [f"--volume={wheels(lab, name)}:/wheels/{name}:ro" for name in RELEASES]
    machine = Machine(module_hosts("bookworm", kind="bare", name="web2", options=options), 80)
    links = {**OFFLINE, "PIP_FIND_LINKS": " ".join(f"/wheels/{name}" for name in RELEASES)}
    machine.host.run(["/srv/formula/quickstart"], environment=links)
    machine.host.run(UPGRADE, timeout=2400)
    refused = machine.host.run(["salt-call", "django.status"], check=False)
    assert refused.returncode == 1 and "run ./quickstart again" in refused.stderr, refused
    machine.page()
    done = machine.host.run(["/srv/formula/quickstart"], environment=links)
    assert "installing Salt" in done.stdout and "answers 200 OK" in done.stdout
    status = machine.host.run(["salt-call", "--out=json", "django.status"]).stdout
    (row,) = json.loads(status)["local"]
    assert (row["interpreter"], row["running"]) == ("", True), row
    answering = machine.host.run(["/srv/django/guestbook/current/virtualenv/bin/python", "--version"]).stdout
    assert answering.startswith("Python 3.13.") and "guestbook" in machine.page().lower()
