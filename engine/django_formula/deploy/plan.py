"""A plan: the next release is built in a folder of its own, to report what it would change, and removed again."""

import contextlib
import os
import secrets as secrets_module
from collections.abc import Iterator, Mapping
from typing import Any

from django_formula.container import images
from django_formula.deploy import (
    difference,
    migration,
    preflight,
    proof_begin,
    replay,
    step_build,
    step_database,
    step_settings,
    step_source,
    step_static,
)
from django_formula.deploy.deployment import Deployment
from django_formula.host import config_files, file, folders
from django_formula.host.commands import DeploymentError, redact
from django_formula.inspect import project
from django_formula.process import contract
from django_formula.project import program as project_program
from django_formula.proxy import moves, waiting
from django_formula.release import disk, instances, releases
from django_formula.release.releases import Release
from django_formula.secret import secrets
from django_formula.site import sites
from django_formula.virtualenv import virtualenvs
from django_formula.worker import workers

#: The program that reads the effective settings of a release; it is copied to a folder of its own.
SETTINGS_PROGRAM = "salt://django/files/django_formula_plan.py"

Plan = dict[str, Any]
#: One effective setting: its text, None where it is hidden, and a keyed hash of its value.
Setting = Mapping[str, str | None]
_SHOWN = 300


def make(name: str, revision: str | None = None, asked_by: str = "django.plan") -> Plan:
    """Return what ``django.release`` would do now: build the release, compare it with the active one, remove it.

    Raises:
        DeploymentError: there is no active release, or a step fails as it would in the release.
    """
    site = sites.find(name)
    templates = site.kept_templates()
    options: dict[str, Any] = {"asked_by": asked_by, "revision": revision}
    deployment = Deployment(site, {}, templates, **options, again=True, test=True, aside=True)
    try:
        return _plan(deployment)
    except DeploymentError as error:
        error.log, error.message = (
            redact(text, deployment.secrets.masked()) for text in (error.log, f"plan: {error.message}")
        )
        raise
    finally:
        deployment.lock.release()


def _plan(deployment: Deployment) -> Plan:
    site, live = deployment.site, deployment.live
    if not live:
        raise DeploymentError(f"{site.name} has no live release to compare with", hint="salt-call state.apply django")
    recorded, inputs = deployment.find_inputs()
    python = disk.interpreter_difference(site, live)
    if live.record.get("inputs") == inputs and disk.is_whole(live) and not python:
        return {"release": f"none: {live.name} is of this commit, and nothing else has changed"}
    deployment.plan(releases.next_name(site, deployment.findings.commit))
    changes = step_source.differences(deployment, recorded, inputs)
    changes |= {"python": python} if python else {}
    outlook = preflight.check_host(deployment, changes)  # before the plan itself uses disk space
    with _aside(deployment) as release:
        _build(deployment, release)
        changes.pop("migrations", None)  # new files; the start of Django tells which of them are pending
        plan = {"release": {"old": live.name, "new": release.name}, **changes, **outlook.changes()}
        plan |= _packages(live, release)
        ungenerated = secrets.missing(site, deployment.secrets.by_name, recorded)
        if ungenerated:
            why = f"{', '.join(ungenerated)} would have to be generated, which a plan does not do"
            return {**plan, "not known": f"migrations, settings, rendered files: {why}"}
        deployment.warn(outlook.warnings)
        plan |= _start(deployment, live, release)
        masked = deployment.secrets.masked()
        refusals = [redact(str(error), masked) for error in (outlook.refusal, _refusal(deployment)) if error]
        warnings = [redact(text, masked) for text in deployment.warnings]
        return {
            **plan,
            **_differences(deployment, live, release),
            **({"refused": "\n".join(refusals)} if refusals else {}),
            **({"warnings": warnings} if warnings else {}),
        }


@contextlib.contextmanager
def _aside(deployment: Deployment) -> Iterator[Release]:
    """Yield a release in a folder of this process, apart from the site's releases; remove it in any case."""
    site, umask = deployment.site, os.umask(0o022)
    disk.clear_plans(site)
    folder = site.root / f"plan-{os.getpid()}"
    file.remove_tree(folder)
    try:
        (folder / deployment.findings.planned).mkdir(parents=True)
        yield Release(site, deployment.findings.planned, folder)
    finally:
        os.umask(umask)
        file.remove_tree(folder)
        images.prune(site, images.used(site))


def _build(deployment: Deployment, release: Release) -> None:
    """Export and build the source; hold the lock while what releases share is used: mirror, virtualenvs, build user.

    The virtualenv is kept: the release will have the same. Builds end all processes of the build user.
    """
    site = deployment.site
    deployment.begin(release)
    deployment.take_lock()
    step_source.export(deployment, release)
    found = project.find(site, release.path / "source")
    release.update(name=release.name, facts={"commit": deployment.findings.commit, **found})
    list(step_build.virtualenv(deployment))
    list(step_build.build(deployment))
    deployment.lock.release()


def _packages(live: Release, release: Release) -> Plan:
    """Return the packages that are added, removed, or get another version."""
    old = live.record.get("packages") or virtualenvs.packages(live.path / "virtualenv")
    new = release.record["packages"]
    found = {
        "added": {name: new[name] for name in sorted({*new} - {*old})},
        "removed": {name: old[name] for name in sorted({*old} - {*new})},
        "changed": {n: f"{old[n]} → {new[n]}" for n in sorted({*old} & {*new}) if old[n] != new[n]},
    }
    changes = {key: value for key, value in found.items() if value}
    return {"packages": changes} if changes else {}


