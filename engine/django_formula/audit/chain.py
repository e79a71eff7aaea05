"""The file of the audit log: lines of JSON, each with the SHA-256 of the one before under ``prev``, a file a year."""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.host import clock

FOLDER = Path("/var/lib/django-formula")
#: Seconds for which a line waits for another process that writes one.
_PATIENCE = 1.0
#: The most bytes of a line.
_LONGEST = 1 << 16


def current() -> Path:
    """Return the file that lines are added to."""
    return FOLDER / "audit.jsonl"


def years() -> list[Path]:
    """Return the files of the log, that of the oldest year first."""
    return [path for path in (*sorted(FOLDER.glob("audit-[0-9]*.jsonl")), current()) if path.exists()]


def append(values: Mapping[str, Any]) -> str:
    """Add a line, whole or not at all; return it.

    Raises:
        OSError: it cannot be written: the disk is full, or another process has had the file open for too long.
    """
    FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor, last = _opened()
    try:
        line = json.dumps({**values, "prev": digest(last) if last else ""})
        end = os.lseek(descriptor, 0, os.SEEK_END)
        torn = b"" if not end or os.pread(descriptor, 1, end - 1) == b"\n" else b"\n"  # power failed in a line
        data = torn + line.encode() + b"\n"
        try:
            written = os.write(descriptor, data)
            if written < len(data):
                raise OSError(28, os.strerror(28), str(current()))
        except OSError:
            os.ftruncate(descriptor, end)
            raise
        return line
    finally:
        os.close(descriptor)


def _opened() -> tuple[int, bytes]:
    """Return the file, locked until it is closed, and the last line of the log; a new year begins a new file."""
    deadline, last, path = time.monotonic() + _PATIENCE, b"", current()
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor, deadline)
            if not _is(path, descriptor):  # another process has begun a new year
                os.close(descriptor)
                continue
            last = _last_line(descriptor) or last
            older = path.with_name(f"audit-{_year(last)}.jsonl")
            is_of_now = not os.fstat(descriptor).st_size or _year(last) >= clock.now()[:4]
            if is_of_now or any(other >= older for other in years()[:-1]):  # a clock was wrong
                return descriptor, last or _last_of_older()
            path.rename(older)
            os.close(descriptor)
        except OSError:
            os.close(descriptor)
            raise


def _lock(descriptor: int, deadline: float) -> None:
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.01)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _last_line(descriptor: int) -> bytes:
    end = os.lseek(descriptor, 0, os.SEEK_END)
    start = max(end - _LONGEST, 0)
    return os.pread(descriptor, end - start, start).rstrip(b"\n").rpartition(b"\n")[2]


def _last_of_older() -> bytes:
    for path in reversed(years()):
        with path.open("rb") as older:
            if last := _last_line(older.fileno()):
                return last
    return b""


def _year(line: bytes) -> str:
    """Return the year of a line; that of now, where it has none."""
    when = str(parsed(line).get("time", ""))[:4]
    return when if when.isdigit() else clock.now()[:4]


def digest(line: bytes) -> str:
    """Return what the line after this one has as ``prev``."""
    return hashlib.sha256(line).hexdigest()


def parsed(line: bytes) -> dict[str, Any]:
    """Return the values of a line; none, where it is damaged."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def lines() -> Iterator[tuple[str, bytes]]:
    """Yield each line of the log with its place, the oldest first."""
    for path in years():
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield f"{path}:{number}", line.rstrip(b"\n")


def broken() -> tuple[str, int]:
    """Return the first line that does not follow the one before it, empty where all do; and the number of lines."""
    last, count = b"", 0
    for place, line in lines():
        if parsed(line).get("prev") != (digest(last) if last else ""):
            return place, count
        last, count = line, count + 1
    return "", count
