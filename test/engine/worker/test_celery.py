"""The program of Celery workers, with real Celery and Redis: what becomes of tasks when releases change."""

import signal
import textwrap
import time
from typing import Any

import pytest
from background import SETTINGS, Lab, Worker, lab, until
from in_django import python
from thinned import full

pytestmark = pytest.mark.slow  # workers that run for seconds

__all__ = ["lab"]

APP = """
from celery import Celery

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""
#: What Celery up to 5.5 does when its connection is lost.
CLEARS_ITS_TIMER = """
from celery.worker.consumer import Consumer

def clear(self, close=Consumer.on_close):
    close(self)
    self.timer.clear()

Consumer.on_close = clear
"""
TASKS = """
from celery import shared_task
from shop.work import work

@shared_task
def old(number, seconds=0.0):
    work(number, seconds)
"""
NEW = (
    TASKS
    + """
@shared_task
def new(number, seconds=0.0):
    work(number, seconds)
"""
)
#: Tasks of which one waits for the test, and all acknowledge late where LATE is true.
LONG = """
import os, time
from celery import shared_task
from shop.work import line, work

@shared_task(acks_late=LATE)
def old(number, seconds=0.0):
    work(number, seconds)

@shared_task(acks_late=LATE)
def long(number):
    line(f"begin {number}")
    while not os.path.exists(os.path.join(os.environ["HOME"], "go")):
        time.sleep(0.05)
    line(f"end {number}")
"""
GIVEN: dict[str, Any] = {"app": None, "queues": None, "processes": 2, "options": {}}


def release(lab: Lab, number: str, tasks: str = TASKS, **files: str) -> str:
    return lab.make(number, {"project/celery.py": APP, "shop/tasks.py": tasks, **files})


def celery(lab: Lab, number: str, **given: Any) -> Worker:
    return lab.start(number, "celery", **{**GIVEN, **given})


def send(lab: Lab, number: str, code: str) -> None:
    lab.shell(number, f"import project.celery\nfrom shop.tasks import *\n{textwrap.dedent(code)}")


def waiting(lab: Lab, queue: str = "celery") -> int:
    return int(lab.redis("LLEN", queue))


def test_worker_takes_tasks_only_while_its_release_is_active_and_no_deployment_switches(lab):
    for number in ("0001", "0002"):
        release(lab, number)
    lab.activate("0001")
    first, second = celery(lab, "0001").ready(), celery(lab, "0002").ready()
    until(lambda: first.is_fetching)
    assert not second.is_fetching
    with lab.switching():
        until(lambda: not first.is_fetching)
        send(lab, "0001", "for number in range(4): old.delay(number)")
        lab.activate("0002")
        time.sleep(0.5)
        assert not first.is_fetching and not second.is_fetching and waiting(lab) == 4
    until(lambda: second.is_fetching and sum(lab.counts("end").values()) == 4)
    assert {*lab.runs().values()} == {"0002"}
    assert not first.is_fetching
    first.stop()
    assert first.wait() == 0
    (lab.folder / "hold").touch()
    until(lambda: not second.is_fetching)


def test_stopped_worker_ends_what_it_has_in_hand_and_gives_back_the_rest(lab):
    for number in ("0001", "0002"):
        release(lab, number)
    lab.activate("0001")
    first, second = celery(lab, "0001").ready(), celery(lab, "0002").ready()
    send(lab, "0001", "for number in range(10): old.delay(number, 2.0)")
    until(lambda: first.state["active"] == 2 and first.state["reserved"] > 0)
    assert first.state["tasks"] == ["shop.tasks.old"]
    with lab.switching():
        until(lambda: not first.is_fetching)
        lab.activate("0002")
    first.stop()
    until(lambda: second.is_fetching)
    until(lambda: first.process.poll() is not None or first.state["active"] == 0)
    assert first.wait() == 0
    until(lambda: sum(lab.counts("end").values()) == 10)
    assert lab.counts("begin") == lab.counts("end") == dict.fromkeys(range(10), 1)
    assert sorted(lab.runs().values())[:2] == ["0001", "0001"] and "0002" in lab.runs().values()


def test_task_of_an_unknown_name_is_parked_and_given_back_to_the_release_that_knows_it(lab):
    release(lab, "0001")
    release(lab, "0002", NEW)
    lab.activate("0001")
    first = celery(lab, "0001").ready()
    send(
        lab,
        "0002",
        """
        for number, more in enumerate([{}, {"expires": 3600}, {"compression": "gzip"}]):
            new.apply_async((number,), correlation_id=f"c{number}", **more)
        old.delay(9)
        """,
    )
    until(lambda: waiting(lab, "celery.unknown") == 3 and lab.counts("end")[9] == 1)
    assert "shop.tasks.new is not known to this release: parked in celery.unknown" in first.log.read_text()
    assert int(lab.redis("HLEN", "unacked")) == 0
    assert '"expiration": "3600000"' in lab.redis("LRANGE", "celery.unknown", "0", "-1")
    second = celery(lab, "0002").ready()
    lab.activate("0002")
    until(lambda: sum(lab.counts("end").values()) == 4)
    assert {number: lab.runs()[number] for number in range(3)} == dict.fromkeys(range(3), "0002")
    assert waiting(lab, "celery.unknown") == 0 and second.is_fetching


FAILING = (
    TASKS
    + """
