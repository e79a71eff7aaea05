import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from django_formula.deploy import switch as deploy_switch
from django_formula.deploy import switch_report
from django_formula.deploy.deployment import Deployment
from django_formula.host import daemons, file
from django_formula.host.commands import DeploymentError
from django_formula.process import systemd
from django_formula.proxy import nginx, proxies
from django_formula.proxy import switch as proxy_switch
from django_formula.release import health, instances, releases
from django_formula.release.health import Raised
from django_formula.site import sites
from django_formula.verbs import operations, status
from world import commit

ONE, TWO, THREE = (f"000{number}-{commit(name)[:12]}" for number, name in enumerate(("one", "two", "three"), 1))
UNWELL = "requests for the health page / failed after the switch; the last one returned 500"


@pytest.fixture
def two(world):
    """A site whose release is live, and a commit that is to be."""
    world.apply()
    world.push("two")
    return world


def attempts(world):
    return [json.loads(line) for line in world.site.deploys.read_text().splitlines()]


# A release that does badly once it is live


def test_failing_release_is_replaced_by_the_old_one(two):
    world = two
    world.problems["0002"] = "returned 500"
    with pytest.raises(DeploymentError) as caught:
        world.apply()
    assert re.fullmatch(rf"live: \d+ {UNWELL}; {ONE} is live again", caught.value.message)
    assert caught.value.hint.splitlines() == ["read the whole log: journalctl -u django-blog-0002", f"{ONE} still runs"]
    assert world.live == ONE and not world.site.previous.exists()
    assert world.releases == {ONE: "good", TWO: "failed"}
    world.check()
    record = file.read_json(world.site.releases / TWO / "release.json")
    assert record["step"] == "live" and record["receipt"]["failed"] >= 1
    assert (attempts(world)[-1]["result"], attempts(world)[-1]["receipt"]) == ("failed", record["receipt"])
    for _ in range(2):
        with pytest.raises(DeploymentError, match=f"{TWO} failed before with the same inputs: live: .* requests"):
            world.apply()
    world.problems.clear()
    world.push("three")
    world.apply()
    assert world.live == THREE and world.releases == {ONE: "good", THREE: "good"}
    assert os.readlink(world.site.previous) == f"releases/{ONE}"
    world.check()


def test_exception_of_the_project_is_in_the_error(two, monkeypatch):
    source = two.site.releases / TWO / "source"
    lines = [
        "Traceback (most recent call last):",
        f'  File "{source}/blog/views.py", line 7, in health',
        "KeyError: 'ink'",
    ]
    two.prints["journalctl"] = "\n".join(reversed(lines))
    two.problems["0002"] = "returned 500"
    with pytest.raises(DeploymentError) as caught:
        two.apply()
    assert caught.value.message.endswith(f"returned 500: KeyError: 'ink' (blog/views.py:7); {ONE} is live again")
    assert len(str(caught.value).splitlines()) <= 10


def test_exception_that_the_project_does_not_log_is_in_the_error_too(two, monkeypatch):
    asked = []

    def raised(site, release, facts, path, secrets):
        asked.append((release.name, path))
        return Raised("KeyError: 'ink' (blog/views.py:7)", "")

    monkeypatch.setattr(deploy_switch.project_page, "raised", raised)
    two.problems["0002"] = "returned 500"
    with pytest.raises(DeploymentError) as caught:
        two.apply()
    assert caught.value.message.endswith(f"returned 500: KeyError: 'ink' (blog/views.py:7); {ONE} is live again")
    assert asked == [(TWO, "/")]


def test_failed_release_is_tried_again_on_the_command_line(two):
    two.problems["0002"] = "returned 500"
    with pytest.raises(DeploymentError):
        two.apply()
    operations.release("blog")
    assert two.live == f"0003-{TWO[5:]}"
    two.check()


def test_a_server_that_ends_after_the_switch_is_left_again(two, monkeypatch):
    monkeypatch.setattr(systemd.MANAGER, "pid", lambda *_: 42 if two.live == ONE else 43)
    with pytest.raises(DeploymentError) as caught:
        two.apply()
    assert caught.value.message == f"live: its application server exited after the switch; {ONE} is live again"
    assert two.live == ONE
    two.check()


