"""The state of this host's balancer: its configuration, its certificates, and its services."""

from collections.abc import Collection, Mapping
from typing import Any

from django_formula.balancer import certificates, plan
from django_formula.host import outcome
from django_formula.host.outcome import Outcome
from django_formula.site.sites import Site
from django_formula.tls import certificates as tls_certificates


def balance(
    sites: Mapping[str, Site],
    gone: Collection[str],
    given: Mapping[str, Mapping[str, str]],
    templates: Mapping[str, str],
    *,
    test: bool,
) -> Outcome:
    """Have this host balance sites between their hosts; with the last one, the balancer is stopped.

    Args:
        sites: by name.
        gone: names of the sites that it does not balance.
        given: the secrets of each site: of its status page, and certificates.
        templates: the balancer's templates, by URL.

    Raises:
        DeploymentError: a file of the pillar is not valid, or the program refuses its configuration.
    """
    entries = {name: plan.entry(site, given[name].get("password")) for name, site in sites.items()}
    missing = {
        name: tls_certificates.missing(site, given[name], templates) for name, site in sites.items() if site.https
    }
    files = {url: templates[url] for url in plan.templates([entry["kind"] for entry in entries.values()])}
    changes: dict[str, Any]
    if test:
        changes = dict(plan.planned(entries, gone, files).changes)
        later, warnings = certificates.planned(entries, templates)
    else:
        made = [
            tls_certificates.texts(sites[name], due, given[name], templates) for name, due in missing.items() if due
        ]
        keys = {path: text for texts in made for path, text in texts.items()}
        changes = dict(plan.apply(entries, gone, files, keys))
        later, warnings = certificates.apply(plan.recorded(), templates, given)
    domains = {domain: reason for due in missing.values() for domain, reason in due.items()}
    domains |= later.pop("certificates", {})
    changes |= later | ({"certificates": domains} if domains else {})
    if changes:
        comment = f"the balancer {'would be' if test else 'has been'} {'changed' if sites else 'removed'}"
        return Outcome(comment, changes, warnings)
    if not sites:
        return Outcome("this host is no balancer", warnings=warnings)
    for service in plan.services():
        runs = outcome.running(service, at_boot=True, test=test)
        if runs.changes:
            return runs
    return Outcome("the balancer is unchanged", warnings=warnings)
