"""Database servers on this host: what a site has on them, and what every kind of server implements."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from django_formula.database.engines import Engine
from django_formula.host import daemons, file, folders, ports, units
from django_formula.host.commands import DeploymentError
from django_formula.host.daemons import Daemon
from django_formula.host.folders import Folder

#: The certificates of this host's servers, and what they serve to which hosts.
STATE = Path("/var/lib/django-formula/databases")
_AFTER_NETWORK = """# Written by django-formula: the server listens on an address of this host.
[Unit]
Wants=network-online.target
After=network-online.target
"""


class ManagedDatabase(NamedTuple):
    """A database of a site on a server that the formula sets up, and the login that owns it.

    Attributes:
        site: name of the site.
        system_user: user that the site's processes run as.
        alias: name of the database in Django.
        key: pillar key of the database, for messages.
        other_user: second login of the pair, see `database.databases.login_pair`.
        password: None where the server authenticates the system user over its unix socket.
        socket: folder or file of the server's unix socket; empty for the default one.
        has_active_release: whether a release of the site is active, which uses the login as it is now.
        is_password_active: whether the active release uses this password, so that the other login can be closed.
        extensions: those of PostgreSQL that it needs.
        verifier: what the server keeps of the password, where this host does not know the password itself.
        former: what it keeps of the former password, which is valid too; empty without one.
        clients: addresses of the only hosts that may log in, over TLS; without any the login is for this host.
        pool: connections of PgBouncer, which logs in over the unix socket for those hosts; 0 without it.
    """

    site: str
    system_user: str
    alias: str
    key: str
    database: str
    user: str
    other_user: str = ""
    password: str | None = None
    over_socket: bool = True
    socket: str = ""
    port: int | None = None
    has_active_release: bool = False
    is_password_active: bool = False
    extensions: tuple[str, ...] = ()
    verifier: str = ""
    former: str = ""
    clients: tuple[str, ...] = ()
    pool: int = 0

    @property
    def or_as_it_is(self) -> str:
        """The end of a hint: how to use the server as it is, unless a part of this host requires it."""
        return "" if self.clients else f"; or {self.key}:manage: false to use the server as it is"

    @property
    def or_its_password(self) -> str:
        """The end of a hint: that the login may be used with its password, likewise."""
        return "" if self.clients else f"; or {self.key}:password to its password"

    @property
    def users(self) -> tuple[str, ...]:
        """The logins of other hosts: both of the pair while the former password is valid."""
        return (self.user, self.other_user) if self.former and self.other_user else (self.user,)


class Network(NamedTuple):
    """How the hosts of sites reach a server on this host.

    Attributes:
        address: of this host.
        certificate: of this host, in PEM.
        key: of the certificate, in PEM.
        connections: how many they may open.
    """

    address: str
    certificate: str
    key: str
    connections: int


class Change(NamedTuple):
    """A change on a server: which item, what becomes of it, and the statements or contents of files that make it so.

    Attributes:
        restarts: whether it takes effect with a restart of the server only, which ends all connections.
    """

    item: str
    action: str
    statements: Sequence[str] = ()
    files: Mapping[str, str] = {}
    restarts: bool = False


def owner_comment(site: str) -> str:
    """Return the comment that marks a role or a database on a server as a site's."""
    return f"Django site {site}"


def login_in_use(database: ManagedDatabase, more: str = "") -> DeploymentError:
    """Return the error for a login whose authentication cannot be changed while the active release uses it.

    Args:
        more: what another login needs besides a name.
    """
    return DeploymentError(
        f"the authentication of the login {database.user} cannot be changed: the active release uses it as it is",
        hint=f"name another login, such as {database.key}:user: {database.user}2{more}, which is created in addition; "
        "no request fails",
    )


def listening(present: Sequence[str], address: str, everywhere: Collection[str] = ("*",)) -> list[str]:
    """Return where a server has to listen so that it does on an address too.

    Addresses that this host no longer has are left out: MariaDB does not start with one.

    Args:
        present: names and addresses that it is configured with.
        everywhere: those that stand for all addresses of both families there.

    Raises:
        DeploymentError: this host does not have the address.
    """
    problem = ports.bind_error(address)
    if problem:
        raise DeploymentError(
            f"this host cannot listen on {address}, its address in the pillar's hosts ({problem})",
            hint="set address of this host in hosts to one that ip address shows",
        )
    if {*everywhere, ports.ALL[":" in address], address} & {*present}:
        return [*present]
    kept = [one for one in present if not re.fullmatch("[0-9a-f:.]+", one) or not ports.bind_error(one)]
    return [*kept, address]


