"""Daemons: started and reloaded as this host does it, judged by their process."""

import contextlib
import os
import signal
import threading

import django_host_command
import django_host_service
import pytest
from django_host_command import DeploymentError
from django_host_service import NGINX, POSTGRES, SUPERVISOR


@pytest.fixture
def host(own_host, monkeypatch):
    """A host without systemd: `host(7, "nginx: master")` has a process; what is run lies in `host.commands`."""
    monkeypatch.setattr(django_host_service, "SYSTEMD", own_host / "none")

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

    monkeypatch.setattr(django_host_command, "run", run)
    return process


@pytest.mark.parametrize(
    ("line", "expected"),
    [(b"nginx: master process /usr/sbin/nginx", 7), (b"sleep\0infinity\0", None), (b"", None), (None, None)],
)
def test_a_daemon_runs_where_its_process_does(host, line, expected):
    if line is not None:
        host(7, line)
    assert django_host_service.pid(NGINX) == expected


def test_a_number_that_another_has_by_now_is_not_the_daemon(host):
    host(7, b"/usr/bin/python3\0/usr/bin/supervisord\0", "supervisord.pid")
    host(8, b"sleep\0")
    assert (django_host_service.pid(SUPERVISOR), django_host_service.pid(NGINX)) == (7, None)


def test_one_of_several_servers_that_runs_is_found(host, own_host):
    (own_host / "run/postgresql").mkdir(parents=True)
    host(8, b"sleep\0", "postgresql/13-main.pid")
    assert django_host_service.pid(POSTGRES) is None
    host(9, b"/usr/lib/postgresql/15/bin/postgres\0-D\0", "postgresql/15-main.pid")
    assert django_host_service.pid(POSTGRES) == 9


@pytest.mark.parametrize("what", ["a fifo", "/dev/zero", "a folder"])
def test_a_pid_file_of_which_its_daemon_has_made_something_else(own_host, what):
    folder = own_host / "run/postgresql"
    folder.mkdir(parents=True)
    if what == "a fifo":
        os.mkfifo(folder / "15-main.pid")
    elif what == "a folder":
        (folder / "15-main.pid").mkdir()
    else:
        (folder / "15-main.pid").symlink_to(what)
    assert django_host_service.pid(POSTGRES) is None


def test_a_daemon_is_started_as_the_host_does_it(host):
    host(6, b"")
    assert (django_host_service.RUN / "nginx.pid").exists()

    def starts():
        assert not (django_host_service.RUN / "nginx.pid").exists()
        host(7, b"nginx: master")

    host.plays = starts
    django_host_service.start(NGINX)
    assert host.commands == [["service", "nginx", "start"]]


def test_a_daemon_that_only_says_that_it_runs_is_an_error(host, monkeypatch):
    monkeypatch.setattr(django_host_service, "PATIENCE", 0.1)
    with pytest.raises(DeploymentError) as error:
        django_host_service.reload(NGINX)
    assert error.value.message == "nginx does not run after it was started"
    assert error.value.log == "it says that it does\n" and error.value.hint == "service nginx start"


def test_a_daemon_that_takes_its_time_is_waited_for(host, own_host, monkeypatch):
    monkeypatch.setattr(django_host_service, "SYSTEMD", own_host)
    host.plays = lambda: threading.Timer(0.2, host, [7, b"supervisord", "supervisord.pid"]).start()
    django_host_service.start(SUPERVISOR)
    assert host.commands == [["systemctl", "start", "supervisor.service"]]
    assert django_host_service.pid(SUPERVISOR) == 7


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
def test_whether_systemd_starts_a_daemon_at_boot(host, own_host, monkeypatch, links, says, expected, asked):
    monkeypatch.setattr(django_host_service, "SYSTEMD", own_host)
    for path, target in links.items():
        link = django_host_service.UNITS / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)

    def answers():
        if not says:
            raise DeploymentError("asking for nginx.service failed (exit 1)")

    host.plays = answers
    assert django_host_service.is_enabled(NGINX) is expected
    assert host.commands == [["systemctl", "is-enabled", "--quiet", "nginx.service"]] * asked


@pytest.mark.parametrize(
    ("daemon", "active", "expected"), [(NGINX, True, True), (NGINX, False, False), (POSTGRES, True, False)]
)
def test_a_daemon_with_a_pid_file_elsewhere_runs_where_systemd_says_so(
    host, own_host, monkeypatch, daemon, active, expected
):
    assert not django_host_service.is_running(daemon) and host.commands == [], "there is no systemd"
    monkeypatch.setattr(django_host_service, "SYSTEMD", own_host)

    def answers():
        if not active:
            raise DeploymentError("asking for it failed (exit 3)")

    host.plays = answers
    assert django_host_service.is_running(daemon) is expected
    assert host.commands == [["systemctl", "is-active", "--quiet", "nginx.service"]] * (daemon == NGINX)


def test_without_systemd_nobody_is_asked_what_starts_at_boot(host):
    assert django_host_service.is_enabled(NGINX) and host.commands == []


@pytest.mark.parametrize("comes", [True, False])
def test_a_daemon_that_somebody_else_starts_at_the_same_time(host, monkeypatch, comes):
    monkeypatch.setattr(django_host_service, "CONTEST", 0.3)

    def gives_up():
        if comes:
            threading.Timer(0.1, host, [7, b"supervisord", "supervisord.pid"]).start()
        raise DeploymentError("starting supervisor failed (exit 1)")

    host.plays = gives_up
    if comes:
        django_host_service.start(SUPERVISOR)
        return
    with pytest.raises(DeploymentError, match="exit 1"):
        django_host_service.start(SUPERVISOR)


@pytest.mark.parametrize(("runs", "ends"), [(True, True), (True, False), (False, True)])
def test_without_systemd_a_daemon_is_stopped_by_its_process(host, monkeypatch, runs, ends):
    sent = []

    def kill(number, what):
        sent.append((number, what))
        if ends:
            host(number, b"")  # a zombie

    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(django_host_service, "PATIENCE", 0.05)
    host(8, b"/usr/sbin/nginx" if runs else b"")
    with contextlib.nullcontext() if ends else pytest.raises(DeploymentError, match=r"^nginx does not stop"):
        django_host_service.stop(NGINX)
    assert sent == ([(8, signal.SIGTERM)] if runs else []) and host.commands == []


def test_nginx_reloads(host):
    host(7, b"nginx: master")
    django_host_service.reload(NGINX)
    assert host.commands == [["nginx", "-s", "reload"]]
