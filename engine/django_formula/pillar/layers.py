"""Merge the layers of the pillar into a site's configuration, and complete it with what is derived.

The order is: defaults of the schema < platform < `django:defaults` < the site; null takes an inherited value back.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from django_formula.database import engines
from django_formula.kind import kinds
from django_formula.pillar.check import Path, Problem, Rules, check, rule_of
from django_formula.pillar.rules import used
from django_formula.server import servers

NOTHING_INHERITED = (
    "expected a value, got nothing (null): write '' for an empty text; nothing is inherited that null could take back"
)


#: Options that a site's configuration has only where they are used.
_LEFT_OUT = ("schedules", "email", "hosts", "fleet", "container", "uid", "notify", "people", "push", "hook")
#: The names of this host for a mail server on it, and the ports of mail servers by their encryption.
LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MAIL_PORTS = {"none": 25, "starttls": 587, "tls": 465}


def merge(lower: Any, upper: Any, rules: Rules, path: Path, problems: list[Problem]) -> dict[str, Any]:
    """Return ``upper`` over ``lower``: maps merge key by key, lists and scalars replace, null removes.

    Secrets of ``upper`` become references to their place in the pillar.
    """
    merged = dict(lower)
    for name, value in upper.items():
        rule = rule_of(rules, name)
        if value is None and (name in lower or "type" in rule):
            if name not in lower and name not in rules.get("properties", ()):
                problems.append(((*path, name), NOTHING_INHERITED))
            merged.pop(name, None)
        elif isinstance(value, dict):
            beneath = lower.get(name)
            beneath = beneath if isinstance(beneath, dict) and not rule.get("whole") else {}
            merged[name] = merge(beneath, value, rule, (*path, name), problems)
        elif rule.get("secret") and isinstance(value, str) and not re.match(rule.get("plain", "$."), value):
            merged[name] = {"pillar": ":".join((*path, name))}
        else:
            merged[name] = value
    return merged


def fill(value: Any, rules: Rules) -> Any:
    """Return the value with the schema's default for each option that it lacks."""
    if isinstance(value, dict) and ("properties" in rules or "additionalProperties" in rules):
        filled = {name: fill(item, rule_of(rules, name)) for name, item in value.items()}
        for name, rule in rules.get("properties", {}).items():
            if "default" in rule and name not in filled:
                filled[name] = fill(rule["default"], rule)
        return filled
    if isinstance(value, list):
        return [fill(item, rules.get("items", {})) for item in value]
    if isinstance(value, float) and value.is_integer() and "integer" in rules.get("type", ()):
        return int(value)
    return value


def fill_by_kind(part: Path, chosen: dict[str, Any], own: dict[str, Any], rules: Rules, name: str) -> Iterator[Problem]:
    """Fill in the defaults of the kind of a site's server, proxy or worker, and yield what that kind refuses.

    Args:
        part: where it is in the configuration: ``("server",)``, or ``("workers", "default")``.
        chosen: the part, which is changed.
        own: what the site itself sets of it.
        rules: of the part.
        name: of the site.
    """
    for option, rule in rules["properties"].items():
        kind = rule.get("kinds", {}).get(chosen["kind"])
        if kind and chosen[option] is None:
            varied = servers.traits(chosen).max_requests if option == "max_requests" else None
            chosen[option] = kind["default"] if varied is None else varied
        for place, text in check(chosen[option], kind) if kind else ():
            is_own = place[0] in (own.get(option) or {}) if place else option in own
            layer = ("sites", name) if is_own else ("defaults",)
            yield ("django", *layer, *part, option, *place), text


def complete(name: str, site: dict[str, Any], rules: Rules) -> dict[str, Any]:
    """Return the configuration with what is derived, and in one shape where the pillar has several ways to write it.

    Args:
        name: of the site.
        site: its configuration, with defaults.
        rules: of a site.
    """
    derived = {"name": name, "root": f"/srv/django/{name}", "user": name, "domains": [], "listener": ""}
    databases = site["databases"] or {"default": site["database"]}
    unused = {key for key in _LEFT_OUT if not site[key]}
    return {
        **derived,
        **{key: value for key, value in site.items() if key not in {"database", "cache", *unused}},
        **_complete_stores(site, rules["properties"]["queue"]),
        **_complete_tls(site),
        **_complete_address(name, site),
        **_complete_static(name, site),
        **_complete_email(site["email"]),
        **({"hook": {"secret": None} if site["hook"] is True else site["hook"]} if site["hook"] else {}),
        "environment": {key: _text(value) for key, value in site["environment"].items()},
        "secrets": {key: _complete_secret(key, entry) for key, entry in site["secrets"].items()},
        "databases": {alias: _complete_database(name, alias, entry, site) for alias, entry in databases.items()},
    }


def _complete_email(email: dict[str, Any] | None) -> dict[str, Any]:
    """Return the mail server of a site with its port and encryption; nothing without one."""
    if not email:
        return {}
    usual = "none" if email["host"] in LOOPBACK else "starttls"
    tls = email["tls"] or usual
    return {"email": {**email, "tls": tls, "port": email["port"] or _MAIL_PORTS[tls]}}


