"""The environment variables that modules of a project read when Django imports them, and those that a line uses."""

import ast
import itertools
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from django_formula.inspect import code, imports
from django_formula.inspect.settings import Settings
from django_formula.inspect.values import Variable

#: Functions of django-environ, environs and decouple that raise an exception for a variable that is not set.
_READERS = re.compile(r"(decouple\.)?config|env(\.\w+)?")
_NAME = re.compile(r"[A-Za-z_]\w{0,199}", re.ASCII)
#: Functions whose result is another one at each call.
_RANDOM = re.compile(r"get_random_\w+|token_(hex|urlsafe|bytes)|urandom|uuid4|getrandbits|randbytes|generate_key")
#: A line of a .env file.
_OF_FILE = re.compile(r"^[ \t]*(?:export\s+)?(\w+)\s*=", re.MULTILINE)
#: Expressions of which only the first part is surely evaluated, and where it is.
_FIRST = {ast.If: "test", ast.IfExp: "test", ast.While: "test", ast.For: "iter"}
_NEVER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.Try, getattr(ast, "TryStar", ast.Try))


class Read(NamedTuple):
    """A place where code reads a variable that has no default there.

    Attributes:
        is_needed: whether an exception is raised where it is not set; else the value is None.
        accepted: the texts without one of which an exception is raised; empty if any will do.
    """

    name: str
    line: int
    is_needed: bool
    accepted: tuple[str, ...] = ()


def random_defaults(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """Yield the variables that have a random text by default, the setting of each, and the place.

    Each process and release has another one. Settings that are random without a variable have an empty name.
    """
    for path in settings.files:
        for node in code.tree(path).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            value = getattr(node, "value", None)
            if isinstance(target, ast.Name) and value and not isinstance(value, ast.Lambda) and _is_random(value):
                yield _variable(value), target.id, f"{path}:{node.lineno}"


def _is_random(node: ast.expr) -> bool:
    calls = [part for part in ast.walk(node) if isinstance(part, ast.Call)]
    return any(_RANDOM.fullmatch(code.dotted(call.func).rpartition(".")[2]) for call in calls)


def _variable(node: ast.expr) -> str:
    """Return the first text in an expression that is the name of a variable; empty if there is none."""
    texts = (
        getattr(call.args[0], "value", None) for call in ast.walk(node) if isinstance(call, ast.Call) and call.args
    )
    return next((text for text in texts if isinstance(text, str) and re.fullmatch(r"[A-Z][A-Z0-9_]+", text)), "")


def of_files(folders: Iterable[Path]) -> set[str]:
    """Return the variables that the .env files of folders have."""
    return {name for folder in folders for name in _OF_FILE.findall(code.read(folder / ".env"))}


def add(settings: Settings, roots: Sequence[Path], present: Collection[str]) -> None:
    """Add the variables without which modules of a project cannot be imported to those of its settings.

    They are those that modules read by themselves, or make an object of a library with, such as a client of a service.

    Args:
        roots: the folders that the project is imported from.
        present: the variables that are set.
    """
    paths = [path for path in imports.imported(roots, settings) if path not in settings.files]
    called = {name for path in paths for name in _called(code.tree(path))}
    for path in paths:
        module = code.tree(path)
        for read in (*_of_import(module), *_chosen(module, called)):
            if read.name not in {*settings.variables, *present}:
                found = Variable(read.name, f"{path}:{read.line}", required=True, is_read=True)
                settings.variables[read.name] = replace(found, accepted=read.accepted)
    modules = [*map(code.tree, settings.files)]
    called = {name for module in modules for name in _called(module)}
    for read in (read for module in modules for read in _chosen(module, called)):
        variable = settings.variables.get(read.name)
        if variable and not variable.accepted and read.name not in present:
            variable.required, variable.accepted = True, read.accepted


def _called(module: ast.Module) -> Iterator[str]:
    """Yield the names of the functions that statements at the top of a module call in every case."""
    for node in itertools.chain.from_iterable(map(_certain, module.body)):
        if isinstance(node, ast.Call):
            yield code.dotted(node.func).rpartition(".")[2]


def _chosen(module: ast.Module, called: Collection[str]) -> Iterator[Read]:
    """Yield the variables that functions compare with texts, one after the other, to raise an exception for others.

    Args:
        called: the names of the functions that are called while the project is imported.
    """
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name in called]
    for body in (node.body for node in functions if isinstance(node.body[-1], ast.Raise)):
        tests = [node.test for node in body if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Return)]
        accepted: dict[str, list[str]] = {}
        for test in tests:
            is_equal = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq)
            text = getattr(test.comparators[0], "value", "") if isinstance(test, ast.Compare) and is_equal else ""
            for read in _used(test, _assigned(module)) if text else ():
                accepted.setdefault(read.name, []).append(str(text))
        line = body[0].lineno
        yield from (Read(name, line, True, tuple(texts)) for name, texts in accepted.items())


