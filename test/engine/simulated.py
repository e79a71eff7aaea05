"""Releases that are made up, good and broken ones, and what the judge makes of them while visitors meet both.

Seconds of an answer are lognormal, times the state of the host, which is four times as slow for a fifth of the time.
The first answer of a route by each process takes longer. One release in three meets 4 s in which a fifth of all answers
of both are errors of a database. On a `busy` host, which it is from the moment on at which both serve, all answers take
CPU and seconds several times, and those of the release with few visitors still more: it is in no cache of the processor
when its turn comes. With `odd` visitors there are people for whom pages do four times as much, one of them
all the time, a client that requests one page all the time, and one that has every page fail, each of one of the
releases by chance.
"""

import itertools
import random
from typing import NamedTuple

from django_formula.proof.judge import Judge, Line

OLD, NEW = "0041-9be1c07d2a44", "0042-3f2a9c1b77de"
#: Routes: milliseconds of CPU, queries, the share of requests.
ROUTES = {
    "/": (3, 2, 0.2), "/static/app.js": (0, 0, 0.15), "item/": (4, 4, 0.36), "list/": (6, 8, 0.1),
    "search/": (10, 3, 0.06), "account/": (5, 5, 0.06), "POST order/": (5, 6, 0.07),
}  # fmt: skip
#: What is broken: routes, the share of their answers that fail, times of CPU and seconds, times of seconds, of queries.
BROKEN = {
    "500 on 1 %": ("item/", 0.028, 1, 1, 1),
    "500 on 10 %": ("item/", 0.28, 1, 1, 1),
    "500 for logged-in": ("account/", 1, 1, 1, 1),
    "500 on POST": ("POST order/", 1, 1, 1, 1),
    "file missing": ("/static/app.js", 1, 1, 1, 1),
    "all x 1.5": ("", 0, 1.5, 1, 1),
    "all x 3": ("", 0, 3, 1, 1),
    "one route x 3": ("search/", 0, 3, 1, 1),
    "one route waits x 3": ("search/", 0, 1, 3, 1),
    "queries x 5": ("item/", 0, 1, 1, 5),
    "403 on POST": ("POST order/", 403, 1, 1, 1),
    "500 without a name": ("item/", -0.28, 1, 1, 1),
}
#: Requests a second: the shares of the new release, and how long.
PLANS = {5: [(0.1, 120), (0.5, 120)], 40: [(0.1, 60), (0.4, 60)]}
#: Seconds of the log that are known from before, and requests.
_BEFORE, _HISTORY = 60.0, 20_000
_PROCESSES = 4


class Result(NamedTuple):
    """How a release ended: the kind of the verdict, empty for none; seconds; visitors who met what is broken."""

    kind: str
    seconds: float
    met: int
    text: str


class Visitor:
    def __init__(self, chance, kind=""):
        self.name, self.number, self.kind = f"{chance.getrandbits(60):x}", chance.random(), kind


