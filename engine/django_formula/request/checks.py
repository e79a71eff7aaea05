"""Requests wait until the checks of their commit have passed at the Git server: `checks` of a site (decision 0161)."""

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.git_server import servers
from django_formula.host import clock, commands, file
from django_formula.host.commands import DeploymentError
from django_formula.request import queue
from django_formula.request.queue import Place, Request
from django_formula.untrusted import network, shapes
from django_formula.untrusted.text import shown

#: Seconds between two questions about the same commit.
EVERY = 15.0
#: The user of the child process that reads the answers of the Git server.
_UNPRIVILEGED = "nobody"
_SHAPE = {"state": str, "names": [str]}
_KEPT = {"id": str, "why": str}


class Subject(NamedTuple):
    """What of a request is judged by checks.

    Attributes:
        wanted: `checks` of the site; nothing where a request waits for none.
        commit: returns the whole commit that is requested.
        token: returns the token for the server; empty without one.
        verdict: returns the final status of a commit that is not to be released, and why; None for another one.
    """

    wanted: Mapping[str, Any] | None
    commit: Callable[[], str]
    token: Callable[[], str]
    verdict: Callable[[str], tuple[str, str] | None]


class Gate:
    """What one program of requests knows of the commit that waits.

    Attributes:
        commit: the one whose checks are asked for; empty where none is.
        why: what it waits for.
        verdict: the final status of the request that was admitted, and why, where its checks are of no account. Judged
            again, it could be another one, and a commit be released whose checks have not passed.
    """

    def __init__(self) -> None:
        self.commit = self.why = ""
        self.verdict: tuple[str, str] | None = None
        self._number, self._next, self._is_open = "", 0.0, False

    def admit(self, site: Place, request: Request, subject: Subject) -> bool:
        """Return whether a request that waits may be worked off now; refuse it if its checks have failed.

        A child process without rights queries the server, every 15 s.

        Raises:
            DeploymentError: the files of requests are not free in time, or the commit is not known.
        """
        if request.number != self._number:
            self._number, self._next, self._is_open = request.number, 0.0, False
            self.commit, self.why, self.verdict = "", "", None
        wanted = subject.wanted
        if not wanted:
            return True
        if self._is_open or time.monotonic() < self._next:
            return self._is_open
        self.commit = self.commit or subject.commit()
        state, self.why = self._judge(subject, wanted)
        if self.verdict:
            return True
        self._next = time.monotonic() + EVERY
        self._is_open = state == "passed"
        is_late = time.time() - clock.seconds(request.asked) > commands.seconds(wanted["within"])
        if state == "failed" or (is_late and not self._is_open):
            ends = "" if state == "failed" else f"; it waits for {wanted['within']} at most"
            queue.refuse_waiting(site, request, f"{self.why}{ends}")
        elif not self._is_open:
            file.write_json(_path(site), {"id": request.number, "why": self.why}, mode=0o600, durable=False)
        return self._is_open

    def _judge(self, subject: Subject, wanted: Mapping[str, Any]) -> tuple[str, str]:
        """Return the state of the checks of the commit, and what is said of it, unless there is a verdict."""
        found = subject.verdict(self.commit)
        if found and found[0] == queue.FAILED:  # it is not known now, as while the Git server does not answer
            return "", found[1]
        self.verdict = found
        return ("", "") if found else self._ask(subject, wanted)

    def _ask(self, subject: Subject, wanted: Mapping[str, Any]) -> tuple[str, str]:
        """Return the state of the checks of the commit, and what is said of it."""
        what = f"of {self.commit[:12]}"
        try:
            token = subject.token()
        except DeploymentError as failure:
            return "", f"the checks {what} could not be read: {failure.message}"
        action = functools.partial(self._checks, wanted, token, self.commit)
        value, error, _after = network.ask(_UNPRIVILEGED, action)
        if error or not shapes.fits(value, _SHAPE):
            cause = commands.redact(error or "an answer of another shape", [token] if token else [])
            return "", f"the checks {what} could not be read: {cause}"
        names = ", ".join(shown(name)[:80] for name in value["names"][:20])
        texts = {
            "failed": f"checks {what} have failed: {names}",
            "pending": f"checks {what} have not passed yet: {names}",
            "none": f"the Git server knows no check {what} yet",
        }
        return value["state"], texts.get(value["state"], "")

    def _checks(self, wanted: Mapping[str, Any], token: str, commit: str) -> dict[str, Any]:
        return servers.checks(wanted["kind"], wanted["url"], token, commit, wanted["names"], wanted["ignore"])


def waits_for(site: Place, number: str) -> str:
    """Return what a request waits for at the Git server, as the last question has found it; empty for nothing."""
    kept = file.read_json(_path(site), _KEPT)
    return kept["why"] if kept and kept["id"] == number else ""


def _path(site: Place) -> Path:
    return queue.folder(site) / "checks.json"
