"""From what one look has found to the messages that people get of it; pure: no clock, no files, no network.

A problem is reported when 2 of the last 5 looks had it, so that one bad answer is no message, and a site that fails
every second look is one. It is good again after 3 good looks. At its third time within an hour it is unstable, which is
reported once, and then nothing until it was good for an hour. What one look knows for sure is reported at once. See
docs/decisions/0130.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from django_formula.untrusted.text import in_command
from django_formula.watch.problem import Problem

BAD, OF, GOOD, TIMES, CALM = 2, 5, 3, 3, 3600.0
#: Seconds after which a problem of these kinds is reported again while it lasts.
AGAIN, LASTING = 86400.0, ("down", "backup", "certificate")
#: Sites from which on the same kind of problem is one line.
MANY = 3
#: What one look knows for sure.
SURE = ("backup", "certificate", "disk", "drill", "drift", "memory", "schedule", "unmanaged", "watch")
#: Why a site is down, the cause first: the others follow from it.
_CAUSES = ("damage", "release", "running", "unreached", "health")
#: The most characters of a text.
_LONGEST = 300
_RELEASE = re.compile(r"\b\d{4,}-[0-9a-f]{12}\b")

#: What is known of each problem, by its key, between two looks.
Known = dict[str, dict[str, Any]]
Message = dict[str, Any]


def found(site: str, problems: Iterable[Problem], *, need: int = BAD) -> Known:
    """Return the problems of a site by their keys: why it is down is one problem, with the command of the cause.

    Args:
        site: its name; empty for the host.
        need: looks that a problem needs which is not known for sure.
    """
    down = sorted((one for one in problems if one.kind == "down"), key=_cause)
    rest = [one for one in problems if one.kind != "down"]
    if down:
        text = "; ".join(dict.fromkeys(one.text for one in down))
        rest.insert(0, Problem("down", text, next((one.command for one in down if one.command), down[0].command)))
    return {
        f"{site}/{one.kind}{f'/{one.key}' if one.key else ''}": {
            "site": site,
            "kind": one.kind,
            "text": one.text[:_LONGEST],
            "command": one.command,
            "need": 1 if one.kind in SURE else need,
        }
        for one in rest
    }


def _cause(one: Problem) -> int:
    return _CAUSES.index(one.key) if one.key in _CAUSES else len(_CAUSES)


def decide(known: Known, problems: Known, now: float, is_quiet: Callable[[str, str], bool]) -> list[Message]:
    """Return the messages of a look, and update what is known.

    Args:
        known: what is known from the looks before; it is changed.
        problems: those of this look, by `found`.
        now: seconds since 1970.
        is_quiet: whether messages of a site and a kind are on hold now; what is still open is reported afterwards.
    """
    messages = []
    for key in sorted({*known, *problems}):
        if _follows(key, known, problems):
            continue
        one = known.setdefault(key, {"looks": [], "told": 0, "times": [], "unstable": False, "since": now, "last": now})
        problem = problems.get(key)
        if problem:
            if not any(one["looks"]) and not one["told"]:
                one["since"] = now
            one |= problem | {"last": now}
        one["looks"] = [*one["looks"], bool(problem)][-OF:]
        if not is_quiet(one["site"], one["kind"]):
            what = _told(one, now) if problem else _good(one, now)
            messages += [_message(what, one, now)] if what else []
        if not one["told"] and not any(one["looks"]) and is_over(one["last"], CALM, now):
            del known[key]
    return messages


def _follows(key: str, known: Known, problems: Known) -> bool:
    """Return whether a site is degraded because it is down: that is neither reported then, nor good again."""
    site, kind = key.split("/")[:2]
    down = f"{site}/down"
    return kind == "degraded" and (down in problems or bool(known.get(down, {}).get("told")))


def _told(one: dict[str, Any], now: float) -> str:
    """Return what is reported of a problem that a look has; empty for nothing."""
    if one["told"]:
        is_due = one["kind"] in LASTING and not one["unstable"] and is_over(one["told"], AGAIN, now)
        one["told"] = now if is_due else one["told"]
        return "problem" if is_due else ""
    if sum(one["looks"]) < one["need"]:
        return ""
    one["told"], one["times"] = now, [*(time for time in one["times"] if not is_over(time, CALM, now)), now]
    if one["unstable"]:
        return ""
    one["unstable"] = len(one["times"]) >= TIMES
    return "unstable" if one["unstable"] else "problem"


def _good(one: dict[str, Any], now: float) -> str:
    """Return what is reported of a problem that a look does not have."""
    is_good = len(one["looks"]) >= GOOD and not any(one["looks"][-GOOD:])
    if not is_good or not (one["told"] or one["unstable"]):
        return ""
    if one["unstable"]:
        one["told"] = 0
        if not is_over(one["last"], CALM, now):
            return ""
        one |= {"unstable": False, "times": []}
    one |= {"told": 0, "looks": one["looks"][-GOOD:]}
    return "good"


def _message(what: str, one: Mapping[str, Any], now: float) -> Message:
    message = {key: one[key] for key in ("site", "kind", "text", "command", "since")}
    if what == "good":
        message |= {"text": f"good again after {span(one['last'] - one['since'])}", "command": ""}
    elif what == "unstable":
        text = f"unstable, for the third time within an hour: {one['text']}; no further message until it is good for an"
        message["text"] = f"{text} hour"
    elif now - one["since"] >= AGAIN:
        message["text"] = f"{one['text']}, for {span(now - one['since'])}"
    return {"what": what, **message}


def folded(messages: Sequence[Message]) -> list[Message]:
    """Return the messages of one channel with one line for the same kind of problem of many sites."""
    groups: dict[tuple[str, str, bool], list[Message]] = {}
    for one in messages:
        is_of_host = not (one.get("host") or one["site"])  # of this host itself, which is none of its sites
        groups.setdefault((one["what"], one["kind"], is_of_host), []).append(one)
    folds = []
    for (what, kind, _is_of_host), group in groups.items():
        names = sorted({one.get("host") or one["site"] for one in group})
        noun = "hosts" if kind == "silent" else "sites"
        if len(names) < MANY or what == "event":
            folds += group
            continue
        commands = {one["command"] for one in group}
        texts = {_RELEASE.sub("the active release", one["text"]) for one in group}
        text = f"{len(names)} {noun} are {'good again' if what == 'good' else kind}: {', '.join(names)}"
        if len(texts) == 1 and what != "good":
            text += f": {texts.pop()}"
        command = commands.pop() if len(commands) == 1 else _of_all(kind, group)
        since = min(one["since"] for one in group)
        fold = {"what": what, "site": "", "kind": kind, "text": text, "command": command, "since": since}
        folds.append({**fold, "sites": sorted({site for one in group for site in one.get("sites") or [one["site"]]})})
    return folds


def _of_all(kind: str, group: Sequence[Message]) -> str:
    """Return the command that shows the same problem of many sites: the runner's, where a master reports them."""
    if not any("sites" in one for one in group):
        return "salt-call django.status"
    by_ssh = any(one["command"].startswith("salt-ssh ") or one["command"].endswith(" roster=True") for one in group)
    verb = "django.watch" if kind == "silent" else "django.status"
    return in_command("salt-run", verb, *(["roster=True"] if by_ssh else []))