@shared_task
def fails(number):
    raise LookupError(number)

@shared_task(bind=True, max_retries=2, default_retry_delay=0)
def retries(self, number):
    try:
        raise KeyError(number)
    except KeyError as error:
        raise self.retry(exc=error)
"""
)


@pytest.mark.parametrize("pool", ["prefork", full("threads"), full("solo")])
def test_worker_reports_how_tasks_have_ended(lab, pool):
    release(lab, "0001", FAILING)
    lab.activate("0001")
    worker = celery(lab, "0001", options={"pool": pool}).ready()
    send(lab, "0001", "for number in range(3): fails.delay(number), old.delay(number)\nretries.delay(1)")
    ended = {
        "shop.tasks.fails": {"done": 3, "raised": {"LookupError": 3}},
        "shop.tasks.old": {"done": 3, "raised": {}},
        "shop.tasks.retries": {"done": 3, "raised": {"KeyError": 1}},
    }
    until(lambda: worker.state["outcomes"] == ended)
    assert worker.state["done"] == 9


@pytest.mark.full
def test_parked_task_of_another_name_stays_parked(lab):
    release(lab, "0001")
    release(lab, "0002", NEW)
    lab.activate("0001")
    first = celery(lab, "0001", queues=["mail", "celery"]).ready()
    code = "new.apply_async((1,), queue='mail')\nproject.celery.app.send_task('gone', queue='mail')"
    send(lab, "0002", code)
    until(lambda: waiting(lab, "mail.unknown") == 2)
    first.stop()
    celery(lab, "0002", queues=["mail", "celery"]).ready()
    lab.activate("0002")
    until(lambda: lab.counts("end")[1] == 1)
    until(lambda: int(lab.redis("HLEN", "unacked")) == 0)
    assert waiting(lab, "mail.unknown") == 1


@pytest.mark.parametrize("refuses", ["everything", full("parking")])
def test_tasks_in_hand_end_when_the_queue_refuses_writes(lab, refuses):
    """As a server does that is full. Celery ends then, but not before its tasks; it is started again."""
    release(lab, "0001")
    release(lab, "0002", NEW)
    lab.activate("0001")
    first = celery(lab, "0001").ready()
    send(lab, "0001", "for number in range(2): old.delay(number, 3.0)")
    until(lambda: first.state["active"] == 2)
    with lab.switching():
        until(lambda: not first.is_fetching)
        send(lab, "0002", "new.delay(2)\nold.delay(3)")
        if refuses == "parking":
            lab.redis("SET", "celery.unknown", "x")
        else:
            lab.limit(1)
    until(lambda: first.process.poll() is not None)
    assert {0, 1} <= {*lab.counts("end")} and lab.counts("begin") == lab.counts("end")
    lab.limit(0)
    lab.redis("DEL", "celery.unknown")
    lab.activate("0002")
    celery(lab, "0002").ready()
    until(lambda: sum(lab.counts("end").values()) == 4)
    assert lab.counts("begin") == lab.counts("end") == dict.fromkeys(range(4), 1)


@pytest.mark.full
def test_tasks_with_a_countdown_run_in_the_new_release(lab):
    for number in ("0001", "0002"):
        release(lab, number)
    lab.activate("0001")
    first, second = celery(lab, "0001").ready(), celery(lab, "0002").ready()
    send(lab, "0001", "for number in range(30): old.apply_async((number,), countdown=8)")
    sent = time.time()
    until(lambda: int(lab.redis("HLEN", "unacked")) == 30)
    with lab.switching():
        until(lambda: not first.is_fetching)
        lab.activate("0002")
    first.stop()
    until(lambda: len(lab.runs()) == 30)
    assert lab.counts("end") == dict.fromkeys(range(30), 1) and {*lab.runs().values()} == {"0002"}
    assert min(time for time, *_ in lab.lines()) > sent + 6
    assert second.is_fetching


@pytest.mark.full
def test_stopped_worker_holds_nothing_more_while_others_take_tasks(lab):
    """What it gives back is a transaction that is tried again when others have taken a task meanwhile."""
    release(lab, "0001")
    lab.activate("0001")
    first = celery(lab, "0001").ready()
    send(lab, "0001", "for number in range(60): old.apply_async((number,), countdown=60)")
    until(lambda: int(lab.redis("HLEN", "unacked")) == 60)
    with lab.busy_redis("HINCRBY", "unacked", "of-others", "1"):
        first.stop()
        assert first.wait() == 0
    assert waiting(lab) == 60 and lab.redis("KEYS", "unacked_held:*").strip() == ""


@pytest.mark.full
def test_killed_worker_takes_tasks_again_after_its_restart(lab):
    release(lab, "0001")
    lab.activate("0001")
    first = celery(lab, "0001").ready()
    until(lambda: first.is_fetching)
    first.kill()
    again = celery(lab, "0001").ready()
    until(lambda: again.is_fetching)
    send(lab, "0001", "old.delay(1)")
    until(lambda: lab.counts("end")[1] == 1)


@pytest.mark.parametrize("more", ["", full(CLEARS_ITS_TIMER)], ids=["", "celery-5.5"])
def test_worker_connects_again_after_a_restart_of_redis(lab, more):
    release(lab, "0001", **{"project/celery.py": APP + more})
    lab.activate("0001")
    first = celery(lab, "0001").ready()
    until(lambda: first.is_fetching)
    lab.redis("CLIENT", "KILL", "TYPE", "normal")
    time.sleep(1)
    send(lab, "0001", "for number in range(4): old.delay(number)")
    until(lambda: len(lab.runs()) == 4)
    with lab.switching():
        until(lambda: not first.is_fetching)
        send(lab, "0001", "old.delay(5)")
        lab.redis("CLIENT", "KILL", "TYPE", "normal")
        time.sleep(1.5)
        assert waiting(lab) == 1 and not first.is_fetching
    until(lambda: lab.counts("end")[5] == 1)


def unacked(lab: Lab) -> int:
    return int(lab.redis("HLEN", "unacked"))


@pytest.mark.parametrize("late", [False, full(True)], ids=["", "acks_late"])
def test_what_a_killed_worker_had_taken_is_given_back(lab, late):
    """All but what it ran, which Celery loses unless it acknowledges late; a living one keeps what it has."""
    for number in ("0001", "0002"):
        release(lab, number, LONG.replace("LATE", str(late)))
    lab.activate("0001")
    busy = lab.start("0001", "celery", "busy", **{**GIVEN, "processes": 1, "queues": ["busy"]}).ready()
    send(lab, "0001", "for number in range(90, 93): long.apply_async((number,), queue='busy')")
    until(lambda: lab.counts("begin")[90] == 1)
    first = celery(lab, "0001").ready()
    send(lab, "0001", "for number in range(2): long.delay(number)")
    until(lambda: first.state["active"] == 2)
    send(lab, "0001", "for number in range(2, 4): old.delay(number)")
    send(lab, "0001", "for number in range(4, 7): old.apply_async((number,), countdown=600)")
    until(lambda: unacked(lab) == (10 if late else 7))
    first.kill()
    again = celery(lab, "0001", processes=4).ready()
    until(lambda: lab.counts("end").keys() >= {2, 3})
    until(lambda: unacked(lab) == (8 if late else 5))
    assert "which is gone, are given back" in again.log.read_text() + busy.log.read_text()
    assert lab.counts("begin")[91] == 0 and busy.process.poll() is None
    (lab.folder / "go").touch()
    numbers = {2, 3, 90, 91, 92, *([0, 1] if late else [])}
    until(lambda: lab.counts("end").keys() == numbers)
    until(lambda: unacked(lab) == 3)
    assert lab.counts("end") == dict.fromkeys(numbers, 1)
    assert lab.counts("begin") == {**dict.fromkeys(numbers, 1), **dict.fromkeys((0, 1), 2 if late else 1)}
    assert len(lab.redis("HGETALL", "unacked_holders").splitlines()) == 4  # names and numbers of two


@pytest.mark.full
def test_what_a_worker_had_taken_by_a_connection_that_was_lost_is_given_back(lab):
    release(lab, "0001", LONG.replace("LATE", "True"))
    lab.activate("0001")
    first = celery(lab, "0001").ready()
    send(lab, "0001", "for number in range(2): long.delay(number)")
    until(lambda: first.state["active"] == 2)
    send(lab, "0001", "for number in range(2, 6): old.delay(number)")
    until(lambda: unacked(lab) == 6)
    lab.redis("CLIENT", "KILL", "TYPE", "normal")
    time.sleep(30)
    assert lab.counts("begin").keys() == {0, 1}
    (lab.folder / "go").touch()
    until(lambda: unacked(lab) == 0)
    assert lab.counts("begin") == lab.counts("end") == dict.fromkeys(range(6), 1)


@pytest.mark.parametrize("pool", ["threads", full("solo"), full("gevent")])
def test_other_pools(lab, pool):
    lab.python = python("workers-gevent")
    for number in ("0001", "0002"):
        release(lab, number)
    lab.activate("0001")
    first, second = (celery(lab, number, options={"pool": pool}).ready() for number in ("0001", "0002"))
    send(lab, "0001", "for number in range(20): old.delay(number, 0.1)")
    until(lambda: len(lab.runs()) > 4)
    with lab.switching():
        until(lambda: not first.is_fetching)
        send(lab, "0001", "for number in range(20, 25): old.delay(number, 0.1)")
        lab.activate("0002")
    first.stop()
    assert first.wait() == 0
    until(lambda: len(lab.runs()) == 25)
    assert lab.counts("begin") == lab.counts("end") == dict.fromkeys(range(25), 1)
    assert {*lab.runs().values()} == {"0001", "0002"} and second.is_fetching


@pytest.mark.parametrize(
    "pool", ["prefork", *(pytest.param(name, marks=pytest.mark.full) for name in ("gevent", "threads", "solo"))]
)
@pytest.mark.parametrize("late", [False, pytest.param(True, marks=pytest.mark.full)], ids=["", "acks_late"])
def test_tasks_that_an_old_worker_has_not_begun_do_not_wait_for_its_long_task(lab, pool, late):
    """Those with a countdown too. With gevent the pool is not full here: while it is, one task more is in hand."""
    lab.python = python("workers-gevent")
    for number in ("0001", "0002"):
        release(lab, number, LONG.replace("LATE", str(late)))
    lab.activate("0001")
    given = {"options": {"pool": pool}, "processes": 3 if pool == "gevent" else 2}
    first, second = (celery(lab, number, **given).ready() for number in ("0001", "0002"))
    is_full = pool in ("prefork", "threads")
    send(lab, "0001", "for number in range(3, 6): old.apply_async((number,), countdown=15)")
    until(lambda: int(lab.redis("HLEN", "unacked")) == 3)
    send(lab, "0001", f"for number in range({2 if is_full else 1}): long.delay(number)")
    until(lambda: first.state["active"] == (2 if is_full else 1))
    if is_full:
        send(lab, "0001", "old.delay(2)")
        until(lambda: first.state["reserved"] == 1)
    with lab.switching():
        until(lambda: not first.is_fetching)
        lab.activate("0002")
    assert sum(lab.counts("end").values()) == 0
    first.stop()
    others = {3, 4, 5, *([2] if is_full else [])} if pool != "solo" else set()
    until(lambda: lab.runs().keys() >= others)
    assert {*lab.runs().values()} <= {"0002"} and first.process.poll() is None
    (lab.folder / "go").touch()
    assert first.wait() == 0
    numbers = {0, 3, 4, 5, *([1, 2] if is_full else [])}
    until(lambda: lab.runs().keys() == numbers)
    assert lab.counts("begin") == lab.counts("end") == dict.fromkeys(numbers, 1)
    assert {number for number, by in lab.runs().items() if by == "0001"} == {0, *([1] if is_full else [])}
    until(lambda: second.is_fetching and int(lab.redis("HLEN", "unacked")) == 0)


def test_task_of_the_pool_solo_is_reported_and_no_other_begins_while_a_deployment_switches(lab):
    release(lab, "0001", LONG.replace("LATE", "False"))
    lab.activate("0001")
    first = celery(lab, "0001", options={"pool": "solo"}).ready()
    send(lab, "0001", "long.delay(0)\nold.delay(1)")
    until(lambda: first.state["active"] == 1)
    assert first.state["tasks"] == ["shop.tasks.long"]
    with lab.switching():
        until(lambda: not first.is_fetching)
        (lab.folder / "go").touch()
        until(lambda: lab.counts("end")[0] == 1)
        time.sleep(0.5)
        assert not first.is_fetching and lab.counts("begin") == {0: 1}
    until(lambda: lab.counts("end")[1] == 1)


def test_pool_of_the_settings_is_used_unless_the_pillar_has_one(lab):
    files = {"project/settings.py": f"{SETTINGS}\nCELERY_WORKER_POOL = 'threads'"}
    release(lab, "0001", **files)
    lab.activate("0001")
    for options, used in (({}, "(thread)"), ({"pool": "prefork"}, "(prefork)")):
        worker = celery(lab, "0001", options=options)
        until(lambda worker=worker, used=used: used in worker.log.read_text())
        worker.kill()


@pytest.mark.parametrize(
    ("pool", "cause"),
    [full("gevent", "needs the option pool: gevent of the worker"), ("eventlet", "is not supported: 'eventlet'")],
)
def test_pool_of_the_settings_that_cannot_be_used_is_refused(lab, pool, cause):
    release(lab, "0001", **{"project/settings.py": f"{SETTINGS}\nCELERY_WORKER_POOL = {pool!r}"})
    lab.activate("0001")
    first = celery(lab, "0001")
    assert first.wait() != 0 and not (first.run / "ready").exists()
    assert f"worker_pool of the project's settings {cause}" in first.log.read_text()


def test_worker_whose_tasks_cannot_be_imported_ends_before_it_is_ready(lab):
    release(lab, "0001", "import not_there\n")
    lab.activate("0001")
    first = celery(lab, "0001")
    assert first.wait() != 0
    assert "ModuleNotFoundError: No module named 'not_there'" in first.log.read_text()
    assert not (first.run / "ready").exists()


def test_worker_of_a_project_without_an_app_names_where_it_looked(lab):
    lab.make("0001", {})
    lab.activate("0001")
    first = celery(lab, "0001")
    assert first.wait() != 0
    assert "no Celery app found in the project (project.celery)" in first.log.read_text()


def test_options_are_those_of_the_command(lab):
    release(lab, "0001")
    lab.activate("0001")
    options = {"prefetch_multiplier": 1, "without_mingle": True, "loglevel": "INFO", "max_tasks_per_child": 1}
    first = celery(lab, "0001", options=options, app="project.celery:app").ready()
    send(lab, "0001", "for number in range(6): old.delay(number, 0.05)")
    until(lambda: first.log.read_text().count("succeeded") == 6)
    log = first.log.read_text()
    assert len(lab.runs()) == 6 and "mingle" not in log and "django-shop-0001-default@" in log
    first.process.send_signal(signal.SIGTERM)
    assert first.wait() == 0
