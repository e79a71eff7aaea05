"""HAProxy between the hosts of a site: it loses no request when a host is killed, cut off, drained or behind."""

import json
import ssl
import time
from typing import Any

import pytest
import requests
from balancing import NEW, OLD, Fleet, answers_of, cable, name_of, start
from certificates import Authority, Visitors, ask
from conftest import Hosts


@pytest.fixture(scope="module")
def fleet(module_hosts: Hosts) -> Fleet:
    return start(module_hosts)


def test_balancer_leaves_an_existing_haproxy_alone(fleet: Fleet) -> None:
    """Its package starts no service, a dry run changes nothing, and a second apply finds nothing to do."""
    lb = fleet.lb
    lb.write("/etc/haproxy/haproxy.cfg", "# theirs\n")
    planned = lb.apply(test=True)
    assert planned.ok and planned["The balancer serves its sites"].result is None
    assert set(planned["The balancer serves its sites"].changes) == {
        "/etc/haproxy/django.cfg",
        "/etc/systemd/system/django-haproxy.service",
    }
    assert lb.run(["test", "-e", "/etc/haproxy/django.cfg"], check=False).returncode
    fleet.apply()
    assert lb.apply().changed == {}
    assert lb.read("/etc/haproxy/haproxy.cfg") == "# theirs\n"
    assert lb.run(["systemctl", "is-active", "haproxy"], check=False).stdout.strip() == "inactive"
    assert lb.run(["stat", "-c", "%a", "/etc/haproxy/django.cfg"]).stdout.strip() == "600"
    for host in fleet.web:
        fleet.wait(host, "UP")


def test_balancer_says_who_the_visitor_is_and_believes_no_visitor(fleet: Fleet) -> None:
    assert fleet.shares(10) == {"web1": 5, "web2": 5}
    lies = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example.org"}
    _name, address, *rest = fleet.lb.http("/", "blog.example.org", headers=lies).text.split()
    assert address not in ("192.0.2.1", fleet.lb.address) and rest == ["http"]
    with pytest.raises(requests.ConnectionError):
        fleet.lb.http("/", "other.example.org")


def test_request_that_may_change_something_is_sent_once(fleet: Fleet) -> None:
    """The web server ends the connection without a response: a GET goes to other hosts too, a POST does not."""
    for method, expected in (("GET", 4), ("POST", 1)):
        for host in fleet.web:
            host.run(["truncate", "--size=0", "/var/log/nginx/dies.log"])
        assert fleet.lb.http("/dies", "blog.example.org", method).status_code == 502
        logs = [host.read("/var/log/nginx/dies.log").splitlines() for host in fleet.web]
        assert sum(map(len, logs)) == expected and all(f"{method} /dies" in line for log in logs for line in log)
    with fleet.load("POST") as load:
        load.wait(20)
        fleet.web[0].run("systemctl kill --signal=KILL nginx; systemctl stop nginx")
        fleet.wait(fleet.web[0], "DOWN")
        fleet.web[0].run(["systemctl", "start", "nginx"])
        fleet.wait(fleet.web[0], "UP")
    cut = [answer for answer in load.failed if answer.status != 502]
    print(f"POST: {len(load.failed)} of {len(load.answers)} failed when nginx was killed")
    assert cut == [] and len(load.failed) <= 8  # those that were under way


def test_no_request_is_lost_when_a_web_server_is_killed(fleet: Fleet) -> None:
    host = fleet.web[0]
    with fleet.lossless() as load:
        host.run("systemctl kill --signal=KILL nginx; systemctl stop nginx")
        out = fleet.wait(host, "DOWN")
        since = time.time()
        load.wait(50)
        assert answers_of(load, host, since) == 0
        host.run(["systemctl", "start", "nginx"])
        back = fleet.wait(host, "UP")
        load.wait(50)
        assert answers_of(load, host, since) > 0
    print(f"killed: out after {out} s, back after {back} s, {len(load.answers)} requests")


