"""Migrations: which are pending for a release, whether the active release can run with them, and applying them."""

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

from django_formula.backup import backups
from django_formula.database import databases
from django_formula.host.commands import DeploymentError
from django_formula.project import ask, program
from django_formula.proxy import maintenance as proxy_maintenance
from django_formula.release import workers
from django_formula.release.releases import Release
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log

log = Log.of(__name__)

#: By alias, the migrations of a release in their order: name, class, whether they can be reversed, operations.
Schema = dict[str, list[dict[str, Any]]]
#: How the `by` of a maintenance page begins that was put up for a migration.
_CLOSED = "a migration that"
#: Classes that only the migration's author can judge, which are applied with a warning.
_UNKNOWN = {"data": "changes rows by code of the project", "opaque": "runs SQL, or operations that are not Django's"}


def pending(site: Site, release: Release, is_new: bool) -> dict[str, list[str]]:
    """Return the pending migrations of a release by database alias, without databases that have none.

    Args:
        is_new: whether the release has just been made, and its start has queried every database.
    """
    return {
        alias: names
        for alias in release.facts.get("migrations", {})
        if (names := databases.pending_migrations(site, release.path, release.facts, alias, is_new))
    }


def recorded_schema(release: Release) -> Schema:
    """Return the migrations that were pending when a release was started, each with its class, locks and SQL."""
    schema: Schema = release.record.get("schema", {})
    return schema


def breaking_operations(schema: Schema) -> list[dict[str, Any]]:
    """Return the operations that break a release without them, each with the name of its migration."""
    return [operation for operation in _operations(schema) if operation["class"] == "breaking"]


def _operations(schema: Schema) -> Iterator[dict[str, Any]]:
    for migrations in schema.values():
        for migration in migrations:
            yield from ({**operation, "migration": migration["name"]} for operation in migration["operations"])


def check_compatibility(release: Release, active: Release | None) -> list[str]:
    """Refuse migrations of a new release that the active one cannot run with, unless the pillar allows them.

    Returns:
        Warnings.

    Raises:
        DeploymentError: an operation breaks the active release, and ``migrate:unsafe`` is ``refuse``.
    """
    schema, unsafe = recorded_schema(release), release.site.config["migrate"]["unsafe"]
    if not active or not schema:
        return []
    broken = breaking_operations(schema)
    if broken and unsafe == "refuse":
        raise _breaks(release.site, active, broken)
    classes = {migration["name"]: migration["class"] for migrations in schema.values() for migration in migrations}
    warnings = [
        f"{name} {_UNKNOWN[kind]}: only its author knows whether {active.name} can run with that"
        for name, kind in classes.items()
        if kind in _UNKNOWN
    ]
    if broken:
        names = ", ".join(dict.fromkeys(operation["migration"] for operation in broken))
        warnings.append(f"{active.name} cannot run with {names}")
    return warnings


def _breaks(site: Site, active: Release, broken: list[dict[str, Any]]) -> DeploymentError:
    """Return the error for operations that break the active release."""
    lines = [f"{one['migration']}: {described(one)}: {one['why']}" for one in broken]
    ways = list(dict.fromkeys(filter(None, (one["way"] for one in broken))))
    key = f"{'or ' * bool(ways)}{site.at}:migrate:unsafe"
    return DeploymentError(
        f"{len(broken)} operation{'s' * (len(broken) > 1)} would break {active.name}, which still serves",
        log="\n".join(shortened(lines, 5)),
        hint="; ".join(
            [*ways[:2], f"{key}: maintenance shows the maintenance page meanwhile, allow applies them anyway"]
        ),
    )


def described(operation: dict[str, Any]) -> str:
    """Return an operation in words: ``RemoveField blog.Post.title``."""
    subject = ".".join(filter(None, [operation["model"], operation["field"]]))
    return f"{operation['operation']} {subject}".strip()


def shortened(lines: list[str], length: int) -> list[str]:
    """Return at most so many lines: all of them, or the first ones and how many more there are."""
    return lines if len(lines) <= length else [*lines[: length - 1], f"and {len(lines) - length + 1} more"]


