"""The databases of a site: as the pillar gives them to the project, and as the project's settings name them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from django_formula.database import engines, sqlite
from django_formula.database.engines import ENGINES, POSTGIS, SERVERS, login_pair
from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site

#: Parameters of a URI by which SQLite has a database in memory, or does not write it.
_NO_FILE = {"mode=memory", "vfs=memdb", "mode=ro", "immutable=1"}
#: How Debian's PostgreSQL knows a system user over its socket.
_PEER = "restore Debian's line in the server's pg_hba.conf: local all all peer"
#: Error texts of drivers and servers (regular expressions), and the hint for each. {key} is the database's pillar key.
_HINTS = {
    "Error loading (psycopg|MySQLdb)": "add the database's driver to the virtualenv, {site}:python_packages: "
    "['psycopg[binary]'] or [mysqlclient]; or the library that it needs to the host, {site}:packages: [libpq5] or "
    "[libmariadb3]",
    "password authentication failed|access denied for user|no password supplied|role \\S+ does not exist": "{login}",
    "peer authentication failed": _PEER,
    "login rejected|no authentication method is found|no such database": "apply on the host of the database first: its "
    "PgBouncer does not have {key}:pool, or does not let in this host",
    "no pg_hba.conf entry|is not allowed to connect": "{entry}",
    r"database \S+ does not exist|unknown database": "{name}",
    r"could not translate host name|unknown (\w+ )?server host|failed to resolve host": "correct {key}:host",
    r"connection to server .*failed|can't connect to|connection timeout expired|server has gone away|too many c"
    "|the database system is": "check that the server runs and is reachable at {key}:host, {key}:port",
}
#: What corrects a login, the server's list of hosts, and a missing database, on a server that the site only uses.
_OF_OTHERS = {
    "login": "correct {key}:user or {key}:password",
    "entry": "allow this host on the server, or correct {key}:user",
    "name": "create it on the server, or correct {key}:name",
}
#: The user and the host of a connection, in the texts of PostgreSQL, MariaDB and MySQL.
_USER = re.compile(r"""\b(?:user|role) ["']([^"']+)["']""")
_HOST = re.compile(r"""\b(?:server at|server on|server host|host name|resolve host) ["']([^"']+)["']""")
#: Hosts that a connection over a unix socket may be reported with.
_LOCAL = ("localhost", "127.0.0.1", "::1")


def secret_name(alias: str) -> str:
    """Return the name of the secret that is a database's password; no environment variable can have such a name."""
    return f"database.{alias}"


def certificate_name(alias: str) -> str:
    """Return the name of the file, next to a database's password, with the only certificate that is trusted there."""
    return f"certificate.{alias}"


def certificates(site: Site) -> dict[str, dict[str, Any]]:
    """Return the certificates of the servers of a site's databases, which are kept as secrets are."""
    databases = site.config["databases"].items()
    return {
        certificate_name(alias): {"value": database["certificate"]}
        for alias, database in databases
        if database.get("certificate")
    }


def passwords(site: Site) -> dict[str, dict[str, Any]]:
    """Return the passwords of a site's databases, given in the pillar or generated, as secrets by their names."""
    databases = site.config["databases"].items()
    configured = {alias: database["password"] for alias, database in databases if database["password"]}
    return {
        secret_name(alias): password if "generate" in password else {"value": password}
        for alias, password in configured.items()
    }


def login_file(alias: str) -> str:
    """Return the name of the file, next to a database's password, with the login that the password belongs to."""
    return f"database.{alias}.user"


def login(site: Site, alias: str) -> str:
    """Return the login that the site's password belongs to: the pillar's, or the other one of its pair."""
    database = site.config["databases"][alias]
    configured: str = database["user"]
    if not database["password"] or database.get("served_by"):
        return configured
    recorded = site.logins.get(alias) or file.read_text(site.secrets / login_file(alias))
    return recorded if recorded in login_pair(configured) else configured


def logins(site: Site) -> dict[str, str]:
    """Return the logins that have a password, by the names of their files."""
    databases = site.config["databases"].items()
    return {login_file(alias): login(site, alias) for alias, database in databases if database["password"]}


def pillar_key(site: Site, alias: str) -> str:
    """Return the pillar key of a database, for messages."""
    is_only = list(site.config["databases"]) == ["default"] == [alias]
    return f"{site.at}:{'database' if is_only else f'databases:{alias}'}"


def server_engines(site: Site) -> list[str]:
    """Return the kinds of servers that the pillar's databases are on."""
    return sorted({database["engine"] for database in site.config["databases"].values()} & {*SERVERS})


