"""supervisor keeps releases alive, where systemd is not PID 1 or the pillar wants it: a program for each."""

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
import django_host_file
import django_host_service
import django_host_user
import django_process
import django_release_settings
import django_server
import django_wall_delegate
import django_wall_reaper
from django_host_command import DeploymentError, seconds
from django_process import ProjectCommand, unit
from django_site import Site
from django_wall_foreign import Foreign
from django_wall_response import Bounded

PROGRAMS = Path("/etc/supervisor/conf.d")
#: Where supervisor writes what a program says: before it is the server, or all of it where that writes no log itself.
OUTPUT = Path("/var/log/supervisor")
PROGRAM, SCRIPT = "salt://django/files/supervisor.conf", "salt://django/files/supervisor.sh"
LISTEN = "salt://django/files/django_formula_listen.py"
TEMPLATES: tuple[str, ...] = (PROGRAM, SCRIPT, LISTEN)
#: Seconds by which the time of a file may be behind the clock.
_TICK = 0.02
#: Seconds after its own start within which supervisor begins every program.
_FIRST = 2.0
#: Seconds after which what says that a server is ready is its own, and not of one that has outlived its supervisor.
#: (supervisor counts whole seconds)
_SETTLED = 2.0
#: More bytes than supervisor lets a file of it have.
_OUTPUT = 16 << 20
#: Seconds for an answer of supervisor, and for the end of a log; and those that a server has to end in.
_PATIENCE, _LEFTOVER = 10.0, 10.0
_NO_SANDBOX = "supervisor keeps it: there is no sandbox, only the rights of its user (docs/reference/sandbox.md)"


def warnings(site: Site) -> list[str]:
    """What a new release has to do without on this host."""
    del site
    return [_NO_SANDBOX]


def configuration(
    site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
) -> dict[str, str]:
    """The program of a release and what it runs: file name in ``config/`` → content."""
    more = {"identity": _identity(site), "secrets": str(site.secrets)}
    return {
        f"{unit(site, release)}.conf": django_release_settings.render(templates, PROGRAM, **variables),
        "supervisor.sh": django_release_settings.render(templates, SCRIPT, **more, **variables),
        **({} if variables["binds"] else {"django_formula_listen.py": templates[LISTEN]}),
    }


def _identity(site: Site) -> list[str]:
    """What makes a process of root's one of the site's user, which never gains rights again."""
    return ["/usr/bin/setpriv", f"--reuid={site.user}", f"--regid={site.user}", "--init-groups", "--no-new-privs"]


def files(site: Site) -> list[Path]:
    """The programs of a site, of whatever release."""
    pattern = rf"django-{site.name}-\d+\.conf"
    return [path for path in PROGRAMS.glob(f"django-{site.name}-*.conf") if re.fullmatch(pattern, path.name)]


class Program(NamedTuple):
    """A program as supervisor has it: its process, None where there is none, for how many seconds, and its state."""

    pid: int | None
    age: float
    state: str


def pid(site: Site, release: Path) -> int | None:
    """The main process of a release: the one that supervisor has started for its program."""
    program = _program(unit(site, release))
    return program.pid if program else None


def _program(name: str) -> Program | None:
    """A program by supervisor's own word; None where supervisor does not run, or does not have it."""
    if django_host_service.pid(django_host_service.SUPERVISOR) is None:
        return None
    try:
        answer = _ask("supervisor.getProcessInfo", name)
    except (OSError, http.client.HTTPException):  # its configuration has the socket elsewhere, or with a password
        try:
            found = re.fullmatch(r"\s*(\d+)\s*", _supervisorctl("pid", name, doing=f"asking for {name}"))
        except DeploymentError:
            return None
        return Program(int(found[1]) or None, django_process.age(int(found[1])), "") if found else None
    values = dict(re.findall(r"<name>(\w+)</name>\s*<value><(?:int|i4|string)>([^<]*)</", answer))
    if "pid" not in values:
        return None
    age = float(values.get("now", 0)) - float(values.get("start", 0))
    return Program(int(values["pid"]) or None, age, values.get("statename", ""))


