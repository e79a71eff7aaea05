"""The steps `tls`, `proxy` and `acme`: the site's certificates and its files of the proxy."""

from collections.abc import Iterator

import django_deploy_difference
import django_host_config
import django_host_file
import django_proxy
import django_proxy_files
import django_proxy_handover
import django_proxy_listener
import django_proxy_move
import django_proxy_page
import django_proxy_reach
import django_proxy_rival
import django_proxy_switch
import django_tls
import django_tls_acme
from django_deploy import Changes, Deployment
from django_host_command import DeploymentError
from django_proxy_move import Move
from django_site import Site


def tls(deployment: Deployment) -> Iterator[Changes]:
    """Have a certificate for each domain, a temporary one until it is issued, and https in the proxy."""
    site, files, templates = deployment.site, deployment.secrets.tls, deployment.templates
    if not site.https:
        return
    missing = django_tls.missing(site, files, templates)
    opened = django_host_config.differences(django_proxy_files.opening(site, templates))
    if not missing and not opened:
        return
    yield {**({"certificates": missing} if missing else {}), **opened}
    if missing:
        django_proxy_switch.change_certificates(django_tls.texts(site, missing, files, templates))
    if opened:
        django_proxy_switch.apply(django_proxy_files.opening(site, templates))


def proxy(deployment: Deployment) -> Iterator[Changes]:
    """Write the proxy's files of the site and their links; reload it where one has changed and all are valid.

    Without a proxy, have the address on which systemd listens for the site. Whatever the step had to do, visitors
    reach the site then, or an error says what they meet (docs/decisions/0074).
    """
    site, release, templates = deployment.site, deployment.release, deployment.templates
    if not release:
        return
    upcoming = bool(deployment.planned and deployment.test)
    expected = django_deploy_difference.expected_facts
    facts = expected(site, release, deployment.commit) if upcoming else release.facts
    files = django_proxy_handover.files(site, facts, templates, upcoming=upcoming, alone=deployment.test)
    move = Move([site], "") if deployment.test else django_proxy_move.of_site(site)
    deployment.set_waiting(move.waits)
    if move.waits and deployment.coming is None:  # of the site alone: no other one is released after it
        deployment.warn([f"{site.name} keeps the domains that it has: {move.waits}"])
    changes = django_host_config.differences(files)
    pages = {} if upcoming else django_proxy_page.of_errors(site, release.path, release.facts["folder"])
    stale = {} if upcoming else django_proxy_page.differences(site, pages)
    moving = [] if move.waits else move.sites
    leftovers = [path for one in moving for path in django_proxy_files.leftovers(one, files)]
    listener = django_proxy_listener.stale(site, templates)
    if not (changes or stale or leftovers or listener):
        if not deployment.test:
            deployment.warn(_not_reached(moving))
        return
    yield {**changes, **stale, **listener, **{str(path): "removed" for path in leftovers}}
    deployment.take_lock()
    if listener and not site.listener:
        django_proxy_listener.remove(site)
    django_proxy_page.install(site, pages)
    was_served = bool(django_proxy.serving(site))
    if changes:
        rivals = [(one, django_proxy_rival.of_site(one)) for one in moving]
        django_proxy_switch.apply(files, lambda: django_proxy_rival.refuse(rivals))
    django_proxy_page.remove_stale(site, pages)
    if listener and site.listener:
        django_proxy_listener.apply(site, templates)
    for path in leftovers:
        django_host_file.remove_tree(path)
    found = _not_reached(moving)
    if found and not was_served:
        proxy = django_proxy.of_site(site)
        raise DeploymentError(found[0], hint=f"see {proxy.DAEMON.log}, and apply again" if proxy else "")
    deployment.warn(found)


def _not_reached(sites: list[Site]) -> list[str]:
    """Return for each site that visitors do not reach a text that says what they meet instead."""
    found = {site.name: django_proxy_reach.problem(site, anew=False) for site in sites}
    return [f"visitors do not reach {name}: {problem}" for name, problem in found.items() if problem]


def acme(deployment: Deployment) -> Iterator[Changes]:
    """Order the certificates that are due, now that the proxy answers; a failure is a warning.

    Domains that other sites still have get theirs later: see `domains`.
    """
    site = deployment.site
    if (
        deployment.waiting
        or not site.https
        or site.config["tls"]["kind"] != "acme"
        or not (deployment.release or deployment.test)
    ):
        return
    due, deferred = django_tls_acme.due(site)
    deployment.warn(deferred)
    if due:
        changes: Changes = {"certificates": due}
        yield changes
        ordered, failed = django_tls_acme.renew(site, due, deployment.secrets.tls)
        deployment.warn(failed)
        changes.clear()
        changes.update({"certificates": ordered} if ordered else {})


def domains(deployment: Deployment) -> Iterator[Changes]:
    """See that a site whose step `proxy` has waited for other sites of this apply has its domains now.

    Raises:
        DeploymentError: it has not; the sites serve the domains that they have had.
    """
    if not deployment.waiting:
        return
    waits = django_proxy_move.of_site(deployment.site).waits
    if waits:
        raise DeploymentError(
            f"{waits}; until then the sites keep the domains that they have",
            hint="see what failed for these sites above, and apply again",
        )
    deployment.set_waiting("")
    yield from acme(deployment)
