"""What people do by hand: release, go back, rotate the key, run a command; each reads what the last apply left here."""

import re
import secrets as secrets_module
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import django_instance
import django_program
import django_release
import django_secret
import django_settings
import django_site
import django_steps
from django_command import DeploymentError, redact
from django_deployment import Deployment
from django_release import Release


def release(
    name: str, revision: str | None = None, asked_by: str = "django.release"
) -> tuple[Deployment, dict[str, Any]]:
    """Release a site as its last apply configured it, even if it was held back, has failed or is unchanged.

    Raises:
        DeploymentError: a step fails.
    """
    site = django_site.find(name)
    deployment = Deployment(site, {}, site.kept_templates(), asked_by=asked_by, revision=revision, again=True)
    return deployment, django_steps.walk(deployment, django_steps.RELEASE)


def rotate_secret_key(name: str, asked_by: str = "django.rotate_secret_key") -> tuple[Deployment, dict[str, Any]]:
    """Give a site a new secret key, by a release of the live commit; the old key becomes a fallback.

    Raises:
        DeploymentError: the pillar gives the key, nothing is live, or a step fails.
    """
    site = django_site.find(name)
    live = _live(site)
    if site.config["secret_key"]:
        raise DeploymentError(
            f"the pillar gives {name} its secret key", hint="change it there, and apply: the old one stays a fallback"
        )
    deployment = Deployment(
        site, {}, site.kept_templates(), asked_by=asked_by, revision=live.record["commit"], again=True
    )
    with deployment.step("rotate_secret_key"):
        deployment.take_lock()
        django_secret.keep(site, "secret_key", django_secret.generate(site, "secret_key"))
    return deployment, django_steps.walk(deployment, django_steps.RELEASE)


def rollback(name: str, asked_by: str = "django.rollback") -> tuple[Deployment, dict[str, Any]]:
    """Go back to the newest good release before the live one, and hold the live one's commit back.

    Raises:
        DeploymentError: there is none, or it does not come up; the live one stays live then.
    """
    site = django_site.find(name)
    deployment = Deployment(site, {}, site.kept_templates(), asked_by=asked_by)
    with deployment.step("rollback"):
        deployment.take_lock(look_again=True)
        deployment.left = left = _live(site)
        target = django_release.older_good(site, left)
        if not target:
            raise DeploymentError(
                f"{name} has no older good release to go back to", hint=f"salt-call django.releases {name} lists them"
            )
        deployment.release, deployment.commit = target, target.record["commit"]
        deployment.secrets = django_secret.values(site, {})
        deployment.warnings += _newer_migrations(left, target)
    return deployment, django_steps.walk(deployment, django_steps.BACK)


def _newer_migrations(left: Release, target: Release) -> list[str]:
    """A warning for each database that has migrations which the release that comes back does not know."""
    warnings = []
    for alias, names in left.facts.get("migrations", {}).items():
        known = target.facts.get("migrations", {}).get(alias, {}).get("applied", [])
        newer = sorted(set(names["applied"]) - set(known))
        if newer:
            warnings.append(
                f"the database {alias!r} keeps migrations that {target.name} does not know: {', '.join(newer)}"
            )
    return warnings


def manage(name: str, command: Sequence[str], environment_file: str | None, timeout: float) -> str:
    """Run a management command of the live release; returns what it prints.

    Raises:
        DeploymentError: nothing is live, the file is not there, or the command fails.
    """
    site = django_site.find(name)
    live = _live(site)
    if environment_file and not Path(environment_file).is_file():
        raise DeploymentError(f"there is no file {environment_file} on this host")
    secrets = list(django_secret.values(site, {}).values())
    return django_program.manage(site, live.path, live.facts, command, environment_file, timeout, secrets)


