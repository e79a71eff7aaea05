"""Debian 12 becomes Debian 13 on the hosts of a fleet, one at a time behind the balancer, while visitors ask and write.

The hosts have a container's rights: there the new systemd refuses units of the former one, until an apply.
"""

import time

import pytest
from client import Load, Writer
from fleet import Fleet, answer_of, await_minions, laid_out
from lab import Host
from sites import release_of, until
from test_upgrade import KEPT, UPGRADE

pytestmark = pytest.mark.full
DOMAIN = "blog.example.org"


@pytest.fixture(scope="module")
def fleet(module_hosts, tmp_path_factory) -> Fleet:
    """Two hosts of Debian 12, a balancer, and a database on the master."""
    fleet = laid_out(module_hosts, tmp_path_factory.mktemp("repository"), systems=("bookworm", "bookworm"))
    for host in fleet.apps:
        host.run("ln -sfn /usr/bin/python3.11 /opt/salt/bin/python")  # the tests' Salt stays with its Python
        assert "/usr/bin/python3.11" in host.read(KEPT)
    return fleet


def series(host: Host) -> str:
    """The Python of the release that a host serves."""
    program = "import sys; print(*sys.version_info[:2], sep='.')"
    return host.run(["/srv/django/blog/current/virtualenv/bin/python", "-c", program]).stdout.strip()


def backend(fleet: Fleet, host: Host) -> dict[str, object]:
    """What the balancer thinks of a host."""
    argv = ["salt", "--out=json", "--static", "lb1", "django_fleet.backend", "blog"]
    return dict(answer_of(fleet.master.run(argv))["lb1"][host.name])


def upgrade(fleet: Fleet, host: Host, visitors: Load) -> None:
    """As docs/guides/debian-upgrade.md has it; the host gets requests again when it serves with the new Python."""
    fleet.run("drain", host.name).check()
    until(lambda: backend(fleet, host).get("requests", 0) == 0)
    began = time.monotonic()
    host.run(UPGRADE, timeout=2400)
    upgraded = time.monotonic()
    host.run(["systemctl", "restart", "salt-minion"])
    await_minions(fleet.master, [host])
    assert series(host) == "3.11" and fleet.failed(fleet.apply(host.name)) == {host.name: []}
    assert series(host) == "3.13"
    applied = time.monotonic()
    host.restart()
    await_minions(fleet.master, [host])
    assert backend(fleet, host)["state"] == "drain"
    fleet.run("join", host.name).check()
    until(lambda: backend(fleet, host)["is_up"])
    visitors.wait(100)
    again = fleet.apply(host.name)[host.name].values()
    assert [state["changes"] or state["comment"] for state in again if state["changes"] or not state["result"]] == []
    rest = time.monotonic() - applied
    print(
        f"{host.name}: upgrade {upgraded - began:.0f} s, apply {applied - upgraded:.0f} s, boot and join {rest:.0f} s"
    )


def test_hosts_are_upgraded_one_at_a_time_without_a_lost_request(fleet):
    url, commits = f"http://{fleet.balancer.address}", fleet.commits()
    load = Load(f"{url}/release", DOMAIN, connections=4, release=release_of, pause=0.05)
    with load as visitors, Writer(url, DOMAIN) as writer:
        visitors.wait(50)
        for host in fleet.apps:
            upgrade(fleet, host, visitors)
            assert fleet.commits() == commits
        fleet.release("on Debian 13")
        visitors.wait(100)
    print(f"{len(visitors.answers)} requests, {len(visitors.failed)} failed; {len(writer.acknowledged)} forms")
    assert (visitors.failed[:3], writer.refused[:3]) == ([], [])
    assert len({*fleet.live().values()}) == 1 and [series(host) for host in fleet.apps] == ["3.13", "3.13"]
    count = f"SELECT count(*) FROM guestbook_entry WHERE name LIKE '{DOMAIN}-{writer.began}-%'"
    kept = fleet.database.run(["runuser", "-u", "postgres", "--", "psql", "-qtAc", count, "blog"]).stdout
    assert int(kept) == len(writer.acknowledged)
