"""The stores that a project's settings are for, a queue and caches, and the variables that have their URLs."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from django_formula.inspect.settings import Settings
from django_formula.inspect.values import UNKNOWN, Called, Value, plain
from django_formula.knowledge.rows import rows

#: Settings with the URL of Celery's broker or of its results.
BROKERS = ("CELERY_BROKER_URL", "BROKER_URL", "CELERY_RESULT_BACKEND")
#: Keys whose value is a URL of a server, or several.
_OF_URL = re.compile(r"ur[il]|hosts$|address|location|redis$|broker|connection|dsn", re.IGNORECASE)
#: Names of variables by which projects get such a URL.
_OF_BROKER = re.compile(r"(?!.*(KAFKA|MQTT|NATS|STOMP))(\w+_)?(BROKER_URL|CELERY_BROKER|CELERY_RESULT_BACKEND)")
_OF_CACHE = re.compile(r"(\w+_)?CACHE_(URL|URI|LOCATION)")
_OF_QUEUE = re.compile(r"(\w+_)?(REDIS|RQ|HUEY)_(URL|URI)|REDIS")
_REDIS_SCHEMES = ("redis", "rediss", "redis+socket", "unix", "sentinel")


@dataclass
class Stores:
    """What the pillar needs.

    Attributes:
        queue: why the site needs a queue of its own; empty if it does not.
        caches: alias → engine.
        sessions: the pillar's word for where sessions are, if the project's own would be lost with its cache.
        words: variable → what the pillar gives for it.
        elsewhere: what the settings have on another host, as ``setting: host``.
    """

    queue: str = ""
    caches: dict[str, str] = field(default_factory=dict)
    sessions: str = ""
    words: dict[str, Any] = field(default_factory=dict)
    elsewhere: list[str] = field(default_factory=list)


def read(settings: Settings, kinds: Collection[str], commands: Collection[str]) -> Stores:
    """Return the stores that a project needs.

    Args:
        kinds: the kinds of the project's workers.
        commands: the commands of those of kind ``command``.
    """
    stores = Stores()
    _caches(stores, settings)
    stores.queue = _queue(stores, settings, kinds, commands)
    if str(settings.get("SESSION_ENGINE")).endswith("sessions.backends.cache") and stores.caches:
        stores.sessions = "cached_db"
    _words(stores, settings)
    return stores


def _caches(stores: Stores, settings: Settings) -> None:
    caches = settings.get("CACHES")
    for alias, about in caches.items() if isinstance(caches, dict) else ():
        backend = about.get("BACKEND") if isinstance(about, dict) else None
        engine = next((row["engine"] for row in rows("caches") if re.fullmatch(row["match"], str(backend))), "")
        places = [*_texts(about.get("LOCATION"))] if isinstance(about, dict) else []
        if any(place.startswith(("redis://", "rediss://")) for place in places):
            engine = "redis"  # of a backend of the project's own too
        host = next(filter(None, map(_elsewhere, places)), "") if engine else ""
        if host:
            stores.elsewhere.append(f"CACHES:{alias}: {host}")
        elif engine and re.fullmatch(r"[a-z]\w*", str(alias)):
            stores.caches[alias] = engine


def _queue(stores: Stores, settings: Settings, kinds: Collection[str], commands: Collection[str]) -> str:
    """Return what in the project needs a queue; empty if nothing does."""
    reasons = []
    if "celery" in kinds:
        broker = next((settings.get(name) for name in BROKERS[:2] if name in settings.values), UNKNOWN)
        reasons += _of_broker(stores, broker)
    if "rq" in kinds and not _has_host_elsewhere(stores, settings, "RQ_QUEUES"):
        reasons.append("RQ")
    if "huey" in kinds and _huey_needs_redis(settings.values.get("HUEY", Value())):
        reasons += [] if _has_host_elsewhere(stores, settings, "HUEY") else ["huey"]
    for row in _of_commands():
        is_in_redis = row["redis"] in str(plain(settings.get(row["setting"])))
        if is_in_redis and any(one.startswith(f"manage.py {row['command']}") for one in commands):
            reasons += [] if _has_host_elsewhere(stores, settings, row["setting"]) else [row["name"]]
    layers = settings.get("CHANNEL_LAYERS")
    is_in_redis = any(one in str(layers) for one in rows("layers"))
    if is_in_redis and not _has_host_elsewhere(stores, settings, "CHANNEL_LAYERS"):
        reasons.append("Channels")
    return ", ".join(reasons)


def _of_commands() -> list[dict[str, str]]:
    """Return the rows of workers of the kind ``command`` that may keep their tasks in a Redis."""
    return [row for row in rows("workers") if "redis" in row]


def _of_broker(stores: Stores, broker: Any) -> list[str]:
    scheme = broker.partition(":")[0] if isinstance(broker, str) else "redis"
    host = _elsewhere(broker) if isinstance(broker, str) else ""
    if host:
        stores.elsewhere.append(f"Celery's broker: {host}")
        return []
    if scheme in ("amqp", "pyamqp", ""):
        return ["Celery, in place of RabbitMQ"]
    if scheme in ("django", "mongodb"):
        return ["Celery, which no longer has such a broker"]
    return ["Celery"] if scheme in _REDIS_SCHEMES else []  # memory, filesystem, a database, a service


def _huey_needs_redis(value: Value) -> bool:
    """Return whether huey keeps its tasks in Redis, which it does by default, and not in files or in memory."""
    content = plain(value)
    if isinstance(content, Called):
        return "Redis" in content.name
    if isinstance(content, dict):
        named = str(content.get("huey_class", content.get("backend_class", "huey.RedisHuey")))
        return "Redis" in named and content.get("immediate") is not True
    return True


def _has_host_elsewhere(stores: Stores, settings: Settings, name: str) -> bool:
    hosts = [host for host in map(_elsewhere, _texts(settings.get(name))) if host]
    stores.elsewhere += [f"{name}: {hosts[0]}"] if hosts else []
    return bool(hosts)


def _texts(value: Any) -> Iterator[str]:
    """Yield the texts in a setting that may be a URL or a host."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _elsewhere(text: str) -> str:
    """Return the host in a URL or an address if it is surely another one: its name or address has dots."""
    if not re.match(r"\w+(\+\w+)?://|[\w.-]+(:\d+)?$", text):
        return ""
    try:
        host = urlsplit(text if "://" in text else f"//{text}").hostname or ""
    except ValueError:
        return ""
    is_module = "://" not in text and not re.search(r":\d+$|^\d+(\.\d+){3}$", text)
    return "" if "." not in host or host.startswith("127.") or is_module else host


