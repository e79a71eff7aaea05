"""Schedules of a site: commands that run at times, in the active release; their files on the host.

Each has a timer of systemd, or a line of cron. Both start one program, which neither Salt nor a release changes, and
which runs the command in the release that is active at that time: docs/decisions/0060.
"""

import contextlib
import json
import os
import re
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.host import archive, commands, daemons, file, template, units
from django_formula.host.commands import DeploymentError
from django_formula.process import systemd
from django_formula.release import instances
from django_formula.schedule import run
from django_formula.schedule import timer as schedule_timer
from django_formula.site.sites import Site

#: Where systemd keeps when a timer elapsed last.
STAMPS = Path("/var/lib/systemd/timers")
#: Seconds within which systemd forgets the services of a removed site.
_FORGOTTEN = 10.0


def installed(site: Site) -> list[str]:
    """Return the names of the schedules of a site that are on the host."""
    return sorted(path.stem for path in site.schedules.glob("*.json") if "." not in path.stem)


def definition(site: Site, name: str) -> dict[str, Any]:
    """Return what the pillar has of a schedule, as installed.

    Raises:
        DeploymentError: its file is damaged.
    """
    found = file.read_json(_definition(site, name), run.DEFINITION)
    if not found:
        raise DeploymentError(
            f"{_definition(site, name)} is missing or damaged", hint="salt-call state.apply django writes it again"
        )
    return found


def stale(site: Site, templates: Mapping[str, str]) -> dict[str, str]:
    """Return the files of the schedules that differ from the pillar: path → new, changed, removed or disabled."""
    expected = _wanted_files(site, templates)
    found = {path: schedule_timer.difference(path, content) for path, content in expected.items()}
    for name in _configured(site):
        timer = _timer(site, name)
        if timer in expected and not os.path.lexists(_link(timer)):
            found[timer] = found[timer] or "disabled"
    return {str(path): difference for path, difference in found.items() if difference} | dropped(site)


def apply(site: Site, templates: Mapping[str, str]) -> None:
    """Install the schedules of the pillar.

    A definition lacks its line break until its timer runs: `installed` knows the schedule from the beginning, and
    where this is killed, the next apply starts the timer. A run that begins meanwhile reads it as it has to be.

    Raises:
        DeploymentError: systemd refuses a timer.
    """
    expected = _wanted_files(site, templates)
    changed = {path for path, content in expected.items() if schedule_timer.difference(path, content)}
    definitions = {_definition(site, name): name for name in _configured(site)}
    for path in changed & definitions.keys():
        file.write(path, expected[path].rstrip(), mode=0o600)
    for path in sorted(changed - definitions.keys()):
        file.write(path, expected[path], mode=0o600 if path == _program(site) else 0o644)
    if daemons.has_systemd():
        _start(site, {name for path, name in definitions.items() if {path, _timer(site, name)} & changed})
    for path in sorted(changed & definitions.keys()):
        file.write(path, expected[path], mode=0o600)


def _start(site: Site, changed: Collection[str]) -> None:
    """Have systemd read the units of the schedules again, and start the timers that have changed or are disabled."""
    timers = {name: _timer(site, name) for name in _configured(site)}
    late = [one.name for name, one in timers.items() if name in changed or not os.path.lexists(_link(one))]
    for name in late:
        (STAMPS / f"stamp-{name}").unlink(missing_ok=True)  # a new time does not make up for the former one
    names = [one.name for one in timers.values()]
    units.control("enable", "--quiet", *names, doing=f"enabling the schedules of {site.name}")
    if late:
        units.control("restart", *late, doing=f"starting the schedules of {site.name}")


def dropped(site: Site) -> dict[str, str]:
    """Return the files of schedules that the pillar does not have any more: path → removed."""
    return {str(path): "removed" for path in _files_of(site, _dropped(site)) if path.exists()}


def drop(site: Site) -> None:
    """Remove the schedules that the pillar does not have any more; a command that runs is left to end."""
    _remove(site, _dropped(site))


def present(site: Site) -> list[Path]:
    """Return the files of all schedules of a site that exist on the host, without the records of their runs."""
    return [path for path in _files_of(site, installed(site)) if path.exists()]


