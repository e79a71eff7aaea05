"""MariaDB on this host: asked once what it has, and told by its client what a site lacks."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import django_database
import django_host_command
import django_host_service
from django_database import Lack, Share, mark
from django_host_command import DeploymentError

#: The servers of this kind; MySQL's own has the second name.
PROGRAMS = (Path("/usr/sbin/mariadbd"), Path("/usr/sbin/mysqld"))
ZONES = Path("/usr/share/zoneinfo")
#: The ways in that the formula knows; a user may have several, each of which will do.
_NATIVE, _SOCKET = "mysql_native_password", "unix_socket"
_QUESTION = """
SELECT 'zones', COUNT(*) FROM mysql.time_zone_name;
SELECT 'user', User, Priv FROM mysql.global_priv WHERE Host = 'localhost';
SELECT 'database', SCHEMA_NAME, SCHEMA_COMMENT FROM information_schema.SCHEMATA;
SELECT 'grant', User, Db FROM mysql.db WHERE Host = 'localhost';
"""


def is_installed() -> bool:
    """Whether there is a server of this kind on this host, whoever has installed it."""
    return any(path.exists() for path in PROGRAMS)


def is_running() -> bool:
    """Whether one runs."""
    return django_host_service.pid(django_host_service.MARIADB) is not None


def ask(share: Share) -> dict[str, Any]:
    """What the server of a share has: users, databases with their comments, grants, names of time zones.

    Raises:
        DeploymentError: it does not answer, or is not MariaDB.
    """
    answer = nothing()
    try:
        text = _client(share, _QUESTION, doing="asking MariaDB")
    except DeploymentError as error:
        if "global_priv" not in error.log:
            raise
        raise DeploymentError(
            "the server on this host is MySQL, not MariaDB: the formula does not set it up",
            hint=f"make the database there by hand, and say so: {share.at}:manage: false",
        ) from None
    for line in text.splitlines():
        kind, name, *rest = line.split("\t")
        if kind == "user":
            answer["users"][name] = json.loads(rest[0])
        elif kind == "database":
            answer["databases"][name] = rest[0]
        elif kind == "grant":
            answer["grants"].append((name, rest[0]))
        elif kind == "zones":
            answer["zones"] = int(name)
    return answer


def nothing() -> dict[str, Any]:
    """What a server has that is still to be installed."""
    return {"users": {}, "databases": {}, "grants": [], "zones": 0}


def login(share: Share, _answer: Mapping[str, Any]) -> str:
    """The login of a share: a user may have several passwords, so a new one needs no other login."""
    return share.user


def lacks(shares: Sequence[Share], answer: Mapping[str, Any]) -> list[Lack]:
    """What a site lacks on a server.

    Raises:
        DeploymentError: somebody else has what the site would have.
    """
    found: dict[str, Lack] = {}
    ours = {share.user for share in shares if _is_ours(share, answer)}
    for share in shares:
        lacking = (*_database(share, answer), *_user(share, answer, share.user in ours), *_grant(share, answer))
        found |= {lack.what: lack for lack in lacking}
    zones = [] if answer["zones"] or not ZONES.is_dir() else [Lack("time zones", "loaded")]
    return [*found.values(), *zones]


def _is_ours(share: Share, answer: Mapping[str, Any]) -> bool:
    """Whether the formula has made a login: it may use the database, and that has the mark."""
    granted = (share.user, _pattern(share.database)) in _grants(answer)
    return granted and answer["databases"].get(share.database) == mark(share.site)


def _database(share: Share, answer: Mapping[str, Any]) -> Iterable[Lack]:
    comment = answer["databases"].get(share.database)
    if comment is None:
        how = f"CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_520_ci COMMENT {_text(mark(share.site))}"
        yield Lack(f"database {share.database}", "new", [f"CREATE DATABASE {_name(share.database)} {how};"])
    elif comment != mark(share.site) and (share.user, _pattern(share.database)) not in _grants(answer):
        raise DeploymentError(
            f"there is a database {share.database} in MariaDB already, and {share.user}@localhost may not use it",
            hint=f"choose another: {share.at}:name; or, if it is the site's, let it in: GRANT ALL ON "
            f"{_name(share.database)}.* TO {share.user}@localhost",
        )


def _user(share: Share, answer: Mapping[str, Any], ours: bool) -> Iterable[Lack]:
    user, what = answer["users"].get(share.user), f"user {share.user}"
    if user is None:
        yield Lack(what, "new", [f"CREATE USER {_login(share)} {_identified(share)};"])
        return
    if user.get("access") and not ours:
        raise DeploymentError(
            f"there is a user {share.user}@localhost in MariaDB already, and it may do more than use a database",
            hint=f"choose another: {share.at}:user; or use the server as it is: {share.at}:manage: false",
        )
    if _fits(user, share.password):
        if ours and share.password and share.alone and len(_hashes(user)) > 1:
            yield Lack(what, "former password taken away", [f"ALTER USER {_login(share)} {_identified(share)};"])
        return
    if not ours:
        raise DeploymentError(
            f"there is a user {share.user}@localhost in MariaDB already, and it logs in by other means",
            hint=f"choose another: {share.at}:user; or give its password: {share.at}:password",
        )
    if not share.live:
        yield Lack(what, "password changed", [f"ALTER USER {_login(share)} {_identified(share)};"])
        return
    former = [f"{_NATIVE} USING {_text(hashed)}" for hashed in _hashes(user)]
    former += [_SOCKET] if _fits(user, None) else []
    if len(former) < len(_ways(user)):
        raise django_database.in_use(share)
    how = "password added" if share.password else "login over the socket added"
    yield Lack(what, how, [f"ALTER USER {_login(share)} {' OR '.join([_identified(share), *former])};"])


def _fits(user: Mapping[str, Any], password: str | None) -> bool:
    """Whether a user logs in as it is meant: by this password, or as the system user of its name."""
    if password:
        return verifier(password) in _hashes(user)
    return _SOCKET in [way.get("plugin") for way in _ways(user)]


def _ways(user: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The ways by which a user logs in, each of which will do."""
    return [{**user, **way} for way in user.get("auth_or", [{}])]


