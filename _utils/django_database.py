"""The databases of a site as the host sees them: where a SQLite file lies, and which migrations it has."""

import contextlib
import os
import sqlite3
from pathlib import Path

import django_site
from django_release import Release
from django_site import Site


def file_of(release: Release, database: dict[str, str]) -> Path | None:
    """The SQLite file of a database as the host sees it; None for other databases.

    A relative name begins where the project runs, and below the pillar's ``mount`` lies the release's source.
    """
    if "sqlite" not in database["engine"] and "spatialite" not in database["engine"]:
        return None
    if database["name"].startswith((":memory:", "file:")):
        return None
    source, mount = release.path / "source", release.site.config["mount"]
    path = Path(mount or source, release.facts["folder"], database["name"])
    return source / path.relative_to(mount) if mount and path.is_relative_to(mount) else path


def pending(release: Release, alias: str, is_new: bool) -> list[str]:
    """The migrations that a release's database lacks: as its start has seen, or for the live one as SQLite says."""
    known: dict[str, list[str]] = release.facts["migrations"][alias]
    path = file_of(release, release.facts["databases"][alias])
    if is_new or not path:
        return known["pending"] if is_new else []
    return sorted(set(known["applied"]) - applied(release.site, path))


def applied(site: Site, path: Path) -> set[str]:
    """The rows of django_migrations in a SQLite file of the site's user."""
    try:
        status = os.lstat(path)
        if status.st_uid != django_site.user_id(site.user) or path.is_symlink():
            return set()
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as connection:
            return {f"{app}.{name}" for app, name in connection.execute("SELECT app, name FROM django_migrations")}
    except (FileNotFoundError, sqlite3.DatabaseError):
        return set()
