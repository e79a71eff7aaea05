"""Certificates for tests of the engine, of any age."""

import contextlib
import datetime
import functools
import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Signed(NamedTuple):
    """A certificate and its key, in PEM."""

    certificate: str
    key: str


@functools.cache
def signed(*names: str, by: str = "", begins: float = -1, ends: float = 89, ca: bool = False) -> Signed:
    """A certificate for names that begins and ends so many days from now; without `by` it has signed itself."""
    own = ec.generate_private_key(ec.SECP256R1())
    issuer = _keys.get(by, own)
    if ca:
        _keys[names[0]] = own
    now = datetime.datetime.now(datetime.UTC)
    alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(names[0]))
        .issuer_name(_name(by or names[0]))
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=begins))
        .not_valid_after(now + datetime.timedelta(days=ends))
        .add_extension(alternatives, critical=False)
        .sign(issuer, hashes.SHA256())
    )
    key = own.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Signed(certificate.public_bytes(serialization.Encoding.PEM).decode(), key.decode())


class Page(http.server.BaseHTTPRequestHandler):
    """Answers every request, and remembers what it was for."""

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers["Host"]))  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Nobody reads it."""


@contextlib.contextmanager
def serving(domain: str, folder: Path) -> Iterator[Any]:
    """A server of https with a certificate for a domain: it has `server_port`, `requests` and `names` asked for."""
    made = signed(domain)
    (folder / "server.pem").write_text(made.key + made.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    server.requests, server.names = [], []
    context.sni_callback = lambda _socket, name, _context: server.names.append(name)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


_keys: dict[str, ec.EllipticCurvePrivateKey] = {}


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
