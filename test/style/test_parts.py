"""The parts of --all: together they are all of it, each story once, and they take the same time."""

import re
from pathlib import Path

import parts
import pytest

SECONDS = {f"story{number}": float(number) for number in range(1, 60)}


@pytest.mark.parametrize("count", [1, 2, 7, 59])
def test_each_story_is_in_one_part(count):
    stories = [*SECONDS, "new story", "test_projects[one]"]
    taken = [parts.part(stories, f"{number + 1}/{count}", SECONDS) for number in range(count)]
    assert sorted(name for one in taken for name in one) == sorted([*SECONDS, "new story"])
    assert parts.part(stories, "projects", SECONDS) == {"test_projects[one]"}


def test_parts_take_the_same_time():
    taken = [parts.part(SECONDS, f"{number}/6", SECONDS) for number in range(1, 7)]
    sums = [sum(SECONDS[name] for name in one) for one in taken]
    assert max(sums) - min(sums) < 0.02 * max(sums)


@pytest.mark.parametrize("which", ["0/4", "5/4", "1", "1/0", "all", "1/4/2"])
def test_what_is_no_part_is_refused(which):
    with pytest.raises(ValueError, match="from 1/N to N/N"):
        parts.part(SECONDS, which, SECONDS)


def test_measured_stories_are_stories_of_today():
    """Of files that are there; `test/run --measure` writes them."""
    files = {path.stem for path in (parts.KEPT.parent).rglob("test_*.py")}
    seconds = parts.kept()
    assert {re.split(r"\[|#", name)[0].rpartition("/")[2] for name in [*seconds.default, *seconds.full]} <= files
    assert {Path(name.partition("::")[0]).stem for name in seconds.slow} <= files
