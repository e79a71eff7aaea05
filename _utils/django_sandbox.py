"""What a process of the project may do, in systemd's own directives, alike for the instance and for every command."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from django_site import Site

PROC = Path("/proc")
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


#: What systemd leaves out where it may make no mount namespace.
_OF_MOUNTS = (
    *("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectControlGroups"),
    *("ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProcSubset"),
    *("InaccessiblePaths", "ReadOnlyPaths", "ExecPaths", "NoExecPaths", "TemporaryFileSystem"),
)
#: What is a filter of system calls.
_OF_SECCOMP = (
    *("LockPersonality", "MemoryDenyWriteExecute", "ProtectClock", "RestrictAddressFamilies", "RestrictNamespaces"),
    *("RestrictRealtime", "RestrictSUIDSGID", "SystemCallArchitectures", "SystemCallFilter"),
)
#: The controllers of cgroups that limits take.
_CONTROLLERS = {
    "MemoryMax": "memory",
    "MemoryHigh": "memory",
    "CPUQuota": "cpu",
    "CPUWeight": "cpu",
    "TasksMax": "pids",
    "IOWeight": "io",
}
#: How a directive is switched off that is not by false.
_OFF = {
    "ProtectProc": "default",
    "ProcSubset": "all",
    "RestrictAddressFamilies": "''",
    "SystemCallArchitectures": "''",
    "SystemCallFilter": "''",
}
#: Looks at its own sandbox, and says in JSON what is there.
_LOOK = """
import json
import mmap
import os
import socket
def lines(path):
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []
status = dict(line.split(":", 1) for line in lines("/proc/self/status") if ":" in line)
found = {"filters": int(status.get("Seccomp_filters", "0")), "seccomp": int(status.get("Seccomp", "0"))}
found["namespaces"] = {name: os.readlink("/proc/self/ns/" + name) for name in ("ipc", "mnt", "net", "user")}
found["proc"] = [line.split()[-1] for line in lines("/proc/self/mountinfo") if line.split()[4] == "/proc"][-1:]
found["read_only"] = bool(os.statvfs("/usr").f_flag & os.ST_RDONLY)
controllers = []
for line in lines("/proc/self/cgroup"):
    number, names, path = line.split(":", 2)
    if names:
        controllers += names.split(",") if path.endswith(".service") else []
    else:
        for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
            controllers += " ".join(lines(top + path + "/cgroup.controllers")).split()
found["controllers"] = controllers
try:
    mmap.mmap(-1, 4096, prot=7)
    found["writes_and_executes"] = True
except OSError:
    found["writes_and_executes"] = False
try:
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("127.0.0.1", 0))
    one.sendto(b"", one.getsockname())
    found["sends"] = True
except OSError:
    found["sends"] = False
print(json.dumps(found))
"""
LOOK = ("/usr/bin/python3", "-I", "-S", "-c", _LOOK)


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
        **_confinement(site),
    }
    for name, paths in needed.items():
        said = site.config["sandbox"].get(name, [])
        lines[name] = [*paths, *(said if isinstance(said, list) else [said])]
    return list(spelled(lines))


def _confinement(site: Site) -> dict[str, Any]:
    """What confines a process of a site, whatever its paths are."""
    is_homely = site.root.is_relative_to("/home") or site.root.is_relative_to("/root")
    return {**_DEFAULTS, "ProtectHome": "tmpfs" if is_homely else True, **site.config["sandbox"]}


def _database_folders(site: Site) -> list[Path]:
    """Where the pillar's SQLite files lie, if that is not in the site's own folder; SQLite writes beside them."""
    names = [database["name"] or "" for database in site.config["databases"].values()]
    return list(dict.fromkeys(Path(name).parent for name in names if name.startswith("/")))


def spelled(lines: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in lines.items():
        for one in value if isinstance(value, list) else [value]:
            yield name, ("yes" if one else "no") if isinstance(one, bool) else str(one)


# What is in force


def trial(site: Site) -> list[tuple[str, str]]:
    """The directives under which `LOOK` sees what the host makes of a site's sandbox and limits."""
    confinement = _confinement(site)
    if _is_on(confinement, "IPAddressDeny"):  # it sends to itself
        confinement = {**confinement, "IPAddressDeny": "any", "IPAddressAllow": ""}
    return list(spelled({"User": site.user, "Group": site.user, **confinement, **site.config["resources"]}))


