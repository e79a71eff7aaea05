"""The schema of a site's databases against its releases, by the migrations that these have recorded."""

from collections.abc import Mapping, Sequence
from typing import Any

import django_database
from django_site import Site

#: What a release has recorded (``release.json``).
Record = Mapping[str, Any]


def applied(site: Site, records: Sequence[Record]) -> dict[str, set[str]]:
    """The migrations that each database has: as a SQLite file says it now, else as the releases have recorded it.

    Args:
        records: of all releases on disk, the oldest first.
    """
    found: dict[str, set[str]] = {}
    for record in records:
        for alias, names in _migrations(record).items():
            found.setdefault(alias, set()).update(names["applied"])
    for record in records:
        for alias, database in record.get("facts", {}).get("databases", {}).items():
            path = django_database.file_of(site, site.releases / record["name"], record["facts"], database)
            if path and alias in found:
                found[alias] = django_database.applied(site, path) or found[alias]
    return found


def fit(record: Record, records: Sequence[Record], has: Mapping[str, set[str]]) -> str:
    """Whether the databases still fit a release: what they have that only later releases know, and what they lack.

    Args:
        records: of all releases on disk, the oldest first.
        has: the migrations that each database has.
    """
    migrations = _migrations(record)
    if not migrations:
        return ""
    newer = [name for alias in migrations for name in sorted(has[alias] & _only_later(record, records, alias))]
    lacking = [name for alias in migrations for name in sorted(_known(record, alias) - has[alias])]
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
