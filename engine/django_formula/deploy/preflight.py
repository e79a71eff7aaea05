"""The preflight: whether this host has the resources for another release, and whether visitors notice the switch."""

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django_formula.database import databases, engines, sqlite
from django_formula.deploy.deployment import Deployment
from django_formula.host import config_files, daemons, disk, proc
from django_formula.host.commands import DeploymentError
from django_formula.host.disk import Space
from django_formula.proxy import proxies, site_files, waiting
from django_formula.proxy.contract import Proxy
from django_formula.release import instances
from django_formula.release.releases import Release
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.store import setup
from django_formula.virtualenv import interpreter
from django_formula.worker import workers as worker_workers

#: Seconds in which a database server has to accept a connection.
PATIENCE = 3.0
#: Options by which a release may have another database than the live one.
_DATABASES = {"databases", "environment", "settings", "secrets", "files", "settings_module", "overlay"}


@dataclass
class Outlook:
    """The result of a preflight.

    Attributes:
        gapless: whether visitors will notice the switch, and how to avoid that; empty without an active release.
        refusal: why a release is not possible now.
        warnings: what will fail after the switch.
        waits_for: the deployment that holds the site's lock.
    """

    gapless: str
    refusal: DeploymentError | None = None
    warnings: list[str] = field(default_factory=list)
    waits_for: str = ""

    def changes(self) -> dict[str, Any]:
        """Return what a dry run reports; a release that would be refused is no error there."""
        gapless = {"gapless": self.gapless} if self.gapless else {}
        refused = {"refused": str(self.refusal)} if self.refusal else {}
        waits = {"waits_for": self.waits_for} if self.waits_for else {}
        return {**gapless, **refused, **waits, **({"warnings": self.warnings} if self.warnings else {})}


def check_host(deployment: Deployment, changes: Mapping[str, Any]) -> Outlook:
    """Check the host before a new release; change nothing.

    Args:
        changes: what differs from the active release: ``requirements``, and paths of the pillar in ``changed``.
    """
    site, live = deployment.site, deployment.live
    outlook = Outlook(_gapless(deployment), waits_for=deployment.lock.holder() if deployment.test else "")
    changed = {str(path).split(":")[0] for path in changes.get("changed", ())}
    try:
        interpreter.require_for_server(site)
        if not deployment.test:  # a dry run has mounted nothing
            sites.refuse_unmounted_media(site)
        refuse_without_disk(site, live, with_virtualenv=bool(changes.get("requirements")))
        setup.refuse_lost_tasks(site)
        outlook.warnings += setup.warnings(site)
        if live and site.config["releases"]["overlap"]:
            refuse_without_memory(site, live)
        if live and not deployment.again and not changed & _DATABASES:
            _refuse_without_database(site, live)
        if live and _reloads(site, live):
            proxies.check(site)
    except DeploymentError as error:
        error.transient = True
        outlook.refusal = error
        return outlook
    if not _reloads(site, live) and _has_new_files(deployment):
        try:
            proxies.check(site)
        except DeploymentError as error:
            outlook.warnings.append(
                f"{error.message}; the release is activated without a reload, "
                "and the proxy's files of the site stay unchanged"
            )
    return outlook


def _gapless(deployment: Deployment) -> str:
    """Return whether visitors will notice the switch, why, and how to avoid it."""
    site, live = deployment.site, deployment.live
    at = site.at
    if not live or not instances.serves(live.path):
        return ""
    if sites.known_maintenance(site):
        return f"yes, visitors get the maintenance page, before and after: django.maintenance {site.name} off ends that"
    if instances.pid(site, live.path) is None:
        return f"no: {live.name} does not run"
    if not site.config["releases"]["overlap"] and waiting.works(site, live):
        return f"yes, their requests wait: {at}:releases:overlap: false stops the live instance first; true would not"
    if not site.config["releases"]["overlap"]:
        return f"no: {at}:releases:overlap: false stops the live instance before the new one starts; true would not"
    kind = site.config["proxy"]["kind"]
    if kind != "none" and not _serving(site):
        return f"no: {kind} does not serve the site now"
    if kind == "none" and proxies.is_installed(site):
        address = site.listener or "your own proxy"
        return f"no: {at}:proxy:kind: none removes the site from the proxy; visitors need {address} then"
    reload = _reloads(site, live)
    return f"yes, with a reload of {kind}: {reload}" if reload else "yes"


def _serving(site: Site) -> Proxy | None:
    """Return the running proxy that serves a site."""
    proxy = proxies.serving(site)
    return proxy if proxy and daemons.pid(proxy.DAEMON) is not None else None


def _reloads(site: Site, live: Release | None) -> str:
    """Return why the switch has to reload the proxy; empty where a rename is enough."""
    new = instances.next_kind(site)
    if not live or not proxies.configured(site) or not proxies.is_installed(site):
        return ""
    if instances.kind(live.path) != new:
        return f"it will reach the site by {' and '.join(new)}; the next release needs none over a unix socket"
    if site.config["proxy"].get("keepalive") or instances.is_kept_connected(live.path):
        return f"{site.at}:proxy:keepalive keeps connections; without it a rename is enough"
    if new[0] != "tcp":
        return ""
    if site.config["server"]["kind"] == "mod_wsgi":
        return f"{site.at}:server:kind listens on ports; for another on a unix socket a rename is enough"
    return f"{site.at}:server:bind is an address; with unix a rename is enough"