def of_line(path: Path, line: int) -> dict[str, str]:
    """Return the variables that a line of a module uses, and the statement that it is in.

    Those that have a default where they are read, other than an empty text, are left out. Where the line raises an
    exception and uses none itself, they are those of the condition, the ``try`` or the function around it, the
    innermost that uses any; the names of variables of which code only knows the beginning end in ``*``.
    """
    module = code.tree(path)
    nodes = [node for node in ast.walk(module) if isinstance(node, ast.stmt)]
    around = [node for node in nodes if node.lineno <= line <= (node.end_lineno or node.lineno)]
    around.sort(key=lambda node: (-node.lineno, node.end_lineno or node.lineno))
    if not around or hasattr(around[0], "body"):
        return {}
    assigned = _assigned(module)
    parts = [[around[0]], *map(_decides, around[1:])] if isinstance(around[0], ast.Raise) else [[around[0]]]
    for part in parts:
        found = {read.name: ast.unparse(node) for node in part for read in _used(node, assigned, or_empty=True)}
        found |= {f"{prefix}*": "" for node in part for one in ast.walk(node) for prefix in prefixes(one)}
        if found:
            return found
    return {}


def _decides(node: ast.stmt) -> Sequence[ast.AST]:
    """Return what decides whether code in a statement is run: a condition, the body of ``try`` or of a function."""
    if isinstance(node, ast.If):
        return [node.test]
    return node.body if isinstance(node, ast.Try | ast.FunctionDef) else []


def prefixes(node: ast.AST) -> Iterator[str]:
    """Yield what the names of variables begin with that a loop or a comprehension looks for in the environment."""
    loops = [node] if isinstance(node, ast.For) else getattr(node, "generators", [])
    if any(re.match(r"(\w+\()?(os\.)?environ(\.items\(\)|\.keys\(\))?\)?$", ast.unparse(loop.iter)) for loop in loops):
        for call in (part for part in ast.walk(node) if isinstance(part, ast.Call) and part.args):
            text = getattr(call.args[0], "value", None)
            is_test = isinstance(call.func, ast.Attribute) and call.func.attr == "startswith"
            if is_test and isinstance(text, str) and re.fullmatch(r"[A-Z][A-Z0-9_]*_", text):
                yield text


def _of_import(module: ast.Module) -> Iterator[Read]:
    """Yield what statements at the top of a module read in every case."""
    assigned = _assigned(module)
    for node in itertools.chain.from_iterable(map(_certain, module.body)):
        yield from (read for read in _reads(node) if read.is_needed)
        if isinstance(node, ast.Call) and code.dotted(node.func).rpartition(".")[2][:1].isupper():
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


def _used(node: ast.AST, assigned: dict[str, list[ast.expr]], *, or_empty: bool = False) -> list[Read]:
    """Return what an expression or a statement reads, by itself or by the names in it.

    Args:
        or_empty: also what has an empty default where it is read.
    """
    waiting, done, found = [node], set[str](), list[Read]()
    while waiting:
        parts = [*ast.walk(waiting.pop())]
        found += [read for part in parts for read in _reads(part, or_empty=or_empty)]
        names = {part.id for part in parts if isinstance(part, ast.Name)} - done
        done |= names
        waiting += [value for name in sorted(names) for value in assigned.get(name, [])]
    return found


def _reads(node: ast.AST, *, or_empty: bool = False) -> Iterator[Read]:
    """Yield the variable that an expression itself reads without a default, or with an empty one."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        name, is_needed, has_default = node.slice, True, not code.dotted(node.value).endswith("environ")
    elif isinstance(node, ast.Call) and node.args:
        function, name = code.dotted(node.func), node.args[0]
        is_needed = bool(_READERS.fullmatch(function)) and str(getattr(name, "value", "")).isupper()
        is_reader = is_needed or function.endswith(("environ.get", "getenv"))
        defaults = [*node.args[1:2], *(one.value for one in node.keywords if one.arg == "default")]
        is_empty = or_empty and all(isinstance(one, ast.Constant) and not one.value for one in defaults)
        has_default = not is_reader or bool(defaults and not is_empty)
    else:
        return
    if not has_default and isinstance(name, ast.Constant) and _NAME.fullmatch(str(name.value)):
        yield Read(str(name.value), getattr(node, "lineno", 1), is_needed)
