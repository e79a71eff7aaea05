"""Find the options of a site that a project needs, from its settings and its files."""

import ast
import contextlib
import functools
import os
import platform
import re
import shlex
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from django_formula.database import engines, sqlite
from django_formula.host import daemons
from django_formula.inspect import (
    background,
    build,
    clients,
    code,
    compressor,
    configuration,
    data,
    declared,
    environment,
    front_end,
    images,
    imports,
    layers,
    metadata,
    migrations,
    models,
    python_path,
    release,
    requirements,
    routes,
    translations,
    unusable,
)
from django_formula.inspect import examples as inspect_examples
from django_formula.inspect import modules as inspect_modules
from django_formula.inspect import packages as inspect_packages
from django_formula.inspect import project as inspect_project
from django_formula.inspect import variables as inspect_variables
from django_formula.inspect.access import Access
from django_formula.inspect.report import Report
from django_formula.inspect.settings import Settings
from django_formula.inspect.values import UNKNOWN, Value, Variable
from django_formula.knowledge.rows import rows
from django_formula.untrusted.text import in_pillar

#: The calls of the system that a project may make which changes the owner of a file of its own.
_WITH_CHOWN = ["@system-service", "~@privileged @resources", "@chown"]

#: What Python 3 reports of code that only Python 2 has read.
_OF_PYTHON_2 = re.compile(
    r"Missing parentheses in call to '(print|exec)'|multiple exception types|leading zeros in|inconsistent use of tabs"
)
#: What the pillar takes as the path of a site, with a slash at its end or without one.
_PREFIX = re.compile(r"(/[A-Za-z0-9_~][A-Za-z0-9._~-]*)+/?")
#: Commands for a new site that a remark proposes at most.
_SINGLE = 6
#: The command by which rows of a database are dumped.
_DUMP = "manage.py dumpdata --exclude contenttypes --exclude auth.permission --output rows.json"


def add(report: Report, tree: Path, project: str, domain: str, host: str) -> None:
    """Add what a project needs to a report that has its settings module and the folders that it is imported from.

    Args:
        project: the folder of manage.py.
        domain: the domain of the site.
        host: the version of this host's python3; empty if there is none.
    """
    part = functools.partial(_part, report, tree)
    files, required = list[str](), list[str]()
    settings, examples, engine, words = Settings(), dict[str, Any](), "", dict[str, dict[str, str]]()
    with part("the requirements"):
        files, required = inspect_packages.add(report, tree, project, host)
    roots = [tree / folder for folder in (project, *report.value("python_path", []))]
    with part("the settings"):
        settings = environment.read(roots, report.settings_module, report.application)
        settings = _without_errors(report, settings, roots)
        _syntax(report, settings, tree)
        _configured(report, tree / project)
    with part("the modules that the project imports"):
        roots += _own_folders(report, settings, tree, project, roots)
        _newer_syntax(report, settings, tree, roots, host)
        required = inspect_packages.complete(report, settings, tree, roots, files, required, host)
        inspect_packages.add_removed(report, settings, roots, required, host)
    with part("the front end"):
        _front_ends(report, settings, tree, project)
    with part("the project's own metadata"):
        why = "the project reads its own metadata, and is not installed as a package"
        report.merge("files", metadata.stand_ins(tree, project, roots), why)
    deployed = declared.NOTHING
    with part("deployment files of other platforms"):
        deployed = declared.find(tree, report.remarks, project)
        if deployed.domains:
            report.set("domains", deployed.domains, f"as {deployed.places['domains']} has them")
    with part("examples of its variables"):
        place = deployed.places.get("variables", "")
        examples = inspect_examples.find([*roots, tree], environment.may_be_secret, deployed.variables, place)
    with part("the database"):
        engine = _database(report, settings, tree, requirements.drivers(required), examples)
        _extensions(report, settings, tree)
    with part("the sandbox"):
        _sandbox(report, settings)
    with part("the variables"):
        inspect_variables.add(settings, roots, inspect_variables.of_files([*roots, tree]))
        _random(report, settings, roots)
    with part("workers, schedules and stores"):
        words = background.add(report, tree, roots, settings, required, deployed.commands).words
    with part("servers that its code connects to"):
        clients.add(report, settings, tree, roots)
    with part("the environment"):
        _environment(report, settings, tree, roots, examples, engine, domain, words)
        _dotenv(report, settings, tree, roots[0])
        _configuration(report, settings, tree, roots)
    with part("settings for this host"):
        for name, value, why in unusable.instead(settings, tree, roots, domain):
            report.merge("settings", {name: value}, why)
        _mail(report, settings)
        _assets(report, settings, tree)
        prefix = settings.get("FORCE_SCRIPT_NAME")
        if isinstance(prefix, str) and _PREFIX.fullmatch(prefix):
            report.set("path", prefix.rstrip("/"), "as FORCE_SCRIPT_NAME has it")
    with part("translations"):
        translations.add(report, settings, tree, project)
    with part("commands"):
        _commands(report, settings, tree)
        _after_migrate(report, settings, tree, deployed)
    with part("data"):
        _data(report, settings, tree, project)
    with part("migrations"):
        _migrations(report, settings, roots)
    build.add_files(report)
    with part("packages of its images"):
        images.add_packages(report, tree, project)
    with part("the health check"):
        _health(report, roots, settings, deployed)
    if re.search(r"^[ \t]*url\s*=\s*\./\w", code.read(tree / ".gitmodules"), re.MULTILINE):
        report.set("submodules", False, "the URL of one leads into this repository itself, where no repository is")


