"""supervisor keeps releases alive, where systemd is not PID 1 or the pillar wants it: a program for each."""

import contextlib
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import django_command
import django_process
import django_server
import django_service
import django_settings
import django_site
from django_command import DeploymentError, seconds
from django_process import unit
from django_site import Site

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
_NO_SANDBOX = "supervisor keeps it: there is no sandbox, only the rights of its user (docs/sandbox.md)"


def warnings(site: Site) -> list[str]:
    """What a new release has to do without on this host."""
    del site
    return [_NO_SANDBOX]


def configuration(
    site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
) -> dict[str, str]:
    """The program of a release and what it runs: file name in ``config/`` → content."""
    more = {"identity": _identity(site), "runtime": str(site.runtime), "secrets": str(site.secrets)}
    return {
        f"{unit(site, release)}.conf": django_settings.render(templates, PROGRAM, **variables),
        "supervisor.sh": django_settings.render(templates, SCRIPT, **more, **variables),
        **({} if variables["binds"] else {"django_formula_listen.py": templates[LISTEN]}),
    }


def _identity(site: Site) -> list[str]:
    """What makes a process of root's one of the site's user, which never gains rights again."""
    return ["/usr/bin/setpriv", f"--reuid={site.user}", f"--regid={site.user}", "--init-groups", "--no-new-privs"]


def files(site: Site) -> list[Path]:
    """The programs of a site, of whatever release."""
    pattern = rf"django-{site.name}-\d+\.conf"
    return [path for path in PROGRAMS.glob(f"django-{site.name}-*.conf") if re.fullmatch(pattern, path.name)]


def pid(site: Site, release: Path) -> int | None:
    """The main process behind a release's socket, if supervisor has started it."""
    number = django_process.main_process(site, release)
    return number if number and django_service.parent(number) == django_service.pid(django_service.SUPERVISOR) else None


def is_kept_alive(site: Site, release: Path) -> bool:
    """Whether the instance runs, and would run again after a restart of supervisor.

    What supervisor is starting by itself, as after a restart of the container, is waited for and not begun anew.
    """
    if _is_changed(site, release):
        return False
    starts = _starts(site, release)
    deadline = time.monotonic() + seconds(site.config["timeouts"]["start"])
    while pid(site, release) is None and _is_under_way(release):
        if _starts(site, release) > starts + 1 or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return pid(site, release) is not None


def _is_under_way(release: Path) -> bool:
    """Whether supervisor has begun the program of a release, or has begun itself and comes to it in a moment."""
    main = django_service.pid(django_service.SUPERVISOR)
    if main is None:
        return False
    if django_service.age(django_service.SUPERVISOR) < _FIRST:
        return True
    mark = f"{release}/config/".encode()
    return any(mark in line and django_service.parent(number) == main for number, line in django_service.processes())


def installed(site: Site, release: Path) -> dict[Path, str]:
    """The program of a release: path → what its configuration has."""
    name = f"{unit(site, release)}.conf"
    return {PROGRAMS / name: django_site.read_text(release / "config" / name) or ""}


def _is_changed(site: Site, release: Path) -> bool:
    return any(django_site.read_text(path) != text for path, text in installed(site, release).items())


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
    if django_service.pid(django_service.SUPERVISOR) is None:
        django_service.start(django_service.SUPERVISOR)
    _forget_old_logs(site)
    django_site.write(PROGRAMS / f"{name}.conf", django_site.read_text(release / "config" / f"{name}.conf") or "")
    _supervisorctl("update", name, doing=f"starting {name}")
    _wait_until_ready(site, release)


def _forget_old_logs(site: Site) -> None:
    """Delete the logs of releases that are no more."""
    there = {path.name.split("-")[0] for path in site.releases.iterdir()}
    for path in site.log.glob("*.log*"):
        if re.fullmatch(r"\d{4,}\.log(\.1)?", path.name) and path.name.split(".")[0] not in there:
            with contextlib.suppress(OSError):  # the site may have put a folder there
                path.unlink()


def _wait_until_ready(site: Site, release: Path) -> None:
    ready = django_process.RUN / unit(site, release) / "ready"
    deadline = time.monotonic() + seconds(site.config["timeouts"]["start"])
    while not ready.exists() or pid(site, release) is None:
        if _starts(site, release) > 1:
            raise DeploymentError("it ends as soon as it has started")
        if time.monotonic() > deadline:
            raise DeploymentError(f"it is not ready after {site.config['timeouts']['start']}")
        time.sleep(0.02)


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
        if django_service.pid(django_service.SUPERVISOR) is not None:
            timeout = seconds(site.config["releases"]["drain"]) + 60
            _supervisorctl("update", name, doing=f"stopping {name}", timeout=timeout)
        _clear(site, release)


