"""Products of cases: which of them the default run has, and which only --all."""

from collections.abc import Collection

import pytest


def shortened(cases: Collection[str], *chosen: str) -> list[object]:
    """All cases as parameters, of which the default run has the chosen ones.

    Raises ValueError where a chosen one is none of the cases.

    Example: ``@pytest.mark.parametrize("form", shortened(FORMS, "uv.lock", "poetry.lock"))``
    """
    unknown = set(chosen) - set(cases)
    if unknown:
        raise ValueError(f"no such cases: {', '.join(sorted(unknown))}")
    return [case if case in chosen else pytest.param(case, marks=pytest.mark.full) for case in cases]
