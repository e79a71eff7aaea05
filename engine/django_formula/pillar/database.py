"""Databases of a site: what contradicts itself about them, the host that has them for the others, and their pools."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django_formula.database.engines import ENGINES, POSTGRES, SERVERS, login_pair
from django_formula.kind.kinds import FILES, RELEASED
from django_formula.pillar.check import Path, Problem
from django_formula.pillar.fleet import MASTER, UNKNOWN, hosts_with
from django_formula.pillar.layers import is_over_socket
from django_formula.pillar.parts import Compiled, Part, States, gone
from django_formula.server import servers

Site = dict[str, Any]  # the configuration of a site
Database = dict[str, Any]

LOCAL = ("localhost", "127.0.0.1", "::1")  # hosts of a server on this host
RESERVED_DATABASES = ("postgres", "template0", "template1", "mysql", "sys", "information_schema", "performance_schema")
RESERVED_LOGINS = ("postgres", "root", "mysql", "mariadb.sys", "public", "none")
LONGEST_NAME = 63  # characters of a name on PostgreSQL
ARGUMENT = 128 * 1024  # bytes of one NAME=value, with its closing NUL, that Linux accepts when a process starts


def databases(site: Site, own: Site) -> Iterator[Problem]:
    """Yield what contradicts itself in one database."""
    for alias, database in site["databases"].items():
        place = ("databases", alias) if "databases" in own or alias != "default" else ("database",)
        in_url = alias == "default" and {"from": "database_url", "join": ","} in site["environment"].values()
        for key, text in _contradictions(database, in_url or database["as"] == "environment"):
            yield (*place, key), text
        for key, text in _managed(database, site["user"]) if database["manage"] else ():
            yield (*place, key), text


def _contradictions(database: Database, in_url: bool) -> Iterator[tuple[str, str]]:
    """Yield contradictions by key; ``in_url`` is whether the project gets the database as a URL."""
    engine = database["engine"]
    if not engine:
        return
    if engine in SERVERS and not database["name"]:
        yield "name", "missing: expected the name of the database on its server"
    elif engine in SERVERS and database["name"].startswith("/"):
        yield "name", "expected the name of the database on its server, got a path"
    others = [name for name in database.get("extensions", []) if name != "postgis"]
    if engine == "postgres" and others and not database["manage"] and "served_by" not in database:
        text = f"a superuser of that server creates {', '.join(others)}: remove it here, only postgis has an effect"
        yield "extensions", text
    for name, value in database["options"].items() if in_url else ():
        if engine == "sqlite" or not isinstance(value, str | int | float):
            yield "options", f"a URL cannot hold {name}: set as: settings instead"


def _managed(database: Database, user: str) -> Iterator[tuple[str, str]]:
    """Yield what the formula cannot set up on a server of this host; ``user`` is the site's."""
    if database["engine"] not in SERVERS:
        return
    if not is_over_socket(database) and database["host"] not in LOCAL:
        yield "manage", f"expected a server on this host, got {database['host']}: remove manage, or host"
    yield from reserved(database)
    has_login = database["engine"] == "postgres" or database["password"] or not is_over_socket(database)
    if database["user"] != user and not has_login:
        text = f"over its unix socket MariaDB identifies a login by the site's user, {user}: remove it, or set password"
        yield "user", text


def reserved(database: Database) -> Iterator[tuple[str, str]]:
    """Yield names that a server has for itself, or that are too long for it."""
    for key, names in (("name", RESERVED_DATABASES), ("user", RESERVED_LOGINS)):
        name = database[key] or ""
        if name.lower() in names or name.startswith("pg_"):
            yield key, f"{name} is reserved by the server: choose another name"
        elif len(name) > LONGEST_NAME:
            yield key, f"expected at most {LONGEST_NAME} characters, got {len(name)}"


