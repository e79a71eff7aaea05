"""What a look finds on the host itself: units, memory, disks, boots."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.host import commands, daemons, proc
from django_formula.host import units as host_units
from django_formula.host.commands import DeploymentError
from django_formula.untrusted.text import InCommand, in_command
from django_formula.watch import decide
from django_formula.watch.problem import Problem

#: Properties of units, by their ids.
Units = dict[str, dict[str, str]]
#: What has happened: kind, text, command.
Happened = tuple[str, str, InCommand]

CGROUPS = Path("/sys/fs/cgroup")
BOOT = Path("/proc/sys/kernel/random/boot_id")
_PROPERTIES = "Id,ActiveState,NRestarts,Result,ControlGroup,ExecMainExitTimestampMonotonic"
_OF_RELEASE = re.compile(r"\d{4,}(-.*)?\.service")
#: Restarts since the last look that are a problem.
_RESTARTS = 2
#: The least share of free inodes, and the seconds within which a disk that fills up is a problem.
_INODES, _SOON = 0.05, 86400.0
#: Seconds between the two measurements that tell how fast a disk fills up.
_MEASURED = 3600.0
_NOTHING = in_command()
#: What systemd says, as a message of the journal, of a process that the kernel has killed for memory.
_KILLED = "fe6faa94e7774663a0da52717891d8ef"


def units() -> Units:
    """Return the state of all units of sites, by one call; none on a host without systemd."""
    if not daemons.has_systemd():
        return {}
    try:
        text = host_units.control("show", f"--property={_PROPERTIES}", "django-*.service", timeout=10)
    except DeploymentError:
        return {}
    found = {}
    for block in text.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if values.get("Id"):
            found[values["Id"]] = values
    return found


def _kills(unit: Mapping[str, str]) -> int:
    """Return how many processes of a unit the kernel has killed for memory; 0 where it does not count them."""
    with contextlib.suppress(OSError):
        events = (CGROUPS / unit.get("ControlGroup", "").lstrip("/") / "memory.events").read_text()
        counted = re.search(r"(?m)^oom_kill (\d+)", events)
        return int(counted[1]) if counted else 0
    return 0


def _killed(name: str, unit: Mapping[str, str], before: Sequence[int], since: float) -> int:
    """Return how many processes of a unit the kernel has killed for memory since the last look.

    A unit that was started again has a new control group, whose count begins anew: the journal has those of before.
    """
    restarts, kills = before
    if int(unit.get("NRestarts") or 0) <= restarts:
        return max(_kills(unit) - kills, 0)
    words = ["journalctl", "--quiet", "--output=cat", f"--since=@{since:.0f}", f"MESSAGE_ID={_KILLED}", f"UNIT={name}"]
    with contextlib.suppress(DeploymentError):
        return len(commands.run(words, doing="reading the journal", timeout=10).splitlines())
    return 0


def counters(units: Units) -> dict[str, list[int]]:
    """Return what the next look compares: restarts and kills of each unit."""
    return {name: [int(unit.get("NRestarts") or 0), _kills(unit)] for name, unit in units.items()}


def site_of(unit: str, names: Iterable[str]) -> str:
    """Return the site of a unit, empty for none: ``django-a-b-0001.service`` is of ``a-b``, if there is such a site."""
    return max((name for name in names if unit.startswith(f"django-{name}-")), key=len, default="")


def of_units(
    site: str, names: Iterable[str], units: Units, state: Mapping[str, Any]
) -> tuple[list[Problem], list[Happened]]:
    """Return what is wrong with the units of a site, and what has happened to them since the last look.

    Args:
        names: of all sites.
    """
    problems: list[Problem] = []
    events: list[Happened] = []
    before, since = state.get("units", {}), state.get("time", 0)
    for name, unit in units.items():
        if site_of(name, names) != site:
            continue
        rest = name.removeprefix(f"django-{site}-")
        known = before.get(name)
        command = in_command("journalctl", "-n", "50", "-u", name)
        again = int(unit["NRestarts"] or 0) - known[0] if known else 0
        if _OF_RELEASE.fullmatch(rest) and again >= _RESTARTS:
            problems.append(
                Problem("degraded", f"{name} was restarted {again} times since the last look", command, name)
            )
        if known and (killed := _killed(name, unit, known, since)):
            processes = "a process" if killed == 1 else f"{killed} processes"
            text = f"the kernel killed {processes} of {name}: its memory is at its limit (resources:MemoryMax)"
            events.append(("memory", text, command))
        problems += _failed(site, name, rest, unit)
    return problems, events


def _failed(site: str, name: str, rest: str, unit: Mapping[str, str]) -> Iterator[Problem]:
    """Yield that the last run of a unit of a timer has failed; schedules have records of their own."""
    kind = {"backup.service": "backup", "tls.service": "certificate"}.get(rest)
    if not kind or unit["ActiveState"] != "failed":
        return
    what = "the last backup" if kind == "backup" else "renewing its certificates"
    text = f"{what} failed: journalctl -u {name}"
    yield Problem(kind, text, in_command("systemctl", "start", name), "unit")


def of_host(
    folders: Iterable[Path], state: dict[str, Any], config: Mapping[str, Any], now: float
) -> tuple[list[Problem], list[Happened]]:
    """Return what is wrong with the host, and what has happened to it since the last look."""
    problems, events = list(_of_disks(folders, state, config["disk"] / 100, now)), []
    boot = f"{_text(BOOT)} {started.started if (started := proc.stat(1)) else ''}"
    before, gap = state.get("boot"), now - state.get("time", now)
    if before not in (None, boot):
        events.append(("rebooted", f"rebooted {decide.span(proc.age(1))} ago", _NOTHING))
    elif gap > 10 * config["every"]:
        command = in_command("journalctl", "-n", "50", "-u", "django-watch.service")
        events.append(("watch", f"the watch did not look for {decide.span(gap)}", command))
    state["boot"] = boot
    if state.get("took", 0) > 30:
        text = f"the last look of the watch took {state['took']:.0f} s"
        problems.append(Problem("watch", text, in_command("systemctl", "status", "django-watch.service"), "slow"))
    return problems, events


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""


def _of_disks(folders: Iterable[Path], state: dict[str, Any], least: float, now: float) -> Iterator[Problem]:
    before, measured = state.get("disks", {}), {}
    seen = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            device, disk = str(os.stat(folder).st_dev), os.statvfs(folder)
            if device in seen or not disk.f_blocks:
                continue
            seen.add(device)
            free = disk.f_bavail * disk.f_frsize
            measured[device] = before.get(device) or [now, free]
            yield from _of_disk(folder, device, disk, least, _rate(measured, device, free, now))
    state["disks"] = measured


def _rate(measured: dict[str, Any], device: str, free: int, now: float) -> float:
    """Return by how many bytes in a second a disk fills up, by a measurement of an hour ago; 0 before there is one."""
    since, before = measured[device][:2]
    if not decide.is_over(since, _MEASURED, now):
        return float(measured[device][2]) if len(measured[device]) > 2 else 0.0
    if since > now:
        measured[device] = [now, free]
        return 0.0
    rate: float = max(before - free, 0) / (now - since)
    measured[device] = [now, free, rate]
    return rate


def _of_disk(folder: Path, device: str, disk: os.statvfs_result, least: float, rate: float) -> Iterator[Problem]:
    free, share = disk.f_bavail * disk.f_frsize, disk.f_bavail / disk.f_blocks
    command = in_command("du", "-xh", "--max-depth=2", str(folder))
    within = f", full in about {decide.span(free / rate)}" if rate and free / rate < _SOON else ""
    if share < least or within:
        size = f"{free / (1 << 30):.1f} GiB"
        yield Problem("disk", f"{100 * share:.0f} % of {folder} is free ({size}){within}", command, device)
    elif disk.f_files and disk.f_favail / disk.f_files < _INODES:
        yield Problem(
            "disk", f"{100 * disk.f_favail / disk.f_files:.0f} % of the inodes of {folder} are free", command, device
        )
