"""The parts of --all: together they are all of it, each story once, and they take the same time."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import parts
import pytest

SECONDS = {f"story{number}": float(number) for number in range(1, 60)}


@pytest.mark.parametrize("count", [1, 2, 7, 59])
def test_each_story_is_in_one_part(count):
    stories = SECONDS | {"test_projects[one]": 3.0}
    taken = [parts.part(stories, f"{number + 1}/{count}") for number in range(count)]
    assert sorted(name for one in taken for name in one) == sorted(SECONDS)
    assert parts.part(stories, "projects") == {"test_projects[one]"}


def test_parts_take_the_same_time():
    taken = [parts.part(SECONDS, f"{number}/6") for number in range(1, 7)]
    sums = [sum(SECONDS[name] for name in one) for one in taken]
    assert max(sums) - min(sums) < 0.02 * max(sums)


def item(name: str, is_full: bool) -> Any:
    mark = object() if is_full else None
    return SimpleNamespace(
        path=parts.KEPT.parent / name, stash={}, get_closest_marker=lambda wanted: mark, _fixtureinfo=None
    )


def test_a_story_that_was_not_measured_whole_counts_by_its_tests():
    stories = {
        "hosts/test_a.py": (2, 1),
        "hosts/test_b.py": (2, 8),
        "hosts/test_c.py": (0, 4),
        "engine/test_d.py": (0, 4),
    }
    stories |= {"hosts/test_e.py": (2, 1), "hosts/test_f.py": (1, 0)}
    stories["engine/test_g.py"] = (1, 1)
    items = [item(name, n >= default) for name, (default, full) in stories.items() for n in range(default + full)]
    default = {"test_a": 20.0, "test_b": 40.0, "test_f": 3.0, "engine/test_g": 5.0}
    measured = parts.Seconds(default, {"test_e": 7.0}, {}, [])
    assert parts.expected(items, measured) == {
        "test_a": 30.0,  # of ten seconds for each test
        "test_b": 200.0,
        "test_c": parts.START + 40.0,  # as the median
        "engine/test_d": 4 * parts.IN_PROCESS,
        "test_e": 7.0,
        "engine/test_g": 10.0,
    }


def test_long_files_begin_first_and_those_on_hosts_take_turns_with_others():
    names = ["engine/test_short.py", "engine/test_long.py", *(f"hosts/test_{name}.py" for name in "abcd")]
    items = [item(name, is_full=False) for name in names for _ in range(2)]
    ordered = parts.in_turns(items, {"test_a": 10.0, "test_b": 20.0, "test_d": 90.0, "engine/test_long": 9.0})
    found = [one.path.stem.removeprefix("test_") for one in ordered]
    assert found[::2] == found[1::2], "the tests of a file stay together"
    assert [name for name in found[::2] if len(name) == 1] == ["d", "b", "c", "a"]
    assert {*found[:4]} == {"long", "d"} and "short" in found[-4:]


@pytest.mark.parametrize("which", ["0/4", "5/4", "1", "1/0", "all", "1/4/2"])
def test_what_is_no_part_is_refused(which):
    with pytest.raises(ValueError, match="from 1/N to N/N"):
        parts.part(SECONDS, which)


def test_quick_leaves_out_what_takes_or_waits_long():
    takes = {"proxy/test_relay.py::test_hold": (0.01, 1.0), "host/test_file.py::test_write": (0.01, 0.02)}
    takes |= {"render/test_fuzz.py::test_texts": (0.5, 0.5), "style/test_style.py::test_types": (1.9, 40.0)}
    slow = [name for name, (seconds, lasts) in takes.items() if parts.is_slow(name, seconds, lasts)]
    assert slow == ["proxy/test_relay.py::test_hold", "render/test_fuzz.py::test_texts"]


@pytest.mark.parametrize(("loop", "pace"), [("0.60", 1.0), ("1.20", 2.0), ("", 1.0)])
def test_seconds_that_are_kept_are_those_of_one_machine(loop, pace):
    """A quicker one had found fewer functions slow, which made --quick longer everywhere."""
    assert parts.pace(loop) == pytest.approx(pace)


def test_measured_stories_are_stories_of_today():
    """Of files that are there; `test/run --measure` writes them."""
    files = {path.stem for path in (parts.KEPT.parent).rglob("test_*.py")}
    seconds = parts.kept()
    assert {re.split(r"\[|#", name)[0].rpartition("/")[2] for name in [*seconds.default, *seconds.full]} <= files
    assert {Path(name.partition("::")[0]).stem for name in seconds.slow} <= files
