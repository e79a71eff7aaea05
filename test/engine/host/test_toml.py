"""TOML as Python 3.10 reads it: what `tomllib` reads, and dates as texts."""

import datetime
import tomllib
from typing import Any

import pytest
from django_formula.host import toml
from specimen import ROOT

LOCK = """
version = 1
requires-python = ">=3.10"
resolution-markers = [
    "python_full_version >= '3.12'",  # a comment, with a "quote"
    "python_full_version < '3.12'",
]

[[package]]
name = "django"
version = "5.2.8"
source = { registry = "https://pypi.org/simple" }
dependencies = [
    { name = "asgiref" },
    { name = "tzdata", marker = "sys_platform == 'win32'", extra = ["a", "b"] },
]
sdist = { url = "https://a.org/django.tar.gz", hash = "sha256:00", size = 10_985_185, upload-time = "2025-11-05" }

[package.metadata]
requires-dist = []

[[package]]
name = 'sqlparse'

[package.optional-dependencies]
dev.x = [{name="build"}]
"""
STRINGS = r'''
basic = "a\tb \"c\" \\ \u00e9 \U0001F600 # no comment"
literal = 'C:\n # "x"'
"quoted key" = ""
long = """
first
second \
   third "quoted" ""two""
"""
raw = \'\'\'
\d "x" 'y'
\'\'\'
ends = """a quote: """"
a . "b.c" . d = 1
'''.replace("\\'\\'\\'", "'''")
NUMBERS = """
integers = [0, 1, -17, +99, 1_000, 0xDEAD_beef, 0o755, 0b1101]
floats = [1.0, -0.01, 5e+22, 6.626e-34, 1_0.5, inf, -inf]
booleans = [true, false,]
dates = [1979-05-27, 07:32:00, 1979-05-27T07:32:00Z, 1979-05-27 07:32:00.5]
nested = [[1, [2]], [], {}, {a = {b = []}}]
[a]
[a.b.c]
x = 1
[a.b]
y = 2
"""


def without_dates(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_dates(one) for name, one in value.items()}
    if isinstance(value, list):
        return [without_dates(one) for one in value]
    is_date = isinstance(value, (datetime.date, datetime.time))
    return str(value).replace("+00:00", "Z").replace(".500000", ".5") if is_date else value


def parsed(text: str) -> Any:
    """What is read, with the dates in one form."""
    read = toml.parse(text)
    if "dates" in read:
        read["dates"] = [date.replace("T", " ") for date in read["dates"]]
    return read


@pytest.mark.parametrize(
    "text",
    [LOCK, STRINGS, NUMBERS, "", "\n# only a comment", "a = 1\r\nb = 2\r\n", (ROOT / "pyproject.toml").read_text()],
    ids=["lock", "strings", "numbers", "empty", "comment", "carriage returns", "pyproject"],
)
def test_parser_of_python_3_10_reads_what_tomllib_reads(text):
    assert parsed(text) == without_dates(tomllib.loads(text))
    assert toml.loads(text) == tomllib.loads(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = ", "a value is missing (at line 1)"),
        ("\na = 1\na = 2", "a is there twice (at line 3)"),
        ("a = [1, 2", ", is missing (at line 1)"),
        ("a = nothing", "nothing is no value (at line 1)"),
        ('a = "x', "a string is missing (at line 1)"),
        ("a = 1 b = 2", "the end of the line is missing (at line 1)"),
        ("a = 1\n[a]\n", "a is no table (at line 2)"),
        ("a = 1\n[[a]]\n", "a is no list of tables (at line 2)"),
        ("[a", "] is missing (at line 1)"),
        ("= 1", "a key is missing (at line 1)"),
        (f"a = {'[' * 200}{']' * 200}", "values are nested too deeply (at line 1)"),
    ],
)
def test_what_is_no_toml_is_refused_with_its_line(text, problem):
    with pytest.raises(ValueError) as error:
        toml.parse(text)
    assert str(error.value) == problem
