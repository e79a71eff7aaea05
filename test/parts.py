"""What tests take, in seconds of CPU: equal parts of what --all has beyond the default, and what --quick leaves out.

A story is what stays together, in its order: the tests of a file that share hosts. A part runs whole stories, those
with a test that only --all runs. `seconds.json` has each story's seconds; `test/run --measure …` writes those of the
stories that it ran from their first test to their last.
"""

import json
import os
import re
import statistics
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

KEPT = Path(__file__).with_name("seconds.json")
#: Projects from outside are a part of their own: they are long, and change by themselves.
OUTSIDE = "test_projects"
#: Seconds of CPU of one test above which --quick leaves its function out; of one that looks at all of the code; and
#: seconds that one lasts, which may be waiting.
SLOW, SLOW_STYLE, LASTS = 0.025, 2.0, 0.15
#: Of which files of the other layers the seconds are kept.
LONG = 2.0
#: What a test of the other layers takes, where nothing of its file is kept.
IN_PROCESS = 0.02
#: What a story on hosts takes before its first test: a host, and a release on it.
START = 20.0


def is_full(item: pytest.Item) -> bool:
    """Whether only --all runs it."""
    return item.get_closest_marker("full") is not None


#: Which of its file's chunks a test is in.
CHUNK = pytest.StashKey[int]()


def divide(items: Iterable[pytest.Item]) -> None:
    """Number the chunks of files that are marked `apart(SIZE)`: so many tests after one another are one."""
    seen: Counter[Path] = Counter()
    for item in items:
        if mark := item.get_closest_marker("apart"):
            item.stash[CHUNK] = seen[item.path] // mark.args[0]
            seen[item.path] += 1


def story(item: pytest.Item) -> str:
    """The name of the story that a test is of: `test_container[podman-trixie]`, `test_faults#2`.

    The hosts of a file are those of its module's fixtures, one story for each of their parameters; a parameter that is
    a map is a case, which has no hosts of its own. The tests of a file that is marked `apart` need no other test before
    them: there each chunk is a story.
    """
    name = item.path.stem if item.path.parent.name == "hosts" else below(item.path).removesuffix(".py")
    if CHUNK in item.stash:
        return f"{name}#{item.stash[CHUNK]}"
    callspec = getattr(item, "callspec", None)
    fixtures = item._fixtureinfo.name2fixturedefs if callspec else {}  # type: ignore[attr-defined]
    shared = [
        str(value)
        for argument, value in (callspec.params if callspec else {}).items()
        if argument in fixtures and fixtures[argument][-1].scope == "module" and not isinstance(value, dict)
    ]
    return f"{name}[{'-'.join(shared)}]" if shared else name


def pace(loop: str) -> float:
    """How many times longer this machine takes than one on which the loop of `test/run` takes 0.6 s, by its seconds."""
    return float(loop or 0.6) / 0.6


#: The seconds that are kept are those of that machine.
PACE = pace(os.environ.get("DJANGO_FORMULA_LOOP", ""))


class Seconds(NamedTuple):
    """What was measured.

    Attributes:
        default: the seconds of CPU of stories, of what runs by default; of files of other layers, those from LONG on.
        full: those of stories of which --all runs more, whole; half of those by the clock where that is more.
        lasts: the seconds by the clock of those that wait: they begin first.
        slow: functions that are not on hosts and that `is_slow` leaves out of --quick.
    """

    default: dict[str, float]
    full: dict[str, float]
    lasts: dict[str, float]
    slow: list[str]


def below(path: Path) -> str:
    """The path of a file of tests from the folder of all."""
    return path.relative_to(KEPT.parent).as_posix()


def function(item: pytest.Item) -> str:
    """The name of a test's function, with its file: `engine/test_keep.py::test_constant_is_kept`."""
    return f"{below(item.path)}::{item.originalname}"  # type: ignore[attr-defined]


def kept() -> Seconds:
    """Return what was measured."""
    return Seconds(**json.loads(KEPT.read_text()))


def whole(name: str) -> str:
    """The story of which a story is a chunk."""
    return name.partition("#")[0]


def expected(items: Iterable[pytest.Item], measured: Seconds) -> dict[str, float]:
    """What each story that --all has more of will take whole: as measured, or as its tests that run by default.

    Where nothing of a story was measured, a test on hosts counts as one in the middle, after a start.
    """
    every, default = Counter[str](), Counter[str]()
    for item in items:
        every[story(item)] += 1
        default[story(item)] += not is_full(item)
    tests, seconds = Counter[str](), Counter[str]()
    for name in measured.default:
        tests[whole(name)] += default[name]
        seconds[whole(name)] += measured.default[name]  # type: ignore[assignment]
    rates = {name: seconds[name] / tests[name] for name in tests if tests[name]}
    middle = statistics.median([rates[name] for name in rates if "/" not in name] or [1.0])

    def guess(name: str) -> float:
        if whole(name) in rates:
            return every[name] * rates[whole(name)]
        return every[name] * IN_PROCESS if "/" in name else START + every[name] * middle

    wanted = [name for name in every if default[name] < every[name]]
    return {name: measured.full.get(name) or guess(name) for name in wanted}


