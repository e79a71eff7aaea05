"""The sandbox of a project's processes: the same systemd directives for the instance and for every command."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.host import file, proc, users
from django_formula.site.sites import Site

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
    # In a container where systemd cannot apply ProtectProc, ProcSubset, ProtectControlGroups or ProtectKernelTunables,
    # it leaves these writable in spite of ProtectSystem. A socket on a read-only mount still accepts connections.
    "ReadOnlyPaths": ["/run", "-/sys/fs/fuse/connections"],
    "InaccessiblePaths": [
        *("-/run/dbus", "-/run/systemd/private", "-/run/docker.sock", "-/run/podman", "-/run/containerd"),
    ],
    # PrivateIPC does not cover POSIX shared memory, which multiprocessing writes to. As large as the host's own.
    "TemporaryFileSystem": ["/dev/shm:mode=1777,size=50%"],  # noqa: S108 # nosec B108
}

#: Directives in which the pillar's paths are added to ours; an empty path first replaces ours.
_ADDED = ("ReadOnlyPaths", "InaccessiblePaths", "TemporaryFileSystem")
#: Of these, what a host may refuse to start units with (`process.transient`).
MAY_BE_REFUSED = ("TemporaryFileSystem",)
#: The values that switch a directive off, where that is not false.
OFF = {
    **dict.fromkeys(_ADDED, "''"),
    "CapabilityBoundingSet": "'~'",
    "ProtectProc": "default",
    "ProcSubset": "all",
    "RestrictAddressFamilies": "''",
    "SystemCallArchitectures": "''",
    "SystemCallFilter": "''",
}


def directives(
    site: Site, release: Path, facts: Mapping[str, Any], writable: Sequence[Path] = ()
) -> list[tuple[str, str]]:
    """Return the directives of the [Service] section for a process of the project, as `systemd-run` takes them.

    The pillar's replace ours, except for paths that the site requires: there they are added.

    Args:
        facts: what was found in the source; ``folder`` is that of manage.py.
        writable: folders that this process may write to in addition to the site's own.
    """
    config = site.config
    source, own = release / "source", outermost(config["writable"])
    may_write = [
        site.database,
        site.media,
        site.shared,
        site.log,
        *(source / path for path in own),
        *_database_folders(site),
        *writable,
    ]
    mount = config["mount"]
    needed = {
        "BindReadOnlyPaths": [str(site.root), *([f"{source}:{mount}"] if mount else [])],
        "BindPaths": [f"{source}/{path}:{mount}/{path}" for path in own] if mount else [],
        # An older release has no such folder.
        "ReadWritePaths": [
            *map(str, may_write),
            *([f"-{release}/packages"] if config.get("writable_packages") else []),
        ],
    }
    lines: dict[str, Any] = {
        "User": site.user,
        "Group": site.user,
        "WorkingDirectory": os.path.normpath(Path(mount or source) / facts["folder"]),
        "EnvironmentFile": [f"{release}/config/environment", f"{site.secrets}/environment"],
        **confinement(site, refused(site)),
    }
    for name, paths in needed.items():
        lines[name] = [*paths, *_listed(site.config["sandbox"].get(name, []))]
    return list(flattened(lines))


def confinement(site: Site, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the directives for a process of a site, without paths of the site.

    Args:
        without: directives of ours to leave out, because this host does not start units that have them.
    """
    is_homely = site.root.is_relative_to("/home") or site.root.is_relative_to("/root")
    ours = {**_DEFAULTS, "ProtectHome": "tmpfs" if is_homely else True}
    ours = {name: [] if name in without else value for name, value in ours.items()}
    configured = site.config["sandbox"]
    return {**ours, **configured, **{name: [*ours[name], *_listed(configured.get(name, []))] for name in _ADDED}}


def closed() -> dict[str, Any]:
    """Return the directives for a program of the host that serves a site: ours alone, whatever the pillar has."""
    return {**_DEFAULTS, "ProtectHome": True}


