"""Every way to serve: each application server with each process manager and proxy, by the same release engine.

By default one of the servers that no other file releases is there once; with --all all of them are, and what
was seen is written to docs/internals/serving.md.
"""

import itertools
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from lab import ROOT
from sites import Site, lines, version

pytestmark = pytest.mark.apart(10)

#: server → what the pillar says, and what its log has once it runs.
WAYS = {
    "uwsgi, unix": {"kind": "uwsgi"},
    "uwsgi, tcp": {"kind": "uwsgi", "bind": "127.0.0.1:8101"},
    "uwsgi, http": {"kind": "uwsgi", "protocol": "http"},
    "gunicorn, sync": {"kind": "gunicorn"},
    "gunicorn, sync, tcp": {"kind": "gunicorn", "bind": "127.0.0.1:8101"},
    "gunicorn, gthread": {"kind": "gunicorn", "threads": 4, "options": {"keepalive": 5}},
    "gunicorn, gthread, tcp": {"kind": "gunicorn", "threads": 4, "bind": "127.0.0.1:8101"},
    "gunicorn, gevent": {"kind": "gunicorn", "options": {"worker_class": "gevent"}},
    "gunicorn, uvicorn": {"kind": "gunicorn", "options": {"worker_class": "uvicorn"}},
    "uvicorn": {"kind": "uvicorn"},
    "uvicorn, tcp": {"kind": "uvicorn", "bind": "127.0.0.1:8101"},
    "granian": {"kind": "granian"},
    "granian, tcp": {"kind": "granian", "bind": "127.0.0.1:8101"},
    "granian, wsgi": {"kind": "granian", "threads": 2, "options": {"interface": "wsgi"}},
    "daphne": {"kind": "daphne"},
    "daphne, tcp": {"kind": "daphne", "bind": "127.0.0.1:8101"},
    "mod_wsgi, tcp": {"kind": "mod_wsgi"},
    "mod_wsgi, threads, tcp": {"kind": "mod_wsgi", "threads": 4, "bind": "127.0.0.1:8101"},
    "mod_wsgi, embedded, tcp": {"kind": "mod_wsgi", "options": {"mode": "embedded"}},
    "mod_wsgi, embedded, threads, tcp": {"kind": "mod_wsgi", "threads": 4, "options": {"mode": "embedded"}},
}
PROCESSES = ("systemd", "supervisor")
PROXIES = ("nginx", "apache", "none")
SYSTEMS = ("bookworm", "trixie")
#: Of which each is done with --all by each process behind each proxy.
COMMON = [
    *(
        "gunicorn, gthread, tcp",
        "granian",
        "daphne",
        "mod_wsgi, tcp",
        "uwsgi, unix",
        "uwsgi, tcp",
        "uwsgi, http",
        "uvicorn",
    ),
    *("gunicorn, sync", "gunicorn, gevent", "mod_wsgi, embedded, tcp"),
]
Case = tuple[str, str, str, str]


