"""Answers to http-01 challenges behind a balancer: served on a socket for as long as an order lasts.

The balancer sends what an authority asks to this socket, and where there is none to the other balancers: each orders
its own certificate, and the authority may ask any of them.
"""

import contextlib
import http.server
import os
import re
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

from django_formula.host import folders
from django_formula.host.folders import Folder
from django_formula.site import sites
from django_formula.tls import certificates

SOCKET = sites.RUNTIME / "challenges.sock"
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
def serving() -> Iterator[None]:
    """Serve the challenges of this host's orders in this block."""
    folders.make(Folder(SOCKET.parent, "root", "root", 0o755))
    new = Path(f"{SOCKET}.{os.getpid()}")
    with _Server(str(new), _Handler) as server:
        new.chmod(0o666)  # the balancer's workers connect; what is served is public
        new.replace(SOCKET)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            SOCKET.unlink(missing_ok=True)
