"""What every process manager of the formula is, and what an instance has in /run."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import django_host_file
import django_host_unix
import django_kinds
from django_site import Site
from django_wall_foreign import Foreign

RUN = Path("/run")


@dataclasses.dataclass(frozen=True)
class ProjectCommand:
    """A command of a project, run as the site's user, confined as an instance, in the environment of a release.

    Attributes:
        facts: what starting the project reported (`django_project_program.start`).
        doing: what the command does; errors begin with it.
        timeout: seconds.
        writable: folders that the command may write in addition to the site's own.
        stdin: its standard input.
        secrets: texts that are masked in errors and logs.
        task: the name of the command. A deployment's commands share ``task``: one that outlived its deployment is
            ended before the next starts. Commands that may run at the same time have names of their own.
        environment_file: a file with additional variables, in systemd's format.
        errors_too: whether its standard error is part of the returned output.
    """

    site: Site
    release: Path
    facts: Mapping[str, Any]
    argv: Sequence[str]
    doing: str
    timeout: float
    writable: Sequence[Path] = ()
    stdin: str = dataclasses.field(default="", repr=False)
    secrets: Sequence[str] = dataclasses.field(default=(), repr=False)
    task: str = "task"
    environment_file: str | None = None
    errors_too: bool = False


class ProcessManager(ABC):
    """What starts instances, at boot too, and restarts them. Each kind is a subclass, in ``django_process_<kind>.py``.

    Attributes:
        KIND: its name in the pillar.
    """

    KIND: ClassVar[str]

    @property
    def templates(self) -> tuple[str, ...]:
        """The URLs of the templates of its files of a release."""
        return tuple(f"{django_kinds.FILES}{name}" for name in django_kinds.PROCESS_MANAGERS[self.KIND])

    @abstractmethod
    def configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the process manager's files of a release: name in ``config/`` → content."""

    @abstractmethod
    def files(self, site: Site) -> list[Path]:
        """Return its files of a site outside the site's root; the stem of each is a `unit`."""

    @abstractmethod
    def installed(self, site: Site, release: Path) -> dict[Path, str]:
        """Return its files of a release outside the site's root: path → the content that the release has for it."""

    @abstractmethod
    def pid(self, site: Site, release: Path) -> int | None:
        """Return the main process of a release as the process manager reports it, or None when it does not run.

        The environment, command line and pid file of a process do not count: the process itself decides them.
        """

    @abstractmethod
    def is_kept_alive(self, site: Site, release: Path) -> bool:
        """Return whether the instance runs, is whole (`is_whole`), and would run again after a boot.

        An instance that the process manager is starting is waited for.
        """

    @abstractmethod
    def enabled(self, site: Site) -> set[str]:
        """Return the units of a site that would run again after a boot."""

    @abstractmethod
    def start(self, site: Site, release: Path) -> None:
        """Start a release, at every boot too, and wait until the server reports that it is ready.

        Raises:
            DeploymentError: the server does not start.
        """

    @abstractmethod
    def stop(self, site: Site, release: Path, *, wait: bool = True) -> None:
        """Stop a release, and do not start it at boot any more.

        Args:
            wait: until it has ended; otherwise it may still be ending.
        """

    @abstractmethod
    def pause(self, site: Site, release: Path) -> None:
        """Stop a release that still starts at boot, and wait until it has ended; `start` resumes it."""

    @abstractmethod
    def remove(self, site: Site, release: Path) -> None:
        """Delete its files of a release, and stop the instance if there is one."""

    @abstractmethod
    def journal(self, site: Site, release: Path, since: float) -> str:
        """Return what a release logged since a time (seconds since 1970), without the process manager's own lines."""

    @abstractmethod
    def log(self, site: Site, release: Path, lines: int) -> str:
        """Return the last lines of a release's log.

        Raises:
            DeploymentError: the log cannot be read.
        """

    @abstractmethod
    def where_the_log_is(self, site: Site, release: Path) -> str:
        """Return how to read a release's whole log, for people."""

    @abstractmethod
    def run(self, command: ProjectCommand) -> str:
        """Run a command of a project and return its output.

        Raises:
            DeploymentError: the command fails or times out.
        """

    def warnings(self, site: Site) -> list[str]:
        """Return the protections and limits that a new release does not have on this host."""
        return []

    def end_leftovers(self, site: Site, release: Path) -> None:  # noqa: B027 - nothing is a default
        """End a server of a release that outlived its process manager, where that can happen."""

    def end_tasks(self, site: Site) -> None:  # noqa: B027
        """End a command of a deployment that outlived it, where that can happen.

        Raises:
            DeploymentError: it does not end.
        """


def unit(site: Site, release: Path) -> str:
    """Return the name of a release's unit or program: ``django-blog-0042``."""
    return f"django-{site.name}-{release.name.split('-')[0]}"


def folder(site: Site, release: Path) -> Foreign:
    """Return the folder of an instance in /run, which the site's user may write: pid file, ready file, sockets."""
    return Foreign(RUN / unit(site, release))


def is_whole(site: Site, release: Path) -> bool:
    """Return whether a running instance has its folder in /run, and listens at its socket if that has a path.

    Both may have been deleted, with all of /run for example, and only a restart makes them again.
    """
    where = str((django_host_file.read_json(release / "config/instance.json") or {}).get("address", ""))
    return folder(site, release).is_folder() and (not where.startswith("/") or django_host_unix.listens(where))
