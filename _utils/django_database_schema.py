"""The schema of a site's databases against its releases, by the migrations that these have recorded."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import django_database
import django_database_sqlite
from django_site import Site

#: What a release has recorded (``release.json``).
Record = Mapping[str, Any]
#: A database of a release: alias, engine, name, host and port.
Used = tuple[str, ...]


def applied(site: Site, records: Sequence[Record]) -> dict[Used, set[str]]:
    """Return the migrations of each database: as a SQLite file has them now, else as its releases have recorded them.

    Args:
        records: of all releases on disk, the oldest first.
    """
    found: dict[Used, set[str]] = {}
    files: dict[Used, Path] = {}
    for record in records:
        for alias, names in _migrations(record).items():
            used = _used(record, alias)
            found.setdefault(used, set()).update(names["applied"])
            database = record["facts"].get("databases", {}).get(alias)
            path = database and django_database.file_of(site, site.releases / record["name"], record["facts"], database)
            if path:
                files[used] = path
    for used, path in files.items():
        found[used] = django_database_sqlite.applied(site, path) or found[used]
    return found


def fit(record: Record, records: Sequence[Record], has: Mapping[Used, set[str]]) -> str:
    """Return whether its databases still fit a release: which migrations only later ones know, and which are missing.

    Args:
        records: of all releases on disk, the oldest first.
        has: the migrations that each database has.
    """
    migrations = _migrations(record)
    if not migrations:
        return ""
    of = {alias: has[_used(record, alias)] for alias in migrations}
    newer = [name for alias in migrations for name in sorted(of[alias] & _only_later(record, records, alias))]
    lacking = [name for alias in migrations for name in sorted(_known(record, alias) - of[alias])]
    classes = _classes(records)
    unsafe = [f"{name}: {classes[name]}" for name in newer if classes.get(name, "safe") != "safe"]
    is_safe = all(classes.get(name) == "safe" for name in newer)
    said = [] if lacking or not is_safe else ["fits"]
    if newer:
        remark = "all safe" if is_safe else ", ".join(unsafe)
        said.append(f"database has {_number(newer)} more{f' ({remark})' if remark else ''}")
    if lacking:
        said.append(f"database lacks {_number(lacking)}")
    return "; ".join(said)


def _used(record: Record, alias: str) -> Used:
    """Which database a release has under an alias: after a change of engine another one than those before it."""
    database = record["facts"].get("databases", {}).get(alias, {})
    return (alias, *(str(database.get(key, "")) for key in ("engine", "name", "host", "port")))


def _number(names: list[str]) -> str:
    return f"{len(names)} migration{'s' if len(names) > 1 else ''}"


def _migrations(record: Record) -> Mapping[str, Mapping[str, list[str]]]:
    migrations: Mapping[str, Mapping[str, list[str]]] = record.get("facts", {}).get("migrations", {})
    return migrations


def _known(record: Record, alias: str) -> set[str]:
    """The migrations that are in the source of a release."""
    names = _migrations(record).get(alias, {})
    return {*names.get("applied", []), *names.get("pending", [])}


def _only_later(record: Record, records: Sequence[Record], alias: str) -> set[str]:
    """The migrations that came after a release; what an older one has had was squashed, and is no news."""
    names = [one["name"] for one in records]
    position = names.index(record["name"])
    later = {name for one in records[position + 1 :] for name in _known(one, alias)}
    return later - {name for one in records[: position + 1] for name in _known(one, alias)}


def _classes(records: Sequence[Record]) -> dict[str, str]:
    """The class of each migration whose operations were looked at: ``safe``, or why it is not."""
    listed = [said for record in records for of_one in record.get("schema", {}).values() for said in of_one]
    return {said["name"]: said["class"] for said in listed}
