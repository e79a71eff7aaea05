"""Folders of root's: made with an owner, a group and a mode, and refused where others could exchange them."""

import contextlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

import django_host_user
from django_host_command import DeploymentError


class Folder(NamedTuple):
    """A folder of a site with its owner, group and mode."""

    path: Path
    owner: str
    group: str
    mode: int


def problem(folder: Folder) -> str:
    """What is wrong with a folder, in words; empty when nothing is.

    Raises:
        DeploymentError: the path is taken by something that is not a folder.
    """
    try:
        status = os.lstat(folder.path)
    except FileNotFoundError:
        return "missing"
    if not stat.S_ISDIR(status.st_mode):
        raise _in_the_way(folder.path)
    found = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
    wanted = (django_host_user.user_id(folder.owner), django_host_user.group_id(folder.group), folder.mode)
    return (
        ""
        if found == wanted
        else f"{django_host_user.owner_of(status)} {found[2]:04o}, not {folder.owner}:{folder.group} {folder.mode:04o}"
    )


def refuse_unsafe_parents(path: Path, at: str) -> None:
    """Refuse a path below a folder in which anybody but root may rename: they would decide what root works in.

    Args:
        at: the key of the pillar that names the path.

    Raises:
        DeploymentError: there is such a folder.
    """
    for place in dict.fromkeys([path, Path(os.path.realpath(path))]):
        for parent in reversed(place.parents):
            try:
                status = os.lstat(parent)
            except FileNotFoundError:
                break
            is_link = stat.S_ISLNK(status.st_mode)
            if status.st_uid == 0 and (is_link or not status.st_mode & (0o002 if not status.st_gid else 0o022)):
                continue
            way = f"chown root: {parent}" if status.st_uid else f"chmod go-w {parent}"
            raise DeploymentError(
                f"{path} cannot be used: {parent} is {django_host_user.owner_of(status)} "
                f"{status.st_mode & 0o7777:04o}, and who may write there can put another folder in its place, "
                "for root to work in",
                hint=f"leave {at} out, and take the usual folder; or give that folder to root: {way}",
            )


def make(folder: Folder) -> None:
    """Make a folder, or give it its owner, group and mode."""
    folder.path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    with contextlib.suppress(FileExistsError):
        folder.path.mkdir(mode=0o700)
    try:
        descriptor = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise _in_the_way(folder.path) from None
    try:
        os.fchown(descriptor, django_host_user.user_id(folder.owner), django_host_user.group_id(folder.group))
        os.fchmod(descriptor, folder.mode)
    finally:
        os.close(descriptor)


def _in_the_way(path: Path) -> DeploymentError:
    return DeploymentError(f"{path} is in the way: it is not a folder", hint=f"move it away: mv {path} {path}.aside")
