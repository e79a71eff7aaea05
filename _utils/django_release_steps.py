"""The steps of a release, in their order.

A step is a generator: it looks, yields what it would change, and acts when it is resumed; one that finds nothing to do
yields nothing. The states run one step each; whoever only tests does not resume. What is known only once it has acted
it adds to the changes that it has yielded.
"""

import contextlib
import logging
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import django_backup
import django_database
import django_database_migration
import django_database_setup
import django_database_sqlite
import django_host_clock
import django_host_command
import django_host_etc
import django_host_file
import django_host_folder
import django_host_timer
import django_host_user
import django_process
import django_project
import django_project_coherence
import django_project_command
import django_project_program
import django_proxy
import django_proxy_files
import django_proxy_handover
import django_proxy_listener
import django_proxy_maintenance
import django_proxy_page
import django_proxy_ports
import django_proxy_switch
import django_release
import django_release_attempt
import django_release_difference
import django_release_drift
import django_release_instance
import django_release_manifest
import django_release_preflight
import django_release_settings
import django_release_static
import django_release_switch
import django_release_switch_report
import django_secret
import django_secret_rotation
import django_server
import django_site
import django_source
import django_takeover
import django_tls
import django_tls_acme
import django_tls_renewal  # noqa: F401 - a program of a timer is made of it
import django_virtualenv
import django_virtualenv_index
import django_virtualenv_python
import django_virtualenv_requirements
import django_virtualenv_uv
import django_wall_build
import django_wall_delegate
import django_wall_sandbox
from django_host_command import DeploymentError, redact, seconds
from django_release import Release
from django_release_deployment import OVERLAY, PROGRAMS, Deployment
from django_site import Site
from django_wall_foreign import GROUP, SERVED, Foreign

log = logging.getLogger(__name__)

#: Compiles a source: what compileall does, whose own start takes longer than that.
_COMPILE = """
import os, py_compile, sys
for parent, folders, names in os.walk(sys.argv[1]):
    folders[:] = [name for name in folders if name != "node_modules" and not name.startswith(".")]
    for name in names:
        if name.endswith(".py") and not name.startswith("."):
            try:
                py_compile.compile(os.path.join(parent, name), doraise=True)
            except Exception:
                pass  # whoever imports it is told
"""

#: How long it may take to copy what a release brings into ``shared/``.
_PATIENCE = "10m"

Changes = dict[str, Any]
Step = Callable[[Deployment], Iterator[Changes]]


def site(deployment: Deployment) -> Iterator[Changes]:
    """The site's folders, its registration, its configuration as applied, and the mirror with its keys."""
    site, templates = deployment.site, deployment.templates
    begun = deployment.takeover
    takeover = deployment.takeover = django_takeover.wanted(site)
    _refuse_closed_parents(site)
    _refuse_parents_of_others(site)
    proxy = site.config["proxy"]
    listens = [*proxy["listen"], *site.listens_tls]
    django_proxy_ports.refuse_foreign_addresses(site)
    django_proxy_ports.refuse_taken_ports(site.name, proxy["kind"], listens, deployment.listening)
    django_proxy_listener.refuse_impossible(site, deployment.listening)
    django_tls.refuse_bad_files(site, deployment.tls, templates)
    folders = takeover.folders() if takeover else site.folders()
    wrong = {folder: problem for folder in folders if (problem := django_host_folder.problem(folder))}
    applied = django_host_file.sealed({"config": dict(site.config), "platform": dict(site.platform)})
    stale = site.stale_templates(templates)
    changes: Changes = {str(folder.path): problem for folder, problem in wrong.items()}
    if django_host_file.read_json(site.applied) != applied:
        changes[str(site.applied)] = "new" if not site.applied.exists() else "changed"
    if stale:
        changes["templates"] = stale
    if not site.is_registered():
        changes["registered"] = str(site.root)
    if takeover and (not begun or begun.plan != takeover.plan):
        changes["adopted"] = takeover.told()
    keys = django_source.unprepared(site, deployment.deploy_key)
    if keys:
        changes["mirror"] = keys
    if not django_virtualenv_index.is_kept(site, deployment.index_password):
        changes["index"] = "password kept" if deployment.index_password else "password removed"
    schedules = {task: django_host_timer.stale(site, templates, task) for task in django_host_timer.TASKS}
    schedule = {path: matter for found in schedules.values() for path, matter in found.items()}
    if schedule:
        changes["schedule"] = schedule
    left = django_backup.leftovers(site)
    if left:
        changes["removed"] = f"what a restore that was killed has left: {', '.join(left)}"
    if changes:
        yield changes
        if left:
            with django_backup.lock(site, "state.apply").held():
                django_backup.remove_leftovers(site)
        for folder in wrong:
            if folder.path == site.runtime:
                site.open_runtime(site.current)
            else:
                django_host_folder.make(folder)
        if takeover:
            takeover.write()
        if stale:
            site.keep_templates(templates)
        django_source.prepare(site, deployment.deploy_key)
        django_virtualenv_index.keep(site, deployment.index_password)
        django_host_file.write_json(site.applied, applied, mode=0o600)
        site.register()
        for task in [task for task, found in schedules.items() if found]:
            django_host_timer.apply(site, templates, task)
    deployment.ask_for_commit()


