"""
The pillar, merged and checked: from what the operator wrote to the effective configuration of each site.

While Salt renders, before anything of ours has been synced, this file is run by Salt's py renderer (``run``); later
it is a module like the others. So it imports nothing of ours. ``django/schema.yaml`` says what is valid.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import itertools
import json
import math
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import date
from typing import Any

Rules = dict[str, Any]  # a part of the schema, its references resolved
Path = tuple[Any, ...]  # where a value stands in the pillar: ("django", "sites", "blog", "domains", 0)
Problem = tuple[Path, str]  # where, and what is wrong there

SOCKET_PATH = 107  # bytes that the kernel accepts as the path of a unix socket
ARGUMENT = 128 * 1024  # bytes of one NAME=value, with the NUL at its end, that a process can be started with
SERVERS = ("postgres", "mysql")  # engines of databases that are reached over a connection
LOCAL = ("localhost", "127.0.0.1", "::1")  # hosts of a server on this host
RESERVED_DATABASES = ("postgres", "template0", "template1", "mysql", "sys", "information_schema", "performance_schema")
RESERVED_LOGINS = ("postgres", "root", "mysql", "mariadb.sys", "public", "none")
APACHE = 8471  # the first of the two ports at which an Apache with mod_wsgi listens on an address of its own
HEAVIEST = 100  # the greatest weight that Apache takes
KEPT_IDLE = 60  # seconds that a proxy keeps an idle connection to a server
SHOWN = 60  # characters of a value that an error shows
UNREADABLE = object()  # stands for a value that no JSON can hold and that has been reported already

TYPES: dict[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _number(value) and value == int(value),
    "number": lambda value: _number(value),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
WORDS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "string": "a string",
    "array": "a list",
    "object": "a map",
}
TRAPS: list[tuple[Callable[[str], bool], str]] = [
    (
        lambda text: text == "**********",
        "expected the value itself or an sdb:// reference, got Salt's mask of it, as pillar.get returns it",
    ),
    (
        lambda text: "-----BEGIN PGP MESSAGE" in text,
        "expected plain text, got a PGP message: does the pillar file begin with #!yaml|gpg?",
    ),
    (
        lambda text: 0 <= text.find("{{") < text.rfind("}}") or 0 <= text.find("{%") < text.rfind("%}"),
        "expected a rendered value, got Jinja: does the pillar file begin with #!yaml?",
    ),
]
NOTHING_TO_TAKE_BACK = (
    "expected a value, got nothing (null): write '' for an empty text; nothing is inherited to take back"
)

# Each file that imports map.jinja executes this one anew. The pillar of one apply is one object, so what was compiled
# from it last is kept from one execution to the next: reading the schema through Salt costs more than all the rest.
KEPT: list[Any] = getattr(sys.modules.get("django_pillar"), "KEPT", [])


def run() -> dict[str, Any]:
    """What ``map.jinja`` imports: ``compile`` over this minion's pillar and grains."""
    context = globals()  # Salt's py renderer puts __salt__ and the like here
    environment = {"saltenv": context["saltenv"]} if context.get("saltenv") else {}

    def read(name: str) -> Any:
        return context["__salt__"]["slsutil.renderer"](f"salt://django/{name}", default_renderer="yaml", **environment)

    given = context["__pillar__"].get("django")
    if not KEPT or KEPT[0] is not given:
        compiled = compile({"django": given}, read("schema.yaml"), read("platforms.yaml"), context["__grains__"])
        KEPT[:] = [given, compiled]
    result: dict[str, Any] = KEPT[1]
    return result


def compile(pillar: Any, schema: Rules, platforms: dict[str, Any], grains: Any) -> dict[str, Any]:
    """
    The effective configuration of each site, or everything that is wrong with the pillar.

    :param pillar: the minion's pillar, of which only the key ``django`` is read
    :param schema: ``schema.yaml``
    :param platforms: ``platforms.yaml``
    :param grains: ``os_family`` and ``osmajorrelease`` choose the platform, ``init`` says whether there is systemd,
        ``uid`` whose Salt this is
    :return: ``errors``, lines in the words of the pillar; ``sites`` and ``absent``, configurations by the name of the
        site (empty when there are errors) that hold each secret as ``{"pillar": "django:sites:blog:secret_key"}``;
        ``servers``, engines of databases on this host; ``proxies``, their kinds; ``platform``, what
        ``platforms.yaml`` says about this one;
        ``process``, who keeps the sites alive
    """
    found: list[Problem] = []
    platform = _platform(platforms, grains, found)
    rules = resolve(schema, schema)["properties"]["django"]
    given = _plain(pillar.get("django"), rules, ("django",), found)
    _report(found, _traps(given, rules, ("django",)))
    departures = check(given, rules, ("django",))
    _prune(given, [*found, *departures])
    _report(found, departures)
    layers = given if isinstance(given, dict) else {}
    process = _process(layers, grains, found)
    configurations, contradictions = _configurations(layers, platform.get("defaults", {}), rules, process)
    _report(found, contradictions)
    host = {"platform": platform, "process": process}
    if found:
        return {"errors": _lines(found), "sites": {}, "absent": {}, "servers": [], "proxies": [], **host}
    absent = {name: site for name, site in configurations.items() if site["state"] == "absent"}
    sites = {name: site for name, site in configurations.items() if name not in absent}
    databases = [database for site in sites.values() for database in site["databases"].values()]
    servers = sorted({database["engine"] for database in databases if database["manage"]})
    proxies = sorted({site["proxy"]["kind"] for site in sites.values()} - {"none"})
    return {"errors": [], "sites": sites, "absent": absent, "servers": servers, "proxies": proxies, **host}


def _platform(platforms: dict[str, Any], grains: Any, found: list[Problem]) -> dict[str, Any]:
    if grains.get("uid", 0) != 0:
        text = "expected 0 (root), since users, packages and services are made: run it with sudo"
        found.append((("grains", "uid"), f"{text}, got {_shown(grains['uid'], {})}"))
    family = grains.get("os_family")
    if family not in platforms:
        known = ", ".join(name for name in platforms if "-" not in name)
        found.append((("grains", "os_family"), f"expected one of {known}, got {_shown(family, {})}"))
        return {}
    release = platforms.get(f"{family}-{grains.get('osmajorrelease')}", {})
    return _merge(platforms[family], release, {}, (), [])


def _process(layers: Any, grains: Any, found: list[Problem]) -> str:
    """Who keeps the sites of this host alive."""
    said, init = layers.get("process") or "auto", grains.get("init")
    if said == "systemd" and init != "systemd":
        text = f"expected auto or supervisor, got systemd, which does not run here as PID 1 (grain init: {init})"
        found.append((("django", "process"), text))
    return str(said) if said != "auto" else "systemd" if init == "systemd" else "supervisor"


