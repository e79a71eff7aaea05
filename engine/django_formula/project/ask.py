"""Programs of the formula that run in a site's virtualenv: what they are asked, and what a failure of the project is.

A failure carries facts. What to do about them is added by what shows it (`project.failure`).
"""

import json
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.database import databases
from django_formula.host import file
from django_formula.host.commands import DeploymentError, seconds
from django_formula.process import runner
from django_formula.process.command import ProjectCommand
from django_formula.site.sites import Site
from django_formula.untrusted import shapes

#: The programs in a release's ``config/``; their names shadow no module of a project.
START, MIGRATE = "django_formula_start.py", "django_formula_migrate.py"
#: The program for backups, which also runs in releases that were created before it existed: Python reads it from the
#: standard input, then its request.
BACKUP = "salt://django/files/django_formula_backup.py"
_READ = "import sys; exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())).decode())"
#: Migrations that an error names at most; of more it has the number.
_SHOWN = 8
#: What runs a command, and returns its output.
Runner = Callable[[ProjectCommand], str]


class Failure(NamedTuple):
    """What is known of a failure of a project, for hints.

    Attributes:
        facts: what starting the project reported.
        report: of the program: ``cause``, ``missing``, ``migration``, ``applied``, ``blocked``, ``repeated``.
        cause: the exception, with the output where the program reported none.
        log: the output of the program, with frames.
        hint: what the error has as its hint until what is known here is made use of.
    """

    site: Site
    release: Path
    facts: Mapping[str, Any]
    report: Mapping[str, str]
    cause: str
    log: str
    hint: str


class ProjectError(DeploymentError):
    """A program of the formula failed in a project: `failure` has what is known."""

    failure: Failure | None = None


class PartlyMigrated(ProjectError):
    """A migration failed after others were applied or reversed: `names`."""

    names: Collection[str] = ()


#: What a program does, by the mode of its request.
DOING = {
    "start": "starting Django",
    "migrate": "migrating the database",
    "check": "running the checks",
    "reverse": "reversing migrations",
    "classify": "classifying migrations",
    "settings": "reading the settings",
}


def backup(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    request: dict[str, Any],
    secrets: list[str],
    run: Runner = runner.run_command,
) -> Any:
    """Run the program for backups, and return its answer.

    Args:
        request: ``mode`` `connections` with the ``aliases`` of databases, for the parameters of their drivers; or
            `fit` with the ``names`` of other databases by alias, ``migrate``: the migrations to apply there, and the
            ``port`` of their server, unless it is that of the settings.

    Raises:
        DeploymentError: the project does not start, or cannot reach a database.
    """
    program = (file.read_text(site.kept_template(BACKUP)) or "").encode()
    argv = [f"{release}/virtualenv/bin/python", "-c", _READ]
    doing = {"connections": "reading the databases' connections", "fit": "testing the databases"}[request["mode"]]
    timeout = seconds(site.config["migrate"]["timeout"]) if request.get("migrate") else start_timeout(site)
    command = ProjectCommand(
        site,
        release,
        facts,
        argv,
        doing=doing,
        stdin=f"{len(program)}\n{program.decode()}{json.dumps({**request, 'application': facts['application']})}",
        timeout=timeout,
        secrets=secrets,
        task=f"backup-{os.getpid()}",
    )
    try:
        output = run(command)
    except DeploymentError as error:
        raise failed(site, release, facts, doing, error) from None
    shape = {"connections": {str: {str: (str, int, float, bool, {})}}, "fit": {str: [str]}}[request["mode"]]
    found = shapes.parse(output.partition("\n")[0], shape, doing=doing)
    if found.keys() != set(request.get("aliases") or request.get("names") or ()):
        raise unusable(doing)
    return found


def ask(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    request: dict[str, Any],
    secrets: list[str],
    shape: Any,
    program: str = START,
    run: Runner = runner.run_command,
    **options: Any,
) -> dict[str, Any]:
    """Run a program of the formula with a request, and return its answer.

    The project runs in the same process, so that the answer is its own and not to be trusted.

    Args:
        shape: the required shape of the answer (`untrusted.shapes`).

    Raises:
        DeploymentError: the project raises an exception, or the answer has another shape.
    """
    argv = [f"{release}/virtualenv/bin/python", path_of(release, program)]
    doing = DOING[request["mode"]]
    command = ProjectCommand(
        site, release, facts, argv, doing=doing, stdin=json.dumps(request), secrets=secrets, **options
    )
    try:
        output = run(command)
    except DeploymentError as error:
        raise failed(site, release, facts, doing, error) from None
    answer: dict[str, Any] = shapes.parse(output, shape, doing=doing, log=output)
    return answer


def path_of(release: Path, name: str) -> str:
    """Return the path of a program of the formula in a release.

    Raises:
        DeploymentError: the release was created by a version of the formula that did not have it.
    """
    path = release / "config" / name
    if name == MIGRATE and release.exists() and not path.exists():
        raise DeploymentError(
            f"{release.name} was created by an older version of the formula, which does not support this",
            hint="create a new release: salt-call state.apply django",
        )
    return str(path)


def unusable(doing: str) -> DeploymentError:
    """Return the error of a program whose answer cannot be used."""
    return DeploymentError(f"{doing}: it ended without a usable answer")


def start_timeout(site: Site) -> float:
    """Return the seconds that the start of a project may take."""
    return seconds(site.config["timeouts"]["start"])


def failed(site: Site, release: Path, facts: Mapping[str, Any], doing: str, error: DeploymentError) -> ProjectError:
    """Return the error of a program, with the project's own exception as its cause."""
    report = _report(error)
    cause = report["cause"] or error.message.removeprefix(f"{doing}: ")
    evidence = cause if report["cause"] else f"{cause}\n{error.log}"
    text = ": ".join(filter(None, [doing, report["migration"], cause]))
    names = report["applied"].split(", ") if report["applied"] else []
    shown = report["applied"] if len(names) <= _SHOWN else f"{len(names)} migrations"
    text += f" (applied before it: {shown})" if names else ""
    kind = PartlyMigrated if names else ProjectError
    failure = kind(
        text,
        log="" if report["blocked"] else error.log,
        hint=error.hint or _more_time(site, doing, error),
        transient=bool(report["blocked"]) or error.transient,
    )
    if isinstance(failure, PartlyMigrated):
        failure.names = names
    databases.add_hint(site, failure)
    failure.failure = Failure(site, release, facts, report, evidence, error.log, failure.hint)
    return failure


def _more_time(site: Site, doing: str, error: DeploymentError) -> str:
    """Return the option for the time that a program did not end in; empty for other failures."""
    option = "migrate:timeout" if "migrat" in doing else "timeouts:start"
    is_late = error.message.startswith(f"{doing}: timed out after")
    return f"give it more time: set {site.at}:{option} to a longer one" if is_late else ""


def _report(error: DeploymentError) -> dict[str, str]:
    """Return the last lines of a program whose project raised an exception, and remove them from the error's log."""
    report = dict.fromkeys(("cause", "missing", "migration", "applied", "blocked", "repeated"), "")
    rest = []
    for line in error.log.splitlines():
        name, _colon, value = line.partition(": ")
        if name in report and _colon:
            report[name] = value
        else:
            rest.append(line)
    error.log = "\n".join(rest)
    return report
