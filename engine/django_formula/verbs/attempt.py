"""The release that a verb looks into: the active one; before a first one, the newest that failed."""

from django_formula.host.commands import DeploymentError
from django_formula.release import releases
from django_formula.release.releases import Release
from django_formula.site.sites import Site


def live(site: Site) -> Release:
    """Return the active release.

    Raises:
        DeploymentError: there is none.
    """
    found = releases.linked(site, site.current)
    if not found:
        raise DeploymentError(f"{site.name} has no live release", hint="salt-call state.apply django")
    return found


def newest(site: Site) -> Release:
    """Return the active release; where there is none, the newest that failed.

    Raises:
        DeploymentError: there is neither.
    """
    failed = [release for release in releases.releases(site) if release.record.get("state") == "failed"]
    return live(site) if not failed or releases.linked(site, site.current) else failed[-1]


def runnable(site: Site) -> Release:
    """Return the active release; where there is none, the newest that failed, if its commands can be run.

    Raises:
        DeploymentError: there is neither, or the release failed before it had a configuration.
    """
    release = newest(site)
    is_there = release.has_python and all((release.path / part).exists() for part in ("source", "config/environment"))
    if notice(release) and not is_there:
        raise DeploymentError(
            f"{site.name} has no live release, and {release.name} failed too early to run commands in it, in the step "
            f"{release.record['step']}",
            hint=f"correct what failed: salt-call django.record {site.name} {release.name}",
        )
    return release


def notice(release: Release) -> str:
    """Return in which step a release failed; empty for one that is good."""
    if release.record.get("state") != "failed":
        return ""
    return f"no release is live: this is {release.name}, which failed in the step {release.record['step']}"
