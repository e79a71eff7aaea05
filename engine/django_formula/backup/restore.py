"""Restore backups: load one, exchange it for the present databases, keep the former ones; drills."""

import contextlib
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

from django_formula.backup import backups, dumps, loading
from django_formula.backup.backups import dumper
from django_formula.backup.dumps import Database
from django_formula.backup.loading import Manifest
from django_formula.host import clock, file
from django_formula.host.commands import DeploymentError
from django_formula.process import transient
from django_formula.proxy import maintenance as proxy_maintenance
from django_formula.proxy import waiting
from django_formula.release import disk, health, instances, releases, workers
from django_formula.release.releases import Release
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log, proposal

log = Log.of(__name__)

_BY = "django.restore"


def restore(
    site: Site,
    live: Release,
    which: str | None,
    *,
    media: bool = False,
    queue: bool = False,
    migrate: bool = False,
    to: Release | None = None,
    serve: Callable[[], None] | None = None,
    secrets: list[str],
) -> dict[str, Any]:
    """Replace the databases of a site by those of a backup; the caller holds the site's lock.

    The site serves until everything is loaded and checked; then it shows the maintenance page. The former databases,
    with everything written since the backup, are kept under the names in the result.

    Args:
        live: the active release.
        which: as for `backup.backups.find`.
        media: restore the uploads of the backup too.
        queue: restore the site's own queue too; tasks in it that have run since the backup run again.
        migrate: apply the migrations that the release requires to the restored databases.
        to: the release that serves afterwards, if it is not the active one; `serve` activates it.
        secrets: texts that no output may show.

    Raises:
        DeploymentError: the backup is damaged or does not fit the release, or a server fails; then nothing is replaced.
    """
    requested = {"media": media, "redis": queue}
    with backups.lock(site, releases.RESTORE).held():  # a backup that was under way may have had others deleted
        chosen = [one for one in backups.find(site, which) if requested.get(one["engine"], True)]
        _check_selection(site, chosen, requested)
        chosen, databases = loading.of_backup(live, chosen, secrets)
        backups.remove_leftovers(site, databases)
        for one in databases:
            dumper(one.kind).check_swappable(one)
        stamp = loading.stamp()
        names = loading.names_with(databases, f"restore_{stamp}")
        kept = loading.names_with(databases, f"before_{stamp}")
        with loading.loaded(chosen, databases, names, kept, folder=site.backups) as found:
            _check_schema(to or live, databases, names, migrate, secrets)
            _exchange(site, live, databases, names, kept, serve)
        for manifest in chosen:
            backups.mark_verified(site, manifest)
        before = {one.alias: _count_rows(one._replace(name=kept[one.alias])) for one in databases}
    return {
        "restored": {one["alias"]: f"{one['name']}, taken {one['taken']}" for one in chosen},
        "kept": kept,
        "rows": {alias: _row_changes(before[alias], one["rows"]) for alias, one in found.items()},
        "note": f"what was written since the backup is only in {', '.join(kept.values())}",
    }


def compare(site: Site, live: Release, which: str | None, secrets: list[str]) -> dict[str, Any]:
    """Return in which tables the databases of a backup have other numbers of rows than the present ones.

    Raises:
        DeploymentError: there is no such backup, or a server does not answer.
    """
    chosen = [one for one in backups.find(site, which) if one["engine"] not in backups.ON_REQUEST]
    chosen, databases = loading.of_backup(live, chosen, secrets)
    pairs = zip(chosen, databases, strict=True)
    differences = {one.alias: dumps.differences(manifest["rows"], _count_rows(one)) for manifest, one in pairs}
    return {
        "backup": {one["alias"]: f"{one['name']}, taken {one['taken']}" for one in chosen},
        "rows": {
            alias: {name: f"{then} then, {now} now" for name, (then, now) in tables.items()}
            for alias, tables in differences.items()
        },
    }


def drill(site: Site, release: Release, secrets: list[str]) -> dict[str, Any]:
    """Load the newest backup next to the databases, and check it against the manifest and the active release.

    The result is recorded, good or bad, and what was loaded is removed.

    Args:
        release: the active release.
        secrets: texts that no output may show.

    Raises:
        DeploymentError: the backup cannot be restored.
    """
    began = time.monotonic()
    result: dict[str, Any] = {"date": clock.now(), "result": "failed:"}
    try:
        with backups.lock(site, "django.restore_drill").held():
            chosen = loading.loadable(site, backups.find(site, None))
            result["backup"] = chosen[0]["backup"]
            result |= {"result": "good", **loading.rehearse(release, chosen, site.backups, secrets)}
            for manifest in chosen:
                backups.mark_verified(site, manifest)
    except DeploymentError as error:
        result["result"] = f"failed: {error.message}"
        raise
    finally:
        result["seconds"] = round(time.monotonic() - began, 1)
        file.write_json(site.backups / "drill.json", result, mode=0o600)
    return result


def _check_selection(site: Site, chosen: list[Manifest], requested: Mapping[str, bool]) -> None:
    """Refuse what the backup does not have.

    Args:
        requested: whether uploads and the queue are, by their kinds.
    """
    if not chosen:
        raise DeploymentError(
            "this backup has no database",
            hint=f"restore what it has: salt-call django.restore {site.name} … media=True, or queue=True",
        )
    kinds = {one["engine"] for one in chosen}
    if requested["media"] and "media" not in kinds:
        raise DeploymentError(
            "this backup has no uploads",
            hint=f"restore without media=True; {site.at}:backup: {{media: true}} adds them from now on",
        )
    if requested["redis"] and "redis" not in kinds:
        raise DeploymentError("this backup has no queue", hint="restore without queue=True: the queue was empty then")


