"""How far apart the times of a schedule are."""

import pytest
from django_formula.schedule import intervals

HOUR, DAY = 3600, 86400


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [
        ("hourly", HOUR),
        ("daily", DAY),
        ("weekly", 7 * DAY),
        ("monthly", 31 * DAY),
        ("03:30", DAY),
        ("03:30:15", DAY),
        ("*:0/15", 15 * 60),
        ("*:00", HOUR),
        ("00/6:00", 6 * HOUR),
        ("08..18:30", 14 * HOUR),
        ("02,14:00", 12 * HOUR),
        ("Mon..Fri 03:30", 3 * DAY),
        ("Mon..Fri 08..18:00", 2 * DAY + 14 * HOUR),
        ("Sat,Sun 03:30", 6 * DAY),
        ("Fri..Mon 03:30", 4 * DAY),
        ("Sun 03:30", 7 * DAY),
        ("*-*-01 03:30", 31 * DAY),
        ("*-*-01,15 03:30", 17 * DAY),
        ("*-01-01 00:00", 366 * DAY),
        ("*-02-30 00:00", 0),
    ],
)
def test_longest_time_between_two_times(expression, seconds):
    assert intervals.longest(expression) == seconds


@pytest.mark.parametrize(
    ("expression", "does"),
    [
        ("weekly", True),
        ("*-02-29 03:30", True),
        ("Mon *-02-29 03:30", True),  # in 2044
        ("*-02-30 03:30", False),
        ("*-04,06-31 03:30", False),
        ("18..08:00", False),
        ("08..12..18:00", False),
        ("Mon..Wed..Fri 03:30", False),
    ],
)
def test_expression_comes_or_never_does(expression, does):
    assert intervals.comes(expression) == does
