"""Storages of a project that no site can use: their class is not in the source, or their server needs a login."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from django_formula.inspect import code, python_path
from django_formula.inspect.settings import Settings
from django_formula.inspect.values import UNKNOWN
from django_formula.knowledge.rows import rows

#: Alias of STORAGES → Django's own class.
_DJANGO = {
    "default": "django.core.files.storage.FileSystemStorage",
    "staticfiles": "django.contrib.staticfiles.storage.StaticFilesStorage",
}
_OWN: dict[str, dict[str, str]] = rows("storage_settings")
#: Settings for one alias, of Django before 4.2 and of applications → the alias, and the class without the setting.
_SETTINGS = {
    "DEFAULT_FILE_STORAGE": ("default", _DJANGO["default"]),
    "STATICFILES_STORAGE": ("staticfiles", _DJANGO["staticfiles"]),
    **{setting: (row["alias"], row["own"]) for setting, row in _OWN.items()},
}
_PATHS = {"staticfiles": "/static/", "default": "/media/"}
#: Settings with the URL of an alias → the alias.
_URLS = {"STATIC_URL": "staticfiles", **{row["url"]: row["alias"] for row in _OWN.values()}, "MEDIA_URL": "default"}
#: Classes of storages on another server, by their names or those of their bases.
_REMOTE = re.compile("|".join(rows("remote_storages")))


def named(settings: Settings) -> list[str]:
    """Return the classes of storages that the settings name."""
    aliases = settings.get("STORAGES")
    found = [settings.get("STORAGES", alias, "BACKEND") for alias in (aliases if isinstance(aliases, dict) else ())]
    found += [settings.get(setting) for setting in _SETTINGS]
    return [one for one in found if isinstance(one, str)]


def instead(settings: Settings, roots: Sequence[Path]) -> Iterator[tuple[str, Any, str]]:
    """Yield settings with Django's own storages in place of those that no site can use, and the reason.

    Args:
        roots: the folders that the project is imported from.
    """
    replaced = set[str]()
    for setting, (alias, own) in _SETTINGS.items():
        why = _problem(settings, roots, alias, settings.get(setting))
        if why:
            yield setting, own, "" if alias in replaced else why
            replaced.add(alias)
    aliases = settings.get("STORAGES")
    found = aliases if isinstance(aliases, dict) else {}
    reasons = {alias: _problem(settings, roots, alias, settings.get("STORAGES", alias, "BACKEND")) for alias in found}
    if any(reasons.values()):
        usable = {alias: entry for alias, entry in found.items() if not reasons[alias] and _is_known(entry)}
        others = {alias: {"BACKEND": _DJANGO.get(alias, _DJANGO["default"])} for alias in found}
        replaced |= {*found} - {*usable}
        yield "STORAGES", {**others, **usable}, "; ".join(filter(None, reasons.values()))
    for setting, alias in _URLS.items():
        if alias in replaced and not _is_local(settings, setting):
            yield setting, _PATHS[alias], ""
    installed = settings.get("INSTALLED_APPS")
    for app, without in rows("without_login").items():
        if isinstance(installed, list) and app in installed and not _has_login(settings):
            yield from (
                (name, value, f"{app} is for static files on another server") for name, value in without.items()
            )


def _problem(settings: Settings, roots: Sequence[Path], alias: str, name: Any) -> str:
    """Return why no site can use a class of storages; empty if one can, or if it is not known."""
    module, _dot, last = name.rpartition(".") if isinstance(name, str) else ("", "", "")
    is_own = bool(module) and python_path.is_own(roots, module.partition(".")[0])
    path = python_path.find_module(roots, module) if is_own else None
    if is_own and not path:
        return f"{name} is not in the source"
    bases = _bases(path, last) if path else name
    is_remote = alias == "staticfiles" and isinstance(bases, str) and bool(_REMOTE.search(bases))
    return f"{name} needs a login, and the proxy serves static files" if is_remote and not _has_login(settings) else ""


def _bases(path: Path, name: str) -> str:
    """Return the bases of a class of a module."""
    classes = [node for node in code.tree(path).body if isinstance(node, ast.ClassDef)]
    return " ".join(ast.unparse(base) for node in classes if node.name == name for base in node.bases)


def _has_login(settings: Settings) -> bool:
    """Return whether the settings have the login of a server for files as a text of their own."""
    return any(isinstance(settings.get(name), str) and settings.get(name) for name in rows("storage_logins"))


def _is_local(settings: Settings, name: str) -> bool:
    """Return whether a setting with a URL is one of the site, or Django's own."""
    url = settings.get(name)
    return name not in settings.values or (isinstance(url, str) and "//" not in url)


def _is_known(value: Any) -> bool:
    """Return whether a setting is known as a whole, and can be written into a pillar."""
    if isinstance(value, dict | list):
        return all(map(_is_known, value.values() if isinstance(value, dict) else value))
    return value is not UNKNOWN and isinstance(value, str | int | float | None)
