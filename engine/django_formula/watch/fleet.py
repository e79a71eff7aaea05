"""The watch of a master: hosts that are silent, balancers, and deployments on several hosts.

A host tells for itself; the master adds what none can. What is asked is `salt-run django.watch`, whose process may be
of another user than root: its answer is that of others.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.untrusted import shapes
from django_formula.untrusted.text import in_command, shown
from django_formula.watch import decide, look
from django_formula.watch.decide import Known, Message
from django_formula.watch.problem import Problem

#: Whether messages of a site and a kind are on hold.
IsQuiet = Callable[[str, str], bool]
#: Where Salt's program is: cron has another path than a shell.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/opt/saltstack/salt"
#: Seconds that the master may take, and hosts for what a page shows; the most characters of its answer, and the most
#: hosts of a text.
_PATIENCE, _SHOWN, _LONGEST, _MOST = 60, 40, 1 << 25, 12
#: Seconds after which the unit of a look is ended: those of the master, and of what is written.
LIMIT = _PATIENCE + _SHOWN + 20
_DEPLOYMENT = {
    **dict.fromkeys(("site", "verb", "result", "revision", "commit", "step", "error", "asked_by"), str),
    **{"hosts": {str: str}, "seconds": (int, float), "sent?": int, "failed?": int},
}
_SHAPE = {
    "hosts": {str: [str]},
    "silent": {str: str},
    "known": {str: str},
    "balanced": {str: {str: {"text": str, "hosts": [str]}}},
    "deployed": [str],
    "deployments": [dict],
    "offset": int,
    "seen?": {str: (dict, str)},
}


class Taken(NamedTuple):
    """A look: its messages, and what hosts show of themselves on a page; None where they were not asked."""

    messages: list[Message]
    seen: dict[str, Any] | None


def take(state: dict[str, Any], config: Mapping[str, Any], now: float) -> Taken:
    """Ask the master, and return what is new.

    Args:
        state: what the last look has kept; what the next one needs is put there.
        config: of the watch.
        now: seconds since 1970.
    """
    answer: dict[str, Any] = {}
    problems = []
    try:
        answer = _asked(state.get("offset"), config)
    except DeploymentError as error:
        text = f"the hosts are not watched: {' '.join(error.message.split())}"
        problems = [Problem("watch", text, " ".join(["salt-run", *_words(config)]), "fleet")]
    found = {key: {**one, "need": decide.BAD} for key, one in decide.found("", problems).items()}
    nothing = look.Seen({}, [], [], {})
    is_quiet = look.quiet_by(config, nothing, now)
    messages = decide.decide(state.setdefault("master", {}), found, now, is_quiet)
    if not answer:
        return Taken(messages + look.told_events(state, nothing, is_quiet), None)
    state["offset"] = answer["offset"]
    ended = (one for one in answer["deployments"] if shapes.fits(one, _DEPLOYMENT))
    events = [_told(one, now) for one in ended if one["result"] in look.RESULTS]
    messages += look.told_events(state, nothing._replace(events=events), is_quiet)
    by = "salt-ssh" if config.get("roster") else "salt"
    messages += _silent(state, answer, now, is_quiet, by)
    return Taken(messages + _balanced(state, answer, now, is_quiet, config), answer.get("seen"))


def _silent(state: dict[str, Any], answer: Mapping[str, Any], now: float, is_quiet: IsQuiet, by: str) -> list[Message]:
    """Return the messages about hosts that are silent, or answer again; none while that is expected.

    Args:
        by: the program that asks a host.
    """
    known: Known = state.setdefault("known", {})
    problems: Known = {}
    for key in [key for key, one in known.items() if one["site"] not in answer["hosts"]]:
        del known[key]  # it was taken out of the pillar
    for host, text in answer["silent"].items():
        problems |= decide.found(host, [Problem("silent", shown(text), in_command(by, host, "test.ping"))])
    decided = decide.decide(known, problems, now, lambda host, kind: host in answer["known"] or is_quiet("", kind))
    sites = answer["hosts"]
    return [{**one, "site": "", "host": one["site"], "sites": sites.get(one["site"], [])} for one in decided]


def _balanced(
    state: dict[str, Any], answer: Mapping[str, Any], now: float, is_quiet: IsQuiet, config: Mapping[str, Any]
) -> list[Message]:
    """Return the messages about sites at their balancers; none while a site is deployed.

    That some hosts get no requests is a message when all of the last looks have it, and none of them is silent: it
    mostly follows from what these hosts report themselves. Of a site whose balancers do not answer nothing is known, so
    that it is not good again either.
    """
    known: Known = state.setdefault("balanced", {})
    sites = {site for names in answer["hosts"].values() for site in names}
    for key in [key for key, one in known.items() if one["site"] not in sites]:
        del known[key]  # it was taken out of the pillar
    problems: Known = {}
    for site, found in answer["balanced"].items():
        command = in_command("salt-run", "django.doctor", site, *(["roster=True"] if config.get("roster") else []))
        down, degraded = [], []
        for host, one in sorted(found.items()):
            text = f"{host}: {shown(one['text'])}"
            if not one["hosts"]:
                down.append(Problem("down", text, command))
            elif not {*one["hosts"]} <= answer["silent"].keys():
                degraded.append(Problem("degraded", text, command, host))
        problems |= decide.found(site, down) | decide.found(site, degraded, need=decide.OF)
    part = {key: one for key, one in known.items() if one["site"] in answer["balanced"]}
    messages = decide.decide(part, problems, now, lambda site, kind: site in answer["deployed"] or is_quiet(site, kind))
    for key in [key for key, one in known.items() if one["site"] in answer["balanced"]]:
        del known[key]
    known |= part
    return [{**one, "sites": [one["site"]]} for one in messages]


def _words(config: Mapping[str, Any]) -> list[str]:
    """Return the runner's function, as people call it too."""
    return ["django.watch", *(["roster=True"] if config.get("roster") else [])]


