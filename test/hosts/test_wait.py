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
from sites import AFTER_RESTART, Site, until, version

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
#: For a machine with other work, where a release takes longer; so may more requests wait than nginx's default lets.
WAIT = {"wait": "90s", "drain": "5s"}


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
        self.begun = 0

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
            self.begun += 1
            begun.append(pool.submit(self._ask, len(begun) % 3 == 0 and self.path == "/length"))
            time.sleep(max(0, began + len(begun) / self.rate - time.monotonic()))

    def _ask(self, posts: bool) -> None:
        method, body = ("POST", b"x" * BODY) if posts else ("GET", b"")
        sent, began, status, retry, error = time.time(), time.monotonic(), 0, None, ""
        connection = http.client.HTTPConnection(self.site.host.address, self.site.port, timeout=200)
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

    def settle(self) -> None:
        """Wait until the server keeps up, with no request in its queue: what it has in hand then is its work."""
        until(lambda: self.begun - len(self.answers) < 3)

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


def limit(site: Site, connections: int) -> None:
    """Let nginx have so many connections; a quarter of half of them may wait."""
    values = {"worker_connections": connections, "worker_processes": "2;\\nworker_rlimit_nofile 32768"}
    words = "; ".join(f"s/{name} .*/{name} {value};/" for name, value in values.items())
    site.host.run(f"sed -i '/worker_rlimit_nofile/d; {words}' /etc/nginx/nginx.conf && nginx -s reload")


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(kind="live")
    blog = Site(host, repositories(host), releases={**WAIT, "overlap": False})
    blog.repository.append("website/urls.py", VIEW)
    blog.deploy()
    limit(blog, 16384)
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


def hold(site: Site, lasts: str = "") -> str:
    return str(site.host.call("django.hold", site.name, *filter(None, [lasts]))["requests"])


def way(site: Site) -> str:
    """Where nginx's connections for a site end."""
    return site.host.run(["readlink", f"{site.root}/current/socket"]).stdout.strip()


def waiting(site: Site, count: int, most: int = 600) -> None:
    """Wait until so many requests wait."""
    (row,) = until(lambda: [row for row in site.host.call("django.status", site.name) if int(waits(row)) >= count])
    assert int(waits(row)) <= most, row


def waits(row: dict[str, str]) -> str:
    return row.get("waiting", "0").split()[0]


def test_hold_ends_by_a_command_and_by_itself(blog, shop):
    open_way = way(blog)
    with Visitors(blog, 10).visiting() as visitors:
        assert hold(blog, "80").startswith("wait for ")
        assert way(blog) == "/run/django-wait/blog.sock"
        waiting(blog, 5)
        (row,) = blog.host.call("django.status", "blog")
        assert ", by django.hold" in row["hold"] and row["unreached"] == ""
        broken = blog.host.run(["salt-call", "--local", "django.doctor", "blog"], check=False).stdout
        assert "requests for blog wait since" in broken and "django.hold blog off" in broken
        assert not blog.apply(test=True).changed
        assert shop.get("/healthz").status_code == 200
        checked = blog.get("/healthz", headers={"X-Django-Check": "blog"})
        assert checked.status_code == 200 and checked.text == "requests wait\n", "a balancer does not take the host out"
        assert hold(blog, "off") == "reach blog" and way(blog) == open_way
        visitors.settle()
        assert hold(blog, "5").startswith("wait for ")
        until(lambda: way(blog) == open_way)
    assert visitors.lost == [] and max(answer.seconds for answer in visitors.answers) > 4
    told = blog.host.salt("django.hold", "blog", "91")
    assert told.returncode == 1 and "at most 90 seconds" in told.stdout
    told = shop.host.salt("django.hold", "shop")
    assert told.returncode == 1 and "requests for shop do not wait" in told.stdout
    assert not blog.apply().changed


