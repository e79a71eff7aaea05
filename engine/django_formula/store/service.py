"""The servers of a site's stores as services of the process manager: their files, start, restart and removal."""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django_formula.host import commands, daemons, file, template, users
from django_formula.host import folders as host_folders
from django_formula.host import units as host_units
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.kind import kinds
from django_formula.process import sandbox
from django_formula.process.supervisor import PROGRAMS
from django_formula.process.systemd import MANAGER as SYSTEMD
from django_formula.process.systemd import UNITS
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.store import client, contract
from django_formula.store.contract import OwnServer, ServerStore

#: Where systemd keeps a property that is set while a unit runs, of which its file will have the same.
PROPERTY = "/run/systemd/system.control/{unit}.d/50-IPAddressAllow.conf"
#: Seconds within which a server accepts connections after its start; one with much data reads it first.
PATIENCE = 60.0
#: The program of a server in its unit, and in the script of supervisor.
_PROGRAM = re.compile(r'(?m)^ExecStart=@"?(/[^\s"]+)|^exec .* -c \S+ -a "\$0" "\$@"\S+ \S+ (/\S+)')
#: Seconds within which systemd has started a server, and stopped one: the timeouts of its unit come before.
_STARTED, _STOPPED = 610.0, 20.0


def templates(process: str) -> list[str]:
    """Return the URLs of the templates of the files of a process manager."""
    return [f"{kinds.FILES}{name}" for name in kinds.STORE_TEMPLATES[process]]


def server_files(kind: ServerStore, server: OwnServer, texts: Mapping[str, str]) -> dict[Path, str]:
    """Return the files of a server: path → content.

    Args:
        texts: the templates, by URL.
    """
    site = server.site
    runs = program(kind, server)
    variables: dict[str, Any] = {
        "unit": server.unit,
        "name": server.name,
        "served": bool(server.service),
        "site": site.config,
        "title": kinds.STORES[kind.KIND].title,
        "notifies": kind.NOTIFIES,
        "program": runs,
        "command": kind.command(server, runs),
        "user": contract.user(site),
        "script": str(_script(server)),
        "identity": _identity(site),
        "memory_limit": server.memory_limit,
    }
    found = {server.configuration: kind.configuration(server)}
    if site.process == "systemd":
        (url,) = templates("systemd")
        text = template.render(texts, url, sandbox=_sandbox(server), **variables)
        found[_unit(server)] = sandbox.startable(site, text, file.read_text(_unit(server)))
        return found
    program_url, script_url = templates("supervisor")
    found[_script(server)] = template.render(texts, script_url, **variables)
    found[_program(server)] = template.render(texts, program_url, **variables)
    return found


def program(kind: ServerStore, server: OwnServer) -> str:
    """Return the program of a server: as long as the host has it, the one that it was set up with.

    An upgrade of the host, after which the platform has another one, moves no queue from Redis to Valkey
    (docs/decisions/0127).
    """
    text = file.read_text(_unit(server) if server.site.process == "systemd" else _script(server))
    found = _PROGRAM.search(text or "")
    former = found[1] or found[2] if found else ""
    return former if former and os.access(former, os.X_OK) else str(server.site.platform["stores"][kind.KIND])


def try_sandbox(site: Site) -> None:
    """Have the sandbox tried once for each boot: the unit of a server leaves out what keeps units from starting.

    A host that has them for the site's other hosts has no build user, at least not yet.
    """
    if site.process == "systemd" and users.user_id(site.user) >= 0:
        sites.make_runtime()
        SYSTEMD.warnings(site)


def _identity(site: Site) -> list[str]:
    """Return the command that runs another one as the user of the site's stores, in the group of the site."""
    user = contract.user(site)
    options = ["--clear-groups", "--no-new-privs", "--reset-env", "--"]
    return ["/usr/bin/setpriv", f"--reuid={user}", f"--regid={site.user}", *options]


def _unit(server: OwnServer) -> Path:
    return UNITS / f"{server.unit}.service"


def _program(server: OwnServer) -> Path:
    return PROGRAMS / f"{server.unit}.conf"


def _script(server: OwnServer) -> Path:
    return server.configuration.with_suffix(".sh")


def _link(server: OwnServer) -> Path:
    return UNITS / "multi-user.target.wants" / _unit(server).name


def _sandbox(server: OwnServer) -> list[tuple[str, str]]:
    """Return the directives of a server: those of every process of a site, and no network but of its clients."""
    site = server.site
    lines = {
        "User": contract.user(site),
        "Group": site.user,
        "WorkingDirectory": "/",
        **sandbox.closed(),
        **_network(server),
        "ReadWritePaths": [str(server.data)],
    }
    return list(sandbox.flattened(lines))


def _network(server: OwnServer) -> dict[str, Any]:
    if not server.service:
        return {"PrivateNetwork": True, "RestrictAddressFamilies": "AF_UNIX"}
    # Kernels and containers without BPF do not filter: there the password and TLS alone keep others out.
    return {"IPAddressDeny": "any", "IPAddressAllow": ["localhost", *server.service.clients]}


def folders(server: OwnServer) -> list[Folder]:
    """Return the folders of a server, parents first."""
    user = contract.user(server.site)
    return [
        Folder(contract.folder(server.site), "root", "root", 0o755),
        Folder(server.data, user, server.site.user, 0o700),
    ]


