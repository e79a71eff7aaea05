"""The formula's own uv: how it is installed, and how it runs as the build user (docs/decisions/0009)."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.container import base
from django_formula.host import commands, file, folders
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.host.outcome import Outcome
from django_formula.process import build_user
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.foreign import Foreign
from django_formula.untrusted.text import Log
from django_formula.virtualenv import index as virtualenv_index

log = Log.of(__name__)
UV = Path("/usr/local/lib/django-formula/uv")
VERSION = "0.13.8"
#: What uv says of a package in its cache of which a part is missing.
_DAMAGED = re.compile(r"Missing \.dist-info directory|The wheel is invalid|Failed to deserialize cache entry")


def is_installed() -> bool:
    """Return whether the formula's uv is on this host, in its version."""
    return file.read_text(UV / "version") == VERSION


def ensure(index: Mapping[str, Any] | None, password: Callable[[], str | None], *, test: bool) -> Outcome:
    """Install uv, if this host does not have it.

    Args:
        index: the index of the pillar.
        password: returns its password.
        test: whether this is a dry run.

    Raises:
        DeploymentError: pip fails.
    """
    if is_installed():
        return Outcome("uv is already installed")
    if not test:
        install(index, password())
    return Outcome(f"uv {'would be' if test else 'has been'} installed", {"uv": VERSION})


def install(index: Mapping[str, Any] | None = None, password: str | None = None) -> None:
    """Install uv into a virtualenv of its own, by the host's pip, which uses the indexes configured on the host.

    Args:
        index: the index of the pillar.
        password: its password.

    Raises:
        DeploymentError: pip fails.
    """
    environment = virtualenv_index.for_pip(index, password)
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        environment.setdefault("PIP_CERT", str(bundle))
    file.remove_tree(UV)
    commands.run(["python3", "-m", "venv", str(UV)], doing="creating a virtualenv for uv", timeout=120)
    temporary = UV / "tmp"  # /tmp may be small
    temporary.mkdir()
    environment["TMPDIR"] = str(temporary)
    pip = [str(UV / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", f"uv=={VERSION}"]
    secrets = [password] if password else []
    hint = "have this host reach PyPI, or set django:defaults:index:url to an index that it reaches; proxies and "
    hint += "certificate authorities are those of Salt's environment (docs/guides/networks.md)"
    commands.run(pip, doing="installing uv", timeout=600, environment=environment, secrets=secrets, hint=hint)
    file.remove_tree(temporary)
    file.write(UV / "version", VERSION)


def build_environment(site: Site) -> dict[str, str]:
    """Return the environment of the build user: its own home and caches, the host's network settings, no secret."""
    return {**commands.network_environment(), "HOME": str(site.build), "TMPDIR": str(site.build / "tmp")}


class Uv:
    """uv, run as the build user on a virtualenv.

    Args:
        folder: the virtualenv.
        work: the folder with the requirements.
        password: the password of the pillar's index.
        has_project_indexes: whether the project configures indexes of uv, of which the order among all is kept.
    """

    def __init__(self, site: Site, folder: Path, work: str, password: str | None, has_project_indexes: bool = False):
        self.site = site
        self.has_project_indexes = has_project_indexes
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
        """Run uv; without its cache again where that has lost a part, as by a loss of power.

        Raises:
            DeploymentError: uv fails.
        """
        try:
            self._run(*arguments, doing=doing, folder=folder)
        except DeploymentError as error:
            if not _DAMAGED.search(error.log):
                raise
            log.warning("%s: uv's cache is damaged and is made again: %s", self.site.name, error.log.strip())
            self._cache().remove()
            self._run(*arguments, doing=doing, folder=folder)

    def _run(self, *arguments: str, doing: str, folder: str) -> None:
        site, at = self.site, self.site.at
        with self._configured() as environment:
            build_user.run_as_build_user(
                site,
                [str(UV / "bin/uv"), *arguments],
                doing=doing,
                environment=environment,
                folder=folder or str(site.build),
                writable=[str(self.folder)],
                timeout=commands.seconds(site.config["timeouts"]["build"]),
                secrets=[self.password] if self.password else [],
                hint=f"check the requirements, {at}:python, and {at}:packages (compilers, headers)",
                image=base.require(site) if site.config.get("container") else "",
            )

    @contextlib.contextmanager
    def _configured(self) -> Iterator[dict[str, str]]:
        """Give uv the indexes in a file, which has it keep their files; return its environment."""
        environment = self._environment()
        if self.has_project_indexes:
            yield environment
            return
        folder = sites.RUNTIME / f"{self.site.name}.uv"
        for path in (folder, folder / "uv"):
            folders.make(Folder(path, "root", self.site.build_user, 0o750))
        text = virtualenv_index.configuration(environment)
        path = folder / "uv/uv.toml"
        file.write(path, text, mode=0o640, group=self.site.build_user, durable=False)
        for name in ("UV_DEFAULT_INDEX", "UV_INDEX"):
            environment.pop(name, None)
        try:
            yield {**environment, "XDG_CONFIG_HOME": str(folder)}
        finally:
            file.remove_tree(folder)

    def _cache(self) -> Foreign:
        return self.site.build / "uv"

    def _environment(self) -> dict[str, str]:
        return {
            **build_environment(self.site),
            **virtualenv_index.for_uv(self.site.config["index"], self.password),
            "UV_CACHE_DIR": str(self._cache()),
            "UV_LINK_MODE": "copy",
            "UV_COMPILE_BYTECODE": "1",
            "UV_NO_EDITABLE": "1",  # the folder that a build is made from is not there later
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_SYSTEM_CERTS": "1",
            "UV_NO_PROGRESS": "1",
        }
