"""The verbs of the proof of a release: `django.proof`, `django.canary`, `django.back`, and a part of `promote`."""

import hmac
import re
import secrets
import time
from typing import Any

from django_formula.deploy import proof_begin, proof_end
from django_formula.host import daemons
from django_formula.host.commands import DeploymentError
from django_formula.proof import state, unit
from django_formula.proof.state import Proof
from django_formula.proxy import lease
from django_formula.secret import secrets as secret
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import in_command

#: The step of a share that the pillar does not have.
_BY_HAND = -1
#: The cookie with a token.
_COOKIE = "django_release"
#: Seconds between two looks at a proof that is waited for.
_LOOK = 0.5
#: Seconds for which no process may carry a proof on that is waited for: one that ends is started again within a second.
_PATIENCE = 60.0


def _running(site: Site) -> Proof:
    """Return the proof of a site that runs.

    Raises:
        DeploymentError: none does.
    """
    proof = state.current(site)
    if not proof:
        last = state.last(site)
        said = f": the last one has ended, {last.why}" if last else ""
        raise DeploymentError(f"no release of {site.name} gets a share of the visitors now{said}")
    return proof


def runs(name: str) -> bool:
    """Return whether a release of a site gets a share of the visitors, or leaves one to the former release.

    Raises:
        DeploymentError: there is no such site.
    """
    return state.current(sites.find(name)) is not None


def show(name: str) -> dict[str, Any]:
    """Return what is known of the proof of a site that runs, or of the last one.

    Raises:
        DeploymentError: there is no such site, or it has had none.
    """
    site = sites.find(name)
    proof = state.last(site)
    if not proof:
        raise DeploymentError(
            f"no release of {name} has had a proof", hint=f"set {site.at}:releases:canary, see docs/guides/canary.md"
        )
    starts = in_command("salt-call", "django.canary", name)
    known = {"release": proof.release, "active": proof.old if proof.phase == state.CANARY else proof.release}
    if proof.outcome:
        ended = {"ended": proof.outcome, "why": proof.why}
    else:
        ended = {
            "now": proof_begin.described(site, proof),
            **({} if unit.runs(site) else {"problem": f"its program does not run: {starts}"}),
        }
    return {**known, **ended, **proof.evidence}


def share(name: str, percent: str | int | None, *, token: bool | None) -> dict[str, Any]:
    """Change which share of the visitors gets the release that is not active, and whether a token does.

    Args:
        percent: from 0 to 50; the steps of the pillar do not go on then. None leaves the share as it is.
        token: make a new one, or remove it; None leaves it.

    A program of the proof that does not run is started.

    Raises:
        DeploymentError: no proof runs.
    """
    site = sites.find(name)
    proof = _running(site)
    _refuse_of_fleet(site, proof, "they have the same share", "canary")
    return _shared(site, proof, percent, None if token is None else secrets.token_hex(16) if token else "")


def share_of_fleet(name: str, deployment: str, percent: str | int | None, *, token: bool | None) -> dict[str, Any]:
    """Change the share of a deployment's release on this host, as `share` does for one host.

    The token is the same on all hosts, and no argument of a process: it follows from the secret key and the deployment.

    Raises:
        DeploymentError: the release of the deployment gets no share here, or the site has no secret key.
    """
    site = sites.find(name)
    proof = _running(site)
    if proof.fleet != deployment:
        raise DeploymentError(f"the release that gets a share of the visitors here is not of {deployment}")
    key = secret.values(site, {}).get("secret_key")
    if token and not key:
        raise DeploymentError(f"the token follows from the secret key, and {name} has none here")
    made = hmac.new(str(key).encode(), f"canary {deployment}".encode(), "sha256").hexdigest()[:32]
    return _shared(site, proof, percent, None if token is None else made if token else "")


