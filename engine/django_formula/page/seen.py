"""What the page shows of this host, as data: made of a look of the watch and of the records of deployments."""

import contextlib
import json
import os
import re
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django_formula.host import clock
from django_formula.host.commands import DeploymentError
from django_formula.proxy import proxies
from django_formula.release import releases
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted import shapes
from django_formula.untrusted.text import shown
from django_formula.watch import look, problem, spool

#: Deployments of a site on the page, and the bytes at the end of their file that have them.
DEPLOYMENTS, _TAIL = 20, 1 << 16
#: The most characters of a text.
_LONGEST = 300
#: Seconds before which nothing of a page was.
_YEAR = 366 * 86400.0
_MEMINFO = Path("/proc/meminfo")


def of_look(seen: look.Seen, since: Mapping[str, float], now: float) -> dict[str, Any]:
    """Return what the page shows of this host.

    Args:
        seen: what the watch has found.
        since: when problems began, by their keys (`decide.found`).
        now: seconds since 1970.
    """
    rows = [_site(row) for row in seen.rows]
    problems = [
        {**{key: one[key] for key in ("site", "kind", "text", "command")}, "since": since.get(key, now), "detail": ""}
        for key, one in seen.problems.items()
    ]
    errors = {row["site"]: row["deployments"][-1] for row in rows if row["deployments"]}
    for row in seen.rows:
        failed = (one for one in problem.problems(row) if one.kind == "failed")
        problems += [_failed(row["site"], one, errors.get(row["site"]), now) for one in failed]
    total, available = _memory()
    return {
        "version": 1,
        "host": spool.host(),
        "time": now,
        "load": os.getloadavg()[0],
        "cpus": os.cpu_count() or 1,
        "memory": [total, available],
        "disks": _disks(row["site"] for row in rows),
        "problems": problems,
        "sites": rows,
    }


def _failed(site: str, one: problem.Problem, last: Mapping[str, Any] | None, now: float) -> dict[str, Any]:
    """Return that releases have failed since the active one, with the error of the last attempt."""
    is_its = last is not None and last["result"] in ("failed", "interrupted")
    began = clock.seconds(last["time"]) if last and is_its else now
    detail = last["error"] if last and is_its else ""
    named = {"site": site, "kind": one.kind, "text": one.text[:_LONGEST], "command": one.command}
    return {**named, "since": began or now, "detail": detail}


