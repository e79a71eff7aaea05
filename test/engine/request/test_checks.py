"""Requests and the checks of their commits, with a stand-in of what the Git server answers."""

import os
import time
from pathlib import Path

import pytest
from django_formula.audit.caller import Caller
from django_formula.git_server import servers
from django_formula.request import checks, queue
from django_formula.site import sites as site_sites
from django_formula.untrusted import network
from django_formula.verbs import requests

ADA = Caller("ada", "192.0.2.7", "ssh")
COMMIT = "a" * 40
SECRET = "a-token-of-the-server"


class Server:
    """What the Git server answers now, and of which commits it was asked."""

    def __init__(self):
        self.answer, self.asked = network.Answer({"state": "none", "names": []}, "", 0.0), []

    def says(self, state, *names):
        self.answer = network.Answer({"state": state, "names": [*names]}, "", 0.0)

    def ask(self, user, action):
        self.asked.append((user, action.args[2]))
        return self.answer


@pytest.fixture
def site(make_site, monkeypatch):
    site = make_site(process="supervisor")
    monkeypatch.setattr(site_sites, "find", lambda name: site)
    monkeypatch.setattr(requests, "_reason", lambda site, row: checks.waits_for(site, row["request"]))
    wanted = {"kind": "github", "url": "http://git/p", "token": {"pillar": "x"}, "names": [], "ignore": []}
    site.config["checks"] = {**wanted, "within": "30m"}
    servers.TOKEN.keep(site, SECRET)
    queue.folder(site).mkdir()
    return site


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setattr(checks.network, "ask", server.ask)
    return server


@pytest.fixture
def later(monkeypatch):
    """Has so many seconds pass."""
    now = {"by": 0.0}
    monotonic, wall = time.monotonic, time.time
    monkeypatch.setattr(checks.time, "monotonic", lambda: monotonic() + now["by"])
    monkeypatch.setattr(checks.time, "time", lambda: wall() + now["by"])
    return lambda seconds: now.update(by=now["by"] + seconds)


def is_admitted(gate, site, request):
    def token():
        return servers.TOKEN.value(site, None) or ""

    subject = checks.Subject(site.config["checks"], lambda: request.commit, token, lambda _commit: None)
    return gate.admit(site, request, subject)


def why(site):
    (row, *_rest) = requests.rows(site.name)
    return row["why"]


def test_a_site_without_checks_asks_nothing(site, server):
    site.config["checks"] = None
    assert is_admitted(checks.Gate(), site, queue.put(site, COMMIT, ADA)) and not server.asked


def test_a_commit_waits_until_its_checks_have_passed(site, server, later):
    request, gate = queue.put(site, COMMIT, ADA), checks.Gate()
    assert not is_admitted(gate, site, request) and why(site) == "the Git server knows no check of aaaaaaaaaaaa yet"
    server.says("pending", "test", "lint")
    assert not is_admitted(gate, site, request) and len(server.asked) == 1, "it is asked every 15 s"
    later(16)
    assert not is_admitted(gate, site, request)
    assert why(site) == "checks of aaaaaaaaaaaa have not passed yet: test, lint"
    server.says("passed")
    later(16)
    assert is_admitted(gate, site, request) and is_admitted(gate, site, request)
    assert server.asked == 3 * [("nobody", COMMIT)]


def test_a_newer_request_has_its_own_checks(site, server):
    gate = checks.Gate()
    server.says("passed")
    assert is_admitted(gate, site, queue.put(site, COMMIT, ADA))
    server.says("pending", "test")
    newer = queue.put(site, "b" * 40, ADA)
    assert not is_admitted(gate, site, newer) and server.asked[-1] == ("nobody", "b" * 40)


@pytest.mark.parametrize(
    ("state", "names", "seconds", "text"),
    [
        ("failed", ["test"], 0, "checks of aaaaaaaaaaaa have failed: test"),
        ("pending", ["lint"], 1801, "checks of aaaaaaaaaaaa have not passed yet: lint; it waits for 30m at most"),
        ("none", [], 1801, "the Git server knows no check of aaaaaaaaaaaa yet; it waits for 30m at most"),
    ],
)
def test_a_commit_is_refused(site, server, later, state, names, seconds, text):
    request = queue.put(site, COMMIT, ADA)
    server.says(state, *names)
    later(seconds)
    assert not is_admitted(checks.Gate(), site, request)
    (ended,) = queue.history(site)
    assert (ended["status"], ended["why"]) == ("refused", text) and not queue.waiting(site)


def test_what_waited_for_long_is_released_once_its_checks_have_passed(site, server, later):
    request = queue.put(site, COMMIT, ADA)
    later(86400)
    server.says("passed")
    assert is_admitted(checks.Gate(), site, request) and queue.waiting(site)


@pytest.mark.parametrize(
    "answer",
    [
        network.Answer(None, f"HTTP 401: {SECRET}", 0.0),
        network.Answer({"state": "passed"}, "", 0.0),
        network.Answer(["passed"], "", 0.0),
        network.Answer({"state": "passed\n", "names": []}, "", 0.0),
        network.Answer({"state": "passed", "names": [3]}, "", 0.0),
        network.Answer({"state": "passed", "names": []}, "no answer within 15 s", 0.0),
    ],
)
def test_a_server_that_does_not_say_so_releases_nothing(site, server, answer):
    request = queue.put(site, COMMIT, ADA)
    server.answer = answer
    assert not is_admitted(checks.Gate(), site, request) and not queue.history(site)
    assert SECRET not in why(site)


def test_a_refusal_that_a_kill_has_interrupted_is_completed(site, server):
    request, path = queue.put(site, COMMIT, ADA), queue.paths(site)[0]
    pending = path.read_bytes()
    server.says("failed", "test")
    for _time in range(2):
        assert not is_admitted(checks.Gate(), site, request) and not path.exists()
        path.write_bytes(pending)  # as a kill leaves it, between the status and its removal
    assert len(queue.history(site)) == 1


def test_one_that_is_replaced_meanwhile_is_not_refused(site):
    older = queue.put(site, COMMIT, ADA)
    newer = queue.put(site, "b" * 40, ADA)
    queue.refuse_waiting(site, older, "checks have failed")
    assert queue.waiting(site).number == newer.number
    assert [one["status"] for one in queue.history(site)] == ["superseded"]
    assert queue.take(site, older.number) is None and queue.waiting(site)
    assert queue.take(site, newer.number).commit == "b" * 40


# What a child reports


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize(
    ("action", "answer"),
    [
        (lambda: {"uid": os.getuid()}, network.Answer({"uid": 65534}, "", 0.0)),
        (lambda: 3 * [None], network.Answer([None, None, None], "", 0.0)),
        (lambda: [][1], network.Answer(None, "IndexError: list index out of range", 0.0)),
        (lambda: "x" * 100_000, network.Answer(None, "no answer within 15 s", 0.0)),
        (lambda: Path("/etc/shadow").read_text(), "PermissionError"),
    ],
)
def test_a_child_is_another_user_and_reports_little(action, answer):
    found = network.ask("nobody", action)
    assert found == answer if isinstance(answer, network.Answer) else answer in found.error