def _hashes(user: Mapping[str, Any]) -> list[str]:
    """What the server keeps of a user's passwords."""
    kept = [str(way.get("authentication_string")) for way in _ways(user) if way.get("plugin") == _NATIVE]
    return [hashed for hashed in kept if hashed.startswith("*")]


def _grant(share: Share, answer: Mapping[str, Any]) -> Iterable[Lack]:
    """The rights on the database, and, where it is the formula's, on those that a backup of it is loaded into."""
    patterns = [_pattern(share.database)]
    if answer["databases"].get(share.database) in (None, mark(share.site)):
        patterns += [_pattern(f"{copy}_") + "%" for copy in _copies(share.database)]
    missing = [pattern for pattern in patterns if (share.user, pattern) not in _grants(answer)]
    grants = [f"GRANT ALL PRIVILEGES ON {_name(pattern)}.* TO {_login(share)};" for pattern in missing]
    if grants:
        yield Lack(f"grant {share.user} on {share.database}", "new", grants)


def _copies(database: str) -> list[str]:
    """How the databases are named that a backup is loaded into, or that it has replaced."""
    return [f"{database[:40]}_{why}" for why in ("restore", "before", "drill")]


def _grants(answer: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Who may use which database; a name that somebody has granted without its escapes counts too."""
    return {(user, _pattern(name.replace("\\", ""))) for user, name in answer["grants"]}


def make(share: Share, lacking: Sequence[Lack]) -> None:
    """Make what is lacking on the server of a share.

    Raises:
        DeploymentError: the server refuses it.
    """
    statements = [statement for lack in lacking for statement in lack.statements]
    if statements:
        _client(share, "\n".join(statements), doing="setting MariaDB up")
    if any(lack.what == "time zones" for lack in lacking):
        zones = django_host_command.run(["mariadb-tzinfo-to-sql", str(ZONES)], doing="reading the time zones")
        _client(share, zones, doing="loading the time zones", database="mysql")


def belongings(share: Share, answer: Mapping[str, Any]) -> list[Lack]:
    """What was made for a site on a server, and how it is dropped; a user who has more than that stays."""
    marked = [name for name, comment in answer["databases"].items() if comment == mark(share.site)]
    copies = tuple(f"{copy}_" for name in marked for copy in _copies(name))
    databases = [*marked, *(name for name in answer["databases"] if name.startswith(copies))]
    patterns = {*map(_pattern, marked), *(_pattern(copy) + "%" for copy in copies)}
    rights: dict[str, set[str]] = {}
    for user, pattern in _grants(answer):
        rights.setdefault(user, set()).add(pattern)
    users = [
        user
        for user, has in sorted(rights.items())
        if has <= patterns and not answer["users"].get(user, {}).get("access")
    ]
    return [
        *(Lack(f"user {user}", "dropped", [f"DROP USER {_text(user)}@'localhost';"]) for user in users),
        *(Lack(f"database {name}", "dropped", [f"DROP DATABASE {_name(name)};"]) for name in databases),
    ]


def verifier(password: str) -> str:
    """What a server keeps of a password, made here so that no statement and no log of the server has the password."""
    once = hashlib.sha1(password.encode(), usedforsecurity=False).digest()
    return "*" + hashlib.sha1(once, usedforsecurity=False).hexdigest().upper()


def _identified(share: Share) -> str:
    way = f"{_NATIVE} USING {_text(verifier(share.password))}" if share.password else _SOCKET
    return f"IDENTIFIED VIA {way}"


def _login(share: Share) -> str:
    return f"{_text(share.user)}@'localhost'"


def _pattern(database: str) -> str:
    """The name of a database as grants have it, where an underscore stands for any letter."""
    return database.replace("_", "\\_")


def _name(text: str) -> str:
    return "`" + text.replace("`", "``") + "`"


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _client(share: Share, text: str, *, doing: str, database: str = "") -> str:
    argv = ["mariadb", "--batch", "--raw", "--skip-column-names", "--connect-timeout=10"]
    argv += [f"--socket={share.socket}"] if share.socket else []
    return django_host_command.run(
        [*argv, *([database] if database else [])],
        doing=doing,
        timeout=300,
        stdin=text,
        hint=f"does it run, and may root log in over its socket? {share.at}:manage: false leaves it alone",
    )
