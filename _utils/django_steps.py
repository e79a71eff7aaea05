"""The steps of a release, in their order.

A step is a generator: it looks, yields what it would change, and acts when it is resumed; one that finds nothing to do
yields nothing. The states run one step each; whoever only tests does not resume.
"""

import contextlib
import logging
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import django_command
import django_database
import django_index
import django_instance
import django_memory
import django_process
import django_program
import django_project
import django_proxy
import django_release
import django_secret
import django_settings
import django_site
import django_source
import django_static
import django_takeover
import django_virtualenv
from django_command import DeploymentError, seconds
from django_deployment import OVERLAY, START_PROGRAM, Deployment
from django_release import Release
from django_site import Site
from django_takeover import Takeover

log = logging.getLogger(__name__)

Changes = dict[str, Any]
Step = Callable[[Deployment], Iterator[Changes]]


def site(deployment: Deployment) -> Iterator[Changes]:
    """The site's folders, its registration, its configuration as applied, and the mirror with its keys."""
    site, templates = deployment.site, deployment.templates
    begun = deployment.takeover
    takeover = deployment.takeover = django_takeover.wanted(site)
    _refuse_closed_parents(site)
    django_proxy.refuse_taken_ports(site.name, site.config["proxy"]["listen"])
    folders = takeover.folders() if takeover else site.folders()
    wrong = {folder: problem for folder in folders if (problem := django_site.wrong_folder(folder))}
    applied = {"config": dict(site.config), "platform": dict(site.platform)}
    stale = [url for url, text in templates.items() if django_site.read_text(site.kept_template(url)) != text]
    changes: Changes = {str(folder.path): problem for folder, problem in wrong.items()}
    if django_site.read_json(site.applied) != applied:
        changes[str(site.applied)] = "new" if not site.applied.exists() else "changed"
    if stale:
        changes["templates"] = sorted(stale)
    if not site.is_registered():
        changes["registered"] = str(site.root)
    if takeover and (not begun or begun.plan != takeover.plan):
        changes["adopted"] = takeover.told()
    keys = django_source.unprepared(site, deployment.deploy_key)
    if keys:
        changes["mirror"] = keys
    if not django_index.is_kept(site, deployment.index_password):
        changes["index"] = "password kept" if deployment.index_password else "password removed"
    if changes:
        yield changes
        for folder in wrong:
            django_site.make_folder(folder)
        if takeover:
            takeover.write()
        for url in stale:
            django_site.write(site.kept_template(url), templates[url], mode=0o600)
        django_source.prepare(site, deployment.deploy_key)
        django_index.keep(site, deployment.index_password)
        django_site.write_json(site.applied, applied, mode=0o600)
        site.register()
    deployment.ask_for_commit()


def _refuse_closed_parents(site: Site) -> None:
    group = django_site.group_id(site.proxy_group)
    for parent in reversed(site.root.parents):
        try:
            status = os.stat(parent)
        except FileNotFoundError:
            return
        if not status.st_mode & 0o001 and not (status.st_gid == group and status.st_mode & 0o010):
            mode = f"{django_site.owner_of(status)} {status.st_mode & 0o7777:04o}"
            raise DeploymentError(
                f"{parent} is {mode}: it lets {site.proxy_group} not through to {site.root}",
                hint=f"chmod o+x {parent}, or choose another django:sites:{site.name}:root",
            )


def source(deployment: Deployment) -> Iterator[Changes]:
    """The commit that the revision names, exported; here it is decided whether there is a new release."""
    site, live = deployment.site, deployment.live
    if deployment.test and not (site.mirror / "HEAD").exists():
        deployment.planned = "the first release"
        yield {"release": f"would be built from {site.config['folder'] or site.config['revision']}"}
        return
    deployment.secrets = django_secret.values(site, deployment.given)
    recorded = deployment.recorded_inputs()
    django_secret.missing(site, deployment.secrets, recorded)
    deployment.commit = deployment.wanted_commit()
    inputs = deployment.inputs()
    if not deployment.again:
        if live and live.record.get("inputs") == inputs and live.is_whole():
            return
        if _stays_as_it_is(deployment, inputs):
            return
    changes = _differences(deployment, recorded, inputs)
    deployment.planned = f"{django_release.next_sequence(site):04d}-{deployment.commit[:12]}"
    yield {"release": {"old": live.name if live else None, "new": deployment.planned}, **changes}

    _refuse_without_memory(deployment)
    deployment.take_lock(look_again=True)
    live = deployment.live
    if live and live.record.get("inputs") == inputs and live.is_whole() and not deployment.again:
        deployment.release = live
        return
    release = Release(site, f"{django_release.next_sequence(site):04d}-{deployment.commit[:12]}")
    django_release.clear_leftovers(site)
    release.path.mkdir(mode=0o755)
    deployment.release, deployment.is_new = release, True
    about = {"commit": deployment.commit, "asked_by": deployment.asked_by, "began": django_site.now()}
    release.update(name=release.name, state="building", inputs=inputs, facts={}, **about)
    django_source.export(site, deployment.commit, release.path / "source")
    release.update(**django_source.describe(site, deployment.commit))
    release.update(facts={"commit": deployment.commit, **django_project.find(site, release.path / "source")})


