"""Every change of the queue, and what a kill between any two of its writes leaves."""

import json
import stat

import pytest
from django_formula.audit import chain
from django_formula.audit.caller import Caller
from django_formula.host import file
from django_formula.request import queue
from django_formula.site import sites

A, B, C = ("a" * 40, "b" * 40, "c" * 40)
ADA, BEN = Caller("ada", "192.0.2.7", "ssh"), Caller("ben", how="salt", job="20261127120000000000")


class Killed(BaseException):
    """The process was killed, or the power has failed."""


@pytest.fixture
def site(make_site):
    site = make_site()
    queue.folder(site).mkdir(mode=0o700)
    (sites.REGISTRY / site.name).symlink_to(site.root)
    return site


def statuses(site):
    return [(values["commit"][0], values["status"]) for values in queue.history(site)]


def is_empty(site):
    return not any(path.exists() for path in queue.paths(site))


def test_request_waits_runs_and_ends(site):
    request = queue.put(site, A, ADA)
    assert queue.waiting(site) == request and not queue.running(site)
    assert stat.S_IMODE(queue.paths(site)[0].stat().st_mode) == 0o600
    taken = queue.take(site)
    assert taken == request._replace(tries=1) == queue.running(site) and not queue.waiting(site)
    assert queue.ended(site, request.number) is None
    queue.finish(site, taken, queue.FAILED, "static: no such folder\x1b[31m\n0001 still runs")
    ended = queue.ended(site, request.number)
    assert ended["status"] == "failed" and ended["why"] == "static: no such folder\n0001 still runs"
    assert ended["by"] == {"who": "ada", "from": "192.0.2.7", "how": "ssh", "job": ""}
    assert is_empty(site) and queue.take(site) is None


def test_newest_of_those_that_wait_is_taken(site):
    for commit in (A, B, C):
        queue.put(site, commit, ADA)
    assert queue.take(site).commit == C
    assert statuses(site) == [("a", "superseded"), ("b", "superseded")]
    assert queue.history(site)[0]["why"] == f"by {B[:12]}"


def test_each_end_is_in_the_audit_log_with_who_asked(site):
    queue.put(site, A, ADA)
    queue.put(site, B, BEN)
    queue.finish(site, queue.take(site), queue.RELEASED, "0002 is active", is_recorded=True)
    queue.refuse(site, "mian", ADA, "no such branch\nhint")
    lines = [chain.parsed(line) for _place, line in chain.lines()]
    found = [(one["verb"], one["who"], one["from"], one["arguments"]["commit"][:4], one["result"]) for one in lines]
    assert found == [
        ("request", "ada", "192.0.2.7", "aaaa", f"superseded: by {B[:12]}"),
        ("request", "ada", "192.0.2.7", "mian", "refused: no such branch"),
    ]


@pytest.mark.parametrize(
    ("tries", "active", "waits", "expected"),
    [
        (1, "", "", [("a", "again")]),
        (2, "", "", [("a", "again")]),
        (3, "", "", [("a", "failed")]),
        (1, A, "", [("a", "released")]),
        (3, A, "", [("a", "released")]),
        (1, "", B, [("a", "superseded"), ("b", "again")]),
        (3, B, B, [("a", "superseded"), ("b", "again")]),
    ],
)
def test_interrupted_request(site, tries, active, waits, expected):
    request = queue.put(site, A, ADA)
    queue.take(site)
    file.write_json(queue.paths(site)[1], request._replace(tries=tries).values())
    if waits:
        queue.put(site, waits, BEN)
    queue.recover(site, active)
    assert not queue.running(site)
    waiting = queue.waiting(site)
    found = statuses(site) + ([(waiting.commit[0], "again")] if waiting else [])
    assert found == expected
    if waiting and waiting.commit == A:
        assert waiting.tries == tries and queue.take(site).tries == tries + 1
    if (tries, active) == (3, ""):
        assert queue.history(site)[-1]["why"] == "interrupted 3 times"


