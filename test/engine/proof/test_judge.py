"""Two releases compared by what visitors meet of both: lines of the access log in, a verdict out."""

import json
import random
import statistics

import pytest
import simulated
from django_formula.proof import judge
from django_formula.proof.judge import CUT_SHORT, EXCEPTION, NO_ANSWER, REFUSED, Line, Use
from django_formula.worker.workers import Outcome

OLD, NEW = "0041-9be1c07d2a44", "0042-3f2a9c1b77de"


def line(release=NEW, visitor="v", route="item/", *, time=0.0, cpu=4.0, queries=3, exception="", status=200, **more):
    values = {"seconds": 0.005, "is_static": False, **more}
    return Line(time, release, visitor, route, values["seconds"], cpu, queries, exception, status, values["is_static"])


def judged(past=1000, **more):
    both = judge.Judge(OLD, NEW, **more)
    chance = random.Random(1)
    for number in range(past):
        cpu = 4 * chance.lognormvariate(0, 0.3)
        both.past(line(OLD, f"p{number}", cpu=cpu, time=number / 100 - past / 100))
        both.past(line(OLD, f"p{number}", "/static/app.js", is_static=True))
    return both


def see(both, answered, share):
    """See a request where the old release, when it is asked, refuses what the new one does."""
    both.see(answered, share)
    if both.question and both.question.kind == REFUSED:
        both.acquit()


def test_exception_that_the_old_release_never_raised_is_a_verdict_for_two_visitors():
    both = judged()
    raised = {"exception": "KeyError@item", "status": 500}
    both.see(line(visitor="a", **raised), 0.1)
    both.see(line(visitor="a", **raised), 0.1)
    assert both.verdict is None
    both.see(line(visitor="b", **raised), 0.1)
    assert both.verdict == (
        "exception",
        f"{NEW} raised KeyError in item for 2 visitors; {OLD} never did",
        2,
        None,
    )


def test_exception_that_the_old_release_raises_when_it_is_asked_is_forgotten():
    both, raised = judged(), {"exception": "KeyError@item", "status": 500}
    for visitor in "ab":
        both.see(line(visitor=visitor, **raised), 0.1)
    assert both.verdict and both.question == (EXCEPTION, NEW, "KeyError@item")
    both.acquit()
    assert both.verdict is None and both.question is None
    both.see(line(visitor="c", **raised), 0.1)
    assert both.verdict is None
    for visitor in "de":
        both.see(line(visitor=visitor, exception="TypeError@item", status=500), 0.1)
    assert both.verdict


def refusal(release=NEW, visitor="v", route="item/", **more):
    return line(release, visitor, route, status=404, **more)


def test_refusal_that_two_visitors_meet_is_a_question():
    both = judged()
    for visitor in "ab":
        both.see(refusal(visitor=visitor), 0.1)
    assert both.verdict.visitors == 2 and both.question == (REFUSED, NEW, "item/")


def test_refusal_that_the_old_release_has_too_when_it_is_asked_needs_more_of_them():
    both = judged()
    both.past(line(OLD, "p", "list/"))
    asked = []
    for visitor, route in (("a", "item/"), ("b", "item/"), ("c", "list/"), ("d", "list/"), ("e", "item/")):
        assert both.verdict is None
        both.see(refusal(visitor=visitor, route=route), 0.1)
        if both.question:
            asked.append(both.question.name)
            both.acquit()
    assert asked == ["item/", "list/"] and both.verdict.odds > 1000


def test_number_of_questions_is_bounded():
    both, asked = judged(), 0
    for number in range(400):
        both.past(line(OLD, f"p{number}", f"route{number}/"))
    for number in range(400):
        both.see(refusal(visitor=f"n{number}", route=f"route{number}/"), 0.1)
        if both.question:
            asked += 1
            both.acquit()
        elif both.verdict:
            break
    assert asked < 250 and both.verdict