def _refuse_without_memory(deployment: Deployment) -> None:
    """Two instances run for a while: without the memory for it, the kernel would end one of them, or the database.

    Raises:
        DeploymentError: what the live instance takes is more than what is left.
    """
    site, live = deployment.site, deployment.live
    pid = django_instance.pid(site, live.path) if live and site.config["releases"]["overlap"] else None
    if not pid:
        return
    needed, left = django_memory.of_tree(pid), django_memory.available()
    if needed > left:
        raise DeploymentError(
            f"{needed >> 20} MB of memory are needed for another instance beside the live one, "
            f"and {left >> 20} are left",
            hint=f"django:sites:{site.name}:releases:overlap: false stops the live one first, which visitors notice; "
            f"or fewer server:processes",
            transient=True,
        )


def _stays_as_it_is(deployment: Deployment, inputs: dict[str, str]) -> bool:
    """Whether a release of just these inputs is held back.

    Raises:
        DeploymentError: such a release has failed; it is not tried again by itself.
    """
    site, live = deployment.site, deployment.live
    former = [release for release in django_release.releases(site) if release.record.get("inputs") == inputs]
    state = former[-1].record.get("state") if former else None
    if state == "held" and live:
        again = f"salt-call django.release {site.name} releases it all the same"
        deployment.warnings.append(
            f"{former[-1].name} is held back since it was rolled back; {live.name} stays live. {again}"
        )
        return True
    if state == "failed" and former[-1].record.get("judged_by") == deployment.judged_by():
        record = former[-1].record
        raise DeploymentError(
            f"as {former[-1].name} this has failed before, and nothing has changed since: "
            f"{record['step']}: {record['error']}",
            hint=f"change the revision or the pillar, or try it again: salt-call django.release {site.name}",
        )
    return False


def _differences(deployment: Deployment, recorded: dict[str, str], inputs: dict[str, str]) -> Changes:
    site, old = deployment.site, recorded.get("commit")
    changes: Changes = {}
    if old and old != deployment.commit:
        if deployment.test and not site.config["folder"] and not django_source.has(site, deployment.commit):
            django_source.fetch(site, deployment.commit)
        changes = {
            "commit": {"old": old, "new": deployment.commit},
            **django_source.difference(site, old, deployment.commit),
        }
    pillar = (
        sorted(path for path in {*recorded, *inputs} - {"commit"} if recorded.get(path) != inputs.get(path))
        if old
        else []
    )
    return {**changes, **({"changed": pillar} if pillar else {})}


def virtualenv(deployment: Deployment) -> Iterator[Changes]:
    """The virtualenv for the requirements: built, or shared with the releases that have the same."""
    site, release = deployment.site, deployment.release
    if not deployment.is_new or not release:
        return
    tree = release.path / "source"
    files = django_virtualenv.requirement_files(site, tree, release.facts["folder"])
    key = django_virtualenv.key_of(site, tree, files)
    is_there = django_virtualenv.is_complete(site, key)
    if not is_there:
        django_virtualenv.refuse_other_python(site, tree, files)
    yield {"virtualenv": f"{key}, {'shared' if is_there else 'new'}", "requirements": files}
    if not is_there:
        log.info("%s: installing %s", site.name, ", ".join(files) or "packages")
        django_virtualenv.build(site, tree, files, key, deployment.index_password)
    django_site.link(release.path / "virtualenv", f"../../virtualenvs/{key}")
    release.update(virtualenv=key)


