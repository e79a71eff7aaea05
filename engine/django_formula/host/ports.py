"""TCP ports of this host: which processes listen on them, and on which addresses."""

import contextlib
import ipaddress
import re
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from django_formula.host import proc
from django_formula.untrusted.text import in_command

#: Units that no file describes, such as those of systemd-run.
TRANSIENT = Path("/run/systemd/transient")
_LISTENING = "0A"
#: The states of an established connection, and of one that only the other end has closed.
_OPEN = ("01", "08")
#: The addresses that stand for all addresses of a family.
ALL = (str(ipaddress.IPv4Address(0)), str(ipaddress.IPv6Address(0)))

#: Where a proxy listens, as in the pillar: a port on all addresses, or ``192.0.2.10:80``, or ``[2001:db8::1]:80``.
Listen = int | str
#: An address, without brackets, and a port.
Place = tuple[str, int]


class Listener(NamedTuple):
    """A process that listens on a port: its name, its pid (0 if unknown), and its systemd unit if it has one."""

    program: str
    pid: int
    unit: str

    def __str__(self) -> str:
        if not self.pid:
            return "an unknown process"
        return f"{self.program} ({', '.join(filter(None, [f'pid {self.pid}', self.unit]))})"

    def way_to_stop(self, port: int) -> str:
        """Return the command that stops it or, where no unit has it, one that shows it."""
        if not self.unit:
            return f"ss -ltnp 'sport = :{port}' shows it"
        has_file = not (TRANSIENT / self.unit).exists()  # others cannot be disabled
        return in_command("systemctl", *(("disable", "--now") if has_file else ("stop",)), self.unit)


def split(listen: Listen) -> Place:
    """Return the address, empty for all addresses, and the port."""
    host, _colon, port = str(listen).rpartition(":")
    return host.strip("[]"), int(port)


def ordered(listens: Collection[Listen]) -> list[Listen]:
    """Return each value once, ordered by port, then by address."""
    return sorted({*listens}, key=lambda listen: split(listen)[::-1])


def bind_error(host: str) -> str:
    """Return the kernel's error for listening on an address, or an empty text if that is possible."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def listener(port: int, *, exclude: int | None = None, ports: Mapping[int, set[str]] | None = None) -> Listener | None:
    """Return the process that listens on a port, on any address, or None.

    Args:
        exclude: a process whose sockets do not count.
        ports: what `listening` returned just now.
    """
    sockets = (listening() if ports is None else ports).get(port, set())
    if not sockets or (exclude and not (sockets := sockets - proc.open_files(exclude))):
        return None
    for pid in proc.pids():
        if pid != exclude and sockets & proc.open_files(pid):
            name = proc.name(pid)
            if name is not None:
                return Listener(name, pid, _unit(pid))
    return Listener("", 0, "")  # in another namespace, or it has ended


def listens_on(pid: int, port: int, ports: Mapping[int, set[str]] | None = None) -> bool:
    """Return whether a process listens on a port.

    Args:
        ports: what `listening` returned just now.
    """
    return bool((listening() if ports is None else ports).get(port, set()) & proc.open_files(pid))


def is_listening(pid: int, ports: Mapping[int, set[str]]) -> bool:
    """Return whether a process listens on any port.

    Args:
        ports: what `listening` returned just now.
    """
    return bool(set().union(*ports.values()) & proc.open_files(pid))


def listening(host: str = "") -> dict[int, set[str]]:
    """Return the ports on which processes listen, each with its sockets as /proc names descriptors.

    The kernel goes through all connections for it, which takes some milliseconds.

    Args:
        host: an address; only sockets that conflict with one on it.
    """
    found: dict[int, set[str]] = {}
    for place, port, descriptor in _listeners():
        if not host or _conflict(_address(place), host):
            found.setdefault(port, set()).add(descriptor)
    return found


def addresses(pid: int) -> set[Place]:
    """Return the addresses and ports on which a process listens."""
    own = proc.open_files(pid)
    return {(_address(place), port) for place, port, descriptor in _listeners() if descriptor in own}


def connected(pids: Collection[int], ports: Collection[int]) -> set[int]:
    """Return those of some processes that have open connections on some ports."""
    connected_sockets = {descriptor for _host, port, descriptor in _sockets_of_tcp(*_OPEN) if port in ports}
    return {pid for pid in pids if connected_sockets & proc.open_files(pid)}


def _listeners() -> Iterator[tuple[str, int, str]]:
    """Yield the listening sockets: address in the kernel's notation, port, descriptor."""
    yield from _sockets_of_tcp(_LISTENING)


def _sockets_of_tcp(*states: str) -> Iterator[tuple[str, int, str]]:
    """Yield the sockets in some states, as `_listeners` does."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for row in (line.decode().split() for line in proc.network_table(table)):
                if row[3] in states:
                    host, _colon, port = row[1].rpartition(":")
                    yield host, int(port, 16), f"socket:[{row[9]}]"
                elif states == (_LISTENING,):
                    break  # listening sockets come first


def _address(hexadecimal: str) -> str:
    """Return the usual notation of an address that the kernel writes as hexadecimal words."""
    numbers = [int(hexadecimal[start : start + 8], 16) for start in range(0, len(hexadecimal), 8)]
    found = ipaddress.ip_address(struct.pack(f"={len(numbers)}I", *numbers))
    return str(getattr(found, "ipv4_mapped", None) or found)


def _conflict(one: str, other: str) -> bool:
    """Return whether sockets on two addresses conflict; one on ``::`` may be for IPv4 too."""
    return one == other or one == "::" or ((":" in one) == (":" in other) and bool({one, other} & {*ALL}))


def _unit(pid: int) -> str:
    """Return the systemd service of a process, by its control group; empty if it has none."""
    found = re.search(r"/([^/\n]+\.service)$", proc.control_groups(pid), re.MULTILINE)
    return found.group(1) if found else ""
