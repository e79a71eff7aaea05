"""A fleet for long: many deployments and rollbacks under load, many applies at once, hosts that come late."""

import json
import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from client import Load
from fleet import STORE, Fleet, await_minions, laid_out
from lab import Host, Result
from sites import release_of, version

pytestmark = pytest.mark.full

STYLE = "guestbook/static/guestbook/style.css"
TARGETS = ("web*", "web1", "web2", "web3")
MIGRATION = """from django.db import migrations, models

class Migration(migrations.Migration):
    dependencies = [("guestbook", "{before}")]
    operations = [{operation}]
"""


@pytest.fixture(scope="module")
def fleet(module_hosts, tmp_path_factory) -> Fleet:
    """A balancer, and three hosts of different releases of Debian; the database is on the master's."""
    return laid_out(module_hosts, tmp_path_factory.mktemp("repository"), 3)


def visitors(fleet: Fleet, path: str = "/release", **options: object) -> Load:
    """About a hundred requests a second at the balancer."""
    given: dict[str, object] = {"connections": 4, "pause": 0.035, "release": release_of, "seconds": 1800, **options}
    return Load(f"http://{fleet.balancer.address}{path}", "blog.example.org", **given)  # type: ignore[arg-type]


def test_deployments_and_rollbacks_lose_no_request_and_no_static_file(fleet):
    pages, broken = [], []

    def look(body: bytes) -> None:
        found = {path.decode() for path in re.findall(rb'"(/static/[^"]+)"', body)}
        pages.append(found)
        for path in found:
            answer = fleet.balancer.http(path, "blog.example.org")
            if answer.status_code != 200:
                broken.append((path, answer.status_code))

    with visitors(fleet) as load, visitors(fleet, "/", connections=2, pause=0.1, release=look) as readers:
        load.wait(100)
        known = {fleet.first["commit"]: fleet.first["hosts"]}
        for number in range(20):
            fleet.repository.commit({**version(f"2.{number}"), STYLE: f"body {{ margin: {number}px }}\n"})
            done = fleet.deploy()
            known[done["commit"]] = done["hosts"]
            assert fleet.live() == done["hosts"] and len({*done["hosts"].values()}) == 1
            assert {*fleet.commits().values()} == {done["commit"]}
            if number % 4 == 3:
                back = json.loads(fleet.run("rollback").check().stdout)
                assert fleet.live() == back["hosts"] == known[back["commit"]], "the sequence of before"
        load.wait(100)
        readers.wait(10)
    print(f"{len(load.answers)} requests, {len(load.failed)} failed; {len(pages)} pages, {len(broken)} files missing")
    assert load.failed == [] and readers.failed == []
    assert len(load.releases) >= 21
    assert len(pages) >= 1000 and all(len(found) >= 2 for found in pages) and broken == []


def test_requests_while_runners_are_killed_lose_no_request_and_the_newest_is_active(fleet):
    """Twenty pushes, each of which a reactor would request, and three runners that are killed meanwhile."""
    master, folder = fleet.master, f"{STORE}/blog/requests"
    begun = f"until test -s {STORE}/blog/lock; do sleep 0.2; done"
    with fleet.lossless():
        for number in range(20):
            commit = fleet.repository.commit(version(f"3.{number}"))
            master.run(["systemd-run", "--quiet", "salt-run", "django.request", "blog", "wait=False"])
            if number in (0, 7, 14):
                master.run(begun, timeout=120)
                pid = re.search(r", pid (\d+) of ", master.read(f"{STORE}/blog/lock"))
                master.run(["kill", "-9", pid[1] if pid else "none"], check=False)
        last = time.monotonic()
        while {*fleet.commits().values()} != {commit}:
            assert time.monotonic() - last < 300, master.run(f"cat {folder}/*.json*").stdout
            time.sleep(0.5)
        print(f"the newest is active {time.monotonic() - last:.0f} s after the last push")
        master.run(f"while ls {folder} | grep -qE '(pending|running).json'; do sleep 0.5; done", timeout=300)
    ended = [json.loads(line) for line in master.read(f"{folder}/requests.jsonl").splitlines()]
    assert len({one["id"] for one in ended}) == len(ended) == 20, ended
    assert {one["status"] for one in ended} == {"superseded", "released"} and ended[-1]["status"] == "released"
    assert fleet.run("status").returncode == 0 and fleet.left() == ""


