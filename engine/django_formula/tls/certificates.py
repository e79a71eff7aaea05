"""The certificates of this host: one file for each domain, with key and chain, so that one rename changes both.

A local authority issues those of `tls:kind: self_signed`, and placeholders until another authority has issued one.
"""

import _ssl
import contextlib
import hashlib
import itertools
import os
import re
import ssl
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.host import clock, commands, folders, locks
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.site import domains as site_domains
from django_formula.site.sites import Site

STATE = Path("/var/lib/django-formula")
#: Seconds before its end from which on a certificate that others replace is warned of, however short it is.
_REPLACED = 7 * 86400
#: The beginning of the first line of each file; the origin of the certificate follows.
OURS = "# Written by django-formula: "
#: Days that a certificate of the local authority is valid, and the authority itself.
DAYS, AUTHORITY_DAYS = 365, 3650
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\n.*?-----END \1-----", re.DOTALL)
_EXTENSIONS = """basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:{domain}
"""


class Certificate(NamedTuple):
    """A certificate: its names, its subject and issuer, when it begins and ends (seconds since 1970), its origin."""

    names: list[str]
    subject: Any
    issuer: Any
    begins: float
    ends: float
    origin: str = ""

    @property
    def left(self) -> float:
        """Seconds until it ends."""
        return self.ends - time.time()

    @property
    def part_left(self) -> float:
        """The part of its lifetime that is left: 1 at its beginning, 0 at its end."""
        return self.left / max(self.ends - self.begins, 1)

    @property
    def is_due(self) -> bool:
        """Whether it is time to renew it."""
        return self.part_left < 1 / 3

    @property
    def has_begun(self) -> bool:
        """Whether it is valid already: one that was issued while the clock was ahead is not."""
        return self.begins <= time.time()

    def covers(self, domain: str) -> bool:
        """Return whether it is for a domain, by name or by a wildcard."""
        wildcard = f"*.{domain.partition('.')[2]}"
        return any(name.lower() in (domain, wildcard) for name in self.names)


def domains(site: Site) -> list[str]:
    """Return the domains of a site that need a certificate."""
    return [*site.config["domains"], *site.config["redirect_domains"]] if site.https else []


def path_of(domain: str) -> Path:
    """Return the file with key and chain of a domain."""
    return STATE / "certificates" / f"{site_domains.file_name(domain)}.pem"


def challenges() -> Path:
    """Return the folder with the answers to http-01 challenges, for all sites."""
    return STATE / "challenges"


def root() -> Path:
    """Return the file of the local authority's certificate, which clients can install to trust it."""
    return STATE / "authority/root.pem"


def origin(site: Site) -> str:
    """Return the origin of a site's certificates, as their files record it."""
    kind = site.config["tls"]["kind"]
    if kind == "acme":
        return f"acme {site.config['tls']['directory']}"
    return f"self_signed {_fingerprint()}" if kind == "self_signed" else str(kind)


def _fingerprint() -> str:
    """Return what identifies the present local authority."""
    return hashlib.sha256((host_file.read_text(root()) or "").encode()).hexdigest()[:16]


def read(domain: str) -> Certificate | None:
    """Return the certificate of a domain, or None where there is none that a server can use."""
    path = path_of(domain)
    try:
        with open(path, encoding="utf-8") as file:
            header = file.readline()
        _load(str(path))
        found = _decode(str(path))
    except (OSError, ValueError):
        return None
    return found._replace(origin=header.removeprefix(OURS).strip())


def _load(path: str, key: str | None = None) -> None:
    """Load key and chain as a server does; the key may be in a file of its own.

    Raises:
        OSError: that fails; ssl.SSLError, which is one, where the key is of another certificate.
    """
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, key, password=lambda: "")


