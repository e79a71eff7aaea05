"""URLs of an access log that may be requested again: of visitors, of the site, harmless, of each kind in turn."""

import json
import os

import pytest
from django_formula.host import users
from django_formula.proxy import access_log
from django_formula.proxy.access_log import Url
from specimen import configured

APART = ("/static/", "/media/")


def line(uri="/", **more):
    values = {"host": "blog.example.org", "method": "GET", "uri": uri, "status": 200, "bytes": 10, "seconds": 0.004}
    return json.dumps({**values, "upstream_seconds": "0.003", "agent": "Firefox", "user": "", **more})


def visited(tmp_path, *lines, most=200, **options):
    log = tmp_path / "django-blog.log"
    log.write_text("\n".join([*lines, ""]))
    return [url.target for url in access_log.visited(configured(**options), log, APART, most)]


@pytest.mark.parametrize(
    "more",
    [
        *({"method": "POST"}, {"status": 302}, {"status": 500}, {"user": "ada"}, {"agent": "django-formula"}),
        *({"host": "evil.example.com"}, {"bytes": 1 << 30}, {"seconds": 60.0}, {"seconds": "0"}),
        *({"upstream_seconds": ""}, {"upstream_seconds": "-"}),  # of nginx itself
        *({"status": "200"}, {"host": None}, {"agent": 1}),
    ],
)
def test_lines_that_are_no_page_for_each_visitor_are_left_out(tmp_path, more):
    assert visited(tmp_path, line("/a/"), line("/b/", **more)) == ["/a/"]


@pytest.mark.parametrize(
    "uri",
    [
        *("/static/a.css", "/media/x.png", "/.well-known/x", "//evil.example.com/", "http://blog.example.org/a/"),
        *("/a b", "/é", "/a\r\nX: y", f"/{'a' * 2000}", ""),
        *("/logout/", "/Logout", "/items/3/delete/", "/cart/add/5/", "/unsubscribe/", "/%6Cogout/", "/?action=delete"),
        "/reset/MQ/c2x7zk-0123456789abcdef0123456789abcdef/",
        "/d/3f2a9c1b-77de-4f00-9abc-0123456789ab/",
        "/invoice/eyJpZCI6MTIzNDU2Nzg5MA==/",
        *(
            "/?token=1",
            "/?access_key=1",
            "/?next=/a/",
            "/?q=ada@example.org",
            "/?session_id=a",
            "/?x=3f2a9c1b77de4f009abc",
        ),
        "/?a=1&api_key=x",
    ],
)
def test_url_that_may_act_or_be_a_secret_is_left_out(tmp_path, uri):
    assert visited(tmp_path, line(uri), line("/a/")) == ["/a/"]


@pytest.mark.parametrize(
    "uri",
    [
        "/?page=2",
        "/blog/10-tips-for-django-2024/",
        "/search/?q=red+ink",
        "/?author=ada&keyword=x",
        "/item/7",
        "/%C3%A9/",
    ],
)
def test_usual_url_is_requested(tmp_path, uri):
    assert visited(tmp_path, line(uri)) == [uri]


def test_path_that_is_written_to_is_left_out(tmp_path):
    lines = [line("/a/?x=1"), line("/b/"), line("/b", method="PATCH", status=500), line("/c/", method="HEAD")]
    assert visited(tmp_path, *lines) == ["/a/?x=1"]


def test_kinds_of_pages_are_in_turn_the_newest_first(tmp_path):
    lines = [
        *(line(f"/items/{number}/") for number in range(5)),
        line("/about/"),
        line("/items/3/more/"),
        line("/items/4/"),
    ]
    chosen = visited(tmp_path, *lines)
    assert chosen == ["/items/4/", "/items/3/more/", "/about/", "/items/3/", "/items/2/", "/items/1/", "/items/0/"]
    assert visited(tmp_path, *lines, most=4) == chosen[:4]


def test_paths_below_that_of_the_site_only(tmp_path):
    assert visited(tmp_path, line("/shop/a/"), line("/shopping/"), line("/shop"), path="/shop") == ["/shop", "/shop/a/"]


def test_each_domain_of_the_site_is_requested_by_its_name(tmp_path):
    log = tmp_path / "log"
    log.write_text(line("/", host="ada.example.org") + "\n" + line("/", host="example.org") + "\n")
    assert access_log.visited(configured(domains=["*.example.org"]), log, (), 5) == [Url("ada.example.org", "/")]


def test_rotated_log_is_read_too(tmp_path):
    (tmp_path / "django-blog.log.1").write_text(line("/old/") + "\n")
    assert visited(tmp_path, line("/new/")) == ["/new/", "/old/"]


def test_line_of_apache_is_read(tmp_path):
    apache = (
        '{"time":"2026-03-01T12:00:00+0000","client":"192.0.2.1","host":"blog.example.org","method":"GET","uri":"/a/",'
        '"protocol":"HTTP/1.1","status":200,"bytes":100,"seconds":4021e-6,"referrer":"","agent":"curl","id":"x"}'
    )
    assert visited(tmp_path, apache, apache.replace("/a/", "/slow/").replace("4021e-6", "40210000e-6")) == ["/a/"]


@pytest.mark.parametrize("text", ["", "no JSON", "[" * 100_000, '{"uri": "/"}', "[]", "1" * 5000])
def test_what_is_no_line_is_left_out(tmp_path, text):
    assert visited(tmp_path, text, line("/a/")) == ["/a/"]


def test_log_that_another_user_may_have_laid_is_not_read(tmp_path, monkeypatch):
    site, log, target = configured(), tmp_path / "log", tmp_path / "target"
    target.write_text(line() + "\n")
    log.symlink_to(target)
    assert access_log.visited(site, log, (), 5) == []
    log.unlink()
    os.mkfifo(log)
    assert access_log.visited(site, log, (), 5) == []
    log.unlink()
    target.rename(log)
    assert len(access_log.visited(site, log, (), 5)) == 1
    monkeypatch.setattr(users, "user_id", lambda name: os.getuid())
    assert access_log.visited(site, log, (), 5) == []


def test_what_visitors_searched_for_is_not_shown():
    assert access_log.masked("/a/?q=ada&x=") == "/a/?q=…&x=…" and access_log.masked("/a/") == "/a/"
