"""The origin of a deployment: the function that was called, its user, and the Salt job."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack


def asked_by(function: str, cachedir: str) -> str:
    """Return the origin of a deployment for the lock and the record: function, user and number of the Salt job.

    Args:
        function: the function that was called, such as ``state.apply``.
        cachedir: Salt's cache on this host, where it keeps a file for each running job.
    """
    for path in Path(cachedir, "proc").glob("*"):
        with contextlib.suppress(OSError, ValueError):
            job = msgpack.unpackb(path.read_bytes())
            if job.get("pid") == os.getpid():
                return f"{function} by {_user(job)}, salt job {path.name}"
    return f"{function} by {_user({})}"


def _user(job: Mapping[str, Any]) -> str:
    """Return the user who published a Salt job, or its schedule; without either the user who became root."""
    if "schedule" in job:
        return f"the schedule {job['schedule']}"
    return str(job.get("user") or os.environ.get("SUDO_USER") or "root").removeprefix("sudo_")
