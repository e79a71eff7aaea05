"""Modules that the settings of a project need: which package has them, and which are missing."""

import ast
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from django_formula.inspect import code, imports, python_path, storages
from django_formula.inspect import project as inspect_project
from django_formula.inspect.settings import Settings
from django_formula.knowledge import hints, python_versions
from django_formula.knowledge import package as knowledge_package
from django_formula.knowledge.rows import rows
from django_formula.site.sites import Site
from django_formula.virtualenv import setuptools


def needed(settings: Settings) -> list[str]:
    """Return the top-level modules that settings import in every case, and those of applications and indexes."""
    found = {name: None for path in settings.files for name in _imported(path)}
    found |= dict.fromkeys(_applications(settings))
    found |= {name.partition(".")[0]: None for name in _backends(settings)}
    indexes = settings.get("HAYSTACK_CONNECTIONS")
    found |= {name: None for name in rows("search_engines") if name in str(indexes)}
    return [name for name in found if name.isidentifier() and name != "django"]


def _applications(settings: Settings) -> list[str]:
    """Return the top-level modules of the applications and the middleware that the settings name."""
    lists = [settings.get(setting) for setting in ("INSTALLED_APPS", "MIDDLEWARE")]
    texts = [text for one in lists if isinstance(one, list) for text in one if isinstance(text, str)]
    return [text.partition(".")[0] for text in texts]


def _backends(settings: Settings) -> list[str]:
    """Return the backends that the settings name for authentication, files, caches and channel layers."""
    found = settings.get("AUTHENTICATION_BACKENDS")
    backends = [*(found if isinstance(found, list) else []), *storages.named(settings)]
    for setting in ("CACHES", "CHANNEL_LAYERS"):
        aliases = settings.get(setting)
        if isinstance(aliases, dict):
            backends = [*backends, *(settings.get(setting, alias, "BACKEND") for alias in aliases)]
    return [backend for backend in backends if isinstance(backend, str)]


def _of_storages(settings: Settings, roots: Sequence[Path]) -> list[str]:
    """Return the modules that the storages which the settings name, or are made of, import and do not require."""
    modules = imports.imported(roots, settings).values()
    named = [*storages.named(settings), *(name for names in modules for name in names)]
    known = rows("storage_modules").items()
    return [one for one, modules in known if any(name.startswith(f"{path}.") for name in named for path in modules)]


def imports_itself(project: Path) -> bool:
    """Return whether modules of a project import the folder of its manage.py as a package, from the folder above."""
    pattern = re.compile(rf"^[ \t]*(?:from|import)[ \t]+{re.escape(project.name)}\.(\w+)", re.MULTILINE)
    modules = [path for path in inspect_project.walk(project, None, depth=6) if path.suffix == ".py"]
    named = (name for path in modules for name in pattern.findall(code.read(path)))
    return any(python_path.is_own([project], name) for name in named)


def _imported(path: Path) -> Iterator[str]:
    for node in code.tree(path).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]


def _imported_if_present(path: Path) -> Iterator[str]:
    """Yield the modules whose absence a module of the settings handles."""
    for node in ast.walk(code.tree(path)):
        if not isinstance(node, ast.Try | ast.With):
            continue
        handled = [one.type for one in node.handlers] if isinstance(node, ast.Try) else []
        handled += [one.context_expr for one in node.items] if isinstance(node, ast.With) else []
        if any(one and re.search(r"ImportError|ModuleNotFoundError", ast.unparse(one)) for one in handled):
            for part in ast.walk(ast.Module(node.body, [])):
                names = [part.module or ""] if isinstance(part, ast.ImportFrom) else []
                names += [alias.name for alias in part.names] if isinstance(part, ast.Import) else []
                yield from (name.partition(".")[0] for name in names)


def left_out(
    settings: Settings, roots: Sequence[Path], required: Collection[str], offered: Mapping[str, str]
) -> list[str]:
    """Return the packages that the settings and the code of pages need and the requirements do not have.

    Args:
        roots: the folders that the project is imported from.
        required: the names of the required packages, in lower case.
        offered: the packages of the project's extras, which are not installed: name in lower case → requirement.
    """
    names = {*required, *(re.sub(r"\[.*", "", name) for name in required)}
    optional = {name for path in settings.files for name in _imported_if_present(path)}
    imported = dict.fromkeys([*needed(settings), *imports.foreign(roots, settings)])
    imported |= dict.fromkeys(_of_storages(settings, roots))
    wanted = [name for name in imported if name not in optional and not python_path.is_own(roots, name)]
    missing = [name for name in wanted if _is_left_out(name, names)]
    missing += [name for name in _of_fields(roots[0]) if _is_left_out(name, names)]
    missing = [name for name in missing if not any(knowledge_package.has(package, name) for package in names)]
    packages = [re.sub(r"[-_.]+", "-", knowledge_package.package_of(name)).lower() for name in missing]
    in_extras = {_plain(one): one for one in offered if one not in names}
    known = [_plain(name) for module in wanted for name in (module, knowledge_package.package_of(module))]
    packages += [in_extras[name] for name in known if name in in_extras]
    return sorted({offered.get(package, package) for package in packages})


