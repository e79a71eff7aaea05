"""Names of packages are rows of `knowledge.yaml`: none is in the code, but those of what the formula itself serves."""

import ast
import json
import re
from pathlib import Path

import parsed
import pytest
from django_formula.kind import kinds
from django_formula.knowledge import package

TREE = Path(__file__).parents[2] / "engine/django_formula"
KNOWN = json.loads((TREE / "knowledge/knowledge.json").read_text())
#: Django, what sites are made of here, and words that are names of packages too.
OWN = {
    *("django", "redis", "memcached", *kinds.WORKERS),
    *("channels", "dns", "environ", "git", "openssl", "pip", "storages", "yaml"),
}
#: What code still has, by module. It may only shrink: a new name is a row.
LEFT = {
    "inspect.access": {"captcha", "rest_framework"},
    "inspect.compressor": {"compressor", "django-compressor"},
    "inspect.modules": {"djangorestframework"},
    "inspect.readers": {"decouple", "dj_database_url", "dotenv", "pylibmc"},
    "inspect.shell": {"dotenv"},
    "inspect.stores": {"amqp"},
    "inspect.variables": {"decouple"},
    "knowledge.cause": {"django_redis", "kombu"},
    "knowledge.package": {"djangorestframework", "rest-framework"},
    "observe.facts": {"pydantic", "pydantic_settings"},
}


def names() -> set[str]:
    """Modules and packages of all rows, as they are written and with the other sign between words."""
    maps = ("modules", "also", "seldom", "packages", "broken", "on_python", "removed_names", "write_into_themselves")
    lists = ("own_names", "django_modules", "python_modules", "left_out", "make_code")
    found = {name for part in (*maps, *lists) for name in KNOWN[part]}
    found |= {re.sub(r"[\[<].*", "", one) for one in KNOWN["modules"].values()}
    found |= {f"django-{name}" for name in KNOWN["django_modules"]}
    plain = {package.normalised(name) for name in found}
    return plain | {name.replace("-", "_") for name in plain}


def texts(path: Path) -> list[str]:
    """The texts of a module's code, without docstrings."""
    nodes = parsed.nodes(path)
    documented = [node for node in nodes if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and node.body]
    docstrings = {id(node.body[0].value) for node in documented if isinstance(node.body[0], ast.Expr)}
    constants = [node for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [node.value for node in constants if isinstance(node.value, str)]


@pytest.mark.parametrize("family", ["compose", "inspect", "knowledge", "observe"])
def test_code_has_no_name_of_a_package(family):
    known = names() - OWN
    found = {}
    for path in sorted((TREE / family).glob("[!_]*.py")):
        words = {word for text in texts(path) for word in re.findall(r"[a-z][\w-]+", text.lower())}
        if words & known:
            found[f"{family}.{path.stem}"] = words & known
    assert found == {module: left for module, left in LEFT.items() if module.startswith(f"{family}.")}
