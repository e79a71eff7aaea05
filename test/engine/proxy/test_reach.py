"""Whether visitors reach a site through the proxy: what a real server at its port answers, next to the instance."""

import socket
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django_formula.host import daemons, ports
from django_formula.host.commands import DeploymentError
from django_formula.proxy import proxies, reach
from django_formula.release import http, instances
from django_formula.release.http import Answer
from django_formula.site import sites
from specimen import configured


class Visited(BaseHTTPRequestHandler):
    """Answers with the next of some statuses, the last again and again; `LATE` comes too late."""

    def do_GET(self):
        statuses = self.server.statuses
        status = statuses.pop(0) if len(statuses) > 1 else statuses[0]
        if status == LATE:
            time.sleep(1)
            status = 200
        self.send_response(status)
        self.send_header("Location", self.server.location)
        self.end_headers()

    def log_message(self, *_arguments):
        """Say nothing."""


LATE = 0


@pytest.fixture
def visited(monkeypatch, own_host):
    """A server that stands for the proxy, and the site; `visited(...)` returns what is said."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Visited)
    server.location, port = "", server.server_address[1]
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    listening = {("127.0.0.1", port)}
    played = {
        (daemons, "pid"): lambda daemon: 7,
        (ports, "addresses"): lambda pid: listening,
        (proxies, "serving"): lambda site: proxies.PROXIES["nginx"],
        (reach, "rivals"): lambda site: [],
        (sites, "known_maintenance"): lambda site: None,
        (instances, "serves"): lambda release: True,
        (reach, "_PATIENCE"): 60.0,
        (reach, "_PAUSE"): 0.01,
    }
    for (module, name), value in played.items():
        monkeypatch.setattr(module, name, value)

    def ask(*statuses, instance=200, without=0, listen=None, **options):
        def get(*_arguments, headers, **_options):
            if instance is None:
                raise TimeoutError("it hangs")
            return Answer(instance if headers or not without else without, {}, "")

        monkeypatch.setattr(http, "get", get)
        server.statuses = [*statuses]
        site = configured("blog", proxy={"listen": [listen or f"127.0.0.1:{port}"]}, **options)
        return reach.problem(site)

    yield ask
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("statuses", "instance"),
    [([200], 200), ([302], 302), ([502, 200], 200), ([503], 503), ([401], 200), ([403], 200), ([429], 200)],
)
def test_nothing_is_said_where_the_proxy_answers_as_the_instance_or_by_its_rules(visited, statuses, instance):
    assert visited(*statuses, instance=instance) == ""


@pytest.mark.parametrize("status", [404, 500, 502, 200])
def test_other_status_is_said(visited, status):
    instance = 302 if status == 200 else 200
    assert f"returns {status}, and the instance {instance}" in visited(status, instance=instance)


@pytest.mark.parametrize(("status", "said"), [(200, ""), (301, ""), (302, "302, and the instance 200 or 301")])
def test_a_header_of_the_health_check_need_not_pass_from_this_host(visited, status, said):
    """A proxy takes the scheme of a visitor from trusted addresses only: without it the page is a redirect."""
    found = visited(status, without=301, health={"headers": {"X-Scheme": "https"}})
    assert found.endswith(said) and bool(found) == bool(said)


def test_slow_site_is_not_judged(visited, monkeypatch):
    """Neither the first apply nor a verb fails for it, or waits for it."""
    monkeypatch.setattr(reach, "_PATIENCE", 0.5)
    began = time.monotonic()
    assert visited(LATE) == visited(404, instance=None) == ""
    assert time.monotonic() - began < 10


def test_way_that_a_release_changes_while_it_is_tried_is_tried_again(visited, monkeypatch):
    """Such as the verb `django.doctor` during a release: the step `proxy` would not see that no visitor reaches it."""

    def answers(site, *arguments):
        yield from real(site, *arguments)
        way.append("another release")
        tried.append(site)

    way, tried, real = ["a release"], [], reach._answers
    sites.RUNTIME.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(reach, "_visit", lambda *_arguments: way[-1])
    monkeypatch.setattr(reach, "_answers", answers)
    monkeypatch.setattr(reach.Memory, "has_no_rival", lambda _self: True)
    assert visited(200) == ""
    memory = reach.Memory(tried[0], proxies.PROXIES["nginx"])
    assert memory._known and not memory.is_reached()
    way.append("a release")
    assert memory.is_reached()


def test_address_without_the_proxy_is_said(visited):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert visited(200, listen=f"127.0.0.1:{port}") == f"nginx does not listen on 127.0.0.1 port {port}"


def test_closed_port_is_said(visited, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setattr(ports, "addresses", lambda pid: {("127.0.0.1", port)})
    assert "gives no response ([Errno 111] Connection refused)" in visited(200, listen=f"127.0.0.1:{port}")


def test_three_of_many_problems_are_named(visited):
    found = visited(404, domains=[f"{number}.example.org" for number in range(5)])
    assert found.count("returns 404") == 3 and found.endswith("; and 2 more")


def test_nothing_is_asked_during_maintenance_and_what_nginx_refuses_is_said(visited, monkeypatch):
    def refused(site):
        raise DeploymentError("nginx -T failed")

    with monkeypatch.context() as patched:
        patched.setattr(sites, "known_maintenance", lambda site: {"by": "ray"})
        assert visited(503) == ""
        patched.setattr(reach, "rivals", refused)
        assert visited(200) == "nginx -T failed"


@pytest.mark.parametrize(("status", "said"), [(400, ""), (200, "returns 200 without a certificate of the client")])
def test_site_that_requires_a_certificate_of_clients_has_to_refuse_the_formula(visited, monkeypatch, status, said):
    monkeypatch.setattr(reach, "_ask", lambda *_arguments: (status, ""))
    site = configured(tls={"kind": "self_signed", "client_ca": "/etc/ssl/clients.pem"})
    found = reach._differs(site, "https", ("127.0.0.1", 443), "blog.example.org", [200], time.monotonic() + 1)
    assert found == said


def test_apache_ends_the_connection_of_a_client_without_a_certificate(visited, monkeypatch):
    def ends(*_arguments):
        raise ssl.SSLError(1, "tlsv13 alert certificate required")

    monkeypatch.setattr(reach, "_ask", ends)
    place, deadline = ("127.0.0.1", 443), time.monotonic() + 1
    for verify, said in (("required", ""), ("optional", "gives no response")):
        tls = {"kind": "self_signed", "client_ca": "/etc/ssl/clients.pem", "verify": verify}
        found = reach._differs(configured(tls=tls), "https", place, "blog.example.org", [200], deadline)
        assert found.startswith(said) if said else found == ""
