"""Daemons: started, reloaded and stopped with and without systemd."""

import contextlib
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from django_formula.host import commands, daemons
from django_formula.host.commands import DeploymentError
from django_formula.host.daemons import NGINX, POSTGRES, SUPERVISOR


@pytest.fixture
def host(own_host, monkeypatch):
    """A host without systemd: `host(7, "nginx: master")` has a process; its commands are in `host.commands`."""
    monkeypatch.setattr(daemons, "SYSTEMD", own_host / "none")

    def process(number, line, pid_file="nginx.pid"):
        (own_host / "run" / pid_file).write_text(f"{number}\n")
        (own_host / "proc" / str(number)).mkdir(parents=True, exist_ok=True)
        (own_host / "proc" / str(number) / "cmdline").write_bytes(line)

    process.commands, process.plays = [], lambda: None

    def run(argv, **options):
        process.commands.append(argv)
        assert options.get("daemon", False) is ("service" in argv)
        process.plays()
        return "it says that it does\n"

    monkeypatch.setattr(commands, "run", run)
    return process


@pytest.mark.parametrize(
    ("line", "expected"),
    [(b"nginx: master process /usr/sbin/nginx", 7), (b"sleep\0infinity\0", None), (b"", None), (None, None)],
)
def test_daemon_runs_while_its_process_does(host, line, expected):
    if line is not None:
        host(7, line)
    assert daemons.pid(NGINX) == expected


def test_reused_pid_is_not_the_daemon(host):
    host(7, b"/usr/bin/python3\0/usr/bin/supervisord\0", "supervisord.pid")
    host(8, b"sleep\0")
    assert (daemons.pid(SUPERVISOR), daemons.pid(NGINX)) == (7, None)


@pytest.mark.parametrize(
    "line",
    [
        b"tail\0-F\0/var/log/supervisor/supervisord.log\0",
        b"tail\0/var/log/supervisor/supervisord.log\0",
        b"/bin/sh\0-c\0service supervisor start; exec tail -F /var/log/supervisor/supervisord.log\0",
        b"grep\0-r\0supervisord\0",
    ],
)
def test_process_that_only_names_the_daemon_is_not_it(host, line):
    """A container that starts again keeps the pid file, and gives its number to what it starts now."""
    host(7, line, "supervisord.pid")
    assert daemons.pid(SUPERVISOR) is None


@pytest.mark.parametrize(
    ("daemon", "pid_file", "line"),
    [
        (NGINX, "nginx.pid", b"nginx: master process nginx\0"),
        (NGINX, "nginx.pid", b"/usr/sbin/nginx-debug\0-g\0daemon off;\0"),
        (NGINX, "nginx.pid", b"/run/rosetta/rosetta\0/usr/sbin/nginx\0-g\0daemon off;\0"),
        (SUPERVISOR, "supervisord.pid", b"/usr/bin/qemu-x86_64\0/usr/bin/python3\0/usr/bin/supervisord\0"),
        (daemons.CRON, "crond.pid", b"/usr/sbin/cron\0-f\0"),
        (daemons.CRON, "crond.pid", b"cron\0"),
    ],
)
def test_daemon_is_known_by_its_program(host, daemon, pid_file, line):
    host(7, line, pid_file)
    assert daemons.pid(daemon) == 7


def test_running_server_is_found_among_several_pid_files(host, own_host):
    (own_host / "run/postgresql").mkdir(parents=True)
    host(8, b"sleep\0", "postgresql/13-main.pid")
    assert daemons.pid(POSTGRES) is None
    host(9, b"/usr/lib/postgresql/15/bin/postgres\0-D\0", "postgresql/15-main.pid")
    assert daemons.pid(POSTGRES) == 9


@pytest.mark.parametrize("what", ["a fifo", "/dev/zero", "a folder"])
def test_pid_file_that_is_not_a_regular_file_is_ignored(own_host, what):
    folder = own_host / "run/postgresql"
    folder.mkdir(parents=True)
    if what == "a fifo":
        os.mkfifo(folder / "15-main.pid")
    elif what == "a folder":
        (folder / "15-main.pid").mkdir()
    else:
        (folder / "15-main.pid").symlink_to(what)
    assert daemons.pid(POSTGRES) is None


def test_daemon_is_started_by_its_init_script(host):
    host(6, b"")
    assert (daemons.RUN / "nginx.pid").exists()

    def starts():
        assert not (daemons.RUN / "nginx.pid").exists()
        host(7, b"nginx: master")

    host.plays = starts
    daemons.start(NGINX)
    assert host.commands == [["service", "nginx", "start"]]


