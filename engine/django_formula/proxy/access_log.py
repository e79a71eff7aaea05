"""The JSON access log of a site's proxy: the URLs that visitors were answered with 200, which a request may repeat.

Lines are data of visitors. Only what is printable, of the site's own domains and harmless by its path is returned.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import parse_qsl, unquote

from django_formula.host import users
from django_formula.inspect import routes
from django_formula.site import domains
from django_formula.site.sites import Site

#: The most bytes of the end of a log that are read, and of a line and a URL.
_MOST, _LINE, _URL = 8 << 20, 1 << 14, 1000
#: The most bytes of one look at what a log has grown by; the next one reads on.
_MOST_OF_LOOK = 64 << 20
#: The bytes at the beginning of a log by which it is known again.
_HEAD = 200
#: Answers that took longer or are larger are left out: streams and downloads.
_SECONDS, _BYTES = 5.0, 4 << 20
#: How the formula's own requests call themselves.
_OWN_AGENT = "django-formula"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
#: Words in paths that may do something, in addition to those of `inspect.routes`.
_ACTS = re.compile(
    r"(^|[/_-])(log-?out|sign-?out|unsubscribe|subscribe|confirm|activate|verify|accept|approve|reject|cancel|vote|like"
    r"|follow|unfollow|toggle|mark|add|edit|checkout|pay|claim|invite|oauth2?|sso|saml2?|magic|token|password)([/_-]|$)",
    re.IGNORECASE,
)
#: What begins a session or is one, as a part of a URL: 16 letters and digits in a row with both, a UUID, an address.
_TOKEN = re.compile(
    r"(?=[A-Za-z_=]*[0-9])(?=[0-9_=]*[A-Za-z])[A-Za-z0-9_=]{16,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|@",
    re.IGNORECASE,
)
#: Names of query parameters whose values are secrets or of a person.
_SECRET = re.compile(
    r"tok|secret|pass|pwd|auth(?!or)|sess|code|state|otp|nonce|ticket|hash|hmac|jwt|mail|phone|user|next"
    r"|(^|[_-]|api|access)(key|sig|sign|signature|sid|uid)([_-]|$)",
    re.IGNORECASE,
)


class Url(NamedTuple):
    """A URL of a site: the domain that a visitor has requested it from, and the path with its query."""

    host: str
    target: str


def opened(path: Path, owner: int | None = None) -> BinaryIO | None:
    """Open a log, None where it is not a file of the proxy: a link, a FIFO, or one that a user of a site has laid.

    Args:
        owner: the uid of the site's user, to whom the log may not belong.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb"))
        except OSError:
            return None
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid == owner:
            return None
        stack.pop_all()
        return file


def grown(path: Path, place: dict[str, Any], owner: int | None = None) -> bytes:
    """Return the whole lines by which a log has grown since the last look; the first look reads nothing.

    A log that is rotated by renaming is read to its end; of one that is cut in place the new content is read.

    Args:
        path: of the log.
        place: where the last look has ended, which is updated: ``inode``, ``offset``, ``head``.
        owner: see `opened`.
    """
    file = opened(path, owner)
    if not file:
        return b""
    with file:
        status, rest = os.fstat(file.fileno()), b""
        if "inode" not in place:
            place |= {"inode": status.st_ino, "offset": status.st_size}
        elif place["inode"] != status.st_ino:
            rest = _rest_of_rotated(path, place, owner)
            place |= {"inode": status.st_ino, "offset": 0}
        elif place["offset"] > status.st_size or not _is_same(file, place):
            place["offset"] = 0
        file.seek(place["offset"])
        data = file.read(_MOST_OF_LOOK)
        place["offset"] += len(data) if len(data) == _MOST_OF_LOOK and b"\n" not in data else data.rfind(b"\n") + 1
        file.seek(0)
        head = file.read(min(_HEAD, place["offset"]))
        place |= {"head": hashlib.sha256(head).hexdigest(), "bytes": len(head)}
        return rest + data[: data.rfind(b"\n") + 1]


def tail(path: Path, owner: int | None = None) -> bytes:
    """Return the end of a log, and before it that of the rotated one, if the log is short."""
    text = b""
    for one in (path, path.with_name(f"{path.name}.1")):
        file = opened(one, owner)
        if file and len(text) < _MOST:
            with file:
                left = _MOST - len(text)
                file.seek(max(file.seek(0, os.SEEK_END) - left, 0))
                text = file.read(left) + text
    return text


