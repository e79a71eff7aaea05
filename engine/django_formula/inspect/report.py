"""The result of an inspection: a site's pillar as YAML, with comments for what was found and guessed."""

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django_formula.knowledge import hints
from django_formula.untrusted.text import InPillar, in_command, pillar_comment, pillar_head, pillar_line, shown

#: The order of the keys in the pillar.
_ORDER = (
    *(
        "repository",
        "folder",
        "revision",
        "submodules",
        "domains",
        "path",
        "project",
        "python_path",
        "settings_module",
        "wsgi",
    ),
    *(
        "python",
        "requirements",
        "python_packages",
        "constraints",
        "packages",
        "build",
        "commands",
        "files",
        "shared",
        "writable",
    ),
    *("writable_packages", "static"),
    *("environment", "secrets", "settings", "silenced_checks", "database", "queue", "cache", "caches", "sessions"),
    *("server", "sandbox", "workers", "schedules", "health"),
)
#: Keys with an entry on each line, each with a comment of its own.
ENTRIES = ("environment", "secrets", "workers", "schedules")
#: Keys with paths of the source, and what the pillar takes as such a path; `.` is one where a folder is meant.
OF_SOURCE = ("project", "python_path", "requirements", "files", "shared", "writable")
PATH = re.compile(r"(?!-)(?!\.{1,2}(/|$))[A-Za-z0-9._@+~=,-]+(/(?!\.{1,2}(/|$))[A-Za-z0-9._@+~=,-]+)*")
#: The same for keys with modules: Python takes letters of every alphabet.
OF_MODULES = ("settings_module", "wsgi")
MODULE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
#: Lists → what they have, and what the pillar takes as such a one: it refuses Jinja.
_NO_JINJA = r"(?!.*(\{\{.*\}\}|\{%.*%\}))"
_REFUSED = {
    "python_packages": ("requirements", re.compile(rf"{_NO_JINJA}[A-Za-z0-9][ -~]{{0,1023}}")),
    "build": ("commands", re.compile(rf"{_NO_JINJA}[^\x00-\x1f\x7f-\x9f\u2028\u2029]{{1,4096}}")),
}
#: Those that the hint of a failure may set: not those that say what is served, and what it may do.
CURES = {*_ORDER} - {"repository", "folder", "revision", "domains", "path", "sandbox"}