def is_enabled(server: OwnServer) -> bool:
    """Return whether a server starts at boot."""
    return os.path.lexists(_link(server)) if server.site.process == "systemd" else _program(server).exists()


def answers(server: OwnServer) -> bool:
    """Return whether a server accepts connections, or runs and is busy with those that it has."""
    try:
        with client.connection(server.socket):
            return True
    except client.BusyError:
        return True
    except DeploymentError:
        return False


def start(server: OwnServer) -> None:
    """Start a server, at every boot too, and wait until it accepts connections.

    Raises:
        DeploymentError: it does not start.
    """
    _control("enable", server)
    _wait(server)


def restart(server: OwnServer) -> None:
    """Restart a server, and wait until it accepts connections.

    Raises:
        DeploymentError: it does not start.
    """
    _control("restart", server)
    _wait(server)


def let_in(server: OwnServer) -> None:
    """Have a running server's unit let its clients in, before its file has them.

    systemd 257 reads a changed unit again, and filters as before until the next start. A property that is set has
    effect at once, and keeps it without the file that systemd makes for it.
    """
    if server.site.process != "systemd":
        return
    unit = f"{server.unit}.service"
    allowed = [f"IPAddressAllow={one}" for one in ("", *_network(server)["IPAddressAllow"])]
    doing = f"letting hosts in to {server.unit}"
    host_units.control("set-property", "--runtime", unit, *allowed, doing=doing)
    Path(PROPERTY.format(unit=unit)).unlink(missing_ok=True)


def reload(server: OwnServer) -> None:
    """Have the process manager read the changed files of a running server, for its next start."""
    if server.site.process == "systemd":
        host_units.daemon_reload()


def stop(server: OwnServer) -> None:
    """Stop a server that still starts at boot; `restart` starts it again."""
    _control("stop", server)


def _control(verb: str, server: OwnServer) -> None:
    doing = f"{verb} of {server.unit}"
    if server.site.process == "systemd":
        options, units = ["--quiet", "--now"] if verb == "enable" else [], [f"{server.unit}.service"]
        if verb == "stop":
            host_units.stop(verb, units=units, doing=doing, within=_STOPPED)
        else:
            host_units.start(verb, *options, units=units, doing=doing, within=_STARTED + _STOPPED)
        return
    if daemons.pid(daemons.SUPERVISOR) is None:
        daemons.start(daemons.SUPERVISOR)
    commands.run(["supervisorctl", "update", server.unit], doing=doing)
    # An update starts what is new, and not what was stopped.
    own = "start" if verb == "enable" else verb
    commands.run(["supervisorctl", own, server.unit], doing=doing, hint=where_the_log_is(server))


def _wait(server: OwnServer) -> None:
    deadline = time.monotonic() + PATIENCE
    while not answers(server):
        if time.monotonic() > deadline:
            raise DeploymentError(
                f"{server.unit} did not accept connections within {PATIENCE:.0f}s at {server.socket}",
                hint=where_the_log_is(server),
            )
        time.sleep(0.02)


def where_the_log_is(server: OwnServer) -> str:
    """Return how to read the log of a server, for people."""
    if server.site.process == "systemd":
        return f"read its log: journalctl -u {server.unit}"
    return f"read its log: /var/log/supervisor/{server.unit}.log"


def make_folders(server: OwnServer) -> None:
    """Create the folders of a server, or correct their owner and mode."""
    for folder in folders(server):
        if host_folders.problem(folder):
            host_folders.make(folder)


def files_on_host(site: Site) -> dict[str, list[Path]]:
    """Return the files of the servers that exist for this host alone, without their data, by their parts."""
    return {part: files for part, files in _on_host(site).items() if not part.startswith(contract.SERVED)}


def served_on_host(site: Site) -> dict[str, list[Path]]:
    """Return the files of the servers that exist for all hosts of the site, without their data, by their parts."""
    return {part: files for part, files in _on_host(site).items() if part.startswith(contract.SERVED)}


def started(start: str) -> list[Path]:
    """Return the files by which the process manager runs servers whose units have a name that begins so."""
    found = (*UNITS.glob("django-*.service"), *PROGRAMS.glob("django-*.conf"))
    return sorted(path for path in found if path.stem.startswith(start))


def _on_host(site: Site) -> dict[str, list[Path]]:
    home = contract.folder(site)
    parts = sorted(path.stem for path in home.glob("*.conf")) if home.is_dir() else []
    found = {part: OwnServer(site, part, part, {}) for part in parts}
    return {part: [path for path in _every_file(server) if os.path.lexists(path)] for part, server in found.items()}


def _every_file(server: OwnServer) -> tuple[Path, ...]:
    return _link(server), _unit(server), _program(server), _script(server), server.configuration


def remove(site: Site, part: str) -> None:
    """Stop a server and delete its files, but not its data."""
    server = OwnServer(site, part, part, {})
    if _unit(server).exists():
        doing, units = f"stopping {server.unit}", [f"{server.unit}.service"]
        host_units.stop("disable", "--quiet", "--now", units=units, doing=doing, within=_STOPPED)
    _program(server).unlink(missing_ok=True)
    if _script(server).exists() and daemons.pid(daemons.SUPERVISOR) is not None:
        doing = f"stopping {server.unit}"
        commands.run(["supervisorctl", "update", server.unit], doing=doing)
    file.remove_tree(contract.RUN / server.unit)
    for path in _every_file(server):  # last the configuration: where this is killed, `files_on_host` still has it
        path.unlink(missing_ok=True)