def build(deployment: Deployment) -> Iterator[Changes]:
    """The build commands in the new source, as the build identity; it is compiled then, and becomes root's."""
    site, release = deployment.site, deployment.release
    if not deployment.is_new or not release:
        return
    yield {"commands": site.config["build"] or "none", "source": "compiled"}
    tree = release.path / "source"
    virtualenv = release.path / "virtualenv"
    environment = {
        **django_virtualenv.build_environment(site),
        "VIRTUAL_ENV": str(virtualenv),
        "PATH": f"{virtualenv}/bin:{django_command.PATH}",
    }
    timeout = seconds(site.config["timeouts"]["build"])
    django_site.give(tree, site.build_user, site.build_user)

    def as_builder(argv: list[str]) -> None:
        folder = str(tree / release.facts["folder"])
        hint = f"django:sites:{site.name}:build says this command"
        django_command.run(
            argv,
            doing=shlex.join(argv),
            user=site.build_user,
            environment=environment,
            folder=folder,
            timeout=timeout,
            hint=hint,
        )

    for command in site.config["build"]:
        log.info("%s: %s", site.name, command)
        as_builder(shlex.split(command))
    with contextlib.suppress(DeploymentError):
        as_builder(
            [f"{virtualenv}/bin/python", "-I", "-S", "-m", "compileall", "-q", "-x", r"/(node_modules|\.)", str(tree)]
        )
    _link_shared(site, tree)
    django_site.give(tree, "root", site.user, read_only_for_group=True)
    for path in site.config["writable"]:
        folder = django_site.inside(tree, path, f"django:sites:{site.name}:writable", link=False)
        folder.mkdir(parents=True, exist_ok=True)
        django_site.give(folder, site.user, site.user)


def _link_shared(site: Site, tree: Path) -> None:
    """Replace what outlives a release by links to ``shared/``; the first release fills it with what it brings."""
    for path in site.config["shared"]:
        inside = django_site.inside(tree, path, f"django:sites:{site.name}:shared")
        kept = django_site.inside(site.shared, path, f"django:sites:{site.name}:shared")
        django_site.make_parents(site.shared, kept.parent, site.user)
        if not os.path.lexists(kept):
            if inside.exists() and not inside.is_symlink():
                shutil.move(inside, kept)
                django_site.give(kept, site.user, site.user)
            elif "." not in inside.name:
                django_site.make_folder(django_site.Folder(kept, site.user, site.user, 0o750))
        django_site.remove_tree(inside)
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.symlink_to(kept)


def secret_key(deployment: Deployment) -> Iterator[Changes]:
    """The secret key and the other secrets: generated once and kept, or as the pillar gives them."""
    site = deployment.site
    absent = django_secret.missing(site, deployment.secrets, deployment.recorded_inputs())
    changed = django_secret.changed(site, deployment.secrets)
    text = (
        None
        if absent
        else django_settings.environment_file(django_settings.secret_environment(site, deployment.secrets))
    )
    if not absent and not changed and django_site.read_text(site.secrets / "environment") == text:
        return
    yield dict.fromkeys(absent, "generated") | dict.fromkeys(changed, "kept") or {"environment": "written"}
    deployment.take_lock()
    for name in absent:
        deployment.secrets[name] = django_secret.generate(site, name)
    for name in (*absent, *changed):
        django_secret.keep(site, name, deployment.secrets[name])
    text = django_settings.environment_file(django_settings.secret_environment(site, deployment.secrets))
    django_site.write(site.secrets / "environment", text, mode=0o640, group=site.user)
    if deployment.is_new and deployment.release:
        deployment.release.update(inputs=deployment.inputs())


