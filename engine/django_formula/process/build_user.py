"""Run commands as the build user: they install packages and build the source, and so run code of others.

Each runs in a unit of its own, or, without systemd, below `untrusted.reaper`. When it has ended, no process of the
build user is left, so that root can take over what it created.
"""

import contextlib
import dataclasses
import os
import re
import secrets as secrets_module
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.container import containers
from django_formula.container.containers import Inside
from django_formula.container.engine import QUIET
from django_formula.host import commands, daemons, environment_files, file, proc, units, users
from django_formula.host.commands import Command, DeploymentError, Ended
from django_formula.knowledge import cause
from django_formula.process import sandbox, transient
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted import delegate, reaper
from django_formula.untrusted.text import Log

log = Log.of(__name__)

#: The most processes of the build user, and their nice value.
_PROCESSES, _NICE = 2048, 10
#: The share of the CPU of a build in a container; others have 1024.
_CPU_SHARES = 200
#: Without a unit, disk time is for the site before it is for a build; where a kernel refuses, the build goes on.
_IDLE_IO = ("/usr/bin/ionice", "--class", "idle", "--ignore")
#: Seconds between SIGTERM and SIGKILL for processes that a build left behind, and until their end is an error.
_STOP, _END = 1, 10.0
#: What a build in a container reads of this host: uv, and the certificate authorities that the host trusts.
_FORMULA, _CERTIFICATES = "/usr/local/lib/django-formula", "/etc/ssl/certs/ca-certificates.crt"
#: The sandbox of a build, as systemd directives; the pillar's `build_sandbox` replaces them by name.
#: Without PrivateUsers the other directives have no effect in a container that may not mount.
_SANDBOX: dict[str, Any] = {
    "UMask": "0022",
    "NoNewPrivileges": True,
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "PrivateUsers": True,
    "ProtectSystem": "strict",
    "ProtectHome": True,
    "PrivateTmp": True,
    "PrivateDevices": True,
    "PrivateIPC": True,
    "ProtectControlGroups": True,
    "ProtectKernelTunables": True,
    "ProtectKernelModules": True,
    "ProtectKernelLogs": True,
    "ProtectClock": True,
    "ProtectHostname": True,
    "RestrictSUIDSGID": True,
    "RestrictRealtime": True,
    "KeyringMode": "private",
    "RemoveIPC": True,
    "ReadOnlyPaths": ["/run", "-/dev/shm"],
    "InaccessiblePaths": ["-/run/dbus", "-/run/systemd/private", "-/run/user"],
    "TasksMax": str(_PROCESSES),
    "CPUWeight": "20",
    "IOWeight": "20",
    "Nice": str(_NICE),
    "IOSchedulingClass": "idle",
}
_LISTS = ("ReadWritePaths", "BindPaths", "BindReadOnlyPaths", "ReadOnlyPaths", "InaccessiblePaths")


def run_as_build_user(
    site: Site,
    argv: Sequence[str],
    *,
    doing: str,
    folder: str,
    environment: Mapping[str, str],
    writable: Sequence[str] = (),
    timeout: float,
    secrets: Collection[str] = (),
    hint: str = "",
    image: str = "",
) -> str:
    """Run a command as the build user, end the processes that it leaves behind, and return the end of its output.

    Args:
        doing: what the command does; errors begin with it.
        folder: its working directory.
        environment: its variables.
        writable: paths that it may write to in addition to the build user's home.
        timeout: seconds after which it is ended.
        secrets: texts to mask in errors and logs.
        hint: the hint of its errors, where their cause is not a known one.
        image: the image in which it runs, for a site with containers.

    Raises:
        DeploymentError: it cannot be started, fails or times out, or one of its processes does not end.
    """
    end_processes(site)
    delegate.ask(site.build_user, os.makedirs, str(site.build / "tmp"), 0o700, True, doing=doing)
    command = Command(
        argv,
        doing=doing,
        folder=folder,
        environment=environment,
        timeout=timeout,
        cpu=lambda: proc.cpu_of(users.user_id(site.build_user)),
        secrets=secrets,
        hint=hint,
        only_the_end=True,
    )
    try:
        try:
            ended = _in_container(site, command, writable, image) if image else _on_host(site, command, writable)
        finally:
            end_processes(site)
        return commands.check(command, ended)
    except DeploymentError as error:
        error.hint = cause.hint(site, f"{error.message}\n{error.log}", building=True) or error.hint
        raise


def _on_host(site: Site, command: Command, writable: Sequence[str]) -> Ended:
    return _in_unit(site, command, writable) if daemons.has_systemd() else _below_reaper(site, command)


def _in_container(site: Site, command: Command, writable: Sequence[str], image: str) -> Ended:
    """Run a command in a container of an image, in which the build user has what it has in a unit."""
    engine, name = containers.engine(site), f"django-{site.name}-build"
    engine.end(name)
    given = command.environment or {}
    variables = sites.RUNTIME / f"{site.name}.build.environment"
    read = [_FORMULA, given.get("XDG_CONFIG_HOME", ""), _CERTIFICATES, given.get("SSL_CERT_FILE", "")]
    inside = Inside(
        name,
        site.build_user,
        command.folder,
        read=[path for path in read if path and os.path.exists(path)],
        write=[str(site.build), *writable],
        variables=[str(variables)],
    )
    own = ["--replace", "--log-driver=none"] if engine.name == "podman" else ["--log-driver=none"]
    own += [f"--cpu-shares={_CPU_SHARES}", f"--pids-limit={_PROCESSES}"]
    # Our own timeout comes first: this one is for the case that this process is killed.
    limited = ["nice", "-n", str(_NICE), "timeout", "-k", "5", commands.number(command.timeout + 15)]
    argv = containers.argv(engine, image, inside, [*limited, *command.argv], *own)
    text = environment_files.environment_file(given)
    file.write(variables, text, mode=0o640, group=site.build_user, durable=False)
    try:
        return commands.execute(dataclasses.replace(command, argv=argv, folder="/", environment=QUIET))
    finally:
        variables.unlink(missing_ok=True)
        engine.end(name)


