"""Contradictions within a site, and between the sites of a host: what takes more than other options' values.

What does not is in `django/schema.yaml` (`pillar.rules`). `WITHIN` and `BETWEEN` list every other rule; a new
one is a function there.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Callable, Collection, Iterator
from typing import Any

from django_formula.kind import kinds
from django_formula.pillar import (
    cache,
    container,
    database,
    email,
    fleet,
    knowledge,
    parts,
    pool,
    server,
    static,
    store,
)
from django_formula.pillar import listen as pillar_listen
from django_formula.pillar import proxy as pillar_proxy
from django_formula.pillar import schedule as pillar_schedule
from django_formula.pillar import worker as pillar_worker
from django_formula.pillar.check import Path, Problem, shown

Site = dict[str, Any]  # the configuration of a site
Sites = dict[str, Site]  # those of a host by name

SOCKET_PATH = 107  # bytes that the kernel accepts as the path of a unix socket
#: The longest path of a socket below the root: one of those of mod_wsgi.
_LONGEST = "/runtime/10000/wsgi.4194304.10.10.sock"
SHELL_OPERATORS = {"&&", "||", "|", ";", "&", ">", ">>", "<"}


def contradictions(site: Site, own: Site) -> Iterator[Problem]:
    """Yield what contradicts itself within a site, by paths relative to it.

    Args:
        site: its configuration.
        own: what the site itself sets in the pillar, without defaults.
    """
    for rule in WITHIN:
        yield from rule(site, own)


def contradictions_between(sites: Sites) -> Iterator[Problem]:
    """Yield what contradicts itself between the sites of a host, those with `state: absent` among them."""
    present = {name: site for name, site in sites.items() if site["state"] == "present"}
    for rule in BETWEEN:
        yield from rule(present)
    yield from roots_and_users(sites)
    yield from cache.between(sites)
    yield from pool.between(sites)


# Within a site


def domains(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield domains that redirect to a wildcard or to themselves."""
    if site["redirect_domains"] and site["domains"] and site["domains"][0].startswith("*."):
        text = "are redirected to the first of domains, which is a wildcard: put a host name first there"
        yield ("redirect_domains",), text
    for domain in sorted({*site["domains"]} & {*site["redirect_domains"]}):
        yield ("redirect_domains",), f"{domain} is in domains too: remove one of them"


