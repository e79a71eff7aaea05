"""Read a project from its source and write a pillar that deploys it. No code of the project is run."""

import json
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import django_host_user
import django_kinds
import django_project
import django_project_code
import django_project_variables
import django_source
import django_source_mirror
import django_source_reader
import django_virtualenv_requirements
import django_wall_delegate
from django_host_command import DeploymentError
from django_project_report import Report
from django_project_variables import Variable
from django_site import Site
from django_wall_foreign import OWN, Foreign

#: The user who reads a repository that no site has yet.
_READER = "nobody"

#: A pattern of variable names → their value in the pillar. The first that matches is taken.
_KNOWN = (
    (r"(^|_)SECRET_?KEY$", {"from": "secret_key"}),
    (r"(^|_)SECRET_?KEY_(FILE|PATH)$", {"from": "secret_key_file"}),
    (r"(^|_)SECRET_?KEY_FALLBACKS$", {"from": "secret_key_fallbacks"}),
    (r"ALLOWED_HOSTS?$", {"from": "domains"}),
    (r"DATABASE_URL$", {"from": "database_url"}),
    (r"(^|_)STATIC_ROOT$", {"from": "static_root"}),
    (r"(^|_)MEDIA_ROOT$", {"from": "media_root"}),
    (r"(^|_)(DEBUG)$", "False"),
)
_SECRET = re.compile(r"PASSWORD|PASSWD|TOKEN|SECRET|PRIVATE|API_?KEY|_KEY$|DSN$|CREDENTIAL")
#: A required Python package → packages of Debian that it needs to be built or loaded.
_SYSTEM_PACKAGES = (
    (r"psycopg2(?!-binary)", ["gcc", "libc6-dev", "libpq-dev", "python3-dev"]),
    (r"psycopg(?!2)(?!\[[^\]]*(binary|c)\b)(?!-binary)", ["libpq5"]),
    (r"mysqlclient", ["default-libmysqlclient-dev", "gcc", "libc6-dev", "pkg-config", "python3-dev"]),
    (r"uwsgi", ["gcc", "libc6-dev", "python3-dev"]),
    (r"python-ldap|django-auth-ldap", ["gcc", "libc6-dev", "libldap2-dev", "libsasl2-dev", "python3-dev"]),
    (r"xmlsec|python3-saml", ["gcc", "libc6-dev", "libxmlsec1-dev", "pkg-config", "python3-dev"]),
    (r"pycairo|xhtml2pdf", ["gcc", "libc6-dev", "libcairo2-dev", "pkg-config", "python3-dev"]),
    (r"weasyprint", ["libpango-1.0-0", "libpangoft2-1.0-0"]),
    (r"python-magic", ["libmagic1"]),
)
_HEALTH = re.compile(
    r"""["'^]/?((?:[\w-]+/)?(?:healthz|health|health[_-]check|livez|readyz|heartbeat|ping)/?)\$?["']"""
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
        arguments = (where, revision, _is_folder(where, revision), tree, commit)
        doing = f"reading {where}"
        written: str = django_wall_delegate.ask(user, _written, *arguments, doing=doing, timeout=120, memory=1 << 30)
        return written


def _written(where: str, revision: str, is_folder: bool, tree: Path, commit: str) -> str:
    """Return the pillar for a tree; this runs as the user who can write to the tree."""
    report = Report()
    name = _name(where)
    if commit:
        report.remarks.append(f"commit {commit[:12]}")
    _location(report, where, revision, name, is_folder)
    project = _project(report, tree)
    python = _requirements(report, tree, project)
    _front_end(report, tree)
    _settings(report, [tree / folder for folder in (project, *report.pillar.get("python_path", ([], ""))[0])])
    if python:
        report.remarks.append(f"requires Python {python}; set `python` if the host's python3 is another version")
    return report.text(where, name)


@contextmanager
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
    return (name if name[:1].isalpha() else f"site-{name}")[:26].strip("-")


def _location(report: Report, where: str, revision: str, name: str, is_folder: bool) -> None:
    if is_folder:
        report.set("folder", where)
    else:
        report.set("repository", where)
        if revision != "HEAD":
            report.set("revision", revision)
    report.set("domains", [f"{name}.example.org"], "guessed: replace it by the site's domains")


def _project(report: Report, tree: Path) -> str:
    """Find the folder of manage.py, the settings and the WSGI module; return the folder."""
    folders = [str(path.parent) for path in django_project.manage_files(tree)]
    if not folders:
        raise DeploymentError("no manage.py found in the source", hint="name the source of a Django project")
    folder = next((one for one in folders if django_project.application_modules([tree / one])), folders[0])
    if len(folders) > 1:
        report.set("project", folder, f"guessed: manage.py is in {django_project.listed(folders)}")
    elif folder != ".":
        report.remarks.append(f"manage.py is in {folder}")
    paths = django_project.python_path(tree, folder)
    if paths:
        report.set("python_path", paths, "found: folders with further modules of the project")
    roots = [tree / path for path in (folder, *paths)]
    modules = django_project.application_modules(roots)
    wsgi = modules[0] if modules else "mysite.wsgi"
    if len(modules) == 1:
        report.remarks.append(f"WSGI module: {wsgi}")
    elif modules:
        report.set("wsgi", wsgi, f"guessed: found {django_project.listed(modules)}")
    else:
        report.set("wsgi", wsgi, "not found: name the module that calls get_wsgi_application()")
    report.settings_module = _settings_module(report, roots, wsgi)
    return folder


def _settings_module(report: Report, roots: list[Path], wsgi: str) -> str:
    named, found = django_project.settings_named(roots, wsgi), django_project.settings_modules(roots)
    production = [module for module in found if re.search(r"\.(production|prod|live)$", module)]
    if not named:
        guess = [*production, *found, "mysite.settings"][0]
        report.set("settings_module", guess, f"guessed: found {django_project.listed(found) or 'no settings module'}")
        return guess
    if production and django_project_code.NOT_LIVE.search(named):
        report.set("settings_module", production[0], f"guessed: the project names {named}")
        return production[0]
    report.remarks.append(f"settings module: {named}")
    return named


def _requirements(report: Report, tree: Path, folder: str) -> str:
    """Find the Python and system packages that the project needs; return the versions of Python that it supports."""
    files = django_virtualenv_requirements.default_files(tree, folder)
    if not files:
        report.set("python_packages", ["django"], "no requirements found: list all packages of the project")
        return ""
    report.remarks.append(f"requirements: {', '.join(files)}")
    required = django_virtualenv_requirements.package_names(tree, files)
    for pattern, packages in _SYSTEM_PACKAGES:
        matching = [name for name in required if re.match(rf"({pattern})(?![\w-])", name)]
        if matching and f"{matching[0]}-binary" not in required:
            report.extend("packages", packages, f"for {matching[0]}")
    _server(report, tree, folder, required)
    if "celery" in required:
        report.remarks.append("Celery is used: its workers are not deployed, only the web application")
    return django_virtualenv_requirements.python_versions(tree, files)


def _server(report: Report, tree: Path, folder: str, required: Collection[str]) -> None:
    """Propose the application server that the project's requirements are for, if it is not the default."""
    roots = [tree / path for path in (folder, *report.pillar.get("python_path", ([], ""))[0])]
    for name, kind in django_kinds.SERVERS.items():
        packages = [package for package in kind.suggested_by if package in required]
        has_other_server = bool(({*django_kinds.SERVERS} - {name}) & {*required})
        if packages and not has_other_server and django_project.application_modules(roots, kind.interface):
            report.set("server", {"kind": name}, f"guessed: {packages[0]} is required")


def _front_end(report: Report, tree: Path) -> None:
    """Find the packages of npm that have a script named build."""
    for path in django_project.files(tree, "package.json", depth=2):
        folder = path.parent.relative_to(tree)
        if folder.parts[:1] in (("docs",), ("doc",), ("examples",), ("website",)):
            continue
        try:
            scripts = json.loads(path.read_text()).get("scripts", {})
        except (ValueError, AttributeError):
            continue
        if "build" in scripts:
            prefix = "" if str(folder) == "." else f" --prefix {folder}"
            install = "ci" if path.with_name("package-lock.json").exists() else "install"
            report.extend("build", [f"npm{prefix} {install}", f"npm{prefix} run build"], f"{path.relative_to(tree)}")
            report.extend("packages", ["npm"], "for the build")


def _settings(report: Report, roots: list[Path]) -> None:
    """Find what the settings need: environment variables, commands, headers of the health check."""
    texts = dict(django_project_variables.local_modules(roots, report.settings_module))
    variables: dict[str, Variable] = {}
    for path, text in texts.items():
        for variable in django_project_variables.read(text, os.path.relpath(path, roots[0])):
            known = variables.setdefault(variable.name, variable)
            known.required |= variable.required
    _environment(report, list(variables.values()))
    settings = "\n".join(texts.values())
    if re.search(r"^\s*COMPRESS_OFFLINE\s*=\s*True", settings, re.MULTILINE):
        report.extend("commands", [("after_static", ["manage.py compress"])], "COMPRESS_OFFLINE")
    if "cache.backends.db.DatabaseCache" in settings:
        report.extend("commands", [("after_migrate", ["manage.py createcachetable"])], "DatabaseCache")
    _health(report, roots, settings)


def _health(report: Report, roots: list[Path], settings: str) -> None:
    """Guess the path of the health check, and the header by which the project recognises https."""
    health: dict[str, Any] = {}
    urls = (path for root in roots for path in django_project.files(root, "urls.py", depth=3))
    found = next(filter(None, (_HEALTH.search(path.read_text(errors="replace")) for path in urls)), None)
    if found:
        health["path"] = f"/{found.group(1)}"
    if re.search(r"^\s*SECURE_SSL_REDIRECT\s*=\s*True", settings, re.MULTILINE):
        header = re.search(r"SECURE_PROXY_SSL_HEADER\s*=\s*\(\s*[\"']HTTP_(\w+)[\"']\s*,\s*[\"'](\w+)", settings)
        name, value = (header.group(1), header.group(2)) if header else ("X_FORWARDED_PROTO", "https")
        health["headers"] = {name.replace("_", "-").title(): value}
    if health:
        report.set("health", health, "guessed")


def _environment(report: Report, variables: list[Variable]) -> None:
    """Put required and well-known variables into the pillar, and the others into a remark."""
    optional = []
    environment: dict[str, tuple[Any, str]] = {}
    secrets: dict[str, tuple[Any, str]] = {}
    for variable in sorted(variables, key=lambda v: v.name):
        if re.fullmatch(r"DJANGO_SETTINGS_MODULE|PATH|HOME|PYTHONPATH|LD_(PRELOAD|LIBRARY_PATH)", variable.name):
            continue
        known = next((value for pattern, value in _KNOWN if re.search(pattern, variable.name)), None)
        if known is not None:
            environment[variable.name] = (known, variable.place)
        elif variable.required and _SECRET.search(variable.name):
            comment = f"{variable.place}: if another service issued it, give that value instead"
            secrets[variable.name] = ({"generate": 50}, comment)
        elif variable.required:
            environment[variable.name] = ("", f"{variable.place}: set it, it has no default")
        else:
            optional.append(variable.name)
    if any(value == {"from": "database_url"} for value, _place in environment.values()):
        report.set("database", {"engine": "sqlite"}, "guessed from DATABASE_URL")
    if environment:
        report.set("environment", environment)
    if secrets:
        report.set("secrets", secrets)
    if optional:
        report.remarks.append(f"environment variables with a default: {', '.join(optional)}")


if __name__ == "__main__":
    try:
        sys.stdout.write(inspect(*sys.argv[1:3]))
    except (DeploymentError, OSError) as failure:
        sys.exit(f"quickstart: {failure}")
