"""The source of a release: a commit of a bare mirror, or the files of a local folder, exported without ``.git``."""

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from django_formula.host import clock, commands
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site
from django_formula.source import git
from django_formula.source import mirror as source_mirror
from django_formula.source import submodule as source_submodule
from django_formula.source.limits import Limits
from django_formula.source.submodule import Submodule
from django_formula.source.writing import writing

COMMIT = git.COMMIT
_CORRUPT = re.compile(
    r"corrupt|bad object|unable to read|inflate|packfile .* (cannot|does not)|is empty|not a git repository",
    re.IGNORECASE,
)
#: What git reports of a commit that a remote does not have.
_NO_COMMIT = "not our ref|no such remote ref|couldn't find remote ref|unadvertised"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
#: Folders with what is for the readers of a repository, and no part of a site.
_FOR_READERS = {".github", "doc", "docs", "documentation", "screenshot", "screenshots", "test", "tests"}


def resolve(site: Site, revision: str) -> str:
    """Return the commit of a revision: a full commit as it is, a branch or tag as the remote has it now.

    Raises:
        DeploymentError: the remote does not answer, does not have the revision, or has a branch and a tag of that
            name.
    """
    if COMMIT.fullmatch(revision):
        return revision
    url = site.config["repository"]
    doing = f"looking up {revision} in {commands.redact(url)}"
    listed = git.ask(site, "ls-remote", url=url, doing=doing, mirror="/nonexistent")
    lines = listed.split("\n")  # the name of a branch may have what else separates lines
    refs = {name: commit for commit, name in (line.split("\t", 1) for line in lines if "\t" in line)}
    is_whole = revision in refs and (revision == "HEAD" or revision.startswith("refs/"))
    names = (revision,) if is_whole else (f"refs/heads/{revision}", f"refs/tags/{revision}")
    found = {name: refs.get(f"{name}^{{}}", refs[name]) for name in names if name in refs}
    if len(set(found.values())) > 1:
        branch, tag = (commit[:12] for commit in found.values())
        raise DeploymentError(
            f"{doing}: it is both a branch ({branch}) and a tag ({tag})",
            hint=f"set {site.at}:revision to refs/heads/{revision} or refs/tags/{revision}",
        )
    commit = next(iter(found.values()), "") or _complete(site, revision)
    if not commit:
        raise _unknown_revision(site, doing, list(refs))
    return commit


def was_pushed(site: Site) -> bool:
    """Return whether a site has its branch; False for one that is pushed to this host, before the first push.

    Raises:
        DeploymentError: git does not answer.
    """
    if not site.config.get("push"):
        return True
    url, branch = site.config["repository"], f"refs/heads/{site.config['revision']}"
    argv = ("ls-remote", "--heads")
    doing = f"looking for what was pushed to {url}"
    return bool(git.ask(site, *argv, url=url, references=(branch,), doing=doing, mirror="/nonexistent").strip())


def of_revision(site: Site, commit: str) -> str:
    """Return a commit, whole, that the revision of a site has: what other branches have is not for all to release.

    Args:
        commit: at least seven of its digits.

    Raises:
        DeploymentError: it is no such commit, or the remote does not answer.
    """
    revision = str(site.config["revision"])
    tip = resolve(site, revision)
    fetch(site, tip)
    whole = commit if COMMIT.fullmatch(commit) else _complete(site, commit)
    if not whole or not is_part(site, whole, tip):
        raise DeploymentError(f"{commit} is no commit of {revision}", hint=f"push it to {revision} first")
    return whole


