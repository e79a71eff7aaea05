"""Folders below folders of root: create them with owner, group and mode, and refuse paths that others could replace."""

import contextlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from django_formula.host import users
from django_formula.host.commands import DeploymentError
from django_formula.untrusted.text import proposal


class Folder(NamedTuple):
    """A folder with its owner, group and mode."""

    path: Path
    owner: str
    group: str
    mode: int


def problem(folder: Folder) -> str:
    """Return how a folder differs from its definition; empty where it does not.

    Raises:
        DeploymentError: the path is not a folder.
    """
    try:
        status = os.lstat(folder.path)
    except FileNotFoundError:
        return "missing"
    if not stat.S_ISDIR(status.st_mode):
        raise _not_a_folder(folder.path)
    found = (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))
    defined = (users.user_id(folder.owner), users.group_id(folder.group), folder.mode)
    return (
        ""
        if found == defined
        else f"{users.owner_of(status)} {found[2]:04o}, not {folder.owner}:{folder.group} {folder.mode:04o}"
    )


def refuse_unsafe_parents(path: Path, at: str = "") -> None:
    """Refuse a path below a folder that users other than root may write to: they could replace the folders in it.

    Args:
        at: the pillar key that sets the path, if one does.

    Raises:
        DeploymentError: a folder above the path is such a folder.
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
            command = ("chown", "root:") if status.st_uid else ("chmod", "go-w")
            found = f"{users.owner_of(status)} {status.st_mode & 0o7777:04o}"
            raise DeploymentError(
                f"{path} cannot be used: users other than root may write to {parent} ({found}), "
                "and could replace the folders below it, in which root works",
                hint=proposal("{}" + f", or set {at} to a path below others" * bool(at), *command, str(parent)),
            )


def make(folder: Folder) -> None:
    """Create a folder, or set its owner, group and mode."""
    folder.path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    with contextlib.suppress(FileExistsError):
        folder.path.mkdir(mode=0o700)
    try:
        descriptor = os.open(folder.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise _not_a_folder(folder.path) from None
    try:
        os.fchown(descriptor, users.user_id(folder.owner), users.group_id(folder.group))
        os.fchmod(descriptor, folder.mode)
    finally:
        os.close(descriptor)


def _not_a_folder(path: Path) -> DeploymentError:
    hint = proposal("move it away: {}", "mv", str(path), f"{path}.aside")
    return DeploymentError(f"{path} is in the way: it is not a folder", hint=hint)
