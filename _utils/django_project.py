"""The project: what is found in its source, and the programs that run inside its virtualenv and answer in JSON."""

import json
import logging
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
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
_SKIPPED = {".git", "node_modules", "site-packages", "venv", ".venv", "env", "tests", "__pycache__"}
_LIKE_SETTINGS = re.compile(r"^(INSTALLED_APPS|DATABASES|DEBUG|SECRET_KEY|from \.?\S* import \*)", re.MULTILINE)
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


def manage_files(source: Path) -> list[Path]:
    """Where manage.py is in a source, relative to it."""
    return sorted(path.relative_to(source) for path in files(source, "manage.py", depth=3))


def _folder(source: Path, at: str) -> str:
    found = manage_files(source)
    if len(found) == 1:
        return str(found[0].parent)
    if not found:
        raise DeploymentError("there is no manage.py in the source", hint=f"say where the project is: {at}:project")
    raise DeploymentError(
        f"there are {len(found)} manage.py in the source: {some(map(str, found))}",
        hint=f"say which folder is the project's: {at}:project",
    )


def wsgi_modules(project: Path) -> list[str]:
    """The modules of a project that make a WSGI application as Django's template does."""
    return sorted(
        ".".join(path.relative_to(project).with_suffix("").parts)
        for path in _own_files(project, "wsgi.py", depth=3)
        if "get_wsgi_application" in path.read_text(errors="replace")
    )


def _own_files(project: Path, name: str | None, depth: int) -> list[Path]:
    """The files of a project but for those of another one in its folders, which has a manage.py of its own."""
    found = files(project, name, depth)
    others = {path.parent for path in files(project, "manage.py", depth)} - {project}
    return [path for path in found if not others & {*path.parents}]


def _wsgi(project: Path, at: str) -> str:
    modules = wsgi_modules(project)
    if len(modules) == 1:
        return modules[0]
    found = f"there are {len(modules)}: {some(modules)}" if modules else "there is no wsgi.py"
    raise DeploymentError(f"the WSGI module is not known; {found}", hint=f"say it: {at}:wsgi, for example mysite.wsgi")


def settings_named(project: Path, wsgi: str) -> str:
    """The settings module that the WSGI module names, or else manage.py; empty where neither does."""
    for path in (project / (wsgi.replace(".", "/") + ".py"), project / "manage.py"):
        if path.is_file():
            found = _SETTINGS.search(path.read_text(errors="replace"))
            if found:
                return found.group(1)
    return ""


def settings_modules(project: Path) -> list[str]:
    """Modules that look like settings: ``settings.py``, and those in a package of settings."""
    found = []
    for path in _own_files(project, None, depth=4):
        in_package = path.parent.name in ("settings", "config", "conf") and path.stem != "__init__"
        is_named_so = path.suffix == ".py" and path.stem.isidentifier() and (path.stem == "settings" or in_package)
        if is_named_so and _LIKE_SETTINGS.search(path.read_text(errors="replace")):
            found.append(".".join(path.relative_to(project).with_suffix("").parts))
    return sorted(found)


def _settings_module(project: Path, wsgi: str, at: str) -> str:
    named = settings_named(project, wsgi)
    if named:
        return named
    found = settings_modules(project)
    there_are = f"; there are {some(found)}" if found else ""
    raise DeploymentError(
        f"neither wsgi.py nor manage.py names a settings module{there_are}",
        hint=f"say it: {at}:settings_module, for example {found[0] if found else 'mysite.settings'}",
    )


def some(names: Iterable[str]) -> str:
    """Names in a sentence, no more than eight of them."""
    listed = list(names)
    return f"{', '.join(listed[:8])}{' …' if len(listed) > 8 else ''}"


def files(top: Path, name: str | None, depth: int) -> list[Path]:
    """The files of that name, or all, in a tree down to a depth; tests and what others wrote are left out."""
    found = []
    for parent, folders, names in os.walk(top):
        level = len(Path(parent).relative_to(top).parts)
        folders[:] = sorted(f for f in folders if f not in _SKIPPED and not f.startswith(".")) if level < depth else []
        found += [Path(parent, one) for one in names if name in (None, one)]
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
