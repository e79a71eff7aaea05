"""What runs of a site, and its releases: the rows of `django.status` and `django.releases`; which of them verbs use."""

from collections.abc import Mapping, Sequence
from typing import Any

from django_formula.backup import backups
from django_formula.container import containers
from django_formula.database import databases
from django_formula.deploy import order, proof_begin
from django_formula.host import clock
from django_formula.host.commands import DeploymentError
from django_formula.offsite import copies
from django_formula.points import archive
from django_formula.process import command, contract
from django_formula.proof import state
from django_formula.proxy import maintenance, reach, waiting
from django_formula.release import disk, instances
from django_formula.release import releases as release_releases
from django_formula.release.releases import Release
from django_formula.server import servers
from django_formula.site.sites import Site
from django_formula.store import setup
from django_formula.tls import certificates
from django_formula.verbs import requests, schedule
from django_formula.verbs import workers as verbs_workers


def releases(site: Site) -> list[dict[str, Any]]:
    """Return the rows of `django.releases`: failed attempts without a release on disk, then releases, newest first."""
    live, previous = release_releases.linked(site, site.current), release_releases.linked(site, site.previous)
    proof = state.current(site)
    other = {(proof.release if proof.phase == state.CANARY else proof.old): proof.phase} if proof else {}
    roles = {release.name: role for role, release in (("previous", previous), ("live", live)) if release} | other
    present = release_releases.releases(site)
    records = [release.record for release in present if release.record]
    has = databases.applied_migrations(site, records)
    rows = [
        _row(attempt, state=attempt["result"], age=attempt.get("time")) for attempt in _lost_attempts(site, present)
    ]
    for release in reversed(present):
        record, role = release.record, roles.get(release.name, "")
        health = _health(release, role == "live")
        schema = databases.schema_status(record, records, has) if record else ""
        age = record.get("live_since") or record.get("began")
        rows.append(_row({**record, "release": release.name}, role=role, age=age, health=health, schema=schema))
    return rows


def steps(site: Site) -> list[dict[str, Any]]:
    """Return the rows of `django.steps`: the steps of a site in their order, with what they took last."""
    live = release_releases.linked(site, site.current)
    took = (live.record.get("steps") or {}) if live else {}
    return [
        {"step": step.name, "user": step.user, "seconds": took.get(step.name, ""), "does": step.does}
        for step in order.steps(site.config)
    ]


def _row(record: Mapping[str, Any], *, age: str | None, **more: str) -> dict[str, Any]:
    keys = ("release", "role", "state", "age", "health", "schema", "subject", "asked_by")
    who = record.get("asked_by", "").partition(", salt job")[0]
    values = {**record, **more, "age": clock.age(age or ""), "asked_by": who}
    failure = f"{record['step']}: {record['error'].splitlines()[0]}" if "step" in record else ""
    return {**{key: values.get(key) or "" for key in keys}, "failure": failure}


def _lost_attempts(site: Site, present: Sequence[Release]) -> list[dict[str, Any]]:
    """Return at most five attempts after the last good one that failed and have no release on disk, newest first."""
    names = {release.name for release in present}
    return [attempt for attempt in release_releases.failed_attempts(site) if attempt.get("release") not in names][:5]


def _failed(site: Site, present: Sequence[Release], live: Release | None) -> list[Release]:
    """Return the failed releases on disk that are newer than the active one, without those before a good attempt."""
    found = [r for r in present if r.record.get("state") == "failed" and (not live or r.sequence > live.sequence)]
    if not found:
        return []
    since = {attempt.get("release") for attempt in release_releases.failed_attempts(site)}
    before = {attempt.get("release") for attempt in release_releases.attempts(site)} - since
    return [release for release in found if release.name not in before]


def _health(release: Release, is_live: bool) -> str:
    """Return whether the instance of a release runs, and how many requests failed at its switch."""
    runs = instances.is_running(release.site, release.path)
    parts = ["runs" if runs else "does not run"] if is_live or runs else []
    report, proof = release.record.get("receipt"), release.record.get("replay")
    if proof and proof["compared"]:
        parts.append(f"{proof['refused']} of {proof['compared']} replayed URLs worse")
    if report:
        parts.append(f"{report['failed']} of {report['sent']} failed")
    return ", ".join(parts)


def _server(live: Release) -> str:
    """Return the server of the active release, and what it reports of its processes; empty without a server."""
    if not instances.serves(live.path):
        return ""
    kind = (command.recorded(live.path) or {}).get("server", "")
    workers = servers.of_release(live.path).workers(contract.folder(live.site, live.path))
    return f"{kind}: {workers}" if workers else kind


