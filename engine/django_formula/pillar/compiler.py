"""Compile the pillar into the effective configuration of each site, or into everything that is wrong with it.

`django/schema.yaml` defines what is valid. These modules run while Salt renders, before the formula's modules are
synced to the minion (`django_pillar_render`), so they import the standard library and each other only.
"""

from __future__ import annotations

from typing import Any

from django_formula.deploy import order
from django_formula.kind import kinds
from django_formula.pillar import balancer, cache, fleet
from django_formula.pillar import database as pillar_database
from django_formula.pillar import page as pillar_page
from django_formula.pillar import people as pillar_people
from django_formula.pillar import push as pillar_push
from django_formula.pillar import rules as pillar_rules
from django_formula.pillar import site as pillar_site
from django_formula.pillar import watch as pillar_watch
from django_formula.pillar.check import Problem, Rules, check, lines, plain, prune, report, resolve, shown, traps
from django_formula.pillar.database import oversized
from django_formula.pillar.layers import as_given, complete, fill, fill_by_kind, merge
from django_formula.pillar.site import contradictions, contradictions_between
from django_formula.release import templates


def compile(pillar: Any, schema: Rules, platforms: dict[str, Any], grains: Any) -> dict[str, Any]:
    """Return the effective configuration of each site, or everything that is wrong with the pillar.

    Args:
        pillar: the minion's pillar, of which only the key ``django`` is read.
        schema: ``schema.yaml``.
        platforms: ``platforms.yaml``.
        grains: of the minion; ``os_family``, ``os`` and ``osmajorrelease`` choose the platform, ``init`` is systemd
            where that is PID 1, ``uid`` is the user of Salt, ``id`` is the minion's name.

    Returns:
        ``errors``: lines that name the key and the mistake.
        ``sites`` and ``absent``: configurations by the name of the site, empty when there are errors; each secret is a
        reference to its place, ``{"pillar": "django:sites:blog:secret_key"}``.
        ``balanced``: configurations of the sites that this host balances between their hosts.
        ``served``: those of the sites whose database or cache this host has for the others.
        ``servers``: database engines with a server on this host.
        ``stores``: kinds of the servers that each site has of its own. ``proxies``: kinds of proxies.
        ``default_servers``: by proxy, templates of the server that refuses unknown hosts.
        ``templates``: those of each site's server and process manager, URLs by the name of the site.
        ``steps``: those of each site, by its name: pairs of the state function and what the state's id says.
        ``platform``: the entry of ``platforms.yaml``. ``process``: the process manager of the sites.
        ``python_mirror``: where interpreters are installed from, instead of their publisher.
        ``watch``: the configuration of the host's watch, and what sends its messages (`pillar.watch`); or None.
        ``page``: how the page of the host is served (`pillar.page`); or None.
        ``people``: what people may do with the sites, and their keys (`pillar.people`).
    """
    found: list[Problem] = []
    platform = _platform(platforms, grains, found)
    rules = resolve(schema, schema)["properties"]["django"]
    host = str(grains.get("id", ""))
    if "django" not in pillar:
        text = f"missing: top.sls gives this minion, {host}, no pillar with it"
        found.append((("django",), f"{text}; salt-call pillar.items shows what it gets"))
    given = plain(pillar.get("django"), rules, ("django",), found)
    report(found, traps(given, rules, ("django",)))
    departures = check(given, rules, ("django",))
    prune(given, [*found, *departures])
    report(found, departures)
    layers = given if isinstance(given, dict) else {}
    process = _process_manager(layers, grains, found)
    configurations, problems = _configurations(layers, platform.get("defaults", {}), rules, process, host)
    if grains.get("init") != "systemd":
        problems += pillar_site.without_systemd(configurations)
    problems += pillar_page.contradictions(layers, rules, configurations, host)
    problems += pillar_people.contradictions(configurations)
    problems += pillar_push.contradictions(configurations)
    report(found, problems)
    sites = {} if found else configurations
    for site in sites.values():
        pillar_push.complete(site)
    watch = None if found else pillar_watch.compiled(layers, rules, sites, host)
    people = pillar_people.compiled(sites)
    present = {name: site for name, site in sites.items() if site["state"] != "absent"}
    mirror = layers.get("python_mirror")
    return {
        "errors": lines(found),
        **_summary(sites),
        "platform": platform,
        "process": process,
        "python_mirror": mirror,
        "watch": watch,
        "people": people,
        "page": pillar_page.compiled(layers, rules, present, host),
        "points": pillar_database.points(present),
    }


