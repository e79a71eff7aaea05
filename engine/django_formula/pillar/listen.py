"""Contradictions about addresses and ports: within a site, and between the sites of a host."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any

from django_formula.pillar.check import Problem, shown

Site = dict[str, Any]  # the configuration of a site
Sites = dict[str, Site]  # those of a host by name


def within(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield places to listen on that are not valid, or that another place of the site includes."""
    for key in ("proxy", "tls"):
        listens = site[key]["listen"]
        for index, listen in enumerate(listens):
            yield from (((key, "listen", index), text) for text in invalid_place(listen))
            for earlier in listens[:index]:
                if _overlap(listen, earlier):
                    text = f"{listen} and {earlier} are the same port, on all addresses and on one: remove one of them"
                    yield (key, "listen", index), text


def server_port(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield an address of the application server that is none, or a port that leaves no room for the next one."""
    bind, port = site["listener"] or site["server"]["bind"], _first_port(site)
    if not port:
        return
    try:
        ipaddress.ip_address(host_of(bind))
    except ValueError:
        yield ("server", "bind"), f"expected an address and a port, got {shown(bind)}"
        return
    if port > 65534:
        text = f"expected a port from 1 to 65534, since releases alternate between it and the next one, got {port}"
        yield ("server", "bind"), text


def invalid_place(place: Any) -> Iterator[str]:
    """Yield what is wrong with an address and a port."""
    host, port = host_of(place), port_of(place)
    try:
        canonical = str(ipaddress.ip_address(host)) if host else ""
    except ValueError:
        yield f"expected an address and a port, got {shown(place)}"
        return
    if port > 65535:
        yield f"expected a port from 1 to 65535, got {shown(place)}"
    elif host != canonical:
        yield f"write the address as {canonical}, got {shown(place)}"


def invalid_network(network: str) -> Iterator[str]:
    """Yield what is wrong with an address or a network."""
    try:
        found = ipaddress.ip_network(network, strict=False)
    except ValueError:
        yield f"expected an address or a network, such as 10.0.0.0/8 or 2001:db8::/32, got {shown(network)}"
        return
    if "/" in network and network.partition("/")[0] != str(found.network_address):
        yield f"expected the first address of the network, {found}, got {shown(network)}"


def networks(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield networks that are not valid."""
    for part, key in (("maintenance", "allow"), ("proxy", "allow"), ("proxy", "trusted")):
        for index, network in enumerate(site[part][key]):
            yield from (((part, key, index), text) for text in invalid_network(network))


def host_of(place: Any) -> str:
    """Return the address of a place to listen on, empty for all addresses."""
    return str(place).rpartition(":")[0].strip("[]")


def port_of(place: Any) -> int:
    """Return the port of a place to listen on."""
    return int(str(place).rpartition(":")[2])


def https(site: Site) -> list[Any]:
    """Return the places where a site is served by https."""
    return list(site["tls"]["listen"]) if site["tls"]["kind"] != "none" else []


def _overlap(one: Any, other: Any) -> bool:
    """Return whether one of two different places includes the other: a port on all addresses, and on one of them."""
    hosts = {host_of(one), host_of(other)}
    if len(hosts) == 1 or port_of(one) != port_of(other):
        return False
    try:
        addresses = {ipaddress.ip_address(host) for host in hosts if host}
    except ValueError:
        return False  # `invalid_place` reports it
    is_one_family = len({address.version for address in addresses}) == 1
    return "" in hosts or (is_one_family and any(address.is_unspecified for address in addresses))


def _first_port(site: Site) -> int:
    """Return the port where a site is reached without a proxy, or the first of its server's two; 0 for a socket."""
    bind = site["listener"] or site["server"]["bind"]
    return 0 if bind == "unix" else port_of(bind)


# Between sites


def between(sites: Sites) -> Iterator[Problem]:
    """Yield ports that two sites would bind in ways that exclude each other."""
    proxied = {name: site for name, site in sites.items() if site["proxy"]["kind"] != "none"}
    yield from _partly_listened(proxied)
    yield from _two_proxies(proxied)
    taken = {port_of(place): f"proxy:listen of site {name}" for name in proxied for place in _http(proxied[name])}
    yield from _http_and_https(sites, taken)
    for name, site in sites.items():
        for place in https(site):
            taken.setdefault(port_of(place), f"tls:listen of site {name}")
    yield from _bound_twice(sites, taken)


def _http(site: Site) -> list[Any]:
    return list(site["proxy"]["listen"])


def _partly_listened(sites: Sites) -> Iterator[Problem]:
    """Yield places where the proxy would serve one site alone: another listens on all addresses of that port."""
    listens = [(name, key, place) for name in sites for key, place in _places(sites[name])]
    if all(isinstance(place, int) for _name, _key, place in listens):
        return
    for index, (name, key, place) in enumerate(listens):
        for other, _key, there in listens[:index]:
            if other != name and _overlap(place, there):
                text = f"{place} and {there} of site {other} are the same port, on all addresses and on one, where the "
                text += "proxy would serve the site of that address alone: name addresses for both sites, or for none"
                yield ("django", "sites", name, key, "listen"), text


def _places(site: Site) -> Iterator[tuple[str, Any]]:
    yield from (("proxy", place) for place in _http(site))
    yield from (("tls", place) for place in https(site))


def _two_proxies(sites: Sites) -> Iterator[Problem]:
    """Yield ports on which nginx and Apache would both listen."""
    holders: dict[int, tuple[str, str]] = {}
    for name, site in sites.items():
        kind = site["proxy"]["kind"]
        for _key, place in _places(site):
            port = port_of(place)
            other, holder = holders.setdefault(port, (name, kind))
            if holder != kind:
                text = f"{kind} and {holder} of site {other} cannot both listen on port {port}: use one of them for it"
                yield ("django", "sites", name, "proxy", "kind"), text


def _http_and_https(sites: Sites, http: dict[int, str]) -> Iterator[Problem]:
    """Yield ports of https that are ports of http too."""
    for name, site in sites.items():
        for port in map(port_of, https(site)):
            if port in http:
                text = f"port {port} is in {http[port]}, and is http there: choose another port for one of them"
                yield ("django", "sites", name, "tls", "listen"), text


def _bound_twice(sites: Sites, taken: dict[int, str]) -> Iterator[Problem]:
    """Yield ports of application servers that a proxy or another server has; each uses its own and the next one."""
    bound: dict[str, set[int]] = {}
    for name, site in sites.items():
        first = _first_port(site)
        ports = {first, first + (not site["listener"])} if first else set()
        for port in sorted(ports & {*taken}):
            yield ("django", "sites", name, "server", "bind"), f"port {port} is taken by {taken[port]}"
        for other, other_ports in bound.items():
            for port in sorted(ports & other_ports - {*taken}) if _collide(site, sites[other]) else ():
                text = f"port {port} is taken by server:bind of site {other}"
                yield ("django", "sites", name, "server", "bind"), text
        bound[name] = ports


def _collide(one: Site, other: Site) -> bool:
    """Return whether two servers cannot bind the same port: on two addresses of loopback they can."""
    hosts = {(site["listener"] or site["server"]["bind"]).rpartition(":")[0] for site in (one, other)}
    return len(hosts) == 1 or not all(host.startswith("127.") for host in hosts)
