"""Order certificates from an authority that speaks ACME (RFC 8555), one for each domain, by a client of Debian's."""

import contextlib
import hashlib
import http.server
import os
import re
import socketserver
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from django_formula.host import clock, file, folders
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.host.locks import Lock
from django_formula.proxy import switch
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.tls import certificates
from django_formula.tls.clients import CLIENTS, Client
from django_formula.untrusted.text import Log

log = Log.of(__name__)

#: Seconds for one order.
PATIENCE = 300.0
#: How often an order is tried where the authority refuses a nonce, which is no fault of the order.
TRIES = 5
#: Seconds after a failed order until the next one, doubled with each: Let's Encrypt accepts five failures an hour.
PAUSE, LONGEST_PAUSE = 900, 6 * 3600
_T = TypeVar("_T")


def due(site: Site, *, again: bool = False) -> tuple[dict[str, str], list[str]]:
    """Return the domains whose certificate has to be ordered, with the reason, and warnings of recent failures.

    Args:
        site: the site.
        again: order domains that failed recently, too.
    """
    found, deferred = {}, []
    for domain in certificates.domains(site):
        reason = _reason(site, domain)
        if reason:
            failure = file.read_json(_failure(domain)) or {}
            wait = failure.get("next", 0) - time.time()
            if not again and 0 < wait <= LONGEST_PAUSE and failure.get("origin") == certificates.origin(site):
                deferred.append(
                    f"no certificate for {domain} yet: {failure['error']}; the next try is in {wait / 60:.0f} min, "
                    f"or now: salt-call django.renew {site.name}"
                )
            else:
                found[domain] = reason
    return found, deferred


def _reason(site: Site, domain: str) -> str:
    """Return why the certificate of a domain has to be ordered; empty where it does not."""
    certificate = certificates.read(domain)
    if not certificate:
        return "new"
    if certificate.origin != certificates.origin(site):
        return f"new, instead of {certificate.origin.split()[0]}"
    return f"{certificate.left / 86400:.1f} days left" if certificate.is_due else ""


def _failure(domain: str) -> Path:
    """Return the file that records the failed orders of a domain."""
    return certificates.path_of(domain).with_suffix(".failed")


def renew(
    site: Site,
    domains: Iterable[str],
    files: Mapping[str, str],
    install: Callable[[Mapping[Path, str]], None] | None = None,
    serving: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
) -> tuple[dict[str, str], list[str]]:
    """Order certificates and reload what serves them; where an order fails, the present certificate stays.

    Args:
        site: the site.
        domains: what to order certificates for.
        files: secrets of the pillar below ``tls``: ``eab:key``.
        install: writes certificates and reloads what serves them; without it, the proxies of this host.
        serving: serves the challenges of an order, where the proxies of this host do not.

    Returns:
        What was ordered, by domain, and warnings.
    """
    ordered, warnings = {}, []
    for domain in domains:
        path = certificates.path_of(domain)
        before, has_begun = file.read_text(path), False
        try:
            with _alone():
                has_begun = True
                if file.read_text(path) != before:
                    continue  # the timer, or an apply, renewed it in the meantime
                log.info("%s: ordering a certificate for %s", site.name, domain)
                with serving():  # under the lock: the end of one order would end what serves another's
                    texts = {path: _order(site, domain, files)}
                with switch.alone() if install is None else contextlib.nullcontext():
                    if file.read_text(path) != before:
                        continue  # an apply has changed or removed it during the order
                    (install or switch.change_certificates)(texts)
        except (DeploymentError, OSError) as error:
            cause = _cause(site, error)
            # Else another one is under way, after which this one need not wait; or the certificate is not wanted.
            if has_begun and file.read_text(path) == before:
                _record_failure(site, domain, cause)
            warnings.append(f"no certificate for {domain} yet: {cause}; {_serves(domain)}")
        else:
            _failure(domain).unlink(missing_ok=True)
            certificate = certificates.read(domain)
            ordered[domain] = f"valid until {clock.timestamp(certificate.ends)}" if certificate else "damaged"
    return ordered, warnings


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock of this host's orders.

    Raises:
        DeploymentError: another process holds it for too long.
    """
    folder = certificates.STATE / "acme"
    for path, mode in ((certificates.STATE, 0o755), (folder, 0o700)):
        folders.make(Folder(path, "root", "root", mode))
    orders = Lock(
        folder / "lock",
        "order",
        busy="another order of certificates",
        timeout=f"{PATIENCE:.0f}s",
        hint="wait for it, or end that process, which releases the lock",
    )
    with orders.held():
        yield


def _cause(site: Site, error: Exception) -> str:
    """Return in a line why an order failed, with the authority's error where it reports one."""
    reported = _client(site).cause(getattr(error, "log", "") or "")
    first = str(error).splitlines()[0]
    return f"{first}: {textwrap.shorten(reported, 1000, placeholder=' …')}" if reported else first


def _client(site: Site) -> Client:
    return CLIENTS[site.config["tls"]["client"]]


