"""A command of a project, and what its release records about how it is run."""

import dataclasses
import os
import re
import shlex
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.host import file, locks
from django_formula.kind import kinds
from django_formula.site.sites import Site

#: The shape of what `recorded` returns.
_RECORDED = {
    **dict.fromkeys(("address", "protocol"), str),
    **dict.fromkeys(("server?", "process?"), str),
    "keepalive?": (bool, int, types.NoneType),
    "proves?": bool,
}
#: The name of the commands of a deployment.
DEPLOYMENT = "task"


@dataclasses.dataclass(frozen=True)
class ProjectCommand:
    """A command of a project, run as the site's user, confined as an instance, in the environment of a release.

    Attributes:
        facts: what starting the project reported (`project.program.start`).
        doing: what the command does; errors begin with it.
        timeout: seconds.
        writable: folders that the command may write in addition to the site's own.
        stdin: its standard input.
        secrets: texts that are masked in errors and logs.
        task: the name of the command. A deployment's commands share ``task``: one that outlived its deployment is
            ended before the next starts. Commands that may run at the same time have names of their own, as one of a
            process that does not hold the site's lock.
        environment_file: a file with additional variables, in systemd's format.
        errors_too: whether its standard error is part of the returned output.
        only_the_end: whether only the end of its output is returned; otherwise too much of it is an error.
        closed: whether it gets no secret, no network and no socket, and little memory; in a unit of systemd only.
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
    task: str = DEPLOYMENT
    environment_file: str | None = None
    errors_too: bool = False
    only_the_end: bool = False
    closed: bool = False

    def __post_init__(self) -> None:
        if self.task == DEPLOYMENT and not locks.holds(self.site.lock_file):
            object.__setattr__(self, "task", f"{DEPLOYMENT}-{os.getpid()}")

    def options(self) -> dict[str, Any]:
        """Return the arguments of `host.commands.run` that are the same however it is run."""
        same = ("doing", "timeout", "stdin", "secrets", "errors_too", "only_the_end")
        return {name: getattr(self, name) for name in same}


def recorded(release: Path) -> dict[str, Any] | None:
    """Return what ``config/instance.json`` of a release records, or None where it is missing or torn."""
    found = file.read_json(release / "config/instance.json", _RECORDED)
    if not found:
        return None
    is_known = found.get("process", "systemd") in kinds.PROCESS_MANAGERS
    return found if is_known and re.fullmatch(r"/.*|.*:\d{1,5}", found["address"]) else None


def has_container(release: Path) -> bool:
    """Return whether a release runs in containers."""
    return bool((file.read_json(release / "release.json") or {}).get("container"))


def management(release: Path, facts: Mapping[str, Any]) -> list[str]:
    """Return the arguments of Python for management commands: Django's own program where there is no manage.py."""
    folder = release / "source" / str(facts["folder"])
    return ["-m", "django"] if folder.is_dir() and not (folder / "manage.py").is_file() else ["manage.py"]


def words(release: Path, facts: Mapping[str, Any], command: str) -> list[str]:
    """Return a command of the pillar as arguments; manage.py is run by the Python of the release."""
    first, *others = shlex.split(command)
    program = ["python", *management(release, facts)] if first in ("manage.py", "./manage.py") else [first]
    return ["/usr/bin/env", *program, *others]
