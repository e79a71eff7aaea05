"""The verbs `django.request` and `django.requests`, and their part of `django.status`."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django_formula.audit.caller import Caller
from django_formula.host import clock, daemons, unix_sockets
from django_formula.host.commands import DeploymentError
from django_formula.release import claim, releases
from django_formula.request import checks, entrance, follow, hook_unit, queue, unit
from django_formula.request.queue import Request
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.source import commits
from django_formula.untrusted.text import in_command

#: Return codes by status.
CODES = {queue.FAILED: 1, queue.REFUSED: 2}


def ask(
    name: str, revision: str | None, by: Caller, salt_call: Sequence[str], *, wait: bool, is_promoted: bool = False
) -> dict[str, Any]:
    """Request that a commit of a site is released; return its status, with `wait` the final one.

    Args:
        revision: a branch, tag or commit; the revision of the last apply by default.
        salt_call: the command that calls Salt on this host.
        is_promoted: whether `django.promote` asks; other requests are refused for a site with `promote`.

    Raises:
        DeploymentError: there is no such site, no salt-call, or nothing works the requests off.
    """
    site = sites.find(name)
    if not salt_call:
        raise DeploymentError(
            "there is no salt-call on this host, which works requests off",
            hint=f"install salt-minion, which need not run; or release it now: {site.to_release(revision or '')}",
        )
    unit.prepare(site, salt_call)
    wanted = revision or str(site.config["revision"])
    try:
        claim.refuse_alone(site, "deploy")
        if site.config["folder"]:
            hint = f"release what is in it now: {site.to_release()}"
            raise DeploymentError(f"the code of {name} is a folder, which has no commits", hint=hint)
        if site.config.get("promote") and not is_promoted:
            promote = in_command("salt-call", "django.promote", name)
            hint = f"run: {promote}; or release it now: {site.to_release(revision or '')}"
            raise DeploymentError(f"{name} gets its commits from {site.config['promote']['from']}", hint=hint)
        commit = commits.resolve(site, wanted)
    except DeploymentError as error:
        refused = queue.refuse(site, wanted, by, str(error))
        return _answer(refused, queue.REFUSED, str(error))
    request = queue.put(site, commit, by)
    problem = follow.begin(site)
    if not wait:
        why = [*([problem] if problem else []), f"see: salt-call django.requests {name}"]
        return _answer(request, queue.WAITING, "; ".join(why))
    found = follow.follow(site, request)
    return _answer(request, found["status"], found["why"])


def _answer(request: Request, status: str, why: str) -> dict[str, Any]:
    return {"request": request.number, "commit": request.commit, "status": status, "why": why}


def rows(name: str) -> list[dict[str, Any]]:
    """Return a row for each request of a site, the newest first.

    Raises:
        DeploymentError: there is no such site.
    """
    site = sites.find(name)
    return [{**row, "why": row["why"] or _reason(site, row)} for row in queue.rows(site)]


def _reason(site: Site, row: Mapping[str, Any]) -> str:
    """Return why a request has no final status yet, where it is not that its release is under way."""
    holder, status = site.lock("").holder(), row["status"]
    if status in queue.FINAL:
        return ""
    if not queue.work_lock(site).holder():
        see = f": journalctl --unit django-{site.name}-requests"
        rest = see if daemons.has_systemd() else "; the next request starts it"
        return f"the program that works requests off does not run{rest}"
    if status != queue.WAITING:
        return ""
    return f"another deployment is under way: {holder}" if holder else checks.waits_for(site, row["request"])


def status(site: Site) -> dict[str, str]:
    """Return the part of a site's status: what waits, what runs, and the newest request if it has failed.

    Nothing for a site of which nothing was requested. One with `push` or `hook` has what takes requests in too.
    """
    found = {"release_requests": "; ".join(_parts(site))} if queue.folder(site).exists() else {}
    return {**found, **_entrance(site)}


def _entrance(site: Site) -> dict[str, str]:
    """Return what takes requests in, or the first socket that does not listen."""
    if not entrance.is_wanted(site):
        return {}
    sockets = {entrance.unit_name(site): entrance.path(site), **hook_unit.sockets(site)}
    closed = [name for name, path in sockets.items() if not unix_sockets.listens(str(path))]
    ways = {"push": "git push", "hook": "webhook"}
    taken = ", ".join(way for option, way in ways.items() if site.config.get(option))
    return {"entrance": f"{closed[0]} does not listen" if closed else taken}


def _parts(site: Site) -> Iterator[str]:
    is_worked = bool(queue.work_lock(site).holder())
    for one, does in ((queue.running(site), "runs"), (queue.waiting(site), "waits")):
        if one:
            late = time.time() - clock.seconds(one.asked) > follow.ABANDONED
            does = does if is_worked or not late else "is not worked off"
            yield f"{one.commit[:12]} by {one.by.who} {does} for {clock.age(one.asked)}"
    decided = [values for values in queue.history(site) if values["status"] in (queue.RELEASED, queue.FAILED)]
    live = releases.linked(site, site.current)
    since = clock.seconds(str(live.record.get("live_since", ""))) if live else 0
    if decided and decided[-1]["status"] == queue.FAILED and clock.seconds(decided[-1]["ended"]) >= since:
        last = decided[-1]
        why = last["why"].partition("\n")[0]
        yield f"{last['commit'][:12]} by {last['by']['who']} failed {clock.age(last['ended'])} ago: {why}"
