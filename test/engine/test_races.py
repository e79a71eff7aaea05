"""Races over trees of others, 100 rounds of each: an attacker with the tree's uid is at work, and wins none.

What the attacker would like: a file of root outside to be given, written, read or deleted, or a way to write to a file
after it has become root's.
"""

import contextlib
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django_formula.host.commands import DeploymentError
from django_formula.untrusted.foreign import GROUP, OWN, PUBLIC, Foreign

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="left out: an attacker with another uid, which needs root"),
    pytest.mark.slow,  # real processes that race or are waited for
]
NOBODY = pwd.getpwnam("nobody").pw_uid
ROUNDS = 100
PYTHON = "/usr/bin/python3"  # one that another user may run

#: Exchanges each folder of the tree for a link to the victims, in one step, for ever; the names below are the same.
FLIP = """
import ctypes, os
exchange = ctypes.CDLL(None).renameat2
names = [b"sub%d" % number for number in range(4)]
os.mkdir("ready")
while True:
    for deep in (b"tree/deep/", b"tree/"):
        for name in names:
            exchange(-100, deep + name, -100, b"links/" + name, 2)
"""
#: Waits until root owns a file that all users may still write to, opens it for writing, and writes on a signal.
OPEN = """
import os, sys, time
number = 0
while number < %d:
    path, held = "tree%%d/inner/file" %% number, []
    while not os.path.exists("given%%d" %% number):
        try:
            if os.stat(path).st_uid == 0:
                held.append(os.open(path, os.O_RDWR))
                break
        except OSError:
            pass
    while not os.path.exists("given%%d" %% number):
        time.sleep(0.001)
    for one in held:
        os.pwrite(one, b"EVIL", 0)
        os.close(one)
    open("written%%d" %% number, "w").close()
    number += 1
"""


@pytest.fixture
def signals() -> Iterator[list[int]]:
    """The received signals that would end a process: a broken lease sends SIGIO."""
    came: list[int] = []
    former = signal.signal(signal.SIGIO, lambda number, _frame: came.append(number))
    yield came
    signal.signal(signal.SIGIO, former)


