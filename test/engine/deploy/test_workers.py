"""Workers of a site through releases: which of them take tasks at each moment, and what becomes of the former ones."""

import dataclasses
import fcntl
import os
import signal
import time
from types import SimpleNamespace

import pytest
from django_formula.backup import backups, restore
from django_formula.deploy import removal as deploy_removal
from django_formula.deploy import switch
from django_formula.host import commands
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.kind import kinds
from django_formula.metrics import metrics
from django_formula.process import contract, supervisor, systemd
from django_formula.project import ask, program
from django_formula.proxy import maintenance as proxy_maintenance
from django_formula.release import releases
from django_formula.release import workers as release_workers
from django_formula.release.workers import SwitchLock
from django_formula.schedule import timer
from django_formula.site import sites
from django_formula.verbs import logs as verbs_logs
from django_formula.verbs import operations, terminal
from django_formula.watch import problem
from django_formula.worker import workers as worker_workers
from world import commit

pytestmark = pytest.mark.slow  # workers that are waited for

ONE, TWO, THREE = (f"000{number}-{commit(name)[:12]}" for number, name in enumerate(("one", "two", "three"), 1))
WORKERS = {"mail": {"kind": "rq"}, "feed": {"kind": "command", "command": "manage.py follow_feed", "patience": "2h"}}


def units(release):
    return {f"django-blog-{release[:4]}-{name}" for name in WORKERS}


@pytest.fixture
def one(world, monkeypatch):
    """A site with two workers, whose release is active; `seen` has which took tasks before and after each rename."""
    for kind in kinds.WORKERS.values():
        for name in kind.templates:
            world.templates.setdefault(f"{kinds.FILES}{name}", "")
    world.options = {"workers": WORKERS, "releases": {"drain": "1s"}}
    world.seen, link = [], host_file.link

    def watched(path, target, **options):
        before = world.fetching()
        link(path, target, **options)
        if path == world.site.current:
            world.seen.append((before, world.fetching()))

    monkeypatch.setattr(host_file, "link", watched)
    world.apply()
    world.check()
    world.push("two")
    return world


def test_workers_start_with_the_first_release_and_second_apply_changes_nothing(one):
    one.push("one")
    assert one.seen == [(set(), set())]  # the lock is held until the release is judged
    assert one.fetching() == units(ONE) and one.apply() == {}
    text = (systemd.UNITS / "django-blog-0001-feed.service").read_text()
    assert "TimeoutStopSec=7200\n" in text and "KillMode=mixed\n" in text and "NoNewPrivileges=yes\n" in text
    command = f"{one.site.releases}/{ONE}/virtualenv/bin/python {one.site.releases}/{ONE}/config/"
    assert f"ExecStart={command}django_formula_command.py {one.site.releases}/{ONE}/config/worker-feed.json\n" in text


def test_nothing_takes_tasks_while_a_release_is_activated(one):
    changes = one.apply()
    assert one.seen[1:] == [(set(), set())]
    assert one.fetching() == units(TWO) and one.is_free()
    names = ["django-blog-0002", *sorted(units(TWO), reverse=True)]
    assert changes["instance"]["instance"] == f"{', '.join(names)} started"
    one.check()
    assert one.apply() == {}


def test_former_workers_are_not_waited_for(one):
    one.busy = {f"{name}.service" for name in units(ONE)}
    one.apply()
    stops = [argv for argv in one.commands if argv[:2] == ["systemctl", "disable"] and units(ONE) & {argv[-1][:-8]}]
    assert len(stops) == 2 and all("--no-block" in argv for argv in stops)
    assert not [argv for argv in one.commands if argv[1] == "kill"]
    left = release_workers.finishing(one.site, [one.site.releases / ONE])
    assert {contract.unit(one.site, worker.release, worker.worker) for worker in left} == units(ONE)
    one.check()


def test_worker_that_does_not_start_fails_the_release_and_leaves_the_old_ones_alone(one):
    one.fails["django-blog-0002-mail"] = DeploymentError("exit 1", log="ModuleNotFoundError: No module named 'ink'")
    before = len(one.commands)
    with pytest.raises(DeploymentError) as caught:
        one.apply()
    assert caught.value.message == f"instance: the worker mail of {TWO} does not start"
    assert "No module named 'ink'" in caught.value.log
    assert one.live == ONE and one.fetching() == units(ONE) and len(one.seen) == 1
    assert not [argv for argv in one.commands[before:] if "0001" in " ".join(argv)]
    assert not list(systemd.UNITS.glob("django-blog-0002*"))
    one.check()


