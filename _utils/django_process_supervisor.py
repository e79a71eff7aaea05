"""supervisor as process manager, where systemd is not PID 1 or the pillar chooses it: a program for each release."""

import contextlib
import http.client
import os
import re
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import django_host_command
import django_host_environment
import django_host_file
import django_host_proc
import django_host_service
import django_host_template
import django_host_user
import django_kinds
import django_process
import django_server
import django_wall_delegate
import django_wall_reaper
from django_host_command import DeploymentError, seconds
from django_process import ProcessManager, ProjectCommand, unit
from django_site import Site
from django_wall_foreign import Foreign
from django_wall_response import Bounded

PROGRAMS = Path("/etc/supervisor/conf.d")
#: Where supervisor writes the output of a program: until the server has its own log, or all of it.
OUTPUT = Path("/var/log/supervisor")
PROGRAM, SCRIPT, LISTEN = (f"{django_kinds.FILES}{name}" for name in django_kinds.PROCESS_MANAGERS["supervisor"])
#: Seconds by which the time of a file may be behind the clock.
_TICK = 0.02
#: Seconds after its own start within which supervisor starts every program.
_FIRST = 2.0
#: Seconds after which a ready file belongs to the server that runs, and not to one that outlived its supervisor;
#: supervisor counts whole seconds.
_SETTLED = 2.0
#: More bytes than supervisor lets a log file have.
_OUTPUT = 16 << 20
#: Seconds for an answer of supervisor or the end of a log; and for a leftover server to end.
_PATIENCE, _LEFTOVER = 10.0, 10.0
_NO_SANDBOX = (
    "supervisor has no sandbox: a release is confined by the rights of its user only (docs/reference/sandbox.md)"
)


class Program(NamedTuple):
    """A program as supervisor reports it: its process or None, the age of that in seconds, and its state."""

    pid: int | None
    age: float
    state: str


