"""The balancer of a site's hosts: which options a site has for it, and what contradicts that."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from django_formula.kind import kinds
from django_formula.pillar.check import Problem
from django_formula.pillar.fleet import hosts_with
from django_formula.pillar.listen import https, port_of
from django_formula.pillar.parts import Compiled, Part, States, gone
from django_formula.pillar.proxy import CLIENT_SUBJECT

Site = dict[str, Any]
#: The templates of each program, below ``django/files``.
_FILES = {
    "haproxy": ("haproxy/haproxy.cfg", "haproxy/haproxy.service", "varnish/django.vcl", "varnish/varnish.service"),
    "varnish": (),
    "nginx": ("nginx/balancer.conf", "nginx/balancer.service", "nginx/checks.service", "nginx/checks.timer"),
}


def complete(site: Site) -> None:
    """Leave the options out of a site without a balancer; else the balancers may ask its health on each host.

    Their requests have the address of the balancer itself, and those of visitors the visitor's.

    Args:
        site: its configuration with `fleet`, which is changed.
    """
    balancers = hosts_with(site, "balancer")
    if not balancers:
        del site["balancer"]
        return
    addresses = [site["fleet"]["hosts"][name]["address"] for name in balancers]
    for part in ("proxy", "maintenance"):
        allowed = site[part]["allow"]
        if allowed or part == "maintenance":
            site[part]["allow"] = [*allowed, *(one for one in addresses if one and one not in allowed)]


def settle_balancer(site: Site) -> None:
    """Leave the certificates to the hosts that visitors reach; any other one knows that visitors use https.

    To be called once contradictions are found.
    """
    is_balancer = "balancer" in site.get("fleet", {}).get("parts", ())
    is_behind = "balancer" in site or site["server"]["kind"] == kinds.NO_SERVER
    if is_balancer or not is_behind or not https(site):
        return
    site["fleet"]["https"] = sorted({port_of(place) for place in https(site)})
    if site["tls"]["client_ca"]:  # which the balancer verifies, and passes on
        site["proxy"]["trusted_headers"] = [*site["proxy"]["trusted_headers"], CLIENT_SUBJECT]
    unused = dict.fromkeys(("certificate", "key", "hook", "email", "client", "client_ca", "verify"))
    site["tls"] = {**site["tls"], **unused, "kind": "none", "eab": {"key_id": None, "key": None}}


def balancer(site: Site, own: Site) -> Iterator[Problem]:
    """Yield what a balancer cannot do, or does not apply to."""
    if "balancer" not in site:
        if own.get("balancer"):
            yield ("balancer",), "has no effect without a host with the part balancer"
        return
    is_asked = site["tls"]["kind"] == "acme" and site["tls"]["challenge"] == "http-01"
    if is_asked and 80 not in [port_of(place) for place in site["balancer"]["listen"]]:
        text = "expected port 80 among them, where the authority connects for tls:challenge: http-01"
        yield ("balancer", "listen"), text
    if {*site["balancer"]["listen"]} & {*https(site)}:
        yield ("balancer", "listen"), "expected other ports than those of tls:listen"
    if site["proxy"]["kind"] != "nginx":
        yield ("proxy", "kind"), "a balancer asks the nginx of each host for its release: set proxy:kind to nginx"
    elif not site["proxy"]["listen"]:
        yield ("proxy", "listen"), "missing: the balancer sends requests to the first port"
    if "balancer" in site["fleet"]["parts"] and site["process"] != "systemd":
        yield ("hosts", site["fleet"]["host"]), "a balancer needs systemd as PID 1 of its host"
    balancers = {site["fleet"]["hosts"][name]["address"] for name in hosts_with(site, "balancer")}
    others = sorted({*site["proxy"]["trusted"]} - balancers)
    if site["tls"]["client_ca"] and others:
        text = "the hosts take the subject of a client from these addresses too, and only balancers verify it"
        yield ("proxy", "trusted"), f"{text}: remove {', '.join(others)}, or tls:client_ca"
    yield from _of_nginx(site)
    yield from _of_varnish(site)


def _of_varnish(site: Site) -> Iterator[Problem]:
    """Yield what does not go together with a cache."""
    is_cached = site["balancer"]["kind"] == "varnish"
    if is_cached and site["balancer"]["sticky"]:
        why = "not supported by varnish: a response that sets the cookie of a host is never kept"
        yield ("balancer", "sticky"), why
    limited: list[tuple[str, ...]] = [("proxy", "allow")] * bool(site["proxy"].get("allow"))
    for path, options in site["proxy"]["locations"].items():
        limited += [("proxy", "locations", path, name) for name in ("allow", "deny") if name in (options or {})]
    for place in limited if is_cached else ():
        yield place, "not supported by balancer:kind: varnish, which gives what it has kept to every client"


def _of_nginx(site: Site) -> Iterator[Problem]:
    """Yield what the open source nginx cannot do: it keeps visitors on hosts by a hash, which has no backup."""
    options = site["balancer"]
    if options["kind"] != "nginx":
        return
    if options["sticky"] and options["balance"] != "roundrobin":
        yield (
            ("balancer", "balance"),
            "not supported by nginx with sticky: leave it out, or set balancer:kind to haproxy",
        )
    if options["sticky"] or options["balance"] == "source":
        for name, host in site["fleet"]["hosts"].items():
            if host["backup"]:
                why = "not supported by nginx with sticky or balance: source: set balancer:kind to haproxy"
                yield ("hosts", name, "backup"), why


def _states(django: Compiled) -> States:
    """Return the states of a balancer: a program with a unit and a configuration of its own.

    The service of Debian's package is not started, and its haproxy.cfg or nginx.conf is left alone.
    """
    sites, named = django["balanced"], django["platform"]["packages"]
    kinds = list(dict.fromkeys(site["balancer"]["kind"] for site in sites.values()))
    programs = list(dict.fromkeys([*(["haproxy"] if "varnish" in kinds else []), *kinds]))
    files = [f"salt://django/files/{name}" for name in ("tls.service", "tls.timer") if kinds]
    files += [f"salt://django/files/{name}" for kind in programs for name in _FILES[kind]]
    own = [site["tls"][key] for site in sites.values() for key in ("certificate", "key")]
    files += [url for url in own if isinstance(url, str) and url.startswith("salt://")]
    packages = [named["tls"], *(named[one["tls"]["client"]] for one in sites.values() if one["tls"]["kind"] == "acme")]
    states: States = {
        f"The balancer {kind} is installed": {
            "django.quiet_packages": [{"pkgs": list(dict.fromkeys([named[kind], *packages]))}, {"service": kind}]
        }
        for kind in programs
    }
    required = [{"require": [{"django": sentence} for sentence in states]}] if states else []
    given = {"sites": json.dumps(sites), "gone": gone(django, sites), "platform": django["platform"]}
    given["templates"] = list(dict.fromkeys(files))
    arguments = [{name: value} for name, value in given.items()]
    return {**states, "The balancer serves its sites": {"django.balancer": [*arguments, *required]}}


def _is_due(django: Compiled) -> bool:
    return bool(django["balanced"]) or any("fleet" in site for site in django["absent"].values())


PART = Part("balancer", _states, _is_due, before="place", rules=balancer, phase="balancers", verb="backend")
