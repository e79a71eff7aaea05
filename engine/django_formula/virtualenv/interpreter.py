"""The Python interpreter of a site's virtualenvs: its path, its version, and the versions that a site supports."""

import functools
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from django_formula.container import base
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.knowledge import hints, python_versions
from django_formula.server import servers
from django_formula.site.sites import Site
from django_formula.virtualenv import managed_python

#: Versions of Django, and the versions of Python that they run on: another one has removed a module that they import,
#: or is refused by them.
_DJANGO = (
    ("2.1", ">=3.4,<3.10"),
    ("2.2", ">=3.5,<3.11"),
    ("4.0", ">=3.6,<3.12"),
    ("4.2", ">=3.8,<3.13"),
    ("5.0", ">=3.8,<3.14"),
    ("5.2", ">=3.10,<3.14"),
    ("6.0", ">=3.10"),
    ("7.0", ">=3.12"),
)
#: The versions of Django with which the tests deploy sites, the newest last.
TESTED = ("4.2", "5.2", "6.0", "6.1")
#: The versions of Django with long-term support, and its last day: one replaces a pinned version that an interpreter
#: does not run.
_SUPPORTED_LONG = {"2.2": "2022-04-11", "3.2": "2024-04-01", "4.2": "2026-04-07", "5.2": "2028-04-30"}


class Interpreter(NamedTuple):
    """An interpreter of this host, or of the base image of a site with containers.

    Attributes:
        path: its real path.
        identity: cache tag, platform, C library and version, separated by blanks.
    """

    path: str
    identity: str

    @property
    def tag(self) -> str:
        """Return the implementation and its minor version: ``cpython-311``."""
        return self.identity.split()[0]

    @property
    def version(self) -> str:
        """Return the version: ``3.11.2``."""
        return self.identity.split()[-1]


def interpreter(site: Site) -> Interpreter:
    """Return the interpreter of a site, which is run once to report its version.

    Raises:
        DeploymentError: it is not installed on this host.
    """
    if site.config.get("container"):
        return Interpreter(*base.python(site))
    found = path(site)
    return Interpreter(found, _identity(found, Path(found).stat().st_mtime))


def path(site: Site) -> str:
    """Return the real path of a site's interpreter.

    Raises:
        DeploymentError: it is not installed on this host.
    """
    if site.config.get("container"):
        return interpreter(site).path
    found = shutil.which(site.python, path=commands.PATH)
    if not found and site.python_version:
        found = managed_python.executable(site.python_version)
    if not found:
        raise DeploymentError(
            f"the interpreter {site.python} is not installed on this host", hint=_hint_of_missing(site)
        )
    return str(Path(found).resolve())


def _hint_of_missing(site: Site) -> str:
    at = f"{site.at}:python"
    if site.python_version:
        return f"state.apply django installs it, or set {at} to another one"
    version = re.fullmatch(r"python(3\.\d+)", site.python)
    if version and version[1] in python_versions.SERIES:
        return f"set {at} to '{version[1]}' in quotes, which installs it, or to another one"
    return f"add it to {site.at}:packages, or set {at} to another one"


@functools.lru_cache(maxsize=16)
def _identity(path: str, _modified: float) -> str:
    program = (
        "import platform, sys, sysconfig; "
        "print(sys.implementation.cache_tag, sysconfig.get_platform(), *platform.libc_ver(), platform.python_version())"
    )
    return commands.run([path, "-I", "-S", "-c", program], doing=f"reading the version of {path}").strip()


def require(site: Site, versions: str) -> None:
    """Refuse an interpreter whose version the project does not support.

    Any release of its series may be among them: a distribution has one of each, with the corrections of later ones.

    Args:
        versions: the versions that the project or its lock file supports, such as ``>=3.12``.

    Raises:
        DeploymentError: the interpreter's version is not among them.
    """
    version = interpreter(site).version
    if not python_versions.is_of_series_among(version, versions):
        raise DeploymentError(
            f"the project requires Python {versions}, and {site.python} is {version}", hint=_another(site, versions)
        )


