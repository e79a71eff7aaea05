"""The workers and scheduled jobs of an existing deployment in its takeover: what stops them, and starts them again."""

import contextlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.host import daemons, file, users
from django_formula.host import units as host_units
from django_formula.host.commands import seconds
from django_formula.site.sites import Site
from django_formula.takeover import existing, supervisor
from django_formula.takeover.supervisor import Ending

#: The folder of crontabs of users; in the lines of all others a user is named first.
OF_USERS = "crontabs"
#: The home of a user, before the rest of a path.
_HOME = re.compile(r"(?<![\w./~$-])(?:~|\$HOME\b|\$\{HOME\})(?=/)")
#: Seconds in which systemd has ended a unit whose time to stop is over.
_MORE = 30.0


def rows(path: Path, folders: Sequence[Path]) -> list[str]:
    """Return the lines of a crontab that name a path below one of these folders."""
    return [row for row in _rows(path) if existing.names_path_below(_with_home(path, row), folders)]


def _with_home(path: Path, row: str) -> str:
    """Return a line with the home of the user who runs it in place of ``~`` and ``$HOME``."""
    if not _HOME.search(row):
        return row
    fields = row.split(maxsplit=6)
    of_others = fields[1:2] if row.lstrip().startswith("@") else fields[5:6]
    user = path.name if path.parent.name == OF_USERS else "".join(of_others)
    found = users.find_user(user)
    return _HOME.sub(lambda _: found.pw_dir, row) if found else row


def _rows(path: Path) -> list[str]:
    text = file.read_untrusted(path).decode(errors="surrogateescape")
    return text.removesuffix("\n").split("\n") if text else []  # `splitlines` knows ends of lines that cron does not


def remove_rows(path: Path, folders: Sequence[Path], aside: Path) -> None:
    """Remove the lines of an existing deployment from a crontab; the whole file is kept aside as it was.

    Args:
        aside: the path of the copy.
    """
    removed = {*rows(path, folders)}
    if not removed:
        return
    status = path.stat()
    if not aside.exists():
        shutil.copy2(path, aside)
        os.chown(aside, status.st_uid, status.st_gid)
    kept = [row for row in _rows(path) if row not in removed]
    text = "".join(f"{row}\n" for row in kept)
    user, group = users.user_name(status.st_uid), users.group_name(status.st_gid)
    file.write(path, text, mode=status.st_mode & 0o777, user=user or "root", group=group)
    if not user:  # of one who is gone, which cron does not run
        os.chown(path, status.st_uid, status.st_gid)


# The switch


def patience(site: Site) -> float:
    """Return how long workers may finish what they have in hand: the longest `patience` of the pillar's."""
    present = (site.config.get("workers") or {}).values()
    return max([10.0, *(seconds(one["patience"]) for one in present)])


def _drop_in(unit: str) -> Path:
    """Return the file that changes a unit until the next boot."""
    return daemons.SYSTEMD / f"{unit}.d/django-formula.conf"


def ask_to_stop(site: Site, plan: Mapping[str, Any]) -> list[Ending]:
    """Let the old workers take nothing more: each finishes what it has in hand, for `patience` at most.

    Units get ``KillMode=mixed``: by systemd's default SIGTERM reaches the processes of a worker's pool too, and tasks
    that they have begun are lost.

    Returns:
        The programs of supervisor, which end.
    """
    units = _units(plan)
    for unit in units:
        lines = ["[Service]", "KillMode=mixed", f"TimeoutStopSec={patience(site):.0f}"]
        signal = plan["replaced"][unit]
        _drop_in(unit).parent.mkdir(parents=True, exist_ok=True)
        file.write(_drop_in(unit), "\n".join([*lines, *filter(None, [signal]), ""]), mode=0o644)
    if units:
        host_units.daemon_reload()
        host_units.control("stop", "--no-block", *units, doing="stopping the old workers")
    programs = [(name, signal) for name, signal in plan.get("replaced", {}).items() if name in plan["names"]]
    return [Ending(*program, patience(site)) for program in programs]


def wait(site: Site, plan: Mapping[str, Any], ending: Sequence[Ending]) -> None:
    """Wait until the old workers have ended, which finish what they have in hand, for `patience` at most.

    Args:
        ending: what `ask_to_stop` has returned.

    Raises:
        DeploymentError: systemd refuses it.
    """
    for program in ending:
        program.join()
    if units := _units(plan):
        doing, timeout = "waiting for the old workers", patience(site) + _MORE
        host_units.control("stop", *units, doing=doing, timeout=timeout)


def start_again(plan: Mapping[str, Any], ending: Sequence[Ending]) -> None:
    """Start the old workers again where the switch has failed, or an apply was killed before it.

    Args:
        ending: what `ask_to_stop` has returned; nothing of an apply that was killed.

    Raises:
        DeploymentError: systemd or supervisor refuses it.
    """
    for program in ending:
        program.start_again()
    for name in plan["names"] if not ending else ():
        if name in plan.get("replaced", {}):
            supervisor.add(name)
    units = _units(plan)
    if units:
        forget(plan)
        host_units.daemon_reload()
        host_units.control("start", *units, doing="starting the old workers")


def forget(plan: Mapping[str, Any]) -> None:
    """Remove what `ask_to_stop` has added to the units; systemd has to be reloaded then."""
    for unit in plan.get("replaced", {}):
        _drop_in(unit).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # missing, or another one's drop-ins are there
            _drop_in(unit).parent.rmdir()


def _units(plan: Mapping[str, Any]) -> list[str]:
    """Return the units of systemd among the workers that the pillar replaces, as long as they are in their place."""
    present = [path.name for path in map(Path, plan["units"]) if path.exists()]
    return [name for name in plan.get("replaced", {}) if name in present] if daemons.has_systemd() else []


def warnings(site: Site, plan: Mapping[str, Any]) -> list[str]:
    """Return what the operator has to know of the workers that were stopped."""
    replaced = plan.get("replaced", {})
    left = [name for name in plan["workers"] if name not in replaced]
    found = []
    if left:
        names = ", ".join(left)
        found.append(f"{names} served no pages and was stopped with the existing deployment: nothing replaces it")
    queue = site.config.get("queue")
    if replaced and queue and not queue["host"]:
        found.append(
            "tasks that waited in the queue of the existing deployment stay there: the new workers take those of the "
            "site's own queue (docs/guides/adopt.md)"
        )
    return found
