"""The time in records and messages."""

import django_host_clock
import pytest


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(-5, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2 h"), (172800, "2 d")],
)
def test_age_is_rounded_to_one_unit(monkeypatch, seconds, expected):
    when = django_host_clock.timestamp(1772366400)
    assert when == "2026-03-01T12:00:00Z"
    monkeypatch.setattr(django_host_clock.time, "time", lambda: 1772366400.0 + seconds)
    assert django_host_clock.age(when) == expected and django_host_clock.age("") == django_host_clock.age("torn") == ""
