"""How far apart the times of a calendar expression are, as `backup:schedule` has it: hence when one was missed."""

import datetime
import functools
import itertools
from collections.abc import Sequence

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_WORDS = {"hourly": "*:00", "daily": "00:00", "weekly": "Mon 00:00", "monthly": "*-*-01 00:00"}
_MINUTES = 1440
#: The days among which times are looked for: they have a leap day, and one on each weekday of each month.
_PERIOD = [datetime.date(2001, 1, 1) + datetime.timedelta(days) for days in range(12 * 366)]


@functools.cache
def longest(expression: str) -> float:
    """Return the most seconds between two times of an expression of ``OnCalendar``; 0 where there are no two.

    >>> longest("Mon..Fri 03:30") / 86400
    3.0
    """
    *dates, time = _WORDS.get(expression, expression).split()
    days, minutes = _days(dates), _minutes(time)
    if len(days) < 2 or not minutes:
        return 0.0
    over_night = _widest(days) * _MINUTES + minutes[0] - minutes[-1]
    return 60.0 * max(over_night, _widest(minutes))


def comes(expression: str) -> bool:
    """Return whether an expression of ``OnCalendar`` has any time; systemd takes one of a day that no month has.

    >>> comes("*-02-30 03:30")
    False
    """
    *dates, time = _WORDS.get(expression, expression).split()
    try:
        _days(dates)
        # Each date of a year is on each weekday in some year, not always in the period.
        return bool(_days([part for part in dates if not part[0].isalpha()]) and _minutes(time))
    except ValueError:  # a range with three ends
        return False


def _widest(numbers: Sequence[int]) -> int:
    return max((after - before for before, after in itertools.pairwise(numbers)), default=0)


def _days(parts: Sequence[str]) -> list[int]:
    """Return the days of an expression, as numbers, by its weekdays and its date."""
    weekdays, months, numbers = {*range(7)}, {*range(1, 13)}, {*range(1, 32)}
    for part in parts:
        if part[0].isalpha():
            weekdays = _weekdays(part)
        else:
            _year, month, day = part.split("-")
            months, numbers = _values(month, 1, 12), _values(day, 1, 31)
    return [
        day.toordinal() for day in _PERIOD if day.weekday() in weekdays and day.month in months and day.day in numbers
    ]


def _weekdays(text: str) -> set[int]:
    found = set[int]()
    for part in text.split(","):
        first, _dots, last = part.partition("..")
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        found |= {(begin + number) % 7 for number in range((end - begin) % 7 + 1)}
    return found


def _minutes(time: str) -> list[int]:
    """Return the minutes of a day, in their order; seconds do not matter."""
    hour, minute, *_second = time.split(":")
    return sorted(60 * each + one for each in _values(hour, 0, 23) for one in _values(minute, 0, 59))


def _values(text: str, first: int, last: int) -> set[int]:
    """Return the values of a field: numbers, ranges such as ``8..18``, and every so many from one on, as ``0/15``."""
    found = set[int]()
    for part in text.split(","):
        span, _slash, step = part.partition("/")
        begin, _dots, end = span.partition("..")
        lowest = first if begin == "*" else int(begin)
        highest = int(end) if end else last if step or begin == "*" else lowest
        found |= {*range(lowest, highest + 1, int(step or 1))}
    return found
