"""Files that root writes completely or not at all."""

import contextlib
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from django_formula.host import file as host_file


def test_file_is_synced_before_and_after_its_rename(own_host, monkeypatch):
    """The content is on disk before the name leads to it, and the name before anything goes on."""
    order = []
    sync, replace, give = os.fsync, Path.replace, os.fchown
    modes = []
    monkeypatch.setattr(
        os, "fchown", lambda file, *ids: modes.append(os.fstat(file).st_mode & 0o777) or give(file, *ids)
    )
    monkeypatch.setattr(os, "fsync", lambda file: order.append(os.readlink(f"/proc/self/fd/{file}")) or sync(file))
    monkeypatch.setattr(Path, "replace", lambda path, to: order.append((str(path), str(to))) or replace(path, to))
    path, new = own_host / "site.json", own_host / ".site.json.new"
    host_file.write(path, "grüße\n", mode=0o640, user="root", group="blog")
    assert order == [str(new), (str(new), str(path)), str(own_host)]
    assert path.read_text() == "grüße\n" and stat.S_IMODE(path.stat().st_mode) == 0o640
    assert modes == [0o600], "nobody else reads it before it has its owner"
    host_file.write(path, b"bytes")
    assert path.read_bytes() == b"bytes" and stat.S_IMODE(path.stat().st_mode) == 0o644
    order.clear()
    host_file.link(own_host / "current", "releases/0001")
    assert order == [(str(own_host / ".current.new"), str(own_host / "current")), str(own_host)]
    assert os.readlink(own_host / "current") == "releases/0001"


