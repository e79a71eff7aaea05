"""Requests in the master's store: one runner works them off, and none is lost or refused while another deploys."""

import threading
import time

import pytest
from django_formula.audit.caller import Caller
from django_formula.fleet import requests
from django_formula.fleet.deployment import Overtaken
from django_formula.fleet.store import Store
from django_formula.host.commands import DeploymentError
from django_formula.request import queue
from django_formula.untrusted import network

ADA = Caller("ada", how="salt")


class Killed(BaseException):
    """The runner was killed."""


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store", "blog")
    store.keep_hosts({"web1": ["app"], "web2": ["app"]})
    return store


def statuses(store):
    return [(row["commit"], row["status"]) for row in reversed(requests.rows(store))]


def deploy_nothing(_revision, _by):
    raise AssertionError("it was deployed")


def look_for_nothing(_revision):
    raise AssertionError("a commit was looked up")


def work(store, deploy, look=look_for_nothing, token=str):
    requests.work(store, requests.Verbs(deploy, look, token))


def test_request_is_deployed_for_who_asked(store):
    called = []
    request = requests.put(store, "v2.1", ADA)
    waiting = requests.ended(store, request, wait=False)
    assert waiting["status"] == "waiting" and requests.is_open(store)
    work(store, lambda revision, by: called.append((revision, by)) or "3f2a9c1b77de is active")
    ended = requests.ended(store, request, wait=True)
    assert (ended["status"], ended["why"]) == ("released", "3f2a9c1b77de is active")
    assert called == [("v2.1", ADA)] and not requests.is_open(store)


def test_request_of_the_pillar_has_no_revision(store):
    called = []
    for _push in range(2):
        requests.put(store, None, ADA)
    work(store, lambda revision, _by: called.append(revision) or "it is active")
    assert called == [None] and statuses(store) == [("", "superseded"), ("", "released")]
    assert requests.rows(store)[1]["why"] == "by a newer request"


def test_failed_deployment_is_the_status_and_the_next_request_is_deployed(store):
    first = requests.put(store, "v1", ADA)

    def deploy(revision, _by):
        if revision == "v1":
            requests.put(store, "v2", ADA)
            raise DeploymentError("start failed on 1 of the hosts:\nweb2: no space left")
        return "it is active"

    work(store, deploy)
    assert statuses(store) == [("v1", "failed"), ("v2", "released")]
    assert "web2: no space left" in requests.ended(store, first, wait=True)["why"]


def test_request_whose_canary_ends_for_a_newer_one_is_superseded(store):
    requests.put(store, "v1", ADA)

    def deploy(revision, _by):
        if revision == "v1":
            assert not requests.waits(store)
            requests.put(store, "v2", ADA)
            assert requests.waits(store)
            raise Overtaken("canary: a newer request takes the place of this release", hint="the hosts serve v0")
        return "it is active"

    work(store, deploy)
    assert statuses(store) == [("v1", "superseded"), ("v2", "released")]
    assert requests.rows(store)[1]["why"] == "canary: a newer request takes the place of this release"


def test_active_commit_is_not_deployed_again(store):
    store.set_release({"commit": "a" * 40, "sequence": 3, "held": []})
    requests.put(store, "a" * 40, ADA)
    work(store, deploy_nothing)
    assert statuses(store) == [("a" * 12, "released")]


def test_requests_from_many_runners_while_one_deploys_are_never_refused(store):
    """Fifty at once: the runner that has the lock deploys, the others return."""
    begun, live, workers = threading.Event(), [], []

    def deploy(revision, _by):
        begun.set()
        time.sleep(0.05)
        live.append(revision)
        return f"{revision} is active"

    def run(revision):
        requests.put(store, revision, ADA)
        work(store, deploy)

    for number in range(50):
        workers.append(threading.Thread(target=run, args=(f"v{number}",)))
        workers[-1].start()
        time.sleep(0.005)
    for worker in workers:
        worker.join()
    assert not requests.is_open(store) and begun.is_set()
    ended = [values["commit"] for values in queue.history(requests.place(store))]
    assert sorted(ended) == sorted(f"v{number}" for number in range(50))
    assert {status for _commit, status in statuses(store)} <= {"released", "superseded"}
    last = queue.history(requests.place(store))[-1]
    assert last["status"] == "released" and live[-1] == last["commit"] and len(live) < 50