def _serves(domain: str) -> str:
    """Return in words which certificate of a domain is in use."""
    certificate = certificates.read(domain)
    if not certificate:
        return "no certificate is in use"
    kind = "a placeholder" if certificate.origin.startswith("self_signed ") else "the previous one"
    return f"{kind} is in use, with {max(certificate.left, 0) / 86400:.0f} days left"


def _record_failure(site: Site, domain: str, cause: str) -> None:
    """Record a failed order, so that the next one waits."""
    before = file.read_json(_failure(domain)) or {}
    tries = int(before.get("tries", 0)) + 1
    pause = min(PAUSE * 2 ** (tries - 1), LONGEST_PAUSE)
    about = {"error": cause, "tries": tries, "next": time.time() + pause, "origin": certificates.origin(site)}
    with contextlib.suppress(OSError):
        file.write_json(_failure(domain), about, mode=0o600)


def _order(site: Site, domain: str, files: Mapping[str, str]) -> str:
    """Order a certificate, and return the content of the domain's file.

    Raises:
        DeploymentError: the authority issues none, or one that is worse than the present one.
    """
    challenges = certificates.challenges()
    folders.make(Folder(challenges, "root", "root", 0o755))
    for path in challenges.iterdir():
        if path.stat().st_mtime < time.time() - 86400:  # left by an order that was killed
            path.unlink()
    key, chain = _issued(site, domain, files)
    text = certificates.joined(certificates.origin(site), key, chain)
    certificates.refuse_worse(domain, text)
    return text


def _issued(site: Site, domain: str, files: Mapping[str, str]) -> tuple[str, str]:
    """Return key and chain of an order, by a new account where the authority has the known one no more.

    Raises:
        DeploymentError: the authority issues none.
    """
    client, challenges = _client(site), certificates.challenges()
    account = _account(site, files)
    try:
        return _retried(lambda: client.issue(site, account, domain, challenges, PATIENCE))
    except DeploymentError as error:
        if not re.search(client.ACCOUNT_GONE, error.log):
            raise
    log.info("%s: the authority does not have the account any more: another one is registered", site.name)
    file.remove_tree(account)
    account = _account(site, files)
    return _retried(lambda: client.issue(site, account, domain, challenges, PATIENCE))


def _retried(request: Callable[[], _T]) -> _T:
    """Send a request to an authority, again where it refuses a nonce.

    Raises:
        DeploymentError: the authority refuses it for another reason, or refuses every nonce.
    """
    for tries_left in reversed(range(TRIES)):
        try:
            return request()
        except DeploymentError as error:
            if not tries_left or "badNonce" not in error.log:
                raise
    raise AssertionError


def _account(site: Site, files: Mapping[str, str]) -> Path:
    """Return the folder of the account at the authority; without an account, register one.

    Raises:
        DeploymentError: the authority refuses.
    """
    tls = site.config["tls"]
    client = [] if tls["client"] == "uacme" else [tls["client"]]
    identity = "\n".join([tls["directory"], tls["email"] or "", tls["eab"]["key_id"] or "", *client])
    folder = certificates.STATE / "acme" / hashlib.sha256(identity.encode()).hexdigest()[:16]
    made = folder / "account.json"
    if made.exists():
        return folder
    folders.make(Folder(folder, "root", "root", 0o700))
    binding = None
    if tls["eab"]["key_id"]:
        key = files.get("eab:key")
        if not key:
            raise DeploymentError(
                f"no account at {tls['directory']} yet, and only the pillar has the key of the account binding",
                hint="salt-call state.apply django registers the account",
            )
        binding = (tls["eab"]["key_id"], key.rstrip("="))
    _retried(lambda: _client(site).register(site, folder, binding, PATIENCE))
    about = {"client": tls["client"], "directory": tls["directory"], "email": tls["email"]}
    file.write_json(made, about, mode=0o600)
    return folder


# Answers to http-01 challenges behind a balancer: served on a socket for as long as an order lasts
#
# The balancer sends what an authority asks to this socket, and where there is none to the other balancers: each orders
# its own certificate, and the authority may ask any of them.

CHALLENGES = sites.RUNTIME / "challenges.sock"
_PATH = re.compile(r"/\.well-known/acme-challenge/([A-Za-z0-9_-]{1,200})")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Answer with the file of a challenge."""
        found = _PATH.fullmatch(self.path)
        try:
            content = (certificates.challenges() / found[1]).read_bytes() if found else None
        except OSError:
            content = None
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the client of the order reports what counts."""


@contextlib.contextmanager
def serving_challenges() -> Iterator[None]:
    """Serve the challenges of this host's orders in this block."""
    folders.make(Folder(CHALLENGES.parent, "root", "root", 0o755))
    new = Path(f"{CHALLENGES}.{os.getpid()}")
    with _Server(str(new), _Handler) as server:
        new.chmod(0o666)  # the balancer's workers connect; what is served is public
        new.replace(CHALLENGES)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            CHALLENGES.unlink(missing_ok=True)
