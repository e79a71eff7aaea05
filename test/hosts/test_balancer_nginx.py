"""nginx between the hosts of a site: as HAProxy, with checks of the formula's and visitors' own requests."""

import ssl
import time
from typing import Any

import pytest
import requests
from balancing import NEW, OLD, Fleet, answers_of, cable, name_of, returns, start
from certificates import ask
from conftest import Hosts
from lab import busy

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def fleet(module_hosts: Hosts) -> Fleet:
    fleet = start(module_hosts, kind="nginx")
    fleet.lb.run("mkdir -p /etc/nginx && echo '# theirs' > /etc/nginx/nginx.conf")
    return fleet


def test_balancer_leaves_an_existing_nginx_alone(fleet: Fleet) -> None:
    lb = fleet.lb
    planned = lb.apply(test=True)
    assert planned.ok and planned["The balancer serves its sites"].result is None
    fleet.apply()
    assert lb.apply().changed == {}
    assert lb.read("/etc/nginx/nginx.conf") == "# theirs\n"
    assert lb.run(["systemctl", "is-active", "nginx"], check=False).stdout.strip() == "inactive"
    assert lb.run(["stat", "-c", "%a", "/etc/nginx/django-balancer.conf"]).stdout.strip() == "600"
    assert fleet.states() == {"web1": "UP", "web2": "UP"}


def test_balancer_says_who_the_visitor_is_and_believes_no_visitor(fleet: Fleet) -> None:
    assert fleet.shares(10) == {"web1": 5, "web2": 5}
    lies = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example.org"}
    _name, address, *rest = fleet.lb.http("/", "blog.example.org", headers=lies).text.split()
    assert address not in ("192.0.2.1", fleet.lb.address) and rest == ["http"]
    with pytest.raises(requests.ConnectionError):
        fleet.lb.http("/", "other.example.org")


def test_post_that_was_sent_is_not_sent_again(fleet: Fleet) -> None:
    for method, expected in (("GET", 2), ("POST", 1)):
        for host in fleet.web:
            host.run(["truncate", "--size=0", "/var/log/nginx/dies.log"])
        assert fleet.lb.http("/dies", "blog.example.org", method).status_code == 502
        logs = [host.read("/var/log/nginx/dies.log").splitlines() for host in fleet.web]
        assert fleet.ask(), "one request that no host survives takes none of them out"
        assert sum(map(len, logs)) == expected and all(f"{method} /dies" in line for log in logs for line in log)


def test_no_request_is_lost_when_a_web_server_is_killed(fleet: Fleet) -> None:
    host = fleet.web[0]
    with fleet.lossless() as load:
        host.run("systemctl kill --signal=KILL nginx; systemctl stop nginx")
        out = fleet.wait(host, "DOWN")
        since = time.time()
        load.wait(50)
        assert answers_of(load, host, since + 0.5) == 0
        host.run(["systemctl", "start", "nginx"])
        back = fleet.wait(host, "UP")
        assert returns(load, host, since)
    print(f"killed: out after {out} s, back after {back} s, {len(load.answers)} requests")


def test_no_request_is_lost_when_a_host_is_cut_off(fleet: Fleet) -> None:
    host = fleet.web[0]
    with fleet.lossless() as load:
        cable(host, "down")
        out = fleet.wait(host, "DOWN")
        cable(host, "up")
        back = fleet.wait(host, "UP")
    slow = sum(answer.duration > 3 for answer in load.answers)
    print(f"cut off: out after {out} s, back after {back} s, {len(load.answers)} requests, {slow} over 3 s")


def test_drained_host_gets_no_request_and_stays_drained_over_reloads(fleet: Fleet) -> None:
    host = fleet.web[1]
    with fleet.lossless() as load:
        assert fleet.backend(host.name, "drain")["state"] == "drain"
        since = time.time()
        fleet.lb.run("for number in $(seq 20); do systemctl reload django-nginx; sleep 0.2; done")
        assert fleet.expect(OLD, NEW) and fleet.expect(OLD)
        assert fleet.states() == {"web1": "UP", "web2": "DRAIN"}
        load.wait(50)
        assert answers_of(load, host, since + 0.5) == 0
        shown = fleet.backend()
        assert {name: entry["state"] for name, entry in shown.items()} == {"web1": "ready", "web2": "drain"}
        fleet.backend(host.name, "ready")
        assert fleet.states()["web2"] == "UP"
        assert returns(load, host, since)


def test_host_behind_gets_requests_only_while_its_commit_is_expected(fleet: Fleet) -> None:
    early, late = fleet.web
    fleet.expect(OLD)
    with fleet.lossless() as load:
        assert fleet.expect(OLD, NEW)
        assert fleet.apply().changed == {}
        fleet.serve(early, NEW)
        load.wait(50)
        assert fleet.states() == {"web1": "UP", "web2": "UP"}
        assert fleet.expect(NEW)
        assert fleet.states() == {"web1": "UP", "web2": "DOWN"}
        since = time.time()
        load.wait(50)
        assert answers_of(load, late, since + 0.5) == 0
        fleet.serve(late, NEW)
        print(f"in by itself after {fleet.wait(late, 'UP')} s")
    fleet.expect(OLD, NEW)
    for host in fleet.web:
        fleet.serve(host, OLD)
    assert fleet.expect(OLD)
    assert fleet.states() == {"web1": "UP", "web2": "UP"}


