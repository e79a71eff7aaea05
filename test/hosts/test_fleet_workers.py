"""Workers on a host of their own: what becomes of tasks while all hosts of the site are released and rolled back."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from fleet import Fleet, start_database, start_master, start_minions
from lab import Host
from test_fleet import assert_nothing_is_left, in_phase
from test_workers import CELERY, SEND, WORK, Log, generation

pytestmark = pytest.mark.full

PASSWORD = "canary-9d1f40-of-the-queue"
WORKERS = {"default": {"kind": "celery", "processes": 4}, "beat": {"kind": "celery_beat"}}
WORKERS["ticks"] = {"kind": "celery", "queues": ["ticks"], "processes": 1}
HOSTS = {"web*": ["app"], "jobs1": ["worker"]}


@pytest.fixture(scope="module")
def fleet(module_hosts, tmp_path_factory) -> Fleet:
    """Two hosts that serve a site, and one that runs its workers, whose queue is a Redis of a company's own."""
    master, database = (module_hosts(name=name) for name in ("master", "db1"))
    apps = [module_hosts(kind="ready", name=name) for name in ("web1", "web2", "jobs1")]
    start_master(master)
    start_database(database)
    database.run("apt-get -qq install --no-install-recommends redis-server >/dev/null", timeout=300)
    options = ["--bind", "0.0.0.0", "--port", "6390", "--requirepass", PASSWORD, "--save", ""]
    database.run(["systemd-run", "--quiet", "--unit=queue", "redis-server", *options])
    start_minions(master, apps)
    fleet = Fleet(master, apps, database, tmp_path_factory.mktemp("repository"))
    files = {"website/__init__.py": "", "website/work.py": WORK, "website/celery.py": CELERY}
    requirements = fleet.repository.read("requirements.txt") + "celery[redis]==5.7.0\n"
    fleet.repository.commit({**files, **generation(0), "requirements.txt": requirements})
    fleet.repository.push()
    queue = {"engine": "redis", "host": database.address, "port": 6390, "password": PASSWORD}
    fleet.configure(hosts=HOSTS, queue=queue, workers=WORKERS, releases={"keep": 3, "watch": "0s"})
    fleet.laid_out = fleet.apply("*")
    assert fleet.failed() == {"jobs1": [], "web1": [], "web2": []}
    fleet.first = fleet.deploy()
    return fleet


def jobs(fleet: Fleet) -> Host:
    return fleet.apps[2]


def redis(fleet: Fleet, *words: str) -> str:
    argv = ["redis-cli", "-p", "6390", "--no-auth-warning", "-a", PASSWORD, *words]
    return fleet.database.run(argv).stdout.strip()


@contextmanager
def sending(fleet: Fleet, count: int, pause: float) -> Iterator[None]:
    """The first host that serves sends tasks, of names that its release knows; all were sent when the block ends."""
    web = fleet.apps[0]
    jobs(fleet).run("rm -f /srv/django/blog/shared/work.log")
    broker = f"redis://:{PASSWORD}@{fleet.database.address}:6390/0"
    web.write("/srv/send.py", SEND.replace("BROKER", broker))
    python = web.run("readlink -f /srv/django/blog/current/virtualenv").stdout.strip() + "/bin/python"
    web.run(["systemd-run", "--quiet", "--unit=sending", python, "/srv/send.py", str(count), f"{pause:.3f}"])
    try:
        yield
        deadline = time.monotonic() + count * (pause + 0.1) + 300
        while web.run("systemctl is-active sending", check=False).stdout.strip() == "active":
            assert time.monotonic() < deadline
            time.sleep(1)
        assert web.run("systemctl is-failed sending", check=False).returncode, "sending failed"
    finally:
        web.run("systemctl stop sending; systemctl reset-failed sending", check=False)


def assert_each_ran_once(fleet: Fleet, count: int) -> Log:
    """All tasks have ended, each once; what was written is returned."""
    deadline = time.monotonic() + 300
    while len((log := Log(jobs(fleet))).ended) < count and time.monotonic() < deadline:
        time.sleep(1)
    lost = [number for number in range(count) if number not in log.ended]
    doubled = [number for number, times in log.ended.items() if times > 1]
    assert (lost, doubled) == ([], []), (len(lost), len(doubled), redis(fleet, "LLEN", "celery.unknown"))
    assert log.begun == log.ended
    return log


