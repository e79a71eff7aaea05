"""Read a project from its source and write a pillar that deploys it. No code of the project is run."""

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import django_database_engine
import django_host_command
import django_host_service
import django_host_user
import django_kinds
import django_project
import django_project_background
import django_project_code
import django_project_configuration
import django_project_data
import django_project_environment
import django_project_front_end
import django_project_layout
import django_project_metadata
import django_project_models
import django_project_modules
import django_project_python_path
import django_project_release
import django_project_removed
import django_project_requirements
import django_project_routes
import django_source
import django_source_mirror
import django_source_reader
import django_virtualenv_python
import django_virtualenv_requirements
import django_wall_delegate
from django_host_command import DeploymentError
from django_project_report import Report
from django_project_settings import Settings
from django_project_values import UNKNOWN, Value
from django_site import Site
from django_wall_foreign import OWN, Foreign

#: The user who reads a repository that no site has yet.
_READER = "nobody"

#: Programs that compile style sheets for django-compressor → their packages of Debian.
_PRECOMPILERS = {"sassc": "sassc", "lessc": "node-less"}
#: The calls of the system that a project may make which changes the owner of a file of its own.
_WITH_CHOWN = ["@system-service", "~@privileged @resources", "@chown"]
#: Names that the schema refuses.
_RESERVED = re.compile(
    r"root|daemon|bin|sys|sync|games|man|lp|mail|news|uucp|proxy|www-data|backup|list|irc|gnats|nobody|messagebus|sshd"
    r"|ntp|dbus|polkitd|systemd-.*|postgres|mysql|redis|nginx|apache|salt|admin|adm|sudo|wheel|users|staff|django"
)


def inspect(where: str, revision: str = "HEAD", deploy_key: str | None = None) -> str:
    """Return a pillar for a project, with comments where something was guessed.

    Args:
        where: the URL of a repository, or a folder.
        revision: a branch, a tag or a commit of the repository.
        deploy_key: the path of a private SSH key for the repository.

    Raises:
        DeploymentError: the source cannot be fetched, or has no project.
    """
    where = str(Path(where).resolve()) if Path(where).is_dir() else where
    with _source(where, revision, deploy_key) as (tree, commit, user):
        arguments = (where, revision, _is_folder(where, revision), tree, commit, _host_python())
        doing = f"reading {where}"
        written: str = django_wall_delegate.ask(user, _written, *arguments, doing=doing, timeout=120, memory=1 << 30)
        return written


def found(where: str, revision: str = "HEAD", domain: str = "localhost") -> dict[str, Any]:
    """Return the keys of the pillar that need not be completed, without the source and the domains.

    Args:
        where: the URL of a repository, or a folder.
        revision: a branch, a tag or a commit of the repository.
        domain: the domain of the site.

    Raises:
        DeploymentError: the source cannot be fetched, or has no project.
    """
    where = str(Path(where).resolve()) if Path(where).is_dir() else where
    with _source(where, revision, None) as (tree, _commit, user):
        doing = f"reading {where}"
        keys: dict[str, Any] = django_wall_delegate.ask(
            user, _keys, tree, domain, doing=doing, timeout=120, memory=1 << 30
        )
        return keys


def _keys(tree: Path, domain: str) -> dict[str, Any]:
    report = Report()
    _read(report, tree, domain, "")
    return report.keys()


def _written(where: str, revision: str, is_folder: bool, tree: Path, commit: str, host: str) -> str:
    """Return the pillar for a tree; this runs as the user who can write to the tree."""
    report = Report()
    name = _name(where)
    if commit:
        report.remarks.append(f"commit {commit[:12]}")
    _location(report, where, revision, name, is_folder)
    _read(report, tree, f"{name}.example.org", host)
    return report.text(where, name)