def test_release_that_is_taken_back_has_taken_no_task(one):
    one.problems["0002"] = "returned 500"
    with pytest.raises(DeploymentError, match=f"{ONE} is live again"):
        one.apply()
    assert one.seen[1:] == [(set(), set()), (set(), set())]
    assert one.fetching() == units(ONE) and one.is_free()
    one.check()


def test_rollback_exchanges_the_workers(one):
    one.apply()
    one.roll_back()
    assert one.seen[1:] == [(set(), set()), (set(), set())]
    assert one.live == ONE and one.fetching() == units(ONE)
    one.check()


def comes_true(condition):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_tasks_do_not_wait_for_open_connections(one, monkeypatch):
    taking = []
    monkeypatch.setattr(
        switch.instances,
        "drain",
        lambda site, path: (comes_true(one.fetching), taking.append(one.fetching()), 1)[2] if path.name == ONE else 0,
    )
    one.apply()
    assert taking == [units(TWO)]


def test_release_that_fails_while_connections_are_drained_is_held_again(one, monkeypatch):
    def fails_late(site, path):
        if path.name != ONE:
            return 0
        comes_true(one.fetching)
        one.problems["0002"] = "returned 500"
        comes_true(lambda: one.live == ONE)
        return 0

    monkeypatch.setattr(switch.instances, "drain", fails_late)
    with pytest.raises(DeploymentError, match=f"{ONE} is live again"):
        one.apply()
    assert one.seen[1:] == [(set(), set()), (set(), set())] and one.fetching() == units(ONE)
    one.check()


def test_release_stays_until_its_workers_have_ended(one):
    one.options |= {"releases": {"keep": 2, "drain": "1s"}}
    one.busy = {"django-blog-0001-feed.service"}
    for name in ("two", "three", "four"):
        one.push(name)
        one.apply()
    assert ONE in one.releases and TWO not in one.releases  # a task may still import from its folder
    one.running -= one.busy
    one.busy = set()
    one.push("five")
    one.apply()
    assert ONE not in one.releases
    one.check()


def test_only_so_many_releases_wait_for_their_workers(one):
    one.options |= {"releases": {"keep": 2, "drain": "1s"}}
    one.busy = {f"django-blog-000{number}-feed.service" for number in (1, 2, 3)}
    for name in ("two", "three", "four", "five"):
        one.push(name)
        one.apply()
    ended = f"tasks of {ONE} were ended: more releases than releases:keep wait for their workers"
    assert ended in one.last.warnings
    assert ONE not in one.releases and {TWO, THREE} <= {*one.releases}
    assert ["systemctl", "kill", "--signal=SIGKILL", "django-blog-0001-feed.service"] in one.commands
    one.check()


def test_worker_that_was_stopped_is_started(one):
    one.push("one")
    one.running.discard("django-blog-0001-mail.service")
    assert list(one.apply()) == ["instance"]
    one.check()
    assert one.apply() == {}


def test_without_overlap_workers_are_paused(one):
    one.options |= {"releases": {"overlap": False, "drain": "1s"}}
    one.busy = {"django-blog-0001-feed.service"}
    one.apply()
    assert ["systemctl", "kill", "--signal=SIGKILL", "django-blog-0001-feed.service"] in one.commands
    assert one.seen[1:] == [(set(), set())]
    one.check()


def test_without_overlap_old_workers_start_again_when_the_release_fails(one):
    one.options |= {"releases": {"overlap": False}}
    one.fails["--now django-blog-0002.socket"] = DeploymentError("exit 1")
    with pytest.raises(DeploymentError, match=f"{ONE} runs again"):
        one.apply()
    assert one.fetching() == units(ONE)
    one.check()


def test_units_that_a_killed_deployment_left_are_stopped(one):
    """It was killed after the rename: the units of both releases start at boot, and `current` decides."""
    one.apply()
    for name in units(ONE):
        one.systemctl("enable", "--now", f"{name}.service")
    assert one.fetching() == units(TWO)
    assert one.apply()["live"] == {"stopped": [ONE]}
    one.check()


