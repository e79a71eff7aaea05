"""The workers that command lines of a project run: Celery, RQ, huey and commands that run until they are stopped."""

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from django_formula.kind import kinds
from django_formula.knowledge.rows import rows

#: Options of Celery's worker that the pillar has in `options`, by their long names.
_CELERY_KEPT = ("max-tasks-per-child", "max-memory-per-child", "prefetch-multiplier", "time-limit", "soft-time-limit")
#: Pools that keep their tasks through the switch.
_POOLS = ("prefork", "threads", "solo", "gevent")
_CELERY_SHORT = {
    **{"A": "app", "Q": "queues", "c": "concurrency", "P": "pool", "n": "hostname", "l": "loglevel", "f": "logfile"},
    **{"s": "schedule", "S": "scheduler", "b": "broker", "I": "include", "X": "exclude-queues", "O": "optimization"},
}
#: Options that the formula decides, or that change nothing here.
_CELERY_IGNORED = {
    "broker",
    *("loglevel", "logfile", "hostname", "pidfile", "schedule", "statedb", "workdir", "uid", "gid", "umask", "detach"),
    *("E", "task-events", "events", "without-gossip", "without-mingle", "without-heartbeat", "D", "C", "no-color", "q"),
    *("quiet", "optimization", "max-interval", "executable"),
}
_CELERY_FLAGS = {*"BDECq"}
#: Options of huey's consumer that change nothing here.
_HUEY_IGNORED = {"logfile", "verbose", "v", "q", "f", "disable-health-check", "skip-checks"}
_NAME = re.compile(r"[^a-z0-9]+")


@dataclass
class Worker:
    """A worker that a command line runs.

    Attributes:
        kind: as the pillar has it.
        queues: those that it names, in their order.
        processes: how many it runs; 0 if it does not say.
        options: those that the pillar takes over.
        about: what `command` needs: ``command`` and ``stop``; ``app`` of Celery.
        ignored: options that are not taken over.
        has_beat: whether it runs beat too.
    """

    kind: str
    queues: list[str] = field(default_factory=list)
    processes: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    has_beat: bool = False

    @property
    def identity(self) -> tuple[str, frozenset[str], str]:
        """What makes two lines the same worker: its kind, its queues, its command."""
        return self.kind, frozenset(self.queues), self.about.get("command", "")


def name(text: str) -> str:
    """Return a name for a worker that the pillar accepts, after the name of a process; empty if nothing is left."""
    found = _NAME.sub("_", text.lower()).strip("_")
    found = found.lstrip("0123456789_")[:24].strip("_")
    return "" if kinds.is_of_site(found) or found == "manage" else found


def of(words: Sequence[str], *, is_process: bool) -> Worker | None:
    """Return the worker that a command runs; None for another command.

    Args:
        words: the command without what only starts it (`inspect.shell`).
        is_process: whether a file names the command as a process of the project that runs until it is stopped.
    """
    program, *arguments = words
    if program == "celery" or re.fullmatch(r"\$\{?CELERY_BIN\}?", program):
        return _celery(arguments)
    if program == "rq" and arguments[:1] in (["worker"], ["worker-pool"]):
        return _rq(arguments[1:])
    if program == "rqworker":
        return _rq(arguments)
    if program in ("huey_consumer", "huey_consumer.py", "huey.bin.huey_consumer"):
        return _huey([word for word in arguments if not re.fullmatch(r"[A-Za-z_][\w.]*\.\w+", word)])
    if program == "dramatiq" and arguments:
        return _command(words)
    return _of_manage(arguments, is_process=is_process) if program == "manage.py" and arguments else None


def is_once(words: Sequence[str]) -> bool:
    """Return whether a command surely ends, or serves pages, and is no worker therefore."""
    return words[0] == "manage.py" and words[1:2] != [] and words[1] in rows("not_lasting")


def _of_manage(arguments: Sequence[str], *, is_process: bool) -> Worker | None:
    command, *rest = arguments
    if command in ("rqworker", "rqworker-pool"):
        return _rq(rest)
    if command == "run_huey":
        return _huey(rest)
    if command == "celery":  # django-celery, and commands of projects that take its place
        return _celery(rest)
    lasting = [*rows("lasting"), *(row["command"] for row in rows("workers"))]
    if command in lasting or (is_process and command not in rows("not_lasting")):
        return _command(["manage.py", *arguments])
    return None


def _command(words: Sequence[str]) -> Worker:
    return Worker("command", about={"command": shlex.join(words)})


