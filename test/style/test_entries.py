"""Families that the core reaches by `deploy.entries` only, and calls that fit the functions of its entries."""

import ast
import functools
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import parsed
import pytest
from django_formula.deploy import entries
from django_formula.deploy.takeover import Takeover
from django_formula.takeover import takeovers

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "engine/django_formula"
#: What most sites never use.
APART = ("balancer", "compose", "fleet", "takeover")
#: What every host has. The runner and the pillar of a master are the fleet's own.
CORE = [
    *(path for path in sorted(ENGINE.glob("*/*.py")) if path.parent.name not in APART),
    *(ROOT / path for path in ("_modules/django.py", "_modules/django_fleet.py", "_states/django.py")),
]


def nodes() -> Iterator[tuple[str, ast.AST]]:
    for path in CORE:
        name = path.relative_to(ROOT).as_posix()
        yield from ((name, node) for node in parsed.nodes(path))


@functools.cache
def calls() -> list[tuple[str, str, ast.Call]]:
    """Where the core calls entries: the file, the name of the entry, and the call of its function."""
    found = []
    for path, node in nodes():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Call) and parsed.name(node.func.func) == "entry":
            (name,) = node.func.args
            assert isinstance(name, ast.Constant)
            found.append((path, str(name.value), node))
    return found


def test_core_imports_none_of_them():
    modules = [(path, node.module or "") for path, node in nodes() if isinstance(node, ast.ImportFrom)]
    modules += [(path, one.name) for path, node in nodes() if isinstance(node, ast.Import) for one in node.names]
    apart = tuple(f"django_formula.{family}" for family in APART)
    assert [(path, module) for path, module in modules if module.startswith(apart)] == []


def test_every_entry_is_called_where_it_is_named():
    named = [
        (path, node.lineno)
        for path, node in nodes()
        if isinstance(node, ast.Call) and parsed.name(node.func) in ("entry", "entries.entry")
    ]
    assert len(named) == len(calls())
    assert {name for _path, name, _call in calls()} == {*entries.ENTRIES}


@pytest.mark.parametrize("name", entries.ENTRIES)
def test_calls_fit_the_function_of_an_entry(name):
    module, _colon, function = entries.ENTRIES[name].partition(":")
    found = getattr(importlib.import_module(f"django_formula.{module}"), function)
    assert entries.entry(name) is found and module.partition(".")[0] in APART
    for _path, called, call in calls():
        if called == name:
            assert not any(isinstance(one, ast.Starred) for one in call.args)
            inspect.signature(found).bind(*call.args, **{one.arg: one.value for one in call.keywords if one.arg})


def test_takeover_is_what_the_steps_take_it_for():
    methods = {name: one for name, one in vars(Takeover).items() if inspect.isfunction(one) and name[0] != "_"}
    own = {name: inspect.signature(getattr(takeovers.Takeover, name)) for name in methods}
    assert len(methods) > 5 and own == {name: inspect.signature(one) for name, one in methods.items()}
