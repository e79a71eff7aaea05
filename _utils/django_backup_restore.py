"""Restoring a backup: loaded beside, looked through, then exchanged for what is there, which is kept; and the drill."""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import django_backup
import django_backup_dump
import django_host_clock
import django_host_file
import django_project_program
import django_proxy_maintenance
import django_release_instance
from django_backup import ENGINES
from django_backup_dump import Database
from django_host_command import DeploymentError
from django_release import Release
from django_site import Site

log = logging.getLogger(__name__)

Manifest = dict[str, Any]


def restore(
    site: Site,
    live: Release,
    which: str | None,
    *,
    media: bool = False,
    migrate: bool = False,
    to: Release | None = None,
    serve: Callable[[], None] | None = None,
    secrets: list[str],
) -> dict[str, Any]:
    """Put the databases of a backup in the place of those of a site; the caller holds the site's lock.

    Until everything is loaded and looked through, the site serves; then visitors get the maintenance page. What was
    there is kept under a name that the answer tells: it has what was written since the backup.

    Args:
        which: as `django_backup.chosen`.
        media: the uploads of the backup too.
        migrate: bring the restored databases to what the release needs.
        to: the release that serves afterwards, if it is not the live one; `serve` brings it up.

    Raises:
        DeploymentError: the backup is damaged or does not fit, or a server says no; what was there stays then.
    """
    chosen = [one for one in django_backup.chosen(site, which) if media or one["engine"] != "media"]
    _refuse_nothing(site, chosen, media)
    with django_backup.lock(site, "django.restore").held():
        databases = _databases(live, chosen, secrets)
        django_backup.clear(site, databases)
        for one in databases:
            ENGINES[one.kind].refuse(one)
        stamp = _stamp()
        names, kept = _names(databases, f"restore_{stamp}"), _names(databases, f"before_{stamp}")
        with _loaded(chosen, databases, names, kept) as found:
            _refuse_another_schema(to or live, databases, names, migrate, secrets)
            _exchange(site, live, databases, names, kept, serve)
        for manifest in chosen:
            django_backup.mark(site, manifest)
        before = {one.alias: _rows(one._replace(name=kept[one.alias])) for one in databases}
    return {
        "restored": {one["alias"]: f"{one['name']}, taken {one['taken']}" for one in chosen},
        "kept": kept,
        "rows": {alias: _told_rows(before[alias], one["rows"]) for alias, one in found.items()},
        "note": f"what was written since the backup is only in what is kept: {', '.join(kept.values())}",
    }


def drill(site: Site, release: Release, secrets: list[str]) -> dict[str, Any]:
    """Load the newest backup beside the databases, look it through, and see whether the live release fits it.

    The result is written down, whatever it is, and what was loaded is removed.

    Raises:
        DeploymentError: the backup is not good.
    """
    began = time.monotonic()
    about: dict[str, Any] = {"date": django_host_clock.now(), "result": "failed:"}
    try:
        with django_backup.lock(site, "django.restore_drill").held():
            chosen = django_backup.chosen(site, None)
            about["backup"] = chosen[0]["backup"]
            databases = _databases(release, chosen, secrets)
            django_backup.clear(site, databases)
            names = _names(databases, f"drill_{_stamp()}")
            with _loaded(chosen, databases, names) as found:
                lacking = _fit(release, databases, names, False, secrets)
            unknown = _unknown(release, chosen, lacking)
            if unknown:
                raise DeploymentError(
                    f"the backup lacks migrations that it had when it was made: {', '.join(unknown)}",
                    hint=f"make another one: salt-call django.backup {site.name}",
                )
            for manifest in chosen:
                django_backup.mark(site, manifest)
            about |= {
                "result": "good",
                "rows": {alias: sum(one["rows"].values()) for alias, one in found.items()},
                "migrations to apply": {alias: names for alias, names in lacking.items() if names},
            }
    except DeploymentError as error:
        about["result"] = f"failed: {error.message}"
        raise
    finally:
        about["seconds"] = round(time.monotonic() - began, 1)
        django_host_file.write_json(site.backups / "drill.json", about, mode=0o600)
    return about


