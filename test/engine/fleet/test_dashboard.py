"""The page of all hosts of a master: who is silent, what is kept of them, and what answers may not do."""

import json

import pytest
import seen_hosts as sample
from django_formula.fleet import dashboard
from django_formula.fleet.minions import Answer
from django_formula.page import document, pages, seen

SILENT = "it does not answer"
LOST = Answer({}, SILENT, True)
NOW = sample.NOW


class Hosts:
    """Hosts of a master, with their answers."""

    def __init__(self, **answers):
        self.answers = answers

    def ask(self, hosts, function, *, limit):
        assert function == "django_fleet.seen" and limit
        return {name: self.answers[name] for name in hosts}


def answer(name, **more):
    return json.loads(json.dumps(sample.host(name, **more)))


def test_host_that_is_silent_is_shown_with_what_it_was_and_since_when():
    known = seen.known_now({}, {"web1": answer("web1"), "web2": answer("web2")}, NOW - 5400)
    later = seen.known_now(json.loads(json.dumps(known)), {"web1": answer("web1"), "web2": SILENT}, NOW)
    assert later["web2"]["silent"] == "it does not answer" and later["web2"]["time"] == NOW - 5400
    page = document.of_hosts([*later.values()], NOW)
    assert "web2 is silent: it does not answer" in page and "silent, last seen 90 min ago" in page
    back = seen.known_now(later, {"web1": answer("web1"), "web2": answer("web2")}, NOW + 60)
    assert "silent" not in back["web2"]


def test_hosts_without_sites_and_removed_hosts_are_not_shown():
    known = {"old": sample.host("old")}
    not_there = "'django_fleet.seen' is not available."
    assert seen.known_now(known, {"db1": answer("db1", sites=[]), "lb1": SILENT, "x": not_there}, NOW) == {}
    assert seen.known_now(known, {"old": {"sites": [{}]}}, NOW)["old"]["silent"].startswith("its answer is not one of")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(pages.folders, "refuse_unsafe_parents", lambda path: None)
    return tmp_path / "status"


def test_page_and_what_is_kept_are_written(folder):
    hosts = Hosts(web1=Answer(answer("web1")), lb1=LOST)
    found = dashboard.write(str(folder), hosts, ["web1", "lb1"])
    assert found == {
        "page": str(folder / "index.html"),
        "hosts": ["web1"],
        "silent": {"lb1": "it does not answer"},
    }
    assert "web1" in (folder / "index.html").read_text()
    assert folder.stat().st_mode & 0o777 == 0o700 and (folder / "hosts.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "change",
    [
        {"sites": [{}]},
        {"sites": 1},
        {"memory": []},
        {"load": "much"},
        {"problems": [sample.problem(since="then")]},
        {"disks": [{"path": "/"}]},
    ],
)
def test_answer_of_another_shape_is_none(change):
    assert seen.checked({**sample.host(), **change}, "web1", NOW) is None


def test_answer_has_bounds():
    done = [sample.deployment(60, seconds=-5.0, error="x" * 9000 + "\nmore")] * 400
    large = sample.host(sites=[sample.site(f"s{number}", deployments=done) for number in range(900)], time=9e18)
    host = seen.checked({**large, "problems": [sample.problem(since=-9e18)] * 900}, "web1", NOW)
    assert len(host["sites"]) == len(host["problems"]) == 300 and len(host["sites"][0]["deployments"]) == 20
    assert len(host["sites"][0]["deployments"][0]["error"]) == 300 and host["time"] == NOW
    assert document.of_hosts([host], NOW)


def test_name_of_a_host_is_the_one_that_the_master_knows():
    assert seen.checked(sample.host("evil"), "web1", NOW)["host"] == "web1"
