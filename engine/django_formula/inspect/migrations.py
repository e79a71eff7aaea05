"""Migrations of a project's applications that nothing orders, so that no empty database can be migrated."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django_formula.inspect import code
from django_formula.inspect import models as inspect_models
from django_formula.inspect.settings import Settings

#: A migration: the label of its application, and its name.
Key = tuple[str, str]
#: Operations after which a model of that name is there, or is not.
_MADE = re.compile(r"""\bCreateModel\(\s*(?:name\s*=\s*)?["'](\w+)["']""")
_DELETED = re.compile(r"""\bDeleteModel\(\s*(?:name\s*=\s*)?["'](\w+)["']""")
#: A model that a field refers to.
_REFERRED = re.compile(r"""\b(?:ForeignKey|OneToOneField|ManyToManyField)\([^()]*?["'](\w+)\.(\w+)["']""")
#: An attribute of a migration that takes the place of others.
_REPLACES = re.compile(r"^[ \t]+replaces\s*[:=]", re.MULTILINE)
#: Migrations that are read at most.
_MOST = 2000


@dataclass(frozen=True)
class Unordered:
    """A migration that refers to a model which another application's migration deletes, and may be applied later.

    Attributes:
        migration: ``label.name`` of the one that fails.
        model: ``label.model``.
        deleted_by: ``label.name`` of the one that deletes the model.
        first: the label of the application whose migrations have to be applied before the others.
    """

    migration: str
    model: str
    deleted_by: str
    first: str


def unordered(settings: Settings, roots: Sequence[Path]) -> Unordered | None:
    """Return the first migration that fails in Django's order, and does not if its application is migrated first."""
    if settings.values.get("MIGRATION_MODULES"):
        return None
    texts = _texts(inspect_models.applications(settings, roots))
    deleted = _once({key: _DELETED.findall(text) for key, text in texts.items()})
    made = _once({key: _MADE.findall(text) for key, text in texts.items()})
    deleted = {model: key for model, key in deleted.items() if model in made}
    referring = [
        (key, model)
        for key, text in texts.items()
        for model in sorted({(label, name.lower()) for label, name in _REFERRED.findall(text)} & {*deleted})
        if key[0] != model[0]
    ]
    if not referring or any(map(_REPLACES.search, texts.values())):
        return None
    parents = _parents(texts, settings)
    order = _order(parents, sorted(_leaves(parents)))
    for key, model in sorted(referring, key=lambda one: order.index(one[0])):
        alone = _order(parents, sorted(one for one in _leaves(parents) if one[0] == key[0]))
        if _is_before(order, deleted[model], key) and not _is_before(alone, deleted[model], key):
            return Unordered(".".join(key), ".".join(model), ".".join(deleted[model]), key[0])
    return None


def _texts(folders: Mapping[str, Path]) -> dict[Key, str]:
    """Return the texts of all migrations of applications; none where there are too many."""
    paths = [
        (label, path)
        for label, folder in folders.items()
        for path in sorted(folder.glob("migrations/*.py"))
        if path.stem[0] not in "_~"
    ]
    return {(label, path.stem): code.read(path) for label, path in paths} if len(paths) < _MOST else {}


def _once(names: Mapping[Key, Sequence[str]]) -> dict[Key, Key]:
    """Return the models that one migration only names: label and name of the model → the migration."""
    found: dict[Key, list[Key]] = {}
    for key, models in names.items():
        for model in models:
            found.setdefault((key[0], model.lower()), []).append(key)
    return {model: keys[0] for model, keys in found.items() if len(keys) == 1}


def _parents(texts: Mapping[Key, str], settings: Settings) -> dict[Key, set[Key]]:
    """Return the migrations that each one depends on, as far as they are the project's."""
    parents: dict[Key, set[Key]] = {key: set() for key in texts}
    user = str(settings.get("AUTH_USER_MODEL") or "").partition(".")[0]
    before: list[tuple[Key, Key]] = []
    for key, text in texts.items():
        for name, entry in _entries(code.parse(text)):
            target = entry or (user, "__first__")
            before.append((key, target) if name == "dependencies" else (target, key))
    for key, other in before:
        for one in _named(parents, key):
            parents[one] |= {parent for parent in _named(parents, other) if parent != one}
    return parents


def _entries(module: ast.Module) -> Iterator[tuple[str, Key | None]]:
    """Yield what a migration depends on or is run before; None for the application of the model of users."""
    nodes = [part for node in module.body if isinstance(node, ast.ClassDef) for part in node.body]
    for node in nodes:
        name = getattr(node.targets[0], "id", "") if isinstance(node, ast.Assign) else ""
        value = node.value if isinstance(node, ast.Assign) else None
        if name not in ("dependencies", "run_before") or not isinstance(value, ast.List | ast.Tuple):
            continue
        for entry in value.elts:
            found: list[Any] = [getattr(part, "value", None) for part in getattr(entry, "elts", [])]
            if len(found) == 2 and all(isinstance(part, str) for part in found):
                yield name, (found[0], found[1])
            elif isinstance(entry, ast.Call) and "swappable_dependency" in ast.unparse(entry.func):
                yield name, None


def _named(parents: Mapping[Key, set[Key]], key: Key) -> list[Key]:
    """Return the migrations that a dependency names: ``__first__`` and ``__latest__`` too."""
    own = sorted(one for one in parents if one[0] == key[0])
    if key[1] in ("__first__", "__latest__"):
        return own[:1] if key[1] == "__first__" else own[-1:]
    return [key] if key in parents else []


def _leaves(parents: Mapping[Key, set[Key]]) -> list[Key]:
    """Return the migrations on which no other one of their applications depends."""
    inner = {parent for key, above in parents.items() for parent in above if parent[0] == key[0]}
    return [key for key in parents if key not in inner]


def _order(parents: Mapping[Key, set[Key]], leaves: Sequence[Key]) -> list[Key]:
    """Return the order in which Django applies migrations to an empty database."""
    order: dict[Key, None] = {}
    entered: set[Key] = set()
    for leaf in leaves:
        stack = [(leaf, False)]
        while stack:
            key, is_done = stack.pop()
            if is_done:
                order.setdefault(key)
            elif key not in entered:
                entered.add(key)
                stack += [(key, True), *((parent, False) for parent in sorted(parents[key]))]
    return [*order]


def _is_before(order: Sequence[Key], first: Key, second: Key) -> bool:
    return first in order and (second not in order or order.index(first) < order.index(second))
