"""One visit of a site: what is asked for, where, and what each link of the walk tells the next ones."""

from __future__ import annotations

import contextlib
import http.client
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from django_formula.deploy import drift
from django_formula.host import daemons, ports
from django_formula.host.commands import DeploymentError, redact
from django_formula.host.daemons import Daemon
from django_formula.host.ports import Place
from django_formula.proxy import proxies
from django_formula.proxy.contract import Proxy
from django_formula.proxy.proxies import Secure
from django_formula.release import http as release_http
from django_formula.release import releases
from django_formula.release.http import Answer, read
from django_formula.release.releases import Release
from django_formula.secret import secrets
from django_formula.site.sites import Site
from django_formula.untrusted.response import Bounded
from django_formula.untrusted.text import in_command, shown

#: Seconds that each request, connection and look-up may take.
PATIENCE = 5.0
#: Bytes of a page in which static files are searched.
_PAGE = 1 << 18
#: An apply, which writes what the pillar says and starts what does not run.
APPLY = "salt-call state.apply django"
#: Where a file is moved that keeps the proxy from serving.
_ASIDE = "/root/"


class Broken(Exception):
    """A link of the walk is broken.

    Args:
        text: what is wrong.
        command: what cures it when it is run as root; empty where no command of this host does.
        todo: what to do then.
        link: the name of the link, where another one than that of the step is broken.
    """

    def __init__(self, text: str, command: str = "", todo: str = "", link: str = ""):
        super().__init__(text)
        self.text, self.command, self.todo, self.link = text, command, todo, link


@dataclass
class Visit:
    """A visit of a site.

    Attributes:
        site: the site as last applied.
        host: the name that is visited; `port`, `target` (path and query) and `is_secure` are the rest of its URL.
        is_own: whether the URL is the site's own, and none was given.
        skip_network: ask nothing that leaves this host, such as DNS.
        explains: have Django render a page a second time where the log does not have its exception.
        addresses: those of the name that are this host's.
        place: where this host is asked.
        page: the page of the URL, once it was served.
    """

    site: Site
    host: str
    port: int
    target: str
    is_secure: bool
    is_own: bool = True
    skip_network: bool = False
    explains: bool = True
    addresses: tuple[str, ...] = ()
    place: Place = ("127.0.0.1", 80)
    page: str = ""

    @property
    def proxy(self) -> Proxy | None:
        """The proxy that has files of the site."""
        return proxies.serving(self.site)

    @property
    def live(self) -> Release | None:
        """The active release."""
        return releases.linked(self.site, self.site.current)

    @property
    def release(self) -> Release:
        """The active release, once the step `release` has found one."""
        found = self.live
        if not found:
            raise DeploymentError(f"{self.site.name} has no live release", hint=APPLY)
        return found

    @property
    def scheme(self) -> str:
        return "https" if self.is_secure else "http"

    @property
    def host_header(self) -> str:
        """The header Host as browsers send it."""
        return self.host if self.port == (443 if self.is_secure else 80) else f"{self.host}:{self.port}"

    def get(self, target: str) -> Answer:
        """Return what the proxy of this host answers.

        Raises:
            OSError: it does not answer in time.
            http.client.HTTPException: its answer is not HTTP, or ends before its end.
        """
        way = Secure(*self.place, self.host, PATIENCE) if self.is_secure else None
        connection = way or http.client.HTTPConnection(*self.place, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.connect()
            connection.sock = Bounded(connection.sock, time.monotonic() + PATIENCE, 2 * _PAGE)
            headers = {"Host": self.host_header, "User-Agent": "django-formula", "Connection": "close"}
            connection.request("GET", target, headers=headers)
            return read(connection.getresponse(), _PAGE)

    def plain(self, text: str) -> str:
        """Return a text of the project or of a log on one line, without secrets."""
        return shown(" ".join(redact(text, secrets.known(self.site)).split()))

    def drifted(self) -> list[str]:
        """Return the paths that differ from the active release and its proxy."""
        return [row["path"] for row in drift.differing_paths(self.site, self.release)]

    def to_release(self) -> str:
        """Return the command that makes a release of the active commit anew."""
        return self.site.to_release(self.release.record["commit"])


def visit(site: Site, url: str, *, skip_network: bool, explains: bool) -> Visit:
    """Return the visit of a URL; of the site's own where it is empty.

    Raises:
        DeploymentError: the URL is none of http or https.
    """
    own = f"{'https' if site.https else 'http'}://{site.canonical}"
    try:
        parts = urlsplit(url or f"{own}{site.config['path']}")
        given, host = parts.port, _in_ascii(parts.hostname or "")
    except ValueError:
        raise DeploymentError(
            f"{url!r} is no URL", hint=in_command("salt-call", "django.doctor", site.name, f"{own}/")
        ) from None
    if parts.scheme not in ("http", "https") or not host or not url.isprintable() or " " in url:
        raise DeploymentError(
            f"{url!r} is no URL of http or https", hint=in_command("salt-call", "django.doctor", site.name, f"{own}/")
        )
    is_secure = parts.scheme == "https"
    listens = site.listens_tls if is_secure else site.config["proxy"]["listen"]
    usual = 443 if is_secure else 80
    known = [ports.split(listen)[1] for listen in listens] or [usual]
    port = given or (usual if url or usual in known else known[0])
    target = release_http.target(parts, encoding="utf-8")
    return Visit(site, host, port, target, is_secure, not url, skip_network, explains, place=("127.0.0.1", port))


def _in_ascii(host: str) -> str:
    """Return the name of a host as the pillar and requests have it: ``xn--bcher-kva.example`` of ``bücher.example``.

    Raises:
        ValueError: there is no such name.
    """
    return host if host.isascii() else host.encode("idna").decode()


def to_start(daemon: Daemon, verb: str = "start") -> str:
    """Return the command that starts a daemon of this host, or another of its service."""
    if daemons.has_systemd():
        return in_command("systemctl", verb, daemon.service)
    return in_command("service", daemon.service, verb)


def aside(path: Path, *then: str) -> str:
    """Return the command that moves a file away that is not the formula's, and others after it."""
    return " && ".join([in_command("mv", str(path), _ASIDE), *then])
