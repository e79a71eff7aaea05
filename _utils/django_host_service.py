"""Daemons of the host: started the way this host starts services, and judged by their process, not by what is said."""

import contextlib
import math
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

import django_host_command
import django_host_port
import django_host_proc
from django_host_command import DeploymentError
from django_wall_foreign import Foreign

SYSTEMD = Path("/run/systemd/system")
UNITS = Path("/etc/systemd/system")
RUN = Path("/run")
#: Seconds that a daemon may take to start.
PATIENCE = 10.0
#: Seconds for one that somebody else may be starting.
CONTEST = 2.0


class Daemon(NamedTuple):
    """A daemon: the name of its service, its pid file in /run (a pattern), what its process has in its command line.

    Of a web server also what reloads it where there is no systemd, and where its own log is.
    """

    service: str
    pid_file: str
    program: str
    reload: tuple[str, ...] = ()
    log: str = ""


NGINX = Daemon("nginx", "nginx.pid", "nginx", ("nginx", "-s", "reload"), "/var/log/nginx/error.log")
APACHE = Daemon("apache2", "apache2/apache2.pid", "apache2", ("apache2ctl", "graceful"), "/var/log/apache2/error.log")
SUPERVISOR = Daemon("supervisor", "supervisord.pid", "supervisord")
POSTGRES = Daemon("postgresql", "postgresql/*.pid", "postgres")
MARIADB = Daemon("mariadb", "mysqld/*.pid", "mariadbd")
DAEMONS = {daemon.service: daemon for daemon in (NGINX, APACHE, SUPERVISOR, POSTGRES, MARIADB)}


def has_systemd() -> bool:
    """Whether systemd is PID 1 of this host."""
    return SYSTEMD.is_dir()


def pid(daemon: Daemon) -> int | None:
    """The main process of a daemon; None when it does not run, whatever an old file says."""
    for path in sorted(RUN.glob(daemon.pid_file)):
        with contextlib.suppress(OSError, ValueError, DeploymentError):
            number = int(Foreign(path.parent, path.name).text(64) or "")
            if daemon.program.encode() in django_host_proc.command_line(number):
                return number
    return None


def is_running(daemon: Daemon) -> bool:
    """Whether a daemon runs: by its process, or by systemd's word where somebody lets it write its pid elsewhere."""
    if pid(daemon) is not None:
        return True
    # (the unit of PostgreSQL stands for all clusters, and is active without any)
    return has_systemd() and daemon != POSTGRES and _says_yes("is-active", daemon)


def is_enabled(daemon: Daemon) -> bool:
    """Whether systemd starts a daemon at boot; without systemd it is True, for its package has seen to that."""
    if not has_systemd():
        return True
    unit = f"{daemon.service}.service"
    links = [folder / unit for folder in UNITS.glob("*.wants")]
    if any(path.is_symlink() for path in links) and not (UNITS / unit).is_symlink():
        return True  # each apply asks; a process for it would cost more than the looking
    return _says_yes("is-enabled", daemon)


def _says_yes(verb: str, daemon: Daemon) -> bool:
    unit = f"{daemon.service}.service"
    try:
        django_host_command.run(["systemctl", verb, "--quiet", unit], doing=f"asking for {unit}")
    except DeploymentError:
        return False
    return True


def enable(daemon: Daemon) -> None:
    """Have systemd start a daemon at boot.

    Raises:
        DeploymentError: it refuses, as where the unit is masked.
    """
    name = daemon.service
    argv = ["systemctl", "enable", "--quiet", f"{name}.service"]
    django_host_command.run(argv, doing=f"enabling {name}", hint=f"systemctl status {name} says why, such as masked")


def age(daemon: Daemon) -> float:
    """Seconds since a daemon has started, by its pid file; infinite where there is none."""
    try:
        return time.time() - (RUN / daemon.pid_file).stat().st_mtime
    except FileNotFoundError:
        return math.inf


def children(daemon: Daemon) -> set[int]:
    """Return the child processes of a daemon's main process; none where it does not run."""
    main = pid(daemon)
    return django_host_proc.children(main) if main else set()


def journal(name: str, since: float) -> str:
    """The last lines of a unit in the journal since a time (seconds since 1970).

    They are asked for from the end: systemd 252 takes ``--lines`` beside ``--since`` for the first ones.
    """
    which = ["--unit", name, "--since", f"@{int(since)}", "--reverse", "--lines", "60"]
    try:
        argv = ["journalctl", *which, "--output", "cat", "--no-pager", "--quiet"]
        return "\n".join(reversed(django_host_command.run(argv, doing="reading the journal").splitlines()))
    except DeploymentError:
        return ""


