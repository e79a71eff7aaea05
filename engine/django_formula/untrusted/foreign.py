"""Trees whose entries a less trusted user decides: only this module, and `untrusted.handover`, open what is in them.

A `Foreign` path is not a `pathlib.Path` and cannot be passed to `open`, `os` or `shutil`; mypy and Python both refuse
it. Everything is opened relative to the descriptor of its folder. Links are never followed out of the tree, nor where
something is changed. Nothing blocks on a FIFO or reads `/dev/zero` without a limit. See docs/decisions/0047.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from django_formula.host import commands
from django_formula.host.commands import DeploymentError

#: The most bytes of a file, entries of a folder or a tree, and nested folders that are read.
BYTES, ENTRIES, DEPTH = 4 << 20, 1_000_000, 100
#: The most links that are followed to a file that is read, as in the kernel.
_LINKS = 40
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: How a file or a folder is opened: no link is followed, and nothing blocks.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
#: Bytes of a name.
_NAME = 255
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

#: A uid and a gid.
Owner = tuple[int, int]


class Modes(NamedTuple):
    """The modes of a tree: of folders, files, and files that their owner may execute."""

    folder: int
    file: int
    program: int


#: Modes for trees that all users may read, that owner and group may read, and that only the owner may read.
PUBLIC, GROUP, OWN = Modes(0o755, 0o644, 0o755), Modes(0o750, 0o640, 0o750), Modes(0o700, 0o600, 0o700)
#: Modes for files that all users may read and none executes.
SERVED = Modes(0o755, 0o644, 0o644)


class Trust:
    """Whether this process runs as root; `untrusted.delegate` sets it to False in its processes."""

    is_root = True


class Foreign:
    """A path in a tree whose entries a less trusted user decides.

    Args:
        top: the tree, in a folder that only root may write to: other users cannot replace it by a link.
        parts: the names below it.
    """

    __slots__ = ("parts", "top")

    def __init__(self, top: Path, *parts: str):
        self.top = top
        self.parts = parts

    def __truediv__(self, path: str) -> "Foreign":
        """Return the path below this one.

        Raises:
            DeploymentError: the path is absolute or has `..`.
        """
        names = [name for name in path.split("/") if name not in ("", ".")]
        if path.startswith("/") or ".." in names or "\0" in path:
            raise DeploymentError(f"{path!r} is not a path below {self}")
        return Foreign(self.top, *self.parts, *names)

    def __str__(self) -> str:
        """Return the path as text, for arguments of commands, configuration files and messages."""
        return os.path.join(self.top, *self.parts)

    def __repr__(self) -> str:
        return f"Foreign({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Foreign) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.parts[-1] if self.parts else self.top.name

    @property
    def parent(self) -> "Foreign":
        """The folder of the path."""
        return Foreign(self.top, *self.parts[:-1])

    @property
    def path(self) -> Path:
        """The path, for a process with the rights of the tree's user (`untrusted.delegate.ask`).

        Raises:
            RuntimeError: this process runs as root.
        """
        if Trust.is_root:
            raise RuntimeError(f"root does not open {self} by its path")
        return Path(str(self))

    # Reading

    def status(self) -> os.stat_result | None:
        """Return the status of the path, of a link that of the link itself, or None if it does not exist."""
        if not self.parts:
            try:
                return os.lstat(self.top)
            except FileNotFoundError:
                return None
        try:
            with self._parent() as folder:
                return os.stat(self.name, dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                return None
            raise

    def exists(self) -> bool:
        """Return whether the path exists; a dangling link does."""
        return self.status() is not None

    def is_folder(self) -> bool:
        """Return whether it is a folder, not a link to one."""
        found = self.status()
        return found is not None and stat.S_ISDIR(found.st_mode)

    def is_file(self) -> bool:
        """Return whether it is a regular file, not a link to one."""
        found = self.status()
        return found is not None and stat.S_ISREG(found.st_mode)

    def is_link(self) -> bool:
        """Return whether it is a link."""
        found = self.status()
        return found is not None and stat.S_ISLNK(found.st_mode)

    def names(self) -> list[str]:
        """Return the names in the folder, sorted; none if it is not a folder.

        Raises:
            DeploymentError: it has more than `ENTRIES` entries.
        """
        try:
            with self._folder() as folder:
                return sorted(entries(folder, str(self)))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return []
            raise

    def read(self, limit: int = BYTES) -> bytes | None:
        """Return the content of a regular file, or None if it is not one; links inside the tree are followed.

        Raises:
            DeploymentError: it has more bytes than the limit.
        """
        descriptor = self._open_file()
        if descriptor is None:
            return None
        with open(descriptor, "rb", buffering=0) as file:
            content = bytearray()
            while part := file.read(min(1 << 20, limit + 1 - len(content))):
                content += part
                if len(content) > limit:
                    raise DeploymentError(f"{self} has more than {limit} bytes, the most that is read")
        return bytes(content)

    def begins_with(self, first: bytes) -> bool | None:
        """Return whether a regular file begins with some bytes, or None if it is not one."""
        descriptor = self._open_file()
        if descriptor is None:
            return None
        with open(descriptor, "rb", buffering=0) as file:
            return file.read(len(first)) == first

    def text(self, limit: int = BYTES) -> str | None:
        """Return the text of a regular file, whatever its bytes are, or None if it is not one; see `read`."""
        content = self.read(limit)
        return None if content is None else content.decode(errors="replace")

    def _open_file(self) -> int | None:
        """Open a regular file for reading; its parent folders stay open, because a link may contain `..`."""
        rest, links = list(self.parts), 0
        with contextlib.ExitStack() as stack:
            folders = [_opened(stack, self.top, None)]
            while rest:
                name = rest.pop(0)
                if name == "..":
                    if len(folders) == 1:
                        return None
                    folders.pop()
                    continue
                try:
                    descriptor = os.open(name, FILE, dir_fd=folders[-1])
                except OSError as error:
                    if error.errno == errno.ELOOP and links < _LINKS:
                        target = os.readlink(name, dir_fd=folders[-1])
                        if target.startswith("/"):
                            return None
                        links += 1
                        rest = [part for part in target.split("/") if part not in ("", ".")] + rest
                        continue
                    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG):
                        return None
                    raise
                mode = os.fstat(descriptor).st_mode
                if not rest and stat.S_ISREG(mode):
                    return descriptor
                stack.callback(os.close, descriptor)
                if not stat.S_ISDIR(mode):
                    return None
                folders.append(descriptor)
        return None

    # Changing

    def write(self, content: str | bytes, *, mode: int, owner: Owner) -> None:
        """Write a file completely or not at all; a link of that name is replaced.

        Raises:
            DeploymentError: a parent folder is missing or a link.
        """
        with self._replacement() as (folder, name):
            descriptor = os.open(name, _NEW, 0o600, dir_fd=folder)
            with open(descriptor, "wb") as file:
                os.fchown(descriptor, *owner)
                os.fchmod(descriptor, mode)
                file.write(content.encode(errors="surrogateescape") if isinstance(content, str) else content)

    def link(self, target: str) -> None:
        """Create a link in one rename; an existing entry that is not a folder is replaced.

        Raises:
            DeploymentError: a parent folder is missing or a link.
        """
        with self._replacement() as (folder, name):
            os.symlink(target, name, dir_fd=folder)

    def make_folder(self, *, mode: int, owner: Owner) -> None:
        """Create a folder and its parents; existing ones keep their owner and mode.

        Raises:
            DeploymentError: a component of the path is not a folder.
        """
        with contextlib.ExitStack() as stack:
            folder = _opened(stack, self.top, None)
            for name in self.parts:
                try:
                    os.mkdir(name, 0o700, dir_fd=folder)
                    is_new = True
                except FileExistsError:
                    is_new = False
                try:
                    folder = _opened(stack, name, folder)
                except OSError as error:
                    raise self._refused(error) from None
                if is_new:
                    os.fchown(folder, *owner)
                    os.fchmod(folder, mode)

    def share(self, target: Path) -> None:
        """Create a hard link to the file in a folder of root; the kernel refuses it for a symbolic link."""
        with self._parent() as folder:
            os.link(self.name, target, src_dir_fd=folder, follow_symlinks=False)

    def remove(self) -> None:
        """Delete a file, a link or a tree, if it exists.

        Raises:
            DeploymentError: a parent folder is a link, or entries are added while it is deleted.
        """
        if not self.parts:
            raise ValueError(f"{self} is the top of a tree")
        try:
            with self._parent() as folder:
                _remove(folder, self.name, str(self))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._refused(error) from None

    def give(self, owner: Owner, modes: Modes | None, *, of: int, links: bool = True) -> None:
        """Change the owner and the modes of a tree, and remove access lists and attributes.

        Folders come first, so that their former owner cannot add entries. A file that has another hard link, or that a
        process has open for writing, is replaced by a copy.

        Args:
            owner: the new owner.
            modes: the new modes; None keeps permissions without set-id and sticky bits and others' write permission.
            of: the uid of the present owner; entries of users other than this and the new one are refused.
            links: whether links are allowed; they change their owner too, and are never followed.

        Raises:
            DeploymentError: an entry is not a file, folder or link, or is owned by another user.
        """
        for count, (folder, name, status, path) in enumerate(self._walk_to_give(owner, modes, of)):
            if count >= ENTRIES:
                raise DeploymentError(f"{self} has more than {ENTRIES} entries")
            if stat.S_ISLNK(status.st_mode):
                if not links:
                    target = os.readlink(name, dir_fd=folder)
                    raise DeploymentError(f"{path} is a link (to {target[:200]})")
                _give_link(folder, name, path, owner, of)
            elif not stat.S_ISDIR(status.st_mode):
                _give_file(folder, name, path, owner, modes, of)

    def _walk_to_give(
        self, owner: Owner, modes: Modes | None, of: int
    ) -> Iterator[tuple[int, str, os.stat_result, str]]:
        """Change the owner of each folder of the tree before its entries are listed, and yield these."""
        with self._folder() as folder:
            yield from _give_folder(folder, str(self), owner, modes, of, DEPTH)

    @contextlib.contextmanager
    def folder_above(self) -> Iterator[tuple[int, str]]:
        """Open the folder above, also that of the tree itself; yield its descriptor, and the name of this entry in it.

        For `untrusted.handover` alone, which opens the entry by them.
        """
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(self._parent()) if self.parts else _opened(stack, self.top.parent, None)
            yield folder, self.name

    @contextlib.contextmanager
    def _folder(self) -> Iterator[int]:
        """Open this folder."""
        with contextlib.ExitStack() as stack:
            folder = _opened(stack, self.top, None)
            for name in self.parts:
                folder = _opened(stack, name, folder)
            yield folder

    @contextlib.contextmanager
    def _parent(self) -> Iterator[int]:
        """Open the folder of this entry."""
        with self.parent._folder() as folder:
            yield folder

    @contextlib.contextmanager
    def _replacement(self) -> Iterator[tuple[int, str]]:
        """Open the folder of this entry, and rename what the body creates in it under a temporary name."""
        if not self.parts:
            raise ValueError(f"{self} is the top of a tree")
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(self._parent())
            except OSError as error:
                raise self._refused(error) from None
            temporary = self._temporary()
            try:
                _remove(folder, temporary, f"{self.parent}/{temporary}")
            except FileNotFoundError:
                pass
            except OSError as error:
                raise self._refused(error) from None
            yield folder, temporary
            os.rename(temporary, self.name, src_dir_fd=folder, dst_dir_fd=folder)

    def _temporary(self) -> str:
        name = f".{self.name}.new"
        return name if len(os.fsencode(name)) <= _NAME else f".{hashlib.sha256(os.fsencode(name)).hexdigest()}.new"

    def _refused(self, error: OSError) -> DeploymentError:
        """Return the error for a path that has a component which is not a folder."""
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            return DeploymentError(
                f"{self} cannot be reached: a folder on the way is a link or a file",
                hint="write the real path",
            )
        return DeploymentError(f"{self}: {error.strerror}", transient=True)


def _opened(stack: contextlib.ExitStack, name: str | Path, folder: int | None) -> int:
    descriptor = os.open(name, _FOLDER, dir_fd=folder)
    stack.callback(os.close, descriptor)
    return descriptor


def entries(folder: int, path: str) -> list[str]:
    """Return the names in an open folder.

    Raises:
        DeploymentError: it has more than `ENTRIES` entries.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            found.append(entry.name)
            if len(found) > ENTRIES:
                raise DeploymentError(f"{path} has more than {ENTRIES} entries")
    return found


