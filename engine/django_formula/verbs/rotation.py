"""The verbs that give a site new secrets, by a release of its active commit."""

from typing import Any

from django_formula.database import databases
from django_formula.deploy import step_database, steps
from django_formula.deploy.deployment import Deployment
from django_formula.host.commands import DeploymentError
from django_formula.release import claim
from django_formula.secret import secrets
from django_formula.site import sites
from django_formula.verbs.status import live_release as _live


def rotate_secret_key(name: str, asked_by: str = "django.rotate_secret_key") -> tuple[Deployment, dict[str, Any]]:
    """Give a site a new secret key, by a release of the live commit; the old key becomes a fallback.

    Raises:
        DeploymentError: the pillar gives the key, there is no active release, or a step fails.
    """
    site = sites.find(name)
    live = _live(site)
    claim.refuse_alone(site, "rotate_secret_key")
    if site.config["secret_key"]:
        raise DeploymentError(
            f"the pillar gives {name} its secret key", hint="change it there, and apply: the old one stays a fallback"
        )
    given = {"secret_key": secrets.generate(site, "secret_key")}  # which a release that fails takes back
    deployment = Deployment(
        site, given, site.kept_templates(), asked_by=asked_by, revision=live.record["commit"], again=True
    )
    with deployment.step("rotate_secret_key"):
        deployment.take_lock()
    return deployment, steps.walk(deployment, steps.RELEASE)


def rotate_database_password(
    name: str, alias: str = "default", asked_by: str = "django.rotate_database_password"
) -> tuple[Deployment, dict[str, Any]]:
    """Give a database of a site a new generated password, by a release of the live commit.

    Until the old instance has exited, the database server accepts the former password too.

    Raises:
        DeploymentError: the formula does not manage the password, there is no active release, or a step fails.
    """
    site = sites.find(name)
    live = _live(site)
    secret = databases.secret_name(alias)
    _refuse_to_rotate(site, alias)
    given = {secret: secrets.generate(site, secret)}
    deployment = Deployment(
        site, given, site.kept_templates(), asked_by=asked_by, revision=live.record["commit"], again=True
    )
    with deployment.step("rotate_database_password"):
        deployment.take_lock()
    return deployment, steps.walk(deployment, (step_database.database, *steps.RELEASE))


def _refuse_to_rotate(site: sites.Site, alias: str) -> None:
    """Check that the password of a database was generated on this host."""
    database = site.config["databases"].get(alias)
    at = databases.pillar_key(site, alias)
    if database is None:
        known = ", ".join(site.config["databases"]) or "none"
        raise DeploymentError(f"the pillar of {site.name} has no database {alias!r}", hint=f"it has {known}")
    if database.get("engine") in (None, "sqlite"):
        raise DeploymentError(
            f"the pillar of {site.name} has the database {alias!r} on no server, and so no password of it",
            hint=f"set {at}:engine for a database on a server (docs/guides/databases.md)",
        )
    if database.get("served_by"):
        raise DeploymentError(
            f"the master's store has the password of the database {alias!r} of {site.name}",
            hint="replace it there, for all hosts: docs/guides/fleet-parts.md",
        )
    if not database.get("manage"):
        raise DeploymentError(
            f"the database {alias!r} of {site.name} is not on a server that the formula sets up",
            hint=f"let its server accept a new password in addition to the old one, change {at}:password, and apply",
        )
    if not database["password"]:
        raise DeploymentError(
            f"the database {alias!r} of {site.name} has no password: its server authenticates socket connections"
        )
    if "generate" not in database["password"]:
        raise DeploymentError(
            f"the pillar gives {site.name} the password of its database {alias!r}",
            hint=f"change it there ({at}:password), and apply: no visitor notices",
        )
