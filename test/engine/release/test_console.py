"""``django-shell``: what it is asked for, what it runs, and that its release is kept while it is open."""

import json
import os
import shlex
import subprocess

import pytest
from django_formula.audit import chain
from django_formula.backup import backups, restore
from django_formula.host.commands import DeploymentError
from django_formula.process import supervisor
from django_formula.release import console, disk, releases
from django_formula.release.console import Asked
from django_formula.verbs import logs


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("blog", Asked("blog")),
        ("blog dbshell", Asked("blog", "dbshell")),
        ("blog manage dbshell --database x", Asked("blog", "manage", ("dbshell", "--database", "x"))),
        ("--write 'ticket 311' blog bash", Asked("blog", "bash", (), "ticket 311")),
        ("blog --write 'ticket 311'", Asked("blog", "shell", (), "ticket 311")),
        ("blog manage x --write y", Asked("blog", "manage", ("x", "--write", "y"))),
    ],
)  # fmt: skip
def test_arguments(line, expected):
    assert console.parse(shlex.split(line)) == expected


@pytest.mark.parametrize(
    "words",
    [
        [], ["-x"], ["blog", "sh"], ["blog", "manage"], ["blog", "shell", "-c", "1"], ["blog", "--write"],
        ["blog", "--write", "-x"], ["blog", "--write", " "],
        ["blog", "--write", "a\nb"], ["blog", "--write", "x" * 301],
    ],
)  # fmt: skip
def test_arguments_that_are_refused(words):
    with pytest.raises(DeploymentError, match=r"usage: django-shell|--write requires a reason"):
        console.parse(words)


def test_sandbox_that_only_reads():
    properties = [
        ("User", "blog"),
        ("ReadWritePaths", "''"),
        ("ReadWritePaths", "/srv/a b"),
        ("ReadWritePaths", "-/srv/c"),
        ("BindPaths", "/a:/b"),
        ("BindReadOnlyPaths", "/c"),
    ]
    expected = [
        ("User", "blog"),
        ("ReadOnlyPaths", "/srv/a b"),
        ("ReadOnlyPaths", "-/srv/c"),
        ("BindReadOnlyPaths", "/a:/b"),
        ("BindReadOnlyPaths", "/c"),
    ]
    assert [*console.read_only(properties)] == expected


@pytest.fixture
def live(world, monkeypatch):
    world.apply()
    monkeypatch.setattr(console.transient, "start_bus", lambda: None)
    monkeypatch.setattr(console.transient, "not_in_force", lambda site: [])
    monkeypatch.setenv("TERM", "xterm")
    return releases.linked(world.site, world.site.current)


@pytest.mark.parametrize("reason", ["", "ticket 311"])
@pytest.mark.parametrize("is_terminal", [False, True])
def test_unit_of_a_console(live, reason, is_terminal):
    asked = Asked("blog", "manage", ("x", "$HOME"), reason)
    argv = console.argv(asked, live.site, live, is_terminal=is_terminal)
    assert argv[:2] == ["systemd-run", "--pty" if is_terminal else "--pipe"]
    own = f"--unit=django-blog-console-{os.getpid()}.service"
    assert {own, "--property=User=blog", "--property=MemoryMax=512M", "--property=RuntimeMaxSec=4h"} <= {*argv}
    assert any("ReadWritePaths" in word for word in argv) is bool(reason)
    assert f"--property={'ReadWritePaths' if reason else 'ReadOnlyPaths'}={live.site.database}" in argv
    assert ("DJANGO_READ_ONLY=1" in argv) is not bool(reason)
    assert argv[-4:] == [f"{live.path}/virtualenv/bin/python", "manage.py", "x", "$$HOME"]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_console_under_supervisor_has_no_capability_and_a_terminal_of_its_own(live, monkeypatch, is_terminal):
    monkeypatch.setattr(console.process_command, "recorded", lambda _: {"process": "supervisor"})
    argv = console.argv(Asked("blog", "bash"), live.site, live, is_terminal=is_terminal)
    inner = shlex.split(argv[4]) if is_terminal else argv[2:]
    assert argv[:2] == (["script", "--quiet"] if is_terminal else ["setsid", "--wait"]) and inner[:3] == [
        "timeout",
        "--foreground",
        "4h",
    ]
    assert inner[3:9] == [*supervisor.identity(live.site), "--bounding-set=-all"]
    assert "--reset-env" in inner and "DJANGO_READ_ONLY=1" in inner and inner[-2:] == ["/bin/bash", "--norc"]


