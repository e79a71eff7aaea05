"""Run a schedule of a site in its active release, never twice at once, and record how it ended.

Its main program is started by the timer or by cron, and requires neither Salt nor a master. The records are root's: the
command, which runs as the site's user, cannot change them.
"""

import contextlib
import logging
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from django_formula.host import clock, file
from django_formula.host.commands import DeploymentError, redact, seconds
from django_formula.host.locks import Lock
from django_formula.process import command, runner
from django_formula.process.command import ProjectCommand
from django_formula.release import releases
from django_formula.release.releases import Release
from django_formula.secret import secrets as secret_secrets
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import tell

#: Runs whose records are kept of each schedule.
KEPT = 100
#: The least that the definition of a schedule has.
DEFINITION = {"command": str, "timeout": str, "at": str}
#: What the names of files of records end with, after that of the schedule.
RECORDS = ".runs.json"
#: The required shape of a file of records.
_RUNS = {"runs": [{"begun": str, "release": str, "by": str}], "skipped?": {"time": str, "why": str}}
#: What starts a schedule at its time, as recorded.
BY_TIMER = "timer"


def main(name: str, schedule: str) -> int:
    """Run a schedule at its time, and return the exit code of its command; 0 where it is not to run now."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signal.signal(signal.SIGTERM, _exit)  # so that the command is ended, and recorded
    try:
        site = sites.find(name)
        if running := lock(site, schedule, "").holder():
            tell(f"{schedule} of {name} does not run: it is running already ({running})")
            return 0
        if reason := skipped(site, schedule):
            tell(f"{schedule} of {name} does not run: {reason}")
            return 0
        result = run_schedule(site, schedule, by=BY_TIMER)
    except (DeploymentError, OSError) as error:
        full = f"{schedule} of {name} does not run: " if isinstance(error, OSError) else ""
        tell(f"{full}{error}", is_error=True)
        return 1
    tell(result["output"], end="")
    if result.get("error"):
        tell(f"{schedule} of {name}: {result['error']}", is_error=True)
    return int(result["exit"] if result["exit"] is not None else 1)


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def obstacle(site: Site) -> str:
    """Return why schedules of a site do not run now, or an empty text."""
    if not releases.linked(site, site.current):
        return f"{site.name} has no active release yet"
    maintenance = sites.known_maintenance(site)
    return f"{site.name} is in maintenance since {maintenance['since']}" if maintenance else ""


def skipped(site: Site, name: str) -> str:
    """Return why a schedule does not run now, which is recorded, or an empty text."""
    reason = obstacle(site)
    if reason and site.schedules.is_dir():
        with lock(site, name, "none").held():
            records = _read(site, name)
            _write(site, name, {**records, "skipped": {"time": clock.now(), "why": reason}})
    return reason


def run_schedule(site: Site, name: str, *, by: str) -> dict[str, Any]:
    """Run the command of a schedule in the active release, and record it.

    Args:
        by: what started it, for the record.

    Returns:
        The record of the run, with the output of its command.

    Raises:
        DeploymentError: there is no such schedule, it runs already, or it cannot run now.
    """
    definition = file.read_json(definition_of(site, name), DEFINITION)
    if not definition:
        known = ", ".join(sorted(site.config.get("schedules", {}))) or "none"
        raise DeploymentError(f"{site.name} has no schedule {name!r} on this host", hint=f"it has: {known}")
    _refuse_obstacle(site, name)
    with _held(site, name, by) as release:
        _refuse_obstacle(site, name)  # a restore that has begun meanwhile did not see the lock
        return _recorded(release, name, definition, by)


def _refuse_obstacle(site: Site, name: str) -> None:
    if reason := obstacle(site):
        hint = f"run a command in spite of it: salt-call django.manage {site.name} 'COMMAND'"
        raise DeploymentError(f"{name} does not run: {reason}", hint=hint)


@contextlib.contextmanager
def _held(site: Site, name: str, by: str) -> Iterator[Release]:
    """Hold the lock of a schedule, which names the release that is active meanwhile: that one is not deleted.

    Raises:
        DeploymentError: it runs already, or there is no active release.
    """
    while True:
        live = releases.linked(site, site.current)
        held = lock(site, name, f"{live.name if live else ''} by {by}")
        with held.held():
            active = releases.linked(site, site.current)
            if live and active and active.name == live.name:  # else it was switched meanwhile
                _refuse_leftover(live, name, held)
                yield live
                return
        if not live:
            raise DeploymentError(obstacle(site))


def _refuse_leftover(live: Release, name: str, lock: Lock) -> None:
    """Check that no command of a schedule has outlived the program that started it."""
    if runner.is_active(live.site, live.path, task(name)):
        raise DeploymentError(f"{lock.busy} is under way: its program was killed", hint="wait until it has ended")


def _recorded(release: Release, name: str, definition: Mapping[str, Any], by: str) -> dict[str, Any]:
    """Run the command of a schedule, and record when it began and how it ended."""
    site = release.site
    started: dict[str, Any] = {"begun": clock.now(), "release": release.name, "by": by}
    earlier = _read(site, name)["runs"][1 - KEPT :]
    _write(site, name, {"runs": [*earlier, started]})
    output, ended = "", {"exit": None, "error": "its program was ended"}
    try:
        output, ended = _outcome(release, name, definition)
    finally:
        record = {**started, "ended": clock.now(), **ended}
        try:
            _write(site, name, {"runs": [*earlier, record]})
        except OSError as error:  # a full disk, of the command's own making perhaps
            record["error"] = "; ".join(filter(None, [record.get("error"), f"no record of this run: {error}"]))
    return {"schedule": name, **record, "output": output}


def _outcome(release: Release, name: str, definition: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Run the command of a schedule; return its output, and its exit code with the error, if it failed."""
    site = release.site
    secrets = secret_secrets.known(site)
    try:
        output = runner.run_command(
            ProjectCommand(
                site,
                release.path,
                release.facts,
                command.words(release.path, release.facts, definition["command"]),
                doing=definition["command"],
                timeout=seconds(definition["timeout"]),
                secrets=secrets,
                task=task(name),
                errors_too=True,
                only_the_end=True,
            )
        )
    except DeploymentError as error:
        found = re.search(r"\(exit (\d+)\)", error.message)
        last = next((line.strip() for line in reversed(error.log.splitlines()) if line.strip()), "")
        text = redact(": ".join(filter(None, [error.message, last[:200]])), secrets)
        return redact(error.log, secrets), {"exit": int(found[1]) if found else None, "error": text}
    return redact(output, secrets), {"exit": 0}


