"""The door of requests: what it takes of a client that may be hostile, and what it answers."""

import json
import socket
import threading

import pytest
from django_formula.audit.caller import Caller
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.request import door, entrance, follow, queue, unit

A, B = "a" * 40, "b" * 40
GOOD = {"do": "request", "commit": A, "by": "git push (alice)", "from": "192.0.2.1", "follow": True}


def line(**changes):
    return json.dumps({name: value for name, value in (GOOD | changes).items() if value is not None}).encode()


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (line(), door.Asked("request", A, by="git push (alice)", origin="192.0.2.1", is_followed=True)),
        (line(follow=None, rewind=True), door.Asked("request", A, "", GOOD["by"], "192.0.2.1", is_rewind=True)),
        (
            line(**{"from": "2001:DB8::1", "follow": False, "new": 1}),
            door.Asked("request", A, "", GOOD["by"], "2001:db8::1"),
        ),
        (line(**{"from": None, "follow": False}), door.Asked("request", A, "", GOOD["by"])),
        (b'{"do": "result", "id": "18bf"}', door.Asked("result", number="18bf")),
    ],
)
def test_line_read(sent, expected):
    assert door.parsed(sent) == expected


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (b"", "no such object"),
        (b"[]", "no such object"),
        (b"null", "no such object"),
        (b"[" * 4000, "no such object"),
        (b'{"a":' * 800 + b"1" + b"}" * 800, "no such object"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b'{"do": "release"}', "there is only"),
        (b'{"do": ["request"]}', "no such object"),
        (line(commit="A" * 40), "40 hexadecimal"),
        (line(commit="a" * 39), "40 hexadecimal"),
        (line(commit=f"{A}\n"), "40 hexadecimal"),
        (line(commit="main; id"), "40 hexadecimal"),
        (line(commit=7), "no such object"),
        (line(commit=None), "40 hexadecimal"),
        (line(by="\x1b[31mroot"), "other characters"),
        (line(by="\u202eroot"), "other characters"),
        (line(by="x" * 121), "other characters"),
        (line(by="a\nb"), "other characters"),
        (line(by=None), "other characters"),
        (line(by="\u0000"), "no such object"),
        (line(**{"from": "192.0.2.1; id"}), "address"),
        (line(**{"from": "fe80::1%eth0"}), ""),
        (line(follow="yes"), "no such object"),
        (b'{"do": "result", "id": "../../etc/shadow"}', "id of the request"),
        (b'{"do": "result"}', "id of the request"),
        (line(commit="NaN").replace(b'"NaN"', b"NaN"), "no such object"),
    ],
)
def test_line_refused(sent, why):
    if not why:
        assert door.parsed(sent).origin == ""
        return
    with pytest.raises(door.Unreadable, match=why):
        door.parsed(sent)


@pytest.fixture
def ends():
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@pytest.mark.parametrize(
    ("parts", "is_closed", "expected"),
    [
        ([b"{}\n"], False, b"{}"),
        ([b"{", b"}\nmore"], False, b"{}"),
        ([b"x" * 4096 + b"\n"], False, b"x" * 4096),
        ([b"x" * 4097 + b"\n"], False, door.Unreadable("more than 4096 bytes")),
        ([b"x" * 100_000], False, door.Unreadable("more than 4096 bytes")),
        ([b"half a line"], True, door.Unreadable("ends within a line")),
        ([b""], True, door.Unreadable("ends within a line")),
        ([b"half a line"], False, door.Unreadable("no whole line within")),
    ],
)
def test_line_bounded(ends, monkeypatch, parts, is_closed, expected):
    monkeypatch.setattr(door, "PATIENCE", 0.5 if "no whole line" in str(expected) else 30)
    near, far = ends
    for part in parts:
        threading.Thread(target=far.sendall, args=(part,), daemon=True).start()
        if len(parts) > 1:
            threading.Event().wait(0.05)
    if is_closed:
        threading.Event().wait(0.05)
        far.shutdown(socket.SHUT_WR)
    if isinstance(expected, bytes):
        assert door.read_line(near) == expected
        return
    with pytest.raises(door.Unreadable, match=str(expected)):
        door.read_line(near)


@pytest.fixture
def site(make_site, monkeypatch):
    site = make_site()
    queue.folder(site).mkdir(mode=0o700)
    monkeypatch.setattr(unit, "start", lambda _site: None)
    monkeypatch.setattr(follow, "_TICK", 0.01)
    return site


@pytest.mark.parametrize(
    ("user", "is_checked", "is_rewind"),
    [("blog-push", False, True), ("django-hook", True, False), ("shop-push", True, False), ("root", True, False)],
)
def test_rights_are_those_of_who_connects(site, user, is_checked, is_rewind):
    sent = []
    door.answer(
        site, door.Asked("request", A, by="git push (alice)", origin="192.0.2.1", is_rewind=True), user, sent.append
    )
    request = queue.waiting(site)
    assert sent == [{"accepted": request.number}]
    assert (request.is_checked, request.is_rewind) == (is_checked, is_rewind)
    assert request.by == Caller("git push (alice)", "192.0.2.1", user)


def test_request_is_on_disk_when_it_is_accepted(site):
    asked = door.Asked("request", A, by="alice")

    def send(answer):
        assert queue.waiting(site).number == answer["accepted"]
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        door.answer(site, asked, "blog-push", send)
    assert queue.waiting(site).commit == A


