"""What neither a visitor nor an upload, nor a link among static files, gets past nginx or Apache."""

import http.client
import itertools
import json
import socket
import ssl
import tempfile
from collections.abc import Iterator

import pytest
import requests
from certificates import Authority, Signed
from conftest import full
from django_formula.untrusted import headers
from sites import Site, version

pytestmark = pytest.mark.full


VIEW = """

def health(request):
    from django.http import HttpResponse, JsonResponse

    if "send" in request.GET:
        headers = {request.GET["by"]: request.GET["send"].encode(), "Content-Type": request.GET["type"]}
        return HttpResponse(headers=headers)
    return JsonResponse({name: str(value) for name, value in request.META.items() if name.startswith("HTTP_")})
"""
FORGED = "203.0.113.99"
#: In as many requests, since Apache takes 100 headers of one.
PARTS = 4


@pytest.fixture(scope="module", params=["bookworm", pytest.param("trixie", marks=pytest.mark.full)])
def blog(request, module_hosts, repositories) -> Site:
    host = module_hosts(request.param, kind="live")
    blog = Site(host, repositories(host))
    blog.repository.append("guestbook/views.py", VIEW)
    blog.deploy(proxy={"kind": "nginx"})
    return blog


def forgeries() -> dict[str, str]:
    """Every header that a proxy might send, in each spelling."""
    names = [*headers.SET, *headers.REMOVED]
    return dict.fromkeys([*names, *headers.underscored(names)], FORGED)


def believed(blog: Site) -> dict[str, str]:
    """What of forged headers reaches the application."""
    found: dict[str, str] = {}
    items = [*forgeries().items()]
    for part in range(PARTS):
        forged = dict(items[part::PARTS])
        seen = blog.get("/healthz", headers={**forged, "X-Own": "passed"}).json()
        assert seen["HTTP_X_OWN"] == "passed" and FORGED not in seen["HTTP_X_FORWARDED_FOR"]
        assert seen["HTTP_X_FORWARDED_PROTO"] in ("http", "https")
        found |= {name: value for name, value in seen.items() if FORGED in value}
    return found


WAYS = {
    "uwsgi": {"kind": "uwsgi"},
    "uwsgi, tcp": {"kind": "uwsgi", "bind": "127.0.0.1:8101"},
    "uwsgi, http": {"kind": "uwsgi", "protocol": "http"},
    "gunicorn": {"kind": "gunicorn"},
    "uvicorn": {"kind": "uvicorn"},
    "granian": {"kind": "granian"},
    "mod_wsgi": {"kind": "mod_wsgi"},
}
#: Further ones are left to --all.
USUAL = [("nginx", "uwsgi")]
EACH = ["nginx", pytest.param("apache", marks=pytest.mark.full)]


@pytest.mark.parametrize(
    ("kind", "way"),
    [(kind, way) if (kind, way) in USUAL else full(kind, way) for kind in ("nginx", "apache") for way in WAYS],
)
def test_client_cannot_set_headers_of_a_proxy(blog, kind, way):
    blog.deploy(proxy={"kind": kind}, server=WAYS[way])
    assert believed(blog) == {}


#: Of Connection: a proxy that follows it drops the headers that it names.
NAMED = [
    "close, X-Forwarded-For, X-Forwarded-Proto, X-Real-IP",
    "x-forwarded-for,X-FORWARDED-USER",
    "keep-alive,\tX-Real-IP ,, X-Forwarded-Proto",
]


