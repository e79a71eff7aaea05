"""What can be told of a project from its source alone, and the pillar that would deploy it. No code of it is run."""

import ast
import json
import os
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import django_host_user
import django_project
import django_project_python_path
import django_source
import django_source_git
import django_virtualenv_requirements
import django_wall_delegate
from django_host_command import DeploymentError
from django_site import Site
from django_wall_foreign import OWN, Foreign

#: Who reads a repository that is of no site yet.
_NOBODY = "nobody"

#: What a variable's name says of its value → what the pillar gives it. The first that matches is taken.
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
#: A package that is asked for → packages of Debian without which it is not built, or not loaded.
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


@dataclass
class Variable:
    """An environment variable that the settings read: where, and whether they do without it."""

    name: str
    place: str
    required: bool


@dataclass
class Report:
    """What was found: remarks for the top, and what a site's pillar would say: key → (value, comment)."""

    remarks: list[str] = field(default_factory=list)
    pillar: dict[str, tuple[Any, str]] = field(default_factory=dict)
    settings_module: str = ""

    def say(self, key: str, value: Any, comment: str = "") -> None:
        self.pillar[key] = (value, comment)

    def add(self, key: str, values: list[Any], comment: str) -> None:
        """More entries of a list, each once."""
        before, said = self.pillar.get(key, ([], ""))
        comments = dict.fromkeys([*filter(None, said.split("; ")), comment])
        self.say(key, [*before, *(v for v in values if v not in before)], "; ".join(comments))


def inspect(where: str, revision: str = "HEAD", deploy_key: str | None = None) -> str:
    """Read a project and write a pillar for it, with comments where something was guessed.

    Args:
        where: the URL of a repository, or a folder.
        revision: of the repository: a branch, a tag or a commit.
        deploy_key: the file of a private SSH key to fetch with.

    Raises:
        DeploymentError: the source cannot be had, or there is no project in it.
    """
    where = str(Path(where).resolve()) if Path(where).is_dir() else where
    with _source(where, revision, deploy_key) as (tree, commit, user):
        arguments = (where, revision, _is_folder(where, revision), tree, commit)
        doing = f"reading {where}"
        written: str = django_wall_delegate.ask(user, _written, *arguments, doing=doing, timeout=120, memory=1 << 30)
        return written


def _written(where: str, revision: str, is_folder: bool, tree: Path, commit: str) -> str:
    """The pillar for a tree; this runs with the rights of whoever decides what is in it."""
    report = Report()
    name = _name(where)
    if commit:
        report.remarks.append(f"commit {commit[:12]}")
    _location(report, where, revision, name, is_folder)
    project = _project(report, tree)
    python = _requirements(report, tree, project)
    _front_end(report, tree)
    _settings(report, [tree / folder for folder in (project, *report.pillar.get("python_path", ([], ""))[0])])
    return _text(where, name, report, python)


@contextmanager
def _source(where: str, revision: str, deploy_key: str | None) -> Iterator[tuple[Path, str, str | None]]:
    """The tree of a folder as it is, or of a repository's commit in a folder for the moment; its commit, and who may
    read it.
    """
    if _is_folder(where, revision):
        yield Path(where), "", None if os.geteuid() else _reader(where)
        return
    with tempfile.TemporaryDirectory(prefix="django-inspect-") as folder:
        config: dict[str, Any] = {
            "name": "inspected",
            "user": "root",
            "root": folder,
            "repository": where,
            "folder": None,
        }
        config |= {"revision": revision, "submodules": False, "known_hosts": [], "timeouts": {"fetch": "2m"}}
        site = Site(config, {"nginx": {"group": "root"}})
        site.mirror.mkdir(mode=0o700)
        django_source.prepare(site, Path(deploy_key).read_text() if deploy_key else None)
        commit = django_source.resolve(site, revision)
        django_source.fetch_only(site, commit)
        tree = site.root / "source"
        django_source.export(site, commit, tree)
        if os.geteuid():
            yield tree, commit, None
            return
        os.chmod(folder, 0o711)  # noqa: S103  # nosec B103 - what is in it is closed
        Foreign(tree).give(django_host_user.owner(_NOBODY, "nogroup"), OWN, of=0)
        yield tree, commit, _NOBODY