def superuser(name: str, username: str, email: str) -> dict[str, str]:
    """Create a superuser with a generated password, which is kept in a file that only root reads.

    The file is the environment of the command that creates the user, and it gets its name only when the user exists.

    Raises:
        DeploymentError: there is such a user already, or the project has no users.
    """
    site = django_site.find(name)
    if not re.fullmatch(r"[A-Za-z0-9_.@+-]+", username) or not re.fullmatch(r"[A-Za-z0-9_.@+-]*", email):
        raise DeploymentError("a username and an e-mail address are of letters, digits and @ . + - _ only")
    file = site.secrets / f"superuser-{username}"
    if file.exists():
        raise DeploymentError(f"{username} has been created before; the password was written to {file}")
    password = secrets_module.token_urlsafe(15)
    values = {"USERNAME": username, "EMAIL": email, "PASSWORD": password}
    variables = {f"DJANGO_SUPERUSER_{key}": value for key, value in values.items()}
    new = file.with_name(f".{file.name}")
    django_site.write(new, django_settings.environment_file(variables), mode=0o600)
    try:
        manage(name, ["createsuperuser", "--noinput"], str(new), timeout=300)
    except DeploymentError:
        new.unlink()
        raise
    new.replace(file)
    return {"username": username, "password_file": str(file)}


def migrate(name: str, asked_by: str = "django.migrate") -> dict[str, Any]:
    """Migrate the databases of the live release; returns what has been applied, and the warnings of the checks.

    Raises:
        DeploymentError: nothing is live, or a migration fails.
    """
    site = django_site.find(name)
    deployment = Deployment(site, {}, site.kept_templates(), asked_by=asked_by)
    with deployment.step("migrate"):
        deployment.take_lock(look_again=True)
        live = _live(site)
        secrets = list(django_secret.values(site, {}).values())
        before = live.facts["migrations"]
        answer = django_program.migrate(site, live.path, live.facts, secrets)
        live.update(facts={**live.facts, **answer})
        deployment.lock.release()
    after = {
        alias: set(names["applied"]) - set(before[alias]["applied"]) for alias, names in answer["migrations"].items()
    }
    return {"migrated": {alias: sorted(names) for alias, names in after.items()}, "warnings": answer["checks"]}


def collectstatic(name: str, asked_by: str = "django.collectstatic") -> tuple[Deployment, dict[str, Any]]:
    """Collect static files anew, by a release of the live commit: a release itself is never changed.

    Raises:
        DeploymentError: nothing is live, or a step fails.
    """
    live = _live(django_site.find(name))
    return release(name, live.record["commit"], asked_by)


def check(name: str) -> list[str]:
    """What Django's checks say of the live release, those for deployment too.

    Raises:
        DeploymentError: nothing is live, or a check fails as ``check`` in the pillar has it.
    """
    site = django_site.find(name)
    live = _live(site)
    return django_program.check(site, live.path, live.facts, list(django_secret.values(site, {}).values()))


def secret_key(name: str) -> dict[str, Any]:
    """Fingerprints of a site's secret key and its fallbacks: they tell whether two hosts have the same key, no more.

    Raises:
        DeploymentError: the site has no key yet.
    """
    site = django_site.find(name)
    key = django_secret.values(site, {}).get("secret_key")
    if not key:
        raise DeploymentError(f"{name} has no secret key yet", hint="salt-call state.apply django")
    return {
        "fingerprint": django_secret.fingerprint(key),
        "fallbacks": [django_secret.fingerprint(old) for old in django_secret.fallbacks(site)],
        "given_by": "pillar" if site.config["secret_key"] else "generated",
        "file": str(django_secret.path_of(site, "secret_key")),
    }


def config(name: str) -> dict[str, Any]:
    """The configuration as last applied, secrets as references to their place in the pillar."""
    return dict(django_site.find(name).config)


def logs(name: str, lines: int) -> str:
    """The last lines of the live release's log.

    Raises:
        DeploymentError: nothing is live, or the log cannot be read.
    """
    site = django_site.find(name)
    live = _live(site).path
    text = django_instance.keeper(site, live).log(site, live, int(lines))
    return redact(text, django_secret.values(site, {}).values())


def _live(site: django_site.Site) -> Release:
    live = django_release.linked(site, site.current)
    if not live:
        raise DeploymentError(f"{site.name} has no live release", hint="salt-call state.apply django")
    return live