def _read(report: Report, tree: Path, domain: str, host: str) -> None:
    """Add what is found in a tree to a report.

    Args:
        domain: the domain of the site.
        host: the version of this host's python3; empty if there is none.
    """
    read_project(report, tree, django_project_layout.add(report, tree), domain, host)


def read_project(report: Report, tree: Path, project: str, domain: str, host: str) -> None:
    """Add what a project needs to a report that has its settings module and the folders that it is imported from.

    Args:
        project: the folder of manage.py.
        domain: the domain of the site.
        host: the version of this host's python3; empty if there is none.
    """
    files = django_virtualenv_requirements.default_files(tree, project) or _setup(report, tree)
    required = _requirements(report, tree, project, files, host) if files else []
    roots = [tree / folder for folder in (project, *report.value("python_path", []))]
    settings = django_project_environment.read(roots, report.settings_module, report.application)
    roots += _own_folders(report, settings, tree, project, roots)
    if files and not (django_virtualenv_requirements.list_nothing(tree, files) and not required):
        left_out = django_project_modules.left_out(settings, roots, required)
        if left_out:
            report.extend("python_packages", left_out, "the project needs them, and no file requires them")
    else:
        _guess_packages(report, settings, roots, files)
    _front_ends(report, settings, tree, project)
    own_files = django_project_metadata.files(tree, project, roots)
    if own_files:
        report.set("files", own_files, "the project reads its own metadata, and is not installed as a package")
    engine = _database(report, settings, django_project_requirements.drivers(required))
    _extensions(report, settings, tree)
    _sandbox(report, settings)
    stores = django_project_background.add(report, tree, roots, settings, required)
    _environment(report, settings, tree, roots, engine, domain, stores.words)
    _configuration(report, settings, tree, roots)
    _mail(report, settings)
    _assets(report, settings, tree)
    _commands(report, settings)
    _after_migrate(report, tree)
    _data(report, settings, tree, project)
    _migrations(report, settings, roots)
    _health(report, roots, settings)


def _guess_packages(report: Report, settings: Settings, roots: Sequence[Path], files: Collection[str]) -> None:
    """Propose the packages of the modules that the settings need, where no file lists packages."""
    packages = django_project_modules.guessed(settings, roots)
    comment = f"guessed from the settings: {', '.join(files)} lists no packages"
    if not files:
        comment = "no requirements found: list all packages of the project"
    report.set("python_packages", packages, comment, is_open=not files)


def _own_folders(report: Report, settings: Settings, tree: Path, project: str, roots: Sequence[Path]) -> Iterator[Path]:
    """Yield further folders that the project is imported from: those of its applications that are elsewhere.

    The folder above that of manage.py is one where modules import the folder of manage.py itself.
    """
    for module in django_project_modules.needed(settings):
        if django_project_python_path.is_own(roots, module):
            continue
        folders = django_project.import_folders(tree, project, module)
        tops = [tree / folder for folder in folders if (tree / folder / module / "__init__.py").is_file()]
        if len(tops) == 1 and not (tops[0] / "__init__.py").exists():
            report.extend("python_path", [str(tops[0].relative_to(tree))], f"has {module}")
            yield tops[0]
    folder = tree / project
    is_known = folder == tree or django_project_python_path.is_own(roots, folder.name)
    if not is_known and django_project_modules.imports_itself(folder):
        report.extend("python_path", [str(folder.parent.relative_to(tree))], f"{folder.name} is imported from there")
        yield folder.parent


@contextlib.contextmanager
def _source(where: str, revision: str, deploy_key: str | None) -> Iterator[tuple[Path, str, str | None]]:
    """Yield the tree of a folder, or of a repository's commit in a temporary folder.

    Yields:
        The tree; its commit, empty for a folder; the user to read it as, None for the own one.
    """
    if _is_folder(where, revision):
        yield Path(where), "", None if os.geteuid() else _reader(where)
        return
    with tempfile.TemporaryDirectory(prefix="django-inspect-") as folder:
        tree, commit = _fetched(folder, where, revision, deploy_key)
        if os.geteuid():
            yield tree, commit, None
            return
        os.chmod(folder, 0o711)  # noqa: S103  # nosec B103 - its content is not accessible to others
        Foreign(tree).give(django_host_user.owner(_READER, "nogroup"), OWN, of=0)
        yield tree, commit, _READER


