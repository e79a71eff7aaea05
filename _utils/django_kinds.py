"""The kinds of application servers and process managers: what the pillar, the states and the engine all read of them.

`SERVERS` and `PROCESS_MANAGERS` have every kind, and each fact stands here once. What the engine alone reads of a kind
is in its class (``django_server_<kind>.py``, ``django_process_<kind>.py``); which values the pillar may have for it is
in ``django/schema.yaml``. This module runs while Salt renders too (`django_pillar_render`), so it imports the standard
library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

#: Where the templates are, on Salt's fileserver.
FILES = "salt://django/files/"


def run() -> dict[str, Any]:
    """Return nothing: Salt's py renderer only registers this module (see `django_pillar_render`)."""
    return {}


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
    title: str = ""
    variants: tuple[tuple[Mapping[str, tuple[Any, ...]], Mapping[str, Any]], ...] = ()


#: Every application server, by its name in the pillar.
SERVERS = {
    "uwsgi": ServerKind(
        ("uwsgi.ini", "django_formula_uwsgi.py", "django_formula_warm.py", "django_formula_unread.py"),
    ),
    "gunicorn": ServerKind(
        ("gunicorn.conf.py", "django_formula_warm.py", "django_formula_unread.py"),
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
}

#: The templates of every process manager, by its name in the pillar.
PROCESS_MANAGERS: dict[str, tuple[str, ...]] = {
    "systemd": ("django.service", "django.socket"),
    "supervisor": ("supervisor.conf", "supervisor.sh", "django_formula_listen.py"),
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


def templates(site: Mapping[str, Any]) -> list[str]:
    """Return the URLs of the templates of a site's server and process manager.

    Args:
        site: its configuration.
    """
    return [f"{FILES}{name}" for name in PROCESS_MANAGERS[site["process"]] + SERVERS[site["server"]["kind"]].templates]