@pytest.mark.parametrize(
    ("exception", "known"),
    [("OperationalError@item", ()), ("ReadTimeout@item", ()), ("KeyError@item", ("KeyError@item",))],
)
def test_exception_of_a_disturbance_or_of_the_old_release_needs_a_comparison(exception, known):
    both = judged(known=known)
    for number in range(20):  # as many for each visitor of both
        release = NEW if number % 10 == 0 else OLD
        both.see(line(release, f"v{number}", exception=exception, status=500), 0.1)
    assert both.verdict is None


@pytest.mark.parametrize(
    ("what", "status", "text"),
    [(NO_ANSWER, 502, "gave no answer to"), (CUT_SHORT, 200, "sent only a part of its answer to")],
)
def test_release_that_gives_two_visitors_no_answer_or_a_part_is_worse_where_the_old_one_never_did(what, status, text):
    for known in (False, True):
        both = judged()
        both.past(line(OLD, "x", exception=what if known else "", status=status, route="-"))
        for number in range(2):
            both.see(line(visitor=f"v{number}", exception=what, status=status, route="-"), 0.1)
        said = both.verdict and both.verdict.text
        assert said == (None if known else f"{NEW} {text} 2 visitors; {OLD} never did")


def test_answers_that_are_cut_short_are_compared_where_the_old_release_has_cut_some():
    both = judged()
    both.past(line(OLD, "x", exception=CUT_SHORT))
    for number in range(40):
        both.see(line(OLD, f"o{number}"), 0.3)
        both.see(line(NEW, f"n{number}", exception=CUT_SHORT), 0.3)
    assert both.verdict.kind == "error" and f"{NEW}: responses that are cut short, the last from" in both.verdict.text


@pytest.mark.parametrize(
    ("done", "before", "after", "failures", "is_worse"),
    [
        (100, {}, 2, {"KeyError": 2}, True),
        (100, {}, 50, {"KeyError": 1}, False),  # one may be of one message
        (100, {}, 50, {"KeyError": 2}, False),  # by chance
        (3, {}, 4, {"KeyError": 4}, False),  # the old release has done few
        (100, {"KeyError": 1}, 20, {"KeyError": 20}, False),
        (100, {"TypeError": 1}, 20, {"KeyError": 20}, True),
        (100, {}, 20, {"OperationalError": 20}, False),
        (0, {}, 20, {"KeyError": 20}, False),  # a task that is new
    ],
)
def test_task_that_fails_as_it_never_did_is_worse(done, before, after, failures, is_worse):
    both = judged()
    both.compare_tasks({"shop.tasks.send": Outcome(done, before)} if done else {}, {})
    both.compare_tasks({}, {"shop.tasks.send": Outcome(after, failures), "shop.tasks.other": Outcome(9, {})})
    kept = json.loads(json.dumps(both.evidence()))["tasks"]
    assert kept["new"]["shop.tasks.send"] == {"done": after, "raised": failures}
    number = sum(failures.values())
    why = f"{NEW} raised KeyError in the task shop.tasks.send {number} times; {OLD} never did"
    assert both.verdict == (judge.Verdict("task", why, 0, None) if is_worse else None)


def test_first_verdict_stays_and_evidence_is_json():
    both = judged()
    both.failed("its main process exited with status 1")
    both.failed("again")
    both.weigh(Use(90_000_000, 2.0), Use(80_000_000, 0.5))
    evidence = json.loads(json.dumps(both.evidence()))
    assert both.verdict.text == f"{NEW}: its main process exited with status 1"
    assert evidence["verdict"]["kind"] == "exit" and evidence["old"]["requests"] == 2000


@pytest.mark.parametrize(
    ("share", "past", "visitors"),
    [(0.1, 1000, 2), (0.5, 1000, 2), (0.9, 1000, 2), (0.1, 10, 2), (0.3, 10, 4), (0.5, 10, 7)],
)
def test_more_visitors_are_needed_where_little_is_known_of_the_old_release(share, past, visitors):
    both = judged(past)
    for number in range(visitors):
        assert both.verdict is None
        both.see(line(visitor=f"v{number}", exception="KeyError@item", status=500), share)
    assert both.verdict.kind == "exception" and both.verdict.visitors == visitors


