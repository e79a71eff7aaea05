"""Workers on a host: what becomes of the tasks that wait and that run while releases come and go."""

import itertools
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from lab import APT_UPDATE, Host
from sites import Site

BROKER = "redis://127.0.0.1:6390/0"
#: What the project has for its tasks: lines of a file, and a name that only this release and newer ones know.
WORK = """
import os, time

def line(text, file="work"):
    descriptor = os.open(f"/srv/django/blog/shared/{file}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, f"{time.time():.3f} {os.environ['DJANGO_RELEASE'][:4]} {text}\\n".encode())
    os.close(descriptor)

def work(number, seconds=0.0):
    line(f"begin {number}")
    time.sleep(seconds)
    from website import late
    line(f"end {number} {late.GENERATION}")

def tick():
    line("tick", "ticks")
"""
CELERY = """
from celery import Celery
from website.late import GENERATION
from website import work

app = Celery("website")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.task(name="work")(work.work)
app.task(name="tick")(work.tick)

def run(number, seconds):
    work.work(number, seconds)

for generation in range(GENERATION + 1):
    app.task(name=f"work_{generation}")(run)
app.conf.beat_schedule = {"tick": {"task": "tick", "schedule": 1.0, "options": {"queue": "ticks"}}}
"""
#: Sends tasks as the site does: each tenth has a name that the active release is the first to know.
SEND = """
import re, sys, time
from pathlib import Path
from random import Random

count, pause = int(sys.argv[1]), float(sys.argv[2])
from celery import Celery
app, random = Celery(broker="BROKER"), Random(1)
late = Path("/srv/django/blog/current/source/website/late.py")
for number in range(count):
    generation = re.search("[0-9]+", late.read_text())[0]
    name = f"work_{generation}" if number % 10 == 9 else "work"
    countdown = {"countdown": 25} if number % (count // 30) == 1 else {}
    app.send_task(name, (number, random.uniform(0.02, 0.2)), **countdown)
    time.sleep(pause)
"""


def generation(number: int) -> Mapping[str, str]:
    return {"website/late.py": f"GENERATION = {number}\n"}


class Log:
    """What the tasks have written."""

    def __init__(self, host: Host):
        text = host.run("cat /srv/django/blog/shared/work.log 2>/dev/null || :").stdout
        found = re.findall(r"^\S+ (\d{4}) (begin|end) (\d+)(?: \d+)?$", text, re.M)
        self.begun, self.ended = (Counter(int(n) for _, e, n in found if e == what) for what in ("begin", "end"))
        self.releases = {int(number): release for release, what, number in found if what == "end"}


def check_beat(blog: Site) -> None:
    """Each run that beat has sent since the first release was executed once, and none was sent twice."""
    blog.host.run(["systemctl", "stop", f"{blog.unit}-beat"])
    journal = blog.host.run("journalctl --quiet --output=cat --grep='Sending due task tick'").stdout
    found = re.findall(r"\[(\S+ \S+),(\d+): INFO/\w+\] Scheduler: Sending due task tick ", journal)
    sent = [time.mktime(time.strptime(at, "%Y-%m-%d %H:%M:%S")) + int(ms) / 1000 for at, ms in found]
    gaps = [after - before for before, after in itertools.pairwise(sent)]
    print(f"{len(sent)} runs of beat, {min(gaps):.2f} to {max(gaps):.2f} s apart")
    assert min(gaps) > 0.9 and max(gaps) < 60  # seconds: on a busy machine the next beat takes long to start
    ticks, deadline = 0, time.monotonic() + 300
    while ticks < len(sent) and time.monotonic() < deadline:
        time.sleep(1)
        ticks = len(blog.host.read("/srv/django/blog/shared/ticks.log").splitlines())
    assert ticks == len(sent)


def until(condition: Callable[[], bool], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.5)


def redis(host: Host, *words: str) -> str:
    return host.run(["redis-cli", "-p", "6390", *words]).stdout.strip()


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    """A site with Celery, whose queue is a Redis that the project's own environment names."""
    host = module_hosts(kind="live")
    host.run(f"{APT_UPDATE} && apt-get -qq install --no-install-recommends redis-tools >/dev/null", timeout=300)
    argv = "exec -a redis-server /usr/bin/redis-check-rdb --port 6390 --save '' --dir /tmp"
    host.run(["systemd-run", "--quiet", "--unit=elsewhere", "bash", "-c", argv])
    blog = Site(host, repositories(host))
    files = {
        "website/__init__.py": "",
        "website/work.py": WORK,
        "website/celery.py": CELERY,
        "requirements.txt": "Django==5.2.19\ncelery[redis]==5.7.0\n",
    }
    blog.repository.commit({**files, **generation(0)})
    host.write("/root/send.py", SEND.replace("BROKER", BROKER))
    workers = {"default": {"kind": "celery", "processes": 4}, "beat": {"kind": "celery_beat"}}
    blog.deploy(
        environment={"CELERY_BROKER_URL": BROKER},
        workers={**workers, "ticks": {"kind": "celery", "queues": ["ticks"], "processes": 1}},
        releases={"keep": 3, "watch": "0s"},
    )
    return blog


@contextmanager
def sending(blog: Site, count: int, pause: float) -> Iterator[None]:
    """Send tasks on and on, by the Python of a release; all of them have been sent when the block has ended."""
    python = blog.host.run("readlink -f /srv/django/blog/current/virtualenv").stdout.strip() + "/bin/python"
    send = f"systemd-run --quiet --unit=sending --uid=blog {python} /srv/send.py {count} {pause:.3f}"
    blog.host.run(f"install -m 644 /root/send.py /srv/send.py && {send}")
    try:
        yield
        deadline = time.monotonic() + count * (pause + 0.1) + 300
        while blog.host.run("systemctl is-active sending", check=False).stdout.strip() == "active":
            assert time.monotonic() < deadline
            time.sleep(1)
        assert blog.host.run("systemctl is-failed sending", check=False).returncode, "sending failed"
    finally:
        blog.host.run("systemctl stop sending; systemctl reset-failed sending", check=False)


