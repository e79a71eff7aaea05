"""The verbs of the execution module: release, rollback, rotation, …; each uses what the last apply left on the host.

They compile no pillar: docs/decisions/0012.
"""

import contextlib
import re
import secrets as secrets_module
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from django_formula.backup import backups
from django_formula.container import images
from django_formula.deploy import database, migration, steps
from django_formula.deploy import drift as deploy_drift
from django_formula.deploy import rollback as deploy_rollback
from django_formula.deploy.deployment import Changes, Deployment
from django_formula.host import environment_files
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.project import command as project_command
from django_formula.project import program
from django_formula.proof import unit
from django_formula.proxy import maintenance as proxy_maintenance
from django_formula.release import claim, releases
from django_formula.release.releases import Release
from django_formula.secret import secrets as secret_secrets
from django_formula.site import sites
from django_formula.tls import certificates, renewal
from django_formula.verbs import status as verbs_status
from django_formula.verbs import workers as verbs_workers
from django_formula.verbs.status import live_release as _live


def words(command: Sequence[Any]) -> list[str]:
    """Return the words of a command that is given as several words or as one text.

    Raises:
        DeploymentError: a quote in the text is not closed, or Salt, which reads its command line as YAML, has made
            another value of a word: False of `no`, 1.1 of `1.10`.
    """
    for word in command:
        if not isinstance(word, str) and (len(command) == 1 or type(word) is not int):
            raise DeploymentError(
                f"a word of the command was read as {word!r}, which may be another one than was written",
                hint="write the command and its words as one text: salt-call django.manage blog 'migrate shop 0012'",
            )
    try:
        return shlex.split(command[0]) if len(command) == 1 else [str(word) for word in command]
    except ValueError as error:
        raise DeploymentError(f"cannot split {command[0]!r} into words: {error}") from None


def answer(deployment: Deployment, changes: Changes) -> dict[str, Any]:
    """Return what a deployment did: its release, the seconds of each step, changes and warnings."""
    name = deployment.release.name if deployment.release else ""
    given = {"release": name, "took": deployment.seconds, "changes": changes}
    warnings = list(dict.fromkeys(deployment.warnings))
    return given | ({"warnings": warnings} if warnings else {})


def status(name: str) -> dict[str, Any]:
    """Return the status of a site: one row.

    Raises:
        DeploymentError: there is no such site, or a file of its records is damaged.
    """
    return verbs_status.row(sites.find(name))


def every_status() -> list[dict[str, Any]]:
    """Return the rows of all sites of this host; for one whose files cannot be read, the problem."""
    rows, damaged = [], {}
    for name in sites.registered():
        try:
            rows.append(status(name))
        except (DeploymentError, OSError) as error:
            damaged[name] = str(error).splitlines()[0]
    needed = ("site", "release", "live_since", "damage")  # by the view, where no site has all columns
    columns = dict.fromkeys((*(column for row in rows for column in row), *needed), "")
    rows += [{**columns, "site": name, "running": None, "damage": damage} for name, damage in damaged.items()]
    return sorted(rows, key=lambda row: str(row["site"]))


def release(
    name: str, revision: str | None = None, asked_by: str = "django.release", *, is_proved: bool = False
) -> tuple[Deployment, dict[str, Any]]:
    """Release a site as its last apply configured it, even if the commit is on hold, has failed or is unchanged.

    Args:
        is_proved: give it to all visitors at once, where the site has a canary.

    Raises:
        DeploymentError: a step fails.
    """
    site = sites.find(name)
    claim.refuse_alone(site, "deploy")
    deployment = Deployment(site, {}, site.kept_templates(), asked_by=asked_by, revision=revision, again=True)
    if is_proved:
        deployment.set_proved()
    return deployment, steps.walk(deployment, steps.RELEASE)


def unlock(name: str) -> dict[str, Any]:
    """End the deployment that holds the lock of a site; the next apply corrects what it left unfinished.

    Returns:
        ``ended``: the deployment, and ``processes``: its pids; empty where nothing holds the lock.

    Raises:
        DeploymentError: there is no such site.
    """
    lock = sites.find(name).lock("django.unlock")
    holder = lock.holder()
    return {"ended": holder, "processes": lock.end_holders()} if holder else {}


