"""Set MariaDB up on this host: read its state once, and make databases and users with its client."""

import contextlib
import json
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.database import engines, server
from django_formula.database.engines import MYSQL
from django_formula.database.server import Change, DatabaseServer, ManagedDatabase, Network, owner_comment
from django_formula.host import commands, config_files, daemons, file, ports
from django_formula.host.commands import DeploymentError
from django_formula.site import unread

#: The server's programs; MySQL's own has the second name.
PROGRAMS = (Path("/usr/sbin/mariadbd"), Path("/usr/sbin/mysqld"))
ZONES = Path("/usr/share/zoneinfo")
#: What the formula configures where other hosts use the server; it is read after Debian's files.
CONFIG = Path("/etc/mysql/mariadb.conf.d/90-django-formula.cnf")
#: The name in `site.unread` of its certificate.
_NOTE = "mysql"
#: The authentication plugins that the formula uses; a user may have several, and any of them is enough.
_NATIVE, _SOCKET = "mysql_native_password", "unix_socket"
#: What others may name, or comment on, is in hexadecimal digits: a login may give its databases a comment with lines,
#: which would be rows of this state.
_STATE = """
SELECT 'zones', COUNT(*) FROM mysql.time_zone_name;
SELECT 'user', HEX(User), HEX(Priv) FROM mysql.global_priv WHERE Host = 'localhost';
SELECT 'database', HEX(SCHEMA_NAME), HEX(SCHEMA_COMMENT) FROM information_schema.SCHEMATA;
SELECT 'grant', HEX(User), HEX(Db) FROM mysql.db WHERE Host = 'localhost';
SELECT 'account', HEX(CONCAT(User, '@', Host)), HEX(Priv) FROM mysql.global_priv WHERE Host != 'localhost';
SELECT 'right', HEX(CONCAT(User, '@', Host)), HEX(Db) FROM mysql.db WHERE Host != 'localhost';
SELECT 'variable', 'bind', IFNULL(@@bind_address, '*');
SELECT 'variable', 'connections', @@max_connections;
SELECT 'variable', 'tls', @@have_ssl;
SELECT 'variable', 'certificate', IFNULL(@@ssl_cert, '');
SELECT 'variable', 'version', VERSION();
"""
#: What stands for all addresses, of both families; and the version that can listen on several addresses.
_EVERYWHERE, _SEVERAL = ("*", ports.ALL[1]), (10, 11)


class MariaDBServer(DatabaseServer):
    """MariaDB. It is reached over its socket, on whatever port it listens."""

    engine = MYSQL
    daemon = daemons.MARIADB

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
            if kind == "zones":
                state["zones"] = int(name)
            elif kind == "variable":
                state["variables"][name] = rest[0]
            else:
                _add(state, kind, *(bytes.fromhex(one).decode(errors="replace") for one in (name, rest[0])))
        return state

    def empty_state(self) -> dict[str, Any]:
        elsewhere: dict[str, Any] = {"accounts": {}, "rights": [], "variables": {}}
        return {"users": {}, "databases": {}, "grants": [], "zones": 0, **elsewhere}

    def pending_changes(self, databases: Sequence[ManagedDatabase], state: Mapping[str, Any]) -> list[Change]:
        found: dict[str, Change] = {}
        own = {database.user for database in databases if _is_own(database, state)}
        for database in databases:
            if database.clients:
                changes = (*_database(database, state), *_accounts(database, state))
            else:
                user = _user(database, state, database.user in own)
                changes = (*_database(database, state), *user, *_grant(database, state))
            found |= {change.item: change for change in changes}
        zones = [] if state["zones"] or not ZONES.is_dir() else [Change("time zones", "loaded")]
        return [*found.values(), *zones]

    def network_changes(self, network: Network, state: Mapping[str, Any]) -> list[Change]:
        """Return changes of a configuration file of the formula's own, and of the certificate."""
        return [*_settings(network, state["variables"]), *_certificate(network)]

    def apply_network(self, database: ManagedDatabase, changes: Sequence[Change]) -> None:
        files = {path: text for change in changes for path, text in change.files.items()}
        text = files.pop(str(CONFIG), None)
        with unread.noted([_NOTE], restores=False):
            server.write_certificate(files, "mysql")
            if text:
                file.write(CONFIG, text)
            if any(change.restarts for change in changes):
                server.start_after_network("mariadb")
                daemons.restart(self.daemon)
            else:
                statements = [statement for change in changes for statement in change.statements]
                _client(database, "\n".join([*statements, "FLUSH SSL;"]), doing="setting MariaDB up")

    def closing_changes(self, database: ManagedDatabase, state: Mapping[str, Any]) -> list[Change]:
        return [*_former_accounts(database._replace(clients=()), state)]

    def removals(self, database: ManagedDatabase, state: Mapping[str, Any]) -> list[Change]:
        """Return the changes that drop everything the formula has made for a site.

        A user that has rights on anything else stays.
        """
        marked = [name for name, comment in state["databases"].items() if comment == owner_comment(database.site)]
        copies = [f"{copy}_" for name in marked for copy in _copies(name)]
        of_backups = re.compile(rf"(?:{'|'.join(map(re.escape, copies)) or '(?!)'})\d{{8}}(?:t\d{{6}})?")
        unmarked = [name for name, comment in state["databases"].items() if not comment]
        names = [*marked, *filter(of_backups.fullmatch, unmarked)]
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
            zones = commands.run(["mariadb-tzinfo-to-sql", str(ZONES)], doing="reading the time zones")
            _client(database, zones, doing="loading the time zones", schema="mysql")


