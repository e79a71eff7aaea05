"""Deployments under load that are broken on purpose: the cases of faults.yaml, and a kill at every step."""

import calendar
import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import live_site
from django_formula.deploy import steps
from faults import APPLY, Fault, Judge, provoked, report
from lab import MACHINE, ROOT, Host, Needs, applied
from products import shortened
from sites import Site, lines, version

pytestmark = pytest.mark.apart(8)

NEEDS = Needs(MACHINE, "disks become read-only or full within an apply")

HERE = Path(__file__).parent
CASES, NUMBERS = yaml.safe_load_all((HERE / "faults.yaml").read_text())
FAULTS = [Fault(**case) for case in CASES]
#: The steps of this site, which pushes no static files.
STEPS = ["site", *(step.__name__ for step in steps.RELEASE if step is not steps.push)]
#: Those in which a kill leaves the old release live.
BEFORE = STEPS[: STEPS.index("live")]
#: Salt itself refuses a second state.apply on a minion; with this it is our own lock that counts.
CONCURRENT = "concurrent=True"
SECRET = "a-secret-that-is-never-printed"


#: Steps before the switch in which a deployment is killed by default.
FEW = ("source", "static", "instance")


def kills() -> list[Any]:
    """Kills in steps before the switch in one story; with --all at each moment of each."""
    moments = [("first", "KILL"), ("acting", "KILL"), ("last", "KILL"), ("acting", "TERM"), ("acting", "INT")]
    every = [(step, when, does) for step in STEPS for when, does in moments]
    single = [pytest.param(*one, marks=pytest.mark.full) for one in every]
    return [pytest.param(" ".join(BEFORE), "acting", "KILL", id="story"), *single]


@pytest.fixture(scope="module")
def begin(module_hosts, repositories) -> Callable[[], Site]:
    """Deploy the site on a host of its own."""

    def begin() -> Site:
        options = {"secrets": {"API_TOKEN": SECRET}, "releases": {"keep": 3, "drain": "10s"}}
        blog = live_site(module_hosts, repositories, **options)
        blog.is_settled = True
        return blog

    return begin


@pytest.fixture(scope="module")
def blogs() -> list[Site]:
    """The site that is in use, once there is one."""
    return []


@pytest.fixture(scope="module")
def rows(pytestconfig) -> Iterator[list[tuple[str, ...]]]:
    """What came of each fault; the full product is kept as a page."""
    rows: list[tuple[str, ...]] = []
    yield rows
    if pytestconfig.getoption("--all") and len(rows) > len(FAULTS):
        (ROOT / "docs/internals/faults.md").write_text(report(rows, NUMBERS))


@pytest.fixture
def judged(pytestconfig, rows) -> Callable[[Site, Fault], None]:
    """Have a site meet a fault, judge what comes of it, and keep that for the page."""

    def judged(blog: Site, fault: Fault) -> None:
        judge = Judge(blog, fault, [SECRET], thorough=pytestconfig.getoption("--all"))
        judge.run()
        rows.append(judge.row)
        judge.judge()
        blog.is_settled = True  # the last apply had nothing to do

    return judged


@pytest.fixture
def good(begin, blogs) -> Site:
    """The site with a good release live, whatever the test before has left; one that cannot be mended is replaced."""
    if blogs and not blogs[0].is_settled:
        try:
            mend(blogs[0])
        except (AssertionError, subprocess.SubprocessError):
            blogs.clear()
    if not blogs:
        blogs.append(begin())
    blogs[0].is_settled = False
    return blogs[0]


def mend(blog: Site) -> None:
    end_deployment(blog)
    for folder in ("guestbook", "website"):
        blog.repository.git("rm", "-r", "--quiet", "--force", folder)
    blog.repository.git("checkout", "--quiet", blog.repository.first, "--", ".")
    blog.repository.commit(version("1.0"))
    blog.deploy(timeouts=None)


@pytest.mark.parametrize("fault", [pytest.param(f, id=f.name, marks=[pytest.mark.full] * f.full) for f in FAULTS])
def test_a_fault(good, judged, fault):
    judged(good, fault)


