"""Format points in time and ages for records and messages."""

import calendar
import time

#: Seconds by which what was made on another host, or before the clock was corrected, may be ahead of now.
_AHEAD = 86400.0


def now() -> str:
    """Return the current time as a timestamp: ``2026-03-01T12:00:00Z``."""
    return timestamp()


def seconds(when: str) -> float:
    """Return a timestamp as seconds since 1970, or 0 if it is not one."""
    try:
        return calendar.timegm(time.strptime(when, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return 0


def is_ahead(when: str) -> bool:
    """Return whether a timestamp is so far ahead that a clock was wrong: what has it is not the newest."""
    return seconds(when) > time.time() + _AHEAD


def age(when: str) -> str:
    """Return the age of a timestamp (``40 s``, ``5 min``, ``3 h``, ``12 d``), or an empty text if it is not one."""
    moment = seconds(when)
    if not moment:
        return ""
    passed = max(time.time() - moment, 0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if passed >= 2 * length:
            return f"{passed / length:.0f} {unit}"
    return f"{passed:.0f} s"


def timestamp(moment: float | None = None) -> str:
    """Return seconds since 1970, by default the current time, as a timestamp."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
