"""The verbs of backups: make one, restore one, and try whether the newest can be restored."""

from typing import Any

import django_backup
import django_backup_restore
import django_deploy_steps
import django_release_claim
import django_release_disk
import django_secret
import django_site
from django_deploy import Deployment
from django_host_command import DeploymentError
from django_release import Release
from django_verbs_attempt import live as _live


def backup(name: str, asked_by: str = "django.backup") -> dict[str, Any]:
    """Back up the databases of a site; return the files that were made, and those that were deleted for them.

    Raises:
        DeploymentError: there is no active release, or a database cannot be backed up.
    """
    site = django_site.find(name)
    before = {one["name"] for one in django_backup.manifests(site)}
    made = django_backup.make(site, _live(site), why=django_backup.BY_COMMAND, secrets=django_secret.known(site))
    gone = sorted(before - {one["name"] for one in django_backup.manifests(site)})
    return {"made": [str(path) for path in made], "deleted": gone}


def restore(
    name: str,
    which: str | None = None,
    *,
    media: bool = False,
    queue: bool = False,
    migrate: bool = False,
    rollback: bool = False,
    asked_by: str = "django.restore",
) -> dict[str, Any]:
    """Restore a backup instead of a site's data, which is kept under another name.

    Args:
        rollback: activate the release that the backup was made under, too.

    Raises:
        DeploymentError: it does not fit, or cannot be restored; the data stays unchanged then.
    """
    site = django_site.find(name)
    if rollback:
        django_release_claim.refuse_alone(site, "rollback")
    deployment = Deployment(site, {}, site.kept_templates(), asked_by=asked_by)
    with deployment.step("restore"):
        deployment.take_lock(look_again=True)
        live = _live(site)
        deployment.secrets.read()
        to = _made_under(site, which, live) if rollback else None

        def go_back() -> None:
            if to:
                deployment.return_to(to, live)
            django_deploy_steps.walk(deployment, django_deploy_steps.BACK)

        options: dict[str, Any] = {"to": to, "serve": go_back} if to else {}
        answer = django_backup_restore.restore(
            site, live, which, media=media, queue=queue, migrate=migrate, secrets=deployment.secrets.masked(), **options
        )
        deployment.lock.release()
    return {**answer, "release": (to or live).name}


def _made_under(site: django_site.Site, which: str | None, live: Release) -> Release | None:
    """Return the release that a backup was made under; None where it is the active one."""
    release = Release(site, django_backup.find(site, which)[0]["release"])
    if release.name == live.name:
        return None
    if not django_release_disk.is_whole(release) or release.record.get("state") not in ("good", "held"):
        raise DeploymentError(
            f"the release {release.name}, which the backup was made under, is not on this host any more",
            hint=f"migrate=True brings the backup to what {live.name} needs",
        )
    return release


def restore_drill(name: str) -> dict[str, Any]:
    """Load the newest backup into temporary databases, and check that the active release works with it.

    Raises:
        DeploymentError: there is no active release, no backup, or it is not usable.
    """
    site = django_site.find(name)
    return django_backup_restore.drill(site, _live(site), django_secret.known(site))
