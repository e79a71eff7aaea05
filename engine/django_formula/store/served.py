"""The queue and caches that this host has for all hosts of a site: its part `cache`.

They are the site's own servers, which listen to its other hosts too: by TLS with a certificate that these pin, and
with a password of which this host has a hash. A host that loses the part keeps their data.
"""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from django_formula.host import file, folders, ports
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.host.outcome import Outcome
from django_formula.secret import secrets
from django_formula.site.sites import Site
from django_formula.store import client, contract, setup
from django_formula.store import service as store_service
from django_formula.store import stores as store_stores
from django_formula.store.contract import OwnServer, ServerStore, Service
from django_formula.store.setup import Pending

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
            kind = store_stores.STORES[options["engine"]]
            service = Service(options["port"], site.name, password, tuple(stores["clients"]))
            server = OwnServer(site, name, f"{contract.SERVED}{name}", options, service)
            if isinstance(kind, ServerStore):
                self.servers.append((kind, server))
        first = self.servers[0][1]
        own, end, _former = pem["certificate"].partition("-----END CERTIFICATE-----\n")
        self._files = {first.certificate: own + end, first.key: pem["key"]}

    def changes(self, templates: Mapping[str, str]) -> dict[str, str]:
        """Return what differs on the host, for people."""
        password = secrets.store_password_file(self.site)
        found = {str(path): "changed" if path.exists() else "new" for path in self._stale()}
        found |= {} if password.exists() else {str(password): "new"}
        for one in self._pending(templates):
            found |= one.changes()
        return found | gone(self.site)

    def _pending(self, templates: Mapping[str, str]) -> list[Pending]:
        store_service.try_sandbox(self.site)
        return setup.pending(self.servers, templates)

    def _stale(self) -> dict[Path, str]:
        return {path: text for path, text in self._files.items() if file.read_text(path) != text}

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
            one, freed = setup.free(found)
            warnings += [freed, setup.apply(one)]
            if one.restarts:
                warnings.append(_restart(one.server))
        return [warning for warning in warnings if warning]

    def _prepare(self) -> None:
        """Write the certificate, its key, and the password with which root administers the servers."""
        site, user = self.site, contract.user(self.site)
        for _kind, server in self.servers:
            store_service.make_folders(server)
        if not os.path.lexists(site.secrets):  # the step `site` gives it to the site's group where that serves here
            folders.make(Folder(site.secrets, "root", "root", 0o700))
        password = secrets.store_password_file(site)
        if not password.exists():
            file.write(password, secrets.store_password(site), mode=0o600)
        stale = self._stale()
        for _kind, server in self.servers if stale else ():
            if os.path.lexists(server.socket):  # it runs
                setup.mark_restart(server)
        for path, text in stale.items():
            file.write(path, text, mode=0o400, user=user, group=site.user)


def _refuse_taken_port(pending: Pending) -> None:
    """Check that no other program listens where a server is to be started.

    Raises:
        DeploymentError: one does.
    """
    server = pending.server
    if not (pending.starts and server.service) or store_service.answers(server):
        return
    listener = ports.listener(server.service.port)
    if listener:
        raise DeploymentError(
            f"port {server.service.port}, which {server.unit} needs, is taken by {listener}",
            hint=f"set {secrets.store_key(server.site, server.name)}:port to another one",
        )


def _restart(server: OwnServer) -> str:
    """Restart a server; a queue once the workers have finished what they have taken of it.

    Returns:
        A warning where the restart is put off; empty otherwise.

    Raises:
        DeploymentError: it does not start.
    """
    deadline = time.monotonic() + _PATIENCE
    while server.name == "queue" and (taken := setup.taken(server)):
        if time.monotonic() > deadline:
            return (
                f"{server.unit} keeps running as it was started, until a later apply: {taken} messages are not "
                "acknowledged, and a restart now would delay them by Celery's visibility timeout"
            )
        time.sleep(_PAUSE)
    setup.restart(server)
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
    files = store_service.started(f"django-{name}-{contract.SERVED}")
    if not files:
        raise DeploymentError(f"this host has no queue or cache of {name} yet", hint="apply on it: state.apply django")
    for path in files:
        client.refuse_silence(contract.RUN / path.stem / "socket", _ANSWER)
    units = [path for path in files if path.suffix == ".service"]
    allowed = [{*_ALLOWED.findall(file.read_text(path) or "")} for path in units]
    return sorted(set.intersection(*allowed)) if allowed else None


def gone(site: Site) -> dict[str, str]:
    """Return the files of servers that this host has no longer for others, and what becomes of each."""
    found: dict[str, str] = {}
    for part in _unwanted(site):
        data = OwnServer(site, part, part, {}).data
        found |= {str(path): f"removed; {data} stays" for path in store_service.served_on_host(site)[part]}
    return found


def remove(site: Site) -> None:
    """Stop the servers that this host has no longer for others, and delete their files, but not their data."""
    for part in _unwanted(site):
        store_service.remove(site, part)


def _unwanted(site: Site) -> list[str]:
    stores = (site.config.get("fleet") or {}).get("stores") or {"servers": {}}
    parts = {f"{contract.SERVED}{name}" for name in stores["servers"]}
    return [part for part in store_service.served_on_host(site) if part not in parts]


def serve(served: Served, templates: Mapping[str, str], *, test: bool) -> Outcome:
    """Have the servers that this host has for all hosts of a site."""
    name, changes = served.site.name, served.changes(templates)
    if not changes:
        return Outcome(f"{name}: the servers for its hosts are unchanged")
    if test:
        return Outcome(f"{name}: the servers for its hosts would be set up", changes)
    try:
        warnings = served.apply(templates)
    except (DeploymentError, OSError) as error:
        return Outcome(str(error), changes, failed=True)
    return Outcome("\n".join([f"{name}: the servers for its hosts have been set up", *warnings]), changes)
