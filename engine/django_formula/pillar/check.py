"""Check values against `django/schema.yaml`, and word what is wrong for the operator.

It implements the keywords of JSON Schema that the schema uses, and no others.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from typing import Any

from django_formula.untrusted.text import without_logins

Rules = dict[str, Any]  # a part of the schema, its references resolved
Path = tuple[Any, ...]  # the place of a value in the pillar: ("django", "sites", "blog", "domains", 0)
Problem = tuple[Path, str]  # a place, and what is wrong there

SHOWN = 60  # characters of a value that an error shows
UNREADABLE = object()  # replaces a value that JSON cannot hold and that has been reported already

TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: is_number(value) and value == int(value),
    "number": lambda value: is_number(value),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}

WORDS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "a string",
    "array": "a list",
    "object": "a map",
}

TRAPS: list[tuple[Callable[[str], bool], str]] = [
    (
        lambda text: text == "**********",
        "expected the value itself or an sdb:// reference, got Salt's mask of it, as pillar.get returns it",
    ),
    (
        lambda text: "-----BEGIN PGP MESSAGE" in text,
        "expected plain text, got a PGP message: does the pillar file begin with #!yaml|gpg?",
    ),
    (
        lambda text: 0 <= text.find("{{") < text.rfind("}}") or 0 <= text.find("{%") < text.rfind("%}"),
        "expected a rendered value, got Jinja: does the pillar file begin with #!yaml?",
    ),
]


def resolve(rules: Any, schema: Rules, known: dict[str, Rules] | None = None) -> Any:
    """Return the schema with each ``$ref`` replaced by what it names, and each ``type`` a list.

    Args:
        known: definitions that are resolved already, by their names.
    """
    known = {} if known is None else known
    if isinstance(rules, list):
        return [resolve(item, schema, known) for item in rules]
    if not isinstance(rules, dict):
        return rules
    resolved = {}
    if "$ref" in rules:
        name = rules["$ref"].rpartition("/")[2]
        if name not in known:
            known[name] = resolve(schema["$defs"][name], schema, known)
        resolved = {**known[name]}
    for keyword, value in rules.items():
        if keyword == "properties":
            value = {name: resolve(rule, schema, known) for name, rule in value.items()}
        elif keyword == "type":
            value = [value] if isinstance(value, str) else value
        elif keyword not in ("$defs", "default", "enum", "examples"):
            value = resolve(value, schema, known)
        resolved[keyword] = value
    return resolved


def check(value: Any, rules: Rules, path: Path = ()) -> list[Problem]:
    """Return where a value breaks the rules of its (resolved) schema, each in a sentence for the operator."""
    if value is UNREADABLE:
        return []
    if "type" in rules and not any(TYPES[name](value) for name in rules["type"]):
        return [(path, expected(value, rules))]
    if "enum" in rules and value not in rules["enum"]:
        return [(path, expected(value, rules))]
    if isinstance(value, dict):
        problems = list(_check_map(value, rules, path))
    elif isinstance(value, list):
        problems = list(_check_list(value, rules, path))
    else:
        problems = _check_scalar(value, rules, path)
    return problems or _check_combined(value, rules, path)


def _check_scalar(value: Any, rules: Rules, path: Path) -> list[Problem]:
    if isinstance(value, str):
        if len(value) > rules.get("maxLength", math.inf):
            return [(path, f"expected at most {rules['maxLength']} characters, got {len(value)}")]
        fits = "pattern" not in rules or re.fullmatch(rules["pattern"], value) is not None
    else:
        fits = not is_number(value) or rules.get("minimum", -math.inf) <= value <= rules.get("maximum", math.inf)
    return [] if fits else [(path, expected(value, rules))]


def _check_map(value: dict[str, Any], rules: Rules, path: Path) -> Iterator[Problem]:
    known = rules.get("properties", {})
    unnamed = rules.get("additionalProperties", {})
    for name in rules.get("required", ()):
        if name not in value:
            yield (*path, name), f"missing: expected {expectation(known.get(name, {}))}"
    for name, item in value.items():
        place = (*path, name)
        if "propertyNames" in rules:
            yield from _check_name(name, rules["propertyNames"], place)
        if name in known:
            yield from check(item, known[name], place)
        elif unnamed is False:
            yield place, _unknown(str(name), known)
        else:
            yield from check(item, unnamed, place)


def _check_name(name: str, rules: Rules, place: Path) -> Iterator[Problem]:
    if "enum" in rules:
        if name not in rules["enum"]:
            yield place, _unknown(str(name), {choice: {} for choice in rules["enum"]})
        return
    for _, text in check(name, rules, place):
        text = text.removeprefix(f"{shown(name, rules)} is ")  # the path names it already
        yield place, text.replace("expected ", "expected as name ", 1)


def _check_list(value: list[Any], rules: Rules, path: Path) -> Iterator[Problem]:
    if len(value) < rules.get("minItems", 0):
        yield path, "expected at least one item, got an empty list"
    for index, item in enumerate(value):
        yield from check(item, rules.get("items", {}), (*path, index))
        if rules.get("uniqueItems") and item in value[:index]:
            yield (*path, index), f"{shown(item, rules.get('items', {}))} is in the list twice"


def _check_combined(value: Any, rules: Rules, path: Path) -> list[Problem]:
    if "not" in rules and not check(value, rules["not"]):
        return [(path, f"{shown(value, rules)} is refused: {rules['refuse']}")]
    for part in rules.get("allOf", ()):
        problems = check(value, part, path)
        if problems:
            return problems
    if "oneOf" in rules and sum(not check(value, choice) for choice in rules["oneOf"]) != 1:
        got = " and ".join(value) if isinstance(value, dict) and value else shown(value, rules)
        return [(path, f"expected {rules['hint']}, got {got}")]
    return []


def is_number(value: Any) -> bool:
    """Return whether a value is a number; to Python, true and false are too."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def rule_of(rules: Rules, name: str) -> Rules:
    """Return the rules of one key of a map."""
    rule = rules.get("properties", {}).get(name, rules.get("additionalProperties", {}))
    return rule if isinstance(rule, dict) else {}


