"""The URLs of a project, as far as its modules of routes tell: a page for the health check."""

import ast
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from django_formula.inspect import code, project, python_path
from django_formula.inspect.access import Access

#: A route of a health check, as a regular expression too.
HEALTH = re.compile(
    r"\^?/?((?:[\w-]+/)?_{0,2}(?:healthz|health|health[_-]?check|livez|readyz|heartbeat|ping)_{0,2}/?)\$?"
)
#: Modules that may have a class for Django's admin.
_OF_ADMIN = re.compile(r"\w*(admin|site)\w*\.py")
#: Modules of routes that are read at most.
_MODULES = 50
_ROUTES = ("path", "re_path", "url")
#: Functions whose routes are not the home page.
_NO_PAGES = ("static", "staticfiles_urlpatterns", "debug_toolbar_urls")
#: A route without arguments, as a regular expression too.
_PLAIN = re.compile(r"\^?(?P<path>(?:[\w-]+/)*[\w-]*(?:/\?)?)\$?")
#: Views that are no pages: those that require a login or another method than GET, and those that may do something.
_NO_VIEW = re.compile(
    r"login_?required|permission|staff|superuser|user_?passes|require_(post|http)|csrf_exempt|api|viewset|redirectview"
    r"|logout|delete|remove|create|update|form(?!a)|cron|run|send|sync|hook|callback|export|download|reset|stream",
    re.IGNORECASE,
)
#: Words in paths of pages that only show something, and of those that may do something.
_SHOWS = re.compile(r"(^|[/_-])(status|health\w*|ping|version|alive|ready|docs?|schema|swagger|redoc|login)([/_-]|$)")
ACTS = re.compile(
    r"(^|[/_-])(stage|send|run|sync|update|delete|remove|create|logout|web-?hook|dismiss|cron|callback|reset|reload|clear"
    r"|flush|trigger|start|stop|publish|notify|import|export|download|migrate|seed)([/_-]|$)"
)
#: Views that are pages by themselves: of Django, and of packages that document an API.
_VIEWS = ("LoginView", "TemplateView", "SpectacularSwaggerView", "SpectacularRedocView", "with_ui")


def health_path(access: Access, urlconf: Any, *, but: str = "") -> tuple[str, str]:
    """Return the path of the project's health check, and why it was taken; empty if there is none and / is a page.

    Where / surely is no page, the login page of Django's admin is taken: it requires the database. Without the admin it
    is the first page of the project that needs neither arguments nor a login. A page that the project's middleware may
    refuse is only taken if it may refuse the others too.

    It is as a request has it: letters that are not ASCII are encoded.

    Args:
        urlconf: ROOT_URLCONF, as far as it is known.
        but: a path that is no page for every visitor, as a request has shown; else the code decides.
    """
    found = [(path, why) for path, why in _candidates(access, urlconf, but) if quote(path) != but]
    path, why = min(found, key=lambda one: access.gates(one[0]), default=("", ""))
    return ("", "") if path == "/" and not but else (quote(path), why)


def pages(paths: Iterable[str]) -> list[str]:
    """Return those of a project's paths that are likely to be a page which only shows something, the likeliest first.

    They are sorted by the words in them alone: health checks, logins and documents, then what is least deep.
    """
    shown = [path for path in dict.fromkeys(paths) if path != "/" and not ACTS.search(path)]
    logins = [path for path in shown if path.endswith("/login/")]
    # What is next to a login requires it, as in Django's admin.
    closed = tuple(path.removesuffix("login/") for path in logins if path != "/login/")
    shown = [path for path in shown if path in logins or not path.startswith(closed)]
    return sorted(shown, key=lambda path: (not _SHOWS.search(path), "." in path, path.count("/")))


