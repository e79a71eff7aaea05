"""The git repositories and archives that a project's packages are installed from, which no package index replaces."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from django_formula.host import toml
from django_formula.knowledge import cause_repository
from django_formula.untrusted.text import in_pillar, without_logins

#: A requirement from a repository or from an archive, as pip and uv read it.
_REQUIREMENT = re.compile(
    r"^[ \t]*(?:-e[\s=]*|--editable[\s=]+)?(?:([A-Za-z][\w.-]*)[ \t]*(?:\[[^\]\n]*\][ \t]*)?@[ \t]*)?"
    r"(?:git\+|(?=https?://))([^\s;]+)",
    re.MULTILINE,
)
_EGG = re.compile(r"[#&]egg=([A-Za-z][\w.-]*)")
_REVISION = re.compile(r"^([\w+]+://[^/]+/[^@]*|(?![\w+]+://)[^/:]+:[^@]*)@[^:@]+$")
_HOST = re.compile(r"(?:[\w+]+://)?(?:[^@/\s]*@)?([A-Za-z0-9][\w.-]*)")
#: A wheel for another system, which a marker leaves out here.
_OF_ANOTHER = re.compile(r"-(win32|win_\w+|macosx_\w+)\.whl(?:[?#]|$)")
_FILE = re.compile(r"file:|/|\.")


def remarks(contents: Mapping[str, str], required: Collection[str]) -> Iterator[str]:
    """Yield what the host needs for packages that are from no index, in a line for each server.

    Args:
        contents: the texts of the files with requirements, by their paths.
        required: the normalised names of the packages that they require.
    """
    names = {re.sub(r"\[.*", "", name) for name in required}
    found = {name: url for path, text in contents.items() for name, url in _of_file(path, text, names, contents)}
    servers: dict[tuple[str, str], list[str]] = {}
    for name, url in found.items():
        host = _HOST.match(url)
        if host and not _FILE.match(url):
            how = "downloaded" if cause_repository.package_of(url) else "installed by git"
            servers.setdefault((how, host[1]), []).append(name)
    for (how, server), own in servers.items():
        shown = ", ".join(f"{name} from {without_logins(found[name])}" for name in own)
        has_ssh = any(not re.match("(https?|git)://", found[name]) for name in own)
        key = " over ssh, for which a build has no key" if has_ssh else ""
        yield (
            f"{how}: {shown}; this host must reach {server}{key}, and `index` does not replace it; "
            f"`python_packages: {in_pillar([f'{name}>=0' for name in own])}` does, where an index has "
            f"the package{'s' if len(own) > 1 else ''}"
        )


def _of_file(path: str, text: str, required: Collection[str], contents: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the packages of a file that come from a repository or an archive, and its URL without a revision.

    Args:
        contents: all paths: of a pyproject.toml with a lock it is the lock that counts.
    """
    name = PurePath(path).name
    try:
        if name == "Pipfile.lock":
            pairs = [*_of_table(json.loads(text)["default"])]
        elif name.endswith(".lock"):
            pairs = [*_of_lock(toml.loads(text)["package"], required)]
        elif name == "pyproject.toml":
            has_lock = any(one.endswith(".lock") for one in contents)
            pairs = [] if has_lock else [*_of_pyproject(toml.loads(text), required)]
        else:
            pairs = [*_of_lines(text)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return  # it is damaged, which its installation reports
    for package, url in pairs:
        if _OF_ANOTHER.search(url):
            continue
        yield re.sub("[-_.]+", "-", package).lower(), _REVISION.sub(r"\1", re.split("[?#]", url)[0])


def _of_lines(text: str) -> Iterator[tuple[str, str]]:
    for found in _REQUIREMENT.finditer(text):
        named, egg = found[1], _EGG.search(found[2])
        url = _REVISION.sub(r"\1", re.split("[?#]", found[2])[0]).rstrip("/")
        last = cause_repository.package_of(url) or url.rpartition("/")[2].removesuffix(".git")
        yield named or (egg[1] if egg else last), found[2]


def _of_lock(packages: list[dict[str, Any]], required: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield those of a uv.lock, poetry.lock or pdm.lock, which has them in the package itself."""
    for package in packages:
        source = package.get("source", package)
        is_direct = source.get("type", "url") in ("git", "url")
        url = source.get("git") or (source.get("url") if is_direct else "")
        if url and re.sub("[-_.]+", "-", package["name"]).lower() in required:
            yield package["name"], url


def _of_pyproject(content: dict[str, Any], required: Collection[str]) -> Iterator[tuple[str, str]]:
    project, tool = content.get("project", {}), content.get("tool", {})
    listed = [project.get("dependencies", []), *content.get("dependency-groups", {}).values()]
    yield from _of_lines("\n".join(line for lines in listed for line in lines if isinstance(line, str)))
    for table in (tool.get("uv", {}).get("sources", {}), tool.get("poetry", {}).get("dependencies", {})):
        of_site = {name: about for name, about in table.items() if re.sub("[-_.]+", "-", name).lower() in required}
        yield from _of_table(of_site)


def _of_table(table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, about in table.items():
        url = next(filter(None, map(about.get, ("git", "url", "file"))), "") if isinstance(about, dict) else ""
        if url:
            yield name, url