def test_exception_whose_function_was_renamed_is_the_old_one():
    both = judged()
    both.past(line(OLD, "x", exception="KeyError@shop.item", status=500))
    for number in range(2):
        both.see(line(visitor=f"v{number}", exception="KeyError@shop.views.item", status=500), 0.1)
        both.see(line(OLD, f"o{number}", exception="KeyError@shop.item", status=500), 0.1)
    assert both.verdict is None
    for number in range(2):
        both.see(line(visitor=f"v{number}", route="list/", exception="KeyError@shop.views.list", status=500), 0.1)
    assert both.verdict.kind == "exception"


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"status": 502, "cpu": None, "queries": None, "route": "-"}, "error"),
        ({"status": 504, "cpu": None, "queries": None, "route": "-"}, "error"),
        ({"status": 500}, "error"),
        ({"status": 500, "exception": "ConnectionRefusedError@item"}, "error"),
        ({"status": 499, "seconds": 9.0, "route": "-"}, "error"),  # no visitor has waited for an answer
        ({"status": 404, "is_static": True, "route": "/static/app.js"}, "static"),
        ({"status": 403, "route": "POST order/"}, "error"),
        ({"status": 499, "seconds": 0.2}, None),
        ({"status": 404, "route": "-"}, None),  # a path that no release has
        ({"status": 429}, None),
        ({"status": 302}, None),
        ({"status": 404, "is_static": False, "route": "-", "seconds": 9.0}, None),
    ],
)
def test_trouble_of_visitors_is_a_verdict_once_it_is_no_chance(more, kind):
    both = judged()
    both.past(line(OLD, "a", route="POST order/"))
    for number in range(1, 101):
        both.see(line(OLD, f"o{number}", time=number / 10), 0.1)
        if number % 10 == 0:
            see(both, line(NEW, f"n{number}", time=number / 10, **more), 0.1)
    assert (both.verdict and both.verdict.kind) == kind
    if kind:
        assert 1 < both.verdict.visitors < 9 and both.verdict.odds > 15
        assert both.verdict.text.startswith(f"{NEW}: ") and f"; {OLD}: 0 of 10" in both.verdict.text


@pytest.mark.parametrize("trouble", [{"status": 500}, {"status": 403, "route": "POST order/"}])
def test_trouble_that_each_visitor_of_both_meets_now_and_then_is_none(trouble):
    """As found: those of the old release had all met it before, and counted once; those of the new one were all new."""
    both, chance = judged(), random.Random(3)
    for number in range(40_000):
        visitor = number * 7 % 240
        is_met = chance.random() < 0.05
        more = {"time": number / 30, **(trouble if is_met else {})}
        if number < 30_000:
            both.past(line(OLD, f"v{visitor}", **more))
            both.past(line(OLD, f"v{visitor}", time=number / 30, route="POST order/"))
            continue
        share = 0.1 if number < 34_000 else 0.3
        is_new = visitor < 240 * share
        see(both, line(NEW if is_new else OLD, f"v{visitor}", **more), share)
        assert both.verdict is None, (number, both.verdict)
    events = both.evidence()["events"]["error" if trouble["status"] == 500 else "refused"]
    assert sum(events.values()) == pytest.approx(210, rel=0.1) and events["new"] == pytest.approx(36, rel=0.3)


def test_what_the_old_release_has_always_refused_or_does_not_have_is_not_compared():
    both = judged()
    for number in range(200):
        refused = {"status": 403, "route": "POST private/"}
        both.past(line(OLD, f"o{number}", **refused))
        both.see(line(NEW, f"n{number}", **refused), 0.1)
        both.see(line(NEW, f"m{number}", status=403, route="new/"), 0.1)
    assert both.verdict is None


def test_refusals_count_also_where_the_old_release_has_more_routes_than_are_kept():
    both = judged()
    for number in range(300):
        both.past(line(OLD, f"p{number}", route=f"page{number}/"))
    for number in range(40):
        both.see(line(OLD, f"o{number}", route="page299/"), 0.1)
        both.see(line(NEW, f"n{number}", route="page299/", status=403), 0.1)
    assert both.verdict.kind == "error"


