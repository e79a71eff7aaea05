"""Load the dumps of a backup next to the present databases, and check them there."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.backup import backups, dumps, store
from django_formula.backup.backups import dumper
from django_formula.backup.dumps import Database
from django_formula.database import setup
from django_formula.database.engines import SQLITE, start_of_copies
from django_formula.host.commands import DeploymentError
from django_formula.project import ask
from django_formula.release.releases import Release
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log

log = Log.of(__name__)

Manifest = dict[str, Any]


def rehearse(
    release: Release, chosen: list[Manifest], folder: Path, secrets: list[str], port: int | None = None
) -> dict[str, Any]:
    """Load dumps next to the databases, check them against their manifests and a release, and remove them again.

    The caller holds the lock of the folder.

    Args:
        chosen: the manifests of the dumps.
        folder: the one that they are in.
        port: that of a server on this host in which they are loaded; by default the databases' own.

    Returns:
        The number of ``rows`` of each database, and its ``migrations to apply``.

    Raises:
        DeploymentError: the dumps are not what their manifests say.
    """
    site = release.site
    chosen, databases = of_backup(release, chosen, secrets)
    backups.remove_leftovers(site, databases, folder)
    if port:
        databases = [one._replace(connection={**one.connection, "port": port}) for one in databases]
    names = names_with(databases, f"drill_{stamp()}")
    with loaded(chosen, databases, names, folder=folder) as found:
        missing = missing_migrations(release, databases, names, False, secrets, port)
    lost = _lost_migrations(chosen, missing)
    if lost:
        raise DeploymentError(
            f"migrations that the backup had when it was made are missing in it: {', '.join(lost)}",
            hint=f"make a new one: salt-call django.backup {site.name}",
        )
    return {
        "rows": {alias: sum(one["rows"].values()) for alias, one in found.items()},
        "migrations to apply": {alias: names for alias, names in missing.items() if names},
    }


def loadable(site: Site, chosen: list[Manifest]) -> list[Manifest]:
    """Return the manifests of the dumps that can be loaded on this host: a queue only where the site has one."""
    has_queue = bool(store.own_queues(site))
    return [one for one in chosen if one["engine"] != backups.QUEUE or has_queue]


def of_backup(release: Release, chosen: list[Manifest], secrets: list[str]) -> tuple[list[Manifest], list[Database]]:
    """Return the manifests of a backup, and the present databases that they are of: each once, in its order."""
    site = release.site
    aliases = [one["alias"] for one in chosen if one["engine"] not in backups.ON_REQUEST]
    present = [alias for alias in aliases if alias in release.facts["databases"]]
    found = {one.alias: one for one in dumps.databases(release, present, secrets)}
    missing = [alias for alias in aliases if alias not in found]
    if missing:
        raise DeploymentError(
            f"{release.name} has no database {missing[0]!r}, which is in the backup",
            hint="restore a single dump of the backup by its name",
        )
    uploads = [one["alias"] for one in chosen if one["engine"] == "media"]
    found |= {alias: Database(site, alias, "media", str(site.media)) for alias in uploads}
    if any(one["engine"] == "redis" for one in chosen):
        found |= {one.alias: one for one in _queue(site)}
    for one in chosen:
        if found[one["alias"]].kind != one["engine"]:
            raise DeploymentError(
                f"the backup {one['name']} is a dump of {one['engine']}, and the database {one['alias']!r} is now "
                f"{found[one['alias']].kind}",
                hint="restore it while the pillar names the old one, and move its data then (docs/guides/databases.md)",
            )
    distinct = dumps.distinct([found[one["alias"]] for one in chosen])
    aliases = [one.alias for one in distinct]
    return [one for one in chosen if one["alias"] in aliases], distinct


def _queue(site: Site) -> list[Database]:
    """Return the queue of a site.

    Raises:
        DeploymentError: it has none of its own now.
    """
    found = store.own_queues(site)
    if not found:
        raise DeploymentError(
            f"{site.name} has no queue of its own on this host",
            hint=f"restore without queue=True, or set {site.at}:queue, and apply",
        )
    return found


def stamp() -> str:
    """Return the present moment, as names of copies end with it."""
    return time.strftime("%Y%m%dt%H%M%S", time.gmtime())


def names_with(databases: list[Database], suffix: str) -> dict[str, str]:
    """Return names for copies of databases: not too long for servers; for files, paths in the same folder."""
    return {
        one.alias: f"{one.name}.{suffix}" if dumper(one.kind).is_path else f"{start_of_copies(one.name)}_{suffix}"
        for one in databases
    }


@contextlib.contextmanager
def loaded(
    chosen: list[Manifest],
    databases: list[Database],
    names: dict[str, str],
    kept: Mapping[str, str] | None = None,
    *,
    folder: Path,
) -> Iterator[dict[str, dict[str, Any]]]:
    """Load the databases of a backup under other names and check them; what is left of them after the block is removed.

    Raises:
        DeploymentError: there is not enough room, a dump is damaged, or the loaded rows are not those in its manifest.
    """
    found = {}
    for manifest in chosen:
        backups.verify(databases[0].site, manifest, folder)
    is_complete = True
    backups.write_journal(folder, databases, names, kept or {})
    try:
        for manifest, database in zip(chosen, databases, strict=True):
            found[database.alias] = _load(manifest, database, names[database.alias], folder)
        yield found
    finally:
        for database in databases:
            try:
                dumper(database.kind).drop(database, names[database.alias])
            except DeploymentError as error:
                is_complete = False
                log.warning("%s: %s was not removed: %s", database.site.name, names[database.alias], error)
        if is_complete:
            backups.journal(folder).unlink(missing_ok=True)


def _prepare(database: Database, name: str) -> bool:
    """Create the extensions of a database in its copy."""
    return setup.prepare_copy(database.site, database.alias, name, database.connection.get("port"))


def _load(manifest: Manifest, database: Database, name: str, folder: Path) -> dict[str, Any]:
    log.info("%s: loading %s", database.site.name, manifest["name"])
    _check_room(manifest, database)
    descriptor = os.open(folder / manifest["name"], os.O_RDONLY | os.O_NOFOLLOW)
    try:
        found = dumper(database.kind).load(database, name, descriptor, _prepare)
    except dumps.Damaged as error:
        raise DeploymentError(
            f"the backup {manifest['name']} is damaged: {error.message}",
            log=error.log,
            hint=f"use another one: salt-call django.backups {database.site.name} lists them",
        ) from None
    finally:
        os.close(descriptor)
    different = dumps.differences(manifest["rows"], found["rows"])
    if different:
        table, (expected, rows) = next(iter(different.items()))
        raise DeploymentError(
            f"the backup {manifest['name']} is incomplete: {table} has {rows} rows, expected {expected}",
            hint=f"use another one: salt-call django.backups {database.site.name} lists them",
        )
    return found


def _check_room(manifest: Manifest, database: Database) -> None:
    """Refuse a dump for which the disk has not enough room; a database server reports that while loading."""
    if not dumper(database.kind).is_path:
        return
    site, folder = database.site, Path(database.name).parent
    is_projects = database.kind == SQLITE.name
    left = dumps.free_as_site(site, folder)[1] if is_projects else dumps.free(folder)
    if manifest["size"] > left:
        raise DeploymentError(
            f"restoring needs {manifest['size'] >> 20} MB in {folder}, and {left >> 20} are free",
            hint="make room there; nothing was changed",
            transient=True,
        )


def missing_migrations(
    release: Release,
    databases: list[Database],
    names: dict[str, str],
    migrate: bool,
    secrets: list[str],
    port: int | None = None,
) -> dict[str, list[str]]:
    """Return the migrations of a release that are missing in loaded databases, by alias."""
    own = [one for one in databases if one.kind not in backups.ON_REQUEST]
    loaded = {one.alias: _path_in_project(release, names[one.alias]) for one in own}
    request = {"mode": "fit", "names": loaded, "migrate": migrate, **({"port": port} if port else {})}
    found: dict[str, list[str]] = (
        ask.backup(release.site, release.path, release.facts, request, secrets) if loaded else {}
    )
    return found


def _path_in_project(release: Release, name: str) -> str:
    """Return the name of a database as the project opens it, with the pillar's ``mount`` for the release's source."""
    mount, source = release.site.config["mount"], release.path / "source"
    return f"{mount}/{Path(name).relative_to(source)}" if mount and Path(name).is_relative_to(source) else name


def _lost_migrations(chosen: list[Manifest], missing: dict[str, list[str]]) -> list[str]:
    """Return the migrations that are missing in a loaded database, although its manifest has them."""
    had = {one["alias"]: set(one["migrations"]) for one in chosen}
    return sorted(name for alias, names in missing.items() for name in names if name in had[alias])
