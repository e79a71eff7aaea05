"""Schedules: their files with systemd and with cron, their times, and the program that runs them once at a time."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import types
import zipfile

import pytest
from django_formula.backup import restore
from django_formula.deploy import drift as deploy_drift
from django_formula.deploy import inputs as deploy_inputs
from django_formula.deploy import removal
from django_formula.host import daemons, locks
from django_formula.host.commands import DeploymentError
from django_formula.process import systemd, transient
from django_formula.release import disk, releases
from django_formula.schedule import run as schedule_run
from django_formula.schedule import schedules as schedule_schedules
from django_formula.schedule import timer as schedule_timer
from django_formula.site import sites
from django_formula.verbs import operations, terminal
from django_formula.verbs import schedule as verbs_schedule
from specimen import compiled, configured, three_keys

CLEAR = {"command": "manage.py clearsessions", "at": "daily"}
MONDAYS = {"command": "manage.py send_invoices 'to all'", "at": "Mon 06:00", "within": "1h", "timeout": "2h"}


@pytest.fixture(autouse=True)
def kept_signals():
    """The program installs a handler of SIGTERM, which other tests of this process must not have."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def scheduled(world, own_host, monkeypatch):
    """A world with a live site that has two schedules."""
    monkeypatch.setattr(schedule_schedules, "STAMPS", own_host / "stamps")
    (own_host / "stamps").mkdir()
    world.apply()
    world.options = {"schedules": {"clear": CLEAR, "invoices": {**MONDAYS, "catch_up": False}}}
    world.changes = world.apply()
    return world


def unit(name):
    return systemd.UNITS / f"django-blog-at-{name}"


# Times


@pytest.mark.parametrize(
    ("at", "calendar"),
    [
        ("daily", "daily"),
        ("Mon..Fri 08:00", "Mon..Fri 08:00"),
        ("*/15 8-18 * * 1-5", "Mon,Tue,Wed,Thu,Fri *-*-* 8..18:0/15:00"),
        ("0 3 * * *", "*-*-* 3:0:00"),
        ("5,35 */2 1-15/2 */3 *", "*-1/3-1..15/2 0/2:5,35:00"),
        ("0 0 * * 0", "Sun *-*-* 0:0:00"),
        ("0 0 * * 5-7", "Fri,Sat,Sun *-*-* 0:0:00"),
        ("0 0 */10 * *", "*-*-1/10 0:0:00"),
    ],
)
def test_fields_of_cron_are_translated_for_systemd(at, calendar):
    assert schedule_schedules.calendar(at) == calendar


@pytest.mark.parametrize(
    ("at", "fields"),
    [("daily", "0 0 * * *"), ("*/15  8-18 * * 1-5", "*/15 8-18 * * 1-5"), ("Mon 06:00", None), ("*:0/10", None)],
)
def test_times_are_translated_for_cron(at, fields):
    assert schedule_schedules.cron(at) == fields


def test_time_that_systemd_refuses_is_refused_before_the_release(scheduled):
    log = "Failed to parse calendar specification 'Mon 26:00': Invalid argument"
    scheduled.fails["systemd-analyze calendar Mon 26:00"] = DeploymentError("checking failed (exit 1)", log=log)
    scheduled.options["schedules"]["clear"] = {**CLEAR, "at": "Mon 26:00"}
    with pytest.raises(DeploymentError, match="systemd does not accept Mon 26:00: Failed to parse") as error:
        scheduled.apply()
    assert error.value.message.startswith("site: django:sites:blog:schedules:clear:at: ")
    assert "systemd-analyze calendar 'Mon 26:00'" in error.value.hint


def test_time_that_never_comes_is_refused(scheduled):
    scheduled.prints["systemd-analyze"] = "Normalized form: 2020-01-01 00:00:00\n    Next elapse: never\n"
    scheduled.options["schedules"]["clear"] = {**CLEAR, "at": "2020-01-01 00:00"}
    with pytest.raises(DeploymentError, match="systemd does not accept 2020-01-01 00:00: it is in the past"):
        scheduled.apply()


# Their files


