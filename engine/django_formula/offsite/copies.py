"""The copies of a site elsewhere: what one consists of, which are there, which stay, and what the host knows of them.

A copy is the newest backup of the site's databases and queue, its uploads, and its sealed secrets. Its last part says
what the others have to be: a copy without it is not one.
"""

import datetime
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from django_formula.backup import backups
from django_formula.host import clock, file
from django_formula.host.commands import DeploymentError
from django_formula.host.locks import Lock
from django_formula.offsite import repository, sealed
from django_formula.offsite.repository import Repository, Snapshot
from django_formula.site.sites import Site
from django_formula.untrusted import shapes

#: The part that has what a copy consists of, and its shape.
INDEX = "copy.json"
_PART = {"snapshot": str, "size": int, "sha256": str}
_COPY = {
    **dict.fromkeys(("backup", "taken", "release", "commit"), str),
    "dumps": [backups.MANIFEST],
    "parts": {str: _PART},
}
#: What the host remembers: the copies that are there and when each was made, and when each task was done, tried, and
#: failed.
_STATE = {
    **dict.fromkeys(("store", "copied", "taken", "drill"), str),
    **{name: {str: str} for name in ("copies", "done", "tried")},
    "failed": {str: {"since": str, "cause": str}},
}
#: Bytes of an index.
_INDEX_LIMIT = 4 << 20
#: The name of a backup, and so of its copy.
_NAME = re.compile(r"\d{8}T\d{6}Z-\d{4,}-[0-9a-f]{12}")
#: The part that has the uploads.
UPLOADS = "media.tar"
#: What is done with copies, as status names it.
COPY, CHECK, DRILL = "copy", "check", "drill"
#: Seconds that a backup may wait for its copy before that is a problem.
_LATE = 3 * 3600

Copy = dict[str, Any]


def lock(site: Site, holder: str, patience: str = "") -> Lock:
    """Return the lock under which the copies of a site are made, checked and fetched.

    Args:
        patience: how long it is waited for; by default as for a deployment.
    """
    return Lock(
        site.backups / ".offsite.lock",
        holder,
        busy=f"another copy of {site.name}",
        timeout=patience or site.config["timeouts"]["lock"],
        hint=f"wait until it has finished, or end it: systemctl stop django-{site.name}-offsite.service",
    )


# What the host remembers


def read_state(site: Site) -> dict[str, Any]:
    """Return what the host remembers of the copies of a site in the store that the pillar has now."""
    state, store = file.read_json(_state_file(site), _STATE), repository.place(site)
    if state and state["store"] == store:
        return state
    return {"store": store, "copied": "", "taken": "", "copies": {}, "done": {}, "tried": {}, "drill": "", "failed": {}}


def write_state(site: Site, state: Mapping[str, Any]) -> None:
    """Have the host remember it."""
    file.write_json(_state_file(site), dict(state), mode=0o600)


def _state_file(site: Site) -> Path:
    return site.backups / "offsite.json"


def status(site: Site) -> dict[str, str]:
    """Return what `django.status` shows of the copies: the newest, their number, the last drill, and what failed."""
    if not repository.configured(site.config):
        return {"offsite": ""}
    state = read_state(site)
    count = len(state["copies"])
    parts = [f"{state['taken']}, {count} {'copy' if count == 1 else 'copies'}"] if count else []
    parts += [f"drill {state['drill']}"] if state["drill"] else []
    failed = state["failed"]
    parts += [f"{what} fails since {failed[what]['since']}: {failed[what]['cause']}" for what in sorted(failed)]
    newest = newest_backup(site)
    if newest and COPY not in failed and newest[0]["backup"] != state["copied"]:
        made = newest[0]["taken"]
        if time.time() - clock.seconds(made) > _LATE:
            parts.append(f"copy is missing: the backup of {made} is on this host alone")
    return {"offsite": "; ".join(parts) or "no copy yet"}


# Which copies stay


def kept(made: Mapping[str, str], keep: Mapping[str, int]) -> set[str]:
    """Return the copies that stay: the newest one, and the newest of each of the last days, weeks and months.

    Those of a clock that was ahead stay too, and count for none of these.

    ``restic forget --keep-daily … --group-by host,paths`` keeps the same ones.

    Args:
        made: when each copy was made, by its name.
        keep: how many days, weeks and months: ``{"daily": 14, "weekly": 8, "monthly": 12}``.
    """
    ahead = {name for name, when in made.items() if clock.is_ahead(when)}
    newest_first = sorted({*made} - ahead, key=lambda name: (made[name], name), reverse=True)
    stay = {*newest_first[:1], *ahead}
    for unit, period_of in _PERIODS.items():
        newest: dict[Any, str] = {}
        for name in newest_first:
            newest.setdefault(period_of(datetime.date.fromisoformat(made[name][:10])), name)
        stay |= {newest[period] for period in sorted(newest, reverse=True)[: keep[unit]]}
    return stay


