"""What responses say of themselves where releases prove themselves (django_formula_said.py), in real Django."""

import os
import subprocess

import in_django
import pytest
import thinned
from specimen import ROOT

RELEASE = "0042-3f2a9c1b77de"
#: A project of one module, with its own view of errors.
PROJECT = """
import asyncio, json, sys, threading, time
import django
from django.conf import settings
from django.http import HttpResponse, StreamingHttpResponse

settings.configure(
    ROOT_URLCONF="shop", SECRET_KEY="x", ALLOWED_HOSTS=["*"], LOGGING_CONFIG=None,
    DATABASES={name: {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{name}.sqlite3"} for name in ("default", "b")},
    MIDDLEWARE=["django_formula_said.middleware", *json.loads(sys.argv[1])],
)
django.setup()
from django.core.exceptions import PermissionDenied
from django.db import connection, connections
from django.test import AsyncClient, Client
from django.urls import path, re_path

def burn(milliseconds):
    end = time.thread_time() + milliseconds / 1000
    while time.thread_time() < end:
        pass

def item(request, number):
    burn(20)
    for alias in ("default", "default", "b"):
        with connections[alias].cursor() as cursor:
            cursor.execute("select 1")
    return HttpResponse("ok")

async def wait(request):
    burn(20)
    await asyncio.sleep(0.05)
    burn(20)
    return HttpResponse("ok")

def boom(request):
    return {}["price"]

def database(request):
    with connection.cursor() as cursor:
        cursor.execute("select nothing")

def forged(request):
    answer = HttpResponse("ok")
    answer["x-django-said"] = "0041-000000000000 item/ 0.01 0 -"
    return answer

def forbidden(request):
    raise PermissionDenied

def stream(request):
    return StreamingHttpResponse(str(number) for number in range(3))

def sorry(request):
    return HttpResponse("sorry", status=500)

handler500 = "shop.sorry"
urlpatterns = [
    path("", forged), path("item/<int:number>/", item), path("wait/", wait), path("boom/", boom), path("db/", database),
    path("forged/", forged), path("stream/", stream), path("403/", forbidden),
    re_path("^odd/ \\u00e9?\\n?(?P<number>.)", item),
]

def older(get_response):
    def middleware(request):
        return get_response(request)
    return middleware

def ask(*paths, proof="9/07"):
    client = Client(raise_request_exception=False, **({"HTTP_X_DJANGO_PROOF": proof} if proof else {}))
    return [client.get(path) for path in paths]

def ask_async(*paths, proof="9/07"):
    from django.core.asgi import get_asgi_application
    application = get_asgi_application()

    async def one(path):
        sent, scope = [], {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": path,
            "raw_path": path.encode(), "query_string": b"", "scheme": "http",
            "headers": [(b"host", b"x"), *([(b"x-django-proof", proof.encode())] if proof else [])],
        }
        first = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive():
            return first.pop() if first else await asyncio.sleep(60)

        async def send(message):
            sent.append(message)

        await application(scope, receive, send)
        return {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}

    async def all_of_them():
        return await asyncio.gather(*map(one, paths))

    return asyncio.run(all_of_them())
"""


#: How a project is asked, and its further middleware.
ASK, MIDDLEWARE = ("ask", "ask_async"), ("[]", '["shop.older"]')


