"""Varnish in front of the hosts of a site: what it keeps, what it never keeps, and that no request is lost with it."""

import time
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
from balancing import NEW, OLD, Fleet, answers_of, cable, start
from certificates import Seen, ask
from conftest import Hosts

pytestmark = pytest.mark.full

#: Apache in front of the nginx of a host, set up without a thought of Connection.
BEHIND_APACHE = """
export DEBIAN_FRONTEND=noninteractive
sed -i 's/listen 80;/listen 127.0.0.1:8080;/' /etc/nginx/conf.d/blog.conf
rm -f /etc/nginx/sites-enabled/*
systemctl restart nginx
apt-get -qq update && apt-get -qq install --no-install-recommends apache2 >/dev/null
a2enmod -q proxy_http >/dev/null
cat >/etc/apache2/sites-enabled/000-default.conf <<'END'
<VirtualHost *:80>
    ProxyPreserveHost On
    ProxyAddHeaders Off
    ProxyPass / http://127.0.0.1:8080/
</VirtualHost>
END
systemctl restart apache2
"""


@pytest.fixture(scope="module")
def fleet(module_hosts: Hosts) -> Fleet:
    fleet = start(module_hosts, kind="varnish")
    fleet.web[1].run(BEHIND_APACHE, timeout=300)
    fleet.apply()
    assert fleet.lb.apply().changed == {}
    for host in fleet.web:
        fleet.wait(host, "UP")
    return fleet


def get(fleet: Fleet, path: str = "/kept", method: str = "GET", **headers: str) -> Any:
    return fleet.lb.http(path, "blog.example.org", method, headers=headers)


def contents(fleet: Fleet, path: str, method: str = "GET", **headers: str) -> int:
    """How many different answers three requests have."""
    return len({get(fleet, path, method, **headers).content for _number in range(3)})


def test_answer_is_kept_as_its_headers_allow(fleet: Fleet) -> None:
    assert contents(fleet, "/kept") == 1
    found = get(fleet)
    assert found.headers["X-Cache"] == "hit" and "Age" in found.headers
    assert not {"X-Varnish", "Via", "X-Django-Site"} & found.headers.keys()
    german = get(fleet, **{"Accept-Language": "de"})
    assert german.headers["X-Cache"] == "miss" and german.content != found.content
    assert contents(fleet, "/") == 2, "without Cache-Control both hosts answer"


def test_session_login_and_post_are_never_kept(fleet: Fleet) -> None:
    for path in ("/session", "/private"):
        assert contents(fleet, path) == 3
    assert get(fleet, "/kept").headers["X-Cache"] == "hit"
    assert contents(fleet, "/kept", Cookie="sessionid=1") == 3
    assert contents(fleet, "/kept", Authorization="Basic eDp5") == 3
    assert contents(fleet, "/kept", "POST") == 3
    assert "X-Cache" not in get(fleet, "/kept", "POST").headers


def test_visitor_is_known_and_no_visitor_is_believed(fleet: Fleet) -> None:
    lies = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https", "X-Django-Site": "shop"}
    _name, address, *rest = get(fleet, "/", **lies).text.split()
    assert address not in ("192.0.2.1", fleet.lb.address, "0.0.0.0") and rest == ["http"]


#: What a proxy that removes the headers which Connection names would take away, each in ways to write that.
NAMED = ("X-Forwarded-Proto", "X-Forwarded-For", "X-Forwarded-Host", "X-Django-Site", "Host", "Via", "Age", "Upgrade")
WAYS: list[Callable[[str], list[tuple[str, str]]]] = [
    lambda name: [("Connection", name)],
    lambda name: [("connection", name.lower())],
    lambda name: [("Connection", f"close, {name}")],
    lambda name: [("Connection", f"keep-alive,\t{name.upper()} ,, te")],
    lambda name: [("Connection", f"upgrade, {name}"), ("Upgrade", "websocket")],
    lambda name: [("Connection", f"{name},{name}"), ("TE", "trailers"), ("Trailer", name)],
    lambda name: [("Connection", "keep-alive"), ("Connection", name)],
    lambda name: [("Proxy-Connection", name), ("Keep-Alive", name), ("Connection", f'"{name}"')],
    lambda name: (
        [("Connection", name), (name, "evil.example.org")] if name != "Host" else [("Connection", "Host, Host")]
    ),
]


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_visitor_chooses_no_kept_page_by_connection(fleet: Fleet, scheme: str) -> None:
    """Behind Varnish one host has nginx, the other one Apache, which would remove those headers too."""
    fleet.apply(**({"tls": {"kind": "self_signed"}} if scheme == "https" else {}))
    root = fleet.lb.read("/var/lib/django-formula/authority/root.pem") if scheme == "https" else None
    for host in fleet.web:
        fleet.wait(host, "UP")
    usual = raw(fleet, "/links?usual", root).body
    assert usual.startswith(f"{scheme} ")
    for number, (name, way) in enumerate(product(NAMED, WAYS)):
        path = f"/links?{number}"
        for headers in (way(name), [], way(name), []):
            answer = raw(fleet, path, root, headers)
            assert answer.status in (200, 400) if headers else answer.status == 200, (headers, answer)
            assert answer.status == 400 or answer.body == usual, (headers, answer)
        assert answer.headers["x-cache"] == "hit"
    for host in fleet.web:
        assert host.run("grep -c /links? /var/log/nginx/access.log").stdout.strip() != "0"
    fleet.apply()


