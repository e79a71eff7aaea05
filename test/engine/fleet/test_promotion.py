"""A commit goes from one site with several hosts to another: what the master's record and the hosts say of it."""

import json
import time
from typing import Any

import pytest
from django_formula.audit.caller import Caller
from django_formula.fleet import promotion, record, requests
from django_formula.fleet.deployment import Fleet
from django_formula.fleet.minions import Answer
from django_formula.fleet.store import Store
from django_formula.host import clock
from django_formula.host.commands import DeploymentError
from django_formula.request import queue
from django_formula.request.promotion import packages
from django_formula.verbs import fleet as verbs
from world import commit

ADA, BEN = (Caller(name, how="salt") for name in ("ada", "ben"))
ONE, TWO = "a" * 40, "b" * 40
PACKAGES = {"repository": "git", "requirements": "[]", "constraints": "[]"}


class Hosts:
    """Two sites of a master: `staging` on web8 and web9, and `blog`, which gets its commits, on web1."""

    patience = 20.0

    def __init__(self, folder: Any):
        self.blog, self.staging = (Store(folder, name) for name in ("blog", "staging"))
        self.blog.keep_hosts({"web1": ["app"], "lb1": ["balancer"]})
        self.staging.keep_hosts({"web8": ["app"], "web9": ["worker"]})
        self.blog.keep_promotion({"from": "staging"})
        self.differs: dict[str, Any] = {}
        self.planned: dict[str, Any] = {"release": {"old": "0001-x", "new": "0002-y"}}
        self.active(ONE, ago=7200)

    def active(self, commit: str, ago: float, **values: Any) -> None:
        """Have a commit on all hosts of staging, as a deployment that ended some seconds ago left it."""
        self.staging.set_release({"commit": commit, "sequence": 1, "held": []})
        line = {"time": clock.timestamp(time.time() - ago), "site": "staging", "result": "released", "commit": commit}
        with record.path(self.blog.folder.parent).open("a") as file:
            about = {"verb": "deploy", "user": "ada", "revision": "", "error": "", "hosts": {}, "seconds": 1.0}
            file.write(json.dumps({**line, **about, "sent": 9, "failed": 0, **values}) + "\n")

    def ask(self, hosts: Any, function: str, site: str, *arguments: Any, **_options: Any) -> dict[str, Answer]:
        return {host: getattr(self, f"_{function.removeprefix('django_fleet.')}")(host, site) for host in hosts}

    def send(self, hosts: Any, function: str, *arguments: Any) -> None:
        raise AssertionError("a promotion begins no deployment")

    def _proof(self, host: str, site: str) -> Answer:
        commit = self.staging.release()["commit"] if site == "staging" else TWO
        found = {"commit": commit, "problem": "", "packages": PACKAGES, "python": "3.11", **self.differs.get(host, {})}
        return Answer({}, found["error"], True) if "error" in found else Answer(found)

    def _plan(self, host: str, site: str) -> Answer:
        assert (host, site) == ("web1", "blog")
        return Answer({}, "static: no space left") if "error" in self.planned else Answer({"plan": self.planned})

    def promote(self, by: Caller = ADA, commit: str | None = None) -> dict[str, Any]:
        """What the runner does before the deployment; return the plan."""
        found = promotion.find(self.blog, commit)
        fleet, source = (Fleet(store, self, "test", lambda _phase, _found: None) for store in (self.blog, self.staging))
        promotion.refuse_unproved(found, fleet, source, by)
        plan = promotion.plan(found, fleet)
        requests.put(self.blog, found.commit, by, is_promoted=True)
        return plan


@pytest.fixture
def hosts(tmp_path):
    return Hosts(tmp_path / "store")


def refused(hosts, text, **options):
    with pytest.raises(DeploymentError, match=text) as error:
        hosts.promote(**options)
    assert not requests.is_open(hosts.blog)
    return error.value


def test_commit_that_has_proved_itself_is_requested(hosts):
    assert hosts.promote(commit=ONE[:7]) == hosts.planned
    waiting = queue.waiting(requests.place(hosts.blog))
    assert (waiting.commit, waiting.by) == (ONE, ADA)


@pytest.mark.parametrize(
    ("active", "text"),
    [
        ({"commit": TWO, "ago": 300}, "it has been active there for 5 min, and promote:after is 1h"),
        ({"commit": TWO, "ago": 7200, "failed": 2}, "2 of 9 requests failed when staging switched to it"),
        ({"commit": TWO, "ago": -200_000}, "it became active there at 2.*Z, when a clock was wrong: release .*"),
        ({"commit": TWO, "ago": 60, "result": "rolled back"}, "it has been active there for 1 min, and .*"),
    ],
)
def test_what_the_record_of_the_master_says_against_it(hosts, active, text):
    hosts.active(**active)
    error = refused(hosts, f"(?m)^{TWO[:12]} is not promoted from staging: {text}$")
    assert error.hint == f"without that: salt-run django.deploy blog {TWO}"


def test_deployment_that_failed_changes_nothing_of_the_active_commit(hosts):
    hosts.active(TWO, ago=60, result="failed")
    hosts.staging.set_release({"commit": ONE, "sequence": 1, "held": []})
    hosts.promote()


