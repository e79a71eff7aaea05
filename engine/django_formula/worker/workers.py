"""The workers of a site: every kind, those that the pillar has, and those that a release has.

A worker is a process of a site that serves no requests: it runs tasks of a queue, or a program of the project.
"""

import dataclasses
import itertools
import json
import shlex
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from django_formula.container import containers
from django_formula.host import file
from django_formula.host.commands import DeploymentError, seconds
from django_formula.kind import kinds
from django_formula.process import command, contract
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted import shapes
from django_formula.untrusted.foreign import Foreign

#: The options of every kind of worker, which its program does not read.
_OF_EVERY_KIND = ("kind", "patience", "resources")


class Worker:
    """One kind of worker: a row of `kind.kinds.WORKERS`, and its program ``django/files/django_formula_<kind>.py``.

    A kind of which more is to be said is a subclass.

    Its program runs in the release's virtualenv and reads ``config/worker-<name>.json``. It reports that it is ready by
    sd_notify and by its file ``ready``. On SIGTERM it takes nothing more, finishes what it has in hand and
    exits, whatever the programs that it runs expect. It is started before its release is activated, connects, and takes
    tasks only as long as ``current`` points to its release, no deployment holds the switch lock, and the file ``hold``
    is missing, which a migration that the release cannot run with puts there. The program of a kind that cannot run
    without taking tasks starts what it runs only then, stops it when that ends, and reports that it takes tasks while
    any process of that is left.

    Args:
        kind: its name in the pillar.

    Attributes:
        HOLDS: whether what it runs is started before the release is activated, and only takes no tasks until then.
    """

    HOLDS: ClassVar[bool] = True

    def __init__(self, kind: str):
        self.kind = kind

    @property
    def templates(self) -> tuple[str, ...]:
        """The URLs of its programs, which a release has copies of."""
        return tuple(f"{kinds.FILES}{name}" for name in kinds.WORKERS[self.kind].templates)

    def command(self, release: Path, name: str) -> list[str]:
        """Return the command that runs the worker of this name."""
        config = f"{release}/config"
        return [
            f"{release}/virtualenv/bin/python",
            f"{config}/django_formula_{self.kind}.py",
            f"{config}/worker-{name}.json",
        ]

    def writable(self, site: Site) -> list[Path]:
        """Return the folders that it may write to in addition to the site's own."""
        return [site.beat.top] if kinds.WORKERS[self.kind].has_schedule else []

    def settings(
        self, site: Site, release: Path, facts: Mapping[str, Any], worker: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what its program reads in addition to what every worker's does.

        Args:
            facts: what the start of the project reported.
            worker: the worker's part of the configuration.
        """
        beat = {"beat": str(site.beat)} if kinds.WORKERS[self.kind].has_schedule else {}
        return {**{option: value for option, value in worker.items() if option not in _OF_EVERY_KIND}, **beat}


class Command(Worker):
    """A command of the pillar; its program starts it while it may take tasks, and stops it when it may not any more."""

    HOLDS = False

    def settings(
        self, site: Site, release: Path, facts: Mapping[str, Any], worker: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the command and its arguments, the signal that stops it, and when it is ready."""
        words = shlex.split(worker["command"])
        if words[0] in ("manage.py", "./manage.py"):
            words = [f"{release}/virtualenv/bin/python", *command.management(release, facts), *words[1:]]
        reports = worker["ready"] == "notify"
        return {
            "argv": words,
            "processes": worker["processes"],
            "stop": worker["stop"],
            "ready_after": None if reports else seconds(worker["ready"]),
        }


#: Every kind of worker, by its name in the pillar.
WORKERS: dict[str, Worker] = {kind: {"command": Command}.get(kind, Worker)(kind) for kind in kinds.WORKERS}

#: Bytes of a state file that are read, names of tasks that are taken from it, and the highest of its numbers.
_STATE, _NAMES, _HIGHEST = 1 << 16, 100, 10**12
#: Of how many names it is taken how the tasks end, and by how many exceptions of each.
_OUTCOMES, _RAISED = 50, 5


class Outcome(NamedTuple):
    """How the tasks of a name have ended: how many, and how many of them by an exception of which class."""

    done: int
    raised: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class State:
    """What a worker's program reports of itself in its file ``state``; the site's user may have written anything.

    Attributes:
        pid: its process.
        time: when it was written, in seconds since 1970.
        fetching: whether it takes tasks.
        active: number of tasks that run; None where the kind does not report it.
        reserved: number of tasks that it has taken and not begun.
        done: number of tasks that have ended.
        tasks: names of those that run.
        failed: number of processes that failed, since the program was started; None where the kind does not report it.
        outcomes: how the tasks of each name have ended; empty where the kind does not report it.
    """

    pid: int
    time: float
    fetching: bool
    active: int | None = None
    reserved: int | None = None
    done: int | None = None
    tasks: tuple[str, ...] = ()
    failed: int | None = None
    outcomes: Mapping[str, Outcome] = dataclasses.field(default_factory=dict)


_COUNT = (int, types.NoneType)
_SHAPE = {
    **{"pid": int, "time": float, "fetching": bool, "tasks?": [str]},
    **dict.fromkeys(("active?", "reserved?", "done?", "failed?"), _COUNT),
    "outcomes?": {str: {"done": int, "raised": {str: int}}},
}


def state(run: Foreign) -> State | None:
    """Return what a worker reports of itself, or None where it reports nothing that can be read.

    Args:
        run: the folder of the worker's unit in /run.
    """
    try:
        found = json.loads((run / "state").text(_STATE) or "null")
    except (DeploymentError, OSError, ValueError, RecursionError):  # a unit that has ended has no folder
        return None
    if not isinstance(found, dict) or not shapes.fits(found, _SHAPE):
        return None
    tasks = tuple(name[:200] for name in found.get("tasks", ())[:_NAMES] if name.isprintable())
    counts = {name: found.get(name) for name in ("active", "reserved", "done", "failed")}
    if not all(0 <= (number or 0) <= _HIGHEST for number in (found["pid"], *counts.values())):
        return None
    outcomes = _outcomes(found.get("outcomes", {}))
    return State(found["pid"], found["time"], found["fetching"], tasks=tasks, outcomes=outcomes, **counts)


def _outcomes(found: dict[str, Any]) -> dict[str, Outcome]:
    """Return how the tasks of each name have ended, of what has the expected shape: bounded and printable."""
    return {
        name[:200]: Outcome(
            row["done"], {text[:200]: n for text, n in itertools.islice(row["raised"].items(), _RAISED)}
        )
        for name, row in itertools.islice(found.items(), _OUTCOMES)
        if all(text.isprintable() for text in (name, *row["raised"]))
        and all(0 <= number <= _HIGHEST for number in (row["done"], *row["raised"].values()))
    }


def configured(site: Site) -> dict[str, Worker]:
    """Return the workers of a site's new releases, by name."""
    return {name: WORKERS[worker["kind"]] for name, worker in _configured(site).items()}


def recorded(release: Path) -> dict[str, dict[str, Any]]:
    """Return what ``config/workers.json`` of a release records: name → ``kind`` and ``patience`` (seconds)."""
    shape = {str: {"kind": str, "patience": int}}
    found = file.read_json(release / "config/workers.json", shape) or {}
    return {name: worker for name, worker in found.items() if worker["kind"] in WORKERS}


def _configured(site: Site) -> dict[str, dict[str, Any]]:
    return dict(site.config.get("workers") or {})


def failing_unknown(site: Site) -> list[str]:
    """Return the kinds of the site's workers that fail a task which their release does not know."""
    known = {worker["kind"]: kinds.WORKERS[worker["kind"]] for worker in _configured(site).values()}
    return [name for name, kind in known.items() if kind.takes_tasks and not kind.parks_unknown]


def of_celery(site: Site) -> dict[str, dict[str, Any]]:
    """Return the workers that run the project's Celery app, by name."""
    return {name: worker for name, worker in _configured(site).items() if worker["kind"] in ("celery", "celery_beat")}


def start_request(site: Site, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the request for the start of Django has for the site's workers; nothing for a site without."""
    workers = of_celery(site)
    apps = {name: worker["app"] or "" for name, worker in workers.items()}
    tasks = {name: worker for name, worker in _configured(site).items() if kinds.WORKERS[worker["kind"]].takes_tasks}
    about = {
        name: {"kind": worker["kind"], "app": worker.get("app") or "", "queues": worker.get("queues") or []}
        for name, worker in tasks.items()
    }
    return {
        **({"celery": {"workers": apps, "modules": modules(facts)}} if workers else {}),
        **({"workers": about, "modules": modules(facts)} if about else {}),
    }


def modules(facts: Mapping[str, Any]) -> list[str]:
    """Return the modules of a project that are in the packages in which its Celery app is looked for."""
    return [facts["settings_module"], facts["application"]]


def programs(site: Site) -> list[str]:
    """Return the URLs of the programs that look at a site's workers before these are configured."""
    names: list[str] = []
    for worker in _configured(site).values():
        names += [name for name in kinds.WORKERS[worker["kind"]].templates if name not in names]
    return [f"{kinds.FILES}{name}" for name in names]


def switch_lock(site: Site) -> Path:
    """Return the file that a deployment locks while it switches: as long as it does, no worker takes a task."""
    return sites.RUNTIME / f"{site.name}.switch"


def unit(site: Site, release: Path, name: str) -> str:
    """Return the name of the unit or program of a release's worker: ``django-blog-0042-default``."""
    return f"{contract.unit(site, release)}-{name}"


def configuration(
    site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
) -> dict[str, str]:
    """Return the workers' files of a release: name in ``config/`` → content; none for a site without workers.

    Args:
        variables: those of the release's instance (`release.instances`).
    """
    files: dict[str, str] = {}
    configured = _configured(site)
    top = containers.ROOT if containers.expected(site, release) else site.root
    for name, worker in configured.items():
        kind, own_unit = WORKERS[worker["kind"]], unit(site, release, name)
        given = {
            "name": name,
            "unit": own_unit,
            "run": str(contract.run_folder(site, release, name)),
            "release": str(release),
            "current": str(top / site.current.name),
            "switch": str(switch_lock(site)),
            "hold": str(top / site.maintenance.name / "on/hold"),
            "folder": variables["chdir"],
            "modules": modules(variables["facts"]),
            **kind.settings(site, release, variables["facts"], worker),
        }
        files[f"worker-{name}.json"] = json.dumps(given, indent=1, sort_keys=True) + "\n"
        files |= {url.rpartition("/")[2]: templates[url] for url in kind.templates}
    if configured:
        parts = {
            name: {"kind": worker["kind"], "patience": int(seconds(worker["patience"]))}
            for name, worker in configured.items()
        }
        files["workers.json"] = json.dumps(parts, sort_keys=True) + "\n"
    return files
