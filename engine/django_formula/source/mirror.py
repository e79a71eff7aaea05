"""The bare mirror of a site's repository: its configuration, its keys, and the commits that it has."""

import zlib
from collections.abc import Iterator
from pathlib import Path

from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site
from django_formula.source import git
from django_formula.source import writing as source_writing
from django_formula.untrusted.text import Log

log = Log.of(__name__)
#: The most loose objects in a folder of a mirror, and the most packs: those of `gc.auto` and `gc.autoPackLimit`.
_LOOSE, _PACKS = 27, 50
#: How all objects of a mirror are packed, those without a branch too, with what priority, and for how many seconds.
_ALL, _SLOWLY, _PACKING = ("-a", "-d", "-k", "-l", "--quiet"), ("nice", "--adjustment=10"), 1800.0


def prepare(site: Site, deploy_key: str | None) -> None:
    """Create the mirror, with the deploy key and the pinned host keys in it."""
    for path, lines, mode in _files(site, deploy_key):
        if lines and host_file.read_text(path) != lines:
            host_file.write(path, lines, mode=mode)
        elif lines:
            path.chmod(mode)
        else:
            path.unlink(missing_ok=True)
    if not (site.mirror / "HEAD").exists():
        initialise(site, site.mirror)


def unprepared(site: Site, deploy_key: str | None) -> list[str]:
    """Return the names of the files that `prepare` would change."""
    return [path.name for path, lines, _mode in _files(site, deploy_key) if (host_file.read_text(path) or "") != lines]


def _files(site: Site, deploy_key: str | None) -> Iterator[tuple[Path, str, int]]:
    yield from ssh_files(site, deploy_key)
    yield site.mirror / "gitconfig", git.CONFIGURATION, 0o644


def ssh_files(site: Site, deploy_key: str | None) -> Iterator[tuple[Path, str, int]]:
    """Yield the files that ssh reads: path, content, mode."""
    yield site.mirror / "deploy_key", f"{deploy_key.strip()}\n" if deploy_key else "", 0o600
    yield site.mirror / "known_hosts", "".join(f"{line}\n" for line in site.config["known_hosts"]), 0o644


def initialise(site: Site, mirror: Path) -> None:
    """Create an empty bare repository."""
    mirror.mkdir(mode=0o700, parents=True, exist_ok=True)
    git.run_git(
        site, "init", "--quiet", "--bare", "--template=", str(mirror), doing="creating the mirror", mirror=mirror
    )
    (mirror / "info").mkdir(exist_ok=True)


def pack(site: Site) -> None:
    """Pack the objects of the mirrors that have many files; each fetch adds some, and git does not do it by itself.

    Objects that no branch has any more stay too: releases may be of them. What another process fetches or reads
    meanwhile is safe for that reason: git looks for an object again in what is new. A failure changes nothing.
    """
    for mirror in (site.mirror, *(site.mirror / "modules").glob("*/")):
        if not _is_crowded(mirror):
            continue
        argv = ["-c", "pack.threads=1", "-c", "pack.windowMemory=64m", "repack", *_ALL]
        try:
            with source_writing.writing(mirror):
                git.run_git(site, *argv, doing=f"packing {mirror}", mirror=mirror, timeout=_PACKING, through=_SLOWLY)
        except (DeploymentError, OSError) as error:
            log.warning("%s: %s", site.name, error)


def _is_crowded(mirror: Path) -> bool:
    """Return whether a mirror has many files, by one of the 256 folders of objects, as git estimates it."""
    loose, packs = (mirror / "objects" / name for name in ("17", "pack"))
    return len([*loose.glob("*")]) > _LOOSE or len([*packs.glob("*.pack")]) > _PACKS


def has(site: Site, commit: str, mirror: Path | None = None) -> bool:
    """Return whether a mirror has a commit."""
    if not ((mirror or site.mirror) / "HEAD").exists():
        return False
    if _loose_kind(mirror or site.mirror, commit) == "commit":
        return True
    try:
        git.run_git(site, "cat-file", "-e", f"{commit}^{{commit}}", doing="looking for a commit", mirror=mirror)
    except DeploymentError:
        return False
    return True


def _loose_kind(mirror: Path, name: str) -> str:
    """Return the kind of an object in a file of its own, as after a fetch: this needs no process.

    Empty for an object that is packed, damaged or missing.
    """
    try:
        with open(mirror / "objects" / name[:2] / name[2:], "rb") as file:
            header = zlib.decompressobj().decompress(file.read(64), 16)
    except (OSError, zlib.error):
        return ""
    return header.partition(b" ")[0].decode(errors="replace")


def has_tree(site: Site, name: str) -> bool:
    """Return whether the site's mirror has a commit or tree."""
    if _loose_kind(site.mirror, name) in ("commit", "tree"):
        return True
    try:
        git.run_git(site, "cat-file", "-e", name, doing="looking for a commit")
    except DeploymentError:
        return False
    return True