@pytest.mark.parametrize("reported", [worker_workers.State(42, 1.0, fetching=True), None])
def test_workers_that_do_not_report_that_they_stopped_delay_a_switch_for_a_moment(one, monkeypatch, reported):
    monkeypatch.setattr(worker_workers, "state", lambda run: reported)
    monkeypatch.setattr(release_workers, "_QUIET", 0.1)
    one.apply()
    assert one.live == TWO
    assert f"workers of {ONE} did not report in time that they take no tasks: feed, mail" in one.last.warnings


def test_worker_that_is_not_ready_yet_is_not_waited_for(one, monkeypatch):
    state, is_whole = one.state, contract.is_whole
    is_new = lambda name: name == "0001-mail"  # noqa: E731
    monkeypatch.setattr(worker_workers, "state", lambda run: None if is_new(run.name) else state(run))
    monkeypatch.setattr(
        contract,
        "is_whole",
        lambda site, release, part="": (
            not is_new(contract.folder(site, release, part).name) and is_whole(site, release, part)
        ),
    )
    monkeypatch.setattr(release_workers, "_QUIET", 60)
    one.apply()
    assert one.live == TWO and not [text for text in one.last.warnings if "in time" in text]


@pytest.mark.parametrize(
    ("reported", "is_warned"),
    [({"failed": 3, "active": 0}, True), ({"failed": 0, "active": 1}, False), ({"failed": 0, "active": 0}, False)],
    ids=["fails", "is ready", "takes long"],
)
def test_command_that_fails_after_the_switch_is_reported(one, monkeypatch, reported, is_warned):
    state = one.state

    def of_command(run):
        found = state(run)
        return dataclasses.replace(found, **reported) if found and run.name == "0002-feed" else found

    monkeypatch.setattr(worker_workers, "state", of_command)
    monkeypatch.setattr(release_workers, "_STARTS", 0.1)
    one.prints["journalctl"] = "ValueError: no such feed\nTraceback (most recent call last):\n"  # newest first
    one.apply()
    expected = "the command of the worker feed failed, and is started again and again: ValueError: no such feed"
    warned = [text for text in one.last.warnings if "failed" in text]
    assert warned == ([f"{expected} (django.logs blog worker=feed)"] if is_warned else [])
    problems = terminal.status([operations.status("blog")]).get("problems", [])
    assert ("blog: worker feed fails (3 times)" in str(problems)) == is_warned


@pytest.fixture
def breaking(one, monkeypatch):
    """The next release has a migration that the active one cannot run with; `during` has which workers take tasks."""
    one.options |= {"migrate": {"unsafe": "maintenance"}}
    removal = {"operation": "RemoveField", "model": "blog.Post", "field": "title", "class": "breaking"}
    removal |= {"why": "", "way": "", "reversible": True, "lock": "", "sql": ""}
    schema = {"name": "blog.0002_gone", "class": "breaking", "reversible": False, "operations": [removal]}
    one.answers["schema"] = {"default": [schema]}
    one.answers["migrations"] = {"default": {"applied": ["blog.0001"], "pending": ["blog.0002_gone"]}}
    one.during, one.stops, migrate = [], None, program.migrate

    def watched(site, *arguments):
        one.during.append(one.fetching())
        if one.stops:
            raise one.stops
        return migrate(site, *arguments)

    monkeypatch.setattr(program, "migrate", watched)
    return one


def test_workers_take_no_tasks_during_a_migration_that_they_cannot_run_with(breaking):
    breaking.apply()
    assert breaking.during == [set()] and breaking.fetching() == units(TWO)
    breaking.check()


def test_workers_wait_behind_the_maintenance_page_of_an_operator_too(breaking):
    proxy_maintenance.on(breaking.site, "back soon", by="Ada")
    breaking.apply()
    assert breaking.during == [set()] and breaking.fetching() == units(TWO)
    assert sites.known_maintenance(breaking.site)["by"] == "Ada"


def test_workers_go_on_after_a_migration_that_has_left_nothing(breaking):
    breaking.stops = DeploymentError("it does not balance")
    with pytest.raises(DeploymentError, match="it does not balance"):
        breaking.apply()
    assert breaking.during == [set()] and breaking.fetching() == units(ONE)