def _give_folder(
    folder: int, path: str, owner: Owner, modes: Modes | None, of: int, depth: int
) -> Iterator[tuple[int, str, os.stat_result, str]]:
    """Change the owner of an open folder, then yield its entries, and those of the folders below it."""
    status = os.fstat(folder)
    _refuse_foreign_owner(status, path, owner, of)
    if not depth:
        raise DeploymentError(f"{path}: folders are nested more than {DEPTH} deep")
    os.fchown(folder, *owner)
    _strip(folder)
    os.fchmod(folder, modes.folder if modes else status.st_mode & 0o755)
    for name in entries(folder, path):
        below = f"{path}/{name}"
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        yield folder, name, found, below
        if stat.S_ISDIR(found.st_mode):
            descriptor = os.open(name, _FOLDER, dir_fd=folder)
            try:
                yield from _give_folder(descriptor, below, owner, modes, of, depth - 1)
            finally:
                os.close(descriptor)


def _give_link(folder: int, name: str, path: str, owner: Owner, of: int) -> None:
    """Change the owner of a link, not of what may have replaced it meanwhile."""
    descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISLNK(status.st_mode):
            raise DeploymentError(f"{path} has changed while its owner was set", transient=True)
        _refuse_foreign_owner(status, path, owner, of)
        os.chown(f"/proc/self/fd/{descriptor}", *owner)
    finally:
        os.close(descriptor)