def has_managed(site: Site) -> bool:
    """Return whether a database of the site is on a server of this host that the formula sets up."""
    return any(database.get("manage") for database in site.config["databases"].values())


def is_here(site: Site, database: Mapping[str, Any]) -> bool:
    """Return whether one of the pillar's databases is on a server of this host, whether or not the formula has it."""
    served_by, host = database.get("served_by"), str(database["host"] or "/")
    is_served = bool(served_by) and served_by == site.config["fleet"]["host"]
    return bool(database.get("manage")) or is_served or host.startswith("/") or host in _LOCAL


def are_local(site: Site) -> bool:
    """Return whether every database in the pillar is a file, or on a server of this host, over its unix socket."""
    databases = site.config["databases"]
    return "default" in databases and all(
        one["engine"] == "sqlite" or (one["engine"] in SERVERS and (one["host"] or "/").startswith("/"))
        for one in databases.values()
    )


def sqlite_path(site: Site, alias: str) -> Path:
    """Return the file of one of the pillar's SQLite databases."""
    name = site.config["databases"].get(alias, {}).get("name")
    return site.database.top / (name or ("db.sqlite3" if alias == "default" else f"{alias}.sqlite3"))


def is_spatial(database: Mapping[str, Any]) -> bool:
    """Return whether the pillar gives a database PostGIS, and so GeoDjango's backend."""
    return POSTGIS in database.get("extensions", ())


def url(site: Site, alias: str, secrets: Mapping[str, str]) -> str:
    """Return a database as a URL for dj-database-url and django-environ."""
    database = site.config["databases"][alias]
    if database["engine"] == "sqlite":
        return f"sqlite:///{sqlite_path(site, alias)}"
    credentials = quote(login(site, alias), safe="")
    password = secrets.get(secret_name(alias))
    if password:
        credentials += f":{quote(password, safe='')}"
    host = database["host"] or ""
    host = f"[{host}]" if ":" in host else quote(host, safe="")
    port = f":{database['port']}" if database["port"] else ""
    options = {
        name: str(value).lower() if isinstance(value, bool) else value for name, value in database["options"].items()
    }
    query = f"?{urlencode(options, quote_via=quote, errors='surrogatepass')}" if options else ""
    scheme = POSTGIS if is_spatial(database) else database["engine"]
    return f"{scheme}://{credentials}@{host}{port}/{quote(database['name'], safe='')}{query}"


