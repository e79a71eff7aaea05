"""Former secret keys: how long each still verifies what it has signed, by a clock that nobody sets."""

import time
from pathlib import Path
from typing import Any

import django_host_file
import django_host_proc
import django_secret
import django_wall_shape
from django_site import Site


def _file(site: Site) -> Path:
    return site.secrets / ".former_keys.json"


def expired(site: Site, age: float | None, *, test: bool = False) -> list[str]:
    """The former keys that no session, link or cookie can have been signed with any more.

    What counts is the time that the host has been up since a key was replaced, and was seen to be. That is never more
    than the time that has passed, whatever the wall clock says or said: a host that is often off drops a key late, none
    drops it early. The wall clock can only make it later, after a boot: another host, with the files of this one, may
    have been up for longer. A key whose record is gone begins anew.

    Args:
        age: the seconds for which the project takes what it has signed; None keeps every key.
        test: do not write down what was seen.
    """
    former = django_secret.fallbacks(site)
    if not former or age is None:
        return []
    now = {"boot": django_host_proc.boot_id(), "uptime": _uptime(), "time": time.time()}
    records = django_host_file.read_json(_file(site)) or {}
    seen = {key: _seen(records.get(django_secret.fingerprint(key)), now, age) for key in former}
    if not test and any(_is_news(records.get(django_secret.fingerprint(key)), seen[key]) for key in former):
        django_host_file.write_json(
            _file(site), {django_secret.fingerprint(key): seen[key] for key in former}, mode=0o600
        )
    return [key for key in former if seen[key]["lived"] > seen[key]["age"]]


#: What is recorded of a former key.
_RECORD = {"boot": str, **dict.fromkeys(("uptime", "time", "lived", "age"), float)}


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _seen(record: Any, now: dict[str, Any], age: float) -> dict[str, Any]:
    """What is known of a former key now: the seconds that it has lived as one, and what they are counted from."""
    if not django_wall_shape.fits(record, _RECORD):
        return {**now, "lived": 0.0, "age": age}
    if record["boot"] == now["boot"]:
        more = now["uptime"] - record["uptime"]
    else:
        more = min(now["uptime"], now["time"] - record["time"])
    return {**now, "lived": record["lived"] + max(more, 0.0), "age": max(age, record["age"])}


def _is_news(record: Any, seen: dict[str, Any]) -> bool:
    """Whether what was seen is worth a write: a new key, boot or age, or a tenth of its time."""
    if not isinstance(record, dict) or any(record.get(name) != seen[name] for name in ("boot", "age")):
        return True
    return bool(seen["lived"] - record.get("lived", 0.0) > seen["age"] / 10)
