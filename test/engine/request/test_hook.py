"""The webhook: what each git server sends, forged and malformed requests, and what it asks of the unit of requests."""

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

import pytest
import yaml
from django_formula.request import hook

SECRET, FORMER, COMMIT = (
    "0123456789abcdef-secret",
    "former-0123456789abcdef",
    "3f2a9c1b77dec1a4d6f2a7b1f0e9d8c7b6a59483",
)
CASES = yaml.safe_load((Path(__file__).parent / "deliveries.yaml").read_text(encoding="utf-8"))


class Door:
    """A stand-in for the unit of requests: it answers each line with the same one."""

    def __init__(self, folder, answer='{"accepted": "18ab"}'):
        self.asked = []
        self._answer = answer.encode()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{folder}/blog.sock")
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self.asked.append(json.loads(connection.makefile().readline()))
                    connection.sendall(self._answer)


@pytest.fixture
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("d")


@pytest.fixture
def door(folder):
    return Door(folder)


def of_blog(folder, until=0):
    config = {"site": "blog", "ref": "refs/heads/main", "secret": SECRET, "former": FORMER, "until": until}
    return hook.Hook(config, str(folder))


@contextlib.contextmanager
def served(of_site, number=1, idle=0.05):
    """Connections to a webhook that is served until they are closed."""
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind("")  # the kernel gives it a name
        listener.listen()
        clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _client in range(number)]
        for client in clients:
            client.connect(listener.getsockname())
        thread = threading.Thread(target=hook.serve, args=(of_site, listener, idle))
        thread.start()
        yield clients
        stack.close()
        thread.join(timeout=30)
        assert not thread.is_alive()


def answer(client):
    """The status and the text of the answer on a connection."""
    read = b""
    with contextlib.suppress(ConnectionResetError):  # it does not read the rest of what it refuses
        while part := client.recv(4096):
            read += part
    head, _blank, text = read.decode().partition("\r\n\r\n")
    return hook.Answer(int(head.split(" ")[1]), text.rstrip("\n"))


def sent(of_site, data, *, closes=True):
    """The status and the text of the answer to these bytes."""
    with served(of_site) as (client,):

        def send():
            with contextlib.suppress(OSError):
                client.sendall(data)
                if closes:
                    client.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=send)
        thread.start()
        found = answer(client)
        thread.join()
    return found


def request(headers, body, first="POST /.well-known/django-hook HTTP/1.1"):
    lines = [first, *(f"{name}: {value}" for name, value in headers.items()), f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def body_of(case):
    if "brackets" in case:
        return b"[" * case["brackets"]
    if "text" in case:
        return case["text"].encode("latin-1")
    text = json.dumps(case["body"]).replace('"C"', f'"{COMMIT}"')
    return urlencode({"payload": text}).encode() if case.get("form") else text.encode()


@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_delivery(case, folder, door):
    body = body_of(case)
    secret = FORMER if case.get("former") else "x" * 20 if case.get("wrong") else SECRET
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    signed = {name: value.replace("SECRE", SECRET[:-1]).format(digest) for name, value in case["sign"].items()}
    signed = {name: SECRET if case["sign"][name] == "SECRET" else value for name, value in signed.items()}
    data = request({**case["headers"], **signed, "X-Forwarded-For": "192.0.2.1"}, body + b" " * case.get("changed", 0))
    until = time.time() + (-1 if case.get("expired") else 60) if case.get("former") else 0
    answer = sent(of_blog(folder, until), data)
    assert answer.status == case.get("status", 202), answer
    asked = {"do": "request", "commit": COMMIT, "by": case.get("by"), "from": "192.0.2.1", "follow": False}
    assert door.asked == ([asked] if "by" in case else [])
    assert (answer.text == "queued 3f2a9c1b77de as 18ab") is ("by" in case)
    assert SECRET not in answer.text and FORMER not in answer.text


def signed(body):
    digest = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return {"X-GitHub-Event": "push", "X-Hub-Signature-256": f"sha256={digest}"}


PUSH = json.dumps({"ref": "refs/heads/main", "after": COMMIT}).encode()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (request({}, b"", first="GET / HTTP/1.1"), 405),
        (b"POST / HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 0x10\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (hook.SIZE + 1), 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nshort", 400),
        (b"POST / HTTP/1.1\r\n" + b"X: y\r\n" * 20000, 400),
        (b"", 400),
        (request({"X-GitHub-Event": "push"}, b"x" * hook.SIZE), 403),
    ],
)
def test_malformed_request(folder, door, data, status):
    assert sent(of_blog(folder), data).status == status and door.asked == []


