"""The hosts of a site: which there are, what each is for, and what contradicts that.

A site without ``hosts`` is on this host alone. With it every host gets the same pillar and finds its own part by its
minion's name. What the master knows comes as ``fleet``, from the formula's external pillar: the addresses of its
minions, and the commit that the hosts have in common.
"""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Iterator
from typing import Any

from django_formula.kind import kinds
from django_formula.kind.kinds import RELEASED
from django_formula.pillar.check import Problem
from django_formula.server import servers

Site = dict[str, Any]
#: The characters of a pattern of names.
_PATTERN = frozenset("*?[")
#: What is wrong with an address that is needed, and what to do.
UNKNOWN = "is not known to the master yet: let it apply once more, or set address"
#: What the master's configuration needs, for hints.
MASTER = "runner_dirs, pillar_dirs and ext_pillar in the master's configuration (docs/guides/fleet.md)"


def complete(site: Site, host: str) -> Iterator[Problem]:
    """Give a site its ``fleet``: the hosts by name, the parts of this one, and what the master says of the release.

    A site with ``hosts`` that has no part for this host gets none; one without ``hosts`` is not changed.

    Args:
        site: its configuration, which is changed.
        host: the name of this host's minion.
    """
    hosts, known = site.pop("hosts", None), site.pop("fleet", None) or {}
    if not hosts:
        return
    entries: dict[str, Any] = {}
    yield from _named(hosts, known, entries)
    yield from _addressed(entries, known)
    if not known and host not in entries:
        yield ("hosts",), f"expected {host}, the name of this host's minion, among {', '.join(entries)}"
    site["fleet"] = _fleet(site, host, entries, known)
    _take_generated(site, known.get("secrets", {}))
    trusted = site["proxy"]["trusted"]
    balancers = [entry["address"] for entry in entries.values() if "balancer" in entry["parts"] and entry["address"]]
    site["proxy"]["trusted"] = [*trusted, *(address for address in balancers if address not in trusted)]


def _addressed(entries: dict[str, Any], known: dict[str, Any]) -> Iterator[Problem]:
    """Give the hosts of a site their addresses, and yield those that no minion of the master has the name of."""
    addresses = known.get("addresses", {})
    for name, entry in entries.items():
        if known and name not in addresses and not entry["address"]:
            yield ("hosts", name), "no minion of this master has that name: start it and accept its key, or set address"
        entry["address"] = _canonical(entry["address"] or addresses.get(name, ""))