@pytest.mark.parametrize(("step", "when", "does"), kills())
def test_a_deployment_is_killed(good, judged, pytestconfig, step, when, does):
    if " " in step and not pytestconfig.getoption("--all"):
        step = " ".join(one for one in step.split() if one in FEW)
    is_before = step.split()[0] in BEFORE
    gives = "kept" if is_before else "either" if step == "live" and when != "last" else "live"
    number, where = 1 if does == "KILL" else 2, "each step before the switch" if " " in step else step
    judged(good, Fault(f"SIG{does} in {where}, {when}", number, step=step, when=when, does=does, gives=gives))


@pytest.mark.full
@pytest.mark.parametrize("when", ["acting", "first", "last"])
def test_a_deployment_with_a_queue_and_a_push_is_killed(good, judged, when):
    """The steps that other sites do not have: the queue keeps its tasks, and the static host gets all files."""
    host = good.host
    good.deploy(queue={"engine": "redis"}, static={"push": static_host(host)})
    queue = ["runuser", "-u", "blog", "--", "redis-cli", "-s", "/run/django-blog-queue/socket"]
    host.run([*queue, "RPUSH", "celery", "a", "b", "c"])
    host.run("rm -r /srv/static/blog")
    # The queue is restarted for the first of these, and so it is in the next apply where that one is killed.
    changed = "sed -i s/^TimeoutStopSec=.*/TimeoutStopSec=9s/ /etc/systemd/system/django-blog-queue.service"
    name = f"SIGKILL in the steps store and push, {when}"
    judged(good, Fault(name, 1, step="store push", when=when, does="KILL", before=changed))
    good.is_settled = False
    assert host.run([*queue, "LLEN", "celery"]).stdout.strip() == "3"
    manifest = json.loads(host.read(f"{good.root}/current/static/staticfiles.json"))
    present = host.run("cd /srv/static/blog && find -type f -printf '%P\n'").stdout.split()
    assert {*manifest["paths"].values()} <= {*present}
    assert host.run("ls -d /run/django/blog.push /run/django-blog-queue.restart", check=False).stdout == ""
    host.run([*queue, "DEL", "celery"])
    good.deploy(queue=None, static=None)
    good.is_settled = True


def static_host(host: Host) -> dict[str, str | list[str]]:
    """Make the host one of static files, that takes them by rsync; return `static:push` for it."""
    host.run("id -u deploy || useradd --create-home --shell /bin/bash deploy; systemctl start ssh")
    host.run("install -d -o deploy -g deploy -m 0755 /srv/static /srv/static/blog")
    host.run("test -e /root/key || ssh-keygen -q -t ed25519 -N '' -f /root/key")
    public = host.read("/root/key.pub")
    host.write("/home/deploy/.ssh/authorized_keys", public, owner="deploy", group="deploy", mode="0600")
    known = " ".join(["127.0.0.1", *host.read("/etc/ssh/ssh_host_ed25519_key.pub").split()[:2]])
    push = {"kind": "rsync", "host": "127.0.0.1", "path": "/srv/static/blog", "ssh_key": host.read("/root/key")}
    return {**push, "known_hosts": [known]}


@contextlib.contextmanager
def deploying(blog: Site, step: str, when: str, does: str) -> Iterator[None]:
    """Deploy a new commit, which breaks itself in a step, while the block runs; it has ended afterwards."""
    blog.repository.commit(version(f"{step} {when} {does}"))
    variables = [f"--setenv={name}={value}" for name, value in provoked(blog.host, step, when, does).items()]
    blog.host.run(["systemd-run", "--quiet", "--collect", "--unit=deploying", *variables, *APPLY])
    try:
        yield
    finally:
        end_deployment(blog)


def end_deployment(blog: Site) -> None:
    """End what `deploying` has begun, if it stands still too."""
    blog.host.run(["systemctl", "kill", "--signal=KILL", "deploying"], check=False)
    until(blog, "! systemctl is-active --quiet deploying")


def until(blog: Site, command: str, timeout: float = 600) -> None:
    """Wait until a command of the host succeeds."""
    blog.host.run(f"until {command}; do sleep 0.1; done", timeout=timeout)


