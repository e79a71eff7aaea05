"""Programs of the formula's own behind a socket of a site, each as a user that has nothing else: units, user, program.

The proxy connects to the socket; systemd starts the program at the first request. What such a program is, its module
has (`request.hook_unit`, `proxy.waiting`).
"""

import contextlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from django_formula.host import archive, commands, daemons, file, units, unix_sockets, users
from django_formula.host.commands import DeploymentError
from django_formula.host.config_files import Files
from django_formula.site.sites import Site
from django_formula.site.users import title

#: Seconds that a program has to end.
_PATIENCE = 15.0
#: What a service has besides its command: no network, no rights, nothing that it may write.
WALLS = """\
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


class Behind(NamedTuple):
    """A kind of program behind a socket.

    Attributes:
        kind: by which its units are named. It has a hyphen, which no name of a worker has: another site may be called
            blog-0042 (`process.contract.parse`).
        short: by which its user is named.
        option: of a site, which asks for it.
        program: the archive, which all sites of the host have in common.
        folder: of the sockets.
    """

    kind: str
    short: str
    option: str
    program: Path
    folder: Path

    def name(self, site: Site) -> str:
        """Return the name of the units, without suffix."""
        return f"django-{site.name}-{self.kind}"

    def user(self, site: Site) -> str:
        """Return the user that it runs as."""
        return f"{site.name}-{self.short}"

    def socket(self, site: Site) -> Path:
        """Return its socket."""
        return self.folder / f"{site.name}.sock"

    def units(self, site: Site) -> tuple[Path, Path]:
        """Return the files of its socket and its service."""
        return daemons.UNITS / f"{self.name(site)}.socket", daemons.UNITS / f"{self.name(site)}.service"

    def link(self, site: Site) -> Path:
        """Return the link by which systemd opens the socket at boot."""
        return daemons.UNITS / "sockets.target.wants" / f"{self.name(site)}.socket"

    def has_user(self, site: Site) -> bool:
        """Return whether its user exists."""
        found = users.find_user(self.user(site))
        return found is not None and found.pw_gecos == title(site.name)

    def lacks(self, site: Site) -> dict[str, str]:
        """Return what is missing of it on this host but its files: path → in what way."""
        is_there = self.program.exists()
        changes = {} if archive.is_whole(self.program) else {str(self.program): "changed" if is_there else "new"}
        if not self.has_user(site):
            changes[f"user {self.user(site)}"] = "new"
        if daemons.has_systemd() and not os.path.lexists(self.link(site)):
            changes[self.link(site).name] = "disabled"
        return changes

    def gone(self, site: Site, more: Sequence[Path] = (), others: Sequence[Path] = ()) -> dict[str, str]:
        """Return what `remove` would remove, as `present` takes it: path → in what way."""
        user = [f"user {self.user(site)}"] if self.has_user(site) else []
        return dict.fromkeys([*map(str, self.present(site, more, others)), *user], "removed")

    def make_user(self, site: Site) -> None:
        """Create its user.

        Raises:
            DeploymentError: another one has the name.
        """
        user = self.user(site)
        if self.has_user(site):
            return
        if users.find_user(user):
            raise DeploymentError(
                f"the user {user} exists on this host and does not belong to the site {site.name}",
                hint=f"rename it, or leave out {site.at}:{self.option}",
            )
        argv = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
        argv += ["--shell", "/usr/sbin/nologin", "--comment", title(site.name), user]
        commands.run(argv, doing=f"creating the user {user}")

    def start_anew(self, site: Site, files: Files) -> None:
        """Have systemd listen by these units. Where that is refused or killed, it is begun anew: its link is made last.

        A socket that is as it has to be stays open, so that what connects meanwhile waits for the next program.

        Raises:
            DeploymentError: systemd refuses a unit.
        """
        socket, service = (path.name for path in self.units(site))
        own = self.units(site)[0]
        is_open = file.read_text(own) == files[own] and unix_sockets.listens(str(self.socket(site)))
        self.link(site).unlink(missing_ok=True)
        for path, text in files.items():
            file.write(path, text or "")
        units.daemon_reload()
        # systemd does not open a socket again while its service has it
        units.control("stop", service, *([] if is_open else [socket]), doing=f"stopping {service}")
        units.control("start", socket, doing=f"starting {socket}")
        units.control("enable", "--quiet", socket, doing=f"enabling {socket}")

    def present(self, site: Site, more: Sequence[Path] = (), others: Sequence[Path] = ()) -> list[Path]:
        """Return what the site has of it, and with the last one of the host the program.

        Args:
            more: other files that belong to it.
            others: files by which other sites have it, next to units.
        """
        own = [*self.units(site), self.link(site), self.socket(site), *more]
        every = {*daemons.UNITS.glob(f"django-*-{self.kind}.service"), *others}
        paths = own if every - {*own} else [*own, self.program]
        return [path for path in paths if os.path.lexists(path)]

    def remove(self, site: Site, paths: Collection[Path]) -> None:
        """Remove its units, files and user.

        Args:
            paths: as of `present`.

        Raises:
            DeploymentError: systemd does not stop it.
        """
        has_units = bool({*self.units(site)} & {*paths}) and daemons.has_systemd()
        if has_units:
            names = [path.name for path in self.units(site)]
            doing = f"ending {names[1]}"
            units.stop("disable", "--quiet", "--now", units=names, doing=doing, within=_PATIENCE)
        for path in paths:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it is missing, or another site has a socket there
            self.folder.rmdir()
        if has_units:
            units.daemon_reload()
        if self.has_user(site):
            commands.run(["userdel", self.user(site)], doing=f"removing the user {self.user(site)}")
