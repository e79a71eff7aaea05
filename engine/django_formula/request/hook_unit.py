"""The webhook of a site as files: its secret, its program, its user, and the two units that systemd starts it by.

Sites without `hook` have none of it. Why each site has its own: docs/decisions/0159.
"""

import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import Any

from django_formula.host import archive, commands, config_files, daemons, file, units, users
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import Files
from django_formula.request import entrance
from django_formula.site.sites import Site
from django_formula.site.users import title

MODULE = "django_formula.request.hook"
PROGRAM = Path("/usr/local/lib/django-formula/hook.pyz")
_FOLDER = Path("/run/django-hook")
#: Below the path of the site. Proxies and firewalls let no other path with a dot through.
PATH = "/.well-known/django-hook"
#: Seconds for which the former secret is accepted: until the git server has the new one.
_FORMER = 24 * 60 * 60
#: Seconds that its program has to end.
_PATIENCE = 15.0
_SHAPE = {"site": str, "ref": str, "secret": str, "former": str, "until": float, "is_given": bool}
_SOCKET = """\
[Unit]
Description=Webhook of the Django site {site}

[Socket]
ListenStream={socket}
SocketUser=root
SocketGroup={proxy}
SocketMode=0660
DirectoryMode=0755
Backlog=64

[Install]
WantedBy=sockets.target
"""
_SERVICE = """\
# {version}
[Unit]
Description=Webhook of the Django site {site}
Requires=django-{site}-web-hook.socket
After=django-{site}-web-hook.socket
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/python3 -I {program}
# The secret, which systemd opens as root: LoadCredential= requires mounts, which not every container has.
StandardInput=file:{config}
StandardOutput=journal
StandardError=journal
User={user}
SupplementaryGroups={group}
UMask=0077
MemoryMax=256M
TasksMax=8
CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
PrivateNetwork=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
PrivateIPC=yes
DevicePolicy=closed
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
"""


def user(site: Site) -> str:
    """Return the user of the webhook."""
    return f"{site.name}-hook"


def config_file(site: Site) -> Path:
    """Return the file with the secret, which only root can read."""
    return site.secrets / ".hook.json"


def sockets(site: Site) -> dict[str, Path]:
    """Return the unit of the socket that the proxy passes deliveries to, and its path; nothing without a webhook."""
    return {_units(site)[0].name: _socket(site)} if site.config.get("hook") else {}


def url(site: Site) -> str:
    """Return where the git server sends its requests."""
    return f"{site.scheme}://{site.canonical}{site.config['path'].rstrip('/')}{PATH}"


def read(site: Site) -> dict[str, Any] | None:
    """Return what the program is configured with; None where the site has no webhook."""
    return file.read_json(config_file(site), _SHAPE)


def pending(site: Site, given: str | None) -> dict[str, str]:
    """Return what `apply` would change: path → in what way.

    Args:
        given: the secret of the pillar, if it has one.
    """
    if "hook" not in site.config:
        gone = [*map(str, present(site)), *([f"user {user(site)}"] if _has_user(site) else [])]
        return dict.fromkeys(gone, "removed")
    changes = config_files.differences(_files(site))
    before = read(site)
    if before is None or before != _config(site, before, given):
        changes[str(config_file(site))] = "changed" if before else "new"
    if not PROGRAM.exists():
        changes[str(PROGRAM)] = "new"
    if not _has_user(site):
        changes[f"user {user(site)}"] = "new"
    if not os.path.lexists(_link(site)):
        changes[_units(site)[0].name] = "disabled"
    return dict(changes)


def _config(site: Site, before: dict[str, Any] | None, given: str | None) -> dict[str, Any]:
    """Return the configuration of the program, which is the one before where nothing has changed."""
    revision = str(site.config["revision"])
    ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
    found = {"former": "", "until": 0, **(before or {}), "site": site.name, "ref": ref, "is_given": bool(given)}
    secret = given or found.get("secret") or secrets.token_hex(32)
    return found | _with_secret(before, secret)


def _with_secret(before: dict[str, Any] | None, secret: str) -> dict[str, Any]:
    if before and before["secret"] != secret:
        return {"secret": secret, "former": before["secret"], "until": int(time.time()) + _FORMER}
    return {"secret": secret}


def apply(site: Site, given: str | None) -> None:
    """Have the webhook of a site as configured, or not any more.

    Raises:
        DeploymentError: its user is another one's, or systemd refuses a unit.
    """
    changes = pending(site, given)
    if "hook" not in site.config:
        remove(site)
    elif changes:
        _make_user(site)
        file.write_json(config_file(site), _config(site, read(site), given), mode=0o600)
        files = _files(site)
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        if {str(PROGRAM), *map(str, files)} & {*changes}:
            archive.install(MODULE, PROGRAM)
        for path, text in files.items():
            file.write(path, text or "")
        units.daemon_reload()
        _start_anew(site)


