"""Which lines of a log are asked for, and how journalctl, grep and a file answer."""

import subprocess
import time
from datetime import datetime

import pytest
from django_formula.host.commands import DeploymentError
from django_formula.process import selection
from django_formula.process.selection import Selection

ID = "9123ac9f0b1c2d3e4f5061728394a5b6"
NOW = datetime(2026, 11, 27, 15, 0, 0).timestamp()


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.fixture(autouse=True)
def fixed(monkeypatch):
    class Now(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromtimestamp(NOW, tz)

    monkeypatch.setattr(selection, "datetime", Now)
    monkeypatch.setattr(selection.time, "time", lambda: NOW)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", None),
        (None, None),
        ("90s", NOW - 90),
        ("1h", NOW - 3600),
        ("2d", NOW - 2 * 86400),
        ("today", at("2026-11-27 00:00")),
        ("yesterday", at("2026-11-26 00:00")),
        ("14:30", at("2026-11-27 14:30")),
        (14 * 60 + 30, at("2026-11-27 14:30")),  # as Salt's command line reads it
        (14 * 3600 + 30 * 60 + 5, at("2026-11-27 14:30:05")),
        ("2026-11-20", at("2026-11-20 00:00")),
        ("2026-11-20 06:05", at("2026-11-20 06:05")),
        ("2026-11-20T06:05:04", at("2026-11-20 06:05:04")),
        ("2026-11-20T06:05:04Z", at("2026-11-20 06:05:04+00:00")),
    ],
)
def test_moment(given, expected):
    assert selection.moment(given, "since") == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lines": 0}, "lines is a number from 1 to 10000, not 0"),
        ({"lines": 10001}, "lines is a number from 1 to 10000, not 10001"),
        ({"lines": "--follow"}, "lines is a number from 1 to 10000, not '--follow'"),
        ({"since": "--vacuum-size=1"}, "since is not a time: '--vacuum-size=1'"),
        ({"until": "@0 --rotate"}, "until is not a time: '@0 --rotate'"),
        ({"since": 90000}, "since is not a time: '25:0:0'"),
        ({"since": "0001-01-01"}, "since is not a time: '0001-01-01'"),
        ({"level": "emerg..debug"}, "level is one of debug, info, warning, error, critical, not 'emerg..debug'"),
        ({"grep": "a\nb"}, "grep is a regular expression of at most 500 printable characters"),
        ({"grep": "a" * 501}, "grep is a regular expression of at most 500 printable characters"),
        ({"id": "--help"}, "'--help' is not the id of a request"),
        ({"id": "9123"}, "'9123' is not the id of a request"),
        ({"id": "9123ac9f;ls"}, "'9123ac9f;ls' is not the id of a request"),
    ],
)
def test_argument_is_refused(arguments, message):
    with pytest.raises(DeploymentError) as error:
        selection.parse(**arguments)
    assert error.value.message == message


def test_options_of_journalctl_begin_with_their_own_names():
    asked = selection.parse(7, since="1h", until="14:30", grep="--rotate", level="error")
    expected = [f"--since=@{NOW - 3600:.0f}", f"--until=@{at('2026-11-27 14:30'):.0f}", "--grep=--rotate"]
    assert selection.of_journal(asked) == [*expected, "--priority=err"]
    assert selection.of_journal(selection.parse()) == [] and selection.parse().is_plain and not asked.is_plain


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("boom", ["Boom", "boom -v"]),
        ("Boom", ["Boom"]),
        (r"^\w+$", ["Boom"]),
        ("-v", ["boom -v"]),
        ("--version", []),
    ],
)
def test_grep_finds_as_journalctl_does(pattern, found):
    text = "Boom\nboom -v\n"
    done = subprocess.run(selection.of_grep(pattern), input=text, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == found and done.returncode == (not found)


LINES = """\
before
2026-11-27T14:00:00+0000 first
no time of its own
[2026-11-27 14:10:00 +0000] [7] [INFO] second
2026-99-99T14:00:00+0000 no time
2026-11-27T14:20:00+0000 third""".splitlines()


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (None, None, LINES),
        ("2026-11-27T14:05:00+00:00", None, LINES[3:]),
        (None, "2026-11-27T14:05:00+00:00", LINES[:3]),
        ("2026-11-27T14:10:00+00:00", "2026-11-27T14:10:00+00:00", LINES[3:5]),
        ("2026-11-27T14:30:00+00:00", None, []),
    ],
)
def test_lines_of_a_file_between_two_times(since, until, expected):
    asked = Selection(50, since and at(since), until and at(until))
    assert selection.between(LINES, asked) == expected


def test_file_without_times_is_refused_where_one_is_asked_for():
    with pytest.raises(DeploymentError, match="lines of this log have no time"):
        selection.between(["a", "b"], Selection(50, since=NOW))
    assert selection.between([], Selection(50, since=NOW)) == []


def journal(text: str) -> list[str]:
    """Lines as the journal prints them: the number before each is that of its process."""
    rows = (line.split("|", 1) for line in text.splitlines())
    return [f"2026-11-27T14:00:00+0000 web1 django-blog-0001[{pid}]: {message}" for pid, message in rows]


TRACEBACK = f"""\
7|Internal Server Error: /boom [{ID}]
8|a line of another process
7|Traceback (most recent call last):
7|  File "/srv/x.py", line 3, in view
7|    1 / 0
7|ZeroDivisionError: division by zero
7|
7|During handling of the above exception, another exception occurred:
7|
7|Traceback (most recent call last):
8|Traceback (most recent call last):
7|  File "/srv/x.py", line 5, in view
7|    raise ValueError("no ink")
7|ValueError: no ink"""


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        (TRACEBACK, [1, 10]),
        (f"{TRACEBACK}\n7|the next request\n7|  indented", [1, 10, 14, 15]),
        (f"7|GET / [{ID}]\n7|GET /other\n8|x [{ID}]\n7|  not of it", [1, 3]),
        ("7|nothing of it\n7|  either", [0, 1]),
    ],
)
def test_lines_of_a_request_have_its_traceback(text, left_out):
    lines = journal(text)
    assert selection.of_request(lines, ID[:8]) == [one for number, one in enumerate(lines) if number not in left_out]
    plain = [line.partition("]: ")[2] for line in lines if "[7]" in line]
    kept = [line.partition("]: ")[2] for number, line in enumerate(lines) if "[7]" in line and number not in left_out]
    assert selection.of_request(plain, ID) == kept


@pytest.mark.parametrize(
    ("today", "expected"),
    [
        ("2026-03-30T12:00:00+02:00", "2026-03-29T00:00:00+01:00"),  # that day has 23 hours
        ("2026-10-26T12:00:00+01:00", "2026-10-25T00:00:00+02:00"),  # and that one 25
    ],
)
def test_yesterday_begins_at_midnight_where_clocks_change(monkeypatch, request, today, expected):
    now = datetime.fromisoformat(today).timestamp()
    request.addfinalizer(time.tzset)
    with monkeypatch.context() as zone:
        zone.setenv("TZ", "Europe/Berlin")
        time.tzset()
        zone.setattr(f"{__name__}.NOW", now)
        assert selection.moment("yesterday", "since") == at(expected)
