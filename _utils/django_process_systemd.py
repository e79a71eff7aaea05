"""systemd keeps releases alive: a service and a socket for each, and every command of the project as a unit too."""

import json
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import django_host_command
import django_host_file
import django_host_service
import django_process
import django_release_settings
import django_server
import django_wall_sandbox
import django_wall_trial
from django_host_command import DeploymentError, seconds
from django_process import ProjectCommand, unit
from django_site import Site
from django_wall_foreign import Foreign

_log = logging.getLogger(__name__)

UNITS = Path("/etc/systemd/system")
SERVICE, SOCKET = "salt://django/files/django.service", "salt://django/files/django.socket"
TEMPLATES: tuple[str, ...] = (SERVICE, SOCKET)

#: Where the control groups are, of which each unit has its own.
CGROUP = Path("/sys/fs/cgroup")

_BUS = Path("/run/dbus/system_bus_socket")
#: What systemd says where it cannot start a command at all; the cause lies on the host, in a drop-in for example.
CANNOT_START = re.compile(
    r"Failed (at step|to (determine|load|locate|set up)) .*|Main process exited, code=exited, status=2\d\d/[A-Z]+"
)


def warnings(site: Site) -> list[str]:
    """What a new release has to do without on this host: what of its sandbox and its limits is not in force.

    A process that is confined as the project's own tries its walls, once for each boot and each such sandbox.
    """
    asked = django_wall_trial.questions(site)
    known = _known(site)
    if known.get("wanted") != _wanted(site) or known.get("asked") != asked:
        try:
            known = _try(site, asked)
        except (DeploymentError, OSError, ValueError) as error:
            cause = error.message if isinstance(error, DeploymentError) else str(error)
            return [f"the sandbox of {site.name} could not be tried: {cause}"]
        django_host_file.write_json(site.confinement, django_host_file.sealed(known), mode=0o600)
    return django_wall_trial.not_in_force(site, known["found"])


def _known(site: Site) -> dict[str, Any]:
    """What was found of a site's sandbox since the boot."""
    return django_host_file.read_sealed(site.confinement)


def _wanted(site: Site) -> list[str]:
    return _options(django_wall_trial.properties(site))


def _options(properties: Iterable[tuple[str, str]]) -> list[str]:
    return [f"--property={key}={value}" for key, value in properties]