def test_schedules_are_installed_after_the_switch(scheduled):
    files = [unit("clear"), unit("invoices")]
    suffixes = (".service", ".timer")
    assert scheduled.changes["schedules"] == {
        str(scheduled.site.root / "schedule.pyz"): "new",
        **{f"{file}{suffix}": "new" for file in files for suffix in suffixes},
        **{str(scheduled.site.schedules / f"{name}.json"): "new" for name in ("clear", "invoices")},
    }
    assert list(scheduled.changes) == ["site", "schedules"]  # no new release
    timer = unit("invoices.timer").read_text()
    assert "\nOnCalendar=Mon 06:00\nAccuracySec=1s\nRandomizedDelaySec=1h\nPersistent=no\n" in timer
    assert "\nOnCalendar=daily\nAccuracySec=1s\nPersistent=yes\n" in unit("clear.timer").read_text()
    service = unit("clear.service").read_text()
    assert f"\nExecStart=/usr/bin/python3 -I {scheduled.site.root}/schedule.pyz blog clear\n" in service
    started = ["systemctl", "restart", "django-blog-at-clear.timer", "django-blog-at-invoices.timer"]
    assert started in scheduled.commands
    assert scheduled.site.schedules.stat().st_mode & 0o777 == 0o700


def test_second_apply_changes_nothing_and_calls_nothing(scheduled):
    scheduled.commands.clear()
    assert scheduled.apply() == {} and scheduled.commands == []
    (systemd.UNITS / "timers.target.wants/django-blog-at-clear.timer").unlink()
    assert scheduled.apply() == {"schedules": {str(unit("clear.timer")): "disabled"}}
    assert scheduled.apply() == {}


def test_dry_run_changes_nothing(scheduled):
    scheduled.options["schedules"]["clear"] = {**CLEAR, "at": "hourly"}
    changes = scheduled.apply(test=True)["schedules"]
    assert changes[str(unit("clear.timer"))] == "changed" and "daily" in unit("clear.timer").read_text()


def test_changed_time_makes_up_for_nothing(scheduled, own_host):
    stamps = [own_host / f"stamps/stamp-django-blog-at-{name}.timer" for name in ("clear", "invoices")]
    for stamp in stamps:
        stamp.touch()
    scheduled.options["schedules"]["clear"] = {**CLEAR, "at": "hourly"}
    scheduled.commands.clear()
    assert scheduled.apply()["schedules"].keys() == {
        str(unit("clear.timer")),
        str(scheduled.site.schedules / "clear.json"),
    }
    assert [stamp.exists() for stamp in stamps] == [False, True]
    assert ["systemctl", "restart", "django-blog-at-clear.timer"] in scheduled.commands


def test_timer_that_was_not_started_is_started_by_the_next_apply(scheduled):
    scheduled.options["schedules"]["clear"] = {**CLEAR, "at": "hourly"}
    scheduled.fails["systemctl restart"] = DeploymentError("killed")
    with pytest.raises(DeploymentError):
        scheduled.apply()
    assert "OnCalendar=hourly" in unit("clear.timer").read_text()
    scheduled.fails.clear()
    scheduled.commands.clear()
    assert scheduled.apply() == {"schedules": {str(scheduled.site.schedules / "clear.json"): "changed"}}
    assert ["systemctl", "restart", "django-blog-at-clear.timer"] in scheduled.commands and scheduled.apply() == {}


def test_schedule_that_is_due_while_its_timer_is_started_runs(scheduled, monkeypatch):
    scheduled.options["schedules"]["clear"] = {**CLEAR, "at": "weekly"}
    codes, control = [], schedule_schedules.units.control

    def due(*arguments, **options):
        if arguments[0] == "restart":
            codes.append(schedule_run.main("blog", "clear"))
        return control(*arguments, **options)

    monkeypatch.setattr(schedule_schedules.units, "control", due)
    scheduled.apply()
    assert codes == [0] and len(schedule_run.records(scheduled.site, "clear")["runs"]) == 1


def test_schedule_does_not_run_without_a_record_of_it(scheduled, monkeypatch, capsys):
    """On a full disk: it could run twice, or in a release that is deleted meanwhile."""
    ran, full = [], OSError(errno.ENOSPC, "No space left on device", "clear.lock")
    monkeypatch.setattr(schedule_run.runner, "run_command", ran.append)
    monkeypatch.setattr(schedule_run.file, "write_json", refusing(full))
    assert schedule_run.main("blog", "clear") == 1 and ran == []
    assert capsys.readouterr().err.startswith("clear of blog does not run: [Errno 28] No space left on device")


