"""What is sent after which looks: a table of cases, without a clock, files and the network."""

import pytest
from django_formula.watch import decide
from django_formula.watch.problem import Problem

MINUTE, DAY = 60, 86400
DOWN = Problem("down", "GET / returned 502", "salt-call django.logs blog", "health")
DISK = Problem("disk", "4 % of / is free", "du -xh /", "8:1")


def sent(looks, problem=DOWN, quiet=(), site="blog"):
    """The messages of looks, one a minute: the number of the look, and what was sent."""
    known, found = {}, []
    for number, bad in enumerate(looks):
        problems = decide.found(site, [problem]) if bad else {}
        messages = decide.decide(known, problems, number * MINUTE, lambda _site, _kind, number=number: number in quiet)
        found += [(number, one["what"]) for one in messages]
    return found, known


#: Looks → messages.
CASES = {
    "one bad look": ([0, 1, 0, 0, 0, 0], []),
    "two bad looks": ([0, 1, 1, 0, 0, 0], [(2, "problem"), (5, "good")]),
    "outage of five looks": ([0, *[1] * 5, *[0] * 6], [(2, "problem"), (8, "good")]),
    "an hour down": ([*[1] * 60, *[0] * 5], [(1, "problem"), (62, "good")]),
    "two bad looks of five": ([1, 0, 0, 1, 0, 0, 0], [(3, "problem"), (6, "good")]),
    "two bad looks of six": ([1, 0, 0, 0, 0, 1, 0, 0, 0], []),
    "every second look bad for an hour": ([1, 0] * 30 + [0] * 70, [(2, "problem"), (61, "good")]),
    "three bad, three good, for two hours": (
        ([1] * 3 + [0] * 3) * 20 + [0] * 90,
        [(1, "problem"), (5, "good"), (7, "problem"), (11, "good"), (13, "unstable"), (176, "good")],
    ),
    "a day and an hour down": (
        [*[1] * 1500, *[0] * 5],
        [(1, "problem"), (1441, "problem"), (1502, "good")],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_looks_become_messages(name):
    looks, expected = CASES[name]
    assert sent(looks)[0] == expected


def test_what_is_known_for_sure_needs_one_look():
    assert sent([0, 1, 1, 1, 0, 0, 0], DISK)[0] == [(1, "problem"), (6, "good")]


def test_problem_that_was_sent_while_the_clock_was_ahead_is_sent_again():
    known, now = {}, 1000.0
    for time in (1e9, 1e9 + MINUTE, now, now + MINUTE):
        messages = decide.decide(known, decide.found("blog", [DOWN]), time, lambda _site, _kind: False)
        assert len(messages) == (time in (1e9 + MINUTE, now)), time


def test_problem_that_was_unstable_while_the_clock_was_ahead_is_sent_when_it_comes_back():
    known, ahead, now = {}, 1e9, 1000.0
    looks = ([1] * 2 + [0] * 3) * 3
    sent_of = [
        decide.decide(known, found, time, lambda _site, _kind: False)
        for time, found in (
            *(
                (ahead + number * MINUTE, decide.found("blog", [DOWN]) if bad else {})
                for number, bad in enumerate(looks)
            ),
            *((now + number * MINUTE, {}) for number in range(5)),
            *((now + DAY + number * MINUTE, decide.found("blog", [DOWN])) for number in range(3)),
        )
    ]
    told = [one["what"] for messages in sent_of for one in messages]
    assert told == ["problem", "good", "problem", "good", "unstable", "good", "problem"]


def test_quiet_time_ends_with_what_is_still_wrong():
    looks = [0, 1, 1, 1, 1, 1, 0, 0, 0]
    assert sent(looks, quiet=range(4))[0] == [(4, "problem"), (8, "good")]
    assert sent([0, 1, 1, 1, 0, 0, 0, 0], quiet=range(6))[0] == []


def test_good_of_what_was_sent_before_a_quiet_time_comes_after_it():
    assert sent([1, 1, 0, 0, 0, 0, 0, 0], quiet=range(2, 7))[0] == [(1, "problem"), (7, "good")]


def test_deployment_under_way_needs_more_looks():
    known, found = {}, []
    for number in range(6):
        problems = decide.found("blog", [DOWN], need=decide.OF)
        found += [number for _one in decide.decide(known, problems, number * MINUTE, lambda *_: False)]
    assert found == [4]


def test_what_is_over_is_forgotten_after_an_hour():
    assert "blog/down" in sent([1, 1, 0, 0, 0])[1]
    assert sent([1, 1, *[0] * 70])[1] == {}


def test_one_cause_is_one_problem_with_its_command():
    stopped = Problem("down", "0042-3f2a9c1b77de is not running", "salt-call state.apply django", "running")
    found = decide.found("blog", [DOWN, stopped, DISK])
    assert found["blog/down"]["text"] == "0042-3f2a9c1b77de is not running; GET / returned 502"
    assert found["blog/down"]["command"] == "salt-call state.apply django"
    assert [*found] == ["blog/down", "blog/disk/8:1"]


def test_same_problem_of_many_sites_is_one_line():
    def message(site, what="problem", command="salt-call state.apply django"):
        text = f"00{len(site)}2-3f2a9c1b77de is not running"
        return {"what": what, "site": site, "kind": "down", "text": text, "command": command, "since": len(site)}

    two = [message("blog"), message("shop")]
    assert decide.folded(two) == two
    (one,) = decide.folded([*two, message("forum")])
    assert one["text"] == "3 sites are down: blog, forum, shop: the active release is not running"
    assert (one["site"], one["command"], one["since"]) == ("", "salt-call state.apply django", 4)
    assert one["sites"] == ["blog", "forum", "shop"]
    (one,) = decide.folded([message(name, "good", "") for name in ("blog", "forum", "shop")])
    assert one["text"] == "3 sites are good again: blog, forum, shop"
    mixed = decide.folded([*two, message("forum", command="salt-call django.logs forum"), message("wiki", "good", "")])
    assert [one["site"] for one in mixed] == ["", "wiki"] and mixed[0]["command"] == "salt-call django.status"


@pytest.mark.parametrize(
    ("window", "weekday", "time", "is_in"),
    [
        ("22:00..06:00", 0, "23:10", True),
        ("22:00..06:00", 3, "05:59", True),
        ("22:00..06:00", 3, "06:00", False),
        ("12:00..13:00", 6, "12:00", True),
        ("Sat 22:00..Sun 06:00", 5, "22:00", True),
        ("Sat 22:00..Sun 06:00", 6, "05:59", True),
        ("Sat 22:00..Sun 06:00", 4, "23:00", False),
        ("Sun 22:00..Mon 06:00", 0, "01:00", True),
        ("Sun 22:00..Mon 06:00", 6, "21:59", False),
    ],
)
def test_windows_of_the_week(window, weekday, time, is_in):
    hour, minute = map(int, time.split(":"))
    assert decide.in_window(window, weekday, 60 * hour + minute) is is_in


RESTARTED = Problem("degraded", "django-blog-0042.service was restarted 9 times", "journalctl -u x", "0042")


@pytest.mark.parametrize(
    ("looks", "expected"),
    [
        (["dr", "dr", "dr", "", "", "", "", "", ""], [(1, "down"), (5, "down")]),
        (["r", "r", "dr", "dr", "r", "", "", "", "", ""], [(1, "degraded"), (3, "down"), (6, "down"), (9, "degraded")]),
        (["d", "r", "d", "r", "r", "r", "", "", ""], [(2, "down"), (5, "down")]),
    ],
    ids=["restarts of an outage", "restarts before it", "restarts between its looks"],
)
def test_site_that_is_down_is_not_degraded_too(looks, expected):
    known, found = {}, []
    for number, seen in enumerate(looks):
        problems = decide.found("blog", [{"d": DOWN, "r": RESTARTED}[one] for one in seen])
        messages = decide.decide(known, problems, number * MINUTE, lambda *_: False)
        found += [(number, one["kind"]) for one in messages]
    assert found == expected


def test_problem_of_the_host_is_none_of_many_sites():
    problem = {"what": "problem", "kind": "watch", "text": "it cannot be looked at", "command": "", "since": 0}
    every = [{**problem, "site": site} for site in ("", "blog", "forum")]
    assert decide.folded(every) == every
    own, of_sites = decide.folded([*every, {**problem, "site": "shop"}])
    assert own == every[0] and of_sites["sites"] == ["blog", "forum", "shop"]