def rollback(
    name: str,
    to: str | int | None = None,
    *,
    migrate: bool = False,
    force: bool = False,
    asked_by: str = "django.rollback",
    alone: bool = True,
) -> tuple[Deployment, dict[str, Any]]:
    """Activate an older release again, and put the active one on hold; or a newer one that is still on the host.

    Args:
        to: the name, the number or the commit of a release; None is the newest good one before the active one.
        migrate: reverse the migrations that it does not have.
        force: roll back even where it does not work with the databases' schema.
        alone: on this host only, which hosts that have their release in common refuse.

    Raises:
        DeploymentError: there is none, it does not work with the databases' schema, or it does not start; the active
            release stays active then.
    """
    site = sites.find(name)
    if alone:
        claim.refuse_alone(site, "rollback")
    deployment, left, outlook = returning(site, to, migrate=migrate, force=force, asked_by=asked_by)
    reverses = migrate and bool(outlook.schema) and not outlook.lasting
    if reverses:
        with deployment.step("rollback"):
            deploy_rollback.reverse(left, outlook, deployment.secrets.masked())
    changes = {"rollback": {"schema": outlook.answer, "newer": outlook.names, "taken_back": reverses}}
    try:
        return deployment, changes | steps.walk(deployment, steps.BACK)
    except DeploymentError as error:
        if reverses and not deployment.is_activated:
            error.hint += f"\n{deploy_rollback.restore(left, deployment.secrets.masked())}"
        raise


def returning(
    site: sites.Site,
    to: str | int | None,
    *,
    migrate: bool,
    force: bool,
    asked_by: str,
    is_judged: bool = False,
) -> tuple[Deployment, Release, deploy_rollback.Outlook]:
    """Return a deployment whose next steps are those of a rollback, the active release, and how the target fits.

    Args:
        is_judged: this deployment has found before that the target fits.

    Raises:
        DeploymentError: as `rollback`.
    """
    deployment = Deployment(site, {}, site.kept_templates(), asked_by=asked_by)
    with deployment.step("rollback"):
        with deployment.deciding():
            deployment.take_lock(look_again=True)
            left = _live(site)
            if is_judged:
                target, outlook = deploy_rollback.target(site, left, to), deploy_rollback.Outlook({}, [])
                deployment.secrets.read()
            else:
                target, outlook = _outlook(deployment, left, to, migrate=migrate, force=force)
        unit.supersede(site, f"{target.name} is activated again")
        deployment.return_to(target, left)
        if not migrate or not outlook.schema or outlook.lasting:
            deployment.warn(deploy_rollback.warnings(target, outlook))
    return deployment, left, outlook


def _outlook(
    deployment: Deployment, left: Release, to: str | int | None, *, migrate: bool, force: bool
) -> tuple[Release, deploy_rollback.Outlook]:
    """Return the release to return to, and how it fits the databases.

    Raises:
        DeploymentError: there is none, or it does not fit.
    """
    site = deployment.site
    target = deploy_rollback.target(site, left, to)
    deployment.secrets.read()
    deploy_rollback.refuse_missing_stores(site, target)
    outlook = deploy_rollback.check_schema(site, left, target, deployment.secrets.masked())
    if not force:
        deploy_rollback.refuse(site, target, outlook, reverses=migrate)
        database.refuse_other(left, target)
        deploy_rollback.refuse_without_database(left, target, deployment.secrets.masked())
        deploy_rollback.refuse_unmigrated(left, target, deployment.secrets.masked())
    return target, outlook


def manage(name: str, command: Sequence[str], environment_file: str | None, timeout: float) -> str:
    """Run a management command of the active release, before a first one of the newest that failed.

    Returns:
        Its output; the first line says if the release failed.

    Raises:
        DeploymentError: there is no such release, the file is missing, a restore runs, or the command fails.
    """
    site = sites.find(name)
    release = verbs_status.runnable_release(site)
    if environment_file and not Path(environment_file).is_file():
        raise DeploymentError(f"there is no file {environment_file} on this host")
    backups.refuse_during_restore(site)
    secrets = secret_secrets.known(site)
    with _noticed(release) as notice:
        return notice + project_command.manage(
            site, release.path, release.facts, command, environment_file, timeout, secrets
        )


@contextlib.contextmanager
def _noticed(release: Release) -> Iterator[str]:
    """Give the line that says if a release failed, and add it to the hint of an error."""
    notice = verbs_status.failure_notice(release)
    try:
        yield f"{notice}\n" if notice else ""
    except DeploymentError as error:
        error.hint = "\n".join(filter(None, [error.hint, notice]))
        raise


def save_images(name: str, file: str) -> list[str]:
    """Write what the image of the active release is made of into a file; return the names of the images in it.

    Raises:
        DeploymentError: there is no active release, it is in no container, or the file cannot be written.
    """
    site = sites.find(name)
    return images.save_archive(site, _live(site).path, Path(file))


def load_images(name: str, file: str) -> list[str]:
    """Give the engine of a site the images of a file that `save_images` has written; return their names.

    Raises:
        DeploymentError: the site has no containers, or the file cannot be read.
    """
    return images.load_archive(sites.find(name), Path(file))


