"""The proxies in front of sites: every kind, the one that a site is configured with, and the one that serves it."""

from django_formula.host import daemons
from django_formula.proxy import apache, nginx
from django_formula.proxy.contract import Proxy
from django_formula.site.sites import Site

#: Every proxy, by the name that the pillar has for it; with ``none`` a proxy of the operator's connects to the site.
PROXIES: dict[str, Proxy] = {"nginx": nginx.PROXY, "apache": apache.PROXY}


def of_site(site: Site) -> Proxy | None:
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
    return serving(site) is of_site(site)


def check(site: Site) -> None:
    """Have the proxy that serves a site test its configuration.

    Raises:
        DeploymentError: the proxy refuses it.
    """
    proxy = serving(site)
    if proxy:
        proxy.check()


def reload(site: Site) -> None:
    """Reload the proxy that serves a site, or start it where it does not run."""
    proxy = serving(site)
    if proxy:
        daemons.reload(proxy.DAEMON)
