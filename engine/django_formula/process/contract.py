"""What every process manager of the formula is, and what an instance has in /run.

A release has several parts, each with a unit of its own: its server, whose part is the empty text, and its workers,
whose parts are their names.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from django_formula.host import file, folders, unix_sockets
from django_formula.host.commands import seconds
from django_formula.host.folders import Folder
from django_formula.kind import kinds
from django_formula.process.command import ProjectCommand
from django_formula.process.selection import Selection
from django_formula.site.sites import Site
from django_formula.untrusted.foreign import Foreign

#: Where releases of older formulas have the folders of their parts.
RUN = Path("/run")
#: Seconds after `releases:drain` in which a server ends by itself.
STOP = 10
#: Seconds after the timeouts of a unit in which its job ends; those of the engine come before (`host.units`).
_JOB = 30


class ProcessManager(ABC):
    """What starts instances, at boot too, and restarts them. Each kind is a subclass, in ``process/<kind>.py``.

    Attributes:
        KIND: its name in the pillar.
    """

    KIND: ClassVar[str]

    @property
    def templates(self) -> tuple[str, ...]:
        """The URLs of the templates of its files of a release."""
        return tuple(f"{kinds.FILES}{name}" for name in kinds.PROCESS_MANAGERS[self.KIND])

    @abstractmethod
    def configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the process manager's files of a release's server: name in ``config/`` → content."""

    @abstractmethod
    def worker_configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the process manager's files of one worker of a release: name in ``config/`` → content.

        Args:
            variables: ``unit``, ``worker`` (its name), ``command``, ``patience`` (seconds), ``resources``, ``facts``.
        """

    @abstractmethod
    def files(self, site: Site) -> list[Path]:
        """Return its files of a site outside the site's root; the stem of each is a `unit`."""

    @abstractmethod
    def installed(self, site: Site, release: Path, part: str = "") -> dict[Path, str]:
        """Return its files of a release outside the site's root: path → the content that the release has for it."""

    @abstractmethod
    def pid(self, site: Site, release: Path, part: str = "") -> int | None:
        """Return the main process of a release as the process manager reports it, or None when it does not run.

        The environment, command line and pid file of a process do not count: the process itself decides them.
        """

    @abstractmethod
    def try_host(self, site: Site, release: Path) -> None:
        """Find out, once for each boot, what of a release's files this host starts nothing with."""

    @abstractmethod
    def is_kept_alive(self, site: Site, release: Path, part: str = "") -> bool:
        """Return whether a part runs, is whole (`is_whole`), and would run again after a boot.

        A server that the process manager is starting is waited for.
        """

    @abstractmethod
    def enabled(self, site: Site) -> set[str]:
        """Return the units of a site that would run again after a boot."""

    @abstractmethod
    def start(self, site: Site, release: Path, part: str = "") -> None:
        """Start a part of a release, at every boot too, and wait until it reports that it is ready.

        Raises:
            DeploymentError: it does not start.
        """

    @abstractmethod
    def stop(self, site: Site, release: Path, part: str = "", *, wait: bool = True) -> None:
        """Stop a part of a release, and do not start it at boot any more.

        Args:
            wait: until it has ended, by force after the site's drain time; otherwise it may still be ending: a server
                as long as the drain time, a worker as long as its patience.
        """

    @abstractmethod
    def restart(self, site: Site, release: Path, part: str) -> None:
        """Restart a worker of a release once it has finished its tasks, which is not waited for.

        Raises:
            DeploymentError: the process manager does not run it.
        """

    @abstractmethod
    def pause(self, site: Site, release: Path, part: str = "") -> None:
        """Stop a part that still starts at boot, and wait as `stop` does until it has ended; `start` resumes it."""

    @abstractmethod
    def remove(self, site: Site, release: Path) -> None:
        """Delete its files of a release, and stop every part that runs, by force after the site's drain time."""

    @abstractmethod
    def journal(self, site: Site, release: Path, since: float, part: str = "") -> str:
        """Return what a part logged since a time (seconds since 1970), without the process manager's own lines."""

    @abstractmethod
    def log(self, site: Site, release: Path, lines: int, part: str = "") -> str:
        """Return the last lines of a part's log.

        Raises:
            DeploymentError: the log cannot be read.
        """

    @abstractmethod
    def search(self, site: Site, releases: Sequence[Path], selection: Selection, part: str = "") -> str:
        """Return the lines of a part's logs, in several releases, that a selection has.

        Raises:
            DeploymentError: the log cannot be read, or does not have what the selection asks for.
        """

    @abstractmethod
    def follow(self, site: Site, release: Path, selection: Selection, part: str = "") -> list[str]:
        """Return the command that prints the lines of a part's log, and goes on with new ones.

        Raises:
            DeploymentError: the log does not have what the selection asks for.
        """

    @abstractmethod
    def where_the_log_is(self, site: Site, release: Path, part: str = "") -> str:
        """Return how to read a part's whole log, for people."""

    @abstractmethod
    def way_to_start(self, site: Site, release: Path, part: str = "") -> str:
        """Return the command by which people start a part, or start it again where it runs."""

    @abstractmethod
    def is_starting(self, site: Site, release: Path, part: str = "") -> bool:
        """Return whether a part without a process is being started, such as one in a container that is being made."""

    @abstractmethod
    def how_it_ended(self, site: Site, release: Path, part: str = "") -> str:
        """Return what the process manager reports of a part that does not run; empty where it was just stopped."""

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

    def is_command_active(self, site: Site, task: str) -> bool:
        """Return whether a command of a name (`ProjectCommand.task`) runs whose starter was killed."""
        return False

    def end_command(self, site: Site, task: str) -> None:  # noqa: B027
        """End a command of a name that outlived its starter, where that can happen.

        Raises:
            DeploymentError: it does not end.
        """

    def end_tasks(self, site: Site) -> None:  # noqa: B027
        """End a command of a deployment that outlived it, where that can happen.

        Raises:
            DeploymentError: it does not end.
        """


