"""The source of a release: a commit of a bare mirror, or the files of a local folder, exported without ``.git``."""

import hashlib
import os
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django_host_clock
import django_host_command
import django_host_file
import django_source_git
import django_source_submodule
from django_host_command import DeploymentError
from django_site import Site

COMMIT = django_source_git.COMMIT
_CORRUPT = re.compile(
    r"corrupt|bad object|unable to read|inflate|packfile .* (cannot|does not)|is empty|not a git repository",
    re.IGNORECASE,
)
_REQUIREMENTS = re.compile(r"(^|/)([^/]*requirements[^/]*(/[^/]+)?\.(txt|in)|[^/]*\.lock|pyproject\.toml)$")
_HEADER = re.compile(r"diff --git |index [0-9a-f]+\.\.|--- |\+\+\+ ")
#: How much is shown of what lies between two commits, and of a file that differs.
_COMMITS, _LINES = 20, 60
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def prepare(site: Site, deploy_key: str | None) -> None:
    """Make the mirror, and lay the deploy key and the pinned host keys into it."""
    for path, lines, mode in _files(site, deploy_key):
        if lines and django_host_file.read_text(path) != lines:
            django_host_file.write(path, lines, mode=mode)
        elif lines:
            path.chmod(mode)
        else:
            path.unlink(missing_ok=True)
    if not (site.mirror / "HEAD").exists():
        _initialise(site, site.mirror)


def unprepared(site: Site, deploy_key: str | None) -> list[str]:
    """The names of the files that `prepare` would write differently."""
    return [
        path.name
        for path, lines, _mode in _files(site, deploy_key)
        if (django_host_file.read_text(path) or "") != lines
    ]


def _files(site: Site, deploy_key: str | None) -> Iterator[tuple[Path, str, int]]:
    yield from _ssh_files(site, deploy_key)
    yield site.mirror / "gitconfig", django_source_git.CONFIGURATION, 0o644


def _ssh_files(site: Site, deploy_key: str | None) -> Iterator[tuple[Path, str, int]]:
    yield site.mirror / "deploy_key", f"{deploy_key.strip()}\n" if deploy_key else "", 0o600
    yield site.mirror / "known_hosts", "".join(f"{line}\n" for line in site.config["known_hosts"]), 0o644


def _initialise(site: Site, mirror: Path) -> None:
    mirror.mkdir(mode=0o700, parents=True, exist_ok=True)
    django_source_git.run(
        site, "init", "--quiet", "--bare", "--template=", str(mirror), doing="making the mirror", mirror=mirror
    )
    (mirror / "info").mkdir(exist_ok=True)


def has(site: Site, commit: str, mirror: Path | None = None) -> bool:
    """Whether the mirror has a commit."""
    if not ((mirror or site.mirror) / "HEAD").exists():
        return False
    if _loose_kind(mirror or site.mirror, commit) == "commit":
        return True
    try:
        django_source_git.run(
            site, "cat-file", "-e", f"{commit}^{{commit}}", doing="looking for a commit", mirror=mirror
        )
    except DeploymentError:
        return False
    return True


def _loose_kind(mirror: Path, name: str) -> str:
    """What an object is that has a file of its own, as those of a fetch have: no process is needed to know that.

    Empty for one that is packed, damaged or not there.
    """
    try:
        with open(mirror / "objects" / name[:2] / name[2:], "rb") as file:
            header = zlib.decompressobj().decompress(file.read(64), 16)
    except (OSError, zlib.error):
        return ""
    return header.partition(b" ")[0].decode(errors="replace")


def needs_network(site: Site) -> bool:
    """Whether the revision has to be asked from the remote: a branch or a tag, in contrast to a commit or a folder."""
    return not site.config["folder"] and not COMMIT.fullmatch(site.config["revision"])


def resolve(site: Site, revision: str) -> str:
    """The commit of a revision: a full commit as it is, a branch or tag as the remote has it now.

    Raises:
        DeploymentError: the remote does not answer, does not know the revision, or knows a branch and a tag of that
            name.
    """
    if COMMIT.fullmatch(revision):
        return revision
    url = site.config["repository"]
    doing = f"asking {django_host_command.redact(url)} for {revision}"
    listed = django_source_git.ask(site, "ls-remote", url=url, doing=doing, mirror="/nonexistent")
    refs = {name: commit for commit, name in (line.split("\t", 1) for line in listed.splitlines() if "\t" in line)}
    found = {
        name: refs.get(f"{name}^{{}}", refs[name])
        for name in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        if name in refs and (name == "HEAD" or name.startswith("refs/"))
    }
    if len(set(found.values())) > 1:
        branch, tag = (found[f"refs/{kind}/{revision}"][:12] for kind in ("heads", "tags"))
        raise DeploymentError(
            f"{doing}: it is a branch ({branch}) and a tag ({tag})",
            hint=f"say which: django:sites:{site.name}:revision: refs/heads/{revision}",
        )
    if found:
        return next(iter(found.values()))
    if re.fullmatch(r"[0-9a-f]{7,39}", revision):
        fetch(site, None)
        try:
            full = django_source_git.run(
                site, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", doing="looking up the short commit"
            ).strip()
        except DeploymentError:
            full = ""
        if full:
            return full
    names = [
        name.split("/", 2)[2]
        for name in refs
        if name.startswith(("refs/heads/", "refs/tags/")) and not name.endswith("^{}")
    ]
    some = f"{', '.join(map(django_source_git.plain, names[:8])) or 'no branches'}{' …' if len(names) > 8 else ''}"
    raise DeploymentError(
        f"{doing}: there is no such branch, tag or commit",
        hint=f"it has {some}; correct django:sites:{site.name}:revision",
    )


