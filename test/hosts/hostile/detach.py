"""What hostile programs share: a daemon that survives its starter, and an atomic exchange of two paths."""

import ctypes
import os
import sys
from collections.abc import Callable

_LIBC = ctypes.CDLL(None, use_errno=True)


def detached(work: Callable[[], object], keep: bool = False, keep_output: bool = False) -> None:
    """Run a function in a daemon with a session of its own; the caller goes on at once.

    Args:
        keep: keep every descriptor that was inherited, such as locks, but for input and output.
        keep_output: keep these too, so that a reader of the output waits for the daemon.
    """
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    if not keep:
        os.closerange(3, 4096)
    if not keep_output:
        null = os.open("/dev/null", os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
    try:
        work()
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    os._exit(0)


def exchange(one: str, other: str) -> bool:
    """Exchange two paths in one step, as renameat2 does; whether it did."""
    return not _LIBC.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2)
