"""A TCP port of this host: who listens on it."""

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_LISTENING = "0A"


class Holder(NamedTuple):
    """A process that listens on a port: its name, its number, and its unit of systemd if it has one."""

    program: str
    pid: int
    unit: str

    def __str__(self) -> str:
        return f"{self.program} ({', '.join(filter(None, [f'pid {self.pid}', self.unit]))})" if self.pid else "somebody"


def holder(port: int, *, but: int | None = None, ports: Mapping[int, set[str]] | None = None) -> Holder | None:
    """Who listens on a port, on whatever address; None when nobody does.

    Args:
        but: the number of a process that may: it counts as nobody.
        ports: as `listening` has just found it.
    """
    sockets = (listening() if ports is None else ports).get(port, set())
    if not sockets or (but and sockets <= _sockets(but)):
        return None
    for process in PROC.glob("[0-9]*"):
        pid = int(process.name)
        if pid != but and sockets & _sockets(pid):
            with contextlib.suppress(OSError):
                return Holder((process / "comm").read_text().strip(), pid, _unit(process))
    return Holder("", 0, "")  # in another namespace, or gone


def has(pid: int, port: int, ports: Mapping[int, set[str]] | None = None) -> bool:
    """Whether a process listens on a port.

    Args:
        ports: as `listening` has just found it.
    """
    return bool((listening() if ports is None else ports).get(port, set()) & _sockets(pid))


def listens(pid: int, ports: Mapping[int, set[str]]) -> bool:
    """Whether a process listens on any port.

    Args:
        ports: as `listening` has just found it.
    """
    return bool(set().union(*ports.values()) & _sockets(pid))


def listening() -> dict[int, set[str]]:
    """The ports on which somebody listens, with the sockets, as their descriptors are called in /proc.

    The kernel looks through all its connections for it, some milliseconds long.
    """
    found: dict[int, set[str]] = {}
    for table in (PROC / "net/tcp", PROC / "net/tcp6"):
        with contextlib.suppress(FileNotFoundError), open(table) as rows:
            next(rows, None)
            for row in map(str.split, rows):
                if row[3] != _LISTENING:
                    break  # they come first
                found.setdefault(int(row[1].rpartition(":")[2], 16), set()).add(f"socket:[{row[9]}]")
    return found


def _sockets(pid: int) -> set[str]:
    links = set()
    with contextlib.suppress(OSError):
        for descriptor in (PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                links.add(os.readlink(descriptor))
    return links


def _unit(process: Path) -> str:
    """The service that a process belongs to, by its control group."""
    found = re.search(r"/([^/\n]+\.service)$", (process / "cgroup").read_text(), re.MULTILINE)
    return found.group(1) if found else ""
