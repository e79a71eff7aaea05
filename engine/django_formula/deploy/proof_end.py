"""How the proof of a release ends: all visitors get it, or none of them.

At each moment `current` alone decides which release is active. What is killed in between leaves a share that ends by
itself, and a proof that its program goes on with.
"""

import contextlib
import os
import time
from typing import Any

from django_formula.deploy import step_instance, steps
from django_formula.deploy.deployment import Deployment
from django_formula.deploy.step_live import live
from django_formula.deploy.step_record import record
from django_formula.host import clock, file
from django_formula.host.commands import DeploymentError, seconds
from django_formula.proof import state, unit
from django_formula.proof.state import Proof
from django_formula.proxy import lease
from django_formula.release import claim, instances
from django_formula.release.releases import Release
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log

log = Log.of(__name__)
#: Percent of the visitors who stay on the former release after the switch.
KEPT = 10
#: Exceptions that a release keeps of its proof and of those before: the next one is not taken back for them.
_EXCEPTIONS = 200
#: Seconds for which the static files of a release that is taken back stay, for pages that visitors have just got.
_PAGES = 5.0


def activate(site: Site, proof: Proof) -> None:
    """Give all visitors the new release, by the switch of every release; a tenth of them the former one for a while.

    Raises:
        DeploymentError: the switch fails, and the former release is active; or another deployment holds the lock.
    """
    own, release = _deployment(site, proof), Release(site, proof.release)
    own.take_lock()
    own.resume(release)
    own.seconds = dict(proof.steps)
    own.warn(proof.warnings)
    bakes = seconds(site.config["releases"]["canary"]["bake"]) > 0
    own.set_proved(keeps_old=bakes)
    try:
        with own.step("instance"):
            step_instance.take_up(own)
        steps.walk(own, (live, record))
    except DeploymentError as error:
        _mark_failed(site, proof)
        _end(site, proof, state.BACK, error.message)
        raise
    release.update(proof=_summary(site))
    if bakes:
        begin_bake(site, proof)
    else:
        _end(site, proof, state.ACTIVE, f"{release.name} is active")


def begin_bake(site: Site, proof: Proof) -> None:
    """Leave a tenth of the visitors to the former release; nothing where it has begun."""
    target = f"releases/{proof.old}"
    if os.path.lexists(claim.next_link(site)) and os.readlink(claim.next_link(site)) == target:
        return
    lease.end(site)  # after the switch: the visitors of the share have kept the release
    state.change(site, proof, share=KEPT, since=time.time(), token="")
    file.link(claim.next_link(site), target)  # the last, by which it is known to have begun
    log.info("%s: %s is active; %s %% of the visitors stay on %s", site.name, proof.release, KEPT, proof.old)


def end_bake(site: Site, proof: Proof) -> None:
    """Give all visitors the active release, and stop the former one.

    Raises:
        DeploymentError: another deployment holds the lock for too long.
    """
    own = _deployment(site, proof)
    own.take_lock()
    own.set_proved()
    Release(site, proof.release).update(proof=_summary(site))
    lease.end(site)
    steps.walk(own, (live, record))
    _end(site, proof, state.ACTIVE, "; ".join([f"{proof.release} is active", *own.unreported_warnings()]))


def take_back(site: Site, proof: Proof, why: str, *, is_asked_for: bool = False) -> None:
    """Give all visitors the former release, and give the new one up.

    Args:
        is_asked_for: whether people ask for it: the release is put on hold then, else it has failed.

    Raises:
        DeploymentError: another deployment holds the lock for too long, or the former one cannot be activated again.
    """
    log.warning("%s: %s; returning to %s", site.name, why, proof.old)
    if proof.phase == state.BAKE:
        _return_to_old(site, proof, why)
        return
    lease.end(site)
    new, own = Release(site, proof.release), _deployment(site, proof)
    own.take_lock()
    own.resume(new)
    instances.drain(site, new.path)
    summary = _summary(site)
    if is_asked_for:
        instances.stop(site, new.path)
        new.update(state="held", held_since=clock.now(), steps=proof.steps, proof=summary)
        own.write_attempt("taken back")
        own.lock.release()
    else:
        time.sleep(_PAGES)
        again = f"{site.to_release(new.record.get('commit', ''))} canary=False"
        with contextlib.suppress(DeploymentError), own.step("canary"):
            raise DeploymentError(why, hint=f"{again} releases it without a canary")
        _mark_failed(site, proof)
        Release(site, proof.release).update(proof=summary)
    _end(site, proof, state.BACK, why)


