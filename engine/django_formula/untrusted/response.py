"""Read answers of less trusted processes from sockets, within a deadline and a number of bytes."""

import http.client
import io
import socket
import time
from typing import Any

#: The most bytes of an answer, headers included.
BYTES = 1 << 20


class TooLongError(http.client.HTTPException):
    """An answer has more bytes than the limit."""


class Bounded:
    """A connection whose other end can neither delay nor send without a limit.

    It has the methods that `http.client` calls on a socket.

    Args:
        connection: an open connection.
        deadline: when the whole answer must have arrived, by the monotonic clock.
        limit: the most bytes of the answer.
    """

    def __init__(self, connection: socket.socket, deadline: float, limit: int = BYTES):
        self.connection = connection
        self.deadline = deadline
        self.limit = limit

    def sendall(self, request: Any) -> None:
        """Send a request, within the deadline.

        Raises:
            TimeoutError: the other end does not receive it in time.
        """
        self.connection.settimeout(self.left())
        self.connection.sendall(request)

    def makefile(self, *_arguments: Any, **_options: Any) -> io.BufferedReader:
        """Return a reader of the answer, which raises TimeoutError and TooLongError."""
        return io.BufferedReader(_Stream(self))

    def read(self) -> bytes:
        """Read until the connection is closed.

        Raises:
            TimeoutError: the deadline has passed.
            TooLongError: the answer has more bytes than the limit.
        """
        return self.makefile().read()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def left(self) -> float:
        """Return the seconds until the deadline.

        Raises:
            TimeoutError: it has passed.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


class _Stream(io.RawIOBase):
    """The bytes of an answer."""

    def __init__(self, bounded: Bounded):
        self.bounded = bounded
        #: Keeps the connection open for reading after it was closed.
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
