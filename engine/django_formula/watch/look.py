"""One look at this host: what is wrong with each site and the host, and what has happened since the last look."""

import contextlib
import functools
import http.client
import math
import os
import re
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.audit import chain
from django_formula.doctor import walks
from django_formula.host import clock, locks
from django_formula.host.commands import DeploymentError
from django_formula.metrics import access_log
from django_formula.proxy import access_log as proxy_access_log
from django_formula.proxy import proxies, reach
from django_formula.proxy.contract import Proxy
from django_formula.release import health, releases
from django_formula.release import http as release_http
from django_formula.schedule import intervals
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.tls import certificates
from django_formula.untrusted.text import in_command, shown
from django_formula.verbs import operations, status
from django_formula.watch import decide, machine, problem, spool, walk
from django_formula.watch.decide import Known, Message
from django_formula.watch.problem import Problem

#: Seconds that the page of a site may take, and after which an answer is slow.
PATIENCE, SLOW = 5.0, 3.0
#: Sites that are looked at at once: most of the time they are waited for.
_AT_ONCE = 16
#: Looks that a problem needs while a deployment of the site is under way, which may be why, or of a site that has not
#: been good in any look: its first apply may be under way.
_DURING = decide.OF
#: What a proxy answers instead of a site by the site's options: a login, access rules, a rate.
_RULES = re.compile(r"returned (401|403|429) ")
#: Seconds by which a backup may be late: at least, at most, and the share of the time between two of its schedule.
_LATE, _LATEST, _SHARE = 7200.0, 86400.0, 1 / 14
#: Seconds between two looks at the certificate that is served, and between two at the files of a release.
_SERVED, _DRIFT = 900, 86400
#: Seconds between two walks through a site that is down in the same way, and those after which no other one begins.
_WALK, _WALKING = 600, 10.0
#: The share of requests with an error of the server that is a problem, and the requests that this is said of.
_ERRORS, _ENOUGH = 0.05, 20
#: Looks in which a queue grows and never shrinks, until that is a problem.
_GROWING = 10
#: Kinds that maintenance explains.
_EXPLAINED = ("down", "degraded", "worker")
#: Kinds that a site has while its first apply is under way.
_COMING = (*_EXPLAINED, "queue")
#: Results of attempts, and the kind of the message about each.
RESULTS = {
    "failed": "failed",
    "interrupted": "interrupted",
    "rolled back": "rolled_back",
    "refused": "refused",
    "released": "released",
    "rolled forward": "released",
}
#: Kinds that a channel has only where it names them.
UNASKED = ("refused", "released", "drift", "shell")
#: How the record names a deployment on several hosts: see `_runners/django.py`.
_OF_FLEET = re.compile(r"\(salt-run django\.\w+")
#: Tries of a channel, within a quarter of an hour, after which that it fails is a problem.
_TRIES = 5
#: Bytes of the deployments of a site that is seen for the first time, above which all of them are history.
_HISTORY = 1 << 20
#: The most events that are kept while messages are on hold.
_HELD = 50


class Seen(NamedTuple):
    """What a look has found.

    Attributes:
        problems: by their keys (`decide.found`).
        events: what has happened since the last look.
        rows: of each site that of `django.status`, with ``ms``, the milliseconds in which it answered.
        units: of all sites, with their properties.
    """

    problems: Known
    events: list[Message]
    rows: list[dict[str, Any]]
    units: machine.Units


class _SiteSeen(NamedTuple):
    problems: list[Problem]
    events: list[Message]
    row: dict[str, Any]
    need: int = decide.BAD
    is_deployed: bool = False
    proxy: Proxy | None = None