def _fetched(folder: str, where: str, revision: str, deploy_key: str | None) -> tuple[Path, str]:
    """Export a commit of a repository below a folder, as a site without further configuration would."""
    config: dict[str, Any] = {"name": "inspected", "user": "root", "root": folder, "repository": where, "folder": None}
    config |= {"revision": revision, "submodules": False, "known_hosts": [], "timeouts": {"fetch": "2m"}}
    site = Site(config, {"nginx": {"group": "root"}})
    site.mirror.mkdir(mode=0o700)
    django_source_mirror.prepare(site, Path(deploy_key).read_text() if deploy_key else None)
    commit = django_source.resolve(site, revision)
    django_source.fetch_only(site, commit)
    tree = site.root / "source"
    django_source.export(site, commit, tree)
    return tree, commit


def _reader(folder: str) -> str | None:
    """Return the user who can change what a folder's path leads to, or None for root."""
    reader = django_source_reader.reader(folder)
    if reader.uid and reader.name is None:
        raise DeploymentError(
            f"{folder} is owned by uid {reader.uid}, which is not a user of this host",
            hint=f"change its owner: chown -R root {folder}",
        )
    return reader.name


def _is_folder(where: str, revision: str) -> bool:
    """Return whether the files of a folder are inspected, not a repository there, bare or at a revision."""
    return Path(where).is_dir() and not Path(where, "objects").is_dir() and revision == "HEAD"


def _name(where: str) -> str:
    """Return a name for the site: that of its repository or folder."""
    last = re.split(r"[/:]", where.rstrip("/"))[-1].removesuffix(".git").lower()
    name = re.sub(r"[^a-z0-9]+", "-", last).strip("-")
    while name.endswith("-build"):  # the name of a build user
        name = name.removesuffix("-build")
    name = "built" if name == "build" else name
    name = name if name[:1].isalpha() and not _RESERVED.fullmatch(name) else f"site-{name}"
    return name[:26].strip("-")


def _location(report: Report, where: str, revision: str, name: str, is_folder: bool) -> None:
    if is_folder:
        report.set("folder", where)
    else:
        report.set("repository", where)
        if revision != "HEAD":
            report.set("revision", revision)
    report.set("domains", [f"{name}.example.org"], "guessed: replace it by the site's domains")


def _requirements(report: Report, tree: Path, folder: str, files: list[str], host: str) -> list[str]:
    """Find the Python and system packages that the project needs; return the required packages."""
    report.remarks.append(f"requirements: {', '.join(files)}")
    required, contents, python = django_project_requirements.read(tree, files)
    extra, packages = django_project_requirements.extra_with_django(tree, files, required)
    if extra:
        report.set("python_packages", packages, f"those of the extra {extra}, which has Django")
        required = [*required, *django_virtualenv_requirements.names(packages)]
    pinned = django_project_requirements.versions(contents)
    for name, version in django_project_requirements.unbuilt(pinned, host):
        reason = f"{name} {pinned[name]} cannot be built for Python {'.'.join(host.split('.')[:2])}"
        report.extend("python_packages", [f"{name}~={version}"], reason)
        pinned[name] = version
    for name, packages in django_project_requirements.system_packages(required):
        report.extend("packages", packages, f"for {name}")
    for reason, packages in django_project_requirements.without_wheel(pinned, host):
        report.extend("packages", packages, f"for {reason}")
    for name, imported in django_project_requirements.writable_packages(required):
        report.extend("writable_packages", [imported], f"{name} writes into its own folder")
    constraint, why = django_project_removed.limit(tree, contents)
    for text, reason in ((constraint, why), django_project_requirements.built_with(pinned, host)):
        if text:
            report.extend("constraints", [text], reason)
    makes_code = django_project_requirements.makes_code(required)
    if makes_code and django_host_service.SYSTEMD.exists():
        report.set("sandbox", {"MemoryDenyWriteExecute": False}, f"{makes_code} makes code at run time")
    needed_by = django_project_requirements.needs_setuptools(tree, required, pinned)
    if needed_by:
        report.extend("python_packages", ["setuptools<81"], f"{needed_by} imports pkg_resources")
    _server(report, tree, folder, required)
    for url in django_project_requirements.indexes(contents):
        report.remarks.append(f"packages come from {url} too; a mirror, or a login, is set by `index`")
    _python(report, host, pinned.get("django", ""), python, django_project_requirements.compiled_for(contents))
    return required


