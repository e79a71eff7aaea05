"""Programs of the formula that run in a site's virtualenv and answer in JSON."""

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.host.commands import DeploymentError, seconds
from django_formula.process.command import DEPLOYMENT, ProjectCommand
from django_formula.project import ask
from django_formula.project.ask import ProjectError
from django_formula.release import instances
from django_formula.site.sites import Site
from django_formula.store import stores
from django_formula.untrusted import shapes
from django_formula.worker import workers

#: Deployment checks that require TLS, which a site on plain http does not have.
NOT_WITHOUT_TLS = ["security.W004", "security.W008", "security.W012", "security.W016", "security.W021"]


def ignored_checks(site: Site) -> list[str]:
    """Return the checks that do not apply to a site, and those that the pillar silences."""
    silenced: list[str] = site.config.get("silenced_checks", [])
    return [*([] if site.public_https else NOT_WITHOUT_TLS), *silenced]


def start(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    secrets: list[str],
    *,
    write_ahead: bool = False,
    task: str = DEPLOYMENT,
) -> dict[str, Any]:
    """Start Django once as the instance will: import, collect static files, list pending migrations, read the settings.

    Args:
        write_ahead: switch SQLite files to a write-ahead log; not while another process has them open.
        task: the name of the command (`ProjectCommand`).

    Returns:
        ``settings_module``, ``debug``, ``static_url``, ``media_url``, ``databases``, ``migrations`` (applied and
        pending names per database), ``checks`` (messages, when nothing is pending), ``django`` and ``python``
        (versions), ``collected`` (number of files).

    Raises:
        DeploymentError: the project does not start; the message has the project's last exception.
    """
    request = {
        "mode": "start",
        "application": facts["application"],
        "collect": site.config["static"]["collect"],
        "push": bool(site.config["static"].get("push")),
        "static_root": f"{release}/static",
        "check": site.config["check"],
        "ignored_checks": ignored_checks(site),
        "migrate": {alias: database["migrate"] for alias, database in site.config["databases"].items()},
        "write_ahead": write_ahead,
        **({"cache_tables": tables} if (tables := sorted(stores.tables(site).values())) else {}),
        **workers.start_request(site, facts),
    }
    shape, timeout, writable = shapes.START, ask.start_timeout(site), [release / "static"]
    answer = _ask(site, release, facts, request, secrets, shape, timeout=timeout, writable=writable, task=task)
    _refuse_unknown(ask.DOING["start"], answer["migrations"], answer["databases"])
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
    """Return the effective settings of a release: name → ``text``, None if it is hidden, and ``hash``.

    Args:
        program: the path of the program that reads them (``django_formula_plan.py``).

    Raises:
        DeploymentError: the project does not start.
    """
    timeout = ask.start_timeout(site)
    shape = {str: {"text": shapes.MAYBE, "hash": str}}
    return _ask(site, release, facts, request, secrets, shape, program=str(program), timeout=timeout, task=task)


def migrate(site: Site, release: Path, facts: Mapping[str, Any], secrets: list[str]) -> dict[str, Any]:
    """Migrate the databases under their locks, then run the checks (which may read tables).

    Returns:
        ``migrations`` and ``checks``, as `start` returns them; ``migrated``: the migrations that were applied, by
        database.

    Raises:
        DeploymentError: a migration fails, or waits too long for a lock; those before it stay applied.
    """
    request = {
        "mode": "migrate",
        "application": facts["application"],
        "check": site.config["check"],
        "databases": list(facts["migrations"]),
        "ignored_checks": ignored_checks(site),
        **limits(site),
    }
    timeout = seconds(site.config["migrate"]["timeout"])
    shape = {"migrations": shapes.MIGRATIONS, "checks": [str], "migrated": {str: [str]}}
    answer = _ask(site, release, facts, request, secrets, shape, program=ask.MIGRATE, timeout=timeout)
    _refuse_unknown(ask.DOING["migrate"], answer["migrations"], facts["migrations"])
    return answer


