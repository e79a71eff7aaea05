"""The modules of other packages that a project imports by its applications, its routes and its WSGI module."""

import ast
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from django_formula.inspect import code, python_path, storages
from django_formula.inspect.settings import Settings
from django_formula.knowledge import package as knowledge_package

#: Modules of an application that Django imports.
_OF_APPLICATION = ("", ".apps", ".models", ".admin")
#: Modules of the project that are read at most.
_MOST = 500


def foreign(roots: Sequence[Path], settings: Settings) -> dict[str, Path]:
    """Return the top-level names of modules that are not the project's, and the first file that imports each.

    Only imports that are surely run: not those in functions, conditions and ``try``.

    Args:
        roots: the folders that the project is imported from.
    """
    found = dict[str, Path]()
    for path, names in imported(roots, settings).items():
        for name in (name.partition(".")[0] for name in names):
            if name not in found and not python_path.is_own(roots, name):
                found[name] = path
    return found


def from_top(tree: Path, roots: Sequence[Path], settings: Settings) -> list[str]:
    """Return the packages at the top of a source that the project imports, and no known package of others has.

    Args:
        roots: the folders that the project is imported from, of which the top is none.
    """
    names = [name for name in foreign(roots, settings) if os.path.isfile(tree / name / "__init__.py")]
    return [name for name in names if name not in sys.stdlib_module_names and not knowledge_package.package_of(name)]


def from_own_folder(roots: Sequence[Path], settings: Settings) -> dict[Path, str]:
    """Return the packages whose modules import each other without the package's name, and one such module of each.

    Not those whose folder would hide a package, or a module of Python, that has the same name as a module of theirs.

    Args:
        roots: the folders that the project is imported from.
    """
    found = dict[Path, str]()
    for name, path in foreign(roots, settings).items():
        has_package = name in sys.stdlib_module_names or knowledge_package.package_of(name)
        is_beside = not has_package and python_path.module_file(path.parent, name)
        is_hiding = python_path.hides_packages(path.parent) or python_path.hides_python(path.parent)
        if is_beside and not is_hiding:
            found.setdefault(path.parent, name)
    return found


def imported(roots: Sequence[Path], settings: Settings) -> dict[Path, list[str]]:
    """Return the modules of the project that Django surely imports, and what each of them imports.

    Args:
        roots: the folders that the project is imported from.
    """
    if tuple(roots) in settings.imports:
        return settings.imports[tuple(roots)]
    waiting, seen, found = [*_first(settings)], set[str](), dict[Path, list[str]]()
    while waiting and len(found) < _MOST:
        module = waiting.pop(0)
        path = None if module in seen else _file(roots, module)
        seen.add(module)
        if path and path not in found:
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            found[path] = [name for node in code.tree(path).body for name in _imported(node, package)]
            waiting += [part for name in found[path] for part in _packages(name)]
    settings.imports[tuple(roots)] = found
    return found


def _first(settings: Settings) -> Iterator[str]:
    """Yield the modules that Django imports by their names."""
    installed, routes = settings.get("INSTALLED_APPS"), settings.get("ROOT_URLCONF")
    for name in installed if isinstance(installed, list) else ():
        if isinstance(name, str):
            application = name.partition(".apps.")[0]
            yield from (f"{application}{module}" for module in _OF_APPLICATION)
    if isinstance(routes, str):
        yield routes
    yield settings.application
    yield from (name.rpartition(".")[0] for name in storages.named(settings))


def _file(roots: Sequence[Path], module: str) -> Path | None:
    is_module = all(part.isidentifier() for part in module.split("."))
    return python_path.find_module(roots, module) if is_module else None


def _packages(module: str) -> list[str]:
    """Return a module and the packages that it is in, which are imported before it."""
    parts = module.split(".")
    return [".".join(parts[: number + 1]) for number in range(len(parts))]


def _imported(node: ast.stmt, package: str) -> Iterator[str]:
    """Yield the modules that a statement imports or includes; of names in a package the modules that they may be.

    Args:
        package: the package of the statement's module.
    """
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        module = code.imported_from(node, package)
        names = [f"{module}.{alias.name}" for alias in node.names if alias.name != "*"]
        yield from [module, *names] if module else ()
    elif isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
        calls = [part for part in ast.walk(node) if isinstance(part, ast.Call) and part.args]
        for call in calls:
            first = call.args[0]
            is_include = code.dotted(call.func).rpartition(".")[2] == "include"
            if is_include and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value
