"""The metadata of a project as a package, which its code may read: it is never installed, so a release has none."""

import ast
import configparser
import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from django_formula.inspect import code
from django_formula.inspect import project as inspect_project
from django_formula.virtualenv import lock

#: Functions of importlib.metadata and pkg_resources that need the metadata of a package.
_READERS = re.compile(r"(^|\.)(version|metadata|distribution|get_distribution|requires)$")
#: A version, and not where setup.cfg has it from: ``attr: shop.__version__``.
_PLAIN = re.compile(r"[\w.+!-]+")


def stand_ins(tree: Path, project: str, roots: Sequence[Path]) -> dict[str, dict[str, str]]:
    """Return the files for the pillar by which a project finds its own metadata; none if it does not read them.

    Args:
        project: the folder of manage.py.
        roots: the folders that the project is imported from.
    """
    for folder in dict.fromkeys((project, ".")):
        name, version = _own(tree / folder)
        if name and _is_read(tree, roots, name):
            path = f"{_escaped(name)}-{version}.dist-info/METADATA"
            contents = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            return {path if project == "." else f"{project}/{path}": {"contents": contents}}
    return {}


def _own(folder: Path) -> tuple[str, str]:
    """Return the name of the package that a folder is the source of, and its version; 0 where git has it."""
    content: dict[str, Any] = {}
    with contextlib.suppress(ValueError, OSError):
        content = lock.read_toml(folder / "pyproject.toml")
    tables = [content.get("project", {}), content.get("tool", {}).get("poetry", {}), _of_setup(folder / "setup.cfg")]
    names = [table["name"] for table in tables if isinstance(table.get("name"), str)]
    versions = [text for table in tables if _PLAIN.fullmatch(text := str(table.get("version", "")))]
    released = re.findall(r"^Version: (\S+)$", code.read(folder / "PKG-INFO"), re.MULTILINE)
    name, version = next(iter(names), ""), next(iter([*versions, *released]), "0")
    is_plain = re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) and _PLAIN.fullmatch(version)
    return (name, version) if is_plain else ("", "")


def _of_setup(path: Path) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    with contextlib.suppress(configparser.Error):
        parser.read_string(code.read(path))
    return dict(parser["metadata"]) if parser.has_section("metadata") else {}


def _is_read(tree: Path, roots: Sequence[Path], name: str) -> bool:
    """Return whether code of the project reads the metadata of a package in every case."""
    for path in inspect_project.walk(tree, None, depth=5):
        below = [root for root in roots if path.is_relative_to(root)]
        if path.suffix == ".py" and path.name != "setup.py" and below:
            text = code.read(path)
            top = path.relative_to(max(below, key=lambda root: len(root.parts))).parts[0].removesuffix(".py")
            if "metadata" in text or "pkg_resources" in text:
                names = {top if word == "__name__" else word for word in _read(code.parse(text).body)}
                if _escaped(name) in map(_escaped, names):
                    return True
    return False


def _read(body: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield the packages whose metadata statements read, but for those that handle an exception."""
    for statement in body:
        if isinstance(statement, ast.Try):
            continue
        inner = getattr(statement, "body", [])
        yield from _read(inner)
        for node in ast.walk(statement) if not inner else ():
            if isinstance(node, ast.Call) and node.args and _READERS.search(code.dotted(node.func)):
                argument = node.args[0]
                word = argument.id if isinstance(argument, ast.Name) else getattr(argument, "value", None)
                if isinstance(word, str):
                    yield word


def _escaped(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()
