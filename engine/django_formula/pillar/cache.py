"""The part `cache`: the host that has the queue and caches of a site for all of its hosts."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import Any

from django_formula.kind import kinds as kind_kinds
from django_formula.kind.kinds import RELEASED
from django_formula.pillar.check import Problem
from django_formula.pillar.fleet import MASTER, UNKNOWN, hosts_with
from django_formula.pillar.parts import Compiled, Part, States

Site = dict[str, Any]
Store = dict[str, Any]
#: The ports that a store gets where the pillar has none: below those that Linux gives to clients.
_FIRST, _PORTS = 20_000, 10_000
#: What a client of the stores does not decide.
_OF_SERVER: dict[str, Any] = {"memory": None, "sync": None}


def cache(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield what contradicts itself about the host that has the queue and caches."""
    hosts = hosts_with(site, "cache")
    if not hosts or site["state"] != "present":
        return
    name, *others = hosts
    stores = _managed(site)
    for other in others:
        yield ("hosts", other), f"{name} has the part cache already: a queue or cache is on one host"
    if not stores:
        text = "the part cache has nothing to serve: set queue or cache with engine: redis and without host"
        yield ("hosts", name), text
    for key, store in stores.items():
        if store["engine"] != "redis":
            text = (
                f"{kind_kinds.STORES[store['engine']].title} has no logins, and would answer everybody in the network"
            )
            yield (*_place(key), "engine"), f"expected redis with a host with the part cache: {text}"
    yield from _unknown(site, name)


def _unknown(site: Site, name: str) -> Iterator[Problem]:
    """Yield what the hosts have to know of each other, and this one does not."""
    entries, given, parts = site["fleet"]["hosts"], site["fleet"]["given"], site["fleet"]["parts"]
    if not ({*RELEASED, "cache"} & {*parts}):
        return
    for one in [name, *hosts_with(site, *RELEASED)] if "cache" in parts else [name]:
        if not entries[one]["address"]:
            yield ("hosts", one), f"its address {UNKNOWN}"
    passwords = given["passwords"] or {}
    needed = ["redis"] if "cache" in parts else []
    needed += ["cache"] if {*RELEASED} & {*parts} else []
    has_key = "cache" not in parts or given["key"]
    has_all = {*needed} <= {*passwords} and name in (given["certificates"] or {}) and has_key
    if entries[name]["address"] and not has_all:
        text = "the part cache needs its password and certificate from the master's store"
        yield ("hosts", name), f"{text}: set {MASTER}"


def settle_stores(site: Site) -> None:
    """Give the stores their place on the host with the part `cache`; that host gets what it serves to whom.

    To be called once contradictions are found, and before `pillar.fleet.settle_hosts`.
    """
    hosts, stores = hosts_with(site, "cache"), _managed(site)
    if not hosts or not stores:
        return
    (name, *_), fleet = hosts, site["fleet"]
    given = {key: value or {} for key, value in fleet["given"].items()}
    if "cache" in fleet["parts"]:
        fleet["stores"] = {
            "servers": {key: {**store, "port": _port(site, key, store)} for key, store in stores.items()},
            "clients": [fleet["hosts"][one]["address"] for one in hosts_with(site, *RELEASED)],
            "password": given["passwords"].get("redis"),
            "certificate": given["certificates"].get(name),
            "key": given["key"],
        }
    fleet["trusted"] = {**fleet.get("trusted", {}), name: given["certificates"].get(name)}
    there = {
        "host": _in_url(fleet["hosts"][name]["address"]),
        "user": site["name"],
        "password": given["passwords"].get("cache"),
        "tls": True,
        "ca": f"{site['root']}/trusted/{name}.pem",
    }
    for key, store in stores.items():
        store |= {**there, **_OF_SERVER, "port": _port(site, key, store)}


def _managed(site: Site) -> dict[str, Store]:
    """Return the stores of a site that have a server, which is not elsewhere."""
    return {name: store for name, store in _servers(site).items() if not store["host"]}


def _servers(site: Site) -> dict[str, Store]:
    """Return the stores of a site that have a server, as `Site.stores` names them."""
    caches = (site.get("caches") or {}).items()
    stores = {"queue": site.get("queue")}
    stores |= {"cache" if alias == "default" else f"cache_{alias}": entry for alias, entry in caches}
    kinds = kind_kinds.STORES
    return {
        name: store
        for name, store in stores.items()
        if store and store["engine"] in kinds and kinds[store["engine"]].port
    }


def _place(name: str) -> tuple[str, ...]:
    """Return where the pillar has a store, by its name in `Site.stores`."""
    return ("caches", name.removeprefix("cache_")) if name.startswith("cache_") else (name,)


def _port(site: Site, name: str, store: Store) -> int:
    """Return the port of a store: that of the pillar, else one that follows from the names of site and store."""
    return store["port"] or _FIRST + zlib.crc32(f"{site['name']}/{name}".encode()) % _PORTS


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def between(sites: dict[str, Site]) -> Iterator[Problem]:
    """Yield stores of the same host with the same port; to be called once the sites are settled."""
    taken: dict[tuple[str, int], str] = {}
    for name, site in sites.items():
        places = [_in_url(site["fleet"]["hosts"][host]["address"]) for host in hosts_with(site, "cache")]
        for key, store in _servers(site).items():
            if store["host"] in places and store["port"]:
                other = taken.setdefault((store["host"], store["port"]), f"{key} of {name}")
                if other != f"{key} of {name}":
                    text = f"expected another port: {store['port']} of {store['host']} is that of the {other}"
                    yield ("django", "sites", name, *_place(key), "port"), text


def _states(django: Compiled) -> States:
    """Return the states of a host that has the queue and caches: the site's own Redis or Valkey."""
    platform, states = django["platform"], {}
    for name, site in _served(django).items():
        packages, user = (
            f"{name} has the packages of its queue and caches",
            f"{name} has the user of its queue and caches",
        )
        states[packages] = {"django.packages": [{"pkgs": [platform["packages"]["redis"]]}]}
        options = {"name": name, "user": site["user"], "shell": platform["shell"], "stores": True, "build": False}
        states[user] = {"django.users": [{key: value} for key, value in options.items()]}
        templates = [f"{kind_kinds.FILES}{file}" for file in kind_kinds.STORE_TEMPLATES[django["process"]]]
        given = {"name": name, "config": json.dumps(site), "platform": platform, "templates": templates}
        required = {"require": [{"django": packages}, {"django": user}]}
        arguments = [*({key: value} for key, value in given.items()), required]
        states[f"{name} has its queue and caches for its hosts"] = {"django.cache": arguments}
    return states


def _served(django: Compiled) -> dict[str, Site]:
    return {name: site for name, site in django["served"].items() if "stores" in site["fleet"]}


PART = Part(
    "cache",
    _states,
    lambda django: bool(_served(django)),
    rules=cache,
    has_server=True,
    phase="caches",
    verb="stores",
    what="queue or cache",
)
