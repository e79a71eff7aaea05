"""Unix sockets of this host, whatever names local users choose."""

import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
from django_formula.host import unix_sockets
from django_formula.release import instances


@pytest.fixture
def folder():
    """A folder for sockets, whose paths are short enough."""
    folder = Path(tempfile.mkdtemp(prefix="df-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=["netlink", "table"])
def told(request, monkeypatch):
    """How the kernel tells its sockets; a container may refuse the better way."""
    if request.param == "table":

        def refused(_states=None):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(unix_sockets, "_by_netlink", refused)
    return request.param


def listening(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(5)
    return listener


def test_listening_and_connected_sockets_are_found(folder, told):
    path = str(folder / "0001.sock")
    assert not unix_sockets.listens(path) and unix_sockets.connections(path) == 0
    with listening(path) as listener, listening(folder / "x0001.sock"):
        assert unix_sockets.listens(path) and unix_sockets.connections(path) == 0
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            first.connect(path)
            second.connect(path)
            accepted, _address = listener.accept()
            assert unix_sockets.connections(path) == 2
            accepted.close()
            assert unix_sockets.connections(path) == 1
    assert unix_sockets.listens(path) is (told == "table") and unix_sockets.connections(path) == 0


@pytest.mark.parametrize("name", ["x\n{row}", "x\n", "x\n0 1 2", "x \x1b[2J {path}"])
@pytest.mark.parametrize("is_abstract", [True, False])
def test_forged_socket_name_is_ignored(folder, told, name, is_abstract):
    path = str(folder / "0001.sock")
    row = f"0000000000000000: 00000002 00000000 00010000 0001 01 99 {path}"
    chosen = name.format(row=row, path=path)
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as client:
        if is_abstract:
            other.bind("\0" + chosen)
        else:
            other.bind(str(folder / chosen.replace("/", "_")))
        other.listen()
        client.connect(other.getsockname())
        assert not unix_sockets.listens(path) and instances.connections(path) == 0
        with listening(path):
            assert unix_sockets.listens(path)
            if told == "netlink":
                assert unix_sockets.connections(path) == 0


def test_socket_of_a_former_file_is_ignored(folder):
    """Not one that had the name before, or has it where others see other files."""
    path = folder / "0001.sock"
    with listening(path) as old, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        path.unlink()
        assert not unix_sockets.listens(str(path)) and unix_sockets.connections(str(path)) == 1
        with listening(path):
            assert unix_sockets.listens(str(path)) and unix_sockets.connections(str(path)) == 0
        assert old.fileno() > 0
        assert not unix_sockets.listens(str(path))
        path.unlink()
        path.symlink_to(folder / "other.sock")
        with listening(folder / "other.sock"):
            assert not unix_sockets.listens(str(path))


@pytest.mark.parametrize("what", ["a link", "a file", "a fifo", "nothing", "of another user"])
def test_connection_to_a_replaced_socket_is_refused(folder, what):
    path = folder / "0001.sock"
    with listening(folder / "secret.sock") as other:
        if what == "a link":
            path.symlink_to(folder / "secret.sock")
        elif what == "a file":
            path.write_text("")
        elif what == "a fifo":
            os.mkfifo(path)
        elif what == "of another user":
            path = folder / "secret.sock"
        with pytest.raises(OSError):
            unix_sockets.connect(str(path), os.getuid() + (what == "of another user"), 1)
        other.settimeout(0.05)
        with pytest.raises(TimeoutError):
            other.accept()


def test_connection_to_the_socket_of_the_user(folder):
    with listening(folder / "0001.sock") as listener:
        connection = unix_sockets.connect(str(folder / "0001.sock"), os.getuid(), 1)
        accepted, _address = listener.accept()
        with connection, accepted:
            accepted.sendall(b"x")
            assert connection.recv(1) == b"x"


def test_proc_is_read_when_netlink_is_refused(folder, monkeypatch):
    monkeypatch.setattr(unix_sockets, "_NETLINK_SOCK_DIAG", 99)
    with listening(folder / "0001.sock"):
        assert unix_sockets.listens(str(folder / "0001.sock"))
