"""Pages of the project that a proxy shows by itself: what stands in for the site, and what nginx says of an error."""

import os
import stat
from pathlib import Path

import django_host_file
import django_host_folder
import django_host_user
from django_host_command import DeploymentError
from django_host_folder import Folder
from django_site import Site

#: The most bytes that a page may have.
_MOST = 4 << 20


def of_project(release: Path, folder: str, page: str, at: str) -> str:
    """The text of a page that the pillar names: a plain file of root's, reached without a link.

    All the world sees the page, so a link of the project, or one that its processes lay, must not lead to a secret.

    Args:
        folder: that of manage.py in the source of the release.
        page: relative to it.
        at: where the pillar names it.

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
        if not stat.S_ISREG(status.st_mode) or status.st_uid != django_host_user.user_id("root") or status.st_nlink > 1:
            raise DeploymentError(f"{at}: {page} is not a plain file of the release", hint="name one that is")
        if status.st_size > _MOST:
            raise DeploymentError(
                f"{at}: {page} has more than {_MOST >> 20} MiB", hint="name a page without its pictures"
            )
        with open(descriptor, encoding="utf-8", errors="replace", closefd=False) as file:
            return file.read()
    except OSError:
        raise DeploymentError(
            f"{at}: there is no file {page} in the project", hint="commit it, or take the option out"
        ) from None
    finally:
        os.close(descriptor)


def of_errors(site: Site, release: Path, folder: str) -> dict[Path, str]:
    """The pages of a release for errors of nginx, where nginx has them from.

    Raises:
        DeploymentError: the project has not one that the pillar names.
    """
    pages, at = site.config["proxy"].get("error_pages") or {}, f"django:sites:{site.name}:proxy:error_pages"
    return {
        site.errors / f"{status}.html": of_project(release, folder, page, f"{at}:{status}")
        for status, page in pages.items()
    }


def differences(site: Site, wanted: dict[Path, str]) -> dict[str, str]:
    """Which of the pages for errors are not as wanted."""
    found = {str(path): "removed" for path in site.errors.glob("*") if path not in wanted}
    for path, text in wanted.items():
        present = django_host_file.read_text(path)
        if present != text:
            found[str(path)] = "new" if present is None else "changed"
    return found


def bring(site: Site, wanted: dict[Path, str]) -> None:
    """Bring pages for errors in place."""
    if wanted:
        django_host_folder.make(Folder(site.errors, "root", "root", 0o755))
    for path, text in wanted.items():
        if django_host_file.read_text(path) != text:
            django_host_file.write(path, text)


def clear(site: Site, wanted: dict[Path, str]) -> None:
    """Remove the pages for errors that are not wanted any more."""
    for path in site.errors.glob("*"):
        if path not in wanted:
            path.unlink()
    if site.errors.is_dir() and not wanted:
        site.errors.rmdir()
