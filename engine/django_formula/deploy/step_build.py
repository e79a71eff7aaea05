"""The steps `virtualenv` and `build`: what runs without secrets, as the build user."""

import contextlib
import functools
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.container import containers, images
from django_formula.container import file as container_file
from django_formula.deploy import drift, kept_build, preflight
from django_formula.deploy.deployment import Changes, Deployment
from django_formula.host import commands, users
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError, seconds
from django_formula.inspect import advice as inspect_advice
from django_formula.inspect import dependency
from django_formula.inspect import requirements as inspect_requirements
from django_formula.observe import override
from django_formula.process import build_user as process_build_user
from django_formula.process import sandbox
from django_formula.release import releases, settings
from django_formula.release.releases import Release
from django_formula.secret import secrets
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.source import commits as source_commits
from django_formula.untrusted import delegate
from django_formula.untrusted.foreign import GROUP, Foreign
from django_formula.untrusted.text import Log
from django_formula.virtualenv import image as virtualenv_image
from django_formula.virtualenv import index, interpreter, relaxed_pins, uv, virtualenvs
from django_formula.virtualenv import packages as virtualenv_packages
from django_formula.virtualenv import requirements as virtualenv_requirements

log = Log.of(__name__)

#: Compiles a source as compileall does, whose own start takes longer than that.
COMPILE = """
import os, py_compile, sys
for parent, folders, names in os.walk(sys.argv[1]):
    folders[:] = [name for name in folders if name != "node_modules" and not name.startswith(".")]
    for name in names:
        if name.endswith(".py") and not name.startswith("."):
            try:
                py_compile.compile(os.path.join(parent, name), doraise=True)
            except Exception:
                pass  # its import fails with the same error
"""

#: Copies what an image has in its working directory to a source, such as the assets that its Dockerfile has made.
TAKE = """
import os, shutil, sys
made, tree, folder = sys.argv[1:]
inner = os.path.normpath(os.path.join(tree, folder))
if not made:
    sys.exit()
if not os.path.exists(os.path.join(made, folder, "manage.py")):
    if not os.path.exists(os.path.join(made, "manage.py")):
        sys.exit()
    tree = inner
never = {"__pycache__", "node_modules", ".git"}
for parent, folders, names in os.walk(made):
    folders[:] = [n for n in folders if n not in never and not os.path.exists(os.path.join(parent, n, "pyvenv.cfg"))]
    target = os.path.join(tree, os.path.relpath(parent, made))
    for name in [*folders, *names]:
        old, new = os.path.join(parent, name), os.path.join(target, name)
        if os.path.islink(old):
            if not os.path.lexists(new):
                os.symlink(os.readlink(old), new)
        elif os.path.isdir(old):
            os.makedirs(new, exist_ok=True)
        elif os.path.isfile(old) and not os.path.islink(new):
            shutil.copyfile(old, new)
            shutil.copymode(old, new)
"""

#: Timeout for copying a release's files into ``shared/``.
_COPY_TIMEOUT = "10m"


def virtualenv(deployment: Deployment) -> Iterator[Changes]:
    """Build the virtualenv for the requirements, or share that of a release with the same."""
    site, release = deployment.site, deployment.release
    if not deployment.is_new or not release:
        return
    if file := container_file.configured(site):
        yield {"virtualenv": f"that of the image of {file}"}
        preflight.refuse_without_disk(site, deployment.live, with_virtualenv=True)
        log.info("%s: building the image of %s", site.name, file)
        key = virtualenv_image.make(site, release.path, again=deployment.again, aside=deployment.aside)
        drift.make_manifest(site.virtualenvs / key, secrets.record_key(site))
        _link_virtualenv(deployment, release, key)
        return
    tree = release.path / "source"
    requirements = virtualenv_requirements.read(site, tree, release.facts["folder"])
    key = virtualenvs.newest(site, virtualenvs.key_of(site, requirements.contents))
    exists = virtualenvs.is_complete(site, key)
    if exists and deployment.again and drift.of_virtualenv(site, key):
        exists = False
    if not exists and any(other.record.get("virtualenv") == key for other in releases.releases(site)):
        key = virtualenvs.next_of(site, key.partition(".")[0])  # the live release still imports from the other
    if not exists:
        interpreter.require(site, requirements.python)
        pinned = inspect_requirements.versions(requirements.contents)
        pinned |= inspect_requirements.replacing(site.config["python_packages"])
        interpreter.require_for_django(site, pinned.get("django", ""))
    changes: Changes = {"virtualenv": f"{key}, {'shared' if exists else 'new'}", "requirements": requirements.files}
    yield changes
    if not exists:
        preflight.refuse_without_disk(site, deployment.live, with_virtualenv=True)
        where = virtualenv_image.taken(site, key) if site.config.get("container") else ""
        if where:
            changes["virtualenv"] = f"{key}, from an image ({where})"
        else:
            log.info("%s: installing %s", site.name, ", ".join(requirements.files) or "packages")
            password, folder = deployment.secrets.of(index.PASSWORD), release.facts["folder"]
            files = [path for path in requirements.contents if not path.endswith("/")]
            day = functools.partial(source_commits.last_change, site, deployment.findings.commit, files)
            added = virtualenvs.build(site, tree, requirements.files, key, password, folder, day)
            if added:
                changes["added"] = added
        if site.config.get("container") and where != "pulled" and not deployment.aside:
            virtualenv_image.share(site, key)
        drift.make_manifest(site.virtualenvs / key, secrets.record_key(site))
    gave_way = virtualenvs.relaxed(site.virtualenvs / key)
    if gave_way:
        changes["relaxed"] = {name: value for name, value in gave_way.items() if value}
        release.update(relaxed=gave_way)
    if not exists and (gave_way.get("versions") or gave_way.get("until")):
        deployment.warn([_warning_of_relaxed(site, gave_way)])
    _link_virtualenv(deployment, release, key)