class Supervisor(ProcessManager):
    """supervisor, which has no sandbox."""

    KIND = "supervisor"

    def warnings(self, site: Site) -> list[str]:
        """Return that there is no sandbox."""
        return [_NO_SANDBOX]

    def configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the program of a release and what it runs: file name in ``config/`` → content."""
        more = {"identity": _identity(site), "secrets": str(site.secrets)}
        return {
            f"{unit(site, release)}.conf": django_host_template.render(templates, PROGRAM, **variables),
            "supervisor.sh": django_host_template.render(templates, SCRIPT, **more, **variables),
            **({} if variables["binds"] else {"django_formula_listen.py": templates[LISTEN]}),
        }

    def files(self, site: Site) -> list[Path]:
        """Return the program files of all releases of a site."""
        pattern = rf"django-{site.name}-\d+\.conf"
        return [path for path in PROGRAMS.glob(f"django-{site.name}-*.conf") if re.fullmatch(pattern, path.name)]

    def pid(self, site: Site, release: Path) -> int | None:
        """Return the process that supervisor started for the program of a release, or None when it does not run."""
        program = _program(unit(site, release))
        return program.pid if program else None

    def is_kept_alive(self, site: Site, release: Path) -> bool:
        """Return whether the instance runs, is whole, and would run again after a restart of supervisor.

        One that supervisor is starting, as after a restart of the container, is waited for.
        """
        if self._is_changed(site, release):
            return False
        starts = _starts(site, release)
        deadline = time.monotonic() + seconds(site.config["timeouts"]["start"])
        while not _is_ready(site, release, _SETTLED):
            if not _is_under_way(site, release) or _starts(site, release) > starts + 1 or time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def installed(self, site: Site, release: Path) -> dict[Path, str]:
        """Return the program file of a release: path → the content that its configuration has."""
        name = f"{unit(site, release)}.conf"
        return {PROGRAMS / name: django_host_file.read_text(release / "config" / name) or ""}

    def _is_changed(self, site: Site, release: Path) -> bool:
        return any(django_host_file.read_text(path) != text for path, text in self.installed(site, release).items())

    def enabled(self, site: Site) -> set[str]:
        """Return the programs of a site: supervisor starts each that has a file when it starts itself."""
        return {path.stem for path in self.files(site)}

    def start(self, site: Site, release: Path) -> None:
        """Install the program of a release, start it, and wait until the server accepts requests.

        Raises:
            DeploymentError: supervisor does not run, the server exits at once, or does not become ready in time.
        """
        name = unit(site, release)
        if self.is_kept_alive(site, release):
            return
        self.stop(site, release)
        self._clear(site, release)
        if django_host_service.pid(django_host_service.SUPERVISOR) is None:
            django_host_service.start(django_host_service.SUPERVISOR)
        _forget_old_logs(site)
        django_host_file.write(
            PROGRAMS / f"{name}.conf", django_host_file.read_text(release / "config" / f"{name}.conf") or ""
        )
        _supervisorctl("update", name, doing=f"starting {name}")
        self._wait_until_ready(site, release)

    def _wait_until_ready(self, site: Site, release: Path) -> None:
        deadline = time.monotonic() + seconds(site.config["timeouts"]["start"])
        while not _is_ready(site, release):
            if _starts(site, release) > 1:
                raise DeploymentError("it exits as soon as it is started")
            if time.monotonic() > deadline:
                raise DeploymentError(self._not_ready(site, release))
            time.sleep(0.02)

    def _not_ready(self, site: Site, release: Path) -> str:
        """Return what a release whose time to start is up did not do."""
        cause = "it does not listen on its socket"
        if self.pid(site, release) is None:
            cause = f"supervisor runs no process of {unit(site, release)}"
        elif not (django_process.folder(site, release) / "ready").exists():
            cause = "the server did not report that it is ready"
        return f"it did not become ready within {site.config['timeouts']['start']}: {cause}"

    def stop(self, site: Site, release: Path, *, wait: bool = True) -> None:
        """Delete the program of a release, which supervisor stops, after the site's drain time by force.

        Args:
            wait: no effect: supervisor waits until a program that it removes has ended.
        """
        name = unit(site, release)
        program = PROGRAMS / f"{name}.conf"
        if program.exists():
            program.unlink()
            if django_host_service.pid(django_host_service.SUPERVISOR) is not None:
                timeout = seconds(site.config["releases"]["drain"]) + 60
                _supervisorctl("update", name, doing=f"stopping {name}", timeout=timeout)
            self._clear(site, release)

    def _clear(self, site: Site, release: Path) -> None:
        """End a server that outlived its supervisor, and delete what a release has in /run."""
        self.end_leftovers(site, release)
        sequence = release.name.split("-")[0]
        Foreign(django_process.RUN, unit(site, release)).remove()
        Foreign(site.runtime, f"{sequence}.sock").remove()
        Foreign(site.runtime, sequence).remove()
        _counter(site, release).unlink(missing_ok=True)

    def end_leftovers(self, site: Site, release: Path) -> None:
        """End a server of a release that outlived its supervisor, as the site's user.

        The server itself decides its pid file and environment, so that it may name any process of that user.
        """
        run = django_process.folder(site, release)
        if (run / "pid").exists() and django_host_user.find_user(site.user):
            what = (str(run), release.name)
            with contextlib.suppress(OSError):
                django_wall_delegate.ask(
                    site.user, _end, *what, doing="ending a leftover server", timeout=_LEFTOVER + 5
                )

    def pause(self, site: Site, release: Path) -> None:
        """Stop the program of a release; supervisor starts it again when it starts itself."""
        name = unit(site, release)
        if django_host_service.pid(django_host_service.SUPERVISOR) is not None:
            timeout = seconds(site.config["releases"]["drain"]) + 60
            _supervisorctl("stop", name, doing=f"stopping {name}", timeout=timeout)
        self._clear(site, release)

    def remove(self, site: Site, release: Path) -> None:
        """Delete the program of a release, if supervisor has it; the log that the server writes stays for a while."""
        self.stop(site, release)
        for ending in ("log", "log.1"):
            (OUTPUT / f"{unit(site, release)}.{ending}").unlink(missing_ok=True)

    def journal(self, site: Site, release: Path, since: float) -> str:
        """Return the last lines of a release's log, if any were written since a time (seconds since 1970).

        Otherwise the output of the program before the server writes its log is returned.
        """
        text, before = "", OUTPUT / f"{unit(site, release)}.log"
        with contextlib.suppress(DeploymentError):
            text = self.log(site, release, 60) if _is_written(log_file(site, release), since) else ""
        if not text and _is_written(before, since):
            with contextlib.suppress(DeploymentError):
                text = "\n".join((Foreign(before.parent, before.name).text(_OUTPUT) or "").splitlines()[-60:])
        return "\n".join(line for line in text.splitlines() if not re.match(r"(\S+ )?\*\*\* ", line))

    def log(self, site: Site, release: Path, lines: int) -> str:
        """Return the last lines of a release's log, read as the site's user where that user may have replaced it.

        Raises:
            DeploymentError: the log cannot be read.
        """
        path = log_file(site, release)
        parts = [part for part in (path.with_name(f"{path.name}.1"), path) if Foreign(part.parent, part.name).is_file()]
        return _tail(parts, lines, user=site.user if path.parent == site.log.top else None)

    def where_the_log_is(self, site: Site, release: Path) -> str:
        """Return the path of a release's log."""
        return f"read the whole log: {log_file(site, release)}"

    def run(self, command: ProjectCommand) -> str:
        """Run a command of a project and return its output; there is no sandbox: it may write what its user may.

        A process of root's is its parent, which ends all processes that it leaves behind, and also where the deployment
        is killed; until then that parent holds the site's lock, so that no other command runs at the same time.

        Raises:
            DeploymentError: the command fails or times out.
        """
        site, release = command.site, command.release
        user = django_host_user.find_user(site.user)
        paths = [release / "config/environment", site.secrets / "environment"]
        paths += [Path(command.environment_file)] if command.environment_file else []
        variables = {"HOME": user.pw_dir if user else "/nonexistent", "USER": site.user, "LOGNAME": site.user}
        for path in paths:
            variables |= django_host_environment.read_environment(path.read_text())
        group = user.pw_gid if user else django_host_user.group_id(site.user)
        groups = os.getgrouplist(site.user, group) if user else []
        folder = str(site.project_folder(release, command.facts))
        return django_host_command.run(
            django_wall_reaper.command(command.argv, django_host_user.user_id(site.user), group, groups, folder),
            doing=command.doing,
            environment=variables,
            timeout=command.timeout,
            stdin=command.stdin,
            secrets=command.secrets,
            umask=0o027,
            descriptors=django_host_command.locks,
            grace=django_wall_reaper.PATIENCE,
            errors_too=command.errors_too,
        )


