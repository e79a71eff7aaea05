"""The folders that a project is imported from in addition to the folder of manage.py, declared by its own files."""

import ast
import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from django_formula.inspect import code
from django_formula.virtualenv import lock

#: Modules of Python that nothing imports.
_NEVER_IMPORTED = {"antigravity", "idlelib", "test", "this", "turtledemo"}
#: Calls that return the same path in another form.
_SAME = {"Path", "pathlib.Path", "str", "os.fspath", "os.path.abspath", "os.path.realpath", "os.path.normpath"}
_SAME_METHODS = {"resolve", "absolute", "as_posix"}


def declared(source: Path, folder: str) -> list[str]:
    """Return the folders that manage.py adds to sys.path or that packages are built from, relative to the source.

    Args:
        folder: the folder of manage.py, which is not among them.
    """
    project = source / folder
    found = [*_of_packaging(project), *_of_packaging(source)]
    with contextlib.suppress(RecursionError):  # a hostile source
        of_manage = _of_manage(project / "manage.py")
        found = [*(path for path in of_manage if not (_is_package(path) and hides_packages(path))), *found]
    paths = dict.fromkeys(Path(os.path.normpath(path)) for path in found)
    if _is_package(project) and not _imports(project, project.name):
        paths.pop(project.parent, None)  # the distribution's top; the project does not import itself from there
    return [
        str(path.relative_to(source))
        for path in paths
        if path != project and path.is_relative_to(source) and path.is_dir() and os.pathsep not in str(path)
    ]


def module_file(folder: Path, module: str) -> Path | None:
    """Return the file of a module that is imported from a folder, or None if it does not exist."""
    base = folder / module.replace(".", "/")
    paths = (base.with_name(f"{base.name}.py"), base / "__init__.py")
    return next((path for path in paths if os.path.isfile(path)), None)  # a name may be too long for Path.is_file


def find_module(roots: Sequence[Path], module: str) -> Path | None:
    """Return the file of a module in the first of several folders that has it, or None if none has."""
    return next(filter(None, (module_file(root, module) for root in roots)), None)


def is_own(roots: Sequence[Path], module: str) -> bool:
    """Return whether a top-level module is in one of the folders that a project is imported from."""
    return any(os.path.isdir(root / module) or os.path.isfile(root / f"{module}.py") for root in roots)


def hides_packages(folder: Path) -> bool:
    """Return whether a folder has a module that imports the installed package of the same name: jinja2.py, celery.py.

    Imported from its folder, which comes before those of installed packages, the module would import itself.
    """
    pattern = r"^(?:from|import)\s+{}\b"
    paths = [path for path in folder.glob("*.py") if path.stem.isidentifier()]
    return any(re.search(pattern.format(path.stem), code.read(path), re.MULTILINE) for path in paths)


def hides_python(folder: Path) -> bool:
    """Return whether a folder has a module or package with the name of one of Python's own: email, calendar.

    On the import path it comes before Python's library, which imports that one itself.
    """
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    return bool(names & (sys.stdlib_module_names - _NEVER_IMPORTED))


def is_of_installed(package: Path) -> bool:
    """Return whether a package imports modules below its own name that it lacks: the installed one has them.

    A project keeps the migrations of a package that it installs in such a folder.
    """
    pattern = re.compile(rf"^(?:from|import)\s+{re.escape(package.name)}\.(\w+)", re.MULTILINE)
    named = {name for path in package.glob("*.py") for name in pattern.findall(code.read(path))}
    return any(not (package / name).is_dir() and not (package / f"{name}.py").is_file() for name in named)


def _is_package(folder: Path) -> bool:
    return (folder / "__init__.py").is_file()


def _imports(folder: Path, package: str) -> bool:
    """Return whether a module in a folder names a package in an import, or in a text such as ``package.urls``."""
    name = re.escape(package)
    pattern = re.compile(rf"^[ \t]*(?:from|import)\s+{name}\b|[\"']{name}\.\w", re.MULTILINE)
    return any(pattern.search(code.read(path)) for path in folder.rglob("*.py"))


def _of_manage(manage: Path) -> Iterator[Path]:
    """Yield the paths that manage.py adds to sys.path, as literals or joined to its own path."""
    try:
        tree = ast.parse(code.read(manage))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    names = {"__file__": manage}
    for node in ast.walk(tree):
        entries: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            value = _path(node.value, names, manage.parent)
            names |= {target.id: value for target in node.targets if isinstance(target, ast.Name) and value}
        elif isinstance(node, ast.AugAssign) and ast.unparse(node.target) == "sys.path":
            entries = getattr(node.value, "elts", [])
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("sys.path.insert", "sys.path.append"):
            entries = node.args[-1:]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "sys.path.extend":
            entries = getattr(node.args[0], "elts", []) if node.args else []
        yield from filter(None, (_path(entry, names, manage.parent) for entry in entries))


def _path(node: ast.expr, names: dict[str, Path], working: Path) -> Path | None:
    """Return the path that an expression results in, or None if that is not known without running it."""
    if isinstance(node, ast.Constant):
        return working / node.value if isinstance(node.value, str) and "\0" not in node.value else None
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return _joined(node.left, [node.right], names, working)
    if isinstance(node, ast.Attribute) and node.attr == "parent":
        base = _path(node.value, names, working)
        return base.parent if base else None
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "parents":
        base, index = _path(node.value.value, names, working), getattr(node.slice, "value", None)
        return base.parents[index] if base and isinstance(index, int) and index < len(base.parents) else None
    return _path_of_call(node, names, working) if isinstance(node, ast.Call) else None


def _path_of_call(node: ast.Call, names: dict[str, Path], working: Path) -> Path | None:
    called = ast.unparse(node.func)
    if called in ("os.getcwd", "Path.cwd", "pathlib.Path.cwd"):
        return working
    if isinstance(node.func, ast.Attribute) and node.func.attr in _SAME_METHODS:
        return _path(node.func.value, names, working)
    if isinstance(node.func, ast.Attribute) and node.func.attr == "joinpath":
        return _joined(node.func.value, node.args, names, working)
    if not node.args:
        return None
    if called == "os.path.dirname":
        base = _path(node.args[0], names, working)
        return base.parent if base else None
    joins = called in ("os.path.join", "Path", "pathlib.Path")
    return _joined(node.args[0], node.args[1:] if joins else [], names, working) if joins or called in _SAME else None


def _joined(first: ast.expr, rest: list[ast.expr], names: dict[str, Path], working: Path) -> Path | None:
    base = _path(first, names, working)
    parts = [part.value for part in rest if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return base.joinpath(*parts) if base and len(parts) == len(rest) else None


def _of_packaging(folder: Path) -> Iterator[Path]:
    """Yield the folders with packages of setuptools or poetry in pyproject.toml."""
    try:
        tool = lock.read_toml(folder / "pyproject.toml").get("tool", {})
    except (OSError, ValueError):
        return
    found = _dig(tool, "setuptools", "packages", "find", "where")
    named = _dig(tool, "setuptools", "package-dir")
    listed = _dig(tool, "poetry", "packages")
    for where in found if isinstance(found, list) else []:
        yield folder / str(where)
    for name, where in named.items() if isinstance(named, dict) else []:
        if not name or Path(str(where)).name == name:
            yield folder / str(where) if not name else (folder / str(where)).parent
    for package in listed if isinstance(listed, list) else []:
        if _dig(package, "from"):
            yield folder / str(_dig(package, "from"))


def _dig(value: Any, *names: str) -> Any:
    """Return the value below these names in a TOML value, or None."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value
