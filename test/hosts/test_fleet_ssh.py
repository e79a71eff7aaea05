"""One site on several hosts without Salt, by salt-ssh: releases on all or none, as with minions."""

import json
import threading
import time
from typing import Any

import pytest
from driven import reachable_by_ssh
from fleet import MASTER, STORE, Fleet, Running, answer_of, start_database
from lab import Result, podman
from sites import until, version
from watching import channel, receive, told

pytestmark = pytest.mark.full


class ByRoster(Fleet):
    """A site on several hosts of a roster."""

    def run(self, verb: str, *arguments: str, timeout: float = 600) -> Result:
        return super().run(verb, *arguments, "roster=True", timeout=timeout)

    def apply(self, target: str = "*") -> dict[str, Any]:
        argv = ["salt-ssh", "--out=json", "--static", "--log-level=warning", target, "state.apply", "django"]
        found: dict[str, Any] = json.loads(self.master.run(argv, check=False, timeout=900).stdout)
        return found


@pytest.fixture(scope="module")
def fleet(module_hosts, tmp_path_factory) -> ByRoster:
    """A balancer and two hosts of different releases of Debian, after the first deployment; no master runs."""
    desk, database = module_hosts(name="desk"), module_hosts(name="db1")
    apps = [module_hosts("bookworm", kind="bare", name="web1"), module_hosts("trixie", kind="bare", name="web2")]
    hosts = [*apps, module_hosts(kind="bare", name="lb1")]
    for host in hosts:
        host.run("rm -r /srv/formula")
    reachable_by_ssh(desk, *hosts)
    desk.write("/etc/salt/master", json.dumps(MASTER))
    entry = {"user": "root", "priv": "/root/.ssh/id_ed25519"}
    desk.write("/etc/salt/roster", json.dumps({host.name: {"host": host.name, **entry} for host in hosts}))
    start_database(database)
    fleet = ByRoster(desk, apps, database, tmp_path_factory.mktemp("repository"))
    fleet.balancer = hosts[-1]
    fleet.configure(hosts={"web*": ["app"], "lb1": ["balancer"]})
    fleet.laid_out = fleet.apply()
    assert fleet.failed() == {"lb1": [], "web1": [], "web2": []}
    fleet.first = fleet.deploy()
    return fleet


def test_a_deployment_gives_all_hosts_the_same_release(fleet):
    assert fleet.first["hosts"] == fleet.live() and len({*fleet.live().values()}) == 1
    assert {*fleet.commits().values()} == {fleet.first["commit"]}
    assert fleet.answering()["release"] in fleet.live().values()
    key = fleet.master.read(f"{STORE}/blog/secret_key")
    for host in fleet.apps:
        assert key in host.read("/srv/django/blog/secrets/secret_key.json")
        assert host.run("command -v salt-call salt-minion", check=False).returncode == 1


def test_an_apply_stays_with_the_release_that_the_hosts_have_in_common(fleet):
    before = fleet.live()
    fleet.repository.commit(version("2.0"))
    for host, states in fleet.apply().items():
        assert [state["comment"] for state in states.values() if state["changes"] or not state["result"]] == [], host
    assert fleet.live() == before


def test_a_release_and_its_rollback(fleet):
    before = fleet.commits()
    assert {*fleet.release("3.0")["hosts"]} == {"web1", "web2"}
    assert fleet.commits() != before and fleet.run("status").returncode == 0
    fleet.run("rollback").check()
    assert fleet.commits() == before


def test_a_release_has_a_canary(fleet):
    """Its programs go on without any Salt; what each decides is in test_fleet_canary.py."""
    fleet.configure(proxy={"access_log": "json"}, releases={"canary": {"steps": {"10%": "30s"}, "requests": 0}})
    assert not any(fleet.failed(fleet.apply()).values())
    fleet.deploy()
    fleet.repository.commit(version("3.5"))
    done = fleet.run("deploy").check()
    for text in ("gets 10 % of the visitors, until", "has passed, and waits for the other hosts"):
        assert text in done.stderr, done.stderr
    assert answer_of(done)["hosts"] == fleet.live() and "without a canary" not in done.stdout
    fleet.configure(releases={"canary": {"steps": {"10%": "30m"}}})
    assert not any(fleet.failed(fleet.apply()).values())
    fleet.repository.commit(version("3.6"))
    running = Running(fleet)
    begun = ["test", "-e", "/run/django/blog.canary/on"]
    until(lambda: not any(host.run(begun, check=False).returncode for host in fleet.apps))
    assert answer_of(fleet.run("canary", "share=40").check())["share"] == "40 %"
    argv = ["salt-ssh", "--out=json", "--static", "--log-level=warning", "web*", "django.proof", "blog"]
    proofs = json.loads(fleet.master.run(argv).stdout)
    assert {name for name, proof in proofs.items() if " gets 40 % " in proof["now"]} == {"web1", "web2"}, proofs
    answer = answer_of(fleet.run("promote").check())
    assert answer_of(running.result().check())["hosts"] == fleet.live()
    assert {*fleet.commits().values()} == {answer["commit"]}
    fleet.configure(releases=None)
    assert not any(fleet.failed(fleet.apply()).values())


