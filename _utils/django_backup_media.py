"""The uploads of a site, as a tar of their folder; not a database, but backed up and restored like one."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django_backup_dump
import django_host_command
import django_host_file
import django_host_folder
import django_wall_delegate
from django_backup_dump import Database
from django_host_command import DeploymentError
from django_host_folder import Folder

SUFFIX = "tar"


def look(database: Database) -> dict[str, int]:
    """As `django_backup_dump.Engine.look`; a folder without files counts as one without tables."""
    size, files = _ask(database, _look, database.name)
    return {"size": size + 1024 * files, "tables": 1 if files else 0}


def _ask(database: Database, function: Callable[[str], Any], folder: str) -> Any:
    """Have a function look through a folder as the site's user, who decides what is in it."""
    timeout, doing = database.timeout(), "looking through the uploads"
    return django_wall_delegate.ask(database.site.user, function, folder, doing=doing, timeout=timeout)


def _look(folder: str) -> tuple[int, int]:
    """The bytes of the files below a folder, and how many there are."""
    size = count = 0
    for parent, _folders, names in os.walk(folder, onerror=_refuse):
        count += len(names)
        size += sum(_size(os.path.join(parent, name)) for name in names)
    return size, count


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
    """As `django_backup_dump.Engine.dump`; files that are uploaded meanwhile are in it or not, but never cut."""
    argv = ["tar", "--create", "--sparse", f"--directory={database.name}", "."]
    for turn in range(3):
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        try:
            with django_backup_dump.received("packing the uploads", django_backup_dump.into(file)) as pipe:
                _run(database, argv, doing="packing the uploads", output=pipe)
            break
        except DeploymentError as error:
            if turn == 2 or "changed as we read it" not in error.log:
                raise
    os.lseek(file, 0, os.SEEK_SET)
    counter = _Counter()
    with django_backup_dump.received("listing the uploads", counter.take) as pipe:
        _run(database, ["tar", "--list"], doing="listing the uploads", stdin=file, output=pipe)
    return {"rows": {"files": counter.files}, "migrations": []}


class _Counter:
    """Counts the names of a list that comes part by part, but for those of folders; names hold no line breaks."""

    def __init__(self) -> None:
        self.files, self._last = 0, b""

    def take(self, part: bytes) -> None:
        text = self._last + part
        self.files += text.count(b"\n") - text.count(b"/\n")
        self._last = b"/" if text.endswith(b"/") else b""


def load(database: Database, name: str, file: int) -> dict[str, Any]:
    """As `django_backup_dump.Engine.load`."""
    site = database.site
    django_host_folder.make(Folder(Path(name), site.user, site.proxy_group, 0o2750))
    argv = ["tar", "--extract", "--preserve-permissions", f"--directory={name}"]
    _run(database, argv, doing="unpacking the uploads", stdin=file)
    return {"rows": rows(database._replace(name=name)), "migrations": []}


def rows(database: Database) -> dict[str, int]:
    """As `django_backup_dump.Engine.rows`: the number of files."""
    return {"files": _ask(database, _look, database.name)[1]}


def refuse(database: Database) -> None:
    """As `django_backup_dump.Engine.refuse`: a folder can always be exchanged."""


def swap(database: Database, name: str, kept: str) -> None:
    """As `django_backup_dump.Engine.swap`."""
    os.rename(database.name, kept)
    os.rename(name, database.name)
    django_host_file.sync_folder(Path(name).parent)


def mend(database: Database, kept: str) -> None:
    """As `django_backup_sqlite.mend`."""
    if os.path.lexists(kept) and not os.path.lexists(database.name):
        os.rename(kept, database.name)


def drop(database: Database, name: str) -> None:
    """As `django_backup_dump.Engine.drop`."""
    django_host_file.remove_tree(Path(name))


def _run(database: Database, argv: list[str], *, doing: str, **streams: Any) -> str:
    site = database.site
    return django_host_command.run(
        argv, doing=doing, user=site.user, timeout=database.timeout(), umask=0o027, **streams
    )
