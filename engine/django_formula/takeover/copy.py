"""Copy the data of an existing deployment by two processes: one of its owner reads, one of the site's user writes.

Root opens none of it: the owner can put links and FIFOs there, and controls what SQLite does with its database (a hot
journal names files that SQLite deletes). Only a stream of bytes goes from one process to the other.
"""

import contextlib
import os
import pwd
import select
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django_formula.host import commands, file, folders
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site
from django_formula.untrusted import shapes

#: Bytes of the errors that the programs print.
_ERRORS = 4096
_PYTHON = ["/usr/bin/python3", "-I", "-S", "-c"]

#: Write a database and its write-ahead log to the standard output, while it is locked. It stays locked until the
#: standard input is closed. Nothing that is opened here is closed earlier, because that would end the lock.
_HOLD = r"""
import os
import sqlite3
import stat
import struct
import sys
from urllib.parse import quote
path, patience = sys.argv[1], float(sys.argv[2])
out = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)
try:
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError("it is not a regular file")
    lock = sqlite3.connect("file:" + quote(path) + "?mode=rw", uri=True, timeout=patience, isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    lock.execute("SELECT count(*) FROM sqlite_master").fetchall()
    kept = []
    for name in (path, path + "-wal"):
        try:
            file = open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
        except FileNotFoundError:
            out.write(struct.pack(">q", -1))
            continue
        kept.append(file)
        left = os.fstat(file.fileno()).st_size
        out.write(struct.pack(">q", left))
        while left:
            part = file.read(min(left, 1 << 20))
            if not part:
                raise OSError("it has become shorter")
            out.write(part)
            left -= len(part)
    out.close()
except BrokenPipeError:  # the receiver reports why
    os._exit(1)
except (OSError, sqlite3.Error) as error:
    sys.exit(" ".join(str(error).split())[:300])
sys.stdin.buffer.read()
os._exit(0)
"""

#: Write what `_HOLD` sends to a database, complete and on disk, without a write-ahead log.
_TAKE = r"""
import contextlib
import os
import sqlite3
import struct
import sys
from urllib.parse import quote
path, most = sys.argv[1], int(sys.argv[2])
new = os.path.join(os.path.dirname(path), "." + os.path.basename(path) + ".adopted")
os.umask(0o027)
def remove(path):
    for ending in ("", "-journal", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + ending)
def exactly(size):
    parts = []
    while size:
        part = sys.stdin.buffer.read(min(size, 1 << 20))
        if not part:
            raise OSError("the existing database ended too early")
        size -= len(part)
        yield part
try:
    remove(new)
    for ending in ("", "-wal"):
        (size,) = struct.unpack(">q", b"".join(exactly(8)))
        if size > most:
            raise OSError("the existing database has grown")
        if size < 0:
            continue
        with open(os.open(new + ending, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640), "wb") as file:
            for part in exactly(size):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
    with contextlib.closing(sqlite3.connect("file:" + quote(new) + "?mode=rw", uri=True)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for ending in ("-journal", "-wal", "-shm"):
        if os.path.lexists(new + ending) and ending != "-shm" and os.path.getsize(new + ending):
            raise OSError("the write-ahead log cannot be applied")
    os.chmod(new, 0o640)
    remove(path)
    os.rename(new, path)
    remove(new)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
except (OSError, sqlite3.Error, struct.error) as error:
    with contextlib.suppress(OSError):
        remove(new)
    sys.exit(" ".join(str(error).split())[:300])
"""

#: Write the regular files below a folder to the standard output; links are neither followed nor copied.
_SEND = r"""
import os
import stat
import sys
import tarfile
top = sys.argv[1]
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|", format=tarfile.PAX_FORMAT) as tar:
    for parent, _folders, files, folder in os.fwalk(top, follow_symlinks=False):
        for name in files:
            try:
                descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            except OSError as error:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    sys.exit("%s: %s" % (os.path.join(parent, name), error.strerror))
                continue
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if stat.S_ISREG(status.st_mode):
                    entry = tarfile.TarInfo(os.path.relpath(os.path.join(parent, name), top))
                    entry.size, entry.mtime = status.st_size, status.st_mtime
                    tar.addfile(entry, file)
"""