def without_secrets(site: Site, directives: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the directives of a process that gets no secret, network or socket, little memory, no data to write.

    `LimitAS` and `LimitNPROC`, which counts all of the user's, hold where a container's systemd has no controllers.
    """
    pids = proc.pids_of(users.user_id(site.user))
    tasks = sum(map(_threads, pids))
    limits = {"TasksMax": "64", "MemoryMax": "1G"}
    limits |= {"LimitAS": "4G", "LimitFSIZE": "64M", "LimitNPROC": str(tasks + 64)}
    secret = ("EnvironmentFile", f"{site.secrets}/environment")
    data = [("ReadWritePaths", str(path)) for path in (site.database, site.media, *_database_folders(site))]
    kept = [line for line in directives if line[0] not in limits and line not in (secret, *data)]
    # The environment of a process that runs has secrets, and its own user may read it.
    running = [("InaccessiblePaths", f"-/proc/{pid}") for pid in pids]
    closed = [("SystemCallFilter", "~@network-io"), ("InaccessiblePaths", str(site.secrets))]
    return [*kept, *limits.items(), *closed, *running]


def _threads(pid: int) -> int:
    """Return the number of threads of a process; 0 where it has ended."""
    try:
        return int(proc.status(pid).get("Threads", 1))
    except OSError:
        return 0


def refused(site: Site) -> list[str]:
    """Return the directives with which this host does not start units, as found by the trial since its boot."""
    known = file.read_verified(site.confinement)
    return [name for name in known.get("refused", []) if name in _ADDED]


def startable(site: Site, text: str, installed: str | None) -> str:
    """Return a unit without those of our directives with which this host starts none, since an upgrade of systemd too.

    Args:
        text: the unit as its release has it.
        installed: as this host has it: where nothing has been tried since the boot, it stays without them.
    """
    shorter = without_lines(text, MAY_BE_REFUSED)
    if shorter == text:
        return text
    is_tried = "refused" in file.read_verified(site.confinement)
    return without_lines(text, refused(site)) if is_tried else shorter if shorter == installed else text


def without_lines(unit: str, names: Iterable[str]) -> str:
    """Return a unit without what some directives have of our own; the pillar's own values stay."""
    ours = [f"{name}={value}" for name in names for value in _DEFAULTS[name]]
    return "".join(line for line in unit.splitlines(keepends=True) if line.rstrip("\n") not in ours)


def effective_paths(value: Any) -> list[str]:
    """Return the effective paths of a list: an empty path resets those before it."""
    paths: list[str] = []
    for one in _listed(value):
        paths = [*paths, str(one)] if one else []
    return paths


def opened_for_writing(confinement: Mapping[str, Any]) -> list[str]:
    """Return the paths that the pillar's sandbox makes writable."""
    paths = [
        path for name in ("ReadWritePaths", "TemporaryFileSystem") for path in effective_paths(confinement.get(name))
    ]
    bound = [path.split(":") for path in effective_paths(confinement.get("BindPaths"))]
    named = [*(path.partition(":")[0] for path in paths), *(parts[min(1, len(parts) - 1)] for parts in bound)]
    return [path.lstrip("-+") for path in named]


def is_on(confinement: Mapping[str, Any], name: str) -> bool:
    """Return whether a directive is switched on."""
    value = confinement.get(name, False)
    if name in _ADDED:
        return bool(effective_paths(value))
    return value not in (False, "", [], OFF.get(name)) and str(value).lower() not in ("no", "false", "off", "0")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def outermost(paths: Sequence[str]) -> list[str]:
    """Return those relative paths that are not inside another: systemd would follow a link in that one."""
    return [path for path in paths if not any(path.startswith(f"{outer}/") for outer in paths)]


def _database_folders(site: Site) -> list[Path]:
    """Return the folders of SQLite files with an absolute path: SQLite also writes next to the file."""
    names = [database["name"] or "" for database in site.config["databases"].values()]
    return list(dict.fromkeys(Path(name).parent for name in names if name.startswith("/")))


def flattened(lines: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each directive with its value in systemd's notation, once for each entry of a list."""
    for name, value in lines.items():
        for one in value if isinstance(value, list) else [value]:
            yield name, ("yes" if one else "no") if isinstance(one, bool) else str(one)
