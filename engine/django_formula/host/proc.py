"""Read /proc: the processes of this host, its memory, its uptime, its mounts and its network tables.

Every process chooses its name, its command line and its environment itself, and may end at any moment. So all reads are
bounded, and a process that has ended is an ordinary answer. Only `untrusted.reaper`, a program of its own, reads
/proc without this module.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
#: Bytes that are read of a file, of a command line, and of the table of mounts.
_BYTES, _COMMAND_LINE, _MOUNTS = 1 << 20, 1 << 16, 1 << 24


class Stat(NamedTuple):
    """What /proc/<pid>/stat has of a process: its state as in ps(1), its parent, and its start in ticks since boot."""

    state: str
    parent: int
    started: int

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended: it is no zombie."""
        return self.state not in "ZX"


class Mount(NamedTuple):
    """A row of /proc/self/mountinfo: where it is mounted, with which options, its type, and what is mounted."""

    folder: Path
    options: list[str]
    type: str
    device: str


# Processes


def pids() -> list[int]:
    """Return the processes of this host, in ascending order."""
    return sorted(int(name) for name in os.listdir(PROC) if name.isdigit())


def exists(pid: int) -> bool:
    """Return whether a process exists; one that has ended exists until its parent has waited for it."""
    return (PROC / str(pid)).exists()