def database(deployment: Deployment) -> Iterator[Changes]:
    """The site's databases and their logins on servers of this host; a login over TCP has a password."""
    site = deployment.site
    if not django_database.has_managed(site):
        return
    known = django_secret.values(site, deployment.given)
    absent = django_secret.missing(site, known, deployment.recorded_inputs())
    new = {name: django_secret.generate(site, name) for name in absent if name.startswith("database.")}
    known |= new
    inputs = deployment.live.record.get("inputs", {}) if deployment.live else None
    databases = django_database_setup.databases(site, known, inputs)
    site.logins = django_database_setup.logins(databases, deployment.servers, test=deployment.test)
    databases = django_database_setup.databases(site, known, inputs)
    changes = django_database_setup.pending_changes(databases, deployment.servers, test=deployment.test)
    if not changes and not new:
        return
    yield {**django_database_setup.as_state_changes(changes), **({"passwords": sorted(new)} if new else {})}
    deployment.take_lock()
    for name, password in new.items():
        django_secret.keep(site, name, password)
    django_database_setup.apply(databases, deployment.servers)


def tls(deployment: Deployment) -> Iterator[Changes]:
    """Each domain has a certificate, if only for the time until another comes; the proxy has https with it already."""
    site, files, templates = deployment.site, deployment.tls, deployment.templates
    if not site.https:
        return
    lacking = django_tls.lacking(site, files, templates)
    opened = django_host_etc.differences(django_proxy_files.opening(site, templates))
    if not lacking and not opened:
        return
    yield {**({"certificates": lacking} if lacking else {}), **opened}
    if lacking:
        django_proxy_switch.change_certificates(django_tls.texts(site, lacking, files, templates))
    if opened:
        django_proxy_switch.apply(django_proxy_files.opening(site, templates))


def _refuse_closed_parents(site: Site) -> None:
    group = django_host_user.group_id(site.proxy_group)
    for parent in reversed(site.root.parents):
        try:
            status = os.stat(parent)
        except FileNotFoundError:
            return
        if not status.st_mode & 0o001 and not (status.st_gid == group and status.st_mode & 0o010):
            mode = f"{django_host_user.owner_of(status)} {status.st_mode & 0o7777:04o}"
            raise DeploymentError(
                f"{parent} is {mode}: it lets {site.proxy_group} not through to {site.root}",
                hint=f"chmod o+x {parent}, or choose another django:sites:{site.name}:root",
            )


def _refuse_parents_of_others(site: Site) -> None:
    """Whoever may rename in a folder above the site's may put another one in its place, for root to work in."""
    at = f"django:sites:{site.name}"
    django_host_folder.refuse_parents_of_others(site.root, f"{at}:root")
    if not site.backups.is_relative_to(site.root):
        django_host_folder.refuse_parents_of_others(site.backups, f"{at}:backup:directory")


def source(deployment: Deployment) -> Iterator[Changes]:
    """The commit that the revision names, exported; here it is decided whether there is a new release."""
    site, live = deployment.site, deployment.live
    if deployment.test and not (site.mirror / "HEAD").exists():
        deployment.planned = "the first release"
        yield {"release": f"would be built from {site.config['folder'] or site.config['revision']}"}
        return
    recorded, inputs = find_inputs(deployment)
    if not deployment.again:
        if live and live.record.get("inputs") == inputs and live.is_whole():
            return
        if _stays_as_it_is(deployment, inputs):
            return
    changes = differences(deployment, recorded, inputs)
    deployment.planned = f"{django_release.next_sequence(site):04d}-{deployment.commit[:12]}"
    foreseen = _foresee(deployment, live) if deployment.test and live else {}
    outlook = django_release_preflight.look(deployment, changes)
    told = {**changes, **outlook.told(), **foreseen}
    yield {"release": {"old": live.name if live else None, "new": deployment.planned}, **told}

    if outlook.refusal:
        raise outlook.refusal
    deployment.warnings += django_release_instance.warnings(site)
    deployment.take_lock(look_again=True)
    live = deployment.live
    if live and live.record.get("inputs") == inputs and live.is_whole() and not deployment.again:
        deployment.release = live
        return
    release = Release(site, f"{django_release.next_sequence(site):04d}-{deployment.commit[:12]}")
    django_release.clear_leftovers(site)
    release.path.mkdir(mode=0o755)
    deployment.release, deployment.is_new = release, True
    about = {"commit": deployment.commit, "asked_by": deployment.asked_by, "began": django_host_clock.now()}
    release.update(name=release.name, state="building", inputs=inputs, facts={}, **about)
    with ThreadPoolExecutor(1) as pool:  # the interpreter is asked for its version while git works
        pool.submit(django_virtualenv_python.interpreter, site)
        export(deployment, release)
    release.update(**django_source.describe(site, deployment.commit))
    release.update(facts={"commit": deployment.commit, **django_project.find(site, release.path / "source")})