def paths(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield a root that is too long, and folders that contain each other."""
    root = site["root"]
    if len(f"{root}{_LONGEST}".encode()) > SOCKET_PATH:
        limit = SOCKET_PATH - len(_LONGEST)
        text = (
            f"expected at most {limit} bytes, got {len(root.encode())}: the path of a unix socket below it is limited"
        )
        yield ("root",), text
    for key in ("folder", "mount"):
        if site[key] and _is_nested(site[key], root):
            yield (key,), f"{site[key]} and the root {root} are within each other: move one of them"


def source_paths(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield paths in the source that contain each other, of which each would replace the other.

    Of two in ``shared`` the inner one is a folder that is created.
    """
    named = [(key, path) for key in ("shared", "writable", "files") for path in site[key]]
    for (first_key, first), (key, path) in itertools.combinations(named, 2):
        inner = max(first, path, key=len)
        is_folder = first_key == key == "shared" and first != path and "." not in inner.rpartition("/")[2]
        if _is_nested(first, path) and not is_folder:
            yield (key,), f"{path} and {first} (in {first_key}) are within each other: remove one of them"


def commands(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield commands that only a shell could run."""
    listed: dict[Path, list[str]] = {("build",): site["build"]}
    listed |= {("commands", stage): entries for stage, entries in site["commands"].items()}
    at: dict[Path, str] = {(*at, number): one for at, entries in listed.items() for number, one in enumerate(entries)}
    workers = site.get("workers", {}).items()
    at |= {("workers", name, "command"): worker["command"] for name, worker in workers if worker.get("command")}
    schedules = site.get("schedules", {}).items()
    at |= {("schedules", name, "command"): schedule["command"] or "" for name, schedule in schedules}
    for place, command in at.items():
        try:
            words = shlex.split(command)
        except ValueError as error:
            yield place, f"expected a command with its quotes closed, got {shown(command)}: {error}"
            continue
        operators = SHELL_OPERATORS & {*words}
        if operators:
            text = f"no shell runs commands, so {min(operators)} has no meaning: write several commands, or sh -c '…'"
            yield place, text


#: Every rule for one site: what contradicts it, by paths relative to the site.
WITHIN: tuple[Callable[[Site, Site], Iterator[Problem]], ...] = (
    domains,
    server.modules,
    server.threads,
    server.embedded,
    paths,
    pillar_listen.server_port,
    pillar_listen.networks,
    pillar_listen.within,
    pillar_proxy.upstreams,
    server.keepalive,
    pillar_proxy.unsupported,
    pillar_proxy.headers,
    pillar_proxy.without_proxy,
    pillar_proxy.client_subject,
    pillar_proxy.tls_ports,
    pillar_proxy.tls_domains,
    source_paths,
    database.databases,
    database.logins,
    database.environment,
    database.variables,
    store.stores,
    store.sessions,
    store.environment,
    static.url,
    commands,
    container.container,
    pillar_worker.single,
    pillar_worker.signals,
    pillar_schedule.schedules,
    email.email,
    knowledge.patterns,
    fleet.hosts,
    fleet.shared,
    parts.contradictions,
)


# Between sites


def addresses(sites: Sites) -> Iterator[Problem]:
    """Yield domains of several sites, each of which needs its own path, and all the same server block."""
    owners: dict[str, list[tuple[str, str | None]]] = {}
    served = {name: site for name, site in sites.items() if site["server"]["kind"] != kinds.NO_SERVER}
    for name, site in served.items():
        for key in ("domains", "redirect_domains"):
            for domain in site[key]:
                path = site["path"] if key == "domains" else None
                for other, other_path in owners.get(domain, ()):
                    if other != name:
                        yield from _same_address((name, key, path), (other, other_path), domain)
                        yield from _different_server_blocks(sites, name, other, domain)
                owners.setdefault(domain, []).append((name, path))


def below_wildcards(sites: Sites) -> Iterator[Problem]:
    """Yield domains that a wildcard of another site would answer for, where that listens and their own site does not.

    A proxy prefers the exact name, but only among its servers at that address and port.
    """
    served = {name: site for name, site in sites.items() if site["server"]["kind"] != kinds.NO_SERVER}
    wildcards = [(name, one) for name, site in served.items() for one in _domains(site) if one.startswith("*.")]
    for name, site in served.items():
        for domain, (owner, wildcard) in itertools.product(_domains(site), wildcards):
            parts = [part for part in ("proxy", "balancer") if part in site]
            missing = {*_places(served[owner], parts)} - {*_places(site, parts)}
            if owner != name and domain != wildcard and domain.endswith(wildcard[1:]) and missing:
                (part, key), listen = min(missing, key=str)
                text = f"expected {listen} among them: {wildcard} of site {owner} would answer for {domain} there"
                yield ("django", "sites", name, part, key), f"{text}; or give {domain} another name"


def _domains(site: Site) -> list[str]:
    return [*site["domains"], *site["redirect_domains"]]


def _places(site: Site, parts: Collection[str]) -> Iterator[tuple[tuple[str, str], int | str]]:
    """Yield where the proxy and the balancer listen for a site, each with its key.

    Args:
        parts: those of the pillar that count for http; without balancers a site has no such part.
    """
    for key in [*parts, *(["tls"] if site["tls"]["kind"] != "none" else [])]:
        for place in site.get(key, {}).get("listen", ()):
            yield (key, "listen"), place


def _same_address(mine: tuple[str, str, str | None], theirs: tuple[str, str | None], domain: str) -> Iterator[Problem]:
    """Yield a domain that cannot be shared; a path is None where the domain redirects."""
    (name, key, path), (other, other_path) = mine, theirs
    place = ("django", "sites", name, key)
    if path is None or other_path is None:
        yield place, f"{domain} belongs to site {other} too, and a redirected domain cannot be shared"
    elif path == other_path:
        yield place, f"{domain}{path} is served by site {other} already: use another domain or path"


def _different_server_blocks(sites: Sites, name: str, other: str, domain: str) -> Iterator[Problem]:
    """Yield an option of the server block that two sites of a domain set differently."""
    path = ("django", "sites", name)
    proxy, other_proxy = sites[name]["proxy"], sites[other]["proxy"]
    same = f"expected the value of site {other}, which has {domain} too: set it once in django:defaults"
    if proxy["kind"] != other_proxy["kind"]:
        text = f"expected {other_proxy['kind']}, since site {other} has {domain} too, got {proxy['kind']}"
        yield (*path, "proxy", "kind"), text
    elif {*proxy["listen"]} != {*other_proxy["listen"]}:
        text = f"expected {other_proxy['listen']}, since site {other} has {domain} too, got {proxy['listen']}"
        yield (*path, "proxy", "listen"), text
    elif sorted(proxy["trusted"]) != sorted(other_proxy["trusted"]):
        yield (*path, "proxy", "trusted"), same
    elif sites[name]["tls"] != sites[other]["tls"]:
        yield (*path, "tls"), same


def roots_and_users(sites: Sites) -> Iterator[Problem]:
    """Yield sites that share a root, a user or its number."""
    for (first, one), (second, other) in itertools.combinations(sites.items(), 2):
        if _is_nested(one["root"], other["root"]):
            text = (
                f"{other['root']} and the root {one['root']} of site {first} are within each other: choose another one"
            )
            yield ("django", "sites", second, "root"), text
        if one["user"] == other["user"]:
            text = f"{other['user']} is the user of site {first} too, and each site needs its own"
            yield ("django", "sites", second, "user"), text
        if "uid" in one and one["uid"] == other.get("uid"):
            text = f"{other['uid']} is the number of the user of site {first} too, and each site needs its own"
            yield ("django", "sites", second, "uid"), text


def _is_nested(one: str, other: str) -> bool:
    """Return whether two paths are the same, or one is below the other."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


#: Every rule for the present sites of a host.
BETWEEN: tuple[Callable[[Sites], Iterator[Problem]], ...] = (
    addresses,
    below_wildcards,
    pillar_listen.between,
    database.between,
    store.between,
    static.between,
)