def start(daemon: Daemon) -> None:
    """Start a daemon that does not run, and wait until it does.

    Raises:
        DeploymentError: it does not; with what it has said.
    """
    name = daemon.service
    output = _systemctl("start", daemon) if has_systemd() else _start_by_script(daemon)
    if not _comes_up(daemon, PATIENCE):
        hint = f"service {name} start"
        raise DeploymentError(f"{name} does not run, though it was started", log=output, hint=hint)


def _systemctl(verb: str, daemon: Daemon) -> str:
    """Have systemd start or restart a daemon; where that fails, the error has what it has said."""
    began, name = time.time(), daemon.service
    try:
        return django_host_command.run(["systemctl", verb, f"{name}.service"], doing=f"{verb}ing {name}")
    except DeploymentError as error:
        error.log = journal(name, began) or error.log
        raise


def _start_by_script(daemon: Daemon) -> str:
    """Start a daemon as a host without systemd does it; returns what its script says."""
    for path in RUN.glob(daemon.pid_file):
        path.unlink()  # of one that is dead, and in some containers never buried
    argv, doing = ["service", daemon.service, "start"], f"starting {daemon.service}"
    try:
        return django_host_command.run(argv, doing=doing, errors_too=True, daemon=True)
    except DeploymentError:
        # Whoever starts the container may be starting it too: one of the two gives up, and one is enough.
        if _comes_up(daemon, CONTEST):
            return ""
        raise


def _comes_up(daemon: Daemon, patience: float) -> bool:
    """Whether a daemon runs within so many seconds."""
    deadline = time.monotonic() + patience
    while pid(daemon) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def stop(daemon: Daemon) -> None:
    """Stop a daemon, at boots too, and wait until it has ended.

    Raises:
        DeploymentError: it does not end.
    """
    name, main = daemon.service, pid(daemon)
    if has_systemd():
        argv = ["systemctl", "disable", "--quiet", "--now", f"{name}.service"]
        django_host_command.run(argv, doing=f"stopping {name}")
    elif main is not None:
        # Not by its script: that of Apache fails where an Apache of somebody else runs, or nobody buries the dead.
        with contextlib.suppress(ProcessLookupError):
            os.kill(main, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE
    while pid(daemon) is not None:
        if time.monotonic() > deadline:
            raise DeploymentError(f"{name} does not stop", hint=f"look at it: systemctl status {name}")
        time.sleep(0.02)


def restart(daemon: Daemon) -> None:
    """Have a web server that runs end, and start it anew: for a moment nobody answers.

    Raises:
        DeploymentError: it does not run any more; with what it has said.
    """
    name, main = daemon.service, pid(daemon)
    if has_systemd():
        _systemctl("restart", daemon)
    else:
        stop(daemon)
        start(daemon)
    deadline = time.monotonic() + PATIENCE
    while pid(daemon) in (None, main):
        if time.monotonic() > deadline:
            hint = f"its error log says why: {daemon.log}"
            raise DeploymentError(f"{name} does not run, though it was restarted", hint=hint)
        time.sleep(0.02)


def reload(daemon: Daemon) -> None:
    """Have a web server read its configuration anew, or start it where it does not run; then nobody answers by the old.

    Raises:
        DeploymentError: it does not run any more, or goes on with its old configuration.
    """
    name, main = daemon.service, pid(daemon)
    if main is None:
        start(daemon)
        return
    old = _workers(daemon, main)
    if has_systemd():
        django_host_command.run(["systemctl", "reload", f"{name}.service"], doing=f"reloading {name}")
    else:
        django_host_command.run(list(daemon.reload), doing=f"reloading {name}")
    deadline = time.monotonic() + PATIENCE
    while old & _workers(daemon, main):
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"{name} goes on with its old configuration, though it was reloaded",
                hint=f"its error log says why: {daemon.log}",
            )
        time.sleep(0.02)
    if pid(daemon) is None:
        raise DeploymentError(f"{name} has ended, though it was reloaded", hint=f"its error log says why: {daemon.log}")


def _workers(daemon: Daemon, main: int) -> set[int]:
    """The workers of a web server that take requests; one that shuts down ends those that it has.

    A worker of nginx says so in its title; one of Apache gives up its sockets.
    """
    if daemon is not NGINX:
        ports = django_host_port.listening()
        return {number for number in django_host_proc.children(main) if django_host_port.is_listening(number, ports)}
    lines = {number: django_host_proc.command_line(number).rstrip(b"\0 ") for number in django_host_proc.children(main)}
    return {number for number, line in lines.items() if line.endswith(b"worker process")}
