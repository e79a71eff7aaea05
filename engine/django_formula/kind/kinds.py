"""The kinds of servers, workers, stores, process managers and the like: facts that pillar, states and engine all read.

`WORKERS`, `STORES`, `PUSHES`, `PROCESS_MANAGERS` and `PROXIES` have every kind, and each fact is here once. What the
engine alone reads of a kind is in its module (``store/<kind>.py`` and so on); all of an application server is in
``server/<kind>.py``. The values that the pillar may have are in ``django/schema.yaml``. This module is packed with each
program of a timer, so it imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

#: Where the templates are, on Salt's fileserver.
FILES = "salt://django/files/"


#: The parts of a site's hosts that have its releases.
RELEASED = ("app", "worker")
#: The kind of a host without an application server, which no pillar names.
NO_SERVER = "none"


class WorkerKind(NamedTuple):
    """A kind of worker.

    Attributes:
        templates: names of its programs in ``django/files``.
        is_single: whether a site may have only one of it.
        has_schedule: whether it keeps what it has sent on a schedule in a folder of the site, ``beat``.
        takes_tasks: whether it takes tasks from a queue, whose length can be shown.
        parks_unknown: whether a task that a release does not know waits for one that does, instead of failing.
        broker: the word of ``environment`` for the queue that tasks are sent to; in upper case it is the variable by
            which its client finds the queue. Empty where the project's settings have it.
        by_priority: patterns of the sorted sets in which Redis has tasks that wait by their priority.
        scheduled: patterns of those with tasks that wait for their time.
    """

    templates: tuple[str, ...]
    is_single: bool = False
    has_schedule: bool = False
    takes_tasks: bool = False
    parks_unknown: bool = False
    broker: str = ""
    by_priority: tuple[str, ...] = ()
    scheduled: tuple[str, ...] = ()


#: Programs next to those of every kind of worker: two that these import, and one that reads their queues.
_WORKER_PROGRAMS = ("django_formula_worker.py", "django_formula_ready.py", "django_formula_queue.py")

#: Every kind of worker, by its name in the pillar.
WORKERS = {
    "celery": WorkerKind(
        (
            *("django_formula_celery.py", "django_formula_celery_worker.py", "django_formula_celery_app.py"),
            "django_formula_celery_unacked.py",
            *_WORKER_PROGRAMS,
        ),
        takes_tasks=True,
        parks_unknown=True,
        broker="celery_broker_url",
    ),
    "celery_beat": WorkerKind(
        ("django_formula_celery_beat.py", "django_formula_celery_app.py", *_WORKER_PROGRAMS),
        is_single=True,
        has_schedule=True,
        broker="celery_broker_url",
    ),
    "rq": WorkerKind(("django_formula_rq.py", *_WORKER_PROGRAMS), takes_tasks=True, scheduled=("rq:scheduled:*",)),
    "huey": WorkerKind(
        ("django_formula_huey.py", *_WORKER_PROGRAMS),
        has_schedule=True,
        takes_tasks=True,
        by_priority=("huey.redis.*",),
        scheduled=("huey.schedule.*",),
    ),
    "command": WorkerKind(("django_formula_command.py", *_WORKER_PROGRAMS)),
}


def brokers(site: Mapping[str, Any]) -> set[str]:
    """Return the words of ``environment`` by which clients of a site's workers find its queue, here or elsewhere.

    Args:
        site: its configuration; ``enqueues`` has those of workers that other hosts of the site have.
    """
    own = {WORKERS[worker["kind"]].broker for worker in (site.get("workers") or {}).values()}
    return {*own, *site.get("enqueues", ())} - {""}


#: Every kind of destination of static files by its name in the pillar, with the option of ``static:push`` that is its
#: secret.
PUSHES = {"s3": "secret", "rsync": "ssh_key"}


class StoreKind(NamedTuple):
    """A kind of store: where a site keeps queued tasks or a cache.

    Attributes:
        title: as its makers write it, for people.
        port: where a server of it listens unless it is configured otherwise; 0 for what is no server.
        keeps_queue: whether tasks can be queued in it.
        cache: what its caches are called in the names of units: ``cache`` or ``cache_<alias>`` begins so.
    """

    title: str
    port: int = 0
    keeps_queue: bool = False
    cache: str = "cache"


#: Every kind of store, by its name in the pillar.
STORES = {
    "redis": StoreKind("Redis", 6379, keeps_queue=True),
    "memcached": StoreKind("Memcached", 11211, cache="memcached"),
    "database": StoreKind("Django's database cache"),
}


def own_stores(site: Mapping[str, Any]) -> list[str]:
    """Return the kinds of the servers that a site has of its own on this host, for its queue and caches.

    Args:
        site: its configuration.
    """
    entries = [*([site["queue"]] if site.get("queue") else []), *(site.get("caches") or {}).values()]
    return sorted({entry["engine"] for entry in entries if STORES[entry["engine"]].port and not entry["host"]})


def store_part(kind: str, name: str) -> str:
    """Return what the name of the unit of a store of a site's own ends with.

    Args:
        name: the store in `Site.stores`: ``queue``, ``cache`` or ``cache_<alias>``.
    """
    word, mark, alias = name.partition("_")
    return f"{STORES[kind].cache}{mark}{alias}" if word == "cache" else name


#: The templates of the site's own servers of stores, by process manager.
STORE_TEMPLATES = {"systemd": ("store.service",), "supervisor": ("store.conf", "store.sh")}

#: Second parts of the names of a site's units that belong to no release; the schema refuses them as names of workers.
OF_SITE = (
    *("at", "backup", "build", "cache", "copy", "listen", "manage", "memcached", "offsite", "proof", "queue"),
    *("requests", "task", "tls", "trial"),
)


def is_of_site(part: str) -> bool:
    """Return whether a part of a unit's name is that of a unit of a site, such as a timer's or a store's."""
    return part in OF_SITE or part.startswith(("cache_", "memcached_", "served_"))


