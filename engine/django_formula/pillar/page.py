"""The page of a host, `django:page`: whether it is made, and how it is served behind a password."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django_formula.kind import kinds
from django_formula.pillar.check import Problem, Rules
from django_formula.pillar.layers import fill, merge

FILES = "salt://django/files/"
_Sites = Mapping[str, Mapping[str, Any]]


def options(layers: Mapping[str, Any], rules: Rules, own_name: str) -> dict[str, Any] | None:
    """Return the options of the page with defaults, its password as a reference; None without a page.

    Args:
        layers: what the pillar has below ``django``.
        rules: of ``django``.
        own_name: of this minion; a page of all hosts is on the one alone that `watch:fleet` names.
    """
    page = _given(layers, rules)
    return None if page is None or (page["hosts"] == "all" and _fleet(layers) != own_name) else page


def _given(layers: Mapping[str, Any], rules: Rules) -> dict[str, Any] | None:
    given, rule = layers.get("page"), rules["properties"]["page"]
    return None if given is None else {"domain": "", **fill(merge({}, given, rule, ("django", "page"), []), rule)}


def _fleet(layers: Mapping[str, Any]) -> str | None:
    watch = layers.get("watch")
    return watch.get("fleet") if isinstance(watch, dict) else None


def contradictions(layers: Mapping[str, Any], rules: Rules, configurations: _Sites, own_name: str) -> Iterator[Problem]:
    """Yield what contradicts itself in the page, and between it and the sites of the host."""
    page = _given(layers, rules)
    if page is None:
        return
    path = ("django", "page")
    is_of_all = page["hosts"] == "all"
    if layers.get("watch") is False:
        yield path, "has no effect with django:watch: false: the watch writes the page"
    elif is_of_all and not _fleet(layers):
        yield (*path, "hosts"), "all needs django:watch:fleet, the master's minion, whose watch asks the hosts"
    if not page["domain"]:
        for key in ("password", "user", "site"):
            if (layers["page"] or {}).get(key):
                yield (*path, key), "has no effect without domain: the page is not served"
        return
    if page["domain"].startswith("*."):
        yield (*path, "domain"), f"expected one host name, such as status{page['domain'][1:]}"
    if not page["password"]:
        yield (*path, "password"), "missing: a page that is served has a password"
    sites = {name: site for name, site in configurations.items() if site["state"] != "absent"}
    for name, site in sites.items():
        if page["domain"] in (*site["domains"], *site["redirect_domains"]):
            text = f"{page['domain']} is a domain of site {name}, whose scripts could read the page: name another one"
            yield (*path, "domain"), text
    if is_of_all and _fleet(layers) != own_name:
        return
    served = _served(sites)
    if page["site"] and page["site"] not in served:
        yield (*path, "site"), f"expected a site with a proxy of this host, one of {', '.join(served) or 'none'}"
    elif (sites or is_of_all) and not served:
        hint = ", and serve the page by a server of your own (docs/guides/page.md)" if is_of_all else ""
        yield (*path, "domain"), f"no site of this host has a proxy, by which the page would be served: remove it{hint}"


def _served(sites: _Sites) -> list[str]:
    """Return the sites that a proxy of this host serves, those with https first."""
    served = [name for name, site in sites.items() if site["proxy"]["kind"] != "none"]
    return sorted(served, key=lambda name: (sites[name]["tls"]["kind"] == "none", name))


def compiled(layers: Mapping[str, Any], rules: Rules, sites: _Sites, own_name: str) -> dict[str, Any] | None:
    """Return how the page is served; None where it is not.

    Args:
        sites: configurations of the present sites.

    Returns:
        ``domain``, ``user``, ``password``; ``site``: the configuration of the site whose proxy, addresses and
        certificates it has; ``templates``: URLs of its files.
    """
    page = options(layers, rules, own_name)
    if not page or not page["domain"] or not sites:
        return None
    site = sites[page["site"] or _served(sites)[0]]
    proxy, tls = kinds.PROXIES[site["proxy"]["kind"]], site["tls"]
    urls = [FILES + proxy.page, *([FILES + proxy.tls] if tls["kind"] != "none" else [])]
    given = (tls.get(key) for key in ("certificate", "key"))
    urls += [url for url in given if isinstance(url, str) and url.startswith("salt://")]
    return {**{key: page[key] for key in ("domain", "user", "password")}, "site": site, "templates": urls}