def _shared(site: Site, proof: Proof, percent: str | int | None, token: str | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    why_not = proof_begin.failing_tasks(site) if proof.phase == state.CANARY and (percent is not None or token) else ""
    if why_not:
        raise DeploymentError(f"{proof.release} gets no visitors before the switch: {why_not}")
    if percent is not None:
        found = re.fullmatch(r"(\d{1,2})%?", str(percent))
        if not found or int(found[1]) > 50:
            raise DeploymentError(f"a share is from 0 to 50 percent, not {percent}")
        values |= {"share": int(found[1]), "stage": _BY_HAND, "since": time.time()}
    if token is not None:
        values["token"] = token
    proof = state.change(site, proof, **values) or _running(site)
    if not unit.runs(site):
        unit.start(site)
    cookie = {"cookie": f"{_COOKIE}={proof.token}"} if proof.token else {}
    return {"release": proof.release, "share": f"{proof.share} %", **cookie}


def finish(name: str) -> dict[str, Any]:
    """Give all visitors the new release now, whatever is known of it; in a bake, stop the former one.

    Raises:
        DeploymentError: no proof runs, or the switch fails.
    """
    site = sites.find(name)
    _refuse_of_fleet(site, _running(site), "they switch together", "promote")
    proof = _stopped(site)
    if proof.phase == state.BAKE:
        proof_end.end_bake(site, proof)
    else:
        proof_end.activate(site, proof)
        if state.current(site):
            unit.start(site)
    return {"release": proof.release}


def back(name: str) -> dict[str, Any]:
    """Give all visitors the former release now; the new one is put on hold.

    Raises:
        DeploymentError: no proof runs, or the former release does not start.
    """
    site = sites.find(name)
    proof = _running(site)
    if proof.phase == state.CANARY:
        lease.end(site)
    proof = _stopped(site)
    proof_end.take_back(site, proof, "it was taken back on the command line", is_asked_for=True)
    return {"release": proof.old, "on hold": proof.release}


def _refuse_of_fleet(site: Site, proof: Proof, why: str, verb: str) -> None:
    if proof.fleet:
        raise DeploymentError(
            f"{proof.release} gets its share of the visitors on all hosts of {site.name}: {why}",
            hint=f"on the master: {in_command('salt-run', f'django.{verb}', site.name)}",
        )


def _stopped(site: Site) -> Proof:
    """Return the proof of a site whose program has been ended, so that this process goes on with it.

    Raises:
        DeploymentError: no proof runs.
    """
    _running(site)
    unit.stop(site)
    return _running(site)


def wait(name: str) -> dict[str, Any]:
    """Wait until the proof of a site has ended, without the bake; return how.

    Raises:
        DeploymentError: the release was taken back, or given up, or no process carries its proof on.
    """
    site = sites.find(name)
    proof = state.last(site)
    before, seen = "", time.monotonic()
    while proof and not proof.outcome and proof.phase == state.CANARY:
        time.sleep(_LOOK)
        now = unit.run_lock(site).holder() or site.lock("").holder()
        if now and now == before:  # one that fails at its start is another one each time
            seen = time.monotonic()
        elif time.monotonic() - seen > _PATIENCE:
            raise _abandoned(site, proof)
        before, proof = now, state.last(site)
    if proof and proof.outcome not in ("", state.ACTIVE):
        raise DeploymentError(
            f"{proof.release} was not activated: {proof.why}", hint=f"{proof.old} serves all visitors"
        )
    return {"canary": proof.why or f"{proof.release} is active"} if proof else {}


def _abandoned(site: Site, proof: Proof) -> DeploymentError:
    starts = in_command("salt-call", "django.canary", site.name)
    journal = in_command("journalctl", "-u", unit.service_name(site))
    log = f"; {journal} has why it ends" if daemons.has_systemd() else ""
    return DeploymentError(
        f"the proof of {proof.release} does not go on: its program has not run for {_PATIENCE:.0f} s; "
        f"{proof.old} is active",
        hint=f"{starts} starts it{log}",
    )
