"""What git leaves in a mirror when it is killed or the disk is full: locks, which stop the next one, and partial packs.

Git removes neither: it cannot know whether another process still needs them. A process that writes to a mirror holds a
shared lock of its folder, so that they are removed only where there is no such process.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

#: What git leaves in the folders of a repository: folder → names. In `refs` all others are names of branches and tags.
_LEFTOVERS = {
    "": re.compile(r".+\.lock|shallow_.+|packed-refs\.new"),
    "refs": re.compile(r".+\.lock"),
    "objects": re.compile(r"\.?tmp[_-].+"),
}


@contextlib.contextmanager
def writing(mirror: Path) -> Iterator[None]:
    """Remove what killed processes have left in a mirror, before it is written to and where that fails."""
    if not mirror.is_dir():  # git says so
        yield
        return
    folder = os.open(mirror, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _clear(folder, mirror)
        fcntl.flock(folder, fcntl.LOCK_SH)
        try:
            yield
        except BaseException:
            _clear(folder, mirror)
            raise
    finally:
        os.close(folder)


def _clear(folder: int, mirror: Path) -> None:
    """Remove the leftovers of a mirror unless another process writes to it.

    Args:
        folder: the open folder of the mirror.
    """
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    for path in _leftovers(mirror):
        path.unlink(missing_ok=True)


def _leftovers(mirror: Path) -> Iterator[Path]:
    for top, names in _LEFTOVERS.items():
        for parent, folders, files in os.walk(mirror / top):
            if not top:
                folders.clear()
            yield from (Path(parent, name) for name in files if names.fullmatch(name))