def of_removed(settings: Settings, roots: Sequence[Path], python: str) -> dict[str, str]:
    """Return the modules that the project imports and a version of Python no longer has, and their packages."""
    names = dict.fromkeys([*needed(settings), *imports.foreign(roots, settings)])
    known = {name: knowledge_package.removed_module(name) for name in names if not python_path.is_own(roots, name)}
    return {name: row[1] for name, row in known.items() if row and python_versions.is_among(python, row[0])}


def guessed(settings: Settings, roots: Sequence[Path]) -> list[str]:
    """Return Django and the packages of all modules that the settings need, and of known ones that others import.

    Of an unknown one its name is the guess, with `django-` before it where it is an application.
    """
    applications = _applications(settings)
    known = [name for name in imports.foreign(roots, settings) if knowledge_package.package_of(name)]
    names = [name for name in [*needed(settings), *known, *_of_fields(roots[0])] if name not in sys.stdlib_module_names]
    own = [name for name in names if python_path.is_own(roots, name)]
    known_here = {*own, *in_other_case(settings, roots)}
    foreign = [name for name in names if name not in known_here]
    packages = (_guess(name, roots, is_application=name in applications) for name in foreign)
    return [*dict.fromkeys(["django", *packages])]


def in_other_case(settings: Settings, roots: Sequence[Path]) -> dict[str, Path]:
    """Return the modules that the settings need and the project has under a name with other capital letters.

    As where a folder was renamed on Windows or macOS: git keeps its former name. A module of Python or of a known
    package is none of them.
    """
    names = [name for name in needed(settings) if not python_path.is_own(roots, name)]
    wanted = {name for name in names if name not in sys.stdlib_module_names and not knowledge_package.package_of(name)}
    own = {path.parent.name.lower(): path.parent for root in roots for path in root.glob("*/__init__.py")}
    return {name: own[name.lower()] for name in sorted(wanted) if name.lower() in own}


def _guess(module: str, roots: Sequence[Path], *, is_application: bool) -> str:
    """Return the package that has a module, or one of its name, which on PyPI is often another one."""
    name = module.replace("_", "-")
    prefix = "django-" if is_application and "django" not in name else ""
    return setuptools.MODULES.get(module) or package_of(module, roots) or f"{prefix}{name}"


def package_of(module: str, roots: Sequence[Path]) -> str:
    """Return the package that has a module, of several the one whose names the code has; empty where none is known."""
    row = rows("by_text").get(module)
    if row:
        paths = (path for path in inspect_project.walk(roots[0], None, depth=6) if path.suffix == ".py")
        if any(row["match"] in code.read(path) for path in paths):
            return str(row["package"])
    return knowledge_package.package_of(module)


def _is_left_out(module: str, names: Collection[str]) -> bool:
    """Return whether no package that the requirements bring has a module.

    Where they name sqlparse, which Django brings, they are all packages of a virtualenv, as `pip freeze` lists them.
    """
    if knowledge_package.removed_module(module):
        return False  # `of_removed` has them
    if module in rows("left_out"):
        return True
    bringing = rows("seldom").get(module)
    if bringing:
        package = knowledge_package.package_of(module).lower()
        return not any(name == package or re.search(bringing, name) for name in names)
    package = knowledge_package.package_of(module)
    words = (_plain(module), _plain(package))
    return "sqlparse" in names and bool(package) and not any(word in _plain(name) for name in names for word in words)


def _plain(name: str) -> str:
    """Return the name of a module or package by which they are compared; Django REST framework has two."""
    return re.sub(r"[-_.]", "", name.lower()).replace("djangorestframework", "drf").replace("restframework", "drf")


def _of_fields(root: Path) -> list[str]:
    """Return the modules that Django's checks require for classes of fields in migrations of the project."""
    files = inspect_project.walk(root, None, depth=6)
    paths = [path for path in files if path.parent.name == "migrations" and path.suffix == ".py"]
    known = rows("fields").items()
    return [module for field, module in known if any(f"models.{field}(" in code.read(path) for path in paths)]


def hint(site: Site, modules: Mapping[str, str]) -> str:
    """Return what installs modules that are missing: module → package, empty where it is not known."""
    packages = [*filter(None, modules.values())]
    unknown = [module for module, package in modules.items() if not package]
    cure, option = f"add the packages that have them to {hints.at(site)}:python_packages", ""
    if packages:
        option = hints.extended(site, "python_packages", packages)
        cure = f"set {option}"
    also = f", and the packages that have {', '.join(unknown)}" if unknown and packages else ""
    many = "modules" if len(modules) > 1 else "module"
    return hints.Hint(f"no package that is installed has the {many} {', '.join(modules)}: {cure}{also}", option)
