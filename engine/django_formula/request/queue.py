"""The requests of a site on disk: one at most waits, one at most runs, and each ends with exactly one final status.

`pending.json`, `running.json`, and a line per final status in `requests.jsonl`, in a folder of root's. Each change is
one durable write. Between any two of them a kill or a power loss leaves a request that is worked off again, or that has
its status: docs/decisions/0160.
"""

import contextlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from django_formula.audit import audit
from django_formula.audit.caller import Caller
from django_formula.host import clock, file
from django_formula.host.locks import Lock
from django_formula.site import sites
from django_formula.untrusted import shapes
from django_formula.untrusted.text import shown

#: The final statuses of a request.
FINAL = RELEASED, SUPERSEDED, FAILED, REFUSED = "released", "superseded", "failed", "refused"
#: What a request has before one of them.
WAITING = "waiting"
#: How often a request is worked on that a kill or a power loss interrupts.
TRIES = 3
#: Requests whose final status is kept at least, and lines from which the file is cut down to these.
KEPT, FULL = 500, 1000
#: Requests with a final status that are shown.
_SHOWN = 20
#: The most characters of why a request has ended so.
_LONGEST = 2000
_BY = {"who": str, "from": str, "how": str, "job": str}
_SHAPE = {"id": str, "commit": str, "asked": str, "tries": int, "by": _BY, "checked?": bool, "rewind?": bool}
_OPEN = {**_SHAPE, "replaces?": _SHAPE}
_ENDED = {**_SHAPE, "status": str, "why": str, "ended": str}


class Place(Protocol):
    """Where requests are kept: a site of this host, or what a master has of one."""

    @property
    def root(self) -> Path:
        """The folder that has theirs."""

    @property
    def name(self) -> str:
        """The name of the site."""


class Request(NamedTuple):
    """A request to release a commit.

    Attributes:
        number: what its lines and files have as ``id``.
        by: who asked.
        asked: when, as a timestamp.
        tries: how often it was begun.
        replaces: the one that waited before, which has its final status unless the process was killed just then.
        is_checked: whether the commit is released only if the site's revision has it.
        is_rewind: whether a commit that is part of the active one is released too.
    """

    number: str
    commit: str
    by: Caller
    asked: str
    tries: int = 0
    replaces: "Request | None" = None
    is_checked: bool = False
    is_rewind: bool = False

    def values(self) -> dict[str, Any]:
        """Return it as its file has it."""
        by = {"who": self.by.who, "from": self.by.origin, "how": self.by.how, "job": self.by.job}
        own = {"id": self.number, "commit": self.commit, "asked": self.asked, "tries": self.tries, "by": by}
        own |= {"checked": True} if self.is_checked else {}
        own |= {"rewind": True} if self.is_rewind else {}
        return own | ({"replaces": self.replaces.values()} if self.replaces else {})


def _request(values: dict[str, Any]) -> Request:
    by = values["by"]
    caller = Caller(by["who"], by["from"], by["how"], by["job"])
    replaces = _request(values["replaces"]) if "replaces" in values else None
    how = {"is_checked": values.get("checked", False), "is_rewind": values.get("rewind", False)}
    return Request(values["id"], values["commit"], caller, values["asked"], values["tries"], replaces, **how)


def folder(site: Place) -> Path:
    """Return the folder of the requests of a site, which is there once one was made."""
    return site.root / "requests"


def _pending(site: Place) -> Path:
    return folder(site) / "pending.json"


def _running(site: Place) -> Path:
    return folder(site) / "running.json"


def steps(site: Place) -> Path:
    """Return the file of the steps that the release which runs has begun, a line for each."""
    return folder(site) / "steps"


def _history(site: Place) -> Path:
    return folder(site) / "requests.jsonl"


def paths(site: Place) -> tuple[Path, Path]:
    """Return the files of which one is there while there is something to do."""
    return _pending(site), _running(site)


