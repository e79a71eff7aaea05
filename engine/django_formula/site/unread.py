"""What daemons of this host have not read yet: a process that is killed between a change and their reload notes it.

The notes are in /run, which a boot forgets, as it has each daemon read everything.
"""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from django_formula.site import sites


def is_unread(name: str) -> bool:
    """Return whether a daemon has not read what was changed."""
    return _note(name).exists()


@contextlib.contextmanager
def noted(names: Collection[str], *, restores: bool = True) -> Iterator[None]:
    """Note that these daemons have not read what is changed in this block; at its end they have.

    Args:
        names: of their notes.
        restores: whether the block leaves everything as it was before where it fails.
    """
    notes = [_note(name) for name in names]
    new = [note for note in notes if not note.exists()]
    sites.make_runtime()
    for note in new:
        note.touch(mode=0o600)
    try:
        yield
    except BaseException:
        for note in new if restores else ():
            note.unlink(missing_ok=True)
        raise
    for note in notes:
        note.unlink(missing_ok=True)


def _note(name: str) -> Path:
    return sites.RUNTIME / f"{name}.unread"
