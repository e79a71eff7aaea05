"""The watch of a host as files: its program, its configuration, the secrets of channels, units of systemd or cron.

Its folder, its configuration and the secrets are root's alone: no site reads to whom messages go.
"""

import contextlib
import json
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from django_formula.host import archive, commands, config_files, daemons, file, folders, units, users
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.host.outcome import Outcome
from django_formula.metrics import metrics
from django_formula.site import sites
from django_formula.untrusted.foreign import Foreign
from django_formula.watch import fleet, spool, walk

PROGRAM = Path("/usr/local/lib/django-formula/watch.pyz")
MODULE = "django_formula.watch.watch"
UNITS, CRON = Path("/etc/systemd/system"), Path("/etc/cron.d/django-watch")
TIMER, EVENTS = "django-watch.timer", "django-watch.path"
_NAMES = ("django-watch.service", TIMER, EVENTS, "django-notify@.service", "django-doctor@.service")
METRICS = "django-metrics.socket"
_RUN = f"/usr/bin/python3 -I {PROGRAM}"
_TEXTS = {
    "django-watch.service": """\
[Unit]
Description=Watch of the Django sites of this host
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={run} look
TimeoutStartSec=75
Nice=10
CPUWeight=20
MemoryMax=128M
UMask=0077
{walls}
# It connects to the sockets of sites, and reads what is theirs; it writes its own folder alone.
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_SYS_PTRACE
ReadWritePaths=/var/lib/django-formula/watch -/run/django{writes}
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
IPAddressAllow=localhost
IPAddressDeny=any
""",
    TIMER: """\
[Unit]
Description=Watch of the Django sites of this host

[Timer]
OnBootSec=60
OnUnitActiveSec={every}
AccuracySec=5

[Install]
WantedBy=timers.target
""",
    EVENTS: """\
[Unit]
Description=Deployments of the Django sites of this host, of which the watch tells

[Path]
{paths}

[Install]
WantedBy=paths.target
""",
    "django-notify@.service": """\
[Unit]
Description=Messages about Django sites to %i
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={run} send %i
TimeoutStartSec=60
Nice=10
# In a slice of their own, as instances are without this, they would weigh as much together as salt-minion.
Slice=system.slice
CPUWeight=20
MemoryMax=64M
UMask=0077
{walls}
# Its child becomes the user of the sender before it opens a connection, and is ended if it hangs.
CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_KILL
ReadWritePaths=/var/lib/django-formula/watch/spool
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
""",
    # Without walls, as django.doctor runs: it has the proxy test its configuration.
    "django-doctor@.service": """\
[Unit]
Description=What the watch of the Django sites asks of %i
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={run} walk %i
TimeoutStartSec={walk.PATIENCE}
Nice=10
# In a slice of their own, as instances are without this, they would weigh as much together as salt-minion.
Slice=system.slice
CPUWeight=20
MemoryMax=128M
UMask=0077
""",
}
_WALLS = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native"""

#: By HTTP: systemd has the socket, and a process without rights answers each request.
_SERVED = {
    "django-metrics.socket": """\
[Unit]
Description=Metrics of the Django sites of this host

[Socket]
ListenStream={listen}
Accept=yes
MaxConnections=16
MaxConnectionsPerSource=4
# Else 200 connections within two seconds, of whatever client, would end the socket.
TriggerLimitIntervalSec=0

[Install]
WantedBy=sockets.target
""",
    "django-metrics@.service": """\
[Unit]
Description=Metrics of the Django sites of this host

[Service]
ExecStart=-{run} serve {file} {allow}
User=nobody
Group=nogroup
StandardInput=socket
StandardError=journal
RuntimeMaxSec=10
MemoryMax=64M
{walls}
CapabilityBoundingSet=
""",
}

#: Of a master. Without walls, as people run salt-run, which becomes the user of the master.
FLEET = "django-fleet-watch.timer"
_OF_MASTER = {
    "django-fleet-watch.service": """\
[Unit]
Description=Watch of the hosts with Django sites of this master
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={run} fleet
TimeoutStartSec={fleet.LIMIT}
Nice=10
UMask=0077
""",
    FLEET: """\
[Unit]
Description=Watch of the hosts with Django sites of this master

[Timer]
OnBootSec=120
OnUnitActiveSec=120
AccuracySec=5

