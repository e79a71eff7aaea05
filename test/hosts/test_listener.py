"""A site without a proxy: systemd listens on its address, or somebody else's proxy leads to its socket."""

import pytest
import requests
from client import Load
from lab import CommandFailed
from sites import Site, release_of, version

HEALTH = """

def health(request):
    from django.http import JsonResponse

    return JsonResponse({"secure": request.is_secure(), "address": request.META.get("REMOTE_ADDR")})
"""
NONE = {"kind": "none"}
SERVERS = {
    "gunicorn": {"kind": "gunicorn", "bind": "0.0.0.0:8000"},
    "uvicorn": {"kind": "uvicorn", "bind": "0.0.0.0:8000"},
    "granian": {"kind": "granian", "bind": "0.0.0.0:8000"},
}


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts("trixie", kind="ready")
    blog = Site(host, repositories(host))
    views = (blog.repository.worktree / "guestbook/views.py").read_text()
    blog.repository.commit({"guestbook/views.py": views + HEALTH})
    blog.deploy(packages=["curl"], proxy=NONE, server={"kind": "uwsgi", "protocol": "http"})
    assert not blog.apply().changed and not blog.apply(test=True).changed
    return blog


def get(blog: Site, path: str = "/release", **headers: str) -> requests.Response:
    return requests.get(f"http://{blog.host.address}:8000{path}", headers={"Host": blog.domain, **headers}, timeout=10)


def loaded(blog: Site) -> Load:
    return Load(f"http://{blog.host.address}:8000/release", blog.domain, connections=4, release=release_of, pause=0.01)


def test_another_proxy_reaches_its_socket(blog):
    asked = ["curl", "-s", "--unix-socket", "/srv/django/blog/current/socket", f"http://{blog.domain}/release"]
    assert blog.live in blog.host.run(["runuser", "-u", "www-data", "--", *asked]).stdout
    assert blog.host.run("find /etc/nginx /etc/apache2 -name '*blog*'", check=False).stdout == ""
    with pytest.raises(CommandFailed):
        blog.host.run(["runuser", "-u", "nobody", "--", *asked])


def test_it_gets_an_address(blog):
    foreseen = blog.apply(test=True, server={"kind": "uwsgi", "protocol": "http", "bind": "0.0.0.0:8000"})
    units = {f"/etc/systemd/system/django-blog-listen.{kind}" for kind in ("socket", "service")}
    assert foreseen.changed["blog is served"].keys() == units == blog.deploy().changed["blog is served"].keys()
    assert blog.live == release_of(get(blog).content)
    assert not blog.apply().changed and not blog.apply(test=True).changed
    get(blog)
    rated = blog.host.run(["systemd-analyze", "security", "--no-pager", "django-blog-listen.service"]).stdout
    assert float(rated.rpartition("level for")[2].split(":")[1].split()[0]) <= 1.1


@pytest.mark.parametrize("server", ["uwsgi", *(pytest.param(name, marks=pytest.mark.full) for name in SERVERS)])
def test_releases_lose_no_request(blog, server):
    before = blog.live
    if server == "uwsgi":
        blog.repository.commit(version(server))
    with loaded(blog) as load:
        load.wait(20)
        blog.deploy(**({"server": SERVERS[server]} if server in SERVERS else {}))
        load.wait(20)
    assert load.failed == [] and load.releases == [before, blog.live]
    second = blog.live
    with loaded(blog) as load:
        load.wait(20)
        blog.host.call("django.rollback", "blog")
        load.wait(20)
    assert load.failed == [] and load.releases == [second, before]
    blog.repository.commit(version(f"after {server}"))
    blog.deploy()
    told = get(blog, "/healthz", **{"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"}).json()
    assert told["secure"] is (server == "uwsgi"), "nobody but uWSGI believes who asks by himself"
    assert "203" not in str(told["address"])


def test_an_address_of_somebody_else_is_refused(blog):
    blog.host.run("systemd-run --unit=other python3 -m http.server 8001")
    blog.host.run("for try in $(seq 50); do ss -ltn | grep -q :8001 && break; sleep 0.1; done")
    live, server = blog.live, blog.options["server"]
    refused = blog.apply(server={**server, "bind": "0.0.0.0:8001"})
    assert not refused.ok and "port 8001 is taken by python3" in str(refused)
    assert blog.live == live and get(blog).status_code == 200
    blog.host.run(["systemctl", "stop", "other"])
    blog.deploy(server=server)


def test_it_is_there_after_a_boot_and_moves_to_nginx(blog):
    blog.host.restart()
    assert release_of(get(blog).content) == blog.live
    blog.deploy(proxy=None, server={"kind": "granian"})
    assert blog.answering["release"] == blog.live
    with pytest.raises(requests.ConnectionError):
        get(blog)
    assert not blog.apply().changed
    blog.deploy(proxy=NONE, server={"kind": "granian", "bind": "0.0.0.0:8000"})
    assert get(blog).status_code == 200
    blog.deploy(state="absent", remove_data=True)
    left = "find /etc/apache2 /etc/nginx /etc/systemd/system /run /var/lib/django-formula -name '*blog*' 2>/dev/null"
    assert blog.host.run(left, check=False).stdout == ""
