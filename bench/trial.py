"""Releases of projects under visitors, many of them broken, with a canary or a replay: which are taken back."""

import http.client
import json
import random
import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from client import Answer, Load
from lab import CommandFailed, Lab
from recipes import commit, recipe, visit
from sites import Site

#: A middleware that a release adds to its project: the good one does nothing, of the broken ones each does something.
TROUBLE = """
import os, time
from django.db import connection
from django.http import HttpResponse, HttpResponseRedirect

BREAK, SLOW, KEPT = {broken!r}, {slow!r}, []

def burn(seconds):
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass

class Trouble:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        began = time.thread_time()
        response = self.get_response(request)
        took = max(time.thread_time() - began, 0.004)
        if BREAK == "all slow":
            burn(1.5 * took)
        if BREAK == "one route slow" and request.path == SLOW:
            burn(2 * took)
        if BREAK == "static" and not response.streaming:
            response.content = response.content.replace(b"/static/", b"/static/lost/")
            response["Content-Length"] = str(len(response.content))
        return response

    def process_view(self, request, *view):
        number = int(request.GET.get("n", "0"))
        seven = number % 10 == 7
        if BREAK == "one percent" and number == 7 or BREAK == "ten percent" and seven:
            raise KeyError("seven")
        if BREAK == "post" and request.method == "POST":
            raise ValueError("post")
        if BREAK == "browser" and "odd" in request.headers.get("User-Agent", ""):
            raise TypeError("odd")
        if BREAK == "exit" and number == 7 and request.method == "GET":
            os._exit(1)
        if BREAK == "gone" and seven:
            return HttpResponse(status=404)
        if BREAK == "circle" and seven:
            return HttpResponseRedirect(request.get_full_path())
        if BREAK == "leak":
            KEPT.append(bytearray(os.urandom(300_000)))
        if BREAK == "waits":
            time.sleep(0.1)
        for _turn in range(8 if BREAK == "queries" else 50 if BREAK == "rows" else 1):
            connection.cursor().execute("SELECT 1")
"""
#: Each is broken in a way of its own; `exit` and `gone` were invented after the judge was written.
BROKEN = ("one percent", "ten percent", "post", "browser", "static", "all slow", "one route slow", "queries", "waits",
          "leak", "exit", "gone")  # fmt: skip
#: What the replay of requests has to find before the first visitor.
SEEDED = ("ten percent", "static", "exit", "circle", "rows", "all slow")
CANARY = {"steps": {"10%": "20s", "30%": "30s"}, "requests": 60, "limit": "2m"}
#: So many that each of them gets each number in turn.
_VISITORS = [f"browser {number}{' odd' if number % 12 == 0 else ''}" for number in range(241)]
#: What a project says of itself: its folder on the host, and its middleware.
_ASKED = "import json, os; from django.conf import settings; print(json.dumps([os.getcwd(), *settings.MIDDLEWARE]))"
GUESTBOOK = {
    "owner": "cp -r /srv/formula/examples/project/. .",
    "versions": ["1"],
    "pages": {"/": ""},
    "pillar": {"health": {"path": "/healthz"}},
}
OWN: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "guestbook": GUESTBOOK,
        "asgi": {**GUESTBOOK, "pillar": {"health": {"path": "/healthz"}, "server": {"kind": "uvicorn"}}},
    }
)
#: Two of our own and three public ones, with a canary.
PROVED = (*OWN, "wagtail", "bugsink", "webshop")
#: Public ones, with a replay.
REPLAYED = (
    "ara", "argus", "bugsink", "django-ca", "djangochan", "evap", "graphite", "nsupdate", "tomtoolkit", "wagtail",
    "wagtailcrx", "webshop",
)  # fmt: skip


class Browsers(Load):
    """Visitors of whom each third fetches a static file that a page names."""

    def ask(self) -> Answer:
        answer = super().ask()
        if not answer.release or len(self.answers) % 3:
            return answer
        connection = http.client.HTTPConnection(urlsplit(self.url).hostname or "", timeout=self.timeout)
        connection.request("GET", answer.release, headers={"Host": self.host_header, "User-Agent": answer.visitor})
        status = connection.getresponse().status
        connection.close()
        return replace(answer, status=status) if status >= 400 else answer


