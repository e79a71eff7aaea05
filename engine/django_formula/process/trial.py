"""Test from inside which directives of the sandbox a host enforces: systemd skips silently what it cannot apply."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.host import proc
from django_formula.host.commands import DeploymentError
from django_formula.process import sandbox
from django_formula.process.sandbox import OFF, is_on
from django_formula.site import sites
from django_formula.site.sites import Site

#: The most bytes of an answer, entries of a list in it, and entries that a warning shows.
_ANSWER, _MOST, _SHOWN = 256 << 10, 200, 5

#: Directives that systemd skips where it may not create mount namespaces.
_OF_MOUNTS = (
    *("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts", "ProtectControlGroups"),
    *("ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables", "ProtectProc", "ProcSubset"),
    *("InaccessiblePaths", "ReadOnlyPaths", "ExecPaths", "NoExecPaths", "TemporaryFileSystem"),
)
#: Directives that filter system calls.
_OF_SECCOMP = (
    *("LockPersonality", "MemoryDenyWriteExecute", "ProtectClock", "RestrictAddressFamilies", "RestrictNamespaces"),
    *("RestrictRealtime", "RestrictSUIDSGID", "SystemCallArchitectures", "SystemCallFilter"),
)
#: The cgroup controllers that limits require.
_CONTROLLERS = {
    "MemoryMax": "memory",
    "MemoryHigh": "memory",
    "CPUQuota": "cpu",
    "CPUWeight": "cpu",
    "TasksMax": "pids",
    "IOWeight": "io",
}
_BUS, _SHM = "/run/dbus/system_bus_socket", "/dev/shm"  # noqa: S108 # nosec B108
#: Sockets through which a process gets more rights, mostly root's. `InaccessiblePaths` hides the first ones.
_HIDDEN = (
    *(_BUS, "/run/systemd/private", "/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock"),
)
_SOCKETS = (
    *(*_HIDDEN, "/run/supervisor.sock", "/run/crio/crio.sock", "/run/libvirt/libvirt-sock", "/run/lxd.socket"),
    *("/var/run/salt/master/master_event_pull.ipc", "/var/run/salt/master/workers.ipc"),
)
#: Folders that only root may write to, or that the sandbox closes.
_FOLDERS = (
    *("/", "/boot", "/etc", "/etc/cron.d", "/etc/systemd/system", "/home", "/opt", "/root", "/run", "/run/django"),
    *("/run/lock", "/run/systemd", "/srv", "/usr", "/usr/bin", "/usr/local/bin", "/var", "/var/lib", "/var/log"),
    *("/var/lib/django-formula", _SHM),
)
_HOMES = ("/home", "/root")
_FILES = ("/etc/shadow", "/etc/ssh/ssh_host_ed25519_key", "/etc/salt/pki/minion/minion.pem")

#: Tests its own sandbox: reads what to test as JSON and prints its answer as JSON. It changes nothing: the files that
#: it creates have no name (O_TMPFILE).
_LOOK = """
import errno
import json
import mmap
import os
import socket
import stat
import sys

def lines(path):
    try:
        with open(path, errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []

def is_read_only(path):
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)

def is_writable(mount):
    point, options, kind = mount
    if "rw" not in options.split(",") or kind == "autofs":
        return False
    if kind.startswith(("nfs", "cifs", "smb", "fuse", "9p", "ceph")):
        return True
    try:
        return not is_read_only(point)
    except OSError:
        return False

def writes(folder):
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY, 0o600))
    except OSError as error:
        return error.errno == errno.EOPNOTSUPP
    return True

def reads(path):
    try:
        if os.path.isdir(path):
            return bool(os.listdir(path))
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True

def reaches(path):
    one = socket.socket(socket.AF_UNIX)
    one.settimeout(1)
    try:
        one.connect(path)
    except OSError as error:
        return error.errno in (errno.EPROTOTYPE, errno.EAGAIN)
    finally:
        one.close()
    return True

def is_another(number):
    try:
        return os.stat("/proc/" + number).st_uid != os.getuid()
    except OSError:
        return False

asked = json.load(sys.stdin)
status = dict(line.split(":", 1) for line in lines("/proc/self/status") if ":" in line)
found = {"filters": int(status.get("Seccomp_filters", "0")), "seccomp": int(status.get("Seccomp", "0"))}
found["rights"] = [int(status.get(name, "0"), 16) for name in ("CapEff", "CapBnd", "CapAmb")]
found["gains_rights"] = int(status.get("NoNewPrivs", "0")) == 0
found["read_only"] = is_read_only("/usr")
found["namespaces"] = {name: os.readlink("/proc/self/ns/" + name) for name in ("ipc", "mnt", "net", "user")}
mounts, temporary, roots = {}, {}, {}
found["proc"] = []
for line in lines("/proc/self/mountinfo"):
    left, _, right = line.partition(" - ")
    root, point, options = left.split()[3:6]
    point = point.encode().decode("unicode_escape", "replace")
    mounts[point] = (point, options, right.split()[0])
    temporary.setdefault(point, []).append(right.split()[0] == "tmpfs" and root == "/")
    roots.setdefault(point, []).append(root)
    if point == "/proc":
        found["proc"] = [right.split()[-1]]
