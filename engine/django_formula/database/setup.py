"""Set up what sites have on the database servers of this host: databases, logins, passwords.

Why a former password stays valid until after the switch: docs/decisions/0034.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django_formula.database import databases as database_databases
from django_formula.database import postgres
from django_formula.database import server as database_server
from django_formula.database.databases import login, secret_name
from django_formula.database.engines import ENGINES, login_pair
from django_formula.database.mariadb import MariaDBServer
from django_formula.database.postgres import PostgreSQLServer
from django_formula.database.server import Change, DatabaseServer, ManagedDatabase
from django_formula.host.commands import DeploymentError
from django_formula.secret import secrets as secret_secrets
from django_formula.site import sites
from django_formula.site.sites import Site

#: The kinds of servers that the formula sets up, by the engine's name in the pillar.
SERVERS: dict[str, DatabaseServer] = {server.engine.name: server for server in (PostgreSQLServer(), MariaDBServer())}

#: The databases of a site, or the changes for them, by engine.
Databases = Mapping[str, Sequence[ManagedDatabase]]
Changes = dict[str, list[Change]]
#: The states of servers that have been queried in this apply.
States = dict[Any, dict[str, Any]]


def is_installed(engine: str) -> bool:
    """Return whether a server of that kind is on this host, installed by the formula or not."""
    return SERVERS[engine].is_installed()


def exists(site: Site, alias: str) -> bool:
    """Return whether a site's database is on its server of this host.

    Raises:
        DeploymentError: the server does not answer.
    """
    database = site.config["databases"][alias]
    server, managed = SERVERS[database["engine"]], _managed(site, alias)
    if not server.is_installed():
        return False
    return not server.is_running() or managed.database in server.query(managed)["databases"]


def databases(
    site: Site, secrets: Mapping[str, str], inputs: Mapping[str, str] | None
) -> dict[str, list[ManagedDatabase]]:
    """Return the databases of a site on servers that the formula sets up, by engine.

    Args:
        secrets: values by their names; they include the databases' passwords.
        inputs: recorded inputs of the active release; None where there is none.
    """
    active = _active_secrets(site, secrets, inputs) if inputs else set()
    found: dict[str, list[ManagedDatabase]] = {}
    for alias, database in site.config["databases"].items():
        if database.get("manage"):
            managed = _managed(site, alias)
            managed = managed._replace(
                password=secrets.get(secret_name(alias)),
                has_active_release=inputs is not None,
                is_password_active=secret_name(alias) in active,
            )
            found.setdefault(database["engine"], []).append(managed)
    return found


def _active_secrets(site: Site, secrets: Mapping[str, str], inputs: Mapping[str, str]) -> set[str]:
    """Return the names of the secrets whose values are the ones that the active release was made with."""
    key = secret_secrets.record_key(site)
    hashes = {name: secret_secrets.keyed_hash(key, value) for name, value in secrets.items()}
    return {name for name, value in hashes.items() if inputs.get(f"secrets:{name}") == value}


def _managed(site: Site, alias: str) -> ManagedDatabase:
    database = site.config["databases"][alias]
    host = database["host"] or ""
    user = login(site, alias)
    (other_user,) = {*login_pair(database["user"])} - {user}
    return ManagedDatabase(
        site.name,
        site.user,
        alias,
        database_databases.pillar_key(site, alias),
        database["name"],
        user,
        other_user,
        over_socket=not host or host.startswith("/"),
        socket=host if host.startswith("/") and host not in ENGINES[database["engine"]].default_sockets else "",
        port=database["port"],
        extensions=tuple(database.get("extensions", ())),
    )


def prepare_copy(site: Site, alias: str, name: str, port: int | str | None = None) -> bool:
    """Create the extensions of a database in another one on its server, into which a backup is loaded.

    Args:
        port: of another server on this host, which has that one.

    Returns:
        Whether the superuser has created some there.

    Raises:
        DeploymentError: the server refuses it.
    """
    database = site.config["databases"].get(alias, {})
    if not (database.get("manage") and database.get("extensions")):
        return False
    managed = _managed(site, alias)
    postgres.prepare_copy(managed._replace(port=int(port)) if port else managed, name)
    return True


def logins(databases: Databases, states: States, *, test: bool = False) -> dict[str, str]:
    """Return the login of each database by its alias: a new password may come with the other login of the pair.

    Args:
        databases, states, test: as for `pending_changes`.

    Raises:
        DeploymentError: a server does not answer, or another database of the site uses that other login.
    """
    found: dict[str, str] = {}
    for server, on_server, state in _queried(databases, states, test):
        users = {database.user for database in on_server}
        for database in on_server:
            user = server.login(database, state) if database.password else database.user
            if user != database.user and user in users:
                raise database_server.login_in_use(database)
            found[database.alias] = user
    return found


def pending_changes(databases: Databases, states: States, *, test: bool = False) -> Changes:
    """Return the changes after which the servers of this host have everything that a site requires, by engine.

    Args:
        states: states that were queried before; new ones are added.
        test: treat a server that does not run yet as an empty one.

    Raises:
        DeploymentError: a server does not answer, or a name is taken by a database or login that is not the site's.
    """
    found: Changes = {}
    for server, on_server, state in _queried(databases, states, test):
        found.setdefault(server.engine.name, []).extend(server.pending_changes(on_server, state))
    return {engine: changes for engine, changes in found.items() if changes}


def _queried(
    databases: Databases, states: States, test: bool
) -> Iterator[tuple[DatabaseServer, Sequence[ManagedDatabase], Mapping[str, Any]]]:
    """Yield each server with the site's databases on it and its state, which is queried once."""
    for engine, of_engine in databases.items():
        server = SERVERS[engine]
        for address, on_server in _by_server(server, of_engine).items():
            if test and not (server.is_installed() and server.is_running()):
                yield server, on_server, server.empty_state()
                continue
            if address not in states:
                states[address] = server.query(on_server[0])
            yield server, on_server, states[address]


