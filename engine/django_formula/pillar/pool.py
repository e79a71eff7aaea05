"""A pool of connections (PgBouncer) on the host with the part `database`, and what contradicts it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django_formula.pillar.check import Problem
from django_formula.pillar.fleet import hosts_with

Site = dict[str, Any]  # the configuration of a site
Database = dict[str, Any]

#: PgBouncer's own port.
_PORT = 6432
#: OPTIONS of a database that last as long as a connection, which in a pool is another one for each transaction.
_OF_A_SESSION = ("options", "assume_role", "prepare_threshold")


def complete(site: Site) -> Iterator[Problem]:
    """Give each database with a pool the port of PgBouncer, and leave the options out of the others.

    Args:
        site: its configuration once its databases are on one of its hosts, which is changed.
    """
    pooled: dict[str, str] = {}
    for alias, database in site["databases"].items():
        place = ("database",) if list(site["databases"]) == ["default"] else ("databases", alias)
        if database.get("pool") and site["state"] == "present":
            yield from (((*place, key), text) for key, text in _contradictions(site, database))
            database["pool_port"] = database["pool_port"] or _PORT
            first = pooled.setdefault(database["name"], alias)
            if first != alias:
                yield (*place, "pool"), f"{database['name']} has a pool as the database {first} already: remove one"
        else:
            database.pop("pool", None)
            database.pop("pool_port", None)


def _contradictions(site: Site, database: Database) -> Iterator[tuple[str, str]]:
    """Yield what a database with a pool cannot have."""
    if database["engine"] != "postgres":
        return
    if not hosts_with(site, "database"):
        yield "pool", "PgBouncer is on the host with the part database, and hosts has none: remove pool"
    if database["as"] == "environment":
        yield "as", "commands need a connection past the pool, and a URL is the same for all: set as: settings"
    for name in _OF_A_SESSION:
        if name in database["options"]:
            yield "options", f"{name} is for a whole session, and a pool gives a transaction: remove it, or pool"
    if not database["settings"].get("DISABLE_SERVER_SIDE_CURSORS", True):
        yield "settings", "DISABLE_SERVER_SIDE_CURSORS has to be true with a pool: remove it"
    if "+" in (database["name"] or ""):
        yield "name", "PgBouncer accepts no + in the name of a database: remove pool, or the +"
    if database["name"] == "pgbouncer":
        yield "name", "PgBouncer has its console under that name: choose another one, or remove pool"
    if _is_here(site, database) and site["process"] != "systemd":
        yield "pool", f"PgBouncer runs as a unit of systemd, which {site['fleet']['host']} does not have: remove pool"


def _is_here(site: Site, database: Database) -> bool:
    """Return whether this host has a database for the other hosts of its site."""
    return "served_by" in database and database["served_by"] == site["fleet"]["host"]


def connections(site: Site, direct: int, reserve: int) -> int:
    """Return how many connections a site may open at its database's host.

    Args:
        direct: those of its servers and workers where there is no pool.
        reserve: those of migrations, backups, schedules and people, which go past a pool.
    """
    served = [database for database in site["databases"].values() if "served_by" in database]
    pools = [database["pool"] for database in served if database.get("pool")]
    shared: int = sum(pools)
    return shared + (direct if len(pools) < len(served) else 0) + reserve


def between(sites: dict[str, Site]) -> Iterator[Problem]:
    """Yield pools of one host with different ports: it has one PgBouncer."""
    first: tuple[str, int] | None = None
    for name, site in sites.items():
        for alias, database in site["databases"].items():
            if database.get("pool") and _is_here(site, database):
                first = first or (name, database["pool_port"])
                if database["pool_port"] != first[1]:
                    place = ("database",) if list(site["databases"]) == ["default"] else ("databases", alias)
                    text = f"expected {first[1]}, as for {first[0]}: this host has one PgBouncer for all sites"
                    yield ("django", "sites", name, *place, "pool_port"), text