def _refuse_nothing(site: Site, chosen: list[Manifest], media: bool) -> None:
    if not chosen:
        raise DeploymentError(
            "this backup has uploads only", hint=f"salt-call django.restore {site.name} … media=True restores them"
        )
    if media and all(one["engine"] != "media" for one in chosen):
        raise DeploymentError(
            "this backup has no uploads", hint=f"backup: {{media: true}} in django:sites:{site.name} makes such ones"
        )


def _databases(release: Release, chosen: list[Manifest], secrets: list[str]) -> list[Database]:
    """The databases that a backup is of, in its order, as they are now."""
    site = release.site
    aliases = [one["alias"] for one in chosen if one["engine"] != "media"]
    gone = [alias for alias in aliases if alias not in release.facts["databases"]]
    if gone:
        raise DeploymentError(
            f"{release.name} has no database {gone[0]!r}, which the backup is of",
            hint="restore one file of the backup by its name",
        )
    found = {one.alias: one for one in django_backup_dump.find(release, aliases, secrets)}
    if any(one["engine"] == "media" for one in chosen):
        found["media"] = Database(site, "media", "media", str(site.media))
    for one in chosen:
        if found[one["alias"]].kind != one["engine"]:
            raise DeploymentError(
                f"the backup {one['name']} is of {one['engine']}, and the database {one['alias']!r} is now "
                f"{found[one['alias']].kind}",
                hint="restore it while the pillar names the old one, and move its data then (docs/guides/databases.md)",
            )
    return [found[one["alias"]] for one in chosen]


def _stamp() -> str:
    return time.strftime("%Y%m%dt%H%M%S", time.gmtime())


def _names(databases: list[Database], suffix: str) -> dict[str, str]:
    """Names beside those of the databases: no longer than servers allow; of files, paths in the same folder."""
    return {
        one.alias: f"{one.name}.{suffix}" if one.kind in ("sqlite", "media") else f"{one.name[:40]}_{suffix}"
        for one in databases
    }


@contextlib.contextmanager
def _loaded(
    chosen: list[Manifest], databases: list[Database], names: dict[str, str], kept: Mapping[str, str] | None = None
) -> Iterator[dict[str, dict[str, Any]]]:
    """The databases of a backup, loaded under other names and looked through; what is left of them then is removed.

    Raises:
        DeploymentError: there is no room, the file is damaged, or what was loaded is not what was dumped.
    """
    found = {}
    for manifest in chosen:
        django_backup.verify(databases[0].site, manifest)
    site, stays = databases[0].site, False
    django_backup.note(site, databases, names, kept or {})
    try:
        for manifest, database in zip(chosen, databases, strict=True):
            found[database.alias] = _load(manifest, database, names[database.alias])
        yield found
    finally:
        for database in databases:
            try:
                ENGINES[database.kind].drop(database, names[database.alias])
            except DeploymentError as error:
                stays = True
                log.warning("%s: %s is left: %s", database.site.name, names[database.alias], error)
        if not stays:
            django_backup.journal(site).unlink(missing_ok=True)


def _load(manifest: Manifest, database: Database, name: str) -> dict[str, Any]:
    log.info("%s: loading %s", database.site.name, manifest["name"])
    _refuse_without_room(manifest, database)
    descriptor = os.open(database.site.backups / manifest["name"], os.O_RDONLY | os.O_NOFOLLOW)
    try:
        found = ENGINES[database.kind].load(database, name, descriptor)
    finally:
        os.close(descriptor)
    wrong = django_backup_dump.differences(manifest["rows"], found["rows"])
    if wrong:
        table, (expected, rows) = next(iter(wrong.items()))
        raise DeploymentError(
            f"the backup {manifest['name']} is not what was dumped: {table} has {rows} rows, not {expected}",
            hint=f"take another one: salt-call django.backups {database.site.name} lists them",
        )
    return found


