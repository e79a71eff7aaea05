"""What becomes of tasks of Celery while a site is deployed, by the formula and by tools that restart the worker."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import requests
from contestants import Ansible, Contestant, Fabric, Formula, Plain
from lab import CommandFailed

#: Packages of the project.
REQUIREMENTS = "Django==5.2.19\ncelery[redis]==5.7.0\n"
APP = """import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "website.settings")
app = Celery("website")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""
#: Each task notes in a file that it begins and ends, and takes 20 to 200 ms. Each release adds a name of its own.
TASKS = """import random
import time

from celery import shared_task
from django.conf import settings


def work(number):
    for what in ("begun", "ended"):
        with open(f"{{settings.MEDIA_ROOT}}/tasks.log", "a") as file:
            file.write(f"{{number}} {{what}}\\n")
        time.sleep(random.uniform(0.02, 0.2) if what == "begun" else 0)


@shared_task
def every_release(number):
    work(number)


added = [shared_task(name=f"guestbook.tasks.added_by_{{release}}")(work) for release in range({release} + 1)]
"""
VIEW = """

def enqueue(request):
    from .tasks import added, every_release
    number = request.GET["number"]
    task = added[-1] if int(number) % 10 == 0 else every_release
    task.delay(number)
    return HttpResponse("ok\\n", content_type="text/plain")
"""
DATABASES = {Plain: 1, Fabric: 2, Ansible: 3}


def files(worktree: Any, release: int) -> dict[str, str]:
    """Return the files of the project with tasks.

    Args:
        worktree: the folder of the example project.
        release: the number of the release.
    """
    views, urls = ((worktree / f"guestbook/{name}.py").read_text() for name in ("views", "urls"))
    settings = (worktree / "website/settings.py").read_text()
    broker = 'CELERY_BROKER_URL = __import__("os").environ.get("CELERY_BROKER_URL", "redis://localhost:6379/0")\n'
    return {
        "requirements.txt": REQUIREMENTS,
        "website/celery.py": APP,
        "website/__init__.py": "from .celery import app as celery_app\n",
        "website/settings.py": settings if broker in settings else settings + broker,
        "guestbook/tasks.py": TASKS.format(release=release),
        "guestbook/views.py": views if VIEW in views else views + VIEW,
        "guestbook/urls.py": urls
        if "enqueue" in urls
        else urls.replace("urlpatterns = [", 'urlpatterns = [\n    path("enqueue", views.enqueue),'),
    }


@dataclass
class Enqueuer:
    """A visitor whose requests enqueue tasks at a steady pace; a request that fails is not one of its tasks.

    Attributes:
        numbers: those of the tasks whose request was answered.
        failed: requests that were not.
    """

    contestant: Contestant
    pause: float
    numbers: list[int] = field(default_factory=list)
    failed: int = 0

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._enqueue, daemon=True)
        self._number = 0

    def __enter__(self) -> "Enqueuer":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _enqueue(self) -> None:
        while not self._ended.wait(self.pause):
            self._number += 1
            try:
                answer = self.contestant.host.http(
                    f"/enqueue?number={self._number}", self.contestant.domain, timeout=10
                )
                is_good = answer.status_code == 200
            except requests.RequestException:
                is_good = False
            if is_good:
                self.numbers.append(self._number)
            self.failed += not is_good

    def wait(self, count: int) -> None:
        """Wait until a number of tasks is enqueued."""
        deadline = time.monotonic() + 600
        while len(self.numbers) < count:
            if time.monotonic() > deadline:
                raise CommandFailed(f"{self.contestant.title}: {len(self.numbers)} tasks are enqueued, not {count}")
            time.sleep(0.05)


@dataclass(frozen=True)
class Outcome:
    """What became of the tasks of a contestant."""

    enqueued: int
    failed_requests: int
    lost: int
    doubled: int
    begun_twice: int

    def __str__(self) -> str:
        requests_failed = f", {self.failed_requests} requests failed" if self.failed_requests else ""
        return (
            f"lost {self.lost}, doubled {self.doubled}, begun twice {self.begun_twice} "
            f"of {self.enqueued}{requests_failed}"
        )


def run(contestant: Contestant, commits: list[str], tasks: int) -> Outcome:
    """Deploy commits while a visitor enqueues tasks, and count what became of them."""
    log = f"{contestant.root}/media/tasks.log"
    contestant.deploy(commits[0])
    share = tasks // (len(commits) - 1)
    contestant.host.run(["rm", "-f", log])
    with Enqueuer(contestant, pause=0.05) as visitor:
        for number, commit in enumerate(commits[1:]):
            visitor.wait(number * share + share // 2)
            contestant.deploy(commit)
        visitor.wait(tasks)
    counts = _counts(contestant, log, len(visitor.numbers))
    begun, ended = (Counter(number for number, what in counts if what == word) for word in ("begun", "ended"))
    sent = [str(number) for number in visitor.numbers]
    return Outcome(
        len(sent),
        visitor.failed,
        sum(not ended[number] for number in sent),
        sum(ended[number] > 1 for number in sent),
        sum(begun[number] > 1 for number in sent),
    )


def _counts(contestant: Contestant, log: str, expected: int) -> list[tuple[str, str]]:
    """Return the lines of the tasks' file once all have ended, or nothing was added to it for 30 seconds."""
    last, since = -1, time.monotonic()
    while True:
        rows = [tuple(row.split()) for row in contestant.host.read(log).splitlines()]
        if len({row[0] for row in rows if row[1:] == ("ended",)}) >= expected:
            time.sleep(3)  # for those that run again
            return [(row[0], row[1]) for row in map(str.split, contestant.host.read(log).splitlines())]
        if len(rows) != last:
            last, since = len(rows), time.monotonic()
        if time.monotonic() - since > 30:
            return [(number, what) for number, what in rows]
        time.sleep(0.5)


def prepare(contestant: Contestant) -> None:
    """Give a contestant a worker: the formula with a queue of its own, a peer with Debian's Redis."""
    contestant.has_worker = True
    contestant.revision = ""
    if isinstance(contestant, Formula):
        contestant.more = {"queue": {"engine": "redis"}, "workers": {"default": {"kind": "celery", "processes": 2}}}
        return
    number = DATABASES[type(contestant)]
    unit = f"/etc/systemd/system/{contestant.unit}"
    variable = f"[Service]\nEnvironment=CELERY_BROKER_URL=redis://localhost:6379/{number}\n"
    for name in (f"{unit}.service.d", f"{unit}-celery.service.d"):
        contestant.host.write(f"{name}/broker.conf", variable)
    contestant.host.run("systemctl daemon-reload")