def reverse(
    site: Site, release: Path, facts: Mapping[str, Any], databases: Mapping[str, list[str]], secrets: list[str]
) -> dict[str, Any]:
    """Reverse migrations, in the release that has their code.

    Args:
        databases: the names of the migrations, by database.

    Returns:
        ``migrations`` of these databases, as `start` returns them.

    Raises:
        DeploymentError: a migration cannot be reversed; those after it have been.
    """
    request = {"mode": "reverse", "application": facts["application"], "databases": databases, **limits(site)}
    timeout = seconds(site.config["migrate"]["timeout"])
    shape = {"migrations": shapes.MIGRATIONS}
    answer = _ask(site, release, facts, request, secrets, shape, program=ask.MIGRATE, timeout=timeout)
    if answer["migrations"].keys() != databases.keys():
        raise ask.unusable(ask.DOING["reverse"])
    return answer


def classify(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    databases: Mapping[str, list[str]],
    known: Mapping[str, list[str]],
    secrets: list[str],
) -> dict[str, list[dict[str, Any]]]:
    """Classify what applied migrations do to a release that does not have them.

    Args:
        databases: the names of the migrations, by database.
        known: the migrations that the other release has, by database.

    Raises:
        DeploymentError: the project does not start.
    """
    request = {"mode": "classify", "application": facts["application"], "databases": databases, "known": known}
    timeout = ask.start_timeout(site)
    shape = {"schema": shapes.SCHEMA}
    answer = _ask(site, release, facts, request, secrets, shape, program=ask.MIGRATE, timeout=timeout)
    schema: dict[str, list[dict[str, Any]]] = answer["schema"]
    if not databases.keys() <= schema.keys():
        raise ask.unusable(ask.DOING["classify"])
    return schema


def _refuse_unknown(doing: str, migrations: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse migrations of a database that the project does not have, and aliases that are not names."""
    if not all(alias in known and re.fullmatch(r"\w[\w.-]*", alias) for alias in migrations):
        raise ask.unusable(doing)


def limits(site: Site) -> dict[str, float]:
    """Return the seconds that a migration waits for another one, and for a lock; it reports before it is ended."""
    timeout = seconds(site.config["migrate"]["timeout"])
    return {"timeout": timeout - min(5, timeout / 4), "lock_timeout": seconds(site.config["migrate"]["lock_timeout"])}


def check(site: Site, release: Path, facts: Mapping[str, Any], secrets: list[str]) -> list[str]:
    """Run Django's checks, including those for deployment, and return the warnings.

    Raises:
        DeploymentError: a check fails.
    """
    request = {
        "mode": "check",
        "application": facts["application"],
        "check": site.config["check"],
        "ignored_checks": ignored_checks(site),
    }
    timeout = ask.start_timeout(site)
    task = f"check-{os.getpid()}"
    answer = _ask(site, release, facts, request, secrets, {"checks": [str]}, timeout=timeout, task=task)
    warnings: list[str] = answer["checks"]
    return warnings


def backup(site: Site, release: Path, facts: Mapping[str, Any], request: dict[str, Any], secrets: list[str]) -> Any:
    """Run the program for backups, and return its answer, as `project.ask.backup` does; an error has the hint.

    Raises:
        DeploymentError: the project does not start, or cannot reach a database.
    """
    with _explained():
        return ask.backup(site, release, facts, request, secrets, run_command)


def _ask(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    request: dict[str, Any],
    secrets: list[str],
    shape: Any,
    **options: Any,
) -> dict[str, Any]:
    """Run a program of the formula with a request, and return its answer; an error has the hint.

    Args:
        shape: the required shape of the answer (`untrusted.shapes`).

    Raises:
        DeploymentError: the project raises an exception, or the answer has another shape.
    """
    with _explained():
        return ask.ask(site, release, facts, request, secrets, shape, run=run_command, **options)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Add the hint to a failure of the project in the block."""
    try:
        yield
    except DeploymentError as error:
        explain(error)
        raise


def explain(error: Exception) -> None:
    """Add the hint to an error that is to be shown, where a project has failed with it."""
    if isinstance(error, ProjectError):
        from django_formula.project import failure  # which only a failure needs

        failure.explain(error)


def run_command(command: ProjectCommand) -> str:
    """Run a command of a project by the process manager of its release and return its output."""
    return instances.process_manager(command.site, command.release).run(command)
