"""Connections to a site through the proxy of this host, as a client has them."""

import http.client
import ssl

import django_host_config
import django_host_port
import django_proxy
import django_site_domain
import django_tls
from django_proxy_contract import Proxy
from django_site import Site


def has_certificate(proxy: Proxy, domain: str) -> bool:
    """Return whether the servers of a domain use its certificate."""
    return proxy.has_certificate(django_host_config.read(proxy.server(domain)) or "", django_tls.path_of(domain))


def speaks_tls(site: Site) -> bool:
    """Return whether the site is served by https, by the proxy's present files."""
    proxy = django_proxy.serving(site)
    return proxy is not None and has_certificate(proxy, site.config["domains"][0])


def connection(site: Site, timeout: float) -> http.client.HTTPConnection:
    """Return a connection to the proxy on this host, as it serves the site now; the certificate is not verified."""
    domain, proxy = site.config["domains"][0], django_proxy.serving(site)
    name = django_site_domain.host(domain)
    text = (proxy and django_host_config.read(proxy.server(domain))) or ""
    is_secure = speaks_tls(site)
    configured = django_host_port.split([*site.config["proxy"]["listen"], 80][0])
    host, port = (proxy and proxy.place(text, tls=is_secure)) or (("", 443) if is_secure else configured)
    host = {"": "127.0.0.1", **dict(zip(django_host_port.ALL, ("127.0.0.1", "::1"), strict=True))}.get(host, host)
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