def _start_anew(site: Site) -> None:
    socket, service = _units(site)
    units.control("enable", "--quiet", socket.name, doing=f"enabling {socket.name}")
    # systemd does not open a socket again while its service has it
    units.control("stop", service.name, socket.name, doing=f"stopping {service.name}")
    units.control("start", socket.name, doing=f"starting {socket.name}")


def rotate(site: Site) -> None:
    """Generate another secret; the former one is accepted for a day.

    Raises:
        DeploymentError: the pillar has it, or there is no webhook.
    """
    before = read(site)
    if not before:
        raise _has_none(site)
    if before["is_given"]:
        raise DeploymentError(
            f"the pillar has the secret of the webhook of {site.name}",
            hint="change it there, and apply: the former one is accepted for a day",
        )
    file.write_json(config_file(site), before | _with_secret(before, secrets.token_hex(32)), mode=0o600)
    service = _units(site)[1].name
    units.control("stop", service, doing=f"stopping {service}")  # the next request starts it


def describe(site: Site) -> dict[str, str]:
    """Return what a git server has to know.

    Raises:
        DeploymentError: the site has no webhook.
    """
    found = read(site)
    if not found:
        raise _has_none(site)
    secret = f"as in the pillar, {site.at}:hook:secret" if found["is_given"] else found["secret"]
    answer = {"url": url(site), "content_type": "application/json", "branch": found["ref"], "secret": secret}
    left = found["until"] - time.time()
    return answer | ({"former_secret": f"accepted for {left / 3600:.0f} h"} if left > 0 else {})


def _has_none(site: Site) -> DeploymentError:
    return DeploymentError(f"{site.name} has no webhook", hint=f"set {site.at}:hook to true, and apply")


def _has_user(site: Site) -> bool:
    found = users.find_user(user(site))
    return found is not None and found.pw_gecos == title(site.name)


def _make_user(site: Site) -> None:
    if not _has_user(site) and users.find_user(user(site)):
        raise DeploymentError(
            f"the user {user(site)} exists on this host and does not belong to the site {site.name}",
            hint=f"rename it, or leave out {site.at}:hook",
        )
    if not _has_user(site):
        argv = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
        argv += ["--shell", "/usr/sbin/nologin", "--comment", title(site.name), user(site)]
        commands.run(argv, doing=f"creating the user {user(site)}")


def present(site: Site) -> list[Path]:
    """Return what the site has of it."""
    paths = [*_units(site), _link(site), config_file(site), _socket(site)]
    if not _others(site):
        paths.append(PROGRAM)
    return [path for path in paths if os.path.lexists(path)]


def remove(site: Site) -> None:
    """Remove the units, the secret, the user, and with the last one of the host the program.

    Raises:
        DeploymentError: systemd does not stop them.
    """
    found = present(site)
    socket, service = _units(site)
    has_units = socket in found or service in found
    if has_units and daemons.has_systemd():
        names = [path.name for path in (socket, service)]
        doing = f"ending the webhook of {site.name}"
        units.stop("disable", "--quiet", "--now", units=names, doing=doing, within=_PATIENCE)
    for path in found:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # it is missing, or another site has a socket there
        _FOLDER.rmdir()
    if has_units and daemons.has_systemd():
        units.daemon_reload()
    if _has_user(site):
        commands.run(["userdel", user(site)], doing=f"removing the user {user(site)}")


def _others(site: Site) -> bool:
    """Return whether another site of the host has a webhook."""
    return any(path != _units(site)[1] for path in daemons.UNITS.glob("django-*-web-hook.service"))


def _units(site: Site) -> tuple[Path, Path]:
    # with a hyphen, which no name of a worker has: another site may be called blog-0042 (process.contract.parse)
    socket = daemons.UNITS / f"django-{site.name}-web-hook.socket"
    return socket, socket.with_suffix(".service")


def _socket(site: Site) -> Path:
    return _FOLDER / f"{site.name}.sock"


def _link(site: Site) -> Path:
    return daemons.UNITS / "sockets.target.wants" / _units(site)[0].name


def _files(site: Site) -> Files:
    values = {
        "site": site.name,
        "socket": _socket(site),
        "proxy": site.proxy_group,
        "version": archive.version(MODULE),
        "program": PROGRAM,
        "config": str(config_file(site)).replace("%", "%%"),
        "user": user(site),
        "group": entrance.group(site),
    }
    texts = zip(_units(site), (_SOCKET, _SERVICE), strict=True)
    return {path: f"{config_files.OURS}\n{text.format(**values)}" for path, text in texts}
