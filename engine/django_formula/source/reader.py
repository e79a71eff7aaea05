"""The user who reads a path of this host: the one who can change what the path leads to."""

import contextlib
import os
import pwd
import stat
from typing import NamedTuple

from django_formula.host import users
from django_formula.host.commands import DeploymentError
from django_formula.untrusted.text import in_command

#: A group that Debian lets write to /usr/local/bin, so that it is as trusted as root.
_TRUSTED_GROUP = "staff"


class Reader(NamedTuple):
    """A user who reads a path of this host.

    Attributes:
        name: None for root, and for a uid without a user.
    """

    uid: int
    gid: int
    name: str | None


ROOT = Reader(0, 0, None)


def reader(path: str) -> Reader:
    """Return the reader of a path: the first user on the way to it who can replace what is there.

    Git opens files by their paths, which a user with write access can replace by links at any time. So a path is read
    with the rights of that user, and as root only if no other user has write access.

    Raises:
        DeploymentError: it is owned by root, but a folder on the way is writable for a group or for all users.
        OSError: it does not exist, or is a loop of links.
    """
    folder = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        rest, done, loose, links = path.split("/"), "", "", 0
        while rest:
            name = rest.pop(0)
            if name in ("", "."):
                continue
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if found.st_uid:
                return _reader(found.st_uid, found.st_gid)
            if stat.S_ISLNK(found.st_mode):
                links += 1
                target = os.readlink(name, dir_fd=folder)
                if links > 40:
                    raise OSError(f"{path} is a loop of links")
                rest, name = target.split("/") + rest, "/" if target.startswith("/") else "."
            done = "" if name == "/" else done if name == "." else f"{done}/{name}"
            inner = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
            if name not in (".", "/") and is_loose(found, is_last=not any(rest)):
                loose = loose or done
    finally:
        os.close(folder)
    if loose:
        raise DeploymentError(
            f"{path} is owned by root, but other users may write to {loose} and replace what is there",
            hint=f"{in_command('chmod', 'go-w', loose)}, or give {path} to the user who works there: "
            f"{in_command('chown', '-R', 'USER', path)}",
        )
    return ROOT


def is_loose(found: os.stat_result, *, is_last: bool) -> bool:
    """Return whether other users than root may replace what is in a folder of root.

    Args:
        found: the status of the folder.
        is_last: whether it is the folder itself; on the way to it, a sticky one such as /tmp is safe.
    """
    if found.st_mode & stat.S_ISVTX and not is_last:
        return False
    by_group = bool(found.st_mode & stat.S_IWGRP) and found.st_gid != 0
    if by_group and users.group_name(found.st_gid) == _TRUSTED_GROUP:
        by_group = False
    return by_group or bool(found.st_mode & stat.S_IWOTH)


def _reader(uid: int, gid: int) -> Reader:
    """Return a user with its own group; without an entry of the user, with the group of the path."""
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(uid)
        return Reader(uid, user.pw_gid, user.pw_name)
    return Reader(uid, gid, None)