def finished(blog: Site, count: int, seconds: float = 300) -> Log:
    """Return what was written once all tasks have ended, or when no more end."""
    deadline = time.monotonic() + seconds
    while len((log := Log(blog.host)).ended) < count and time.monotonic() < deadline:
        time.sleep(1)
    return log


def state(blog: Site, worker: str = "default") -> dict[str, Any]:
    return dict(json.loads(blog.host.read(f"{blog.run}-{worker}/state")))


@pytest.mark.parametrize(
    ("count", "releases", "taken_back"),
    [(200, 2, {2}), pytest.param(10_000, 20, {2, 5, 9, 12, 15, 19}, marks=pytest.mark.full)],
)
def test_no_task_is_lost_or_run_twice_while_releases_change(blog, count, releases, taken_back):
    first = int(re.findall("[0-9]+", blog.repository.read("website/late.py"))[0])
    blog.host.run("rm -f /srv/django/blog/shared/work.log")
    begun = time.monotonic()
    blog.repository.commit(generation(first + 1))
    blog.deploy()
    took = time.monotonic() - begun
    parked = 0
    with sending(blog, count, releases * took / count):
        for number in range(1, releases + 1):
            blog.repository.commit(generation(first + 1 + number))
            applied = blog.deploy()
            assert not [text for texts in applied.warnings.values() for text in texts if "in time" in text]
            if number in taken_back:
                time.sleep(2)
                blog.host.call("django.rollback", "blog")
                time.sleep(2)
                parked += int(redis(blog.host, "LLEN", "celery.unknown"))
    blog.repository.commit(generation(first + 2 + releases))
    blog.deploy()
    log = finished(blog, count)
    lost = [number for number in range(count) if number not in log.ended]
    doubled = [number for number, times in log.ended.items() if times > 1]
    assert (lost, doubled) == ([], []), (len(lost), len(doubled), redis(blog.host, "LLEN", "celery.unknown"))
    assert log.begun == log.ended and len({*log.releases.values()}) >= 3
    print(f"{count} tasks, {releases} releases, {len(taken_back)} taken back, {parked} parked: 0 lost, 0 doubled")
    check_beat(blog)


def test_worker_reports_what_it_does(blog):
    assert state(blog)["fetching"] is True
    assert blog.host.run(["systemctl", "show", "-P", "NRestarts", f"{blog.unit}-default"]).stdout.strip() == "0"


def test_task_that_no_release_knows_is_parked_and_shown_until_it_is_deleted(blog):
    python = f"{blog.root}/current/virtualenv/bin/python"
    send = f"from celery import Celery; Celery(broker='{BROKER}').send_task('gone')"
    blog.host.run([python, "-c", send])
    deadline = time.monotonic() + 300
    while redis(blog.host, "LLEN", "celery.unknown") == "0" and time.monotonic() < deadline:
        time.sleep(0.5)
    rows = {row["queue"]: row for row in blog.host.call("django.queue", "blog", names=True, full=True)}
    assert {*rows} == {"celery", "ticks"}
    assert (rows["celery"]["parked"], rows["celery"]["parked_names"]) == (1, {"gone": 1})
    (row, _other) = blog.host.call("django.queue", "blog", drop="gone", full=True)
    assert row["parked"] == 0 and redis(blog.host, "LLEN", "celery.unknown") == "0"


@pytest.mark.full
def test_release_whose_tasks_cannot_be_imported_changes_nothing(blog):
    live, before = blog.live, state(blog)["pid"]
    good = blog.repository.read("website/celery.py")
    blog.repository.commit({"website/celery.py": "import not_there\n"})
    applied = blog.apply()
    assert "No module named 'not_there'" in applied.failed["blog has its static files"]
    assert blog.live == live and state(blog)["pid"] == before and state(blog)["fetching"] is True
    blog.repository.commit({"website/celery.py": good})
    blog.deploy()


@pytest.mark.full
def test_tasks_of_a_killed_worker_are_counted_and_given_back(blog):
    """Those that it had not begun; a task with a countdown is one of them until its time has come.

    With control groups of version 1, systemd may wait for the worker's patience before it starts it again.
    """
    workers = blog.options["workers"]
    blog.deploy(workers={**workers, "default": {**workers["default"], "patience": "1m"}})
    program = f"from celery import Celery; app = Celery(broker={BROKER!r})\n"
    program += "for number in range(3): app.send_task('work', (700_000 + number, 0.02), countdown=90)"
    blog.host.run([f"{blog.root}/current/virtualenv/bin/python", "-c", program])

    def row() -> dict[str, Any]:
        rows = blog.host.call("django.queue", "blog", full=True)
        return {key: value for one in rows for key, value in one.items() if one["queue"] == "celery"}

    until(lambda: row()["unacknowledged"] == 3)
    blog.host.run(["systemctl", "kill", "--kill-who=all", "--signal=KILL", f"{blog.unit}-default"])
    until(lambda: row()["abandoned"] == 3)
    until(lambda: row()["abandoned"] == 0)
    numbers = range(700_000, 700_003)
    until(lambda: all(Log(blog.host).ended[number] for number in numbers), 400)
    assert [Log(blog.host).ended[number] for number in numbers] == [1, 1, 1]
    journal = f"journalctl --output=cat --unit={blog.unit}-ticks --unit={blog.unit}-default --grep='are given back'"
    assert "3 tasks of django-blog-" in blog.host.run(journal).stdout