def examine(state: dict[str, Any], config: Mapping[str, Any], now: float) -> Seen:
    """Look at all sites and at the host.

    Args:
        state: what the last look has kept; what the next one needs is put there.
        config: of the watch.
        now: seconds since 1970.
    """
    names = sites.registered()
    # One that is made anew after its removal is another one, whose first apply and first deployments are yet to come.
    state["sites_seen"] = {name: own for name, own in state.get("sites_seen", {}).items() if name in names}
    units = machine.units()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = dict(zip(names, pool.map(lambda name: _of_any_site(name, state, config, now), names), strict=True))
    problems: Known = {}
    events: list[Message] = []
    walking = time.monotonic() + _WALKING
    rivals = walk.rivals({one.proxy for one in found.values() if one.proxy}, state, now)
    is_apply = any(one.is_deployed for one in found.values())
    for name, one in found.items():
        own, happened = machine.of_units(name, names, units, state)
        seen = [*one.problems, *rivals.get(name, [])]
        if is_apply and not state.get("sites_seen", {}).get(name, {}).get("good"):
            seen = [each for each in seen if each.kind not in _COMING]  # its turn in the apply may be yet to come
        own += _explained(name, seen, state, now, walking)
        problems |= decide.found(name, own, need=one.need)
        events += [*one.events, *(event(name, *what, now) for what in happened)]
    state["units"] = machine.counters(units)
    own, happened = machine.of_host(roots(names), state, config, now)
    problems |= decide.found("", [*own, *_of_channels(config)])
    events += [*(event("", *what, now) for what in happened), *_consoles(state, now)]
    return Seen(problems, events, [one.row for one in found.values()], units)


