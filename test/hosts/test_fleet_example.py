"""`examples/fleet.sls` on six hosts, as its first lines say. Only the repository is another one."""

from pathlib import Path

import pytest
import yaml
from fleet import Fleet, start_master, start_minions
from test_fleet_cache import FILES, CacheFleet

pytestmark = pytest.mark.full
EXAMPLE = Path(__file__).parents[2] / "examples/fleet.sls"


@pytest.fixture(scope="module")
def fleet(module_hosts, tmp_path_factory) -> CacheFleet:
    """The hosts, before anything is applied on them."""
    master, database, balancer = (module_hosts(name=name) for name in ("master", "db1", "lb1"))
    apps = [module_hosts(kind="ready", name=name) for name in ("web1", "web2", "jobs1")]
    start_master(master)
    start_minions(master, [*apps, database, balancer])
    fleet = CacheFleet(master, apps, database, tmp_path_factory.mktemp("repository"))
    fleet.balancer, fleet.cache = balancer, database
    fleet.repository.commit(FILES)
    options = yaml.safe_load(EXAMPLE.read_text())["django"]["sites"]["blog"]
    fleet.options = {**options, "repository": fleet.repository.url, "revision": "main"}
    fleet.configure()
    return fleet


def test_the_example_is_applied_as_it_is(fleet: Fleet) -> None:
    assert isinstance(fleet, CacheFleet)
    fleet.laid_out = fleet.apply("db1")
    assert fleet.failed() == {"db1": []}
    fleet.settle()
    fleet.deploy()
    with fleet.lossless():
        assert fleet.settle() == {}, "the second apply changes nothing"
    web1, web2, jobs1 = fleet.apps
    task = "from website.celery import note; note.delay(7).forget()"
    ran = (
        "import time; from django.core.cache import cache; [time.sleep(cache.get('note-7') is None) for _ in range(60)]"
    )
    fleet.python(web1, task)
    assert fleet.python(web2, f"{ran}; print(cache.get('note-7'))") == jobs1.name
