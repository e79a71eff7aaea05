"""Submodules: what the files of a repository may ask for, and where in the source they may come to lie.

Whoever may push to a repository writes .gitmodules and the tree; root fetches and exports.
"""

import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import django_host_command
import django_source_git
from django_host_command import DeploymentError
from django_site import Site

#: What a submodule may be fetched by, by the protocol of the repository that names it. What lies on this host is read
#: only where the pillar lists it, whatever the protocol.
_PROTOCOLS = {
    "https": ("https", "ssh"),
    "ssh": ("https", "ssh"),
    "http": ("https", "http", "ssh"),
    "file": ("https", "http", "ssh"),
}
#: Submodules of submodules, all submodules of a site, and bytes of a .gitmodules and of the list of a commit's files.
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
    """A submodule of a commit, and where it comes from."""

    path: str
    commit: str
    url: str
    protocols: tuple[str, ...]


def entries(site: Site, commit: str, mirror: Path | None = None) -> list[Entry]:
    """The files, links and submodules of a commit.

    Raises:
        DeploymentError: a path is there twice, or is a file and a folder too: what is exported of such a commit may
            lead elsewhere.
    """
    with tempfile.TemporaryFile(dir=site.mirror) as file:
        argv = ["ls-tree", "-r", "-t", "-z", "--full-tree", commit]
        limited = ["prlimit", f"--fsize={_LISTING}", "--core=0"]
        try:
            django_source_git.run(
                site, *argv, doing="listing the commit", mirror=mirror, output=file.fileno(), through=limited
            )
        except DeploymentError:
            if os.fstat(file.fileno()).st_size >= _LISTING:
                raise DeploymentError(f"the commit {commit[:12]} has too many files for a release") from None
            raise
        file.seek(0)
        lines = file.read().split(b"\0")
    found: list[Entry] = []
    folders: set[bytes] = set()
    others: set[bytes] = set()
    for line in filter(None, lines):
        about, _tab, path = line.partition(b"\t")
        mode, kind, name = about.decode().split()
        if path in folders or path in others:
            raise DeploymentError(
                f"the commit {commit[:12]} has two entries named {_shown(path)}",
                hint="no git makes such a commit: whoever maintains the repository has to look into it (git fsck)",
            )
        if kind == "tree":
            folders.add(path)
        else:
            others.add(path)
            found.append(Entry(mode, name, os.fsdecode(path)))
    return found


def gitlinks(site: Site, commit: str, mirror: Path | None = None) -> list[Entry]:
    """The submodules of a commit."""
    return [entry for entry in entries(site, commit, mirror) if entry.mode == "160000"]


def of_commit(site: Site, listed: list[Entry], mirror: Path, url: str) -> list[Submodule]:
    """The submodules among the entries of a commit, with what .gitmodules says of them.

    Args:
        url: where the repository comes from that has the commit.

    Raises:
        DeploymentError: one has no URL, or asks for what it may not have.
    """
    linked = [entry for entry in listed if entry.mode == "160000"]
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
                hint=f"or django:sites:{site.name}:submodules: false",
            )
        address, protocols = permitted(site, absolute(urls[entry.path], url), url, entry.path)
        found.append(Submodule(entry.path, entry.name, address, protocols))
    return found


def _urls(site: Site, listed: list[Entry], mirror: Path) -> dict[str, str]:
    """The URLs in .gitmodules as it was committed, by path."""
    file = next((entry for entry in listed if entry.path == ".gitmodules"), None)
    if not file:
        return {}
    doing = "reading .gitmodules"
    if not file.mode.startswith("100"):
        raise DeploymentError(f"{doing}: it is not a plain file")
    size = int(django_source_git.run(site, "cat-file", "-s", file.name, doing=doing, mirror=mirror))
    if size > _GITMODULES:
        raise DeploymentError(f"{doing}: it has {size} bytes, more than {_GITMODULES}")
    argv = ["config", "--no-includes", f"--blob={file.name}", "--null", "--list"]
    listing = django_source_git.run(site, *argv, doing=doing, mirror=mirror) if size else ""
    values: dict[str, dict[str, str]] = {}
    for entry in filter(None, listing.split("\0")):
        key, _newline, value = entry.partition("\n")
        section, _dot, option = key.rpartition(".")
        if section.startswith("submodule."):
            values.setdefault(section, {})[option] = value
    return {value["path"]: value["url"] for value in values.values() if "path" in value and "url" in value}


