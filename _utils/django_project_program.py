"""What runs inside a site's virtualenv: programs that answer in JSON, and commands."""

import contextlib
import json
import logging
import os
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import django_database
import django_host_file
import django_project
import django_release_instance
import django_wall_delegate
import django_wall_shape
from django_host_command import DeploymentError, seconds
from django_process import ProjectCommand
from django_site import Site
from django_wall_foreign import Foreign

log = logging.getLogger(__name__)

#: The programs of the formula in a release's ``config/``; their names hide no module of a project.
START, MIGRATE = "django_formula_start.py", "django_formula_migrate.py"
#: The program that answers what a backup has to know, and how Python reads a program before its request.
BACKUP = "salt://django/files/django_formula_backup.py"
_READ = "import sys; exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())).decode())"
#: Deployment checks that ask for TLS, which a site on plain http cannot meet.
NOT_WITHOUT_TLS = ["security.W004", "security.W008", "security.W012", "security.W016", "security.W021"]


def ignored_checks(site: Site) -> list[str]:
    """The deployment checks that a site cannot meet."""
    return [] if site.https else NOT_WITHOUT_TLS


class PartlyMigrated(DeploymentError):
    """Migrations were applied, or taken back, before one failed: `names`."""

    names: Collection[str] = ()


def start(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    secrets: list[str],
    *,
    write_ahead: bool = False,
    task: str = "task",
) -> dict[str, Any]:
    """Start Django once as the instance will: import, collect static files, list pending migrations, read the settings.

    Args:
        write_ahead: have SQLite files keep a write-ahead log; not while somebody else has them open.

    Returns:
        ``settings_module``, ``debug``, ``static_url``, ``media_url``, ``databases``, ``migrations`` (applied and
        pending names per database), ``checks`` (messages, when nothing is pending), ``django`` and ``python``
        (versions), ``collected`` (number of files).

    Raises:
        DeploymentError: the project does not start; the error is the project's own last exception.
    """
    request = {
        "mode": "start",
        "application": facts["application"],
        "collect": site.config["static"]["collect"],
        "static_root": f"{release}/static",
        "check": site.config["check"],
        "ignored_checks": ignored_checks(site),
        "migrate": {alias: database["migrate"] for alias, database in site.config["databases"].items()},
        "write_ahead": write_ahead,
    }
    answer = _ask(
        site,
        release,
        facts,
        request,
        secrets,
        django_wall_shape.START,
        timeout=seconds(site.config["timeouts"]["start"]),
        writable=[release / "static"],
        task=task,
    )
    _refuse_unknown(_DOING["start"], answer["migrations"], answer["databases"])
    return answer


def settings(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    program: Path,
    request: dict[str, Any],
    secrets: list[str],
    task: str,
) -> dict[str, Any]:
    """The effective settings of a release: name → ``text``, None where it is hidden, and ``hash``.

    Args:
        program: where the program that asks for them lies (`django_formula_plan.py`).

    Raises:
        DeploymentError: the project does not start.
    """
    timeout = seconds(site.config["timeouts"]["start"])
    shape = {str: {"text": django_wall_shape.MAYBE, "hash": str}}
    return _ask(site, release, facts, request, secrets, shape, program=str(program), timeout=timeout, task=task)


def migrate(site: Site, release: Path, facts: Mapping[str, Any], secrets: list[str]) -> dict[str, Any]:
    """Migrate the databases under their locks, then run the checks (which may read tables).

    Returns:
        ``migrations`` and ``checks``, as `start` does; ``migrated``: the names of what was applied, by database.

    Raises:
        DeploymentError: a migration fails, or somebody else's lock stops it; what was applied before it stays applied.
    """
    request = {
        "mode": "migrate",
        "application": facts["application"],
        "check": site.config["check"],
        "databases": list(facts["migrations"]),
        "ignored_checks": ignored_checks(site),
        **_patience(site),
    }
    timeout = seconds(site.config["migrate"]["timeout"])
    shape = {"migrations": django_wall_shape.MIGRATIONS, "checks": [str], "migrated": {str: [str]}}
    answer = _ask(site, release, facts, request, secrets, shape, program=MIGRATE, timeout=timeout)
    _refuse_unknown(_DOING["migrate"], answer["migrations"], facts["migrations"])
    return answer


def reverse(
    site: Site, release: Path, facts: Mapping[str, Any], databases: Mapping[str, list[str]], secrets: list[str]
) -> dict[str, Any]:
    """Take migrations back by the release that knows them.

    Args:
        databases: the names of the migrations, by database.

    Returns:
        ``migrations`` as `start` does, of these databases.

    Raises:
        DeploymentError: one cannot be taken back; those behind it have been.
    """
    request = {"mode": "reverse", "application": facts["application"], "databases": databases, **_patience(site)}
    timeout = seconds(site.config["migrate"]["timeout"])
    shape = {"migrations": django_wall_shape.MIGRATIONS}
    answer = _ask(site, release, facts, request, secrets, shape, program=MIGRATE, timeout=timeout)
    if answer["migrations"].keys() != databases.keys():
        raise _unusable(_DOING["reverse"])
    return answer


