"""Review the workers and scheduled jobs of an existing deployment: what each runs, and whether the pillar has it.

Imported by functions only: an apply without an existing deployment does not need it.
"""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.inspect import background, process_files, shell
from django_formula.inspect import worker as inspect_worker
from django_formula.inspect.worker import Worker
from django_formula.site.sites import Site
from django_formula.takeover import existing as takeover_existing
from django_formula.takeover import worker as takeover_worker
from django_formula.takeover.existing import ExistingDeployment
from django_formula.untrusted.text import in_pillar


def review(site: Site, existing: ExistingDeployment) -> None:
    """Refuse workers and jobs that the pillar does not have, and note those that it has."""
    at = site.at
    present = (site.config.get("workers") or {}).values()
    for name, command in existing.commands.items():
        worker = _worker(command)
        if worker and any(_covers(one, worker) for one in _with_all_queues(worker, present)):
            is_program = name in existing.program_names
            signal = program_signal(worker, existing.programs, name)
            existing.replaced[name] = signal if is_program else stop_signal(worker, existing.units, name)
        elif worker:
            entry = in_pillar({_name(name, worker): _entry(worker)})
            existing.refusals.append(
                f"{name} is a worker that the pillar does not have: set {at}:workers: {entry}, "
                "or stop it and remove what starts it"
            )
    for place, words, time, style in _jobs(existing):
        if _is_scheduled(site, words):
            existing.replaced |= {place: ""} if place in existing.timers else {}
            continue
        known = background.time(time, style)
        job = {inspect_worker.name(words[1]) or "job": {"command": shlex.join(words), "at": known or "daily"}}
        other = "" if known else f", with another time, since it does not take {time}"
        existing.refusals.append(
            f"{place} runs {shlex.join(words[:2])}, which the pillar does not: "
            f"set {at}:schedules: {in_pillar(job)}{other}, or remove it there"
        )


def _worker(command: str) -> Worker | None:
    commands = shell.commands(command)
    return inspect_worker.of(commands[-1], is_process=True) if commands else None


def _name(found: str, worker: Worker) -> str:
    """Return a name for the worker of a unit, a program or, after what it runs, of a process."""
    if worker.kind == "celery_beat":
        return "beat"
    is_process = found.startswith("process ")
    text = worker.about.get("command", worker.kind).rpartition(" ")[2] if is_process else found.removesuffix(".service")
    return inspect_worker.name(text) or "default"


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


def stop_signal(worker: Worker, units: Sequence[Path], name: str) -> str:
    """Return the line that a worker's unit needs to finish what it has in hand: on SIGTERM huey drops that."""
    unit = next((path for path in units if path.name == name), None)
    text = takeover_existing.read_text(unit) if unit else ""
    return "KillSignal=SIGINT" if worker.kind == "huey" and text and "KillSignal" not in text else ""


def program_signal(worker: Worker, programs: Sequence[Path], name: str) -> str:
    """Return the signal on which a worker of supervisor finishes what it has in hand."""
    text = "\n".join(map(takeover_existing.read_text, programs))
    section = re.search(rf"^\[program:{re.escape(name)}\](.*?)(?=^\[|\Z)", text, re.M | re.S)
    own = re.search(r"^stopsignal\s*=\s*(?:SIG)?(\w+)", section[1], re.M) if section else None
    return own[1] if own else "INT" if worker.kind == "huey" else "TERM"


# Jobs


def _jobs(existing: ExistingDeployment) -> Iterator[tuple[str, list[str], str, str]]:
    """Yield the jobs of an existing deployment: where each is, its command of manage.py, its time and how that is."""
    for name, (command, time) in existing.timers.items():
        words = _of_manage(command)
        if words:
            yield name, words, time, "calendar"
    for path in existing.crontabs:
        for row in takeover_worker.rows(path, existing.folders):
            words, time = of_row(path, row)
            if words:  # other lines are refused with the crontab
                yield str(path), words, time, "cron"


def of_row(path: Path, row: str) -> tuple[list[str], str]:
    """Return the command of manage.py in a line of a crontab, and its time; no words for another line."""
    time, command = process_files.cron_line(row)
    if path.parent.name != takeover_worker.OF_USERS:
        command = "".join(command.split(maxsplit=1)[1:])
    return (_of_manage(command) if time else []), time


def _of_manage(command: str) -> list[str]:
    """Return the words of a command of manage.py; none for another command."""
    commands = shell.commands(command) or [[]]
    words = commands[-1]
    return words if words[:1] == ["manage.py"] and len(words) > 1 else []