def apply(databases: Databases, states: States) -> Changes:
    """Make the pending changes; returns them.

    Raises:
        DeploymentError: a server refuses one.
    """
    found: Changes = {}
    for engine, of_engine in databases.items():
        server = SERVERS[engine]
        for address, on_server in _by_server(server, of_engine).items():
            changes = server.pending_changes(on_server, states.get(address) or server.query(on_server[0]))
            states.pop(address, None)
            if changes:
                server.apply(on_server[0], changes)
                found.setdefault(engine, []).extend(changes)
    return found


def as_state_changes(changes: Changes) -> dict[str, dict[str, str]]:
    """Return changes as a Salt state reports them."""
    return {engine: {change.item: change.action for change in found} for engine, found in changes.items()}


def has_new_password(site: Site, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Return whether two releases' records differ in a password for a server of this host."""
    names = [
        f"secrets:{secret_name(alias)}"
        for alias, database in site.config["databases"].items()
        if database.get("manage")
    ]
    before, now = (record.get("inputs", {}) for record in (old, new))
    return any(name in before and before[name] != now.get(name) for name in names)


def _by_server(server: DatabaseServer, databases: Sequence[ManagedDatabase]) -> dict[Any, list[ManagedDatabase]]:
    found: dict[Any, list[ManagedDatabase]] = {}
    for database in databases:
        found.setdefault((server.engine.name, *server.address(database)), []).append(database)
    return found


def removals(site: Site) -> Changes:
    """Return the changes that drop everything the formula has made for a site, by engine.

    Raises:
        DeploymentError: a server does not answer, or another site uses something of it.
    """
    found: Changes = {}
    for server, _database, changes in _droppable(site):
        found.setdefault(server.engine.name, []).extend(changes)
    return {engine: changes for engine, changes in found.items() if changes}


def drop(site: Site) -> None:
    """Drop everything that the formula has made for a site on the servers of this host.

    Raises:
        DeploymentError: a server refuses it, or as for `removals`.
    """
    for server, database, changes in _droppable(site):
        server.apply(database, changes)


def _droppable(site: Site) -> Iterator[tuple[DatabaseServer, ManagedDatabase, list[Change]]]:
    """Yield each server that the site is on, with one of the site's databases there, and what is dropped of it."""
    for server, database in _installed_servers(site):
        changes = server.removals(database, server.query(database))
        _refuse_used(site, server, database, [change.item for change in changes])
        yield server, database, changes


def _refuse_used(site: Site, server: DatabaseServer, database: ManagedDatabase, dropped: Sequence[str]) -> None:
    """Refuse to drop what another site of this host uses: one that has got a new name may have kept its database.

    Raises:
        DeploymentError: another site does.
    """
    for other in _others(site):
        for alias, one in other.config["databases"].items():
            is_there = one["engine"] == server.engine.name and database_databases.is_here(other, one)
            if not is_there or server.address(_managed(other, alias)) != server.address(database):
                continue
            names = {f"database {one['name']}", f"role {one['user']}", f"user {one['user']}"}
            for item in [item for item in dropped if item in names]:
                raise DeploymentError(
                    f"{item} is used by the site {other.name}, and remove_data of {site.name} would drop it",
                    hint=f"set {site.at}:remove_data to false, which keeps it",
                )


def _others(site: Site) -> Iterator[Site]:
    """Yield the other sites of this host; one whose configuration is damaged stops no other one."""
    for name in sites.registered():
        if name != site.name:
            with contextlib.suppress(DeploymentError):
                yield sites.find(name)


def _installed_servers(site: Site) -> Iterator[tuple[DatabaseServer, ManagedDatabase]]:
    """Yield each server that the site is on, with one of the site's databases there."""
    for engine, of_engine in databases(site, {}, None).items():
        server = SERVERS[engine]
        if server.is_installed():
            yield from ((server, on_server[0]) for on_server in _by_server(server, of_engine).values())
