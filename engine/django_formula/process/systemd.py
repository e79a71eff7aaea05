"""systemd as process manager: a service and a socket for each release, and a transient unit for each command.

Why each release has units of its own: docs/decisions/0003.
"""

import dataclasses
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.container import containers, images
from django_formula.container import host as container_host
from django_formula.container import unit as container_unit
from django_formula.host import commands, daemons, file, proc, template
from django_formula.host import units as host_units
from django_formula.host.commands import Command, DeploymentError, seconds
from django_formula.kind import kinds
from django_formula.process import contract, sandbox, transient
from django_formula.process import selection as selections
from django_formula.process.command import ProjectCommand
from django_formula.process.contract import ProcessManager, unit
from django_formula.process.selection import Selection
from django_formula.server import servers
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log, in_command

_log = Log.of(__name__)

UNITS = Path("/etc/systemd/system")
SERVICE, SOCKET = (f"{kinds.FILES}{name}" for name in kinds.PROCESS_MANAGERS["systemd"])
(WORKER,) = (f"{kinds.FILES}{name}" for name in kinds.WORKER_TEMPLATES["systemd"])

#: How lines of the journal are printed.
_SHOWN = ("--output", "short-iso", "--no-pager", "--quiet")
#: The program that binds the socket of a server to which systemd cannot pass one.
LISTEN = "django_formula_listen.py"
#: Seconds that a server which is to be stopped may take to begin: uWSGI ignores SIGTERM until then.
_BEGINS = 10.0
#: Where the control groups are mounted; each unit has its own.
CGROUP = Path("/sys/fs/cgroup")