def _is_package_without_manage(folder: Path) -> bool:
    """Return whether Python has no modules of a package in a folder by their own names.

    It has those next to manage.py, unless one of them hides a package of the same name, which it imports.
    """
    is_package = (folder / "__init__.py").exists()
    return is_package and (not (folder / "manage.py").is_file() or python_path.hides_packages(folder))


@contextlib.contextmanager
def _part(report: Report, tree: Path, what: str) -> Iterator[None]:
    """Look at a part of a project; where an odd file ends that, say so, and have the other parts go on."""
    code.Reading.path = None
    try:
        yield
    except (*code.UNEXPECTED, OSError) as error:
        path = code.Reading.path
        after = f", after {os.path.relpath(path, tree)} was read" if path else ""
        cause = f"{type(error).__name__}: {str(error)[:300]}".removesuffix(": ")
        report.remarks.append(f"{what}: not completely inspected ({cause}{after}); complete it in the pillar")


def _without_errors(report: Report, settings: Settings, roots: Sequence[Path]) -> Settings:
    """Return the settings that the project names, where those guessed for a live site use a name that they lack."""
    module = code.settings_named(roots[0] / "manage.py")
    is_elsewhere = settings.absent or settings.optional  # in a file that is not committed
    if (
        not settings.undefined
        or is_elsewhere
        or "settings_module" not in report.pillar
        or module == report.settings_module
    ):
        return settings
    makes_names = any(configuration.MAKES_NAMES.search(code.read(path)) for path in settings.files)
    named = environment.read(roots, module, report.application) if module else settings
    if makes_names or named.undefined or not named.files:
        return settings
    name, place = next(iter(settings.undefined.items()))
    why = f"named by manage.py; {place.removeprefix(f'{roots[0]}/')} uses {name}, which is not defined"
    report.set("settings_module", module, why)
    report.settings_module = module
    return named


def _syntax(report: Report, settings: Settings, tree: Path) -> None:
    """Name the modules of the settings that Python cannot import."""
    version = ".".join(platform.python_version_tuple()[:2])
    for path in settings.files:
        error = code.syntax_error(path)
        if error:
            cure = "correct it, or set `settings_module` to another one"
            report.remarks.append(f"{path.relative_to(tree)}:{error}, {_not_read(error, version, cure)}")


