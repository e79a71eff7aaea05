"""What lets programs of this host into the queue of a site: a group, and a socket that starts `request.door` as root.

Sites without `push` and `hook` have none of it. See docs/decisions/0156.
"""

import grp
import os
from collections.abc import Sequence
from pathlib import Path

from django_formula.host import archive, commands, config_files, daemons, file, units, unix_sockets, users
from django_formula.host.commands import DeploymentError
from django_formula.request import queue, unit
from django_formula.site.sites import Site

MODULE = "django_formula.request.door"
_FOLDER = Path("/run/django-requests")
#: Seconds that systemd may take to close a socket.
_PATIENCE = 30.0
_SOCKET = """\
[Unit]
Description=Requests of programs to release a commit of the Django site {site}

[Socket]
ListenStream={path}
SocketMode=0660
SocketUser=root
SocketGroup={group}
DirectoryMode=0755
Accept=yes
MaxConnections=64
# Else as many connections as a program can make in a moment would end the socket.
TriggerLimitIntervalSec=0

[Install]
WantedBy=sockets.target
"""
_SERVICE = """\
# {version}
[Unit]
Description=A request of a program to release a commit of the Django site {site}
CollectMode=inactive-or-failed

[Service]
ExecStart={command}
StandardInput=socket
StandardOutput=journal
StandardError=journal
NoNewPrivileges=yes
MemoryMax=128M
TasksMax=16
# It waits for a release that it has accepted, which goes on without it.
RuntimeMaxSec=2h
"""


def is_wanted(site: Site) -> bool:
    """Return whether a program of this host may ask for releases of a site."""
    return bool(site.config.get("push") or site.config.get("hook"))


def path(site: Site) -> Path:
    """Return the socket of a site."""
    return _FOLDER / f"{site.name}.sock"


def unit_name(site: Site) -> str:
    """Return the name of the unit of that socket."""
    return _units(site)[0].name


def group(site: Site) -> str:
    """Return the group whose members may connect to it; names of users and groups have 32 characters at most."""
    return f"{site.name}-ask"


def pending(site: Site, salt_call: Sequence[str]) -> dict[str, str]:
    """Return what `apply` would change, by path.

    Args:
        salt_call: the command that calls Salt on this host.

    Raises:
        DeploymentError: there is none, which works requests off.
    """
    if not is_wanted(site):
        return {str(one): "removed" for one in present(site)}
    if not salt_call:
        raise DeploymentError(
            f"there is no salt-call on this host, which works the requests of {site.name} off",
            hint="install salt-minion, which need not run",
        )
    if users.find_user(group(site)):
        raise DeploymentError(
            f"the user {group(site)} exists on this host, whose group would be the one that may request releases "
            f"of {site.name}",
            hint="rename the user and its group, or the site",
        )
    texts = {one: file.read_text(one) for one in _files(site)}
    changes = {
        str(one): "new" if texts[one] is None else "changed" for one, text in _files(site).items() if texts[one] != text
    }
    if not os.path.lexists(_link(site)):
        changes.setdefault(str(_units(site)[0]), "disabled")
    if not archive.is_whole(_program(site)) or not unit.is_prepared(site, salt_call):
        changes[str(queue.folder(site))] = "changed" if queue.folder(site).exists() else "new"
    if not _has_group(site):
        changes[f"group {group(site)}"] = "new"
    return changes


def apply(site: Site, salt_call: Sequence[str]) -> None:
    """Have the socket of a site listen, or remove it. Where that is refused or killed, it is begun anew by its link.

    Raises:
        DeploymentError: systemd refuses a unit, or the files of the queue are not free in time.
    """
    changes = pending(site, salt_call)
    if not is_wanted(site):
        remove(site)
    elif changes:
        unit.prepare(site, salt_call)
        archive.install(MODULE, _program(site))
        unit_file = _units(site)[0]
        is_open = file.read_text(unit_file) == _files(site)[unit_file] and unix_sockets.listens(str(path(site)))
        _link(site).unlink(missing_ok=True)
        for one, text in _files(site).items():
            file.write(one, text)
        if not _has_group(site):
            commands.run(["groupadd", "--system", group(site)], doing=f"creating the group {group(site)}")
        units.daemon_reload()
        socket = _units(site)[0].name
        # One that is as it has to be stays open: what connects meanwhile is lost with another one.
        units.control("start" if is_open else "restart", socket, doing=f"starting {socket}")
        units.control("enable", "--quiet", socket, doing=f"enabling {socket}")


def admit(site: Site, user: str) -> None:
    """Have a user of this host be one of those who may connect to the socket of a site."""
    if not is_admitted(site, user):
        argv = ["usermod", "--append", "--groups", group(site), user]
        commands.run(argv, doing=f"adding {user} to the group {group(site)}")


def is_admitted(site: Site, user: str) -> bool:
    """Return whether it is."""
    try:
        return user in grp.getgrnam(group(site)).gr_mem
    except KeyError:
        return False


def present(site: Site) -> list[Path]:
    """Return the files that a site has of it."""
    return [one for one in (*_units(site), _program(site), path(site)) if os.path.lexists(one)]


def remove(site: Site) -> None:
    """Remove the socket and the group; what was accepted is released all the same.

    Raises:
        DeploymentError: systemd does not stop the socket.
    """
    found = [one for one in _units(site) if one.exists()]
    if found and daemons.has_systemd():
        socket = _units(site)[0].name
        units.stop("disable", "--quiet", "--now", units=[socket], doing=f"closing {socket}", within=_PATIENCE)
    if found and _has_group(site):  # while the files are there, by which it is known to be ours
        commands.run(["groupdel", group(site)], doing=f"removing the group {group(site)}")
    for one in present(site):
        one.unlink(missing_ok=True)
    if found and daemons.has_systemd():
        units.daemon_reload()


def _has_group(site: Site) -> bool:
    return users.group_id(group(site)) >= 0


def _program(site: Site) -> Path:
    return queue.folder(site) / "door.pyz"


def _units(site: Site) -> tuple[Path, Path]:
    return (
        daemons.UNITS / f"django-{site.name}-requests.socket",
        daemons.UNITS / f"django-{site.name}-requests@.service",
    )


def _link(site: Site) -> Path:
    return daemons.UNITS / "sockets.target.wants" / _units(site)[0].name


def _files(site: Site) -> dict[Path, str]:
    """Return the text of each unit."""
    socket, service = _units(site)
    command = " ".join(["/usr/bin/python3", "-I", str(_program(site)), site.name]).replace("%", "%%")
    listens = _SOCKET.format(site=site.name, path=path(site), group=group(site))
    text = _SERVICE.format(site=site.name, command=command, version=archive.version(MODULE))
    return {socket: f"{config_files.OURS}\n{listens}", service: f"{config_files.OURS}\n{text}"}
