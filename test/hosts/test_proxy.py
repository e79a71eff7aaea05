"""What a proxy can be told besides: who may come, who is believed, how often; parts of the site, logs, uploads."""

import itertools
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from client import Load
from conftest import full
from sites import Site, release_of, version

VIEW = """

def health(request):
    import os

    from django.http import HttpResponse, JsonResponse

    if "upload" in request.GET:
        return HttpResponse(headers={"X-Accel-Redirect": "/.django-media/blog/" + request.GET["upload"]})
    names = ("REMOTE_ADDR", "HTTP_X_FORWARDED_FOR", "HTTP_FASTLY_SSL", "SERVER_NAME")
    said = {"secure": request.is_secure(), "release": os.environ["DJANGO_RELEASE"], "pid": os.getpid()}
    answer = JsonResponse({**said, **{name: request.META.get(name) for name in names}})
    for number in range(int(request.GET.get("cookies", 0))):
        answer.set_cookie(f"large{number}", "x" * 3900)
    return answer


health.csrf_exempt = True
"""
SNIPPET = "location = /hello { return 200 hello; }"
ELSEWHERE = "198.51.100.7"
USUAL = {
    "access_log": "json",
    "headers": {"Fastly-SSL": "1"},
    "limit_req": {"rate": "30r/m", "burst": 4},
    "locations": {"/admin/": {"deny": "all"}},
    "snippets": ["/etc/nginx/snippets/blog.conf"],
    "trusted": ["127.0.0.1"],
}


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts("bookworm", kind="live")
    blog = Site(host, repositories(host))
    blog.repository.append("guestbook/views.py", VIEW)
    host.write("/etc/nginx/snippets/blog.conf", SNIPPET)
    blog.deploy(
        packages=["curl"],
        settings={"SECURE_PROXY_SSL_HEADER": ["HTTP_X_FORWARDED_PROTO", "https"]},
        media={"protected": True},
        proxy=USUAL,
    )
    assert not blog.apply().changed and not blog.apply(test=True).changed
    return blog


def on_the_host(blog: Site, path: str, *headers: str, options: Sequence[str] = ()) -> tuple[int, str]:
    """What a client on the host gets, which is one that is trusted: status and body."""
    said = [*options, *(word for header in headers for word in ("--header", header))]
    command = ["curl", "--silent", "--write-out", "\\n%{http_code}", "--header", f"Host: {blog.domain}", *said]
    body, _newline, status = blog.host.run([*command, f"http://127.0.0.1{path}"]).stdout.rpartition("\n")
    return int(status), body


def test_address_of_the_client_is_that_of_a_trusted_proxy(blog):
    forwarded = ("X-Forwarded-For: 203.0.113.1, " + ELSEWHERE, "X-Forwarded-Proto: https", "Fastly-SSL: forged")
    seen = json.loads(on_the_host(blog, "/healthz", *forwarded)[1])
    assert seen["secure"] is True and seen["HTTP_FASTLY_SSL"] == "1"
    assert seen["REMOTE_ADDR"] == seen["HTTP_X_FORWARDED_FOR"] == ELSEWHERE
    headers = dict(header.split(": ", 1) for header in forwarded)
    seen = blog.get("/healthz", headers=headers).json()
    assert seen["secure"] is False and seen["HTTP_FASTLY_SSL"] == "1", "anybody else is not believed"
    assert seen["REMOTE_ADDR"] == seen["HTTP_X_FORWARDED_FOR"] not in (ELSEWHERE, "203.0.113.1")


def test_protected_uploads_need_the_projects_permission(blog):
    blog.host.write(f"{blog.root}/media/report.txt", "for some only")
    blog.host.run(["chown", "blog:www-data", f"{blog.root}/media/report.txt"])
    assert on_the_host(blog, "/media/report.txt")[0] == 404
    assert on_the_host(blog, "/.django-media/blog/report.txt")[0] == 404
    assert on_the_host(blog, "/healthz?upload=report.txt") == (200, "for some only")
    assert on_the_host(blog, "/healthz?upload=../secrets/secret_key")[0] in (400, 404, 500)


def test_responses_with_large_headers_are_served(blog):
    assert len(on_the_host(blog, "/healthz?cookies=7", options=["--head"])[1]) > 27_000


def test_locations_and_snippets_are_applied(blog):
    assert on_the_host(blog, "/admin/")[0] == 403 and on_the_host(blog, "/hello") == (200, "hello")


