"""Names that versions of Django no longer have, and a project that imports them."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import django_project
import django_project_code

#: Module → name → the first version of Django without it; ``*`` is the module itself.
_REMOVED: dict[str, dict[str, str]] = {
    "django.core.urlresolvers": {"*": "2.0"},
    "django.contrib.staticfiles.templatetags.staticfiles": {"*": "3.0"},
    "django.shortcuts": {"render_to_response": "3.0"},
    "django.utils": {"six": "3.0", "lru_cache": "3.0", "baseconv": "5.0", "datetime_safe": "5.0"},
    "django.utils.decorators": {"available_attrs": "3.0", "ContextDecorator": "3.0"},
    "django.utils.lru_cache": {"*": "3.0"},
    "django.utils.six": {"*": "3.0"},
    "django.conf.urls": {"url": "4.0"},
    "django.contrib.postgres.fields": {"JSONField": "4.0"},
    "django.db.models": {"NullBooleanField": "4.0"},
    "django.utils.encoding": {"python_2_unicode_compatible": "3.0", "force_text": "4.0", "smart_text": "4.0"},
    "django.utils.http": dict.fromkeys(
        ("is_safe_url", "urlquote", "urlquote_plus", "urlunquote", "urlunquote_plus"), "4.0"
    ),
    "django.utils.translation": dict.fromkeys(
        ("ugettext", "ugettext_lazy", "ugettext_noop", "ungettext", "ungettext_lazy"), "4.0"
    ),
    "django.utils.baseconv": {"*": "5.0"},
    "django.utils.datetime_safe": {"*": "5.0"},
    "django.utils.timezone": {"utc": "5.0"},
    "django.core.files.storage": {"get_storage_class": "5.1"},
    "django.utils.itercompat": {"*": "6.0"},
}
#: A requirement that says which versions of Django it is for.
_BOUND = re.compile(
    r"^[ \t\"'-]*django(?![\w.-])[\"']?\s*(?:[=({]\s*[\"']?)?\s*[^\"'\n#]*(?:[<~^]|==)", re.IGNORECASE | re.MULTILINE
)


def version_without(module: str, name: str) -> str:
    """Return the first version of Django without a name of a module; empty if it is not known."""
    return _REMOVED.get(module, {}).get(name, "") or _REMOVED.get(module, {}).get("*", "")


def limit(tree: Path, contents: Mapping[str, str]) -> tuple[str, str]:
    """Return a constraint for a project whose code imports what later versions of Django lack, and why.

    Empty texts where the requirements say which versions they are for.

    Args:
        contents: the texts of the requirements.
    """
    is_locked = any(name.endswith(".lock") for name in contents)
    if is_locked or any(map(_BOUND.search, contents.values())):
        return "", ""
    found = sorted(
        (tuple(map(int, version.split("."))), str(path.relative_to(tree)), name, version)
        for path in django_project.files(tree, None, depth=6)
        if path.suffix == ".py"
        for name, version in _imported(path)
    )
    if not found:
        return "", ""
    _numbers, path, name, version = found[0]
    return f"django<{version}", f"{path} imports {name}, which Django {version} does not have"


def _imported(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the removed names that a module imports in every case, and the versions without them."""
    for node in django_project_code.tree(path).body if "django" in django_project_code.read(path) else ():
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                version = version_without(node.module, alias.name)
                if version:
                    yield alias.name, version