def _newer_syntax(report: Report, settings: Settings, tree: Path, roots: Sequence[Path], host: str) -> None:
    """Name a module that Django imports and this host's Python cannot, being written for a newer one.

    Args:
        host: the version of this host's python3, which is the one that reads the modules here, or nothing is known.
    """
    version = ".".join(platform.python_version_tuple()[:2])
    if not host.startswith(f"{version}."):
        return
    for path in imports.imported(roots, settings):
        error = "" if path in settings.files else code.syntax_error(path)
        if error:
            cure = "set `python` to the one that the project is for, or correct it"
            report.remarks.append(f"{path.relative_to(tree)}:{error}, {_not_read(error, version, cure)}")
            return


def _not_read(error: str, version: str, cure: str) -> str:
    """Return what a syntax error means, and what to do about it."""
    if _OF_PYTHON_2.search(error):
        return "which is Python 2: no site runs it; convert the project to Python 3 first, as with 2to3"
    return f"a SyntaxError for Python {version}: {cure}"


def _configured(report: Report, folder: Path) -> None:
    """Remark that manage.py makes the settings in code: no module of settings, and no overlay, takes effect."""
    calls = [node for node in ast.walk(code.tree(folder / "manage.py")) if isinstance(node, ast.Call)]
    if any(code.dotted(call.func) == "settings.configure" for call in calls):
        report.remarks.append(
            "manage.py makes the settings by settings.configure(): `settings_module` and the overlay have no effect, "
            "so that the project itself has to take STATIC_ROOT and the database from variables"
        )


def _own_folders(report: Report, settings: Settings, tree: Path, project: str, roots: Sequence[Path]) -> Iterator[Path]:
    """Yield further folders that the project is imported from: those of its applications that are elsewhere.

    The folder above that of manage.py is one where modules import the folder of manage.py itself, and a package is one
    where its modules import each other without its name.
    """
    files = [path for top in {tree, tree / project} for path in inspect_project.walk(top, "__init__.py", depth=5)]
    packages = {path.parent.name for path in files}
    of_settings = inspect_modules.needed(settings)
    above = imports.from_top(tree, roots, settings) if tree not in roots else []
    for module in dict.fromkeys([*of_settings, *above]):
        if module not in packages or python_path.is_own(roots, module):
            continue
        folders = inspect_project.import_folders(tree, project, module)
        tops = [tree / folder for folder in folders if (tree / folder / module / "__init__.py").is_file()]
        tops = [top for top in tops if not python_path.is_of_installed(top / module)]
        tops = [top for top in tops if not python_path.hides_python(top) and (module in of_settings or top == tree)]
        if len(tops) == 1 and not _is_package_without_manage(tops[0]):
            report.extend("python_path", [str(tops[0].relative_to(tree))], f"has {module}")
            yield tops[0]
    folder = tree / project
    is_known = folder == tree or python_path.is_own(roots, folder.name)
    if not is_known and inspect_modules.imports_itself(folder):
        report.extend("python_path", [str(folder.parent.relative_to(tree))], f"{folder.name} is imported from there")
        yield folder.parent
    for path, module in imports.from_own_folder(roots, settings).items():
        report.extend("python_path", [str(path.relative_to(tree))], f"{module} is imported from there")
        yield path


def _front_ends(report: Report, settings: Settings, tree: Path, project: str) -> None:
    """Add the commands that build the front ends of a project, and what they need."""
    for one in front_end.find(tree, project, settings, _distribution()):
        if one.remark:
            report.remarks.append(one.remark)
            continue
        report.extend("build", [*one.commands], "; ".join(filter(None, [one.path, one.why])))
        if one.node:
            report.extend("python_packages", [one.node], one.reason)
        packages = [*one.packages, *([] if one.node else ["npm"])]
        if packages:
            report.extend("packages", packages, "for the build")


def _distribution() -> str:
    """Return the code name of this host's distribution; empty if it is not known."""
    with contextlib.suppress(OSError):
        found = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
        return found[1] if found else ""
    return ""


#: A secret with a value of its own in a file with settings.
_SECRET_OF_EXAMPLE = re.compile(r"""^(\w*(?:_KEY|SECRET|PASSWORD|TOKEN|SALT))\s*=\s*["'][^"']+["']""", re.MULTILINE)
#: A distribution with a package of pgvector → the version of its PostgreSQL.
_POSTGRES = {"trixie": "17", "noble": "16"}


