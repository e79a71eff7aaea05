"""Contradictions about the proxy of a site and its certificates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from django_formula.kind import kinds
from django_formula.pillar.check import Problem
from django_formula.pillar.listen import invalid_place, port_of
from django_formula.server import servers

Site = dict[str, Any]  # the configuration of a site

#: The header that has the subject of a client's certificate, see `untrusted.headers`.
CLIENT_SUBJECT = "SSL-Client-S-DN"


def headers(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield trusted headers of proxies that the proxy sets itself."""
    proxy = site["proxy"]
    for index, name in enumerate(proxy["trusted_headers"]):
        if name.lower() in map(str.lower, proxy["headers"]):
            yield ("proxy", "trusted_headers", index), f"proxy:headers sets {name}: remove one of them"


def unsupported(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield what the site's proxy does not support, or would read as something else."""
    proxy = site["proxy"]
    kind = kinds.PROXIES.get(proxy["kind"])
    if not kind:
        return
    if "429" in proxy["error_pages"] and not kind.has_rate_limit:
        yield ("proxy", "error_pages", "429"), f"has no effect with {kind.title}, which does not limit requests"
    for name, value in proxy["headers"].items():
        if kind.evaluated and value.startswith(kind.evaluated):
            text = f"{kind.title} evaluates a value that begins with {kind.evaluated}: choose another one"
            yield ("proxy", "headers", name), text
    if kind.access in proxy["options"] and proxy["allow"]:
        yield ("proxy", "options", kind.access), "would override proxy:allow: remove one of them"
    for address, options in proxy["upstreams"].items():
        if (options["weight"] or 1) > kind.max_weight:
            text = f"expected at most {kind.max_weight}, the greatest that {kind.title} accepts"
            yield ("proxy", "upstreams", address, "weight"), f"{text}, got {options['weight']}"


def without_proxy(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield a server that has no socket for a proxy that is not the formula's."""
    kind = site["server"]["kind"]
    if site["proxy"]["kind"] == "none" and servers.SERVERS[kind].TRAITS.port:
        text = f"{kind} has no socket that another proxy could connect to: set proxy:kind to nginx or apache"
        yield ("server", "kind"), text


def upstreams(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield what the proxy refuses for several servers of one site, and what has no effect."""
    proxy = site["proxy"]
    balance, servers = proxy["balance"], proxy["upstreams"]
    remote = [address for address in servers if address != "self"]
    for address in remote:
        yield from ((("proxy", "upstreams", address), text) for text in invalid_place(address))
    if not remote and (servers or balance != "round_robin"):
        key = "upstreams" if servers else "balance"
        yield ("proxy", key), "has no effect without another server in proxy:upstreams, such as 192.0.2.11:8001: {}"
    if remote and proxy["keepalive"]:
        yield ("proxy", "keepalive"), "not supported with proxy:upstreams: a release there would cut connections"
    backups = [address for address, options in servers.items() if options["backup"]]
    if backups and balance in ("ip_hash", "hash"):
        yield ("proxy", "upstreams", backups[0], "backup"), f"not supported with proxy:balance: {balance}"
    elif remote and len(backups) == len({*remote, "self"}):
        yield ("proxy", "upstreams"), "expected at least one server that is not a backup"


# Certificates


def client_subject(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield the header that the proxy sets for clients with certificates."""
    for name in (CLIENT_SUBJECT,) if site["tls"]["client_ca"] else ():
        if name.lower() in map(str.lower, [*site["proxy"]["headers"], *site["proxy"]["trusted_headers"]]):
            yield ("proxy", "headers"), f"{name} is refused: with tls:client_ca the proxy sets it"


def tls_ports(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield a port of https that serves http, and a missing port for the challenges of an authority."""
    listen, tls = site["proxy"]["listen"], site["tls"]
    ports = [port_of(place) for place in listen]
    if tls["kind"] == "none" and 443 in ports:
        text = "443 is the port of https, and tls:kind is none: set tls:kind, or remove the port"
        yield ("proxy", "listen"), text
    if tls["kind"] == "acme" and tls["challenge"] == "http-01" and 80 not in ports and "balancer" not in site:
        text = "expected port 80 among them, where the authority connects for tls:challenge: http-01"
        yield ("proxy", "listen"), f"{text}, got {listen}"


def tls_domains(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield domains that cannot have a certificate."""
    kind = site["tls"]["kind"]
    for key in ("domains", "redirect_domains") if kind != "none" else ():
        for index, domain in enumerate(site[key]):
            if re.fullmatch(r"[0-9.]+", domain):
                text = f"{domain} is an address, and https needs a host name to tell sites apart: use a host name"
                yield (key, index), text
            elif kind == "acme" and domain.startswith("*.") and site["tls"]["challenge"] != "dns-01":
                text = (
                    f"an authority gives {domain} a certificate by dns-01 only: set tls:challenge: dns-01 and tls:hook"
                )
                yield (key, index), f"{text}, or tls:kind: files"
            elif kind == "acme" and "." not in domain.removeprefix("*."):
                yield (key, index), f"{domain} is not a public DNS name, and no authority issues a certificate for it"
