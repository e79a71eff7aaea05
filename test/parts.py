"""What tests take, in seconds of CPU: equal parts of those that only --all runs, and those that --quick leaves out.

A story is what stays together, in its order: the tests of a file that share hosts. `seconds.json` has each story's
seconds; `test/run --measure …` writes those of the stories that it ran from their first test to their last.
"""

import json
import os
import re
import statistics
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

KEPT = Path(__file__).with_name("seconds.json")
#: Projects from outside are a part of their own: they are long, and change by themselves.
OUTSIDE = "test_projects"
#: Seconds of CPU of one test above which --quick leaves its function out.
SLOW = 0.1


def is_full(item: pytest.Item) -> bool:
    """Whether only --all runs it."""
    return item.get_closest_marker("full") is not None


def story(item: pytest.Item) -> str:
    """The name of the story that a test is of: `test_container.py[podman-trixie]`.

    The hosts of a file are those of its module's fixtures, one story for each of their parameters. The tests of a file
    that is marked `apart` need no other test before them: there each function is a story.
    """
    name = item.path.stem
    if item.get_closest_marker("apart"):
        name = f"{name}::{item.originalname}"  # type: ignore[attr-defined]
    callspec = getattr(item, "callspec", None)
    fixtures = item._fixtureinfo.name2fixturedefs if callspec else {}  # type: ignore[attr-defined]
    shared = [
        str(value)
        for argument, value in (callspec.params if callspec else {}).items()
        if argument in fixtures and fixtures[argument][-1].scope == "module"
    ]
    return f"{name}[{'-'.join(shared)}]" if shared else name


class Seconds(NamedTuple):
    """What was measured.

    Attributes:
        default: stories on hosts: the seconds of what runs by default.
        full: all stories: those of what --all adds.
        slow: functions that are not on hosts and take more than SLOW seconds; --quick leaves them out.
    """

    default: dict[str, float]
    full: dict[str, float]
    slow: list[str]


def function(item: pytest.Item) -> str:
    """The name of a test's function, with its file: `engine/test_deploy.py::test_a_number_is_never_given_twice`."""
    return f"{item.path.parent.name}/{item.path.name}::{item.originalname}"  # type: ignore[attr-defined]


def kept() -> Seconds:
    """Return what was measured."""
    return Seconds(**json.loads(KEPT.read_text()))


def part(stories: Iterable[str], which: str, seconds: dict[str, float]) -> set[str]:
    """The stories of part `K/N`, or of the part `projects`. A story without seconds counts as one in the middle.

    Raises ValueError where `which` is none of these.

    Example: ``part(["a", "b", "c"], "1/2", {"a": 9, "b": 5, "c": 4}) == {"a"}``
    """
    names = {*stories}
    outside = {name for name in names if name.startswith(OUTSIDE)}
    if which == "projects":
        return outside
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", which)
    if not found or int(found[1]) > int(found[2]):
        raise ValueError(f"{which}: K/N is expected, from 1/N to N/N, or `projects`")
    number, count = int(found[1]), int(found[2])
    middle = statistics.median(seconds.values()) if seconds else 1.0
    loads = [(0.0, place, set[str]()) for place in range(count)]
    for name in sorted(names - outside, key=lambda name: (-seconds.get(name, middle), name)):
        load, place, taken = min(loads, key=lambda one: one[:2])
        loads[place] = (load + seconds.get(name, middle), place, taken | {name})
    return loads[number - 1][2]


def spent() -> float:
    """Seconds of CPU of this process and of those that it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Meter:
    """Adds up the seconds of CPU of each story, with those of its hosts.

    of_hosts: gives those of all hosts of this process, so far
    """

    def __init__(self, of_hosts: Callable[[], float]):
        self.of_hosts = of_hosts
        self.so_far = 0.0
        self.sizes: Counter[tuple[str, str]] = Counter()
        self.sums: dict[tuple[str, str], float] = {}
        self.ran: dict[tuple[str, str], set[str]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.sizes.update(self.key(item) for item in items)

    def pytest_collection_finish(self) -> None:
        self.so_far = spent()

    @staticmethod
    def key(item: pytest.Item) -> tuple[str, str]:
        """Where the seconds of a test are kept, and under which name."""
        if is_full(item):
            return "full", story(item)
        return ("default", story(item)) if item.path.parent.name == "hosts" else ("slow", function(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        before, self.so_far = self.so_far, spent() + self.of_hosts()
        key = self.key(item)
        report.user_properties.append(("seconds", [*key, self.sizes[key], self.so_far - before]))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """In the process that has the reports of all."""
        found: Any = dict(report.user_properties)["seconds"]
        kind, name, size, seconds = found
        key = (kind, name)
        self.sizes[key] = size
        self.sums[key] = self.sums.get(key, 0.0) + seconds
        self.ran.setdefault(key, set()).add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workerinput"):
            return
        seconds = kept()
        slow = set(seconds.slow)
        for key, ran in self.ran.items():
            if len(ran) < self.sizes[key]:
                continue
            kind, name = key
            if kind == "slow":
                (slow.add if self.sums[key] / len(ran) > SLOW else slow.discard)(name)
            else:
                getattr(seconds, kind)[name] = round(self.sums[key], 1)
        kept_now = seconds._replace(slow=sorted(slow))._asdict()
        KEPT.write_text(json.dumps(kept_now, indent=1, sort_keys=True) + "\n")


def by_length(items: Sequence[pytest.Item], seconds: dict[str, float]) -> list[pytest.Item]:
    """The tests by their files, the longest first, so that no worker is left with one of them at the end."""
    lengths = dict.fromkeys((item.path for item in items), 0.0)
    for path, name in {(item.path, story(item)) for item in items}:
        lengths[path] += seconds.get(name, 0.0)
    return sorted(items, key=lambda item: -lengths[item.path])
