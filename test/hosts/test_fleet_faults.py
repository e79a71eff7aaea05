"""A fleet under faults: each phase of a deployment with each kind of failure, under load through the balancer."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet, Running, await_minions, laid_out
from lab import Host, Result, execute
from sites import version

pytestmark = [pytest.mark.full, pytest.mark.apart(13)]

#: The verb of each phase, and the host on which it fails: in the switch the second one, when the first has switched.
PHASES = {
    "preflight": ("ready", "web2"),
    "claim": ("claim", "web2"),
    "prepare": ("prepare", "web2"),
    "migrate": ("migrate", "web1"),
    "start": ("start", "web2"),
    "switch": ("switch", "web2"),
    "finish": ("finish", "web2"),
}
#: Seconds from a failure until the other hosts serve the release of before: the master's patience and a way back.
LIMIT = 25

#: What makes a verb on a test host wait where the test says so: the file with its name, which is then answered by
#: another one with the number of the process.
_WAITS = """    import os
    import sys
    import time

    name = sys._getframe(1).f_code.co_name
    if os.path.exists(f"/run/hold-{name}"):
        with open(f"/run/held-{name}", "w") as file:
            file.write(str(os.getpid()))
        while os.path.exists(f"/run/hold-{name}"):
            time.sleep(0.02)
    try:
        return verb()
"""


@pytest.fixture(scope="module")
def fleet(module_hosts, tmp_path_factory) -> Fleet:
    """A balancer, and three hosts of different releases of Debian; the database is on the master's."""
    return laid_out(module_hosts, tmp_path_factory.mktemp("repository"), 3, prepare=prepare)


def prepare(master: Host) -> None:
    """Have verbs wait where a test wants to act in the middle of them."""
    path = "/srv/formula/_modules/django_fleet.py"
    code = master.read(path)
    changed = code.replace("    try:\n        return verb()\n", _WAITS)
    assert changed.count("/run/hold-") == 2
    master.write(path, changed)
    master.run(["python3", "-B", "/srv/formula/engine/pack.py"])


@contextlib.contextmanager
def held(host: Host, verb: str) -> Iterator[None]:
    """A verb waits on a host until the end of the block, or until it is let go."""
    host.run(f"rm -f /run/held-{verb}; touch /run/hold-{verb}")
    try:
        yield
    finally:
        host.run(f"rm -f /run/hold-{verb}", check=False)


def wait_for(host: Host, verb: str, running: Running) -> str:
    """Wait until a verb waits on a host; return the number of its process."""
    while not (pid := host.run(f"cat /run/held-{verb}", check=False).stdout.strip()):
        assert running.is_alive(), f"{verb} was not called on {host.name}: {running.done}"
        time.sleep(0.02)
    return pid


def link(host: Host, state: str) -> None:
    """Cut a host off from the network (``down``), or connect it again (``up``)."""
    number = host.run(["cat", "/sys/class/net/eth0/iflink"]).stdout.strip()
    for path in Path("/sys/class/net").glob("*/ifindex"):
        if path.read_text().strip() == number:
            execute(["ip", "link", "set", path.parent.name, state], True, "", 10)


def strike(fleet: Fleet, host: Host, pid: str, kind: str) -> None:
    """Let something happen to a host whose process `pid` is in the middle of a verb, or to the master."""
    if kind == "minion":  # the job goes on, and its answer reaches no one
        host.run(f"pgrep -f salt-minio[n] | grep -vx {pid} | xargs kill -KILL")
    elif kind == "job":
        host.run(["kill", "-KILL", pid])
    elif kind == "host":
        host.kill()
    elif kind in ("cut", "blink"):
        link(host, "down")
        if kind == "blink":
            time.sleep(3)
            link(host, "up")
    elif kind == "master":
        fleet.master.run(["systemctl", "restart", "salt-master"])
    elif kind == "runner":
        fleet.master.run("pkill -KILL -f 'salt-ru[n].*django.deploy'")


def mend(fleet: Fleet, host: Host, kind: str) -> None:
    """Bring a host, or the master, back, and apply once on the host."""
    if kind == "host":
        host.start()
    elif kind == "cut":
        link(host, "up")
    elif kind == "minion":
        host.run(["systemctl", "restart", "salt-minion"])
    await_minions(fleet.master, fleet.apps)
    for states in fleet.apply(host.name).values():
        assert [state["comment"] for state in states.values() if state["result"] is False] == []


