"""The steps `static` and `push`: one start of Django, which collects static files and reads the effective settings."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from django_formula.database import databases as database_databases
from django_formula.database import sqlite
from django_formula.deploy import coherence, commands, faults
from django_formula.deploy import database as deploy_database
from django_formula.deploy.deployment import Changes, Deployment
from django_formula.host import folders, template, users
from django_formula.host.commands import DeploymentError
from django_formula.project import program
from django_formula.push import static_files
from django_formula.release import instances, releases, settings
from django_formula.release import static as release_static
from django_formula.release.releases import Release
from django_formula.secret import secrets
from django_formula.site.sites import Site
from django_formula.untrusted.foreign import SERVED, Foreign
from django_formula.untrusted.text import Log, in_pillar

log = Log.of(__name__)


def static(deployment: Deployment) -> Iterator[Changes]:
    """Start Django once: collect static files, read the effective settings, list the pending migrations."""
    site, release = deployment.site, deployment.release
    if not deployment.is_new or not release:
        return
    collected = "collected" if site.config["static"]["collect"] else "not collected (static:collect is false)"
    yield {"static": collected, **commands.changes(deployment, "after_static")}
    if deployment.findings.takeover:
        deployment.findings.takeover.hand_over()
    folder = release.path / "static"
    folders.make(folders.Folder(folder, site.user, site.user, 0o755))
    log.info("%s: starting Django and collecting static files", site.name)
    with ThreadPoolExecutor(1) as pool:  # this process is idle while Django starts
        urls = instances.templates(site)
        pool.submit(template.compile_templates, deployment.templates, urls)
        answer = program.start(
            site, release.path, release.facts, deployment.secrets.masked(), write_ahead=not deployment.findings.takeover
        )
    found = answer.get("faults", {})
    record_start(deployment, release, answer)
    commands.run_stage(deployment, "after_static", writable=[folder])
    _take_static_files(site, folder)
    faults.not_collected(deployment, release, found)


def _take_static_files(site: Site, folder: Path) -> None:
    """Give the collected files to root.

    Raises:
        DeploymentError: there is a link among them, whose target the proxy would serve, or another special file.
    """
    try:
        Foreign(folder).give(users.ROOT, SERVED, of=users.user_id(site.user), links=False)
    except DeploymentError as error:
        error.hint = "STATIC_ROOT may contain only files and folders, since the proxy serves all of it"
        raise


def record_start(deployment: Deployment, release: Release, answer: dict[str, Any]) -> None:
    """Record what the start of Django has reported.

    Raises:
        DeploymentError: the release would not be secure, or would lose or not find the site's data.
    """
    schema, own_files, found = (answer.pop(name, {}) for name in ("schema", "own_files", "faults"))
    _refuse_two_databases(deployment.site, release, answer["databases"], own_files)
    deployment.warn([*_project_warnings(deployment.site, release, answer), *_lost_sessions(deployment, answer)])
    deployment.warn(faults.warnings(deployment.site, release, found))
    if deployment.findings.takeover:
        deployment.findings.takeover.check(release, answer["databases"])
    release.update(facts={**release.facts, **answer}, **({"schema": schema} if schema else {}))
    if deployment.live:
        deployment.warn(deploy_database.refuse_empty(deployment.live, release))
    coherence.judge_celery(deployment, release, answer.get("celery", {}))


def _project_warnings(site: Site, release: Release, answer: dict[str, Any]) -> list[str]:
    """Return warnings where the project contradicts the pillar.

    Raises:
        DeploymentError: the release would not be secure, or would lose its data.
    """
    at = site.at
    if answer["settings_module"] != answer["expected_settings_module"]:
        raise DeploymentError(
            f"the project overrides DJANGO_SETTINGS_MODULE with {answer['settings_module']}",
            hint=f"set {at}:settings_module: {in_pillar(answer['settings_module'])}, if the site is to have those "
            f"settings; otherwise use os.environ.setdefault in {release.facts['application']}",
        )
    if answer["debug"]:
        raise DeploymentError(
            "DEBUG is on",
            hint=f"turn it off in the project's environment: {at}:environment, "
            f"or let the overlay do it: {at}:overlay: true",
        )
    database_databases.check_settings(site, answer["databases"])
    _refuse_database_in_release(site, release, answer["databases"])
    if answer.get("empty_former_key"):
        raise DeploymentError(
            "SECRET_KEY_FALLBACKS in the project's settings contains an empty key, with which anyone can sign anything",
            hint="leave out empty strings where its variable is split: [key for key in text.split(',') if key]",
        )
    return list(coherence.contradictions(site, answer))


def _refuse_database_in_release(site: Site, release: Release, databases: dict[str, Any]) -> None:
    at = site.at
    for alias, database in databases.items():
        path = database_databases.database_file(site, release.path, release.facts, database)
        is_inside = path is not None and path.is_relative_to(release.path)
        if path and is_inside and not sqlite.resolved(site, path)[0].is_relative_to(site.shared.top):
            raise DeploymentError(
                f"the database {alias!r} is inside the release ({database['name']}) and would be deleted with it",
                hint=f"add its file to {at}:shared, "
                f"or set its path: {at}:environment, {{from: database_path}}, with database: {{engine: sqlite}}",
            )


def _refuse_two_databases(site: Site, release: Release, databases: dict[str, Any], own_files: dict[str, str]) -> None:
    """Refuse a SQLite file of the pillar where the project's own, in ``shared/``, has tables too.

    Args:
        own_files: the SQLite files of the project's settings without the overlay, by alias.

    Raises:
        DeploymentError: commands of the project that name their file would use another database than the site.
    """
    for alias, name in own_files.items() if settings.uses_shared(site) else ():
        path = alias in databases and database_databases.database_file(
            site, release.path, release.facts, databases[alias]
        )
        if not path or str(path) == name:
            continue
        used, own, shared = sqlite.resolved(site, path, Path(name), site.shared.top)
        if used != own and own.is_relative_to(shared) and sqlite.applied(site, own):
            key = database_databases.pillar_key(site, alias)
            raise DeploymentError(
                f"the database {alias!r} is in two places: {path}, which {key}:name sets, and {own}, which the "
                f"project's settings name",
                hint=f"remove {key}:name, or move {own} away",
            )


def _lost_sessions(deployment: Deployment, answer: dict[str, Any]) -> list[str]:
    """Return a warning where the secret key has changed and the project does not accept the former one."""
    site, live = deployment.site, deployment.live
    before = live.record["inputs"].get("secrets:secret_key") if live else None
    is_new = before and before != deployment.inputs()["secrets:secret_key"]
    if not is_new or answer.get("former_keys", 1) >= len(secrets.fallbacks(site)):
        return []
    why = f"Django {answer['django']} does not support SECRET_KEY_FALLBACKS"
    if not answer["django"].startswith(("1.", "2.", "3.", "4.0")):
        why = "SECRET_KEY_FALLBACKS in the project's settings does not contain the former key"
    return [f"the secret key has changed, and every session ends with this release: {why}"]


def push(deployment: Deployment) -> Iterator[Changes]:
    """Push the static files of a new release that are missing at the destination."""
    site, release = deployment.site, deployment.release
    if not deployment.is_new or not release or not static_files.configured(site):
        return
    changes: Changes = {"pushed": f"to {static_files.place(site)}"}
    yield changes
    names = _names(release)
    if "gzip" in site.config["static"]["compress"]:
        former = deployment.live.path / "static" if deployment.live else None
        release_static.compress(release.path / "static", former)
    log.info("%s: pushing static files to %s", site.name, static_files.place(site))
    sent = static_files.send(site, release.path / "static", names, deployment.secrets.of(static_files.SECRET))
    release.update(pushed={"files": len(names), "sent": len(sent)})
    changes["pushed"] = f"{len(sent)} of {len(names)} files to {static_files.place(site)}"


def push_outlook(deployment: Deployment, release: Release) -> Changes:
    """Return what a push would send of a planned release, by what this host has pushed before; nothing is connected.

    Raises:
        DeploymentError: its static files have no hash in their names.
    """
    if not static_files.configured(deployment.site):
        return {}
    names = _names(release)
    new = {*names} - static_files.pushed(deployment.site)
    return {"pushed": f"{len(new)} of {len(names)} files to {static_files.place(deployment.site)}"} if new else {}


def prune_pushed(deployment: Deployment) -> None:
    """Delete what was pushed and no kept release names; where that fails, the next release tries it again."""
    site = deployment.site
    kept = [one for one in releases.releases(site) if one.record.get("state") in ("good", "held")]
    folders = [(one.path / "static", one.facts.get("static_storage", {})) for one in kept]
    try:
        count = static_files.prune(site, folders, deployment.secrets.of(static_files.SECRET))
    except (DeploymentError, OSError) as error:
        deployment.warn([f"static files of deleted releases stay at {static_files.place(site)}: {error}"])
        return
    if count:
        log.info("%s: deleted %d static files of deleted releases", site.name, count)


def _names(release: Release) -> list[str]:
    return static_files.names(release.site, release.path / "static", release.facts.get("static_storage", {}))
