"""The switch report: requests for the health page at a fixed rate before, during and after a switch."""

import contextlib
import functools
import itertools
import math
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from django_formula.host.commands import seconds
from django_formula.proxy import proxies, reach
from django_formula.release import health, http
from django_formula.site.sites import Site
from django_formula.tls import certificates
from django_formula.untrusted.text import shown

#: Requests per second; twice as many for the first ones after the switch, for which the switch waits.
RATE = 20
#: Consecutive requests that have to succeed after the switch before the old instance is stopped.
STEADY = 3
#: Seconds after which a request counts as failed, even where `health:timeout` is longer.
PATIENCE = 10.0
#: Seconds that a switch waits for the first response of the active release, with which the later ones are compared.
FIRST = 2.0
#: Concurrent requests; while so many hang, no more are sent.
_AT_ONCE = 20


class Sample(NamedTuple):
    """One request: when it was sent and completed (by the monotonic clock), and its problem; empty if it succeeded."""

    sent: float
    ended: float
    problem: str


class Probe:
    """Requests for the health page of a site, from `start` to `end`: through the proxy, with a connection each.

    Where the first request through the proxy fails (maintenance, access rules, no files of the site yet), the
    requests go to the socket of the active release instead.

    Args:
        through_proxy: whether the proxy serves the site.
        before: the site with the health page of the active release, which is requested until the switch.
    """

    def __init__(self, site: Site, *, through_proxy: bool, before: Site | None = None):
        self.site = site
        self.before = before or site
        self.through_proxy = through_proxy and not certificates.requires_clients(site)
        self.samples: list[Sample] = []
        #: When the switch began and when it was complete, by the monotonic clock.
        self.leaves = self.switched = math.inf
        self._under_way: list[float] = []
        self._hurried = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._has_sample = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "Probe":
        """Begin to send requests."""
        self._thread.start()
        return self

    def _run(self) -> None:
        if self.through_proxy and self._asked():
            self.through_proxy = False
        due = time.monotonic()
        while not self._is_over:
            with self._lock:
                may = len(self._under_way) < _AT_ONCE
            if may:
                try:
                    threading.Thread(target=self._sample, daemon=True).start()
                except RuntimeError:  # no more threads can be started: this one sends the request
                    self._sample()
            due = max(due + 1 / (2 * RATE if self._hurried else RATE), time.monotonic())
            self._hurried = max(self._hurried - 1, 0)
            if self._wake.wait(due - time.monotonic()):
                self._wake.clear()
                due, self._hurried = time.monotonic(), STEADY - 1

    def _sample(self) -> None:
        sent = time.monotonic()
        with self._lock:
            self._under_way.append(sent)
        problem = self._asked()
        if problem and self.before is not self.site and sent < self.switched < math.inf:
            problem = self._asked()  # the old page was requested from the new release
        with self._lock:
            self._under_way.remove(sent)
            if not self._is_over:
                self.samples.append(Sample(sent, time.monotonic(), problem))
                self._has_sample.set()

    def _asked(self) -> str:
        """Return what `problem` does, also where that raises: the switch waits for the end of each request."""
        try:
            return self.problem()
        except Exception as error:  # such as too many open files
            return f"got no response ({shown(str(error))})"

    def problem(self) -> str:
        """Send one request; return the problem of the health page, empty when it is healthy."""
        site = self.before if self.switched == math.inf else self.site
        deadline = time.monotonic() + min(seconds(site.config["health"]["timeout"]), PATIENCE)
        if not self.through_proxy:
            return health.problem(site, functools.partial(http.get_active, site), deadline, site.scheme)
        scheme = "https" if proxies.speaks_tls(site) else "http"
        return health.problem(site, functools.partial(reach.get, site), deadline, scheme)

    def wait_for_first(self) -> None:
        """Wait until one request is complete, at most `FIRST` seconds: on a busy host a release may start sooner."""
        self._has_sample.wait(FIRST)

    @contextlib.contextmanager
    def switching(self) -> Iterator[None]:
        """Activate the new release in this block; at its end the next request is sent at once."""
        self.leaves = time.monotonic()
        yield
        self.switched = time.monotonic()
        self._wake.set()

    def is_steady(self) -> bool:
        """Return whether the last `STEADY` requests since the switch succeeded, and no earlier one is pending."""
        after = self._after()
        with self._lock:
            waiting = [sent for sent in self._under_way if self.switched <= sent]
        passed = len(after) >= STEADY and not any(sample.problem for sample in after[-STEADY:])
        return passed and not any(sent < after[-1].sent for sent in waiting)

    def failures(self) -> int:
        """Return how many of the requests sent since the switch have failed so far."""
        return sum(1 for sample in self._after() if sample.problem)

    def last_problem(self) -> str:
        """Return the problem of the last failed request since the switch."""
        return next((sample.problem for sample in reversed(self._after()) if sample.problem), "")

    def is_worse(self) -> bool:
        """Return whether a greater part of the requests failed since the switch than before it."""
        return _part_failed(self._after()) > _part_failed(self._before())

    def _before(self) -> list[Sample]:
        """Return the requests completed before the switch; those pending then belong to neither release."""
        with self._lock:
            return sorted(sample for sample in self.samples if sample.ended < self.leaves)

    def _after(self) -> list[Sample]:
        with self._lock:
            return sorted(sample for sample in self.samples if sample.sent >= self.switched)

    def end(self) -> None:
        """Send no more requests; those still pending do not count."""
        with self._lock:
            self._is_over = True
        self._wake.set()

    def report(self, cut: int) -> dict[str, Any]:
        """Return the switch report for the record of a release; times in seconds.

        ``longest_gap`` is the longest time between two successful responses, less the pause between two requests.

        Args:
            cut: connections that were still open on the old instance when it was stopped.
        """
        samples = sorted(self.samples)
        good = [sample for sample in samples if not sample.problem]
        pairs = itertools.pairwise(sorted(good, key=lambda sample: sample.ended))
        gaps = [b.ended - a.ended - min(max(b.sent - a.sent, 0.0), 1 / RATE) for a, b in pairs]
        return {
            "rate": RATE,
            "through": "proxy" if self.through_proxy else "socket",
            "seconds": round(max(s.ended for s in samples) - samples[0].sent, 2) if samples else 0.0,
            "sent": len(samples),
            "failed": len(samples) - len(good),
            "longest_gap": round(max([0.0, *gaps]), 3),
            "latency_before": _median(self._before()),
            "latency_after": _median(self._after()),
            "cut": cut,
        }


def _part_failed(samples: list[Sample]) -> float:
    return sum(1 for sample in samples if sample.problem) / len(samples) if samples else 0.0


def _median(samples: list[Sample]) -> float | None:
    """Return the median time to a successful response."""
    times = [sample.ended - sample.sent for sample in samples if not sample.problem]
    return round(statistics.median(times), 4) if times else None
