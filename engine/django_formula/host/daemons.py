"""Daemons of this host: start, reload, restart and stop them, with or without systemd; what counts is their process."""

import contextlib
import math
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from django_formula.host import commands, file, proc
from django_formula.host import ports as host_ports
from django_formula.host import units as host_units
from django_formula.host.commands import DeploymentError
from django_formula.untrusted.foreign import Foreign

SYSTEMD = Path("/run/systemd/system")
UNITS = Path("/etc/systemd/system")
RUN = Path("/run")
#: What tells Debian's packages not to start their services.
POLICY = Path("/usr/sbin/policy-rc.d")
#: Such a policy of ours.
_REFUSE = "#!/bin/sh\n# Written by django-formula while it installs a package.\nexit 101\n"
#: Has a note of each service that is being installed without being started, until that is done.
NOTES = Path("/var/lib/django-formula/services")
#: Seconds that a daemon may take to start.
PATIENCE = 10.0
#: Seconds that a daemon may take whose start failed because another process is starting it too.
CONTEST = 2.0
#: Words at the beginning of a command line among which its program is: after an emulator and an interpreter.
_FIRST_WORDS = 3


class Daemon(NamedTuple):
    """A daemon: the name of its service, a pattern of its pid file in /run, and a text in its command line.

    A web server also has the command that reloads it without systemd, and its error log.
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
CRON = Daemon("cron", "crond.pid", "cron")
HAPROXY = Daemon("django-haproxy", "django-haproxy/haproxy.pid", "haproxy")  # units of the formula's own
VARNISH = Daemon("django-varnish", "django-varnish/varnish.pid", "varnishd")
BALANCING_NGINX = Daemon("django-nginx", "django-nginx/nginx.pid", "nginx", log="journalctl --unit django-nginx")
PGBOUNCER = Daemon("django-pgbouncer", "django-pgbouncer/pgbouncer.pid", "pgbouncer")
DOCKER = Daemon("docker", "docker.pid", "dockerd")
_OWN = (HAPROXY, VARNISH, BALANCING_NGINX, PGBOUNCER)
#: For a web server of a package: Debian's nginx stays down when it was killed, and all of it is stopped when the kernel
#: kills one of its processes for memory (docs/decisions/0173). One that exits by itself is not started again.
_REVIVED = """# Written by django-formula: the web server is started again when it was killed.
[Unit]
StartLimitIntervalSec=0