def _candidates(access: Access, urlconf: Any, but: str) -> Iterator[tuple[str, str]]:
    """Yield the paths that may be a page for every visitor, the most likely first, and why they are taken."""
    for path in _health_paths(access, urlconf):
        yield path, "guessed"
    files = _files(access, urlconf) if isinstance(urlconf, str) else []
    if len(files) != 1:
        return
    has_home = but != "/" and _has_home(access, files[0], {files[0]})
    if has_home:
        yield "/", "guessed"
    why = (
        "guessed: the project's middleware refuses other pages" if has_home else "guessed: / is no page of the project"
    )
    logins = [f"/{admin}login/" for call in _calls(files[0]) if (admin := _admin(access, call))]

    def is_open(module: Path, view: ast.expr) -> bool:
        return access.is_open_get(module, view)

    found = (_pages(access, files[0], "", {files[0]}, is_view) for is_view in (_is_page, is_open))
    pages = [f"/{page}" for page in itertools.chain.from_iterable(found) if page and not ACTS.search(page)]
    pages.sort(key=lambda page: not _SHOWS.search(page))
    # The project's own login may be at another server: any other page is better.
    paths = [*pages, *logins] if _has_own_login(access) else [*logins, *pages]
    yield from ((path, why) for path in paths)


def _has_own_login(access: Access) -> bool:
    """Return whether a class of the project for Django's admin has a login of its own, as by another server."""
    paths = [path for root in access.roots for path in project.walk(root, None, depth=4)]
    texts = [code.read(path) for path in paths if _OF_ADMIN.fullmatch(path.name)]
    classes = [
        node
        for text in texts
        if "AdminSite" in text
        for node in ast.walk(code.parse(text))
        if isinstance(node, ast.ClassDef) and any("AdminSite" in ast.unparse(base) for base in node.bases)
    ]
    return any(isinstance(part, ast.FunctionDef) and part.name == "login" for node in classes for part in node.body)


def _health_paths(access: Access, urlconf: Any) -> Iterator[str]:
    """Yield the paths of health checks in ``urlpatterns`` of the project that refuse no visitor.

    They are in its ROOT_URLCONF, if that is known, and in modules that it includes without a prefix.
    """
    paths = [path for root in access.roots for path in project.walk(root, "urls.py", depth=3)]
    if isinstance(urlconf, str):
        paths = _files(access, urlconf) or paths
    done: set[Path] = set()
    while paths and len(done) < _MODULES:
        path = paths.pop(0)
        if path in done:
            continue
        done.add(path)
        for call in _calls(path):
            text = ast.unparse(call)
            included = re.match(r"\w+\(r?'\^?', (?:\w+\.)?include\(\(?'([\w.]+)'", text)
            is_route = _name(call) in _ROUTES and "include(" not in text
            found = HEALTH.fullmatch(_literal(access, call) or "") if is_route else None
            if included:
                paths += _files(access, included[1])
            elif found and not any(_is_no_check(access, path, target) for target in call.args[1:2]):
                yield f"/{found.group(1)}"


def _is_no_check(access: Access, module: Path, view: ast.expr) -> bool:
    """Return whether a view is not a health check that every visitor may see, and that a first release passes."""
    return access.is_refused(module, view) or access.may_fail(module, view)


def _files(access: Access, module: str) -> list[Path]:
    return [path for root in access.roots if (path := python_path.module_file(root, module))]


def _patterns(path: Path, above: frozenset[Path] = frozenset()) -> Iterator[ast.expr]:
    """Yield the expressions that ``urlpatterns`` of a module consists of, without those of development.

    Those that it takes over from a module next to it are among them.

    Args:
        above: the modules that take over its own.
    """
    neighbours = _neighbours(path)
    for node in _statements(code.tree(path).body):
        value = getattr(node, "value", None)
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if any(getattr(target, "id", "") == "urlpatterns" for target in targets):
            neighbour = neighbours.get(value.id) if isinstance(value, ast.Name) else None
            is_new = neighbour and neighbour not in {*above, path}
            yield from _patterns(neighbour, above | {path}) if neighbour and is_new else [value or ast.Constant(None)]
        elif isinstance(node, ast.Expr) and isinstance(value, ast.Call):
            is_addition = code.dotted(value.func) in ("urlpatterns.append", "urlpatterns.extend")
            yield from value.args[-1:] if is_addition else ()


