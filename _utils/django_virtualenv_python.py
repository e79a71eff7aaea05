"""The Python interpreter of a site's virtualenvs: its path, its version, and the versions that a site supports."""

import functools
import shutil
from pathlib import Path
from typing import NamedTuple

import django_host_command
import django_server
from django_host_command import DeploymentError
from django_site import Site


class Interpreter(NamedTuple):
    """An interpreter of this host.

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
    found = path(site)
    return Interpreter(found, _identity(found, Path(found).stat().st_mtime))


def path(site: Site) -> str:
    """Return the real path of a site's interpreter.

    Raises:
        DeploymentError: it is not installed on this host.
    """
    python = site.config["python"]
    found = shutil.which(python, path=django_host_command.PATH)
    if not found:
        at = f"django:sites:{site.name}"
        raise DeploymentError(
            f"the interpreter {python} is not installed on this host",
            hint=f"add it to {at}:packages, or set {at}:python to another one",
        )
    return str(Path(found).resolve())


@functools.lru_cache(maxsize=16)
def _identity(path: str, _modified: float) -> str:
    program = (
        "import platform, sys, sysconfig; "
        "print(sys.implementation.cache_tag, sysconfig.get_platform(), *platform.libc_ver(), platform.python_version())"
    )
    return django_host_command.run([path, "-I", "-S", "-c", program], doing=f"reading the version of {path}").strip()


def require(site: Site, versions: str) -> None:
    """Refuse an interpreter whose version the project does not support.

    Args:
        versions: the versions that the project or its lock file supports, such as ``>=3.12``.

    Raises:
        DeploymentError: the interpreter's version is not among them.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    version = interpreter(site).version
    try:
        is_supported = SpecifierSet(versions).contains(version, prereleases=True)
    except InvalidSpecifier:  # poetry's own notation, such as ^3.11
        return
    if not is_supported:
        raise DeploymentError(
            f"the project requires Python {versions}, and {site.config['python']} is {version}",
            hint=f"set django:sites:{site.name}:python to another interpreter",
        )


def require_for_server(site: Site) -> None:
    """Refuse an interpreter that the application server of a site was not built for.

    Raises:
        DeploymentError: the server was built for another version of Python.
    """
    version = django_server.of_site(site).python(site)
    if not version:
        return
    found = interpreter(site)
    if found.tag != f"cpython-{version.replace('.', '')}":
        raise DeploymentError(
            f"{site.config['server']['kind']} of this system is built for Python {version}, and "
            f"{site.config['python']} is {found.version} ({found.tag})",
            hint=f"set django:sites:{site.name}:python to python{version}, or choose another server:kind",
        )
