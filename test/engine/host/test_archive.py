"""Programs as archives: that one which is installed is on disk whole before a record says so."""

import os
import zipfile

from django_formula.host import archive


def test_program_is_on_disk_whole_once_it_is_installed(tmp_path, monkeypatch):
    """What is installed is compared by a record of its version; a torn one would never be written again."""
    synced, fsync = [], os.fsync

    def note(descriptor):
        fsync(descriptor)
        status = os.fstat(descriptor)
        synced.append((status.st_ino, status.st_size))

    monkeypatch.setattr(os, "fsync", note)
    path = tmp_path / "ask.pyz"
    archive.install("django_formula.request.ask", path)
    with zipfile.ZipFile(path) as members:
        assert "django_formula/request/ask.pyc" in members.namelist() and members.testzip() is None
    folder = os.stat(tmp_path)
    assert (path.stat().st_ino, path.stat().st_size) in synced and synced[-1][0] == folder.st_ino
