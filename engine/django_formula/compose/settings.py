"""The settings modules of the containers: those of the project, and over them where everything is."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from django_formula.compose.plan import Plan
from django_formula.database import engines
from django_formula.knowledge.rows import rows
from django_formula.site import domains
from django_formula.store import stores as store_stores


def overlay(plan: Plan, kind: str) -> str:
    """Return the settings module of a compose file.

    Args:
        kind: ``production`` or ``local``.
    """
    lines = [
        f'"""The settings of {plan.name} in compose.{kind}.yml: the project\'s, and those of the containers."""',
        "",
        *(["import os"] if not plan.takes("secret_key") else []),
        "from pathlib import Path",
        "",
        f"from {plan.settings_module} import *",
        "",
        *(
            _PRODUCTION.format(domains=json.dumps([*map(domains.in_django, plan.domains)])).splitlines()
            if kind == "production"
            else _LOCAL.splitlines()
        ),
        *([] if plan.takes("secret_key") else ['SECRET_KEY = os.environ["SECRET_KEY"]']),
        *[f"{name} = {_python(plan.root(name))}" for name in ("STATIC_ROOT", "MEDIA_ROOT")],
        *([] if plan.takes("database_") else _database(plan)),
        *_stores(plan),
        *([] if "LOGGING" in plan.settings.values or kind == "local" else [_LOGGING]),
        *[f"{name} = {value!r}" for name, value in plan.options.get("settings", {}).items()],
    ]
    text = "\n".join(lines) + "\n"
    return text if "Path(" in text else text.replace("from pathlib import Path\n", "")


_PASSWORD = 'Path("/run/secrets/database_password").read_text().strip()'  # noqa: S105  # nosec B105
_PRODUCTION = """\
DEBUG = False
ALLOWED_HOSTS = {domains}
# nginx sets it, or passes on what the proxy of this host has set.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
"""
_LOCAL = """\
DEBUG = True
ALLOWED_HOSTS = ["*"]
EMAIL_BACKEND = "django.core.mail.backends.console.EmailBackend"
# There is no https here.
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = False
SECURE_HSTS_SECONDS = 0
"""
_LOGGING = """\
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}"""


def _python(path: PurePath | str) -> str:
    return f'Path("{path}")' if isinstance(path, PurePath) else f'"{path}"'


def _database(plan: Plan) -> list[str]:
    """Return the lines for the default database; the project's own options of it stay."""
    engine = engines.ENGINES[plan.engine]
    backend = plan.settings.get("DATABASES", "default", "ENGINE")
    own = isinstance(backend, str) and engine.is_backend(backend)
    entry: dict[str, str] = {} if own else {"ENGINE": repr(engine.backend)}
    if engine.is_server:
        name = database_name(plan)
        entry |= {"NAME": repr(name), "USER": repr(name), "PASSWORD": _PASSWORD}
        entry |= {"HOST": "'database'", "PORT": f"'{engine.port}'"}
    else:
        options = '{"timeout": 20, **DATABASES["default"].get("OPTIONS", {})}' if own else '{"timeout": 20}'
        entry |= {"NAME": "'/srv/data/db.sqlite3'", "OPTIONS": options}
    lines = [f'    "{key}": {value},'.replace("'", '"') for key, value in entry.items()]
    if "DATABASES" not in plan.settings.values:
        return ["DATABASES = {}", 'DATABASES["default"] = {', *lines, "}"]
    return ['DATABASES["default"] = {', *(['    **DATABASES["default"],'] if own else []), *lines, "}"]


def database_name(plan: Plan) -> str:
    """Return the name of the database, and of its user."""
    return plan.name.replace("-", "_")


def url(kind: str, service: str) -> str:
    """Return the URL of a store."""
    return f"redis://{service}:6379/0" if kind == "redis" else f"{service}:11211"


_WITHOUT_CACHES = """\
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}"""


def _caches(plan: Plan) -> Iterator[str]:
    """Yield the lines for the caches; the project's own backend stays where it is one for such a server."""
    kinds = {row["engine"]: row for row in rows("caches")}
    servers = {alias: kinds[one["engine"]] for alias, one in plan.caches.items() if one["engine"] in kinds}
    if servers and "CACHES" not in plan.settings.values:
        yield "CACHES = {}" if "default" in servers else _WITHOUT_CACHES
    for alias, row in servers.items():
        usual = row.get("below_4", row["backend"]) if plan.version < (4, 0) else row["backend"]
        own, address = plan.settings.get("CACHES", alias, "BACKEND"), url(row["engine"], "cache")
        if isinstance(own, str) and _is_backend(own, row):
            yield f'CACHES["{alias}"]["LOCATION"] = "{address}"'
        else:
            rest = "" if isinstance(own, str) else f'**CACHES.get("{alias}", {{}}), '
            yield f'CACHES["{alias}"] = {{"BACKEND": "{usual}", {rest}"LOCATION": "{address}"}}'


def _is_backend(name: str, row: Mapping[str, Any]) -> bool:
    """Return whether a backend is for a kind of server: a known one, or one that has the name of a client of it."""
    clients = store_stores.STORES[row["engine"]].CLIENTS
    return bool(re.fullmatch(row["match"], name)) or any(client in name.lower() for client in clients)


def _stores(plan: Plan) -> list[str]:
    """Return the lines for caches and the queue, where the project has them in its code."""
    lines = [*_caches(plan)]
    if plan.queue != "redis":
        return lines
    queue = url("redis", "queue")
    if plan.settings.values.get("RQ_QUEUES"):
        lines.append(f'RQ_QUEUES = {{name: {{"URL": "{queue}"}} for name in RQ_QUEUES}}')
    backend = str(plan.settings.get("CHANNEL_LAYERS", "default", "BACKEND"))
    if any(one in backend for one in rows("layers")):
        lines.append(f'CHANNEL_LAYERS["default"]["CONFIG"] = {{"hosts": ["{queue}"]}}')
    if isinstance(plan.settings.get("HUEY"), dict):
        lines.append(f'HUEY = {{**HUEY, "connection": {{"url": "{queue}"}}}}')
    if isinstance(plan.settings.get("Q_CLUSTER"), dict):
        lines.append(f'Q_CLUSTER = {{**Q_CLUSTER, "redis": "{queue}"}}')
    return lines
