"""Is a new release worse than the old one, by what visitors meet of both at the same time?

Trouble of visitors (an answer of 5xx, a static file that is missing) is a sequence of events. While both releases
serve, each event is one of the new release with a probability that follows from its share of the visitors; what both
meet, such as a database that does not answer, does not change it. The likelihood ratio of "the new one has many times
as many" against "at most twice as many" may be looked at after each event: by chance it exceeds 1/a with at most the
probability a (Ville's inequality, 1939). CPU, queries and seconds of each answer have a rank among answers of the same
route of the old release; bets on high ranks are a test martingale, for which the same holds (Shafer, Vovk: Game-
Theoretic Foundations for Probability and Finance, 2019; Vovk and others: Testing exchangeability on-line, 2003).

Exceptions of the code that the old release has never raised need no odds, only two visitors. Nor do pages that the new
release refuses and the old one answers when both are asked for them (`question`). All state is bounded, whatever
visitors do, and one visitor alone decides nothing. Nothing here reads a file or a clock. Why it is so:
docs/decisions/0168.
"""

import bisect
import collections
import itertools
import math
import re
import statistics
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from django_formula.release.health import PASSING
from django_formula.worker.workers import Outcome

#: What a question is about: an exception, or the route of a page that is refused.
EXCEPTION, REFUSED = "exception", "refused"
#: What may be worse by default, in times; memory in bytes for each request.
WORSE = {"errors": 2.0, "seconds": 1.3, "cpu": 1.5, "queries": 1.3, "memory": 20_000}
#: Exceptions that a client causes.
_OF_CLIENTS = re.compile(r"BrokenPipe|UnreadablePost|RequestAborted|CancelledError")
#: Visitors with an exception that is new, or with a refusal about which both can be asked; the chance by which so many
#: are of the new release where little is known.
_NOVEL, _BY_CHANCE = 2, 0.01
#: The chance by which all failures of a task are of the new release, and the most names of tasks that are compared.
_TASK_BY_CHANCE, _TASKS = 0.001, 100
#: Requests of the old release after which its exceptions are known.
_HISTORY = 1000
#: What "many times as many" may mean, in times of what is allowed; the odds for each kind of event.
_TIMES = (4, 20, 100)
_ODDS = {"error": 20, "static": 15, REFUSED: 1000}
#: The odds of as many events by what the old release has had before.
_ODDS_PAST = 1000
#: The odds for CPU, queries and seconds; how much of the capital is bet.
_ODDS_MORE, _BETS = 10_000, (0.4, 0.9)
#: What one visitor adds to these odds at most, in times: the pages of a person may all be slow ones.
_OF_VISITOR = math.log(20)
#: Seconds after which trouble of a visitor with the old release counts again, as its past.
_AGAIN = 10
#: What is more by so little counts as equal: CPU milliseconds, queries.
_EXTRA = {"cpu": 0.5, "queries": 2.0, "seconds": 0.0}
#: How many answers of a route are kept, of these from one visitor, and how many a comparison takes.
_KEPT, _OF_ONE, _ENOUGH = 200, 3, 20
#: Seconds are compared with answers a moment ago, since a busy moment is one of both: how long ago, how many.
_NEAR, _NEAR_ENOUGH = (4, 15), 5
#: Answers of the old release by which it is known how busy the host is now: how many, the fewest, of how many seconds.
_BUSY_ANSWERS, _BUSY_FEWEST, _BUSY_AGO = 50, 10, 15
#: How many times as much these take on a busy host.
_BUSY_HOST = {"cpu": 1.25, "seconds": 5.0}
#: How much slower answers may be once most visitors have the new release, whose requests wait for each other.
_SLOWER_LIVE = 2.0
#: Seconds after which a visitor who has closed the connection had no answer.
_GAVE_UP = 5.0
#: Statuses by which a view refuses what the old release may have answered.
REFUSALS = (400, 403, 404, 405, 410)
#: A leak: bytes in all, times of the old one's, parts into which requests are divided, how many of them may be without
#: it, and requests before the first one and in all.
_LEAK_ALL, _LEAK_TIMES, _PARTS, _UNSTEADY, _WARM, _APART = 12_000_000, 3, 8, 2, 20, 80
#: CPU of a unit that no request explains: times of the old one's, seconds of each second, samples.
_BUSY_TIMES, _BUSY, _BUSY_SAMPLES = 2.0, 0.1, 10
#: The most visitors, routes, exceptions and samples that have a place of their own, and characters of a name.
_VISITORS, _ROUTES, _EXCEPTIONS, _USES, _NAME = 20_000, 200, 200, 600, 200
#: What is shown of routes, exceptions and files.
_SHOWN = 10
_WORDS = {"cpu": "CPU", "queries": "queries", "seconds": "time"}
_OTHER = "(others)"
#: What stands for an exception where a release has closed the connection, or has not accepted it, and where it has sent
#: less than it has promised; what is said of it then.
NO_ANSWER, CUT_SHORT = "no answer", "cut short"
_DID = {NO_ANSWER: "gave no answer to", CUT_SHORT: "sent only a part of its answer to"}


