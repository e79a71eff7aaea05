"""Python files with the configuration of a project that it does not commit, and has examples of."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import django_project
import django_project_code
from django_project_settings import Settings

#: Names of examples that can be imported: configuration_example.py, example_local.py.
_EXAMPLE = re.compile(r"(?:(?:example|sample)_([a-z]\w*)|([a-z]\w*?)_(?:example|sample|template|dist))\.py")
#: Names of modules with settings of one site.
_OF_SITE = re.compile(
    r"\w*(local|prod|production|live|dev|development|private|secret|credential|config|setting|instance|server|custom"
    r"|override|host|deploy|docker|env|site)\w*"
)
#: Settings that the site knows → the word of the pillar for the variable of that name, and how it is read.
_KNOWN = {
    "ALLOWED_HOSTS": ("domains", 'os.environ["ALLOWED_HOSTS"].split(",")'),
    "SECRET_KEY": ("secret_key", 'os.environ["SECRET_KEY"]'),
}


class Configuration(NamedTuple):
    """A file that a site needs.

    Attributes:
        path: relative to the source.
        example: the name of the file that it takes its values from.
        contents: its text.
        words: the variables that it reads → the words of the pillar for them.
    """

    path: str
    example: str
    contents: str
    words: dict[str, str]


def find(settings: Settings, tree: Path, roots: Sequence[Path]) -> Iterator[Configuration]:
    """Yield the files that the settings need, and that are in the source as an example only.

    Args:
        tree: the source.
        roots: the folders that the project is imported from.
    """
    for example in settings.files:
        path = django_project_code.has_example(example)
        if path:
            yield _copy(path.relative_to(tree), example)
    needed = {name for path in settings.files for name in _modules(path, roots)}
    for root in roots:
        for example in sorted(django_project.files(root, None, depth=4)):
            named = _EXAMPLE.fullmatch(example.name)
            path = example.with_name(f"{named[1] or named[2]}.py") if named else example
            if not path.exists() and _module(path, root) in needed:
                yield _configuration(path.relative_to(tree), example, _module(example, root))


def absent(settings: Settings, tree: Path, roots: Sequence[Path]) -> list[str]:
    """Return the modules, relative to the source, that the settings take every name of and that are not committed.

    An empty one will do: the site's own settings take the place of what the project would have there.
    """
    names = [f"{module.replace('.', '/')}.py" for module in settings.absent]
    paths = [(root / name, name) for name in dict.fromkeys(names) for root in roots]
    kept = [path for path, name in paths if "/" in name and path.parent.is_dir() and _OF_SITE.fullmatch(path.stem)]
    return [str(path.relative_to(tree)) for path in kept]


def _configuration(path: Path, example: Path, module: str) -> Configuration:
    """Return a file that takes the names of its example."""
    return _with_known(path, example, [f"from {module} import *"])


def _copy(path: Path, example: Path) -> Configuration:
    """Return a file with the statements of its example, which cannot be imported."""
    return _with_known(path, example, ast.unparse(django_project_code.tree(example)).splitlines())


def _with_known(path: Path, example: Path, lines: list[str]) -> Configuration:
    """Return a file that ends with the settings that the site knows, as far as the example has them."""
    code = django_project_code.tree(example)
    known = {name: how for name, how in _KNOWN.items() if django_project_code.assigns(code, name)}
    ends = [f"{name} = {expression}" for name, (_word, expression) in known.items()]
    words = {name: word for name, (word, _expression) in known.items()}
    first = ["import os"] if known and "import os" not in lines else []
    text = "\n".join([*first, *lines, *ends, ""])
    return Configuration(str(path), example.name, text, words)


def _module(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts)


def _modules(path: Path, roots: Sequence[Path]) -> Iterator[str]:
    """Yield the modules that a file imports, or that it has the names of, but not those that it does without."""
    code = django_project_code.tree(path)
    tries = [node for node in ast.walk(code) if isinstance(node, ast.Try)]
    optional = {id(part) for node in tries if not _raises(node) for one in node.body for part in ast.walk(one)}
    root = next((root for root in roots if path.is_relative_to(root)), path.parent)
    package = ".".join(path.relative_to(root).parent.parts)
    for node in ast.walk(code):
        if id(node) in optional:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = django_project_code.imported_from(node, package)
            yield from (module, *(f"{module}.{alias.name}".lstrip(".") for alias in node.names))


def _raises(node: ast.Try) -> bool:
    """Return whether every handler of an exception raises one itself."""
    return all(any(isinstance(part, ast.Raise) for part in ast.walk(handler)) for handler in node.handlers)