def raw(fleet: Fleet, path: str, root: str | None, headers: Sequence[tuple[str, str]] = ()) -> Seen:
    """Ask with headers as they are given, over TLS where the authority's root is given."""
    return ask(fleet.lb.address, "blog.example.org", path, root=root, port=443 if root else 80, headers=headers)


def test_release_purges(fleet: Fleet) -> None:
    before = get(fleet).content
    assert get(fleet).content == before
    assert fleet.expect(OLD, NEW)
    changed = get(fleet).content
    assert changed != before and get(fleet).content == changed
    assert fleet.expect(OLD)
    assert get(fleet).content != changed


def test_no_request_is_lost_without_varnish(fleet: Fleet) -> None:
    with fleet.lossless() as load:
        for _number in range(3):
            fleet.lb.run(["systemctl", "kill", "--signal=KILL", "django-varnish"])
            load.wait(100)
        fleet.lb.run(["systemctl", "stop", "django-varnish"])
        load.wait(100)
        assert get(fleet).status_code == 200 and "X-Cache" not in get(fleet).headers
        fleet.apply()
        load.wait(200)
    assert get(fleet).headers["X-Cache"] in ("hit", "miss")
    print(f"Varnish killed: {len(load.answers)} requests, slowest {max(one.duration for one in load.answers):.2f} s")


def test_no_request_is_lost_when_a_host_is_killed_or_cut_off(fleet: Fleet) -> None:
    host = fleet.web[0]
    for method in ("GET", "POST"):
        with fleet.load(method) as load:
            load.wait(20)
            host.run("systemctl kill --signal=KILL nginx; systemctl stop nginx")
            out = fleet.wait(host, "DOWN")
            host.run(["systemctl", "start", "nginx"])
            back = fleet.wait(host, "UP")
            load.wait(50)
        print(f"{method}, killed: out {out} s, back {back} s, {len(load.failed)} of {len(load.answers)} failed")
        assert len(load.failed) <= (0 if method == "GET" else 8)
    with fleet.lossless() as load:
        cable(host, "down")
        out = fleet.wait(host, "DOWN")
        cable(host, "up")
        back = fleet.wait(host, "UP")
    print(f"cut off: out {out} s, back {back} s, {len(load.answers)} requests")


def test_drained_host_gets_no_request(fleet: Fleet) -> None:
    host = fleet.web[1]
    with fleet.lossless() as load:
        fleet.backend(host.name, "drain")
        since = time.time()
        fleet.lb.run("for number in $(seq 20); do systemctl reload django-haproxy; sleep 0.2; done")
        assert fleet.expect(OLD, NEW) and fleet.expect(OLD)
        load.wait(50)
        assert answers_of(load, host, since + 0.5) == 0
        assert fleet.states() == {"web1": "UP", "web2": "DRAIN"}
        fleet.backend(host.name, "ready")
        fleet.wait(host, "UP")


def test_other_kind_takes_varnish_with_it(fleet: Fleet) -> None:
    fleet.balancer = {"kind": "haproxy"}
    with fleet.lossless():
        fleet.apply()
    assert fleet.lb.apply().changed == {}
    left = fleet.lb.run(
        "ls -R /etc/varnish /etc/systemd/system; systemctl is-active django-varnish", check=False
    ).stdout
    assert not {"django.vcl", "django-varnish.service", "active"} & {*left.split()}
