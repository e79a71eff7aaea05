"""The page of a host: what is on it, that only root writes it, and that texts of a project are no part of it."""

import base64
import re
import time
from collections.abc import Callable
from typing import Any

import pebble
import pytest
import requests
import yaml
from certificates import Seen, ask
from lab import ROOT, Applied
from sites import Site

#: A subject and an exception that want to be elements of the page.
SUBJECT = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
VIEWS = (ROOT / "examples/project/guestbook/views.py").read_text()
RAISES = "raise RuntimeError('\"><img src=x onerror=alert(1)>')\n"


@pytest.fixture(scope="module", params=["bookworm", pytest.param("trixie", marks=pytest.mark.full)])
def blog(request: pytest.FixtureRequest, module_hosts: Callable[..., Any], repositories: Callable[..., Any]) -> Site:
    host = module_hosts(request.param, kind="live")
    blog = Site(host, repositories(host))
    blog.deploy()
    return blog


def test_page_has_problems_first_and_texts_of_a_project_as_text(blog: Site) -> None:
    blog.repository.commit({}, message=SUBJECT)
    blog.deploy()
    blog.repository.commit({"guestbook/views.py": RAISES})
    assert not blog.apply().ok
    answer = blog.host.call("django.page", "/srv/status")
    assert answer == {"page": "/srv/status/index.html", "sites": 1, "problems": 1}
    page = blog.host.read("/srv/status/index.html")
    assert page.index("RuntimeError") < page.index("Last deployments") and "salt-call django.record blog 000" in page
    assert "&lt;img src=x onerror" in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r"<(script|img)", page)
    assert blog.host.run(["stat", "-c", "%U %a", "/srv/status"]).stdout.strip() == "root 700"


def test_page_is_written_to_no_folder_of_others(blog: Site) -> None:
    for folder in ("/tmp/status", "/srv/django/blog/media", "status"):
        assert blog.host.salt("django.page", folder).returncode != 0


PASSWORD = "wh-53cr3t-page"
#: What the docs print.
PILLAR = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/guides/page.md").read_text(), re.DOTALL)[0])
DOMAIN = PILLAR["django"]["page"]["domain"]


def served(blog: Site, **page: Any) -> Applied:
    """An apply with the pillar of the docs, whose password is in no vault here."""
    options = {**PILLAR["django"]["page"], "password": PASSWORD, **page}
    blog.configure()
    blog.host.pillar({"django": {"process": blog.process, "sites": blog.sites, "page": options}})
    return blog.host.apply()


def status(blog: Site, path: str = "/", **options: Any) -> int:
    return blog.host.http(path, DOMAIN, **options).status_code


def test_page_is_served_behind_a_password(blog: Site) -> None:
    blog.repository.commit({"guestbook/views.py": VIEWS})
    applied = served(blog)
    assert applied.ok, applied
    assert not served(blog).changed
    assert (status(blog), status(blog, auth=("team", "wrong")), status(blog, auth=("team", PASSWORD))) == (
        401,
        401,
        200,
    )
    page = blog.host.http("/live", DOMAIN, auth=("team", PASSWORD))
    assert page.headers["Refresh"] == "60" and "<h1>Django sites</h1>" in page.text and SUBJECT not in page.text
    assert status(blog, "/index.html", auth=("team", PASSWORD)) in (403, 404)
    assert blog.get("/healthz").status_code == 200


def test_password_is_kept_as_a_hash_that_root_and_the_proxy_read(blog: Site) -> None:
    kept = blog.host.run(
        ["stat", "-c", "%U:%G %a", "/etc/django-formula/page.htpasswd", "/var/lib/django-formula/page"]
    )
    assert kept.stdout.split("\n")[:2] == ["root:www-data 640", "root:www-data 750"]
    found = blog.host.run(["grep", "-rlsF", PASSWORD, "/etc", "/var/lib", "/var/log", "/run", blog.root], check=False)
    assert found.stdout == ""
    for path in ("/etc/django-formula/page.htpasswd", "/var/lib/django-formula/page/index.html"):
        assert blog.host.run(["cat", path], user="blog", check=False).returncode != 0
    assert PASSWORD not in str(served(blog, user="ops")) and status(blog, auth=("ops", PASSWORD)) == 200


