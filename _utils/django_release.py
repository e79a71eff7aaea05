"""Releases on disk: their records, the active one, the target of a rollback, and the deletion of old ones."""

import contextlib
import os
import re
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import django_container
import django_container_image
import django_host_clock
import django_host_disk
import django_host_file
import django_host_proc
import django_process
import django_process_systemd
import django_release_attempt
import django_release_claim
import django_release_instance
import django_release_use
import django_release_workers
import django_secret
import django_secret_undo
import django_server
import django_virtualenv
import django_virtualenv_managed
import django_wall_shape
from django_host_command import DeploymentError
from django_site import Site
from django_wall_text import Log, in_command, proposal

log = Log.of(__name__)

#: The file of a release with its commit, which the proxy of a fleet's host serves to balancers.
COMMIT = "commit"
#: The shape of a release's record; another one is damaged. Keys that are missing here are only displayed.
RECORD = {
    **dict.fromkeys(("name?", "state?", "commit?", "asked_by?", "began?", "live_since?", "held_since?"), str),
    **dict.fromkeys(("author?", "subject?", "committed?", "virtualenv?"), django_wall_shape.MAYBE),
    **dict.fromkeys(("step?", "error?", "fleet?"), str),
    "inputs?": {str: str},
    "facts?": django_wall_shape.FACTS,
    "schema?": django_wall_shape.SCHEMA,
    "packages?": {str: str},
    "steps?": {str: float},
    "size?": {"release": [int], "virtualenv": [int]},
    "backups?": [str],
    "container?": django_container.RECORD,
    "receipt?": {"sent": int, "failed": int},
    "page?": {
        "domain": str,
        "path": str,
        "health": {"path": str, "status": [int], "contains": django_wall_shape.MAYBE},
    },
}
#: What the record of a release that may serve has in addition.
_FINISHED = {"commit": str, "inputs": {str: str}, "facts": {"folder": str, "application": str}}


class Release:
    """A release on disk: ``releases/0042-3f2a9c1b77de``, with its record in ``release.json``; a plan's in its folder.

    The record holds ``state`` (building, good, failed, held), ``commit`` with ``author``, ``subject`` and ``committed``
    (when), ``inputs`` (keyed hashes), ``packages`` (name → version), ``facts`` (what was found in the source, what the
    start of Django has answered, the migrations of its databases), ``steps`` (seconds) and ``asked_by``.
    """

    def __init__(self, site: Site, name: str, folder: Path | None = None):
        self.site = site
        self.name = name
        self.path = (folder or site.releases) / name
        record = django_host_file.read_json(self.path / "release.json", RECORD) or {}
        is_known = record.get("state") in ("building", "failed") or (
            record.get("state") in ("good", "held") and django_wall_shape.fits(record, _FINISHED)
        )
        self.record: dict[str, Any] = {"name": name, **record} if is_known else {}

    @property
    def sequence(self) -> int:
        return int(self.name.split("-")[0])

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.record.get("facts", {})
        return facts

    @property
    def has_python(self) -> bool:
        """Whether its interpreter exists; of a container it may be one that this host does not have."""
        python = self.path / "virtualenv/bin/python"
        return os.path.lexists(python) if "container" in self.record else python.exists()

    def is_whole(self) -> bool:
        """Return whether every part of a finished release exists, and balancers see its commit."""
        server = f"config/{django_server.of_release(self.path).MAIN}"
        parts = ("source", "static", "config/environment", server)
        whole = all((self.path / part).exists() for part in parts) and os.path.lexists(self.path / "socket")
        seen = django_host_file.read_text(self.path / COMMIT)
        is_seen = seen is None or seen == self.record.get("commit")
        return bool(self.record) and whole and is_seen and self.has_python

    def update(self, **values: Any) -> None:
        """Change the record, also on disk; it is synced only once the release is finished."""
        self.record.update(values)
        durable = self.record.get("state") != "building"
        django_host_file.write_json(self.path / "release.json", self.record, mode=0o640, durable=durable)

    def sync(self) -> None:
        """Write the release to the disk, and its image with it.

        Raises:
            DeploymentError: syncing fails.
        """
        container = django_container.of_release(self.path)
        for folder in (self.path, *(container.engine.apart_from(self.path) if container else ())):
            django_host_file.sync(folder)

    def measure(self) -> None:
        """Record the disk space of the release and its virtualenv, unless it is recorded already."""
        if "size" in self.record:
            return
        key = self.record.get("virtualenv")
        same = (r.record for r in releases(self.site) if r.record.get("virtualenv") == key and "size" in r.record)
        known = next(same, None)
        space = known["size"]["virtualenv"] if known else django_host_disk.of_tree(self.site.virtualenvs / str(key))
        self.update(size={"release": django_host_disk.of_tree(self.path), "virtualenv": space})


