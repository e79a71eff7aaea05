"""Hand sites over from one proxy of the formula to another, all at once: one process can listen on a port."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import django_host_port
import django_proxy
import django_proxy_files
import django_proxy_ports
import django_proxy_switch
import django_release
import django_site
from django_host_config import Files
from django_host_port import Listen
from django_proxy_contract import Proxy
from django_site import Site


def files(site: Site, facts: Mapping[str, Any], templates: Mapping[str, str], *, upcoming: bool = False) -> Files:
    """Return every file that the proxy of a site needs; where the site changes its proxy, those of its other sites too.

    The same holds where the proxy changes the addresses that it listens on: a socket on all addresses serves all
    sites.

    Args:
        site: the site.
        facts: of the release, see `django_proxy_files.of_site`.
        templates: their texts.
        upcoming: see `django_proxy_files.of_site`.
    """
    wanted = django_proxy_files.of_site(site, facts, templates, upcoming=upcoming)
    own = django_proxy.of_site(site)
    listens = [*site.config["proxy"]["listen"], *site.listens_tls]
    former = django_proxy.serving(site) or (django_proxy_ports.holder_of(listens) if own else None)
    if own and former in (own, None):
        if django_proxy_switch.moves(own, wanted):
            wanted |= _files_of([other for other in _others(site, own) if django_proxy.of_site(other) is own])
        has_addresses = any(not isinstance(listen, int) for listen in listens)
        return {**(_refusing(own, [site], templates, *own.refused()) if has_addresses else {}), **wanted}
    if not former or not own:
        return wanted
    left: list[Site] = []
    coming = [site]
    for other in _others(site, former):
        (coming if django_proxy.of_site(other) is own else left).append(other)
    wanted |= _files_of(coming[1:])
    return {
        **_refusing(former, left, left[0].kept_templates() if left else {}),
        **_refusing(own, coming, templates),
        **wanted,
        **django_proxy_files.deserted(wanted),
    }


def _files_of(sites: list[Site]) -> Files:
    """Return the files of sites as they are."""
    wanted: Files = {}
    for site in sites:
        live = django_release.linked(site, site.current)
        wanted |= django_proxy_files.of_site(site, live.facts if live else {}, site.kept_templates())
    return wanted


def _others(site: Site, proxy: Proxy) -> Iterator[Site]:
    """Yield the other sites of this host that a proxy serves."""
    for name in django_site.registered():
        other = django_site.find(name)
        if name != site.name and django_proxy.serving(other) is proxy:
            yield other


def _refusing(
    proxy: Proxy,
    sites: list[Site],
    templates: Mapping[str, str],
    plain: Collection[Listen] = (),
    secure: Collection[Listen] = (),
) -> Files:
    """Return the default server for sites, and for further places."""
    http = {*plain, *(listen for site in sites for listen in site.config["proxy"]["listen"])}
    https = {*secure, *(listen for site in sites for listen in site.listens_tls)}
    return proxy.default_server(django_host_port.ordered(http), django_host_port.ordered(https), templates)
