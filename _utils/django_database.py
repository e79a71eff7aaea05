"""The databases of a site: as the pillar gives them to the project, and as the host sees them."""

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import django_database_sqlite
import django_host_file
from django_host_command import DeploymentError
from django_site import Site

#: Engines that are servers, and what Django calls them where the project has no backend of that kind.
BACKENDS = {"postgres": "django.db.backends.postgresql", "mysql": "django.db.backends.mysql"}
_USUAL_SOCKETS = [f"{run}/{place}" for run in ("/run", "/var/run") for place in ("postgresql", "mysqld/mysqld.sock")]
#: What a driver or a server says, and what to do about it; {at} is the database in the pillar.
_CAUSES = {
    "Error loading (psycopg|MySQLdb)": "the virtualenv lacks the database's driver: {site}:python_packages, such as "
    "'psycopg[binary]' or mysqlclient; or the host lacks its library: {site}:packages, such as libpq5 or libmariadb3",
    "password authentication failed|access denied for user|no password supplied": "correct {at}:user or {at}:password",
    "peer authentication failed": "has somebody changed the server's pg_hba.conf? Debian has: local all all peer",
    "no pg_hba.conf entry|is not allowed to connect": "let this host in at the server, or correct {at}:user",
    r"database \S+ does not exist|unknown database": "create it at the server, or correct {at}:name",
    r"could not translate host name|unknown (\w+ )?server host|failed to resolve host": "correct {at}:host",
    r"connection to server .*failed|can't connect to|connection timeout expired|server has gone away|too many c"
    "|the database system is": "does the server run, and can it be reached? {at}:host, {at}:port",
}


def secret_of(alias: str) -> str:
    """The name of the secret that is a database's password; no variable has such a name."""
    return f"database.{alias}"


def passwords(site: Site) -> dict[str, dict[str, Any]]:
    """The passwords that the pillar gives, and those that are generated, as secrets by their names."""
    said = {alias: database["password"] for alias, database in site.config["databases"].items()}
    return {
        secret_of(alias): password if "generate" in password else {"value": password}
        for alias, password in said.items()
        if password
    }


def login_of(alias: str) -> str:
    """The name of the file beside a database's password that says whose password it is."""
    return f"database.{alias}.user"


def pair(user: str) -> tuple[str, str]:
    """The two logins of a database: the one that the pillar names, and the one that stands in while it is renewed."""
    return user, f"{user[:61]}_2"


def login(site: Site, alias: str) -> str:
    """The login whose password the site has: as the pillar names it, or the other one of its pair."""
    database = site.config["databases"][alias]
    said: str = database["user"]
    if not database["password"]:
        return said
    kept = site.logins.get(alias) or django_host_file.read_text(site.secrets / login_of(alias))
    return kept if kept in pair(said) else said


def logins(site: Site) -> dict[str, str]:
    """The logins that have a password, by the names of their files."""
    databases = site.config["databases"].items()
    return {login_of(alias): login(site, alias) for alias, database in databases if database["password"]}


class Share(NamedTuple):
    """What a site has on a server of this host: a database, and the login that owns it.

    site: its name
    system_user: as whom its processes run
    alias: the database's name in Django
    at: where the pillar has it
    other: the other login of the pair
    password: None where the server knows the site by its system user
    live: whether a release of the site is live, which may use the login as it is
    alone: whether it has this password, so that no other one has to let it in
    socket: the folder or file of the server's unix socket; empty for the usual one
    """

    site: str
    system_user: str
    alias: str
    at: str
    database: str
    user: str
    other: str = ""
    password: str | None = None
    over_socket: bool = True
    socket: str = ""
    port: int | None = None
    live: bool = False
    alone: bool = False


class Lack(NamedTuple):
    """What a site lacks on a server: what it is, how it comes to be, by which statements or which texts of files."""

    what: str
    how: str
    statements: Sequence[str] = ()
    files: Mapping[str, str] = {}


def mark(site: str) -> str:
    """The comment by which a role or a database says whose it is."""
    return f"Django site {site}"


