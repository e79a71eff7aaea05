"""The background work of a project in the pillar: workers, schedules, and the stores that they need."""

import re
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django_formula.host import cron
from django_formula.inspect import code, process_files, project, python_path, shell
from django_formula.inspect import settings as inspect_settings
from django_formula.inspect import stores as inspect_stores
from django_formula.inspect import tasks as inspect_tasks
from django_formula.inspect import worker as inspect_worker
from django_formula.inspect.process_files import Line
from django_formula.inspect.report import Report
from django_formula.inspect.settings import Settings
from django_formula.inspect.stores import Stores
from django_formula.inspect.values import Called, Value, truth
from django_formula.inspect.worker import Worker
from django_formula.knowledge.rows import rows
from django_formula.server import servers

#: What the pillar takes as the application and the queues of a worker, and as its signal.
APP = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*(:[A-Za-z_][A-Za-z0-9_]*)?")
QUEUE = re.compile(r"(?!-)[A-Za-z0-9_.:@-]{1,100}")
STOPS = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH")
#: A variable in a command, which only a shell replaces, and what the pillar refuses in one, as Jinja.
_OF_SHELL = re.compile(r"\$[A-Za-z_{]")
_OF_JINJA = re.compile(r"\{\{.*\}\}|\{%.*%\}", re.DOTALL)
#: Programs that serve pages, and those of the host.
_SERVERS = re.compile(rf"{servers.programs()}|nginx|caddy|celery|flower|npm|yarn|node")


@dataclass
class _Found:
    """What the files of a project run.

    Attributes:
        workers: name → worker.
        places: name → where it was found.
        schedules: name → the job as the pillar has it, and where it was found.
        unknown: what the files run and is not understood.
    """

    workers: dict[str, Worker] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    schedules: dict[str, tuple[dict[str, str], str]] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, worker: Worker, place: str) -> None:
        """Add a worker under a name that is free, unless it is known from another file."""
        if worker.identity in [known.identity for known in self.workers.values()]:
            return
        singles = [known for known in self.workers.values() if known.kind == worker.kind == "celery_beat"]
        if singles:
            return
        name = "beat" if worker.kind == "celery_beat" else name or "default"
        name = _free(name, self.workers)
        self.workers[name], self.places[name] = worker, place


def _free(name: str, taken: Collection[str]) -> str:
    """Return a name, with the first number that makes it free where it is taken: ``mail``, ``mail_2``, ``mail_3``."""
    numbered = (f"{name}_{number}" for number in range(2, len(taken) + 3))
    return next(one for one in (name, *numbered) if one not in taken)


def add(
    report: Report,
    tree: Path,
    roots: Sequence[Path],
    settings: Settings,
    required: Collection[str],
    declared: Iterable[process_files.Line],
) -> Stores:
    """Add workers, schedules and stores to a report, and return the stores.

    Args:
        declared: the commands that deployment files of other platforms declare.
        roots: the folders that the project is imported from, the folder of manage.py first.
        required: the packages that the project requires.
    """
    packages = {re.sub(r"\[.*", "", name) for name in required}
    found = _of_files(report, tree, declared)
    _without_folder(found, roots)
    tasks = inspect_tasks.read(roots) if "celery" in packages else inspect_tasks.Tasks()
    _without_app(found, roots, tasks)
    _of_code(found, settings, packages, tasks)
    _without_package(report, found, packages)
    _without_eager(report, found, settings)
    _of_cronjobs(found, settings)
    _of_own_settings(found, settings, roots, report.settings_module)
    _without_refused(found)
    commands = [worker.about.get("command", "") for worker in found.workers.values()]
    stores = inspect_stores.read(settings, [worker.kind for worker in found.workers.values()], commands)
    _write(report, found, stores)
    _remark(report, found, stores, tasks)
    return stores


# Files


def _of_files(report: Report, tree: Path, declared: Iterable[process_files.Line]) -> _Found:
    found = _Found()
    remarks: list[str] = []
    lines = process_files.lines(tree, remarks)
    report.remarks += remarks
    of_scripts = [line for line in lines if not line.is_own and Path(line.place).suffix in ("", ".sh")]
    for line in [*(line for line in lines if line not in of_scripts), *declared, *of_scripts]:
        commands = shell.commands(line.command)
        if commands is None:
            if line.is_own:
                found.unknown.setdefault(line.name or line.command[:60], line.place)
        elif line.at:
            _schedule(found, line, commands)
        elif commands:
            _process(found, line, commands)
    return found


