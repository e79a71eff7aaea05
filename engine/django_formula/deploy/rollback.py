"""A rollback: its target, whether that works with the databases' present schema, and the reversal of migrations.

Why migrations are reversed only on request: docs/decisions/0024.
"""

from typing import Any, NamedTuple

from django_formula.backup import backups
from django_formula.database import databases as database_databases
from django_formula.database import sqlite
from django_formula.deploy import migration as deploy_migration
from django_formula.deploy.migration import Schema
from django_formula.host.commands import DeploymentError
from django_formula.project import ask, program
from django_formula.release import disk, releases
from django_formula.release.releases import Release
from django_formula.site.sites import Site
from django_formula.store import setup
from django_formula.untrusted.text import Log, in_command

log = Log.of(__name__)

#: What an operation did, by the first word of its name.
_DID = {"Remove": "removed", "Delete": "removed", "Rename": "renamed", "Add": "added", "Alter": "changed"}
#: How the reasons of operations call the release that does not have them.
_RELEASE = "the running release"


class Outlook(NamedTuple):
    """The databases' schema as the target of a rollback finds it.

    schema: the migrations that the databases have and the release does not.
    broken: the operations among them that break it.
    """

    schema: Schema
    broken: list[dict[str, Any]]

    @property
    def names(self) -> list[str]:
        return [one["name"] for migrations in self.schema.values() for one in migrations]

    @property
    def lasting(self) -> list[str]:
        """Return the migrations that cannot be reversed without loss of data."""
        return [one["name"] for migrations in self.schema.values() for one in migrations if not one["reversible"]]

    @property
    def answer(self) -> str:
        """Return ``safe`` (the release works with it), ``reversible`` (all can be reversed) or ``unsafe``."""
        return "safe" if not self.broken else "unsafe" if self.lasting else "reversible"


def target(site: Site, live: Release, to: str | int | None) -> Release:
    """Return the target of a rollback, which may also be newer than the active release: that is activated as it is.

    Args:
        to: its name, number or commit (from seven digits on); None is the newest good one before the active one.

    Raises:
        DeploymentError: there is none, or it cannot be activated again.
    """
    lists = f"salt-call django.releases {site.name} lists them"
    if to is None:
        found = disk.older_good(site, live)
        if not found:
            raise DeploymentError(f"{site.name} has no older good release to roll back to", hint=lists)
        return found
    found = releases.named(site, str(to))
    if found.name == live.name:
        again = site.to_release(found.record.get("commit", ""))
        raise DeploymentError(f"{found.name} is live", hint=f"{again} releases its commit anew")
    if found.record.get("state") not in ("good", "held") or not disk.is_whole(found):
        problem = "has failed" if found.record.get("state") == "failed" else "is not complete"
        raise DeploymentError(f"{found.name} cannot be activated again: it {problem}", hint=lists)
    return found


def refuse_missing_stores(site: Site, target: Release) -> None:
    """Refuse a release whose queue or cache was removed since.

    Raises:
        DeploymentError: one was.
    """
    missing = setup.missing(site, target.path)
    if missing:
        raise DeploymentError(
            f"{target.name} cannot be activated again: {', '.join(missing)}, which it uses, was removed",
            hint="apply with that queue or cache in the pillar, at the revision to go back to",
        )


def check_schema(site: Site, left: Release, target: Release, secrets: list[str]) -> Outlook:
    """Return whether a release works with the present schema of the databases.

    The later releases have recorded what their migrations do; where none has, the active one is started to tell, and
    where one that keeps a default in the database was applied by another program than the formula's.

    Raises:
        DeploymentError: it does not start.
    """
    both = [alias for alias in _known(left) if alias in _known(target)]
    newer = {alias: names for alias in both if (names := _newer(site, left, target, alias))}
    if not newer:
        return Outlook({}, [])
    schema = _recorded(site, target)
    schema = {alias: [one for one in schema.get(alias, []) if one["name"] in names] for alias, names in newer.items()}
    is_recorded = all({*names} == {one["name"] for one in schema[alias]} for alias, names in newer.items())
    if not is_recorded or not deploy_migration.are_defaults_kept(schema, releases.releases(site)):
        known = {alias: sorted(names) for alias, names in _known(target).items()}
        schema = program.classify(site, left.path, left.facts, newer, known, secrets)
        schema = {alias: [one for one in schema[alias] if one["name"] in names] for alias, names in newer.items()}
    apps = {name.partition(".")[0] for names in _known(target).values() for name in names}
    broken = [one for one in deploy_migration.breaking_operations(schema) if one["model"].partition(".")[0] in apps]
    return Outlook(schema, broken)