def _reader(folder: str) -> str | None:
    """The user who decides what is in a folder; None where that is root."""
    who = django_source_git.reader(folder)
    if who.uid and who.name is None:
        raise DeploymentError(
            f"{folder} belongs to the uid {who.uid}, which is no user of this host",
            hint=f"give it to one: chown -R root {folder}",
        )
    return who.name


def _is_folder(where: str, revision: str) -> bool:
    """Whether the files are meant that lie there, in contrast to a repository, bare or at a revision."""
    return Path(where).is_dir() and not Path(where, "objects").is_dir() and revision == "HEAD"


def _name(where: str) -> str:
    """A name for the site: that of its repository or folder."""
    last = re.split(r"[/:]", where.rstrip("/"))[-1].removesuffix(".git").lower()
    name = re.sub(r"[^a-z0-9]+", "-", last).strip("-")
    return (name if name[:1].isalpha() else f"site-{name}")[:26].strip("-")


def _location(report: Report, where: str, revision: str, name: str, is_folder: bool) -> None:
    if is_folder:
        report.say("folder", where)
    else:
        report.say("repository", where)
        if revision != "HEAD":
            report.say("revision", revision)
    report.say("domains", [f"{name}.example.org"], "a guess: the names under which it is to be reached")


def _project(report: Report, tree: Path) -> str:
    """The folder of manage.py; with it the settings and the WSGI module."""
    folders = [str(path.parent) for path in django_project.manage_files(tree)]
    if not folders:
        raise DeploymentError("there is no manage.py in the source", hint="is it a Django project?")
    folder = next((one for one in folders if django_project.application_modules([tree / one])), folders[0])
    if len(folders) > 1:
        report.say("project", folder, f"a guess: there are manage.py in {django_project.some(folders)}")
    elif folder != ".":
        report.remarks.append(f"manage.py is in {folder}")
    paths = django_project.python_path(tree, folder)
    if paths:
        report.say("python_path", paths, "found: it is imported from there too")
    roots = [tree / path for path in (folder, *paths)]
    modules = django_project.application_modules(roots)
    wsgi = modules[0] if modules else "mysite.wsgi"
    if len(modules) == 1:
        report.remarks.append(f"the WSGI module is {wsgi}")
    elif modules:
        report.say("wsgi", wsgi, f"a guess: there are {django_project.some(modules)}")
    else:
        report.say("wsgi", wsgi, "not found: say which module calls get_wsgi_application()")
    report.settings_module = _settings_module(report, roots, wsgi)
    return folder


def _settings_module(report: Report, roots: list[Path], wsgi: str) -> str:
    named, there = django_project.settings_named(roots, wsgi), django_project.settings_modules(roots)
    production = [module for module in there if re.search(r"\.(production|prod|live)$", module)]
    if not named:
        guess = [*production, *there, "mysite.settings"][0]
        report.say("settings_module", guess, f"a guess: there are {django_project.some(there) or 'none'}")
        return guess
    if production and re.search(r"\.(dev|devel|development|local|tests?|testing)$", named):
        report.say("settings_module", production[0], f"a guess: the project itself names {named}")
        return production[0]
    report.remarks.append(f"the settings module is {named}")
    return named


