"""Texts for people at a terminal, as Salt's own outputters print them, and what they write there."""

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django_formula.host import clock
from django_formula.host.commands import DeploymentError
from django_formula.untrusted.text import shown
from django_formula.watch import problem
from django_formula.watch.problem import Problem

#: A row of ``django.status``, ``django.releases`` or ``django.backups``.
Row = Mapping[str, Any]

#: Columns of a line: the nested outputter indents it by ten more at most.
WIDTH = 90
#: What the first line of a site has, and which values come next.
_IN_HEAD = ("site", "release", "running", "live_since", "managed")
_FIRST = ("maintenance", "held_back", "domains", "certificate", "server", "workers", "finishing", "backup", "schema")

#: A map of one key as the value of a key, with no map in it: ``migrate: {backup: false}``.
_ONE_KEY = re.compile(r": \{([\w:-]+): ([^{},]+)\}")
#: Outputters of Salt that programs read.
_FOR_PROGRAMS = ("json", "pprint", "raw", "yaml")
_PARENTHESES = str.maketrans("{}", "()")
_ENDS = (".", "!", "?", "…")


def revision(given: object) -> str | None:
    """Return a revision as it was written, None without one.

    Raises:
        DeploymentError: Salt, which reads its command line as YAML, has made another value of it: 1.1 of the tag 1.10.
    """
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    raise DeploymentError(
        f"the revision was read as {given!r}, which may be another one than was written",
        hint="write its whole name, such as refs/tags/1.10, or have it in quotes for Salt too: '\"1.10\"'",
    )


def place(given: object, argument: str) -> str:
    """Return a path, or what may be one, as it was written.

    Raises:
        DeploymentError: it is empty, as whose path the folder would be taken in which Salt was started; or it is none.
    """
    if isinstance(given, str) and given:
        return given
    raise DeploymentError(f"{argument}: expected a path, got {given!r}", hint="write it whole: /srv/blog")


def is_for_programs(options: Mapping[str, Any], full: bool | None) -> bool:
    """Return whether rows are printed for a program: see docs/decisions/0054.

    Args:
        options: those of Salt.
        full: whether the caller wants them; None without a word of it.
    """
    if full is not None:
        return bool(full)
    # salt-ssh calls salt-call with --metadata and --out=json, whatever its own --out is.
    return options.get("output") in _FOR_PROGRAMS and not options.get("print_metadata")


def plain(text: str) -> str:
    """Return a text to be read: what a project or another program reported may have control characters."""
    return shown(text, lines=True)


def warnings(texts: Iterable[str]) -> list[str]:
    """Return the warnings of a state: each one once, a sentence that ends with a period, without braces.

    Salt's highstate outputter formats warnings with ``str.format`` where ``state_output`` is terse or mixed, so that a
    brace is a KeyError there. Where it is full, the outputter fills all warnings of a state into one paragraph.
    """
    return list(dict.fromkeys(map(_sentence, texts)))


def _sentence(text: str) -> str:
    words = "; ".join(line.strip() for line in plain(text).splitlines() if line.strip())
    while (shorter := _ONE_KEY.sub(r":\1: \2", words)) != words:  # migrate:backup: false, which has no brace
        words = shorter
    words = words.translate(_PARENTHESES)
    return words if words.endswith(_ENDS) else f"{words}."


# Views of rows: the same values for people, without what has none, as text that Salt's nested outputter indents


def status(rows: Sequence[Row]) -> dict[str, list[str]] | str:
    """Return what people see of ``django.status``: problems, then each site in few lines; of one site a line each."""
    if not rows:
        return "no site is registered on this host"
    heads = columns([(row["site"], row["release"], _runs(row), _since(row)) for row in rows])
    listed, texts = [], []
    problems = [problem.problems(row) for row in rows]
    for row, head, found in sorted(zip(rows, heads, problems, strict=True), key=lambda one: not one[2]):
        told = {*_IN_HEAD, *(one.key for one in found)}
        shown = {key: row[key] for key in (*_FIRST, *row) if key in row and key not in told}
        listed.append(_block(head, shown if len(rows) == 1 else _shortened(shown), is_whole=len(rows) == 1))
        texts += [_with_command(row["site"], one) for one in found]
    return {**({"problems": texts} if texts else {}), "sites": listed}


def _shortened(values: Row) -> Row:
    """Return the values of one of several sites: two lines if it has no problems."""
    first, *more = str(values.get("domains", "")).split(", ")
    made = clock.age(str(values.get("backup", "")))
    is_usual = {"schema": values.get("schema") == "fits", "restore_drill": True}
    short = {"domains": f"{first} and {len(more)} more" if more else first, "backup": f"{made} ago" if made else ""}
    return {key: short.get(key, value) for key, value in values.items() if not is_usual.get(key)}


def releases(rows: Sequence[Row]) -> list[str] | str:
    """Return what people see of ``django.releases``."""
    return _listing(rows, ("release", "role", "state", "age"), ("failure", "health", "schema", "subject", "asked_by"))


def steps(rows: Sequence[Row]) -> list[str]:
    """Return what people see of ``django.steps``: a release from its begin to its end."""
    cells = [
        (f"{number}.", row["step"], row["user"], f"{row['seconds']} s" if row["seconds"] != "" else "")
        for number, row in enumerate(rows, 1)
    ]
    return [f"{head}\n{_wrapped(row['does'], '    ')}" for head, row in zip(columns(cells), rows, strict=True)]