def _without_folder(found: _Found, roots: Sequence[Path]) -> None:
    """Name Celery's applications as they are imported from the folder of manage.py, not from the one above it."""
    for worker in found.workers.values():
        folder, _dot, app = worker.about.get("app", "").partition(".")
        is_inside = folder == roots[0].name and not python_path.is_own(roots, folder)
        if is_inside and python_path.is_own(roots, re.split("[.:]", app)[0]):
            worker.about["app"] = app


def _without_app(found: _Found, roots: Sequence[Path], tasks: inspect_tasks.Tasks) -> None:
    """Leave out workers of Celery applications that are not the project's, such as that of a program next to it.

    A package of the project that surely has no application is replaced by the only one that the project has.
    """
    for name, worker in [*found.workers.items()]:
        app = re.split("[.:]", worker.about.get("app", ""))[0]
        is_one = any(re.fullmatch(rf"{re.escape(app)}(\.celery)?(:\w+)?", known) for known in tasks.apps)
        packages = [root / app for root in roots if (root / app / "__init__.py").is_file()] if app else []
        is_own = python_path.is_own(roots, app.partition(".")[0])
        if packages and len(tasks.apps) == 1 and not is_one and not any(map(_may_have_app, packages)):
            worker.about["app"] = next(iter(tasks.apps))
        if app and not is_one and not packages and (tasks.apps or not is_own):
            found.unknown.setdefault(name, found.places.pop(name))
            del found.workers[name]


def _may_have_app(package: Path) -> bool:
    """Return whether a package may have an application of Celery, by a name in it or in its module for that."""
    is_named = "celery" in code.read(package / "__init__.py").lower()
    return is_named or (package / "celery.py").exists() or (package / "celery").exists()


def _process(found: _Found, line: Line, commands: list[list[str]]) -> None:
    """Add the worker that a line runs, which is the last of its commands."""
    is_own = line.is_own and not line.place.endswith(".sh")
    worker = inspect_worker.of(commands[-1], is_process=is_own)
    command = worker.about.get("command", "") if worker else ""
    if _OF_SHELL.search(command) or _OF_JINJA.search(command):
        worker = None
    is_known = worker and not is_own and worker.kind in {known.kind for known in found.workers.values()}
    if worker and not worker.queues and is_known and line.place.endswith(".sh"):
        return
    if worker:
        is_stop = worker.kind == "command" and line.stop in STOPS
        worker.about |= {"stop": line.stop} if is_stop else {}
        if line.stop and worker.kind == "command" and not is_stop:
            found.unknown.setdefault(f"{line.name} {line.stop}", line.place)
        named = worker.about.get("command", "").removeprefix("manage.py ").split()[:1]
        found.add(inspect_worker.name(line.name or "".join(named)), worker, line.place)
        if worker.has_beat:
            found.add("beat", Worker("celery_beat", about={**worker.about}), line.place)
        if worker.ignored:
            found.unknown.setdefault(f"{line.name or commands[-1][0]} --{' --'.join(worker.ignored)}", line.place)
    elif is_own and not inspect_worker.is_once(commands[-1]) and not _is_server(commands[-1]):
        found.unknown.setdefault(line.name or commands[-1][0], line.place)


def _is_server(words: Sequence[str]) -> bool:
    """Return whether a command serves pages, or is a program of the host and not of the project."""
    is_unread = words[0] == "celery" and not {"worker", "beat"}.isdisjoint(words)
    return bool(_SERVERS.fullmatch(words[0])) and not is_unread