def release(
    rate: int, broken: str = "", *, seed: int, disturbed: bool = False, odd: bool = False, busy: bool = False
) -> Result:
    """Return what the judge makes of a release."""
    chance = random.Random(seed)
    judge = Judge(OLD, NEW, known={"ValueError@shop.rare"})
    history(judge)
    trouble = chance.uniform(0, 30) + _BEFORE if disturbed else -99.0
    state, until, now, met, warm = 1.0, 0.0, 0.0, set[str](), set[tuple[str, int]]()
    visitors = [Visitor(chance) for _ in range(max(rate, 8))]
    oddities = [Visitor(chance, kind) for kind in ("robot", "scanner", "staff")] if odd else []
    ends = list(itertools.accumulate((seconds for _share, seconds in PLANS[rate]), initial=_BEFORE))
    while now < ends[-1]:
        now += chance.expovariate(rate)
        if now > until:
            state, until = (4.0 if chance.random() < 0.2 else 1.0), now + chance.uniform(1, 8)
        place = chance.randrange(len(visitors))
        if chance.random() < 1 / 7:  # a visitor leaves, another one comes
            visitors[place] = Visitor(chance, "staff" if odd and chance.random() < 0.05 else "")
        visitor = visitors[place] if chance.random() < 0.9 or not oddities else chance.choice(oddities)
        share = next((share for (share, _), end in zip(PLANS[rate], ends[1:], strict=True) if now < end), 0.0)
        is_new = now > _BEFORE and visitor.number < share
        failing = trouble < now < trouble + 4 and chance.random() < 0.2
        answer = answered(chance, visitor, now, is_new, state, failing)
        if busy and now > _BEFORE and answer.cpu is not None:
            cpu, seconds = (1.3, 1.25) if is_new and share < 0.5 else (1, 1)
            answer = answer._replace(cpu=1.8 * cpu * answer.cpu, seconds=8 * seconds * answer.seconds)
        if is_new and broken:
            answer, is_met = break_(chance, broken, answer)
            met |= {visitor.name} if is_met else set()
        process = (answer.route, chance.randrange(_PROCESSES))
        if is_new and process not in warm and answer.cpu is not None:
            warm.add(process)
            answer = answer._replace(is_cold=True, cpu=answer.cpu * 9, seconds=answer.seconds * 9)
        if now < _BEFORE:
            judge.past(answer)
            continue
        judge.see(answer, share)
        if judge.verdict:
            return Result(judge.verdict.kind, now - _BEFORE, len(met), judge.verdict.text)
    return Result("", now - _BEFORE, len(met), "")


def history(judge: Judge) -> None:
    """What the old release did before: one answer in 5 000 fails."""
    for number in range(_HISTORY):
        fails = number % 5000 == 0
        values = ("ValueError@shop.rare", 500) if fails else ("", 200)
        judge.past(Line(-1e6, OLD, f"h{number // 7}", "rare/", 0.004, None, None, *values, False))


def answered(chance, visitor: Visitor, now: float, is_new: bool, state: float, failing: bool) -> Line:
    """Return what a release that works answers."""
    route = (
        "search/" if visitor.kind == "robot" else chance.choices(list(ROUTES), [row[2] for row in ROUTES.values()])[0]
    )
    milliseconds, queries, _share = ROUTES[route]
    times, is_static = (4.0 if visitor.kind == "staff" else 1.0), route.startswith("/static")
    seconds = milliseconds * times / 1000 * chance.lognormvariate(0, 0.5) * state
    cpu = milliseconds * times * chance.lognormvariate(0, 0.3) * (1.2 if state > 1 else 1)
    exception, status = ("OperationalError@shop.view", 500) if failing else ("", 200)
    if chance.random() < 0.0002:
        exception, status = "ValueError@shop.rare", 500
    if visitor.kind == "scanner":
        exception, status = f"UnicodeError@shop.view{chance.randrange(20)}", 500
    if is_static:
        exception, status = "", 404 if status == 500 else 200
    figures = (None, None) if is_static else (round(cpu, 2), int(queries * times))
    values = (NEW if is_new else OLD, visitor.name, route, round(seconds, 3), *figures, exception, status, is_static)
    return Line(now, *values)


def break_(chance, broken: str, answer: Line) -> tuple[Line, bool]:
    """Return the answer of a broken release, and whether it is an error that a good one has not."""
    route, fails, times, waits, queries = BROKEN[broken]
    if route not in ("", answer.route):
        return answer, False
    figures = {"seconds": answer.seconds * times * waits}
    if answer.cpu is not None and answer.queries is not None:
        figures |= {"cpu": answer.cpu * times, "queries": answer.queries * queries}
    is_met = chance.random() < abs(fails)
    if is_met:
        status = fails if fails > 1 else 404 if answer.is_static else 500
        exception = "KeyError@shop.item" if status == 500 and fails > 0 else ""
        figures |= {"status": status, "exception": exception}
    return answer._replace(**figures), is_met
