"""Which packages of a virtualenv have wheels for another Python, as uv finds them: nothing is installed."""

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.knowledge import package
from django_formula.site.sites import Site
from django_formula.untrusted import delegate
from django_formula.virtualenv import virtualenvs
from django_formula.virtualenv.uv import Uv
from django_formula.virtualenv.versions_of_index import Queries

#: The tag of a wheel that is for one Python, in the file of the package that was installed from it.
_COMPILED = re.compile(r"(?m)^Tag: [\w.]+-(?!none-any$)")


class Lacking(NamedTuple):
    """A package that is not installed for another Python as it is.

    Attributes:
        why: for people.
        newer: the nearest newer version that has a wheel; empty if there is none.
    """

    name: str
    version: str
    why: str
    newer: str


def without(
    site: Site, virtualenv: Path, series: str, options: Sequence[str], password: str | None = None
) -> list[Lacking]:
    """Return the packages of a virtualenv that are for other Pythons, and the compiled ones without a wheel.

    Args:
        series: of the other Python, such as ``3.13``.
        options: lines of the project's requirements that name an index.
        password: that of the pillar's index.

    Raises:
        DeploymentError: uv cannot be asked.
    """
    work = site.build / "wheels"
    versions = virtualenvs.packages(virtualenv)
    delegate.ask(site.build_user, _make, str(work), doing="making a folder for uv")
    try:
        queries = Queries(Uv(site, virtualenv, str(work), password), options)
        found, refused = queries.wheels_for(series, versions)
        compiled = {name for name in versions if name not in found and _is_compiled(virtualenv, name)}
        newer = queries.newer_for(series, {name: versions[name] for name in sorted(compiled | refused)})
    finally:
        with contextlib.suppress(DeploymentError):
            work.remove()
    why = dict.fromkeys(compiled, f"it has no wheel for Python {series}, and is compiled")
    why |= dict.fromkeys(refused, f"it is not for Python {series}")
    return [Lacking(name, versions[name], why[name], newer.get(name, "")) for name in sorted(why)]


def _make(path: str) -> None:
    os.makedirs(path, exist_ok=True)


def _is_compiled(virtualenv: Path, name: str) -> bool:
    """Return whether a package of a virtualenv was installed for its Python alone."""
    infos = virtualenv.glob("lib/python*/site-packages/*.dist-info")
    own = (path for path in infos if package.normalised(path.stem.partition("-")[0]) == name)
    texts = (file.read_untrusted(path / "WHEEL", follow=False).decode(errors="replace") for path in own)
    return any(_COMPILED.search(text) for text in texts)
