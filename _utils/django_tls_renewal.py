"""What the timer of a site's certificates runs: it renews those that are due, without Salt and without the pillar."""

import sys

import django_proxy_switch
import django_site
import django_tls
import django_tls_acme
from django_host_command import DeploymentError
from django_site import Site


def main(name: str) -> int:
    """Renew what is due of a site; returns the exit code, 1 where something has failed."""
    try:
        site = django_site.find(name)
        changed, warnings = renew(site)
    except (DeploymentError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    for domain, how in changed.items():
        print(f"{domain}: {how}")
    for warning in warnings:
        print(warning, file=sys.stderr)
    return 1 if warnings else 0


def renew(site: Site, *, force: bool = False, again: bool = False) -> tuple[dict[str, str], list[str]]:
    """Renew the certificates of a site.

    Args:
        force: those too that are not due, where an authority orders them.
        again: those too that have failed a short while ago.

    Returns:
        What has changed, by domain, and warnings.

    Raises:
        DeploymentError: they cannot be made, or the proxy does not take them.
    """
    if not site.https:
        return {}, []
    templates = site.kept_templates()
    changed = django_tls.lacking(site, {}, templates)
    if changed:
        django_proxy_switch.change_certificates(django_tls.texts(site, changed, {}, templates))
    if site.config["tls"]["kind"] != "acme":
        return changed, []
    due, deferred = django_tls_acme.due(site, again=again)
    wanted = django_tls.domains(site) if force else list(due)
    ordered, warnings = django_tls_acme.renew(site, wanted, {})
    return changed | ordered, [*([] if force else deferred), *warnings]
