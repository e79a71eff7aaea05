"""Serve a site without a proxy at an address: systemd listens there and connects requests to the active release.

A release is switched by a rename, as it is with a proxy: no release binds the address.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from django_formula.host import config_files, daemons, file, template
from django_formula.host import ports as host_ports
from django_formula.host import units as host_units
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import OURS, Files
from django_formula.process import sandbox, systemd
from django_formula.site.sites import Site
from django_formula.untrusted.text import in_command

TEMPLATES = ("salt://django/files/listen.socket", "salt://django/files/listen.service")


def listener_units(site: Site, templates: Mapping[str, str]) -> Files:
    """Return the units of a site; none where systemd does not listen for it."""
    variables = {
        "ours": OURS,
        "site": site.config,
        "is_mounting": not sandbox.refused(site),
        "user": site.platform["nginx"]["user"],
        "group": site.proxy_group,
        "socket": f"{site.current}/socket",
    }
    return {
        systemd.UNITS / f"django-{site.name}-{Path(url).name}": template.render(templates, url, **variables)
        for url in (TEMPLATES if site.listener else ())
    }


def present(site: Site) -> list[Path]:
    """Return the units of a site that exist."""
    socket, service = _units(site)
    return [path for path in (socket, service, _link(socket)) if os.path.lexists(path)]


def _units(site: Site) -> tuple[Path, Path]:
    socket = systemd.UNITS / f"django-{site.name}-listen.socket"
    return socket, socket.with_suffix(".service")


def _link(socket: Path) -> Path:
    return systemd.UNITS / "sockets.target.wants" / socket.name


def stale(site: Site, templates: Mapping[str, str]) -> dict[str, str]:
    """Return the units that differ from the pillar: path → in what way."""
    if not site.listener:
        return {str(path): "removed" for path in present(site)}
    found = config_files.differences(listener_units(site, templates))
    socket, _service = _units(site)
    return found or ({} if os.path.lexists(_link(socket)) else {str(socket): "disabled"})


def refuse_impossible(site: Site, ports: Mapping[int, set[str]] | None = None) -> None:
    """Refuse an address on which systemd could not listen for the site.

    Args:
        site: the site.
        ports: as `host.ports.listening` found them in this apply.

    Raises:
        DeploymentError: the host has no systemd, or another process has the port.
    """
    at = f"{site.at}:server:bind"
    if not site.listener:
        return
    if not daemons.has_systemd():
        raise DeploymentError(
            f"{site.name} has no proxy, and this host no systemd to listen on {site.listener}",
            hint=f"set {at} to unix and have your own proxy connect to {site.current}/socket, or set "
            f"{site.at}:proxy:kind to nginx",
        )
    socket, _service = _units(site)
    port = int(site.listener.rpartition(":")[2])
    if re.search(rf"(?m)^ListenStream=\S+:{port}$", file.read_text(socket) or ""):
        return  # it is systemd's for the site, which may change the address
    holder = host_ports.listener(port, ports=ports)
    if holder:
        raise DeploymentError(
            f"port {port} is taken by {holder}, so {site.name} cannot listen there; nothing has been changed",
            hint=f"stop that process (ss -ltnp 'sport = :{port}' shows it), or set another port in {at}",
        )


def apply(site: Site, templates: Mapping[str, str]) -> list[str]:
    """Have systemd listen for a site as the pillar describes it; connections to another address are cut.

    Where this is killed, the next apply begins it anew: the link by which the socket is opened at boot is made last.

    A service that connects visitors while its socket stays as it is is not restarted: that would cut their requests.

    Returns:
        What the operator may do at a quiet moment: nothing, or one text.

    Raises:
        DeploymentError: systemd cannot listen there, or start what connects; everything is as it was before.
    """
    units = listener_units(site, templates)
    before = {path: config_files.read(path) for path in units}
    socket, service = _units(site)
    is_enabled = os.path.lexists(_link(socket))
    is_same = is_enabled and before[socket] == units[socket]
    try:
        if not is_same:
            _link(socket).unlink(missing_ok=True)
        _install(units)
        if is_same and host_units.value(service.name, "ActiveState") == "active":
            restart = in_command("systemctl", "restart", service.name)
            return [
                f"{service.name} connects visitors as before until it starts again, since a restart would cut their "
                f"requests: {restart} has it start as it is written now"
            ]
        # systemd does not open a socket again while its service has it.
        host_units.control("stop", service.name, socket.name)
        host_units.control("start", socket.name)
        # Not by the first visitor, who would meet its failure.
        host_units.control("start", service.name, hint=f"{in_command('journalctl', '-u', service.name)} says why")
        host_units.control("enable", "--quiet", socket.name)
        return []
    except DeploymentError:
        if before[socket] is None:
            remove(site)
        else:
            _install(before)
            if is_enabled:
                host_units.control("enable", "--quiet", socket.name)
            host_units.control("restart", socket.name)
        raise


def _install(units: Files) -> None:
    for path, text in units.items():
        if text is not None:
            file.write(path, text)
    host_units.daemon_reload()


def remove(site: Site) -> None:
    """Remove the units of a site from the host."""
    socket, service = _units(site)
    if present(site):
        host_units.control("disable", "--quiet", "--now", socket.name)
        host_units.control("stop", service.name)
        for path in present(site):
            path.unlink()
        host_units.daemon_reload()
