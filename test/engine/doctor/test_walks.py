"""The walk of `django.doctor` over a site of the engine's world; on a host it is in test/hosts/test_doctor.py."""

import socket
import ssl
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from django_formula.doctor import application, pages, visit, walks, way
from django_formula.doctor.visit import Broken
from django_formula.host.commands import DeploymentError
from django_formula.release.http import Answer
from specimen import configured


def visited(url="", **options):
    return visit.visit(configured(**options), url, skip_network=False, explains=False)


def broken(look, *arguments):
    with pytest.raises(Broken) as raised:
        look(*arguments)
    return raised.value


@pytest.fixture
def links(monkeypatch):
    """Have the walk take these links: name → what is raised or returned, and whether it stops."""

    def given(*steps):
        def of(found):
            def look(_visit):
                if isinstance(found, Exception):
                    raise found
                return found

            return look

        monkeypatch.setattr(walks, "STEPS", tuple((name, of(found), stops) for name, found, stops in steps))
        return walks.walk(configured())

    return given


def test_walk_stops_at_a_broken_link_that_stops(links):
    walked = links(("one", "fine", True), ("two", Broken("gone", "mend it"), True), ("three", "fine", True))
    assert [(link.name, link.is_broken, link.command) for link in walked.links] == [
        ("one", False, ""),
        ("two", True, "mend it"),
    ]
    view = walks.view(walks.rows(walked))
    assert [line.split() for line in view.splitlines()[2:]] == [
        ["two", "BROKEN", "gone"],
        ["do", "mend", "it"],
        ["blog:", "broken", "at", "two", f"({walked.seconds}", "s)"],
    ]


@pytest.mark.parametrize(
    ("by", "command"), [("django.hold by root", "salt-call django.hold blog off"), ("state.apply by root", "")]
)
def test_requests_that_are_held_are_the_broken_link(monkeypatch, by, command):
    record = {"since": "2026-03-01T12:00:00Z", "by": by}
    monkeypatch.setattr(way.waiting, "closed", lambda _site: record)
    found = broken(way.maintenance, visited())
    assert found.link == "requests" and found.text.endswith(f"wait since 2026-03-01T12:00:00Z, by {by}")
    assert found.command == command and bool(found.todo) is not bool(command)


def test_walk_goes_on_after_a_link_that_does_not_stop_and_leaves_out_what_a_site_lacks(links):
    walked = links(("one", Broken("gone", todo="ask them"), False), ("two", "", True), ("three", "fine", True))
    assert [link.name for link in walked.links] == ["one", "three"] and walked.broken.todo == "ask them"


def test_link_that_a_later_one_finds_broken_is_there_once(links):
    walked = links(
        ("process", "runs", True), ("socket", "fine", True), ("Django", Broken("ended", link="process"), True)
    )
    assert [(link.name, link.text) for link in walked.links] == [("socket", "fine"), ("process", "ended")]
    assert walked.broken.name == "process"


def test_server_that_ends_while_it_is_asked_is_a_broken_process(monkeypatch):
    asked, processes = visited(), iter([41, 42, 42])
    live = SimpleNamespace(path=Path("/srv/django/blog/releases/0001"), name="0001", record={}, has_python=True)
    manager = SimpleNamespace(pid=lambda *_: 42, log=lambda *_: "bind(): Error\n", way_to_start=lambda *_: "start it")
    monkeypatch.setattr(visit.Visit, "release", live)
    monkeypatch.setattr(visit.Visit, "drifted", lambda _visit: [])
    monkeypatch.setattr(application.instances, "serves", lambda _path: True)
    monkeypatch.setattr(application.instances, "pid", lambda *_: next(processes))
    monkeypatch.setattr(application.instances, "process_manager", lambda *_: manager)
    monkeypatch.setattr(application.contract, "unit", lambda *_: "django-blog-0001")
    monkeypatch.setattr(application.health, "as_checked", lambda *_: {})
    monkeypatch.setattr(application.health, "find", lambda *_: SimpleNamespace(problem="is refused", path="/"))
    problem = broken(application.django, asked)
    assert (problem.link, problem.command) == ("process", "start it")
    assert problem.text == "django-blog-0001 does not run (it ended while it was asked): bind(): Error"


