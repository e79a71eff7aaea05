"""The metrics of a host: made of a look of the watch, the records of deployments, access logs and units."""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.host import clock
from django_formula.host.commands import DeploymentError
from django_formula.metrics import access_log
from django_formula.metrics.exposition import Family, Labels, counter, gauge, text
from django_formula.site import sites
from django_formula.tls import certificates
from django_formula.untrusted.foreign import Foreign
from django_formula.watch import look, machine, problem

#: The name of the file in the folder of node-exporter's textfile collector.
FILE = "django.prom"
_UNIT = re.compile(r"(\d{4,})(?:-(.+))?\.service")
#: The most bytes of a file of deployments that one look reads.
_MOST = 8 << 20
#: What the kernel counts of a unit: name, kind, what it says, the file of the cgroup, its line, and the unit of that.
_CGROUP = (
    ("django_unit_cpu_seconds_total", "counter", "CPU time of a unit.", "cpu.stat", r"(?m)^usage_usec (\d+)", 1e-6),
    ("django_unit_cpu_throttled_seconds_total", "counter", "Time that CPUQuota held a unit.", "cpu.stat",
     r"(?m)^throttled_usec (\d+)", 1e-6),
    ("django_unit_memory_bytes", "gauge", "Memory of a unit.", "memory.current", r"^(\d+)", 1),
    ("django_unit_oom_kills_total", "counter", "Processes that the kernel killed for memory.", "memory.events",
     r"(?m)^oom_kill (\d+)", 1),
)  # fmt: skip


def write(folder: str, seen: look.Seen, state: dict[str, Any], now: float) -> None:
    """Write the metrics of a look for node-exporter, which may own the folder.

    Args:
        folder: of the textfile collector.
        seen: what the look has found.
        state: of the watch; the counters are kept there.
        now: seconds since 1970.

    Raises:
        DeploymentError: a part of the path is a link or missing.
    """
    path = Foreign(Path("/"), *Path(folder).parts[1:], FILE)
    path.write(text(of_look(seen, state, now)), mode=0o644, owner=(0, 0))


def of_look(seen: look.Seen, state: dict[str, Any], now: float) -> list[Family]:
    """Return the metrics of a look. Labels are bounded: no path, no user, a commit only in `django_release_info`."""
    rows = {row["site"]: row for row in seen.rows}
    kept = state.setdefault("deployments", {})
    for name in rows:
        _count_deployments(name, kept.setdefault(name, {"offset": 0, "results": {}}))
    state["deployments"] = kept = {name: kept[name] for name in rows}
    requests = {name: state["sites_seen"][name].get("requests") for name in rows if name in state.get("sites_seen", {})}
    return [
        *_of_sites(rows),
        *_of_releases(rows),
        *_of_deployments(kept),
        *_of_requests({name: one for name, one in requests.items() if one}),
        *_of_data(rows),
        *_of_units(list(rows), seen.units),
        gauge("django_problems", "Problems of a site, of the host without one, by their kind.", _problems(seen)),
        gauge("django_watch_timestamp_seconds", "When the watch has looked.", [({}, round(now))]),
        gauge("django_watch_look_seconds", "How long its last look took.", [({}, state.get("took"))]),
    ]


