"""The verbs of schedules: run one now, list them with their last runs, and their part of `django.status`."""

from collections.abc import Mapping
from typing import Any

from django_formula.host import clock, daemons, units
from django_formula.schedule import run as schedule_run
from django_formula.schedule import schedules as schedule_schedules
from django_formula.schedule import timer as schedule_timer
from django_formula.site import sites
from django_formula.site.sites import Site


def run_now(name: str, schedule: str, asked_by: str = "django.run") -> dict[str, Any]:
    """Run a schedule of a site now; return its record with the output of its command.

    Raises:
        DeploymentError: there is no such schedule, it runs already, or the site has no active release or is in
            maintenance.
    """
    return schedule_run.run_schedule(sites.find(name), schedule, by=asked_by)


def rows(name: str) -> list[dict[str, Any]]:
    """Return a row for each schedule of a site.

    Raises:
        DeploymentError: there is no such site.
    """
    site = sites.find(name)
    return [_row(site, schedule) for schedule in schedule_schedules.installed(site)]


def _row(site: Site, name: str) -> dict[str, Any]:
    records = schedule_run.records(site, name)
    definition = schedule_schedules.definition(site, name)
    last = records["runs"][-1] if records["runs"] else {}
    return {
        "schedule": name,
        "at": definition["at"],
        "command": definition["command"],
        "next": _next(site, name),
        "last": result(records),
        "age": clock.age(last.get("begun", "")),
        "release": last.get("release", ""),
        "by": last.get("by", ""),
        "error": last.get("error") or "",
        "skipped": _skipped(records),
        "runs": records["runs"],
    }


def status(site: Site) -> str:
    """Return how the last runs ended: ``clearsessions ok 3 h ago; invoices failed (exit 1) 2 d ago``."""
    parts = []
    for name in schedule_schedules.installed(site):
        records = schedule_run.records(site, name)
        age = clock.age(records["runs"][-1]["begun"]) if records["runs"] else ""
        ago = f" for {age}" if records["running"] else f" {age} ago" if age else ""
        parts.append(f"{name} {result(records)}{ago}")
    return "; ".join(parts)


def idle(site: Site) -> str:
    """Return what cron would start of a site where it does not run; empty where it runs, or has nothing to start."""
    if daemons.has_systemd():
        return ""
    schedules = schedule_schedules.installed(site)
    tasks = [title.lower() for title in schedule_timer.by_cron(site)]
    waiting = [*([f"schedules ({', '.join(schedules)})"] if schedules else []), *tasks]
    if not waiting or schedule_timer.has_running_cron():
        return ""
    return f"does not run, so these wait: {', '.join(waiting)}; salt-call state.apply django starts it"


def result(records: Mapping[str, Any]) -> str:
    """Return the result of the last run: ok, failed (exit 1), running, interrupted, or never run."""
    if records["running"]:
        return "running"
    if not records["runs"]:
        return "never run"
    last = records["runs"][-1]
    if "ended" not in last:
        return "interrupted"
    if last.get("exit") == 0:
        return "ok"
    return "failed" if last.get("exit") is None else f"failed (exit {last['exit']})"


def _skipped(records: Mapping[str, Any]) -> str:
    """Return why the schedule did not run at its time, if that was after its last run."""
    skipped = records.get("skipped")
    if not skipped or (records["runs"] and records["runs"][-1]["begun"] > skipped["time"]):
        return ""
    return f"{clock.age(skipped['time'])} ago: {skipped['why']}"


def _next(site: Site, name: str) -> str:
    """Return when systemd starts a schedule next, by the clock of the host; empty for cron."""
    if not daemons.has_systemd():
        return ""
    timer = f"{schedule_run.unit(site, name)}.timer"
    return units.value(timer, "NextElapseUSecRealtime", timeout=10)