def _python(report: Report, host: str, django: str, supported: str, compiled_for: str) -> None:
    """Tell which versions of Python the project is for.

    Args:
        host: the version of this host's python3; empty if there is none.
        django: the version of Django that is pinned.
        supported: the versions of Python that the requirements declare.
        compiled_for: the version of Python that the requirements were compiled for.
    """
    if supported:
        report.remarks.append(f"requires Python {supported}; set `python` if the host's python3 is another version")
    if compiled_for and not host.startswith(f"{compiled_for}."):
        report.remarks.append(f"requirements compiled for Python {compiled_for}: set `python` if packages do not build")
    versions = django_virtualenv_python.of_django(django)
    if versions and host and not django_virtualenv_python.is_among(host, versions):
        text = f"Django {django} runs on Python {versions}, and python3 of this host is {host}"
        report.remarks.append(f"{text}: set `python` to another one")


def _host_python() -> str:
    """Return the version of this host's python3; empty if there is none."""
    python = shutil.which("python3", path=django_host_command.PATH)
    program = "import platform; print(platform.python_version())"
    with contextlib.suppress(DeploymentError):
        argv = [python or "python3", "-I", "-S", "-c", program]
        return django_host_command.run(argv, doing="reading the version of python3").strip()
    return ""


def _server(report: Report, tree: Path, folder: str, required: Collection[str]) -> None:
    """Propose the application server that the project's requirements are for, if it is not the default."""
    roots = [tree / path for path in (folder, *report.value("python_path", []))]
    names = {re.sub(r"\[.*", "", name) for name in required}
    for name, kind in django_kinds.SERVERS.items():
        packages = [package for package in kind.suggested_by if package in names]
        every = (other for other, one in django_kinds.SERVERS.items() if one.interface == kind.interface)
        others = [other for other in every if other != name and other in names]
        if not packages or not django_project.application_modules(roots, kind.interface):
            continue
        if not others:
            report.set("server", {"kind": name}, f"guessed: {packages[0]} is required")
        elif name not in names:  # Channels itself serves nothing
            report.set("server", {"kind": others[0]}, f"guessed: {packages[0]} and {others[0]} are required")


def _setup(report: Report, tree: Path) -> list[str]:
    """Take the dependencies of the project's package where nothing else lists any; return the file."""
    name = django_virtualenv_requirements.setup_file(tree)
    if name:
        report.set("requirements", [name], "found: it has the dependencies of the project")
    return [name] if name else []


def _front_ends(report: Report, settings: Settings, tree: Path, project: str) -> None:
    """Add the commands that build the front ends of a project, and what they need."""
    for one in django_project_front_end.find(tree, project, settings, _distribution()):
        if one.remark:
            report.remarks.append(one.remark)
            continue
        report.extend("build", [*one.commands], one.path)
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


#: Words for addresses, which settings may parse while they are imported → one of that kind for a build without it.
_ADDRESSES = {
    "database_url": "sqlite:///x",
    **dict.fromkeys(("cache_url", "queue_url", "celery_broker_url"), "redis://localhost"),
}


