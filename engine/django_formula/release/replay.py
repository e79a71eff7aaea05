"""Requests of visitors, sent again to two releases at their own sockets, and what the new one answers worse.

`compare` runs as the site's user. Requests have no cookies and no login, and a header that names them. An answer counts
where the new release gives it each time, and the active one never does: what both have in common, such as a database
that does not answer, is no fault of the new one. Where responses say what they have cost, queries are compared for each
page; CPU is returned, since one page says little of it.
"""

import http.client
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from django_formula.release import http as release_http
from django_formula.release import measured, static
from django_formula.release.measured import Measured
from django_formula.site import domains
from django_formula.site.sites import Site

#: By which a project or its logs recognise the requests.
HEADERS = {"User-Agent": "django-formula replay", "X-Django-Replay": "1", **measured.ASKED}
#: Seconds that one request may take, all of them, and those of differences that are looked at again.
_PATIENCE, SECONDS, _AGAIN = 10.0, 30.0, 60.0
#: How often a difference is looked at again, at least if time runs out, how many of them, and the seconds between.
_ROUNDS, _FEWEST, _DIFFERENCES, _PAUSE = 4, 2, 20, 0.2
#: How often where more queries are made: each process of the new release may fill a cache of its own first.
_ROUNDS_OF_QUERIES = 8
#: How often a page is requested until a process answers that has answered its route before.
_WARM = 8
#: More queries by so few count as equal.
_EXTRA_QUERIES = 2
_REDIRECTS = (301, 302, 303, 307, 308)
_HOPS = 5
#: 4xx that tell to try again: Request Timeout, Locked, Too Early, Too Many Requests.
_LATER = (408, 423, 425, 429)
#: Files of a page that are named.
_FILES = 5
_TIMED_OUT = "timed out after"
#: How the answers begin that end with no page, by no exception.
REDIRECTS = "redirects"
#: The names of static files with a digest, as the proxy takes them for some.
_HASHED = re.compile(r".+\.[0-9a-f]{8,64}\.[^/]+")
#: Names of headers that may have a login.
_LOGIN = re.compile(r"auth|cookie|token|key|secret|pass|user|session", re.IGNORECASE)
#: A domain and a path with its query.
Target = tuple[str, str]
#: The shape of an answer of `compare`.
SHAPE = {
    **dict.fromkeys(("compared", "pages", "failing", "left", "suspects"), int),
    "seconds": float,
    "differences": [{"host": str, "target": str, "kind": str, "old": str, "new": str}],
    "cpu": [{"route": str, "old": float, "new": float}],
}
#: The kinds of differences, those first that visitors suffer from most.
KINDS = ("fails", "files", "queries", "gone")


class Reply(NamedTuple):
    """What a release answers to a URL.

    Attributes:
        status: the status of the last response; 0 where there is none, or the page redirects in a circle.
        problem: what is wrong apart from its status.
        missing: static files that the page has and the release does not.
        is_redirected: whether it is the answer of where the URL redirects to, as to a login.
        measured: what the last response has cost; None where it does not say, or has filled caches of its process.
    """

    status: int
    problem: str = ""
    missing: tuple[str, ...] = ()
    is_redirected: bool = False
    measured: Measured | None = None

    @property
    def fails(self) -> bool:
        """Whether a visitor gets an error instead of a page."""
        return self.status >= 500 or not self.status

    @property
    def timed_out(self) -> bool:
        """Whether the answer was not complete in time."""
        return self.problem.startswith(_TIMED_OUT)

    def __str__(self) -> str:
        return self.problem or f"returned {self.status}"


class Difference(NamedTuple):
    """How the new release answers a URL worse (`worse`), and both answers."""

    kind: str
    before: Reply
    after: Reply

    def words(self) -> str:
        """Return what the new release answers."""
        if self.kind == "queries":
            return _queries(self.after)
        if self.kind != "files":
            return str(self.after)
        names = [name for name in self.after.missing if name not in self.before.missing]
        more = f" and {len(names) - _FILES} more" if len(names) > _FILES else ""
        return f"has {', '.join(names[:_FILES])}{more}, not among its static files"

    def former_words(self) -> str:
        """Return what the old release answers."""
        return _queries(self.before) if self.kind == "queries" else str(self.before)


