"""Authorities and certificates of tests, of any age; and clients that verify them."""

import datetime
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

DAY = datetime.timedelta(days=1)


class Signed(NamedTuple):
    """A certificate and its key, in PEM."""

    certificate: str
    key: str


class Authority:
    """An authority of tests."""

    def __init__(self, name: str = "An authority of tests"):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.root = self._sign(self.name, self.key, [], -30, 3650)

    def sign(self, *names: str, begins: float = -1, ends: float = 90) -> Signed:
        """A certificate that begins and ends so many days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0])])
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return Signed(self._sign(subject, key, list(names), begins, ends), pem.decode())

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, names: list[str], begins: float, ends: float
    ) -> str:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins * DAY)
            .not_valid_after(now + ends * DAY)
            .add_extension(x509.BasicConstraints(ca=not names, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )
        if names:
            alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


class Seen(NamedTuple):
    """What a client got over TLS: the status, headers in lower case, the body, and the peer's certificate."""

    status: int
    headers: dict[str, str]
    body: str
    certificate: dict[str, object]


def ask(
    address: str,
    domain: str,
    path: str = "/",
    *,
    root: str | None,
    port: int = 443,
    method: str = "GET",
    headers: Sequence[tuple[str, str]] = (("Connection", "close"),),
) -> Seen:
    """Ask over TLS, on port 80 without; without a root any certificate is good. Raises OSError, ssl.SSLError is one."""
    context = ssl.create_default_context(cadata=root) if root else ssl._create_unverified_context()
    with socket.create_connection((address, port), timeout=60) as plain:
        connection = http.client.HTTPConnection(address, port, timeout=60)
        peer: dict[str, object] = {}
        connection.sock = plain
        if port != 80:
            connection.sock = secured = context.wrap_socket(plain, server_hostname=domain)
            peer = dict(secured.getpeercert() or {})
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in (("Host", domain), *headers):
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
        seen = {name.lower(): value for name, value in response.getheaders()}
        connection.close()
    return Seen(response.status, seen, body, peer)


class Visitors:
    """People who open pages by http, each some ten a second, and follow where it leads to https.

    `statuses` counts what they got by http, `failed` what did not end in a page.
    """

    def __init__(self, address: str, domain: str, path: str, count: int = 4):
        self.address, self.domain, self.path = address, domain, path
        self.statuses: dict[int, int] = {}
        self.failed: list[str] = []
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self.visit, daemon=True) for _ in range(count)]

    def __enter__(self) -> "Visitors":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(30)

    def visit(self) -> None:
        while not self.stopped.is_set():
            try:
                problem = self.problem()
            except (OSError, http.client.HTTPException) as error:
                problem = repr(error)
            if problem:
                self.failed.append(f"{time.time()}: {problem}")
            time.sleep(0.1)

    def problem(self) -> str:
        connection = http.client.HTTPConnection(self.address, 80, timeout=60)
        connection.request("GET", self.path, headers={"Host": self.domain, "Connection": "close"})
        response = connection.getresponse()
        response.read()
        connection.close()
        self.statuses[response.status] = self.statuses.get(response.status, 0) + 1
        if response.status != 301:
            return "" if response.status == 200 else f"http: {response.status}"
        target = urlsplit(response.headers["Location"])
        if (target.scheme, target.hostname) != ("https", self.domain):
            return f"led to {target.geturl()}"
        seen = ask(self.address, self.domain, target.path, root=None)
        return "" if seen.status == 200 else f"https: {seen.status}"