@contextlib.contextmanager
def attacker(program: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program as the user `nobody` in a folder until the block ends."""
    identity = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    with subprocess.Popen([PYTHON, "-I", "-c", program], cwd=folder, **identity) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def ground(tmp_path):
    """Return a folder of `nobody` with a tree, and with links to files of root, and those files."""
    victims = tmp_path / "victims"
    victims.mkdir()
    for number in range(25):
        (victims / f"f{number}").write_text("root's")
        (victims / f"f{number}").chmod(0o600)
    top = tmp_path / "ground"
    for deep in ("tree/deep", "tree"):
        for number in range(4):
            (top / deep / f"sub{number}").mkdir(parents=True)
            for file in range(25):
                (top / deep / f"sub{number}" / f"f{file}").write_text("mine")
    (top / "links").mkdir()
    for number in range(4):
        (top / f"links/sub{number}").symlink_to(victims)
    give_all(top)
    return top


def give_all(top: Path) -> None:
    for path in [top, *top.rglob("*")]:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def state(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        text = path.read_text() if path.is_file() else ""
        found[str(path)] = (status.st_uid, status.st_gid, status.st_mode, text)
    return found


def changes(tree: Foreign) -> dict[str, object]:
    """What root does in a foreign tree, by name."""
    entry = tree / "deep/sub1/new"
    return {
        "give to root": lambda: tree.give((0, 0), GROUP, of=NOBODY),
        "give to its user": lambda: tree.give((NOBODY, NOBODY), OWN, of=0),
        "write": lambda: entry.write("evil", mode=0o666, owner=(NOBODY, NOBODY)),
        "write over": lambda: (tree / "deep/sub2/f3").write("evil", mode=0o666, owner=(NOBODY, NOBODY)),
        "make folder": lambda: (tree / "deep/sub3/new/er").make_folder(mode=0o777, owner=(NOBODY, NOBODY)),
        "link": lambda: (tree / "sub2/new").link("/etc/shadow"),
        "remove": lambda: (tree / "deep/sub0").remove(),
        "remove a file": lambda: (tree / "sub1/f7").remove(),
        "read": lambda: (tree / "deep/sub1/f1").text(),
        "names": lambda: (tree / "sub3").names(),
    }


@pytest.mark.parametrize("change", changes(Foreign(Path("/nonexistent"))))
def test_nothing_outside_changes_while_links_replace_folders(ground, change):
    tree, before = Foreign(ground / "tree"), state(ground.parent / "victims")
    done = 0
    with attacker(FLIP, ground) as process:
        while not (ground / "ready").exists():
            time.sleep(0.01)
        rounds = 0
        while rounds < ROUNDS or (not done and rounds < 50 * ROUNDS):
            rounds += 1
            answer = None
            with contextlib.suppress(DeploymentError, OSError):
                answer = changes(tree)[change]()  # type: ignore[operator]
                done += 1
            assert answer != "root's"
            if change.startswith("remove"):
                with contextlib.suppress(OSError):
                    folder = ground / "tree/deep/sub0"
                    folder.mkdir()
                    os.chown(folder, NOBODY, NOBODY)
            if change == "give to root":  # so that the attacker goes on
                with contextlib.suppress(DeploymentError, OSError):
                    tree.give((NOBODY, NOBODY), OWN, of=0)
        assert process.poll() is None
    assert state(ground.parent / "victims") == before
    assert done or change.startswith("give")


@pytest.mark.parametrize("modes", [PUBLIC, GROUP, None], ids=["public", "group", "kept"])
@pytest.mark.parametrize("opened_by", ["mode", "access list"])
def test_file_is_not_writable_once_root_owns_it(tmp_path, signals, modes, opened_by):
    """A file that everybody may write is given to root: who opens it a moment later has no way to write to it."""
    for number in range(ROUNDS):
        inner = tmp_path / f"tree{number}/inner"
        inner.mkdir(parents=True)
        (inner / "file").write_text("mine")
        (inner / "file").chmod(0o666 if opened_by == "mode" else 0o600)
        if opened_by == "access list":
            set_acl(inner / "file")
        give_all(tmp_path / f"tree{number}")
    os.chmod(tmp_path, 0o777)
    evil = 0
    waiting = (OPEN % ROUNDS).replace('open("written%d" % number, "w").close()', "pass")
    with attacker(OPEN % ROUNDS, tmp_path) as process, attacker(waiting, tmp_path):
        time.sleep(0.1)
        for number in range(ROUNDS):
            Foreign(tmp_path / f"tree{number}").give((0, 0), modes, of=NOBODY)
            (tmp_path / f"given{number}").touch()
            deadline = time.monotonic() + 60
            while not (tmp_path / f"written{number}").exists():
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.001)
            evil += "EVIL" in (tmp_path / f"tree{number}/inner/file").read_text()
    assert not evil, f"{evil} of {ROUNDS}"
    assert not signals, f"{len(signals)} of {ROUNDS} times SIGIO, which ends root's process"


def set_acl(path: Path) -> None:
    import struct

    everybody = 0xFFFFFFFF
    entries = ((1, 6, everybody), (2, 6, NOBODY), (4, 6, everybody), (16, 6, everybody), (32, 0, everybody))
    try:
        acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
        os.setxattr(path, "system.posix_acl_access", acl)
    except OSError:
        pytest.skip("left out: this file system has no access lists")


#: Opens every file to write for a moment, again and again.
KNOCK = """
import os
os.mkdir("ready")
while True:
    for number in range(50):
        try:
            os.close(os.open("tree/file%d" % number, os.O_RDWR | os.O_NONBLOCK))
        except OSError:
            pass
"""


def test_broken_lease_does_not_end_root(tmp_path, signals):
    (tmp_path / "tree").mkdir(mode=0o777)
    for number in range(50):
        (tmp_path / f"tree/file{number}").write_text("mine")
    os.chmod(tmp_path, 0o777)
    with attacker(KNOCK, tmp_path), attacker(KNOCK.replace('os.mkdir("ready")', ""), tmp_path):
        wait_for(tmp_path / "ready")
        for _round in range(ROUNDS):
            for number in range(50):
                (tmp_path / f"tree/file{number}").chmod(0o666)
            give_all(tmp_path / "tree")
            with contextlib.suppress(DeploymentError, OSError):
                Foreign(tmp_path / "tree").give((0, 0), None, of=NOBODY)
    assert not signals, f"{len(signals)} of {50 * ROUNDS} times SIGIO, which ends root's process"


MAPPED = """
import mmap, os, time
descriptor = os.open("tree/file", os.O_RDWR)
area = mmap.mmap(descriptor, 4096)
os.close(descriptor)
os.mkdir("ready")
while not os.path.exists("given"):
    time.sleep(0.001)
area[:4] = b"EVIL"
area.flush()
os.mkdir("written")
time.sleep(10)
"""


def test_file_that_is_mapped_to_memory_is_replaced(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_bytes(b"m" * 4096)
    give_all(tmp_path / "tree")
    os.chmod(tmp_path, 0o777)
    with attacker(MAPPED, tmp_path):
        wait_for(tmp_path / "ready")
        Foreign(tmp_path / "tree").give((0, 0), PUBLIC, of=NOBODY)
        (tmp_path / "given").touch()
        wait_for(tmp_path / "written")
    assert (tmp_path / "tree/file").read_bytes() == b"m" * 4096


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.005)


#: Replaces a link by a file of root, which is in a folder of the attacker.
RENAME = """
import os
os.mkdir("ready")
while True:
    try:
        os.unlink("tree/entry")
    except OSError:
        pass
    try:
        os.rename("own/secret", "tree/entry")
        os.rename("tree/entry", "own/secret")
    except OSError:
        pass
    try:
        os.symlink("x", "tree/entry")
    except OSError:
        pass
"""


def test_file_of_root_instead_of_a_link_keeps_its_owner(tmp_path, signals):
    """Root's files may lie in folders of the site's user, who may rename them."""
    for folder in ("tree", "own"):
        (tmp_path / folder).mkdir()
        os.chown(tmp_path / folder, NOBODY, NOBODY)
    (tmp_path / "own/secret").write_text("root's")
    (tmp_path / "own/secret").chmod(0o600)
    os.chmod(tmp_path, 0o777)
    won = 0
    with attacker(RENAME, tmp_path):
        wait_for(tmp_path / "ready")
        for _round in range(20 * ROUNDS):
            with contextlib.suppress(DeploymentError, OSError):
                Foreign(tmp_path / "tree").give((NOBODY, NOBODY), OWN, of=NOBODY)
            for path in (tmp_path / "own/secret", tmp_path / "tree/entry"):
                with contextlib.suppress(OSError):
                    status = path.lstat()
                    if (status.st_mode & 0o170000) == 0o100000 and status.st_uid:
                        won += 1
            if won:
                break
    assert not won
