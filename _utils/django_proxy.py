"""What faces the client on a site's host: a proxy is a module of its own, each switch of files is done or undone."""

import contextlib
import http.client
import re
import ssl
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import django_host_etc
import django_host_file
import django_host_folder
import django_host_port
import django_host_service
import django_proxy_apache
import django_proxy_headers
import django_proxy_nginx
import django_release_settings
import django_server
import django_site
import django_tls
from django_host_command import DeploymentError
from django_host_etc import OURS, Files
from django_host_folder import Folder
from django_host_lock import Lock
from django_host_port import Listen, Place
from django_host_service import Daemon
from django_site import Site

#: Seconds to wait for another site's switch.
PATIENCE = "60s"
#: The open lock file, while this process has the proxies to itself.
_alone: list[Path] = []


class Proxy(Protocol):
    """One proxy; each is a module of its own.

    A domain has a file with its servers, which include the locations of each of its sites: sites that share a domain
    know nothing of each other. It reaches a site through ``current``, so that a rename switches it.
    """

    #: Where its configuration is.
    ETC: Path
    #: Who it is.
    DAEMON: Daemon
    #: The templates of a site's files; of these, those of the servers of a domain, and what those of https share.
    TEMPLATES: tuple[str, ...]
    DOMAIN: str
    REDIRECT: str
    TLS: str

    def main_file(self, site: Site) -> Path:
        """The file without which it does not serve a site."""

    def locations(self, site: Site) -> Path:
        """The file with the locations of a site."""

    def server(self, domain: str) -> Path:
        """The file with the servers of a domain."""

    def enabled(self, domain: str) -> Path:
        """The link to that file."""

    def share(self, site: Site, domain: str) -> Path:
        """The link by which a domain has the locations of a site."""

    def shares(self, site: Site) -> list[Path]:
        """Those links that there are, and the marks (``.redirect``) of domains that only lead on."""

    def files(self, site: Site, variables: Mapping[str, Any], templates: Mapping[str, str]) -> Files:
        """What a site has beside the servers of its domains."""

    def names_addresses(self, site: Site) -> bool:
        """Whether an address behind it stands in its own files, which a release over TCP changes then."""

    def needs(self, site: Site) -> Files:
        """What it has to have for the servers of a site's domains, and has not yet."""

    def protocols(self) -> Path:
        """The file with what all servers of https have in common."""

    def listening(self, http: Collection[Listen], https: Collection[Listen]) -> dict[str, Any]:
        """What templates know of where it listens, ``http`` and ``https`` among it, in its own words."""

    def has_certificate(self, text: str, certificate: Path) -> bool:
        """Whether the servers of a domain show a certificate."""

    def place(self, text: str, *, tls: bool) -> Place | None:
        """The first place of https, or of http, where the servers of a domain listen."""

    def listens(self, text: str) -> set[str]:
        """Where the servers in a file of ours listen, in its own words."""

    def places(self) -> set[Place]:
        """Where it listens by its whole configuration, that of others too."""

    def check(self) -> None:
        """Have it read its configuration; DeploymentError says where it refuses."""

    def leave_out_the_default_site(self) -> None:
        """Have it start without Debian's default site where it is about to be installed."""

    def is_idle(self) -> bool:
        """Whether it has no site any more, of anybody."""

    def needed_ports(self) -> set[int]:
        """The ports that it listens on whatever the sites say."""

    def refused(self) -> tuple[list[Listen], list[Listen]]:
        """Where a default server of ours refuses unknown hosts, by http and by https."""

    def default_server(
        self,
        http: Collection[Listen],
        https: Collection[Listen],
        templates: Mapping[str, str],
        without: Collection[Path] = (),
    ) -> Files:
        """The server that refuses unknown hosts; none where the servers of domains do that themselves."""