class Systemd(ProcessManager):
    """systemd, where it is PID 1."""

    KIND = "systemd"

    def configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the units of a release: file name in ``config/`` → content."""
        name = unit(site, release)
        writable = [Path(variables[name]) for name in ("run", "own_folder") if variables[name]]
        around = _around(site, release, variables, writable)
        units = {f"{name}.service": template.render(templates, SERVICE, **around, **variables)}
        if variables["command"][2:3] == [f"{release}/config/{LISTEN}"]:
            units[LISTEN] = templates[f"{kinds.FILES}{LISTEN}"]
        if variables["inherits"]:
            units[f"{name}.socket"] = template.render(templates, SOCKET, **variables)
        return units

    def worker_configuration(
        self, site: Site, release: Path, variables: Mapping[str, Any], templates: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the unit of a worker: file name in ``config/`` → content."""
        around = _around(site, release, variables, [Path(variables["run"]), *variables["writable"]])
        text = template.render(templates, WORKER, **around, **variables)
        return {f"{variables['unit']}.service": text}

    def files(self, site: Site) -> list[Path]:
        """Return the unit files of all releases of a site."""
        return [path for path in UNITS.glob(f"django-{site.name}-*.*") if _is_unit(site, path)]

    def pid(self, site: Site, release: Path, part: str = "") -> int | None:
        """Return the process in the control group of a part's unit that systemd started, or None when none runs.

        Where not exactly one process there has its parent elsewhere, systemd reports which is the main one.
        """
        name = f"{unit(site, release, part)}.service"
        container = containers.of_release(release)
        if container:
            return container.engine.pid(unit(site, release, part))  # its control group is not the unit's
        members = _members(name)
        if members is None:  # it does not run, or is in another slice
            return _main_pid(name) if _links(unit(site, release, part)) else None
        running = {number: found for number in members if (found := proc.stat(number)) and found.is_running}
        first = [number for number, found in running.items() if found.parent not in running]
        return first[0] if len(first) == 1 else _main_pid(name) if first else None

    def try_host(self, site: Site, release: Path) -> None:
        if not containers.of_release(release):
            transient.try_once(site)

    def is_kept_alive(self, site: Site, release: Path, part: str = "") -> bool:
        """Return whether a part runs, has its folder and what it has there, and would run again after a boot."""
        is_enabled = len(_links(unit(site, release, part))) == len(_units(site, release, part))
        return (
            is_enabled
            and self.pid(site, release, part) is not None
            and contract.is_whole(site, release, part)
            and not self._changed_units(site, release, part)
        )

    def installed(self, site: Site, release: Path, part: str = "") -> dict[Path, str]:
        """Return the unit files of a part: path → the release's content, of which the host starts no directive less."""
        paths = {UNITS / name: file.read_text(release / "config" / name) or "" for name in _units(site, release, part)}
        return {path: sandbox.startable(site, text, file.read_text(path)) for path, text in paths.items()}

    def _changed_units(self, site: Site, release: Path, part: str) -> list[tuple[Path, str]]:
        return [
            (path, text) for path, text in self.installed(site, release, part).items() if file.read_text(path) != text
        ]

    def enabled(self, site: Site) -> set[str]:
        """Return the units of a site, without suffix, of which the service or the socket starts at boot."""
        return {path.stem for path in UNITS.glob(f"*.wants/django-{site.name}-*.*") if _is_unit(site, path)}

    def start(self, site: Site, release: Path, part: str = "") -> None:
        """Install the units of a part, start and enable them, and wait until it reports that it is ready.

        Raises:
            DeploymentError: it does not start.
        """
        name = unit(site, release, part)
        images.require(site, release)
        contract.make_folder(site, release, part)
        changed = self._changed_units(site, release, part)
        reload = (
            [] if any(path.exists() for path, _text in changed) else ["--no-reload"]
        )  # systemd reads new units anyway
        for path, text in changed:
            file.write(path, text)
        within = seconds(site.config["timeouts"]["start"]) + host_units.SPARE
        units = _units(site, release, part)
        doing = f"starting {name}"
        # Of a unit that ends each time, systemd may be in a start from before its cause was mended, which fails.
        is_again = not changed and self.is_starting(site, release, part)
        for is_last in (False, True) if is_again else (True,):
            try:
                host_units.start("enable", "--quiet", *reload, "--now", units=units, doing=doing, within=within)
                break
            except DeploymentError as error:
                if is_last or isinstance(error, host_units.Overdue):
                    raise
        # It ran already: systemd does not notice what was deleted in /run.
        if not contract.is_whole(site, release, part):
            if part:
                self.pause(site, release, part)
            within += _time_to_stop(site)
            host_units.start("restart", units=units, doing=f"restarting {name}", within=within)

    def stop(self, site: Site, release: Path, part: str = "", *, wait: bool = True) -> None:
        """Stop and disable the units of a part, both in one call, so that no late connection starts it again.

        Args:
            wait: until it has ended; otherwise systemd ends it, a server after the site's drain time by force, a worker
                after its patience.
        """
        name = unit(site, release, part)
        units = _units(site, release, part)[::-1]
        if not part and _members(f"{name}.service"):
            deadline = time.monotonic() + _BEGINS
            while self.is_starting(site, release) and time.monotonic() < deadline:
                time.sleep(0.1)
        if any((UNITS / one).exists() for one in units):
            options = ["--quiet", "--no-reload", "--now", *(["--no-block"] if part or not wait else [])]
            within = _time_to_stop(site)
            host_units.stop("disable", *options, units=units, doing=f"stopping {name}", within=within)
        if part and wait:
            _await_end(f"{name}.service", time.monotonic() + seconds(site.config["releases"]["drain"]))

    def restart(self, site: Site, release: Path, part: str) -> None:
        """Restart the unit of a worker; systemd ends it by force after its patience.

        Raises:
            DeploymentError: systemd has no such unit.
        """
        name = unit(site, release, part)
        host_units.control("restart", "--no-block", f"{name}.service", doing=f"restarting {name}")

    def pause(self, site: Site, release: Path, part: str = "") -> None:
        """Stop the units of a part, both in one call, so that no late connection starts it again."""
        name = unit(site, release, part)
        options, units = ["--no-block"] if part else [], _units(site, release, part)
        within = _time_to_stop(site)
        host_units.stop("stop", *options, units=units, doing=f"stopping {name}", within=within)
        if part:
            _await_end(f"{name}.service", time.monotonic() + seconds(site.config["releases"]["drain"]))

    def remove(self, site: Site, release: Path) -> None:
        """Delete the units of a release, and stop every part that runs."""
        files = UNITS.glob(f"{unit(site, release)}-*.service")
        parsed = {contract.parse(site, path.stem) for path in files}
        parts = ["", *sorted(found[1] for found in parsed if found and found[1])]
        running = [part for part in parts if _links(unit(site, release, part)) or self.pid(site, release, part)]
        now, drain = time.monotonic(), seconds(site.config["releases"]["drain"])
        # A worker that is not started at boot any more was stopped before, and has had its time.
        deadlines = {part: now + drain if _links(unit(site, release, part)) else now for part in running}
        for part in reversed(running):  # the workers, which are not waited for, before the server
            self.stop(site, release, part, wait=not part)
        for part in running:
            name = f"{unit(site, release, part)}.service"
            if part:
                _await_end(name, deadlines[part])
            host_units.attempt("reset-failed", name, doing="resetting the unit")
        for part in parts:
            for suffix in (".service", ".socket"):
                (UNITS / f"{unit(site, release, part)}{suffix}").unlink(missing_ok=True)
        contract.remove_folders(site, release)

    def journal(self, site: Site, release: Path, since: float, part: str = "") -> str:
        """Return what a part logged to the journal since a time (seconds since 1970), without systemd's own lines.

        The reason why systemd could not execute the server (exits 203, 217, 226 …) is kept.
        """
        noise = re.compile(
            rf"^(django-\S+\.(service|socket): (?!{transient.CANNOT_START.pattern})"
            r"|Started |Starting |Stopped |Stopping |Listening on |Closed |Failed to start "
            r"|\*\*\* )|^\s*$"
        )
        name = unit(site, release, part)
        own = [_of_container(name)] if containers.of_release(release) else []
        lines = daemons.journal(name, since, *own).splitlines()
        return "\n".join(line for line in lines if not noise.search(line))

    def log(self, site: Site, release: Path, lines: int, part: str = "") -> str:
        """Return the last lines that a part of a release logged to the journal.

        Raises:
            DeploymentError: the journal cannot be read.
        """
        name = unit(site, release, part)
        which = _of_container(name) if containers.of_release(release) else ["--unit", name]
        return _journal([*which, "--lines", str(lines)])

    def search(self, site: Site, releases: Sequence[Path], selection: Selection, part: str = "") -> str:
        """Return the lines that a part of some releases logged to the journal.

        Raises:
            DeploymentError: the journal cannot be read, or has no levels.
        """
        which = _which(site, releases, selection, part)
        if selection.request:
            return _of_request(which, selection)
        # With --grep and --lines journalctl prints the newest line first.
        back = ["--reverse"] if selection.grep else []
        text = _journal([*which, *back, *selections.of_journal(selection), f"--lines={selection.lines}"])
        return "\n".join(reversed(text.splitlines())) if back else text

    def follow(self, site: Site, release: Path, selection: Selection, part: str = "") -> list[str]:
        """Return the command that follows the journal of a part.

        Raises:
            DeploymentError: the journal has no levels.
        """
        own = ["--follow", f"--lines={selection.lines}", *selections.of_journal(selection)]
        return ["journalctl", *_which(site, [release], selection, part), *_SHOWN, *own]

    def where_the_log_is(self, site: Site, release: Path, part: str = "") -> str:
        """Return the command that prints the journal of a release's part."""
        return f"read the whole log: journalctl -u {unit(site, release, part)}"

    def way_to_start(self, site: Site, release: Path, part: str = "") -> str:
        """Return the command that starts the units of a part, or restarts them."""
        return in_command("systemctl", "restart", *_units(site, release, part))

    def is_starting(self, site: Site, release: Path, part: str = "") -> bool:
        """Return whether systemd is starting the unit of a part, and does not wait to start it again."""
        try:
            found = _properties(site, release, part)
        except DeploymentError:
            return False
        return found.get("ActiveState") == "activating" and found.get("SubState") != "auto-restart"

    def how_it_ended(self, site: Site, release: Path, part: str = "") -> str:
        """Return the result of a part's unit, such as ``exit-code``; empty where it was just stopped."""
        try:
            found = _properties(site, release, part)
        except DeploymentError as error:
            return error.message
        is_stopped = found.get("ActiveState") == "inactive" and found.get("Result") == "success"
        return "" if is_stopped else f"{found.get('ActiveState')}, {found.get('Result')}"

    def warnings(self, site: Site) -> list[str]:
        """Return the directives of the sandbox and the limits that are not in force on this host.

        Of a site in containers, which the engine confines, it is what is weak about the engine.
        """
        if site.config.get("container"):
            return container_host.warnings(site)
        return transient.not_in_force(site)

    def run(self, command: ProjectCommand) -> str:
        """Run a command of a project as a transient unit, and return its output.

        Raises:
            DeploymentError: the command fails or times out.
        """
        return transient.run_command(command)

    def is_command_active(self, site: Site, task: str) -> bool:
        """Return whether the transient unit of a command still runs; one that only failed is unloaded."""
        return transient.is_active(f"django-{site.name}-{task}.service")

    def end_command(self, site: Site, task: str) -> None:
        """End a command of a name."""
        transient.end(f"django-{site.name}-{task}.service")

    def end_tasks(self, site: Site) -> None:
        """End a command of a deployment that outlived it.

        Raises:
            DeploymentError: it does not end.
        """
        transient.end(f"django-{site.name}-task.service")