def test_look_of_the_watch_writes_the_page_with_what_it_has_found(blog: Site) -> None:
    blog.host.run(["systemctl", "stop", f"{blog.unit}.socket", f"{blog.unit}.service"])
    deadline = time.monotonic() + 300
    told = ("1 down", "salt-call state.apply django")  # a busy host may need a second look for what cures it
    while not all(text in (page := blog.host.http("/", DOMAIN, auth=("ops", PASSWORD)).text) for text in told):
        assert time.monotonic() < deadline, page
        time.sleep(1)
    assert blog.apply().ok  # without the page, and with what the page has printed


def test_page_that_is_taken_out_is_gone(blog: Site) -> None:
    blog.deploy()
    gone = blog.host.run(
        "ls -d /var/lib/django-formula/page* /etc/django-formula/page* /etc/nginx/sites-*/status*", check=False
    )
    assert gone.stdout == ""
    with pytest.raises(requests.ConnectionError):  # as for any unknown host
        status(blog, auth=("ops", PASSWORD))
    assert blog.get("/healthz").status_code == 200


@pytest.mark.full
@pytest.mark.parametrize("kind", ["nginx", "apache"])
def test_page_is_served_by_https_with_certificates_like_those_of_a_site(
    hosts: Callable[..., Any], repositories: Callable[..., Any], kind: str
) -> None:
    host = hosts(kind="live" if kind == "nginx" else "ready")
    blog = Site(host, repositories(host), tls={"kind": "self_signed"}, proxy={"kind": kind})
    applied = served(blog)
    assert applied.ok, applied
    assert not served(blog).changed
    moved = blog.host.http("/", DOMAIN)
    assert (moved.status_code, moved.headers["Location"]) == (301, f"https://{DOMAIN}/")
    root = host.read("/var/lib/django-formula/authority/root.pem")

    def seen(path: str, *headers: tuple[str, str]) -> Seen:
        return ask(host.address, DOMAIN, path, root=root, headers=[("Connection", "close"), *headers])

    login = ("Authorization", "Basic " + base64.b64encode(f"team:{PASSWORD}".encode()).decode())
    assert (seen("/").status, seen("/live").status, seen("/", login).status) == (401, 401, 200)
    assert seen("/live", login).headers["refresh"] == "60" and "refresh" not in seen("/", login).headers
    assert "<h1>Django sites</h1>" in seen("/live", login).body
    assert seen("/index.html", login).status in (403, 404)
    blog.options["proxy"] = {"kind": {"nginx": "apache", "apache": "nginx"}[kind]}
    applied = served(blog)  # the page gives the ports free
    assert applied.ok, applied
    assert (seen("/").status, seen("/", login).status) == (401, 200)


@pytest.mark.full
def test_page_has_a_certificate_of_an_authority_that_is_renewed_with_those_of_its_site(
    hosts: Callable[..., Any], repositories: Callable[..., Any]
) -> None:
    host = hosts(kind="live")
    pebble.start(host)
    told = {"directory": pebble.DIRECTORY, "eab": pebble.EAB, "client": "uacme"}
    blog = Site(host, repositories(host), tls={"kind": "acme", "email": "ops@example.org", **told})
    applied = served(blog)
    assert applied.ok and not applied.warnings, applied
    assert not served(blog).changed
    path = f"/var/lib/django-formula/certificates/{DOMAIN}.pem"
    first = host.read(path)
    assert "Pebble" in host.run(["openssl", "x509", "-noout", "-issuer", "-in", path]).stdout
    assert ask(host.address, DOMAIN, "/", root=None, headers=[("Connection", "close")]).status == 401
    assert DOMAIN in host.call("django.renew", "blog", force=True)["renewed"] and host.read(path) != first


@pytest.mark.full
def test_page_is_served_without_systemd_and_written_by_a_line_of_cron(
    hosts: Callable[..., Any], repositories: Callable[..., Any]
) -> None:
    host = hosts(kind="ready", init=False)
    blog = Site(host, repositories(host))
    applied = served(blog)
    assert applied.ok, applied
    assert not served(blog).changed
    answers = [status(blog, auth=auth) for auth in (None, ("team", "wrong"), ("team", PASSWORD))]
    assert answers == [401, 401, 200]
    (look,) = re.findall(r"(?m)^\*/1 \* \* \* \* root (.* look) ", host.read("/etc/cron.d/django-watch"))
    host.run(["supervisorctl", "stop", blog.unit])
    as_cron = ["env", "-i", "HOME=/root", "SHELL=/bin/sh", "PATH=/usr/bin:/bin", "/bin/sh", "-c"]
    for _round in range(2):
        host.run([*as_cron, look])
    page = host.http("/", DOMAIN, auth=("team", PASSWORD)).text
    assert "1 down" in page and f"{blog.unit} was stopped" in page
