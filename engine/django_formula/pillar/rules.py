"""Contradictions between options, which `django/schema.yaml` has next to the option that they are reported at.

An option that is set - other than by default, and not empty - may have these keywords. Each is one entry or a list of
them; an entry names other options with what they have to be: a value, a list of values, `true` for anything, `false`
for nothing.

* ``only_with``: it has no effect unless all of an entry holds. A list of values is not asked of an option without any.
* ``conflicts``: it is refused where all of an entry holds.
* ``required_with``: it is missing where all of an entry holds; an empty entry always does.

A name is looked up in the map that has the option, then in the maps around it, as `proxy:kind` is in the site's. Next
to names an entry may have ``text``, the error, in which ``{name}`` is what that option is and ``{value}`` the option's
own; ``value``, the only values that it is about; and ``own: true``, if it is a mistake of the site alone, which may
inherit the option, and may not write even its default.

docs/reference/options.py makes the reference and the schema for editors of the same lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django_formula.pillar.check import Path, Problem, Rules, expectation, rule_of

KEYWORDS = ("only_with", "conflicts", "required_with")
#: The keys of an entry that name no option.
NO_CONDITIONS = ("text", "value", "own")


class Scope(NamedTuple):
    """A map of the configuration: what is known there, and what the options are."""

    known: Rules
    values: Mapping[str, Any]


def contradictions(
    given: Mapping[str, Any], own: Any, effective: Any, rules: Rules, scopes: Sequence[Scope], path: Path
) -> Iterator[Problem]:
    """Yield what contradicts itself in a map and in those within.

    Args:
        given: the map as the pillar has it, with inherited values and defaults.
        own: what the site itself has of it.
        effective: what was made of it; conditions are about that.
        rules: of the map.
        scopes: the maps around it, the outermost first.
        path: of the map.
    """
    effective = effective if isinstance(effective, dict) else {}
    scopes = [*scopes, Scope(rules.get("properties", {}), {**given, **effective})]
    for name, rule in rules.get("properties", {}).items():
        if "required_with" in rule and is_empty(given.get(name)):
            yield from (((*path, name), text) for text in _missing(rule, scopes))
    for name, value in given.items():
        rule = rule_of(rules, name)
        is_own = isinstance(own, dict) and own.get(name) is not None
        yield from (((*path, name), text) for text in _refused(value, rule, scopes, is_own=is_own))
        if isinstance(value, dict):
            inner = own[name] if is_own else None
            yield from contradictions(value, inner, effective.get(name), rule, scopes, (*path, name))


def is_empty(value: Any) -> bool:
    """Return whether a value is none: neither a text, a number or a flag, nor something in a list or map."""
    return value is None or value in ([], {})


def is_set(value: Any, rules: Rules) -> bool:
    """Return whether an option has a value of its own."""
    return not is_empty(value) and value != rules.get("default")


def entries(rules: Rules, keyword: str) -> list[dict[str, Any]]:
    """Return the entries of a keyword of an option."""
    value = rules.get(keyword, [])
    return value if isinstance(value, list) else [value]


def conditions(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that an entry names, with what they have to be."""
    return {name: wanted for name, wanted in entry.items() if name not in NO_CONDITIONS}


def values_of(wanted: Any) -> list[Any]:
    """Return the values of a condition, of which one has to be the option's."""
    return wanted if isinstance(wanted, list) else [wanted]


def used(rules: Rules, values: Mapping[str, Any]) -> list[str]:
    """Return the options of a map that have an effect with the values of others in it, such as its kind."""
    scopes = [Scope(rules["properties"], values)]
    known = rules["properties"].items()
    return [name for name, rule in known if all(_is_met(entry, scopes) for entry in entries(rule, "only_with"))]


def _missing(rules: Rules, scopes: Sequence[Scope]) -> Iterator[str]:
    for entry in entries(rules, "required_with"):
        if _holds(entry, scopes):
            by = " and ".join(f"{name}: {_actual(name, scopes)} needs it" for name in conditions(entry))
            yield _text(entry, f"missing: {by or f'expected {expectation(rules)}'}", scopes)
            return


def _refused(value: Any, rules: Rules, scopes: Sequence[Scope], *, is_own: bool) -> Iterator[str]:
    """Yield why an option may not be set."""
    for keyword in ("only_with", "conflicts"):
        for entry in entries(rules, keyword):
            is_meant = is_own and not is_empty(value) if entry.get("own") else is_set(value, rules)
            if not is_meant or ("value" in entry and value not in values_of(entry["value"])):
                continue
            if keyword == "conflicts" and _holds(entry, scopes):
                yield _text(entry, _conflict(entry, scopes), scopes, value)
            elif keyword == "only_with" and not _is_met(entry, scopes):
                yield _text(entry, _useless(entry, scopes), scopes, value)


def _conflict(entry: Mapping[str, Any], scopes: Sequence[Scope]) -> str:
    with_what = " and ".join(_said(name, wanted, scopes) for name, wanted in conditions(entry).items())
    return f"not supported {with_what}: remove one of them"


def _useless(entry: Mapping[str, Any], scopes: Sequence[Scope]) -> str:
    unmet = (name for name, wanted in conditions(entry).items() if not _is(name, wanted, scopes))
    name = next(unmet)
    wanted = entry[name]
    if isinstance(wanted, bool):
        return f"has no effect {_said(name, not wanted, scopes)}"
    return (
        f"has no effect with {name}: {_actual(name, scopes)}; it is an option of {name}: {', '.join(values_of(wanted))}"
    )


def _said(name: str, wanted: Any, scopes: Sequence[Scope]) -> str:
    """Return a condition in words, as it holds."""
    if isinstance(_actual(name, scopes), bool):
        return f"with {name}: {'true' if wanted else 'false'}"
    if isinstance(wanted, bool):
        return f"with {name}" if wanted else f"without {name}"
    return f"with {name}: {_actual(name, scopes)}"


def _text(entry: Mapping[str, Any], usual: str, scopes: Sequence[Scope], value: Any = None) -> str:
    """Return the error of an entry."""

    def filled(match: re.Match[str]) -> str:
        return str(value if match[1] == "value" else _actual(match[1], scopes))

    return re.sub(r"\{([a-z_]+(?::[a-z_]+)*)\}", filled, entry["text"]) if "text" in entry else usual


def _holds(entry: Mapping[str, Any], scopes: Sequence[Scope]) -> bool:
    return all(_is(name, wanted, scopes) for name, wanted in conditions(entry).items())


def _is_met(entry: Mapping[str, Any], scopes: Sequence[Scope]) -> bool:
    """Return whether all of an entry holds, of what can be judged: an option without a value is of no kind yet."""
    return all(
        _is(name, wanted, scopes) or (not isinstance(wanted, bool) and is_empty(_actual(name, scopes)))
        for name, wanted in conditions(entry).items()
    )


def _is(name: str, wanted: Any, scopes: Sequence[Scope]) -> bool:
    """Return whether an option is what a condition has."""
    actual = _actual(name, scopes)
    if isinstance(wanted, bool):
        return wanted is not (is_empty(actual) or actual is False)
    return actual in values_of(wanted)


def _actual(name: str, scopes: Sequence[Scope]) -> Any:
    """Return what an option is, looked up from the innermost map outwards."""
    first, *rest = name.split(":")
    value = next(scope.values.get(first) for scope in reversed(scopes) if first in scope.known)
    for step in rest:
        value = value.get(step) if isinstance(value, dict) else None
    return value
