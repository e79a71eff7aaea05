"""What the watch of a master asks: who is silent, of whom that is expected, and which deployments have ended."""

import json
from collections.abc import Collection
from typing import Any

import pytest
from django_formula.fleet import record
from django_formula.fleet import watch as fleet_watch
from django_formula.fleet.deployment import Fleet
from django_formula.fleet.minions import Answer
from engine.fleet.test_deployment import World

LOST = Answer({}, "it does not answer", True)


class Asked:
    """A store, and hosts that answer or are lost."""

    def __init__(self, world: World):
        self.world, self.lost, self.asked = world, set[str](), list[str]()
        self.balances: dict[str, Answer] = {"lb1": Answer({"sites": {}})}
        self.folder = str(world.store.folder.parent)

    def ping(self, hosts: Collection[str]) -> dict[str, Answer]:
        self.asked = sorted(hosts)
        return {host: LOST if host in self.lost else Answer({"value": True}) for host in hosts}

    def ask(self, hosts: Collection[str], function: str, *, limit: float) -> dict[str, Answer]:
        assert limit <= 30
        if function == "django_fleet.balances":
            return {host: self.balances[host] for host in hosts}
        assert function == "django_fleet.seen"
        return {host: Answer({"host": host}) if host != "old" else Answer({}, "is not available") for host in hosts}

    def watch(self, since: int | None = None, shown: list[str] | None = None) -> dict[str, Any]:
        fleet = Fleet(self.world.store, self.world.hosts, "watch", lambda _phase, _found: None)
        return fleet_watch.watch(self.folder, self, lambda _site: fleet, since, shown)


@pytest.fixture
def asked(tmp_path) -> Asked:
    return Asked(World(tmp_path))


def test_all_hosts_of_the_store_are_asked_once_and_balancers_only_if_one_is_silent(asked):
    answer = asked.watch()
    assert asked.asked == ["lb1", "web1", "web2", "web3"] == [*answer["hosts"]] and answer["silent"] == {}
    assert asked.world.hosts.calls == []


def test_silent_hosts_are_named_with_what_that_means(asked):
    asked.lost = {"web2", "lb1"}
    assert asked.watch()["silent"] == {
        "lb1": "it does not answer; it is the balancer of blog",
        "web2": "it does not answer; blog is served by web1, web3",
    }
    assert asked.world.hosts.calls == [], "a balancer that is silent is not asked"
    asked.lost = {"web1", "web2", "web3"}
    assert asked.watch()["silent"]["web1"] == "it does not answer; no host serves blog"


FAULT = {"text": "django-haproxy does not run", "hosts": []}


@pytest.mark.parametrize(
    ("answer", "balanced"),
    [
        (Answer({"sites": {}}), {"blog": {}}),
        (Answer({"sites": {"blog": FAULT, "other": FAULT}}), {"blog": {"lb1": FAULT}}),
        (Answer({"sites": {"blog": ["down"]}}), {}),
        (Answer({}, "'django_fleet.balances' is not available."), {}),
    ],
)
def test_balancers_say_what_is_wrong_with_their_sites(asked, answer, balanced):
    asked.balances["lb1"] = answer
    assert asked.watch()["balanced"] == {}, "without a release no host gets requests"
    asked.world.store.set_release({"commit": "a" * 40, "sequence": 1, "held": []})
    assert asked.watch()["balanced"] == balanced and asked.watch()["deployed"] == []
    asked.lost = {"lb1"}
    assert asked.watch()["balanced"] == {}, "one that is silent is not asked"
    with asked.world.store.deploying("ops on master1"):
        assert asked.watch()["deployed"] == ["blog"]


def test_hosts_show_themselves_on_a_page_and_silent_ones_are_not_asked_again(asked):
    asked.lost = {"web2"}
    assert "seen" not in asked.watch() and asked.watch(shown=[])["seen"] == {}
    assert asked.watch(shown=["web1", "web2", "old"])["seen"] == {
        "web1": {"host": "web1"},
        "web2": "it does not answer",
        "old": "is not available",
    }


def test_silence_of_hosts_that_are_drained_left_out_or_deployed_is_expected(asked):
    asked.lost = {"web2"}
    assert asked.watch()["known"] == {}
    asked.world.hosts.seen = {"web2": {"state": "drain", "is_up": False, "check": ""}}
    assert asked.watch()["known"] == {"web2": "no requests (lb1: drain)"}
    asked.world.hosts.seen = {"web2": {"state": "ready", "is_up": False, "check": "L4TOUT"}}
    assert asked.watch()["known"] == {}
    with asked.world.store.deploying("ops on master1"):
        assert asked.watch()["known"] == {"web2": "blog is being deployed"}
    asked.world.store.keep_excluded({"web2": {"since": "2026-03-01T12:00:00Z", "by": "ada", "commit": "a"}})
    assert asked.watch()["known"] == {"web2": "left out since 2026-03-01T12:00:00Z by ada"}


def test_deployments_are_those_after_the_last_look(asked):
    path = record.path(asked.folder)
    path.write_text('{"site": "old"}\n')
    first = asked.watch()
    assert first["deployments"] == [] and first["offset"] == len(path.read_text())
    with path.open("a") as file:
        file.write(json.dumps({"site": "blog"}) + '\n[1]\n{"site": "inco')
    second = asked.watch(first["offset"])
    assert second["deployments"] == [{"site": "blog"}]
    assert asked.watch(second["offset"])["deployments"] == []
