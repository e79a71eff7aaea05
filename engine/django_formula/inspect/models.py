"""Models of a project for which its source has no migrations, so that a release would lack their tables."""

import ast
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from django_formula.inspect import code
from django_formula.inspect.settings import Settings


def without_migrations(settings: Settings, roots: Sequence[Path]) -> list[str]:
    """Return the labels of the project's applications that have models and no migration."""
    moved = settings.get("MIGRATION_MODULES")
    found = (folder for folder in _applications(settings, roots) if not _has_migrations(folder) and _has_tables(folder))
    return sorted({_label(folder) for folder in found} - ({*moved} if isinstance(moved, dict) else set()))


def made_by_syncdb(settings: Settings, roots: Sequence[Path], labels: Sequence[str]) -> list[str]:
    """Return those of the applications without migrations whose tables ``migrate --run-syncdb`` makes.

    It skips those with a package of migrations, and fails where migrations of others refer to one.
    """
    packages = {_label(folder) for folder in _applications(settings, roots) if (folder / "migrations").is_dir()}
    if _are_referred_to(settings, roots, labels):
        return []
    return [label for label in labels if label not in packages]


def are_needed(settings: Settings, roots: Sequence[Path], labels: Sequence[str]) -> bool:
    """Return whether a release without migrations of these applications fails, or has no table of the project's own.

    Args:
        labels: applications without migrations.
    """
    is_any = any(_has_migrations(folder) for folder in _applications(settings, roots))
    return bool(labels) and (not is_any or _are_referred_to(settings, roots, labels))


def _are_referred_to(settings: Settings, roots: Sequence[Path], labels: Sequence[str]) -> bool:
    """Return whether migrations refer to one of some applications, or the model of users is in one."""
    user = settings.get("AUTH_USER_MODEL")
    texts = [
        code.read(path) for folder in _applications(settings, roots) for path in sorted(folder.glob("migrations/*.py"))
    ]
    named = any(re.search(rf"""\(\s*["']{re.escape(label)}["']""", text) for label in labels for text in texts)
    return named or str(user).partition(".")[0] in labels


def applications(settings: Settings, roots: Sequence[Path]) -> dict[str, Path]:
    """Return the labels of the project's own applications, and their folders."""
    return {_label(folder): folder for folder in _applications(settings, roots)}


def _applications(settings: Settings, roots: Sequence[Path]) -> Iterator[Path]:
    """Yield the folders of the project's own applications."""
    installed = settings.get("INSTALLED_APPS")
    for entry in installed if isinstance(installed, list) else ():
        parts = entry.split(".") if isinstance(entry, str) and code.is_module(entry) else []
        found = _packages(roots, parts)
        if not found and len(parts) > 2 and parts[-2] == "apps":  # shop.apps.ShopConfig, not shop.apps.orders
            found = _packages(roots, parts[:-2])
        yield from found


def _packages(roots: Sequence[Path], parts: Sequence[str]) -> list[Path]:
    folders = [root.joinpath(*parts) for root in roots] if parts else []
    names = ("__init__.py", "models.py")
    return [folder for folder in folders if any(os.path.isfile(folder / name) for name in names)]


def _label(folder: Path) -> str:
    """Return the label of an application: what its configuration says, else the name of its folder."""
    classes = [node for node in code.tree(folder / "apps.py").body if isinstance(node, ast.ClassDef)]
    assigned = [part for node in classes for part in node.body if isinstance(part, ast.Assign)]
    labels = [part.value for part in assigned if getattr(part.targets[0], "id", "") == "label"]
    label = labels[0].value if labels and isinstance(labels[0], ast.Constant) else None
    return label if isinstance(label, str) and label.isidentifier() else folder.name


def _has_migrations(folder: Path) -> bool:
    return any(path.name != "__init__.py" for path in folder.glob("migrations/*.py"))


def _has_tables(folder: Path) -> bool:
    """Return whether an application has a model with a table of its own."""
    paths = [folder / "models.py", *sorted(folder.glob("models/*.py"))]
    nodes = (node for path in paths for node in code.tree(path).body)
    return any(isinstance(node, ast.ClassDef) and _is_model(node) for node in nodes)


def _is_model(node: ast.ClassDef) -> bool:
    """Return whether a class is a model with fields, or a user, and neither abstract nor unmanaged."""
    bases = [code.dotted(base) for base in node.bases]
    calls = [part.value.func for part in node.body if isinstance(part, ast.Assign) and isinstance(part.value, ast.Call)]
    has_fields = any(code.dotted(call).startswith("models.") for call in calls)
    meta = next((part for part in node.body if isinstance(part, ast.ClassDef) and part.name == "Meta"), None)
    texts = {ast.unparse(part) for part in meta.body} if meta else set()
    has_table = not texts & {"abstract = True", "managed = False", "proxy = True"}
    is_user = any(base.endswith(("AbstractUser", "AbstractBaseUser")) for base in bases)
    return has_table and (is_user or (has_fields and any(base.endswith("Model") for base in bases)))
