"""Space that trees use and file systems have free."""

import errno
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from django_formula.host import disk
from django_formula.host.commands import DeploymentError
from django_formula.host.disk import Space


def test_space_of_a_tree_is_counted(tmp_path):
    (tmp_path / "tree/below").mkdir(parents=True)
    (tmp_path / "tree/below/file").write_bytes(b"x" * 100_000)
    (tmp_path / "tree/link").symlink_to(tmp_path)
    taken = disk.of_tree(tmp_path / "tree")
    assert taken.files == 3
    blocks = [path.lstat().st_blocks * 512 for path in (tmp_path / "tree").rglob("*")]
    assert taken.bytes == sum(blocks) >= 100_000
    assert disk.of_tree(tmp_path / "none") == (0, 0)


def test_free_space_is_reported(tmp_path, monkeypatch):
    found = os.statvfs(tmp_path)
    left = disk.free(tmp_path)
    assert abs(left.bytes - found.f_bavail * found.f_frsize) < 1 << 30
    without = os.statvfs_result((4096, 4096, 100, 50, 40, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: without)
    assert disk.free(tmp_path) == (40 * 4096, sys.maxsize), "btrfs has no table of inodes"


@pytest.mark.parametrize(
    ("message", "log", "left", "said"),
    [
        ("No space left on device: /srv/x", "", Space(5 << 20, 1000), "df -h /srv: 5 MB and 1000 inodes are left"),
        ("git failed", "fatal: No space left on device", Space(5 << 20, 0), "df -i /srv: no inodes are left"),
        ("git failed", "fatal: not found", Space(0, 0), None),
    ],
)
def test_hint_of_a_full_disk_names_what_is_missing(monkeypatch, message, log, left, said):
    monkeypatch.setattr(disk, "free", lambda path: left)
    monkeypatch.setattr(disk, "SHARED", [])
    monkeypatch.setattr(os, "stat", lambda path: SimpleNamespace(st_dev=1))
    error = DeploymentError(message, log=log, hint="do this")
    disk.add_hint(error, Path("/srv"))
    assert error.hint == ("do this" if said is None else f"do this\n{said}")


def test_hint_names_the_file_system_that_is_full(monkeypatch):
    refused = "Refusing to reload, not enough space available on /run/systemd."
    spaces = {"/run": Space(9 << 20, 1000), "/srv": Space(1 << 40, 1000), "/tmp": Space(1 << 40, 2)}
    monkeypatch.setattr(disk, "SHARED", [Path("/run"), Path("/tmp"), Path("/var")])
    monkeypatch.setattr(disk, "free", lambda path: spaces[str(path)])
    monkeypatch.setattr(os, "stat", lambda path: SimpleNamespace(st_dev={"/var": "/srv"}.get(str(path), str(path))))
    error = DeploymentError("reloading units failed (exit 1)", log=f"Failed to reload daemon: {refused}")
    disk.add_hint(error, Path("/srv"))
    assert error.hint == "df -h /run: 9 MB and 1000 inodes are left\ndf -i /tmp: no inodes are left"


def test_error_is_unchanged_when_the_disk_cannot_be_queried(tmp_path):
    error = DeploymentError(os.strerror(errno.ENOSPC))
    disk.add_hint(error, tmp_path / "gone")
    assert error.hint == ""
