"""The verb `django.history`: the audit log and the recorded deployments of this host, and whether the log is whole."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from django_formula.audit import audit, caller, chain
from django_formula.host import clock, commands
from django_formula.host.commands import DeploymentError, seconds
from django_formula.release import releases
from django_formula.site import sites
from django_formula.untrusted import shapes

#: What a line of the log has; one of another shape is left out, and `verify` names it.
_LINE = {
    **dict.fromkeys(("id", "time", "who", "from", "how", "verb", "site", "result", "release"), str),
    **{"arguments": dict, "seconds?": float},
}
#: Lines of the journal that are looked for in the log.
_COMPARED = 1000
#: Seconds by which the record of a deployment may be later than the end of what has made it.
_SLACK = 2


class _Span(NamedTuple):
    """An act with the seconds since 1970 between which a deployment may be a part of it."""

    begin: float
    end: float
    act: dict[str, Any]


def rows(site: str | None, since: str, who: str) -> list[dict[str, Any]]:
    """Return what was done, the newest first.

    Args:
        site: the name of a site; what is about any of this host, and about none, without it.
        since: how long ago at most, such as ``30d``.
        who: the user; any without it.

    Raises:
        DeploymentError: there is no such site, or `since` is no duration.
    """
    begin = time.time() - seconds(since)
    acts = [act for act in _acts() if not site or act["site"] == site]
    if site and not acts:  # those of a site that was removed are shown
        sites.find(site)
    names = [name for name in sites.registered() if not site or site == name]
    found = [*acts, *_alone(acts, names, begin)]
    chosen = [row for row in found if clock.seconds(row["time"]) >= begin and who in ("", row["who"])]
    return sorted(chosen, key=lambda row: str(row["time"]))[::-1]  # of one second, the later line is the newer


def _acts() -> list[dict[str, Any]]:
    """Return the acts of the log, each with its two lines in one row."""
    found: list[dict[str, Any]] = []
    begun: dict[str, dict[str, Any]] = {}
    for _place, line in chain.lines():
        values = chain.parsed(line)
        if not shapes.fits(values, _LINE):
            continue
        if values["result"] == "begun":
            row = {**values, "seconds": "", "ended": "", "to": "", "result": "did not end, or has not yet"}
            begun[values["id"]] = row
            found.append(row)
            continue
        row = begun.pop(values["id"], {})
        if not row:
            row = {**values, "release": ""}
            found.append(row)
        row |= {key: values.get(key, "") for key in ("result", "seconds")}
        row |= {"ended": values["time"], "to": values["release"]}
    return found


def _alone(acts: Sequence[dict[str, Any]], names: Sequence[str], begin: float) -> Iterator[dict[str, Any]]:
    """Yield a row for each recorded deployment that no act has made; the others complete the row of their act.

    Args:
        begin: seconds since 1970; what has ended before is left out.
    """
    for name in names:
        own = [span for act in acts if act["site"] == name and (span := _span(act)).end >= begin]
        attempts: list[dict[str, Any]] = []
        with contextlib.suppress(DeploymentError):  # its site.json is damaged, as `django.status` tells
            attempts = releases.attempts(sites.find(name))
        for attempt in attempts:
            when = clock.seconds(str(attempt.get("time")))
            if when < begin:
                continue
            result, step = str(attempt.get("result")), attempt.get("step")
            text = f"{result} in {step}" if step else result
            verb, by = caller.of_request(str(attempt.get("asked_by", "")))
            during = [span.act for span in own if span.begin <= when <= span.end]
            act = _made_by(during, verb, f"{name}/{attempt.get('release')}")
            if act:
                act["result"] = text if step else act["result"]
                act["to"] = attempt.get("release") or act["to"]
                continue
            about = {"who": by.who, "from": "", "how": by.how, "verb": verb, "arguments": {}, "release": ""}
            ended = {"result": text, "to": attempt.get("release") or "", "seconds": attempt.get("seconds", "")}
            yield {"id": "", "time": attempt.get("time", ""), "site": name, **about, **ended}


def _made_by(acts: Sequence[dict[str, Any]], verb: str, key: str) -> dict[str, Any] | None:
    """Return the act that has made a deployment, of those that were under way at its end; None without one.

    Args:
        verb: what was called, as the record of the deployment has it.
        key: the ``id`` of the lines that a deployment writes itself.
    """
    own = [act for act in acts if act["id"] == key]
    same = [act for act in acts if act["verb"] == verb.removeprefix("django.")]
    return next(iter([*own, *same, *acts]), None)


def _span(act: dict[str, Any]) -> _Span:
    """Return when an act was under way; an empty span where it has not ended."""
    begin, end = clock.seconds(act["time"]), clock.seconds(act["ended"])
    if not end:
        return _Span(0.0, -1.0, act)
    return _Span(begin - (float(act["seconds"] or 0) if begin == end else 0), end + _SLACK, act)


def view(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what people see of it: a line for each act, in UTC."""
    cells = [(_when(row), row["site"], _what(row), _whose(row), _how(row)) for row in found]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    pairs = (zip(row, widths, strict=True) for row in cells)
    return ["  ".join(cell.ljust(width) for cell, width in pair).rstrip() for pair in pairs] or ["nothing is recorded"]


def _when(row: Mapping[str, Any]) -> str:
    return str(row["time"])[5:16].replace("T", " ")


def _what(row: Mapping[str, Any]) -> str:
    given = [str(value) if isinstance(value, str) else f"{name}={value}" for name, value in row["arguments"].items()]
    before, after = (str(row[key]).partition("-")[0] for key in ("release", "to"))
    change = f"{before} → {after}".strip(" →") if before != after else ""
    return " ".join(filter(None, [row["verb"], *given, change]))


def _whose(row: Mapping[str, Any]) -> str:
    return f"{row['who']} ({', '.join(filter(None, [row['how'], row['from']]))})"


def _how(row: Mapping[str, Any]) -> str:
    return f"{row['result']}, {row['seconds']} s" if row["seconds"] != "" else str(row["result"])


def verify() -> dict[str, Any]:
    """Return whether each line of the log follows the one before it, and the journal's newest lines are among them.

    Raises:
        DeploymentError: they do not, or are not; the message names the first.
    """
    place, count = chain.broken()
    if place:
        raise DeploymentError(
            f"{place} does not follow the line before it: one of the two was changed, or lines between are missing",
            hint="compare with journalctl SYSLOG_IDENTIFIER=django-audit, or a copy of the log",
        )
    compared = _of_journal()  # before the log, which has each line first
    known = {line.decode(errors="replace") for _place, line in chain.lines()}
    for line in compared:
        if line.startswith("{") and line not in known:
            raise DeploymentError(f"the audit log lacks a line that the journal has: {line}")
    return {"lines": count, "in the journal": len(compared), "files": [str(path) for path in chain.years()]}


def _of_journal() -> list[str]:
    """Return the newest lines that root has sent to the journal, none without one."""
    argv = ["journalctl", "--quiet", "--output=json", "--output-fields=DJANGO_AUDIT", f"--lines={_COMPARED}"]
    if not audit.JOURNAL.exists():
        return []
    printed = commands.run([*argv, "_UID=0", f"SYSLOG_IDENTIFIER={audit.IDENTIFIER}"], doing="reading the journal")
    found = (json.loads(line).get("DJANGO_AUDIT") for line in printed.splitlines())
    return [line for line in found if isinstance(line, str)]
