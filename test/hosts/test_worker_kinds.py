"""Many tasks on a host while one release after another takes over: none lost and none run twice, of each kind."""

import itertools
import json
import random
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from sites import Site, until

#: What the tasks of every kind do: lines of a file, with the time and the release that runs them.
WORK = """
import os
import time


def line(text):
    descriptor = os.open(os.environ["MEDIA"] + "/work.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, f"{time.time():.3f} {os.environ['DJANGO_RELEASE'][:4]} {text}\\n".encode())
    os.close(descriptor)


def work(number, seconds):
    line(f"begin {number}")
    time.sleep(seconds)
    from website import late  # from the release's own folder

    line(f"end {number} {late.GENERATION}")
"""
#: Each release knows a name that the ones before it do not.
CELERY = """
import os

from celery import Celery
from website.late import GENERATION
from website.work import work

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "website.settings")
app = Celery("website")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.task(name="work")(work)


def run(number, seconds):
    work(number, seconds)


for generation in range(GENERATION + 1):
    app.task(name=f"work_{generation}")(run)


def send(name, number, seconds):
    app.send_task(name, (number, seconds), countdown=5 if number % 30 == 1 else None)
"""
RQ = """
import os

from redis import Redis
from rq import Queue


def send(name, number, seconds):
    Queue("default", connection=Redis.from_url(os.environ["REDIS_URL"])).enqueue("website.work.work", number, seconds)
"""
HUEY = """
from huey.contrib.djhuey import task
from website.work import work

job = task()(work)


def send(name, number, seconds):
    job(number, seconds)
"""
#: Sends tasks as the site does: each tenth has the name that the active release is the first to know.
SEND = """
import os
import random
import re
import time
from pathlib import Path

from django.core.management.base import BaseCommand
from MODULE import send


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("count", type=int)
        parser.add_argument("pause", type=float)

    def handle(self, count, pause, **options):
        seeded, late = random.Random(1), Path(os.environ["CURRENT"], "source/website/late.py")
        for number in range(count):
            generation = re.search("[0-9]+", late.read_text())[0]
            send(f"work_{generation}" if number % 10 == 9 else "work", number, seeded.uniform(0.02, 0.2))
            time.sleep(pause)
        Path(os.environ["MEDIA"], "sent").touch()
"""


class Kind(NamedTuple):
    """What a project has for one kind of worker: a requirement, the module that sends, its text, and settings."""

    requirement: str
    module: str
    text: str
    settings: str = ""
    worker: Mapping[str, Any] = {}


KINDS = {
    "celery": Kind("celery[redis]==5.7.0", "website.celery", CELERY),
    "rq": Kind("rq==3.0.0", "website.jobs", RQ, worker={"queues": ["default"]}),
    "huey": Kind(
        "huey==3.5.4\nredis==6.4.0",
        "guestbook.tasks",
        HUEY,
        "+\nimport os\nHUEY = {'name': 'shop', 'url': os.environ.get('REDIS_URL'), 'immediate': False}\n"
        "INSTALLED_APPS += ['huey.contrib.djhuey']\n",
    ),
}


class Line(NamedTuple):
    time: float
    release: str
    what: str
    number: int


def log(site: Site) -> list[Line]:
    text = site.host.run(f"cat {site.root}/media/work.log 2>/dev/null || :").stdout
    found = re.findall(r"^(\S+) (\d{4}) (begin|end) (\d+)", text, re.M)
    return [Line(float(at), release, what, int(number)) for at, release, what, number in found]


def finished(site: Site, count: int) -> list[Line]:
    """What was written once all tasks have ended, or when no more end."""
    deadline = time.monotonic() + 300
    while True:
        lines = log(site)
        if len({line.number for line in lines if line.what == "end"}) == count or time.monotonic() > deadline:
            return lines
        time.sleep(1)


def make(site: Site, kind: Kind) -> None:
    """Commit a project whose tasks are of a kind, and deploy it."""
    repository = site.repository
    files = {
        "website/work.py": WORK,
        "website/late.py": "GENERATION = 0\n",
        f"{kind.module.replace('.', '/')}.py": kind.text,
        "guestbook/management/__init__.py": "",
        "guestbook/management/commands/__init__.py": "",
        "guestbook/management/commands/send.py": SEND.replace("MODULE", kind.module),
        "requirements.txt": f"Django==5.2.19\n{kind.requirement}\n",
    }
    if kind.settings:
        files |= repository.amended({"website/settings.py": kind.settings})
    repository.commit(files)
    site.deploy(
        queue={"engine": "redis"},
        environment={
            "MEDIA": {"from": "media_root"},
            "REDIS_URL": {"from": "queue_url"},
            "CURRENT": f"{site.root}/current",
        },
        releases={"keep": 3, "watch": "0s", "drain": "2s"},
    )


