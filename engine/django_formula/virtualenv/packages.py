"""Packages that write into their own folder: each release has its own copy, and the virtualenv stays unmodified.

See docs/decisions/0057.
"""

import difflib
import os
import shutil
from collections.abc import Collection
from pathlib import Path

from django_formula.host import folders
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site
from django_formula.untrusted import delegate
from django_formula.untrusted.foreign import GROUP, Foreign

_TIMEOUT = 600


def names(site: Site) -> list[str]:
    """Return the packages that a release has a copy of."""
    found: list[str] = site.config.get("writable_packages", [])
    return found


def folder(release: Path) -> Path:
    """Return the folder of a release's copies, from which Python imports before the virtualenv."""
    return release / "packages"


def copy(site: Site, release: Path) -> None:
    """Copy the packages of ``writable_packages`` from the virtualenv of a release into the release, as the site's user.

    Raises:
        DeploymentError: the virtualenv has no such package.
    """
    if not names(site):
        return
    target = folder(release)
    folders.make(folders.Folder(target, site.user, site.user, 0o750))
    at = f"{site.at}:writable_packages"
    doing, virtualenv = "copying packages of the virtualenv", release / "virtualenv"
    delegate.ask(site.user, _copy, virtualenv, target, names(site), at, doing=doing, timeout=_TIMEOUT)


def _copy(virtualenv: Path, target: Path, wanted: Collection[str], at: str) -> None:
    present = {path.name: path for path in virtualenv.glob("lib/python3*/site-packages/*/") if path.name.isidentifier()}
    for name in wanted:
        if name not in present:
            close = difflib.get_close_matches(name, present, 3, 0.4)
            meant = f"; there are {', '.join(close)}" if close else ""
            raise DeploymentError(f"the virtualenv has no folder of a package {name}{meant}", hint=f"correct {at}")
        place = target / name
        if place.exists():
            shutil.rmtree(place)
        shutil.copytree(present[name], place, symlinks=True)
        Foreign(place).give((os.geteuid(), os.getegid()), GROUP, of=os.geteuid())
