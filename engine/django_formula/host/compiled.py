"""Templates as Jinja has compiled them: compiling takes most of the time of an apply with nothing to do."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jinja2

#: Where they are kept.
FOLDER = Path("/var/lib/django-formula/templates")
#: Those that were compiled before there was a folder to keep them in.
_unkept: list["jinja2.bccache.Bucket"] = []


def cache() -> "jinja2.FileSystemBytecodeCache":
    """Return Jinja's cache in that folder."""
    import jinja2

    return jinja2.FileSystemBytecodeCache(str(FOLDER))


def add(template: "jinja2.bccache.Bucket") -> None:
    """Keep a template that was compiled, now or once there is a folder."""
    if FOLDER.is_dir():
        with contextlib.suppress(OSError):  # a full disk is reported by what needs it
            cache().set_bucket(template)
    else:
        _unkept.append(template)


def keep() -> None:
    """Make the folder, and keep in it what this apply has compiled: the next one compiles none."""
    FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(OSError):
        while _unkept:
            cache().set_bucket(_unkept.pop())