def _has_new_files(deployment: Deployment) -> bool:
    """Return whether the proxy runs and gets other files of the site after the switch."""
    site, live = deployment.site, deployment.live
    if not live or not _serving(site):
        return False
    try:
        return bool(config_files.differences(site_files.files_of_site(site, live.facts, deployment.templates)))
    except DeploymentError:
        return False  # the step `proxy` reports it


def refuse_without_memory(site: Site, live: Release) -> None:
    """Check that memory suffices for two instances: otherwise the kernel would kill one of them, or the database.

    Raises:
        DeploymentError: the active instance uses more memory than is available.
    """
    manager = instances.process_manager(site, live.path)
    workers = [manager.pid(site, live.path, name) for name in worker_workers.recorded(live.path)]
    pids = [instances.pid(site, live.path), *workers]
    needed = sum(proc.memory_of_tree(one) for one in pids if one)
    left = proc.available_memory()
    if needed > left:
        raise DeploymentError(
            f"another instance next to the active one needs {needed >> 20} MB of memory, "
            f"and {left >> 20} MB are available",
            hint=f"{site.at}:releases:overlap: false stops the active one first, which visitors notice; "
            f"or fewer {'processes of server and workers' if workers else 'server:processes'}",
            transient=True,
        )


def refuse_without_disk(site: Site, last: Release | None, *, with_virtualenv: bool) -> None:
    """Check that the disk has space for two releases: a full disk breaks the site that serves.

    Args:
        last: a release that was measured.
        with_virtualenv: whether the release gets a virtualenv of its own.

    Raises:
        DeploymentError: it has not.
    """
    size = last.record.get("size") if last else None
    if not size:
        return
    parts = [Space(*size[part]) for part in ("release", *(["virtualenv"] if with_virtualenv else []))]
    needed = Space(2 * sum(part.bytes for part in parts), 2 * sum(part.files for part in parts))
    left = disk.free(site.root)
    if left.bytes < needed.bytes or left.files < needed.files:
        flag = "-h" if left.bytes < needed.bytes else "-i"
        raise DeploymentError(
            f"the disk has {left} left, and two releases like the last one take {needed}",
            hint=f"df {flag} {site.root}; make room there, or keep fewer: {site.at}:releases:keep",
            transient=True,
        )


def _refuse_without_database(site: Site, live: Release) -> None:
    """Check that the databases of the active release are available, without which the new one cannot start.

    Raises:
        DeploymentError: one is not.
    """
    migrated = live.facts.get("migrations", {})
    for alias, database in live.facts.get("databases", {}).items():
        if not migrated.get(alias, {}).get("applied"):
            continue
        path = databases.database_file(site, live.path, live.facts, database)
        problem = sqlite.problem(site, path) if path else _server_problem(database)
        if problem:
            raise DeploymentError(
                f"the database {alias!r} of {live.name} is not available: {problem}",
                hint=f"correct that; if the new release has another database: {site.to_release()}",
                transient=True,
            )


def _server_problem(database: Mapping[str, str]) -> str:
    """Return why a database server refuses connections; empty where it accepts them, or its address is unknown.

    PostgreSQL's drivers take several hosts, each with a port or all with the same one, of which one has to answer.
    """
    engine = engines.find(database["engine"])
    if not engine or not engine.is_server:
        return ""
    hosts = database.get("host", "").split(",") if engine == engines.POSTGRES else [database.get("host", "")]
    ports = str(database.get("port") or engine.port).split(",")
    problem = ""
    for number, host in enumerate(hosts):
        problem = _host_problem(engine, host, ports[number] if len(ports) == len(hosts) else ports[0])
        if not problem:
            break
    return problem


def _host_problem(engine: engines.Engine, host: str, port: str) -> str:
    place = engine.socket_path
    if host.startswith("/"):
        place, host = host if Path(host).is_socket() else f"{host}/.s.PGSQL.{port}", ""
    if host and (host, engine) != ("localhost", engines.MYSQL):
        return _refusal((host, int(port))) if re.fullmatch(r"[0-9]{1,5}", port) else ""
    path = place.replace("{}", port)
    return _refusal(path) if Path(path).exists() else ""


def _refusal(address: str | tuple[str, int]) -> str:
    """Return why an address refuses connections; empty where it accepts them."""
    try:
        if isinstance(address, tuple):
            socket.create_connection(address, PATIENCE).close()
        else:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(PATIENCE)
                connection.connect(address)
    except (OSError, ValueError, OverflowError) as error:  # the project's settings name the address
        why = getattr(error, "strerror", "") or error
        return f"{address if isinstance(address, str) else ':'.join(map(str, address))}: {why}"
    return ""
