"""Hold the requests of a site while its database or another server is restarted on the command line."""

import os
import time
from typing import Any

from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.proof import state
from django_formula.proxy import waiting
from django_formula.release import instances
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.verbs import status

#: Seconds between two looks whether the way is still closed.
_PAUSE = 0.1
#: How the name of what has closed the way begins, if it was this.
_OWN = "django.hold"


def hold(name: str, lasts: str = "", asked_by: str = _OWN) -> dict[str, Any]:
    """Have requests for a site wait, as soon as its server has answered those that it has; or reach it again.

    Args:
        lasts: ``off``, or for how many seconds; as long as a request waits by default.

    Raises:
        DeploymentError: requests for the site do not wait, or they do already for a deployment.
    """
    site = sites.find(name)
    live = status.live_release(site)
    found = waiting.closed(site)
    if found and not found["by"].startswith(_OWN):
        raise DeploymentError(
            f"requests for {name} wait already, since {found['since']}, for {found['by']}",
            hint=f"hold them once salt-call django.status {name} does not show that any more",
            transient=True,
        )
    if lasts == "off":
        waiting.open_way(site, of=_OWN)
        return {"requests": f"reach {name}"}
    waiting.refuse_impossible(site, live)
    until = time.monotonic() + _seconds(site, lasts)
    waiting.close_way(site, live.path, asked_by, until)
    _open_in_time(site)
    proof = state.current(site)
    both = {live.name, proof.release, proof.old} if proof else {live.name}
    longest, left = min(commands.seconds(site.config["releases"]["drain"]), until - time.monotonic()), 0
    for one in sorted(both):
        left += instances.drain(site, site.releases / one, max(until - time.monotonic(), 0))
    rest = until - time.monotonic()
    if left or rest <= 0:
        waiting.open_way(site, of=asked_by)
        raise DeploymentError(
            f"{left or 'the last'} requests to {name} did not end within {longest:.0f} s, so that none wait",
            hint=f"raise {site.at}:releases:drain and {site.at}:releases:wait, or restart the site: "
            "what it has in hand is lost then",
        )
    return {
        "requests": f"wait for {rest:.0f} s from now",
        "to end that": f"salt-call django.hold {name} off",
    }


def _seconds(site: Site, lasts: str) -> float:
    longest = site.longest_wait
    found = commands.seconds(f"{lasts}s" if lasts.isdecimal() else lasts) if lasts else longest
    if not 0 < found <= longest:
        raise DeploymentError(
            f"expected off, or at most {longest} seconds, got {lasts}",
            hint=f"a request for {site.name} waits no longer: {site.at}:releases:wait",
        )
    return found


def _open_in_time(site: Site) -> None:
    """Have a process of its own open the way once it is not closed any more: the relay then passes all on already."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if not os.fork():
            nothing = os.open(os.devnull, os.O_RDWR)
            for number in (0, 1, 2):
                os.dup2(nothing, number)
            while (found := waiting.closed(site)) and found["by"].startswith(_OWN):
                time.sleep(_PAUSE)
            if not found and waiting.is_recorded(site):
                waiting.open_left(site)
    finally:
        os._exit(0)
