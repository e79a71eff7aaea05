"""Whether visitors reach a site through the proxy of this host: what it answers, next to what the instance does."""

import contextlib
import http.client
import ssl
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from django_formula.host import config_files, daemons, ports
from django_formula.host.commands import DeploymentError
from django_formula.host.ports import Place
from django_formula.proxy import domain_moves, proxies, watch
from django_formula.proxy.contract import Proxy, Server
from django_formula.proxy.proxies import Secure
from django_formula.release import health, instances
from django_formula.release import http as release_http
from django_formula.site import domains
from django_formula.site import sites as site_sites
from django_formula.site.sites import Site
from django_formula.tls import certificates
from django_formula.untrusted.response import Bounded
from django_formula.untrusted.text import shown

#: Seconds for all requests of one site, and between two of which the first was answered otherwise than by the instance.
_PATIENCE, _PAUSE = 5.0, 0.3
_TRIES = 3
#: What the proxy itself may answer by the site's options: a login, access rules, a rate.
_RULES = (401, 403, 429)
#: What nginx answers a client without a certificate that it requires.
_NO_CERTIFICATE = 400
_REDIRECTS = (301, 302, 307, 308)
#: Problems that one text names.
_NAMED = 3


def problem(site: Site, *, anew: bool = True) -> str:
    """Return what visitors of a site meet in its place; empty where they reach it, or where it has no proxy.

    A site whose instance does not answer within some seconds gets no problem: that is not the proxy's.

    Args:
        anew: look at all of it; otherwise at what may have changed since it was right (`proxy.watch`).

    Example: ``"blog.example.org on port 80 is answered by /etc/nginx/conf.d/default.conf:1, not by …"``
    """
    proxy = proxies.serving(site)
    if not proxy:
        return ""
    memory = watch.Memory(site, proxy)
    if (not anew and memory.is_reached()) or not instances.serves(site.current):
        return ""
    if waits := domain_moves.of_site(site).waits:
        return waits
    answers: list[str | None] = [None]
    try:
        found = [] if not anew and memory.has_no_rival() else list(map(str, rivals(site)))
    except DeploymentError as error:
        return error.message
    if not found and not site_sites.known_maintenance(site):
        answers = list(_answers(site, proxy, time.monotonic() + _PATIENCE))
        found = list(filter(None, answers))
    if not found:
        memory.keep(is_reached=None not in answers)
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return "; ".join(found[:_NAMED]) + more


def _answers(site: Site, proxy: Proxy, deadline: float) -> Iterator[str | None]:
    """Yield for each domain and place how the proxy's answer differs from the instance's, as `_differs` does."""
    bound = ports.addresses(daemons.pid(proxy.DAEMON) or 0)
    for listens, scheme in ((site.config["proxy"]["listen"], "http"), (site.listens_tls, "https")):
        for host, port in map(ports.split, listens):
            own = {one for one, known in bound if known == port and one in (host or one, *ports.ALL)}
            if not own:
                yield f"{proxy.DAEMON.service} does not listen on {f'{host} ' if host else ''}port {port}"
            for domain in map(domains.host, site.config["domains"] if own else ()):
                expected = _of_instance(site, scheme, domain, deadline)
                for address in [host] if host else _loopbacks(own):
                    found = _differs(site, scheme, (address, port), domain, expected, deadline) if expected else None
                    yield found and f"{scheme}://{domain} on {address} port {port} {found}"


def _loopbacks(addresses: set[str]) -> list[str]:
    """Return addresses of this host by which it reaches what listens on all addresses."""
    four, six = ports.ALL
    return [*(["127.0.0.1"] if four in addresses else []), *(["::1"] if six in addresses else [])] or [*addresses][:1]


def _differs(
    site: Site, scheme: str, place: Place, domain: str, expected: Collection[int], deadline: float
) -> str | None:
    """Return how what a visitor gets differs from what the instance answers: empty if it does not, None if late.

    Args:
        expected: what the instance answers.
    """
    asks = scheme == "https" and certificates.requires_clients(site)
    found = ""
    for turn in range(_TRIES):
        if turn and time.monotonic() + _PAUSE < deadline:
            time.sleep(_PAUSE)
        try:
            status, location = _ask(site, scheme, place, domain, deadline)
        except TimeoutError:  # an instance as slow as that answers by the proxy no sooner
            return None
        except (OSError, http.client.HTTPException) as error:
            if asks and isinstance(error, ssl.SSLError | ConnectionResetError):
                return ""  # Apache ends the connection of a client without a certificate
            found = f"gives no response ({shown(str(error))})"
            continue
        if asks:
            return "" if status == _NO_CERTIFICATE else f"returns {status} without a certificate of the client"
        if site.https and scheme == "http" and status in _REDIRECTS and location.startswith(f"https://{domain}"):
            return ""
        if status in (*expected, *_RULES) or (site.config["proxy"].get("upstreams") and status < 500):
            return ""
        found = f"returns {status}, and the instance {' or '.join(map(str, expected))}"
    return found


def _ask(site: Site, scheme: str, place: Place, domain: str, deadline: float) -> tuple[int, str]:
    """Request the health page through the proxy; return the status and the header Location."""
    left = max(deadline - time.monotonic(), 0.05)
    connection = Secure(*place, domain, left) if scheme == "https" else http.client.HTTPConnection(*place, timeout=left)
    headers = {
        "Host": domain,
        "User-Agent": "django-formula",
        "Connection": "close",
        **site.config["health"]["headers"],
    }
    with contextlib.closing(connection):
        connection.connect()
        connection.sock = Bounded(connection.sock, deadline)
        connection.request("GET", health.page_path(site), headers=headers)
        response = connection.getresponse()
        return response.status, response.headers.get("Location", "")


def _of_instance(site: Site, scheme: str, domain: str, deadline: float) -> list[int]:
    """Return the status of the same page from the instance itself; nothing where it does not answer in time.

    A proxy passes some headers from trusted addresses only, and those of this host need not be, so that the page
    without the headers of its health check is right too.
    """
    path, release, found = health.page_path(site), site.current.resolve(), list[int]()
    with contextlib.suppress(OSError, http.client.HTTPException):
        for headers in [site.config["health"]["headers"], {}][: 2 if site.config["health"]["headers"] else 1]:
            left = max(deadline - time.monotonic(), 0.05)
            answer = release_http.get(site, release, path, host=domain, scheme=scheme, headers=headers, timeout=left)
            found += [answer.status] if answer.status not in found else []
    return found


# Servers of the host that answer in place of a site, by the rules of nginx or Apache, with file and line

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


def rivals(site: Site) -> list[Rival]:
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
        found = answering(proxy, servers, (one, port), domains.host(domain))
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


def refuse_rivals(sites: Collection[tuple[Site, list[Rival]]]) -> None:
    """Refuse the present files of a proxy if another server would answer in place of a site.

    Args:
        sites: each with what has answered in its place before these files; the operator knows it already.

    Raises:
        DeploymentError: another server would; the message has its file and line.
    """
    for site, before in sites:
        known = [rival.server for rival in before]
        found = [rival for rival in rivals(site) if rival.server not in known]
        if found:
            raise DeploymentError("; ".join(map(str, found)), hint=rival_hint(found[0]))


def rival_hint(rival: Rival) -> str:
    """Return what to do about what answers in place of a site."""
    if rival.is_included:
        return "remove that server, or its name or address there, or set other domains or another proxy:listen"
    return f"have the proxy's main file include {Path(rival.own).parent}/*"