def _add(state: dict[str, Any], kind: str, name: str, about: str) -> None:
    """Add a row to the state of a server."""
    key = f"{kind}s"
    if kind in ("grant", "right"):
        state[key].append((name, about))
    else:
        state[key][name] = about if kind == "database" else json.loads(about)


def _settings(network: Network, variables: Mapping[str, str]) -> Iterable[Change]:
    """Yield the change of the file that has other hosts connect, with what its options were without it."""
    certificate, key = server.certificate_files(MYSQL)
    used = variables["certificate"]
    if used not in ("", str(certificate)):
        raise DeploymentError(
            f"MariaDB on this host has a certificate of its own, {used}, which its other clients may rely on",
            hint="use it as a server elsewhere: set database:host, and take the part database out of hosts",
        )
    own = file.read_text(CONFIG) or ""
    present = [*filter(None, variables["bind"].replace(" ", "").split(","))] or ["*"]
    places = _places(present, network.address, variables["version"])
    connections = int(variables["connections"])
    number = server.enough(network.connections, connections)
    lines = [
        *([f"bind-address = {','.join(places)}"] if places != present or "\nbind-address" in own else []),
        *([f"max_connections = {number}"] if number != connections or "\nmax_connections" in own else []),
        f"ssl-cert = {certificate}",
        f"ssl-key = {key}",
    ]
    text = "\n".join([f"{config_files.OURS}: other hosts use this server.", "[mariadbd]", *lines, ""])
    restarts = places != present or variables["tls"] != "YES" or used != str(certificate)
    if restarts or number != connections or text != own:
        action = f"{'; '.join(lines[:-2])}; MariaDB is {'restarted' if restarts else 'not restarted'}"
        statements = [] if restarts else [f"SET GLOBAL max_connections = {number};"]
        yield Change(CONFIG.name, action, statements, {str(CONFIG): text}, restarts)


def _places(present: list[str], address: str, version: str) -> list[str]:
    """Return where MariaDB has to listen so that it does on an address too.

    Raises:
        DeploymentError: this version cannot.
    """
    places = server.listening(present, address, _EVERYWHERE)
    if len(places) > 1 and tuple(map(int, re.findall(r"\d+", version)[:2])) < _SEVERAL:
        raise DeploymentError(
            f"MariaDB {version.partition('-')[0]} listens on one address or on all, here on {', '.join(present)}, and "
            f"other hosts need {address}",
            hint="set bind-address = * in /etc/mysql/mariadb.conf.d, and restart MariaDB: its logins stay for the "
            "addresses that they have",
        )
    return places


def _certificate(network: Network) -> Iterable[Change]:
    certificate, key = server.certificate_files(MYSQL)
    files = {str(certificate): network.certificate, str(key): network.key}
    if server.differ(files) or unread.is_unread(_NOTE):
        yield Change("certificate", "new", files=files)


def _accounts(database: ManagedDatabase, state: Mapping[str, Any]) -> Iterable[Change]:
    """Yield the changes after which a login is for some hosts alone, over TLS: MariaDB has an account for each."""
    for client in database.clients:
        account, login = f"{database.user}@{client}", f"{_text(database.user)}@{_text(client)}"
        found = state["accounts"].get(account)
        if found and found.get("access"):
            raise DeploymentError(
                f"MariaDB already has a user {account}, and it has rights beyond its own databases",
                hint=f"set {database.key}:user to another name",
            )
        hashes = [*filter(None, (database.verifier, database.former))]
        ways = " OR ".join(f"{_NATIVE} USING {_text(one)}" for one in hashes)
        identified = f"{login} IDENTIFIED VIA {ways} REQUIRE SSL;"
        if found is None:
            yield Change(f"user {account}", "new", [f"CREATE USER {identified}"])
        elif _hashes(found) != hashes or not found.get("ssl_type"):
            yield Change(f"user {account}", "changed", [f"ALTER USER {identified}"])
        granted = _granted(state["rights"])
        missing = [pattern for pattern in _patterns(database, state) if (account, pattern) not in granted]
        if missing:
            grants = [f"GRANT ALL PRIVILEGES ON {_name(pattern)}.* TO {login};" for pattern in missing]
            yield Change(f"grant {account} on {database.database}", "new", grants)
    yield from _former_accounts(database, state)


