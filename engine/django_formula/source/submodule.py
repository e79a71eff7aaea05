"""Submodules: the URLs and paths that a repository may give them.

A user who may push to a repository writes .gitmodules and the tree; root fetches and exports them.
"""

import contextlib
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site
from django_formula.source import git
from django_formula.untrusted.text import in_pillar

#: The protocol of a repository → those that its submodules may be fetched by. A repository on this host is read only if
#: the pillar lists it, whatever the protocol.
_PROTOCOLS = {
    "https": ("https", "ssh"),
    "ssh": ("https", "ssh"),
    "http": ("https", "http", "ssh"),
    "file": ("https", "http", "ssh"),
}
#: The mode of a submodule in a commit.
MODE = "160000"
#: Levels of submodules, submodules of a site, bytes of a .gitmodules, and bytes of the list of a commit's files.
DEPTH, NUMBER = 5, 100
_GITMODULES, _LISTING = 1 << 20, 64 << 20
#: Characters that some file systems ignore in names, so that `.g\u200cit` is `.git` there.
_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")


class Entry(NamedTuple):
    """A file, a link or a submodule in a commit."""

    mode: str
    name: str
    path: str


class Submodule(NamedTuple):
    """A submodule of a commit.

    Attributes:
        protocols: those that it may be fetched by.
    """

    path: str
    commit: str
    url: str
    protocols: tuple[str, ...]


def entries(
    site: Site, commit: str, mirror: Path | None = None, allow: Callable[[int], None] | None = None
) -> list[Entry]:
    """Return the files, links and submodules of a commit.

    Args:
        allow: refuses a number of them, before they are looked at.

    Raises:
        DeploymentError: a path is there twice, or is both a file and a folder: an export of such a commit could write
            through a link; or there are too many entries.
    """
    with tempfile.TemporaryFile(dir=site.mirror) as file:
        argv = ["ls-tree", "-r", "-t", "-z", "--full-tree", commit]
        limited = ["prlimit", f"--fsize={_LISTING}", "--core=0"]
        try:
            git.run_git(site, *argv, doing="listing the commit", mirror=mirror, output=file.fileno(), through=limited)
        except DeploymentError:
            if os.fstat(file.fileno()).st_size >= _LISTING:
                raise DeploymentError(f"the commit {commit[:12]} has too many files for a release") from None
            raise
        file.seek(0)
        listing = file.read()
    if allow:
        others = listing.count(b"040000 tree ") + listing.count(b"160000 commit ")  # or more, by names that have this
        allow(listing.count(b"\0") - others)
    lines = listing.split(b"\0")
    found: list[Entry] = []
    folders: set[bytes] = set()
    files: set[bytes] = set()
    for line in filter(None, lines):
        about, _tab, path = line.partition(b"\t")
        mode, kind, name = about.decode().split()
        if path in folders or path in files:
            raise DeploymentError(
                f"the commit {commit[:12]} has two entries named {_shown(path)}",
                hint="git creates no such commit: remove it from the history (git fsck in a clone names it)",
            )
        if kind == "tree":
            folders.add(path)
        else:
            files.add(path)
            found.append(Entry(mode, name, os.fsdecode(path)))
    return found


def of_commit(site: Site, listed: list[Entry], mirror: Path, url: str) -> list[Submodule]:
    """Return the submodules among the entries of a commit, with their URLs in .gitmodules.

    Args:
        listed: the entries of the commit.
        url: the URL of the repository that has the commit.

    Raises:
        DeploymentError: a submodule has no URL, or one that is not permitted.
    """
    linked = [entry for entry in listed if entry.mode == MODE]
    if not linked:
        return []
    for entry in linked:
        _refuse_path(entry.path)
    urls = _urls(site, listed, mirror)
    found = []
    for entry in linked:
        if entry.path not in urls:
            raise DeploymentError(
                f"the submodule {entry.path} has no url in .gitmodules",
                hint=f"add it there, or set {site.at}:submodules to false",
            )
        address, protocols = permitted(site, absolute(urls[entry.path], url), url, entry.path)
        found.append(Submodule(entry.path, entry.name, address, protocols))
    return found


def _urls(site: Site, listed: list[Entry], mirror: Path) -> dict[str, str]:
    """Return the URLs in the committed .gitmodules, by path."""
    file = next((entry for entry in listed if entry.path == ".gitmodules"), None)
    if not file:
        return {}
    doing = "reading .gitmodules"
    if not file.mode.startswith("100"):
        raise DeploymentError(f"{doing}: it is not a regular file")
    size = int(git.run_git(site, "cat-file", "-s", file.name, doing=doing, mirror=mirror))
    if size > _GITMODULES:
        raise DeploymentError(f"{doing}: it has {size} bytes, more than {_GITMODULES}")
    argv = ["config", "--no-includes", f"--blob={file.name}", "--null", "--list"]
    listing = git.run_git(site, *argv, doing=doing, mirror=mirror) if size else ""
    values: dict[str, dict[str, str]] = {}
    for entry in filter(None, listing.split("\0")):
        key, _newline, value = entry.partition("\n")
        section, _dot, option = key.rpartition(".")
        if section.startswith("submodule."):
            values.setdefault(section, {})[option] = value
    return {value["path"]: value["url"] for value in values.values() if "path" in value and "url" in value}


