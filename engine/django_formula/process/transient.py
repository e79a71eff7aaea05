"""Transient units of systemd: a command of a project runs in one, confined as an instance, and so does a trial of that.

What of a sandbox is not in force on a host is tried once for each boot, each systemd and each such sandbox.
"""

import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.host import commands, daemons, file
from django_formula.host import units as host_units
from django_formula.host.commands import Command, DeploymentError
from django_formula.process import command as process_command
from django_formula.process import sandbox
from django_formula.process import trial as process_trial
from django_formula.process.command import DEPLOYMENT, ProjectCommand
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log

_log = Log.of(__name__)

#: The program of systemd.
PROGRAM = Path("/usr/lib/systemd/systemd")
_BUS = Path("/run/dbus/system_bus_socket")
#: Where systemd keeps the files of transient units as long as they are loaded, and the seconds that unloading may take.
_TRANSIENT, _UNLOADED = "/run/systemd/transient", 5.0
#: Seconds that a container engine has to end a container, which is much more than it needs.
_ENGINE_STOP = 15
#: What systemd logs where it cannot execute a command at all; the cause is on the host, in a drop-in for example.
CANNOT_START = re.compile(
    r"Failed (at step|to (determine|load|locate|set up)) .*|Main process exited, code=exited, status=2\d\d/[A-Z]+"
)


def run_command(command: ProjectCommand) -> str:
    """Run a command of a project as a transient unit, `command.task` last in its name, and return its output.

    Raises:
        DeploymentError: the command fails or times out.
    """
    site = command.site
    name = f"django-{site.name}-{command.task}.service"
    if process_command.has_container(command.release):
        from django_formula.process import container  # a program of a timer has only what its site uses

        with container.confining(command, name.removesuffix(".service")) as (properties, argv):
            return _run(command, name, properties, argv, stop=_ENGINE_STOP)
    try_once(site)
    properties = sandbox.directives(site, command.release, command.facts, command.writable)
    properties = sandbox.without_secrets(site, properties) if command.closed else properties
    properties += [("EnvironmentFile", command.environment_file)] if command.environment_file else []
    return _run(command, name, properties, command.argv, stop=1)


def _run(
    command: ProjectCommand, name: str, properties: Sequence[tuple[str, str]], argv: Sequence[str], *, stop: int
) -> str:
    """Run a command of a project in a transient unit of a name, and return its output."""
    mounts = [("RequiresMountsFor", str(command.site.media))] if sites.is_media_shared(command.site) else []
    if command.task == DEPLOYMENT:
        end(name)
    start_bus()
    began = time.time()
    try:
        return run_unit(name, options([*properties, *mounts]), argv, stop=stop, **command.options())
    except DeploymentError as error:
        raise _cannot_start(error, command.doing, name, began) from None


def is_active(name: str) -> bool:
    """Return whether a transient unit still runs; one that only failed is unloaded."""
    if not _is_loaded(name):
        return False
    state = host_units.value(name, "ActiveState", timeout=10)
    if state in ("inactive", "failed"):
        end(name)
    return state not in ("inactive", "failed")


def not_in_force(site: Site) -> list[str]:
    """Return the directives of the sandbox and the limits that are not in force on this host.

    A process that is confined as the project's own tries them.
    """
    asked = process_trial.questions(site)
    known = _known(site)
    if known.get("wanted") != _wanted(site) or known.get("asked") != asked:
        try:
            known = _try(site, asked)
        except (DeploymentError, OSError, ValueError) as error:
            cause = error.message if isinstance(error, DeploymentError) else str(error)
            return [f"the sandbox of {site.name} could not be tried: {cause}"]
        file.write_json(site.confinement, file.with_checksum(known), mode=0o600)
    return process_trial.not_in_force(site, known["found"])


def try_once(site: Site) -> None:
    """Try the sandbox once for each boot and systemd: a directive that this host refuses would fail a unit."""
    if "refused" not in _known(site):
        not_in_force(site)


