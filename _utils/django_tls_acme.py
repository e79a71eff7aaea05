"""Certificates from an authority that speaks ACME (RFC 8555), each domain by itself, by a client of Debian's."""

import contextlib
import hashlib
import logging
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import django_host_clock
import django_host_file
import django_host_folder
import django_proxy_switch
import django_tls
import django_tls_certbot
import django_tls_uacme
from django_host_command import DeploymentError
from django_host_folder import Folder
from django_host_lock import Lock
from django_site import Site

log = logging.getLogger(__name__)

#: Seconds for one order.
PATIENCE = 300.0
#: How often an order is begun where the authority refuses a nonce, which says nothing of it.
TRIES = 5
#: Seconds after a failed order until the next one, doubled with each: Let's Encrypt bears five an hour.
PAUSE, LONGEST_PAUSE = 900, 6 * 3600
_T = TypeVar("_T")


class Client(Protocol):
    """A program that speaks with authorities; each is a module of its own.

    What it keeps of an account is in a folder of root's. Errors of the authority are in the log of a DeploymentError,
    ``badNonce`` among them where that is all.
    """

    def register(self, site: Site, folder: Path, binding: tuple[str, str] | None, patience: float) -> None:
        """Have an account at the authority; one that is there is as good.

        Args:
            binding: identifier and key (base64url, without padding) of an external account.
            patience: seconds.

        Raises:
            DeploymentError: the authority gives none.
        """

    def issue(self, site: Site, folder: Path, domain: str, challenges: Path, patience: float) -> tuple[str, str]:
        """Order a certificate, whatever there is; returns its key and its chain in PEM.

        Args:
            challenges: the folder where answers to http-01 are served from.

        Raises:
            DeploymentError: there is none.
        """

    def said(self, log: str) -> str:
        """What the authority, or the client, has said of an order that has failed, in a line; empty for nothing."""


#: Every client, by the name that the pillar has for it.
CLIENTS: dict[str, Client] = {"uacme": django_tls_uacme, "certbot": django_tls_certbot}


def due(site: Site, *, again: bool = False) -> tuple[dict[str, str], list[str]]:
    """The domains whose certificate has to be ordered, and why; and warnings of those that have failed just now.

    Args:
        again: order those too.
    """
    found, deferred = {}, []
    for domain in django_tls.domains(site):
        why = _why(site, domain)
        if why:
            failure = django_host_file.read_json(_failure(domain)) or {}
            wait = failure.get("next", 0) - time.time()
            if not again and 0 < wait <= LONGEST_PAUSE and failure.get("origin") == django_tls.origin(site):
                deferred.append(
                    f"no certificate for {domain} yet: {failure['error']}; it is tried again in {wait / 60:.0f} min, "
                    f"or now by salt-call django.renew {site.name}"
                )
            else:
                found[domain] = why
    return found, deferred


def _why(site: Site, domain: str) -> str:
    certificate = django_tls.read(domain)
    if not certificate:
        return "new"
    if certificate.origin != django_tls.origin(site):
        return f"new, in place of {certificate.origin.split()[0]}"
    return f"{certificate.left / 86400:.1f} days left" if certificate.is_due else ""


def _failure(domain: str) -> Path:
    return django_tls.path_of(domain).with_suffix(".failed")