def test_client_above_the_rate_gets_429(blog):
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        statuses = [answer.status_code for answer in pool.map(lambda _: blog.get("/release"), range(24))]
    most = 12 + (time.monotonic() - began) / 2  # 30 a minute
    assert {*statuses} == {200, 429} and statuses.count(200) < most
    assert blog.get("/static/admin/css/base.css").status_code == 200, "static files are not counted"
    assert all(on_the_host(blog, "/release")[0] == 200 for _ in range(12)), "nor is the host itself"


def test_access_log_is_json(blog):
    on_the_host(blog, "/release?quote=%22%0a", 'User-Agent: a "quoted" one', f"X-Forwarded-For: {ELSEWHERE}")
    *_before, last = blog.host.read("/var/log/nginx/django-blog.log").splitlines()
    entry = json.loads(last)
    assert (entry["client"], entry["status"], entry["method"]) == (ELSEWHERE, 200, "GET")
    assert entry["agent"] == 'a "quoted" one' and entry["uri"] == "/release?quote=%22%0a" and entry["seconds"] < 10


@pytest.mark.parametrize("kind", ["nginx", pytest.param("apache", marks=pytest.mark.full)])
def test_site_listens_on_configured_addresses_only(blog, kind):
    own, at = {**USUAL, "limit_req": {}} if kind == "nginx" else {"kind": kind}, blog.host.address
    blog.deploy(proxy=own)
    applied = blog.apply(proxy={**own, "listen": [f"{at}:80", "192.0.2.77:80"]})
    assert "django:sites:blog:proxy:listen: this host cannot listen on 192.0.2.77:80" in str(applied.failed)
    assert blog.get("/release").status_code == on_the_host(blog, "/release")[0] == 200
    if kind == "apache":
        blog.host.run(["sed", "-i", "s/^Listen 80$//", "/etc/apache2/ports.conf"])
    blog.deploy(proxy={**own, "listen": [f"{at}:80", "[::1]:80"]})
    assert blog.get("/release").status_code == 200
    curl = ["curl", "--silent", "--max-time", "5", "--header", f"Host: {blog.domain}"]
    assert blog.host.run([*curl, "http://127.0.0.1/release"], check=False).returncode == 7, "no process listens there"
    assert blog.live in blog.host.run([*curl, "http://[::1]/release"]).stdout
    assert not blog.apply().changed
    blog.host.run("python3 -m http.server --bind 127.0.0.1 80 >/dev/null 2>&1 & echo $! > /root/other")
    before = blog.live
    blog.repository.commit({"guestbook/version.py": f'VERSION = "{kind}"\nRELEASE_NOTE = ""\n'})
    blog.deploy()
    report = blog.record()["receipt"]
    assert blog.live != before and (report["failed"], report["through"]) == (0, "proxy")
    refused = blog.apply(proxy=own)
    assert "port 80 is taken by python3" in str(refused.failed), "all addresses have that one too"
    blog.host.run("kill $(cat /root/other)")
    blog.deploy()
    assert blog.get("/release").status_code == on_the_host(blog, "/release")[0] == 200
    if kind == "apache":
        blog.deploy(proxy=USUAL, media={"protected": True})


OTHER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"other")
    log_message = lambda *_: None
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def other(blog):
    """A server of another host, played by one that answers `other` to all."""
    blog.host.write("/root/other.py", OTHER)
    blog.host.run(["systemd-run", "--quiet", "--unit=other", "python3", "/root/other.py", "8301"])
    blog.host.run("until curl -s http://127.0.0.1:8301/; do sleep 0.1; done")
    return "127.0.0.1:8301"


def answered(blog: Site, count: int = 20, **headers: str) -> list[str]:
    """Who has answered so many requests."""
    answers = [blog.get("/release", headers=headers) for _ in range(count)]
    assert {answer.status_code for answer in answers} == {200}
    return ["other" if answer.text == "other" else "own" for answer in answers]