# Wording


def expected(value: Any, rules: Rules) -> str:
    """Return what was expected instead of a value, with advice where the mistake is a usual one."""
    choices = [choice for choice in rules.get("enum", ()) if isinstance(choice, str)]
    close = difflib.get_close_matches(value, choices, 1) if choices and isinstance(value, str) else []
    advice = f', did you mean "{close[0]}"?' if close else _advice(value, rules)
    return f"expected {expectation(rules)}, got {shown(value, rules)}{advice}"


def expectation(rules: Rules) -> str:
    """Return in words what a value has to be."""
    if "hint" in rules:
        return str(rules["hint"])
    if "enum" in rules:
        choices = ["true" if choice is True else str(choice) for choice in rules["enum"] if choice is not None]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if "minimum" in rules:
        return f"a whole number from {rules['minimum']} to {rules['maximum']}"
    return " or ".join(WORDS[name] for name in rules.get("type", ("string",)) if name != "null")


def shown(value: Any, rules: Rules | None = None) -> str:
    """Return a value with its type, at most SHOWN characters of it, and nothing of a secret."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'a map'}{'' if value else ' that is empty'}"
    names = {bool: "boolean", str: "string", int: "number", float: "number"}
    kind = names.get(type(value), type(value).__name__)
    if rules and rules.get("secret"):
        return f"a {kind} that is not shown"
    text = str(value).lower() if kind == "boolean" else without_logins(str(value), "…@")
    text = f"{text[:SHOWN]}…" if len(text) > SHOWN else text
    return f"{json.dumps(text, ensure_ascii=not text.isprintable()) if kind == 'string' else text} ({kind})"


def _advice(value: Any, rules: Rules) -> str:
    """Return how to write what was probably meant, where YAML read something else."""
    types = [name for name in rules.get("type", ()) if name != "null"]
    word = str(value).lower()
    if rules.get("format") == "hostname" and isinstance(value, str) and not value.isascii():
        return _form_in_dns(value, rules)
    if types == ["array"] and isinstance(value, str | int) and not check([value], rules):
        return f": write it as [{value}]"
    if types == ["array"] and isinstance(value, dict):
        return ': begin each line with "- "'
    if types == ["object"] and isinstance(value, list):
        return ': write "name: …" lines, without "- "'
    if "boolean" in types and isinstance(value, str) and word in ("yes", "on", "true", "no", "off", "false"):
        return f": write {'true' if word in ('yes', 'on', 'true') else 'false'} without quotes"
    if "integer" in types and isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        return ": write it without quotes"
    if "string" in types and isinstance(value, bool) and _looks_right("yes", rules):
        return ": quote it, since YAML reads yes, no, on and off as true and false"
    if "string" in types and is_number(value) and _looks_right(str(value), rules):
        return ": quote it, since YAML reads it as a number"
    return f": quote it, since YAML reads it as a {type(value).__name__}" if isinstance(value, date) else ""


def _form_in_dns(name: str, rules: Rules) -> str:
    """Return how to write a host name that is not ASCII."""
    try:
        form = name.lower().encode("idna").decode()
    except UnicodeError:
        form = ""
    # Python implements IDNA 2003; IDNA 2008 maps these characters otherwise, perhaps to another owner's domain.
    if set("ßς\u200c\u200d") & set(name.lower()) or check(form, rules):
        return ": DNS names are ASCII, and this one has two encodings: write it as the registrar does (xn--…)"
    return f": DNS names are ASCII, write it as {form}"


def _looks_right(text: str, rules: Rules) -> bool:
    return len(text) <= SHOWN and re.fullmatch(rules.get("pattern", ".*"), text) is not None


def _unknown(name: str, known: dict[str, Rules]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    inner = [f"{option}:{name}" for option, rules in known.items() if name in rules.get("properties", ())]
    if close or inner:
        return "unknown option, did you mean " + " or ".join(f'"{option}"' for option in [*close, *inner]) + "?"
    return f"unknown option, expected one of {', '.join(known)}" if 0 < len(known) <= 12 else "unknown option"


def lines(problems: Iterable[Problem]) -> list[str]:
    """Return one line for each problem, sorted by path."""

    def place(problem: Problem) -> list[str]:
        return [f"{step:06}" if isinstance(step, int) else step for step in problem[0]]

    return [f"{':'.join(_step(step) for step in path)} — {text}" for path, text in sorted(problems, key=place)]


def _step(step: Any) -> str:
    text = str(step)
    return text if re.fullmatch("[!-~]{1,200}", text) else json.dumps(text[:SHOWN])


# Reading


def plain(value: Any, rules: Rules, path: Path, found: list[Problem]) -> Any:
    """Return a copy; what JSON cannot hold, such as a date, is reported in ``found`` and replaced by UNREADABLE."""
    if isinstance(value, dict):
        statuses = rules.get("propertyNames", {}).get("enum", ())
        for name in value:
            if not isinstance(name, str) and str(name) not in statuses:
                found.append(((*path, str(name)), f"expected a string as name, got {shown(name)}: quote it"))
        return {
            str(name): plain(item, rule_of(rules, str(name)), (*path, str(name)), found) for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        inner = rules.get("items", {})
        return [plain(item, inner, (*path, index), found) for index, item in enumerate(value)]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    finite = not isinstance(value, float)
    found.append((path, expected(value, rules) if finite else f"expected a finite number, got {value}"))
    return UNREADABLE


def traps(value: Any, rules: Rules, path: Path) -> Iterator[Problem]:
    """Yield strings that are certainly mistakes, such as Jinja that was not rendered."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from traps(item, rule_of(rules, name), (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from traps(item, rules.get("items", {}), (*path, index))
    elif isinstance(value, str) and not rules.get("verbatim"):
        yield from ((path, text) for is_trap, text in TRAPS if is_trap(value))


def report(found: list[Problem], problems: Iterable[Problem]) -> None:
    """Add problems to ``found``, except those above, below or at a place that is reported already."""
    earlier = [path for path, _ in found]
    for path, text in problems:
        if not any(path[: len(known)] == known[: len(path)] for known in earlier):
            found.append((path, text))


def prune(given: Any, found: Iterable[Problem]) -> None:
    """Remove the wrong values, and whole lists that hold one, so that the rest can be merged and checked."""
    for path, _ in found:
        node = given
        for depth, step in enumerate(path[1:], 2):
            child = node.get(step) if isinstance(node, dict) else None
            if depth == len(path) or not isinstance(child, dict):
                if isinstance(node, dict):
                    node.pop(step, None)
                break
            node = child
