"""Contradictions about databases and environment variables: within a site, and between the sites of a host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django_formula.database.engines import POSTGRES, SERVERS
from django_formula.pillar.check import Path, Problem
from django_formula.pillar.layers import is_over_socket

Site = dict[str, Any]  # the configuration of a site
Database = dict[str, Any]

LOCAL = ("localhost", "127.0.0.1", "::1")  # hosts of a server on this host
RESERVED_DATABASES = ("postgres", "template0", "template1", "mysql", "sys", "information_schema", "performance_schema")
RESERVED_LOGINS = ("postgres", "root", "mysql", "mariadb.sys", "public", "none")
LONGEST_NAME = 63  # characters of a name on PostgreSQL
ARGUMENT = 128 * 1024  # bytes of one NAME=value, with its closing NUL, that Linux accepts when a process starts


def databases(site: Site, own: Site) -> Iterator[Problem]:
    """Yield what contradicts itself in one database."""
    for alias, database in site["databases"].items():
        place = ("databases", alias) if "databases" in own or alias != "default" else ("database",)
        in_url = alias == "default" and {"from": "database_url", "join": ","} in site["environment"].values()
        for key, text in _contradictions(database, in_url or database["as"] == "environment"):
            yield (*place, key), text
        for key, text in _managed(database, site["user"]) if database["manage"] else ():
            yield (*place, key), text


def _contradictions(database: Database, in_url: bool) -> Iterator[tuple[str, str]]:
    """Yield contradictions by key; ``in_url`` is whether the project gets the database as a URL."""
    engine = database["engine"]
    if not engine:
        return
    if engine in SERVERS and not database["name"]:
        yield "name", "missing: expected the name of the database on its server"
    elif engine in SERVERS and database["name"].startswith("/"):
        yield "name", "expected the name of the database on its server, got a path"
    others = [name for name in database.get("extensions", []) if name != "postgis"]
    if engine == "postgres" and others and not database["manage"] and "served_by" not in database:
        text = f"a superuser of that server creates {', '.join(others)}: remove it here, only postgis has an effect"
        yield "extensions", text
    for name, value in database["options"].items() if in_url else ():
        if engine == "sqlite" or not isinstance(value, str | int | float):
            yield "options", f"a URL cannot hold {name}: set as: settings instead"


def _managed(database: Database, user: str) -> Iterator[tuple[str, str]]:
    """Yield what the formula cannot set up on a server of this host; ``user`` is the site's."""
    if database["engine"] not in SERVERS:
        return
    if not is_over_socket(database) and database["host"] not in LOCAL:
        yield "manage", f"expected a server on this host, got {database['host']}: remove manage, or host"
    yield from reserved(database)
    has_login = database["engine"] == "postgres" or database["password"] or not is_over_socket(database)
    if database["user"] != user and not has_login:
        text = f"over its unix socket MariaDB identifies a login by the site's user, {user}: remove it, or set password"
        yield "user", text


def reserved(database: Database) -> Iterator[tuple[str, str]]:
    """Yield names that a server has for itself, or that are too long for it."""
    for key, names in (("name", RESERVED_DATABASES), ("user", RESERVED_LOGINS)):
        name = database[key] or ""
        if name.lower() in names or name.startswith("pg_"):
            yield key, f"{name} is reserved by the server: choose another name"
        elif len(name) > LONGEST_NAME:
            yield key, f"expected at most {LONGEST_NAME} characters, got {len(name)}"


def logins(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield databases on a server of this host that share a login, whose password would be generated for each."""
    owners: dict[tuple[Any, ...], str] = {}
    entries = site["databases"]
    for alias, database in entries.items():
        if database["manage"] and database["password"]:
            first = owners.setdefault((*_server(database), database["user"]), alias)
            if first != alias and "generate" in {*database["password"], *entries[first]["password"]}:
                text = f"{database['user']} is the login of {first} too, and a login has one password: "
                yield ("databases", alias, "user"), f"{text}set another user, or the same password for both"


def _server(database: Database) -> tuple[Any, ...]:
    """Return what identifies a server of this host; MariaDB has one."""
    return database["engine"], database["engine"] == "postgres" and (database["port"] or POSTGRES.port)


def between(sites: dict[str, Site]) -> Iterator[Problem]:
    """Yield databases and logins of this host's servers that several sites have."""
    owners: dict[tuple[Any, ...], str] = {}
    for name, site in sites.items():
        for alias, database in site["databases"].items():
            for key in ("name", "user") if database["manage"] else ():
                owner = owners.setdefault((*_server(database), key, database[key]), name)
                if owner != name:
                    place = ("database",) if list(site["databases"]) == ["default"] else ("databases", alias)
                    what = "the database" if key == "name" else "the login"
                    text = f"{database[key]} is {what} of site {owner} on this host's server: choose another name"
                    yield ("django", "sites", name, *place, key), text


# Environment variables


def environment(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield variables that take a value which does not exist."""
    database = site["databases"].get("default", {})
    for name, value in site["environment"].items():
        if not isinstance(value, dict):
            continue
        source = value.get("from", "")
        key = source.removeprefix("database_") if source.startswith("database_") else ""
        if key and not database.get("engine"):
            yield ("environment", name), f"{source} is not known: set database:engine"
        elif key and not _has(database, key):
            yield ("environment", name), f"{source} is not known: the database has no {key}"


def _has(database: Database, key: str) -> bool:
    """Return whether a database has the value that `environment` takes from it."""
    if key == "path":
        return bool(database["engine"] == "sqlite")
    if key == "port":
        return database["engine"] in SERVERS
    return key in ("url", "name") or bool(database[key])


def variables(site: Site, _own: Site) -> Iterator[Problem]:
    """Yield variables that two options set."""
    setters = {**dict.fromkeys(site["environment"], "environment"), **_database_variables(site)}
    for name, value in site["environment"].items():
        is_url = isinstance(value, dict) and value.get("from") == "database_url"
        if setters[name] != "environment" and not (is_url and setters[name] == "the database default"):
            yield ("environment", name), f"{setters[name]} sets {name} already: remove one of them"
    for name, entry in site["secrets"].items():
        variable = entry["variable"]
        if variable in setters:
            yield ("secrets", name), f"{setters[variable]} sets {variable} already: remove one of them"
        setters[variable] = "secrets"


def _database_variables(site: Site) -> dict[str, str]:
    """Return the variables that hold databases as a URL, each with what sets it."""
    entries = site["databases"].items()
    return {entry["variable"]: f"the database {alias}" for alias, entry in entries if entry["as"] == "environment"}


def oversized(layer: dict[str, Any], path: Path) -> Iterator[Problem]:
    """Yield variables that are too large for a process to start with."""
    for key in ("environment", "secrets"):
        for name, value in (layer.get(key) or {}).items():
            text = value.get("value") if isinstance(value, dict) else value
            size = len(f"{name}={text}".encode("utf-8", "surrogatepass")) + 1
            if size > ARGUMENT:
                yield (*path, key, name), f"expected at most {ARGUMENT} bytes with its name, got {size}"
