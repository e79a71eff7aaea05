"""What is known of a host for the page: rows of a look, and records of deployments, whatever is in them."""

import json
import os

import pytest
from django_formula.host import clock
from django_formula.host.commands import DeploymentError
from django_formula.page import document, pages, seen
from django_formula.site import sites
from django_formula.watch import look, spool

NOW = 1_800_000_000.0
ROW = {"site": "blog", "damage": "", "release": "0007-3f2a9c1b77de", "running": True, "ms": 12, "failed": ""}
ATTEMPT = {
    "time": clock.timestamp(NOW - 60),
    "release": "0008-aaaaaaaaaaaa",
    "result": "failed",
    "step": "static",
    "error": "starting Django: KeyError: 'A'\nmore",
    "asked_by": "state.apply by ada, salt job 2026",
    "seconds": 3.5,
    "receipt": {"sent": 9, "failed": 1},
}


@pytest.fixture
def blog(make_site):
    site = make_site()
    site.register()
    sites.keep_applied(site)
    return site


def of(rows, problems=None):
    return seen.of_look(look.Seen(problems or {}, [], rows, {}), {}, NOW)


def test_deployments_are_the_last_complete_ones(blog):
    lines = [json.dumps({**ATTEMPT, "seconds": number}) for number in range(30)]
    lines[-3] = "[]"
    lines[-2] = '{"time": 7, "result": null, "seconds": "much", "receipt": [], "error": ["\\u001b[31m"]}'
    blog.deploys.write_text("\n".join([*lines, '{"time": "20']))
    found = of([ROW])["sites"][0]["deployments"]
    assert [one["seconds"] for one in found[-3:]] == [26, 0, 29] and len(found) <= seen.DEPLOYMENTS
    assert found[-1]["error"] == "starting Django: KeyError: 'A'" and found[-1]["by"] == "state.apply by ada"
    assert (found[-1]["sent"], found[-1]["lost"]) == (9, 1)
    assert document.of_hosts([of([ROW])], NOW)


def test_failed_release_has_its_error_and_since_when(blog):
    blog.deploys.write_text(json.dumps(ATTEMPT) + "\n")
    host = of([{**ROW, "failed": "0008-aaaaaaaaaaaa: static"}])
    assert [(one["kind"], one["detail"], one["since"]) for one in host["problems"]] == [
        ("failed", "starting Django: KeyError: 'A'", NOW - 60)
    ]


def test_site_whose_files_are_damaged_is_on_the_page(own_host):
    row = {"site": "gone", "damage": "site.json is damaged", "release": "", "running": None}
    problems = {"gone/down": {"site": "gone", "kind": "down", "text": "site.json is damaged", "command": ""}}
    host = of([row], problems)
    assert "site.json is damaged" in document.of_hosts([host], NOW)


def test_what_a_host_says_is_what_the_master_takes(blog):
    blog.deploys.write_text(json.dumps(ATTEMPT) + "\n")
    host = json.loads(json.dumps(of([ROW])))
    assert seen.checked(host, host["host"], NOW)["sites"] == host["sites"]


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_folder_that_others_may_write_to_is_refused(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(pages.folders, "refuse_unsafe_parents", lambda path: None)
    folder = tmp_path / "status"
    folder.mkdir()
    os.chown(folder, 0, 7)
    folder.chmod(mode)
    with pytest.raises(DeploymentError, match="could replace the page"):
        pages.safe(str(folder))
    folder.chmod(0o755)
    assert pages.safe(str(folder)) == folder


def test_link_and_relative_path_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pages.folders, "refuse_unsafe_parents", lambda path: None)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(DeploymentError, match="is not a folder"):
        pages.safe(str(tmp_path / "link"))
    with pytest.raises(DeploymentError, match="is not an absolute path"):
        pages.safe("status")


@pytest.mark.parametrize(
    "more", [{"host": ["x"]}, {"sites": 5}, {"sites": [{}]}, {"what": {}}, {"what": "event"}], ids=json.dumps
)
def test_problem_of_another_host_has_no_keys_that_make_another_message_of_it(blog, more):
    host = of([ROW])
    one = {"site": "blog", "kind": "down", "text": "it is down", "command": "", "detail": "", "since": NOW}
    problems = [{**one, "site": f"blog{number}", **more} for number in range(3)]
    found = seen.checked({**host, "problems": problems}, "web1", NOW)
    assert found and "3 sites are down" in document.of_hosts([found], NOW)


def test_site_of_another_host_with_requests_and_no_durations_is_shown(blog):
    host = of([ROW])
    host["sites"][0] |= {"requests": 7, "errors": 1, "p95": None}
    found = seen.checked(host, "web1", NOW)
    assert found and "blog" in document.of_hosts([found], NOW)


def test_host_that_is_not_watched_has_a_page_too(own_host, monkeypatch, tmp_path):
    for name in ("STATE", "CONFIG"):
        monkeypatch.setattr(spool, name, tmp_path / name)
    here = json.loads(json.dumps(pages.here()))
    assert here["sites"] == [] and seen.checked(here, "lb1", here["time"])


@pytest.mark.parametrize(
    ("options", "url"),
    [
        ({}, "http://www.blog.example.org/"),
        ({"proxy": {"listen": [8080]}}, "http://www.blog.example.org:8080/"),
        ({"tls": {"kind": "self_signed", "listen": [8443]}}, "https://www.blog.example.org:8443/"),
    ],
)
def test_link_leads_to_the_port_of_the_site(make_site, options, url):
    site = make_site(domains=["www.blog.example.org"], **options)
    site.register()
    sites.keep_applied(site)
    site.deploys.write_text("")
    assert f'href="{url}"' in document.of_hosts([of([ROW])], NOW)