[Install]
WantedBy=timers.target
""",
}

#: The units that systemd starts at each boot, where the host has them.
_STARTED = (TIMER, EVENTS, METRICS, FLEET)


def watch(wanted: Mapping[str, Any] | None, secrets: Mapping[str, Mapping[str, Any]], *, test: bool) -> Outcome:
    """Have this host watched, or not any more.

    Args:
        wanted: its configuration without secrets, as `pillar.watch` compiles it; None for no watch.
        secrets: what the sender of each channel needs, by its name.
        test: whether this is a dry run.

    Raises:
        DeploymentError: systemd refuses a unit; or this is to be a master, and has no salt-run.
    """
    if wanted is None:
        return remove(test=test)
    if wanted.get("is_master"):
        fleet.program()
    files = _files(wanted)
    channels = {spool.CHANNELS / f"{name}.json": _json(values) for name, values in secrets.items()}
    changes = _differing(files) | _differing(channels)
    changes |= {str(path): "removed" for path in _present() if path not in {*files, *channels, PROGRAM}}
    if secrets and not users.find_user(spool.SENDER):
        changes[f"user {spool.SENDER}"] = "new"
    program = archive.version(MODULE)
    if not archive.is_whole(PROGRAM) or spool.config().get("program") != program:
        changes[str(PROGRAM)] = "changed" if PROGRAM.exists() else "new"
    if daemons.has_systemd() and not _is_enabled(wanted):
        changes[TIMER] = "enabled"
    if wanted.get("metrics") and not _collected(wanted).is_folder():
        changes[wanted["metrics"]] = "new"
    if bool(wanted["page"]) != spool.PAGE.exists():
        changes[str(spool.PAGE)] = "new" if wanted["page"] else "removed"
    if not changes:
        return Outcome("the host is watched as configured")
    if test:
        return Outcome("the watch of the host would be changed", changes)
    has_cron = CRON.parent.is_dir()
    if wanted.get("metrics") in changes:
        _collected(wanted).make_folder(mode=0o755, owner=(0, 0))
    with spool.locked():
        _remove_metrics(wanted)
        _apply(files, channels, changes)
    is_late = not has_cron and not daemons.has_systemd()
    return Outcome("the host is watched" + (" as soon as cron is installed and runs" if is_late else ""), changes)


def _apply(files: Mapping[Path, str], channels: Mapping[Path, str], changes: Mapping[str, str]) -> None:
    if f"user {spool.SENDER}" in changes:
        argv = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
        argv += ["--shell", "/usr/sbin/nologin", "--comment", "Sends messages about Django sites", spool.SENDER]
        commands.run(argv, doing=f"creating the user {spool.SENDER}")
    own = [spool.STATE, spool.STATE / "spool", spool.CHANNELS]
    own += [spool.PAGE] if str(spool.PAGE) in changes and changes[str(spool.PAGE)] == "new" else []
    for folder in own:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folders.make(Folder(folder, "root", "root", 0o700))
    if str(spool.PAGE) in changes and spool.PAGE not in own:
        file.remove_tree(spool.PAGE)
    PROGRAM.parent.mkdir(parents=True, exist_ok=True)
    if str(PROGRAM) in changes:
        archive.install(MODULE, PROGRAM)
    gone = [path for path in _present() if path not in {*files, *channels, PROGRAM}]
    ended = [name for name in _STARTED if UNITS / name in gone]
    if ended and daemons.has_systemd():  # an image of a host with systemd may be run without
        units.end_timer(*ended)
    for path in gone:
        path.unlink()
    for path, text in {**channels, **files}.items():
        if str(path) in changes:
            path.parent.mkdir(parents=True, exist_ok=True)  # a host without cron has no folder of its files
            secret = path == spool.CONFIG or path.parent == spool.CHANNELS
            file.write(path, text, mode=0o600 if secret else 0o644)
    if daemons.has_systemd():
        units.daemon_reload()
        started = [name for name in _STARTED if UNITS / name in files]
        units.control("enable", "--quiet", *started, doing="enabling the watch")
        units.control("restart", *started, doing="starting the watch")


def _collected(config: Mapping[str, Any]) -> Foreign:
    """Return the folder of the metrics, which may be node-exporter's own."""
    return Foreign(Path("/"), *Path(config["metrics"]).parts[1:])


def _remove_metrics(wanted: Mapping[str, Any]) -> None:
    """Remove the metrics of a folder that is another one now, or none: what is collected is never old."""
    before = spool.config()
    if before.get("metrics") and before["metrics"] != wanted.get("metrics"):
        with contextlib.suppress(DeploymentError):
            (_collected(before) / metrics.FILE).remove()