def _words(stores: Stores, settings: Settings) -> None:
    """Give the variables that settings take URLs from the words of the pillar for them."""
    uses: dict[str, set[str]] = {}
    for purpose, value in _values(settings):
        for source in _sources(value):
            uses.setdefault(source, set()).add(purpose)
    for name, variable in settings.variables.items():
        if variable.kind not in ("text", "url") or not variable.is_read:
            continue
        word = _word(stores, name, uses.get(name, set()))
        if word:
            stores.words[name] = word
    if any(_has_form_of_client(stores, value) for value in _results(settings)) and "Celery" in stores.queue:
        stores.words["CELERY_RESULT_BACKEND"] = {"from": "celery_broker_url"}  # Celery reads it before its settings


def _results(settings: Settings) -> Iterator[Value]:
    """Yield the settings that name where Celery keeps results."""
    own = settings.values.get("CELERY", Value()).content
    yield from (value for name, value in settings.values.items() if name == "CELERY_RESULT_BACKEND")
    yield from (value for key, value in own.items() if key == "result_backend") if isinstance(own, dict) else ()


def _has_form_of_client(stores: Stores, value: Value) -> bool:
    """Return whether results are in Redis, by a URL that is for its clients or for a server that the site has not."""
    if value.source in stores.words:
        return bool(stores.words[value.source]["from"] != "celery_broker_url")
    content = value.content
    return isinstance(content, str) and content.startswith("redis://") and not _elsewhere(content)


def _values(settings: Settings) -> Iterator[tuple[str, Value]]:
    """Yield the settings that have URLs of stores, with what each is for."""
    for name, value in settings.values.items():
        if name in BROKERS:
            yield "broker", value
        elif name == "CELERY" and isinstance(value.content, dict):
            yield from (
                ("broker", part) for key, part in value.content.items() if key in ("broker_url", "result_backend")
            )
        elif name in ("RQ_QUEUES", "HUEY", "CHANNEL_LAYERS", *(row["setting"] for row in _of_commands())):
            yield "queue", value
        elif name == "CACHES" and isinstance(value.content, dict):
            for alias, about in value.content.items():
                location = about.content.get("LOCATION") if isinstance(about.content, dict) else None
                yield from [(f"cache:{alias}", location)] if location else []


def _sources(value: Value) -> Iterator[str]:
    """Yield the variables that are URLs in a value as they are: not a host or a port, which a socket does not have."""
    content = value.content
    if value.source:
        yield value.source
    if isinstance(content, dict):
        for key, part in content.items():
            is_inner = not part.source and not isinstance(part.content, list)
            yield from _sources(part) if is_inner or _OF_URL.search(str(key)) else ()
    elif isinstance(content, list):
        for part in content:
            yield from _sources(part) if not isinstance(part.content, list) else ()  # a list there is a host and a port
    elif isinstance(content, Called):
        for key, part in content.keywords.items():
            yield from _sources(part) if key in ("url", "connection", "broker") else ()


def _word(stores: Stores, name: str, uses: set[str]) -> dict[str, str]:
    """Return what the pillar gives for a variable; empty for a variable that has no URL of a store."""
    aliases = [use.partition(":")[2] for use in sorted(uses) if use.startswith("cache:")]
    rest = {use for use in uses if not use.startswith("cache:")}
    if (aliases and not rest) or (not uses and _OF_CACHE.fullmatch(name)):
        alias = next(iter(aliases), "default")
        word = {"from": "cache_url"} | ({"alias": alias} if alias != "default" else {})
        if alias in stores.caches and not (stores.queue and _OF_QUEUE.fullmatch(name)):
            return word
    if not stores.queue:
        return {}
    is_broker = bool(_OF_BROKER.fullmatch(name))
    is_of_client = "REDIS" in name and is_broker and not uses  # not Celery's own: code gives it to a client of Redis
    if (rest == {"broker"} and not _OF_QUEUE.fullmatch(name)) or (not uses and is_broker and not is_of_client):
        return {"from": "celery_broker_url"}
    return {"from": "queue_url"} if rest or is_of_client or _OF_QUEUE.fullmatch(name) else {}