def _ask(method: str, name: str) -> str:
    """Call a method of supervisor's XML-RPC interface, and return its answer as it is.

    Raises:
        OSError: it does not listen where Debian's configuration has it, or does not answer in time.
        http.client.HTTPException: it refuses.
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


def is_kept_alive(site: Site, release: Path) -> bool:
    """Whether the instance runs, with its folder and its socket, and would run again after a restart of supervisor.

    What supervisor is starting by itself, as after a restart of the container, is waited for and not begun anew.
    """
    if _is_changed(site, release):
        return False
    starts = _starts(site, release)
    deadline = time.monotonic() + seconds(site.config["timeouts"]["start"])
    while not _is_well(site, release, _SETTLED):
        if not _is_under_way(site, release) or _starts(site, release) > starts + 1 or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _is_well(site: Site, release: Path, since: float = 0.0) -> bool:
    """Whether a release runs, for so many seconds, has said that it is ready, and listens."""
    is_ready = (django_process.folder(site, release) / "ready").exists()
    program = _program(unit(site, release)) if is_ready and django_process.is_whole(site, release) else None
    return program is not None and program.pid is not None and program.age >= since


def _is_under_way(site: Site, release: Path) -> bool:
    """Whether supervisor is starting the program of a release, or has begun itself and comes to it in a moment."""
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
    # One that has been ready has lost its socket, and one that never is, or has lost its folder, does not come to it.
    folder = django_process.folder(site, release)
    is_slow = program.age < seconds(site.config["timeouts"]["start"])
    return is_slow and folder.is_folder() and not (folder / "ready").exists()


def installed(site: Site, release: Path) -> dict[Path, str]:
    """The program of a release: path → what its configuration has."""
    name = f"{unit(site, release)}.conf"
    return {PROGRAMS / name: django_host_file.read_text(release / "config" / name) or ""}


def _is_changed(site: Site, release: Path) -> bool:
    return any(django_host_file.read_text(path) != text for path, text in installed(site, release).items())


def enabled(site: Site) -> set[str]:
    """The programs of a site: each that has a file runs when supervisor starts."""
    return {path.stem for path in files(site)}


def start(site: Site, release: Path) -> None:
    """Install the program of a release, start it, and wait until the server accepts requests.

    Raises:
        DeploymentError: supervisor does not run, the server ends at once, or is not ready in time.
    """
    name = unit(site, release)
    if is_kept_alive(site, release):
        return
    stop(site, release)
    _clear(site, release)
    if django_host_service.pid(django_host_service.SUPERVISOR) is None:
        django_host_service.start(django_host_service.SUPERVISOR)
    _forget_old_logs(site)
    django_host_file.write(
        PROGRAMS / f"{name}.conf", django_host_file.read_text(release / "config" / f"{name}.conf") or ""
    )
    _supervisorctl("update", name, doing=f"starting {name}")
    _wait_until_ready(site, release)


def _forget_old_logs(site: Site) -> None:
    """Delete the logs of releases that are no more."""
    there = {path.name.split("-")[0] for path in site.releases.iterdir()}
    for name in site.log.names():
        path = site.log / name
        is_old = re.fullmatch(r"\d{4,}\.log(\.1)?", name) and name.split(".")[0] not in there
        if is_old and not path.is_folder():  # the site may have put one there
            path.remove()


def _wait_until_ready(site: Site, release: Path) -> None:
    deadline = time.monotonic() + seconds(site.config["timeouts"]["start"])
    while not _is_well(site, release):
        if _starts(site, release) > 1:
            raise DeploymentError("it ends as soon as it has started")
        if time.monotonic() > deadline:
            raise DeploymentError(_not_ready(site, release))
        time.sleep(0.02)


def _not_ready(site: Site, release: Path) -> str:
    """What a release lacks whose time to start is up."""
    missing = "it does not listen at its socket"
    if pid(site, release) is None:
        missing = f"supervisor has no process of {unit(site, release)}"
    elif not (django_process.folder(site, release) / "ready").exists():
        missing = "the server has not said that it is ready"
    return f"it is not ready after {site.config['timeouts']['start']}: {missing}"


def _counter(site: Site, release: Path) -> Path:
    """The file in which the program counts its starts: a byte for each."""
    return django_process.RUN / f"{unit(site, release)}.starts"


def _starts(site: Site, release: Path) -> int:
    try:
        return _counter(site, release).stat().st_size
    except FileNotFoundError:
        return 0


def stop(site: Site, release: Path, *, wait: bool = True) -> None:
    """Take the program of a release from supervisor, which ends it, after the site's drain time by force."""
    del wait  # supervisor forgets a program only when it has ended
    name = unit(site, release)
    program = PROGRAMS / f"{name}.conf"
    if program.exists():
        program.unlink()
        if django_host_service.pid(django_host_service.SUPERVISOR) is not None:
            timeout = seconds(site.config["releases"]["drain"]) + 60
            _supervisorctl("update", name, doing=f"stopping {name}", timeout=timeout)
        _clear(site, release)


