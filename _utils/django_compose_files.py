"""Files in a folder of a user: written once, and never over one that differs."""

from django_wall_foreign import Foreign, Owner

#: The end of the name of a file that is written next to one that differs.
NEW = ".new"


def put(path: Foreign, text: str, *, mode: int, owner: Owner, of_folder: Owner, replaces_empty: bool = False) -> str:
    """Write a file, or the same with `NEW` after its name where there is another one.

    Args:
        owner: the owner of the file.
        of_folder: the owner of folders that are made for it.
        replaces_empty: whether an empty file is none, as one of a secret.

    Returns:
        What was done: ``written``, ``unchanged`` or ``differs``.
    """
    if not path.exists() or (replaces_empty and path.text() == ""):
        path.parent.make_folder(mode=0o755, owner=of_folder)
        path.write(text, mode=mode, owner=owner)
        return "written"
    if path.text() == text:
        return "unchanged"
    (path.parent / f"{path.name}{NEW}").write(text, mode=mode, owner=owner)
    return "differs"
