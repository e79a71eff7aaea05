"""Python files with the configuration of a project that it does not commit, and has examples of."""

import ast
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from django_formula.inspect import code as inspect_code
from django_formula.inspect import project
from django_formula.inspect.settings import Settings
from django_formula.knowledge import package as knowledge_package
from django_formula.untrusted.text import in_command

#: Names of examples that can be imported: configuration_example.py, example_local.py.
_EXAMPLE = re.compile(r"(?:(?:example|sample)_([a-z]\w*)|([a-z]\w*?)_(?:example|sample|template|dist))\.py")
#: Names of modules with settings of one site.
_OF_SITE = re.compile(
    r"\w*(local|prod|production|live|dev|development|private|secret|credential|config|setting|instance|server|custom"
    r"|override|host|deploy|docker|env|site)\w*"
)
#: Names of files that a command of a build may have without quotes.
_PLAIN = re.compile(r"[\w./-]+", re.ASCII)
#: Modules for development, which a live site does without.
_OF_DEVELOPMENT = re.compile(r"(\w+_)?(dev|devel|develop|development|debug|tests?|testing|ci)(_\w+)?")
#: What gives a module names that no statement assigns.
MAKES_NAMES = re.compile(r"\b(globals|vars|locals|exec|setattr)\(")
#: Settings without which a module is no more than a part of the settings.
_MAIN = {"INSTALLED_APPS", "MIDDLEWARE", "ROOT_URLCONF", "TEMPLATES"}
#: A condition that looks for a file first.
_LOOKS = re.compile(r"\b(exists|is_file|isfile)\(")
#: Settings that the site knows → the word of the pillar for the variable of that name, and how it is read.
_KNOWN = {
    "ALLOWED_HOSTS": ("domains", 'os.environ["ALLOWED_HOSTS"].split(",")'),
    "SECRET_KEY": ("secret_key", 'os.environ["SECRET_KEY"]'),
}

#: The same for a module that is kept out of the source, which may have folders too.
_TAKEN = {
    **_KNOWN,
    "STATIC_ROOT": ("static_root", 'os.environ["STATIC_ROOT"]'),
    "MEDIA_ROOT": ("media_root", 'os.environ["MEDIA_ROOT"]'),
}
#: Other settings of such a module → an expression for the value that Django has without them.
_DEFAULTS = {
    "DEBUG": "False",
    "STATIC_URL": '"/static/"',
    "MEDIA_URL": '"/media/"',
    **dict.fromkeys(("DATABASES", "LOGGING"), "{}"),
    **dict.fromkeys(("ADMINS", "INTERNAL_IPS", "MANAGERS", "STATICFILES_DIRS"), "[]"),
}


class Configuration(NamedTuple):
    """A file that a site needs.

    Attributes:
        path: relative to the source.
        example: the name of the file that it takes its values from; empty where only its names are known.
        contents: its text.
        words: the variables that it reads → the words of the pillar for them.
        unknown: the variables that it reads, and that the site has to set.
        command: the build command that makes it of its example, so that it follows that from release to release; empty
            where only its text can be given.
    """

    path: str
    example: str
    contents: str
    words: dict[str, str]
    unknown: tuple[str, ...] = ()
    command: str = ""


def find(settings: Settings, tree: Path, roots: Sequence[Path]) -> Iterator[Configuration]:
    """Yield the files that the settings need, and that are in the source as an example only.

    Args:
        tree: the source.
        roots: the folders that the project is imported from.
    """
    needed = {name for path in settings.files for name in _modules(path, roots)}
    for example in settings.files:
        path = inspect_code.has_example(example)
        modules = {_module(path, root) for root in roots if path.is_relative_to(root)} if path else {}
        if path and (example not in settings.perhaps or needed.intersection(modules)):
            yield _copy(path.relative_to(tree), example, roots[0])
    for root in roots:
        for example in sorted(project.walk(root, None, depth=4)):
            named = _EXAMPLE.fullmatch(example.name)
            path = example.with_name(f"{named[1] or named[2]}.py") if named else example
            is_for_live = not _OF_DEVELOPMENT.fullmatch(path.stem)
            if is_for_live and not path.exists() and _module(path, root) in needed:
                yield _configuration(path.relative_to(tree), example, _module(example, root))


