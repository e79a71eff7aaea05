"""Processes in /proc, whatever name and arguments they choose."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from django_formula.host import proc as host_proc


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """A /proc of its own: `proc(42, stat=b"…")` writes the files of a process."""
    monkeypatch.setattr(host_proc, "PROC", tmp_path)

    def process(pid, **files):
        (tmp_path / str(pid)).mkdir(exist_ok=True)
        for name, content in files.items():
            (tmp_path / str(pid) / name).write_bytes(content)

    process.top = tmp_path
    return process


def stat(name=b"x", state=b"S", parent=1, started=0):
    return b"42 (%s) %s %d%s %d 0" % (name, state, parent, b" 0" * 17, started)


@pytest.mark.parametrize("name", [b"x", b"a b", b"\xff\n) S 1 2", b") Z 1 (", b""])
def test_fields_of_stat_are_found_behind_any_name(proc, name):
    proc(42, stat=stat(name, parent=7, started=500))
    assert host_proc.stat(42) == ("S", 7, 500)


@pytest.mark.parametrize("content", [b"", b"42 (x) S", b"nonsense"])
def test_stat_of_a_process_that_ends_meanwhile_is_none(proc, content):
    proc(42, stat=content)
    assert host_proc.stat(42) is None
    assert host_proc.stat(43) is None


def test_answers_about_a_process_that_has_ended():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    pid = process.pid
    assert not host_proc.exists(pid) and not host_proc.is_running(pid)
    assert host_proc.name(pid) is None and host_proc.command_line(pid) == b""
    assert host_proc.environment(pid) == [] and host_proc.control_groups(pid) == ""
    assert host_proc.open_files(pid) == set() and host_proc.memory(pid) == 0
    assert host_proc.age(pid) == 0.0 and host_proc.tree(pid) == [pid]
    for function in (host_proc.owner, host_proc.status, host_proc.working_directory):
        with pytest.raises(OSError, match="No such"):
            function(pid)


def test_a_zombie_exists_and_does_not_run():
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert host_proc.exists(process.pid) and not host_proc.is_running(process.pid)
    process.wait()


def test_own_process(tmp_path):
    pid = os.getpid()
    assert pid in host_proc.pids() and pid in host_proc.pids_of(os.getuid())
    assert host_proc.is_running(pid) and host_proc.owner(pid) == (os.getuid(), os.getgid())
    assert 0 < host_proc.age(pid) < host_proc.uptime()
    assert host_proc.working_directory(pid) == os.getcwd()
    assert host_proc.command_line(pid) == Path("/proc/self/cmdline").read_bytes()
    assert host_proc.status(pid)["PPid"] == str(os.getppid())
    assert host_proc.namespace("mnt") == os.readlink("/proc/self/ns/mnt")
    assert host_proc.boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with open(tmp_path / "open", "w"):
        assert str(tmp_path / "open") in host_proc.open_files(pid)


def test_children_and_descendants():
    script = "import subprocess; subprocess.Popen(['sleep', '60'], stdout=-3); print(flush=True); input()"
    argv = [sys.executable, "-c", script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        process.stdout.readline()
        (child,) = host_proc.children(process.pid)
        assert process.pid in host_proc.children(os.getpid())
        assert host_proc.tree(process.pid) == [process.pid, child]
        assert {process.pid, child} <= {*host_proc.tree(os.getpid())}
        os.killpg(process.pid, signal.SIGKILL)


def test_command_line_and_name_are_bounded_and_printable(proc):
    proc(42, cmdline=b"x" * (1 << 20), comm=b"\x1b[2Jngi\xffnx\n")
    assert len(host_proc.command_line(42)) == 1 << 16
    assert host_proc.name(42) == "[2Jngi\N{REPLACEMENT CHARACTER}nx"


@pytest.mark.skipif(os.getuid() != 0, reason="left out: a folder is given to root, which needs root")
@pytest.mark.parametrize("uids", ["4711\t0\t0", "0\t4711\t0", "0\t0\t4711"])
def test_process_of_a_user_is_found_where_root_owns_its_folder(proc, uids):
    proc(42, status=f"Name:\tUid: 1\nUid:\t{uids}\t0\n".encode(), stat=stat())
    os.chown(proc.top / "42", 0, 0)
    assert host_proc.pids_of(4711) == [42] and host_proc.pids_of(1) == []


def test_sizes_of_the_host(proc):
    (proc.top / "meminfo").write_text("MemTotal:  2000 kB\nHugePages_Total: 3\nSwapFree: 10 kB\n")
    assert host_proc.host_memory() == {"MemTotal": 2000 << 10, "SwapFree": 10 << 10}


def test_network_table_is_read_without_its_heading(proc):
    (proc.top / "net").mkdir()
    (proc.top / "net/unix").write_bytes(b"Num Path\nffff: /run/a\xff\r\nffff: /run/b\n")
    assert list(host_proc.network_table("unix")) == [b"ffff: /run/a\xff\r", b"ffff: /run/b"]
    with pytest.raises(FileNotFoundError):
        list(host_proc.network_table("tcp6"))
