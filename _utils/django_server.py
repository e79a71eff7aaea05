"""The application servers: every kind, the one that a site is configured with, and the one that a release has."""

import re
import types
from collections.abc import Collection
from pathlib import Path
from typing import Any

import django_host_file
import django_server_granian
import django_server_gunicorn
import django_server_mod_wsgi
import django_server_uvicorn
import django_server_uwsgi
from django_server_contract import Server
from django_site import Site

#: Every application server, by the name that the pillar has for it.
SERVERS: dict[str, Server] = {
    "uwsgi": django_server_uwsgi.SERVER,
    "gunicorn": django_server_gunicorn.SERVER,
    "uvicorn": django_server_uvicorn.SERVER,
    "granian": django_server_granian.SERVER,
    "mod_wsgi": django_server_mod_wsgi.SERVER,
}

#: The process managers that a release may have recorded.
_PROCESSES = ("systemd", "supervisor")
#: The shape of what `recorded` returns.
_RECORDED = {
    **dict.fromkeys(("address", "protocol"), str),
    **dict.fromkeys(("server?", "process?"), str),
    "keepalive?": (bool, int, types.NoneType),
}


def of_site(site: Site) -> Server:
    """Return the server of a site's new releases."""
    return SERVERS[site.config["server"]["kind"]]


def recorded(release: Path) -> dict[str, Any] | None:
    """Return what ``config/instance.json`` of a release records, or None where it is missing or torn."""
    found = django_host_file.read_json(release / "config/instance.json", _RECORDED)
    if not found:
        return None
    is_known = found.get("server", "uwsgi") in SERVERS and found.get("process", "systemd") in _PROCESSES
    return found if is_known and re.fullmatch(r"/.*|.*:\d{1,5}", found["address"]) else None


def of_release(release: Path) -> Server:
    """Return the server of a release."""
    of_instance = django_host_file.read_json(release / "config/instance.json", {"server?": str}) or {}
    return SERVERS.get(of_instance.get("server", "uwsgi"), django_server_uwsgi.SERVER)


def requirements(site: Site, packages: Collection[str] = ()) -> list[str]:
    """Return what is installed into a virtualenv for the server of a site, as requirements of pip.

    Args:
        packages: names of the packages that the virtualenv has already; the versions that the project requires stay.
    """
    needed = of_site(site).requirements(site).items()
    return [one for names, pins in needed if not {*names} & {*packages} for one in pins]
