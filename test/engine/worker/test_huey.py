"""The program of huey's consumers, with real huey and Redis: what becomes of tasks when releases change."""

import subprocess
import time
from typing import Any

import pytest
from background import SETTINGS, Lab, Worker, lab, until
from in_django import python
from specimen import ROOT
from thinned import full

pytestmark = pytest.mark.slow  # workers that run for seconds

__all__ = ["lab"]

TASKS = """
from huey import CancelExecution, crontab
from huey.contrib.djhuey import db_task, periodic_task, task
from shop.work import line, work

@task()
def old(number, seconds=0.0):
    work(number, seconds)

@task()
def fails(number):
    raise LookupError(number)

@task(retries=2)
def retries(number):
    raise KeyError(number)

@task()
def cancels(number):
    raise CancelExecution()

@periodic_task(crontab())
def every_minute():
    line("minute")
"""
HUEY = (
    SETTINGS
    + """
import os
HUEY = {"name": "shop", "immediate": False, "url": os.environ["REDIS_URL"], "consumer": {"workers": 7, "utc": True}}
INSTALLED_APPS += ["huey.contrib.djhuey"]
"""
)


def release(lab: Lab, number: str) -> str:
    return lab.make(number, {"shop/tasks.py": TASKS, "project/settings.py": HUEY})


def huey(lab: Lab, number: str, **options: Any) -> Worker:
    (lab.folder / "beat").mkdir(exist_ok=True)
    given = {"app": None, "processes": 2, "options": options, "beat": str(lab.folder / "beat")}
    return lab.start(number, "huey", **given)


def send(lab: Lab, number: str, code: str) -> None:
    lab.shell(number, f"from shop.tasks import *\n{code}")


def send_twenty(lab: Lab, place: int) -> None:
    send(lab, "0001", f"for number in range({place * 20}, {place * 20 + 20}): old(number, 0.1)")


@pytest.fixture(params=["workers", full("workers-huey-2")])
def version(request: pytest.FixtureRequest, lab: Lab) -> None:
    """A lab with each version of huey."""
    lab.python = python(request.param)


@pytest.mark.parametrize("kind", ["thread", full("process")])
@pytest.mark.usefixtures("version")
def test_tasks_are_run_once_while_releases_change(lab, kind):
    numbers = ["0001", "0002", "0003"]
    for number in numbers:
        release(lab, number)
    lab.activate(numbers[0])
    former = huey(lab, numbers[0], worker_type=kind).ready()
    for place, number in enumerate(numbers[1:]):
        worker = huey(lab, number, worker_type=kind).ready()
        done = len(lab.runs())
        send_twenty(lab, place)
        until(lambda done=done: len(lab.runs()) >= done + 5)
        with lab.switching():
            until(lambda former=former: not former.is_fetching)
            lab.activate(number)
        former.stop()
        former = worker
    send_twenty(lab, 2)
    until(lambda: len(lab.runs()) == 60)
    assert lab.counts("begin") == lab.counts("end") == dict.fromkeys(range(60), 1)
    assert {*lab.runs().values()} == {*numbers}
    assert [worker.wait() for worker in lab.workers[:-1]] == [0, 0]
    assert lab.log.read_text().count("minute") <= 2
    assert "died" not in "".join(worker.log.read_text() for worker in lab.workers)


def test_task_of_a_module_that_only_views_import_is_run(lab):
    imports = "from huey.contrib.djhuey import task\nfrom shop.work import work\n"
    files = {
        "shop/mails.py": f"{imports}@task()\ndef sent(number):\n    work(number, 0)\n",
        "shop/urls.py": "import shop.mails\nurlpatterns = []\n",
        "project/settings.py": f"{HUEY}ROOT_URLCONF = 'shop.urls'\n",
    }
    lab.make("0001", files)
    lab.activate("0001")
    huey(lab, "0001").ready()
    lab.shell("0001", "from shop.mails import sent\nsent(1)")
    until(lambda: lab.counts("end") == {1: 1})


