"""The steps are described once, in deploy.order; functions, states and docs follow it."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

import parsed
import pytest
from django_formula.deploy import order
from django_formula.deploy import steps as deploy_steps

ROOT = Path(__file__).parents[3]
ORDER = [step.__name__ for step in deploy_steps.ORDER]


def assignments(nodes: Iterable[ast.AST]) -> set[str]:
    """The attributes of ``deployment`` that a module assigns, those of their items included."""
    found = set()
    for node in nodes:
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [getattr(node, "target", None)]
        parts = [part for target in targets if target for part in ast.walk(target)]
        for part in parts:
            if isinstance(part, ast.Attribute) and getattr(part.value, "id", "") == "deployment":
                found.add(part.attr)
    return found


def test_functions_have_the_order_of_their_rows():
    assert [step.name for step in order.STEPS] == ORDER


@pytest.mark.parametrize(
    "given, expected",
    [
        ({}, {"site", "source", "migration", "record"}),
        ({"database": {"engine": "postgres"}}, {"database"}),
        ({"database": {"engine": "postgres", "host": "db1", "password": "x"}}, set()),
        ({"queue": {"engine": "redis"}}, {"store"}),
        ({"caches": {"default": {"engine": "redis", "host": "cache1"}}}, set()),
        ({"tls": {"kind": "acme"}}, {"tls", "acme"}),
        ({"static": {"push": {"kind": "s3"}}}, {"push"}),
        ({"schedules": {"clean": {}}}, {"schedules"}),
    ],
)
def test_site_has_the_steps_that_its_configuration_needs(given, expected):
    database = {"engine": "sqlite", "manage": False, **given.get("database", {})}
    database["manage"] = database["engine"] != "sqlite" and "host" not in database
    caches = {name: {"host": "", **one} for name, one in given.get("caches", {}).items()}
    queue = {"host": "", **given["queue"]} if "queue" in given else None
    site = {"databases": {"default": database}, "tls": {"kind": "none"}, "static": {}, **given, "caches": caches}
    names = [step.name for step in order.steps({**site, "queue": queue})]
    optional = {"database", "store", "tls", "push", "acme", "schedules"}
    assert {*names} - optional == {*ORDER} - optional and names == [name for name in ORDER if name in names]
    assert {*names} & optional == expected & optional


def test_docs_have_the_steps_in_their_order():
    page = re.sub(r"\[([^]]*)\]\([^)]*\)|`", r"\1", (ROOT / "docs/guides/releases.md").read_text())
    rows = re.findall(r"^\| (\w+) \| (.*?)(?:; only with [^|]*)? \| ([^|]*) \|$", page, re.MULTILINE)
    known = [("step", "does", "as"), *((step.name, step.does, step.user) for step in order.STEPS[1:])]
    assert rows[: len(known)] == known


@pytest.mark.parametrize("steps", [deploy_steps.RELEASE, deploy_steps.BACK], ids=["release", "back"])
def test_parts_of_the_order_keep_the_order(steps):
    names = [step.__name__ for step in steps]
    assert names == [name for name in ORDER if name in names]


def test_deployment_is_changed_by_its_methods_only():
    found = {str(path): assignments(parsed.nodes(path)) for path in sorted(ROOT.glob("engine/**/*.py"))}
    assert len(found) > 300 and {name: some for name, some in found.items() if some} == {}