def _of_container(name: str) -> list[str]:
    """Return how journalctl selects the lines of a unit and of its container, which podman 5 logs from another unit."""
    own = [f"_SYSTEMD_UNIT={name}.service", "+", "_PID=1", f"UNIT={name}.service"]
    return [*own, "+", "_UID=0", f"SYSLOG_IDENTIFIER={name}"]  # which others may write too, as other users


def _which(site: Site, releases: Sequence[Path], selection: Selection, part: str) -> list[str]:
    """Return how journalctl selects the lines of a part of some releases.

    Raises:
        DeploymentError: they are in containers, of whose lines the journal does not know the levels.
    """
    contained = [release for release in releases if containers.of_release(release)]
    if contained and selection.level:
        raise DeploymentError(
            f"the journal does not have the levels of {site.name}'s lines, which come from a container",
            hint="search for a text instead: grep='Traceback|Error'",
        )
    if not contained:
        return [f"--unit={unit(site, release, part)}" for release in releases]
    each = [_of_container(unit(site, release, part)) for release in releases]
    return [word for number, words in enumerate(each) for word in (["+"] if number else []) + words]


def _of_request(which: Sequence[str], selection: Selection) -> str:
    """Return the lines of the journal that name a request, with their tracebacks: those that follow within seconds."""
    times = dataclasses.replace(selection, grep="", request="")
    words = [f"--grep={re.escape(selection.request)}", f"--lines={selection.lines}", "--reverse"]
    shown = ("--output", "short-unix", *_SHOWN[2:])
    found = _journal([*which, *selections.of_journal(times), *words], shown)
    when = [float(time) for time in re.findall(r"(?m)^(\d+\.\d+) ", found)]
    if not when:
        return ""
    around = dataclasses.replace(times, since=min(when) - 1, until=max(when) + 2)
    text = _journal([*which, *selections.of_journal(around)])
    return "\n".join(selections.of_request(text.splitlines(), selection.request)[-selection.lines :])


