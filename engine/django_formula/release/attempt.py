"""Attempts: each deployment of a site with its result, a line of ``deploys.jsonl``, and the number of the next one."""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from django_formula.host import file
from django_formula.site.sites import Site


def append(site: Site, attempt: dict[str, Any]) -> None:
    """Record an attempt durably, on a line of its own even where the last line is incomplete."""
    file.append(site.deploys, json.dumps(attempt, sort_keys=True), mode=0o640)


def attempts(site: Site) -> list[dict[str, Any]]:
    """Return the attempts in their order, without incomplete lines."""
    return list(_newest_first(site))[::-1]


def _newest_first(site: Site) -> Iterator[dict[str, Any]]:
    for line in reversed(_text(site).splitlines()):
        try:
            attempt = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(attempt, dict):
            yield attempt


def failures(site: Site) -> list[dict[str, Any]]:
    """Return the attempts that failed or were interrupted since the last good one, newest first.

    An attempt is good as well where there was nothing to do. A refused one is neither.
    """
    decided = (attempt for attempt in _newest_first(site) if attempt.get("result") != "refused")
    return list(itertools.takewhile(lambda attempt: attempt.get("result") in ("failed", "interrupted"), decided))


def has_released(site: Site) -> bool:
    """Return whether a release of the site was ever activated."""
    return '"result": "released"' in _text(site)


def sequences(site: Site) -> list[int]:
    """Return the sequence numbers of the releases of all attempts, also from incomplete lines."""
    return [int(number) for number in re.findall(r'"release": "(\d+)-', _text(site))]


def _text(site: Site) -> str:
    try:
        return site.deploys.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""


def next_sequence(site: Site) -> int:
    """Return the next sequence number: one more than that of any release and attempt."""
    names = [path.name.split("-")[0] for path in site.releases.iterdir()] if site.releases.is_dir() else []
    return max([*(int(name) for name in names if name.isdigit()), *sequences(site)], default=0) + 1


def next_name(site: Site, commit: str, least: int = 0) -> str:
    """Return the name of the next release: ``0042-3f2a9c1b77de``; its number is not less than `least`."""
    return f"{max(next_sequence(site), least):04d}-{commit[:12]}"
