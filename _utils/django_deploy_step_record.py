"""The step `record`: what is written down of a deployment."""

from collections.abc import Iterator

import django_deploy_commands
import django_deploy_step_push
import django_host_clock
import django_release
import django_release_attempt
import django_release_workers
import django_store_setup
import django_virtualenv_kept
from django_deploy import Changes, Deployment
from django_host_command import DeploymentError, redact
from django_release import Release


def record(deployment: Deployment) -> Iterator[Changes]:
    """Run the commands that wait for the switch, record the deployment, and release the lock.

    A deployment that was killed after its release was activated is recorded too, and after failures that there was
    nothing to do.
    """
    release = deployment.release
    stores = _unused_stores(deployment, release) if release else []
    removed = {"stores": {f"django-{deployment.site.name}-{part}": "removed" for part in stores}} if stores else {}
    kept = {} if deployment.is_activated else _kept(deployment)
    if release and not deployment.is_activated and "steps" not in release.record:
        yield {"release": f"{release.name}, whose deployment was interrupted", **removed}
        deployment.take_lock()
        _record_interrupted(deployment, Release(deployment.site, release.name))
    if deployment.is_activated and release:
        yield {"release": release.name, **django_deploy_commands.changes(deployment, "after_switch"), **removed}
        django_deploy_step_push.prune(deployment)
        report = {"receipt": deployment.switch_report} if deployment.switch_report else {}
        release.update(steps=deployment.seconds, warnings=deployment.warnings, **report)
        deployment.secrets.expired_keys(release, test=deployment.test)
        try:
            django_deploy_commands.run(deployment, "after_switch")
        except DeploymentError as error:
            release.update(step="record", error=redact(str(error), deployment.secrets.masked()))
            raise
        deployment.write_attempt(deployment.result())
    elif removed or kept:
        yield {**removed, **kept}
        if removed:
            deployment.take_lock()
    elif (
        release and deployment.is_resolved and not deployment.test and django_release_attempt.failures(deployment.site)
    ):
        deployment.write_attempt("unchanged")  # the failures before are over: the active release is the one to have
    if kept or (deployment.is_activated and django_virtualenv_kept.changes()):
        django_virtualenv_kept.apply()
    django_store_setup.remove_parts(deployment.site, stores)
    deployment.lock.release()


def _kept(deployment: Deployment) -> Changes:
    """Return what apt has to be told of interpreters where no release was made."""
    release = deployment.release
    changes = django_virtualenv_kept.not_kept(release.path / "virtualenv") if release else {}
    return {"interpreters": changes} if changes else {}


def _unused_stores(deployment: Deployment, release: Release) -> list[str]:
    """Return the stores to remove now; a later apply removes those that tasks of older releases use, or wait in."""
    site = deployment.site
    stores = django_store_setup.unused(site, release.path)
    older = [one.path for one in django_release.releases(site) if one.name != release.name]
    if not stores or any(one.state and one.state.active for one in django_release_workers.finishing(site, older)):
        return []
    try:
        django_store_setup.refuse_lost_tasks(site)
    except DeploymentError as error:
        deployment.warn([f"the former queue of {site.name} is not removed: {error.message}; {error.hint}"])
        stores = [part for part in stores if part != "queue"]
    return stores


def _record_interrupted(deployment: Deployment, release: Release) -> None:
    """Record a release whose deployment was killed after the switch, unless that has recorded it itself."""
    if "steps" in release.record:
        return
    commands = deployment.site.config["commands"]["after_switch"]
    if commands:
        text = f"the deployment of {release.name} was interrupted"
        deployment.warn([f"{text}: these commands may not have run: {', '.join(commands)}"])
    about = {key: release.record.get(key) or "" for key in ("commit", "asked_by")}
    attempt = {"time": django_host_clock.now(), "release": release.name, "result": "released", **about}
    django_release_attempt.append(deployment.site, attempt)
    release.update(steps={})
