"""Set MariaDB up on this host: read its state once, and make databases and users with its client."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import django_database_server
import django_host_command
import django_host_service
from django_database_engine import MYSQL
from django_database_server import Change, DatabaseServer, ManagedDatabase, owner_comment
from django_host_command import DeploymentError

#: The server's programs; MySQL's own has the second name.
PROGRAMS = (Path("/usr/sbin/mariadbd"), Path("/usr/sbin/mysqld"))
ZONES = Path("/usr/share/zoneinfo")
#: The authentication plugins that the formula uses; a user may have several, and any of them is enough.
_NATIVE, _SOCKET = "mysql_native_password", "unix_socket"
_STATE = """
SELECT 'zones', COUNT(*) FROM mysql.time_zone_name;
SELECT 'user', User, Priv FROM mysql.global_priv WHERE Host = 'localhost';
SELECT 'database', SCHEMA_NAME, SCHEMA_COMMENT FROM information_schema.SCHEMATA;
SELECT 'grant', User, Db FROM mysql.db WHERE Host = 'localhost';
"""


class MariaDBServer(DatabaseServer):
    """MariaDB. It is reached over its socket, on whatever port it listens."""

    engine = MYSQL
    daemon = django_host_service.MARIADB

    def is_installed(self) -> bool:
        return any(path.exists() for path in PROGRAMS)

    def query(self, database: ManagedDatabase) -> dict[str, Any]:
        """Return users, databases with their comments, grants, and the number of time zones.

        Raises:
            DeploymentError: the server does not answer, or is not MariaDB.
        """
        state = self.empty_state()
        try:
            text = _client(database, _STATE, doing="querying MariaDB")
        except DeploymentError as error:
            if "global_priv" not in error.log:
                raise
            raise DeploymentError(
                "the server on this host is MySQL, not MariaDB: the formula does not set it up",
                hint=f"create the database on the command line, and set {database.key}:manage: false",
            ) from None
        for line in text.splitlines():
            kind, name, *rest = line.split("\t")
            if kind == "user":
                state["users"][name] = json.loads(rest[0])
            elif kind == "database":
                state["databases"][name] = rest[0]
            elif kind == "grant":
                state["grants"].append((name, rest[0]))
            elif kind == "zones":
                state["zones"] = int(name)
        return state

    def empty_state(self) -> dict[str, Any]:
        return {"users": {}, "databases": {}, "grants": [], "zones": 0}

    def pending_changes(self, databases: Sequence[ManagedDatabase], state: Mapping[str, Any]) -> list[Change]:
        found: dict[str, Change] = {}
        own = {database.user for database in databases if _is_own(database, state)}
        for database in databases:
            user = _user(database, state, database.user in own)
            changes = (*_database(database, state), *user, *_grant(database, state))
            found |= {change.item: change for change in changes}
        zones = [] if state["zones"] or not ZONES.is_dir() else [Change("time zones", "loaded")]
        return [*found.values(), *zones]

    def removals(self, database: ManagedDatabase, state: Mapping[str, Any]) -> list[Change]:
        """Return the changes that drop everything the formula has made for a site.

        A user that has rights on anything else stays.
        """
        marked = [name for name, comment in state["databases"].items() if comment == owner_comment(database.site)]
        copies = tuple(f"{copy}_" for name in marked for copy in _copies(name))
        names = [*marked, *(name for name in state["databases"] if name.startswith(copies))]
        patterns = {*map(_pattern, marked), *(_pattern(copy) + "%" for copy in copies)}
        rights: dict[str, set[str]] = {}
        for user, pattern in _grants(state):
            rights.setdefault(user, set()).add(pattern)
        users = [
            user
            for user, granted in sorted(rights.items())
            if granted <= patterns and not state["users"].get(user, {}).get("access")
        ]
        return [
            *(Change(f"user {user}", "dropped", [f"DROP USER {_text(user)}@'localhost';"]) for user in users),
            *(Change(f"database {name}", "dropped", [f"DROP DATABASE {_name(name)};"]) for name in names),
        ]

    def apply(self, database: ManagedDatabase, changes: Sequence[Change]) -> None:
        statements = [statement for change in changes for statement in change.statements]
        if statements:
            _client(database, "\n".join(statements), doing="setting MariaDB up")
        if any(change.item == "time zones" for change in changes):
            zones = django_host_command.run(["mariadb-tzinfo-to-sql", str(ZONES)], doing="reading the time zones")
            _client(database, zones, doing="loading the time zones", schema="mysql")


def _is_own(database: ManagedDatabase, state: Mapping[str, Any]) -> bool:
    """Return whether the formula has made a login: it may use the database, and that has the site's comment."""
    is_granted = (database.user, _pattern(database.database)) in _grants(state)
    return is_granted and state["databases"].get(database.database) == owner_comment(database.site)


def _database(database: ManagedDatabase, state: Mapping[str, Any]) -> Iterable[Change]:
    name, comment = database.database, state["databases"].get(database.database)
    own_comment = owner_comment(database.site)
    if comment is None:
        options = f"CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_520_ci COMMENT {_text(own_comment)}"
        yield Change(f"database {name}", "new", [f"CREATE DATABASE {_name(name)} {options};"])
    elif comment != own_comment and (database.user, _pattern(name)) not in _grants(state):
        raise DeploymentError(
            f"MariaDB already has a database {name}, and {database.user}@localhost has no rights on it",
            hint=f"set {database.key}:name to another name; or, if it is the site's, run GRANT ALL ON "
            f"{_name(name)}.* TO {database.user}@localhost",
        )