class Side(NamedTuple):
    """A release that is requested.

    Attributes:
        static_url: the STATIC_URL of its pages; empty where their files are elsewhere.
        former: the release whose static files the proxy serves too: pages of it may be in a cache of the project.
    """

    site: Site
    release: Path
    static_url: str
    former: Path | None = None


def side(site: Site, release: Path, facts: Mapping[str, Any], former: Path | None = None) -> Side:
    """Return a release to request.

    Args:
        facts: of the release: ``static_url``, ``collected``.
        former: the release that was active before.
    """
    is_here = facts.get("collected") is not None and not site.config["static"].get("push")
    return Side(site, release, str(facts.get("static_url") or "") if is_here else "", former)


def compare(old: Side, new: Side, urls: Sequence[Target], queries: float) -> dict[str, Any]:
    """Return what the new release answers worse than the old one, and the CPU of both for each page; see `SHAPE`.

    Args:
        urls: domains and paths, which visitors got with status 200.
        queries: how many times as many queries a page may make.
    """
    began, pages, failing = time.monotonic(), 0, 0
    asked: dict[Target, Difference] = {}
    known: dict[tuple[Path, str], Reply] = {}
    for url in urls:
        if time.monotonic() - began > SECONDS:
            break
        asked[url] = found = _asked(old, new, url, queries, known)
        failing += found.before.fails
        pages += found.before.status == 200 and not found.before.is_redirected
    suspects = {url: found for url, found in asked.items() if found.kind}
    differences = [
        {"host": host, "target": target, "kind": found.kind, "old": found.former_words(), "new": found.words()}
        for (host, target), found in _confirmed(old, new, suspects, queries).items()
    ]
    return {
        **{"compared": len(asked), "pages": pages, "failing": failing, "left": len(urls) - len(asked)},
        **{"suspects": len(suspects), "seconds": round(time.monotonic() - began, 2)},
        "differences": differences,
        "cpu": [cost for found in asked.values() if (cost := _cpu(found))],
    }


def worse(before: Reply, after: Reply, queries: float) -> str:
    """Return how an answer of the new release is worse than that of the old one; empty where it is not.

    ``fails``: an error or a redirect in a circle; ``files``: static files are missing; ``queries``: it makes more of
    them; ``gone``: a page that is not there any more, which may be meant.
    """
    if before.fails:
        return ""
    if after.fails:
        return "fails"
    if before.status < 400 <= after.status and after.status not in _LATER:
        return "gone"
    if {*after.missing} - {*before.missing}:
        return "files"
    former, new = ((reply.measured.queries if reply.measured else None) for reply in (before, after))
    is_more = former is not None and new is not None and new > former * queries + _EXTRA_QUERIES
    return "queries" if is_more and before.status == after.status else ""


def _queries(reply: Reply) -> str:
    return f"makes {reply.measured.queries} queries" if reply.measured else str(reply)


def _cpu(found: Difference) -> dict[str, Any] | None:
    """Return the milliseconds of CPU that a page has taken in both releases; None where they are not comparable."""
    before, after = found.before.measured, found.after.measured
    if not before or not after or before.cpu is None or after.cpu is None or before.route != after.route:
        return None
    return {"route": before.route, "old": before.cpu, "new": after.cpu} if found.before.status < 400 else None


def ask(sides: Sequence[Side], url: Target) -> list[str]:
    """Return what releases answer to one more request each, such as ``returned 200``."""
    return [str(_ask(side, url, {})) for side in sides]


