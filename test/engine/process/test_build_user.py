"""Commands of the build user: their unit, their exit code, and processes that they leave behind."""

import os
import pwd
import signal
import subprocess
import time
from pathlib import Path

import pytest
from django_formula.host import commands, daemons, proc, users
from django_formula.host.commands import DeploymentError, Ended
from django_formula.process import build_user
from django_formula.untrusted import delegate

#: A user of Debian's whose processes no other test has: all of them are killed here.
USER = "uucp"
as_root = pytest.mark.skipif(os.getuid() != 0, reason="left out: another identity is taken, which needs root")


@pytest.fixture
def played(make_site, monkeypatch):
    """What would be run, and how it ends: `played.ends` is called with the command line."""

    class Played:
        calls: list
        options: dict

        def __init__(self):
            self.calls = []

        def ends(self, argv):
            return Ended(0, "printed\n", "")

        def execute(self, command):
            argv = command.argv
            self.calls.append(argv)
            self.command = command
            names = [argument.partition("EnvironmentFile=")[2] for argument in argv if "EnvironmentFile=" in argument]
            self.environment = Path(names[0]).read_text() if names else ""
            self.mode = os.stat(names[0]).st_mode & 0o777 if names else None
            return self.ends(argv)

        def run(self, hint="", argv=("make", "x y"), **options):
            site = make_site(**options)
            told = {"doing": "building", "environment": {"A": "canary"}, "timeout": 60, "secrets": ["canary"]}
            told["hint"] = hint
            return build_user.run_as_build_user(site, argv, folder="/srv/x", writable=["/srv/x"], **told)

    played = Played()
    monkeypatch.setattr(commands, "execute", played.execute)
    monkeypatch.setattr(build_user.transient, "start_bus", lambda: None)
    return played


def properties(argv):
    """The properties of a unit, in their order."""
    found: dict[str, list[str]] = {}
    for argument in argv:
        if argument.startswith("--property="):
            name, _equals, value = argument.removeprefix("--property=").partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_failed_build_has_the_cure_of_a_known_cause(played):
    played.ends = lambda argv: Ended(1, "", "Error: pg_config executable not found.\n")
    with pytest.raises(DeploymentError) as error:
        played.run(hint="look at it")
    assert error.value.message == "building failed (exit 1)"
    packages = "gcc, libc6-dev, libpq-dev, python3-dev"
    assert error.value.hint == f"a package is built from source: set django:sites:blog:packages: [{packages}]"
    played.ends = lambda argv: Ended(1, "", "it failed\n")
    with pytest.raises(DeploymentError) as error:
        played.run(hint="look at it")
    assert error.value.hint == "look at it"


def test_build_command_runs_in_a_unit_of_the_build_user(played, own_host):
    assert played.run() == "printed\n"
    (argv,) = played.calls
    assert argv[:7] == [
        *("systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec"),
        "--unit=django-blog-build.service",
    ]
    assert argv[-3:] == ["sh", "make", "x y"]
    found = properties(argv)
    assert found["User"] == found["Group"] == ["blog-build"] and found["PrivateUsers"] == ["yes"]
    assert found["ReadWritePaths"] == [f"{own_host}/srv/django/blog/build", "/srv/x"]
    assert found["WorkingDirectory"] == ["/srv/x"] and found["RuntimeMaxSec"] == ["75"]
    assert "canary" not in " ".join(argv) and 'A="canary"' in played.environment and played.mode == 0o600
    assert list((own_host / "run/django").glob("*.environment")) == []


def test_build_of_weeks_has_a_limit_that_systemd_reads(played, make_site):
    options = {"doing": "building", "folder": "/srv/x", "environment": {}, "timeout": 12 * 86400.0}
    build_user.run_as_build_user(make_site(), ["make"], **options)
    assert properties(played.calls[0])["RuntimeMaxSec"] == ["1036815"]


def test_words_of_a_build_command_are_no_variables_of_systemd(played):
    played.run(argv=["awk", "{print $2}", "$HOME", "${A}b", "a$$"])
    assert played.calls[0][-5:] == ["awk", "{print $$2}", "$$HOME", "$${A}b", "a$$$$"]


def test_build_unit_leaves_cpu_and_disk_to_the_site(played, own_host):
    played.run()
    found = properties(played.calls[0])
    wanted = {"CPUWeight": "20", "IOWeight": "20", "Nice": "10", "IOSchedulingClass": "idle"}
    assert {name: found[name] for name in wanted} == {name: [value] for name, value in wanted.items()}


