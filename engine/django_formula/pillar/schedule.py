"""Contradictions in the schedules of a site: what the schema cannot check option by option."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from django_formula.pillar.check import Problem


def schedules(site: dict[str, Any], _own: dict[str, Any]) -> Iterator[Problem]:
    """Yield ranges of cron that end before they begin."""
    for name, schedule in site.get("schedules", {}).items():
        at = schedule["at"] or ""
        if len(at.split()) == 5 and any(int(start) > int(end) for start, end in re.findall(r"(\d+)-(\d+)", at)):
            yield ("schedules", name, "at"), f"{at} has a range that ends before it begins: write two ranges"