def test_a_host_is_drained_and_joins_again(fleet):
    assert "drain" in fleet.run("drain", "web2").check().stdout.lower()
    assert "drain" not in fleet.run("join", "web2").check().stdout.lower()


def test_a_second_deployment_is_refused_with_who_and_when(fleet):
    """By the lock of this store, and by the claims on hosts for another master."""
    refused: list[Result] = []
    waiting = threading.Thread(target=lambda: refused.append(second_in_phase(fleet, "prepare")))
    waiting.start()
    fleet.deploy()
    waiting.join()
    assert refused[0].returncode == 1 and "roster=True on desk), pid" in json.loads(refused[0].stdout)["error"]
    claim = ["other", "alice (salt-run django.deploy on master2)", str(time.time() + 300)]
    fleet.master.run(["salt-ssh", "web2", "django_fleet.claim", "blog", *claim])
    held = fleet.run("deploy")
    assert held.returncode == 1 and "web2: it is being deployed by alice" in json.loads(held.stdout)["error"]
    fleet.run("abandon").check()
    fleet.deploy()


def second_in_phase(fleet: Fleet, phase: str) -> Result:
    limit = time.monotonic() + 120
    while f"phase {phase}" not in fleet.master.run(["cat", f"{STORE}/blog/lock"], check=False).stdout:
        assert time.monotonic() < limit, f"there was no phase {phase}"
        time.sleep(0.05)
    return fleet.run("deploy")


def test_a_host_that_is_lost_in_a_deployment_is_named_and_comes_back(fleet):
    before, web2 = fleet.live(), fleet.apps[1]
    fleet.repository.commit(version("4.0"))
    lost: list[Result] = []
    deploying = threading.Thread(target=lambda: lost.append(fleet.run("deploy")))
    deploying.start()
    limit = time.monotonic() + 120
    while web2.run("test -e /srv/django/blog/claim.json", check=False).returncode:
        assert time.monotonic() < limit, "web2 was not claimed"
    podman("pause", web2.container)
    try:
        deploying.join()
        silent = fleet.run("status")
    finally:
        podman("unpause", web2.container)
    error = json.loads(lost[0].stdout)["error"]
    assert lost[0].returncode == 1 and "failed on 1 of the hosts:\nweb2: " in error and "as before" in error
    assert silent.returncode == 1 and json.loads(silent.stdout)["blog"]["behind"] == ["web2"]
    assert fleet.live() == before
    fleet.deploy()
    assert len({*fleet.live().values()}) == 1 and fleet.live() != before