def test_run_that_has_filled_the_disk_keeps_its_output_and_its_code(scheduled, monkeypatch, capsys):
    full = OSError(errno.ENOSPC, "No space left on device", "clear.runs.json")

    def fill(_command):
        monkeypatch.setattr(schedule_run.file, "write_json", refusing(full))
        return "all is exported\n"

    monkeypatch.setattr(schedule_run.runner, "run_command", fill)
    assert schedule_run.main("blog", "clear") == 0
    printed = capsys.readouterr()
    assert printed.out == "all is exported\n"
    assert "clear of blog: no record of this run: [Errno 28] No space left on device" in printed.err


def refusing(error):
    def refuse(*_arguments, **_options):
        raise error

    return refuse


def test_lost_schedule_is_removed_before_the_release(scheduled):
    scheduled.options = {"schedules": {"clear": CLEAR}}
    scheduled.push("two")
    changes = scheduled.apply()
    lost = {str(unit(f"invoices{suffix}")): "removed" for suffix in (".service", ".timer")}
    assert changes["site"]["schedules"] == {**lost, str(scheduled.site.schedules / "invoices.json"): "removed"}
    assert "schedules" not in changes and not unit("invoices.timer").exists()
    scheduled.options = {}
    assert str(scheduled.site.root / "schedule.pyz") in scheduled.apply()["site"]["schedules"]
    assert not list(systemd.UNITS.rglob("*-at-*")) and scheduled.apply() == {}


def test_removed_site_has_no_schedules_and_keeps_their_records(scheduled):
    records = scheduled.site.schedules / "clear.runs.json"
    verbs_schedule.run_now("blog", "clear")
    assert str(unit("clear.timer")) in removal.present(scheduled.site)
    scheduled.options["state"] = "absent"
    removal.remove(scheduled.site, "a test")
    assert not list(systemd.UNITS.rglob("*-at-*")) and records.exists()


def test_removed_site_has_its_lost_schedules_forgotten_too(scheduled):
    (scheduled.site.schedules / "invoices.runs.json").write_text('{"runs": []}')
    scheduled.options = {"schedules": {"clear": CLEAR}}
    scheduled.apply()
    scheduled.commands.clear()
    scheduled.options = {"state": "absent"}
    removal.remove(scheduled.site, "a test")
    services = ["django-blog-at-clear.service", "django-blog-at-invoices.service"]
    assert ["systemctl", "list-units", "--all", "--plain", "--no-legend", *services] in scheduled.commands


def test_switch_changes_no_unit_of_a_schedule(scheduled):
    before = {path: path.stat().st_mtime_ns for path in systemd.UNITS.glob("*-at-*")}
    scheduled.push("two")
    scheduled.commands.clear()
    assert {"live", "record"} <= scheduled.apply().keys()
    assert before and before == {path: path.stat().st_mtime_ns for path in before}
    assert not [command for command in scheduled.commands if "-at-" in " ".join(command)]


def test_drift_knows_the_units(scheduled):
    live = releases.linked(scheduled.site, scheduled.site.current)
    clean = {row["path"] for row in deploy_drift.differing_paths(scheduled.site, live)}
    unit("clear.service").write_text("[Service]\nExecStart=/bin/true\n")
    unit("clear.timer").unlink()
    drift = {row["path"]: row["drift"] for row in deploy_drift.differing_paths(scheduled.site, live)}
    found = {path: drift[path] for path in drift.keys() - clean}
    assert found == {str(unit("clear.service")): "changed", str(unit("clear.timer")): "missing"}


def test_site_without_schedules_has_an_unchanged_configuration(make_site):
    assert "schedules" not in configured().config
    inputs = [
        deploy_inputs.hashes(make_site(**options), "c" * 40, {}, [], {})
        for options in ({}, {"schedules": {"clear": CLEAR}})
    ]
    assert inputs[0].keys() == inputs[1].keys()


def test_null_takes_an_inherited_schedule_back():
    defaults = {"schedules": {"clear": CLEAR, "daily_mail": {"command": "manage.py mail"}}}
    site = {**three_keys(), "schedules": {"clear": None, "daily_mail": {"at": "06:00"}}}
    schedules = compiled({"blog": site}, defaults)["sites"]["blog"]["schedules"]
    assert {name: one["command"] for name, one in schedules.items()} == {"daily_mail": "manage.py mail"}