places = ["/proc/sys"] if os.path.exists("/proc/sys") and not is_read_only("/proc/sys") else []
found["writable"] = sorted(places + [mount[0] for mount in mounts.values() if is_writable(mount)])[:200]
found["shared"] = [
    point
    for point in ("/tmp", "/var/tmp")
    if not any("systemd-private-" in root for root in roots.get(point, []))
    and not (any(temporary.get(point, [])) and not os.listdir(point))
]
# A fresh one is empty; the host's is one of the mounts that the host has too.
found["shm"] = os.path.isdir("/dev/shm") and os.stat("/dev/shm").st_dev != asked["shm"] and not os.listdir("/dev/shm")
nodes = []
for name in sorted(os.listdir("/dev")):
    try:
        mode = os.stat("/dev/" + name).st_mode
    except OSError:
        continue
    if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
        nodes.append(name)
usual = {"console", "core", "full", "null", "ptmx", "random", "tty", "urandom", "zero"}
usual |= {"fd", "stderr", "stdin", "stdout"}
found["devices"] = [name for name in nodes if name not in usual][:200]
found["others"] = any(is_another(name) for name in os.listdir("/proc") if name.isdigit())
found["writes"] = [path for path in asked["folders"] if writes(path)]
found["reads"] = [path for path in asked["closed"] if reads(path)]
found["reaches"] = [path for path in asked["sockets"] if reaches(path)]
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

#: The types of an answer: [type] is a list of values, {key: type} an object with these keys.
_TYPES: dict[str, Any] = {
    "filters": int,
    "seccomp": int,
    "rights": [int],
    "gains_rights": bool,
    "namespaces": {"ipc": str, "mnt": str, "net": str, "user": str},
    "proc": [str],
    "read_only": bool,
    "writable": [str],
    "shared": [str],
    "shm": bool,
    "devices": [str],
    "others": bool,
    "writes": [str],
    "reads": [str],
    "reaches": [str],
    "controllers": [str],
    "writes_and_executes": bool,
    "sends": bool,
}


def questions(site: Site) -> dict[str, Any]:
    """Return what `LOOK` tests: folders to write to, paths to read and sockets to connect to, all of them closed."""
    own = [site.mirror, site.templates, site.backups, site.build]
    closed, sockets = [*_HOMES, *_FILES, *map(str, own)], [*_SOCKETS]
    folders = [*_FOLDERS]
    for name in sites.registered():
        try:
            other = sites.find(name)
        except DeploymentError:
            continue
        if name == site.name or other.user == site.user:
            continue
        folders.append(str(other.root))
        private = [other.mirror, other.secrets, other.database, other.shared, other.backups, other.log, other.build]
        closed += map(str, [*private, other.current / "source", other.current / "config"])
        sockets.append(str(other.current / "socket"))
    try:
        shm = os.stat(_SHM).st_dev
    except OSError:
        shm = 0
    return {"folders": folders[:_MOST], "closed": closed[:_MOST], "sockets": sockets[:_MOST], "shm": shm}


