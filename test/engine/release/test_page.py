"""Files that a release's health page links to and its static files lack."""

import time

import pytest
from django_formula.release import static
from specimen import configured
from trees import write_tree

FACTS = {"static_url": "/static/", "collected": 2}


def warned(names: str) -> list[str]:
    return [
        f"the health page links to {names}, not among the static files: have django:sites:blog:build create what is "
        "generated, or correct the names in the project"
    ]


@pytest.fixture
def release(tmp_path):
    return write_tree(tmp_path, {"static/a.css": "", "static/js/a b.js": "", "static/folder/x": ""})


@pytest.mark.parametrize(
    ("page", "missing"),
    [
        ('<link rel="stylesheet" href="/static/a.css"><script src="/static/js/a%20b.js?v=1#x"></script>', ""),
        ('<link href="/static/dist/site.css" rel="stylesheet">', "dist/site.css"),
        ("<LINK REL=stylesheet HREF=/static/dist/site.css>", "dist/site.css"),
        ("<script defer src='/static/dist/a.js'></script><script src='/static/dist/a.js'></script>", "dist/a.js"),
        ('<script src="https://blog.example.org:8443/static/b.js?a=1&amp;b=2"></script>', "b.js"),
        ('<script src="//cdn.example.org/static/b.js"></script><script src="/other/b.js"></script>', ""),
        ('<link rel="icon" href="/static/favicon.ico"><img src="/static/x.png"><script>a()</script>', ""),
        (
            '<!-- <script src="/static/b.js"></script> --><!--[if IE]><script src="/static/c.js"></script><![endif]-->',
            "",
        ),
        ('<!-- a --><script src="/static/b.js"></script><!-- <script src="/static/c.js"></script>', "b.js"),
        ('<script src="/static/folder"></script>', "folder"),
        ('<script src="/static/../secrets/x"></script><script src="/static/a%00%0ab"></script>', ""),
        (f'<script src="/static/{"a" * 300}"></script><script src="//[/static/a"></script>', ""),
        ("".join(f"<script src=/static/{n}.js></script>" for n in range(7)), "0.js, 1.js, 2.js, 3.js, 4.js and 2 more"),
        ('{"status": "ok"}', ""),
    ],
)
def test_missing_files_of_the_health_page_are_named(release, page, missing):
    assert static.page_warnings(configured(), release, FACTS, page) == (warned(missing) if missing else [])


def test_warning_has_the_name_of_the_page(release):
    page = '<script src="/static/b.js"></script>'
    found = static.page_warnings(configured(), release, FACTS, page, "the page /")
    assert found == [warned("b.js")[0].replace("the health page", "the page /")]


@pytest.mark.parametrize(
    "facts", [{"collected": None}, {"static_url": ""}, {"static_url": "https://cdn.example.org/static/"}]
)
def test_static_files_that_are_elsewhere_are_not_looked_for(release, facts):
    page = '<script src="/static/b.js"></script><script src="https://cdn.example.org/static/c.js"></script>'
    assert static.page_warnings(configured(), release, FACTS | facts, page) == []


@pytest.mark.parametrize("piece", ["<link", "<!--", "<script ", "<script src=", "<script src='/static/", "<link>"])
def test_page_of_a_hostile_site_takes_little_time(release, piece):
    began = time.process_time()
    static.page_warnings(configured(), release, FACTS, (piece * 65536)[:65536])
    assert time.process_time() - began < 2


def test_files_that_the_page_inlines_are_named():
    log = (
        'WARNING Unable to include inline static file "site.css", file not found.\n'
        "django.x: Missing staticfiles manifest entry for 'js/a.js'\n"
        'WARNING Unable to include inline static file "site.css", file not found.\n'
        "GET / 200\n"
    )
    assert static.logged_warnings(configured(), log) == [
        "the health page uses site.css, js/a.js, not among the static files: have django:sites:blog:build create what "
        "is generated, or correct the names in the project"
    ]
    assert static.logged_warnings(configured(), "GET / 200\n") == []
