"""A site without a proxy: systemd listens on its address, or the operator's proxy connects to its socket."""

import pytest
import requests
from lab import CommandFailed
from sites import Site, version

pytestmark = pytest.mark.full

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
    blog.repository.append("guestbook/views.py", HEALTH)
    blog.deploy(packages=["curl"], proxy=NONE, server={"kind": "uwsgi", "protocol": "http"})
    assert not blog.apply().changed and not blog.apply(test=True).changed
    return blog


def test_other_proxy_connects_to_the_socket(blog):
    asked = ["curl", "-s", "--unix-socket", "/srv/django/blog/current/socket", f"http://{blog.domain}/release"]
    assert blog.live in blog.host.run(["runuser", "-u", "www-data", "--", *asked]).stdout
    assert blog.host.run("find /etc/nginx /etc/apache2 -name '*blog*'", check=False).stdout == ""
    with pytest.raises(CommandFailed):
        blog.host.run(["runuser", "-u", "nobody", "--", *asked])


def test_systemd_listens_on_the_configured_address(blog):
    foreseen = blog.apply(test=True, server={"kind": "uwsgi", "protocol": "http", "bind": "0.0.0.0:8000"})
    units = {f"/etc/systemd/system/django-blog-listen.{kind}" for kind in ("socket", "service")}
    assert foreseen.changed["blog is served"].keys() == units == blog.deploy().changed["blog is served"].keys()
    blog.port = 8000
    assert blog.answering["release"] == blog.live
    assert not blog.apply().changed and not blog.apply(test=True).changed
    rated = blog.host.run(["systemd-analyze", "security", "--no-pager", "django-blog-listen.service"]).stdout
    assert float(rated.rpartition("level for")[2].split(":")[1].split()[0]) <= 1.1


def test_unit_of_an_earlier_version_goes_on(blog):
    service = "/etc/systemd/system/django-blog-listen.service"
    blog.host.run(f"sed -i 's/^LimitNOFILE=.*/LimitNOFILE=4096/' {service} && systemctl daemon-reload")
    pid = blog.host.run("systemctl show --property=MainPID --value django-blog-listen").stdout
    with blog.load() as load:
        load.wait(20)
        applied = blog.apply()
        load.wait(20)
    assert load.failed == [] and load.releases == [blog.live]
    assert applied.changed["blog is served"].keys() == {service}
    assert "systemctl restart django-blog-listen.service" in str(applied.warnings["blog is served"])
    assert blog.host.run("systemctl show --property=MainPID --value django-blog-listen").stdout == pid
    assert not blog.apply().changed


@pytest.mark.parametrize("server", ["uwsgi", *(pytest.param(name, marks=pytest.mark.full) for name in SERVERS)])
def test_releases_lose_no_request(blog, server):
    if server == "uwsgi":
        blog.repository.commit(version(server))
    with blog.lossless():
        blog.deploy(**({"server": SERVERS[server]} if server in SERVERS else {}))
    with blog.lossless():
        blog.host.call("django.rollback", "blog")
    blog.repository.commit(version(f"after {server}"))
    blog.deploy()
    forged = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"}
    told = blog.get("/healthz", headers=forged).json()
    assert told["secure"] is (server == "uwsgi"), "only uWSGI trusts the scheme that a client reports"
    assert "203" not in str(told["address"])


def test_address_of_another_process_is_refused(blog):
    blog.host.run("systemd-run --unit=other python3 -m http.server 8001")
    blog.host.run("until ss -ltn | grep -q :8001; do sleep 0.1; done")
    live, server = blog.live, blog.options["server"]
    refused = blog.apply(server={**server, "bind": "0.0.0.0:8001"})
    assert not refused.ok and "port 8001 is taken by python3" in str(refused)
    assert blog.live == live == blog.answering["release"]
    blog.host.run(["systemctl", "stop", "other"])
    blog.deploy(server=server)


def test_listener_survives_a_reboot_and_is_replaced_by_nginx(blog):
    blog.host.restart()
    assert blog.answering["release"] == blog.live
    blog.deploy(proxy=None, server={"kind": "granian"})
    with pytest.raises(requests.ConnectionError):
        blog.get("/release")
    blog.port = 80
    assert blog.answering["release"] == blog.live
    assert not blog.apply().changed
    blog.deploy(proxy=NONE, server={"kind": "granian", "bind": "0.0.0.0:8000"})
    blog.port = 8000
    assert blog.answering["release"] == blog.live
    blog.deploy(state="absent", remove_data=True)
    left = "find /etc/apache2 /etc/nginx /etc/systemd/system /run /var/lib/django-formula -name '*blog*' 2>/dev/null"
    assert blog.host.run(left, check=False).stdout == ""
