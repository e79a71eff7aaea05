"""Sites that are held: stopped while their requests wait, or while visitors see the maintenance page."""

import asyncio
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.backup import restore
from django_formula.host import file, users
from django_formula.proxy import maintenance, proxies, relay
from django_formula.release import instances
from django_formula.release.releases import Release
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.worker import workers

#: Seconds within which the last connection has come.
_LAST = 0.5


def reasons(site: Site, live: Release) -> list[str]:
    """Return why requests of a site cannot wait while it is stopped; empty where they can."""
    proxy = proxies.serving(site)
    if not instances.serves(live.path):
        return []
    if proxy is None or proxy.DAEMON.service != "nginx" or not proxies.is_ready(site):
        return [f"{site.name} is not served by nginx of the formula"]
    if instances.kind(live.path)[0] != "unix":
        return [f"the server of {site.name} listens on a port, not on a unix socket"]
    if instances.is_kept_connected(live.path):
        return [f"nginx keeps connections to {site.name} open (proxy:keepalive)"]
    return []


class Holder:
    """A socket in which the connections of a site wait, and from which they are served afterwards."""

    def __init__(self, site: Site):
        self.path = site.runtime.parent / f"{site.name}.held.sock"  # which is root's
        self._socket = relay.bound(self.path, users.group_id(site.proxy_group))

    def serve(self, target: Path) -> None:
        """Pass the connections that wait on to the socket of an instance, and wait until they are answered."""
        relaying = relay.Relay(self._socket, lambda: str(target), idle=_LAST)
        thread = threading.Thread(target=lambda: asyncio.run(relaying.run()))  # this one may have a loop of Salt's
        thread.start()
        thread.join()
        self.close()

    def close(self) -> None:
        """Close the socket; what still waits gets an error."""
        self._socket.close()
        self.path.unlink(missing_ok=True)


def before(site: Site, live: Release, *, waits: bool) -> dict[str, Any]:
    """Return what a site is before it is held, from which `release` knows what to do.

    Args:
        waits: whether its requests wait, instead of getting the maintenance page.
    """
    if waits:
        return {"socket": os.readlink(live.path / "socket")} if instances.serves(live.path) else {}
    return {"was_on": sites.known_maintenance(site) is not None, "holds": not maintenance.holds_workers(site)}


def hold(site: Site, live: Release, was: Mapping[str, Any], holder: Holder | None, by: str) -> None:
    """Have requests wait or get the maintenance page; with requests that wait, the workers are stopped before."""
    if "was_on" in was:
        if not was["was_on"]:
            maintenance.on(site, by=by)
        maintenance.hold_workers(site)
        return
    manager = instances.process_manager(site, live.path)
    for name in workers.recorded(live.path):
        manager.pause(site, live.path, name)
    if holder and "socket" in was:
        file.link(live.path / "socket", str(holder.path), durable=False)


def release(site: Site, live: Release, was: Mapping[str, Any], holder: Holder | None) -> None:
    """Have requests reach the site again, those that wait first."""
    if "was_on" in was:
        restore.reopen(site, was_on=was["was_on"], holds=was["holds"])
    elif "socket" in was:
        file.link(live.path / "socket", was["socket"], durable=False)
        if holder:
            holder.serve(Path(was["socket"]))