def export(deployment: Deployment, release: Release) -> None:
    """Write the files of the commit into a release, where nobody but the build user may read them."""
    folder = django_host_folder.Folder(release.path / "source", "root", deployment.site.build_user, 0o750)
    django_host_folder.make(folder)
    django_source.export(deployment.site, deployment.commit, folder.path)
    django_host_folder.make(folder)  # where a damaged mirror was fetched anew, it was too


def find_inputs(deployment: Deployment) -> tuple[dict[str, str], dict[str, str]]:
    """Find out the secrets and the commit; returns what the last release was made of, and what the next one would be.

    Raises:
        DeploymentError: a secret is lost or damaged, or the revision cannot be found out.
    """
    site, live = deployment.site, deployment.live
    deployment.secrets = django_secret.values(site, deployment.given)
    recorded = deployment.recorded_inputs()
    django_secret.missing(site, deployment.secrets, recorded)
    django_release.refuse_unknown_secrets(site, deployment.secrets, deployment.given, recorded)
    deployment.commit = deployment.wanted_commit()
    if live and live.record.get("commit") == deployment.commit:
        deployment.lapsed = _lapsed_keys(deployment, live)
    return recorded, deployment.inputs()


def _lapsed_keys(deployment: Deployment, live: Release) -> list[str]:
    """The former keys that nobody needs; their time begins when what is live has another key."""
    key = django_secret.keyed_hash(django_secret.record_key(deployment.site), deployment.secrets.get("secret_key"))
    if live.record["inputs"].get("secrets:secret_key") != key:
        return []
    return django_secret_rotation.lapsed(deployment.site, live.facts.get("signed_for"), test=deployment.test)


def _foresee(deployment: Deployment, live: Release) -> Changes:
    """Render what can be rendered without building the release; returns what is not known without it."""
    site = deployment.site
    path, facts = site.releases / deployment.planned, _expected_facts(deployment, live)
    files = django_release_difference.of_instance(live, path, facts, deployment.templates, deployment.masked())
    deployment.foreseen = {"instance": {"files": files}} if files else {}
    builds = (
        f"; salt-call django.plan {site.name} builds it aside" if deployment.commit != live.record["commit"] else ""
    )
    return {"not known": f"packages, migrations' SQL, settings of the project (STATIC_URL in nginx's files){builds}"}


def _expected_facts(deployment: Deployment, live: Release) -> dict[str, Any]:
    """What is known of the next release by what the live one has found, and by what the pillar decides itself."""
    config = deployment.site.config
    interface = django_server.of_site(deployment.site).interface(deployment.site)
    said = {"folder": config["project"], "application": config[interface], "settings_module": config["settings_module"]}
    if config["overlay"]:
        said |= {name.lower(): config["settings"].get(name) for name in ("STATIC_URL", "MEDIA_URL")}
    return {**live.facts, "commit": deployment.commit, **{name: value for name, value in said.items() if value}}


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
        record, deployment.is_attempt = former[-1].record, False
        raise DeploymentError(
            f"as {former[-1].name} this has failed before, and nothing has changed since: "
            f"{record['step']}: {record['error']}",
            hint=f"change the revision or the pillar, or try it again: salt-call django.release {site.name}",
        )
    return False


