"""The package indexes that a project names: PyPI is the host's, and the pillar's only index replaces all of them."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from django_formula.virtualenv import index, lock, requirements

#: A line of a requirements file that names an index, or a page of packages on a server.
_OPTION = re.compile(
    r"^[ \t]*(?:(?:-i|--index-url|--extra-index-url)[ \t=]*(\S+)|(?:-f|--find-links)[ \t=]*(\w+://\S+))"
    r"[ \t]*(?:#.*)?$\n?",
    re.MULTILINE,
)
_MAY_NAME = re.compile(r"^[ \t]*(?:\[+[^#\n]*\bindex\b|(?:extra-)?index(?:-url)?[ \t]*=)", re.MULTILINE)
_HEADER = re.compile(r"^[ \t]*\[+\s*([\w.\" -]+?)\s*\]+\s*(?:#.*)?$")
#: Keys of uv's configuration that name an index, each with its value: a string, or a list of several lines.
_KEYS = re.compile(r"^[ \t]*(?:(?:extra-)?index-url|find-links)[ \t]*=[ \t]*(?:\[[^\]]*\]|[^\[\n]).*\n?", re.MULTILINE)
_FLAT = re.compile(r"^[ \t]*format[ \t]*=.*\n?", re.MULTILINE)
_URL = re.compile(r"""\b(url[ \t]*=[ \t]*)(?:"[^"\n]*"|'[^'\n]*')""")
_INLINE = re.compile(r"^[ \t]*index[ \t]*=[ \t]*\[[^\]]*\]", re.MULTILINE)


def replace(work: Path, files: Iterable[str], url: str) -> None:
    """Have the pillar's index instead of those that the requirements and uv's configuration of a project name.

    Args:
        work: the copy of the source that uv reads.
        files: the requirements files, relative to it.
        url: that of the pillar's index.
    """
    _drop(work, files, lambda _url: True)
    for path in _configurations(work, files):
        _rewrite(path, "".join(_configuration(path, url)))


def drop_pypi(work: Path, files: Iterable[str]) -> None:
    """Remove the lines of requirements that name PyPI: the host's is used, which may be a mirror of it."""
    _drop(work, files, index.is_pypi)


def _drop(work: Path, files: Iterable[str], is_dropped: Callable[[str], bool]) -> None:
    """Remove the lines of requirements that name an index with such a URL."""
    done: set[Path] = set()
    for name in files:
        for path in requirements.with_included(work, work / name, done):
            if path.suffix in lock.REQUIREMENTS_SUFFIXES:
                text = path.read_text(errors="replace")
                _rewrite(path, _OPTION.sub(lambda found: "" if is_dropped(found[1] or found[2]) else found[0], text))


def are_configured(work: Path, files: Iterable[str]) -> bool:
    """Return whether the configuration of uv in a project, a copy of which uv reads, may name an index."""
    texts = (path.read_text(errors="replace") for path in _configurations(work, files))
    return any(_MAY_NAME.search(text) for text in texts)


def _configurations(work: Path, files: Iterable[str]) -> Iterator[Path]:
    """Yield the files of a project in which uv is configured."""
    folders = {work, *((work / name).parent for name in files)}
    for path in (folder / name for folder in sorted(folders) for name in ("pyproject.toml", "uv.toml")):
        if path.is_file():
            yield path


def _rewrite(path: Path, text: str) -> None:
    if path.read_text(errors="replace") != text:
        lock.replace(path, text)


def _configuration(path: Path, url: str) -> Iterator[str]:
    """Yield the tables of a pyproject.toml or uv.toml; uv's indexes have the URL."""
    top = "" if path.name == "uv.toml" else "tool.uv"
    for table, text in _tables(path.read_text(errors="replace")):
        if table == ".".join(filter(None, (top, "index"))):
            text = _with_url(_FLAT.sub("", text), url)
        elif table in (top, ".".join(filter(None, (top, "pip")))):
            text = _KEYS.sub(lambda found: "" if "://" in found.group() else found.group(), text)
            text = _INLINE.sub(lambda found: _with_url(found.group(), url), text)
        yield text


def _with_url(text: str, url: str) -> str:
    return _URL.sub(lambda found: found.group(1) + json.dumps(url), text)


def _tables(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name of each table of a TOML file and its lines, the header among them."""
    name, lines = "", list[str]()
    for line in text.splitlines(keepends=True):
        header = _HEADER.match(line)
        if header:
            yield name, "".join(lines)
            name, lines = header.group(1).replace(" ", "").replace('"', ""), []
        lines.append(line)
    yield name, "".join(lines)