def back_up_and_migrate(
    active: Release | None, release: Release, aliases: Collection[str], secrets: list[str]
) -> list[str]:
    """Back up and migrate the databases of a new release while the active one serves, or the maintenance page.

    The page stays until `end_maintenance` if the active release cannot run with what was applied.

    Returns:
        Warnings of Django's checks.

    Raises:
        DeploymentError: a backup cannot be made, or a migration fails; what was applied before it stays applied.
    """
    broken = active if breaking_operations(recorded_schema(release)) else None
    with backups.before_migration(release, aliases, secrets) as made, maintenance_for(broken):
        warnings = migrate(release, secrets)
    if made and "fleet" in release.site.config and not release.record.get("migrated"):
        warnings = [*warnings, *backups.discard(release, made)]  # another host had the lock, and has the backup
    return warnings


@contextlib.contextmanager
def maintenance_for(release: Release | None) -> Iterator[None]:
    """Show the maintenance page for migrations that a release cannot run with, if the pillar says so.

    Its workers take no tasks meanwhile. Both stay until `end_maintenance`, unless nothing was applied. A page that was
    put up by another stays as it is.
    """
    if release is None or release.site.config["migrate"]["unsafe"] != "maintenance":
        yield
        return
    site = release.site
    closes, holds = not sites.known_maintenance(site), not proxy_maintenance.holds_workers(site)
    if closes:
        proxy_maintenance.on(site, by=f"{_CLOSED} {release.name} cannot run with")
    has_begun = False
    try:
        proxy_maintenance.hold_workers(site)
        workers.await_quiet(site, release.path)
        has_begun = True
        yield
    except ask.PartlyMigrated:
        raise
    except (DeploymentError, OSError) as error:
        if has_begun and isinstance(error, OSError):
            raise  # what was applied is not known
        if closes:
            end_maintenance(site)
        elif holds:
            proxy_maintenance.release_workers(site)
        raise


def is_in_maintenance(site: Site, release: Release | None = None) -> bool:
    """Return whether a site shows the maintenance page for a migration.

    Args:
        release: only for a migration that this release cannot run with.
    """
    by = (sites.known_maintenance(site) or {"by": ""})["by"]
    return by.startswith(_CLOSED) and (not release or release.name in by)


def end_maintenance(site: Site) -> None:
    """Take the maintenance page away if it was put up for a migration, and let workers take tasks."""
    proxy_maintenance.release_workers(site)
    if is_in_maintenance(site):
        proxy_maintenance.off(site)


def migrate(release: Release, secrets: list[str]) -> list[str]:
    """Migrate the databases of a release, and record their migrations; returns the warnings of Django's checks.

    Raises:
        DeploymentError: a migration fails; what was applied before it stays applied.
    """
    log.info("%s: migrating the databases of %s", release.site.name, release.name)
    try:
        answer = program.migrate(release.site, release.path, release.facts, secrets)
    except ask.PartlyMigrated as error:
        record_move(release, error.names, "pending", "applied")
        _record_migrated(release, error.names)
        raise
    release.update(facts={**release.facts, **{key: answer[key] for key in ("migrations", "checks")}})
    _record_migrated(release, [name for names in answer["migrated"].values() for name in names])
    warnings: list[str] = answer["checks"]
    return warnings


def follow(release: Release, names: Collection[str], secrets: list[str]) -> list[str]:
    """Have a release find the databases as another host's deployment of the same commit has migrated them.

    Args:
        names: the migrations that the formula's own program has applied there.

    Returns:
        Warnings of Django's checks.

    Raises:
        DeploymentError: a check fails.
    """
    warnings = migrate(release, secrets)
    _record_migrated(release, names)
    return warnings


def _record_migrated(release: Release, names: Collection[str]) -> None:
    """Record the migrations that the formula's own program has applied, which keeps the defaults of new columns."""
    recorded = release.record.get("migrated", [])
    if any(name not in recorded for name in names):
        release.update(migrated=sorted({*recorded, *names}))


def are_defaults_kept(schema: Schema, releases: Collection[Release]) -> bool:
    """Return whether the formula has applied all migrations of a schema that are safe by the defaults they keep."""
    names = {operation["migration"] for operation in _operations(schema) if operation.get("default")}
    return names <= {name for release in releases for name in release.record.get("migrated", [])}


def record_move(release: Release, names: Collection[str], source: str, target: str) -> None:
    """Record that ``pending`` migrations of a release are ``applied`` now, or the reverse."""
    moved = {}
    for alias, lists in release.facts.get("migrations", {}).items():
        found = [name for name in lists[source] if name in names]
        rest = [name for name in lists[source] if name not in names]
        moved[alias] = {source: rest, target: [*lists[target], *found]}
    if moved != release.facts.get("migrations"):
        release.update(facts={**release.facts, "migrations": moved})
