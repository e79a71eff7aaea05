"""Renew a site's certificates by its systemd timer, without Salt and without the pillar.

The page of the host has a domain besides those of sites, whose certificate is renewed with those of one site.
"""

from collections.abc import Mapping
from typing import Any

from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.proxy import switch
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.tls import acme, certificates
from django_formula.untrusted.text import tell


def main(name: str) -> int:
    """Renew the certificates of a site that are due, and return the exit code: 1 where something failed."""
    try:
        site = sites.find(name)
        changed, warnings = renew(site)
    except (DeploymentError, OSError) as error:
        tell(error, is_error=True)
        return 1
    for domain, how in changed.items():
        tell(f"{domain}: {how}")
    for warning in warnings:
        tell(warning, is_error=True)
    return 1 if warnings else 0


#: The domain of the page, the site that it is served like, and the proxy.
PAGE = certificates.STATE / "page.json"
_SHAPE = {"domain": str, "site": str, "kind": str}


def served_page() -> dict[str, Any] | None:
    """Return what is recorded of the page that is served; None where none is."""
    return file.read_json(PAGE, _SHAPE)


def keep_page(record: Mapping[str, str]) -> None:
    """Record how the page is served."""
    file.write_json(PAGE, record, mode=0o600)


def with_domain(site: Site, domain: str) -> Site:
    """Return a site with another domain alone: what a domain needs that is served like the site."""
    return Site({**site.config, "domains": [domain], "redirect_domains": []}, site.platform)


def renew(site: Site, *, force: bool = False, again: bool = False) -> tuple[dict[str, str], list[str]]:
    """Renew the certificates of a site.

    Args:
        site: the site.
        force: renew certificates of an authority that are not due, too.
        again: retry those that failed a short while ago, too; a person asks for it, so the clock is right.

    Returns:
        What changed, by domain, and warnings.

    Raises:
        DeploymentError: a certificate cannot be made, or the proxy refuses it.
    """
    unread = switch.catch_up()
    changed, warnings = _renew(site.name, force=force, again=again)
    more, others = _renew(site.name, of_page=True, force=force, again=again)
    return changed | more, [*unread, *warnings, *others]


def _renew(name: str, *, of_page: bool = False, force: bool, again: bool) -> tuple[dict[str, str], list[str]]:
    changed = _replace(name, of_page=of_page, again=again)
    site = _served(name, of_page=of_page)
    if not site or site.config["tls"]["kind"] != "acme":
        return changed, []
    due, deferred = acme.due(site, again=again)
    domains = certificates.domains(site) if force else list(due)
    ordered, warnings = acme.renew(site, domains, {})
    return changed | ordered, [*([] if force else deferred), *warnings]


def _served(name: str, *, of_page: bool) -> Site | None:
    """Return a site as last applied, or what the page needs that is served like it; None where it has no https."""
    site = sites.find(name)
    if of_page:
        record = served_page()
        if not record or record["site"] != name or record["domain"] in certificates.domains(site):
            return None
        site = with_domain(site, record["domain"])
    return site if site.https else None


def _replace(name: str, *, of_page: bool, again: bool) -> dict[str, str]:
    """Install what can be installed at once; an apply that changes the site meanwhile has its own certificates."""

    def missing() -> tuple[Site | None, dict[str, str]]:
        site = _served(name, of_page=of_page)
        return site, certificates.missing(site, {}, site.kept_templates(), trusts_clock=again) if site else {}

    if not missing()[1]:
        return {}
    with switch.alone():
        site, changed = missing()
        if site and changed:
            templates = site.kept_templates()
            switch.change_certificates(certificates.texts(site, changed, {}, templates, trusts_clock=again))
    return changed