def differences(deployment: Deployment, recorded: dict[str, str], inputs: dict[str, str]) -> Changes:
    """What a release would be made of otherwise than another: commits, requirements, paths of the pillar.

    Args:
        recorded: the inputs of the other one.
        inputs: those of the next release.
    """
    site, old = deployment.site, recorded.get("commit")
    changes: Changes = {}
    if old and old != deployment.commit:
        if deployment.test and not site.config["folder"] and not django_source.has(site, deployment.commit):
            django_source.fetch(site, deployment.commit)
        changes = {
            "commit": {"old": old, "new": deployment.commit},
            **django_source.difference(site, old, deployment.commit),
        }
        diffs = changes.get("requirements", {})
        diffs.update({path: redact(text, deployment.masked()) for path, text in diffs.items()})
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
    requirements = django_virtualenv_requirements.read(site, tree, release.facts["folder"])
    files = requirements.files
    key = django_virtualenv.newest(site, django_virtualenv.key_of(site, requirements.contents))
    is_there = django_virtualenv.is_complete(site, key)
    if is_there and deployment.again and django_release_drift.of_virtualenv(site, key):
        key, is_there = django_virtualenv.next_of(site, key.partition(".")[0]), False
    if not is_there:
        django_virtualenv_python.require(site, requirements.python)
    changes: Changes = {"virtualenv": f"{key}, {'shared' if is_there else 'new'}", "requirements": files}
    yield changes
    if not is_there:
        django_release_preflight.refuse_without_disk(site, deployment.live, with_virtualenv=True)
        log.info("%s: installing %s", site.name, ", ".join(files) or "packages")
        drivers = django_virtualenv.build(site, tree, files, key, deployment.index_password)
        if drivers:
            changes["drivers"] = drivers
        django_release_manifest.make(site.virtualenvs / key, django_secret.record_key(site))
    django_host_file.link(release.path / "virtualenv", f"../../virtualenvs/{key}", durable=False)
    release.update(virtualenv=key, packages=django_virtualenv.packages(site.virtualenvs / key))


def build(deployment: Deployment) -> Iterator[Changes]:
    """The build commands in the new source, as the build identity; it is compiled then, and becomes root's."""
    site, release = deployment.site, deployment.release
    if not deployment.is_new or not release:
        return
    yield {"commands": site.config["build"] or "none", "source": "compiled"}
    tree = Foreign(release.path / "source")
    virtualenv = release.path / "virtualenv"
    environment = {
        **django_virtualenv_uv.build_environment(site),
        "VIRTUAL_ENV": str(virtualenv),
        "PATH": f"{virtualenv}/bin:{django_host_command.PATH}",
    }
    timeout = seconds(site.config["timeouts"]["build"])
    builder = django_host_user.owner(site.build_user, site.build_user)
    django_wall_build.end_processes(site)
    tree.give(builder, None, of=0)

    def as_builder(argv: list[str], doing: str = "") -> None:
        hint = f"django:sites:{site.name}:build says this command"
        django_wall_build.run(
            site,
            argv,
            doing=doing or shlex.join(argv),
            environment=environment,
            folder=str(tree / release.facts["folder"]),
            writable=[str(tree)],
            timeout=timeout,
            hint=hint,
        )

    for command in site.config["build"]:
        log.info("%s: %s", site.name, command)
        as_builder(shlex.split(command))
    with contextlib.suppress(DeploymentError):
        as_builder([f"{virtualenv}/bin/python", "-I", "-S", "-c", _COMPILE, str(tree)], "compiling the source")
    readable = django_host_user.owner("root", site.user)
    django_wall_build.end_processes(site)
    tree.give(readable, GROUP, of=builder[0])
    _link_shared(site, tree, fill=not deployment.aside)
    own = django_host_user.owner(site.user, site.user)
    for path in sorted(site.config["writable"]):
        at = f"django:sites:{site.name}:writable"
        folder = django_site.inside(tree, path, at, link=False)
        if not folder.is_folder():
            folder.make_folder(mode=0o750, owner=readable)
    for path in django_wall_sandbox.outermost(site.config["writable"]):
        (tree / path).give(own, GROUP, of=0)


def _link_shared(site: Site, tree: Foreign, *, fill: bool) -> None:
    """Replace what outlives a release by links to ``shared/``; the first release fills it with what it brings.

    What is in ``shared/`` is the site's, whose processes may be at work there: it is filled as its user.

    Args:
        fill: whether it does; otherwise what is not shared yet stays as the source has it.
    """
    at = f"django:sites:{site.name}:shared"
    for path in site.config["shared"]:
        inside = django_site.inside(tree, path, at)
        kept = django_site.inside(site.shared, path, at)
        if not kept.exists():
            if not fill:
                continue
            doing = f"filling {kept}"
            django_wall_delegate.ask(site.user, _fill, inside, kept, doing=doing, timeout=seconds(_PATIENCE))
        inside.remove()
        inside.parent.make_folder(mode=0o750, owner=django_host_user.owner("root", site.user))
        inside.link(str(kept))


def _fill(source: Foreign, target: Foreign) -> None:
    """Copy what a release brings to where it outlives it, whole or not at all; a folder where it brings nothing."""
    old, new = source.path, target.path
    new.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    temporary = new.with_name(f".{new.name}.new")
    if temporary.is_dir():
        shutil.rmtree(temporary)
    if source.is_folder():
        shutil.copytree(old, temporary, symlinks=True)
        Foreign(temporary).give((os.geteuid(), os.getegid()), GROUP, of=os.geteuid())
        temporary.rename(new)
    elif source.is_file():
        shutil.copyfile(old, temporary)
        temporary.chmod(0o640)
        temporary.rename(new)
    elif "." not in new.name:
        new.mkdir(mode=0o750)


