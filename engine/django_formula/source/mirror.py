"""The bare mirror of a site's repository: its configuration, its keys, and the commits that it has."""

import zlib
from collections.abc import Iterator
from pathlib import Path

from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site
from django_formula.source import git


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
