"""What Django says of a project, in an attempt of an observation: its stages, its settings, and facts at the end.

It runs in the project's Python and imports nothing of ours; see `observe.program`.
"""

import functools
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

Answer = dict[str, Any]
#: The most of each kind in an answer.
_MOST = 200
#: What names this host, and the URL of a server on it that is none of the web's.
_HERE = re.compile(r"localhost|127\.0\.0\.1|\[?::1\]?")
_SERVER = re.compile(rf"(?!https?:|wss?:)[a-z][\w+.-]*://(?:[^/@\s]*@)?((?:{_HERE.pattern})(?::\d+)?)(?:[/?].*)?")


def _settings(_request: Answer) -> Answer:
    if "DJANGO_CONFIGURATION" in os.environ:  # its classes are modules only after this
        importlib.import_module("configurations").setup()
    settings = importlib.import_module("django.conf").settings
    return {name: plain(getattr(settings, name, None), 0) for name in dir(settings) if settings.is_overridden(name)}


def _setup(_request: Answer) -> None:
    """Set up Django; without its logs where their files cannot be written here, which says nothing of a release."""
    django = importlib.import_module("django")
    try:
        django.setup()
    except ValueError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        _own_settings().LOGGING_CONFIG = None
        django.setup()


def _checks(_request: Answer) -> None:
    importlib.import_module("django.core.checks").run_checks()


def _application(request: Answer) -> None:
    if request["application"]:
        importlib.import_module(request["application"])


STAGES: tuple[tuple[str, Callable[[Answer], Any]], ...] = (
    ("settings", _settings),
    ("setup", _setup),
    ("checks", _checks),
    ("application", _application),
)


def plain(value: Any, depth: int) -> Any:
    """Return a setting as JSON has it; texts are cut."""
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    if isinstance(value, (str, os.PathLike)):
        return str(value)[:300]
    if isinstance(value, (list, tuple, set, frozenset)) and depth < 5:
        return [plain(one, depth + 1) for one in list(value)[:100]]
    if isinstance(value, dict) and depth < 5:
        return {str(key)[:100]: plain(one, depth + 1) for key, one in list(value.items())[:100]}
    return None


def fields_of_pydantic() -> dict[str, str]:
    """Return the variables of pydantic-settings' classes, by the names of their fields: it reads them at once."""
    base = getattr(sys.modules.get("pydantic_settings"), "BaseSettings", None)
    found: dict[str, str] = {}
    queue = list(base.__subclasses__()) if base else []
    while queue:
        one = queue.pop()
        queue += one.__subclasses__()
        if one.__module__.startswith(("pydantic_settings", "pydantic.")):
            continue
        for name, field in one.model_fields.items():
            alias = field.validation_alias or field.alias
            names = getattr(alias, "choices", [alias] if alias else [one.model_config.get("env_prefix", "") + name])
            for text in names:
                found[name.lower()] = found[str(text).lower()] = str(text).upper()
    return found


# What only a started project tells


def facts() -> Answer:
    """Return what a project that has started tells of itself; what cannot be told is left out."""
    found: Answer = {}
    for name, part in _FACTS:
        try:
            found[name] = part()
        except Exception:
            found.setdefault("untold", []).append(name)
    return found


def _own_settings() -> Any:
    return importlib.import_module("django.conf").settings


def _databases() -> dict[str, str]:
    """Return the engine, host and name of each database."""
    keys = ("ENGINE", "HOST", "NAME")
    return {
        alias: " ".join(str(one[key]) for key in keys if one.get(key))
        for alias, one in _own_settings().DATABASES.items()
    }


def _backends(setting: str) -> dict[str, str]:
    return {
        alias: str(one.get("BACKEND", "")) for alias, one in (getattr(_own_settings(), setting, None) or {}).items()
    }


def _storages() -> dict[str, str]:
    old = {"default": "DEFAULT_FILE_STORAGE", "staticfiles": "STATICFILES_STORAGE"}
    named = {alias: str(getattr(_own_settings(), name, "") or "") for alias, name in old.items()}
    return {**{alias: text for alias, text in named.items() if text}, **_backends("STORAGES")}


def _logs() -> list[str]:
    handlers = (getattr(_own_settings(), "LOGGING", None) or {}).get("handlers", {})
    return [str(one["filename"]) for one in handlers.values() if one.get("filename")][:_MOST]


def _servers() -> list[str]:
    """Return the settings with the address of a server on this host, and that, but for databases and caches."""
    settings = _own_settings()
    names = [name for name in dir(settings) if name.isupper() and settings.is_overridden(name)]
    values = {name: plain(getattr(settings, name, None), 0) for name in names if name not in ("DATABASES", "CACHES")}
    return [f"{path} {where}" for name, value in values.items() for path, where in _addresses(value, name)][:_MOST]


