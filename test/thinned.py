"""Long products of cases that one kind of code has: every n-th case by default, and each of them with --all."""

from collections.abc import Iterable
from typing import Any

import pytest


def full(*values: Any) -> Any:
    """A case of a test that only --all runs."""
    return pytest.param(*values, marks=pytest.mark.full)


def each(step: int, cases: Iterable[Any]) -> list[Any]:
    """Cases of which every `step`-th runs by default, from the first on."""
    return [
        case if place % step == 0 else full(*(case if isinstance(case, tuple) else (case,)))
        for place, case in enumerate(cases)
    ]
