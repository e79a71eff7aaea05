"""Taking a site off, in the reverse order of its making; its data only when the pillar says so."""

import os
from pathlib import Path

import django_database_setup
import django_host_file
import django_process_build
import django_process_systemd
import django_proxy_files
import django_proxy_listener
import django_proxy_switch
import django_release
import django_release_instance
import django_site
import django_takeover
import django_timer
import django_tls
from django_site import Site


def data(site: Site) -> list[Path]:
    """What a site keeps when it is taken off: databases, uploads, secrets, backups, logs, the record of deployments.

    What belongs to an old site that has not been taken over yet is not the site's.
    """
    takeover = django_takeover.load(site)
    theirs = takeover.plan["kept"] if takeover and takeover.plan["phase"] == "waiting" else []
    own = [tree.top for tree in (site.database, site.media, site.shared, site.log)]
    own += [site.secrets, site.backups, site.deploys, site.applied]
    own += [site.root / "backups"] if site.backups != site.root / "backups" else []
    return [path for path in own if str(path) not in theirs]


def present(site: Site) -> dict[str, str]:
    """What there is of a site that would go, by path."""
    own = [
        site.current,
        site.previous,
        site.releases,
        site.virtualenvs,
        site.mirror,
        site.root / "folder.git",
        site.build.top,
        site.templates,
        site.maintenance,
        site.errors,
        site.lock_file,
        *site.plans(),
    ]
    own += [
        site.runtime,
        site.tmpfiles,
        django_site.REGISTRY / site.name,
        *_proxy_files(site),
        *_kept(site),
        *django_proxy_listener.present(site),
        *(path for task in django_timer.TASKS for path in django_timer.present(site, task)),
        *django_proxy_files.leftovers(site, django_proxy_files.absent(site)),
    ]
    if site.config["remove_data"]:
        own += [*data(site), site.root]
    there = {str(path): "removed" for path in own if os.path.lexists(path)}
    if site.config["remove_data"]:
        servers = django_database_setup.removals(_as_applied(site))
        there |= {f"{engine} {one.item}": one.action for engine, changes in servers.items() for one in changes}
    return there


def _as_applied(site: Site) -> Site:
    """The site with its databases as its last apply had them: the pillar needs not say them any more."""
    applied = django_site.read_applied(site.applied) or {"config": {"databases": {}}}
    return Site({**site.config, "databases": applied["config"]["databases"]}, site.platform)


def _proxy_files(site: Site) -> list[Path]:
    return [path for path in django_proxy_files.absent(site) if os.path.lexists(path)]


def _kept(site: Site) -> list[Path]:
    return [path for manager in django_release_instance.PROCESS_MANAGERS.values() for path in manager.files(site)]


def remove(site: Site, asked_by: str) -> None:
    """Take a site off.

    Raises:
        DeploymentError: a deployment is under way, or nginx refuses what is left of its configuration.
    """
    lock = site.lock(f"{asked_by}: removal")
    if site.root.is_dir():
        lock.take()
    try:
        _take_off(site)
    finally:
        lock.release()
    site.lock_file.unlink(missing_ok=True)
    if site.config["remove_data"] and site.root.is_dir() and not any(site.root.iterdir()):
        site.root.rmdir()


def _take_off(site: Site) -> None:
    certificates = django_proxy_files.leftovers(site, django_proxy_files.absent(site))
    if _proxy_files(site):
        django_proxy_switch.apply(django_proxy_files.absent(site))
    django_proxy_listener.remove(site)
    for task in django_timer.TASKS:
        django_timer.remove(site, task)
    for manager in django_release_instance.PROCESS_MANAGERS.values():
        manager.end_tasks(site)
    sequences = {path.stem.rsplit("-", 1)[1] for path in _kept(site)}
    for sequence in sorted(sequences):
        django_release_instance.remove(site, site.releases / f"{sequence}-")
    for release in django_release.releases(site):
        django_release_instance.remove(site, release.path)
    if sequences:
        django_process_systemd.forget()
    django_process_build.end_processes(site)
    if site.config["remove_data"] and site.user == site.name:  # a user who has processes is not removed
        django_process_build.end_user(site.user)
    gone = [site.current, site.previous, site.releases, site.virtualenvs, site.mirror, site.build.top, site.templates]
    gone += [
        site.root / "folder.git",
        site.maintenance,
        site.errors,
        *site.plans(),
        site.runtime,
        site.confinement,
        site.schema,
        site.tmpfiles,
        django_site.REGISTRY / site.name,
    ]
    gone += certificates
    if site.config["remove_data"]:
        django_database_setup.drop(_as_applied(site))
        gone += data(site)
    for path in gone:
        django_host_file.remove_tree(path)
    django_tls.remove_challenges()
