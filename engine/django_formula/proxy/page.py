"""Pages of the project that a proxy serves itself: during maintenance, and for its own errors."""

import os
import stat
from pathlib import Path

from django_formula.host import file as host_file
from django_formula.host import folders, users
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.site.sites import Site

#: The greatest size of a page, in bytes.
_MOST = 4 << 20


def of_project(release: Path, folder: str, page: str, at: str) -> str:
    """Return the text of a page that the pillar names: a regular file of root's, reached without a link.

    The page is public, so a link of the project, or of its processes, must not point to a secret.

    Args:
        release: its folder.
        folder: that of manage.py in the source of the release.
        page: its path relative to that.
        at: the key of the pillar that names it.

    Raises:
        DeploymentError: there is no such file.
    """
    *parents, name = Path(folder, page).parts
    descriptor = os.open(release / "source", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part, kind in [*((parent, os.O_DIRECTORY) for parent in parents), (name, os.O_NONBLOCK)]:
            inner = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | kind, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != users.user_id("root") or status.st_nlink > 1:
            raise DeploymentError(f"{at}: {page} is not a regular file of the release", hint="commit a regular file")
        if status.st_size > _MOST:
            raise DeploymentError(
                f"{at}: {page} has more than {_MOST >> 20} MiB", hint="use a smaller page, without embedded images"
            )
        with open(descriptor, encoding="utf-8", errors="replace", closefd=False) as file:
            return file.read()
    except OSError:
        raise DeploymentError(
            f"{at}: there is no file {page} in the project", hint="commit it, or remove the option"
        ) from None
    finally:
        os.close(descriptor)


def of_errors(site: Site, release: Path, folder: str) -> dict[Path, str]:
    """Return the pages of a release for errors of the proxy: path that the proxy reads → text.

    Raises:
        DeploymentError: a page that the pillar names is missing in the project.
    """
    pages, at = site.config["proxy"].get("error_pages") or {}, f"{site.at}:proxy:error_pages"
    return {
        site.errors / f"{status}.html": of_project(release, folder, page, f"{at}:{status}")
        for status, page in pages.items()
    }


def differences(site: Site, pages: dict[Path, str]) -> dict[str, str]:
    """Return which pages for errors differ: path → in what way."""
    found = {str(path): "removed" for path in site.errors.glob("*") if path not in pages}
    for path, text in pages.items():
        present = host_file.read_text(path)
        if present != text:
            found[str(path)] = "new" if present is None else "changed"
    return found


def install(site: Site, pages: dict[Path, str]) -> None:
    """Install pages for errors."""
    if pages:
        folders.make(Folder(site.errors, "root", "root", 0o755))
    for path, text in pages.items():
        if host_file.read_text(path) != text:
            host_file.write(path, text)


def remove_stale(site: Site, pages: dict[Path, str]) -> None:
    """Remove the pages for errors that are not among these."""
    for path in site.errors.glob("*"):
        if path not in pages:
            path.unlink()
    if site.errors.is_dir() and not pages:
        site.errors.rmdir()
