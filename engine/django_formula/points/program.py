"""What is due of the archive of PostgreSQL, and the program of its timer: it requires neither Salt nor a master."""

from collections.abc import Callable
from typing import Any

from django_formula.backup import program
from django_formula.host.commands import DeploymentError
from django_formula.points import archive, drill
from django_formula.points.archive import BACKUP, CHECK, Cluster

_DAY = 86400.0
#: Seconds between two backups of all files, and of what has changed since.
_FULL, _DIFF = 7 * _DAY, _DAY
_SERVICE = "django-points.service"


def main() -> int:
    """Do what is due of each cluster, and return the exit code."""
    return program.exit_code(lambda: [*work(_SERVICE, "1h"), *drill.work(drill.due(), _SERVICE)])


def work(holder: str, patience: str = "10s") -> list[DeploymentError]:
    """Check the archive of each cluster, and back it up where that is due; return what has failed.

    What fails is remembered until it works again.

    Raises:
        DeploymentError: another program works on the archive.
    """
    failures: list[DeploymentError] = []
    with archive.lock(holder, patience).held():
        for stanza in archive.read_state()["clusters"]:
            # Where the check fails, a backup would wait for the same log and the same store.
            failures += _attempt(stanza, CHECK, _check) or _attempt(stanza, BACKUP, _back_up)
    return failures


def _attempt(stanza: str, task: str, act: Callable[[Cluster, dict[str, Any]], None]) -> list[DeploymentError]:
    state = archive.read_state()
    entry = state["clusters"][stanza]
    try:
        act(archive.cluster(entry), entry)
    except DeploymentError as error:
        archive.note(entry, task, error)
        return [error]
    else:
        archive.note(entry, task, None)
        return []
    finally:
        archive.write_state(state)


def _check(one: Cluster, entry: dict[str, Any]) -> None:
    """Have PostgreSQL close a segment, wait until that is in the store, and look whether all others are there."""
    archive.reach(one)
    archive.pgbackrest(one, "check", doing="checking the archive of PostgreSQL")
    archive.remember(entry, archive.contents(one))


def _back_up(one: Cluster, entry: dict[str, Any]) -> None:
    kind = due(entry)
    if kind:
        archive.pgbackrest(one, "backup", f"--type={kind}", doing="backing PostgreSQL up", timeout=archive.DATA)
        archive.remember(entry, archive.contents(one))


def due(entry: dict[str, Any]) -> str:
    """Return which backup is due: ``full`` each week, ``diff`` each day, and at once where segments are missing."""
    if program.is_over(entry["full"], _FULL):
        return "full"
    is_open = any(end == "now" for _begin, end in entry["gaps"])
    return "diff" if is_open or program.is_over(entry["backup"], _DIFF) else ""
