"""Two releases compared by what visitors meet of both: lines of the access log in, a verdict out."""

import json
import random

import pytest
from django_formula.release import judge
from django_formula.release.judge import Line, Use

OLD, NEW = "0041-9be1c07d2a44", "0042-3f2a9c1b77de"


def line(release=NEW, visitor="v", route="item/", *, time=0.0, cpu=4.0, queries=3, exception="", status=200, **more):
    values = {"seconds": 0.005, "is_static": False, **more}
    return Line(time, release, visitor, route, values["seconds"], cpu, queries, exception, status, values["is_static"])


def judged(past=2000, **more):
    judge_of_both = judge.Judge(OLD, NEW, **more)
    chance = random.Random(1)
    for number in range(past):
        cpu = 4 * chance.lognormvariate(0, 0.3)
        judge_of_both.past(line(OLD, f"p{number}", cpu=cpu, time=number / 100 - past / 100))
    return judge_of_both


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
    assert both.verdict and both.exception == "KeyError@item"
    both.acquit()
    assert both.verdict is None and both.exception == ""
    both.see(line(visitor="c", **raised), 0.1)
    assert both.verdict is None
    for visitor in "de":
        both.see(line(visitor=visitor, exception="TypeError@item", status=500), 0.1)
    assert both.verdict


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


def test_first_verdict_stays_and_evidence_is_json():
    both = judged()
    both.failed("its main process exited with status 1")
    both.failed("again")
    both.weigh(Use(90_000_000, 2.0), Use(80_000_000, 0.5))
    evidence = json.loads(json.dumps(both.evidence()))
    assert both.verdict.text == f"{NEW}: its main process exited with status 1"
    assert evidence["verdict"]["kind"] == "exit" and evidence["old"]["requests"] == 2000