def renew(site: Site, wanted: Iterable[str], files: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Order certificates and have the proxy take them; what fails leaves the one that there is.

    Args:
        wanted: the domains.
        files: what the pillar gives of ``tls``: ``eab:key``.

    Returns:
        What has been ordered, by domain, and warnings.
    """
    ordered, warnings = {}, []
    for domain in wanted:
        path = django_tls.path_of(domain)
        before = django_host_file.read_text(path)
        try:
            with _alone():
                if django_host_file.read_text(path) != before:
                    continue  # the timer was quicker, or an apply
                log.info("%s: ordering a certificate for %s", site.name, domain)
                django_proxy_switch.change_certificates({path: _order(site, domain, files)})
        except (DeploymentError, OSError) as error:
            cause = _cause(site, error)
            _note(site, domain, cause)
            warnings.append(f"no certificate for {domain} yet: {cause}; {_serves(domain)}")
        else:
            _failure(domain).unlink(missing_ok=True)
            certificate = django_tls.read(domain)
            ordered[domain] = f"valid until {django_host_clock.written(certificate.ends)}" if certificate else "damaged"
    return ordered, warnings


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Order alone on this host.

    Raises:
        DeploymentError: somebody else orders for too long.
    """
    folder = django_tls.STATE / "acme"
    for path, mode in ((django_tls.STATE, 0o755), (folder, 0o700)):
        django_host_folder.make(Folder(path, "root", "root", mode))
    orders = Lock(
        folder / "lock",
        "order",
        busy="another order of certificates",
        timeout=f"{PATIENCE:.0f}s",
        hint="wait for it, or end that process; the lock goes with it",
    )
    with orders.held():
        yield


def _cause(site: Site, error: Exception) -> str:
    """Why an order has failed, in a line: what the authority has said, where it has said something."""
    said = _client(site).said(getattr(error, "log", "") or "")
    first = str(error).splitlines()[0]
    return f"{first}: {textwrap.shorten(said, 1000, placeholder=' …')}" if said else first


def _client(site: Site) -> Client:
    return CLIENTS[site.config["tls"]["client"]]


def _serves(domain: str) -> str:
    certificate = django_tls.read(domain)
    if not certificate:
        return "nothing serves"
    kind = "a placeholder" if certificate.origin.startswith("self_signed ") else "the one before"
    return f"{kind} serves, with {max(certificate.left, 0) / 86400:.0f} days left"


def _note(site: Site, domain: str, cause: str) -> None:
    before = django_host_file.read_json(_failure(domain)) or {}
    tries = int(before.get("tries", 0)) + 1
    pause = min(PAUSE * 2 ** (tries - 1), LONGEST_PAUSE)
    about = {"error": cause, "tries": tries, "next": time.time() + pause, "origin": django_tls.origin(site)}
    with contextlib.suppress(OSError):
        django_host_file.write_json(_failure(domain), about, mode=0o600)


def _order(site: Site, domain: str, files: Mapping[str, str]) -> str:
    """Have the client order a certificate; returns the content of the domain's file.

    Raises:
        DeploymentError: it gets none, or one that is no better than what there is.
    """
    account = _account(site, files)
    challenges = django_tls.challenges()
    django_host_folder.make(Folder(challenges, "root", "root", 0o755))
    for path in challenges.iterdir():
        if path.stat().st_mtime < time.time() - 86400:  # of an order that was killed
            path.unlink()
    key, chain = _persistently(lambda: _client(site).issue(site, account, domain, challenges, PATIENCE))
    text = django_tls.joined(django_tls.origin(site), key, chain)
    django_tls.refuse_worse(domain, text)
    return text


def _persistently(ask: Callable[[], _T]) -> _T:
    """Ask an authority, again where it has refused a nonce.

    Raises:
        DeploymentError: it refuses something else, or nonces all the time.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            return ask()
        except DeploymentError as error:
            if not tries_left or "badNonce" not in error.log:
                raise
    raise AssertionError


def _account(site: Site, files: Mapping[str, str]) -> Path:
    """The folder of the account at the authority, which is made where there is none.

    Raises:
        DeploymentError: the authority gives none.
    """
    tls = site.config["tls"]
    client = [] if tls["client"] == "uacme" else [tls["client"]]
    who = "\n".join([tls["directory"], tls["email"] or "", tls["eab"]["key_id"] or "", *client])
    folder = django_tls.STATE / "acme" / hashlib.sha256(who.encode()).hexdigest()[:16]
    made = folder / "account.json"
    if made.exists():
        return folder
    django_host_folder.make(Folder(folder, "root", "root", 0o700))
    binding = None
    if tls["eab"]["key_id"]:
        key = files.get("eab:key")
        if not key:
            raise DeploymentError(
                f"there is no account at {tls['directory']} yet, and the key of its binding is in the pillar only",
                hint="salt-call state.apply django",
            )
        binding = (tls["eab"]["key_id"], key.rstrip("="))
    _persistently(lambda: _client(site).register(site, folder, binding, PATIENCE))
    about = {"client": tls["client"], "directory": tls["directory"], "email": tls["email"]}
    django_host_file.write_json(made, about, mode=0o600)
    return folder
