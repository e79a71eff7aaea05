"""Releases that answer what visitors have requested before the first visitor meets them, or are refused."""

import json
import re

import pytest
from conftest import live_site
from products import shortened
from sites import Site
from thinned import full

#: Pages with numbers; what a browser gets of each request by the replay, and what a row of the database breaks.
ITEMS = """
from django.shortcuts import redirect, render

PRICES = {"blue": 1}

def item(request, number):
    return render(request, "guestbook/item.html", {"number": number, "price": PRICES["blue"]})

def odd(request):
    if Entry.objects.filter(name="broken").exists():
        raise ValueError("odd")
    return HttpResponse("odd")
"""
ROUTES = """
urlpatterns += [path("items/<int:number>/", views.item), path("odd/", views.odd)]
"""
PAGE = '{% load static %}<img src="{% static "guestbook/rule.svg" %}"><p>{{ number }} {{ price }}</p>\n'
TEMPLATE, VIEWS = "guestbook/templates/guestbook/item.html", "guestbook/views.py"
NUMBERS = range(60)
ITEM = "def item(request, number):\n"
MANIFEST = "guestbook/lost.svg is not among the collected static files: have django:sites:blog:build create it"
#: Mistakes of a release: a file → a text in it and what replaces it, and what the error says.
MISTAKES = {
    "one route": (
        *(VIEWS, 'PRICES["blue"]}', 'PRICES["red"]}'),
        r"GET /items/\d+/ on release \S+ returned 500: KeyError: 'red' \(guestbook/views\.py:\d+\); {live} returned "
        r"200; at least 20 of \d+ URLs fail: /items/\d+/, /items/\d+/",
    ),
    "some numbers": (
        *(VIEWS, ITEM, f"{ITEM}    assert number % 30 != 7, 'seven'\n"),
        r"GET /items/\d?7/ on release \S+ returned 500: AssertionError: seven \(guestbook/views\.py:\d+\); "
        r"{live} returned 200; 2 of \d+ URLs fail: /items/\d?7/\n",
    ),
    "manifest": (
        *(TEMPLATE, "guestbook/rule.svg", "guestbook/lost.svg"),
        r"GET /items/\d+/ on release \S+ returned 500: ValueError: Missing staticfiles manifest entry for "
        r"'guestbook/lost\.svg'[^;\n]*; {live} returned 200; ",
    ),
    "static file": (
        *(TEMPLATE, "<p>", '<script src="/static/guestbook/lost.js"></script><p>'),
        r"GET /items/\d+/ on release \S+ has guestbook/lost\.js, not among its static files; {live} returned 200; ",
    ),
    "circle": (
        *(VIEWS, ITEM, f"{ITEM}    return redirect(request.path)\n"),
        r"GET /items/\d+/ on release \S+ redirects in a circle, to /items/\d+/; {live} returned 200; ",
    ),
    "queries": (
        *(VIEWS, ITEM, f"{ITEM}    for _row in range(9):\n        Entry.objects.count()\n"),
        r"GET /items/\d+/ on release \S+ makes 9 queries; {live} makes 0 queries; at least 20 of \d+ URLs make more: ",
    ),
    "CPU": (
        *(VIEWS, ITEM, f"{ITEM}    sum(turn * turn for turn in range(100_000))\n"),
        r"\S+: (pages|items/<int:number>/): more than 1\.5 times the CPU of {live}\b.*; \d+ URLs were compared",
    ),
}


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    blog = live_site(module_hosts, repositories, proxy={"access_log": "json"}, releases={"replay": True})
    urls, views = (blog.repository.read(f"guestbook/{name}.py") for name in ("urls", "views"))
    files = {"guestbook/urls.py": urls + ROUTES, VIEWS: views + ITEMS, TEMPLATE: PAGE}
    blog.repository.commit(files, "Items")
    return blog


def log(blog: Site) -> list[dict[str, object]]:
    return [json.loads(line) for line in blog.host.read("/var/log/nginx/django-blog.log").splitlines()]


def test_release_without_visitors_says_that_nothing_was_compared(blog):
    applied = blog.deploy()
    said = applied["blog has its instance"].changes["replay"]
    assert re.match(r"nothing was compared: /var/log/nginx/django-blog\.log has no page of a visitor", said), said
    assert blog.record()["replay"]["compared"] == 0