def _refuse_without_room(manifest: Manifest, database: Database) -> None:
    """A file is as large as its backup; what a server on another host has room for, it says itself."""
    if database.kind not in ("sqlite", "media"):
        return
    site, folder = database.site, Path(database.name).parent
    left = django_backup_dump.room(site, folder)[1] if database.kind == "sqlite" else django_backup_dump.free(folder)
    if manifest["size"] > left:
        raise DeploymentError(
            f"restoring needs {manifest['size'] >> 20} MB in {folder}, and {left >> 20} are free",
            hint="make room there; nothing has been changed",
            transient=True,
        )


def _fit(
    release: Release, databases: list[Database], names: dict[str, str], migrate: bool, secrets: list[str]
) -> dict[str, list[str]]:
    """The migrations of a release that loaded databases lack, by alias."""
    of_tables = {one.alias: _inside(release, names[one.alias]) for one in databases if one.kind != "media"}
    request = {"mode": "fit", "names": of_tables, "migrate": migrate}
    found: dict[str, list[str]] = (
        django_project_program.backup(release.site, release.path, release.facts, request, secrets) if of_tables else {}
    )
    return found


def _inside(release: Release, name: str) -> str:
    """The name of a database as the project reaches it: below the pillar's ``mount`` lies the release's source."""
    mount, source = release.site.config["mount"], release.path / "source"
    return f"{mount}/{Path(name).relative_to(source)}" if mount and Path(name).is_relative_to(source) else name


def _unknown(release: Release, chosen: list[Manifest], lacking: dict[str, list[str]]) -> list[str]:
    """Of the migrations that a loaded database lacks, those that its backup had."""
    had = {one["alias"]: set(one["migrations"]) for one in chosen}
    return sorted(name for alias, names in lacking.items() for name in names if name in had[alias])


def _refuse_another_schema(
    release: Release, databases: list[Database], names: dict[str, str], migrate: bool, secrets: list[str]
) -> None:
    site = release.site
    lacking = [name for missing in _fit(release, databases, names, migrate, secrets).values() for name in missing]
    if lacking:
        raise DeploymentError(
            f"{release.name}, which is live, needs migrations that the backup does not have: {', '.join(lacking)}",
            hint="migrate=True applies them to what is restored; or with rollback=True go back to the release that the "
            f"backup was made under: salt-call django.backups {site.name} names it",
        )


def _exchange(
    site: Site,
    live: Release,
    databases: list[Database],
    names: dict[str, str],
    kept: dict[str, str],
    serve: Callable[[], None] | None,
) -> None:
    """Exchange the databases while nobody uses them, all of them or none.

    Visitors get the maintenance page from before the site is stopped until it is well again.
    """
    was_on = django_proxy_maintenance.is_on(site)
    if not was_on:
        django_proxy_maintenance.on(site, by="django.restore")
    done: list[Database] = []
    try:
        django_release_instance.drain(site, live.path)
        django_release_instance.pause(site, live.path)
        for one in databases:
            ENGINES[one.kind].swap(one, names[one.alias], kept[one.alias])
            done.append(one)
    except BaseException:
        for one in reversed(done):
            ENGINES[one.kind].swap(one, kept[one.alias], names[one.alias])
        _start(site, live)
        if not was_on:
            django_proxy_maintenance.off(site)
        raise
    try:
        serve() if serve else _start(site, live)
    except DeploymentError as error:
        told = ", ".join(kept.values())
        off = f"salt-call django.maintenance {site.name} off ends the maintenance"
        error.hint = "\n".join(filter(None, [error.hint, f"the backup is restored, and before it is in {told}", off]))
        raise
    if not was_on:
        django_proxy_maintenance.off(site)


def _start(site: Site, release: Release) -> None:
    django_release_instance.start(site, release.path)
    django_release_instance.check_health(site, release.path)


def _rows(database: Database) -> dict[str, int]:
    """The rows of a former database, which nobody changes any more; that it cannot be read is no failure."""
    try:
        return ENGINES[database.kind].rows(database)
    except DeploymentError as error:
        log.warning("%s: %s", database.site.name, error)
        return {}


def _told_rows(before: dict[str, int], now: dict[str, int]) -> dict[str, str]:
    """The tables that have other numbers of rows than before."""
    return {
        name: f"{was} before, {there} now" for name, (was, there) in django_backup_dump.differences(before, now).items()
    }
