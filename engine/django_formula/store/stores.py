"""The stores of a site: every kind, the site's own servers, and what the project gets of its queue and caches."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from django_formula.host.commands import DeploymentError, size
from django_formula.secret import secrets as secret_secrets
from django_formula.site.sites import Site
from django_formula.store import client, redis
from django_formula.store.contract import OwnServer, ServerStore, Store, Usage
from django_formula.untrusted.text import in_command


def own_servers(site: Site) -> list[tuple[ServerStore, OwnServer]]:
    """Return the servers of the site's own that the pillar has, each with its kind."""
    found = []
    for name, options in site.stores.items():
        kind = STORES[options["engine"]]
        if isinstance(kind, ServerStore) and not options["host"]:
            found.append((kind, OwnServer(site, name, kind.part(name), options)))
    return found


def tables(site: Site) -> dict[str, str]:
    """Return the tables of the caches in the database, by alias."""
    caches = site.config.get("caches") or {}
    return {alias: table(alias) for alias, entry in caches.items() if entry["engine"] == "database"}


def table(alias: str) -> str:
    """Return the table of a cache in the database."""
    return "django_cache" if alias == "default" else f"django_cache_{alias}"


def requirements(site: Site, django_version: tuple[int, ...], installed: set[str]) -> list[str]:
    """Return the clients that a virtualenv lacks for the site's stores.

    Args:
        installed: its packages, as their ``dist-info`` folders are named.
    """
    kinds = {options["engine"]: STORES[options["engine"]] for options in site.stores.values()}
    cached = {options["engine"] for name, options in site.stores.items() if name != "queue"}
    clients = {kind: kind.clients(django_version if name in cached else ()) for name, kind in kinds.items()}
    missing = [kind for kind, names in clients.items() if names and not names & installed]
    found = [kind.requirement(django_version) for kind in missing]
    # kombu 5.7 imports it for Redis, and requires it only as celery[redis].
    needs_packaging = "redis" in kinds and "kombu" in installed and "packaging" not in installed
    return [*found, "packaging"] if needs_packaging else found


def engines(site: Site) -> list[str]:
    """Return the kinds of stores that the pillar has, which decide the clients in the virtualenv."""
    return sorted({options["engine"] for options in site.stores.values() if STORES[options["engine"]].CLIENTS})


def _address(site: Site, name: str, secrets: Mapping[str, str]) -> dict[str, Any]:
    """Return where a store is: ``socket`` of a server of the site's own, or the options of one elsewhere."""
    options = site.stores[name]
    if options["host"]:
        return {**options, "password": secrets.get(secret_secrets.of_store(name), "")}
    return {"socket": str(OwnServer(site, name, _server_kind(options).part(name), options).socket)}


def _server_kind(options: Mapping[str, Any]) -> ServerStore:
    """Return the kind of a store that has an address: the pillar's check refuses that of a table."""
    kind = STORES[options["engine"]]
    if not isinstance(kind, ServerStore):
        raise TypeError(f"{kind.KIND} has no address")
    return kind


def environment_value(site: Site, value: Mapping[str, str], secrets: Mapping[str, str]) -> str | None:
    """Return the value of a variable that takes the address of a store with ``from``; None for another word.

    Args:
        value: the variable in ``environment``.
        secrets: the site's secrets by name; empty for a store without a password.
    """
    name = store_of(value)
    if not name or name not in site.stores:
        return None
    address = _address(site, name, secrets)
    if value["from"] == "queue_socket":
        return str(address["socket"])
    if value["from"] == "celery_broker_url":
        return redis.STORE.broker_url(address)
    return _server_kind(site.stores[name]).url(address)


def store_of(value: Mapping[str, str]) -> str:
    """Return the store that a variable takes the address of; empty where it takes something else."""
    if value["from"] in ("queue_url", "queue_socket", "celery_broker_url"):
        return "queue"
    alias = value.get("alias", "default")
    return {"cache_url": "cache" if alias == "default" else f"cache_{alias}"}.get(value["from"], "")


def is_secret(site: Site, value: Mapping[str, str]) -> bool:
    """Return whether a variable holds the password of a store."""
    return bool(site.stores.get(store_of(value), {}).get("password"))


