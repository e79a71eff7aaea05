"""Push static files to an S3-compatible store, by requests that are signed as AWS Signature Version 4 has it.

What connects to the store runs as `host.users.PUSHER`: the key of the store is in its memory only.
"""

import base64
import dataclasses
import hashlib
import hmac
import html
import http.client
import mimetypes
import os
import re
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import SplitResult, quote, unquote, urlsplit

from django_formula.host.commands import DeploymentError, seconds
from django_formula.host.users import PUSHER
from django_formula.site.sites import Site
from django_formula.untrusted import delegate

#: Requests at the same time, tries of each, and seconds that a store may take to answer.
_THREADS, _TRIES, _PATIENCE = 8, 4, 30
#: Address space for the stacks and heaps of the threads.
_MEMORY = 2 << 30
#: The most bytes of an answer: a page of a listing has 1000 names of at most 1024 bytes, URL-encoded.
_ANSWER = 8 << 20
CACHE_CONTROL = "public, max-age=31536000, immutable"
#: Types that Python's table lacks, or names otherwise from version to version.
_TYPES = {
    ".avif": "image/avif",
    ".cjs": "text/javascript",
    ".eot": "application/vnd.ms-fontobject",
    ".ico": "image/x-icon",
    ".js": "text/javascript",
    ".map": "application/json",
    ".mjs": "text/javascript",
    ".otf": "font/otf",
    ".ttf": "font/ttf",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}
_KNOWN = mimetypes.MimeTypes(filenames=())  # not those of the host, which differ from host to host
#: Errors of a store → what to do.
_HINTS = (
    (
        r"SignatureDoesNotMatch|InvalidAccessKeyId|InvalidToken",
        "correct {at}:key and {at}:secret, and {at}:region if the store has one",
    ),
    (r"AccessDenied|AllAccessDisabled", "allow the key s3:ListBucket on the bucket, s3:PutObject and s3:DeleteObject"),
    (r"NoSuchBucket", "create the bucket, or correct {at}:bucket and {at}:endpoint"),
    (r"PermanentRedirect|TemporaryRedirect|AuthorizationHeaderMalformed|IllegalLocation", "correct {at}:region"),
    (r"RequestTimeTooSkewed", "correct the clock of this host"),
    (r"(?i)certificate verify failed", "add the store's authority to the certificates that this host trusts"),
)

Query = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A bucket, the part of it that a site has, and the login."""

    endpoint: str
    name: str
    prefix: str
    region: str
    by_path: bool
    key: str
    secret: str = dataclasses.field(repr=False)
    #: The pillar key of the store, for hints.
    at: str = ""

    @property
    def host(self) -> str:
        """The host of its URLs, with a port that is not that of the scheme."""
        host = urlsplit(self.endpoint).netloc
        return host if self.by_path else f"{self.name}.{host}"

    def path(self, name: str = "") -> str:
        """Return the path of an object's URL, or of the bucket's."""
        return _quoted("/".join(["", *([self.name] if self.by_path else []), name]), safe="/")

    def object(self, name: str) -> str:
        """Return the key of a static file's object."""
        return f"{self.prefix}{name}"


def place(push: Mapping[str, Any]) -> str:
    """Return where a site's files are, for people and for the record of what was pushed."""
    endpoint = f" at {push['endpoint']}" if push.get("endpoint") else ""
    return f"s3://{push['bucket']}/{_prefix(push)}{endpoint}"


def send(site: Site, folder: Path, names: list[str], secret: str) -> list[str]:
    """Send the files that the store lacks; return their names.

    Raises:
        DeploymentError: the store cannot be reached, or refuses a request.
    """
    return list(_ask(site, _send, "pushing static files", _bucket(site, secret), str(folder), names))


def delete(site: Site, names: list[str], secret: str) -> None:
    """Delete files in the store.

    Raises:
        DeploymentError: the store cannot be reached, or refuses a request.
    """
    _ask(site, _delete, "deleting static files", _bucket(site, secret), names)


def _ask(site: Site, function: Callable[..., Any], doing: str, *arguments: Any) -> Any:
    push = site.config["static"]["push"]
    what = f"{doing} at {place(push)}"
    timeout = seconds(push["timeout"])
    return delegate.ask(PUSHER, function, *arguments, doing=what, timeout=timeout, memory=_MEMORY)


