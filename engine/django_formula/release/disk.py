"""Releases on the disk: writing and measuring them, and deleting old ones and what killed deployments left."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from django_formula.container import containers, images
from django_formula.host import clock, disk, file, proc
from django_formula.host.commands import DeploymentError
from django_formula.host.locks import Lock
from django_formula.process import contract, systemd, transient
from django_formula.release import claim, instances, releases, workers
from django_formula.release.releases import LOCK_OF_CONSOLE, LOCK_OF_SCHEDULE, WRITING_CONSOLE, Release
from django_formula.secret import secrets
from django_formula.server import servers
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log, in_command
from django_formula.virtualenv import interpreter, managed_python, virtualenvs

log = Log.of(__name__)


def is_whole(release: Release) -> bool:
    """Return whether every part of a finished release exists, and balancers see its commit."""
    server = f"config/{servers.of_release(release.path).MAIN}"
    parts = ("source", "static", "config/environment", server)
    whole = all((release.path / part).exists() for part in parts) and os.path.lexists(release.path / "socket")
    seen = file.read_text(release.path / releases.COMMIT)
    is_seen = seen is None or seen == release.record.get("commit")
    return bool(release.record) and whole and is_seen and release.has_python


def sync(release: Release) -> None:
    """Write a release to the disk, and its image with it.

    Raises:
        DeploymentError: syncing fails.
    """
    container = containers.of_release(release.path)
    for folder in (release.path, *(container.engine.apart_from(release.path) if container else ())):
        file.sync(folder)


def measure(release: Release) -> None:
    """Record the disk space of a release and its virtualenv, unless it is recorded already."""
    if "size" in release.record:
        return
    site, key = release.site, release.record.get("virtualenv")
    others = (other.record for other in releases.releases(site))
    known = next((one for one in others if one.get("virtualenv") == key and "size" in one), None)
    space = known["size"]["virtualenv"] if known else disk.of_tree(site.virtualenvs / str(key))
    release.update(size={"release": disk.of_tree(release.path), "virtualenv": space})


def older_good(site: Site, than: Release) -> Release | None:
    """Return the newest good release before another, the default target of a rollback; not one on hold or failed."""
    older = [release for release in releases.releases(site) if release.sequence < than.sequence]
    good = [release for release in older if release.record.get("state") == "good" and is_whole(release)]
    return good[-1] if good else None


def clear_leftovers(site: Site) -> None:
    """Remove the unfinished release of a deployment that was killed, and record it as an attempt.

    The caller holds the lock, so that no process works on it. The targets of ``current`` and ``previous`` stay even
    where their record is damaged: they may serve.
    """
    kept = {Path(os.readlink(link)).name for link in (site.current, site.previous) if link.is_symlink()}
    if claim.current(site):
        kept.add(claim.prepared(site))
    else:
        claim.drop(site)
        live = releases.linked(site, site.current)
        secrets.settle_former_key(site, live.record.get("fleet", "") if live else "")
    clear_plans(site)
    for problem in _clear_removed(site):
        log.warning("%s: %s", site.name, problem)
    for folder in site.root.glob("image-[0-9]*"):  # of a build that was killed
        ids = folder.name.split("-")[1:]  # of the process, and of its thread
        if all(map(str.isdecimal, ids)) and not proc.exists(int(ids[0])):
            file.remove_tree(folder)
    for release in releases.releases(site):
        if release.name not in kept and release.record.get("state") not in ("good", "failed", "held"):
            try:
                remove(release)
            except (OSError, DeploymentError) as error:  # the next release is made all the same; `prune` tries it again
                log.warning("%s: %s cannot be deleted: %s", site.name, release.name, error)
                continue
            about = {key: release.record.get(key) or "" for key in ("commit", "asked_by", "began")}
            releases.append_attempt(
                site, {"time": clock.now(), "release": release.name, "result": "interrupted", **about}
            )


def _clear_removed(site: Site) -> list[str]:
    """Delete what is left of trees whose deletion was killed; return a sentence for each that could not be deleted."""
    left = [path for folder in (site.root, site.releases) for path in file.removed(folder)]
    tried = (_tried(str(path.relative_to(site.root)), partial(file.remove_tree, path)) for path in left)
    return [problem for problems in tried for problem in problems]


def clear_plans(site: Site) -> None:
    """Remove the folders of plans that were killed; each is named after its process."""
    for path in site.plans():
        if not proc.exists(int(path.name.removeprefix("plan-"))):
            file.remove_tree(path)


def remove(release: Release) -> None:
    """Delete a release with its units."""
    instances.remove(release.site, release.path)
    file.remove_whole(release.path)


def prune(site: Site) -> list[str]:
    """Delete failed releases, those over ``releases:keep``, and units and virtualenvs that no release has.

    The targets of ``current`` and ``previous`` stay, and so do releases on hold that are newer than the active one, and
    those in which a schedule or another command still runs, and up to ``releases:keep`` more whose workers still finish
    tasks.

    Returns:
        A sentence for each thing that could not be deleted, and for each drop-in of a release that was deleted.
    """
    live, previous = releases.linked(site, site.current), releases.linked(site, site.previous)
    kept = {release.name for release in (live, previous) if release}
    present = releases.releases(site)
    good = [release for release in present if release.record.get("state") == "good"]
    kept |= {release.name for release in good[-site.config["releases"]["keep"] :]}
    kept |= {
        release.name
        for release in present
        if release.record.get("state") == "held" and live and release.sequence > live.sequence
    }
    kept |= names_in_use(site)
    stuck: list[str] = []
    engines = images.used(site)
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
    there = {release.name.split("-")[0] for release in releases.releases(site)}
    for number in sorted(instances.numbers(site) - there):
        gone = site.releases / f"{number}-gone"
        stuck += _tried(contract.unit(site, gone), partial(instances.remove, site, gone))
    stuck += [
        f"{path} overrides the unit of a deleted release: set it in the pillar (resources, sandbox), then "
        f"{in_command('rm', '-r', str(path))}"
        for path in systemd.drop_ins(site)
        if _number(site, path) not in there and not _is_removed_empty(path)
    ]
    links = [link for folder in (site.releases, *site.plans()) for link in folder.glob("*/virtualenv")]
    used = {os.path.basename(os.readlink(link)) for link in links if link.is_symlink()}
    for path in virtualenvs.unused(site, used):
        stuck += _tried(f"the virtualenv {path.name}", partial(file.remove_whole, path))
    stuck += _tried("an interpreter", managed_python.prune)
    return [*stuck, *images.prune(site, engines)]


def _has_workers_left(release: Release) -> bool:
    """Return whether a worker of a release still runs; it imports modules from the release's files."""
    return bool(workers.finishing(release.site, [release.path]))