def _confirmed(old: Side, new: Side, suspects: Mapping[Target, Difference], queries: float) -> dict[Target, Difference]:
    """Return the differences that each of some more requests has shown too, as far as there was time for them."""
    deadline, count = time.monotonic() + _AGAIN, 0
    slow = [url for url, found in suspects.items() if found.after.timed_out]
    fast = sorted((url for url in suspects if url not in slow), key=lambda url: KINDS.index(suspects[url].kind))
    last = {url: suspects[url] for url in [*fast[:_DIFFERENCES], *slow[:1]]}
    while due := [url for url, found in last.items() if count < _rounds(found.kind)]:
        for url in due:
            if time.monotonic() > deadline:
                return last if count >= _FEWEST else {}
            last[url] = _asked(old, new, url, queries, {})
            if not last[url].kind:
                del last[url]
        count += 1
        time.sleep(_PAUSE)
    return last


def _rounds(kind: str) -> int:
    return _ROUNDS_OF_QUERIES if kind == "queries" else _ROUNDS


def _asked(old: Side, new: Side, url: Target, queries: float, known: dict[tuple[Path, str], Reply]) -> Difference:
    """Request a URL from both releases, one after the other."""
    before, after = _ask_warm(old, url, known), _ask_warm(new, url, known)
    return Difference(worse(before, after, queries), before, after)


def _ask_warm(side: Side, url: Target, known: dict[tuple[Path, str], Reply]) -> Reply:
    """Request a URL until a process answers that has answered its route before; a few times at most."""
    for _time in range(_WARM):
        reply = _ask(side, url, known)
        if not reply.measured or not reply.measured.is_cold:
            return reply
    return reply._replace(measured=None)


def _ask(side: Side, url: Target, known: dict[tuple[Path, str], Reply]) -> Reply:
    """Request a URL and follow its redirects on the same host.

    Args:
        known: where redirects have led so far: most pages that need a login lead to the same one.
    """
    host, target = url
    site, base = side.site, f"{side.site.scheme}://{host}"
    passed = [target]
    try:
        for _hop in range(_HOPS):
            key = (side.release, target.partition("?")[0])
            if len(passed) > 1 and key in known:
                return known[key]._replace(is_redirected=True, measured=None)
            headers = {**_headers(site), **HEADERS}
            answer = release_http.get(
                site, side.release, target, host=host, scheme=site.scheme, headers=headers, timeout=_PATIENCE
            )
            is_redirect = answer.status in _REDIRECTS
            to = release_http.redirected(f"{base}{target}", answer) if is_redirect else urlsplit(base)
            if to is None:
                return Reply(0, f"{REDIRECTS} to what is no URL")
            is_elsewhere = not domains.has(site.config["domains"], to.hostname) or to.scheme != site.scheme
            if not is_redirect or is_elsewhere:
                missing = _missing(side, answer.status, answer.body)
                said = measured.parse(answer.headers.get(measured.HEADER.lower()))
                known[key] = Reply(answer.status, missing=missing, is_redirected=len(passed) > 1, measured=said)
                return known[key]
            target = release_http.target(to)
            passed.append(target)
            if target in passed[:-1]:
                return Reply(0, f"{REDIRECTS} in a circle, to {target}")
        return Reply(0, f"{REDIRECTS} {_HOPS} times, last to {target}")
    except TimeoutError:
        return Reply(0, f"{_TIMED_OUT} {_PATIENCE:g} s")
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Reply(0, f"got no response ({error})")


def _headers(site: Site) -> dict[str, str]:
    """Return the headers of the health check without logins: by some a project knows that visitors use https."""
    return {name: value for name, value in site.config["health"]["headers"].items() if not _LOGIN.search(name)}


def _missing(side: Side, status: int, body: str) -> tuple[str, ...]:
    """Return the static files of a page that its release does not have."""
    if not side.static_url or status != 200:
        return ()
    names = static.linked(side.site, side.static_url, body, images=True)
    return tuple(name for name in names if not _has(side.release, name) and not _has_former(side, name))


def _has(release: Path, name: str) -> bool:
    return os.path.isfile(release / "static" / name)


def _has_former(side: Side, name: str) -> bool:
    """Return whether a file with a digest in its name is of the former release, as in a page that is cached."""
    return side.former is not None and _HASHED.fullmatch(name) is not None and _has(side.former, name)
