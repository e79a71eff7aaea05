"""Daemons of the host: started the way this host starts services, and judged by their process, not by what is said."""

import contextlib
import time
from pathlib import Path
from typing import NamedTuple

import django_command
from django_command import DeploymentError

SYSTEMD = Path("/run/systemd/system")
RUN = Path("/run")
PROC = Path("/proc")
#: Seconds that a daemon may take to start.
PATIENCE = 10.0


class Daemon(NamedTuple):
    """A daemon: the name of its service, its pid file in /run, what the command line of its process has in it."""

    service: str
    pid_file: str
    program: str


NGINX = Daemon("nginx", "nginx.pid", "nginx")
SUPERVISOR = Daemon("supervisor", "supervisord.pid", "supervisord")
DAEMONS = {daemon.service: daemon for daemon in (NGINX, SUPERVISOR)}


def has_systemd() -> bool:
    """Whether systemd is PID 1 of this host."""
    return SYSTEMD.is_dir()


def pid(daemon: Daemon) -> int | None:
    """The main process of a daemon; None when it does not run, whatever an old file says."""
    try:
        number = int((RUN / daemon.pid_file).read_text())
        line = (PROC / str(number) / "cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return number if daemon.program.encode() in line else None


def start(daemon: Daemon) -> None:
    """Start a daemon that does not run, and wait until it does.

    Raises:
        DeploymentError: it does not.
    """
    name, output = daemon.service, ""
    if has_systemd():
        django_command.run(["systemctl", "start", f"{name}.service"], doing=f"starting {name}")
    else:
        (RUN / daemon.pid_file).unlink(missing_ok=True)  # of one that is dead, and in some containers never buried
        argv = ["service", name, "start"]
        output = django_command.run(argv, doing=f"starting {name}", errors_too=True, daemon=True)
    deadline = time.monotonic() + PATIENCE
    while pid(daemon) is None:
        if time.monotonic() > deadline:
            hint = f"service {name} start"
            raise DeploymentError(f"{name} does not run, though it was started", log=output, hint=hint)
        time.sleep(0.05)


def reload(daemon: Daemon) -> None:
    """Have nginx read its configuration anew, or start it where it does not run; then nobody answers by the old one.

    Raises:
        DeploymentError: it does not run, or goes on with its old configuration.
    """
    name, main = daemon.service, pid(daemon)
    if main is None:
        start(daemon)
        return
    old = _workers(main)
    if has_systemd():
        django_command.run(["systemctl", "reload", f"{name}.service"], doing=f"reloading {name}")
    else:
        django_command.run([name, "-s", "reload"], doing=f"reloading {name}")
    deadline = time.monotonic() + PATIENCE
    while old & _workers(main):
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"{name} goes on with its old configuration, though it was reloaded",
                hint="its error log says why: /var/log/nginx/error.log",
            )
        time.sleep(0.02)


def _workers(main: int) -> set[int]:
    """The workers of nginx that take requests; one that shuts down ends those that it has."""
    found = set()
    for process in PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == main and (process / "cmdline").read_bytes().rstrip(b"\0 ").endswith(b"worker process"):
                found.add(int(process.name))
    return found