def _neighbours(path: Path) -> dict[str, Path]:
    """Return the names under which a module imports ``urlpatterns`` of modules next to it, and these."""
    nodes = [node for node in code.tree(path).body if isinstance(node, ast.ImportFrom) and node.module]
    found: dict[str, Path] = {}
    for node in nodes:
        package, _dot, name = str(node.module).rpartition(".")
        is_near = (node.level == 1 and not package) or package.rpartition(".")[2] == path.parent.name
        neighbour = path.with_name(f"{name}.py")
        if is_near and neighbour != path and neighbour.is_file():
            found |= {one.asname or one.name: neighbour for one in node.names if one.name == "urlpatterns"}
    return found


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
    return code.dotted(call.func).rpartition(".")[2]


def _called(value: ast.expr) -> str:
    return _name(value) if isinstance(value, ast.Call) else ""


def _literal(access: Access, call: ast.Call) -> str | None:
    """Return the first argument of a call if it is a text, or a setting that is one or has one as its default."""
    first = call.args[0] if call.args else None
    if isinstance(first, ast.Call) and code.dotted(first.func) == "getattr":
        first = first.args[2] if len(first.args) > 2 else None
    if isinstance(first, ast.Attribute) and code.dotted(first.value) == "settings":
        value = access.setting(first.attr)
        return value if isinstance(value, str) else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None


def _has_home(access: Access, path: Path, done: set[Path]) -> bool:
    """Return whether a module of routes has one for the empty path, or may have one."""
    values = [*_patterns(path)]
    is_known = any(not any(map(_is_before, ast.walk(value))) for value in values)
    return not is_known or any(_may_be_home(access, path, value, done) for value in values)


def _may_be_home(access: Access, module: Path, value: ast.expr, done: set[Path]) -> bool:
    if isinstance(value, ast.List | ast.Tuple):
        return any(_may_be_home(access, module, part, done) for part in value.elts)
    if isinstance(value, ast.BinOp):
        return any(_may_be_home(access, module, part, done) for part in (value.left, value.right))
    if not isinstance(value, ast.Call):
        return not _is_before(value)
    name, route = _name(value), _literal(access, value)
    if name in _NO_PAGES:
        return False
    if name == "i18n_patterns":
        return any(_may_be_home(access, module, part, done) for part in value.args)
    if name not in _ROUTES or route is None:
        return not any(map(_is_before, value.args))  # a function that adds routes of development
    if not _matches_nothing(name, route):
        return False
    target = value.args[1] if len(value.args) > 1 else None
    if not (isinstance(target, ast.Call) and _name(target) == "include"):
        return not (target and access.is_api_refused(module, target))
    if _is_router(module, target):
        return not access.is_closed
    files = _included(access, module, target)
    if len(files) != 1 or len(done) >= _MODULES:
        return True
    return files[0] not in done and _has_home(access, files[0], done | {files[0]})


def _is_before(value: ast.AST) -> bool:
    """Return whether an expression is the routes that a module has had before."""
    return isinstance(value, ast.Name) and value.id == "urlpatterns"


def _is_router(module: Path, included: ast.Call) -> bool:
    """Return whether a route includes a router of Django REST framework; its page has the default permissions."""
    name = code.dotted(included.args[0]) if included.args else ""
    body = code.tree(module).body
    kinds = ["DefaultRouter", *(node.name for node in body if isinstance(node, ast.ClassDef) and _is_kind(node))]
    calls = [node for node in body if isinstance(node, ast.Assign) and _called(node.value) in kinds]
    names = [code.dotted(node.targets[0]) for node in calls]
    return name.endswith(".urls") and name.removesuffix(".urls") in names


def _is_kind(node: ast.ClassDef) -> bool:
    """Return whether a class is a kind of the routers that have a page of their own."""
    return any(code.dotted(base).rpartition(".")[2] == "DefaultRouter" for base in node.bases)