def _try(site: Site, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the trial of a site's sandbox finds. Where none can be mounted, a unit with TemporaryFileSystem fails.

    Raises:
        DeploymentError: the trial cannot be run.
        ValueError: its answer is none.
    """
    start_bus()
    refused: list[str] = []
    name = f"django-{site.name}-trial-{os.getpid()}.service"
    while True:
        properties = _options(django_wall_trial.properties(site, refused))
        try:
            answer = _run_unit(
                name,
                properties,
                django_wall_trial.LOOK,
                doing="trying the sandbox",
                timeout=30,
                stdin=json.dumps(asked),
            )
            break
        except DeploymentError as error:
            if refused or "(exit 226)" not in error.message:
                raise
            refused = ["TemporaryFileSystem"]
    found = {**django_wall_trial.understand(answer, asked), "outside": django_wall_trial.outside()}
    return {"wanted": _wanted(site), "asked": dict(asked), "refused": refused, "found": found}


def configuration(
    site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
) -> dict[str, str]:
    """The units of a release: file name in ``config/`` → content."""
    name = unit(site, release)
    binds = bool(variables["own_folder"])
    sandbox = django_wall_sandbox.directives(
        site, release, variables["facts"], [Path(variables["own_folder"])] if binds else []
    )
    units = {f"{name}.service": django_release_settings.render(templates, SERVICE, sandbox=sandbox, **variables)}
    if variables["inherits"]:
        units[f"{name}.socket"] = django_release_settings.render(templates, SOCKET, **variables)
    return units


def _units(site: Site, release: Path) -> list[str]:
    """The units of a release: its service, and a socket where the server takes one; of a release that is gone, both."""
    name = unit(site, release)
    if (release / "config/instance.json").exists():
        inherits = django_server.of_release(release).INHERITS
    else:
        inherits = (UNITS / f"{name}.socket").exists() or not (UNITS / f"{name}.service").exists()
    return [*([f"{name}.socket"] if inherits else []), f"{name}.service"]


def files(site: Site) -> list[Path]:
    """The units of a site, of whatever release."""
    return [path for path in UNITS.glob(f"django-{site.name}-*.*") if _is_unit(site, path)]


def _is_unit(site: Site, path: Path) -> bool:
    return re.fullmatch(rf"django-{site.name}-\d+\.(service|socket)", path.name) is not None


def pid(site: Site, release: Path) -> int | None:
    """The main process of a release: the one of its unit's control group that systemd itself has started.

    Where there is not exactly one that is no child of another, systemd says which is the main one.
    """
    name = f"{unit(site, release)}.service"
    members = _members(name)
    if members is None:  # it does not run, or is in another slice
        return _main_pid(name) if _links(unit(site, release)) else None
    states = {number: found for number in members if (found := django_process.state(number)) and found[0] not in "ZX"}
    first = [number for number, (_state, parent, _started) in states.items() if parent not in states]
    return first[0] if len(first) == 1 else _main_pid(name) if first else None


def _members(name: str) -> list[int] | None:
    """The processes in the control group of a service; None where it has none in the usual place."""
    is_unified = (CGROUP / "cgroup.controllers").exists()
    top = CGROUP if is_unified else CGROUP / "systemd"
    text = django_host_file.read_text(django_process.PROC / "1/cgroup") or ""
    own = re.search(r"^0::/(.*)$" if is_unified else r"^\d+:name=systemd:/(.*)$", text, re.MULTILINE)
    # In a container the paths may be those of the machine around it, and what is mounted only its own part of them.
    for above in dict.fromkeys((own[1].removesuffix("init.scope") if own else "", "")):
        try:
            return [
                int(number) for number in (top / above / "system.slice" / name / "cgroup.procs").read_text().split()
            ]
        except (OSError, ValueError):
            continue
    return None


def _main_pid(name: str) -> int | None:
    """The main process of a service, by systemd's own word."""
    argv = ["systemctl", "show", "--property=MainPID", "--value", name]
    try:
        return int(django_host_command.run(argv, doing=f"asking for {name}", timeout=10)) or None
    except (DeploymentError, ValueError):
        return None


def is_kept_alive(site: Site, release: Path) -> bool:
    """Whether the instance runs, with its folder and its socket, and would run again after a boot."""
    is_enabled = len(_links(unit(site, release))) == len(_units(site, release))
    return (
        is_enabled
        and pid(site, release) is not None
        and django_process.is_whole(site, release)
        and not _changed_units(site, release)
    )


def installed(site: Site, release: Path) -> dict[Path, str]:
    """The units of a release: path → what its configuration has."""
    return {UNITS / name: django_host_file.read_text(release / "config" / name) or "" for name in _units(site, release)}


def _changed_units(site: Site, release: Path) -> list[tuple[Path, str]]:
    return [(path, text) for path, text in installed(site, release).items() if django_host_file.read_text(path) != text]


def enabled(site: Site) -> set[str]:
    """The units of a site, without suffix, of which at least one part starts at boot."""
    return {path.stem for path in UNITS.glob(f"*.wants/django-{site.name}-*.*") if _is_unit(site, path)}


def start(site: Site, release: Path) -> None:
    """Install the units of a release, start and enable them, and wait until the server says that it is ready.

    Raises:
        DeploymentError: the server does not start.
    """
    name = unit(site, release)
    changed = _changed_units(site, release)
    reload = [] if any(path.exists() for path, _text in changed) else ["--no-reload"]  # systemd reads new units anyway
    for path, text in changed:
        django_host_file.write(path, text)
    timeout = seconds(site.config["timeouts"]["start"])
    units = _units(site, release)
    _systemctl("enable", "--quiet", *reload, "--now", *units, doing=f"starting {name}", timeout=timeout + 10)
    if not django_process.is_whole(site, release):  # it ran already, and systemd does not miss what was deleted
        drain = seconds(site.config["releases"]["drain"])
        _systemctl("restart", *units, doing=f"restarting {name}", timeout=timeout + drain + 60)


def end_leftovers(site: Site, release: Path) -> None:
    """Nothing: no process outlives its unit."""


def stop(site: Site, release: Path, *, wait: bool = True) -> None:
    """Stop and disable the units of a release, both in one call, so that no late connection starts it again.

    Args:
        wait: until it has ended; without it systemd sees to the end, after the site's drain time by force.
    """
    name = unit(site, release)
    units = _units(site, release)[::-1]
    if any((UNITS / one).exists() for one in units):
        options = ["--quiet", "--no-reload", "--now", *([] if wait else ["--no-block"])]
        timeout = seconds(site.config["releases"]["drain"]) + 60
        _systemctl("disable", *options, *units, doing=f"stopping {name}", timeout=timeout)


def pause(site: Site, release: Path) -> None:
    """Stop the units of a release, both in one call, so that no late connection starts it again."""
    name = unit(site, release)
    timeout = seconds(site.config["releases"]["drain"]) + 60
    _systemctl("stop", *_units(site, release), doing=f"stopping {name}", timeout=timeout)


def remove(site: Site, release: Path) -> None:
    """Delete the units of a release, and stop its instance if it has one."""
    name = unit(site, release)
    if _links(name) or pid(site, release) is not None:
        stop(site, release)
        _systemctl("reset-failed", f"{name}.service", doing="forgetting the unit", check=False)
    for suffix in (".service", ".socket"):
        (UNITS / f"{name}{suffix}").unlink(missing_ok=True)
    Foreign(site.runtime, release.name.split("-")[0]).remove()


def forget() -> None:
    """Have systemd forget units whose files are gone: those that a boot has begun are known on, by their names."""
    if django_host_service.has_systemd():
        _systemctl("daemon-reload", doing="reading units anew")


def drop_ins(site: Site) -> list[Path]:
    """The folders beside the units of a site's releases by which somebody has changed them: the formula writes none."""
    return sorted(path for path in UNITS.glob(f"django-{site.name}-*.d") if _is_unit(site, path.with_suffix("")))


def _links(name: str) -> list[Path]:
    """The links that start the units of a release at boot."""
    links = (UNITS / f"multi-user.target.wants/{name}.service", UNITS / f"sockets.target.wants/{name}.socket")
    return [path for path in links if os.path.lexists(path)]


def _systemctl(*arguments: str, doing: str, timeout: float = 90, check: bool = True) -> None:
    try:
        django_host_command.run(["systemctl", *arguments], doing=doing, timeout=timeout)
    except DeploymentError:
        if check:
            raise


def journal(site: Site, release: Path, since: float) -> str:
    """What a release has written to the journal since a time (seconds since 1970), without the noise of systemd.

    Why systemd could not start it (its exits 203, 217, 226 …) is no noise.
    """
    noise = re.compile(
        rf"^(django-\S+\.(service|socket): (?!{CANNOT_START.pattern})"
        r"|Started |Starting |Stopped |Stopping |Listening on |Closed |Failed to start "
        r"|\*\*\* )|^\s*$"
    )
    lines = django_host_service.journal(unit(site, release), since).splitlines()
    return "\n".join(line for line in lines if not noise.search(line))


def log(site: Site, release: Path, lines: int) -> str:
    """The last lines that a release has written to the journal.

    Raises:
        DeploymentError: the journal cannot be read.
    """
    name = unit(site, release)
    argv = ["journalctl", "--unit", name, "--lines", str(lines), "--output", "short-iso", "--no-pager", "--quiet"]
    return django_host_command.run(argv, doing="reading the journal")


def where_the_log_is(site: Site, release: Path) -> str:
    """How to read all of a release's journal."""
    return f"journalctl -u {unit(site, release)} has all of it"


def run(command: ProjectCommand) -> str:
    """Run a command of a project as a transient unit, `command.task` last in its name, and return its output.

    Raises:
        DeploymentError: the command fails or times out.
    """
    site = command.site
    name = f"django-{site.name}-{command.task}.service"
    if "refused" not in _known(site):  # after a boot: with what this host refuses the command would not start
        warnings(site)
    more = [("EnvironmentFile", command.environment_file)] if command.environment_file else []
    sandbox = django_wall_sandbox.directives(site, command.release, command.facts, command.writable)
    if command.task == "task":
        _end(name)
    start_bus()
    began = time.time()
    try:
        return _run_unit(
            name,
            _options([*sandbox, *more]),
            command.argv,
            doing=command.doing,
            timeout=command.timeout,
            stdin=command.stdin,
            secrets=command.secrets,
            errors_too=command.errors_too,
        )
    except DeploymentError as error:
        raise _cannot_start(error, command.doing, name, began) from None


def _run_unit(
    name: str, properties: Sequence[str], argv: Sequence[str], *, doing: str, timeout: float, **options: Any
) -> str:
    """Run a command in a unit, and return its output; it is ended, with all that it has left behind, when this returns.

    Raises:
        DeploymentError: it fails, or is not through in time.
    """
    own = ["--quiet", "--pipe", "--wait", "--service-type=exec", f"--unit={name}"]
    limits = [
        # Ours comes first: that of the unit is for the case that we are killed.
        f"--property=RuntimeMaxSec={timeout + 15:g}",
        *("--property=TimeoutStopSec=1", "--property=KillMode=control-group", "--property=SendSIGKILL=yes"),
    ]
    began = time.time()
    try:
        return django_host_command.run(
            ["systemd-run", *own, *properties, *limits, "--", *argv],
            doing=doing,
            timeout=timeout,
            exit_code=lambda code: _own_exit(name, code, doing, began),
            **options,
        )
    except BaseException:
        _end(name)
        raise


def _own_exit(name: str, code: int, doing: str, since: float) -> int:
    """The exit code of a command whose unit has failed: that of systemd-run counts a process left behind as a failure.

    On cgroup v1 in a container systemd also fails units whose end it is not told of.
    """
    argv = ["systemctl", "show", "--property=ExecMainCode,ExecMainStatus", name]
    shown = django_host_command.run(argv, doing="asking systemd how a command has ended")
    if {"ExecMainCode=1", "ExecMainStatus=0"} != {*shown.split()}:
        return code
    left = re.findall(r"(?:Killing|Unit) process (\d+ \([^)]*\))", django_host_service.journal(name, since))
    if left:
        names = ", ".join(dict.fromkeys(left))
        _log.warning("%s has left processes behind, which were ended: %s", doing, names)
    _end(name)
    return 0


def _cannot_start(error: DeploymentError, doing: str, name: str, since: float) -> DeploymentError:
    """The error of a command, or that systemd could not start it, where its exit is one of systemd's own."""
    own_exit = re.search(r"\(exit 2[0-4]\d\)$", error.message)
    reason = CANNOT_START.search(django_host_service.journal(name, since)) if own_exit else None
    if not reason:
        return error
    hint = "systemd-delta --type=extended names the files by which somebody changes its units"
    return DeploymentError(f"{doing}: systemd cannot start it: {reason[0]}", hint=hint, transient=True)


def start_bus() -> None:
    """The system bus, by which systemd-run passes input and output on, does not run yet where it was just installed."""
    if not _BUS.exists():
        django_host_command.run(["systemctl", "start", "dbus.socket"], doing="starting the system bus")


def end_tasks(site: Site) -> None:
    """End a command of a deployment that outlived it.

    Raises:
        DeploymentError: it does not end.
    """
    _end(f"django-{site.name}-task.service")


def _end(name: str) -> None:
    """End a unit if it runs, and have systemd forget that it has failed; one that ends by itself is as good."""
    if not _is_loaded(name):
        return
    try:
        django_host_command.run(["systemctl", "stop", name], doing=f"stopping {name}", timeout=60)
    except DeploymentError:
        if _is_loaded(name):
            raise
    _systemctl("reset-failed", name, doing="forgetting the unit", check=False)


def _is_loaded(name: str) -> bool:
    return any(Path(folder, name).exists() for folder in ("/run/systemd/transient", "/etc/systemd/system"))
