"""Long products of cases that one kind of code has: some of the cases by default, and each of them with --all."""

from collections.abc import Collection, Iterable
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


def pairs(first: Iterable[Any], second: Collection[Any]) -> list[Any]:
    """Every pair of two, the first one's in turn; by default each of the first is in one, with the second in turn."""
    return [
        (one, other) if place % len(second) == turn else full(one, other)
        for place, one in enumerate(first)
        for turn, other in enumerate(second)
    ]
