"""Workers while one release replaces another: which take tasks when deployments, workers or hosts are killed."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest
from lab import Host
from repository import Repository
from sites import Site, until

pytestmark = pytest.mark.full

TASKS = """
import os
import pathlib
import time

from celery import shared_task

MEDIA = pathlib.Path(os.environ["MEDIA"])


def line(text):
    with open(MEDIA / "log", "a") as file:
        file.write(f"{time.time():.3f} {os.environ['DJANGO_RELEASE'][:4]} {text}\\n")


@shared_task
def note(number, seconds):
    line(f"begin {number}")
    time.sleep(seconds)
    line(f"end {number}")


@shared_task
def wait(name):
    line(f"begin {name}")
    while not (MEDIA / name).exists():
        time.sleep(0.05)
    from guestbook import late

    line(f"end {name} {late.RELEASE}")
"""
SEND = """
from django.core.management.base import BaseCommand
from guestbook import tasks


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("what")

    def handle(self, what, **options):
        first, colon, count = what.partition(":")
        for number in range(int(first), int(first) + int(count)) if colon else ():
            tasks.note.delay(number, 0.02)
        if not colon:
            tasks.wait.delay(what)
"""
#: Sends a task each 30 ms until there is a file, as visitors do while a site is deployed.
STREAM = """
import time

from django.core.management.base import BaseCommand
from guestbook import tasks


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("first", type=int)

    def handle(self, first, **options):
        number = first
        while not (tasks.MEDIA / f"enough-{first}").exists():
            tasks.note.delay(number, 0.02)
            number += 1
            time.sleep(0.03)
        (tasks.MEDIA / f"sent-{first}").write_text(str(number - first))
"""
#: A program that is no worker of a queue: it writes each 50 ms which release it is of, and no two may run at once.
FEED = """
import fcntl
import os
import pathlib
import signal
import sys
import time

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    def handle(self, **options):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        media = pathlib.Path(os.environ["MEDIA"])
        with open(media / "feed.lock", "w") as lock, open(media / "feed", "a", buffering=1) as file:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    file.write("two at once\\n")
                file.write(f"{time.time():.3f} {os.environ['DJANGO_RELEASE'][:4]}\\n")
                time.sleep(0.05)
"""
CELERY = """
import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "website.settings")
app = Celery("website")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""
PROJECT = {
    "website/__init__.py": "from .celery import app as celery_app\n",
    "website/celery.py": CELERY,
    "guestbook/tasks.py": TASKS,
    "guestbook/late.py": "RELEASE = 1\n",
    "guestbook/management/__init__.py": "",
    "guestbook/management/commands/__init__.py": "",
    "guestbook/management/commands/send.py": SEND,
    "guestbook/management/commands/stream.py": STREAM,
    "guestbook/management/commands/feed.py": FEED,
    "requirements.txt": "Django==5.2.19\ncelery==5.7.0\n",  # what it needs for a Redis is installed for the queue
}
WORKERS: dict[str, Any] = {
    "default": {"kind": "celery", "processes": 2},
    "feed": {"kind": "command", "command": "manage.py feed"},
}


class Line(NamedTuple):
    time: float
    release: str
    text: str


