"""Checks of hosts for a program without checks of its own, nginx: their release and their health.

What a host answered decides whether the program's file of servers has it as ``down``. Verbs and applies check at
once, and a timer does so every few seconds: `main` is its program, which needs neither Salt nor the pillar.
"""

from __future__ import annotations

import concurrent.futures
import html
import http.client
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.host import file, units
from django_formula.host.locks import Lock
from django_formula.site import domains
from django_formula.untrusted.response import Bounded
from django_formula.untrusted.text import tell

#: What is known of each host, by site. Of root alone.
STATES = Path("/var/lib/django-formula/balancer/hosts.json")
#: A file with the servers of each site.
SERVERS = Path("/etc/nginx/django-balancer")
#: The status page of each site.
PAGES = Path("/run/django-nginx")
UNIT = "django-nginx.service"
#: Seconds that a host has to answer.
PATIENCE = 3.0
#: Checks in a row without a good answer that take a host out.
MISSES = 2
OURS = "# Written by django-formula"
_UNKNOWN = {"state": "ready", "is_up": False, "check": "not checked yet", "misses": 0}

Entries = Mapping[str, Mapping[str, Any]]
States = dict[str, dict[str, dict[str, Any]]]


def main(record: str, lock: str) -> int:
    """Check all hosts, and have nginx reload its configuration where one is to be taken out or in.

    Verbs do not wait for the answers: what they have changed meanwhile counts, and the next check sees it.

    Args:
        record: the file with the sites of this balancer.
        lock: its lock.
    """
    sites = _recorded(record)
    before = states()
    found = ask(sites, before)
    holder = Lock(Path(lock), "checks", busy="a change of the balancer", timeout="30s", hint="wait for it")
    with holder.held():
        if _recorded(record) == sites and keep(sites, found):
            tell("\n".join(_news(before, found)))
            units.control("reload", UNIT, doing=f"reloading {UNIT}")
    return 0


def _news(before: States, after: States) -> Iterator[str]:
    for name, hosts in after.items():
        for host, state in hosts.items():
            if before.get(name, {}).get(host, _UNKNOWN)["is_up"] != state["is_up"]:
                yield f"{name}: {host} is {'in' if state['is_up'] else 'out'}: {state['check']}"


def _recorded(record: str) -> Entries:
    return dict((file.read_json(Path(record)) or {"sites": {}})["sites"])


def ask(sites: Entries, known: States) -> States:
    """Check all hosts, and return what is known of them then.

    Args:
        sites: as `balancer.plan` records them.
        known: what was known of them before.
    """
    rows = [(name, server) for name, site in sites.items() for server in site["servers"]]
    with concurrent.futures.ThreadPoolExecutor(max(len(rows), 1)) as pool:
        asked = pool.map(lambda row: _checked(sites[row[0]], row[1], _known(known, *row)), rows)
        found: States = {name: {} for name in sites}
        for (name, server), state in zip(rows, asked, strict=True):
            found[name][server["name"]] = state
    return found


def keep(sites: Entries, found: States) -> bool:
    """Write what checks have found, and return whether nginx has to read its servers anew.

    The states that people have set are the present ones, and what was found of a host that was in maintenance when
    the checks began counts no more once it is not.
    """
    before, after = states(), found
    for name, hosts in after.items():
        for host, state in hosts.items():
            known = before.get(name, {}).get(host, _UNKNOWN)
            if (known["state"] == "maint") != (state["state"] == "maint"):  # changed while the hosts were asked
                hosts[host] = known
            state["state"] = known["state"]
    return write(sites, after)


def set_state(sites: Entries, site: str, host: str, state: str) -> bool:
    """Set the state of a host, and return whether nginx has to read its servers anew."""
    known = states()
    (server,) = [server for server in sites[site]["servers"] if server["name"] == host]
    known.setdefault(site, {})[host] = {**_known(known, site, server), "state": state}
    return write(sites, known)


def write(sites: Entries, known: States) -> bool:
    """Write states, servers and status pages; return whether a file of servers has changed."""
    if known != states():
        file.write_json(STATES, known, mode=0o600)
    for name, site in sites.items():
        if site["status"] and PAGES.is_dir():
            _write(PAGES / f"{name}.html", page(site, known), 0o644)
    changed = [_write(SERVERS / f"{name}.conf", servers(site, known), 0o600) for name, site in sites.items()]
    return any(changed)