def secret_key(deployment: Deployment) -> Iterator[Changes]:
    """The secret key and the other secrets: generated once and kept, or as the pillar gives them."""
    site = deployment.site
    absent = django_secret.missing(site, deployment.secrets, deployment.recorded_inputs())
    logins = django_database.logins(site)
    changed = django_secret.changed(site, {**deployment.secrets, **logins})
    lapsed = deployment.lapsed if deployment.is_new else []
    text = None if absent else _secret_environment(deployment)
    environment = site.secrets / "environment"
    if not absent and not changed and not lapsed and django_host_file.read_text(environment) == text:
        return
    changes = dict.fromkeys(absent, "generated") | dict.fromkeys(changed, "kept")
    changes |= {"former keys": f"{len(lapsed)} dropped, for all that they have signed has expired"} if lapsed else {}
    yield changes or {"environment": "written"}
    deployment.take_lock()
    for path in django_secret.exposed(site, changed):
        deployment.warnings.append(f"{path} was readable for every user, and is not any more: change that secret")
    for name in absent:
        deployment.secrets[name] = django_secret.generate(site, name)
    if deployment.is_new:
        paths = [environment, *(django_secret.path_of(site, name) for name in changed)]
        deployment.replaced = {path: path.read_bytes() for path in paths if path.is_file() and not path.is_symlink()}
    for name in {*absent, *changed} | ({"secret_key"} if lapsed else set()):
        django_secret.keep(site, name, logins.get(name) or deployment.secrets[name], lapsed)
    django_host_file.write(environment, _secret_environment(deployment), mode=0o640, group=site.user)
    if deployment.is_new and deployment.release:
        deployment.release.update(inputs=deployment.inputs())


def _secret_environment(deployment: Deployment) -> str:
    variables = django_release_settings.secret_environment(
        deployment.site, deployment.secrets, deployment.former_keys()
    )
    return django_release_settings.environment_file(variables)


def settings(deployment: Deployment) -> Iterator[Changes]:
    """The overlay and its data, the environment, and the pillar's files, in the new release."""
    site, release = deployment.site, deployment.release
    if not deployment.is_new or not release:
        return
    plain = django_release_settings.environment(site, release.path, release.facts)
    rendered = django_release_settings.project_files(
        site,
        deployment.templates,
        {**plain, **django_release_settings.secret_environment(site, deployment.secrets, deployment.former_keys())},
    )
    programs = {url.rpartition("/")[2]: deployment.templates[url] for url in PROGRAMS}
    written = [
        "environment",
        *programs,
        *([f"{django_release_settings.MODULE}.py", "settings.json"] if site.config["overlay"] else []),
    ]
    yield {"config": written, **({"files": sorted(rendered)} if rendered else {})}
    config = release.path / "config"
    django_host_folder.make(django_host_folder.Folder(config, "root", site.user, 0o750))
    contents = {"environment": django_release_settings.environment_file(plain), **programs}
    if site.config["overlay"]:
        contents[f"{django_release_settings.MODULE}.py"] = deployment.templates[OVERLAY]
        module, keeps = release.facts["settings_module"], django_server.of_site(site).keeps_threads(site)
        contents["settings.json"] = django_release_settings.overlay(site, release.path, module, keeps_threads=keeps)
    for name, content in contents.items():
        django_host_file.write(config / name, content, mode=0o640, group=site.user, durable=False)
    for path, content in rendered.items():
        django_release_settings.write_project_file(site, release.path / "source", path, content)
    django_proxy_maintenance.refuse_missing_page(site, release.path, release.facts["folder"])
    django_proxy_page.of_errors(site, release.path, release.facts["folder"])


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
    django_host_folder.make(django_host_folder.Folder(folder, site.user, site.user, 0o755))
    log.info("%s: starting Django and collecting static files", site.name)
    with ThreadPoolExecutor(1) as pool:  # this process has nothing to do meanwhile
        pool.submit(
            django_release_settings.compile_templates, deployment.templates, django_release_instance.templates(site)
        )
        answer = django_project_program.start(
            site, release.path, release.facts, deployment.masked(), write_ahead=not deployment.takeover
        )
    judge(deployment, release, answer)
    _run_commands(deployment, "after_static", writable=[folder])
    _take_static_files(site, folder)


def _take_static_files(site: Site, folder: Path) -> None:
    """Give what was collected to root; a link among it would have the proxy serve what it leads to.

    Raises:
        DeploymentError: there is one, or something else that is no file.
    """
    try:
        Foreign(folder).give(django_host_user.ROOT, SERVED, of=django_host_user.user_id(site.user), links=False)
    except DeploymentError as error:
        error.hint = "STATIC_ROOT may have files and folders only, for the proxy serves all that is in it"
        raise