def _identity(site: Site) -> list[str]:
    """Return the command that runs another one as the site's user, which never gains privileges again."""
    return ["/usr/bin/setpriv", f"--reuid={site.user}", f"--regid={site.user}", "--init-groups", "--no-new-privs"]


def _program(name: str) -> Program | None:
    """Return a program as supervisor reports it, or None where supervisor does not run or does not have it."""
    if django_host_service.pid(django_host_service.SUPERVISOR) is None:
        return None
    try:
        answer = _ask("supervisor.getProcessInfo", name)
    except (OSError, http.client.HTTPException):  # its configuration has the socket elsewhere, or with a password
        try:
            found = re.fullmatch(r"\s*(\d+)\s*", _supervisorctl("pid", name, doing=f"querying {name}"))
        except DeploymentError:
            return None
        return Program(int(found[1]) or None, django_host_proc.age(int(found[1])), "") if found else None
    values = dict(re.findall(r"<name>(\w+)</name>\s*<value><(?:int|i4|string)>([^<]*)</", answer))
    if "pid" not in values:
        return None
    age = float(values.get("now", 0)) - float(values.get("start", 0))
    return Program(int(values["pid"]) or None, age, values.get("statename", ""))


def _ask(method: str, name: str) -> str:
    """Call a method of supervisor's XML-RPC interface, and return the XML that it answers.

    Raises:
        OSError: it does not listen where Debian configures it, or times out.
        http.client.HTTPException: it refuses the call.
    """
    body = (
        f"<?xml version='1.0'?><methodCall><methodName>{method}</methodName><params><param><value><string>{name}"
        "</string></value></param></params></methodCall>"
    ).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE)
        connection.connect(str(django_host_service.RUN / "supervisor.sock"))
        bounded = Bounded(connection, time.monotonic() + _PATIENCE)
        head = f"POST /RPC2 HTTP/1.0\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        bounded.sendall(head.encode() + body)
        response = http.client.HTTPResponse(bounded)  # type: ignore[arg-type]
        response.begin()
        if response.status != 200:
            raise http.client.HTTPException(f"supervisor answers {response.status}")
        return response.read(1 << 16).decode(errors="replace")