def _warning_of_relaxed(site: Site, gave_way: Mapping[str, Any]) -> str:
    """Return what gave way so that the requirements could be installed, and how the pillar keeps it."""
    changed = [f"{name} {new} instead of {old}" for name, (old, new) in gave_way["versions"].items()]
    bound = f"packages without a version, and those that builds need, as of {gave_way['until']}"
    what = ", ".join([*changed, *([bound] if gave_way["until"] else [])])
    cure = ""
    if changed:
        new = {name: new for name, (_old, new) in gave_way["versions"].items()}
        cure = f": to keep these versions, set {relaxed_pins.proposal(site, new)}, or correct the requirements"
    return f"{site.name}: its requirements cannot be installed as they are; installed are {what}{cure}"


def _link_virtualenv(deployment: Deployment, release: Release, key: str) -> None:
    host_file.link(release.path / "virtualenv", f"../../virtualenvs/{key}", durable=False)
    packages = virtualenvs.packages(release.site.virtualenvs / key)
    release.update(virtualenv=key, packages=packages)
    warning = interpreter.warning_of_django(packages.get("django", ""))
    deployment.warn([f"{release.site.name}: {warning}"] if warning else [])


def build(deployment: Deployment) -> Iterator[Changes]:
    """Run the build commands in the new source and compile it, as the build user; then give it to root."""
    site, release = deployment.site, deployment.release
    if not deployment.is_new or not release:
        return
    copied = virtualenv_packages.names(site)
    changes: Changes = {"commands": site.config["build"] or "none", "source": "compiled"}
    changes |= {"packages": copied} if copied else {}
    yield changes
    tree = Foreign(release.path / "source")
    build_user = users.owner(site.build_user, site.build_user)
    process_build_user.end_processes(site)
    for path, content in settings.files_of_build(site).items():
        settings.write_project_file(site, release.path / "source", path, content)
    tree.give(build_user, None, of=0)
    kept = _run_commands(deployment, release, tree)
    changes |= {"kept": kept} if kept else {}
    process_build_user.end_processes(site)
    tree.give(users.owner("root", site.user), GROUP, of=build_user[0])
    _link_shared(site, tree, fill=not deployment.aside)
    _make_writable(site, tree)
    virtualenv_packages.copy(site, release.path)
    if site.config.get("container"):
        container = images.of_release(site, release.path, release.record["virtualenv"])
        release.update(container=containers.record(container))


