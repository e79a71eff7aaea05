"""The steps `virtualenv` and `build`: what runs without secrets, as the build user."""

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator

import django_container
import django_container_file
import django_container_image
import django_deploy_drift
import django_deploy_preflight
import django_host_command
import django_host_file
import django_host_user
import django_process_build
import django_process_sandbox
import django_project_requirements
import django_release
import django_release_manifest
import django_release_settings
import django_secret
import django_site
import django_virtualenv
import django_virtualenv_image
import django_virtualenv_packages
import django_virtualenv_python
import django_virtualenv_requirements
import django_virtualenv_uv
import django_wall_delegate
from django_deploy import Changes, Deployment
from django_host_command import DeploymentError, seconds
from django_release import Release
from django_site import Site
from django_wall_foreign import GROUP, Foreign
from django_wall_text import Log

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
    if file := django_container_file.of_site(site):
        yield {"virtualenv": f"that of the image of {file}"}
        django_deploy_preflight.refuse_without_disk(site, deployment.live, with_virtualenv=True)
        log.info("%s: building the image of %s", site.name, file)
        key = django_virtualenv_image.make(site, release.path, again=deployment.again, aside=deployment.aside)
        django_release_manifest.make(site.virtualenvs / key, django_secret.record_key(site))
        _link_virtualenv(deployment, release, key)
        return
    tree = release.path / "source"
    requirements = django_virtualenv_requirements.read(site, tree, release.facts["folder"])
    key = django_virtualenv.newest(site, django_virtualenv.key_of(site, requirements.contents))
    exists = django_virtualenv.is_complete(site, key)
    if exists and deployment.again and django_deploy_drift.of_virtualenv(site, key):
        exists = False
    if not exists and any(other.record.get("virtualenv") == key for other in django_release.releases(site)):
        key = django_virtualenv.next_of(site, key.partition(".")[0])  # the live release still imports from the other
    if not exists:
        django_virtualenv_python.require(site, requirements.python)
        pinned = django_project_requirements.versions(requirements.contents)
        pinned |= django_project_requirements.replacing(site.config["python_packages"])
        django_virtualenv_python.require_for_django(site, pinned.get("django", ""))
    changes: Changes = {"virtualenv": f"{key}, {'shared' if exists else 'new'}", "requirements": requirements.files}
    yield changes
    if not exists:
        django_deploy_preflight.refuse_without_disk(site, deployment.live, with_virtualenv=True)
        where = django_virtualenv_image.taken(site, key) if site.config.get("container") else ""
        if where:
            changes["virtualenv"] = f"{key}, from an image ({where})"
        else:
            log.info("%s: installing %s", site.name, ", ".join(requirements.files) or "packages")
            added = django_virtualenv.build(
                site, tree, requirements.files, key, deployment.secrets.index_password, release.facts["folder"]
            )
            if added:
                changes["added"] = added
        if site.config.get("container") and where != "pulled" and not deployment.aside:
            django_virtualenv_image.share(site, key)
        django_release_manifest.make(site.virtualenvs / key, django_secret.record_key(site))
    _link_virtualenv(deployment, release, key)


def _link_virtualenv(deployment: Deployment, release: Release, key: str) -> None:
    django_host_file.link(release.path / "virtualenv", f"../../virtualenvs/{key}", durable=False)
    packages = django_virtualenv.packages(release.site.virtualenvs / key)
    release.update(virtualenv=key, packages=packages)
    warning = django_virtualenv_python.warning_of_django(packages.get("django", ""))
    deployment.warn([f"{release.site.name}: {warning}"] if warning else [])