def _site(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a site; of one whose files cannot be read, what is known of it."""
    about: dict[str, Any] = {"domain": "", "path": "/", "https": False, "schedule": "", "deployments": []}
    release: dict[str, str] = {"subject": "", "author": ""}
    with contextlib.suppress(DeploymentError, OSError):
        site = sites.find(row["site"])
        about = {
            "domain": _domain(site),
            "path": site.config["path"],
            "https": bool(site.public_https),
            "schedule": site.config["backup"]["schedule"] or "",
            "deployments": _deployments(site),
        }
        live = releases.linked(site, site.current)
        release = {key: _text((live.record if live else {}).get(key)) for key in release}
    return {
        "site": row["site"],
        "release": row["release"],
        "running": bool(row["running"]),
        "since": row.get("live_since") or "",
        "maintenance": row.get("maintenance") or "",
        "canary": row.get("canary") or "",
        "ms": row.get("ms"),
        "waiting": problem.waiting(row),
        **(row.get("hour") or dict.fromkeys(("requests", "errors", "p95"))),
        "certificate": row.get("certificate") or "",
        "backup": row.get("backup") or "",
        **about,
        **release,
    }


def _domain(site: Site) -> str:
    """Return the first domain of a site, with its port where that is not the usual one: the page has a link to it."""
    port = urlsplit(proxies.origin(site)).port
    return f"{site.config['domains'][0]}{f':{port}' if port else ''}"


def _deployments(site: Site) -> list[dict[str, Any]]:
    """Return the last deployments, by the complete lines at the end of their file."""
    with open(site.deploys, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        lines = file.read(_TAIL).splitlines()[1 if size > _TAIL else 0 :]
    found = []
    for line in lines[-DEPLOYMENTS:]:
        with contextlib.suppress(ValueError, RecursionError):
            attempt = json.loads(line)
            found += [_deployment(attempt)] if isinstance(attempt, dict) else []
    return found


def _deployment(attempt: Mapping[str, Any]) -> dict[str, Any]:
    report = attempt.get("receipt")
    sent, lost = (_number(report.get(key)) if isinstance(report, dict) else 0 for key in ("sent", "failed"))
    return {
        **{key: _text(attempt.get(key)) for key in ("time", "release", "result", "step", "error")},
        "seconds": _number(attempt.get("seconds")),
        "by": _text(attempt.get("asked_by")).partition(", salt job")[0],
        "sent": int(sent),
        "lost": int(lost),
    }


def _text(value: Any) -> str:
    """Return the first line of a text of a record, whatever is there."""
    return shown(str(value or "").strip().split("\n", 1)[0])[:_LONGEST]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and 0 <= value < 1e12 else 0.0


def _memory() -> tuple[int, int]:
    """Return the bytes of memory, and those that are available."""
    with contextlib.suppress(OSError):
        found = dict(re.findall(r"(?m)^(\w+): +(\d+) kB$", _MEMINFO.read_text()))
        return int(found.get("MemTotal", 0)) * 1024, int(found.get("MemAvailable", 0)) * 1024
    return 0, 0


def _disks(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the disks of the host, of its sites and of their backups, each once."""
    seen, found = set(), []
    for folder in look.roots(names):
        with contextlib.suppress(OSError):
            device, disk = os.stat(folder).st_dev, os.statvfs(folder)
            if device not in seen and disk.f_blocks:
                seen.add(device)
                sizes = {"size": disk.f_blocks * disk.f_frsize, "free": disk.f_bavail * disk.f_frsize}
                found.append({"path": str(folder), **sizes})
    return found


# What another host says of itself: it is of the shape of a page, has bounds, and times that are past

_TEXTS = ("site", "release", "since", "maintenance", "certificate", "backup", "domain", "path", "schedule", "subject")
_DEPLOYMENT = {
    **dict.fromkeys(("time", "release", "result", "step", "error", "by"), str),
    **dict.fromkeys(("seconds", "sent", "lost"), float),
}
_PROBLEM = {**dict.fromkeys(("site", "kind", "text", "command", "detail"), str), "since": float}
_SHAPE = {
    "time": float,
    "load": float,
    "cpus": int,
    "memory": [float],
    "disks": [{"path": str, "size": float, "free": float}],
    "problems": [_PROBLEM],
    "sites": [
        {
            **dict.fromkeys((*_TEXTS, "author", "canary?"), str),
            **dict.fromkeys(("running", "https"), bool),
            **dict.fromkeys(("ms", "p95"), (float, types.NoneType)),
            **dict.fromkeys(("waiting", "requests", "errors"), (int, types.NoneType)),
            "deployments": [_DEPLOYMENT],
        }
    ],
}
#: The most sites, problems and disks of a host.
_MOST = {"sites": 300, "problems": 300, "disks": 20}


def checked(value: Any, name: str, now: float) -> dict[str, Any] | None:
    """Return what a host has said of itself as the page takes it, under the name that the master knows it by.

    Args:
        value: its answer, or what was kept of one.
        name: of its minion.
        now: seconds since 1970, by the clock of this host.
    """
    if not shapes.fits(value, _SHAPE) or len(value["memory"]) != 2:
        return None
    cut = {key: value[key][:most] for key, most in _MOST.items()}
    cut["sites"] = [{**site, "deployments": site["deployments"][-DEPLOYMENTS:]} for site in cut["sites"]]
    problems = [{key: one[key] for key in _PROBLEM} for one in cut["problems"]]  # other keys make another message of it
    cut["problems"] = [{**one, "since": min(max(one["since"], 0), now)} for one in problems]
    host: dict[str, Any] = _cut({**{key: value[key] for key in _SHAPE}, **cut})
    return {**host, "host": name, "time": min(max(value["time"], now - _YEAR), now)}


def known_now(known: Mapping[str, Any], answers: Mapping[str, Any], now: float) -> dict[str, dict[str, Any]]:
    """Return what is known of hosts after they were asked, of those that have sites.

    Args:
        known: what was known before, by their names.
        answers: what all hosts of the master show of themselves, or as a text why one shows nothing; others are
            forgotten.
        now: seconds since 1970.
    """
    found = {}
    for name, answer in answers.items():
        host, before = checked(answer, name, now), checked(known.get(name), name, now)
        if host:
            found[name] = {**host, "time": now}
        elif before and before["sites"]:
            why = _text(answer) if isinstance(answer, str) else ""
            found[name] = {**before, "silent": why or "its answer is not one of this formula"}
    return {name: host for name, host in found.items() if host["sites"]}


def _cut(value: Any) -> Any:
    """Return a value whose texts have one line of at most `_LONGEST` characters, and whose numbers are not negative."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        return {key: _cut(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_cut(one) for one in value]
    return max(value, 0) if isinstance(value, int | float) and not isinstance(value, bool) else value
