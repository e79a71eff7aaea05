"""Programs as archives: that one which is installed is on disk whole before a record says so."""

import multiprocessing
import os
import subprocess
import zipfile

import pytest
from django_formula.host import archive, file


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


def test_program_that_several_applies_install_at_once_is_whole(tmp_path):
    """Sites whose requests are worked off at one time have the program of a relay in common."""
    path = tmp_path / "ask.pyz"
    processes = [multiprocessing.Process(target=_install, args=(path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    with zipfile.ZipFile(path) as members:
        names = members.namelist()
        assert members.testzip() is None and len(names) == len({*names})
    assert [process.exitcode for process in processes] == [0] * 4 and os.listdir(tmp_path) == ["ask.pyz"]


def _install(path):
    for _ in range(3):
        archive.install("django_formula.request.ask", path)


@pytest.mark.parametrize("part", [0.0, 0.5, 0.999])
def test_program_that_was_cut_off_is_not_whole(tmp_path, part):
    path = tmp_path / "ask.pyz"
    assert not archive.is_whole(path)
    archive.install("django_formula.request.ask", path)
    assert archive.is_whole(path)
    os.truncate(path, int(path.stat().st_size * part))
    assert not archive.is_whole(path)


#: A program that imports a module only after it has waited.
WAITS = """
import sys
def main():
    print("waits", flush=True)
    sys.stdin.readline()
    from django_formula.one import late
    return late.CODE
"""


@pytest.mark.parametrize("is_compiled", [False, True])
def test_program_that_is_replaced_while_it_runs_goes_on_with_its_own_modules(tmp_path, monkeypatch, is_compiled):
    """A backup waits for another one, maybe for minutes, before it imports what runs commands of the project."""

    def install(more):
        texts = {"__init__": "", "one/__init__": "", "one/waits": more + WAITS, "one/late": "CODE = 7"}
        for name, text in texts.items():
            (package / f"{name}.py").write_text(text)
        archive.packed.cache_clear()
        if is_compiled:
            archive.install("django_formula.one.waits", program)
        else:
            file.write(program, archive.packed("django_formula.one.waits"))

    package, program = tmp_path / "django_formula", tmp_path / "waits.pyz"
    (package / "one").mkdir(parents=True)
    monkeypatch.setattr(archive, "_PACKAGE", package)
    install("")
    argv = ["/usr/bin/python3", "-I", program]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "waits\n"
        install("# the next version has more lines\n" * 100)
        process.communicate("\n")
    archive.packed.cache_clear()
    assert process.returncode == 7