def _summary(configurations: dict[str, Any]) -> dict[str, Any]:
    """Return the sites that are present and absent, and which database servers and proxies the host needs for them."""
    absent = {name: site for name, site in configurations.items() if site["state"] == "absent"}
    sites = {name: site for name, site in configurations.items() if name not in absent}
    fleets = {name: site["fleet"] for name, site in configurations.items() if "fleet" in site}
    databases = [database for site in sites.values() for database in site["databases"].values()]
    served_engines = {engine for site in configurations.values() for engine in pillar_database.engines_served(site)}
    proxies = sorted({site["proxy"]["kind"] for site in sites.values()} - {"none"})
    return {
        "sites": sites,
        "absent": absent,
        "balanced": {name: configurations[name] for name, one in fleets.items() if "balancer" in one["parts"]},
        "served": {
            name: configurations[name] for name, one in fleets.items() if {"database", "cache"} & {*one["parts"]}
        },
        "servers": sorted({database["engine"] for database in databases if database["manage"]} | served_engines),
        "stores": {name: kinds.own_stores(site) for name, site in sites.items()},
        "steps": {name: order.states(site) for name, site in sites.items()},
        "templates": {name: templates.of_kinds(site) for name, site in sites.items()},
        "default_servers": {kind: _default_server(kind, sites) for kind in proxies},
        "proxies": proxies,
    }


def _default_server(kind: str, sites: dict[str, Any]) -> list[str]:
    """Return the URLs of the templates of a proxy's server that refuses unknown hosts."""
    has_https = any(site["proxy"]["kind"] == kind and site["tls"]["kind"] != "none" for site in sites.values())
    return kinds.default_server_templates(kind, has_https=has_https)


def _platform(platforms: dict[str, Any], grains: Any, found: list[Problem]) -> dict[str, Any]:
    """Return what ``platforms.yaml`` has for this minion."""
    if grains.get("uid", 0) != 0:
        text = "expected 0 (root), which may create users, packages and services: run Salt with sudo"
        found.append((("grains", "uid"), f"{text}, got {shown(grains['uid'])}"))
    family = grains.get("os_family")
    if family not in platforms:
        known = ", ".join(name for name in platforms if "-" not in name)
        found.append((("grains", "os_family"), f"expected one of {known}, got {shown(family)}"))
        return {}
    release = platforms.get(f"{grains.get('os', family)}-{grains.get('osmajorrelease')}", {})
    return merge(platforms[family], release, {}, (), [])


def _process_manager(layers: Any, grains: Any, found: list[Problem]) -> str:
    """Return the process manager of the sites of this host."""
    chosen, init = layers.get("process") or "auto", grains.get("init")
    if chosen == "systemd" and init != "systemd":
        text = f"expected auto or supervisor, got systemd, which is not PID 1 of this host (grain init: {init})"
        found.append((("django", "process"), text))
    return str(chosen) if chosen != "auto" else "systemd" if init == "systemd" else "supervisor"


def _configurations(
    layers: Any, platform: Any, rules: Rules, process: str, host: str
) -> tuple[dict[str, Any], list[Problem]]:
    """Return the configuration of each site, and what contradicts itself in them."""
    problems: list[Problem] = []
    site_rules = rules["properties"]["defaults"]
    defaults = layers.get("defaults") or {}
    notify = pillar_watch.channels(layers, rules, problems)
    problems += pillar_watch.contradictions_of_host(layers, process)
    lower = {**platform, **({"notify": notify} if notify else {})}
    inherited = merge(lower, defaults, site_rules, ("django", "defaults"), problems)
    problems += oversized(defaults, ("django", "defaults"))
    configurations = {}
    for name, own in sorted((layers.get("sites") or {}).items()):
        path, own = ("django", "sites", name), own or {}
        merged = merge(inherited, own, site_rules, path, problems)
        if merged.get("database") and merged.get("databases"):
            problems.append(((*path, "databases"), "expected either database or databases, got both"))
        if merged.get("cache") and merged.get("caches"):
            problems.append(((*path, "caches"), "expected either cache or caches, got both"))
        given = fill(merged, site_rules)
        completed = complete(name, fill(merged, site_rules), site_rules)
        site = configurations[name] = {**completed, "process": process}
        for part in ("server", "proxy"):
            part_rules = site_rules["properties"][part]
            problems += fill_by_kind((part,), site[part], own.get(part) or {}, part_rules, name)
        problems += pillar_site.complete_workers(site, own, site_rules, name)
        problems += [((*path, *key), text) for key, text in fleet.complete(site, host)]
        problems += [((*path, *key), text) for key, text in pillar_database.complete_on_host(site)]
        problems += [((*path, *key), text) for key, text in pillar_database.complete_pool(site)]
        balancer.complete(site)
        host_scope = pillar_rules.Scope(rules["properties"], {"process": process})
        effective = as_given(site, given)
        problems += pillar_rules.contradictions(given, own, effective, site_rules, [host_scope], path)
        problems += [((*path, *key), text) for key, text in contradictions(site, own)]
        own_channels = pillar_watch.contradictions_of_site(site.get("notify", {}), notify)
        problems += [((*path, "notify", *key), text) for key, text in own_channels]
        problems += oversized(own, path)
        cache.settle_stores(site)
        fleet.settle_hosts(site)
        balancer.settle_balancer(site)
    return configurations, [*problems, *contradictions_between(configurations)]