def remove_folders(site: Site, release: Path) -> None:
    """Delete the folders of all parts of a release."""
    sequence = release.name.split("-")[0]
    for path in site.run.glob(f"{sequence}*"):
        if re.fullmatch(rf"{sequence}([.-].*)?", path.name):
            Foreign(site.run, path.name).remove()
    Foreign(site.runtime, sequence).remove()  # of an older formula


def unit(site: Site, release: Path, part: str = "") -> str:
    """Return the name of the unit or program of a release's part: ``django-blog-0042``, ``django-blog-0042-mail``."""
    return "-".join(filter(None, [f"django-{site.name}", release.name.split("-")[0], part]))


def parse(site: Site, name: str) -> tuple[str, str] | None:
    """Return the number of the release and the part that a unit of a site is of, or None for any other name.

    A site may be called ``blog-0042``, so that its unit ``django-blog-0042-task`` is none of ``blog``'s.
    """
    found = re.fullmatch(rf"django-{re.escape(site.name)}-(\d{{4,}})(?:-([a-z][a-z0-9_]*))?", name)
    return (found[1], found[2] or "") if found and not kinds.is_of_site(found[2] or "") else None


def run_folder(site: Site, release: Path, part: str = "") -> Path:
    """Return the path of the folder of a part: ``<root>/runtime/0042``, ``<root>/runtime/0042-mail``.

    It is on the disk, of which the site has its share: /run is the host's, and systemd fails where that is full
    (docs/decisions/0073). A release of an older formula has it in /run.
    """
    recorded = file.read_json(release / "config/instance.json")
    if recorded is not None and "run" not in recorded:
        return RUN / unit(site, release, part)
    return site.run / _name(release, part)


def _name(release: Path, part: str) -> str:
    return "-".join(filter(None, [release.name.split("-")[0], part]))


def folder(site: Site, release: Path, part: str = "") -> Foreign:
    """Return that folder, which the site's user may write: pid, ready and state files, sockets."""
    return Foreign(run_folder(site, release, part))


def job_timeout(site: Site, stop: float) -> int:
    """Return the seconds after which systemd no longer waits for a unit's start or end, which its process may extend.

    Args:
        stop: the seconds that it has to end.
    """
    return int(max(seconds(site.config["timeouts"]["start"]), stop)) + _JOB


def make_folder(site: Site, release: Path, part: str = "") -> None:
    """Create that folder, or correct its owner and mode; in /run the unit does so itself."""
    made = Folder(run_folder(site, release, part), site.user, site.user, 0o750)
    if made.path.parent == site.run and folders.problem(made):
        folders.make(made)


def remove_folder(site: Site, release: Path, part: str = "") -> None:
    """Delete that folder, and the one of a server's socket; and those of an older formula in /run."""
    Foreign(site.run, _name(release, part)).remove()
    Foreign(RUN, unit(site, release, part)).remove()
    if not part:
        Foreign(site.run, site.sockets(release).name).remove()
        Foreign(site.runtime, release.name.split("-")[0]).remove()


def is_whole(site: Site, release: Path, part: str = "") -> bool:
    """Return whether a running part has its folder, and what it has there once it is ready.

    A server listens at its socket if that has a path, a worker has its ready file. All may have been deleted, and only
    a restart makes them again.
    """
    if part:
        return (folder(site, release, part) / "ready").exists()
    where = str((file.read_json(release / "config/instance.json") or {}).get("address", ""))
    return folder(site, release).is_folder() and (not where.startswith("/") or unix_sockets.listens(where))
