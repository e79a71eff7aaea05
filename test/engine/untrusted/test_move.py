"""Folders of a container's image: overlayfs refuses to rename them, and they are renamed all the same."""

import errno
import os
import stat
from pathlib import Path

import pytest
from django_formula.untrusted import move

RENAME = os.rename


class Overlay:
    """overlayfs: the folders that exist are in a lower layer; the entry `fails` finds the disk full."""

    def __init__(self, top: Path):
        self.lower = {os.stat(path).st_ino for path in [top, *top.rglob("*")] if path.is_dir()}
        self.fails = ""

    def rename(self, name, target, **folders):
        status = os.stat(name, dir_fd=folders.get("src_dir_fd"), follow_symlinks=False)
        if status.st_ino in self.lower:
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(name), None, str(target))
        if os.path.basename(name) == self.fails:
            raise OSError(errno.ENOSPC, "No space left on device", str(name))
        RENAME(name, target, **folders)


@pytest.fixture
def uploads(tmp_path):
    path = tmp_path / "media"
    (path / "2026/11").mkdir(parents=True)
    (path / "2026/11/photo.jpg").write_text("photo")
    (path / "2026").chmod(0o2750)
    os.utime(path / "2026", (7, 7))
    (path / "link").symlink_to("/etc/passwd")
    os.mkfifo(path / "fifo")
    path.chmod(0o2755)
    return path


@pytest.fixture
def overlay(uploads, monkeypatch):
    overlay = Overlay(uploads)
    monkeypatch.setattr(os, "rename", overlay.rename)
    return overlay


def listed(top: Path) -> dict[str, tuple[int, float]]:
    status = {str(path.relative_to(top)): path.lstat() for path in [top, *top.rglob("*")]}
    times = {name for name, one in status.items() if stat.S_ISDIR(one.st_mode)}
    return {name: (one.st_mode, one.st_mtime if name in times else 0) for name, one in status.items()}


def test_folder_of_an_image_is_renamed(uploads, overlay):
    before, kept = listed(uploads), uploads.with_name("media.before")
    move.rename(uploads, kept)
    assert listed(kept) == before and os.listdir(uploads.parent) == ["media.before"]
    assert (kept / "2026/11/photo.jpg").read_text() == "photo"
    assert not move.undo(uploads, kept)


def test_folder_has_its_entries_back_where_the_disk_is_full(uploads, overlay):
    before, kept = listed(uploads), uploads.with_name("media.before")
    overlay.fails = "photo.jpg"
    with pytest.raises(OSError, match="No space left"):
        move.rename(uploads, kept)
    assert {*listed(uploads)} == {*before} and os.listdir(uploads.parent) == ["media"]


def test_move_that_was_killed_is_undone(uploads, overlay, monkeypatch):
    before, kept = listed(uploads), uploads.with_name("media.before")
    monkeypatch.setattr(move, "undo", lambda *_paths: None)  # nothing runs after a kill
    overlay.fails = "photo.jpg"
    with pytest.raises(OSError, match="No space left"):
        move.rename(uploads, kept)
    monkeypatch.undo()
    assert move.undo(uploads, kept)
    assert {*listed(uploads)} == {*before} and os.listdir(uploads.parent) == ["media"]


def test_another_error_is_raised_before_anything_is_moved(uploads, monkeypatch):
    (uploads.parent / "kept").mkdir()
    (uploads.parent / "kept/file").touch()
    before = listed(uploads)
    with pytest.raises(OSError, match="not empty"):
        move.rename(uploads, uploads.parent / "kept")
    assert listed(uploads) == before and sorted(os.listdir(uploads.parent)) == ["kept", "media"]