def _start(deployment: Deployment, live: Release, release: Release) -> Plan:
    """Start Django as the release would; return its pending migrations and the changed settings."""
    site = deployment.site
    list(step_settings.settings(deployment))
    folder = release.path / "static"
    folders.make(folders.Folder(folder, site.user, site.user, 0o755))
    answer = project_program.start(site, release.path, release.facts, deployment.secrets.masked(), task=_task())
    step_static.record_start(deployment, release, answer)
    pending = migration.recorded_schema(release) or migration.pending(site, release, is_new=True)
    migrations = {"migrations": pending} if pending else {}
    pushed = step_static.push_outlook(deployment, release)
    return {**migrations, **pushed, **_settings(deployment, live, release)}


def _refusal(deployment: Deployment) -> DeploymentError | None:
    """Return why the step `migration` would refuse the release; nothing is migrated."""
    try:
        next(step_database.migration(deployment), None)
    except DeploymentError as error:
        return error
    return None


def _task() -> str:
    """Return the task name of a plan's commands: a deployment may run its own at the same time."""
    return f"plan-{os.getpid()}"


def _settings(deployment: Deployment, live: Release, release: Release) -> Plan:
    """Return the effective settings that differ; those that Django hides, or that contain a secret, by name only."""
    site = deployment.site
    if SETTINGS_PROGRAM not in deployment.templates:
        return {"settings": "not known: the last apply was by an older formula, without the program that reads them"}
    folder = release.path / "plan"
    folders.make(folders.Folder(folder, "root", site.user, 0o750))
    for url in (SETTINGS_PROGRAM, SETTINGS_PROGRAM.replace("_plan", "_start")):
        file.write(folder / url.rpartition("/")[2], deployment.templates[url], mode=0o640, group=site.user)
    own = [value for value in [*deployment.secrets.by_name.values(), *secrets.fallbacks(site)] if len(value) > 3]
    request = {"mode": "settings", "key": secrets_module.token_hex(), "secrets": own}
    found = []
    for one in (live, release):
        names = [str(one.path), one.name]
        asked = {**request, "application": one.facts["application"], "names": names}
        program = folder / SETTINGS_PROGRAM.rpartition("/")[2]
        try:
            answer = project_program.settings(
                site, one.path, one.facts, program, asked, deployment.secrets.masked(), _task()
            )
        except DeploymentError as error:
            return {"settings": f"not known, since {one.name} does not start: {error.message}"}
        found.append(answer)
    changed = dict(_changed_settings(*found))
    masked = {name: redact(text, deployment.secrets.masked()) for name, text in changed.items()}
    return {"settings": masked} if masked else {}


def _changed_settings(old: Mapping[str, Setting], new: Mapping[str, Setting]) -> Iterator[tuple[str, str]]:
    for name in sorted({*old, *new}):
        before, after = (one.get(name, {"text": "", "hash": ""}) for one in (old, new))
        if before["hash"] == after["hash"]:
            continue
        texts = [before["text"], after["text"]]
        if None in texts or texts[0] == texts[1]:
            yield name, "changed" if name in old and name in new else "new" if name in new else "gone"
        else:
            shown = [(text or "")[:_SHOWN] for text in texts]
            yield name, f"{shown[0] or 'not set'} → {shown[1] or 'not set'}"


def _workers(live: Release, release: Release) -> list[str]:
    """Return which units of workers would start and stop."""
    site = live.site
    old = [contract.unit(site, live.path, name) for name in workers.recorded(live.path)]
    new = [contract.unit(site, release.path, name) for name in workers.configured(site)]
    starts = f"{', '.join(new)} start, and take tasks once the release is active" if new else ""
    stops = f"{', '.join(old)} take no tasks from the switch on, finish those that they have, and end" if old else ""
    return [text for text in (starts, stops) if text]


def _meanwhile(deployment: Deployment, live: Release) -> str:
    return "requests wait" if waiting.works(deployment.site, live) else "visitors get errors"


def _differences(deployment: Deployment, live: Release, release: Release) -> Plan:
    """Return the files that would change, and what would be started, stopped and reloaded."""
    site, templates, masked = deployment.site, deployment.templates, deployment.secrets.masked()
    files = difference.of_instance(live, release.path, release.facts, templates, masked)
    of_proxy = config_files.differences(moves.handover_files(site, release.facts, templates, upcoming=True, alone=True))
    files |= {path: redact(text, masked) for path, text in of_proxy.items()}
    old, new = (contract.unit(site, one.path) for one in (live, release))
    drain = site.config["releases"]["drain"]
    restarts = (
        [f"{new} starts next to {old}, which is stopped after the switch once it is idle, at the latest after {drain}"]
        if site.config["releases"]["overlap"]
        else [f"{old} is stopped, then {new} starts: {_meanwhile(deployment, live)} meanwhile (releases:overlap)"]
    )
    restarts += _workers(live, release)
    kind = instances.next_kind(site)
    reloads = [
        *(["its files change"] if of_proxy else []),
        *(["as part of the switch"] if "tcp" in kind or kind != instances.kind(live.path) else []),
    ]
    kind = site.config["proxy"]["kind"]
    if kind != "none":
        restarts.append(f"{kind} is reloaded: {', '.join(reloads)}" if reloads else f"{kind} is not reloaded")
    proof = replay.outlook(site, live)
    shares = {"canary": proof_begin.outlook(site)} if live and proof_begin.is_wanted(site) else {}
    return {
        **({"rendered": files} if files else {}),
        "restarts": restarts,
        **({"replay": proof} if proof else {}),
        **shares,
    }
