"""Disk space: what a tree uses, and what a file system has free."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from django_formula.host.commands import DeploymentError
from django_formula.untrusted.text import in_command

#: Fewer free inodes than these count as none: other processes take them as soon as they are free.
_FEW_FILES = 16
#: Fewer bytes count as none; in /run systemd refuses to reload its units with less than its own buffer.
_FEW_BYTES, _RELOAD = 1 << 20, 16 << 20
#: What systemd reports then, in lower case.
_REFUSED = "not enough space available on /run"
RUN = Path("/run")
#: Folders of the host that a deployment writes to, apart from those of the site.
SHARED = (RUN, *map(Path, ("/tmp", "/var/tmp", "/dev/shm", "/var/lib", "/etc")))  # noqa: S108 # nosec B108


class Space(NamedTuple):
    """A number of bytes and a number of inodes: each file and folder uses one."""

    bytes: int
    files: int

    def __str__(self) -> str:
        return f"{self.bytes >> 20} MB and {self.files} inodes"


def of_tree(path: Path) -> Space:
    """Return the space that a tree uses; links are not followed."""
    taken, files, folders = 0, 0, [str(path)]
    while folders:
        with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                files += 1
                taken += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
    return Space(taken, files)


def free(path: Path) -> Space:
    """Return the space that the file system of a folder has free for all users."""
    found = os.statvfs(path)
    return Space(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else sys.maxsize)


def add_hint(error: DeploymentError, path: Path) -> None:
    """Add to an error caused by a full file system which ones are full, or how much that of a folder has left.

    An error of a system call or of systemd does not always have the path: /run and others may be what is full.
    """
    text = f"{error.message}\n{error.log}"
    if any(cause in text.lower() for cause in (os.strerror(errno.ENOSPC).lower(), _REFUSED)):
        with contextlib.suppress(OSError):
            lines = [_line(one) for one in _distinct((path, *SHARED)) if _is_full(one)] or [_line(path)]
            error.hint = "\n".join(filter(None, [error.hint, *lines]))


def _line(path: Path) -> str:
    space = free(path)
    if space.files < _FEW_FILES:
        return f"{in_command('df', '-i', str(path))}: no inodes are left"
    return f"{in_command('df', '-h', str(path))}: {space} are left"


def _is_full(path: Path) -> bool:
    space = free(path)
    return space.files < _FEW_FILES or space.bytes < (_RELOAD if path == RUN else _FEW_BYTES)


def _distinct(paths: Iterable[Path]) -> list[Path]:
    """Return the folders that exist, the first one of each file system."""
    found: dict[int, Path] = {}
    for path in paths:
        with contextlib.suppress(OSError):
            found.setdefault(os.stat(path).st_dev, path)
    return [*found.values()]
