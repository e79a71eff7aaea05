"""The health check of first releases that fail: what it says, how soon, and what can be done before one is active."""

import re
import time

import pytest
from sites import Site, lines

pytestmark = pytest.mark.full


#: A project that logs nothing, and whose page raises.
SILENT = """
import logging
LOGGING_CONFIG = None
logging.disable(logging.CRITICAL)
"""
RAISES = """
def write(ink):
    return ink["blue"]

def health(request):
    return write({})
"""
#: Routes that only Django knows.
MADE = """
from django.contrib import admin
from django.urls import include, path

pages = {"office/": include("guestbook.urls"), "admin/": admin.site.urls}
urlpatterns = [path(name, urls) for name, urls in pages.items()]
"""
TO_HTTPS = "\nSECURE_SSL_REDIRECT = True\n"


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(kind="ready", name="web1")
    return Site(host, repositories(host), health={"path": "/healthz", "timeout": "600s"})


def failing(blog: Site, changes: dict[str, str]) -> str:
    """The error of the instance after a commit, which comes long before the timeout of the health check."""
    blog.repository.commit(blog.repository.amended(changes))
    applied = blog.apply()
    assert next(iter(applied.failed)) == "blog has its instance", applied
    comment = applied.failed["blog has its instance"]
    waited = re.search(r'"seconds": ([\d.]+)', blog.host.run(["tail", "-n1", f"{blog.root}/deploys.jsonl"]).stdout)
    assert waited and float(waited[1]) < 500, waited
    assert lines(comment) <= 12 and "django_formula_" not in comment, comment
    return comment


def test_exception_is_in_the_error_where_the_project_logs_nothing(blog):
    views, settings = blog.repository.read("guestbook/views.py"), blog.repository.read("website/settings.py")
    began = time.monotonic()
    comment = failing(blog, {"guestbook/views.py": views + RAISES, "website/settings.py": settings + SILENT})
    assert time.monotonic() - began < 600
    assert re.match(
        r"instance: health check failed: GET /healthz on release 0001-\w{12} returned 500: "
        r"KeyError: 'blue' \(guestbook/views\.py:\d+\)\n",
        comment,
    ), comment
    assert re.search(r"\| guestbook/views\.py:\d+ in health: return write\(\{\}\)\n", comment)
    assert re.search(r'\| guestbook/views\.py:\d+ in write: return ink\["blue"\]\n', comment)


def test_commands_run_in_the_first_release_that_failed(blog):
    [name] = blog.releases
    notice = f"no release is live: this is {name}, which failed in the step instance"
    assert blog.manage("showmigrations guestbook").splitlines()[:2] == [notice, "guestbook"]
    assert blog.host.call("django.check", "blog")[0] == notice
    log = blog.host.call("django.logs", "blog")
    assert log.startswith(f"{notice}:\nhealth check failed: GET /healthz ") and "uWSGI" in log
    assert blog.host.call("django.status", "blog", full=True)[0]["failed"] == f"{name}: instance"


def test_redirect_to_https_names_the_keys_that_correct_it(blog):
    settings = blog.repository.read("website/settings.py").replace(SILENT, "")
    views = blog.repository.read("guestbook/views.py").replace(RAISES, "")
    comment = failing(blog, {"guestbook/views.py": views, "website/settings.py": settings + TO_HTTPS})
    assert "redirected to https://blog.example.org/healthz\n" in comment
    assert "the project redirects to https, and the site has no tls: set django:sites:blog:tls; " in comment
    assert "switch SECURE_SSL_REDIRECT off (django:sites:blog:settings:SECURE_SSL_REDIRECT), or set " in comment
    first, second = blog.releases
    sources = blog.host.run(f"ls -d {blog.root}/releases/*/source").stdout.split()
    assert sources == [f"{blog.root}/releases/{second}/source"], first


def test_advice_was_good_and_the_failures_are_over(blog):
    blog.deploy(settings={"SECURE_SSL_REDIRECT": False})
    assert blog.answering["release"] == blog.live and len(blog.releases) == 1
    assert blog.host.call("django.status", "blog", full=True)[0]["failed"] == ""
    assert blog.manage("showmigrations guestbook").splitlines()[0] == "guestbook"


@pytest.mark.full
def test_failed_commit_that_is_reverted_is_over(blog):
    urls = blog.repository.read("guestbook/urls.py")
    live = blog.live
    failing(blog, {"guestbook/urls.py": urls.replace('"healthz"', '"other"')})
    assert blog.host.call("django.status", "blog", full=True)[0]["failed"].endswith(": instance")
    blog.deploy(revision=live.split("-")[1] and blog.record()["commit"])
    assert blog.live == live
    assert blog.host.call("django.status", "blog", full=True)[0]["failed"] == ""
    blog.repository.commit(blog.repository.amended({"guestbook/urls.py": urls}))


@pytest.mark.full
def test_change_of_the_path_fails_no_request_of_the_switch(blog):
    blog.deploy(revision="main", path="/shop")
    report = blog.record()["receipt"]
    assert report["failed"] == 0 and report["through"] == "socket" and report["sent"] > 3, report
    assert blog.get("/release").status_code == 200
    blog.deploy(health={"path": "/release", "timeout": "5s"}, environment={"A": "1"})
    report = blog.record()["receipt"]
    assert report["failed"] == 0 and report["through"] == "proxy", report


@pytest.mark.full
def test_routes_that_code_makes_are_named_where_the_page_is_missing(blog):
    comment = failing(blog, {"website/urls.py": MADE})
    assert "the project has no page /shop/release: set django:sites:blog:health:path to one that it has\n" in comment
    assert "pages of the project, by its routes, that health:path may name: /office/healthz, /admin/login/, " in comment
