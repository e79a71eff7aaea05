"""The way to a site on the host that balances it: its programs, ports and certificate, and which hosts get requests."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from django_formula.deploy.entries import entry
from django_formula.doctor.visit import APPLY, PATIENCE, Broken, to_start
from django_formula.host import clock, daemons, ports
from django_formula.host.commands import redact
from django_formula.host.daemons import Daemon
from django_formula.host.ports import Place
from django_formula.proxy.proxies import Secure
from django_formula.release.http import Answer, read
from django_formula.tls import certificates
from django_formula.untrusted.response import Bounded
from django_formula.untrusted.text import in_command, shown

#: Bytes of a page that are read.
_PAGE = 1 << 16


@dataclass(frozen=True)
class Balanced:
    """A site, as the balancer of this host has it."""

    entry: Mapping[str, Any]

    @property
    def host(self) -> str:
        """The name that is visited."""
        name: str = self.entry["domains"][0]
        return f"www{name[1:]}" if name.startswith("*.") else name

    @property
    def url(self) -> str:
        """The page at the site's own path."""
        return f"{'https' if self.entry['https'] else 'http'}://{self.host}{self.entry['path']}"

    def places(self, key: str) -> list[Place]:
        """Return where this host is asked: by http (``listen``) or ``https``."""
        found = (ports.split(listen) for listen in self.entry[key])
        return [("127.0.0.1" if address in ("", *ports.ALL) else address, port) for address, port in found]

    def plain(self, text: str) -> str:
        """Return a text on one line, without the password of the status page."""
        secrets = [self.entry["status"]["password"]] if self.entry["status"] else []
        return shown(" ".join(redact(text, secrets).split()))

    def get(self, target: str) -> Answer:
        """Return what visitors get of this host.

        Raises:
            OSError: it does not answer in time.
            http.client.HTTPException: its answer is not HTTP, or ends before its end.
        """
        secure = self.places("https")
        place = (secure or self.places("listen"))[0]
        way = Secure(*place, self.host, PATIENCE) if secure else http.client.HTTPConnection(*place, timeout=PATIENCE)
        with contextlib.closing(way) as connection:
            connection.connect()
            connection.sock = Bounded(connection.sock, time.monotonic() + PATIENCE, 2 * _PAGE)
            headers = {"Host": self.host, "User-Agent": "django-formula", "Connection": "close"}
            connection.request("GET", target, headers=headers)
            return read(connection.getresponse(), _PAGE)


def programs(_balanced: Balanced) -> str:
    """Return which programs of the balancer run: all of them."""
    found: list[Daemon] = entry("programs that balance")()
    stopped = [daemon.service for daemon in found if not daemons.is_running(daemon)]
    if stopped:
        text = f"{' and '.join(stopped)} do{'es' if len(stopped) == 1 else ''} not run"
        raise Broken(text, in_command("systemctl", "restart", *stopped))
    return f"{' and '.join(daemon.service for daemon in found)} run{'s' if len(found) == 1 else ''}"


def tcp(balanced: Balanced) -> str:
    """Return where the balancer accepts connections."""
    places = [*balanced.places("listen"), *balanced.places("https")]
    for address, port in places:
        try:
            socket.create_connection((address, port), PATIENCE).close()
        except OSError as error:
            text = f"nothing accepts connections on {address} port {port} ({(error.strerror or str(error)).lower()})"
            raise Broken(text, to_start(entry("programs that balance")()[0], "restart")) from None
    return f"it accepts connections on port {', '.join(str(port) for _address, port in places)}"


def tls(balanced: Balanced) -> str:
    """Return until when the certificate is valid that visitors get."""
    if not balanced.entry["https"]:
        return ""
    context = ssl.create_default_context()
    if certificates.root().exists():
        context.load_verify_locations(certificates.root())
    try:
        raw = socket.create_connection(balanced.places("https")[0], PATIENCE)
        with raw, context.wrap_socket(raw, server_hostname=balanced.host) as secure:
            certificate = secure.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        text = f"visitors refuse the certificate: {error.verify_message}; the clock of this host has {clock.now()}"
        raise Broken(text, APPLY) from None
    except OSError as error:
        reason = getattr(error, "reason", "") or error.strerror or str(error)
        raise Broken(f"the TLS handshake for {balanced.host} fails: {reason}", APPLY) from None
    return f"the certificate is valid until {certificate.get('notAfter', '?')}"


class Backends(NamedTuple):
    """The hosts of a site: those that get requests, and why each other one gets none.

    Attributes:
        down: those whose checks fail; out: those that people have taken out.
    """

    serving: list[str]
    down: dict[str, str]
    out: dict[str, str]


def backends(balanced: Balanced) -> Backends:
    """Return the hosts of a site as its balancer sees them.

    Raises:
        DeploymentError: the balancer does not say.
    """
    seen: dict[str, dict[str, Any]] = entry("state of a backend")(balanced.entry["name"], None, "state")
    out = {host: f"{host} ({row['state']})" for host, row in seen.items() if row["state"] != "ready"}
    down = {host: f"{host} ({row['check']})" for host, row in seen.items() if host not in out and not row["is_up"]}
    return Backends([host for host in seen if host not in out and host not in down], down, out)


def hosts(balanced: Balanced) -> str:
    """Return which hosts get requests: all that people have not taken out."""
    name = balanced.entry["name"]
    serving, down, out = backends(balanced)
    if down:
        places = {server["name"]: server["place"] for server in balanced.entry["servers"]}
        known = ", ".join(f"{host} at {places.get(host, 'an unknown address')}" for host in down)
        todo = f"cure what django.doctor finds there; if it finds nothing, {APPLY} here and let this host reach {known}"
        raise Broken(f"no requests for {', '.join(down.values())}", todo=todo)
    if not serving:
        todo = f"on the master: {in_command('salt-run', 'django.join', name, next(iter(out), 'HOST'))}"
        raise Broken(f"no host gets requests: {', '.join(out.values()) or 'there is none'}", todo=todo)
    return f"requests for {', '.join(serving)}" + (f", and none for {', '.join(out.values())}" if out else "")


def page(balanced: Balanced) -> str:
    """Return what visitors get of the page at the site's own path."""
    target = balanced.entry["path"]
    if balanced.entry["clients"].get("client_ca"):
        return ""
    try:
        status = balanced.get(target).status
    except (OSError, http.client.HTTPException) as error:
        why = f"has no answer within {PATIENCE:.0f} s" if isinstance(error, TimeoutError) else f"fails: {error}"
        raise Broken(f"GET {target} {why}", todo="look at the walks of the hosts that get requests") from None
    if status >= 500:
        raise Broken(f"GET {target} returned {status}", todo="look at the walks of the hosts that get requests")
    return f"GET {target} returned {status}"


#: The links, as `walks.STEPS` has them on a host of the site.
STEPS: tuple[tuple[str, Any, bool], ...] = (
    ("balancer", programs, True),
    ("TCP", tcp, True),
    ("TLS", tls, False),
    ("hosts", hosts, True),
    ("page", page, False),
)
#: Those that the watch of a master looks at, of which none leaves the host: hosts in maintenance have a page with 503,
#: and a certificate may be of an authority that this host does not know.
WATCHED = tuple(step for step in STEPS if step[0] in ("balancer", "TCP", "hosts"))
