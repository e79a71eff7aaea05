"""Releases: their records, the active one, and that of a name."""

import contextlib
import functools
import itertools
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.host.locks import Lock
from django_formula.release import bus
from django_formula.secret import secrets
from django_formula.site.sites import Site
from django_formula.untrusted import shapes
from django_formula.untrusted.text import proposal

#: The end of the name of a lock that the program of a schedule holds; its holder begins with the name of a release.
LOCK_OF_SCHEDULE = ".lock"
#: The end of the name of the lock of a console, in the same folder.
LOCK_OF_CONSOLE = ".console"
#: What holds that lock, after the name of the release, where data can be changed in the console.
WRITING_CONSOLE = "console that can change data"
#: What takes the lock of backups for a restore.
RESTORE = "django.restore"
#: The file of a release with its commit, which the proxy of a fleet's host serves to balancers.
COMMIT = "commit"
#: The shape of a release's record; another one is damaged. Keys that are missing here are only displayed.
RECORD = {
    **dict.fromkeys(("name?", "state?", "commit?", "asked_by?", "began?", "live_since?", "held_since?"), str),
    **dict.fromkeys(("author?", "subject?", "committed?", "virtualenv?"), shapes.MAYBE),
    **dict.fromkeys(("step?", "error?", "fleet?"), str),
    "inputs?": {str: str},
    "facts?": shapes.FACTS,
    "schema?": shapes.SCHEMA,
    "packages?": {str: str},
    "relaxed?": shapes.RELAXED,
    "steps?": {str: float},
    "size?": {"release": [int], "virtualenv": [int]},
    "backups?": [str],
    "container?": shapes.CONTAINER,
    "receipt?": {"sent": int, "failed": int},
    "replay?": {"compared": int, "refused": int, "differences?": [str], "why?": str},
    "proof?": {"began": float, "share": int, "evidence": {}, "exceptions": [str]},
    "page?": {
        "domain": str,
        "path": str,
        "health": {"path": str, "status": [int], "contains": shapes.MAYBE},
    },
}
#: What the record of a release that may serve has in addition.
_FINISHED = {"commit": str, "inputs": {str: str}, "facts": {"folder": str, "application": str}}


class Release:
    """A release on disk: ``releases/0042-3f2a9c1b77de``, with its record in ``release.json``; a plan's in its folder.

    The record holds ``state`` (building, good, failed, held), ``commit`` with ``author``, ``subject`` and ``committed``
    (when), ``inputs`` (keyed hashes), ``packages`` (name → version), ``relaxed`` (what gave way of the requirements),
    ``facts`` (what was found in the source, what the start of Django has answered, the migrations of its databases),
    ``replay`` (what it answered worse than the active release), ``proof`` (what visitors met of both), ``steps``
    (seconds) and ``asked_by``.
    """

    def __init__(self, site: Site, name: str, folder: Path | None = None):
        self.site = site
        self.name = name
        self.path = (folder or site.releases) / name

    @functools.cached_property
    def record(self) -> dict[str, Any]:
        """Its record, read when it is first looked at; empty where it is missing or damaged."""
        record = file.read_json(self.path / "release.json", RECORD) or {}
        is_known = record.get("state") in ("building", "failed") or (
            record.get("state") in ("good", "held") and shapes.fits(record, _FINISHED)
        )
        return {"name": self.name, **record} if is_known else {}

    @property
    def sequence(self) -> int:
        return int(self.name.split("-")[0])

    @property
    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = self.record.get("facts", {})
        return facts

    @property
    def has_python(self) -> bool:
        """Whether its interpreter exists; of a container it may be one that this host does not have."""
        python = self.path / "virtualenv/bin/python"
        return os.path.lexists(python) if "container" in self.record else python.exists()

    def update(self, **values: Any) -> None:
        """Change the record, also on disk; it is synced only once the release is finished."""
        self.record.update(values)
        durable = self.record.get("state") != "building"
        file.write_json(self.path / "release.json", self.record, mode=0o640, durable=durable)


def releases(site: Site) -> list[Release]:
    """Return the releases on disk, oldest first."""
    names = [path.name for path in site.releases.iterdir()] if site.releases.is_dir() else []
    found = [Release(site, name) for name in names if re.fullmatch(r"\d{4,}-[0-9a-f]{12}", name)]
    return sorted(found, key=lambda release: release.sequence)


def has_used(site: Site, name: str, value: str) -> bool:
    """Return whether a release on disk was made with that value of a secret."""
    used = secrets.keyed_hash(secrets.record_key(site), value)
    return any(release.record.get("inputs", {}).get(f"secrets:{name}") == used for release in reversed(releases(site)))