def enough(needed: int, present: int) -> int:
    """Return how many connections a server has to accept: as many as it does, or in hundreds what is needed."""
    return present if needed <= present else -(-needed // 100) * 100


def certificate_files(engine: Engine) -> tuple[Path, Path]:
    """Return the files of a server's certificate and key, which the formula installs."""
    return STATE / f"{engine.name}.crt", STATE / f"{engine.name}.key"


def differ(files: Mapping[str, str]) -> bool:
    """Return whether a file is missing or has another content."""
    return any(file.read_text(Path(path)) != text for path, text in files.items())


def write_certificate(files: Mapping[str, str], user: str) -> None:
    """Write a certificate and its key, for the server's user alone."""
    for folder in (STATE.parent, STATE):
        folders.make(Folder(folder, "root", "root", 0o755))
    for path, text in files.items():
        file.write(Path(path), text, mode=0o600, user=user, group=user)


def start_after_network(unit: str) -> None:
    """Have systemd start a server at boot only once this host has its addresses.

    Args:
        unit: name of the service.
    """
    path = daemons.UNITS / f"{unit}.service.d" / "django-formula.conf"
    if daemons.has_systemd() and file.read_text(path) != _AFTER_NETWORK:
        path.parent.mkdir(exist_ok=True)
        file.write(path, _AFTER_NETWORK)
        units.daemon_reload()


class DatabaseServer:
    """A kind of database server that the formula sets up on this host.

    Its state, as `query` returns it, is only passed back to the other methods.
    """

    engine: ClassVar[Engine]
    daemon: ClassVar[Daemon]

    def is_installed(self) -> bool:
        """Return whether a server of this kind is on this host, installed by the formula or not."""
        raise NotImplementedError

    def is_running(self) -> bool:
        """Return whether a server of this kind runs."""
        return daemons.pid(self.daemon) is not None

    def address(self, database: ManagedDatabase) -> tuple[Any, ...]:
        """Return what tells servers of this kind on one host apart."""
        return (database.socket,)

    def query(self, database: ManagedDatabase) -> dict[str, Any]:
        """Return the state of the server that a database is on.

        Raises:
            DeploymentError: the server does not answer.
        """
        raise NotImplementedError

    def empty_state(self) -> dict[str, Any]:
        """Return the state of a server that has just been installed."""
        raise NotImplementedError

    def login(self, database: ManagedDatabase, state: Mapping[str, Any]) -> str:
        """Return the login that the site's password belongs to; a new password may come with the other login."""
        return database.user

    def pending_changes(self, databases: Sequence[ManagedDatabase], state: Mapping[str, Any]) -> list[Change]:
        """Return the changes after which the server has everything that the databases of one site require.

        Raises:
            DeploymentError: a name is taken by a database or login that is not the site's.
        """
        raise NotImplementedError

    def network_changes(self, network: Network, state: Mapping[str, Any]) -> list[Change]:
        """Return the changes after which other hosts reach the server over TLS, and it has enough connections.

        Raises:
            DeploymentError: the server is configured otherwise for other clients.
        """
        raise NotImplementedError

    def apply_network(self, database: ManagedDatabase, changes: Sequence[Change]) -> None:
        """Make changes of `network_changes`; the server is restarted if one of them needs it.

        Raises:
            DeploymentError: the server refuses one, or does not start.
        """
        raise NotImplementedError

    def end_others(self, database: ManagedDatabase) -> None:
        """End connections of a login from hosts that may not use it any more, where `apply` has not."""

    def closing_changes(self, database: ManagedDatabase, state: Mapping[str, Any]) -> list[Change]:
        """Return the changes after which no other host can log in as a site any more; its data stays."""
        raise NotImplementedError

    def removals(self, database: ManagedDatabase, state: Mapping[str, Any]) -> list[Change]:
        """Return the changes that drop everything the formula has made for a site."""
        raise NotImplementedError

    def apply(self, database: ManagedDatabase, changes: Sequence[Change]) -> None:
        """Make changes on the server that a database is on.

        Raises:
            DeploymentError: the server refuses one.
        """
        raise NotImplementedError