# Without systemd


@pytest.fixture
def cron(scheduled, own_host, monkeypatch):
    """The same host with cron in place of systemd."""
    monkeypatch.setattr(daemons, "SYSTEMD", own_host / "none")
    monkeypatch.setattr(schedule_timer.shutil, "which", lambda name, path=None: f"/usr/sbin/{name}")
    scheduled.options = {"schedules": {"clear": CLEAR, "poll": {"command": "manage.py poll", "at": "*/5 * * * 1-5"}}}
    return scheduled


def test_cron_is_used_without_systemd(cron):
    cron.apply()
    program = f"root /usr/bin/python3 -I {cron.site.root}/schedule.pyz blog"
    texts = {name: (schedule_timer.CRON / f"django-blog-at-{name}").read_text() for name in ("clear", "poll")}
    assert texts == {
        "clear": f"# Schedule clear of the Django site blog\n0 0 * * * {program} clear\n",
        "poll": f"# Schedule poll of the Django site blog\n*/5 * * * 1-5 {program} poll\n",
    }
    assert cron.apply() == {}


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"at": "Mon 06:00"}, "Mon 06:00 is a time in systemd's notation, and this host has cron"),
        ({"within": "1h"}, "within is an option of systemd's timers, and this host has cron"),
        ({"catch_up": True}, "catch_up is an option of systemd's timers, and this host has cron"),
    ],
)
def test_what_cron_does_not_know_is_refused(cron, schedule, message):
    cron.options["schedules"]["clear"] = {**CLEAR, **schedule}
    with pytest.raises(DeploymentError, match=message) as error:
        cron.apply()
    assert error.value.hint


# The program


def records(world, name="clear"):
    return json.loads((world.site.schedules / f"{name}.runs.json").read_text())


