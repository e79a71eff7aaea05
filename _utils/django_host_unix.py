"""The unix sockets of this host, by their paths, as the kernel has them.

`/proc/net/unix` prints the name that any local user has chosen as it is, line breaks included: its rows can be forged.
The kernel's answers by netlink (sock_diag(7)) are binary, and have the file that a socket is bound to.
"""

import os
import re
import socket
import stat
import struct
from collections.abc import Iterator
from typing import NamedTuple

import django_host_proc

#: The states of a socket that are asked for.
_CONNECTED, _LISTENING = 1, 10
# linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 4, 20
_NLM_F_REQUEST, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x10, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_SHOW_NAME, _SHOW_FILE, _SHOW_QUEUE = 1, 2, 16
_NAME, _FILE, _QUEUE = 0, 1, 4
#: How often the kernel is asked anew where sockets came and went while it answered, and the seconds for an answer.
_TRIES, _PATIENCE = 5, 2.0
#: A row of /proc/net/unix as the kernel writes it, of a stream with a path; the rest is a name.
_ROW = re.compile(rb"[0-9a-f]{8,16}: [0-9A-F]{8} 00000000 ([0-9A-F]{8}) 0001 0([1-4]) +(\d+) (/.*)")
_ACCEPTING = 0x10000


class Socket(NamedTuple):
    """A unix socket that listens at a path, or is the end of a connection to it that was accepted there.

    `waiting` is how many connections wait at one that listens; `file` is the device and the number of the file that it
    is bound to, where they are known.
    """

    inode: int
    path: str
    file: tuple[int, int] | None
    is_listening: bool
    waiting: int


def sockets(path: str) -> list[Socket]:
    """Return the stream sockets that listen at a path, and those of the connections there.

    Where the path is a socket now, only those count that are bound to this very file: another may have had the name
    before, or has it in a mount namespace of its own.
    """
    try:
        return _there(path, _by_netlink())
    except OSError:  # refused
        return _there(path, _by_table())


def _there(path: str, everywhere: list[Socket]) -> list[Socket]:
    """Those sockets that are bound to the file at a path."""
    named = [found for found in everywhere if found.path == path]
    try:
        status = os.lstat(path)
    except OSError:
        return named
    # Where the file system has other numbers for the kernel than for us (overlay), the path has to do.
    if any(found.file and found.file[0] == status.st_dev for found in named):
        return [found for found in named if found.file == (status.st_dev, status.st_ino & 0xFFFFFFFF)]
    return named


def listens(path: str) -> bool:
    """Return whether there is a socket at a path at which somebody listens.

    Where the kernel refuses to say so, as by a seccomp filter, the socket at the path has to do.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return False
    except OSError:
        return False
    try:
        return any(found.is_listening for found in _there(path, _by_netlink()))
    except OSError:
        return True


def connections(path: str) -> int:
    """Return how many connections wait at the socket at a path, or are open there."""
    return sum(found.waiting if found.is_listening else 1 for found in sockets(path))


def connect(path: str, user: int, timeout: float) -> socket.socket:
    """Connect to the socket at a path, which is a user's: nowhere else, if that user has put a link in its place.

    Raises:
        OSError: there is no such socket, or nobody listens.
    """
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(file)
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != user:
            raise ConnectionRefusedError(f"{path} is no socket of the site")
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


def _by_netlink() -> list[Socket]:
    """Ask the kernel for the sockets of streams.

    Raises:
        OSError: it refuses, or has no such answer.
    """
    states, shown = 1 << _CONNECTED | 1 << _LISTENING, _SHOW_NAME | _SHOW_FILE | _SHOW_QUEUE
    request = struct.pack("=BBHIIIII", socket.AF_UNIX, 0, 0, states, 0, shown, 0, 0)
    header = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    for _try in range(_TRIES):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as asked:
            asked.settimeout(_PATIENCE)
            asked.sendall(header + request)
            found, was_interrupted = _answer(asked)
        if not was_interrupted:
            break
    return found


def _answer(asked: socket.socket) -> tuple[list[Socket], bool]:
    """The sockets of an answer, and whether some came or went meanwhile."""
    found: list[Socket] = []
    was_interrupted = False
    while True:
        part = asked.recv(1 << 18)
        if len(part) < 16:
            raise OSError("the kernel has ended its answer")
        while len(part) >= 16:
            length, kind, flags, _sequence, _port = struct.unpack_from("=IHHII", part)
            was_interrupted |= bool(flags & _NLM_F_DUMP_INTR)
            if kind == _NLMSG_DONE:
                return found, was_interrupted
            if kind == _NLMSG_ERROR:
                raise OSError(-struct.unpack_from("=i", part, 16)[0], "the kernel refuses to tell its sockets")
            if kind == _SOCK_DIAG_BY_FAMILY:
                found += _sockets(part[16:length])
            part = part[max(length + 3 & ~3, 16) :]


def _sockets(message: bytes) -> Iterator[Socket]:
    """The socket that a message is about, if it is a stream with a path."""
    _family, kind, state, _pad, inode = struct.unpack_from("=BBBBI", message)
    attributes, at = {}, 16
    while at + 4 <= len(message):
        length, name = struct.unpack_from("=HH", message, at)
        attributes[name] = message[at + 4 : at + max(length, 4)]
        at += max(length + 3 & ~3, 4)
    path = attributes.get(_NAME, b"").split(b"\0")[0]
    if kind == socket.SOCK_STREAM and path.startswith(b"/"):  # an abstract name begins with a zero
        number, device = struct.unpack("=II", attributes[_FILE]) if len(attributes.get(_FILE, b"")) == 8 else (0, 0)
        file = (os.makedev(device >> 20, device & 0xFFFFF), number) if number else None
        waiting = struct.unpack_from("=I", attributes[_QUEUE])[0] if attributes.get(_QUEUE) else 0
        yield Socket(inode, os.fsdecode(path), file, state == _LISTENING, waiting if state == _LISTENING else 0)


def _by_table() -> list[Socket]:
    """The same by the kernel's table for people: what does not look like its rows is no row.

    A local user can still make some up there, so that a release waits as long as it may for connections to end.
    """
    found = []
    for line in django_host_proc.network_table("unix"):
        row = _ROW.fullmatch(line)
        if row:
            found.append(Socket(int(row[3]), os.fsdecode(row[4]), None, bool(int(row[1], 16) & _ACCEPTING), 0))
    return found
