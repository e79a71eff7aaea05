"""The program that requests a page once more, or lists them (django_formula_request.py), on a project without logs."""

import json
import subprocess
from types import SimpleNamespace

import in_django
import pytest
from django_formula.host.commands import DeploymentError
from django_formula.project import page, program
from django_formula.release.health import Raised
from specimen import FACTS, ROOT

SETTINGS = """
DEBUG = False
SECRET_KEY = "s"
ALLOWED_HOSTS = ["blog.example.org"]
ROOT_URLCONF = "blog.urls"
LOGGING_CONFIG = None
import logging
logging.disable(logging.CRITICAL)
MIDDLEWARE = ["django.middleware.security.SecurityMiddleware", "django.middleware.common.CommonMiddleware"]
import os
SECURE_SSL_REDIRECT = os.path.exists("https")
"""
URLS = """
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import include, path, re_path


def good(request):
    return HttpResponse(request.build_absolute_uri())


def broken(request):
    return write({})


def write(ink):
    return ink["blue"]


def broken_later(request):
    def lines():
        yield b"a"
        raise ValueError("no paper")
    return StreamingHttpResponse(lines())


def slow(request):
    import time
    time.sleep(60)


def late(request):
    import blog.late


urlpatterns = [path("", good), path("broken/", broken), path("later/", broken_later)]
urlpatterns += [path("slow/", slow), path("late/", late)]
shop = [path("offers/", good), path("<int:number>/", good), path("new/", good, name="new"), path("delete/", good)]
staff = [path("login/", good), path("users/", good), path("users/add/", good)]
urlpatterns += [path("shop/", include(shop)), path("staff/", include(staff)), path("robots.txt", good)]
urlpatterns += [re_path(r"^api/v1\\.0/docs/?$", good), re_path(r"^api/(v1|v2)/$", good), re_path(r"^about/$", good)]
"""
WSGI = """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "blog.settings")
from django.core.wsgi import get_wsgi_application
inner = get_wsgi_application()


def application(environ, start_response):
    if environ["PATH_INFO"] == "/outside/":
        raise RuntimeError("not reached")
    return inner(environ, start_response)
"""
ASGI = WSGI.partition("inner")[0].replace("wsgi", "asgi") + "application = get_asgi_application()\n"


