"""Stop an existing deployment once its site is activated, and move what is left of it aside."""

import contextlib
import errno
import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django_formula.host import daemons, file, ports, proc
from django_formula.host import units as host_units
from django_formula.host.commands import seconds
from django_formula.release import instances
from django_formula.site.sites import Site
from django_formula.takeover import copy, supervisor, worker
from django_formula.takeover import process as takeover_process
from django_formula.takeover.process import Process

#: Seconds that a process may take to end after SIGTERM.
_TERM_TIMEOUT = 10
#: Seconds that copying a tree to another file system may take.
_COPY_TIMEOUT = 3600


def drain(site: Site, plan: dict[str, Any], former: set[int]) -> list[str]:
    """Wait until the existing deployment has answered its requests, for ``releases:drain`` at most.

    Args:
        former: Apache's processes before the switch, which may run the existing deployment by mod_wsgi.

    Returns:
        Warnings.
    """
    timeout = site.config["releases"]["drain"]
    deadline = time.monotonic() + seconds(timeout)
    for address in plan["addresses"]:
        left = _wait_until_none(functools.partial(instances.connections, address), deadline)
        if left:
            return [f"{left} connections to the existing deployment were still open after {timeout}, and were cut"]
    left = _wait_until_none(functools.partial(_answering, site, former), deadline) if plan["wsgi_user"] else 0
    if left:
        return [f"{left} processes of Apache that ran the existing deployment still answer requests after {timeout}"]
    return []


def _answering(site: Site, former: set[int]) -> int:
    """Return how many of Apache's processes from before the switch answer a request; idle ones may stay for long.

    Each that root may not look at counts while it is there: without CAP_SYS_PTRACE, as in most containers.
    """
    listens = [*site.config["proxy"]["listen"], *site.listens_tls]
    present = former & daemons.children(daemons.APACHE)
    hidden = {pid for pid in present if not proc.open_files(pid)}
    return len(hidden | ports.connected(present, [ports.split(listen)[1] for listen in listens]))


def _wait_until_none(count: Callable[[], int], deadline: float) -> int:
    """Wait until a count was zero twice; returns what it is at the deadline."""
    zeros = 0
    while zeros < 2:
        left = count()
        zeros = 0 if left else zeros + 1
        if left and time.monotonic() > deadline:
            return left
        time.sleep(0.05)
    return 0


def stop(site: Site, plan: dict[str, Any], aside: Path) -> None:
    """Stop the units, programs and processes of an existing deployment.

    Raises:
        DeploymentError: systemd or supervisor refuses it.
    """
    units = [Path(path).name for path in plan["units"] if Path(path).exists()]
    if units and daemons.has_systemd():
        timeout = 120 + worker.patience(site)
        host_units.control("disable", "--quiet", "--now", *units, doing=f"stopping {' '.join(units)}", timeout=timeout)
    for name in plan["names"]:
        supervisor.stop(name)
    uwsgi_files = [Path(path) for path in plan["apps"]]
    for path in uwsgi_files:
        move_aside(path, aside)  # before its process is stopped, which an emperor would restart
    folders = [Path(folder) for folder in plan["folders"]]
    found = takeover_process.unmanaged(folders, plan["addresses"], uwsgi_files)
    own = [site.releases, site.virtualenvs]
    old = [process for process in found if not process.is_below(own)]
    workers = [process for process in old if not process.serves_pages()]
    _end([process for process in old if process not in workers], _TERM_TIMEOUT)
    _end(workers, worker.patience(site))


def _end(processes: list[Process], timeout: float) -> None:
    """End processes by SIGTERM (uWSGI, which reloads on that, by SIGINT), after a timeout by SIGKILL."""
    for process in processes:
        _signal(process.pid, signal.SIGINT if process.is_uwsgi() else signal.SIGTERM)
    deadline = time.monotonic() + timeout
    while any(proc.is_running(process.pid) for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in processes:
        _signal(process.pid, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def path_aside(path: Path, aside: Path) -> Path:
    """Return where a path is moved to: below the folder, under the path that it had. The parent folder is made."""
    target = aside / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return target


def move_aside(path: Path, aside: Path) -> None:
    """Move a file or tree of an existing deployment aside; what is already there is not replaced.

    Raises:
        DeploymentError: it is on another file system and cannot be copied as its owner.
    """
    target = path_aside(path, aside)
    while os.path.lexists(target):
        target = target.with_name(f"{target.name}.again")
    if not os.path.lexists(path):
        return
    try:
        path.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy.copy_as_owner(path, target, _COPY_TIMEOUT)
        file.remove_tree(path)