def test_full_disk_is_reported_to_the_client(site, ends, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device", "/srv/django/blog/requests/.pending.json.new")

    near, far = ends
    monkeypatch.setattr(queue, "put", full)
    monkeypatch.setattr(door.sites, "find", lambda _name: site)
    monkeypatch.setattr(door.socket, "socket", lambda fileno: near)
    far.sendall(line() + b"\n")
    assert door.main("blog") == 0
    answer = json.loads(far.recv(4096))
    assert answer["status"] == "failed" and "No space left on device" in answer["why"]


def test_client_that_has_gone_is_no_failure(site, ends, monkeypatch):
    near, far = ends
    monkeypatch.setattr(door.sites, "find", lambda _name: site)
    monkeypatch.setattr(door.socket, "socket", lambda fileno: near)
    far.sendall(line() + b"\n")
    far.close()
    assert door.main("blog") == 0 and queue.waiting(site).commit == A


def test_steps_and_status_are_sent_to_a_client_that_follows(site):
    sent, taken = [], []

    def send(answer):
        sent.append(answer)
        if "accepted" in answer:  # what works it off does that meanwhile
            taken.append(queue.take(site))
            queue.steps(site).write_text("source\nvirtualenv\n")
        if answer.get("step") == "virtualenv":
            queue.finish(site, taken[0], queue.FAILED, "static: no\nhint")

    door.answer(site, door.Asked("request", A, by="alice", is_followed=True), "blog-push", send)
    assert sent[1:] == [{"step": "source"}, {"step": "virtualenv"}, {"status": "failed", "why": "static: no\nhint"}]


@pytest.mark.parametrize("error", [DeploymentError, OSError])
def test_accepted_request_is_never_called_refused(site, monkeypatch, error):
    """systemd does not answer for a moment; or no program runs for long. What waits may be released all the same."""

    def fail(_site):
        raise error("systemd does not answer")

    sent, asked = [], door.Asked("request", A, by="alice", is_followed=True)
    monkeypatch.setattr(unit, "start", fail)
    monkeypatch.setattr(follow, "_RESTART", 0.05)

    def take():
        queue.finish(site, queue.take(site), queue.RELEASED, "0002 is active")

    end = threading.Timer(0.3, take)
    end.start()
    door.answer(site, asked, "blog-push", sent.append)
    end.join()
    assert [one["status"] for one in sent[1:]] == ["released"]
    monkeypatch.setattr(follow, "ABANDONED", 0.5)
    sent.clear()
    door.answer(site, asked, "blog-push", sent.append)
    assert sent[1]["status"] == "waiting" and sent[1]["why"].startswith("aaaaaaaaaaaa waits, and no program")
    assert ": systemd does not answer" in sent[1]["why"]
    sent.clear()
    door.answer(site, door.Asked("result", number=queue.waiting(site).number), "blog-push", sent.append)
    assert [one["status"] for one in sent] == ["waiting"]


def test_result_of_an_accepted_request_is_sent(site):
    first = queue.put(site, A, Caller("alice"))
    queue.put(site, B, Caller("ben"))
    sent = []
    for number in (first.number, "18bf"):
        door.answer(site, door.Asked("result", number=number), "blog-push", sent.append)
    assert [(one["status"], one["why"]) for one in sent] == [
        ("superseded", f"by {B[:12]}"),
        ("refused", "there is no such request"),
    ]


def test_site_without_programs_that_ask_has_no_entrance(make_site):
    site = make_site()
    assert not entrance.is_wanted(site) and entrance.pending(site, []) == {} and entrance.present(site) == []


def test_socket_that_systemd_has_refused_is_begun_anew(socket_host, make_site, monkeypatch):
    site, run = make_site(hook=True), commands.run
    monkeypatch.setattr(entrance, "_has_group", lambda _site: True)
    entrance.apply(site, ["salt-call"])
    assert entrance.pending(site, ["salt-call"]) == {}
    socket, service = entrance._units(site)
    service.write_text("of an earlier version")

    def refuse(argv, **options):
        if argv[1] == "restart":
            raise DeploymentError("it cannot")
        return run(argv, **options)

    with monkeypatch.context() as patched:
        patched.setattr(commands, "run", refuse)
        with pytest.raises(DeploymentError, match="it cannot"):
            entrance.apply(site, ["salt-call"])
    assert entrance.pending(site, ["salt-call"]) == {str(socket): "disabled"}
    entrance.apply(site, ["salt-call"])
    assert entrance.pending(site, ["salt-call"]) == {}


@pytest.mark.parametrize(("older", "verb"), [("service", "start"), ("socket", "restart")])
def test_socket_that_is_as_configured_stays_open(socket_host, make_site, monkeypatch, older, verb):
    site = make_site(hook=True)
    monkeypatch.setattr(entrance, "_has_group", lambda _site: True)
    entrance.apply(site, ["salt-call"])
    for path in entrance._units(site):
        if path.name.endswith(older):
            path.write_text("of an earlier version")
    socket_host.calls.clear()
    monkeypatch.setattr(entrance.unix_sockets, "listens", lambda path: True)
    entrance.apply(site, ["salt-call"])
    assert f"systemctl {verb} django-blog-requests.socket" in socket_host.calls
