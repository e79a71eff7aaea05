"""Memory: what an instance takes, and what is left for another one."""

import contextlib
from pathlib import Path

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
#: The files of a control group's limit and use, and the line of what it would give back, in both versions.
_LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def of_tree(pid: int) -> int:
    """The bytes that a process and all its descendants take, what they share counted once."""
    children: dict[int, list[int]] = {}
    for path in PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_bytes().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    tree = [pid]
    for one in tree:  # which grows meanwhile
        tree += children.get(one, [])
    return sum(map(_share, tree))


def _share(pid: int) -> int:
    """The proportional share of a process, in bytes; 0 when it has ended.

    Without CAP_SYS_PTRACE, as in most containers, the kernel does not tell: then it is what the process has for itself.
    """
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        try:
            return _kibibytes(PROC / str(pid) / "smaps_rollup").get("Pss", 0) * 1024
        except PermissionError:
            return _kibibytes(PROC / str(pid) / "status").get("RssAnon", 0) * 1024
    return 0


def available() -> int:
    """The bytes that processes may take yet: the host's, swap included, or what a limit of this container leaves."""
    host = _kibibytes(PROC / "meminfo")
    left = [(host["MemAvailable"] + host.get("SwapFree", 0)) * 1024]
    for limit, use, cache in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no limit is "max", or no file
            taken = int((CGROUP / use).read_text()) - _bytes(CGROUP / use).get(cache, 0)
            left.append(int((CGROUP / limit).read_text()) - taken)
    return max(0, min(left))


def total() -> int:
    """The bytes of memory that the host has, swap left out, or that this container is limited to."""
    has = [_kibibytes(PROC / "meminfo")["MemTotal"] * 1024]
    for limit, _use, _cache in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no limit is "max", or no file
            has.append(int((CGROUP / limit).read_text()))
    return min(has)


def limit(said: str | int | None) -> int | None:
    """The bytes of a limit as systemd takes it: a number, one with K, M, G or T, or a percentage; None without one."""
    if said is None or said == "infinity":
        return None
    text = str(said)
    if text.endswith("%"):
        return total() * int(text[:-1]) // 100
    power = "KMGT".find(text[-1]) + 1
    return int(text.rstrip("KMGT")) << 10 * power


def _kibibytes(path: Path) -> dict[str, int]:
    """The lines ``name: number kB`` of a file."""
    rows = (line.partition(":") for line in path.read_text(errors="replace").splitlines())
    return {name: int(text.split()[0]) for name, _colon, text in rows if text.endswith(" kB")}


def _bytes(use: Path) -> dict[str, int]:
    """The lines of ``memory.stat`` beside a control group's use."""
    rows = (line.split() for line in use.with_name("memory.stat").read_text().splitlines())
    return {name: int(number) for name, number in rows}