class Shop(Site):
    """A site with a queue of its own, a worker of Celery and a command."""

    number = 0

    def next(self) -> None:
        """Commit the next release."""
        type(self).number += 1
        self.repository.commit({"guestbook/late.py": f"RELEASE = {self.number}\n"})

    def log(self, name: str = "log") -> list[Line]:
        text = self.host.run(f"cat {self.root}/media/{name} 2>/dev/null || true").stdout
        return [
            Line(float(time), release, " ".join(more)) for time, release, *more in map(str.split, text.splitlines())
        ]

    def send(self, what: str) -> None:
        self.manage(f"send {what}")

    def ends(self, first: int, count: int) -> list[Line]:
        """The lines of these tasks once all have ended; each has ended once."""
        names = {f"end {number}" for number in range(first, first + count)}
        until(lambda: {line.text for line in self.log()} >= names)
        found = [line for line in self.log() if line.text in names]
        assert len(found) == count, [name for name, times in Counter(line.text for line in found).items() if times > 1]
        return found

    def state(self, number: str, worker: str = "default") -> dict[str, Any]:
        return dict(json.loads(self.host.read(f"{self.root}/runtime/{number}-{worker}/state")))

    def pids(self) -> dict[str, str]:
        """The main process of each worker of the active release."""
        argv = ["systemctl", "show", "--value", "--property=MainPID"]
        return {name: self.host.run([*argv, f"{self.unit}-{name}"]).stdout.strip() for name in WORKERS}

    def unit_time(self, name: str) -> float:
        """When the unit of the worker has begun something, in seconds since 1970, by systemd's name for that."""
        argv = ["systemctl", "show", "--value", f"--property={name}TimestampMonotonic", f"{self.unit}-default"]
        clocks = "import time; print(time.time() - time.clock_gettime(time.CLOCK_MONOTONIC))"
        return int(self.host.run(argv).stdout) / 1e6 + float(self.host.run(["python3", "-c", clocks]).stdout)

    def taking(self) -> set[str]:
        """The releases whose feed writes now."""
        now = float(self.host.run("date +%s.%N").stdout)
        return {line.release for line in self.log("feed") if line.time > now - 0.3}


def deployed(host: Host, repository: Repository, **options: Any) -> Shop:
    shop = Shop(host, repository, queue={"engine": "redis"}, workers=WORKERS, **options)
    shop.repository.commit(PROJECT)
    shop.configure(environment={"MEDIA": {"from": "media_root"}}, releases={"keep": 2, "watch": "0s", "drain": "2s"})
    shop.deploy()
    return shop


@pytest.fixture(scope="module")
def shop(module_hosts, repositories) -> Site:
    host = module_hosts(kind="ready")
    return deployed(host, repositories(host))


def test_workers_run_and_second_apply_changes_nothing(shop):
    assert not shop.apply().changed
    shop.send("0:20")
    assert {line.release for line in shop.ends(0, 20)} == {shop.live[:4]}
    rows = shop.host.call("django.workers", "blog")
    assert [(row["worker"], row["does"]) for row in rows] == [("default", "takes tasks"), ("feed", "takes tasks")]
    until(lambda: shop.state(shop.live[:4])["done"] == 20)
    assert rows[0]["memory"].endswith(" MB")
    assert "default takes tasks" in shop.host.call("django.status", "blog")[0]["workers"]
    assert f"{shop.unit}-default" in shop.host.call("django.logs", "blog", worker="default")


def test_task_that_runs_outlives_the_apply_in_its_own_release(shop):
    old = shop.live
    shop.send("gate")
    until(lambda: [line for line in shop.log() if line.text == "begin gate"])
    before = shop.repository.read("guestbook/late.py")
    shop.next()
    shop.deploy()
    assert [line for line in shop.log() if line.text.startswith("end gate")] == []
    assert [(row["release"], row["worker"]) for row in shop.host.call("django.workers", "blog")][2:] == [
        (old, "default")
    ]
    assert shop.host.call("django.status", "blog")[0]["finishing"].startswith(f"{old[:4]} default (1 running")
    for _ in range(2):  # `keep` and the previous one are two others
        shop.next()
        shop.deploy()
    assert old in shop.releases and not shop.apply().changed
    shop.host.run(["touch", f"{shop.root}/media/gate"])
    [ended] = until(lambda: [line for line in shop.log() if line.text.startswith("end gate")])
    assert (ended.release, ended.text) == (old[:4], f"end gate {before.split()[-1]}")
    until(lambda: f"django-blog-{old[:4]}-default" not in str(shop.units))
    shop.next()
    shop.deploy()
    assert old not in shop.releases