def units(host: Host) -> set[str]:
    """The units of the site that run, without the number of their release."""
    text = host.run("systemctl list-units --plain --no-legend --state=active 'django-blog-*.service'").stdout
    return {line.split()[0].removesuffix(".service").partition("-0")[2][3:] for line in text.splitlines()}


def test_workers_are_on_their_own_host_alone(fleet):
    assert len({*fleet.live().values()}) == 1 and len({*fleet.commits().values()}) == 1
    web1, web2, jobs1 = (units(host) for host in fleet.apps)
    assert web1 == web2 == {""} and jobs1 == {"-default", "-beat", "-ticks"}
    assert jobs(fleet).run("grep -rl blog /etc/nginx", check=False).stdout == ""
    name = jobs(fleet).name
    argv = ["salt", "--timeout=60", "--out=json", "--static", name, "django.workers", "blog", "full=True"]
    answer = fleet.master.run(argv)
    assert {row["worker"] for row in json.loads(answer.stdout)[name]} == {*WORKERS}


def test_an_apply_after_a_deployment_changes_nothing(fleet):
    for host, states in fleet.apply("*").items():
        assert [state["comment"] for state in states.values() if state["changes"] or not state["result"]] == [], host


@pytest.mark.parametrize(("count", "releases", "taken_back"), [(1500, 6, {2, 5})])
def test_deployments_and_rollbacks_lose_no_task(fleet, count, releases, taken_back):
    begun = time.monotonic()
    fleet.repository.commit(generation(1))
    fleet.deploy()
    took = time.monotonic() - begun
    parked = 0
    with sending(fleet, count, (releases + len(taken_back)) * took / count):
        for number in range(1, releases + 1):
            fleet.repository.commit(generation(1 + number))
            done = fleet.deploy()
            assert "in time" not in str(done.get("warnings"))
            if number in taken_back:
                time.sleep(2)
                fleet.run("rollback").check()
                time.sleep(2)
                parked += int(redis(fleet, "LLEN", "celery.unknown"))
    fleet.repository.commit(generation(2 + releases))
    fleet.deploy()
    log = assert_each_ran_once(fleet, count)
    assert len({*log.releases.values()}) >= 3
    print(f"{count} tasks, {releases} releases, {len(taken_back)} taken back, {parked} parked: 0 lost, 0 doubled")


def test_workers_lost_in_the_switch_take_all_hosts_back(fleet):
    before, count = fleet.live(), 150
    fleet.repository.commit(generation(20))
    with sending(fleet, count, 0.1):
        killing = in_phase(fleet, "switch", lambda: jobs(fleet).run("systemctl kill --signal=KILL salt-minion"))
        lost = fleet.run("deploy")
        killing.join()
    assert lost.returncode == 1 and fleet.live() == before
    assert "switch failed on 1 of the hosts:\njobs1: " in json.loads(lost.stdout)["error"]
    jobs(fleet).run("until systemctl reset-failed salt-minion; do sleep 0.1; done", timeout=60)
    start_minions(fleet.master, [jobs(fleet)])
    fleet.apply("jobs1")
    assert fleet.live() == before
    fleet.deploy()
    assert_each_ran_once(fleet, count)
    assert_nothing_is_left(fleet)


def test_a_late_host_for_workers_comes_to_the_others_by_an_apply(fleet):
    fleet.configure(hosts={"web*": ["app"]})
    fleet.apply("web*")
    assert units(fleet.apps[0]) == {"", "-default", "-beat", "-ticks"}
    fleet.release("7.0")
    fleet.configure(hosts=HOSTS)
    fleet.apply("web*")
    assert [units(host) for host in fleet.apps[:2]] == [{""}, {""}]
    late = fleet.run("status")
    assert late.returncode == 1 and json.loads(late.stdout)["blog"]["behind"] == ["jobs1"], late
    fleet.apply("jobs1")
    assert fleet.run("status").returncode == 0 and len({*fleet.commits().values()}) == 1
    with sending(fleet, 30, 0.01):
        pass
    assert_each_ran_once(fleet, 30)


def test_a_host_that_loses_its_part_is_cleaned_of_it(fleet):
    fleet.configure(hosts={"web*": ["app"]})
    fleet.apply("*")
    assert units(jobs(fleet)) == set() and units(fleet.apps[1]) == {"", "-default", "-ticks"}
    assert jobs(fleet).run("ls /srv/django/blog/current", check=False).returncode
