"""A company's network, played on this machine: a proxy that wants a login, and an https server of its own authority."""

import base64
import http.server
import io
import select
import socket
import ssl
import subprocess
import threading
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def login(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Server(http.server.ThreadingHTTPServer):
    """A server with a thread of its own; `seen` has what was asked of it, `refused` what it has refused."""

    daemon_threads = True

    def __init__(self, address: str, handler: type[http.server.BaseHTTPRequestHandler], wants: str):
        super().__init__((address, 0), handler)
        self.wants = wants
        self.seen: list[str] = []
        self.refused: list[str] = []

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    @property
    def place(self) -> str:
        return f"{self.server_address[0]!s}:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"  # a login is asked for and given on one connection

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def is_let_in(self, header: str) -> bool:
        is_let_in = self.headers.get(header) == self.server.wants
        (self.server.seen if is_let_in else self.server.refused).append(self.path)
        return is_let_in


class Proxy(Handler):
    """A proxy that forwards by CONNECT requests with the right login."""

    def do_CONNECT(self) -> None:
        if not self.is_let_in("Proxy-Authorization"):
            self.reply(407, Proxy_Authenticate='Basic realm="proxy"')
            return
        host, _colon, port = self.path.rpartition(":")
        try:
            outside = socket.create_connection((host, int(port)), timeout=30)
        except OSError:
            self.reply(502)
            return
        self.send_response(200)
        self.end_headers()
        with outside:
            relay(self.connection, outside)
        self.close_connection = True


def relay(one: socket.socket, other: socket.socket) -> None:
    """Pass on what each says until one of them ends."""
    others = {one: other, other: one}
    while True:
        for ready in select.select([one, other], [], [], 60)[0] or [one]:
            try:
                data = ready.recv(65536)
                if not data:
                    return
                others[ready].sendall(data)
            except OSError:
                return


class Intranet(Handler):
    """Repositories open to all, and a package index that requires the login; other packages come from PyPI."""

    repositories: Path
    wheel = "company_motto-1.0-py3-none-any.whl"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/git/"):
            file = self.repositories / path.removeprefix("/git/")
            self.reply(200, file.read_bytes()) if file.is_file() else self.reply(404)
        elif not self.is_let_in("Authorization"):
            self.reply(401, WWW_Authenticate='Basic realm="index"')
        elif path == "/simple/company-motto/":
            self.reply(200, f'<a href="/wheels/{self.wheel}">{self.wheel}</a>'.encode(), Content_Type="text/html")
        elif path == f"/wheels/{self.wheel}":
            self.reply(200, wheel())
        else:
            self.reply(302, Location=f"https://pypi.org{path}")

    do_HEAD = do_GET


def wheel() -> bytes:
    """A package with one module, which says a motto."""
    about = "company_motto-1.0.dist-info"
    files = {
        "company_motto.py": 'MOTTO = "by the book"\n',
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: company-motto\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{about}/RECORD"])
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for name, text in files.items():
            target.writestr(name, text)
    return archive.getvalue()


class Company:
    """The proxy and the https server, on an address of this machine that hosts reach.

    folder: for the authority, whose certificate is `authority`
    repositories: what the https server serves as /git/
    """

    user, password = "deploy", "grenadier-9c1-index"
    proxy_password = "grenadier-9c1-proxy"

    def __init__(self, folder: Path, address: str, repositories: Path):
        self.authority = folder / "authority.pem"
        key, certificate = folder / "authority.key", folder / "server.pem"
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        new += ["-days", "30"]
        run([*new, "-subj", "/CN=A company", "-keyout", key, "-out", self.authority])
        signed = ["-CA", self.authority, "-CAkey", key, "-addext", f"subjectAltName=IP:{address}"]
        run([*new, *signed, "-addext", "basicConstraints=critical,CA:FALSE", "-subj", "/CN=intranet",
             "-keyout", folder / "server.key", "-out", certificate])  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, folder / "server.key")
        self.repositories = repositories
        handler = type("Served", (Intranet,), {"repositories": repositories})
        self.intranet = Server(address, handler, login(self.user, self.password))
        self.intranet.socket = context.wrap_socket(
            self.intranet.socket, server_side=True, do_handshake_on_connect=False
        )
        self.proxy = Server(address, Proxy, login(self.user, self.proxy_password))
        self.intranet.start()
        self.proxy.start()

    @property
    def proxy_url(self) -> str:
        return f"http://{self.user}:{self.proxy_password}@{self.proxy.place}"

    @property
    def url(self) -> str:
        return f"https://{self.intranet.place}"

    def close(self) -> None:
        self.intranet.stop()
        self.proxy.stop()


def run(argv: list[Any]) -> None:
    subprocess.run([str(word) for word in argv], check=True, capture_output=True)
