"""The interpreter of a release: whether it is still there, and is that of the site (docs/decisions/0086)."""

import os
import re

from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.release.releases import Release
from django_formula.site.sites import Site
from django_formula.virtualenv import interpreter


def problem(release: Release) -> str:
    """Return what is wrong with the interpreter of a release; empty where nothing is."""
    if not release.has_python:
        home = _configuration(release).get("home", "the interpreter")
        return f"its interpreter ({home}) is gone: {release.name} does not start again, and its commands fail"
    changes = difference(release.site, release)
    return f"{release.site.python} is {changes['new']}, and {release.name} has {changes['old']}" if changes else ""


def difference(site: Site, release: Release | None) -> dict[str, str]:
    """Return the versions ``old`` and ``new`` where the site's interpreter is of another series than that of a release.

    One that is not installed is no other one.
    """
    if not release or "container" in release.record or site.config.get("container"):
        return {}
    try:
        path = interpreter.path(site)
        if os.path.realpath(release.path / "virtualenv/bin/python") == path:
            return {}
        old = _configuration(release).get("version_info", "")
        new = interpreter.interpreter(site).version
    except DeploymentError:
        return {}
    return {"old": old, "new": new} if old and _series(old) != _series(new) else {}


def _series(version: str) -> list[str]:
    return re.findall(r"\d+", version)[:2]


def _configuration(release: Release) -> dict[str, str]:
    """Return what the virtualenv of a release says about itself; nothing where its build has put a link there."""
    content = file.read_untrusted(release.path / "virtualenv/pyvenv.cfg", follow=False)
    pairs = (line.partition("=") for line in content.decode(errors="replace").splitlines())
    return {name.strip(): value.strip() for name, _is, value in pairs}
