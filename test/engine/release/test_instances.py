import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from django_formula.host import commands, proc
from django_formula.host.commands import DeploymentError
from django_formula.process import contract, systemd
from django_formula.release import health as release_health
from django_formula.release import http as release_http
from django_formula.release import instances
from django_formula.release.health import Raised
from django_formula.site import sites
from specimen import FACTS, formula_templates

pytestmark = pytest.mark.slow  # answers that are waited for


def read_uwsgi(connection: socket.socket) -> dict[str, str]:
    """The variables of a request in the uwsgi protocol."""
    modifier, size, second = struct.unpack("<BHB", connection.recv(4, socket.MSG_WAITALL))
    assert (modifier, second) == (0, 0)
    block, found = connection.recv(size, socket.MSG_WAITALL), []
    while block:
        (size,) = struct.unpack("<H", block[:2])
        found.append(block[2 : 2 + size].decode())
        block = block[2 + size :]
    return dict(zip(found[::2], found[1::2], strict=True))


def end():
    raise EOFError("the connection was closed")


class Server:
    """An application server of these answers: path → (status, headers, body), bytes, or None, which is silence.

    A list of answers is taken one after another; the last one stays.
    """

    def __init__(self, listener: socket.socket, protocol: str = "uwsgi"):
        self.listener, self.protocol = listener, protocol
        self.answers: dict = {}
        self.requests: list[dict[str, str]] = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _address = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=[connection], daemon=True).start()

    def answer(self, connection):
        with connection, contextlib.suppress(OSError, EOFError, struct.error):
            request = read_uwsgi(connection) if self.protocol == "uwsgi" else self.read_http(connection)
            with self.lock:
                self.requests.append(request)
                answer = self.answers.get(request["REQUEST_URI"], (404, {}, ""))
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
            if answer is None:
                time.sleep(1)
            elif isinstance(answer, bytes):
                connection.sendall(answer)
            else:
                status, headers, body = answer
                lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in headers.items()), "", body]
                connection.sendall("\r\n".join(lines).encode())

    @staticmethod
    def read_http(connection):
        text = b""
        while b"\r\n\r\n" not in text:
            text += connection.recv(4096) or end()
        first, *lines = text.decode().split("\r\n")[:-2]
        headers = [line.split(": ", 1) for line in lines]
        assert len({name.lower() for name, _value in headers}) == len(headers)
        return {"REQUEST_URI": first.split()[1], "FIRST": first, **{name.lower(): value for name, value in headers}}