def remove(*, test: bool) -> Outcome:
    """Remove the watch of this host, with all that waits for channels."""
    present = [*_present(), *(path for path in (spool.STATE, spool.PAGE) if path.exists())]
    changes = {str(path): "removed" for path in present}
    has_user = users.find_user(spool.SENDER) is not None
    changes |= {f"user {spool.SENDER}": "removed"} if has_user else {}
    if not changes:
        return Outcome("the host is not watched")
    if test:
        return Outcome("the watch of the host would be removed", changes)
    with spool.locked():
        _remove(present)
    if has_user:
        commands.run(["userdel", spool.SENDER], doing=f"removing the user {spool.SENDER}")
    return Outcome("the watch of the host is removed", changes)


def _remove(present: Iterable[Path]) -> None:
    _remove_metrics({})
    if daemons.has_systemd() and (UNITS / TIMER).exists():
        units.end_timer(*(name for name in _STARTED if (UNITS / name).exists()))
        running = (name.replace("@.", "@*.") for name in _NAMES if name.endswith(".service"))
        units.attempt("stop", *running, doing="stopping the watch", timeout=30)
    for path in present:
        file.remove_tree(path)
    is_ours = CRON in present and not shutil.which("cron")  # each package that ships the folder has a file in it
    for folder in (spool.CHANNELS, PROGRAM.parent, *([CRON.parent] if is_ours else [])):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    if daemons.has_systemd():
        units.daemon_reload()


def remove_if_last(gone: Collection[str], *, test: bool) -> dict[str, str]:
    """Remove the watch of a host whose last site is removed, unless it is a master's; return what is removed.

    Args:
        gone: sites that are removed, which are still there in a dry run.
    """
    is_kept = {*sites.registered()}.difference(gone) or spool.config().get("is_master")
    return {} if is_kept else dict(remove(test=test).changes)


def _files(wanted: Mapping[str, Any]) -> dict[Path, str]:
    """Return the files of the watch but its program and secrets."""
    config = {**wanted, "program": archive.version(MODULE)}
    found = {spool.CONFIG: _json(config)}
    if not daemons.has_systemd():
        minutes = max(round(wanted["every"] / 60), 1)
        when = "0 * * * *" if minutes == 60 else f"*/{minutes} * * * *"
        lines = [(when, "look"), *([("*/2 * * * *", "fleet")] if wanted.get("is_master") else [])]
        text = "".join(f"{when} root {_RUN} {action} >/dev/null 2>&1\n" for when, action in lines)
        found[CRON] = f"{config_files.OURS}\n{text}"
        return found
    paths = "\n".join(f"PathModified={path}" for path in wanted["deploys"])
    folder, served = wanted.get("metrics"), wanted.get("serve")
    values = {"run": _RUN, "walls": _WALLS, "every": wanted["every"], "paths": paths, "walk": walk, "fleet": fleet}
    values["writes"] = (f" -{folder}" if folder else "") + (f" {spool.PAGE}" if wanted["page"] else "")
    if served:
        values |= {"listen": served["listen"], "allow": " ".join(served["allow"]), "file": f"{folder}/{metrics.FILE}"}
    own = {**_TEXTS, **(_SERVED if served else {}), **(_OF_MASTER if wanted.get("is_master") else {})}
    if not wanted["deploys"]:  # systemd refuses a path unit without a path
        del own[EVENTS]
    for name, text in own.items():
        found[UNITS / name] = f"{config_files.OURS}\n{text.format(**values)}"
    return found


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=1, sort_keys=True) + "\n"


def _present() -> list[Path]:
    """Return the files of a watch that this host has, of systemd and of cron."""
    own = [
        *(UNITS / name for name in (*_NAMES, *_SERVED, *_OF_MASTER)),
        CRON,
        spool.CONFIG,
        PROGRAM,
        *spool.CHANNELS.glob("*.json"),
    ]
    return [path for path in own if path.exists()]


def _differing(files: Mapping[Path, str]) -> dict[str, str]:
    found = {str(path): (file.read_text(path), text) for path, text in files.items()}
    return {path: "changed" if old is not None else "new" for path, (old, text) in found.items() if old != text}


def _is_enabled(wanted: Mapping[str, Any]) -> bool:
    started = [name for name in _STARTED if UNITS / name in _files(wanted)]
    return all((UNITS / f"{name.rpartition('.')[2]}s.target.wants" / name).exists() for name in started)