def test_workers_wait_where_their_release_cannot_run_with_the_database_until_maintenance_ends(breaking):
    breaking.stops = ask.PartlyMigrated("it does not balance")
    breaking.stops.names = ["blog.0002_gone"]
    with pytest.raises(DeploymentError, match="it does not balance"):
        breaking.apply()
    assert breaking.fetching() == set() and breaking.is_free()  # a boot changes nothing of it
    proxy_maintenance.on(breaking.site, "back at 14:00", by="Ada")
    assert breaking.fetching() == set()
    proxy_maintenance.off(breaking.site)
    assert breaking.fetching() == units(ONE)


def test_site_without_workers_has_none_of_it(world, monkeypatch):
    monkeypatch.setattr(SwitchLock, "take", lambda lock: pytest.fail("a lock is taken"))
    world.apply()
    world.push("two")
    world.apply()
    files = [path.name for path in (world.site.current / "config").iterdir() if "worker" in path.name]
    assert files == [] and not worker_workers.switch_lock(world.site).exists()


def test_restore_ends_tasks_of_all_releases_before_the_databases_are_exchanged(one):
    one.busy = {"django-blog-0001-feed.service", "django-blog-0002-feed.service"}
    one.apply()
    seen = []
    names = {"default": "blog"}
    swap = lambda *_: seen.append({name for name in one.running if name.count("-") == 3})  # noqa: E731
    backups.DUMPERS["postgres"].swap = swap
    live = releases.Release(one.site, TWO)
    [database] = [SimpleNamespace(kind="postgres", alias="default")]
    restore._exchange(one.site, live, [database], names, {"default": "blog_before"}, None)
    assert seen == [set()] and {f"{name}.service" for name in units(TWO)} <= one.enabled
    assert one.fetching() == units(TWO)


def test_removal_ends_the_workers(one):
    one.busy = {"django-blog-0001-feed.service"}
    one.apply()
    deploy_removal.remove(one.site, "a test")
    assert one.running == set() and not [*systemd.UNITS.glob("django-blog-*")]
    assert not worker_workers.switch_lock(one.site).exists()


def test_with_supervisor_a_worker_is_a_program(one, monkeypatch):
    asked = []
    monkeypatch.setattr(supervisor, "_tell_to_stop", lambda name: asked.append(name))
    one.process = "supervisor"
    one.apply()
    programs = {path.stem for path in supervisor.PROGRAMS.iterdir()}
    assert programs == {"django-blog-0002", *units(TWO)}
    one.push("three")
    one.apply()
    assert {*asked} == units(TWO)
    text = (supervisor.PROGRAMS / "django-blog-0003-feed.conf").read_text()
    assert "stopwaitsecs=7200\n" in text and "stopasgroup=false\n" in text
    script = (one.site.current / "config/worker-feed.sh").read_text()
    assert f"\ncd {one.site.releases}/{THREE}/source\n" in script and script.endswith("/config/worker-feed.json\n")


# What people see


@pytest.fixture
def busy(one, monkeypatch):
    """The second release is active, and a worker of the first one still runs two tasks."""
    one.busy = {"django-blog-0001-feed.service"}
    one.apply()
    state = one.state

    def with_tasks(run):
        found = state(run)
        return found and dataclasses.replace(found, active=2, tasks=("shop.send", "shop.tidy"))

    monkeypatch.setattr(worker_workers, "state", with_tasks)
    return one


def test_status_names_workers_and_what_older_releases_still_run(busy):
    row = operations.status("blog")
    assert row["workers"] == "feed takes tasks (2 running: shop.send; shop.tidy), mail takes tasks (2 running: " + (
        "shop.send; shop.tidy)"
    )
    assert row["finishing"].startswith("0001 feed (2 running: shop.send")
    busy.running.discard("django-blog-0002-mail.service")
    view = terminal.status([operations.status("blog")])
    assert "blog: worker mail does not run\n    do: salt-call django.restart blog worker=mail" in view["problems"]


def test_names_of_tasks_are_no_workers_for_watch_and_metrics(busy, monkeypatch):
    state = worker_workers.state
    names = ("shop.send", "shop.tidy", "a, mail does not run")
    monkeypatch.setattr(
        worker_workers, "state", lambda run: (found := state(run)) and dataclasses.replace(found, tasks=names)
    )
    row = operations.status("blog")
    assert not [one for one in problem.problems(row) if one.kind == "worker"]
    (running,) = [one for one in metrics._of_sites({"blog": row}) if one.name == "django_worker_running"]
    assert running.samples == [("", {"site": "blog", "worker": name}, True) for name in ("feed", "mail")]