def outside() -> dict[str, Any]:
    """What the trial is compared with: the namespaces that we have, and how many filters systemd has itself."""
    status = dict(line.split(":", 1) for line in (PROC / "1/status").read_text().splitlines() if ":" in line)
    namespaces = {name: os.readlink(PROC / "self/ns" / name) for name in ("ipc", "mnt", "net", "user")}
    return {"namespaces": namespaces, "filters": int(status.get("Seccomp_filters", "0"))}


def not_in_force(site: Site, found: Mapping[str, Any]) -> list[str]:
    """The directives of a site that systemd leaves out on this host, without a word of its own; a line for each reason.

    Args:
        found: what `LOOK` and `outside` have found.
    """
    confinement, at = _confinement(site), f"django:sites:{site.name}"
    missing: dict[str, list[str]] = {}
    for names, is_there, reason in _EVIDENCE:
        told = [name for before in missing.values() for name in before]
        out = [name for name in names if _is_on(confinement, name) and name not in told and not is_there(found)]
        if out:
            missing.setdefault(reason, []).extend(out)
    off = {
        reason: ", ".join(f"{name}: {_OFF.get(name, 'false')}" for name in names) for reason, names in missing.items()
    }
    lines = [_line(names, reason, f"{at}:sandbox: {{{off[reason]}}}") for reason, names in missing.items()]
    limits = [name for name in site.config["resources"] if name in _CONTROLLERS and not _limits(name, found)]
    reason = "systemd has no such controller of cgroups for its units"
    return [*lines, *([_line(limits, reason, f"{at}:resources without them")] if limits else [])]


def _is_on(confinement: Mapping[str, Any], name: str) -> bool:
    value = confinement.get(name, False)
    return value not in (False, "", [], _OFF.get(name)) and str(value).lower() not in ("no", "false", "off", "0")


def _limits(name: str, found: Mapping[str, Any]) -> bool:
    """Whether a limit has its controller; that of disks had another name before."""
    controllers = found["controllers"]
    return _CONTROLLERS[name] in controllers or (name == "IOWeight" and "blkio" in controllers)


def _line(names: Sequence[str], reason: str, way_out: str) -> str:
    return f"not in force on this host: {', '.join(names)}; {reason}; {way_out} says that it is meant (docs/sandbox.md)"


def _has_own(namespace: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda found: bool(found["namespaces"][namespace] != found["outside"]["namespaces"][namespace])


def _is_proc(option: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda found: option in ",".join(found["proc"])


def _is_filtered(found: Mapping[str, Any]) -> bool:
    """Whether a process has filters of its own; older kernels do not count them."""
    return bool(found["filters"] > found["outside"]["filters"] or (not found["filters"] and found["seccomp"] == 2))


#: Directives, how their being in force is seen, and why they may not be.
_EVIDENCE: tuple[tuple[tuple[str, ...], Callable[[Mapping[str, Any]], bool], str], ...] = (
    (_OF_MOUNTS, _has_own("mnt"), "systemd may make no mount namespace here"),
    (("ProtectSystem",), lambda found: found["read_only"], "the file system stays writable"),
    (("ProtectProc",), _is_proc("hidepid="), "/proc cannot be mounted so here"),
    (("ProcSubset",), _is_proc("subset=pid"), "/proc cannot be mounted so here"),
    (("PrivateUsers",), _has_own("user"), "systemd may make no user namespace here"),
    (("PrivateIPC",), _has_own("ipc"), "systemd may make no IPC namespace here"),
    (("PrivateNetwork",), _has_own("net"), "systemd may make no network namespace here"),
    (_OF_SECCOMP, _is_filtered, "the kernel filters no system calls here"),
    (("MemoryDenyWriteExecute",), lambda found: not found["writes_and_executes"], "the kernel does not refuse it"),
    (("IPAddressDeny",), lambda found: not found["sends"], "the kernel filters no packets of units here (BPF)"),
)
