"""Answers of less trusted processes, limited in time and size."""

import contextlib
import http.client
import socket
import threading
import time

import pytest
from django_formula.untrusted.response import Bounded, TooLongError

pytestmark = pytest.mark.slow  # answers that are waited for

OK = b"HTTP/1.1 200 OK\r\n"
#: A beginning, what is sent repeatedly after it, and the pause before each.
ENDLESS = {
    "a byte now and then": (OK + b"\r\n", b"x", 0.05),
    "no headers yet": (OK, b"", 0.05),
    "a header now and then": (OK, b"X: y\r\n", 0.05),
    "endless headers": (OK, b"X: " + b"y" * 1000 + b"\r\n", 0),
    "one endless line": (OK + b"X: ", b"y" * 65536, 0),
    "endless provisional answers": (b"", b"HTTP/1.1 100 Continue\r\nX: y\r\n\r\n", 0),
    "a provisional answer now and then": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.05),
    "chunks now and then": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.05),
    "endless chunks of nothing": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"y" * 60000 + b"\r\nx\r\n", 0),
    "silence": (b"", b"", 0.05),
}


@pytest.fixture
def answered():
    """A connection whose other end sends what `answered` is called with."""
    stopped = threading.Event()
    ours, theirs = socket.socketpair()

    def send(begin, again, pause):
        with contextlib.suppress(OSError):
            theirs.sendall(begin)
            while not stopped.wait(pause):
                theirs.sendall(again)

    def answered(begin, again=b"", pause=0.01, seconds=30.0, **options):
        threading.Thread(target=send, args=(begin, again, pause), daemon=True).start()
        return Bounded(ours, time.monotonic() + seconds, **options)

    yield answered
    stopped.set()
    ours.close()
    theirs.close()


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_answer_is_refused(answered, name):
    began = time.monotonic()
    with pytest.raises((TimeoutError, http.client.HTTPException, ValueError)):
        response = http.client.HTTPResponse(answered(*ENDLESS[name], seconds=0.5, limit=1 << 16))
        response.begin()
        response.read(1 << 20)
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("again", "pause", "seconds", "error"), [(b"x" * 65536, 0, 30, TooLongError), (b"x", 0.05, 0.5, TimeoutError)]
)
def test_answer_is_read_within_limits(answered, again, pause, seconds, error):
    with pytest.raises(error):
        answered(b"", again, pause, seconds).read()


def test_complete_answer_is_read(answered):
    response = http.client.HTTPResponse(answered(OK + b"Content-Length: 2\r\n\r\nab"))
    response.begin()
    assert (response.status, response.read()) == (200, b"ab")


def test_request_that_is_not_received_times_out():
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(TimeoutError):
        Bounded(ours, time.monotonic() + 0.2).sendall(b"x" * (8 << 20))
