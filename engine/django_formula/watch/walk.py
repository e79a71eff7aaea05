"""The walk of `django.doctor` through a site that is down, for the message about it.

It is made by a unit of its own: a proxy that tests its configuration binds ports and opens logs, as the watch may not.
"""

import contextlib
import time
from pathlib import Path
from typing import Any

from django_formula.doctor import walks
from django_formula.host import daemons, file, units
from django_formula.site import sites
from django_formula.watch import spool

#: Seconds that a walk may take.
PATIENCE = 20
_SHAPE = {"at": (int, float), "link": [(str, bool)]}


def main(name: str) -> int:
    """Walk through a site, and write its broken link; return the exit code."""
    began, broken = time.time(), walks.walk(sites.find(name), skip_network=True, explains=False).broken
    _path(name).parent.mkdir(mode=0o700, exist_ok=True)
    file.write_json(_path(name), {"at": began, "link": list(broken or ())}, mode=0o600, durable=False)
    return 0


def broken_link(name: str) -> list[Any]:
    """Return the broken link of a site, as `walks.Link` has it; empty where a walk finds none, or does not end."""
    began = time.time()
    if daemons.has_systemd():
        unit = f"django-doctor@{name}.service"
        units.attempt("start", unit, doing=f"walking through {name}", timeout=PATIENCE + 5)
    else:
        with contextlib.suppress(Exception):  # the others are looked at, as where a unit of its own fails
            main(name)
    walked = file.read_json(_path(name), _SHAPE)
    return walked["link"] if walked and walked["at"] >= began else []


def _path(name: str) -> Path:
    return spool.STATE / "walks" / f"{name}.json"