def _of_sites(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[Family]:
    def each(value: Any) -> Iterator[tuple[Labels, float | None]]:
        return (({"site": name}, value(row)) for name, row in rows.items())

    yield gauge("django_site_up", "Whether the active release runs.", each(lambda row: bool(row["running"])))
    yield gauge(
        "django_site_maintenance", "Whether the site is in maintenance.", each(lambda row: bool(row.get("maintenance")))
    )
    yield gauge(
        "django_site_schema_fits", "Whether the databases fit the active release.",
        each(lambda row: row["schema"].startswith("fits") if row.get("schema") else None),
    )  # fmt: skip
    yield gauge(
        "django_site_answer_seconds", "How long the health page took through the proxy.",
        each(lambda row: row["ms"] / 1000 if row.get("ms") is not None else None),
    )  # fmt: skip
    running = [
        ({"site": name, "worker": worker}, text != "does not run")
        for name, row in rows.items()
        for worker, _blank, text in (one.partition(" ") for one in (row.get("workers") or "").split(", ") if one)
    ]
    yield gauge("django_worker_running", "Whether a worker of the active release runs.", running)
    yield gauge("django_queue_waiting", "Tasks that wait in the queue of a site.", each(problem.waiting))


def _of_releases(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[Family]:
    live = {name: row for name, row in rows.items() if row["release"]}
    yield gauge(
        "django_release_info", "The active release.",
        (({"site": name, "release": row["release"], "commit": row["release"].partition("-")[2]}, 1)
         for name, row in live.items()),
    )  # fmt: skip
    yield gauge(
        "django_release_active_since_timestamp_seconds", "When the active release was activated.",
        (({"site": name}, clock.seconds(row.get("live_since") or "") or None) for name, row in live.items()),
    )  # fmt: skip
    yield gauge(
        "django_releases_held", "Releases that are on hold after a rollback.",
        (({"site": name}, len([one for one in (row.get("held_back") or "").split(", ") if one]))
         for name, row in live.items()),
    )  # fmt: skip


# Deployments


def _count_deployments(name: str, kept: dict[str, Any]) -> None:
    """Count the deployments of a site that have ended since the last look; the first one counts all."""
    try:
        with open(sites.find(name).deploys, "rb") as file:
            if os.fstat(file.fileno()).st_size < kept["offset"]:
                kept["offset"] = 0
            file.seek(kept["offset"])
            data = file.read(_MOST)
    except (DeploymentError, OSError):
        return
    end = data.rfind(b"\n") + 1
    kept["offset"] += end
    for line in data[:end].splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            attempt = json.loads(line)
            if isinstance(attempt, dict):
                _count_deployment(attempt, kept)


def _count_deployment(attempt: Mapping[str, Any], kept: dict[str, Any]) -> None:
    result = str(attempt.get("result"))
    if result not in look.RESULTS:
        return
    label = result.replace(" ", "_")
    kept["results"][label] = kept["results"].get(label, 0) + 1
    report = attempt.get("receipt") if isinstance(attempt.get("receipt"), dict) else {}
    numbers = {
        "seconds": attempt.get("seconds") if result == "released" else 0,
        "sent": (report or {}).get("sent"),
        "failed": (report or {}).get("failed"),
    }
    for key, value in numbers.items():
        kept[key] = kept.get(key, 0) + (value if isinstance(value, int | float) and 0 <= value < 1e9 else 0)


def _of_deployments(kept: Mapping[str, Mapping[str, Any]]) -> Iterator[Family]:
    yield counter(
        "django_deployments_total", "Deployments by their result.",
        (({"site": name, "result": result}, count)
         for name, one in kept.items() for result, count in sorted(one["results"].items())),
    )  # fmt: skip
    for metric, key, says in (
        ("django_deployment_seconds_total", "seconds", "Time that deployments with the result released took."),
        ("django_switch_requests_total", "sent", "Requests that the formula sent while it switched releases."),
        ("django_switch_requests_failed_total", "failed", "Of those, requests that failed."),
    ):
        yield counter(metric, says, (({"site": name}, one.get(key)) for name, one in kept.items()))


# Requests


def _of_requests(requests: Mapping[str, Mapping[str, Any]]) -> Iterator[Family]:
    yield counter(
        "django_http_requests_total", "Requests by the class of their status, from the access log.",
        (({"site": name, "code": code}, count)
         for name, one in requests.items() for code, count in sorted(one["codes"].items())),
    )  # fmt: skip
    yield counter(
        "django_http_response_bytes_total", "Bytes of the bodies of responses.",
        (({"site": name}, one["bytes"]) for name, one in requests.items()),
    )  # fmt: skip
    samples: list[tuple[str, Labels, float]] = []
    for name, one in requests.items():
        total = 0
        for bound, count in zip((*map(str, access_log.BUCKETS), "+Inf"), one["buckets"], strict=True):
            total += count
            samples.append(("_bucket", {"site": name, "le": bound}, total))
        samples += [("_sum", {"site": name}, one["seconds"]), ("_count", {"site": name}, total)]
    yield Family("django_http_request_duration_seconds", "histogram", "Duration of requests at the proxy.", samples)


# Data, and units


def _of_data(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[Family]:
    yield gauge(
        "django_backup_newest_timestamp_seconds", "When the newest backup was made.",
        (({"site": name}, clock.seconds(row.get("backup") or "") or None) for name, row in rows.items()),
    )  # fmt: skip
    yield gauge(
        "django_offsite_copy_newest_timestamp_seconds", "When the backup was made of the newest copy elsewhere.",
        (({"site": name}, clock.seconds((row.get("offsite") or "")[:20]) or None) for name, row in rows.items()),
    )  # fmt: skip
    yield gauge(
        "django_points_behind_seconds", "For how long the oldest segment of PostgreSQL's log waits for the archive.",
        (({"site": name}, row.get("points_behind")) for name, row in rows.items() if row.get("points")),
    )  # fmt: skip
    yield gauge("django_certificate_expiry_timestamp_seconds", "When the certificate of a domain ends.", _ends(rows))


def _ends(rows: Mapping[str, Any]) -> Iterator[tuple[Labels, float | None]]:
    for name in rows:
        with contextlib.suppress(DeploymentError, OSError):
            for domain in certificates.domains(sites.find(name)):
                found = certificates.read(domain)
                yield {"site": name, "domain": domain}, found.ends if found else None


def _problems(seen: look.Seen) -> list[tuple[Labels, float]]:
    counts: dict[tuple[str, str], int] = {}
    for one in seen.problems.values():
        counts[one["site"], one["kind"]] = counts.get((one["site"], one["kind"]), 0) + 1
    return [({"site": site, "kind": kind}, count) for (site, kind), count in sorted(counts.items())]


def _of_units(names: list[str], units: machine.Units) -> Iterator[Family]:
    own = []
    for unit, values in sorted(units.items()):
        site = machine.site_of(unit, names)
        found = _UNIT.fullmatch(unit.removeprefix(f"django-{site}-")) if site else None
        if site and found and values["ActiveState"] != "inactive":
            own.append(({"site": site, "unit": found[2] or "server", "release": found[1]}, values))
    restarts = ((labels, int(values["NRestarts"] or 0)) for labels, values in own)
    yield counter("django_unit_restarts_total", "Restarts of a unit by systemd since it was started.", restarts)
    for name, kind, says, file, pattern, scale in _CGROUP:
        measured = [(labels, _measured(values, file, pattern, scale)) for labels, values in own]
        yield gauge(name, says, measured)._replace(kind=kind)


def _measured(unit: Mapping[str, str], file: str, pattern: str, scale: float) -> float | None:
    """Return what the kernel has measured of a unit; None where it does not, as in containers of some engines."""
    group = unit.get("ControlGroup", "").lstrip("/")
    with contextlib.suppress(OSError):
        found = re.search(pattern, (machine.CGROUPS / group / file).read_text()) if group else None
        return int(found[1]) * scale if found else None
    return None
