"""supervisor as process manager, where systemd is not PID 1 or the pillar chooses it: a program for each release."""

import contextlib
import http.client
import os
import re
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from django_formula.container import containers, images
from django_formula.container import host as container_host
from django_formula.container import program as container_program
from django_formula.host import commands, daemons, file, proc, template, users
from django_formula.host.commands import Command, DeploymentError, seconds
from django_formula.kind import kinds
from django_formula.process import contract, reaped
from django_formula.process import selection as selections
from django_formula.process.command import ProjectCommand
from django_formula.process.contract import ProcessManager, unit
from django_formula.process.selection import Selection
from django_formula.server import servers
from django_formula.site.sites import Site
from django_formula.untrusted import delegate
from django_formula.untrusted.foreign import Foreign
from django_formula.untrusted.response import Bounded
from django_formula.untrusted.text import in_command

PROGRAMS = Path("/etc/supervisor/conf.d")
#: Where supervisor writes the output of a program: until the server has its own log, or all of it.
OUTPUT = Path("/var/log/supervisor")
PROGRAM, SCRIPT, LISTEN = (f"{kinds.FILES}{name}" for name in kinds.PROCESS_MANAGERS["supervisor"])
WORKER, WORKER_SCRIPT = (f"{kinds.FILES}{name}" for name in kinds.WORKER_TEMPLATES["supervisor"])
#: Seconds by which the time of a file may be behind the clock.
_TICK = 0.02
#: Seconds after its own start within which supervisor starts every program.
_FIRST = 2.0
#: Seconds after which a ready file belongs to the server that runs, and not to one that outlived its supervisor;
#: supervisor counts whole seconds.
_SETTLED = 2.0
#: More bytes than supervisor lets a log file have.
_OUTPUT = 16 << 20
#: Bytes at the end of a log file that are searched: two files have no more than is kept of an output.
_SEARCHED = 7 << 20
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
        """Return that there is no sandbox, or what is weak about the engine of a site in containers."""
        return container_host.warnings(site) if site.config.get("container") else [_NO_SANDBOX]

    def configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the program of a release and what it runs: file name in ``config/`` → content."""
        more = {"identity": identity(site), "secrets": str(site.secrets)}
        script = template.render(templates, SCRIPT, **more, **variables)
        if container := containers.expected(site, release):
            writable = [variables["own_folder"]] if variables["own_folder"] else []
            arguments = (site, release, container, variables, templates)
            script = container_program.script(*arguments, writable)
        return {
            f"{unit(site, release)}.conf": template.render(templates, PROGRAM, **variables),
            "supervisor.sh": script,
            **({} if variables["binds"] else {"django_formula_listen.py": templates[LISTEN]}),
        }

    def worker_configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the program of a worker and what it runs: file name in ``config/`` → content."""
        more = {"identity": identity(site), "secrets": str(site.secrets)}
        script = template.render(templates, WORKER_SCRIPT, **more, **variables)
        if container := containers.expected(site, release):
            arguments = (site, release, container, variables, templates)
            script = container_program.script(*arguments, variables["writable"])
        return {
            f"{variables['unit']}.conf": template.render(templates, WORKER, **variables),
            f"worker-{variables['worker']}.sh": script,
        }

    def files(self, site: Site) -> list[Path]:
        """Return the program files of all releases of a site."""
        paths = PROGRAMS.glob(f"django-{site.name}-*.conf")
        return [path for path in paths if contract.parse(site, path.stem)]

    def pid(self, site: Site, release: Path, part: str = "") -> int | None:
        """Return the process that supervisor started for the program of a part, or None when it does not run.

        In a container it is the first process there, and not the program of the engine.
        """
        name = unit(site, release, part)
        program, container = _program(name), containers.of_release(release)
        if container and program and program.pid:
            return container.engine.pid(name)
        return program.pid if program else None

    def try_host(self, site: Site, release: Path) -> None:
        """Find out nothing: supervisor starts whatever it is given."""

    def is_kept_alive(self, site: Site, release: Path, part: str = "") -> bool:
        """Return whether a part runs, is whole, and would run again after a restart of supervisor.

        One that supervisor is starting, as after a restart of the container, is waited for.
        """
        if self._is_changed(site, release, part):
            return False
        starts = _starts(site, release, part)
        deadline = time.monotonic() + seconds(site.config["timeouts"]["start"])
        while not _is_ready(site, release, part, _SETTLED):
            is_new = _starts(site, release, part) > starts + 1
            if is_new or not _is_under_way(site, release, part) or time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def installed(self, site: Site, release: Path, part: str = "") -> dict[Path, str]:
        """Return the program file of a part: path → the content that the release's configuration has."""
        name = f"{unit(site, release, part)}.conf"
        return {PROGRAMS / name: file.read_text(release / "config" / name) or ""}

    def _is_changed(self, site: Site, release: Path, part: str) -> bool:
        installed = self.installed(site, release, part)
        return any(file.read_text(path) != text for path, text in installed.items())

    def enabled(self, site: Site) -> set[str]:
        """Return the programs of a site: supervisor starts each that has a file when it starts itself."""
        return {path.stem for path in self.files(site)}

    def start(self, site: Site, release: Path, part: str = "") -> None:
        """Install the program of a part, start it, and wait until the server accepts requests or the worker is ready.

        Raises:
            DeploymentError: supervisor does not run, the part exits at once, or does not become ready in time.
        """
        name = unit(site, release, part)
        images.require(site, release)
        if self.is_kept_alive(site, release, part):
            return
        self.stop(site, release, part)
        self._clear(site, release, part)
        if daemons.pid(daemons.SUPERVISOR) is None:
            daemons.start(daemons.SUPERVISOR)
        _forget_old_logs(site)
        file.write(PROGRAMS / f"{name}.conf", file.read_text(release / "config" / f"{name}.conf") or "")
        _supervisorctl("update", name, doing=f"starting {name}")
        self._wait_until_ready(site, release, part)

    def _wait_until_ready(self, site: Site, release: Path, part: str) -> None:
        deadline = time.monotonic() + seconds(site.config["timeouts"]["start"])
        while not _is_ready(site, release, part):
            if _starts(site, release, part) > 1:
                raise DeploymentError("it exits as soon as it is started")
            if time.monotonic() > deadline:
                raise DeploymentError(self._not_ready(site, release, part))
            time.sleep(0.02)

    def _not_ready(self, site: Site, release: Path, part: str) -> str:
        """Return what a part whose time to start is up did not do."""
        cause = "it does not listen on its socket"
        if self.pid(site, release, part) is None:
            cause = f"supervisor runs no process of {unit(site, release, part)}"
        elif not (contract.folder(site, release, part) / "ready").exists():
            cause = f"the {'worker' if part else 'server'} did not report that it is ready"
        return f"it did not become ready within {site.config['timeouts']['start']}: {cause}"

    def stop(self, site: Site, release: Path, part: str = "", *, wait: bool = True) -> None:
        """Delete the program of a part, which supervisor stops, a server after the site's drain time by force.

        Args:
            wait: no effect for a server: supervisor waits until a program that it removes has ended. A worker that is
                not waited for is removed by `remove`.
        """
        name = unit(site, release, part)
        program = PROGRAMS / f"{name}.conf"
        is_installed = program.exists()
        program.unlink(missing_ok=True)
        if daemons.pid(daemons.SUPERVISOR) is None:
            pass
        elif part:
            self._stop_worker(site, release, part, wait=wait)
        elif is_installed:
            timeout = seconds(site.config["releases"]["drain"]) + 60
            _supervisorctl("update", name, doing=f"stopping {name}", timeout=timeout)
        if wait if part else is_installed:
            self._clear(site, release, part)

    def _stop_worker(self, site: Site, release: Path, part: str, *, wait: bool) -> None:
        """Tell a worker to stop; wait until it has ended, by force after the site's drain time, and forget it."""
        name = unit(site, release, part)
        if _program(name) is None:
            return
        _tell_to_stop(name)
        if not wait:
            return
        deadline = time.monotonic() + seconds(site.config["releases"]["drain"])
        while _is_running(name) and time.monotonic() < deadline:
            time.sleep(0.05)
        program = _program(name)
        if program and program.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
        if not (PROGRAMS / f"{name}.conf").exists():
            _supervisorctl("update", name, doing=f"removing {name}")

    def _clear(self, site: Site, release: Path, part: str = "") -> None:
        """End a part that outlived its supervisor, and delete its folder."""
        self.end_leftovers(site, release, part)
        contract.remove_folder(site, release, part)
        _counter(site, release, part).unlink(missing_ok=True)
        if not part:
            Foreign(site.runtime, f"{release.name.split('-')[0]}.sock").remove()

    def end_leftovers(self, site: Site, release: Path, part: str = "") -> None:
        """End a part of a release that outlived its supervisor, as the site's user.

        The part itself decides its pid file and environment, so that it may name any process of that user.
        """
        run = contract.folder(site, release, part)
        if container := containers.of_release(release):
            container.engine.end(unit(site, release, part))
        elif (run / "pid").exists() and users.find_user(site.user):
            what = (str(run), release.name)
            with contextlib.suppress(OSError):
                delegate.ask(site.user, _end, *what, doing="ending a leftover server", timeout=_LEFTOVER + 5)

    def restart(self, site: Site, release: Path, part: str) -> None:
        """Have a worker end, upon which supervisor starts it again; start one that does not run.

        Raises:
            DeploymentError: supervisor has no such program.
        """
        name = unit(site, release, part)
        if _is_running(name):
            _supervisorctl("signal", "TERM", name, doing=f"restarting {name}")
        else:
            _supervisorctl("start", name, doing=f"starting {name}")

    def pause(self, site: Site, release: Path, part: str = "") -> None:
        """Stop the program of a part; supervisor starts it again when it starts itself."""
        name = unit(site, release, part)
        if daemons.pid(daemons.SUPERVISOR) is None:
            pass
        elif part:
            self._stop_worker(site, release, part, wait=True)
        else:
            timeout = seconds(site.config["releases"]["drain"]) + 60
            _supervisorctl("stop", name, doing=f"stopping {name}", timeout=timeout)
        self._clear(site, release, part)

    def remove(self, site: Site, release: Path) -> None:
        """Delete the programs of a release, if supervisor has them; the log that the server writes stays for a while.

        A worker that is not waited for has no program file any more, so that its log tells that it was there.
        """
        name = unit(site, release)
        found = [*PROGRAMS.glob(f"{name}-*.conf"), *OUTPUT.glob(f"{name}-*.log")]
        parsed = {contract.parse(site, path.stem) for path in found}
        for part in ("", *sorted(one[1] for one in parsed if one and one[1])):
            self.stop(site, release, part)
            for ending in ("log", "log.1"):
                (OUTPUT / f"{unit(site, release, part)}.{ending}").unlink(missing_ok=True)

    def journal(self, site: Site, release: Path, since: float, part: str = "") -> str:
        """Return the last lines of a part's log, if any were written since a time (seconds since 1970).

        Otherwise the output of the program before the server writes its log is returned.
        """
        text, before = "", OUTPUT / f"{unit(site, release, part)}.log"
        with contextlib.suppress(DeploymentError):
            text = self.log(site, release, 60, part) if _is_written(log_file(site, release, part), since) else ""
        if not text and _is_written(before, since):
            with contextlib.suppress(DeploymentError):
                text = "\n".join((Foreign(before.parent, before.name).text(_OUTPUT) or "").splitlines()[-60:])
        return "\n".join(line for line in text.splitlines() if not re.match(r"(\S+ )?\*\*\* ", line))

    def log(self, site: Site, release: Path, lines: int, part: str = "") -> str:
        """Return the last lines of a part's log, read as the site's user where that user may have replaced it.

        Raises:
            DeploymentError: the log cannot be read.
        """
        files, user = _files(site, release, part)
        return _tail(files, lines, user=user)

    def search(self, site: Site, releases: Sequence[Path], selection: Selection, part: str = "") -> str:
        """Return the lines of a part's log files that a selection has; of each file the end is read.

        Raises:
            DeploymentError: a log cannot be read, or has no levels or no times.
        """
        _refuse_level(site, selection)
        found: list[str] = []
        for release in releases:
            files, user = _files(site, release, part)
            for path in files:
                argv = ["tail", f"--bytes={_SEARCHED}", "--", str(path)]
                text = commands.run(argv, doing="reading the log", user=user, timeout=_PATIENCE)
                found += selections.between(text.splitlines(), selection)
        if selection.request:
            found = selections.of_request(found, selection.request)
        return "\n".join(_matching(site, found, selection.grep)[-selection.lines :])

    def follow(self, site: Site, release: Path, selection: Selection, part: str = "") -> list[str]:
        """Return the command that follows the log file of a part, through its rotation.

        Raises:
            DeploymentError: the log has no levels, or is not searched while it is followed.
        """
        _refuse_level(site, selection)
        if selection.grep:
            raise DeploymentError("grep and follow exclude each other under supervisor", hint="leave out one of them")
        path = log_file(site, release, part)
        user = identity(site) if path.parent == site.log.top else []
        own = [f"--lines={selection.lines}", "--follow=name", "--retry", "--", str(path)]
        return [*user, *(["--"] if user else []), "tail", *own]

    def where_the_log_is(self, site: Site, release: Path, part: str = "") -> str:
        """Return the path of a part's log."""
        return f"read the whole log: {log_file(site, release, part)}"

    def way_to_start(self, site: Site, release: Path, part: str = "") -> str:
        """Return the command that starts the program of a part, or restarts it; supervisor itself where it is gone.

        A program that supervisor does not have it reads from its file, and starts it.
        """
        if daemons.pid(daemons.SUPERVISOR) is None:
            return in_command("service", daemons.SUPERVISOR.service, "start")
        name = unit(site, release, part)
        return in_command("supervisorctl", "restart" if _program(name) else "update", name)

    def is_starting(self, site: Site, release: Path, part: str = "") -> bool:
        """Return whether supervisor has started a part in a container that is not there yet."""
        program = _program(unit(site, release, part))
        return program is not None and program.pid is not None

    def how_it_ended(self, site: Site, release: Path, part: str = "") -> str:
        """Return the state of a part's program, such as ``FATAL``; empty where it was just stopped."""
        if daemons.pid(daemons.SUPERVISOR) is None:
            return "supervisor does not run"
        program = _program(unit(site, release, part))
        return "" if program and program.state == "STOPPED" else program.state if program else "supervisor has none"

    def run(self, command: ProjectCommand) -> str:
        """Run a command of a project and return its output; there is no sandbox: it may write what its user may.

        Raises:
            DeploymentError: the command fails or times out.
        """
        return reaped.run_command(command)

    def is_command_active(self, site: Site, task: str) -> bool:
        """Return whether the container of a command still runs whose starter was killed."""
        name = f"django-{site.name}-{task}"
        return any(engine.pid(name) is not None for engine in images.used(site))

    def end_command(self, site: Site, task: str) -> None:
        """End the container of a command that outlived its starter.

        Raises:
            DeploymentError: it does not end.
        """
        for engine in images.used(site):
            engine.end(f"django-{site.name}-{task}")

    def end_tasks(self, site: Site) -> None:
        """End the container of a deployment's command that outlived it.

        Raises:
            DeploymentError: it does not end.
        """
        self.end_command(site, "task")