def _check_schema(
    release: Release, databases: list[Database], names: dict[str, str], migrate: bool, secrets: list[str]
) -> None:
    site = release.site
    by_alias = loading.missing_migrations(release, databases, names, migrate, secrets)
    missing = [name for names in by_alias.values() for name in names]
    if missing:
        raise DeploymentError(
            f"{release.name}, which is active, requires migrations that the backup does not have: {', '.join(missing)}",
            hint="migrate=True applies them to the restored databases; rollback=True returns to the release that the "
            f"backup was made under (salt-call django.backups {site.name})",
        )


def _exchange(
    site: Site,
    live: Release,
    databases: list[Database],
    names: dict[str, str],
    kept: dict[str, str],
    serve: Callable[[], None] | None,
) -> None:
    """Exchange the databases while the site is stopped, all of them or none.

    From before the site is stopped until its health check passes again requests wait, or get the maintenance page.
    """
    refuse_running_commands(site)
    was_on = sites.known_maintenance(site) is not None
    hold = None if was_on else waiting.begin(site, live, _BY)
    holds = hold is None and _shut(site, was_on=was_on)
    open_again = hold.end if hold else functools.partial(reopen, site, was_on=was_on, holds=holds)
    swapped: list[Database] = []
    try:
        # In maintenance none begins.
        with disk.without_schedules(site, _BY) if hold else contextlib.nullcontext():
            refuse_running_commands(site)
            stop(site, live)
            for one in databases:
                dumper(one.kind).swap(one, names[one.alias], kept[one.alias])
                swapped.append(one)
    except BaseException:
        for one in reversed(swapped):
            dumper(one.kind).swap(one, kept[one.alias], names[one.alias])
        _start(site, live, hold)
        open_again()
        raise
    try:
        _start(site, live, hold, serve)
    except DeploymentError as error:
        restored = f"the backup is restored; the former databases are in {', '.join(kept.values())}"
        off = f"to end the maintenance: salt-call django.maintenance {site.name} off"
        error.hint = "\n".join(filter(None, [error.hint, restored, off]))
        raise
    open_again()


def _start(site: Site, live: Release, hold: "waiting.Hold | None", serve: Callable[[], None] | None = None) -> None:
    """Start the site; where that fails, requests that wait get the maintenance page."""
    try:
        serve() if serve else start(site, live)
    except BaseException:
        if hold:
            _shut(site, was_on=False)
            hold.end()
        raise


def _shut(site: Site, *, was_on: bool) -> bool:
    """Show the maintenance page, and have workers take no tasks; return whether they took some before."""
    if not was_on:
        proxy_maintenance.on(site, by=_BY)
    holds = not proxy_maintenance.holds_workers(site)
    proxy_maintenance.hold_workers(site)
    return holds


def refuse_running_commands(site: Site) -> None:
    """Check that no schedule, `django.manage` or console runs that writes: that would be in the former database.

    Raises:
        DeploymentError: one runs.
    """
    running = ", ".join(disk.running_schedules(site))
    if running:
        raise DeploymentError(
            f"the schedule {running} of {site.name} runs, and would go on with the former database",
            hint=f"restore again once it has ended, or end it: systemctl stop 'django-{site.name}-at-*'",
            transient=True,
        )
    if consoles := disk.writing_consoles(site):
        raise DeploymentError(
            f"{consoles[0]} is open for {site.name}, and would go on with the former database",
            hint="restore again once it is closed",
            transient=True,
        )
    commands = transient.management_commands(site)
    if commands:
        raise DeploymentError(
            f"a command of django.manage runs for {site.name}, and would go on with the former database",
            hint=proposal("restore again once it has ended, or end it: {}", "systemctl", "stop", *commands),
            transient=True,
        )


def reopen(site: Site, *, was_on: bool, holds: bool) -> None:
    """End the maintenance of a restore, and let workers take tasks, unless another has begun the one or the other."""
    if not was_on:
        proxy_maintenance.off(site)
    elif holds:
        proxy_maintenance.release_workers(site)


def stop(site: Site, live: Release) -> None:
    """Stop all processes of the site that use its databases, tasks of older releases too."""
    instances.drain(site, live.path)
    instances.pause(site, live.path)
    older = [release.path for release in releases.releases(site) if release.name != live.name]
    for one in workers.finishing(site, older):
        instances.process_manager(site, one.release).stop(site, one.release, one.worker)


def start(site: Site, release: Release) -> None:
    instances.start(site, release.path)
    if instances.serves(release.path):
        health.check(site, release.path)


def _count_rows(database: Database) -> dict[str, int]:
    """Return the rows of a former database, or nothing if they cannot be counted."""
    try:
        return dumper(database.kind).count_rows(database)
    except DeploymentError as error:
        log.warning("%s: %s", database.site.name, error)
        return {}


def _row_changes(before: dict[str, int], now: dict[str, int]) -> dict[str, str]:
    """Return the tables whose numbers of rows changed, in words."""
    return {name: f"{was} before, {there} now" for name, (was, there) in dumps.differences(before, now).items()}
