"""Whether a project refuses visitors without a login: by its views and its middleware, as far as their code tells."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from django_formula.inspect import code, python_path
from django_formula.inspect.settings import Settings

#: Decorators, wrappers and base classes of views that are not for every visitor, or not for GET.
_FOR_SOME = re.compile(
    r"login_?required|permission_?required|staff_?member|superuser|user_?passes|require_post|basic_?auth|whitelist"
    r"|(require|check|verify|validate|need)s?_?\w*(token|secret|key|auth|internal|_ip)"
    r"|(token|secret|auth|internal|_ip)\w*_?(required|only)|allowed_?(ip|host|network)",
    re.IGNORECASE,
)
#: Code that answers 401 or 403, or hides a page.
_REFUSAL = re.compile(
    r"status(_code)?\s*=\s*(HTTPStatus\.|status\.)?(HTTP_)?(40[13]|FORBIDDEN|UNAUTHORIZED)|HttpResponseForbidden"
    r"|PermissionDenied|NotAuthenticated|AuthenticationFailed|HttpResponse\w*Unauthorized|Http404"
)
#: Names of paths that a middleware lets through.
_EXEMPT = re.compile(r"exempt|public|skip|allow|open|white|ignore|exclude|anonymous|bypass|unprotected", re.IGNORECASE)
#: Code of a middleware that asks for a login.
_ANONYMOUS = re.compile(r"not request\.user\.is_authenticated|request\.user\.is_anonymous")
#: Code of a middleware that asks for the domain of a request, or of the page that it comes from.
_HOST = re.compile(
    r"get_host\(|HTTP_(HOST|ORIGIN|REFERER)|headers(\.get\(|\[)[\"'](Host|Origin|Referer)", re.IGNORECASE
)
#: Permissions of Django REST framework with which every visitor may read.
_OPEN = ("AllowAny", "IsAuthenticatedOrReadOnly", "DjangoModelPermissionsOrAnonReadOnly")
_API = re.compile(r"APIView|ViewSet|\bgenerics\.|\bapi_view\b")
#: Code of a health check that answers with a failure, of the database or of something else.
_FAILURE = re.compile(r"\b50[03]\b|SERVICE_UNAVAILABLE")
_DATABASE = re.compile(r"cursor|connection|SELECT|DatabaseError|OperationalError|\.objects\.")
_OTHERS = re.compile(r"celery|cron|redis|worker|queue|broker|beat|schedul|disk|storage", re.IGNORECASE)
#: What a view takes from a request beyond its path, and words of views that do something.
_PARAMETERS = re.compile(r"request\.(GET|user|query_params|session|data|headers|META|auth)\b|kwargs\[")
_ACTION = re.compile(
    r"log(in|out)|delete|remove|create|update|cron|run|send|sync|hook|callback|export|download|reset|stream|captcha",
    re.IGNORECASE,
)
#: Modules that a name is followed through at most.
_HOPS = 4

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Access:
    """What the code of a project lets visitors see.

    Args:
        roots: the folders that the project is imported from.
    """

    def __init__(self, roots: Sequence[Path], settings: Settings):
        self.roots = roots
        self._settings = settings
        default = settings.get("REST_FRAMEWORK", "DEFAULT_PERMISSION_CLASSES")
        names = [name for name in default if isinstance(name, str)] if isinstance(default, list) else []
        #: Whether views of Django REST framework refuse visitors where they do not say otherwise.
        self.is_closed = any(name.rpartition(".")[2] not in _OPEN for name in names)
        middleware = settings.get("MIDDLEWARE")
        found = (
            (self._gate(name) for name in middleware if isinstance(name, str)) if isinstance(middleware, list) else ()
        )
        self._gates = [paths for paths in found if paths is not None]

    def setting(self, name: str) -> Any:
        """Return a setting of the project, as far as it is known."""
        return self._settings.get(name)

    def gates(self, path: str) -> int:
        """Return how many classes of the project's middleware may refuse a path of the site."""
        return sum(not any(_is_below(path, exempt) for exempt in paths) for paths in self._gates)

    def is_refused(self, module: Path, target: ast.expr) -> bool:
        """Return whether the view of a route refuses visitors without a login, or answers no GET.

        Args:
            module: the module of the route.
            target: the view, as the route has it.
        """
        if _FOR_SOME.search(ast.unparse(target)):
            return True
        found = self._definition(module, _view(target))
        if not found:
            return False
        path, node = found
        is_for_some = any(map(_FOR_SOME.search, _above(node))) or _REFUSAL.search(_text(path, node))
        return bool(is_for_some) or self._is_closed(node)

    def is_api_refused(self, module: Path, target: ast.expr) -> bool:
        """Return whether the view of a route is one of Django REST framework that refuses visitors without a login."""
        found = self._definition(module, _view(target))
        return self._is_closed(found[1]) if found else False

    def may_fail(self, module: Path, target: ast.expr) -> bool:
        """Return whether the view of a health check reports more than the database: a first release may lack the rest.

        Such are workers that do not run yet, and jobs that have not run yet.
        """
        found = self._definition(module, _view(target))
        text = _text(*found) if found else ""
        return bool(_FAILURE.search(text)) and not (_DATABASE.search(text) and not _OTHERS.search(text))

    def is_open_get(self, module: Path, target: ast.expr) -> bool:
        """Return whether the view of a route is a class that answers GET without parameters and without a login."""
        found = self._definition(module, _view(target))
        body = found[1].body if found and isinstance(found[1], ast.ClassDef) else []
        get = next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == "get"), None)
        if not found or not get or self.is_refused(module, target) or get.decorator_list:
            return False
        needs = len(get.args.args) - len(get.args.defaults) > 2 or _PARAMETERS.search(ast.unparse(get))
        return not needs and not _ACTION.search(_view(target))

    def imported(self, module: Path, name: str) -> str:
        """Return the whole name of what a module imports under a name; empty if it imports none."""
        first, _dot, rest = name.partition(".")
        package = self._package(module)
        for node in ast.walk(code.tree(module)):
            base = code.imported_from(node, package) if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names if isinstance(node, ast.Import | ast.ImportFrom) else ():
                if first == (alias.asname or alias.name):
                    return ".".join(filter(None, [base, alias.name, rest]))
                if isinstance(node, ast.Import) and not alias.asname and name.startswith(f"{alias.name}."):
                    return name
        return ""

    def _is_closed(self, node: _Definition) -> bool:
        """Return whether the permissions of Django REST framework refuse visitors of a view."""
        if not any(map(_API.search, _above(node))):
            return False
        own = [*_permissions(node)]
        return any(name not in _OPEN for name in own[-1]) if own else self.is_closed

    def _gate(self, name: str) -> list[str] | None:
        """Return the paths that a middleware lets through, if it is the project's and refuses visitors; else None."""
        module, _dot, last = name.rpartition(".")
        path = python_path.find_module(self.roots, module) if module else None
        node = _defined(path, last) if path else None
        if not path or not node:
            return None
        text = _text(path, node)
        if _HOST.search(text) and not _ANONYMOUS.search(text):
            return None  # it compares domains
        exempt = [*self._exempt(path, node)]
        return exempt if _REFUSAL.search(text) and (exempt or _ANONYMOUS.search(text)) else None

    def _exempt(self, path: Path, node: _Definition) -> Iterator[str]:
        """Yield the paths that a middleware lets through: of its constants, settings and conditions."""
        for part in [*code.tree(path).body, *ast.walk(node)]:
            targets = getattr(part, "targets", [getattr(part, "target", None)])
            names = [code.dotted(target) for target in targets if target]
            value: Any = getattr(part, "value", None)
            if any(map(_EXEMPT.search, names)) and value:
                yield from _paths(value)
            elif isinstance(part, ast.If) and _passes(part.body):
                yield from _paths(part.test)
            elif isinstance(part, ast.Attribute) and code.dotted(part.value) == "settings":
                value = self._settings.get(part.attr) if _EXEMPT.search(part.attr) else None
                yield from (one for one in value if isinstance(one, str)) if isinstance(value, list) else ()

    def _definition(self, module: Path, name: str, hops: int = 0) -> tuple[Path, _Definition] | None:
        """Return the function or class that a name of a module is, and its module; None if it is not the project's."""
        node = _defined(module, name)
        if node:
            return module, node
        whole = self.imported(module, name) if hops < _HOPS else ""
        parts = whole.split(".")
        for number in range(len(parts) - 1, 0, -1):
            path = python_path.find_module(self.roots, ".".join(parts[:number]))
            if path:
                return None if path == module else self._definition(path, ".".join(parts[number:]), hops + 1)
        return None

    def _package(self, module: Path) -> str:
        root = next((root for root in self.roots if module.is_relative_to(root)), module.parent)
        return ".".join(module.parent.relative_to(root).parts)