def test_daemon_that_does_not_run_after_its_start_is_an_error(host, monkeypatch):
    monkeypatch.setattr(daemons, "PATIENCE", 0.1)
    with pytest.raises(DeploymentError) as error:
        daemons.reload(NGINX)
    assert error.value.message == "nginx does not run after it was started"
    assert error.value.log == "it says that it does\n" and error.value.hint == "service nginx start"


def test_slow_start_of_a_daemon_is_waited_for(host, own_host, monkeypatch):
    monkeypatch.setattr(daemons, "SYSTEMD", own_host)
    host.plays = lambda: threading.Timer(0.2, host, [7, b"supervisord", "supervisord.pid"]).start()
    daemons.start(SUPERVISOR)
    assert host.commands == [["systemctl", "start", "supervisor.service"]]
    assert daemons.pid(SUPERVISOR) == 7


@pytest.mark.parametrize(
    ("links", "says", "expected", "asked"),
    [
        ({"multi-user.target.wants/nginx.service": "/lib/systemd/system/nginx.service"}, "", True, 0),
        ({}, "generated", True, 1),
        ({}, "", False, 1),
        ({"nginx.service": "/dev/null"}, "", False, 1),
        (
            {
                "nginx.service": "/dev/null",
                "multi-user.target.wants/nginx.service": "/lib/systemd/system/nginx.service",
            },
            "",
            False,
            1,
        ),
    ],
    ids=["linked", "otherwise", "disabled", "masked", "masked and linked"],
)
def test_daemon_is_enabled_by_link_or_by_systemd(host, own_host, monkeypatch, links, says, expected, asked):
    monkeypatch.setattr(daemons, "SYSTEMD", own_host)
    for path, target in links.items():
        link = daemons.UNITS / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)

    def answers():
        if not says:
            raise DeploymentError("asking for nginx.service failed (exit 1)")

    host.plays = answers
    assert daemons.is_enabled(NGINX) is expected
    assert host.commands == [["systemctl", "is-enabled", "--quiet", "nginx.service"]] * asked


@pytest.mark.parametrize(
    ("daemon", "active", "expected"), [(NGINX, True, True), (NGINX, False, False), (POSTGRES, True, False)]
)
def test_daemon_without_its_pid_file_runs_if_systemd_confirms_it(host, own_host, monkeypatch, daemon, active, expected):
    assert not daemons.is_running(daemon) and host.commands == [], "there is no systemd"
    monkeypatch.setattr(daemons, "SYSTEMD", own_host)

    def answers():
        if not active:
            raise DeploymentError("asking for it failed (exit 3)")

    host.plays = answers
    assert daemons.is_running(daemon) is expected
    assert host.commands == [["systemctl", "is-active", "--quiet", "nginx.service"]] * (daemon == NGINX)


def test_daemon_is_enabled_without_systemd(host):
    assert daemons.is_enabled(NGINX) and host.commands == []


@pytest.mark.parametrize("comes", [True, False])
def test_failed_start_is_accepted_if_the_daemon_runs(host, monkeypatch, comes):
    monkeypatch.setattr(daemons, "CONTEST", 30 if comes else 0.3)

    def gives_up():
        if comes:
            threading.Timer(0.1, host, [7, b"supervisord", "supervisord.pid"]).start()
        raise DeploymentError("starting supervisor failed (exit 1)")

    host.plays = gives_up
    if comes:
        daemons.start(SUPERVISOR)
        return
    with pytest.raises(DeploymentError, match="exit 1"):
        daemons.start(SUPERVISOR)


@pytest.mark.parametrize(("runs", "ends"), [(True, True), (True, False), (False, True)])
def test_daemon_is_stopped_by_sigterm_without_systemd(host, monkeypatch, runs, ends):
    sent = []

    def kill(number, what):
        sent.append((number, what))
        if ends:
            host(number, b"")  # a zombie

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(daemons, "PATIENCE", 0.05)
    host(8, b"/usr/sbin/nginx" if runs else b"")
    with contextlib.nullcontext() if ends else pytest.raises(DeploymentError, match=r"^nginx does not stop"):
        daemons.stop(NGINX)
    assert sent == ([(8, signal.SIGTERM)] if runs else []) and host.commands == []


def test_nginx_is_reloaded_without_systemd(host):
    host(7, b"nginx: master")
    daemons.reload(NGINX)
    assert host.commands == [["nginx", "-s", "reload"]]