def _is_ready(site: Site, release: Path, since: float = 0.0) -> bool:
    """Return whether a release runs, for at least so many seconds, is ready, and listens."""
    is_ready = (django_process.folder(site, release) / "ready").exists()
    program = _program(unit(site, release)) if is_ready and django_process.is_whole(site, release) else None
    return program is not None and program.pid is not None and program.age >= since


def _is_under_way(site: Site, release: Path) -> bool:
    """Return whether supervisor is starting the program of a release, or has just started itself and will start it."""
    if django_host_service.pid(django_host_service.SUPERVISOR) is None:
        return False
    if django_host_service.age(django_host_service.SUPERVISOR) < _FIRST:
        return True
    program = _program(unit(site, release))
    if program is None:
        return False
    if program.pid is None:
        return program.state in ("STARTING", "BACKOFF")
    if program.age < _FIRST:
        return True
    # One that was ready lost its socket; one that lost its folder, or used up its time to start, never becomes ready.
    folder = django_process.folder(site, release)
    is_slow = program.age < seconds(site.config["timeouts"]["start"])
    return is_slow and folder.is_folder() and not (folder / "ready").exists()


def _forget_old_logs(site: Site) -> None:
    """Delete the logs of releases that are deleted."""
    there = {path.name.split("-")[0] for path in site.releases.iterdir()}
    for name in site.log.names():
        path = site.log / name
        is_old = re.fullmatch(r"\d{4,}\.log(\.1)?", name) and name.split(".")[0] not in there
        if is_old and not path.is_folder():  # the site's user may have made one
            path.remove()


def _counter(site: Site, release: Path) -> Path:
    """Return the file in which the program counts its starts: a byte for each."""
    return django_process.RUN / f"{unit(site, release)}.starts"


def _starts(site: Site, release: Path) -> int:
    try:
        return _counter(site, release).stat().st_size
    except FileNotFoundError:
        return 0


def _end(run: str, release: str) -> None:
    """End the process that the pid file of a release names, if it is one of the release; runs as the site's user."""
    try:
        number = int((Foreign(Path(run)) / "pid").text(32) or "")
    except (ValueError, DeploymentError):
        return
    deadline = time.monotonic() + _LEFTOVER
    how: int = signal.SIGTERM
    while f"DJANGO_RELEASE={release}".encode() in django_host_proc.environment(number):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(number, how)
        how = 0 if time.monotonic() < deadline else signal.SIGKILL
        if time.monotonic() > deadline + 2:
            return
        time.sleep(0.05)


def _supervisorctl(verb: str, name: str, *, doing: str, timeout: float = 90) -> str:
    return django_host_command.run(["supervisorctl", verb, name], doing=doing, timeout=timeout)


def log_file(site: Site, release: Path) -> Path:
    """Return the log of a release; the rotated one has a 1 at the end of its name."""
    if django_server.of_release(release).WRITES_LOG:
        return site.log.top / f"{release.name.split('-')[0]}.log"
    return OUTPUT / f"{unit(site, release)}.log"


def _is_written(path: Path, since: float) -> bool:
    try:
        return os.lstat(path).st_mtime >= since - _TICK
    except FileNotFoundError:
        return False


def _tail(parts: list[Path], lines: int, *, user: str | None) -> str:
    """Return the last lines of files one after another, within a time limit, and no more than is kept of an output."""
    if not parts:
        return ""
    argv = ["tail", "--quiet", f"--lines={lines}", "--", *map(str, parts)]
    text = django_host_command.run(argv, doing="reading the log", user=user, timeout=_PATIENCE, only_the_end=True)
    return "\n".join(text.splitlines()[-lines:])


MANAGER = Supervisor()