def overlay_data(site: Site) -> dict[str, Any]:
    """Return the stores as the settings overlay reads them: a password by the path of its file."""
    config = site.config
    data: dict[str, Any] = {}
    caches = config.get("caches") or {}
    if caches:
        data["caches"] = {alias: _overlay_entry(site, alias) for alias in caches}
    if config.get("sessions"):
        alias = "sessions" if "sessions" in caches else "default"
        data["sessions"] = {"kind": config["sessions"], "cache": alias}
    if config.get("queue"):
        data["queue"] = {**_located(site, "queue"), "prefix": config["queue"]["prefix"]}
    return data


def _overlay_entry(site: Site, alias: str) -> dict[str, Any]:
    options = site.config["caches"][alias]
    if options["engine"] == "database":
        return {"engine": "database", "location": table(alias)}
    name = "cache" if alias == "default" else f"cache_{alias}"
    return {"engine": options["engine"], **_located(site, name), "prefix": options["prefix"]}


def _located(site: Site, name: str) -> dict[str, Any]:
    """Return the URL of a store; with the mark PASSWORD in it, and the file that has the password, where it has one."""
    kind = _server_kind(site.stores[name])
    if not site.stores[name]["password"]:
        return {"location": kind.url(_address(site, name, {}))}
    marked = kind.url(_address(site, name, {secret_secrets.of_store(name): "PASSWORD"}))
    head, _mark, tail = marked.rpartition(":PASSWORD@")
    return {"location": [f"{head}:", f"@{tail}"], "password_file": str(site.secrets / secret_secrets.of_store(name))}


# Memcached: a cache in memory alone


class MemcachedStore(ServerStore):
    """A cache that drops what is not read, and is empty after a restart."""

    KIND = "memcached"
    CLIENTS = frozenset({"pymemcache", "pylibmc"})
    CHANGEABLE = re.compile(r" -m (?:[89]|\d{2,})(?!\d)")  # one that runs refuses less than 8 MB

    def requirement(self, django_version: tuple[int, ...]) -> str:
        """Return pymemcache, which Django supports since 3.2."""
        return "pymemcache>=3.4"

    def url(self, address: Mapping[str, Any]) -> str:
        if address.get("socket"):
            return f"unix:{address['socket']}"
        return f"{address['host']}:{address['port']}"

    def command(self, server: OwnServer, program: str) -> list[str]:
        megabytes = size(server.options["memory"]) >> 20
        return ["memcached", "-s", str(server.socket), "-a", "0770", "-m", str(megabytes), "-c", "1000"]

    def configuration(self, server: OwnServer) -> str:
        """Return nothing but a line for people: Memcached has no configuration file."""
        return f"# {server.unit} has no configuration but its command line.\n"

    def differences(self, server: OwnServer) -> dict[str, str]:
        wanted = size(server.options["memory"])
        return {} if _memcached_stats(server).get("limit_maxbytes") == wanted else {"memory": str(wanted >> 20)}

    def change(self, server: OwnServer, settings: Mapping[str, str]) -> None:
        try:
            client.memcached(server.socket, f"cache_memlimit {settings['memory']}", ("OK",))
        except DeploymentError as error:
            restart = in_command("systemctl", "restart", server.unit)
            if server.site.process == "supervisor":
                restart = in_command("supervisorctl", "restart", server.unit)
            error.hint = error.hint or f"restart it, which empties the cache: {restart}"
            raise

    def usage(self, server: OwnServer) -> Usage:
        return Usage(_memcached_stats(server).get("bytes", 0), size(server.options["memory"]))


def _memcached_stats(server: OwnServer) -> dict[str, int]:
    lines = client.memcached(server.socket, "stats", ("END",))
    pairs = (line.split() for line in lines)
    return {parts[1]: int(parts[2]) for parts in pairs if len(parts) == 3 and parts[2].isdecimal()}


# Django's cache in the default database


class DatabaseStore(Store):
    """A cache in a table, which needs nothing on the host."""

    KIND = "database"


# All of them

_SMALL: dict[str, Store] = {"memcached": MemcachedStore(), "database": DatabaseStore()}


class _Stores(Mapping[str, Store]):
    """The stores by their names in the pillar; the module of Redis runs when that is looked at."""

    def __getitem__(self, kind: str) -> Store:
        return redis.STORE if kind == "redis" else _SMALL[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(("redis", *_SMALL))

    def __len__(self) -> int:
        return 1 + len(_SMALL)


#: Every kind of store, by its name in the pillar.
STORES: Mapping[str, Store] = _Stores()