def properties(site: Site, refused: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return the directives for running `LOOK`: the site's sandbox and limits, without its own folders.

    Args:
        refused: directives with which units do not start on this host.
    """
    confinement = sandbox.confinement(site, refused)
    if is_on(confinement, "IPAddressDeny"):  # `LOOK` sends to itself
        confinement = {**confinement, "IPAddressDeny": "any", "IPAddressAllow": ""}
    named = {"User": site.user, "Group": site.user, **confinement, **site.config["resources"]}
    return list(sandbox.flattened(named))


def outside() -> dict[str, Any]:
    """Return what the answer is compared with: our own namespaces, and the number of systemd's own filters."""
    namespaces = {kind: proc.namespace(kind) for kind in ("ipc", "mnt", "net", "user")}
    return {"namespaces": namespaces, "filters": int(proc.status(1).get("Seccomp_filters", "0"))}


def parse_answer(text: str, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the validated answer of `LOOK`, which runs as the site's user and may have been manipulated.

    Raises:
        ValueError: it is not a possible answer.
    """
    if len(text) > _ANSWER:
        raise ValueError("the answer is too long")
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("the answer is nested too deeply") from None
    if not _has_type(found, _TYPES):
        raise ValueError("the answer has other keys or types")
    for name, question in (("writes", "folders"), ("reads", "closed"), ("reaches", "sockets")):
        found[name] = [path for path in asked[question] if path in found[name]]
    return {name: found[name] for name in _TYPES}


def _has_type(value: Any, kind: Any) -> bool:
    if isinstance(kind, dict):
        return isinstance(value, dict) and all(_has_type(value.get(key), one) for key, one in kind.items())
    if isinstance(kind, list):
        return isinstance(value, list) and len(value) <= _MOST and all(_has_type(one, kind[0]) for one in value)
    if kind is str:
        return isinstance(value, str) and len(value) <= 4096 and value.isprintable()
    return type(value) is kind


def not_in_force(site: Site, found: Mapping[str, Any]) -> list[str]:
    """Return a warning for each reason for which directives of a site are not in force on this host.

    Args:
        found: the answer of `LOOK`, and that of `outside` under its name.
    """
    confinement, at = sandbox.confinement(site), site.at
    missing: dict[str, list[str]] = {}
    for names, reason_of in _EVIDENCE:
        reported = [name for before in missing.values() for name in before]
        active = [name for name in names if (is_on(confinement, name) or name in _EMPTY) and name not in reported]
        reason = reason_of(found, confinement) if active else ""
        if reason:
            missing.setdefault(reason, []).extend(active)
    off = {
        reason: ", ".join(f"{name}: {OFF.get(name, 'false')}" for name in names) for reason, names in missing.items()
    }
    lines = [_line(names, reason, f"set {off[reason]} in {at}:sandbox") for reason, names in missing.items()]
    limits = [name for name in site.config["resources"] if name in _CONTROLLERS and not _limits(name, found)]
    reason = "systemd does not have this cgroup controller for its units"
    lines += [_line(limits, reason, f"remove them from {at}:resources")] if limits else []
    reported = [name for names in missing.values() for name in names]
    return [*lines, *_by_modes(site, found, confinement, reported)]


def _by_modes(
    site: Site, found: Mapping[str, Any], confinement: Mapping[str, Any], reported: Sequence[str]
) -> Iterator[str]:
    """Yield a warning for each kind of access that file modes allow the site: they are the last protection."""
    known = {
        "writes": ["/run/lock", _SHM],  # open to all users on every host
        "reads": [*_HOMES],  # ProtectHome closes them
        "reaches": [_BUS] if is_on(confinement, "InaccessiblePaths") else [*_HIDDEN],
    }
    if "InaccessiblePaths" in reported and _has_own("mnt")(found):
        known["reaches"] = [*_HIDDEN]
    for name, verb in (("writes", "write to"), ("reads", "read"), ("reaches", "connect to")):
        paths = [path for path in found[name] if path not in known[name]]
        if paths:
            yield (
                f"not in force on this host: file modes; {site.user} may {verb} {_some(paths)}; "
                f"chmod and chgrp them, or remove {site.user} from their groups (docs/reference/walls.md)"
            )


def _limits(name: str, found: Mapping[str, Any]) -> bool:
    """Return whether the controller of a limit is available; that of disks is called blkio in cgroup v1."""
    controllers = found["controllers"]
    return _CONTROLLERS[name] in controllers or (name == "IOWeight" and "blkio" in controllers)


def _line(names: Sequence[str], reason: str, accept: str) -> str:
    missing = ", ".join(names)
    return f"not in force on this host: {missing}; {reason}; to accept this, {accept} (docs/reference/sandbox.md)"


def _some(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"{', '.join(paths[:_SHOWN])}{more}"


# Evidence: functions that return why a directive is not in force, or an empty text

_Reason = Callable[[Mapping[str, Any], Mapping[str, Any]], str]


def _unless(is_there: Callable[[Mapping[str, Any]], bool], reason: str) -> _Reason:
    return lambda found, _confinement: "" if is_there(found) else reason


def _has_own(namespace: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda found: bool(found["namespaces"][namespace] != found["outside"]["namespaces"][namespace])


def _is_proc(option: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda found: option in ",".join(found["proc"])


def _is_filtered(found: Mapping[str, Any]) -> bool:
    """Return whether the process has filters of its own; older kernels do not count them."""
    return bool(found["filters"] > found["outside"]["filters"] or (not found["filters"] and found["seccomp"] == 2))


#: Mounts that no directive makes read-only, and those that another directive than ProtectSystem does.
_ALWAYS_WRITABLE = ("/tmp", "/var/tmp", "/dev", "/proc")  # noqa: S108 # nosec B108
_CLOSED_BY = {
    "ReadOnlyPaths": ("/run",),
    "ProtectControlGroups": ("/sys/fs/cgroup",),
    "ProtectKernelTunables": ("/sys", "/proc/sys"),
    "ProtectHome": (*_HOMES, "/run/user"),
}


#: The directive that closes a folder.
_CLOSES = {folder: name for name, folders in _CLOSED_BY.items() for folder in folders} | dict.fromkeys(
    _ALWAYS_WRITABLE, ""
)


def _closed_by(path: str) -> str:
    """Return the directive that makes a mount read-only, or an empty text if none does."""
    folders = map(str, (Path(path), *Path(path).parents))
    return next((_CLOSES[folder] for folder in folders if folder in _CLOSES), "ProtectSystem")


def _stays_writable(directive: str) -> _Reason:
    def reason(found: Mapping[str, Any], confinement: Mapping[str, Any]) -> str:
        opened = sandbox.opened_for_writing(confinement)
        paths = [
            path
            for path in found["writable"]
            if _closed_by(path) == directive and not any(Path(path).is_relative_to(one) for one in opened)
        ]
        if directive == "ProtectSystem" and confinement["ProtectSystem"] != "strict":  # which closes only /usr
            paths = [] if found["read_only"] else ["/usr"]
        if directive == "ReadOnlyPaths" and "/run" not in sandbox.effective_paths(confinement["ReadOnlyPaths"]):
            paths = []
        return f"writable: {_some(paths)}" if paths else ""

    return reason


def _reaches(found: Mapping[str, Any], confinement: Mapping[str, Any]) -> str:
    hidden = [path.removeprefix("-") for path in sandbox.effective_paths(confinement["InaccessiblePaths"])]
    paths = [
        path
        for path in found["reaches"]
        if path in _HIDDEN and any(Path(path).is_relative_to(folder) for folder in hidden)
    ]
    return f"connects to {_some(paths)}" if paths else ""


def _reads_homes(found: Mapping[str, Any], confinement: Mapping[str, Any]) -> str:
    paths = [path for path in found["reads"] if path in _HOMES]
    return f"reads {_some(paths)}" if paths and confinement["ProtectHome"] is True else ""


def _has_devices(found: Mapping[str, Any], _confinement: Mapping[str, Any]) -> str:
    return f"devices of the host are visible: {_some(found['devices'])}" if found["devices"] else ""


def _shares_tmp(found: Mapping[str, Any], _confinement: Mapping[str, Any]) -> str:
    return f"shared with the host: {_some(found['shared'])}" if found["shared"] else ""


def _shares_memory(found: Mapping[str, Any], confinement: Mapping[str, Any]) -> str:
    own = any(str(one).partition(":")[0] == _SHM for one in sandbox.effective_paths(confinement["TemporaryFileSystem"]))
    return f"shared with the host: {_SHM}" if own and not found["shm"] else ""


def _has_rights(found: Mapping[str, Any], confinement: Mapping[str, Any]) -> str:
    has_some = any(found["rights"]) and confinement["CapabilityBoundingSet"] == ""
    return "capabilities of root are left" if has_some else ""


#: Directives that are in force when they are empty.
_EMPTY = ("CapabilityBoundingSet",)
#: Directives, and why they may not be in force; a directive is reported for its first reason only.
_EVIDENCE: tuple[tuple[tuple[str, ...], _Reason], ...] = (
    (_OF_MOUNTS, _unless(_has_own("mnt"), "systemd may not create mount namespaces here")),
    (("ProtectSystem",), _stays_writable("ProtectSystem")),
    (("ReadOnlyPaths",), _stays_writable("ReadOnlyPaths")),
    (("ProtectControlGroups",), _stays_writable("ProtectControlGroups")),
    (("ProtectKernelTunables",), _stays_writable("ProtectKernelTunables")),
    (("ProtectHome",), _reads_homes),
    (("PrivateTmp",), _shares_tmp),
    (("TemporaryFileSystem",), _shares_memory),
    (("PrivateDevices",), _has_devices),
    (("InaccessiblePaths",), _reaches),
    (("ProtectProc",), _unless(_is_proc("hidepid="), "/proc cannot be mounted with this option here")),
    (("ProcSubset",), _unless(_is_proc("subset=pid"), "/proc cannot be mounted with this option here")),
    (("ProtectProc",), _unless(lambda found: not found["others"], "processes of other users are visible")),
    (("PrivateUsers",), _unless(_has_own("user"), "systemd may not create user namespaces here")),
    (("PrivateIPC",), _unless(_has_own("ipc"), "systemd may not create IPC namespaces here")),
    (("PrivateNetwork",), _unless(_has_own("net"), "systemd may not create network namespaces here")),
    (("CapabilityBoundingSet",), _has_rights),
    (("NoNewPrivileges",), _unless(lambda found: not found["gains_rights"], "a process may gain rights")),
    (_OF_SECCOMP, _unless(_is_filtered, "the kernel filters no system calls here")),
    (
        ("MemoryDenyWriteExecute",),
        _unless(lambda found: not found["writes_and_executes"], "the kernel does not enforce it"),
    ),
    (
        ("IPAddressDeny",),
        _unless(lambda found: not found["sends"], "the kernel filters no packets of units here (BPF)"),
    ),
)