#: Every proxy, by the name that the pillar has for it; with ``none`` somebody else's leads to the site.
PROXIES: dict[str, Proxy] = {"nginx": django_proxy_nginx, "apache": django_proxy_apache}


def of_site(site: Site) -> Proxy | None:
    """The proxy that a site is to have; None where it is somebody else's."""
    return PROXIES.get(site.config["proxy"]["kind"])


def serving(site: Site) -> Proxy | None:
    """The proxy that has files of a site now; None where none has."""
    return next((proxy for proxy in PROXIES.values() if proxy.main_file(site).exists()), None)


def is_installed(site: Site) -> bool:
    """Whether a proxy has files of the site."""
    return serving(site) is not None


def is_ready(site: Site) -> bool:
    """Whether the site is served by the proxy that it is to have, or needs none."""
    return serving(site) is of_site(site)


def files(
    site: Site,
    facts: Mapping[str, Any],
    templates: Mapping[str, str],
    through: Path | None = None,
    *,
    upcoming: bool = False,
) -> Files:
    """Every file that a proxy needs for a site, and those of its former domains and of other proxies as None.

    Args:
        facts: of the release: ``static_url``, ``media_url``, ``collected``.
        through: the release that is reached; `current`, whatever that names, when it is not given.
        upcoming: whether they are those of the next release, which speaks as the pillar has it.
    """
    own = of_site(site)
    wanted: Files = {}
    for proxy in PROXIES.values():
        wanted |= _files(proxy, site, facts, templates, through, upcoming) if proxy is own else _absent(proxy, site)
    return {**wanted, **deserted(wanted)}


def _files(
    proxy: Proxy,
    site: Site,
    facts: Mapping[str, Any],
    templates: Mapping[str, str],
    through: Path | None,
    upcoming: bool,
) -> Files:
    config = site.config
    # A release that a rollback has brought back may speak otherwise than the pillar has it by now.
    spoken = {} if upcoming else django_server.recorded(through or site.current) or {}
    bind = config["server"]["bind"]
    address = str(spoken.get("address", "/" if bind == "unix" else bind))
    protocol = spoken.get("protocol", config["server"]["protocol"])
    server = django_server.SERVERS[spoken.get("server", config["server"]["kind"])]
    variables = {
        "ours": OURS,
        "site": {**config, "server": {**config["server"], "protocol": protocol}},
        "root": str(site.root),
        "through": str(through or site.current),
        "upstream": f"django-{site.name}",
        "keepalive": config["proxy"].get("keepalive") if spoken.get("keepalive", not spoken) else None,
        "variable": site.name.replace("-", "_"),
        "unix": address.startswith("/"),
        "address": address,
        **_listening(proxy, site),
        **django_proxy_headers.variables(config["proxy"]),
        "static_url": _local(facts.get("static_url", ""), site) if facts.get("collected") is not None else "",
        "media_url": _local(facts.get("media_url", ""), site),
        "timeout": server.timeout(site) + 5,
        "websockets": spoken.get("interface", server.interface(site)) == "asgi",
    }
    wanted = proxy.files(site, variables, templates)
    if site.https:
        wanted[proxy.protocols()] = django_release_settings.render(templates, proxy.TLS, ours=OURS)
    for domain in config["domains"]:
        wanted[proxy.share(site, domain)] = f"-> ../{proxy.locations(site).name}"
        wanted |= _server(proxy, proxy.DOMAIN, domain, templates, variables)
    for domain in config["redirect_domains"]:
        wanted[proxy.share(site, domain).with_suffix(".redirect")] = "-> /dev/null"
        wanted |= _server(proxy, proxy.REDIRECT, domain, templates, variables)
    return {**_stale(proxy, site, set(wanted)), **wanted}


