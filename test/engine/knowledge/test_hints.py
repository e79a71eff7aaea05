"""Hints that are made of a site's options."""

import pytest
from django_formula.knowledge import hints
from specimen import configured


@pytest.mark.parametrize(
    ("message", "keys"),
    [
        ("build: make: timed out after 1800 s", ["build"]),
        ("git fetch: timed out after 120 s", ["fetch"]),
        ("x: timed out after 600 s", ["command", "lock"]),
        ("x: timed out after 17 s", []),
        ("x failed (exit 1)", []),
    ],
)
def test_timeout_of_the_site_is_named(message: str, keys: list[str]) -> None:
    hint = hints.more_time(configured(), message)
    named = " or ".join(f"django:sites:blog:timeouts:{key}" for key in keys)
    assert hint == (f"give it more time: set {named}" if keys else "")
