"""The walk of `django.doctor` on a balancer: what stops it, and what cures each link."""

import pytest
from django_formula.balancer import haproxy, plan
from django_formula.doctor import balanced as way
from django_formula.doctor import walks
from django_formula.host import daemons
from django_formula.host.commands import DeploymentError
from django_formula.release.http import Answer
from engine.balancer.test_plan import apply, blog
from engine.balancer.test_plan import haproxy as applied  # noqa: F401 - a fixture

UP = {"state": "ready", "is_up": True, "check": "L7OK"}
DOWN = {"state": "ready", "is_up": False, "check": "L4CON Connection refused"}
DRAINED = {"state": "drain", "is_up": True, "check": "L7OK"}


@pytest.fixture
def balanced(applied, monkeypatch):  # noqa: F811
    """What the doctor finds of a balancer, whose programs run and whose hosts are these."""
    apply(blog(), [])
    monkeypatch.setattr(daemons, "is_running", lambda _daemon: True)
    monkeypatch.setattr(way.socket, "create_connection", lambda *_place: type("Open", (), {"close": lambda _: None})())
    monkeypatch.setattr(way, "tls", lambda _balanced: "")
    monkeypatch.setattr(way.Balanced, "get", lambda _balanced, _target: Answer(200, "", {}))
    monkeypatch.setattr(haproxy, "servers", lambda _site: {"web1": UP, "web2": UP})
    return lambda: walks.doctor("blog")


def test_whole_balancer_has_no_broken_link(balanced):
    found = balanced()
    assert [(link["name"], link["text"]) for link in found["links"] if link["name"] != "TCP"] == [
        ("balancer", "django-haproxy runs"),
        ("hosts", "requests for web1, web2"),
        ("page", "GET / returned 200"),
    ]
    assert found["broken"] == "" and found["url"].endswith("://blog.example.org/")


@pytest.mark.parametrize(
    ("servers", "text", "todo"),
    [
        ({"web1": UP, "web2": DOWN}, "no requests for web2 (L4CON Connection refused)", "let this host reach web2"),
        ({"web1": DRAINED, "web2": DRAINED}, "no host gets requests: web1 (drain), web2", "django.join blog web1"),
        ({"web1": DRAINED, "web2": DOWN}, "no requests for web2", "cure what django.doctor finds there"),
    ],
)
def test_host_without_requests_is_broken_unless_it_is_drained(balanced, monkeypatch, servers, text, todo):
    monkeypatch.setattr(haproxy, "servers", lambda _site: servers)
    found = balanced()
    link = next(link for link in found["links"] if link["is_broken"])
    assert link["name"] == "hosts" and link["text"].startswith(text) and todo in link["todo"]


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ({"web1": UP, "web2": UP}, {}),
        ({"web1": UP, "web2": DRAINED}, {}),
        ({"web1": UP, "web2": DOWN}, {"text": "no requests for web2 (L4CON Connection refused)", "hosts": ["web2"]}),
        (
            {"web1": DRAINED, "web2": DRAINED},
            {"text": "no host gets requests: web1 (drain), web2 (drain)", "hosts": []},
        ),
    ],
)
def test_watch_of_the_master_gets_what_is_wrong_at_the_balancer_alone(balanced, monkeypatch, servers, expected):
    def get(_balanced, _target):
        raise AssertionError("hosts in maintenance have a page with 503")

    monkeypatch.setattr(way.Balanced, "get", get)
    monkeypatch.setattr(haproxy, "servers", lambda _site: servers)
    assert walks.balancers() == ({"blog": expected} if expected else {})
    monkeypatch.setattr(daemons, "is_running", lambda _daemon: False)
    assert walks.balancers() == {"blog": {"text": "django-haproxy does not run", "hosts": []}}


def test_drained_host_next_to_one_that_serves_is_no_fault(balanced, monkeypatch):
    monkeypatch.setattr(haproxy, "servers", lambda _site: {"web1": UP, "web2": DRAINED})
    assert "requests for web1, and none for web2 (drain)" in str(balanced()["links"]) and not balanced()["broken"]


def test_balancer_that_does_not_run_is_started_by_the_command(balanced, monkeypatch):
    monkeypatch.setattr(daemons, "is_running", lambda _daemon: False)
    [link] = balanced()["links"]
    assert (link["text"], link["command"]) == ("django-haproxy does not run", "systemctl restart django-haproxy")


def test_balancer_that_does_not_listen_is_restarted_by_the_command(balanced, monkeypatch):
    def refused(*_place):
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(way.socket, "create_connection", refused)
    link = balanced()["links"][-1]
    assert link["name"] == "TCP" and "(connection refused)" in link["text"] and "django-haproxy" in link["command"]


@pytest.mark.parametrize("answer", [Answer(503, "", {}), TimeoutError()])
def test_page_that_visitors_do_not_get_is_broken(balanced, monkeypatch, answer):
    def get(_balanced, _target):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(way.Balanced, "get", get)
    link = balanced()["links"][-1]
    assert link["name"] == "page" and link["is_broken"] and link["text"].startswith("GET / ")


def test_status_of_haproxy_that_cannot_be_read_is_a_broken_link(balanced, monkeypatch):
    def servers(_site):
        raise DeploymentError("django-haproxy does not answer", hint="run systemctl status django-haproxy")

    monkeypatch.setattr(haproxy, "servers", servers)
    assert balanced()["broken"] == "hosts"


def test_site_that_is_neither_served_nor_balanced_here_is_refused(balanced):
    with pytest.raises(DeploymentError, match="there is no site 'shop'"):
        walks.doctor("shop")
    assert plan.programs() == [daemons.HAPROXY]