#: Write what `_SEND` sends to a folder, without files that are there and not older.
_RECEIVE = r"""
import os
import shutil
import sys
import tarfile
top = sys.argv[1]
os.umask(0o027)
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
    for entry in tar:
        parts = entry.name.split("/")
        if not entry.isreg() or entry.name.startswith("/") or {"", ".", ".."} & {*parts}:
            continue
        folder = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in parts[:-1]:
                try:
                    os.mkdir(part, 0o750, dir_fd=folder)
                except FileExistsError:
                    pass
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = below
            name, new = parts[-1], ".adopted.new"
            try:
                if os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime >= entry.mtime:
                    continue
            except FileNotFoundError:
                pass
            try:
                os.unlink(new, dir_fd=folder)
            except FileNotFoundError:
                pass
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with open(os.open(new, flags, 0o640, dir_fd=folder), "wb") as file:
                shutil.copyfileobj(tar.extractfile(entry), file, 1 << 20)
                file.flush()
                os.utime(file.fileno(), (entry.mtime, entry.mtime))
            os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
        except NotADirectoryError:
            continue
        finally:
            os.close(folder)
"""

#: Print the bytes that would be copied; fail if a file cannot be read.
_MEASURE = r"""
import os
import stat
import sys
size = 0
for top in sys.argv[1:]:
    status = os.lstat(top)
    size += status.st_size if stat.S_ISREG(status.st_mode) else 0
    is_folder = stat.S_ISDIR(status.st_mode)
    for _parent, _folders, files, folder in os.fwalk(top, follow_symlinks=False) if is_folder else ():
        for name in files:
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISREG(status.st_mode):
                size += status.st_size
                if not os.access(name, os.R_OK, dir_fd=folder):
                    sys.exit("%s: Permission denied" % os.path.join(_parent, name))
sys.stdout.write(str(size))
"""


def identity(owner: tuple[int, int] | None, path: Path) -> dict[str, Any]:
    """Return the identity that opens a path of an existing deployment: of its processes; if that is root, of the path.

    Args:
        owner: uid and gid of its processes.

    Returns:
        Arguments of `subprocess.Popen`; none for root.

    Raises:
        DeploymentError: the path is root's, but in a folder that another user can write.
    """
    uid, gid = owner or (0, 0)
    if not uid:
        status = os.lstat(path)
        uid, gid = status.st_uid, status.st_gid
    if not uid:
        folders.refuse_unsafe_parents(path)
        return {}
    groups = [gid]
    with contextlib.suppress(KeyError):
        entry = pwd.getpwuid(uid)
        groups = os.getgrouplist(entry.pw_name, gid)
    return {"user": uid, "group": gid, "extra_groups": groups}


