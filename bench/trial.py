"""Releases under visitors, half of them broken, each with a canary: which are taken back, after how many visitors."""

import http.client
import random
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import urlsplit

from client import Answer, Load
from contestants import Formula, apply
from lab import Host

#: What a good release has, and in each broken one another line. A page takes some milliseconds and one query.
VIEWS = """
import os, time
from django.http import HttpResponse
from django.views.decorators.csrf import csrf_exempt

BREAK, KEPT = {broken!r}, []

def burn(milliseconds):
    until = time.thread_time() + milliseconds / 1000
    while time.thread_time() < until:
        pass

def trouble(kind):
    return BREAK == kind

@csrf_exempt
def item(request, number):
    if trouble("one percent") and number == 7 or trouble("ten percent") and number % 10 == 7:
        raise KeyError("seven")
    if trouble("post") and request.method == "POST":
        raise ValueError("post")
    if trouble("browser") and "odd" in request.headers.get("User-Agent", ""):
        raise TypeError("odd")
    if trouble("exit") and number == 7:
        os._exit(1)
    if trouble("gone") and number % 10 == 7:
        return HttpResponse(status=404)
    if trouble("leak"):
        KEPT.append(bytearray(os.urandom(300_000)))
    if trouble("waits"):
        time.sleep(0.1)
    for _turn in range(8 if trouble("queries") else 1):
        Entry.objects.filter(pk=number).exists()
    burn(9 if trouble("all slow") else 3)
    name = "lost" if trouble("static") else "rule"
    return HttpResponse(f'<link href="/static/guestbook/{{name}}.svg"> {{os.environ["DJANGO_RELEASE"]}}')

def listing(request):
    burn(18 if trouble("one route slow") else 6)
    return HttpResponse(os.environ["DJANGO_RELEASE"])
"""
ROUTES = """
urlpatterns += [path("items/<int:number>/", views.item), path("listing/", views.listing)]
"""
#: Each is broken in a way of its own; the last two were invented after the judge was written.
BROKEN = ("one percent", "ten percent", "post", "browser", "static", "all slow", "one route slow", "queries", "waits",
          "leak", "exit", "gone")  # fmt: skip
CANARY = {"steps": {"10%": "20s", "30%": "30s"}, "requests": 60, "limit": "2m"}
_VISITORS = [f"browser {number}{' odd' if number % 12 == 0 else ''}" for number in range(240)]


class Browsers(Load):
    """Visitors of whom each third fetches the static file that a page has."""

    def ask(self) -> Answer:
        answer = super().ask()
        if not answer.release or next(self.turns) % 3:
            return answer
        connection = http.client.HTTPConnection(urlsplit(self.url).hostname or "", timeout=self.timeout)
        connection.request("GET", answer.release, headers={"Host": self.host_header, "User-Agent": answer.visitor})
        status = connection.getresponse().status
        connection.close()
        return replace(answer, status=status) if status >= 400 else answer


def link_of(body: bytes) -> str | None:
    """The static file of a page."""
    found = re.search(rb'href="([^"]+)"', body)
    return found[1].decode() if found else None


class Ended(NamedTuple):
    """How a release ended: what was broken, empty for a good one; seconds until it was taken back, None where it was
    not; the reason; how many of its visitors met an error."""

    broken: str
    disturbed: bool
    seconds: float | None
    why: str
    visitors: int


class Trial:
    """A site that makes releases under its visitors.

    ended: how each did
    lost: answers of nginx that no release gave
    """

    def __init__(
        self, host: Host, formula: Formula, commit: Callable[[Mapping[str, str]], str], say: Callable[[str], object]
    ):
        self.host, self.formula, self.commit, self.say = host, formula, commit, say
        self.ended: list[Ended] = []
        self.lost: list[Answer] = []
        self.requests = 0
        repository = formula.repository
        self.views, urls = (repository.read(f"guestbook/{name}.py") for name in ("views", "urls"))
        repository.commit({"guestbook/urls.py": urls + ROUTES, "guestbook/views.py": self.source("")}, "Items")

    def source(self, broken: str) -> str:
        return self.views + VIEWS.format(broken=broken)

    def run(self, count: int) -> None:
        """Make so many releases, half of them broken, in an order that chance has made."""
        chance = random.Random(7)
        kinds = [BROKEN[turn % len(BROKEN)] for turn in range(count // 2)] + [""] * (count - count // 2)
        chance.shuffle(kinds)
        self.apply(self.commit({"guestbook/views.py": self.source("")}), {})
        for number, kind in enumerate(kinds):
            disturbed = not kind and number % 3 == 0
            self.ended.append(self.release(kind, disturbed))
            self.say(f"{number + 1} of {count}: {self.ended[-1]}")

    def apply(self, commit: str, releases: dict[str, object]) -> None:
        options = self.formula.options(commit, self.formula.domain)
        options |= {"proxy": {"access_log": "json"}, "releases": {"canary": CANARY, **releases}}
        self.host.pillar({"django": {"sites": {"blog": options}}})
        apply(self.host, *self.formula.apply_argv)

    def release(self, kind: str, disturbed: bool) -> Ended:
        """Release under visitors, and wait for the end of its canary."""
        commit = self.commit({"guestbook/views.py": self.source(kind)})
        with self.visitors() as load, self.visitors("POST", 3) as posts:
            load.wait(300)
            self.apply(commit, {})
            began, name = time.time(), self.host.call("django.proof", "blog")["release"]
            burners = self.burn() if disturbed else []
            while "ended" not in (found := self.host.call("django.proof", "blog")):
                time.sleep(1)
            took = time.time() - began
            for burner in burners:
                self.host.run(["kill", burner], check=False)
            load.wait(60)
        answers = [*load.answers, *posts.answers]
        self.requests += len(answers)
        self.lost += [one for one in answers if one.status in (None, 502, 503, 504)]
        met = {one.visitor for one in answers if one.status and one.status >= 400 and one.time >= began}
        is_back = found["ended"] == "back"
        assert name == found["release"]
        return Ended(kind, disturbed, took if is_back else None, found.get("why", ""), len(met))

    def visitors(self, method: str = "GET", rate: float = 32) -> Load:
        paths = [f"/items/{number}/" for number in range(100)]
        paths = [path for number in range(0, 100, 10) for path in [*paths[number : number + 10], "/listing/"]]
        return Browsers(
            f"http://{self.host.address}/", self.formula.domain, connections=4, pause=4 / rate, method=method,
            release=link_of,
            visitors=_VISITORS, paths=paths if method == "GET" else [path for path in paths if "items" in path],
        )  # fmt: skip

    def burn(self) -> list[str]:
        """Start two processes that take all CPU they get."""
        argv = ["sh", "-c", "(while :; do :; done) >/dev/null 2>&1 & echo $!"]
        return [self.host.run(argv).stdout.strip() for _process in range(2)]

    def summary(self) -> dict[str, list[Ended]]:
        rows = defaultdict(list)
        for one in self.ended:
            rows[one.broken or "good"].append(one)
        return rows

    @property
    def found(self) -> list[Ended]:
        return [one for one in self.ended if one.broken and one.seconds is not None]

    @property
    def wrongly(self) -> list[Ended]:
        return [one for one in self.ended if not one.broken and one.seconds is not None]

    def median(self) -> float:
        return statistics.median([one.seconds or 0.0 for one in self.found] or [0.0])