@pytest.fixture(params=in_django.DJANGOS)
def ask(request, make_site, monkeypatch, tmp_path):
    """Make a release with a project, and return a function that asks the program for the exception of a path."""

    def make(**options):
        site = make_site(**options)
        release = site.releases / "0001-3f2a9c1b77de"
        source, config = release / "source", release / "config"
        (source / "blog").mkdir(parents=True)
        config.mkdir()
        for name, text in {"settings": SETTINGS, "urls": URLS, "wsgi": WSGI, "asgi": ASGI}.items():
            (source / f"blog/{name}.py").write_text(text)
        for name in ("application", "start", "request"):
            (config / f"django_formula_{name}.py").write_text(
                (ROOT / f"django/files/django_formula_{name}.py").read_text()
            )

        def run(command):
            done = subprocess.run(
                [in_django.python(request.param), "-B", *command.argv[1:]],
                cwd=source,
                env={"PYTHONPATH": str(source)},
                input=command.stdin,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise DeploymentError("failed", log=done.stderr)
            return done.stdout

        monkeypatch.setattr(program, "run_command", run)
        kind = site.config["server"]["protocol"]
        facts = {**FACTS, "application": "blog.asgi" if options.get("server") else "blog.wsgi"}
        return SimpleNamespace(
            site=site,
            kind=kind,
            path=page.explain(site, release, facts, ["blue"]),
            routes=lambda: page.routes(site, release, facts, ["about"]),
        )

    return make


BROKEN = Raised(
    "KeyError: '**********' (blog/urls.py:15)",
    "blog/urls.py:11 in broken: return write({})\n"
    'blog/urls.py:15 in write: return ink["**********"]\n'
    "KeyError: '**********' (blog/urls.py:15)",
)


@pytest.mark.slow
@pytest.mark.parametrize("server", [{}, {"server": {"kind": "uvicorn"}}])
def test_exception_of_a_view_is_found_where_the_project_logs_nothing(ask, server):
    """Secrets in it are masked: here the word that the view looks for is one."""
    asked = ask(**server)
    assert asked.path("/broken/") == BROKEN
    assert asked.path("/") is None
    assert asked.path("/nowhere/") is None


def test_exception_of_a_page_that_is_served_by_https_only(ask):
    """Application servers take the scheme from the header that the health check sends."""
    asked = ask(health={"headers": {"X-Forwarded-Proto": "https"}})
    (asked.site.releases / "0001-3f2a9c1b77de/source/https").touch()
    assert asked.path("/broken/") == BROKEN


def test_exception_below_the_path_of_the_site(ask):
    assert ask(path="/shop").path("/shop/broken/?a=b") == BROKEN


def test_exception_outside_of_django_and_while_a_response_is_sent(ask):
    asked = ask()
    assert asked.path("/outside/").exception == "RuntimeError: not reached (blog/wsgi.py:10)"
    assert asked.path("/later/").exception == "ValueError: no paper (blog/urls.py:21)"


@pytest.mark.slow
def test_page_that_does_not_end_is_explained_by_where_it_waits(ask, monkeypatch):
    monkeypatch.setattr(page, "_PATIENCE", 3)
    waits = Raised(
        "no answer within 3 s (blog/urls.py:27)",
        "blog/wsgi.py:11 in application: return inner(environ, start_response)\n"
        "blog/urls.py:27 in slow: time.sleep(60)\nno answer within 3 s (blog/urls.py:27)",
    )
    assert ask().path("/slow/") == waits


@pytest.mark.slow
def test_page_whose_modules_are_still_imported_says_so(ask, monkeypatch):
    monkeypatch.setattr(page, "_PATIENCE", 3)
    asked = ask()
    (asked.site.releases / "0001-3f2a9c1b77de/source/blog/late.py").write_text("import time\ntime.sleep(60)\n")
    raised = asked.path("/late/")
    assert raised.exception == "no answer within 3 s, its modules are still imported (blog/late.py:2)"
    assert raised.log.splitlines()[-2] == "blog/late.py:2 in <module>: time.sleep(60)"


def test_pages_are_the_routes_without_arguments_that_only_show_something(ask, monkeypatch):
    monkeypatch.setattr(page, "_PAGES", 100)
    routes = ask().routes()
    assert {"/", "/shop/delete/", "/staff/users/add/"} < {*routes}
    assert page.named(routes).partition(": ")[2].split(", ") == [
        *("/staff/login/", "/api/v1.0/docs/", "/broken/", "/later/", "/slow/", "/late/"),
        *("/**********/", "/shop/offers/", "/shop/new/", "/robots.txt"),
    ]


def test_release_without_the_program_has_no_explanation(make_site):
    site = make_site()
    release = site.releases / "0001-3f2a9c1b77de"
    assert page.raised(site, release, FACTS, "/", []) is None
    assert page.routes(site, release, FACTS, []) == [] and not page.named([])


def test_answer_of_the_process_is_shown_as_plain_lines(make_site, monkeypatch):
    site = make_site()
    release = site.releases / "0001-3f2a9c1b77de"
    (release / "config").mkdir(parents=True)
    (release / "config" / page.PROGRAM).touch()
    answer = {"raised": "KeyError:\n\x1b[31mink", "frames": ["x" * 2000, *(f"f{number}" for number in range(9))]}
    monkeypatch.setattr(program, "run_command", lambda command: json.dumps(answer))
    raised = page.raised(site, release, FACTS, "/", ["ink"])
    assert raised == Raised("KeyError:[31mink", "f6\nf7\nf8\nKeyError:[31mink")
    answer["raised"] = "x" * 2000
    assert page.raised(site, release, FACTS, "/", []) is None