def test_program_requires_only_python(scheduled):
    program = scheduled.site.root / "schedule.pyz"
    argv = ["/usr/bin/python3", "-I", program, "nobody", "clear"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "there is no site 'nobody' on this host" in done.stderr, done.stderr
    assert not {*zipfile.ZipFile(program).namelist()} & {
        "django_formula/deploy/deployment.py",
        "django_formula/schedule/schedules.py",
    }


def test_run_is_recorded(scheduled, capsys):
    assert schedule_run.main("blog", "clear") == 0
    assert capsys.readouterr().out == "printed by the command\n"
    (run,) = records(scheduled)["runs"]
    assert run == {**run, "release": scheduled.live, "by": "timer", "exit": 0} and run["begun"] <= run["ended"]
    argv = next(command for command in scheduled.commands if command[-1] == "clearsessions")
    release = scheduled.site.releases / scheduled.live
    assert argv[-4:] == ["/usr/bin/env", "python", "manage.py", "clearsessions"]
    assert "--unit=django-blog-at-clear-run.service" in argv
    assert f"--property=EnvironmentFile={release}/config/environment" in argv and "--property=User=blog" in argv
    assert "--property=RuntimeMaxSec=3615" in argv
    assert not (scheduled.site.schedules / "clear.lock").read_text()


def test_failed_run_is_recorded_and_shown(scheduled, capsys):
    scheduled.fails["clearsessions"] = DeploymentError("manage.py clearsessions failed (exit 3)", log="a\nno table\n")
    assert schedule_run.main("blog", "clear") == 3
    assert "no table" in capsys.readouterr().err
    (run,) = records(scheduled)["runs"]
    assert (run["exit"], run["error"]) == (3, "manage.py clearsessions failed (exit 3): no table")
    status = operations.status("blog")
    assert status["schedules"].startswith("clear failed (exit 3) ") and "invoices never run" in status["schedules"]
    shown = terminal.status([{**status, "managed": True}])
    assert [text for text in shown["problems"] if text.startswith("blog: schedules: clear failed (exit 3)")]


def test_run_on_the_command_line_returns_its_result(scheduled):
    result = verbs_schedule.run_now("blog", "clear", "django.run by root")
    expected = {"schedule": "clear", "exit": 0, "output": "printed by the command\n", "by": "django.run by root"}
    assert result == {**result, **expected}
    with pytest.raises(DeploymentError, match="blog has no schedule 'nothing' on this host") as error:
        verbs_schedule.run_now("blog", "nothing")
    assert error.value.hint == "it has: clear, invoices"


def test_records_are_bounded(scheduled, monkeypatch):
    monkeypatch.setattr(schedule_run, "KEPT", 3)
    for number in range(5):
        verbs_schedule.run_now("blog", "clear", f"test {number}")
    assert [run["by"] for run in records(scheduled)["runs"]] == ["test 2", "test 3", "test 4"]


@pytest.mark.slow
def test_schedule_runs_once_at_a_time(scheduled, capsys):
    lock = schedule_run.lock(scheduled.site, "clear", f"{scheduled.live} by timer")
    with lock.held():
        assert schedule_run.main("blog", "clear") == 0
        assert "clear of blog does not run: it is running already" in capsys.readouterr().out
        with pytest.raises(DeploymentError, match="clear of blog is under way"):
            verbs_schedule.run_now("blog", "clear")
        assert verbs_schedule.rows("blog")[0]["last"] == "running"
        assert verbs_schedule.run_now("blog", "invoices")["exit"] == 0  # another one may run meanwhile
    assert not (scheduled.site.schedules / "clear.runs.json").exists()


def test_run_is_not_missed_while_its_status_is_read(scheduled, monkeypatch):
    (scheduled.site.schedules / "clear.lock").touch()
    reader = open(scheduled.site.schedules / "clear.lock", "rb")  # noqa: SIM115 - closed while the run waits
    fcntl.flock(reader, fcntl.LOCK_SH)
    monkeypatch.setattr(locks.time, "sleep", lambda _seconds: reader.close())
    assert schedule_run.main("blog", "clear") == 0
    assert verbs_schedule.result(schedule_run.records(scheduled.site, "clear")) == "ok"


def test_command_of_a_killed_program_is_not_started_twice(scheduled, monkeypatch):
    monkeypatch.setattr(transient, "_is_loaded", lambda name: name == "django-blog-at-clear-run.service")
    scheduled.prints["systemctl"] = "active\n"
    with pytest.raises(DeploymentError, match="clear of blog is under way: its program was killed"):
        verbs_schedule.run_now("blog", "clear")


def test_release_in_which_a_schedule_runs_is_not_deleted(scheduled, own_host, monkeypatch):
    monkeypatch.setattr(transient, "_TRANSIENT", str(own_host / "transient"))
    first = scheduled.live
    scheduled.options["releases"] = {"keep": 2}
    lock = schedule_run.lock(scheduled.site, "clear", f"{first} by timer")
    with lock.held():
        for name in ("two", "three", "four"):
            scheduled.push(name)
            scheduled.apply()
        assert disk.names_in_use(scheduled.site) == {first} and first in scheduled.releases
    (own_host / "transient").mkdir()
    text = f"[Service]\nEnvironmentFile={scheduled.site.releases / first}/config/environment\n"
    (own_host / "transient/django-blog-manage-7.service").write_text(text)
    assert disk.prune(scheduled.site) == [] and first in scheduled.releases
    (own_host / "transient/django-blog-manage-7.service").unlink()
    assert disk.prune(scheduled.site) == [] and first not in scheduled.releases


def test_databases_are_not_exchanged_while_a_schedule_runs(scheduled):
    live = releases.Release(scheduled.site, scheduled.live)
    lock = schedule_run.lock(scheduled.site, "clear", f"{live.name} by timer")
    with lock.held(), pytest.raises(DeploymentError, match="the schedule clear of blog runs"):
        restore._exchange(scheduled.site, live, [], {}, {}, None)
    assert not sites.known_maintenance(scheduled.site)


@pytest.mark.parametrize("waits", [False, True])
def test_no_schedule_begins_while_databases_are_exchanged(scheduled, monkeypatch, waits):
    """What it writes would be in the former database, whether requests wait meanwhile or get the maintenance page."""
    hold = types.SimpleNamespace(end=lambda: None) if waits else None
    monkeypatch.setattr(restore.waiting, "begin", lambda *_arguments: hold)
    monkeypatch.setattr(restore, "stop", lambda _site, _live: codes.append(schedule_run.main("blog", "clear")))
    monkeypatch.setattr(restore, "start", lambda _site, _live: None)
    codes, live = [], releases.Release(scheduled.site, scheduled.live)
    restore._exchange(scheduled.site, live, [], {}, {}, None)
    assert codes == [0] and schedule_run.records(scheduled.site, "clear")["runs"] == []
    assert schedule_run.main("blog", "clear") == 0
    assert len(schedule_run.records(scheduled.site, "clear")["runs"]) == 1


def test_databases_are_not_exchanged_while_a_command_of_the_command_line_runs(scheduled, own_host, monkeypatch):
    monkeypatch.setattr(transient, "_TRANSIENT", str(own_host / "transient"))
    (own_host / "transient").mkdir()
    for name in ("django-blog-manage-71", "django-blog-manage-manage-8"):
        (own_host / f"transient/{name}.service").touch()
    live = releases.Release(scheduled.site, scheduled.live)
    with pytest.raises(DeploymentError, match=r"a command of django\.manage runs for blog") as refused:
        restore._exchange(scheduled.site, live, [], {}, {}, None)
    assert refused.value.hint.endswith("systemctl stop django-blog-manage-71.service")


def test_schedule_does_not_run_where_maintenance_begins_while_it_starts(scheduled, monkeypatch):
    reasons = iter(["", "blog is in maintenance"])
    monkeypatch.setattr(schedule_run, "obstacle", lambda _site: next(reasons))
    with pytest.raises(DeploymentError, match="clear does not run: blog is in maintenance"):
        schedule_run.run_schedule(scheduled.site, "clear", by="a test")
    assert schedule_run.records(scheduled.site, "clear")["runs"] == []


def test_nothing_runs_in_maintenance_or_before_a_release(scheduled, monkeypatch, capsys):
    monkeypatch.setattr(sites, "known_maintenance", lambda site: {"since": "2026-03-01T12:00:00Z"})
    assert schedule_run.main("blog", "clear") == 0
    assert "clear of blog does not run: blog is in maintenance since 2026-03-01" in capsys.readouterr().out
    assert records(scheduled)["runs"] == []
    (row,) = [row for row in verbs_schedule.rows("blog") if row["schedule"] == "clear"]
    assert row["last"] == "never run"
    assert row["skipped"].endswith(" s ago: blog is in maintenance since 2026-03-01T12:00:00Z")
    with pytest.raises(DeploymentError, match="clear does not run: blog is in maintenance") as error:
        verbs_schedule.run_now("blog", "clear")
    assert "django.manage blog" in error.value.hint
    monkeypatch.undo()


def test_nothing_runs_before_a_first_release(scheduled, capsys):
    scheduled.site.current.unlink()
    assert schedule_run.main("blog", "clear") == 0
    assert "clear of blog does not run: blog has no active release yet" in capsys.readouterr().out


def test_killed_run_is_shown_as_interrupted(scheduled):
    schedule_run._write(
        scheduled.site, "clear", {"runs": [{"begun": "2026-03-01T12:00:00Z", "release": "x", "by": "timer"}]}
    )
    assert verbs_schedule.rows("blog")[0]["last"] == "interrupted"


def test_damaged_records_are_begun_anew(scheduled):
    (scheduled.site.schedules / "clear.runs.json").write_text('{"runs": [{"begun": 3}]}')
    assert verbs_schedule.run_now("blog", "clear")["exit"] == 0 and len(records(scheduled)["runs"]) == 1


def test_secrets_are_masked(scheduled):
    scheduled.given = {"TOKEN": "grenadier-7f3"}
    scheduled.options["secrets"] = {"TOKEN": {"value": "grenadier-7f3"}}
    scheduled.apply()
    scheduled.fails["clearsessions"] = DeploymentError("manage.py failed (exit 1)", log="it is grenadier-7f3")
    result = verbs_schedule.run_now("blog", "clear")
    assert "grenadier" not in json.dumps(result) + json.dumps(records(scheduled)) and "it is" in result["error"]


def test_signal_ends_the_run_and_records_it(scheduled, monkeypatch):
    def ends(*_arguments, **_options):
        os.kill(os.getpid(), 15)

    monkeypatch.setattr(schedule_run.runner, "run_command", ends)
    with pytest.raises(SystemExit) as end:
        schedule_run.main("blog", "clear")
    (run,) = records(scheduled)["runs"]
    assert end.value.code == 143 and run["error"] == "its program was ended" and "ended" in run
    assert sys.exc_info() == (None, None, None)
