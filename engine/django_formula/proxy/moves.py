"""What moves as one change: domains and paths between the sites of a host, and sites between its proxies.

See docs/decisions/0075.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.host import config_files
from django_formula.host import ports as host_ports
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import Files
from django_formula.host.ports import Listen
from django_formula.proxy import ports as proxy_ports
from django_formula.proxy import proxies, site_files, switch
from django_formula.proxy.contract import Proxy
from django_formula.release import releases
from django_formula.secret import secrets
from django_formula.site import domains as site_domains
from django_formula.site import sites as site_sites
from django_formula.site.sites import Site
from django_formula.tls import certificates

#: What a domain is for a site that it only redirects to; otherwise it is the path of the site there.
REDIRECT = "redirect"
#: The domains of a site: name → `REDIRECT`, or the path at which the site is.
Domains = dict[str, str]
#: The keys of the pillar by which a release depends on its domains.
_OF_RELEASE = ("domains", "path")


class Move(NamedTuple):
    """The change of a site's domains, and those of other sites without which it cannot be made.

    Attributes:
        sites: the site, and the others.
        waits: why the change cannot be made yet, for people; empty where it can.
    """

    sites: list[Site]
    waits: str


class _Change(NamedTuple):
    """What the proxy's files have for a site, and what the pillar wants."""

    site: Site
    present: Domains
    wanted: Domains

    @property
    def domains(self) -> set[str]:
        """The domains that differ."""
        every = {*self.present, *self.wanted}
        return {domain for domain in every if self.present.get(domain) != self.wanted.get(domain)}


def pending_move(site: Site) -> Move:
    """Return the change of a site's domains that its proxy's files do not have yet."""
    change = _change(site)
    if not change.domains:
        return Move([site], "")
    left = [_change(other) for other in _others(site)]
    together = [change]
    for one in together:  # it grows
        linked = [other for other in left if _depend(one, other)]
        together += linked
        left = [other for other in left if other not in linked]
    sites = [one.site for one in together]
    return Move(sites, "; ".join(_missing(together)) if len(sites) > 1 else "")


def _change(site: Site) -> _Change:
    return _Change(site, present(site), _wanted(site))


def present(site: Site) -> Domains:
    """Return the domains that a site has by the present files of its proxy."""
    proxy = proxies.serving(site)
    if not proxy:
        return {}
    path = proxy.path(config_files.read(proxy.locations(site)) or "")
    return {
        site_domains.of_file(share.parent.name): REDIRECT if share.suffix == ".redirect" else path
        for share in proxy.shares(site)
    }


def _wanted(site: Site) -> Domains:
    if not proxies.configured(site):
        return {}
    path = site.config["path"].rstrip("/") or "/"
    return dict.fromkeys(site.config["redirect_domains"], REDIRECT) | dict.fromkeys(site.config["domains"], path)


def _others(site: Site) -> Iterator[Site]:
    for name in site_sites.registered():
        if name != site.name:
            with contextlib.suppress(DeploymentError):  # its applied configuration is damaged
                yield site_sites.find(name)


def _depend(one: _Change, other: _Change) -> bool:
    """Return whether the changes of two sites have to be made at once: one gets what the other has had."""
    return _gets(one, other) or _gets(other, one)


def _gets(one: _Change, other: _Change) -> bool:
    if any(domain in one.wanted and domain in other.present for domain in one.domains & other.domains):
        return True
    return any(_collide(one.wanted.get(domain), other.present.get(domain)) for domain in one.domains)


def _collide(one: str | None, other: str | None) -> bool:
    """Return whether no proxy can have both for a domain: the same path, or a server that redirects all paths."""
    return one is not None and other is not None and (one == other or REDIRECT in (one, other))


def _missing(changes: Collection[_Change]) -> Iterator[str]:
    for one, other in combinations(changes, 2):
        for domain in sorted({*one.wanted} & {*other.wanted}):
            if _collide(one.wanted[domain], other.wanted[domain]):
                yield f"{domain} belongs to both {one.site.name} and {other.site.name}"
    names = sorted(change.site.name for change in changes if not _is_released(change.site))
    if names:
        domains = sorted({domain for change in changes for domain in change.domains})
        yield f"{', '.join(domains)} change as soon as {' and '.join(names)} is released with its new domains"


