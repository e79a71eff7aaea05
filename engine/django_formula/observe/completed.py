"""A pillar that was read from a source, completed by what the project has answered when its settings were run.

What was read stays as it is where running shows nothing else; what running shows is marked by the word ``observed``.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from django_formula.inspect import report as inspect_report
from django_formula.inspect import routes
from django_formula.knowledge import hints, package
from django_formula.observe import report as observe_report
from django_formula.observe.observation import UNUSED, Observation, Variable

Line = dict[str, Any]
_CURED = "observed: it fails without"
#: An application of Celery that has tasks.
_CELERY = re.compile(r"Celery ([A-Za-z_][\w.]{0,80}) \(\d+\)", re.ASCII)
#: A module, and a folder of the source in which something is written.
_MODULE = re.compile(r"[A-Za-z_][\w.]{0,80}", re.ASCII)
_FOLDER = re.compile(r"(?!\.)[\w.@+-]+(/(?!\.)[\w.@+-]+)*", re.ASCII)
_LABEL = re.compile(r"[A-Za-z_]\w{0,80}", re.ASCII)
#: The id of one of Django's checks, before its message.
_CHECK = re.compile(r"\(([A-Za-z0-9_][A-Za-z0-9_.:-]{0,100})\) ", re.ASCII)


def lines(read: Collection[Mapping[str, Any]], found: Observation, options: Mapping[str, Any]) -> list[Line]:
    """Return the lines of a pillar, of the shape `inspect.report.LINE`.

    Args:
        read: those that were read.
        options: those without which the words of the variables are not known, as `observation.lacking` has them.
    """
    result = {line["key"]: dict(line) for line in read}
    for key in ("environment", "secrets"):
        entries = [*result.get(key, {}).get("entries", []), *_new(key, found, result)]
        about = {one.name: one for one in found.variables}
        told = [_compared(entry, about.get(entry["key"]), found) for entry in entries]
        result |= {key: {"key": key, "entries": told}} if told else {}
    for key, value in options.items():
        if not result.keys() & {key, f"{key}s"}:
            result[key] = {"key": key, "value": value, "remark": "observed: a variable is for it"}
    for line in _of_facts(found.facts, result):
        result[line["key"]] = line
    return [*result.values()]


def cured(read: Collection[Mapping[str, Any]], options: Mapping[str, Any]) -> list[Line]:
    """Return the lines of a pillar with the options that cure a failed build or start.

    Args:
        options: by their paths, as `DeploymentError.options`; those that say whose site it is and what it may are none.
    """
    result = {line["key"]: dict(line) for line in read}
    for path, given in options.items():
        key, *inner = path.split(":")
        value = given
        for name in reversed(inner):
            value = {name: value}
        if key not in inspect_report.CURES:
            continue
        line = result.setdefault(key, {"key": key, **({"entries": []} if key in inspect_report.ENTRIES else {})})
        if "entries" in line:
            known = {entry["key"] for entry in line["entries"]}
            new = [{"key": name, "value": one, "remark": _CURED} for name, one in value.items() if name not in known]
            result[key] = {**line, "entries": [*line["entries"], *new]}
        else:
            both = hints.merged({key: value}, {key: line.get("value", value)})[key]
            result[key] = {**line, "value": both, "remark": _joined(line.get("remark", ""), _CURED)}
    return [*result.values()]


def _new(key: str, found: Observation, result: Mapping[str, Line]) -> Iterator[Line]:
    """Yield entries for variables that reading has not found, and that are required or make a database."""
    known = {entry["key"] for one in ("environment", "secrets") for entry in result.get(one, {}).get("entries", [])}
    for one in sorted(found.variables, key=lambda one: one.name):
        if one.name in known or not (one.is_required or one.is_together):
            continue
        value: Any = {"generate": 50} if one.is_made_up else one.value if one.word else ""
        if (key == "secrets") == one.is_made_up:
            yield {"key": one.name, "value": value, "remark": one.place + ("" if value else ": set it")}


def _compared(entry: Line, about: Variable | None, found: Observation) -> Line:
    """Return an entry with what running shows of it: the word where it has another or none, and what is said of it."""
    if not about:
        is_known = found.stage == "done" and isinstance(entry["value"], dict)
        return (
            {**entry, "remark": _joined(entry["remark"], "not observed: nothing has asked for it")}
            if is_known
            else entry
        )
    value, said = entry["value"], "required" if about.is_required else "not required"
    if about.word == UNUSED:
        value = value or UNUSED
    elif about.word and (value == "" or (isinstance(value, dict) and value.get("from", about.word) == about.word)):
        value = {**(value if isinstance(value, dict) and "from" in value else {}), **about.value}
    elif about.word and isinstance(value, dict):
        said += f"; {{from: {about.word}}} by its settings"
    places = ", ".join([*about.feeds][:3])
    return {
        **entry,
        "value": value,
        "remark": _joined(entry["remark"], f"observed: {said}{places and f', in {places}'}", _replaced(about, entry)),
    }


def _replaced(about: Variable, entry: Line) -> str:
    text = "`database` replaces it"
    return text if about.word == UNUSED and text not in entry["remark"] else ""


def _joined(*remarks: str) -> str:
    return "; ".join(filter(None, remarks))


def _of_facts(facts: Mapping[str, Any], result: Mapping[str, Line]) -> Iterator[Line]:
    """Yield the lines that follow from facts of a project, where reading has none."""
    paths = [path for path in facts.get("routes", []) if routes.HEALTH.fullmatch(path)]
    if paths and "health" not in result:
        yield {"key": "health", "value": {"path": quote(paths[0])}, "remark": "observed: a page of the project"}
    apps = [found[1] for text in facts.get("workers", []) if (found := _CELERY.fullmatch(text))]
    if apps and "workers" not in result and not facts.get("eager"):
        worker = {"kind": "celery", "app": apps[0]}
        remark = "observed: it has tasks, and no file of the source says how they run"
        yield {"key": "workers", "entries": [{"key": "worker", "value": worker, "remark": remark}]}
    settings, middleware = result.get("settings", {}), [*filter(_MODULE.fullmatch, facts.get("middleware", []))]
    if middleware and "MIDDLEWARE" not in settings.get("value", {}):
        value = {**settings.get("value", {}), "MIDDLEWARE": middleware}
        remark = _joined(settings.get("remark", ""), "observed: this Django does not read MIDDLEWARE_CLASSES")
        yield {"key": "settings", "value": value, "remark": remark}
    failing = [found[1] for text in facts.get("checks", []) if (found := _CHECK.match(text))]
    if not middleware:  # for lack of which checks fail
        remark = "observed: of Django's checks these fail, and would stop a release: better correct what they report"
        yield from _longer("silenced_checks", [*dict.fromkeys(failing)], remark, result)
    yield from _longer("writable", [*_folders(facts, result)], "observed: written when it was started", result)
    missing = [
        package.package_of(name.partition(".")[0]) for name in facts.get("missing", []) if _MODULE.fullmatch(name)
    ]
    yield from _longer("python_packages", [*filter(None, missing)], "observed: no requirement has it", result)
    yield from _first_migrations(facts, result)


def _first_migrations(facts: Mapping[str, Any], result: Mapping[str, Line]) -> Iterator[Line]:
    """Yield a build that makes the first migrations of all applications without any, where it makes those of some."""
    line = result.get("build", {"value": []})
    command = next((one for one in line["value"] if " makemigrations " in one), "")
    known = command.split()
    new = [one for one in facts.get("unmigrated", []) if _LABEL.fullmatch(one) and one not in known]
    if command and new:
        build = [" ".join([one, *new]) if one == command else one for one in line["value"]]
        yield {**line, "value": build, "remark": _joined(line["remark"], f"observed: {', '.join(new)} too")}


def _folders(facts: Mapping[str, Any], result: Mapping[str, Line]) -> Iterator[str]:
    """Yield the outermost folders in which something is written, and that have no path of the pillar in them.

    The top of the source has none.
    """
    known = [PurePosixPath(path) for key in ("writable", "shared") for path in result.get(key, {}).get("value", [])]
    for text in dict.fromkeys(facts.get("written", [])):
        path = PurePosixPath(text)
        folder = path if path.suffix == "" else path.parent
        is_known = any(path.is_relative_to(one) or one.is_relative_to(folder) for one in known)
        if _FOLDER.fullmatch(str(folder)) and not is_known:
            known.append(folder)
            yield str(folder)


def _longer(key: str, values: list[str], remark: str, result: Mapping[str, Line]) -> Iterator[Line]:
    before = result.get(key, {"value": [], "remark": ""})
    longer = hints.joined(key, before["value"], values)
    if longer != before["value"]:
        yield {"key": key, "value": longer, "remark": _joined(before["remark"], remark)}


def remarks(read: Collection[Mapping[str, Any]], found: Observation, source: str) -> Iterator[str]:
    """Yield what a person has to know of an observation, a line each; paths in the source are relative."""
    entries = {entry["key"] for line in read for entry in line.get("entries", [])}
    yield from (f"observed: {text.replace(f'{source}/', '')}" for text in observe_report.remarks(found))
    others = [one for one in found.variables if not one.is_required and not one.is_together and one.name not in entries]
    shown = [f"{one.name}{f' ({one.default})' if one.default else ''}" for one in others]
    if shown:
        yield f"observed: not required, with what they are without: {', '.join(sorted(shown))}"
