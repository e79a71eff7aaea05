"""What is wrong with a site, each with the command that cures it, as its row of `django.status` has it."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from django_formula.untrusted.text import InCommand, in_command

APPLY = in_command("salt-call", "state.apply", "django")
#: A failed release in the row's key `failed`, the newest last.
_RELEASE = re.compile(r"\b(\d{4,}-[0-9a-f]{12}):")
#: How the row's keys `workers` and `stores` begin and end where there is a problem.
_STOPPED = re.compile(r"^(\S+) (?:does not run|fails \(\d+ times\))$")
_SILENT = re.compile(r"^(\S+) does not answer$")
_QUEUE = re.compile(r"\bqueue \d[^;,]*(?:, (\d+) tasks wait)?")
#: A request of a commit in the row's key `release_requests`.
_REQUEST = re.compile(r"^([0-9a-f]{12}) by .* (?:failed|is not worked off)\b")
#: What fails of the copies elsewhere, in the row's key `offsite`.
_BAD_COPY = re.compile(r"^(copy|check|drill) (?:fails since|is missing)\b")
#: What is wrong with points in time, in the row's key `points`.
_BAD_POINTS = re.compile(r"^(archive|check|backup|drill|gap) (?:fails\b|from\b)")
_BAD_RUN = re.compile(r"^(\S+) (?:failed|interrupted)\b")
#: A socket of systemd in the row's key `entrance`.
_CLOSED = re.compile(r"^(\S+\.socket) does not listen$")


class Problem(NamedTuple):
    """A problem of a site or of its host.

    Attributes:
        kind: down, degraded, worker, queue, failed, schedule, backup, drill, certificate, disk, memory, drift,
            unmanaged, rebooted or watch.
        text: what is wrong, as one sentence without the name of the site.
        command: what cures it, or shows why where the project has to be corrected; empty where there is none. It is
            made by `untrusted.text.in_command`; of a site that is down it is the doctor's, or what to do.
        key: what it is about, within the site: the key of its row.
    """

    kind: str
    text: str
    command: str
    key: str = ""


def problems(row: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with a site, the worst first.

    Args:
        row: of the site, by `verbs.status.row`; ``managed`` is False where the pillar does not have it.
    """
    found = [*_of_release(row), *_of_parts(row), *_of_data(row)]
    if row.get("managed") is False:
        command = in_command("salt-call", "pillar.keys", "django:sites")
        found.append(Problem("unmanaged", "this minion's pillar does not have it", command, "managed"))
    return found


def waiting(row: Mapping[str, Any]) -> int | None:
    """Return how many tasks wait in the queue of a site, as its row has it; None without a queue that answers."""
    found = _QUEUE.search(row.get("stores") or "")
    return int(found[1] or 0) if found else None


def _of_release(row: Mapping[str, Any]) -> list[Problem]:
    site, release, failed = row["site"], row["release"], row.get("failed") or ""
    names = _RELEASE.findall(failed)
    why = _verb("record", site, names[-1]) if names else _verb("releases", site)
    found = []
    if row["damage"]:
        is_known = row["running"] is not None  # else the files that describe the site cannot be read
        found.append(Problem("down", row["damage"], APPLY if is_known else _verb("status", site), "damage"))
    elif not release:
        found.append(Problem("down", "no release is active", why if failed else APPLY, "release"))
    elif not row["running"]:
        found.append(Problem("down", f"{release} is not running", APPLY, "running"))
    if row.get("unreached"):
        found.append(Problem("down", f"visitors do not reach it: {row['unreached']}", APPLY, "unreached"))
    if row.get("interpreter"):
        text = f"{row['interpreter']}: state.apply makes a new release"
        found.append(Problem("degraded", text, APPLY, "interpreter"))
    if failed:
        found.append(Problem("failed", f"failed since the active release: {failed}", why, "failed"))
    elif requested := _matching(_REQUEST, row.get("release_requests"), "; "):
        text = f"requested: {'; '.join(requested.values())}"
        found.append(Problem("failed", text, _verb("requests", site), "release_requests"))
    if (row.get("canary") or "").endswith("its program does not run"):
        found.append(Problem("degraded", f"canary: {row['canary']}", _verb("canary", site), "canary"))
    if closed := _matching(_CLOSED, row.get("entrance"), "; "):
        text = f"pushes and webhooks are refused: {'; '.join(closed.values())}"
        found.append(Problem("degraded", text, in_command("systemctl", "restart", *closed), "entrance"))
    return found


def _of_parts(row: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with workers, schedules and stores."""
    site, found = row["site"], []
    if stopped := _matching(_STOPPED, row.get("workers"), ", "):
        name, text = next(iter(stopped.items()))
        is_failing = text.endswith(" times)")
        command = _verb("logs" if is_failing else "restart", site, f"worker={name}")
        found.append(Problem("worker", f"worker {', '.join(stopped.values())}", command, "workers"))
    if bad := _matching(_BAD_RUN, row.get("schedules"), "; "):
        text = f"schedules: {'; '.join(bad.values())}"
        found.append(Problem("schedule", text, _verb("schedules", site), "schedules"))
    if row.get("cron"):
        found.append(Problem("schedule", f"cron {row['cron']}", APPLY, "cron"))
    if silent := _matching(_SILENT, row.get("stores"), "; "):
        kind = "queue" if "queue" in silent else "degraded"
        found.append(Problem(kind, f"stores: {'; '.join(silent.values())}", APPLY, "stores"))
    return found


def _of_data(row: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with databases, certificates and backups."""
    site, schema, certificate = row["site"], row.get("schema") or "", row.get("certificate") or ""
    found = []
    if schema and not schema.startswith("fits"):
        command = _verb("migrate" if "missing" in schema else "releases", site)
        found.append(Problem("degraded", schema, command, "schema"))
    if "WARNING" in certificate or "missing" in certificate:
        is_ours = "missing" not in certificate and not certificate.startswith("files,")
        command = _verb("renew", site, "force=True") if is_ours else APPLY
        found.append(Problem("certificate", f"certificate: {certificate}", command, "certificate"))
    if " s: failed" in (row.get("restore_drill") or ""):
        text = f"restore drill: {row['restore_drill']}"
        found.append(Problem("drill", text, _verb("restore_drill", site), "restore_drill"))
    copies = _matching(_BAD_COPY, row.get("offsite"), "; ")
    if drill := copies.pop("drill", ""):
        found.append(Problem("drill", f"elsewhere: {drill}", _verb("restore_drill", site, "offsite=True"), "offsite"))
    if copies:
        found.append(Problem("backup", f"elsewhere: {'; '.join(copies.values())}", _verb("offsite", site), "offsite"))
    bad = _matching(_BAD_POINTS, row.get("points"), "; ")
    if drill := bad.pop("drill", ""):
        found.append(
            Problem("drill", f"points in time: {drill}", _verb("restore_drill", site, "points=True"), "points")
        )
    if bad:
        text = f"points in time: {'; '.join(bad.values())}"
        found.append(Problem("backup", text, _verb("points", site), "points"))
    return found


def _verb(name: str, *words: str) -> InCommand:
    return in_command("salt-call", f"django.{name}", *words)


def _matching(pattern: re.Pattern[str], texts: str | None, separator: str) -> dict[str, str]:
    """Return the parts of a value of a row that a pattern fits, by the name that they begin with."""
    found = (pattern.match(text) for text in (texts or "").split(separator))
    return {match[1]: match.string for match in found if match}