def _requirements(report: Report, tree: Path, folder: str) -> str:
    """What it needs of Python and of the system; returns what it says of Python's version."""
    files = django_virtualenv_requirements.default_files(tree, folder)
    if not files:
        report.say("python_packages", ["django"], "nothing says what the project needs: name all of it")
        return ""
    report.remarks.append(f"its requirements are in {', '.join(files)}")
    wanted = django_virtualenv_requirements.package_names(tree, files)
    for pattern, packages in _SYSTEM_PACKAGES:
        asked = [name for name in wanted if re.match(rf"({pattern})(?![\w-])", name)]
        if asked and f"{asked[0]}-binary" not in wanted:
            report.add("packages", packages, f"for {asked[0]}")
    if "celery" in wanted:
        report.remarks.append("it uses Celery: its workers are not deployed, only the web part")
    return django_virtualenv_requirements.python_versions(tree, files)


def _front_end(report: Report, tree: Path) -> None:
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
            report.add("build", [f"npm{prefix} {install}", f"npm{prefix} run build"], f"{path.relative_to(tree)}")
            report.add("packages", ["npm"], "for the build")


def _settings(report: Report, roots: list[Path]) -> None:
    """What the settings read and hold: variables of the environment, what has to be run, where its health is."""
    texts = dict(_local_modules(roots, report.settings_module))
    variables: dict[str, Variable] = {}
    for path, text in texts.items():
        for variable in read_variables(text, os.path.relpath(path, roots[0])):
            known = variables.setdefault(variable.name, variable)
            known.required |= variable.required
    _environment(report, list(variables.values()))
    settings = "\n".join(texts.values())
    if re.search(r"^\s*COMPRESS_OFFLINE\s*=\s*True", settings, re.MULTILINE):
        report.add("commands", [("after_static", ["manage.py compress"])], "COMPRESS_OFFLINE")
    if "cache.backends.db.DatabaseCache" in settings:
        report.add("commands", [("after_migrate", ["manage.py createcachetable"])], "DatabaseCache")
    health: dict[str, Any] = {}
    for path in (path for root in roots for path in django_project.files(root, "urls.py", depth=3)):
        found = _HEALTH.search(path.read_text(errors="replace"))
        if found and not health:
            health = {"path": f"/{found.group(1)}"}
    if re.search(r"^\s*SECURE_SSL_REDIRECT\s*=\s*True", settings, re.MULTILINE):
        header = re.search(r"SECURE_PROXY_SSL_HEADER\s*=\s*\(\s*[\"']HTTP_(\w+)[\"']\s*,\s*[\"'](\w+)", settings)
        name, value = (header.group(1), header.group(2)) if header else ("X_FORWARDED_PROTO", "https")
        health["headers"] = {name.replace("_", "-").title(): value}
    if health:
        report.say("health", health, "a guess")


def _local_modules(roots: list[Path], module: str, seen: set[Path] | None = None) -> Iterator[tuple[Path, str]]:
    """The file of a module of the project, and of those that it imports everything from."""
    seen = set() if seen is None else seen
    path = next(filter(None, (django_project_python_path.module_file(root, module) for root in roots)), None)
    if not module or not path or path in seen:
        return
    seen.add(path)
    text = path.read_text(errors="replace")
    yield path, text
    for node in ast.walk(_parsed(text)):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
            above = package[: len(package) - node.level + 1] if node.level else []
            yield from _local_modules(roots, ".".join([*above, *filter(None, [node.module])]), seen)


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return ast.Module([], [])


def read_variables(text: str, name: str) -> Iterator[Variable]:
    """The environment variables that a module reads by ``os.environ``, django-environ, python-decouple or alike.

    Args:
        name: the module's file, for the place of each.
    """
    tree = _parsed(text)
    declared = {
        keyword.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("Env", "FileAwareEnv")
        for keyword in node.keywords
    }
    for node in ast.walk(tree):
        place = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("os.environ", "environ"):
            if isinstance(node.ctx, ast.Load) and (said := _literal(node.slice)):
                yield Variable(said, place, required=True)
        elif isinstance(node, ast.Call):
            reads = ast.unparse(node.func)
            first = _literal(node.args[0]) if node.args else ""
            has_default = len(node.args) > 1 or any(k.arg in ("default", None) for k in node.keywords)
            if reads in ("os.environ.get", "environ.get", "os.getenv", "getenv") and first:
                yield Variable(first, place, required=False)
            elif re.fullmatch(r"dj_database_url\.config", reads):
                yield Variable(first or "DATABASE_URL", place, required=False)
            elif re.fullmatch(r"env\.(db|db_url)", reads):
                yield Variable(first or "DATABASE_URL", place, required=not has_default)
            elif re.fullmatch(r"(env|config|decouple\.config)(\.[a-z_]+)?", reads) and re.fullmatch(
                r"[A-Z][A-Z0-9_]+", first
            ):
                yield Variable(first, place, required=not has_default and first not in declared)


