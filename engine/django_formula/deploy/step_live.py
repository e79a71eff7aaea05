"""The step `live`: the switch to the new release, and the end of the old one."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from django_formula.database import setup
from django_formula.deploy import migration, proof_begin, switch
from django_formula.deploy.deployment import Changes, Deployment
from django_formula.host.commands import DeploymentError, redact
from django_formula.proof import state
from django_formula.proxy import maintenance
from django_formula.proxy import switch as proxy_switch
from django_formula.release import claim, disk, instances
from django_formula.release import workers as release_workers
from django_formula.release.releases import Release
from django_formula.source import mirror


def live(deployment: Deployment) -> Iterator[Changes]:
    """Switch to the release by one rename; watch it while the old one is drained; stop that and prune.

    Where the new release fails meanwhile, the old one is activated again: see `deploy.switch.watch`. While a
    deployment on several hosts has claimed the site every instance stays, until all hosts have switched.
    """
    site, release, old = deployment.site, deployment.release, deployment.live
    if not release:
        return
    if proof_begin.is_wanted(site) and _begins_proof(deployment, release):
        assert old  # noqa: S101 - the active release, next to which it runs
        yield {"canary": proof_begin.outlook(site)}
        deployment.take_lock()
        proof_begin.begin(deployment, release, old)
        return
    proves = state.current(site) is not None and not deployment.is_proved  # by another process, which ends it
    keeps = claim.current(site) is not None or deployment.keeps_old or proves
    strays = [] if keeps else instances.strays(site, release.path)
    switches = not old or old.name != release.name
    reopens = migration.is_in_maintenance(site) and not migration.is_in_maintenance(site, release)
    unread = proxy_switch.unread()
    if not (switches or strays or deployment.findings.takeover or reopens or unread):
        return
    changes: Changes = {"live": {"old": old.name if old else None, "new": release.name}} if switches else {}
    workers = instances.units(site, old.path)[1:] if old and switches else []
    if workers:
        changes["stops"] = ", ".join(workers)
    if reopens:
        changes["maintenance"] = "off"
    if strays and not switches:
        changes["stopped"] = [path.name for path in strays]
    if unread:
        changes["reloaded"] = [proxy.DAEMON.service for proxy in unread]
    if deployment.findings.takeover:
        changes["adopted"] = deployment.findings.takeover.as_state_changes()
    yield changes
    deployment.take_lock()
    if unread and (problems := proxy_switch.catch_up()):
        deployment.warn(problems)
        strays = []  # the proxy may still lead to one
        changes.pop("stopped", None)
        changes.pop("reloaded")
    leaving = {*strays, *([old.path] if old and switches and not keeps else [])}
    connections = _switch(deployment, release, leaving, switches=switches)
    if switches and deployment.findings.switch_report:
        changes["receipt"] = deployment.findings.switch_report
    if reopens:
        migration.end_maintenance(site)
    elif switches and old:  # the first one may have been made of a copy, whose data is still to be restored
        maintenance.release_workers(site)
    stuck = [] if keeps else _stop_and_prune(deployment, connections, has_strays=bool(strays))
    if switches:
        deployment.warn(_failed_workers(deployment, release))
    if switches and old and setup.has_new_password(site, old.record, release.record):
        changes |= _revoke_passwords(deployment, release)
    deployment.warn(stuck)


def _begins_proof(deployment: Deployment, release: Release) -> bool:
    """Return whether a new release gets a share of the visitors first; with a warning where it cannot."""
    old = deployment.live
    if not (deployment.is_new and old and old.name != release.name) or deployment.is_proved:
        return False
    text = f"{release.name} gets all visitors at once, without a canary"
    if not proof_begin.begins(deployment.site):
        is_alone = not deployment.fleet and not deployment.site.has_common_release
        deployment.warn([f"{text}: its hosts have no master, which begins one on all of them"] if is_alone else [])
        return False
    why = proof_begin.why_not(deployment, release, old)
    deployment.warn([f"{text}: {why}"] if why else [])
    return not why


def _switch(deployment: Deployment, release: Release, leaving: set[Path], *, switches: bool) -> dict[Path, int]:
    """Activate the release and drain the instances that are left; return the connections still open at each."""
    site = deployment.site
    former = site.previous.readlink() if site.previous.is_symlink() else None
    if deployment.findings.takeover:
        switch.take_over(deployment, release, deployment.findings.takeover, switches=switches)
    elif switches:
        switch.activate(deployment, release)
    if switches:
        return switch.watch(deployment, release, leaving, former)
    return {path: instances.drain(site, path) for path in leaving}


def _stop_and_prune(deployment: Deployment, connections: dict[Path, int], *, has_strays: bool) -> list[str]:
    """Stop the instances that are left, and delete old releases; return what could not be deleted."""
    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(switch.stop, deployment, connections)
        if has_strays:  # they may belong to a release that is deleted then
            wait([stopped])
        stuck = disk.prune(deployment.site)
        mirror.pack(deployment.site)
        stopped.result()
    return stuck


def _failed_workers(deployment: Deployment, release: Release) -> list[str]:
    """Return a warning for each worker whose command, which is started only after the switch, has failed."""
    site, texts = deployment.site, []
    manager = instances.process_manager(site, release.path)
    for name in release_workers.failed_after_switch(site, release.path):
        lines = manager.journal(site, release.path, deployment.began, name).strip().splitlines()
        why = f": {redact(lines[-1], deployment.secrets.masked())}" if lines else ""
        where = f"django.logs {site.name} worker={name}"
        texts.append(f"the command of the worker {name} failed, and is started again and again{why} ({where})")
    return texts


def _revoke_passwords(deployment: Deployment, release: Release) -> Changes:
    """Let the database servers of this host accept the new passwords only; where that fails, the next apply does."""
    databases = setup.databases(deployment.site, deployment.secrets.by_name, release.record["inputs"])
    try:
        return setup.as_state_changes(setup.apply(databases, deployment.servers))
    except DeploymentError as error:
        deployment.warn([f"the former database password is still valid: {error.message}; apply again"])
        return {}