class Host:
    """The scenario of three requests, and the program that works them off, killed before one of their writes."""

    def __init__(self, site):
        self.site, self.active, self.accepted, self.begun = site, "", [], []

    def put(self, commit):
        self.accepted.append(queue.put(self.site, commit, ADA))

    def work(self):
        queue.recover(self.site, self.active)
        if request := queue.take(self.site):
            self.begun.append(request.commit)
            self.active = request.commit
            queue.finish(self.site, request, queue.RELEASED, "it is active")

    def scenario(self):
        self.put(A)
        queue.take(self.site)
        self.put(B)
        self.put(C)
        self.active = A
        queue.finish(self.site, queue.running(self.site), queue.RELEASED, "it is active")
        self.work()


def kill_before(monkeypatch, number):
    """Have the process die before a write: a file, a line, or the end of a file."""
    left = iter(range(number))

    def counted(function):
        def write(*arguments, **options):
            if next(left, None) is None:
                raise Killed
            return function(*arguments, **options)

        return write

    monkeypatch.setattr(file, "write_json", counted(file.write_json))
    monkeypatch.setattr(file, "append", counted(file.append))
    monkeypatch.setattr(queue, "_remove", counted(queue._remove))
    return left


def test_kill_while_a_request_is_replaced_releases_the_newer_one(site, monkeypatch):
    first = queue.put(site, A, ADA)
    with monkeypatch.context() as patched:
        kill_before(patched, 1)
        with pytest.raises(Killed):
            queue.put(site, B, BEN)
    assert queue.history(site) == [] and queue.waiting(site).commit == B
    assert queue.take(site).commit == B and queue.running(site).replaces is None
    assert queue.ended(site, first.number)["why"] == f"by {B[:12]}"


def test_interrupted_request_is_not_superseded_by_one_that_has_ended(site):
    left = queue.put(site, A, ADA)
    queue.take(site)
    newer = queue.put(site, B, BEN)
    queue._end(site, newer, queue.SUPERSEDED, "by a third one")
    queue.recover(site, "")
    assert queue.waiting(site).number == left.number and statuses(site) == [("b", "superseded")]


WRITES = 12


@pytest.mark.parametrize("number", range(WRITES + 1))
def test_kill_between_any_two_writes_leaves_one_status_for_each_request(site, monkeypatch, number):
    host = Host(site)
    with monkeypatch.context() as patched:
        left = kill_before(patched, number)
        try:
            host.scenario()
        except Killed:
            assert number < WRITES
        else:
            assert number == WRITES and next(left, None) is None, "the scenario has another number of writes"
    for _boot in range(4):
        host.work()
    assert is_empty(site)
    ended = [values["id"] for values in queue.history(site)]
    assert len(ended) == len({*ended})
    assert {request.number for request in host.accepted} <= {*ended}
    last = [request.commit for request in host.accepted][-1:] or [""]
    assert last[0] <= host.active, "the newest that was accepted, or the one that just had been written, is released"
    assert (host.active[:1], "released") == (statuses(site) or [("", "released")])[-1]
    assert host.begun in ([], [A], [B], [C], [A, C])


def test_line_that_a_power_loss_cut_off_is_closed(site):
    history = queue.folder(site) / "requests.jsonl"
    first = queue.put(site, A, ADA)
    queue.finish(site, queue.take(site), queue.RELEASED, "it is active")
    whole = history.read_text()
    history.write_text(whole + whole[:40])
    second = queue.put(site, B, ADA)
    queue.finish(site, queue.take(site), queue.RELEASED, "it is active")
    assert [values["id"] for values in queue.history(site)] == [first.number, second.number]


def test_history_is_bounded(site, monkeypatch):
    monkeypatch.setattr(queue, "FULL", 20)
    monkeypatch.setattr(queue, "KEPT", 10)
    last = [queue.refuse(site, f"{number:040}", ADA, "no").number for number in range(25)]
    found = [values["id"] for values in queue.history(site)]
    assert found == last[-len(found) :] and 10 <= len(found) <= 20


@pytest.mark.parametrize("content", ["", "{", "[" * 5000, "[]", json.dumps({"id": 3})])
@pytest.mark.parametrize("which", [0, 1])
def test_damaged_file_starts_nothing_for_ever(site, which, content):
    path = queue.paths(site)[which]
    path.write_text(content)
    queue.recover(site, "")
    assert queue.take(site) is None and is_empty(site)
    assert path.with_suffix(".damaged").read_text() == content
