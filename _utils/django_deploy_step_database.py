"""The steps `database` and `migration`: the site's databases on this host, and their schema."""

from collections.abc import Iterator

import django_database
import django_database_setup
import django_deploy_commands
import django_deploy_migration
import django_secret
from django_deploy import Changes, Deployment


def database(deployment: Deployment) -> Iterator[Changes]:
    """Have the site's databases and logins on servers of this host; a login over TCP has a password."""
    site = deployment.site
    if not django_database.has_managed(site):
        return
    known = django_secret.values(site, deployment.secrets.given)
    missing = django_secret.missing(site, known, deployment.recorded_inputs())
    passwords = {name: django_secret.generate(site, name) for name in missing if name.startswith("database.")}
    known |= passwords
    inputs = deployment.live.record.get("inputs", {}) if deployment.live else None
    databases = django_database_setup.databases(site, known, inputs)
    site.logins = django_database_setup.logins(databases, deployment.servers, test=deployment.test)
    databases = django_database_setup.databases(site, known, inputs)
    changes = django_database_setup.pending_changes(databases, deployment.servers, test=deployment.test)
    if not changes and not passwords:
        return
    yield {**django_database_setup.as_state_changes(changes), **({"passwords": sorted(passwords)} if passwords else {})}
    deployment.take_lock()
    for name, password in passwords.items():
        django_secret.store(site, name, password)
    django_database_setup.apply(databases, deployment.servers)


def migration(deployment: Deployment) -> Iterator[Changes]:
    """Migrate the databases to what the release needs; then run Django's checks, which may read tables."""
    site, release = deployment.site, deployment.release
    if not release:
        return
    pending = django_deploy_migration.pending(site, release, deployment.is_new)
    if deployment.is_new and not pending:
        deployment.warn(release.facts.get("checks", []))
    if pending and not site.config["migrate"]["run"]:
        names = ", ".join(name for names in pending.values() for name in names)
        deployment.warn([f"migrations not applied, since migrate:run is false: {names}"])
        pending = {}
    if pending and deployment.is_new:
        deployment.warn(django_deploy_migration.check_compatibility(release, deployment.live))
    commands = django_deploy_commands.changes(deployment, "after_migrate")
    tables = release.facts.get("cache_tables", []) if deployment.is_new else []
    found = {"migrations": pending, "cache tables": tables}
    changes = {**{name: value for name, value in found.items() if value}, **commands}
    if not changes:
        return
    yield changes
    deployment.take_lock()
    if pending:
        live = deployment.live if deployment.is_new else None
        deployment.warn(
            django_deploy_migration.back_up_and_migrate(live, release, pending, deployment.secrets.masked())
        )
    if tables:
        django_deploy_commands.create_cache_tables(deployment, release)
    django_deploy_commands.run(deployment, "after_migrate")