@dataclass
class Report:
    """The pillar of a site and remarks on its project.

    Attributes:
        remarks: comments above the pillar; a list has the words of a command.
        pillar: key → (value, comment).
        settings_module: the settings module of the project.
        application: its WSGI or ASGI module.
        open: keys whose values have to be completed.
        open_variables: the same of ``environment``.
    """

    remarks: list[str | list[str]] = field(default_factory=list)
    pillar: dict[str, tuple[Any, str]] = field(default_factory=dict)
    settings_module: str = ""
    application: str = ""
    open: list[str] = field(default_factory=list)
    open_variables: list[str] = field(default_factory=list)

    def set(self, key: str, value: Any, comment: str = "", *, is_open: bool = False) -> None:
        """Set a key of the pillar.

        Args:
            is_open: whether the value is only an example.
        """
        self.pillar[key] = (value, comment)
        self.open += [key] if is_open else []

    def value(self, key: str, default: Any = None) -> Any:
        """Return the value of a key."""
        return self.pillar.get(key, (default, ""))[0]

    def keys(self) -> dict[str, Any]:
        """Return the pillar without what has to be completed, and without source and domains."""
        found: dict[str, Any] = {}
        for key in sorted(self.pillar, key=_ORDER.index):
            value = self.value(key)
            if key in ENTRIES:
                value = {name: inner for name, (inner, _comment) in value.items() if name not in self.open_variables}
            elif key == "commands":
                value = _by_stage(value)
            if (value or value is False) and key not in (*self.open, "repository", "folder", "revision", "domains"):
                found[key] = value
        return found

    def merge(self, key: str, values: dict[str, Any], comment: str) -> None:
        """Add entries to a map of the pillar."""
        before, comment_before = self.pillar.get(key, ({}, ""))
        if values:
            self.set(key, {**before, **values}, "; ".join(filter(None, [comment_before, comment])))

    def extend(self, key: str, values: list[Any], comment: str) -> None:
        """Add entries to a list of the pillar, each once."""
        before, comments_before = self.pillar.get(key, ([], ""))
        comments = dict.fromkeys([*filter(None, comments_before.split("; ")), comment])
        self.set(key, hints.joined(key, before, values), "; ".join(comments))

    def leave_out_refused(self) -> None:
        """Name what the pillar does not take, such as paths of the source with blanks, in place of it."""
        for key in (key for key in (*OF_SOURCE, *OF_MODULES) if key in self.pillar):
            value, comment = self.pillar.pop(key)
            taken = MODULE if key in OF_MODULES else PATH
            paths = [value] if isinstance(value, str) else [*value]
            refused = [path for path in paths if path != "." and not taken.fullmatch(path)]
            kept = [path for path in paths if path not in refused]
            if refused:
                self.remarks.append(f"the pillar takes no such names in `{key}`, rename them: {', '.join(refused)}")
            if kept:
                left = {path: value[path] for path in kept} if isinstance(value, Mapping) else kept
                self.pillar[key] = (value if isinstance(value, str) else left, comment)
        for key, (what, taken) in _REFUSED.items():
            values, comment = self.pillar.get(key, ([], ""))
            kept = [value for value in values if taken.fullmatch(value)]
            if kept != values:
                named = ", ".join(value[:100] for value in values if value not in kept)
                text = f"the pillar takes no such {what}, which `{key}` leaves out: {named}"
                self.remarks.append(
                    f"{text}; correct them where the project lists them" if what != "commands" else text
                )
                del self.pillar[key]
                self.pillar |= {key: (kept, comment)} if kept else {}

    def propose(self, *words: str) -> None:
        """Add a command to the remarks: the one above it says what for."""
        self.remarks.append([*words])

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of the pillar as data, of the shape `LINE`; those of an entry are further inside."""
        found: list[dict[str, Any]] = []
        for key in sorted(self.pillar, key=_ORDER.index):
            value, remark = self.pillar[key]
            if key in ENTRIES:
                found.append({"key": key, "entries": [_line(name, *inner) for name, inner in value.items()]})
            else:
                found.append(_line(key, _by_stage(value) if key == "commands" else value, remark))
        return found


#: The shape of a line of the pillar as data: with a value, or with entries that have lines of their own.
_VALUE = {"key": str, "value": Any, "remark": str}
LINE = (_VALUE, {"key": str, "entries": [_VALUE]})
#: The shape of a remark: a text, or the words of a command.
REMARK = (str, [str])


def ordered(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of a pillar in the order of the keys."""
    return sorted(lines, key=lambda line: _ORDER.index(line["key"]))


def text(title: str, name: str, remarks: Iterable[str | list[str]], lines: Iterable[Mapping[str, Any]]) -> str:
    """Return the pillar of a site as YAML.

    Args:
        title: the first line: the repository or folder.
        name: the name of the site.
        remarks: comments above the pillar; a list has the words of a command.
        lines: the lines of the pillar, of the shape `LINE`; without any there are only the comments.
    """
    found = [pillar_comment(title)]
    found += [comment for remark in remarks for comment in _comments(remark)]
    listed = [*lines]
    if listed:
        found += map(InPillar, ("django:", "  sites:"))
        found.append(pillar_head(4, name))
    for line in listed:
        if "entries" in line:
            found.append(pillar_head(6, line["key"]))
            found += [pillar_line(8, one["key"], one["value"], one["remark"]) for one in line["entries"]]
        else:
            found.append(pillar_line(6, line["key"], line["value"], line["remark"]))
    return "\n".join(found) + "\n"


def _line(key: str, value: Any, remark: str) -> dict[str, Any]:
    return {"key": key, "value": value, "remark": remark}


def _by_stage(commands: list[tuple[str, list[str]]]) -> dict[str, list[str]]:
    """Return the commands of each stage of a release."""
    found: dict[str, list[str]] = {}
    for stage, listed in commands:
        found.setdefault(stage, []).extend(listed)
    return found


def _comments(remark: str | list[str]) -> list[InPillar]:
    """Return the lines of a remark; a command has one line, so that it can be pasted."""
    if isinstance(remark, str):
        return [pillar_comment(f"  {line}") for line in textwrap.wrap(shown(remark), 110, subsequent_indent="  ")]
    command = in_command(*remark)
    comment = pillar_comment(f"  {command}")
    if command and comment.endswith(command):
        return [comment]
    return [pillar_comment("  (no command is proposed: a name in it cannot be quoted)")]