def lock(site: Place) -> Lock:
    """Return the lock of the files, which is held for a moment."""
    busy, hint = f"a change of the requests of {site.name}", "try again"
    return Lock(folder(site) / "lock", "requests", busy=busy, timeout="30s", hint=hint, interval=0.02)


def work_lock(site: Place) -> Lock:
    """Return the lock that the program has which works the requests off."""
    busy = f"another program of the requests of {site.name}"
    return Lock(folder(site) / "work.lock", "requests", busy=busy, timeout="0s", hint="there is nothing to do")


def put(site: Place, commit: str, by: Caller, **how: bool) -> Request:
    """Have a request wait, instead of the one that waits; from now on it has a final status, whatever happens.

    Args:
        how: ``is_checked`` and ``is_rewind``, as of a `Request`.

    Raises:
        DeploymentError: the files are not free in time.
    """
    with lock(site).held():
        before = _waiting(site)
        # The file has both: a kill after this write leaves the newer one to be released, and the other to be ended.
        request = Request(f"{time.time_ns():x}", commit, by, clock.now(), replaces=before, **how)
        _write(_pending(site), request)
        _end_replaced(site, request)
    return request._replace(replaces=None)


def refuse(site: Place, commit: str, by: Caller, why: str) -> Request:
    """Record a request that is refused.

    Raises:
        DeploymentError: the files are not free in time.
    """
    with lock(site).held():
        request = Request(f"{time.time_ns():x}", commit, by, clock.now())
        _end(site, request, REFUSED, why, is_recorded=audit.is_open())
    return request


def refuse_waiting(site: Place, request: Request, why: str) -> None:
    """Refuse the request that waits, unless a newer one waits instead by now.

    Raises:
        DeploymentError: the files are not free in time.
    """
    with lock(site).held():
        found = waiting(site)
        if found and found.number == request.number:
            _end_replaced(site, found)
            _end(site, request, REFUSED, why)  # nothing, where a kill has left it with its status
            _remove(_pending(site))


def take(site: Place, number: str = "") -> Request | None:
    """Take the request that waits, to run it; the number of its tries is on disk before it begins.

    Args:
        number: of the only one that is taken, which its checks admit; without it, any.

    Raises:
        DeploymentError: the files are not free in time.
    """
    with lock(site).held():
        found = _waiting(site)
        if found and number and found.number != number:
            return None
        if found:
            found = found._replace(tries=found.tries + 1)
            _write(_running(site), found)
        _remove(_pending(site))
        return found


def finish(site: Place, request: Request, status: str, why: str, *, is_recorded: bool = False) -> None:
    """Give the request that runs its final status.

    Args:
        is_recorded: whether the audit log has it, by the deployment.

    Raises:
        DeploymentError: the files are not free in time.
    """
    with lock(site).held():
        _end(site, request, status, why, is_recorded=is_recorded)
        _remove(_running(site))


def recover(site: Place, active: str) -> None:
    """Decide about a request that was interrupted: it has ended, is worked off again, or is given up.

    Args:
        active: the commit of the active release; empty without one. No deployment of the site is under way.

    Raises:
        DeploymentError: the files are not free in time.
    """
    with lock(site).held():
        _set_aside_damaged(site)
        left = running(site)
        if not left:
            return
        newer = _waiting(site)
        if newer and newer.number == left.number:  # killed while it was taken
            newer = None
        if not ended(site, left.number):
            if active and left.commit == active:  # one for the revision of the pillar names no commit
                _end(site, left, RELEASED, "it is active; the program was interrupted after that")
            elif newer:
                _end(site, left, SUPERSEDED, f"interrupted, then {_by(newer)}")
            elif left.tries >= TRIES:
                _end(site, left, FAILED, f"interrupted {TRIES} times")
            else:
                _write(_pending(site), newer := left)
        if not newer:
            _remove(_pending(site))
        _remove(_running(site))