def remove(site: Site) -> None:
    """Remove all schedules of a site from the host, and end their commands."""
    names = installed(site)
    _remove(site, names)
    for name in names:
        _end(site, name)
    known = sorted({*names, *run.recorded(site)})
    if known and daemons.has_systemd():
        _forget(site, [_service(site, name).name for name in known])


def _forget(site: Site, services: Sequence[str]) -> None:
    """Have systemd forget services whose files are deleted: one whose command was ended fails, and would stay listed.

    It may fail, or its timer may have started it once more, a moment after it was asked to stop. A schedule that
    left the pillar before may have failed then, in a run that began just as its files were deleted.
    """
    doing = f"forgetting the schedules of {site.name}"
    systemd.forget()  # nothing starts them any more
    deadline = time.monotonic() + _FORGOTTEN
    while units.control("list-units", "--all", "--plain", "--no-legend", *services, doing=doing):
        for verb in ("stop", "reset-failed"):
            with contextlib.suppress(DeploymentError):  # of those that have gone meanwhile systemd knows nothing
                units.control(verb, *services, doing=doing)
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def refuse_impossible(site: Site) -> None:
    """Check that this host can run the schedules of the pillar at their times.

    Raises:
        DeploymentError: it cannot.
    """
    for name in _configured(site):
        schedule, key = site.config["schedules"][name], f"{site.at}:schedules:{name}"
        if not daemons.has_systemd():
            _refuse_without_systemd(schedule, key)
        elif file.read_json(_definition(site, name)) != schedule:
            _refuse_invalid_time(schedule["at"], f"{key}:at")


def _refuse_without_systemd(schedule: Mapping[str, Any], key: str) -> None:
    at = schedule["at"]
    if not cron(at):
        words = ", ".join(WORDS)
        raise DeploymentError(
            f"{key}:at: {at} is a time in systemd's notation, and this host has cron",
            hint=f"write it in cron's five fields, such as '0 6 * * 1', or as one of {words}",
        )
    for option in ("within", "catch_up"):
        if schedule[option]:
            raise DeploymentError(
                f"{key}:{option} is an option of systemd's timers, and this host has cron",
                hint=f"set it to {option}: {'null' if option == 'within' else 'false'}",
            )


def _wanted_files(site: Site, templates: Mapping[str, str]) -> dict[Path, bytes]:
    """Return the files that the schedules of the pillar require."""
    wanted: dict[Path, bytes] = {}
    for name in _configured(site):
        definition = site.config["schedules"][name]
        wanted[_definition(site, name)] = f"{json.dumps(definition, sort_keys=True)}\n".encode()
        command = f"/usr/bin/python3 -I {_program(site)} {site.name} {name}"
        if daemons.has_systemd():
            variables: dict[str, Any] = {"site": site.config, "schedule": name, "definition": definition}
            variables |= {"command": command, "at_home": schedule_timer.is_at_home(site)}
            variables["calendar"] = calendar(definition["at"])
            for path in (_service(site, name), _timer(site, name)):
                url = f"salt://django/files/schedule{path.suffix}"
                wanted[path] = template.render(templates, url, **variables).encode()
        else:
            line = f"{cron(definition['at'])} root {command}"
            wanted[_cron(site, name)] = f"# Schedule {name} of the Django site {site.name}\n{line}\n".encode()
    return (
        {_program(site): archive.packed("django_formula.schedule.run", schedule_timer.unused(site)), **wanted}
        if wanted
        else {}
    )


def _configured(site: Site) -> list[str]:
    return sorted(site.config.get("schedules", {}))


def _dropped(site: Site) -> list[str]:
    return [name for name in installed(site) if name not in _configured(site)]


def _remove(site: Site, names: Collection[str]) -> None:
    timers = [_timer(site, name) for name in names]
    known = [one for one in timers if one.exists() or os.path.lexists(_link(one))]
    if known:
        doing = f"stopping the schedules of {site.name}"
        units.control("disable", "--quiet", "--now", *(one.name for one in known), doing=doing)
    for path in _files_of(site, names):
        path.unlink(missing_ok=True)
    for one in timers:
        (STAMPS / f"stamp-{one.name}").unlink(missing_ok=True)