def _fleet(site: Site, host: str, entries: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return what a host knows of the hosts of its site: their entries, its own parts, and what the master says."""
    parts = entries[host]["parts"] if host in entries and site["state"] == "present" else []
    claimed = {"over": known["over"]} if known.get("over") and {*RELEASED} & {*parts} else {}
    return {
        "host": host,
        "parts": parts,
        "hosts": dict(sorted(entries.items())),
        "release": {key: known[key] for key in ("commit", "sequence", "held", "count")} if known else None,
        "given": {key: known.get(key) for key in ("passwords", "certificates", "key", "cpus", "login")},
        "has_keys": known.get("keys") is not None,
        **claimed,
    }


def _take_generated(site: Site, values: dict[str, Any]) -> None:
    """Give a site the values of the secrets that the master has generated for all of its hosts."""
    for name in {*site["secrets"]} & {*values}:
        if "generate" in site["secrets"][name]:
            kept = {key: site["secrets"][name][key] for key in ("as", "variable")}
            site["secrets"][name] = {"value": values[name], **kept}


def _named(hosts: dict[str, Any], known: Any, found: dict[str, Any]) -> Iterator[Problem]:
    """Add the hosts of a site by their names, each with its entry.

    What a host has under its own name counts before what its pattern has. Parts under its own name that leave out one
    of the pattern's are refused: they may be meant as more parts, or as others.

    Args:
        hosts: as the pillar has them, by name or pattern.
        known: what the master says; it knows the names that a pattern stands for.
        found: gets the hosts.
    """
    patterns = sorted(filter(is_pattern, hosts))
    names = {*known.get("addresses", ()), *(name for name in hosts if not is_pattern(name))}
    by = {pattern: fnmatch.filter(sorted(names), pattern) for pattern in patterns}
    for pattern in patterns:
        if not known:
            yield (
                ("hosts", pattern),
                f"a pattern needs the names of the master's minions: set {MASTER}, or write each name",
            )
        elif not by[pattern]:
            yield ("hosts", pattern), "matches no minion whose key the master has accepted"
    for name in sorted(names):
        matching = [pattern for pattern in patterns if name in by[pattern]]
        for other in matching[1:] if name not in hosts else ():
            yield ("hosts", other), f"matches {name}, which {matching[0]} matches too: write {name} itself"
        if matching or name in hosts:
            inherited = {key: value for pattern in matching[:1] for key, value in _map(hosts[pattern]).items()}
            own = {key: value for key, value in _map(hosts.get(name)).items() if value is not None}
            found[name] = _entry({**inherited, **own})
        if name in hosts:
            yield from _parts_of(name, hosts, matching)


def _parts_of(name: str, hosts: dict[str, Any], matching: list[str]) -> Iterator[Problem]:
    """Yield what is wrong with the parts that a host has under its own name."""
    own: list[str] | None = _map(hosts[name]).get("parts")
    key = ("hosts", name)
    of_patterns = sorted({part for pattern in matching for part in _map(hosts[pattern]).get("parts") or ()})
    if own is None and len(matching) != 1:
        yield key, f"expected parts for {name}, such as [app]"
    missing = [part for part in of_patterns if own and part not in own]
    if own and missing:
        given, both = (", ".join(sorted(parts)) for parts in (missing, {*own, *of_patterns}))
        by = " and ".join(f"{pattern!r}" for pattern in matching)
        verb = "gives" if len(matching) == 1 else "give"
        text = (
            f"expected [{both}], since {by} {verb} it {given}: write all its parts, or patterns that leave {name} out"
        )
        yield key, text


def is_pattern(name: str) -> bool:
    """Return whether a key of ``hosts`` stands for several minions."""
    return not _PATTERN.isdisjoint(name)


def _map(value: Any) -> dict[str, Any]:
    """Return a host's entry as a map: its parts may be written as a list alone."""
    return value if isinstance(value, dict) else {} if value is None else {"parts": value}


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a host's entry with all its keys."""
    return {
        "parts": sorted(entry.get("parts") or []),
        "address": entry.get("address") or "",
        "weight": entry.get("weight") or 100,
        "backup": bool(entry.get("backup")),
    }


def hosts_with(site: Site, *parts: str) -> list[str]:
    """Return the names of a site's hosts that have one of some parts, in order; none for a site without ``hosts``."""
    hosts = site.get("fleet", {}).get("hosts", {}).items()
    return [name for name, entry in hosts if not {*parts}.isdisjoint(entry["parts"])]


def settle_hosts(site: Site) -> None:
    """Leave out what this host does not do: of the whole site, of its parts, and of what one host does for all.

    To be called once contradictions are found, which are the same on every host.
    """
    if site["media"].pop("shared") or "mount" in site["media"]:
        site["media"]["shared"] = True
    if "fleet" not in site:
        return
    del site["fleet"]["given"]
    parts, host = site["fleet"]["parts"], site["fleet"]["host"]
    if not {*RELEASED} & {*parts}:
        site |= {"state": "absent", "remove_data": site["remove_data"] and site["state"] == "absent"}
        return
    if host not in hosts_with(site, "app")[:1]:
        site["backup"]["schedule"] = None
        site["backup"].pop("offsite", None)
    _leave_work(site)
    if "app" not in parts:
        _leave_visitors(site)


def _leave_work(site: Site) -> None:
    """Leave out the workers and schedules that run on other hosts, but not how tasks are sent to them: a view may."""
    parts, host = site["fleet"]["parts"], site["fleet"]["host"]
    apps, workers = hosts_with(site, "app"), hosts_with(site, "worker")
    brokers = kinds.brokers(site)
    if workers and "worker" not in parts:
        for key in ("workers", "schedules"):
            site.pop(key, None)
    elif host not in (workers or apps)[:1]:
        _leave_to_first(site)
    if elsewhere := brokers - kinds.brokers(site):
        site["enqueues"] = sorted(elsewhere)


def _leave_visitors(site: Site) -> None:
    """Leave out what answers visitors: the application server and the proxy."""
    server = site["server"]
    options = {"interface": servers.traits(server).interface}
    site["server"] = {**server, "kind": kinds.NO_SERVER, "bind": "unix", "options": options}
    site["proxy"] = {**site["proxy"], "kind": "none", "keepalive": False}
    site["listener"] = ""


def _leave_to_first(site: Site) -> None:
    """Leave out what the first host does for all: schedules, and what sends tasks at times."""
    site.pop("schedules", None)
    workers = site.get("workers", {})
    for name in [name for name, worker in workers.items() if kinds.WORKERS[worker["kind"]].is_single]:
        del workers[name]
    for worker in workers.values():
        if worker["kind"] == "huey":
            worker["options"] = {**worker["options"], "periodic": False}
    if not workers:
        site.pop("workers", None)


# Contradictions within a site


def hosts(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield hosts that cannot be one fleet."""
    if "fleet" not in site or site["state"] != "present":
        return
    entries = site["fleet"]["hosts"]
    if not hosts_with(site, "app"):
        yield ("hosts",), "expected at least one host with the part app"
    if hosts_with(site, "worker") and not site.get("workers") and not site.get("schedules"):
        yield ("hosts", hosts_with(site, "worker")[0]), "the part worker has no effect without workers or schedules"
    for name in hosts_with(site, "balancer"):
        for part in RELEASED:
            if part in entries[name]["parts"]:
                text = "got both: the balancer needs the ports and certificates of the site for itself"
                yield ("hosts", name), f"expected {part} or balancer, {text}"
    for name, entry in entries.items():
        if entry["address"] and not _is_address(entry["address"]):
            yield ("hosts", name), f"expected an IP address, got {entry['address']}"
    unknown = [name for name, entry in entries.items() if not entry["address"]]
    if hosts_with(site, "balancer"):
        for name in unknown:
            yield ("hosts", name), f"its address {UNKNOWN}"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _canonical(text: str) -> str:
    """Return an address as servers, which compare texts, have those of their clients; what is none stays as it is."""
    if not _is_address(text):
        return text
    found = ipaddress.ip_address(text)
    return str(getattr(found, "ipv4_mapped", None) or found)


def shared(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield what several hosts would each have of their own, although the site needs it once."""
    if len(hosts_with(site, *RELEASED)) < 2 or site["state"] != "present":
        return
    several = f"the hosts with the part {' or '.join(part for part in RELEASED if hosts_with(site, part))}"
    uses = {*RELEASED} & {*site["fleet"]["parts"]}  # the master gives secrets to no other host
    if not site["secret_key"] and uses:
        yield ("secret_key",), f"missing: {several} need the same key: set it, or {MASTER}"
    for name, secret in site["secrets"].items():
        if "generate" in secret and "value" not in secret and uses:
            yield ("secrets", name), f"each of {several} would generate another value: set the value, or {MASTER}"
    for alias, database in site["databases"].items():
        key = ("databases", alias)
        if database["engine"] == "sqlite":
            yield (*key, "engine"), f"a file of SQLite is on one host only, and {several} need one database: set host"
        elif database.get("manage") and not hosts_with(site, "database"):
            yield (*key, "host"), f"missing: {several} need one database server"
    stores: list[tuple[tuple[str, ...], Any]] = [(("queue", "host"), site.get("queue"))]
    stores += [(("caches", alias, "host"), store) for alias, store in site.get("caches", {}).items()]
    for place, store in stores:
        is_own = store and store["engine"] in ("redis", "memcached") and not store["host"]
        if is_own and not hosts_with(site, "cache"):
            yield place, f"missing: {several} need one server: set host, or give a host the part cache"
    if site["migrate"]["unsafe"] == "maintenance":
        yield ("migrate", "unsafe"), f"expected refuse or allow: {several} have a maintenance page each"
    if site["media"]["shared"] is None and "mount" not in site["media"]:
        text = (
            f"missing: {several} have an own folder for uploads each: true if ROOT/media is a mount of the same "
            "files on all, or set media:mount; false if the project stores uploads elsewhere or has none"
        )
        yield ("media", "shared"), text