def _user(database: ManagedDatabase, state: Mapping[str, Any], is_own: bool) -> Iterable[Change]:
    user, item = state["users"].get(database.user), f"user {database.user}"
    if user is None:
        yield Change(item, "new", [f"CREATE USER {_login(database)} {_identified(database)};"])
        return
    _refuse_foreign_user(database, user, is_own)
    alter = f"ALTER USER {_login(database)} {_identified(database)}"
    if _authenticates(user, database.password):
        if is_own and database.password and database.is_password_active and len(_hashes(user)) > 1:
            yield Change(item, "former password removed", [f"{alter};"])
        return
    if not database.has_active_release:
        yield Change(item, "password changed", [f"{alter};"])
        return
    former = [f"{_NATIVE} USING {_text(hashed)}" for hashed in _hashes(user)]
    former += [_SOCKET] if _authenticates(user, None) else []
    if len(former) < len(_plugins(user)):
        raise django_database_server.login_in_use(database)
    action = "password added" if database.password else "login over the socket added"
    yield Change(item, action, [f"{' OR '.join([alter, *former])};"])


def _refuse_foreign_user(database: ManagedDatabase, user: Mapping[str, Any], is_own: bool) -> None:
    if is_own:
        return
    if user.get("access"):
        raise DeploymentError(
            f"MariaDB already has a user {database.user}@localhost, and it has rights beyond its own databases",
            hint=f"set {database.key}:user to another name; or {database.key}:manage: false to use the server as it is",
        )
    if not _authenticates(user, database.password):
        raise DeploymentError(
            f"MariaDB already has a user {database.user}@localhost, with another password or authentication",
            hint=f"set {database.key}:user to another name; or {database.key}:password to its password",
        )


def _authenticates(user: Mapping[str, Any], password: str | None) -> bool:
    """Return whether a user is authenticated by this password; without one, as the system user of its name."""
    if password:
        return verifier(password) in _hashes(user)
    return _SOCKET in [plugin.get("plugin") for plugin in _plugins(user)]


def _plugins(user: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the authentication plugins of a user; any of them is enough."""
    return [{**user, **plugin} for plugin in user.get("auth_or", [{}])]


def _hashes(user: Mapping[str, Any]) -> list[str]:
    """Return what the server stores of a user's passwords."""
    native = [plugin for plugin in _plugins(user) if plugin.get("plugin") == _NATIVE]
    stored = [str(plugin.get("authentication_string")) for plugin in native]
    return [hashed for hashed in stored if hashed.startswith("*")]


def _grant(database: ManagedDatabase, state: Mapping[str, Any]) -> Iterable[Change]:
    """Yield the grants on the database and, if the formula has made it, on those that its backups are loaded into."""
    user, name = database.user, database.database
    patterns = [_pattern(name)]
    if state["databases"].get(name) in (None, owner_comment(database.site)):
        patterns += [_pattern(f"{copy}_") + "%" for copy in _copies(name)]
    missing = [pattern for pattern in patterns if (user, pattern) not in _grants(state)]
    grants = [f"GRANT ALL PRIVILEGES ON {_name(pattern)}.* TO {_login(database)};" for pattern in missing]
    if grants:
        yield Change(f"grant {user} on {name}", "new", grants)


def _copies(name: str) -> list[str]:
    """Return the beginnings of the names that `django_backup_restore` gives to copies of a database."""
    return [f"{name[:40]}_{purpose}" for purpose in ("restore", "before", "drill")]


def _grants(state: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return users with the databases that they may use; a grant on a name without escapes counts too."""
    return {(user, _pattern(name.replace("\\", ""))) for user, name in state["grants"]}


def verifier(password: str) -> str:
    """Return what a server stores of a password; computed here, so that no statement or log contains the password."""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()


def _identified(database: ManagedDatabase) -> str:
    plugin = f"{_NATIVE} USING {_text(verifier(database.password))}" if database.password else _SOCKET
    return f"IDENTIFIED VIA {plugin}"


def _login(database: ManagedDatabase) -> str:
    return f"{_text(database.user)}@'localhost'"


def _pattern(database: str) -> str:
    """Return the name of a database as a pattern of a grant, in which a bare underscore matches any character."""
    return database.replace("_", "\\_")


def _name(text: str) -> str:
    return "`" + text.replace("`", "``") + "`"


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _client(database: ManagedDatabase, text: str, *, doing: str, schema: str = "") -> str:
    argv = ["mariadb", "--batch", "--raw", "--skip-column-names", "--connect-timeout=10"]
    argv += [f"--socket={database.socket}"] if database.socket else []
    return django_host_command.run(
        [*argv, *([schema] if schema else [])],
        doing=doing,
        timeout=300,
        stdin=text,
        hint=f"check that it runs and that root may log in over its socket; or set {database.key}:manage: false",
    )
