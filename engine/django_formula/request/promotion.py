"""Promotion: a commit is released here once it has proved itself on another site of this host: `promote` of a site.

What is known of it is in the record of the release that is active there. The approvals of people are in
`requests/approvals.json` of the site that gets the commit. Sites on several hosts are judged by `fleet.promotion`.
"""

import json
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.audit.caller import Caller
from django_formula.host import clock, commands, file, folders
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.release import claim, disk, health, releases
from django_formula.release.releases import Release
from django_formula.request import queue
from django_formula.request.queue import Place
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import in_command, without_logins

#: The options by which two sites get the same packages of the same commit.
_SAME = ("repository", "requirements", "constraints")
#: Seconds for the page of the other site's health check.
_PATIENCE = 10.0
#: Approvals that are kept, the newest ones.
_KEPT = 100
_SHAPE = {"approvals": [{"commit": str, "who": str, "from": str, "how": str, "at": str}]}


class Promotion(NamedTuple):
    """A commit that may become the next release of a site.

    Attributes:
        site: the one that gets the commit.
        source: the one on which it is active.
        release: that one's active release.
    """

    site: Site
    source: Site
    release: Release

    @property
    def commit(self) -> str:
        """The commit, whole."""
        return str(self.release.record["commit"])


def find(site: Site, commit: str | None = None) -> Promotion:
    """Return what can be promoted to a site.

    Args:
        commit: the one that is expected, by at least seven digits.

    Raises:
        DeploymentError: the site gets no commits from another one, nothing is active there, or another commit is; or
            it is on several hosts.
    """
    claim.refuse_alone(site, "promote")
    wanted = site.config.get("promote")
    if not wanted:
        raise DeploymentError(
            f"{site.name} gets its commits from no other site",
            hint=f"set {site.at}:promote:from to the name of one, and apply",
        )
    source = sites.find(wanted["from"])
    live = releases.linked(source, source.current)
    if not live or not live.record.get("commit"):
        raise DeploymentError(
            f"nothing is active on {source.name}", hint=f"see: {in_command('salt-call', 'django.status', source.name)}"
        )
    found = Promotion(site, source, live)
    if commit is not None and (len(commit) < 7 or not found.commit.startswith(commit)):
        raise DeploymentError(
            f"{commit} is not active on {source.name}, but {found.commit[:12]}",
            hint=f"release it there first: {source.to_release(commit)}",
        )
    return found


def refuse_unproved(found: Promotion, by: Caller) -> None:
    """Check that a commit has proved itself, and that people have approved it where that is wanted.

    Args:
        by: who promotes it, and whose own approval does not count.

    Raises:
        DeploymentError: it has not; all reasons are in it.
    """
    site, needed = found.site, found.site.config["promote"]["approve"]
    approve = in_command("salt-call", "django.approve", site.name)
    reasons = [*_reasons(found), *missing_approvals(approvals(site, found.commit) - {by.who}, needed, approve)]
    refuse(reasons, found.commit, found.source.name, site.to_release(found.commit))


def refuse(reasons: Collection[str], commit: str, source: str, instead: str) -> None:
    """Refuse to promote a commit where something speaks against it.

    Args:
        source: the name of the site that it is active on.
        instead: the command that releases it all the same.

    Raises:
        DeploymentError: there is a reason.
    """
    if reasons:
        text = f"{commit[:12]} is not promoted from {source}: {'; '.join(reasons)}"
        raise DeploymentError(text, hint=f"without that: {instead}")


def missing_approvals(people: Collection[str], needed: int, approve: str) -> Iterator[str]:
    """Yield that not enough people have approved a commit.

    Args:
        approve: the command that does.
    """
    if len(people) < needed:
        known = f" ({', '.join(sorted(people))})" if people else ""
        yield f"approvals by others: {len(people)} of {needed}{known}, by {approve}"


def of_run(since: str, report: Mapping[str, Any], after: str, source: str) -> Iterator[str]:
    """Yield what speaks against a commit of how it has run on another site.

    Args:
        since: when it became active there.
        report: how many requests were ``sent`` during the switch to it, and ``failed``.
        after: how long it has to be active, as the pillar has it.
        source: the name of the other site.
    """
    age = time.time() - clock.seconds(since or clock.now())
    if clock.is_ahead(since):
        yield f"it became active there at {since}, when a clock was wrong: release it there once more"
    elif age < commands.seconds(after):
        yield f"it has been active there for {max(age, 0) / 60:.0f} min, and promote:after is {after}"
    if report.get("failed"):
        yield f"{report['failed']} of {report['sent']} requests failed when {source} switched to it"


def packages(site: Site) -> dict[str, str]:
    """Return the options by which sites get the same packages of a commit, as texts without logins."""
    return {name: without_logins(json.dumps(site.config[name], sort_keys=True)) for name in _SAME}


def of_packages(source: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[str]:
    """Yield what differs between the `packages` of another site and those of the one that gets its commit."""
    different = [name for name in _SAME if old[name] != new[name]]
    if "repository" in different:
        yield f"{source} has another repository"
    if different := [name for name in different if name != "repository"]:
        yield f"{source} has other packages, for {' and '.join(different)} differ"


def _reasons(found: Promotion) -> Iterator[str]:
    """Yield what speaks against a commit."""
    site, source, release = found
    since, report = str(release.record.get("live_since", "")), release.record.get("receipt") or {}
    yield from of_run(since, report, site.config["promote"]["after"], source.name)
    problem = health.problem_of(source, release.path, time.monotonic() + _PATIENCE)
    if problem:
        yield f"{source.name} does not answer well: {problem}"
    yield from of_packages(source.name, packages(source), packages(site))
    python = disk.interpreter_difference(site, release)
    if python:
        yield f"{source.name} runs it on Python {python['old']}, and {site.name} has {python['new']}"


def approve(site: Site, commit: str, by: Caller) -> dict[str, Any]:
    """Record that a person approves a commit for a site; return who has."""
    folders.make(Folder(queue.folder(site), "root", "root", 0o700))
    return keep_approval(site, commit, by)


def keep_approval(kept: Place, commit: str, by: Caller) -> dict[str, Any]:
    """Record that a person approves a commit, where the folder of requests is there; return who has.

    It is a record and a reminder, no wall: who is root on this host can be two people.
    """
    row = {"commit": commit, "who": by.who, "from": by.origin, "how": by.how, "at": clock.now()}
    with queue.lock(kept).held():
        file.write_json(_path(kept), {"approvals": [*_read(kept), row][-_KEPT:]}, mode=0o600)
    return {"commit": commit, "approved_by": sorted(approvals(kept, commit))}


def approvals(kept: Place, commit: str) -> set[str]:
    """Return who has approved a commit."""
    return {row["who"] for row in _read(kept) if row["commit"] == commit}


def _read(kept: Place) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = (file.read_json(_path(kept), _SHAPE) or {"approvals": []})["approvals"]
    return rows


def _path(kept: Place) -> Path:
    return queue.folder(kept) / "approvals.json"
