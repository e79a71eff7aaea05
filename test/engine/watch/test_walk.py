"""Who answers in place of a site: a proxy is asked for its configuration once a file of it has changed."""

from types import SimpleNamespace

import pytest
from django_formula.doctor.visit import Broken
from django_formula.host.commands import DeploymentError
from django_formula.watch import walk
from django_formula.watch.problem import Problem

FORUM = Problem(
    "down", "visitors do not reach it: forum is answered by aaa.conf:1", "mv aaa.conf /root/", "unreached"
)  # fmt: skip


@pytest.fixture
def proxy(monkeypatch, tmp_path):
    """A proxy with a site; `files` is what its files are, `rival` what answers in place of the site, `asked` counts."""
    proxy = SimpleNamespace(etc="/etc/nginx", files="1", rival=None, asked=0)

    def in_place_of(_site):
        proxy.asked += 1
        if isinstance(proxy.rival, DeploymentError):
            raise proxy.rival
        return proxy.rival

    configuration = SimpleNamespace(present=lambda: proxy.files, state=lambda: proxy.files)
    monkeypatch.setattr(walk.spool, "STATE", tmp_path)
    monkeypatch.setattr(walk.daemons, "has_systemd", lambda: False)
    monkeypatch.setattr(walk.sites, "registered", lambda: ["forum"])
    monkeypatch.setattr(walk.sites, "find", lambda name: name)
    monkeypatch.setattr(walk.proxies, "serving", lambda _site: proxy)
    monkeypatch.setattr(walk.reach, "Configuration", lambda _proxy: configuration)
    monkeypatch.setattr(walk.reach, "configuration", lambda _proxy: configuration)
    monkeypatch.setattr(walk.way, "in_place_of", in_place_of)
    return proxy


def test_proxy_is_asked_once_its_files_have_changed(proxy):
    state = {}
    assert [walk.rivals([proxy], state, float(now)) for now in (0, 60, 120)] == [{}] * 3 and proxy.asked == 1
    proxy.files, proxy.rival = "2", Broken("forum is answered by aaa.conf:1", "mv aaa.conf /root/")
    assert [walk.rivals([proxy], state, float(now)) for now in (180, 240)] == [{"forum": [FORUM]}] * 2
    proxy.files, proxy.rival = "3", None
    assert walk.rivals([proxy], state, 300.0) == {} and proxy.asked == 3


def test_files_that_an_apply_changes_while_a_proxy_is_asked_are_read_by_the_next_look(proxy, monkeypatch):
    """Else what it was just mending would be a problem until the next change of a file."""

    def have_walked(name):
        real(name)
        proxy.files, proxy.rival = "2", None

    state, real, proxy.rival = {}, walk._have_walked, Broken("forum is answered by aaa.conf:1", "mv aaa.conf /root/")
    monkeypatch.setattr(walk, "_have_walked", have_walked)
    assert walk.rivals([proxy], state, 0.0) == {"forum": [FORUM]}
    assert [walk.rivals([proxy], state, float(now)) for now in (60, 120)] == [{}] * 2 and proxy.asked == 2


def test_proxy_whose_files_are_not_known_is_asked_now_and_then(proxy):
    state, proxy.files = {}, ""
    for now in (1000, 1060, 1599, 1601):
        walk.rivals([proxy], state, float(now))
    assert proxy.asked == 2


def test_what_answered_before_a_proxy_refused_its_files_still_does(proxy):
    state, proxy.rival = {}, Broken("forum is answered by aaa.conf:1", "mv aaa.conf /root/")
    walk.rivals([proxy], state, 0.0)
    proxy.files, proxy.rival = "2", DeploymentError("nginx refuses it")
    assert walk.rivals([proxy], state, 60.0) == {"forum": [FORUM]} and proxy.asked == 2


def test_host_without_a_proxy_asks_nothing(proxy):
    assert walk.rivals([], {}, 0.0) == {} and proxy.asked == 0