def lacking(settings: Settings, tree: Path, roots: Sequence[Path]) -> Iterator[Configuration]:
    """Yield the file that is not in the source and has to have names which the settings use and do not have.

    They import it where it is there, or in any case. It is none where it would be the main part of the settings.
    """
    names = [name for name in settings.undefined if name.isupper()]
    if not names or _MAIN & {*names} or any(MAKES_NAMES.search(inspect_code.read(path)) for path in settings.files):
        return
    paths = [*(tree / path for path in absent(settings, tree, roots)), *settings.optional]
    for path in [path for path in paths if path.is_relative_to(tree) and not path.exists()][:1]:
        example = inspect_code.example_of(path)
        root = next((root for root in roots if path.is_relative_to(root)), path.parent)
        inside = path.relative_to(tree)
        yield _copy(inside, example, roots[0]) if example else _with_names(inside, _module(path, root), names)


def absent(settings: Settings, tree: Path, roots: Sequence[Path]) -> list[str]:
    """Return the modules, relative to the source, that the settings take every name of and that are not committed.

    One without names will do, but for those that `lacking` has: the site's own settings take the place of the others.
    """
    names = [f"{module.replace('.', '/')}.py" for module in settings.absent]
    paths = [(root / name, name) for name in dict.fromkeys(names) for root in roots]
    kept = [path for path, name in paths if "/" in name and path.parent.is_dir() and _OF_SITE.fullmatch(path.stem)]
    return [str(path.relative_to(tree)) for path in kept]


def missing(settings: Settings, tree: Path, roots: Sequence[Path]) -> Iterator[Configuration]:
    """Yield the modules that are not in the source, and that the settings take single names of.

    One at the top is the project's where .gitignore has it, and not where it is one of Python or of a known package,
    which a file of its name would hide.
    """
    texts = [inspect_code.read(folder / ".gitignore") for folder in dict.fromkeys((tree, *roots))]
    patterns = {re.sub(r"^(?:\*{0,2}/)+", "", line.strip()) for text in texts for line in text.splitlines()}
    for module, names in _taken(settings, roots).items():
        first = module.partition(".")[0]
        if first in sys.stdlib_module_names or knowledge_package.package_of(first):
            continue
        name = f"{module.replace('.', '/')}.py"
        paths = [root / name for root in roots if (root / name).parent.is_dir()]
        is_there = any(path.exists() or path.with_suffix("").is_dir() for path in paths)
        is_own = "." in module and all(one.isupper() for one in names)
        if paths and not is_there and (is_own or {name, paths[0].name} & patterns):
            yield _with_names(paths[0].relative_to(tree), module, names)


def templates(settings: Settings, tree: Path, roots: Sequence[Path]) -> Iterator[tuple[str, str, str]]:
    """Yield the files that settings read, which are not in the source and have a template there; and that one's name.

    Before both it is the place in the settings.
    """
    for path, place in settings.opened.items():
        whole = Path(os.path.normpath(roots[0] / path))
        template = inspect_code.template_of(whole) if whole.is_relative_to(tree) else None
        if template:
            yield os.path.relpath(place, tree), str(whole.relative_to(tree)), template.name


def _taken(settings: Settings, roots: Sequence[Path]) -> dict[str, list[str]]:
    """Return the modules that the settings import, each with the names that are taken of it one by one."""
    found: dict[str, list[str]] = {}
    for path in [path for path in settings.files if path not in settings.perhaps]:
        code = inspect_code.tree(path)
        root = next((root for root in roots if path.is_relative_to(root)), path.parent)
        package = ".".join(path.relative_to(root).parent.parts)
        for node in _certain(code.body):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    found.setdefault(alias.name, []).extend(_attributes(code, alias.asname or alias.name))
            elif isinstance(node, ast.ImportFrom):
                names = [alias.name for alias in node.names if alias.name != "*"]
                found.setdefault(inspect_code.imported_from(node, package), []).extend(names)
    return {module: list(dict.fromkeys(names)) for module, names in found.items() if names}


def _attributes(code: ast.Module, name: str) -> list[str]:
    """Return the attributes that a module reads of one of its names."""
    nodes = [node for node in ast.walk(code) if isinstance(node, ast.Attribute)]
    return [node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == name]