def _known(site: Site) -> dict[str, Any]:
    """Return what the trial of a site's sandbox found since the boot, with this systemd and kernel."""
    known = file.read_verified(site.confinement)
    return known if known.get("systemd") == _systemd() else {}


def _systemd() -> list[int | str]:
    """Return what tells systemd's program from that of another version: an upgrade replaces it without a boot.

    The kernel may change without one too, below a container or a virtual machine that is moved.
    """
    try:
        status = PROGRAM.stat()
    except OSError:
        return []
    return [status.st_size, int(status.st_mtime), os.uname().release]


def _wanted(site: Site) -> list[str]:
    return options(process_trial.properties(site))


def options(properties: Iterable[tuple[str, str]]) -> list[str]:
    """Return properties of a unit as options of systemd-run."""
    return [f"--property={key}={value}" for key, value in properties]


def _try(site: Site, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the trial of a site's sandbox finds. A unit with TemporaryFileSystem fails where it cannot mount one.

    Raises:
        DeploymentError: the trial cannot be run.
        ValueError: its answer is unusable.
    """
    start_bus()
    name = f"django-{site.name}-trial-{os.getpid()}.service"
    refused: list[str] = []
    while True:
        properties = options(process_trial.properties(site, refused))
        try:
            answer = run_unit(
                name,
                properties,
                process_trial.LOOK,
                doing="trying the sandbox",
                timeout=30,
                stdin=json.dumps(asked),
            )
            break
        except DeploymentError as error:
            if refused or not _is_of_mounts(error):
                raise
            refused = [*sandbox.MAY_BE_REFUSED]
    if not refused and not sandbox.is_on(sandbox.confinement(site), "TemporaryFileSystem"):
        refused = _refused_by_ours(site, name)
    found = {**process_trial.parse_answer(answer, asked), "outside": process_trial.outside()}
    trial = {"wanted": _wanted(site), "asked": dict(asked), "systemd": _systemd()}
    return {**trial, "refused": refused, "found": found}


def _refused_by_ours(site: Site, name: str) -> list[str]:
    """Return what units of stores start without, which have our sandbox, whatever the pillar takes off the site's.

    Raises:
        DeploymentError: such a unit cannot be run at all.
    """
    user = [("User", site.user), ("Group", site.user)]
    properties = options([*user, *sandbox.flattened(sandbox.closed())])
    try:
        run_unit(name, properties, ["/bin/true"], doing="trying the sandbox of stores", timeout=30)
    except DeploymentError as error:
        if not _is_of_mounts(error):
            raise
        return [*sandbox.MAY_BE_REFUSED]
    return []


def _is_of_mounts(error: DeploymentError) -> bool:
    """Return whether a unit failed at its file systems (226/NAMESPACE)."""
    return "(exit 226)" in error.message


def releases_of_commands(site: Site) -> set[str]:
    """Return the names of the releases in whose environment a transient unit of the site runs."""
    pattern = rf"{re.escape(str(site.releases))}/(\d{{4,}}-[0-9a-f]{{12}})/"
    units = Path(_TRANSIENT).glob(f"django-{site.name}-*.service")
    return {name for path in units for name in re.findall(pattern, file.read_text(path) or "")}


def management_commands(site: Site) -> list[str]:
    """Return the units of commands that `django.manage` runs for the site."""
    pattern = re.compile(rf"django-{re.escape(site.name)}-manage-\d+\.service")
    units = Path(_TRANSIENT).glob(f"django-{site.name}-manage-*.service")
    return sorted(path.name for path in units if pattern.fullmatch(path.name))


def literal(argv: Sequence[str]) -> list[str]:
    """Return the words of a command so that systemd passes them on as they are, and takes none for a variable."""
    return [word.replace("$", "$$") for word in argv]


def run_unit(
    name: str,
    properties: Sequence[str],
    argv: Sequence[str],
    *,
    doing: str,
    timeout: float,
    stop: int = 1,
    **options: Any,
) -> str:
    """Run a command in a transient unit, return its output, and end every process that it left behind.

    Args:
        stop: seconds that its processes have to end before they are killed.

    Raises:
        DeploymentError: it fails, or times out.
    """
    own = ["--quiet", "--pipe", "--wait", "--service-type=exec", f"--unit={name}"]
    limits = [
        # Our own timeout comes first: the unit's is for the case that this process is killed.
        f"--property=RuntimeMaxSec={commands.number(timeout + 15)}",
        *(f"--property=TimeoutStopSec={stop}", "--property=KillMode=control-group", "--property=SendSIGKILL=yes"),
    ]
    began, began_monotonic = time.time(), time.monotonic()
    argv = ["systemd-run", *own, *properties, *limits, "--", *literal(argv)]
    command = Command(argv, doing=doing, timeout=timeout, **options)
    try:
        ended = commands.execute(command)
        if ended.code and _succeeded(name, began_monotonic):
            _end_left_processes(name, doing, began)
            ended = ended._replace(code=0)
        return commands.check(command, ended)
    except BaseException:
        end(name)
        raise


def _succeeded(name: str, since: float) -> bool:
    """Return whether a command itself succeeded whose unit failed: for systemd-run a process left behind is a failure.

    On cgroup v1 in a container systemd also fails units of which it is not notified that they are empty. A unit that
    was started before `since` (seconds, monotonic) is a former one, still loaded, because of which this one was not
    started.
    """
    properties = "ExecMainCode,ExecMainStatus,ExecMainStartTimestampMonotonic"
    shown = host_units.control("show", f"--property={properties}", name, doing="querying how a command ended")
    found = dict(line.partition("=")[::2] for line in shown.splitlines())
    code, status, started = (found.get(key, "") for key in properties.split(","))
    return (code, status) == ("1", "0") and int(started or 0) >= since * 1e6


def _end_left_processes(name: str, doing: str, since: float) -> None:
    """End what a command left behind, and log the processes that systemd had to kill."""
    left = re.findall(r"(?:Killing|Unit) process (\d+ \([^)]*\))", daemons.journal(name, since))
    if left:
        names = ", ".join(dict.fromkeys(left))
        _log.warning("%s left processes behind, which were ended: %s", doing, names)
    end(name)


def _cannot_start(error: DeploymentError, doing: str, name: str, since: float) -> DeploymentError:
    """Return the error of a command, or that systemd could not execute it, where the exit code is systemd's own."""
    own_exit = re.search(r"\(exit 2[0-4]\d\)$", error.message)
    reason = CANNOT_START.search(daemons.journal(name, since)) if own_exit else None
    if not reason:
        return error
    hint = "list the drop-in files that change units of this host: systemd-delta --type=extended"
    return DeploymentError(f"{doing}: systemd cannot execute the command: {reason[0]}", hint=hint, transient=True)


def start_bus() -> None:
    """Start the system bus, over which systemd-run passes input and output: it does not run where just installed."""
    if not _BUS.exists():
        host_units.control("start", "dbus.socket", doing="starting the system bus")


def end(name: str) -> None:
    """Stop a unit if it is loaded, and have systemd forget that it failed; one that just ended is no error."""
    if not _is_loaded(name):
        return
    try:
        host_units.stop("stop", units=[name], doing=f"stopping {name}", within=60)
    except DeploymentError:
        if _is_loaded(name):
            raise
    host_units.attempt("reset-failed", name, doing="resetting the unit")
    deadline = time.monotonic() + _UNLOADED
    while Path(_TRANSIENT, name).exists() and time.monotonic() < deadline:  # systemd unloads it a moment later
        time.sleep(0.02)


def _is_loaded(name: str) -> bool:
    return any(Path(folder, name).exists() for folder in (_TRANSIENT, "/etc/systemd/system"))
