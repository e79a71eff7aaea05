"""Give a tree that is in use to another user for a while: open files stay the same files, and owners can be restored.

Nothing is followed or opened but folders and regular files, by the descriptors of their folders as in
`untrusted.foreign`.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Collection, Iterator
from typing import NamedTuple

from django_formula.host.commands import DeploymentError
from django_formula.untrusted.foreign import DEPTH, ENTRIES, FILE, Foreign, Modes, Owner, entries

#: Uid, gid and mode of entries, by device and inode.
FormerOwners = dict[tuple[int, int], tuple[int, int, int]]


def hand_over(tree: Foreign, owner: Owner, modes: Modes, *, of: Collection[int], strict: bool = True) -> FormerOwners:
    """Change the owner of a tree that is in use: open files stay the same files.

    Args:
        owner: the new owner.
        modes: the new modes of folders and files.
        of: the uids of the present owners. Entries of root change too if only root can have created them.
        strict: whether entries of other users are refused; otherwise they stay as they are.

    Returns:
        The former owner and mode of each entry, for `take_back`.

    Raises:
        DeploymentError: an entry is owned by another user.
    """
    former: FormerOwners = {}
    with contextlib.suppress(FileNotFoundError), tree.folder_above() as (folder, name):
        for one in _walk_in_use(folder, name, str(tree), {*of, owner[0]}, strict, is_roots=True):
            former[one.key] = (one.status.st_uid, one.status.st_gid, stat.S_IMODE(one.status.st_mode))
            if len(former) > ENTRIES:
                raise DeploymentError(f"{tree} has more than {ENTRIES} entries")
            os.fchown(one.descriptor, *owner)
            os.fchmod(one.descriptor, modes.folder if stat.S_ISDIR(one.status.st_mode) else modes.file)
    return former


def check(tree: Foreign, *, of: Collection[int]) -> None:
    """Refuse a tree that `hand_over` would refuse; nothing is changed.

    Args:
        of: the uids of the present owners.

    Raises:
        DeploymentError: an entry is owned by another user.
    """
    with contextlib.suppress(FileNotFoundError), tree.folder_above() as (folder, name):
        for _one in _walk_in_use(folder, name, str(tree), {*of}, True, is_roots=True):
            pass


def take_back(tree: Foreign, former: FormerOwners) -> None:
    """Restore the owners and modes that entries had before `hand_over`; new entries stay as they are."""
    uids = {0, *(uid for uid, _gid, _mode in former.values())}
    with contextlib.suppress(FileNotFoundError), tree.folder_above() as (folder, name):
        for one in _walk_in_use(folder, name, str(tree), uids, False, is_roots=True, known=former):
            if one.key in former:
                uid, gid, mode = former[one.key]
                os.fchown(one.descriptor, uid, gid)
                os.fchmod(one.descriptor, mode)


class _InUse(NamedTuple):
    """An open folder or regular file: its descriptor and status."""

    descriptor: int
    status: os.stat_result

    @property
    def key(self) -> tuple[int, int]:
        return self.status.st_dev, self.status.st_ino


def _walk_in_use(
    folder: int,
    name: str,
    path: str,
    uids: Collection[int],
    strict: bool,
    *,
    is_roots: bool,
    known: Collection[tuple[int, int]] = (),
    depth: int = DEPTH,
) -> Iterator[_InUse]:
    """Yield the folders and regular files of a tree, each folder before its entries; links and others are skipped.

    Args:
        uids: the allowed owners.
        is_roots: whether only root can have created this entry.
        known: entries that any user may own.
    """
    try:
        descriptor = os.open(name, FILE, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return
        raise
    try:
        status = os.fstat(descriptor)
        one = _InUse(descriptor, status)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            return
        if status.st_uid not in uids and one.key not in known and not (is_roots and status.st_uid == 0):
            if strict:
                raise DeploymentError(
                    f"{path} belongs to uid {status.st_uid}, neither to the old site nor to the new one",
                    hint="give it to the old site's user, or move it away",
                )
            return
        yield one
        if stat.S_ISDIR(status.st_mode) and depth:
            is_roots = is_roots and status.st_uid == 0 and not status.st_mode & 0o022
            for below in entries(descriptor, path):
                yield from _walk_in_use(
                    descriptor, below, f"{path}/{below}", uids, strict, is_roots=is_roots, known=known, depth=depth - 1
                )
    finally:
        os.close(descriptor)