@pytest.fixture
def said(tmp_path):
    """Run a program in the project; return the words of the lines that it printed."""

    def run(program: str, *, middleware: str = "[]", django: str = in_django.DJANGOS[0]) -> list[list[str]]:
        (tmp_path / "shop.py").write_text(PROJECT)
        (tmp_path / "program.py").write_text(f"from shop import *\n{program}\n")
        environment = {
            "PYTHONPATH": f"{ROOT / 'django/files'}:{tmp_path}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "DJANGO_RELEASE": RELEASE,
        }  # fmt: skip
        done = subprocess.run(
            [in_django.python(django), "program.py", middleware],
            cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [line.split(" ") for line in done.stdout.splitlines()]

    return run


def each(*paths: str, ask: str = "ask", proof: str = "9/07") -> str:
    return f"for answer in {ask}(*{paths!r}, proof={proof!r}):\n    print(answer['x-django-said'])"


#: While no proof is on chance decides what is measured: never, always.
NEVER, ALWAYS = (f"import django_formula_said\ndjango_formula_said._chance = lambda: {value}\n" for value in (1, 0))


@pytest.mark.parametrize(("ask", "django"), thinned.pairs(ASK, in_django.DJANGOS))
def test_response_names_release_route_cpu_queries_of_all_databases_and_no_exception(said, ask, django):
    (release, route, cpu, queries, exception), *_more = said(each("/item/7/", ask=ask), django=django)
    assert (release, route, queries, exception) == (RELEASE, "item/<int:number>/", "3", "-")
    assert cpu[0] == "~" and 20 <= float(cpu[1:]) < 200


@pytest.mark.parametrize(("ask", "middleware"), thinned.pairs(ASK, MIDDLEWARE))
def test_exception_has_its_class_and_the_function_of_the_project(said, ask, middleware):
    lines = said(each("/boom/", "/db/", "/403/", "/nowhere/", ask=ask), middleware=middleware)
    assert [(line[1], line[4]) for line in lines] == [
        ("boom/", "KeyError@shop.boom"),
        ("db/", "OperationalError@shop.database"),
        ("403/", "-"),
        ("-", "-"),
    ]


@pytest.mark.parametrize("ask", ["ask", "ask_async"])
def test_header_of_the_project_is_replaced(said, ask):
    lines = said(each("/forged/", "/", "/stream/", ask=ask))
    assert [(len(line), line[0], line[1]) for line in lines] == [
        (5, RELEASE, "forged/"),
        (5, RELEASE, "/"),
        (5, RELEASE, "stream/"),
    ]


def test_route_is_printable_ascii_without_spaces(said):
    (line,) = said(each("/odd/ 7"))
    assert (len(line), line[1]) == (5, "^odd/__?_?(?P<number>.)")


def test_first_answer_of_a_route_is_marked(said):
    assert [line[2][0] == "~" for line in said(each(*["/forged/"] * 4))] == [True, False, False, False]


def test_cpu_of_requests_at_the_same_time_is_their_own(said):
    lines = said(each(*["/wait/"] * 4, *["/item/1/"] * 3, ask="ask_async"))
    assert [line[3] for line in lines] == ["0"] * 4 + ["3"] * 3
    assert all(40 <= float(line[2].strip("~")) < 120 for line in lines[:4])
    assert all(20 <= float(line[2].strip("~")) < 100 for line in lines[4:])


def test_connection_is_counted_after_it_was_closed_and_in_each_thread(said):
    program = """
client = Client(HTTP_X_DJANGO_PROOF="9/07")
print(client.get("/item/1/")["x-django-said"])
connections.close_all()
def run():
    print(client.get("/item/1/")["x-django-said"])
thread = threading.Thread(target=run)
thread.start()
thread.join()
run()
"""
    assert [line[3] for line in said(program)] == ["3", "3", "3"]


def test_request_within_a_request_has_its_own_counts(said):
    program = """
import shop
def outer(request):
    Client().get("/item/1/")
    with connection.cursor() as cursor:
        cursor.execute("select 1")
    return HttpResponse("ok")
shop.urlpatterns.append(path("outer/", outer))
print(Client(HTTP_X_DJANGO_PROOF="9/07").get("/outer/")["x-django-said"])
"""
    assert [line[3] for line in said(NEVER + program)] == ["1"]


@pytest.mark.parametrize("django", [in_django.DJANGOS[0], thinned.full(in_django.DJANGOS[1])])
@pytest.mark.parametrize(("ask", "middleware"), thinned.pairs(ASK, MIDDLEWARE))
def test_request_while_no_proof_is_on_has_its_release_route_and_exception(said, ask, middleware, django):
    paths = ("/item/7/", "/boom/", "/item/7/", "/boom/", "/nowhere/", "/forged/", "/stream/")
    lines = said(NEVER + each(*paths, ask=ask, proof=""), middleware=middleware, django=django)
    assert lines == [
        [RELEASE, "item/<int:number>/", "-", "-", "-"],
        [RELEASE, "boom/", "-", "-", "KeyError@shop.boom"],
        [RELEASE, "item/<int:number>/", "-", "-", "-"],
        [RELEASE, "boom/", "-", "-", "KeyError@shop.boom"],
        [RELEASE, "-", "-", "-", "-"],
        [RELEASE, "forged/", "-", "-", "-"],
        [RELEASE, "stream/", "-", "-", "-"],
    ]


@pytest.mark.parametrize("ask", ["ask", "ask_async"])
def test_some_requests_are_measured_while_no_proof_is_on(said, ask):
    (line,) = said(ALWAYS + each("/item/7/", ask=ask, proof=""))
    assert line[3] == "3" and float(line[2].strip("~")) >= 20
    measured = [line[3] for line in said(each(*["/forged/"] * 400, ask=ask, proof=""))]
    assert 50 < measured.count("0") < 150 and {*measured} == {"0", "-"}


def test_first_answer_that_was_not_measured_is_one(said):
    program = NEVER + each("/forged/", proof="") + "\n" + each("/forged/")
    assert [line[2][0] for line in said(program)] == ["-", "0"]


#: What may be odd in a project, or wrong with the middleware itself; the page is the same.
BROKEN = [
    "django_formula_said.time.pthread_getcpuclockid = None",
    "django_formula_said.SyncToAsync = None",
    "django_formula_said._function = None",
    "django_formula_said._answered = None",
    "django_formula_said._raised_in = None",
    "django_formula_said.random = None",
    "django_formula_said._unfit = None",
    "django_formula_said.connections = None",
    "django_formula_said.got_request_exception = None",
    "HttpResponse.__setitem__ = None",
]


@pytest.mark.parametrize("ask", ["ask", thinned.full("ask_async")])
@pytest.mark.parametrize("broken", thinned.each(3, BROKEN))
def test_failure_of_the_middleware_changes_no_page(said, broken, ask):
    status = "answer.status_code" if ask == "ask" else "len(answer) > 0"
    program = f"""
import django_formula_said
{broken}
for proof in ("9/07", ""):
    for answer in {ask}("/item/1/", "/boom/", "/stream/", proof=proof):
        print({status}, str(answer.get("x-django-said", "-")).count(" ") in (0, 4))
"""
    words = ("200", "500", "200") if ask == "ask" else ["True"] * 3
    assert said(NEVER + program) == [[word, "True"] for word in words] * 2


def test_stream_of_a_cancelled_request_ends_as_without_it(said):
    program = """
import django_formula_said
events = []

async def inner(request):
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        events.append("cancelled")
        raise
    finally:
        events.append("ended")

async def main():
    django_formula_said._measured = 1
    task = asyncio.ensure_future(django_formula_said.middleware(inner)(None))
    await asyncio.sleep(0.01)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        events.append("raised")
    try:
        await django_formula_said.middleware(failing)(None)
    except ValueError as error:
        events.append(str(error))

async def failing(request):
    await asyncio.sleep(0)
    raise ValueError("own")

asyncio.run(main())
print(*events)
"""
    assert said(program) == [["cancelled", "ended", "raised", "own"]]
