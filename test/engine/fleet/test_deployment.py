"""A deployment on several hosts, with hosts that are played: what each phase asks, and what a failure leaves."""

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import ANY, Mock

import pytest
import salt.client
import salt.exceptions
import salt.utils.args
from django_formula.fleet import canary as fleet_canary
from django_formula.fleet import deployment as fleet_deployment
from django_formula.fleet import minions as fleet_minions
from django_formula.fleet.deployment import Fleet, batches
from django_formula.fleet.minions import Answer, Minions, _Waiting, answer_of
from django_formula.fleet.roster import Roster, _argument
from django_formula.fleet.store import Store, sites
from django_formula.host.commands import DeploymentError

OLD, NEW = "a" * 40, "b" * 40


def _answer(value: Answer | dict[str, Any] | None) -> Answer:
    return value if isinstance(value, Answer) else Answer(value or {})


class Played:
    """Hosts that answer as real ones do, and fail where a test says so.

    Attributes:
        fails: what a host answers to a verb instead.
        calls: the verbs that were asked, each with its hosts.
        live: the commit that each host serves; claims: the deployment that has claimed it.
    """

    patience = 20.0

    def __init__(self, names: Collection[str]):
        self.live = dict.fromkeys(names, OLD)
        self.before: dict[str, str] = {}
        self.claims: dict[str, str] = {}
        self.prepared: dict[str, str] = {}
        self.started: dict[str, str] = {}
        self.seen: dict[str, dict[str, Any]] = {}
        self.sequence = dict.fromkeys(names, 5)
        self.expected: list[str] = []
        self.counted = 0
        self.fails: dict[tuple[str, str], Answer] = {}
        self.differs: dict[str, dict[str, Any]] = {}
        self.finds: dict[str, str] = {}
        self.has: dict[str, dict[str, str]] = {}
        self.pending: list[str] = []
        self.clients: Any = []
        self.calls: list[tuple[str, list[str]]] = []

    def ask(
        self,
        hosts: Collection[str],
        function: str,
        site: str,
        *arguments: Any,
        look: float = 3.0,
        limit: float = math.inf,
        every: float = 20.0,
        meanwhile: Callable[[], None] | None = None,
    ) -> dict[str, Answer]:
        limits = {"ready": 60.0, "serves": 60.0, "stores": 60.0, "abandon": 600.0}
        assert limit == limits.get(function.removeprefix("django_fleet."), limit)
        verb = function.removeprefix("django_fleet.")
        self.calls.append((verb, sorted(hosts)))
        if meanwhile:
            meanwhile()
        return {
            host: self.fails.get((host, verb)) or _answer(getattr(self, f"_{verb}")(host, *arguments)) for host in hosts
        }

    def send(self, hosts: Collection[str], function: str, *arguments: Any) -> None:
        self.calls.append((f"send {function}", sorted(hosts)))

    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.calls if not verb.startswith("send")]

    def _ready(self, host: str) -> dict[str, Any]:
        value = {
            "release": "0004-x",
            "commit": self.live[host],
            "older": OLD,
            "sequence": self.sequence[host],
            "key": "k",
            "hosts": {},
            "claim": self.claims.get(host, ""),
            "unfinished": self.claims.get(host, ""),
            "deployment": "",
            "time": time.time(),
        }
        return value | self.differs.get(host, {})

    def _resolve(self, host: str, revision: str | None) -> dict[str, Any]:
        return {"commit": self.finds.get(host, NEW)}

    def _release(self, _host: str, commit: str) -> dict[str, Any]:
        return {"commit": OLD, "release": f"0003-{OLD[:12]}"} | self.has.get(_host, {})

    def _claim(self, host: str, deployment: str, by: str, until: float) -> None:
        assert self.claims.get(host) in (None, deployment)
        assert time.time() < until < time.time() + 120
        self.claims[host] = deployment

    def _prepare(self, host: str, deployment: str, by: str, commit: str, sequence: int) -> dict[str, Any]:
        assert self.claims[host] == deployment
        self.prepared[host] = commit
        self.sequence[host] = sequence
        return {"pending": self.pending, "release": f"{sequence:04}-{commit[:12]}"}

    def _migrate(self, host: str, deployment: str, by: str, until: float) -> dict[str, Any]:
        return {"migrated": self.pending}

    def _start(self, host: str, deployment: str, by: str, until: float, migrated: list[str]) -> dict[str, Any]:
        assert migrated == self.pending
        return {"warnings": [f"{host} is slow"]}

    def _switch(self, host: str, deployment: str, by: str, until: float) -> dict[str, Any]:
        self.before[host], self.live[host] = self.live[host], self.prepared.pop(host)
        return {"release": f"{self.sequence[host]:04}-{self.live[host][:12]}"}

    def _start_older(
        self, host: str, deployment: str, by: str, until: float, commit: str, force: bool
    ) -> dict[str, Any]:
        assert self.claims[host] == deployment
        self.started[host] = commit
        return {"release": f"0003-{commit[:12]}", "commit": commit}

    def _rollback(self, host: str, deployment: str, by: str, until: float, commit: str, force: bool) -> dict[str, Any]:
        assert time.time() < until and [*self.started.values()] == [commit] * len(self.live), "all have started it"
        self.before[host], self.live[host] = self.live[host], commit
        return {"release": f"0003-{commit[:12]}", "commit": commit}

    def _finish(self, host: str, deployment: str, by: str, first: str, known: dict[str, Any]) -> dict[str, Any]:
        assert {*self.live.values()} == {known["commit"]}, "no instance is stopped before all hosts have switched"
        self.claims.pop(host)
        self.before.pop(host, None)
        return {"warnings": [f"{host} runs the commands"] if first == host else []}

    def _abandon(self, host: str, deployment: str, by: str, keep: bool) -> None:
        if self.claims.pop(host, deployment) == (deployment or ANY) and not keep:
            self.live[host] = self.before.pop(host, self.live[host])
        self.prepared.pop(host, None)

    def _backend(self, host: str, *_arguments: str) -> dict[str, Any]:
        return self.seen

    def _serves(self, host: str) -> dict[str, Any]:
        return {"clients": self.clients}

    def _stores(self, host: str) -> dict[str, Any]:
        return {} if self.clients is None else {"clients": self.clients}

    def _expect(self, host: str, commits: list[str], count: int | None = None) -> None:
        assert not commits or {*self.live.values()} & {*commits}, "every host would be taken out"
        self.expected = commits
        if count is not None:
            self.counted = count


class World:
    """A site on hosts that are played, and its store."""

    def __init__(self, folder: Path):
        self.store = Store(folder / "store", "blog")
        self.store.keep_hosts({"web1": ["app"], "web2": ["app"], "web3": ["app"], "lb1": ["balancer"]})
        self.hosts = Played(["web1", "web2", "web3"])
        self.told: list[str] = []
        self.number = 0

    def fleet(self, *exclude: str) -> Fleet:
        told = self.told
        fleet = Fleet(self.store, self.hosts, "ops on master1", lambda phase, _: told.append(phase), exclude=exclude)
        self.number += 1
        fleet.id += f"-{self.number}"
        return fleet

    def fail(self, host: str, verb: str, error: str = "refused", *, is_lost: bool = False) -> None:
        self.hosts.fails[host, verb] = Answer({}, error, is_lost)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_deployment_goes_through_its_phases_on_all_hosts(world: World) -> None:
    done = world.fleet().deploy(None)
    assert {*world.hosts.live.values()} == {NEW} and not world.hosts.claims
    assert world.store.release() == {"commit": NEW, "sequence": 5, "held": [], "count": 1}
    assert done["hosts"] == dict.fromkeys(("web1", "web2", "web3"), f"0005-{NEW[:12]}")
    assert done["warnings"]["web2"] == ["web2 is slow"]
    assert world.hosts.verbs() == [
        *("ready", "backend", "resolve", "claim", "prepare", "migrate", "start", "expect"),
        *("switch", "switch", "switch", "finish", "expect"),
    ]
    assert world.hosts.expected == [NEW]
    assert ("send django_fleet.renew", ["web1", "web2", "web3"]) in world.hosts.calls, "claims are renewed"


def test_a_claim_outlives_many_phases_that_are_each_too_short_to_renew_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    claimed = [0.0]
    ask, send = world.hosts.ask, world.hosts.send

    def slow(hosts: Collection[str], function: str, *arguments: Any, **options: Any) -> dict[str, Answer]:
        options.pop("meanwhile", None)
        if function == "django_fleet.claim":
            claimed[0] = now[0]
        now[0] += 0.95 * world.hosts.patience
        if function in ("django_fleet.prepare", "django_fleet.start", "django_fleet.switch", "django_fleet.finish"):
            assert now[0] - claimed[0] < fleet_deployment.CLAIM * world.hosts.patience, function
        return ask(hosts, function, *arguments, **options)

    def sent(hosts: Collection[str], function: str, *arguments: Any) -> None:
        claimed[0] = now[0]
        send(hosts, function, *arguments)

    monkeypatch.setattr(world.hosts, "ask", slow)
    monkeypatch.setattr(world.hosts, "send", sent)
    monkeypatch.setattr(fleet_deployment.time, "monotonic", lambda: now[0])
    world.fleet().deploy(None)
    assert {*world.hosts.live.values()} == {NEW}


BEFORE = ("claim", "prepare", "start")


@pytest.mark.parametrize("host", ["web1", "web2"])
@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("verb", [*BEFORE, "migrate", "resolve", "expect"])
def test_a_failure_before_the_switch_leaves_every_host_as_it_was(
    world: World, verb: str, host: str, is_lost: bool
) -> None:
    host = {"migrate": "web1", "resolve": "web1", "expect": "lb1"}.get(verb, host)
    world.fail(host, verb, "no space left on device", is_lost=is_lost)
    with pytest.raises(DeploymentError) as failure:
        world.fleet().deploy(None)
    assert "switch" not in world.hosts.verbs()
    assert {*world.hosts.live.values()} == {OLD}
    asked = next(hosts for verb, hosts in world.hosts.calls if verb == "abandon") if verb != "resolve" else []
    assert (host in asked) is not is_lost or verb in ("resolve", "expect"), "a lost host is not waited for"
    told = ("send django_fleet.abandon", [host]) in world.hosts.calls
    assert told is (is_lost and verb not in ("resolve", "expect")), "but it may hear it"
    assert not {*world.hosts.claims} - {host}
    assert world.store.release()["commit"] == ""
    text = str(failure.value)
    assert verb in text and f"{host}: no space left on device" in text
    if verb != "resolve":
        assert f"serve {OLD[:12]}, as before" in text


