"""The files with variables and secrets of the containers: generated once, and kept."""

import json
import secrets
import string
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from django_formula.compose import settings
from django_formula.compose.plan import Plan
from django_formula.database import engines
from django_formula.host import environment_files
from django_formula.inspect import environment
from django_formula.site import domains

_LETTERS = string.ascii_letters + string.digits


def generated(length: int = 50) -> str:
    """Return a new secret."""
    return "".join(secrets.choice(_LETTERS) for _ in range(length))


def variables(plan: Plan, key: str, password: str) -> dict[str, str]:
    """Return the variables of the project, with new secrets.

    Args:
        key: the secret key, where a file has it too.
        password: that of the database.
    """
    known = _words(plan, key if has_key_file(plan) else generated(), password)
    found = {} if plan.takes("secret_key") else {"SECRET_KEY": known["secret_key"]}
    for name, value in plan.options.get("environment", {}).items():
        own = known.get(_word(value)) if _word(value) else _own_host(plan, name, value)
        found[name] = value.get("join", ",").join(own) if isinstance(own, list) else _text(own)
    for name, about in plan.options.get("secrets", {}).items():
        variable = about.get("variable") or name
        if variable not in plan.open:
            found[variable] = generated(about.get("generate") or 50)
    if plan.queue == "redis" and any(one["kind"].startswith("celery") for one in workers(plan).values()):
        found.setdefault("CELERY_BROKER_URL", known["celery_broker_url"])
    return {**dict.fromkeys(plan.open, ""), **found}


def missing(plan: Plan) -> list[str]:
    """Return the variables that take what the containers do not know, such as the mail server of the site."""
    known = _words(plan, "", "")
    values = plan.options.get("environment", {}).items()
    return [name for name, value in values if _word(value) and _word(value) not in known]


def _own_host(plan: Plan, name: str, value: Any) -> Any:
    """Return the value of a variable; instead of a server of this host its service."""
    package = environment.server_on_this_host(name, value)
    service = {"redis-server": "queue" if plan.queue else "cache", "memcached": "cache"}.get(package)
    return value.replace("localhost", service) if service else value


def workers(plan: Plan) -> dict[str, Any]:
    """Return the workers of the site by name."""
    return {name: one for name, one in (plan.options.get("workers") or {}).items() if one}


def _word(value: Any) -> str:
    return str(value["from"]) if isinstance(value, dict) else ""


def _text(value: Any) -> str:
    return "" if value is None else json.dumps(value) if isinstance(value, bool) else str(value)


def _words(plan: Plan, key: str, password: str) -> dict[str, Any]:
    """Return what `environment` may take with `from`, in the containers."""
    engine = engines.ENGINES[plan.engine]
    name = settings.database_name(plan)
    found: dict[str, Any] = {
        "secret_key": key,
        "secret_key_file": "/run/secrets/secret_key",
        "secret_key_fallbacks": [],
        "domains": [*map(domains.in_django, plan.domains)],
        "static_root": "/srv/static",
        "media_root": "/srv/media",
        "shared": "/srv/data",
        "root": "/srv",
        "commit": "",
        "release": "",
    }
    if engine.is_server:
        url = f"{plan.engine}://{name}:{quote(password, safe='')}@database:{engine.port}/{name}"
        found |= {"database_url": url, "database_name": name, "database_user": name, "database_password": password}
        found |= {"database_host": "database", "database_port": str(engine.port)}
    else:
        path = "/srv/data/db.sqlite3"
        found |= {"database_url": f"sqlite:///{path}", "database_name": path, "database_path": path}
    if plan.queue:
        found |= dict.fromkeys(("queue_url", "celery_broker_url"), settings.url(plan.queue, "queue"))
    if plan.cache:
        found["cache_url"] = settings.url(plan.cache, "cache")
    return found


def has_key_file(plan: Plan) -> bool:
    """Return whether the project reads its secret key from a file."""
    return any(_word(value) == "secret_key_file" for value in plan.options.get("environment", {}).values())


def file(values: Mapping[str, str]) -> str:
    """Return the file with variables, as the shell of the containers reads it."""
    return environment_files.environment_file(values)