def test_good_release_answers_what_visitors_have_requested(blog):
    for number in NUMBERS:
        assert blog.get(f"/items/{number}/").status_code == 200
    assert blog.get("/items/1/?token=secret").status_code == blog.get("/odd/").status_code == 200
    blog.repository.commit({"guestbook/version.py": 'VERSION = "2.0"\nRELEASE_NOTE = "good"\n'})
    planned = blog.host.call("django.plan", "blog")
    assert re.match(rf"6\d URLs that visitors got: requested from {blog.live} and the new release", planned["replay"])
    with blog.lossless():
        requests = len(log(blog))
        applied = blog.deploy()
    said = applied["blog has its instance"].changes["replay"]
    assert re.match(r"6\d URLs, none worse, [\d.]+ s$", said), said
    record = blog.record()["replay"]
    assert record["compared"] >= 62 and record["refused"] == record["failing"] == 0 and record["differences"] == []
    assert record["measured"] >= 62
    assert not [line for line in log(blog)[requests:] if str(line["uri"]).startswith("/items/")]
    releases = blog.host.call("django.releases", "blog")
    assert re.search(r"0 of 6\d replayed URLs worse", json.dumps(releases)), releases


@pytest.mark.parametrize("mistake", shortened(MISTAKES, "one route"))
def test_release_with_a_mistake_gets_no_visitor(blog, mistake):
    name, old, new, error = MISTAKES[mistake]
    good = blog.repository.read(name)
    assert old in good
    live = blog.live
    blog.repository.commit({name: good.replace(old, new)}, mistake)
    assert "replay" in blog.apply(test=True)["blog has its instance"].changes
    with blog.load() as load:
        load.wait(20)
        applied = blog.apply()
        load.wait(20)
    blog.repository.commit({name: good}, "The mistake is corrected")
    assert load.failed == [] and load.releases == [live] and blog.live == live
    comment = applied.failed["blog has its instance"]
    assert re.match(f"instance: replay failed: {error}".replace("{live}", live), comment), comment
    hint = MANIFEST if mistake == "manifest" else "set django:sites:blog:releases:replay: false to release it as it is"
    assert hint in comment and f"{live} still runs" in comment, comment
    failed = blog.releases[-1]
    record = blog.record(failed)
    assert record["state"] == "failed" and record["step"] == "instance" and record["replay"]["refused"] >= 1, record
    assert blog.units and failed.split("-")[0] not in " ".join(blog.units)


@pytest.mark.full
def test_what_both_releases_fail_in_is_no_fault_of_the_new_one(blog):
    blog.manage("shell -c \"from guestbook.models import Entry; Entry.objects.create(name='broken', message='x')\"")
    assert blog.get("/odd/").status_code == 500
    blog.repository.commit({"guestbook/version.py": 'VERSION = "2.1"\nRELEASE_NOTE = "good"\n'})
    blog.deploy()
    record = blog.record()["replay"]
    assert record["failing"] == 1 and record["refused"] == 0 and record["compared"] >= 62, record


@pytest.mark.full
def test_page_that_is_gone_is_a_warning(blog):
    urls = blog.repository.read("guestbook/urls.py")
    blog.repository.commit({"guestbook/urls.py": urls.replace('path("odd/", views.odd)', "")}, "No odd page")
    blog.host.call(
        "django.manage", "blog", 'shell -c "from guestbook.models import Entry; Entry.objects.all().delete()"'
    )
    applied = blog.deploy()
    warned = json.dumps(applied.warnings)
    assert re.search(r"pages that visitors got from \S+ are gone in \S+: /odd/", warned), applied


@pytest.mark.parametrize("kind", map(full, ("gunicorn", "uvicorn", "granian", "daphne", "mod_wsgi")))
def test_each_server_is_requested(blog, kind):
    blog.deploy(server={"kind": kind})
    assert blog.record()["replay"]["refused"] == 0 and blog.record()["replay"]["pages"] >= 60


@pytest.mark.full
def test_sockets_that_a_server_binds_itself_are_requested(blog):
    blog.process = "supervisor"
    for kind in ("uwsgi", "gunicorn"):
        blog.deploy(server={"kind": kind})
        assert blog.record()["replay"]["refused"] == 0 and blog.record()["replay"]["pages"] >= 60