def records(site: Site, name: str) -> dict[str, Any]:
    """Return the records of a schedule: its ``runs``, the oldest first, whether it is ``running``, and ``skipped``."""
    return {**_read(site, name), "running": bool(lock(site, name, "").holder())}


def unit(site: Site, name: str) -> str:
    """Return the name of the units of a schedule: ``django-blog-at-invoices``."""
    return f"django-{site.name}-at-{name}"


def task(name: str) -> str:
    """Return the name of the command of a schedule, for `process.command.ProjectCommand`."""
    return f"at-{name}-run"


def definition_of(site: Site, name: str) -> Path:
    """Return the file with what the pillar has of a schedule, as installed."""
    return site.schedules / f"{name}.json"


def lock(site: Site, name: str, holder: str) -> Lock:
    """Return the lock of a schedule, which its program holds as long as it runs."""
    return Lock(
        site.schedules / f"{name}{releases.LOCK_OF_SCHEDULE}",
        holder,
        busy=f"{name} of {site.name}",
        timeout="1s",  # `holder` locks the file for a moment, and no run may be missed for that
        hint=f"wait until it has ended, or end it: systemctl stop '{unit(site, name)}*'",
    )


def recorded(site: Site) -> list[str]:
    """Return the names of the schedules that have ever run, also of those that the pillar does not have any more."""
    return sorted(path.name.removesuffix(RECORDS) for path in site.schedules.glob(f"*{RECORDS}"))


def _read(site: Site, name: str) -> dict[str, Any]:
    return file.read_json(site.schedules / f"{name}{RECORDS}", _RUNS) or {"runs": []}


def _write(site: Site, name: str, records: Mapping[str, Any]) -> None:
    file.write_json(site.schedules / f"{name}{RECORDS}", records, mode=0o600)
