"""The databases that this host has for the other hosts of sites: servers, logins of exactly those hosts, certificates.

What is served is recorded, so that a site which has its database elsewhere now can be closed: its data and its login
stay, but no other host can log in any more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django_formula.database import databases as database_databases
from django_formula.database import pool
from django_formula.database import server as database_server
from django_formula.database.server import Change, DatabaseServer, ManagedDatabase, Network
from django_formula.database.setup import SERVERS
from django_formula.host import file, folders
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.host.outcome import Outcome
from django_formula.kind.kinds import RELEASED
from django_formula.site.sites import Site

#: The databases by site, as far as they are needed to close them.
RECORD = database_server.STATE / "served.json"
_END = "-----END CERTIFICATE-----\n"
_SHAPE = {str: [{"engine": str, "database": str, "user": str, "port": int, "clients": [str]}]}

Changes = dict[str, dict[str, str]]  # as a Salt state reports them, by engine

#: What is done around the restart of a server, by the name of its engine.
Around = Callable[[str], contextlib.AbstractContextManager[object]]


class Served(NamedTuple):
    """A site whose databases this host has.

    Attributes:
        verifiers: what servers keep of the password, by engine.
        certificate: of this host, in PEM.
        key: of the certificate, in PEM.
        kept: pools that the pillar has no longer and hosts still use: connections by the database's name.
    """

    site: Site
    verifiers: Mapping[str, str]
    certificate: str
    key: str
    kept: Mapping[str, int] = {}


def engines(site: Site) -> list[str]:
    """Return the engines of the databases that this host has for the hosts of a site."""
    return sorted({database["engine"] for _alias, database in _own(site)})


def _own(site: Site) -> Iterator[tuple[str, dict[str, Any]]]:
    host = site.config["fleet"]["host"]
    for alias, database in site.config["databases"].items():
        if database.get("served_by") == host:
            yield alias, database


def serve(
    served: Sequence[Served],
    gone: Collection[str],
    templates: Mapping[str, str],
    around: Around = contextlib.nullcontext,
    *,
    test: bool,
) -> Changes:
    """Have servers of this host serve the databases of sites to their hosts, and no longer those of others.

    Args:
        gone: sites of the pillar whose databases this host does not have.
        templates: those of PgBouncer, texts by their URLs.
        around: within which a server is restarted.
        test: change nothing.

    Returns:
        The changes.

    Raises:
        DeploymentError: a server refuses one, or has something of that name that is not the site's.
    """
    found: Changes = {}
    kept = pool.kept([one.site.name for one in served], _pooled(served))
    served = [one._replace(kept=kept) for one in served]
    before = file.read_json(RECORD, _SHAPE) or {}
    entries = {one.site.name: [_entry(place) for place in _places(one)] for one in served}
    record = {name: places for name, places in before.items() if name not in {*gone, *entries}} | entries
    for name in sorted({*before} & {*gone, *entries}):
        servers = [_server(name, entry) for entry in entries.get(name, ())]
        left = [{**entry, "clients": []} for entry in before[name] if _server(name, entry) not in servers]
        later = [entry for entry in left if _is_down(name, entry)]  # until an apply that can ask it
        _merge(found, _close(name, [entry for entry in left if entry not in later], test))
        if later:
            record[name] = [*record.get(name, ()), *later]
    for engine, port in sorted({(database.engine, database.port or 0) for one in served for database in _places(one)}):
        _merge(found, _serve(engine, port or None, served, around, test))
    _merge(found, _serve_pools(served, templates, test))
    if not test and (record or RECORD.exists()) and record != before:
        for folder in (database_server.STATE.parent, database_server.STATE):
            folders.make(Folder(folder, "root", "root", 0o755))
        file.write_json(RECORD, record, mode=0o600)
    return found


def _pooled(served: Sequence[Served]) -> dict[str, int]:
    """Return the ports of PgBouncer by the names of the databases that have a pool in the pillar."""
    own = [database for one in served for _alias, database in _own(one.site)]
    return {database["name"]: database["pool_port"] for database in own if database.get("pool")}


def has_pools(served: Sequence[Served]) -> bool:
    """Return whether PgBouncer is needed, or runs with pools."""
    return bool(_pooled(served) or pool.port())


def _serve_pools(served: Sequence[Served], templates: Mapping[str, str], test: bool) -> Changes:
    """Have PgBouncer serve the databases with a pool."""
    wanted = _pooled(served)
    sites = [one for one in served if any(place.managed.pool for place in _places(one))]
    databases = [place.managed for one in sites for place in _places(one) if place.managed.pool]
    place = None
    if sites:
        ports = [*wanted.values(), pool.port()]
        place = pool.Place(_network(sites), ports[0], templates)
    changes = pool.changes(databases, wanted, place)
    if changes and not test:
        pool.apply(databases, wanted, place)
    elif not test:
        pool.note(databases, wanted, place)
    return {"pgbouncer": changes} if changes else {}


class _Place(NamedTuple):
    """A database of a site: the engine of its server, and the database there."""

    engine: str
    managed: ManagedDatabase

    @property
    def port(self) -> int | None:
        return self.managed.port


def _places(one: Served) -> list[_Place]:
    return [_Place(database["engine"], _managed(one, alias, database)) for alias, database in _own(one.site)]


def _managed(one: Served, alias: str, database: Mapping[str, Any]) -> ManagedDatabase:
    site = one.site
    verifier, _comma, former = one.verifiers[database["engine"]].partition(",")
    return ManagedDatabase(
        site.name,
        site.user,
        alias,
        database_databases.pillar_key(site, alias),
        database["name"],
        database["user"],
        over_socket=False,
        port=database["port"],
        has_active_release=site.current.is_symlink(),
        extensions=tuple(database.get("extensions", ())),
        other_user=site.config["fleet"]["other_users"][alias],
        verifier=verifier,
        former=former,
        clients=_clients(site),
        pool=database.get("pool") or one.kept.get(database["name"], 0),
    )


def _clients(site: Site) -> tuple[str, ...]:
    """Return the addresses of the hosts that use the site's databases."""
    hosts = site.config["fleet"]["hosts"].values()
    return tuple(sorted({host["address"] for host in hosts if {*RELEASED} & {*host["parts"]}}))