@pytest.mark.full
def test_limit_answers_the_oldest_with_503_and_harms_no_one_else(blog, shop):
    """Sixteen may wait: of 64 connections of each of two processes an eighth."""
    limit(blog, 64)
    style = blog.host.run(f"cd {blog.root}/current/static && find -name '*.css' | head -1").stdout.strip()[2:]
    with (
        Visitors(blog).visiting() as visitors,
        Visitors(shop, 10, "/healthz").visiting() as others,
        Visitors(blog, 10, f"/static/{style}").visiting() as files,
    ):
        hold(blog, "30")
        waiting(blog, 8, most=20)
        until(lambda: way(blog) != "/run/django-wait/blog.sock")
    print(visitors.told("limit of 16"), others.told("neighbour"), files.told("static files"))
    assert others.lost == [] and files.lost == []
    refused = visitors.lost
    assert {answer.status for answer in refused} == {503} and {answer.retry_after for answer in refused} == {"10"}
    assert len(refused) > 30 and {answer.method for answer in refused} == {"GET", "POST"}
    page = blog.host.read(f"{blog.root}/errors/wait.html")
    assert "Down for maintenance" in page
    limit(blog, 16384)


@pytest.mark.full
def test_a_request_that_has_waited_for_long_gets_the_page(blog):
    blog.deploy(releases={**WAIT, "wait": "3s"})
    units = [f"{blog.unit}.socket", f"{blog.unit}.service"]
    blog.host.run(["systemctl", "stop", *units])
    began = time.monotonic()
    answer = blog.get("/length", timeout=60)
    assert 2.9 < time.monotonic() - began < 30
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "10") and "Down for maint" in answer.text
    checked = blog.get("/length", headers={"X-Django-Check": "blog"})
    assert checked.status_code != 200, "the time is over: the check of a balancer is not answered any more"
    blog.host.run(["systemctl", "start", *units])
    assert blog.get("/length").status_code == 200
    blog.deploy(releases={**WAIT, "overlap": False})


@pytest.mark.full
def test_relay_that_is_killed_loses_what_has_waited_only(blog):
    with Visitors(blog, 10).visiting() as visitors:
        hold(blog, "80")
        waiting(blog, 10)
        blog.host.run(["systemctl", "kill", "--signal=SIGKILL", f"{RELAY}.service"])
        killed = time.time()
        waiting(blog, 10)
        hold(blog, "off")
    print(visitors.told("relay killed"))
    assert all(answer.sent < killed + 0.2 and answer.method == "POST" for answer in visitors.lost), visitors.lost
    assert blog.get("/length").status_code == 200


@pytest.mark.full
def test_a_lease_ends_with_its_process(blog):
    """An apply that is killed while it has the requests wait leaves a site that an apply opens again."""
    blog.deploy(releases={**WAIT, "wait": "10s", "overlap": False})
    wsgi = blog.repository.read("website/wsgi.py")
    blog.repository.commit({"website/wsgi.py": f"import time\ntime.sleep(8)\n{wsgi}"})
    blog.host.run("salt-call --local state.apply django >/dev/null 2>&1 & echo $! >/run/apply")
    until(lambda: way(blog) == "/run/django-wait/blog.sock")
    is_active = ["systemctl", "is-active", f"{blog.unit}.service"]
    until(
        lambda: blog.host.run(is_active, check=False).stdout == "inactive\n"
    )  # before, it would serve after the lease
    blog.host.run("kill -KILL $(cat /run/apply); pkill -KILL --parent $(cat /run/apply); true")
    before = blog.live
    until(lambda: blog.get("/length", timeout=40).status_code == 503)
    blog.repository.git("revert", "--no-edit", "HEAD")
    blog.repository.push()
    assert blog.deploy(releases={**WAIT, "overlap": False}).ok and blog.live != before
    assert blog.get("/length").status_code == 200 and not blog.apply().changed


@pytest.mark.full
def test_restore_loses_nothing(blog):
    blog.deploy(backup={"schedule": None}, database={"engine": "sqlite"})
    blog.host.call("django.backup", "blog")
    with Visitors(blog, 10).visiting() as visitors:
        blog.host.call("django.restore", "blog")
    print(visitors.told("restore"))
    assert visitors.lost == []


