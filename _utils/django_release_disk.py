"""Releases on the disk: writing and measuring them, and deleting old ones and what killed deployments left."""

import contextlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import django_container
import django_container_image
import django_host_clock
import django_host_disk
import django_host_file
import django_host_proc
import django_process
import django_process_systemd
import django_release
import django_release_attempt
import django_release_claim
import django_release_instance
import django_release_use
import django_release_workers
import django_secret_undo
import django_server
import django_virtualenv
import django_virtualenv_managed
from django_host_command import DeploymentError
from django_release import Release
from django_site import Site
from django_wall_text import Log, in_command

log = Log.of(__name__)


def is_whole(release: Release) -> bool:
    """Return whether every part of a finished release exists, and balancers see its commit."""
    server = f"config/{django_server.of_release(release.path).MAIN}"
    parts = ("source", "static", "config/environment", server)
    whole = all((release.path / part).exists() for part in parts) and os.path.lexists(release.path / "socket")
    seen = django_host_file.read_text(release.path / django_release.COMMIT)
    is_seen = seen is None or seen == release.record.get("commit")
    return bool(release.record) and whole and is_seen and release.has_python


def sync(release: Release) -> None:
    """Write a release to the disk, and its image with it.

    Raises:
        DeploymentError: syncing fails.
    """
    container = django_container.of_release(release.path)
    for folder in (release.path, *(container.engine.apart_from(release.path) if container else ())):
        django_host_file.sync(folder)


def measure(release: Release) -> None:
    """Record the disk space of a release and its virtualenv, unless it is recorded already."""
    if "size" in release.record:
        return
    site, key = release.site, release.record.get("virtualenv")
    others = (other.record for other in django_release.releases(site))
    known = next((one for one in others if one.get("virtualenv") == key and "size" in one), None)
    space = known["size"]["virtualenv"] if known else django_host_disk.of_tree(site.virtualenvs / str(key))
    release.update(size={"release": django_host_disk.of_tree(release.path), "virtualenv": space})


def older_good(site: Site, than: Release) -> Release | None:
    """Return the newest good release before another, the default target of a rollback; not one on hold or failed."""
    older = [release for release in django_release.releases(site) if release.sequence < than.sequence]
    good = [release for release in older if release.record.get("state") == "good" and is_whole(release)]
    return good[-1] if good else None


def clear_leftovers(site: Site) -> None:
    """Remove the unfinished release of a deployment that was killed, and record it as an attempt.

    The caller holds the lock, so that no process works on it. The targets of ``current`` and ``previous`` stay even
    where their record is damaged: they may serve.
    """
    kept = {Path(os.readlink(link)).name for link in (site.current, site.previous) if link.is_symlink()}
    if django_release_claim.current(site):
        kept.add(django_release_claim.prepared(site))
    else:
        django_release_claim.drop(site)
        live = django_release.linked(site, site.current)
        django_secret_undo.settle(site, live.record.get("fleet", "") if live else "")
    clear_plans(site)
    for problem in _clear_removed(site):
        log.warning("%s: %s", site.name, problem)
    for folder in site.root.glob("image-[0-9]*"):  # of a build that was killed
        pid = folder.name.removeprefix("image-")
        if pid.isdigit() and not django_host_proc.exists(int(pid)):
            django_host_file.remove_tree(folder)
    for release in django_release.releases(site):
        if release.name not in kept and release.record.get("state") not in ("good", "failed", "held"):
            try:
                remove(release)
            except OSError as error:
                log.warning("%s: %s cannot be deleted: %s", site.name, release.name, error)
                continue
            about = {key: release.record.get(key) or "" for key in ("commit", "asked_by", "began")}
            django_release_attempt.append(
                site, {"time": django_host_clock.now(), "release": release.name, "result": "interrupted", **about}
            )


