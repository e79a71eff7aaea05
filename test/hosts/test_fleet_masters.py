"""Two masters of the same minion, with one store on a mount that both have: one deployment at a time."""

import json
import threading
import time

import pytest
from conftest import Hosts
from fleet import STORE, Fleet, await_minions, start_master, start_salt
from lab import Host, Result
from sites import version

pytestmark = pytest.mark.full
KEYS = "/etc/salt/pki/master"


@pytest.fixture(scope="module")
def masters(module_hosts: Hosts, tmp_path_factory: pytest.TempPathFactory) -> list[Fleet]:
    """One site as each of its two masters sees it, after the first apply and deployment by the first."""
    store = tmp_path_factory.mktemp("store")
    hosts = [module_hosts(name=name, options=[f"--volume={store}:{STORE}"]) for name in ("master1", "master2")]
    web1 = module_hosts(kind="ready", name="web1")
    start_master(hosts[0])
    hosts[0].run(f"until [ -s {KEYS}/master.pub ]; do sleep 0.2; done")
    hosts[1].run(["mkdir", "--parents", KEYS])
    for name in ("master.pem", "master.pub"):
        hosts[1].write(f"{KEYS}/{name}", hosts[0].read(f"{KEYS}/{name}"), mode="0600")
    start_master(hosts[1])
    web1.run("rm -rf /srv/formula /srv/pillar")
    start_salt(web1, "minion", {"id": "web1", "master": [host.name for host in hosts]})
    fleets = [Fleet(host, [web1], web1, tmp_path_factory.mktemp("repository")) for host in hosts]
    for fleet in fleets:
        fleet.repository = fleets[0].repository
        await_minions(fleet.master, [web1])
        fleet.configure(hosts={"web1": ["app"]}, database={"engine": "sqlite"})
    assert fleets[0].failed(fleets[0].apply()) == {"web1": []}
    fleets[0].deploy()
    return fleets


def during_phase(fleet: Fleet, phase: str) -> None:
    """Wait until a deployment is in a phase."""
    limit = time.monotonic() + 120
    while f"phase {phase}" not in fleet.master.run(["cat", f"{STORE}/blog/lock"], check=False).stdout:
        assert time.monotonic() < limit, f"there was no phase {phase}"
        time.sleep(0.05)


def test_the_second_master_is_refused_while_the_first_deploys(masters: list[Fleet]) -> None:
    first, second = masters
    first.repository.commit(version("2.0"))
    deployed: list[Result] = []
    deploying = threading.Thread(target=lambda: deployed.append(first.run("deploy")))
    deploying.start()
    during_phase(first, "prepare")
    refused = second.run("deploy")
    deploying.join()
    assert deployed[0].check()
    error = json.loads(refused.stdout)["error"]
    assert refused.returncode == 1
    assert "salt-run django.deploy on master1" in error and "of master1, since " in error and "phase prepare" in error


def test_the_second_master_deploys_and_the_first_knows(masters: list[Fleet]) -> None:
    first, second = masters
    before = first.live()
    second.release("3.0")
    assert first.live() != before
    for fleet in masters:
        assert fleet.run("status").returncode == 0
        states = fleet.apply()["web1"].values()
        assert [state["comment"] for state in states if state["changes"] or not state["result"]] == []


def test_the_second_master_deploys_after_the_first_has_died_in_a_deployment(masters: list[Fleet]) -> None:
    first, second = masters
    first.repository.commit(version("4.0"))
    deploying = threading.Thread(target=lambda: first.run("deploy"))
    deploying.start()
    during_phase(first, "prepare")
    kill(first.master)
    deploying.join()
    limit = time.monotonic() + 120
    while (done := second.run("deploy")).returncode:
        assert "master1" in json.loads(done.stdout)["error"] and time.monotonic() < limit, done.stdout
        time.sleep(2)
    assert second.repository.git("rev-parse", "HEAD").strip() in second.commits()["web1"] and second.left() == ""


def kill(master: Host) -> None:
    """End Salt's master and its runners at once."""
    master.run("systemctl kill --signal=KILL salt-master; pkill -KILL -f salt-run", check=False)