def judge(deployment: Deployment, release: Release, answer: dict[str, Any]) -> None:
    """Record what the start of Django has answered, unless the site would not be safe or would lose its data.

    Raises:
        DeploymentError: it would.
    """
    schema = answer.pop("schema", {})
    deployment.warnings += [*_unfollowed(deployment.site, release, answer), *_lost_sessions(deployment, answer)]
    if deployment.takeover:
        deployment.takeover.check(release, answer["databases"])
    release.update(facts={**release.facts, **answer}, **({"schema": schema} if schema else {}))
    if deployment.live:
        _refuse_an_empty_database(deployment.live, release)


def _unfollowed(site: Site, release: Release, answer: dict[str, Any]) -> list[str]:
    """What the pillar decided and the project does not follow: warnings, an error where the site would not be safe."""
    at = f"django:sites:{site.name}"
    if answer["settings_module"] != answer["expected_settings_module"]:
        raise DeploymentError(
            f"the project sets DJANGO_SETTINGS_MODULE to {answer['settings_module']} itself",
            hint=f"use os.environ.setdefault in {release.facts['application']}, or {at}:overlay: false",
        )
    if answer["debug"]:
        raise DeploymentError(
            "DEBUG is on",
            hint=f"turn it off in the project's environment: {at}:environment, "
            f"or let the overlay do it: {at}:overlay: true",
        )
    django_database.check_settings(site, answer["databases"])
    for alias, database in answer["databases"].items():
        path = django_database.database_file(site, release.path, release.facts, database)
        is_inside = path is not None and path.is_relative_to(release.path)
        if path and is_inside and not django_database_sqlite.resolved(site, path)[0].is_relative_to(site.shared.top):
            raise DeploymentError(
                f"the database {alias!r} lies inside the release ({database['name']}) and would be lost with it",
                hint=f"name its file in {at}:shared, "
                f"or give it the path: {at}:environment, {{from: database_path}}, with database: {{engine: sqlite}}",
            )
    if answer.get("empty_former_key"):
        raise DeploymentError(
            "SECRET_KEY_FALLBACKS of the project's settings has an empty key, with which anybody can sign anything",
            hint="leave empty texts out where its variable is split, such as [key for key in text.split(',') if key]",
        )
    return list(django_project_coherence.contradictions(site, answer))


def _lost_sessions(deployment: Deployment, answer: dict[str, Any]) -> list[str]:
    """A warning where the key has changed, and the project takes nothing any more that the former one has signed."""
    site, live = deployment.site, deployment.live
    before = live.record["inputs"].get("secrets:secret_key") if live else None
    is_new = before and before != deployment.inputs()["secrets:secret_key"]
    if not is_new or answer.get("former_keys", 1) >= len(django_secret.fallbacks(site)):
        return []
    why = f"Django {answer['django']} knows no SECRET_KEY_FALLBACKS"
    if not answer["django"].startswith(("1.", "2.", "3.", "4.0")):
        why = "SECRET_KEY_FALLBACKS of the project's settings has not the former key"
    return [f"the secret key has changed, and every session ends with this release: {why}"]


def _refuse_an_empty_database(live: Release, release: Release) -> None:
    """A release that looks for its SQLite file elsewhere than the live one would begin with an empty one."""
    site = release.site
    for alias, database in release.facts["databases"].items():
        before = live.facts.get("databases", {}).get(alias)
        old = before and django_database.database_file(site, live.path, live.facts, before)
        new = django_database.database_file(site, release.path, release.facts, database)
        if not old or not new or old == new:
            continue
        former, later = django_database_sqlite.resolved(site, old, new)
        if (
            former != later
            and django_database_sqlite.applied(site, former)
            and not django_database_sqlite.applied(site, later)
        ):
            raise DeploymentError(
                f"the database {alias!r} would be {new}, which is empty; the data is in {old}",
                hint=f"take it along, or say where it is (django:sites:{site.name}:database:name): "
                f"runuser -u {site.user} -- python3 -c "
                f"\"import sqlite3 as s; s.connect('{old}').backup(s.connect('{new}'))\"",
            )


def migration(deployment: Deployment) -> Iterator[Changes]:
    """The database has what the release needs; then Django's checks, which may read tables."""
    site, release = deployment.site, deployment.release
    if not release:
        return
    pending = django_database_migration.pending(site, release, deployment.is_new)
    if deployment.is_new and not pending:
        deployment.warnings += release.facts.get("checks", [])
    if pending and not site.config["migrate"]["run"]:
        deployment.warnings.append(
            f"not migrated, as the pillar says: {', '.join(name for names in pending.values() for name in names)}"
        )
        pending = {}
    if pending and deployment.is_new:
        deployment.warnings += django_database_migration.check_compatibility(release, deployment.live)
    changes = {**({"migrations": pending} if pending else {}), **_commands(deployment, "after_migrate")}
    if not changes:
        return
    yield changes
    deployment.take_lock()
    if pending:
        live = deployment.live if deployment.is_new else None
        deployment.warnings += django_database_migration.back_up_and_migrate(
            live, release, pending, deployment.masked()
        )
    _run_commands(deployment, "after_migrate")


