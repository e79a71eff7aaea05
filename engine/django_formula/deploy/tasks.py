"""What the Celery app of a new release is refused for or warned of: its broker, its limits, tasks that wait."""

from collections.abc import Iterator, Mapping
from typing import Any

from django_formula.deploy.deployment import Deployment
from django_formula.host.commands import DeploymentError, seconds
from django_formula.project import queue as project_queue
from django_formula.release.releases import Release
from django_formula.site.sites import Site
from django_formula.worker import workers

#: Names of tasks that a warning has.
_SHOWN = 3


def judge(deployment: Deployment, release: Release, apps: Mapping[str, Mapping[str, Any]]) -> None:
    """Warn of what the workers of a new release would lose.

    Args:
        apps: what the start of the project reported of the Celery app of each worker.

    Raises:
        DeploymentError: the app uses another broker than the site.
    """
    site = deployment.site
    apps = {name: app for name, app in apps.items() if name in workers.of_celery(site)}  # the project answers
    for name, app in apps.items():
        _refuse_other_broker(site, name, app)
    deployment.warn(dict.fromkeys(text for name, app in apps.items() for text in _warnings(site, name, app)))
    if deployment.live and apps:
        deployment.warn(_vanished(deployment, deployment.live, release))


def _refuse_other_broker(site: Site, name: str, app: Mapping[str, Any]) -> None:
    if not app["uses_variable"]:
        raise DeploymentError(
            f"the Celery app of worker {name} uses the broker {app['broker']} "
            f"instead of CELERY_BROKER_URL ({app['place'] or 'its place was not found'})",
            hint="remove broker_read_url and broker_write_url from its settings, since they override the variable; "
            f"or remove the variable: {site.at}:environment, {site.at}:queue",
        )


def _warnings(site: Site, name: str, app: Mapping[str, Any]) -> Iterator[str]:
    """Yield settings of Celery by which tasks are lost or run twice."""
    worker = site.config["workers"][name]
    if worker["kind"] == "celery_beat":
        unknown = {entry: task for entry, task in app["schedule"].items() if not _is_known(task, app)}
        for entry, task in sorted(unknown.items()):
            yield f"Celery beat: the entry {entry} sends {task}, and no task of the release has this name"
        return
    if app.get("no_results"):
        yield (
            f"worker {name}: results of tasks are lost, since their server does not answer ({app['no_results']}): "
            f"{site.at}:environment: {{CELERY_RESULT_BACKEND: {{from: celery_broker_url}}}}"
        )
    patience = seconds(worker["patience"])
    if app["acks_late"] and not app["rejects_lost"]:
        yield (
            f"worker {name}: task_acks_late without task_reject_on_worker_lost: "
            "a task is lost when the process that runs it is killed, for example where memory is short"
        )
    timeout = app["visibility_timeout"]
    if app["acks_late"] and timeout is not None and timeout <= patience:
        yield (
            f"worker {name}: a task that takes longer than visibility_timeout ({timeout:g} s) is run twice; "
            f"patience is {worker['patience']}"
        )
    if app["time_limit"] is not None and app["time_limit"] > patience:
        yield (
            f"worker {name}: task_time_limit is {app['time_limit']:g} s, and after patience ({worker['patience']}) "
            "a release's tasks are killed"
        )
    if app["waits_when_idle"]:
        yield (
            f"worker {name}: worker_enable_soft_shutdown_on_idle lets an idle worker wait for "
            "worker_soft_shutdown_timeout when it is stopped"
        )


def _is_known(task: str, app: Mapping[str, Any]) -> bool:
    return task in app["tasks"] or task.startswith("celery.")


def _vanished(deployment: Deployment, live: Release, release: Release) -> Iterator[str]:
    """Yield the names of tasks that the active release has and the new one does not, where tasks of these wait."""
    before, after = (tasks_of(one.facts) for one in (live, release))
    if not before - after:
        return
    try:
        found = project_queue.read(
            deployment.site, release.path, release.facts, deployment.secrets.masked(), names=True
        )
    except DeploymentError as error:
        yield f"whether tasks wait that {release.name} does not know was not found out: {error.message}"
        return
    waiting: dict[str, int] = {}
    for queue in found.values():
        for task, count in (queue.get("names") or {}).items():
            waiting[task] = waiting.get(task, 0) + count
    for task in sorted((before - after) & waiting.keys())[:_SHOWN]:
        yield (
            f"{waiting[task]} tasks of {task} wait, which {release.name} does not have: "
            f"they are parked (salt-call django.queue {deployment.site.name})"
        )


def tasks_of(facts: Mapping[str, Any]) -> set[str]:
    """Return the names of the tasks that the workers of a release know."""
    return {task for app in facts.get("celery", {}).values() for task in app["tasks"]}
