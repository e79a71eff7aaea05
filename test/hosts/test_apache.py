"""Apache instead of nginx: the same site, the same releases, and the change from one to the other."""

import json
import re
import socket
from urllib.parse import quote

import pytest
import requests
from products import shortened
from sites import Site, version

VIEW = """

def health(request):
    from django.http import HttpResponse, JsonResponse

    if "unavailable" in request.GET:
        return HttpResponse("the project's own", status=503)
    if "send" in request.GET:  # with the length of the file, as django-sendfile2 has it
        headers = {"X-Sendfile": request.GET["send"].encode(), "ETag": '"1"', "Content-Length": "13"}
        return HttpResponse(headers={**headers, "Content-Type": "text/plain"})
    names = ["REMOTE_ADDR", "PATH_INFO", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_SCHEME"]
    body = {"secure": request.is_secure(), "path": request.path, "size": len(request.body)}
    return JsonResponse(body | {name: request.META.get(name) for name in [*names, "QUERY_STRING"]})


health.csrf_exempt = True
"""
APACHE = {"kind": "apache", "headers": {"X-Scheme": "it is 100% ours"}}


@pytest.fixture(scope="module", params=["bookworm", pytest.param("trixie", marks=pytest.mark.full)])
def blog(request, module_hosts, repositories) -> Site:
    host = module_hosts(request.param, kind="ready")
    blog = Site(host, repositories(host))
    blog.repository.append("guestbook/views.py", VIEW)
    settings = {"DATA_UPLOAD_MAX_MEMORY_SIZE": 4 << 20}
    blog.deploy(packages=["curl"], proxy=APACHE, media={"max_upload": "1M"}, settings=settings)
    assert not blog.apply().changed and not blog.apply(test=True).changed
    return blog


def seen(blog: Site, path: str = "/healthz", **headers: str) -> dict[str, object]:
    return blog.get(path, headers=headers).json()


def test_project_gets_address_and_scheme_of_the_client(blog):
    forged = {"X-Forwarded-For": "203.0.113.1", "X_Forwarded_For": "203.0.113.2", "X-Forwarded-Proto": "https"}
    told = seen(blog, "/healthz?a=%2F&b=c%20d", **forged, **{"X-Scheme": "forged", "X_Scheme": "forged"})
    assert told["secure"] is False and told["QUERY_STRING"] == "a=%2F&b=c%20d"
    assert told["HTTP_X_FORWARDED_FOR"] == told["REMOTE_ADDR"] and "203" not in str(told["REMOTE_ADDR"])
    assert told["HTTP_X_FORWARDED_PROTO"] == "http" and told["HTTP_X_SCHEME"] == "it is 100% ours"
    assert told["path"] == told["PATH_INFO"] == "/healthz"


@pytest.mark.parametrize("host", ["elsewhere.example.org", "", "blogXexample.org"])
def test_unknown_hosts_are_refused(blog, host):
    assert requests.get(f"http://{blog.host.address}/", headers={"Host": host}, timeout=60).status_code in (400, 421)
    assert blog.get("/.git/config").status_code == 404


@pytest.mark.parametrize("host", ["BLOG.example.org", "blog.example.org.", "blog.example.org:80"])
def test_host_is_matched_in_every_spelling(blog, host):
    assert blog.host.http("/release", host).status_code == 200


def test_static_files_and_uploads_are_served(blog):
    page = blog.get("/").text
    hashed = re.search(r'/static/[^"]+\.[0-9a-f]{8,}\.css', page)
    assert hashed, page
    plain = blog.get(hashed[0], headers={"Accept-Encoding": "identity"})
    small = blog.get(hashed[0], headers={"Accept-Encoding": "gzip"})
    for answer in (plain, small):
        assert answer.status_code == 200 and answer.headers["Content-Type"].startswith("text/css")
        assert answer.headers["Cache-Control"] == "max-age=31536000, public, immutable"
        assert answer.headers["X-Content-Type-Options"] == "nosniff" and answer.headers["Vary"] == "Accept-Encoding"
    assert "Content-Encoding" not in plain.headers and small.headers["Content-Encoding"] == "gzip"
    assert plain.content == small.content and blog.get("/static/nothing.css").status_code == 404
    assert blog.get("/static/../../secrets/secret_key").status_code in (400, 404)
    blog.host.write(f"{blog.root}/media/page.html", "<script>1</script>")
    blog.host.run(["chown", "blog:www-data", f"{blog.root}/media/page.html"])
    upload = blog.get("/media/page.html")
    assert upload.status_code == 200 and upload.headers["Content-Security-Policy"].startswith("sandbox; ")
    assert blog.get("/media/").status_code in (403, 404)
    blog.host.run(["runuser", "-u", "blog", "--", "ln", "-s", "/etc/hostname", f"{blog.root}/media/link"])
    assert blog.get("/media/link").status_code == 403


