"""Send a copy of a site elsewhere: the newest backup, the uploads as they are, the sealed secrets, and their index."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO

from django_formula.backup import backups, dumps, media
from django_formula.backup.dumps import Database
from django_formula.host import clock, file
from django_formula.host.commands import DeploymentError
from django_formula.offsite import copies, repository, sealed
from django_formula.offsite.repository import Repository
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log

log = Log.of(__name__)

#: What receives the content of a part.
Take = Callable[[bytes], object]


def send(site: Site, store: Repository, state: dict[str, Any]) -> str:
    """Send a copy of the newest backup and return its name.

    Args:
        state: what the host remembers, which is changed.

    Raises:
        DeploymentError: there is no backup, it is damaged, or the store does not take it.
    """
    options, chosen = repository.options(site), copies.newest_backup(site)
    if not chosen:
        hint = f"salt-call django.backup {site.name} makes one"
        raise DeploymentError(f"{site.name} has no backup to copy", hint=hint)
    store.make_sure(is_new=not state["copies"])
    first = chosen[0]
    copy = _Copy(store, str(first["backup"]))
    with contextlib.ExitStack() as stack:
        paths = [site.backups / manifest["name"] for manifest in chosen]
        # All at first: what is sent takes hours, and a newer backup may have this one deleted.
        opened = [stack.enter_context(open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")) for path in paths]
        for manifest, dump in zip(chosen, opened, strict=True):
            backups.verify_open(site, manifest, dump)
            log.info("%s: copying %s", site.name, manifest["name"])
            copy.send(copies.part_of(manifest["name"]), dump, manifest["sha256"])
    if options["media"]:
        sites.refuse_unmounted_media(site)
        _send_uploads(copy, Database(site, "media", "media", str(site.media)))
    copy.send(sealed.NAME, sealed.seal(site, options["recipients"]))
    index = {key: first[key] for key in ("backup", "taken", "release", "commit")}
    index |= {"dumps": [{**one, "verified": ""} for one in chosen], "parts": copy.parts}
    copy.send(copies.INDEX, file.in_memory(json.dumps(index).encode()))
    state |= {"copied": copy.name, "taken": first["taken"], "copies": {**state["copies"], copy.name: copy.made}}
    if options["prune"]:
        _delete_former(store, state, options["keep"])
    return copy.name


class _Copy:
    """A copy that is being sent, and what its index has of each part."""

    def __init__(self, store: Repository, name: str):
        self.store, self.name, self.made = store, name, clock.now()
        self.parts: dict[str, dict[str, Any]] = {}

    def send(self, part: str, content: BinaryIO, digest: str = "") -> None:
        """Send a part that is a file, which is closed.

        Args:
            digest: its SHA-256, where it has just been compared.
        """
        with content:
            digest, size = digest or file.sha256(content), os.fstat(content.fileno()).st_size
            os.lseek(content.fileno(), 0, os.SEEK_SET)
            self._note(part, self.store.send(part, self.name, self.made, content.fileno()), size, digest)

    def send_while_made(self, part: str, make: Callable[[Take], object]) -> None:
        """Send what a function makes. Where that fails, what was sent stays in the store, and is in no index."""
        read, write = os.pipe()
        digest, size, write_whole = hashlib.sha256(), 0, dumps.writer(write)

        def send() -> str:
            try:
                return self.store.send(part, self.name, self.made, read)
            finally:
                os.close(read)  # what is still made is refused then, and does not wait

        def take(content: bytes) -> None:
            nonlocal size
            write_whole(content)
            digest.update(content)
            size += len(content)

        failure: DeploymentError | None = None
        with ThreadPoolExecutor(1) as executor:
            sending = executor.submit(send)
            try:
                make(take)
            except DeploymentError as error:
                failure = error
            finally:
                os.close(write)
            snapshot = sending.result()  # its failure is the cause of the other one
        if failure:
            raise failure
        self._note(part, snapshot, size, digest.hexdigest())

    def _note(self, part: str, snapshot: str, size: int, digest: str) -> None:
        self.parts[part] = {"snapshot": snapshot, "size": size, "sha256": digest}


def _send_uploads(copy: _Copy, uploads: Database) -> None:
    """Send the uploads as a tar, which the site's user packs."""
    for attempt in range(media.ATTEMPTS):
        try:
            copy.send_while_made(copies.UPLOADS, lambda take: media.pack(uploads, take))
            break
        except DeploymentError as error:
            if attempt == media.ATTEMPTS - 1 or not media.has_changed(error):
                raise


def _delete_former(store: Repository, state: dict[str, Any], keep: dict[str, int]) -> None:
    """Delete the copies that do not stay, and the parts of those that were never whole."""
    snapshots = store.snapshots()
    made = copies.whole(snapshots)
    stay = copies.kept(made, keep)
    former = [one.id for one in snapshots if one.tag not in stay]
    if former:
        store.forget(former)
    state["copies"] = {name: made[name] for name in sorted(stay)}
