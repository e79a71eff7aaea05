"""Who keeps a release alive: what every way has in common, and what each of them can be asked for."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import django_host_file
import django_host_unix
from django_site import Site
from django_wall_foreign import Foreign

RUN = Path("/run")
PROC = Path("/proc")
#: Seconds that a server keeps an idle connection of nginx: longer than nginx, which may be about to use it.
KEPT_ALIVE = 75

#: The packages of a server: their names, of which one will do, → what is installed where none of them is there.
Requirements = dict[tuple[str, ...], tuple[str, ...]]


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


class Keeper(Protocol):
    """One way to keep instances alive; each is a module of its own."""

    #: The templates of its files of a release.
    TEMPLATES: tuple[str, ...]

    def warnings(self, site: Site) -> list[str]:
        """What a new release has to do without on this host, for whoever releases it."""

    def configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Its files of a release: name in ``config/`` → content."""

    def files(self, site: Site) -> list[Path]:
        """What it has of a site on the host, outside of the site's root; the stem of each is a `unit`."""

    def installed(self, site: Site, release: Path) -> dict[Path, str]:
        """The files outside of the site's root by which it keeps a release alive: path → what belongs there."""

    def pid(self, site: Site, release: Path) -> int | None:
        """The main process of a release, by the word of what keeps it alive; None when it does not run.

        A process decides itself what is in its environment, its command line and its pid file: they do not count.
        """

    def is_kept_alive(self, site: Site, release: Path) -> bool:
        """Whether the instance runs, has what `is_whole` looks for, and would run again after a boot.

        One that comes up by itself is waited for.
        """

    def enabled(self, site: Site) -> set[str]:
        """The units of a site that would run again after a boot."""

    def start(self, site: Site, release: Path) -> None:
        """Start a release, at every boot too, and wait until the server says that it is ready.

        Raises:
            DeploymentError: the server does not start.
        """

    def end_leftovers(self, site: Site, release: Path) -> None:
        """End a server of a release that has outlived what kept it alive."""

    def stop(self, site: Site, release: Path, *, wait: bool) -> None:
        """Stop a release for good; without `wait` it may still be about to end."""

    def pause(self, site: Site, release: Path) -> None:
        """Stop a release that still comes up at a boot, and wait until it has ended; `start` lets it go on."""

    def remove(self, site: Site, release: Path) -> None:
        """Delete its files of a release, and stop its instance if it has one."""

    def journal(self, site: Site, release: Path, since: float) -> str:
        """What a release has written to its log since a time (seconds since 1970), without noise of the keeper's."""

    def log(self, site: Site, release: Path, lines: int) -> str:
        """The last lines of a release's log."""

    def where_the_log_is(self, site: Site, release: Path) -> str:
        """How to read all of a release's log, for people."""

    def run(self, command: ProjectCommand) -> str:
        """Run a command of a project and return its output.

        Raises:
            DeploymentError: the command fails or times out.
        """

    def end_tasks(self, site: Site) -> None:
        """End a command of a deployment that outlived it."""


def unit(site: Site, release: Path) -> str:
    """The name under which a release is kept alive: ``django-blog-0042``."""
    return f"django-{site.name}-{release.name.split('-')[0]}"


def folder(site: Site, release: Path) -> Foreign:
    """The folder of an instance in /run, in which the site may put anything: its pid file, its mark, its sockets."""
    return Foreign(RUN / unit(site, release))


def is_whole(site: Site, release: Path) -> bool:
    """Whether an instance that runs has its folder in /run, and listens at its socket if that has a path.

    Either may have been deleted, as when somebody has emptied /run, and neither comes back by itself.
    """
    where = str((django_host_file.read_json(release / "config/instance.json") or {}).get("address", ""))
    return folder(site, release).is_folder() and (not where.startswith("/") or django_host_unix.listens(where))


def age(number: int) -> float:
    """Seconds since a process has started; 0 when it has ended."""
    found = state(number)
    uptime = django_host_file.read_text(PROC / "uptime") or "0"
    return max(float(uptime.split()[0]) - found[2] / os.sysconf("SC_CLK_TCK"), 0.0) if found else 0.0


def state(number: int) -> tuple[str, int, int] | None:
    """The state of a process as in ps(1), its parent, and when it has started, in ticks; None when it has ended."""
    try:
        with open(PROC / str(number) / "stat", "rb") as file:
            words = file.read(4096).rpartition(b")")[2].split()
        return words[0].decode(), int(words[1]), int(words[19])
    except (OSError, IndexError):
        return None
