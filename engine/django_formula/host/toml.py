"""TOML for Python 3.10, which has no `tomllib`: Ubuntu 22.04, and Salt packages that bring that Python.

It reads all of TOML 1.0, as lock files and pyproject.toml have it; dates are texts. What it reads is what `tomllib`
reads, but it refuses fewer files.
"""

import re
import sys
from collections.abc import Callable
from typing import Any

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_END = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\r?\n|\Z)")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_HEADER = re.compile(r"\[\[?")
_STRING = re.compile(
    r'"""(?:\r?\n)?(?P<long>(?:[^\\"]|\\.|"{1,2}(?!"))*"{0,2})"""'
    r"|'''(?:\r?\n)?(?P<raw>(?:[^']|'{1,2}(?!'))*'{0,2})'''"
    r'|"(?P<basic>(?:[^\\"\n]|\\.)*)"'
    r"|'(?P<literal>[^'\n]*)'",
    re.DOTALL,
)
_ESCAPE = re.compile(r'\\(?:[ \t]*\r?\n[ \t\r\n]*|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([btnfr"\\]))')
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\"}
_SCALAR = re.compile(r"[^\s,\]}#]+(?: \d\d:[^\s,\]}#]+)?")
_INTEGER = re.compile(r"[+-]?(?:0|[1-9](?:_?\d)*)|0x[0-9A-Fa-f_]+|0o[0-7_]+|0b[01_]+")
_FLOAT = re.compile(r"[+-]?(?:\d(?:_?\d)*(?:\.\d(?:_?\d)*)?(?:[eE][+-]?\d+)?|inf|nan)")
_DATE = re.compile(r"\d{4}-\d\d-\d\d.*|\d\d:\d\d.*")
_MOST_NESTED = 100


def loads(text: str) -> dict[str, Any]:
    """Return the content of a TOML document.

    Raises:
        ValueError: it is no TOML.
    """
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib.loads(text)
    return parse(text)


def parse(text: str) -> dict[str, Any]:
    """Return the content of a TOML document, as `loads` does on Python 3.10."""
    return _Parser(text).document()


class _Parser:
    """A TOML document, and how much of it is read."""

    def __init__(self, text: str):
        self.text = text
        self.at = 0
        self.nested = 0

    def document(self) -> dict[str, Any]:
        top: dict[str, Any] = {}
        table = top
        self.skip(_BLANK)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self.header(top)
            else:
                self.assign(table)
            self.expect(_END, "the end of the line")
            self.skip(_BLANK)
        return top

    def header(self, top: dict[str, Any]) -> dict[str, Any]:
        """Read the header of a table and return the table."""
        brackets = self.expect(_HEADER, "a table").group()
        *path, name = self.key()
        self.literal("]" * len(brackets))
        table = _descend(top, path, self.problem)
        if brackets == "[":
            return _descend(table, [name], self.problem)
        tables = table.setdefault(name, [])
        if not isinstance(tables, list):
            raise self.problem(f"{name} is no list of tables")
        tables.append({})
        last: dict[str, Any] = tables[-1]
        return last

    def assign(self, table: dict[str, Any]) -> None:
        """Read a key and its value into a table."""
        *path, name = self.key()
        self.literal("=")
        self.skip(_SPACE)
        table = _descend(table, path, self.problem)
        if name in table:
            raise self.problem(f"{name} is there twice")
        table[name] = self.value()

    def key(self) -> list[str]:
        parts = []
        while True:
            self.skip(_SPACE)
            quoted = self.text[self.at : self.at + 1] in ("'", '"')
            parts.append(self.string() if quoted else self.expect(_BARE, "a key").group())
            self.skip(_SPACE)
            if self.text[self.at : self.at + 1] != ".":
                return parts
            self.at += 1

    def value(self) -> Any:
        first = self.text[self.at : self.at + 1]
        if first in ("'", '"'):
            return self.string()
        if first in ("[", "{"):
            self.nested += 1
            if self.nested > _MOST_NESTED:
                raise self.problem("values are nested too deeply")
            value = self.array() if first == "[" else self.inline_table()
            self.nested -= 1
            return value
        return self.scalar()

    def string(self) -> str:
        found = self.expect(_STRING, "a string")
        kind = str(found.lastgroup)
        text = found[kind].replace("\r\n", "\n")
        return _ESCAPE.sub(_unescaped, text) if kind in ("basic", "long") else text

    def array(self) -> list[Any]:
        values: list[Any] = []
        self.literal("[")
        self.skip(_BLANK)
        while self.text[self.at : self.at + 1] != "]":
            values.append(self.value())
            self.skip(_BLANK)
            if self.text[self.at : self.at + 1] != "]":
                self.literal(",")
                self.skip(_BLANK)
        self.at += 1
        return values

    def inline_table(self) -> dict[str, Any]:
        table: dict[str, Any] = {}
        self.literal("{")
        self.skip(_SPACE)
        while self.text[self.at : self.at + 1] != "}":
            self.assign(table)
            self.skip(_SPACE)
            if self.text[self.at : self.at + 1] != "}":
                self.literal(",")
                self.skip(_SPACE)
        self.at += 1
        return table

    def scalar(self) -> Any:
        text = self.expect(_SCALAR, "a value").group()
        if text in ("true", "false"):
            return text == "true"
        if _DATE.fullmatch(text):
            return text
        if _INTEGER.fullmatch(text):
            return int(text, 10 if text[:2].isdigit() or text[0] in "+-" or len(text) < 2 else 0)
        if _FLOAT.fullmatch(text):
            return float(text)
        raise self.problem(f"{text} is no value")

    # Characters

    def skip(self, pattern: "re.Pattern[str]") -> None:
        found = pattern.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def literal(self, text: str) -> None:
        if not self.text.startswith(text, self.at):
            raise self.problem(f"{text} is missing")
        self.at += len(text)

    def expect(self, pattern: "re.Pattern[str]", what: str) -> "re.Match[str]":
        found = pattern.match(self.text, self.at)
        if not found:
            raise self.problem(f"{what} is missing")
        self.at = found.end()
        return found

    def problem(self, text: str) -> ValueError:
        return ValueError(f"{text} (at line {self.text.count(chr(10), 0, self.at) + 1})")


def _descend(table: dict[str, Any], path: list[str], problem: Callable[[str], ValueError]) -> dict[str, Any]:
    """Return the table at a path, of lists the last; what is missing is made."""
    for name in path:
        below = table.setdefault(name, {})
        below = below[-1] if isinstance(below, list) and below else below
        if not isinstance(below, dict):
            raise problem(f"{name} is no table")
        table = below
    return table


def _unescaped(found: "re.Match[str]") -> str:
    short, long, letter = found.groups()
    if letter:
        return _ESCAPES[letter]
    return chr(int(short or long, 16)) if short or long else ""
