"""The workers and scheduled jobs of an existing deployment: what they run, and whether the pillar has each of them."""

import contextlib
import os
import pwd
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import django_host_command
import django_host_file
import django_host_service
import django_host_user
import django_project_process_files
import django_project_report
import django_project_shell
import django_project_worker
import django_takeover_existing
from django_host_command import seconds
from django_project_worker import Worker
from django_site import Site
from django_takeover_existing import ExistingDeployment

#: Crontabs whose lines name the user that runs them.
_SYSTEM_CRONTABS = "cron.d"


def review(site: Site, existing: ExistingDeployment) -> None:
    """Refuse workers and jobs that the pillar does not have, and note those that it has."""
    at = f"django:sites:{site.name}"
    present = (site.config.get("workers") or {}).values()
    for name, command in existing.commands.items():
        worker = _worker(command)
        if worker and any(_covers(one, worker) for one in _with_all_queues(worker, present)):
            existing.replaced[name] = stop_signal(worker, existing.units, name)
        elif worker:
            entry = django_project_report.flow({_name(name, worker): _entry(worker)})
            existing.refusals.append(
                f"{name} is a worker that the pillar does not have: set {at}:workers: {entry}, "
                "or stop it and remove what starts it"
            )
    for place, words, time in _jobs(existing):
        if _is_scheduled(site, words):
            existing.replaced |= {place: ""} if place in existing.timers else {}
            continue
        job = {django_project_worker.name(words[1]) or "job": {"command": shlex.join(words), "at": time}}
        existing.refusals.append(
            f"{place} runs {shlex.join(words[:2])}, which the pillar does not: "
            f"set {at}:schedules: {django_project_report.flow(job)}, or remove it there"
        )


def _worker(command: str) -> Worker | None:
    commands = django_project_shell.commands(command)
    return django_project_worker.of(commands[-1], is_process=True) if commands else None


def _name(found: str, worker: Worker) -> str:
    """Return a name for the worker of a unit, a program or, after what it runs, of a process."""
    if worker.kind == "celery_beat":
        return "beat"
    is_process = found.startswith("process ")
    text = worker.about.get("command", worker.kind).rpartition(" ")[2] if is_process else found.removesuffix(".service")
    return django_project_worker.name(text) or "default"


def _entry(worker: Worker) -> dict[str, Any]:
    entry = {"kind": worker.kind, **worker.about, "queues": worker.queues, "processes": worker.processes}
    return {key: value for key, value in entry.items() if value}