@pytest.mark.full
def test_a_deployment_that_stands_still_keeps_its_lock(good):
    old = good.live
    with deploying(good, "static", "first", "STOP"):
        until(good, "ps -o stat= -p $(systemctl show --value --property=MainPID deploying) | grep T")
        salt = good.host.apply()
        assert salt.returncode and 'The function "state.apply" is running as PID' in salt.errors[0], salt
        good.configure(timeouts={"lock": "1s"})
        refused = applied(good.host.run([*APPLY, CONCURRENT], check=False))
        comment = refused.failed["blog has its source"]
        assert "another deployment of blog is under way: state.apply by root" in comment and refused.returncode, refused
        released = good.host.salt("django.release", "blog")
        assert released.returncode and "another deployment of blog is under way" in released.stdout, released
        assert good.live == old and good.answering["release"] == old
        good.host.run(["systemctl", "kill", "--signal=CONT", "deploying"])
        until(good, "! systemctl is-active --quiet deploying")
    assert good.live != old and good.answering["release"] == good.live
    good.deploy(timeouts=None)
    assert not good.host.apply().changed
    good.is_settled = True


@pytest.mark.parametrize("step", shortened(STEPS, "live"))
def test_the_power_fails(good, step):
    old = good.live
    with deploying(good, step, "acting", "sync; touch /var/reached; sleep 60"):
        until(good, "test -e /var/reached")
        good.host.kill()
        good.host.start()
    good.host.run(["rm", "/var/reached"])
    live = good.live
    assert good.answering["release"] == live, "the host serves without Salt"
    assert live == old or STEPS.index(step) >= STEPS.index("live")
    again = good.host.apply()
    assert again.ok, again
    assert good.record()["commit"] == good.repository.git("rev-parse", "main").strip()
    assert not good.host.apply().changed
    good.is_settled = True


@pytest.mark.full
@pytest.mark.parametrize(
    "hours", [*(pytest.param(hours, marks=pytest.mark.full) for hours in (-1, 24 * 365)), -24 * 365 * 40]
)
def test_the_clock_jumps(good, hours):
    old, host = good.live, good.host
    commit = good.repository.commit(version(f"{hours} hours from now"))
    there = host.apply(environment=provoked(host, clock=hours * 3600))
    assert there.ok and good.live > old and good.record()["commit"] == commit, there
    told = calendar.timegm(time.strptime(good.record()["began"], "%Y-%m-%dT%H:%M:%SZ"))
    assert abs(told - time.time() - hours * 3600) < 600, "its clock was wrong"
    assert not host.apply().changed
    assert host.call("django.rollback", "blog")["release"] == old
    host.call("django.release", "blog")
    assert good.record()["commit"] == commit and not host.apply().changed
    good.is_settled = True


@pytest.mark.full
def test_two_deployments_at_once(good):
    commit = good.repository.commit(version("at once"))
    apply = " ".join([*APPLY, CONCURRENT])
    before = good.releases
    good.host.run(f"for n in 1 2; do {apply} >/tmp/at-once-$n & done; wait")
    results = [applied(good.host.run(["cat", f"/tmp/at-once-{n}"])) for n in (1, 2)]
    assert all(result.ok or "meanwhile" in str(result.failed) for result in results), results
    assert good.record()["commit"] == commit and len({*good.releases} - {*before}) == 1
    assert not good.host.apply().changed
    good.is_settled = True


@pytest.mark.full
def test_a_small_number_of_open_files(good):
    """In which step they run out depends on Salt: numbers are tried until they have in two, and in one at least."""
    failed = set()
    for number in (14, 13, 15, 16, 17, 18):
        good.repository.commit(version(f"{number} files"))
        old = good.live
        few = applied(good.host.run(["prlimit", f"--nofile={number}", *APPLY], check=False))
        if few.failed:
            state, comment = next(iter(few.failed.items()))
            assert few.returncode and "Too many open files" in comment and f"{old} still runs" in comment, few
            assert lines(comment) <= 10
            failed.add(state)
        if few.returncode:
            assert good.live == old and good.answering["release"] == old
        assert good.host.apply().ok and good.live != old
        if len(failed) == 2:
            return
    assert failed, "no number was too small for a step of the site"
