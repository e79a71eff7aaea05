"""The receipt of a switch: what a client saw who asked for the health page at a fixed rate, before, in it and after."""

import contextlib
import itertools
import math
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import django_proxy_connection
import django_release_health
import django_release_http
from django_host_command import seconds
from django_release_http import Answer
from django_site import Site
from django_wall_response import Bounded

#: Requests per second; twice as many for the first ones after the switch, which are waited for.
RATE = 20
#: Requests that have to be answered well after the switch, one after another, before the old instance is stopped.
STEADY = 3
#: Seconds after which a request counts as failed, even where `health:timeout` is longer.
PATIENCE = 10.0
#: Requests on their way at once; where so many hang, no more are sent.
_AT_ONCE = 20


class Sample(NamedTuple):
    """One request: when it was sent and when it was over (by the monotonic clock), and what was wrong with it."""

    sent: float
    ended: float
    problem: str


class Probe:
    """Requests for the health page of a site, from `start` to `end`: through nginx, with a connection each.

    Where nginx does not give a good answer at first (maintenance, a page that it keeps for others, no files of the site
    yet), the socket of the release that is live is asked instead.

    Args:
        through_proxy: whether nginx has the site at all.
    """

    def __init__(self, site: Site, *, through_proxy: bool):
        self.site = site
        self.through_proxy = through_proxy
        self.samples: list[Sample] = []
        #: When the new release was about to go live, and when it was live, by the monotonic clock.
        self.leaves = self.switched = math.inf
        self._under_way: list[float] = []
        self._hurried = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> "Probe":
        """Begin to ask."""
        self._thread.start()
        return self

    def _run(self) -> None:
        if self.through_proxy and self.problem():
            self.through_proxy = False
        due = time.monotonic()
        while not self._is_over:
            with self._lock:
                may = len(self._under_way) < _AT_ONCE
            if may:
                try:
                    threading.Thread(target=self._sample, daemon=True).start()
                except RuntimeError:  # no more threads are to be had: this one asks itself
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
        problem = self.problem()
        with self._lock:
            self._under_way.remove(sent)
            if not self._is_over:
                self.samples.append(Sample(sent, time.monotonic(), problem))

    def problem(self) -> str:
        """Ask once: what is wrong with the health page now; empty when it is well."""
        deadline = time.monotonic() + min(seconds(self.site.config["health"]["timeout"]), PATIENCE)
        if not self.through_proxy:
            return django_release_health.problem(self.site, self._ask_socket, deadline, self.site.scheme)
        scheme = "https" if django_proxy_connection.speaks_tls(self.site) else "http"
        return django_release_health.problem(self.site, self._ask_proxy, deadline, scheme)

    def _ask_proxy(self, path: str, timeout: float) -> Answer:
        deadline = time.monotonic() + timeout
        connection = django_proxy_connection.connection(self.site, timeout)
        headers = {"Host": self.site.config["domains"][0], "User-Agent": "django-formula", "Connection": "close"}
        with contextlib.closing(connection):
            connection.connect()
            connection.sock = Bounded(connection.sock, deadline)
            connection.request("GET", path, headers=headers | self.site.config["health"]["headers"])
            response = connection.getresponse()
            body = response.read(65536).decode(errors="replace")
            return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)

    def _ask_socket(self, path: str, timeout: float) -> Answer:
        headers, scheme = self.site.config["health"]["headers"], self.site.scheme
        release = self.site.current.resolve()
        return django_release_http.get(self.site, release, path, scheme=scheme, headers=headers, timeout=timeout)

    @contextlib.contextmanager
    def switching(self) -> Iterator[None]:
        """The new release goes live in this block; at its end the next request is sent at once."""
        self.leaves = time.monotonic()
        yield
        self.switched = time.monotonic()
        self._wake.set()

    def is_steady(self) -> bool:
        """Whether the last requests since the switch were answered well, as many as `STEADY` says, and none waits."""
        after = self._after()
        with self._lock:
            waiting = [sent for sent in self._under_way if self.switched <= sent]
        well = len(after) >= STEADY and not any(sample.problem for sample in after[-STEADY:])
        return well and not any(sent < after[-1].sent for sent in waiting)

    def failures(self) -> int:
        """How many of the requests sent since the switch have failed so far."""
        return sum(1 for sample in self._after() if sample.problem)

    def last_problem(self) -> str:
        """What was wrong with the last of the requests sent since the switch that have failed."""
        return next((sample.problem for sample in reversed(self._after()) if sample.problem), "")

    def is_worse(self) -> bool:
        """Whether a greater part of the requests has failed since the switch than before it."""
        return _part_failed(self._after()) > _part_failed(self._before())

    def _before(self) -> list[Sample]:
        """What was over before the switch; what it has met on its way tells nothing of either release."""
        with self._lock:
            return sorted(sample for sample in self.samples if sample.ended < self.leaves)

    def _after(self) -> list[Sample]:
        with self._lock:
            return sorted(sample for sample in self.samples if sample.sent >= self.switched)

    def end(self) -> None:
        """Ask no more; what is still on its way does not count."""
        with self._lock:
            self._is_over = True
        self._wake.set()

    def report(self, cut: int) -> dict[str, Any]:
        """What was seen, for the record of a release; times in seconds.

        ``longest_gap`` is the longest time between two good answers, less the pause between two requests.

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
    """The usual time to a good answer."""
    times = [sample.ended - sample.sent for sample in samples if not sample.problem]
    return round(statistics.median(times), 4) if times else None
