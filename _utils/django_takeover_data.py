"""The data of an old site, copied by two processes: one of its owner reads it, one of the new site's user writes it.

Root opens nothing in between: the old owner may put links and FIFOs there, and decides what SQLite does with a database
of its own (a hot journal names files that are deleted). What goes from one process to the other is a stream of bytes.
"""

import contextlib
import os
import pwd
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django_host_command
import django_host_folder
import django_wall_shape
from django_host_command import DeploymentError
from django_site import Site

#: Bytes of what the programs print of errors, and of an answer.
_ERRORS = 4096
_PYTHON = ["/usr/bin/python3", "-I", "-S", "-c"]

#: The names and bytes of a database and its write-ahead log go to the standard output, while it is locked.
#: It stays locked until the standard input is closed. Nothing that is opened here is closed before: that ends the lock.
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
        raise OSError("it is no plain file")
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
except BrokenPipeError:  # the other one says why
    os._exit(1)
except (OSError, sqlite3.Error) as error:
    sys.exit(" ".join(str(error).split())[:300])
sys.stdin.buffer.read()
os._exit(0)
"""

#: What `_HOLD` sends becomes a database: whole, on the disk, without a log beside it.
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
            raise OSError("the old site's database ended too early")
        size -= len(part)
        yield part
try:
    remove(new)
    for ending in ("", "-wal"):
        (size,) = struct.unpack(">q", b"".join(exactly(8)))
        if size > most:
            raise OSError("the old site's database has become larger")
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
            raise OSError("the write-ahead log cannot be taken over")
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

#: The plain files below a folder go to the standard output; links are not followed, and not taken over.
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

#: What `_SEND` sends goes into a folder, where it is not there, or is older.
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

#: The bytes that are copied.
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
            size += status.st_size if stat.S_ISREG(status.st_mode) else 0
sys.stdout.write(str(size))
"""


def identity(owner: tuple[int, int] | None, path: Path) -> dict[str, Any]:
    """Return as whom a path of the old site is opened: as who runs it; as the path's owner where that is root.

    Args:
        owner: uid and gid of its processes.

    Raises:
        DeploymentError: it is root's own, below a folder of somebody else.
    """
    uid, gid = owner or (0, 0)
    if not uid:
        status = os.lstat(path)
        uid, gid = status.st_uid, status.st_gid
    if not uid:
        django_host_folder.refuse_unsafe_parents(path, "the path of the old site")
        return {}
    groups = [gid]
    with contextlib.suppress(KeyError):
        entry = pwd.getpwuid(uid)
        groups = os.getgrouplist(entry.pw_name, gid)
    return {"user": uid, "group": gid, "extra_groups": groups}


class Held:
    """A database of the old site that nobody else writes to, from before it is copied until it is let go.

    Args:
        who: as whom it is opened (`identity`).
    """

    def __init__(self, path: Path, who: dict[str, Any], patience: float):
        self.path = path
        self._process = _start([_HOLD, str(path), f"{patience:g}"], who, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def copy(self, site: Site, new: Path, most: int, timeout: float) -> None:
        """Have the site's user write the copy; whatever it had there before is replaced.

        Raises:
            DeploymentError: the database cannot be locked or read, or the copy cannot be written.
        """
        process = self._process
        stream = process.stdout
        if not stream:
            raise RuntimeError("the database has been copied")
        taker = _start([_TAKE, str(new), str(most)], django_host_command.identity(site.user), stdin=stream)
        stream.close()
        error = _end(taker, timeout)
        if process.poll() is not None or (error and _is_over(process)):
            own = _end(process, 1) or "the process that locks it has ended"
            error = error if error and own.startswith("exit ") else own
        if error:
            raise DeploymentError(error, transient=True)

    def let_go(self) -> None:
        """Let others write again."""
        with contextlib.suppress(OSError):
            if self._process.stdin:
                self._process.stdin.close()
        _end(self._process, 5)


def _is_over(process: "subprocess.Popen[bytes]") -> bool:
    """Whether a process ends by itself within a moment."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1)
    return process.poll() is not None


def copy_files(site: Site, old: Path, who: dict[str, Any], new: Path, timeout: float) -> None:
    """Bring the plain files below a folder of the old site into one of the site's user, where they are newer.

    Raises:
        DeploymentError: one cannot be read or written.
    """
    sender = _start([_SEND, str(old)], who, stdout=subprocess.PIPE)
    taker = _start([_RECEIVE, str(new)], django_host_command.identity(site.user), stdin=sender.stdout)
    if sender.stdout:
        sender.stdout.close()
    deadline = time.monotonic() + timeout
    written = _end(taker, timeout)
    error = _end(sender, max(deadline - time.monotonic(), 1)) or written
    if error:
        raise DeploymentError(
            f"the old site's uploads {old} cannot be copied: {error}", hint="the old site serves on", transient=True
        )


def measure(paths: list[Path], who: dict[str, Any], timeout: float) -> int:
    """Return the bytes of files and of what is below folders.

    Raises:
        DeploymentError: one cannot be looked at.
    """
    process = _start([_MEASURE, *map(str, paths)], who, stdout=subprocess.PIPE)
    text = b""
    with contextlib.closing(process.stdout) if process.stdout else contextlib.nullcontext() as stream:
        if stream and select.select([stream], [], [], timeout)[0]:
            text = os.read(stream.fileno(), 64)
    error = _end(process, 5)
    doing = "looking at the old site's data"
    if error:
        raise DeploymentError(f"{doing}: {error}", transient=True)
    size: int = django_wall_shape.parse(text.decode(errors="replace"), int, doing=doing)
    return size


def _start(argv: list[str], who: dict[str, Any], **streams: Any) -> "subprocess.Popen[bytes]":
    environment = {"PATH": django_host_command.PATH, "LANG": "C.UTF-8"}
    return subprocess.Popen(  # noqa: S603 - an argument list, never a shell
        [*_PYTHON, *argv],
        stdin=streams.get("stdin", subprocess.DEVNULL),
        stdout=streams.get("stdout", subprocess.DEVNULL),
        stderr=subprocess.PIPE,
        env=environment,
        cwd="/",
        start_new_session=True,
        umask=0o027,
        **who,
    )


def _end(process: "subprocess.Popen[bytes]", timeout: float) -> str:
    """Wait for the end of a process; what it has said of an error, or that its time was up; empty where all is well."""
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"timed out after {timeout:g} s"
    finally:
        text = "\n".join(_said(process))
    return "" if process.returncode == 0 else (text or f"exit {process.returncode}")


def _said(process: "subprocess.Popen[bytes]") -> Iterator[str]:
    """The last line that an ended process has printed of errors; one that it has left behind is not waited for."""
    if process.stderr and not process.stderr.closed:
        os.set_blocking(process.stderr.fileno(), False)
        with contextlib.suppress(OSError):
            lines = (os.read(process.stderr.fileno(), _ERRORS)).decode(errors="replace").splitlines()
            yield from [line[:300] for line in lines if line.strip()][-1:]
        process.stderr.close()