def test_workers_are_listed(busy):
    rows = operations.workers("blog")
    assert [(row["worker"], row["release"], row["does"]) for row in rows] == [
        ("feed", TWO, "takes tasks"),
        ("mail", TWO, "takes tasks"),
        ("feed", ONE, "finishes tasks"),
    ]
    assert rows[2]["unit"] == "django-blog-0001-feed" and rows[2]["active"] == 2 and rows[2]["kind"] == "command"
    (busy.site.maintenance / "on").mkdir(parents=True)
    proxy_maintenance.hold_workers(busy.site)
    assert operations.workers("blog")[0]["does"] == "waits until maintenance ends"
    assert "2 running" in terminal.workers(rows)[0]


def test_restart_does_not_wait_for_tasks(busy):
    before = len(busy.commands)
    assert operations.restart("blog", "mail") == {"mail": "restarts; tasks that run are finished first: 2"}
    assert busy.commands[before:] == [["systemctl", "restart", "--no-block", "django-blog-0002-mail.service"]]
    assert list(operations.restart("blog")) == ["feed", "mail"]
    with pytest.raises(DeploymentError) as caught:
        operations.restart("blog", "nail")
    assert (caught.value.message, caught.value.hint) == (f"{TWO} has no worker 'nail'", "its workers are feed, mail")


def test_log_of_a_worker(busy):
    busy.prints["journalctl"] = "a line\n"
    assert verbs_logs.show("blog", 20, "mail") == "a line\n"
    assert busy.commands[-1][:3] == ["journalctl", "--unit", "django-blog-0002-mail"]
    with pytest.raises(DeploymentError, match="has no worker 'nail'"):
        verbs_logs.show("blog", 20, "nail")


def test_dry_run_names_the_units(one):
    changes = one.apply(test=True)
    assert changes["instance"] == {"release": TWO, "starts": "django-blog-0002-mail, django-blog-0002-feed"}
    assert changes["live"] == {"release": TWO, "stops": "django-blog-0001-feed, django-blog-0001-mail"}
    assert one.live == ONE and one.fetching() == units(ONE)
    assert one.apply()["live"]["stops"] == changes["live"]["stops"]


# The switch lock


def test_lock_is_free_when_its_process_is_killed(one):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        lock = SwitchLock(one.site)
        lock.take()
        os.write(writer, b"x")
        time.sleep(60)
        os._exit(0)
    os.read(reader, 1)
    assert not one.is_free() and one.fetching() == set()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert one.is_free() and one.fetching() == units(ONE)


@pytest.mark.parametrize("how", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_lock_is_not_waited_for_where_the_site_locks_the_file(one, how):
    path = worker_workers.switch_lock(one.site)
    path.touch()
    with open(path, "rb") as file:
        fcntl.flock(file, how)
        lock = SwitchLock(one.site)
        lock.take()
        assert lock.is_held and not one.is_free()
        lock.release()
        assert one.is_free()
    assert [one.name for one in path.parent.iterdir() if one.name.startswith(".")] == []


def test_lock_is_not_inherited_by_commands(one):
    lock = SwitchLock(one.site)
    lock.take()
    assert not os.get_inheritable(lock._descriptor) and lock._descriptor not in commands.locks
    lock.release()


# Names of units


@pytest.mark.parametrize(
    ("site", "name", "expected"),
    [
        ("blog", "django-blog-0042", ("0042", "")),
        ("blog", "django-blog-0042-mail", ("0042", "mail")),
        ("blog", "django-blog-12345-send_all", ("12345", "send_all")),
        ("blog-0042", "django-blog-0042-0001-mail", ("0001", "mail")),
        ("blog", "django-blog-0042-0001-mail", None),
        ("blog", "django-blog-0042-0001", None),
        ("blog", "django-blog-0042-task", None),
        ("blog", "django-blog-0042-cache_pages", None),
        *(("blog", f"django-blog-2024-{task.name}", None) for task in timer.TASKS),
        ("blog", "django-blog-2024-proof", None),
        ("blog", "django-blog-queue", None),
        ("blog", "django-blog-at-0042", None),
        ("blog", "django-shop-0042", None),
    ],
)
def test_name_of_a_unit_tells_release_and_part(make_site, site, name, expected):
    assert contract.parse(make_site(site), name) == expected
