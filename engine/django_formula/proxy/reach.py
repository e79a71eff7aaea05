"""Whether visitors reach a site through the proxy of this host: what it answers, next to what the instance does."""

import contextlib
import glob
import hashlib
import http.client
import json
import os
import re
import ssl
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from django_formula.host import config_files, daemons, ports, proc
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.host.ports import Place
from django_formula.proxy import moves, proxies, waiting
from django_formula.proxy.contract import Proxy, Server
from django_formula.proxy.proxies import Secure
from django_formula.release import health, instances
from django_formula.release import http as release_http
from django_formula.secret import secrets
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
_SHOWN = 3


def get(site: Site, path: str, timeout: float) -> release_http.Answer:
    """Request a page of a site through the proxy on this host, as visitors do.

    Raises:
        OSError: nothing listens there, or the response is not complete in time.
        http.client.HTTPException: the response is not HTTP, or ends before its end.
    """
    deadline = time.monotonic() + timeout
    headers = {"Host": site.canonical, "User-Agent": "django-formula", "Connection": "close"}
    with contextlib.closing(proxies.connection(site, timeout)) as opened:
        opened.connect()
        opened.sock = Bounded(opened.sock, deadline)
        opened.request("GET", path, headers=headers | site.config["health"]["headers"])
        return release_http.read(opened.getresponse())


def problem(site: Site, *, anew: bool = True) -> str:
    """Return what visitors of a site meet in its place; empty where they reach it, or where it has no proxy.

    A site whose instance does not answer within some seconds gets no problem: that is not the proxy's.

    Args:
        anew: look at all of it; otherwise at what may have changed since it was right (`proxy.reach`).

    Example: ``"blog.example.org on port 80 is answered by /etc/nginx/conf.d/default.conf:1, not by …"``
    """
    proxy = proxies.serving(site)
    if not proxy:
        return ""
    memory = Memory(site, proxy)
    if (not anew and memory.is_reached()) or not instances.serves(site.current):
        return ""
    if waits := moves.pending_move(site).waits:
        return waits
    if waiting.closed(site):
        return ""
    answers: list[str | None] = [None]
    visit = _visit(site, proxy)  # before: a release or the proxy's restart may change it while it is tried
    try:
        found = [] if not anew and memory.has_no_rival() else list(map(str, rivals(site)))
    except DeploymentError as error:
        return error.message
    if not found and not site_sites.known_maintenance(site):
        answers = list(_answers(site, proxy, time.monotonic() + _PATIENCE))
        found = list(filter(None, answers))
    if not found:
        memory.keep(visit if None not in answers else "")
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more


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
    servers = configuration(proxy).servers()
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
        is_ours = is_included and found and (found.path == own or _is_configured(found, domains.host(domain)))
        if not is_ours and found not in seen:
            seen.append(found)
            yield Rival(domain, (one, port), found, own, is_included)


def _is_configured(found: Server, name: str) -> bool:
    """Return whether another server of the formula answers as the pillar has it, and not since its file was changed.

    Such a server has an address of this host to itself; none has the name of a domain that is another file's.
    """
    return config_files.is_managed(Path(found.path)) and name not in found.names


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
            raise DeploymentError("; ".join(map(str, found)), hint=_rival_hint(found[0]))


def _rival_hint(rival: Rival) -> str:
    """Return what to do about what answers in place of a site."""
    if rival.is_included:
        return "remove that server, or its name or address there, or set other domains or another proxy:listen"
    return f"have the proxy's main file include {Path(rival.own).parent}/*"


# Whether what a proxy answers for a site can have changed since it was found to be right (docs/decisions/0106)

#: Seconds after which everything is looked at again, whatever has not changed.
TRUSTED = 24 * 3600
#: What a file of a proxy names of files elsewhere that are read with it: includes, certificates, passwords.
_NAMED = re.compile(
    r"(?im)^[ \t]*(?P<directive>ssl\w*|auth_basic_user_file|AuthUserFile|include(?:optional)?)\s+"
    r"""["']?(?P<path>/[^\s;"']+)"""
)
#: Bytes of a file that are searched for such paths, and the most files.
_SIZE, _FILES = 1 << 20, 10_000

#: Paths, and what `_numbers` returned of each.
Seen = dict[str, list[int]]
_SHAPE = {"time": (int, float), "places": str, "files": str, "visit": str}


class Configuration:
    """The whole configuration of a proxy, which is read once for as long as none of its files changes.

    Args:
        proxy: the proxy.
    """

    def __init__(self, proxy: Proxy):
        self._proxy = proxy
        self._file = site_sites.RUNTIME / f"proxy-{proxy.DAEMON.service}.json"
        kept = host_file.read_json(self._file, {"paths": {str: [int]}}) or {"paths": {}}
        #: What it had when it was looked at last, here or in an earlier apply.
        self._paths: Seen = kept["paths"]
        self._kept = self._paths
        self._servers: list[Server] | None = None

    def is_same(self) -> bool:
        """Return whether nothing has changed since it was looked at."""
        return bool(self._paths) and all(_numbers(path) == numbers for path, numbers in self._paths.items())

    def present(self) -> str:
        """Return a hash of what its known files are now; empty where none is known."""
        if not self._paths:
            return ""
        return _hashed({path: _numbers(path) for path in self._paths})

    def servers(self) -> list[Server]:
        """Return all servers of it.

        Raises:
            DeploymentError: the proxy does not print its configuration.
        """
        if self._servers is None or not self.is_same():
            self._paths, self._servers = seen(self._proxy), None
            self._servers = self._proxy.servers()
        return self._servers

    def state(self) -> str:
        """Return a hash of it, which is kept for later applies; empty where it has changed meanwhile."""
        if not self.is_same():
            return ""
        if self._kept != self._paths:
            with contextlib.suppress(OSError):  # it is read again then
                host_file.write_json(self._file, {"paths": self._paths}, mode=0o600, durable=False)
                self._kept = self._paths
        return _hashed(self._paths)