def allowed(releases: Mapping[str, Any], *, has_same_server: bool) -> dict[str, float]:
    """Return what may be worse, and by how much: all keys of `WORSE`.

    With another application server CPU is not compared: in ASGI a page takes several times that of WSGI.

    Args:
        releases: of the site's configuration.
    """
    others = {} if has_same_server else {"cpu": math.inf}
    return {**WORSE, **releases.get("canary", {}).get("worse", {}), **others}


class Line(NamedTuple):
    """A request that was answered.

    Attributes:
        time: when, in seconds.
        release: the full name of the release; empty where it is not known.
        visitor: anything that differs between visitors.
        route: that of the view, `-` where there is none; of a static file its path.
        seconds: how long the answer took.
        cpu: milliseconds of CPU, None where they are not known.
        queries: of databases, None where they are not known.
        exception: class and function of an exception that no view has caught, as `KeyError@item`; `NO_ANSWER`,
            `CUT_SHORT`; empty for none.
        status: of the answer.
        is_static: whether it is a file that the proxy serves, or does not find.
        is_cold: whether it is the first answer of its route by a process, which imports modules and fills caches.
    """

    time: float
    release: str
    visitor: str
    route: str
    seconds: float
    cpu: float | None
    queries: int | None
    exception: str
    status: int
    is_static: bool
    is_cold: bool = False


class Question(NamedTuple):
    """What both releases may be asked before a verdict counts.

    Attributes:
        kind: `EXCEPTION` or `REFUSED`.
        release: which has failed.
        name: the exception, or the route.
    """

    kind: str
    release: str
    name: str


class Use(NamedTuple):
    """What the unit of a release uses: bytes of memory, seconds of CPU since it started."""

    memory: int
    cpu: float


class Verdict(NamedTuple):
    """Why the new release is worse.

    Attributes:
        kind: exception, error, static, cpu, queries, seconds, memory, task or exit.
        text: a sentence.
        visitors: visitors of the new release who have met it.
        odds: against chance; None where nothing was weighed against it.
    """

    kind: str
    text: str
    visitors: int
    odds: float | None


