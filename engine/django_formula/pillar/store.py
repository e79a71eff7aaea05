"""Contradictions about queues, caches and sessions: within a site, and between the sites of a host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django_formula.kind import kinds
from django_formula.pillar.check import Path, Problem
from django_formula.pillar.fleet import hosts_with

Site = dict[str, Any]  # the configuration of a site
Store = dict[str, Any]

#: The words of ``environment`` that a queue has.
QUEUE_WORDS = ("queue_url", "queue_socket", "celery_broker_url")


def stores(site: Site, own: Site) -> Iterator[Problem]:
    """Yield what contradicts itself in a queue or cache, and between the two."""
    queue, caches = site.get("queue"), site.get("caches") or {}
    has_host = bool(hosts_with(site, "cache"))
    if queue:
        yield from ((("queue", key), text) for key, text in _queue(queue, has_host=has_host))
    for alias, cache in caches.items():
        place = _place(alias, own)
        yield from (((*place, key), text) for key, text in _incomplete(cache, has_host=has_host))
        if queue and cache["host"] and (cache["host"], cache["port"]) == (queue["host"], queue["port"]):
            text = "is the server of the queue too, and a server that drops what a cache no longer needs drops tasks"
            yield (*place, "host"), f"{cache['host']} {text}: use another one"
        if not site["overlay"] and not _takes_url(site, alias):
            variable = f"set environment: {{CACHE_URL: {{from: cache_url{_alias_of(alias)}}}}}, or overlay: true"
            yield place, f"has no effect with overlay: false and no variable that has its URL: {variable}"


def _alias_of(alias: str) -> str:
    return "" if alias == "default" else f", alias: {alias}"


def _place(alias: str, own: Site) -> Path:
    """Return where the pillar has a cache, relative to the site."""
    return ("caches", alias) if "caches" in own or alias != "default" else ("cache",)


def _queue(queue: Store, *, has_host: bool) -> Iterator[tuple[str, str]]:
    kind = kinds.STORES.get(queue["engine"])
    if kind and not kind.keeps_queue:
        yield "engine", f"expected redis, got {queue['engine']}: {kind.title} cannot keep queued tasks"
        return
    yield from _incomplete(queue, has_host=has_host)
    if kind and queue["sync"] == "never":
        yield "sync", "expected everysec or always, got never: a restart would lose the queued tasks"


def _incomplete(store: Store, *, has_host: bool) -> Iterator[tuple[str, str]]:
    """Yield a port of a server that has none, by key: one of the site's own, unless a host has it for the others."""
    kind = kinds.STORES.get(store["engine"])
    if kind and kind.port and store["port"] and not store["host"] and not has_host:
        yield "port", "has no effect without host: the site's own server needs none"


def sessions(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield sessions in a cache that the site does not have, or that loses them with a restart."""
    kept = site.get("sessions")
    caches = site.get("caches") or {}
    cache = caches.get("sessions") or caches.get("default")
    if not kept or kept == "db":
        return
    if not cache:
        yield ("sessions",), f"{kept} needs a cache: set cache: {{engine: redis}}, or sessions: db"
    elif kept == "cache" and cache["engine"] == "memcached":
        yield ("sessions",), "Memcached is empty after a restart, which would log everybody out: set cached_db"
    elif kept == "cache" and cache["sync"] == "never":
        text = "the cache has no file, so that a restart would log everybody out"
        yield ("sessions",), f"{text}: set sync: everysec there, or sessions: cached_db"


def environment(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield variables that take the URL of a queue or cache which the site does not have."""
    caches = site.get("caches") or {}
    for name, value in site["environment"].items():
        word = value.get("from") if isinstance(value, dict) else None
        alias = value.get("alias", "default") if word else "default"
        if word in QUEUE_WORDS and not site.get("queue"):
            yield ("environment", name), f"{word} is not known: set queue: {{engine: redis}}"
        elif word == "queue_socket" and (site["queue"]["host"] or hosts_with(site, "cache")):
            yield ("environment", name), "queue_socket is not known: the queue is on a server elsewhere"
        elif word == "cache_url" and not caches.get(alias, {}).get("engine"):
            yield ("environment", name), f"cache_url is not known: the site has no cache {alias}"
        elif word == "cache_url" and caches[alias]["engine"] == "database":
            yield ("environment", name), f"cache_url is not known: the cache {alias} is a table of the database"


def _takes_url(site: Site, alias: str) -> bool:
    """Return whether a variable has the URL of a cache."""
    values = [value for value in site["environment"].values() if isinstance(value, dict)]
    return any(value["from"] == "cache_url" and value.get("alias", "default") == alias for value in values)


def between(sites: dict[str, Site]) -> Iterator[Problem]:
    """Yield sites whose user is the one that runs the stores of another site."""
    users = {site["user"]: name for name, site in sites.items()}
    for name, site in sites.items():
        other = users.get(f"{site['user']}-store")
        if other and (site.get("queue") or site.get("caches")):
            text = f"{site['user']}-store runs the queue and caches of this site, and is the user of site {other}"
            yield ("django", "sites", name, "user"), f"{text}: choose another one"
