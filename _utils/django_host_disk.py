"""Disk space: what a tree uses, and what a file system has free."""

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import NamedTuple

from django_host_command import DeploymentError
from django_wall_text import in_command

#: Fewer free inodes than these count as none: other processes take them as soon as they are free.
_FEW_FILES = 16


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
    """Add to an error caused by a full file system how much bytes or inodes that of a folder has left."""
    if os.strerror(errno.ENOSPC).lower() in f"{error.message}\n{error.log}".lower():
        with contextlib.suppress(OSError):
            space = free(path)
            what = (
                f"{in_command('df', '-i', str(path))}: no inodes are left"
                if space.files < _FEW_FILES
                else f"{in_command('df', '-h', str(path))}: {space} are left"
            )
            error.hint = "\n".join(filter(None, [error.hint, what]))
