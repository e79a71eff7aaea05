"""The replay in a deployment: what is recorded and said of it, and what a release that is worse leaves."""

import contextlib
import json
import random
import re

import pytest
from django_formula.deploy import replay
from django_formula.host.commands import DeploymentError
from django_formula.project import page
from django_formula.proxy import access_log, proxies
from django_formula.proxy.access_log import Url
from django_formula.release import health, releases
from django_formula.release import replay as release_replay
from django_formula.release.health import Raised

SECRET = "correct-horse"


@pytest.fixture
def site(world, monkeypatch, tmp_path):
    """A site with a release that is active, the URLs of its visitors, and what a comparison returns."""
    world.options = {"proxy": {"access_log": "json"}, "releases": {"replay": True}}
    world.urls = []
    world.found = {
        **{"compared": 2, "pages": 2, "failing": 0, "left": 0, "suspects": 0, "seconds": 0.5},
        **{"differences": [], "cpu": []},
    }
    world.asked, world.queries = [], []

    def compare(old, new, urls, queries):
        world.asked.append(urls)
        world.queries.append(queries)
        return world.found if isinstance(world.found, dict) else world.found.pop(0)

    monkeypatch.setattr(proxies, "access_log", lambda site: tmp_path / "django-blog.log")
    monkeypatch.setattr(access_log, "visited", lambda site, log, apart, most: world.urls[:most])
    monkeypatch.setattr(release_replay, "compare", compare)
    monkeypatch.setattr(release_replay, "ask", lambda sides, url: [""])
    monkeypatch.setattr(health, "settled_journal", lambda *about: "")
    monkeypatch.setattr(page, "raised", lambda *about: Raised(f"KeyError: {SECRET!r} (shop/views.py:3)", "in item"))
    world.apply()
    world.urls = [Url("blog.example.org", "/a/?q=ada"), Url("blog.example.org", "/b/")]
    return world


def differs(site, *kinds):
    """Have the comparison find a difference of each kind."""
    rows = [
        {"host": "blog.example.org", "target": f"/{number}/?q=ada", "kind": kind, "old": "returned 200", "new": new}
        for number, (kind, new) in enumerate(kinds)
    ]
    site.found |= {"differences": rows, "suspects": len(rows), "compared": 90}


def test_first_release_says_that_there_is_nothing_to_compare_with(site):
    [first] = releases.releases(site.site)
    assert first.record["replay"] == {"compared": 0, "refused": 0, "why": "no active release runs"}


def test_release_as_good_as_the_active_one_is_recorded(site):
    site.push("two")
    assert site.apply()["instance"]["replay"] == "2 URLs, none worse, 0.5 s"
    assert site.asked == [[("blog.example.org", "/a/?q=ada"), ("blog.example.org", "/b/")]]
    record = json.loads((site.site.current / "release.json").read_text())
    assert record["replay"] == {
        **{"compared": 2, "pages": 2, "failing": 0, "left": 0, "seconds": 0.5, "measured": 0, "refused": 0},
        "differences": [],
    }


def test_attempts_have_the_result(site):
    site.push("two")
    site.apply()
    attempts = [json.loads(line) for line in site.site.deploys.read_text().splitlines()]
    assert [attempt["replay"] for attempt in attempts] == [{"compared": 0, "refused": 0}, {"compared": 2, "refused": 0}]
    site.roll_back()
    assert "replay" not in releases.attempts(site.site)[-1]


@pytest.mark.parametrize(
    ("counts", "said", "warnings"),
    [
        ({"failing": 1, "pages": 1}, "2 URLs, 1 fail in {live} too, none worse, 0.5 s", []),
        (
            {"pages": 0, "left": 3},
            "2 URLs, 2 are no pages without a login, none worse, 0.5 s; there was no time for 3 more",
            [
                "the replay has shown little: 2 URLs, 2 are no pages without a login, none worse, 0.5 s; there was no "
                "time for 3 more"
            ],
        ),
    ],
)
def test_what_says_little_is_said(site, counts, said, warnings):
    live = site.live
    site.found |= counts
    site.push("two")
    assert site.apply()["instance"]["replay"] == said.format(live=live) and site.last.warnings == warnings


