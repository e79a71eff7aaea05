"""What two releases of a site answer to visitors, line by line, from the JSON access log of its proxy.

The overlay of a site that proves its releases has each response name its release, route, CPU, queries and exception
(django_formula_said.py); nginx logs that, with the release that it has chosen, and removes the header. Lines are text
of visitors and of the project: of each only what has the expected form is taken. A visitor is a number that differs
between visitors while this process runs: no address and no browser is kept.
"""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.proof.judge import CUT_SHORT, EXCEPTION, NO_ANSWER, REFUSALS, REFUSED, Line, Question
from django_formula.proxy import access_log
from django_formula.release import measured

#: The most bytes of a line.
_LINE = 1 << 14
#: How the formula's own requests call themselves: health checks, the probe, replay.
_OWN_AGENT = "django-formula"
#: Methods that make a route of their own of that of a view; all others, which a visitor may invent, are one.
_SAFE_METHODS, _METHODS = ("GET", "HEAD"), ("POST", "PUT", "PATCH", "DELETE")
#: What may be requested again, and how many questions such a request is kept for.
_TARGET, _QUESTIONS = re.compile(r"/[!-~]{0,999}", re.ASCII), 200
_FILE = re.compile(r"/[\w./%+~@-]{1,199}", re.ASCII)
_LENGTH = re.compile(r"\d{1,15}", re.ASCII)
_SECONDS = re.compile(r"\d{1,9}\.\d{1,6}")
#: What nginx answers for a release that does not: refused, no answer in time, and a client that has not waited.
_CLOSED = 502
_NO_ANSWER = (499, _CLOSED, 504)
#: Answers without a body, whatever their Content-Length says.
_EMPTY = (204, 304)


class Reader:
    """Reads the log while it grows."""

    def __init__(
        self, log: Path, releases: Mapping[str, str], static: Sequence[str], owner: int | None = None, salt: bytes = b""
    ):
        """Begin at the end of the log.

        Args:
            log: the site's access log.
            releases: the full names of the releases that are compared: of ``current`` and of ``next``.
            static: paths whose files the proxy serves by itself.
            owner: the uid of the site's user, to whom the log may not belong.
            salt: by which visitors become numbers; another one for each reader, unless given.
        """
        #: The buckets of the visitors who get `next` now: of a file nothing else tells whose page has named it.
        self.keys: Collection[str] = ()
        #: For a question of the judge a request that may be sent again: domain, and path with its query.
        self.requests: dict[Question, tuple[str, str]] = {}
        self._log, self._releases, self._static, self._owner = log, dict(releases), tuple(static), owner
        self._salt = salt or os.urandom(16)
        self._place: dict[str, Any] = {}
        access_log.grown(log, self._place, owner)

    def past(self) -> Iterator[Line]:
        """Yield what was answered before, as far as the end of the log has it."""
        yield from self._lines(access_log.tail(self._log, self._owner))

    def new(self) -> Iterator[Line]:
        """Yield what was answered since the last look."""
        yield from self._lines(access_log.grown(self._log, self._place, self._owner))

    def _lines(self, text: bytes) -> Iterator[Line]:
        for raw in text.split(b"\n"):
            if 0 < len(raw) <= _LINE and (line := self._line(raw)):
                yield line

    def _line(self, raw: bytes) -> Line | None:
        """Return what a line of the log has; None for one that is no request of a visitor to one of the releases."""
        try:
            row = json.loads(raw.decode(errors="replace"))
        except (ValueError, RecursionError):
            return None
        names = ("client", "agent", "method", "uri", "upstream_seconds")
        if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in names):
            return None
        time, took, status = (_number(row.get(name)) for name in ("at", "seconds", "status"))
        is_own = row["agent"].startswith(_OWN_AGENT)
        if time is None or took is None or status is None or is_own:
            return None
        path, visitor = row["uri"].partition("?")[0], self._visitor(row)
        is_answered = row["upstream_seconds"] not in ("", "-")
        is_static = not is_answered and path.startswith(self._static) and row["method"] in _SAFE_METHODS
        if not is_answered and not is_static and status not in _NO_ANSWER:
            return None
        said, chosen = measured.parse(row.get("said")), self._chosen(row)
        is_of_both = "," in row["upstream_seconds"] and row.get("canary") == "next"
        if is_of_both and (not said or said.release != chosen):  # nginx has asked the active one, too
            return Line(time, chosen, visitor, "-", took, None, None, NO_ANSWER, _CLOSED, False) if said else None
        if said and said.release not in self._releases.values() and row.get("canary") == "next":
            return None  # of one that had a share before, and was taken back
        if is_static or not said or said.release not in self._releases.values():
            route = path if is_static and _FILE.fullmatch(path) else "-"
            failed = NO_ANSWER if status == _CLOSED else CUT_SHORT if not said and _is_cut_short(row) else ""
            failed = failed if chosen and not is_static else ""
            return Line(time, chosen, visitor, route, took, None, None, failed, int(status), is_static)
        raised = said.exception or (CUT_SHORT if _is_cut_short(row) else "")
        if row["method"] == "GET" and isinstance(row.get("host"), str):
            if said.exception:
                self._keep(Question(EXCEPTION, said.release, said.exception), row["host"], row["uri"])
            elif status in REFUSALS:
                self._keep(Question(REFUSED, said.release, said.route), row["host"], row["uri"])
        return Line(
            time, said.release, visitor, _route(row["method"], said.route), _seconds(row["upstream_seconds"], took),
            said.cpu, said.queries, raised, int(status), False, said.is_cold,
        )  # fmt: skip

    def _keep(self, question: Question, host: str, target: str) -> None:
        is_kept = question in self.requests or len(self.requests) < _QUESTIONS
        if is_kept and _TARGET.fullmatch(target) and access_log.is_harmless(target):
            self.requests[question] = (host, target)

    def _chosen(self, row: Mapping[str, Any]) -> str:
        """Return the release that nginx has chosen; empty where it does not tell."""
        chosen, bucket = row.get("canary"), row.get("bucket")
        if chosen == "" and isinstance(bucket, str):  # a file, whose location chooses none
            chosen = "next" if bucket in self.keys else "current"
        return self._releases.get(chosen, "") if isinstance(chosen, str) else ""

    def _visitor(self, row: Mapping[str, str]) -> str:
        text = f"{row['client']}\0{row['agent']}".encode(errors="replace")
        return hashlib.blake2b(text, digest_size=8, key=self._salt).hexdigest()


def _is_cut_short(row: Mapping[str, Any]) -> bool:
    """Return whether a release has sent less of an answer than it has promised.

    nginx stops reading from a release when the visitor leaves, too, but then has no completion to tell of.
    """
    promised, received = row.get("promised"), row.get("received")
    if not isinstance(promised, str) or not isinstance(received, str) or row.get("completion") != "OK":
        return False
    last = received.rpartition(", ")[2]  # of the last one that nginx has asked
    has_body = row["method"] != "HEAD" and row["status"] not in _EMPTY and row.get("internal") == ""
    is_known = has_body and _LENGTH.fullmatch(promised) and _LENGTH.fullmatch(last)
    return bool(is_known) and int(last) < int(promised)


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and 0 <= value < 1e12 else None


def _route(method: str, route: str) -> str:
    if method in _SAFE_METHODS or route == "-":
        return route
    return f"{method if method in _METHODS else 'other'} {route}"


def _seconds(of_upstream: str, took: float) -> float:
    """Return how long the release took, without what a slow client adds."""
    values = _SECONDS.findall(of_upstream[:200])
    return sum(map(float, values)) if values else took