def _write(path: Path, text: str, mode: int) -> bool:
    if file.read_text(path) == text:
        return False
    path.parent.mkdir(exist_ok=True)
    file.write(path, text, mode=mode)
    return True


def states() -> States:
    """Return what is known of each host, by site."""
    return file.read_json(STATES) or {}


def _known(known: States, name: str, server: Mapping[str, Any]) -> dict[str, Any]:
    return known.get(name, {}).get(server["name"], _UNKNOWN)


def _checked(site: Mapping[str, Any], server: Mapping[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Return what is known of a host after it was asked."""
    if known["state"] == "maint":
        return {**known, "is_up": False, "check": "not checked", "misses": 0}
    problem = _behind(site, server) or _ill(site, server)
    if not problem:
        return {**known, "is_up": True, "check": "passes", "misses": 0}
    misses = known["misses"] + 1
    is_behind = problem.startswith("serves ")
    is_up = known["is_up"] and not is_behind and misses < MISSES
    return {**known, "is_up": is_up, "check": problem, "misses": min(misses, MISSES)}


def _behind(site: Mapping[str, Any], server: Mapping[str, Any]) -> str:
    """Return which other release a host serves than one of those that are let in; empty where it does not."""
    if not site["commits"]:
        return ""
    status, body = _get(site, server, f"/.django-release/{site['name']}", {})
    commit = body.decode(errors="replace").strip()
    if status != 200:
        return f"{commit or 'no answer'} (release)" if not status else f"responds with {status} (release)"
    return "" if commit in site["commits"] else f"serves {commit[:12]}"


def _ill(site: Mapping[str, Any], server: Mapping[str, Any]) -> str:
    """Return what is wrong with the health of a host; empty where the check passes."""
    health = site["health"]
    status, body = _get(site, server, health["path"], health["headers"])
    if status not in health["status"]:
        return f"responds with {status} (health)" if status else f"{body.decode() or 'no answer'} (health)"
    text, waits = health["contains"], health.get("waits", "").encode()  # as a host whose visitors wait answers
    is_well = not text or text.encode() in body or (waits and body.strip() == waits)
    return "" if is_well else "the page of health:path lacks health:contains"


def _get(
    site: Mapping[str, Any], server: Mapping[str, Any], path: str, headers: Mapping[str, str]
) -> tuple[int, bytes]:
    """Return status and content of a page of a host; 0 and the reason where it does not answer."""
    connection = http.client.HTTPConnection(server["place"], timeout=PATIENCE)
    scheme = {"X-Forwarded-Proto": "https"} if site["https"] else {}
    deadline = time.monotonic() + PATIENCE  # of the whole answer, which a site may send byte by byte
    try:
        connection.connect()
        connection.sock = Bounded(connection.sock, deadline, 2 << 20)
        connection.request(
            "GET",
            path,
            headers={"Host": domains.host(site["domains"][0]), **scheme, **headers, "Connection": "close"},
        )
        answer = connection.getresponse()
        return answer.status, answer.read(1 << 20)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return 0, str(reason).encode()
    finally:
        connection.close()


def servers(site: Mapping[str, Any], known: States) -> str:
    """Return nginx's lines for the hosts of a site; weights are as small as their ratio allows."""
    lines = [f"{OURS}: the hosts of {site['name']}; django_fleet.backend changes them."]
    part = math.gcd(*(server["weight"] for server in site["servers"]))
    has_others = any(not server["backup"] for server in site["servers"])  # nginx refuses backups alone
    for server in site["servers"]:
        state = _known(known, site["name"], server)
        is_in = state["state"] == "ready" and state["is_up"]
        lines.append(
            f"server {server['place']} weight={server['weight'] // part} max_fails=5 fail_timeout=2s"
            f"{' backup' if server['backup'] and has_others else ''}{'' if is_in else ' down'};  # {server['name']}"
        )
    return "\n".join([*lines, ""])


def page(site: Mapping[str, Any], known: States) -> str:
    """Return the status page of a site."""
    rows = []
    for server in site["servers"]:
        state = _known(known, site["name"], server)
        is_up = "up" if state["is_up"] else "down"
        cells = (server["name"], state["state"], is_up, state["check"], server["weight"], server["backup"] or "")
        rows.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
    head = "".join(f"<th>{title}</th>" for title in ("host", "state", "", "check", "weight", "backup"))
    title = html.escape(site["name"])
    return (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="5"><title>{title}</title>\n'
        f"<h1>{title}</h1>\n<table>\n<tr>{head}</tr>\n" + "\n".join(rows) + "\n</table>\n"
    )