@as_root
def test_command_below_the_reaper_has_idle_disk_and_low_cpu_priority(make_site, monkeypatch):
    identity = pwd.getpwnam(USER)
    monkeypatch.setattr(daemons, "has_systemd", lambda: False)
    monkeypatch.setattr(users, "user_id", lambda name: identity.pw_uid)
    monkeypatch.setattr(users, "group_id", lambda name: identity.pw_gid)
    command = commands.Command(["sh", "-c", "ionice; nice"], doing="x", folder="/", environment={}, timeout=9)
    ended = build_user._below_reaper(make_site(process="supervisor"), command)
    assert (ended.code, ended.printed.split()) == (0, ["idle", str(min(19, os.nice(0) + 10))])


def test_build_sandbox_is_set_by_the_pillar(played):
    said = {"PrivateUsers": False, "ReadWritePaths": ["/srv/wheels"], "InaccessiblePaths": ["/opt"], "Nice": "0"}
    played.run(build_sandbox=said)
    found = properties(played.calls[0])
    assert found["PrivateUsers"] == ["no"] and found["Nice"] == ["0"] and found["ProtectSystem"] == ["strict"]
    assert found["ReadWritePaths"][1:] == ["/srv/x", "/srv/wheels"]
    assert found["InaccessiblePaths"] == ["-/run/dbus", "-/run/systemd/private", "-/run/user", "/opt"]


@pytest.mark.parametrize(
    ("marked", "reported", "code"),
    [(0, 1, 0), (3, 3, 3), (None, 1, 1), (None, 200, 200), (0, None, None)],
    ids=["something was left", "it failed", "it was killed", "it was not started", "its time was up"],
)
def test_exit_code_is_that_of_the_command(played, marked, reported, code):
    def ends(argv):
        mark = argv[-4].partition("\\n")[2].partition(" %s")[0]
        return Ended(reported, "out\n", f"err\n\n{mark} {marked}\n" if marked is not None else "err\n")

    played.ends = ends
    if code == 0:
        assert played.run() == "out\n"
        return
    with pytest.raises(DeploymentError) as error:
        played.run()
    expected = "building: timed out after 60 s" if code is None else f"building failed (exit {code})"
    assert error.value.message == expected and "ended " not in error.value.log


def test_error_tells_that_a_build_stood_still(played, monkeypatch):
    monkeypatch.setattr(users, "user_id", lambda name: {"blog-build": 4711}.get(name, os.getuid()))
    monkeypatch.setattr(proc, "cpu_of", {4711: 3.5}.__getitem__)
    played.ends = lambda argv: Ended(None, "", "", still=1700)
    with pytest.raises(DeploymentError) as error:
        played.run()
    assert error.value.message.endswith("60 s; for the last 1700 s it had used no CPU and printed nothing")
    assert played.command.cpu() == 3.5


def test_build_command_runs_below_the_reaper_without_systemd(played, own_host, monkeypatch):
    monkeypatch.setattr(daemons, "has_systemd", lambda: False)
    monkeypatch.setattr(commands, "locks", {77})
    played.run(process="supervisor")
    (argv,) = played.calls
    assert argv[:4] == ["/usr/bin/ionice", "--class", "idle", "--ignore"]
    assert argv[7].endswith("/untrusted/reaper.py") and argv[-3:] == ["/srv/x", "make", "x y"]
    assert argv[11] == "10"  # its nice value
    assert played.command.descriptors == {77} and played.command.environment == {"A": "canary"}


@as_root
def test_processes_left_by_a_build_are_killed(make_site, monkeypatch):
    identity = pwd.getpwnam(USER)
    site = make_site()
    monkeypatch.setattr(proc, "PROC", Path("/proc"))
    monkeypatch.setattr(users, "user_id", lambda name: identity.pw_uid if name == site.build_user else os.getuid())
    monkeypatch.setattr(build_user.delegate, "ask", _ask_as_unprivileged_user)
    program = (
        "import os, time\nfor _ in range(4): os.fork()\nos.getpid() == os.getsid(0) or os.setsid()\ntime.sleep(60)"
    )
    left = subprocess.Popen(
        ["/usr/bin/python3", "-c", program], user=identity.pw_uid, group=identity.pw_gid, start_new_session=True
    )
    deadline = time.monotonic() + 10
    while len(proc.pids_of(identity.pw_uid)) < 16 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(proc.pids_of(identity.pw_uid)) >= 16
    build_user.end_processes(site)
    assert proc.pids_of(identity.pw_uid) == [] and left.wait(5) == -signal.SIGKILL


_ASK = delegate.ask


def _ask_as_unprivileged_user(user, function, *arguments, **options):
    """`ask` where the identities of sites are not those of this machine."""
    with pytest.MonkeyPatch.context() as patched:
        identity = pwd.getpwnam(USER)
        numbers = {"user": identity.pw_uid, "group": identity.pw_gid, "extra_groups": []}
        patched.setattr(commands, "identity", lambda name: numbers)
        return _ASK(USER, function, *arguments, **options)