def test_request_waits_for_an_immediate_deployment_and_the_newest_is_deployed(store, monkeypatch):
    monkeypatch.setattr(requests, "_TICK", 0.05)
    live = []
    with store.deploying("ops (salt-run django.deploy on master1)"):
        requests.put(store, "v1", ADA)
        worker = threading.Thread(
            target=work, args=(store, lambda revision, _by: live.append(revision) or "it is active")
        )
        worker.start()
        time.sleep(0.3)
        requests.put(store, "v2", ADA)
        assert live == []
    worker.join()
    assert live == ["v2"] and statuses(store) == [("v1", "superseded"), ("v2", "released")]


def test_deployment_that_begins_at_the_same_moment_keeps_the_request(store, monkeypatch):
    monkeypatch.setattr(requests, "_TICK", 0.05)
    tried = []

    def deploy(revision, _by):
        tried.append(revision)
        if len(tried) == 1:
            other = store.deploying("ops (salt-run django.deploy on master1)")
            other.__enter__()
            threading.Timer(0.3, other.__exit__, (None, None, None)).start()
            raise DeploymentError("blog is being deployed by ops", transient=True)
        return "it is active"

    requests.put(store, "v1", ADA)
    work(store, deploy)
    assert tried == ["v1", "v1"] and statuses(store) == [("v1", "released")]


def test_killed_runner_loses_no_request(store):
    def killed(_revision, _by):
        raise Killed

    requests.put(store, "v1", ADA)
    for _time in range(2):
        with pytest.raises(Killed):
            work(store, killed)
        assert requests.is_open(store) and statuses(store) == [("v1", "running")]
    work(store, lambda _revision, _by: "it is active")
    assert statuses(store) == [("v1", "released")]


def test_interrupted_first_request_of_the_pillar_is_worked_off_again(store):
    requests.put(store, None, ADA)

    def killed(_revision, _by):
        raise Killed

    with pytest.raises(Killed):
        work(store, killed)
    called = []
    work(store, lambda revision, _by: called.append(revision) or "it is active")
    assert called == [None] and statuses(store) == [("", "released")]
    assert requests.rows(store)[0]["why"] == "it is active"


def test_site_that_the_master_does_not_know_is_refused(tmp_path):
    with pytest.raises(DeploymentError, match="the master knows no hosts of shop"):
        requests.put(Store(tmp_path / "store", "shop"), None, ADA)


COMMIT = "a" * 40
CHECKS = {"kind": "github", "url": "http://git/p", "token": "sdb://vault/checks", "names": ["test"]}


class Server:
    """What the Git server answers to one question after another, and what it was asked."""

    def __init__(self, *states):
        self.states, self.asked = [*states], []

    def ask(self, user, action):
        _wanted, token, commit = action.args
        self.asked.append((user, token, commit))
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return network.Answer({"state": state, "names": ["test"]}, "", 0.0)


@pytest.fixture
def server(store, monkeypatch):
    """Has requests wait for checks, which the Git server says have passed unless a test has it say more."""
    server = Server("passed")
    monkeypatch.setattr(requests.checks.network, "ask", server.ask)
    monkeypatch.setattr(requests.checks, "EVERY", 0.0)
    monkeypatch.setattr(requests, "_TICK", 0.01)
    store.keep_checks(CHECKS)
    return server


def test_request_waits_until_the_checks_of_its_commit_have_passed(store, server, capsys):
    server.states, deployed, looked = ["none", "pending", "pending", "passed"], [], []
    requests.put(store, "main", ADA)

    def look(revision):
        looked.append(revision)
        assert requests.rows(store)[0]["why"] == ""
        return COMMIT

    def deploy(revision, by):
        deployed.append((revision, by))
        return "it is active"

    work(store, deploy, look, lambda uri: f"value of {uri}")
    assert deployed == [(COMMIT, ADA)] and looked == ["main"], "it is looked up once"
    asked = ("nobody", "value of sdb://vault/checks", COMMIT)  # as which user, with which token, about what
    assert server.asked == [asked] * 4
    assert statuses(store) == [("main", "released")]
    assert capsys.readouterr().err.splitlines() == [
        "blog: the Git server knows no check of aaaaaaaaaaaa yet",
        "blog: checks of aaaaaaaaaaaa have not passed yet: test",
    ]