def _known(release: Release) -> dict[str, set[str]]:
    """Return the migrations in the source of a release, by alias."""
    migrations = release.facts.get("migrations", {}).items()
    return {alias: {*names["applied"], *names["pending"]} for alias, names in migrations}


def _newer(site: Site, left: Release, target: Release, alias: str) -> list[str]:
    """Return the migrations that a database has and the target does not, by later records or by its SQLite file."""
    later = [release for release in releases.releases(site) if release.sequence > target.sequence]
    has = {name for one in later for name in one.facts.get("migrations", {}).get(alias, {}).get("applied", [])}
    database = left.facts.get("databases", {}).get(alias)
    path = database and database_databases.database_file(site, left.path, left.facts, database)
    has &= (sqlite.applied(site, path) if path else set()) or has
    return sorted(has - _known(target)[alias])


def _recorded(site: Site, target: Release) -> Schema:
    schema: Schema = {}
    for release in releases.releases(site):
        for alias, migrations in (
            deploy_migration.recorded_schema(release).items() if release.sequence > target.sequence else ()
        ):
            there = {one["name"]: one for one in [*schema.get(alias, []), *migrations]}
            schema[alias] = list(there.values())
    return schema


def refuse(site: Site, target: Release, outlook: Outlook, *, reverses: bool) -> None:
    """Check that a release works with the databases' schema.

    Args:
        reverses: whether the migrations that it does not have are to be reversed.

    Raises:
        DeploymentError: it does not work with them, or they cannot be reversed.
    """
    told = [f"{one['migration']} {_did(one)}: {_why(one, target)}" for one in outlook.broken]
    again = _again(target)
    forced = f"{again} force=True rolls back anyway"
    log = "\n".join(deploy_migration.shortened(told[1:], 4))
    if outlook.answer == "unsafe":
        hint = f"{_undo_hint(site, outlook.broken[0]['migration'])}, or deploy forward; {forced}"
        raise DeploymentError(f"unsafe: {told[0]}", log=log, hint=hint)
    if outlook.answer == "reversible" and not reverses:
        hint = f"{again} migrate=True reverses {', '.join(outlook.names)} first, which deletes the data in them"
        if site.has_common_release:  # a schema cannot go back for one host after the other
            hint = "deploy forward"
        raise DeploymentError(f"reversible: {told[0]}", log=log, hint=f"{hint}; {forced}")
    if reverses and outlook.lasting:
        raise DeploymentError(
            f"{', '.join(outlook.lasting)} cannot be reversed", hint=f"{target.name} works without that: {again}"
        )


def _again(target: Release) -> str:
    """Return the command of a rollback to a release."""
    return target.site.to_return(target.name, target.record.get("commit", ""))


def refuse_unmigrated(left: Release, target: Release, secrets: list[str]) -> None:
    """Check that the databases have the migrations of a release that is newer than the active one.

    They were reversed if `left` was activated with ``migrate=True``, and no step of a rollback applies them.

    Raises:
        DeploymentError: migrations are missing, or the release does not start.
    """
    known = target.facts.get("migrations", {})
    if target.sequence < left.sequence or not known:
        return
    names = {alias: target.facts["databases"][alias]["name"] for alias in known}
    request = {"mode": "fit", "names": names, "migrate": False}
    found = program.backup(target.site, target.path, target.facts, request, secrets)
    missing = [name for names in found.values() for name in names]
    if missing:
        shown = ", ".join(deploy_migration.shortened(missing, 4))
        again = target.site.to_release(target.record.get("commit", ""))
        raise DeploymentError(
            f"{target.name} requires migrations that the database does not have: {shown}",
            hint=f"{again} releases its commit anew, and applies them",
        )


