"""What the master's runner has a host do for a fleet's deployment: each verb is a part of one release.

All take the deployment's id, and refuse what belongs to another one: see `release.claim`. What becomes visible
is done before its deadline or not at all, since the master no longer counts on a host that does not answer.
"""

import time
from collections.abc import Mapping
from typing import Any

from django_formula.deploy import commands, proof_begin, proof_end, step_instance, steps
from django_formula.deploy import migration as deploy_migration
from django_formula.deploy import plan as deploy_plan
from django_formula.deploy import rollback as deploy_rollback
from django_formula.deploy.deployment import Deployment
from django_formula.deploy.step_build import build, virtualenv
from django_formula.deploy.step_database import migration
from django_formula.deploy.step_instance import instance
from django_formula.deploy.step_live import live
from django_formula.deploy.step_proxy import proxy
from django_formula.deploy.step_record import record
from django_formula.deploy.step_settings import secret_key, settings
from django_formula.deploy.step_source import source
from django_formula.deploy.step_static import push, static
from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.proof import state as proof_state
from django_formula.proof import unit as proof_unit
from django_formula.release import claim as release_claim
from django_formula.release import disk, health, releases
from django_formula.release.releases import Release
from django_formula.request import promotion
from django_formula.secret import secrets
from django_formula.site import mount, sites
from django_formula.site.sites import Site
from django_formula.source import commits
from django_formula.verbs import operations, status

#: What is done on all hosts before anything is visible, on the first host alone, and in the switch.
PREPARE = (source, virtualenv, build, secret_key, settings, static)
MIGRATE = (push, migration)
SWITCH = (live, proxy, record)
#: Seconds for the page of a host that is asked for a proof.
_PATIENCE = 10.0


def ready(name: str) -> dict[str, Any]:
    """Return what the master has to know of a host before a deployment.

    Returns:
        ``release`` and ``commit`` that are live, empty without one; ``older``: the
        commit that a rollback returns to; ``sequence``: the next one of this host; ``key``:
        a fingerprint of the secret key; ``accepts``: those of the other keys that it accepts; ``has_keys``: whether the
        master's store has the keys; ``hosts``: by name, as last applied; ``claim``: who deploys it, empty without
        a claim; ``uploads``: why they are not where the pillar has them; ``shares_images``: whether the first
        host that builds an image pushes it for the others; ``unfinished``: the id of a deployment that
        has not ended, though its claim may have; ``canary``: which share of the visitors a release gets here, or how
        that has ended; ``time`` of this host (Unix time).

    Raises:
        DeploymentError: there is no such site, or it has no ``hosts``.
    """
    site = _find(name)
    found = releases.linked(site, site.current)
    older = disk.older_good(site, found) if found else None
    key = secrets.values(site, {}).get("secret_key")
    claimed, last = release_claim.current(site), release_claim.last(site)
    return {
        "release": found.name if found else "",
        "commit": found.record["commit"] if found else "",
        "older": older.record["commit"] if older else "",
        "sequence": releases.next_sequence(site),
        "key": secrets.fingerprint(key) if key else "",
        "accepts": [secrets.fingerprint(other) for other in secrets.fallbacks(site)],
        "has_keys": site.config["fleet"].get("has_keys", False),
        "hosts": site.config["fleet"]["hosts"],
        "claim": str(claimed or ""),
        "uploads": mount.problem(site),
        "shares_images": bool((site.config.get("container") or {}).get("share")),
        "unfinished": last.id if last else "",
        "deployment": site.lock("").holder(),
        "time": time.time(),
        **proof_begin.status(site),
    }


def resolve(name: str, revision: str | None) -> str:
    """Return the commit of a revision; of the one of the last apply without one.

    Raises:
        DeploymentError: the remote has no such revision, or cannot be reached.
    """
    site = _find(name)
    revision = revision or site.config["revision"]
    return revision if commits.COMMIT.fullmatch(revision) else commits.resolve(site, revision)


def release(name: str, commit: str) -> dict[str, Any]:
    """Return the newest release of a commit, or of a part of one, that can be activated again.

    Raises:
        DeploymentError: this host has none.
    """
    site = _find(name)
    live = status.live_release(site)
    found = deploy_rollback.target(site, live, commit)
    return {"release": found.name, "commit": found.record["commit"]}