def migrations(fleet: Fleet) -> list[str]:
    """The migrations that the database's server has, one line for each time that one was applied."""
    text = "SELECT name FROM django_migrations WHERE app = 'guestbook' ORDER BY id"
    return fleet.database.run(["su", "postgres", "-c", f'psql -At blog -c "{text}"']).stdout.split()


def backups(fleet: Fleet) -> list[str]:
    """The backups on all hosts."""
    argv = ["find", "/srv/django/blog/backups", "-name", "*.json"]
    return [line for host in fleet.apps for line in host.run(argv).stdout.split()]


def test_fifty_applies_at_once_migrate_and_back_up_once(fleet):
    operation = 'migrations.AddField("entry", "mood", models.CharField(max_length=9, null=True))'
    migration = MIGRATION.format(before="0003_entry_hidden", operation=operation)
    model = fleet.repository.read("guestbook/models.py").replace(
        "    created =", "    mood = models.CharField(max_length=9, null=True)\n    created ="
    )
    commit = fleet.repository.commit({"guestbook/migrations/0004_mood.py": migration, "guestbook/models.py": model})
    known = json.loads(fleet.master.read(f"{STORE}/blog/fleet.json"))
    before = backups(fleet)
    # As when the master has gone down in a switch: the hosts have in common what none of them has been given yet.
    expected = json.dumps([known["commit"], commit])
    fleet.master.run(["salt", "lb1", "django_fleet.expect", "blog", expected])
    wanted = {**known, "commit": commit, "sequence": 90, "count": known["count"] + 1}
    fleet.master.write(f"{STORE}/blog/fleet.json", json.dumps(wanted), mode="0600")
    argv = "salt --async 'web*' state.apply django queue=True"
    with visitors(fleet) as load:
        fleet.master.run(f"for n in $(seq 17); do {argv} & done; wait", timeout=300)
        limit = time.monotonic() + 900
        while "state.apply" in fleet.master.run(["salt", "--timeout=60", "web*", "saltutil.running"]).stdout:
            assert time.monotonic() < limit
            time.sleep(2)
        load.wait(20)
    assert load.failed == []
    assert {*fleet.commits().values()} == {commit} and {*fleet.live().values()} == {f"0090-{commit[:12]}"}
    assert migrations(fleet).count("0004_mood") == 1
    print([path for path in backups(fleet) if path not in before])
    assert len(backups(fleet)) == len(before) + 1
    ended = fleet.master.run("salt-run --out=json jobs.list_jobs search_function=state.apply").stdout
    print(len(json.loads(ended)), "applies")
    assert len(json.loads(ended)) >= 17
    assert fleet.run("status").returncode == 0


def test_a_breaking_migration_is_refused_while_a_host_serves_what_it_breaks(fleet):
    files = {
        "guestbook/migrations/0005_no_mood.py": MIGRATION.format(
            before="0004_mood", operation='migrations.RemoveField("entry", "mood")'
        ),
        "guestbook/models.py": fleet.repository.read("guestbook/models.py").replace(
            "    mood = models.CharField(max_length=9, null=True)\n", ""
        ),
    }
    before, model = {*fleet.commits().values()}, fleet.repository.read("guestbook/models.py")
    fleet.repository.commit(files)
    with visitors(fleet, "/") as load:
        refused = fleet.run("deploy")
        load.wait(50)
    fleet.repository.commit({"guestbook/migrations/0005_no_mood.py": None, "guestbook/models.py": model})
    assert refused.returncode == 1 and "migrate failed on 1 of the hosts" in refused.stdout, refused
    assert "mood" in json.loads(refused.stdout)["error"]
    assert load.failed == [] and {*fleet.commits().values()} == before
    assert "0005_no_mood" not in migrations(fleet) and fleet.left() == ""


