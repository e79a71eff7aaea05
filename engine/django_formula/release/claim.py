"""The claim of a fleet's deployment on a site of this host: while it holds, no other one makes a release.

The master's runner takes it on every host before it builds anything, renews it as long as it works, and gives it back
at the end. A claim that is not renewed expires: the next deployment may claim the site then, and removes what the
expired one has prepared.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple

from django_formula.host import clock, file
from django_formula.host.commands import DeploymentError
from django_formula.host.locks import Lock
from django_formula.site.sites import Site

#: The shape of the file; another one is no claim.
_SHAPE = {"id": str, "by": str, "since": str, "until": float, "phase?": str}


class Claim(NamedTuple):
    """Who deploys a site of this host.

    id: of the deployment. by: who has started it, and where.
    since: when it began, in words. until: the time at which it ends by itself, in seconds since 1970.
    phase: what it does on this host, or has done last.
    """

    id: str
    by: str
    since: str
    until: float
    phase: str = "claim"

    def __str__(self) -> str:
        return f"{self.by}, since {self.since}, phase {self.phase}"


def path(site: Site) -> Path:
    """Return the file of a site's claim, in its folder, which is root's."""
    return site.root / "claim.json"


def next_link(site: Site) -> Path:
    """Return the link to the release that a fleet's deployment has prepared; the proxy serves its static files."""
    return site.root / "next"


def last(site: Site) -> Claim | None:
    """Return the claim of a deployment that has not ended, though its time may be over."""
    found = file.read_json(path(site), _SHAPE)
    return Claim(**{key: found[key] for key in Claim._fields if key in found}) if found else None


def current(site: Site) -> Claim | None:
    """Return the claim on a site that holds now."""
    found = last(site)
    return found if found and found.until > time.time() else None


def is_held(site: Site, deployment: str) -> bool:
    """Return whether a deployment has the claim on a site, and its time is not over."""
    known = current(site)
    return known is not None and known.id == deployment


def take(site: Site, deployment: str, by: str, until: float) -> None:
    """Claim a site for a deployment.

    Args:
        deployment: its id.
        by: who has started it, and where.
        until: when the claim ends by itself, in seconds since 1970.

    Raises:
        DeploymentError: another deployment has claimed it.
    """
    with lock(site).held():
        known = current(site)
        if known and known.id != deployment:
            raise DeploymentError(
                f"{site.name} is being deployed by {known}",
                hint=f"wait for it, or end it: salt-run django.abandon {site.name}",
                transient=True,
            )
        _write(site, Claim(deployment, by, clock.now(), float(until)))


def renew(site: Site, deployment: str, until: float) -> bool:
    """Have the claim of a deployment end later; return whether there is one, which it may have given back meanwhile."""
    with lock(site).held():
        known = last(site)
        if not known or known.id != deployment:
            return False
        _write(site, known._replace(until=float(until)))
        return True


def refuse_others(site: Site, deployment: str, phase: str) -> None:
    """Refuse what belongs to a deployment whose claim does not hold any more.

    Args:
        phase: what is begun, for others who want to deploy the site.

    Raises:
        DeploymentError: its time is over, or another one has claimed the site.
    """
    with lock(site).held():
        known = current(site)
        if not known or known.id != deployment:
            raise DeploymentError(
                f"the deployment {deployment} has no claim on {site.name} any more"
                + (f", which is being deployed by {known}" if known else ": its time is over"),
                transient=True,
            )
        if known.phase != phase:
            _write(site, known._replace(phase=phase))


def lock(site: Site) -> Lock:
    """Return the lock of the claim: it is renewed while phases begin and end."""
    busy, hint = f"another change of the claim on {site.name}", f"see who has it: salt-run django.status {site.name}"
    return Lock(site.root / ".claim.lock", "a deployment", busy=busy, timeout="30s", hint=hint, interval=0.001)


def _write(site: Site, claim: Claim) -> None:
    file.write_json(path(site), claim._asdict(), mode=0o600)


def drop(site: Site) -> None:
    """End the claim on a site, and take the link to what was prepared away."""
    if any(os.path.lexists(one) for one in (path(site), next_link(site))):  # a site without hosts has no lock either
        with lock(site).held():
            _drop(site)


def _drop(site: Site) -> None:
    next_link(site).unlink(missing_ok=True)
    path(site).unlink(missing_ok=True)


def end(site: Site, over: str) -> None:
    """End the claim of a deployment that is over, as the master says; what it has prepared is removed later."""
    if not last(site):
        return
    with lock(site).held():
        known = last(site)
        if known and known.id == over:
            _drop(site)


def prepared(site: Site) -> str:
    """Return the name of the release that was prepared; empty without one."""
    link = next_link(site)
    return os.path.basename(os.readlink(link)) if link.is_symlink() else ""


def refuse_alone(site: Site, verb: str) -> None:
    """Refuse what would give this host another release than the other hosts of its site.

    Args:
        verb: what the master's runner calls it.

    Raises:
        DeploymentError: the master keeps the release that the hosts have in common.
    """
    if site.has_common_release:
        raise DeploymentError(
            f"the hosts of {site.name} have their release in common, and this is one of them",
            hint=f"on the master: salt-run django.{verb} {site.name}",
        )
