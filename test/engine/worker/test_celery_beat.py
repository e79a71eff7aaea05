"""The program of Celery beat: one at a time, and one schedule, while releases change."""

import itertools
import time
from typing import Any

import pytest
from background import Lab, Worker, lab, until

pytestmark = pytest.mark.slow  # workers that run for seconds

__all__ = ["lab"]

APP = """
from celery import Celery

app = Celery("shop")
app.conf.beat_schedule = {"tick": {"task": "shop.tick", "schedule": SECONDS}}
"""


def release(lab: Lab, number: str, seconds: float = 1.0) -> str:
    return lab.make(number, {"project/celery.py": APP.replace("SECONDS", str(seconds))})


def beat(lab: Lab, number: str, **options: Any) -> Worker:
    (lab.folder / "beat").mkdir(exist_ok=True)
    return lab.start(number, "celery_beat", "beat", app=None, beat=str(lab.folder / "beat"), options=options)


def ticks(lab: Lab) -> int:
    return int(lab.redis("LLEN", "celery"))


def times(lab: Lab, entry: str = "tick") -> list[float]:
    """Return when an entry was sent by any worker of the lab, by the times of their logs."""
    found = []
    for worker in lab.workers:
        for line in worker.log.read_text().splitlines():
            if f"Sending due task {entry}" in line:
                stamp, fraction = line[1:].split(": ")[0].split(",")
                found.append(time.mktime(time.strptime(stamp, "%Y-%m-%d %H:%M:%S")) + int(fraction) / 1000)
    return sorted(found)


def test_beat_is_handed_over_without_a_doubled_or_a_missed_run(lab):
    numbers = [f"000{number}" for number in range(1, 6)]
    for number in numbers:
        release(lab, number)
    lab.activate(numbers[0])
    former = beat(lab, numbers[0]).ready()
    until(lambda: ticks(lab) >= 2)
    for number in numbers[1:]:
        new = beat(lab, number).ready()
        with lab.switching():
            until(lambda former=former: not former.is_fetching)
            lab.activate(number)
        until(lambda new=new: new.is_fetching)
        assert not former.is_fetching
        before = ticks(lab)
        until(lambda before=before: ticks(lab) >= before + 2)
        former.stop()
        former = new
    sent = times(lab)
    gaps = [later - earlier for earlier, later in itertools.pairwise(sent)]
    assert len(sent) >= 8 and min(gaps) >= 0.5, gaps
    assert [worker.wait() for worker in lab.workers[:-1]] == [0] * 4


@pytest.mark.full
def test_interval_longer_than_the_time_between_releases_runs(lab):
    numbers = [f"000{number}" for number in range(1, 5)]
    for number in numbers:
        release(lab, number, seconds=5)
    begun = time.monotonic()
    for number in numbers:
        lab.activate(number)
        worker = beat(lab, number).ready()
        until(lambda worker=worker: worker.is_fetching)
        time.sleep(3)
        worker.stop()
        assert worker.wait() == 0
    assert ticks(lab) >= min((time.monotonic() - begun) // 5 - 1, 2) >= 1


def test_beat_that_always_has_something_to_send_is_stopped(lab):
    release(lab, "0001", seconds=0)
    lab.activate("0001")
    first = beat(lab, "0001").ready()
    until(lambda: ticks(lab) > 10)
    with lab.switching():
        until(lambda: not first.is_fetching)
    first.stop()
    assert first.wait() == 0


def test_killed_beat_sends_nothing_again(lab):
    release(lab, "0001", seconds=8)
    lab.activate("0001")
    first = beat(lab, "0001").ready()
    until(lambda: ticks(lab) == 1)
    first.kill()
    again = beat(lab, "0001").ready()
    until(lambda: again.is_fetching)
    time.sleep(2)
    assert ticks(lab) == 1


AHEAD = """
import datetime, shelve
with shelve.open({!r}, writeback=True) as schedule:
    for entry in schedule["entries"].values():
        entry.last_run_at += datetime.timedelta(days=365)
"""


def test_a_clock_that_was_ahead_for_a_moment_ends_no_task(lab):
    """As that of a host which begins in a year to come; the schedule outlives releases and restarts."""
    release(lab, "0001")
    lab.activate("0001")
    first = beat(lab, "0001").ready()
    until(lambda: ticks(lab) >= 1)
    first.stop()
    assert first.wait() == 0
    lab.shell("0001", AHEAD.format(str(lab.folder / "beat/schedule")))
    before = ticks(lab)
    beat(lab, "0001").ready()
    until(lambda: ticks(lab) > before)


def test_beat_of_the_former_release_goes_on_when_a_switch_is_undone(lab):
    for number in ("0001", "0002"):
        release(lab, number)
    lab.activate("0001")
    first, second = beat(lab, "0001").ready(), beat(lab, "0002").ready()
    until(lambda: ticks(lab) >= 1)
    with lab.switching():
        until(lambda: not first.is_fetching)
        lab.activate("0002")
        time.sleep(0.5)
        lab.activate("0001")
    until(lambda: first.is_fetching)
    before = ticks(lab)
    until(lambda: ticks(lab) > before)
    assert not second.is_fetching and "Sending due task" not in second.log.read_text()


ENTRIES = """
from celery import Celery
from celery.schedules import crontab

app = Celery("shop")
app.conf.beat_schedule = {
    "tick": {"task": "shop.tick", "schedule": 1.0},
    "minute": {"task": "shop.minute", "schedule": crontab()},
    "long": {"task": "shop.long", "schedule": 45.0},
}
"""


@pytest.mark.full
def test_twenty_releases_in_ten_minutes(lab):
    numbers = [f"{number:04}" for number in range(1, 22)]
    for number in numbers:
        lab.make(number, {"project/celery.py": ENTRIES})
    lab.activate(numbers[0])
    former = beat(lab, numbers[0]).ready()
    until(lambda: former.is_fetching)
    begun = time.time()
    for position, number in enumerate(numbers[1:], 1):
        time.sleep(max(0, begun + 30 * position - time.time()))
        new = beat(lab, number).ready()
        with lab.switching():
            until(lambda former=former: not former.is_fetching)
            lab.activate(number)
            time.sleep(0.3)
        former.stop()
        former = new
    until(lambda: former.is_fetching)
    time.sleep(5)
    gaps = {
        entry: [later - earlier for earlier, later in itertools.pairwise(times(lab, entry))]
        for entry in ("tick", "minute", "long")
    }
    print({entry: (len(found) + 1, round(min(found), 2), round(max(found), 2)) for entry, found in gaps.items()})
    minutes = [int(at) // 60 for at in times(lab, "minute")]
    assert minutes == [*range(minutes[0], minutes[0] + len(minutes))] and len(minutes) >= 9
    assert max(gaps["tick"]) <= 3 and min(gaps["tick"]) >= 0.5
    assert min(gaps["long"]) >= 44 and max(gaps["long"]) <= 50