def _included(access: Access, module: Path, include: ast.Call) -> list[Path]:
    """Return the files of the module that a route includes: by a text, a tuple with it first, or an imported name."""
    first = include.args[0] if include.args else None
    first = first.elts[0] if isinstance(first, ast.Tuple) and first.elts else first
    name = access.imported(module, first.id) if isinstance(first, ast.Name) else getattr(first, "value", None)
    return _files(access, name) if name and isinstance(name, str) else []


def _matches_nothing(function: str, route: str) -> bool:
    """Return whether a route matches the empty path, or is the empty prefix of others."""
    if function == "path":
        return not route
    try:
        return bool(re.match(route, ""))
    except (re.error, RecursionError):
        return True


def _pages(
    access: Access, module: Path, prefix: str, done: set[Path], is_view: Callable[[Path, ast.expr], bool]
) -> Iterator[str]:
    """Yield the paths of a module's routes that need neither arguments nor a login, as far as its code tells.

    Args:
        is_view: whether the view of a route, which a module has, is one of these.
        prefix: that of the module's routes.
        done: the modules that were read before; new ones are added.
    """
    for call in (route for value in _patterns(module) for route in _routes(value)):
        literal, target = _literal(access, call), call.args[1] if len(call.args) > 1 else None
        route = _PLAIN.fullmatch(literal) if literal is not None else None
        if not route or not target:
            continue
        path = f"{prefix}{route['path'].replace('?', '')}"
        if not (isinstance(target, ast.Call) and _name(target) == "include"):
            yield from [path] if path and is_view(module, target) else []
            continue
        if _is_router(module, target):
            yield from [path] if path and not access.is_closed else []
            continue
        files = _included(access, module, target)
        if len(files) == 1 and files[0] not in done and len(done) < _MODULES:
            done.add(files[0])
            yield from _pages(access, files[0], path, done, is_view)


def _routes(value: ast.expr) -> Iterator[ast.Call]:
    """Yield the routes of an expression, without those that a call encloses: they have another prefix."""
    if isinstance(value, ast.List | ast.Tuple):
        for part in value.elts:
            yield from _routes(part)
    elif isinstance(value, ast.BinOp):
        yield from _routes(value.left)
        yield from _routes(value.right)
    elif isinstance(value, ast.Call) and _name(value) in _ROUTES:
        yield value


def _is_page(module: Path, target: ast.expr) -> bool:
    """Return whether the view of a route is one of Django's pages, or of the project's next to it, without a login."""
    view = target.func if isinstance(target, ast.Call) else target
    name = code.dotted(view).removesuffix(".as_view").rpartition(".")[2]
    if not name or _NO_VIEW.search(ast.unparse(target)):
        return False
    if name in _VIEWS:
        return True
    paths = [module, module.with_name("views.py"), *sorted(module.with_name("views").glob("*.py"))[:_MODULES]]
    nodes = (node for path in paths if path.is_file() for node in code.tree(path).body)
    found = next((node for node in nodes if getattr(node, "name", "") == name), None)
    if isinstance(found, ast.ClassDef):
        bases = [ast.unparse(base) for base in [*found.bases, *found.decorator_list]]
        is_view = any(re.search(r"\wView$", base) for base in bases) or _has_get(found)
        return is_view and not any(map(_NO_VIEW.search, bases))
    if not isinstance(found, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    required = len(found.args.args) - len(found.args.defaults)
    return required == 1 and not any(_NO_VIEW.search(ast.unparse(one)) for one in found.decorator_list)


def _has_get(view: ast.ClassDef) -> bool:
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == "get" for node in view.body)


def _admin(access: Access, call: ast.Call) -> str | None:
    """Return the prefix of Django's admin; None for another route."""
    target = ast.unparse(call.args[1]) if len(call.args) > 1 else ""
    route = (_literal(access, call) or "").removeprefix("^")
    is_admin = _name(call) in _ROUTES and re.search(r"\badmin(istration)?\.site\.urls$", target)
    return route if is_admin and re.fullmatch(r"([\w-]+/)+", route) else None