# Merging


def _configurations(layers: Any, platform: Any, rules: Rules, process: str) -> tuple[dict[str, Any], list[Problem]]:
    """Schema defaults < platform < django:defaults < site, and what contradicts itself in the result."""
    problems: list[Problem] = []
    site_rules = rules["properties"]["defaults"]
    defaults = layers.get("defaults") or {}
    inherited = _merge(platform, defaults, site_rules, ("django", "defaults"), problems)
    problems += _oversized(defaults, ("django", "defaults"))
    configurations = {}
    for name, own in sorted((layers.get("sites") or {}).items()):
        path = ("django", "sites", name)
        merged = _merge(inherited, own or {}, site_rules, path, problems)
        if merged.get("database") and merged.get("databases"):
            problems.append(((*path, "databases"), "expected either database or databases, got both"))
        configurations[name] = {**_complete(name, _fill(merged, site_rules)), "process": process}
        for part in ("server", "proxy"):
            problems += _problems_of_its_kind(part, configurations[name], own or {}, site_rules, name)
        problems += [((*path, *key), text) for key, text in _site_contradictions(configurations[name], own or {})]
        problems += _oversized(own or {}, path)
    problems += _contradictions_between(configurations)
    return configurations, problems


def _merge(lower: Any, upper: Any, rules: Rules, path: Path, problems: list[Problem]) -> dict[str, Any]:
    """
    ``upper`` over ``lower``: maps key by key, lists and scalars replace, null takes the inherited value back.

    Secrets of ``upper`` become references to their place in the pillar.
    """
    merged = dict(lower)
    for name, value in upper.items():
        rule = _rule(rules, name)
        if value is None and (name in lower or "type" in rule):
            if name not in lower and name not in rules.get("properties", ()):
                problems.append(((*path, name), NOTHING_TO_TAKE_BACK))
            merged.pop(name, None)
        elif isinstance(value, dict):
            beneath = lower.get(name)
            beneath = beneath if isinstance(beneath, dict) and not rule.get("whole") else {}
            merged[name] = _merge(beneath, value, rule, (*path, name), problems)
        elif rule.get("secret") and isinstance(value, str) and not re.match(rule.get("plain", "$."), value):
            merged[name] = {"pillar": ":".join((*path, name))}
        else:
            merged[name] = value
    return merged


def _rule(rules: Rules, name: str) -> Rules:
    """The rules of one key of a map."""
    rule = rules.get("properties", {}).get(name, rules.get("additionalProperties", {}))
    return rule if isinstance(rule, dict) else {}


def _fill(value: Any, rules: Rules) -> Any:
    """The value with every default of the schema in its place."""
    if isinstance(value, dict) and ("properties" in rules or "additionalProperties" in rules):
        filled = {name: _fill(item, _rule(rules, name)) for name, item in value.items()}
        for name, rule in rules.get("properties", {}).items():
            if "default" in rule and name not in filled:
                filled[name] = _fill(rule["default"], rule)
        return filled
    if isinstance(value, list):
        return [_fill(item, rules.get("items", {})) for item in value]
    if isinstance(value, float) and value.is_integer() and "integer" in rules.get("type", ()):
        return int(value)
    return value


def _problems_of_its_kind(
    part: str, site: dict[str, Any], own: dict[str, Any], rules: Rules, name: str
) -> Iterator[Problem]:
    """What is wrong for the kind of server or proxy that a site has; what that kind decides by default is filled in."""
    chosen, said = site[part], own.get(part) or {}
    for option, rule in rules["properties"][part]["properties"].items():
        kind = rule.get("kinds", {}).get(chosen["kind"])
        if kind and chosen[option] is None:
            is_uvicorn = option == "max_requests" and chosen["options"].get("worker_class") == "uvicorn"
            chosen[option] = 0 if is_uvicorn else kind["default"]
        for place, text in check(chosen[option], kind) if kind else ():
            is_own = place[0] in (said.get(option) or {}) if place else option in said
            layer = ("sites", name) if is_own else ("defaults",)
            yield ("django", *layer, part, option, *place), text


def _complete(name: str, site: dict[str, Any]) -> dict[str, Any]:
    """The configuration with its name, what is derived from that, and one shape for what may be written in several."""
    derived = {"name": name, "root": f"/srv/django/{name}", "user": name, "domains": [], "listener": ""}
    environment = {key: _text(value) for key, value in site["environment"].items()}
    secrets = {key: _complete_secret(key, entry) for key, entry in site["secrets"].items()}
    databases = site["databases"] or {"default": site["database"]}
    databases = {alias: _complete_database(name, alias, database, site) for alias, database in databases.items()}
    rest = {key: value for key, value in site.items() if key != "database"}
    if site["tls"]["kind"] != "none":
        listen = [port for port in site["proxy"]["listen"] if port not in site["tls"]["listen"]]
        rest["proxy"] = {**site["proxy"], "listen": listen}
    if site["tls"]["kind"] == "acme" and not site["tls"]["client"]:
        client = "certbot" if site["tls"]["eab"]["key_id"] else "uacme"  # which takes its key as an argument
        rest["tls"] = {**site["tls"], "client": client}
    if site["server"]["kind"] == "mod_wsgi" and not site["server"]["bind"]:
        rest["server"] = {**site["server"], "bind": f"{_loopback(name)}:{APACHE}"}
    elif site["proxy"]["kind"] == "none":  # whoever listens on that address leads to the socket of the live release
        bind = site["server"]["bind"] or "unix"
        rest |= {"listener": "" if bind == "unix" else bind, "server": {**site["server"], "bind": "unix"}}
    return {**derived, **rest, "environment": environment, "secrets": secrets, "databases": databases}


def _loopback(name: str) -> str:
    """An address of loopback that no other site has, nor anybody else: 127.0.0.0/16 is left out."""
    one, two, three = hashlib.sha256(name.encode()).digest()[:3]
    return f"127.{one % 254 + 1}.{two}.{three % 254 + 1}"