def _addresses(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the addresses of this host in a setting: a URL, a map with host and port, a list of both."""
    inner: list[tuple[str, Any]] = []
    host = port = None
    url = _SERVER.fullmatch(value) if isinstance(value, str) else None
    if url:
        yield path, url.group(1)
    elif isinstance(value, dict):
        lower = {key.lower(): one for key, one in value.items()}
        host, port, inner = lower.get("host"), lower.get("port"), [(f"{path}:{key}", one) for key, one in value.items()]
    elif isinstance(value, list):
        host, port = value if len(value) == 2 else (None, None)
        inner = [(path, one) for one in value]
    if isinstance(host, str) and _HERE.fullmatch(host) and str(port).isdigit():
        yield path, f"{host}:{port}"
    for name, one in inner:
        yield from _addresses(one, name)


def _tasks() -> list[str]:
    """Return what runs tasks within the process that asks for them, in place of a worker: no worker is needed."""
    state, settings = sys.modules.get("celery._state"), _own_settings()
    apps = list(state._get_active_apps()) if state else []
    found = ["Celery: task_always_eager" for app in apps if app.conf.task_always_eager]
    queues = getattr(settings, "RQ_QUEUES", None) or {}
    found += [f"RQ: ASYNC is off for {name}" for name, one in queues.items() if one.get("ASYNC") is False]
    huey = getattr(sys.modules.get("huey.contrib.djhuey"), "HUEY", None)
    return sorted({*found, *(["huey: immediate"] if getattr(huey, "immediate", False) else [])})[:_MOST]


def _brokers() -> list[str]:
    state = sys.modules.get("celery._state")
    urls = {str(app.conf.broker_url) for app in (state._get_active_apps() if state else ()) if app.conf.broker_url}
    return sorted(urls)[:_MOST]


def _workers() -> list[str]:
    """Return what has tasks for workers: applications of Celery with their number, queues of RQ, huey."""
    state, found = sys.modules.get("celery._state"), []
    for app in state._get_active_apps() if state else ():
        app.loader.import_default_modules()
        count = sum(not name.startswith("celery.") for name in app.tasks)
        found += [f"Celery {app.main} ({count})"] if app.main and count else []
    found += [f"RQ {name}" for name in getattr(_own_settings(), "RQ_QUEUES", None) or {}]
    huey = getattr(sys.modules.get("huey.contrib.djhuey"), "HUEY", None)
    return [*found, *([f"huey {huey.name}"] if huey else [])][:_MOST]


def _missing() -> list[str]:
    """Return the modules without which no worker of Celery starts: of tasks, and of what keeps their results."""
    state, names = sys.modules.get("celery._state"), set()
    for app in state._get_active_apps() if state else ():
        try:
            app.loader.import_default_modules()
            app.backend  # noqa: B018 - it is made when it is read
        except ModuleNotFoundError as error:
            names.add(str(error.name))
    return sorted(names)


def _routes() -> list[str]:
    """Return the paths of the project's pages without arguments."""
    resolver = importlib.import_module("django.urls").get_resolver()
    return list(dict.fromkeys(_paths(resolver.url_patterns, "/", 0)))[:_MOST]


def _paths(patterns: Any, prefix: str, depth: int) -> Iterator[str]:
    for one in patterns if depth < 6 else ():
        text = str(one.pattern)
        is_plain = type(one.pattern).__name__ == "RoutePattern"
        path = prefix + (text if is_plain else re.sub(r"[\^$]|\\(?=[./-])|\\Z", "", text))
        if hasattr(one, "url_patterns"):
            inner = [] if getattr(one, "app_name", "") == "admin" else one.url_patterns
            yield from _paths(inner, path, depth + 1)
        elif not re.search(r"[<(\[*+?]", path):
            yield path


@functools.cache
def _loader() -> Any:
    """Return Django's loader of migrations; no database is asked."""
    return importlib.import_module("django.db.migrations.loader").MigrationLoader(None, ignore_no_migrations=True)


def _migrations() -> list[str]:
    """Return the project's own applications whose models differ from their migrations; no database is asked."""
    apps, loader, part = importlib.import_module("django.apps").apps, _loader(), "django.db.migrations"
    state = importlib.import_module(f"{part}.state").ProjectState.from_apps(apps)
    questioner = importlib.import_module(f"{part}.questioner").NonInteractiveMigrationQuestioner()
    detector = importlib.import_module(f"{part}.autodetector").MigrationAutodetector
    changed = {*detector(loader.project_state(), state, questioner).changes(graph=loader.graph)}
    changed |= {label for label in loader.unmigrated_apps if any(apps.get_app_config(label).get_models())}
    return sorted(one for one in changed if "/site-packages/" not in apps.get_app_config(one).path)[:_MOST]


def _unmigrated() -> list[str]:
    """Return the project's own applications that have models, and not one migration."""
    apps = importlib.import_module("django.apps").apps
    having = {label for label, _name in _loader().disk_migrations}
    own = [one for one in apps.get_app_configs() if "/site-packages/" not in one.path and any(one.get_models())]
    return sorted(one.label for one in own if one.label not in having)[:_MOST]


def _checks_that_fail() -> list[str]:
    checks = importlib.import_module("django.core.checks")
    serious = [one for one in checks.run_checks() if one.is_serious() and not one.is_silenced()]
    return [" ".join(f"({one.id}) {one.msg}".split())[:300] for one in serious][:_MOST]


def _middleware() -> list[str]:
    """Return the middleware of a setting that Django has renamed, and no longer reads; what it has removed is left out.

    Django has run without any since 2.0 where only `MIDDLEWARE_CLASSES` is set.
    """
    settings, defaults = _own_settings(), importlib.import_module("django.conf.global_settings")
    if settings.is_overridden("MIDDLEWARE") or hasattr(defaults, "MIDDLEWARE_CLASSES"):
        return []
    return [name for name in getattr(settings, "MIDDLEWARE_CLASSES", ()) if _is_there(name)][:_MOST]


def _is_there(name: str) -> bool:
    try:
        importlib.import_module("django.utils.module_loading").import_string(name)
    except ImportError:
        return False
    return True


_FACTS: tuple[tuple[str, Callable[[], Any]], ...] = (
    ("databases", _databases),
    ("caches", lambda: _backends("CACHES")),
    ("storages", _storages),
    ("logs", _logs),
    ("servers", _servers),
    ("eager", _tasks),
    ("brokers", _brokers),
    ("workers", _workers),
    ("missing", _missing),
    ("routes", _routes),
    ("migrations", _migrations),
    ("unmigrated", _unmigrated),
    ("checks", _checks_that_fail),
    ("middleware", _middleware),
)