def in_use(share: Share) -> DeploymentError:
    """Why the way in of a login is not changed: a server knows one at a time, and the live release has that one."""
    return DeploymentError(
        f"the live release uses the login {share.user} as it is on the server, and the pillar says another way in",
        hint=f"say another login with it, such as {share.at}:user: {share.user}2, which is made beside the first; "
        "no visitor notices",
    )


def shares(
    site: Site, secrets: Mapping[str, str], *, live: bool = False, used: Collection[str] = ()
) -> dict[str, list[Share]]:
    """What a site has on the servers of this host that the formula sets up, by their engine.

    Args:
        secrets: values by their names; they hold the databases' passwords.
        used: the names of those that the live release was made with.
    """
    found: dict[str, list[Share]] = {}
    for alias, database in site.config["databases"].items():
        if database.get("manage"):
            host = database["host"] or ""
            socket = host if host.startswith("/") and host not in _USUAL_SOCKETS else ""
            user = login(site, alias)
            (other,) = {*pair(database["user"])} - {user}
            share = Share(
                site.name,
                site.user,
                alias,
                place(site, alias),
                database["name"],
                user,
                other,
                secrets.get(secret_of(alias)),
                not host or host.startswith("/"),
                socket,
                database["port"],
                live,
                secret_of(alias) in used,
            )
            found.setdefault(database["engine"], []).append(share)
    return found


def place(site: Site, alias: str) -> str:
    """Where the pillar has a database, for errors."""
    only = list(site.config["databases"]) == ["default"] == [alias]
    return f"django:sites:{site.name}:{'database' if only else f'databases:{alias}'}"


def engines(site: Site) -> list[str]:
    """The kinds of servers that the pillar's databases are on."""
    return sorted({database["engine"] for database in site.config["databases"].values()} & {*BACKENDS})


def are_local(site: Site) -> bool:
    """Whether the pillar says that every database is a file, or on a server of this host over its unix socket."""
    databases = site.config["databases"]
    return "default" in databases and all(
        one["engine"] == "sqlite" or (one["engine"] in BACKENDS and (one["host"] or "/").startswith("/"))
        for one in databases.values()
    )


def path_of(site: Site, alias: str) -> Path:
    """The file of one of the pillar's SQLite databases."""
    name = site.config["databases"].get(alias, {}).get("name")
    return site.database.top / (name or ("db.sqlite3" if alias == "default" else f"{alias}.sqlite3"))


def url(site: Site, alias: str, secrets: Mapping[str, str]) -> str:
    """A database in one line, as dj-database-url and django-environ read it."""
    database = site.config["databases"][alias]
    if database["engine"] == "sqlite":
        return f"sqlite:///{path_of(site, alias)}"
    who = quote(login(site, alias), safe="")
    password = secrets.get(secret_of(alias))
    if password:
        who += f":{quote(password, safe='')}"
    host = database["host"] or ""
    host = f"[{host}]" if ":" in host else quote(host, safe="")
    port = f":{database['port']}" if database["port"] else ""
    options = {
        name: str(value).lower() if isinstance(value, bool) else value for name, value in database["options"].items()
    }
    query = f"?{urlencode(options, quote_via=quote, errors='surrogatepass')}" if options else ""
    return f"{database['engine']}://{who}@{host}{port}/{quote(database['name'], safe='')}{query}"


def known(site: Site, secrets: Mapping[str, str]) -> dict[str, str]:
    """What the environment may take of the default database, by the word after ``from``."""
    database = site.config["databases"].get("default", {"engine": None})
    if not database["engine"]:
        return {}
    words = {f"database_{key}": str(database[key]) for key in ("name", "host", "port") if database[key]}
    if database["user"]:
        words["database_user"] = login(site, "default")
    if database["engine"] == "sqlite":
        words |= dict.fromkeys(("database_path", "database_name"), str(path_of(site, "default")))
    if secret_of("default") in secrets:
        words["database_password"] = secrets[secret_of("default")]
    return {**words, "database_url": url(site, "default", secrets)}