def settings(deployment: Deployment) -> Iterator[Changes]:
    """The overlay and its data, the environment, and the pillar's files, in the new release."""
    site, release = deployment.site, deployment.release
    if not deployment.is_new or not release:
        return
    plain = django_settings.environment(site, release.path, release.facts)
    rendered = django_settings.project_files(
        site, deployment.templates, {**plain, **django_settings.secret_environment(site, deployment.secrets)}
    )
    written = [
        "environment",
        django_program.START,
        *([f"{django_settings.MODULE}.py", "settings.json"] if site.config["overlay"] else []),
    ]
    yield {"config": written, **({"files": sorted(rendered)} if rendered else {})}
    config = release.path / "config"
    django_site.make_folder(django_site.Folder(config, "root", site.user, 0o750))
    contents = {
        "environment": django_settings.environment_file(plain),
        django_program.START: deployment.templates[START_PROGRAM],
    }
    if site.config["overlay"]:
        contents[f"{django_settings.MODULE}.py"] = deployment.templates[OVERLAY]
        contents["settings.json"] = django_settings.overlay(site, release.path, release.facts["settings_module"])
    for name, content in contents.items():
        django_site.write(config / name, content, mode=0o640, group=site.user)
    for path, content in rendered.items():
        django_settings.write_project_file(site, release.path / "source", path, content)


def static(deployment: Deployment) -> Iterator[Changes]:
    """One start of Django: it imports, static files are collected, settings and pending migrations become known."""
    site, release = deployment.site, deployment.release
    if not deployment.is_new or not release:
        return
    collects = site.config["static"]["collect"]
    yield {
        "static": "collected" if collects else "not collected, as the pillar says",
        **_commands(deployment, "after_static"),
    }
    if deployment.takeover:
        deployment.takeover.hand_over()
    folder = release.path / "static"
    django_site.make_folder(django_site.Folder(folder, site.user, site.user, 0o755))
    log.info("%s: starting Django and collecting static files", site.name)
    answer = django_program.start(site, release.path, release.facts, deployment.masked())
    deployment.warnings += _judge(site, release, answer)
    if deployment.takeover:
        deployment.takeover.check(release, answer["databases"])
    release.update(facts={**release.facts, **answer})
    if deployment.live:
        _refuse_an_empty_database(deployment.live, release)
    _run_commands(deployment, "after_static", writable=[folder])
    django_site.give(folder, "root", "root")
    django_site.open_to_all(folder)
    if "gzip" in site.config["static"]["compress"]:
        django_static.compress(folder, deployment.live.path / "static" if deployment.live else None)


def _judge(site: Site, release: Release, answer: dict[str, Any]) -> list[str]:
    """What the pillar decided and the project does not follow: warnings, an error where the site would not be safe."""
    at = f"django:sites:{site.name}"
    if answer["settings_module"] != answer["expected_settings_module"]:
        raise DeploymentError(
            f"the project sets DJANGO_SETTINGS_MODULE to {answer['settings_module']} itself",
            hint=f"use os.environ.setdefault in {release.facts['wsgi']}, or {at}:overlay: false",
        )
    if answer["debug"]:
        raise DeploymentError(
            "DEBUG is on",
            hint=f"turn it off in the project's environment: {at}:environment, "
            f"or let the overlay do it: {at}:overlay: true",
        )
    django_database.judge(site, answer["databases"])
    for alias, database in answer["databases"].items():
        path = django_database.file_of(site, release.path, release.facts, database)
        if path and path.is_relative_to(release.path) and not path.resolve().is_relative_to(site.shared):
            raise DeploymentError(
                f"the database {alias!r} lies inside the release ({database['name']}) and would be lost with it",
                hint=f"name its file in {at}:shared, "
                f"or give it the path: {at}:environment, {{from: database_path}}, with database: {{engine: sqlite}}",
            )
    warnings = []
    if not {*site.config["domains"]} <= {*answer["allowed_hosts"]} and "*" not in answer["allowed_hosts"]:
        warnings.append(f"ALLOWED_HOSTS is {answer['allowed_hosts']}, which has not every domain of the site")
    if answer["media_root"] and Path(answer["media_root"]) != site.media:
        warnings.append(f"MEDIA_ROOT is {answer['media_root']}, not {site.media}: uploads are not served")
    return warnings


def _refuse_an_empty_database(live: Release, release: Release) -> None:
    """A release that looks for its SQLite file elsewhere than the live one would begin with an empty one."""
    site = release.site
    for alias, database in release.facts["databases"].items():
        before = live.facts.get("databases", {}).get(alias)
        old = before and django_database.file_of(site, live.path, live.facts, before)
        new = django_database.file_of(site, release.path, release.facts, database)
        if not old or not new or old.resolve() == new.resolve():
            continue
        if django_database.applied(site, old.resolve()) and not django_database.applied(site, new.resolve()):
            raise DeploymentError(
                f"the database {alias!r} would be {new}, which is empty; the data is in {old}",
                hint=f"take it along, or say where it is (django:sites:{site.name}:database:name): "
                f"install -o {site.user} -g {site.user} -m 0640 {old} {new}",
            )