class Judge:
    """Compares two releases while their requests come in.

    Attributes:
        verdict: why the new release is worse; None while it is not. The first one stays.
    """

    def __init__(self, old: str, new: str, worse: Mapping[str, float] = WORSE, known: Collection[str] = ()):
        """Begin.

        Args:
            old: the full name of the old release.
            new: that of the new one.
            worse: what may be worse, and by how much: all keys of `WORSE`.
            known: exceptions that the old release is known to raise.
        """
        self.verdict: Verdict | None = None
        #: What may be asked before the verdict counts; None where there is nothing to ask.
        self.question: Question | None = None
        self._worse = worse
        self._known, self._acquitted = {*known}, set[Question]()
        self._old, self._new = _Side(old), _Side(new)
        self._host: _Host | None = None
        self._events = {kind: _Events(self._worse["errors"]) for kind in _ODDS}
        self._tasks: dict[str, dict[str, Outcome]] = {"old": {}, "new": {}}
        self._missing: dict[str, None] = {}
        self._bets: dict[tuple[str, str], _Bets] = collections.defaultdict(_Bets)
        self._won: collections.OrderedDict[tuple[str, str, str], list[float]] = collections.OrderedDict()

    def past(self, line: Line) -> None:
        """Learn from a request that the old release has answered before the new one served."""
        if line.release in (self._old.name, ""):
            self._old.learn(line)
            self._count(self._old, line, 0.0)

    def see(self, line: Line, share: float) -> None:
        """Judge by a request that one of the two has answered while both serve.

        Args:
            share: of the visitors who have the new release now, from 0 to 1.
        """
        side = {self._old.name: self._old, self._new.name: self._new}.get(line.release)
        if side is None or self.verdict or self._question(EXCEPTION, line.exception) in self._acquitted:
            return
        self._host = self._host or _Host(self._old.answers)
        if side is self._old:
            self._host.take(line)
        elif not _trouble(line):
            self._compare(line, share)
        side.learn(line)
        self._count(side, line, share)
        if side is self._new and line.exception:
            self._raised(line, share)

    def weigh(self, old: Use | None, new: Use | None) -> None:
        """Judge by what both units use, about every two seconds."""
        for side, use in ((self._old, old), (self._new, new)):
            if use:
                side.uses.append((side.requests, use.memory, use.cpu - side.cpu / 1000))
        if not self.verdict and old and new:
            self._weigh_memory()
            self._weigh_cpu()

    def compare_tasks(self, old: Mapping[str, Outcome], new: Mapping[str, Outcome]) -> None:
        """Judge by how the tasks of both have ended, by their names; about every two seconds.

        The workers of the old release stop at the switch, so what is known of them stays. The new one is worse where
        an exception ends tasks that it has never ended before, so often that it is no chance.
        """
        for side, outcomes in (("old", old), ("new", new)):
            self._tasks[side] = dict(itertools.islice({**self._tasks[side], **outcomes}.items(), _TASKS))
        for name, outcome in self._tasks["new"].items():
            known = self._tasks["old"].get(name, Outcome(0, {}))
            for exception, number in outcome.raised.items():
                share = outcome.done / ((outcome.done + known.done) or 1)
                is_known = exception in known.raised or PASSING.search(exception)
                if number >= _NOVEL and not is_known and known.done and share**number <= _TASK_BY_CHANCE:
                    text = f"raised {_printable(exception)} in the task {_printable(name)} {number} times"
                    self._decide("task", f"{self._new.name} {text}; {self._old.name} never did", 0, None)

    def failed(self, why: str) -> None:
        """Take that a process of the new release has ended: `its main process exited with status 1`."""
        self._decide("exit", f"{self._new.name}: {_printable(why)}", len(self._new.visitors), None)

    def acquit(self) -> None:
        """Take that the old release fails in what the question is about too, and go on.

        An exception does not count any more; refusals of a route need the odds of what cannot be asked.
        """
        if self.question:
            self._acquitted.add(self.question)
        self.verdict = self.question = None

    def evidence(self) -> dict[str, Any]:
        """Return what is known of both, as JSON: bounded, and all of its texts printable."""
        return {
            **{name: side.evidence() for name, side in (("old", self._old), ("new", self._new))},
            "events": {kind: events.evidence() for kind, events in self._events.items()},
            **({"tasks": self._ended_tasks()} if any(self._tasks.values()) else {}),
            "routes": self._slowest(),
            "exceptions": {
                name: {"old": len(self._old.raised.get(name, ())), "new": len(self._new.raised.get(name, ()))}
                for name in itertools.islice({**self._new.raised, **self._old.raised}, _EXCEPTIONS)
            },
            "odds": {
                **{kind: _round(min(self._events[kind].odds())) for kind in _ODDS},
                **{what: _round(max(self._odds_of(what), default=1.0)) for what in _WORDS},
            },
            "verdict": self.verdict._asdict() if self.verdict else None,
        }

    def _ended_tasks(self) -> dict[str, Any]:
        return {
            side: {_printable(name): outcome._asdict() for name, outcome in outcomes.items()}
            for side, outcomes in self._tasks.items()
        }

    def _question(self, kind: str, name: str) -> Question:
        return Question(kind, self._new.name, _printable(name))

    def _decide(self, kind: str, text: str, visitors: int, odds: float | None) -> None:
        if not self.verdict:
            self.verdict = Verdict(kind, text, visitors, None if odds is None else _round(odds))

    def _raised(self, line: Line, share: float) -> None:
        """Notice an exception of the code that the old release has never raised."""
        name = _printable(line.exception)
        is_known = name in self._known or name in self._old.raised
        if (
            PASSING.search(name)
            or _OF_CLIENTS.search(name)
            or is_known
            or (_class(name), line.route) in self._old.raised_at
        ):
            return
        visitors = len(self._new.raised.get(name, ()))
        needed = _NOVEL
        if self._old.requests < _HISTORY and not self._known and 0 < share < 1:
            needed = max(_NOVEL, math.ceil(math.log(_BY_CHANCE) / math.log(share)))
        if visitors >= needed:
            where = " in ".join(name.split("@", 1))
            did = _DID.get(name, f"raised {where} for")
            text = f"{self._new.name} {did} {visitors} visitors; {self._old.name} never did"
            self.question = self.question if self.verdict else self._question(EXCEPTION, name)
            self._decide("exception", text, visitors, None)

    def _count(self, side: "_Side", line: Line, share: float) -> None:
        """Take a request as one with trouble, or as one without it, of each kind."""
        is_new, trouble = side is self._new, _trouble(line)
        if trouble == REFUSED and self._old.route(line.route) not in self._old.answered:
            return  # what the old release has always refused, or does not have
        for kind, events in self._events.items():
            if (kind == "static") != line.is_static:
                continue
            if events.take(is_new, line, kind == trouble, share) and is_new:
                if line.is_static and len(self._missing) < _SHOWN:
                    self._missing[_printable(line.route)] = None
                self._decide_event(kind, events, line)

    def _decide_event(self, kind: str, events: "_Events", line: Line) -> None:
        odds, past = events.odds()
        question = self._question(REFUSED, line.route)
        is_known = odds >= _ODDS[kind] and past >= _ODDS_PAST
        may_ask = kind == REFUSED and question not in self._acquitted and len(self._acquitted) < _ROUTES
        new, old = len(events.visitors[True]), len(events.visitors[False])
        if not is_known and not (may_ask and new >= _NOVEL):
            return
        if kind == "static":
            what = f"static files are missing, such as {next(iter(self._missing))}"
        else:
            kind_of = "that are cut short" if line.exception == CUT_SHORT else f"with {line.status}"
            what = f"responses {kind_of}, the last from {_printable(line.route)}"
        text = f"{self._new.name}: {what}: {new} of {len(self._new.visitors)} visitors"
        text += f"; {self._old.name}: {old} of {len(self._old.visitors)}; odds {odds:.0f} to 1"
        if not is_known and not self.verdict:
            self.question = question
        self._decide("error" if kind == REFUSED else kind, text, new, odds)

    def _compare(self, line: Line, share: float) -> None:
        """Bet that an answer of the new release has more of something than those of the old one."""
        route = self._new.route(line.route)
        if line.is_static or line.is_cold:
            return
        for what in _WORDS:
            value = getattr(line, what)
            if value is None or route not in self._old.answers:
                continue
            allowed = self._worse[what]
            if what == "seconds" and share > 0.5:
                allowed = max(allowed, _SLOWER_LIVE)
            times = self._host.times(what, line.time) if self._host else 1.0
            if what == "seconds" and times > 1:
                continue
            allowed *= times
            answers = self._old.answers[route]
            mine = max(value - _EXTRA[what], 0.0) / allowed
            rank = answers.rank_near(mine, line.time) if what == "seconds" else answers.rank(what, mine)
            if rank is not None:
                for name in (route, ""):
                    self._bet(what, name, line.visitor, rank, allowed)

    def _bet(self, what: str, name: str, visitor: str, rank: float, allowed: float) -> None:
        bets, key = self._bets[what, name], (what, name, visitor)
        won = self._won.pop(key, None)
        if won is None:
            won, bets.visitors = [0.0] * len(_BETS), bets.visitors + 1
        self._won[key] = bets.take(won, rank)
        if len(self._won) > _VISITORS:
            self._won.popitem(last=False)
        if (odds := _mixed(bets.logarithms)) > _ODDS_MORE:
            pages = _printable(name) if name else "pages"
            text = f"{self._new.name}: {pages}: more than {allowed:.3g} times the {_WORDS[what]} of {self._old.name}"
            old, new = (side.median(what, name) for side in (self._old, self._new))
            text += f" ({new:.3g} and {old:.3g} by the median)" if name and old is not None and new is not None else ""
            self._decide(what, f"{text}; odds {odds:.0f} to 1", bets.visitors, odds)

    def _odds_of(self, what: str) -> Iterator[float]:
        return (_mixed(bets.logarithms) for (kind, _name), bets in self._bets.items() if kind == what)

    def _weigh_memory(self) -> None:
        """Find memory that grows with each request, steadily, beyond what the old release has."""
        each, grown = _growth(self._new.uses)
        others, _grown = _growth(self._old.uses)
        above = self._new.uses[-1][1] - self._old.uses[-1][1]
        if min(grown, above) > _LEAK_ALL and each > max(self._worse["memory"], _LEAK_TIMES * others):
            text = (
                f"{self._new.name} takes {each / 1000:.0f} kB more memory for each request, {grown / 1e6:.0f} MB so far"
            )
            self._decide("memory", f"{text}; {self._old.name} {others / 1000:.0f} kB", len(self._new.visitors), None)

    def _weigh_cpu(self) -> None:
        """Find CPU that no request explains: threads, and processes that do not serve."""
        (new, requests), (old, others) = self._new.unexplained(), self._old.unexplained()
        if new > _BUSY and new > _BUSY_TIMES * old * max(requests / others, 1.0):
            text = f"{self._new.name} takes {new:.2f} s of CPU between two looks apart from requests"
            self._decide("cpu", f"{text}; {self._old.name} {old:.2f} s", len(self._new.visitors), None)

    def _slowest(self) -> list[dict[str, Any]]:
        """Return the routes of both, with medians of the old and the new one, those first that have grown most."""
        rows: list[tuple[float, str, dict[str, Any]]] = []
        for route in self._new.answers.keys() & self._old.answers.keys():
            sides = (self._old, self._new)
            medians = {what: [side.median(what, route) for side in sides] for what in _WORDS}
            times = {what: round(new / old, 2) for what, (old, new) in medians.items() if old and new is not None}
            row: dict[str, Any] = {"route": _printable(route), "requests": [side.answered[route] for side in sides]}
            row |= {what: [value if value is None else round(value, 4) for value in medians[what]] for what in _WORDS}
            rows.append((-max(times.values(), default=0.0), route, {**row, "times": times}))
        return [row for *_order, row in sorted(rows, key=lambda row: row[:2])[:_SHOWN]]