def absolute(url: str, parent: str) -> str:
    """The URL of a submodule, relative ones resolved against the URL of the repository that names them.

    Raises:
        DeploymentError: it is none, or leads out of the parent's host.
    """
    if not url or url.startswith("-") or not url.isprintable():
        raise DeploymentError(f"the submodule url {url!r} is not a url")
    if not url.startswith(("./", "../")):
        return url
    # The part that says which host, and with which login, is never changed: a relative URL stays on it.
    host = re.match(r"[a-z+]+://[^/]*/|/|(?:[^/:@]*@)?(?:\[[^\]]+\]|[^/:]+):/?", parent)
    base = host.group() if host else ""
    path = [part for part in parent[len(base) :].split("/") if part]
    rest = url
    while rest.startswith(("./", "../")):
        up, _slash, rest = rest.partition("/")
        if up == "..":
            if not path:
                raise DeploymentError(f"the submodule url {url!r} leads nowhere")
            path.pop()
    if not host or not rest:
        raise DeploymentError(f"the submodule url {url!r} leads nowhere")
    return base + "/".join([*path, rest])


def protocol(url: str) -> str:
    """The protocol of a URL: https, http, ssh, or file for what lies on this host; empty for any other."""
    if re.fullmatch(r"/.*|file://.*", url):
        return "file"
    found = re.match(r"(https|http|ssh)://(?!-)(?:[^/@]*@)?(?!-)[^/@]+(?:/|$)", url)
    if found:
        return found.group(1)
    # user@host:path, where neither may be taken for an option of ssh.
    is_scp = re.fullmatch(r"(?:[A-Za-z0-9_][^@:/]*@)?(?!-)[^@:/\[\]]+:(?![:-]).+", url)
    return "ssh" if is_scp and "::" not in url and "://" not in url else ""


def permitted(site: Site, url: str, parent: str, path: str) -> tuple[str, tuple[str, ...]]:
    """The URL that a submodule is fetched from and the protocols that git may use for it.

    Args:
        parent: the URL of the repository that names it.

    Raises:
        DeploymentError: it would be fetched by what is not allowed.
    """
    at = f"django:sites:{site.name}:submodules"
    kind, shown = protocol(url), django_host_command.redact(url)
    if kind == "file":
        listed = [] if isinstance(site.config["submodules"], bool) else site.config["submodules"]
        wanted = re.sub(r"/+", "/", django_source_git.local_path(url)).rstrip("/")
        for own in listed:
            if wanted in (own, own.removesuffix(".git")):
                return own, ("file",)
        raise DeploymentError(
            f"the submodule {path} asks for {shown}, which is on this host",
            hint=f"if this site may have it, list it: {at}: [{wanted or '/srv/git/library.git'}]",
        )
    allowed = _PROTOCOLS.get(protocol(parent), ())
    if not kind or kind not in allowed:
        raise DeploymentError(
            f"the submodule {path}: {shown} uses a protocol that is not allowed",
            hint=f"use {' or '.join(allowed)} in .gitmodules, or {at}: false",
        )
    return url, allowed


def _refuse_path(path: str) -> None:
    """Refuse the path of a submodule that is no plain path below the source.

    Raises:
        DeploymentError: it is none.
    """
    for name in path.split("/"):
        plain = _IGNORED.sub("", name).split(":")[0].rstrip(" .").casefold()
        is_hidden = plain in ("", ".git") or re.fullmatch(r"git~[0-9]+", plain)
        if is_hidden or "\\" in name or not name.isprintable():
            raise DeploymentError(f"the submodule path {path!r} is not a path below the source")


def make_place(target: Path, path: str) -> Path:
    """Make the folder that a submodule is exported into, where the export has not made it yet.

    No link on the way is followed: an other submodule may have brought it. Nobody else writes to an export, so that
    what is found here holds.

    Raises:
        DeploymentError: something on the way is no folder, or the folder is not empty.
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
        raise DeploymentError(f"the submodule {path} cannot be exported: there are files of another one")
    return target / path


def _shown(path: bytes) -> str:
    return "".join(filter(str.isprintable, path.decode(errors="replace")))[:200]
