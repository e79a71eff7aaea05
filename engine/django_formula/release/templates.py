"""The templates that a site and its releases are rendered from, by its server, workers, process manager and proxy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django_formula.kind import kinds
from django_formula.server import servers


def of_instance(site: Mapping[str, Any]) -> list[str]:
    """Return the URLs of the templates of a site's server, workers and process manager, which a release is made of.

    Args:
        site: its configuration.
    """
    names = [*kinds.PROCESS_MANAGERS[site["process"]], *servers.SERVERS[site["server"]["kind"]].TRAITS.templates]
    if site.get("container"):
        own = kinds.CONTAINER_TEMPLATES[site["process"]][site["container"]["engine"]]
        names += [name for name in own if name not in names]
    for worker in (site.get("workers") or {}).values():
        own = (*kinds.WORKER_TEMPLATES[site["process"]], *kinds.WORKERS[worker["kind"]].templates)
        names += [name for name in own if name not in names]
    return [f"{kinds.FILES}{name}" for name in names if name]


def of_kinds(site: Mapping[str, Any]) -> list[str]:
    """Return the URLs of the templates of a site's server, workers, stores, process manager and proxy.

    Args:
        site: its configuration.
    """
    names = []
    has_https = site["tls"]["kind"] != "none"
    proxy = kinds.PROXIES.get(site["proxy"]["kind"])
    if proxy:
        names = [*proxy.site, proxy.domain, proxy.redirect, proxy.default_server, *([proxy.tls] if has_https else [])]
    if kinds.own_stores(site):
        names += kinds.STORE_TEMPLATES[site["process"]]
    names += ["django_formula_said.py"] if proves(site) else []
    return [*of_instance(site), *(f"{kinds.FILES}{name}" for name in names if name)]


def proves(site: Mapping[str, Any]) -> bool:
    """Return whether releases of a site prove themselves, so that each response names what is compared.

    For a replay alone it does where nginx is there to remove it.

    Args:
        site: its configuration.
    """
    has_replay = bool(site["releases"].get("replay")) and site["proxy"]["kind"] == "nginx"
    return "canary" in site["releases"] or has_replay