def classify(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    databases: Mapping[str, list[str]],
    known: Mapping[str, list[str]],
    secrets: list[str],
) -> dict[str, list[dict[str, Any]]]:
    """What migrations that the databases have do to a release that does not know them.

    Args:
        databases: the names of the migrations, by database.
        known: those that the other release knows.

    Raises:
        DeploymentError: the project does not start.
    """
    request = {"mode": "classify", "application": facts["application"], "databases": databases, "known": known}
    timeout = seconds(site.config["timeouts"]["start"])
    shape = {"schema": django_wall_shape.SCHEMA}
    answer = _ask(site, release, facts, request, secrets, shape, program=MIGRATE, timeout=timeout)
    schema: dict[str, list[dict[str, Any]]] = answer["schema"]
    if not databases.keys() <= schema.keys():
        raise _unusable(_DOING["classify"])
    return schema


def _refuse_unknown(doing: str, migrations: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse migrations of a database that the project does not have, and names of databases that are no names."""
    if not all(alias in known and re.fullmatch(r"\w[\w.-]*", alias) for alias in migrations):
        raise _unusable(doing)


def _unusable(doing: str) -> DeploymentError:
    return DeploymentError(f"{doing}: it ended without a usable answer")


def _patience(site: Site) -> dict[str, float]:
    """How long a migration waits, in seconds: for another one, and for a lock; it says so before its time is up."""
    timeout = seconds(site.config["migrate"]["timeout"])
    return {"timeout": timeout - min(5, timeout / 4), "lock_timeout": seconds(site.config["migrate"]["lock_timeout"])}


def check(site: Site, release: Path, facts: Mapping[str, Any], secrets: list[str]) -> list[str]:
    """Run Django's checks, those for deployment too; returns the warnings.

    Raises:
        DeploymentError: a check fails.
    """
    request = {
        "mode": "check",
        "application": facts["application"],
        "check": site.config["check"],
        "ignored_checks": ignored_checks(site),
    }
    timeout = seconds(site.config["timeouts"]["start"])
    task = f"check-{os.getpid()}"
    answer = _ask(site, release, facts, request, secrets, {"checks": [str]}, timeout=timeout, task=task)
    warnings: list[str] = answer["checks"]
    return warnings


def manage(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    command: Sequence[str],
    environment_file: str | None,
    timeout: float,
    secrets: list[str],
) -> str:
    """Run a management command as the site's user, with a release's environment and sandbox; returns what it prints.

    `migrate` is run under the lock of its database, as the migrations of a release are.

    Args:
        environment_file: a file with further variables, in systemd's format.
        timeout: seconds.

    Raises:
        DeploymentError: the command fails.
    """
    program = ["manage.py"]
    if command and command[0] == "migrate":
        program = [_program(release, MIGRATE), json.dumps({"application": facts["application"], **_patience(site)})]
    argv = [f"{release}/virtualenv/bin/python", *program, *command]
    manage_command = ProjectCommand(
        site,
        release,
        facts,
        argv,
        doing=f"manage.py {command[0] if command else ''}".strip(),
        timeout=timeout,
        secrets=secrets,
        task=f"manage-{os.getpid()}",
        environment_file=environment_file,
        errors_too=True,
    )
    return _run(manage_command)


def run_commands(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    stage: str,
    secrets: list[str],
    writable: Sequence[Path] = (),
) -> None:
    """Run the pillar's commands of a stage, one after another, as the site's user in the sandbox of a release.

    Args:
        stage: ``after_static``, ``after_migrate``, ``before_switch`` or ``after_switch``.
        writable: folders that they may write besides the site's own.

    Raises:
        DeploymentError: one fails; those behind it have not run.
    """
    for position, command in enumerate(site.config["commands"][stage]):
        log.info("%s: %s", site.name, command)
        words = shlex.split(command)
        program = ["python", "manage.py"] if words[0] in ("manage.py", "./manage.py") else words[:1]
        try:
            _run(
                ProjectCommand(
                    site,
                    release,
                    facts,
                    ["/usr/bin/env", *program, *words[1:]],
                    doing=command,
                    timeout=seconds(site.config["timeouts"]["command"]),
                    writable=writable,
                    secrets=secrets,
                )
            )
        except DeploymentError as error:
            error.hint = f"django:sites:{site.name}:commands:{stage}:{position} says this command"
            raise


def backup(site: Site, release: Path, facts: Mapping[str, Any], request: dict[str, Any], secrets: list[str]) -> Any:
    """What a backup asks the project, which may have been released before there were backups.

    Args:
        request: ``mode`` `connections` with the ``aliases`` of databases: what their drivers are given; or `fit` with
            other ``names`` of databases by alias, and ``migrate``: the migrations that they lack.

    Raises:
        DeploymentError: the project does not start, or cannot reach a database.
    """
    program = (django_host_file.read_text(site.kept_template(BACKUP)) or "").encode()
    argv = [f"{release}/virtualenv/bin/python", "-c", _READ]
    doing = {"connections": "asking for the databases", "fit": "trying the databases"}[request["mode"]]
    timeout = "migrate" if request.get("migrate") else "timeouts"
    command = ProjectCommand(
        site,
        release,
        facts,
        argv,
        doing=doing,
        stdin=f"{len(program)}\n{program.decode()}{json.dumps({**request, 'application': facts['application']})}",
        timeout=seconds(site.config[timeout]["timeout" if timeout == "migrate" else "start"]),
        secrets=secrets,
        task=f"backup-{os.getpid()}",
    )
    try:
        output = _run(command)
    except DeploymentError as error:
        raise _explained(site, release, facts, doing, error) from None
    shape = {"connections": {str: {str: (str, int, float, bool, {})}}, "fit": {str: [str]}}[request["mode"]]
    found = django_wall_shape.parse(output.partition("\n")[0], shape, doing=doing)
    if found.keys() != set(request.get("aliases") or request.get("names") or ()):
        raise _unusable(doing)
    return found


_DOING = {
    "start": "starting Django",
    "migrate": "migrating the database",
    "check": "checking",
    "reverse": "taking migrations back",
    "classify": "looking at migrations",
    "settings": "reading the settings",
}


def _ask(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    request: dict[str, Any],
    secrets: list[str],
    shape: Any,
    program: str = START,
    **options: Any,
) -> dict[str, Any]:
    """Have a program of ours answer a request; the project runs in its process, and decides what the answer is.

    Args:
        shape: what the answer has to be; of an object with known names, no others are returned.

    Raises:
        DeploymentError: the project raises, or its answer has another shape.
    """
    argv = [f"{release}/virtualenv/bin/python", _program(release, program)]
    doing = _DOING[request["mode"]]
    command = ProjectCommand(
        site, release, facts, argv, doing=doing, stdin=json.dumps(request), secrets=secrets, **options
    )
    try:
        output = _run(command)
    except DeploymentError as error:
        raise _explained(site, release, facts, doing, error) from None
    answer: dict[str, Any] = django_wall_shape.parse(output, shape, doing=doing, log=output)
    return answer


def _run(command: ProjectCommand) -> str:
    """Run a command of a project by the process manager of its release and return its output."""
    return django_release_instance.process_manager(command.site, command.release).run(command)


def _program(release: Path, name: str) -> str:
    """The path of one of our programs in a release.

    Raises:
        DeploymentError: the release was made before there was this program.
    """
    path = release / "config" / name
    if name == MIGRATE and release.exists() and not path.exists():
        raise DeploymentError(
            f"{release.name} was made by an older version of the formula, which could not do this",
            hint="salt-call state.apply django makes a release that can",
        )
    return str(path)


def _explained(
    site: Site, release: Path, facts: Mapping[str, Any], doing: str, error: DeploymentError
) -> DeploymentError:
    """The error of a program in the virtualenv in the words of the project's own exception, with what to do."""
    told = _told(error)
    cause, hint, at = told["cause"] or error.message.removeprefix(f"{doing}: "), error.hint, f"django:sites:{site.name}"
    if told["missing"]:
        hint = f"give it: {at}:environment:{told['missing']}, or {at}:secrets:{told['missing']}"
    lacking = re.match(r"ModuleNotFoundError: No module named '([\w.]+)'", cause)
    there = _homes(site, release, facts["folder"], lacking.group(1)) if lacking else []
    if there:
        hint = f"it is in the source: {at}:python_path: [{there[0]}]"
    if told["blocked"]:
        hint = f"end it, or apply again later; {at}:migrate:lock_timeout and timeout say how long is waited"
    text = ": ".join(filter(None, [doing, told["migration"], cause]))
    text += f" (before it: {told['applied']})" if told["applied"] else ""
    transient = error.transient or bool(told["blocked"])
    kind = PartlyMigrated if told["applied"] else DeploymentError
    failure = kind(text, log="" if told["blocked"] else error.log, hint=hint, transient=transient)
    if isinstance(failure, PartlyMigrated):
        failure.names = told["applied"].split(", ")
    django_database.add_hint(site, failure)
    return failure


def _homes(site: Site, release: Path, folder: str, module: str) -> list[str]:
    """The folders of a release's source that have a module, looked for as the site's user."""
    source = Foreign(release / "source")
    with contextlib.suppress(DeploymentError):
        found: list[str] = django_wall_delegate.ask(
            site.user, lambda: django_project.import_folders(source.path, folder, module)
        )
        return found
    return []


def _told(error: DeploymentError) -> dict[str, str]:
    """What the program in the virtualenv says at its end when the project raises; it is taken out of the log."""
    told = dict.fromkeys(("cause", "missing", "migration", "applied", "blocked"), "")
    rest = []
    for line in error.log.splitlines():
        name, _colon, value = line.partition(": ")
        if name in told and _colon:
            told[name] = value
        else:
            rest.append(line)
    error.log = "\n".join(rest)
    return told
