"""Promotion: a commit is released here once it has proved itself on another site of this host: `promote` of a site.

What is known of it is in the record of the release that is active there. The approvals of people are in
`requests/approvals.json` of the site that gets the commit.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.audit.caller import Caller
from django_formula.host import clock, commands, file, folders
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.release import disk, health, releases
from django_formula.release.releases import Release
from django_formula.request import queue
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import in_command

#: The options by which two sites get the same packages of the same commit.
_PACKAGES = ("requirements", "constraints")
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
        DeploymentError: the site gets no commits from another one, nothing is active there, or another commit is.
    """
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
    reasons = [*_reasons(found)]
    needed = found.site.config["promote"]["approve"]
    people = sorted(approvals(found.site, found.commit) - {by.who})
    if len(people) < needed:
        known = f" ({', '.join(people)})" if people else ""
        reasons.append(
            f"approvals by others: {len(people)} of {needed}{known}, by "
            f"{in_command('salt-call', 'django.approve', found.site.name)}"
        )
    if reasons:
        raise DeploymentError(
            f"{found.commit[:12]} is not promoted from {found.source.name}: {'; '.join(reasons)}",
            hint=f"without that: {found.site.to_release(found.commit)}",
        )


def _reasons(found: Promotion) -> Iterator[str]:
    """Yield what speaks against a commit."""
    site, source, release = found
    wanted = site.config["promote"]
    age = time.time() - clock.seconds(str(release.record.get("live_since", "")) or clock.now())
    if age < commands.seconds(wanted["after"]):
        yield f"it has been active there for {max(age, 0) / 60:.0f} min, and promote:after is {wanted['after']}"
    report = release.record.get("receipt") or {}
    if report.get("failed"):
        yield f"{report['failed']} of {report['sent']} requests failed when {source.name} switched to it"
    problem = health.problem_of(source, release.path, time.monotonic() + _PATIENCE)
    if problem:
        yield f"{source.name} does not answer well: {problem}"
    if site.config["repository"] != source.config["repository"]:
        yield f"{source.name} has another repository"
    different = [name for name in _PACKAGES if site.config[name] != source.config[name]]
    if different:
        yield f"{source.name} has other packages, for {' and '.join(different)} differ"
    python = disk.interpreter_difference(site, release)
    if python:
        yield f"{source.name} runs it on Python {python['old']}, and {site.name} has {python['new']}"


def approve(found: Promotion, by: Caller) -> dict[str, Any]:
    """Record that a person approves a commit; return who has.

    It is a record and a reminder, no wall: who is root on this host can be two people.
    """
    folders.make(Folder(queue.folder(found.site), "root", "root", 0o700))
    row = {"commit": found.commit, "who": by.who, "from": by.origin, "how": by.how, "at": clock.now()}
    with queue.lock(found.site).held():
        file.write_json(_path(found.site), {"approvals": [*_read(found.site), row][-_KEPT:]}, mode=0o600)
    return {"commit": found.commit, "approved_by": sorted(approvals(found.site, found.commit))}


def approvals(site: Site, commit: str) -> set[str]:
    """Return who has approved a commit."""
    return {row["who"] for row in _read(site) if row["commit"] == commit}


def _read(site: Site) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = (file.read_json(_path(site), _SHAPE) or {"approvals": []})["approvals"]
    return rows


def _path(site: Site) -> Path:
    return queue.folder(site) / "approvals.json"