def test_release_whose_tasks_cannot_be_imported_leaves_the_workers_alone(shop):
    old, pids, done = shop.live, shop.pids(), shop.state(shop.live[:4])["done"]
    shop.repository.commit({"guestbook/tasks.py": "import nowhere\n" + TASKS})
    applied = shop.apply()
    [(state, comment)] = [(state, text) for state, text in applied.failed.items()][:1]
    assert "nowhere" in comment and state in ("blog has its static files", "blog has its instance"), (state, comment)
    assert shop.live == old and shop.pids() == pids
    until(lambda: shop.taking() == {old[:4]})
    shop.send("100:5")
    shop.ends(100, 5)
    until(lambda: shop.state(old[:4])["done"] == done + 5)
    shop.repository.commit({"guestbook/tasks.py": TASKS})


@contextmanager
def stream(shop: Shop, first: int) -> Iterator[None]:
    """Tasks are sent on and on in the block; at its end all of them have ended, each once."""
    shop.host.run(f"systemd-run --quiet --collect --unit=stream salt-call --local django.manage blog 'stream {first}'")
    try:
        until(lambda: f"begin {first}" in {line.text for line in shop.log()})
        yield
    finally:
        shop.host.run(["touch", f"{shop.root}/media/enough-{first}"])
    count = until(lambda: shop.host.run(f"cat {shop.root}/media/sent-{first} || true").stdout)
    shop.ends(first, int(count))


#: Waits for a moment of a switch, at which no worker takes tasks, in the ways that a deployment decides it. Before the
#: rename the deployment stands still there, however slow this is.
MOMENT = """
await() { for i in $(seq 6000); do "$@" && return; sleep 0.02; done; exit 1; }
locked() { ! flock --nonblock --shared /run/django/blog.switch true 2>/dev/null; }
before() { grep -q '"fetching": false' ROOT/runtime/NUMBER-default/state && systemctl kill --signal=STOP deploying; }
after() { [ "$(readlink ROOT/current)" != releases/OLD ]; }
await locked; await MOMENT; date +%s.%N; sleep 0.3; date +%s.%N
"""


@contextmanager
def deploying(shop: Shop, moment: str, then: str = "true") -> Iterator[tuple[float, float]]:
    """Deploy the next release in the background, which is killed at the end of the block.

    Args:
        moment: `before` or `after` the rename; the block begins there.
        then: a command for that moment.

    Yields:
        When the moment was reached, and when the command began (seconds since 1970).
    """
    host, old = shop.host, shop.live
    shop.next()
    shop.configure(releases={"keep": 2, "watch": "60s", "drain": "2s"})
    feed = shop.pids()["feed"]
    if moment == "before":  # the deployment waits for a worker that does not report that it takes no tasks
        host.run(["kill", "-STOP", feed])
    host.run("systemd-run --quiet --unit=deploying --property=KillMode=mixed salt-call --local state.apply django")
    script = MOMENT.replace("NUMBER", old[:4]).replace("OLD", old).replace("MOMENT", moment)
    try:
        reached, began = host.run(script.replace("ROOT", shop.root) + then).stdout.split()
        yield float(reached), float(began)
    finally:
        end = "systemctl kill --signal=KILL deploying; systemctl stop deploying; systemctl reset-failed"
        host.run(f"{end}; kill -CONT {feed}", check=False)


def first_after(lines: list[Line], number: str, moment: float) -> float:
    """Seconds from a moment until a release has begun something."""
    return min((line.time for line in lines if line.time > moment and line.release == number), default=1e9) - moment