def _with_all_queues(worker: Worker, present: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the pillar's workers of the same kind, and all of them as one, which takes the queues of each."""
    same = [one for one in present if one["kind"] == worker.kind]
    yield from same
    if same and all(one.get("queues") for one in same):
        yield {**same[0], "queues": [queue for one in same for queue in one["queues"]]}


def _covers(configured: Mapping[str, Any], worker: Worker) -> bool:
    """Return whether a worker of the pillar does what one of an existing deployment did."""
    if worker.kind == "command":
        return shlex.split(configured["command"]) == shlex.split(worker.about["command"])
    queues = configured.get("queues")
    return not worker.queues or not queues or {*worker.queues} <= {*queues}


def _is_scheduled(site: Site, command: Sequence[str]) -> bool:
    schedules = (site.config.get("schedules") or {}).values()
    return any(shlex.split(one["command"]) == [*command] for one in schedules)


# Jobs


def _jobs(existing: ExistingDeployment) -> Iterator[tuple[str, list[str], str]]:
    """Yield the jobs of an existing deployment: where each is, its command of manage.py, its time."""
    for name, (command, time) in existing.timers.items():
        words = _of_manage(command)
        if words:
            yield name, words, time
    for path in existing.crontabs:
        for row in rows(path, existing.folders):
            words, time = of_row(path, row)
            if words:  # other lines are refused with the crontab
                yield str(path), words, time


def rows(path: Path, folders: Sequence[Path]) -> list[str]:
    """Return the lines of a crontab that name a path below one of these folders."""
    return [row for row in _text(path).splitlines() if django_takeover_existing.names_path_below(row, folders)]


def _text(path: Path) -> str:
    return django_host_file.read_untrusted(path).decode(errors="surrogateescape")


def of_row(path: Path, row: str) -> tuple[list[str], str]:
    """Return the command of manage.py in a line of a crontab, and its time; no words for another line."""
    time, command = django_project_process_files.cron_line(row)
    if path.parent.name == _SYSTEM_CRONTABS:
        command = command.partition(" ")[2]
    return (_of_manage(command) if time else []), time


def _of_manage(command: str) -> list[str]:
    """Return the words of a command of manage.py; none for another command."""
    commands = django_project_shell.commands(command) or [[]]
    words = commands[-1]
    return words if words[:1] == ["manage.py"] and len(words) > 1 else []


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
    kept = [row for row in _text(path).splitlines() if row not in removed]
    text = "".join(f"{row}\n" for row in kept)
    user, group = pwd.getpwuid(status.st_uid).pw_name, django_host_user.group_name(status.st_gid)
    django_host_file.write(path, text, mode=status.st_mode & 0o777, user=user, group=group)


# The switch


def patience(site: Site) -> float:
    """Return how long workers may finish what they have in hand: the longest `patience` of the pillar's."""
    present = (site.config.get("workers") or {}).values()
    return max([10.0, *(seconds(one["patience"]) for one in present)])


def _drop_in(unit: str) -> Path:
    """Return the file that changes a unit until the next boot."""
    return django_host_service.SYSTEMD / f"{unit}.d/django-formula.conf"


def ask_to_stop(site: Site, plan: Mapping[str, Any]) -> None:
    """Let the old workers take nothing more: each finishes what it has in hand, for `patience` at most.

    Units get ``KillMode=mixed``: by systemd's default SIGTERM reaches the processes of a worker's pool too, and tasks
    that they have begun are lost.
    """
    units = _units(plan)
    for unit in units:
        lines = ["[Service]", "KillMode=mixed", f"TimeoutStopSec={patience(site):.0f}"]
        signal = plan["replaced"][unit]
        _drop_in(unit).parent.mkdir(parents=True, exist_ok=True)
        django_host_file.write(_drop_in(unit), "\n".join([*lines, *filter(None, [signal]), ""]), mode=0o644)
    if units:
        django_host_command.run(["systemctl", "daemon-reload"], doing="reloading the units")
        django_host_command.run(["systemctl", "stop", "--no-block", *units], doing="stopping the old workers")


def start_again(plan: Mapping[str, Any]) -> None:
    """Start the old workers again where the switch has failed."""
    units = _units(plan)
    if units:
        forget(plan)
        django_host_command.run(["systemctl", "daemon-reload"], doing="reloading the units")
        django_host_command.run(["systemctl", "start", *units], doing="starting the old workers")


def forget(plan: Mapping[str, Any]) -> None:
    """Remove what `ask_to_stop` has added to the units; systemd has to be reloaded then."""
    for unit in plan.get("replaced", {}):
        _drop_in(unit).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # missing, or another one's drop-ins are there
            _drop_in(unit).parent.rmdir()


def _units(plan: Mapping[str, Any]) -> list[str]:
    """Return the units of systemd among the workers that the pillar replaces, as long as they are in their place."""
    present = [path.name for path in map(Path, plan["units"]) if path.exists()]
    return [name for name in plan.get("replaced", {}) if name in present] if django_host_service.has_systemd() else []


def stop_signal(worker: Worker, units: Sequence[Path], name: str) -> str:
    """Return the line that a worker's unit needs to finish what it has in hand: on SIGTERM huey drops that."""
    unit = next((path for path in units if path.name == name), None)
    text = django_takeover_existing.read_text(unit) if unit else ""
    return "KillSignal=SIGINT" if worker.kind == "huey" and text and "KillSignal" not in text else ""


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