@pytest.mark.parametrize("sees", [True, False], ids=["", "without CAP_SYS_PTRACE"])
@pytest.mark.parametrize("begins", [True, False])
def test_reload_of_apache_waits_for_its_new_processes(host, monkeypatch, sees, begins):
    """The old ones may still finish a request then."""
    started, listening, looks = {11: 100, 12: 100}, {11, 12}, []

    def children(_main):
        looks.append(len(started))
        if len(looks) == 3 and begins:
            started[13] = 200
            listening.symmetric_difference_update({11, 12, 13})
        return {*started}

    monkeypatch.setattr(daemons, "PATIENCE", 0.1)
    monkeypatch.setattr(daemons.proc, "children", children)
    monkeypatch.setattr(daemons.proc, "stat", lambda number: daemons.proc.Stat("S", 7, started[number]))
    monkeypatch.setattr(daemons.host_ports, "is_listening", lambda number, _ports: sees and number in listening)
    monkeypatch.setattr(daemons, "pid", lambda _daemon: 7)
    with contextlib.nullcontext() if begins else pytest.raises(DeploymentError, match="still uses its old conf"):
        daemons.reload(daemons.APACHE)
    assert host.commands == [["apache2ctl", "graceful"]] and (len(looks) == 3) == begins


@pytest.fixture(params=["systemd", "init"])
def packages(host, own_host, monkeypatch, request):
    """Install a package with a service that Debian starts; `installed` has whether that was kept from starting."""
    units, state = (
        own_host / "etc/systemd/system",
        SimpleNamespace(installed=[], has_systemd=request.param == "systemd"),
    )
    monkeypatch.setattr(daemons, "has_systemd", lambda: state.has_systemd)
    monkeypatch.setattr(daemons, "SYSTEMD", own_host / "run/units")
    monkeypatch.setattr(daemons, "POLICY", own_host / "policy-rc.d")
    monkeypatch.setattr(daemons, "NOTES", own_host / "notes")
    monkeypatch.setattr(daemons, "_places", lambda service: [(str(units), f"{service}.service")])

    def install(error=None):
        with daemons.never_started("memcached"):
            mask, policy = own_host / "run/units/memcached.service", own_host / "policy-rc.d"
            state.installed.append(os.path.lexists(mask if state.has_systemd else policy))
            if isinstance(error, OSError):
                raise error
            (units / "memcached.service").touch()
            if error:
                raise error

    return SimpleNamespace(install=install, state=state, guards=[own_host / "run/units", own_host / "policy-rc.d"])


def test_service_of_a_package_is_neither_started_nor_enabled(packages, host):
    packages.install()
    disabled = ["systemctl", "disable", "--now", "memcached"]
    disabled = disabled if packages.state.has_systemd else ["update-rc.d", "memcached", "disable"]
    assert host.commands == [disabled] and packages.state.installed == [True]
    assert not any(path.is_file() or (path.is_dir() and [*path.iterdir()]) for path in packages.guards)
    packages.install()  # it is there by now
    assert host.commands == [disabled] and packages.state.installed == [True, False]


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("text", ["#!/bin/sh\n# of the operator\nexit 0\n", "#!/bin/sh\nexit 101\n"])
def test_policy_of_the_operator_stays_and_the_service_is_stopped_all_the_same(packages, host, is_killed, text):
    """Where that lets packages start their services; an image of Docker's has one that does not."""
    packages.state.has_systemd = False
    policy = daemons.POLICY
    if is_killed:
        daemons.NOTES.mkdir()
        (daemons.NOTES / "memcached").touch()
    policy.write_text(text)
    packages.install()
    assert policy.read_text() == text
    assert host.commands == [["service", "memcached", "stop"], ["update-rc.d", "memcached", "disable"]]
    assert not daemons.is_half_installed("memcached")


def test_installation_that_was_killed_is_finished(packages, host, monkeypatch):
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(Path, "unlink", lambda *_arguments, **_options: None)
        packages.install(KeyboardInterrupt())
    assert host.commands == [] and daemons.is_half_installed("memcached")
    packages.install()
    assert host.commands[-1][-2:] in (["--now", "memcached"], ["memcached", "disable"])
    assert not any(path.is_file() or (path.is_dir() and [*path.iterdir()]) for path in packages.guards)
    assert not daemons.is_half_installed("memcached")


def test_installation_that_failed_is_not_continued_for_a_service_that_comes_later(packages, host):
    with pytest.raises(OSError, match="no such package"):
        packages.install(OSError("no such package"))
    assert host.commands == [] and not daemons.is_half_installed("memcached")