def proof(name: str) -> dict[str, Any]:
    """Return what promotions have to know of a host, of the site that a commit comes from or of the one that gets it.

    Returns:
        ``commit`` that is active, empty without one; ``problem`` of its page, empty where it answers well;
        ``packages``: see `request.promotion.packages`; ``python``: the series of the site's interpreter, empty where
        that is not known.

    Raises:
        DeploymentError: there is no such site, or it has no ``hosts``.
    """
    site = _find(name)
    found = releases.linked(site, site.current)
    return {
        "commit": found.record["commit"] if found else "",
        "problem": health.problem_of(site, found.path, time.monotonic() + _PATIENCE) if found else "",
        "packages": promotion.packages(site),
        "python": disk.python_series(site),
    }


def plan(name: str, commit: str) -> dict[str, Any]:
    """Return the ``plan`` of a release of a commit.

    Raises:
        DeploymentError: there is no such site, it has no ``hosts``, or a step fails as it would in the release.
    """
    return {"plan": deploy_plan.make(_find(name).name, commit, "django_fleet.plan")}


def claim(name: str, deployment: str, by: str, until: float) -> dict[str, Any]:
    """Claim the site for a deployment.

    Raises:
        DeploymentError: another deployment has claimed it.
    """
    release_claim.take(_find(name), deployment, by, until)
    return {}


def renew(name: str, deployment: str, until: float) -> dict[str, Any]:
    """Have the claim of a deployment end later, unless it was given back.

    Returns:
        ``renewed``: whether there is a claim.
    """
    return {"renewed": release_claim.renew(_find(name), deployment, until)}