@pytest.mark.full
def test_upload_above_the_limit_is_refused(blog):
    url, headers = f"http://{blog.host.address}/healthz", {"Host": blog.domain}
    assert requests.post(url, data=b"x" * 900_000, headers=headers, timeout=60).json()["size"] == 900_000
    assert requests.post(url, data=b"x" * 1_100_000, headers=headers, timeout=60).status_code == 413


def sent(blog: Site, path: str, **headers: str) -> requests.Response:
    """What comes where the project answers with X-Sendfile."""
    return blog.get("/healthz?send=" + quote(path), headers=headers)


@pytest.mark.full
def test_protected_uploads_need_the_projects_permission(blog):
    media, names = f"{blog.root}/media", ["report.txt", "a%41 ä.txt"]
    for place in [f"{media}/{name}" for name in names] + [f"{blog.root}/other.txt", f"{media}2.txt"]:
        blog.host.write(place, "for some only")
        blog.host.run(["chown", "blog:www-data", place])
    before = blog.host.read("/run/apache2/apache2.pid"), blog.live
    refused = sent(blog, f"{media}/report.txt")
    assert "some" not in refused.text and refused.headers["X-Sendfile"], "who is not protected sends nothing so"
    with blog.load() as load:
        load.wait(20)
        blog.deploy(media={**blog.options["media"], "protected": True})
        load.wait(20)
    assert load.failed == [] and before == (blog.host.read("/run/apache2/apache2.pid"), blog.live)
    assert not blog.apply().changed and not blog.apply(test=True).changed
    assert blog.get("/media/report.txt").status_code == 404, "the project's"
    for name in names:
        answer = sent(blog, f"{media}/{name}")
        assert (answer.status_code, answer.text) == (200, "for some only"), answer.text
    assert answer.headers["X-Content-Type-Options"] == "nosniff" and "ETag" not in answer.headers
    assert answer.headers["Content-Security-Policy"].startswith("script-src 'none'; object-src 'none'; ")
    assert answer.headers["Content-Type"].startswith("text/plain") and "X-Sendfile" not in answer.headers
    part = sent(blog, f"{media}/report.txt", Range="bytes=4-7")
    assert (part.status_code, part.text) == (206, "some")
    again = {"If-Modified-Since": answer.headers["Last-Modified"]}
    assert sent(blog, f"{media}/report.txt", **again).status_code == 304
    for path in ["../other.txt", "../secrets/secret_key", "nothing", "", "../media2.txt"]:
        assert sent(blog, f"{media}/{path}").status_code == 404, path
    for path in ("/etc/hostname", f"{blog.root}/other.txt", "../../etc/hostname"):
        assert sent(blog, path).status_code == 404, path
    blog.deploy(media={**blog.options["media"], "protected": False})
    assert (
        blog.get("/media/report.txt").text == "for some only" and "some" not in sent(blog, f"{media}/report.txt").text
    )


def test_a_release_loses_no_request(blog):
    blog.repository.commit(version("2"))
    with blog.lossless() as load:
        blog.deploy()
    assert load.went_back == []
    assert blog.record()["receipt"]["failed"] == 0


@pytest.mark.full
def test_maintenance_page_is_shown(blog):
    own = blog.get("/healthz?unavailable")
    assert own.status_code == 503 and own.text == "the project's own"
    blog.host.call("django.maintenance", "blog", "on", "back in 10m")
    try:
        for method in ("get", "post"):
            answer = requests.request(method, f"http://{blog.host.address}/", headers={"Host": blog.domain}, timeout=60)
            assert answer.status_code == 503 and "back in 10m" in answer.text
            assert answer.headers["Cache-Control"] == "no-store" and answer.headers["Retry-After"].endswith("GMT")
        assert blog.get("/static/admin/css/base.css").status_code == 200
    finally:
        blog.host.call("django.maintenance", "blog", "off")
    assert blog.get("/").status_code == 200


