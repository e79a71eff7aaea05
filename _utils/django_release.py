"""A release on disk: its record, which one is live, which one a rollback goes to, and what is deleted."""

import logging
import os
import re
from pathlib import Path
from typing import Any

import django_instance
import django_site
import django_virtualenv
from django_command import DeploymentError
from django_site import Site

log = logging.getLogger(__name__)


class Release:
    """A release on disk: ``releases/0042-3f2a9c1b77de``, with its record in ``release.json``.

    The record holds ``state`` (building, good, failed, held), ``commit``, ``inputs`` (keyed hashes), ``facts`` and
    ``steps`` (seconds).
    """

    def __init__(self, site: Site, name: str):
        self.site = site
        self.name = name
        self.path = site.releases / name
        self.record: dict[str, Any] = django_site.read_json(self.path / "release.json") or {}

    @property
    def sequence(self) -> int:
        return int(self.name.split("-")[0])

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.record.get("facts", {})
        return facts

    def is_whole(self) -> bool:
        """Whether every part of a finished release is there."""
        parts = ("source", "static", "config/environment", "config/uwsgi.ini", "virtualenv/bin/python")
        whole = all((self.path / part).exists() for part in parts) and os.path.lexists(self.path / "socket")
        return bool(self.record) and whole

    def update(self, **values: Any) -> None:
        """Change the record, on disk too."""
        self.record.update(values)
        django_site.write_json(self.path / "release.json", self.record, mode=0o640)


def releases(site: Site) -> list[Release]:
    """The releases on disk, oldest first."""
    names = [path.name for path in site.releases.iterdir()] if site.releases.is_dir() else []
    found = [Release(site, name) for name in names if re.fullmatch(r"\d{4,}-[0-9a-f]{12}", name)]
    return sorted(found, key=lambda release: release.sequence)


def linked(site: Site, link: Path) -> Release | None:
    """The release that ``current`` or ``previous`` names; None when the link is missing or leads nowhere.

    Raises:
        DeploymentError: the link is something else, or leads elsewhere.
    """
    try:
        target = Path(os.readlink(link))
    except FileNotFoundError:
        return None
    except OSError:
        raise DeploymentError(
            f"{link} is not a link", hint=f"move it away, then apply again: mv {link} {link}.aside"
        ) from None
    if (link.parent / target).parent != site.releases:
        raise DeploymentError(
            f"{link} leads to {target}, which is not one of the site's releases",
            hint=f"remove it, then apply again: rm {link}",
        )
    release = Release(site, target.name)
    return release if release.record else None


def older_good(site: Site, than: Release) -> Release | None:
    """The newest good release before another: where a rollback goes; held back and failed ones do not count."""
    good = [
        r for r in releases(site) if r.sequence < than.sequence and r.record.get("state") == "good" and r.is_whole()
    ]
    return good[-1] if good else None


def next_sequence(site: Site) -> int:
    """One more than any release has had, whatever the clock says."""
    names = [path.name for path in site.releases.iterdir()] if site.releases.is_dir() else []
    names += re.findall(r'"release": "(\d+-)', django_site.read_text(site.deploys) or "")
    return max((int(name.split("-")[0]) for name in names if name.split("-")[0].isdigit()), default=0) + 1


def clear_leftovers(site: Site) -> None:
    """Remove what a deployment that was killed has left; the caller holds the lock, so nobody works on it.

    What ``current`` and ``previous`` name stays even where its record is damaged: it may serve.
    """
    kept = {Path(os.readlink(link)).name for link in (site.current, site.previous) if link.is_symlink()}
    for release in releases(site):
        if release.name not in kept and release.record.get("state") not in ("good", "failed", "held"):
            remove(release)


def remove(release: Release) -> None:
    """Delete a release with its units."""
    django_instance.remove(release.site, release.path)
    django_site.remove_tree(release.path)


def prune(site: Site) -> list[str]:
    """Delete what is over ``releases:keep``, the failed releases, and the virtualenvs that no release uses.

    ``current`` and ``previous`` stay whatever their number, and so does what is held back while it is newer than the
    live release.

    Returns:
        What was deleted, and what could not be.
    """
    live, previous = linked(site, site.current), linked(site, site.previous)
    kept = {release.name for release in (live, previous) if release}
    present = releases(site)
    good = [release for release in present if release.record.get("state") == "good"]
    kept |= {release.name for release in good[-site.config["releases"]["keep"] :]}
    kept |= {
        release.name
        for release in present
        if release.record.get("state") == "held" and live and release.sequence > live.sequence
    }
    deleted = []
    for release in present:
        if release.name not in kept:
            try:
                remove(release)
                deleted.append(release.name)
            except (OSError, DeploymentError) as error:
                log.warning("%s: %s cannot be deleted: %s", site.name, release.name, error)
                deleted.append(f"{release.name} could not be deleted: {error}")
    used = {
        Path(os.readlink(link)).name for release in releases(site) if (link := release.path / "virtualenv").is_symlink()
    }
    return deleted + [f"virtualenv {key}" for key in django_virtualenv.prune(site, used)]


def overview(site: Site) -> list[dict[str, Any]]:
    """The releases on disk, the newest first: a row each."""
    live, previous = linked(site, site.current), linked(site, site.previous)
    rows = []
    for release in reversed(releases(site)):
        record = release.record
        role = "previous" if previous and release.name == previous.name else ""
        row = {"release": release.name, "role": "live" if live and release.name == live.name else role}
        row |= {key: record.get(key) or "" for key in ("state", "commit", "subject", "live_since", "asked_by")}
        failure = f"{record['step']}: {record['error'].splitlines()[0]}" if "step" in record else ""
        rows.append({**row, "failure": failure})
    return rows


def status(site: Site) -> dict[str, Any]:
    """What runs of a site, and what does not: one row."""
    live = linked(site, site.current)
    present = releases(site)
    failed = [r for r in present if r.record.get("state") == "failed" and (not live or r.sequence > live.sequence)]
    return {
        "site": site.name,
        "domains": ", ".join(site.config["domains"]),
        "release": live.name if live else "",
        "live_since": live.record.get("live_since", "") if live else "",
        "running": live is not None and django_instance.pid(site, live.path) is not None,
        "held_back": ", ".join(r.name for r in present if r.record.get("state") == "held"),
        "failed": ", ".join(f"{r.name}: {r.record.get('step', '?')}" for r in failed),
        "sandbox": ", ".join(f"{name}={value}" for name, value in site.config["sandbox"].items()),
    }