def test_request_of_a_commit_whose_checks_have_failed_is_refused(store, server):
    server.states = ["pending", "failed"]
    request = requests.put(store, None, ADA)
    work(store, deploy_nothing, lambda revision: COMMIT if revision is None else "")
    ended = requests.ended(store, request, wait=True)
    assert (ended["status"], ended["why"]) == ("refused", "checks of aaaaaaaaaaaa have failed: test")


def test_newer_request_takes_the_place_of_one_that_waits_for_checks(store, server, monkeypatch):
    server.states, deployed = ["pending", "passed"], []
    requests.put(store, COMMIT, ADA)
    sleep = time.sleep

    def newer(seconds):
        assert requests.rows(store)[0]["why"] == "checks of aaaaaaaaaaaa have not passed yet: test"
        requests.put(store, "b" * 40, ADA)
        sleep(seconds)

    monkeypatch.setattr(requests.time, "sleep", newer)
    work(store, lambda revision, _by: deployed.append(revision) or "it is active", lambda revision: revision)
    assert deployed == ["b" * 40]
    assert statuses(store) == [("a" * 12, "superseded"), ("b" * 12, "released")]


def test_request_that_comes_after_an_interrupted_one_has_ended_waits_for_its_checks(store, server, monkeypatch):
    store.set_release({"commit": COMMIT, "sequence": 3, "held": []})
    requests.put(store, COMMIT, ADA)
    queue.take(requests.place(store))
    server.states, recovered, recover, waiting = ["failed"], [], queue.recover, queue.waiting

    def look(site):
        found = waiting(site)
        if recovered == [True]:
            recovered.append(False)
            requests.put(store, "b" * 40, ADA)
        return found

    monkeypatch.setattr(queue, "waiting", look)
    monkeypatch.setattr(queue, "recover", lambda *given: recover(*given) or recovered or recovered.append(True))
    work(store, deploy_nothing, lambda revision: revision)
    assert statuses(store) == [("a" * 12, "released"), ("b" * 12, "refused")]


@pytest.mark.parametrize(
    "given",
    [
        {},
        "github",
        {"kind": "github"},
        {**CHECKS, "url": "file:///etc/passwd"},
        {**CHECKS, "within": "soon"},
        {**CHECKS, "names": "test"},
        {**CHECKS, "name": "test"},
        {**CHECKS, "kind": None},
    ],
)
def test_checks_with_a_mistake_release_nothing(store, server, given):
    store.keep_checks(given)
    request = requests.put(store, COMMIT, ADA)
    work(store, deploy_nothing)
    ended = requests.ended(store, request, wait=True)
    assert ended["status"] == "failed" and "the checks of blog have a mistake in the pillar" in ended["why"]
    assert server.asked == []


def test_commit_that_is_not_found_or_a_token_without_a_value_releases_nothing(store, server, monkeypatch):
    def fail(*_arguments):
        raise DeploymentError("resolve failed on 1 of the hosts:\nweb1: no such branch")

    request = requests.put(store, "mian", ADA)
    work(store, deploy_nothing, fail)
    assert "no such branch" in requests.ended(store, request, wait=True)["why"]
    request = requests.put(store, COMMIT, ADA)
    monkeypatch.setattr(requests.checks.time, "time", lambda: time.monotonic() + 1e10)
    work(store, deploy_nothing, str, fail)
    ended = requests.ended(store, request, wait=True)
    assert ended["status"] == "refused" and "could not be read: resolve failed" in ended["why"]
    assert server.asked == []


def test_site_without_checks_any_more_asks_nothing(store, server):
    store.keep_checks(None)
    requests.put(store, "main", ADA)
    work(store, lambda revision, _by: f"{revision} is active")
    assert statuses(store) == [("main", "released")] and server.asked == []
    (store.folder / "checks.json").write_text("damaged")
    with pytest.raises(DeploymentError, match="have a mistake"):
        store.checks()