def build(deployment: Deployment) -> Iterator[Changes]:
    """Run the build commands in the new source and compile it, as the build user; then give it to root."""
    site, release = deployment.site, deployment.release
    if not deployment.is_new or not release:
        return
    copied = django_virtualenv_packages.names(site)
    changes: Changes = {"commands": site.config["build"] or "none", "source": "compiled"}
    yield {**changes, **({"packages": copied} if copied else {})}
    tree = Foreign(release.path / "source")
    build_user = django_host_user.owner(site.build_user, site.build_user)
    django_process_build.end_processes(site)
    for path, content in django_release_settings.files_of_build(site).items():
        django_release_settings.write_project_file(site, release.path / "source", path, content)
    tree.give(build_user, None, of=0)
    _run_commands(site, release, tree)
    django_process_build.end_processes(site)
    tree.give(django_host_user.owner("root", site.user), GROUP, of=build_user[0])
    _link_shared(site, tree, fill=not deployment.aside)
    _make_writable(site, tree)
    django_virtualenv_packages.copy(site, release.path)
    if site.config.get("container"):
        container = django_container_image.of_release(site, release.path, release.record["virtualenv"])
        release.update(container=django_container.record(container))


def _run_commands(site: Site, release: Release, tree: Foreign) -> None:
    image, virtualenv = "", release.path / "virtualenv"
    if site.config.get("container"):  # whose image has no link of a release yet
        image, virtualenv = django_container_image.for_commands(site, release.path, release.record["virtualenv"])
    environment = {
        **django_virtualenv_uv.build_environment(site),
        "VIRTUAL_ENV": str(virtualenv),
        "PATH": f"{virtualenv}/bin:{django_host_command.PATH}",
    }

    def run(argv: list[str], doing: str) -> None:
        django_process_build.run(
            site,
            argv,
            doing=doing,
            environment=environment,
            folder=str(tree / release.facts["folder"]),
            writable=[str(tree)],
            timeout=seconds(site.config["timeouts"]["build"]),
            hint=f"the command is from django:sites:{site.name}:build",
            image=image,
        )

    if django_container_file.of_site(site):
        made = django_container_file.working_folder(django_container.engine(site), image)
        argv = [f"{virtualenv}/bin/python", "-I", "-S", "-c", TAKE, made, str(tree), release.facts["folder"]]
        run(argv, "copying what the Dockerfile has made")
    for command in site.config["build"]:
        log.info("%s: %s", site.name, command)
        run(shlex.split(command), shlex.join(shlex.split(command)))
    with contextlib.suppress(DeploymentError):
        run([f"{virtualenv}/bin/python", "-I", "-S", "-c", COMPILE, str(tree)], "compiling the source")


def _make_writable(site: Site, tree: Foreign) -> None:
    """Make the folders of ``writable``, and give them to the site's user."""
    for path in sorted(site.config["writable"]):
        folder = django_site.inside(tree, path, f"django:sites:{site.name}:writable", link=False)
        if not folder.is_folder():
            folder.make_folder(mode=0o750, owner=django_host_user.owner("root", site.user))
    for path in django_process_sandbox.outermost(site.config["writable"]):
        (tree / path).give(django_host_user.owner(site.user, site.user), GROUP, of=0)


def _link_shared(site: Site, tree: Foreign, *, fill: bool) -> None:
    """Replace the paths of ``shared`` by links to what outlives a release; fill it from the first release.

    The site's processes may be working in ``shared/``, so it is filled as the site's user. A path below another one
    is a folder that is created there.

    Args:
        fill: whether to fill it; otherwise a path that is not shared yet stays as the source has it.
    """
    at = f"django:sites:{site.name}:shared"
    outermost = django_process_sandbox.outermost(site.config["shared"])
    for path in outermost:
        inside = django_site.inside(tree, path, at)
        kept = django_site.inside(site.shared, path, at)
        if not kept.exists():
            if not fill:
                continue
            timeout = seconds(_COPY_TIMEOUT)
            django_wall_delegate.ask(site.user, _fill, inside, kept, doing=f"filling {kept}", timeout=timeout)
        inside.remove()
        inside.parent.make_folder(mode=0o750, owner=django_host_user.owner("root", site.user))
        inside.link(str(kept))
    for path in sorted({*site.config["shared"]} - {*outermost}) if fill else ():
        kept = django_site.inside(site.shared, path, at)
        django_wall_delegate.ask(site.user, _make_folder, kept, doing=f"creating {kept}")


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