class _Side:
    """What is known of a release."""

    def __init__(self, name: str):
        self.name = name
        self.requests = 0
        self.failures = 0
        self.cpu = 0.0
        self.visitors: set[str] = set()
        self.answers: dict[str, _Answers] = {}
        self.answered: collections.Counter[str] = collections.Counter()
        #: The visitors of an exception, and the classes of exceptions with their routes.
        self.raised: dict[str, set[str]] = {}
        self.raised_at: set[tuple[str, str]] = set()
        #: Requests, memory, and the CPU that no request explains, at the times at which they were weighed.
        self.uses: collections.deque[tuple[int, int, float]] = collections.deque(maxlen=_USES)

    def route(self, name: str) -> str:
        """Return the name under which a route is counted."""
        return name if name in self.answered or len(self.answered) < _ROUTES else _OTHER

    def learn(self, line: Line) -> None:
        self.requests += 1
        self.cpu += line.cpu or 0.0
        _put(self.visitors, line.visitor)
        if line.exception:
            self._keep_exception(_printable(line.exception), line)
        self.failures += _trouble(line) in ("error", "static")
        if _trouble(line) or line.is_static:
            return
        route = self.route(line.route)
        self.answered[route] += 1
        if not line.is_cold:
            self.answers.setdefault(route, _Answers()).add(line)

    def _keep_exception(self, name: str, line: Line) -> None:
        if name in self.raised or len(self.raised) < _EXCEPTIONS:
            _put(self.raised.setdefault(name, set()), line.visitor)
        if len(self.raised_at) < _EXCEPTIONS:
            self.raised_at.add((_class(name), line.route))

    def median(self, what: str, route: str) -> float | None:
        values = self.answers[route].sorted(what) if route in self.answers else []
        return statistics.median(values) if values else None

    def unexplained(self) -> tuple[float, float]:
        """Return the median of the CPU seconds between two looks that no request explains, and of requests plus one."""
        if len(self.uses) <= _BUSY_SAMPLES:
            return 0.0, 1.0
        steps = [(after[2] - before[2], after[0] - before[0] + 1) for before, after in itertools.pairwise(self.uses)]
        return statistics.median(cpu for cpu, _count in steps), statistics.median(count for _cpu, count in steps)

    def evidence(self) -> dict[str, Any]:
        used = self.uses[-1][1] if self.uses else None
        counts = {"requests": self.requests, "visitors": len(self.visitors), "failures": self.failures}
        return {"release": _printable(self.name), **counts, "memory": used}