def migration(deployment: Deployment) -> Iterator[Changes]:
    """The database has what the release needs; then Django's checks, which may read tables."""
    site, release = deployment.site, deployment.release
    if not release:
        return
    pending = {
        alias: names
        for alias in release.facts.get("migrations", {})
        if (names := django_database.pending(site, release.path, release.facts, alias, deployment.is_new))
    }
    if deployment.is_new and not pending:
        deployment.warnings += release.facts.get("checks", [])
    if pending and not site.config["migrate"]["run"]:
        deployment.warnings.append(
            f"not migrated, as the pillar says: {', '.join(name for names in pending.values() for name in names)}"
        )
        pending = {}
    changes = {**({"migrations": pending} if pending else {}), **_commands(deployment, "after_migrate")}
    if not changes:
        return
    yield changes
    deployment.take_lock()
    if pending:
        log.info("%s: migrating %s", site.name, ", ".join(name for names in pending.values() for name in names))
        answer = django_program.migrate(site, release.path, release.facts, deployment.masked())
        deployment.warnings += answer["checks"]
        release.update(facts={**release.facts, **answer})
    _run_commands(deployment, "after_migrate")


def _commands(deployment: Deployment, stage: str) -> Changes:
    """The commands of a stage, as a change, where this deployment will run them: once for each new release."""
    commands = deployment.site.config["commands"][stage]
    return {"commands": commands} if commands and deployment.is_new else {}


def _run_commands(deployment: Deployment, stage: str, writable: Sequence[Path] = ()) -> None:
    release = deployment.release
    if release and deployment.is_new:
        django_program.run_commands(deployment.site, release.path, release.facts, stage, deployment.masked(), writable)


def instance(deployment: Deployment) -> Iterator[Changes]:
    """The release's own server, which answers on its own socket before any request is led to it."""
    site, release = deployment.site, deployment.release
    if not release or (not deployment.is_new and django_instance.is_kept_alive(site, release.path)):
        return
    yield {
        "instance": f"{django_process.unit(site, release.path)} started",
        **_commands(deployment, "before_switch"),
    }
    deployment.take_lock()
    if deployment.is_new:
        deployment.warnings += django_instance.warnings(site)
    live = deployment.live if deployment.live and deployment.live.name != release.name else None
    if live and site.config["releases"]["overlap"]:
        _refuse_without_memory(deployment)
    elif live:
        deployment.pause(live)
    log.info("%s: starting %s", site.name, release.name)
    if deployment.is_new:
        for name, content in django_instance.configuration(
            site, release.path, release.facts, deployment.templates
        ).items():
            django_site.write(release.path / "config" / name, content, mode=0o640, group=site.user)
        where = django_instance.address(site, release.path)
        django_site.link(release.path / "socket", where if where.startswith("/") else "/dev/null")
    django_instance.start(site, release.path)
    django_instance.check_health(site, release.path)
    _run_commands(deployment, "before_switch")


def live(deployment: Deployment) -> Iterator[Changes]:
    """The flip: one rename; the old instance is drained, stopped and disabled, and what is old enough is deleted."""
    site, release, old = deployment.site, deployment.release, deployment.live
    if not release:
        return
    stray = django_instance.strays(site, release.path)
    flips = not old or old.name != release.name
    takeover = deployment.takeover
    if not flips and not stray and not takeover:
        return
    changes: Changes = {"live": {"old": old.name if old else None, "new": release.name}} if flips else {}
    if stray and not flips:
        changes["stopped"] = [path.name for path in stray]
    yield {**changes, **({"adopted": takeover.told()} if takeover else {})}
    deployment.take_lock()
    if takeover:
        _take_over(deployment, release, takeover, flips=flips)
    elif flips:
        log.info("%s: %s goes live", site.name, release.name)
        _flip(deployment, release)
        if deployment.paused:
            gap = time.monotonic() - deployment.paused_at
            deployment.warnings.append(f"nothing has answered for {gap:.1f} s, as releases:overlap says")
    cut = 0
    for path in {*stray, *([old.path] if old and flips else [])}:
        cut += django_instance.drain(site, path)
        django_instance.stop(site, path, wait=False)
    if cut:
        deployment.warnings.append(
            f"{cut} connections were still open after {site.config['releases']['drain']}, and were cut"
        )
    django_release.prune(site)


