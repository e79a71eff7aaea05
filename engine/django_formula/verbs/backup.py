"""The verbs of backups: make one, restore one, and try whether the newest can be restored."""

from typing import Any

from django_formula.backup import backups
from django_formula.backup import restore as backup_restore
from django_formula.deploy import steps
from django_formula.deploy.deployment import Deployment
from django_formula.host.commands import DeploymentError
from django_formula.release import claim, disk
from django_formula.release.releases import Release
from django_formula.secret import secrets
from django_formula.site import sites
from django_formula.verbs.status import live_release as _live


def backup(name: str, asked_by: str = "django.backup") -> dict[str, Any]:
    """Back up the databases of a site; return the files that were made, and those that were deleted for them.

    Raises:
        DeploymentError: there is no active release, or a database cannot be backed up.
    """
    site = sites.find(name)
    before = {one["name"] for one in backups.manifests(site)}
    made = backups.make(site, _live(site), why=backups.BY_COMMAND, secrets=secrets.known(site))
    gone = sorted(before - {one["name"] for one in backups.manifests(site)})
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
    site = sites.find(name)
    if rollback:
        claim.refuse_alone(site, "rollback")
    deployment = Deployment(site, {}, site.kept_templates(), asked_by=asked_by)
    with deployment.step("restore"):
        deployment.take_lock(look_again=True)
        live = _live(site)
        deployment.secrets.read()
        to = _made_under(site, which, live) if rollback else None

        def go_back() -> None:
            if to:
                deployment.return_to(to, live)
            steps.walk(deployment, steps.BACK)

        options: dict[str, Any] = {"to": to, "serve": go_back} if to else {}
        answer = backup_restore.restore(
            site, live, which, media=media, queue=queue, migrate=migrate, secrets=deployment.secrets.masked(), **options
        )
        deployment.lock.release()
    return {**answer, "release": (to or live).name}


def _made_under(site: sites.Site, which: str | None, live: Release) -> Release | None:
    """Return the release that a backup was made under; None where it is the active one."""
    release = Release(site, backups.find(site, which)[0]["release"])
    if release.name == live.name:
        return None
    if not disk.is_whole(release) or release.record.get("state") not in ("good", "held"):
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
    site = sites.find(name)
    return backup_restore.drill(site, _live(site), secrets.known(site))