def migrate(name: str, asked_by: str = "django.migrate") -> dict[str, Any]:
    """Migrate the databases of the active release; return what was applied, and the warnings of the checks.

    Raises:
        DeploymentError: there is no active release, or a migration fails.
    """
    site = sites.find(name)
    deployment = Deployment(site, {}, site.kept_templates(), asked_by=asked_by)
    with deployment.step("migrate"):
        deployment.take_lock(look_again=True)
        live = _live(site)
        secrets = secret_secrets.known(site)
        before = live.facts["migrations"]
        with backups.before_migration(live, _pending(live, secrets), secrets):
            warnings = migration.migrate(live, secrets)
        deployment.lock.release()
    after = {
        alias: set(names["applied"]) - set(before[alias]["applied"])
        for alias, names in live.facts["migrations"].items()
    }
    return {"migrated": {alias: sorted(names) for alias, names in after.items()}, "warnings": warnings}


def _pending(live: Release, secrets: list[str]) -> list[str]:
    """Return the databases without all migrations of the active release."""
    names = {alias: live.facts["databases"][alias]["name"] for alias in live.facts["migrations"]}
    request = {"mode": "fit", "names": names, "migrate": False}
    found = program.backup(live.site, live.path, live.facts, request, secrets)
    return [alias for alias, missing in found.items() if missing]


def renew(name: str, *, force: bool = False) -> dict[str, Any]:
    """Renew the certificates of a site that are due or could not be ordered before; return what has changed.

    Args:
        force: also order those that are not due.

    Raises:
        DeploymentError: the site has none, or one cannot be made.
    """
    site = sites.find(name)
    if not site.https:
        raise DeploymentError(f"{name} has no certificates", hint=f"set django:sites:{name}:tls")
    changed, warnings = renewal.renew(site, force=force, again=True)
    return {"renewed": changed, "warnings": warnings, **certificates.summary(site)}


def collectstatic(name: str, asked_by: str = "django.collectstatic") -> tuple[Deployment, dict[str, Any]]:
    """Collect static files anew, by a release of the active commit: a release is never changed.

    Raises:
        DeploymentError: there is no active release, or a step fails.
    """
    live = _live(sites.find(name))
    return release(name, live.record["commit"], asked_by)


def check(name: str) -> list[str]:
    """Return the results of Django's checks of the active release, including those for deployment.

    Before a first release those of the newest that failed, which the first line says.

    Raises:
        DeploymentError: there is no such release, or a check fails as configured by ``check``.
    """
    site = sites.find(name)
    release = verbs_status.runnable_release(site)
    with _noticed(release) as notice:
        found = program.check(site, release.path, release.facts, secret_secrets.known(site))
    return [*notice.splitlines(), *found]


def drift(name: str) -> dict[str, Any]:
    """Report files that differ from the active release, each with its owner, and the command that corrects them.

    Raises:
        DeploymentError: there is no active release.
    """
    site = sites.find(name)
    live = _live(site)
    rows = deploy_drift.differing_paths(site, live)
    mended = {"mended_by": site.to_release(live.record["commit"])} if rows else {}
    return {"release": live.name, "drift": rows, **mended}


def maintenance(name: str, switch: str, message: str, asked_by: str = "django.maintenance") -> dict[str, Any]:
    """Switch maintenance ``on`` or ``off``, or neither; return its state.

    Raises:
        DeploymentError: `switch` is something else, or no proxy serves the site.
    """
    site = sites.find(name)
    if switch not in ("", "on", "off"):
        hint = f"django.maintenance {name} on 'back soon'"
        raise DeploymentError(f"maintenance is on or off, not {switch!r}", hint=hint)
    if switch == "on":
        unit.supersede(site, "maintenance was switched on")
        proxy_maintenance.on(site, message, by=asked_by)
    elif switch == "off":
        proxy_maintenance.off(site)
    about = sites.known_maintenance(site)
    return {"maintenance": "on", **about} if about else {"maintenance": "off"}


def secret_key(name: str) -> dict[str, Any]:
    """Return fingerprints of a site's secret key and its fallbacks, to compare the keys of two hosts.

    Raises:
        DeploymentError: the site has no key yet.
    """
    site = sites.find(name)
    key = secret_secrets.values(site, {}).get("secret_key")
    if not key:
        raise DeploymentError(f"{name} has no secret key yet", hint="salt-call state.apply django")
    return {
        "fingerprint": secret_secrets.fingerprint(key),
        "fallbacks": [secret_secrets.fingerprint(old) for old in secret_secrets.fallbacks(site)],
        "given_by": "pillar" if site.config["secret_key"] else "generated",
        "file": str(secret_secrets.path_of(site, "secret_key")),
    }