def _below_reaper(site: Site, command: Command) -> Ended:
    user, group = users.user_id(site.build_user), users.group_id(site.build_user)
    own = {"nice": _NICE, "processes": _PROCESSES}
    argv = [*_IDLE_IO, *reaper.command(command.argv, user, group, [], command.folder, **own)]
    descriptors, grace = commands.locks, reaper.PATIENCE
    return commands.execute(dataclasses.replace(command, argv=argv, folder="/", descriptors=descriptors, grace=grace))


def _in_unit(site: Site, command: Command, writable: Sequence[str]) -> Ended:
    """Run a command in a unit, and return its own exit code: systemd's also counts processes that it left behind.

    The unit's standard input is a pipe that this process keeps open, so that the command ends where this one is killed.
    """
    unit = _unit(site)
    _stop(unit)
    variables = sites.RUNTIME / f"{site.name}.build.environment"
    mark = f"ended {secrets_module.token_hex(8)}"
    script = (
        "exec 3<&0 </dev/null; { read -r _ <&3; kill -KILL -1; } & watch=$!; exec 3<&-; "
        f'"$@"; code=$?; kill "$watch"; printf "\\n{mark} %s\\n" "$code" >&2; exit "$code"'
    )
    properties = [
        *directives(site, command.folder, writable),
        ("EnvironmentFile", str(variables)),
        ("RuntimeMaxSec", commands.number(command.timeout + 15)),
        ("TimeoutStopSec", str(_STOP)),
        ("KillMode", "control-group"),
        ("SendSIGKILL", "yes"),
    ]
    argv = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=exec", f"--unit={unit}"]
    argv += [f"--property={name}={value}" for name, value in properties]
    argv += ["--", "/bin/sh", "-c", script, "sh", *transient.literal(command.argv)]
    transient.start_bus()
    text = environment_files.environment_file(command.environment or {})
    file.write(variables, text, mode=0o600, durable=False)
    alive, kept = os.pipe()
    try:
        ended = commands.execute(dataclasses.replace(command, argv=argv, folder="/", environment=None, stdin=alive))
    finally:
        os.close(alive)
        os.close(kept)
        variables.unlink(missing_ok=True)
        _stop(unit)
    found = re.findall(rf"^{mark} (\d+)$\n?", ended.errors, re.MULTILINE)
    errors = re.sub(rf"\n?^{mark} \d+$\n?", "", ended.errors, flags=re.MULTILINE)
    code = int(found[-1]) if found and ended.code is not None else ended.code
    return ended._replace(code=code, errors=errors)


def _unit(site: Site) -> str:
    return f"django-{site.name}-build.service"


def _stop(unit: str) -> None:
    """Stop the unit of a build whose deployment was killed, or that timed out."""
    if Path("/run/systemd/transient", unit).exists():
        with contextlib.suppress(DeploymentError):
            units.control("stop", unit, doing=f"stopping {unit}", timeout=30)


def directives(site: Site, folder: str, writable: Sequence[str]) -> list[tuple[str, str]]:
    """Return the properties of the unit of a build: the pillar's ``build_sandbox`` replaces ours.

    Paths of the pillar are added to ours.
    """
    configured = site.config["build_sandbox"]
    lines: dict[str, Any] = {
        "User": site.build_user,
        "Group": site.build_user,
        "WorkingDirectory": folder,
        **_SANDBOX,
        **{name: value for name, value in configured.items() if name not in _LISTS},
    }
    if site.root.is_relative_to("/home") or site.root.is_relative_to("/root"):
        lines.setdefault("BindReadOnlyPaths", []).append(str(site.root))
        lines["ProtectHome"] = configured.get("ProtectHome", "tmpfs")
    lines["ReadWritePaths"] = [str(site.build), *writable]
    for name in _LISTS:
        more = configured.get(name, [])
        if more or name in lines:
            lines[name] = [*lines.get(name, []), *(more if isinstance(more, list) else [more])]
    return list(sandbox.flattened(lines))


# Processes that a build left behind


def end_processes(site: Site) -> None:
    """End every process of the build user, all of which belong to builds of this site.

    Raises:
        DeploymentError: a process does not end.
    """
    end_user(site.build_user)


def end_user(name: str) -> None:
    """End every process of a user, whatever its process group and session.

    Raises:
        DeploymentError: a process does not end.
    """
    user = users.user_id(name)
    if user <= 0 or user == os.geteuid():
        return
    deadline = time.monotonic() + _END
    while left := proc.pids_of(user):
        with contextlib.suppress(DeploymentError):
            delegate.ask(name, _end_all, user, doing="ending processes", timeout=_END)
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"processes of {name} do not end: {', '.join(map(str, left[:5]))}",
                hint=f"list them: ps -u {name}",
                transient=True,
            )
        time.sleep(0.005)


def _end_all(user: int) -> None:
    """Kill every process of this user, which is never root."""
    if not user or os.getresuid() != (user, user, user):
        raise PermissionError(f"not uid {user}")
    os.kill(-1, signal.SIGKILL)