def is_secret(site: Site, word: str) -> bool:
    """Whether what the environment takes of the default database is a password, or changes along with it."""
    database = site.config["databases"].get("default", {})
    words = {"database_url", "database_password", *(["database_user"] if database.get("password") else [])}
    return database.get("engine") in BACKENDS and word in words


def variables(site: Site, secrets: Mapping[str, str], *, secret: bool) -> dict[str, str]:
    """The URLs that databases are given by: those to a server are secret, those of files are not."""
    return {
        database["variable"]: url(site, alias, secrets)
        for alias, database in site.config["databases"].items()
        if database["as"] == "environment" and (database["engine"] in BACKENDS) == secret
    }


def laid_over(site: Site) -> dict[str, dict[str, Any]]:
    """The databases as the overlay reads them; a password and its login by the paths of their files."""
    data = {}
    for alias, database in site.config["databases"].items():
        if database["as"] == "settings" and database["engine"] == "sqlite":
            name = str(path_of(site, alias)) if database["name"] else None
            data[alias] = {"engine": None, "name": name}
        elif database["as"] == "settings":
            names = {"password_file": secret_of(alias), "user_file": login_of(alias)}
            data[alias] = {
                "engine": BACKENDS[database["engine"]],
                **{key: str(site.secrets / name) if database["password"] else None for key, name in names.items()},
                **{key: database[key] or "" for key in ("name", "user", "host", "port")},
            }
        if alias in data:
            data[alias] |= {"options": database["options"], "settings": database["settings"]}
    return data


def judge(site: Site, effective: Mapping[str, Mapping[str, str]]) -> None:
    """Whether the project uses the servers that the pillar gives it.

    Args:
        effective: engine and name of each database in the project's settings.

    Raises:
        DeploymentError: it uses another one, and would write its data there.
    """
    for alias, database in site.config["databases"].items():
        found = effective.get(alias, {"engine": "nothing", "name": ""})
        words = {"postgres": "postg", "mysql": "mysql"}.get(database["engine"], "")
        if words and not (words in found["engine"] and found["name"] == database["name"]):
            raise DeploymentError(
                f"the project does not use the database {alias!r} of the pillar: it has {found['name'] or 'none'} "
                f"({found['engine']})",
                hint=f"let it read {database['variable']}, or have it laid over: {place(site, alias)}:as: settings"
                if database["variable"]
                else f"leave DATABASES to the overlay, or take {place(site, alias)} out",
            )


def explain(site: Site, error: DeploymentError) -> None:
    """Say what to do about an error that a driver or a server of databases has raised.

    Where the cause lies at the server, trying again may help without a change here.
    """
    at = place(site, "default") if len(site.config["databases"]) == 1 else f"django:sites:{site.name}:databases:…"
    for pattern, advice in _CAUSES.items():
        if re.search(f"(OperationalError|ImproperlyConfigured): .*({pattern})", error.message, re.IGNORECASE):
            error.hint = advice.format(at=at, site=f"django:sites:{site.name}")
            error.transient = error.transient or "OperationalError" in error.message
            return


def file_of(site: Site, release: Path, facts: Mapping[str, Any], database: Mapping[str, str]) -> Path | None:
    """The SQLite file of a database as the host sees it; None for other databases.

    A relative name begins where the project runs, and below the pillar's ``mount`` lies the release's source.
    """
    if "sqlite" not in database["engine"] and "spatialite" not in database["engine"]:
        return None
    if database["name"].startswith((":memory:", "file:")):
        return None
    source, mount = release / "source", site.config["mount"]
    path = Path(mount or source, facts["folder"], database["name"])
    return source / path.relative_to(mount) if mount and path.is_relative_to(mount) else path


def pending(site: Site, release: Path, facts: Mapping[str, Any], alias: str, is_new: bool) -> list[str]:
    """The migrations that a release's database lacks: as its start has seen, or for the live one as SQLite says."""
    known: dict[str, list[str]] = facts["migrations"][alias]
    path = file_of(site, release, facts, facts["databases"][alias])
    if is_new or not path:
        return known["pending"] if is_new else []
    return sorted(set(known["applied"]) - django_database_sqlite.applied(site, path))
