"""From one proxy of the formula to another: all its sites that are to go, at once, for a port has one holder."""

from collections.abc import Iterator, Mapping
from typing import Any

import django_proxy
import django_release
import django_site
from django_etc import Files
from django_proxy import Proxy
from django_site import Site


def files(site: Site, facts: Mapping[str, Any], templates: Mapping[str, str], *, upcoming: bool = False) -> Files:
    """Every file that the proxy of a site needs; where that is another one now, those of its other sites too.

    Args:
        facts, upcoming: see `django_proxy.files`.
    """
    wanted = django_proxy.files(site, facts, templates, upcoming=upcoming)
    own = django_proxy.of_site(site)
    ports = [*site.config["proxy"]["listen"], *site.https]
    former = django_proxy.serving(site) or (django_proxy.holder_of(ports) if own else None)
    if not former or not own or former is own:
        return wanted
    left: list[Site] = []
    coming = [site]
    for other in _others(site, former):
        (coming if django_proxy.of_site(other) is own else left).append(other)
    for other in coming[1:]:
        live = django_release.linked(other, other.current)
        wanted |= django_proxy.files(other, live.facts if live else {}, other.kept_templates())
    return {
        **_refusing(former, left, left[0].kept_templates() if left else {}),
        **_refusing(own, coming, templates),
        **wanted,
        **django_proxy.deserted(wanted),
    }


def _others(site: Site, proxy: Proxy) -> Iterator[Site]:
    """The other sites of this host that a proxy serves."""
    for name in django_site.registered():
        other = django_site.find(name)
        if name != site.name and django_proxy.serving(other) is proxy:
            yield other


def _refusing(proxy: Proxy, sites: list[Site], templates: Mapping[str, str]) -> Files:
    http = {port for site in sites for port in site.config["proxy"]["listen"]}
    https = {port for site in sites for port in site.https}
    return proxy.default_server(sorted(http), sorted(https), templates)