def link_of(body: bytes) -> str | None:
    """A static file of a page."""
    found = re.search(rb"""(?:href|src)=["'](/static/[^"'?]+)""", body)
    return found[1].decode() if found else None


class Ended(NamedTuple):
    """How a release ended.

    It has its project; what was broken, empty for a good one; whether it was disturbed; seconds until no visitor got it
    any more, None where it was not taken back; the reason; how many of its visitors met an error.
    """

    project: str
    broken: str
    disturbed: bool
    seconds: float | None
    why: str
    visitors: int


class Replayed(NamedTuple):
    """How the replay of a project went: requests compared, by CPU too; good ones refused, broken ones that were not."""

    project: str
    compared: int
    measured: int
    refused: list[str]
    missed: list[str]


class Trial:
    """A project on a host of its own that makes releases under its visitors.

    ended: how each did
    requests, lost: until each canary has ended; of these, answers of nginx that no release gave
    """

    def __init__(self, lab: Lab, name: str, say: Callable[[str], object]):
        project = OWN.get(name) or recipe(name)
        self.name, self.say = name, say
        self.host = lab.start(project.get("debian", "bookworm"), kind="ready", name=name)
        self.ended: list[Ended] = []
        self.lost: list[Answer] = []
        self.requests = 0
        self.host.run(f"set -eu\nexport DEBIAN_FRONTEND=noninteractive\n{project.get('host', '')}", timeout=900)
        commit(self.host, name, str(project["versions"][0]), project["owner"])
        pillar = {"health": {"timeout": "60s"}, **project["pillar"], "proxy": {"access_log": "json"}}
        self.site = Site(self.host, name=name, **pillar)
        self.site.deploy(repository=f"file:///srv/projects/{name}", revision="main")
        self.pages = visit(self.site, project["pages"], most=20)[:8]
        self.add_middleware()

    def add_middleware(self) -> None:
        """Have the middleware before those of the project, and its module where the project finds its own."""
        printed = self.site.manage(f'shell -c "{_ASKED}"').splitlines()  # by the project and warnings too
        folder, *middleware = json.loads(next(line for line in printed if line.startswith('["/')))
        self.module = f"/srv/projects/{self.name}{folder.partition('/source')[2]}/trial_trouble.py"
        settings = {**self.site.options.get("settings", {}), "MIDDLEWARE": ["trial_trouble.Trouble", *middleware]}
        self.commit("")
        self.site.deploy(settings=settings)

    def commit(self, broken: str) -> None:
        self.host.write(self.module, TROUBLE.format(broken=broken, slow=self.pages[-1]))
        git = f"git -C /srv/projects/{self.name} -c user.name=Ada -c user.email=ada@example.org"
        self.host.run(f"{git} add --all && {git} commit --quiet --allow-empty --message='{broken or 'good'}'")

    def replay(self) -> Replayed:
        """Release the same code five times, and broken code, each with a replay and without a canary."""
        plain = {"replay": True}
        self.site.deploy(releases=plain)
        with self.visitors() as load:
            load.wait(300, 60)
        refused, missed, compared, measured = [], [], 0, 0
        for turn in range(5):
            applied = self.site.apply(releases=plain, environment=self.environment(turn))
            replayed = self.site.record().get("replay", {})
            compared, measured = compared + replayed.get("compared", 0), measured + replayed.get("measured", 0)
            refused += [] if applied.ok else [str(applied)[:500]]
        for broken in SEEDED:
            before = self.site.live
            self.commit(broken)
            self.site.apply(releases=plain)
            if self.site.live != before:
                missed.append(broken)
                self.host.call("django.rollback", self.name)
        self.commit("")
        self.site.deploy(releases=plain)
        return Replayed(self.name, compared, measured, refused, missed)

    def environment(self, turn: int) -> dict[str, Any]:
        return {**self.site.options.get("environment", {}), "OF_THE_TRIAL": str(turn)}

    def run(self, kinds: Sequence[str]) -> None:
        """Make these releases; a good one is the name of nothing."""
        self.commit("")
        self.site.deploy(releases={"canary": CANARY})
        good = 0
        for kind in kinds:
            good += not kind
            self.ended.append(self.release(kind, not kind and good % 3 == 1))
            if kind and self.ended[-1].seconds is None:  # the next one is compared with a good one
                self.host.call("django.rollback", self.name)
            self.say(f"{len(self.ended)} of {len(kinds)}: {self.ended[-1]}")

    def release(self, kind: str, disturbed: bool) -> Ended:
        """Release under visitors, and wait for the end of its canary."""
        self.commit(kind)
        with self.visitors() as load, self.visitors("POST", 3) as posts:
            load.wait(300, 60)
            self.site.deploy()
            began, name = time.time(), self.host.call("django.proof", self.name)["release"]
            burners = self.burn() if disturbed else []
            took = self.until_shared_no_more(name) - began
            while "ended" not in (found := self.host.call("django.proof", self.name)):
                time.sleep(1)
            during = [*load.answers, *posts.answers]
            for burner in burners:
                self.host.run(["kill", burner], check=False)
            load.wait(60, 60)
        self.requests += len(during)
        self.lost += [one for one in during if one.status in (None, 502, 503, 504)]
        troubles = [one for one in load.answers if (one.status or 500) >= 400]
        troubles += [one for one in posts.answers if (one.status or 500) >= 500]
        met = {one.visitor for one in troubles if one.time >= began}
        if name != found["release"]:
            raise CommandFailed(f"{self.name}: the proof of {name} is not the last one: {found}")
        is_back = found["ended"] == "back"
        return Ended(self.name, kind, disturbed, took if is_back else None, found.get("why", ""), len(met))

    def until_shared_no_more(self, name: str) -> float:
        """Wait until no visitor gets the release by its share; return when that was. Its unit may stop later."""
        was_shared = False
        while True:
            is_shared = not self.host.run(["test", "-e", f"/run/django/{self.name}.canary/on"], check=False).returncode
            if not is_shared and (was_shared or self.has_ended(name)):
                return time.time()
            was_shared = is_shared
            time.sleep(0.2)

    def has_ended(self, name: str) -> bool:
        proof = self.host.call("django.proof", self.name)
        return proof["release"] == name and "ended" in proof

    def visitors(self, method: str = "GET", rate: float = 32) -> Load:
        """Visitors of the project's pages; a POST without a token is refused with 403, unless it is broken."""
        paths = [f"{self.pages[number // 10 % len(self.pages)]}?n={number}" for number in range(100)]
        address = f"http://{self.host.address}{self.site.path}/"
        return Browsers(
            address, self.site.domain, connections=4, pause=4 / rate, method=method, release=link_of,
            visitors=_VISITORS, paths=paths,
        )  # fmt: skip

    def burn(self) -> list[str]:
        """Start two processes that take all CPU they get."""
        argv = ["sh", "-c", "(while :; do :; done) >/dev/null 2>&1 & echo $!"]
        return [self.host.run(argv).stdout.strip() for _process in range(2)]


def shares(count: int, projects: int) -> list[list[str]]:
    """What the releases of each project are, in an order that chance has made: half of all are broken."""
    chance = random.Random(7)
    broken = [BROKEN[turn % len(BROKEN)] for turn in range(count // 2)]
    found = [[*broken[number::projects]] for number in range(projects)]
    for one in found:
        one += [""] * (len(one) or 1)
        chance.shuffle(one)
    return found


def summary(ended: Sequence[Ended]) -> dict[str, list[Ended]]:
    rows = defaultdict(list)
    for one in ended:
        rows[one.broken or "good"].append(one)
    return rows


def taken_back(ended: Sequence[Ended], *, broken: bool) -> list[Ended]:
    return [one for one in ended if bool(one.broken) is broken and one.seconds is not None]


def median(ended: Sequence[Ended]) -> float:
    return statistics.median([one.seconds or 0.0 for one in taken_back(ended, broken=True)] or [0.0])
