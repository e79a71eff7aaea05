"""Remove a site from the host, in the reverse order of its creation; its data only if the pillar requests it."""

import contextlib
import os
import time
from pathlib import Path

import django_container_image
import django_database_setup
import django_host_file
import django_host_mount
import django_host_proc
import django_process_build
import django_process_systemd
import django_proxy_files
import django_proxy_listener
import django_proxy_switch
import django_release
import django_release_claim
import django_release_instance
import django_schedule
import django_site
import django_site_mount
import django_store_contract
import django_store_served
import django_store_service
import django_store_setup
import django_takeover
import django_timer
import django_tls
import django_virtualenv_kept
import django_virtualenv_managed
import django_worker
from django_host_command import DeploymentError
from django_site import Site

#: Seconds after which every balancer has seen that a host does not serve the common commit: HAProxy's second check, or
#: the one of nginx's timer, and its reload.
_SEEN = 8.0


def data(site: Site) -> list[Path]:
    """Return the data that stays when a site is removed: databases, media, secrets, backups, logs, records.

    Files of an existing deployment that has not been taken over yet do not belong to the site, nor do those on a mount.
    """
    takeover = django_takeover.load(site)
    not_ours = takeover.plan["kept"] if takeover and takeover.plan["phase"] == "waiting" else []
    own = [tree.top for tree in (site.database, site.media, site.shared, site.log)]
    own += [django_store_contract.folder(site), site.secrets, site.backups, site.deploys, site.applied, site.schedules]
    own += [site.root / "backups"] if site.backups != site.root / "backups" else []
    return [path for path in own if str(path) not in not_ours and not django_site_mount.is_foreign(site, path)]


def present(site: Site) -> dict[str, str]:
    """Return what removing the site would remove, by path."""
    own = [
        *_paths(site),
        site.lock_file,
        *_proxy_files(site),
        *_process_manager_files(site),
        *django_proxy_listener.present(site),
        *(path for paths in django_store_service.files_on_host(site).values() for path in paths),
        *(path for task in django_timer.TASKS for path in django_timer.present(site, task)),
        *django_schedule.present(site),
        *_certificates(site),
        *django_site_mount.present(site),
    ]
    if site.config["remove_data"]:
        own += data(site)
        goes = site.root.is_dir() and not os.path.ismount(site.root) and {*own} >= {*site.root.iterdir()}
        own += [site.root] if goes else []  # else it stays
    found = {str(path): "removed" for path in own if os.path.lexists(path)} | django_store_served.gone(site)
    if site.config["remove_data"]:
        servers = django_database_setup.removals(_as_applied(site))
        found |= {f"{engine} {one.item}": one.action for engine, changes in servers.items() for one in changes}
    return found


def _paths(site: Site) -> list[Path]:
    """Return the site's own files and folders without its data and its lock."""
    return [
        site.current,
        site.previous,
        site.releases,
        site.virtualenvs,
        site.mirror,
        site.root / "folder.git",
        site.build.top,
        site.beat.top,
        site.trusted,
        site.templates,
        site.maintenance,
        site.errors,
        *site.plans(),
        *django_host_file.removed(site.root),
        django_release_claim.path(site),
        django_release_claim.next_link(site),
        django_release_claim.lock(site).path,
        site.run,
        site.runtime,
        site.tmpfiles,
        django_site.REGISTRY / site.name,
    ]


def _as_applied(site: Site) -> Site:
    """Return the site with the databases of its last apply: the pillar may no longer have them."""
    applied = django_site.read_applied(site.applied) or {"config": {"databases": {}}}
    return Site({**site.config, "databases": applied["config"]["databases"]}, site.platform)


def _proxy_files(site: Site) -> list[Path]:
    return [path for path in django_proxy_files.absent(site) if os.path.lexists(path)]


def _process_manager_files(site: Site) -> list[Path]:
    return [path for manager in django_release_instance.PROCESS_MANAGERS.values() for path in manager.files(site)]


def remove(site: Site, asked_by: str) -> None:
    """Remove a site from the host.

    Raises:
        DeploymentError: a deployment is under way, or has activated a release meanwhile, by a pillar that may be newer;
            or the proxy refuses the remaining configuration.
    """
    lock, active = site.lock(f"{asked_by}: removal"), _active(site)
    if site.root.is_dir():
        lock.take()
    try:
        if _active(site) != active:
            raise DeploymentError(
                f"a deployment has activated {_active(site)} meanwhile", hint="apply again", transient=True
            )
        _remove(site)
        site.lock_file.unlink(missing_ok=True)
    finally:
        lock.release()
    is_own = site.root.is_dir() and not os.path.ismount(site.root)
    if site.config["remove_data"] and is_own:
        with contextlib.suppress(OSError):  # not empty: it has what is not the site's, or a deployment that waited
            site.root.rmdir()


def _active(site: Site) -> str:
    """Return the name of the active release; empty without one."""
    return site.current.readlink().name if site.current.is_symlink() else ""


def _certificates(site: Site) -> list[Path]:
    """Return the certificates that no proxy needs any more, nor the balancer of the site's hosts, if that is here."""
    import django_balancer  # a site is seldom removed

    served = django_balancer.certificates()
    return [path for path in django_proxy_files.leftovers(site, django_proxy_files.absent(site)) if path not in served]


def _leave_balancers(site: Site) -> None:
    """Have balancers give this host no more requests: what it serves is not the common commit.

    They may know of the new hosts later than this one. Killed meanwhile, it leaves a release that counts as damaged.
    """
    hosts = site.config.get("fleet", {}).get("hosts", {}).values()
    seen = site.current / django_release.COMMIT
    if seen.is_file() and any("balancer" in host["parts"] for host in hosts):
        django_host_file.write(seen, f"{site.name} leaves this host\n", mode=0o644)
        time.sleep(_SEEN)


def _remove(site: Site) -> None:
    _leave_balancers(site)
    certificates = _certificates(site)
    if _proxy_files(site):
        django_proxy_switch.apply(django_proxy_files.absent(site))
    django_proxy_listener.remove(site)
    for task in django_timer.TASKS:
        django_timer.remove(site, task)
    django_schedule.remove(site)
    for manager in django_release_instance.PROCESS_MANAGERS.values():
        manager.end_tasks(site)
    sequences = django_release_instance.numbers(site)
    for sequence in sorted(sequences):
        django_release_instance.remove(site, site.releases / f"{sequence}-")
    for release in django_release.releases(site):
        django_release_instance.remove(site, release.path)
    if sequences:
        django_process_systemd.forget()
    django_container_image.forget(site)
    django_store_setup.remove(site)
    django_store_served.remove(site)
    django_process_build.end_processes(site)
    if site.config["remove_data"] and site.user == site.name:  # a user that has processes cannot be removed
        django_process_build.end_user(site.user)
    django_site_mount.remove(site)
    gone = [*_paths(site), site.confinement, site.schema, site.proxied, django_worker.switch_lock(site), *certificates]
    if site.config["remove_data"]:
        django_database_setup.drop(_as_applied(site))
        gone += data(site)
    django_host_mount.remove(site.run)
    for path in [path for path in gone if not django_host_proc.mounted_within(path)]:
        if path.parent == site.root:
            django_host_file.remove_whole(path)  # of half a cache or virtualenv a later release would be made
        else:
            django_host_file.remove_tree(path)
    django_virtualenv_managed.prune()
    if django_virtualenv_kept.changes():
        django_virtualenv_kept.apply()
    if not django_site.registered():
        django_host_mount.remove(django_site.RUNTIME)
    django_tls.remove_challenges()