def _decode(path: str) -> Certificate:
    """Return the first certificate of a file.

    Python decodes certificates that are not a peer's for its own tests only; Salt brings no library for it. See
    docs/decisions/0039.

    Raises:
        OSError: there is none; ssl.SSLError is one.
    """
    fields: dict[str, Any] = dict(_ssl._test_decode_cert(path))  # type: ignore[attr-defined]
    names = [name for kind, name in fields.get("subjectAltName", ()) if kind == "DNS"]
    begins, ends = (float(ssl.cert_time_to_seconds(fields[key])) for key in ("notBefore", "notAfter"))
    return Certificate(names, fields["subject"], fields["issuer"], begins, ends)


@contextlib.contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """Yield the path of a file with a text that is in memory only."""
    descriptor = os.memfd_create("certificate")
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


# Missing certificates


def missing(
    site: Site, files: Mapping[str, str], templates: Mapping[str, str], *, trusts_clock: bool = True
) -> dict[str, str]:
    """Return the domains of a site without a certificate that can be installed at once, with the reason.

    With ``acme`` any valid certificate will do: the authority's is ordered once the domain is served.

    Args:
        site: the site.
        files: ``certificate`` and ``key`` of the pillar, where they are not in the configuration.
        templates: texts of files from Salt's file server.
        trusts_clock: whether the clock is right, so that a certificate which is not valid yet is none. After a boot it
            may be late until it is set, and a timer would replace an authority that clients trust.

    Raises:
        DeploymentError: the files of the pillar are not valid.
    """
    if site.config["tls"]["kind"] == "files":
        text = from_files(site, files, templates)
        found = {domain: _outdated(domain, text) for domain in domains(site)}
    else:
        found = {domain: _unusable(site, domain, trusts_clock) for domain in domains(site)}
    return {domain: reason for domain, reason in found.items() if reason}


def _outdated(domain: str, text: str) -> str:
    """Return in what way a domain's file differs from the pillar's certificate; empty where it does not."""
    present = host_file.read_text(path_of(domain))
    if not text:  # the pillar is not at hand
        return "" if present else "missing"
    return "" if present == text else "changed" if present else "new"


def _unusable(site: Site, domain: str, trusts_clock: bool) -> str:
    """Return why the local authority has to issue a certificate for a domain; empty where it has not."""
    certificate = read(domain)
    if not certificate:
        return "damaged" if path_of(domain).exists() else "new"
    if not certificate.covers(domain):
        return "for another name"
    if trusts_clock and certificate.origin.startswith("self_signed ") and not certificate.has_begun:
        return "not valid yet"
    if site.config["tls"]["kind"] == "acme":
        is_own = certificate.origin.startswith("self_signed ")
        return "expired" if certificate.left <= 0 else "due" if is_own and certificate.is_due else ""
    return "due" if certificate.is_due else "" if certificate.origin == origin(site) else "new"


def texts(
    site: Site,
    domains: Mapping[str, str],
    files: Mapping[str, str],
    templates: Mapping[str, str],
    *,
    trusts_clock: bool = True,
) -> dict[Path, str]:
    """Return the files for the domains that `missing` returns: path → content; the arguments are those of `missing`.

    Raises:
        DeploymentError: the files of the pillar are not valid, or the pillar is not at hand.
    """
    if site.config["tls"]["kind"] != "files":
        make_authority(trusts_clock=trusts_clock)
        return {path_of(domain): _issued(domain) for domain in domains}
    text = from_files(site, files, templates)
    if not text:
        raise DeploymentError(
            f"the certificate of {site.name} is missing, and only the pillar has it",
            hint="salt-call state.apply django writes it again",
        )
    return {path_of(domain): text for domain in domains}


# The local authority