def refuse_unknown_secrets(
    site: Site, known: Mapping[str, str], given: Collection[str], recorded: Mapping[str, Any]
) -> None:
    """Check that the secrets that only the disk has are those of a release: a truncated password looks complete.

    The secret key is left out: its file shows itself whether it is complete, and may be edited.

    Args:
        known: the value of each secret.
        given: the names of those that the pillar gives now.
        recorded: the inputs of the live release.

    Raises:
        DeploymentError: one has another value than any release on disk.
    """
    key = secrets.record_key(site)
    if recorded.get("name") != secrets.keyed_hash(key, site.name):
        return  # the key of the records was lost: nothing can be compared
    for name, value in known.items():
        used = recorded.get(f"secrets:{name}")
        if name in given or name == "secret_key" or not used or used == secrets.keyed_hash(key, value):
            continue
        if not has_used(site, name, value):
            raise DeploymentError(
                f"{secrets.path_of(site, name)} contains a value that no release was made with: "
                "it is damaged or was edited",
                hint=f"restore it from a backup, or set {secrets.pillar_key(site, name)}, and apply",
            )


def linked(site: Site, link: Path) -> Release | None:
    """Return the release that ``current`` or ``previous`` points to; None if the link is missing or its target is.

    Raises:
        DeploymentError: it is no link, or points elsewhere.
    """
    try:
        target = Path(os.readlink(link))
    except FileNotFoundError:
        return None
    except OSError:
        raise DeploymentError(
            f"{link} is not a link",
            hint=proposal("move it away, then apply again: {}", "mv", str(link), f"{link}.aside"),
        ) from None
    if (link.parent / target).parent != site.releases:
        raise DeploymentError(
            f"{link} points to {target}, which is not one of the site's releases",
            hint=proposal("remove it, then apply again: {}", "rm", str(link)),
        )
    release = Release(site, target.name)
    return release if shapes.fits(release.record, _FINISHED) else None


def named(site: Site, name: str) -> Release:
    """Return the newest release of a name, number or commit (from seven digits on): ``42``, ``3f2a9c1``.

    Raises:
        DeploymentError: there is none on this host.
    """
    for release in reversed(releases(site)):
        if name == release.name or (name.isdecimal() and int(name) == release.sequence):
            return release
        if re.fullmatch(r"[0-9a-f]{7,40}", name) and str(release.record.get("commit", "")).startswith(name):
            return release
    raise DeploymentError(
        f"{site.name} has no release {name} on this host", hint=f"salt-call django.releases {site.name} lists them"
    )


# Attempts: each deployment with its result, a line of ``deploys.jsonl``, and the number of the next one


def append_attempt(site: Site, attempt: dict[str, Any]) -> None:
    """Record an attempt durably, on a line of its own even where the last line is incomplete."""
    file.append(site.deploys, json.dumps(attempt, sort_keys=True), mode=0o640)
    bus.end(site, attempt)


def attempts_since(path: Path, offset: int | None) -> tuple[list[dict[str, Any]], int]:
    """Return the attempts of a file after an offset, by complete lines, and the next offset.

    Without an offset, or where the file is shorter, there are none: who looks for the first time tells no history.
    """
    try:
        size = path.stat().st_size
    except OSError:
        size = 0
    if offset is None or offset >= size:
        return [], size
    with open(path, "rb") as file:
        file.seek(offset)
        data = file.read(1 << 20)
    end, found = data.rfind(b"\n") + 1, []
    for line in data[:end].splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            attempt = json.loads(line)
            found += [attempt] if isinstance(attempt, dict) else []
    return found, offset + end


def attempts(site: Site) -> list[dict[str, Any]]:
    """Return the attempts in their order, without incomplete lines."""
    return list(_newest_first(site))[::-1]


def _newest_first(site: Site) -> Iterator[dict[str, Any]]:
    for line in reversed(_attempts_text(site).splitlines()):
        try:
            attempt = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(attempt, dict):
            yield attempt


def failed_attempts(site: Site) -> list[dict[str, Any]]:
    """Return the attempts that failed or were interrupted since the last good one, newest first.

    An attempt is good as well where there was nothing to do. A refused one is neither.
    """
    decided = (attempt for attempt in _newest_first(site) if attempt.get("result") != "refused")
    return list(itertools.takewhile(lambda attempt: attempt.get("result") in ("failed", "interrupted"), decided))


def has_released(site: Site) -> bool:
    """Return whether a release of the site was ever activated."""
    return '"result": "released"' in _attempts_text(site)


def sequences(site: Site) -> list[int]:
    """Return the sequence numbers of the releases of all attempts, also from incomplete lines."""
    return [int(number) for number in re.findall(r'"release": "(\d+)-', _attempts_text(site))]


def _attempts_text(site: Site) -> str:
    try:
        return site.deploys.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return ""


def next_sequence(site: Site) -> int:
    """Return the next sequence number: one more than that of any release and attempt."""
    names = [path.name.split("-")[0] for path in site.releases.iterdir()] if site.releases.is_dir() else []
    return max([*(int(name) for name in names if name.isdecimal()), *sequences(site)], default=0) + 1


def next_name(site: Site, commit: str, least: int = 0) -> str:
    """Return the name of the next release: ``0042-3f2a9c1b77de``; its number is not less than `least`."""
    return f"{max(next_sequence(site), least):04d}-{commit[:12]}"


def restore_under_way(site: Site) -> str:
    """Return what restores the databases of a site now, as its lock names it; empty where nothing does."""
    holder = Lock(site.backups / ".lock", "", busy="", timeout="0s", hint="").holder()
    return holder if holder.startswith(f"{RESTORE},") else ""
