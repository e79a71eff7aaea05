"""Commands of a project: those of manage.py on the command line, and those of the pillar at a stage of a release."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.host.commands import DeploymentError, seconds
from django_formula.knowledge import cause
from django_formula.process import command as process_command
from django_formula.process.command import ProjectCommand
from django_formula.project import ask
from django_formula.project import program as project_program
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log

log = Log.of(__name__)


def manage(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    command: Sequence[str],
    environment_file: str | None,
    timeout: float,
    secrets: list[str],
) -> str:
    """Run a management command as the site's user, in a release's environment and sandbox, and return its output.

    `migrate` runs under the lock of its database, as the migrations of a release do.

    Args:
        environment_file: a file with additional variables, in systemd's format.
        timeout: seconds.

    Raises:
        DeploymentError: the command fails.
    """
    program = process_command.management(release, facts)
    if command and command[0] == "migrate":
        request = {"application": facts["application"], **project_program.limits(site)}
        program = [ask.path_of(release, ask.MIGRATE), json.dumps(request)]
    project_command = ProjectCommand(
        site,
        release,
        facts,
        [f"{release}/virtualenv/bin/python", *program, *command],
        doing=f"manage.py {command[0] if command else ''}".strip(),
        timeout=timeout,
        secrets=secrets,
        task=f"manage-{os.getpid()}",
        environment_file=environment_file,
        errors_too=True,
    )
    return _run(project_command, hint="")


def _run(command: ProjectCommand, *, hint: str) -> str:
    """Run a command of a project; its error has the cure of its cause, or else the hint."""
    try:
        return project_program.run_command(command)
    except DeploymentError as error:
        cure = cause.hint(command.site, f"{error.message}\n{error.log}", command.facts)
        error.hint = cure or hint or error.hint
        raise


def run_stage(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    stage: str,
    secrets: list[str],
    writable: Sequence[Path] = (),
) -> None:
    """Run the pillar's commands of a stage in their order, as the site's user in the sandbox of a release.

    Args:
        stage: ``after_static``, ``after_migrate``, ``before_switch`` or ``after_switch``.
        writable: folders that they may write in addition to the site's own.

    Raises:
        DeploymentError: a command fails; those after it did not run.
    """
    for position, command in enumerate(site.config["commands"][stage]):
        log.info("%s: %s", site.name, command)
        project_command = ProjectCommand(
            site,
            release,
            facts,
            process_command.words(release, facts, command),
            doing=command,
            timeout=seconds(site.config["timeouts"]["command"]),
            writable=writable,
            secrets=secrets,
        )
        _run(
            project_command,
            hint=f"correct {site.at}:commands:{stage}:{position}, or the command itself",
        )
