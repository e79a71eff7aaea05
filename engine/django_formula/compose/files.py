"""Files in a folder of a user: written once, and never over one that differs."""

from django_formula.host import file
from django_formula.untrusted.foreign import Foreign, Owner

#: The end of the name of a file that is written next to one that differs.
NEW = ".new"


def put(
    path: Foreign,
    text: str,
    *,
    mode: int,
    owner: Owner,
    of_folder: Owner,
    replaces_empty: bool = False,
    offered: str = "",
) -> str:
    """Write a file, or the same with `NEW` after its name where there is another one that lacks a line of ours.

    Args:
        owner: the owner of the file.
        of_folder: the owner of folders that are made for it.
        replaces_empty: whether an empty file is none, as one of a secret.
        offered: the checksum of what was written next to it before; it is not written there again once it is gone.

    Returns:
        What was done: ``written``, ``unchanged`` or ``differs``.
    """
    if not path.exists() or (replaces_empty and path.text() == ""):
        path.parent.make_folder(mode=0o755, owner=of_folder)
        path.write(text, mode=mode, owner=owner)
        return "written"
    if path.text() == text:
        return "unchanged"
    new = path.parent / f"{path.name}{NEW}"
    if _has_all(path, text) or (offered == file.checksum(text) and not new.exists()):
        return "unchanged"
    new.write(text, mode=mode, owner=owner)
    return "differs"


def _has_all(path: Foreign, text: str) -> bool:
    """Return whether a file of patterns, such as .dockerignore, has all of ours among its own."""
    own = {line.strip() for line in (path.text() or "").splitlines()}
    ours = {line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")}
    return path.name.endswith("ignore") and ours <= own
