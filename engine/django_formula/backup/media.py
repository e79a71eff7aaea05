"""Back up and restore the uploads of a site, as a tar of their folder. They are treated like a database."""

import os
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from django_formula.backup import dumps
from django_formula.backup.dumps import Database, Dumper, Prepare, nothing
from django_formula.host import commands, folders, proc
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.untrusted import delegate, move
from django_formula.untrusted.text import in_command

#: How often a folder is packed whose files change meanwhile.
ATTEMPTS = 3
#: What GNU tar says of a file that another process writes, deletes or truncates while it is packed.
_CHANGED = re.compile("changed as we read it|removed before we read it|shrank by", re.IGNORECASE)


def alias(aliases: Collection[str]) -> str:
    """Return the alias of uploads in a backup, which is none of those of its databases."""
    return "media_uploads" if "media" in aliases else "media"


class MediaDumper(Dumper):
    """The folder of uploads; its files count as rows."""

    suffix = "tar"
    is_path = True

    def measure(self, database: Database) -> dict[str, int]:
        """Return the size of the folder; one without files counts as one without tables."""
        size, files = _measured(database)
        return {"size": size + 1024 * files, "tables": 1 if files else 0}

    def dump(self, database: Database, file: int) -> dict[str, Any]:
        """Pack the folder; a file that is uploaded meanwhile is in the tar or not, but never truncated."""
        for attempt in range(ATTEMPTS):
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            try:
                pack(database, dumps.writer(file))
                break
            except DeploymentError as error:
                if attempt == ATTEMPTS - 1 or not has_changed(error):
                    raise
        return {"rows": {"files": count_files(database, file)}, "migrations": []}

    def load(self, database: Database, name: str, file: int, _prepare: Prepare = nothing) -> dict[str, Any]:
        site = database.site
        folders.make(Folder(Path(name), site.user, site.proxy_group, 0o2750))
        argv = ["tar", "--extract", "--preserve-permissions", f"--directory={name}"]
        _run(database, argv, doing="unpacking the uploads", stdin=file)
        return {"rows": self.count_rows(database._replace(name=name)), "migrations": []}

    def count_rows(self, database: Database) -> dict[str, int]:
        """Return the number of files."""
        return {"files": _measured(database)[1]}

    def check_swappable(self, database: Database) -> None:
        site, folder = database.site, database.name
        if proc.mount(Path(folder)):
            raise DeploymentError(
                f"{folder} is a mount, which cannot be exchanged for a folder on this host",
                hint=f"restore without media=True, and unpack the uploads over those that are there: "
                f"{in_command('runuser', '-u', site.user, '--', 'tar', '-x', '-C', folder)} "
                f"< {site.backups}/media-….tar",
            )

    def swap(self, database: Database, name: str, kept: str) -> None:
        """Exchange the folders; there may be none to keep, which is what a backup is restored for."""
        if os.path.lexists(database.name):
            move.rename(Path(database.name), Path(kept))
        if os.path.lexists(name):  # else the exchange is undone
            os.rename(name, database.name)
        host_file.sync_folder(Path(name).parent)

    def undo_partial_swap(self, database: Database, kept: str) -> None:
        is_undone = move.undo(Path(database.name), Path(kept))
        if not is_undone and os.path.lexists(kept) and not os.path.lexists(database.name):
            os.rename(kept, database.name)

    def drop(self, database: Database, name: str) -> None:
        host_file.remove_tree(Path(name))


def pack(database: Database, take: Callable[[bytes], object]) -> None:
    """Pack the uploads of a site as its user; a function receives the tar part by part.

    Raises:
        DeploymentError: tar fails, or the function raises OSError.
    """
    argv = ["tar", "--create", "--sparse", "--sort=name", f"--directory={database.name}", "."]
    with dumps.received("packing the uploads", take) as pipe:
        _run(database, argv, doing="packing the uploads", output=pipe)


def has_changed(error: DeploymentError) -> bool:
    """Return whether packing failed since a file was written or deleted meanwhile: another attempt may succeed."""
    return _CHANGED.search(error.log) is not None


def count_files(database: Database, file: int) -> int:
    """Return the number of files in a tar of uploads."""
    os.lseek(file, 0, os.SEEK_SET)
    counter = _Counter()
    with dumps.received("listing the uploads", counter.take) as pipe:
        _run(database, ["tar", "--list"], doing="listing the uploads", stdin=file, output=pipe)
    return counter.files


def _measured(database: Database) -> tuple[int, int]:
    """Measure the folder as the site's user, who controls what is in it."""
    timeout, doing = database.timeout(), "looking through the uploads"
    size, files = delegate.ask(database.site.user, _measure, database.name, doing=doing, timeout=timeout)
    return size, files


def _measure(folder: str) -> tuple[int, int]:
    """Return the bytes of the files below a folder, and their number, as `tar --list` has them: a link is a file."""
    size = count = 0
    for parent, below, names in os.walk(folder, onerror=_refuse_unreadable):
        names += [name for name in below if os.path.islink(os.path.join(parent, name))]
        count += len(names)
        size += sum(_size(os.path.join(parent, name)) for name in names)
    return size, count


def _refuse_unreadable(error: OSError) -> None:
    """Raise the error of a folder that cannot be read, which is not an empty folder."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


class _Counter:
    """Counts the names in the output of ``tar --list``, without folders; tar escapes line breaks in names."""

    def __init__(self) -> None:
        self.files, self._last = 0, b""

    def take(self, part: bytes) -> None:
        text = self._last + part
        self.files += text.count(b"\n") - text.count(b"/\n")
        self._last = b"/" if text.endswith(b"/") else b""


def _run(database: Database, argv: list[str], *, doing: str, **streams: Any) -> str:
    site = database.site
    return commands.run(argv, doing=doing, user=site.user, timeout=database.timeout(), umask=0o027, **streams)
