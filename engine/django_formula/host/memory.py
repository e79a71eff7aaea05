"""Memory: what a process uses, and what the host or its container has."""

import contextlib
from pathlib import Path

from django_formula.host import proc

CGROUP = Path("/sys/fs/cgroup")
#: The files of a control group's limit and usage, and the reclaimable part in memory.stat, for cgroup v2 and v1.
_LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def of_tree(pid: int) -> int:
    """Return the bytes that a process and its descendants use; shared memory is counted once."""
    return sum(map(proc.memory, proc.tree(pid)))


def available() -> int:
    """Return the bytes that are available: those of the host with swap, or fewer if this container has a limit."""
    host = proc.host_memory()
    left = [host["MemAvailable"] + host.get("SwapFree", 0)]
    for limit, use, cache in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # without a limit it is "max", or the file is missing
            used = int((CGROUP / use).read_text()) - _bytes(CGROUP / use).get(cache, 0)
            left.append(int((CGROUP / limit).read_text()) - used)
    return max(0, min(left))


def total() -> int:
    """Return the bytes of memory of the host, without swap, or the limit of this container if that is lower."""
    limits = [proc.host_memory()["MemTotal"]]
    for limit, _use, _cache in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # without a limit it is "max", or the file is missing
            limits.append(int((CGROUP / limit).read_text()))
    return min(limits)


def limit(value: str | int | None) -> int | None:
    """Return the bytes of a limit in systemd's notation (``5000``, ``512M``, ``10%``), or None without a limit."""
    if value is None or value == "infinity":
        return None
    text = str(value)
    if text.endswith("%"):
        return total() * int(text[:-1]) // 100
    power = "KMGT".find(text[-1]) + 1
    return int(text.rstrip("KMGT")) << 10 * power


def _bytes(use: Path) -> dict[str, int]:
    """Return the fields of ``memory.stat`` in the folder of a usage file."""
    rows = (line.split() for line in use.with_name("memory.stat").read_text().splitlines())
    return {name: int(number) for name, number in rows}
