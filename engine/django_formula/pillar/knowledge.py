"""Rows of knowledge in the pillar of a site: what the schema cannot check."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from django_formula.pillar.check import Problem


def patterns(site: dict[str, Any], _own: dict[str, Any]) -> Iterator[Problem]:
    """Yield patterns that are no regular expressions, as Python reports it."""
    for part in ("causes", "headers", "libraries"):
        for name, row in (site["knowledge"].get(part) or {}).items():
            try:
                re.compile(row.get("match") or "")
            except re.error as error:
                yield ("knowledge", part, name, "match"), f"expected a regular expression of Python: {error}"
