"""Files whose tables are settings for one environment each, of which a variable chooses one: dynaconf has them."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from django_formula.inspect import code
from django_formula.inspect.settings import Settings

_CLASS = re.compile(r"(^|\.)(Django)?(Dynaconf|LazySettings)$")


def _table(names: str) -> re.Pattern[str]:
    """Return a pattern for the tables of environments in TOML, INI, YAML and JSON."""
    word = f"({names})"
    return re.compile(
        rf"""^(?:\[["']?{word}["']?[.\]]|["']?{word}["']?:|[ \t]{{0,8}}"{word}"[ \t]*:[ \t]*\{{)""",
        re.MULTILINE | re.IGNORECASE,
    )


#: The table of a live site, and the one that is taken where nothing chooses another.
_LIVE, _DEFAULT = _table("production|prod|live"), _table("development")
_FILES = tuple(f"{name}.{end}" for name in ("settings", ".secrets") for end in ("toml", "yaml", "yml", "json", "ini"))
#: A path of a file with settings, and a name of a variable.
_PATH = re.compile(r"(?!/)(?!(.*/)?\.\.(/|$))[\w./-]{1,200}\.(toml|tml|ya?ml|json|ini|conf|properties)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,199}")


def switches(settings: Settings, roots: Sequence[Path]) -> Iterator[tuple[str, str, str]]:
    """Yield the variables that choose an environment; its name, where a live site has one; and the file with it.

    Without the variable it is that of development.

    Args:
        roots: the folders that the project is imported from.
    """
    for variable, call, folders in _calls(settings, roots):
        for path, name in [*_tables(_LIVE, call, folders)][:1]:
            yield variable, name, str(path)


def of_development(settings: Settings, roots: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the variables that choose an environment of which there is none for a live site; the file that a site has.

    Args:
        roots: the folders that the project is imported from.
    """
    for variable, call, folders in _calls(settings, roots):
        if not [*_tables(_LIVE, call, folders)]:
            yield from ((variable, path) for path, _name in [*_tables(_DEFAULT, call, folders)][:1])


def _calls(settings: Settings, roots: Sequence[Path]) -> Iterator[tuple[str, ast.Call, list[Path]]]:
    """Yield the variables that choose an environment, the calls that read it, and where they look for files."""
    for path in settings.files:
        for node in ast.walk(code.tree(path)):
            if isinstance(node, ast.Call) and _CLASS.search(code.dotted(node.func)):
                variable = _variable(node)
                if variable:
                    yield variable, node, [path.parent, *roots]


def _variable(call: ast.Call) -> str:
    """Return the variable that chooses an environment; empty if there are none, or the code chooses it."""
    given = {_option(keyword.arg): getattr(keyword.value, "value", True) for keyword in call.keywords}
    is_of_django = code.dotted(call.func).endswith("DjangoDynaconf")
    if not given.get("environments", is_of_django) or {"env", "force_env"} & {*given}:
        return ""
    name: Any = given.get("env_switcher", "DJANGO_ENV" if is_of_django else "ENV_FOR_DYNACONF")
    return name if isinstance(name, str) and _NAME.fullmatch(name) else ""


def _option(name: str | None) -> str:
    return (name or "").lower().removesuffix("_for_dynaconf")


def _tables(pattern: re.Pattern[str], call: ast.Call, folders: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield the files with tables of environments, and their names."""
    texts = [getattr(node, "value", None) for keyword in call.keywords for node in ast.walk(keyword.value)]
    named = [text for text in texts if isinstance(text, str) and _PATH.fullmatch(text)]
    for folder in dict.fromkeys(folders):
        for name in dict.fromkeys((*named, *_FILES)):
            for path in (folder / name, folder / "config" / name):
                table = pattern.search(code.read(path))
                if table:
                    yield path, table[table.lastindex or 0].lower()
