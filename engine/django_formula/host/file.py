"""Read and write files in folders that only root may change: completely or not at all, even if power fails."""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from django_formula.host import commands, proc, users
from django_formula.untrusted import shapes


def write(
    path: Path,
    content: str | bytes,
    *,
    mode: int = 0o644,
    user: str = "root",
    group: str = "root",
    durable: bool = True,
) -> None:
    """Write a file completely or not at all, even if power fails.

    Args:
        durable: whether the file is on disk on return; False for a new release, which is synced before its activation.
    """
    temporary, descriptor = _new_temporary(path)
    with open(descriptor, "wb") as file:
        try:
            if (user, group) != ("root", "root") or not os.geteuid():  # that of a master as `salt` is its own
                os.fchown(descriptor, users.user_id(user), users.group_id(group))
            os.fchmod(descriptor, mode)
            file.write(content.encode(errors="surrogateescape") if isinstance(content, str) else content)
            file.flush()
            if durable:
                os.fsync(descriptor)
            temporary.replace(path)
        except OSError:  # a full disk, of which it would keep the rest
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    if durable:
        sync_folder(path.parent)


def _new_temporary(path: Path) -> tuple[Path, int]:
    """Create a file next to another one, locked as long as it is open; another process may be writing the same one."""
    number = 0
    while True:
        temporary = path.with_name(f".{path.name}.{number}.new" if number else f".{path.name}.new")
        number += 1
        if _is_in_use(temporary):
            continue
        with contextlib.suppress(FileExistsError):  # of a process that has been faster
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            if _is_locked(descriptor, temporary):
                return temporary, descriptor
            os.close(descriptor)


def _is_in_use(temporary: Path) -> bool:
    """Return whether a process is writing a temporary file; remove the one of a process that was killed."""
    try:
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:  # a link
        temporary.unlink(missing_ok=True)
        return False
    try:
        if not _is_locked(descriptor, temporary):
            return True
        temporary.unlink(missing_ok=True)
        return False
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int, path: Path) -> bool:
    """Lock an open file, and return whether this process has the lock, and the file still has its path."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError):
            return False  # else the file system has no locks
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def checksum(text: str) -> str:
    """Return the checksum of a text."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def is_temporary(path: Path) -> bool:
    """Return whether a file is a leftover of `write` or `link`, whose process was killed."""
    return path.name.startswith(".") and path.name.endswith(".new")


def sha256(file: BinaryIO) -> str:
    """Return the checksum of what is left of a file, in hexadecimal."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def in_memory(content: bytes) -> io.BufferedRandom:
    """Return a file that is in memory only, at its beginning; a child with its descriptor can read and write it."""
    memory = open(os.memfd_create("django-formula", os.MFD_CLOEXEC), "w+b")  # noqa: SIM115 - the caller closes it
    memory.write(content)
    memory.flush()
    memory.seek(0)
    return memory


def write_json(path: Path, value: Any, **options: Any) -> None:
    """Write a value as JSON, as `write` does."""
    write(path, json.dumps(value, indent=1, sort_keys=True) + "\n", **options)


def read_json(path: Path, shape: Any = None) -> dict[str, Any] | None:
    """Return the object in a JSON file, or None if it is missing, damaged or of another shape."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and (shape is None or shapes.fits(value, shape)) else None


