"""The requests of a site, counted from the JSON access log of its proxy.

Lines are data of visitors: only three numbers of each are taken, where the quotes around them cannot be a visitor's.
"""

import bisect
import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

#: The upper bounds of the durations that are counted, in seconds.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LINE = re.compile(rb'"protocol":"[^"]*","status":(\d{3}),"bytes":(\d{1,18}),"seconds":(\d[\d.e+-]{0,20})')


class Requests(NamedTuple):
    """What was counted: requests by the class of their status, bytes, seconds, and how many took how long."""

    codes: dict[str, int]
    bytes: int
    seconds: float
    buckets: list[int]


def count(lines: bytes) -> Requests:
    """Return the requests of some lines of a log; what is no line of it is left out."""
    codes, size, seconds, buckets = dict[str, int](), 0, 0.0, [0] * (len(BUCKETS) + 1)
    for status, sent, took in _LINE.findall(lines):
        with contextlib.suppress(ValueError):
            duration = float(took)
            code = f"{status[:1].decode()}xx"
            codes[code] = codes.get(code, 0) + 1
            buckets[bisect.bisect_left(BUCKETS, duration)] += 1
            size, seconds = size + int(sent), seconds + duration
    return Requests(codes, size, seconds, buckets)


def add(total: dict[str, Any], more: Requests) -> dict[str, Any]:
    """Return the requests of all looks, of those before and one more."""
    before = Requests(**total) if total else Requests({}, 0, 0.0, [0] * len(more.buckets))
    codes = {code: before.codes.get(code, 0) + more.codes.get(code, 0) for code in {**before.codes, **more.codes}}
    buckets = [one + another for one, another in zip(before.buckets, more.buckets, strict=True)]
    return Requests(codes, before.bytes + more.bytes, before.seconds + more.seconds, buckets)._asdict()


#: Seconds of the last hour, and between two counts that are kept for it.
HOUR, _KEPT = 3600.0, 300.0


def of_hour(kept: list[list[Any]], total: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return the requests of the last hour: ``requests``, ``errors`` (5xx) and ``p95`` in seconds, if any.

    Args:
        kept: times with the totals of looks, which is updated.
        total: what was counted so far, as `add` returns it.
        now: seconds since 1970.
    """
    before, later = [one for one in kept if one[0] <= now - HOUR][-1:], [one for one in kept if one[0] > now]
    kept[:] = before + [one for one in kept if now - HOUR < one[0] <= now]
    codes, buckets = total["codes"], total["buckets"]
    if not kept:  # at the first look, or after a clock was set back: what was counted by then is not of this hour
        kept.append([now, *(later[0][1:] if later else ({}, [0] * len(buckets)))])
    elif now - kept[-1][0] >= _KEPT:
        kept.append([now, codes, buckets])
    _since, of_codes, of_buckets = kept[0]
    took = [one - former for one, former in zip(buckets, of_buckets, strict=True)]
    errors = codes.get("5xx", 0) - of_codes.get("5xx", 0)
    return {"requests": sum(took), "errors": errors, "p95": _quantile(took, 0.95)}


def _quantile(counts: Sequence[int], share: float) -> float | None:
    """Return the duration that a share of requests did not exceed, within its bucket as Prometheus has it.

    Of those in the last bucket, which has no upper bound, it is the lower one.
    """
    rank, below = share * sum(counts), 0
    for number, count in enumerate(counts):
        if count and below + count >= rank:
            low = BUCKETS[number - 1] if number else 0.0
            high = BUCKETS[number] if number < len(BUCKETS) else low
            return low + (high - low) * (rank - below) / count
        below += count
    return None
