"""The code of a project as a syntax tree, and the settings module and application that it names. Nothing is run."""

import ast
import contextlib
import functools
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

#: Statements at the top level that continue the one before.
_CONTINUED = re.compile(r"(elif|else|except|finally)\b|[)\]}]|\s|#|$")
#: The most bytes of a module.
_MOST = 2 << 20
#: The most nodes of a syntax tree below each other: functions that call themselves for each exceed Python's limit.
_DEPTH = 150
SETTING = "DJANGO_SETTINGS_MODULE"
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
#: The last part, or the package, of a settings module that is not for a server.
NOT_LIVE = re.compile(
    r"(^|[._])(dev|devel|develop|development|local|tests?|testing|ci)$"
    r"|\.(dev|devel|develop|development|local|tests?|testing|ci)\.\w+$"
)
#: What is for a live site, by its name; `pro` and `online` are words of Chinese projects.
LIVE_WORDS = "pro|prod|product|production|live|online|release|deploy|deployment"
#: The last part of the name of one that is for a live site: production, settings_deploy, live_settings.
LIVE = re.compile(rf"\.(?:settings_)?(?:{LIVE_WORDS})(?:_settings)?$")
#: Ends of names of examples that cannot be imported: settings.py.sample, settings.py.dist.dev, settings.example.py.
_OF_EXAMPLE = r"(?:[.-][\w-]+)?[.-]\w*(?:example|sample|template|dist)"
_EXAMPLE = re.compile(
    rf"(?P<name>[a-z]\w*)(?:\.py{_OF_EXAMPLE}(?:[.-]\w+)?|{_OF_EXAMPLE}\.py|\.(?:example|sample|template|dist))",
    re.IGNORECASE,
)
#: Words in names of templates of other files.
_TEMPLATE = re.compile(r"example|sample|template|tmpl|tpl|dist|default|stencil|skel", re.IGNORECASE)
#: What reading a hostile or damaged file may raise; OSError names its file.
UNEXPECTED = (RecursionError, MemoryError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
#: What a template of Jinja has, and a module does not: {{ name }}, which would be a set in a set.
_OF_TEMPLATE = re.compile(r"\{\{ ?\w+ ?\}\}|\{%")


class Reading:
    """What is being read in this process, for messages."""

    #: The file that was read last.
    path: Path | None = None
    #: Lines of statements that are nested too deep, by their file.
    unread: ClassVar[dict[Path, list[int]]] = {}


def begin() -> None:
    """Begin with another project."""
    Reading.path = None
    Reading.unread.clear()
    parse.cache_clear()


def matching(folder: Path, pattern: Any) -> list[Path]:
    """Return the paths in a folder that a pattern of a project names, sorted; none for one elsewhere, or of no use."""
    if not isinstance(pattern, str) or not pattern or pattern.startswith("/") or ".." in pattern:
        return []
    parts = PurePosixPath(pattern).parts
    with contextlib.suppress(ValueError, LookupError, NotImplementedError):
        return sorted(folder.glob("/".join(parts))) if parts else [folder]
    return []


def example_of(path: Path) -> Path | None:
    """Return the example of a module that is not in the source, where it is one that cannot be imported; else None.

    Not one of another language for templates, which is no Python.
    """
    if path.suffix != ".py" or os.path.exists(path) or not os.path.isdir(path.parent):
        return None
    found = [one for one in path.parent.iterdir() if has_example(one) == path and one.is_file()]
    found = [one for one in found if not syntax_error(one) and not _OF_TEMPLATE.search(read(one))]
    return min(found, key=lambda one: (len(one.name), one.name), default=None)


def template_of(path: Path) -> Path | None:
    """Return the file next to one that is not in the source which is a template of it by its name; else None.

    It has the same suffix, and begins with the other's stem: ``config.example.ini``, ``base_stencil.yml``.
    """
    if not path.suffix or os.path.lexists(path) or not os.path.isdir(path.parent):
        return None
    begins = re.compile(rf"{re.escape(path.stem)}(?![^\W_])[\w.@+-]+")
    found = [one for one in path.parent.iterdir() if begins.fullmatch(one.name) and path.suffix in one.suffixes]
    found = [one for one in found if one.is_file()]
    return min(found, key=lambda one: (not _TEMPLATE.search(one.name), len(one.name), one.name), default=None)


def has_example(example: Path) -> Path | None:
    """Return the path of the module that a file is an example of, by its name; None for another file."""
    named = _EXAMPLE.fullmatch(example.name)
    return example.with_name(f"{named['name']}.py") if named else None


def read(path: Path, most: int = _MOST) -> str:
    """Return the text of a file of a project, up to a limit, with the line ends of Unix.

    It is empty for what is no file, such as a FIFO or a device.

    Args:
        most: the most bytes.
    """
    try:
        if not path.is_file():
            return ""
        Reading.path = path
        with path.open("rb") as file:
            return file.read(most).decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    except OSError:
        return ""


def tree(path: Path) -> ast.Module:
    """Return the syntax tree of a file; empty if it cannot be read."""
    return parse(read(path))


@functools.lru_cache(maxsize=64)
def parse(text: str) -> ast.Module:
    """Return the syntax tree of a module; where it has errors, of its statements that have none.

    The project may be written for another version of Python than Salt's. Statements that are nested too deep are left
    out, and noted in `Reading.unread`.
    """
    parts = [_parsed(text)]
    if not parts[0]:
        parts = [_parsed(chunk) for chunk in _chunks(text)]
    statements = [statement for part in parts if part for statement in part.body]
    deep = [statement for statement in statements if _is_deep(statement)]
    if deep and Reading.path:
        Reading.unread[Reading.path] = [statement.lineno for statement in deep]
    return ast.Module([statement for statement in statements if statement not in deep], [])


def _is_deep(statement: ast.stmt) -> bool:
    """Return whether the nodes of a statement are nested too deep; it calls itself for none of them."""
    level: list[ast.AST] = [statement]
    for _depth in range(_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return False
    return True


def syntax_error(path: Path) -> str:
    """Return the line and the reason of a syntax error as ``7: invalid syntax``; empty if this Python finds none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(read(path))
    except SyntaxError as error:
        return f"{error.lineno}: {error.msg}"
    except (ValueError, RecursionError, MemoryError):
        return ""
    return ""


def _parsed(text: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _chunks(text: str) -> Iterator[str]:
    """Yield the statements at the top level of a module, each in its line."""
    lines = text.splitlines()
    begins = [number for number, line in enumerate(lines) if not _CONTINUED.match(line)]
    for begin, end in zip(begins, [*begins[1:], len(lines)], strict=False):
        yield "\n" * begin + "\n".join(lines[begin:end])


def is_module(name: str) -> bool:
    """Return whether a dotted name can be imported: not that of a file in a folder such as ``old-site``."""
    return bool(_MODULE.fullmatch(name))


def dotted(node: ast.AST) -> str:
    """Return the dotted name of an expression such as ``os.environ``; empty for other expressions."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def names(module: ast.Module, name: str) -> bool:
    """Return whether code of a module, not a comment or a text, has a name."""
    return any(
        name in (getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "module", None))
        or (isinstance(node, ast.ImportFrom | ast.Import) and any(alias.name == name for alias in node.names))
        for node in ast.walk(module)
    )


def assigns(module: ast.Module, name: str = "application") -> bool:
    """Return whether a statement at the top level of a module assigns a name."""
    statements = (node for node in module.body if isinstance(node, ast.Assign))
    return any(getattr(target, "id", None) == name for node in statements for target in node.targets)


def imported_from(node: ast.ImportFrom, package: str) -> str:
    """Return the module that a statement imports names from; empty if the statement has only dots at the top.

    Args:
        package: the package of the statement's own module; empty if it has none.
    """
    above = package.split(".") if node.level and package else []
    return ".".join([*above[: len(above) - node.level + 1], *filter(None, [node.module])])


def star_imports(module: ast.Module, *, absolute: bool = False) -> list[str]:
    """Return the modules that a module takes every name from, as they are written there without leading dots.

    Args:
        absolute: only those at the top level that have no leading dots.
    """
    every = module.body if absolute else ast.walk(module)
    nodes = [node for node in every if isinstance(node, ast.ImportFrom) and not (absolute and node.level)]
    return [node.module or "" for node in nodes if any(alias.name == "*" for alias in node.names)]


def is_settings(module: ast.Module) -> bool:
    """Return whether a module looks like Django's settings: it assigns some of them, or takes them from another one.

    Or it adds to INSTALLED_APPS that a package has put there.
    """
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and node.id == "INSTALLED_APPS":
            return True
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return True
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if any(getattr(target, "id", None) in ("DATABASES", "DEBUG", "SECRET_KEY") for target in targets):
            return True
    return False


def settings_named(path: Path) -> str:
    """Return the settings module that a file sets for Django; empty if it sets none or does not exist.

    Of several, one that is set in every case is taken, else the first that is not for development or tests.
    """
    module = tree(path)
    constants = {
        target.id: node.value
        for node in ast.walk(module)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    try:
        found = [(name, certain) for value, certain in _settings(module, True) for name in _modules(value, constants)]
    except RecursionError:  # a hostile source
        return ""
    certain = [name for name, is_certain in found if is_certain]
    live = [name for name, _certain in found if not NOT_LIVE.search(name)]
    return next(iter([*certain, *live, *(name for name, _certain in found)]), "")


def _settings(node: ast.AST, certain: bool) -> Iterator[tuple[ast.expr, bool]]:
    """Yield the expressions that DJANGO_SETTINGS_MODULE is set to, and whether no condition decides it."""
    if isinstance(node, ast.Assign) and any(_is_setting(target) for target in node.targets):
        yield node.value, certain
    elif isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] in ("setdefault", "putenv", "setenv"):
        if len(node.args) > 1 and _text(node.args[0]) == SETTING:
            yield node.args[1], certain
    elif isinstance(node, ast.Call) and dotted(node.func).endswith("environ.update"):
        for argument in node.args:
            if isinstance(argument, ast.Dict):
                pairs = zip(argument.keys, argument.values, strict=True)
                yield from ((value, certain) for key, value in pairs if key and _text(key) == SETTING)
        yield from ((keyword.value, certain) for keyword in node.keywords if keyword.arg == SETTING)
    in_condition = isinstance(node, ast.If | ast.IfExp | ast.Match) and not _is_main(node)
    for child in ast.iter_child_nodes(node):
        yield from _settings(child, certain and not in_condition)


def _is_setting(target: ast.expr) -> bool:
    if not isinstance(target, ast.Subscript) or not dotted(target.value).endswith("environ"):
        return False
    return _text(target.slice) == SETTING


def _is_main(node: ast.AST) -> bool:
    """Return whether it is ``if __name__ == "__main__":``."""
    return isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)


def _modules(node: ast.expr, constants: dict[str, ast.expr], depth: int = 0) -> Iterator[str]:
    """Yield the modules that an expression may name: a text, a default, an alternative, a name of one of these."""
    if depth > 4:
        return
    text = _text(node)
    if _MODULE.fullmatch(text):
        yield text
    elif isinstance(node, ast.Name) and node.id in constants:
        yield from _modules(constants[node.id], constants, depth + 1)
    elif isinstance(node, ast.IfExp):
        yield from (name for part in (node.body, node.orelse) for name in _modules(part, constants, depth + 1))
    elif isinstance(node, ast.BoolOp):
        yield from (name for part in node.values for name in _modules(part, constants, depth + 1))
    elif isinstance(node, ast.Call):
        defaults = [keyword.value for keyword in node.keywords if keyword.arg == "default"]
        yield from (name for part in (*node.args[1:], *defaults) for name in _modules(part, constants, depth + 1))


def _text(node: ast.AST) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
