"""One site on several hosts of a master: releases on all or none, rollbacks, plain applies between them."""

import json
import re
import threading
import time
from collections.abc import Callable

import pytest
from fleet import PASSWORD, STORE, Fleet, laid_out, start_minions
from sites import version


@pytest.fixture(scope="module")
def fleet(module_hosts, tmp_path_factory) -> Fleet:
    """A balancer and two hosts of different releases of Debian, after the first apply and the first deployment."""
    return laid_out(module_hosts, tmp_path_factory.mktemp("repository"))


def in_phase(fleet: Fleet, phase: str, act: Callable[[], object]) -> threading.Thread:
    """Do something as soon as a deployment is in a phase."""

    def wait() -> None:
        limit = time.monotonic() + 120
        while f"phase {phase}" not in fleet.master.run(["cat", f"{STORE}/blog/lock"], check=False).stdout:
            assert time.monotonic() < limit, f"there was no phase {phase}"
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def assert_nothing_is_left(fleet: Fleet) -> None:
    """No host has a claim or a prepared release."""
    for host in fleet.apps:
        assert host.run("ls -d /srv/django/blog/next /srv/django/blog/claim.json", check=False).stdout == "", host.name


def test_first_apply_lays_hosts_out_and_leaves_the_release_to_the_runner(fleet):
    assert "salt-run django.deploy blog makes it" in str(fleet.laid_out["web1"])
    assert fleet.balancer.run("ls /srv/django", check=False).stdout == "", "the site is not on its balancer"


def test_a_deployment_gives_all_hosts_the_same_release(fleet):
    assert fleet.first["hosts"] == fleet.live() and len({*fleet.live().values()}) == 1
    assert {*fleet.commits().values()} == {fleet.first["commit"]}
    assert fleet.answering()["release"] in fleet.live().values()
    assert len(fleet.fingerprints()) == 1


def test_an_apply_after_a_deployment_changes_nothing(fleet):
    for host, states in fleet.apply("*").items():
        assert [state["comment"] for state in states.values() if state["changes"] or not state["result"]] == [], host


def test_deployments_and_a_rollback_lose_no_request(fleet):
    with fleet.lossless() as load:
        newer = fleet.release("2.0")
        back = fleet.run("rollback")
    assert back.returncode == 0, back
    phases = re.findall(r"(?m)^(start|rollback) [0-9.]+ s: (.*)$", back.stderr)
    assert [phase for phase, _ in phases] == ["start", "rollback", "rollback"], "all start before the first switches"
    assert "web1" in phases[0][1] and "web2" in phases[0][1]
    assert load.releases == [fleet.first["hosts"]["web1"], newer["hosts"]["web1"]]
    assert fleet.live() == fleet.first["hosts"]


@pytest.mark.full
def test_a_rollback_to_the_live_commit_names_a_command_that_works(fleet):
    refused = json.loads(fleet.run("rollback", fleet.first["commit"]).stdout)["error"]
    again = re.search(r"salt-run django.deploy blog (\w+) releases its commit anew", refused)
    assert again and fleet.deploy(again[1])["commit"] == fleet.first["commit"]


@pytest.mark.full
def test_a_drained_host_is_shown(fleet):
    fleet.run("drain", "web2").check()
    shown = fleet.run("status")
    rows = json.loads(shown.stdout)["blog"]["hosts"]
    assert shown.returncode == 0 and rows["web2"]["no_requests"] == "lb1: drain" and "no_requests" not in rows["web1"]
    fleet.run("join", "web2").check()
    assert "no_requests" not in json.loads(fleet.run("status").stdout)["blog"]["hosts"]["web2"]


@pytest.mark.full
def test_an_apply_takes_no_host_further_than_the_others(fleet):
    before = fleet.live()
    fleet.repository.commit(version("3.0"))
    fleet.apply("web1")
    assert fleet.live() == before, "neither to the tip of the branch, nor to what was rolled back"
    refused = fleet.master.run(["salt", "--timeout=60", "web1", "django.release", "blog"], check=False)
    assert refused.returncode != 0 and "salt-run django.deploy blog" in refused.stdout


