"""The steps `tls`, `proxy` and `acme`: the site's certificates and its files of the proxy."""

from collections.abc import Iterator

from django_formula.deploy import difference
from django_formula.deploy.deployment import Changes, Deployment
from django_formula.host import config_files, file
from django_formula.host.commands import DeploymentError
from django_formula.proxy import listener as proxy_listener
from django_formula.proxy import moves, page, proxies, reach, site_files, switch, waiting
from django_formula.proxy.moves import Move
from django_formula.site.sites import Site
from django_formula.tls import acme as tls_acme
from django_formula.tls import certificates


def tls(deployment: Deployment) -> Iterator[Changes]:
    """Have a certificate for each domain, a temporary one until it is issued, and https in the proxy."""
    site, files, templates = deployment.site, deployment.secrets.tls, deployment.templates
    if not site.https:
        return
    missing = certificates.missing(site, files, templates)
    opened = config_files.differences(site_files.opening(site, templates))
    if not missing and not opened:
        return
    yield {**({"certificates": missing} if missing else {}), **opened}
    if missing:
        switch.change_certificates(certificates.texts(site, missing, files, templates))
    if opened:
        switch.apply(site_files.opening(site, templates))


def proxy(deployment: Deployment) -> Iterator[Changes]:
    """Write the proxy's files of the site and their links; reload it where one has changed and all are valid.

    Without a proxy, have the address on which systemd listens for the site. Whatever the step had to do, visitors
    reach the site then, or an error says what they meet (docs/decisions/0074).
    """
    site, release, templates = deployment.site, deployment.release, deployment.templates
    if not release:
        return
    upcoming = bool(deployment.findings.planned and deployment.test)
    expected = difference.expected_facts
    facts = expected(site, release, deployment.findings.commit) if upcoming else release.facts
    files = moves.handover_files(site, facts, templates, upcoming=upcoming, alone=deployment.test)
    move = Move([site], "") if deployment.test else moves.pending_move(site)
    deployment.set_waiting(move.waits)
    if move.waits and deployment.coming is None:  # of the site alone: no other one is released after it
        deployment.warn([f"{site.name} keeps the domains that it has: {move.waits}"])
    changes = config_files.differences(files)
    pages = {} if upcoming else page.of_errors(site, release.path, release.facts["folder"]) | waiting.pages(site)
    stale = {} if upcoming else page.differences(site, pages)
    moving = [] if move.waits else move.sites
    leftovers = [path for one in moving for path in site_files.leftovers(one, files)]
    listener = proxy_listener.stale(site, templates)
    if not (changes or stale or leftovers or listener):
        if not deployment.test:
            deployment.warn(_not_reached(moving))
        return
    yield {**changes, **stale, **listener, **{str(path): "removed" for path in leftovers}}
    deployment.take_lock()
    if listener and not site.listener:
        proxy_listener.remove(site)
    page.install(site, pages)
    was_served = bool(proxies.serving(site))
    if changes:
        rivals = [(one, reach.rivals(one)) for one in moving]
        switch.apply(files, lambda: reach.refuse_rivals(rivals))
    page.remove_stale(site, pages)
    if listener and site.listener:
        deployment.warn(proxy_listener.apply(site, templates))
    for path in leftovers:
        file.remove_tree(path)
    found = _not_reached(moving)
    if found and not was_served:
        proxy = proxies.configured(site)
        raise DeploymentError(found[0], hint=f"see {proxy.DAEMON.log}, and apply again" if proxy else "")
    deployment.warn(found)


def _not_reached(sites: list[Site]) -> list[str]:
    """Return for each site that visitors do not reach a text that says what they meet instead."""
    found = {site.name: reach.problem(site, anew=False) for site in sites}
    return [f"visitors do not reach {name}: {problem}" for name, problem in found.items() if problem]


def acme(deployment: Deployment) -> Iterator[Changes]:
    """Order the certificates that are due, now that the proxy answers; a failure is a warning.

    Domains that other sites still have get theirs later: see `domains`.
    """
    site = deployment.site
    if (
        deployment.findings.waiting
        or not site.https
        or site.config["tls"]["kind"] != "acme"
        or not (deployment.release or deployment.test)
    ):
        return
    due, deferred = tls_acme.due(site)
    deployment.warn(deferred)
    if due:
        changes: Changes = {"certificates": due}
        yield changes
        ordered, failed = tls_acme.renew(site, due, deployment.secrets.tls)
        deployment.warn(failed)
        changes.clear()
        changes.update({"certificates": ordered} if ordered else {})


def domains(deployment: Deployment) -> Iterator[Changes]:
    """See that a site whose step `proxy` has waited for other sites of this apply has its domains now.

    Raises:
        DeploymentError: it has not; the sites serve the domains that they have had.
    """
    if not deployment.findings.waiting:
        return
    waits = moves.pending_move(deployment.site).waits
    if waits:
        raise DeploymentError(
            f"{waits}; until then the sites keep the domains that they have",
            hint="see what failed for these sites above, and apply again",
        )
    deployment.set_waiting("")
    yield from acme(deployment)
