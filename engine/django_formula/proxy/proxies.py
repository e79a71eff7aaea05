"""The proxies in front of sites: every kind, the one that a site is configured with, and the one that serves it."""

import http.client
import ssl
from pathlib import Path

from django_formula.host import config_files, ports
from django_formula.proxy import apache, nginx
from django_formula.proxy.contract import Proxy
from django_formula.site import domains
from django_formula.site.sites import Site
from django_formula.tls import certificates

#: Every proxy, by the name that the pillar has for it; with ``none`` a proxy of the operator's connects to the site.
PROXIES: dict[str, Proxy] = {"nginx": nginx.PROXY, "apache": apache.PROXY}


def configured(site: Site) -> Proxy | None:
    """Return the proxy that a site is configured with, or None with `proxy:kind: none`."""
    return PROXIES.get(site.config["proxy"]["kind"])


def serving(site: Site) -> Proxy | None:
    """Return the proxy that has files of a site now, or None."""
    return next((proxy for proxy in PROXIES.values() if proxy.main_file(site).exists()), None)


def is_installed(site: Site) -> bool:
    """Return whether a proxy has files of the site."""
    return serving(site) is not None


def is_ready(site: Site) -> bool:
    """Return whether the proxy that the site is configured with serves it, or it needs none."""
    return serving(site) is configured(site)


def origin(site: Site) -> str:
    """Return how visitors begin the URL of a site: ``https://blog.example.org``, with the port where it is not usual.

    Of a proxy in front of this host the port is not known.
    """
    plain = [] if site.config["proxy"]["trusted"] else site.config["proxy"]["listen"]
    known = site.public_https or [ports.split(listen)[1] for listen in plain]
    port = f":{known[0]}" if known and {"https": 443, "http": 80}[site.scheme] not in known else ""
    return f"{site.scheme}://{site.canonical}{port}"


def check(site: Site) -> None:
    """Have the proxy that serves a site test its configuration.

    Raises:
        DeploymentError: the proxy refuses it.
    """
    proxy = serving(site)
    if proxy:
        proxy.check()


def access_log(site: Site) -> Path | None:
    """Return the access log in JSON of a site alone, or None where it has none."""
    proxy = serving(site)
    is_own = proxy is not None and site.config["proxy"]["access_log"] == "json"
    return Path(proxy.DAEMON.log).with_name(f"django-{site.name}.log") if proxy and is_own else None


# Connections to a site through the proxy of this host, as a client has them


def has_certificate(proxy: Proxy, domain: str) -> bool:
    """Return whether the servers of a domain use its certificate."""
    return proxy.has_certificate(config_files.read(proxy.server(domain)) or "", certificates.path_of(domain))


def speaks_tls(site: Site) -> bool:
    """Return whether the site is served by https, by the proxy's present files."""
    proxy = serving(site)
    return proxy is not None and has_certificate(proxy, site.config["domains"][0])


def connection(site: Site, timeout: float) -> http.client.HTTPConnection:
    """Return a connection to the proxy on this host, as it serves the site now; the certificate is not verified."""
    domain, proxy = site.config["domains"][0], serving(site)
    name = domains.host(domain)
    text = (proxy and config_files.read(proxy.server(domain))) or ""
    is_secure = speaks_tls(site)
    configured = ports.split([*site.config["proxy"]["listen"], 80][0])
    host, port = (proxy and proxy.place(text, tls=is_secure)) or (("", 443) if is_secure else configured)
    host = {"": "127.0.0.1", **dict(zip(ports.ALL, ("127.0.0.1", "::1"), strict=True))}.get(host, host)
    if is_secure:
        return Secure(host, port, name, timeout)
    return http.client.HTTPConnection(host, port, timeout=timeout)


class Secure(http.client.HTTPConnection):
    """A connection by TLS to an address, with the name of a host."""

    def __init__(self, address: str, port: int, name: str, timeout: float):
        super().__init__(address, port, timeout=timeout)
        self.name = name

    def connect(self) -> None:
        """Connect, and send the name (SNI)."""
        super().connect()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock, server_hostname=self.name)
