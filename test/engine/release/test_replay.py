"""What a new release answers worse than the active one, and what both have in common."""

import itertools
import json

import pytest
from django_formula.release import http, replay
from django_formula.release.http import Answer
from django_formula.release.replay import Side
from django_formula.untrusted import shapes
from specimen import configured
from trees import write_tree

HOST = "blog.example.org"
SCRIPT = '<script src="/static/a.js"></script><img src="/static/b.png">'
CIRCLE = {"location": "/a/"}


@pytest.fixture
def sides(tmp_path, monkeypatch):
    """The two releases, and what each answers: a status, an error, or a status with headers or a body."""
    answers = {"old": {}, "new": {}}
    seen = []

    def get(site, release, path, *, host, scheme, headers, timeout):
        seen.append((release.name, path, host, headers))
        answer = answers[release.name].get(path, 200)
        answer = next(answer) if isinstance(answer, itertools.cycle) else answer
        if isinstance(answer, Exception):
            raise answer
        status, more = answer if isinstance(answer, tuple) else (answer, "")
        return Answer(status, more if isinstance(more, dict) else {}, more if isinstance(more, str) else "")

    monkeypatch.setattr(http, "get", get)
    monkeypatch.setattr(replay, "_PAUSE", 0)
    write_tree(tmp_path, {"old/static/a.js": "", "new/static/x": ""})
    both = [Side(configured(), tmp_path / name, "/static/") for name in answers]
    return both, answers, seen


def compared(sides, old, new, urls=("/a/",)):
    both, answers, _seen = sides
    answers["old"], answers["new"] = old, new
    found = replay.compare(*both, [(HOST, url) for url in urls], 1.3)
    assert shapes.fits(json.loads(json.dumps(found)), replay.SHAPE) and found["compared"] + found["left"] == len(urls)
    return found


@pytest.mark.parametrize(
    ("old", "new", "kind", "words"),
    [
        (200, 200, "", ""),
        (200, 500, "fails", "returned 500"),
        (200, 503, "fails", "returned 503"),
        (404, 500, "fails", "returned 500"),
        (200, TimeoutError(), "fails", "timed out after 10 s"),
        (200, ConnectionRefusedError("refused"), "fails", "got no response (refused)"),
        (200, http.http.client.BadStatusLine("x"), "fails", "got no response (x)"),
        (200, (302, CIRCLE), "fails", "redirects in a circle, to /a/"),
        (200, (302, {"location": "http://[x/"}), "fails", "redirects to what is no URL"),
        (200, (302, {"location": "https://login.example.com/"}), "", ""),
        (200, (302, {"location": "/b/"}), "", ""),
        (200, 404, "gone", "returned 404"),
        (200, 403, "gone", "returned 403"),
        (200, 429, "", ""),
        (200, (200, SCRIPT), "files", "has a.js, b.png, not among its static files"),
        ((200, SCRIPT), (200, SCRIPT), "files", "has a.js, not among its static files"),
        (500, 500, "", ""),
        (TimeoutError(), 500, "", ""),
        ((302, CIRCLE), (302, CIRCLE), "", ""),
        (404, 404, "", ""),
        (500, 200, "", ""),
    ],
)
def test_only_what_the_new_release_answers_worse_counts(sides, old, new, kind, words):
    found = compared(sides, {"/a/": old}, {"/a/": new})
    assert [(one["kind"], one["new"]) for one in found["differences"]] == ([(kind, words)] if kind else [])


def said(queries=3, cpu=4.0, cold="", route="a/", status=200):
    """A response that says what it has cost."""
    return status, {"x-django-said": f"0042-3f2a9c1b77de {route} {cold}{cpu} {queries} -"}


@pytest.mark.parametrize(
    ("old", "new", "is_worse"),
    [
        (said(3), said(53), True),
        (said(3), said(6), True),
        (said(3), said(5), False),  # 1.3 times and 2
        (said(100), said(132), False),
        (said(100), said(133), True),
        (said(3, status=404), said(53, status=403), False),
        (said(3), said(53, cpu="-"), True),
        (said("-"), said(53), False),
        (200, said(53), False),  # the old release does not say it yet
        (said(3), (200, {"x-django-said": "item/ 4.0 3 53"}), False),
        (said(3), said(53, cold="~"), False),
        (said(3), itertools.cycle([said(60, cold="~"), said(3)]), False),
        (said(3), itertools.cycle([said(60, cold="~"), said(53)]), True),
        (said(3), itertools.cycle([*[said(53)] * 5, said(3)]), False),  # each process has filled its cache
    ],
)
def test_page_that_makes_more_queries_each_time_is_worse(sides, old, new, is_worse):
    found = compared(sides, {"/a/": old}, {"/a/": new})
    kinds = [(one["kind"], one["old"], one["new"]) for one in found["differences"]]
    counts = [answer[1]["x-django-said"].split()[3] if isinstance(answer, tuple) else "53" for answer in (old, new)]
    assert kinds == ([("queries", *(f"makes {count} queries" for count in counts))] if is_worse else [])


