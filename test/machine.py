"""The machine that runs the tests: what is not on a host of theirs changes only temporary folders."""

import os
import sys
from typing import Any

#: Where hosts have what the formula makes; a test has such folders below a temporary one.
_HOST = ("/etc/", "/run/", "/srv/django/", "/usr/", "/var/lib/")
_CHANGES = {"os.chmod", "os.chown", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.rmtree"}
#: What the second argument of is made.
_LINKS = {"os.link", "os.symlink"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

#: The changes of the running test.
found: list[str] = []


def _noted(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        paths = arguments[:1] if isinstance(arguments[2], int) and arguments[2] & _WRITES else ()
    else:
        paths = arguments[:2] if event in _CHANGES else arguments[1:2] if event in _LINKS else ()
    for path in paths:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(_HOST):
            found.append(f"{event} {os.fspath(path)}")


def watch() -> None:
    """Note in `found` what this process changes where hosts have their files."""
    sys.addaudithook(_noted)