def _another(site: Site, *versions: str) -> hints.Hint:
    """Return how to choose an interpreter that these versions allow."""
    at, version = f"{site.at}:python", python_versions.suggested(*versions)
    if version and not site.config.get("container"):
        text = f"set {at} to '{version}' in quotes, which is installed where the host does not have it"
        return hints.Hint(text, {"python": version})
    return hints.Hint(f"set {at} to another interpreter")


def of_django(version: str, *, pinned: Collection[str] = ()) -> str:
    """Return the versions of Python that a version of Django runs on, such as ``>=3.6,<3.12``; empty if not known.

    Args:
        pinned: the packages that are pinned with it. Of psycopg2 Django 3.1 is the first one for version 2.9, and
            Python 3.9 the last one that an older one has wheels for.
    """
    numbers = python_versions.numbers_of(version)
    found = next((python for before, python in _DJANGO if numbers and numbers < python_versions.numbers_of(before)), "")
    is_limited = numbers < [3, 1] and not {"psycopg2", "psycopg2-binary"}.isdisjoint(pinned)
    return re.sub(r"<3\.\d\d", "<3.10", found) if is_limited else found


def warning_of_django(version: str) -> str:
    """Return a warning of a Django that is newer than what the tests deploy; empty for another one.

    Args:
        version: the version of Django; empty if it is not known.
    """
    if not python_versions.numbers_of(version) or python_versions.numbers_of(version) <= python_versions.numbers_of(
        TESTED[-1]
    ):
        return ""
    text = f"Django {version} is newer than what this version of the formula is tested with ({TESTED[-1]})"
    return f"{text}: look for a newer one, and try releases and rollbacks on another host first"


def newer_django(version: str, python: str, *, pinned: Collection[str] = ()) -> str:
    """Return the nearest version of Django with long-term support after one that a Python does not run; empty if none.

    Args:
        version: the version of Django; empty if it is not known.
        python: the version of Python; empty if it is not known.
        pinned: the packages that are pinned with it.
    """
    versions = of_django(version, pinned=pinned)
    if not versions or not python or python_versions.is_among(python, versions):
        return ""
    newer = (one for one in _SUPPORTED_LONG if python_versions.numbers_of(one) > python_versions.numbers_of(version))
    runs = (one for one in newer if python_versions.is_among(python, of_django(one, pinned=pinned)))
    return next(runs, "")


def last_day_of_django(requirement: str) -> str:
    """Return the last day of support of the Django that a requirement is for, as `newer_django` proposes it, or "".

    Example: ``last_day_of_django("django~=2.2.0") == "2022-04-11"``
    """
    found = re.fullmatch(r"django~=(\d+\.\d+)\.0", requirement)
    return _SUPPORTED_LONG.get(found[1], "") if found else ""


def require_for_django(site: Site, version: str) -> None:
    """Refuse an interpreter that the project's version of Django does not run on, before anything is installed.

    Args:
        version: the version that the project's requirements pin; empty if they do not.

    Raises:
        DeploymentError: Django does not run on the interpreter.
    """
    versions = of_django(version)
    found = interpreter(site).version if versions else ""
    if versions and not python_versions.is_among(found, versions):
        newer = newer_django(version, found)
        another = _another(site, versions)
        cure = hints.extended(site, "python_packages", [f"django~={newer}.0"]) if newer else ""
        error = DeploymentError(
            f"Django {version} does not run on {site.python}, which is Python {found}: it needs {versions}",
            hint=hints.Hint(f"{another}, or {cure}", another if another.options else cure) if cure else another,
        )
        error.offered = {**getattr(cure, "options", {})}
        raise error


def require_for_server(site: Site) -> None:
    """Refuse an interpreter that the application server of a site was not built for.

    Raises:
        DeploymentError: the server was built for another version of Python.
    """
    version = servers.configured(site).python(site)
    if not version:
        return
    found = interpreter(site)
    if found.tag != f"cpython-{version.replace('.', '')}":
        raise DeploymentError(
            f"{site.config['server']['kind']} of this system is built for Python {version}, and "
            f"{site.python} is {found.version} ({found.tag})",
            hint=f"set {site.at}:python to python{version}, or choose another server:kind",
        )
