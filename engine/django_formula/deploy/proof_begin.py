"""The beginning of a proof: whether a release can have one, and its first share of the visitors."""

import time
from typing import Any

from django_formula.deploy import migration
from django_formula.deploy.deployment import Deployment
from django_formula.host import file
from django_formula.host.commands import seconds
from django_formula.proof import state, unit
from django_formula.proof.state import Proof
from django_formula.proxy import proxies, site_files
from django_formula.release import claim, instances
from django_formula.release.releases import Release
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log
from django_formula.worker import workers

log = Log.of(__name__)
#: What both releases have to have in common, by the beginning of an input's path, in words.
_SHARED = {
    "databases:": "its databases",
    "secrets:secret_key": "its secret key",
    "secrets:database": "a database's password",
    "queue": "its queue",
    "caches": "its caches",
}


def is_wanted(site: Site) -> bool:
    """Return whether releases of a site have a proof."""
    return "canary" in site.config["releases"]


def begins(site: Site) -> bool:
    """Return whether a deployment of this host alone begins one; that of a site with `hosts` begins on all of them."""
    return is_wanted(site) and "fleet" not in site.config


def why_not(deployment: Deployment, release: Release, live: Release) -> str:
    """Return why a release cannot serve a share of the visitors next to the active one; empty where it can."""
    site, proxy = deployment.site, proxies.serving(deployment.site)
    if deployment.findings.takeover or deployment.paused or sites.known_maintenance(site):
        return "visitors get no other release now"
    if instances.pid(site, live.path) is None or not (instances.serves(live.path) and instances.serves(release.path)):
        return f"{live.name} does not run"
    if proxy is None or f"{claim.next_link(site)}/socket" not in (file.read_text(proxy.main_file(site)) or ""):
        return "nginx does not have its configuration yet, the next release can"
    before, after = instances.kind(live.path), instances.kind(release.path)
    if before != after or after[0] != "unix":
        return (
            f"nginx reaches one by {' and '.join(before)}, the other by {' and '.join(after)}: both need a unix socket"
        )
    files = [site_files.files_of_site(site, one.facts, deployment.templates) for one in (live, release)]
    if files[0] != files[1]:
        return "nginx needs other files for it, such as for another STATIC_URL"
    if broken := migration.breaking_operations(migration.recorded_schema(release)):
        return f"{live.name} does not work with its migration {broken[0]['migration']}"
    if differs := _differing(live, release):
        return f"it does not share {differs} with {live.name}"
    return "" if _bakes(site) else failing_tasks(site)


def failing_tasks(site: Site) -> str:
    """Return why workers of this host would fail tasks of a release that has visitors; empty where they do not."""
    lost = workers.failing_unknown(site)
    return f"workers of the kind {lost[0]} fail tasks that they do not know, which it may send" if lost else ""


def _bakes(site: Site) -> bool:
    return seconds(site.config["releases"]["canary"]["bake"]) > 0


def _differing(live: Release, release: Release) -> str:
    """Return what two releases do not share; empty where that is nothing that a visitor's data depends on."""
    old, new = (one.record.get("inputs", {}) for one in (live, release))
    changed = {path for path in {*old, *new} if old.get(path) != new.get(path)}
    return next((words for start, words in _SHARED.items() for path in changed if path.startswith(start)), "")


def outlook(site: Site) -> str:
    """Return which shares of the visitors a release gets, and how long."""
    steps = ", ".join(f"{share} % for {duration}" for share, duration in state.stages(site))
    bake = site.config["releases"]["canary"]["bake"]
    stays = f"; then a tenth stays on the former one for {bake}" if _bakes(site) else ""
    why_not = failing_tasks(site)
    return f"{f'no visitors before the switch: {why_not}' if why_not else f'{steps} of the visitors'}{stays}"


def begin(deployment: Deployment, release: Release, live: Release) -> None:
    """Begin the proof of a release that runs; the apply goes on with the active one.

    Raises:
        DeploymentError: its program cannot be started.
    """
    site = deployment.site
    about = {"by": deployment.asked_by, "judged_by": deployment.configuration_hash(), "fleet": deployment.fleet}
    begun = state.new(site, release, live, steps=deployment.seconds, warnings=deployment.warnings, **about)
    file.link(claim.next_link(site), f"releases/{release.name}")
    try:
        state.begin(site, begun)
        unit.start(site)
    except BaseException:
        unit.forget(site, begun, "it could not be begun")
        raise
    log.info("%s: %s gets %s %% of the visitors", site.name, release.name, begun.share)
    deployment.write_attempt("proving")
    deployment.set_proving()


def described(site: Site, proof: Proof) -> str:
    """Return what a proof does now, for people."""
    if proof.phase == state.BAKE:
        return f"{proof.share} % of the visitors stay on {proof.old} for {site.config['releases']['canary']['bake']}"
    steps = state.stages(site)
    text = f"{proof.release} gets {proof.share} % of the visitors"
    if state.has_passed(site, proof):
        return f"{text}, has passed, and waits for the other hosts"
    if not 0 <= proof.stage < len(steps):
        return text
    ends = proof.since + sum(seconds(duration) for _share, duration in steps[proof.stage :])
    return f"{text}, until {time.strftime('%H:%M', time.localtime(ends))} at least"


def status(site: Site) -> dict[str, Any]:
    """Return a site's part of its status; nothing without a proof that runs, or whose deployment has not ended."""
    proof, claimed = state.last(site), claim.last(site)
    if not proof:
        return {}
    if proof.outcome:
        is_left = proof.outcome != state.ACTIVE and claimed and claimed.id == proof.fleet
        return {"canary": f"{proof.release} was taken back here: {proof.why}"} if is_left else {}
    text = described(site, proof)
    return {"canary": text if unit.runs(site) else f"{text}; its program does not run"}
