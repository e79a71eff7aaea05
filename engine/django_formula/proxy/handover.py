"""Hand sites over from one proxy of the formula to another, all at once: one process can listen on a port."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.host import ports as host_ports
from django_formula.host.config_files import Files
from django_formula.host.ports import Listen
from django_formula.proxy import domain_moves, proxies, site_files, switch
from django_formula.proxy import ports as proxy_ports
from django_formula.proxy.contract import Proxy
from django_formula.proxy.domain_moves import Move
from django_formula.release import releases
from django_formula.site import sites as site_sites
from django_formula.site.sites import Site


def handover_files(
    site: Site,
    facts: Mapping[str, Any],
    templates: Mapping[str, str],
    through: Path | None = None,
    *,
    upcoming: bool = False,
    alone: bool = False,
) -> Files:
    """Return every file that the proxy of a site needs, with those of other sites that have to change at the same time.

    These are the sites that its domains come from or go to (`proxy.domain_moves`); all sites of a proxy that hands its
    sites over to another one; and all of a proxy that changes the addresses that it listens on, since a socket on all
    addresses serves all sites.

    Args:
        site: the site.
        facts: of the release, see `proxy.site_files.files_of_site`.
        templates: their texts.
        through: see `proxy.site_files.files_of_site`.
        upcoming: see `proxy.site_files.files_of_site`.
        alone: whether other sites count as they are, as in a dry run, where their pillar has not been applied.
    """
    move = Move([site], "") if alone else domain_moves.pending_move(site)
    now = domain_moves.as_present(site, facts) if move.waits else (site, facts)
    mine = site_files.part(*now, templates, through, upcoming=upcoming) if now else {}
    parts = [mine, *(_part(other) for other in move.sites[1:] if not move.waits)]
    wanted = site_files.together(parts)
    own = proxies.configured(site)
    listens = [*site.config["proxy"]["listen"], *site.listens_tls]
    former = proxies.serving(site) or (proxy_ports.holder_of(listens) if own else None)
    if own and former in (own, None):
        if switch.moves(own, wanted):
            others = [other for other in _others(site, own) if proxies.configured(other) is own]
            wanted = site_files.together([*parts, *map(_part, others)])
        has_addresses = any(not isinstance(listen, int) for listen in listens)
        return {**(_refusing(own, [site], templates, *own.refused()) if has_addresses else {}), **wanted}
    if not former or not own:
        return wanted
    left: list[Site] = []
    coming = [site]
    for other in _others(site, former):
        (coming if proxies.configured(other) is own else left).append(other)
    return {
        **_refusing(former, left, left[0].kept_templates() if left else {}),
        **_refusing(own, coming, templates),
        **site_files.together([*parts, *map(_part, coming[1:])]),
    }


def _part(site: Site) -> Files:
    """Return what a site has in these files with its active release."""
    live = releases.linked(site, site.current)
    facts = live.facts if live else {}
    now = domain_moves.as_present(site, facts) if domain_moves.pending_move(site).waits else (site, facts)
    return site_files.part(*now, site.kept_templates()) if now else {}


def _others(site: Site, proxy: Proxy) -> Iterator[Site]:
    """Yield the other sites of this host that a proxy serves."""
    for name in site_sites.registered():
        other = site_sites.find(name)
        if name != site.name and proxies.serving(other) is proxy:
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
    return proxy.default_server(host_ports.ordered(http), host_ports.ordered(https), templates)
