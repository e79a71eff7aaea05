"""Database servers on this host: what a site has on them, and what every kind of server implements."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import django_host_service
from django_database_engine import Engine
from django_host_command import DeploymentError
from django_host_service import Daemon


class ManagedDatabase(NamedTuple):
    """A database of a site on a server that the formula sets up, and the login that owns it.

    Attributes:
        site: name of the site.
        system_user: user that the site's processes run as.
        alias: name of the database in Django.
        key: pillar key of the database, for messages.
        other_user: second login of the pair, see `django_database.login_pair`.
        password: None where the server authenticates the system user over its unix socket.
        socket: folder or file of the server's unix socket; empty for the default one.
        has_active_release: whether a release of the site is active, which uses the login as it is now.
        is_password_active: whether the active release uses this password, so that the other login can be closed.
        extensions: those of PostgreSQL that it needs.
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


class Change(NamedTuple):
    """A change on a server: which item, what becomes of it, and the statements or contents of files that make it so."""

    item: str
    action: str
    statements: Sequence[str] = ()
    files: Mapping[str, str] = {}


def owner_comment(site: str) -> str:
    """Return the comment that marks a role or a database on a server as a site's."""
    return f"Django site {site}"


def login_in_use(database: ManagedDatabase) -> DeploymentError:
    """Return the error for a login whose authentication cannot be changed while the active release uses it."""
    return DeploymentError(
        f"the authentication of the login {database.user} cannot be changed: the active release uses it as it is",
        hint=f"name another login, such as {database.key}:user: {database.user}2, which is created in addition; "
        "no request fails",
    )


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
        return django_host_service.pid(self.daemon) is not None

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

    def removals(self, database: ManagedDatabase, state: Mapping[str, Any]) -> list[Change]:
        """Return the changes that drop everything the formula has made for a site."""
        raise NotImplementedError

    def apply(self, database: ManagedDatabase, changes: Sequence[Change]) -> None:
        """Make changes on the server that a database is on.

        Raises:
            DeploymentError: the server refuses one.
        """
        raise NotImplementedError
