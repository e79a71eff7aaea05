"""A site on two hosts behind each balancer of the formula: deployments and rollbacks under load lose no request."""

import json
import time

import pytest
from balancing import STATES
from client import Load, Writer
from fleet import Fleet, answer_of, start_database, start_master, start_minions
from lab import Host
from sites import release_of

pytestmark = pytest.mark.full
KINDS = ("haproxy", "nginx", "varnish")


@pytest.fixture(scope="module")
def fleet(module_hosts, tmp_path_factory) -> Fleet:
    """Hosts of different releases of Debian, and a balancer."""
    master, database, lb = module_hosts(name="master"), module_hosts(name="db1"), module_hosts(name="lb1")
    apps = [module_hosts("bookworm", kind="ready", name="web1"), module_hosts("trixie", kind="ready", name="web2")]
    start_master(master)
    start_database(database)
    start_minions(master, [*apps, lb])
    hosts = {host.name: {"parts": ["app"], "address": host.address} for host in apps}
    hosts[lb.name] = {"parts": ["balancer"], "address": lb.address}
    fleet = Fleet(master, apps, database, tmp_path_factory.mktemp("repository"), hosts=hosts)
    fleet.lb = lb
    fleet.configure()
    for states in fleet.apply("*").values():
        assert [state["name"] for state in states.values() if state["result"] is False] == []
    fleet.deploy()
    return fleet


def load(fleet: Fleet) -> Load:
    url = f"http://{fleet.lb.address}/release"
    return Load(url, "blog.example.org", connections=8, pause=0.08, release=release_of)


def backends(fleet: Fleet) -> dict[str, bool]:
    answer = fleet.master.run(["salt", "--out=json", "--static", "lb1", "django_fleet.backend", "blog"])
    return {name: entry["is_up"] for name, entry in answer_of(answer)["lb1"].items()}


def balance(fleet: Fleet, kind: str) -> None:
    """Put a kind of balancer in front of both hosts."""
    fleet.configure(balancer={"kind": kind})
    assert_applied(fleet)
    await_both(fleet)


def await_both(fleet: Fleet) -> None:
    """Wait until the balancer gives both hosts requests."""
    limit = time.monotonic() + 300
    while backends(fleet) != {"web1": True, "web2": True}:
        assert time.monotonic() < limit
        time.sleep(0.5)


def assert_applied(fleet: Fleet) -> None:
    for states in fleet.apply("*").values():
        assert [state["comment"] for state in states.values() if state["result"] is False] == []


@pytest.mark.parametrize("kind", KINDS)
def test_deployments_and_rollbacks_lose_no_request(fleet, kind):
    balance(fleet, kind)
    with load(fleet) as visitors:
        visitors.wait(50)
        for number in range(5):
            done = fleet.release(f"{kind}.{number}")
            assert {*fleet.live().values()} == {*done["hosts"].values()} and len({*fleet.live().values()}) == 1
            visitors.wait(50)
        for _number in range(2):
            fleet.run("rollback").check()
            assert len({*fleet.live().values()}) == 1
            visitors.wait(50)
        assert_applied(fleet)
        visitors.wait(50)
    print(f"{kind}: {len(visitors.answers)} requests, {len(visitors.failed)} failed, {len(visitors.releases)} releases")
    assert visitors.failed == [], visitors.failed[:3]
    assert len(visitors.releases) >= 6 and backends(fleet) == {"web1": True, "web2": True}


@pytest.mark.parametrize("kind", KINDS)
def test_a_host_that_leaves_and_comes_back_loses_no_request(fleet, kind):
    """By one apply of all hosts each, in which the balancer may be the last; forms are sent, which no proxy repeats."""
    balance(fleet, kind)
    hosts = fleet.options["hosts"]
    with load(fleet) as visitors, Writer(f"http://{fleet.lb.address}", "blog.example.org") as writer:
        visitors.wait(50)
        fleet.configure(hosts={name: host for name, host in hosts.items() if name != "web2"})
        assert_applied(fleet)
        visitors.wait(50)
        assert backends(fleet) == {"web1": True} and fleet.live()["web2"] == ""
        fleet.configure(hosts=hosts)
        assert_applied(fleet)
        await_both(fleet)
        visitors.wait(50)
    print(f"{kind}: {len(visitors.answers)} requests, {len(visitors.failed)} failed, {len(writer.acknowledged)} forms")
    assert (visitors.failed[:3], writer.refused[:3]) == ([], [])
    assert len({*fleet.commits().values()}) == 1


