"""The pillar's ``commands`` of a release, stage by stage: once in each new release, as the site's user."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django_formula.deploy.deployment import Deployment
from django_formula.host.commands import seconds
from django_formula.project import command
from django_formula.release.releases import Release


def changes(deployment: Deployment, stage: str) -> dict[str, Any]:
    """Return the commands of a stage as a change, where this deployment will run them."""
    commands = deployment.site.config["commands"][stage]
    return {"commands": commands} if commands and deployment.is_new else {}


def run_stage(deployment: Deployment, stage: str, writable: Sequence[Path] = ()) -> None:
    """Run the commands of a stage in a new release.

    Args:
        writable: folders that the commands may write in addition to the site's own.

    Raises:
        DeploymentError: a command fails or times out.
    """
    release = deployment.release
    if release and deployment.is_new:
        command.run_stage(deployment.site, release.path, release.facts, stage, deployment.secrets.masked(), writable)


def create_cache_tables(deployment: Deployment, release: Release) -> None:
    """Create the tables of the caches in the default database that a new release lacks.

    Raises:
        DeploymentError: Django cannot create them.
    """
    site, timeout = deployment.site, seconds(deployment.site.config["timeouts"]["command"])
    secrets = deployment.secrets.masked()
    command.manage(site, release.path, release.facts, ["createcachetable"], None, timeout, secrets)
    release.update(facts={**release.facts, "cache_tables": []})