@pytest.mark.parametrize("kind", ["thread", full("process")])
@pytest.mark.usefixtures("version")
def test_consumer_reports_how_tasks_have_ended(lab, kind):
    release(lab, "0001")
    lab.activate("0001")
    worker = huey(lab, "0001", worker_type=kind, periodic=False).ready()
    send(lab, "0001", "for number in range(3): fails(number), old(number)\nretries(1), cancels(1)")
    ended = {
        "shop.tasks.fails": {"done": 3, "raised": {"LookupError": 3}},
        "shop.tasks.old": {"done": 3, "raised": {}},
        "shop.tasks.retries": {"done": 3, "raised": {"KeyError": 1}},
    }
    until(lambda: worker.state["outcomes"] == ended)


@pytest.mark.usefixtures("version")
def test_stopped_consumer_ends_the_tasks_in_hand(lab):
    release(lab, "0001")
    lab.activate("0001")
    worker = huey(lab, "0001").ready()
    send(lab, "0001", "for number in range(6): old(number, 5.0)")
    until(lambda: worker.state["active"] == 2)
    assert worker.state["tasks"] == ["old"]
    worker.stop()
    assert worker.wait() == 0
    assert lab.counts("begin") == lab.counts("end") == {0: 1, 1: 1}
    assert int(lab.redis("LLEN", "huey.redis.shop")) == 4


@pytest.mark.usefixtures("version")
def test_consumer_takes_tasks_of_others_where_its_own_settings_run_them_at_once(lab):
    lab.make(
        "0001", {"shop/tasks.py": TASKS, "project/settings.py": HUEY.replace('"immediate": False', "'immediate': 1")}
    )
    release(lab, "0002")
    lab.activate("0001")
    worker = huey(lab, "0001").ready()
    send(lab, "0002", "old(1)")
    until(lambda: worker.state["outcomes"].get("shop.tasks.old", {}).get("done") == 1)


@pytest.mark.usefixtures("version")
def test_periodic_tasks_are_enqueued_by_the_active_release_and_once_in_a_minute(lab):
    for number in ("0001", "0002"):
        release(lab, number)
    lab.activate("0001")
    huey(lab, "0001").ready()
    huey(lab, "0001").ready()
    huey(lab, "0002").ready()
    until(lambda: "minute" in (lab.log.read_text() if lab.log.exists() else ""))
    lines = [line.split()[1:] for line in lab.log.read_text().splitlines()]
    assert ["0002", "minute"] not in lines and len(lines) <= 2


def test_a_clock_that_was_wrong_for_a_moment_ends_no_periodic_task(lab):
    """As that of a host which begins in a year to come; its minute outlives releases and restarts."""
    release(lab, "0001")
    lab.activate("0001")
    (lab.folder / "beat").mkdir()
    (lab.folder / "beat/huey-shop").write_text(str(int(time.time()) // 60 + 365 * 24 * 60))
    huey(lab, "0001").ready()
    until(lambda: "minute" in (lab.log.read_text() if lab.log.exists() else ""))
    assert int((lab.folder / "beat/huey-shop").read_text()) <= time.time() // 60


OLD_SERVER = """
import sys
sys.path.insert(0, {folder!r})
import django_formula_huey

class Refused:
    def info(self, _section):
        raise ConnectionError

class Told(Refused):
    def __init__(self, version):
        self.version = version

    def info(self, _section):
        return {{"redis_version": self.version}}

class Storage:
    def __init__(self, conn):
        self.conn = conn

connections = [Told("5.0.14"), Told("6.0.16"), Told("255.255.255"), Refused()]
print([django_formula_huey.patience(Storage(one)) for one in connections], django_formula_huey.patience(object()))
"""


def test_an_old_redis_is_asked_with_whole_seconds():
    """It refuses others, and no task was ever taken."""
    code = OLD_SERVER.format(folder=str(ROOT / "django/files"))
    ran = subprocess.run([python("workers"), "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[1, 0.1, 0.1, 0.1] 0.1\n"