@pytest.mark.parametrize("moment", ["before", "after"])
def test_workers_of_the_right_release_take_tasks_when_the_deployment_is_killed(shop, moment):
    old = shop.live
    with stream(shop, {"before": 10_000, "after": 20_000}[moment]):
        with deploying(shop, moment, "systemctl kill --signal=KILL deploying") as (reached, killed):
            pass
        number = shop.live[:4]
        assert (number == old[:4]) == (moment == "before")
        until(lambda: shop.taking() == {number})
    log, feed = shop.log(), shop.log("feed")
    assert not [line for line in log if reached < line.time < killed and line.release != old[:4]]
    assert moment == "before" or not [line for line in feed if reached < line.time < killed]
    tasks = first_after([line for line in log if "begin" in line.text], number, killed)
    command = first_after(feed, number, killed)
    print(f"killed {moment} the rename: a task after {tasks:.2f} s, the command after {command:.2f} s")
    assert tasks < 50 and command < 50  # ten times what they take
    shop.deploy(releases={"keep": 2, "watch": "0s", "drain": "2s"})
    assert not shop.apply().changed
    until(lambda: shop.taking() == {shop.live[:4]})


def test_workers_of_the_right_release_take_tasks_after_a_loss_of_power_in_a_switch(shop):
    with deploying(shop, "after"):
        number = shop.live[:4]
        shop.send("400:20")
        shop.host.kill()
        shop.host.start()
    assert {line.release for line in shop.ends(400, 20)} == {number}
    until(lambda: shop.taking() == {number})
    begun = min(line.time for line in shop.log() if line.text == "begin 400")
    started, ready = (begun - shop.unit_time(name) for name in ("ExecMainStart", "ActiveEnter"))
    print(f"after the boot: a task {started:.2f} s after the start of the worker, {ready:.2f} s after it was ready")
    assert ready < 50  # ten times what it takes
    shop.deploy(releases={"keep": 2, "watch": "0s", "drain": "2s"})
    assert not shop.apply().changed


def test_rollback_exchanges_the_workers(shop):
    shop.next()
    shop.deploy()
    shop.host.call("django.rollback", "blog")
    until(lambda: shop.taking() == {shop.live[:4]})
    shop.send("500:20")
    assert {line.release for line in shop.ends(500, 20)} == {shop.live[:4]}


def test_command_that_fails_after_the_switch_is_named(shop):
    failing = {"kind": "command", "command": "sh fail.sh", "ready": "30s"}
    shop.repository.commit({"fail.sh": "echo no such feed >&2; exit 3\n"})
    applied = shop.deploy(workers={**WORKERS, "feed": failing})
    assert "the worker feed failed, and is started again and again: no such feed" in json.dumps(applied.warnings)
    assert " fails (" in shop.host.call("django.status", "blog")[0]["workers"]
    shop.deploy(workers=WORKERS)
    until(lambda: shop.taking() == {shop.live[:4]})


#: What code of the site does to a deployment, as the site's user: each lasts until it is ended. Where the worker is
#: stopped, it cannot report again what is right.
HOSTILE = {
    "locks the lock": "exec 9</run/django/blog.switch; flock --exclusive 9; sleep 600",
    "claims to take tasks": "kill -STOP $(cat pid); "
    'echo \'{"pid": 1, "time": 1.0, "fetching": true}\' >state; sleep 600',
    "state without end": "kill -STOP $(cat pid); ln -sf /dev/zero state; sleep 600",
    "state that blocks": "kill -STOP $(cat pid); rm state; mkfifo state; sleep 600",
    "state that changes": "while true; do ln -sf /dev/zero state; rm -f state; mkfifo state; done",
}


@pytest.mark.parametrize("what", [*HOSTILE])
def test_hostile_site_delays_a_switch_for_a_moment_only(shop, what):
    shop.next()
    attack = f"cd {shop.run}-default && {HOSTILE[what]}"
    shop.host.run(["systemd-run", "--quiet", "--unit=hostile", "--uid=blog", "--", "bash", "-c", attack])
    try:
        applied = shop.deploy()
    finally:
        shop.host.run("systemctl stop hostile; systemctl reset-failed hostile; pkill -CONT -u blog", check=False)
    until(lambda: shop.taking() == {shop.live[:4]})
    is_named = "did not report in time that they take no tasks: default" in json.dumps(applied.warnings)
    if what != "state that changes":  # a report may be read between two of its changes
        assert is_named == (what != "locks the lock")
    print(f"{what}: {applied['blog is live'].duration / 1000:.1f} s for the switch")
    assert applied["blog is live"].duration < 60_000  # an attack lasts 600 s


