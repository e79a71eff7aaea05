"""Fetch a copy of a site from elsewhere: its parts, each compared with the index, as backups of this host."""

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django_formula.backup import backups, dumps, media
from django_formula.backup.dumps import Database
from django_formula.host import clock, file
from django_formula.host.commands import DeploymentError
from django_formula.offsite import copies
from django_formula.offsite.copies import Copy
from django_formula.offsite.repository import Repository
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log

log = Log.of(__name__)


def fetch_part(store: Repository, copy: Copy, name: str, target: Path | None) -> None:
    """Fetch a part of a copy, and compare it with the index.

    Args:
        target: a new file, in a folder of root's; None only compares.

    Raises:
        DeploymentError: it is damaged.
    """
    site, part, digest, size = store.site, copy["parts"][name], hashlib.sha256(), 0
    opened = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600) if target else None
    write = dumps.writer(opened) if opened is not None else len

    def take(content: bytes) -> None:
        nonlocal size
        size += len(content)
        if size > part["size"]:
            raise OSError(f"{name} is longer than it was")
        digest.update(content)
        write(content)

    try:
        with dumps.received(f"fetching {name}", take) as pipe:
            store.fetch(part["snapshot"], name, pipe)
        if opened is not None:
            os.fsync(opened)
    finally:
        if opened is not None:
            os.close(opened)
    if (size, digest.hexdigest()) != (part["size"], part["sha256"]):
        raise DeploymentError(
            f"{name} is not what was copied: {size} bytes, expected {part['size']} of another checksum",
            hint=f"fetch another one: salt-call django.backups {site.name} offsite=True lists them",
        )


@contextlib.contextmanager
def folder(site: Site, name: str) -> Iterator[Path]:
    """Yield a folder that only root can read; it is removed, unless something is recorded as loaded from it."""
    folder = site.backups / name
    folder.mkdir(mode=0o700, exist_ok=True)
    _clear(folder)
    try:
        yield folder
    finally:
        _clear(folder)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path != backups.journal(folder):
            path.unlink()


def into_backups(store: Repository, copy: Copy, *, uploads: bool) -> None:
    """Fetch a copy as a backup of this host; a dump that is there is not fetched.

    Args:
        uploads: fetch the uploads of the copy too.

    Raises:
        DeploymentError: as `fetch` and `fetch_uploads`, or another program works on the backups.
    """
    site = store.site
    with folder(site, "fetched") as fetched:
        fetch(store, copy, fetched, there=site.backups)
        if uploads:
            fetch_uploads(store, copy, fetched, there=site.backups)
        with backups.lock(site, "fetching a copy").held():
            for manifest in fetched.glob("*.json"):
                dump = fetched / manifest.stem
                manifest.rename(site.backups / manifest.name)
                dump.rename(site.backups / dump.name)
        file.sync_folder(site.backups)


def fetch(store: Repository, copy: Copy, folder: Path, *, there: Path | None = None) -> list[dict[str, Any]]:
    """Fetch the dumps of a copy into a folder of root's.

    Args:
        there: a folder; what it has is not fetched.

    Returns:
        Their manifests.

    Raises:
        DeploymentError: there is not enough room, or one is damaged.
    """
    wanted = [one for one in copy["dumps"] if not _is_there(there, one["name"])]
    _check_room(folder, sum(one["size"] for one in wanted))
    for manifest in wanted:
        log.info("%s: fetching %s", store.site.name, manifest["name"])
        _fetch_dump(store, copy, copies.part_of(manifest["name"]), manifest, folder)
    return list(copy["dumps"])


def fetch_uploads(store: Repository, copy: Copy, folder: Path, *, there: Path | None = None) -> None:
    """Fetch the uploads of a copy as a backup of them.

    Raises:
        DeploymentError: the copy has none, there is not enough room, or they are damaged.
    """
    site, alias = store.site, media.alias([one["alias"] for one in copy["dumps"]])
    name = f"{alias}-{copy['backup']}.tar"
    if copies.UPLOADS not in copy["parts"]:
        raise DeploymentError("this copy has no uploads", hint=f"set {site.at}:backup:offsite:media for the next ones")
    if _is_there(there, name):
        return
    part = copy["parts"][copies.UPLOADS]
    _check_room(folder, part["size"])
    manifest = {key: copy[key] for key in ("backup", "taken", "release", "commit")}
    manifest |= {"name": name, "alias": alias, "engine": "media", "database": str(site.media), "migrations": []}
    manifest |= {"why": backups.BY_COMMAND, "size": part["size"], "sha256": part["sha256"], "verified": ""}
    _fetch_dump(store, copy, copies.UPLOADS, manifest, folder)


def _is_there(folder: Path | None, name: str) -> bool:
    return folder is not None and (folder / name).exists() and backups.manifest_path(folder / name).exists()


def _fetch_dump(store: Repository, copy: Copy, part: str, manifest: dict[str, Any], folder: Path) -> None:
    path = folder / manifest["name"]
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        fetch_part(store, copy, part, new)
        if manifest["engine"] == "media":
            uploads = Database(store.site, "media", "media", str(store.site.media))
            with open(new, "rb") as tar:
                manifest["rows"] = {"files": media.count_files(uploads, tar.fileno())}
        file.write_json(backups.manifest_path(path), {**manifest, "came": clock.now()}, mode=0o600)
        new.replace(path)
        file.sync_folder(folder)
    finally:
        new.unlink(missing_ok=True)


def _check_room(folder: Path, size: int) -> None:
    """Refuse a copy for which the disk has not enough room."""
    left = dumps.free(folder)
    if size > left:
        raise DeploymentError(
            f"the copy needs {backups.in_words(size)} in {folder}, and {backups.in_words(left)} are free",
            hint="make room there; nothing was changed",
            transient=True,
        )
