"""Trees of less trusted users: links are not followed out of them, reading is limited, races are lost."""

import contextlib
import hashlib
import os
import pwd
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from django_formula.host.commands import DeploymentError
from django_formula.untrusted.foreign import GROUP, PUBLIC, Foreign

as_root = pytest.mark.skipif(os.getuid() != 0, reason="left out: files are given to others, which needs root")
NOBODY = pwd.getpwnam("nobody").pw_uid
US = (os.getuid(), os.getgid())


@pytest.fixture
def outside(tmp_path):
    """A file that nothing may reach."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "file").write_text("canary")
    return path


@pytest.fixture
def top(tmp_path, outside):
    path = tmp_path / "tree"
    (path / "inner/deep").mkdir(parents=True)
    (path / "file").write_text("text")
    (path / "inner/deep/file").write_text("deep")
    (path / "link").symlink_to("inner/deep/file")
    (path / "inner/up").symlink_to("../file")
    (path / "folder").symlink_to("inner")
    (path / "out").symlink_to("../outside/file")
    (path / "absolute").symlink_to(outside / "file")
    (path / "escape").symlink_to(outside)
    (path / "round").symlink_to("round")
    (path / "zero").symlink_to("/dev/zero")
    os.mkfifo(path / "fifo")
    with socket.socket(socket.AF_UNIX) as one:
        here = os.getcwd()
        os.chdir(path)  # the name of a socket is short
        one.bind("socket")
        os.chdir(here)
    return path


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("file", "text"),
        ("link", "deep"),
        ("inner/up", "text"),
        ("folder/deep/file", "deep"),
        ("folder/../file", None),
        ("out", None),
        ("absolute", None),
        ("escape/file", None),
        ("round", None),
        ("zero", None),
        ("fifo", None),
        ("socket", None),
        ("inner", None),
        ("file/below", None),
        ("missing", None),
        ("x" * 300, None),
    ],
)
def test_only_regular_files_of_the_tree_are_read(top, path, text):
    if ".." in path:
        with pytest.raises(DeploymentError, match="is not a path below"):
            Foreign(top) / path
    else:
        assert (Foreign(top) / path).text() == text


def test_reading_is_limited(top):
    (top / "large").write_bytes(b"x" * 1001)
    with pytest.raises(DeploymentError, match="has more than 1000 bytes"):
        (Foreign(top) / "large").read(1000)
    assert (Foreign(top) / "large").read(1001) == b"x" * 1001


def test_foreign_path_is_refused_by_python(top):
    with pytest.raises(TypeError):
        os.stat(Foreign(top) / "file")  # type: ignore[call-overload]
    with pytest.raises(RuntimeError, match="root does not open"):
        Foreign(top).path  # noqa: B018


def test_kinds_of_entries(top):
    tree = Foreign(top)
    assert tree.is_folder() and (tree / "file").is_file() and (tree / "link").is_link() and (tree / "fifo").exists()
    assert not (tree / "folder").is_folder() and not (tree / "link").is_file()
    assert not (tree / "folder/deep").exists()  # through a link
    assert (tree / "inner").names() == ["deep", "up"] and (tree / "folder").names() == (tree / "none").names() == []


def test_links_are_not_followed_for_changes(top, outside):
    tree = Foreign(top)
    for change in (
        lambda: (tree / "escape/new").write("x", mode=0o644, owner=US),
        lambda: (tree / "escape/new").link("x"),
        lambda: (tree / "escape/new/er").make_folder(mode=0o755, owner=US),
        lambda: (tree / "escape/file").remove(),
    ):
        with pytest.raises(DeploymentError, match="a folder on the way is a link or a file"):
            change()
    (tree / "out").write("new", mode=0o640, owner=US)
    assert (top / "out").read_text() == "new" and not (top / "out").is_symlink()
    (tree / "escape").remove()
    (tree / "inner").remove()
    (tree / "none").remove()
    assert not (top / "inner").exists() and os.listdir(outside) == ["file"]
    assert (outside / "file").read_text() == "canary"


def test_deeply_nested_tree_is_deleted(tmp_path):
    deep = tmp_path / "tree/top"
    deep.mkdir(parents=True)
    program = "import os\nfor number in range(3000): os.mkdir('d'), os.chdir('d')"
    subprocess.run([sys.executable, "-c", program], cwd=deep, check=True)
    Foreign(tmp_path / "tree", "top").remove()
    assert os.listdir(tmp_path / "tree") == []


def test_tree_gets_owner_and_modes(tmp_path):
    top = tmp_path / "tree"
    (top / "inner").mkdir(parents=True, mode=0o777)
    for name, mode in {"plain": 0o666, "program": 0o4777, "inner/set": 0o2755}.items():
        (top / name).write_text(name)
        (top / name).chmod(mode)
    os.chmod(top / "inner", 0o2777)
    (top / "link").symlink_to("/etc/shadow")
    os.setxattr(top / "plain", "user.note", b"x") if _has_attributes(top) else None
    before = os.stat("/etc/shadow")
    Foreign(top).give(US, GROUP, of=US[0])
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in [top, *top.rglob("*")] if not path.is_symlink()}
    assert modes == {"tree": 0o750, "inner": 0o750, "plain": 0o640, "program": 0o750, "set": 0o750}
    assert os.listxattr(top / "plain") == [] and os.stat("/etc/shadow") == before
    Foreign(top).give(US, None, of=US[0])
    assert stat.S_IMODE((top / "program").stat().st_mode) == 0o750


def _has_attributes(path: Path) -> bool:
    try:
        os.setxattr(path, "user.note", b"x")
    except OSError:
        return False
    return True


def test_file_with_hard_links_or_writers_is_copied(tmp_path):
    top = tmp_path / "tree"
    top.mkdir()
    (top / "linked").write_text("linked")
    os.link(top / "linked", tmp_path / "kept")
    linked = (tmp_path / "kept").stat()
    (top / "open").write_text("open")
    with open(top / "open", "r+") as held:
        Foreign(top).give(US, PUBLIC, of=US[0])
        held.write("EVIL")
    (tmp_path / "kept").write_text("EVIL")
    assert (tmp_path / "kept").stat().st_ino == linked.st_ino and (top / "linked").stat().st_ino != linked.st_ino
    assert (top / "linked").read_text() == "linked" and (top / "open").read_text() == "open"
    assert sorted(os.listdir(top)) == ["linked", "open"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fifo", "is neither a file nor a folder nor a link"),
        ("socket", "is neither a file"),
        ("link", r"is a link \(to "),
    ],
)
def test_special_files_are_refused(top, name, message):
    for path in ("fifo", "socket", *("link", "out", "absolute", "escape", "round", "zero", "folder", "inner/up")):
        if path != name:
            (top / path).unlink()
    with pytest.raises(DeploymentError, match=message):
        Foreign(top).give(US, PUBLIC, of=US[0], links=False)


@as_root
def test_entries_of_other_users_are_refused(top, outside):
    os.link(outside / "file", top / "stolen")
    with pytest.raises(DeploymentError, match=r"belongs to uid 0, not to 12345"):
        Foreign(top).give((NOBODY, NOBODY), PUBLIC, of=12345)
    assert (outside / "file").stat().st_uid == 0


@pytest.mark.parametrize("name", ["notes", "n" * 255], ids=["usual", "longest"])
@pytest.mark.parametrize("is_folder", [False, True], ids=["file", "folder"])
def test_what_has_the_temporary_name_of_a_file_is_no_obstacle(tmp_path, name, is_folder):
    for left in (".notes.new", f".{hashlib.sha256(f'.{name}.new'.encode()).hexdigest()}.new"):
        (tmp_path / left / "below").mkdir(parents=True) if is_folder else (tmp_path / left).write_text("left")
    owner = (os.geteuid(), os.getegid())
    (Foreign(tmp_path) / name).write("new", mode=0o600, owner=owner)
    assert (tmp_path / name).read_text() == "new"


_SWAP = """
import os, sys
folder, away, target = sys.argv[1:]
while True:
    os.rename(folder, away)
    os.symlink(target, folder)
    os.unlink(folder)
    os.rename(away, folder)
