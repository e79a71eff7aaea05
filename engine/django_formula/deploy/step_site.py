"""The steps `site`, `store` and `schedules`: what a site has on the host outside of its releases."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django_formula.backup import backups
from django_formula.container import registry
from django_formula.deploy.deployment import Changes, Deployment
from django_formula.host import file, users
from django_formula.host import folders as host_folders
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.offsite import rebuild
from django_formula.proxy import listener, ports, site_files, waiting
from django_formula.push import static_files
from django_formula.release import claim, workers
from django_formula.release import releases as release_releases
from django_formula.request import entrance, hook_unit, push_setup
from django_formula.schedule import schedules as schedule_schedules
from django_formula.schedule import timer
from django_formula.schedule.timer import Task
from django_formula.secret import secrets
from django_formula.site import mount, sites
from django_formula.site.sites import Site
from django_formula.source import mirror
from django_formula.store import served, service, setup, stores
from django_formula.store.contract import OwnServer
from django_formula.tls import (
    certificates,
    renewal,  # noqa: F401 - schedule.timer packs its program from the modules that are loaded
)
from django_formula.untrusted.text import in_command


@dataclass
class _Pending:
    """What the step has to change on the host.

    Attributes:
        changes: for people; empty where there is nothing to do.
        applied: the content of ``site.json``.
        folders: those that are missing or have another owner or mode.
        templates: those that differ from the site's copies.
        tasks: whose timers differ.
        leftovers: databases and files of an interrupted restore.
    """

    changes: Changes
    applied: dict[str, Any]
    folders: list[Folder]
    templates: list[str]
    tasks: list[Task]
    leftovers: list[str]


def site(deployment: Deployment) -> Iterator[Changes]:
    """Have the site's folders, its registration, its configuration as applied, and the mirror with its keys."""
    over = deployment.site.config.get("fleet", {}).pop("over", "")  # no configuration: it changes by each deployment
    if over and not deployment.test:
        claim.end(deployment.site, over)
    former, takeover = deployment.findings.takeover, deployment.find_takeover()
    _refuse_impossible(deployment)
    if takeover:
        takeover.check_data()
    pending = _look(deployment)
    if takeover and (not former or former.plan != takeover.plan):
        pending.changes["adopted"] = takeover.as_state_changes()
    if pending.changes:
        yield pending.changes
        _apply(deployment, pending)
    deployment.begin_to_resolve()


def _refuse_impossible(deployment: Deployment) -> None:
    site, listening = deployment.site, deployment.listening
    refuse_closed_parents(site)
    _refuse_writable_parents(site)
    proxy, listens = site.config["proxy"], [*site.config["proxy"]["listen"], *site.listens_tls]
    ports.refuse_foreign_addresses(site)
    ports.refuse_taken_ports(site.name, proxy["kind"], listens, listening, deployment.coming)
    if not deployment.findings.takeover:  # whose files have these names as long as it serves
        site_files.refuse_in_the_way(site)
    listener.refuse_impossible(site, listening)
    certificates.refuse_bad_files(site, deployment.secrets.tls, deployment.templates)
    schedule_schedules.refuse_impossible(site)


def refuse_closed_parents(site: Site) -> None:
    """Check that the proxy can traverse the folders above the site's root.

    Raises:
        DeploymentError: it cannot.
    """
    user, group = site.platform["nginx"]["user"], users.group_id(site.proxy_group)
    for parent in reversed(site.root.parents):
        try:
            status = os.stat(parent)
        except FileNotFoundError:
            return
        if not users.may(users.ENTER, parent, user, [group]):
            mode = f"{users.owner_of(status)} {status.st_mode & 0o7777:04o}"
            raise DeploymentError(
                f"{site.proxy_group} cannot traverse {parent} ({mode}), which is above {site.root}",
                hint=f"{in_command('chmod', 'o+x', str(parent))}, or set {site.at}:root to another folder",
            )


def _refuse_writable_parents(site: Site) -> None:
    """Check that only root can rename folders above the site's: another user could replace them by a link."""
    at = site.at
    host_folders.refuse_unsafe_parents(site.root, f"{at}:root")
    if not site.backups.is_relative_to(site.root):
        host_folders.refuse_unsafe_parents(site.backups, f"{at}:backup:directory")


def _look(deployment: Deployment) -> _Pending:
    site, templates = deployment.site, deployment.templates
    folders = deployment.findings.takeover.folders() if deployment.findings.takeover else site.folders()
    if sites.is_media_shared(site):  # root may have no rights on its mount
        folders = [folder for folder in folders if folder.path != site.media.top]
    wrong = {folder: problem for folder in folders if (problem := host_folders.problem(folder))}
    applied = file.with_checksum({"config": dict(site.config), "platform": dict(site.platform)})
    stale = site.stale_templates(templates)
    schedules = {task: timer.stale(site, templates, task) for task in timer.TASKS}
    leftovers = backups.leftovers(site)
    changes: Changes = {str(folder.path): problem for folder, problem in wrong.items()}
    changes |= mount.pending_changes(site)
    if file.read_json(site.applied) != applied:
        changes[str(site.applied)] = "new" if not site.applied.exists() else "changed"
    if stale:
        changes["templates"] = stale
    if not site.is_registered():
        changes["registered"] = str(site.root)
    if keys := mirror.unprepared(site, deployment.secrets.deploy_key):
        changes["mirror"] = keys
    changes |= deployment.secrets.unkept() | (rebuild.pending(site) if "offsite" in site.config["backup"] else {})
    if os.path.lexists(static_files.keys(site)) and not deployment.lock.holder():
        changes[str(static_files.keys(site))] = "removed: a push was interrupted"
    changes |= {str(path): "kept" for path in _untrusted(deployment)} | served.gone(site)
    if _lacks_store_password(site):
        changes[str(secrets.store_password_file(site))] = "new"
    if schedule := {path: change for found in schedules.values() for path, change in found.items()}:
        changes["schedule"] = schedule
    if dropped := schedule_schedules.dropped(site):
        changes["schedules"] = dropped
    changes |= _of_requests(deployment)
    if leftovers:
        changes["removed"] = f"leftovers of an interrupted restore: {', '.join(leftovers)}"
    tasks = [task for task, found in schedules.items() if found]
    return _Pending(changes, applied, [*wrong], stale, tasks, leftovers)