#: The templates of every process manager, by its name in the pillar.
PROCESS_MANAGERS: dict[str, tuple[str, ...]] = {
    "systemd": ("django.service", "django.socket"),
    "supervisor": ("supervisor.conf", "supervisor.sh", "django_formula_listen.py"),
}
#: Their templates for a worker.
WORKER_TEMPLATES: dict[str, tuple[str, ...]] = {
    "systemd": ("worker.service",),
    "supervisor": ("worker.conf", "worker.sh"),
}
#: Those that a site in containers needs in addition, by the engine: Docker passes no socket of systemd on.
CONTAINER_TEMPLATES: dict[str, dict[str, tuple[str, ...]]] = {
    "systemd": {"podman": (), "docker": ("django_formula_listen.py",)},
    "supervisor": {"podman": ("container.sh",), "docker": ("container.sh",)},
}


class ProxyKind(NamedTuple):
    """A kind of proxy.

    Attributes:
        title: how messages call it.
        site: names of the templates of a site's files in ``django/files``.
        domain: template of the servers of a domain.
        redirect: template of those of a domain that redirects.
        page: template of those of the page of the host.
        tls: template of the file that all servers of https include.
        default_server: template of the server that refuses unknown hosts; empty where each server does that.
        max_weight: the greatest weight of a server in `proxy:upstreams`.
        has_rate_limit: whether it limits requests, and has errors 429 of its own.
        evaluated: the beginning of the values of headers that it would evaluate; empty where there are none.
        access: the directive that would override `proxy:allow`; empty where there is none.
    """

    title: str
    site: tuple[str, ...]
    domain: str
    redirect: str
    page: str
    tls: str
    default_server: str = ""
    max_weight: int = 65535
    has_rate_limit: bool = False
    evaluated: str = ""
    access: str = ""


#: Every proxy, by its name in the pillar.
PROXIES = {
    "nginx": ProxyKind(
        title="nginx",
        site=("nginx/upstream.conf", "nginx/locations.conf"),
        domain="nginx/domain.conf",
        redirect="nginx/redirect.conf",
        page="nginx/page.conf",
        tls="nginx/tls.conf",
        default_server="nginx/default.conf",
        has_rate_limit=True,
    ),
    "apache": ProxyKind(
        title="Apache",
        site=("apache/locations.conf",),
        domain="apache/domain.conf",
        redirect="apache/redirect.conf",
        page="apache/page.conf",
        tls="apache/tls.conf",
        max_weight=100,
        evaluated="expr=",
        access="Require",
    ),
}


def default_server_templates(kind: str, *, has_https: bool) -> list[str]:
    """Return the URLs of the templates of a proxy's server that refuses unknown hosts."""
    proxy = PROXIES[kind]
    names = [proxy.default_server, *([proxy.tls] if has_https else [])] if proxy.default_server else []
    return [f"{FILES}{name}" for name in names]