def test_no_request_is_lost_when_a_host_is_cut_off(fleet: Fleet) -> None:
    host = fleet.web[0]
    with fleet.lossless() as load:
        cable(host, "down")
        since = time.time()
        out = fleet.wait(host, "DOWN")
        cable(host, "up")
        back = fleet.wait(host, "UP")
    slow = [answer for answer in load.answers if answer.duration > 3]
    print(f"cut off: out after {out} s, back after {back} s, {len(load.answers)} requests, {len(slow)} over 3 s")
    # HAProxy keeps connections to its servers: one that is cut is used until the host is known to be down.
    assert all(answer.time < since + out and answer.duration < 10 * out for answer in slow), slow


def test_drained_host_gets_no_request_and_stays_drained_over_reloads(fleet: Fleet, pytestconfig: Any) -> None:
    host = fleet.web[1]
    reloads = 20 if pytestconfig.getoption("--all") else 4
    with fleet.lossless() as load:
        assert fleet.backend(host.name, "drain")["state"] == "drain"
        since = time.time()
        for number in range(reloads):
            assert fleet.expect(OLD, *([NEW] if number % 2 == 0 else []))
            assert fleet.states() == {"web1": "UP", "web2": "DRAIN"}
        load.wait(50)
        assert answers_of(load, host, since + 0.5) == 0
        shown = fleet.backend()
        assert {name: entry["state"] for name, entry in shown.items()} == {"web1": "ready", "web2": "drain"}
        fleet.backend(host.name, "ready")
        fleet.wait(host, "UP")
        load.wait(50)
        assert answers_of(load, host, since) > 0
    workers = fleet.lb.run(["systemctl", "show", "--value", "--property=NRestarts", "django-haproxy"]).stdout
    assert workers.strip() == "0"


def test_host_behind_gets_requests_only_while_its_commit_is_expected(fleet: Fleet) -> None:
    """During a switch both commits are; an apply with the pillar of before does not undo that, one of later counts."""
    early, late = fleet.web
    fleet.expect(OLD)
    with fleet.lossless() as load:
        assert fleet.expect(OLD, NEW)
        assert fleet.apply().changed == {}
        fleet.serve(early, NEW)
        load.wait(50)
        assert fleet.states() == {"web1": "UP", "web2": "UP"}
        assert fleet.expect(NEW)
        fleet.wait(late, "DOWN")
        since = time.time()
        load.wait(50)
        assert answers_of(load, late, since) == 0
        fleet.release = {"commit": NEW, "sequence": 2, "count": 2}
        assert fleet.apply().changed == {}
        fleet.serve(late, NEW)
        fleet.wait(late, "UP")
    fleet.release = {"commit": OLD, "sequence": 3, "count": 3}
    assert "/etc/haproxy/django.cfg" in fleet.apply()["The balancer serves its sites"].changes
    for host in fleet.web:
        fleet.serve(host, OLD)
    for host in fleet.web:
        fleet.wait(host, "UP")


def test_new_host_gets_no_request_before_its_release_is_known(fleet: Fleet) -> None:
    """It is healthy; HAProxy would take it for up until the first check."""
    fleet.add_late()


@pytest.mark.full
def test_configuration_that_haproxy_refuses_leaves_the_running_one(fleet: Fleet) -> None:
    lb, template = fleet.lb, "/srv/formula/django/files/haproxy/haproxy.cfg"
    text, installed = lb.read(template), lb.read("/etc/haproxy/django.cfg")
    lb.write(template, text.replace("    retries 3", "    tries 3"))
    with fleet.lossless():
        applied = lb.apply()
    lb.write(template, text)
    assert "HAProxy refuses its new configuration: parsing [/etc/haproxy/django.cfg:" in str(applied.failed)
    assert "the balancer keeps its running configuration" in str(applied.failed)
    fleet.configure()
    fleet.balancer = {"listen": ["192.0.2.7:80"]}
    fleet.configure()
    assert "this host cannot listen on 192.0.2.7:80" in str(lb.apply().failed)
    fleet.balancer = {"listen": [80, 22]}
    fleet.configure()
    lb.run(["systemctl", "start", "ssh"])
    assert "port 22 is taken by sshd" in str(lb.apply().failed)
    fleet.balancer = {}
    assert fleet.apply().changed == {} and lb.read("/etc/haproxy/django.cfg") == installed