def _assets(report: Report, settings: Settings, tree: Path) -> None:
    """Find applications whose assets a management command builds before static files are collected."""
    installed = settings.get("INSTALLED_APPS")
    if isinstance(installed, list) and "sass_processor" in installed:
        given = {"DJANGO_SETTINGS_MODULE": report.settings_module, **settings.set_by_application}
        for name, (value, _comment) in {**report.value("environment", {}), **report.value("secrets", {})}.items():
            given[name] = value if isinstance(value, str) else str(value.get("from", "x"))  # a build has no secrets
            given[name] = _ADDRESSES.get(given[name], given[name])
        words = [f"{name}={value}" for name, value in given.items() if re.fullmatch(r"[\w.:/@-]*", value)]
        own = django_project_data.command_with(tree, "sass_processor.processor")
        why = f"{own} compiles its style sheets" if own else "sass_processor is installed"
        report.extend("build", [" ".join(["env", *words, f"python manage.py {own or 'compilescss'}"])], why)


def _database(report: Report, settings: Settings, drivers: dict[str, str]) -> str:
    """Propose the database that the settings or the project's driver are for; return its kind."""
    backend = settings.get("DATABASES", "default", "ENGINE")
    engine = django_database_engine.find(backend) if isinstance(backend, str) else None
    is_by_url = any(variable.kind == "database" for variable in settings.variables.values())
    comment = f"the settings have {backend}"
    has_driver = len(drivers) == 1
    if engine and engine.is_server and not (has_driver and is_by_url and engine.name not in drivers):
        report.set("database", {"engine": engine.name}, comment)
    elif has_driver and (is_by_url or (backend is UNKNOWN and "DATABASES" in settings.values)):
        engine = django_database_engine.ENGINES[next(iter(drivers))]
        report.set("database", {"engine": engine.name}, f"guessed: {drivers[engine.name]} is required")
    elif is_by_url:
        report.set("database", {"engine": "sqlite"}, "guessed from DATABASE_URL")
    if isinstance(backend, str) and re.search(r"mysqlgis|gis\S*mysql|spatialite", backend):
        more = ["libsqlite3-mod-spatialite"] if engine and engine.name == "sqlite" else []
        report.extend("packages", ["gdal-bin", *more], f"for {backend}")
    return engine.name if engine else "sqlite"


def _sandbox(report: Report, settings: Settings) -> None:
    """Allow the settings what they do and the sandbox refuses: to change the owner of a file to their own user."""
    calls = {path: re.search(r"\bos\.l?chown\(", django_project_code.read(path)) for path in settings.files}
    path = next((path for path, call in calls.items() if call), None)
    if path and django_host_service.SYSTEMD.exists():
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
    names = dict.fromkeys([*(["postgis"] if is_spatial else []), *django_project_data.extensions(tree)])
    if names:
        report.set("database", {**database, "extensions": [*names]}, comment)


def _environment(
    report: Report,
    settings: Settings,
    tree: Path,
    roots: list[Path],
    engine: str,
    domain: str,
    stores: dict[str, dict[str, str]],
) -> None:
    """Put required and well-known variables into the pillar, and the others into remarks."""
    examples = django_project_environment.examples([*roots, tree])
    modules = (report.settings_module, report.application)
    context = django_project_environment.Context(roots, *modules, engine, domain, examples, stores)
    found = django_project_environment.of(settings, context)
    if (
        any("database_" in str(value) for value, _place in found.environment.values())
        and "database" not in report.pillar
    ):
        report.set("database", {"engine": engine}, "guessed from the variables")
    report.open_variables = found.open
    for name, (value, _place) in found.environment.items():
        package = django_project_environment.server_on_this_host(name, value)
        if package:
            report.extend("packages", [package], f"for {name}")
    top = f"{roots[0]}/"
    for key, entries in (("environment", found.environment), ("secrets", found.secrets)):
        shown = {name: (value, comment.replace(top, "")) for name, (value, comment) in entries.items()}
        if shown:
            report.set(key, shown)
    if settings.dotenv:
        read = {name: {"environment": True} for name in map(_inside(roots[0]), settings.dotenv)}
        before, comment = report.pillar.get("files", ({}, "is read"))
        report.set("files", {**before, **read}, comment)
    if found.optional:
        report.remarks.append(f"environment variables with a default: {', '.join(found.optional)}")
    if found.presence:
        report.remarks.append(f"switched on by a variable, so not written: {', '.join(found.presence)}")