def _of_channels(config: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the channels by which nothing could be sent for some time: the others, the page and metrics have them."""
    for name in config["channels"]:
        retry = spool.retry(name)
        if retry["tries"] >= _TRIES:
            text = f"messages by the channel {name} fail: {retry['error']}"
            yield Problem("watch", text, in_command("salt-call", "django.notify", "test", name), f"channel {name}")


def roots(names: Iterable[str]) -> list[Path]:
    """Return the folders whose disks are looked at."""
    found = [Path("/")]
    for name in names:
        with contextlib.suppress(DeploymentError, OSError):
            site = sites.find(name)
            found += [site.root, site.backups, site.media.top]
    return found


def event(site: str, kind: str, text: str, command: str, now: float, **more: Any) -> Message:
    """Return a message about something that has happened."""
    return {"what": "event", "site": site, "kind": kind, "text": text, "command": command, "since": now, **more}


def _of_any_site(name: str, state: dict[str, Any], config: Mapping[str, Any], now: float) -> _SiteSeen:
    """Return what a look finds at a site; that it cannot be looked at is a problem of this site alone."""
    try:
        return _of_site(name, state, config, now)
    except Exception as error:  # whatever it is, the other sites are looked at
        text = f"{type(error).__name__}: {shown(' '.join(str(error).split()))}"
        row = {"site": name, "damage": text, "release": "", "running": None}
        command = in_command("salt-call", "django.status", name)
        return _SiteSeen([Problem("watch", f"the watch cannot look at it: {text}", command, "look")], [], row)


def _of_site(name: str, state: dict[str, Any], config: Mapping[str, Any], now: float) -> _SiteSeen:
    try:
        site = sites.find(name)
        row = status.row(site, visits=False)
    except (DeploymentError, OSError) as error:
        row = {"site": name, "damage": str(error).splitlines()[0], "release": "", "running": None}
        return _SiteSeen(problem.problems(row), [], row)
    is_deployed = _is_deployed(site)
    left_out = {"failed"}  # the attempt has a message of its own
    if not row["release"]:  # a site that comes gets its certificate shortly before its first release
        left_out |= {"certificate", *(["release"] if is_deployed else [])}
    elif proxies.is_installed(site) and not proxies.speaks_tls(site):
        left_out.add("certificate")  # an apply is about to make its first one
    found = [one for one in problem.problems(row) if one.key not in left_out]
    own = state.setdefault("sites_seen", {}).setdefault(name, {})
    if row["running"] and not row["maintenance"] and not row.get("hold"):
        found += _of_visit(site, row)
    found += _of_requests(site, row, own, now)
    found += [*_of_backups(site, row, now), *_of_queue(site, row, own, config), *_of_served(site, own, now)]
    need = _need(own, found, is_deployed=is_deployed, is_released=bool(row["release"]))
    if config.get("drift") and not is_deployed:
        _rarely("drift", own, _DRIFT, now, lambda: _drift(name))
    if config.get("drift") and own.get("drift"):
        command = in_command("salt-call", "django.drift", name)
        files = "1 file differs" if own["drift"] == 1 else f"{own['drift']} files differ"
        found.append(Problem("drift", f"{files} from the active release", command, "drift"))
    events = list(_attempts(site, own, now, config.get("fleet", ""), _since(state)))
    return _SiteSeen(found, events, row, need, is_deployed, proxies.serving(site))


def _explained(name: str, found: list[Problem], state: dict[str, Any], now: float, walking: float) -> list[Problem]:
    """Return the problems of a site with the broken link and what cures it, where a second look has it down.

    Args:
        walking: the monotonic time after which no other walk begins; the next look begins with those that are left.
    """
    own = state.get("sites_seen", {}).get(name, {})
    down = [one.text for one in found if one.kind == "down"]
    kept = own.get("walk")
    if not down:
        own.pop("walk", None)
        return found
    if not kept or kept["of"] != down or decide.is_over(kept["at"], _WALK, now):
        is_new = not any(state.get("known", {}).get(f"{name}/down", {}).get("looks", []))
        if is_new or time.monotonic() > walking:
            return found
        own["walk"] = kept = {"of": down, "at": now, "link": walk.broken_link(name)}
    if not kept["link"]:
        return found
    link = walks.Link(*kept["link"])
    rest = [one for one in found if one.kind != "down"]
    return [Problem("down", f"{link.name}: {link.text}", link.command or link.todo, "walk"), *rest]


def _need(own: dict[str, Any], found: list[Problem], *, is_deployed: bool, is_released: bool = True) -> int:
    """Return how many looks a problem of a site needs, and keep whether one has found it good."""
    own["good"] = own.get("good", False) or (is_released and not any(one.kind in _COMING for one in found))
    return decide.BAD if own["good"] and not is_deployed else _DURING


def _consoles(state: dict[str, Any], now: float) -> Iterator[Message]:
    """Yield the consoles that can change data and were opened since the last look, as the audit log has them."""
    found, state["audit"] = _audited(state.get("audit"))
    for line in found:
        arguments = line.get("arguments")
        reason = arguments.get("write") if isinstance(arguments, dict) else ""
        if line.get("verb") == "shell" and line.get("result") == "begun" and reason:
            site, by = shown(str(line.get("site"))), shown(f"{line.get('who')} {line.get('from') or ''}".strip())
            text = shown(f"a console that can change data was opened: {reason}")[:300]
            yield event(site, "shell", text, in_command("salt-call", "django.history", site), now, by=by[:200])


def _audited(since: int | None) -> tuple[list[dict[str, Any]], int]:
    """Return the lines of the audit log after an offset, and the next offset; a new year begins a new file."""
    found, end = releases.attempts_since(chain.current(), since)
    if since is not None and end < since:
        for former in chain.years()[-2:-1]:
            new, end = releases.attempts_since(chain.current(), 0)
            found = [*releases.attempts_since(former, since)[0], *new]
    return found, end


def _is_deployed(site: Site) -> bool:
    """Return whether a deployment holds the lock of a site, without taking the lock for even a moment."""
    with contextlib.suppress(OSError):
        return locks.runs(site.lock_file.read_text(errors="replace")[:4096])
    return False


def _of_visit(site: Site, row: dict[str, Any]) -> Iterator[Problem]:
    """Request the health page as visitors do; yield what is wrong with its answer."""
    began = time.monotonic()
    text = visit(site)
    row["ms"] = round(1000 * (time.monotonic() - began))
    path = health.page_path(site)
    if text:
        yield Problem("down", f"GET {path} {text}", in_command("salt-call", "django.doctor", site.name), "health")
    elif row["ms"] > 1000 * SLOW:
        command = in_command("salt-call", "django.logs", site.name)
        yield Problem("degraded", f"GET {path} takes {row['ms'] / 1000:.1f} s", command, "slow")


def visit(site: Site) -> str:
    """Return what is wrong with the health page of a site, through the proxy where it has one; empty if nothing is."""
    deadline = time.monotonic() + PATIENCE
    get = functools.partial(release_http.get_active, site)
    is_open = not site.config["proxy"].get("upstreams") and not certificates.requires_clients(site)
    if proxies.is_installed(site) and is_open:
        scheme = "https" if proxies.speaks_tls(site) else "http"
        text = health.problem(site, functools.partial(reach.get, site), deadline, scheme)
        if not _RULES.match(text):
            return _timed_out(text)
    return _timed_out(health.problem(site, get, deadline, site.scheme))


def _timed_out(text: str) -> str:
    return f"timed out after {PATIENCE:.0f} s" if text.startswith("timed out after ") else text


def _of_requests(site: Site, row: dict[str, Any], own: dict[str, Any], now: float) -> Iterator[Problem]:
    """Count the requests since the last look, and those of the last hour, where the site has a JSON log of its own."""
    path = proxies.access_log(site)
    if not path:
        return
    new = access_log.count(proxy_access_log.grown(path, own.setdefault("log", {})))
    own["requests"] = access_log.add(own.get("requests") or {}, new)
    row["hour"] = access_log.of_hour(own.setdefault("hour", []), own["requests"], now)
    all_of_them, errors = sum(new.codes.values()), new.codes.get("5xx", 0)
    if all_of_them >= _ENOUGH and errors >= _ERRORS * all_of_them:
        text = f"{errors} of {all_of_them} requests since the last look have got an error of the server (5xx)"
        yield Problem("degraded", text, in_command("salt-call", "django.logs", site.name), "errors")


def _of_backups(site: Site, row: Mapping[str, Any], now: float) -> Iterator[Problem]:
    schedule = site.config["backup"]["schedule"]
    between = intervals.longest(schedule) if schedule else 0.0
    limit = between + min(max(between * _SHARE, _LATE), _LATEST)
    newest = clock.seconds(row.get("backup") or row.get("live_since") or "")
    if between and newest and now - newest > limit:
        age = decide.span(now - newest)
        text = f"newest backup is {age} old" if row.get("backup") else f"no backup since it was released {age} ago"
        yield Problem("backup", f"{text} ({schedule})", in_command("salt-call", "django.backup", site.name), "age")


def _of_queue(site: Site, row: Mapping[str, Any], own: dict[str, Any], config: Mapping[str, Any]) -> Iterator[Problem]:
    count = problem.waiting(row)
    own["waiting"] = waiting = [*own.get("waiting", []), count][-_GROWING:] if count is not None else []
    if not waiting:
        return
    command = in_command("salt-call", "django.queue", site.name, "names=True")
    if waiting[-1] > config["queue"]:
        yield Problem("queue", f"{waiting[-1]} tasks wait in its queue", command, "waiting")
    elif len(waiting) == _GROWING and waiting == sorted(waiting) and waiting[-1] >= waiting[0] + _GROWING:
        text = f"its queue has grown from {waiting[0]} to {waiting[-1]} tasks in {_GROWING} looks, and never shrunk"
        yield Problem("queue", text, command, "growing")


def _of_served(site: Site, own: dict[str, Any], now: float) -> list[Problem]:
    """Return what is wrong with the certificate that is really served, looked at now and then."""
    if not site.https or not proxies.is_installed(site):
        return []
    text = _rarely("served", own, _SERVED, now, lambda: _served(site))
    if not text:
        return []
    command = in_command("salt-call", "django.renew", site.name)
    return [Problem("certificate", text, command, "served")]


def _rarely(name: str, own: dict[str, Any], period: float, now: float, see: Callable[[], Any]) -> Any:
    """Return what is wrong with something that is looked at now and then; it is kept in `own` until the next time.

    The first time that something is wrong the next look sees it too: an apply may have changed half of it.
    """
    if decide.is_over(own.get(f"{name}_at", 0), period, now):
        before, own[name] = own.get(name), see()
        if before or not own[name]:
            own[f"{name}_at"] = now
    return own.get(name)


def _served(site: Site) -> str:
    """Return how the certificate that the proxy serves differs from that of the domain's file; empty if it does not."""
    domain = site.canonical
    try:
        pem = certificates.path_of(site.config["domains"][0]).read_text(errors="replace")
        with contextlib.closing(proxies.connection(site, PATIENCE)) as connection:
            connection.connect()
            served = connection.sock.getpeercert(True) if isinstance(connection.sock, ssl.SSLSocket) else None
    except (OSError, http.client.HTTPException):
        return ""  # that it does not answer is a problem of its own
    kept = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", pem, re.DOTALL)
    if not served or not kept or ssl.PEM_cert_to_DER_cert(kept[0]) == served:
        return ""
    return f"the proxy serves another certificate for {domain} than the one on this host: it was not reloaded"


def _drift(name: str) -> int:
    with contextlib.suppress(DeploymentError, OSError):
        return len(operations.drift(name)["drift"])
    return 0


def _since(state: Mapping[str, Any]) -> float:
    """Return when the host was last looked at; before the first look, when the watch was configured.

    Where a loss of power has emptied what the last look has kept, it was then that this was written.
    """
    for path in (spool.state_path(), spool.CONFIG):
        with contextlib.suppress(OSError):
            return float(state.get("time") or path.stat().st_mtime)
    return math.inf


def _attempts(site: Site, own: dict[str, Any], now: float, fleet: str, since: float = math.inf) -> Iterator[Message]:
    """Yield the deployments that have ended since the last look.

    Args:
        fleet: the minion of the master that tells of those on several hosts; empty where none does.
        since: when the host was last looked at: of a site that comes, what has ended before is history.
    """
    known = own.get("attempts")
    is_read = known is None and site.deploys.is_file() and site.deploys.stat().st_size < _HISTORY
    found, own["attempts"] = releases.attempts_since(site.deploys, 0 if is_read else known)
    for attempt in found:
        if is_read and clock.seconds(str(attempt.get("time"))) < since - 1:  # timestamps are of whole seconds
            continue
        is_told = fleet and _OF_FLEET.search(str(attempt.get("asked_by")))
        if attempt.get("result") in RESULTS and not is_told:
            yield _told_attempt(site, attempt, now)


def _told_attempt(site: Site, attempt: Mapping[str, Any], now: float) -> Message:
    kind, release = RESULTS[attempt["result"]], str(attempt.get("release") or "")
    what = release or str(attempt.get("commit") or "")[:12] or "a deployment"
    ended = {"interrupted": f"{what} was interrupted", "rolled_back": f"rolled back to {what}"}
    text = ended.get(kind, f"{what} {attempt['result']}")
    if attempt.get("step"):
        text += f" in the step {attempt['step']}"
    if error := str(attempt.get("error") or "").strip():
        text += f": {shown(error.splitlines()[0])[:300]}"
    live = os.path.basename(os.path.realpath(site.current)) if site.current.is_symlink() else ""
    if kind in ("failed", "interrupted") and live:
        text += f"; {live} is active"
    command = ""
    if kind != "released":
        is_there = release and (site.releases / release / "release.json").exists()
        words = ("record", site.name, release) if is_there else ("releases", site.name)
        command = in_command("salt-call", f"django.{words[0]}", *words[1:])
    by = str(attempt.get("asked_by") or "").partition(", salt job")[0]
    commit = str(attempt.get("commit") or "")
    return event(site.name, kind, text, command, now, release=release, commit=commit, by=shown(by)[:200])


# Who gets which message


def takes(channel: Mapping[str, Any], one: Message) -> bool:
    """Return whether a channel takes a message, by its kinds and sites; those of the host need one of all sites."""
    kinds = channel["kinds"]
    is_of_kind = one["kind"] in kinds if kinds else one["kind"] not in UNASKED
    if "sites" in one:  # of the watch of a master, about sites on other hosts
        about = {*one["sites"]}
        return is_of_kind and bool(about - {*channel["but"]} if channel["host"] else about & {*channel["fleet"]})
    return is_of_kind and (one["site"] in channel["sites"] if one["site"] else channel["host"])


def quiet_by(config: Mapping[str, Any], seen: Seen, now: float) -> Callable[[str, str], bool]:
    """Return whether messages of a site and a kind are on hold: quiet times, a quiet site, maintenance."""
    local = time.localtime(now)
    minute = 60 * local.tm_hour + local.tm_min
    is_quiet = any(decide.in_window(window, local.tm_wday, minute) for window in config["quiet"])
    sites_quiet = spool.quiet()
    maintained = {row["site"] for row in seen.rows if row.get("maintenance") or row.get("hold")}
    return lambda site, kind: is_quiet or site in sites_quiet or (site in maintained and kind in _EXPLAINED)


def told_events(state: dict[str, Any], seen: Seen, is_quiet: Callable[[str, str], bool]) -> list[Message]:
    """Return the events to tell now; those of quiet times are kept until their end."""
    events = [*state.get("held", []), *seen.events]
    state["held"] = [one for one in events if is_quiet(one["site"], one["kind"])][-_HELD:]
    return [one for one in events if not is_quiet(one["site"], one["kind"])]