def test_server_that_exits_before_the_switch_is_not_activated(two, monkeypatch):
    activate = deploy_switch.activate
    monkeypatch.setattr(
        deploy_switch,
        "activate",
        lambda *arguments: (
            monkeypatch.setattr(systemd.MANAGER, "pid", lambda *_: 43),
            activate(*arguments),
        ),
    )
    with pytest.raises(
        DeploymentError, match=f"live: the application server of {TWO} exited after its health check had passed"
    ):
        two.apply()
    assert two.live == ONE and two.releases[TWO] == "failed" and not two.site.previous.exists()


@pytest.mark.parametrize(("limit", "stays"), [(0, False), (3, False), ("any", True)])
def test_how_many_requests_may_fail(two, limit, stays):
    two.options = {"releases": {"max_errors": limit}}
    two.problems["0002"] = "returned 500"
    if stays:
        two.apply()
        assert two.live == TWO
        assert two.last.warnings[-1].endswith(f"{TWO} stays live, since releases:max_errors is any")
    else:
        with pytest.raises(DeploymentError, match=f"{ONE} is live again"):
            two.apply()
        assert two.live == ONE and two.last.findings.switch_report["failed"] > limit
    two.check()


def test_failures_within_the_limit_give_a_warning(two):
    two.options = {"releases": {"max_errors": 2}}
    problems = iter(["returned 500", "returned 500"])
    two.problem = lambda: next(problems, "") if two.live == TWO else ""
    two.apply()
    assert two.live == TWO and two.last.findings.switch_report["failed"] in (1, 2)
    report = two.last.findings.switch_report
    assert two.last.warnings == [f"{report['failed']} of {report['sent']} requests failed"]
    two.check()


def test_failing_first_release_stays_with_a_warning(world):
    world.problems["0001"] = "returned 500"
    world.apply()
    assert world.live == ONE
    (warning,) = world.last.warnings
    assert re.fullmatch(rf"\d+ {UNWELL}; {ONE} stays live, since there is no better release to return to", warning)
    world.check()


@pytest.mark.parametrize("down", [False, True])
def test_old_release_that_was_no_better_is_not_activated_again(two, monkeypatch, down):
    """Or each mending of a broken site would be undone."""
    two.problems |= {"0002": "returned 500"} if down else {"0001": "returned 503", "0002": "returned 500"}
    if down:
        two.running.clear()
    two.apply()
    assert two.live == TWO
    two.check()


def test_failing_rollback_is_undone(two):
    two.apply()
    two.problems["0001"] = "returned 500"
    with pytest.raises(DeploymentError, match=rf"^live: \d+ {UNWELL}; {TWO} is live again"):
        operations.rollback("blog")
    assert two.live == TWO and two.releases == {ONE: "good", TWO: "good"}
    assert os.readlink(two.site.previous) == f"releases/{ONE}"
    assert "held_since" not in file.read_json(two.site.releases / TWO / "release.json")
    two.check()
    assert two.apply() == {}


OTHERS = {
    "tcp": {"server": {"bind": "127.0.0.1:8001"}},
    "http": {"server": {"protocol": "http"}},
    "unix": {},
    "kept": {"server": {"kind": "gunicorn", "threads": 2}, "proxy": {"keepalive": 8}},
    "named": {
        "server": {"bind": "127.0.0.1:8001"},
        "proxy": {"upstreams": {"192.0.2.11:8001": {}, "self": {"weight": 2}}},
    },
}
CHANGES = [("unix", "tcp"), ("tcp", "unix"), ("tcp", "tcp"), ("unix", "http"), ("unix", "kept"), ("kept", "kept")]
CHANGES += [("kept", "unix"), ("named", "named"), ("tcp", "named"), ("named", "tcp")]


@pytest.mark.parametrize(("first", "then"), CHANGES)
def test_nginx_reaches_the_release_before_again(world, monkeypatch, first, then):
    world.options = OTHERS[first]
    world.apply()
    before = nginx_files()
    world.push("two")
    world.options = OTHERS[then]
    world.problems["0002"] = "returned 500"
    reloaded = []
    monkeypatch.setattr(daemons, "reload", lambda daemon: reloaded.append(world.live))
    with pytest.raises(DeploymentError):
        world.apply()
    assert world.live == ONE and (reloaded[-1:] == [ONE])
    if OTHERS[first].get("proxy") == OTHERS[then].get("proxy"):
        assert nginx_files() == before
    text = nginx.PROXY.main_file(world.site).read_text()
    assert ("keepalive 8;" in text) == (first == then == "kept")
    assert "server 127.0.0.1:8001" not in text, "the address of the other one"
    world.check()