def _celery(arguments: Sequence[str]) -> Worker | None:
    """Return the worker or the beat of Celery's command line; None for its other commands, such as flower."""
    options, plain = _options(arguments, _CELERY_SHORT, _CELERY_FLAGS)
    app = {"app": str(options.pop("app", ""))}
    about = {key: value for key, value in app.items() if value and "$" not in value}
    if plain[:1] == ["beat"]:
        scheduler = str(options.get("scheduler", ""))
        ignored = [key for key in options if key not in {*_CELERY_IGNORED, "scheduler", "max-interval"}]
        kept = {"scheduler": scheduler} if scheduler and "$" not in scheduler else {}
        return Worker("celery_beat", options=kept, about=about, ignored=sorted(ignored))
    if plain[:1] != ["worker"] and plain[:2] != ["multi", "start"]:
        return None
    worker = Worker("celery", about=about)
    worker.has_beat = bool(options.pop("beat", options.pop("B", False)))
    for key, value in options.items():
        if key == "queues" and "$" not in str(value):
            worker.queues = [one for one in str(value).split(",") if one]
        elif key == "concurrency" and (number := _number(value)) is not None:
            worker.processes = worker.processes or number
        elif key == "autoscale" and (most := re.fullmatch(r"(\d{1,9})(,\d+)?", str(value))):
            worker.processes = int(most[1])  # which counts whatever --concurrency says
        elif key in _CELERY_KEPT and (number := _number(value)):  # without a limit, 0, there is no option
            worker.options[key.replace("-", "_")] = number
        elif key == "pool" and value in _POOLS:
            worker.options[key] = value
        elif key not in _CELERY_IGNORED and key != "scheduler":
            worker.ignored.append(key)
    return worker


def _number(value: object) -> int | None:
    """Return the number that is the value of an option; None where it is none, or too long for one."""
    text = str(value)
    return int(text) if text.isdecimal() and len(text) < 10 else None


def _rq(arguments: Sequence[str]) -> Worker:
    short = {"n": "num-workers", "w": "worker-class", "u": "url", "c": "config", "P": "path", "S": "sentry-dsn"}
    options, queues = _options(arguments, {**short, "j": "job-class"}, {*"vqb"})
    processes = _number(options.pop("num-workers", ""))
    kept = {"with_scheduler": True} if options.pop("with-scheduler", False) else {}
    unknown = [key for key in options if key not in ("verbosity", "name", "url", "config", "path", "pid", "v", "q")]
    known = [queue for queue in queues if "$" not in queue]
    return Worker("rq", known, processes or 0, kept, ignored=sorted(unknown))


def _huey(arguments: Sequence[str]) -> Worker:
    short = {"w": "workers", "k": "worker-type", "l": "logfile", "d": "delay", "m": "max-delay", "b": "backoff"}
    options, _plain = _options(
        arguments, {**short, "s": "scheduler-interval", "c": "health-check-interval"}, {*"nofvqS"}
    )
    workers = _number(options.pop("workers", ""))
    known = str(options.pop("worker-type", ""))
    kept: dict[str, Any] = {"worker_type": known} if known in ("thread", "process") else {}
    options |= {"worker-type": known} if known and not kept else {}
    kept |= {"periodic": False} if options.pop("no-periodic", options.pop("n", False)) else {}
    unknown = sorted({*options} - _HUEY_IGNORED)
    return Worker("huey", [], workers or 0, kept, ignored=unknown)


def _options(
    arguments: Sequence[str], short: dict[str, str], flags: set[str]
) -> tuple[dict[str, str | bool], list[str]]:
    """Return the options of a command line by their long names, and the other words."""
    options: dict[str, str | bool] = {}
    plain: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            options[key] = value if equals else _value(key, rest)
        elif re.match(r"-[A-Za-z]", word):
            letter, value = word[1], word[2:].lstrip("=")
            if letter in short:
                options[short[letter]] = value or next(rest, "")
            else:
                options.update(dict.fromkeys(word[1:] if {*word[1:]} <= flags else [letter], True))
        else:
            plain.append(word)
    return options, plain


#: Long options of all these programs that have no value.
_WITHOUT_VALUE = re.compile(
    r"beat|detach|task-events|events|without-\w+|no-color|quiet|purge|discard|burst|with-scheduler|verbose|no-\w+"
    r"|disable-[\w-]+|traceback|simple|skip-checks|max-jobs=.*|flush-locks|force-color|force-serializer"
)


def _value(key: str, rest: Iterator[str]) -> str | bool:
    return True if _WITHOUT_VALUE.fullmatch(key) else next(rest, "")