def test_hosts_are_watched_by_salt_ssh_and_are_on_one_page(fleet):
    desk, web2 = fleet.master, fleet.apps[1]
    receive(desk)
    own = {"watch": {"fleet": "desk", "roster": True}, "page": {"hosts": "all"}}
    pillar = {"django": {**own, "notify": {"all": channel("all", kinds=["silent", "released"])}, "sites": {}}}
    desk.write("/srv/desk/top.sls", json.dumps({"base": {"*": ["desk"]}}))
    desk.write("/srv/desk/desk.sls", json.dumps(pillar))
    roots = ["--file-root=/srv/formula", "--pillar-root=/srv/desk", "--retcode-passthrough"]
    desk.run(["salt-call", "--local", "--id=desk", *roots, "state.apply", "django"])
    desk.run(["systemctl", "stop", "django-fleet-watch.timer"])

    def look(times: int) -> list[tuple[str, str, str]]:
        for _round in range(times):
            desk.run(["systemctl", "start", "django-fleet-watch.service"], timeout=150)
        waiting = "ls /var/lib/django-formula/watch/spool/all/*.json"
        until(lambda: desk.run(waiting, check=False).returncode)
        messages = [one for batch in told(desk).get("all", []) for one in batch.messages]
        return [(one["what"], one["kind"], one.get("host") or one["site"]) for one in messages]

    def page() -> str:
        return desk.read("/var/lib/django-formula/page/index.html")

    assert look(1) == [] and all(f"<h2>{name}" in page() for name in ("web1", "web2"))
    fleet.release("4.1")
    assert look(1) == [("event", "released", "blog")]
    podman("pause", web2.container)
    try:
        assert look(2)[1:] == [("problem", "silent", "web2")] and "web2 is silent: " in page()
        row = told(desk)["all"][-1].messages[0]
        assert row["command"] == "salt-ssh web2 test.ping" and row["text"].endswith("; blog is served by web1"), row
    finally:
        podman("unpause", web2.container)
    assert look(4)[2:] == [("good", "silent", "web2")] and "is silent" not in page()
    argv = ["salt-run", "--out=json", "--log-level=warning", "django.dashboard", "/srv/status", "roster=True"]
    written = json.loads(desk.run(argv).stdout)
    assert written == {"page": "/srv/status/index.html", "hosts": ["web1", "web2"], "silent": {}}
    desk.write("/srv/desk/desk.sls", json.dumps({"django": {"sites": {}}}))
    desk.run(["salt-call", "--local", "--id=desk", *roots, "state.apply", "django"])
    assert desk.run("ls /etc/systemd/system/django-* /var/lib/django-formula/watch", check=False).stdout == ""


def test_a_commit_is_promoted_once_it_has_proved_itself_and_was_approved(fleet):
    """From `staging` to `live` on a host without Salt; web1 has another Python, which would refuse it."""

    def run(verb: str, *arguments: str, user: str = "ada") -> Result:
        argv = ["salt-run", "--out=json", "--log-level=warning", f"django.{verb}", *arguments]
        return fleet.master.run(argv, check=False, timeout=600, environment={"SUDO_USER": user})

    def commit_of(site: str) -> str:
        return web2.run(["cat", f"/srv/django/{site}/current/commit"], check=False).stdout

    web2 = fleet.apps[1]
    options = {**fleet.options, "database": {"engine": "sqlite"}}
    staging = options | {"hosts": {"web2": ["app"]}, "domains": ["staging.example.org"]}
    live = options | {"hosts": {"web2": ["app"]}, "domains": ["live.example.org"]}
    fleet.master.pillar({"django": {"sites": {"blog": fleet.options, "staging": staging, "live": live}}})
    applied = fleet.apply("web2")
    assert not any(fleet.failed(applied).values()), applied
    rows = answer_of(run("deploy", "live,staging", "roster=True").check())["sites"]
    assert [row["result"] for row in rows] == ["released", "released"], rows
    live["promote"] = {"from": "staging", "after": "5s", "approve": 1}
    fleet.master.pillar({"django": {"sites": {"blog": fleet.options, "staging": staging, "live": live}}})
    fleet.apply("web2")
    fleet.repository.commit(version("5.0"))
    refused = run("request", "live", "roster=True")
    assert refused.returncode and "live gets its commits from staging" in refused.stdout, refused
    run("deploy", "staging", "roster=True").check()
    before, new = commit_of("live"), commit_of("staging")
    early = run("promote", "live", new, "roster=True")
    assert early.returncode and "approvals by others: 0 of 1" in early.stdout, early
    assert answer_of(run("approve", "live", new[:12], user="ben").check())["approved_by"] == ["ben"]
    assert commit_of("live") == before != new
    time.sleep(5)
    web2.run("systemctl stop 'django-staging-*.socket' 'django-staging-*.service'")
    refused = run("promote", "live", new, "roster=True")
    assert refused.returncode and "web2 of staging does not answer well" in refused.stdout, refused
    assert commit_of("live") == before
    fleet.apply("web2")
    answer = answer_of(run("promote", "live", new, "roster=True").check())
    assert answer["status"] == "released" and commit_of("live") == new, answer
    assert answer["plan"]["release"]["new"] != answer["plan"]["release"]["old"], answer
    (row, *_rest) = answer_of(run("requests", "live"))["live"]
    assert row["by"].startswith("ada") and "promote from staging" in row["by"]
    refused = fleet.master.run(["salt-ssh", "web2", "django.promote", "live"], check=False)
    assert "salt-run django.promote live" in refused.stdout + refused.stderr, refused
