"""Remove a site from the host, in the reverse order of its creation; its data only if the pillar requests it."""

import contextlib
import os
import time
from pathlib import Path

from django_formula.audit import audit
from django_formula.audit import caller as audit_caller
from django_formula.container import images
from django_formula.database import setup as database_setup
from django_formula.deploy import takeover
from django_formula.deploy.entries import entry
from django_formula.host import file, mounts, proc
from django_formula.host.commands import DeploymentError
from django_formula.host.outcome import Outcome
from django_formula.process import build_user, systemd
from django_formula.proof import state
from django_formula.proof import unit as proof_unit
from django_formula.proxy import lease, listener, site_files, switch, waiting
from django_formula.release import claim, instances, releases
from django_formula.request import entrance, hook_unit, push_setup, queue, unit
from django_formula.schedule import schedules, timer
from django_formula.site import mount, sites
from django_formula.site.sites import Site
from django_formula.store import contract, service
from django_formula.store import served as store_served
from django_formula.store import setup as store_setup
from django_formula.tls import certificates as tls_certificates
from django_formula.virtualenv import kept, managed_python
from django_formula.worker import workers

#: Seconds after which every balancer has seen that a host does not serve the common commit: HAProxy's second check, or
#: the one of nginx's timer, and its reload.
_SEEN = 8.0


def data(site: Site) -> list[Path]:
    """Return the data that stays when a site is removed: databases, media, secrets, backups, logs, records.

    Files of an existing deployment that has not been taken over yet do not belong to the site, nor do those on a mount.
    """
    existing = takeover.in_progress(site)
    not_ours = existing.plan["kept"] if existing and existing.plan["phase"] == "waiting" else []
    own = [tree.top for tree in (site.database, site.media, site.shared, site.log)]
    own += [contract.folder(site), site.secrets, site.backups, site.deploys, site.applied, site.schedules]
    own += [site.root / "backups"] if site.backups != site.root / "backups" else []
    return [path for path in own if str(path) not in not_ours and not mount.is_foreign(site, path)]


def present(site: Site) -> dict[str, str]:
    """Return what removing the site would remove, by path."""
    own = [
        *_paths(site),
        site.lock_file,
        *_proxy_files(site),
        *_process_manager_files(site),
        *listener.present(site),
        *(path for paths in service.files_on_host(site).values() for path in paths),
        *(path for task in timer.TASKS for path in timer.present(site, task)),
        *schedules.present(site),
        *hook_unit.present(site),
        *waiting.present(site),
        *entrance.present(site),
        *push_setup.present(site),
        *unit.present(site),
        *proof_unit.present(site),
        *_certificates(site),
        *mount.present(site),
    ]
    if site.config["remove_data"]:
        own += data(site)
        goes = site.root.is_dir() and not os.path.ismount(site.root) and {*own} >= {*site.root.iterdir()}
        own += [site.root] if goes else []  # else it stays
    found = {str(path): "removed" for path in own if os.path.lexists(path)} | store_served.gone(site)
    if site.config["remove_data"]:
        servers = database_setup.removals(_as_applied(site))
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
        queue.folder(site),
        site.templates,
        site.maintenance,
        site.errors,
        *site.plans(),
        *file.removed(site.root),
        claim.path(site),
        claim.next_link(site),
        claim.lock(site).path,
        state.folder(site),
        site.run,
        site.runtime,
        site.tmpfiles,
        sites.REGISTRY / site.name,
    ]


def _as_applied(site: Site) -> Site:
    """Return the site with the databases of its last apply: the pillar may no longer have them."""
    applied = sites.read_applied(site.applied) or {"config": {"databases": {}}}
    return Site({**site.config, "databases": applied["config"]["databases"]}, site.platform)


def _proxy_files(site: Site) -> list[Path]:
    return [path for path in site_files.absent(site) if os.path.lexists(path)]


def _process_manager_files(site: Site) -> list[Path]:
    return [path for manager in instances.PROCESS_MANAGERS.values() for path in manager.files(site)]


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
    served = entry("certificates of balancers")()
    return [path for path in site_files.leftovers(site, site_files.absent(site)) if path not in served]


def _leave_balancers(site: Site) -> None:
    """Have balancers give this host no more requests: what it serves is not the common commit.

    They may know of the new hosts later than this one. Killed meanwhile, it leaves a release that counts as damaged.
    """
    hosts = site.config.get("fleet", {}).get("hosts", {}).values()
    seen = site.current / releases.COMMIT
    if seen.is_file() and any("balancer" in host["parts"] for host in hosts):
        file.write(seen, f"{site.name} leaves this host\n", mode=0o644)
        time.sleep(_SEEN)


def _remove(site: Site) -> None:
    _leave_balancers(site)
    certificates = _certificates(site)
    if _proxy_files(site):
        switch.apply(site_files.absent(site))
    if problems := switch.catch_up():  # a removal that was killed has removed the files, and a last site has no apply
        raise DeploymentError(problems[0], hint="correct that, and apply again")
    listener.remove(site)
    for task in timer.TASKS:
        timer.end(site, task)
    certificates += _certificates(site)  # with what a renewal has made until it was ended
    schedules.remove(site)
    hook_unit.remove(site)
    waiting.remove(site)
    push_setup.remove(site)
    entrance.remove(site)
    unit.remove(site)
    proof_unit.remove(site)
    lease.end(site)
    for manager in instances.PROCESS_MANAGERS.values():
        manager.end_tasks(site)
    sequences = instances.numbers(site)
    for sequence in sorted(sequences):
        instances.remove(site, site.releases / f"{sequence}-")
    for release in releases.releases(site):
        instances.remove(site, release.path)
    if sequences:
        systemd.forget()
    images.forget(site)
    store_setup.remove(site)
    store_served.remove(site)
    build_user.end_processes(site)
    if site.config["remove_data"] and site.user == site.name:  # a user that has processes cannot be removed
        build_user.end_user(site.user)
    mount.remove(site)
    gone = [*_paths(site), site.confinement, site.schema, site.proxied, workers.switch_lock(site), *certificates]
    if site.config["remove_data"]:
        database_setup.drop(_as_applied(site))
        gone += data(site)
    mounts.remove(site.run)
    for path in [path for path in gone if not proc.mounted_within(path)]:
        if path.parent == site.root:
            file.remove_whole(path)  # of half a cache or virtualenv a later release would be made
        else:
            file.remove_tree(path)
    managed_python.prune()
    if kept.changes():
        kept.apply()
    if not sites.registered():
        mounts.remove(sites.RUNTIME)
    tls_certificates.remove_challenges()


def absent(site: Site, asked_by: str, *, test: bool) -> Outcome:
    """Remove a site, if this host has something of it.

    Raises:
        DeploymentError: as `remove`.
    """
    changes = present(site)
    if changes and not test:
        verb, caller = audit_caller.of_request(asked_by)
        with audit.recorded(audit.Act(verb, caller, site.name, {"removed": True})):
            remove(site, asked_by)
    done = "would be removed" if test else "has been removed"
    return Outcome(f"{site.name} {done if changes else 'is already absent'}", changes)
