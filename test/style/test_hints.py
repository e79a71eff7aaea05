"""What the engine tells an operator to do exists: keys of the pillar, commands of the formula, pages of the docs.

Every text of the code is looked at, hints, errors and comments of states alike; values in it are placeholders.
"""

import ast
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import parsed
import pytest
import yaml
from django_formula.pillar import check

ROOT = Path(__file__).parents[2]
FOLDERS = ("engine/django_formula", "_modules", "_states", "_runners", "_pillar")
#: Stands for a value in a text.
VALUE = "\0"
#: A key below a site, by its full path or by itself: `django:sites:blog:tls:kind`, `tls:kind`.
KEY = re.compile(rf"(?<![\w:/.-])((?:django:sites:(?:{VALUE}|\w+):)?(?:[a-z_]+|{VALUE})(?::(?:[A-Za-z_]+|{VALUE}))+)")
COMMAND = re.compile(r"\b(salt-run|salt-call|salt)(?: \S+)? django\.([a-z_]+)\b")
PAGE = re.compile(r"\bdocs/([\w/-]+\.md)(?:#([\w-]+))?")


class Text(NamedTuple):
    module: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.module}.py:{self.line}: {self.text.replace(VALUE, '…')}"


@functools.cache
def texts() -> list[Text]:
    """The texts of the code, docstrings aside."""
    return [
        text
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for text in _texts(f"{folder}/{path.stem}", parsed.nodes(path))
    ]


def _texts(module: str, nodes: Sequence[ast.AST]) -> Iterator[Text]:
    owners = (ast.FunctionDef, ast.ClassDef, ast.Module)
    others = {id(node.body[0].value) for node in nodes if isinstance(node, owners) and _is_text(node.body)}
    others |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    prefixes = sorted(_prefixes(nodes))
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            known = {name: text for line, name, text in prefixes if line <= node.lineno}  # the last one before it
            yield Text(module, node.lineno, _joined(node, known))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in others:
            yield Text(module, node.lineno, re.sub(r"\{\w*\}", VALUE, node.value))


def _is_text(body: list[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)


def _prefixes(nodes: Sequence[ast.AST]) -> Iterator[tuple[int, str, str]]:
    """Yield what names stand for from a line on, where that is a path of the pillar: `at`, mostly."""
    assigned = [node for node in nodes if isinstance(node, ast.Assign)]
    for node in sorted(assigned, key=lambda node: node.lineno):
        pairs = [(node.targets[0], node.value)]
        if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs = [*zip(node.targets[0].elts, node.value.elts, strict=False)]
        for target, value in pairs:
            if isinstance(target, ast.Name):
                text = _joined(value, {}) if isinstance(value, ast.JoinedStr) else _key_of(parsed.name(value))
                yield node.lineno, target.id, text if re.fullmatch(rf"django:sites:{VALUE}(:\w+)*", text) else VALUE
    for function in (node for node in nodes if isinstance(node, ast.FunctionDef)):
        for argument in function.args.args:
            yield function.lineno, argument.arg, VALUE


def _key_of(expression: str) -> str:
    """Return what `Site.at` is; empty for any other expression."""
    return f"django:sites:{VALUE}" if re.fullmatch(r"(\w+\.)*site\.at", expression) else ""


def _joined(node: ast.JoinedStr, prefixes: dict[str, str]) -> str:
    parts = []
    for part in node.values:
        if isinstance(part, ast.Constant):
            parts.append(str(part.value))
        else:
            name = ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else ""
            parts.append(_key_of(name) or prefixes.get(name, VALUE))
    return "".join(parts)


@functools.cache
def site() -> Any:
    schema = yaml.safe_load((ROOT / "django/schema.yaml").read_text())
    return check.resolve(schema["$defs"]["site"], schema)


def problem(rules: Any, names: list[str]) -> str:
    """Say which part of a path the schema does not have; empty where it has all of them."""
    for name in names:
        if not isinstance(rules, dict):
            return name
        known, other = rules.get("properties", {}), rules.get("additionalProperties", {})
        if name == VALUE:
            rules = other if isinstance(other, dict) and other else next(iter(known.values()), {})
        elif name in known:
            rules = known[name]
        elif (known and other is False) or not ({"object"} & {*rules.get("type", ["object"])}):
            return name
        else:
            refused = rules.get("propertyNames", {})
            if refused and list(check._check_name(name, refused, ())):
                return f"{name} is refused"
            rules = other
    return ""


def keys(text: str) -> Iterator[list[str]]:
    for found in KEY.findall(text) if " " in text else ():
        names = found.split(":")
        if names[:2] == ["django", "sites"]:
            yield names[3:]
        elif names[0] in site()["properties"] and names[0] != VALUE:
            yield names


def test_keys_of_the_pillar_exist() -> None:
    found = [(text, names) for text in texts() for names in keys(text.text)]
    assert len(found) > 200
    wrong = {f"{text}  ({':'.join(names)})": why for text, names in found if (why := problem(site(), names))}
    assert not wrong, "\n".join(f"{place}: {why}" for place, why in wrong.items())


@functools.cache
def functions(path: str) -> set[str]:
    return {node.name for node in parsed.tree(ROOT / path).body if isinstance(node, ast.FunctionDef)}


def test_commands_exist() -> None:
    known = {"salt-run": functions("_runners/django.py"), "salt-call": functions("_modules/django.py")}
    known["salt"] = known["salt-call"]
    found = [(text, *command) for text in texts() for command in COMMAND.findall(text.text)]
    assert len(found) > 30
    wrong = [str(text) for text, program, verb in found if verb not in known[program]]
    assert not wrong, "\n".join(wrong)


def test_pages_of_the_docs_exist() -> None:
    found = [(text, *page) for text in texts() for page in PAGE.findall(text.text)]
    assert len(found) > 15
    for text, page, anchor in found:
        path = ROOT / "docs" / page
        assert path.exists(), text
        titles = re.findall(r"(?m)^#+ (.+)$", path.read_text())
        anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert not anchor or anchor in anchors, text


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["tls", "kind"], ""),
        (["tls", "kinds"], "kinds"),
        (["settings", "ALLOWED_HOSTS"], "ALLOWED_HOSTS is refused"),
        (["settings", "STATIC_URL"], ""),
        (["workers", VALUE, "kind"], ""),
        (["database", "user", "x"], "x"),
    ],
)
def test_key_that_does_not_exist_is_seen(names: list[str], expected: str) -> None:
    assert problem(site(), names) == expected