@pytest.mark.full
def test_options_and_locations_are_applied(blog):
    options = {"Header": "always set X-Of-The-Site yes"}
    locations = {
        "/healthz": {"LimitRequestBody": 10},
        "/admin/": {"Require": "ip 203.0.113.1"},
        "/admin/login/": {"Header": "always set X-Of-The-Site no"},
    }
    before = blog.live
    blog.deploy(proxy={**APACHE, "options": options, "locations": locations})
    assert blog.live == before and not blog.apply().changed
    assert blog.get("/").headers["X-Of-The-Site"] == "yes"
    assert "X-Of-The-Site" not in blog.get("/static/admin/css/base.css").headers
    for path in ("/admin/", "//admin/", "/admin%2F", "/%61dmin/auth/"):
        assert blog.get(path).status_code == 403, path
    assert blog.get("/admin/login/").headers["X-Of-The-Site"] == "no"
    posted = [
        requests.post(f"http://{blog.host.address}{path}", "x" * 11, headers={"Host": blog.domain}, timeout=60)
        for path in ("/healthz", "/healthz/")
    ]
    assert [answer.status_code for answer in posted] == [413, 404]
    refused = blog.apply(proxy={**APACHE, "options": {"Nonsense": "on"}}).failed["blog is served"]
    assert "Nonsense" in refused and blog.get("/").headers["X-Of-The-Site"] == "yes"
    blog.deploy(proxy=APACHE)


@pytest.mark.full
def test_access_log_is_json(blog):
    blog.deploy(proxy={**APACHE, "access_log": "json"})
    answer = blog.get("/release?quote=%22%0A", headers={"User-Agent": 'a "quoted" \\ one', "Referer": "caf\u00e9 \tau"})
    blog.get("/static/nothing.css")
    with socket.create_connection((blog.host.address, 80), 10) as raw:
        raw.sendall(f"GET /release?odd=\u00e9 HTTP/1.1\r\nHost: {blog.domain}\r\nConnection: close\r\n\r\n".encode())
        assert b"200 OK" in raw.recv(1000)
    log = "/var/log/apache2/django-blog.log"
    blog.host.run(f"until [ $(grep -c -e odd= -e quote= -e nothing.css {log}) = 3 ]; do sleep 0.1; done")
    entries = [json.loads(line) for line in blog.host.read(log).splitlines()]
    page, odd, missing = (next(entry for entry in entries if word in entry["uri"]) for word in ("quote", "odd", "css"))
    assert page["agent"] == 'a "quoted" \\ one' and page["uri"] == "/release?quote=%22%0A"
    assert page["referrer"] == "caf%e9%20%09au" and page["host"] == blog.domain
    assert page["method"] == "GET" and page["bytes"] > 10 and 0 < page["seconds"] < 10
    assert odd["uri"].endswith("%c3%a9") and odd["agent"] == "" and missing["status"] == 404
    assert "Referer" not in answer.headers.get("Vary", "")
    assert "quote=" not in blog.host.read("/var/log/apache2/access.log")
    blog.deploy(proxy=APACHE)


@pytest.mark.full
def test_error_pages_of_the_project_are_shown(blog):
    pages = {status: f"errors/{status}.html" for status in (403, 404, 413, 502)}
    blog.repository.commit({page: f"<p>ours: {status}</p>" for status, page in pages.items()})
    blog.deploy(proxy={**APACHE, "error_pages": pages, "locations": {"/admin/": {"Require": "all denied"}}})
    assert not blog.apply().changed
    for status, path in {403: "/admin/", 404: "/static/nothing.css"}.items():
        answer = blog.get(path)
        assert (answer.status_code, answer.text) == (status, f"<p>ours: {status}</p>")
        assert answer.headers["Cache-Control"] == "no-store" and answer.headers["Content-Type"].startswith("text/html")
    url, headers = f"http://{blog.host.address}/healthz", {"Host": blog.domain}
    answer = requests.post(url, data=b"x" * 1_100_000, headers=headers, timeout=60)
    assert (answer.status_code, answer.text) == (413, "<p>ours: 413</p>")
    own = blog.get("/healthz?unavailable")
    assert own.text == "the project's own" and "ours" not in blog.get("/nothing").text
    assert blog.get("/.django/blog/errors/404.html").status_code == 404
    blog.host.run(["systemctl", "stop", f"{blog.unit}.socket", f"{blog.unit}.service"])
    answer = blog.get("/release")
    assert (answer.status_code, answer.text) == (503, "<p>ours: 502</p>")
    blog.host.run(["systemctl", "start", f"{blog.unit}.socket", f"{blog.unit}.service"])
    blog.deploy(proxy=APACHE)
    assert "ours" not in blog.get("/static/nothing.css").text


