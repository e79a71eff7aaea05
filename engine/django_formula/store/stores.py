"""The stores of a site: every kind, the site's own servers, and what the project gets of its queue and caches."""

from collections.abc import Iterator, Mapping
from typing import Any

from django_formula.secret import secrets as secret_secrets
from django_formula.site.sites import Site
from django_formula.store import database, memcached, redis
from django_formula.store.contract import OwnServer, ServerStore, Store

#: The module of each kind, which runs when the kind is looked at.
_MODULES = {"redis": redis, "memcached": memcached, "database": database}


class _Stores(Mapping[str, Store]):
    def __getitem__(self, kind: str) -> Store:
        store: Store = _MODULES[kind].STORE
        return store

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


#: Every kind of store, by its name in the pillar.
STORES: Mapping[str, Store] = _Stores()


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
    missing = [kind for kind in kinds.values() if kind.CLIENTS and not kind.CLIENTS & installed]
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
