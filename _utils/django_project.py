"""The project: what is found in its source. No code of it is run."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from django_command import DeploymentError
from django_site import Site

_SKIPPED = {".git", "node_modules", "site-packages", "venv", ".venv", "env", "tests", "__pycache__"}
_LIKE_SETTINGS = re.compile(r"^(INSTALLED_APPS|DATABASES|DEBUG|SECRET_KEY|from \.?\S* import \*)", re.MULTILINE)
_SETTINGS = re.compile(r"""DJANGO_SETTINGS_MODULE["']\s*[,\]]\s*=?\s*["']([\w.]+)["']""")


def find(site: Site, source: Path) -> dict[str, str]:
    """What the source says of itself, where the pillar does not: ``folder``, ``settings_module`` and ``wsgi``.

    Raises:
        DeploymentError: something is not found, or found twice; the error names the key that decides.
    """
    config = site.config
    at = f"django:sites:{site.name}"
    folder = config["project"] or _folder(source, at)
    project = source / folder
    if not project.is_dir():
        raise DeploymentError(f"there is no folder {folder} in the source", hint=f"correct {at}:project")
    wsgi = config["wsgi"] or _wsgi(project, at)
    settings_module = config["settings_module"] or _settings_module(project, wsgi, at)
    return {"folder": folder, "settings_module": settings_module, "wsgi": wsgi}


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


def wsgi_modules(project: Path) -> list[str]:
    """The modules of a project that make a WSGI application as Django's template does."""
    return sorted(
        ".".join(path.relative_to(project).with_suffix("").parts)
        for path in _own_files(project, "wsgi.py", depth=3)
        if "get_wsgi_application" in path.read_text(errors="replace")
    )


def _own_files(project: Path, name: str | None, depth: int) -> list[Path]:
    """The files of a project but for those of another one in its folders, which has a manage.py of its own."""
    found = files(project, name, depth)
    others = {path.parent for path in files(project, "manage.py", depth)} - {project}
    return [path for path in found if not others & {*path.parents}]


def _wsgi(project: Path, at: str) -> str:
    modules = wsgi_modules(project)
    if len(modules) == 1:
        return modules[0]
    found = f"there are {len(modules)}: {some(modules)}" if modules else "there is no wsgi.py"
    raise DeploymentError(f"the WSGI module is not known; {found}", hint=f"say it: {at}:wsgi, for example mysite.wsgi")


def settings_named(project: Path, wsgi: str) -> str:
    """The settings module that the WSGI module names, or else manage.py; empty where neither does."""
    for path in (project / (wsgi.replace(".", "/") + ".py"), project / "manage.py"):
        if path.is_file():
            found = _SETTINGS.search(path.read_text(errors="replace"))
            if found:
                return found.group(1)
    return ""


def settings_modules(project: Path) -> list[str]:
    """Modules that look like settings: ``settings.py``, and those in a package of settings."""
    found = []
    for path in _own_files(project, None, depth=4):
        in_package = path.parent.name in ("settings", "config", "conf") and path.stem != "__init__"
        is_named_so = path.suffix == ".py" and path.stem.isidentifier() and (path.stem == "settings" or in_package)
        if is_named_so and _LIKE_SETTINGS.search(path.read_text(errors="replace")):
            found.append(".".join(path.relative_to(project).with_suffix("").parts))
    return sorted(found)


def _settings_module(project: Path, wsgi: str, at: str) -> str:
    named = settings_named(project, wsgi)
    if named:
        return named
    found = settings_modules(project)
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