def _hashed(paths: Seen) -> str:
    return hashlib.sha256(json.dumps(paths, sort_keys=True).encode()).hexdigest()[:16]


_configurations: dict[Path, Configuration] = {}


def configuration(proxy: Proxy) -> Configuration:
    """Return the configuration of a proxy, as this process knows it."""
    return _configurations.setdefault(proxy.etc, Configuration(proxy))


def seen(proxy: Proxy) -> Seen:
    """Return the files and folders of a proxy's configuration, and the files that it loads, such as certificates.

    Only the text of what the proxy reads as configuration is searched for others: certificates may be another user's.
    Where it has too many, none is returned, and it is read each time.
    """
    found: Seen = {}
    left, folders, included = [str(proxy.etc)], set(), set()
    for path in left:  # it grows
        if path in found:
            continue
        if len(found) >= _FILES:
            return {}
        found[path] = _numbers(path)
        is_own = Path(path).is_relative_to(proxy.etc)
        if is_own and os.path.isdir(path):
            if (real := os.path.realpath(path)) not in folders:  # a link may lead back
                folders.add(real)
                left += sorted(entry.path for entry in os.scandir(path))
        elif is_own or path in included:
            for named, is_included in _named(Path(path)):
                left.append(named)
                included |= {named} if is_included else set()
    return found


def _named(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield the paths that a file of the configuration names, and whether they are configuration too.

    Of a pattern these are its folder, and what fits now.
    """
    text = host_file.read_untrusted(path, _SIZE).decode(errors="replace")
    for one in _NAMED.finditer(text):
        is_included = one["directive"].lower().startswith("include")
        if is_included and glob.has_magic(one["path"]):
            yield os.path.dirname(one["path"]), False
            yield from ((name, True) for name in sorted(glob.glob(one["path"])))
        else:
            yield one["path"], is_included


def _numbers(path: str) -> list[int]:
    """Return what differs once a file or the list of a folder's entries has changed; nothing where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return []
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


class Memory:
    """What has been found to be right of a site's proxy; root's, in /run, so that a boot forgets it.

    Args:
        site: the site.
        proxy: the proxy that serves it.
    """

    def __init__(self, site: Site, proxy: Proxy):
        self._site, self._proxy = site, proxy
        known = host_file.read_json(site.proxied, _SHAPE) or {}
        self._known = known if 0 <= time.time() - known.get("time", 0) < TRUSTED else {}

    def has_no_rival(self) -> bool:
        """Return whether no server has answered in place of the site, and nothing that decides it has changed."""
        if self._known.get("places") != _places(self._site, self._proxy):
            return False
        return bool(self._known["files"]) and self._known["files"] == configuration(self._proxy).state()

    def is_reached(self) -> bool:
        """Return whether visitors have reached the site too, and nothing on their way has changed."""
        return self.has_no_rival() and self._known["visit"] == _visit(self._site, self._proxy)

    def keep(self, visit: str) -> None:
        """Keep that no server answers in place of the site.

        Args:
            visit: what decided on the answers (`_visit`) when visitors reached the site; empty where that is not known.
        """
        files = configuration(self._proxy).state()
        known = {"time": time.time(), "places": _places(self._site, self._proxy), "files": files, "visit": visit}
        with contextlib.suppress(OSError):  # it is looked at again then
            host_file.write_json(self._site.proxied, known, mode=0o600, durable=False)


def _places(site: Site, proxy: Proxy) -> str:
    """Return a hash of the proxy, and of the domains and places that the site has there."""
    config = site.config
    places = [config["domains"], config["redirect_domains"], config["proxy"]["listen"], site.listens_tls]
    return secrets.keyed_hash(secrets.record_key(site), [str(proxy.etc), *places])


def _visit(site: Site, proxy: Proxy) -> str:
    """Return a hash of what else decides on the answer to a visitor: the release, its socket, the proxy's process."""
    pid = daemons.pid(proxy.DAEMON) or 0
    process, socket = proc.stat(pid), os.path.realpath(site.current / "socket")
    ways = [_rights(one) for one in (socket, *map(str, Path(socket).parents))]
    options = [site.config[name] for name in ("path", "health", "proxy", "tls")]
    known = [pid, process and process.started, str(site.current.resolve()), ways, options]
    return secrets.keyed_hash(secrets.record_key(site), known)


def _rights(path: str) -> list[int]:
    """Return what decides who may connect to a socket, or reach what is in a folder; nothing where there is none."""
    try:
        found = os.lstat(path)
    except OSError:
        return []
    return [found.st_ino, found.st_mode, found.st_uid, found.st_gid]