def _view(target: ast.expr) -> str:
    """Return the name of the view of a route, without the functions around it."""
    while isinstance(target, ast.Call):
        name = code.dotted(target.func)
        if name.endswith(".as_view") or not target.args:
            return name.removesuffix(".as_view")
        target = target.args[0]
    return code.dotted(target)


def _defined(path: Path, name: str) -> _Definition | None:
    body = code.tree(path).body
    return next((node for node in body if isinstance(node, _Definition) and node.name == name), None)


def _above(node: _Definition) -> list[str]:
    """Return the decorators and base classes of a view as texts."""
    return [ast.unparse(one) for one in (*node.decorator_list, *getattr(node, "bases", ()))]


def _text(path: Path, node: _Definition) -> str:
    """Return the code of a function or class, and of functions of its module that it calls."""
    called = {part.func.id for part in ast.walk(node) if isinstance(part, ast.Call) and isinstance(part.func, ast.Name)}
    helpers = [one for one in code.tree(path).body if isinstance(one, ast.FunctionDef)]
    return "\n".join(ast.unparse(one) for one in (node, *(one for one in helpers if one.name in called)))


def _permissions(node: _Definition) -> Iterator[list[str]]:
    """Yield the permissions that a view has instead of the default ones: names of classes."""
    for one in node.decorator_list:
        if isinstance(one, ast.Call) and code.dotted(one.func).endswith("permission_classes"):
            yield [name for argument in one.args for name in _names(argument)]
    for part in node.body if isinstance(node, ast.ClassDef) else ():
        targets = getattr(part, "targets", [getattr(part, "target", None)])
        if any(getattr(target, "id", "") == "permission_classes" for target in targets):
            yield _names(getattr(part, "value", None))


def _names(value: ast.expr | None) -> list[str]:
    elements = value.elts if isinstance(value, ast.List | ast.Tuple) else [value] if value else []
    return [code.dotted(element).rpartition(".")[2] for element in elements]


def _passes(body: Sequence[ast.stmt]) -> bool:
    """Return whether a block lets a request through: it returns nothing, or what comes after the middleware."""
    last = body[-1]
    if not isinstance(last, ast.Return):
        return False
    text = ast.unparse(last.value) if last.value else "None"
    return text == "None" or "get_response(" in text


def _paths(value: ast.expr) -> list[str]:
    texts = [part.value for part in ast.walk(value) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return [text for text in texts if "/" in text]


def _is_below(path: str, exempt: str) -> bool:
    """Return whether a path of the site is one that a middleware lets through, or below it."""
    plain, prefix = path.strip("/"), exempt.strip("^$").strip("/")
    return plain == prefix or (bool(prefix) and plain.startswith(prefix))
