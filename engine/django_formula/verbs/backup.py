"""The verbs of backups: make one, restore one, try whether the newest can be restored; and of the copies elsewhere."""

from collections.abc import Callable
from typing import Any

from django_formula.backup import backups
from django_formula.backup import restore as backup_restore
from django_formula.deploy import steps
from django_formula.deploy.deployment import Deployment
from django_formula.host.commands import DeploymentError
from django_formula.offsite import copies, fetching, program, repository
from django_formula.offsite import rebuild as offsite_rebuild
from django_formula.points import archive, moment
from django_formula.points import drill as points_drill
from django_formula.points import program as points_program
from django_formula.proof import unit as proof_unit
from django_formula.proxy import maintenance
from django_formula.release import claim, disk, releases
from django_formula.release.releases import Release
from django_formula.secret import secrets
from django_formula.site import sites
from django_formula.untrusted.text import in_command
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
    offsite: bool = False,
    at: str | None = None,
    compare: bool = False,
    asked_by: str = "django.restore",
) -> dict[str, Any]:
    """Restore a backup instead of a site's data, which is kept under another name.

    Args:
        rollback: activate the release that the backup was made under, too.
        offsite: fetch the backup from the copies elsewhere.
        at: make the backup of the archive, as the databases were at that moment.
        compare: restore nothing, and return what differs.

    Raises:
        DeploymentError: it does not fit, or cannot be restored; the data stays unchanged then.
    """
    site = sites.find(name)
    if rollback:
        claim.refuse_alone(site, "rollback")
    if sum(map(bool, (offsite, at, which if at else None))) > 1:
        raise DeploymentError("at names a moment: neither a backup nor offsite has an effect with it")
    if offsite:
        which = fetch(site, which, media=media)
    if at:
        which = moment.fetch(site, _live(site), at, secrets.known(site))
    if compare:
        return backup_restore.compare(site, _live(site), which, secrets.known(site))
    deployment = Deployment(site, {}, site.kept_templates(), asked_by=asked_by)
    with deployment.step("restore"):
        deployment.take_lock(look_again=True)
        live = _live(site)
        deployment.secrets.read()
        which = backups.find(site, which)[0]["backup"] if rollback and not which else which
        to = _made_under(site, which, live) if rollback else None
        proof_unit.supersede(site, "a backup is restored")

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


def points(name: str) -> dict[str, Any]:
    """Do what is due of the archive of a site's server now, and return which moments there are.

    Raises:
        DeploymentError: there is none, the store cannot be reached, or refuses it.
    """
    site = sites.find(name)
    if archive.options(site.config):
        failures = points_program.work("django.points")
        if failures:
            raise failures[0]
    return moment.coverage(site)


def restore_drill(name: str, *, offsite: bool = False, points: bool = False) -> dict[str, Any]:
    """Load the newest backup into temporary databases, and check that the active release works with it.

    Args:
        offsite: fetch the newest copy elsewhere, and load that.
        points: restore the server aside from its archive, as it is now, and read each row.

    Raises:
        DeploymentError: there is no active release, no backup, or it is not usable.
    """
    site = sites.find(name)
    if points:
        return {"result": "; ".join(_drilled(site))}
    if not offsite:
        return backup_restore.drill(site, _live(site), secrets.known(site))
    _work(site, [copies.DRILL])
    return {"result": copies.read_state(site)["drill"]}


def _drilled(site: sites.Site) -> list[str]:
    stanzas = [*dict.fromkeys(entry["stanza"] for entry in moment.recorded(site).values())]
    failures = points_drill.work(stanzas, "django.restore_drill")
    if failures:
        raise failures[0]
    recorded = archive.read_state()["clusters"]
    return [recorded[stanza]["drill"]["text"] for stanza in stanzas]


def offsite(name: str, *, forget: bool = False) -> dict[str, str]:
    """Copy the newest backup of a site elsewhere, check what is there, and return what `status` has of it.

    Args:
        forget: no longer expect the copies that are not there any more.

    Raises:
        DeploymentError: the pillar has no store, or it cannot be reached, or refuses it.
    """
    site = sites.find(name)
    if forget:
        with copies.lock(site, "django.offsite").held(), repository.opened(site) as store:
            copies.forget_missing(store)
    _work(site, [copies.CHECK, copies.COPY])
    return copies.status(site)


def copied(name: str) -> list[dict[str, Any]]:
    """Return the copies of a site elsewhere, the newest first: a row for each.

    Raises:
        DeploymentError: as `offsite`.
    """
    site = sites.find(name)
    with copies.lock(site, "django.backups", patience="5s").held(), repository.opened(site) as store:
        return copies.overview(store)


def fetch(site: sites.Site, which: str | None, *, media: bool) -> str:
    """Fetch a copy into the folder of backups, where it is a backup as others are; return its name.

    Args:
        which: its name; None for the newest.
        media: fetch its uploads too.

    Raises:
        DeploymentError: there is no such copy, it is damaged, or there is not enough room.
    """
    with copies.lock(site, "django.restore").held(), repository.opened(site) as store:
        copy = copies.find(store, which)
        fetching.into_backups(store, copy, uploads=media)
    return str(copy["backup"])


def rebuild(identity: str, apply: Callable[[], Any], *, queue: bool, asked_by: str) -> dict[str, Any]:
    """Make the sites of a bare host of their copies elsewhere: secrets, an apply, then databases and uploads.

    Sites that have a release on this host stay as they are. One whose data could not be restored stays in maintenance.

    Args:
        identity: the file of the recovery key.
        apply: applies the formula, and returns what Salt does of it.
        queue: restore the queues too; tasks that have run since the backup run again.

    Returns:
        What was restored of each site.

    Raises:
        DeploymentError: there is no copy, or the key does not open it; or an apply or a restore has failed. The data of
            the other sites is restored.
    """
    with offsite_rebuild.requested(identity):
        result = apply()
        fetched = offsite_rebuild.fetched()
    states = result.values() if isinstance(result, dict) else [{"result": False, "comment": line} for line in result]
    failures = [str(one["comment"]) for one in states if one["result"] is False]
    restored = {}
    for name, which in fetched.items():
        site = sites.find(name)
        if not releases.linked(site, site.current):
            continue
        kinds = {one["engine"] for one in backups.find(site, which)}
        chosen: dict[str, Any] = {"migrate": True, "media": "media" in kinds, "queue": queue and backups.QUEUE in kinds}
        try:
            answer = restore(name, which, asked_by=asked_by, **chosen)
            maintenance.off(site)
            restored[name] = {key: answer[key] for key in ("release", "restored", "rows")}
        except DeploymentError as error:
            words = [f"{key}=True" for key, is_chosen in chosen.items() if is_chosen]
            command = in_command("salt-call", "django.restore", name, which, *words)
            failures.append(f"{name}: {error.message}; once that is mended: {command}")
    if failures:
        raise DeploymentError(
            f"not all sites are rebuilt: {', '.join(restored) or 'none is'}",
            details=failures[:20],
            hint="correct what has failed, and run django.rebuild again for sites without a release; those in "
            "maintenance end it by django.maintenance SITE off",
        )
    if not fetched:
        raise DeploymentError(
            "each site of this host has a release already, or no store in backup:offsite",
            hint="to restore the data of one: salt-call django.restore SITE offsite=True",
        )
    return restored


def _work(site: sites.Site, tasks: list[str]) -> None:
    failures = program.work(_live(site), tasks, secrets.known(site))
    if failures:
        raise failures[0]