def _files_of(site: Site, names: Collection[str]) -> list[Path]:
    """Return the files that schedules may have on the host; the definition is last, since it makes them known."""
    found = [make(site, name) for name in names for make in (_timer, _service, _cron, _definition)]
    has_none_left = not {*installed(site)} - {*names}
    return [*([_program(site)] if names and has_none_left and not _configured(site) else []), *found]


def _program(site: Site) -> Path:
    return site.root / "schedule.pyz"


def _definition(site: Site, name: str) -> Path:
    return run.definition_of(site, name)


def _service(site: Site, name: str) -> Path:
    return systemd.UNITS / f"{run.unit(site, name)}.service"


def _timer(site: Site, name: str) -> Path:
    return _service(site, name).with_suffix(".timer")


def _cron(site: Site, name: str) -> Path:
    return schedule_timer.CRON / run.unit(site, name)


def _link(timer: Path) -> Path:
    return systemd.UNITS / "timers.target.wants" / timer.name


def _end(site: Site, name: str) -> None:
    """End the command of a schedule, whatever started it."""
    for manager in instances.PROCESS_MANAGERS.values():
        manager.end_command(site, run.task(name))
    lock = run.lock(site, name, "")
    if lock.holder():
        lock.end_holders()


# When a schedule runs: systemd's calendar expressions and cron's five fields, and one in terms of the other

#: Words for the start of each hour, day, week and so on, which both have: as cron's five fields.
WORDS = {
    "minutely": "* * * * *",
    "hourly": "0 * * * *",
    "daily": "0 0 * * *",
    "weekly": "0 0 * * 1",
    "monthly": "0 0 1 * *",
    "yearly": "0 0 1 1 *",
}
_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
#: The first value of each of cron's fields: minute, hour, day of the month, month.
_FIRST = (0, 0, 1, 1)


def _is_fields(at: str) -> bool:
    """Return whether a time is written in cron's five fields."""
    return len(at.split()) == 5 and bool(re.fullmatch(r"[0-9*/, -]+", at))


def cron(at: str) -> str | None:
    """Return a time as cron's five fields, or None if only systemd knows it."""
    return " ".join(at.split()) if _is_fields(at) else WORDS.get(at)


def calendar(at: str) -> str:
    """Return a time as an expression of ``OnCalendar``.

    >>> calendar("*/15 8-18 * * 1-5")
    'Mon,Tue,Wed,Thu,Fri *-*-* 8..18:0/15:00'
    """
    if not _is_fields(at):
        return at
    *times, weekday = at.split()
    minute, hour, day, month = (_field(text, first) for text, first in zip(times, _FIRST, strict=True))
    days = "" if weekday == "*" else f"{','.join(_weekdays(weekday))} "
    return f"{days}*-{month}-{day} {hour}:{minute}:00"


def _field(text: str, first: int) -> str:
    parts = [re.sub(r"^\*/", f"{first}/", part).replace("-", "..") for part in text.split(",")]
    return ",".join(parts)


def _weekdays(text: str) -> list[str]:
    """Return the weekdays of cron's last field, in which both 0 and 7 are Sunday."""
    found = set()
    for part in text.split(","):
        span, _slash, step = part.partition("/")
        start, _hyphen, end = ("0-6" if span == "*" else span).partition("-")
        found |= {number % 7 for number in range(int(start), int(end or start) + 1, int(step or 1))}
    return [_DAYS[number] for number in (1, 2, 3, 4, 5, 6, 0) if number in found]


def _refuse_invalid_time(at: str, key: str) -> None:
    """Check with systemd that a time is valid and comes again.

    Args:
        key: the pillar key that sets it, for the error.

    Raises:
        DeploymentError: it is not.
    """
    expression, reason = calendar(at), ""
    try:
        argv = ["systemd-analyze", "calendar", expression]
        if "Next elapse: never" in commands.run(argv, doing="checking the time", timeout=10):
            reason = "it is in the past, or on a day that no month has"
    except DeploymentError as error:
        reason = (error.log.strip().splitlines() or [error.message])[-1]
    if reason:
        written = expression if expression == at else f"{at} (in systemd's notation: {expression})"
        raise DeploymentError(
            f"{key}: systemd does not accept {written}: {reason}",
            hint=f"try it: systemd-analyze calendar '{expression}'",
        )
