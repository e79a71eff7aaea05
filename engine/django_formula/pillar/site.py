"""Contradictions within a site, and between the sites of a host: what takes more than other options' values.

What does not is in `django/schema.yaml` (`pillar.rules`). `WITHIN` and `BETWEEN` list every other rule; a new
one is a function there.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Callable, Collection, Iterator
from typing import Any

from django_formula.host import cron
from django_formula.kind import kinds
from django_formula.pillar import cache, database, fleet, parts, store
from django_formula.pillar import listen as pillar_listen
from django_formula.pillar import proxy as pillar_proxy
from django_formula.pillar.check import Path, Problem, Rules, is_number, shown
from django_formula.pillar.layers import LOOPBACK, fill_by_kind
from django_formula.pillar.rules import used
from django_formula.server import servers

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
    yield from database.pools_between(sites)
    yield from database.dropped(sites)


# Within a site


def domains(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield domains that redirect to a wildcard or to themselves."""
    if site["redirect_domains"] and site["domains"] and site["domains"][0].startswith("*."):
        text = "are redirected to the first of domains, which is a wildcard: put a host name first there"
        yield ("redirect_domains",), text
    for domain in sorted({*site["domains"]} & {*site["redirect_domains"]}):
        yield ("redirect_domains",), f"{domain} is in domains too: remove one of them"


