"""What compose files are made from: a project as inspection finds it, and over it the options of a site."""

import ast
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from django_formula.database import engines
from django_formula.host.commands import DeploymentError
from django_formula.inspect import code, environment, layout, process_files, shell, tasks
from django_formula.inspect import options as inspect_options
from django_formula.inspect import python_path as inspect_python_path
from django_formula.inspect import requirements as inspect_requirements
from django_formula.inspect import worker as inspect_worker
from django_formula.inspect.report import Report
from django_formula.inspect.settings import Settings
from django_formula.knowledge import python_versions
from django_formula.server import gunicorn, servers, uvicorn
from django_formula.store import stores as store_stores
from django_formula.untrusted.foreign import Foreign
from django_formula.virtualenv import interpreter
from django_formula.virtualenv import local as virtualenv_local
from django_formula.virtualenv import lock as virtualenv_lock
from django_formula.virtualenv import requirements as virtualenv_requirements

#: Options of a site that replace what inspection finds.
_OF_SITE = (
    *("settings_module", "requirements", "python_packages", "constraints", "packages", "build", "environment"),
    *("secrets", "settings", "queue", "caches", "workers", "schedules", "writable", "health", "files", "commands"),
)
#: What names of modules and of files may be, as in the pillar: they are written into YAML, Dockerfiles and scripts.
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
PATH = re.compile(r"(?!-)[\w.@+~=,/-]+", re.ASCII)
#: Commands of a service that serves the project itself.
_SERVES = re.compile(rf"\b({servers.programs()}|runserver\w*)\b")
#: How our Dockerfile begins.
HEADER = "# The image of "


@dataclass
class Plan:
    """A project and how it is served.

    Attributes:
        name: its name, also that of its database.
        domains: its domains; the health check asks for the first one.
        python: the version of the image, such as ``3.13``.
        folder: the folder of manage.py, below the top of the source.
        python_path: further folders that the project is imported from.
        settings_module: the project's settings module.
        settings: what is known of the project's settings.
        application: its WSGI or ASGI module.
        interface: ``wsgi`` or ``asgi``.
        django: the arguments of Python for management commands.
        requirements: the files that list packages.
        copied: the files that these include; empty where only the whole source has all of them.
        driver: packages that the compose files need in addition: server, driver of the database, client of Redis.
        options: the site's options: what inspection has found, and over it what was given.
        engine: the database: ``sqlite``, ``postgres`` or ``mysql``.
        version: the first two numbers of Django's version; 99 where it is not known.
        open: required variables whose values are not known.
        notes: what is not in the compose files, or has to be completed.
        email: the address for Let's Encrypt; empty where there are no certificates.
        dockerfile: where ours is; in a folder of ours where the project has one of its own.
    """

    name: str
    domains: list[str]
    python: str
    folder: str
    python_path: list[str]
    settings_module: str
    settings: Settings
    application: str
    interface: str
    django: list[str]
    requirements: list[str]
    copied: list[str]
    driver: list[str]
    options: dict[str, Any]
    engine: str
    version: tuple[int, ...]
    open: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    email: str = ""
    dockerfile: str = "Dockerfile"

    @property
    def dockerignore(self) -> str:
        """What the build does not get; engines take it before the project's own where it is next to the Dockerfile."""
        return ".dockerignore" if self.dockerfile == "Dockerfile" else f"{self.dockerfile}.dockerignore"

    @property
    def certified(self) -> list[str]:
        """The domains of the certificate: a challenge by http, as the containers answer it, is for none with a *."""
        return [domain for domain in self.domains if not domain.startswith("*")]

    @property
    def has_overlay(self) -> bool:
        """Whether settings are overridden by a module; django-configurations has none that one could import."""
        return not self.settings.configuration

    def takes(self, word: str) -> bool:
        """Return whether a variable has what the formula knows, such as ``database_url``, by the start of its name."""
        values = self.options.get("environment", {}).values()
        return any(isinstance(value, dict) and value.get("from", "").startswith(word) for value in values)

    def commands(self, stage: str) -> list[str]:
        """Return the commands of a stage of a release: ``after_static`` or ``after_migrate``."""
        given = self.options.get("commands") or {}
        return [str(one) for one in given.get(stage) or []]

    @property
    def queue(self) -> str:
        """The kind of the queue, if it is a server: ``redis``."""
        return _engine(self.options.get("queue"))

    @property
    def cache(self) -> str:
        """The kind of the caches, if they are on a server: ``redis`` or ``memcached``."""
        return next(filter(None, map(_engine, self.caches.values())), "")

    @property
    def caches(self) -> dict[str, Any]:
        """The caches by their aliases."""
        single = {"default": self.options["cache"]} if self.options.get("cache") else {}
        return {**single, **(self.options.get("caches") or {})}

    @property
    def contents(self) -> dict[str, str]:
        """The site's own files that the pillar has, by their paths in the source; they may have secrets."""
        files = self.options.get("files", {}).items()
        return {path: about["contents"] for path, about in files if isinstance(about, dict) and about.get("contents")}

    def root(self, setting: str) -> PurePath | str:
        """Return the path in the containers for STATIC_ROOT or MEDIA_ROOT, in the type that the project gives it."""
        kind = PurePath if isinstance(self.settings.get(setting), PurePath) else str
        return kind(f"/srv/{setting.partition('_')[0].lower()}")