def test_release_whose_tasks_fail_is_taken_back_in_its_bake(shop):
    common = {"keep": 2, "watch": "0s", "drain": "2s"}
    bake = {"steps": {"50%": "1s"}, "requests": 0, "bake": "10m"}
    shop.deploy(proxy={"access_log": "json"}, releases={**common, "canary": bake})
    old = shop.live
    shop.send("600:60")
    shop.ends(600, 60)
    until(lambda: shop.state(old[:4])["outcomes"]["guestbook.tasks.note"] == {"done": 60, "raised": {}})
    shop.repository.commit({"guestbook/tasks.py": TASKS.replace("    time.sleep(seconds)", "    seconds[number]")})
    shop.deploy()
    until(lambda: shop.live != old and shop.taking() == {shop.live[:4]})
    new = shop.live
    shop.send("700:10")
    until(lambda: shop.live == old)
    proof = until(lambda: (found := shop.host.call("django.proof", "blog")).get("ended") and found)
    assert proof["ended"] == "back"
    number = re.fullmatch(
        rf"{new} raised TypeError in the task guestbook.tasks.note (\d+) times; {old} never did", proof["why"]
    )
    assert number and 2 <= int(number[1]) <= 10, proof["why"]
    assert proof["tasks"]["old"]["guestbook.tasks.note"] == {"done": 60, "raised": {}}
    until(lambda: shop.taking() == {old[:4]})
    shop.send("800:10")
    assert {line.release for line in shop.ends(800, 10)} == {old[:4]}
    shop.repository.commit({"guestbook/tasks.py": TASKS})
    shop.deploy(proxy=None, releases=common)


def test_two_feeds_never_ran_at_once(shop):
    assert "two at once" not in shop.host.run(f"cat {shop.root}/media/feed").stdout


def test_removal_ends_the_workers(shop):
    shop.send("last")
    until(lambda: [line for line in shop.log() if line.text == "begin last"])
    shop.deploy(state="absent")
    assert shop.host.run("ls /etc/systemd/system | grep -E 'django-blog-[0-9]' || true").stdout == ""
    assert shop.host.run("pgrep -u blog || true").stdout == ""


def test_with_supervisor_workers_are_exchanged_and_the_apply_does_not_wait(hosts, repositories):
    host = hosts(kind="salt", init=False)
    repository = repositories(host, "/srv/git/supervised.git")
    shop = deployed(host, repository)
    old = shop.live[:4]
    shop.send("gate")
    until(lambda: [line for line in shop.log() if line.text == "begin gate"])
    shop.next()
    shop.deploy()
    assert not shop.apply().changed
    shop.send("0:20")
    assert {line.release for line in shop.ends(0, 20)} == {shop.live[:4]} != {old}
    assert shop.host.call("django.status", "blog")[0]["finishing"].startswith(f"{old} default")
    shop.host.run(["touch", f"{shop.root}/media/gate"])
    [ended] = until(lambda: [line for line in shop.log() if line.text.startswith("end gate")])
    assert ended.release == old
    shop.host.call("django.rollback", "blog")
    shop.send("100:20")
    assert {line.release for line in shop.ends(100, 20)} == {shop.live[:4]}
    assert "two at once" not in shop.host.run(f"cat {shop.root}/media/feed").stdout
    shop.deploy(state="absent")
    assert "blog" not in shop.host.run("supervisorctl status", check=False).stdout
