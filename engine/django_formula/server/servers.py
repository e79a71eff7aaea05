"""The application servers: every kind, the one that a site is configured with, and the one that a release has."""

import importlib
from collections.abc import Collection
from pathlib import Path

from django_formula.host import file
from django_formula.kind import kinds
from django_formula.server.contract import Server
from django_formula.site.sites import Site

#: Every application server, by its name in the pillar.
SERVERS: kinds.Members[Server] = kinds.Members(
    kinds.SERVERS, lambda kind: importlib.import_module(f"django_formula.server.{kind}").SERVER
)


def of_site(site: Site) -> Server:
    """Return the server of a site's new releases."""
    return SERVERS[site.config["server"]["kind"]]


def of_release(release: Path) -> Server:
    """Return the server of a release."""
    of_instance = file.read_json(release / "config/instance.json", {"server?": str}) or {}
    return SERVERS.get(of_instance.get("server", "uwsgi")) or SERVERS["uwsgi"]


def requirements(site: Site, packages: Collection[str] = ()) -> list[str]:
    """Return what is installed into a virtualenv for the server of a site, as requirements of pip.

    Args:
        packages: names of the packages that the virtualenv has already; the versions that the project requires stay.
    """
    needed = of_site(site).requirements(site).items()
    return [one for names, pins in needed if not {*names} & {*packages} for one in pins]
