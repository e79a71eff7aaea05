"""The time in records and messages."""

import pytest
from django_formula.host import clock


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-5, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (172800, "2 d")],
)
def test_age_is_rounded_to_one_unit(monkeypatch, seconds, expected):
    when = clock.timestamp(1772366400)
    assert when == "2026-03-01T12:00:00Z"
    monkeypatch.setattr(clock.time, "time", lambda: 1772366400.0 + seconds)
    assert clock.age(when) == expected and clock.age("") == clock.age("torn") == ""
