"""Proxies of one's own before a site's socket, as docs/guides/proxy.md has them: HAProxy, Varnish, Caddy and nginx."""

import re

import pytest
import requests
from client import Load
from lab import ROOT
from products import shortened
from sites import Site, release_of, version

HEALTH = """

def health(request):
    from django.http import JsonResponse

    told = ("HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO")
    return JsonResponse({name: request.META.get(name) for name in told} | {"size": len(request.body)})


health.csrf_exempt = True
"""
HAPROXY = """global
    user haproxy
    group www-data
defaults
    mode http
    timeout connect 5s
    timeout client 65s
    timeout server 65s
frontend visitors
    bind :8082
    default_backend blog
"""
NGINX = """server {
    listen 8081;
    server_name blog.example.org;
    location / {
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_pass http://unix:/srv/django/blog/current/socket;
    }
}
"""
PORTS = {"nginx": 8081, "haproxy": 8082, "caddy": 8083, "varnish": 6081}
SERVERS = [{"kind": "gunicorn", "threads": 4}, {"kind": "uvicorn"}, {"kind": "granian"}]


def documented(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", (ROOT / "docs/guides/proxy.md").read_text(), re.DOTALL)
    assert found
    return found[1]


@pytest.fixture(scope="module", params=["bookworm", pytest.param("trixie", marks=pytest.mark.full)])
def blog(request, module_hosts, repositories) -> Site:
    """They run and point to the site before it exists."""
    host = module_hosts(request.param, kind="ready")
    host.write("/etc/nginx/sites-enabled/blog.example.org", NGINX)
    host.write("/etc/haproxy/haproxy.cfg", HAPROXY + documented("haproxy"))
    host.write(
        "/etc/caddy/Caddyfile", documented("caddyfile").replace("blog.example.org", "http://blog.example.org:8083")
    )
    host.write("/etc/varnish/default.vcl", documented("vcl"))
    options = "--no-install-recommends --option Dpkg::Options::=--force-confold"
    packages = f"apt-get -qq update && apt-get -qq install {options} nginx haproxy caddy varnish"
    host.run(f"export DEBIAN_FRONTEND=noninteractive; {packages}")
    # HAProxy of Debian 13 has /dev/log mounted, which a container refuses; its package fails there by itself.
    host.write("/etc/systemd/system/haproxy.service.d/container.conf", "[Service]\nBindReadOnlyPaths=\n")
    host.run("for user in vcache caddy; do usermod --append --groups www-data $user; done")
    blog = Site(host, repositories(host))
    blog.repository.append("guestbook/views.py", HEALTH)
    blog.deploy(proxy={"kind": "none"}, server={"kind": "uwsgi", "protocol": "http"})
    assert not blog.apply().changed
    host.run("systemctl daemon-reload && systemctl restart nginx haproxy caddy varnish")
    return blog


@pytest.mark.full
@pytest.mark.parametrize("proxy", shortened(PORTS, "nginx", "varnish"))
def test_own_proxy_connects_to_the_site(blog, proxy):
    url, headers = f"http://{blog.host.address}:{PORTS[proxy]}", {"Host": blog.domain}
    forged = {**headers, "X-Forwarded-For": "203.0.113.1", "X-Forwarded-Proto": "https"}
    told = requests.get(f"{url}/healthz", headers=forged, timeout=60).json()
    page = requests.get(f"{url}/", headers=headers, timeout=60)
    assert "203" not in told["HTTP_X_FORWARDED_FOR"] and told["HTTP_X_FORWARDED_PROTO"] == "http"
    with requests.Session() as session:  # one connection, with the next request as soon as an answer is there
        answers = [session.post(f"{url}/healthz", b"x" * 9, headers=headers, timeout=60) for _ in range(200)]
    assert [answer.status_code for answer in answers] == [200] * 200 and answers[-1].json()["size"] == 9
    losing_nothing(blog, f"{url}/release", f"by {proxy}")
    if proxy == "caddy":  # which has static files by itself; the page is one of before the release
        (style,) = re.findall(r'href="(/static/[^"]+\.css)"', page.text)
        assert requests.get(f"{url}{style}", headers=headers, timeout=60).headers["Server"] == "Caddy"


def losing_nothing(blog: Site, url: str, text: str) -> None:
    """A release, and a rollback, while visitors come by a proxy."""
    blog.repository.commit(version(text))
    with Load(url, blog.domain, 3, 0.03, release_of) as load:
        load.wait(20)
        blog.deploy()
        load.wait(20)
        blog.host.call("django.rollback", "blog")
        load.wait(20)
    assert load.failed == [] and len({*load.releases} - {None}) == 2


@pytest.mark.full
@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server["kind"])
@pytest.mark.parametrize("proxy", PORTS)
def test_own_proxy_works_with_other_servers(blog, proxy, server):
    blog.deploy(server=server)
    losing_nothing(blog, f"http://{blog.host.address}:{PORTS[proxy]}/release", f"{proxy}, {server['kind']}")
