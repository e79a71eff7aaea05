"""Programs of the formula that run in a site's virtualenv and answer in JSON."""

import contextlib
import functools
import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import django_database
import django_host_file
import django_project
import django_release_instance
import django_site_cause
import django_site_cause_file
import django_site_package
import django_store
import django_virtualenv
import django_wall_delegate
import django_wall_shape
import django_worker
from django_host_command import DeploymentError, seconds
from django_process_command import ProjectCommand
from django_site import Site
from django_wall_foreign import Foreign
from django_wall_text import in_pillar

#: The programs in a release's ``config/``; their names shadow no module of a project.
START, MIGRATE = "django_formula_start.py", "django_formula_migrate.py"
#: The program for backups, which also runs in releases that were created before it existed: Python reads it from the
#: standard input, then its request.
BACKUP = "salt://django/files/django_formula_backup.py"
_READ = "import sys; exec(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())).decode())"
#: Deployment checks that require TLS, which a site on plain http does not have.
NOT_WITHOUT_TLS = ["security.W004", "security.W008", "security.W012", "security.W016", "security.W021"]


def ignored_checks(site: Site) -> list[str]:
    """Return the checks that do not apply to a site, and those that the pillar silences."""
    silenced: list[str] = site.config.get("silenced_checks", [])
    return [*([] if site.public_https else NOT_WITHOUT_TLS), *silenced]


#: Migrations that an error names at most; of more it has the number.
_SHOWN = 8
#: How pydantic-settings reports missing variables, by the names of its fields.
_OF_PYDANTIC = re.compile(r"validation errors? for .*\b(Field required|field required)")

#: How Python reports that a value is None: a variable that is not set, of which the settings need a text.
_OF_NONE = re.compile(r"(AttributeError|TypeError): .*\bNoneType\b")
#: What may be the name of a variable, in the words of the project.
_NAME_OF_VARIABLE = re.compile(r"\b[A-Z][A-Z0-9_]{2,}\b")
#: How Python reports a module that is missing, or one of a package that may be an attribute of it.
_NO_MODULE = re.compile(
    r"No module named '(?P<module>[\w.]+)'(?!;)"
    r"|cannot import name '(?P<name>\w*(?:settings|config|secrets|credentials|local)\w*)' from '(?P<package>[\w.]+)' "
    r"\(\S*/__init__\.py\)"
)


class PartlyMigrated(DeploymentError):
    """A migration failed after others were applied or reversed: `names`."""

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
        **({"cache_tables": tables} if (tables := sorted(django_store.tables(site).values())) else {}),
        **django_worker.celery_request(site, facts),
    }
    shape, timeout, writable = django_wall_shape.START, _start_timeout(site), [release / "static"]
    answer = _ask(site, release, facts, request, secrets, shape, timeout=timeout, writable=writable, task=task)
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
    """Return the effective settings of a release: name → ``text``, None if it is hidden, and ``hash``.

    Args:
        program: the path of the program that reads them (``django_formula_plan.py``).

    Raises:
        DeploymentError: the project does not start.
    """
    timeout = _start_timeout(site)
    shape = {str: {"text": django_wall_shape.MAYBE, "hash": str}}
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
    shape = {"migrations": django_wall_shape.MIGRATIONS, "checks": [str], "migrated": {str: [str]}}
    answer = _ask(site, release, facts, request, secrets, shape, program=MIGRATE, timeout=timeout)
    _refuse_unknown(_DOING["migrate"], answer["migrations"], facts["migrations"])
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
    """Classify what applied migrations do to a release that does not have them.

    Args:
        databases: the names of the migrations, by database.
        known: the migrations that the other release has, by database.

    Raises:
        DeploymentError: the project does not start.
    """
    request = {"mode": "classify", "application": facts["application"], "databases": databases, "known": known}
    timeout = _start_timeout(site)
    shape = {"schema": django_wall_shape.SCHEMA}
    answer = _ask(site, release, facts, request, secrets, shape, program=MIGRATE, timeout=timeout)
    schema: dict[str, list[dict[str, Any]]] = answer["schema"]
    if not databases.keys() <= schema.keys():
        raise _unusable(_DOING["classify"])
    return schema