def schedules(rows: Sequence[Row]) -> list[str] | str:
    """Return what people see of ``django.schedules``."""
    return _listing(rows, ("schedule", "last", "age"), ("at", "next", "command", "release", "by", "error", "skipped"))


def requests(rows: Sequence[Row]) -> list[str] | str:
    """Return what people see of ``django.requests``."""
    return _listing(rows, ("commit", "status", "age"), ("why", "by", "took", "request"))


def deployments(rows: Sequence[Row]) -> list[str] | str:
    """Return what people see of ``salt-run django.deploy`` of several sites."""
    texts = [
        {
            **row,
            "commit": row["commit"][:12],
            "seconds": "" if row["seconds"] is None else f"{row['seconds']} s",
            "hosts": ", ".join(row["hosts"]),
            "requests": f"{row['failed']} of {row['sent']} failed" if row["sent"] else "",
            "error": "; ".join(row["error"].splitlines()),
            "warnings": "; ".join(f"{host}: {text}" for host, said in row["warnings"].items() for text in said),
        }
        for row in rows
    ]
    return _listing(texts, ("site", "result", "commit", "seconds"), ("hosts", "requests", "warnings", "error"))


def workers(rows: Sequence[Row]) -> list[str] | str:
    """Return what people see of ``django.workers``."""
    texts = [{**row, "active": _tasks(row)} for row in rows]
    return _listing(texts, ("worker", "release", "does", "active"), ("tasks", "pid", "memory", "age", "unit"))


def queue(rows: Sequence[Row]) -> list[str] | str:
    """Return what people see of ``django.queue``."""
    texts = [
        {
            "queue": row["queue"],
            "tasks": _queued(row),
            "names": _counts(row["names"]),
            "parked": _counts(row["parked_names"]),
            "memory": row["memory"],
        }
        for row in rows
    ]
    return _listing(texts, ("queue", "tasks"), ("names", "parked", "memory"))


def _queued(row: Row) -> str:
    """Return the numbers of a queue's tasks that its kind counts; those that workers hold only where there are any."""
    held = [f"{row[key]} {key}" for key in ("unacknowledged", "abandoned") if row[key]]
    rest = [f"{row[key]} {key}" for key in ("parked", "failed", "scheduled") if row[key] is not None]
    return ", ".join([f"{row['waiting']} waiting", *held, *rest])


def _counts(names: Row) -> str:
    return ", ".join(f"{count} {name}" for name, count in names.items())


def _tasks(row: Row) -> str:
    """Return the numbers of a worker's tasks that its kind reports."""
    counts = ((row["active"], "running"), (row["reserved"], "reserved"), (row["done"], "done"))
    return ", ".join(f"{count} {what}" for count, what in counts if count is not None)


def backups(rows: Sequence[Row]) -> list[str] | str:
    """Return what people see of ``django.backups``."""
    return _listing(rows, ("backup", "age", "size"), ("why", "release", "rows", "verified"))


def copies(rows: Sequence[Row]) -> list[str] | str:
    """Return what people see of ``django.backups`` of the copies elsewhere."""
    return _listing(rows, ("backup", "age"), ("parts",))


def _with_command(site: str, found: Problem) -> str:
    """Return a problem, and below it the command that cures it, in one line however long it is."""
    text = _wrapped(f"{site}: {found.text}", "")
    return f"{text}\n    do: {found.command}" if found.command else text


def _runs(row: Row) -> str:
    return {True: "running", False: "not running"}.get(row["running"], "") if row["release"] else ""


def _since(row: Row) -> str:
    return f"since {row['live_since']}" if row["live_since"] else ""


def _listing(rows: Sequence[Row], head: Sequence[str], keys: Sequence[str]) -> list[str] | str:
    heads = columns([[str(row[key]) for key in head] for row in rows])
    blocks = [_block(first, {key: row[key] for key in keys}) for first, row in zip(heads, rows, strict=True)]
    return blocks or "none"


def columns(cells: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of text, their cells in columns; a column without a value is left out."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(plain(cell).ljust(width) for cell, width in zip(row, widths, strict=True) if width).rstrip()
        for row in cells
    ]


def _block(head: str, values: Row, *, is_whole: bool = False) -> str:
    """Return a row as text: its head, then what has a value, several in a line unless `is_whole`."""
    lines: list[str] = []
    for key, value in values.items():
        text = str(value) if key == "server" else f"{key.replace('_', ' ')}: {value}"
        if value in ("", None):
            continue
        if lines and not is_whole and len(lines[-1]) + len(text) + 3 <= WIDTH - 4:
            lines[-1] += f" | {text}"
        else:
            lines.append(text)
    return "\n".join([_wrapped(head, ""), *(_wrapped(line, "    ") for line in lines)])


def _wrapped(text: str, indent: str) -> str:
    words = " ".join(plain(text).split()) if indent else plain(text).replace("\n", " ")
    more = f"{indent}    "
    return textwrap.fill(words, WIDTH, initial_indent=indent, subsequent_indent=more, break_on_hyphens=False)