def make_authority(*, trusts_clock: bool = True) -> None:
    """Create the local authority, unless it exists and is valid for longer than a certificate that it issues.

    Args:
        trusts_clock: whether one that is not valid yet is replaced, see `missing`.

    Raises:
        DeploymentError: openssl fails.
    """
    folder, own = root().parent, STATE / "certificates"
    if _has_authority(trusts_clock):
        return
    for path, mode in ((STATE, 0o755), (folder, 0o755), (own, 0o700)):
        folders.make(Folder(path, "root", "root", mode))
    with locks.of_folder(own):
        if _has_authority(trusts_clock):
            return  # another apply or timer has made it meanwhile
        name = re.sub(r"[^A-Za-z0-9.-]", "", os.uname().nodename)[:40]
        with tempfile.TemporaryDirectory(dir=folder) as made:
            _openssl(
                *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha256"),
                *("-keyout", f"{made}/key", "-out", f"{made}/root", "-days", str(AUTHORITY_DAYS)),
                *("-subj", f"/O=django-formula/CN=Local authority of {name}"),
                *("-addext", "basicConstraints=critical,CA:TRUE,pathlen:0"),
                *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
            )
            host_file.write(folder / "root.key", Path(made, "key").read_bytes(), mode=0o600)
            host_file.write(root(), Path(made, "root").read_bytes())


def _has_authority(trusts_clock: bool) -> bool:
    with contextlib.suppress(OSError):
        known, key = _decode(str(root())), root().with_name("root.key")
        _load(str(root()), str(key))  # which may be that of another one, whose apply was killed
        return known.left > DAYS * 86400 and (known.has_begun or not trusts_clock)
    return False


def _openssl(*arguments: str) -> str:
    return commands.run(["openssl", *arguments], doing=f"openssl {arguments[0]}")


def _issued(domain: str) -> str:
    """Return a key and a certificate of the local authority for a domain."""
    authority = root().with_name("root.key")
    subject = f"/CN={domain}" if len(domain) <= 64 else "/O=django-formula"  # the longest that X.509 allows
    with tempfile.TemporaryDirectory(dir=root().parent) as made:
        Path(made, "extensions").write_text(_EXTENSIONS.format(domain=domain))
        _openssl(
            *("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha256"),
            *("-keyout", f"{made}/key", "-out", f"{made}/request", "-subj", subject),
        )
        _openssl(
            *("x509", "-req", "-in", f"{made}/request", "-out", f"{made}/certificate", "-days", str(DAYS), "-sha256"),
            *("-CA", str(root()), "-CAkey", str(authority), "-set_serial", f"0x{os.urandom(16).hex()}"),
            *("-extfile", f"{made}/extensions"),
        )
        key, certificate = (Path(made, name).read_text() for name in ("key", "certificate"))
        return joined(f"self_signed {_fingerprint()}", key, certificate)


def joined(origin: str, key: str, chain: str) -> str:
    """Return the content of a domain's file: the key and the certificates, without text between them."""
    blocks = [found[0] for text in (key, chain) for found in _BLOCK.finditer(text)]
    return "\n".join([f"{OURS}{origin}", *blocks, ""])


# Files of the pillar


def refuse_bad_files(site: Site, files: Mapping[str, str], templates: Mapping[str, str]) -> None:
    """Check the certificate and key of `tls:kind: files`, before anything is changed.

    Raises:
        DeploymentError: they are not valid.
    """
    if site.https and site.config["tls"]["kind"] == "files":
        from_files(site, files, templates)
    refuse_bad_authorities(site)


def refuse_bad_authorities(site: Site) -> None:
    """Check the authorities of clients' certificates (`tls:client_ca`), before anything is changed.

    Raises:
        DeploymentError: they cannot be read, or are no certificates.
    """
    given = (site.config.get("tls") or {}).get("client_ca")
    if not site.https or not given:
        return
    at = f"{site.at}:tls:client_ca"
    try:
        text = given if given.startswith("-----") else Path(given).read_text(errors="replace")
    except OSError as error:
        raise DeploymentError(f"{at}: {given} cannot be read: {error.strerror}") from None
    others = [found[1] for found in _BLOCK.finditer(text) if found[1] != "CERTIFICATE"]
    if others:
        raise DeploymentError(
            f"{at} has a {others[0]} besides certificates", hint="remove it: each user may read these"
        )
    blocks = _certificates(text)
    if not blocks:
        raise DeploymentError(f"{at} has no certificate in PEM")
    for number, block in enumerate(blocks, 1):
        try:
            with _in_memory(block + "\n") as path:
                _decode(path)
        except (OSError, ValueError):
            raise DeploymentError(f"{at}: block {number} is not a certificate") from None