def test_apache_keeps_its_configuration_when_it_refuses_files(blog):
    blog.host.write("/etc/apache2/sites-enabled/neighbour.conf", "Nonsense on\n")
    try:
        comment = blog.apply(proxy={**APACHE, "allow": ["203.0.113.0/24"]}).failed["blog is served"]
        assert "Nonsense" in comment and "neighbour.conf" in comment, comment
        assert blog.get("/").status_code == 200
    finally:
        blog.host.run(["rm", "/etc/apache2/sites-enabled/neighbour.conf"])
    blog.deploy()
    for path in (
        "/",
        "//",
        "/static/admin/css/base.css",
        "/%73tatic/admin/css/base.css",
        "//static/admin/css/base.css",
    ):
        assert blog.get(path).status_code == 403, path
    blog.deploy(proxy=APACHE)
    assert blog.get("/").status_code == 200


@pytest.mark.full
def test_address_of_the_client_is_that_of_a_trusted_proxy(blog):
    visitor = {"X-Forwarded-For": "203.0.113.1, 198.51.100.7", "X-Forwarded-Proto": "https"}
    blog.deploy(proxy={**APACHE, "trusted": [f"{blog.host.address.rpartition('.')[0]}.0/24"]})
    told = seen(blog, **visitor)
    assert told["secure"] is True and told["HTTP_X_FORWARDED_PROTO"] == "https"
    assert told["REMOTE_ADDR"] == told["HTTP_X_FORWARDED_FOR"] == "198.51.100.7", told
    blog.deploy(proxy={**blog.options["proxy"], "allow": ["198.51.100.0/24"]})
    for path in ("/", "/static/admin/css/base.css"):
        assert blog.get(path, headers=visitor).status_code == 200 and blog.get(path).status_code == 403
    blog.deploy(proxy={**APACHE, "trusted": ["127.0.0.1"]})
    told = seen(blog, **visitor)
    assert told["secure"] is False and "198" not in str(told["REMOTE_ADDR"]), "anybody else is not believed"
    blog.deploy(proxy=APACHE)


SERVERS = {
    "gunicorn, tcp": {"kind": "gunicorn", "bind": "127.0.0.1:8101"},
    "uwsgi, http": {"kind": "uwsgi", "protocol": "http"},
    "uwsgi, tcp": {"kind": "uwsgi", "bind": "127.0.0.1:8103"},
}


@pytest.mark.full
@pytest.mark.parametrize("server", shortened(SERVERS, "gunicorn, tcp"))
def test_application_server_changes_behind_apache(blog, server):
    with blog.lossless():
        blog.deploy(server=SERVERS[server])
    with blog.lossless():
        blog.host.call("django.rollback", "blog")
    blog.repository.commit(version(server))
    blog.deploy()
    assert not blog.apply().changed
    told = seen(blog, "/healthz?a=%2F", **{"X-Forwarded-Proto": "https"})
    assert told["path"] == "/healthz" and told["secure"] is False and told["HTTP_X_SCHEME"] == "it is 100% ours"
    url, headers = f"http://{blog.host.address}/healthz", {"Host": blog.domain, "Expect": "100-continue"}
    answer = requests.post(url, data=iter([b"x" * 200_000] * 2), headers=headers, timeout=60)
    if server == "uwsgi, tcp":
        assert answer.status_code == 411, "as docs/guides/proxy.md says"
    else:
        assert answer.json()["size"] == 400_000