#: What a kind of failure leads to: an error that names the host; a deployment that is done all the same; no one who
#: could say anything; either of the first two.
KINDS = {
    **dict.fromkeys(("minion", "job", "host", "cut"), "error"),
    "blink": "done",
    "master": "either",
    "runner": "silence",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("phase", PHASES)
def test_a_deployment_is_made_on_all_hosts_or_on_none(fleet, phase, kind):
    verb, victim = PHASES[phase]
    host = next(one for one in fleet.apps if one.name == victim)
    before = {*fleet.commits().values()}
    commit = fleet.repository.commit(version(f"{phase} {kind}"))
    with fleet.lossless():
        with held(host, verb):
            running = Running(fleet)
            pid = wait_for(host, verb, running)
            began = time.monotonic()
            strike(fleet, host, pid, kind)
        done = running.result()
        seconds = running.ended - began
        error = error_of(done)
        print(f"| {phase} | {kind} | exit {done.returncode} | {seconds:.1f} s | {error} |")
        if KINDS[kind] == "silence":
            seconds += settled(fleet)
        others = {*fleet.commits(but=host).values()}
        is_done = phase == "finish" or not done.returncode
        assert others == ({commit} if is_done else before)
        assert seconds < LIMIT + fleet.first["seconds"]  # a busy machine takes longer for all
        judge(phase, kind, victim, done, error)
        mend(fleet, host, kind)
    assert {*fleet.commits().values()} == ({commit} if is_done else before)
    assert fleet.run("status").returncode == 0
    assert fleet.left() == ""
    assert {*map(len, fleet.instances().values())} == {1}, fleet.instances()


def error_of(done: Result) -> str:
    """What a deployment gives as its error; empty without one."""
    with contextlib.suppress(ValueError):
        found = json.loads(done.stdout)
        return str(found.get("error", "")) if isinstance(found, dict) else str(found)  # Salt's own, of an exception
    return done.stderr.strip().rpartition("\n")[2]


def judge(phase: str, kind: str, victim: str, done: Result, error: str) -> None:
    """What a deployment answers is true, and names host, phase and reason."""
    if KINDS[kind] == "error":
        assert done.returncode == 1 and error.startswith(f"{phase} failed on 1 of the hosts:\n{victim}: "), error
    elif KINDS[kind] == "done" and phase != "preflight":  # which says within ten seconds that a host does not answer
        assert done.returncode == 0, error
    elif KINDS[kind] == "silence":
        assert done.returncode != 0
    else:
        assert done.returncode == 0 or f"{phase} failed" in error, error


def settled(fleet: Fleet) -> float:
    """Wait until no host has a claim any more; return how long that took."""
    began = time.monotonic()
    while fleet.left() and time.monotonic() < began + 300:
        time.sleep(0.2)
    assert fleet.left() == ""
    return time.monotonic() - began


def database(fleet: Fleet, action: str) -> None:
    fleet.database.run(["systemctl", action, "postgresql"])


def await_site(fleet: Fleet) -> None:
    """Wait until the balancer gives every host requests again."""
    limit = time.monotonic() + 300
    while "False" in fleet.master.run(["salt", "lb1", "django_fleet.backend", "blog", "--out=txt"]).stdout:
        assert time.monotonic() < limit
        time.sleep(0.5)


def test_a_database_that_is_down_before_the_deployment_is_named(fleet):
    before = fleet.live()
    fleet.repository.commit(version("database down"))
    database(fleet, "stop")
    try:
        done = fleet.run("deploy")
    finally:
        database(fleet, "start")
    error = error_of(done)
    print(f"| - | database down | exit {done.returncode} | - | {error} |")
    assert done.returncode == 1 and " failed on " in error and "web1: " in error
    assert fleet.database.address in error and "refused" in error
    assert fleet.live() == before and fleet.left() == ""
    await_site(fleet)


#: A migration in which the server of the database stops.
SLOW = """from django.db import migrations

class Migration(migrations.Migration):
    dependencies = [("guestbook", "0003_entry_hidden")]
    operations = [migrations.RunSQL("SELECT pg_sleep(30)", migrations.RunSQL.noop)]
"""


def test_a_database_that_stops_in_the_migration_is_named(fleet):
    before = fleet.live()
    fleet.repository.commit({"guestbook/migrations/0004_slow.py": SLOW})
    running = Running(fleet)
    query = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep(%'"
    try:
        fleet.database.run(
            "until su postgres -c 'psql -At' <<<$SQL | grep 1; do sleep 0.1; done",
            environment={"SQL": query},
            timeout=120,
        )
        database(fleet, "stop")
        done = running.result()
    finally:
        database(fleet, "start")
        fleet.repository.commit({"guestbook/migrations/0004_slow.py": None})
    error = error_of(done)
    print(f"| migrate | database stops | exit {done.returncode} | - | {error} |")
    assert done.returncode == 1 and error.startswith("migrate failed on 1 of the hosts:\nweb1: migration: ")
    assert fleet.live() == before and fleet.left() == ""
    await_site(fleet)
    fleet.deploy()
