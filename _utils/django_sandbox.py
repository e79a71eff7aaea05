"""What a process of the project may do, in systemd's own directives, alike for the instance and for every command."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from django_site import Site

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
