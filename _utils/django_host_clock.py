"""The time, as records and messages write it."""

import calendar
import time


def now() -> str:
    """The time as people and programs read it: ``2026-03-01T12:00:00Z``."""
    return timestamp()


def age(when: str) -> str:
    """How long ago a time is that `now` has written: ``40 s``, ``5 min``, ``3 h``, ``12 d``; empty where it is none."""
    try:
        passed = max(time.time() - calendar.timegm(time.strptime(when, "%Y-%m-%dT%H:%M:%SZ")), 0)
    except ValueError:
        return ""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= 2 * length:
            return f"{passed / length:.0f} {unit}"
    return f"{passed:.0f} s"


def timestamp(moment: float | None = None) -> str:
    """A time (seconds since 1970, by default the present) as `now` writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
