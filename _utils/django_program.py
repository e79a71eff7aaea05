"""What runs inside a site's virtualenv: programs that answer in JSON, and commands."""

import json
import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import django_database
import django_instance
from django_command import DeploymentError, seconds
from django_site import Site

log = logging.getLogger(__name__)

#: The programs of the formula in a release's ``config/``; their names hide no module of a project.
START = "django_formula_start.py"
#: Deployment checks that ask for TLS, which a site on plain http cannot meet.
NOT_WITHOUT_TLS = ["security.W004", "security.W008", "security.W012", "security.W016", "security.W021"]


def start(site: Site, release: Path, facts: Mapping[str, Any], secrets: list[str]) -> dict[str, Any]:
    """Start Django once as the instance will: import, collect static files, list pending migrations, read the settings.

    Returns:
        ``settings_module``, ``debug``, ``static_url``, ``media_url``, ``databases``, ``migrations`` (applied and
        pending names per database), ``checks`` (messages, when nothing is pending), ``django`` and ``python``
        (versions), ``collected`` (number of files).

    Raises:
        DeploymentError: the project does not start; the error is the project's own last exception.
    """
    request = {
        "mode": "start",
        "wsgi": facts["wsgi"],
        "collect": site.config["static"]["collect"],
        "static_root": f"{release}/static",
        "check": site.config["check"],
        "ignored_checks": NOT_WITHOUT_TLS,
        "migrate": {alias: database["migrate"] for alias, database in site.config["databases"].items()},
    }
    return _ask(
        site,
        release,
        facts,
        request,
        secrets,
        timeout=seconds(site.config["timeouts"]["start"]),
        writable=[release / "static"],
    )


def migrate(site: Site, release: Path, facts: Mapping[str, Any], secrets: list[str]) -> dict[str, Any]:
    """Migrate the databases, then run the checks (which may read tables).

    Returns:
        ``migrations`` and ``checks``, as `start` does.

    Raises:
        DeploymentError: a migration fails; what was applied before it stays applied.
    """
    request = {
        "mode": "migrate",
        "wsgi": facts["wsgi"],
        "check": site.config["check"],
        "databases": list(facts["migrations"]),
        "ignored_checks": NOT_WITHOUT_TLS,
    }
    return _ask(site, release, facts, request, secrets, timeout=seconds(site.config["migrate"]["timeout"]))


def check(site: Site, release: Path, facts: Mapping[str, Any], secrets: list[str]) -> list[str]:
    """Run Django's checks, those for deployment too; returns the warnings.

    Raises:
        DeploymentError: a check fails.
    """
    request = {"mode": "check", "wsgi": facts["wsgi"], "check": site.config["check"], "ignored_checks": NOT_WITHOUT_TLS}
    timeout = seconds(site.config["timeouts"]["start"])
    warnings: list[str] = _ask(site, release, facts, request, secrets, timeout=timeout, task=f"check-{os.getpid()}")[
        "checks"
    ]
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

    Args:
        environment_file: a file with further variables, in systemd's format.
        timeout: seconds.

    Raises:
        DeploymentError: the command fails.
    """
    argv = [f"{release}/virtualenv/bin/python", "manage.py", *command]
    return django_instance.keeper(site, release).run(
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
            django_instance.keeper(site, release).run(
                site,
                release,
                facts,
                ["/usr/bin/env", *program, *words[1:]],
                doing=command,
                timeout=seconds(site.config["timeouts"]["command"]),
                writable=writable,
                secrets=secrets,
            )
        except DeploymentError as error:
            error.hint = f"django:sites:{site.name}:commands:{stage}:{position} says this command"
            raise


def _ask(
    site: Site, release: Path, facts: Mapping[str, Any], request: dict[str, Any], secrets: list[str], **options: Any
) -> dict[str, Any]:
    argv = [f"{release}/virtualenv/bin/python", f"{release}/config/{START}"]
    doing = {"start": "starting Django", "migrate": "migrating the database", "check": "checking"}[request["mode"]]
    try:
        output = django_instance.keeper(site, release).run(
            site, release, facts, argv, doing=doing, stdin=json.dumps(request), secrets=secrets, **options
        )
    except DeploymentError as error:
        told = _told(error)
        cause, hint, at = told["cause"] or error.message, error.hint, f"django:sites:{site.name}"
        if told["missing"]:
            hint = f"give it: {at}:environment:{told['missing']}, or {at}:secrets:{told['missing']}"
        failure = DeploymentError(f"{doing}: {cause}", log=error.log, hint=hint, transient=error.transient)
        django_database.explain(site, failure)
        raise failure from None
    try:
        answer: dict[str, Any] = json.loads(output)
        return answer
    except ValueError:
        raise DeploymentError(f"{doing}: it ended without an answer", log=output) from None


def _told(error: DeploymentError) -> dict[str, str]:
    """What the program in the virtualenv says at its end when the project raises; it is taken out of the log."""
    told = {"cause": "", "missing": ""}
    rest = []
    for line in error.log.splitlines():
        name, _colon, value = line.partition(": ")
        if name in told and _colon:
            told[name] = value
        else:
            rest.append(line)
    error.log = "\n".join(rest)
    return told