def environment_values(site: Site, secrets: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the default database that ``environment`` can refer to by ``from``, by their names."""
    database = site.config["databases"].get("default", {"engine": None})
    if not database["engine"]:
        return {}
    values = {f"database_{key}": str(database[key]) for key in ("name", "host") if database[key]}
    if database["engine"] in SERVERS:
        values["database_port"] = str(database["port"] or SERVERS[database["engine"]].port)
    if database["user"]:
        values["database_user"] = login(site, "default")
    if database["engine"] == "sqlite":
        values |= dict.fromkeys(("database_path", "database_name"), str(sqlite_path(site, "default")))
    if secret_name("default") in secrets:
        values["database_password"] = secrets[secret_name("default")]
    return {**values, "database_url": url(site, "default", secrets)}


def is_secret(site: Site, value_name: str) -> bool:
    """Return whether one of `environment_values` is a password, or changes together with it."""
    database = site.config["databases"].get("default", {})
    secret = {"database_url", "database_password", *(["database_user"] if database.get("password") else [])}
    return database.get("engine") in SERVERS and value_name in secret


def url_variables(site: Site, secrets: Mapping[str, str], *, secret: bool) -> dict[str, str]:
    """Return the environment variables that hold a database's URL.

    Args:
        secret: return those of servers, which hold a password; otherwise those of SQLite files.
    """
    return {
        database["variable"]: url(site, alias, secrets)
        for alias, database in site.config["databases"].items()
        if database["as"] == "environment" and (database["engine"] in SERVERS) == secret
    }


def overlay_data(site: Site) -> dict[str, dict[str, Any]]:
    """Return the databases as the settings overlay reads them: a password and its login by the paths of their files."""
    data = {}
    for alias, database in site.config["databases"].items():
        if database["as"] == "settings" and database["engine"] == "sqlite":
            name = str(sqlite_path(site, alias)) if database["name"] else None
            data[alias] = {"engine": None, "name": name}
        elif database["as"] == "settings":
            names = {"password_file": secret_name(alias), "user_file": login_file(alias)}
            engine = ENGINES[database["engine"]]
            data[alias] = {
                "engine": engine.spatial_backend if is_spatial(database) else engine.backend,
                **{key: str(site.secrets / name) if database["password"] else None for key, name in names.items()},
                **{key: database[key] or "" for key in ("name", "user", "host", "port")},
            }
        if alias in data and database.get("pool"):
            data[alias]["pool_port"] = database["pool_port"]
        if alias in data:
            data[alias] |= {"options": database["options"], "settings": database["settings"]}
    return data


def check_settings(site: Site, effective: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse a project that does not use the database servers which the pillar gives it.

    Args:
        effective: engine and name of each database in the project's settings.

    Raises:
        DeploymentError: it uses another database, and would write its data there.
    """
    for alias, database in site.config["databases"].items():
        found = effective.get(alias, {"engine": "nothing", "name": ""})
        engine = SERVERS.get(database["engine"])
        if engine and not (engine.is_backend(found["engine"]) and found["name"] == database["name"]):
            raise DeploymentError(
                f"the project does not use the database {alias!r} of the pillar: its settings have "
                f"{found['name'] or 'none'} ({found['engine']})",
                hint=f"read {database['variable']} in the settings, or set {pillar_key(site, alias)}:as: settings"
                if database["variable"]
                else f"leave DATABASES to the overlay, or remove {pillar_key(site, alias)}",
            )


def add_hint(site: Site, error: DeploymentError) -> None:
    """Add the hint for an error that a database driver or server has raised.

    An error of the server counts as transient: it may be gone at the next apply without a change on this host.
    """
    is_only = len(site.config["databases"]) == 1
    key = pillar_key(site, "default") if is_only else f"{site.at}:databases:…"
    for pattern, hint in _HINTS.items():
        if re.search(f"(OperationalError|ImproperlyConfigured): .*({pattern})", error.message, re.IGNORECASE):
            values = {"key": key, "site": site.at}
            values |= {
                word: _of_server(site, error.message) or text.format(**values) for word, text in _OF_OTHERS.items()
            }
            error.hint = _of_project(site, error.message) or hint.format(**values)
            error.transient = error.transient or "OperationalError" in error.message
            return


def _of_server(site: Site, message: str) -> str:
    """Return the hint for a database whose server the formula sets up, with its login; empty for another one.

    A password of the pillar's is no cure there: a login over the socket has none, and others are generated.
    """
    user = _USER.search(message)
    servers = [one for one in site.config["databases"].values() if one["engine"] in SERVERS]
    used = [one for one in servers if user and user[1] in login_pair(one["user"])] or servers
    elsewhere = sorted({one["served_by"] for one in used if one.get("served_by")})
    if elsewhere:
        return f"apply on {', '.join(elsewhere)}, which sets up the database and the login for this host, then here"
    is_own = used and all(one["manage"] for one in used)
    if is_own and not any(one["password"] for one in used) and re.search("password (authentication|supplied)", message):
        return _PEER
    return "apply, which sets up the database and its login on this host" if is_own else ""


def _of_project(site: Site, message: str) -> str:
    """Return the hint for a connection that has another user or host than the pillar's databases; empty for theirs."""
    user, host = _USER.search(message), _HOST.search(message)
    given = [one for one in site.config["databases"].values() if one["engine"] in SERVERS]
    users = {name for one in given for name in login_pair(one["user"])}
    hosts = {place for one in given for place in _hosts(one)}
    address = host[1].partition(":")[0] if host and host[1].count(":") == 1 else host and host[1]
    if not (user and user[1] not in users) and not (address and address not in hosts):
        return ""
    words = [f"user {user[1]}" if user else "", f"host {address}" if address else ""]
    at = site.at
    return (
        f"the project itself connects with {', '.join(filter(None, words))}, which no database of {at} has: change the "
        f"variables or settings that it takes them from, {at}:environment or {at}:settings; or the file that has them, "
        f"{at}:files; or create that user and database there"
    )


def _hosts(database: Mapping[str, Any]) -> list[str]:
    """Return the hosts that connections of one of the pillar's databases may be reported with."""
    host = str(database["host"] or "/")
    is_local = host.startswith("/") or host in _LOCAL or database.get("pool")
    return [host, *(_LOCAL if is_local else ()), *map(str, database["options"].values())]


def database_file(site: Site, release: Path, facts: Mapping[str, Any], database: Mapping[str, str]) -> Path | None:
    """Return the path of a SQLite database on the host, or None for other databases, and what only is read.

    A relative name is resolved in the project's folder; below the pillar's ``mount`` is the release's source.
    """
    if not engines.SQLITE.is_backend(database["engine"]):
        return None
    name = _name_of_uri(database["name"]) if database["name"].startswith("file:") else database["name"]
    if not name or name.startswith(":memory:"):
        return None
    source, mount = release / "source", site.config["mount"]
    path = Path(mount or source, facts["folder"], name)
    return source / path.relative_to(mount) if mount and path.is_relative_to(mount) else path


def _name_of_uri(uri: str) -> str:
    """Return the name of the file that SQLite opens by a URI; empty where it is in memory, or is only read."""
    parts = urlsplit(uri)
    return "" if _NO_FILE & {*parts.query.split("&")} else unquote(parts.path)


def pending_migrations(site: Site, release: Path, facts: Mapping[str, Any], alias: str, is_new: bool) -> list[str]:
    """Return the migrations that are missing in a release's database.

    Args:
        is_new: use what the release's start has reported; otherwise read the SQLite file, if it is one.
    """
    recorded: dict[str, list[str]] = facts["migrations"][alias]
    path = database_file(site, release, facts, facts["databases"][alias])
    if is_new or not path:
        return recorded["pending"] if is_new else []
    return sorted(set(recorded["applied"]) - sqlite.applied(site, path))


# The schema of a site's databases next to what each release requires, by migrations

#: The record of a release (``release.json``).
Record = Mapping[str, Any]
#: What identifies a database of a release: alias, engine, name, host and port.
Database = tuple[str, ...]


def applied_migrations(site: Site, records: Sequence[Record]) -> dict[Database, set[str]]:
    """Return the applied migrations of each database: read from a SQLite file, otherwise as recorded by its releases.

    Args:
        records: records of all releases on disk, the oldest first.
    """
    found: dict[Database, set[str]] = {}
    files: dict[Database, Path] = {}
    for record in records:
        for alias, names in _migrations(record).items():
            database = _database(record, alias)
            found.setdefault(database, set()).update(names["applied"])
            settings = record["facts"].get("databases", {}).get(alias)
            release = site.releases / record["name"]
            path = settings and database_file(site, release, record["facts"], settings)
            if path:
                files[database] = path
    for database, path in files.items():
        found[database] = sqlite.applied(site, path) or found[database]
    return found


def schema_status(record: Record, records: Sequence[Record], present: Mapping[Database, set[str]]) -> str:
    """Return how the databases differ from what a release requires: additional and missing migrations, or ``fits``.

    Args:
        records: records of all releases on disk, the oldest first.
        present: the applied migrations of each database.
    """
    migrations = _migrations(record)
    if not migrations:
        return ""
    by_alias = {alias: present[_database(record, alias)] for alias in migrations}
    newer = [name for alias in migrations for name in sorted(by_alias[alias] & _only_later(record, records, alias))]
    missing = [name for alias in migrations for name in sorted(_known(record, alias) - by_alias[alias])]
    classes = _classes(records)
    unsafe = [f"{name}: {classes[name]}" for name in newer if classes.get(name, "safe") != "safe"]
    is_safe = all(classes.get(name) == "safe" for name in newer)
    parts = [] if missing or not is_safe else ["fits"]
    if newer:
        remark = "all safe" if is_safe else ", ".join(unsafe)
        parts.append(f"database has {_number(newer)} more{f' ({remark})' if remark else ''}")
    if missing:
        parts.append(f"missing in the database: {_number(missing)}")
    return "; ".join(parts)


def _database(record: Record, alias: str) -> Database:
    """Return what identifies the database of a release; after a change of engine an alias names another one."""
    database = record["facts"].get("databases", {}).get(alias, {})
    return (alias, *(str(database.get(key, "")) for key in ("engine", "name", "host", "port")))


def _number(names: list[str]) -> str:
    return f"{len(names)} migration{'s' if len(names) > 1 else ''}"


def _migrations(record: Record) -> Mapping[str, Mapping[str, list[str]]]:
    migrations: Mapping[str, Mapping[str, list[str]]] = record.get("facts", {}).get("migrations", {})
    return migrations


def _known(record: Record, alias: str) -> set[str]:
    """Return the migrations in the source of a release."""
    names = _migrations(record).get(alias, {})
    return {*names.get("applied", []), *names.get("pending", [])}


def _only_later(record: Record, records: Sequence[Record], alias: str) -> set[str]:
    """Return the migrations that only later releases have; one that an older release had was squashed since."""
    names = [one["name"] for one in records]
    position = names.index(record["name"])
    later = {name for one in records[position + 1 :] for name in _known(one, alias)}
    return later - {name for one in records[: position + 1] for name in _known(one, alias)}


def _classes(records: Sequence[Record]) -> dict[str, str]:
    """Return the class of each migration whose operations have been classified."""
    schemas = [migrations for record in records for migrations in record.get("schema", {}).values()]
    return {migration["name"]: migration["class"] for migrations in schemas for migration in migrations}