def _clear(site: Site, release: Path) -> None:
    """End a server that has outlived its supervisor, and delete what a release has in /run."""
    end_leftovers(site, release)
    sequence = release.name.split("-")[0]
    Foreign(django_process.RUN, unit(site, release)).remove()
    Foreign(site.runtime, f"{sequence}.sock").remove()
    Foreign(site.runtime, sequence).remove()
    _counter(site, release).unlink(missing_ok=True)


def end_leftovers(site: Site, release: Path) -> None:
    """End a server of a release that has outlived its supervisor, with the rights of its user.

    Its pid file and its environment are its own word, which may name no other process than one of the same user.
    """
    run = django_process.folder(site, release)
    if (run / "pid").exists() and django_host_user.find_user(site.user):
        what = (str(run), release.name, str(django_process.PROC))
        with contextlib.suppress(OSError):
            django_wall_delegate.ask(site.user, _end, *what, doing="ending an old server", timeout=_LEFTOVER + 5)


def _end(run: str, release: str, proc: str) -> None:
    """End the process that the pid file of a release names, if it is one of the release; run as the site's user."""
    try:
        number = int((Foreign(Path(run)) / "pid").text(32) or "")
    except (ValueError, DeploymentError):
        return
    deadline = time.monotonic() + _LEFTOVER
    how: int = signal.SIGTERM
    while _is_of(f"{proc}/{number}/environ", release):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(number, how)
        how = 0 if time.monotonic() < deadline else signal.SIGKILL
        if time.monotonic() > deadline + 2:
            return
        time.sleep(0.05)


def _is_of(environ: str, release: str) -> bool:
    try:
        with open(environ, "rb") as file:
            return f"DJANGO_RELEASE={release}".encode() in file.read(1 << 20).split(b"\0")
    except OSError:
        return False


def pause(site: Site, release: Path) -> None:
    """Stop the program of a release; supervisor starts it again when it starts itself."""
    name = unit(site, release)
    if django_host_service.pid(django_host_service.SUPERVISOR) is not None:
        timeout = seconds(site.config["releases"]["drain"]) + 60
        _supervisorctl("stop", name, doing=f"stopping {name}", timeout=timeout)
    _clear(site, release)


def remove(site: Site, release: Path) -> None:
    """Take the program of a release from supervisor, if it has it; the log of the server stays for a while."""
    stop(site, release)
    for ending in ("log", "log.1"):
        (OUTPUT / f"{unit(site, release)}.{ending}").unlink(missing_ok=True)


def _supervisorctl(verb: str, name: str, *, doing: str, timeout: float = 90) -> str:
    return django_host_command.run(["supervisorctl", verb, name], doing=doing, timeout=timeout)