def _journal(words: Sequence[str], shown: Sequence[str] = _SHOWN) -> str:
    """Return what journalctl prints; with --grep it exits with 1 where it finds nothing.

    Raises:
        DeploymentError: it fails, or prints too much.
    """
    command = Command(["journalctl", *words, *shown], doing="reading the journal")
    ended = commands.execute(command)
    is_without = ended.code == 1 and not ended.printed and not ended.errors
    return "" if is_without else commands.check(command, ended)


def _around(site: Site, release: Path, variables: Mapping[str, Any], writable: Sequence[Path]) -> dict[str, Any]:
    """Return what confines a server or a worker: the sandbox of its unit, or the lines by which it is a container."""
    container = containers.expected(site, release)
    if container:
        lines = container_unit.lines(site, release, container, variables, writable)
        return {"sandbox": [], "container": lines, "engine": container.engine.name}
    return {
        "engine": "",
        "sandbox": sandbox.directives(site, release, variables["facts"], writable),
        "container": [],
    }


def _units(site: Site, release: Path, part: str = "") -> list[str]:
    """Return the units of a part: its service, and a server's socket where it inherits one or the release is gone."""
    name = unit(site, release, part)
    if part:
        return [f"{name}.service"]
    if (release / "config/instance.json").exists():
        container = containers.of_release(release)
        inherits = servers.of_release(release).INHERITS and (not container or container.engine.passes_sockets)
    else:
        inherits = (UNITS / f"{name}.socket").exists() or not (UNITS / f"{name}.service").exists()
    return [*([f"{name}.socket"] if inherits else []), f"{name}.service"]