def _take_over(deployment: Deployment, release: Release, takeover: Takeover, *, flips: bool) -> None:
    """The first release goes live in the place of an old site, which is stopped then; or it stays as it was."""
    site = deployment.site
    log.info("%s: %s takes over", site.name, release.name)
    if flips:
        takeover.write(phase="switching")
        _flip(deployment, release)
    try:
        takeover.switch(django_proxy.files(site, release.facts, deployment.templates), deployment.templates)
    except BaseException as error:
        if flips:
            site.current.unlink()
            deployment.went_live = False
            takeover.write(phase="waiting")
        if isinstance(error, DeploymentError):
            error.transient = True
        raise
    deployment.warnings += takeover.end()
    deployment.takeover = None


def _flip(deployment: Deployment, release: Release) -> None:
    """Make a release `current`: by the rename alone where nginx finds it through the link, else with a reload too."""
    site, old = deployment.site, deployment.live
    is_served = bool(old) and django_proxy.is_installed(site)
    if is_served and old and django_instance.kind(old.path) != django_instance.kind(release.path):
        django_proxy.apply(django_proxy.files(site, release.facts, deployment.templates, through=release.path))
    reloads = is_served and django_instance.kind(release.path)[0] == "tcp"
    if reloads:
        django_proxy.check()
    release.update(state="good", live_since=django_site.now())
    if deployment.is_new:
        django_command.run(["sync", "--file-system", str(release.path)], doing=f"writing {release.name} to the disk")
    if old:
        django_site.link(site.previous, f"releases/{old.name}")
    django_site.link(site.current, f"releases/{release.name}")
    deployment.went_live = True
    if reloads:
        django_proxy.reload()
    if deployment.left:
        deployment.left.update(state="held", held_since=django_site.now())


def proxy(deployment: Deployment) -> Iterator[Changes]:
    """nginx's files of the site and their links; nginx is reloaded when one has changed and all are accepted."""
    site, release = deployment.site, deployment.release
    if not release:
        return
    wanted = django_proxy.files(site, release.facts, deployment.templates)
    changes = django_proxy.differences(wanted)
    if changes:
        yield changes
        deployment.take_lock()
        django_proxy.apply(wanted)


def record(deployment: Deployment) -> Iterator[Changes]:
    """The deployment is written down, after the commands that wait for the switch; the lock is given back."""
    release = deployment.release
    if deployment.went_live and release:
        yield {"release": release.name, **_commands(deployment, "after_switch")}
        release.update(steps=deployment.seconds, warnings=deployment.warnings)
        _run_commands(deployment, "after_switch")
        deployment.write_attempt(deployment.result())
    deployment.lock.release()


#: The story of a release; `site` before it lays the site out.
RELEASE: tuple[Step, ...] = (
    source,
    virtualenv,
    build,
    secret_key,
    settings,
    static,
    migration,
    instance,
    live,
    proxy,
    record,
)
#: Of these, what going back to an older release takes.
BACK: tuple[Step, ...] = (instance, live, proxy, record)
#: The steps of which a test knows no more than that they would be taken, once there is a new release to make.
_OF_A_NEW_RELEASE = {
    "virtualenv",
    "build",
    "settings",
    "static",
    "migration",
    "instance",
    "live",
    "record",
}


def look(step: Step, deployment: Deployment) -> Iterator[Changes]:
    """A step as the states run it: in a test, the steps after a new source say which release they would be for."""
    name = step.__name__
    if deployment.test and deployment.planned and (name in _OF_A_NEW_RELEASE or not deployment.release):
        yield {"release": deployment.planned}
    elif name != "site" or deployment.site.user_exists() or not deployment.test:
        yield from step(deployment)
    else:
        yield {str(deployment.site.root): "would be laid out"}


def walk(deployment: Deployment, steps: tuple[Step, ...]) -> Changes:
    """Take steps one after another; returns the changes of each that had something to do, by its name."""
    taken: Changes = {}
    for step in steps:
        with deployment.step(step.__name__):
            for changes in step(deployment):
                taken[step.__name__] = changes
    return taken