class Commits:
    """Which commits visitors have got, and when the fleet was changed meanwhile."""

    def __init__(self, fleet: Fleet, load: Load):
        self.fleet, self.load = fleet, load
        #: The times between which more than one may be live, and the commit that is live since the last of them.
        self.changes: list[tuple[float, float]] = []
        self.common: list[str] = [fleet.first["commit"]]

    @contextmanager
    def change(self) -> Iterator[None]:
        began = time.time()
        yield
        time.sleep(0.2)
        self.changes.append((began, time.time()))
        self.common.append(json.loads(self.fleet.master.read(f"{STORE}/blog/fleet.json"))["commit"])

    def strange(self) -> list[tuple[float, str]]:
        """The answers of another commit than the common one, given while no deployment or rollback ran."""
        found = []
        for answer in self.load.answers:
            if any(began <= answer.time <= ended for began, ended in self.changes):
                continue
            place = sum(ended < answer.time for _began, ended in self.changes)
            if answer.release and self.common[place][:12] != answer.release[5:]:
                found.append((answer.time, answer.release))
        return found


def patient(fleet: Fleet, verb: str) -> Result:
    """A command of the runner, again while it is refused because a host is being applied."""
    limit = time.monotonic() + 300
    while "is being deployed by" in (done := fleet.run(verb)).stdout and time.monotonic() < limit:
        time.sleep(1)
    return done


@pytest.mark.parametrize("seed", range(20))
def test_applies_deployments_rollbacks_and_late_hosts_never_split_the_fleet(fleet, seed):
    chance = random.Random(seed)
    late = chance.choice(fleet.apps)
    asleep: list[Host] = []
    rolled_back = []

    def deploy() -> None:
        fleet.repository.commit(version(f"3.{seed}.{time.monotonic_ns()}"))
        with commits.change():
            patient(fleet, "deploy").check()

    def rollback() -> None:
        with commits.change():
            rolled_back.append(patient(fleet, "rollback").returncode)

    def apply() -> None:
        fleet.master.run(["salt", "--async", chance.choice(TARGETS), "state.apply", "django", "queue=True"])

    def apply_and_wait() -> None:
        names = {
            target: [host.name for host in asleep if host.name.startswith(target.rstrip("*"))] for target in TARGETS
        }
        fleet.apply(chance.choice([target for target in TARGETS if not names[target]]))  # Salt waits for who sleeps

    def leave() -> None:
        """A host sleeps through what comes: its part is another's meanwhile."""
        rest = {host.name: ["app"] for host in fleet.apps if host is not late}
        fleet.configure(hosts={**rest, "lb1": ["balancer"]})
        late.run(["systemctl", "stop", "salt-minion"])
        asleep.append(late)
        for name in ("lb1", *rest):
            fleet.apply(name)

    def come() -> None:
        late.run(["systemctl", "start", "salt-minion"])
        await_minions(fleet.master, [late])
        asleep.clear()
        fleet.configure(hosts={"web*": ["app"], "lb1": ["balancer"]})
        failed = fleet.failed(fleet.apply("*"))
        assert failed == {name: [] for name in ("lb1", "web1", "web2", "web3")}, json.dumps(failed, indent=1)

    actions: list[Callable[[], None]] = [deploy, apply, apply_and_wait, rollback, deploy, apply]
    chance.shuffle(actions)
    place = chance.randrange(len(actions))
    ordered = [*actions[:place], leave, *actions[place:], come, apply_and_wait]
    with visitors(fleet) as load:
        commits = Commits(fleet, load)
        commits.common = [json.loads(fleet.master.read(f"{STORE}/blog/fleet.json"))["commit"]]
        for action in ordered:
            action()
        load.wait(50)
    print(f"{[action.__name__ for action in ordered]}, {late.name} is late, rolled back: {rolled_back}")
    print(f"{len(load.answers)} requests, {len(load.failed)} failed, {len(commits.strange())} of another commit")
    assert load.failed == [] and commits.strange() == []
    assert {*fleet.commits().values()} == {commits.common[-1]} and fleet.left() == ""