def _clear(site: Site, release: Path) -> None:
    """End a server that has outlived its supervisor, and delete what a release has in /run."""
    number = django_process.main_process(site, release)
    deadline = time.monotonic() + 10
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        if number and os.stat(django_process.PROC / str(number)).st_uid == django_site.user_id(site.user):
            os.kill(number, signal.SIGTERM)
            while django_process.main_process(site, release) == number and time.monotonic() < deadline:
                time.sleep(0.05)
    django_site.remove_tree(django_process.RUN / unit(site, release))
    (site.runtime / f"{release.name.split('-')[0]}.sock").unlink(missing_ok=True)
    _counter(site, release).unlink(missing_ok=True)


def pause(site: Site, release: Path) -> None:
    """Stop the program of a release; supervisor starts it again when it starts itself."""
    name = unit(site, release)
    if django_service.pid(django_service.SUPERVISOR) is not None:
        timeout = seconds(site.config["releases"]["drain"]) + 60
        _supervisorctl("stop", name, doing=f"stopping {name}", timeout=timeout)
    _clear(site, release)


def remove(site: Site, release: Path) -> None:
    """Take the program of a release from supervisor, if it has it; the log of the server stays for a while."""
    stop(site, release)
    for ending in ("log", "log.1"):
        (OUTPUT / f"{unit(site, release)}.{ending}").unlink(missing_ok=True)


def _supervisorctl(verb: str, name: str, *, doing: str, timeout: float = 90) -> str:
    return django_command.run(["supervisorctl", verb, name], doing=doing, timeout=timeout)


def log_file(site: Site, release: Path) -> Path:
    """What a release writes; the file before it has a 1 at the end of its name."""
    if django_server.of_release(release).WRITES_LOG:
        return site.log / f"{release.name.split('-')[0]}.log"
    return OUTPUT / f"{unit(site, release)}.log"


def journal(site: Site, release: Path, since: float) -> str:
    """The last lines of a release's log, if it has written any since a time (seconds since 1970).

    Where it has not, what has gone wrong before it could.
    """
    text, before = "", OUTPUT / f"{unit(site, release)}.log"
    with contextlib.suppress(DeploymentError):
        text = log(site, release, 60) if _is_written(log_file(site, release), since) else ""
    if not text and _is_written(before, since):
        text = django_site.read_text(before) or ""
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
    parts = [str(part) for part in (path.with_name(f"{path.name}.1"), path) if part.exists()]
    argv = ["tail", "--quiet", f"--lines={lines}", "--", *parts]
    user = site.user if path.parent == site.log else None
    text = django_command.run(argv, doing="reading the log", user=user) if parts else ""
    return "\n".join(text.splitlines()[-lines:])


def where_the_log_is(site: Site, release: Path) -> str:
    """Where all of a release's log is."""
    return f"{log_file(site, release)} has all of it"


def run(
    site: Site,
    release: Path,
    facts: Mapping[str, Any],
    argv: Sequence[str],
    *,
    doing: str,
    timeout: float,
    writable: Sequence[Path] = (),
    stdin: str = "",
    secrets: Sequence[str] = (),
    task: str = "task",
    environment_file: str | None = None,
    errors_too: bool = False,
) -> str:
    """Run a command of the project as the site's user, in the environment of a release; there is no sandbox.

    One that outlives its deployment holds the site's lock, so none runs beside it.

    Args:
        writable, task: of no meaning where there is no sandbox and no unit.
        environment_file: a file with further variables, in systemd's format.

    Raises:
        DeploymentError: it fails, or is not through in time.
    """
    del writable, task
    user = django_site.find_user(site.user)
    paths = [release / "config/environment", site.secrets / "environment"]
    paths += [Path(environment_file)] if environment_file else []
    variables = {"HOME": user.pw_dir if user else "/nonexistent", "USER": site.user, "LOGNAME": site.user}
    for path in paths:
        variables |= django_settings.read_environment(path.read_text())
    return django_command.run(
        [*_identity(site), "--", *argv],
        doing=doing,
        environment=variables,
        folder=str(django_settings.project_folder(site, release, facts)),
        timeout=timeout,
        stdin=stdin,
        secrets=secrets,
        umask=0o027,
        errors_too=errors_too,
    )


def end_tasks(site: Site) -> None:
    """Nothing: a command of a deployment ends with it, or holds the site's lock."""