@pytest.mark.full
@pytest.mark.parametrize("kind", EACH)
def test_headers_of_the_pillar_and_of_trusted_proxies_are_passed(blog, kind):
    here, proxy = f"{blog.host.address.rpartition('.')[0]}.0/24", {"kind": kind, "headers": {"X-Real-IP": "ours"}}
    named = {**proxy, "trusted_headers": ["X-Forwarded-User", "CF-Connecting-IP"]}
    sent = {"X-Forwarded-User": "joe", "CF-Connecting-IP": "198.51.100.7", "X-Remote-User": "joe", "X-Real-IP": "x"}
    sent |= {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https"}
    for server in ("uwsgi", "gunicorn"):
        blog.deploy(server={"kind": server}, proxy={**named, "trusted": [here]})
        seen = blog.get("/healthz", headers=sent).json()
        assert (seen["HTTP_X_FORWARDED_USER"], seen["HTTP_CF_CONNECTING_IP"]) == ("joe", "198.51.100.7")
        assert (seen["HTTP_X_FORWARDED_FOR"], seen["HTTP_X_FORWARDED_PROTO"]) == ("198.51.100.7", "https")
        assert seen["HTTP_X_REAL_IP"] == "ours" and "HTTP_X_REMOTE_USER" not in seen
        for connection in NAMED:
            hopped = blog.get("/healthz", headers={**sent, "Connection": connection}).json()
            own = {"HTTP_CONNECTION": "", "HTTP_X_REQUEST_ID": ""}
            assert {**seen, **own} == {**hopped, **own} and hopped["HTTP_X_REQUEST_ID"], connection
        assert "HTTP_X_FORWARDED_USER" not in blog.get("/healthz").json()
        blog.deploy(proxy={**named, "trusted": ["192.0.2.1"]})
        seen = blog.get("/healthz", headers=sent).json()
        assert "joe" not in str(seen) and "198.51.100.7" not in str(seen) and seen["HTTP_X_REAL_IP"] == "ours"


def over_tls(blog: Site, client: Signed | None, name: str = "") -> tuple[int, str]:
    """What a client with a certificate gets that sends forged subjects: status and body; 0 where TLS ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(client.key + client.certificate if client else "")
        file.flush()
        if client:
            context.load_cert_chain(file.name)
    subject = headers.CLIENT_SUBJECT
    forged = [f"{one}: {FORGED}" for one in (subject, *headers.underscored([subject]))]
    lines = ["GET /healthz HTTP/1.1", f"Host: {blog.domain}", "Connection: close", *forged, "", ""]
    plain = socket.create_connection((blog.host.address, 443), timeout=30)
    try:
        with plain, context.wrap_socket(plain, server_hostname=name or blog.domain) as connection:
            connection.sendall("\r\n".join(lines).encode())
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.status, answer.read().decode()
    except (ssl.SSLError, ConnectionError, http.client.BadStatusLine):  # refused by TLS
        return 0, ""


@pytest.mark.full
@pytest.mark.parametrize("server", ["uwsgi", "gunicorn"])
@pytest.mark.parametrize("kind", EACH)
def test_subject_of_a_client_is_that_of_its_certificate(blog, kind, server):
    authority = Authority()
    ada, eve = authority.sign("Ada"), Authority("Another authority").sign("Eve")
    blog.deploy(
        proxy={"kind": kind},
        server={"kind": server},
        tls={"kind": "self_signed", "client_ca": authority.root, "verify": "optional"},
        redirect_domains=["www.example.org"],
    )
    status, body = over_tls(blog, None)
    assert status == 200 and FORGED not in body and not json.loads(body).get("HTTP_SSL_CLIENT_S_DN")
    status, body = over_tls(blog, ada)
    assert status == 200 and FORGED not in body and json.loads(body)["HTTP_SSL_CLIENT_S_DN"] == "CN=Ada"
    assert over_tls(blog, eve)[0] in (0, 400) and over_tls(blog, ada, "www.example.org")[0] == 421
    applied = blog.deploy(tls={"kind": "self_signed", "client_ca": authority.root})
    assert not applied.warnings and not blog.apply().changed
    assert over_tls(blog, None)[0] in (0, 400) and over_tls(blog, eve)[0] in (0, 400)
    assert over_tls(blog, None, "www.example.org")[0] in (400, 421)
    status, body = over_tls(blog, ada)
    assert status == 200 and FORGED not in body and json.loads(body)["HTTP_SSL_CLIENT_S_DN"] == "CN=Ada"
    (shown,) = blog.host.call("django.status", "blog")
    assert shown["unreached"] == ""
    failed = blog.apply(tls={"kind": "self_signed", "client_ca": "/etc/hostname"}).failed
    assert "django:sites:blog:tls:client_ca has no certificate in PEM" in str(failed)
    blog.deploy(tls=None, redirect_domains=None)
    assert "clients.pem" not in blog.host.run("ls /etc/nginx /etc/apache2", check=False).stdout


@pytest.mark.parametrize("kind", EACH)
def test_no_link_among_static_files_is_followed(blog, kind):
    blog.deploy(proxy={"kind": kind})
    if not blog.host.run(["ls", f"{blog.root}/previous/static"], check=False).stdout:
        blog.repository.commit(version(kind))
        blog.deploy()
    blog.host.write("/srv/secret/canary.txt", "CANARY")
    blog.host.run("echo CANARY | gzip > /srv/secret/canary.gz; chmod -R a+rX /srv/secret")
    names = ["link.txt", "link.0123456789ab.txt", "folder/canary.txt", "../static.txt", "hashed.0123456789ab.css"]
    for release in ("current", "previous"):
        static = f"{blog.root}/{release}/static"
        blog.host.run(
            f"cd {static} && ln -sfn /srv/secret folder && ln -sf /srv/secret/canary.txt link.txt && "
            f"ln -sf ../../../../../secret/canary.txt link.0123456789ab.txt && echo {release} > {release}.txt && "
            f"echo {release} > {release}.0123456789ab.css && echo plain > zipped.css && echo plain > inner && "
            "ln -sf /srv/secret/canary.gz zipped.css.gz && ln -sf inner inside.txt"
        )
    for encoding in ("identity", "gzip"):
        for name in [*names, "inside.txt"]:
            for _twice in range(2):  # what is kept open too
                answer = blog.get(f"/static/{name}", headers={"Accept-Encoding": encoding})
                assert answer.status_code in (403, 404) and "CANARY" not in answer.text, name
        assert "CANARY" not in blog.get("/static/zipped.css", headers={"Accept-Encoding": encoding}).text
        for release, ending in itertools.product(("current", "previous"), ("txt", "0123456789ab.css")):
            answer = blog.get(f"/static/{release}.{ending}", headers={"Accept-Encoding": encoding})
            assert (answer.status_code, answer.text) == (200, f"{release}\n")
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert ("immutable" in answer.headers["Cache-Control"]) is (ending != "txt")
    assert blog.get("/static/admin/css/base.css").status_code == 200


DOCUMENTS = ["page.html", "PAGE.HTML", "page.xhtml", "drawing.svg", "drawing.svgz", "feed.xml", "feed.rss", "script.js"]
OTHERS = ["photo.png", "photo.JPG", "film.mp4", "paper.pdf", "note.txt"]


def uploaded(blog: Site) -> None:
    for name in [*DOCUMENTS, *OTHERS, "nameless", "page.html.unknown"]:
        blog.host.write(f"{blog.root}/media/{name}", "<script>document.forms[0].submit()</script>", owner="blog")


def shown(answer: requests.Response, name: str, *, download: bool) -> None:
    """An answer for an upload is in a sandbox where a browser would show it as a document."""
    policy = answer.headers["Content-Security-Policy"]
    assert answer.status_code == 200 and answer.headers["X-Content-Type-Options"] == "nosniff"
    assert policy.count("base-uri 'none'") == policy.count("form-action 'none'") == 1
    if name in OTHERS:
        assert "sandbox" not in policy and "script-src 'none'" in policy
        assert "Content-Disposition" not in answer.headers
    elif name in DOCUMENTS or "html" in answer.headers.get("Content-Type", ""):
        assert policy.startswith("sandbox; default-src 'none'; "), name
        assert answer.headers.get("Content-Disposition") == ("attachment" if download else None), name


@pytest.mark.full
@pytest.mark.parametrize("kind", EACH)
def test_uploads_run_and_submit_nothing(blog, kind):
    uploaded(blog)
    for download in (False, True):
        blog.deploy(server={"kind": "uwsgi"}, proxy={"kind": kind}, media={"download": download})
        for name in [*DOCUMENTS, *OTHERS, "nameless", "page.html.unknown"]:
            shown(blog.get(f"/media/{name}"), name, download=download)
        part = blog.get("/media/page.html", headers={"Range": "bytes=0-3", "Accept-Encoding": "identity"})
        assert part.status_code == 206 and part.headers["Content-Security-Policy"].startswith("sandbox; ")
    blog.deploy(media={"download": True, "protected": True})
    by, where = {
        "nginx": ("X-Accel-Redirect", "/.django-media/blog"),
        "apache": ("X-Sendfile", f"{blog.root}/media"),
    }[kind]
    types = {"page.html": "text/html; charset=utf-8", "drawing.svg": "image/svg+xml", "photo.png": "image/png"}
    for name, content_type in types.items():
        asked = {"send": f"{where}/{name}", "by": by, "type": content_type}
        shown(blog.get("/healthz", params=asked), name, download=True)
    blog.deploy(media=None)


@pytest.fixture
def shop(blog, repositories) -> Iterator[Site]:
    """A neighbour on the same domain, with uploads that its own view decides about."""
    repository = repositories(blog.host, "/srv/git/shop.git")
    repository.append("guestbook/views.py", VIEW)
    repository.commit({"errors/404.html": "CANARY"})
    pages = {"error_pages": {404: "errors/404.html"}}
    yield Site(
        blog.host,
        repository,
        "shop",
        neighbour=blog,
        domains=blog.options["domains"],
        path="/shop",
        media={"protected": True},
        proxy=pages,
    )
    blog.deploy(media=None)


def answered(site: Site, by: str, where: str) -> requests.Response:
    """What a visitor gets where the project responds with a header to its proxy."""
    return site.get("/healthz", params={"by": by, "send": where, "type": "text/plain"})


@pytest.mark.parametrize("kind", EACH)
def test_response_of_one_site_serves_nothing_of_another(blog, shop, kind):
    shop.options["proxy"] |= {"kind": kind}
    shop.configure(state="present")
    blog.deploy(server={"kind": "uwsgi"}, proxy={"kind": kind})
    for site in (blog, shop):
        blog.host.write(f"{site.root}/media/secret.txt", "CANARY", owner=site.name)
    for link, target in (("link.txt", "/secret.txt"), ("folder", "")):
        make = ["ln", "-sfn", f"{shop.root}/media{target}", f"{blog.root}/media/{link}"]
        blog.host.run(["runuser", "-u", "blog", "--", *make])
    shop.deploy()
    places = [
        "/.django-media/shop/secret.txt",
        "/.django-media/blog/../shop/secret.txt",
        "/.django-errors/shop/404.html",
        "/.django-maintenance/shop",
        "@django_shop_previous_plain",
        "/.django-media/blog/link.txt",
        "/.django-media/blog/folder/secret.txt",
        "/shop/healthz?by=X-Reached&send=CANARY&type=text/plain",
        f"{shop.root}/media/secret.txt",
        f"{blog.root}/media/link.txt",
        f"{blog.root}/media/folder/secret.txt",
        f"{blog.root}/media/../../shop/media/secret.txt",
        f"/{shop.root}/media/secret.txt",
        "secret.txt",
        "../../shop/media/secret.txt",
        "/.django/shop/errors/404.html",
        "/.django/shop/maintenance",
    ]
    own = {
        "nginx": ("X-Accel-Redirect", "/.django-media/{}/secret.txt"),
        "apache": ("X-Sendfile", "{}/media/secret.txt"),
    }
    by, where = own[kind]
    for is_protected in (False, True):
        blog.deploy(media={"protected": is_protected})
        for header in ("X-Accel-Redirect", "X-Sendfile", "X-Sendfile-Temporary", "Location"):
            for place in places:
                answer = answered(blog, header, place)
                assert "CANARY" not in answer.text and "X-Reached" not in answer.headers, (header, place, is_protected)
        assert answered(shop, by, where.format("shop" if kind == "nginx" else shop.root)).text == "CANARY"
        text = answered(blog, by, where.format("blog" if kind == "nginx" else blog.root)).text
        assert (text == "CANARY") is is_protected