def _listening(proxy: Proxy, site: Site) -> dict[str, Any]:
    """What templates know of where a site is served."""
    http, https = site.config["proxy"]["listen"], site.listens_tls
    places = [django_host_port.split(listen) for listen in [*http, *https]]
    return {
        **proxy.listening(http, https),
        "ports": sorted({port for _host, port in places}),
        "addresses": sorted({host for host, _port in places} - {"", *django_host_port.ALL}),
        "canonical_port": "" if not https or site.https[0] == 443 else f":{site.https[0]}",
        "redirects": True,
    }


def _server(
    proxy: Proxy, template: str, domain: str, templates: Mapping[str, str], variables: Mapping[str, Any]
) -> Files:
    """The file of a domain, and its link."""
    where = {"certificate": django_tls.path_of(domain), "challenges": django_tls.challenges()}
    path = proxy.server(domain)
    return {
        path: django_release_settings.render(templates, template, domain=domain, **where, **variables),
        proxy.enabled(domain): f"-> ../sites-available/{path.name}",
    }


def _stale(proxy: Proxy, site: Site, wanted: set[Path]) -> Files:
    """The places of a site in domains that it no longer has."""
    return {path: None for path in proxy.shares(site) if path not in wanted}


def _absent(proxy: Proxy, site: Site) -> Files:
    return {**_stale(proxy, site, set()), proxy.main_file(site): None, proxy.locations(site): None}


def deserted(wanted: Files) -> Files:
    """The servers of domains whose last site goes with these files."""
    servers: Files = {}
    for proxy in PROXIES.values():
        for folder in {path.parent for path, text in wanted.items() if text is None} & {*proxy.ETC.glob("django/*")}:
            path = proxy.server(folder.name)
            if path not in wanted and all(wanted.get(share, "it stays") is None for share in folder.iterdir()):
                servers |= {proxy.enabled(folder.name): None, path: None}
    return servers


def absent(site: Site) -> Files:
    """The files of a site, all to go."""
    wanted: Files = {path: None for proxy in PROXIES.values() for path in _absent(proxy, site)}
    return {**wanted, **deserted(wanted)}


def _local(url: str, site: Site) -> str:
    """The path of a URL that this host serves; empty for another host's, and where the path would hide the site itself.

    Raises:
        DeploymentError: the path has characters that do not belong there.
    """
    parts = urlsplit(url)
    if parts.netloc or not parts.path.strip("/") or not parts.path.startswith("/"):
        return ""
    if not re.fullmatch(r"/[A-Za-z0-9/._~-]+/", parts.path):
        raise DeploymentError(
            f"{site.name} wants its files served from {url!r}",
            hint="STATIC_URL and MEDIA_URL end in a slash and are plain ASCII",
        )
    return parts.path


# Certificates


def opening(site: Site, templates: Mapping[str, str]) -> Files:
    """The files by which domains that are served by http alone are served by https beside it; none once they are.

    A release that wants https can go live then, and one that goes on without notices nothing.
    """
    proxy = of_site(site)
    if not site.https or not proxy or serving(site) is not proxy:
        return {}
    wanted: Files = {}
    variables = {"ours": OURS, "site": site.config, **_listening(proxy, site), "redirects": False}
    for domain in site.config["domains"]:
        path = proxy.server(domain)
        present = django_host_etc.read(path)
        if present and django_host_etc.is_ours(path) and not proxy.has_certificate(present, django_tls.path_of(domain)):
            wanted[path] = _server(proxy, proxy.DOMAIN, domain, templates, variables)[path]
    if not wanted:
        return {}
    return {
        **wanted,
        **proxy.needs(site),
        proxy.protocols(): django_release_settings.render(templates, proxy.TLS, ours=OURS),
    }


def _shows(proxy: Proxy, domain: str) -> bool:
    """Whether the servers of a domain show its certificate."""
    return proxy.has_certificate(django_host_etc.read(proxy.server(domain)) or "", django_tls.path_of(domain))


def speaks_tls(site: Site) -> bool:
    """Whether the site is served by https, as the proxy's files are now."""
    proxy = serving(site)
    return proxy is not None and _shows(proxy, site.config["domains"][0])


