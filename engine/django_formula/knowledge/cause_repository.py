"""Failures whose cause is a package that is from a git repository or an archive, and not from a package index."""

import re
from collections.abc import Sequence

from django_formula.knowledge import hints, package
from django_formula.site.sites import Site
from django_formula.untrusted.text import without_logins

#: The command of uv that failed, and the requirement that it is for, which uv does not always name.
_FETCH = re.compile(r"git fetch [^\n]*?'((?:https?|ssh|git)://[^'\s]+)'")
_ARCHIVE = re.compile(r"Failed to download[\w ]*`([\w.-]+)(?:\[[^\]]*\])? @ (https?://[^\s`]+)`")
#: An archive whose requirement does not name its package, which uv fetches to name it.
_UNNAMED = re.compile(
    r"(?:Request failed|Failed to fetch)[^\n]*\n\s*(?:cause: )?(?:Failed to fetch: )?`?(https?://[^\s`#]+)"
)
_OF_REPOSITORY = re.compile(r"https?://[^/]+/[^/]+/([\w.-]+)/(?:-/)?archive/")
_OF_GIT = re.compile(r"git\+\w+://[^/]+/(?:[^@]*/)?([\w.-]+?)(?:\.git)?/?(?:@.*)?")
_SUFFIX = re.compile(r"(?:-\d[^/]*)?\.(?:zip|whl|tgz|tar\.\w+)$")
_NAMED = re.compile(r"`([\w.-]+)(?:\[[^\]]*\])? @ git\+")
#: A requirement of the pillar that names a version.
_VERSION = re.compile(r"\s*([A-Za-z][\w.-]*)\s*(?:\[[^\]]*\])?\s*[<>=!~]")
_UNREACHED = re.compile(
    r"[Cc]ould not resolve host|[Cc]ouldn't resolve|Name or service not known|name resolution|[Ff]ailed to connect"
    r"|[Cc]ouldn't connect|Connection (?:refused|timed out|reset)|Network is unreachable|No route to host"
    r"|client error \(Connect\)|operation timed out"
)
_REFUSED = re.compile(
    r"could not read Username|Authentication failed|Permission denied \(publickey|Host key verification failed"
    r"|[Rr]epository '?[^\n']*'? ?not found|returned error: 40[13]"
)
_STATUS = re.compile(r"HTTP status client error \((\d+ [\w ]+)\)")


def package_of(url: str) -> str:
    """Return the package that an archive or a repository seems to have, by its name; empty for another URL."""
    if of_git := _OF_GIT.fullmatch(url):
        return _normalised(of_git[1])
    if not _SUFFIX.search(url):
        return ""
    of_repository = _OF_REPOSITORY.match(url)
    return _normalised(of_repository[1] if of_repository else _SUFFIX.sub("", url.rpartition("/")[2]))


def replaced(packages: Sequence[str]) -> list[str]:
    """Return the normalised names of those packages of a pillar that replace ones of repositories and archives."""
    named = [_VERSION.match(one) for one in packages if "git+" not in one]
    return [_normalised(found[1]) for found in named if found]


def unfetched(text: str) -> tuple[str, str]:
    """Return the package that uv could not fetch from a repository or an archive, and its URL; empty otherwise."""
    archive = _ARCHIVE.search(text)
    if archive and "Failed to fetch" in text:
        return archive[1], without_logins(archive[2])
    unnamed = _UNNAMED.search(text) if "Failed to download" not in text else None
    if unnamed and package_of(unnamed[1]):
        return package_of(unnamed[1]), without_logins(unnamed[1])
    command = _FETCH.search(text) if "Git operation failed" in text or "failed to fetch" in text else None
    if not command:
        return "", ""
    named = _NAMED.search(text)
    of_url = command[1].rstrip("/").rpartition("/")[2].removesuffix(".git")
    return named[1] if named else of_url, without_logins(command[1])


def of_repository(site: Site, text: str) -> str:
    """Return what to do about a package whose repository is not reached, or refuses; empty for another cause."""
    name, url = unfetched(text)
    instead = hints.extended(site, "python_packages", [f"{name}>=0"])
    index = f"where the package index has {name} too, set {instead}, which replaces it"
    if name and _UNREACHED.search(text):
        way = "correct its DNS, or set a proxy in Salt's environment (docs/guides/networks.md)"
        if url.startswith("ssh:"):
            way = (
                "correct its DNS, or have the requirements name it by https, which a proxy in Salt's environment serves"
            )
        return hints.Hint(f"{name} comes from {url}, which this host does not reach: {way}; {index}", instead)
    status = _STATUS.search(text) if name else None
    if status:
        text = f"{name} comes from {url}, which answers {status[1]}: correct it in the requirements; {index}"
        return hints.Hint(text, instead)
    if name and _REFUSED.search(text):
        text = (
            f"{name} comes from {url}, which requires a login or a key, and a build has none: have the requirements "
            f"name a repository that is public, by https, or an index serve it ({site.at}:index) and "
            f"set {instead}, which replaces it"
        )
        return hints.Hint(text, instead)
    return ""


def is_replaced(text: str, packages: Sequence[str]) -> bool:
    """Return whether uv failed to fetch a package from a git repository that the pillar's packages replace.

    Args:
        text: the output of uv.
        packages: those of the pillar.
    """
    return _normalised(unfetched(text)[0]) in replaced(packages)


def _normalised(name: str) -> str:
    return package.normalised(name)
