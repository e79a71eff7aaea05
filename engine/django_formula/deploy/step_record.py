"""The step `record`: what is written down of a deployment."""

from collections.abc import Iterator

from django_formula.deploy import commands as deploy_commands
from django_formula.deploy import step_static
from django_formula.deploy.deployment import Changes, Deployment
from django_formula.host import clock
from django_formula.host.commands import DeploymentError, redact
from django_formula.release import releases, workers
from django_formula.release.releases import Release
from django_formula.store import setup
from django_formula.virtualenv import kept as virtualenv_kept


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
        yield {"release": release.name, **deploy_commands.changes(deployment, "after_switch"), **removed}
        step_static.prune_pushed(deployment)
        report = {"receipt": deployment.findings.switch_report} if deployment.findings.switch_report else {}
        release.update(steps=deployment.seconds, warnings=deployment.warnings, **report)
        deployment.secrets.expired_keys(release, test=deployment.test)
        try:
            deploy_commands.run_stage(deployment, "after_switch")
        except DeploymentError as error:
            release.update(step="record", error=redact(str(error), deployment.secrets.masked()))
            raise
        deployment.write_attempt(deployment.result())
    elif removed or kept:
        yield {**removed, **kept}
        if removed:
            deployment.take_lock()
    elif (
        release
        and deployment.findings.is_resolved
        and not deployment.findings.is_proving
        and not deployment.test
        and releases.failed_attempts(deployment.site)
    ):
        deployment.write_attempt("unchanged")  # the failures before are over: the active release is the one to have
    if kept or (deployment.is_activated and virtualenv_kept.changes()):
        virtualenv_kept.apply()
    setup.remove_parts(deployment.site, stores)
    deployment.lock.release()


def _kept(deployment: Deployment) -> Changes:
    """Return what apt has to be told of interpreters where no release was made."""
    release = deployment.release
    changes = virtualenv_kept.not_kept(release.path / "virtualenv") if release else {}
    return {"interpreters": changes} if changes else {}


def _unused_stores(deployment: Deployment, release: Release) -> list[str]:
    """Return the stores to remove now; a later apply removes those that tasks of older releases use, or wait in."""
    site = deployment.site
    stores = setup.unused(site, release.path)
    older = [one.path for one in releases.releases(site) if one.name != release.name]
    if not stores or any(one.state and one.state.active for one in workers.finishing(site, older)):
        return []
    try:
        setup.refuse_lost_tasks(site)
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
    attempt = {"time": clock.now(), "release": release.name, "result": "released", **about}
    releases.append_attempt(deployment.site, attempt)
    release.update(steps={})
