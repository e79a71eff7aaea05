"""The connections that are open on the socket of an instance, and the wait for their end."""

import contextlib
import socket
import struct
import time
from pathlib import Path

from django_formula.host import proc, unix_sockets
from django_formula.host.commands import seconds
from django_formula.release import instances
from django_formula.site.sites import Site


def connections(where: str) -> int:
    """Return the number of connections that wait or are open on a socket, at a path or at ``host:port``."""
    if where.startswith("/"):
        return unix_sockets.connections(where)
    suffix = _local_end(where)
    rows: list[list[str]] = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            rows += [row.decode().split() for row in proc.network_table(table)]
    # While connections open and close, the kernel may list one twice; its two addresses identify it.
    return len({(row[1], row[2]) for row in rows if row[1].endswith(suffix) and row[3] in ("01", "02", "03", "08")})


def _local_end(where: str) -> str:
    """Return the end of a local address in the kernel's tables, for ``host:port``: with the host if it is IPv4."""
    host, _colon, port = where.rpartition(":")
    is_one = ":" not in host and host.strip("0.")
    number = f"{struct.unpack('=I', socket.inet_aton(host))[0]:08X}" if is_one else ""
    return f"{number}:{int(port):04X}"


def drain(site: Site, release: Path) -> int:
    """Wait until an instance has no connections, at most ``releases:drain``; return the number that is left."""
    where = instances.address(site, release)
    deadline = time.monotonic() + seconds(site.config["releases"]["drain"])
    idle = 0
    while True:
        left = connections(where)
        idle = 0 if left else idle + 1
        if idle == 2:
            return 0
        if left and time.monotonic() > deadline:
            return left
        time.sleep(0.05)
