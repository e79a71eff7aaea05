"""Schedules: commands that run at times in the active release, by systemd's timers and by cron."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from sites import Site

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
SCHEDULES: dict[str, Any] = {
    "often": {"command": "manage.py invoices", "at": "*:*:0/2"},
    "slow": {"command": "manage.py invoices wait", "at": "0 3 * * 1-5", "timeout": "10m"},
    "broken": {"command": "manage.py invoices fail", "at": "daily", "within": "1h", "catch_up": False},
}


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(kind="ready")
    blog = Site(host, repositories(host), releases={"keep": 2, "drain": "1s"})
    blog.configure(environment={"MEDIA": {"from": "media_root"}})
    blog.repository.commit(COMMANDS)
    blog.deploy()
    blog.deploy(schedules=SCHEDULES)
    return blog


def rows(blog: Site) -> dict[str, Any]:
    return {row["schedule"]: row for row in blog.host.call("django.schedules", blog.name, full=True)}


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 120
    while not (found := what()):
        assert time.monotonic() < deadline, what
        time.sleep(0.3)
    return found


def test_timer_runs_command_in_active_release(blog):
    runs = until(lambda: [run for run in rows(blog)["often"]["runs"] if "ended" in run])
    assert runs[-1]["exit"] == 0, blog.host.run("journalctl -u 'django-blog-at-often*' --no-pager | tail -40").stdout
    assert runs[-1]["release"] == blog.live and runs[-1]["by"] == "timer"
