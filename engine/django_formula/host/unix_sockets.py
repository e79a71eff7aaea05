"""Unix sockets of this host: which listen at a path, and which connections they have.

Any local user can forge rows of `/proc/net/unix`: it prints names as users chose them, line breaks included. The
kernel's answers by netlink (sock_diag(7)) are binary, and name the file that a socket is bound to. See
docs/decisions/0053.
"""

import os
import re
import socket
import stat
import struct
from collections.abc import Iterator
from typing import NamedTuple

from django_formula.host import proc

#: The states of sockets that are queried.
_CONNECTED, _LISTENING = 1, 10
# linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x10, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SHOW_NAME, _SHOW_FILE, _SHOW_QUEUE = 1, 2, 16
_NAME, _FILE, _QUEUE = 0, 1, 4
#: How often a query is repeated if sockets changed during the answer, and the seconds that an answer may take.
_TRIES, _PATIENCE = 5, 2.0
#: A row of /proc/net/unix as the kernel writes it, for a stream socket with a path.
_ROW = re.compile(rb"[0-9a-f]{8,16}: [0-9A-F]{8} 00000000 ([0-9A-F]{8}) 0001 0([1-4]) +(\d+) (/.*)")
_ACCEPTING = 0x10000


class Socket(NamedTuple):
    """A unix socket that listens at a path, or one end of a connection that was accepted there.

    `waiting` is the number of connections that wait at a listening socket; `file` is device and inode of the file that
    it is bound to, if they are known.
    """

    inode: int
    path: str
    file: tuple[int, int] | None
    is_listening: bool
    waiting: int


def sockets(path: str) -> list[Socket]:
    """Return the stream sockets that listen at a path, and those of the connections to it.

    If the path is a socket, only those bound to this file count: another may have had the path before, or has it in
    its own mount namespace.
    """
    try:
        return _at_path(path, _by_netlink())
    except OSError:  # refused
        return _at_path(path, _by_table())


def _at_path(path: str, candidates: list[Socket]) -> list[Socket]:
    """Return those sockets that are bound to the file at a path."""
    named = [found for found in candidates if found.path == path]
    try:
        status = os.lstat(path)
    except OSError:
        return named
    # Some file systems (overlay) have other inodes for the kernel than for processes: then the path has to suffice.
    if any(found.file and found.file[0] == status.st_dev for found in named):
        return [found for found in named if found.file == (status.st_dev, status.st_ino & 0xFFFFFFFF)]
    return named


def listens(path: str) -> bool:
    """Return whether a process listens at the socket at a path.

    If a seccomp filter refuses the query, it is enough that the path is a socket.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except OSError:
        return False
    try:
        return any(found.is_listening for found in _at_path(path, _by_netlink(1 << _LISTENING)))
    except OSError:
        return True


def connections(path: str) -> int:
    """Return the number of connections that wait at the socket at a path or are open."""
    return sum(found.waiting if found.is_listening else 1 for found in sockets(path))


def connect(path: str, user: int, timeout: float) -> socket.socket:
    """Connect to a user's socket at a path; a link in its place is refused.

    Raises:
        OSError: there is no such socket, or no process listens.
    """
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != user:
            raise ConnectionRefusedError(f"{path} is not a socket of the site")
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(f"/proc/self/fd/{file}")
        except BaseException:
            connection.close()
            raise
        return connection
    finally:
        os.close(file)


def _by_netlink(states: int = 1 << _CONNECTED | 1 << _LISTENING) -> list[Socket]:
    """Query the kernel for stream sockets in some states.

    Raises:
        OSError: the kernel refuses, or does not support it.
    """
    shown = _SHOW_NAME | _SHOW_FILE | _SHOW_QUEUE
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, states, 0, shown, 0, 0)
    header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    for _try in range(_TRIES):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as netlink:
            netlink.settimeout(_PATIENCE)
            netlink.sendall(header + request)
            found, was_interrupted = _answer(netlink)
        if not was_interrupted:
            break
    return found


def _answer(netlink: socket.socket) -> tuple[list[Socket], bool]:
    """Return the sockets of an answer, and whether sockets changed meanwhile."""
    found: list[Socket] = []
    was_interrupted = False
    while True:
        part = netlink.recv(1 << 18)
        if len(part) < 16:
            raise OSError("the kernel ended its answer early")
        while len(part) >= 16:
            length, kind, flags, _sequence, _port = struct.unpack_from("=IHHII", part)
            was_interrupted |= bool(flags & _NLM_F_DUMP_INTR)
            if kind == _NLMSG_DONE:
                return found, was_interrupted
            if kind == _NLMSG_ERROR:
                raise OSError(-struct.unpack_from("=i", part, 16)[0], "the kernel refuses to list its sockets")
            if kind == _SOCK_DIAG_BY_FAMILY:
                found += _sockets(part[16:length])
            part = part[max(length + 3 & ~3, 16) :]


def _sockets(message: bytes) -> Iterator[Socket]:
    """Yield the socket of a message, if it is a stream socket with a path."""
    _family, kind, state, _pad, inode = struct.unpack_from("=BBBBI", message)
    attributes, at = {}, 16
    while at + 4 <= len(message):
        length, name = struct.unpack_from("=HH", message, at)
        attributes[name] = message[at + 4 : at + max(length, 4)]
        at += max(length + 3 & ~3, 4)
    path = attributes.get(_NAME, b"").split(b"\0")[0]
    if kind == socket.SOCK_STREAM and path.startswith(b"/"):  # an abstract name begins with NUL
        number, device = struct.unpack("=II", attributes[_FILE]) if len(attributes.get(_FILE, b"")) == 8 else (0, 0)
        file = (os.makedev(device >> 20, device & 0xFFFFF), number) if number else None
        waiting = struct.unpack_from("=I", attributes[_QUEUE])[0] if attributes.get(_QUEUE) else 0
        yield Socket(inode, os.fsdecode(path), file, state == _LISTENING, waiting if state == _LISTENING else 0)


def _by_table() -> list[Socket]:
    """Return the stream sockets of /proc/net/unix, without lines that the kernel would not write.

    A local user can still forge rows, which costs at most that a release waits for its drain time.
    """
    found = []
    for line in proc.network_table("unix"):
        row = _ROW.fullmatch(line)
        if row:
            found.append(Socket(int(row[3]), os.fsdecode(row[4]), None, bool(int(row[1], 16) & _ACCEPTING), 0))
    return found