@pytest.mark.parametrize(
    ("host", "differs", "text"),
    [
        ("web8", {"problem": "HTTP 500"}, "web8 of staging does not answer well: HTTP 500"),
        ("web9", {"commit": TWO}, f"web9 of staging has {TWO[:12]}"),
        ("web9", {"commit": ""}, "web9 of staging has no release"),
        ("web8", {"error": "it does not answer"}, "web8: it does not answer"),
        ("web1", {"error": "it does not answer"}, "web1: it does not answer"),
        ("web9", {"python": "3.13"}, "staging runs it on Python 3.13, and blog has 3.11"),
        ("web1", {"packages": PACKAGES | {"repository": "fork"}}, "staging has another repository"),
        (
            "web8",
            {"packages": PACKAGES | {"requirements": '["a"]', "constraints": '["b"]'}},
            "staging has other packages, for requirements and constraints differ",
        ),
        ("web8", {"packages": {"repository": "git"}}, "web8: its answer is not that of this version of the formula.*"),
        ("web8", {"commit": 4}, "web8: its answer is not that of this version of the formula.*"),
    ],
)
def test_what_the_hosts_say_against_it(hosts, host, differs, text):
    hosts.differs[host] = differs
    refused(hosts, f"(?m)^{ONE[:12]} is not promoted from staging: {text}$")


def test_all_reasons_are_named_at_once(hosts):
    hosts.active(ONE, ago=60)
    hosts.differs = {"web8": {"problem": "HTTP 500"}, "web1": {"python": "3.13"}}
    hosts.blog.keep_promotion({"from": "staging", "approve": 2})
    text = str(refused(hosts, "is not promoted"))
    for part in (
        "for 1 min",
        "HTTP 500",
        "Python 3.11, and blog has 3.13",
        "by others: 0 of 2, by salt-run django.appr",
    ):
        assert part in text


def test_unknown_python_speaks_against_nothing(hosts):
    hosts.differs["web8"] = {"python": ""}
    hosts.promote()


def test_release_that_no_record_has_is_not_promoted(hosts):
    record.path(hosts.blog.folder.parent).unlink()
    refused(hosts, "(?m)the master has no record of its deployment on staging$")


def test_only_the_active_commit_is_promoted(hosts):
    error = refused(hosts, f"{TWO[:8]} is not active on staging, but {ONE[:12]}", commit=TWO[:8])
    assert error.hint == f"release it there first: salt-run django.deploy staging {TWO[:8]}"
    refused(hosts, "is not active on staging", commit=ONE[:6])


def test_nothing_is_active_or_nothing_is_configured(hosts):
    hosts.blog.keep_promotion({"from": "lacking"})
    refused(hosts, "nothing is active on lacking")
    hosts.blog.keep_promotion(None)
    refused(hosts, "blog gets its commits from no other site")


@pytest.mark.parametrize(
    ("planned", "text"),
    [
        ({"refused": "migration: it would break what runs"}, "would not be released: migration: it would break"),
        ({"error": True}, "plan failed on web1: static: no space left"),
    ],
)
def test_plan_that_would_be_refused_makes_no_request(hosts, planned, text):
    hosts.planned = planned
    refused(hosts, text)


def test_own_approval_does_not_count(hosts):
    hosts.blog.keep_promotion({"from": "staging", "after": "1m", "approve": 1})
    assert promotion.approve(promotion.find(hosts.blog), ADA) == {"commit": ONE, "approved_by": ["ada"]}
    refused(hosts, "approvals by others: 0 of 1")
    assert promotion.approve(promotion.find(hosts.blog, ONE[:7]), BEN)["approved_by"] == ["ada", "ben"]
    hosts.promote()


def test_other_requests_are_refused(hosts):
    with pytest.raises(DeploymentError, match="blog gets its commits from staging") as error:
        requests.put(hosts.blog, "v2", ADA)
    expected = "run: salt-run django.promote blog; or deploy it now: salt-run django.deploy blog v2"
    assert error.value.hint == expected
    with pytest.raises(DeploymentError) as error:
        requests.put(hosts.blog, None, ADA)
    assert error.value.hint == expected.removesuffix(" v2")
    requests.put(hosts.staging, "v2", ADA)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"from": "staging"}, {"from": "staging", "after": "1h", "approve": 0}),
        ({"from": "staging", "after": "2d", "approve": 1}, {"from": "staging", "after": "2d", "approve": 1}),
        ({"from": "staging", "after": None, "approve": None}, {"from": "staging", "after": "1h", "approve": 0}),
        *[
            (given, {})
            for given in (
                None,
                "staging",
                {},
                {"from": "../x"},
                {"from": "staging", "after": "soon"},
                {"from": "staging", "approve": True},
                {"from": "staging", "other": 1},
                {"from": ["staging"]},
            )
        ],
    ],
)
def test_mistakes_of_the_pillar_are_not_kept(tmp_path, given, kept):
    store = Store(tmp_path / "store", "blog")
    store.keep_hosts({"web1": ["app"]})
    store.keep_promotion(given)
    assert store.promotion() == kept
    assert (store.folder / "promote.json").exists() == bool(kept)
    store.keep_promotion(None)
    assert store.promotion() == {}


@pytest.mark.parametrize(("status", "problem"), [(None, ""), ("HTTP 500", "HTTP 500")])
def test_hosts_say_what_they_have_and_how_it_answers(world, monkeypatch, status, problem):
    world.apply()
    monkeypatch.setattr(verbs, "_find", lambda _name: world.site)
    monkeypatch.setattr(verbs.disk, "python_series", lambda _site: "3.11")
    if status:
        world.problems["0001"] = status
    found = verbs.proof("blog")
    assert (found["commit"], found["problem"], found["python"]) == (commit("one"), problem, "3.11")
    assert found["packages"].keys() == PACKAGES.keys()


def test_logins_in_urls_are_neither_told_nor_compared(make_site):
    urls = (f"https://{login}git.example.org/blog.git" for login in ("", "ada:geheim@", "token@"))
    told = {packages(make_site(repository=url))["repository"] for url in urls}
    assert told == {'"https://git.example.org/blog.git"'}
