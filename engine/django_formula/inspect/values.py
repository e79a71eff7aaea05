"""What an expression of a project's settings results in, as far as it is known without running the project."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class _Unknown:
    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = _Unknown()


@dataclass(frozen=True)
class Value:
    """A value.

    Attributes:
        content: what it is, or `UNKNOWN`; elements of lists and dictionaries are values.
        source: the environment variable that it is taken from as it is.
        how: the form in which it is taken: ``file`` (the content of the file that the variable names), ``url``,
            ``list:`` and the separator; empty for a text.
        taint: the environment variables that it depends on.
    """

    content: Any = UNKNOWN
    source: str = ""
    how: str = ""
    taint: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Symbol:
    """Something of a library, by its dotted name."""

    name: str


@dataclass(frozen=True)
class Called:
    """What a call of a library returned."""

    name: str
    args: list[Value]
    keywords: Mapping[str, Value]


@dataclass(frozen=True)
class Method:
    """An attribute of a value that is called."""

    owner: Value
    name: str


@dataclass
class Namespace:
    """A module, or a class, of the project.

    Attributes:
        kind: ``model`` is a class of pydantic-settings, ``part`` one of pydantic that a field of it may have,
            ``configuration`` one of django-configurations.
        fields: of a model or part: the name of each field → its annotation, its default, its place, and the class of
            the project that it has.
    """

    names: dict[str, Value]
    kind: str = ""
    fields: dict[str, tuple[ast.expr | None, Value | None, str, Any]] = field(default_factory=dict)


@dataclass
class Reader:
    """An object by which a project reads its environment.

    Attributes:
        kind: ``environ`` (django-environ, environs), ``decouple``, ``dotenv`` (the values of a file), ``cfenv``.
        scheme: the variables that it has a type for → type and default.
        prefix: what the names of all its variables begin with.
    """

    kind: str
    scheme: dict[str, list[Value]] = field(default_factory=dict)
    prefix: str = ""


@dataclass
class Frame:
    """The names that code sees, and where it is.

    Attributes:
        called_from: the place of the call, in a function.
        results: what a function may have returned.
    """

    names: dict[str, Value]
    file: Path
    module: str = ""
    outer: Any = None  # a Frame; Salt cannot load a dataclass whose annotation is a text
    called_from: str = ""
    class_kind: str = ""
    results: list[Value] = field(default_factory=list)

    def find(self, name: str) -> Value | None:
        """Return the value of a name, or None if it is not assigned."""
        frame: Frame | None = self
        while frame:
            if name in frame.names:
                return frame.names[name]
            frame = frame.outer
        return None


@dataclass
class Function:
    """A function of the project."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    frame: Frame


@dataclass
class Variable:
    """An environment variable that the settings read.

    Attributes:
        place: file and line.
        required: whether the settings cannot be imported without it.
        kind: ``text``, ``bool``, ``int``, ``list``, ``json`` (an object), ``array`` (in JSON), ``parsed_json``,
            ``pairs``, ``database``, ``cache`` or ``email``; ``dj_cache`` and ``dj_email`` in the notation of environs.
        is_read: whether its value is read, not only whether it is set.
        default: the text that it has by default; empty for other values.
        filled: whether an empty text is refused.
        accepted: the texts without one of which the settings raise an exception; empty if any will do.
        is_folder: whether paths are joined to it.
    """

    name: str
    place: str
    required: bool = False
    kind: str = "text"
    is_read: bool = False
    default: str = ""
    filled: bool = False
    accepted: tuple[str, ...] = ()
    is_folder: bool = False


def plain(value: Any) -> Any:
    """Return a value without its sources, at any depth."""
    content = value.content if isinstance(value, Value) else value
    if isinstance(content, list):
        return [plain(part) for part in content]
    if isinstance(content, dict):
        return {key: plain(part) for key, part in content.items()}
    return content


def taint(*values: Value | None) -> frozenset[str]:
    """Return the variables that any of these values depends on."""
    return frozenset().union(*(value.taint for value in values if value))


def truth(value: Value) -> bool | None:
    """Return whether a value is true, or None if that is not known."""
    if value.content is UNKNOWN or isinstance(value.content, Symbol | Called | Method):
        return None
    return bool(value.content)
