"""Exchange input and output with a process through its pipes, without blocking and within bounds."""

import contextlib
import os
import selectors
import subprocess
import time
from typing import Any

#: Bytes of standard output that are kept of a command, and bytes of an output of which only the end is kept.
WHOLE, END = 16 << 20, 256 << 10
#: Bytes in which the last line of an output is looked for.
_LINE = 8 << 10


class Output:
    """The output of a process so far, and the input that it has not read yet.

    Args:
        process: its standard error is a pipe; its standard input and output may be.
        stdin: the text to write to its standard input, if that is a pipe.
        only_the_end: whether only the last `END` bytes of its standard output are kept.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", stdin: str, only_the_end: bool):
        self.last_time = time.monotonic()
        self._stdin: Any = process.stdin
        self._unsent = memoryview(stdin.encode(errors="surrogateescape"))
        self._limits = {process.stdout: END if only_the_end else WHOLE, process.stderr: END}
        self._is_cut = {process.stdout: only_the_end, process.stderr: True}
        self._content: dict[Any, bytearray] = {}
        self._selector = selectors.PollSelector()  # which takes no descriptor of its own
        for pipe in filter(None, (process.stdout, process.stderr)):
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ)
            self._content[pipe] = bytearray()
        if process.stdin:
            os.set_blocking(process.stdin.fileno(), False)
            self._selector.register(process.stdin, selectors.EVENT_WRITE)

    def read(self, patience: float) -> bool:
        """Read the output that is there, or wait for some.

        Args:
            patience: seconds to wait at most.

        Returns:
            Whether all pipes are closed.

        Raises:
            OverflowError: the output has more bytes than are kept.
        """
        for key, _events in self._selector.select(patience) if self._selector.get_map() else ():
            if key.fileobj is self._stdin:
                self._send()
            else:
                self._receive(key.fileobj)
        return not self._selector.get_map()

    def _receive(self, pipe: Any) -> None:
        try:
            part = os.read(pipe.fileno(), 1 << 16)
        except BlockingIOError:
            return
        if not part:
            self._selector.unregister(pipe)
            return
        self.last_time = time.monotonic()
        content, limit = self._content[pipe], self._limits[pipe]
        content += part
        if len(content) > limit and not self._is_cut[pipe]:
            raise OverflowError(limit)
        if len(content) > 2 * limit:
            del content[:-limit]

    def _send(self) -> None:
        """Write more of the input; a process that has closed its standard input gets no more of it."""
        with contextlib.suppress(BlockingIOError):
            try:
                self._unsent = self._unsent[os.write(self._stdin.fileno(), self._unsent[: 1 << 16]) :]
            except BrokenPipeError:
                self._unsent = self._unsent[:0]
        if not self._unsent:
            self._selector.unregister(self._stdin)
            self._stdin.close()

    def read_rest(self) -> None:
        """Read what a process that has ended has left in its pipes, which its children may keep open."""
        deadline = time.monotonic() + 1
        with contextlib.suppress(OverflowError):
            while time.monotonic() < deadline and not self.read(0.05):
                pass

    def silence(self) -> float:
        """Return the seconds since the process last printed something."""
        return time.monotonic() - self.last_time

    def tails(self) -> list[bytes]:
        """Return the end of each pipe's output, which has its last line."""
        return [bytes(content[-_LINE:]) for content in self._content.values()]

    def text(self, pipe: Any) -> str:
        """Return the output of a pipe, or the end of it where only that is kept."""
        content = self._content.get(pipe, bytearray())
        return bytes(content[-self._limits[pipe] :] if self._is_cut[pipe] else content).decode(errors="replace")
