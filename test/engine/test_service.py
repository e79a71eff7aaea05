"""Daemons: started and reloaded as this host does it, judged by their process."""

import threading

import django_command
import django_service
import pytest
from django_command import DeploymentError
from django_service import NGINX, SUPERVISOR


@pytest.fixture
def host(own_host, monkeypatch):
    """A host without systemd: `host(7, "nginx: master")` has a process; what is run lies in `host.commands`."""
    monkeypatch.setattr(django_service, "SYSTEMD", own_host / "none")
    monkeypatch.setattr(django_service, "RUN", own_host / "run")
    monkeypatch.setattr(django_service, "PROC", own_host / "proc")

    def process(number, line, pid_file="nginx.pid"):
        (own_host / "run" / pid_file).write_text(f"{number}\n")
        (own_host / "proc" / str(number)).mkdir(parents=True)
        (own_host / "proc" / str(number) / "cmdline").write_bytes(line)

    process.commands, process.plays = [], lambda: None

    def run(argv, **options):
        process.commands.append(argv)
        assert options.get("daemon", False) is ("service" in argv)
        process.plays()
        return "it says that it does\n"

    monkeypatch.setattr(django_command, "run", run)
    return process


@pytest.mark.parametrize(
    ("line", "expected"),
    [(b"nginx: master process /usr/sbin/nginx", 7), (b"sleep\0infinity\0", None), (b"", None), (None, None)],
)
def test_a_daemon_runs_where_its_process_does(host, line, expected):
    if line is not None:
        host(7, line)
    assert django_service.pid(NGINX) == expected


def test_a_number_that_another_has_by_now_is_not_the_daemon(host):
    host(7, b"/usr/bin/python3\0/usr/bin/supervisord\0", "supervisord.pid")
    host(8, b"sleep\0")
    assert (django_service.pid(SUPERVISOR), django_service.pid(NGINX)) == (7, None)


def test_a_daemon_is_started_as_the_host_does_it(host):
    host(6, b"")
    assert (django_service.RUN / "nginx.pid").exists()

    def starts():
        assert not (django_service.RUN / "nginx.pid").exists()
        host(7, b"nginx: master")

    host.plays = starts
    django_service.start(NGINX)
    assert host.commands == [["service", "nginx", "start"]]


def test_a_daemon_that_only_says_that_it_runs_is_an_error(host, monkeypatch):
    monkeypatch.setattr(django_service, "PATIENCE", 0.1)
    with pytest.raises(DeploymentError) as error:
        django_service.reload(NGINX)
    assert error.value.message == "nginx does not run, though it was started"
    assert error.value.log == "it says that it does\n" and error.value.hint == "service nginx start"


def test_a_daemon_that_takes_its_time_is_waited_for(host, own_host, monkeypatch):
    monkeypatch.setattr(django_service, "SYSTEMD", own_host)
    host.plays = lambda: threading.Timer(0.2, host, [7, b"supervisord", "supervisord.pid"]).start()
    django_service.start(SUPERVISOR)
    assert host.commands == [["systemctl", "start", "supervisor.service"]]
    assert django_service.pid(SUPERVISOR) == 7


def test_nginx_reloads(host):
    host(7, b"nginx: master")
    django_service.reload(NGINX)
    assert host.commands == [["nginx", "-s", "reload"]]