def connection(site: Site, timeout: float) -> http.client.HTTPConnection:
    """A connection to the proxy on this host, as it serves the site now, whoever has signed its certificate."""
    domain, proxy = site.config["domains"][0], serving(site)
    text = (proxy and django_host_etc.read(proxy.server(domain))) or ""
    is_secure = speaks_tls(site)
    said = django_host_port.split([*site.config["proxy"]["listen"], 80][0])
    host, port = (proxy and proxy.place(text, tls=is_secure)) or (("", 443) if is_secure else said)
    host = {"": "127.0.0.1", **dict(zip(django_host_port.ALL, ("127.0.0.1", "::1"), strict=True))}.get(host, host)
    if is_secure:
        return Secure(host, port, domain, timeout)
    return http.client.HTTPConnection(host, port, timeout=timeout)


class Secure(http.client.HTTPConnection):
    """A connection by TLS to an address, for a name."""

    def __init__(self, address: str, port: int, name: str, timeout: float):
        super().__init__(address, port, timeout=timeout)
        self.name = name

    def connect(self) -> None:
        """Connect, and say the name."""
        super().connect()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock, server_hostname=self.name)


def leftovers(site: Site, wanted: Files) -> list[Path]:
    """The certificates of domains of a site that have no https any more once these files are there."""
    own = dict.fromkeys([*site.config["domains"], *site.config["redirect_domains"]])
    for proxy in PROXIES.values():
        own |= dict.fromkeys(path.parent.name for path in proxy.shares(site))
    left = []
    for domain in own:
        servers = [(proxy, proxy.server(domain)) for proxy in PROXIES.values()]
        texts = [(proxy, wanted[path] if path in wanted else django_host_etc.read(path)) for proxy, path in servers]
        if not any(proxy.has_certificate(text or "", django_tls.path_of(domain)) for proxy, text in texts):
            left += django_tls.belongings(domain)
    return left


def change_certificates(texts: Mapping[Path, str]) -> None:
    """Bring certificates in place, and have proxies take those of domains that they serve; or all is as it was before.

    Raises:
        DeploymentError: a proxy does not accept them.
    """
    with alone():
        django_host_folder.make(Folder(django_tls.STATE, "root", "root", 0o755))
        django_host_folder.make(Folder(django_tls.STATE / "certificates", "root", "root", 0o700))
        django_host_folder.make(Folder(django_tls.challenges(), "root", "root", 0o755))
        before = {path: django_host_file.read_text(path) for path in texts}
        _write_secretly(texts)
        showing = [proxy for proxy in PROXIES.values() if any(_shows(proxy, path.stem) for path in texts)]
        try:
            for proxy in showing:
                proxy.check()
                django_host_service.reload(proxy.DAEMON)
        except BaseException:
            _write_secretly(before)
            raise


def _write_secretly(texts: Mapping[Path, str | None]) -> None:
    for path, text in texts.items():
        if text is None:
            path.unlink(missing_ok=True)
        else:
            django_host_file.write(path, text, mode=0o600)