def is_running(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    found = stat(pid)
    return found is not None and found.is_running


def stat(pid: int) -> Stat | None:
    """Return state, parent and start of a process, or None where it no longer exists."""
    try:
        # The name, in parentheses, is any bytes that the process has chosen: the fields begin after the last one.
        fields = _read(f"{pid}/stat", 4096).rpartition(b")")[2].split()
        return Stat(fields[0].decode(), int(fields[1]), int(fields[19]))
    except (OSError, IndexError):
        return None


def identity(pid: int) -> str:
    """Return what tells a process from others that had or will have its pid, also after a boot; empty without it."""
    found = stat(pid)
    return f"{boot_id()} {found.started}" if found else ""


def cpu_of_tree(pid: int) -> float:
    """Return the seconds of CPU that a process and its descendants have used, with those that have ended."""
    return _cpu(tree(pid))


def cpu_of(uid: int) -> float:
    """Return the seconds of CPU that the processes of a user have used, with those that they have waited for."""
    return _cpu(pids_of(uid))


def _cpu(pids: Iterable[int]) -> float:
    ticks = 0
    for one in pids:
        with contextlib.suppress(OSError, IndexError, ValueError):
            ticks += sum(map(int, _read(f"{one}/stat", 4096).rpartition(b")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def age(pid: int) -> float:
    """Return the seconds since a process started; 0 where it no longer exists."""
    found = stat(pid)
    return max(uptime() - found.started / os.sysconf("SC_CLK_TCK"), 0.0) if found else 0.0


def children(parent: int) -> set[int]:
    """Return the direct children of a process."""
    return {pid for pid in pids() if (found := stat(pid)) and found.parent == parent}


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    below: dict[int, list[int]] = {}
    for one in pids():
        if found := stat(one):
            below.setdefault(found.parent, []).append(one)
    found_pids = [pid]
    for one in found_pids:  # grows meanwhile
        found_pids += below.get(one, [])
    return found_pids


def name(pid: int) -> str | None:
    """Return the printable characters of a process's name, or None where it no longer exists."""
    try:
        return "".join(filter(str.isprintable, _read(f"{pid}/comm").decode(errors="replace")))
    except OSError:
        return None


def command_line(pid: int) -> bytes:
    """Return the beginning of a process's command line, its arguments separated by NUL; empty where it has ended."""
    try:
        return _read(f"{pid}/cmdline", _COMMAND_LINE)
    except OSError:
        return b""


def environment(pid: int) -> list[bytes]:
    """Return the environment that a process was started with; empty where it has ended or may not be read."""
    try:
        return _read(f"{pid}/environ").split(b"\0")
    except OSError:
        return []


def control_groups(pid: int) -> str:
    """Return the control groups of a process, a line for each hierarchy; empty where it no longer exists."""
    try:
        return _read(f"{pid}/cgroup").decode(errors="replace")
    except OSError:
        return ""


def owner(pid: int) -> tuple[int, int]:
    """Return the uid and gid that own a process's folder in /proc: root's where the process is not dumpable.

    Raises:
        OSError: the process no longer exists.
    """
    found = os.stat(PROC / str(pid))
    return found.st_uid, found.st_gid


def pids_of(uid: int) -> list[int]:
    """Return the processes that run with a uid as their real, effective or saved one; those that ended are left out."""
    return [pid for pid in pids() if _has_uid(pid, uid) and is_running(pid)]


def _has_uid(pid: int, uid: int) -> bool:
    try:
        owner_uid = owner(pid)[0]
        return owner_uid == uid or (owner_uid == 0 and str(uid) in status(pid).get("Uid", "").split()[:3])
    except OSError:
        return False


def status(pid: int) -> dict[str, str]:
    """Return the fields of /proc/<pid>/status.

    Raises:
        OSError: the process no longer exists.
    """
    rows = (row.partition(":") for row in _read(f"{pid}/status").decode(errors="replace").splitlines())
    return {field: value.strip() for field, _colon, value in rows}


def working_directory(pid: int) -> str:
    """Return the working directory of a process.

    Raises:
        PermissionError: the process is another user's, and CAP_SYS_PTRACE is missing.
        OSError: the process no longer exists.
    """
    return os.readlink(PROC / str(pid) / "cwd")


def open_files(pid: int) -> set[str]:
    """Return the targets of a process's file descriptors (``/path``, ``socket:[4711]``); empty where it has ended.

    It is empty too where the process is another user's and CAP_SYS_PTRACE is missing.
    """
    links = set()
    with contextlib.suppress(OSError):
        for path in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                links.add(os.readlink(path))
    return links


def memory(pid: int) -> int:
    """Return the bytes of memory that a process uses, its proportional share; 0 where it no longer exists.

    Without CAP_SYS_PTRACE, as in most containers, it is the memory that the process does not share.
    """
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        try:
            return _sizes(f"{pid}/smaps_rollup").get("Pss", 0)
        except PermissionError:
            return _sizes(f"{pid}/status").get("RssAnon", 0)
    return 0


def namespace(kind: str) -> str:
    """Return the namespace of a kind (``mnt``, ``net``) in which this process is."""
    return os.readlink(PROC / "self/ns" / kind)


# The host


def host_memory() -> dict[str, int]:
    """Return the fields of /proc/meminfo that are sizes, in bytes."""
    return _sizes("meminfo")


def uptime() -> float:
    """Return the seconds since the host was booted."""
    with contextlib.suppress(FileNotFoundError):
        return float(_read("uptime").split()[0])
    return 0.0


def boot_id() -> str:
    """Return the id of the current boot; empty where the kernel has none."""
    try:
        return _read("sys/kernel/random/boot_id").decode().strip()
    except OSError:
        return ""


def mount(folder: Path) -> Mount | None:
    """Return what is mounted at a folder, or None."""
    real = real_path(folder)
    return next((one for one in reversed(mounts()) if one.folder == real), None)


def mounts() -> list[Mount]:
    """Return all mounts of this host, a later one after an earlier one of the same folder."""
    try:
        text = _read("self/mountinfo", _MOUNTS).decode(errors="surrogateescape")
    except FileNotFoundError:
        return []
    found = []
    for row in text.splitlines():
        first, _dash, last = row.partition(" - ")
        own, device = first.split(), last.split()
        if len(own) > 5 and len(device) > 1:
            found.append(Mount(Path(_unescaped(own[4])), own[5].split(","), device[0], _unescaped(device[1])))
    return found


def mounted_within(path: Path) -> list[Path]:
    """Return the folders at or below a path at which something is mounted."""
    real = real_path(path)
    return [one.folder for one in mounts() if one.folder.is_relative_to(real)]


def real_path(path: Path) -> Path:
    """Return a path as the table of mounts has it, without links above it; what is mounted there is not asked."""
    return Path(os.path.realpath(path.parent), path.name)


def _unescaped(text: str) -> str:
    """Return a field of mountinfo as it is: the kernel writes blanks and backslashes in octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def network_table(table: str) -> Iterator[bytes]:
    """Yield the rows of a table in /proc/net (``tcp6``, ``unix``) without its heading.

    Raises:
        OSError: the kernel has no such table.
    """
    with open(PROC / "net" / table, "rb") as file:
        next(file, None)
        for row in file:
            yield row.removesuffix(b"\n")


def _read(path: str, limit: int = _BYTES) -> bytes:
    with open(PROC / path, "rb") as file:
        return file.read(limit)


def _sizes(path: str) -> dict[str, int]:
    """Return the lines ``name: number kB`` of a file, in bytes."""
    rows = (row.partition(":") for row in _read(path).decode(errors="replace").splitlines())
    return {field: int(size.split()[0]) * 1024 for field, _colon, size in rows if size.endswith(" kB")}


# Memory: what a process with its descendants uses, and what the host or its container has

CGROUP = Path("/sys/fs/cgroup")
#: The files of a control group's limit and usage, and the reclaimable part in memory.stat, for cgroup v2 and v1.
_LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def memory_of_tree(pid: int) -> int:
    """Return the bytes that a process and its descendants use; shared memory is counted once."""
    return sum(map(memory, tree(pid)))


def available_memory() -> int:
    """Return the bytes that are available: those of the host with swap, or fewer if this container has a limit."""
    host = host_memory()
    left = [host["MemAvailable"] + host.get("SwapFree", 0)]
    for limit, use, cache in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # without a limit it is "max", or the file is missing
            used = int((CGROUP / use).read_text()) - _memory_stat(CGROUP / use).get(cache, 0)
            left.append(int((CGROUP / limit).read_text()) - used)
    return max(0, min(left))


def total_memory() -> int:
    """Return the bytes of memory of the host, without swap, or the limit of this container if that is lower."""
    limits = [host_memory()["MemTotal"]]
    for limit, _use, _cache in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # without a limit it is "max", or the file is missing
            limits.append(int((CGROUP / limit).read_text()))
    return min(limits)


def memory_limit(value: str | int | None) -> int | None:
    """Return the bytes of a limit in systemd's notation (``5000``, ``512M``, ``10%``), or None without a limit."""
    if value is None or value == "infinity":
        return None
    text = str(value)
    if text.endswith("%"):
        return total_memory() * int(text[:-1]) // 100
    power = "KMGT".find(text[-1]) + 1
    return int(text.rstrip("KMGT")) << 10 * power


def _memory_stat(use: Path) -> dict[str, int]:
    """Return the fields of ``memory.stat`` in the folder of a usage file."""
    rows = (line.split() for line in use.with_name("memory.stat").read_text().splitlines())
    return {name: int(number) for name, number in rows}
