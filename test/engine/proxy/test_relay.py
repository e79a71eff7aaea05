"""The relay of a site, with real sockets: a server that comes and goes, and nginx as plain connections."""

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django_formula.proxy import relay
from django_formula.proxy.relay import Relay

BODY = os.urandom(300_000)


class Place:
    """A relay that runs in a thread until it is stopped, and a server that answers with its body."""

    def __init__(self, folder: Path, seconds: float, most: int, idle: float):
        self.own, self.server, self.record = folder / "blog.sock", folder / "server.sock", folder / "blog.json"
        listening = relay.bound(self.own, os.getgid())
        self.relay = Relay(
            listening,
            lambda: str(self.server),
            lambda: relay.is_held(self.record),
            seconds,
            lambda: most,
            idle,
            lambda: relay.response("503 Service Unavailable", b"late"),
        )
        self.runs = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self.thread.start()
        self.order: list[bytes] = []

    async def _run(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.call_soon(self.runs.set)
        await self.relay.run()

    def stop(self) -> None:
        """Stop the relay, as SIGTERM does; on return it accepts nothing any more."""
        assert self.runs.wait(30)
        stopped = threading.Event()
        with contextlib.suppress(RuntimeError):  # its loop has ended
            self.loop.call_soon_threadsafe(lambda: (self.relay.stop(), stopped.set()))
            while self.thread.is_alive() and not stopped.wait(0.05):
                pass

    def serve(self, count: int) -> threading.Thread:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self.server))
        listening.listen(1)  # a queue that is full at once

        def answer() -> None:
            with listening:
                for _number in range(count):
                    connection, _address = listening.accept()
                    with connection, contextlib.suppress(OSError):
                        head = connection.recv(4)
                        self.order.append(head)
                        length = len(BODY) if head.startswith(b"B") else 0
                        body = b""
                        while len(body) < length:
                            body += connection.recv(65536)
                        connection.sendall(b"whole " + head if body == BODY[:length] else b"broken")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        return thread

    def ask(self, head: bytes, body: bytes = b"") -> Callable[[], bytes]:
        """Send a request; return what waits for its answer."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.own))
        connection.sendall(head)
        found: list[bytes] = []

        def receive() -> None:
            with connection, contextlib.suppress(OSError):
                connection.sendall(body)
                while block := connection.recv(65536):
                    found.append(block)

        thread = threading.Thread(target=receive)
        thread.start()

        def answer() -> bytes:
            thread.join()
            return b"".join(found)

        return answer


@pytest.fixture
def place(tmp_path, monkeypatch) -> Iterator[Callable[..., Place]]:
    monkeypatch.setattr(relay.os, "chown", lambda *_arguments: None)
    made: list[Place] = []

    def make(seconds: float = 20, most: int = 100, idle: float = 300) -> Place:
        made.append(Place(tmp_path, seconds, most, idle))
        return made[-1]

    yield make
    for one in made:
        one.stop()
        one.thread.join(30)
        assert not one.thread.is_alive()


def comes_true(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_relay_without_a_connection_for_a_while_ends(place):
    here = place(idle=0.2)
    here.thread.join(30)
    assert not here.thread.is_alive()


def test_requests_wait_for_their_server_in_their_order_and_bodies_are_whole(place):
    here = place()
    heads = [f"{'B' if number % 3 == 0 else 'G'}{number:03}".encode() for number in range(30)]
    answers = []
    for head in heads:
        answers.append(here.ask(head, BODY if head.startswith(b"B") else b""))
    time.sleep(0.3)
    here.serve(30).join()
    assert [answer() for answer in answers] == [b"whole " + head for head in heads] and here.order == heads


def test_a_record_keeps_everything_back_until_it_ends(place):
    here, until = place(), time.monotonic() + 1
    here.record.write_text(json.dumps({"until": until}))
    server = here.serve(1)
    assert here.ask(b"G001")() == b"whole G001" and until < time.monotonic() < until + 19
    server.join()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"until": "x"}', '{"until": null}', "{}"])
def test_a_damaged_record_keeps_nothing_back(tmp_path, text):
    (tmp_path / "blog.json").write_text(text)
    assert not relay.is_held(tmp_path / "blog.json")


def test_the_oldest_is_answered_where_too_many_wait(place):
    here = place(most=2)
    answers = []
    for number in range(4):
        answers.append(here.ask(f"B00{number}".encode(), BODY))
        time.sleep(0.1)
    late = [answer() for answer in answers[:2]]
    assert all(one.startswith(b"HTTP/1.1 503 ") and one.endswith(b"late") for one in late)
    here.serve(2).join()
    assert [answer() for answer in answers[2:]] == [b"whole B002", b"whole B003"]


def test_what_has_waited_for_too_long_is_answered(place):
    here = place(seconds=0.5)
    began = time.monotonic()
    assert here.ask(b"G001")().startswith(b"HTTP/1.1 503 ") and 0.5 < time.monotonic() - began < 30


@pytest.mark.parametrize("comes", [True, False], ids=["in time", "too late"])
def test_what_waits_is_answered_before_a_relay_that_is_stopped_ends(place, monkeypatch, comes):
    """As where an apply starts its unit anew: what comes then waits in the socket, for the next one."""
    monkeypatch.setattr(relay, "_ENDS", 20.0 if comes else 0.5)
    here = place()
    waits = here.ask(b"G001")
    comes_true(lambda: here.relay._waiting)
    here.stop()
    following = socket.socket(socket.AF_UNIX)
    following.connect(str(here.own))
    if comes:
        here.serve(1)
    found = waits()
    assert found == b"whole G001" if comes else found.startswith(b"HTTP/1.1 503 ")
    here.thread.join(15)
    assert not here.thread.is_alive()
    with following:
        following.settimeout(0.1)
        with contextlib.suppress(ConnectionResetError), pytest.raises(TimeoutError):
            following.recv(1)


@pytest.mark.parametrize(
    "head", [b"GET / HTTP/1.1\r\nx-django-check: blog\r\n\r\n", b"\0\x1b\0\0\x13\0HTTP_X_DJANGO_CHECK\4\0blog"]
)
def test_the_check_of_a_balancer_is_answered_while_visitors_wait(place, head):
    here = place(seconds=1)
    assert here.ask(head)().startswith(b"HTTP/1.1 200 OK")
    visitor = here.ask(b"G001")
    assert visitor().startswith(b"HTTP/1.1 503 ")
    assert here.ask(head)().startswith(b"HTTP/1.1 503 "), "for longer than a request waits the host is down"


def test_the_check_of_a_balancer_is_answered_in_each_hold_for_as_long_as_visitors_may_wait(place):
    here = place(seconds=1)
    check, end = b"GET / HTTP/1.1\r\nx-django-check: blog\r\n\r\n", time.monotonic() + 0.5
    here.record.write_text(json.dumps({"until": end}))
    assert here.ask(check)().startswith(b"HTTP/1.1 200 OK")
    server = here.serve(2)  # of which the first connection is the look of the relay
    time.sleep(1)
    comes_true(lambda: not here.relay._down_since)
    here.record.write_text(json.dumps({"until": time.monotonic() + 0.5}))
    assert here.ask(check)().startswith(b"HTTP/1.1 200 OK")
    assert here.ask(b"G001")() == b"whole G001"
    server.join()


@pytest.mark.parametrize(
    "request_", [b"POST / HTTP/1.1\r\n\r\nX-Django-Check: 1", b"\0\x05\0\0\1\0A\0\0HTTP_X_DJANGO_CHECK\4\0blog"]
)
def test_a_body_that_names_the_header_is_no_check(place, request_):
    here = place(seconds=0.5)
    assert here.ask(request_)().startswith(b"HTTP/1.1 503 ")


def test_a_visitor_who_has_gone_is_not_passed_on(place):
    here = place()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(here.own))
    connection.sendall(b"G000")
    comes_true(lambda: here.relay._waiting)
    connection.close()
    answer = here.ask(b"G001")
    here.serve(1).join()
    assert answer() == b"whole G001" and here.order == [b"G001"]


def test_the_link_of_a_closed_release_is_not_followed_into_the_relay(tmp_path):
    own = str(tmp_path / "blog.sock")
    (tmp_path / "socket").symlink_to("/run/django/blog/0042.sock")
    assert relay.target(tmp_path, own) == f"{tmp_path}/socket"
    (tmp_path / "socket").unlink()
    (tmp_path / "socket").symlink_to(own)
    assert relay.target(tmp_path, own) == f"{tmp_path}/held"
    assert relay.target(tmp_path / "missing", own) == f"{tmp_path}/missing/socket"


@pytest.mark.parametrize(
    ("text", "sites", "expected"),
    [
        ("worker_processes 2;\nevents {\n  worker_connections 768;\n}", 1, 192),
        ("worker_processes 2;\nevents {\n  worker_connections 768;\n}", 3, 64),
        ("# worker_processes 8;\nevents { worker_connections 512; }", 1, 64),
        ("worker_processes 1;\nevents { worker_connections 9999; }", 1, 128),
        ("worker_processes 1;\nworker_rlimit_nofile 8192;\nevents { worker_connections 9999; }", 1, 1024),
        ("worker_processes auto;\nevents { worker_connections 800; }", 1, 100 * (os.cpu_count() or 1)),
        ("worker_processes ²;\nevents { worker_connections 800; }", 1, 100 * (os.cpu_count() or 1)),
        ("", 100, 1),
    ],
)
def test_a_quarter_of_the_connections_of_nginx_may_wait(tmp_path, text, sites, expected):
    (tmp_path / "nginx.conf").write_text(text)
    for number in range(sites):
        (tmp_path / f"{number}.sock").touch()
    assert relay.most(tmp_path, tmp_path / "nginx.conf") == expected