def _refuse_unknown(doing: str, migrations: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse migrations of a database that the project does not have, and aliases that are not names."""
    if not all(alias in known and re.fullmatch(r"\w[\w.-]*", alias) for alias in migrations):
        raise _unusable(doing)


def _unusable(doing: str) -> DeploymentError:
    return DeploymentError(f"{doing}: it ended without a usable answer")


def _start_timeout(site: Site) -> float:
    return seconds(site.config["timeouts"]["start"])


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
    timeout = _start_timeout(site)
    task = f"check-{os.getpid()}"
    answer = _ask(site, release, facts, request, secrets, {"checks": [str]}, timeout=timeout, task=task)
    warnings: list[str] = answer["checks"]
    return warnings


def backup(site: Site, release: Path, facts: Mapping[str, Any], request: dict[str, Any], secrets: list[str]) -> Any:
    """Run the program for backups, and return its answer.

    Args:
        request: ``mode`` `connections` with the ``aliases`` of databases, for the parameters of their drivers; or
            `fit` with the ``names`` of other databases by alias, and ``migrate``: the migrations to apply there.

    Raises:
        DeploymentError: the project does not start, or cannot reach a database.
    """
    program = (django_host_file.read_text(site.kept_template(BACKUP)) or "").encode()
    argv = [f"{release}/virtualenv/bin/python", "-c", _READ]
    doing = {"connections": "reading the databases' connections", "fit": "testing the databases"}[request["mode"]]
    timeout = seconds(site.config["migrate"]["timeout"]) if request.get("migrate") else _start_timeout(site)
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
        raise _explained(site, release, facts, doing, error) from None
    shape = {"connections": {str: {str: (str, int, float, bool, {})}}, "fit": {str: [str]}}[request["mode"]]
    found = django_wall_shape.parse(output.partition("\n")[0], shape, doing=doing)
    if found.keys() != set(request.get("aliases") or request.get("names") or ()):
        raise _unusable(doing)
    return found


_DOING = {
    "start": "starting Django",
    "migrate": "migrating the database",
    "check": "running the checks",
    "reverse": "reversing migrations",
    "classify": "classifying migrations",
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
    """Run a program of the formula with a request, and return its answer.

    The project runs in the same process, so that the answer is its own and not to be trusted.

    Args:
        shape: the required shape of the answer (`django_wall_shape`).

    Raises:
        DeploymentError: the project raises an exception, or the answer has another shape.
    """
    argv = [f"{release}/virtualenv/bin/python", path_of(release, program)]
    doing = _DOING[request["mode"]]
    command = ProjectCommand(
        site, release, facts, argv, doing=doing, stdin=json.dumps(request), secrets=secrets, **options
    )
    try:
        output = run(command)
    except DeploymentError as error:
        raise _explained(site, release, facts, doing, error) from None
    answer: dict[str, Any] = django_wall_shape.parse(output, shape, doing=doing, log=output)
    return answer


def run(command: ProjectCommand) -> str:
    """Run a command of a project by the process manager of its release and return its output."""
    return django_release_instance.process_manager(command.site, command.release).run(command)


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


def _explained(
    site: Site, release: Path, facts: Mapping[str, Any], doing: str, error: DeploymentError
) -> DeploymentError:
    """Return the error of a program with the project's own exception as its cause, and with a hint."""
    report = _report(error)
    cause = report["cause"] or error.message.removeprefix(f"{doing}: ")
    evidence = cause if report["cause"] else f"{cause}\n{error.log}"
    text = ": ".join(filter(None, [doing, report["migration"], cause]))
    names = report["applied"].split(", ") if report["applied"] else []
    shown = report["applied"] if len(names) <= _SHOWN else f"{len(names)} migrations"
    text += f" (applied before it: {shown})" if names else ""
    kind = PartlyMigrated if names else DeploymentError
    failure = kind(
        text,
        log="" if report["blocked"] else error.log,
        hint=_hint(site, release, facts, report, evidence, error.log) or error.hint or _more_time(site, doing, error),
        transient=bool(report["blocked"])
        or (error.transient and not django_site_cause_file.of_file(site, evidence, facts)),
    )
    if isinstance(failure, PartlyMigrated):
        failure.names = names
    django_database.add_hint(site, failure)
    return failure


def _more_time(site: Site, doing: str, error: DeploymentError) -> str:
    """Return the option for the time that a program did not end in; empty for other failures."""
    option = "migrate:timeout" if "migrat" in doing else "timeouts:start"
    is_late = error.message.startswith(f"{doing}: timed out after")
    return f"give it more time: set django:sites:{site.name}:{option} to a longer one" if is_late else ""


#: The keys of the pillar that name a module of the project.
_MODULES = ("settings_module", "wsgi", "asgi")


def _hint(site: Site, release: Path, facts: Mapping[str, Any], report: Mapping[str, str], cause: str, log: str) -> str:
    """Return what to do about a failure of a project: a lock, a missing module or variable, or a known cause.

    Args:
        log: the output of the program, with frames.
    """
    import django_project_advice  # which only a failure needs
    import django_project_dependency
    import django_project_modules

    at = f"django:sites:{site.name}"
    if report["blocked"]:
        return f"end it, or apply again later; {at}:migrate:lock_timeout and migrate:timeout set how long to wait"
    was_empty = "contenttypes.0001_initial" in report["applied"].split(", ")
    if (report["repeated"] or was_empty) and re.search(r"already exists|[Dd]uplicate column", cause):
        return (
            f"migrations before {report['migration']} have added {report['repeated'] or 'it'} too, so that no empty "
            "database can be migrated: correct them in the project"
        )
    module = re.search(r"(?:^|, caused by )ModuleNotFoundError: No module named '([\w.]+)'", cause)
    folders = _import_folders(site, release, facts["folder"], module.group(1), cause) if module else []
    if folders:
        return f"the module is in the source: set {at}:python_path: {in_pillar([folders[0]])}"
    named = [key for key in _MODULES if module and f"{site.config.get(key) or ''}.".startswith(f"{module[1]}.")]
    if named:
        return f"correct {at}:{named[0]}: the source has no such module"
    own = _absent_file(site, release, facts, cause)
    if own:
        variable = django_project_advice.choosing_variable(site, release, facts)
        instead = f"set {at}:environment: {variable}, with which the settings do without, or " if variable else ""
        return f"the project imports {own}, which is not in the source: {instead}add it to {at}:files, or commit it"
    absent = _absent(site, release, facts) if module and "." not in module[1] else []
    if module and module[1] in absent and len(absent) + bool(django_site_package.package_of(module[1])) > 1:
        return django_project_modules.hint(site, absent)
    missing = _missing(site, release, facts, report["missing"], cause)
    if len(missing) > 1:
        return f"set {', '.join(missing)}, which the settings require, in {at}:environment or {at}:secrets"
    if missing:
        return f"set {at}:environment:{missing[0]}, or {at}:secrets:{missing[0]}"
    packages = django_virtualenv.packages(release / "virtualenv")
    outdated = functools.partial(django_project_advice.outdated, site, release, packages)
    known = django_project_dependency.of_python(site, cause, log, packages)
    known = (
        known
        or django_site_cause.hint(site, cause, facts)
        or django_project_dependency.hint(site, cause, packages, log, outdated)
        or django_project_advice.migrated_first(site, release, facts, cause)
    )
    if "silenced_checks" in known:
        refused = django_project_advice.refused_setting(site, release, facts, cause)
        known = f"{refused}; or {known}" if refused else known
    known = known or django_project_advice.newer_django(site, release, facts, cause, packages)
    known = known or django_project_advice.unset_variables(site, release, facts, cause)
    return known or django_project_advice.named_variables(site, release, facts, log)


def _absent_file(site: Site, release: Path, facts: Mapping[str, Any], cause: str) -> str:
    """Return the file of a module that the project imports from itself and its source does not have; else nothing."""
    missing = _NO_MODULE.search(cause)
    if not missing:
        return ""
    import django_project_advice  # which only a failure needs

    module = missing["module"] or f"{missing['package']}.{missing['name']}"
    return django_project_advice.absent_file(site, release, facts, module)


def _absent(site: Site, release: Path, facts: Mapping[str, Any]) -> list[str]:
    """Return all modules that the settings need, and that neither the source nor the virtualenv has."""
    import django_project_advice  # which only a failure needs

    return django_project_advice.missing_modules(site, release, facts)


def _missing(site: Site, release: Path, facts: Mapping[str, Any], name: str, cause: str) -> list[str]:
    """Return all variables that the settings lack, if one that they lack is the cause.

    Args:
        name: the variable that the project reported; empty if it reported none.
    """
    words = {*_NAME_OF_VARIABLE.findall(cause)}
    is_of_none = bool(_OF_PYDANTIC.search(cause) or _OF_NONE.match(cause))
    if not name and not words and not is_of_none:
        return []
    import django_project_advice  # which only a failure needs

    missing = {*filter(None, [name]), *django_project_advice.missing_variables(site, release, facts)}
    return sorted(missing) if name or is_of_none or words & missing else []


def _import_folders(site: Site, release: Path, folder: str, module: str, cause: str) -> list[str]:
    """Return the folders of a release's source that have a module; they are read as the site's user.

    Args:
        folder: the folder of manage.py.
        cause: the exception; the folder of the file that it names has its modules, though it is a package, unless a
            known package or that file itself has the name.
    """
    source = Foreign(release / "source")
    place = re.search(r"\(([\w./-]+)\.py:\d+\)", cause)
    parent, _slash, importing_file = place[1].rpartition("/") if place else ("", "", module)
    near = "" if module == importing_file or django_site_package.package_of(module) else parent

    def importing() -> list[str]:
        found = django_project.import_folders(source.path, folder, module)
        return [one for one in found if one == near or not _is_in_package(source.path / one, module)]

    with contextlib.suppress(DeploymentError):
        found: list[str] = django_wall_delegate.ask(site.user, importing)
        return sorted(found, key=lambda one: one != near)
    return []


def _is_in_package(folder: Path, module: str) -> bool:
    """Return whether a module is one file of a package, such as ``blog/celery.py``, which is not Celery."""
    return (folder / "__init__.py").is_file() and (folder / f"{module}.py").is_file()


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
