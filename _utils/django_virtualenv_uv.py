"""The formula's own uv: how it is installed, and how it runs as the build user (docs/decisions/0009)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import django_host_command
import django_host_file
import django_process_build
import django_virtualenv_index
from django_host_command import DeploymentError
from django_site import Site

UV = Path("/usr/local/lib/django-formula/uv")
VERSION = "0.13.8"
#: What a build reports → the packages of Debian that it needs.
_SYSTEM_PACKAGES = (
    (r"pg_config", ["gcc", "libc6-dev", "libpq-dev", "python3-dev"]),
    (r"mysql_config|mysqlclient\.pc|MYSQLCLIENT_CFLAGS|mariadb_config", ["default-libmysqlclient-dev", "pkg-config"]),
    (r"Python\.h: No such file", ["python3-dev"]),
    (
        r"(command '?\S*gcc'? failed: No such file|unable to execute '?\S*gcc|No such file or directory: '\S*gcc')",
        ["gcc"],
    ),
    (r"(stdlib|stdio|limits|errno)\.h: No such file", ["libc6-dev"]),
    (r"lber\.h|ldap\.h", ["libldap2-dev", "libsasl2-dev"]),
    (r"ffi\.h: No such file", ["libffi-dev"]),
    (r"xmlsec1? (is|was) not found|Unable to invoke pkg-config", ["libxmlsec1-dev", "pkg-config"]),
    (r"git executable not found|Git executable not found", ["git"]),
)
#: What uv reports of an index → the hint.
_HINTS = {
    r"\b(401 Unauthorized|403 Forbidden|407 Proxy)": "the package index refused the login: set {at}:index:user and "
    "{at}:index:password",
    r"invalid peer certificate": "the certificate authority of the index is not trusted: add it to the system's "
    "store, or to the file that SSL_CERT_FILE names in Salt's environment and that {user} can read",
}


def is_installed() -> bool:
    """Return whether the formula's uv is on this host, in its version."""
    return django_host_file.read_text(UV / "version") == VERSION


def install(index: Mapping[str, Any] | None = None, password: str | None = None) -> None:
    """Install uv into a virtualenv of its own, by the host's pip, which uses the indexes configured on the host.

    Args:
        index: the index of the pillar.
        password: its password.

    Raises:
        DeploymentError: pip fails.
    """
    environment = django_virtualenv_index.for_pip(index, password)
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        environment.setdefault("PIP_CERT", str(bundle))
    django_host_file.remove_tree(UV)
    django_host_command.run(["python3", "-m", "venv", str(UV)], doing="creating a virtualenv for uv", timeout=120)
    temporary = UV / "tmp"  # /tmp may be small
    temporary.mkdir()
    environment["TMPDIR"] = str(temporary)
    pip = [str(UV / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", f"uv=={VERSION}"]
    secrets = [password] if password else []
    django_host_command.run(pip, doing="installing uv", timeout=600, environment=environment, secrets=secrets)
    django_host_file.remove_tree(temporary)
    django_host_file.write(UV / "version", VERSION)


def build_environment(site: Site) -> dict[str, str]:
    """Return the environment of the build user: its own home and caches, the host's network settings, no secret."""
    return {**django_host_command.network_environment(), "HOME": str(site.build), "TMPDIR": str(site.build / "tmp")}


class Uv:
    """uv, run as the build user on a virtualenv.

    Args:
        folder: the virtualenv.
        work: the folder with the requirements.
        password: the password of the pillar's index.
    """

    def __init__(self, site: Site, folder: Path, work: str, password: str | None):
        self.site = site
        self.folder = folder
        self.work = work
        self.password = password

    def install(self, *arguments: str, doing: str = "installing packages") -> None:
        """Install packages.

        Args:
            arguments: those of ``uv pip install``.

        Raises:
            DeploymentError: a package cannot be resolved, downloaded or built.
        """
        python = str(self.folder / "bin/python")
        self.run("pip", "install", "--python", python, *arguments, doing=doing, folder=self.work)

    def run(self, *arguments: str, doing: str = "creating the virtualenv", folder: str = "") -> None:
        """Run uv.

        Raises:
            DeploymentError: uv fails; the hint names missing system packages, or the index.
        """
        site, at = self.site, f"django:sites:{self.site.name}"
        try:
            django_process_build.run(
                site,
                [str(UV / "bin/uv"), *arguments],
                doing=doing,
                environment=self._environment(),
                folder=folder or str(site.build),
                writable=[str(self.folder)],
                timeout=django_host_command.seconds(site.config["timeouts"]["build"]),
                secrets=[self.password] if self.password else [],
                hint=f"check the requirements, {at}:python, and {at}:packages (compilers, headers)",
            )
        except DeploymentError as error:
            error.hint = _hint(site, error.log) or error.hint
            raise

    def _environment(self) -> dict[str, str]:
        return {
            **build_environment(self.site),
            **django_virtualenv_index.for_uv(self.site.config["index"], self.password),
            "UV_CACHE_DIR": str(self.site.build / "uv"),
            "UV_LINK_MODE": "copy",
            "UV_COMPILE_BYTECODE": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_SYSTEM_CERTS": "1",
            "UV_NO_PROGRESS": "1",
        }


def _hint(site: Site, log: str) -> str:
    """Return what to do about a failure of uv, or an empty text if its log does not tell."""
    at = f"django:sites:{site.name}"
    packages = sorted({name for pattern, names in _SYSTEM_PACKAGES if re.search(pattern, log) for name in names})
    if packages:
        return f"a package is built from source: set {at}:packages: [{', '.join(packages)}]"
    hints = [hint for pattern, hint in _HINTS.items() if re.search(pattern, log, re.IGNORECASE)]
    return hints[-1].format(at=at, user=site.build_user) if hints else ""
