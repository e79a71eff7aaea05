"""Servers of databases on this host: what a site has on them is looked at, and made where it is missing.

An engine is a module: `ask` a server what it has, say by which `login` a site gets in, what it `lacks` and what are its
`belongings`, `make` that.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import django_database
import django_database_mariadb
import django_database_postgres
import django_secret
from django_database import Lack, Share
from django_site import Site

ENGINES: dict[str, ModuleType] = {"mysql": django_database_mariadb, "postgres": django_database_postgres}

Shares = Mapping[str, Sequence[Share]]
Lacks = dict[str, list[Lack]]


def is_installed(engine: str) -> bool:
    """Whether a server of that kind is on this host, whoever has installed it."""
    return bool(ENGINES[engine].is_installed())


def shares(site: Site, secrets: Mapping[str, str], inputs: Mapping[str, str] | None) -> dict[str, list[Share]]:
    """What a site has on the servers of this host, by their engine.

    Args:
        secrets: the databases' passwords, and others, by their names.
        inputs: what the live release was made of; None where there is none.
    """
    key = django_secret.record_key(site)
    hashes = {name: django_secret.keyed_hash(key, value) for name, value in secrets.items()}
    used = [name for name, value in hashes.items() if (inputs or {}).get(f"secrets:{name}") == value]
    return django_database.shares(site, secrets, live=inputs is not None, used=used)


def logins(shares: Shares, asked: dict[Any, Any], *, test: bool = False) -> dict[str, str]:
    """The login of each share that has a password, by its alias: a new password may come with another login.

    Args:
        asked, test: as for `lacks`.

    Raises:
        DeploymentError: a server does not answer, or another database of the site has that other login.
    """
    found: dict[str, str] = {}
    for engine, on_it, answer in _answers(shares, asked, test):
        users = {share.user for share in on_it}
        for share in on_it:
            login = ENGINES[engine].login(share, answer) if share.password else share.user
            if login != share.user and login in users:
                raise django_database.in_use(share)
            found[share.alias] = login
    return found


def lacks(shares: Shares, asked: dict[Any, Any], *, test: bool = False) -> Lacks:
    """What a site lacks on the servers of this host, by their engine.

    Args:
        asked: what they have answered before, which is kept here.
        test: take a server that does not run yet for an empty one.

    Raises:
        DeploymentError: a server does not answer, or somebody else has what the site would have.
    """
    found: Lacks = {}
    for engine, on_it, answer in _answers(shares, asked, test):
        found.setdefault(engine, []).extend(ENGINES[engine].lacks(on_it, answer))
    return {engine: lacking for engine, lacking in found.items() if lacking}


def _answers(
    shares: Shares, asked: dict[Any, Any], test: bool
) -> Iterator[tuple[str, Sequence[Share], Mapping[str, Any]]]:
    """The shares on each server, and what it has; it is asked once."""
    for engine, of_site in shares.items():
        module = ENGINES[engine]
        for server, on_it in _by_server(engine, of_site).items():
            if test and not (module.is_installed() and module.is_running()):
                yield engine, on_it, module.nothing()
                continue
            if server not in asked:
                asked[server] = module.ask(on_it[0])
            yield engine, on_it, asked[server]


def make(shares: Shares, asked: dict[Any, Any]) -> Lacks:
    """Make what a site lacks; returns it.

    Raises:
        DeploymentError: a server refuses it.
    """
    found: Lacks = {}
    for engine, of_site in shares.items():
        for server, on_it in _by_server(engine, of_site).items():
            module = ENGINES[engine]
            lacking = module.lacks(on_it, asked.get(server) or module.ask(on_it[0]))
            asked.pop(server, None)
            if lacking:
                module.make(on_it[0], lacking)
                found.setdefault(engine, []).extend(lacking)
    return found


def told(lacking: Lacks) -> dict[str, dict[str, str]]:
    """What a site lacks, as changes."""
    return {engine: {lack.what: lack.how for lack in found} for engine, found in lacking.items()}


def has_renewed(site: Site, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether one release has another password than one before it for a server of this host, by their records."""
    names = [
        f"secrets:{django_database.secret_of(alias)}"
        for alias, said in site.config["databases"].items()
        if said.get("manage")
    ]
    before, now = (record.get("inputs", {}) for record in (old, new))
    return any(name in before and before[name] != now.get(name) for name in names)


def _by_server(engine: str, shares: Sequence[Share]) -> dict[tuple[Any, ...], list[Share]]:
    """The shares on each server of a kind; MariaDB is told over its socket, whatever its port."""
    found: dict[tuple[Any, ...], list[Share]] = {}
    for share in shares:
        port = (share.port or django_database_postgres.PORT) if engine == "postgres" else None
        found.setdefault((engine, share.socket, port), []).append(share)
    return found


def belongings(site: Site) -> Lacks:
    """What was made for a site on the servers of this host, by their engine, and how it is dropped.

    Raises:
        DeploymentError: a server does not answer.
    """
    found: Lacks = {}
    for engine, of_site in django_database.shares(site, {}).items():
        module = ENGINES[engine]
        for on_it in _by_server(engine, of_site).values():
            dropped = module.belongings(on_it[0], module.ask(on_it[0])) if module.is_installed() else []
            found.setdefault(engine, []).extend(dropped)
    return {engine: dropped for engine, dropped in found.items() if dropped}


def drop(site: Site) -> None:
    """Drop what was made for a site on the servers of this host.

    Raises:
        DeploymentError: a server refuses it.
    """
    for engine, of_site in django_database.shares(site, {}).items():
        module = ENGINES[engine]
        for on_it in _by_server(engine, of_site).values():
            if module.is_installed():
                module.make(on_it[0], module.belongings(on_it[0], module.ask(on_it[0])))
