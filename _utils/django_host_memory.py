"""Memory: what an instance takes, and what is left for another one."""

import contextlib
from pathlib import Path

import django_host_proc

CGROUP = Path("/sys/fs/cgroup")
#: The files of a control group's limit and use, and the line of what it would give back, in both versions.
_LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def of_tree(pid: int) -> int:
    """The bytes that a process and all its descendants take, what they share counted once."""
    return sum(map(django_host_proc.memory, django_host_proc.tree(pid)))


def available() -> int:
    """The bytes that processes may take yet: the host's, swap included, or what a limit of this container leaves."""
    host = django_host_proc.host_memory()
    left = [host["MemAvailable"] + host.get("SwapFree", 0)]
    for limit, use, cache in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no limit is "max", or no file
            taken = int((CGROUP / use).read_text()) - _bytes(CGROUP / use).get(cache, 0)
            left.append(int((CGROUP / limit).read_text()) - taken)
    return max(0, min(left))


def total() -> int:
    """The bytes of memory that the host has, swap left out, or that this container is limited to."""
    has = [django_host_proc.host_memory()["MemTotal"]]
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


def _bytes(use: Path) -> dict[str, int]:
    """The lines of ``memory.stat`` beside a control group's use."""
    rows = (line.split() for line in use.with_name("memory.stat").read_text().splitlines())
    return {name: int(number) for name, number in rows}