def log_file(site: Site, release: Path) -> Path:
    """What a release writes; the file before it has a 1 at the end of its name."""
    if django_server.of_release(release).WRITES_LOG:
        return site.log.top / f"{release.name.split('-')[0]}.log"
    return OUTPUT / f"{unit(site, release)}.log"


def journal(site: Site, release: Path, since: float) -> str:
    """The last lines of a release's log, if it has written any since a time (seconds since 1970).

    Where it has not, what has gone wrong before it could.
    """
    text, before = "", OUTPUT / f"{unit(site, release)}.log"
    with contextlib.suppress(DeploymentError):
        text = log(site, release, 60) if _is_written(log_file(site, release), since) else ""
    if not text and _is_written(before, since):
        with contextlib.suppress(DeploymentError):
            text = "\n".join((Foreign(before.parent, before.name).text(_OUTPUT) or "").splitlines()[-60:])
    return "\n".join(line for line in text.splitlines() if not re.match(r"(\S+ )?\*\*\* ", line))


def _is_written(path: Path, since: float) -> bool:
    try:
        return os.lstat(path).st_mtime >= since - _TICK
    except FileNotFoundError:
        return False


def log(site: Site, release: Path, lines: int) -> str:
    """The last lines of a release's log, read as the site's user where that owns it, and may have put anything there.

    Raises:
        DeploymentError: the log cannot be read.
    """
    path = log_file(site, release)
    parts = [part for part in (path.with_name(f"{path.name}.1"), path) if Foreign(part.parent, part.name).is_file()]
    return _tail(parts, lines, user=site.user if path.parent == site.log.top else None)


def _tail(parts: list[Path], lines: int, *, user: str | None) -> str:
    """The last lines of files one after another: within some seconds, and no more than is kept of an output."""
    if not parts:
        return ""
    argv = ["tail", "--quiet", f"--lines={lines}", "--", *map(str, parts)]
    text = django_host_command.run(argv, doing="reading the log", user=user, timeout=_PATIENCE, only_the_end=True)
    return "\n".join(text.splitlines()[-lines:])


def where_the_log_is(site: Site, release: Path) -> str:
    """Where all of a release's log is."""
    return f"{log_file(site, release)} has all of it"


def run(command: ProjectCommand) -> str:
    """Run a command of a project and return its output; there is no sandbox, so that it may write what its user may.

    It runs below a process of root's, which ends whatever it leaves behind, and itself where its deployment is killed;
    until then that process holds the site's lock, so that no other command runs at the same time.

    Raises:
        DeploymentError: the command fails or times out.
    """
    site, release = command.site, command.release
    user = django_host_user.find_user(site.user)
    paths = [release / "config/environment", site.secrets / "environment"]
    paths += [Path(command.environment_file)] if command.environment_file else []
    variables = {"HOME": user.pw_dir if user else "/nonexistent", "USER": site.user, "LOGNAME": site.user}
    for path in paths:
        variables |= django_release_settings.read_environment(path.read_text())
    group = user.pw_gid if user else django_host_user.group_id(site.user)
    groups = os.getgrouplist(site.user, group) if user else []
    folder = str(django_release_settings.project_folder(site, release, command.facts))
    ended = django_host_command.execute(
        django_wall_reaper.command(command.argv, django_host_user.user_id(site.user), group, groups, folder),
        doing=command.doing,
        environment=variables,
        timeout=command.timeout,
        stdin=command.stdin,
        secrets=command.secrets,
        umask=0o027,
        descriptors=django_host_command.locks,
        grace=django_wall_reaper.PATIENCE,
    )
    return django_host_command.judge(
        ended,
        doing=command.doing,
        timeout=command.timeout,
        secrets=command.secrets,
        errors_too=command.errors_too,
    )


def end_tasks(site: Site) -> None:
    """Nothing: a command of a deployment ends with it."""