def _run_commands(deployment: Deployment, release: Release, tree: Foreign) -> list[str]:
    """Run the commands of the build; return those whose files are kept from an earlier one."""
    site = release.site
    image, virtualenv = "", release.path / "virtualenv"
    if site.config.get("container"):  # whose image has no link of a release yet
        image, virtualenv = images.for_commands(site, release.path, release.record["virtualenv"])
    environment = {
        **uv.build_environment(site),
        "PYTHONPATH": _customised(site),
        "VIRTUAL_ENV": str(virtualenv),
        "PATH": f"{virtualenv}/bin:{commands.PATH}",
    }

    hint = f"the command is from {site.at}:build"

    def run(argv: list[str], doing: str) -> str:
        return process_build_user.run_as_build_user(
            site,
            argv,
            doing=doing,
            environment=environment,
            folder=str(tree / release.facts["folder"]),
            writable=[str(tree)],
            timeout=seconds(site.config["timeouts"]["build"]),
            hint=hint,
            image=image,
        )

    def run_each(build: list[str]) -> None:
        for command in build:
            log.info("%s: %s", site.name, command)
            try:
                run(shlex.split(command), shlex.join(shlex.split(command)))
            except DeploymentError as error:
                known = "" if error.hint == hint else error.hint
                error.hint = _hint_of_packages(release, error, virtualenvs.packages(virtualenv), known) or hint
                raise

    if container_file.configured(site):
        made = container_file.working_folder(containers.engine(site), image)
        argv = [f"{virtualenv}/bin/python", "-I", "-S", "-c", TAKE, made, str(tree), release.facts["folder"]]
        run(argv, "copying what the Dockerfile has made")
    leading = kept_build.leading(site)
    kept = kept_build.KeptBuild(release, tree, run, leading, deployment.findings.commit)
    is_kept = kept.take()
    run_each([] if is_kept else leading)
    if not is_kept and not deployment.aside:
        kept.keep()
    run_each(site.config["build"][len(leading) :])
    with contextlib.suppress(DeploymentError):
        run([f"{virtualenv}/bin/python", "-I", "-S", "-c", COMPILE, str(tree)], "compiling the source")
    return leading if is_kept else []


def _hint_of_packages(release: Release, error: DeploymentError, packages: Mapping[str, str], known: str) -> str:
    """Return which packages do not go with each other, or with this Python, where a command imports the project.

    Args:
        known: the hint of a known cause, which one of a package that is too old for this Python is more than.
    """
    site, cause = release.site, f"{error.message}\n{error.log}"
    using = functools.partial(inspect_advice.using, site, release.path)
    of_python = dependency.of_python(site, cause, error.log, packages, using)
    return of_python or known or dependency.hint(site, cause, packages, error.log)


def _customised(site: Site) -> str:
    """Return the folder with the module that Python imports at its start, which replaces settings in a build."""
    own = users.owner(site.build_user, site.build_user)
    folder = site.build / "python"
    folder.remove()  # an earlier build may have anything there
    folder.make_folder(mode=0o700, owner=own)
    text = Path(override.__file__).read_text(encoding="utf-8")
    (folder / "sitecustomize.py").write(f"{text}\n\noverride(of_build())\n", mode=0o600, owner=own)
    return str(folder)


def _make_writable(site: Site, tree: Foreign) -> None:
    """Make the folders of ``writable``, and give them to the site's user."""
    for path in sorted(site.config["writable"]):
        folder = sites.inside(tree, path, f"{site.at}:writable", link=False)
        if not folder.is_folder():
            folder.make_folder(mode=0o750, owner=users.owner("root", site.user))
    for path in sandbox.outermost(site.config["writable"]):
        (tree / path).give(users.owner(site.user, site.user), GROUP, of=0)


def _link_shared(site: Site, tree: Foreign, *, fill: bool) -> None:
    """Replace the paths of ``shared`` by links to what outlives a release; fill it from the first release.

    The site's processes may be working in ``shared/``, so it is filled as the site's user. A path below another one
    is a folder that is created there.

    Args:
        fill: whether to fill it; otherwise a path that is not shared yet stays as the source has it.
    """
    at = f"{site.at}:shared"
    outermost = sandbox.outermost(site.config["shared"])
    for path in outermost:
        inside = sites.inside(tree, path, at)
        kept = sites.inside(site.shared, path, at)
        if not kept.exists():
            if not fill:
                continue
            timeout = seconds(_COPY_TIMEOUT)
            delegate.ask(site.user, _fill, inside, kept, doing=f"filling {kept}", timeout=timeout)
        inside.remove()
        inside.parent.make_folder(mode=0o750, owner=users.owner("root", site.user))
        inside.link(str(kept))
    for path in sorted({*site.config["shared"]} - {*outermost}) if fill else ():
        kept = sites.inside(site.shared, path, at)
        delegate.ask(site.user, _make_folder, kept, doing=f"creating {kept}")


def _make_folder(folder: Foreign) -> None:
    folder.path.mkdir(mode=0o750, parents=True, exist_ok=True)


def _fill(source: Foreign, target: Foreign) -> None:
    """Copy a path of a release to ``shared/``, completely or not at all; make a folder where it has none."""
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