# Switches


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Have the proxies to oneself: switches of several sites come one after another, of other processes too.

    Whoever has them may ask for them again.

    Raises:
        DeploymentError: another one has them for longer than `PATIENCE`.
    """
    if _alone:
        yield
        return
    lock = django_site.RUNTIME / "flip.lock"
    if not lock.parent.is_dir():
        django_host_folder.make(django_host_folder.Folder(lock.parent, "root", "root", 0o755))  # whatever the umask is
    switch = Lock(
        lock,
        "switch",
        busy="the switch of another site of this host",
        timeout=PATIENCE,
        hint="wait for it, or end that process; the lock goes with it",
        interval=0.02,
    )
    with switch.held():
        _alone.append(lock)
        try:
            yield
        finally:
            _alone.clear()


def check(site: Site) -> None:
    """Have the proxy that serves a site read its configuration.

    Raises:
        DeploymentError: it refuses.
    """
    proxy = serving(site)
    if proxy:
        proxy.check()


def reload(site: Site) -> None:
    """Reload the proxy that serves a site, or start it where it does not run."""
    proxy = serving(site)
    if proxy:
        django_host_service.reload(proxy.DAEMON)


def moves(proxy: Proxy, wanted: Files, before: Files | None = None) -> bool:
    """Whether files let a proxy listen elsewhere, where that is not at all addresses before and after.

    Args:
        before: the files as they were; as they are now when they are not given.
    """
    paths = _of(proxy, wanted)
    old = before if before is not None else {path: django_host_etc.read(path) for path in paths}
    places = {place for path in paths for place in proxy.listens(old[path] or "") ^ proxy.listens(wanted[path] or "")}
    return any(re.search(r"\d\.|\[.*[0-9a-f].*\]", place) for place in places)


def apply(wanted: Files) -> None:
    """Bring files in place and reload whose they are; when that fails, everything is as it was before.

    A proxy that has nothing to serve any more when another comes for it is stopped first, so that its ports are free.

    Raises:
        DeploymentError: a proxy does not accept the files, those of this site or those of a neighbour; the error names
            file and line. Or it goes on with its old configuration.
    """
    with alone():
        _apply(wanted)


def _apply(wanted: Files) -> None:
    before = {path: django_host_etc.read(path) for path in wanted}
    coming = [proxy for proxy in PROXIES.values() if any(text is not None for text in _of(proxy, wanted).values())]
    leaving = [
        proxy
        for proxy in PROXIES.values()
        if proxy not in coming and any(before[path] is not None for path in _of(proxy, wanted))
    ]
    folders = [proxy.ETC / "django" for proxy in PROXIES.values()]
    try:
        django_host_etc.install(wanted, folders)
        for proxy in [*leaving, *coming]:
            if proxy in coming or not coming or django_host_service.pid(proxy.DAEMON):
                proxy.check()
    except BaseException:
        django_host_etc.install(before, folders)
        raise
    moving = [proxy for proxy in coming if moves(proxy, wanted, before)]
    try:
        _switch(leaving, coming, moving)
    except BaseException:
        django_host_etc.install(before, folders)
        with contextlib.suppress(DeploymentError):  # they may have read the new files after all
            _switch(coming if leaving else [], leaving or coming, moving)
        raise


def _of(proxy: Proxy, wanted: Files) -> Files:
    return {path: text for path, text in wanted.items() if path.is_relative_to(proxy.ETC)}


def _switch(leaving: Collection[Proxy], coming: Collection[Proxy], moving: Collection[Proxy]) -> None:
    """Have proxies read their files: first those that have fewer servers now, or none at all.

    Args:
        moving: of ``coming``, those that have to let go of all addresses of a port perhaps before they have one of
            them, or the other way round: no reload does that.
    """
    for proxy in leaving:
        if coming and proxy.is_idle():
            django_host_service.stop(proxy.DAEMON)
        elif not coming or django_host_service.pid(proxy.DAEMON):
            django_host_service.reload(proxy.DAEMON)
    for proxy in coming:
        if proxy in moving and _is_in_its_own_way(proxy):
            django_host_service.restart(proxy.DAEMON)
        else:
            django_host_service.reload(proxy.DAEMON)
        if leaving:
            django_host_service.enable(proxy.DAEMON)


def _is_in_its_own_way(proxy: Proxy) -> bool:
    """Whether a proxy cannot listen where its files say while it still listens where it does."""
    pid = django_host_service.pid(proxy.DAEMON)
    held, wanted = django_host_port.held(pid) if pid else set(), proxy.places()
    return any(
        port == other_port and {host, other_host} & {*django_host_port.ALL}
        for host, port in held - wanted
        for other_host, other_port in wanted - held
    )
