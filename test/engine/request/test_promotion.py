"""A commit goes from one site to another once it has proved itself: what is asked of it, and who may approve."""

import json
import time

import pytest
from django_formula.audit.caller import Caller
from django_formula.deploy import plan as deploy_plan
from django_formula.host import clock
from django_formula.host.commands import DeploymentError
from django_formula.release import disk
from django_formula.request import promotion, queue, unit
from django_formula.site import sites as site_sites
from django_formula.verbs import promotion as verbs
from django_formula.verbs import requests as verbs_requests
from world import commit

ADA, BEN = Caller("ada", "192.0.2.7", "ssh"), Caller("ben", "192.0.2.8", "ssh")
ONE = commit("one")


@pytest.fixture
def production(world, make_site, monkeypatch):
    """A site that gets its commits from `blog`, which has been active for two hours."""
    world.options = {"repository": "https://git.example.org/shop.git"}
    world.apply()
    world.branches[ONE] = ONE
    site = make_site("shop", process="supervisor", deploy="manual", promote={"from": "blog"})
    known = {"shop": site, "blog": world.site}
    monkeypatch.setattr(site_sites, "find", known.__getitem__)
    monkeypatch.setattr(unit, "prepare", lambda site, salt_call: queue.folder(site).mkdir(exist_ok=True))
    monkeypatch.setattr(unit, "start", lambda site: None)
    monkeypatch.setattr(deploy_plan, "make", lambda name, commit, asked_by: {"release": f"{name} {commit[:7]}"})
    monkeypatch.setattr(disk, "interpreter_difference", lambda site, release: {})
    record(world, live_since=clock.timestamp(time.time() - 7200))
    return site


def record(world, **values):
    """Change what is recorded of the release that is active on the other site."""
    path = world.site.current / "release.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def promote(by=ADA, commit=None):
    return verbs.promote("shop", commit, by, ["salt-call"], wait=False, asked_by="django.promote")


def refused(text, **options):
    with pytest.raises(DeploymentError, match=text) as error:
        promote(**options)
    return error.value


def test_a_commit_that_has_proved_itself_is_requested_with_its_plan(production):
    answer = promote(commit=ONE[:7])
    assert (answer["commit"], answer["status"]) == (ONE, "waiting")
    assert answer["plan"] == {"release": f"shop {ONE[:7]}"}
    assert queue.waiting(production).by == ADA._replace(how="promote from blog")


@pytest.mark.parametrize(
    ("ago", "report", "text"),
    [
        (300, None, "it has been active there for 5 min, and .*after is 1h"),
        (None, None, "it has been active there for 0 min, and .*after is 1h"),
        (7200, {"sent": 9, "failed": 2}, "2 of 9 requests failed when blog switched to it"),
    ],
)
def test_what_the_record_says_against_it(production, world, ago, report, text):
    since = clock.timestamp(time.time() - ago) if ago else ""
    record(world, live_since=since, receipt=report or {"sent": 9, "failed": 0})
    error = refused(f"(?m)^{ONE[:12]} is not promoted from blog: {text}$")
    assert error.hint == f"without that: salt-call django.release shop {ONE}"
    assert queue.rows(production) == []


def test_all_reasons_are_named_at_once(production, world, monkeypatch):
    world.problems["0001"] = "HTTP 500"
    monkeypatch.setattr(disk, "interpreter_difference", lambda site, release: {"old": "3.11.2", "new": "3.12.1"})
    production.config |= {"repository": "https://elsewhere/shop.git", "constraints": ["x<2"]}
    production.config["promote"]["approve"] = 1
    for text in (
        "blog does not answer well: HTTP 500",
        "blog has another repository",
        "blog has other packages, for constraints differ",
        "blog runs it on Python 3.11.2, and shop has 3.12.1",
        "approvals by others: 0 of 1, by salt-call django.approve shop",
    ):
        refused(text)


def test_only_the_active_commit_is_promoted(production, world):
    world.push("two")
    refused(f"{commit('two')[:12]} is not active on blog, but {ONE[:12]}", commit=commit("two")[:12])
    refused("is not active on blog", commit=ONE[:6])
    world.apply()
    refused("it has been active there for 0 min")


def test_nothing_is_active_yet(production, world):
    world.site.current.unlink()
    refused("nothing is active on blog")


def test_a_site_without_promote(production):
    production.config["promote"] = None
    refused("shop gets its commits from no other site")


def test_a_plan_that_would_be_refused_makes_no_request(production, monkeypatch):
    monkeypatch.setattr(deploy_plan, "make", lambda *_: {"refused": "migration: it would break what runs"})
    refused("would not be released: migration: it would break what runs")
    assert queue.rows(production) == []


def test_own_approval_does_not_count(production):
    production.config["promote"]["approve"] = 1
    assert verbs.approve("shop", None, ADA) == {"commit": ONE, "approved_by": ["ada"]}
    refused("approvals by others: 0 of 1")
    assert verbs.approve("shop", ONE[:8], BEN)["approved_by"] == ["ada", "ben"]
    answer = promote()
    assert answer["status"] == "waiting", answer
    first, last = json.loads((queue.folder(production) / "approvals.json").read_text())["approvals"]
    assert (first["who"], last["who"], last["from"], last["how"]) == ("ada", "ben", "192.0.2.8", "ssh")


def test_approvals_are_of_a_commit_and_the_oldest_are_forgotten(production, world, monkeypatch):
    monkeypatch.setattr(promotion, "_KEPT", 3)
    for number in range(5):
        record(world, commit=commit(str(number)))
        verbs.approve("shop", None, BEN)
    assert [promotion.approvals(production, commit(number)) for number in "0124"] == [set(), set(), {"ben"}, {"ben"}]


@pytest.mark.parametrize("torn", ["", "{", '{"approvals": {"x": 1}}', "[]"])
def test_torn_approvals_are_none(production, torn):
    production.config["promote"]["approve"] = 1
    verbs.approve("shop", None, BEN)
    (queue.folder(production) / "approvals.json").write_text(torn)
    refused("approvals by others: 0 of 1")


def test_other_requests_are_refused(production):
    answer = verbs_requests.ask("shop", ONE, ADA, ["salt-call"], wait=False)
    assert answer["status"] == "refused" and "shop gets its commits from blog" in answer["why"]
    assert "run: salt-call django.promote shop" in answer["why"]
