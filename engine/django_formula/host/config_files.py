"""Configuration files of daemons: compare and install those that the formula manages."""

import difflib
import os
from collections.abc import Collection
from pathlib import Path

from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.untrusted.text import proposal

OURS = "# Written by django-formula"

#: The content of files by path: None for a file to remove, ``-> target`` for a link.
Files = dict[Path, str | None]


def read(path: Path) -> str | None:
    """Return the content of a file, ``-> target`` for a link, or None where neither exists."""
    if path.is_symlink():
        return f"-> {os.readlink(path)}"
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None


def is_managed(path: Path) -> bool:
    """Return whether the formula wrote a file, or the target of a link; a dangling link counts as its own."""
    try:
        return not path.is_file() or path.read_text(errors="replace").startswith(OURS)
    except OSError:
        return False


def differences(files: Files) -> dict[str, str]:
    """Return a diff for each file whose content differs from the given one, by path.

    Raises:
        DeploymentError: a file of that name exists that the formula did not write.
    """
    found = {}
    for path, content in files.items():
        present = read(path)
        if present != content:
            refuse_in_the_way(path)
            found[str(path)] = _diff(present, content)
    return found


def refuse_in_the_way(path: Path) -> None:
    """Refuse a file that the formula did not write.

    Raises:
        DeploymentError: there is such a file.
    """
    if read(path) is not None and not is_managed(path):
        raise DeploymentError(
            f"{path} is in the way: it was not written by this formula",
            hint=proposal("move it away: {}", "mv", str(path), "/root/"),
        )


def _diff(old: str | None, new: str | None) -> str:
    if old is None or new is None or new.startswith("-> "):
        return f"new: {new.splitlines()[0] if new.startswith('-> ') else 'file'}" if new else "removed"
    return "\n".join(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=1))


def install(files: Files, folders: Collection[Path] = ()) -> None:
    """Write, link or remove files.

    Args:
        folders: the folders whose subfolders are removed with their last file.
    """
    for path, content in files.items():
        if content is None:
            path.unlink(missing_ok=True)
            if path.parent.parent in folders and path.parent.is_dir() and not any(path.parent.iterdir()):
                path.parent.rmdir()
        elif read(path) != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            if content.startswith("-> "):
                file.link(path, content[3:])
            else:
                file.write(path, content)