def _schedule(found: _Found, line: Line, commands: list[list[str]]) -> None:
    """Add a job, if the last of its commands is one of manage.py."""
    words = commands[-1] if commands else []
    if line.style == "cron" and words[:1] != ["manage.py"]:  # of a crontab of the system, which has a column of users
        _user, _space, rest = line.command.partition(" ")
        of_user = (shell.commands(rest.strip()) or [[]])[-1]
        words = of_user if of_user[:1] == ["manage.py"] else words
    at, is_plain = time(line.at, line.style), "$" not in "".join(words) and not _OF_JINJA.search(shlex.join(words))
    if words[:1] == ["manage.py"] and len(words) > 1 and at and is_plain:
        named = "_".join(word for word in words[1:3] if re.fullmatch(r"[A-Za-z]\w*", word))
        name = inspect_worker.name(line.name) or inspect_worker.name(named) or "job"
        _add_schedule(found, name, shlex.join(words), at, line.place)
    elif line.is_own:
        found.unknown.setdefault(line.name or (shlex.join(words) if words else line.command)[:60], line.place)


def _add_schedule(found: _Found, name: str, command: str, at: str, place: str) -> None:
    job = {"command": command, "at": at}
    if job not in [known for known, _place in found.schedules.values()]:
        found.schedules[_free(name, found.schedules)] = (job, place)


#: Words of cron → those of the pillar.
_CRON_WORDS = {
    **{"@hourly": "hourly", "@daily": "daily", "@midnight": "daily", "@weekly": "weekly", "@monthly": "monthly"},
    **{"@yearly": "yearly", "@annually": "yearly"},
}


#: A field of cron without names, and times of systemd that the pillar has.
_FIELD = re.compile(r"(\*|[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)(/[0-9]{1,2})?")
_DAY, _NUMBERS = "(Mon|Tue|Wed|Thu|Fri|Sat|Sun)", r"(\*|[0-9]{1,2})((,|\.\.)[0-9]{1,2})*(/[0-9]{1,2})?"
_CALENDAR = re.compile(
    rf"minutely|hourly|daily|weekly|monthly|quarterly|yearly|(?=.)({_DAY}((,|\.\.){_DAY})*( |$))?"
    rf"(((\*|[0-9]{{4}})-)?{_NUMBERS}[-~]{_NUMBERS}( |$))?({_NUMBERS}(:{_NUMBERS}){{1,2}}"
    r"( (UTC|[A-Z][A-Za-z_]+/[A-Z][A-Za-z_+-]+))?)?(?<! )"
)


def time(at: str, style: str) -> str:
    """Return the time of a job as the pillar has it; empty for one that it cannot have.

    A day of the month and one of the week are either of them in cron, and both of them in systemd.

    Args:
        style: ``cron`` or ``calendar``.
    """
    if style == "calendar":
        return at if _CALENDAR.fullmatch(at) else ""
    fields = at.split()
    if len(fields) != 5 or not all(map(_FIELD.fullmatch, fields)):
        return _CRON_WORDS.get(at, "")
    is_either = fields[4] != "*" and (fields[2] != "*" or "/" in fields[4])
    text = " ".join(re.sub(r"[0-9]+", lambda number: str(int(number[0])), field) for field in fields)
    return "" if is_either or any(cron.problems(text)) else text


# Code and settings


def _of_code(found: _Found, settings: Settings, packages: set[str], tasks: inspect_tasks.Tasks) -> None:
    """Add the workers that the code is for and no file runs."""
    kinds = {worker.kind for worker in found.workers.values()}
    if tasks.apps and "celery" not in kinds:
        place = next(iter(tasks.apps.values()))
        about = {"app": next(iter(tasks.apps))} if len(tasks.apps) == 1 else {}
        found.add("default", Worker("celery", _queues(settings, tasks), about=about), place)
    if tasks.apps and "celery_beat" not in kinds and _has_beat(settings, tasks):
        found.add("beat", Worker("celery_beat", about={}), "the entries of beat")
    queues = settings.get("RQ_QUEUES")
    if {"rq", "django-rq"} & packages and "rq" not in kinds and isinstance(queues, dict) and queues:
        found.add("rq", Worker("rq", [str(one) for one in queues]), "RQ_QUEUES")
    if "huey" in packages and "huey" not in kinds and _has_app(settings, "huey.contrib.djhuey", "bx_django_utils"):
        found.add("huey", Worker("huey"), "INSTALLED_APPS")
    commands = {worker.about.get("command", "") for worker in found.workers.values()}
    for row in rows("workers"):
        command = row["command"]
        if _has_app(settings, *row["apps"]) and not any(one.startswith(f"manage.py {command}") for one in commands):
            worker = Worker("command", about={"command": f"manage.py {command}"})
            found.add(command, worker, "INSTALLED_APPS")