def identity(site: Site) -> list[str]:
    """Return the command that runs another one as the site's user, which never gains privileges again."""
    return ["/usr/bin/setpriv", f"--reuid={site.user}", f"--regid={site.user}", "--init-groups", "--no-new-privs"]


def _program(name: str) -> Program | None:
    """Return a program as supervisor reports it, or None where supervisor does not run or does not have it."""
    if daemons.pid(daemons.SUPERVISOR) is None:
        return None
    try:
        answer = _ask("supervisor.getProcessInfo", name)
    except (OSError, http.client.HTTPException):  # its configuration has the socket elsewhere, or with a password
        try:
            found = re.fullmatch(r"\s*(\d+)\s*", _supervisorctl("pid", name, doing=f"querying {name}"))
        except DeploymentError:
            return None
        return Program(int(found[1]) or None, proc.age(int(found[1])), "") if found else None
    values = dict(re.findall(r"<name>(\w+)</name>\s*<value><(?:int|i4|string)>([^<]*)</", answer))
    if "pid" not in values:
        return None
    age = float(values.get("now", 0)) - float(values.get("start", 0))
    return Program(int(values["pid"]) or None, age, values.get("statename", ""))


def _is_running(name: str) -> bool:
    program = _program(name)
    return program is not None and program.pid is not None