"""


@as_root
def test_replaced_folder_is_not_followed(tmp_path):
    """The tree's user keeps replacing a folder by a link; what is outside stays root's."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "secret").write_text("canary")
    (target / "secret").chmod(0o600)
    top = tmp_path / "tree"
    (top / "a/b").mkdir(parents=True)
    for number in range(30):
        (top / f"a/b/{number}").write_text("x")
    (tmp_path / "away").mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", _SWAP, str(top / "a/b"), str(tmp_path / "away/b"), str(target)]
    ) as swap:
        done = dict.fromkeys(("gave", "took", "wrote", "read", "removed"), 0)
        for _round in range(100):
            time.sleep(0.005)
            for name, change in {
                "gave": lambda: Foreign(top).give((NOBODY, NOBODY), PUBLIC, of=0),
                "took": lambda: Foreign(top).give((0, 0), PUBLIC, of=NOBODY),
                "wrote": lambda: (Foreign(top) / "a/b/new").write("x", mode=0o644, owner=(NOBODY, NOBODY)),
                "read": lambda: (Foreign(top) / "a/b/0").read() == b"x" or 1 / 0,
                "removed": lambda: (Foreign(top) / "a/b/new").remove(),
            }.items():
                with contextlib.suppress(DeploymentError, OSError, ZeroDivisionError):  # it fails, and nothing else
                    change()
                    done[name] += 1
        assert swap.poll() is None
        swap.kill()
    assert all(done.values()), done
    assert os.listdir(target) == ["secret"] and (target / "secret").stat().st_uid == 0
    assert stat.S_IMODE((target / "secret").stat().st_mode) == 0o600 and target.stat().st_uid == 0
