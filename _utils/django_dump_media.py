"""The uploads of a site, as a tar of their folder; not a database, but backed up and restored like one."""

import os
from pathlib import Path
from typing import Any

import django_command
import django_site
from django_command import DeploymentError
from django_dump import Database
from django_site import Folder

SUFFIX = "tar"


def look(database: Database) -> dict[str, int]:
    """As `django_dump.Engine.look`; a folder without files counts as one without tables."""
    walk = os.walk(database.name, onerror=_refuse)
    files = [os.path.join(parent, name) for parent, _folders, names in walk for name in names]
    return {"size": sum(map(_size, files)) + 1024 * len(files), "tables": 1 if files else 0}


def _refuse(error: OSError) -> None:
    """A folder that cannot be read is no empty one."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


def dump(database: Database, file: int) -> dict[str, Any]:
    """As `django_dump.Engine.dump`; files that are uploaded meanwhile are in it or not, but never cut."""
    argv = ["tar", "--create", "--sparse", f"--directory={database.name}", "."]
    for turn in range(3):
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        try:
            _run(database, argv, doing="packing the uploads", output=file)
            break
        except DeploymentError as error:
            if turn == 2 or "changed as we read it" not in error.log:
                raise
    os.lseek(file, 0, os.SEEK_SET)
    listed = _run(database, ["tar", "--list"], doing="listing the uploads", stdin=file)
    return {"rows": {"files": _files(listed.splitlines())}, "migrations": []}


def _files(names: list[str]) -> int:
    return sum(not name.endswith("/") for name in names)


def load(database: Database, name: str, file: int) -> dict[str, Any]:
    """As `django_dump.Engine.load`."""
    site = database.site
    django_site.make_folder(Folder(Path(name), site.user, site.proxy_group, 0o2750))
    argv = ["tar", "--extract", "--preserve-permissions", f"--directory={name}"]
    _run(database, argv, doing="unpacking the uploads", stdin=file)
    return {"rows": rows(database._replace(name=name)), "migrations": []}


def rows(database: Database) -> dict[str, int]:
    """As `django_dump.Engine.rows`: the number of files."""
    return {"files": sum(len(names) for _parent, _folders, names in os.walk(database.name))}


def refuse(database: Database) -> None:
    """As `django_dump.Engine.refuse`: a folder can always be exchanged."""


def swap(database: Database, name: str, kept: str) -> None:
    """As `django_dump.Engine.swap`."""
    os.rename(database.name, kept)
    os.rename(name, database.name)
    django_site.sync_folder(Path(name).parent)


def drop(database: Database, name: str) -> None:
    """As `django_dump.Engine.drop`."""
    django_site.remove_tree(Path(name))


def _run(database: Database, argv: list[str], *, doing: str, **streams: Any) -> str:
    site = database.site
    return django_command.run(argv, doing=doing, user=site.user, timeout=database.timeout(), umask=0o027, **streams)