@pytest.mark.parametrize(("first", "then"), [change for change in CHANGES if "named" in change])
def test_an_address_in_the_files_of_nginx_is_that_of_the_live_release(world, monkeypatch, first, then):
    """Whenever it is reloaded, it leads to a release whose instance runs."""
    world.options = OTHERS[first]
    world.apply()
    world.push("two")
    world.options = OTHERS[then]
    seen = []

    def reload(daemon):
        text = nginx.PROXY.main_file(world.site).read_text()
        named = re.search(r"server (127\.0\.0\.1:\d+)", text)
        included = re.search(r"include (\S+)/config", text)
        seen.append(named[1] if named else instances.address(world.site, Path(included[1]).resolve()))

    monkeypatch.setattr(daemons, "reload", reload)
    world.apply()
    own = instances.address(world.site, world.site.current.resolve())
    assert world.live == TWO and own == seen[0] == seen[-1] == "127.0.0.1:8001"


@pytest.mark.parametrize(("first", "then"), [("unix", "tcp"), ("tcp", "unix"), ("unix", "http"), ("unix", "kept")])
def test_nginx_speaks_as_the_release_does_that_a_rollback_brings_back(world, first, then):
    world.options = OTHERS[first]
    world.apply()
    before = nginx_files()
    world.options = OTHERS[then]
    world.apply()
    assert nginx_files() != before
    operations.rollback("blog")
    assert world.live == ONE and nginx_files() == before
    assert world.apply() == {}
    world.check()


@pytest.mark.parametrize(("first", "then"), CHANGES)
def test_proxy_reaches_the_active_release_where_another_cannot_be_activated(world, monkeypatch, first, then):
    """As on a full disk: what the proxy has been given for the other one is taken away with it."""
    world.options = OTHERS[first]
    world.apply()
    before = nginx_files()
    world.push("two")
    world.options = OTHERS[then]
    link = file.link

    def full(path, target, **options):
        if path.name == "current" and target.endswith(TWO):
            raise OSError(28, "No space left on device", str(path))
        link(path, target, **options)

    monkeypatch.setattr(file, "link", full)
    with pytest.raises(DeploymentError, match="No space left on device"):
        world.apply()
    assert world.live == ONE and nginx_files() == before
    world.check()


def test_release_is_on_hold_where_the_reload_of_its_rollback_fails(world, monkeypatch):
    world.options = OTHERS["tcp"]
    world.apply()
    world.push("two")
    world.apply()

    def fail(_daemon):
        raise DeploymentError("nginx still uses its old configuration")

    with monkeypatch.context() as patched:
        patched.setattr(daemons, "reload", fail)
        with pytest.raises(DeploymentError, match="nginx still uses its old configuration"):
            operations.rollback("blog")
    assert world.live == ONE and world.releases == {ONE: "good", TWO: "held"}
    world.apply()
    assert world.live == ONE
    world.check()


@pytest.fixture
def same_port(world, monkeypatch):
    """A site whose last release but one listens on the port of the active one, where only one can."""
    world.options = OTHERS["tcp"]
    for name in ("one", "two", "three"):
        world.push(name)
        world.apply()
    running = {path: f"django-blog-{path.name[:4]}.service" for path in world.site.releases.iterdir()}

    def is_taken(where):
        site = world.site
        return any(instances.address(site, path) == where and unit in world.running for path, unit in running.items())

    monkeypatch.setattr(instances, "_is_taken", is_taken)
    return world


def test_rollback_to_a_release_on_the_same_port_stops_the_active_one_first(same_port):
    world = same_port
    world.connections = 3  # of the release that has the port now
    operations.rollback("blog", 1)
    assert world.live == ONE and world.releases[THREE] == "held"
    world.check()


@pytest.mark.parametrize("is_killed", [False, True])
def test_rollback_to_the_same_port_that_is_ended_leaves_the_active_one(same_port, monkeypatch, is_killed):
    world = same_port

    def end(*_arguments):
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(health, "check", end)
        if is_killed:
            patched.setattr(Deployment, "_resume", lambda *_: "")
        with pytest.raises(SystemExit):
            operations.rollback("blog", 1)
    assert ("django-blog-0003.service" in world.running) != is_killed
    world.apply()
    assert world.live == THREE
    world.check()


@pytest.mark.parametrize("part", ["enable --quiet --no-reload --now django-blog-0001", ""])
def test_rollback_to_the_same_port_that_fails_starts_the_active_one_again(same_port, part):
    world = same_port
    world.fails = {part: DeploymentError("it does not")} if part else {}
    world.problems = {} if part else {"0001": "returned 500"}
    with pytest.raises(DeploymentError) as caught:
        operations.rollback("blog", 1)
    world.fails = {}
    assert world.live == THREE and f"{THREE} {'runs again' if part else 'is live again'}" in str(caught.value)
    world.check()


