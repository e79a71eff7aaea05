"""Compare the schema of a site's databases with what each release requires, by migrations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.database import databases, sqlite
from django_formula.site.sites import Site

#: The record of a release (``release.json``).
Record = Mapping[str, Any]
#: What identifies a database of a release: alias, engine, name, host and port.
Database = tuple[str, ...]


def applied(site: Site, records: Sequence[Record]) -> dict[Database, set[str]]:
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
            path = settings and databases.database_file(site, release, record["facts"], settings)
            if path:
                files[database] = path
    for database, path in files.items():
        found[database] = sqlite.applied(site, path) or found[database]
    return found


def status(record: Record, records: Sequence[Record], present: Mapping[Database, set[str]]) -> str:
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