def _return_to_old(site: Site, proof: Proof, why: str) -> None:
    """Activate the former release again; visitors get it at once by the lease, for as long as the switch takes."""
    new, old, own = Release(site, proof.release), Release(site, proof.old), _deployment(site, proof)
    if instances.is_running(site, old.path):
        lease.hold(site, [*lease.rest(lease.BUCKETS), lease.NONE])
    own.take_lock()
    own.return_to(old, new)
    own.set_proved()
    try:
        with own.step("instance"):
            step_instance.take_up(own)
        steps.walk(own, (live, record))
    except DeploymentError as error:
        _end(site, proof, state.ACTIVE, f"{why}; {old.name} cannot be activated again: {error.message}")
        raise
    new.update(proof=_summary(site))
    _end(site, proof, state.BACK, why)


def begin_switch(site: Site, deployment: str) -> Proof | None:
    """Return the proof of a release that all hosts of a site activate now, its program ended; None without one.

    Its share lasts until `end_switch`, or as long as the lease.

    Args:
        deployment: the id of the one on all hosts.

    Raises:
        DeploymentError: the release was taken back here meanwhile.
    """
    proof = state.last(site)
    if not proof or proof.fleet != deployment:
        return None
    unit.stop(site)
    proof = state.last(site)
    if proof and proof.outcome:
        raise DeploymentError(f"{proof.release} does not get all visitors: {proof.why}")
    return proof


def end_switch(site: Site, proof: Proof) -> None:
    """End the proof of a release that this host has activated; all hosts do now."""
    Release(site, proof.release).update(proof=_summary(site))
    lease.end(site)
    state.end(site, proof, state.ACTIVE, f"{proof.release} is active")


def interrupt(site: Site, proof: Proof, why: str) -> None:
    """End a proof that a boot, the end of its release or of its master has interrupted; the next apply begins again.

    The active release serves all visitors.

    Args:
        why: in words.

    Raises:
        DeploymentError: another deployment holds the lock for too long.
    """
    if proof.phase == state.BAKE:
        end_bake(site, proof)
        return
    lease.end(site)
    release = Release(site, proof.release).path
    with site.lock("a proof").held():
        if instances.is_running(site, release):
            instances.drain(site, release)
        instances.remove(site, release)
        _end(site, proof, state.INTERRUPTED, why)


def _end(site: Site, proof: Proof, outcome: str, why: str) -> None:
    lease.end(site)
    claim.next_link(site).unlink(missing_ok=True)
    state.end(site, proof, outcome, why)
    log.info("%s: %s", site.name, why)


def _mark_failed(site: Site, proof: Proof) -> None:
    """Complete the record of a release that has failed, by which the next apply knows whether to try it again."""
    release = Release(site, proof.release)
    if release.record.get("state") == "failed":
        release.update(judged_by=proof.judged_by)


def _summary(site: Site) -> dict[str, Any]:
    """Return what the record of a release keeps of its proof."""
    proof = state.last(site)
    assert proof  # noqa: S101 - the caller ends it
    before = (Release(site, proof.old).record.get("proof") or {}).get("exceptions", [])
    names = [*(proof.evidence.get("exceptions") or {}), *before]
    return {
        **{"began": proof.began, "share": proof.share, "evidence": dict(proof.evidence)},
        "exceptions": list(dict.fromkeys(names))[:_EXCEPTIONS],
    }


def _deployment(site: Site, proof: Proof) -> Deployment:
    return Deployment(site, {}, site.kept_templates(), asked_by=proof.by, again=True, fleet=proof.fleet)
