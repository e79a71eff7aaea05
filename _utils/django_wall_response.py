"""Answers by a socket of what is less trusted than root: all of one within a deadline and a number of bytes."""

import http.client
import io
import socket
import time
from typing import Any

#: Bytes of an answer, headers and all that comes before it included.
BYTES = 1 << 20


class TooLongError(http.client.HTTPException):
    """An answer has more bytes than are read."""


class Bounded:
    """A connection on which whoever answers cannot keep us waiting, nor send without an end.

    It has what `http.client` needs of a socket.

    Args:
        connection: one that is open.
        deadline: when all of the answer has to be there, by the monotonic clock.
        limit: how many bytes it may have.
    """

    def __init__(self, connection: socket.socket, deadline: float, limit: int = BYTES):
        self.connection = connection
        self.deadline = deadline
        self.limit = limit

    def sendall(self, request: Any) -> None:
        """Send a request, within the deadline.

        Raises:
            TimeoutError: it is not taken in time.
        """
        self.connection.settimeout(self.left())
        self.connection.sendall(request)

    def makefile(self, *_arguments: Any, **_options: Any) -> io.BufferedReader:
        """Return what comes, to be read; reading raises TimeoutError and TooLongError."""
        return io.BufferedReader(_Stream(self))

    def read(self) -> bytes:
        """Read until the other end is closed.

        Raises:
            TimeoutError: that has not come in time.
            TooLongError: there is more than the limit.
        """
        return self.makefile().read()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def left(self) -> float:
        """Seconds that are left.

        Raises:
            TimeoutError: there are none.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


class _Stream(io.RawIOBase):
    """The bytes of an answer."""

    def __init__(self, bounded: Bounded):
        self.bounded = bounded
        #: It keeps the connection open for as long as it is read, when that itself was closed.
        self.raw = bounded.connection.makefile("rb", buffering=0)
        self.read_so_far = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.bounded.connection.settimeout(self.bounded.left())
        count = self.raw.readinto(buffer) or 0
        self.read_so_far += count
        if self.read_so_far > self.bounded.limit:
            raise TooLongError(f"the answer has more than {self.bounded.limit >> 10} KiB")
        return count

    def close(self) -> None:
        self.raw.close()
        super().close()