#: Seconds that requests wait, and for which they are held in a test.
WAIT, HELD = 15, 10


def have_wait(fleet: Fleet, kind: str) -> Host:
    """Let requests wait on hosts behind a kind of balancer, which looks for a text in the page of health too."""
    fleet.configure(releases={"wait": f"{WAIT}s"}, health={"path": "/healthz", "timeout": "15s", "contains": "ok"})
    balance(fleet, kind)
    fleet.release(f"wait.{kind}.{time.time():.0f}")
    await_both(fleet)
    return fleet.apps[0]


def is_up(fleet: Fleet, kind: str) -> bool:
    """Whether the balancer gives the first host requests, by what it has itself: Salt would take seconds for a look."""
    if kind == "nginx":
        known = json.loads(fleet.lb.read("/var/lib/django-formula/balancer/hosts.json"))
        return bool(known["blog"]["web1"]["is_up"])
    return "web1=UP" in fleet.lb.run(["python3", "-c", STATES]).stdout.split()


def held(fleet: Fleet, kind: str) -> list[bool]:
    """Hold the requests of the first host; return what the balancer thinks of it meanwhile, until they are let in."""
    fleet.master.run(["salt", "web1", "django.hold", "blog", str(HELD)])
    end, seen = time.monotonic() + HELD, []
    while time.monotonic() < end:
        seen.append(is_up(fleet, kind))
        time.sleep(0.2)
    return seen


@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
def test_a_host_whose_requests_wait_stays_with_its_balancer_and_loses_none(fleet, kind):
    have_wait(fleet, kind)
    with load(fleet) as visitors, Writer(f"http://{fleet.lb.address}", "blog.example.org") as writer:
        visitors.wait(50)
        seen = held(fleet, kind)
        visitors.wait(100)
    longest = max(answer.duration for answer in visitors.answers)
    print(
        f"{kind}: {len(visitors.answers)} requests, {len(writer.acknowledged)} forms, longest {longest:.1f} s; {seen}"
    )
    assert (visitors.failed[:3], writer.refused[:3]) == ([], [])
    assert all(seen) and len(seen) > 3 and longest > HELD / 2
    for _number in range(3):  # without visitors, and for longer than one request may wait in all
        seen = held(fleet, kind)
        assert all(seen), seen
        time.sleep(2)
    assert backends(fleet) == {"web1": True, "web2": True}


def test_a_host_whose_server_is_dead_leaves_its_balancer_when_requests_have_waited(fleet):
    one = have_wait(fleet, "haproxy")
    number = fleet.live()["web1"][:4]
    units = [f"django-blog-{number}.socket", f"django-blog-{number}.service"]
    with load(fleet) as visitors:
        visitors.wait(50)
        one.run(["systemctl", "stop", *units])
        stopped = time.monotonic()
        while backends(fleet)["web1"]:
            assert time.monotonic() < stopped + 10 * WAIT
        took, seen = time.monotonic() - stopped, []
        while time.monotonic() < stopped + took + 2 * WAIT:  # the relay answers checks no more
            seen.append(backends(fleet)["web1"])
        one.run(["systemctl", "start", *units])
        await_both(fleet)
        visitors.wait(50)
    longest = max(answer.duration for answer in visitors.answers)
    print(f"{len(visitors.answers)} requests, longest {longest:.1f} s, out after {took:.1f} s; {seen}")
    assert took > WAIT - 2 and not any(seen)
    assert visitors.failed == [], visitors.failed[:3]
