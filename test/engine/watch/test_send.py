"""The sender of a channel: what it keeps and when it tries again, whatever answers at the other end."""

import errno
import http.server
import json
import multiprocessing
import os
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from django_formula.host import file
from django_formula.untrusted import network
from django_formula.watch import decide, look, send, spool, watch
from django_formula.watch.problem import Problem
from specimen import UNPRIVILEGED

SECRET = "wh-53cr3t"
DAY = 86400


class Asked(NamedTuple):
    """A request that the receiver has got."""

    method: str
    path: str
    token: str
    body: str


class Receiver(http.server.ThreadingHTTPServer):
    """Answers with the next of its answers, a status and its headers, and with 200 after them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.asked: list[Asked] = []
        self.delay = 0.0
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook/{SECRET}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.server.asked.append(Asked(self.command, self.path, self.headers.get("Authorization", ""), body))
        time.sleep(self.server.delay)
        status, headers = self.server.answers.pop(0) if self.server.answers else (200, {})
        self.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        yield server
        server.shutdown()


@pytest.fixture
def chat(receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Receiver:
    """The receiver of the channel `chat`."""
    monkeypatch.setattr(spool, "STATE", tmp_path)
    monkeypatch.setattr(spool, "CHANNELS", tmp_path / "channels")
    monkeypatch.setattr(spool, "SENDER", UNPRIVILEGED)
    configure(receiver.url)
    return receiver


def configure(url: str, name: str = "chat") -> None:
    spool.CHANNELS.mkdir(exist_ok=True)
    (spool.CHANNELS / f"{name}.json").write_text(json.dumps({"format": "json", "url": url, "token": SECRET}))


def put(*texts: str, age: float = 0) -> None:
    for text in texts:
        message = {"what": "problem", "kind": "down", "site": "blog", "text": text, "command": "", "since": 0}
        spool.put("chat", {"host": "web1", "time": time.time() - age, "messages": [message]})


def texts(receiver: Receiver) -> list[str]:
    return [json.loads(one.body)["messages"][0]["text"] for one in receiver.asked]


def pause() -> float:
    """Seconds until the next try."""
    return float(spool.retry("chat")["at"] - time.time())


def due() -> None:
    spool.keep_retry("chat", **{**spool.retry("chat"), "at": 0})


def test_batches_are_sent_in_their_order_and_are_gone(chat):
    put("one", "two", "three")
    assert send.main("chat") == 0
    assert texts(chat) == ["one", "two", "three"] and spool.batches("chat") == []
    assert {one.token for one in chat.asked} == {f"Bearer {SECRET}"}


def test_sender_that_fails_does_not_go_on_as_the_look_that_has_forked_it(chat, monkeypatch):
    """It would release the lock of the look, and keep and tell once more what that has found."""

    def leave(code):
        raise SystemExit(code)

    def fails(_name):
        raise OSError("the disk fails")

    put("one")
    monkeypatch.setattr(watch.daemons, "has_systemd", lambda: False)
    for name, played in (("fork", lambda: 0), ("setsid", lambda: None), ("_exit", leave)):
        monkeypatch.setattr(os, name, played)
    monkeypatch.setattr(send, "main", fails)
    with pytest.raises(SystemExit) as left:
        watch._start({"channels": {"chat": {}}, "heartbeat": False})
    assert left.value.code == 1


def test_batch_that_a_look_deletes_meanwhile_is_skipped(chat, monkeypatch):
    """A look keeps the newest ones only, while the sender waits for an answer."""
    put("one", "two", "three")
    gone, read = spool.batches("chat")[1], file.read_json
    monkeypatch.setattr(file, "read_json", lambda path, *shape: read(path, *shape) if path != gone else delete(path))

    def delete(path):
        path.unlink()

    assert send.main("chat") == 0
    assert texts(chat) == ["one", "three"] and spool.batches("chat") == []


@pytest.mark.parametrize("name", ["chat", spool.HEARTBEAT])
def test_sender_makes_nothing_again_of_a_watch_that_was_removed_meanwhile(chat, monkeypatch, name):
    """Without systemd the removal does not end it."""

    def asked(*_arguments):
        file.remove_tree(spool.STATE)
        return network.Answer(None, "refused", 0.0)

    configure(chat.url, name)
    put("one")
    monkeypatch.setattr(send.network, "ask", asked)
    assert send.main(name) == 0
    assert not spool.STATE.exists()


@pytest.mark.parametrize("token", [{}, {"token": SECRET}])
def test_login_of_a_url_is_sent_by_its_header(chat, token):
    url = chat.url.replace("://", "://ada:p%40ss-w0rd@")
    (spool.CHANNELS / "chat.json").write_text(json.dumps({"format": "json", "url": url, **token}))
    put("one")
    send.main("chat")
    basic = b64encode(b"ada:p@ss-w0rd").decode()
    assert [one.token for one in chat.asked] == [f"Bearer {SECRET}" if token else f"Basic {basic}"]
    assert spool.batches("chat") == []


@pytest.mark.parametrize("place", ["127.0.0.1", "127.0.0.1:8o80", "[::1"])
@pytest.mark.parametrize("name", ["chat", spool.HEARTBEAT])
def test_password_of_a_url_is_in_no_error(chat, capsys, place, name):
    configure(f"https://ada:p%40ss-w0rd@{place}/topic", name)
    put("one")
    assert send.main(name) == 0
    texts = spool.retry(name)["error"] + "".join(capsys.readouterr())
    assert texts and "ss-w0rd" not in texts


def test_senders_that_are_started_at_once_send_each_message_once(chat, monkeypatch):
    """Without systemd each look starts one, and `django.notify test` does."""
    put("one", "two")
    monkeypatch.setattr(chat, "delay", 0.3)
    senders = [multiprocessing.get_context("fork").Process(target=send.main, args=("chat",)) for _number in range(3)]
    for one in senders:
        one.start()
    for one in senders:
        one.join()
    assert [one.exitcode for one in senders] == [0, 0, 0]
    assert texts(chat) == ["one", "two"] and spool.batches("chat") == []


def test_messages_are_sent_from_a_full_disk(chat, monkeypatch):
    put("the disk is full")

    def fails(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", fails)
    assert send.main("chat") == 0 and texts(chat) == ["the disk is full"]


def test_one_that_is_refused_keeps_its_place_and_is_tried_at_longer_and_longer_intervals(chat):
    put("one", "two")
    chat.answers = [(500, {})] * 9
    for expected in (60, 120, 240, 480, 960, 1920, 3600, 3600, 3600):
        assert send.main("chat") == 0
        assert 0.79 * expected < pause() < 1.21 * expected, expected
        assert send.main("chat") == 0, "before that time nothing is sent"
        due()
    assert texts(chat) == ["one"] * 9 and spool.retry("chat")["tries"] == 9
    assert send.main("chat") == 0
    assert texts(chat)[9:] == ["one", "two"] and spool.retry("chat")["tries"] == 0


def test_channel_that_failed_while_the_clock_was_ahead_is_tried_once_it_is_set_back(chat, monkeypatch):
    """As at a boot where the hardware clock has the local time."""
    put("one")
    chat.answers = [(500, {})]
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 8 * 3600)
    send.main("chat")
    assert spool.due(["chat"]) == []
    monkeypatch.setattr(time, "time", real)
    assert spool.due(["chat"]) == ["chat"] and spool.retry("chat")["tries"] == 1
    send.main("chat")
    assert texts(chat) == ["one"] * 2 and spool.batches("chat") == []


@pytest.mark.parametrize(
    ("after", "expected"), [("1800", 1800), ("999999", DAY), ("9" * 5000, DAY), ("soon", 60), ("-5", 60)]
)
def test_time_that_the_other_end_asks_for_is_waited(chat, after, expected):
    put("one")
    chat.answers = [(429, {"Retry-After": after})]
    send.main("chat")
    assert 0.79 * expected < pause() < 1.21 * expected
    assert "HTTP 429" in spool.retry("chat")["error"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_an_error_and_no_token_goes_elsewhere(chat, status):
    put("one")
    elsewhere = chat.url.replace("/hook/", "/login/")
    chat.answers = [(status, {"Location": elsewhere})]
    send.main("chat")
    assert [one.path for one in chat.asked] == [f"/hook/{SECRET}"] and len(spool.batches("chat")) == 1
    assert spool.retry("chat")["error"] == f"HTTP {status}: redirects, which is not followed"


def test_batch_is_given_up_after_a_day_and_those_after_it_are_sent(chat):
    put("old", age=DAY + 60)
    put("new")
    send.main("chat")
    assert texts(chat) == ["new"] and len([*spool.folder("chat").glob("*.lost")]) == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/{}", "http://127.0.0.1:{}/", "http://{}.invalid./x"])
def test_error_of_a_channel_has_no_secret(chat, capsys, url):
    configure(url.format(SECRET))
    put("one")
    send.main("chat")
    error, told = spool.retry("chat")["error"], "".join(capsys.readouterr())
    assert error and SECRET not in error + told and "the next try is in" in told


def test_heartbeat_is_a_request_whose_failure_is_kept_and_not_tried_again_later(chat):
    configure(chat.url, spool.HEARTBEAT)
    chat.answers = [(503, {})]
    assert send.main(spool.HEARTBEAT) == 0 and spool.retry(spool.HEARTBEAT)["error"].startswith("HTTP 503")
    assert send.main(spool.HEARTBEAT) == 0 and spool.retry(spool.HEARTBEAT)["error"] == ""
    assert [one.method for one in chat.asked] == ["GET", "GET"]


def test_channel_that_was_taken_out_is_an_error(chat):
    assert send.main("gone") == 1


def test_message_of_a_full_disk_is_sent_and_not_sent_again(chat, watched, monkeypatch):
    problems = [Problem("disk", "0 % of / is free", "df", "disk")]
    monkeypatch.setattr(look, "examine", lambda *_arguments: look.Seen(decide.found("", problems), [], [], {}))
    monkeypatch.setattr(look, "takes", lambda *_arguments: True)
    monkeypatch.setattr(watch, "AGAIN", 0)
    monkeypatch.setattr(watch.daemons, "has_systemd", lambda: True)
    monkeypatch.setattr(watch.units, "attempt", lambda *_arguments, **_options: send.main("chat"))
    config = {"channels": {"chat": {"format": "json"}}, "quiet": [], "heartbeat": False}
    config["channels"]["other"] = {"format": "json"}
    watched(config)
    with monkeypatch.context() as before:
        before.setattr(look, "examine", lambda *_arguments: look.Seen({}, [], [], {}))
        watch.take(config)

    def is_full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(file, "write", is_full)
    watch.take(config)
    assert texts(chat) == ["0 % of / is free"] and len(spool.batches("other")) == 1
    assert [one["text"] for one in spool.state()["known"].values()] == ["0 % of / is free"]


def test_messages_that_wait_are_sent_by_a_look_that_can_keep_nothing(chat, watched, monkeypatch):
    put("waits")
    config = watched({"channels": {"chat": {"format": "json"}}, "quiet": [], "heartbeat": False})
    monkeypatch.setattr(look, "examine", lambda *_arguments: look.Seen({}, [], [], {}))
    monkeypatch.setattr(watch.daemons, "has_systemd", lambda: True)
    monkeypatch.setattr(watch.units, "attempt", lambda *_arguments, **_options: send.main("chat"))

    def fails(*_arguments, **_options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(file, "write", fails)
    with pytest.raises(OSError, match="Read-only"):
        watch.take(config)
    assert texts(chat) == ["waits"]
