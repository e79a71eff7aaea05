"""What works off the requests of a site: its program, and two units of systemd, which the first request makes.

A unit of paths starts the program, also after a boot or a kill: as long as a request waits or runs, its file is there.
Without systemd each request starts the program.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django_formula.host import archive, commands, config_files, daemons, file, folders, units
from django_formula.host.folders import Folder
from django_formula.request import queue
from django_formula.request.work import CONFIGURATION
from django_formula.site.sites import Site

MODULE = "django_formula.request.work"
_SERVICE = """\
[Unit]
Description=Releases of the Django site {site} that were requested
StartLimitIntervalSec=0

[Service]
ExecStart={command}
Restart=on-failure
RestartSec=1
# Not the control group: where systemd does not see that it is empty (cgroup v1 in containers), it would wait for
# TimeoutStopSec after a kill. A release ends with the program.
KillMode=process
TimeoutStopSec=900
"""
_PATH = """\
[Unit]
Description=Requests of the Django site {site}

[Path]
{paths}

[Install]
WantedBy=paths.target
"""
#: Seconds that a release may take to end when its site is removed.
_PATIENCE = 30.0


def prepare(site: Site, salt_call: Sequence[str]) -> None:
    """Make the folder, the program and the units, where they are missing or of another version.

    Args:
        salt_call: the command that calls Salt on this host.

    Raises:
        DeploymentError: the files are not free in time, or systemd refuses a unit.
    """
    top, values = queue.folder(site), _configuration(salt_call)
    folders.make(Folder(top, "root", "root", 0o700))
    with queue.lock(site).held():
        before = file.read_json(top / "config.json", CONFIGURATION) or {}
        if before.get("program") != values["program"] or not archive.is_whole(_program(site)):
            archive.install(MODULE, _program(site))
        if daemons.has_systemd():
            _enable(site)
        if before != values:
            file.write_json(top / "config.json", values, mode=0o600)


def is_prepared(site: Site, salt_call: Sequence[str]) -> bool:
    """Return whether there is nothing for `prepare` to do."""
    is_made = archive.is_whole(_program(site)) and not (daemons.has_systemd() and _changed(site))
    return is_made and file.read_json(queue.folder(site) / "config.json") == _configuration(salt_call)


def _configuration(salt_call: Sequence[str]) -> dict[str, Any]:
    environment, program = commands.network_environment(), archive.version(MODULE)
    return {"salt_call": [*salt_call], "environment": environment, "program": program}


def _changed(site: Site) -> dict[Path, str]:
    """Return the units that differ, and those that are not enabled, as where this was killed in between."""
    is_enabled = os.path.lexists(daemons.UNITS / "paths.target.wants" / _paths(site)[1].name)
    return {
        path: text
        for path, text in _units(site).items()
        if file.read_text(path) != text or (path.suffix == ".path" and not is_enabled)
    }


def _enable(site: Site) -> None:
    changed = _changed(site)
    for path, text in changed.items():
        file.write(path, text)
    if changed:
        units.daemon_reload()
    for path in changed:
        if path.suffix == ".path":
            units.control("enable", "--quiet", "--now", path.name, doing=f"starting {path.name}")


def start(site: Site) -> None:
    """Have the program work off what waits, unless one does.

    Raises:
        DeploymentError: systemd does not start it.
    """
    if queue.work_lock(site).holder():
        return
    if daemons.has_systemd():
        service = _paths(site)[0].name
        units.control("start", "--no-block", service, doing=f"starting {service}")
        return
    commands.detach(_command(site))


def present(site: Site) -> list[Path]:
    """Return what the site has of it."""
    return [path for path in (*_paths(site), queue.folder(site)) if path.exists()]


def remove(site: Site) -> None:
    """End the program and remove the units; the folder is left to who removes the site.

    Raises:
        DeploymentError: systemd does not.
    """
    found = [path for path in _paths(site) if path.exists()]
    if found and daemons.has_systemd():
        names = [path.name for path in reversed(found)]  # the paths first: they would start the program again
        units.stop(
            "disable", "--quiet", "--now", units=names, doing=f"ending the requests of {site.name}", within=_PATIENCE
        )
    for path in found:
        path.unlink()
    if found and daemons.has_systemd():
        units.daemon_reload()
        units.attempt("reset-failed", _paths(site)[0].name, doing="forgetting the unit of requests")  # if it was killed
    if queue.folder(site).exists():
        queue.work_lock(site).end_holders(_PATIENCE)


def _program(site: Site) -> Path:
    return queue.folder(site) / "program.pyz"


def _command(site: Site) -> list[str]:
    return ["/usr/bin/python3", "-I", str(_program(site)), site.name]


def _paths(site: Site) -> tuple[Path, Path]:
    service = daemons.UNITS / f"django-{site.name}-requests.service"
    return service, service.with_suffix(".path")


def _units(site: Site) -> dict[Path, str]:
    """Return the text of each unit."""
    service, path = _paths(site)
    command = " ".join(_command(site)).replace("%", "%%")
    watched = "\n".join(f"PathExists={one}".replace("%", "%%") for one in queue.paths(site))
    texts = {service: _SERVICE.format(site=site.name, command=command)}
    texts |= {path: _PATH.format(site=site.name, paths=watched)}
    return {path: f"{config_files.OURS}\n{text}" for path, text in texts.items()}
