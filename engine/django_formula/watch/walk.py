"""The walk of `django.doctor` through a site that is down, for the message about it; who answers in place of a site.

A unit of its own does both: a proxy that tests its configuration binds ports and opens logs, as the watch may not.
"""

import contextlib
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from django_formula.doctor import walks, way
from django_formula.host import daemons, file, units
from django_formula.host.commands import DeploymentError
from django_formula.proxy import proxies, reach
from django_formula.proxy.contract import Proxy
from django_formula.site import sites
from django_formula.watch import decide, spool
from django_formula.watch.problem import Problem

#: Seconds that a walk may take.
PATIENCE = 20
_SHAPE = {"at": (int, float), "link": [(str, bool)]}
#: The instance of the unit that reads the configuration of the proxies: the name of no site. And what it writes.
PROXIES = "_proxies"
_READ = {"rivals": {str: {"text": str, "command": str}}}
#: Seconds after which they are read again where no file of theirs is known.
_UNKNOWN = 600


def main(name: str) -> int:
    """Walk through a site, and write its broken link, or read the proxies' files; return the exit code."""
    if name == PROXIES:
        return _read_proxies()
    began, broken = time.time(), walks.walk(sites.find(name), skip_network=True, explains=False).broken
    _write(name, {"at": began, "link": list(broken or ())})
    return 0


def broken_link(name: str) -> list[Any]:
    """Return the broken link of a site, as `walks.Link` has it; empty where a walk finds none, or does not end."""
    began = time.time()
    _have_walked(name)
    walked = file.read_json(_path(name), _SHAPE)
    return walked["link"] if walked and walked["at"] >= began else []


def _have_walked(name: str) -> None:
    if daemons.has_systemd():
        unit = f"django-doctor@{name}.service"
        units.attempt("start", unit, doing=f"walking through {name}", timeout=PATIENCE + 5)
    else:
        with contextlib.suppress(Exception):  # the others are looked at, as where a unit of its own fails
            main(name)


# Other servers of the proxy that answer in place of a site: its health page may be a good page of theirs


def rivals(used: Collection[Proxy], state: dict[str, Any], now: float) -> dict[str, list[Problem]]:
    """Return for each site that another server answers for what that is, and what ends it.

    The proxies are asked for their configuration once a file of it has changed; else files are compared only.

    Args:
        used: the proxies that serve sites of this host.
        state: of the watch; what the next look needs is put there.
        now: seconds since 1970.
    """
    kept, files = state.get("proxies") or {"files": "", "at": 0.0}, _files(used)
    is_due = files != kept["files"] or (not files and decide.is_over(kept["at"], _UNKNOWN, now))
    if used and is_due:
        _have_walked(PROXIES)
        state["proxies"] = {"files": files, "at": now}  # as before: an apply may have changed them meanwhile
    read = file.read_json(_path(PROXIES), _READ) if used else None
    return {
        name: [Problem("down", f"visitors do not reach it: {rival['text']}", rival["command"], "unreached")]
        for name, rival in (read["rivals"] if read else {}).items()
    }


def _files(used: Collection[Proxy]) -> str:
    """Return what the files of some proxies are now; empty where none is known."""
    return "".join(reach.Configuration(proxy).present() for proxy in sorted(used, key=lambda proxy: proxy.etc))


def _read_proxies() -> int:
    """Write what answers in place of each site; where a proxy refuses its files, it runs with those of before."""
    found = (file.read_json(_path(PROXIES), _READ) or {"rivals": {}})["rivals"]
    for name in sites.registered():
        with contextlib.suppress(DeploymentError, OSError):
            site = sites.find(name)
            broken, proxy = way.in_place_of(site), proxies.serving(site)
            found.pop(name, None)
            if broken:
                found[name] = {"text": broken.text, "command": broken.command or broken.todo}
            if proxy:
                reach.configuration(proxy).state()  # by which a look sees whether a file has changed
    _write(PROXIES, {"rivals": found})
    return 0


def _write(name: str, values: dict[str, Any]) -> None:
    _path(name).parent.mkdir(mode=0o700, exist_ok=True)
    file.write_json(_path(name), values, mode=0o600, durable=False)


def _path(name: str) -> Path:
    return spool.STATE / "walks" / f"{name}.json"