def _former_accounts(database: ManagedDatabase, state: Mapping[str, Any]) -> Iterable[Change]:
    """Yield the accounts of a login on hosts that may not use the database any more, whose connections end."""
    allowed = {f"{database.user}@{client}" for client in database.clients}
    pattern = _pattern(database.database)
    for account in sorted({account for account, granted in _granted(state["rights"]) if granted == pattern} - allowed):
        user, _at, host = account.rpartition("@")
        if user == database.user:
            ends = [f"KILL USER {_text(user)}@{_text(name)};" for name in _names(host)]
            yield Change(f"user {account}", "dropped", [f"DROP USER {_text(user)}@{_text(host)};", *ends])


def _names(address: str) -> list[str]:
    """Return what MariaDB may list the connections of a host by: its address, or the name that DNS has for it."""
    with contextlib.suppress(OSError):
        return [address, socket.getnameinfo((address, 0), socket.NI_NAMEREQD)[0]]
    return [address]


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
        raise server.login_in_use(database, _for_other_login(database))
    action = "password added" if database.password else "login over the socket added"
    yield Change(item, action, [f"{' OR '.join([alter, *former])};"])


def _refuse_foreign_user(database: ManagedDatabase, user: Mapping[str, Any], is_own: bool) -> None:
    if is_own:
        return
    if user.get("access"):
        raise DeploymentError(
            f"MariaDB already has a user {database.user}@localhost, and it has rights beyond its own databases",
            hint=f"set {database.key}:user to another name{_for_other_login(database)}{database.or_as_it_is}",
        )
    if not _authenticates(user, database.password):
        raise DeploymentError(
            f"MariaDB already has a user {database.user}@localhost, with another password or authentication",
            hint=f"set {database.key}:user to another name{_for_other_login(database)}{database.or_its_password}",
        )


def _for_other_login(database: ManagedDatabase) -> str:
    """Return what a login of another name needs besides: over its socket MariaDB knows the system user alone."""
    needs = database.over_socket and not database.password
    return f" and {database.key}:password to one for it" if needs else ""


def _authenticates(user: Mapping[str, Any], password: str | None) -> bool:
    """Return whether a user is authenticated by this password; without one, as the system user of its name."""
    if password:
        return engines.mariadb_verifier(password) in _hashes(user)
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
    missing = [pattern for pattern in _patterns(database, state) if (user, pattern) not in _grants(state)]
    grants = [f"GRANT ALL PRIVILEGES ON {_name(pattern)}.* TO {_login(database)};" for pattern in missing]
    if grants:
        yield Change(f"grant {user} on {name}", "new", grants)


def _patterns(database: ManagedDatabase, state: Mapping[str, Any]) -> list[str]:
    """Return the patterns of the databases that a login may use."""
    name = database.database
    is_own = state["databases"].get(name) in (None, owner_comment(database.site))
    return [_pattern(name), *(_pattern(f"{copy}_") + "%" for copy in (_copies(name) if is_own else []))]


def _copies(name: str) -> list[str]:
    """Return the beginnings of the names that `backup.restore` gives to copies of a database."""
    return [f"{engines.start_of_copies(name)}_{purpose}" for purpose in ("restore", "before", "drill")]


def _grants(state: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return users of this host with the databases that they may use."""
    return _granted(state["grants"])


def _granted(grants: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return users with the databases that they may use; a grant on a name without escapes counts too."""
    return {(user, _pattern(name.replace("\\", ""))) for user, name in grants}


def _identified(database: ManagedDatabase) -> str:
    if not database.password:
        return f"IDENTIFIED VIA {_SOCKET}"
    return f"IDENTIFIED VIA {_NATIVE} USING {_text(engines.mariadb_verifier(database.password))}"


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
    return commands.run(
        [*argv, *([schema] if schema else [])],
        doing=doing,
        timeout=300,
        stdin=text,
        secrets=re.findall(r"'(\*[0-9A-F]{40})'", text),
        hint=f"check that it runs and that root may log in over its socket{database.or_as_it_is}",
    )