def _assets(report: Report, settings: Settings, tree: Path) -> None:
    """Find applications whose assets a management command builds before static files are collected."""
    installed = settings.get("INSTALLED_APPS")
    names = installed if isinstance(installed, list) else []
    for row in rows("assets"):
        app, command, root = row["app"], row["command"], row.get("root", "")
        if app not in names:
            continue
        own = data.command_with(tree, row["own"]) if "own" in row else ""
        if root and not settings.values.get(root):
            report.extend("commands", [("after_static", [f"manage.py {command}"])], f"{app} writes to STATIC_ROOT")
            continue
        first = [row["first"]] if "first" in row and settings.get(row["unless"]) is False else []
        commands = [build.command(report, settings, one) for one in (*first, own or command)]
        why = f"{own} makes its assets" if own else "; ".join([f"{app} is installed", *filter(None, [row.get("why")])])
        report.extend("build", commands, why)
    for app in rows("static_folders"):
        if app in names and "django.contrib.staticfiles" not in names:
            report.remarks.append(f"{app}'s pages have no styles: django.contrib.staticfiles is not installed")


def _database(
    report: Report,
    settings: Settings,
    tree: Path,
    drivers: dict[str, str],
    examples: dict[str, inspect_examples.Example],
) -> str:
    """Propose the database that the settings or the project's driver are for; return its kind."""
    backend = settings.get("DATABASES", "default", "ENGINE")
    engine = engines.find(backend) if isinstance(backend, str) else None
    by_variable = environment.default_database(settings).get("ENGINE", Value())
    example = examples.get(by_variable.source) if backend in (UNKNOWN, None) else None
    shown = engines.find(example.value) if example else None
    is_by_url = any(variable.kind == "database" for variable in settings.variables.values())
    comment = f"the settings have {backend}"
    has_driver = len(drivers) == 1
    refused = data.refused_by_mysql(tree) if engine and engine.name == "mysql" else ""
    if refused:
        report.set("database", {"engine": "sqlite"}, f"{comment}, and MySQL refuses the default 0 in {refused}")
        return "sqlite"
    if engine and engine.is_server and not (has_driver and is_by_url and engine.name not in drivers):
        is_by_tcp = engine.name == "mysql" and drivers.get("mysql") in rows("over_tcp")
        where = {"host": engine.default_sockets[0], "manage": True} if is_by_tcp else {}
        why = f"; {drivers[engine.name]} uses TCP without `host`" if is_by_tcp else ""
        report.set("database", {"engine": engine.name, **where}, f"{comment}{why}")
    elif example and shown and shown.name in drivers and not has_driver:
        engine = shown
        report.set("database", {"engine": engine.name}, f"{example.place} has {by_variable.source}={example.value}")
    elif has_driver and (is_by_url or by_variable.taint or backend is UNKNOWN):
        engine = engines.ENGINES[next(iter(drivers))]
        report.set("database", {"engine": engine.name}, f"guessed: {drivers[engine.name]} is required")
    elif is_by_url:
        report.set("database", {"engine": "sqlite"}, "guessed from DATABASE_URL")
    elif by_variable.source and backend is None:
        report.set("database", {"engine": "sqlite"}, f"guessed: {by_variable.source} has no default")
    if isinstance(backend, str) and re.search(r"mysqlgis|gis\S*mysql|spatialite", backend):
        more = ["libsqlite3-mod-spatialite"] if engine and engine.name == "sqlite" else []
        report.extend("packages", ["gdal-bin", *more], f"for {backend}")
    return engine.name if engine else "sqlite"


def _sandbox(report: Report, settings: Settings) -> None:
    """Allow the settings what they do and the sandbox refuses: to change the owner of a file to their own user."""
    calls = {path: re.search(r"\bos\.l?chown\(", code.read(path)) for path in settings.files}
    path = next((path for path, call in calls.items() if call), None)
    if path and daemons.SYSTEMD.exists():
        before, comment = report.pillar.get("sandbox", ({}, ""))
        why = "; ".join(filter(None, [comment, f"{path.name} calls os.chown"]))
        report.set("sandbox", {**before, "SystemCallFilter": _WITH_CHOWN}, why)