def visited(site: Site, log: Path, apart: Sequence[str], most: int) -> list[Url]:
    """Return URLs that visitors got with status 200, of each kind of page in turn, the newest first.

    Left out are paths that the log shows to be written to, those that may act, and URLs with what may be a secret.

    Args:
        log: the site's access log.
        apart: paths whose files the proxy serves by itself.
        most: how many at most.
    """
    own = site.config["path"].rstrip("/")
    rows = [
        row for row in _rows(tail(log, users.user_id(site.user))) if domains.has(site.config["domains"], row["host"])
    ]
    written = {_path(row["uri"]) for row in rows if row["method"] not in _SAFE_METHODS}
    kinds: dict[tuple[Any, ...], dict[Url, None]] = {}
    for row in reversed(rows):
        path, _mark, query = row["uri"].partition("?")
        is_apart = not f"{path}/".startswith(f"{own}/") or path.startswith((*apart, "/.", "//"))
        if _is_page(row) and not is_apart and _path(path) not in written and is_harmless(row["uri"]):
            kinds.setdefault(_kind(path.removeprefix(own), query), {})[Url(row["host"], row["uri"])] = None
    turns = itertools.chain.from_iterable(itertools.zip_longest(*kinds.values()))
    return [url for url in turns if url][:most]


def is_harmless(target: str) -> bool:
    """Return whether a path with its query is none that may act, and has nothing that looks like a secret."""
    path, _mark, query = unquote(target).partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    is_secret = any(_SECRET.search(name) or _TOKEN.search(value) for name, value in pairs) or _TOKEN.search(path)
    texts = [path, *(text for pair in pairs for text in pair)]
    return not is_secret and not any(routes.ACTS.search(text.lower()) or _ACTS.search(text) for text in texts)


def masked(target: str) -> str:
    """Return a path to be shown, with the names in its query only: what visitors searched for is theirs."""
    path, _mark, query = target.partition("?")
    names = "&".join(f"{name}=…" for name, _value in parse_qsl(query, keep_blank_values=True))
    return f"{path}?{names}" if names else path


def _is_same(file: BinaryIO, place: dict[str, Any]) -> bool:
    """Return whether a log begins as it did: one that was cut may have grown beyond the offset since."""
    return "head" not in place or hashlib.sha256(file.read(place["bytes"])).hexdigest() == place["head"]


def _rest_of_rotated(path: Path, place: dict[str, Any], owner: int | None) -> bytes:
    file = opened(path.with_name(f"{path.name}.1"), owner)
    if not file:
        return b""
    with file:
        if os.fstat(file.fileno()).st_ino != place["inode"]:
            return b""
        file.seek(place["offset"])
        return file.read(_MOST_OF_LOOK)


def _rows(text: bytes) -> Iterator[dict[str, Any]]:
    """Yield the lines of a log that are whole, without those of the formula's own requests."""
    for line in text.splitlines():
        if len(line) > _LINE:
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        texts = ("host", "method", "uri", "agent")
        if isinstance(row, dict) and all(isinstance(row.get(name), str) for name in texts):
            is_plain = re.fullmatch(r"/[!-~]*", row["uri"]) and len(row["uri"]) <= _URL
            if is_plain and not row["agent"].startswith(_OWN_AGENT):
                yield row


def _is_page(row: dict[str, Any]) -> bool:
    """Return whether a line is of a page that the application has answered to GET, without a login at the proxy."""
    took, size = row.get("seconds"), row.get("bytes")
    is_small = isinstance(size, int) and size <= _BYTES and isinstance(took, int | float) and took <= _SECONDS
    by_application = row.get("upstream_seconds", "0") not in ("", "-")
    return row["method"] == "GET" and row.get("status") == 200 and is_small and by_application and not row.get("user")


def _path(target: str) -> str:
    return unquote(target.partition("?")[0]).rstrip("/")


def _kind(path: str, query: str) -> tuple[Any, ...]:
    """Return what pages of one kind have in common: how their paths begin, how deep they are, names in the query."""
    first, *rest = path.strip("/").split("/")
    return first, len(rest), *sorted(name for name, _value in parse_qsl(query, keep_blank_values=True))