class _Answers:
    """The last answers of a route by one release, a few of each visitor."""

    def __init__(self) -> None:
        self._kept: collections.deque[tuple[str, tuple[float | None, ...]]] = collections.deque()
        self._near: collections.deque[tuple[float, str, float]] = collections.deque(maxlen=_KEPT)
        self._by_visitor: collections.Counter[str] = collections.Counter()
        self._sorted: dict[str, list[float]] = {what: [] for what in _WORDS}

    def add(self, line: Line) -> None:
        self._near.append((line.time, line.visitor, line.seconds))
        if self._by_visitor[line.visitor] >= _OF_ONE:
            return
        values = (line.cpu, line.queries, line.seconds)
        self._kept.append((line.visitor, values))
        self._by_visitor[line.visitor] += 1
        for what, value in zip(_WORDS, values, strict=True):
            if value is not None:
                bisect.insort(self._sorted[what], value)
        if len(self._kept) > _KEPT:
            self._forget()

    def _forget(self) -> None:
        visitor, values = self._kept.popleft()
        self._by_visitor[visitor] -= 1
        if not self._by_visitor[visitor]:
            del self._by_visitor[visitor]
        for what, value in zip(_WORDS, values, strict=True):
            if value is not None:
                del self._sorted[what][bisect.bisect_left(self._sorted[what], value)]

    def sorted(self, what: str) -> list[float]:
        return self._sorted[what]

    def rank(self, what: str, mine: float) -> float | None:
        """Return the rank of a value among these, from 0 to 1, less what it is uncertain by; None for too few.

        The same answers are compared with many: if there are few of them, all ranks may be too high.
        """
        values = self._sorted[what]
        return None if len(values) < _ENOUGH else max(_rank(values, mine) - 0.5 / math.sqrt(len(values)), 0.0)

    def rank_near(self, mine: float, time: float) -> float | None:
        """Return the rank of seconds among those of a moment ago; None for too few."""
        for near in _NEAR:
            values, visitors = list[float](), collections.Counter[str]()
            for when, visitor, seconds in reversed(self._near):
                if when <= time - near:
                    break
                visitors[visitor] += 1
                if visitors[visitor] <= _OF_ONE:
                    values.append(seconds)
            if len(values) >= _NEAR_ENOUGH:
                return _rank(sorted(values), mine)
        return None


