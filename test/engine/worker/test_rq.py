"""The program of RQ's workers, with real RQ and Redis: what becomes of jobs when releases change."""

import importlib.util
import os
import signal
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from background import Lab, Worker, lab, until
from specimen import ROOT
from thinned import full

pytestmark = pytest.mark.slow  # workers that run for seconds

__all__ = ["lab"]

JOBS = """
import os
import signal

from shop.work import work

def old(number, seconds=0.0):
    work(number, seconds)

def fails(number):
    raise LookupError(number)

def kills(number):
    os.kill(os.getpid(), signal.SIGKILL)
"""
GIVEN: dict[str, Any] = {"queues": ["high", "default"], "processes": 2, "options": {}}


def release(lab: Lab, number: str) -> str:
    return lab.make(number, {"shop/jobs.py": JOBS})


def rq(lab: Lab, number: str, **given: Any) -> Worker:
    return lab.start(number, "rq", **{**GIVEN, **given})


def send(lab: Lab, number: str, code: str) -> None:
    begin = """
    import os
    from redis import Redis
    from rq import Queue
    from shop.jobs import old
    redis = Redis.from_url(os.environ["REDIS_URL"])
    default, high = Queue("default", connection=redis), Queue("high", connection=redis)
    """
    lab.shell(number, textwrap.dedent(begin) + textwrap.dedent(code))


def send_ten(lab: Lab, place: int) -> None:
    numbers = f"range({place * 10}, {place * 10 + 10})"
    send(lab, "0001", f"for number in {numbers}: (high if number % 4 else default).enqueue(old, number, 0.05)")


def test_jobs_are_run_once_while_releases_change(lab):
    numbers = [f"000{number}" for number in range(1, 5)]
    for number in numbers:
        release(lab, number)
    lab.activate(numbers[0])
    former = rq(lab, numbers[0]).ready()
    for place, number in enumerate(numbers[1:]):
        worker = rq(lab, number).ready()
        done = len(lab.runs())
        send_ten(lab, place)
        until(lambda done=done: len(lab.runs()) >= done + 3)
        with lab.switching():
            until(lambda former=former: not former.is_fetching)
            lab.activate(number)
        former.stop()
        former = worker
    send_ten(lab, 3)
    until(lambda: len(lab.runs()) == 40)
    assert lab.counts("begin") == lab.counts("end") == dict.fromkeys(range(40), 1)
    assert {*lab.runs().values()} == {*numbers}
    assert [worker.wait() for worker in lab.workers[:-1]] == [0, 0, 0]


def test_stopped_worker_ends_the_job_in_hand_and_takes_no_other(lab):
    release(lab, "0001")
    lab.activate("0001")
    worker = rq(lab, "0001", processes=1).ready()
    send(lab, "0001", "for number in range(3): default.enqueue(old, number, 5.0)")
    until(lambda: worker.state["active"] == 1)
    assert worker.state["tasks"] == ["shop.jobs.old"]
    worker.stop()
    assert worker.wait() == 0
    assert lab.counts("end") == {0: 1} and lab.redis("LLEN", "rq:queue:default") == "2"


def test_job_that_was_taken_runs_where_its_worker_can_report_nothing(lab):
    """As in a full /run, which processes of another site may fill: the job was in no queue any more."""
    release(lab, "0001")
    lab.activate("0001")
    worker = rq(lab, "0001", processes=1).ready()
    until(lambda: worker.is_fetching)
    (worker.run / "state-0.new").mkdir()  # it cannot be opened for writing
    send(lab, "0001", "default.enqueue(old, 1)")
    until(lambda: lab.counts("end") == {1: 1})


def test_process_that_is_killed_is_replaced(lab):
    release(lab, "0001")
    lab.activate("0001")
    worker = rq(lab, "0001").ready()
    children = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children")
    before = until(lambda: children.read_text().split())
    assert len(before) == 2
    os.kill(int(before[0]), signal.SIGKILL)
    until(lambda: len(after := children.read_text().split()) == 2 and before[0] not in after)
    send(lab, "0001", "default.enqueue(old, 1)")
    until(lambda: lab.counts("end")[1] == 1)


@pytest.mark.parametrize("processes", [full(1), 2])
def test_worker_reports_how_jobs_have_ended(lab, processes):
    release(lab, "0001")
    lab.activate("0001")
    worker = rq(lab, "0001", processes=processes).ready()
    code = """
    from rq import Retry
    from shop.jobs import fails, kills
    for number in range(3):
        default.enqueue(fails, number)
        high.enqueue(old, number)
    default.enqueue(fails, 3, retry=Retry(max=1))
    default.enqueue(kills, 4)
    default.enqueue("shop.jobs.none", 5)
    """
    send(lab, "0001", code)
    ended = {
        "shop.jobs.fails": {"done": 5, "raised": {"LookupError": 4}},
        "shop.jobs.old": {"done": 3, "raised": {}},
        "shop.jobs.kills": {"done": 1, "raised": {"WorkHorseKilled": 1}},
    }

    def are_reported():
        outcomes = worker.state["outcomes"]
        return ended.items() <= outcomes.items() and outcomes.get("shop.jobs.none", {}).get("done")

    assert until(are_reported) == 1
    assert (
        len(worker.state["outcomes"]) == 4 and sum(worker.state["outcomes"]["shop.jobs.none"]["raised"].values()) == 1
    )


def test_worker_without_a_redis_ends_before_it_is_ready(lab):
    release(lab, "0001")
    lab.environment["REDIS_URL"] = "unix:///nowhere"
    worker = rq(lab, "0001")
    assert worker.wait() != 0 and "/nowhere" in worker.log.read_text()
    del lab.environment["REDIS_URL"]
    worker = rq(lab, "0001")
    assert worker.wait() != 0
    assert "INSTALLED_APPS lacks django_rq, and neither RQ_REDIS_URL nor REDIS_URL is set" in worker.log.read_text()


@pytest.mark.parametrize("where", ["exceptions", "worker"])
def test_exceptions_are_taken_from_where_a_version_of_rq_has_them(monkeypatch, where):
    """RQ 1 has StopRequested in rq.worker only."""
    modules = {name: ModuleType(name) for name in ("django", "rq", "rq.exceptions", "rq.worker")}
    stop, empty = type("StopRequested", (Exception,), {}), type("DequeueTimeout", (Exception,), {})
    modules["rq.exceptions"].DequeueTimeout = modules["rq.worker"].DequeueTimeout = empty
    modules[f"rq.{where}"].StopRequested = stop
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(ROOT / "django/files"))
    spec = importlib.util.spec_from_file_location("program_of_rq", ROOT / "django/files/django_formula_rq.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    assert (program.StopRequested, program.DequeueTimeout) == (stop, empty)