def test_trouble_that_both_meet_is_none():
    both = judged()
    for number in range(400):
        failing = 100 < number < 200
        release = NEW if number % 10 == 0 else OLD
        status, exception = (500, "OperationalError@item") if failing and number % 3 else (200, "")
        both.see(line(release, f"v{number}", time=number / 10, status=status, exception=exception), 0.1)
    assert both.verdict is None
    assert both.evidence()["events"]["error"]["old"] > 50


def test_one_visitor_alone_decides_nothing():
    both, chance = judged(), random.Random(2)
    routes = ["item/", "list/", "search/"]
    for number in range(3000):
        both.see(line(OLD, f"o{number}", chance.choice(routes), time=number / 10), 0.1)
        heavy = {"cpu": 900.0, "queries": 500, "seconds": 9.0}
        status = chance.choice([200, 403, 500, 502])
        exception = f"KeyError@f{number}" if status == 500 else ""
        both.see(
            line(NEW, "only", chance.choice(routes), time=number / 10, status=status, exception=exception, **heavy), 0.1
        )
        both.see(line(NEW, "only", "/static/x", status=404, is_static=True), 0.1)
    assert both.verdict is None


def test_client_that_requests_one_page_all_the_time_is_no_measure_for_others():
    both, chance = judged(0), random.Random(8)
    for number in range(3000):
        is_robot, is_new = chance.random() < 0.9, chance.random() < 0.3
        visitor = "robot" if is_robot else f"v{number}"
        release = NEW if is_new and not is_robot else OLD
        figures = {"cpu": 0.4, "seconds": 0.001} if is_robot else {"cpu": 4 * chance.lognormvariate(0, 0.3)}
        both.see(line(release, visitor, time=number / 50, **figures), 0.3)
    assert both.verdict is None


def test_trouble_that_is_usual_for_the_old_release_needs_more_of_it():
    both = judged()
    for number in range(0, 1000, 10):
        both.past(line(OLD, f"p{number}", status=500))
    for number in range(1, 41):  # none of the old one now, by chance
        both.see(line(OLD, f"o{number}"), 0.1)
        both.see(line(NEW, f"n{number}", status=500 if number % 10 == 0 else 200), 0.1)
    assert both.verdict is None and both.evidence()["events"]["error"] == {"old": 0, "new": 4}


@pytest.mark.parametrize("what", ["cpu", "queries", "seconds"])
@pytest.mark.parametrize(("times", "share", "is_worse"), [(1.0, 0.1, False), (1.2, 0.3, False), (5.0, 0.3, True)])
def test_answers_are_compared_with_those_of_the_same_route(what, times, share, is_worse):
    both, chance = judged(), random.Random(4)
    for number in range(4000):
        is_new, time = chance.random() < share, number / 20
        figures = {
            "cpu": 4 * chance.lognormvariate(0, 0.3),
            "queries": 20,
            "seconds": 0.01 * chance.lognormvariate(0, 0.3),
        }
        figures[what] *= times if is_new else 1
        both.see(line(NEW if is_new else OLD, f"v{chance.randrange(500)}", "list/", time=time, **figures), share)
    assert bool(both.verdict) == is_worse
    if is_worse:
        assert both.verdict.kind == what and both.verdict.odds > 10_000 and both.verdict.visitors >= 4


def test_slower_answers_are_allowed_while_most_visitors_have_the_new_release():
    for share, is_worse in ((0.3, True), (0.9, False)):
        both, chance = judged(), random.Random(5)
        for number in range(4000):
            is_new = chance.random() < 0.5
            seconds = (0.017 if is_new else 0.01) * chance.lognormvariate(0, 0.2)
            release = NEW if is_new else OLD
            both.see(line(release, f"v{chance.randrange(900)}", time=99 + number / 20, seconds=seconds), share)
        assert bool(both.verdict) == is_worse


def test_first_answers_are_not_compared():
    both = judged()
    for number in range(300):
        both.see(line(OLD, f"o{number}", time=number / 10), 0.3)
        cold = line(NEW, f"n{number}", time=number / 10, cpu=300.0, seconds=2.0)
        both.see(cold._replace(is_cold=True), 0.3)
    assert both.verdict is None


