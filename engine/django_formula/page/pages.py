"""The page of this host: written by the watch after each look, or into any folder by `django.page`."""

import json
import os
import stat
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.host import clock, file, folders, users
from django_formula.host.commands import DeploymentError
from django_formula.page import document, seen
from django_formula.untrusted.text import proposal
from django_formula.watch import decide, look, spool

NAME = "index.html"
#: What the page shows, for programs.
DATA = "status.json"
#: What hosts have last shown of themselves, next to the state of the watch.
KEPT = "hosts.json"
#: What the watch is configured with, on a host that is not watched.
_DEFAULTS = {"every": 60, "disk": 10, "queue": 1000, "drift": False, "channels": {}}


def write(folder: Path, hosts: Sequence[document.Host]) -> Path:
    """Write the page of hosts into a folder, and its data next to it; return the path of the page."""
    now = max((host["time"] for host in hosts), default=time.time())
    path = folder / NAME
    file.write(path, document.of_hosts(hosts, now), durable=False)
    data = {"version": 1, "time": clock.timestamp(now), "hosts": hosts}
    file.write(folder / DATA, json.dumps(data) + "\n", durable=False)
    return path


def of_look(found: look.Seen, known: decide.Known, now: float) -> None:
    """Write the page of this host after a look of the watch.

    Args:
        found: what it has found.
        known: what is known of problems since when.
    """
    write(spool.PAGE, [seen.of_look(found, _since(known), now)])


def of_hosts(answers: Mapping[str, Any], now: float) -> None:
    """Write the page of all hosts of a master after a look of its watch.

    Args:
        answers: what each shows of itself, or as a text why it shows nothing.
    """
    kept = seen.known_now(spool.state(KEPT), answers, now)
    spool.keep(kept, KEPT)
    write(spool.PAGE, [kept[name] for name in sorted(kept)])


def _since(known: decide.Known) -> dict[str, float]:
    return {key: one["since"] for key, one in known.items()}


def here() -> dict[str, Any]:
    """Look at this host, whether it is watched or not; return what the page shows of it."""
    now, state = time.time(), spool.state()
    found = look.examine({**state}, {**_DEFAULTS, **spool.config()}, now)
    return seen.of_look(found, _since(state.get("known", {})), now)


def page(folder: str) -> dict[str, Any]:
    """Do what `django.page` asks for: write the page of this host into a folder.

    Raises:
        DeploymentError: users other than root may write there.
    """
    place = safe(folder)
    found = here()
    path = write(place, [found])
    return {"page": str(path), "sites": len(found["sites"]), "problems": len(found["problems"])}


def safe(folder: str) -> Path:
    """Return a folder in which root may write a page: created for root alone where it is missing.

    Raises:
        DeploymentError: it is relative, no folder, or users other than root may write to it or replace it.
    """
    path = Path(folder)
    if not path.is_absolute():
        raise DeploymentError(f"{folder} is not an absolute path", hint="django.page /srv/status")
    folders.refuse_unsafe_parents(path)
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        path.mkdir(mode=0o700, parents=True)
        return path
    if not stat.S_ISDIR(status.st_mode):
        raise DeploymentError(f"{path} is not a folder", hint="name another one, or remove it")
    if status.st_uid != os.geteuid() or status.st_mode & (0o002 if not status.st_gid else 0o022):
        found = f"{users.owner_of(status)} {status.st_mode & 0o7777:04o}"
        hint = (
            proposal("{}", "chown", "root:", str(path)) if status.st_uid else proposal("{}", "chmod", "go-w", str(path))
        )
        raise DeploymentError(
            f"users other than root may write to {path} ({found}), and could replace the page", hint=hint
        )
    return path
