"""The database of a site on one of its hosts: what the other hosts are given, and what contradicts that.

The host has the server and the database; the hosts with the part `app` or `worker` use it over TLS. Password and
certificate come from the master's store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django_formula.database.engines import ENGINES, SERVERS, login_pair
from django_formula.kind.kinds import FILES, RELEASED
from django_formula.pillar import pool
from django_formula.pillar.check import Problem
from django_formula.pillar.database import reserved
from django_formula.pillar.fleet import MASTER, UNKNOWN, hosts_with
from django_formula.pillar.parts import Compiled, Part, States, gone
from django_formula.server import servers

Site = dict[str, Any]  # the configuration of a site
Database = dict[str, Any]

#: Hosts whose number of CPUs the master does not know yet count as ones with as many.
_CPUS = 8
#: Connections of a process that serves many requests in one thread; Django opens one for each that queries.
_CONCURRENT = 20
#: Connections for migrations, backups, and people.
_RESERVE = 20


def complete(site: Site) -> Iterator[Problem]:
    """Have a site's databases on its host with the part `database`; without such a host nothing changes.

    Each database gets ``served_by``, the name of that host, and ``certificate``, the only one that is trusted; the
    fleet on that host ``connections``, how many the others may open.

    Args:
        site: its configuration with `fleet`, which is changed.
    """
    names = hosts_with(site, "database")
    if not names or site["state"] != "present":
        return
    problem = _host_problem(site, names)
    if problem:
        yield ("hosts",), problem
        return
    host, problems, others = names[0], [], {}
    for alias, database in site["databases"].items():
        place = ("database",) if list(site["databases"]) == ["default"] else ("databases", alias)
        problems += [((*place, key), text) for key, text in _contradictions(database)]
        if database.get("manage"):
            pair = _logins(site, database)
            others[alias] = pair[1]
            database |= {**_connection(site, alias, database, host), "user": pair[0]}
            database |= {"manage": False, "served_by": host}
    yield from problems
    if not problems and not any("served_by" in database for database in site["databases"].values()):
        yield ("hosts", host), "no database of the site is for it: set database: {engine: postgres}, or remove the part"
    if host == site["fleet"]["host"]:
        site["fleet"]["connections"] = _connections(site)
        site["fleet"]["other_users"] = others


def _host_problem(site: Site, names: list[str]) -> str:
    """Return why the databases cannot be on the host with the part `database`; empty where they can."""
    if len(names) > 1:
        return f"expected one host with the part database, got {', '.join(names)}: the formula does not replicate them"
    if not isinstance((site["fleet"]["given"]["certificates"] or {}).get(names[0]), dict):
        known = f"its address {UNKNOWN}"
        return f"{names[0]} has the part database: {known if site['fleet']['release'] else f'set {MASTER}'}"
    unknown = [name for name in hosts_with(site, *RELEASED) if not site["fleet"]["hosts"][name]["address"]]
    if unknown:
        return f"the address of {unknown[0]} {UNKNOWN}"
    return ""


def _contradictions(database: Database) -> Iterator[tuple[str, str]]:
    """Yield what a database cannot have next to a host with the part `database`."""
    if database["engine"] not in SERVERS:
        return
    if database["host"]:
        yield "host", "a host of the site has the part database: remove host, or the part"
    elif database["password"]:
        yield "password", "the master's store generates it for the part database: remove it"
    if database.get("manage"):
        yield from reserved(database)


def _connection(site: Site, alias: str, database: Database, host: str) -> Database:
    """Return how the hosts of a site reach a database on one of them."""
    file = f"{site['root']}/secrets/certificate.{alias}"
    # verify-ca trusts this certificate alone, whatever name it has; libpq before 15 finds no address in it.
    tls = {"sslmode": "verify-ca", "sslrootcert": file} if database["engine"] == "postgres" else {"ssl": {"ca": file}}
    return {
        "host": site["fleet"]["hosts"][host]["address"],
        "password": {"pillar": f"django:sites:{site['name']}:fleet:passwords:database"},
        "options": {**tls, **database["options"]},
        "certificate": site["fleet"]["given"]["certificates"][host],
    }


def _logins(site: Site, database: Database) -> tuple[str, str]:
    """Return the login that a database's password belongs to, and the other one of its pair: PostgreSQL has two."""
    first, second = login_pair(database["user"])
    is_second = database["engine"] == "postgres" and site["fleet"]["given"]["login"] == 2
    return (second, first) if is_second else (first, second)


def _connections(site: Site) -> int:
    """Return how many connections the hosts of a site may open: twice what they use, since two releases overlap.

    Where PgBouncer is in between, those of its pool instead.
    """
    server, kind = site["server"], servers.traits(site["server"])
    apps = hosts_with(site, "app")
    workers = sum((worker.get("processes") or 1) + 1 for worker in site.get("workers", {}).values())
    total = workers * len(hosts_with(site, "worker") or apps)
    for name in apps:
        cpus = (site["fleet"]["given"]["cpus"] or {}).get(name) or _CPUS
        processes = max(2, cpus) if server["processes"] == "auto" else server["processes"]
        total += processes * (_CONCURRENT if kind.concurrency else server["threads"])
    return pool.connections(site, 2 * total, _RESERVE)


def serves(site: Site) -> list[str]:
    """Return the engines of the databases that this host has for the hosts of a site."""
    host = site.get("fleet", {}).get("host")
    databases = site["databases"].values()
    return sorted({database["engine"] for database in databases if database.get("served_by", "") == host})


def _states(django: Compiled) -> States:
    """Return the states of a host that has the databases; `django.postgres` and `django.mysql` install the servers.

    A host that has lost the part keeps the data, and lets no host in.
    """
    served = {name: site for name, site in django["served"].items() if "connections" in site["fleet"]}
    databases = [(site["fleet"]["host"], one) for site in served.values() for one in site["databases"].values()]
    has_pools = any("pool" in database and database["served_by"] == host for host, database in databases)
    states: States = {}
    if has_pools:
        packages = {"pkgs": django["platform"]["packages"]["pgbouncer"]}
        states["PgBouncer is installed"] = {"django.quiet_packages": [packages, {"service": "pgbouncer"}]}
        user = {
            "name": "_django-pool",
            "fullname": "Shares connections of PostgreSQL among hosts of Django sites",
            **{"system": True, "createhome": False, "home": "/nonexistent", "shell": django["platform"]["shell"]},
        }
        states["The user of PgBouncer exists"] = {"user.present": [{key: value} for key, value in user.items()]}
    required = [{"django": "PgBouncer is installed"}, {"user": "The user of PgBouncer exists"}] if has_pools else []
    required += [{"django": f"{ENGINES[engine].title} runs"} for engine in django["servers"]]
    given = {"sites": json.dumps(served), "gone": gone(django, served), "platform": django["platform"]}
    given["templates"] = [f"{FILES}{name}" for name in ("pgbouncer.ini", "pgbouncer.service")]
    arguments: list[dict[str, Any]] = [{key: value} for key, value in given.items()]
    arguments += [{"require": required}] if served and django["servers"] else []
    return {**states, "The databases of the sites are served": {"django.databases": arguments}}


def _is_due(django: Compiled) -> bool:
    return any("fleet" in site for site in [*django["sites"].values(), *django["absent"].values()])


PART = Part(
    "database",
    _states,
    _is_due,
    before="supervisor",
    has_server=True,
    phase="databases",
    verb="serves",
    what="database",
)
