"""The kinds of servers, workers, stores, process managers and the like: facts that pillar, states and engine all read.

`SERVERS`, `WORKERS`, `STORES`, `PUSHES`, `PROCESS_MANAGERS` and `PROXIES` have every kind, and each fact is here once.
What the engine alone reads of a kind is in its module (``server/<kind>.py``, ``worker/<kind>.py`` and so
on); the values that the pillar may have for it are in ``django/schema.yaml``. This module runs while Salt renders too
(`django_pillar_render`), so it imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

#: Where the templates are, on Salt's fileserver.
FILES = "salt://django/files/"
_Member = TypeVar("_Member")


class Members(Mapping[str, _Member]):
    """The member of each kind by its name, each loaded when it is first looked at: sites have few of all kinds.

    Args:
        names: of the kinds.
        load: returns the member of a kind.
    """

    def __init__(self, names: Iterable[str], load: Callable[[str], _Member]):
        self._names, self._load = tuple(names), load
        self._loaded: dict[str, _Member] = {}

    def __getitem__(self, name: str) -> _Member:
        if name not in self._loaded:
            if name not in self._names:
                raise KeyError(name)
            self._loaded[name] = self._load(name)
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class ServerKind(NamedTuple):
    """A kind of application server.

    Attributes:
        templates: names of its files in ``django/files``. All but the server's main file are copied as they are.
        interface: what it runs of the project, ``wsgi`` or ``asgi``.
        concurrency: what lets one thread serve many requests at a time; empty where each request needs a thread.
        keepalive: the option for the seconds that it keeps an idle connection of the proxy; empty where it may close
            one that the proxy is about to use.
        is_cutting: whether it cuts the connections of a process that it replaces.
        max_requests: the default of `server:max_requests`, where options change that of the schema.
        port: the first of the two ports that a site gets on a loopback address of its own, for a server without unix
            sockets; else 0.
        used_options: the only `server:options` that have an effect; None where all have.
        suggested_by: packages in a project's requirements for which an inspection proposes this kind, if they have no
            other server for its interface, and the project has a module for it.
        title: how messages call it, where that is not its name.
        variants: pairs of conditions and the attributes that differ where they hold. A condition is an option, or
            ``threads``, and its values; None stands for an option that is not set.
    """

    templates: tuple[str, ...]
    interface: str = "wsgi"
    concurrency: str = ""
    keepalive: str = ""
    is_cutting: bool = False
    max_requests: int | None = None
    port: int = 0
    used_options: tuple[str, ...] | None = None
    suggested_by: tuple[str, ...] = ()
    title: str = ""
    variants: tuple[tuple[Mapping[str, tuple[Any, ...]], Mapping[str, Any]], ...] = ()


#: The parts of a site's hosts that have its releases.
RELEASED = ("app", "worker")
#: The kind of a host without an application server, which no pillar names.
NO_SERVER = "none"
#: Every application server, by its name in the pillar.
SERVERS = {
    "uwsgi": ServerKind(
        ("uwsgi.ini", "django_formula_uwsgi.py", "django_formula_warm.py", "django_formula_unread.py"),
    ),
    "gunicorn": ServerKind(
        ("gunicorn.conf.py", "django_formula_gunicorn.py", "django_formula_warm.py", "django_formula_unread.py"),
        keepalive="keepalive",
        variants=(
            (
                {"worker_class": (None, "sync"), "threads": (1,)},
                {"keepalive": "", "title": "gunicorn with worker_class sync"},
            ),
            ({"worker_class": ("gevent",)}, {"concurrency": "gevent"}),
            (
                {"worker_class": ("uvicorn",)},
                {"interface": "asgi", "concurrency": "uvicorn", "is_cutting": True, "max_requests": 0},
            ),
        ),
    ),
    "uvicorn": ServerKind(
        ("django_formula_uvicorn.py", "django_formula_ready.py"),
        interface="asgi",
        concurrency="ASGI",
        keepalive="timeout_keep_alive",
        is_cutting=True,
    ),
    "granian": ServerKind(
        ("django_formula_granian.py", "django_formula_ready.py", "django_formula_unread.py"),
        interface="asgi",
        concurrency="ASGI",
        variants=(({"interface": ("wsgi",)}, {"interface": "wsgi", "concurrency": ""}),),
    ),
    "daphne": ServerKind(
        ("django_formula_daphne.py", "django_formula_ready.py"),
        interface="asgi",
        concurrency="ASGI",
        suggested_by=("daphne", "channels"),
    ),
    "mod_wsgi": ServerKind(
        (
            "mod_wsgi.conf",
            "django_formula_mod_wsgi.py",
            "django_formula_ready.py",
            "django_formula_wsgi.py",
            "django_formula_warm.py",
        ),
        port=8471,
        variants=(({"mode": ("embedded",)}, {"used_options": ("mode",)}),),
    ),
    # What a host has that runs only the workers of a site; its interface is that of the hosts that serve it.
    NO_SERVER: ServerKind((), variants=(({"interface": ("asgi",)}, {"interface": "asgi"}),)),
}


class WorkerKind(NamedTuple):
    """A kind of worker.

    Attributes:
        templates: names of its programs in ``django/files``.
        is_single: whether a site may have only one of it.
        has_schedule: whether it keeps what it has sent on a schedule in a folder of the site, ``beat``.
        broker: the word of ``environment`` for the queue that tasks are sent to; in upper case it is the variable by
            which its client finds the queue. Empty where the project's settings have it.
    """

    templates: tuple[str, ...]
    is_single: bool = False
    has_schedule: bool = False
    broker: str = ""


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
        broker="celery_broker_url",
    ),
    "celery_beat": WorkerKind(
        ("django_formula_celery_beat.py", "django_formula_celery_app.py", *_WORKER_PROGRAMS),
        is_single=True,
        has_schedule=True,
        broker="celery_broker_url",
    ),
    "rq": WorkerKind(("django_formula_rq.py", *_WORKER_PROGRAMS)),
    "huey": WorkerKind(("django_formula_huey.py", *_WORKER_PROGRAMS), has_schedule=True),
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
    """

    title: str
    port: int = 0
    keeps_queue: bool = False


