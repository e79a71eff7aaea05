"""Hostile data: an existing database and uploads whose owner attacks the process that reads them, a SQLite file."""

import contextlib
import os
import pwd
import shutil
import sqlite3
import struct
import tempfile
import time
from pathlib import Path

import pytest
from django_formula.database import sqlite
from django_formula.host import commands, folders, users
from django_formula.host.commands import DeploymentError
from django_formula.site import sites
from django_formula.takeover import copy
from django_formula.untrusted import handover
from django_formula.untrusted.foreign import Foreign, Modes
from specimen import configured

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="left out: other identities are taken, which needs root")

#: Debian's own user and group of the attacker, and of the site.
EVIL, SITE = "games", "nobody"
MODES = Modes(0o750, 0o640, 0o640)


@pytest.fixture
def shelf(monkeypatch):
    """A folder that every user reaches: a tree of the attacker's, one of the site's, and a file of root's alone."""
    top = Path(tempfile.mkdtemp(dir="/tmp"))
    top.chmod(0o755)
    for name, user in (("old", EVIL), ("new", SITE), ("root", "root")):
        (top / name).mkdir()
        shutil.chown(top / name, user)
    (top / "root").chmod(0o700)
    (top / "root/secret").write_text("the secret")
    (top / "run").mkdir()
    identity = commands.identity
    monkeypatch.setattr(commands, "identity", lambda user: identity(SITE))
    user_id = users.user_id
    monkeypatch.setattr(users, "user_id", lambda name: user_id(name if name == "root" else SITE))
    monkeypatch.setattr(sites, "RUNTIME", top / "run")
    yield top
    shutil.rmtree(top)


@pytest.fixture
def site(shelf):
    return configured()


def database(path, user, mode="delete"):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode={mode}")
        connection.execute("CREATE TABLE django_migrations (app, name)")
        connection.execute("INSERT INTO django_migrations VALUES ('blog', '0001')")
        connection.commit()
    shutil.chown(path, user)
    return path


def who(path):
    entry = pwd.getpwnam(EVIL)
    return copy.identity((entry.pw_uid, entry.pw_gid), path)