def refuse_without_database(left: Release, target: Release, secrets: list[str]) -> None:
    """Check that a release can connect to its databases, where their servers or passwords have changed since.

    A password is kept once for all releases, so that of another server may be lost.

    Raises:
        DeploymentError: it cannot, or does not start.
    """
    before, now = (
        {path: value for path, value in release.record.get("inputs", {}).items() if _is_of_databases(path)}
        for release in (target, left)
    )
    if before == now:
        return
    databases = target.facts.get("databases", {})
    names = {alias: databases[alias]["name"] for alias in target.facts.get("migrations", {})}
    try:
        request = {"mode": "fit", "names": names, "migrate": False}
        program.backup(target.site, target.path, target.facts, request, secrets)
    except DeploymentError as error:
        at, again = target.site.at, _again(target)
        raise DeploymentError(
            f"{target.name} cannot connect to its databases with the present passwords: {error.message}",
            log=error.log,
            hint=f"give {at}:database and its password as they were, and apply; {again} force=True rolls back anyway",
        ) from None


def _is_of_databases(path: str) -> bool:
    return path.startswith(("databases:", "secrets:database."))


def _undo_hint(site: Site, migration: str) -> str:
    """Return how to restore what a migration removed: the backup of its release, or the last one before it."""
    done = [
        release
        for release in releases.releases(site)
        if migration in [one["name"] for each in deploy_migration.recorded_schema(release).values() for one in each]
    ]
    made = done[0].record.get("backups", ()) if done else ()
    found = [one for one in backups.manifests(site) if one["name"] in made]
    last = found[-1] if found else backups.newest_before(site, done[0].record["began"]) if done else None
    if not last:
        return "restore a backup from before it"
    again = in_command("salt-call", "django.restore", site.name, last["name"], "rollback=True")
    return f"restore the backup of {last['taken']}: {again}"


def _did(operation: dict[str, Any]) -> str:
    """Return what an operation did: ``removed blog.Post.title``."""
    what = ".".join(filter(None, [operation["model"], operation["field"]]))
    name = operation["operation"]
    did = next((did for word, did in _DID.items() if name.startswith(word)), f"did {name}")
    return f"{did} {what}"


def _why(operation: dict[str, Any], target: Release) -> str:
    """Return why a release does not work with an operation, in the words of `django_formula_guard`."""
    reason: str = operation.get("why") or f"{_RELEASE} cannot run with it"
    return reason.replace(_RELEASE, target.name)


def warnings(target: Release, outlook: Outlook) -> list[str]:
    """Return a warning about migrations that the databases keep and the release does not have."""
    if not outlook.schema:
        return []
    classes = {one["name"]: one["class"] for migrations in outlook.schema.values() for one in migrations}
    told = ", ".join(f"{name} ({kind})" if kind != "safe" else name for name, kind in classes.items())
    return [f"the database keeps migrations that {target.name} does not have: {told}"]


def reverse(left: Release, outlook: Outlook, secrets: list[str]) -> None:
    """Reverse the migrations that the target does not have, by the active release, which still serves meanwhile.

    Raises:
        DeploymentError: a migration cannot be reversed; later ones may have been.
    """
    site = left.site
    databases = {alias: [one["name"] for one in migrations] for alias, migrations in outlook.schema.items()}
    log.info("%s: reversing %s", site.name, ", ".join(outlook.names))
    try:
        with (
            backups.before_migration(left, list(databases), secrets),
            deploy_migration.maintenance_for(left),
        ):
            program.reverse(site, left.path, left.facts, databases, secrets)
    except ask.PartlyMigrated as error:
        error.hint = "\n".join(filter(None, [error.hint, restore(left, secrets)]))
        raise
    for release in [left, *(one for one in releases.releases(site) if one.name != left.name)]:
        deploy_migration.record_move(release, outlook.names, "applied", "pending")


def restore(left: Release, secrets: list[str]) -> str:
    """Apply the reversed migrations again, since the rollback failed; return the outcome."""
    try:
        deploy_migration.migrate(left, secrets)
        deploy_migration.end_maintenance(left.site)
    except DeploymentError as error:
        again = f"salt-call django.migrate {left.site.name}"
        return f"its migrations were reversed and cannot be applied again: {error.message}; {again} tries again"
    return "its migrations were reversed, and are applied again"
