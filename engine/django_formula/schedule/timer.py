"""Scheduled tasks of a site: a systemd timer or a line of cron, and the program that it runs.

The program requires neither Salt nor a master: it is an archive of our modules as of the last apply. Why the unit of
backups runs as root: docs/decisions/0035.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.backup import backups
from django_formula.database import databases
from django_formula.host import archive, commands, daemons, file, template, units
from django_formula.host.commands import DeploymentError
from django_formula.offsite import copies, repository
from django_formula.process import command as process_command
from django_formula.process import systemd
from django_formula.release import releases as release_releases
from django_formula.schedule import intervals
from django_formula.site.sites import Site

CRON = Path("/etc/cron.d")
#: The schedules of cron for the calendar expressions of systemd.
_CRON = {"hourly": "0 * * * *", "daily": "0 0 * * *", "weekly": "0 0 * * 1", "monthly": "0 0 1 * *"}


class Task(NamedTuple):
    """A scheduled task: its name, as in the names of its files, its title, and the module whose ``main`` runs."""

    name: str
    title: str
    module: str

    def when(self, site: Site) -> str | None:
        """Return the schedule of the task for a site, in the notation of ``OnCalendar``, or None without one."""
        if self == BACKUP:
            schedule: str | None = site.config["backup"]["schedule"]
            return schedule
        is_used = site.https if self == RENEWAL else repository.configured(site.config)
        return "hourly" if is_used else None


BACKUP = Task("backup", "Backups", "django_formula.backup.program")
OFFSITE = Task("offsite", "Copies of the backups elsewhere", "django_formula.offsite.program")
RENEWAL = Task("tls", "Renewal of the certificates", "django_formula.tls.renewal")
TASKS = (BACKUP, OFFSITE, RENEWAL)
#: The locks that programs hold while they work.
_LOCKS = {BACKUP: backups.lock, OFFSITE: copies.lock}
#: Seconds that a program has to end.
_PATIENCE = 30.0


def stale(site: Site, templates: Mapping[str, str], task: Task = BACKUP) -> dict[str, str]:
    """Return the files of a task that differ from the pillar: path → new, changed, removed or disabled.

    Raises:
        DeploymentError: this host has neither systemd nor cron, or cron does not know the schedule.
    """
    files = _files(site, templates, task)
    found = {path: difference(path, content) for path, content in files.items()}
    found |= {path: "removed" for path in present(site, task) if path not in files}
    timer = _timer(site, task)
    if timer in files and not os.path.lexists(_link(site, task)):
        found[timer] = found[timer] or "disabled"
    differences = {str(path): difference for path, difference in found.items() if difference}
    return differences | ({"cron": "started"} if _cron(site, task) in files and not has_running_cron() else {})


def difference(path: Path, content: bytes) -> str:
    """Return how a file differs from what it should contain: new, changed, or an empty text."""
    try:
        return "" if path.read_bytes() == content else "changed"
    except FileNotFoundError:
        return "new"


def apply(site: Site, templates: Mapping[str, str], task: Task = BACKUP) -> None:
    """Install the schedule of a task as the pillar has it, or remove it.

    Raises:
        DeploymentError: systemd refuses the timer, or as for `stale`.
    """
    files = _files(site, templates, task)
    if not files:
        remove(site, task)
        return
    _link(site, task).unlink(missing_ok=True)  # made last: where this is killed or refused, the next apply begins anew
    for path in present(site, task):
        if path not in files:
            path.unlink()
    for path, content in files.items():
        file.write(path, content, mode=0o600 if path == _program(site, task) else 0o644)
    if daemons.has_systemd():
        timer = _timer(site, task).name
        units.daemon_reload()
        units.control("restart", timer, doing=f"starting {timer}")
        units.control("enable", "--quiet", timer, doing=f"enabling {timer}")
    elif _cron(site, task) in files and not has_running_cron():
        daemons.start(daemons.CRON)


def by_cron(site: Site) -> list[str]:
    """Return the titles of the tasks of a site that cron starts on this host."""
    return [task.title for task in TASKS if _cron(site, task).exists()]


def has_running_cron() -> bool:
    """Return whether cron runs; in a container that was restarted only what its command starts does."""
    return daemons.is_running(daemons.CRON)


def present(site: Site, task: Task = BACKUP) -> list[Path]:
    """Return the files of a task of a site that exist on the host."""
    paths = (_timer(site, task), _service(site, task), _cron(site, task), _program(site, task))
    return [path for path in paths if path.exists()]


def remove(site: Site, task: Task = BACKUP) -> None:
    """Remove a task of a site from the host; its program, if it runs, is left to end."""
    _end_timer(site, task)
    _remove_files(site, task)


def end(site: Site, task: Task) -> None:
    """End the program of a task, and have nothing start it any more, before its site is removed.

    Else it would write again what the removal removes, such as a certificate or the database of a drill.

    Raises:
        DeploymentError: systemd does not stop it.
    """
    service, lock = _service(site, task), _LOCKS.get(task)
    is_unit = service.exists() and daemons.has_systemd()
    _end_timer(site, task)
    if is_unit:  # which systemd has to know to stop it
        doing = f"ending {service.name}"
        units.stop("stop", units=[service.name], doing=doing, within=_PATIENCE)
        units.attempt("reset-failed", service.name, doing=doing)  # it would stay listed
    _remove_files(site, task)
    if not is_unit and lock and (held := lock(site, "")).holder():
        held.end_holders()


def _end_timer(site: Site, task: Task) -> None:
    timer = _timer(site, task)
    if timer.exists() or os.path.lexists(_link(site, task)):
        units.end_timer(timer.name)


def _remove_files(site: Site, task: Task) -> None:
    for path in present(site, task):
        path.unlink()


def _program(site: Site, task: Task) -> Path:
    return site.root / f"{task.name}.pyz"


def _service(site: Site, task: Task) -> Path:
    return systemd.UNITS / f"django-{site.name}-{task.name}.service"


def _timer(site: Site, task: Task) -> Path:
    return _service(site, task).with_suffix(".timer")


def _link(site: Site, task: Task) -> Path:
    return systemd.UNITS / "timers.target.wants" / _timer(site, task).name


def _cron(site: Site, task: Task) -> Path:
    return CRON / f"django-{site.name}-{task.name}"


def _files(site: Site, templates: Mapping[str, str], task: Task) -> dict[Path, bytes]:
    """Return the files that a task requires; none without a schedule."""
    schedule = task.when(site)
    if not schedule:
        return {}
    if task == BACKUP:
        _refuse_never(site, schedule)
    program = _program(site, task)
    command = f"/usr/bin/python3 -I {program} {site.name}"
    files = {program: archive.packed(task.module, frozenset() if task == OFFSITE else unused(site))}
    if daemons.has_systemd():
        variables: dict[str, Any] = {"site": site.config, "command": command, "schedule": schedule}
        variables |= {"local": databases.are_local(site), "at_home": is_at_home(site)}
        for path in (_service(site, task), _timer(site, task)):
            url = f"salt://django/files/{task.name}{path.suffix}"
            files[path] = template.render(templates, url, **variables).encode()
        return files
    if task == RENEWAL:
        if not has_cron():
            return {}  # each apply renews due certificates
    else:
        _refuse_without_cron(site, task, schedule)
    when = _CRON[schedule] if task == BACKUP else f"{sum(site.name.encode()) % 60} * * * *"
    files[_cron(site, task)] = f"# {task.title} of the Django site {site.name}\n{when} root {command}\n".encode()
    return files


def unused(site: Site) -> frozenset[str]:
    """Return the modules that a program of a site does not need: of what neither it nor a kept release has."""
    releases = [release.path for release in release_releases.releases(site)]
    recorded = [process_command.recorded(path) or {} for path in releases]
    managers = {site.process, *(one["process"] for one in recorded if "process" in one)}
    has_containers = site.config.get("container") or any(map(process_command.has_container, releases))
    return frozenset(
        module
        for module, is_used in {
            "django_formula.process.container": has_containers,
            "django_formula.process.reaped": "supervisor" in managers,
            "django_formula.process.transient": "systemd" in managers,
            "django_formula.backup.store": backups.has_queue(site),
        }.items()
        if not is_used
    )


def has_cron() -> bool:
    """Return whether cron is installed on this host."""
    return CRON.is_dir() and bool(shutil.which("cron", path=commands.PATH))


def is_at_home(site: Site) -> bool:
    """Return whether any path of the site may be below /home, /root or /run/user."""
    paths = json.dumps({**site.config, "backups": str(site.backups)})
    return any(f'"{folder}/' in paths or f":{folder}/" in paths for folder in ("/home", "/root", "/run/user"))


def _refuse_never(site: Site, schedule: str) -> None:
    if not intervals.comes(schedule):
        at = f"{site.at}:backup:schedule"
        raise DeploymentError(
            f"{at}: {schedule} never comes, so that nothing would be backed up",
            hint=f"try it: systemd-analyze calendar '{schedule}'",
        )


def _refuse_without_cron(site: Site, task: Task, schedule: str) -> None:
    at, verb = f"{site.at}:backup:{'schedule' if task == BACKUP else task.name}", f"django.{task.name} {site.name}"
    if schedule not in _CRON:
        raise DeploymentError(
            f"{schedule} is a time in systemd's notation, and this host has cron",
            hint=f"set {at} to {', '.join(_CRON)}, or run salt-call {verb} from a crontab",
        )
    if not has_cron():
        raise DeploymentError(
            f"this host has neither systemd nor cron to run {task.title.lower()}",
            hint=f"remove {at}, and run {verb} from elsewhere; or install and start cron: {site.at}:packages: [cron]",
        )