def _asked(since: int | None, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `salt-run django.watch` answers.

    Raises:
        DeploymentError: the master takes no jobs, or there is none.
    """
    has_page = config.get("page_of") == "all"
    argv = [program(), "--out=json", "--log-level=quiet", *_words(config)]
    argv += [*([] if since is None else [f"since={since}"]), *(["seen=True"] if has_page else [])]
    patience = _PATIENCE + (_SHOWN if has_page else 0)
    command = commands.Command(argv, doing="salt-run django.watch", timeout=patience)
    ended = commands.execute(command)
    try:
        found = json.loads(ended.printed) if len(ended.printed) <= _LONGEST else None
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and isinstance(found.get("error"), str):
        raise DeploymentError(found["error"].split("\n", 1)[0])
    commands.check(command, ended)
    if not isinstance(found, dict) or not shapes.fits(found, _SHAPE):
        raise DeploymentError("salt-run django.watch answers something else: is it of this version of the formula?")
    return found


def program() -> str:
    """Return the path of salt-run.

    Raises:
        DeploymentError: it is not installed.
    """
    found = shutil.which("salt-run", path=PATH)
    if not found:
        raise DeploymentError(
            "there is no salt-run on this host, which django:watch:fleet names as the master's",
            hint="name the minion of the master there",
        )
    return found


def _told(one: Mapping[str, Any], now: float) -> Message:
    """Return the message about a deployment on several hosts: one for all of them."""
    kind, what = look.RESULTS[one["result"]], one["revision"] or one["commit"][:12] or "a deployment"
    if kind in ("released", "rolled_back"):
        names = [*one["hosts"]]
        hosts = ", ".join(names[:_MOST]) + (f" and {len(names) - _MOST} more" if len(names) > _MOST else "")
        what = "a new secret key" if one["verb"] == "rotate_secret_key" else what
        text = f"{what} is active {'again ' if kind == 'rolled_back' else ''}on {hosts}"
        text += f" ({one['seconds']:.0f} s{_requests(one.get('failed', 0), one.get('sent', 0))})"
    else:
        text = f"{what} {'failed' if kind == 'failed' else f'was {kind}'}"
        text += f" in the phase {one['step']}" if one["step"] else ""
        text += f": {one['error']}" if one["error"] else ""
    command = in_command("salt-run", "django.status", one["site"]) if kind not in ("released", "rolled_back") else ""
    by = shown(one["asked_by"])[:200]
    return look.event(
        one["site"], kind, shown(text)[:300], command, now, commit=one["commit"], by=by, sites=[one["site"]]
    )


def _requests(failed: int, sent: int) -> str:
    return f", {failed:_} of {sent:_} requests failed".replace("_", " ") if sent else ""
