"""How an instance speaks WSGI or ASGI: what every application server has in common, and can be asked for."""

import re
import types
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import django_host_file
import django_server_granian
import django_server_gunicorn
import django_server_mod_wsgi
import django_server_uvicorn
import django_server_uwsgi
from django_process import Requirements
from django_site import Site
from django_wall_foreign import Foreign


class Server(Protocol):
    """One application server; each is a module of its own.

    It is told all by files in the release's ``config/``, takes an inherited socket (sd_listen_fds) or binds its own,
    and writes ``/run/<unit>/pid`` when it starts. Its main process says when it is ready, by sd_notify and by the file
    ``/run/<unit>/ready``, and on SIGTERM it ends what it is at and stops.
    """

    #: The templates of its files of a release.
    TEMPLATES: tuple[str, ...]
    #: Its file in ``config/`` without which a release cannot start.
    MAIN: str
    #: Whether it binds a socket by itself where nobody hands it one.
    BINDS: bool
    #: Whether it takes a socket that systemd hands over (sd_listen_fds); one that does not binds its own there too.
    INHERITS: bool
    #: Whether it writes the log of a release by itself, and begins a new file when that is large.
    WRITES_LOG: bool

    def interface(self, site: Site) -> str:
        """What it asks the project for: ``wsgi`` or ``asgi``."""

    def requirements(self, site: Site) -> Requirements:
        """The packages that a virtualenv needs for it."""

    def python(self, site: Site) -> str:
        """The only version of Python in which it runs, such as ``3.11``; empty where any does."""

    def configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Its files of a release: name in ``config/`` → content."""

    def command(self, release: Path, facts: Mapping[str, Any]) -> list[str]:
        """What runs it, for a project of which that was found."""

    def keeps_threads(self, site: Site) -> bool:
        """Whether the threads that answer outlive a request, and with them their connections to databases."""

    def workers(self, run: Foreign) -> str:
        """What its processes do just now, in words; empty where it does not say.

        Args:
            run: the folder in /run of the instance.
        """

    def timeout(self, site: Site) -> int:
        """Seconds that it gives a request."""


#: Every application server, by the name that the pillar has for it.
SERVERS: dict[str, Server] = {
    "uwsgi": django_server_uwsgi,
    "gunicorn": django_server_gunicorn,
    "uvicorn": django_server_uvicorn,
    "granian": django_server_granian,
    "mod_wsgi": django_server_mod_wsgi,
}

#: The process managers that a release may have recorded.
_PROCESSES = ("systemd", "supervisor")
#: What `recorded` finds of an instance.
_RECORDED = {
    **dict.fromkeys(("address", "protocol"), str),
    **dict.fromkeys(("server?", "process?"), str),
    "keepalive?": (bool, int, types.NoneType),
}


def of_site(site: Site) -> Server:
    """The server that new releases of a site have."""
    return SERVERS[site.config["server"]["kind"]]


def recorded(release: Path) -> dict[str, Any] | None:
    """What a release has recorded of its instance (``config/instance.json``); None where it has not, or it is torn."""
    found = django_host_file.read_json(release / "config/instance.json", _RECORDED)
    if not found:
        return None
    is_known = found.get("server", "uwsgi") in SERVERS and found.get("process", "systemd") in _PROCESSES
    return found if is_known and re.fullmatch(r"/.*|.*:\d{1,5}", found["address"]) else None


def of_release(release: Path) -> Server:
    """The server that a release has."""
    of_instance = django_host_file.read_json(release / "config/instance.json", {"server?": str}) or {}
    return SERVERS.get(of_instance.get("server", "uwsgi"), django_server_uwsgi)


def requirements(site: Site, packages: Collection[str] = ()) -> list[str]:
    """What a virtualenv is given for the server of a site, as requirements of pip.

    Args:
        packages: what it has already: what the project itself has brought is taken as it is.
    """
    wanted = of_site(site).requirements(site).items()
    return [one for names, pins in wanted if not {*names} & {*packages} for one in pins]
