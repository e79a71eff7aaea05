"""When a schedule runs: systemd's calendar expressions and cron's five fields, and one in terms of the other."""

import re

from django_formula.host import commands
from django_formula.host.commands import DeploymentError

#: Words for the start of each hour, day, week and so on, which both have: as cron's five fields.
WORDS = {
    "minutely": "* * * * *",
    "hourly": "0 * * * *",
    "daily": "0 0 * * *",
    "weekly": "0 0 * * 1",
    "monthly": "0 0 1 * *",
    "yearly": "0 0 1 1 *",
}
_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
#: The first value of each of cron's fields: minute, hour, day of the month, month.
_FIRST = (0, 0, 1, 1)


def is_fields(at: str) -> bool:
    """Return whether a time is written in cron's five fields."""
    return len(at.split()) == 5 and bool(re.fullmatch(r"[0-9*/, -]+", at))


def cron(at: str) -> str | None:
    """Return a time as cron's five fields, or None if only systemd knows it."""
    return " ".join(at.split()) if is_fields(at) else WORDS.get(at)


def calendar(at: str) -> str:
    """Return a time as an expression of ``OnCalendar``.

    >>> calendar("*/15 8-18 * * 1-5")
    'Mon,Tue,Wed,Thu,Fri *-*-* 8..18:0/15:00'
    """
    if not is_fields(at):
        return at
    *times, weekday = at.split()
    minute, hour, day, month = (_field(text, first) for text, first in zip(times, _FIRST, strict=True))
    days = "" if weekday == "*" else f"{','.join(_weekdays(weekday))} "
    return f"{days}*-{month}-{day} {hour}:{minute}:00"


def _field(text: str, first: int) -> str:
    parts = [re.sub(r"^\*/", f"{first}/", part).replace("-", "..") for part in text.split(",")]
    return ",".join(parts)


def _weekdays(text: str) -> list[str]:
    """Return the weekdays of cron's last field, in which both 0 and 7 are Sunday."""
    found = set()
    for part in text.split(","):
        span, _slash, step = part.partition("/")
        start, _hyphen, end = ("0-6" if span == "*" else span).partition("-")
        found |= {number % 7 for number in range(int(start), int(end or start) + 1, int(step or 1))}
    return [_DAYS[number] for number in (1, 2, 3, 4, 5, 6, 0) if number in found]


def refuse_invalid(at: str, key: str) -> None:
    """Check with systemd that a time is valid and comes again.

    Args:
        key: the pillar key that sets it, for the error.

    Raises:
        DeploymentError: it is not.
    """
    expression, reason = calendar(at), ""
    try:
        argv = ["systemd-analyze", "calendar", expression]
        if "Next elapse: never" in commands.run(argv, doing="checking the time", timeout=10):
            reason = "it is in the past, or on a day that no month has"
    except DeploymentError as error:
        reason = (error.log.strip().splitlines() or [error.message])[-1]
    if reason:
        written = expression if expression == at else f"{at} (in systemd's notation: {expression})"
        raise DeploymentError(
            f"{key}: systemd does not accept {written}: {reason}",
            hint=f"try it: systemd-analyze calendar '{expression}'",
        )