@contextmanager
def sending(site: Site, count: int, pause: float) -> Iterator[None]:
    """Send tasks on and on in the block; all of them have been sent when it has ended."""
    command = f"salt-call --local django.manage {site.name} 'send {count} {pause:.3f}'"
    site.host.run(f"setsid --fork {command} </dev/null >/root/sending.log 2>&1")
    yield
    deadline = time.monotonic() + count * (pause + 0.1) + 120
    while site.host.run(f"test -e {site.root}/media/sent", check=False).returncode:
        assert time.monotonic() < deadline, site.host.read("/root/sending.log")
        time.sleep(1)


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "init", "count", "releases", "taken_back"),
    [
        pytest.param("celery", False, 1000, 5, {2, 4}, id="celery-supervisor"),
        pytest.param("rq", True, 1000, 10, {3, 6, 9}, id="rq-systemd"),
        pytest.param("huey", True, 1000, 10, {3, 6, 9}, id="huey-systemd"),
    ],
)
def test_no_task_is_lost_or_run_twice(hosts, repositories, kind, init, count, releases, taken_back):
    host = hosts(kind="ready") if init else hosts(kind="salt", init=False)
    site = Site(host, repositories(host), workers={"default": {"kind": kind, "processes": 4, **KINDS[kind].worker}})
    make(site, KINDS[kind])
    began = time.monotonic()
    site.repository.commit({"website/late.py": "GENERATION = 1\n"})
    site.deploy()
    took, warnings = time.monotonic() - began, []
    with sending(site, count, releases * took / count):
        for number in range(1, releases + 1):
            site.repository.commit({"website/late.py": f"GENERATION = {number + 1}\n"})
            warnings += [text for texts in site.deploy().warnings.values() for text in texts if "in time" in text]
            if number in taken_back:
                time.sleep(random.uniform(0.5, 2))
                host.call("django.rollback", site.name)
    if taken_back:  # what the releases that were taken back have sent is run by one that knows it
        site.repository.commit({"website/late.py": f"GENERATION = {releases + 2}\n"})
        site.deploy()
    lines = finished(site, count)
    begun, ended = (Counter(line.number for line in lines if line.what == what) for what in ("begin", "end"))
    lost, doubled = [n for n in range(count) if n not in ended], [n for n, times in ended.items() if times > 1]
    times = sorted(line.time for line in lines if line.what == "begin")
    gap = max(after - before for before, after in itertools.pairwise(times))
    by = {line.release for line in lines}
    print(f"{kind}: {count} tasks, {releases} releases, {len(taken_back)} taken back: {len(lost)} lost,", end=" ")
    print(f"{len(doubled)} doubled, by {len(by)} releases, longest time without a task begun {gap:.2f} s")
    assert (lost, doubled, warnings) == ([], [], []) and begun == ended
    assert len(by) >= releases - len(taken_back)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["rq", "huey"])
def test_release_whose_tasks_fail_is_taken_back_in_its_bake(hosts, repositories, kind):
    host = hosts(kind="ready")
    site = Site(host, repositories(host), workers={"default": {"kind": kind, **KINDS[kind].worker}})
    make(site, KINDS[kind])
    options = {"keep": 3, "watch": "0s", "drain": "2s"}
    site.deploy(proxy={"access_log": "json"}, releases={**options, "canary": {"steps": {"50%": "1h"}, "bake": "10m"}})
    old = site.live
    site.manage("send 60 0")
    ended = f"{site.root}/runtime/{old[:4]}-default/state"
    until(lambda: json.loads(host.read(ended))["outcomes"] == {"website.work.work": {"done": 60, "raised": {}}})
    site.repository.commit({"website/work.py": WORK.replace("    time.sleep(seconds)", "    {}[number]")})
    shares = site.deploy()["blog is live"].changes["canary"]
    assert shares.startswith(f"no visitors before the switch: workers of the kind {kind} fail tasks that")
    until(lambda: site.live != old)
    new = site.live
    site.manage("send 10 0")
    until(lambda: site.live == old)
    proof = until(lambda: (found := host.call("django.proof", "blog")).get("ended") and found)
    why = rf"{new} raised KeyError in the task website.work.work (\d+) times; {old} never did"
    number = re.fullmatch(why, proof["why"])
    assert proof["ended"] == "back" and number and 2 <= int(number[1]) <= 10, proof["why"]
    assert proof["tasks"]["old"] == {"website.work.work": {"done": 60, "raised": {}}}
    done = len([line for line in log(site) if line.what == "end"])
    site.manage("send 5 0")
    until(lambda: len([line for line in log(site) if line.what == "end"]) == done + 5)
    assert {line.release for line in log(site)[-10:]} == {old[:4]} and not site.apply().changed