class _Host:
    """How busy the host is: how many times the CPU and seconds of before the old release needs for its answers now.

    On a busy host the release with few visitors needs more for each than the one with many: what it uses is in no cache
    of the processor any more.
    """

    def __init__(self, answers: Mapping[str, _Answers]):
        """Begin with the answers of the old release before the new one served, by route."""
        self._usual = {
            (route, what): statistics.median(values)
            for route, known in answers.items()
            for what in _BUSY_HOST
            if len(values := known.sorted(what)) >= _BUSY_FEWEST
        }
        self._times: dict[str, collections.deque[tuple[float, float]]] = {
            what: collections.deque(maxlen=_BUSY_ANSWERS) for what in _BUSY_HOST
        }

    def take(self, line: Line) -> None:
        """Learn from an answer of the old release."""
        if line.is_static or line.is_cold or _trouble(line):
            return
        for what, times in self._times.items():
            value, usual = getattr(line, what), self._usual.get((line.route, what))
            if value is not None and usual:
                times.append((line.time, value / usual))

    def times(self, what: str, now: float) -> float:
        """Return how many times as much it needs; 1 where that is no difference, or too little is known."""
        known = [times for time, times in self._times.get(what, ()) if time > now - _BUSY_AGO]
        times = statistics.median(known) if len(known) >= _BUSY_FEWEST else 1.0
        return times if times >= _BUSY_HOST.get(what, math.inf) else 1.0