@pytest.fixture
def runtime(own_host, monkeypatch):
    """A folder for sockets, whose paths are short enough."""
    folder = Path(tempfile.mkdtemp(prefix="df-"))
    monkeypatch.setattr(sites, "RUNTIME", folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def instance(runtime, make_site, monkeypatch):
    """Make a site, a release of it and a server that answers on the release's address."""
    listeners = []
    monkeypatch.setattr(instances, "pid", lambda site, release: 42)
    monkeypatch.setattr(systemd.MANAGER, "journal", lambda *_: "the journal")
    monkeypatch.setattr(release_health, "_SETTLES", 0)

    def make(protocol="uwsgi", bind="unix", listens=True, **options):
        health = {"timeout": "10s", **options.pop("health", {})}
        server = {"processes": 1, "protocol": protocol, "bind": bind}
        site = make_site(health=health, server=server, **options)
        release = site.releases / "0001-3f2a9c1b77de"
        where = instances.address(site, release)
        if bind == "unix":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(where)
            listener.listen()
        else:
            listener = socket.create_server(("127.0.0.1", 0))
            where = f"127.0.0.1:{listener.getsockname()[1]}"
        listeners.append(listener)
        (release / "config").mkdir(parents=True, exist_ok=True)
        told = {"address": where, "protocol": protocol}
        (release / "config/instance.json").write_text(json.dumps(told))
        return site, release, Server(listener, protocol)

    yield make
    for listener in listeners:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


# A request


@pytest.mark.parametrize("bind", ["unix", "127.0.0.1:8001"])
def test_a_request_by_the_uwsgi_protocol(instance, bind):
    site, release, server = instance(bind=bind)
    server.answers["/caf%C3%A9/?a=b&c"] = (200, {"X-Name": "Value", "Content-Type": "text/html"}, "grüße")
    answer = release_http.get(site, release, "/caf%C3%A9/?a=b&c", scheme="https", headers={"X-Scheme": "ü"})
    assert answer == (200, {"x-name": "Value", "content-type": "text/html"}, "grüße")
    assert server.requests == [
        {
            "REQUEST_METHOD": "GET",
            "REQUEST_URI": "/caf%C3%A9/?a=b&c",
            "PATH_INFO": "/café/",
            "QUERY_STRING": "a=b&c",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REQUEST_SCHEME": "https",
            "UWSGI_SCHEME": "https",
            "HTTPS": "on",
            "HTTP_HOST": "blog.example.org",
            "HTTP_X_FORWARDED_PROTO": "https",
            "HTTP_USER_AGENT": "django-formula",
            "REMOTE_ADDR": "127.0.0.1",
            "SERVER_NAME": "blog.example.org",
            "SERVER_PORT": "443",
            "HTTP_X_SCHEME": "ü",
        }
    ]


def test_a_request_by_http(instance):
    site, release, server = instance(protocol="http", bind="127.0.0.1:8001")
    server.answers["/healthz?full=1"] = (204, {}, "")
    headers = {"x-forwarded-proto": "https", "X-Scheme": "a"}
    assert release_http.get(site, release, "/healthz?full=1", headers=headers).status == 204
    assert server.requests == [
        {
            "REQUEST_URI": "/healthz?full=1",
            "FIRST": "GET /healthz?full=1 HTTP/1.0",
            "host": "blog.example.org",
            "x-forwarded-proto": "https",
            "user-agent": "django-formula",
            "x-scheme": "a",
        }
    ]


def test_of_a_long_answer_the_beginning_is_read(instance):
    site, release, server = instance()
    server.answers["/"] = (200, {}, "x" * 300000)
    assert release_http.get(site, release, "/").body == "x" * 65536


def test_request_without_a_server_is_refused(instance):
    site, release, server = instance()
    server.answers["/"] = b"no http\r\n"
    with pytest.raises(http.client.HTTPException):
        release_http.get(site, release, "/")
    server.answers["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"
    with pytest.raises(http.client.IncompleteRead, match="5 bytes read, 4 more expected"):
        release_http.get(site, release, "/")
    server.listener.shutdown(socket.SHUT_RDWR)
    server.listener.close()
    with pytest.raises(OSError, match="refused"):
        release_http.get(site, release, "/")


# Health

GOOD = (200, {}, "all systems ready")


def redirect(to, status=302):
    return (status, {"Location": to}, "")


@pytest.mark.parametrize(
    ("answers", "options", "problem"),
    [
        ({"/": GOOD}, {}, None),
        ({"/healthz": (204, {}, "")}, {"path": "/healthz", "status": [200, 204]}, None),
        ({"/": GOOD}, {"contains": "ready"}, None),
        ({"/": GOOD}, {"contains": "not ready"}, "returned a page without 'not ready'"),
        ({"/": (500, {}, "")}, {}, "returned 500 (expected 200)"),
        ({}, {}, "returned 404 (expected 200)"),
        ({"/": (403, {}, "")}, {}, "returned 403 (expected 200)"),
        ({"/": GOOD}, {"status": [204]}, "returned 200 (expected 204)"),
        ({"/": redirect("/login/?next=/"), "/login/?next=/": GOOD}, {}, None),
        ({"/": redirect("http://blog.example.org/a", 301), "/a": redirect("b/", 308), "/b/": GOOD}, {}, None),
        ({"/": redirect("/")}, {"status": [302]}, None),
        ({"/": redirect("/a"), "/a": redirect("/")}, {}, "redirected 5 times, last to /a"),
        ({"/": redirect("https://blog.example.org/")}, {}, "redirected to https://blog.example.org/"),
        ({"/": redirect("//evil.example.org/")}, {}, "redirected to http://evil.example.org/"),
        ({"/": redirect("http://[blog/")}, {}, "redirected to http://[blog/, which is no URL"),
        ({"/": redirect("http://blog.example.org?a=1"), "/?a=1": GOOD}, {}, None),
        ({"/": redirect("/grö ße/"), "/gr%C3%B6%20%C3%9Fe/": GOOD}, {}, None),
        ({"/": (302, {}, "")}, {}, "redirected 5 times, last to /"),
        ({"/": b""}, {}, "got no response (Remote end closed connection without response)"),
        ({"/": b"HTTP/1.1 abc\r\n\r\n"}, {}, "got no response (HTTP/1.1 abc\\r\\n)"),
        ({"/": None}, {}, "timed out after 300ms"),
    ],
)
def test_health_check_passes_or_names_the_problem(instance, answers, options, problem):
    site, release, server = instance(health={**options, "timeout": "300ms" if problem else "10s"})
    server.answers = answers
    if problem is None:
        release_health.check(site, release)
        assert len(server.requests) >= 3
        return
    with pytest.raises(DeploymentError) as error:
        release_health.check(site, release)
    path = options.get("path", "/")
    assert error.value.message.startswith(f"health check failed: GET {path} on release 0001-3f2a9c1b77de ")
    assert error.value.message.split("3f2a9c1b77de ")[1] == problem
    assert error.value.log == "the journal"
    assert isinstance(error.value, release_health.NoPage) == ("404" in problem or "403" in problem)


def test_request_that_is_longer_than_its_protocol_allows_is_none(instance):
    site, release, server = instance(health={"timeout": "300ms"})
    server.answers = {"/": redirect(f"/{'a' * 40000}")}
    with pytest.raises(DeploymentError) as error:
        release_health.check(site, release)
    assert error.value.message.endswith(" got no response (the request has more than 65535 bytes)")


@pytest.mark.parametrize(
    ("kind", "body", "said"),
    [
        ("application/json", '{"redis": false,\n "database": true}', ': {"redis": false, "database": true}'),
        ("application/health+json; charset=utf-8", '{"status": "fail"}', ': {"status": "fail"}'),
        ("text/plain", "no queue\n", ": no queue"),
        ("text/plain", "x" * 301, ""),
        ("text/plain", "bell \a", ""),
        ("text/html", "<h1>Server Error (500)</h1>", ""),
    ],
)
def test_what_a_health_page_reports_is_in_the_message(instance, kind, body, said):
    site, release, server = instance(health={"path": "/ready/", "timeout": "300ms"})
    server.answers = {"/ready/": (503, {"Content-Type": kind}, body)}
    with pytest.raises(DeploymentError) as error:
        release_health.check(site, release)
    assert error.value.message.endswith(f" returned 503 (expected 200){said}")
    cure = "correct the project, or set django:sites:blog:health:path to a page that does not depend on what this one "
    cure += "reports"
    assert error.value.hint == (cure if said else HEALTH)


def test_health_page_is_what_redirects_lead_to(instance):
    site, release, server = instance()
    server.answers = {"/": redirect("/login/"), "/login/": (200, {}, "<form>")}
    assert release_health.body(site, release, time.monotonic() + 10) == "<form>"
    server.answers = {"/": (500, {}, "an error")}
    assert release_health.body(site, release, time.monotonic() + 10) == ""


@pytest.mark.parametrize(
    ("path", "answer", "expected"),
    [
        ("/health/", (200, {}, "<link>"), (200, "<link>")),
        ("/health/", (500, {}, "an error"), (500, "")),
        ("/health/", (404, {}, "no page"), (404, "")),
        ("/", (200, {}, "<link>"), (0, "")),
    ],
)
def test_home_page_is_another_one_than_the_health_page(instance, path, answer, expected):
    site, release, server = instance(health={"path": path, "contains": "well"})
    server.answers = {"/health/": (200, {}, "well"), "/": answer}
    assert release_health.home(site, release, time.monotonic() + 10) == expected


HEALTH = "correct the project, or set django:sites:blog:health (path, status, contains, timeout)"
AT = "django:sites:blog"
OTHER_PAGE = f"set {AT}:health:path to a page without the redirect"
TO_HTTPS = (
    f"the project redirects to https, and the site has no tls: set {AT}:tls; where a proxy in front has the "
    f"certificate, set {AT}:proxy:trusted to its address and {AT}:health:headers: {{X-Forwarded-Proto: https}}; or "
)
CURES = [
    ((500, {}, ""), {}, {}, HEALTH),
    ((405, {}, ""), {}, {}, f"the project answers no GET at /: set {AT}:health:path to a page"),
    (
        (429, {}, ""),
        {},
        {},
        "the project limits how many requests it answers, and counts those of the health check: set "
        f"{AT}:health:path to a page without such a limit, or have the project exempt it",
    ),
    ((404, {}, ""), {}, {}, f"the project has no page /: set {AT}:health:path to one that it has"),
    (
        (403, {}, ""),
        {},
        {},
        f"set {AT}:health:path to a page without a login, {AT}:health:headers to what it requires, or "
        f"{AT}:health:status: [200, 403]",
    ),
    ((400, {}, ""), {}, {"allowed_hosts": [".example.org"]}, HEALTH),
    (
        (400, {}, ""),
        {},
        {"allowed_hosts": ["localhost"]},
        f"ALLOWED_HOSTS is ['localhost'], without blog.example.org: add it, or correct {AT}:domains; the setting is "
        f"{AT}:settings:ALLOWED_HOSTS",
    ),
    (
        (400, {}, ""),
        {"overlay": False},
        {"allowed_hosts": ["localhost"]},
        f"ALLOWED_HOSTS is ['localhost'], without blog.example.org: add it, or correct {AT}:domains; the setting is "
        f"{AT}:environment",
    ),
    (redirect("https://blog.example.org/"), {}, {}, TO_HTTPS + OTHER_PAGE),
    (
        redirect("https://blog.example.org/"),
        {},
        {"https": {"redirect": True, "header": "HTTP_X_SCHEME"}},
        TO_HTTPS.replace("X-Forwarded-Proto", "X-Scheme")
        + f"switch SECURE_SSL_REDIRECT off ({AT}:settings:SECURE_SSL_REDIRECT), or {OTHER_PAGE}",
    ),
    (
        redirect("//www.example.net/"),
        {},
        {},
        f"add www.example.net to {AT}:domains if it is a name of this site, correct the setting that redirects there, "
        f"or {OTHER_PAGE}",
    ),
    (
        redirect("/"),
        {},
        {},
        f"the page redirects in a circle: correct the project, or set {AT}:health:path to another page",
    ),
    (
        redirect("https://blog.example.org/"),
        {"tls": {"kind": "self_signed", "listen": [443]}},
        {"https": {"redirect": True, "header": "HTTP_X_SCHEME"}},
        "SECURE_SSL_REDIRECT is on, and the project takes a request over https for one over http: set "
        f"{AT}:settings:SECURE_PROXY_SSL_HEADER to [HTTP_X_FORWARDED_PROTO, https], or {AT}:health:headers: "
        "{X-Scheme: https}",
    ),
    (
        redirect("http://blog.example.org/"),
        {"tls": {"kind": "self_signed", "listen": [443]}},
        {},
        f"correct the project, or {OTHER_PAGE}",
    ),
]


@pytest.mark.parametrize(("answer", "options", "facts", "cure"), CURES)
def test_hint_of_a_failed_health_check_names_the_key_that_corrects_it(instance, answer, options, facts, cure):
    site, release, server = instance(health={"timeout": "1s"}, **options)
    (release / "release.json").write_text(json.dumps({"facts": facts}))
    server.answers["/"] = answer
    with pytest.raises(DeploymentError) as error:
        release_health.check(site, release)
    assert error.value.hint == cure


def test_hint_of_a_refused_get_names_another_server_for_asgi(make_site):
    found = release_health.Finding("returned 405", "/", 405)
    site = make_site(folders=False, server={"kind": "daphne"})
    assert release_health.hint(site, site.root / "releases/1", found) == (
        f"the project answers no GET at /: set {AT}:health:path to a page, or, where its ASGI module serves websockets "
        f"only, {AT}:server: {{kind: uwsgi}}"
    )


def test_hint_of_a_login_page_below_a_path_that_the_site_does_not_have(instance):
    site, release, _server = instance()
    (release / "release.json").write_text(json.dumps({"facts": {"static_url": "/app/static/"}}))
    found = release_health.Finding("returned 404", "/app/login/?next=/", 404)
    assert release_health.hint(site, release, found) == (
        f"the project has no page /app/login/?next=/: set {AT}:path: /app, below which the project has its static "
        f"files too, or {AT}:health:path to one that it has"
    )
    assert ":path: /app" not in release_health.hint(site, release, found._replace(path="/login/"))


RAISED = Raised("ValueError: no ink (blog/views.py:6)", "blog/views.py:6 in home: write()")


@pytest.mark.parametrize(
    ("answer", "raised", "message"),
    [
        (redirect("https://blog.example.org/"), None, "redirected to https://blog.example.org/"),
        ((404, {}, ""), None, "returned 404 (expected 200)"),
        ((500, {}, ""), RAISED, "returned 500: ValueError: no ink (blog/views.py:6)"),
        (b"", RAISED, "returned 500: ValueError: no ink (blog/views.py:6)"),
    ],
)
def test_three_equal_answers_decide_where_the_answer_does_not_change(instance, answer, raised, message):
    site, release, server = instance(health={"timeout": "30s"})
    server.answers["/"] = answer
    asked, began = [], time.monotonic()
    with pytest.raises(DeploymentError) as error:
        release_health.check(site, release, lambda path: asked.append(path) or raised)
    assert error.value.message == f"health check failed: GET / on release 0001-3f2a9c1b77de {message}"
    assert error.value.log == (raised.log if raised else "the journal")
    assert len(server.requests) == 3 and time.monotonic() - began < 25
    assert asked == (["/"] if raised else [])


@pytest.mark.parametrize(
    ("answer", "raised"),
    [
        ((503, {}, ""), None),
        ((429, {}, ""), None),
        ((500, {}, ""), None),
        ((500, {}, ""), Raised("django.db.utils.OperationalError: connection refused (blog/views.py:6)", "")),
    ],
)
def test_an_answer_that_may_change_is_waited_for(instance, answer, raised):
    site, release, server = instance()
    server.answers["/"] = [answer] * 5 + [GOOD]
    release_health.check(site, release, lambda path: raised)
    assert len(server.requests) == 9


def test_page_that_needs_rows_of_the_database_is_none_for_a_health_check(instance):
    site, release, server = instance(health={"timeout": "30s"})
    server.answers["/"] = (500, {}, "")
    none = "AttributeError: 'NoneType' object has no attribute 'slug' (camps/views.py:21)"
    user = "User.DoesNotExist: User matching query does not exist."
    for kind, is_none in (
        (user, True),
        (none, True),
        (none.replace("views", "models"), False),
        ("KeyError: 'ink'", False),
    ):
        with pytest.raises(DeploymentError) as error:
            release_health.check(site, release, lambda path, kind=kind: Raised(kind, ""))
        assert isinstance(error.value, release_health.NoPage) == is_none


def test_exception_that_no_waiting_ends_decides_though_it_is_of_the_database(instance):
    site, release, server = instance(health={"timeout": "30s"})
    server.answers["/"] = (500, {}, "")
    raised = Raised("django.db.utils.OperationalError: no such table: blog_entry (blog/views.py:6)", "")
    with pytest.raises(DeploymentError, match="no such table: blog_entry"):
        release_health.check(site, release, lambda path: raised)
    assert len(server.requests) == 3


def test_known_cause_of_an_exception_has_its_cure_in_the_hint(instance):
    site, release, server = instance(health={"timeout": "30s"})
    server.answers["/"] = (500, {}, "")
    raised = Raised("ValueError: Missing staticfiles manifest entry for 'blog/site.css' (blog/views.py:6)", "")
    with pytest.raises(DeploymentError) as error:
        release_health.check(site, release, lambda path: raised)
    assert error.value.hint.startswith("blog/site.css is not among the collected static files: "), error.value.hint


def test_page_behind_a_redirect_is_the_one_that_is_explained(instance):
    site, release, server = instance(path="/shop")
    server.answers = {"/shop/": redirect("/shop/en/"), "/shop/en/": (500, {}, "")}
    asked = []
    with pytest.raises(DeploymentError, match=r"GET /shop/en/ on release \S+ returned 500: ValueError"):
        release_health.check(site, release, lambda path: asked.append(path) or RAISED)
    assert asked == ["/shop/en/"]


RAISES = """\
[pid: 7] an answer
Traceback (most recent call last):
  File "/srv/virtualenv/lib/python3.11/site-packages/django/core/handlers/exception.py", line 55, in inner
    response = get_response(request)
               ^^^^^^^^^^^^^^^^^^^^^
  File "{source}/blog/views.py", line 6, in home
    raise KeyError("ink")
KeyError: 'ink'
During handling of the above exception, another exception occurred:
Traceback (most recent call last):
  File "{source}/blog/errors.py", line 9, in handler500
    return render(request, "500.html")
  File "/srv/virtualenv/lib/python3.11/site-packages/django/template/loader.py", line 19, in get_template
    raise TemplateDoesNotExist(template_name, chain=chain)
django.template.exceptions.TemplateDoesNotExist: 500.html
[pid: 7] GET / => generated 0 bytes in 3 msecs (HTTP/1.1 500)
"""
LAST = "returned 500: django.template.exceptions.TemplateDoesNotExist: 500.html (blog/errors.py:9)"
FIRST = "returned 500: KeyError: 'ink' (blog/views.py:6)"


@pytest.mark.parametrize(
    ("answer", "lines", "problem"),
    [
        (b"", slice(None), LAST),
        ((500, {}, ""), slice(None), LAST),
        ((500, {}, ""), slice(8), FIRST),
        ((500, {}, ""), slice(3, 8), FIRST),
        ((500, {}, ""), slice(7), "returned 500 (expected 200)"),
        ((502, {}, ""), slice(None), "returned 502 (expected 200)"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "2026-11-20T15:02:32+0000 "])
def test_exception_of_the_health_page_is_in_the_error(instance, monkeypatch, answer, lines, problem, prefix):
    site, release, server = instance(health={"timeout": "300ms"})
    server.answers["/"] = answer
    log = RAISES.format(source=release / "source").splitlines(keepends=True)[lines]
    monkeypatch.setattr(
        instances.systemd.MANAGER,
        "journal",
        lambda *_: "".join(f"{prefix}{one}" for one in log),
    )
    with pytest.raises(DeploymentError) as error:
        release_health.check(site, release)
    assert error.value.message.split("3f2a9c1b77de ")[1] == problem


def test_a_long_text_of_what_is_raised_is_left_out(tmp_path):
    log = '  File "/usr/share/blog.py", line 3, in home\n    raise\nOSError: ' + "x" * 500
    raised = "OSError (/usr/share/blog.py:3)"
    assert release_health.raised_in(log, tmp_path) == Raised(raised, f"/usr/share/blog.py:3 in home: raise\n{raised}")


def test_last_frames_of_the_project_are_shown_of_a_traceback(tmp_path):
    frames = [
        f'  File "{tmp_path}/source/blog/a.py", line {number}, in f{number}\n    call()' for number in range(1, 6)
    ]
    ours = f'  File "{tmp_path}/config/django_formula_uwsgi.py", line 9, in load\n    call()'
    log = "\n".join(["Traceback (most recent call last):", ours, *frames, "OSError: no ink", "[pid: 7] GET /"])
    shown = [f"blog/a.py:{number} in f{number}: call()" for number in (3, 4, 5)]
    raised = "OSError: no ink (blog/a.py:5)"
    assert release_health.raised_in(log, tmp_path) == Raised(raised, "\n".join([*shown, raised]))
    outside = '  File "/usr/lib/python3/socket.py", line 2, in f\n    call()\nOSError: no ink'
    assert release_health.raised_in(outside, tmp_path) == Raised("OSError: no ink", outside)
    assert release_health.raised_in("OSError: no ink", tmp_path) is None


def test_a_log_that_is_still_being_written(instance, monkeypatch):
    site, release, server = instance(health={"timeout": "300ms"})
    server.answers["/"] = (500, {}, "")
    log = RAISES.format(source=release / "source").splitlines(keepends=True)
    parts = iter([log[:8], log[:12]])
    monkeypatch.setattr(systemd.MANAGER, "journal", lambda *_: "".join(next(parts, log)))
    with pytest.raises(DeploymentError) as error:
        release_health.check(site, release)
    assert error.value.message.split("3f2a9c1b77de ")[1] == LAST


def test_a_page_below_the_path_of_the_site(instance):
    site, release, server = instance(path="/shop", health={"path": "/healthz", "headers": {"X-Scheme": "https"}})
    server.answers["/shop/healthz"] = GOOD
    release_health.check(site, release)
    assert server.requests[0]["HTTP_X_SCHEME"] == "https"


@pytest.mark.parametrize(
    ("answers", "well"),
    [
        ([(502, {}, ""), b"", (500, {}, ""), GOOD], True),
        ([GOOD, GOOD, (500, {}, ""), GOOD, GOOD, (500, {}, "")], False),
    ],
)
def test_a_page_has_to_be_well_for_a_while(instance, monkeypatch, answers, well):
    monkeypatch.setattr(instances.time, "sleep", lambda seconds: None)
    site, release, server = instance(health={"timeout": "10s" if well else "300ms"})
    server.answers["/"] = answers
    if well:
        release_health.check(site, release)
        assert len(server.requests) == 7
    else:
        with pytest.raises(DeploymentError, match=r"returned 500|timed out after"):
            release_health.check(site, release)


def test_every_worker_is_asked_at_once(instance):
    site, release, server = instance()
    site.config["server"]["processes"] = 4
    together = threading.Barrier(4, timeout=60)
    answer = server.answer
    server.answer = lambda connection: (together.wait() if server.requests else None, answer(connection))
    server.answers["/"] = GOOD
    release_health.check(site, release)
    assert len(server.requests) == 13


def test_another_process_that_answers_is_not_ours(instance, monkeypatch):
    monkeypatch.setattr(instances, "pid", lambda site, release: None)
    site, release, server = instance()
    server.answers["/"] = GOOD
    with pytest.raises(
        DeploymentError, match="another process than the application server of 0001-3f2a9c1b77de answers on /"
    ):
        release_health.check(site, release)


@pytest.mark.parametrize(("times", "status"), [(1, 200), (3, 200)])
def test_healthy_but_slow_page_times_out(instance, monkeypatch, times, status):
    site, release, server = instance(health={"timeout": "400ms"})
    answer = server.answer
    server.answer = lambda connection: (time.sleep(0.35 / times), answer(connection))
    server.answers["/"] = (status, {}, "")
    with pytest.raises(DeploymentError) as error:
        release_health.check(site, release)
    assert error.value.message.split("3f2a9c1b77de ")[1] in (
        "timed out after 400ms: it is healthy, but too slow to be requested four times in a row",
        "timed out after 400ms",
    )


def test_page_that_does_not_end_has_the_cure_of_what_its_log_says(instance, monkeypatch):
    site, release, server = instance(health={"timeout": "300ms"})
    server.answers["/"] = None
    said = "Error 111 connecting to localhost:6379. Connection refused."
    monkeypatch.setattr(release_health, "settled_journal", lambda *_arguments: said)
    with pytest.raises(DeploymentError) as error:
        release_health.check(site, release)
    assert error.value.hint.startswith("the project does not reach Redis at localhost:6379: set ")


def test_page_that_does_not_end_is_asked_for_where_it_waits(instance):
    site, release, server = instance(health={"timeout": "300ms"})
    server.answers["/"] = None
    waits = Raised("no answer within 20 s (blog/views.py:6)", "blog/views.py:6 in home: get(url)")
    with pytest.raises(release_health.NoPage) as error:
        release_health.check(site, release, lambda path: waits if path == "/" else None)
    message = "timed out after 300ms: no answer within 20 s (blog/views.py:6)"
    assert error.value.message == f"health check failed: GET / on release 0001-3f2a9c1b77de {message}"
    assert error.value.log == waits.log
    assert error.value.hint.startswith("blog/views.py:6 waits, perhaps for a server that this host does not reach: ")


@pytest.mark.parametrize("protocol", ["http", "uwsgi"])
def test_a_page_of_a_byte_now_and_then_has_its_time_as_a_whole(instance, protocol):
    site, release, server = instance(protocol=protocol)

    def answer(connection):
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while True:
                connection.sendall(b"x")
                time.sleep(0.1)

    server.answer = answer
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        release_http.get(site, release, "/", timeout=0.5)
    assert time.monotonic() - began < 30
    assert release_health.problem_of(site, release, time.monotonic() + 0.3) == "timed out after 10s"


def test_a_socket_that_the_site_has_replaced_is_not_asked(instance, runtime):
    site, release, _server = instance()
    where = Path(instances.address(site, release))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(runtime / "other.sock"))
        other.listen()
        where.unlink()
        where.symlink_to(runtime / "other.sock")
        with pytest.raises(OSError, match="is not a socket of the site"):
            release_http.get(site, release, "/")


# Connections


def test_connections_of_a_unix_socket_are_counted(runtime):
    path = str(runtime / "0001.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as similar:
        listener.bind(path)
        listener.listen(5)
        similar.bind(str(runtime / "x0001.sock"))
        similar.listen()
        assert instances.connections(path) == 0
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            first.connect(path)
            assert instances.connections(path) == 1
            second.connect(path)
            accepted, _address = listener.accept()
            assert instances.connections(path) == 2
            second.close()
            accepted.close()
            assert instances.connections(path) == 1
    assert instances.connections(path) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_of_a_port_are_counted(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"left out: {host} is not on this machine")
    with listener:
        where = f"{host}:{listener.getsockname()[1]}"
        assert instances.connections(where) == 0
        with socket.create_connection(listener.getsockname()[:2]):
            assert instances.connections(where) == 1
            accepted, _address = listener.accept()
            assert instances.connections(where) == 1
        accepted.close()
        assert instances.connections(where) == 0


def test_connections_to_the_same_port_of_another_address_are_not_counted():
    with socket.create_server(("127.1.2.3", 0)) as one:
        port = one.getsockname()[1]
        with socket.create_server(("127.1.2.4", port)), socket.create_connection(("127.1.2.4", port)):
            assert instances.connections(f"127.1.2.3:{port}") == 0
            assert instances.connections(f"127.1.2.4:{port}") == 1
            assert instances.connections(f"0.0.0.0:{port}") == 1


def test_a_connection_that_the_kernel_tells_twice_is_one(monkeypatch):
    rows = ["0100007F:1F41 0100007F:C350 01"] * 2 + ["0100007F:1F41 0100007F:C351 01", "0100007F:1F42 0100007F:C350 01"]
    table = [f"{number}: {row}".encode() for number, row in enumerate(rows)]
    monkeypatch.setattr(proc, "network_table", lambda name: table if name == "tcp" else [])
    assert instances.connections("127.0.0.1:8001") == 2


def test_an_instance_is_drained(instance):
    site, release, server = instance(releases={"drain": "60s"})
    server.answers["/"] = None
    assert instances.drain(site, release) == 0
    where = instances.address(site, release)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(where)
    began = time.monotonic()
    threading.Timer(0.3, connection.close).start()
    assert instances.drain(site, release) == 0
    assert 0.3 < time.monotonic() - began < 50


@pytest.mark.parametrize("ends", [True, False])
def test_a_connection_is_cut_with_its_server(instance, monkeypatch, ends):
    """It is killed while it is being stopped, for with supervisor that waits for its end; one that ends is left."""
    site, release, _server = instance()
    process = subprocess.Popen(["sleep", "60"])
    monkeypatch.setattr(proc, "PROC", Path("/proc"))
    monkeypatch.setattr(instances, "pid", lambda site, release: process.pid)
    monkeypatch.setattr(instances, "stop", lambda *_, wait: (process.terminate(), process.wait()) if ends else 0)
    instances.cut(site, release)
    assert process.wait(10) == -(signal.SIGTERM if ends else signal.SIGKILL)


def test_a_drain_comes_to_an_end(instance):
    site, release, _server = instance(releases={"drain": "100ms"})
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(instances.address(site, release))
        assert instances.drain(site, release) == 1


# Addresses, units and processes


def test_a_server_that_binds_its_socket_by_itself_has_a_folder_for_it(make_site, own_host, monkeypatch):
    monkeypatch.setattr(sites, "RUNTIME", Path("/run/django"))
    for options in ({"process": "supervisor"}, {"server": {"kind": "granian"}}):
        site = make_site(folders=False, **options)
        release = site.releases / "0042-3f2a9c1b77de"
        assert instances.address(site, release) == f"{site.root}/runtime/0042.sockets/server.sock"


@pytest.mark.parametrize(
    ("bind", "name", "expected"),
    [
        ("unix", "0042-3f2a9c1b77de", "/run/django/blog/0042.sock"),
        ("127.0.0.1:8001", "0042-3f2a9c1b77de", "127.0.0.1:8001"),
        ("127.0.0.1:8001", "0043-3f2a9c1b77de", "127.0.0.1:8002"),
        ("[::1]:8001", "10001-3f2a9c1b77de", "[::1]:8002"),
    ],
)
def test_where_a_release_listens(make_site, own_host, monkeypatch, bind, name, expected):
    monkeypatch.setattr(sites, "RUNTIME", Path("/run/django"))
    site = make_site(folders=False, server={"bind": bind})
    release = site.releases / name
    assert instances.address(site, release) == expected
    assert contract.unit(site, release) == f"django-blog-{name.split('-')[0]}"


@pytest.mark.parametrize(
    ("live", "expected"),
    [
        ("127.0.0.1:8001", "127.0.0.1:8002"),
        ("127.0.0.1:8002", "127.0.0.1:8001"),
        ("127.0.0.1:9000", "127.0.0.1:8001"),
        ("/run/django/blog/0041.sock", "127.0.0.1:8001"),
    ],
)
def test_a_release_does_not_take_the_port_of_the_live_one(make_site, live, expected):
    site = make_site(server={"bind": "127.0.0.1:8001"})
    (site.current / "config").mkdir(parents=True)
    (site.current / "config/instance.json").write_text(json.dumps({"address": live, "protocol": "http"}))
    assert instances.address(site, site.releases / "0042-3f2a9c1b77de") == expected


def test_a_release_keeps_its_address(make_site):
    site = make_site(server={"bind": "127.0.0.1:8001"})
    release = site.releases / "0042-3f2a9c1b77de"
    (release / "config").mkdir(parents=True)
    (release / "config/instance.json").write_text('{"address": "127.0.0.1:9000", "protocol": "http"}')
    assert instances.address(site, release) == "127.0.0.1:9000"
    assert instances.kind(release) == ("tcp", "http")
    assert instances.kind(site.releases / "0041-3f2a9c1b77de") == ("unix", "uwsgi")


@pytest.mark.parametrize(
    ("said", "cores", "gigabytes", "limits", "expected"),
    [
        ("auto", 8, 16, {}, 8),
        ("auto", 1, 16, {}, 2),
        ("auto", None, 16, {}, 2),
        (1, 8, 16, {}, 1),
        ("auto", 8, 1, {}, 4),
        ("auto", 8, 0.25, {}, 2),
        (8, 8, 0.25, {}, 8),
        ("auto", 8, 16, {"MemoryMax": "512M"}, 4),
        ("auto", 8, 16, {"MemoryMax": "2G", "MemoryHigh": 384 << 20}, 3),
        ("auto", 8, 16, {"MemoryMax": "5%"}, 6),
        ("auto", 8, 16, {"MemoryMax": "infinity"}, 8),
    ],
)
def test_how_many_processes(make_site, monkeypatch, said, cores, gigabytes, limits, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(proc, "total_memory", lambda: int(gigabytes * 2**30))
    assert instances.processes(make_site(server={"processes": said}, resources=limits)) == expected


@pytest.mark.parametrize(("first", "binary"), [(b"#!/x/python", "python"), (b"\x7fELF", "uwsgi")])
def test_what_uwsgi_executes_anew(make_site, first, binary):
    site = make_site()
    release = site.releases / "0042-3f2a9c1b77de"
    (release / "virtualenv/bin").mkdir(parents=True)
    (release / "virtualenv/bin/uwsgi").write_bytes(first)
    ini = instances.configuration(site, release, FACTS, formula_templates())["uwsgi.ini"]
    assert f"binary-path = {release}/virtualenv/bin/{binary}\n" in ini


def test_port_of_another_process_is_refused(make_site, monkeypatch):
    monkeypatch.setattr(commands, "run", lambda argv, **_options: "")
    with socket.create_server(("127.0.0.1", 0)) as foreign:
        port = foreign.getsockname()[1]
        site = make_site(server={"bind": f"127.0.0.1:{port}"})
        with pytest.raises(DeploymentError) as error:
            instances.start(site, site.releases / "0042-3f2a9c1b77de")
    assert error.value.message == f"another process listens on 127.0.0.1:{port}"
    assert error.value.hint == f"ss -ltnp 'sport = :{port}' names it; stop it, or set django:sites:blog:server:bind"


def test_worker_with_less_than_a_second_is_ended_too(make_site):
    """For systemd 0 is no limit."""
    site = make_site(workers={"mail": {"kind": "rq", "patience": "500ms"}})
    release = site.releases / "0042-3f2a9c1b77de"
    (release / "virtualenv/bin").mkdir(parents=True)
    files = instances.configuration(site, release, FACTS, formula_templates())
    assert "\nTimeoutStopSec=1\n" in files["django-blog-0042-mail.service"]