def _literal(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _environment(report: Report, variables: list[Variable]) -> None:
    """Required variables, and those that the formula knows, are said; the others are remarks."""
    optional = []
    environment: dict[str, tuple[Any, str]] = {}
    secrets: dict[str, tuple[Any, str]] = {}
    for variable in sorted(variables, key=lambda v: v.name):
        if re.fullmatch(r"DJANGO_SETTINGS_MODULE|PATH|HOME|PYTHONPATH|LD_.*", variable.name):
            continue
        known = next((value for pattern, value in _KNOWN if re.search(pattern, variable.name)), None)
        if known is not None:
            environment[variable.name] = (known, variable.place)
        elif variable.required and _SECRET.search(variable.name):
            secrets[variable.name] = ({"generate": 50}, f"{variable.place}: is this the project's own to choose?")
        elif variable.required:
            environment[variable.name] = ("", f"{variable.place}: say it, it has no default")
        else:
            optional.append(variable.name)
    if any(value == {"from": "database_url"} for value, _place in environment.values()):
        report.say("database", {"engine": "sqlite"}, "a guess, for DATABASE_URL")
    if environment:
        report.say("environment", environment)
    if secrets:
        report.say("secrets", secrets)
    if optional:
        report.remarks.append(f"read from the environment too, with a default: {', '.join(optional)}")


_ORDER = (
    *("repository", "folder", "revision", "domains", "project", "python_path", "settings_module", "wsgi"),
    *("python_packages", "packages", "build", "commands", "environment", "secrets", "database", "health"),
)


def _text(where: str, name: str, report: Report, python: str) -> str:
    """The report as a pillar: YAML, the remarks as comments above."""
    if python:
        report.remarks.append(f"it is for Python {python}: `python` names another interpreter than the host's python3")
    remarks = [line for remark in report.remarks for line in textwrap.wrap(remark, 110, subsequent_indent="  ")]
    lines = [f"# {where}", *(f"#   {remark}" for remark in remarks), "django:", "  sites:", f"    {name}:"]
    for key in sorted(report.pillar, key=_ORDER.index):
        value, comment = report.pillar[key]
        if key in ("environment", "secrets"):
            lines.append(f"      {key}:")
            lines += [_line(8, inner, said, place) for inner, (said, place) in value.items()]
        elif key == "commands":
            lines.append(_line(6, key, dict(value), comment))
        else:
            lines.append(_line(6, key, value, comment))
    return "\n".join(lines) + "\n"


def _line(indent: int, key: str, value: Any, comment: str) -> str:
    text = f"{' ' * indent}{key}: {_flow(value)}"
    return f"{text}  # {comment}" if comment else text


def _flow(value: Any) -> str:
    """A value in YAML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(inner) for inner in value) + "]"
    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z/][\w./-]*(:[\w./@-]+)*|[\w.+-]+@[\w.:/-]+", value)
    return value if plain and value.lower() not in _YAML_WORDS else json.dumps(value, ensure_ascii=False)


_YAML_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "none", "y", "n"}


if __name__ == "__main__":
    try:
        sys.stdout.write(inspect(*sys.argv[1:3]))
    except (DeploymentError, OSError) as failure:
        sys.exit(f"quickstart: {failure}")