def test_slow_request_ends(folder, door, monkeypatch):
    monkeypatch.setattr(hook, "PATIENCE", 0.2)
    assert sent(of_blog(folder), request(signed(PUSH), PUSH)[:-1], closes=False).status == 408


@pytest.mark.parametrize(
    ("given", "shown"), [("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1"), ("a b", ""), ("", "")]
)
def test_only_an_address_is_passed_on(folder, door, given, shown):
    assert sent(of_blog(folder), request({**signed(PUSH), "X-Forwarded-For": given}, PUSH)).status == 202
    assert door.asked[0]["from"] == shown


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "{",
        "[" * 5000,
        '["accepted"]',
        '{"accepted": 1}',
        '{"accepted": "18 ab"}',
        '{"status": "refused", "why": "no"}',
    ],
)
def test_request_that_is_not_accepted(folder, answer, capsys):
    Door(folder, answer)
    found = sent(of_blog(folder), request(signed(PUSH), PUSH))
    assert found.status == 503 and "see the journal" in found.text
    assert capsys.readouterr().out.startswith(f"{folder}/blog.sock: ")


def test_request_without_a_unit_of_requests(folder, capsys):
    assert sent(of_blog(folder), request(signed(PUSH), PUSH)).status == 503
    assert "FileNotFoundError" in capsys.readouterr().out


def test_program_answers_and_exits_when_idle(folder, door, capsys):
    with served(of_blog(folder), 2, idle=0.5) as clients:
        for client, body, status in zip(clients, (PUSH, b"{}"), (202, 400), strict=True):
            client.sendall(request(signed(body), body))
            assert answer(client).status == status
    assert capsys.readouterr().out == (
        "202 queued 3f2a9c1b77de as 18ab\n400 this is no delivery of a git server that is known\n"
    )


def test_delivery_in_flight_is_answered_before_the_program_ends(folder, door):
    """As where an apply starts the unit anew; the next connection waits in the socket of systemd's."""
    data = request(signed(PUSH), PUSH)
    config = {"site": "blog", "ref": "refs/heads/main", "secret": SECRET, "former": "", "until": 0}
    program = "import os, sys; from django_formula.request import hook; os.dup2(int(sys.argv[1]), 3)\n"
    program += "hook.Hook.__init__.__defaults__ = (sys.argv[2],); hook.main()"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen()
        argv = [sys.executable, "-c", program, str(listener.fileno()), str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(Path(hook.__file__).parents[2])}
        options = {"stdin": subprocess.PIPE, "pass_fds": [listener.fileno()], "env": environment}
        with subprocess.Popen(argv, **options) as process, socket.socket(socket.AF_UNIX) as client:
            process.stdin.write(json.dumps(config).encode())
            process.stdin.close()
            client.connect(listener.getsockname())
            client.sendall(data[:-10])
            is_accepted(client)
            process.terminate()
            time.sleep(0.5)
            with socket.socket(socket.AF_UNIX) as following:
                following.connect(listener.getsockname())
                client.sendall(data[-10:])
                assert answer(client) == hook.Answer(202, "queued 3f2a9c1b77de as 18ab")
                assert process.wait(30) == 0
                assert listener.accept()


def is_accepted(client):
    """Wait until the program has read what was sent."""
    deadline = time.monotonic() + 60
    while struct.unpack("i", fcntl.ioctl(client, termios.TIOCOUTQ, b"\0" * 4))[0]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_slow_sender_delays_no_other(folder, door):
    """Apache passes on what it has of a body of more than 16 KiB."""
    body = PUSH + b" " * 20000
    data = request(signed(body), body)
    with served(of_blog(folder), 3) as (slow, silent, other):
        slow.sendall(data[:18000])
        other.settimeout(hook.PATIENCE / 2)
        other.sendall(data)
        assert answer(other).status == 202
        slow.sendall(data[18000:])
        assert answer(slow).status == 202
        silent.shutdown(socket.SHUT_WR)
        assert answer(silent).status == 400


@pytest.mark.parametrize(("limit", "value"), [("_MOST", 2), ("_KEPT", 40000)])
def test_of_too_many_slow_senders_the_oldest_ends(folder, door, monkeypatch, limit, value):
    monkeypatch.setattr(hook, limit, value)
    data = request(signed(PUSH), PUSH + b" " * 30000)[:-1]
    with served(of_blog(folder), 3) as clients:
        for client in clients:
            with contextlib.suppress(BrokenPipeError):  # of the oldest, which may have ended already
                client.sendall(data[:18000])
            client.settimeout(hook.PATIENCE / 2)
        assert answer(clients[0]).status == 408
        other = clients[2]
        other.sendall(data[18000:] + b" ")
        assert answer(other).status == 403, "its signature is of another body"