def _waiting(site: Place) -> Request | None:
    """Return the request that waits, after the one that it replaces has its end; none that has a final status."""
    found = waiting(site)
    if not found:
        return None
    _end_replaced(site, found)
    return None if ended(site, found.number) else found._replace(replaces=None)


def _end_replaced(site: Place, request: Request) -> None:
    if request.replaces:
        _end(site, request.replaces, SUPERSEDED, _by(request))


def waiting(site: Place) -> Request | None:
    """Return the request that waits."""
    return _read(_pending(site))


def running(site: Place) -> Request | None:
    """Return the request that runs, or that was interrupted."""
    return _read(_running(site))


def ended(site: Place, number: str) -> dict[str, Any] | None:
    """Return the request of a number with its final status, if it has one."""
    text = _text(site)
    if number not in text:
        return None
    return next((values for values in reversed(_parsed(text)) if values["id"] == number), None)


def history(site: Place) -> list[dict[str, Any]]:
    """Return the requests that have a final status, the oldest first, without lines that are damaged."""
    return _parsed(_text(site))


def rows(site: Place) -> list[dict[str, Any]]:
    """Return a row for each request, the newest first; those with a final status as far as they are shown."""
    found = [_row(one.values(), status, one.asked, "") for one, status in _open(site)]
    known = {row["request"] for row in found}
    for values in reversed(history(site)[-_SHOWN:]):
        if values["id"] not in known:  # between two writes it is in both
            took = clock.seconds(values["ended"]) - clock.seconds(values["asked"])
            found.append({**_row(values, values["status"], values["ended"], values["why"]), "took": f"{took:.0f} s"})
    return found


def _open(site: Place) -> list[tuple[Request, str]]:
    return [(one, status) for one, status in ((waiting(site), WAITING), (running(site), "running")) if one]


def _row(values: dict[str, Any], status: str, when: str, why: str) -> dict[str, Any]:
    by = values["by"]
    who = f"{by['who']} ({', '.join(filter(None, [by['how'], by['from']]))})"
    about = {"commit": values["commit"][:12], "status": status, "age": clock.age(when), "by": who, "took": ""}
    return {**about, "why": why, "request": values["id"]}


def _text(site: Place) -> str:
    try:
        return _history(site).read_bytes().decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _parsed(text: str) -> list[dict[str, Any]]:
    found = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            values = json.loads(line)
            found += [values] if shapes.fits(values, _ENDED) else []
    return found


def _by(request: Request) -> str:
    return f"by {request.commit[:12] or 'a newer request'}"


def _end(site: Place, request: Request, status: str, why: str, *, is_recorded: bool = False) -> None:
    """Write the final status of a request, unless it has one."""
    if ended(site, request.number):
        return
    values = {**request.values(), "status": status, "why": shown(why, lines=True)[:_LONGEST], "ended": clock.now()}
    file.append(_history(site), json.dumps(values, sort_keys=True), mode=0o600)
    lines = _text(site).splitlines()
    if len(lines) > FULL:
        file.write(_history(site), "".join(f"{line}\n" for line in lines[-KEPT:]), mode=0o600)
    if not is_recorded and (sites.REGISTRY / site.name).is_symlink():  # a master has no log of its sites
        act = audit.Act("request", request.by, site.name, {"commit": request.commit}, request.number)
        act.result = f"{status}: {why.partition(chr(10))[0]}"
        act.end(seconds=time.time() - clock.seconds(request.asked))


def _write(path: Path, request: Request) -> None:
    file.write_json(path, request.values(), mode=0o600)


def _remove(path: Path) -> None:
    if path.exists():
        path.unlink()
        file.sync_folder(path.parent)


def _set_aside_damaged(site: Place) -> None:
    """Put files aside that a disk has damaged: they would start the program for ever."""
    for path in paths(site):
        if path.exists() and not _read(path):
            path.rename(path.with_suffix(".damaged"))


def _read(path: Path) -> Request | None:
    values = file.read_json(path, _OPEN)
    return _request(values) if values else None