def product() -> list[Case]:
    """Each common way by each process behind each proxy, where it applies, the others once; on the systems in turn."""
    cases = []
    for (a, way), (b, process), (c, proxy) in itertools.product(*map(enumerate, (WAYS, PROCESSES, PROXIES))):
        is_wanted = way in COMMON or (b, c) == (a % 2, a // 2 % 2)
        if is_wanted and (proxy != "none" or applies_without_a_proxy(way)):
            cases.append((SYSTEMS[(a + b + c) % 2], process, proxy, way))
    return cases


def applies_without_a_proxy(way: str) -> bool:
    """Whether browsers understand what a server says at its socket; its address is then not its own."""
    return "tcp" not in way and way != "uwsgi, unix"


def by_host(case: Case) -> tuple[object, ...]:
    return (SYSTEMS.index(case[0]), PROCESSES.index(case[1]), PROXIES.index(case[2]), [*WAYS].index(case[3]))


PRODUCT = product()
CASES = [pytest.param(*case, marks=pytest.mark.full) for case in sorted(PRODUCT, key=by_host)]
RAISES = "\n\ndef health(request):\n    raise RuntimeError('out of ink')\n"


@pytest.fixture(scope="module")
def machines(module_hosts, repositories) -> Iterator[dict[tuple[str, str], Site]]:
    """The host of each system and process, made when the first case wants it, with the site that it has just now."""
    made: dict[tuple[str, str], Site] = {}

    def machine(system: str, process: str) -> Site:
        if (system, process) not in made:
            options = {} if process == "systemd" else {"init": False, "command": ("sleep", "infinity")}
            host = module_hosts(system, kind="ready", **options)
            made[system, process] = Site(host, repositories(host))
        return made[system, process]

    return machine


def main_process(blog: Site) -> str:
    return str(blog.host.run(["cat", f"{blog.run}/pid"], check=False).stdout).strip()


def until(is_so: Callable[[], bool]) -> None:
    # Where control groups are of version 1, systemd in a container waits for TimeoutStopSec after a kill.
    deadline = time.monotonic() + 200
    while not is_so():
        assert time.monotonic() < deadline, "it does not come back"
        time.sleep(0.1)


FORWARD = "nohup socat TCP-LISTEN:8000,reuseaddr,fork UNIX-CONNECT:/srv/django/blog/current/socket >/dev/null 2>&1 &"


def deploy(blog: Site, process: str, proxy: str, way: str) -> None:
    """Deploy a site behind a proxy, or without one at an address of systemd or behind another proxy."""
    server, blog.port = dict(WAYS[way]), 80
    if proxy != "apache":
        blog.host.run(
            "test ! -x /usr/sbin/apache2ctl || { service apache2 stop; systemctl disable apache2; }", check=False
        )
    if proxy == "none":
        blog.port = 8000
        if process == "systemd":
            server["bind"] = "0.0.0.0:8000"
    blog.deploy(server=server, proxy={"kind": proxy}, packages=["socat"], state=None, remove_data=None)
    if proxy == "none" and process == "supervisor":
        blog.host.run(f"{FORWARD} until ss -Hltn sport = 8000 | grep -q .; do sleep 0.05; done", timeout=200)


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> Iterator[dict[Case, dict[str, str]]]:
    """What was seen of each case; docs/internals/serving.md has it when all were, by one process or by several."""
    rows: dict[Case, dict[str, str]] = {}
    yield rows
    top, worker = tmp_path_factory.getbasetemp(), os.environ.get("PYTEST_XDIST_WORKER", "")
    shared = (top.parent if worker else top) / "serving"
    shared.mkdir(exist_ok=True)
    (top / "seen.json").write_text(json.dumps([*rows.items()]))
    (top / "seen.json").rename(shared / f"{worker}.json")
    for path in shared.glob("*.json"):
        rows.update({tuple(case): found for case, found in json.loads(path.read_text())})
    if len(rows) == len(PRODUCT):
        (ROOT / "docs/internals/serving.md").write_text(table(rows))


def table(rows: dict[Case, dict[str, str]]) -> str:
    """The page with what was seen."""
    columns = ["server", "process", "proxy", "Debian", *next(iter(rows.values()))]
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    for system, process, proxy, way in sorted(rows, key=lambda case: ([*WAYS].index(case[3]), by_host(case))):
        found = rows[system, process, proxy, way].values()
        lines.append(" | ".join([way, process, proxy, {"bookworm": "12", "trixie": "13"}[system], *found]))
    return INTRODUCTION.format(date=time.strftime("%Y-%m-%d")) + "".join(f"| {line} |\n" for line in lines)


INTRODUCTION = """# Every way to serve, as it was tried

Written by `test/run --all test/hosts/test_serving.py`, last on {date}. In each row a site was deployed and applied
again without a change. Then, while four clients sent about a hundred requests a second, a commit was released, a broken
one was refused, the release was rolled back, and the main process of the server was killed by `kill -9`. Then the host
was rebooted where it has systemd, and the site was removed. The columns have the requests without an answer of 200, and
how long the site did not answer.

"""


def answers(blog: Site) -> bool:
    try:
        return bool(blog.get("/release").status_code == 200)
    except OSError:  # requests' exceptions too: without a proxy the connection is refused
        return False


@pytest.mark.parametrize(("system", "process", "proxy", "way"), CASES)
def test_way_to_serve_releases_and_recovers(machines, seen, system, process, proxy, way):
    blog: Site = machines(system, process)
    deploy(blog, process, proxy, way)
    first = blog.live
    assert blog.answering["release"] == first
    listens = blog.host.run("systemctl is-active django-blog-listen.service", check=False).stdout.strip()
    assert listens != "activating", "systemd ends a unit that never says that it is ready"
    large = {f"X-Large-{number}": "x" * 7000 for number in range(3)}
    assert blog.get(f"/release?{'x' * 7000}", headers=large).status_code == 200, "as large as proxies let through"
    refused = [blog.get("/nothing", method="POST", data="x" * 300_000).status_code for _ in range(20)]
    assert {*refused} == {404}, "what a project leaves unread of a request is no error of the proxy"
    if process == "systemd":
        rated = blog.host.run(["systemd-analyze", "security", "--no-pager", f"{blog.unit}.service"]).stdout
        assert float(re.findall(r"exposure level for \S+: ([0-9.]+)", rated)[0]) <= 1.1
    assert not blog.apply().changed and not blog.apply(test=True).changed

    blog.repository.commit(version(f"{way} {system} {process} {proxy}"))
    with blog.lossless() as released:
        blog.deploy()
    assert "tcp" in way or released.went_back == [], "a rename is the switch; a reload of the proxy overlaps"
    second = blog.live

    views = blog.repository.read("guestbook/views.py")
    blog.repository.append("guestbook/views.py", RAISES)
    comment = blog.apply().failed["blog has its instance"]
    assert re.search(r"returned 500|Remote end closed", comment) and "out of ink" in comment, comment
    assert lines(comment) <= 10 and blog.answering["release"] == second
    blog.repository.commit({"guestbook/views.py": views})

    with blog.lossless() as rolled_back:
        assert blog.host.call("django.rollback", "blog")["release"] == first
    (status,) = blog.host.call("django.status", "blog")
    assert status["running"] is True and status["server"].startswith(WAYS[way]["kind"])

    killed = main_process(blog)
    with blog.load() as load:
        load.wait(20)
        began = time.monotonic()
        blog.host.run(["kill", "-9", killed])
        until(lambda: main_process(blog) not in ("", killed) and answers(blog))
        back = time.monotonic() - began
        load.wait(20)
    listed = blog.host.run("ps -u blog -o pid=,ppid=,stat=").stdout.splitlines()
    orphans = [pid for pid, parent, state in map(str.split, listed) if parent == "1" and state[0] != "Z"]
    assert orphans in ([], [main_process(blog)]), "no process outlives the main process that was killed"
    if process == "systemd":
        blog.host.restart()
        assert blog.answering["release"] == first
    seen[system, process, proxy, way] = {
        "release": f"{len(released.failed)} of {len(released.answers)}",
        "rollback": f"{len(rolled_back.failed)} of {len(rolled_back.answers)}",
        "killed": f"{len(load.failed)} of {len(load.answers)}, {back:.1f} s",
    }

    blog.deploy(state="absent", remove_data=True)
    blog.host.run("pkill socat", check=False)
    left = "find /etc/nginx /etc/apache2 /etc/systemd/system /etc/supervisor /run -name '*blog*' 2>/dev/null"
    assert blog.host.run(left, check=False).stdout == ""
    assert "virtualenv/bin" not in blog.host.run("ps -eo args").stdout


CHANGES = [
    {"kind": "mod_wsgi"},
    {"kind": "gunicorn", "threads": 2, "bind": "127.0.0.1:8101"},
    {"kind": "uwsgi", "protocol": "http"},
]
MORE_CHANGES = [
    {"kind": "gunicorn"},
    {"kind": "uvicorn"},
    {"kind": "gunicorn", "options": {"timeout": 30}},
    {"kind": "granian"},
    {"kind": "daphne"},
    {"kind": "mod_wsgi"},
    {"kind": "uwsgi"},
]


@pytest.mark.full
@pytest.mark.parametrize("changes", [CHANGES, MORE_CHANGES], ids=["common", "more"])
def test_change_of_server_loses_no_request(machines, changes):
    blog: Site = machines("bookworm", "systemd")
    deploy(blog, "systemd", "nginx", "uwsgi, unix")
    for server in changes:
        before = blog.live
        with blog.lossless():
            blog.deploy(server=server)
    blog.host.call("django.rollback", "blog")
    assert blog.answering["release"] == blog.live and blog.live == before
    blog.host.restart()
    assert blog.answering["release"] == before


ECHO = """

django_application = application


async def application(scope, receive, send):
    if scope["type"] != "websocket":
        return await django_application(scope, receive, send)
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": f"{scope['root_path']} {scope['path']} {message['text']}"})
"""


class WebSocket:
    """A client of a websocket that sends short texts (RFC 6455)."""

    def __init__(self, blog: Site, path: str):
        self.socket = socket.create_connection((blog.host.address, 80), timeout=30)
        self.stream = self.socket.makefile("rb")
        lines = [f"GET {path} HTTP/1.1", f"Host: {blog.domain}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self.status = int(self.stream.readline().split()[1])
        while self.stream.readline().strip():
            pass

    def say(self, text: str) -> str:
        """Send a text, and return what comes back; empty once the connection is closed."""
        try:
            self.socket.sendall(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text.encode())
            kind, content = self._read()
            while kind == 0x89:  # a ping, which servers send every 20 s or so, and which waits for its answer
                self.socket.sendall(bytes([0x8A, 0x80 | len(content), 0, 0, 0, 0]) + content)
                kind, content = self._read()
        except ConnectionError:
            return ""
        return "" if kind == 0x88 else content.decode()

    def _read(self) -> tuple[int, bytes]:
        kind, size = self.stream.read(2) or b"\x88\0"
        return kind, self.stream.read(size)


@pytest.mark.parametrize(
    ("way", "proxy"),
    [
        pytest.param(way, proxy, marks=[] if (way, proxy) == ("uvicorn", "nginx") else pytest.mark.full)
        for proxy in ("nginx", "apache")
        for way in ("uvicorn", "granian", "daphne", "gunicorn, uvicorn")
    ],
)
def test_websocket_stays_open_for_the_drain_time(machines, way, proxy):
    blog: Site = machines("bookworm", "systemd")
    module = blog.repository.read("website/asgi.py")
    blog.repository.append("website/asgi.py", ECHO)
    blog.configure(releases={"drain": "8s"}, path="/live")
    deploy(blog, "systemd", proxy, way)
    talk = WebSocket(blog, "/live/echo")
    assert talk.status == 101 and talk.say("hello") == "/live /live/echo hello"
    blog.repository.commit(version(f"while a websocket to {way} is open"))
    before, told = blog.live, []
    with ThreadPoolExecutor(1) as pool:
        release = pool.submit(blog.deploy)
        while not release.done() and talk.say("still here"):
            told.append(blog.live)
            time.sleep(0.2)
    assert told[0] == before and told.count(blog.live) > 5, "it talks on after the switch"
    warnings = str(release.result().warnings)
    assert "1 connections were still open after 8s, and were cut" in warnings, warnings
    assert WebSocket(blog, "/live/echo").say("new") == "/live /live/echo new"
    blog.repository.commit({"website/asgi.py": module})
    blog.deploy(releases=None, path=None)
    if proxy == "apache":
        blog.deploy(proxy={"kind": "nginx"})


@pytest.mark.full
def test_unknown_gunicorn_setting_is_named(machines):
    blog: Site = machines("bookworm", "systemd")
    before = blog.live
    comment = blog.apply(server={"kind": "gunicorn", "options": {"harakiri": 30}}).failed["blog has its instance"]
    assert re.search(r"gunicorn \S+ has no setting harakiri \(server:options\)", comment) and lines(comment) <= 10
    assert blog.answering["release"] == before


SLOW = """

def health(request):
    time.sleep(float(request.GET.get("seconds", 0)))
    return HttpResponse()
"""


@pytest.mark.full
@pytest.mark.parametrize("mode", ["daemon", "embedded"])
def test_mod_wsgi_finishes_requests_in_flight(machines, mode):
    blog: Site = machines("bookworm", "systemd")
    views = blog.repository.read("guestbook/views.py")
    blog.repository.append("guestbook/views.py", SLOW)
    blog.deploy(server={"kind": "mod_wsgi", "processes": 2, "options": {"mode": mode}}, state=None)
    before = blog.live
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(blog.get, "/healthz?seconds=5") for _ in range(4)]  # two of them wait
        time.sleep(1)
        blog.repository.commit(version(f"while pages of {mode} mode are made"))
        blog.deploy()
        assert [answer.result().status_code for answer in asked] == [200] * 4 and blog.live != before
        asked = [pool.submit(blog.get, "/healthz?seconds=3") for _ in range(2)]
        time.sleep(1)
        blog.host.run(["systemctl", "restart", f"{blog.unit}.service"])
        assert [answer.result().status_code for answer in asked] == [200] * 2
    before = blog.live
    options = {"request-timeout": 5, "nonsense": 3}
    comment = blog.apply(server={"kind": "mod_wsgi", "options": options}).failed["blog has its instance"]
    assert "mod_wsgi does not take nonsense=3 (server:options)" in comment and lines(comment) <= 10, comment
    assert blog.answering["release"] == before
    blog.repository.commit({"guestbook/views.py": views})
    blog.deploy(server=WAYS["gunicorn, sync"])


@pytest.mark.full
def test_daphne_finishes_requests_and_keeps_its_socket_closed_to_others(machines):
    blog: Site = machines("bookworm", "systemd")
    views = blog.repository.read("guestbook/views.py")
    blog.repository.append("guestbook/views.py", SLOW)
    blog.deploy(server={"kind": "daphne", "processes": 2}, state=None)
    address = json.loads(blog.host.run("cat /srv/django/blog/current/config/instance.json").stdout)["address"]
    assert blog.host.run(["stat", "--format=%a", address]).stdout == "660\n", "Twisted would make it 666"
    with ThreadPoolExecutor(2) as pool:
        requested = [pool.submit(blog.get, "/healthz?seconds=3") for _ in range(2)]
        time.sleep(1)
        blog.host.run(["systemctl", "restart", f"{blog.unit}.service"])
        assert [answer.result().status_code for answer in requested] == [200] * 2
    before = blog.live
    comment = blog.apply(server={"kind": "daphne", "options": {"nonsense": 3}}).failed["blog has its instance"]
    assert re.search(r"daphne \S+ has no setting nonsense \(server:options\)", comment) and lines(comment) <= 10, (
        comment
    )
    assert blog.answering["release"] == before
    header = {"Daphne-Root-Path": "/elsewhere"}
    assert blog.get("/release", headers=header).json()["release"] == before, "visitors do not choose the path"
    blog.repository.commit({"guestbook/views.py": views})
    blog.deploy(server=WAYS["gunicorn, sync"])


STATS = """
import json, socket, sys
with socket.socket(socket.AF_UNIX) as stats:
    stats.connect(sys.argv[1])
    print(json.dumps(json.loads(b"".join(iter(lambda: stats.recv(65536), b"")))["workers"]))
"""


@pytest.mark.full
def test_uwsgi_options_take_effect(machines):
    blog: Site = machines("bookworm", "systemd")
    views = blog.repository.read("guestbook/views.py")
    blog.repository.append("guestbook/views.py", SLOW)
    options = {"cheaper": 1, "thunder-lock": True, "harakiri": 8, "max-worker-lifetime": 3600}
    blog.deploy(server={"kind": "uwsgi", "processes": 4, "max_requests": 25, "options": options}, state=None)

    def workers() -> list[dict[str, int | str]]:
        return list(json.loads(blog.host.run(["python3", "-c", STATS, f"{blog.run}/stats.sock"]).stdout))

    def awake() -> int:
        return sum(worker["status"] != "cheap" for worker in workers())

    assert "thunder lock: enabled" in blog.host.run(["journalctl", "--unit", blog.unit, "--output", "cat"]).stdout
    assert len(workers()) == 4
    until(lambda: awake() == 1)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(blog.get, "/healthz?seconds=2") for _ in range(4)]
        until(lambda: awake() > 1)
        assert [answer.result().status_code for answer in answers] == [200] * 4
    assert blog.get("/healthz?seconds=60").status_code == 502
    assert sum(worker["harakiri_count"] for worker in workers()) == 1
    before = sum(worker["respawn_count"] for worker in workers())

    def replaced() -> bool:  # after 25 requests of one; of those that `cheaper` puts to sleep none is
        assert all(blog.get("/release").status_code == 200 for _ in range(30))
        return sum(worker["respawn_count"] for worker in workers()) > before

    until(replaced)

    ended = main_process(blog)
    blog.host.run(f"echo q >{blog.run}/fifo")
    until(lambda: main_process(blog) not in ("", ended))
    assert blog.get("/release").status_code == 200, "connections wait at the socket"
    blog.repository.commit({"guestbook/views.py": views})