def _prefix(push: Mapping[str, Any]) -> str:
    return f"{push['prefix'].strip('/')}/" if push["prefix"] else ""


def _bucket(site: Site, secret: str) -> Bucket:
    push = site.config["static"]["push"]
    endpoint = push.get("endpoint") or f"https://s3.{push['region']}.amazonaws.com"
    by_path = push["style"] == "path"
    at = f"{site.at}:static:push"
    return Bucket(endpoint, push["bucket"], _prefix(push), push["region"], by_path, push["key"], secret, at)


# In the process of the pusher


def _send(bucket: Bucket, folder: str, names: list[str]) -> list[str]:
    present = set(_listed(bucket))
    missing = [name for name in names if bucket.object(name) not in present]
    _at_once(lambda name: _put(bucket, folder, name), missing)
    return missing


def _delete(bucket: Bucket, names: list[str]) -> None:
    _at_once(lambda name: _request(bucket, "DELETE", bucket.path(bucket.object(name))), names)


def _at_once(act: Callable[[str], Any], names: list[str]) -> None:
    """Do something for many names; the first error ends it."""
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for _ in pool.map(act, names):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _listed(bucket: Bucket) -> Iterator[str]:
    """Yield the keys of the objects below the prefix."""
    query = {"list-type": "2", "prefix": bucket.prefix, "encoding-type": "url", "max-keys": "1000"}
    while True:
        text = _request(bucket, "GET", bucket.path(), query).decode(errors="replace")
        for key in re.findall(r"<Key>([^<]*)</Key>", text):
            yield unquote(html.unescape(key).replace("+", " "))
        token = re.search(r"<NextContinuationToken>([^<]+)</NextContinuationToken>", text)
        if "<IsTruncated>true</IsTruncated>" not in text or not token:
            return
        query["continuation-token"] = html.unescape(token[1])


def _put(bucket: Bucket, folder: str, name: str) -> None:
    """Send a file; one with a compressed copy as that, since a store has one representation of each object."""
    headers = {"Cache-Control": CACHE_CONTROL, "Content-Type": content_type(name)}
    path = os.path.join(folder, name)
    if os.path.exists(f"{path}.gz"):
        path, headers["Content-Encoding"] = f"{path}.gz", "gzip"
    with open(path, "rb") as file:
        _request(bucket, "PUT", bucket.path(bucket.object(name)), headers=headers, body=file)


def content_type(name: str) -> str:
    """Return the Content-Type of a file by the end of its name."""
    end = os.path.splitext(name)[1].lower()
    kind = _TYPES.get(end) or _KNOWN.types_map[True].get(end) or "application/octet-stream"
    is_text = kind.startswith("text/") or kind in ("application/json", "application/manifest+json")
    return f"{kind}; charset=utf-8" if is_text else kind


# Requests

#: The connections of a thread, by their endpoint.
_connections = threading.local()


def _request(
    bucket: Bucket,
    method: str,
    path: str,
    query: Query | None = None,
    headers: Mapping[str, str] | None = None,
    body: BinaryIO | None = None,
) -> bytes:
    """Return the answer to a signed request, which is tried again where the store or the network fails.

    Raises:
        DeploymentError: the store refuses it, or does not answer.
    """
    problem = ""
    for attempt in range(_TRIES):
        if attempt:
            time.sleep(0.5 * 2**attempt)
        if body:
            body.seek(0)
        try:
            status, content = _exchange(bucket, method, path, query or {}, headers or {}, body)
        except (OSError, http.client.HTTPException) as error:
            vars(_connections).clear()
            problem = f"{bucket.host}: {str(error) or type(error).__name__}"
            if isinstance(error, ssl.SSLCertVerificationError):
                break
            continue
        if 200 <= status < 300:
            return content
        problem = _refusal(status, content.decode(errors="replace"))
        if method == "DELETE" and status == 404 and "NoSuchBucket" not in problem:  # Amazon's store returns 204
            return content
        if status < 500 and status not in (408, 429):
            raise DeploymentError(f"{method} {path}: {problem}", hint=_hint(bucket, problem))
    raise DeploymentError(f"{method} {path}: {problem}", hint=_hint(bucket, problem), transient=True)


