"""What a master reports of a deployment on several hosts: begin and end on its bus, and a line in the store.

Neither decides, delays or fails it. The watch of the master makes a message of the line (`fleet.watch`).
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from django_formula.fleet.deployment import Failed, Fleet
from django_formula.host import clock, file, units
from django_formula.host.commands import DeploymentError
from django_formula.untrusted import shapes
from django_formula.untrusted.text import shown
from django_formula.watch import setup

#: The file of the store with a line for each deployment on several hosts.
NAME = "deploys.jsonl"
#: The most bytes of it that are read.
_MOST = 4_000_000
#: The most characters of an error.
_LONGEST = 1000
#: What a line of it has.
_LINE = {
    **dict.fromkeys(("time", "site", "verb", "user", "revision", "commit", "result", "error"), str),
    **{"hosts": {str: str}, "seconds": float, "sent?": int, "failed?": int},
}
_WATCH = setup.FLEET.replace(".timer", ".service")
_RESULTS = {"rollback": "rolled back"}


def told(fleet: Fleet, verb: str, user: str, revision: str | None, act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Deploy, and tell of its begin and end; return what `act` does.

    Args:
        verb: of the runner.
        user: who asks.
        revision: what was asked for; None is that of the pillar, or the former release.
        act: what deploys.
    """
    began = time.monotonic()
    fleet.about.update(user=user, revision=revision or "", commit="")
    fleet.report("begin", {})
    try:
        answer = act()
    except BaseException as error:
        result = "interrupted" if not isinstance(error, Exception) else "failed" if fleet.is_begun else "refused"
        step = error.phase if isinstance(error, Failed) else ""
        _end(fleet, verb, {"result": result, "step": step, "error": _reason(error), "hosts": {}}, began)
        raise
    found = {"result": _RESULTS.get(verb, "released"), "hosts": answer.get("hosts", {}), **answer.get("requests", {})}
    _end(fleet, verb, found, began)
    return answer


def interrupted(fleet: Fleet, ended: Mapping[str, Mapping[str, Any]]) -> None:
    """Report a deployment whose runner was killed, by what `Fleet.abandon` has ended of it; nothing where it has none.

    Args:
        ended: the answer of each host.
    """
    if any("back" in answer or "abandoned" in answer for answer in ended.values()):
        fleet.about.update(user="", revision="", commit="")
        _end(fleet, "deploy", {"result": "interrupted", "hosts": {}}, time.monotonic())


def _end(fleet: Fleet, verb: str, found: dict[str, Any], began: float) -> None:
    release = next(iter(found["hosts"].values()), "")
    told = {"step": "", "error": "", "release": release, **found, "seconds": round(time.monotonic() - began, 1)}
    with contextlib.suppress(Exception):  # whatever it is: the deployment has ended as it has
        fleet.report("end", told)
        line = {"time": clock.now(), "site": fleet.site, "verb": verb, **fleet.about, **told, "asked_by": fleet.by}
        file.append(path(fleet.store.folder.parent), json.dumps(line, sort_keys=True), mode=0o600)
        if not os.geteuid() and (setup.UNITS / setup.FLEET).exists():  # else its timer comes within two minutes
            units.attempt("start", "--no-block", _WATCH, doing="starting the watch of the master", timeout=5)


def history(store: str | Path, site: str | None, count: object) -> list[dict[str, Any]]:
    """Return the newest deployments on several hosts, the last one first.

    Args:
        site: whose; all without it.
        count: how many at most, as Salt's command line gives it.

    Raises:
        DeploymentError: the number is none.
    """
    if not str(count).isdecimal():
        raise DeploymentError(f"count is a number, not {count!r}")
    with contextlib.suppress(FileNotFoundError), path(store).open("rb") as file:
        file.seek(-min(_MOST, file.seek(0, os.SEEK_END)), os.SEEK_END)
        texts = file.read().splitlines()
        found = []
        for text in reversed(texts):
            with contextlib.suppress(ValueError, RecursionError):  # one that was cut
                line = json.loads(text)
                if shapes.fits(line, _LINE) and (not site or site == line["site"]):
                    found.append(line)
        return found[: int(str(count))]
    return []


def row(site: str, result: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return a deployment of one of several sites, by what its deployment answers, with every key."""
    counts = answer.get("requests", {})
    return {
        "site": site,
        "result": result,
        "commit": answer.get("commit", ""),
        "hosts": answer.get("hosts", {}),
        "seconds": answer.get("seconds"),
        "sent": counts.get("sent", 0),
        "failed": counts.get("failed", 0),
        "warnings": answer.get("warnings", {}),
        "error": answer.get("error", ""),
    }


def lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return deployments of `history` as lines for people."""
    return [_line(found) for found in rows]


def _line(found: Mapping[str, Any]) -> str:
    asked = f" of {found['revision']}" if found["revision"] else ""
    commit = f" {found['commit'][:12]}" if found["commit"] else ""
    where = f" on {', '.join(sorted(found['hosts']))}" if found["hosts"] else ""
    lost = f", {found['failed']} of {found['sent']} requests failed" if "sent" in found else ""
    by = f" by {found['user']}" if found["user"] else ""
    why = f": {found['error']}" if found["error"] else ""
    verb = f"{found['verb']}{asked}{by}"
    return (
        f"{found['time']} {found['site']}: {verb}: {found['result']}{commit}{where} ({found['seconds']} s{lost}){why}"
    )


def path(store: str | Path) -> Path:
    """Return the file with the deployments of a store."""
    return Path(store, NAME)


def _reason(error: BaseException) -> str:
    """Return why a deployment has failed in one line: hosts redact what they report."""
    if isinstance(error, DeploymentError):
        return shown("; ".join(error.message.splitlines()))[:_LONGEST]
    return type(error).__name__
