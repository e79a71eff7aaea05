"""The project: what is found in its source. No code of it is run."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import django_project_python_path
import django_server
import django_wall_delegate
from django_host_command import DeploymentError
from django_site import Site

_SKIPPED = {".git", "node_modules", "site-packages", "venv", ".venv", "env", "tests", "__pycache__"}
_LIKE_SETTINGS = re.compile(r"^(INSTALLED_APPS|DATABASES|DEBUG|SECRET_KEY|from \.?\S* import \*)", re.MULTILINE)
_SETTINGS = re.compile(r"""DJANGO_SETTINGS_MODULE["']\s*[,\]]\s*=?\s*["']([\w.]+)["']""")


def find(site: Site, source: Path) -> dict[str, Any]:
    """What the source says of itself, where the pillar does not; it is read as the build user.

    Returns:
        ``folder`` (of manage.py), ``python_path`` (other folders to import from), ``settings_module``, and
        ``application``: the module with what the site's server runs, of WSGI or ASGI.

    Raises:
        DeploymentError: something is not found, or found twice; the error names the key that decides.
    """
    found: dict[str, Any] = django_wall_delegate.ask(site.build_user, _find, site, source, doing="reading the source")
    return found


def _find(site: Site, source: Path) -> dict[str, Any]:
    config = site.config
    at = f"django:sites:{site.name}"
    folder = config["project"] or _folder(source, at)
    _refuse_absent(source, folder, f"{at}:project")
    said = config["python_path"]
    paths = python_path(source, folder) if said is None else said
    for path in paths:
        _refuse_absent(source, path, f"{at}:python_path")
    roots = [source / path for path in (folder, *paths)]
    interface = django_server.of_site(site).interface(site)
    application = config[interface] or _application(roots, interface, at)
    settings_module = config["settings_module"] or _settings_module(roots, application, at)
    found = {"settings_module": settings_module, "application": application}
    return {"folder": folder, "python_path": list(paths), **found}


def _refuse_absent(source: Path, folder: str, at: str) -> None:
    if not (source / folder).is_dir():
        raise DeploymentError(f"there is no folder {folder} in the source", hint=f"correct {at}")


def python_path(source: Path, folder: str) -> list[str]:
    """The folders of a source that the project is imported from, but for that of manage.py.

    Its own files declare them, or else it is where the settings are that manage.py names.
    """
    found = django_project_python_path.declared(source, folder)
    named = _settings_in(source / folder / "manage.py")
    if named and not any(django_project_python_path.module_file(source / path, named) for path in (folder, *found)):
        there = homes(source, folder, named)
        found += there if len(there) == 1 else []
    return found


def homes(source: Path, folder: str, module: str) -> list[str]:
    """The folders of a source from which a module of the project can be imported.

    Args:
        folder: that of manage.py.
    """
    name = module.replace(".", "/")
    own = [path.relative_to(source) for path in _own_files([source, source / folder], None, depth=5)]
    found = {str(path).removesuffix(".py").removesuffix("/__init__") for path in own if path.suffix == ".py"}
    return sorted(path.removesuffix(name).rstrip("/") or "." for path in found if f"/{path}".endswith(f"/{name}"))


def manage_files(source: Path) -> list[Path]:
    """Where manage.py is in a source, relative to it."""
    return sorted(path.relative_to(source) for path in files(source, "manage.py", depth=3))


def _folder(source: Path, at: str) -> str:
    found = manage_files(source)
    if len(found) == 1:
        return str(found[0].parent)
    if not found:
        raise DeploymentError("there is no manage.py in the source", hint=f"say where the project is: {at}:project")
    raise DeploymentError(
        f"there are {len(found)} manage.py in the source: {some(map(str, found))}",
        hint=f"say which folder is the project's: {at}:project",
    )


def application_modules(roots: Sequence[Path], interface: str = "wsgi") -> list[str]:
    """The modules of a project that make an application as Django's template does.

    Args:
        roots: the folders that it is imported from, that of manage.py first.
        interface: ``wsgi`` or ``asgi``.
    """
    return sorted(
        _module(path, roots)
        for path in _own_files(roots, f"{interface}.py", depth=3)
        if f"get_{interface}_application" in path.read_text(errors="replace")
    )


def _own_files(roots: Sequence[Path], name: str | None, depth: int) -> list[Path]:
    """The files of a project but for those of another one in its folders, which has a manage.py of its own."""
    own: dict[Path, None] = {}
    for root in roots:
        found = files(root, name, depth)
        others = {path.parent for path in files(root, "manage.py", depth)} - {*roots}
        own |= dict.fromkeys(path for path in found if not others & {*path.parents})
    return list(own)


def _module(path: Path, roots: Sequence[Path]) -> str:
    """The name by which a file is imported: below the root that holds its outermost package."""
    above = sorted((root for root in roots if path.is_relative_to(root)), key=lambda root: -len(root.parts))
    packages = [path.parent]
    while (packages[-1] / "__init__.py").is_file():
        packages.append(packages[-1].parent)
    root = next((package for package in reversed(packages) if package in above), above[0])
    return ".".join(path.relative_to(root).with_suffix("").parts)


def _application(roots: Sequence[Path], interface: str, at: str) -> str:
    modules = application_modules(roots, interface)
    if len(modules) == 1:
        return modules[0]
    found = f"there are {len(modules)}: {some(modules)}" if modules else f"there is no {interface}.py"
    raise DeploymentError(
        f"the {interface.upper()} module is not known; {found}",
        hint=f"say it: {at}:{interface}, for example mysite.{interface}",
    )


def settings_named(roots: Sequence[Path], application: str) -> str:
    """The settings module that the module of the application names, or else manage.py; empty where neither does."""
    modules = filter(None, (django_project_python_path.module_file(root, application) for root in roots))
    return next(filter(None, map(_settings_in, (*modules, roots[0] / "manage.py"))), "")


def _settings_in(path: Path) -> str:
    """The settings module that a file names; empty where it does not, or is not there."""
    found = _SETTINGS.search(path.read_text(errors="replace")) if path.is_file() else None
    return found.group(1) if found else ""


def settings_modules(roots: Sequence[Path]) -> list[str]:
    """Modules that look like settings: ``settings.py``, and those in a package of settings."""
    found = []
    for path in _own_files(roots, None, depth=4):
        in_package = path.parent.name in ("settings", "config", "conf") and path.stem != "__init__"
        is_named_so = path.suffix == ".py" and path.stem.isidentifier() and (path.stem == "settings" or in_package)
        if is_named_so and _LIKE_SETTINGS.search(path.read_text(errors="replace")):
            found.append(_module(path, roots))
    return sorted(found)


def _settings_module(roots: Sequence[Path], application: str, at: str) -> str:
    named = settings_named(roots, application)
    if named:
        return named
    found = settings_modules(roots)
    there_are = f"; there are {some(found)}" if found else ""
    raise DeploymentError(
        f"neither wsgi.py nor manage.py names a settings module{there_are}",
        hint=f"say it: {at}:settings_module, for example {found[0] if found else 'mysite.settings'}",
    )


def some(names: Iterable[str]) -> str:
    """Names in a sentence, no more than eight of them."""
    listed = list(names)
    return f"{', '.join(listed[:8])}{' …' if len(listed) > 8 else ''}"


def files(top: Path, name: str | None, depth: int) -> list[Path]:
    """The files of that name, or all, in a tree down to a depth; tests and what others wrote are left out."""
    found = []
    for parent, folders, names in os.walk(top):
        level = len(Path(parent).relative_to(top).parts)
        folders[:] = sorted(f for f in folders if f not in _SKIPPED and not f.startswith(".")) if level < depth else []
        found += [Path(parent, one) for one in names if name in (None, one)]
    return found