def is_new(known: Known) -> bool:
    """Return whether a problem waits for a second look, which may be taken at once."""
    return any(
        one["looks"][-1] and not one["told"] and sum(one["looks"]) < one["need"] <= BAD for one in known.values()
    )


def is_over(since: float, period: float, now: float) -> bool:
    """Return whether a period has passed since a moment; one that is yet to come was of a clock that was wrong."""
    return not 0 <= now - since < period


def span(seconds: float) -> str:
    """Return a number of seconds for people."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


# When messages are on hold: windows of the week, by the clock of the host

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY, _WEEK = 1440, 7 * 1440


def in_window(window: str, weekday: int, minute: int) -> bool:
    """Return whether a time is in a window, such as ``Sat 22:00..Sun 06:00``, or ``22:00..06:00`` of each day.

    Args:
        weekday: 0 is Monday.
        minute: of the day.
    """
    begin, end = map(_minute, window.split(".."))
    length, at = (_WEEK, weekday * _DAY + minute) if " " in window else (_DAY, minute)
    return (at - begin) % length < (end - begin) % length


def _minute(text: str) -> int:
    *day, time = text.split()
    hour, _colon, minute = time.partition(":")
    return (_DAYS.index(day[0]) * _DAY if day else 0) + int(hour) * 60 + int(minute)
