"""The origin of a deployment: the function that was called, its user, and the Salt job."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgpack

from django_formula.audit import caller as audit_caller
from django_formula.audit.caller import Caller


def asked_by(function: str, cachedir: str) -> str:
    """Return the origin of a deployment for the lock and the record: function, user and number of the Salt job.

    Args:
        function: the function that was called, such as ``state.apply``.
        cachedir: Salt's cache on this host, where it keeps a file for each running job.
    """
    for path, job in _jobs(cachedir):
        return f"{function} by {_user(job)}, salt job {path.name}"
    return f"{function} by {_user({})}"


def caller(opts: Mapping[str, Any]) -> Caller:
    """Return who calls: the user who published the Salt job of this process and its master, or who has called Salt.

    Args:
        opts: Salt's options.
    """
    for path, job in _jobs(opts["cachedir"]):
        if "schedule" in job:
            return Caller(_user(job), how="schedule", job=path.name)
        if job.get("user"):
            return Caller(_user(job), str(opts.get("master_ip") or ""), "salt", path.name)
    return audit_caller.of_this_process()


def publishers(opts: Mapping[str, Any]) -> set[str]:
    """Return the users who published what this process runs, as the master names them: one, but in threads of a minion.

    Empty where Salt was called on this host.
    """
    return {str(job["user"]) for _path, job in _jobs(opts["cachedir"]) if job.get("user")}


def salt_call(opts: Mapping[str, Any]) -> list[str]:
    """Return the command by which Salt is called on this host with its configuration, empty where there is none."""
    path = shutil.which("salt-call") or shutil.which("salt-call", path=os.path.dirname(sys.executable))
    folder = os.path.dirname(str(opts.get("conf_file") or ""))
    own = [f"--config-dir={folder}"] if folder not in ("", "/etc/salt") else []
    return [path, "--local", *own] if path else []


def _jobs(cachedir: str) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield file and job of what this process runs."""
    for path in Path(cachedir, "proc").glob("*"):
        with contextlib.suppress(OSError, ValueError):
            job = msgpack.unpackb(path.read_bytes())
            if job.get("pid") == os.getpid():
                yield path, job


def _user(job: Mapping[str, Any]) -> str:
    """Return the user who published a Salt job, or its schedule; without either who has called Salt."""
    if "schedule" in job:
        return f"the schedule {job['schedule']}"
    return str(job.get("user") or audit_caller.of_this_process().who).removeprefix("sudo_")
