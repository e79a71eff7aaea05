"""The queue and caches that this host has for all hosts of a site: its part `cache`.

They are the site's own servers, which listen to its other hosts too: by TLS with a certificate that these pin, and
with a password of which this host has a hash. A host that loses the part keeps their data.
"""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

import django_host_file
import django_host_folder
import django_host_port
import django_secret
import django_store
import django_store_client
import django_store_contract
import django_store_service
import django_store_setup
from django_host_command import DeploymentError
from django_host_folder import Folder
from django_site import Site
from django_store_contract import OwnServer, ServerStore, Service
from django_store_setup import Pending

#: Seconds in which the workers of other hosts have to finish what they have taken, before a restart is put off.
_PATIENCE = 30.0
_PAUSE = 0.2
#: Seconds in which a server has to answer before a deployment.
_ANSWER = 5.0
#: The lines of a unit with the hosts that may connect.
_ALLOWED = re.compile(r"(?m)^IPAddressAllow=(.*)$")


class Served:
    """The servers that this host has for all hosts of a site.

    Args:
        site: the site, whose configuration has them as ``fleet``, ``stores``.
        password: SHA-256 of their password.
        pem: ``certificate`` and ``key`` of this host.
    """

    def __init__(self, site: Site, password: str, pem: Mapping[str, str]):
        self.site = site
        stores = site.config["fleet"]["stores"]
        self.servers: list[tuple[ServerStore, OwnServer]] = []
        for name, options in stores["servers"].items():
            kind = django_store.STORES[options["engine"]]
            service = Service(options["port"], site.name, password, tuple(stores["clients"]))
            server = OwnServer(site, name, f"{django_store_contract.SERVED}{name}", options, service)
            if isinstance(kind, ServerStore):
                self.servers.append((kind, server))
        first = self.servers[0][1]
        own, end, _former = pem["certificate"].partition("-----END CERTIFICATE-----\n")
        self._files = {first.certificate: own + end, first.key: pem["key"]}

    def changes(self, templates: Mapping[str, str]) -> dict[str, str]:
        """Return what differs on the host, for people."""
        password = django_secret.store_password_file(self.site)
        found = {str(path): "changed" if path.exists() else "new" for path in self._stale()}
        found |= {} if password.exists() else {str(password): "new"}
        for one in self._pending(templates):
            found |= one.changes()
        return found | gone(self.site)

    def _pending(self, templates: Mapping[str, str]) -> list[Pending]:
        django_store_service.try_sandbox(self.site)
        return django_store_setup.pending(self.servers, templates)

    def _stale(self) -> dict[Path, str]:
        return {path: text for path, text in self._files.items() if django_host_file.read_text(path) != text}

    def apply(self, templates: Mapping[str, str]) -> list[str]:
        """Set the servers up, change them, and stop those that the pillar no longer has; return warnings.

        Raises:
            DeploymentError: another program listens on the port of one, or one does not start.
        """
        remove(self.site)
        self._prepare()
        warnings = []
        for found in self._pending(templates):
            _refuse_taken_port(found)
            one, freed = django_store_setup.free(found)
            warnings += [freed, django_store_setup.apply(one)]
            if one.restarts:
                warnings.append(_restart(one.server))
        return [warning for warning in warnings if warning]

    def _prepare(self) -> None:
        """Write the certificate, its key, and the password with which root administers the servers."""
        site, user = self.site, django_store_contract.user(self.site)
        for _kind, server in self.servers:
            django_store_service.make_folders(server)
        if not os.path.lexists(site.secrets):  # the step `site` gives it to the site's group where that serves here
            django_host_folder.make(Folder(site.secrets, "root", "root", 0o700))
        password = django_secret.store_password_file(site)
        if not password.exists():
            django_host_file.write(password, django_secret.store_password(site), mode=0o600)
        stale = self._stale()
        for _kind, server in self.servers if stale else ():
            if os.path.lexists(server.socket):  # it runs
                django_store_setup.mark_restart(server)
        for path, text in stale.items():
            django_host_file.write(path, text, mode=0o400, user=user, group=site.user)


def _refuse_taken_port(pending: Pending) -> None:
    """Check that no other program listens where a server is to be started.

    Raises:
        DeploymentError: one does.
    """
    server = pending.server
    if not (pending.starts and server.service):
        return
    listener = django_host_port.listener(server.service.port)
    if listener:
        raise DeploymentError(
            f"port {server.service.port}, which {server.unit} needs, is taken by {listener}",
            hint=f"set {django_secret.store_key(server.site, server.name)}:port to another one",
        )


def _restart(server: OwnServer) -> str:
    """Restart a server; a queue once the workers have finished what they have taken of it.

    Returns:
        A warning where the restart is put off; empty otherwise.

    Raises:
        DeploymentError: it does not start.
    """
    deadline = time.monotonic() + _PATIENCE
    while server.name == "queue" and (taken := django_store_setup.taken(server)):
        if time.monotonic() > deadline:
            return (
                f"{server.unit} keeps running as it was started, until a later apply: {taken} messages are not "
                "acknowledged, and a restart now would delay them by Celery's visibility timeout"
            )
        time.sleep(_PAUSE)
    django_store_setup.restart(server)
    return ""


def clients(name: str) -> list[str] | None:
    """Return the addresses of the hosts that may use the servers which this host has for all hosts of a site.

    Args:
        name: of the site, which may have nothing else on this host.

    Returns:
        The addresses; None where the process manager filters none.

    Raises:
        DeploymentError: a server does not answer, or this host has none.
    """
    files = django_store_service.started(f"django-{name}-{django_store_contract.SERVED}")
    if not files:
        raise DeploymentError(f"this host has no queue or cache of {name} yet", hint="apply on it: state.apply django")
    for path in files:
        django_store_client.refuse_silence(django_store_contract.RUN / path.stem / "socket", _ANSWER)
    units = [path for path in files if path.suffix == ".service"]
    allowed = [{*_ALLOWED.findall(django_host_file.read_text(path) or "")} for path in units]
    return sorted(set.intersection(*allowed)) if allowed else None


def gone(site: Site) -> dict[str, str]:
    """Return the files of servers that this host has no longer for others, and what becomes of each."""
    found: dict[str, str] = {}
    for part in _unwanted(site):
        data = OwnServer(site, part, part, {}).data
        found |= {str(path): f"removed; {data} stays" for path in django_store_service.served_on_host(site)[part]}
    return found


def remove(site: Site) -> None:
    """Stop the servers that this host has no longer for others, and delete their files, but not their data."""
    for part in _unwanted(site):
        django_store_service.remove(site, part)


def _unwanted(site: Site) -> list[str]:
    stores = (site.config.get("fleet") or {}).get("stores") or {"servers": {}}
    parts = {f"{django_store_contract.SERVED}{name}" for name in stores["servers"]}
    return [part for part in django_store_service.served_on_host(site) if part not in parts]