def _has_app(settings: Settings, *names: str) -> bool:
    installed = settings.get("INSTALLED_APPS")
    texts = [str(one) for one in installed] if isinstance(installed, list) else []
    return any(one == name or one.startswith(f"{name}.") for one in texts for name in names)


def _queues(settings: Settings, tasks: inspect_tasks.Tasks) -> list[str]:
    """Return the queues that tasks are sent to, the default one first; none where that is the only one."""
    routes = [settings.get(name) for name in ("CELERY_TASK_ROUTES", "CELERY_ROUTES")]
    named = [str(route["queue"]) for one in routes if isinstance(one, dict) for route in one.values() if _routes(route)]
    named += tasks.queues
    for setting in ("CELERY_TASK_QUEUES", "CELERY_QUEUES"):
        queues = settings.values.get(setting, Value()).content
        for one in queues if isinstance(queues, list) else ():
            first = one.content.args[:1] if isinstance(one.content, Called) else []
            named += [str(part.content) for part in first if isinstance(part.content, str)]
    defaults = [settings.get(name) for name in ("CELERY_TASK_DEFAULT_QUEUE", "CELERY_DEFAULT_QUEUE")]
    default = next((str(one) for one in defaults if isinstance(one, str)), "celery")
    every = [*dict.fromkeys([default, *named])]
    return every if len(every) > 1 else []


def _routes(route: Any) -> bool:
    return isinstance(route, dict) and isinstance(route.get("queue"), str)


def _has_beat(settings: Settings, tasks: inspect_tasks.Tasks) -> bool:
    named = [settings.get(name) for name in ("CELERY_BEAT_SCHEDULE", "CELERYBEAT_SCHEDULE")]
    return (
        tasks.has_beat or any(isinstance(one, dict) and one for one in named) or _has_app(settings, *rows("beat_apps"))
    )


def _without_package(report: Report, found: _Found, packages: Collection[str]) -> None:
    """Remove workers of a package that the project does not require, such as one of an extra; name it in a remark."""
    for name, worker in [*found.workers.items()]:
        package = worker.kind.partition("_")[0]
        is_required = not packages or worker.kind == "command" or any(package in one for one in packages)
        if not is_required:
            del found.workers[name]
            place = found.places.pop(name)
            report.remarks.append(f"{place} runs {package}, which is not required: no worker is proposed for it")


def _without_refused(found: _Found) -> None:
    """Remove the names of queues and of an application that the pillar does not take."""
    for name, worker in found.workers.items():
        refused = [queue for queue in worker.queues if not QUEUE.fullmatch(queue)]
        worker.queues = [queue for queue in dict.fromkeys(worker.queues) if queue not in refused]
        app = worker.about.get("app", "")
        if app and not APP.fullmatch(app):
            refused.append(worker.about.pop("app"))
        for one in refused:
            found.unknown.setdefault(f"{one} of {name}", found.places[name])


def _without_eager(report: Report, found: _Found, settings: Settings) -> None:
    """Leave Celery's workers out of a project whose settings run every task at once, in the web process."""
    for name in ("CELERY_TASK_ALWAYS_EAGER", "CELERY_ALWAYS_EAGER"):
        eager = settings.values.get(name, Value(False))
        celery = [worker for worker, about in found.workers.items() if about.kind == "celery"]
        if not celery or truth(eager) is not True:
            continue
        if eager.taint:
            variables = project.listed(sorted(eager.taint))
            report.remarks.append(f"tasks of Celery run in the web process unless {name} is false: set {variables}")
            continue
        for worker in celery:
            del found.workers[worker]
        report.remarks.append(f"{name} is set: tasks of Celery run in the web process, no worker is proposed")


