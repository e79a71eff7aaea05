"""The step `push`: the static files of a new release at another host, before its pages name them."""

from collections.abc import Iterator

from django_formula.deploy.deployment import Changes, Deployment
from django_formula.host.commands import DeploymentError
from django_formula.push import static_files
from django_formula.release import releases, static
from django_formula.release.releases import Release
from django_formula.untrusted.text import Log

log = Log.of(__name__)


def push(deployment: Deployment) -> Iterator[Changes]:
    """Push the static files of a new release that are missing at the destination."""
    site, release = deployment.site, deployment.release
    if not deployment.is_new or not release or not static_files.of_site(site):
        return
    changes: Changes = {"pushed": f"to {static_files.place(site)}"}
    yield changes
    names = _names(release)
    if "gzip" in site.config["static"]["compress"]:
        former = deployment.live.path / "static" if deployment.live else None
        static.compress(release.path / "static", former)
    log.info("%s: pushing static files to %s", site.name, static_files.place(site))
    sent = static_files.send(site, release.path / "static", names, deployment.secrets.push_secret)
    release.update(pushed={"files": len(names), "sent": len(sent)})
    changes["pushed"] = f"{len(sent)} of {len(names)} files to {static_files.place(site)}"


def outlook(deployment: Deployment, release: Release) -> Changes:
    """Return what a push would send of a planned release, by what this host has pushed before; nothing is connected.

    Raises:
        DeploymentError: its static files have no hash in their names.
    """
    if not static_files.of_site(deployment.site):
        return {}
    names = _names(release)
    new = {*names} - static_files.pushed(deployment.site)
    return {"pushed": f"{len(new)} of {len(names)} files to {static_files.place(deployment.site)}"} if new else {}


def prune(deployment: Deployment) -> None:
    """Delete what was pushed and no kept release names; where that fails, the next release tries it again."""
    site = deployment.site
    kept = [one for one in releases.releases(site) if one.record.get("state") in ("good", "held")]
    folders = [(one.path / "static", one.facts.get("static_storage", {})) for one in kept]
    try:
        count = static_files.prune(site, folders, deployment.secrets.push_secret)
    except (DeploymentError, OSError) as error:
        deployment.warn([f"static files of deleted releases stay at {static_files.place(site)}: {error}"])
        return
    if count:
        log.info("%s: deleted %d static files of deleted releases", site.name, count)


def _names(release: Release) -> list[str]:
    return static_files.names(release.site, release.path / "static", release.facts.get("static_storage", {}))