@pytest.mark.full
def test_sites_change_their_proxy_together(blog):
    """nginx takes both sites of the host over at once, and gives them back; what visitors notice is said."""
    domains = blog.options["domains"]
    shop = Site(blog.host, blog.repository, "shop", neighbour=blog, domains=domains, path="/shop", proxy=APACHE)
    blog.deploy(server={"kind": "uwsgi"}, media=None, settings=None)
    assert blog.answering["release"] == blog.live and shop.answering["release"] == shop.live
    moved = blog.host.http("/shop?a=b", blog.domain, headers={"Host": f"{blog.domain}:8080"})
    assert (moved.status_code, moved.headers["Location"]) == (301, f"http://{blog.domain}:8080/shop/?a=b")
    shop.deploy(proxy={**APACHE, "allow": ["203.0.113.0/24"]})
    for path in ("/shop/release", "/%73hop/release", "//shop/release", "/./shop/release", "/x/../shop/release"):
        command = ["curl", "--path-as-is", "-so", "/dev/null", "-w", "%{http_code}", "-H", f"Host: {blog.domain}"]
        assert blog.host.run([*command, f"http://127.0.0.1{path}"]).stdout == "403", path
    shop.deploy(proxy=APACHE)
    for kind, former in (("nginx", "apache2"), ("apache", "nginx")):
        lives = (blog.live, shop.live)
        proxy = {"kind": kind, "headers": APACHE["headers"]}
        assert not blog.apply(test=True, proxy=proxy).ok, "a port has one holder: all sites of it go together"
        shop.options["proxy"] = proxy
        with blog.load() as load:
            load.wait(20)
            applied = shop.deploy()
            load.wait(20)
        assert not [answer for answer in load.failed if answer.status], "no client gets an error page"
        print(f"{former} -> {kind}: {len(load.failed)} of {len(load.answers)} lost")
        assert (blog.live, shop.live) == lives, "it takes no release"
        assert blog.get("/release").headers["Server"].lower().startswith(kind)
        assert shop.answering["release"] == shop.live and "blog is served" in applied.changed
        assert not shop.apply().changed and not shop.apply(test=True).changed
        active = blog.host.run(["systemctl", "is-active", former], check=False).stdout.strip()
        enabled = blog.host.run(["systemctl", "is-enabled", former], check=False).stdout.strip()
        assert (active, enabled) == ("inactive", "disabled")
        left = blog.host.run(f"find /etc/{former} -name '*blog*' -o -name 'django-default'").stdout
        assert left == ""
    blog.host.restart()
    assert blog.answering["release"] == blog.live and shop.answering["release"] == shop.live
    shop.deploy(state="absent", remove_data=True)
    assert blog.get("/shop/release").status_code == 404 and blog.answering["release"] == blog.live


@pytest.mark.full
def test_site_is_served_by_https(blog):
    with blog.load() as load:
        load.wait(20)
        blog.deploy(tls={"kind": "self_signed"}, redirect_domains=["www.example.org"])
        load.wait(5)
    assert [answer for answer in load.failed if answer.status != 301] == []
    assert not blog.apply().changed
    told = blog.host.run(
        [
            "curl",
            "-sk",
            "--http2",
            "-D",
            "-",
            "--resolve",
            f"{blog.domain}:443:127.0.0.1",
            f"https://{blog.domain}/healthz",
        ]
    ).stdout
    assert told.startswith("HTTP/2 200") and '"secure": true' in told and "strict-transport-security" in told.lower()
    answer = blog.host.http("/release?a=b", blog.domain, allow_redirects=False)
    assert answer.status_code == 301 and answer.headers["Location"] == f"https://{blog.domain}/release?a=b"
    answer = blog.host.http("/release", "www.example.org", allow_redirects=False)
    assert answer.status_code == 301 and answer.headers["Location"] == f"https://{blog.domain}/release"
    second = blog.live
    blog.repository.commit(version("https"))
    blog.deploy()
    assert blog.live != second and blog.record()["receipt"]["failed"] == 0
    blog.deploy(state="absent", remove_data=True)
    left = "find /etc/apache2 /etc/nginx /etc/systemd/system /run /var/lib/django-formula -name '*blog*' 2>/dev/null"
    assert blog.host.run(left, check=False).stdout == ""
