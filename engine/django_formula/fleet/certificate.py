"""The certificates of servers that other hosts of a site use: databases, queues, caches.

Each is self-signed. The master's store makes it, gives the key to the host of the server alone, and the certificate to
the hosts that use it, which trust nothing else. The master needs `cryptography`, which Salt brings.
"""

import datetime
import fcntl
import ipaddress
import re
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from django_formula.host import file
from django_formula.host.commands import DeploymentError

_LIFE = datetime.timedelta(days=36500)  # who trusts this certificate alone gains nothing from an end
_KEY = "-----BEGIN PRIVATE KEY"
_HOST = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,252}")


def of_host(folder: str | Path, host: str, address: str) -> tuple[str, str]:
    """Return the certificate of a host and its key, both in PEM; they are made once.

    To replace them, rename the file in the store, so that it ends with ``.former.pem``. The certificate in it follows
    the new one, and is trusted too as long as it is there: hosts that apply first trust both.

    Args:
        folder: the master's store.
        host: name of the host's minion.
        address: its IP address; a new one gets a new certificate.

    Raises:
        DeploymentError: `host` is no name of a minion.
        ValueError: `address` is no IP address.
    """
    if not _HOST.fullmatch(host):
        raise DeploymentError(f"{host} is no name of a minion")
    path = Path(folder, ".certificates", host, f"{ipaddress.ip_address(address)}.pem")
    for parent in (path.parents[1], path.parent):
        parent.mkdir(mode=0o700, exist_ok=True)
    with open(path.parent / ".lock", "w") as lock:  # the master compiles the pillars of several minions at once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            file.write(path, _new(host, address), mode=0o600)
    certificate, mark, key = path.read_text().partition(_KEY)
    former = path.with_suffix(".former.pem")
    more = former.read_text().partition(_KEY)[0] if former.exists() else ""
    return certificate + more, mark + key


def _new(host: str, address: str) -> str:
    """Return a new certificate, and its key after it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    begin = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=1)  # clocks differ
    names = [x509.DNSName(host), x509.IPAddress(ipaddress.ip_address(address))]
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begin, begin + _LIFE)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        # Without them a client that trusts a former one too may take that, which has the same name, for its issuer.
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(identifier.digest, None, None), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    formats = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return (certificate + key.private_bytes(serialization.Encoding.PEM, *formats)).decode()