def _extensions(report: Report, settings: Settings, tree: Path) -> None:
    """Add the extensions that only a superuser of PostgreSQL creates to the database that is proposed."""
    database, comment = report.pillar.get("database", ({}, ""))
    if database.get("engine") != "postgres":
        return
    backend, installed = settings.get("DATABASES", "default", "ENGINE"), settings.get("INSTALLED_APPS")
    is_spatial = "postgis" in str(backend) or (isinstance(installed, list) and "django.contrib.gis" in installed)
    names = dict.fromkeys([*(["postgis"] if is_spatial else []), *data.extensions(tree)])
    if names:
        report.set("database", {**database, "extensions": [*names]}, comment)
    if "vector" in names:
        _vector(report, _distribution())


def _vector(report: Report, distribution: str) -> None:
    """Add the package of the extension vector, or a remark where the distribution has none."""
    server = _POSTGRES.get(distribution)
    if server:
        report.extend("packages", [f"postgresql-{server}-pgvector"], "for the extension vector")
    elif distribution:
        report.remarks.append(
            f"the database needs the extension vector, of which {distribution} has no package: use a newer "
            "distribution, such as Debian 13, or set `database` to a server that has it"
        )


def _environment(
    report: Report,
    settings: Settings,
    tree: Path,
    roots: list[Path],
    examples: dict[str, inspect_examples.Example],
    engine: str,
    domain: str,
    stores: dict[str, dict[str, str]],
) -> None:
    """Put required and well-known variables into the pillar, and the others into remarks."""
    modules = (report.settings_module, report.application)
    context = environment.Context(roots, *modules, engine, domain, examples, stores)
    found = environment.of(settings, context)
    if (
        any("database_" in str(value) for value, _place in found.environment.values())
        and "database" not in report.pillar
    ):
        report.set("database", {"engine": engine}, "guessed from the variables")
    report.open_variables = found.open
    for name, (value, _place) in found.environment.items():
        package = environment.server_on_this_host(name, value)
        if package:
            report.extend("packages", [package], f"for {name}")
    top = f"{roots[0]}/"
    for key, entries in (("environment", found.environment), ("secrets", found.secrets)):
        shown = {name: (value, comment.replace(top, "")) for name, (value, comment) in entries.items()}
        if shown:
            report.set(key, shown)
    if found.optional:
        report.remarks.append(f"environment variables with a default: {', '.join(found.optional)}")
    for name, path in layers.of_development(settings, roots):
        report.remarks.append(
            f"{os.path.relpath(path, tree)} has settings for development and none for production, so a site runs with "
            f"the former: add a table for production, and set {name}: production in `environment`"
        )
    if found.presence:
        report.remarks.append(f"switched on by a variable, so not written: {', '.join(found.presence)}")


def _random(report: Report, settings: Settings, roots: Sequence[Path]) -> None:
    """Have variables with a random default set, and name the secrets that each process makes for itself."""
    for name, setting, place in inspect_variables.random_defaults(settings):
        where = place.removeprefix(f"{roots[0]}/")
        if not name and environment.may_be_secret(setting) and setting != "SECRET_KEY":
            report.remarks.append(
                f"{where}: each process has another {setting}: have the project read it from a variable"
            )
        elif name and setting == "SECRET_KEY" and name not in settings.sources.get("SECRET_KEY", {}):
            settings.sources.setdefault("SECRET_KEY", {})[name] = ""
            settings.variables.setdefault(name, Variable(name, place, is_read=True))
        elif name and environment.is_made_up(name):
            settings.variables.setdefault(name, Variable(name, place, is_read=True)).required = True