def hot_journal(path, victim):
    """A journal that SQLite plays back when it opens the database, and that names another file as its super-journal."""
    name = str(victim).encode()
    pages = os.path.getsize(path) // 4096
    header = bytes.fromhex("d9d505f920a163d7") + struct.pack(">IIIII", 0, 7, pages, 512, 4096)
    record = struct.pack(">I", (1 << 30) // 4096 + 1) + name + struct.pack(">II", len(name), sum(name))
    journal = Path(f"{path}-journal")
    journal.write_bytes(header.ljust(512, b"\0") + record + bytes.fromhex("d9d505f920a163d7"))
    shutil.chown(journal, EVIL)


def test_hot_journal_deletes_no_file_of_root(shelf, site):
    """As found: root's SQLite, opening the database writable, deleted the file that the journal names."""
    old, victim = database(shelf / "old/db.sqlite3", EVIL), shelf / "root/secret"
    hot_journal(old, victim)
    with contextlib.closing(sqlite3.connect(old)) as connection:
        connection.execute("SELECT * FROM django_migrations").fetchall()
    assert not victim.exists(), "the journal does what the attacker wants, where root opens the database"
    victim.write_text("the secret")
    hot_journal(old, victim)
    held = copy.LockedDatabase(old, who(old), 1)
    with contextlib.suppress(DeploymentError):
        held.copy(site, shelf / "new/db.sqlite3", 1 << 20, 10)
    held.unlock()
    assert victim.read_text() == "the secret"


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_database_copied_with_its_write_ahead_log(shelf, site, mode):
    old, new = database(shelf / "old/db.sqlite3", EVIL, mode), shelf / "new/db.sqlite3"
    with contextlib.closing(sqlite3.connect(old, isolation_level=None)) as writer:
        writer.execute("INSERT INTO django_migrations VALUES ('blog', '0002')")
        for ending in ("-wal", "-shm"):
            if os.path.exists(f"{old}{ending}"):
                shutil.chown(f"{old}{ending}", EVIL)
        held = copy.LockedDatabase(old, who(old), 1)
        held.copy(site, new, 1 << 24, 10)
        with (
            pytest.raises(sqlite3.OperationalError, match="locked"),
            contextlib.closing(sqlite3.connect(old, timeout=0)) as other,
        ):
            other.execute("INSERT INTO django_migrations VALUES ('too', 'late')")
        held.unlock()
        writer.execute("INSERT INTO django_migrations VALUES ('blog', '0003')")
    assert sorted(path.name for path in new.parent.iterdir()) == ["db.sqlite3"]
    assert (new.stat().st_uid, new.stat().st_mode & 0o777) == (pwd.getpwnam(SITE).pw_uid, 0o640)
    assert sqlite.applied(site, new) == {"blog.0001", "blog.0002"}


@pytest.mark.parametrize("kind", ["fifo", "link", "zero", "root's"])
def test_copy_refused_for_anything_but_database_of_owner(shelf, site, kind):
    path = shelf / "old/db.sqlite3"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "root's":
        path.symlink_to(database(shelf / "root/db.sqlite3", "root"))
    else:
        path.symlink_to({"link": shelf / "root/secret", "zero": "/dev/zero"}[kind])
    held, began = copy.LockedDatabase(path, who(path), 1), time.monotonic()
    with pytest.raises(DeploymentError):
        held.copy(site, shelf / "new/db.sqlite3", 1 << 20, 10)
    held.unlock()
    assert time.monotonic() - began < 60 and list((shelf / "new").iterdir()) == []


def test_copy_refused_when_database_exceeds_disk(shelf, site):
    old = database(shelf / "old/db.sqlite3", EVIL)
    os.truncate(old, 1 << 40)  # sparse
    held = copy.LockedDatabase(old, who(old), 1)
    with pytest.raises(DeploymentError, match="has grown"):
        held.copy(site, shelf / "new/db.sqlite3", 1 << 20, 10)
    held.unlock()
    assert list((shelf / "new").iterdir()) == []


def test_uploads_copied_without_links(shelf, site):
    old, new = shelf / "old/media", shelf / "new"
    (old / "2026").mkdir(parents=True)
    (old / "2026/photo").write_text("a photo")
    (old / "2026/older").write_text("older")
    os.utime(old / "2026/older", (1, 1))
    (old / "secret").symlink_to(shelf / "root/secret")
    (old / "folder").symlink_to(shelf / "root")
    os.mkfifo(old / "fifo")
    (old / "zero").symlink_to("/dev/zero")
    (old / "root's").write_text("not readable")
    (old / "root's").chmod(0o600)
    (new / "2026").mkdir()
    (new / "2026/older").write_text("newer")
    (new / "2026/photo").symlink_to(shelf / "root/secret")
    os.utime(new / "2026/photo", (1, 1), follow_symlinks=False)
    for path in [*old.rglob("*"), old, *new.rglob("*")]:
        os.lchown(path, pwd.getpwnam(SITE if path.is_relative_to(new) else EVIL).pw_uid, -1)
    copy.copy_files(site, old, who(old), new, 10)
    assert sorted(str(path.relative_to(new)) for path in new.rglob("*")) == [
        "2026",
        "2026/older",
        "2026/photo",
        "root's",
    ]
    assert not (new / "2026/photo").is_symlink() and (new / "2026/photo").read_text() == "a photo"
    assert (new / "2026/older").read_text() == "newer" and (shelf / "root/secret").read_text() == "the secret"
    assert {path.lstat().st_uid for path in new.rglob("*")} == {pwd.getpwnam(SITE).pw_uid}
    assert copy.measure([old], who(old), 10) == len("a photooldernot readable")
    shutil.chown(old / "root's", "root")
    with pytest.raises(DeploymentError, match=r"cannot be copied: .*root's: Permission denied"):
        copy.copy_files(site, old, who(old), new, 10)


def test_tree_is_copied_to_another_file_system_as_its_owner(shelf):
    tree, target = shelf / "old/source", shelf / "root/source"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner/code.py").write_text("x = 1")
    (tree / "link").symlink_to(shelf / "root/secret")
    for path in (tree, tree / "inner", tree / "inner/code.py"):
        shutil.chown(path, EVIL, EVIL)
    copy.copy_as_owner(tree, target, 10)
    assert (target / "inner/code.py").read_text() == "x = 1" and (target / "link").is_symlink()
    assert {path.lstat().st_uid for path in (target, *target.rglob("*"))} == {pwd.getpwnam(EVIL).pw_uid}
    assert sorted(path.name for path in target.parent.iterdir()) == ["secret", "source"]


def test_tree_with_a_file_that_its_owner_cannot_read_is_not_copied(shelf):
    """Its owner has a hard link to a file of root's, or exchanges a folder for a link while it is copied."""
    tree = shelf / "old/source"
    tree.mkdir()
    (tree / "secret").write_text("of root")
    (tree / "secret").chmod(0o600)
    shutil.chown(tree, EVIL)
    with pytest.raises(DeploymentError, match=r"cannot be copied as its owner: .*secret.*Permission denied") as error:
        copy.copy_as_owner(tree, shelf / "root/source", 10)
    assert error.value.hint == f"move {tree} away on the command line, then apply again"
    assert [path.name for path in (shelf / "root").iterdir()] == ["secret"] and (tree / "secret").exists()


def test_tree_of_root_is_not_copied_when_another_user_can_write_in_it(shelf, monkeypatch):
    monkeypatch.setattr(folders, "refuse_unsafe_parents", lambda path, key="": None)
    tree = shelf / "root/source"
    (tree / "media").mkdir(parents=True)
    (shelf / "root").chmod(0o755)
    copy.copy_as_owner(tree, shelf / "root/first", 10)
    assert (shelf / "root/first/media").is_dir()
    shutil.chown(tree / "media", EVIL)
    with pytest.raises(DeploymentError, match=f"other users can write in {tree}/media"):
        copy.copy_as_owner(tree, shelf / "root/second", 10)
    assert not (shelf / "root/second").exists()


def test_tree_in_use_handed_over_and_taken_back(shelf):
    """A process that has a file open keeps it; links are not followed."""
    top = shelf / "new/data"
    (top / "below").mkdir(parents=True)
    (top / "below/file").write_text("x")
    (top / "link").symlink_to(shelf / "root/secret")
    (top / "folder").symlink_to(shelf / "root")
    os.mkfifo(top / "fifo")
    evil, ours = pwd.getpwnam(EVIL), pwd.getpwnam(SITE)
    for path in (top, *top.rglob("*")):
        os.lchown(path, evil.pw_uid, evil.pw_gid)
    before = {path: path.lstat() for path in (top, *top.rglob("*"))}
    with open(top / "below/file", "a") as held:
        had = handover.hand_over(Foreign(top), (ours.pw_uid, ours.pw_gid), MODES, of={evil.pw_uid})
        held.write("y")
    assert (top / "below/file").read_text() == "xy"
    for path in (top, top / "below", top / "below/file"):
        assert path.lstat().st_uid == ours.pw_uid
    secret = (shelf / "root/secret").stat()
    assert (secret.st_uid, secret.st_mode & 0o777) == (0, 0o644)
    handover.take_back(Foreign(top), had)
    after = {path: path.lstat() for path in (top, *top.rglob("*"))}
    assert {path: (one.st_uid, one.st_gid, one.st_mode) for path, one in after.items()} == {
        path: (one.st_uid, one.st_gid, one.st_mode) for path, one in before.items()
    }


def test_file_of_root_keeps_its_owner(shelf):
    top = shelf / "new/data"
    top.mkdir()
    evil, ours = pwd.getpwnam(EVIL), pwd.getpwnam(SITE)
    shutil.chown(top, EVIL)
    (top / "dump").write_text("of root's")
    tree, owner = Foreign(top), (ours.pw_uid, ours.pw_gid)
    with pytest.raises(
        DeploymentError, match=r"data/dump belongs to uid 0, neither to the old site nor to the new one"
    ):
        handover.hand_over(tree, owner, MODES, of={evil.pw_uid})
    with pytest.raises(DeploymentError, match="belongs to uid 0"):  # as a dry run looks at it
        handover.check(tree, of={evil.pw_uid, ours.pw_uid})
    handover.hand_over(tree, owner, MODES, of={evil.pw_uid}, strict=False)
    assert (top / "dump").stat().st_uid == 0


def test_upload_that_the_old_user_cannot_read_is_found_by_measuring(shelf):
    top = shelf / "new/data"
    (top / "below").mkdir(parents=True)
    (top / "below/photo").write_text("x" * 100)
    evil = pwd.getpwnam(EVIL)
    for path in (top, *top.rglob("*")):
        os.lchown(path, evil.pw_uid, evil.pw_gid)
    identity = copy.identity((evil.pw_uid, evil.pw_gid), top)
    assert copy.measure([top], identity, 10) == 100
    (top / "below/photo").chmod(0)
    with pytest.raises(DeploymentError, match=r"measuring the existing data: .*below/photo: Permission denied"):
        copy.measure([top], identity, 10)


# The migrations in a SQLite file of a site


def hostile(path, kind, shelf):
    """A file of the site's user that is no database like others."""
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "an endless view":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT 'a' app, x name FROM n"
            connection.execute(f"CREATE VIEW django_migrations AS {endless}")
            connection.commit()
    elif kind == "endless rows":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE django_migrations (app, name)")
            rows = (("x" * 500, f"{number}{'y' * 500}") for number in range(30_000))
            connection.executemany("INSERT INTO django_migrations VALUES (?, ?)", rows)
            connection.commit()
    elif kind == "a column that never ends":
        with contextlib.closing(sqlite3.connect(path)) as connection:
            never = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
            connection.execute("CREATE TABLE django_migrations (app, name)")
            connection.execute(f"CREATE VIEW v AS {never}")
            connection.execute("INSERT INTO django_migrations VALUES ('a', 'b')")
            connection.execute("DROP TABLE django_migrations")
            connection.execute(f"CREATE VIEW django_migrations AS SELECT 'a' app, ({never}) name")
            connection.commit()
    elif kind == "a journal that names root's file":
        database(path, SITE)
        hot_journal(path, shelf / "root/secret")
    os.lchown(path, pwd.getpwnam(SITE).pw_uid, -1)


KINDS = [
    "a FIFO",
    "a device",
    "an endless view",
    "endless rows",
    "a column that never ends",
    "a journal that names root's file",
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_hostile_file_limited_in_time_and_memory(shelf, site, kind):
    path = shelf / "new/db.sqlite3"
    hostile(path, kind, shelf)
    began = time.monotonic()
    names = sqlite.applied(site, path)
    assert time.monotonic() - began < 60
    assert len(names) <= 20_000 and all(len(name) < 600 for name in names)
    assert kind in ("endless rows",) or names <= {"blog.0001"}
    assert (shelf / "root/secret").read_text() == "the secret"


def test_unchanged_database_read_once(shelf, site, monkeypatch):
    path = database(shelf / "new/db.sqlite3", SITE)
    os.utime(path, (1, 1))
    time.sleep(0.12)
    assert sqlite.applied(site, path) == {"blog.0001"}
    assert site.schema.stat().st_mode & 0o777 == 0o600
    with monkeypatch.context() as patched:
        patched.setattr(sqlite, "_read", lambda *_: pytest.fail("it is read again"))
        assert sqlite.applied(site, path) == {"blog.0001"}
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO django_migrations VALUES ('blog', '0002')")
    assert sqlite.applied(site, path) == {"blog.0001", "blog.0002"}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"files": []}', '{"files": {"x": 1}}', '{"files": {"%s": {"names": [1]}}}']
)
def test_damaged_cache_is_not_used(shelf, site, text):
    path = database(shelf / "new/db.sqlite3", SITE)
    site.schema.write_text(text.replace("%s", str(path)))
    assert sqlite.applied(site, path) == {"blog.0001"}