def _configuration(report: Report, settings: Settings, tree: Path, roots: Sequence[Path]) -> None:
    """Add the files with configuration that the settings import and that are not committed."""
    found = [*django_project_configuration.find(settings, tree, roots)]
    if found:
        before, comment = report.pillar.get("files", ({}, ""))
        examples = "; ".join(one.example for one in found)
        why = f"not in the source, and needed: with the values of {examples}"
        contents = {one.path: {"contents": one.contents} for one in found}
        report.set("files", {**before, **contents}, "; ".join(filter(None, [comment, why])))
    words = {name: ({"from": word}, f"for {one.path}") for one in found for name, word in one.words.items()}
    if words:
        report.set("environment", {**words, **report.value("environment", {})})


def _mail(report: Report, settings: Settings) -> None:
    """Name the option for a mail server, if the settings have another one than this host's."""
    host = settings.values.get("EMAIL_HOST", Value("localhost"))
    if host.taint or host.content not in ("localhost", "127.0.0.1", "", None):
        variables = f" ({django_project.listed(sorted(host.taint))})" if host.taint else ""
        report.remarks.append(f"mail is sent by the server of EMAIL_HOST{variables}: `email` sets another one")
    elif settings.get("EMAIL_PORT") not in (25, "25", UNKNOWN):
        port = settings.get("EMAIL_PORT")
        report.remarks.append(f"mail is sent to port {port} of this host (EMAIL_PORT): `email` sets a server")


def _inside(root: Path) -> Callable[[str], str]:
    """Return a function that makes the path of a .env file relative to the source."""
    return lambda path: path.removeprefix(f"{root}/") if path.startswith(f"{root}/") else Path(path).name


def _commands(report: Report, settings: Settings) -> None:
    """Find the management commands that a release has to run."""
    installed = settings.get("INSTALLED_APPS")
    has_compressor = installed is UNKNOWN or "compressor" in installed
    is_offline = settings.get("COMPRESS_OFFLINE")
    if is_offline is True and has_compressor:
        report.extend("commands", [("after_static", ["manage.py compress"])], "COMPRESS_OFFLINE")
    elif _compresses_at_requests(settings) and is_offline is not True:
        comment = "django-compressor would write to STATIC_ROOT when a page is requested"
        report.set("settings", {"COMPRESS_OFFLINE": True}, comment)
        report.extend("commands", [("after_static", ["manage.py compress"])], "COMPRESS_OFFLINE")
    precompilers = settings.get("COMPRESS_PRECOMPILERS")
    for entry in precompilers if isinstance(precompilers, list) and has_compressor else ():
        words = entry[1].split() if isinstance(entry, list) and len(entry) > 1 and isinstance(entry[1], str) else []
        package = _PRECOMPILERS.get(words[0] if words else "")
        if package:
            report.extend("packages", [package], "for COMPRESS_PRECOMPILERS")
    caches = settings.get("CACHES")
    entries = caches.values() if isinstance(caches, dict) else ()
    backends = [cache.get("BACKEND") for cache in entries if isinstance(cache, dict)]
    if any(str(backend).endswith("db.DatabaseCache") for backend in backends):
        report.extend("commands", [("after_migrate", ["manage.py createcachetable"])], "DatabaseCache")