TCP = "127.0.0.1:8201"


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "bind"), [("nginx", "unix"), full("nginx", TCP), full("apache", "unix"), full("apache", TCP)]
)
def test_requests_are_distributed_over_upstreams(blog, other, kind, bind):
    server, own = {"protocol": "http", "bind": bind}, {"weight": 3}
    if kind == "nginx":
        own["max_fails"] = 0
    blog.deploy(server=server, proxy={"kind": kind, "upstreams": {other: {}, "self": own}}, media=None)
    seen = answered(blog, 40)
    assert seen.count("own") == 30 and seen.count("other") == 10
    first = blog.live
    blog.repository.commit(version(bind))
    address = f"http://{blog.host.address}/release"
    with Load(address, blog.domain, connections=4, release=release_of, pause=0.08) as load:
        load.wait(20)
        blog.deploy()
        load.wait(20)
        blog.host.call("django.rollback", "blog")
        load.wait(20)
    second = blog.record(load.releases[-1])["receipt"]
    assert load.failed == [] and load.releases[:1] == [first] and len(load.releases) == 2 and blog.live == first
    assert (second["failed"], second["through"]) == (0, "socket")
    assert not blog.apply().changed and not blog.apply(test=True).changed
    blog.deploy(proxy={"kind": kind, "upstreams": {other: {}, "127.0.0.1:8399": {}}})
    assert {*answered(blog, 12)} == {"own", "other"}, "who cannot be reached is left out"
    if kind == "nginx":
        blog.deploy(proxy={"upstreams": {other: {}}, "balance": "hash", "hash": "cookie_sessionid"})
        chosen = [{*answered(blog, 4, Cookie=f"sessionid={number}")} for number in range(12)]
        assert all(len(who) == 1 for who in chosen) and {"own"} in chosen and {"other"} in chosen
    if bind != "unix":  # from an address in the proxy's files to one in those of the release
        blog.repository.commit(version(f"{bind} at last"))
        with Load(address, blog.domain, connections=4, release=release_of, pause=0.08) as load:
            load.wait(20)
            blog.deploy(proxy={"kind": kind, "upstreams": {other: {"backup": True}}})
            load.wait(20)
        assert load.failed == []
        blog.deploy(server=None, proxy={})


@pytest.mark.full
@pytest.mark.parametrize("kind", ["uwsgi", "gunicorn"])
@pytest.mark.parametrize("proxy", ["nginx", "apache"])
def test_upstream_on_another_host_serves(module_hosts, repositories, proxy, kind):
    one, two = (Site(host, repositories(host)) for host in (module_hosts(kind="ready"), module_hosts(kind="ready")))
    two.repository.commit(version("two"))
    two.deploy(server={"kind": kind, "bind": f"{two.host.address}:8001"}, proxy={"kind": "none"})
    one.deploy(server={"kind": kind}, proxy={"kind": proxy, "upstreams": {f"{two.host.address}:8001": {}}})
    assert {one.answering["release"] for _ in range(10)} == {one.live, two.live}
    with Load(f"http://{one.host.address}/release", one.domain, 4, release=release_of, pause=0.08) as load:
        for site in (two, one):
            site.repository.commit(version(site.host.name))
            site.deploy()
            load.wait(20)
        two.host.call("django.rollback", "blog")
        load.wait(20)
    assert load.failed == [] and {one.live, two.live} <= {*load.releases}


@pytest.mark.full
@pytest.mark.parametrize(
    ("kind", "balance"),
    [*itertools.product(["nginx", "apache"], ["round_robin", "least_conn"]), ("nginx", "ip_hash")],
)
def test_balance_methods_choose_upstreams(blog, other, kind, balance):
    with_backup = {"kind": kind, "upstreams": {other: {"backup": balance != "ip_hash"}}, "balance": balance}
    blog.deploy(server={"protocol": "http"}, proxy=with_backup, media=None)
    first = {*answered(blog)}
    assert len(first) == 1 and (balance == "ip_hash" or first == {"own"})
    blog.host.run(["systemctl", "stop", f"{blog.unit}.socket", f"{blog.unit}.service"])
    assert {*answered(blog)} == {"other"}
    blog.deploy()
    assert blog.live
    blog.deploy(server=None, proxy={})
    assert {*answered(blog)} == {"own"}