def _clear_removed(site: Site) -> list[str]:
    """Delete what is left of trees whose deletion was killed; return a sentence for each that could not be deleted."""
    left = [path for folder in (site.root, site.releases) for path in django_host_file.removed(folder)]
    tried = (_tried(str(path.relative_to(site.root)), partial(django_host_file.remove_tree, path)) for path in left)
    return [problem for problems in tried for problem in problems]


def clear_plans(site: Site) -> None:
    """Remove the folders of plans that were killed; each is named after its process."""
    for path in site.plans():
        if not django_host_proc.exists(int(path.name.removeprefix("plan-"))):
            django_host_file.remove_tree(path)


def remove(release: Release) -> None:
    """Delete a release with its units."""
    django_release_instance.remove(release.site, release.path)
    django_host_file.remove_whole(release.path)


def prune(site: Site) -> list[str]:
    """Delete failed releases, those over ``releases:keep``, and units and virtualenvs that no release has.

    The targets of ``current`` and ``previous`` stay, and so do releases on hold that are newer than the active one, and
    those in which a schedule or another command still runs, and up to ``releases:keep`` more whose workers still finish
    tasks.

    Returns:
        A sentence for each thing that could not be deleted, and for each drop-in of a release that was deleted.
    """
    live, previous = django_release.linked(site, site.current), django_release.linked(site, site.previous)
    kept = {release.name for release in (live, previous) if release}
    present = django_release.releases(site)
    good = [release for release in present if release.record.get("state") == "good"]
    kept |= {release.name for release in good[-site.config["releases"]["keep"] :]}
    kept |= {
        release.name
        for release in present
        if release.record.get("state") == "held" and live and release.sequence > live.sequence
    }
    kept |= django_release_use.names(site)
    stuck: list[str] = []
    engines = django_container_image.used(site)
    finishing = [release for release in present if release.name not in kept and _has_workers_left(release)]
    kept |= {release.name for release in finishing[-site.config["releases"]["keep"] :]}
    for release in present:
        if release.name not in kept:
            stuck += _tried(release.name, partial(remove, release))
    stuck += _clear_removed(site)
    stuck += [
        f"tasks of {release.name} were ended: more releases than releases:keep wait for their workers"
        for release in finishing
        if release.name not in kept
    ]
    there = {release.name.split("-")[0] for release in django_release.releases(site)}
    for number in sorted(django_release_instance.numbers(site) - there):
        gone = site.releases / f"{number}-gone"
        stuck += _tried(django_process.unit(site, gone), partial(django_release_instance.remove, site, gone))
    stuck += [
        f"{path} overrides the unit of a deleted release: set it in the pillar (resources, sandbox), then "
        f"{in_command('rm', '-r', str(path))}"
        for path in django_process_systemd.drop_ins(site)
        if _number(site, path) not in there and not _is_removed_empty(path)
    ]
    links = [link for folder in (site.releases, *site.plans()) for link in folder.glob("*/virtualenv")]
    used = {os.path.basename(os.readlink(link)) for link in links if link.is_symlink()}
    for path in django_virtualenv.unused(site, used):
        stuck += _tried(f"the virtualenv {path.name}", partial(django_host_file.remove_whole, path))
    stuck += _tried("an interpreter", django_virtualenv_managed.prune)
    return [*stuck, *django_container_image.prune(site, engines)]


def _has_workers_left(release: Release) -> bool:
    """Return whether a worker of a release still runs; it imports modules from the release's files."""
    return bool(django_release_workers.finishing(release.site, [release.path]))


def _number(site: Site, drop_in: Path) -> str:
    """Return the number of the release of whose unit a folder has drop-ins."""
    return (django_process.parse(site, drop_in.name.partition(".")[0]) or ("", ""))[0]


def _is_removed_empty(folder: Path) -> bool:
    """Delete a folder if it is empty; return whether it was."""
    with contextlib.suppress(OSError):
        folder.rmdir()
        return True
    return False


def _tried(what: str, delete: Callable[[], None]) -> list[str]:
    try:
        delete()
    except (OSError, DeploymentError) as error:
        return [f"{what} could not be deleted: {str(error).splitlines()[0]}"]
    return []