def test_cpu_of_pages_is_returned_by_their_route(sides):
    old = {"/a/": said(cpu=4.5), "/b/": said(cpu=2), "/c/": (302, {"location": "/a/"}), "/d/": said(status=404)}
    new = {**old, "/a/": said(cpu=9.25), "/b/": said(cpu=2, route="c/")}
    found = compared(sides, old, new, ("/a/", "/b/", "/c/", "/d/", "/e/"))
    assert found["cpu"] == [{"route": "a/", "old": 4.5, "new": 9.25}]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (200, itertools.cycle([500, 200])),  # a moment of the new release alone
        (itertools.cycle([200, 500]), itertools.cycle([500, 500])),  # what both have at times
    ],
)
def test_difference_that_does_not_last_is_none(sides, old, new):
    assert compared(sides, {"/a/": old}, {"/a/": new})["differences"] == []


def test_growing_redirects_end(sides):
    new = {f"/{'a' * count}/": (302, {"location": f"/{'a' * (count + 1)}/"}) for count in range(1, 20)}
    [difference] = compared(sides, {}, new)["differences"]
    assert difference["new"] == "redirects 5 times, last to /aaaaaa/"


@pytest.mark.parametrize(("name", "count"), [("app.3f2a9c1b77de.js", 0), ("gone.3f2a9c1b77de.js", 1), ("a.js", 1)])
def test_page_of_a_cache_may_have_files_of_the_active_release(sides, tmp_path, name, count):
    both, answers, _seen = sides
    write_tree(tmp_path, {"old/static/app.3f2a9c1b77de.js": ""})
    page = (200, f'<script src="/static/{name}"></script>')
    answers["new"] = {"/a/": page}
    found = replay.compare(both[0], both[1]._replace(former=both[0].release), [(HOST, "/a/")], 1.3)
    assert len(found["differences"]) == count


def test_place_that_many_pages_redirect_to_is_requested_once(sides):
    to = dict.fromkeys([f"/{number}/" for number in range(9)], (302, {"location": "/login/"}))
    assert compared(sides, to, to, to)["differences"] == []
    assert [path for _name, path, _host, _headers in sides[2]].count("/login/") == 2


def test_requests_have_a_mark_and_nothing_of_visitors(sides):
    compared(sides, {}, {})
    assert [seen[:3] for seen in sides[2]] == [("old", "/a/", HOST), ("new", "/a/", HOST)]
    marks = {"User-Agent": "django-formula replay", "X-Django-Replay": "1", "X-Django-Proof": "1"}
    assert all(headers == marks for *_rest, headers in sides[2])


def test_headers_of_the_health_check_are_sent_without_logins(sides, tmp_path):
    headers = {"X-Scheme": "https", "Authorization": "Basic x", "X-Api-Key": "x", "Cookie": "a=b"}
    site = configured(health={"headers": headers})
    replay.compare(*(Side(site, tmp_path / name, "") for name in ("old", "new")), [(HOST, "/a/")], 1.3)
    assert all(sent == {"X-Scheme": "https", **replay.HEADERS} for *_rest, sent in sides[2])


def test_pages_are_counted_apart_from_those_that_need_a_login(sides):
    old = {"/a/": (302, {"location": "/login/"}), "/b/": (302, {"location": "/login/"}), "/c/": 404, "/d/": 500}
    found = compared(sides, old, old, ("/a/", "/b/", "/c/", "/d/", "/e/", "/login/"))
    assert (found["compared"], found["pages"], found["failing"]) == (6, 2, 1)


def test_many_differences_are_counted_and_some_looked_at_again(sides):
    urls = [f"/{number}/" for number in range(50)]
    found = compared(sides, {}, dict.fromkeys(urls, 500), urls)
    assert found["suspects"] == 50 and len(found["differences"]) == 20


def test_time_is_limited(sides, monkeypatch):
    now = itertools.count(step=2.5)
    monkeypatch.setattr(replay.time, "monotonic", lambda: next(now))
    found = compared(sides, {}, {"/0/": 500}, [f"/{number}/" for number in range(50)])
    assert 5 < found["compared"] < 20 and found["left"] and len(found["differences"]) == 1


@pytest.mark.parametrize(
    ("facts", "url"),
    [
        ({"static_url": "/static/", "collected": 3}, "/static/"),
        ({"static_url": "/static/", "collected": None}, ""),
        ({}, ""),
    ],
)
def test_static_files_are_looked_for_where_the_release_has_them(tmp_path, facts, url):
    assert replay.side(configured(), tmp_path, facts).static_url == url