@pytest.mark.full
def test_error_pages_of_the_project_are_shown(blog):
    statuses, media = (403, 404, 413, 429, 502), {"protected": True, "max_upload": "1k"}
    pages = {status: f"errors/{status}.html" for status in statuses}
    blog.repository.commit({page: f"<p>ours: {status}</p>" for status, page in pages.items()})
    applied = blog.deploy(server=None, proxy={**USUAL, "error_pages": pages}, media=media)
    assert f"{blog.root}/errors/502.html" in str(applied.changed)
    assert not blog.apply().changed and not blog.apply(test=True).changed
    asked = {403: "/admin/", 404: "/static/nothing.css", 413: "/release"}
    for status, path in asked.items():
        body = ["--data", "x" * 2000] if status == 413 else []
        assert on_the_host(blog, path, options=body) == (status, f"<p>ours: {status}</p>")
    limited = [answer for answer in (blog.get("/release") for _ in range(12)) if answer.status_code == 429]
    assert {answer.text for answer in limited} == {"<p>ours: 429</p>"}
    assert limited[0].headers["Content-Type"].startswith("text/html")
    status, text = on_the_host(blog, "/nothing")
    assert status == 404 and "ours" not in text, "the application's own stays"
    assert on_the_host(blog, "/.django-errors/blog/404.html")[0] == 404
    blog.host.run(["systemctl", "stop", f"{blog.unit}.socket", f"{blog.unit}.service"])
    assert on_the_host(blog, "/release") == (502, "<p>ours: 502</p>")
    blog.host.run(["systemctl", "start", f"{blog.unit}.socket", f"{blog.unit}.service"])
    failed = blog.apply(proxy={**USUAL, "error_pages": {"404": "errors/lost.html"}}).failed
    assert "django:sites:blog:proxy:error_pages:404: there is no file errors/lost.html" in str(failed)
    assert on_the_host(blog, "/static/nothing.css") == (404, "<p>ours: 404</p>"), "nginx goes on as before"
    blog.deploy(proxy={}, media={"protected": True})
    assert "ours" not in on_the_host(blog, "/static/nothing.css")[1]
    assert blog.host.run(["ls", f"{blog.root}/errors"], check=False).returncode


KEEPING = {
    "gthread": {"kind": "gunicorn", "threads": 8},
    "gevent": {"kind": "gunicorn", "options": {"worker_class": "gevent"}},
    "uvicorn workers": {"kind": "gunicorn", "options": {"worker_class": "uvicorn"}, "max_requests": 0},
    "uvicorn": {"kind": "uvicorn", "max_requests": 0},
}


#: Further ones are left to --all.
BY_DEFAULT = ("nginx", "gthread")


@pytest.mark.parametrize(
    ("kind", "server"),
    [full(kind, name) for kind in ("nginx", "apache") for name in KEEPING if (kind, name) != BY_DEFAULT] + [BY_DEFAULT],
)
def test_release_with_keepalive_loses_no_request(blog, kind, server):
    address = f"http://{blog.host.address}/healthz"
    if blog.options["proxy"] or kind != "nginx":
        blog.deploy(proxy={"kind": kind}, media=None)
    posts = [Load(address, blog.domain, 4, release=release_of, method="POST", pause=pause) for pause in (0.01, 0.3)]
    with posts[0], posts[1]:
        posts[0].wait(20)
        blog.deploy(server=KEEPING[server], proxy={"kind": kind, "keepalive": 8})
        blog.repository.commit(version(f"{server} {kind}"))
        first = blog.live
        blog.deploy()
        assert blog.answering["release"] == blog.live != first and blog.record()["receipt"]["cut"] == 0
        if server != "gthread":
            blog.host.call("django.rollback", "blog")
        blog.deploy(server=None, proxy={"kind": kind})
        posts[0].wait(20)
    assert [*posts[0].failed, *posts[1].failed] == []


@pytest.mark.full
def test_clients_not_in_allow_get_403_and_releases_work(blog):
    before = blog.live
    proxy = {"allow": [ELSEWHERE], "trusted": ["127.0.0.1"]}
    blog.deploy(proxy=proxy)
    assert blog.live == before, "it takes no release"
    assert blog.get("/release").status_code == blog.get("/static/admin/css/base.css").status_code == 403
    assert on_the_host(blog, "/release", f"X-Forwarded-For: {ELSEWHERE}")[0] == 200
    blog.repository.commit({"guestbook/version.py": 'VERSION = "2"\nRELEASE_NOTE = ""\n'})
    blog.deploy()
    assert blog.live != before and blog.record()["receipt"]["failed"] == 0
    blog.deploy(state="absent", remove_data=True)
    assert blog.host.run("nginx -T 2>/dev/null | grep -c blog", check=False).stdout.strip() == "0"