def _of_requests(deployment: Deployment) -> Changes:
    """Return what differs of the socket of requests, of the webhook that asks there, and of the relay of visitors."""
    site = deployment.site
    found = {
        "requests": entrance.pending(site, deployment.salt_call) | push_setup.pending(site),
        "webhook": hook_unit.pending(site, deployment.secrets.hook_secret),
        "waiting": waiting.pending(site),
    }
    return {name: changes for name, changes in found.items() if changes}


def _untrusted(deployment: Deployment) -> dict[Path, str]:
    """Return the certificates that the site's processes have to trust, and that are not in their files yet."""
    files = {deployment.site.trusted / f"{host}.pem": text for host, text in deployment.secrets.trusted.items()}
    return {path: text for path, text in files.items() if file.read_text(path) != text}


def _lacks_store_password(site: Site) -> bool:
    has_redis = any(kind.KIND == "redis" for kind, _server in stores.own_servers(site))
    return has_redis and not secrets.store_password_file(site).exists()


def _apply(deployment: Deployment, pending: _Pending) -> None:
    site, templates = deployment.site, deployment.templates
    if str(static_files.keys(site)) in pending.changes:
        deployment.take_lock(look_again=True)
    if pending.leftovers:
        with backups.lock(site, "state.apply").held():
            backups.remove_leftovers(site)
    for folder in pending.folders:
        if folder.path == site.runtime:
            site.prepare_runtime(site.current)
        else:
            host_folders.make(folder)
    mount.apply(site)
    if deployment.findings.takeover:
        deployment.findings.takeover.write()
    if pending.templates:
        site.keep_templates(templates)
    mirror.prepare(site, deployment.secrets.deploy_key)
    deployment.secrets.keep()
    file.write_json(site.applied, pending.applied, mode=0o600)
    site.register()
    if "offsite" in site.config["backup"]:
        rebuild.prepare(site)
    registry.clear(site)
    for path, text in _untrusted(deployment).items():
        file.write(path, text)
    served.remove(site)
    if _lacks_store_password(site):
        password = secrets.store_password(site)
        file.write(secrets.store_password_file(site), password, mode=0o600)
    if "requests" in pending.changes:
        entrance.apply(site, deployment.salt_call)
        push_setup.apply(site)
    if "webhook" in pending.changes:
        hook_unit.apply(site, deployment.secrets.hook_secret)
    if "waiting" in pending.changes:
        waiting.apply(site)
    for task in pending.tasks:
        timer.apply(site, templates, task)
    schedule_schedules.drop(site)


# The step `store`: the servers of the site's own for its queue and caches

#: Seconds in which workers have to finish what they have taken, before the restart of a queue is put off.
_PATIENCE = 30.0
_PAUSE = 0.1


def store(deployment: Deployment) -> Iterator[Changes]:
    """Have the site's queue and caches in servers of its own; those that the pillar has no more are removed last."""
    servers = [*stores.own_servers(deployment.site)]
    if servers:
        service.try_sandbox(deployment.site)
    pending = setup.pending(servers, deployment.templates)
    if not pending:
        return
    yield {name: change for one in pending for name, change in one.changes().items()}
    deployment.take_lock()
    for found in pending:
        one, freed = setup.free(found)
        deployment.warn(filter(None, [freed, setup.apply(one)]))
        if one.restarts and one.server.name == "queue":
            _restart_queue(deployment, one.server)
        elif one.restarts:
            setup.restart(one.server)


def _restart_queue(deployment: Deployment, server: OwnServer) -> None:
    """Restart a queue while no worker takes tasks or has one in hand; otherwise warn, and leave it to a later apply.

    What a worker has taken when its connection ends is given to another one only after Celery's visibility timeout.
    """
    deployment.switch_lock.take()
    try:
        deadline = time.monotonic() + _PATIENCE
        while busy := _busy(deployment, server):
            if time.monotonic() > deadline:
                text = f"{server.unit} keeps running as it was started, until a later apply: {busy}, and a restart now"
                deployment.warn([f"{text} would delay them by Celery's visibility timeout"])
                return
            time.sleep(_PAUSE)
        setup.restart(server)
    finally:
        deployment.let_tasks_go()


def _busy(deployment: Deployment, server: OwnServer) -> str:
    """Return which tasks a restart of the queue would delay; empty where there is none."""
    site = deployment.site
    releases = [release.path for release in release_releases.releases(site)]
    running = [one for one in workers.finishing(site, releases) if one.state]
    names = [
        one.worker for one in running if one.state and (one.state.fetching or one.state.active or one.state.reserved)
    ]
    taken = setup.taken(server)
    found = [f"workers have tasks in hand ({', '.join(sorted(names))})"] if names else []
    return " and ".join([*found, *([f"{taken} messages are not acknowledged"] if taken else [])])


# The step `schedules`: the commands that run at times, once the release that has them is active


def schedules(deployment: Deployment) -> Iterator[Changes]:
    """Have the timers of the site's schedules, or their lines of cron; those that it lost the step `site` removed."""
    stale: Changes = {**schedule_schedules.stale(deployment.site, deployment.templates)}
    if stale:
        yield stale
        schedule_schedules.apply(deployment.site, deployment.templates)
