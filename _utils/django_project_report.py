"""The result of an inspection: a site's pillar as YAML, with comments for what was found and guessed."""

import json
import re
import textwrap
from dataclasses import dataclass, field
from typing import Any

#: The order of the keys in the pillar.
_ORDER = (
    *("repository", "folder", "revision", "submodules", "domains", "project", "python_path", "settings_module", "wsgi"),
    *("requirements", "python_packages", "constraints", "packages", "build", "commands", "files", "shared", "writable"),
    *("writable_packages", "static"),
    *("environment", "secrets", "settings", "database", "queue", "cache", "caches", "sessions"),
    *("server", "sandbox", "workers", "schedules", "health"),
)
#: Keys with an entry on each line, each with a comment of its own.
_ENTRIES = ("environment", "secrets", "workers", "schedules")
_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "none", "y", "n"}


@dataclass
class Report:
    """The pillar of a site and remarks on its project.

    Attributes:
        remarks: comments above the pillar.
        pillar: key → (value, comment).
        settings_module: the settings module of the project.
        application: its WSGI or ASGI module.
        open: keys whose values have to be completed.
        open_variables: the same of ``environment``.
    """

    remarks: list[str] = field(default_factory=list)
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
            if key in _ENTRIES:
                value = {name: inner for name, (inner, _comment) in value.items() if name not in self.open_variables}
            elif key == "commands":
                value = _by_stage(value)
            if value and key not in (*self.open, "repository", "folder", "revision", "domains"):
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
        self.set(key, [*before, *(value for value in values if value not in before)], "; ".join(comments))

    def text(self, title: str, name: str) -> str:
        """Return the pillar of the site as YAML.

        Args:
            title: the first line: the repository or folder.
            name: the name of the site.
        """
        remarks = [line for remark in self.remarks for line in _wrapped(remark)]
        lines = [f"# {title}", *(f"#   {remark}" for remark in remarks), "django:", "  sites:", f"    {name}:"]
        for key in sorted(self.pillar, key=_ORDER.index):
            value, comment = self.pillar[key]
            if key in _ENTRIES:
                lines.append(f"      {key}:")
                lines += [_line(8, variable, *inner) for variable, inner in value.items()]
            elif key == "commands":
                lines.append(_line(6, key, _by_stage(value), comment))
            else:
                lines.append(_line(6, key, value, comment))
        return "\n".join(lines) + "\n"


def _by_stage(commands: list[tuple[str, list[str]]]) -> dict[str, list[str]]:
    """Return the commands of each stage of a release."""
    found: dict[str, list[str]] = {}
    for stage, listed in commands:
        found.setdefault(stage, []).extend(listed)
    return found


def _wrapped(remark: str) -> list[str]:
    """Return the lines of a remark: one for a command, so that it can be pasted."""
    return [remark] if remark.startswith("runuser ") else textwrap.wrap(remark, 110, subsequent_indent="  ")


def _line(indent: int, key: str, value: Any, comment: str) -> str:
    text = f"{' ' * indent}{key}: {flow(value)}"
    return f"{text}  # {comment}" if comment else text


def flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(inner) for inner in value) + "]"
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z/][\w./-]*(:[\w./@-]+)*|[\w.+-]+@[\w.:/-]+", value)
    return value if plain and value.lower() not in _YAML_WORDS else json.dumps(value, ensure_ascii=False)