_PERIODS: dict[str, Callable[[datetime.date], Any]] = {
    "daily": lambda day: day,
    "weekly": lambda day: day.isocalendar()[:2],
    "monthly": lambda day: (day.year, day.month),
}


# What is there


def newest_backup(site: Site) -> list[dict[str, Any]]:
    """Return the manifests of the newest backup of all databases; uploads are not copied from it."""
    others = (backups.MIGRATION, backups.MOMENT)
    whole = [one for one in backups.manifests(site) if one["why"] not in others and one["engine"] != "media"]
    return [one for one in whole if one["backup"] == whole[0]["backup"]]


def whole(snapshots: Iterable[Snapshot]) -> dict[str, str]:
    """Return when each whole copy was made, by its name."""
    return {
        one.tag: clock.timestamp(one.seconds) for one in snapshots if one.name == INDEX and _NAME.fullmatch(one.tag)
    }


def part_of(dump: str) -> str:
    """Return the name of the part that has a dump: that of each copy is the same, ``default.dump``.

    Raises:
        ValueError: the name of the dump is none.
    """
    name = backups.NAME.fullmatch(dump)
    if not name:
        raise ValueError(dump)
    return f"{name[1]}.{name[3]}"


def check(store: Repository, state: dict[str, Any], keep: Mapping[str, int], *, data: str = "") -> None:
    """Check that the copies are there that this host has made, and that the store has all they consist of.

    Args:
        keep: copies that are older may have been deleted elsewhere.
        data: see `Repository.check`.

    Raises:
        DeploymentError: a copy is gone, or data is missing or damaged.
    """
    name, present = store.site.name, whole(store.snapshots())
    gone = sorted(kept(state["copies"], keep) - {*present})
    if gone:
        raise DeploymentError(
            f"copies are gone that no rule has deleted: {', '.join(gone)}",
            hint=f"find out who can delete in the store; salt-call django.offsite {name} forget=True "
            "accepts what is there, and makes a new copy",
        )
    store.check(data=data)
    state["copies"] = present


def forget_missing(store: Repository) -> None:
    """No longer expect copies that are not there any more; a next one is made if the newest is not."""
    state, present = read_state(store.site), whole(store.snapshots())
    state["copies"] = present
    state["failed"].pop(CHECK, None)
    state["copied"] = state["copied"] if state["copied"] in present else ""
    write_state(store.site, state)


def find(store: Repository, which: str | None) -> Copy:
    """Return the index of a copy.

    Args:
        which: its name; None for the newest.

    Raises:
        DeploymentError: there is no such copy, or its index is damaged.
    """
    name = store.site.name
    snapshots = [one for one in store.snapshots() if one.name == INDEX and which in (None, one.tag)]
    if not snapshots:
        raise DeploymentError(
            f"there is no copy {which} of {name}" if which else f"{name} has no copy elsewhere",
            hint=f"salt-call django.backups {name} offsite=True lists them",
        )
    newest = max(snapshots, key=lambda one: (not clock.is_ahead(clock.timestamp(one.seconds)), one.seconds, one.tag))
    with file.in_memory(b"") as memory:
        store.fetch(newest.id, INDEX, memory.fileno())
        text = os.pread(memory.fileno(), _INDEX_LIMIT, 0).decode(errors="surrogateescape")
    copy: Copy = shapes.parse(text, _COPY, doing="reading the copy")
    is_known = all(backups.NAME.fullmatch(one["name"]) and one["engine"] in backups.KINDS for one in copy["dumps"])
    needed = {sealed.NAME, *(part_of(one["name"]) for one in copy["dumps"] if is_known)}
    if not is_known or copy["backup"] != newest.tag or not needed <= {*copy["parts"]} <= {*needed, UPLOADS}:
        raise DeploymentError(f"the copy {newest.tag} has not the parts of a copy", hint="fetch another one")
    return copy


def overview(store: Repository) -> list[dict[str, Any]]:
    """Return the copies, the newest first, and last those of a clock that was ahead: a row for each."""
    snapshots = store.snapshots()
    made = whole(snapshots)
    parts = {name: sorted({one.name for one in snapshots if one.tag == name} - {INDEX}) for name in made}
    newest_first = sorted(made, key=lambda name: (not clock.is_ahead(made[name]), made[name], name), reverse=True)
    return [{"backup": name, "age": clock.age(made[name]), "parts": ", ".join(parts[name])} for name in newest_first]