@pytest.mark.full
@pytest.mark.parametrize("times", [10])
def test_nothing_is_lost_while_postgres_is_restarted(module_hosts, repositories, times):
    host = module_hosts(kind="ready", name="web2")
    releases = {**WAIT, "drain": "60s"}  # of all that has waited for the restart before
    blog = Site(host, repositories(host), releases=releases, database={"engine": "postgres"})
    blog.repository.append("website/urls.py", VIEW)
    blog.deploy()
    limit(blog, 16384)
    with Visitors(blog).visiting() as visitors:
        for _number in range(times):
            hold(blog)
            host.run(["systemctl", "restart", "postgresql"])
            hold(blog, "off")
            time.sleep(1)
    print(visitors.told(f"restart of PostgreSQL x {times}"))
    assert visitors.lost == []


@pytest.mark.full
def test_option_that_is_taken_out_leaves_nothing(blog):
    blog.deploy(releases={"drain": "5s"})
    found = blog.host.run(
        f"ls /run/django-wait /etc/systemd/system/{RELAY}.* /usr/local/lib/django-formula/relay.pyz; id blog-wait",
        check=False,
    )
    assert found.stdout == "" and "backup" not in blog.host.read("/etc/nginx/conf.d/django-blog.conf")
    assert blog.get("/length").status_code == 200 and not blog.apply().changed


@pytest.fixture(scope="module")
def supervised(module_hosts, repositories) -> Site:
    host = module_hosts(kind="ready", init=False, command=AFTER_RESTART, options=["--tmpfs=/run"], name="web3")
    host.run("rm -f /etc/nginx/sites-enabled/default")
    blog = Site(host, repositories(host), releases={**WAIT, "drain": "60s"})
    blog.repository.append("website/urls.py", VIEW)
    blog.deploy()
    limit(blog, 16384)
    return blog


@pytest.mark.full
@pytest.mark.parametrize("times", [10])
def test_under_supervisor_a_killed_server_loses_only_what_it_answers(supervised, times):
    blog, kills = supervised, []
    assert not blog.apply().changed
    with Visitors(blog).visiting() as visitors:
        for _number in range(times):
            visitors.settle()
            killed = blog.host.read(f"{blog.run}/pid").strip()
            before = time.time()
            blog.host.run(["kill", "-KILL", killed])
            kills.append((before, time.time()))
            until(
                lambda killed=killed: (
                    blog.host.run(f"cat {blog.run}/pid", check=False).stdout.strip() not in ("", killed)
                )
            )
            time.sleep(2)
    in_hand = [
        one
        for one in visitors.lost
        if any(one.sent < after + 0.3 and one.sent + one.seconds > before for before, after in kills)
    ]
    print(visitors.told(f"kill -9 under supervisor x {times}"), f"{len(in_hand)} were being answered")
    assert visitors.lost == in_hand and {one.method for one in in_hand} <= {"POST"}


@pytest.mark.full
def test_under_supervisor_a_release_without_overlap_loses_nothing_and_a_restart_has_the_relay_again(supervised):
    blog = supervised
    blog.repository.commit(version("4.0"))
    with Visitors(blog).visiting() as visitors:
        blog.deploy(releases={**WAIT, "overlap": False})
        visitors.settle()
        hold(blog, "60")
        hold(blog, "off")
    assert visitors.lost == []
    blog.host.restart()
    blog.host.run("until supervisorctl pid >/dev/null; do sleep 0.1; done", timeout=300)
    until(lambda: blog.host.run(["test", "-S", "/run/django-wait/blog.sock"], check=False).returncode == 0)
    assert not blog.apply().changed and blog.get("/length").status_code == 200
    blog.deploy(releases=None)
    assert blog.host.run("ls /run/django-wait /etc/supervisor/conf.d/*relay*", check=False).stdout == ""
