"""The step `site`: what a site has on the host outside of its releases."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import django_backup
import django_container_registry
import django_host_file
import django_host_folder
import django_host_user
import django_proxy_files
import django_proxy_listener
import django_proxy_ports
import django_push
import django_release_claim
import django_schedule
import django_secret
import django_site_media
import django_site_mount
import django_source_mirror
import django_store
import django_store_served
import django_timer
import django_tls
import django_tls_renewal  # noqa: F401 - django_timer packs its program from the modules that are loaded
import django_virtualenv_index
from django_deploy import Changes, Deployment
from django_host_command import DeploymentError
from django_host_folder import Folder
from django_site import Site
from django_timer import Task
from django_wall_text import in_command


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
        django_release_claim.end(deployment.site, over)
    former, takeover = deployment.takeover, deployment.find_takeover()
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
    django_proxy_ports.refuse_foreign_addresses(site)
    django_proxy_ports.refuse_taken_ports(site.name, proxy["kind"], listens, listening, deployment.coming)
    if not deployment.takeover:  # whose files have these names as long as it serves
        django_proxy_files.refuse_in_the_way(site)
    django_proxy_listener.refuse_impossible(site, listening)
    django_tls.refuse_bad_files(site, deployment.secrets.tls, deployment.templates)
    django_schedule.refuse_impossible(site)


def refuse_closed_parents(site: Site) -> None:
    """Check that the proxy can traverse the folders above the site's root.

    Raises:
        DeploymentError: it cannot.
    """
    group = django_host_user.group_id(site.proxy_group)
    for parent in reversed(site.root.parents):
        try:
            status = os.stat(parent)
        except FileNotFoundError:
            return
        if not status.st_mode & 0o001 and not (status.st_gid == group and status.st_mode & 0o010):
            mode = f"{django_host_user.owner_of(status)} {status.st_mode & 0o7777:04o}"
            raise DeploymentError(
                f"{site.proxy_group} cannot traverse {parent} ({mode}), which is above {site.root}",
                hint=f"{in_command('chmod', 'o+x', str(parent))}, or set django:sites:{site.name}:root to another "
                "folder",
            )


def _refuse_writable_parents(site: Site) -> None:
    """Check that only root can rename folders above the site's: another user could replace them by a link."""
    at = f"django:sites:{site.name}"
    django_host_folder.refuse_unsafe_parents(site.root, f"{at}:root")
    if not site.backups.is_relative_to(site.root):
        django_host_folder.refuse_unsafe_parents(site.backups, f"{at}:backup:directory")


def _look(deployment: Deployment) -> _Pending:
    site, templates = deployment.site, deployment.templates
    folders = deployment.takeover.folders() if deployment.takeover else site.folders()
    if django_site_media.is_shared(site):  # root may have no rights on its mount
        folders = [folder for folder in folders if folder.path != site.media.top]
    wrong = {folder: problem for folder in folders if (problem := django_host_folder.problem(folder))}
    applied = django_host_file.with_checksum({"config": dict(site.config), "platform": dict(site.platform)})
    stale = site.stale_templates(templates)
    schedules = {task: django_timer.stale(site, templates, task) for task in django_timer.TASKS}
    leftovers = django_backup.leftovers(site)
    changes: Changes = {str(folder.path): problem for folder, problem in wrong.items()}
    changes |= django_site_mount.look(site)
    if django_host_file.read_json(site.applied) != applied:
        changes[str(site.applied)] = "new" if not site.applied.exists() else "changed"
    if stale:
        changes["templates"] = stale
    if not site.is_registered():
        changes["registered"] = str(site.root)
    if keys := django_source_mirror.unprepared(site, deployment.secrets.deploy_key):
        changes["mirror"] = keys
    if not django_virtualenv_index.PASSWORD.is_kept(site, deployment.secrets.index_password):
        changes["index"] = "password kept" if deployment.secrets.index_password else "password removed"
    if not django_container_registry.PASSWORD.is_kept(site, deployment.secrets.registry_password):
        changes["registry"] = "password kept" if deployment.secrets.registry_password else "password removed"
    if not django_push.SECRET.is_kept(site, deployment.secrets.push_secret):
        changes["push"] = "secret kept" if deployment.secrets.push_secret else "secret removed"
    if os.path.lexists(django_push.keys(site)) and not deployment.lock.holder():
        changes[str(django_push.keys(site))] = "removed: a push was interrupted"
    changes |= {str(path): "kept" for path in _untrusted(deployment)} | django_store_served.gone(site)
    if _lacks_store_password(site):
        changes[str(django_secret.store_password_file(site))] = "new"
    if schedule := {path: change for found in schedules.values() for path, change in found.items()}:
        changes["schedule"] = schedule
    if dropped := django_schedule.dropped(site):
        changes["schedules"] = dropped
    if leftovers:
        changes["removed"] = f"leftovers of an interrupted restore: {', '.join(leftovers)}"
    tasks = [task for task, found in schedules.items() if found]
    return _Pending(changes, applied, [*wrong], stale, tasks, leftovers)


def _untrusted(deployment: Deployment) -> dict[Path, str]:
    """Return the certificates that the site's processes have to trust, and that are not in their files yet."""
    files = {deployment.site.trusted / f"{host}.pem": text for host, text in deployment.secrets.trusted.items()}
    return {path: text for path, text in files.items() if django_host_file.read_text(path) != text}


def _lacks_store_password(site: Site) -> bool:
    has_redis = any(kind.KIND == "redis" for kind, _server in django_store.own_servers(site))
    return has_redis and not django_secret.store_password_file(site).exists()


def _apply(deployment: Deployment, pending: _Pending) -> None:
    site, templates = deployment.site, deployment.templates
    if str(django_push.keys(site)) in pending.changes:
        deployment.take_lock(look_again=True)
    if pending.leftovers:
        with django_backup.lock(site, "state.apply").held():
            django_backup.remove_leftovers(site)
    for folder in pending.folders:
        if folder.path == site.runtime:
            site.prepare_runtime(site.current)
        else:
            django_host_folder.make(folder)
    django_site_mount.apply(site)
    if deployment.takeover:
        deployment.takeover.write()
    if pending.templates:
        site.keep_templates(templates)
    django_source_mirror.prepare(site, deployment.secrets.deploy_key)
    django_virtualenv_index.PASSWORD.keep(site, deployment.secrets.index_password)
    django_push.SECRET.keep(site, deployment.secrets.push_secret)
    django_container_registry.PASSWORD.keep(site, deployment.secrets.registry_password)
    django_container_registry.clear(site)
    for path, text in _untrusted(deployment).items():
        django_host_file.write(path, text)
    django_store_served.remove(site)
    if _lacks_store_password(site):
        password = django_secret.store_password(site)
        django_host_file.write(django_secret.store_password_file(site), password, mode=0o600)
    django_host_file.write_json(site.applied, pending.applied, mode=0o600)
    site.register()
    for task in pending.tasks:
        django_timer.apply(site, templates, task)
    django_schedule.drop(site)