def test_what_may_be_worse_is_an_option():
    for allowed, is_worse in ((1.5, True), (8.0, False)):
        both, chance = judged(worse={**judge.WORSE, "cpu": allowed}), random.Random(6)
        for number in range(1000):
            is_new = chance.random() < 0.3
            cpu = (12.0 if is_new else 4.0) * chance.lognormvariate(0, 0.3)
            both.see(line(NEW if is_new else OLD, f"v{number}", time=number / 20, cpu=cpu), 0.3)
        assert bool(both.verdict) == is_worse


MEGABYTE = 1_000_000
#: The memory of the new release after so many requests; the old one has 100 MB.
MEMORY = {
    "leak": (lambda requests: (90 + 0.2 * requests) * MEGABYTE, True),
    "leak of less than a page": (lambda requests: 90 * MEGABYTE + 4096 * requests, False),
    "leak below the old one's memory": (lambda requests: (50 + 0.1 * requests) * MEGABYTE, False),
    "model that is loaded late": (lambda requests: (90 if requests < 100 else 390) * MEGABYTE, False),
    "caches that fill": (lambda requests: (90 + 60 * (1 - 0.98**requests)) * MEGABYTE, False),
    "processes that load a model one after the other": (
        lambda requests: (90 + min(requests // 80, 4) * 40) * MEGABYTE,
        False,
    ),
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_that_grows_steadily_with_requests_is_a_leak(name):
    memory, is_worse = MEMORY[name]
    both = judged()
    for number in range(400):
        both.see(line(OLD, f"o{number}", time=number / 10), 0.3)
        both.see(line(NEW, f"n{number}", time=number / 10), 0.3)
        if number % 10 == 0:
            both.weigh(Use(100 * MEGABYTE, number * 0.004), Use(int(memory(number)), number * 0.004))
    assert (both.verdict and both.verdict.kind) == ("memory" if is_worse else None)
    if is_worse:
        assert "takes 200 kB more memory for each request" in both.verdict.text


def test_leak_that_the_old_release_has_too_is_none():
    both = judged()
    for number in range(400):
        both.see(line(OLD, f"o{number}", time=number / 10), 0.5)
        both.see(line(NEW, f"n{number}", time=number / 10), 0.5)
        both.weigh(Use(90 * MEGABYTE + number * 100_000, 0.0), Use(120 * MEGABYTE + number * 120_000, 0.0))
    assert both.verdict is None


@pytest.mark.parametrize(
    ("busy", "is_worse"), [(lambda number: 1.5, True), (lambda number: 15.0 if number == 200 else 0.01, False)]
)
def test_cpu_that_no_request_explains_is_that_of_threads_not_of_one_report(busy, is_worse):
    both, used = judged(), 0.0
    for number in range(400):
        both.see(line(OLD, f"o{number}", time=number / 10), 0.1)
        if number % 10 == 0:
            both.see(line(NEW, f"n{number}", time=number / 10), 0.1)
            used += busy(number)
            both.weigh(Use(MEGABYTE, number * 0.005), Use(MEGABYTE, used))
    assert (both.verdict and both.verdict.kind) == ("cpu" if is_worse else None)


def test_instance_that_is_not_there_is_weighed_later():
    both = judged()
    both.weigh(None, Use(1, 1.0))
    both.weigh(Use(1, 1.0), None)
    both.weigh(None, None)
    assert both.verdict is None


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_share_of_none_or_all_compares_no_events(share):
    both = judged()
    for number in range(50):
        both.see(line(NEW, f"v{number}", status=502, route="-"), share)
    assert both.verdict is None


def test_lines_of_other_releases_are_left_out():
    both = judged()
    both.past(line("0040-000000000000"))
    for number in range(50):
        both.see(line("0040-000000000000", f"v{number}", exception="KeyError@item", status=500), 0.3)
        both.see(line("", f"v{number}", exception="KeyError@item", status=500), 0.3)
    assert both.verdict is None and both.evidence()["old"]["requests"] == 2000


@pytest.mark.slow
def test_all_that_visitors_invent_is_bounded_and_printable():
    both, chance = judged(), random.Random(7)
    for number in range(60_000):
        text = f"{number}\x1b[31m\n" + "é" * chance.randrange(3000)
        release = NEW if number % 3 == 0 else OLD
        more = {"exception": f"OperationalError@{text}", "status": 500} if number % 5 == 0 else {}
        both.see(line(release, f"{number}", text, time=number / 100, is_static=number % 7 == 0, **more), 0.3)
    for side in (both._old, both._new):
        assert len(side.visitors) <= 20_000 and len(side.answers) <= 201 and len(side.raised) <= 200
    assert len(both._won) <= 20_000
    evidence = json.dumps(both.evidence(), ensure_ascii=False)
    assert len(evidence) < 100_000 and evidence.isprintable()


#: Of each broken release: how many of 24 the judge finds at least, the median of seconds, and of visitors who met it,
#: with 5 and with 40 requests a second.
TABLE = {
    "500 on 1 %": {5: (21, 160, 2), 40: (24, 50, 2)},
    "500 on 10 %": {5: (24, 75, 2), 40: (24, 10, 2)},
    "500 for logged-in": {5: (24, 90, 2), 40: (24, 15, 2)},
    "500 on POST": {5: (24, 75, 2), 40: (24, 15, 2)},
    "file missing": {5: (24, 85, 3), 40: (24, 10, 3)},
    "all x 1.5": {5: (5, 230, 0), 40: (23, 70, 0)},
    "all x 3": {5: (24, 120, 0), 40: (24, 15, 0)},
    "one route x 3": {5: (8, 230, 0), 40: (24, 75, 0)},
    "one route waits x 3": {5: (0, 240, 0), 40: (23, 80, 0)},
    "queries x 5": {5: (24, 130, 0), 40: (24, 20, 0)},
    "403 on POST": {5: (20, 180, 10), 40: (24, 35, 5)},
    "500 without a name": {5: (24, 125, 3), 40: (24, 15, 3)},
}


@pytest.mark.parametrize("rate", simulated.PLANS)
def test_good_releases_are_kept(rate):
    results = [simulated.release(rate, seed=seed, disturbed=seed % 3 == 0, odd=seed % 2 == 0) for seed in range(4)]
    assert [result.text for result in results if result.kind] == []


@pytest.mark.full
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("rate", simulated.PLANS)
def test_none_of_72_good_releases_is_taken_back(rate, odd):
    results = [simulated.release(rate, seed=seed, disturbed=seed % 3 == 0, odd=odd) for seed in range(72)]
    assert [result.text for result in results if result.kind] == []


@pytest.mark.parametrize("rate", simulated.PLANS)
def test_good_releases_are_kept_on_a_busy_host(rate):
    results = [simulated.release(rate, seed=seed, busy=True) for seed in range(4)]
    assert [result.text for result in results if result.kind] == []


def test_release_that_is_much_slower_is_taken_back_on_a_busy_host():
    result = simulated.release(40, "all x 3", seed=1, busy=True)
    assert result.kind in ("cpu", "seconds") and result.seconds < 60, result


@pytest.mark.parametrize("broken", ["500 on 10 %", "file missing", "all x 3"])
def test_broken_release_is_taken_back(broken):
    assert simulated.release(40, broken, seed=1).kind in ("exception", "static", "cpu")


@pytest.mark.full
@pytest.mark.parametrize("rate", simulated.PLANS)
@pytest.mark.parametrize("broken", simulated.BROKEN)
def test_broken_releases_are_taken_back_soon(broken, rate):
    results = [simulated.release(rate, broken, seed=seed, disturbed=seed % 3 == 0) for seed in range(24)]
    at_least, seconds, met = TABLE[broken][rate]
    caught = [result for result in results if result.kind]
    assert len(caught) >= at_least
    assert not caught or statistics.median(result.seconds for result in caught) <= seconds
    assert statistics.median(result.met for result in results) <= met
