"""What the Celery app of a new release is refused for, and warned of."""

from types import SimpleNamespace
from typing import Any

import pytest
from django_formula.deploy import coherence
from django_formula.host.commands import DeploymentError
from django_formula.project import queue as project_queue
from django_formula.verbs import terminal
from django_formula.verbs import workers as verbs_workers
from specimen import configured

APP: dict[str, Any] = {
    "broker": "redis+socket:///run/x",
    "place": "shop/celery.py:7",
    "uses_variable": True,
    "no_results": "",
    "queues": ["celery"],
    "tasks": ["shop.tasks.a", "shop.tasks.b"],
    "schedule": {"nightly": "shop.tasks.a", "cleanup": "celery.backend_cleanup"},
    "visibility_timeout": 3600.0,
    "time_limit": None,
    "acks_late": False,
    "rejects_lost": False,
    "waits_when_idle": False,
}
WORKERS = {"default": {"kind": "celery", "patience": "10m"}, "beat": {"kind": "celery_beat"}}


def judged(live: Any = None, workers: Any = None, **app: Any) -> list[str]:
    """What a release with such an app is warned of."""
    told: list[str] = []
    site = configured(workers=workers or WORKERS)
    deployment = SimpleNamespace(site=site, live=live, warn=told.extend, secrets=SimpleNamespace(masked=list))
    release = SimpleNamespace(name="0042-x", path=None, facts={"celery": {"default": {**APP, **app}}})
    apps = {name: {**APP, **app} for name in workers or WORKERS}
    coherence.judge_celery(deployment, release, apps)  # type: ignore[arg-type]
    return told


def test_app_with_the_site_s_broker_and_usual_settings_has_no_warning():
    assert judged() == []
    assert judged(acks_late=True, rejects_lost=True) == []


def test_app_of_a_worker_that_the_pillar_does_not_have_is_ignored():
    told: list[str] = []
    deployment = SimpleNamespace(site=configured(workers=WORKERS), live=None, warn=told.extend)
    coherence.judge_celery(deployment, SimpleNamespace(), {"forged": {**APP, "acks_late": True}})  # type: ignore[arg-type]
    assert told == []


def test_app_with_another_broker_than_the_variable_names_is_refused():
    with pytest.raises(DeploymentError) as refused:
        judged(uses_variable=False, broker="redis://elsewhere:6379/1")
    assert refused.value.message == (
        "the Celery app of worker default uses the broker redis://elsewhere:6379/1 instead of CELERY_BROKER_URL "
        "(shop/celery.py:7)"
    )
    assert "broker_write_url" in refused.value.hint


@pytest.mark.parametrize(
    ("app", "warning"),
    [
        ({"acks_late": True}, "worker default: task_acks_late without task_reject_on_worker_lost: a task is lost"),
        (
            {"acks_late": True, "rejects_lost": True, "visibility_timeout": 600.0},
            "worker default: a task that takes longer than visibility_timeout (600 s) is run twice; patience is 10m",
        ),
        (
            {"no_results": "redis:6379: Name or service not known"},
            "worker default: results of tasks are lost, since their server does not answer (redis:6379: Name or "
            "service not known): django:sites:blog:environment: {CELERY_RESULT_BACKEND: {from: celery_broker_url}}",
        ),
        ({"time_limit": 3600.0}, "worker default: task_time_limit is 3600 s, and after patience (10m)"),
        ({"waits_when_idle": True}, "worker default: worker_enable_soft_shutdown_on_idle lets an idle worker wait"),
        (
            {"schedule": {"nightly": "shop.tasks.gone"}},
            "Celery beat: the entry nightly sends shop.tasks.gone, and no task of the release has this name",
        ),
    ],
)
def test_settings_by_which_tasks_are_lost_or_run_twice_are_warned_of(app, warning):
    told = judged(**app)
    assert len(told) == 1 and told[0].startswith(warning)


def test_names_that_vanish_while_tasks_wait_are_warned_of(monkeypatch):
    live = SimpleNamespace(facts={"celery": {"default": {**APP, "tasks": ["shop.tasks.a", "shop.tasks.old", "gone"]}}})
    waiting = {"celery": {"waiting": 5, "names": {"shop.tasks.old": 3, "shop.tasks.a": 2}, "parked": 0}}
    monkeypatch.setattr(project_queue, "read", lambda *_arguments, **_options: waiting)
    assert judged(live) == [
        "3 tasks of shop.tasks.old wait, which 0042-x does not have: they are parked (salt-call django.queue blog)"
    ]


def test_queue_that_cannot_be_read_stops_no_release(monkeypatch):
    def raises(*_arguments: Any, **_options: Any) -> None:
        raise DeploymentError("reading the queues: no Redis")

    live = SimpleNamespace(facts={"celery": {"default": {**APP, "tasks": ["gone"]}}})
    monkeypatch.setattr(project_queue, "read", raises)
    told = judged(live)
    assert told == ["whether tasks wait that 0042-x does not know was not found out: reading the queues: no Redis"]


def test_queues_are_shown_with_their_names(monkeypatch):
    found = {
        "mail": {"waiting": 0, "parked": 0},
        "default": {"waiting": 3, "parked": 1, "names": {"b": 1, "a\x1b[1m": 2}, "parked_names": {"old": 1}},
        "reports": {"waiting": 0, "unacknowledged": 7, "abandoned": 5, "parked": 0},
    }
    monkeypatch.setattr(project_queue, "read", lambda *_arguments, **_options: found)
    live: Any = SimpleNamespace(path=None, facts={})
    rows = verbs_workers.queue_rows(configured(workers=WORKERS), live, names=True, give_back=False, drop="")
    assert [row["queue"] for row in rows] == ["default", "mail", "reports"] and rows[0]["names"] == {"a[1m": 2, "b": 1}
    assert terminal.queue(rows) == [
        "default  3 waiting, 1 parked\n    names: 2 a[1m, 1 b | parked: 1 old",
        "mail     0 waiting, 0 parked",
        "reports  0 waiting, 7 unacknowledged, 5 abandoned, 0 parked",
    ]


def test_queue_of_a_site_without_such_workers_is_refused():
    site = configured(workers={"feed": {"kind": "command", "command": "manage.py feed"}})
    with pytest.raises(DeploymentError, match="no worker of blog takes tasks from a queue on this host") as refused:
        verbs_workers.queue_rows(site, None, names=False, give_back=False, drop="")  # type: ignore[arg-type]
    assert refused.value.hint == "set django:sites:blog:workers"
    hosts = {"web1": {"parts": ["app"]}, "jobs1": {"parts": ["worker"]}}
    site.config = {**site.config, "workers": None, "fleet": {"host": "web1", "parts": ["app"], "hosts": hosts}}
    with pytest.raises(DeploymentError) as refused:
        verbs_workers.queue_rows(site, None, names=False, give_back=False, drop="")  # type: ignore[arg-type]
    assert refused.value.hint == "the workers of blog run on jobs1: give the command there"
    site = configured(workers={"jobs": {"kind": "rq"}})
    with pytest.raises(DeploymentError, match="only tasks of Celery are parked"):
        verbs_workers.queue_rows(site, None, names=False, give_back=True, drop="")  # type: ignore[arg-type]