def _commands(deployment: Deployment, stage: str) -> Changes:
    """The commands of a stage, as a change, where this deployment will run them: once for each new release."""
    commands = deployment.site.config["commands"][stage]
    return {"commands": commands} if commands and deployment.is_new else {}


def _run_commands(deployment: Deployment, stage: str, writable: Sequence[Path] = ()) -> None:
    release = deployment.release
    if release and deployment.is_new:
        django_project_command.run_stage(
            deployment.site, release.path, release.facts, stage, deployment.masked(), writable
        )


def instance(deployment: Deployment) -> Iterator[Changes]:
    """The release's own server, which answers on its own socket before any request is led to it."""
    site, release = deployment.site, deployment.release
    if not release or (not deployment.is_new and django_release_instance.is_kept_alive(site, release.path)):
        return
    yield {
        "instance": f"{django_process.unit(site, release.path)} started",
        **_commands(deployment, "before_switch"),
    }
    deployment.take_lock()
    live = deployment.live if deployment.live and deployment.live.name != release.name else None
    if live and site.config["releases"]["overlap"]:
        django_release_preflight.refuse_without_memory(site, live)
    elif live:
        deployment.pause(live)
    log.info("%s: starting %s", site.name, release.name)
    if deployment.is_new:
        for name, content in django_release_instance.configuration(
            site, release.path, release.facts, deployment.templates
        ).items():
            django_host_file.write(release.path / "config" / name, content, mode=0o640, group=site.user, durable=False)
        where = django_release_instance.address(site, release.path)
        django_host_file.link(release.path / "socket", where if where.startswith("/") else "/dev/null", durable=False)
    with ThreadPoolExecutor(1) as pool:  # the server takes its time to start
        beside = pool.submit(_work_beside_the_start, deployment, release)
        django_release_instance.start(site, release.path)
        beside.result()
    if live and not deployment.paused:
        through_proxy = django_proxy.is_installed(site) and django_proxy.of_site(site) is not None
        through_proxy &= not site.config["proxy"].get("upstreams")
        deployment.probe = django_release_switch_report.Probe(site, through_proxy=through_proxy).start()
    django_release_instance.check_health(site, release.path)
    deployment.steady = django_release_instance.pid(site, release.path)
    _run_commands(deployment, "before_switch")


def _work_beside_the_start(deployment: Deployment, release: Release) -> None:
    """What is left to be done to the files of a new release that its server does not read, and to what comes next."""
    if deployment.is_new:
        before = deployment.live.path / "static" if deployment.live else None
        if "gzip" in deployment.site.config["static"]["compress"]:
            django_release_static.compress(release.path / "static", before)
        django_release_drift.note(release)
        with contextlib.suppress(DeploymentError):  # it is done once more, and judged, when the release goes live
            django_host_file.sync(release.path)
    proxy = django_proxy.of_site(deployment.site)
    django_release_settings.compile_templates(deployment.templates, proxy.templates if proxy else ())


def live(deployment: Deployment) -> Iterator[Changes]:
    """The flip: one rename; while the new release does well the old one is drained, then stopped; the oldest go.

    A release that does not do well is left again, see `django_release_switch.watch`.
    """
    site, release, old = deployment.site, deployment.release, deployment.live
    if not release:
        return
    stray = django_release_instance.strays(site, release.path)
    flips = not old or old.name != release.name
    takeover = deployment.takeover
    opens = django_database_migration.is_in_maintenance(site) and not django_database_migration.is_in_maintenance(
        site, release
    )
    if not flips and not stray and not takeover and not opens:
        return
    changes: Changes = {"live": {"old": old.name if old else None, "new": release.name}} if flips else {}
    if opens:
        changes["maintenance"] = "off"
    if stray and not flips:
        changes["stopped"] = [path.name for path in stray]
    if takeover:
        changes["adopted"] = takeover.told()
    yield changes
    deployment.take_lock()
    former = site.previous.readlink() if site.previous.is_symlink() else None
    leaving = {*stray, *([old.path] if old and flips else [])}
    if takeover:
        django_release_switch.take_over(deployment, release, takeover, flips=flips)
    elif flips:
        django_release_switch.flip(deployment, release)
    if flips:
        left = django_release_switch.watch(deployment, release, leaving, former)
        changes["receipt"] = deployment.receipt
    else:
        left = {path: django_release_instance.drain(site, path) for path in leaving}
    if opens:
        django_database_migration.end_maintenance(site)
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(django_release_switch.end, deployment, left)
        if stray:  # which may be a release that is deleted then
            wait([ended])
        stuck = django_release.prune(site)
        ended.result()
    if flips and old and django_database_setup.has_new_password(site, old.record, release.record):
        changes |= _forget_passwords(deployment, release)
    deployment.warnings += stuck


