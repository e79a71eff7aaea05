"""What to do about a failure of a project: the hint, by what the failure carries."""

import contextlib
import functools
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from django_formula.database import databases
from django_formula.host.commands import DeploymentError
from django_formula.inspect import advice, dependency, modules, project
from django_formula.knowledge import cause as knowledge_cause
from django_formula.knowledge import cause_file, hints, package
from django_formula.observe import observation
from django_formula.observe.observation import Variable
from django_formula.project.ask import ProjectError
from django_formula.site.sites import Site
from django_formula.untrusted import delegate
from django_formula.untrusted.foreign import Foreign
from django_formula.untrusted.text import in_pillar
from django_formula.virtualenv import virtualenvs

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


def explain(error: ProjectError) -> None:
    """Add the hint to a failure of a project, once."""
    if error.failure is None:
        return
    (site, release, facts, report, cause, log, hint), error.failure = error.failure, None
    added = error.hint.removeprefix(hint).lstrip("\n")
    error.transient = error.transient and (bool(report["blocked"]) or not cause_file.of_file(site, cause, facts))
    error.hint = _hint(site, release, facts, report, cause, log) or hint
    databases.add_hint(site, error)
    error.hint = "\n".join(filter(None, [error.hint, added]))


#: The keys of the pillar that name a module of the project.
_MODULES = ("settings_module", "wsgi", "asgi")


def _hint(site: Site, release: Path, facts: Mapping[str, Any], report: Mapping[str, str], cause: str, log: str) -> str:
    """Return what to do about a failure of a project: a lock, a missing module or variable, or a known cause.

    Args:
        log: the output of the program, with frames.
    """
    at = site.at
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
        text = f"the module is in the source: set {at}:python_path: {in_pillar([folders[0]])}"
        return hints.Hint(text, {"python_path": [*(site.config["python_path"] or []), folders[0]]})
    named = [key for key in _MODULES if module and f"{site.config.get(key) or ''}.".startswith(f"{module[1]}.")]
    if named:
        return f"correct {at}:{named[0]}: the source has no such module"
    own = _absent_file(site, release, facts, cause)
    if own:
        variable = advice.choosing_variable(site, release, facts)
        choice = f"set {at}:environment: {hints.flow(variable)}, with which the settings do without, or "
        text = f"the project imports {own}, which is not in the source: {choice if variable else ''}add it to "
        return hints.Hint(f"{text}{at}:files, or commit it", {"environment": variable} if variable else {})
    absent = advice.missing_modules(site, release, facts) if module and "." not in module[1] else {}
    if module and module[1] in absent and len(absent) + bool(absent[module[1]]) > 1:
        return modules.hint(site, absent)
    missing = _missing(site, release, facts, report["missing"], cause)
    if missing:
        return set_variables(site, missing, observation.needed(site, release, advice.own(release, facts)))
    packages = virtualenvs.packages(release / "virtualenv")
    outdated = functools.partial(advice.outdated, site, release, packages.get("django", ""))
    known = dependency.of_python(site, cause, log, packages, functools.partial(advice.using, site, release))
    known = (
        known
        or advice.with_too_old(site, release, knowledge_cause.hint(site, cause, facts), packages)
        or dependency.hint(site, cause, packages, log, outdated)
        or advice.migrated_first(site, release, facts, cause)
    )
    if "silenced_checks" in known:
        refused = advice.refused_setting(site, release, facts, cause)
        known = hints.Hint(f"{refused}; or {known}", known) if refused else known
    known = known or advice.newer_django(site, release, facts, cause, packages)
    known = known or advice.unset_variables(site, release, facts, cause)
    known = known or knowledge_cause.hint(site, log, facts)
    known = advice.with_template(site, release, known) or advice.named_variables(site, release, facts, log)
    observed = [] if known else observation.needed(site, release, advice.own(release, facts))
    return known or (set_variables(site, [], observed) if observed else "")


def set_variables(site: Site, missing: Collection[str], observed: Collection[Variable]) -> str:
    """Return a hint with all variables that a project lacks, and what the formula has for them.

    Args:
        missing: those that were read in the source.
        observed: those without which a start does not get on.
    """
    at, words = site.at, {one.name: one.value for one in sorted(observed) if one.word}
    names = sorted({*missing, *(one.name for one in observed)})
    made_up = {one.name: {"generate": 50} for one in sorted(observed) if one.is_made_up}
    options = {"environment": words, "secrets": made_up, **observation.lacking(site, observed)}
    options = {option: value for option, value in options.items() if value}
    known = " and ".join(f"{at}:{option}: {hints.flow(value)}" for option, value in options.items())
    if len(names) == 1 and options:
        return hints.Hint(f"set {known}, which the settings require", options)
    if len(names) == 1:
        return f"set {at}:environment:{names[0]}, or {at}:secrets:{names[0]}"
    text = f"set {', '.join(names)}, which the settings require, in {at}:environment or {at}:secrets"
    return hints.Hint(f"{text}; some as {known}", options) if options else text


def _absent_file(site: Site, release: Path, facts: Mapping[str, Any], cause: str) -> str:
    """Return the file of a module that the project imports from itself and its source does not have; else nothing."""
    missing = _NO_MODULE.search(cause)
    if not missing:
        return ""
    module = missing["module"] or f"{missing['package']}.{missing['name']}"
    return advice.absent_file(site, release, facts, module)


def _missing(site: Site, release: Path, facts: Mapping[str, Any], name: str, cause: str) -> list[str]:
    """Return all variables that the settings lack, if one that they lack is the cause.

    Args:
        name: the variable that the project reported; empty if it reported none.
    """
    words = {*_NAME_OF_VARIABLE.findall(cause)}
    is_of_none = bool(_OF_PYDANTIC.search(cause) or _OF_NONE.match(cause))
    if not name and not words and not is_of_none:
        return []
    missing = {*filter(None, [name]), *advice.missing_variables(site, release, facts)}
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
    near = "" if module == importing_file or package.package_of(module) else parent

    def importing() -> list[str]:
        found = project.import_folders(source.path, folder, module)
        return [one for one in found if one == near or not _is_in_package(source.path / one, module)]

    with contextlib.suppress(DeploymentError):
        found: list[str] = delegate.ask(site.user, importing)
        return sorted(found, key=lambda one: one != near)
    return []


def _is_in_package(folder: Path, module: str) -> bool:
    """Return whether a module is one file of a package, such as ``blog/celery.py``, which is not Celery."""
    return (folder / "__init__.py").is_file() and (folder / f"{module}.py").is_file()
