"""Commands on a host by one process there: `runc exec` for each takes ten times as much CPU; tests run thousands."""

import contextlib
import json
import subprocess
import threading
from collections.abc import Mapping, Sequence

#: The process on the host. A command has a session of its own, and files of memory for its output, which what it leaves
#: behind may keep open.
PROGRAM = r"""
import json, os, subprocess, sys
os.environ.pop("LC_CTYPE", None)  # which Python has set for itself
for line in sys.stdin.buffer:
    argv, environment, size = json.loads(line)
    files = [open(os.memfd_create(name), "w+b", buffering=0) for name in ("in", "out", "err")]
    data = sys.stdin.buffer.read(size)
    while data:
        data = data[files[0].write(data):]
    files[0].seek(0)
    print("begun", flush=True)
    try:
        code = subprocess.call(argv, stdin=files[0], stdout=files[1], stderr=files[2], env=os.environ | environment,
                               start_new_session=True)
    except OSError as error:
        code = 127
        files[2].write(str(error).encode())
    texts = [os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0) for file in files[1:]]
    print(json.dumps([code, *map(len, texts)]), flush=True)
    sys.stdout.buffer.write(b"".join(texts))
    sys.stdout.buffer.flush()
    for file in files:
        file.close()
"""


class Gone(Exception):
    """The process on the host has ended before it began the command."""


class Shell:
    """A process on a host that runs one command after the other.

    start: the command that starts a process on the host, without that process's own
    """

    def __init__(self, start: Sequence[str]):
        self.process = subprocess.Popen(
            [*start, "python3", "-ISuc", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def run(
        self, argv: Sequence[str], environment: Mapping[str, str], stdin: bytes, timeout: float
    ) -> tuple[int, bytes, bytes]:
        """Return the exit code and the output of a command: 137 where the host ends before it.

        Raises Gone, and TimeoutExpired after `timeout` seconds.
        """
        given, answers = self.process.stdin, self.process.stdout
        assert given and answers
        clock = threading.Timer(timeout, self.process.kill)
        clock.start()
        try:
            given.write(json.dumps([[*argv], {**environment}, len(stdin)]).encode() + b"\n" + stdin)
            given.flush()
            begun = answers.readline()
        except BrokenPipeError:
            begun = b""
        try:
            if not begun:
                raise Gone
            told = answers.readline()
            if told:
                code, *sizes = json.loads(told)
                out, err = (answers.read(size) for size in sizes)
                return code, out, err
            if not clock.is_alive():
                raise subprocess.TimeoutExpired([*argv], timeout)
            return 137, b"", b""
        finally:
            clock.cancel()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):  # of what the process has not read
                pipe and pipe.close()