def releases(site: Site) -> list[Release]:
    """Return the releases on disk, oldest first."""
    names = [path.name for path in site.releases.iterdir()] if site.releases.is_dir() else []
    found = [Release(site, name) for name in names if re.fullmatch(r"\d{4,}-[0-9a-f]{12}", name)]
    return sorted(found, key=lambda release: release.sequence)


def has_used(site: Site, name: str, value: str) -> bool:
    """Return whether a release on disk was made with that value of a secret."""
    used = django_secret.keyed_hash(django_secret.record_key(site), value)
    return any(release.record.get("inputs", {}).get(f"secrets:{name}") == used for release in reversed(releases(site)))


def refuse_unknown_secrets(
    site: Site, known: Mapping[str, str], given: Collection[str], recorded: Mapping[str, Any]
) -> None:
    """Check that the secrets that only the disk has are those of a release: a truncated password looks complete.

    The secret key is left out: its file shows itself whether it is complete, and may be edited.

    Args:
        known: the value of each secret.
        given: the names of those that the pillar gives now.
        recorded: the inputs of the live release.

    Raises:
        DeploymentError: one has another value than any release on disk.
    """
    key = django_secret.record_key(site)
    if recorded.get("name") != django_secret.keyed_hash(key, site.name):
        return  # the key of the records was lost: nothing can be compared
    for name, value in known.items():
        used = recorded.get(f"secrets:{name}")
        if name in given or name == "secret_key" or not used or used == django_secret.keyed_hash(key, value):
            continue
        if not has_used(site, name, value):
            raise DeploymentError(
                f"{django_secret.path_of(site, name)} contains a value that no release was made with: "
                "it is damaged or was edited",
                hint=f"restore it from a backup, or set {django_secret.pillar_key(site, name)}, and apply",
            )


def linked(site: Site, link: Path) -> Release | None:
    """Return the release that ``current`` or ``previous`` points to; None if the link is missing or its target is.

    Raises:
        DeploymentError: it is no link, or points elsewhere.
    """
    try:
        target = Path(os.readlink(link))
    except FileNotFoundError:
        return None
    except OSError:
        raise DeploymentError(
            f"{link} is not a link",
            hint=proposal("move it away, then apply again: {}", "mv", str(link), f"{link}.aside"),
        ) from None
    if (link.parent / target).parent != site.releases:
        raise DeploymentError(
            f"{link} points to {target}, which is not one of the site's releases",
            hint=proposal("remove it, then apply again: {}", "rm", str(link)),
        )
    release = Release(site, target.name)
    return release if django_wall_shape.fits(release.record, _FINISHED) else None


def older_good(site: Site, than: Release) -> Release | None:
    """Return the newest good release before another, the default target of a rollback; not one on hold or failed."""
    good = [
        r for r in releases(site) if r.sequence < than.sequence and r.record.get("state") == "good" and r.is_whole()
    ]
    return good[-1] if good else None


def next_sequence(site: Site) -> int:
    """Return the next sequence number: one more than that of any release and attempt."""
    names = [path.name.split("-")[0] for path in site.releases.iterdir()] if site.releases.is_dir() else []
    return (
        max([*(int(name) for name in names if name.isdigit()), *django_release_attempt.sequences(site)], default=0) + 1
    )


def next_name(site: Site, commit: str, least: int = 0) -> str:
    """Return the name of the next release: ``0042-3f2a9c1b77de``; its number is not less than `least`."""
    return f"{max(next_sequence(site), least):04d}-{commit[:12]}"


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
        live = linked(site, site.current)
        django_secret_undo.settle(site, live.record.get("fleet", "") if live else "")
    clear_plans(site)
    for problem in _clear_removed(site):
        log.warning("%s: %s", site.name, problem)
    for folder in site.root.glob("image-[0-9]*"):  # of a build that was killed
        pid = folder.name.removeprefix("image-")
        if pid.isdigit() and not django_host_proc.exists(int(pid)):
            django_host_file.remove_tree(folder)
    for release in releases(site):
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
    live, previous = linked(site, site.current), linked(site, site.previous)
    kept = {release.name for release in (live, previous) if release}
    present = releases(site)
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
    there = {release.name.split("-")[0] for release in releases(site)}
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


def named(site: Site, name: str) -> Release:
    """Return the newest release of a name, number or commit (from seven digits on): ``42``, ``3f2a9c1``.

    Raises:
        DeploymentError: there is none on this host.
    """
    for release in reversed(releases(site)):
        if name == release.name or (name.isdigit() and int(name) == release.sequence):
            return release
        if re.fullmatch(r"[0-9a-f]{7,40}", name) and str(release.record.get("commit", "")).startswith(name):
            return release
    raise DeploymentError(
        f"{site.name} has no release {name} on this host", hint=f"salt-call django.releases {site.name} lists them"
    )