def test_log_without_a_visitor_is_said_and_refuses_nothing(site):
    site.push("two")
    site.urls = []
    said = site.apply()["instance"]["replay"]
    assert said.startswith("nothing was compared: ") and said.endswith(
        "has no page of a visitor that may be requested again"
    )
    assert site.asked == []


def test_rollback_and_equal_apply_replay_nothing(site):
    site.push("two")
    site.apply()
    assert site.apply() == {} and "replay" not in site.roll_back()["instance"] and len(site.asked) == 1


def test_nothing_is_requested_unless_the_pillar_has_it(site):
    site.options["releases"] = {}
    site.push("two")
    assert "replay" not in site.apply()["instance"] and site.asked == []


def test_release_that_fails_where_the_active_one_does_not_is_refused(site):
    live = site.live
    differs(
        site, ("fails", "returned 500"), ("files", "has a.js, not among its static files"), ("gone", "returned 404")
    )
    site.push("two")
    with pytest.raises(DeploymentError) as caught:
        site.apply()
    error, failed = caught.value, releases.releases(site.site)[-1]
    assert error.message == (
        f"instance: replay failed: GET /0/?q=… on release {failed.name} returned 500: KeyError: {SECRET!r} "
        f"(shop/views.py:3); {live} returned 200; 2 of 90 URLs fail: /1/?q=…"
    )
    assert "set django:sites:blog:releases:replay: false to release it as it is" in error.hint
    assert f"{live} still runs" in error.hint and site.live == live and not error.transient
    assert failed.record["state"] == "failed" and failed.record["replay"]["refused"] == 2
    assert failed.record["replay"]["differences"][0] == f"/0/?q=… returned 500; {live} returned 200"
    assert "ada" not in json.dumps(failed.record["replay"])


@pytest.mark.parametrize("kinds", [[("fails", "redirects in a circle, to /0/")], [("files", "has a.js, not …")]])
def test_exception_is_not_looked_for_where_none_is_raised(site, monkeypatch, kinds):
    differs(site, *kinds)
    site.push("two")
    monkeypatch.delattr(page, "raised")
    with pytest.raises(DeploymentError) as caught:
        site.apply()
    assert f" {kinds[0][1]}; {site.live} returned 200; 90 URLs were compared" in caught.value.message


def test_exception_is_that_of_the_first_url(site):
    differs(site, ("files", "has a.js, not …"), ("fails", "returned 500"))
    site.push("two")
    with pytest.raises(
        DeploymentError, match=r"GET /1/\?q=… on release \S+ returned 500: KeyError.* URLs fail: /0/\?q=…"
    ):
        site.apply()


def measured(times, routes=("item/", "list/"), seed=5):
    """The CPU of both releases for a hundred pages, the new one with so many times as much."""
    chance = random.Random(seed)
    costs = [
        (routes[number % len(routes)], *(4 * chance.lognormvariate(0, 0.3) for _side in "on")) for number in range(100)
    ]
    return {"cpu": [{"route": route, "old": old, "new": new * times} for route, old, new in costs]}


@pytest.mark.parametrize(
    ("costs", "asked"),
    [
        ([measured(1)], 1),
        ([measured(1.3)], 1),
        ([measured(3), measured(1)], 2),  # it had caches to fill
        ([measured(3, [f"{number}/" for number in range(50)])], 1),  # too few pages of each route
        ([{"cpu": [{"route": "item/", "old": 0.0, "new": 0.0}] * 100}], 1),
    ],
)
def test_pages_that_take_no_more_cpu_each_time_are_released(site, costs, asked):
    site.urls *= 50
    site.found = [{**site.found, **cost} for cost in costs]
    site.push("two")
    assert "none worse" in site.apply()["instance"]["replay"] and len(site.asked) == asked
    assert releases.releases(site.site)[-1].record["replay"]["measured"] == 100