def _exchange(
    bucket: Bucket, method: str, path: str, query: Query, headers: Mapping[str, str], body: BinaryIO | None
) -> tuple[int, bytes]:
    """Send one request over the connection of this thread; return the status and the content of the answer."""
    size = os.fstat(body.fileno()).st_size if body else 0
    digest = _digest(body)
    own = {**headers, "Host": bucket.host, "x-amz-content-sha256": digest}
    signed = {**own, **signature(bucket, method, path, query, own, digest, time.gmtime())}
    connection = vars(_connections).get(bucket.endpoint) or _connect(bucket)
    target = f"{path}?{_query(query)}" if query else path
    connection.request(method, target, body, {**signed, "Content-Length": str(size)})
    answer = connection.getresponse()
    content = answer.read(_ANSWER)
    if answer.read(1):
        raise http.client.HTTPException("the answer is too large")
    if answer.will_close:
        vars(_connections).clear()
    return answer.status, content


def _connect(bucket: Bucket) -> http.client.HTTPConnection:
    """Connect this thread to the store, with https through the proxy that Salt's environment names."""
    parts = urlsplit(f"{urlsplit(bucket.endpoint).scheme}://{bucket.host}")
    host, connection = str(parts.hostname), http.client.HTTPConnection(bucket.host, timeout=_PATIENCE)
    if parts.scheme == "https":
        context, port = ssl.create_default_context(), parts.port or 443
        proxy = None if urllib.request.proxy_bypass(bucket.host) else _proxy()
        where = (str(proxy.hostname), proxy.port or 80) if proxy else (host, port)
        connection = http.client.HTTPSConnection(*where, timeout=_PATIENCE, context=context)
        if proxy:
            login = f"{unquote(proxy.username or '')}:{unquote(proxy.password or '')}".encode()
            basic = {"Proxy-Authorization": f"Basic {base64.b64encode(login).decode()}"}
            connection.set_tunnel(host, port, basic if proxy.username else {})
    vars(_connections)[bucket.endpoint] = connection
    return connection


def _proxy() -> SplitResult | None:
    url = urllib.request.getproxies().get("https")
    return urlsplit(url if "://" in url else f"http://{url}") if url else None


def _refusal(status: int, text: str) -> str:
    """Return why a store refused a request: its code and its message."""
    found = [re.search(rf"<{name}>([^<]*)</{name}>", text) for name in ("Code", "Message")]
    details = ": ".join(html.unescape(one[1])[:300] for one in found if one)
    return f"the store returned {status}" + (f" ({details})" if details else "")


def _hint(bucket: Bucket, problem: str) -> str:
    for pattern, hint in _HINTS:
        if re.search(pattern, problem):
            return hint.format(at=bucket.at)
    return f"correct {bucket.at}:endpoint, or see whether the store is up"


# AWS Signature Version 4


def signature(
    bucket: Bucket, method: str, path: str, query: Query, headers: Mapping[str, str], digest: str, now: time.struct_time
) -> dict[str, str]:
    """Return the headers that sign a request.

    Args:
        headers: those that are signed in addition to the time, Host among them.
        digest: the SHA-256 of the body.
    """
    moment = time.strftime("%Y%m%dT%H%M%SZ", now)
    signed = {name.lower(): " ".join(value.split()) for name, value in headers.items()} | {"x-amz-date": moment}
    names = ";".join(sorted(signed))
    lines = [method, path, _query(query), *(f"{name}:{signed[name]}" for name in sorted(signed)), "", names, digest]
    scope = f"{moment[:8]}/{bucket.region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256("\n".join(lines).encode()).hexdigest()])
    key = f"AWS4{bucket.secret}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    proof = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    login = f"Credential={bucket.key}/{scope}, SignedHeaders={names}, Signature={proof}"
    return {"x-amz-date": moment, "Authorization": f"AWS4-HMAC-SHA256 {login}"}


def _digest(body: BinaryIO | None) -> str:
    digest = hashlib.sha256()
    while body and (part := body.read(1 << 20)):
        digest.update(part)
    if body:
        body.seek(0)
    return digest.hexdigest()


def _query(query: Query) -> str:
    return "&".join(f"{_quoted(name)}={_quoted(value)}" for name, value in sorted(query.items()))


def _quoted(text: str, safe: str = "") -> str:
    return quote(text, safe=f"{safe}-_.~")