def fetch(
    site: Site,
    commit: str | None,
    *,
    url: str | None = None,
    mirror: Path | None = None,
    protocols: tuple[str, ...] = django_source_git.PROTOCOLS,
) -> None:
    """Bring all branches and tags of the remote into the mirror, and the commit if none of them has it.

    Args:
        url: that of a submodule, with a `mirror` of its own and the `protocols` that it may be fetched by.

    Raises:
        DeploymentError: the remote cannot be reached, or it does not have the commit.
    """
    url = url or site.config["repository"]
    doing = f"fetching {django_host_command.redact(url)}"

    def bring(*references: str) -> None:
        options = ("--prune", "--no-write-fetch-head", "--force")
        django_source_git.ask(
            site,
            "fetch",
            *options,
            url=url,
            references=references,
            doing=doing,
            protocols=protocols,
            mirror=mirror,
        )

    bring("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
    if commit and not has(site, commit, mirror):
        try:
            bring(f"+{commit}:refs/formula/{commit}")
        except DeploymentError as error:
            if error.transient and not re.search(
                "not our ref|no such remote ref|couldn't find remote ref|unadvertised", error.log
            ):
                raise
            raise DeploymentError(
                f"{doing}: it has no commit {commit}", hint=f"was it pushed? correct django:sites:{site.name}:revision"
            ) from None


def fetch_only(site: Site, commit: str) -> None:
    """Bring one commit into the mirror, without its history.

    Raises:
        DeploymentError: the remote cannot be reached, or does not give that commit.
    """
    url = site.config["repository"]
    doing = f"fetching {django_host_command.redact(url)}"
    options = ("--depth=1", "--no-tags", "--no-write-fetch-head")
    django_source_git.ask(site, "fetch", *options, url=url, references=(commit,), doing=doing)


def export(site: Site, commit: str, target: Path) -> None:
    """Write the files of a commit, submodules included, into a new folder.

    A mirror that turns out to be damaged is fetched anew, once.

    Raises:
        DeploymentError: something cannot be fetched, or a file is a pointer of Git LFS.
    """
    if site.config["folder"]:
        _export(site, commit, target, site.mirror)
    else:
        try:
            if not has(site, commit):
                fetch(site, commit)
            _export(site, commit, target, site.mirror, url=site.config["repository"])
        except DeploymentError as error:
            if not _CORRUPT.search(error.log):
                raise
            for name in ("objects", "refs", "packed-refs", "HEAD", "modules", "config", "folder.tree"):
                django_host_file.remove_tree(site.mirror / name)
            _initialise(site, site.mirror)
            fetch(site, commit)
            django_host_file.remove_tree(target)
            _export(site, commit, target, site.mirror, url=site.config["repository"])
    pointers = lfs_pointers(target)
    if pointers:
        more = f" and {len(pointers) - 3} more" if len(pointers) > 3 else ""
        raise DeploymentError(
            f"{', '.join(pointers[:3])}{more} are Git LFS pointers, not the files themselves",
            hint="Git LFS is not fetched: commit these files themselves, or serve them from elsewhere",
        )


def _export(
    site: Site,
    commit: str,
    target: Path,
    mirror: Path,
    url: str | None = None,
    depth: int = 0,
    left: Iterator[int] | None = None,
) -> None:
    """Export a commit into a folder that is empty or missing, then its submodules.

    Args:
        url: where the repository comes from; without one it has no submodules.
        left: has an item for each submodule that may still come.
    """
    listed = django_source_submodule.entries(site, commit, mirror)
    target.mkdir(parents=True, exist_ok=True)
    django_source_git.set_attributes(site, mirror)
    index = mirror / "export.index"
    index.unlink(missing_ok=True)
    work = {"GIT_WORK_TREE": str(target), "GIT_INDEX_FILE": str(index)}
    django_source_git.run(site, "read-tree", commit, doing="reading the commit", extra=work, mirror=mirror)
    argv = ["checkout-index", "--all", "--force"]
    django_source_git.run(site, *argv, doing="exporting the commit", extra=work, mirror=mirror, timeout=600)
    index.unlink(missing_ok=True)
    if not url or site.config["submodules"] is False:
        return
    left = iter(range(django_source_submodule.NUMBER)) if left is None else left
    for submodule in django_source_submodule.of_commit(site, listed, mirror, url):
        if depth >= django_source_submodule.DEPTH:
            raise DeploymentError(f"{django_host_command.redact(url)}: submodules are nested more than five deep")
        if next(left, None) is None:
            raise DeploymentError(f"there are more than {django_source_submodule.NUMBER} submodules")
        module = _module(site, submodule.url)
        if not (module / "HEAD").exists():
            _initialise(site, module)
        if not has(site, submodule.commit, module):
            fetch(site, submodule.commit, url=submodule.url, mirror=module, protocols=submodule.protocols)
        place = django_source_submodule.make_place(target, submodule.path)
        _export(site, submodule.commit, place, module, url=submodule.url, depth=depth + 1, left=left)


def _module(site: Site, url: str) -> Path:
    """The mirror of a submodule; no two URLs have the same."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", django_host_command.redact(url))[-80:]
    return site.mirror / "modules" / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"


def lfs_pointers(source: Path) -> list[str]:
    """The files of a source that are pointers of Git LFS."""
    found = []
    for parent, _folders, files in os.walk(source):
        for name in files:
            path = os.path.join(parent, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and 100 < status.st_size < 1024:
                with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                    if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                        found.append(django_source_git.plain(os.path.relpath(path, source)))
    return sorted(found)


def describe(site: Site, commit: str) -> dict[str, Any]:
    """Author, subject and date of a commit; of the state of a folder, which folder it is."""
    if site.config["folder"]:
        return {"subject": f"the files of {site.config['folder']}"}
    shown = django_source_git.run(
        site, "show", "-s", "--format=%ct%n%an%n%s", commit, doing="reading the commit"
    ).strip()
    date, author, subject = [*shown.split("\n", 2), "", ""][:3]
    author, subject = (django_source_git.plain(text[:1000])[:200] for text in (author, subject))
    return {"author": author, "subject": subject, "committed": django_host_clock.written(float(date))}


def difference(site: Site, old: str | None, new: str) -> dict[str, Any]:
    """What lies between two commits: authors and subjects, requirements as a diff, new migrations.

    Returns:
        ``files`` (how many differ), ``commits`` (new ones, the newest first, at most 20), ``left`` (those that are not
        in the new commit), ``requirements`` (path → diff), ``migrations`` (paths).
    """
    if not old or not has_tree(site, old) or not has_tree(site, new):
        return {}
    changed = django_source_git.run(
        site, "diff", "--no-renames", "--name-status", "-z", old, new, doing="comparing the commits"
    ).split("\0")
    pairs = list(zip(changed[::2], changed[1::2], strict=False))
    answer: dict[str, Any] = {"files": len(pairs)}
    if not site.config["folder"]:
        answer |= {"commits": _log(site, old, new), "left": _log(site, new, old)}
    requirements = [path for _status, path in pairs if _REQUIREMENTS.search(path)]
    answer["requirements"] = {django_source_git.plain(path): _diff(site, old, new, path) for path in requirements[:10]}
    answer["migrations"] = [
        django_source_git.plain(p)
        for status, p in pairs
        if status == "A" and re.search(r"(^|/)migrations/(?!__init__)[^/]+\.py$", p)
    ]
    return {key: value for key, value in answer.items() if value}


def _log(site: Site, old: str, new: str) -> list[str]:
    """The commits of one that another does not have, a line each."""
    arguments = ["log", "--format=%h %an: %s", "-n", str(_COMMITS + 1), f"{old}..{new}"]
    lines = django_source_git.run(site, *arguments, doing="listing the commits").split("\n")
    lines = [django_source_git.plain(line[:1000])[:200] for line in lines if line]
    return [*lines[:_COMMITS], "…"] if len(lines) > _COMMITS else lines


def _diff(site: Site, old: str, new: str, path: str) -> str:
    """What differs in a file between two commits, without its header and without credentials."""
    arguments = [
        "-c",
        "core.bigFileThreshold=512k",
        "diff",
        "--no-renames",
        "--no-ext-diff",
        "--no-textconv",
        "--unified=1",
        old,
        new,
        "--",
        path,
    ]
    lines = django_source_git.run(site, *arguments, doing="comparing the commits").splitlines()
    lines = [django_source_git.plain(line[:1000])[:300] for line in lines if not _HEADER.match(line)]
    more = [f"… {len(lines) - _LINES} lines more"] if len(lines) > _LINES else []
    return django_host_command.redact("\n".join([*lines[:_LINES], *more]))


def has_tree(site: Site, name: str) -> bool:
    """Whether the mirror has that commit or tree."""
    if _loose_kind(site.mirror, name) in ("commit", "tree"):
        return True
    try:
        django_source_git.run(site, "cat-file", "-e", name, doing="looking for a commit")
    except DeploymentError:
        return False
    return True