def _dotenv(report: Report, settings: Settings, tree: Path, root: Path) -> None:
    """Add the .env files that the settings read, in a folder of the source or else next to manage.py."""
    paths = [Path(os.path.normpath(root / path)) for path in settings.dotenv]
    inside = [path if path.is_relative_to(tree) else root / path.name for path in paths]
    read = {str(path.relative_to(tree)): {"environment": True} for path in inside if not path.is_dir()}
    report.merge("files", read, "" if "files" in report.pillar else "is read")


def _configuration(report: Report, settings: Settings, tree: Path, roots: Sequence[Path]) -> None:
    """Add the files with configuration that the settings import and that are not committed."""
    found = [*configuration.find(settings, tree, roots)]
    lacking = [
        one for one in configuration.lacking(settings, tree, roots) if one.path not in {one.path for one in found}
    ]
    found += [one for one in lacking if one.example]
    examples = "; ".join(one.example for one in found)
    why = f"not in the source, and needed: with the values of {examples}"
    report.merge("files", {one.path: {"contents": one.contents} for one in found if not one.command}, why)
    for one in found:
        if one.command:
            report.extend("build", [one.command], f"{one.path} is not in the source: made of {one.example}")
    of_names = [one for one in lacking if not one.example]
    why = "not in the source: assigns the names that the settings use and do not have"
    report.merge("files", {one.path: {"contents": one.contents} for one in of_names}, why)
    absent = [path for path in configuration.absent(settings, tree, roots) if path not in {one.path for one in lacking}]
    why = "not in the source, and imported by the settings; add settings of this site to it"
    report.merge("files", {path: {"contents": "# settings of this site\n"} for path in absent}, why)
    for one in found:
        known = [name for name in _SECRET_OF_EXAMPLE.findall(one.contents) if name not in one.words]
        if known:
            text = f"{inspect_project.listed(known)} in {one.path} has the value of {one.example}, which is public"
            how = "write the file in `files`, which comes after `build`" if one.command else "set another in `files`"
            report.remarks.append(f"{text}: {how}")
    paths = {one.path for one in (*found, *lacking)}
    missing = [one for one in configuration.missing(settings, tree, roots) if one.path not in paths]
    why = "imported by the settings, and not in the source: assigns the names that they import"
    report.merge("files", {one.path: {"contents": one.contents} for one in missing}, why)
    for place, path, template in configuration.templates(settings, tree, roots):
        report.remarks.append(
            f"{place} reads {path}, which is not in the source, and {template} is next to it: add the file to `files`, "
            "or commit it"
        )
    both = [*found, *of_names, *missing]
    words: dict[str, tuple[Any, str]] = {
        name: ({"from": word}, f"for {one.path}") for one in both for name, word in one.words.items()
    }
    words |= {name: ("", f"for {one.path}: set it") for one in both for name in one.unknown}
    present = {**report.value("environment", {}), **report.value("secrets", {})}
    own = environment.OWN
    words = {name: word for name, word in words.items() if name not in present and not own.fullmatch(name)}
    if words:
        report.set("environment", {**words, **report.value("environment", {})})
        report.open_variables += [name for name, (value, _comment) in words.items() if not value]


def _mail(report: Report, settings: Settings) -> None:
    """Name the option for a mail server, if the settings have another one than this host's."""
    host = settings.values.get("EMAIL_HOST", Value("localhost"))
    if host.taint or host.content not in ("localhost", "127.0.0.1", "", None):
        variables = f" ({inspect_project.listed(sorted(host.taint))})" if host.taint else ""
        report.remarks.append(f"mail is sent by the server of EMAIL_HOST{variables}: `email` sets another one")
    elif settings.get("EMAIL_PORT") not in (25, "25", UNKNOWN):
        port = settings.get("EMAIL_PORT")
        report.remarks.append(f"mail is sent to port {port} of this host (EMAIL_PORT): `email` sets a server")


def _commands(report: Report, settings: Settings, tree: Path) -> None:
    """Find the management commands that a release has to run."""
    compressor.add(report, settings, tree)
    caches = settings.get("CACHES")
    entries = caches.values() if isinstance(caches, dict) else ()
    backends = [cache.get("BACKEND") for cache in entries if isinstance(cache, dict)]
    if any(str(backend).endswith("db.DatabaseCache") for backend in backends):
        report.extend("commands", [("after_migrate", ["manage.py createcachetable"])], "DatabaseCache")