def keys(name: str, deployment: str, by: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Take the master's secret keys, for the release that is prepared next.

    Args:
        given: ``secret_key``, and the others as `secret.secrets.named_keys` names them.

    Raises:
        DeploymentError: the master has none for this host, or the claim has ended.
    """
    site = _find(name)
    if not given.get("secret_key"):
        raise DeploymentError(f"the master has no secret key of {name} for this host")
    with site.lock(by).held():
        release_claim.refuse_others(site, deployment, "keys")
        live = releases.linked(site, site.current)
        secrets.settle_former_key(site, live.record.get("fleet", "") if live else "", deployment)
        secrets.keep_former_key(site, deployment)
        secrets.store(site, "secret_key", given["secret_key"], given=given)
    return {}


def prepare(name: str, deployment: str, by: str, commit: str, sequence: int) -> tuple[Deployment, dict[str, Any]]:
    """Build a release up to its static files, which the proxy serves from then on.

    Args:
        sequence: the number of the release, unless this host has used it.

    Raises:
        DeploymentError: a step fails, or the claim has ended meanwhile.
    """
    site = _find(name)
    release_claim.refuse_others(site, deployment, "prepare")
    own = Deployment(
        site, {}, site.kept_templates(), asked_by=by, revision=commit, again=True, fleet=deployment, sequence=sequence
    )
    steps.walk(own, PREPARE)
    assert own.release is not None  # noqa: S101 - `source` has begun it
    with own.step("prepare"):
        release_claim.refuse_others(site, deployment, "prepare")
        file.link(release_claim.next_link(site), f"releases/{own.release.name}")
        pending = deploy_migration.pending(site, own.release, True)
    own.lock.release()
    return own, {
        "commit": own.findings.commit,
        "pending": sorted({name for names in pending.values() for name in names}),
    }


def migrate(name: str, deployment: str, by: str, until: float) -> tuple[Deployment, dict[str, Any]]:
    """Push static files and migrate the databases, on one host for all.

    Returns:
        The deployment; ``migrated``: the names of the migrations that the formula has applied.

    Raises:
        DeploymentError: a step fails, or it is too late.
    """
    own, release = _resumed(name, deployment, by, until, "migrate")
    changes = steps.walk(own, MIGRATE)
    own.lock.release()
    return own, {"changes": changes, "migrated": release.record.get("migrated", [])}


def start(name: str, deployment: str, by: str, until: float, migrated: list[str]) -> tuple[Deployment, dict[str, Any]]:
    """Start the application server and workers of the prepared release, and check its health.

    Args:
        migrated: the migrations that one host has applied for all.

    Returns:
        The deployment; ``canary``, where the site has one: why the release cannot have it, empty where it can.

    Raises:
        DeploymentError: a step fails, or it is too late.
    """
    own, release = _resumed(name, deployment, by, until, "start")
    if own.site.config["migrate"]["run"] and deploy_migration.pending(own.site, release, True):
        with own.step("migration"):
            own.warn(deploy_migration.follow(release, migrated, own.secrets.masked()))
    changes = steps.walk(own, (instance,))
    own.end_probe()
    why_not = {"canary": _why_no_canary(own, release)} if own.live and proof_begin.is_wanted(own.site) else {}
    own.lock.release()
    return own, {"changes": changes, **why_not}


def _why_no_canary(own: Deployment, release: Release) -> str:
    assert own.live is not None  # noqa: S101 - the caller has looked
    if "app" in own.site.config["fleet"]["parts"]:
        return proof_begin.why_not(own, release, own.live)
    return proof_begin.failing_tasks(own.site)


def canary(name: str, deployment: str, by: str, until: float) -> tuple[Deployment, dict[str, Any]]:
    """Give the release that was started its first share of the visitors; a program of this host carries that on.

    Raises:
        DeploymentError: the program does not start, or it is too late.
    """
    own, release = _resumed(name, deployment, by, until, "canary")
    assert own.live is not None  # noqa: S101 - `start` says whether there is one
    with own.step("canary"):
        proof_begin.begin(own, release, own.live)
    own.lock.release()
    return own, {"release": release.name}


def proving(name: str, deployment: str) -> dict[str, Any]:
    """Return how far the canary of a deployment is; its program is started where it does not run.

    Returns:
        ``state``: `running`, `passed` or `ended`; ``text``: what it does, or why it has ended.

    Raises:
        DeploymentError: this host has none of it.
    """
    site = _find(name)
    proof = proof_state.last(site)
    if not proof or proof.fleet != deployment:
        raise DeploymentError(f"the deployment {deployment} has no canary on this host")
    if proof.outcome:
        return {"state": "ended", "text": proof.why}
    if not proof_unit.runs(site):
        proof_unit.start(site)
    has_passed = proof_state.has_passed(site, proof)
    return {"state": "passed" if has_passed else "running", "text": proof_begin.described(site, proof)}


def switch(name: str, deployment: str, by: str, until: float) -> tuple[Deployment, dict[str, Any]]:
    """Activate the release that was started. The end of the former one and ``after_switch`` wait for `finish`.

    Raises:
        DeploymentError: a step fails, and the release before is active again; or it is too late.
    """
    own, _ = _resumed(name, deployment, by, until, "switch")
    own.site.config = _without_commands(own.site, "after_switch")
    with own.step("instance"):
        proved = proof_end.begin_switch(own.site, deployment)
        step_instance.take_up(own)
    changes = steps.walk(own, SWITCH)
    if proved:
        proof_end.end_switch(own.site, proved)
    return own, {"changes": changes}


def start_older(
    name: str, deployment: str, by: str, until: float, commit: str, *, force: bool
) -> tuple[Deployment, dict[str, Any]]:
    """Start the newest good release of an older commit for `rollback`, and check its health; the active one serves.

    Args:
        force: also where it does not work with the databases' schema.

    Raises:
        DeploymentError: as `rollback`.
    """
    site = _in_time(name, deployment, until, "start")
    own, _left, _outlook = operations.returning(site, commit, migrate=False, force=force, asked_by=by)
    changes = steps.walk(own, (instance,))
    own.end_probe()
    own.lock.release()
    return own, {"commit": commit, "changes": changes}


def rollback(
    name: str, deployment: str, by: str, until: float, commit: str, *, force: bool
) -> tuple[Deployment, dict[str, Any]]:
    """Activate the newest good release of an older commit again, which `start_older` has judged and started.

    Args:
        force: as it was given there.

    Raises:
        DeploymentError: this host has none, it does not run any more, or it is too late.
    """
    site = _in_time(name, deployment, until, "rollback")
    own, _left, _outlook = operations.returning(site, commit, migrate=False, force=force, asked_by=by, is_judged=True)
    assert own.release is not None  # noqa: S101 - the target of the rollback
    with own.step("instance"):
        step_instance.take_up(own)
    changes = steps.walk(own, steps.BACK)
    own.release.update(fleet=deployment)
    return own, {"commit": own.release.record["commit"], "changes": changes}


def finish(name: str, deployment: str, by: str, first: str, known: dict[str, Any]) -> tuple[Deployment, dict[str, Any]]:
    """End a deployment on this host, when all hosts have switched: the former instance is stopped.

    Args:
        first: the host that runs the commands of ``after_switch`` for all; empty where none does.
        known: the release that the hosts have in common now, as the next pillar has it.

    Raises:
        DeploymentError: a command fails; the release stays live.
    """
    site = _find(name)
    release_claim.refuse_others(site, deployment, "finish")
    if site.has_common_release:
        site.config["fleet"]["release"] = known
        sites.keep_applied(site)
    own = Deployment(site, {}, site.kept_templates(), asked_by=by)
    own.take_lock()
    secrets.forget_former_key(site)
    changes = _end(own)
    if first == site.config["fleet"]["host"] and own.live and own.live.record.get("fleet") == deployment:
        own.resume(own.live)
        own.set_activated(True)
        with own.step("after_switch"):
            commands.run_stage(own, "after_switch")
    own.lock.release()
    return own, {"changes": changes}


def _end(own: Deployment) -> dict[str, Any]:
    """End the claim, which keeps instances; stop all but that of the active release."""
    release_claim.drop(own.site)
    return steps.walk(own, (live,))


def abandon(name: str, deployment: str, by: str, keep: bool) -> dict[str, Any]:
    """Give up a deployment that did not succeed on all hosts: remove what it has prepared, take back what it activated.

    Args:
        deployment: its id; empty for whichever has claimed the site last.
        keep: all hosts have activated it, and what is activated stays.

    Raises:
        DeploymentError: the release before does not start, or there is none.
    """
    site = _find(name)
    known = release_claim.last(site)
    if deployment and known and known.id != deployment:
        return {"claim": str(known)}
    deployment = deployment or (known.id if known else "")
    prepared = release_claim.prepared(site)
    proved = proof_state.current(site)
    if proved and proved.fleet:
        proof_unit.forget(site, proved, f"it was ended on all hosts by {by}")
    release_claim.drop(site)  # what this deployment still does on this host is refused from now on
    own = Deployment(site, {}, site.kept_templates(), asked_by=by)
    own.take_lock(look_again=True)
    if not keep:
        secrets.restore_former_key(site)
    disk.clear_leftovers(site)
    found = releases.linked(site, site.current)
    if not keep and deployment and found and found.record.get("fleet") == deployment:
        own.lock.release()
        return {"back": _back(site, found, by)}
    own.keep_live()
    _end(own)
    own.lock.release()
    return {"abandoned": prepared, "claim": str(known or "")}


def _back(site: Site, found: Release, by: str) -> str:
    """Activate the release again that was active before another one; return its name.

    Raises:
        DeploymentError: there is none, or it does not start.
    """
    before = releases.linked(site, site.previous)
    if not before:
        raise DeploymentError(f"there is no release before {found.name}, which stays live")
    operations.rollback(site.name, before.name, asked_by=by, alone=False)
    return before.name


def _find(name: str) -> Site:
    site = sites.find(name)
    if "fleet" not in site.config:
        raise DeploymentError(f"{name} has no hosts in its pillar, as last applied", hint="apply, then try again")
    return site


def _resumed(name: str, deployment: str, by: str, until: float, phase: str) -> tuple[Deployment, Release]:
    """Return a deployment that goes on with the prepared release, its lock taken.

    Raises:
        DeploymentError: it is too late, or nothing was prepared.
    """
    site = _in_time(name, deployment, until, phase)
    release = Release(site, release_claim.prepared(site) or "0000-none")
    if release.record.get("fleet") != deployment:
        raise DeploymentError(f"the deployment {deployment} has prepared no release on this host", transient=True)
    own = Deployment(site, {}, site.kept_templates(), asked_by=by, again=True, fleet=deployment)
    own.take_lock()
    own.resume(release)
    return own, release


def _in_time(name: str, deployment: str, until: float, phase: str) -> Site:
    """Return the site, while a deployment may still act on it.

    Raises:
        DeploymentError: it is too late, or its claim has ended.
    """
    site = _find(name)
    if time.time() > until:
        raise DeploymentError("too late: the master no longer counts on this host", transient=True)
    release_claim.refuse_others(site, deployment, phase)
    return site


def _without_commands(site: Site, stage: str) -> dict[str, Any]:
    return {**site.config, "commands": {**site.config["commands"], stage: []}}
