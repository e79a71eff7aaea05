"""Files below /etc that the formula writes for a daemon: whose they are, what differs, how they get there."""

import difflib
import os
from collections.abc import Collection
from pathlib import Path

import django_host_file
from django_host_command import DeploymentError

OURS = "# Written by django-formula"

#: Files by path; None is a file that must not be there; ``-> target`` is a link.
Files = dict[Path, str | None]


def read(path: Path) -> str | None:
    """What a file holds, or ``-> target`` of a link; None when it is not there."""
    if path.is_symlink():
        return f"-> {os.readlink(path)}"
    try:
        return path.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return None


def is_managed(path: Path) -> bool:
    """Whether a file, or what a link leads to, was written by the formula; a link to nothing may go too."""
    try:
        return not path.is_file() or path.read_text(errors="replace").startswith(OURS)
    except OSError:
        return False


def differences(wanted: Files) -> dict[str, str]:
    """The files that are not as wanted: path → what differs, as a diff.

    Raises:
        DeploymentError: a file of somebody else is in the way.
    """
    found = {}
    for path, content in wanted.items():
        present = read(path)
        if present != content:
            if present is not None and not is_managed(path):
                raise DeploymentError(
                    f"{path} is in the way: it was not written by this formula", hint=f"move it away: mv {path} /root/"
                )
            found[str(path)] = _diff(present, content)
    return found


def _diff(old: str | None, new: str | None) -> str:
    if old is None or new is None or new.startswith("-> "):
        return f"new: {new.splitlines()[0] if new.startswith('-> ') else 'file'}" if new else "removed"
    return "\n".join(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=1))


def install(wanted: Files, folders: Collection[Path] = ()) -> None:
    """Bring files in place.

    Args:
        folders: those whose own folders go with the last file in them.
    """
    for path, content in wanted.items():
        if content is None:
            path.unlink(missing_ok=True)
            if path.parent.parent in folders and path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()
        elif read(path) != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            if content.startswith("-> "):
                django_host_file.link(path, content[3:])
            else:
                django_host_file.write(path, content)