def row(site: Site, *, visits: bool = True) -> dict[str, Any]:
    """Return the row of `django.status` of a site: its releases, its data, its certificates, and what runs at times.

    Args:
        visits: whether it is tried if visitors reach the site.

    Raises:
        DeploymentError: a file of its records is damaged.
    """
    try:
        parts = {**status(site, visits=visits), **backups.status(site), **certificates.summary(site)}
        parts |= {
            **copies.status(site),
            **archive.status(site),
            "schedules": schedule.status(site),
            "cron": schedule.idle(site),
        }
        return {**parts, **requests.status(site)}
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # valid JSON, but not what was written
        raise DeploymentError(
            f"a file of {site.name}'s records is damaged: {type(error).__name__}: {error}",
            hint=f"look at the newest first: ls -t {site.root}/*.json* {site.releases}/*/release.json "
            f"{site.backups}/*.json",
        ) from None


def status(site: Site, *, visits: bool = True) -> dict[str, Any]:
    """Return what a site's row has of its releases, and of what runs of them.

    Args:
        visits: as above.
    """
    live = release_releases.linked(site, site.current)
    on_disk = release_releases.releases(site)
    present = [live if live and live.name == one.name else one for one in on_disk]  # whose record is read once
    records = [release.record for release in present if release.record]
    failed = _failed(site, present, live)
    lost = [
        f"{attempt.get('step', 'interrupted')} {clock.age(attempt['time'])} ago"
        for attempt in reversed(_lost_attempts(site, present))
    ]
    torn = site.current.is_symlink() and not live
    return {
        "site": site.name,
        "damage": f"{site.current}/release.json is missing or damaged: state.apply makes a new release" if torn else "",
        "domains": ", ".join(site.config["domains"]),
        "release": live.name if live else "",
        "live_since": live.record.get("live_since", "") if live else "",
        "running": live is not None and instances.is_running(site, live.path),
        "server": _server(live) if live else "",
        "schema": databases.schema_status(live.record, records, databases.applied_migrations(site, records))
        if live
        else "",
        "held_back": ", ".join(r.name for r in present if r.record.get("state") == "held"),
        "failed": ", ".join([*(f"{r.name}: {r.record.get('step', '?')}" for r in failed), *lost]),
        "sandbox": ", ".join(f"{name}={value}" for name, value in site.config["sandbox"].items()),
        "maintenance": maintenance.summary(site),
        **(proof_begin.status(site) if state.current(site) else {}),
        **waiting.status(site),
        "unreached": reach.problem(site) if live and visits else "",
        "interpreter": disk.interpreter_problem(live) if live else "",
        **verbs_workers.status(site, live),
        "stores": setup.summary(site),
        **_container(live),
    }


def _container(live: Release | None) -> dict[str, str]:
    """Return the engine and the image of a release in containers; nothing for another one."""
    container = containers.of_release(live.path) if live else None
    if not container:
        return {}
    image = container.engine.image(container.image)
    return {"container": f"{container.engine.name}: {container.image} ({image[:12] or 'removed'})"}


# The release that a verb looks into: the active one; before a first one, the newest that failed


def live_release(site: Site) -> Release:
    """Return the active release.

    Raises:
        DeploymentError: there is none.
    """
    found = release_releases.linked(site, site.current)
    if not found:
        raise DeploymentError(f"{site.name} has no live release", hint="salt-call state.apply django")
    return found


def newest_release(site: Site) -> Release:
    """Return the active release; where there is none, the newest that failed.

    Raises:
        DeploymentError: there is neither.
    """
    failed = [release for release in release_releases.releases(site) if release.record.get("state") == "failed"]
    return live_release(site) if not failed or release_releases.linked(site, site.current) else failed[-1]


def runnable_release(site: Site) -> Release:
    """Return the active release; where there is none, the newest that failed, if its commands can be run.

    Raises:
        DeploymentError: there is neither, or the release failed before it had a configuration.
    """
    release = newest_release(site)
    is_there = release.has_python and all((release.path / part).exists() for part in ("source", "config/environment"))
    if failure_notice(release) and not is_there:
        raise DeploymentError(
            f"{site.name} has no live release, and {release.name} failed too early to run commands in it, in the step "
            f"{release.record['step']}",
            hint=f"correct what failed: salt-call django.record {site.name} {release.name}",
        )
    return release


def failure_notice(release: Release) -> str:
    """Return in which step a release failed; empty for one that is good."""
    if release.record.get("state") != "failed":
        return ""
    return f"no release is live: this is {release.name}, which failed in the step {release.record['step']}"
