"""A small S3-compatible store for tests: PUT, GET, DELETE and ListObjectsV2 over path style, with signatures checked.

As a program: `python3 s3_store.py PORT BUCKET KEY SECRET LOG`; each request is a line of LOG, after the uid of the
process on this host that sends it.
"""

import hashlib
import hmac
import html
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote


class Store(ThreadingHTTPServer):
    """A bucket; `objects` has the headers and the content of each key."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, bucket: str, key: str, secret: str, log: str = "", address: str = "127.0.0.1"):
        super().__init__((address, port), Handler)
        self.bucket, self.key, self.secret, self.log = bucket, key, secret, log
        self.objects: dict[str, tuple[dict[str, str], bytes]] = {}
        self.requests: list[str] = []
        #: The answers to the next requests instead of the usual ones: a status, or None to close the connection.
        self.failures: list[int | None] = []
        self.page = 1000
        #: Whether the deletion of an object that is missing is refused, as by Google's store.
        self.refuses_missing = False
        self.guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def note(self, line: str) -> None:
        with self.guard:
            self.requests.append(line)
            if self.log:
                with open(self.log, "a") as file:
                    file.write(f"{line}\n")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, _, query = self.path.partition("?")
        sender = f"{uid_of(self.client_address[1])} " if self.server.log else ""
        self.server.note(f"{sender}{self.command} {unquote(path)}")
        failure = self.server.failures.pop(0) if self.server.failures else 0
        if failure is None:
            self.connection.close()
            self.close_connection = True
            return
        if failure:
            self.refuse(failure, "SlowDown" if failure == 503 else "InternalError")
            return
        bucket, _, key = unquote(path).lstrip("/").partition("/")
        is_public = self.command == "GET" and key
        if not is_public and (problem := self.wrong_signature(path, query, body)):
            self.refuse(403, problem)
            return
        if bucket != self.server.bucket:
            self.refuse(404, "NoSuchBucket")
            return
        act = {"PUT": self.put, "DELETE": self.delete, "GET": self.get if key else self.listing}[self.command]
        act(key, body, dict(parse_qsl(query)))

    do_GET = do_PUT = do_DELETE = handle_any

    def wrong_signature(self, path: str, query: str, body: bytes) -> str:
        """Return the code of the error where the request is not signed with the key of the store; else nothing."""
        found = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?"
            r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})",
            self.headers.get("Authorization", ""),
        )
        if not found or found[1] != self.server.key:
            return "InvalidAccessKeyId"
        digest = hashlib.sha256(body).hexdigest()
        if not {"host", "x-amz-date", "x-amz-content-sha256"} <= {*found[4].split(";")}:
            return "AccessDenied"
        if self.headers["x-amz-content-sha256"] != digest:
            return "XAmzContentSHA256Mismatch"
        pairs = sorted(pair if "=" in pair else f"{pair}=" for pair in query.split("&") if pair)
        headers = "".join(f"{name}:{self.headers[name].strip()}\n" for name in found[4].split(";"))
        canonical = (
            f"{self.command}\n{quote(unquote(path), safe='/-_.~')}\n{'&'.join(pairs)}\n{headers}\n{found[4]}\n{digest}"
        )
        moment, scope = self.headers["x-amz-date"], f"{found[2]}/{found[3]}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key: bytes = f"AWS4{self.server.secret}".encode()
        for part in (found[2], found[3], "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), "sha256").digest()
        proof = hmac.new(key, text.encode(), "sha256").hexdigest()
        return "" if hmac.compare_digest(proof, found[5]) else "SignatureDoesNotMatch"

    def put(self, key: str, body: bytes, _query: Any) -> None:
        kept = ("Content-Type", "Cache-Control", "Content-Encoding")
        with self.server.guard:
            self.server.objects[key] = ({name: self.headers[name] for name in kept if name in self.headers}, body)
        self.answer(200, b"")

    def get(self, key: str, _body: bytes, _query: Any) -> None:
        if key not in self.server.objects:
            self.refuse(404, "NoSuchKey")
            return
        headers, content = self.server.objects[key]
        self.answer(200, content, headers)

    def delete(self, key: str, _body: bytes, _query: Any) -> None:
        with self.server.guard:
            found = self.server.objects.pop(key, None)
        if found is None and self.server.refuses_missing:
            self.refuse(404, "NoSuchKey")
            return
        self.answer(204, b"")

    def listing(self, _key: str, _body: bytes, query: dict[str, str]) -> None:
        after, prefix = query.get("continuation-token", ""), query.get("prefix", "")
        keys = sorted(key for key in self.server.objects if key.startswith(prefix) and key > after)
        page = keys[: self.server.page]
        rest = (
            f"<NextContinuationToken>{html.escape(page[-1])}</NextContinuationToken>" if len(keys) > len(page) else ""
        )
        entries = "".join(f"<Contents><Key>{html.escape(quote(key))}</Key></Contents>" for key in page)
        text = (
            f"<ListBucketResult><IsTruncated>{str(bool(rest)).lower()}</IsTruncated>{rest}{entries}</ListBucketResult>"
        )
        self.answer(200, text.encode(), {"Content-Type": "application/xml"})

    def refuse(self, status: int, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>refused by the test</Message></Error>"
        self.answer(status, text.encode(), {"Content-Type": "application/xml"})

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


def uid_of(port: int) -> str:
    """Return the uid of the process on this host that connects from a port of 127.0.0.1; "-" for another host's."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[1] == f"0100007F:{port:04X}":
            return words[7]
    return "-"


if __name__ == "__main__":
    number, bucket, key, secret, log = sys.argv[1:]
    Store(int(number), bucket, key, secret, log, "0.0.0.0").serve_forever()