class LockedDatabase:
    """A database of an existing deployment that is locked against writes, from before it is copied until `unlock`.

    Args:
        as_user: the identity that opens it (`identity`).
        timeout: seconds to wait for the lock.
    """

    def __init__(self, path: Path, as_user: dict[str, Any], timeout: float):
        self.path = path
        self._process = _start(
            [_HOLD, str(path), f"{timeout:g}"], as_user, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def copy(self, site: Site, new: Path, most: int, timeout: float) -> None:
        """Copy it as the site's user; a file that is already there is replaced.

        Args:
            most: bytes that the copy may have.
            timeout: seconds that copying may take.

        Raises:
            DeploymentError: the database cannot be locked or read, or the copy cannot be written.
        """
        process = self._process
        stream = process.stdout
        if not stream:
            raise RuntimeError("the database was copied before")
        receiver = _start([_TAKE, str(new), str(most)], commands.identity(site.user), stdin=stream)
        stream.close()
        error = _end(receiver, timeout)
        if process.poll() is not None or (error and _has_exited(process)):
            own = _end(process, 1) or "the process that locks it has ended"
            error = error if error and own.startswith("exit ") else own
        if error:
            raise DeploymentError(error, transient=True)

    def unlock(self) -> None:
        """Allow other processes to write again."""
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        _end(self._process, 5)


def _has_exited(process: "subprocess.Popen[bytes]") -> bool:
    """Return whether a process exits within a second."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)
    return process.poll() is not None


def copy_files(site: Site, old: Path, as_user: dict[str, Any], new: Path, timeout: float) -> None:
    """Copy the regular files below a folder to a folder of the site's user, without those that are there and not older.

    Raises:
        DeploymentError: one cannot be read or written.
    """
    sender = _start([_SEND, str(old)], as_user, stdout=subprocess.PIPE)
    receiver = _start([_RECEIVE, str(new)], commands.identity(site.user), stdin=sender.stdout)
    if sender.stdout:
        sender.stdout.close()
    deadline = time.monotonic() + timeout
    written = _end(receiver, timeout)
    error = _end(sender, max(deadline - time.monotonic(), 1)) or written
    if error:
        raise DeploymentError(
            f"the existing uploads {old} cannot be copied: {error}",
            hint="correct that and apply again; the existing deployment still serves",
            transient=True,
        )


def measure(paths: list[Path], as_user: dict[str, Any], timeout: float) -> int:
    """Return the bytes of files, and of the files below folders.

    Raises:
        DeploymentError: one cannot be read.
    """
    process = _start([_MEASURE, *map(str, paths)], as_user, stdout=subprocess.PIPE)
    text = b""
    with contextlib.closing(process.stdout) if process.stdout else contextlib.nullcontext() as stream:
        if stream and select.select([stream], [], [], timeout)[0]:
            text = os.read(stream.fileno(), 64)
    error = _end(process, 5)
    doing = "measuring the existing data"
    if error:
        raise DeploymentError(f"{doing}: {error}", transient=True)
    size: int = shapes.parse(text.decode(errors="replace"), int, doing=doing)
    return size


def copy_as_owner(path: Path, target: Path, timeout: float) -> None:
    """Copy a file, link or tree to another file system, as the user that it belongs to.

    Its owner could exchange entries meanwhile: as root, `cp` would follow them to files that the owner may not read.

    Args:
        target: a path that does not exist, in a folder that only root can write.

    Raises:
        DeploymentError: the owner cannot read an entry, or there is not enough room.
    """
    status = os.lstat(path)
    owner = (status.st_uid, status.st_gid)
    folder = target.with_name(f".{target.name}.new")
    file.remove_tree(folder)
    folder.mkdir(mode=0o700)
    try:
        os.chown(folder, *owner)
        argv = ["cp", "--archive", "--", str(path), "."]
        as_user = identity(owner, path)
        if not as_user:
            _refuse_foreign_folders(path)
        process = _spawn(argv, as_user, cwd=str(folder))
        error = _end(process, timeout)
        if error:
            raise DeploymentError(
                f"{path} is on another file system than {target.parent} and cannot be copied as its owner: {error}",
                hint=f"move {path} away on the command line, then apply again",
                transient=True,
            )
        os.chown(folder, os.getuid(), os.getgid())
        os.rename(folder / path.name, target)
    finally:
        file.remove_tree(folder)


def _refuse_foreign_folders(path: Path) -> None:
    """Refuse a tree of root in which another user can exchange entries."""
    for parent, _folders, _files, descriptor in os.fwalk(path, follow_symlinks=False):
        status = os.fstat(descriptor)
        if status.st_uid or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise DeploymentError(
                f"{path} is on another file system and is not copied as root: other users can write in {parent}",
                hint=f"move {path} away on the command line, then apply again",
                transient=True,
            )


def _start(argv: list[str], as_user: dict[str, Any], **streams: Any) -> "subprocess.Popen[bytes]":
    return _spawn([*_PYTHON, *argv], as_user, **streams)


def _spawn(argv: list[str], as_user: dict[str, Any], *, cwd: str = "/", **streams: Any) -> "subprocess.Popen[bytes]":
    environment = {"PATH": commands.PATH, "LANG": "C.UTF-8"}
    return subprocess.Popen(  # noqa: S603 - an argument list, never a shell
        argv,
        stdin=streams.get("stdin", subprocess.DEVNULL),
        stdout=streams.get("stdout", subprocess.DEVNULL),
        stderr=subprocess.PIPE,
        env=environment,
        cwd=cwd,
        start_new_session=True,
        umask=0o027,
        **as_user,
    )


def _end(process: "subprocess.Popen[bytes]", timeout: float) -> str:
    """Wait until a process exits; returns its error, or that it timed out; empty if it succeeded."""
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"timed out after {timeout:g} s"
    finally:
        text = "\n".join(_last_error(process))
    return "" if process.returncode == 0 else (text or f"exit {process.returncode}")


def _last_error(process: "subprocess.Popen[bytes]") -> Iterator[str]:
    """Yield the last line of the errors of a process that has exited, without waiting for a child that it left."""
    if process.stderr and not process.stderr.closed:
        os.set_blocking(process.stderr.fileno(), False)
        with contextlib.suppress(OSError):
            lines = (os.read(process.stderr.fileno(), _ERRORS)).decode(errors="replace").splitlines()
            yield from [line[:300] for line in lines if line.strip()][-1:]
        process.stderr.close()
