"""Migrations: what a release has to do to its databases, whether the running one can live with it, and doing it."""

import contextlib
import logging
from collections.abc import Collection, Iterator
from typing import Any

import django_backup
import django_database
import django_project_program
import django_proxy_maintenance
from django_host_command import DeploymentError
from django_release import Release
from django_site import Site

log = logging.getLogger(__name__)

#: By alias, the migrations of a release in their order: name, class, whether they can be taken back, operations.
Schema = dict[str, list[dict[str, Any]]]
#: How the word begins of whoever closes a site for a migration.
_CLOSED = "a migration that"
#: What is let through with a warning, for only its author knows.
_ASKED = {"data": "changes rows by code of the project", "opaque": "runs SQL, or operations that are not Django's"}


def pending(site: Site, release: Release, is_new: bool) -> dict[str, list[str]]:
    """The migrations that the databases of a release lack, by alias; databases that lack none are left out.

    Args:
        is_new: whether the release has just been made, and its own start has asked every database.
    """
    return {
        alias: names
        for alias in release.facts.get("migrations", {})
        if (names := django_database.pending(site, release.path, release.facts, alias, is_new))
    }


def plan(release: Release) -> Schema:
    """The migrations that a release lacked when it was started, each with its class, its locks and its SQL."""
    schema: Schema = release.record.get("schema", {})
    return schema


def breaking(schema: Schema) -> list[dict[str, Any]]:
    """The operations that break the release which does not know them, each with the name of its migration."""
    return [operation for operation in _operations(schema) if operation["class"] == "breaking"]


def _operations(schema: Schema) -> Iterator[dict[str, Any]]:
    for migrations in schema.values():
        for migration in migrations:
            yield from ({**operation, "migration": migration["name"]} for operation in migration["operations"])


def judge(release: Release, live: Release | None) -> list[str]:
    """Whether the live release can go on beside the schema that a new one wants; returns warnings.

    Raises:
        DeploymentError: it cannot, and the pillar does not allow for it.
    """
    schema, unsafe = plan(release), release.site.config["migrate"]["unsafe"]
    if not live or not schema:
        return []
    broken = breaking(schema)
    if broken and unsafe == "refuse":
        told = [f"{one['migration']}: {described(one)}: {one['why']}" for one in broken]
        ways = list(dict.fromkeys(filter(None, (one["way"] for one in broken))))
        at = f"{'or ' * bool(ways)}django:sites:{release.site.name}:migrate:unsafe"
        raise DeploymentError(
            f"{len(broken)} operation{'s' * (len(broken) > 1)} would break {live.name}, which still serves",
            log="\n".join(shortened(told, 5)),
            hint="; ".join([*ways[:2], f"{at}: maintenance closes the site meanwhile, allow does it all the same"]),
        )
    listed = {one["name"]: one["class"] for migrations in schema.values() for one in migrations}
    warnings = [
        f"{name} {_ASKED[kind]}: only its author knows whether {live.name} can live with that"
        for name, kind in listed.items()
        if kind in _ASKED
    ]
    if broken:
        warnings.append(f"{live.name} cannot live with {', '.join(dict.fromkeys(one['migration'] for one in broken))}")
    return warnings


def described(operation: dict[str, Any]) -> str:
    """An operation in words: ``RemoveField blog.Post.title``."""
    what = ".".join(filter(None, [operation["model"], operation["field"]]))
    return f"{operation['operation']} {what}".strip()


def shortened(lines: list[str], length: int) -> list[str]:
    """Lines, or the first of them and how many more there are."""
    return lines if len(lines) <= length else [*lines[: length - 1], f"and {len(lines) - length + 1} more"]


def migrate_beside(live: Release | None, release: Release, aliases: Collection[str], secrets: list[str]) -> list[str]:
    """Back up and migrate the databases of a new release while the live one serves, or behind the maintenance page.

    The page stays until `reopen` where the live release cannot live with what has been done.

    Raises:
        DeploymentError: a backup cannot be made, or a migration fails; what was applied before it stays applied.
    """
    broken = live if breaking(plan(release)) else None
    with django_backup.before_migration(release, aliases, secrets), closed_for(broken):
        return migrate(release, secrets)


@contextlib.contextmanager
def closed_for(release: Release | None) -> Iterator[None]:
    """Have visitors get the maintenance page, where the pillar says so, for a release cannot live with what comes.

    It stays until `reopen`, but where nothing has changed. A page that somebody else has put up stays as it is.
    """
    closes = (
        release is not None
        and release.site.config["migrate"]["unsafe"] == "maintenance"
        and not django_proxy_maintenance.is_on(release.site)
    )
    if release and closes:
        django_proxy_maintenance.on(release.site, by=f"{_CLOSED} {release.name} cannot live with")
    try:
        yield
    except django_project_program.PartlyMigrated:
        raise
    except DeploymentError:
        if release and closes:
            reopen(release.site)
        raise


def is_closed(site: Site, release: Release | None = None) -> bool:
    """Whether visitors get the maintenance page for a migration; that a certain release cannot live with, if given."""
    by = (django_proxy_maintenance.is_on(site) or {"by": ""})["by"]
    return by.startswith(_CLOSED) and (not release or release.name in by)


def reopen(site: Site) -> None:
    """Let visitors see the site again where a migration has closed it; nothing happens where somebody else has."""
    if is_closed(site):
        django_proxy_maintenance.off(site)


def migrate(release: Release, secrets: list[str]) -> list[str]:
    """Migrate the databases of a release, and record what they have then; returns the warnings of Django's checks.

    Raises:
        DeploymentError: a migration fails; what was applied before it stays applied.
    """
    log.info("%s: migrating the databases of %s", release.site.name, release.name)
    try:
        answer = django_project_program.migrate(release.site, release.path, release.facts, secrets)
    except django_project_program.PartlyMigrated as error:
        move(release, error.names, "pending", "applied")
        raise
    release.update(facts={**release.facts, **{key: answer[key] for key in ("migrations", "checks")}})
    warnings: list[str] = answer["checks"]
    return warnings


def move(release: Release, names: Collection[str], source: str, target: str) -> None:
    """Record that migrations of a release are ``applied`` now that were ``pending``, or the other way round."""
    moved = {}
    for alias, lists in release.facts.get("migrations", {}).items():
        found = [name for name in lists[source] if name in names]
        kept = [name for name in lists[source] if name not in names]
        moved[alias] = {source: kept, target: [*lists[target], *found]}
    if moved != release.facts.get("migrations"):
        release.update(facts={**release.facts, "migrations": moved})