def test_new_host_gets_no_request_before_its_release_is_known(fleet: Fleet) -> None:
    fleet.add_late()


def test_configuration_that_nginx_refuses_leaves_the_running_one(fleet: Fleet) -> None:
    lb, template = fleet.lb, "/srv/formula/django/files/nginx/balancer.conf"
    text, installed = lb.read(template), lb.read("/etc/nginx/django-balancer.conf")
    lb.write(template, text.replace("    proxy_buffering off", "    proxy_boffering off"))
    with fleet.lossless():
        applied = lb.apply()
    lb.write(template, text)
    assert "nginx refuses its new configuration: unknown directive" in str(applied.failed)
    assert "in /etc/nginx/django-balancer.conf:" in str(applied.failed)
    assert fleet.apply().changed == {} and lb.read("/etc/nginx/django-balancer.conf") == installed


def test_requests_are_distributed_as_the_pillar_says(fleet: Fleet) -> None:
    def balance(**options: Any) -> dict[str, Any]:
        fleet.balancer = {"kind": "nginx", **options}
        return fleet.apply().changed

    fleet.hosts["web1"]["weight"] = 50
    balance()
    assert fleet.shares(30) == {"web1": 10, "web2": 20}
    fleet.hosts["web2"]["backup"] = True
    changes = balance(status={"password": "of-the-page"})
    assert "of-the-page" not in str(changes) and "b3BzOm9mLXRoZS1wYWdl" not in str(changes)
    assert fleet.shares(10) == {"web1": 10}
    assert fleet.lb.http("/.django/balancer", "blog.example.org").status_code == 401
    assert fleet.lb.http("/.django/balancer", "blog.example.org", auth=("ops", "OF-the-page")).status_code == 401
    page = fleet.lb.http("/.django/balancer", "blog.example.org", auth=("ops", "of-the-page"))
    assert page.status_code == 200 and "<td>web2</td><td>ready</td><td>up</td>" in page.text
    del fleet.hosts["web1"]["weight"], fleet.hosts["web2"]["backup"]
    balance(sticky=True)
    assert len(fleet.shares(40)) == 2
    with fleet.lb.browser("blog.example.org") as visitor:
        assert len({name_of(visitor.get("/").content) for _number in range(6)}) == 1
        assert "web" not in str(visitor.cookies)
    for kind in ("source", "leastconn"):
        balance(balance=kind)
        assert len(fleet.shares(10)) == (1 if kind == "source" else 2)
    balance()


def test_https_ends_at_the_balancer(fleet: Fleet) -> None:
    lb, domain = fleet.lb, "blog.example.org"
    applied = fleet.apply(tls={"kind": "self_signed"})
    assert applied["The balancer serves its sites"].changes["certificates"] == {domain: "new"}
    assert lb.apply().changed == {}
    root = lb.read("/var/lib/django-formula/authority/root.pem")
    for method, status in (("GET", 301), ("POST", 308)):
        moved = lb.http("/a?b=c", domain, method)
        assert (moved.status_code, moved.headers["Location"]) == (status, f"https://{domain}/a?b=c")
    name, _address, *scheme = ask(lb.address, domain, root=root).body.split()
    assert name in ("web1", "web2") and scheme == ["https"]
    with pytest.raises(ssl.SSLError):
        ask(lb.address, "other.example.org", root=None)


def test_other_kind_takes_over_and_the_last_site_takes_the_balancer_with_it(fleet: Fleet) -> None:
    lb, late = fleet.lb, fleet.web[1]
    fleet.backend(late.name, "drain")
    for kind, title in (("haproxy", "HAProxy instead of nginx"), ("nginx", "nginx instead of HAProxy")):
        fleet.balancer = {"kind": kind}
        fleet.configure()
        planned = lb.apply(test=True)["The balancer serves its sites"].changes
        with fleet.load() as load:
            load.wait(50)
            changes = fleet.apply()["The balancer serves its sites"].changes
            load.wait(100)
        said = f"{title}: new connections are refused for up to a second"
        assert planned["balancer:kind"] == changes["balancer:kind"] == said
        times = [answer.time for answer in load.failed] or [0.0]
        seconds = max(times) - min(times)
        print(f"{title}: {len(load.failed)} of {len(load.answers)} requests failed, within {seconds:.2f} s")
        assert seconds < 2 * busy(), "about a second, and twice that on a busy machine"
        assert fleet.ask() and lb.apply().changed == {}
        assert fleet.states() == {"web1": "UP", late.name: "DRAIN"}, "a drain survives"
    fleet.backend(late.name, "ready")
    fleet.hosts["lb2"] = {**fleet.hosts.pop("lb1")}
    fleet.hosts["lb1"] = {"parts": [], "address": lb.address}
    fleet.apply()
    assert lb.apply().changed == {}
    left = lb.run("ls -R /etc/nginx /etc/haproxy /etc/systemd/system /var/lib/django-formula /run", check=False).stdout
    gone = {"django-balancer.conf", "django-nginx.service", "django-nginx-checks.timer", "django.cfg", "blog.conf"}
    assert not {*gone, "balancer", "django-haproxy.service"} & {*left.split()}
    assert lb.read("/etc/nginx/nginx.conf") == "# theirs\n"