def part(seconds: Mapping[str, float], which: str) -> set[str]:
    """The stories of part `K/N`, by what each takes, or those of the part `projects`.

    Raises ValueError where `which` is none of these.

    Example: ``part({"a": 9, "b": 5, "c": 4}, "1/2") == {"a"}``
    """
    outside = {name for name in seconds if name.startswith(OUTSIDE)}
    if which == "projects":
        return outside
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", which)
    if not found or int(found[1]) > int(found[2]):
        raise ValueError(f"{which}: K/N is expected, from 1/N to N/N, or `projects`")
    number, count = int(found[1]), int(found[2])
    loads = [(0.0, place, set[str]()) for place in range(count)]
    for name in sorted({*seconds} - outside, key=lambda name: (-seconds[name], name)):
        load, place, taken = min(loads, key=lambda one: one[:2])
        loads[place] = (load + seconds[name], place, taken | {name})
    return loads[number - 1][2]


def spent() -> float:
    """Seconds of CPU of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Meter:
    """Adds up the seconds of CPU of each story, with those of its hosts, and of each function of the other layers.

    of_hosts: gives those of all hosts of this process, so far
    """

    def __init__(self, of_hosts: Callable[[], float]):
        self.of_hosts = of_hosts
        self.so_far = 0.0
        #: How many tests each has by default, and in all.
        self.sizes: dict[str, tuple[int, int]] = {}
        self.sums: dict[str, float] = {}
        self.lasts: dict[str, float] = {}
        self.ran: dict[str, set[str]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        divide(items)  # names have the chunks
        every = Counter(map(story, items))
        default = Counter(story(item) for item in items if not is_full(item))
        self.sizes = {name: (default[name], every[name]) for name in every}

    def pytest_collection_finish(self) -> None:
        self.so_far = spent()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        before, self.so_far = self.so_far, spent() + self.of_hosts()
        name = story(item)
        names = [name, function(item)] if "/" in name else [name]
        report.user_properties.append(("seconds", [names, *self.sizes[name], self.so_far - before]))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """In the process that has the reports of all."""
        measured: Any = dict(report.user_properties)["seconds"]
        names, default, every, seconds = measured
        self.sizes[names[0]] = (default, every)
        for name in names:
            self.lasts[name] = self.lasts.get(name, 0.0) + report.duration / PACE
            self.sums[name] = self.sums.get(name, 0.0) + seconds / PACE
            self.ran.setdefault(name, set()).add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):
            return
        measured = kept()
        slow = set(measured.slow)
        for name, ran in self.ran.items():
            seconds = round(self.sums[name], 1)
            if ".py::" in name:  # a function
                left_out = is_slow(name, self.sums[name] / len(ran), self.lasts[name] / len(ran))
                (slow.add if left_out else slow.discard)(name)
                continue
            default, every = self.sizes[name]
            if default < len(ran) == every:
                measured.full[name] = max(seconds, round(self.lasts[name] / 2, 1))
            elif len(ran) == default:
                keep(measured.default, name, seconds)
                keep(measured.lasts, name, round(self.lasts[name], 1))
        kept_now = measured._replace(slow=sorted(slow))._asdict()
        KEPT.write_text(json.dumps(kept_now, indent=1, sort_keys=True) + "\n")


def is_slow(name: str, seconds: float, lasts: float) -> bool:
    """Whether --quick leaves a function out, by the CPU that one of its tests takes and how long it lasts."""
    if name.startswith("style/"):
        return seconds > SLOW_STYLE
    return seconds > SLOW or lasts > LASTS


def keep(numbers: dict[str, float], name: str, seconds: float) -> None:
    """Keep the seconds of a story, but those of a short file of the other layers."""
    numbers.pop(name, None)
    if "/" not in name or seconds >= LONG:
        numbers[name] = seconds


def in_turns(items: Sequence[pytest.Item], seconds: Mapping[str, float]) -> list[pytest.Item]:
    """The tests by their files, the longest first, so that no worker is left with one of them at the end.

    Files on hosts, which wait for much, and those of other layers, which do not, take turns, so that there is both to
    do until the end. A story that was not measured counts as one in the middle, a file of other layers by its tests.
    """
    middle = statistics.median(seconds.values()) if seconds else 0.0
    tests = Counter(item.path for item in items)
    lengths = dict.fromkeys(tests, 0.0)
    for path, name in {(item.path, story(item)) for item in items}:
        lengths[path] += seconds.get(name, tests[path] * IN_PROCESS if "/" in name else middle)
    places: dict[Path, float] = {}
    for on_hosts in (True, False):
        kind = [path for path in lengths if (path.parent.name == "hosts") is on_hosts]
        before, whole_kind = 0.0, sum(lengths[path] for path in kind) or 1.0
        for path in sorted(kind, key=lambda path: -lengths[path]):
            places[path] = before / whole_kind
            before += lengths[path]
    return sorted(items, key=lambda item: (places[item.path], str(item.path)))
