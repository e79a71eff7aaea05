"""The program that reads the queues of workers, and what the start of Django reports of a Celery app."""

import json
import resource
import subprocess
import textwrap
from typing import Any

import pytest
from background import SETTINGS, Lab, lab, until
from thinned import full

pytestmark = pytest.mark.slow  # workers that run for seconds

__all__ = ["lab"]

APP = """
from celery import Celery

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")

@app.task(name="shop.old")
def old(number):
    pass
"""
REQUEST = {"mode": "queue", "modules": ["project.settings", "project.wsgi"], "names": True, "give_back": False}


def asked(lab: Lab, number: str, *workers: dict[str, Any], **options: Any) -> dict[str, Any]:
    request = json.dumps({**REQUEST, "drop": "", "workers": workers, **options})
    return ask(lab, number, "django_formula_queue.py", request)["queues"]


def ask(lab: Lab, number: str, program: str, request: str) -> dict[str, Any]:
    done = subprocess.run(
        [lab.python, str(lab.release(number) / "config" / program)],
        cwd=lab.release(number) / "source",
        env={**lab.environment, "PYTHONPATH": str(lab.release(number) / "source")},
        input=request,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.returncode, done.stderr
    return dict(json.loads(done.stdout))


def celery(*queues: str) -> dict[str, Any]:
    return {"kind": "celery", "app": None, "queues": [*queues]}


def send(lab: Lab, number: str, code: str) -> None:
    lab.shell(number, f"from project.celery import app\n{textwrap.dedent(code)}")


def test_waiting_tasks_are_counted_by_queue_and_name(lab):
    lab.make("0001", {"project/celery.py": APP})
    code = """
    for number in range(5):
        app.send_task("shop.old", (number,))
    app.send_task("shop.new", queue="mail", priority=6)
    app.send_task("shop.new", queue="mail")
    """
    send(lab, "0001", code)
    none = {"parked": 0, "unacknowledged": 0, "abandoned": 0}
    assert asked(lab, "0001", celery("celery"), celery("mail", "none")) == {
        "celery": {"waiting": 5, "names": {"shop.old": 5}, **none, "parked_names": {}},
        "mail": {"waiting": 2, "names": {"shop.new": 2}, **none, "parked_names": {}},
        "none": {"waiting": 0, "names": {}, **none, "parked_names": {}},
    }
    assert asked(lab, "0001", celery("celery"), names=False) == {"celery": {"waiting": 5, **none}}
    assert lab.redis("LLEN", "celery") == "5" and lab.redis("KEYS", "none*") == ""


def test_message_of_another_program_is_counted_without_a_name(lab):
    lab.make("0001", {"project/celery.py": APP})
    send(lab, "0001", "app.send_task('shop.old', (1,))")
    for message in ("no json", "[1]", '{"headers": 3}', "[" * 5000):
        lab.redis("LPUSH", "celery", message)
    found = asked(lab, "0001", celery("celery"))["celery"]
    assert (found["waiting"], found["names"]) == (5, {"shop.old": 1, "unknown": 4})


def test_broker_is_the_project_s_where_the_environment_has_none(lab):
    url = lab.environment.pop("CELERY_BROKER_URL")
    lab.make("0001", {"project/celery.py": APP, "project/settings.py": f"{SETTINGS}\nCELERY_BROKER_URL = {url!r}"})
    send(lab, "0001", "app.send_task('shop.old', (1,))")
    assert asked(lab, "0001", celery("celery"))["celery"]["names"] == {"shop.old": 1}


def test_options_of_the_broker_are_the_project_s_where_the_environment_has_its_address(lab):
    options = "CELERY_BROKER_TRANSPORT_OPTIONS = {'global_keyprefix': 'shop:'}"
    lab.make("0001", {"project/celery.py": APP, "project/settings.py": f"{SETTINGS}\n{options}"})
    send(lab, "0001", "app.send_task('shop.old', (1,))")
    assert lab.redis("LLEN", "shop:celery") == "1"
    found = asked(lab, "0001", celery("celery"))["celery"]
    assert (found["waiting"], found["names"]) == (1, {"shop.old": 1})


@pytest.mark.full
def test_ten_thousand_waiting_tasks_are_counted_by_name_in_little_time(lab):
    lab.make("0001", {"project/celery.py": APP})
    code = """
    with app.producer_pool.acquire() as producer:
        for number in range(10_000):
            app.send_task(f"shop.task_{number % 7}", (number,), producer=producer)
    """
    send(lab, "0001", code)
    before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
    names = asked(lab, "0001", celery("celery"))["celery"]["names"]
    assert sum(names.values()) == 10_000 and len(names) == 7
    took = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before
    print(f"{took:.2f} s of CPU")
    assert took < 1


def test_parked_tasks_are_given_back_or_deleted_by_name(lab):
    lab.make("0001", {"project/celery.py": APP.replace("shop.old", "other")})
    lab.make("0002", {"project/celery.py": APP})
    given: dict[str, Any] = {"app": None, "queues": None, "processes": 1, "options": {}}
    lab.activate("0001")
    worker = lab.start("0001", "celery", **given).ready()
    send(lab, "0002", "for name in ('shop.old', 'shop.old', 'gone', 'lost'): app.send_task(name, (1,))")
    parked = {"shop.old": 2, "gone": 1, "lost": 1}
    until(lambda: asked(lab, "0001", celery("celery"))["celery"]["parked_names"] == parked)
    worker.stop()
    worker.wait()
    after = asked(lab, "0002", celery("celery"), drop="gone")["celery"]
    assert after["parked_names"] == {"shop.old": 2, "lost": 1} and after["waiting"] == 0
    after = asked(lab, "0002", celery("celery"), give_back=True)["celery"]
    counts = {"waiting": 2, "parked": 1, "unacknowledged": 0, "abandoned": 0}
    assert after == {**counts, "names": {"shop.old": 2}, "parked_names": {"lost": 1}}


def test_tasks_that_a_worker_has_taken_are_counted_and_those_of_one_that_is_gone(lab):
    lab.make("0001", {"project/celery.py": APP})
    given: dict[str, Any] = {"app": None, "queues": ["celery", "mail"], "processes": 1, "options": {}}
    lab.activate("0001")
    worker = lab.start("0001", "celery", **given).ready()
    send(lab, "0001", "for _number in range(3): app.send_task('shop.old', (1,), countdown=600, queue='mail')")
    until(lambda: lab.redis("HLEN", "unacked") == "3")
    queues = celery("celery", "mail")
    counts = {"waiting": 0, "parked": 0, "unacknowledged": 3, "abandoned": 0}
    none = {**counts, "unacknowledged": 0}
    assert asked(lab, "0001", queues, names=False) == {"celery": none, "mail": counts}
    worker.kill()
    until(lambda: asked(lab, "0001", queues, names=False)["mail"] == {**counts, "abandoned": 3})


def test_jobs_of_rq_and_tasks_of_huey_are_counted_by_name(lab):
    settings = f"{SETTINGS}\nimport os\nHUEY = {{'name': 'shop', 'url': os.environ['REDIS_URL'], 'immediate': False}}"
    lab.make(
        "0001",
        {
            "project/settings.py": settings,
            "shop/jobs.py": "def old(number): pass",
            "shop/tasks.py": "from huey.contrib.djhuey import task\n\n@task()\ndef thumbnail(number): pass\n",
        },
    )
    code = """
    import os
    from redis import Redis
    from rq import Queue
    from shop import jobs, tasks
    queue = Queue("high", connection=Redis.from_url(os.environ["REDIS_URL"]))
    for number in range(3):
        queue.enqueue(jobs.old, number)
    tasks.thumbnail(1)
    """
    lab.shell("0001", code)
    found = asked(
        lab, "0001", {"kind": "rq", "queues": ["high", "low"], "app": None}, {"kind": "huey", "app": None, "queues": []}
    )
    assert found == {
        "high": {"waiting": 3, "failed": 0, "names": {"shop.jobs.old": 3}},
        "low": {"waiting": 0, "failed": 0, "names": {}},
        "shop": {"waiting": 1, "scheduled": 0, "names": {"thumbnail": 1}},
    }


FACTS = """
import django, json
django.setup()
import django_formula_celery_app as apps
print(json.dumps(apps.facts("", ["project.settings", "project.wsgi"])))
"""


def facts(lab: Lab, app: str, **variables: str) -> dict[str, Any]:
    lab.make("0001", {"project/celery.py": app})
    config = str(lab.release("0001") / "config")
    return dict(json.loads(lab.shell("0001", FACTS, PYTHONPATH=config, **variables)))


def test_app_is_reported_with_its_tasks_and_limits(lab):
    entry = {"task": "shop.gone", "schedule": 60.0}
    settings = f"app.conf.beat_schedule = {{'nightly': {entry}}}\napp.conf.task_acks_late = True"
    found = facts(lab, f"{APP}\n{settings}")
    assert found.pop("broker").startswith("redis+socket://")
    assert found == {
        "uses_variable": True,
        "no_results": "",
        "place": "project/celery.py:4",
        "queues": ["celery"],
        "tasks": ["shop.old"],
        "schedule": {"nightly": "shop.gone"},
        "visibility_timeout": 3600,
        "time_limit": None,
        "acks_late": True,
        "rejects_lost": False,
        "waits_when_idle": False,
    }


@pytest.mark.parametrize(
    ("setting", "variable", "uses"),
    [
        ("broker_write_url = 'redis://:hunter2@elsewhere/1'", "redis://localhost", False),
        full("broker_read_url = 'redis://:hunter2@elsewhere/1'", "redis://localhost", False),
        full("broker_write_url = 'redis://:hunter2@elsewhere/1'", "redis://:hunter2@elsewhere/1", True),
        ("broker_url = 'redis://:hunter2@elsewhere/1'", "redis://localhost", True),
        full("broker_url = 'redis://:hunter2@elsewhere/1'", "", True),
    ],
)
def test_broker_that_is_not_that_of_the_environment_is_reported_without_its_password(lab, setting, variable, uses):
    found = facts(lab, f"{APP}\napp.conf.{setting}", CELERY_BROKER_URL=variable)
    assert found["uses_variable"] is uses and "hunter2" not in str(found) and found["place"] == "project/celery.py:4"


@pytest.mark.parametrize(
    ("url", "reported"),
    [
        ("redis://:hunter2@nowhere.invalid:6379/1", "nowhere.invalid:6379: Name or service not known"),
        full("redis://127.0.0.1:9/1", "127.0.0.1:9: Connection refused"),
        full("redis+socket:///nowhere/socket", "/nowhere/socket: No such file or directory"),
        ("redis+socket://{socket}", ""),
        full("db+sqlite:///results.sqlite", ""),
        full("", ""),
    ],
)
def test_server_of_results_that_does_not_answer_is_reported(lab, url, reported):
    backend = url.replace("{socket}", str(lab.socket))
    assert facts(lab, f"{APP}\napp.conf.result_backend = {backend!r}")["no_results"] == reported


IN_APPS = """
from django.apps import AppConfig
import shop.background

class Shop(AppConfig):
    name = "shop"
"""


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"project/celery_app.py": APP}, ""),
        full({"shop/background.py": APP}, "shop.background"),
        ({"shop/background.py": APP.replace("app", "other")}, "shop.background:other"),
        ({"shop/background.py": APP, "shop/apps.py": IN_APPS}, ""),
    ],
)
def test_app_is_found_where_projects_have_it(lab, files, named):
    lab.make("0001", files)
    config = str(lab.release("0001") / "config")
    code = FACTS.replace('apps.facts(""', f"apps.facts({named!r}")
    assert json.loads(lab.shell("0001", code, PYTHONPATH=config))["tasks"] == ["shop.old"]
