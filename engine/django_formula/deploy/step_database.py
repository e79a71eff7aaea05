"""The steps `database` and `migration`: the site's databases on this host, and their schema."""

from collections.abc import Iterator

from django_formula.database import databases as database_databases
from django_formula.database import setup
from django_formula.deploy import commands as deploy_commands
from django_formula.deploy import migration as deploy_migration
from django_formula.deploy.deployment import Changes, Deployment
from django_formula.secret import secrets


def database(deployment: Deployment) -> Iterator[Changes]:
    """Have the site's databases and logins on servers of this host; a login over TCP has a password."""
    site = deployment.site
    if not database_databases.has_managed(site):
        return
    known = secrets.values(site, deployment.secrets.given)
    missing = secrets.missing(site, known, deployment.recorded_inputs())
    passwords = {name: secrets.generate(site, name) for name in missing if name.startswith("database.")}
    known |= passwords
    inputs = deployment.live.record.get("inputs", {}) if deployment.live else None
    databases = setup.databases(site, known, inputs)
    site.logins = setup.logins(databases, deployment.servers, test=deployment.test)
    databases = setup.databases(site, known, inputs)
    changes = setup.pending_changes(databases, deployment.servers, test=deployment.test)
    if not changes and not passwords:
        return
    yield {**setup.as_state_changes(changes), **({"passwords": sorted(passwords)} if passwords else {})}
    deployment.take_lock()
    for name, password in passwords.items():
        secrets.store(site, name, password)
    setup.apply(databases, deployment.servers)


def migration(deployment: Deployment) -> Iterator[Changes]:
    """Migrate the databases to what the release needs; then run Django's checks, which may read tables."""
    site, release = deployment.site, deployment.release
    if not release:
        return
    pending = deploy_migration.pending(site, release, deployment.is_new)
    if deployment.is_new and not pending:
        deployment.warn(release.facts.get("checks", []))
    if pending and not site.config["migrate"]["run"]:
        names = ", ".join(name for names in pending.values() for name in names)
        deployment.warn([f"migrations not applied, since migrate:run is false: {names}"])
        pending = {}
    if pending and deployment.is_new:
        deployment.warn(deploy_migration.check_compatibility(release, deployment.live))
    commands = deploy_commands.changes(deployment, "after_migrate")
    tables = release.facts.get("cache_tables", []) if deployment.is_new else []
    found = {"migrations": pending, "cache tables": tables}
    changes = {**{name: value for name, value in found.items() if value}, **commands}
    if not changes:
        return
    yield changes
    deployment.take_lock()
    if pending:
        live = deployment.live if deployment.is_new else None
        deployment.warn(deploy_migration.back_up_and_migrate(live, release, pending, deployment.secrets.masked()))
    if tables:
        deploy_commands.create_cache_tables(deployment, release)
    deploy_commands.run_stage(deployment, "after_migrate")