def _number(site: Site, drop_in: Path) -> str:
    """Return the number of the release of whose unit a folder has drop-ins."""
    return (contract.parse(site, drop_in.name.partition(".")[0]) or ("", ""))[0]


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


# Releases that commands run in that are no part of a deployment


def names_in_use(site: Site) -> set[str]:
    """Return the names of the releases that a schedule, a command of the command line or a console runs in."""
    consoles = _running(site, LOCK_OF_CONSOLE)
    return {*running_schedules(site).values(), *consoles.values()} | transient.releases_of_commands(site)


def running_schedules(site: Site) -> dict[str, str]:
    """Return the schedules whose command runs: name → the name of the release that it runs in."""
    return _running(site, LOCK_OF_SCHEDULE)


@contextlib.contextmanager
def without_schedules(site: Site, by: str) -> Iterator[None]:
    """Have no schedule of a site begin in this block.

    Args:
        by: what needs that, as those read that begin meanwhile.

    Raises:
        DeploymentError: one runs.
    """
    names = sorted(path.stem for path in site.schedules.glob("*.json") if "." not in path.stem)
    with contextlib.ExitStack() as stack:
        for name in names:
            path, hint = site.schedules / f"{name}{LOCK_OF_SCHEDULE}", "wait until it has ended"
            lock = Lock(path, by, busy=f"the schedule {name} of {site.name}", timeout="1s", hint=hint)
            stack.enter_context(lock.held())
        yield


def writing_consoles(site: Site) -> list[str]:
    """Return the consoles in which data can be changed, each with its release, its pid and since when."""
    return [holder for holder in _holders(site, LOCK_OF_CONSOLE).values() if f" {WRITING_CONSOLE}," in holder]


def _running(site: Site, suffix: str) -> dict[str, str]:
    """Return what holds a lock: the name of its file without the suffix → the name of its release."""
    return {name: text.split()[0] for name, text in _holders(site, suffix).items()}


def _holders(site: Site, suffix: str) -> dict[str, str]:
    paths = sorted(site.schedules.glob(f"*{suffix}"))
    holders = {path.stem: Lock(path, "", busy="", timeout="0s", hint="").holder() for path in paths}
    return {name: text for name, text in holders.items() if re.match(r"\d{4,}-[0-9a-f]{12} ", text)}


# The interpreter of a release: whether it is still there, and is that of the site (docs/decisions/0086)


def interpreter_problem(release: Release) -> str:
    """Return what is wrong with the interpreter of a release; empty where nothing is."""
    if not release.has_python:
        home = _configuration(release).get("home", "the interpreter")
        return f"its interpreter ({home}) is gone: {release.name} does not start again, and its commands fail"
    changes = interpreter_difference(release.site, release)
    return f"{release.site.python} is {changes['new']}, and {release.name} has {changes['old']}" if changes else ""


def interpreter_difference(site: Site, release: Release | None) -> dict[str, str]:
    """Return the versions ``old`` and ``new`` where the site's interpreter is of another series than that of a release.

    One that is not installed is no other one.
    """
    if not release or "container" in release.record or site.config.get("container"):
        return {}
    try:
        path = interpreter.path(site)
        if os.path.realpath(release.path / "virtualenv/bin/python") == path:
            return {}
        old = _configuration(release).get("version_info", "")
        new = interpreter.interpreter(site).version
    except DeploymentError:
        return {}
    return {"old": old, "new": new} if old and _series(old) != _series(new) else {}


def python_series(site: Site) -> str:
    """Return the series of a site's interpreter, such as ``3.11``; empty in containers, and where it is missing."""
    if site.config.get("container"):
        return ""
    try:
        return ".".join(_series(interpreter.interpreter(site).version))
    except DeploymentError:
        return ""


def _series(version: str) -> list[str]:
    return re.findall(r"\d+", version)[:2]


def _configuration(release: Release) -> dict[str, str]:
    """Return what the virtualenv of a release says about itself; nothing where its build has put a link there."""
    content = file.read_untrusted(release.path / "virtualenv/pyvenv.cfg", follow=False)
    pairs = (line.partition("=") for line in content.decode(errors="replace").splitlines())
    return {name.strip(): value.strip() for name, _is, value in pairs}