def _after_migrate(report: Report, settings: Settings, tree: Path, deployed: declared.Declared) -> None:
    """Take over what a deployment file declares for each release; name what other files run after migrations."""
    commands, path = release.after_migrate(tree, deployed)
    built = " ".join(report.value("build", []))
    found = [command for command in commands if command not in built]
    if unknown := release.not_understood(tree, deployed):
        named = inspect_project.listed(unknown)
        report.remarks.append(
            f"not understood of a release in {deployed.places['release']}, not in the pillar: {named}"
        )
    if found and path == deployed.places.get("release"):
        report.extend("commands", [("after_migrate", found)], f"as {path} has them")
    elif found:
        present = [one for stage, listed in report.value("commands", []) if stage == "after_migrate" for one in listed]
        commands_of_stage = in_pillar({"after_migrate": [*dict.fromkeys([*present, *found])]})
        report.remarks.append(f"{path} runs more after migrate; to have that: commands: {commands_of_stage}")
    single, path = release.once(tree, commands, deployed)
    if single:
        report.remarks.append(f"{path} runs what is for a new site; no release does, so run once after the first one:")
        for name in (command.removeprefix("manage.py ") for command in single[:_SINGLE]):
            is_user = name.startswith("createsuperuser")
            report.propose("salt-call", *(["django.superuser", "SITE"] if is_user else ["django.manage", "SITE", name]))
    installed = settings.get("INSTALLED_APPS")
    names = [name for name in installed if isinstance(name, str)] if isinstance(installed, list) else []
    fixtures, path = release.loaded(tree, names, deployed)
    if fixtures:
        report.remarks.append(f"{path} loads rows after migrate; to have them, once after the first release:")
        report.propose("salt-call", "django.manage", "SITE", shlex.join(["loaddata", *fixtures]))


def _data(report: Report, settings: Settings, tree: Path, folder: str) -> None:
    """Find what the project writes into its source, and static files that are committed where they are served from."""
    shared, writable = data.written(settings, tree, folder)
    if shared:
        report.set("shared", shared, "written by the project, and kept from release to release")
    if writable:
        report.set("writable", writable, "written by the project")
    outside = data.elsewhere(settings, tree)
    if outside:
        named = inspect_project.listed(f"{name} is {path}" for name, path in outside.items())
        cure = in_pillar({"ReadWritePaths": sorted(set(outside.values()))})
        report.remarks.append(
            f"{named}: where the project writes there, create it for the site's user, and set `sandbox: {cure}`"
        )
    key = data.key_file(settings, tree, folder)
    if key and not any(key.startswith(f"{path}/") or key == path for path in shared):
        report.merge("files", {key: {"from": "secret_key"}}, "SECRET_KEY is read from it")
    uploads = data.committed_uploads(settings, tree)
    if uploads and not any(path == uploads or uploads.startswith(f"{path}/") for path in shared):
        report.remarks.append(
            f"{uploads} has uploads, and the site's are elsewhere; copy them after the first release:"
        )
        source = f"/srv/django/SITE/current/source/{uploads}/."
        report.propose("runuser", "-u", "SITE", "--", "cp", "-rn", source, "/srv/django/SITE/media")
    database = data.committed_database(settings, tree)
    if database:
        report.remarks += _copy_of_database(database, report.value("database", {}).get("engine"))
    committed = data.committed_static_files(settings, tree)
    folders = data.static_folders(settings, tree, folder, committed)
    if folders:
        report.merge("settings", {"STATICFILES_DIRS": folders}, f"STATIC_ROOT is committed: {committed}")
    elif committed:
        report.set("static", {"collect": False}, f"STATIC_ROOT is committed: {committed}")


