"""The project: what is found in its source, and the programs that run inside its virtualenv and answer in JSON."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import django_database
import django_sandbox
from django_command import DeploymentError, seconds
from django_site import Site

#: The programs of the formula in a release's ``config/``; their names hide no module of a project.
START = "django_formula_start.py"
#: Deployment checks that ask for TLS, which a site on plain http cannot meet.
NOT_WITHOUT_TLS = ["security.W004", "security.W008", "security.W012", "security.W016", "security.W021"]
_SKIPPED = {".git", "node_modules", "site-packages", "venv", ".venv", "env", "tests", "__pycache__"}
_SETTINGS = re.compile(r"""DJANGO_SETTINGS_MODULE["']\s*[,\]]\s*=?\s*["']([\w.]+)["']""")


def find(site: Site, source: Path) -> dict[str, str]:
    """What the source says of itself, where the pillar does not: ``folder``, ``settings_module`` and ``wsgi``.

    Raises:
        DeploymentError: something is not found, or found twice; the error names the key that decides.
    """
    config = site.config
    at = f"django:sites:{site.name}"
    folder = config["project"] or _folder(source, at)
    project = source / folder
    if not project.is_dir():
        raise DeploymentError(f"there is no folder {folder} in the source", hint=f"correct {at}:project")
    wsgi = config["wsgi"] or _wsgi(project, at)
    settings_module = config["settings_module"] or _settings_module(project, wsgi, at)
    return {"folder": folder, "settings_module": settings_module, "wsgi": wsgi}


def _folder(source: Path, at: str) -> str:
    found = sorted(path.relative_to(source) for path in _files(source, "manage.py", depth=3))
    if len(found) == 1:
        return str(found[0].parent)
    if not found:
        raise DeploymentError("there is no manage.py in the source", hint=f"say where the project is: {at}:project")
    names = ", ".join(str(path) for path in found)
    raise DeploymentError(
        f"there are {len(found)} manage.py in the source: {names}",
        hint=f"say which folder is the project's: {at}:project",
    )


def _wsgi(project: Path, at: str) -> str:
    modules = [
        str(path.relative_to(project).with_suffix("")).replace("/", ".")
        for path in _files(project, "wsgi.py", depth=3)
        if "get_wsgi_application" in path.read_text(errors="replace")
    ]
    if len(modules) == 1:
        return modules[0]
    found = f"there are {len(modules)}: {', '.join(sorted(modules))}" if modules else "there is no wsgi.py"
    raise DeploymentError(f"the WSGI module is not known; {found}", hint=f"say it: {at}:wsgi, for example mysite.wsgi")


def _settings_module(project: Path, wsgi: str, at: str) -> str:
    for path in (project / (wsgi.replace(".", "/") + ".py"), project / "manage.py"):
        if path.is_file():
            found = _SETTINGS.search(path.read_text(errors="replace"))
            if found:
                return found.group(1)
    raise DeploymentError(
        "neither wsgi.py nor manage.py names a settings module",
        hint=f"say it: {at}:settings_module, for example mysite.settings",
    )


def _files(top: Path, name: str, depth: int) -> list[Path]:
    found = []
    for parent, folders, files in os.walk(top):
        level = len(Path(parent).relative_to(top).parts)
        folders[:] = sorted(f for f in folders if f not in _SKIPPED and not f.startswith(".")) if level < depth else []
        if name in files:
            found.append(Path(parent, name))
    return found


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
    warnings: list[str] = _ask(site, release, facts, request, secrets, timeout=timeout, unit=f"check-{os.getpid()}")[
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
    more = [("EnvironmentFile", environment_file)] if environment_file else []
    unit = f"manage-{os.getpid()}"
    doing = f"manage.py {command[0] if command else ''}".strip()
    return django_sandbox.run(
        site, release, facts, argv, doing=doing, timeout=timeout, secrets=secrets, unit=unit, more=more, errors_too=True
    )


def _ask(
    site: Site, release: Path, facts: Mapping[str, Any], request: dict[str, Any], secrets: list[str], **options: Any
) -> dict[str, Any]:
    argv = [f"{release}/virtualenv/bin/python", f"{release}/config/{START}"]
    doing = {"start": "starting Django", "migrate": "migrating the database", "check": "checking"}[request["mode"]]
    try:
        output = django_sandbox.run(
            site, release, facts, argv, doing=doing, stdin=json.dumps(request), secrets=secrets, **options
        )
    except DeploymentError as error:
        told = DeploymentError(f"{doing}: {_cause(error)}", log=error.log, hint=error.hint, transient=error.transient)
        django_database.explain(site, told)
        raise told from None
    try:
        answer: dict[str, Any] = json.loads(output)
        return answer
    except ValueError:
        raise DeploymentError(f"{doing}: it ended without an answer", log=output) from None


def _cause(error: DeploymentError) -> str:
    """The line that the program in the virtualenv ends with when the project raises."""
    causes = [line.removeprefix("cause: ") for line in error.log.splitlines() if line.startswith("cause: ")]
    if not causes:
        return error.message
    error.log = "\n".join(line for line in error.log.splitlines() if not line.startswith("cause: "))
    return causes[-1]