@pytest.mark.full
def test_a_release_that_fails_leaves_all_hosts_as_they_were(fleet):
    before, urls = fleet.live(), fleet.repository.read("website/urls.py")
    fleet.repository.commit({"website/urls.py": "import nothing_there\n"})
    with fleet.lossless():
        failed = fleet.run("deploy")
    fleet.repository.commit({"website/urls.py": urls})
    error = json.loads(failed.stdout)["error"]
    assert failed.returncode == 1 and "web1: " in error and "web2: " in error and "nothing_there" in error
    assert "as before" in error and fleet.live() == before
    assert_nothing_is_left(fleet)


@pytest.mark.full
def test_a_host_that_is_lost_in_a_deployment_is_named_and_comes_back(fleet):
    before, web2 = fleet.live(), fleet.apps[1]
    with fleet.lossless():
        killing = in_phase(fleet, "prepare", lambda: web2.run("systemctl kill --signal=KILL salt-minion"))
        lost = fleet.run("deploy")
        killing.join()
        silent = fleet.run("deploy")
    assert lost.returncode == silent.returncode == 1 and fleet.live() == before
    assert "prepare failed on 1 of the hosts:\nweb2: " in json.loads(lost.stdout)["error"]
    assert "preflight failed on 1 of the hosts:\nweb2: it does not answer" in json.loads(silent.stdout)["error"]
    with fleet.lossless():
        without = fleet.deploy("exclude=web2")
    assert without["hosts"].keys() == {"web1"} and without["warnings"]["web2"][0].startswith("left out: no balancer")
    assert "exclude=web2" in json.loads(silent.stdout)["error"]
    web2.run("until systemctl reset-failed salt-minion; do sleep 0.1; done", timeout=60)
    start_minions(fleet.master, [web2])
    late = fleet.run("status")
    shown = json.loads(late.stdout)["blog"]
    assert (
        late.returncode == 1 and shown["behind"] == ["web2"] and "left out since" in shown["hosts"]["web2"]["excluded"]
    )
    fleet.apply("web2")
    assert fleet.run("status").returncode == 0 and "excluded" not in fleet.run("status").stdout
    assert len({*fleet.commits().values()}) == 1 and fleet.live()["web1"] != before["web1"]
    fleet.deploy()
    assert_nothing_is_left(fleet)


@pytest.mark.full
def test_a_killed_runner_keeps_the_next_deployment_from_nothing(fleet):
    before = fleet.live()
    fleet.repository.commit(version("4.0"))
    lock = f"{STORE}/blog/lock"
    killing = in_phase(
        fleet,
        "prepare",
        lambda: (time.sleep(1), fleet.master.run(f"kill -KILL $(sed -E 's/.*, pid ([0-9]+) of .*/\\1/' {lock})")),
    )
    assert fleet.run("deploy").returncode != 0
    killing.join()
    fleet.master.run(f"while test -s {lock}; do sleep 0.1; done", timeout=120)  # its watcher ends the deployment
    assert fleet.live() == before
    assert_nothing_is_left(fleet)
    fleet.deploy()
    assert len({*fleet.live().values()}) == 1 and fleet.live() != before
    assert_nothing_is_left(fleet)


def test_secrets_are_in_no_log_job_or_event(fleet):
    key = fleet.master.read(f"{STORE}/blog/secret_key")
    for host in (fleet.master, fleet.balancer):
        where = (
            "/var/cache/salt/master/jobs /var/log/salt" if host is fleet.master else "/srv /etc/haproxy /var/log/salt"
        )
        found = host.run(["bash", "-c", f"grep -rlF -e {key!r} {where} 2>/dev/null"], check=False)
        assert found.stdout == "", host.name
    jobs = fleet.master.run(f"grep -rlF {PASSWORD} /var/cache/salt/master/jobs /var/log/salt 2>/dev/null", check=False)
    assert jobs.stdout == ""