def _forget_passwords(deployment: Deployment, release: Release) -> Changes:
    """The servers of this host take the new passwords only; where that fails, the next apply does it."""
    databases = django_database_setup.databases(deployment.site, deployment.secrets, release.record["inputs"])
    try:
        return django_database_setup.as_state_changes(django_database_setup.apply(databases, deployment.servers))
    except DeploymentError as error:
        deployment.warnings.append(f"the former password still opens the database: {error.message}; apply again")
        return {}


def proxy(deployment: Deployment) -> Iterator[Changes]:
    """The proxy's files of the site and their links; it is reloaded when one has changed and all are accepted.

    Without a proxy, the address on which systemd listens for the site.
    """
    site, release = deployment.site, deployment.release
    if not release:
        return
    upcoming = bool(deployment.planned and deployment.test)
    facts = _expected_facts(deployment, release) if upcoming else release.facts
    wanted = django_proxy_handover.files(site, facts, deployment.templates, upcoming=upcoming)
    changes = django_host_etc.differences(wanted)
    pages = {} if upcoming else django_proxy_page.of_errors(site, release.path, release.facts["folder"])
    stale = {} if upcoming else django_proxy_page.differences(site, pages)
    leftovers = django_proxy_files.leftovers(site, wanted)
    listener = django_proxy_listener.stale(site, deployment.templates)
    if changes or stale or leftovers or listener:
        yield {**changes, **stale, **listener, **{str(path): "removed" for path in leftovers}}
        deployment.take_lock()
        if listener and not site.listener:
            django_proxy_listener.remove(site)
        django_proxy_page.bring(site, pages)
        if changes:
            django_proxy_switch.apply(wanted)
        django_proxy_page.clear(site, pages)
        if listener and site.listener:
            django_proxy_listener.apply(site, deployment.templates)
        for path in leftovers:
            django_host_file.remove_tree(path)


def acme(deployment: Deployment) -> Iterator[Changes]:
    """The certificates that are due are ordered, now that the proxy answers; what fails is a warning."""
    site = deployment.site
    if not site.https or site.config["tls"]["kind"] != "acme" or not (deployment.release or deployment.test):
        return
    due, deferred = django_tls_acme.due(site)
    deployment.warnings += deferred
    if due:
        changes: Changes = {"certificates": due}
        yield changes
        ordered, failed = django_tls_acme.renew(site, due, deployment.tls)
        deployment.warnings += failed
        changes.clear()
        changes.update({"certificates": ordered} if ordered else {})


def record(deployment: Deployment) -> Iterator[Changes]:
    """The deployment is written down, after the commands that wait for the switch; the lock is given back.

    So is one that was killed once its release was live.
    """
    release = deployment.release
    if release and not deployment.went_live and "steps" not in release.record:
        yield {"release": f"{release.name}, of a deployment that was interrupted"}
        deployment.take_lock()
        _record_interrupted(deployment, Release(deployment.site, release.name))
    if deployment.went_live and release:
        yield {"release": release.name, **_commands(deployment, "after_switch")}
        told = {"steps": deployment.seconds, "warnings": deployment.warnings, "receipt": deployment.receipt}
        release.update(**told)
        _lapsed_keys(deployment, release)
        try:
            _run_commands(deployment, "after_switch")
        except DeploymentError as error:
            release.update(step="record", error=redact(str(error), deployment.masked()))
            raise
        deployment.write_attempt(deployment.result())
    deployment.lock.release()


def _record_interrupted(deployment: Deployment, release: Release) -> None:
    """Write down a release that went live by a deployment that was killed then, unless that has recorded it itself."""
    if "steps" in release.record:
        return
    commands = deployment.site.config["commands"]["after_switch"]
    if commands:
        deployment.warnings.append(f"nobody knows whether these have run in {release.name}: {', '.join(commands)}")
    about = {key: release.record.get(key) or "" for key in ("commit", "asked_by")}
    django_release_attempt.append(
        deployment.site, {"time": django_host_clock.now(), "release": release.name, "result": "released", **about}
    )
    release.update(steps={})


#: The story of a release; `site` before it lays the site out, and what is the host's is seen to beside it.
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
        yield {"release": deployment.planned, **deployment.foreseen.get(name, {})}
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