def _is_released(site: Site) -> bool:
    """Return whether the active release of a site was made with its present domains and path."""
    live = releases.linked(site, site.current)
    recorded, key = live.record.get("inputs", {}) if live else {}, secrets.record_key(site)
    return all(recorded.get(name) == secrets.keyed_hash(key, site.config[name]) for name in _OF_RELEASE)


def as_present(site: Site, facts: Mapping[str, Any]) -> tuple[Site, dict[str, Any]] | None:
    """Return a site and the facts of its release with the domains and the path that its proxy's files have.

    Args:
        site: the site.
        facts: of the release, see `proxy.site_files.files_of_site`; their URLs begin with the path of the pillar.

    Returns:
        None where the proxy has no files of the site.
    """
    now, proxy = present(site), proxies.serving(site)
    if not now or not proxy:
        return None
    served = [domain for domain, what in now.items() if what != REDIRECT]
    path = next((now[domain] for domain in served), site.config["path"])
    texts = [(domain, config_files.read(proxy.server(domain)) or "") for domain in now]
    has_tls = all(proxy.has_certificate(text, certificates.path_of(domain)) for domain, text in texts)
    config = {
        **site.config,
        "domains": sorted(served, key=lambda domain: (domain not in site.config["domains"], domain)),
        "redirect_domains": sorted({*now} - {*served}),
        "path": path,
        "tls": {**site.config["tls"], **({} if has_tls else {"kind": "none"})},
    }
    prefix, own = site.config["path"].rstrip("/"), path.rstrip("/")
    urls = {name: str(facts[name]) for name in ("static_url", "media_url") if name in facts}
    moved = {name: own + url[len(prefix) :] for name, url in urls.items() if url.startswith(f"{prefix}/")}
    return Site(config, site.platform), {**facts, **moved}


def leaving(site: Site) -> list[str]:
    """Return the domains of a site that other sites of this host get; until then its next release has requests."""
    change = _change(site)
    given_up = {domain for domain in change.domains if change.present.get(domain, REDIRECT) != REDIRECT}
    wanted = {domain for other in _others(site) for domain in _wanted(other)} if given_up else set()
    return sorted((given_up & wanted) - {*site.config["domains"]})


# From one proxy of the formula to another, for all sites at once: one process can listen on a port


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

    These are the sites that its domains come from or go to (`proxy.moves`); all sites of a proxy that hands its
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
    move = Move([site], "") if alone else pending_move(site)
    now = as_present(site, facts) if move.waits else (site, facts)
    mine = site_files.part(*now, templates, through, upcoming=upcoming) if now else {}
    parts = [mine, *(_part(other) for other in move.sites[1:] if not move.waits)]
    wanted = site_files.together(parts)
    own = proxies.configured(site)
    listens = [*site.config["proxy"]["listen"], *site.listens_tls]
    former = proxies.serving(site) or (proxy_ports.holder_of(listens) if own else None)
    if own and former in (own, None):
        if switch.moves(own, wanted):
            others = [other for other in _others_of(site, own) if proxies.configured(other) is own]
            wanted = site_files.together([*parts, *map(_part, others)])
        has_addresses = any(not isinstance(listen, int) for listen in listens)
        return {**(_refusing(own, [site], templates, *own.refused()) if has_addresses else {}), **wanted}
    if not former or not own:
        return wanted
    left: list[Site] = []
    coming = [site]
    for other in _others_of(site, former):
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
    now = as_present(site, facts) if pending_move(site).waits else (site, facts)
    return site_files.part(*now, site.kept_templates()) if now else {}


def _others_of(site: Site, proxy: Proxy) -> Iterator[Site]:
    """Return the other sites of this host that a proxy serves."""
    return (other for other in _others(site) if proxies.serving(other) is proxy)


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
