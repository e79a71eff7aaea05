"""What a process of the project may do, in systemd's own directives, alike for the instance and for every command."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import django_command
from django_command import DeploymentError
from django_site import Site

_BUS = Path("/run/dbus/system_bus_socket")
_DEFAULTS: dict[str, Any] = {
    "UMask": "0027",
    "NoNewPrivileges": True,
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "ProtectSystem": "strict",
    "PrivateTmp": True,
    "PrivateDevices": True,
    "DevicePolicy": "closed",
    "PrivateUsers": True,
    "PrivateMounts": True,
    "PrivateIPC": True,
    "ProtectClock": True,
    "ProtectControlGroups": True,
    "ProtectHostname": True,
    "ProtectKernelLogs": True,
    "ProtectKernelModules": True,
    "ProtectKernelTunables": True,
    "ProtectProc": "invisible",
    "ProcSubset": "pid",
    "KeyringMode": "private",
    "LockPersonality": True,
    "MemoryDenyWriteExecute": True,
    "RemoveIPC": True,
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
    "RestrictNamespaces": True,
    "RestrictRealtime": True,
    "RestrictSUIDSGID": True,
    "SystemCallArchitectures": "native",
    "SystemCallErrorNumber": "EPERM",
    "SystemCallFilter": ["@system-service", "~@privileged @resources"],
}


def directives(
    site: Site, release: Path, facts: Mapping[str, Any], writable: Sequence[Path] = ()
) -> list[tuple[str, str]]:
    """The directives of the [Service] section that confine a process of the project, as `systemd-run` takes them.

    The pillar's replace ours, but for the paths without which the site does not work: there they are added.

    Args:
        facts: what was found in the source; ``folder`` is that of manage.py.
        writable: folders that this process may write besides the site's own.
    """
    source = release / "source"
    may_write = [
        site.database,
        site.media,
        site.shared,
        site.log,
        *(source / path for path in site.config["writable"]),
        *_database_folders(site),
        *writable,
    ]
    mount = site.config["mount"]
    needed = {
        "BindReadOnlyPaths": [str(site.root), *([f"{source}:{mount}"] if mount else [])],
        "BindPaths": [f"{source}/{path}:{mount}/{path}" for path in site.config["writable"]] if mount else [],
        "ReadWritePaths": [str(path) for path in may_write],
    }
    lines: dict[str, Any] = {
        "User": site.user,
        "Group": site.user,
        "WorkingDirectory": os.path.normpath(Path(mount or source) / facts["folder"]),
        "EnvironmentFile": [f"{release}/config/environment", f"{site.secrets}/environment"],
        **_DEFAULTS,
        "ProtectHome": "tmpfs" if site.root.is_relative_to("/home") or site.root.is_relative_to("/root") else True,
        **site.config["sandbox"],
    }
    for name, paths in needed.items():
        said = site.config["sandbox"].get(name, [])
        lines[name] = [*paths, *(said if isinstance(said, list) else [said])]
    return list(_spelled(lines))


def _database_folders(site: Site) -> list[Path]:
    """Where the pillar's SQLite files lie, if that is not in the site's own folder; SQLite writes beside them."""
    names = [database["name"] or "" for database in site.config["databases"].values()]
    return list(dict.fromkeys(Path(name).parent for name in names if name.startswith("/")))


def _spelled(lines: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in lines.items():
        for one in value if isinstance(value, list) else [value]:
            yield name, ("yes" if one else "no") if isinstance(one, bool) else str(one)


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
    unit: str = "task",
    more: Sequence[tuple[str, str]] = (),
    hint: str = "",
    errors_too: bool = False,
) -> str:
    """Run a command of the project as the site's user, in the sandbox and with the environment of a release.

    Commands of a deployment share one unit name: one that outlived its deployment is ended first, never doubled.

    Raises:
        DeploymentError: it fails, or is not through in time.
    """
    name = f"django-{site.name}-{unit}.service"
    properties = [f"--property={name}={value}" for name, value in [*directives(site, release, facts, writable), *more]]
    properties += [f"--property=RuntimeMaxSec={timeout:g}", "--property=TimeoutStopSec=5", "--property=SendSIGKILL=yes"]
    options = ["--quiet", "--pipe", "--wait", "--collect", "--service-type=exec", f"--unit={name}"]
    if unit == "task":
        stop(name)
    _start_bus()
    try:
        return django_command.run(
            ["systemd-run", *options, *properties, "--", *argv],
            doing=doing,
            timeout=timeout + 15,
            stdin=stdin,
            secrets=secrets,
            hint=hint,
            errors_too=errors_too,
        )
    except BaseException:
        stop(name)
        raise


def _start_bus() -> None:
    """The system bus, by which systemd-run passes input and output on, does not run yet where it was just installed."""
    if not _BUS.exists():
        django_command.run(["systemctl", "start", "dbus.socket"], doing="starting the system bus")


def stop(unit: str) -> None:
    """End a unit if it runs; one that ends by itself meanwhile is as good.

    Raises:
        DeploymentError: it does not end.
    """
    if _is_loaded(unit):
        try:
            django_command.run(["systemctl", "stop", unit], doing=f"stopping {unit}", timeout=60)
        except DeploymentError:
            if _is_loaded(unit):
                raise


def _is_loaded(unit: str) -> bool:
    return any(Path(folder, unit).exists() for folder in ("/run/systemd/transient", "/etc/systemd/system"))