def _certificates(text: str) -> list[str]:
    return [found[0] for found in _BLOCK.finditer(text) if found[1] == "CERTIFICATE"]


def requires_clients(site: Site) -> bool:
    """Return whether the proxy refuses clients without a certificate, such as the formula itself."""
    tls = site.config.get("tls") or {}
    return bool(site.https and tls.get("client_ca") and tls.get("verify") != "optional")


def client_authorities(name: str, tls: Mapping[str, Any], etc: Path) -> tuple[str, dict[Path, str | None]]:
    """Return the file with the authorities of a site's clients, and what is to be written there; empty without any.

    Args:
        name: of the site.
        tls: of its pillar.
        etc: the folder of the proxy's or the balancer's files.
    """
    given = tls.get("client_ca") if tls.get("kind") != "none" else None
    own = etc / f"django-{name}.clients.pem"
    if given and given.startswith("-----"):
        return str(own), {own: "\n".join([f"{OURS}tls:client_ca of {name}", *_certificates(given), ""])}
    return given or "", {own: None} if own.exists() else {}


def from_files(site: Site, files: Mapping[str, str], templates: Mapping[str, str]) -> str:
    """Return the content of the domains' files with `tls:kind: files`; empty where the pillar is not at hand.

    Raises:
        DeploymentError: a file is missing, or is not a key or a chain for the domains; the error has its path in the
            pillar.
    """
    chain, key = (_given(site, name, files, templates) for name in ("certificate", "key"))
    if chain is None or key is None:
        return ""
    at = f"{site.at}:tls"
    keys = [found[0] for found in _BLOCK.finditer(key) if found[1].endswith("PRIVATE KEY")]
    if len(keys) != 1 or "ENCRYPTED" in keys[0]:
        problem = "is encrypted" if "ENCRYPTED" in key else f"has {len(keys) or 'no'} private keys"
        raise DeploymentError(f"{at}:key {problem}: expected one in PEM without a password")
    blocks = [found[0] for found in _BLOCK.finditer(chain) if found[1] == "CERTIFICATE"]
    if not blocks:
        raise DeploymentError(f"{at}:certificate has no certificate in PEM")
    text = joined("files", keys[0], "\n".join(blocks))
    _check(site, text, blocks)
    return text


def _given(site: Site, name: str, files: Mapping[str, str], templates: Mapping[str, str]) -> str | None:
    """Return the text of ``certificate`` or ``key``; None where only the pillar has it, and it is not at hand."""
    given: dict[str, str] | str | None = site.config["tls"][name]
    if isinstance(given, dict):  # the text itself, however it begins: an error that named it as a path would show a key
        text = files.get(name)
        return None if text is None else text.replace("\r\n", "\n")
    if given is None or given.startswith("-----"):
        return given
    if given.startswith("salt://"):
        if given not in templates:
            raise DeploymentError(f"the template {given} is not there", hint="is it in the file_roots of Salt?")
        return templates[given]
    try:
        return Path(given).read_text(errors="replace")
    except OSError as error:
        raise DeploymentError(
            f"{site.at}:tls:{name}: {given} cannot be read: {error.strerror}",
            hint=f"put the file there, or correct {site.at}:tls:{name}",
        ) from None