def absolute(url: str, parent: str) -> str:
    """Return the URL of a submodule; a relative one is resolved against the URL of its repository.

    Args:
        parent: the URL of the repository that has the submodule.

    Raises:
        DeploymentError: it is not a URL, or a relative one with too many ``..``.
    """
    if not url or url.startswith("-") or not url.isprintable():
        raise DeploymentError(f"the submodule url {url!r} is not a URL")
    if not url.startswith(("./", "../")):
        return url
    # A relative URL never changes the part with the host and the login.
    host = re.match(r"[a-z+]+://[^/]*/|/|(?:[^/:@]*@)?(?:\[[^\]]+\]|[^/:]+):/?", parent)
    base = host.group() if host else ""
    path = [part for part in parent[len(base) :].split("/") if part]
    rest = url
    while rest.startswith(("./", "../")):
        up, _slash, rest = rest.partition("/")
        if up == "..":
            if not path:
                raise DeploymentError(f"the submodule url {url!r} cannot be resolved")
            path.pop()
    if not host or not rest:
        raise DeploymentError(f"the submodule url {url!r} cannot be resolved")
    return base + "/".join([*path, rest])


def protocol(url: str) -> str:
    """Return the protocol of a URL: https, http, ssh, or file for a path of this host; empty for any other."""
    if re.fullmatch(r"/.*|file://.*", url):
        return "file"
    found = re.match(r"(https|http|ssh)://(?!-)(?:[^/@]*@)?(?!-)[^/@]+(?:/|$)", url)
    if found:
        return found.group(1)
    # user@host:path; neither user nor host may begin with a dash, as an option of ssh does
    is_scp = re.fullmatch(r"(?:[A-Za-z0-9_][^@:/]*@)?(?!-)[^@:/\[\]]+:(?![:-]).+", url)
    return "ssh" if is_scp and "::" not in url and "://" not in url else ""


def permitted(site: Site, url: str, parent: str, path: str) -> tuple[str, tuple[str, ...]]:
    """Return the URL that a submodule is fetched from, and the protocols that git may use for it.

    Args:
        url: the absolute URL of the submodule.
        parent: the URL of the repository that has the submodule.
        path: the path of the submodule.

    Raises:
        DeploymentError: its protocol is not allowed, or it is on this host and the pillar does not list it.
    """
    at = f"{site.at}:submodules"
    kind, shown = protocol(url), commands.redact(url)
    if kind == "file":
        listed = [] if isinstance(site.config["submodules"], bool) else site.config["submodules"]
        local = re.sub(r"/+", "/", git.local_path(url)).rstrip("/")
        for own in listed:
            if local in (own, own.removesuffix(".git")):
                return own, ("file",)
        raise DeploymentError(
            f"the submodule {path} points to {shown}, which is on this host",
            hint=f"if this site may read it, list it in {at}: {in_pillar([local or '/srv/git/library.git'])}; "
            f"set {at} to false if the site does without its submodules",
        )
    allowed = _PROTOCOLS.get(protocol(parent), ())
    if not kind or kind not in allowed:
        raise DeploymentError(
            f"the submodule {path}: {shown} uses a protocol that is not allowed",
            hint=f"use {' or '.join(allowed)} in .gitmodules, or set {at} to false",
        )
    return url, allowed


def _refuse_path(path: str) -> None:
    """Refuse the path of a submodule that leads out of the source or into ``.git``.

    Raises:
        DeploymentError: a part of the path is refused.
    """
    for name in path.split("/"):
        plain = _IGNORED.sub("", name).split(":")[0].rstrip(" .").casefold()
        is_hidden = plain in ("", ".git") or re.fullmatch(r"git~[0-9]+", plain)
        if is_hidden or "\\" in name or not name.isprintable():
            raise DeploymentError(f"the submodule path {path!r} is not a path below the source")


def make_folder(target: Path, path: str) -> Path:
    """Create the folder that a submodule is exported into, and return it.

    No link on the way is followed: another submodule may have brought it. No other process writes to an export, so
    that what is checked here stays so.

    Raises:
        DeploymentError: a part of the path is not a folder, or the folder is not empty.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    folder = os.open(target, flags)
    try:
        for name in path.split("/"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o755, dir_fd=folder)
            inner = os.open(name, flags, dir_fd=folder)
            os.close(folder)
            folder = inner
        is_taken = bool(os.listdir(folder))
    except OSError as error:
        raise DeploymentError(f"the submodule {path} cannot be exported: {error.filename}: {error.strerror}") from None
    finally:
        os.close(folder)
    if is_taken:
        raise DeploymentError(f"the submodule {path} cannot be exported: its folder has files of another one")
    return target / path


def _shown(path: bytes) -> str:
    return "".join(filter(str.isprintable, path.decode(errors="replace")))[:200]