[Service]
Restart=on-abnormal
RestartSec=1
OOMPolicy=continue
"""
DAEMONS = {daemon.service: daemon for daemon in (NGINX, APACHE, SUPERVISOR, POSTGRES, MARIADB, CRON, DOCKER, *_OWN)}


@contextlib.contextmanager
def never_started(service: str) -> Iterator[None]:
    """Have a service that is installed in this block neither started nor enabled; one that is there stays as it is.

    A package starts its service when it is installed. Where the service must not run at all, that would open its port.
    A policy of the operator's for all packages stays, and decides; the service is stopped after it.
    """
    guard = SYSTEMD / f"{service}.service" if has_systemd() else POLICY  # the mask is there until the next boot
    is_masked = has_systemd() and os.path.lexists(guard)
    if (_is_defined(service) or is_masked) and not is_half_installed(service):
        yield
        return
    NOTES.mkdir(mode=0o755, parents=True, exist_ok=True)
    (NOTES / service).touch()
    is_others = not has_systemd() and _is_others(guard)
    if not is_others:
        _put_up(guard)
    try:
        yield
    finally:
        if not is_others:
            guard.unlink()
        if not _is_defined(service):  # the package was not installed
            (NOTES / service).unlink()
    if has_systemd():
        host_units.control("disable", "--now", service, doing=f"disabling {service}")
    else:
        if is_others:
            commands.run(["service", service, "stop"], doing=f"stopping {service}", daemon=True)
        commands.run(["update-rc.d", service, "disable"], doing=f"disabling {service}")
    (NOTES / service).unlink(missing_ok=True)


def is_half_installed(service: str) -> bool:
    """Return whether `never_started` was killed or failed for a service: it may be enabled."""
    return (NOTES / service).exists()


def _put_up(guard: Path) -> None:
    """Keep a package from starting its service, as a killed `never_started` may have left it already."""
    if os.path.lexists(guard):
        return
    guard.parent.mkdir(exist_ok=True)
    if has_systemd():
        guard.symlink_to("/dev/null")
    else:
        file.write(guard, _REFUSE, mode=0o755)


def _is_others(policy: Path) -> bool:
    return os.path.lexists(policy) and not (policy.is_file() and policy.read_text(errors="replace") == _REFUSE)


def _is_defined(service: str) -> bool:
    return any((Path(folder) / name).exists() for folder, name in _places(service))


def _places(service: str) -> list[tuple[str, str]]:
    """Return where a service may be defined: folder and name."""
    units = [
        (folder, f"{service}.service") for folder in (str(UNITS), "/lib/systemd/system", "/usr/lib/systemd/system")
    ]
    return [*units, ("/etc/init.d", service)]


def has_systemd() -> bool:
    """Return whether systemd is PID 1 of this host."""
    return SYSTEMD.is_dir()


def pid(daemon: Daemon) -> int | None:
    """Return the main process of a daemon, or None if it does not run, even where a stale pid file exists."""
    for path in sorted(RUN.glob(daemon.pid_file)):
        with contextlib.suppress(OSError, ValueError, DeploymentError):
            number = int(Foreign(path.parent, path.name).text(64) or "")
            if _is_of(proc.command_line(number), daemon.program.encode()):
                return number
    return None


def _is_of(command_line: bytes, program: bytes) -> bool:
    """Return whether a command line is of a program, which may have an interpreter and an emulator before it.

    That of another process may name the program too: one that follows its log, in a container that was started again.
    """
    first, *others = re.split(rb"[\0 ]", command_line)[:_FIRST_WORDS]
    is_first = os.path.basename(first.rstrip(b":")).startswith(program)
    return is_first or any(word.startswith(b"/") and os.path.basename(word) == program for word in others)


def is_running(daemon: Daemon) -> bool:
    """Return whether a daemon runs: by its process, or by systemd where its pid file is configured elsewhere."""
    if pid(daemon) is not None:
        return True
    # The unit of PostgreSQL represents all clusters, and is active without any.
    return has_systemd() and daemon != POSTGRES and _systemd_confirms("is-active", daemon)


def is_enabled(daemon: Daemon) -> bool:
    """Return whether a daemon starts at boot; without systemd its package has seen to that."""
    if not has_systemd():
        return True
    unit = f"{daemon.service}.service"
    links = [folder / unit for folder in UNITS.glob("*.wants")]
    if any(path.is_symlink() for path in links) and not (UNITS / unit).is_symlink():
        return True  # each apply checks it, and a process would take longer
    return _systemd_confirms("is-enabled", daemon)


def _systemd_confirms(verb: str, daemon: Daemon) -> bool:
    unit = f"{daemon.service}.service"
    try:
        host_units.control(verb, "--quiet", unit, doing=f"querying {unit}")
    except DeploymentError:
        return False
    return True


def enable(daemon: Daemon) -> None:
    """Have systemd start a daemon at boot.

    Raises:
        DeploymentError: systemd refuses, for instance because the unit is masked.
    """
    name = daemon.service
    hint = f"run systemctl status {name}; a masked unit cannot be enabled"
    host_units.control("enable", "--quiet", f"{name}.service", doing=f"enabling {name}", hint=hint)


def revival(daemon: Daemon) -> dict[Path, str | None]:
    """Return the file by which systemd starts a daemon again that was killed; nothing without systemd.

    ``systemctl edit`` makes one that is read later, and so has precedence.
    """
    return {UNITS / f"{daemon.service}.service.d" / "django-formula.conf": _REVIVED} if has_systemd() else {}


def age(daemon: Daemon) -> float:
    """Return the seconds since a daemon started, by its pid file; infinite without one."""
    try:
        return time.time() - (RUN / daemon.pid_file).stat().st_mtime
    except FileNotFoundError:
        return math.inf


def children(daemon: Daemon) -> set[int]:
    """Return the child processes of a daemon's main process; none where it does not run."""
    main = pid(daemon)
    return proc.children(main) if main else set()


def journal(name: str, since: float, lines_of: Sequence[str] = ()) -> str:
    """Return the last lines of a unit in the journal since a time (seconds since 1970).

    Args:
        lines_of: which lines these are, where they are not those of the unit alone, as journalctl takes it.

    They are queried in reverse: with ``--since``, systemd 252 takes ``--lines`` for the first lines.
    """
    which = [*(lines_of or ("--unit", name)), "--since", f"@{int(since)}", "--reverse", "--lines", "60"]
    try:
        argv = ["journalctl", *which, "--output", "cat", "--no-pager", "--quiet"]
        return "\n".join(reversed(commands.run(argv, doing="reading the journal").splitlines()))
    except DeploymentError:
        return ""


