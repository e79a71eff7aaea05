"""Locks between processes of this host; each is held by an open file, so it ends with its process."""

import contextlib
import fcntl
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from django_formula.host import clock as host_clock
from django_formula.host import commands, proc
from django_formula.host.commands import DeploymentError


class Lock:
    """An exclusive lock, which no command inherits except `untrusted.reaper`.

    Args:
        path: the lock file, in a folder that only root may change.
        holder: what takes the lock, as reported to waiting processes: ``salt job 20260301120000000000``.
        busy: what is under way while another process holds it: ``another deployment of blog``.
        timeout: how long to wait for it, as a duration of the pillar.
        hint: what an operator can do about a process that does not release it.
        interval: seconds between two tries.
    """

    def __init__(self, path: Path, holder: str, *, busy: str, timeout: str, hint: str, interval: float = 0.1):
        self.path = path
        self.busy = busy
        self._holder = holder
        self._timeout = timeout
        self.hint = hint
        self._interval = interval
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def take(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the lock; while another process holds it, wait.

        Raises:
            DeploymentError: another process, named in the error, still holds it after the timeout.
        """
        if self._descriptor is not None:
            return
        deadline = clock() + commands.seconds(self._timeout)
        descriptor = self._open()
        while not _is_taken(descriptor, fcntl.LOCK_EX) or self._is_removed(descriptor):
            if self._is_removed(descriptor):  # by its holder, and others may hold the next file of this path
                os.close(descriptor)
                descriptor = self._open_again()
            elif clock() >= deadline:
                holder = _recorded_holder(descriptor)
                os.close(descriptor)
                message = f"{self.busy} is under way: {holder}; waited {self._timeout}"
                raise DeploymentError(message, hint=self.hint, transient=True)
            else:
                time.sleep(self._interval)
        text = f"{self._holder}, pid {os.getpid()}, since {host_clock.now()}\n{proc.identity(os.getpid())}\n"
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, text.encode(), 0)
        except OSError:  # a full disk
            os.close(descriptor)  # else this process holds the lock as long as it runs
            raise
        self._descriptor = descriptor
        commands.locks.add(descriptor)

    def _open(self) -> int:
        return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _open_again(self) -> int:
        try:
            return self._open()
        except FileNotFoundError:
            message = f"{self.path.parent} was removed while {self.busy} was waited for"
            raise DeploymentError(message, hint="apply again", transient=True) from None

    def _is_removed(self, descriptor: int) -> bool:
        """Return whether an open lock file is no longer the one of its path."""
        try:
            return not os.path.samestat(os.fstat(descriptor), os.lstat(self.path))
        except FileNotFoundError:
            return True

    def release(self) -> None:
        """Release the lock, if it is held. Who removes the lock file does so before."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            commands.locks.discard(descriptor)
            try:
                with contextlib.suppress(OSError):  # a disk that has become read-only
                    os.ftruncate(descriptor, 0)
            finally:
                os.close(descriptor)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock in a with statement.

        Raises:
            DeploymentError: as for `take`.
        """
        self.take()
        try:
            yield
        finally:
            self.release()

    def holder(self) -> str:
        """Return what holds the lock, with its pid and since when; empty while it is free."""
        try:
            with open(self.path, "rb") as file:
                return "" if _is_taken(file.fileno(), fcntl.LOCK_SH) else _recorded_holder(file.fileno())
        except FileNotFoundError:
            return ""

    def end_holders(self, patience: float = 10.0) -> list[int]:
        """End the processes that hold the lock: SIGTERM, then SIGKILL.

        Args:
            patience: seconds between SIGTERM and SIGKILL.

        Returns:
            Their pids.
        """
        ended = self._processes()
        for number in ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)
        deadline = time.monotonic() + patience
        while self.holder() and time.monotonic() < deadline:
            time.sleep(0.05)
        for number in self._processes() if self.holder() else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        return ended

    def _processes(self) -> list[int]:
        """Return the other processes that have the lock file open, which only those of root can."""
        pids = [pid for pid in proc.pids() if pid != os.getpid()]
        return [pid for pid in pids if str(self.path) in proc.open_files(pid)]


def _is_taken(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _recorded_holder(descriptor: int) -> str:
    return os.pread(descriptor, 4096, 0).decode(errors="replace").partition("\n")[0].strip() or "a process"


@contextlib.contextmanager
def of_folder(path: Path) -> Iterator[None]:
    """Hold the lock of a folder that only root may open, for a moment: other processes wait for it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a process that was forked meanwhile has the open folder, too
        os.close(descriptor)


def holds(path: Path) -> bool:
    """Return whether this process holds the lock of a path."""
    try:
        wanted = os.lstat(path)
    except FileNotFoundError:
        return False
    return any(os.path.samestat(os.fstat(one), wanted) for one in [*commands.locks])


def runs(recorded: str) -> bool:
    """Return whether the process runs that has recorded itself in a lock file, without a try to take the lock.

    One that was killed is recorded until the next one has the lock, and its pid may be another process's by then.

    Args:
        recorded: the content of the file: the holder with its pid, and in the next line its `proc.identity`.
    """
    holder, identity, *_rest = [*recorded.split("\n"), "", ""]
    pids = re.findall(r"\bpid (\d+)", holder)
    now = proc.identity(int(pids[-1])) if pids else ""
    # In a unit with ProcSubset=pid a process does not know the boot, and has only the rest.
    return bool(now) and (now.endswith(identity) or identity.endswith(now))
