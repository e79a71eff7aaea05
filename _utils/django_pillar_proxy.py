"""Contradictions about the proxy of a site and its certificates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import django_kinds
from django_pillar_check import Path, Problem
from django_pillar_listen import invalid_place, port_of

Site = dict[str, Any]  # the configuration of a site

#: The header that has the subject of a client's certificate, see `django_wall_headers`.
CLIENT_SUBJECT = "SSL-Client-S-DN"
#: Options of `tls` that one kind of certificates has alone.
OF_KIND = {"certificate": "files", "key": "files", "email": "acme", "hook": "acme", "client": "acme"}


def run() -> dict[str, Any]:
    """Return nothing: Salt's py renderer only registers this module (see `django_pillar_render`)."""
    return {}


def headers(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield trusted headers of proxies that are not named, or that the proxy sets itself."""
    proxy = site["proxy"]
    if proxy["trusted_headers"] and not proxy["trusted"] and proxy["kind"] != "none":
        text = "has no effect without proxies that send them: list their addresses in proxy:trusted"
        yield ("proxy", "trusted_headers"), text
    for index, name in enumerate(proxy["trusted_headers"]):
        if name.lower() in map(str.lower, proxy["headers"]):
            yield ("proxy", "trusted_headers", index), f"proxy:headers sets {name}: remove one of them"


def unsupported(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield what the site's proxy does not support, or would read as something else."""
    proxy = site["proxy"]
    kind = django_kinds.PROXIES.get(proxy["kind"])
    if not kind:
        return
    instead = f"not supported by {kind.title}; remove it or set proxy:kind to nginx"
    if proxy["limit_req"]["rate"] and not kind.has_rate_limit:
        yield ("proxy", "limit_req", "rate"), instead
    if "429" in proxy["error_pages"] and not kind.has_rate_limit:
        yield ("proxy", "error_pages", "429"), f"has no effect with {kind.title}, which does not limit requests"
    for name, value in proxy["headers"].items():
        if kind.evaluated and value.startswith(kind.evaluated):
            text = f"{kind.title} evaluates a value that begins with {kind.evaluated}: choose another one"
            yield ("proxy", "headers", name), text
    if kind.access in proxy["options"] and proxy["allow"]:
        yield ("proxy", "options", kind.access), "would override proxy:allow: remove one of them"
    if proxy["balance"] not in kind.balance:
        text = f"{proxy['balance']} is not supported by {kind.title}; use {' or '.join(kind.balance)}, "
        yield ("proxy", "balance"), f"{text}or set proxy:kind to nginx"
    yield from _unsupported_upstreams(proxy, kind)


def _unsupported_upstreams(proxy: dict[str, Any], kind: django_kinds.ProxyKind) -> Iterator[Problem]:
    for address, options in proxy["upstreams"].items():
        if options["max_fails"] is not None and not kind.has_max_fails:
            text = (
                f"{kind.title} excludes a server after one failure, for fail_timeout: remove it or set proxy:kind to "
            )
            yield ("proxy", "upstreams", address, "max_fails"), f"{text}nginx"
        if (options["weight"] or 1) > kind.max_weight:
            text = f"expected at most {kind.max_weight}, the greatest that {kind.title} accepts"
            yield ("proxy", "upstreams", address, "weight"), f"{text}, got {options['weight']}"


def without_proxy(site: Site, own: Site) -> Iterator[Problem]:
    """Yield what only a proxy of the formula does, where the site has none."""
    if site["proxy"]["kind"] != "none":
        return
    for path in _set_for_a_proxy(site, own):
        yield path, "has no effect with proxy:kind: none: remove it, and configure your own proxy"
    if site["adopt"]:
        text = "not supported with proxy:kind: none, since the old site is replaced by a reload of its proxy"
        yield ("adopt",), f"{text}: set proxy:kind to nginx or apache"
    kind = site["server"]["kind"]
    if django_kinds.SERVERS[kind].port:
        text = f"{kind} has no socket that another proxy could connect to: set proxy:kind to nginx or apache"
        yield ("server", "kind"), text


def _set_for_a_proxy(site: Site, own: Site) -> Iterator[Path]:
    """Yield the options of the formula's proxy that are set; of those with a default only what the site itself sets."""
    proxy = site["proxy"]
    plain: tuple[str, ...] = ("headers", "allow", "snippets", "trusted", "trusted_headers")
    plain += ("options", "locations", "error_pages", "keepalive", "upstreams")
    values: dict[Path, Any] = {("proxy", key): proxy[key] for key in plain}
    for part, key in (("proxy", "listen"), ("static", "expires"), ("media", "max_upload"), ("maintenance", "page")):
        values[(part, key)] = (own.get(part) or {}).get(key)
    values[("proxy", "access_log")] = proxy["access_log"] != "combined"
    values[("proxy", "balance")] = proxy["balance"] != "round_robin"
    values[("proxy", "limit_req", "rate")] = proxy["limit_req"]["rate"]
    values |= {("media", key): site["media"][key] for key in ("protected", "download")}
    values[("tls", "kind")] = site["tls"]["kind"] != "none"
    values[("redirect_domains",)] = site["redirect_domains"]
    values[("maintenance", "allow")] = site["maintenance"]["allow"]
    yield from (path for path, value in values.items() if value)


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
    if (balance == "hash") != bool(proxy["hash"]):
        missing = "missing: balance: hash needs what to hash, such as cookie_sessionid"
        yield ("proxy", "hash"), missing if balance == "hash" else "has no effect without balance: hash"
    backups = [address for address, options in servers.items() if options["backup"]]
    if backups and balance in ("ip_hash", "hash"):
        yield ("proxy", "upstreams", backups[0], "backup"), f"not supported with proxy:balance: {balance}"
    elif remote and len(backups) == len({*remote, "self"}):
        yield ("proxy", "upstreams"), "expected at least one server that is not a backup"


# Certificates


def tls_options(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield options of another kind of certificates, and missing ones."""
    tls, kind = site["tls"], site["tls"]["kind"]
    for key, needed in OF_KIND.items():
        if tls[key] and kind != needed:
            yield ("tls", key), f"has no effect with kind: {kind}; it is an option of kind: {needed}"
    if tls["client_ca"] and kind == "none":
        yield ("tls", "client_ca"), "has no effect with kind: none: without https no client shows a certificate"
    if tls["verify"] and not tls["client_ca"]:
        yield ("tls", "verify"), "has no effect without client_ca"
    for name in (CLIENT_SUBJECT,) if tls["client_ca"] else ():
        if name.lower() in map(str.lower, [*site["proxy"]["headers"], *site["proxy"]["trusted_headers"]]):
            yield ("proxy", "headers"), f"{name} is refused: with tls:client_ca the proxy sets it"
    for key in ("key_id", "key"):
        if tls["eab"][key] and kind != "acme":
            yield ("tls", "eab", key), f"has no effect with kind: {kind}; it is an option of kind: acme"
        elif any(tls["eab"].values()) and not tls["eab"][key]:
            yield ("tls", "eab", key), "missing: external account binding needs key_id and key"
    for key in ("certificate", "key"):
        if kind == "files" and not tls[key]:
            yield ("tls", key), "missing: kind: files needs certificate and key"
    if kind == "acme" and (tls["challenge"] == "dns-01") != bool(tls["hook"]):
        text = "missing: dns-01 needs a program" if not tls["hook"] else "has no effect with challenge: http-01"
        yield ("tls", "hook"), text


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