def logins(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield databases on a server of this host that share a login, whose password would be generated for each."""
    owners: dict[tuple[Any, ...], str] = {}
    entries = site["databases"]
    for alias, database in entries.items():
        if database["manage"] and database["password"]:
            first = owners.setdefault((*_server(database), database["user"]), alias)
            if first != alias and "generate" in {*database["password"], *entries[first]["password"]}:
                text = f"{database['user']} is the login of {first} too, and a login has one password: "
                yield ("databases", alias, "user"), f"{text}set another user, or the same password for both"


def _server(database: Database) -> tuple[Any, ...]:
    """Return what identifies a server of this host; MariaDB has one."""
    return database["engine"], database["engine"] == "postgres" and (database["port"] or POSTGRES.port)


def between(sites: dict[str, Site]) -> Iterator[Problem]:
    """Yield databases and logins of this host's servers that several sites have."""
    owners: dict[tuple[Any, ...], str] = {}
    for name, site in sites.items():
        for alias, database in site["databases"].items():
            for key in ("name", "user") if database["manage"] else ():
                owner = owners.setdefault((*_server(database), key, database[key]), name)
                if owner != name:
                    place = ("database",) if list(site["databases"]) == ["default"] else ("databases", alias)
                    what = "the database" if key == "name" else "the login"
                    text = f"{database[key]} is {what} of site {owner} on this host's server: choose another name"
                    yield ("django", "sites", name, *place, key), text


def dropped(sites: dict[str, Site]) -> Iterator[Problem]:
    """Yield sites that are removed with their data, and have a database or login on this host's servers of another."""
    gone = {name: site for name, site in sites.items() if site["state"] == "absent" and site["remove_data"]}
    for name, site in gone.items():
        for key, what in (("name", "database"), ("user", "login")):
            own = {(*_server(one), one[key]) for one in site["databases"].values() if one["manage"]}
            for other, kept in sites.items():
                managed = (one for one in kept["databases"].values() if one["manage"] and kept["state"] == "present")
                for value in sorted({one[key] for one in managed if (*_server(one), one[key]) in own}):
                    text = f"would drop the {what} {value}, which the site {other} has: remove it"
                    yield ("django", "sites", name, "remove_data"), text


# Points in time

#: Those of their options that are secrets, which the pillar may have as references.
_SECRETS = ("password", "secret")


def points_within(site: Site, own: Site) -> Iterator[Problem]:
    """Yield points in time that a site cannot have; those of the kinds of databases are in the schema."""
    points = site["backup"].get("points")
    if not points:
        return
    database = site["databases"].get("default") or {}
    is_said = "databases" not in own and database.get("engine") in ("sqlite", "mysql")
    if not is_said and not (database.get("engine") == "postgres" and database["manage"]):
        text = "needs the database default on a PostgreSQL server that the formula sets up on this host: set database: "
        yield ("backup", "points"), f"{text}{{engine: postgres}}, or remove it: a server elsewhere is archived there"
    if points["kind"] == "folder" and f"{points['path']}/".startswith(f"{site['root']}/"):
        yield ("backup", "points", "path"), "expected a folder outside of the site, on another disk or host"
    if (points["endpoint"] or "").startswith("http:"):
        yield ("backup", "points", "endpoint"), "expected https://, which is all that pgbackrest speaks"


def points_between(sites: dict[str, Site]) -> Iterator[Problem]:
    """Yield a site whose points in time have another store than those of another one: the server is one."""
    given = {name: site["backup"]["points"] for name, site in sites.items() if "points" in site["backup"]}
    plain = {name: {key: one for key, one in own.items() if key not in _SECRETS} for name, own in given.items()}
    first = next(iter(plain), "")
    for name in plain:
        if plain[name] != plain[first]:
            text = f"differs from that of site {first}, which is on the same server: they have one archive"
            yield ("django", "sites", name, "backup", "points"), text


def points(sites: dict[str, Site]) -> dict[str, Any] | None:
    """Return the archive of the PostgreSQL servers of this host, and the address of each; None where no site asks."""
    asking = [site for site in sites.values() if "points" in site["backup"]]
    if not asking:
        return None
    databases = [database for site in asking for database in site["databases"].values()]
    managed = (database for database in databases if database["engine"] == "postgres" and database["manage"])
    own = {POSTGRES.address(database) for database in managed}
    servers = [{"socket": socket, "port": port} for socket, port in sorted(own)]
    return {"points": asking[0]["backup"]["points"], "servers": servers}


# Environment variables


def environment(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield variables that take a value which does not exist."""
    database = site["databases"].get("default", {})
    for name, value in site["environment"].items():
        if not isinstance(value, dict):
            continue
        source = value.get("from", "")
        key = source.removeprefix("database_") if source.startswith("database_") else ""
        if key and not database.get("engine"):
            yield ("environment", name), f"{source} is not known: set database:engine"
        elif key and not _has(database, key):
            yield ("environment", name), f"{source} is not known: the database has no {key}"


def _has(database: Database, key: str) -> bool:
    """Return whether a database has the value that `environment` takes from it."""
    if key == "path":
        return bool(database["engine"] == "sqlite")
    if key == "port":
        return database["engine"] in SERVERS
    return key in ("url", "name") or bool(database[key])


def variables(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield variables that two options set."""
    setters = {**dict.fromkeys(site["environment"], "environment"), **_database_variables(site)}
    first: dict[str, str] = {}
    for alias, database in site["databases"].items():
        variable = database["variable"] if database["as"] == "environment" else None
        if variable and first.setdefault(variable, alias) != alias:
            text = f"the database {first[variable]} sets {variable} already: set another one"
            yield ("databases", alias, "variable"), text
    for name, value in site["environment"].items():
        is_url = isinstance(value, dict) and value.get("from") == "database_url"
        if setters[name] != "environment" and not (is_url and setters[name] == "the database default"):
            yield ("environment", name), f"{setters[name]} sets {name} already: remove one of them"
    for name, entry in site["secrets"].items():
        variable = entry["variable"]
        if variable in setters:
            yield ("secrets", name), f"{setters[variable]} sets {variable} already: remove one of them"
        setters[variable] = "secrets"


def _database_variables(site: Site) -> dict[str, str]:
    """Return the variables that hold databases as a URL, each with what sets it."""
    entries = site["databases"].items()
    return {entry["variable"]: f"the database {alias}" for alias, entry in entries if entry["as"] == "environment"}


def oversized(layer: dict[str, Any], path: Path) -> Iterator[Problem]:
    """Yield variables that are too large for a process to start with."""
    for key in ("environment", "secrets"):
        for name, value in (layer.get(key) or {}).items():
            text = value.get("value") if isinstance(value, dict) else value
            size = len(f"{name}={text}".encode("utf-8", "surrogatepass")) + 1
            if size > ARGUMENT:
                yield (*path, key, name), f"expected at most {ARGUMENT} bytes with its name, got {size}"


# A pool of connections (PgBouncer) on the host with the part `database`

#: PgBouncer's own port.
_PORT = 6432
#: OPTIONS of a database that last as long as a connection, which in a pool is another one for each transaction.
_OF_A_SESSION = ("options", "assume_role", "prepare_threshold")


def complete_pool(site: Site) -> Iterator[Problem]:
    """Give each database with a pool the port of PgBouncer, and leave the options out of the others.

    Args:
        site: its configuration once its databases are on one of its hosts, which is changed.
    """
    pooled: dict[str, str] = {}
    for alias, database in site["databases"].items():
        place = ("database",) if list(site["databases"]) == ["default"] else ("databases", alias)
        if database.get("pool") and site["state"] == "present":
            yield from (((*place, key), text) for key, text in _pool_contradictions(site, database))
            database["pool_port"] = database["pool_port"] or _PORT
            first = pooled.setdefault(database["name"], alias)
            if first != alias:
                yield (*place, "pool"), f"{database['name']} has a pool as the database {first} already: remove one"
        else:
            database.pop("pool", None)
            database.pop("pool_port", None)


def _pool_contradictions(site: Site, database: Database) -> Iterator[tuple[str, str]]:
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


def _pool_connections(site: Site, direct: int, reserve: int) -> int:
    """Return how many connections a site may open at its database's host.

    Args:
        direct: those of its servers and workers where there is no pool.
        reserve: those of migrations, backups, schedules and people, which go past a pool.
    """
    served = [database for database in site["databases"].values() if "served_by" in database]
    pools = [database["pool"] for database in served if database.get("pool")]
    shared: int = sum(pools)
    return shared + (direct if len(pools) < len(served) else 0) + reserve


def pools_between(sites: dict[str, Site]) -> Iterator[Problem]:
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


# The host with the part `database`
#
# The host has the server and the database; the hosts with the part `app` or `worker` use it over TLS. Password and
# certificate come from the master's store.

#: Hosts whose number of CPUs the master does not know yet count as ones with as many.
_CPUS = 8
#: Connections of a process that serves many requests in one thread; Django opens one for each that queries.
_CONCURRENT = 20
#: Connections for migrations, backups, and people.
_RESERVE = 20


def complete_on_host(site: Site) -> Iterator[Problem]:
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
        problems += [((*place, key), text) for key, text in _host_contradictions(database)]
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


def _host_contradictions(database: Database) -> Iterator[tuple[str, str]]:
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
    return _pool_connections(site, 2 * total, _RESERVE)


def engines_served(site: Site) -> list[str]:
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