def start(daemon: Daemon) -> None:
    """Start a daemon that does not run, and wait until it does.

    Raises:
        DeploymentError: it does not start; its output is in the log of the error.
    """
    name = daemon.service
    output = _by_systemd("start", daemon) if has_systemd() else _start_by_script(daemon)
    if not _starts_within(daemon, PATIENCE):
        hint = f"service {name} start"
        raise DeploymentError(f"{name} does not run after it was started", log=output, hint=hint)


def _by_systemd(verb: str, daemon: Daemon) -> str:
    """Have systemd start or restart a daemon; an error has the lines that the daemon wrote to the journal."""
    began, name = time.time(), daemon.service
    try:
        return host_units.control(verb, f"{name}.service", doing=f"{verb}ing {name}")
    except DeploymentError as error:
        error.log = journal(name, began) or error.log
        raise


def _start_by_script(daemon: Daemon) -> str:
    """Start a daemon by its init script, and return the output of the script."""
    for path in RUN.glob(daemon.pid_file):
        path.unlink()  # stale; in some containers it names a zombie for ever
    argv, doing = ["service", daemon.service, "start"], f"starting {daemon.service}"
    try:
        return commands.run(argv, doing=doing, errors_too=True, daemon=True)
    except DeploymentError:
        # The container's own start may be starting it too: then one of the two fails, and one is enough.
        if _starts_within(daemon, CONTEST):
            return ""
        raise


def _starts_within(daemon: Daemon, patience: float) -> bool:
    """Wait until a daemon runs, and return whether it does in time."""
    deadline = time.monotonic() + patience
    while pid(daemon) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def stop(daemon: Daemon) -> None:
    """Stop a daemon and disable it, and wait until it has ended.

    Raises:
        DeploymentError: it does not end.
    """
    name, main = daemon.service, pid(daemon)
    if has_systemd():
        host_units.control("disable", "--quiet", "--now", f"{name}.service", doing=f"stopping {name}")
    elif main is not None:
        # Not by its script: Apache's fails if another Apache runs, or if the process stays a zombie.
        with contextlib.suppress(ProcessLookupError):
            os.kill(main, signal.SIGTERM)
    deadline = time.monotonic() + PATIENCE
    while pid(daemon) is not None:
        if time.monotonic() > deadline:
            raise DeploymentError(f"{name} does not stop", hint=f"run systemctl status {name}")
        time.sleep(0.02)


def restart(daemon: Daemon) -> None:
    """Restart a web server that runs; until it has started, requests are refused.

    Raises:
        DeploymentError: it does not run afterwards; its output is in the log of the error.
    """
    name, main = daemon.service, pid(daemon)
    if has_systemd():
        _by_systemd("restart", daemon)
    else:
        stop(daemon)
        start(daemon)
    deadline = time.monotonic() + PATIENCE
    while pid(daemon) in (None, main):
        if time.monotonic() > deadline:
            hint = f"read its error log: {daemon.log}"
            raise DeploymentError(f"{name} does not run after it was restarted", hint=hint)
        time.sleep(0.02)


def reload(daemon: Daemon) -> None:
    """Reload a web server, or start it if it does not run, and wait until no worker uses the old configuration.

    Raises:
        DeploymentError: it exited, or still uses its old configuration.
    """
    name, main = daemon.service, pid(daemon)
    if main is None:
        start(daemon)
        return
    old = _workers(daemon, main)
    if has_systemd():
        host_units.control("reload", f"{name}.service", doing=f"reloading {name}")
    else:
        commands.run(list(daemon.reload), doing=f"reloading {name}")
    deadline = time.monotonic() + PATIENCE
    while old & _workers(daemon, main):
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"{name} still uses its old configuration after it was reloaded",
                hint=f"read its error log: {daemon.log}",
            )
        time.sleep(0.02)
    if pid(daemon) is None:
        raise DeploymentError(f"{name} exited after it was reloaded", hint=f"read its error log: {daemon.log}")


def _workers(daemon: Daemon, main: int) -> set[int]:
    """Return the workers of a web server that accept requests, not those that only finish their last ones.

    A worker of nginx that shuts down has another title; one of Apache has closed its listening sockets. Without
    CAP_SYS_PTRACE root sees no sockets of Apache's: it is then the newest one, since a reload begins with new ones.
    """
    if daemon.program != "nginx":
        ports, running = host_ports.listening(), proc.children(main)
        accepting = {number for number in running if host_ports.is_listening(number, ports)}
        ages = [(found.started, number) for number in running if (found := proc.stat(number)) and found.is_running]
        return accepting or {number for _started, number in sorted(ages)[-1:]}
    lines = {number: proc.command_line(number).rstrip(b"\0 ") for number in proc.children(main)}
    return {number for number, line in lines.items() if line.endswith(b"worker process")}
