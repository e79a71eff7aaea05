"""Events of a host's own deployments on the bus of its master: what they have, and that nothing depends on them."""

import contextlib
import json
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import salt.utils.event
from django_formula.release import bus, releases

ATTEMPT = {
    "time": "2026-03-01T12:00:00Z",
    "release": "0002-3f2a9c1b77de",
    "commit": "3f2a9c1b77de",
    "result": "failed",
    "step": "instance",
    "error": "health check failed",
    "asked_by": "django.release by ada, salt job 20260301120000000000",
    "seconds": 4.5,
    "revision": "v2",
}


class Bus:
    """A bus that keeps what is fired, or is broken."""

    def __init__(self, error: Exception | None = None):
        self.fired: list[tuple[dict[str, Any], str]] = []
        self.error = error

    def fire_event(self, data: dict[str, Any], tag: str, timeout: int) -> None:
        assert timeout < 1000
        if self.error:
            raise self.error
        self.fired.append((data, tag))


@pytest.fixture
def options() -> Iterator[dict[str, Any]]:
    """Those of a minion whose daemon listens; a socket's path is short."""
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as daemon:
        daemon.bind(f"{folder}/minion_event_0_pull.ipc")
        daemon.listen()
        yield {"sock_dir": folder, "file_client": "remote"}


@pytest.fixture
def event_bus(monkeypatch) -> Bus:
    found = Bus()
    monkeypatch.setattr(salt.utils.event, "get_event", lambda *_, **__: contextlib.nullcontext(found))
    return found


def test_begin_and_end_have_user_revision_commit_and_cause(make_site, options, event_bus):
    site = make_site()
    with bus.of_minion(options):
        bus.begin(site, ATTEMPT["asked_by"], revision="v2", commit="3f2a9c1b77de", release="0002-3f2a9c1b77de")
        releases.append_attempt(site, ATTEMPT)
        releases.append_attempt(site, {**ATTEMPT, "result": "unchanged"})
    same = {"site": "blog", "user": "ada", "revision": "v2", "commit": "3f2a9c1b77de", "release": "0002-3f2a9c1b77de"}
    ended = {"phase": "end", "result": "failed", "step": "instance", "error": "health check failed", "seconds": 4.5}
    assert [(one["tag"], one["data"], tag) for one, tag in event_bus.fired] == [
        ("django/blog/release/begin", {**same, "phase": "begin"}, "fire_master"),
        ("django/blog/release/end", {**same, **ended}, "fire_master"),
    ]


def test_end_of_an_apply_has_the_revision_of_the_pillar(make_site, options, event_bus):
    with bus.of_minion(options):
        releases.append_attempt(make_site(), {"result": "released", "asked_by": "state.apply by root, salt job 2026"})
    [(event, _tag)] = event_bus.fired
    assert event["tag"] == "django/blog/apply/end"
    assert (event["data"]["user"], event["data"]["revision"], event["data"]["result"]) == ("root", "main", "released")


@pytest.mark.parametrize("more", [{"file_client": "local"}, {"local": True}])
def test_host_without_a_master_sends_nothing(make_site, options, monkeypatch, more):
    monkeypatch.setattr(bus, "_has_daemon", lambda _options: pytest.fail("nothing is looked for"))
    with bus.of_minion({**options, **more}):
        releases.append_attempt(make_site(), ATTEMPT)


@pytest.mark.parametrize("is_stale", [False, True])
def test_event_is_dropped_where_no_daemon_listens(make_site, monkeypatch, tmp_path, is_stale):
    if is_stale:
        with socket.socket(socket.AF_UNIX) as gone, contextlib.chdir(tmp_path):
            gone.bind("minion_event_0_pull.ipc")
    monkeypatch.setattr(salt.utils.event, "get_event", lambda *_, **__: pytest.fail("it would be waited for"))
    monkeypatch.chdir(tmp_path)
    assert not bus._has_daemon({"sock_dir": "."})
    with bus.of_minion({"sock_dir": ".", "file_client": "remote"}):
        releases.append_attempt(make_site(), ATTEMPT)


def test_deployment_is_recorded_though_its_event_cannot_be_sent(make_site, options, event_bus):
    event_bus.error = RuntimeError("the bus is broken")
    site = make_site()
    with bus.of_minion(options):
        releases.append_attempt(site, ATTEMPT)
    assert json.loads(Path(site.deploys).read_text()) == ATTEMPT