@pytest.mark.parametrize("what", ["file", "link"])
def test_interrupted_write_leaves_the_old_file(own_host, monkeypatch, what):
    path, new = own_host / "one", own_host / ".one.new"

    def put(content):
        host_file.link(path, content) if what == "link" else host_file.write(path, content)

    put("old")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lambda *_: os.kill(os.getpid(), 0) or (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            put("new")
    assert (os.readlink(path) if what == "link" else path.read_text()) == "old"
    assert os.path.lexists(new)
    put("newer")
    assert (os.readlink(path) if what == "link" else path.read_text()) == "newer"
    assert not os.path.lexists(new)


@pytest.mark.parametrize("fails", ["fsync", "fchmod"])
def test_write_that_fails_leaves_no_part_of_its_file(tmp_path, monkeypatch, fails):
    def is_full(*_arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, fails, is_full)
    with pytest.raises(OSError, match="No space left"):
        host_file.write(tmp_path / "x", "y" * 100)
    assert [*tmp_path.iterdir()] == []


def test_write_replaces_a_link_without_following_it(own_host):
    target = own_host / "target"
    target.write_text("untouched")
    for name in ("one", ".one.new"):
        (own_host / name).symlink_to(target)
    host_file.write(own_host / "one", "content")
    assert target.read_text() == "untouched" and not (own_host / "one").is_symlink()


WHOLE = b'{\n "key": "value"\n}\n'


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (WHOLE, {"key": "value"}),
        (b"", None),
        (WHOLE[: len(WHOLE) // 2], None),
        (WHOLE[:-2], None),
        (WHOLE + b"garbage", None),
        (b"\0" * len(WHOLE), None),
        (b"\xff\xfe", None),
        (b'["a list"]', None),
        (None, None),
    ],
    ids=["whole", "empty", "half", "all but its end", "garbage behind", "zeros", "not utf-8", "a list", "missing"],
)
def test_damaged_json_is_read_as_none(own_host, content, expected):
    path = own_host / "record.json"
    if content is not None:
        path.write_bytes(content)
    assert host_file.read_json(path) == expected


def test_written_json_is_read(own_host):
    value = {"text": "ü\n\0", "list": [1, 2.5, None, True]}
    host_file.write_json(own_host / "record.json", value)
    assert host_file.read_json(own_host / "record.json") == value
    assert host_file.read_text(own_host / "no such file") is None


def test_tree_is_removed_without_following_links(own_host):
    (own_host / "outside").mkdir()
    (own_host / "tree").mkdir()
    (own_host / "tree/link").symlink_to(own_host / "outside")
    (own_host / "link").symlink_to(own_host / "outside")
    for name in ("tree", "link", "missing"):
        host_file.remove_tree(own_host / name)
    assert not os.path.lexists(own_host / "tree") and not os.path.lexists(own_host / "link")
    assert (own_host / "outside").is_dir()


def test_what_another_process_deletes_meanwhile_is_removed_without_failure(own_host, monkeypatch):
    """systemd deletes a runtime folder after `systemctl stop` has returned."""
    (own_host / "tree/inner").mkdir(parents=True)
    rmtree = host_file.shutil.rmtree

    def late(path, **options):
        rmtree(path)
        return rmtree(path, **options)

    monkeypatch.setattr(host_file.shutil, "rmtree", late)
    host_file.remove_tree(own_host / "tree")
    assert not (own_host / "tree").exists()


def test_what_cannot_be_deleted_is_reported(own_host, monkeypatch):
    (own_host / "tree").mkdir()

    def stuck(path, onerror):
        onerror(os.rmdir, str(path), (OSError, OSError(errno.EPERM, "Operation not permitted", str(path)), None))

    monkeypatch.setattr(host_file.shutil, "rmtree", stuck)
    with pytest.raises(OSError, match="Operation not permitted"):
        host_file.remove_tree(own_host / "tree")


def test_nothing_is_deleted_where_something_is_mounted(own_host):
    (own_host / "tree/uploads").mkdir(parents=True)
    (own_host / "tree/uploads/photo.jpg").touch()
    (own_host / "tree/other").touch()
    (own_host / "proc/self").mkdir()
    (own_host / "proc/self/mountinfo").write_text(f"5 1 0:5 / {own_host}/tree/uploads rw - nfs4 files1:/export rw\n")
    for name in ("tree", "tree/uploads"):
        with pytest.raises(OSError, match="something is mounted there") as error:
            host_file.remove_tree(own_host / name)
        assert error.value.errno == errno.EBUSY and error.value.filename == str(own_host / "tree/uploads")
    host_file.remove_tree(own_host / "tree/other")
    assert (own_host / "tree/uploads/photo.jpg").exists()


def test_tree_of_an_image_is_deleted_in_its_place(own_host, monkeypatch):
    """overlayfs renames no folder that is in a lower layer: EXDEV, as to another disk."""

    def refuse(path, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link", str(path), None, str(target))

    (own_host / "release/source").mkdir(parents=True)
    monkeypatch.setattr(Path, "rename", refuse)
    host_file.remove_whole(own_host / "release")
    assert not (own_host / "release").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_process_of_another_user_writes_files_of_its_own(tmp_path):
    """A master of Salt's packages runs as `salt`, and so does its store."""
    folder = tmp_path / "store"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    tmp_path.chmod(0o711)
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.setgroups([])
            os.setgid(65534)
            os.chdir(folder)
            os.setuid(65534)
            host_file.write_json(Path("hosts.json"), {"web1": ["app"]}, mode=0o600)
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    status = (folder / "hosts.json").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65534, 0o600)


@pytest.mark.parametrize("what", ["file", "link"])
def test_two_processes_write_one_file_at_the_same_time(own_host, what):
    """Two schedules that begin at a boot each record what they found, without a common lock."""
    path, rounds = own_host / "one", 150
    texts = [str(number) * 5000 if what == "file" else str(number) * 200 for number in range(3)]

    def write(text):
        for _round in range(rounds):
            host_file.link(path, text) if what == "link" else host_file.write(path, text)
            found = os.readlink(path) if what == "link" else path.read_text()
            assert found in texts, f"{len(found)} characters"

    children = []
    for text in texts:
        if not (child := os.fork()):
            try:
                write(text)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert [entry.name for entry in own_host.iterdir() if "one" in entry.name] == ["one"]


def test_link_in_a_folder_that_is_missing_is_an_error(own_host):
    with pytest.raises(FileNotFoundError):
        host_file.link(own_host / "missing/one", "target")


def test_text_is_what_was_written_whatever_the_locale_is(tmp_path):
    """As with LANG=de_DE, which is ISO-8859-1: what is the same would be changed by each apply."""
    program = r"""
import sys
from pathlib import Path
from django_formula.host import config_files, file
text, path = "# Written by django-formula: \u00dc\n", Path(sys.argv[1])
file.write(path, text)
print(sys.flags.utf8_mode, file.read_text(path) == text, config_files.differences({path: text}))
"""
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(Path(host_file.__file__).parents[2])}
    argv = [sys.executable, "-X", "utf8=0", "-c", program, str(tmp_path / "text")]
    done = subprocess.run(argv, env={**os.environ, **locale}, capture_output=True, text=True, check=False)
    assert done.stdout == "0 True {}\n", done.stderr
