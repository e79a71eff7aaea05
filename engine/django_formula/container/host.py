"""What Docker's configuration of this host means for its sites; podman has no daemon, no group and no such ports."""

import grp
import json
import pwd
import re
from collections.abc import Iterator

from django_formula.container import containers
from django_formula.container.engine import Engine
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site

#: A published port, and the address that it is bound to: ``0.0.0.0:8080->80/tcp``, ``:::8080->80/tcp``.
_PUBLISHED = re.compile(r"(\S+):(\d+(?:-\d+)?)->\S+")
_LOOPBACK = re.compile(r"127\.|::1$|\[::1\]$")
#: How many names a warning lists.
_MOST = 5


def warnings(site: Site) -> list[str]:
    """Return what is weak about the Docker of this host; nothing for a site in containers of podman."""
    engine = containers.engine(site)
    if engine.name != "docker":
        return []
    try:
        return [*_without_live_restore(engine), *_like_root(), *_past_the_firewall(engine)]
    except DeploymentError as error:
        return [f"Docker's configuration could not be read: {error.message}"]


def _without_live_restore(engine: Engine) -> Iterator[str]:
    if engine.run("info", "--format", "{{.LiveRestoreEnabled}}", doing="querying Docker").strip() == "false":
        yield (
            'Docker runs without live-restore: its restart or upgrade ends all containers; {"live-restore": true} '
            "in /etc/docker/daemon.json, then systemctl reload docker (docs/guides/containers.md)"
        )


def _like_root() -> Iterator[str]:
    """Yield a warning about the users who may use Docker's socket."""
    try:
        group = grp.getgrnam("docker")
    except KeyError:
        return
    names = {*group.gr_mem, *(user.pw_name for user in pwd.getpwall() if user.pw_gid == group.gr_gid)} - {"root"}
    if names:
        yield (
            f"in the group docker, and so as powerful as root on this host: {_listed(names)}; gpasswd --delete USER "
            "docker takes a user out"
        )


def _past_the_firewall(engine: Engine) -> Iterator[str]:
    """Yield a warning about ports of containers that Docker opens in front of the rules of the host's firewall."""
    lines = engine.run("ps", "--format", "{{json .}}", doing="listing containers").splitlines()
    found = set()
    for line in lines:
        container = json.loads(line)
        for address, port in _PUBLISHED.findall(str(container.get("Ports", ""))):
            if not _LOOPBACK.match(address):
                found.add(f"{port} ({container.get('Names')})")
    if found:
        yield (
            f"Docker publishes ports of containers past the firewall of this host: {_listed(found)}; publish them on "
            "127.0.0.1, or filter them in the chain DOCKER-USER"
        )


def _listed(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:_MOST]) + (f" and {len(shown) - _MOST} more" if len(shown) > _MOST else "")
