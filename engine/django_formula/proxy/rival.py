"""Servers of the host that answer in place of a site, by the rules of nginx or Apache, with file and line."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from django_formula.host import config_files, ports
from django_formula.host.commands import DeploymentError
from django_formula.host.ports import Place
from django_formula.proxy import proxies, watch
from django_formula.proxy.contract import Proxy, Server
from django_formula.site import domains as site_domains
from django_formula.site.sites import Site

#: The addresses that stand for all.
_ALL = ("", *ports.ALL)


class Rival(NamedTuple):
    """What answers in place of a site.

    Attributes:
        domain: of the site.
        place: the address and port at which that is so; the address is empty for all.
        server: what answers; None where the proxy has no server there.
        own: the file that should.
        is_included: whether the proxy reads that file.
    """

    domain: str
    place: Place
    server: Server | None
    own: str
    is_included: bool

    def __str__(self) -> str:
        host, port = self.place
        where = f"{self.domain} on {'' if host in _ALL else f'{host} '}port {port}"
        if not self.server:
            return f"{where} is not served, {_left_out(self.own)}"
        rival = f"{self.server.path}:{self.server.line}"
        return f"{where} is answered by {rival}, {f'not by {self.own}' if self.is_included else _left_out(self.own)}"


def _left_out(path: str) -> str:
    return f"for the proxy's configuration does not include {path}"


def of_site(site: Site) -> list[Rival]:
    """Return what answers in place of a site, by the present files of its proxy.

    Raises:
        DeploymentError: the proxy does not print its configuration.
    """
    proxy = proxies.serving(site)
    if not proxy:
        return []
    servers = watch.configuration(proxy).servers()
    domains = [*site.config["domains"], *site.config["redirect_domains"]]
    listens = [*site.config["proxy"]["listen"], *site.listens_tls]
    return [
        rival
        for domain in domains
        for host, port in map(ports.split, listens)
        for rival in _at(proxy, servers, domain, host, port)
    ]


def _at(proxy: Proxy, servers: list[Server], domain: str, host: str, port: int) -> Iterator[Rival]:
    """Yield what answers for a domain on a port, on an address or on all of them."""
    own = str(proxy.enabled(domain))
    is_included = any(server.path == own for server in servers)
    bound = {one.host for server in servers for one in server.listens if one.port in (port, 0)}
    seen: list[Server | None] = []
    for one in [host] if host else sorted(bound) or [""]:
        found = answering(proxy, servers, (one, port), site_domains.host(domain))
        is_ours = is_included and found and (found.path == own or config_files.is_managed(Path(found.path)))
        if not is_ours and found not in seen:
            seen.append(found)
            yield Rival(domain, (one, port), found, own, is_included)


def answering(proxy: Proxy, servers: list[Server], place: Place, name: str) -> Server | None:
    """Return the server that answers for a name at an address and port: one on that address hides those on all."""
    host, port = place
    bound = {one.host for server in servers for one in server.listens if one.port in (port, 0)}
    family = ports.ALL[":" in host]
    where = host if host in bound else family if family in bound else ""
    candidates = [
        (server, one.is_default)
        for server in servers
        for one in server.listens
        if one.port in (port, 0) and one.host == where
    ]
    return proxy.chosen([server for server, _default in candidates], name, [default for _server, default in candidates])


def refuse(sites: Collection[tuple[Site, list[Rival]]]) -> None:
    """Refuse the present files of a proxy if another server would answer in place of a site.

    Args:
        sites: each with what has answered in its place before these files; the operator knows it already.

    Raises:
        DeploymentError: another server would; the message has its file and line.
    """
    for site, before in sites:
        known = [rival.server for rival in before]
        found = [rival for rival in of_site(site) if rival.server not in known]
        if found:
            raise DeploymentError("; ".join(map(str, found)), hint=hint(found[0]))


def hint(rival: Rival) -> str:
    """Return what to do about what answers in place of a site."""
    if rival.is_included:
        return "remove that server, or its name or address there, or set other domains or another proxy:listen"
    return f"have the proxy's main file include {Path(rival.own).parent}/*"