def _of_own_settings(found: _Found, settings: Settings, roots: Sequence[Path], settings_module: str) -> None:
    """Add the broker, and the variables with its URLs, of settings that a Celery app has besides those of the site.

    Its module names them for Django, where none are named yet, and code that sends tasks imports them.
    """
    apps = [worker.about.get("app", "").partition(":")[0] for worker in found.workers.values()]
    modules = [f"{app}{end}" for app in dict.fromkeys(filter(None, apps)) for end in ("", ".celery", ".celery_app")]
    files = (python_path.module_file(root, module) for module in modules for root in roots)
    named = dict.fromkeys(code.settings_named(file) for file in files if file)
    for module in named:
        if module in ("", settings_module) or any(name in settings.values for name in inspect_stores.BROKERS):
            continue
        more = inspect_settings.read(roots, module, settings.given)
        settings.values |= {name: more.values[name] for name in inspect_stores.BROKERS if name in more.values}
        for name in {*inspect_stores.read(more, ["celery"], []).words} & {*more.variables}:  # others are made
            settings.variables.setdefault(name, more.variables[name])


def _of_cronjobs(found: _Found, settings: Settings) -> None:
    """Add the jobs of django-crontab, which are functions or management commands."""
    jobs = settings.get("CRONJOBS")
    for job in jobs if isinstance(jobs, list) else ():
        is_known = isinstance(job, list) and len(job) > 1 and all(isinstance(one, str) for one in job[:2])
        at = time(job[0], "cron") if is_known else ""
        module, _dot, function = job[1].rpartition(".") if is_known else ("", "", "")
        arguments = [one for one in job[2:3] if isinstance(one, list)] if is_known else []
        if is_known and at and job[1] == "django.core.management.call_command" and arguments and arguments[0]:
            words = [str(one) for one in arguments[0]]
            name = inspect_worker.name(words[0]) or "job"
            _add_schedule(found, name, shlex.join(["manage.py", *words]), at, "CRONJOBS")
        elif at and code.is_module(job[1]) and module and not (arguments and arguments[0]):
            command = f"manage.py shell -c 'import {module}; {module}.{function}()'"
            _add_schedule(found, inspect_worker.name(function) or "job", command, at, "CRONJOBS")
        else:
            found.unknown.setdefault(str(job[1]) if is_known else "a job", "CRONJOBS")


# The pillar


def _write(report: Report, found: _Found, stores: Stores) -> None:
    if found.workers:
        workers = {name: (_entry(worker), found.places[name]) for name, worker in found.workers.items()}
        report.set("workers", workers)
    if found.schedules:
        report.set("schedules", found.schedules)
    if stores.queue:
        report.set("queue", {"engine": "redis"}, f"for {stores.queue}: a server of the site's own")
    if stores.caches == {"default": stores.caches.get("default", "")}:
        report.set("cache", {"engine": stores.caches["default"]}, "the settings have such a cache")
    elif stores.caches:
        engines = {alias: {"engine": engine} for alias, engine in stores.caches.items()}
        report.set("caches", engines, "the settings have such caches")
    if stores.sessions:
        report.set("sessions", stores.sessions, "the project has sessions in its cache only, where a restart ends them")


def _entry(worker: Worker) -> dict[str, Any]:
    """Return a worker as the pillar has it."""
    entry: dict[str, Any] = {"kind": worker.kind, **worker.about}
    entry |= {"queues": worker.queues} if worker.queues else {}
    entry |= {"processes": worker.processes} if worker.processes else {}
    return entry | ({"options": worker.options} if worker.options else {})


def _remark(report: Report, found: _Found, stores: Stores, tasks: inspect_tasks.Tasks) -> None:
    for broker, place in tasks.brokers.items():
        scheme = broker.partition(":")[0]
        report.remarks.append(
            f"{place}: the code names a broker ({scheme}); take it out, or the worker uses it and not the site's queue"
        )
    for about in stores.elsewhere:
        report.remarks.append(f"on another host, so nothing is set up for it: {about}")
    if found.unknown:
        named = [f"{name} ({place})" for name, place in found.unknown.items()]
        report.remarks.append(f"not understood, and not in the pillar: {project.listed(named)}")
    taken = {queue for worker in found.workers.values() for queue in worker.queues}
    has_all = any(worker.kind == "celery" and not worker.queues for worker in found.workers.values())
    left = [queue for queue in tasks.queues if queue not in taken]
    if taken and left and not has_all:
        report.remarks.append(f"no worker takes the queues {project.listed(left)}, which tasks are sent to")
