"""Which lines of a log are asked for: text of an operator, checked here, that no program takes for an option."""

import contextlib
import dataclasses
import re
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from django_formula.host.commands import DeploymentError, seconds

#: More lines than that are read from the log itself.
MOST = 10_000
#: The words of Django's levels, and those of the journal.
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "err", "critical": "crit"}
#: An id of a request, or enough of its begin: what proxies give and keep.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{5,127}")
_WORDS = {"today": 0, "yesterday": 1}
_FORMATS = ("%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%d %H:%M:%S", "%H:%M", "%H:%M:%S")
_LONGEST = 500
#: The time at the begin of a line: uWSGI's, as supervisor's log has it, and those of gunicorn and of Python's logging.
_TIME = re.compile(r"\[?(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,]\d+)? ?([+-]\d{4})?")
#: What the journal prints before a message: the time, the host, the program and its process.
_HEAD = re.compile(r"\S+ \S+ [^\s\[]+\[(\d+)\]: ")
#: Lines of a traceback that are not indented, but for the exception that ends it.
_CHAINED = re.compile(
    r"Traceback \(most recent call last\):|The above exception was the direct cause|During handling of the above"
)


@dataclasses.dataclass(frozen=True)
class Selection:
    """Lines of a log.

    Attributes:
        lines: their number, the last ones.
        since: the time (seconds since 1970) of the first one, or None.
        until: that of the last one, or None.
        grep: a regular expression of Perl that they contain; one without capitals also finds capitals. Empty for all.
        level: the least severe level, a key of `LEVELS`; empty for all.
        request: the id of a request, or its begin; empty for all.
    """

    lines: int
    since: float | None = None
    until: float | None = None
    grep: str = ""
    level: str = ""
    request: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it is just the last lines."""
        return self == Selection(self.lines)


def parse(
    lines: object = 50, since: object = "", until: object = "", grep: object = "", level: object = "", id: object = ""
) -> Selection:
    """Return the selection of the arguments of `django.logs`.

    Raises:
        DeploymentError: one of them is not what it has to be.
    """
    number = str(lines)
    if not number.isdecimal() or not 0 < int(number) <= MOST:
        raise DeploymentError(f"lines is a number from 1 to {MOST}, not {lines!r}")
    pattern, severity, request = (str(value or "") for value in (grep, level, id))
    if len(pattern) > _LONGEST or not pattern.isprintable():
        raise DeploymentError(f"grep is a regular expression of at most {_LONGEST} printable characters")
    if severity and severity not in LEVELS:
        raise DeploymentError(f"level is one of {', '.join(LEVELS)}, not {severity!r}")
    if request and not _ID.fullmatch(request):
        raise DeploymentError(f"{request!r} is not the id of a request", hint="give at least its first six characters")
    begin, end = moment(since, "since"), moment(until, "until")
    return Selection(int(number), begin, end, pattern, severity, request)


def moment(given: object, name: str) -> float | None:
    """Return a time (seconds since 1970) that is given as a duration before now, a time of today, or a date and time.

    Raises:
        DeploymentError: it is none of them.
    """
    text = str(given if given is not None else "").strip()
    if isinstance(given, int):  # Salt's command line reads 14:30 as YAML does, a number of base 60
        minutes, rest = divmod(given, 60)
        text = (
            f"{minutes}:{rest:02}"
            if minutes < 60 * 24 and given < 60 * 24
            else f"{minutes // 60}:{minutes % 60}:{rest}"
        )
    if not text:
        return None
    if re.fullmatch(r"\d+(s|m|h|d)", text):
        return time.time() - seconds(text)
    now = datetime.now()
    if text in _WORDS:
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        return (midnight - timedelta(days=_WORDS[text])).timestamp()  # a day has 23 or 25 hours where clocks change
    is_utc = text.endswith("Z")
    for form in _FORMATS:
        with contextlib.suppress(ValueError, OverflowError):  # also of a year that no zone has
            found = datetime.strptime(text.removesuffix("Z").replace("T", " "), form)
            found = found if "%Y" in form else found.replace(year=now.year, month=now.month, day=now.day)
            return (found.astimezone() if not is_utc else datetime.fromisoformat(f"{found}+00:00")).timestamp()
    raise DeploymentError(
        f"{name} is not a time: {text!r}",
        hint=f"{name}=1h, {name}=14:30, {name}='2026-11-27 14:30', or today or yesterday",
    )


def of_journal(selection: Selection) -> list[str]:
    """Return the options of journalctl for a selection; each begins with its own name, whatever the text is."""
    since, until = selection.since, selection.until
    return [
        *([f"--since=@{since:.0f}"] if since is not None else []),
        *([f"--until=@{until:.0f}"] if until is not None else []),
        *([f"--grep={selection.grep}"] if selection.grep else []),
        *([f"--priority={LEVELS[selection.level]}"] if selection.level else []),
    ]


def of_grep(pattern: str) -> list[str]:
    """Return the grep that finds a regular expression as journalctl does."""
    case = ["--ignore-case"] if pattern == pattern.lower() else []
    return ["grep", "--perl-regexp", "--text", *case, f"--regexp={pattern}"]


def between(lines: Sequence[str], selection: Selection) -> list[str]:
    """Return the lines of a file between the times of a selection; one without a time has that of the line before.

    Raises:
        DeploymentError: none of them has a time.
    """
    if selection.since is None and selection.until is None:
        return [*lines]
    timed = [*_timed(lines)]
    if lines and not any(when for when, _line in timed):
        raise DeploymentError("lines of this log have no time", hint="leave out since and until")
    first, last = selection.since or 0.0, selection.until or float("inf")
    return [line for when, line in timed if first <= when <= last]


def _timed(lines: Sequence[str]) -> Iterator[tuple[float, str]]:
    when = 0.0
    for line in lines:
        if found := _TIME.match(line):
            try:
                zone = f"{found[3][:3]}:{found[3][3:]}" if found[3] else ""
                when = datetime.fromisoformat(f"{found[1]} {found[2]}{zone}").timestamp()
            except (ValueError, OverflowError):  # no time, though it looks like one
                pass
        yield when, line


def of_request(lines: Sequence[str], request: str) -> list[str]:
    """Return the lines of a log that name a request, each with the traceback that follows it in its process."""
    found: list[str] = []
    is_frame: dict[str, bool] = {}  # whether the last line of a process that was taken is one of a traceback's frames
    for line in lines:
        head = _HEAD.match(line)
        process = head[1] if head else ""
        text = line[head.end() :] if head else _TIME.sub("", line, count=1).removeprefix(" ")
        if request in text:
            found.append(line)
            is_frame[process] = False
        elif process in is_frame:
            if not text or text[0].isspace() or _CHAINED.match(text) or is_frame[process]:
                found.append(line)
                is_frame[process] = text[:1].isspace()
            else:
                del is_frame[process]
    return found