def _complete_secret(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """A secret with the variable of it, or of its file."""
    given = {"value": {"pillar": entry["pillar"]}, "as": entry["as"]} if "pillar" in entry else entry
    usual = f"{name}_FILE" if entry["as"] == "file" else name
    return {**given, "variable": entry.get("variable") or usual}


def _complete_database(name: str, alias: str, database: dict[str, Any], site: dict[str, Any]) -> dict[str, Any]:
    """A database with what is derived: how the project gets it, and on a server its name and login."""
    engine = database["engine"]
    way = "settings" if site["overlay"] or engine == "sqlite" else "environment"
    derived: dict[str, Any] = {"as": way} if engine else {}
    if engine in SERVERS:
        manage = database["host"] is None if database["manage"] is None else database["manage"]
        user = site.get("user") or name if manage else name
        derived |= {"manage": manage, "user": user, **({"name": name} if alias == "default" else {})}
        if manage and not _over_socket(database):
            derived["password"] = {"generate": 40}
    if engine and (database["as"] or way) == "environment":
        derived["variable"] = "DATABASE_URL" if alias == "default" else f"{alias.upper()}_DATABASE_URL"
    return {**database, **{key: value for key, value in derived.items() if database[key] is None}}


def _over_socket(database: dict[str, Any]) -> bool:
    """Whether a server of this host is reached over its unix socket."""
    return not database["host"] or database["host"].startswith("/")


def _text(value: Any) -> Any:
    """A value of ``environment`` as the process sees it; what is taken from elsewhere stays as it is."""
    return value if isinstance(value, str | dict) else json.dumps(value)


# Contradictions: what no single option can see


def _site_contradictions(site: dict[str, Any], own: dict[str, Any]) -> Iterator[Problem]:
    """What contradicts itself within a site, by paths relative to it; ``own`` is what the site itself says."""
    if site["repository"] and site["folder"]:
        yield ("folder",), "expected either repository or folder, got both"
    if site["state"] == "present" and not (site["repository"] or site["folder"]):
        yield ("repository",), "missing: a site needs a repository or a folder"
    if site["state"] == "present" and not site["domains"]:
        yield ("domains",), "missing: a site needs at least one host name, such as [blog.example.org]"
    if site["folder"] and own.get("revision"):
        yield ("revision",), "a folder has no revision: leave it out, or name a repository instead of the folder"
    if site["settings"] and not site["overlay"]:
        yield ("settings",), "nothing is laid over the project with overlay: false; use environment instead"
    for domain in sorted({*site["domains"]} & {*site["redirect_domains"]}):
        yield ("redirect_domains",), f"{domain} is one of domains too"
    interface = _interface(site["server"])
    other = "wsgi" if interface == "asgi" else "asgi"
    if own.get(other) and not own.get(interface):
        text = f"has no effect: {site['server']['kind']} runs {interface.upper()} here; say {interface}, or another"
        yield (other,), f"{text} server:kind"
    at_once = _many_at_once(site["server"])
    if at_once and site["server"]["threads"] > 1:
        text = f"expected 1 with {at_once}, which takes many requests at a time in one, got {site['server']['threads']}"
        yield ("server", "threads"), text
    for option in sorted({*site["server"]["options"]} - {"mode"}) if _is_embedded(site["server"]) else ():
        yield ("server", "options", option), "has no effect with mode: embedded; it is of the processes of mode: daemon"
    for key in ("sandbox", "build_sandbox", "resources", "mount"):
        if site[key] and site["process"] != "systemd":
            yield (key,), f"{site['process']} keeps the sites of this host, and only systemd can do this: leave it out"
    if site["index"]["user"] and not site["index"]["url"]:
        yield ("index", "url"), "missing: a login goes with the url of an index"
    if bool(site["index"]["user"]) != bool(site["index"]["password"]):
        yield ("index", "password" if site["index"]["user"] else "user"), "missing: a login is a user and a password"
    for part, key in (("maintenance", "allow"), ("proxy", "allow"), ("proxy", "trusted")):
        for index, network in enumerate(site[part][key]):
            yield from (((part, key, index), text) for text in _network_problem(network))
    yield from _path_contradictions(site)
    yield from _listen_contradictions(site)
    yield from _upstream_contradictions(site["proxy"])
    if site["proxy"]["keepalive"] and site["proxy"]["kind"] != "none":
        yield from _keepalive_contradictions(site["server"])
    yield from _proxy_contradictions(site, own)
    yield from _tls_contradictions(site)
    yield from _overlaps(site)
    for alias, database in site["databases"].items():
        place = ("databases", alias) if "databases" in own or alias != "default" else ("database",)
        takes = alias == "default" and {"from": "database_url", "join": ","} in site["environment"].values()
        for key, text in _database_contradictions(database, site["overlay"], takes or database["as"] == "environment"):
            yield (*place, key), text
        for key, text in _managed_contradictions(database, site["user"]) if database["manage"] else ():
            yield (*place, key), text
    yield from _shared_logins(site["databases"])
    yield from _environment_contradictions(site)
    yield from _command_contradictions(site)


def _listen_contradictions(site: dict[str, Any]) -> Iterator[Problem]:
    """Addresses to listen at that are none, and those that are among all addresses."""
    for key in ("proxy", "tls"):
        listens = site[key]["listen"]
        for index, listen in enumerate(listens):
            yield from (((key, "listen", index), text) for text in _place_problem(listen))
            for other in listens[:index]:
                if _hides(listen, other):
                    text = f"{listen} and {other} are the same port at all addresses and at one: name one of them"
                    yield (key, "listen", index), text


def _place_problem(place: Any) -> Iterator[str]:
    """What is wrong with an address and a port."""
    host, port = _host(place), _ports([place])[0]
    try:
        known = str(ipaddress.ip_address(host)) if host else ""
    except ValueError:
        yield f"expected an address and a port, got {_shown(place, {})}"
        return
    if port > 65535:
        yield f"expected a port from 1 to 65535, got {_shown(place, {})}"
    elif host != known:
        yield f"write the address as {known}, got {_shown(place, {})}"


def _hides(one: Any, other: Any) -> bool:
    """Whether of two places to listen at one is among those that the other stands for."""
    hosts = {_host(one), _host(other)}
    if len(hosts) == 1 or _ports([one]) != _ports([other]):
        return False
    try:
        addresses = {ipaddress.ip_address(host) for host in hosts if host}
    except ValueError:
        return False  # it has been said
    is_one_family = len({address.version for address in addresses}) == 1
    return "" in hosts or (is_one_family and any(address.is_unspecified for address in addresses))


def _host(listen: Any) -> str:
    """The address at which is listened, empty for all."""
    return str(listen).rpartition(":")[0].strip("[]")


def _ports(listens: list[Any]) -> list[int]:
    return [int(str(listen).rpartition(":")[2]) for listen in listens]


def _interface(server: dict[str, Any]) -> str:
    """What a server asks the project for, as its module says too, which cannot be asked here."""
    if server["kind"] == "granian":
        return "wsgi" if server["options"].get("interface") == "wsgi" else "asgi"
    is_uvicorn = server["kind"] == "uvicorn" or server["options"].get("worker_class") == "uvicorn"
    return "asgi" if is_uvicorn else "wsgi"


def _proxy_contradictions(site: dict[str, Any], own: dict[str, Any]) -> Iterator[Problem]:
    """What the proxy of a site has not, or nobody does where it has none."""
    kind = site["proxy"]["kind"]
    if kind == "apache":
        yield from _apache_contradictions(site["proxy"])
    if site["proxy"]["trusted_headers"] and not site["proxy"]["trusted"] and kind != "none":
        yield ("proxy", "trusted_headers"), "has no effect without proxies that send them: name these in proxy:trusted"
    for index, name in enumerate(site["proxy"]["trusted_headers"]):
        if name.lower() in map(str.lower, site["proxy"]["headers"]):
            yield ("proxy", "trusted_headers", index), f"proxy:headers sets {name}: leave out one of them"
    if kind == "none":
        yield from _contradictions_without_a_proxy(site, own)


def _apache_contradictions(proxy: dict[str, Any]) -> Iterator[Problem]:
    """What Apache has no word for, or takes for something else."""
    if proxy["limit_req"]["rate"]:
        yield ("proxy", "limit_req", "rate"), "Apache has no word for it: leave it out, or have nginx"
    for name, value in proxy["headers"].items():
        if value.startswith("expr="):
            yield ("proxy", "headers", name), "Apache evaluates what begins with expr=: say another value"
    if "429" in proxy["error_pages"]:
        yield ("proxy", "error_pages", "429"), "has no effect with Apache, which limits no requests"
    if "Require" in proxy["options"] and proxy["allow"]:
        yield ("proxy", "options", "Require"), "would take the place of proxy:allow: leave out one of them"
    if proxy["balance"] in ("ip_hash", "hash"):
        yield ("proxy", "balance"), f"Apache has no {proxy['balance']}: say round_robin or least_conn, or have nginx"
    for address, said in proxy["upstreams"].items():
        if said["max_fails"] is not None:
            text = "Apache leaves a server out after one failure, for fail_timeout: leave it out, or have nginx"
            yield ("proxy", "upstreams", address, "max_fails"), text
        if (said["weight"] or 1) > HEAVIEST:
            text = f"expected at most {HEAVIEST}, which is what Apache takes, got {said['weight']}"
            yield ("proxy", "upstreams", address, "weight"), text


def _contradictions_without_a_proxy(site: dict[str, Any], own: dict[str, Any]) -> Iterator[Problem]:
    """What only a proxy of the formula would do; ``own`` tells what is said from what is so by default."""
    proxy = site["proxy"]
    keys: tuple[str, ...] = ("headers", "allow", "snippets", "trusted", "trusted_headers")
    keys += ("options", "locations", "error_pages", "keepalive", "upstreams")
    said: dict[Path, Any] = {("proxy", key): proxy[key] for key in keys}
    for part, key in (("proxy", "listen"), ("static", "expires"), ("media", "max_upload"), ("maintenance", "page")):
        said[(part, key)] = (own.get(part) or {}).get(key)
    said[("proxy", "access_log")] = proxy["access_log"] != "combined"
    said[("proxy", "balance")] = proxy["balance"] != "round_robin"
    said |= {("media", key): site["media"][key] for key in ("protected", "download")}
    said[("tls", "kind")] = site["tls"]["kind"] != "none"
    said[("redirect_domains",)] = site["redirect_domains"]
    said[("maintenance", "allow")] = site["maintenance"]["allow"]
    said[("proxy", "limit_req", "rate")] = proxy["limit_req"]["rate"]
    for path, value in said.items():
        if value:
            yield path, "there is no proxy for this with proxy:kind: none: your own does it, leave it out"
    if site["adopt"]:
        yield ("adopt",), "an old site is taken over by a switch of its proxy: have nginx or apache"
    if site["server"]["kind"] == "mod_wsgi":
        yield ("server", "kind"), "mod_wsgi has no socket to which another proxy could lead: have nginx or apache"


def _upstream_contradictions(proxy: dict[str, Any]) -> Iterator[Problem]:
    """Several servers behind one site: what the proxy refuses, and what has no effect."""
    balance, upstreams = proxy["balance"], proxy["upstreams"]
    others = {address: said for address, said in upstreams.items() if address != "self"}
    for address in others:
        yield from ((("proxy", "upstreams", address), text) for text in _place_problem(address))
    if not others and (upstreams or balance != "round_robin"):
        key = "upstreams" if upstreams else "balance"
        yield ("proxy", key), "has no effect without another server in proxy:upstreams, such as 192.0.2.11:8001: {}"
    if others and proxy["keepalive"]:
        yield ("proxy", "keepalive"), "cannot be together with proxy:upstreams: a release there would cut connections"
    if (balance == "hash") != bool(proxy["hash"]):
        missing = "missing: balance: hash takes what is hashed, such as cookie_sessionid"
        yield ("proxy", "hash"), missing if balance == "hash" else "has no effect without balance: hash"
    backups = [address for address, said in upstreams.items() if said["backup"]]
    if backups and balance in ("ip_hash", "hash"):
        yield ("proxy", "upstreams", backups[0], "backup"), f"cannot be together with proxy:balance: {balance}"
    elif others and len(backups) == len({*others, "self"}):
        yield ("proxy", "upstreams"), "expected one that is no backup"


def _keepalive_contradictions(server: dict[str, Any]) -> Iterator[Problem]:
    """Servers that end a connection with its request, or before the proxy has given it up."""
    kind, options = server["kind"], server["options"]
    is_uvicorn = "uvicorn" in (kind, options.get("worker_class"))
    is_sync = server["threads"] == 1 and options.get("worker_class", "sync") == "sync"
    if kind not in ("gunicorn", "uvicorn") or (kind == "gunicorn" and is_sync):
        what = "gunicorn with worker_class sync" if kind == "gunicorn" else kind
        text = f"{what} is not known to keep one: gunicorn with threads, gevent or uvicorn does, and uvicorn itself"
        yield ("proxy", "keepalive"), text
    elif is_uvicorn and server["max_requests"]:
        text = "expected 0 with proxy:keepalive, since uvicorn cuts the connections of a process that it replaces"
        yield ("server", "max_requests"), f"{text}, got {server['max_requests']}"
    for option in sorted({"keepalive", "timeout_keep_alive"} & {*options}):
        if _number(options[option]) and options[option] <= KEPT_IDLE:
            text = f"expected more than the {KEPT_IDLE} seconds that a connection is kept, got {options[option]}"
            yield ("server", "options", option), text


def _many_at_once(server: dict[str, Any]) -> str:
    """What in a server has no threads to answer with, for it takes many requests in one; empty where it has them."""
    options = server["options"]
    if server["kind"] == "granian":
        return "" if options.get("interface") == "wsgi" else "ASGI"
    return str(options["worker_class"]) if options.get("worker_class") in ("gevent", "uvicorn") else ""


def _is_embedded(server: dict[str, Any]) -> bool:
    return bool(server["kind"] == "mod_wsgi" and server["options"].get("mode") == "embedded")


def _network_problem(network: str) -> Iterator[str]:
    try:
        found = ipaddress.ip_network(network, strict=False)
    except ValueError:
        yield f"expected an address or a network, such as 10.0.0.0/8 or 2001:db8::/32, got {_shown(network, {})}"
        return
    if "/" in network and network.partition("/")[0] != str(found.network_address):
        yield f"expected the first address of the network, {found}, got {_shown(network, {})}"


def _path_contradictions(site: dict[str, Any]) -> Iterator[Problem]:
    root = site["root"]
    socket = f"{root}/current/socket"
    if len(socket.encode()) > SOCKET_PATH:
        limit = SOCKET_PATH - len("/current/socket")
        yield ("root",), f"expected at most {limit} bytes, got {len(root.encode())}: a socket lies below it"
    if site["folder"] and _nested(site["folder"], root):
        yield ("folder",), f"{site['folder']} and the root {root} lie within each other: move one of them"
    if site["mount"] and _nested(site["mount"], root):
        yield ("mount",), f"{site['mount']} and the root {root} lie within each other: move one of them"
    port = _port(site)
    if port and port > 65534:
        yield ("server", "bind"), f"expected a port from 1 to 65534, since the next one is used too, got {port}"


def _tls_contradictions(site: dict[str, Any]) -> Iterator[Problem]:
    """Options of another kind of certificates, ones that are missing, and domains that can have none."""
    tls, kind = site["tls"], site["tls"]["kind"]
    of_kind = {"certificate": "files", "key": "files", "email": "acme", "hook": "acme", "client": "acme"}
    for key, wanted in of_kind.items():
        if tls[key] and kind != wanted:
            yield ("tls", key), f"has no effect with kind: {kind}; it is of kind: {wanted}"
    for key in ("key_id", "key"):
        if tls["eab"][key] and kind != "acme":
            yield ("tls", "eab", key), f"has no effect with kind: {kind}; it is of kind: acme"
        elif any(tls["eab"].values()) and not tls["eab"][key]:
            yield ("tls", "eab", key), "missing: a binding is a key_id and a key"
    if kind == "none":
        if 443 in _ports(site["proxy"]["listen"]):
            text = "443 is a port of https, and tls:kind is none: choose a kind, or leave the port out"
            yield ("proxy", "listen"), text
        return
    for key in ("certificate", "key"):
        if kind == "files" and not tls[key]:
            yield ("tls", key), "missing: with kind: files there is a certificate and its key"
    if kind == "acme" and (tls["challenge"] == "dns-01") != bool(tls["hook"]):
        text = "missing: dns-01 takes a program" if not tls["hook"] else "has no effect with challenge: http-01"
        yield ("tls", "hook"), text
    if kind == "acme" and tls["challenge"] == "http-01" and 80 not in _ports(site["proxy"]["listen"]):
        text = "expected port 80 among them, where the authority asks with tls:challenge: http-01"
        yield ("proxy", "listen"), f"{text}, got {site['proxy']['listen']}"
    for key in ("domains", "redirect_domains"):
        for index, domain in enumerate(site[key]):
            if re.fullmatch(r"[0-9.]+", domain):
                yield (key, index), f"{domain} is an address, and with https only names tell sites apart: name a host"
            elif kind == "acme" and "." not in domain:
                yield (key, index), f"{domain} is no name of the public DNS, and no authority signs for it"


def _database_contradictions(database: dict[str, Any], overlay: bool, in_url: bool) -> Iterator[tuple[str, str]]:
    """What contradicts itself in one database, by its key; `in_url` says whether the project gets it as a URL."""
    engine, way = database["engine"], database["as"]
    said = [key for key, value in database.items() if key not in ("engine", "migrate") and value not in (None, {})]
    if not engine:
        yield from ((key, "has no effect without an engine: add engine: sqlite, postgres or mysql") for key in said)
        return
    if engine == "sqlite":
        server = [key for key in said if key in ("user", "host", "port", "password", "manage")]
        yield from ((key, "SQLite is a file and has none: leave it out, or choose another engine") for key in server)
    elif not database["name"]:
        yield "name", "missing: expected the name of the database on its server"
    elif database["name"].startswith("/"):
        yield "name", "expected the name of the database on its server, got a path"
    elif way == "settings" and not overlay:
        yield "as", "nothing is laid over the project with overlay: false; use environment instead"
    if way == "settings" and database["variable"]:
        yield "variable", "has no effect without as: environment"
    if way == "environment" and database["settings"]:
        yield "settings", "a URL has no place for them; use as: settings instead"
    for name, value in database["options"].items() if in_url else ():
        if engine == "sqlite" or not isinstance(value, str | int | float):
            yield "options", f"a URL has no place for {name}; use as: settings instead"


def _managed_contradictions(database: dict[str, Any], user: str) -> Iterator[tuple[str, str]]:
    """What cannot be on a server of this host that the formula sets up; `user` is the site's."""
    if database["engine"] not in SERVERS:
        return
    if not _over_socket(database) and database["host"] not in LOCAL:
        yield "manage", f"expected a server of this host, got {database['host']}: leave manage out, or the host"
    for key, reserved in (("name", RESERVED_DATABASES), ("user", RESERVED_LOGINS)):
        said = database[key] or ""
        if said.lower() in reserved or said.startswith("pg_"):
            yield key, f"{said} is the server's own: choose another"
        elif len(said) > 63:
            yield key, f"expected at most 63 characters, got {len(said)}"
    known = database["engine"] == "postgres" or database["password"] or not _over_socket(database)
    if database["user"] != user and not known:
        yield (
            "user",
            f"over its unix socket MariaDB knows a login by the site's user, {user}: leave it out, or add a password",
        )


def _shared_logins(databases: dict[str, Any]) -> Iterator[Problem]:
    """Databases on a server of this host that have one login, and would have a password generated for each."""
    logins: dict[tuple[Any, ...], str] = {}
    for alias, database in databases.items():
        if database["manage"] and database["password"]:
            port = database["engine"] == "postgres" and (database["port"] or 5432)
            first = logins.setdefault((database["engine"], port, database["user"]), alias)
            if first != alias and "generate" in {*database["password"], *databases[first]["password"]}:
                text = (
                    f"{database['user']} is the login of {first} too, and has one password: name another, or give both"
                )
                yield ("databases", alias, "user"), f"{text} databases the same password"


def _overlaps(site: dict[str, Any]) -> Iterator[Problem]:
    """Paths in the source that lie within each other, of which each would undo the other."""
    named = [(key, path) for key in ("shared", "writable", "files") for path in site[key]]
    for (first_key, first), (key, path) in itertools.combinations(named, 2):
        if _nested(first, path):
            yield (key,), f"{path} and {first} (in {first_key}) lie within each other: name one of them"


def _environment_contradictions(site: dict[str, Any]) -> Iterator[Problem]:
    database = site["databases"].get("default", {})
    for name, value in site["environment"].items():
        if not isinstance(value, dict):
            continue
        source = value.get("from", "")
        key = source.removeprefix("database_") if source.startswith("database_") else ""
        if key and not database.get("engine"):
            yield ("environment", name), f"{source} is not known without database:engine"
        elif key and not _is_known(key, database):
            yield ("environment", name), f"{source} is not known: the database has no {key}"
        if value.get("join", ",") != "," and source not in ("domains", "secret_key_fallbacks"):
            yield ("environment", name, "join"), "only domains and secret_key_fallbacks are joined"
    taken = {**dict.fromkeys(site["environment"], "environment"), **_database_variables(site)}
    for name, value in site["environment"].items():
        is_it = isinstance(value, dict) and value.get("from") == "database_url"
        if taken[name] != "environment" and not (is_it and taken[name] == "the database default"):
            yield ("environment", name), f"{taken[name]} writes {name} already: name it in one of them"
    for name, entry in site["secrets"].items():
        variable = entry["variable"]
        if variable != name and entry["as"] == "variable":
            yield ("secrets", name, "variable"), "has no effect without as: file"
        if variable in taken:
            yield ("secrets", name), f"{variable} is in {taken[variable]} too: name it in one of them"
        taken[variable] = "secrets"


def _is_known(key: str, database: dict[str, Any]) -> bool:
    """Whether a database has what `environment` takes from it."""
    if key == "path":
        return bool(database["engine"] == "sqlite")
    return key in ("url", "name") or bool(database[key])


def _database_variables(site: dict[str, Any]) -> dict[str, str]:
    """The variables that databases are given by, each with its alias."""
    return {
        database["variable"]: f"the database {alias}"
        for alias, database in site["databases"].items()
        if database["as"] == "environment"
    }


def _command_contradictions(site: dict[str, Any]) -> Iterator[Problem]:
    listed: dict[Path, list[str]] = {("build",): site["build"]}
    listed |= {("commands", stage): commands for stage, commands in site["commands"].items()}
    for at, commands in listed.items():
        for index, command in enumerate(commands):
            try:
                words = shlex.split(command)
            except ValueError as error:
                yield (*at, index), f"expected a command with its quotes closed, got {_shown(command, {})}: {error}"
                continue
            operators = {"&&", "||", "|", ";", "&", ">", ">>", "<"} & {*words}
            if operators:
                yield (*at, index), f"no shell reads {min(operators)}: write several commands, or sh -c '…'"


def _oversized(layer: dict[str, Any], path: Path) -> Iterator[Problem]:
    """Variables that no process can be started with."""
    for key in ("environment", "secrets"):
        for name, value in (layer.get(key) or {}).items():
            text = value.get("value") if isinstance(value, dict) else value
            size = len(f"{name}={text}".encode("utf-8", "surrogatepass")) + 1
            if size > ARGUMENT:
                yield (*path, key, name), f"expected at most {ARGUMENT} bytes with its name, got {size}"


def _contradictions_between(sites: dict[str, Any]) -> Iterator[Problem]:
    present = {name: site for name, site in sites.items() if site["state"] == "present"}
    yield from _shared_addresses(present)
    yield from _shared_ports(present)
    yield from _shared_databases(present)
    for (first, one), (second, other) in itertools.combinations(sites.items(), 2):
        if _nested(one["root"], other["root"]):
            text = f"{other['root']} and the root {one['root']} of site {first} lie within each other: name another one"
            yield ("django", "sites", second, "root"), text
        if one["user"] == other["user"]:
            text = f"{other['user']} is the user of site {first} too: each site has its own"
            yield ("django", "sites", second, "user"), text


def _shared_addresses(sites: dict[str, Any]) -> Iterator[Problem]:
    """Domains that several sites have: each under a path of its own, all with the same server block."""
    owners: dict[str, list[tuple[str, str | None]]] = {}
    for name, site in sites.items():
        for key in ("domains", "redirect_domains"):
            for domain in site[key]:
                place = site["path"] if key == "domains" else None
                for other, other_place in owners.get(domain, ()):
                    if other != name:
                        yield from _shared_address(sites, (name, key, place), (other, other_place), domain)
                owners.setdefault(domain, []).append((name, place))


def _shared_address(sites: Any, mine: Any, theirs: Any, domain: str) -> Iterator[Problem]:
    (name, key, place), (other, other_place) = mine, theirs
    path = ("django", "sites", name)
    if place is None or other_place is None:
        yield (*path, key), f"{domain} belongs to site {other} too, and a redirected domain cannot be shared"
    elif place == other_place:
        yield (*path, key), f"{domain}{place} is served by site {other} already: use another domain or path"
    proxy, other_proxy = sites[name]["proxy"], sites[other]["proxy"]
    if proxy["kind"] != other_proxy["kind"]:
        text = f"expected {other_proxy['kind']}, since site {other} has {domain} too, got {proxy['kind']}"
        yield (*path, "proxy", "kind"), text
    elif {*proxy["listen"]} != {*other_proxy["listen"]}:
        ports, other_ports = proxy["listen"], other_proxy["listen"]
        text = f"expected {other_ports}, since site {other} has {domain} too, got {ports}"
        yield (*path, "proxy", "listen"), text
    elif sorted(proxy["trusted"]) != sorted(other_proxy["trusted"]):
        text = f"expected that of site {other}, which has {domain} too: say it once in django:defaults"
        yield (*path, "proxy", "trusted"), text
    elif sites[name]["tls"] != sites[other]["tls"]:
        yield (*path, "tls"), f"expected that of site {other}, which has {domain} too: say it once in django:defaults"


def _shared_ports(sites: dict[str, Any]) -> Iterator[Problem]:
    """Ports that two servers would bind; each takes turns on its own and the next one."""
    served = {name: site for name, site in sites.items() if site["proxy"]["kind"] != "none"}
    taken = {
        port: f"proxy:listen of site {name}"
        for name, site in served.items()
        for port in _ports(site["proxy"]["listen"])
    }
    yield from _hidden_addresses(served)
    holders: dict[int, tuple[str, str]] = {}
    for name, site in served.items():
        kind = site["proxy"]["kind"]
        for port in _ports([*site["proxy"]["listen"], *_secure(site)]):
            other, holder = holders.setdefault(port, (name, kind))
            if holder != kind:
                text = f"{kind} and {holder} of site {other} cannot both listen on port {port}: have one of them on it"
                yield ("django", "sites", name, "proxy", "kind"), text
    for name, site in sites.items():
        for port in _ports(_secure(site)):
            if port in taken and taken[port].startswith("proxy:listen"):
                text = f"port {port} is in {taken[port]}, and is http there: choose another port for one of them"
                yield ("django", "sites", name, "tls", "listen"), text
            taken.setdefault(port, f"tls:listen of site {name}")
    bound: dict[str, set[int]] = {}
    for name, site in sites.items():
        first = _port(site)
        mine = {first, first + (not site["listener"])} if first else set()
        for port in sorted(mine & {*taken}):
            yield ("django", "sites", name, "server", "bind"), f"port {port} is taken by {taken[port]}"
        for other, ports in bound.items():
            for port in sorted(mine & ports - {*taken}) if _meet(site, sites[other]) else ():
                text = f"port {port} is taken by server:bind of site {other}"
                yield ("django", "sites", name, "server", "bind"), text
        bound[name] = mine


def _hidden_addresses(sites: dict[str, Any]) -> Iterator[Problem]:
    """Addresses at which a proxy would look at one site alone, though others listen on the port at all addresses."""
    named: list[tuple[str, Any]] = []
    if all(isinstance(listen, int) for site in sites.values() for listen in [*site["proxy"]["listen"], *_secure(site)]):
        return
    for name, site in sites.items():
        for key, listens in (("proxy", site["proxy"]["listen"]), ("tls", _secure(site))):
            for listen in listens:
                for other, there in named:
                    if other != name and _hides(listen, there):
                        text = f"{listen} and {there} of site {other} are the same port at all addresses and at one, "
                        text += "where the proxy would have the latter alone: name addresses for both sites, or none"
                        yield ("django", "sites", name, key, "listen"), text
        named += [(name, listen) for listen in (*site["proxy"]["listen"], *_secure(site))]


def _secure(site: dict[str, Any]) -> list[Any]:
    """Where a site is served by https."""
    return list(site["tls"]["listen"]) if site["tls"]["kind"] != "none" else []


def _meet(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two servers that bind the same port are in each other's way: two addresses of loopback are not."""
    hosts = {(site["listener"] or site["server"]["bind"]).rpartition(":")[0] for site in (one, other)}
    return len(hosts) == 1 or not all(host.startswith("127.") for host in hosts)


def _shared_databases(sites: dict[str, Any]) -> Iterator[Problem]:
    """Databases and logins of this host's servers that several sites have."""
    owners: dict[tuple[Any, ...], str] = {}
    for name, site in sites.items():
        for alias, database in site["databases"].items():
            for key in ("name", "user") if database["manage"] else ():
                port = database["engine"] == "postgres" and (database["port"] or 5432)
                owner = owners.setdefault((database["engine"], port, key, database[key]), name)
                if owner != name:
                    place = ("database",) if list(site["databases"]) == ["default"] else ("databases", alias)
                    text = f"{database[key]} is site {owner}'s on this host's server: each has its own"
                    yield ("django", "sites", name, *place, key), text


def _port(site: dict[str, Any]) -> int:
    """The TCP port on which a site is reached without a proxy, or the first of its server's two; 0 for a socket."""
    bind = site["listener"] or site["server"]["bind"]
    return 0 if bind == "unix" else int(bind.rpartition(":")[2])


def _nested(one: str, other: str) -> bool:
    """Whether two paths are the same or one lies within the other."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


# Checking: the keywords of JSON Schema that schema.yaml uses


def resolve(rules: Any, schema: Rules) -> Any:
    """The schema with each ``$ref`` replaced by what it names, and each ``type`` a list."""
    if isinstance(rules, list):
        return [resolve(item, schema) for item in rules]
    if not isinstance(rules, dict):
        return rules
    resolved = {}
    if "$ref" in rules:
        resolved = resolve(schema["$defs"][rules["$ref"].rpartition("/")[2]], schema)
    for keyword, value in rules.items():
        if keyword == "properties":
            value = {name: resolve(rule, schema) for name, rule in value.items()}
        elif keyword == "type":
            value = [value] if isinstance(value, str) else value
        elif keyword not in ("$defs", "default", "enum"):
            value = resolve(value, schema)
        resolved[keyword] = value
    return resolved


def check(value: Any, rules: Rules, path: Path = ()) -> list[Problem]:
    """Where a value departs from its (resolved) schema, each in a sentence for the operator."""
    if value is UNREADABLE:
        return []
    if "type" in rules and not any(TYPES[name](value) for name in rules["type"]):
        return [(path, _expected(value, rules))]
    if "enum" in rules and value not in rules["enum"]:
        return [(path, _expected(value, rules))]
    if isinstance(value, dict):
        problems = list(_check_map(value, rules, path))
    elif isinstance(value, list):
        problems = list(_check_list(value, rules, path))
    else:
        problems = _check_scalar(value, rules, path)
    return problems or _check_combined(value, rules, path)


def _check_scalar(value: Any, rules: Rules, path: Path) -> list[Problem]:
    if isinstance(value, str):
        if len(value) > rules.get("maxLength", math.inf):
            return [(path, f"expected at most {rules['maxLength']} characters, got {len(value)}")]
        fits = "pattern" not in rules or re.fullmatch(rules["pattern"], value) is not None
    else:
        fits = not _number(value) or rules.get("minimum", -math.inf) <= value <= rules.get("maximum", math.inf)
    return [] if fits else [(path, _expected(value, rules))]


def _check_map(value: dict[str, Any], rules: Rules, path: Path) -> Iterator[Problem]:
    known = rules.get("properties", {})
    others = rules.get("additionalProperties", {})
    for name in rules.get("required", ()):
        if name not in value:
            yield (*path, name), f"missing: expected {wanted(known.get(name, {}))}"
    for name, item in value.items():
        place = (*path, name)
        if "propertyNames" in rules:
            yield from _check_name(name, rules["propertyNames"], place)
        if name in known:
            yield from check(item, known[name], place)
        elif others is False:
            yield place, _unknown(str(name), known)
        else:
            yield from check(item, others, place)


def _check_name(name: str, rules: Rules, place: Path) -> Iterator[Problem]:
    if "enum" in rules:
        if name not in rules["enum"]:
            yield place, _unknown(str(name), {choice: {} for choice in rules["enum"]})
        return
    for _, text in check(name, rules, place):
        text = text.removeprefix(f"{_shown(name, rules)} is ")  # the place says the name already
        yield place, text.replace("expected ", "expected as name ", 1)


def _check_list(value: list[Any], rules: Rules, path: Path) -> Iterator[Problem]:
    if len(value) < rules.get("minItems", 0):
        yield path, "expected at least one item, got an empty list"
    for index, item in enumerate(value):
        yield from check(item, rules.get("items", {}), (*path, index))
        if rules.get("uniqueItems") and item in value[:index]:
            yield (*path, index), f"{_shown(item, rules.get('items', {}))} is in the list twice"


def _check_combined(value: Any, rules: Rules, path: Path) -> list[Problem]:
    if "not" in rules and not check(value, rules["not"]):
        return [(path, f"{_shown(value, rules)} is refused: {rules['refuse']}")]
    for part in rules.get("allOf", ()):
        problems = check(value, part, path)
        if problems:
            return problems
    if "oneOf" in rules and sum(not check(value, choice) for choice in rules["oneOf"]) != 1:
        got = " and ".join(value) if isinstance(value, dict) and value else _shown(value, rules)
        return [(path, f"expected {rules['hint']}, got {got}")]
    return []


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# Wording


def _expected(value: Any, rules: Rules) -> str:
    choices = [choice for choice in rules.get("enum", ()) if isinstance(choice, str)]
    close = difflib.get_close_matches(value, choices, 1) if choices and isinstance(value, str) else []
    advice = f', did you mean "{close[0]}"?' if close else _advice(value, rules)
    return f"expected {wanted(rules)}, got {_shown(value, rules)}{advice}"


def wanted(rules: Rules) -> str:
    """What a value has to be, in words."""
    if "hint" in rules:
        return str(rules["hint"])
    if "enum" in rules:
        choices = ["true" if choice is True else str(choice) for choice in rules["enum"] if choice is not None]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if "minimum" in rules:
        return f"a whole number from {rules['minimum']} to {rules['maximum']}"
    return " or ".join(WORDS[name] for name in rules.get("type", ("string",)) if name != "null")


def _shown(value: Any, rules: Rules) -> str:
    """A value with its type, at most SHOWN characters of it, and nothing of a secret."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'a map'}{'' if value else ' that is empty'}"
    names = {bool: "boolean", str: "string", int: "number", float: "number"}
    kind = names.get(type(value), type(value).__name__)
    if rules.get("secret"):
        return f"a {kind} that is not shown"
    text = str(value).lower() if kind == "boolean" else re.sub("//[^/@]+@", "//…@", str(value))
    text = f"{text[:SHOWN]}…" if len(text) > SHOWN else text
    return f"{json.dumps(text, ensure_ascii=not text.isprintable()) if kind == 'string' else text} ({kind})"


def _advice(value: Any, rules: Rules) -> str:
    """How to write what was meant, where YAML read something else."""
    types = [name for name in rules.get("type", ()) if name != "null"]
    word = str(value).lower()
    if rules.get("format") == "hostname" and isinstance(value, str) and not value.isascii():
        return _form_in_dns(value, rules)
    if types == ["array"] and isinstance(value, str | int) and not check([value], rules):
        return f": write it as [{value}]"
    if types == ["array"] and isinstance(value, dict):
        return ': begin each line with "- "'
    if types == ["object"] and isinstance(value, list):
        return ': write "name: …" lines, without "- "'
    if "boolean" in types and isinstance(value, str) and word in ("yes", "on", "true", "no", "off", "false"):
        return f": write {'true' if word in ('yes', 'on', 'true') else 'false'} without quotes"
    if "integer" in types and isinstance(value, str) and re.fullmatch("[0-9]{1,9}", value):
        return ": write it without quotes"
    if "string" in types and isinstance(value, bool) and _looks_right("yes", rules):
        return ": quote it, since YAML reads yes, no, on and off as true and false"
    if "string" in types and _number(value) and _looks_right(str(value), rules):
        return ": quote it, since YAML reads it as a number"
    return f": quote it, since YAML reads it as a {type(value).__name__}" if isinstance(value, date) else ""


def _form_in_dns(name: str, rules: Rules) -> str:
    """How to write a host name that is not ASCII."""
    try:
        form = name.lower().encode("idna").decode()
    except UnicodeError:
        form = ""
    # Python has the form of 2003; for these characters today's is another, which may be somebody else's domain.
    if set("ßς\u200c\u200d") & set(name.lower()) or check(form, rules):
        return ": DNS has names in ASCII only, and this one's form is not known here: write it as the registrar does"
    return f": DNS has names in ASCII only, write it as {form}"


def _looks_right(text: str, rules: Rules) -> bool:
    return len(text) <= SHOWN and re.fullmatch(rules.get("pattern", ".*"), text) is not None


def _unknown(name: str, known: dict[str, Rules]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    inner = [f"{option}:{name}" for option, rules in known.items() if name in rules.get("properties", ())]
    if close or inner:
        return "unknown option, did you mean " + " or ".join(f'"{option}"' for option in [*close, *inner]) + "?"
    return f"unknown option, expected one of {', '.join(known)}" if 0 < len(known) <= 12 else "unknown option"


def _lines(problems: Iterable[Problem]) -> list[str]:
    """One line for each problem, sorted by its path."""

    def place(problem: Problem) -> list[str]:
        return [f"{step:06}" if isinstance(step, int) else step for step in problem[0]]

    return [f"{':'.join(_step(step) for step in path)} — {text}" for path, text in sorted(problems, key=place)]


def _step(step: Any) -> str:
    text = str(step)
    return text if re.fullmatch("[!-~]{1,200}", text) else json.dumps(text[:SHOWN])


# Reading


def _plain(value: Any, rules: Rules, path: Path, found: list[Problem]) -> Any:
    """A copy of what JSON can hold; what it cannot, such as a date, is reported and replaced by UNREADABLE."""
    if isinstance(value, dict):
        statuses = rules.get("propertyNames", {}).get("enum", ())
        for name in value:
            if not isinstance(name, str) and str(name) not in statuses:
                found.append(((*path, str(name)), f"expected a string as name, got {_shown(name, {})}: quote it"))
        return {
            str(name): _plain(item, _rule(rules, str(name)), (*path, str(name)), found) for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        inner = rules.get("items", {})
        return [_plain(item, inner, (*path, index), found) for index, item in enumerate(value)]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    finite = not isinstance(value, float)
    found.append((path, _expected(value, rules) if finite else f"expected a finite number, got {value}"))
    return UNREADABLE


def _traps(value: Any, rules: Rules, path: Path) -> Iterator[Problem]:
    """Strings that are certainly not what was meant."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _traps(item, _rule(rules, name), (*path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _traps(item, rules.get("items", {}), (*path, index))
    elif isinstance(value, str) and not rules.get("verbatim"):
        yield from ((path, text) for is_trap, text in TRAPS if is_trap(value))


def _report(found: list[Problem], problems: Iterable[Problem]) -> None:
    """Add problems, but for what follows from one that is reported already: above, below or at the same place."""
    earlier = [path for path, _ in found]
    for path, text in problems:
        if not any(path[: len(other)] == other[: len(path)] for other in earlier):
            found.append((path, text))


def _prune(given: Any, found: Iterable[Problem]) -> None:
    """Take out what is wrong, lists as a whole, so that the rest can be merged and checked."""
    for path, _ in found:
        node = given
        for depth, step in enumerate(path[1:], 2):
            child = node.get(step) if isinstance(node, dict) else None
            if depth == len(path) or not isinstance(child, dict):
                if isinstance(node, dict):
                    node.pop(step, None)
                break
            node = child