def test_release_whose_pages_take_more_cpu_is_refused(site):
    site.urls *= 50
    site.found |= {**measured(3), "compared": 100}
    live = site.live
    site.push("two")
    with pytest.raises(DeploymentError) as caught:
        site.apply()
    new = releases.releases(site.site)[-1]
    why = rf"{new.name}: \S+: more than 1\.5 times the CPU of {live}; odds \d+ to 1"
    assert re.search(f"replay failed: {why}; 100 URLs were compared", str(caught.value)), caught.value
    assert site.live == live and new.record["replay"]["refused"] == 1
    assert re.fullmatch(why, new.record["replay"]["differences"][0])


def test_cpu_of_another_server_is_not_compared(site):
    site.urls *= 50
    site.found |= measured(9)
    site.options["server"] = {"kind": "gunicorn"}
    site.push("two")
    assert "none worse" in site.apply()["instance"]["replay"]


def test_what_is_more_is_as_in_a_canary(site):
    site.urls *= 50
    site.found |= measured(3)
    site.options["releases"] = {"replay": True, "canary": {"worse": {"cpu": 4, "queries": 2}}}
    site.push("two")
    with contextlib.suppress(DeploymentError):  # the proof has no program here
        site.apply()
    assert site.queries[-1] == 2 and releases.releases(site.site)[-1].record["replay"]["refused"] == 0


def test_page_with_more_queries_is_named(site):
    differs(site, ("queries", "makes 53 queries"), ("queries", "makes 54 queries"))
    site.push("two")
    with pytest.raises(
        DeploymentError, match=r"GET /0/\?q=… on release \S+ makes 53 queries; .*2 of 90 URLs make more"
    ):
        site.apply()


def test_exception_with_a_secret_is_masked(site):
    site.given["api_key"] = SECRET
    site.options["secrets"] = {"api_key": {"value": SECRET, "as": "variable"}}
    differs(site, ("fails", "returned 500"))
    site.push("two")
    with pytest.raises(DeploymentError) as caught:
        site.apply()
    assert "KeyError" in str(caught.value) and SECRET not in str(caught.value)


def test_hostile_answers_are_shown_as_text(site):
    differs(site, ("fails", "got no response (\x1b[2J\n{{ x }})"))
    site.push("two")
    with pytest.raises(DeploymentError) as caught:
        site.apply()
    assert "\x1b" not in str(caught.value) and "got no response (\\x1b[2J\\n{{ x }})" in caught.value.message


def test_page_that_is_gone_is_a_warning(site):
    live = site.live
    differs(site, *[("gone", "returned 404")] * 7)
    site.push("two")
    site.apply()
    named = ", ".join(f"/{number}/?q=…" for number in range(5))
    assert site.last.warnings == [f"pages that visitors got from {live} are gone in {site.live}: {named} and 2 more"]


@pytest.mark.parametrize(
    "answer",
    [
        {"differences": [{"host": 1}]},
        {"differences": [{"host": "a", "target": "/", "kind": "other", "old": "", "new": ""}]},
        {"cpu": [{"route": "a/", "old": 1.0, "new": 1.0}] * 3},  # more than there are URLs
    ],
)
def test_unusable_answer_fails_the_release_for_this_time(site, answer):
    site.found |= answer
    site.push("two")
    with pytest.raises(DeploymentError, match="ended without a usable answer") as caught:
        site.apply()
    assert caught.value.transient


@pytest.mark.parametrize(("value", "count"), [(True, 200), (3, 3)])
def test_number_of_urls_is_of_the_pillar(site, value, count):
    site.options["releases"] = {"replay": value}
    site.urls = [Url("blog.example.org", f"/{number}/") for number in range(300)]
    site.push("two")
    site.apply()
    assert len(site.asked[0]) == count


def test_dry_run_says_what_a_release_has_to_prove(site):
    site.push("two")
    live = releases.releases(site.site)[-1]
    assert replay.outlook(site.site, live) == (
        f"2 URLs that visitors got: requested from {live.name} and the new release before the switch"
    )
    site.urls = []
    assert replay.outlook(site.site, live).startswith("nothing yet, since ")
    assert replay.outlook(site.site, None) == ""