def nginx_files():
    return {path: path.read_text() for path in nginx.ETC.rglob("*.conf")}


def test_without_overlap_the_old_instance_is_started_first(two):
    two.options = {"releases": {"overlap": False}}
    two.problems["0002"] = "returned 500"
    with pytest.raises(DeploymentError, match=f"{ONE} is live again"):
        two.apply()
    assert two.live == ONE
    two.check()


def test_a_way_back_that_is_closed_is_said(two, monkeypatch):
    two.problems["0002"] = "returned 500"
    link = file.link

    def full(path, target, **options):
        if path.name == "current" and target.endswith(ONE):
            raise OSError(28, "No space left on device", str(path))
        link(path, target)

    monkeypatch.setattr(file, "link", full)
    with pytest.raises(DeploymentError) as caught:
        two.apply()
    assert f"{ONE} cannot be activated again: [Errno 28] No space left" in caught.value.message
    assert two.live == TWO and "django-blog-0002.service" in two.running
    assert caught.value.hint.endswith(f"{TWO} is live")
    monkeypatch.undo()


# The end of the old instance


def test_the_old_instance_runs_until_the_new_one_is_seen_well(two, monkeypatch):
    seen, end = [], deploy_switch.stop
    monkeypatch.setattr(
        deploy_switch, "stop", lambda deployment, left: (seen.append({*two.running}), end(deployment, left))
    )
    two.apply()
    assert {"django-blog-0001.service", "django-blog-0002.service"} <= seen[0]
    assert two.last.findings.switch_report["sent"] >= switch_report.STEADY


def test_it_is_watched_as_long_as_the_pillar_says(two):
    two.options = {"releases": {"watch": "300ms"}}
    began = time.monotonic()
    two.apply()
    assert time.monotonic() - began >= 0.3 and two.live == TWO
    two.check()


def test_a_server_that_ends_late_is_left_within_the_watch(two, monkeypatch):
    two.options = {"releases": {"watch": "1m"}}
    asked = []
    monkeypatch.setattr(systemd.MANAGER, "pid", lambda *_: 42 if two.live == ONE or len(asked) < 20 else 43)
    problem = two.problem
    two.problem = lambda: (asked.append(1), problem())[1]
    with pytest.raises(DeploymentError, match="its application server exited after the switch"):
        two.apply()
    assert len(asked) >= 20 and two.live == ONE


def test_connections_that_are_cut_are_counted(two, monkeypatch):
    cut, real = [], instances.cut
    monkeypatch.setattr(instances, "cut", lambda site, path: (cut.append(path.name), real(site, path)))
    monkeypatch.setattr(threading, "Timer", lambda seconds, function: threading.Thread(target=function))
    two.connections = 3
    changes = two.apply()
    assert cut == [ONE] and changes["live"]["receipt"]["cut"] == 3
    assert two.last.warnings == ["3 connections were still open after 30s, and were cut"]
    assert attempts(two)[-1]["receipt"]["cut"] == 3
    two.check()


def test_switch_report_is_recorded_in_release_and_attempt(two):
    changes = two.apply()
    report = changes["live"]["receipt"]
    assert report.keys() == {
        *("rate", "through", "seconds", "sent", "failed", "longest_gap", "latency_before", "latency_after", "cut")
    }
    assert file.read_json(two.site.current / "release.json")["receipt"] == report
    assert attempts(two)[-1]["receipt"] == report
    assert two.last.probe._is_over


# One switch after another


HOLDER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from django_formula.proxy import switch
from django_formula.site import sites
from pathlib import Path
sites.RUNTIME = Path(sys.argv[2])
with switch.alone():
    with switch.alone():
        print("held", flush=True)
        sys.stdin.read()