def record(name: str, release: str | int | None = None) -> dict[str, Any]:
    """Return the record of a release, by default the active one.

    Raises:
        DeploymentError: there is no active release, or no such release.
    """
    site = sites.find(name)
    return (_live(site) if release is None else releases.named(site, str(release))).record


def config(name: str) -> dict[str, Any]:
    """Return the configuration as last applied, with secrets as references to the pillar."""
    return dict(sites.find(name).config)


def workers(name: str) -> list[dict[str, Any]]:
    """Return a row for each worker of the active release, and for those of older ones that still finish tasks.

    Raises:
        DeploymentError: there is no such site.
    """
    site = sites.find(name)
    return verbs_workers.rows(site, releases.linked(site, site.current))


def queue(name: str, *, names: bool = False, give_back: bool = False, drop: str = "") -> list[dict[str, Any]]:
    """Return a row for each queue that the workers of the active release take tasks from.

    Raises:
        DeploymentError: there is no active release, it has no such worker, or the broker does not answer.
    """
    site = sites.find(name)
    return verbs_workers.queue_rows(site, _live(site), names=names, give_back=give_back, drop=drop)


def restart(name: str, worker: str | None = None, asked_by: str = "django.restart") -> dict[str, str]:
    """Restart the workers of the active release, or one of them; they finish their tasks first.

    Raises:
        DeploymentError: a deployment is under way, there is no active release, or it has no such worker.
    """
    site = sites.find(name)
    with site.lock(asked_by).held():
        return verbs_workers.restart(site, _live(site), worker)


# The first account of a project that has users: `django.superuser`

#: Creates a superuser by Django's own command, where the project has another one of that name.
_DJANGOS_OWN = (
    "from django.core.management import call_command, get_commands; "
    "from django.contrib.auth.management.commands.createsuperuser import Command; "
    "assert get_commands()['createsuperuser'] != 'django.contrib.auth'; "
    "call_command(Command(), interactive=False)"
)


def create_superuser(name: str, username: str, email: str, command: Sequence[str] = ()) -> dict[str, str]:
    """Create a superuser with a generated password, which is written to a file that only root can read.

    The file is the environment of the command that creates the user; it is renamed once the user exists.

    Args:
        command: the management command that creates the user, by default createsuperuser. Where that one is the
            project's own and fails, Django's own creates the user.

    Raises:
        DeploymentError: there is such a user already, no active release, or the project has no users.
    """
    site = sites.find(name)
    if not re.fullmatch(r"[A-Za-z0-9_.@+-]+", username) or not re.fullmatch(r"[A-Za-z0-9_.@+-]*", email):
        raise DeploymentError("a username and an e-mail address may contain only letters, digits and @ . + - _")
    file = site.secrets / f"superuser-{username}"
    if file.exists():
        raise DeploymentError(f"{username} has been created before; the password was written to {file}")
    verbs_status.live_release(site)
    password = secrets_module.token_urlsafe(15)
    values = {"USERNAME": username, "EMAIL": email, "PASSWORD": password}
    variables = {f"DJANGO_SUPERUSER_{key}": value for key, value in values.items()}
    new = file.with_name(f".{file.name}")
    was_killed = new.exists()  # a call, perhaps once the user existed: its password is the one to keep
    if not was_killed:
        host_file.write(new, environment_files.environment_file(variables), mode=0o600)
    try:
        created_by = _created_superuser(name, command, str(new))
    except DeploymentError as error:
        if was_killed:
            error.hint = f"where {username} exists, a call that was killed has created it, with the password in {new}"
        else:
            new.unlink()
        raise
    new.replace(file)
    return {"username": username, "password_file": str(file), **created_by}


def _created_superuser(name: str, command: Sequence[str], environment_file: str) -> dict[str, str]:
    """Run the command that creates a superuser; return what created it, if not that command."""
    try:
        manage(name, command or ["createsuperuser", "--noinput"], environment_file, timeout=300)
    except DeploymentError as error:
        if not error.message.startswith("manage.py"):
            raise
        error.hint = error.hint or (
            f"if the command requires more, give all of it: django.superuser {name} command='createsuperuser --noinput "
            "--first_name Ada'; DJANGO_SUPERUSER_USERNAME, _EMAIL and _PASSWORD are in its environment"
        )
        if command or not _is_created_by_django(name, environment_file):
            raise
        return {"created_by": "Django's own createsuperuser, since the project's failed"}
    return {}


def _is_created_by_django(name: str, environment_file: str) -> bool:
    """Run Django's own command, if the project's is another one; return whether it created the user."""
    try:
        manage(name, ["shell", "-c", _DJANGOS_OWN], environment_file, timeout=300)
    except DeploymentError:
        return False
    return True
