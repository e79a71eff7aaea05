"""The URLs of a project, as far as its modules of routes tell: a page for the health check."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django_project
import django_project_code
import django_project_python_path

_HEALTH = re.compile(
    r"""["'^]/?((?:[\w-]+/)?(?:healthz|health|health[_-]check|livez|readyz|heartbeat|ping)/?)\$?["']"""
)
#: Modules of routes that are read at most.
_MODULES = 50
_ROUTES = ("path", "re_path", "url")
#: Functions whose routes are not the home page.
_NO_PAGES = ("static", "staticfiles_urlpatterns", "debug_toolbar_urls")


def health_path(roots: list[Path], urlconf: Any) -> tuple[str, str]:
    """Return the path of the project's health check, and why it was taken; empty if there is none and / is a page.

    Where / surely is no page, the login page of Django's admin is taken: it requires the database.

    Args:
        roots: the folders that the project is imported from.
        urlconf: ROOT_URLCONF, as far as it is known.
    """
    found = next(filter(None, map(_HEALTH.search, _texts(roots, urlconf))), None)
    if found:
        return f"/{found.group(1)}", "guessed"
    files = _files(roots, urlconf) if isinstance(urlconf, str) else []
    if len(files) == 1 and not _has_home(roots, files[0], {files[0]}):
        admin = next(filter(None, map(_admin, _calls(files[0]))), None)
        if admin:
            return f"/{admin}login/", "guessed: / is no page of the project"
    return "", ""


def _texts(roots: list[Path], urlconf: Any) -> Iterator[str]:
    """Yield the calls in ``urlpatterns`` of the project that have the paths of the site.

    They are in its ROOT_URLCONF, if that is known, and in modules that it includes without a prefix.
    """
    paths = [path for root in roots for path in django_project.files(root, "urls.py", depth=3)]
    if isinstance(urlconf, str):
        paths = _files(roots, urlconf) or paths
    done: set[Path] = set()
    while paths and len(done) < _MODULES:
        path = paths.pop(0)
        if path in done:
            continue
        done.add(path)
        for call in _calls(path):
            text = ast.unparse(call)
            included = re.match(r"\w+\(r?'\^?', (?:\w+\.)?include\(\(?'([\w.]+)'", text)
            if included:
                paths += _files(roots, included[1])
            elif "include(" not in text:
                yield text


def _files(roots: list[Path], module: str) -> list[Path]:
    return [path for root in roots if (path := django_project_python_path.module_file(root, module))]


def _patterns(path: Path) -> Iterator[ast.expr]:
    """Yield the expressions that ``urlpatterns`` of a module consists of, without those of development."""
    for node in _statements(django_project_code.tree(path).body):
        value = getattr(node, "value", None)
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if any(getattr(target, "id", "") == "urlpatterns" for target in targets):
            yield value or ast.Constant(None)
        elif isinstance(node, ast.Expr) and isinstance(value, ast.Call):
            is_addition = django_project_code.dotted(value.func) in ("urlpatterns.append", "urlpatterns.extend")
            yield from value.args[-1:] if is_addition else ()


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements and those in their blocks, except in ``if settings.DEBUG:``."""
    for node in body:
        yield node
        is_debug = isinstance(node, ast.If) and ast.unparse(node.test) in ("settings.DEBUG", "DEBUG")
        for block in ("orelse",) if is_debug else ("body", "orelse", "finalbody"):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield from _statements(getattr(node, block, []))


def _calls(path: Path) -> Iterator[ast.Call]:
    """Yield the calls in the ``urlpatterns`` of a module."""
    return (part for value in _patterns(path) for part in ast.walk(value) if isinstance(part, ast.Call))


def _name(call: ast.Call) -> str:
    return django_project_code.dotted(call.func).rpartition(".")[2]


def _literal(call: ast.Call) -> str | None:
    """Return the first argument of a call if it is a text, or a setting with a text as its default."""
    first = call.args[0] if call.args else None
    if isinstance(first, ast.Call) and django_project_code.dotted(first.func) == "getattr":
        first = first.args[2] if len(first.args) > 2 else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def _has_home(roots: list[Path], path: Path, done: set[Path]) -> bool:
    """Return whether a module of routes has one for the empty path, or may have one."""
    values = [*_patterns(path)]
    return not values or any(_may_be_home(roots, value, done) for value in values)


def _may_be_home(roots: list[Path], value: ast.expr, done: set[Path]) -> bool:
    if isinstance(value, ast.List | ast.Tuple):
        return any(_may_be_home(roots, part, done) for part in value.elts)
    if isinstance(value, ast.BinOp):
        return any(_may_be_home(roots, part, done) for part in (value.left, value.right))
    if not isinstance(value, ast.Call):
        return True
    name, route = _name(value), _literal(value)
    if name in _NO_PAGES:
        return False
    if name == "i18n_patterns":
        return any(_may_be_home(roots, part, done) for part in value.args)
    if name not in _ROUTES or route is None:
        return True
    if not _matches_nothing(name, route):
        return False
    target = value.args[1] if len(value.args) > 1 else None
    if not (isinstance(target, ast.Call) and _name(target) == "include"):
        return True
    files = _files(roots, _literal(target) or "") if _literal(target) else []
    if len(files) != 1 or len(done) >= _MODULES:
        return True
    return files[0] not in done and _has_home(roots, files[0], done | {files[0]})


def _matches_nothing(function: str, route: str) -> bool:
    """Return whether a route matches the empty path, or is the empty prefix of others."""
    if function == "path":
        return not route
    try:
        return bool(re.match(route, ""))
    except (re.error, RecursionError):
        return True


def _admin(call: ast.Call) -> str | None:
    """Return the prefix of Django's admin; None for another route."""
    target = ast.unparse(call.args[1]) if len(call.args) > 1 else ""
    route = (_literal(call) or "").removeprefix("^")
    is_admin = _name(call) in _ROUTES and re.search(r"\badmin(istration)?\.site\.urls$", target)
    return route if is_admin and re.fullmatch(r"([\w-]+/)+", route) else None