def _give_file(folder: int, name: str, path: str, owner: Owner, modes: Modes | None, of: int) -> None:
    try:
        descriptor = os.open(name, FILE, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ELOOP):  # a socket
            raise DeploymentError(f"{path} is neither a file nor a folder nor a link") from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DeploymentError(f"{path} is neither a file nor a folder nor a link")
        _refuse_foreign_owner(status, path, owner, of)
        mode = status.st_mode & 0o755
        if modes:
            mode = modes.program if status.st_mode & 0o100 else modes.file
        if status.st_nlink > 1:  # its other hard link, as in pnpm's cache, keeps its owner
            _replace_by_copy(folder, name, descriptor, mode, owner)
            return
        os.fchown(descriptor, *owner)
        _strip(descriptor)
        os.fchmod(descriptor, mode)  # now only the owner can open it for writing; a process that already has is found
        if _is_open_to_write(descriptor):
            _replace_by_copy(folder, name, descriptor, mode, owner)
    finally:
        os.close(descriptor)


def _refuse_foreign_owner(status: os.stat_result, path: str, owner: Owner, of: int) -> None:
    if status.st_uid not in (of, owner[0]):
        raise DeploymentError(f"{path} belongs to uid {status.st_uid}, not to {of}")


def _is_open_to_write(descriptor: int) -> bool:
    """Return whether any process has the file open for writing: then the kernel refuses a lease on it."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)  # instead of SIGIO, which would end this process
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False


def _replace_by_copy(folder: int, name: str, old: int, mode: int, owner: Owner) -> None:
    temporary = ".django-formula.copy"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary, dir_fd=folder)
    new = os.open(temporary, _NEW, 0o600, dir_fd=folder)
    try:
        left = os.fstat(old).st_size
        while left > 0 and (part := os.read(old, min(left, 1 << 20))):
            os.write(new, part)
            left -= len(part)
        os.fchown(new, *owner)
        os.fchmod(new, mode)
    finally:
        os.close(new)
    os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)


def _strip(descriptor: int) -> None:
    """Remove access lists and other attributes, except labels of a security module."""
    try:
        names = os.listxattr(descriptor)
    except OSError:
        return
    for name in names:
        if not re.match(r"security\.(?!capability)", name):
            with contextlib.suppress(OSError):
                os.removexattr(descriptor, name)


def _remove(folder: int, name: str, path: str, depth: int = DEPTH) -> None:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=folder)
        return
    if not depth:  # rm needs no descriptor and no stack frame per folder, and does not follow links either
        argv = ["rm", "-rf", "--", f"./{name}"]
        commands.run(argv, doing=f"deleting {path}", folder=f"/proc/self/fd/{folder}", timeout=600)
        return
    descriptor = os.open(name, _FOLDER, dir_fd=folder)
    try:
        for below in entries(descriptor, path):
            with contextlib.suppress(FileNotFoundError):
                _remove(descriptor, below, f"{path}/{below}", depth - 1)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=folder)
