"""Schedules: commands that run at times in the active release, by systemd's timers and by cron."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from sites import AFTER_RESTART, Site, version

#: A command of the project that waits for a file, and imports a module of its release only then.
WAIT = """
import os
import pathlib
import sys
import time

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    def add_arguments(self, parser):
        parser.add_argument("what", nargs="?", default="")

    def handle(self, what, **options):
        print("user", os.getuid(), "prefix", sys.prefix, flush=True)
        if what == "fail":
            print("no invoices today", file=sys.stderr)
            sys.exit(3)
        media = pathlib.Path(os.environ["MEDIA"])
        (media / "begun").write_text(os.environ["DJANGO_RELEASE"])
        while what == "wait" and not (media / "go").exists():
            time.sleep(0.1)
        from guestbook import late

        print("late", late.RELEASE)
"""
COMMANDS = {
    "guestbook/management/__init__.py": "",
    "guestbook/management/commands/__init__.py": "",
    "guestbook/management/commands/invoices.py": WAIT,
    "guestbook/late.py": 'RELEASE = "1"\n',
}
OFTEN = {"command": "manage.py invoices", "at": "*:*:0/5"}
SCHEDULES: dict[str, Any] = {
    "slow": {"command": "manage.py invoices wait", "at": "0 3 * * 1-5", "timeout": "10m"},
    "broken": {"command": "manage.py invoices fail", "at": "daily", "within": "1h", "catch_up": False},
    "stuck": {"command": "sleep 4242", "at": "*-*-01 03:30", "timeout": "2s"},
}


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(kind="live")
    blog = Site(host, repositories(host), releases={"keep": 2, "drain": "1s"})
    blog.configure(environment={"MEDIA": {"from": "media_root"}})
    blog.repository.commit(COMMANDS)
    blog.deploy(schedules={**SCHEDULES, "often": OFTEN})
    return blog


def rows(blog: Site) -> dict[str, Any]:
    return {row["schedule"]: row for row in blog.host.call("django.schedules", blog.name, full=True)}


def runs(blog: Site, name: str) -> list[dict[str, Any]]:
    """The records of a schedule, without a command of Salt."""
    text = blog.host.run(["cat", f"{blog.root}/schedules/{name}.runs.json"], check=False).stdout
    return list(json.loads(text)["runs"]) if text else []


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 300
    while not (found := what()):
        assert time.monotonic() < deadline, what
        time.sleep(0.3)
    return found


def begin(blog: Site, name: str = "slow") -> None:
    """Start a schedule as its timer does, and wait until its command has begun."""
    blog.host.run(f"rm -f {blog.root}/media/begun {blog.root}/media/go")
    blog.host.run(["systemctl", "start", "--no-block", f"django-blog-at-{name}.service"])
    until(lambda: blog.host.run(["test", "-e", f"{blog.root}/media/begun"], check=False).returncode == 0)


def units(blog: Site) -> str:
    """What a switch would change of the units: their content, their times, and what systemd started of them."""
    files = blog.host.run("stat --format='%n %y %i' /etc/systemd/system/django-blog-at-*").stdout
    shown = blog.host.run("systemctl show --property=Id,NeedDaemonReload,ActiveEnterTimestamp 'django-blog-at-*.timer'")
    return files + shown.stdout


def test_timer_runs_command_in_active_release(blog):
    done = until(lambda: [run for run in runs(blog, "often") if "ended" in run])[0]
    log = blog.host.run("journalctl -u 'django-blog-at-often*' --no-pager").stdout
    assert done == {**done, "exit": 0, "release": blog.live, "by": "timer"}, log
    uid = blog.host.testinfra.user("blog").uid
    until(
        lambda: (
            f"user {uid} prefix {blog.root}/releases/{blog.live}/virtualenv"
            in blog.host.run("journalctl -u django-blog-at-often --no-pager").stdout
        )
    )
    rating = blog.host.run("systemd-analyze security --no-pager django-blog-at-often.service | tail -1").stdout
    assert float(rating.split(":")[1].split()[0]) <= 1.1


def test_lost_schedule_is_removed_and_a_second_apply_changes_nothing(blog):
    applied = blog.deploy(schedules=SCHEDULES)
    assert applied.changed.keys() == {"blog has its directories"}
    assert "often" not in blog.host.run("ls -R /etc/systemd/system").stdout
    assert not blog.deploy().changed and not blog.apply(test=True).changed
    foreseen = blog.apply(test=True, schedules={**SCHEDULES, "broken": {**SCHEDULES["broken"], "at": "hourly"}}).changed
    assert "changed" in str(foreseen["blog has its schedules"]) and rows(blog)["broken"]["at"] == "daily"
    blog.configure(schedules=SCHEDULES)
    wrong = blog.apply(test=True, schedules={"wrong": {"command": "true", "at": "*-02-31 03:30"}})
    assert "systemd does not accept *-02-31 03:30" in str(wrong.failed), wrong
    blog.configure(schedules=SCHEDULES)


@pytest.mark.full
def test_run_stays_in_its_release_through_switches(blog):
    first, before = blog.live, units(blog)
    begin(blog)
    for number in ("2", "3"):
        blog.repository.commit({"guestbook/late.py": f'RELEASE = "{number}"\n'} | version(number))
        with blog.lossless():
            blog.deploy()
    assert units(blog) == before
    assert first in blog.releases and len(blog.releases) == 3  # without the run two would be left
    refused = blog.host.salt("django.run", "blog", "slow")
    assert refused.returncode == 1 and f"slow of blog is under way: {first} by timer" in refused.stdout
    blog.host.run(f"touch {blog.root}/media/go")
    (done,) = until(lambda: [run for run in runs(blog, "slow") if "ended" in run])
    assert (done["exit"], done["release"]) == (0, first)
    until(lambda: "late 1" in blog.host.run("journalctl -u django-blog-at-slow --no-pager").stdout)
    result = blog.host.call("django.run", "blog", "slow")
    assert result == {**result, "exit": 0, "release": blog.live} and "late 3" in result["output"]
    blog.host.call("django.release", "blog")
    assert first not in blog.releases


def test_failure_is_shown(blog):
    done = blog.host.salt("django.run", "blog", "broken")
    result = json.loads(done.stdout)[blog.host.minion]
    assert done.returncode == 1 and (result["exit"], result["output"].count("no invoices today")) == (3, 1)
    assert blog.host.run("salt-call --local --retcode-passthrough django.run blog broken", check=False).returncode == 3
    problems = str(blog.host.salt("django.status", "blog", full=False).stdout)
    assert "schedules: broken failed (exit 3)" in problems


def test_command_that_takes_too_long_is_ended(blog):
    done = json.loads(blog.host.salt("django.run", "blog", "stuck").stdout)[blog.host.minion]
    assert done["exit"] is None and "timed out after 2 s" in done["error"]
    assert blog.host.run(["pgrep", "-f", "[s]leep 4242"], check=False).stdout == ""


def test_missed_run_is_made_up_only_where_it_is_to_be(blog):
    before = {name: len(runs(blog, name)) for name in ("slow", "broken")}
    blog.host.run(f"touch {blog.root}/media/go")
    for name in before:
        timer = f"django-blog-at-{name}.timer"
        blog.host.run(["systemctl", "stop", timer])
        blog.host.run(["touch", "-d", "10 days ago", f"/var/lib/systemd/timers/stamp-{timer}"])
        blog.host.run(["systemctl", "start", timer])
    until(lambda: len(runs(blog, "slow")) == before["slow"] + 1 and "ended" in runs(blog, "slow")[-1])
    assert len(runs(blog, "broken")) == before["broken"]


def test_nothing_runs_in_maintenance(blog):
    before = len(runs(blog, "slow"))
    blog.host.call("django.maintenance", "blog", "on")
    blog.host.run(["systemctl", "start", "django-blog-at-slow.service"])
    assert len(runs(blog, "slow")) == before and "blog is in maintenance" in rows(blog)["slow"]["skipped"]
    refused = blog.host.salt("django.run", "blog", "slow")
    assert refused.returncode == 1 and "slow does not run: blog is in maintenance" in refused.stdout
    blog.host.call("django.maintenance", "blog", "off")


def test_killed_program_lets_no_second_command_start(blog):
    begin(blog)
    blog.host.run(["systemctl", "kill", "--signal=KILL", "django-blog-at-slow.service"])
    until(lambda: rows(blog)["slow"]["last"] == "interrupted")
    refused = blog.host.salt("django.run", "blog", "slow")
    assert "slow of blog is under way: its program was killed" in refused.stdout
    blog.host.run(f"touch {blog.root}/media/go")
    until(lambda: blog.host.salt("django.run", "blog", "slow").returncode == 0)


def test_site_cannot_touch_the_records(blog):
    for command in (f"cat {blog.root}/schedules/slow.runs.json", f"touch {blog.root}/schedules/slow.lock"):
        done = blog.host.run(command, user="blog", check=False)
        assert done.returncode and "Permission denied" in done.stderr
    assert "drift" in blog.host.call("django.drift", "blog") and blog.host.call("django.drift", "blog")["drift"] == []


@pytest.mark.full
def test_removed_site_leaves_no_timer_and_no_command(blog):
    begin(blog)
    blog.deploy(state="absent")
    assert blog.host.run("ls -R /etc/systemd/system | grep -- -at-", check=False).stdout == ""
    assert blog.host.run("systemctl list-units --all --no-legend 'django-blog-at-*'").stdout.strip() == ""
    assert blog.host.run(["pgrep", "-f", "[i]nvoices wait"], check=False).stdout == ""
    assert runs(blog, "slow")  # records are data


@pytest.mark.full
def test_cron_runs_schedules_without_systemd(hosts, repositories):
    host = hosts(kind="ready", init=False, options=["--tmpfs=/run"], command=AFTER_RESTART)
    blog = Site(host, repositories(host), environment={"MEDIA": {"from": "media_root"}})
    blog.repository.commit(COMMANDS)
    wrong = blog.apply(schedules={"often": {**OFTEN, "at": "Mon 06:00"}})
    assert "Mon 06:00 is a time in systemd's notation, and this host has cron" in str(wrong.failed), wrong
    schedules = {"often": {**OFTEN, "at": "* * * * *"}, "slow": {**SCHEDULES["slow"], "at": "daily"}}
    blog.deploy(schedules=schedules)
    assert not blog.deploy().changed
    done = until(lambda: [run for run in runs(blog, "often") if "ended" in run])[0]
    assert done == {**done, "exit": 0, "release": blog.live, "by": "timer"}, done
    first = blog.live
    host.run("nohup salt-call --local django.run blog slow >/root/slow 2>&1 &")
    until(
        lambda: host.run(["test", "-e", f"{blog.root}/media/begun"], check=False).returncode == 0 and runs(blog, "slow")
    )
    blog.repository.commit({"guestbook/late.py": 'RELEASE = "2"\n'} | version("2"))
    blog.deploy()
    assert "slow of blog is under way" in host.salt("django.run", "blog", "slow").stdout
    host.run(f"touch {blog.root}/media/go")
    (done,) = until(lambda: [run for run in runs(blog, "slow") if "ended" in run])
    assert (done["exit"], done["release"]) == (0, first)
    until(lambda: "late 1" in host.read("/root/slow"))
    host.restart()
    until(lambda: host.call("django.status", "blog", full=True)[0]["cron"] == "")  # its command starts cron meanwhile
    host.run(
        "pid=$(cat /run/crond.pid); kill $pid; while grep -q cron /proc/$pid/cmdline 2>/dev/null; do sleep 0.1; done"
    )
    told = host.call("django.status", "blog", full=True)[0]["cron"]
    assert told.startswith("does not run, so these wait: schedules (often, slow)")
    assert "cron runs" in blog.apply().changed and not blog.apply().changed
    blog.deploy(schedules=None)
    assert host.run("ls /etc/cron.d | grep django-blog", check=False).stdout == ""