def with_checksum(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with a checksum of itself under ``sum``."""
    value = json.loads(json.dumps({name: one for name, one in values.items() if name != "sum"}))
    return {**value, "sum": checksum(json.dumps(value, sort_keys=True))}


def read_verified(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file if its checksum (`with_checksum`) is right, or an empty one."""
    value = read_json(path) or {}
    return value if value and value.get("sum") == with_checksum(value)["sum"] else {}


def read_text(path: Path) -> str | None:
    """Return the text of a file, whatever its bytes and the locale are, or None if it is missing."""
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None


def decoded(content: bytes) -> str:
    """Return the text of a file of a project: UTF-8, or what its byte order mark says, as PowerShell writes files."""
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    return content.decode(encoding, errors="replace")


def read_untrusted(path: Path, limit: int = 1 << 20, *, follow: bool = True) -> bytes:
    """Return the beginning of a regular file that users other than root may have created, or empty bytes.

    It neither blocks on a FIFO nor reads `/dev/zero` without a limit.

    Args:
        follow: whether the path may be a symbolic link.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError):
        return b""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return b""
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(descriptor)


def append(path: Path, line: str, *, mode: int) -> None:
    """Append a line to a file and sync it; an incomplete last line is completed by a line break first."""
    is_new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(descriptor, "a+b") as file:
        os.fchmod(file.fileno(), mode)
        end = file.seek(0, os.SEEK_END)
        is_complete = not end or os.pread(file.fileno(), 1, end - 1) == b"\n"
        file.write(f"{'' if is_complete else chr(10)}{line}\n".encode())
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def link(path: Path, target: str, *, durable: bool = True) -> None:
    """Make a link point to a target in one rename, even if power fails.

    Args:
        durable: as for `write`.
    """
    temporary = path.with_name(f".{path.name}.new")
    while not _is_linked(path, temporary, target):  # another process makes the same link at the same time
        pass
    if durable:
        sync_folder(path.parent)


def _is_linked(path: Path, temporary: Path, target: str) -> bool:
    """Rename a new link to a path; return False where another process has taken or renamed it meanwhile."""
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target)
    except FileExistsError:
        return False
    try:
        temporary.replace(path)
    except FileNotFoundError:
        return False
    return True


def sync_content(path: Path) -> None:
    """Sync a file that another process has written: its content is on disk on return."""
    _sync(path, os.O_NOFOLLOW)


def sync_folder(path: Path) -> None:
    """Sync a folder: what was created, renamed or deleted in it is on disk on return."""
    _sync(path, os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Sync the file system of a folder: a new release is written to disk at once, see docs/decisions/0041.

    Raises:
        DeploymentError: syncing fails.
    """
    commands.run(["sync", "--file-system", str(path)], doing=f"writing {path.name} to the disk")


def remove_tree(path: Path) -> None:
    """Delete a file, a link or a tree, if it exists; what another process deletes meanwhile is no failure.

    systemd deletes the runtime folder of a unit shortly after `systemctl stop` has returned, for example.

    Raises:
        OSError: something is mounted at or below the path; then nothing is deleted.
    """
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    elif path.exists():
        if mounted := proc.mounted_within(path):
            raise OSError(errno.EBUSY, "something is mounted there", str(mounted[0]))
        try:
            shutil.rmtree(path, onerror=_raise_unless_missing)
        except RecursionError:  # rm needs no stack frame per folder, and does not follow links either
            commands.run(["rm", "-rf", "--", str(path)], doing=f"deleting {path}", timeout=600)


def remove_whole(path: Path) -> None:
    """Delete as `remove_tree` does, a tree under another name, so that half of it is never taken for the whole.

    What is left where this process is killed is found by `removed`.

    Raises:
        OSError: something is mounted at or below the path; then nothing is deleted.
    """
    is_tree = path.is_dir() and not path.is_symlink() and path not in removed(path.parent)
    if is_tree and not proc.mounted_within(path):
        gone = path.with_name(f".{path.name}.gone")
        remove_tree(gone)
        try:
            path = path.rename(gone)
        except OSError as error:
            if error.errno != errno.EXDEV:  # overlayfs renames no folder that is in a container's image
                raise
    remove_tree(path)


def removed(folder: Path) -> list[Path]:
    """Return what is left in a folder of trees that `remove_whole` has not deleted to the end, as it was killed."""
    return sorted(folder.glob(".*.gone"))


def _raise_unless_missing(_function: object, _path: str, raised: tuple[type, BaseException, object]) -> None:
    if not isinstance(raised[1], FileNotFoundError):
        raise raised[1]
