"""Requests that wait while the server of a site is stopped, killed or restarted (`releases:wait`)."""

import http.client
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from products import shortened
from sites import Site, until, version

#: A page that says how long the body of a request is, and reads the database.
VIEW = """
from django.http import HttpResponse
from django.views.decorators.csrf import csrf_exempt

from guestbook.models import Entry


@csrf_exempt
def length(request):
    return HttpResponse(f"{len(request.body)} {Entry.objects.exists() or 1}")


urlpatterns.append(path("length", length))
"""
#: Bytes of the body of each third request, and requests in a second.
BODY, RATE = 300_000, 30
RELAY = "django-blog-wait-relay"
WAIT = {"wait": "20s", "drain": "5s"}


class Answer(NamedTuple):
    """An answer: when its request was sent, after how long it came, its status (0 without one), and Retry-After."""

    method: str
    sent: float
    seconds: float
    status: int
    retry_after: str | None
    error: str


class Visitors:
    """So many requests in a second, each third a POST of 300 kB, whether others are answered or not."""

    def __init__(self, site: Site, rate: float = RATE, path: str = "/length"):
        self.site, self.rate, self.path = site, rate, path
        self.answers: list[Answer] = []

    @contextmanager
    def visiting(self) -> Iterator["Visitors"]:
        ended = threading.Event()
        with ThreadPoolExecutor(600) as pool:
            begun: list[Future[None]] = []
            thread = threading.Thread(target=self._visit, args=(pool, begun, ended))
            thread.start()
            try:
                until(lambda: len(self.answers) > self.rate)
                yield self
                time.sleep(1)
            finally:
                ended.set()
                thread.join()
        for one in begun:
            one.result()

    def _visit(self, pool: ThreadPoolExecutor, begun: list[Future[None]], ended: threading.Event) -> None:
        began = time.monotonic()
        while not ended.is_set():
            begun.append(pool.submit(self._ask, len(begun) % 3 == 0 and self.path == "/length"))
            time.sleep(max(0, began + len(begun) / self.rate - time.monotonic()))

    def _ask(self, posts: bool) -> None:
        method, body = ("POST", b"x" * BODY) if posts else ("GET", b"")
        sent, began, status, retry, error = time.time(), time.monotonic(), 0, None, ""
        connection = http.client.HTTPConnection(self.site.host.address, self.site.port, timeout=90)
        try:
            connection.request(method, self.path, body, {"Host": self.site.domain, "Connection": "close"})
            answer = connection.getresponse()
            text, status, retry = answer.read(), answer.status, answer.headers["Retry-After"]
            if status == 200 and self.path == "/length":
                assert text.startswith(f"{len(body)} ".encode()), text[:200]
        except (OSError, http.client.HTTPException) as problem:
            error = repr(problem)
        finally:
            connection.close()
        self.answers.append(Answer(method, sent, time.monotonic() - began, status, retry, error))

    @property
    def lost(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]

    def told(self, what: str) -> str:
        """The figures, for people."""
        ordered = sorted(answer.seconds for answer in self.answers)
        slow = [ordered[int(len(ordered) * part)] for part in (0.5, 0.95)] + ordered[-1:]
        posts = sum(answer.method == "POST" for answer in self.answers)
        times = ", ".join(f"{one:.2f}" for one in slow)
        return f"{what}: {len(self.lost)} of {len(ordered)} lost ({posts} POST); p50, p95, most: {times} s"


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(kind="live")
    blog = Site(host, repositories(host), releases={**WAIT, "overlap": False})
    blog.repository.append("website/urls.py", VIEW)
    blog.deploy()
    return blog


@pytest.fixture(scope="module")
def shop(blog) -> Site:
    """A neighbour, whose requests do not wait."""
    shop = Site(blog.host, blog.repository, "shop", neighbour=blog)
    shop.deploy()
    return shop


def test_relay_is_there_and_a_second_apply_changes_nothing(blog):
    upstream = blog.host.read("/etc/nginx/conf.d/django-blog.conf")
    assert "server unix:/run/django-wait/blog.sock max_fails=0 backup;" in upstream
    assert blog.host.run(["systemctl", "is-active", f"{RELAY}.socket"]).stdout.strip() == "active"
    assert blog.host.run(["systemctl", "is-active", f"{RELAY}.service"], check=False).stdout.strip() == "inactive"
    assert not blog.apply().changed


@pytest.mark.parametrize("times", shortened([1, 10], 1))
def test_no_request_is_lost_while_a_release_follows_the_other(blog, shop, times, record_property):
    with Visitors(blog).visiting() as visitors, Visitors(shop, 10, "/healthz").visiting() as others:
        for number in range(times):
            blog.repository.commit(version(f"3.{times}.{number}"))
            applied = blog.deploy()
            assert "requests waited for " in str(applied.warnings["blog is live"])
            assert blog.answering["version"] == f"3.{times}.{number}"
    record_property("figures", visitors.told(f"overlap: false x {times}"))
    print(visitors.told(f"overlap: false x {times}"), others.told("neighbour"))
    assert visitors.lost == [] and others.lost == []