def _after_migrate(report: Report, tree: Path) -> None:
    """Name the commands that the project itself runs after migrations."""
    commands, path = django_project_release.after_migrate(tree)
    built = " ".join(report.value("build", []))
    found = [command for command in commands if command not in built]
    if found:
        present = [one for stage, listed in report.value("commands", []) if stage == "after_migrate" for one in listed]
        listed = ", ".join(dict.fromkeys([*present, *found]))
        report.remarks.append(f"{path} runs more after migrate; to have that: commands: {{after_migrate: [{listed}]}}")


def _compresses_at_requests(settings: Settings) -> bool:
    """Return whether the project has django-compressor, and nothing turns it off."""
    installed, is_on = settings.get("INSTALLED_APPS"), settings.get("COMPRESS_ENABLED")
    return isinstance(installed, list) and "compressor" in installed and is_on is not False


def _data(report: Report, settings: Settings, tree: Path, folder: str) -> None:
    """Find what the project writes into its source, and static files that are committed where they are served from."""
    shared, writable = django_project_data.written(settings, tree, folder)
    if shared:
        report.set("shared", shared, "written by the project, and kept from release to release")
    if writable:
        report.set("writable", writable, "written by the project")
    uploads = django_project_data.committed_uploads(settings, tree)
    if uploads and not any(path == uploads or uploads.startswith(f"{path}/") for path in shared):
        report.remarks.append(
            f"{uploads} has uploads, and the site's are elsewhere; copy them after the first release:"
        )
        copy = f"runuser -u SITE -- cp -rn /srv/django/SITE/current/source/{uploads}/. /srv/django/SITE/media"
        report.remarks.append(copy)
    database = django_project_data.committed_database(settings, tree)
    if database:
        report.remarks += _copy_of_database(database, report.value("database", {}).get("engine", "sqlite"))
    committed = django_project_data.committed_static_files(settings, tree)
    if committed:
        report.set("static", {"collect": False}, f"STATIC_ROOT is committed: {committed}")


def _migrations(report: Report, settings: Settings, roots: Sequence[Path]) -> None:
    """Name the applications whose tables no migration makes."""
    labels = django_project_models.without_migrations(settings, roots)
    if labels:
        report.remarks.append(
            f"no migrations are committed for {django_project.listed(labels)}, and a release makes none: run manage.py "
            "makemigrations in the project, and commit what it writes"
        )


def _copy_of_database(path: str, engine: str) -> list[str]:
    """Return how the rows of a SQLite file in the source come into the site's database, which is empty at first."""
    if engine != "sqlite":
        title = django_database_engine.ENGINES[engine].title
        return [
            f"{path} has a database, and the site begins with an empty one of {title}; to have its rows, dump them "
            "where the project uses it, and load them after the first release, or set `database: {engine: sqlite}`:",
            "manage.py dumpdata --exclude contenttypes --exclude auth.permission --output rows.json",
            "salt-call django.manage SITE 'loaddata /srv/django/SITE/shared/rows.json'",
        ]
    return [
        f"{path} has a database, and the site begins with an empty one; copy it after the first release:",
        "runuser -u SITE -- python3 -c \"import sqlite3 as s; s.connect('file:/srv/django/SITE/current/source/"
        f"{path}?immutable=1', uri=True).backup(s.connect('/srv/django/SITE/database/db.sqlite3'))\"",
        "and apply the migrations that it lacks: salt-call django.release SITE",
    ]


def _health(report: Report, roots: list[Path], settings: Settings) -> None:
    """Guess the path of the health check, and the header by which the project recognises https."""
    path, comment = django_project_routes.health_path(roots, settings.get("ROOT_URLCONF"))
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


if __name__ == "__main__":
    try:
        sys.stdout.write(inspect(*sys.argv[1:3]))
    except (DeploymentError, OSError) as failure:
        sys.exit(f"quickstart: {failure}")
