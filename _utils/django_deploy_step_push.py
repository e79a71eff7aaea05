"""The step `push`: the static files of a new release at another host, before its pages name them."""

from collections.abc import Iterator

import django_push
import django_release
import django_release_static
from django_deploy import Changes, Deployment
from django_host_command import DeploymentError
from django_release import Release
from django_wall_text import Log

log = Log.of(__name__)


def push(deployment: Deployment) -> Iterator[Changes]:
    """Push the static files of a new release that are missing at the destination."""
    site, release = deployment.site, deployment.release
    if not deployment.is_new or not release or not django_push.of_site(site):
        return
    changes: Changes = {"pushed": f"to {django_push.place(site)}"}
    yield changes
    names = _names(release)
    if "gzip" in site.config["static"]["compress"]:
        former = deployment.live.path / "static" if deployment.live else None
        django_release_static.compress(release.path / "static", former)
    log.info("%s: pushing static files to %s", site.name, django_push.place(site))
    sent = django_push.send(site, release.path / "static", names, deployment.secrets.push_secret)
    release.update(pushed={"files": len(names), "sent": len(sent)})
    changes["pushed"] = f"{len(sent)} of {len(names)} files to {django_push.place(site)}"


def outlook(deployment: Deployment, release: Release) -> Changes:
    """Return what a push would send of a planned release, by what this host has pushed before; nothing is connected.

    Raises:
        DeploymentError: its static files have no hash in their names.
    """
    if not django_push.of_site(deployment.site):
        return {}
    names = _names(release)
    new = {*names} - django_push.pushed(deployment.site)
    return {"pushed": f"{len(new)} of {len(names)} files to {django_push.place(deployment.site)}"} if new else {}


def prune(deployment: Deployment) -> None:
    """Delete what was pushed and no kept release names; where that fails, the next release tries it again."""
    site = deployment.site
    kept = [one for one in django_release.releases(site) if one.record.get("state") in ("good", "held")]
    folders = [(one.path / "static", one.facts.get("static_storage", {})) for one in kept]
    try:
        count = django_push.prune(site, folders, deployment.secrets.push_secret)
    except (DeploymentError, OSError) as error:
        deployment.warn([f"static files of deleted releases stay at {django_push.place(site)}: {error}"])
        return
    if count:
        log.info("%s: deleted %d static files of deleted releases", site.name, count)


def _names(release: Release) -> list[str]:
    return django_push.names(release.site, release.path / "static", release.facts.get("static_storage", {}))