def _migrations(report: Report, settings: Settings, roots: Sequence[Path]) -> None:
    """Name the applications whose tables no migration makes, and one that has to be migrated before the others."""
    first = migrations.unordered(settings, roots)
    if first:
        report.extend("commands", [("after_static", [f"manage.py migrate {first.first}"])], "before the others")
        report.remarks.append(
            f"{first.migration} refers to {first.model}, which {first.deleted_by} deletes, and Django's order is the "
            f"other way round: a release migrates {first.first} first; take that out after the first one"
        )
    labels = models.without_migrations(settings, roots)
    synced = models.made_by_syncdb(settings, roots, labels)
    if synced:
        names = inspect_project.listed(synced)
        report.extend(
            "commands", [("after_migrate", ["manage.py migrate --run-syncdb"])], f"makes the tables of {names}"
        )
        report.remarks.append(
            f"no migrations are committed for {names}: a release makes their tables, and later changes of the models "
            "change none of them, until the project has migrations"
        )
    labels = [label for label in labels if label not in synced]
    if models.are_needed(settings, roots, labels):
        command = f"makemigrations --noinput --skip-checks {' '.join(labels)}"
        report.extend("build", [build.command(report, settings, command)], "no migrations are committed")
        report.remarks.append(
            f"no migrations are committed for {inspect_project.listed(labels)}: a release makes the first ones, and "
            "later changes of the models change no table, until the project has migrations"
        )
    elif labels:
        report.remarks.append(
            f"no migrations are committed for {inspect_project.listed(labels)}, and a release makes none: run "
            "manage.py makemigrations in the project, and commit what it writes"
        )


def _copy_of_database(path: str, engine: str | None) -> list[str | list[str]]:
    """Return how the rows of a SQLite file in the source come into the site's database, which is empty at first.

    Args:
        engine: that of the pillar; None where the project's own settings name its database.
    """
    if engine and engine != "sqlite":
        title = engines.ENGINES[engine].title
        return [
            f"{path} has a database, and the site begins with an empty one of {title}; to have its rows, dump them "
            "where the project uses it, and load them after the first release, or set `database: {engine: sqlite}`:",
            [*_DUMP.split()],
            ["salt-call", "django.manage", "SITE", "loaddata /srv/django/SITE/shared/rows.json"],
        ]
    own = f"/srv/django/SITE/database/{'db.sqlite3' if engine else os.path.basename(path)}"
    return [
        f"{path} has a database, and the site begins with an empty one; copy it after the first release:",
        sqlite.copy_command("SITE", f"/srv/django/SITE/current/source/{path}", own, committed=True),
        "and apply the migrations that it lacks: salt-call django.release SITE",
    ]


def _health(report: Report, roots: list[Path], settings: Settings, deployed: declared.Declared) -> None:
    """Take or guess the path of the health check, and the header by which the project recognises https."""
    urls = settings.get("ROOT_URLCONF")
    from_template = f"{report.application.rpartition('.')[0]}.urls"  # where Django's project template has them
    access = Access(roots, settings)
    if deployed.health:
        path, comment = urllib.parse.quote(deployed.health), f"as {deployed.places['health']} has it"
    else:
        path, comment = routes.health_path(access, urls if isinstance(urls, str) else from_template)
    health: dict[str, Any] = {"path": path} if path else {}
    if settings.get("SECURE_SSL_REDIRECT") is True:
        header = settings.get("SECURE_PROXY_SSL_HEADER")
        is_known = isinstance(header, list) and len(header) == 2 and all(isinstance(part, str) for part in header)
        name, value = header if is_known else ("HTTP_X_FORWARDED_PROTO", "https")
        health["headers"] = {name.removeprefix("HTTP_").replace("_", "-").title(): value}
        report.remarks.append(
            "visitors are redirected to https (SECURE_SSL_REDIRECT): set `tls`, "
            "or `proxy:trusted` if a server in front of this host has the certificate"
        )
    elif settings.get("SESSION_COOKIE_SECURE") is True or settings.get("CSRF_COOKIE_SECURE") is True:
        report.remarks.append(
            "logins need https (SESSION_COOKIE_SECURE, CSRF_COOKIE_SECURE): set `tls`, "
            "or `proxy:trusted` if a server in front of this host has the certificate"
        )
    if health:
        report.set("health", health, comment or "guessed")
