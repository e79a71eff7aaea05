"""Nothing is lost and nothing is run twice: many tasks, while the workers of one release after another take over."""

import subprocess
import time
from collections import Counter
from typing import Any

import pytest
from background import SETTINGS, Lab, Worker, lab, until

pytestmark = pytest.mark.slow  # workers that run for seconds

__all__ = ["lab"]

APP = """
from celery import Celery
from shop.work import work

app = Celery("shop")

@app.task(name="work")
def common(number, seconds=0.0):
    work(number, seconds)

def run(number, seconds=0.0):
    work(number, seconds)

for generation in range(GENERATION + 1):
    app.task(name=f"work_{generation}")(run)
"""
#: Sends tasks as the site does: each tenth by a name that the active release is the first to know.
SEND = """
import os, random, sys, time
from celery import Celery

count, pause, current = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
app, seeded = Celery(), random.Random(1)
for number in range(count):
    generation = int(os.path.basename(os.readlink(current))) - 1
    name = f"work_{generation}" if number % 10 == 9 else "work"
    options = {"countdown": 5} if number % max(count // 30, 1) == 1 else {}
    app.send_task(name, (number, seeded.uniform(0.02, 0.2)), **options)
    time.sleep(pause)
"""
ENQUEUE = """
import os, random, sys, time
from redis import Redis
from rq import Queue
from shop import jobs

count, pause = int(sys.argv[1]), float(sys.argv[2])
queue, seeded = Queue("default", connection=Redis.from_url(os.environ["REDIS_URL"])), random.Random(1)
for number in range(count):
    queue.enqueue(jobs.job, number, seeded.uniform(0.02, 0.2))
    time.sleep(pause)
"""
JOBS = "from shop.work import work\n\ndef job(number, seconds):\n    work(number, seconds)\n"
TASKS = "from huey.contrib.djhuey import task\nfrom shop.work import work\n\njob = task()(work)\n"
HUEY = f"{SETTINGS}\nimport os\nHUEY = {{'name': 'shop', 'url': os.environ['REDIS_URL'], 'immediate': False}}\n"


def switched(lab: Lab, old: Worker, new: Worker, number: str, back: str = "") -> float:
    """Switch to a release as a deployment does; return the seconds in which no worker took tasks.

    back: the release that is activated again, since the new one fails while it is watched
    """
    with lab.switching():
        until(lambda: not old.is_fetching)
        begun = time.monotonic()
        lab.activate(number)
        time.sleep(0.8 if back else 0.3)
        if back:
            lab.activate(back)
    until(lambda: (old if back else new).is_fetching)
    return time.monotonic() - begun


def run(lab: Lab, start: Any, releases: int, every: float, undone: set[int]) -> list[float]:
    """Go through the releases; some are taken back after their switch. Return how long nothing was taken each time."""
    former, quiet = start("0001").ready(), []
    until(lambda: former.is_fetching)
    live = "0001"
    for position in range(2, releases + 2):
        number = f"{position:04}"
        new = start(number).ready()
        time.sleep(every)
        if position in undone:
            switched(lab, former, new, number, back=live)
            new.stop()
        else:
            quiet.append(switched(lab, former, new, number))
            former.stop()
            former, live = new, number
    return quiet


def sender(lab: Lab, code: str, *arguments: str) -> "subprocess.Popen[bytes]":
    file = lab.folder / "send.py"
    file.write_text(code)
    environment = {**lab.environment, "PYTHONPATH": str(lab.release("0001") / "source"), "RELEASE": "web"}
    return subprocess.Popen([lab.python, str(file), *arguments], env=environment)


def check(lab: Lab, count: int, seconds: float, what: str, quiet: list[float]) -> int:
    end = time.monotonic() + seconds
    while len(lab.counts("end")) < count and time.monotonic() < end:
        time.sleep(0.5)
    ended, begun = lab.counts("end"), lab.counts("begin")
    lost, doubled = [n for n in range(count) if n not in ended], [n for n, times in ended.items() if times > 1]
    by_release = Counter(lab.runs().values())
    parked = lab.log.parent.glob("*-default.log")
    notes = sum(log.read_text().count("parked in") for log in parked)
    print(f"\n{what}: {count} tasks, {len(quiet)} switches, {len(lost)} lost, {len(doubled)} doubled, {notes} parked,")
    print(f"nothing taken for {min(quiet):.2f} to {max(quiet):.2f} s; by {len(by_release)} releases")
    assert (lost, doubled) == ([], []) and begun == ended and len(by_release) >= 2
    return notes


@pytest.mark.parametrize(
    ("count", "releases", "undone"),
    [
        # By default a site of a host has this: test_workers.py.
        pytest.param(900, 4, {3, 4}, id="short", marks=pytest.mark.full),
        pytest.param(10_000, 20, {4, 7, 10, 14, 17, 20}, id="long", marks=pytest.mark.full),
    ],
)
def test_celery(lab, count, releases, undone):
    for number in range(1, releases + 2):
        lab.make(f"{number:04}", {"project/celery.py": APP.replace("GENERATION", str(number - 1))})
    lab.activate("0001")
    given = {"app": None, "queues": None, "processes": 4, "options": {}}
    pause = 0.03
    sending = sender(lab, SEND, str(count), str(pause), str(lab.current))
    every = max(0.5, count * pause / releases - 6)
    quiet = run(lab, lambda number: lab.start(number, "celery", **given), releases, every, undone)
    assert sending.wait(count) == 0
    assert check(lab, count, 60 + count / 10, "Celery", quiet) > 0
    assert lab.redis("LLEN", "celery.unknown") == "0"


@pytest.mark.parametrize(
    ("count", "releases"), [(100, 2), pytest.param(1000, 10, marks=pytest.mark.full)], ids=["short", "long"]
)
@pytest.mark.parametrize("kind", ["rq", "huey"])
def test_rq_and_huey(lab, kind, count, releases):
    files = {"shop/jobs.py": JOBS} if kind == "rq" else {"shop/tasks.py": TASKS, "project/settings.py": HUEY}
    for number in range(1, releases + 2):
        lab.make(f"{number:04}", files)
    (lab.folder / "beat").mkdir()
    lab.activate("0001")
    own = {"queues": ["default"]} if kind == "rq" else {"app": None, "beat": str(lab.folder / "beat")}
    code = ENQUEUE
    if kind == "huey":
        code = code.replace("from shop import jobs", "import django; django.setup()\nfrom shop import tasks")
        code = code.replace("queue.enqueue(jobs.job, number, ", "tasks.job(number, ")
    sending = sender(lab, code, str(count), "0.05")
    start = lambda number: lab.start(number, kind, processes=2, options={}, **own)  # noqa: E731
    quiet = run(lab, start, releases, max(0.5, count * 0.05 / releases - 3), set())
    assert sending.wait(count) == 0
    check(lab, count, 60 + count, kind, quiet)