def test_release_of_an_open_console_is_in_use(live, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(console.subprocess, "call", lambda argv, cwd: (seen.append(disk.names_in_use(live.site)), 7)[1])
    monkeypatch.setattr(console.os, "geteuid", lambda: 0)
    assert console.main("blog", "--write", "ticket 311", "dbshell") == 7
    assert seen == [{live.name}] and disk.names_in_use(live.site) == set()
    assert [*live.site.schedules.iterdir()] == [] and live.site.schedules.stat().st_mode & 0o777 == 0o700
    *_made, first, last = map(json.loads, chain.current().read_text().splitlines())
    assert (first["verb"], first["site"], first["release"]) == ("shell", "blog", live.name)
    assert first["arguments"] == {"kind": "dbshell", "write": "ticket 311"} and last["result"] == "exit 7"
    assert "CHANGES ARE POSSIBLE" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--write", "ticket 311"]])
def test_console_that_can_change_data_and_a_restore_refuse_each_other(live, monkeypatch, capsys, words):
    """What it changes would be in the former database."""

    def call(_argv, cwd):
        opened.append(cwd)
        if words:
            with pytest.raises(DeploymentError, match=r"console that can change data, pid .* is open for blog"):
                restore.refuse_running_commands(live.site)
        else:
            restore.refuse_running_commands(live.site)
        return 0

    opened = []
    monkeypatch.setattr(console.subprocess, "call", call)
    monkeypatch.setattr(console.os, "geteuid", lambda: 0)
    assert console.main("blog", *words, "dbshell") == 0 and len(opened) == 1
    capsys.readouterr()
    with backups.lock(live.site, "django.restore").held():
        assert console.main("blog", *words, "dbshell") == bool(words) and len(opened) == 2 - bool(words)
    assert ("a restore of blog is under way" in capsys.readouterr().err) is bool(words)
    assert [*live.site.schedules.iterdir()] == []


@pytest.mark.parametrize(
    ("arguments", "is_root", "message"),
    [
        (["blog"], False, "django-shell requires root"),
        (["shop"], True, "there is no site 'shop' on this host"),
        (["../etc"], True, "there is no site '../etc' on this host"),
    ],
)
def test_console_is_refused(live, monkeypatch, capsys, arguments, is_root, message):
    monkeypatch.setattr(console.os, "geteuid", lambda: 0 if is_root else 1000)
    assert console.main(*arguments) == 1 and message in capsys.readouterr().err


def test_verb_returns_the_command_for_ssh(live):
    assert logs.console("blog", "web1", "shell", "") == "ssh -t web1 'django-shell blog shell'"
    text = logs.console("blog", "web1", "manage x --y", "ticket 311")
    assert shlex.split(shlex.split(text)[-1]) == ["django-shell", "blog", "--write", "ticket 311", "manage", "x", "--y"]
    with pytest.raises(DeploymentError, match="usage"):
        logs.console("blog", "web1", "rm -rf /", "")
    with pytest.raises(DeploymentError, match="cannot split"):
        logs.console("blog", "web1", "manage x 'y", "")


def test_program_is_installed_once_and_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(console, "PROGRAM", tmp_path / "django-shell")
    monkeypatch.setattr(console, "ARCHIVE", tmp_path / "lib/console.pyz")
    assert console.install(test=True).changes and not console.PROGRAM.exists()
    assert console.install(test=False).changes == {str(console.PROGRAM): "new"}
    assert not console.install(test=False).changes and os.access(console.PROGRAM, os.X_OK)
    ran = subprocess.run([console.PROGRAM, "--write"], capture_output=True, text=True, check=False)
    assert ran.returncode == 1 and ran.stderr.startswith("--write requires a reason"), ran.stderr
    assert [*console.remove(test=False)] == [str(console.PROGRAM), str(console.ARCHIVE)]
    assert console.remove(test=False) == {} and not console.ARCHIVE.exists()
