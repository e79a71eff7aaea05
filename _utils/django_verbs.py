"""What people do by hand: release, go back, rotate the key, run a command; each reads what the last apply left here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import django_project
import django_release
import django_secret
import django_site
import django_steps
from django_command import DeploymentError
from django_deployment import Deployment
from django_release import Release


def release(
    name: str, revision: str | None = None, asked_by: str = "django.release"
) -> tuple[Deployment, dict[str, Any]]:
    """Release a site as its last apply configured it, even if it was held back, has failed or is unchanged.

    Raises:
        DeploymentError: a step fails.
    """
    site = django_site.find(name)
    deployment = Deployment(site, {}, site.kept_templates(), asked_by=asked_by, revision=revision, again=True)
    return deployment, django_steps.walk(deployment, django_steps.RELEASE)


def rotate_secret_key(name: str, asked_by: str = "django.rotate_secret_key") -> tuple[Deployment, dict[str, Any]]:
    """Give a site a new secret key, by a release of the live commit; the old key becomes a fallback.

    Raises:
        DeploymentError: the pillar gives the key, nothing is live, or a step fails.
    """
    site = django_site.find(name)
    live = _live(site)
    if site.config["secret_key"]:
        raise DeploymentError(
            f"the pillar gives {name} its secret key", hint="change it there, and apply: the old one stays a fallback"
        )
    deployment = Deployment(
        site, {}, site.kept_templates(), asked_by=asked_by, revision=live.record["commit"], again=True
    )
    with deployment.step("rotate_secret_key"):
        deployment.take_lock()
        django_secret.keep(site, "secret_key", django_secret.generate(site, "secret_key"))
    return deployment, django_steps.walk(deployment, django_steps.RELEASE)


def rollback(name: str, asked_by: str = "django.rollback") -> tuple[Deployment, dict[str, Any]]:
    """Go back to the newest good release before the live one, and hold the live one's commit back.

    Raises:
        DeploymentError: there is none, or it does not come up; the live one stays live then.
    """
    site = django_site.find(name)
    deployment = Deployment(site, {}, site.kept_templates(), asked_by=asked_by)
    with deployment.step("rollback"):
        deployment.take_lock(look_again=True)
        deployment.left = left = _live(site)
        target = django_release.older_good(site, left)
        if not target:
            raise DeploymentError(
                f"{name} has no older good release to go back to", hint=f"salt-call django.releases {name} lists them"
            )
        deployment.release, deployment.commit = target, target.record["commit"]
        deployment.secrets = django_secret.values(site, {})
        deployment.warnings += _newer_migrations(left, target)
    return deployment, django_steps.walk(deployment, django_steps.BACK)


def _newer_migrations(left: Release, target: Release) -> list[str]:
    """A warning for each database that has migrations which the release that comes back does not know."""
    warnings = []
    for alias, names in left.facts.get("migrations", {}).items():
        known = target.facts.get("migrations", {}).get(alias, {}).get("applied", [])
        newer = sorted(set(names["applied"]) - set(known))
        if newer:
            warnings.append(
                f"the database {alias!r} keeps migrations that {target.name} does not know: {', '.join(newer)}"
            )
    return warnings


def manage(name: str, command: Sequence[str], environment_file: str | None, timeout: float) -> str:
    """Run a management command of the live release; returns what it prints.

    Raises:
        DeploymentError: nothing is live, the file is not there, or the command fails.
    """
    site = django_site.find(name)
    live = _live(site)
    if environment_file and not Path(environment_file).is_file():
        raise DeploymentError(f"there is no file {environment_file} on this host")
    secrets = list(django_secret.values(site, {}).values())
    return django_project.manage(site, live.path, live.facts, command, environment_file, timeout, secrets)


def _live(site: django_site.Site) -> Release:
    live = django_release.linked(site, site.current)
    if not live:
        raise DeploymentError(f"{site.name} has no live release", hint="salt-call state.apply django")
    return live