def _tell_to_stop(name: str) -> None:
    """Have supervisor stop a program, by force after its ``stopwaitsecs``, and do not wait for that."""
    try:
        _ask("supervisor.stopProcess", name, "<boolean>0</boolean>")
    except (OSError, http.client.HTTPException):  # its configuration has the socket elsewhere, or with a password
        argv = ["/bin/sh", "-c", 'exec setsid supervisorctl stop "$0" >/dev/null 2>&1 &', name]
        commands.run(argv, doing=f"stopping {name}")


def _ask(method: str, name: str, *more: str) -> str:
    """Call a method of supervisor's XML-RPC interface, and return the XML that it answers.

    Args:
        name: the program.
        more: further arguments, as XML.

    Raises:
        OSError: it does not listen where Debian configures it, or times out.
        http.client.HTTPException: it refuses the call.
    """
    values = "".join(f"<param><value>{one}</value></param>" for one in (f"<string>{name}</string>", *more))
    body = (
        f"<?xml version='1.0'?><methodCall><methodName>{method}</methodName><params>{values}</params></methodCall>"
    ).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE)
        connection.connect(str(daemons.RUN / "supervisor.sock"))
        bounded = Bounded(connection, time.monotonic() + _PATIENCE)
        head = f"POST /RPC2 HTTP/1.0\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        bounded.sendall(head.encode() + body)
        response = http.client.HTTPResponse(bounded)  # type: ignore[arg-type]
        response.begin()
        if response.status != 200:
            raise http.client.HTTPException(f"supervisor answers {response.status}")
        return response.read(1 << 16).decode(errors="replace")


