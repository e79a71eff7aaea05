"""Requests in the master's store: one runner works them off, and none is lost or refused while another deploys."""

import threading
import time

import pytest
from django_formula.audit.caller import Caller
from django_formula.fleet import requests
from django_formula.fleet.store import Store
from django_formula.host.commands import DeploymentError
from django_formula.request import queue

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


def test_request_is_deployed_for_who_asked(store):
    called = []
    request = requests.put(store, "v2.1", ADA)
    waiting = requests.ended(store, request, wait=False)
    assert waiting["status"] == "waiting" and requests.is_open(store)
    requests.work(store, lambda revision, by: called.append((revision, by)) or "3f2a9c1b77de is active")
    ended = requests.ended(store, request, wait=True)
    assert (ended["status"], ended["why"]) == ("released", "3f2a9c1b77de is active")
    assert called == [("v2.1", ADA)] and not requests.is_open(store)


def test_request_of_the_pillar_has_no_revision(store):
    called = []
    for _push in range(2):
        requests.put(store, None, ADA)
    requests.work(store, lambda revision, _by: called.append(revision) or "it is active")
    assert called == [None] and statuses(store) == [("", "superseded"), ("", "released")]
    assert requests.rows(store)[1]["why"] == "by a newer request"


def test_failed_deployment_is_the_status_and_the_next_request_is_deployed(store):
    first = requests.put(store, "v1", ADA)

    def deploy(revision, _by):
        if revision == "v1":
            requests.put(store, "v2", ADA)
            raise DeploymentError("start failed on 1 of the hosts:\nweb2: no space left")
        return "it is active"

    requests.work(store, deploy)
    assert statuses(store) == [("v1", "failed"), ("v2", "released")]
    assert "web2: no space left" in requests.ended(store, first, wait=True)["why"]


def test_active_commit_is_not_deployed_again(store):
    store.set_release({"commit": "a" * 40, "sequence": 3, "held": []})
    requests.put(store, "a" * 40, ADA)
    requests.work(store, deploy_nothing)
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
        requests.work(store, deploy)

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
            target=requests.work, args=(store, lambda revision, _by: live.append(revision) or "it is active")
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
    requests.work(store, deploy)
    assert tried == ["v1", "v1"] and statuses(store) == [("v1", "released")]


def test_killed_runner_loses_no_request(store):
    def killed(_revision, _by):
        raise Killed

    requests.put(store, "v1", ADA)
    for _time in range(2):
        with pytest.raises(Killed):
            requests.work(store, killed)
        assert requests.is_open(store) and statuses(store) == [("v1", "running")]
    requests.work(store, lambda _revision, _by: "it is active")
    assert statuses(store) == [("v1", "released")]


def test_site_that_the_master_does_not_know_is_refused(tmp_path):
    with pytest.raises(DeploymentError, match="the master knows no hosts of shop"):
        requests.put(Store(tmp_path / "store", "shop"), None, ADA)