#: Every kind of store, by its name in the pillar.
STORES = {
    "redis": StoreKind("Redis", 6379, keeps_queue=True),
    "memcached": StoreKind("Memcached", 11211),
    "database": StoreKind("Django's database cache"),
}


def own_stores(site: Mapping[str, Any]) -> list[str]:
    """Return the kinds of the servers that a site has of its own on this host, for its queue and caches.

    Args:
        site: its configuration.
    """
    entries = [*([site["queue"]] if site.get("queue") else []), *(site.get("caches") or {}).values()]
    return sorted({entry["engine"] for entry in entries if STORES[entry["engine"]].port and not entry["host"]})


#: The templates of the site's own servers of stores, by process manager.
STORE_TEMPLATES = {"systemd": ("store.service",), "supervisor": ("store.conf", "store.sh")}

#: Second parts of the names of a site's units that belong to no release; the schema refuses them as names of workers.
OF_SITE = ("at", "backup", "build", "cache", "listen", "manage", "memcached", "queue", "task", "tls", "trial")


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
        tls="nginx/tls.conf",
        default_server="nginx/default.conf",
        has_rate_limit=True,
    ),
    "apache": ProxyKind(
        title="Apache",
        site=("apache/locations.conf",),
        domain="apache/domain.conf",
        redirect="apache/redirect.conf",
        tls="apache/tls.conf",
        max_weight=100,
        evaluated="expr=",
        access="Require",
    ),
}


def server_of(server: Mapping[str, Any]) -> ServerKind:
    """Return the kind of a site's server, with what its options change.

    Args:
        server: the part `server` of a site's configuration.
    """
    kind = SERVERS[server["kind"]]
    values = {**server["options"], "threads": server["threads"]}
    for conditions, differences in kind.variants:
        if all(values.get(name) in allowed for name, allowed in conditions.items()):
            kind = kind._replace(**differences)
    return kind._replace(title=kind.title or server["kind"])


def instance_templates(site: Mapping[str, Any]) -> list[str]:
    """Return the URLs of the templates of a site's server, workers and process manager, which a release is made of.

    Args:
        site: its configuration.
    """
    names = [*PROCESS_MANAGERS[site["process"]], *SERVERS[site["server"]["kind"]].templates]
    if site.get("container"):
        own = CONTAINER_TEMPLATES[site["process"]][site["container"]["engine"]]
        names += [name for name in own if name not in names]
    for worker in (site.get("workers") or {}).values():
        own = (*WORKER_TEMPLATES[site["process"]], *WORKERS[worker["kind"]].templates)
        names += [name for name in own if name not in names]
    return [f"{FILES}{name}" for name in names if name]


def templates(site: Mapping[str, Any]) -> list[str]:
    """Return the URLs of the templates of a site's server, workers, stores, process manager and proxy.

    Args:
        site: its configuration.
    """
    names = []
    has_https = site["tls"]["kind"] != "none"
    proxy = PROXIES.get(site["proxy"]["kind"])
    if proxy:
        names = [*proxy.site, proxy.domain, proxy.redirect, proxy.default_server, *([proxy.tls] if has_https else [])]
    if own_stores(site):
        names += STORE_TEMPLATES[site["process"]]
    return [*instance_templates(site), *(f"{FILES}{name}" for name in names if name)]


def default_server_templates(kind: str, *, has_https: bool) -> list[str]:
    """Return the URLs of the templates of a proxy's server that refuses unknown hosts."""
    proxy = PROXIES[kind]
    names = [proxy.default_server, *([proxy.tls] if has_https else [])] if proxy.default_server else []
    return [f"{FILES}{name}" for name in names]