"""


@pytest.fixture
def holder(two):
    """Another process, which switches another site."""
    argv = [sys.executable, "-c", HOLDER, str(Path(proxy_switch.__file__).parents[2]), str(sites.RUNTIME)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.stdin.close()


def test_the_folder_of_the_lock_is_open_whatever_the_umask_is(own_host):
    sites.RUNTIME.rmdir()
    before = os.umask(0o077)
    try:
        with proxy_switch.alone():
            pass
    finally:
        os.umask(before)
    assert sites.RUNTIME.stat().st_mode & 0o777 == 0o755


def test_a_switch_waits_for_that_of_another_site(two, holder):
    threading.Timer(0.2, holder.stdin.close).start()
    two.apply()
    assert two.live == TWO


def test_switch_times_out_waiting_for_another_site(two, holder, monkeypatch):
    monkeypatch.setattr(proxy_switch, "PATIENCE", "100ms")
    with pytest.raises(DeploymentError) as caught:
        two.apply()
    assert caught.value.message.startswith("live: the switch of another site of this host is under way: switch, pid ")
    assert two.live == ONE and TWO not in two.releases, "it is tried again"
    holder.stdin.close()
    holder.wait(10)
    two.apply()
    assert two.live == f"0003-{TWO[5:]}" or two.live == TWO
    two.check()


# The commands after it


def test_a_command_that_fails_after_the_switch(two):
    two.options = {"commands": {"after_switch": ["manage.py clear_cache", "manage.py other"]}}
    two.fails["clear_cache"] = DeploymentError("manage.py clear_cache failed (exit 1)", log="no cache")
    with pytest.raises(DeploymentError) as caught:
        two.apply()
    assert caught.value.message == "record: manage.py clear_cache failed (exit 1)"
    assert caught.value.hint.splitlines() == [
        "correct django:sites:blog:commands:after_switch:0, or the command itself",
        f"{TWO} is live",
    ]
    assert two.live == TWO and two.releases[TWO] == "good"
    record = file.read_json(two.site.current / "release.json")
    assert record["step"] == "record" and "no cache" in record["error"]
    assert (attempts(two)[-1]["result"], attempts(two)[-1]["step"]) == ("released", "record")
    (row,) = [row for row in status.releases(two.site) if row["role"] == "live"]
    assert row["failure"] == "record: manage.py clear_cache failed (exit 1)"
    assert two.apply() == {}
    two.check()


@pytest.mark.parametrize(
    ("options", "moves"),
    [
        ({"path": "/shop"}, True),
        ({"domains": ["new.example.org"]}, True),
        ({"health": {"path": "/healthz"}, "environment": {"A": "1"}}, False),
    ],
)
def test_switch_asks_the_old_release_for_the_page_of_its_health_check(world, monkeypatch, options, moves):
    monkeypatch.setattr(proxies, "is_installed", lambda site: True)
    world.apply()
    first = health.page(world.site)
    world.options = options
    world.apply()
    probe = world.last.probe
    assert health.page(probe.before) == first
    assert health.page(probe.site) == releases.Release(world.site, world.live).record["page"]
    assert probe.before is not probe.site and probe.through_proxy is not moves
    world.check()


def test_proxy_reads_what_a_killed_switch_has_left_before_the_old_release_is_stopped(world, monkeypatch):
    """The proxy resolves the address of a release when it is reloaded, and led to one that is stopped otherwise."""
    world.options = OTHERS["tcp"]
    world.apply()
    world.push("two")
    child = os.fork()
    if not child:
        daemons.reload = lambda daemon: os._exit(9)
        world.apply()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9 and world.live == TWO
    seen = []
    monkeypatch.setattr(daemons, "reload", lambda daemon: seen.append("django-blog-0001.service" in world.running))
    assert world.apply(test=True)["live"]["reloaded"] == ["nginx"] and not seen
    assert world.apply()["live"]["reloaded"] == ["nginx"]
    assert seen == [True] and "django-blog-0001.service" not in world.running
    assert world.apply() == {} and seen == [True]


def test_old_release_stays_while_the_proxy_does_not_read_what_a_killed_switch_has_left(world, monkeypatch):
    world.options = OTHERS["tcp"]
    world.apply()
    world.push("two")
    world.apply()
    world.systemctl("enable", "--now", "django-blog-0001.socket", "django-blog-0001.service")
    with proxy_switch.alone(), contextlib.suppress(KeyError), proxy_switch.noted([nginx.PROXY], restores=False):
        raise KeyError  # as where it is killed

    def refuse(_proxy):
        raise DeploymentError("nginx refuses its configuration: x")

    with monkeypatch.context() as patched:
        patched.setattr(nginx.Nginx, "check", refuse)
        assert not world.apply().get("live")
        assert [text for text in world.last.warnings if "is not in use yet: nginx refuses its configuration: x" in text]
        assert "django-blog-0001.service" in world.running
    assert world.apply()["live"]["reloaded"] == ["nginx"] and "django-blog-0001.service" not in world.running
