"""Settings of a project that no site can use: log files, URLs of a developer's machine, storages."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from django_formula.inspect import storages
from django_formula.inspect.settings import Settings
from django_formula.inspect.values import Value

#: Settings with the domain of cookies: with another one no visitor can log in.
COOKIE_DOMAINS = ("SESSION_COOKIE_DOMAIN", "CSRF_COOKIE_DOMAIN", "LANGUAGE_COOKIE_DOMAIN")
#: Folders outside of the source that every site may write to.
_OF_ALL = ("/dev", "/proc")
#: Folders that are empty when a unit starts: its process can write files there, and finds no folder.
_EMPTY = ("/tmp", "/var/tmp")  # noqa: S108  # nosec B108 - paths of projects
_OF_DEVELOPMENT = re.compile(r"https?://(localhost|127\.0\.0\.1|0\.0\.0\.0)(:\d+)?/")
#: Messages on the standard error, which the journal has.
_TO_JOURNAL = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}


def instead(settings: Settings, tree: Path, roots: Sequence[Path], domain: str) -> Iterator[tuple[str, Any, str]]:
    """Yield settings that the pillar has to replace: the name, the value and the reason.

    Args:
        roots: the folders that the project is imported from.
        domain: that of the site.
    """
    for name in COOKIE_DOMAINS:
        value = settings.values.get(name, Value())
        if not value.source and is_of_others(value.content, domain):
            yield name, None, f"the project's is {value.content}, of which a browser takes no cookie here"
    path = next(_log_files(settings, tree), None)
    if path:
        yield "LOGGING", _TO_JOURNAL, f"to the journal: the project's writes {path}, which a site may not"
    yield from storages.instead(settings, roots)
    for name, folder in (("STATIC_URL", "/static/"), ("MEDIA_URL", "/media/")):
        url = settings.get(name)
        if isinstance(url, str) and _OF_DEVELOPMENT.match(url):
            yield name, folder, f"the project's is {url}"


def is_of_others(text: Any, domain: str) -> bool:
    """Return whether a text is a domain that a site's own one is not part of."""
    is_domain = isinstance(text, str) and bool(re.fullmatch(r"\.?([\w-]+\.)+[a-z]{2,}", text))
    return is_domain and not f".{domain}".endswith(f".{text.lstrip('.')}")


def _log_files(settings: Settings, tree: Path) -> Iterator[PurePosixPath]:
    """Yield the files of LOGGING that are neither in the source nor where every site may write."""
    for path in settings.log_files():
        is_made = str(path.parent) in _EMPTY or path.parent in settings.written
        folders = (tree, *_OF_ALL, *(_EMPTY if is_made else ()))
        if path.is_absolute() and not any(path.is_relative_to(one) for one in folders):
            yield path
