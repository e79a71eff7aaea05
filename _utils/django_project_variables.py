"""The environment variables that modules of a project read when Django imports them, and those that a line uses."""

import ast
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import django_project_code
import django_project_imports
from django_project_settings import Settings
from django_project_values import Variable

#: Functions of django-environ, environs and decouple that raise an exception for a variable that is not set.
_READERS = re.compile(r"(decouple\.)?config|env(\.\w+)?")
_NAME = re.compile(r"[A-Za-z_]\w*")
#: A line of a .env file.
_OF_FILE = re.compile(r"^\s*(?:export\s+)?(\w+)\s*=", re.MULTILINE)
#: Expressions of which only the first part is surely evaluated, and where it is.
_FIRST = {ast.If: "test", ast.IfExp: "test", ast.While: "test", ast.For: "iter"}
_NEVER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.Try, getattr(ast, "TryStar", ast.Try))


class Read(NamedTuple):
    """A place where code reads a variable that has no default there.

    Attributes:
        is_needed: whether an exception is raised where it is not set; else the value is None.
    """

    name: str
    line: int
    is_needed: bool


def of_files(folders: Iterable[Path]) -> set[str]:
    """Return the variables that the .env files of folders have."""
    return {name for folder in folders for name in _OF_FILE.findall(django_project_code.read(folder / ".env"))}


def add(settings: Settings, roots: Sequence[Path], present: Collection[str]) -> None:
    """Add the variables without which modules of a project cannot be imported to those of its settings.

    They are those that modules read by themselves, or make an object of a library with, such as a client of a service.

    Args:
        roots: the folders that the project is imported from.
        present: the variables that are set.
    """
    for path in django_project_imports.imported(roots, settings):
        for read in _of_import(django_project_code.tree(path)) if path not in settings.files else ():
            if read.name not in {*settings.variables, *present}:
                place = f"{path}:{read.line}"
                settings.variables[read.name] = Variable(read.name, place, required=True, is_read=True)


def of_line(path: Path, line: int) -> dict[str, str]:
    """Return the variables that a line of a module uses, and the statement that it is in.

    Those that have a default where they are read are left out.
    """
    module = django_project_code.tree(path)
    nodes = [node for node in ast.walk(module) if isinstance(node, ast.stmt)]
    around = [node for node in nodes if node.lineno <= line <= (node.end_lineno or node.lineno)]
    inner = max(around, key=lambda node: (node.lineno, -(node.end_lineno or node.lineno)), default=None)
    if inner is None or hasattr(inner, "body"):
        return {}
    return {read.name: ast.unparse(inner) for read in _used(inner, _assigned(module))}


def _of_import(module: ast.Module) -> Iterator[Read]:
    """Yield what statements at the top of a module read in every case."""
    assigned = _assigned(module)
    for node in itertools.chain.from_iterable(map(_certain, module.body)):
        yield from (read for read in _reads(node) if read.is_needed)
        if isinstance(node, ast.Call) and django_project_code.dotted(node.func).rpartition(".")[2][:1].isupper():
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            yield from (read for part in arguments for read in _used(part, assigned))


def _certain(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and those in it that are surely evaluated with it."""
    if isinstance(node, _NEVER):
        return
    yield node
    children = ast.iter_child_nodes(node)
    if first := _FIRST.get(type(node)):
        children = iter([getattr(node, first)])
    elif isinstance(node, ast.BoolOp):
        children = iter(node.values[:1])
    for child in children:
        yield from _certain(child)


def _assigned(module: ast.Module) -> dict[str, list[ast.expr]]:
    """Return the names of a module, and the expressions that are assigned to each."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name in (part.id for part in ast.walk(target) if isinstance(part, ast.Name)):
                    found.setdefault(name, []).append(node.value)
    return found


def _used(node: ast.AST, assigned: dict[str, list[ast.expr]]) -> list[Read]:
    """Return what an expression or a statement reads, by itself or by the names in it."""
    waiting, done, found = [node], set[str](), list[Read]()
    while waiting:
        parts = [*ast.walk(waiting.pop())]
        found += [read for part in parts for read in _reads(part)]
        names = {part.id for part in parts if isinstance(part, ast.Name)} - done
        done |= names
        waiting += [value for name in sorted(names) for value in assigned.get(name, [])]
    return found


def _reads(node: ast.AST) -> Iterator[Read]:
    """Yield the variable that an expression itself reads without a default."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        name, is_needed, has_default = node.slice, True, not django_project_code.dotted(node.value).endswith("environ")
    elif isinstance(node, ast.Call) and node.args:
        function, name = django_project_code.dotted(node.func), node.args[0]
        is_needed = bool(_READERS.fullmatch(function)) and str(getattr(name, "value", "")).isupper()
        is_reader = is_needed or function.endswith(("environ.get", "getenv"))
        has_default = not is_reader or len(node.args) > 1 or any(one.arg == "default" for one in node.keywords)
    else:
        return
    if not has_default and isinstance(name, ast.Constant) and _NAME.fullmatch(str(name.value)):
        yield Read(str(name.value), getattr(node, "lineno", 1), is_needed)