class _Events:
    """One kind of trouble: the visitors of both who have met it, and the odds that the new release has more of it.

    While both serve, a visitor counts once for both: else those of the new release, all of them new to it, would be
    more than those of the old one, who have met before what they meet again. Of the past, a visitor counts again after
    a while, so that the usual number is one of a time as short as that of a proof.
    """

    def __init__(self, worse: float):
        #: Who has met it while both serve, by the release that they had.
        self.visitors: dict[bool, set[str]] = {False: set(), True: set()}
        #: Requests of the old release, those of them with trouble, and when a visitor had it last.
        self._requests = self._usual = 0
        self._last: collections.OrderedDict[str, int] = collections.OrderedDict()
        self._worse = worse
        self._now, self._past = [0.0] * len(_TIMES), [0.0] * len(_TIMES)

    def take(self, is_new: bool, line: Line, happened: bool, share: float) -> bool:
        """Take a request; return whether it is the first trouble of its visitor while both serve."""
        if not is_new:
            self._requests += 1
            self._usual += happened and self._is_due(line)
        if happened and any(line.visitor in met or len(met) >= _VISITORS for met in self.visitors.values()):
            return False
        if is_new:
            self._against_past(happened)
        if happened and 0 < share < 1:
            self.visitors[is_new].add(line.visitor)
            self._against_old(is_new, share)
        return happened

    def _is_due(self, line: Line) -> bool:
        """Return whether a visitor of the old release counts (again)."""
        slot = int(line.time // _AGAIN)
        last = self._last.pop(line.visitor, None)
        self._last[line.visitor] = slot
        if len(self._last) > _VISITORS:
            self._last.popitem(last=False)
        return last != slot

    def odds(self) -> tuple[float, float]:
        """Return the odds by the events of both at the same time, and by the past of the old release."""
        return _mixed(self._now), _mixed(self._past)

    def evidence(self) -> dict[str, int]:
        return {"old": len(self.visitors[False]), "new": len(self.visitors[True])}

    def _against_old(self, is_new: bool, share: float) -> None:
        at_most = _probability(self._worse, share)
        for number, times in enumerate(_TIMES):
            bad = _probability(self._worse * times, share)
            self._now[number] += math.log(bad / at_most if is_new else (1 - bad) / (1 - at_most))

    def _against_past(self, happened: bool) -> None:
        usual = min(self._worse * (self._usual + 0.5) / (self._requests + 1), 0.5)
        for number, times in enumerate(_TIMES):
            bad = min(max(usual * times, usual), 0.9)
            self._past[number] += math.log(bad / usual if happened else (1 - bad) / (1 - usual))


class _Bets:
    """A test martingale: a capital for each way to bet, as its logarithm."""

    def __init__(self) -> None:
        self.logarithms = [0.0] * len(_BETS)
        self.visitors = 0

    def take(self, won: list[float], rank: float) -> list[float]:
        """Bet on a rank above the middle.

        Args:
            won: what this visitor has added so far; returned as it is afterwards.
        """
        after = [
            min(so_far + math.log(1 + bet * (2 * rank - 1)), _OF_VISITOR)
            for so_far, bet in zip(won, _BETS, strict=True)
        ]
        self.logarithms = [log + now - before for log, now, before in zip(self.logarithms, after, won, strict=True)]
        return after


def _trouble(line: Line) -> str:
    """Return the kind of trouble that a visitor has with an answer; empty for none."""
    if line.is_static:
        return "static" if line.status == 404 or line.status >= 500 else ""
    if line.status >= 500 or line.exception or (line.status == 499 and line.seconds >= _GAVE_UP):
        return "error"
    return REFUSED if line.status in REFUSALS and line.route != "-" else ""


def _growth(uses: Collection[tuple[int, int, float]]) -> tuple[float, float]:
    """Return by how many bytes memory grows for each request, and by how many in all.

    It grows steadily or not at all: caches fill ever slower, and a model that is loaded late is one step.
    """
    samples = [use for use in uses if use[0] >= next(iter(uses))[0] + _WARM]
    if len(samples) <= _PARTS or samples[-1][0] - samples[0][0] < _APART:
        return 0.0, 0.0
    marks = [samples[round(part * (len(samples) - 1) / _PARTS)] for part in range(_PARTS + 1)]
    parts = [(last[1] - first[1]) / max(last[0] - first[0], 1) for first, last in itertools.pairwise(marks)]
    before, after = sum(parts[: _PARTS // 2]), sum(parts[_PARTS // 2 :])
    each = sorted(parts)[_UNSTEADY] if after > before / 2 else 0.0
    return each, samples[-1][1] - samples[0][1]


def _probability(times: float, share: float) -> float:
    """Return how probably an event is one of the new release, which has so many times as many for each visitor."""
    return times * share / (times * share + 1 - share)


def _rank(values: list[float], mine: float) -> float:
    below, up_to = bisect.bisect_left(values, mine), bisect.bisect_right(values, mine)
    return ((below + up_to) / 2 + 0.5) / (len(values) + 1)


def _mixed(logarithms: list[float]) -> float:
    """Return the mean of likelihood ratios, which is one too, by their logarithms."""
    top = max(logarithms)
    return math.exp(min(top, 600)) * sum(math.exp(log - top) for log in logarithms) / len(logarithms)


def _round(odds: float) -> float:
    return float(f"{odds:.3g}")


def _class(name: str) -> str:
    return name.partition("@")[0]


def _put(group: set[str], value: str) -> None:
    if len(group) < _VISITORS:
        group.add(value)


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else "?" for sign in text[:_NAME])