def _is_ready(site: Site, release: Path, part: str = "", since: float = 0.0) -> bool:
    """Return whether a part runs, for at least so many seconds, is ready, and a server listens."""
    is_ready = (contract.folder(site, release, part) / "ready").exists()
    is_whole = is_ready and contract.is_whole(site, release, part)
    program = _program(unit(site, release, part)) if is_whole else None
    return program is not None and program.pid is not None and program.age >= since


def _is_under_way(site: Site, release: Path, part: str = "") -> bool:
    """Return whether supervisor is starting the program of a part, or has just started itself and will start it."""
    if daemons.pid(daemons.SUPERVISOR) is None:
        return False
    if daemons.age(daemons.SUPERVISOR) < _FIRST:
        return True
    program = _program(unit(site, release, part))
    if program is None:
        return False
    if program.pid is None:
        return program.state in ("STARTING", "BACKOFF")
    if program.age < _FIRST:
        return True
    # One that was ready lost its socket; one that lost its folder, or used up its time to start, never becomes ready.
    folder = contract.folder(site, release, part)
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


def _counter(site: Site, release: Path, part: str = "") -> Path:
    """Return the file in which the program counts its starts: a byte for each."""
    return contract.RUN / f"{unit(site, release, part)}.starts"


def _starts(site: Site, release: Path, part: str = "") -> int:
    try:
        return _counter(site, release, part).stat().st_size
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
    while f"DJANGO_RELEASE={release}".encode() in proc.environment(number):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(number, how)
        how = 0 if time.monotonic() < deadline else signal.SIGKILL
        if time.monotonic() > deadline + 2:
            return
        time.sleep(0.05)


