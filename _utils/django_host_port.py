"""A TCP port of this host: who listens on it, and at which addresses."""

import contextlib
import ipaddress
import re
import socket
import struct
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import django_host_proc

_LISTENING = "0A"
#: A connection that is open, and one whose other end has nothing more to say, and may listen.
_OPEN = ("01", "08")
#: How all addresses of a family are called.
ALL = (str(ipaddress.IPv4Address(0)), str(ipaddress.IPv6Address(0)))

#: Where a proxy listens, as the pillar has it: a port on all addresses, or ``192.0.2.10:80``, or ``[2001:db8::1]:80``.
Listen = int | str
#: Where a socket listens: the address, without brackets, and the port.
Place = tuple[str, int]


class Listener(NamedTuple):
    """A process that listens on a port: its name, its number, and its unit of systemd if it has one."""

    program: str
    pid: int
    unit: str

    def __str__(self) -> str:
        return f"{self.program} ({', '.join(filter(None, [f'pid {self.pid}', self.unit]))})" if self.pid else "somebody"


def split(listen: Listen) -> Place:
    """The address, which is empty for all, and the port."""
    host, _colon, port = str(listen).rpartition(":")
    return host.strip("[]"), int(port)


def ordered(listens: Collection[Listen]) -> list[Listen]:
    """By port, then by address; each once."""
    return sorted({*listens}, key=lambda listen: split(listen)[::-1])


def bind_error(host: str) -> str:
    """Why nobody can listen at an address of this host; empty where it is one, or the kernel lets anybody do so."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def listener(port: int, *, exclude: int | None = None, ports: Mapping[int, set[str]] | None = None) -> Listener | None:
    """Who listens on a port, on whatever address; None when nobody does.

    Args:
        exclude: the number of a process that may: it counts as nobody.
        ports: as `listening` has just found it.
    """
    sockets = (listening() if ports is None else ports).get(port, set())
    if not sockets or (exclude and not (sockets := sockets - django_host_proc.open_files(exclude))):
        return None
    for pid in django_host_proc.pids():
        if pid != exclude and sockets & django_host_proc.open_files(pid):
            name = django_host_proc.name(pid)
            if name is not None:
                return Listener(name, pid, _unit(pid))
    return Listener("", 0, "")  # in another namespace, or gone


def listens_on(pid: int, port: int, ports: Mapping[int, set[str]] | None = None) -> bool:
    """Whether a process listens on a port.

    Args:
        ports: as `listening` has just found it.
    """
    return bool((listening() if ports is None else ports).get(port, set()) & django_host_proc.open_files(pid))


def is_listening(pid: int, ports: Mapping[int, set[str]]) -> bool:
    """Whether a process listens on any port.

    Args:
        ports: as `listening` has just found it.
    """
    return bool(set().union(*ports.values()) & django_host_proc.open_files(pid))


def listening(host: str = "") -> dict[int, set[str]]:
    """The ports on which somebody listens, with the sockets, as their descriptors are called in /proc.

    The kernel looks through all its connections for it, some milliseconds long.

    Args:
        host: an address; only those who are in the way of somebody else there.
    """
    found: dict[int, set[str]] = {}
    for place, port, descriptor in _listeners():
        if not host or _meet(_address(place), host):
            found.setdefault(port, set()).add(descriptor)
    return found


def addresses(pid: int) -> set[Place]:
    """Where a process listens."""
    own = django_host_proc.open_files(pid)
    return {(_address(place), port) for place, port, descriptor in _listeners() if descriptor in own}


def connected(pids: Collection[int], ports: Collection[int]) -> set[int]:
    """Those of these processes to which somebody is connected at one of these ports."""
    open_there = {descriptor for _host, port, descriptor in _sockets_of_tcp(*_OPEN) if port in ports}
    return {pid for pid in pids if open_there & django_host_proc.open_files(pid)}


def _listeners() -> Iterator[tuple[str, int, str]]:
    """The sockets that listen: address as the kernel writes it, port, descriptor."""
    yield from _sockets_of_tcp(_LISTENING)


def _sockets_of_tcp(*states: str) -> Iterator[tuple[str, int, str]]:
    """The sockets that are in one of these states, as `_listeners` has them."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for row in (line.decode().split() for line in django_host_proc.network_table(table)):
                if row[3] in states:
                    host, _colon, port = row[1].rpartition(":")
                    yield host, int(port, 16), f"socket:[{row[9]}]"
                elif states == (_LISTENING,):
                    break  # they come first


def _address(words: str) -> str:
    """An address as people write it, from the words in which the kernel does."""
    numbers = [int(words[start : start + 8], 16) for start in range(0, len(words), 8)]
    found = ipaddress.ip_address(struct.pack(f"={len(numbers)}I", *numbers))
    return str(getattr(found, "ipv4_mapped", None) or found)


def _meet(one: str, other: str) -> bool:
    """Whether two sockets at these addresses are in each other's way; one at ``::`` may be for IPv4 too."""
    return one == other or one == "::" or ((":" in one) == (":" in other) and bool({one, other} & {*ALL}))


def _unit(pid: int) -> str:
    """The service that a process belongs to, by its control group."""
    found = re.search(r"/([^/\n]+\.service)$", django_host_proc.control_groups(pid), re.MULTILINE)
    return found.group(1) if found else ""