def test_database_read_as_site_user(shelf, site):
    path = database(shelf / "root/db.sqlite3", SITE)
    assert sqlite.applied(site, path) == set(), "only root may go there"


# Paths below a folder of another user


@pytest.mark.parametrize(
    ("owner", "mode", "way"),
    [(EVIL, 0o755, "chown root:"), ("root", 0o777, "chmod go-w"), ("root", 0o1777, "chmod go-w"), ("root", 0o755, "")],
)
def test_root_below_folder_of_another_user_refused(owner, mode, way):
    """Its owner could replace the site's root by another folder, in which root would then write."""
    top = Path(tempfile.mkdtemp(dir="/srv"))
    top.chmod(0o755)
    try:
        (top / "sites").mkdir()
        shutil.chown(top / "sites", owner, "root")
        (top / "sites").chmod(mode)
        (top / "link").symlink_to(top / "sites")
        for path in (top / "sites/blog", top / "link/blog", top / "sites/not/there/yet"):
            if not way and path.parent.name != "link":
                folders.refuse_unsafe_parents(path, "django:sites:blog:root")
            elif way:
                with pytest.raises(DeploymentError, match="could replace the folders below it") as error:
                    folders.refuse_unsafe_parents(path, "django:sites:blog:root")
                assert f"{way} {top}/sites" in error.value.hint
    finally:
        shutil.rmtree(top)