def _supervisorctl(verb: str, *arguments: str, doing: str, timeout: float = 90) -> str:
    return commands.run(["supervisorctl", verb, *arguments], doing=doing, timeout=timeout)


def log_file(site: Site, release: Path, part: str = "") -> Path:
    """Return the log of a part; the rotated one has a 1 at the end of its name."""
    if not part and servers.of_release(release).WRITES_LOG:
        return site.log.top / f"{release.name.split('-')[0]}.log"
    return OUTPUT / f"{unit(site, release, part)}.log"


def _files(site: Site, release: Path, part: str) -> tuple[list[Path], str | None]:
    """Return the log files of a part, the rotated one first, and as which user they are read; None is root."""
    path = log_file(site, release, part)
    files = [one for one in (path.with_name(f"{path.name}.1"), path) if Foreign(one.parent, one.name).is_file()]
    return files, site.user if path.parent == site.log.top else None


def _refuse_level(site: Site, selection: Selection) -> None:
    if selection.level:
        raise DeploymentError(
            f"the log files of {site.name} have no levels: only the journal has",
            hint="search for a text instead: grep='Traceback|Error'",
        )


def _matching(site: Site, lines: list[str], pattern: str) -> list[str]:
    """Return the lines that a regular expression matches; grep has limits for what it costs, and Python none.

    Raises:
        DeploymentError: it is no regular expression.
    """
    if not pattern:
        return lines
    argv = selections.of_grep(pattern)
    command = Command(argv, doing="searching the log", user=site.user, timeout=_PATIENCE, stdin="\n".join(lines))
    ended = commands.execute(command)
    return [] if ended.code == 1 else commands.check(command, ended).splitlines()


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
    text = commands.run(argv, doing="reading the log", user=user, timeout=_PATIENCE, only_the_end=True)
    return "\n".join(text.splitlines()[-lines:])


MANAGER = Supervisor()