def _complete_tls(site: dict[str, Any]) -> dict[str, Any]:
    """Return what certificates change: ports of https are not served by http, and `acme` has a client."""
    tls, changed = site["tls"], {}
    if tls["kind"] != "none":
        listen = [port for port in site["proxy"]["listen"] if port not in tls["listen"]]
        changed["proxy"] = {**site["proxy"], "listen": listen}
    if tls["kind"] == "acme" and not tls["client"]:
        client = "certbot" if tls["eab"]["key_id"] else "uacme"  # uacme takes the key of a binding as an argument
        changed["tls"] = {**tls, "client": client}
    return changed


def _complete_address(name: str, site: dict[str, Any]) -> dict[str, Any]:
    """Return where the server listens, and without a proxy where systemd listens for the site."""
    server = site["server"]
    port = servers.SERVERS[server["kind"]].TRAITS.port
    if port and not server["bind"]:
        return {"server": {**server, "bind": f"{loopback(name)}:{port}"}}
    if site["proxy"]["kind"] == "none":  # systemd listens on that address, and connects to the socket of `current`
        bind = server["bind"] or "unix"
        return {"listener": "" if bind == "unix" else bind, "server": {**server, "bind": "unix"}}
    return {}


def _complete_static(name: str, site: dict[str, Any]) -> dict[str, Any]:
    """Return static files with the site's part of a bucket: below its name, where the pillar has no other."""
    static = site["static"]
    push = static.get("push")
    if not push or push.get("kind") != "s3" or push["prefix"] is not None:
        return {}
    return {"static": {**static, "push": {**push, "prefix": name}}}


def loopback(name: str) -> str:
    """Return an address of loopback for one site alone, outside 127.0.0.0/16, which other programs use."""
    one, two, three = hashlib.sha256(name.encode()).digest()[:3]
    return f"127.{one % 254 + 1}.{two}.{three % 254 + 1}"


def _complete_secret(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return a secret with the environment variable that holds it, or the path of its file."""
    given = {"value": {"pillar": entry["pillar"]}, "as": entry["as"]} if "pillar" in entry else entry
    usual = f"{name}_FILE" if entry["as"] == "file" else name
    return {**given, "variable": entry.get("variable") or usual}


def _complete_database(name: str, alias: str, database: dict[str, Any], site: dict[str, Any]) -> dict[str, Any]:
    """Return a database with how the project gets it, and on a server with its name and login.

    It has the key `extensions` only if there are some.
    """
    engine = database["engine"]
    way = "settings" if site["overlay"] or engine == "sqlite" else "environment"
    derived: dict[str, Any] = {"as": way} if engine else {}
    if engine in engines.SERVERS:
        manage = database["host"] is None if database["manage"] is None else database["manage"]
        user = site.get("user") or name if manage else name
        derived |= {"manage": manage, "user": user}
        if alias == "default" or manage:
            derived["name"] = name if alias == "default" else f"{name}_{alias}"
        if manage and not is_over_socket(database):
            derived["password"] = {"generate": 40}
    if engine and (database["as"] or way) == "environment":
        derived["variable"] = "DATABASE_URL" if alias == "default" else f"{alias.upper()}_DATABASE_URL"
    complete = {**database, **{key: value for key, value in derived.items() if database[key] is None}}
    return complete if complete["extensions"] else {key: complete[key] for key in complete if key != "extensions"}


def as_given(site: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return a completed configuration in the shape that the pillar has."""
    shaped = {**given, **site}
    for several, one in (("databases", "database"), ("caches", "cache")):
        if given.get(several):
            shaped.pop(one, None)
        else:
            shaped[one] = shaped.pop(several, {}).get("default")
    return shaped


def _complete_stores(site: dict[str, Any], rules: Rules) -> dict[str, Any]:
    """Return the queue and the caches of a site, by alias; nothing for a site without them."""
    caches = site.get("caches") or ({"default": site["cache"]} if site.get("cache") else {})
    found: dict[str, Any] = {}
    if site.get("queue"):
        found["queue"] = _complete_store(site["queue"], rules, is_queue=True)
    if caches:
        found["caches"] = {alias: _complete_store(entry, rules, is_queue=False) for alias, entry in caches.items()}
    return found


def _complete_store(entry: dict[str, Any], rules: Rules, *, is_queue: bool) -> dict[str, Any]:
    """Return a store with what is derived: of a server of its own memory and files, of one elsewhere the port."""
    kind = kinds.STORES.get(entry["engine"])
    derived: dict[str, Any] = {"memory": "256M" if is_queue else "64M", "sync": "everysec" if is_queue else "never"}
    if entry["host"]:
        derived = {"port": kind.port if kind else 0}
    elif kind:
        derived = {key: value for key, value in derived.items() if key in used(rules, entry)}
    else:
        derived = {}
    return {**entry, **{key: value for key, value in derived.items() if entry[key] is None}}


def is_over_socket(database: dict[str, Any]) -> bool:
    """Return whether the server of a database is reached over a unix socket of this host."""
    return not database["host"] or database["host"].startswith("/")


def _text(value: Any) -> Any:
    """Return a value of ``environment`` as the process gets it; ``{from: …}`` stays as it is."""
    return value if isinstance(value, str | dict) else json.dumps(value)
