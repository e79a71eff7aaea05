"""The environment variables that a project's settings read, found in their source without running it."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import django_project_python_path

_OPTIONAL_READERS = ("os.environ.get", "environ.get", "os.getenv", "getenv")


@dataclass
class Variable:
    """An environment variable that the settings read.

    Attributes:
        place: file and line.
        required: whether the settings cannot be imported without it.
    """

    name: str
    place: str
    required: bool


def read(text: str, file: str) -> Iterator[Variable]:
    """Yield the environment variables that a module reads by ``os.environ``, django-environ, python-decouple or alike.

    Args:
        text: the source of the module.
        file: its name, for the place of each variable.
    """
    tree = _parse(text)
    declared = _declared(tree)
    for node in ast.walk(tree):
        found = None
        if isinstance(node, ast.Subscript):
            found = _of_subscript(node)
        elif isinstance(node, ast.Call):
            found = _of_call(node, declared)
        if found:
            name, required = found
            yield Variable(name, f"{file}:{getattr(node, 'lineno', 0)}", required)


def _declared(tree: ast.Module) -> set[str | None]:
    """Return the variables that django-environ has a type and a default for: ``Env(DEBUG=(bool, False))``."""
    return {
        keyword.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("Env", "FileAwareEnv")
        for keyword in node.keywords
    }


def _of_subscript(node: ast.Subscript) -> tuple[str, bool] | None:
    """Return the variable that ``os.environ["NAME"]`` reads, and that it is required; None for other subscripts."""
    if ast.unparse(node.value) not in ("os.environ", "environ") or not isinstance(node.ctx, ast.Load):
        return None
    name = _literal(node.slice)
    return (name, True) if name else None


def _of_call(node: ast.Call, declared: set[str | None]) -> tuple[str, bool] | None:
    """Return the variable that a call reads, and whether it is required; None if it reads none."""
    function = ast.unparse(node.func)
    name = _literal(node.args[0]) if node.args else ""
    has_default = len(node.args) > 1 or any(keyword.arg in ("default", None) for keyword in node.keywords)
    if function in _OPTIONAL_READERS and name:
        return name, False
    if function == "dj_database_url.config":
        return name or "DATABASE_URL", False
    if re.fullmatch(r"env\.(db|db_url)", function):
        return name or "DATABASE_URL", not has_default
    if re.fullmatch(r"(env|config|decouple\.config)(\.[a-z_]+)?", function) and re.fullmatch(r"[A-Z][A-Z0-9_]+", name):
        return name, not has_default and name not in declared
    return None


def _literal(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _parse(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def local_modules(roots: list[Path], module: str, done: set[Path] | None = None) -> Iterator[tuple[Path, str]]:
    """Yield the file and text of a module of the project, and of those that it has ``import *`` from.

    Args:
        roots: the folders that the project is imported from.
    """
    done = set() if done is None else done
    path = next(filter(None, (django_project_python_path.module_file(root, module) for root in roots)), None)
    if not module or not path or path in done:
        return
    done.add(path)
    text = path.read_text(errors="replace")
    yield path, text
    for node in ast.walk(_parse(text)):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            yield from local_modules(roots, ".".join([*above, *filter(None, [node.module])]), done)
