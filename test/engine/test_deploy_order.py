"""The order of the steps is written once, in django_deploy_steps; states and docs follow it."""

import ast
import re
from pathlib import Path

import django_deploy_steps
import pytest

ROOT = Path(__file__).parents[2]
ORDER = [step.__name__ for step in django_deploy_steps.ORDER]


def assignments(tree: ast.AST) -> set[str]:
    """The attributes of ``deployment`` that a module assigns, those of their items included."""
    found = set()
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [getattr(node, "target", None)]
        parts = [part for target in targets if target for part in ast.walk(target)]
        for part in parts:
            if isinstance(part, ast.Attribute) and getattr(part.value, "id", "") == "deployment":
                found.add(part.attr)
    return found


def test_site_sls_has_the_steps_in_their_order():
    text = (ROOT / "django/site.sls").read_text()
    assert ["site", *re.findall(r"^     \('(\w+)', '", text, re.MULTILINE)] == ORDER


def test_states_have_the_steps_in_their_order():
    tree = ast.parse((ROOT / "_states/django.py").read_text())
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [name for name in functions if name in ORDER] == ORDER


def test_docs_have_the_steps_in_their_order():
    page = (ROOT / "docs/guides/releases.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)[: len(ORDER) - 1] == ORDER[1:]


@pytest.mark.parametrize("steps", [django_deploy_steps.RELEASE, django_deploy_steps.BACK], ids=["release", "back"])
def test_parts_of_the_order_keep_the_order(steps):
    names = [step.__name__ for step in steps]
    assert names == [name for name in ORDER if name in names]


def test_deployment_is_changed_by_its_methods_only():
    found = {path.name: assignments(ast.parse(path.read_text())) for path in sorted(ROOT.glob("_*/*.py"))}
    assert len(found) > 300 and {name: some for name, some in found.items() if some} == {}