@pytest.mark.full
def test_requests_are_distributed_as_the_pillar_says(fleet: Fleet) -> None:
    one, two = fleet.web
    fleet.hosts["web1"]["weight"] = 50
    fleet.apply()
    assert fleet.shares(30) == {"web1": 10, "web2": 20}
    fleet.hosts["web2"]["backup"] = True
    fleet.balancer = {"status": {"password": "of the page"}}
    fleet.configure()
    assert "without blanks" in fleet.lb.apply().states[0].name
    fleet.balancer = {"status": {"password": "of-the-page"}, "sticky": True}
    changes = fleet.apply().changed
    assert "of-the-page" not in json.dumps(changes)
    assert fleet.shares(10) == {"web1": 10}
    assert fleet.lb.http("/.django/balancer", "blog.example.org").status_code == 401
    page = fleet.lb.http("/.django/balancer", "blog.example.org", auth=("ops", "of-the-page"))
    assert page.status_code == 200 and "web2" in page.text
    del fleet.hosts["web1"]["weight"], fleet.hosts["web2"]["backup"]
    fleet.apply()
    with fleet.lb.browser("blog.example.org") as visitor:
        assert len({name_of(visitor.get("/").content) for _number in range(6)}) == 1
        assert one.name not in str(visitor.cookies) and two.name not in str(visitor.cookies)
    for balance in ("source", "leastconn"):
        fleet.balancer = {"balance": balance}
        fleet.apply()
        assert len(fleet.shares(10)) == (1 if balance == "source" else 2)


def test_https_ends_at_the_balancer(fleet: Fleet) -> None:
    """With certificates of the host's own authority and of the pillar; a change of them loses no request."""
    lb, domain = fleet.lb, "blog.example.org"
    fleet.balancer = {}
    applied = fleet.apply(tls={"kind": "self_signed"})
    assert applied["The balancer serves its sites"].changes["certificates"] == {domain: "new"}
    assert lb.apply().changed == {}
    for host in fleet.web:
        fleet.wait(host, "UP")
    root = lb.read("/var/lib/django-formula/authority/root.pem")
    for method, status in (("GET", 301), ("POST", 308)):
        moved = lb.http("/a?b=c", domain, method)
        assert (moved.status_code, moved.headers["Location"]) == (status, f"https://{domain}/a?b=c")
    name, _address, *scheme = ask(lb.address, domain, root=root).body.split()
    assert name in ("web1", "web2") and scheme == ["https"]
    with pytest.raises(ssl.SSLError):
        ask(lb.address, "other.example.org", root=None)
    authority = Authority()
    signed = authority.sign(domain)
    with Visitors(lb.address, domain, "/") as visitors:
        changes = fleet.apply(tls={"kind": "files", "certificate": signed.certificate, "key": signed.key}).changed
        assert changes.keys() == {"The balancer serves its sites"}
        assert changes["The balancer serves its sites"]["certificates"] == {domain: "changed"}
        assert ask(lb.address, domain, root=authority.root).status == 200
        time.sleep(1)
    assert visitors.failed == [] and visitors.statuses[301] > 10
    assert signed.key.splitlines()[1] not in str(changes)
    fleet.apply()
    certificate = f"/var/lib/django-formula/certificates/{domain}.pem"
    assert lb.run(["test", "-e", certificate], check=False).returncode


def test_last_site_takes_the_balancer_with_it(fleet: Fleet) -> None:
    lb = fleet.lb
    fleet.hosts["lb2"] = {**fleet.hosts.pop("lb1")}
    fleet.hosts["lb1"] = {"parts": [], "address": lb.address}
    fleet.configure()
    assert lb.apply(test=True).ok
    assert fleet.ask()
    assert "/etc/haproxy/django.cfg" in fleet.apply()["The balancer serves its sites"].changes
    assert lb.apply().changed == {}
    left = lb.run("ls /etc/haproxy /etc/systemd/system /var/lib/django-formula /run", check=False).stdout
    assert not {"django.cfg", "django-haproxy.service", "balancer", "django-haproxy"} & {*left.split()}
    assert lb.read("/etc/haproxy/haproxy.cfg") == "# theirs\n"
    with pytest.raises(requests.ConnectionError):
        fleet.ask()
