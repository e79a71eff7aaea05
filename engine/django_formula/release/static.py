"""Static files of a release: compressed once, so that nginx does not at every request; those that its pages lack."""

import gzip
import html
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django_formula.site import domains
from django_formula.site.sites import Site
from django_formula.untrusted.foreign import Foreign

_COMPRESSED = (
    ".css",
    ".js",
    ".mjs",
    ".svg",
    ".json",
    ".txt",
    ".html",
    ".xml",
    ".map",
    ".ico",
    ".ttf",
    ".eot",
    ".wasm",
    ".webmanifest",
)
#: Bytes of a name on Linux's file systems.
_LONGEST_NAME = 255


def compress(folder: Path, before: Path | None = None) -> None:
    """Write a ``.gz`` next to each file that nginx would otherwise compress at every request, where it is smaller.

    Args:
        before: static files of an older release; the ``.gz`` of an equal file is shared.
    """
    paths = [Path(parent, name) for parent, _folders, files in os.walk(folder) for name in files]
    large = [
        path
        for path in paths
        if path.name.endswith(_COMPRESSED) and not path.is_symlink() and path.stat().st_size > 1024
    ]
    formers = [Foreign(before) / str(path.relative_to(folder)) if before else None for path in large]
    with ThreadPoolExecutor() as pool:  # zlib and the file system work in parallel
        list(pool.map(_compress_file, large, formers))


def _has(file: Foreign, content: bytes) -> bool:
    """Return whether a file has exactly this content."""
    status = file.status()
    return status is not None and status.st_size == len(content) and file.read(len(content)) == content


def _compress_file(path: Path, former: Foreign | None) -> None:
    content, compressed = path.read_bytes(), path.with_name(f"{path.name}.gz")
    if len(os.fsencode(compressed.name)) > _LONGEST_NAME or (compressed.is_dir() and not compressed.is_symlink()):
        return
    compressed.unlink(missing_ok=True)
    shared = former.parent / compressed.name if former else None
    if shared and former and shared.is_file() and _has(former, content):
        shared.share(compressed)
        return
    smaller = gzip.compress(content, 6, mtime=0)
    if len(smaller) < len(content):
        with open(compressed, "xb") as file:
            file.write(smaller)
        compressed.chmod(0o644)


# Stylesheets and scripts that pages of a release link to, or inline, and its static files lack

_TAG = re.compile(r"<(?:(?P<link>link)|script)\b(?P<attributes>[^>]{0,1000})>", re.IGNORECASE)
#: What `linked` looks at with all files of a page.
_ANY_TAG = re.compile(
    r"<(?:(?P<link>link)|script|img|source|video|audio)\b(?P<attributes>[^>]{0,1000})>", re.IGNORECASE
)
_URL = re.compile(r"""\b(?:href|src)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""", re.IGNORECASE)
_STYLESHEET = re.compile(r"""\brel\s*=\s*["']?stylesheet\b""", re.IGNORECASE)
#: Packages that write static files into pages, and only log which of them they do not find.
INLINES = {"django-staticinline"}
#: What the project's packages log of a static file that a page cannot have: its name.
_LOGGED = re.compile(
    r"""Unable to include inline static file "([^"\n]+)"|issing staticfiles manifest entry for '([^'\n]+)'"""
)
#: Files that a warning names, and the length of the names.
_SHOWN, _LONGEST = 5, 200


def page_warnings(
    site: Site, release: Path, facts: Mapping[str, Any], body: str, name: str = "the health page"
) -> list[str]:
    """Return a warning with the files of STATIC_URL that a page links to and the release does not have.

    Args:
        facts: of the release: ``static_url``, ``collected``.
        body: the page; the site controls it.
        name: what the warning calls the page.
    """
    if facts.get("collected") is None or not facts.get("static_url"):
        return []
    names = linked(site, facts["static_url"], body)
    missing = [name for name in names if not os.path.isfile(release / "static" / name)]
    return _warning(site, f"{name} links to", missing)


def linked(site: Site, static_url: str, body: str, *, images: bool = False) -> list[str]:
    """Return the paths below STATIC_URL of the stylesheets and scripts that a page links to.

    Args:
        body: the page; the site controls it.
        images: whether those of images, sound and films are among them.
    """
    return list(dict.fromkeys(_names(site, static_url, body, _ANY_TAG if images else _TAG)))


def logged_warnings(site: Site, log: str) -> list[str]:
    """Return a warning with the static files that the health page uses otherwise and its log reports as missing.

    Args:
        log: what the release logged; the site controls it.
    """
    names = (next(filter(None, found.groups())) for found in _LOGGED.finditer(log))
    return _warning(site, "the health page uses", [name for name in dict.fromkeys(names) if name.isprintable()])


def _warning(site: Site, beginning: str, names: list[str]) -> list[str]:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    text = (
        f"{beginning} {', '.join(names[:_SHOWN])}{more}, not among the static files: have "
        f"{site.at}:build create what is generated, or correct the names in the project"
    )
    return [text] if names else []


def _names(site: Site, static_url: str, body: str, tags: re.Pattern[str]) -> Iterator[str]:
    """Yield the paths below STATIC_URL of what a page has in some tags; those in comments are not loaded."""
    first, *rest = body.split("<!--")
    for tag in tags.finditer("".join([first, *(part.partition("-->")[2] for part in rest)])):
        url = _URL.search(tag["attributes"])
        if not url or (tag["link"] and not _STYLESHEET.search(tag["attributes"])):
            continue
        name = _below(site, static_url, html.unescape(next(filter(None, url.groups()), "")))
        if name and len(name) <= _LONGEST and name.isprintable() and ".." not in name.split("/"):
            yield name


def _below(site: Site, static_url: str, url: str) -> str:
    """Return the path of a URL below STATIC_URL; empty for another one."""
    try:
        parts, static = urlsplit(url.strip()), urlsplit(static_url)
    except ValueError:
        return ""
    name = parts.netloc.partition(":")[0]
    is_here = not static.netloc and (not name or domains.has(site.config["domains"], name))
    return unquote(parts.path[len(static.path) :]) if is_here and parts.path.startswith(static.path) else ""
