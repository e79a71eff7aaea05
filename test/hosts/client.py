"""A load of requests that never pauses, and one that writes, for tests that may not lose anything."""

import http.client
import itertools
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import urlsplit

import requests

Release = Callable[[bytes], str | None]


@dataclass(frozen=True)
class Answer:
    """One request: when it was sent (seconds of time.time), how long it took, what came back."""

    time: float
    duration: float
    status: int | None
    release: str | None
    error: str | None
    visitor: str = ""


@dataclass
class Load:
    """Keep `connections` requests in flight, each on a connection of its own, until the block ends.

    pause: seconds that each rests between two requests, for tests that need no pressure
    url: what is asked, under the name `host_header`
    release: finds in an answer's body which release gave it
    method: one that is not GET is never sent twice by nginx
    visitors: the browsers that ask in turn; none says which it is without
    paths: what is asked in turn, in place of that of the URL
    seconds, requests: the load stops by itself at either
    """

    url: str
    host_header: str
    connections: int = 16
    pause: float = 0.1
    release: Release = lambda body: None
    seconds: float = 3600
    requests: int = 200_000
    timeout: float = 30
    method: str = "GET"
    visitors: Sequence[str] = ()
    paths: Sequence[str] = ()
    answers: list[Answer] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self.stopped = threading.Event()
        self.limit, self.begun = time.monotonic() + self.seconds, itertools.count()
        self.turns = itertools.count()
        self.threads = [threading.Thread(target=self.ask_on, daemon=True) for _ in range(self.connections)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(self.timeout + 5)

    @property
    def failed(self) -> list[Answer]:
        """The requests that got no answer, or none with status 200."""
        return [answer for answer in self.answers if answer.status != 200]

    @property
    def releases(self) -> list[str]:
        """The releases that answered, in the order of their first answer."""
        ordered = sorted(self.answers, key=lambda answer: answer.time)
        return list(dict.fromkeys(answer.release for answer in ordered if answer.release))

    @property
    def went_back(self) -> list[Answer]:
        """The answers of an older release to requests that were sent after a newer one had answered."""
        order = {name: place for place, name in enumerate(self.releases)}
        seen = sorted((a.time + a.duration, order[a.release]) for a in self.answers if a.release)
        late, newest, place = [], -1, 0
        for answer in sorted(self.answers, key=lambda answer: answer.time):
            while place < len(seen) and seen[place][0] < answer.time:
                newest = max(newest, seen[place][1])
                place += 1
            if answer.release and order[answer.release] < newest:
                late.append(answer)
        return late

    def wait(self, count: int, timeout: float = 300) -> None:
        """Wait until `count` more requests have been answered. Raises TimeoutError."""
        target, limit = len(self.answers) + count, time.monotonic() + timeout
        while len(self.answers) < target:
            if time.monotonic() > limit or not any(thread.is_alive() for thread in self.threads):
                raise TimeoutError(f"{len(self.answers)} answers, {target} expected; failed: {self.failed[:3]}")
            time.sleep(0.02)

    def ask_on(self) -> None:
        while not self.stopped.is_set() and time.monotonic() < self.limit and next(self.begun) < self.requests:
            answer = self.ask()
            self.answers.append(answer)
            time.sleep(max(self.pause, 0.05 if answer.error else 0))

    def ask(self) -> Answer:
        where, turn = urlsplit(self.url), next(self.turns)
        visitor = self.visitors[turn % len(self.visitors)] if self.visitors else ""
        path = self.paths[turn % len(self.paths)] if self.paths else where.path or "/"
        sent, started = time.time(), time.perf_counter()
        connection = http.client.HTTPConnection(where.hostname or "", where.port or 80, timeout=self.timeout)
        try:
            target = f"{path}?{where.query}" if where.query else path
            own = {"User-Agent": visitor} if visitor else {}
            connection.request(self.method, target, headers={"Host": self.host_header, "Connection": "close", **own})
            response = connection.getresponse()
            body = response.read()
            return Answer(sent, time.perf_counter() - started, response.status, self.release(body), None, visitor)
        except (OSError, http.client.HTTPException) as error:
            return Answer(sent, time.perf_counter() - started, None, None, repr(error), visitor)
        finally:
            connection.close()


class Writer:
    """Signs the guestbook again and again, a file with each name; knows what was acknowledged, and why others were not.

    Each request has a connection of its own: one that is kept open may be closed by the server just then.
    """

    def __init__(self, origin: str, domain: str, pause: float = 0.1):
        self.origin, self.domain, self.pause = origin, domain, pause
        self.began = time.time_ns()
        self.acknowledged: list[str] = []
        self.refused: list[str] = []
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.write, daemon=True)

    def __enter__(self) -> "Writer":
        self.thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stopped.set()
        self.thread.join(40)

    def write(self) -> None:
        number = 0
        while not self.stopped.is_set():
            number += 1
            name = f"{self.domain}-{self.began}-{number}"
            problem = self.problem(name)
            (self.refused if problem else self.acknowledged).append(f"{name}: {problem}" if problem else name)
            time.sleep(self.pause)

    def sign(self, name: str) -> bool:
        return not self.problem(name)

    def problem(self, name: str) -> str:
        """Sign; what has come in place of an acknowledgement, or nothing."""
        try:
            with requests.Session() as session:
                session.trust_env = False
                session.headers.update({"Host": self.domain, "Connection": "close"})
                form = session.get(f"{self.origin}/sign/", timeout=30)
                found = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', form.text)
                data = {"csrfmiddlewaretoken": found[1] if found else "", "name": name, "message": "written"}
                file = {"attachment": (f"{name}.txt", name)}
                answer = session.post(f"{self.origin}/sign/", data=data, files=file, timeout=30, allow_redirects=False)
                return "" if answer.status_code == 302 else f"{answer.status_code} {answer.text[:500]}"
        except requests.RequestException as error:
            return repr(error)
