"""Former secret keys: drop each once all that it signed has expired, measured by the uptime of the host.

Why no wall clock is used: docs/decisions/0030.
"""

import time
from pathlib import Path
from typing import Any

from django_formula.host import file, proc
from django_formula.secret import secrets
from django_formula.site.sites import Site
from django_formula.untrusted import shapes


def _file(site: Site) -> Path:
    return site.secrets / ".former_keys.json"


def expired(site: Site, age: float | None, *, test: bool = False) -> list[str]:
    """Return the former keys whose sessions, links and cookies have all expired.

    What counts is how long the host was up since a key was replaced: at most the time that has passed, whatever
    the wall clock reads. A host that is often off drops a key late, and none drops it early. After a boot the wall
    clock can only delay it: a copy of the host may have been up for longer. A key without a record starts anew.

    Args:
        age: the seconds for which the project accepts its signatures; None keeps every key.
        test: whether to leave the records as they are.
    """
    former = secrets.fallbacks(site)
    if not former or age is None:
        return []
    now = {"boot": proc.boot_id(), "uptime": _uptime(), "time": time.time()}
    records = file.read_json(_file(site)) or {}
    updated = {key: _updated(records.get(secrets.fingerprint(key)), now, age) for key in former}
    if not test and any(_is_worth_a_write(records.get(secrets.fingerprint(key)), updated[key]) for key in former):
        file.write_json(_file(site), {secrets.fingerprint(key): updated[key] for key in former}, mode=0o600)
    return [key for key in former if updated[key]["lived"] > updated[key]["age"]]


#: The record of a former key.
_RECORD = {"boot": str, **dict.fromkeys(("uptime", "time", "lived", "age"), float)}


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _updated(record: Any, now: dict[str, Any], age: float) -> dict[str, Any]:
    """Return the record of a former key as of now: its age as a former key, and what that is counted from."""
    if not shapes.fits(record, _RECORD):
        return {**now, "lived": 0.0, "age": age}
    if record["boot"] == now["boot"]:
        more = now["uptime"] - record["uptime"]
    else:
        more = min(now["uptime"], now["time"] - record["time"])
    return {**now, "lived": record["lived"] + max(more, 0.0), "age": max(age, record["age"])}


def _is_worth_a_write(record: Any, updated: dict[str, Any]) -> bool:
    """Return whether a record changed enough to be written: another key, boot or age, or a tenth of its time."""
    if not isinstance(record, dict) or any(record.get(name) != updated[name] for name in ("boot", "age")):
        return True
    return bool(updated["lived"] - record.get("lived", 0.0) > updated["age"] / 10)