def ways(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield that requests wait for a server at a port, which nginx asks whatever `socket` of its release leads to."""
    if site["releases"]["wait"] and site["server"]["bind"] != "unix":
        text = f"not supported with server:bind: {site['server']['bind']}: remove that, and nginx has a unix socket"
        yield ("releases", "wait"), text


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


# Containers


def container(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield limits that are a part of the host's, which engines do not take."""
    if site.get("container") is None:
        return
    places: dict[tuple[str, ...], Any] = {("resources",): site["resources"]}
    places |= {("workers", name, "resources"): one["resources"] for name, one in site.get("workers", {}).items()}
    for at, limits in places.items():
        for name in ("MemoryMax", "TasksMax"):
            if str(limits.get(name, "")).endswith("%"):
                yield (*at, name), f"expected a number in a container, got {limits[name]}"


def promotions(sites: Sites) -> Iterator[Problem]:
    """Yield sites that get their commits from a site which is not there, or from themselves."""
    for name, site in sites.items():
        origin, is_on_master = (site["promote"] or {}).get("from"), "fleet" in site
        if origin and (origin == name or (origin not in sites and not is_on_master)):
            text = "is this site itself" if origin == name else "is no site of this host"
            yield ("django", "sites", name, "promote", "from"), f"{origin} {text}"


def without_systemd(sites: dict[str, Site]) -> Iterator[Problem]:
    """Yield what sites have that needs systemd, on a host where it is not PID 1: control groups, sockets of root."""
    for name, site in sorted(sites.items()):
        if site.get("push"):
            text = "supported where systemd is PID 1, which it is not on this host: set repository instead"
            yield ("django", "sites", name, "push"), text
        if site.get("container") is not None:
            text = "supported where systemd is PID 1, which it is not on this host"
            yield ("django", "sites", name, "container"), f"{text}: remove it, or see docs/guides/compose.md"


# Mail


def email(site: dict[str, Any], _own: dict[str, Any]) -> Iterator[Problem]:
    """Yield a login that everybody on the way can read, mail without an effect, and words without a server."""
    words = {name: value.get("from", "") for name, value in site["environment"].items() if isinstance(value, dict)}
    used = {name: word for name, word in words.items() if word.startswith("email_")}
    mail = site.get("email")
    if not mail:
        yield from ((("environment", name), f"{word} is not known: set email:host") for name, word in used.items())
        return
    if mail["user"] and mail["password"] and mail["tls"] == "none" and mail["host"] not in LOOPBACK:
        yield ("email", "tls"), f"expected starttls or tls, since the password is sent to {mail['host']}"
    if not site["overlay"] and not used:
        yield ("email",), "has no effect with overlay: false, unless environment takes email_url or another word of it"


# Schedules


def schedules(site: dict[str, Any], _own: dict[str, Any]) -> Iterator[Problem]:
    """Yield what cron does not take of the times of schedules."""
    for name, schedule in site.get("schedules", {}).items():
        yield from ((("schedules", name, "at"), text) for text in cron.problems(schedule["at"] or ""))


def units_of_schedules(sites: Sites) -> Iterator[Problem]:
    """Yield schedules whose units have the names of those of another site: `backup` of blog, and a site blog-at."""
    for name, site in sites.items():
        for schedule in site.get("schedules", {}) if f"{name}-at" in sites else ():
            if kinds.is_of_site(schedule):
                text = f"django-{name}-at-{schedule} is also a unit of site {name}-at: choose another name"
                yield ("django", "sites", name, "schedules", schedule), text


# The application server

KEPT_IDLE = 60  # seconds that a proxy keeps an idle connection to a server


def server_modules(site: Site, own: Site) -> Iterator[Problem]:
    """Yield a module of the project that the server does not run."""
    runs = servers.traits(site["server"]).interface
    unused = "wsgi" if runs == "asgi" else "asgi"
    if own.get(unused) and not own.get(runs):
        kind = site["server"]["kind"]
        yield (unused,), f"has no effect: {kind} runs {runs.upper()} here; set {runs}, or another server:kind"


def server_threads(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield threads of a server whose processes serve many requests in one thread."""
    server = site["server"]
    concurrency = servers.traits(server).concurrency
    if concurrency and server["threads"] > 1:
        text = f"expected 1 with {concurrency}, which serves many requests at a time in one thread"
        yield ("server", "threads"), f"{text}, got {server['threads']}"


def embedded_options(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield options of mod_wsgi's daemon processes where the project runs in Apache's own."""
    server = site["server"]
    used = servers.traits(server).used_options
    for option in sorted({*server["options"]} - {*used}) if used is not None else ():
        text = "has no effect with mode: embedded; it is an option of the processes of mode: daemon"
        yield ("server", "options", option), text


def server_keepalive(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield servers that close a connection after its request, or before the proxy does."""
    if not site["proxy"]["keepalive"] or site["proxy"]["kind"] == "none":
        return
    server = site["server"]
    kind, options = servers.traits(server), server["options"]
    if not kind.keepalive:
        text = f"not supported with {kind.title}; it is with uvicorn, and with gunicorn and threads, gevent or uvicorn"
        yield ("proxy", "keepalive"), text
    elif kind.is_cutting and server["max_requests"]:
        text = "expected 0 with proxy:keepalive, since uvicorn cuts the connections of a process that it replaces"
        yield ("server", "max_requests"), f"{text}, got {server['max_requests']}"
    idle = options.get(kind.keepalive)
    if is_number(idle) and idle <= KEPT_IDLE:
        text = f"expected more than the {KEPT_IDLE} seconds that the proxy keeps a connection"
        yield ("server", "options", kind.keepalive), f"{text}, got {idle}"


# Static files that are served or pushed elsewhere


def static_url(site: dict[str, Any], _own: Any) -> Iterator[Problem]:
    """Yield a URL of static files that is set twice."""
    if site["static"].get("url") and "STATIC_URL" in site["settings"]:
        yield ("settings", "STATIC_URL"), "static:url sets it too: remove one of them"


def same_destinations(sites: dict[str, Any]) -> Iterator[Problem]:
    """Yield sites that push to the same place, where each would delete files of the other."""
    pushing = {name: site for name, site in sites.items() if site["static"].get("push")}
    places = {name: _destination(site) for name, site in pushing.items()}
    for (first, one), (second, other) in itertools.combinations(places.items(), 2):
        if one == other:
            key = "prefix" if sites[second]["static"]["push"].get("kind") == "s3" else "path"
            text = f"site {first} pushes to the same place, and each would delete the other's files: choose another one"
            yield ("django", "sites", second, "static", "push", key), text


def _destination(site: dict[str, Any]) -> tuple[Any, ...]:
    push = site["static"]["push"]
    of_store = ("endpoint", "region", "bucket", "prefix") if push.get("kind") == "s3" else ("host", "path")
    return tuple(push[name] for name in of_store)


# Workers: what their kinds make of the configuration, and what contradicts itself in it

#: The variable by which Celery takes the signals that end a worker for others, and why a site has none.
REMAP = "REMAP_SIGTERM"


def complete_workers(site: Site, own: Site, rules: Rules, name: str) -> Iterator[Problem]:
    """Complete the workers of a site by their kinds, and yield what these refuse; without workers nothing changes.

    Args:
        site: the configuration, which is changed.
        own: what the site itself sets.
        rules: of a site.
        name: of the site.
    """
    of_one = rules["properties"]["workers"]["additionalProperties"]
    completed = {}
    for worker, chosen in (site.pop("workers", None) or {}).items():
        place = ("workers", worker)
        if not chosen["kind"]:
            continue
        own_part = (own.get("workers") or {}).get(worker) or {}
        yield from fill_by_kind(place, chosen, own_part, of_one, name)
        resources = {**site["resources"], **chosen["resources"]}
        completed[worker] = {**{option: chosen[option] for option in used(of_one, chosen)}, "resources": resources}
    if completed:
        site["workers"] = completed


def single_workers(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield a second worker of a kind of which a site has one."""
    first: dict[str, str] = {}
    for name, worker in site.get("workers", {}).items():
        kind = worker["kind"]
        other = first.setdefault(kind, name)
        if kinds.WORKERS[kind].is_single and other != name:
            yield ("workers", name, "kind"), f"{other} is of kind {kind} too, and two of them send each task twice"


def worker_signals(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield the variable by which a worker of Celery would lose what it has in hand when it is stopped."""
    if any(worker["kind"] == "celery" for worker in site.get("workers", {}).values()):
        for key in ("environment", "secrets"):
            if REMAP in site[key]:
                text = "refused: with it Celery takes the SIGTERM of a stop for an order to abort running tasks"
                yield (key, REMAP), text


# Rows of knowledge


def knowledge_patterns(site: dict[str, Any], _own: dict[str, Any]) -> Iterator[Problem]:
    """Yield patterns that are no regular expressions, as Python reports it."""
    for part in ("causes", "headers", "libraries"):
        for name, row in (site["knowledge"].get(part) or {}).items():
            try:
                re.compile(row.get("match") or "")
            except re.error as error:
                yield ("knowledge", part, name, "match"), f"expected a regular expression of Python: {error}"


# All of them


#: Every rule for one site: what contradicts it, by paths relative to the site.
def hook(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield a webhook that does not know its branch: what is pushed chooses nothing."""
    if site.get("hook") and not site["folder"] and re.fullmatch("HEAD|[0-9a-f]{40}", site["revision"]):
        yield ("hook",), "needs the name of the branch: set revision, such as main"


WITHIN: tuple[Callable[[Site, Site], Iterator[Problem]], ...] = (
    domains,
    server_modules,
    server_threads,
    embedded_options,
    paths,
    ways,
    hook,
    pillar_listen.server_port,
    pillar_listen.networks,
    pillar_listen.within,
    pillar_proxy.upstreams,
    server_keepalive,
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
    database.points_within,
    store.stores,
    store.sessions,
    store.environment,
    static_url,
    commands,
    container,
    single_workers,
    worker_signals,
    schedules,
    email,
    knowledge_patterns,
    fleet.hosts,
    fleet.shared,
    parts.contradictions,
)

#: Every rule for the present sites of a host.
BETWEEN: tuple[Callable[[Sites], Iterator[Problem]], ...] = (
    addresses,
    below_wildcards,
    pillar_listen.between,
    database.between,
    database.points_between,
    store.between,
    units_of_schedules,
    same_destinations,
    promotions,
)
