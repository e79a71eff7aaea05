"""Processes that listen on TCP ports."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from django_formula.host import ports, proc

SERVER = "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_port_of_this_process_is_found(family):
    with socket.socket(family) as server:
        server.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        port = server.getsockname()[1]
        assert ports.listener(port) is None, "it does not listen yet"
        server.listen()
        found = ports.listener(port)
        assert found and found.pid == os.getpid() and found.program == Path("/proc/self/comm").read_text().strip()
        assert ports.listener(port, exclude=os.getpid()) is None
    assert ports.listener(port) is None


def test_port_of_another_process_is_found():
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        port = int(process.stdout.readline())
        found = ports.listener(port, exclude=os.getpid())
        assert found and found.pid == process.pid
        process.stdin.close()


def test_listener_on_another_address_is_distinguished_from_our_own():
    """A worker has the sockets of its main process."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code = SERVER.replace("'127.0.0.1', 0", f"'127.0.0.2', {port}")
        workers = [subprocess.Popen(["sleep", "60"], pass_fds=[server.fileno()]) for _ in range(2)]
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            found = ports.listener(port, exclude=os.getpid())
            process.stdin.close()
        for worker in workers:
            worker.kill()
            worker.wait()
        assert found and found.pid == process.pid and ports.listener(port, exclude=os.getpid()) is None


def test_connection_is_not_a_listener():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert ports.listener(client.getsockname()[1]) is None


def test_process_with_an_open_connection_is_found():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port, own = server.getsockname()[1], [os.getpid()]
        assert ports.connected(own, [port]) == set(), "it only listens"
        with socket.create_connection(server.getsockname()) as client:
            taken, _address = server.accept()
            with taken:
                assert ports.connected(own, [port]) == {*own} and ports.connected([1], [port]) == set()
                assert ports.connected(own, [client.getsockname()[1] + 1]) == set()
        assert ports.connected(own, [port]) == set()


@pytest.mark.parametrize(
    ("group", "told"),
    [
        ("0::/system.slice/apache2.service\n", "apache2 (pid 7, apache2.service)"),
        ("12:cpu:/system.slice/apache2.service\n0::/\n", "apache2 (pid 7, apache2.service)"),
        ("0::/user.slice/session-1.scope\n", "apache2 (pid 7)"),
        (None, "an unknown process"),
    ],
)
def test_listener_is_shown_with_pid_and_unit(tmp_path, monkeypatch, group, told):
    monkeypatch.setattr(proc, "PROC", tmp_path)
    rows = ["  sl  local_address", "0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 11 1"]
    rows += ["1: 00000000:0050 00000000:0000 0A 0:0 0:0 0 0 0 12 1", "2: 00000000:0051 0:0 01 0:0 0:0 0 0 0 13 1"]
    (tmp_path / "net").mkdir()
    (tmp_path / "net/tcp").write_text("\n".join(rows) + "\n")
    if group is not None:
        (tmp_path / "7/fd").mkdir(parents=True)
        (tmp_path / "7/fd/3").symlink_to("socket:[12]")
        (tmp_path / "7/comm").write_text("apache2\n")
        (tmp_path / "7/cgroup").write_text(group)
    assert str(ports.listener(80)) == told
    assert ports.listener(81) is None
    assert ports.listening() == {8080: {"socket:[11]"}, 80: {"socket:[12]"}}
    (tmp_path / "net/tcp").unlink()
    assert ports.listener(80) is None, "it is read anew"
    assert str(ports.listener(80, ports={80: {"socket:[12]"}})) == told, "unless the caller has just done so"


def test_name_of_a_listener_is_printable(tmp_path, monkeypatch):
    monkeypatch.setattr(proc, "PROC", tmp_path)
    (tmp_path / "7/fd").mkdir(parents=True)
    (tmp_path / "7/fd/3").symlink_to("socket:[12]")
    (tmp_path / "7/comm").write_bytes(b"\x1b[2Jngi\xffnx\n\n")
    (tmp_path / "7/cgroup").write_text("")
    assert str(ports.listener(80, ports={80: {"socket:[12]"}})) == "[2Jngi\N{REPLACEMENT CHARACTER}nx (pid 7)"


@pytest.mark.parametrize(("host", "is_ours"), [("127.0.0.1", True), ("::", True), ("192.0.2.99", False)])
def test_bind_error_is_returned_for_foreign_addresses(host, is_ours):
    assert bool(ports.bind_error(host)) is not is_ours


def test_addresses_are_ordered_by_port():
    listens = ["[::1]:80", "192.0.2.1:80", 80, 9, "10.0.0.1:8", 80]
    assert ports.ordered(listens) == ["10.0.0.1:8", 9, 80, "192.0.2.1:80", "[::1]:80"]


def test_way_to_stop_is_a_command_that_works_for_the_unit(tmp_path, monkeypatch):
    monkeypatch.setattr(ports, "TRANSIENT", tmp_path)
    (tmp_path / "run-7.service").touch()
    ways = [ports.Listener("x", 7, unit).way_to_stop(80) for unit in ("x.service", "run-7.service", "")]
    shown = "ss -ltnp 'sport = :80' shows it"
    assert ways == ["systemctl disable --now x.service", "systemctl stop run-7.service", shown]