def _check(site: Site, text: str, blocks: list[str]) -> None:
    """Check that key and chain belong together, that the chain is in order, and is valid for the domains now.

    Raises:
        DeploymentError: a check fails.
    """
    at = f"{site.at}:tls"
    chain = []
    for number, block in enumerate(blocks, 1):
        try:
            with _in_memory(block + "\n") as path:
                chain.append(_decode(path))
        except (OSError, ValueError):
            raise DeploymentError(f"{at}:certificate: block {number} is not a certificate") from None
    try:
        with _in_memory(text) as path:
            _load(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        if "MISMATCH" in reason:
            raise DeploymentError(f"{at}:key is not the key of {at}:certificate") from None
        raise DeploymentError(f"{at}:key cannot be used with {at}:certificate: {reason}") from None
    for number, (one, issuer) in enumerate(itertools.pairwise(chain), 1):
        if one.issuer != issuer.subject:
            raise DeploymentError(
                f"{at}:certificate: certificate {number + 1} is not the issuer of certificate {number}",
                hint="put the site's own certificate first, then its issuer, and so on",
            )
    own = chain[0]
    uncovered = [domain for domain in domains(site) if not own.covers(domain)]
    if uncovered:
        names = ", ".join(own.names) or "no host name"
        raise DeploymentError(f"{at}:certificate is for {names}, not for {', '.join(uncovered)}")
    if own.left <= 0:
        raise DeploymentError(f"{at}:certificate expired on {clock.timestamp(own.ends)}")
    if own.begins > time.time():
        raise DeploymentError(f"{at}:certificate is not valid before {clock.timestamp(own.begins)}")


def refuse_worse(domain: str, text: str) -> None:
    """Check that an issued certificate is for a domain, belongs to its key, and is valid longer than the present one.

    Raises:
        DeploymentError: a check fails.
    """
    try:
        with _in_memory(text) as path:
            _load(path)
            new = _decode(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise DeploymentError(f"the certificate that was issued for {domain} cannot be used: {reason}") from None
    present = read(domain)
    is_same = present and text.startswith(f"{OURS}{present.origin}\n")
    if not new.covers(domain) or new.left <= 0 or (is_same and present and new.ends < present.ends):
        raise DeploymentError(
            f"the certificate that was issued for {domain} is worse than the present one",
            hint=f"it is for {', '.join(new.names)} and expires on {clock.timestamp(new.ends)}",
        )


# Present certificates


def summary(site: Site) -> dict[str, str]:
    """Return the certificate that expires first, for ``django.status``: kind, days left, a warning below a quarter."""
    found = [(read(domain), domain) for domain in domains(site)]
    damaged = [domain for certificate, domain in found if not certificate]
    if damaged:
        return {"certificate": f"{damaged[0]}: missing or damaged: state.apply creates it again"}
    if not found:
        return {"certificate": ""}
    certificate, domain = min(((one, domain) for one, domain in found if one), key=lambda pair: pair[0].left)
    kind = site.config["tls"]["kind"]
    days = f"{max(certificate.left, 0) / 86400:.0f} of {(certificate.ends - certificate.begins) / 86400:.0f} days left"
    parts = [f"{kind}, {days}"]
    if certificate.left <= 0:
        parts.append(f"WARNING: {domain} has expired")
    elif early := next((domain for one, domain in found if one and not one.has_begun), None):
        parts.append(f"WARNING: {early} has a certificate that is not valid yet, by the clock of this host")
    elif certificate.part_left < 1 / 4 or (kind == "files" and certificate.left < _REPLACED):
        parts.append(f"WARNING: {domain} should have been renewed")
    if kind == "acme" and not certificate.origin.startswith("acme "):
        parts.append(f"{domain} has a placeholder")
    if certificate.origin.startswith("self_signed "):
        parts.append(f"root: {root()}")
    return {"certificate": "; ".join(parts)}


def remove_challenges() -> None:
    """Remove the folder of challenges where no domain has a certificate any more."""
    if not [*STATE.glob("certificates/*.pem")]:
        host_file.remove_tree(challenges())


def belongings(domain: str) -> list[Path]:
    """Return the files of a domain's certificates that exist on this host."""
    own = [path_of(domain), path_of(domain).with_suffix(".failed")]
    of_client = [] if site_domains.is_wildcard(domain) else [domain]  # whose orders are those of the name below
    ordered = [
        path for name in of_client for path in (*STATE.glob(f"acme/*/{name}"), *STATE.glob(f"acme/*/private/{name}"))
    ]
    return [path for path in [*own, *ordered] if os.path.lexists(path)]