def _engine(store: Mapping[str, Any] | None) -> str:
    """Return the kind of a store; empty where it needs no server."""
    engine = str((store or {}).get("engine") or "")
    return "" if engine == "database" else engine


def options_of_site(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a site's configuration that compose files take, as `make` reads them."""
    given = {key: config[key] for key in _OF_SITE if config.get(key)}
    database = (config["databases"].get("default") or {}).get("engine")
    version = re.fullmatch(r"(?:(?:.*/)?python)?(3\.\d+)", config["python"])
    if config["health"]["path"] == "/":
        given.pop("health")
    email = config["tls"].get("email") if config["tls"]["kind"] == "acme" else None
    return {
        **given,
        "domains": config["domains"],
        **({"email": email} if email else {}),
        **({"database": {"engine": database}} if database else {}),
        **({"python": version[1]} if version else {}),
        **({"server": {"kind": "gunicorn"}} if config["server"]["kind"] in ("uwsgi", "gunicorn", "mod_wsgi") else {}),
        **({"path": config["path"]} if config["path"] != "/" else {}),
        **({"mail": config["email"]["host"]} if config.get("email") else {}),
    }


def make(tree: Path, name: str, given: Mapping[str, Any]) -> Plan:
    """Inspect a project; this runs as the user who can write to the tree.

    Args:
        name: the name of the site.
        given: options of a site that replace what is found; `domains`, `python` and `email` among them.

    Raises:
        DeploymentError: the tree has no Django project, no list of packages, or a name that could add lines to a file.
    """
    report = Report()
    folder = layout.add(report, tree)
    files = virtualenv_requirements.default_files(tree, folder)
    python = given.get("python") or _python(tree, files)
    domains = [*given.get("domains", ())] or ["localhost", "127.0.0.1"]
    inspect_options.add(report, tree, folder, domains[0], f"{python}.0")
    folder = report.value("project", folder)
    options = {**report.keys(), **given}
    files = options.get("requirements") or files
    if not files and not options.get("python_packages"):
        raise DeploymentError(
            f"{tree} has no list of packages", hint="write the packages of the project to a requirements.txt there"
        )
    python_path = [path for path in options.get("python_path", []) if path != folder]
    roots = [tree / path for path in (folder, *python_path)]
    module = options.get("settings_module") or report.settings_module
    settings = environment.read(roots, module, report.application)
    _name_apps(options, roots, [module, report.application])
    if "redis-server" in options.get("packages", []) and not (options.get("queue") or options.get("cache")):
        options["queue"] = {"engine": "redis"}
    engine = _database(settings, options)
    required, contents, _supported = inspect_requirements.read(tree, files)
    local = virtualenv_local.find(tree, contents, folder)
    interface = "wsgi" if options.get("server", {}).get("kind") in (None, "gunicorn", "uwsgi", "mod_wsgi") else "asgi"
    application = _application(report, roots, options, interface)
    if not application:  # a server of ASGI and a project without it
        interface, application = "wsgi", _application(report, roots, options, "wsgi")
    plan = Plan(
        name=name,
        domains=domains,
        python=python,
        folder=folder,
        python_path=python_path,
        settings_module=module,
        settings=settings,
        application=application,
        interface=interface,
        django=["manage.py"] if (tree / folder / "manage.py").is_file() else ["-m", "django"],
        requirements=files,
        copied=[] if local or any(map(_needs_source, contents.values())) else [*contents],
        driver=[],
        options=options,
        engine=engine,
        version=_version(contents),
        open=[*report.open_variables, *_given_secrets(options)],
        email=str(given.get("email") or ""),
        dockerfile=_dockerfile(Foreign(tree)),
    )
    plan.email = plan.email if plan.certified else ""
    _refuse_names(plan)
    plan.driver = [*_added(plan, required, contents)]
    plan.notes = [*_notes(plan, settings, tree), *_assigning(plan, roots), *_left_out(plan, tree)]
    others = [domain for domain in domains if domain not in plan.certified] if given.get("email") else []
    if others:
        plan.notes.append(f"no certificate for {', '.join(others)}: the containers answer no challenge by DNS")
    return plan


def _name_apps(options: dict[str, Any], roots: list[Path], modules: list[str]) -> None:
    """Name the app of each worker of Celery that has none, as its program finds it in a deployment.

    Args:
        modules: of the project; the app is in one of the packages that they are in, the outer ones first.
    """
    options["workers"] = {name: one and {**one} for name, one in (options.get("workers") or {}).items()}
    workers = options["workers"].values()
    unnamed = [one for one in workers if one and one["kind"].startswith("celery") and not one.get("app")]
    apps = [*tasks.read(roots).apps] if unnamed else []
    packages = dict.fromkeys(".".join(one.split(".")[:end]) for one in modules for end in range(1, one.count(".") + 1))
    named = [f"{package}{end}" for package in packages for end in ("", ".celery", ".celery_app", ".celeryapp")]
    found = [app for module in named for app in apps if app.partition(":")[0] == module] or apps
    for worker in unnamed if found else ():
        worker["app"] = found[0]


def _dockerfile(top: Foreign) -> str:
    """Return the path of our Dockerfile."""
    there = top / "Dockerfile"
    is_ours = (there.text() or "").startswith(HEADER)
    return "Dockerfile" if is_ours or not there.exists() else "compose/Dockerfile"


def _given_secrets(options: Mapping[str, Any]) -> list[str]:
    """Return the variables of a site's secrets that cannot be generated: with a value of its own, or in a file."""
    secrets = options.get("secrets", {}).items()
    given = {name: about for name, about in secrets if "value" in about or about.get("as") == "file"}
    return [about.get("variable") or name for name, about in given.items()]


def _refuse_names(plan: Plan) -> None:
    """Refuse names of the source that could end a value in the files: a service could get rights of root.

    Raises:
        DeploymentError: it has one.
    """
    modules, paths = (plan.settings_module, plan.application), (plan.folder, *plan.python_path, *plan.requirements)
    wrong = [name for name in modules if not _MODULE.fullmatch(name)]
    wrong += [name for name in paths if not PATH.fullmatch(name)]
    if wrong:
        raise DeploymentError(
            f"the name {wrong[0]!r} in the source cannot be written to compose files",
            hint="rename it: a module has letters, digits and _ alone; other files and folders also . @ + ~ = , and -",
        )
    packages = [one for key in ("python_packages", "constraints") for one in plan.options.get(key) or ()]
    if odd := [one for one in packages if not one.isprintable()]:
        raise DeploymentError(
            f"the requirement {odd[0]!r} in the source cannot be written to compose files",
            hint="correct it where the project has it: a requirement is on one line",
        )


def _python(tree: Path, files: list[str]) -> str:
    """Return the newest version of Python that the project, its packages and its Django are for."""
    _required, contents, supported = inspect_requirements.read(tree, files)
    django = inspect_requirements.versions(contents).get("django", "")
    compiled = inspect_requirements.compiled_for(contents)
    own = [compiled] if compiled else []
    limits = [limit for limit in (supported, interpreter.of_django(django)) if limit]
    for version in (*own, *python_versions.SERIES):
        if all(python_versions.is_of_series_among(version, limit) for limit in limits):
            return version
    return python_versions.SERIES[0]


def _needs_source(text: str) -> bool:
    """Return whether a file lists a package that is a folder or a file of the source."""
    return bool(re.search(r"^[ \t]*(-e\s|--editable|file:|\.{0,2}/)|@ (file:|\.)|path ?= ?\"", text, re.MULTILINE))


def _database(settings: Settings, options: Mapping[str, Any]) -> str:
    """Return the database of the site."""
    engine = options.get("database", {}).get("engine")
    backend = settings.get("DATABASES", "default", "ENGINE")
    found = engines.find(backend) if isinstance(backend, str) else None
    return str(engine or (found.name if found else "sqlite"))


def _application(report: Report, roots: list[Path], options: Mapping[str, Any], interface: str) -> str:
    """Return the module that the server imports; empty if the project has none for ASGI."""
    if interface == "wsgi" or report.application.endswith("asgi"):
        return str(options.get("wsgi") or report.application)
    package = report.application.rpartition(".")[0]
    name = f"{package}.asgi".lstrip(".")
    return name if any((root / f"{name.replace('.', '/')}.py").is_file() for root in roots) else ""


def _added(plan: Plan, required: list[str], contents: Mapping[str, str]) -> list[str]:
    """Return the packages that the compose files need and the project does not require."""
    listed = [*required, *virtualenv_requirements.names(plan.options.get("python_packages", []))]
    names = {re.sub(r"\[.*", "", name).lower().replace("_", "-") for name in listed}
    of_server = gunicorn if plan.interface == "wsgi" else uvicorn
    added = [one for any_of, pins in of_server.REQUIREMENTS.items() if not names & {*any_of} for one in pins]
    engine = engines.ENGINES[plan.engine]
    if engine.is_server and not {name.replace("-", "_") for name in names} & engine.drivers:
        added.append(engine.driver_requirement(plan.version))
    for kind in sorted({plan.queue, plan.cache} & {*store_stores.STORES}):
        clients = store_stores.STORES[kind].clients(plan.version if kind == plan.cache else ())
        if clients and not clients & {name.replace("-", "_") for name in names}:
            added.append(store_stores.STORES[kind].requirement(plan.version))
    return added


def _version(contents: Mapping[str, str]) -> tuple[int, ...]:
    version = inspect_requirements.versions(dict(contents)).get("django", "99")
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _notes(plan: Plan, settings: Settings, tree: Path) -> list[str]:
    """Return what the files do not have."""
    notes = [f"set {name} in .envs/production and .envs/local: the project requires it" for name in plan.open]
    if plan.options.get("path"):
        notes.append(f"the site is served below {plan.options['path']}, the containers serve it at /")
    if plan.options.get("mail"):
        notes.append(
            f"the site sends its mail by {plan.options['mail']}: set EMAIL_HOST and the like in "
            "compose/settings_production.py"
        )
    databases = settings.get("DATABASES")
    others = sorted({*databases} - {"default"}) if isinstance(databases, dict) else []
    if others:
        notes.append(f"no service for the databases {', '.join(others)}: set them in compose/settings_production.py")
    if "rabbitmq-server" in plan.options.get("packages", []):
        notes.append("no service for RabbitMQ: add one to the compose files, and its address to .envs")
    missing = sorted(
        path for path in plan.options.get("files", {}) if path not in plan.contents and not (tree / path).exists()
    )
    if missing:
        notes.append(f"no file {', '.join(missing)}: write it, and mount it in compose.production.yml")
    notes += [f"no service runs after a switch: {command}" for command in plan.commands("after_switch")]
    for name, one in (plan.options.get("schedules") or {}).items():
        command = one.get("command", "") if isinstance(one, dict) else one
        notes.append(f"no service for the schedule {name}: have cron run it in the service app: {command}")
    if plan.options.get("writable_packages"):
        notes.append(f"{', '.join(plan.options['writable_packages'])} write into their own folder, which is read-only")
    return notes


def _left_out(plan: Plan, tree: Path) -> Iterator[str]:
    """Yield a note for each compose file of the project itself that has services which ours lack."""
    own = {"app", "nginx", "database", "queue", "cache", *(plan.options.get("workers") or {})}
    for path in sorted(path for path in tree.iterdir() if process_files.is_compose_file(path)):
        if path.name in ("compose.production.yml", "compose.local.yml"):
            continue
        remarks: list[str] = []
        found = process_files.services(path, remarks)
        left = [name for name, service in found.items() if name not in own and not _has_service(plan, service)]
        if left:
            yield f"{path.name} has services that are not in these files: {', '.join(left)}; add those that you need"


def _has_service(plan: Plan, service: Mapping[str, Any]) -> bool:
    """Return whether the files have what a service of a compose file of the project runs."""
    image = str(service.get("image") or "").rpartition("/")[2].partition(":")[0]
    kinds = {
        "nginx": True,
        "postgres": plan.engine == "postgres",
        "postgis": plan.engine == "postgres",
        "mysql": plan.engine == "mysql",
        "mariadb": plan.engine == "mysql",
        "redis": bool(plan.queue or plan.cache == "redis"),
        "valkey": bool(plan.queue or plan.cache == "redis"),
        "memcached": plan.cache == "memcached",
    }
    if image in kinds:
        return kinds[image]
    line = process_files.line_of(dict(service))
    commands = shell.commands(line) or []
    is_server = any(_SERVES.search(" ".join(words)) for words in commands) or not line
    workers = (plan.options.get("workers") or {}).values()
    kinds_of_workers = {one["kind"] for one in workers if one}
    found = [worker for words in commands if (worker := inspect_worker.of(words, is_process=True))]
    is_worker = any(worker.kind in kinds_of_workers for worker in found)
    return ("build" in service and is_server) or is_worker


def _assigning(plan: Plan, roots: list[Path]) -> Iterator[str]:
    """Yield a note for each program that assigns the settings module: those of the files would have no effect."""
    for module in (plan.application, "manage"):
        path = inspect_python_path.find_module(roots, module)
        found = ast.walk(code.tree(path)) if path else ()
        targets = [target for one in found if isinstance(one, ast.Assign) for target in one.targets]
        if any(ast.unparse(target).endswith("environ['DJANGO_SETTINGS_MODULE']") for target in targets):
            yield (
                f"{module} assigns DJANGO_SETTINGS_MODULE: use os.environ.setdefault there, otherwise the settings "
                "in compose/ have no effect"
            )


def has_lock(plan: Plan, name: str) -> bool:
    """Return whether packages come from a kind of lock file."""
    return any(Path(file).name == name for file in plan.requirements)


def options_of_lock(plan: Plan, tree: Path, file: str) -> list[str]:
    """Return the options by which a lock is exported with what a site needs: its groups, and its member of uv's."""
    lock, folder = tree / file, os.path.relpath(plan.folder, Path(file).parent)
    if lock.name == "poetry.lock":
        return [f"--with={group}" for group in virtualenv_lock.groups_of_poetry(lock.with_name("pyproject.toml"))]
    if lock.name == "pdm.lock":
        extras, groups = virtualenv_lock.groups_of_pdm(lock.with_name("pyproject.toml"))
        return [*([] if groups else ["--prod"]), *(f"--group={name}" for name in (*extras, *groups))]
    if lock.name != "uv.lock":
        return []
    member = virtualenv_lock.member_of_uv(lock, folder)
    groups = virtualenv_lock.groups_of_uv(lock, folder)
    return [*([f"--package={member}"] if member else []), *(f"--group={group}" for group in groups)]
