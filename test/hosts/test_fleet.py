"""One site on several hosts of a master: deployments of all or none, rollbacks, plain applies between them."""

import pytest
from fleet import Fleet, start_database, start_master, start_minions


@pytest.fixture(scope="module")
def fleet(module_hosts, tmp_path_factory) -> Fleet:
    """Two hosts of different releases of Debian, laid out by the first apply and released by the runner."""
    master, database = module_hosts(name="master"), module_hosts(name="db1")
    apps = [module_hosts("bookworm", kind="ready", name="web1"), module_hosts("trixie", kind="ready", name="web2")]
    start_master(master)
    start_database(database)
    start_minions(master, apps)
    fleet = Fleet(master, apps, database, tmp_path_factory.mktemp("repository"))
    fleet.configure()
    fleet.laid_out = fleet.apply()
    for host, states in fleet.laid_out.items():
        failed = [state["comment"] for state in states.values() if state["result"] is False]
        assert failed == [], host
    fleet.first = fleet.deploy()
    return fleet


def test_first_apply_lays_hosts_out_and_leaves_the_release_to_the_runner(fleet):
    for host, states in fleet.laid_out.items():
        assert any("salt-run django.deploy blog makes it" in str(state) for state in states.values()), host


def test_a_deployment_gives_all_hosts_the_same_release(fleet):
    assert len({*fleet.live().values()}) == 1, fleet.live()
    assert {*fleet.commits().values()} == {fleet.first["commit"]}
    assert fleet.first["hosts"] == fleet.live()
