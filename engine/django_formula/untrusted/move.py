"""Rename a folder whose entries a less trusted user decides, also where its file system renames no folder.

overlayfs renames none that is in a lower layer, such as the image of a container (EXDEV); it renames files, links and
new folders. So the folder is made again, and its entries are renamed one by one, by the descriptors of their folders as
in `untrusted.foreign`.
"""

import contextlib
import errno
import os
from pathlib import Path

from django_formula.host.commands import DeploymentError
from django_formula.untrusted.foreign import DEPTH, entries

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def rename(path: Path, target: Path) -> None:
    """Rename a folder, whose parent and that of the target only root may change.

    Where that takes several steps and one fails, the folder has its entries back; where this process is killed,
    `undo` gives them back.

    Args:
        target: a path that does not exist.

    Raises:
        OSError: it cannot be renamed, for example as the disk is full.
    """
    try:
        os.rename(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        part = _part(target)
        try:
            _merge(path, part)
            os.rename(part, target)
        except BaseException:
            undo(path, target)
            raise


def undo(path: Path, target: Path) -> bool:
    """Give a folder its entries back if `rename` was killed; return whether it was."""
    part = _part(target)
    if not os.path.lexists(part):
        return False
    _merge(part, path)
    return True


def _part(target: Path) -> Path:
    """Return where the entries are until all are there."""
    return target.with_name(f".{target.name}.moving")


def _merge(path: Path, target: Path) -> None:
    """Move all entries of a folder into another one, which is created if it does not exist; remove the folder."""
    with contextlib.ExitStack() as stack:
        source = _opened(stack, str(path), None)
        is_new = _make(str(target), None)  # only root reaches what is below it until all is there
        _move(source, _opened(stack, str(target), None), str(path), DEPTH, is_new=is_new)
    os.rmdir(path)


def _move(source: int, target: int, path: str, depth: int, *, is_new: bool) -> None:
    """Move the entries of an open folder; one that is new gets the owner, mode and times of the other."""
    if not depth:
        raise DeploymentError(f"{path}: folders are nested more than {DEPTH} deep")
    status = os.fstat(source)
    for name in entries(source, path):
        try:
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        except OSError as error:
            # a folder of a lower layer, or one that is in the target already, of a move that was killed
            if error.errno not in (errno.EXDEV, errno.ENOTEMPTY, errno.EEXIST):
                raise
            with contextlib.ExitStack() as stack:
                folder = _opened(stack, name, source)
                is_new_below = _make(name, target)
                _move(folder, _opened(stack, name, target), f"{path}/{name}", depth - 1, is_new=is_new_below)
            os.rmdir(name, dir_fd=source)
    if is_new:
        _copy_status(source, status, target)


def _make(name: str, folder: int | None) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        return False
    return True


def _copy_status(source: int, status: os.stat_result, target: int) -> None:
    """Give a folder the owner, mode, access lists and times that another one had."""
    os.fchown(target, status.st_uid, status.st_gid)
    os.fchmod(target, status.st_mode & 0o7777)
    with contextlib.suppress(OSError):  # not on each file system
        for name in os.listxattr(source):
            if not name.startswith("trusted."):  # overlayfs' own
                os.setxattr(target, name, os.getxattr(source, name))
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def _opened(stack: contextlib.ExitStack, name: str, folder: int | None) -> int:
    descriptor = os.open(name, _FOLDER, dir_fd=folder)
    stack.callback(os.close, descriptor)
    return descriptor