def test_hosts_that_share_images_wait_for_the_first_one_to_build(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = world.hosts._ready
    monkeypatch.setattr(world.hosts, "_ready", lambda host: {**ready(host), "shares_images": True})
    world.fleet().deploy(None)
    assert [hosts for verb, hosts in world.hosts.calls if verb == "prepare"] == [["web1"], ["web2", "web3"]]
    assert {*world.hosts.live.values()} == {NEW}


def test_one_host_alone_does_not_choose_the_commit(world: World) -> None:
    world.hosts.finds["web1"] = "e" * 40
    with pytest.raises(DeploymentError, match=f"web1: {'e' * 12} is the commit that it finds, and another host"):
        world.fleet().deploy(None)
    assert "claim" not in world.hosts.verbs() and {*world.hosts.live.values()} == {OLD}


def test_hosts_do_not_choose_the_commit_where_the_whole_one_is_given(world: World) -> None:
    world.hosts.finds = dict.fromkeys(world.hosts.live, "e" * 40)
    world.fleet().deploy(NEW)
    assert {*world.hosts.live.values()} == {NEW} and "resolve" not in world.hosts.verbs()


@pytest.mark.parametrize("is_lost", [False, True])
@pytest.mark.parametrize("host", ["web1", "web2", "web3"])
def test_a_failure_in_the_switch_takes_back_those_that_have_switched(world: World, host: str, is_lost: bool) -> None:
    world.fail(host, "switch", "its server exited", is_lost=is_lost)
    with pytest.raises(DeploymentError) as failure:
        world.fleet().deploy(None)
    assert {*world.hosts.live.values()} == {OLD} and world.hosts.expected == [OLD]
    assert world.store.release()["commit"] == ""
    assert [*world.hosts.claims] == ([host] if is_lost else []), "a lost host is not waited for"
    assert (("send django_fleet.abandon", [host]) in world.hosts.calls) is is_lost
    assert f"{host}: its server exited" in str(failure.value)
    assert ("once it answers, apply on it" in str(failure.value)) is is_lost


@pytest.mark.parametrize("batch", [0, 1, 2])
def test_ctrl_c_in_the_switch_takes_all_hosts_back(world: World, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    switch, names = world.hosts._switch, ["web1", "web2", "web3"]

    def interrupted(host: str, *arguments: Any) -> dict[str, Any]:
        done = switch(host, *arguments)
        if host == names[batch]:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(world.hosts, "_switch", interrupted)
    with pytest.raises(DeploymentError, match=f"{names[batch]}: interrupted by Ctrl-C"):
        world.fleet().deploy(None)
    assert {*world.hosts.live.values()} == {OLD} and world.store.release()["commit"] == ""
    assert not world.hosts.claims and world.hosts.expected == [OLD]


@pytest.mark.parametrize("signal", [KeyboardInterrupt(), SystemExit(0)], ids=["Python's", "Salt's"])
def test_ctrl_c_before_the_switch_leaves_every_host_as_it_was(
    world: World, monkeypatch: pytest.MonkeyPatch, signal: BaseException
) -> None:
    monkeypatch.setattr(world.hosts, "_start", Mock(side_effect=signal))
    with pytest.raises(DeploymentError, match=f"interrupted by Ctrl-C .*\n.* serve {OLD[:12]}, as before"):
        world.fleet().deploy(None)
    assert {*world.hosts.live.values()} == {OLD} and not world.hosts.claims and not world.hosts.prepared


def test_claims_of_a_deployment_of_this_master_that_is_over_do_not_count(world: World) -> None:
    world.fail("web2", "prepare", "it does not answer", is_lost=True)
    with pytest.raises(DeploymentError):
        world.fleet().deploy(None)
    assert [*world.hosts.claims] == ["web2"]
    world.fail("web2", "ready", "it does not answer", is_lost=True)
    with pytest.raises(DeploymentError, match="web2: it does not answer"):
        world.fleet().deploy(None)
    world.hosts.fails.clear()
    world.fleet().deploy(None)
    assert {*world.hosts.live.values()} == {NEW} and not world.hosts.claims


class Killed(BaseException):
    """The end of a runner, which does nothing any more."""


def killed(world: World, verb: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin a deployment whose runner is killed once a number of hosts have done their part of a phase."""
    ask, done = world.hosts.ask, getattr(world.hosts, f"_{verb}")
    left = [number]

    def do(host: str, *arguments: Any) -> Any:
        answer = done(host, *arguments)
        left[0] -= 1
        if not left[0]:
            monkeypatch.setattr(world.hosts, "ask", lambda *_, **__: (_ for _ in ()).throw(Killed))
            raise Killed
        return answer

    monkeypatch.setattr(world.hosts, f"_{verb}", do)
    with pytest.raises(Killed):
        world.fleet().deploy(None)
    monkeypatch.setattr(world.hosts, f"_{verb}", done)
    monkeypatch.setattr(world.hosts, "ask", ask)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("verb", ["claim", "prepare", "start", "switch", "finish"])
@pytest.mark.parametrize("first", ["abandon", "abandon own", "deploy"])
def test_what_a_killed_runner_has_left_is_ended_on_all_hosts(
    world: World, verb: str, number: int, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.store.set_release({"commit": OLD, "sequence": 4, "held": []})
    killed(world, verb, number, monkeypatch)
    assert world.store.over(), "its process does not deploy any more"
    if first != "deploy":
        world.fleet().abandon(own=first == "abandon own")
        assert {*world.hosts.live.values()} == {NEW if verb == "finish" else OLD}
        assert not world.hosts.claims and not world.hosts.prepared
        assert world.hosts.expected == [NEW if verb == "finish" else OLD]
    world.fleet().deploy(None)
    assert {*world.hosts.live.values()} == {NEW} and not world.hosts.claims


def test_what_did_not_end_on_a_host_is_an_error_and_the_release_stays(world: World) -> None:
    world.fail("web2", "finish", "its job has ended without an answer", is_lost=True)
    with pytest.raises(DeploymentError, match="finish failed on 1 of the hosts:\nweb2: its job") as failure:
        world.fleet().deploy(None)
    assert f"serve {NEW[:12]}: apply on those that failed" in str(failure.value)
    assert {*world.hosts.live.values()} == {NEW} and world.store.release()["commit"] == NEW
    world.hosts.fails.clear()
    world.fleet().deploy(None)
    assert not world.hosts.claims


def test_a_deployment_that_runs_is_not_over(world: World) -> None:
    with world.store.deploying("ada"):
        world.store.begin("7")
        assert world.store.over() == ""
        with pytest.raises(DeploymentError, match="being deployed by ada"):
            world.fleet().abandon()
    assert world.store.over() == "7"


def test_a_deployment_that_was_under_way_at_a_power_failure_is_over(world: World) -> None:
    """After the boot its pid is often that of a daemon."""
    path = world.store.folder / "lock"
    with world.store.deploying("ada (salt-run)") as progress:
        world.store.begin("7")
        for phase in ("prepare a release", "start"):
            progress.phase(phase)
            assert world.store.is_deployed() and world.store.over() == ""
        recorded = path.read_text()
    holder, identity, *_rest = recorded.split("\n")
    path.write_text(f"{holder}\n{identity.replace(identity[:8], 'before00')}\n")
    assert not world.store.is_deployed() and world.store.over() == "7"
    path.write_text(f"{holder}\n")
    assert world.store.is_deployed(), "of a former version"


def test_a_host_that_cannot_be_taken_back_is_named(world: World) -> None:
    world.fail("web2", "switch", "its server exited")
    world.fail("web1", "abandon", "the former release does not start")
    with pytest.raises(DeploymentError, match="web1: the former release does not start"):
        world.fleet().deploy(None)


PROBLEMS = [
    (
        {"claim": "ada, since noon", "unfinished": "7"},
        "web2: it is being deployed by ada, since noon; salt-run django.abandon blog ends it",
    ),
    ({"deployment": "salt job 1"}, "web2: it is being deployed by salt job 1"),
    ({"uploads": "nothing is mounted at /srv/django/blog/media"}, "web2: nothing is mounted at /srv/django/blog/media"),
    ({"key": "other"}, "web2: it does not accept what web1 signs with another secret key: apply on both"),
    ({"hosts": {"web9": {}}}, "web2: its hosts were applied from another pillar: apply on it"),
    ({"time": 0.0}, "web2: its clock differs by"),
    ({"commit": ""}, "web2: it serves nothing, the others aaaaaaaaaaaa: apply on it"),
]


@pytest.mark.parametrize(("differs", "text"), PROBLEMS, ids=[next(iter(one)) for one, _ in PROBLEMS])
def test_every_reason_is_said_before_anything_is_begun(world: World, differs: dict[str, Any], text: str) -> None:
    world.store.set_release({"commit": OLD, "sequence": 4, "held": []})
    world.hosts.differs["web2"] = differs
    world.fail("web3", "ready", "it does not answer", is_lost=True)
    world.fail("lb1", "backend", "does not answer on its socket")
    with pytest.raises(DeploymentError) as failure:
        world.fleet().deploy(None)
    assert world.hosts.verbs() == ["ready", "backend"]
    for line in (text, "web3: it does not answer", "lb1: does not answer on its socket"):
        assert line in str(failure.value)


def test_host_with_a_new_name_has_to_be_applied_first(world: World) -> None:
    """Else it takes another one for the host that runs the commands after the switch."""
    world.hosts.differs = {host: {"hosts": {"old1": {}, "web2": {}, "web3": {}}} for host in world.hosts.live}
    with pytest.raises(DeploymentError, match=r"on 1 of the hosts:\nweb1: its hosts were applied from another pillar"):
        world.fleet().deploy(None)
    assert not world.hosts.claims


def test_a_queue_that_does_not_answer_or_let_a_host_in_stops_a_deployment_before_it_begins(world: World) -> None:
    parts = {"cache1": ["cache"], "web1": ["app"], "web2": ["app"], "web3": ["worker"]}
    world.store.keep_hosts(parts)
    places = {name: {"parts": its, "address": f"10.0.0.{name[-1]}"} for name, its in parts.items()}
    world.hosts.differs = {name: {"hosts": places} for name in parts}
    world.hosts.clients = ["10.0.0.1", "10.0.0.2", "localhost"]
    for answer, text in (
        (None, "its queue or cache does not let in web3: apply on it"),
        (Answer({}, "it does not answer", True), "it does not answer"),
        (Answer({"clients": 7}), "its answer is not that of this version of the formula: apply on it"),
    ):
        world.hosts.fails = {("cache1", "stores"): answer} if answer else {}
        with pytest.raises(DeploymentError, match=f"preflight failed on 1 of the hosts:\ncache1: {text}"):
            world.fleet().deploy(None)
    assert not world.hosts.claims and {*world.hosts.live.values()} == {OLD}
    world.hosts.fails, world.hosts.clients = {}, None  # supervisor filters no addresses
    world.fleet().deploy(None)
    assert {*world.hosts.live.values()} == {NEW}


def test_a_host_that_is_lost_is_waited_for_once(world: World) -> None:
    world.store.keep_hosts({"web1": ["app", "cache", "database"], "web2": ["app"]})
    world.fail("web1", "ready", "it does not answer", is_lost=True)
    with pytest.raises(DeploymentError, match=r"preflight failed on 1 of the hosts:\nweb1: it does not answer$"):
        world.fleet().deploy(None)
    assert world.hosts.verbs() == ["ready"]


def test_one_host_alone_does_not_use_the_numbers_of_releases_up(world: World) -> None:
    world.hosts.sequence = {"web1": 1, "web2": 99_999_999, "web3": 40_000}  # web1 was added just now
    with pytest.raises(DeploymentError, match=r"on 1 of the hosts:\nweb2: its next release has the number 99999999, "):
        world.fleet().deploy(None)
    world.hosts.sequence["web2"] = 40_001
    world.fleet().deploy(None)
    assert world.store.release()["sequence"] == 40_001


def test_migrations_are_not_judged_for_hosts_that_serve_different_commits(world: World) -> None:
    world.hosts.pending, world.hosts.live["web3"] = ["0002_more"], "c" * 40
    with pytest.raises(DeploymentError, match="do not serve the same commit"):
        world.fleet().deploy(None)
    assert "migrate" not in world.hosts.verbs()


@pytest.fixture
def with_workers(world: World) -> World:
    """Two hosts that serve the site, of which the second has workers too, and two that have only these."""
    parts = {"a": ["worker"], "b": ["worker"], "web1": ["app"], "web2": ["app", "worker"]}
    world.store.keep_hosts(parts)
    world.hosts = Played(parts)
    return world


def test_hosts_for_workers_switch_after_those_that_serve(with_workers: World) -> None:
    done = with_workers.fleet().deploy(None)
    switched = [hosts for verb, hosts in with_workers.hosts.calls if verb == "switch"]
    assert switched == [["web1"], ["web2"], ["a"], ["b"]] and [*done["hosts"]] == ["web1", "web2", "a", "b"]
    first = [hosts for verb, hosts in with_workers.hosts.calls if verb in ("resolve", "migrate", "finish")]
    assert first == [["web1", "web2"], ["web1"], ["a", "b", "web1", "web2"]]
    with_workers.hosts.calls.clear()
    with_workers.fleet().rollback(None, force=False)
    assert [hosts for verb, hosts in with_workers.hosts.calls if verb == "rollback"] == switched
    assert {*with_workers.hosts.live.values()} == {OLD} and not with_workers.hosts.claims
    assert [*with_workers.fleet().status()["hosts"]] == ["a", "b", "web1", "web2"]


def test_workers_that_fail_in_the_switch_take_all_hosts_back(with_workers: World) -> None:
    with_workers.fail("b", "switch", "its workers do not start")
    with pytest.raises(DeploymentError, match="b: its workers do not start"):
        with_workers.fleet().deploy(None)
    assert {*with_workers.hosts.live.values()} == {OLD} and not with_workers.hosts.claims


def test_a_rollback_is_one_for_all_hosts(world: World) -> None:
    world.fleet().deploy(None)
    done = world.fleet().rollback(None, force=False)
    assert {*world.hosts.live.values()} == {OLD} and world.hosts.expected == [OLD] and world.hosts.counted == 2
    assert done["commit"] == OLD and world.store.release() == {"commit": OLD, "sequence": 3, "held": [NEW], "count": 2}
    world.fleet().deploy(None)
    assert world.store.release()["held"] == []


@pytest.mark.parametrize("lie", [{"commit": NEW}, {"commit": "c" * 40}])
def test_hosts_that_find_different_older_commits_roll_nothing_back(world: World, lie: dict[str, str]) -> None:
    world.hosts.has["web1"] = lie
    with pytest.raises(DeploymentError, match="look failed on 3 of the hosts"):
        world.fleet().rollback(OLD[:7], force=False)
    assert "rollback" not in world.hosts.verbs() and not world.hosts.claims


def test_a_rollback_that_does_not_start_everywhere_switches_nowhere(world: World) -> None:
    world.fleet().deploy(None)
    world.fail("web3", "start_older", "it does not start")
    with pytest.raises(DeploymentError, match="start failed on 1 of the hosts:\nweb3: it does not start"):
        world.fleet().rollback(None, force=False)
    assert "rollback" not in world.hosts.verbs() and not world.hosts.claims
    assert {*world.hosts.live.values()} == {NEW} and world.store.release()["commit"] == NEW


def test_a_rollback_that_fails_on_one_host_leaves_all_on_the_newer_release(world: World) -> None:
    world.fleet().deploy(None)
    world.fail("web3", "rollback", "it does not start")
    with pytest.raises(DeploymentError, match="web3: it does not start"):
        world.fleet().rollback(None, force=False)
    assert {*world.hosts.live.values()} == {NEW} and world.store.release()["commit"] == NEW


def test_hosts_without_a_common_older_release_are_named(world: World) -> None:
    world.hosts.differs["web2"] = {"older": ""}
    with pytest.raises(DeploymentError, match="web2: its older release is none"):
        world.fleet().rollback(None, force=False)


def test_status_names_hosts_that_are_behind_or_silent(world: World) -> None:
    world.fleet().deploy(None)
    world.hosts.live["web2"] = OLD
    world.fail("web3", "ready", "it does not answer", is_lost=True)
    status = world.fleet().status()
    assert status["behind"] == ["web2", "web3"]
    assert status["hosts"]["web3"] == {"parts": "app", "answers": False, "error": "it does not answer"}


def test_status_shows_every_host_with_its_parts(world: World) -> None:
    world.fleet().deploy(None)
    parts = {"cache1": ["cache"], "db1": ["database"], "lb1": ["balancer"], "web1": ["app", "worker"]}
    world.store.keep_hosts(parts)
    web1 = {"parts": "app, worker", "answers": True, "release": "0004-x", "commit": NEW}
    others = {name: {"parts": parts[name][0], "answers": True} for name in ("cache1", "db1", "lb1")}
    status = world.fleet().status()
    assert status["hosts"] == {**others, "web1": web1} and status["behind"] == []
    world.fail("cache1", "stores", "the store does not answer")
    world.fail("lb1", "backend", "it does not answer", is_lost=True)
    status = world.fleet().status()
    assert status["behind"] == ["cache1", "lb1"] and status["hosts"]["db1"] == others["db1"]
    error = {"answers": False, "error": "the store does not answer"}
    assert status["hosts"]["cache1"] == {"parts": "cache", **error}


UP = {"state": "ready", "is_up": True, "check": "L7OK", "requests": 0, "weight": 100}


def test_hosts_that_get_no_requests_are_shown_and_warned_of(world: World) -> None:
    world.fleet().deploy(None)
    world.hosts.seen = {
        "web1": UP,
        "web2": {**UP, "state": "drain"},
        "web3": {**UP, "is_up": False, "check": "L7STS 503"},
    }
    status = world.fleet().status()
    assert {host: row.get("no_requests") for host, row in status["hosts"].items()} == {
        **{"lb1": None, "web1": None, "web2": "lb1: drain", "web3": "lb1: down (L7STS 503)"}
    }
    assert status["behind"] == [], "they serve the common release, and answer"
    warnings = world.fleet().deploy(None)["warnings"]
    assert warnings["web2"][0] == "it gets no requests (lb1: drain) until salt-run django.join blog web2"
    assert not any("no requests" in text for host in ("web1", "web3") for text in warnings[host])


def test_what_a_balancer_answers_in_another_form_is_not_shown(world: World) -> None:
    world.hosts.seen = {"web1": "up", "web2": {"state": 7, "is_up": True, "check": ""}}
    assert not any("no_requests" in row for row in world.fleet().status()["hosts"].values())


# Hosts that are left out


def silent(world: World, host: str) -> None:
    for verb in ("ready", "backend", "claim", "prepare", "abandon"):
        world.fail(host, verb, "it does not answer", is_lost=True)


def test_a_dead_host_is_left_out_and_shown_until_it_has_caught_up(world: World) -> None:
    world.fleet().deploy(None)
    world.hosts.finds = dict.fromkeys(world.hosts.live, "c" * 40)
    silent(world, "web3")
    with pytest.raises(DeploymentError, match="web3: it does not answer") as refused:
        world.fleet().deploy(None)
    command = "salt-run django.deploy blog exclude=web3"
    assert refused.value.hint == f"repair web3; or release without, and apply there later: {command}"
    del world.hosts.live["web3"]  # no phase of the other hosts waits for it
    done = world.fleet("web3").deploy(None)
    assert {*done["hosts"]} == {"web1", "web2"} and {*world.hosts.live.values()} == {"c" * 40}
    assert done["warnings"]["web3"][0].startswith("left out: no balancer gives it requests until an apply")
    assert world.store.release()["commit"] == "c" * 40
    shown = world.fleet().status()
    assert shown["behind"] == ["web3"] and "by ops on master1" in shown["hosts"]["web3"]["excluded"]
    world.hosts.fails.clear()
    world.hosts.live["web3"] = NEW
    shown = world.fleet().status()
    assert shown["behind"] == ["web3"] and shown["hosts"]["web3"]["excluded"]
    with pytest.raises(DeploymentError, match="web3: it serves bbbbbbbbbbbb, the others cccccccccccc: apply on it"):
        world.fleet().deploy(None)
    world.hosts.live["web3"] = "c" * 40
    shown = world.fleet().status()
    assert shown["behind"] == [] and "excluded" not in shown["hosts"]["web3"] and world.store.excluded() == {}


def test_a_balancer_that_was_left_out_has_caught_up_once_it_lets_the_common_release_in(world: World) -> None:
    apps, balancers = dict.fromkeys(world.hosts.live, "app"), {"lb1": "balancer", "lb2": "balancer"}
    world.store.keep_hosts({name: [part] for name, part in (apps | balancers).items()})
    silent(world, "lb2")
    done = world.fleet("lb2").deploy(None)
    assert "lets in hosts with the former release alone" in done["warnings"]["lb2"][0]
    world.hosts.fails.clear()
    world.hosts.seen = {"web1": {**UP, "is_up": False}}
    assert world.fleet().status()["behind"] == ["lb2"]
    world.hosts.seen = {"web1": UP}
    assert world.fleet().status()["behind"] == []


@pytest.mark.parametrize(
    ("options", "act", "command"),
    [
        ({}, lambda fleet: fleet.deploy("v2.4.1"), "django.deploy blog v2.4.1"),
        ({"canary": False}, lambda fleet: fleet.deploy(None), "django.deploy blog canary=False"),
        ({}, lambda fleet: fleet.rollback(None, force=False), "django.rollback blog"),
        ({}, lambda fleet: fleet.rollback(OLD[:12], force=True), f"django.rollback blog {OLD[:12]} force=True"),
    ],
)
def test_way_without_a_dead_host_is_that_of_what_was_called(
    world: World, options: dict[str, Any], act: Callable[[Fleet], Any], command: str
) -> None:
    silent(world, "web3")
    with pytest.raises(DeploymentError, match="web3: it does not answer") as refused:
        act(Fleet(world.store, world.hosts, "ops", lambda _phase, _found: None, **options))
    assert refused.value.hint.endswith(f": salt-run {command} exclude=web3")


def test_commands_of_a_deployment_by_salt_ssh_are_by_salt_ssh(world: World) -> None:
    fleet = Fleet(world.store, world.hosts, "ops", lambda _phase, _found: None, words=["roster=True"])
    world.fail("web3", "ready", "it does not answer", is_lost=True)
    world.hosts.differs["web2"] = {"claim": "ada, since noon", "unfinished": "7"}
    with pytest.raises(DeploymentError) as refused:
        fleet.deploy("v2")
    assert "salt-run django.abandon blog roster=True ends it" in refused.value.message
    assert refused.value.hint.endswith(": salt-run django.deploy blog v2 roster=True exclude=web3")
    world.hosts.differs.clear()
    world.hosts.fails.clear()
    world.hosts.seen = {"web2": {**UP, "state": "drain"}}
    assert "salt-run django.join blog web2 roster=True" in fleet.deploy(None)["warnings"]["web2"][0]


@pytest.mark.parametrize(
    ("exclude", "text"),
    [
        (["web9"], "exclude: web9 is no host of blog"),
        (["db1"], "exclude: db1 is the only host of blog with the part database"),
        (["web1", "web2"], "is the only host of blog with the part app"),
        (["lb1"], "lb1 is the only host of blog with the part balancer"),
        (["jobs1"], "jobs1 is the only host of blog with the part cache and worker"),
    ],
)
def test_a_host_that_the_others_need_is_not_left_out(world: World, exclude: list[str], text: str) -> None:
    parts = {"web1": ["app"], "web2": ["app"], "lb1": ["balancer"], "db1": ["database"], "jobs1": ["worker", "cache"]}
    world.store.keep_hosts(parts)
    with pytest.raises(DeploymentError, match=text):
        world.fleet(*exclude).deploy(None)
    assert world.hosts.calls == []


def test_no_way_out_is_named_where_there_is_none(world: World) -> None:
    world.store.keep_hosts({"web1": ["app"], "web2": ["app"], "web3": ["app"], "db1": ["database"]})
    world.fail("db1", "serves", "it does not answer", is_lost=True)
    with pytest.raises(DeploymentError, match="db1: it does not answer") as refused:
        world.fleet().deploy(None)
    assert refused.value.hint == ""


def test_what_only_the_host_that_is_left_out_did_is_named(world: World) -> None:
    world.hosts.pending = ["blog.0004"]
    silent(world, "web1")
    del world.hosts.live["web1"]
    texts = " ".join(world.fleet("web1").deploy(None)["warnings"]["web1"])
    assert "it makes the backups at times for all hosts" in texts and "it runs the schedules" in texts
    assert "not judged whether blog.0004 fits" in texts


@pytest.mark.parametrize(
    "act",
    [
        lambda fleet: fleet.deploy(None),
        lambda fleet: fleet.rollback(None, force=False),
        lambda fleet: fleet.commit_of(None),
    ],
)
def test_site_none_of_whose_hosts_can_have_a_release_says_so(world: World, act: Callable[[Fleet], Any]) -> None:
    """As where the master has not accepted the keys of the minions that a pattern names."""
    world.store.keep_hosts({"lb1": ["balancer"]})
    with pytest.raises(DeploymentError, match="no host of blog that the master knows has the part app or worker") as no:
        act(world.fleet())
    assert "salt-key" in no.value.hint and "lb1" in no.value.hint
    assert world.fleet().status()["hosts"].keys() == {"lb1"}


def test_drain_needs_a_balancer(world: World) -> None:
    assert world.fleet().set_backend("web2", "drain") == {"lb1": {}}
    world.store.keep_hosts({"web1": ["app"]})
    with pytest.raises(DeploymentError, match="no host with the part balancer"):
        world.fleet().set_backend("web2", "drain")


def test_batches_begin_with_one_host() -> None:
    assert batches(["a"], "25%") == [["a"]] and batches([], "25%") == []
    assert batches(["a", "b", "c"], "25%") == [["a"], ["b"], ["c"]]
    hosts = [f"web{number}" for number in range(20)]
    sizes = {text: [len(batch) for batch in batches(hosts, text)] for text in ("25%", "1", "8", "100%", "1%")}
    assert sizes["25%"] == [1, 5, 5, 5, 4] and sizes["8"] == [1, 8, 8, 3] and sizes["100%"] == [1, 19]
    assert sizes["1"] == sizes["1%"] == [1] * 20


def test_the_size_of_batches_may_be_given(world: World) -> None:
    fleet = Fleet(world.store, world.hosts, "ops", lambda phase, found: None, "100%")
    fleet.deploy(None)
    assert [hosts for verb, hosts in world.hosts.calls if verb == "switch"] == [["web1"], ["web2", "web3"]]
    for wrong in ("0", "-1", "", "half", "10 %"):
        with pytest.raises(DeploymentError, match="batch: expected a number of hosts or a percentage of them"):
            Fleet(world.store, world.hosts, "ops", lambda phase, found: None, wrong)


# The store


def test_the_second_deployment_of_a_site_names_the_first(world: World) -> None:
    with world.store.deploying("ada (salt-run)") as progress:
        progress.phase("prepare")
        with pytest.raises(DeploymentError, match=r"being deployed by ada \(salt-run\), pid .*, phase prepare"):
            world.fleet().deploy(None)
    world.fleet().deploy(None)


def test_a_deployment_of_another_master_is_named_and_not_disturbed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = World(tmp_path / "master2")
    other.hosts = world.hosts
    prepare, refused = world.hosts._prepare, []

    def meanwhile(host: str, *arguments: Any) -> dict[str, Any]:
        with pytest.raises(DeploymentError) as failure:
            other.fleet().deploy(None)
        refused.append(str(failure.value))
        return prepare(host, *arguments)

    monkeypatch.setattr(world.hosts, "_prepare", meanwhile)
    first = world.fleet()
    first.deploy(None)
    assert len(refused) == 3
    for text in refused:
        assert f"web1: it is being deployed by {first.id}; salt-run django.abandon blog ends it" in text
    assert {*world.hosts.live.values()} == {NEW} and not world.hosts.claims
    monkeypatch.undo()
    other.fleet().deploy(None)


def test_a_killed_runner_that_had_claimed_nothing_ends_no_deployment_of_another_master(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = World(tmp_path / "master2")
    other.hosts, other.number = world.hosts, 10
    other.fleet().deploy(None)  # so that it has a last deployment
    prepare = world.hosts._prepare

    def meanwhile(host: str, *arguments: Any) -> dict[str, Any]:
        assert other.fleet().abandon(own=True) == {}
        return prepare(host, *arguments)

    monkeypatch.setattr(world.hosts, "_prepare", meanwhile)
    world.fleet().deploy(None)
    assert {*world.hosts.live.values()} == {NEW} and not world.hosts.claims


def test_an_apply_in_a_deployment_changes_its_hosts_no_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    start = world.hosts._start

    def meanwhile(host: str, *arguments: Any) -> dict[str, Any]:
        world.store.keep_hosts({} if host == "web3" else {"web1": ["app"], "web4": ["app"], "lb2": ["balancer"]})
        return start(host, *arguments)

    monkeypatch.setattr(world.hosts, "_start", meanwhile)
    world.fleet().deploy(None)
    assert {*world.hosts.live.values()} == {NEW} and not world.hosts.claims


@pytest.mark.parametrize(
    "lie", [{"sequence": "7"}, {"sequence": 10**400}, {"sequence": 0}, {"commit": None}, {"hosts": []}, {"time": "now"}]
)
def test_an_answer_in_another_form_stops_a_deployment_before_it_begins(world: World, lie: dict[str, Any]) -> None:
    world.hosts.differs["web2"] = lie
    with pytest.raises(DeploymentError, match="web2: its answer is not that of this version of the formula: apply on"):
        world.fleet().deploy(None)
    assert "claim" not in world.hosts.verbs()


WRONG = [
    ("resolve", {}),
    ("resolve", {"commit": 7}),
    ("prepare", {}),
    ("prepare", {"pending": "0002"}),
    ("prepare", {"pending": [], "release": ["x"]}),
    ("migrate", {"migrated": [7]}),
    ("start", {"warnings": 7}),
    ("switch", {"release": {}}),
]


@pytest.mark.parametrize(("verb", "value"), WRONG, ids=str)
def test_an_answer_in_another_form_fails_its_phase_as_any_other_error(world: World, verb: str, value: Any) -> None:
    world.hosts.fails["web1", verb] = Answer(value)
    with pytest.raises(DeploymentError, match="web1: its answer is not that of this version of the formula: apply on"):
        world.fleet().deploy(None)
    assert {*world.hosts.live.values()} == {OLD} and not world.hosts.claims and not world.hosts.prepared


@pytest.mark.parametrize("commit", ["--upload-pack=x", "main", "b" * 39, f"{NEW}\n"])
def test_what_is_no_commit_is_neither_released_nor_expected(world: World, commit: str) -> None:
    world.hosts.finds = dict.fromkeys(world.hosts.live, commit)
    with pytest.raises(DeploymentError, match=" is no whole commit"):
        world.fleet().deploy(None)
    world.hosts.has = {host: {"commit": commit} for host in world.hosts.live}
    with pytest.raises(DeploymentError, match="look failed on 3 of the hosts"):
        world.fleet().rollback(OLD[:7], force=False)
    world.hosts.live["web2"] = commit
    with pytest.raises(DeploymentError, match="web2: its answer is not that of this version of the formula: apply on"):
        world.fleet().deploy(None)
    assert not {"prepare", "rollback"} & {*world.hosts.verbs()} and world.hosts.expected == []


def test_the_lock_dies_with_its_process(world: World) -> None:
    code = (
        "import sys, time; from django_formula.fleet.store import Store\n"
        f"with Store({str(world.store.folder.parent)!r}, 'blog').deploying('ada'):\n"
        "    print('has it', flush=True)\n"
        "    time.sleep(60)"
    )
    path = os.pathsep.join(sys.path)
    with subprocess.Popen(
        [sys.executable, "-B", "-c", code], stdout=subprocess.PIPE, env={"PYTHONPATH": path}
    ) as other:
        assert other.stdout and other.stdout.readline()
        with pytest.raises(DeploymentError, match="being deployed by ada"), world.store.deploying("bob"):
            pass
        other.kill()
        other.wait()
        with world.store.deploying("bob"):
            pass


def test_the_secret_key_is_made_once_for_all_who_ask_at_once(tmp_path: Path) -> None:
    found: set[str] = set()
    threads = [
        threading.Thread(target=lambda: found.add(Store(tmp_path / "s", "blog").secret_key())) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 1 and len(next(iter(found))) == 50
    folder = tmp_path / "s/blog"
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
    assert (folder / "secret_key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["../x", "", "a/b", "A", "x" * 27])
def test_a_name_that_is_no_site_reaches_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(DeploymentError, match="is no name of a site"):
        Store(tmp_path, name)


def test_hosts_are_kept_while_several_pillars_are_compiled(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def keep(number: int) -> None:
        try:
            for turn in range(20):
                Store(tmp_path / "s", "blog").keep_hosts({f"web{number}": ["app"] * (turn % 2)})
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=keep, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and len(Store(tmp_path / "s", "blog").hosts()) == 1


def test_a_store_that_others_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o755)
    with pytest.raises(DeploymentError, match=r"has to be a folder that only [a-z]+ reads"):
        Store(tmp_path / "store", "blog").secret_key()


def test_a_damaged_file_of_the_store_is_no_release(world: World) -> None:
    (world.store.folder / "fleet.json").write_text('{"commit": 1}')
    assert world.store.release() == {"commit": "", "sequence": 0, "held": [], "count": 0}
    assert sites(world.store.folder.parent) == ["blog"]


# Minions


def event(job: str, host: str, value: Any, code: int = 0) -> dict[str, Any]:
    return {"tag": f"salt/job/{job}/ret/{host}", "data": {"id": host, "return": value, "retcode": code}}


def test_minions_that_answer_are_waited_for_and_silent_ones_are_lost_after_six_questions() -> None:
    waiting = _Waiting(["web1", "web2", "web3", "new"], {"jid": "1", "minions": ["web1", "web2", "web3"]}, 0.0)
    assert waiting.answers["new"].is_lost and waiting.names == {"web1", "web2", "web3"}
    waiting.take(event("1", "web1", {"release": "x"}), 0.5)
    for number, now in enumerate((3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 21.0)):
        assert waiting.has_to_look(now, 3.0) and ("web3" in waiting.names) is (number < 6)
        waiting.look(f"q{number}", now)
        waiting.take(event(f"q{number}", "web2", {"pid": 7}), now)
    assert waiting.names == {"web2"} and waiting.answers["web3"] == Answer({}, "it does not answer", True)
    waiting.take(event("1", "web2", {"error": "no space"}, 1), 22.0)
    assert waiting.answers["web2"] == Answer({}, "no space") and not waiting.names
    assert waiting.answers["web1"] == Answer({"release": "x"})


def test_an_event_without_an_answer_is_none() -> None:
    waiting = _Waiting(["web1"], {"jid": "1", "minions": ["web1"]}, 0.0)
    waiting.take({"tag": "salt/job/1/ret/web1", "data": {"id": "web1"}}, 0.5)
    assert waiting.names == {"web1"}


def test_what_a_host_reports_cannot_write_to_the_terminal() -> None:
    assert answer_of({"error": "no\x1b[2J space\nleft"}, 1).error == "no\\x1b[2J space\nleft"
    assert len(answer_of("x" * 10**6, 1).error) < 9000
    assert answer_of({}, "\x1b[2J").error == "exit code 1"
    found = answer_of({"claim": "a\x1b]0;b\x07", "x": [{"y\x1b": "\x9b31m", "n": 1.5, "b": True, "o": b"x"}]}, 0).value
    assert found == {"claim": "a\\x1b]0;b\\x07", "x": [{"y\\x1b": "\\x9b31m", "n": 1.5, "b": True, "o": None}]}
    deep: Any = "x"
    for _level in range(5000):
        deep = [deep]
    assert len(json.dumps(answer_of({"x": deep}, 0).value)) < 100


class Bus:
    """A client of a master that takes jobs, or does not; a new one each time that a runner connects."""

    def __init__(self, jobs: list[str], kept: dict[str, Any], answers: list[dict[str, Any]]):
        self.jobs, self.kept, self.answers = jobs, kept, answers
        self.event = self

    def run_job(self, hosts: list[str], function: str, *_arguments: Any, **_options: Any) -> dict[str, Any]:
        job = self.jobs.pop(0)
        if not job:
            raise salt.exceptions.AuthenticationError("Authentication error occurred.")
        return {"jid": job, "minions": hosts}

    def get_event(self, **_options: Any) -> dict[str, Any] | None:
        return self.answers.pop(0) if self.answers else None

    def get_cache_returns(self, job: str) -> dict[str, Any]:
        assert job == "1"
        return self.kept

    def destroy(self) -> None:
        self.answers = []


@pytest.fixture
def minions(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Minions]:
    """Minions of a master that takes these jobs, an empty one not; each client of it gets these answers."""
    clock = [0.0]

    def monotonic() -> float:
        clock[0] += 0.05
        return clock[0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    def made(jobs: list[str], *answers: list[dict[str, Any]], kept: dict[str, Any] | None = None) -> Minions:
        clients = iter([Bus(jobs, kept or {}, one) for one in (*answers, *([[]] * 1000))])
        monkeypatch.setattr(salt.client, "get_local_client", lambda **_options: next(clients))
        monkeypatch.setattr(fleet_minions.time, "monotonic", monotonic)
        monkeypatch.setattr(fleet_minions.time, "sleep", sleep)
        return Minions({})

    return made


def test_a_master_that_is_restarted_loses_no_host(minions: Callable[..., Minions]) -> None:
    late: list[Any] = [None] * 400  # as long as minions take to connect again
    found = minions(["1", "", "", "q1", "q2", "q3"], [], [], [*late, event("1", "web1", {"release": "x"})])
    assert found.ask(["web1"], "django_fleet.prepare") == {"web1": Answer({"release": "x"})}


def test_answers_that_came_while_a_runner_had_no_bus_are_those_that_the_master_kept(
    minions: Callable[..., Minions],
) -> None:
    found = minions(["1", "", "q1"], kept={"web1": {"ret": {"release": "x"}}, "web9": {"ret": {}}})
    assert found.ask(["web1"], "django_fleet.prepare") == {"web1": Answer({"release": "x"})}


def test_an_answer_that_was_on_no_bus_is_that_which_the_master_kept(minions: Callable[..., Minions]) -> None:
    late: list[Any] = [None] * 70
    ended = [*late, event("q1", "web1", {}), *late]
    found = minions(["1", "q1", "q2"], ended, kept={"web1": {"ret": {"release": "x"}}})
    assert found.ask(["web1"], "django_fleet.prepare") == {"web1": Answer({"release": "x"})}


def test_a_host_that_stays_silent_after_a_restart_of_its_master_is_lost(minions: Callable[..., Minions]) -> None:
    found = minions(["1", "", *(f"q{number}" for number in range(7))])
    assert found.ask(["web1"], "django_fleet.prepare")["web1"].is_lost


class Restarted:
    """A master that is restarted at a time, with minions that connect again at others.

    Each job takes a minion some seconds, after which it says that the job does not run. As real ones, it does not hear
    of a job before it is connected, and sends an answer again that it has sent to a master which was away.
    """

    def __init__(self, away: tuple[float, float], connect: dict[str, float], seconds: float):
        self.away, self.connect, self.seconds = away, connect, seconds
        self.now, self.number = 0.0, 0
        self.calls: list[tuple[float, str]] = []
        self.jobs: dict[str, dict[str, float]] = {}  # when it ends on each host that has heard of it
        self.events: list[tuple[float, dict[str, Any]]] = []
        self.kept: Any = iter(())

    def is_new(self) -> bool:
        return self.now > self.away[1]

    def hears(self, host: str) -> bool:
        return self.now < self.away[0] or self.now > self.connect[host]

    def run(self, hosts: list[str], function: str, arguments: list[str]) -> dict[str, Any]:
        self.number += 1
        job = f"{self.number}"
        for host in filter(self.hears, hosts):
            value: Any = {"release": "x"}
            end = self.now + 0.1
            if function == "saltutil.find_job":
                value = {"pid": 1} if self.jobs[arguments[0]].get(host, 0.0) > self.now else {}
            elif function != "test.ping":
                self.jobs.setdefault(job, {})[host] = end = self.now + self.seconds
            sent = end if not self.away[0] < end < self.away[1] else self.away[1] + 7.0
            self.events.append((sent, event(job, host, value)))
        self.jobs.setdefault(job, {})
        return {"jid": job, "minions": hosts}

    def monotonic(self) -> float:
        self.now += 0.05
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class Client:
    """A client of it, with the key and the bus of events that the master has when it is made."""

    def __init__(self, master: Restarted):
        self.master, self.began, self.is_new = master, master.now, master.is_new()
        self.event = self

    def run_job(self, hosts: list[str], function: str, arguments: list[str], **_options: Any) -> dict[str, Any]:
        master = self.master
        master.calls.append((master.now, function))
        if self.is_new != master.is_new() or master.away[0] < master.now < master.away[1]:
            raise salt.exceptions.SaltClientError("The salt master could not be contacted. Is master running?")
        return master.run(hosts, function, arguments)

    def get_event(self, **_options: Any) -> dict[str, Any] | None:
        events = self.master.events
        events.sort(key=lambda one: one[0])
        while events and events[0][0] <= self.master.now:
            at, found = events.pop(0)
            if at >= self.began and self.is_new == self.master.is_new():
                return found
        return None

    def get_cache_returns(self, _job: str) -> dict[str, Any]:
        return next(self.master.kept, {})

    def destroy(self) -> None:
        pass


@pytest.fixture
def restarted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Restarted]:
    def made(*arguments: Any) -> Restarted:
        master = Restarted(*arguments)
        monkeypatch.setattr(salt.client, "get_local_client", lambda **_options: Client(master))
        monkeypatch.setattr(fleet_minions.time, "monotonic", master.monotonic)
        monkeypatch.setattr(fleet_minions.time, "sleep", master.sleep)
        return master

    return made


def test_a_host_that_hangs_is_lost_where_there_is_a_limit(restarted: Callable[..., Restarted]) -> None:
    master = restarted((1e9, 1e9), {}, 1e6)
    answer = Minions({}).ask(["web1"], "django_fleet.ready", look=1.3, limit=60.0)["web1"]
    assert answer == Answer({}, "it does not finish what it was asked 60 s ago", True) and 60.0 < master.now < 62.0


@pytest.mark.parametrize("seconds", [2.0, 9.0], ids=["between two phases", "in the middle of one"])
def test_phases_after_a_restart_wait_for_the_hosts_to_connect(
    restarted: Callable[..., Restarted], seconds: float
) -> None:
    master = restarted((3.0, 8.0), {"web1": 9.0, "web2": 18.5, "lb1": 13.0}, seconds)
    minions = Minions({})
    done = {host: Answer({"release": "x"}) for host in ("web1", "web2")}
    minions.send(["web1"], "django_fleet.renew")
    for _phase in range(3):
        assert minions.ask(["web1", "web2"], "django_fleet.prepare") == done
    assert master.now < 20.0 + 3 * seconds + 1.0
    assert minions.ask(["lb1"], "django_fleet.expect")["lb1"].error == ""
    pings = [at for at, function in master.calls if function == "test.ping"]
    assert pings[0] > 8.0 and pings[-1] < 21.0 and len(pings) < 15, "no more, once they are connected"


def test_a_host_that_stays_away_is_not_waited_for_twice_after_a_restart(restarted: Callable[..., Restarted]) -> None:
    master = restarted((3.0, 8.0), {"web1": 9.0, "web2": 1e9}, 4.0)
    minions = Minions({})
    minions.ask(["web1", "web2"], "django_fleet.prepare")
    assert minions.ask(["web1", "web2"], "django_fleet.start")["web2"].is_lost
    began = master.now
    assert minions.ask(["web1"], "django_fleet.abandon")["web1"].error == ""
    assert master.now < began + 5.0


def test_an_answer_that_the_master_keeps_a_moment_after_its_event_counts(
    restarted: Callable[..., Restarted], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event of an answer comes before its file; a runner that connects in between sees neither at first."""
    master = restarted((3.0, 8.0), {"web1": 8.2}, 4.0)
    monkeypatch.setattr(Client, "get_event", lambda *_, **__: None)
    master.kept = iter([{}, {"web1": {"ret": {"release": "x"}}}])
    assert Minions({}).ask(["web1"], "django_fleet.prepare") == {"web1": Answer({"release": "x"})}


def test_an_answer_twice_to_one_question_ends_no_job() -> None:
    waiting = _Waiting(["web1"], {"jid": "1", "minions": ["web1"]}, 0.0)
    waiting.look("q1", 3.0, 12.0)
    for now in (4.0, 4.5, 17.0):
        waiting.take(event("q1", "web1", {}), now)
    waiting.look("q2", 18.0)
    assert waiting.names == {"web1"}
    waiting.take(event("q2", "web1", {}), 18.5)
    assert waiting.answers["web1"].is_lost


@pytest.mark.parametrize(
    "wrong",
    [{"data": ["x"]}, {"data": {"id": ["web1"], "return": 1}}, {"data": {"id": "web2", "return": {}}}, {"data": None}],
    ids=repr,
)
def test_an_event_in_another_form_is_no_answer(wrong: dict[str, Any]) -> None:
    waiting = _Waiting(["web1", "web2"], {"jid": "1", "minions": ["web1", "web2"]}, 0.0)
    for tag in ("salt/job/1/ret/web1", "salt/job/1/ret", "salt/job/1"):
        waiting.take({"tag": tag, **wrong}, 0.5)
    assert waiting.names == {"web1", "web2"}


def test_a_master_that_takes_no_job_is_an_error(minions: Callable[..., Minions]) -> None:
    jobs = [""]
    with pytest.raises(DeploymentError, match="the master takes no jobs: Authentication error occurred"):
        minions(jobs).send(["web1"], "django_fleet.claim")
    assert jobs == [], "one that does not run is not waited for"
    jobs = ["1", *[""] * 1000]
    with pytest.raises(DeploymentError, match="the master takes no jobs"):
        minions(jobs).ask(["web1"], "django_fleet.prepare")
    assert len(jobs) > 800, "for a minute"


def test_one_unanswered_question_is_no_loss() -> None:
    waiting = _Waiting(["web1"], {"jid": "1", "minions": ["web1"]}, 0.0)
    for number, answer in enumerate((None, None, {"pid": 1}, None, None, {"pid": 1}, None)):
        waiting.has_to_look(3.0 * (number + 1), 3.0)
        waiting.look(f"q{number}", 3.0 * (number + 1))
        if answer:
            waiting.take(event(f"q{number}", "web1", answer), 3.0 * (number + 1))
    assert waiting.names == {"web1"}


def test_a_late_answer_to_an_earlier_question_is_one() -> None:
    waiting = _Waiting(["web1"], {"jid": "1", "minions": ["web1"]}, 0.0)
    for number in range(9):  # each answer comes seven seconds late
        waiting.has_to_look(3.0 * (number + 1), 3.0)
        waiting.look(f"q{number}", 3.0 * (number + 1))
        if number > 1:
            waiting.take(event(f"q{number - 2}", "web1", {"pid": 1}), 3.0 * (number + 1))
    assert waiting.names == {"web1"}


def asked(waiting: _Waiting, answers: dict[float, Any]) -> None:
    """Ask a host whether its job runs, every three seconds, of which it has these answers: by when they come."""
    for number, (now, answer) in enumerate(answers.items()):
        waiting.has_to_look(3.0 * (number + 1), 3.0)
        waiting.look(f"q{number}", 3.0 * (number + 1))
        waiting.take(event(f"q{number}", "web1", answer), now)


@pytest.mark.parametrize("looks", [4, 6])
def test_a_job_that_is_gone_is_lost_once_its_answer_was_sent_again(looks: int) -> None:
    """Salt sends a lost answer again after five to ten seconds."""
    waiting = _Waiting(["web1"], {"jid": "1", "minions": ["web1"]}, 0.0)
    asked(waiting, {3.0 * number + 3.1: {} for number in range(looks)})
    lost = {"web1": Answer({}, "its job has ended without an answer", True)}
    assert waiting.answers == (lost if looks == 6 else {})


@pytest.mark.parametrize(
    "answers",
    [{8.0: {}, 8.1: {}, 8.2: {}, 12.9: {}}, {3.1: {}, 6.1: {"pid": 1}, 9.1: {}}],
    ids=["late ones at once", "its job began late"],
)
def test_a_job_is_not_lost_while_its_answer_may_be_under_way(answers: dict[float, Any]) -> None:
    waiting = _Waiting(["web1"], {"jid": "1", "minions": ["web1"]}, 0.0)
    asked(waiting, answers)
    waiting.take(event("1", "web1", {"release": "x"}), 13.0)
    assert waiting.answers["web1"] == Answer({"release": "x"})


@pytest.mark.parametrize(
    ("value", "code", "expected"),
    [
        ({"a": 1}, 0, Answer({"a": 1})),
        ({"a": 1}, 11, Answer({}, "exit code 11")),
        ({"error": "no"}, 1, Answer({}, "no")),
        (True, 0, Answer({"value": True})),
        ("Passed invalid arguments", 1, Answer({}, "Passed invalid arguments")),
        (
            "'django_fleet.ready' is not available.",
            254,
            Answer({}, "'django_fleet.ready' is not available. (the formula is not there yet: apply on it)"),
        ),
    ],
    ids=json.dumps,
)
def test_what_salt_returns_becomes_an_answer(value: Any, code: int, expected: Answer) -> None:
    assert answer_of(value, code) == expected


def test_the_claim_outlives_the_time_between_two_renewals() -> None:
    assert min(Minions.patience, Roster.patience) * fleet_deployment.CLAIM >= 3 * 20


class Ssh:
    """salt-ssh's client, with hosts that answer as real ones did."""

    def __init__(self, found: dict[str, Any], error: Exception | None = None):
        self.found, self.error = found, error
        self.called: list[tuple[Any, ...]] = []

    def cmd_iter(self, hosts: list[str], function: str, arguments: list[str], **options: Any) -> Any:
        self.called.append((hosts, function, arguments))
        assert options["tgt_type"] == "list" and options.get("raw_shell", False) is (function == "true")
        for host in hosts:
            if host in self.found:
                yield {host: self.found[host]}
        if self.error:
            raise self.error


def roster(monkeypatch: pytest.MonkeyPatch, client: Ssh, names: Collection[str]) -> Roster:
    """The hosts of a roster, by a played client."""
    monkeypatch.setattr("django_formula.fleet.roster.targets", lambda _options: dict.fromkeys(names))
    monkeypatch.setattr("salt.client.ssh.client.SSHClient", lambda mopts: client)
    return Roster({})


def test_hosts_of_the_roster_answer_fail_or_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = "ssh: connect to host web3 port 22: Connection refused"
    client = Ssh(
        {
            "web1": {"jid": "1", "return": {"commit": OLD}, "retcode": 0, "id": "web1"},
            "web2": {"jid": "1", "return": {"error": "no"}, "retcode": 1, "id": "web2"},
            "web3": {"stdout": "", "stderr": f"Warning: x\n{refused}\n", "retcode": 255, "parsed": None},
            "web4": "Target 'web4' did not return any data, probably due to an error.",
            "web5": {"stdout": "", "stderr": "'django_fleet.ready' is not available.", "retcode": 255},
        }
    )
    hosts = roster(monkeypatch, client, [f"web{number}" for number in range(1, 7)])
    answers = hosts.ask([f"web{number}" for number in range(1, 8)], "django_fleet.ready", "blog")
    assert answers["web1"] == Answer({"commit": OLD})
    assert answers["web2"] == Answer({}, "no")
    assert answers["web3"] == Answer({}, refused, True)
    assert answers["web4"] == Answer({}, client.found["web4"], True)
    assert answers["web5"].error.endswith("apply on it)")
    assert answers["web6"] == Answer({}, "salt-ssh brought no answer", True)
    assert answers["web7"] == Answer({}, "it is not in the roster", True)
    assert client.called == [([f"web{number}" for number in range(1, 7)], "django_fleet.ready", ['"blog"'])]


def test_host_of_the_roster_is_there_if_it_runs_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Salt does not have to be there, and what the command prints by a profile of the shell is nothing."""
    refused = "ssh: connect to host web3 port 22: Connection refused"
    client = Ssh(
        {
            "web1": {"stdout": "", "stderr": "", "retcode": 0, "parsed": None},
            "web2": {"stdout": "Welcome\n", "stderr": "", "retcode": 0, "parsed": None},
            "web3": {"stdout": "", "stderr": f"{refused}\n", "retcode": 255, "parsed": None},
            "web4": {"stdout": "", "stderr": "", "retcode": 1, "parsed": None},
        }
    )
    hosts = roster(monkeypatch, client, [f"web{number}" for number in range(1, 6)])
    answers = hosts.ping([f"web{number}" for number in range(1, 7)])
    assert [name for name, answer in sorted(answers.items()) if answer.is_lost] == ["web3", "web4", "web5", "web6"]
    assert answers["web3"].error == refused and answers["web6"].error == "it is not in the roster"
    assert client.called == [([f"web{number}" for number in range(1, 6)], "true", [])]


def test_salt_ssh_that_fails_loses_those_without_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"web1": {"return": {}, "retcode": 0}}
    hosts = roster(monkeypatch, Ssh(found, OSError("no keys")), ["web1", "web2"])
    assert hosts.ask(["web1", "web2"], "django_fleet.ready") == {
        "web1": Answer({}),
        "web2": Answer({}, "salt-ssh failed: no keys", True),
    }


def test_a_host_of_the_roster_that_hangs_is_lost_where_there_is_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    class Hanging(Ssh):
        def cmd_iter(self, hosts: list[str], function: str, arguments: list[str], **options: Any) -> Any:
            yield {"web1": {"return": {}, "retcode": 0}}
            released.wait(20)

    hosts = roster(monkeypatch, Hanging({}), ["web1", "web2"])
    answers = hosts.ask(["web1", "web2"], "django_fleet.ready", limit=0.3)
    released.set()
    assert answers == {"web1": Answer({}), "web2": Answer({}, "it does not finish what it was asked 0 s ago", True)}


@pytest.mark.slow
def test_a_renewal_by_salt_ssh_is_over_before_the_phase_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or else salt-ssh could be at work when its runner ends."""
    ended = []

    class Slow(Ssh):
        def cmd_iter(self, hosts: list[str], function: str, arguments: list[str], **options: Any) -> Any:
            time.sleep(1.0 if function.endswith("renew") else 0.5)
            yield {host: {"return": {}, "retcode": 0} for host in hosts}
            ended.append(function)

    hosts = roster(monkeypatch, Slow({}), ["web1"])
    renew = Mock(side_effect=lambda: hosts.send(["web1"], "django_fleet.renew", "blog"))
    hosts.ask(["web1"], "django_fleet.prepare", "blog", every=0.3, meanwhile=renew)
    assert renew.call_count and ended == ["django_fleet.prepare", *["django_fleet.renew"] * renew.call_count]


def test_a_host_that_hangs_at_what_it_was_sent_by_salt_ssh_keeps_no_runner(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was lost in a switch, which is asked to give the deployment up in case it hears that."""
    monkeypatch.setattr("django_formula.fleet.roster._SENT", 0.3)
    released = threading.Event()

    class Hanging(Ssh):
        def cmd_iter(self, hosts: list[str], function: str, arguments: list[str], **options: Any) -> Any:
            if hosts == ["web2"]:
                released.wait(20)
            yield {host: {"return": {}, "retcode": 0} for host in hosts}

    hosts = roster(monkeypatch, Hanging({}), ["web1", "web2"])
    began = time.monotonic()
    hosts.send(["web2"], "django_fleet.abandon", "blog")
    answers = hosts.ask(["web1"], "django_fleet.abandon", "blog", limit=5.0)
    took = time.monotonic() - began
    released.set()
    assert answers == {"web1": Answer({})} and took < 10


@pytest.mark.parametrize(
    "value", ["0012345", "12e4567", "", "None", "a #b", "x=y", "~", None, True, 1.5, ["a"], {"a": 1}]
)
def test_an_argument_by_salt_ssh_arrives_as_it_is(value: Any) -> None:
    assert salt.utils.args.parse_input([_argument(value)], condition=False) == ([value], {})


def test_a_database_that_does_not_answer_or_let_a_host_in_stops_a_deployment_before_it_begins(world: World) -> None:
    parts = {"web1": ["app", "database"], "web2": ["app"], "web3": ["app"]}
    world.store.keep_hosts(parts)
    places = {name: {"parts": its, "address": f"10.0.0.{name[-1]}"} for name, its in parts.items()}
    world.hosts.differs = {name: {"hosts": places} for name in parts}
    world.hosts.clients = ["10.0.0.1", "10.0.0.2"]
    with pytest.raises(fleet_deployment.Failed, match="web1: its database does not let in web3: apply on it"):
        world.fleet().deploy(None)
    world.fail("web1", "serves", "PostgreSQL does not answer")
    with pytest.raises(
        fleet_deployment.Failed, match="preflight failed on 1 of the hosts:\nweb1: PostgreSQL does not answer"
    ):
        world.fleet().deploy(None)
    assert not world.hosts.claims and {*world.hosts.live.values()} == {OLD}
    world.hosts.fails, world.hosts.clients = {}, [entry["address"] for entry in places.values()]
    world.fleet().deploy(None)
    assert {*world.hosts.live.values()} == {NEW}


# A canary on all hosts


class Proving:
    """What hosts say of a canary, look after look; the last one stays.

    Args:
        looks: for each, what each host says: its state, or the answer.
    """

    def __init__(self, hosts: Played, *looks: dict[str, str | Answer]):
        self.hosts, self.looks, self.number = hosts, looks, 0
        self.shared: set[str] = set()

    def start(self, host: str, *_arguments: Any) -> dict[str, Any]:
        return {"canary": ""}

    def canary(self, host: str, deployment: str, by: str, until: float) -> dict[str, Any]:
        assert self.hosts.claims[host] == deployment and time.time() < until
        self.shared.add(host)
        return {"release": f"0005-{NEW[:12]}"}

    def share(self, host: str, deployment: str, percent: int | None, token: bool | None) -> dict[str, Any]:
        assert self.hosts.claims[host] == deployment
        cookie = {"cookie": "django_release=5f0c"} if token else {}
        return {"release": f"0005-{NEW[:12]}", "share": f"{percent or 10} %", **cookie, "retcode": 0}

    def proving(self, host: str, deployment: str) -> Any:
        assert self.hosts.claims[host] == deployment and self.hosts.live[host] == OLD
        look = self.looks[min(self.number // len(self.hosts.live), len(self.looks) - 1)]
        self.number += 1
        state = look.get(host, "running")
        return state if isinstance(state, Answer) else {"state": state, "text": f"it is {state}"}


class Clock:
    """The module `time`, where a sleep takes no time but by this clock."""

    def __init__(self) -> None:
        self.slept = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def monotonic(self) -> float:
        return time.monotonic() + self.slept


@pytest.fixture
def proving(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Proving]:
    """Have the hosts of the world say how the canary fares."""
    monkeypatch.setattr(fleet_deployment, "time", Clock())

    def played(*looks: dict[str, str | Answer]) -> Proving:
        found = Proving(world.hosts, *looks)
        for verb in ("start", "canary", "proving", "share"):
            monkeypatch.setattr(world.hosts, f"_{verb}", getattr(found, verb), raising=False)
        return found

    return played


PASSED = dict.fromkeys(("web1", "web2", "web3"), "passed")


def test_a_canary_begins_on_all_hosts_and_they_switch_when_all_have_passed(
    world: World, proving: Callable[..., Proving]
) -> None:
    shared = proving({}, {"web1": "passed"}, {"web1": "passed", "web3": "passed"}, PASSED)
    done = world.fleet().deploy(None)
    assert shared.shared == {*PASSED} and {*world.hosts.live.values()} == {NEW}
    assert done["warnings"] == {"web1": ["web1 runs the commands"]}
    verbs = world.hosts.verbs()
    assert verbs[7:13] == ["expect", "canary", *["proving"] * 4] and verbs[13] == "switch", verbs
    assert world.told.count("canary") == 5, "each change is reported once"
    assert world.store.proving() == ""


@pytest.mark.parametrize("is_lost", [False, True])
def test_one_host_takes_it_back_for_all(world: World, proving: Callable[..., Proving], *, is_lost: bool) -> None:
    proving({}, {"web1": "passed", "web2": "running" if is_lost else "ended"})
    if is_lost:
        world.fail("web2", "proving", "it does not answer", is_lost=True)
    with pytest.raises(DeploymentError) as failure:
        world.fleet().deploy("v2.4.1")
    assert "switch" not in world.hosts.verbs() and {*world.hosts.live.values()} == {OLD}
    why = "it does not answer" if is_lost else "it is ended"
    text = str(failure.value)
    assert text.startswith(f"canary failed on 1 of the hosts:\nweb2: {why}") and f"serve {OLD[:12]}, as before" in text
    assert "salt web2 django.proof blog has the evidence" in text
    assert "salt-run django.deploy blog v2.4.1 canary=False goes without it" in text
    assert [*world.hosts.claims] == (["web2"] if is_lost else [])
    assert world.store.release()["commit"] == "" and world.store.proving() == ""


def test_host_that_does_not_answer_for_a_while_is_asked_again(world: World, proving: Callable[..., Proving]) -> None:
    lost = Answer({}, "it does not answer", is_lost=True)
    proving({"web2": lost}, *[PASSED | {"web2": lost}] * 3, PASSED | {"web2": "running"}, PASSED)
    world.fleet().deploy(None)
    assert {*world.hosts.live.values()} == {NEW} and world.hosts.verbs().count("proving") == 6


def test_without_a_canary_on_request(world: World, proving: Callable[..., Proving]) -> None:
    shared = proving({})
    Fleet(world.store, world.hosts, "ops", lambda _phase, _found: None, canary=False).deploy(None)
    assert not shared.shared and {*world.hosts.live.values()} == {NEW}


@pytest.mark.parametrize(("says", "why"), [("nginx needs other files for it", "nginx needs"), (None, "it has no rel")])
def test_no_host_has_a_canary_where_one_cannot(
    world: World, proving: Callable[..., Proving], monkeypatch: pytest.MonkeyPatch, says: str | None, why: str
) -> None:
    shared = proving({})
    answer = {} if says is None else {"canary": says}
    monkeypatch.setattr(world.hosts, "_start", lambda host, *_: answer if host == "web3" else {"canary": ""})
    done = world.fleet().deploy(None)
    assert not shared.shared and {*world.hosts.live.values()} == {NEW}
    (text,) = done["warnings"]["web3"]
    assert text.startswith(f"all visitors get the release at once, without a canary on any host: {why}")


def test_hosts_without_visitors_are_not_waited_for(world: World, proving: Callable[..., Proving]) -> None:
    world.hosts.seen = {"web2": {"state": "drain", "is_up": True, "check": ""}}
    shared = proving({"web1": "passed", "web3": "passed"})
    world.fleet().deploy(None)
    assert shared.shared == {*PASSED} and {*world.hosts.live.values()} == {NEW}


@pytest.mark.parametrize("verb", ["promote", "back"])
def test_people_end_a_canary(
    world: World, proving: Callable[..., Proving], monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    proving({})
    monkeypatch.setattr(fleet_canary, "_LOOK", 0.01)
    with ThreadPoolExecutor(1) as pool:
        deployed = pool.submit(world.fleet().deploy, None)
        until = time.monotonic() + 20
        while not world.store.proving():
            assert time.monotonic() < until
            time.sleep(0.01)
        if verb == "promote":
            assert fleet_canary.decide(world.store, verb, "ada (salt-run django.promote)") == {"commit": NEW}
            assert deployed.result()["commit"] == NEW
        else:
            assert fleet_canary.decide(world.store, verb, "ada (salt-run django.back)") == {"commit": ""}
            with pytest.raises(DeploymentError, match=r"web1: it was taken back by ada \(salt-run django.back\)"):
                deployed.result()
    assert {*world.hosts.live.values()} == {NEW if verb == "promote" else OLD}
    with pytest.raises(DeploymentError, match="no release of blog gets a share of the visitors now"):
        fleet_canary.decide(world.store, verb, "ada")


def test_people_set_the_share_on_all_hosts(world: World, proving: Callable[..., Proving]) -> None:
    proving({})
    with pytest.raises(DeploymentError, match="no release of blog gets a share of the visitors now"):
        fleet_canary.share(world.fleet(), 20, token=None)
    with ThreadPoolExecutor() as threads:
        running = threads.submit(world.fleet().deploy, None)
        while not world.hosts.calls or "proving" not in world.hosts.verbs():
            time.sleep(0.01)
        given = {"release": f"0005-{NEW[:12]}", "share": "20 %", "cookie": "django_release=5f0c"}
        assert fleet_canary.share(world.fleet(), 20, token=True) == given
        assert ("share", ["web1", "web2", "web3"]) in world.hosts.calls
        world.fail("web2", "share", "a share is from 0 to 50 percent, not 70")
        with pytest.raises(DeploymentError, match="share failed on 1 of the hosts:\nweb2: a share is") as failure:
            fleet_canary.share(world.fleet(), 70, token=None)
        assert "salt-run django.back blog" in failure.value.hint
        fleet_canary.decide(world.store, "promote", "ada")
        running.result()


def test_share_is_set_without_the_hosts_that_a_deployment_has_left_out(
    world: World, proving: Callable[..., Proving]
) -> None:
    proving({})
    with ThreadPoolExecutor() as threads:
        running = threads.submit(world.fleet("web3").deploy, None)
        while not world.hosts.calls or "proving" not in world.hosts.verbs():
            time.sleep(0.01)
        world.fail("web3", "share", "it does not answer")
        try:
            assert fleet_canary.share(world.fleet(), 20, token=None)["share"] == "20 %"
        finally:
            fleet_canary.decide(world.store, "back", "ada")
        assert world.store.sharing() == []
        with pytest.raises(DeploymentError, match="it was taken back by ada"):
            running.result()


def test_people_hear_how_a_canary_has_ended_that_they_were_too_late_for(
    world: World, proving: Callable[..., Proving], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.store, "proving", lambda: "20260301T120000-7")
    monkeypatch.setattr(world.store, "set_order", lambda *_: None)
    with pytest.raises(DeploymentError, match=r"the deployment has ended otherwise: .* is active"):
        fleet_canary.decide(world.store, "promote", "ada")


def test_an_order_for_another_deployment_does_not_count(world: World, proving: Callable[..., Proving]) -> None:
    proving({}, PASSED)
    world.store.make()
    world.store.set_order("20260301T120000-7", "back", "ada")
    world.fleet().deploy(None)
    assert {*world.hosts.live.values()} == {NEW}


def test_something_newer_ends_a_canary(world: World, proving: Callable[..., Proving]) -> None:
    proving({})
    fleet = Fleet(world.store, world.hosts, "ops", lambda _phase, _found: None, is_overtaken=lambda: True)
    with pytest.raises(fleet_deployment.Overtaken, match="a newer request takes the place of this release"):
        fleet.deploy(None)
    assert {*world.hosts.live.values()} == {OLD} and not world.hosts.claims


def test_ctrl_c_in_a_canary_leaves_every_host_as_it_was(
    world: World, proving: Callable[..., Proving], monkeypatch: pytest.MonkeyPatch
) -> None:
    proving({})
    monkeypatch.setattr(world.hosts, "_proving", Mock(side_effect=KeyboardInterrupt()))
    with pytest.raises(DeploymentError, match=f"interrupted by Ctrl-C .*\n.* serve {OLD[:12]}, as before"):
        world.fleet().deploy(None)
    assert {*world.hosts.live.values()} == {OLD} and not world.hosts.claims and world.store.proving() == ""


def test_status_says_what_a_canary_does(world: World) -> None:
    world.hosts.differs["web1"] = {"canary": "0005 gets 10 % of the visitors"}
    rows = world.fleet().status()["hosts"]
    assert rows["web1"]["canary"] == "0005 gets 10 % of the visitors" and "canary" not in rows["web2"]


def test_a_deployment_that_is_refused_for_a_canary_says_what_ends_it(world: World) -> None:
    with world.store.deploying("ada") as progress:
        progress.phase("canary")
        with pytest.raises(DeploymentError, match=r"is being deployed by ada, .* phase canary") as refused:
            world.fleet().deploy(None)
        assert "salt-run django.back blog ends its canary" in refused.value.hint
        progress.phase("switch")
        with pytest.raises(DeploymentError, match=r"phase switch$") as refused:
            world.fleet().deploy(None)
        assert not refused.value.hint