@pytest.mark.parametrize(
    ("processes", "is_starting", "ready_at", "expected"),
    [
        ([42], False, 0, ""),
        ([42], False, 3, ""),
        ([42], False, 99, "django-blog-0001 runs and does not listen at its socket"),
        ([42, 42, None, 43], False, 99, "django-blog-0001 does not run (it ends each time that it is started)"),
        ([None, 42, 43], True, 99, "django-blog-0001 does not run (it ends each time that it is started)"),
        ([None], False, 99, "django-blog-0001 was stopped"),
        ([None, None, 42], True, 5, ""),
        ([None], True, 99, "django-blog-0001 does not run (it is being started for 1 s)"),
    ],
)
def test_server_that_was_just_started_is_waited_for(monkeypatch, processes, is_starting, ready_at, expected):
    """supervisor says that a program has started before it listens; a container has no process until it is made."""
    looks = {"pid": 0, "whole": 0}

    def looked(what):
        looks[what] += 1
        return looks[what]

    live = SimpleNamespace(path=Path("/srv/django/blog/releases/0001"), name="0001", has_python=True)
    manager = SimpleNamespace(
        pid=lambda *_: processes[min(looked("pid"), len(processes)) - 1],
        log=lambda *_: "",
        how_it_ended=lambda *_: "",
        is_starting=lambda *_: is_starting,
        way_to_start=lambda *_: "start it",
    )
    monkeypatch.setattr(visit.Visit, "release", live)
    monkeypatch.setattr(visit.Visit, "drifted", lambda _visit: [])
    monkeypatch.setattr(application, "PATIENCE", 1.0)
    monkeypatch.setattr(application.time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(application.time, "monotonic", lambda: looks["pid"] / 40)
    monkeypatch.setattr(application.instances, "serves", lambda _path: True)
    monkeypatch.setattr(application.instances, "units", lambda *_: ["django-blog-0001"])
    monkeypatch.setattr(application.instances, "process_manager", lambda *_: manager)
    monkeypatch.setattr(application.contract, "unit", lambda *_: "django-blog-0001")
    monkeypatch.setattr(application.contract, "is_whole", lambda *_: looked("whole") > ready_at)
    if not expected:
        assert application.process(visited()) == "django-blog-0001 runs"
        return
    problem = broken(application.process, visited())
    assert (problem.text, problem.command) == (expected, "start it")


@pytest.mark.parametrize(
    ("can_render", "first"), [(True, "systemctl reload"), (False, "salt-call state.apply django &&")]
)
def test_files_that_cannot_be_compared_are_written_before_they_are_loaded(monkeypatch, can_render, first):
    proxy = SimpleNamespace(etc=Path("/etc/nginx"), DAEMON=object())
    monkeypatch.setattr(visit.Visit, "proxy", proxy)
    monkeypatch.setattr(visit.Visit, "drifted", lambda _visit: [])
    monkeypatch.setattr(pages.template, "can_render", lambda: can_render)
    monkeypatch.setattr(pages, "to_start", lambda _daemon, how: f"systemctl {how} nginx")
    command = pages._of_proxy(visited(), "GET / returned 502").command
    assert command.startswith(first) and command.endswith("systemctl reload nginx")


def test_link_that_cannot_be_looked_at_is_broken(links):
    error = DeploymentError("no answer", hint="salt-call django.logs blog")
    assert links(("one", error, True)).broken[1:] == (True, "no answer", "", "salt-call django.logs blog")
    assert links(("one", OSError(13, "Permission denied"), True)).broken.text.startswith("cannot be looked at: ")


def test_text_of_others_has_no_control_characters(links):
    assert links(("one", Broken("\x1b[2J\x07gone"), True)).broken.text == "\\x1b[2J\\x07gone"


@pytest.mark.parametrize(
    "url", ["ftp://blog.example.org/", "blog.example.org", "https://[x/", "http://a/\n", "http://a b"]
)
def test_url_of_another_kind_is_refused(url):
    with pytest.raises(DeploymentError, match="is no URL"):
        visited(url)


@pytest.mark.parametrize("url", [8080, True, ["https://blog.example.org/"]])
def test_url_that_salt_reads_as_another_value_is_refused(monkeypatch, url):
    monkeypatch.setattr(walks.sites, "registered", lambda: ["blog"])
    monkeypatch.setattr(walks.sites, "find", lambda _name: configured())
    with pytest.raises(DeploymentError, match="is no URL") as refused:
        walks.doctor("blog", url)
    assert refused.value.hint == "salt-call django.doctor blog http://blog.example.org/"


def test_name_that_salt_reads_as_a_list_is_no_site(monkeypatch):
    monkeypatch.setattr(walks.sites, "registered", lambda: ["blog"])
    with pytest.raises(DeploymentError, match="there is no site"):
        walks.doctor(["blog"])


def test_no_url_is_the_sites_own(monkeypatch):
    monkeypatch.setattr(walks.sites, "registered", lambda: ["blog"])
    monkeypatch.setattr(walks.sites, "find", lambda _name: configured())
    monkeypatch.setattr(walks, "STEPS", ())
    assert walks.doctor("blog", None)["url"] == "http://blog.example.org/"


def test_url_from_the_address_bar_of_a_browser_is_asked_for_as_browsers_do():
    found = visited("https://Bücher.example/café/?q=größe&x=%20")
    assert found.host == found.host_header == "xn--bcher-kva.example"
    assert found.target == "/caf%C3%A9/?q=gr%C3%B6%C3%9Fe&x=%20"


def test_url_of_the_site_is_its_own_path_where_it_listens():
    own = visited(path="/blog", proxy={"listen": [8080]})
    assert (own.host_header, own.target, own.scheme) == ("blog.example.org:8080", "/blog", "http")


@pytest.mark.parametrize("key", ["domains", "redirect_domains"])
def test_domain_of_another_site_leads_to_that_one(monkeypatch, key):
    shop = configured(name="shop", **{"domains": ["shop.example.net"], key: ["shop.example.org"]})
    monkeypatch.setattr(way.sites, "registered", lambda: ["shop"])
    monkeypatch.setattr(way.sites, "find", lambda _name: shop)
    found = broken(way.domain, visited("http://shop.example.org/"))
    assert found.text.endswith("but of shop") and not found.todo
    assert found.command == "salt-call django.doctor shop http://shop.example.org/"


def test_domain_that_is_not_the_sites_names_the_key():
    problem = broken(way.domain, visited("http://www.example.org/"))
    assert problem.todo.startswith("set django:sites:blog:domains: [blog.example.org, www.example.org], then ")
    assert "has no certificate" in broken(way.domain, visited("https://blog.example.org/")).text


@pytest.mark.parametrize(
    ("found", "own", "expected"),
    [
        (["192.0.2.1"], "192.0.2.1", "blog.example.org is 192.0.2.1, this host"),
        (["93.184.215.14"], "10.0.0.2", "a router has to pass on to 10.0.0.2"),
    ],
)
def test_address_of_the_name_is_this_hosts_or_behind_its_router(monkeypatch, found, own, expected):
    monkeypatch.setattr(way, "_resolved", lambda *_arguments: found)
    monkeypatch.setattr(way, "_own_address", lambda: own)
    monkeypatch.setattr(way.ports, "bind_error", lambda one: "" if one == own else "Cannot assign requested address")
    assert expected in way.dns(visited())


def test_resolver_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(way, "PATIENCE", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: time.sleep(1) or [])
    assert broken(way.dns, visited()).text == "DNS gives no answer within 0 s"


def test_network_is_left_out(monkeypatch):
    monkeypatch.setattr(way, "_resolved", None)
    asked = visit.visit(configured(), "", skip_network=True, explains=False)
    assert way.dns(asked) == ""


@pytest.mark.parametrize(
    ("code", "kind", "expected"),
    [
        (way._NOT_YET, "acme", "timedatectl set-ntp true"),
        (way._EXPIRED, "acme", "salt-call django.renew blog force=True"),
        (way._EXPIRED, "self_signed", "salt-call django.renew blog"),
        (20, "files", "with the certificates of its authority after it"),
    ],
)
def test_certificate_that_visitors_refuse(code, kind, expected):
    tls = {"kind": kind, **({"certificate": "/c", "key": "/k"} if kind == "files" else {})}
    tls |= {"email": "a@example.org"} if kind == "acme" else {}
    error = ssl.SSLCertVerificationError("refused")
    error.verify_code, error.verify_message = code, "refused"
    problem = way._invalid(visited(tls=tls), error)
    assert expected in (problem.command or problem.todo)


@pytest.fixture
def answers(monkeypatch):
    """What the proxy answers, in turn."""
    given = []
    monkeypatch.setattr(visit.Visit, "proxy", object())
    monkeypatch.setattr(visit.Visit, "get", lambda _visit, _target: given.pop(0))
    monkeypatch.setattr(pages, "_size_of_log", lambda _visit: 0)
    monkeypatch.setattr(pages, "_logged", lambda *_arguments: "")
    monkeypatch.setattr(application, "wrong", lambda _visit, text, found, _since: Broken(text, "", found.target))
    return given


def test_redirects_are_followed_to_a_page(answers):
    answers += [Answer(302, {"location": "/en/"}, ""), Answer(200, {}, "<html>")]
    asked = visited()
    assert pages.page(asked) == "GET /en/ returned 200" and asked.page == "<html>"


def test_redirect_in_a_circle_is_broken(answers):
    answers += [Answer(301, {"location": "/a"}, ""), Answer(301, {"location": "/"}, "")]
    assert broken(pages.page, visited()).text == "GET / is redirected in a circle: / → /a → /"


def test_redirect_to_no_url_is_broken(answers):
    answers += [Answer(302, {"location": "http://[blog/"}, "")]
    assert broken(pages.page, visited()).text == "GET / is redirected to http://[blog/, which is no URL"


def test_redirect_to_https_that_the_site_lacks_is_broken(answers):
    answers += [Answer(301, {"location": "https://blog.example.org/"}, "")]
    assert broken(pages.page, visited()).text.endswith("and blog has no https")
    answers += [Answer(302, {"location": "https://login.example.net/"}, "")]
    assert pages.page(visited()) == "GET / returned 302 to https://login.example.net/"


def test_page_that_the_release_answers_too_counts_unless_it_was_asked_for(answers, monkeypatch):
    monkeypatch.setattr(pages, "_own", lambda _visit, _target: 404)
    answers += [Answer(404, {}, "")] * 2
    assert "as the release answers" in pages.page(visited())
    assert broken(pages.page, visited("http://blog.example.org/nothing")).text == "GET /nothing returned 404"


def test_server_whose_interpreter_is_gone_is_cured_by_an_apply(world):
    """As after an upgrade of the distribution in which something has removed it all the same."""
    world.apply()
    asked = visit.visit(world.site, "", skip_network=False, explains=False)
    (asked.release.path / "virtualenv/bin/python").unlink()
    found = application._ended(asked, "", "code=exited, status=203/EXEC")
    assert found.text.startswith("django-blog-0001 does not run: its interpreter (/usr/bin) is gone: 0001-")
    assert found.command == "salt-call state.apply django"


def test_walk_of_a_site_that_was_just_released(world, monkeypatch):
    world.apply()
    monkeypatch.setattr(walks, "STEPS", [step for step in walks.STEPS if step[0] in ("release", "process", "database")])
    walked = walks.doctor("blog", skip_network=True)
    assert [link["is_broken"] for link in walked["links"]] == [False] * 3, walked
    world.running.clear()
    assert walks.doctor("blog", skip_network=True)["broken"] == "process"