def _with_names(path: Path, module: str, names: Sequence[str]) -> Configuration:
    """Return a file that has names of the settings: what the site knows, else what a variable has."""
    folder = f"Path(__file__).resolve().parents[{module.count('.')}]"
    known = {"BASE_DIR": folder, **_DEFAULTS, **{name: how for name, (_word, how) in _TAKEN.items()}}
    values = {name: known.get(name, f'os.environ["{name}"]') for name in names}
    first = ["import os"] if any("os.environ" in value for value in values.values()) else []
    first += ["from pathlib import Path"] if "BASE_DIR" in values else []
    text = "\n".join([*first, *(f"{name} = {value}" for name, value in values.items()), ""])
    words = {name: _TAKEN[name][0] for name in names if name in _TAKEN}
    return Configuration(str(path), "", text, words, tuple(name for name in names if name not in known))


def _configuration(path: Path, example: Path, module: str) -> Configuration:
    """Return a file that takes the names of its example."""
    return _with_known(path, example, [f"from {module} import *"])


def _copy(path: Path, example: Path, folder: Path) -> Configuration:
    """Return a file with the statements of its example, which cannot be imported.

    Args:
        folder: the folder of manage.py, in which builds run.
    """
    found = _with_known(path, example, ast.unparse(inspect_code.tree(example)).splitlines())
    old = in_command(os.path.relpath(example, folder))
    new = in_command(os.path.relpath(example.with_name(path.name), folder))
    ends = [f"{name} = {how}" for name, (_word, how) in _known(example).items()]
    command = in_command("cp", old, new)
    if ends:
        quoted = (line.replace('"', r"\"") for line in ("", "import os", *ends))
        lines = "; ".join(f'echo "{line}"' for line in quoted)
        command = in_command("sh", "-c", f"{{ cat {old}; {lines}; }} > {new}")
    return found._replace(command=command if old and new and _PLAIN.fullmatch(old + new) else "")


def _known(example: Path) -> dict[str, tuple[str, str]]:
    """Return those settings of an example that the site knows."""
    code = inspect_code.tree(example)
    return {name: known for name, known in _KNOWN.items() if inspect_code.assigns(code, name)}


def _with_known(path: Path, example: Path, lines: list[str]) -> Configuration:
    """Return a file that ends with the settings that the site knows, as far as the example has them."""
    known = _known(example)
    ends = [f"{name} = {how}" for name, (_word, how) in known.items()]
    words = {name: word for name, (word, _how) in known.items()}
    first = ["import os"] if known and "import os" not in lines else []
    text = "\n".join([*first, *lines, *ends, ""])
    return Configuration(str(path), example.name, text, words)


def _module(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts)


def _modules(path: Path, roots: Sequence[Path]) -> Iterator[str]:
    """Yield the modules that a file imports, or that it has the names of, but not those that it does without."""
    root = next((root for root in roots if path.is_relative_to(root)), path.parent)
    package = ".".join(path.relative_to(root).parent.parts)
    for node in _required(inspect_code.tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = inspect_code.imported_from(node, package)
            yield from (module, *(f"{module}.{alias.name}".lstrip(".") for alias in node.names))


def _required(code: ast.Module) -> Iterator[ast.AST]:
    """Yield the parts of a module, but not those that it does without where they fail."""
    tries: list[ast.Try | ast.If] = [node for node in ast.walk(code) if isinstance(node, ast.Try)]
    tries += [node for node in ast.walk(code) if isinstance(node, ast.If) and _LOOKS.search(ast.unparse(node.test))]
    optional = {id(part) for node in tries if not _raises(node) for one in node.body for part in ast.walk(one)}
    return (node for node in ast.walk(code) if id(node) not in optional)


def _certain(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run whenever a module is imported, and without which it ends."""
    for node in body:
        if isinstance(node, ast.Try) and _raises(node):
            yield from _certain(node.body)
        else:
            yield node


def _raises(node: ast.Try | ast.If) -> bool:
    """Return whether every handler of an exception raises one itself, or what is done where a file is missing."""
    if isinstance(node, ast.If):
        return any(isinstance(part, ast.Raise) for one in node.orelse for part in ast.walk(one))
    return all(any(isinstance(part, ast.Raise) for part in ast.walk(handler)) for handler in node.handlers)