def _entry(place: _Place) -> dict[str, Any]:
    managed = place.managed
    where = {"engine": place.engine, "port": managed.port or 0, "clients": [*managed.clients]}
    return {**where, "database": managed.database, "user": managed.user}


def _server(name: str, entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what tells the server of an entry from others of this host."""
    return entry["engine"], *SERVERS[entry["engine"]].address(_recorded(name, entry))


def _is_down(name: str, entry: Mapping[str, Any]) -> bool:
    """Return whether a server is installed and does not answer where a site had its database."""
    server = SERVERS[entry["engine"]]
    if not server.is_installed():
        return False
    try:
        server.query(_recorded(name, entry))
    except DeploymentError:
        return True
    return not server.is_running()


def _serve(engine: str, port: int | None, served: Sequence[Served], around: Around, test: bool) -> Changes:
    """Set one server up for all sites that have databases on it."""
    server, found = SERVERS[engine], []
    here = {one.site.name: [place.managed for place in _places(one) if place[:1] == (engine,)] for one in served}
    here = {name: [one for one in databases if one.port == port] for name, databases in here.items()}
    sites = [one for one in served if here[one.site.name]]
    if test and not (server.is_installed() and server.is_running()):
        return {engine: {one.site.name: "new" for one in sites}}
    first = here[sites[0].site.name][0]
    changes = server.network_changes(_network(sites), server.query(first))
    if changes and not test:
        with around(engine) if any(change.restarts for change in changes) else contextlib.nullcontext():
            server.apply_network(first, changes)
    found += changes
    for databases in filter(None, here.values()):
        changes = server.pending_changes(databases, server.query(databases[0]))
        found += changes
        if changes and not test:
            _apply(server, databases, changes)
    return _as_changes(engine, found)


def _network(sites: Sequence[Served]) -> Network:
    first = sites[0]
    fleet = first.site.config["fleet"]
    connections = sum(one.site.config["fleet"]["connections"] for one in sites)
    own, end, _former = first.certificate.partition(_END)  # clients trust a former one too for a while
    return Network(fleet["hosts"][fleet["host"]]["address"], own + end, first.key, connections)


def _apply(server: DatabaseServer, databases: Sequence[ManagedDatabase], changes: Sequence[Change]) -> None:
    server.apply(databases[0], changes)
    if any(change.files for change in changes):  # of addresses that may log in
        for database in databases:
            server.end_others(database)


def _close(name: str, entries: Sequence[Mapping[str, Any]], test: bool) -> Changes:
    """Have no other host log in as a site any more; its databases and logins stay."""
    found: Changes = {}
    for entry in entries:
        server, managed = SERVERS[entry["engine"]], _recorded(name, entry)
        if server.is_installed():
            changes = server.closing_changes(managed, server.query(managed))
            if changes and not test:
                _apply(server, [managed], changes)
            closed = {f"database {entry['database']}": "closed to other hosts; data and login stay"}
            _merge(
                found, {entry["engine"]: {**_as_changes(entry["engine"], changes).get(entry["engine"], {}), **closed}}
            )
    return found


def _recorded(name: str, entry: Mapping[str, Any]) -> ManagedDatabase:
    key, port = f"django:sites:{name}:database", entry["port"] or None
    return ManagedDatabase(name, "", "default", key, entry["database"], entry["user"], over_socket=False, port=port)


def clients(name: str) -> list[str]:
    """Return the addresses of the hosts that may log in to the databases of a site, once their servers have answered.

    Raises:
        DeploymentError: a server does not answer, or this host has no database of the site.
    """
    places = (file.read_json(RECORD, _SHAPE) or {}).get(name, ())
    entries = [entry for entry in places if entry["clients"]]
    if not entries:
        raise DeploymentError(f"this host has no database of {name} yet", hint="apply on it: state.apply django")
    for entry in entries:
        SERVERS[entry["engine"]].query(_recorded(name, entry))
    return list(entries[0]["clients"])


def _as_changes(engine: str, changes: Sequence[Change]) -> Changes:
    return {engine: {change.item: change.action for change in changes}} if changes else {}


def _merge(into: Changes, changes: Changes) -> None:
    for engine, items in changes.items():
        into.setdefault(engine, {}).update(items)


def outcome(
    served: Sequence[Served], gone: Collection[str], templates: Mapping[str, str], around: Around, *, test: bool
) -> Outcome:
    """Have the servers of this host serve sites to their hosts, as `serve` does; return what is said of it.

    Raises:
        DeploymentError: as `serve`.
    """
    changes = serve(served, gone, templates, around, test=test)
    comment = "the databases for other hosts are unchanged" if served else "this host has no databases for other hosts"
    if changes:
        comment = f"the databases for other hosts {'would be' if test else 'have been'} set up"
    if left := pool.leftover():
        comment += f"; hosts still use the pool of {', '.join(left)}: it ends with an apply here that finds none"
    return Outcome(comment, changes)