def _is_unit(site: Site, path: Path) -> bool:
    return path.suffix in (".service", ".socket") and contract.parse(site, path.stem) is not None


def _time_to_stop(site: Site) -> float:
    """Return the seconds after which a server that is to stop is killed; the timeout of its unit comes before."""
    return seconds(site.config["releases"]["drain"]) + contract.STOP + host_units.SPARE


def _await_end(name: str, deadline: float) -> None:
    """Wait until a service that gets SIGTERM has ended, after a deadline (monotonic) by force."""
    while _members(name) and time.monotonic() < deadline:
        time.sleep(0.05)
    if _members(name):
        host_units.kill(name)
    host_units.attempt("stop", name, doing=f"stopping {name}")


def _members(name: str) -> list[int] | None:
    """Return the processes in the control group of a service, or None where it has none in system.slice."""
    is_unified = (CGROUP / "cgroup.controllers").exists()
    top = CGROUP if is_unified else CGROUP / "systemd"
    text = proc.control_groups(1)
    own = re.search(r"^0::/(.*)$" if is_unified else r"^\d+:name=systemd:/(.*)$", text, re.MULTILINE)
    # In a container the paths may be those of its host, and only the container's part of them is mounted.
    for above in dict.fromkeys((own[1].removesuffix("init.scope") if own else "", "")):
        try:
            return [
                int(number) for number in (top / above / "system.slice" / name / "cgroup.procs").read_text().split()
            ]
        except (OSError, ValueError):
            continue
    return None


def _properties(site: Site, release: Path, part: str) -> dict[str, str]:
    """Return in which state systemd has the unit of a part.

    Raises:
        DeploymentError: systemd does not answer.
    """
    name = f"{unit(site, release, part)}.service"
    words = ("--property=ActiveState,SubState,Result", name)
    shown = host_units.control("show", *words, doing=f"querying {name}")
    return dict(line.partition("=")[::2] for line in shown.splitlines())


def _main_pid(name: str) -> int | None:
    """Return the main process of a service as systemd reports it."""
    try:
        return int(host_units.value(name, "MainPID", timeout=10)) or None
    except (DeploymentError, ValueError):
        return None


def forget() -> None:
    """Have systemd forget units whose files are deleted: it still knows those that it started at boot."""
    if daemons.has_systemd():
        host_units.daemon_reload()


def drop_ins(site: Site) -> list[Path]:
    """Return the drop-in folders of the units of a site's releases: the formula makes none."""
    return sorted(path for path in UNITS.glob(f"django-{site.name}-*.d") if _is_unit(site, path.with_suffix("")))


def _links(name: str) -> list[Path]:
    """Return the links that start the units of a release at boot."""
    links = (UNITS / f"multi-user.target.wants/{name}.service", UNITS / f"sockets.target.wants/{name}.socket")
    return [path for path in links if os.path.lexists(path)]


MANAGER = Systemd()