def _complete(site: Site, revision: str) -> str:
    """Return the commit that a short one stands for, or an empty text."""
    if not re.fullmatch(r"[0-9a-f]{7,39}", revision):
        return ""
    fetch(site, None)
    argv = ["rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    try:
        return git.run_git(site, *argv, doing="looking up the short commit").strip()
    except DeploymentError:
        return ""


def _unknown_revision(site: Site, doing: str, refs: list[str]) -> DeploymentError:
    prefixes = ("refs/heads/", "refs/tags/")
    names = [name.split("/", 2)[2] for name in refs if name.startswith(prefixes) and not name.endswith("^{}")]
    shown = f"{', '.join(map(git.plain, names[:8])) or 'no branches'}{' …' if len(names) > 8 else ''}"
    return DeploymentError(
        f"{doing}: no such branch, tag or commit",
        hint=f"the repository has {shown}; correct {site.at}:revision",
    )


def fetch(
    site: Site,
    commit: str | None,
    *,
    url: str | None = None,
    mirror: Path | None = None,
    protocols: tuple[str, ...] = git.PROTOCOLS,
) -> None:
    """Fetch all branches and tags of the remote into the mirror, and the commit if none of them has it.

    Args:
        url: the URL of a submodule, with a `mirror` of its own and the `protocols` that it may be fetched by.

    Raises:
        DeploymentError: the remote cannot be reached, or does not have the commit.
    """
    url = url or site.config["repository"]
    doing = f"fetching {commands.redact(url)}"

    def fetch_refs(*references: str) -> None:
        options = ("--prune", "--no-write-fetch-head", "--force", "--update-shallow")
        git.ask(
            site, "fetch", *options, url=url, references=references, doing=doing, protocols=protocols, mirror=mirror
        )

    fetch_refs("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
    if not commit or source_mirror.has(site, commit, mirror):
        return
    try:
        fetch_refs(f"+{commit}:refs/formula/{commit}")
    except DeploymentError as error:
        if error.transient and not re.search(_NO_COMMIT, error.log):
            raise
        raise DeploymentError(
            f"{doing}: commit {commit} not found", hint=f"push it, or correct {site.at}:revision"
        ) from None


def fetch_only(site: Site, commit: str) -> None:
    """Fetch one commit into the mirror, without its history.

    Raises:
        DeploymentError: the remote cannot be reached, or does not send that commit.
    """
    url = site.config["repository"]
    doing = f"fetching {commands.redact(url)}"
    options = ("--depth=1", "--no-tags", "--no-write-fetch-head")
    git.ask(site, "fetch", *options, url=url, references=(commit,), doing=doing)


def export(site: Site, commit: str, target: Path) -> None:
    """Write the files of a commit, submodules included, into a new folder.

    A damaged mirror is deleted and fetched again, once.

    Raises:
        DeploymentError: the commit or a submodule cannot be fetched, or a file is a pointer of Git LFS.
    """
    if site.config["folder"]:
        _export(site, commit, target, site.mirror)
    else:
        try:
            if not source_mirror.has(site, commit):
                fetch(site, commit)
            _export(site, commit, target, site.mirror, url=site.config["repository"])
        except DeploymentError as error:
            if not _CORRUPT.search(error.log):
                raise
            for name in ("objects", "refs", "packed-refs", "HEAD", "modules", "config", "folder.tree"):
                host_file.remove_tree(site.mirror / name)
            source_mirror.initialise(site, site.mirror)
            fetch(site, commit)
            host_file.remove_tree(target)
            _export(site, commit, target, site.mirror, url=site.config["repository"])
    pointers = lfs_pointers(target)
    if pointers:
        more = f" and {len(pointers) - 3} more" if len(pointers) > 3 else ""
        raise DeploymentError(
            f"{', '.join(pointers[:3])}{more} are Git LFS pointers, not the files themselves",
            hint="Git LFS is not supported: commit the files themselves, or serve them from another place",
        )


def _export(
    site: Site,
    commit: str,
    target: Path,
    mirror: Path,
    url: str | None = None,
    depth: int = 0,
    limits: Limits | None = None,
) -> None:
    """Export a commit into a folder that is empty or missing, then its submodules.

    Args:
        url: the URL of the repository; without one it has no submodules.
        depth: the number of submodules above it.
        limits: what they leave of what the site allows.
    """
    limits = limits or Limits(site)
    listed = source_submodule.entries(site, commit, mirror, partial(limits.refuse_number, commit))
    limits.count_files(commit, listed, mirror)
    target.mkdir(parents=True, exist_ok=True)
    git.set_attributes(site, mirror)
    index = mirror / "export.index"
    index.unlink(missing_ok=True)
    work = {"GIT_WORK_TREE": str(target), "GIT_INDEX_FILE": str(index)}
    argv = ["checkout-index", "--all", "--force"]
    with writing(mirror):
        git.run_git(site, "read-tree", commit, doing="reading the commit", extra=work, mirror=mirror)
        git.run_git(site, *argv, doing="exporting the commit", extra=work, mirror=mirror, timeout=600)
    index.unlink(missing_ok=True)
    if not url or site.config["submodules"] is False:
        return
    for submodule in source_submodule.of_commit(site, listed, mirror, url):
        if depth >= source_submodule.DEPTH:
            raise DeploymentError(f"{commands.redact(url)}: submodules are nested more than five deep")
        limits.count_submodule()
        module = _fetched(site, submodule)
        folder = source_submodule.make_folder(target, submodule.path)
        _export(site, submodule.commit, folder, module, url=submodule.url, depth=depth + 1, limits=limits)


def _fetched(site: Site, submodule: Submodule) -> Path:
    """Return the mirror of a submodule, which has its commit."""
    module = _module(site, submodule.url)
    if not (module / "HEAD").exists():
        source_mirror.initialise(site, module)
    if not source_mirror.has(site, submodule.commit, module):
        try:
            fetch(site, submodule.commit, url=submodule.url, mirror=module, protocols=submodule.protocols)
        except DeploymentError as error:
            error.message = f"the submodule {submodule.path}: {error.message}"
            without = f"set {site.at}:submodules to false if the site does without its submodules"
            error.hint = f"{error.hint}; or {without}" if error.hint else without
            raise
    return module


def _module(site: Site, url: str) -> Path:
    """Return the path of a submodule's mirror, which differs for each URL."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", commands.redact(url))[-80:]
    return site.mirror / "modules" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"


def lfs_pointers(source: Path) -> list[str]:
    """Return the files of a source that are pointers of Git LFS, but those for readers at its top."""
    found = []
    for parent, folders, files in os.walk(source):
        if parent == str(source):
            folders[:] = [name for name in folders if name.lower() not in _FOR_READERS]
        for name in files:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and 100 < status.st_size < 1024:
                with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                    if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                        found.append(git.plain(os.path.relpath(path, source)))
    return sorted(found)


# The history of a site's source: what a commit is, and what differs between two

_REQUIREMENTS = re.compile(r"(^|/)([^/]*requirements[^/]*(/[^/]+)?\.(txt|in)|[^/]*\.lock|pyproject\.toml)$")
_HEADER = re.compile(r"diff --git |index [0-9a-f]+\.\.|--- |\+\+\+ ")
#: The most commits between two that are shown, and the most lines of a diff.
_COMMITS, _LINES = 20, 60


def describe(site: Site, commit: str) -> dict[str, Any]:
    """Return author, subject and date of a commit; of the tree of a folder, the name of the folder."""
    if site.config["folder"]:
        return {"subject": f"the files of {site.config['folder']}"}
    shown = git.run_git(site, "show", "-s", "--format=%ct%n%an%n%s", commit, doing="reading the commit")
    date, author, subject = [*shown.split("\n", 2), "", ""][:3]
    author, subject = (git.plain(text[:1000])[:200] for text in (author, subject.strip()))
    return {"author": author, "subject": subject, "committed": _timestamp(date)}


def _timestamp(date: str) -> str:
    """Return the date of a commit, which is what its author likes; empty where it is no day of a calendar."""
    return clock.timestamp(float(date)) if re.fullmatch(r"\d{1,11}", date, re.ASCII) else ""


def last_change(site: Site, commit: str, paths: Iterable[str]) -> str:
    """Return the day of the newest commit that changed one of these files, ``2021-06-30``; empty if it is not known.

    A folder has no history.
    """
    if site.config["folder"]:
        return ""
    arguments = ["log", "-1", "--no-show-signature", "--date=format:%Y-%m-%d", "--format=%cd", commit, "--", *paths]
    found = git.run_git(site, *arguments, doing="reading when the requirements were changed").strip()
    return found if re.fullmatch(r"\d{4}-\d\d-\d\d", found, re.ASCII) else ""


def is_part(site: Site, commit: str, of: str) -> bool:
    """Return whether a commit is one that another one descends from, as far as the mirror has both."""
    if site.config["folder"] or not source_mirror.has(site, commit) or not source_mirror.has(site, of):
        return False
    try:
        git.run_git(site, "merge-base", "--is-ancestor", commit, of, doing="comparing the commits")
    except DeploymentError:
        return False
    return True


def commit_difference(site: Site, old: str | None, new: str) -> dict[str, Any]:
    """Return the difference between two commits; nothing if the mirror does not have both.

    Returns:
        ``files`` (the number that differ), ``commits`` (new ones, the newest first, at most 20), ``left`` (commits that
        the new one does not have), ``requirements`` (path → diff), ``migrations`` (paths of new ones).
    """
    if not old or not source_mirror.has_tree(site, old) or not source_mirror.has_tree(site, new):
        return {}
    changed = git.run_git(
        site, "diff", "--no-renames", "--name-status", "-z", old, new, doing="comparing the commits"
    ).split("\0")
    pairs = list(zip(changed[::2], changed[1::2], strict=False))
    answer: dict[str, Any] = {"files": len(pairs)}
    if not site.config["folder"]:
        answer |= {"commits": _log(site, old, new), "left": _log(site, new, old)}
    requirements = [path for _status, path in pairs if _REQUIREMENTS.search(path)]
    answer["requirements"] = {git.plain(path): _diff(site, old, new, path) for path in requirements[:10]}
    answer["migrations"] = [
        git.plain(p) for status, p in pairs if status == "A" and re.search(r"(^|/)migrations/(?!__init__)[^/]+\.py$", p)
    ]
    return {key: value for key, value in answer.items() if value}


def _log(site: Site, old: str, new: str) -> list[str]:
    """Return the commits of `new` that `old` does not have, a line each."""
    arguments = ["log", "--format=%h %an: %s", "-n", str(_COMMITS + 1), f"{old}..{new}"]
    lines = git.run_git(site, *arguments, doing="listing the commits").split("\n")
    lines = [git.plain(line[:1000])[:200] for line in lines if line]
    return [*lines[:_COMMITS], "…"] if len(lines) > _COMMITS else lines


def _diff(site: Site, old: str, new: str, path: str) -> str:
    """Return the diff of a file between two commits, without header and credentials."""
    options = ["--no-renames", "--no-ext-diff", "--no-textconv", "--unified=1"]
    arguments = ["-c", "core.bigFileThreshold=512k", "diff", *options, old, new, "--", path]
    lines = git.run_git(site, *arguments, doing="comparing the commits").splitlines()
    lines = [git.plain(line[:1000])[:300] for line in lines if not _HEADER.match(line)]
    more = [f"… {len(lines) - _LINES} lines more"] if len(lines) > _LINES else []
    return commands.redact("\n".join([*lines[:_LINES], *more]))
