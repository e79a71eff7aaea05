"""The image of a release that the project makes: by its own Dockerfile on this host, or elsewhere, to be pulled.

The Dockerfile is repository content: it is built without a secret, a mount of this host or its network.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from django_formula.container import base, dockerfile, registry
from django_formula.container.base import PATH, PULLED, SITE
from django_formula.container.containers import Container
from django_formula.container.dockerfile import NEVER, PRIVATE
from django_formula.container.engine import Engine
from django_formula.host import commands
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted import shapes
from django_formula.untrusted.foreign import Foreign

#: The most bytes of a Dockerfile or of its .dockerignore.
_MOST = 1 << 20
#: Seconds for the copy of a source.
_COPY = 600
#: Prints where the Python of an image has its packages, the names in there, and how its uwsgi begins.
_LOOK = """
import json
import os
import platform
import sys
import sysconfig
packages, uwsgi = sysconfig.get_path("purelib"), sys.prefix + "/bin/uwsgi"
print(json.dumps({
    "prefix": sys.prefix,
    "packages": packages,
    "names": sorted(os.listdir(packages)) if os.path.isdir(packages) else [],
    "has_python": os.path.exists(sys.prefix + "/bin/python"),
    "uwsgi": open(uwsgi, "rb").read(2).decode("latin-1") if os.path.isfile(uwsgi) else "",
    "version": platform.python_version(),
}))
"""
_SHAPE = {"prefix": str, "packages": str, "names": [str], "has_python": bool, "uwsgi": str, "version": str}
_PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._@+~=,-]+)+")


def configured(site: Site) -> str:
    """Return the Dockerfile of a site's new releases, relative to their source, or the name of the image to pull.

    Empty for a site whose images the formula makes.
    """
    container = site.config.get("container") or {}
    return str(container.get("file") or container.get("image") or "")


def name(site: Site, release: Path) -> str:
    """Return the name of the image of a release that the project makes."""
    return f"localhost/django/{site.name}-file:{base.tag(site, release)}"


def make(site: Site, release: Path, engine: Engine, image: str, *, again: bool, aside: bool) -> None:
    """Have the image of a new release: pull it, take the one that another host has built, or build it for all.

    Args:
        again: whether it is built although another host has built it.
        aside: whether it is for a plan, of which other hosts get nothing.

    Raises:
        DeploymentError: it cannot be pulled or built.
    """
    container = site.config["container"]
    if container["file"]:
        _context(release)  # before the pillar's files, which may have secrets, are in the source
    if engine.image(image):
        return
    commit = _commit(release)
    tag = _tag(site, commit)
    loaded, shared = registry.carried(site, tag), registry.shared(site, tag)
    if engine.image(loaded):
        take(site, release, engine, image, loaded, _named(container["image"], commit))
        if not aside:
            engine.forget(loaded)
    elif container["image"]:
        named, at = _named(container["image"], commit), f"{site.at}:container"
        hint = f"push it, then apply again; or correct {at}:image or {at}:login"
        registry.pull(site, engine, named, hint)
        try:
            take(site, release, engine, image, named, engine.digest(named))
        finally:
            engine.forget(named)
    elif not again and registry.has_pulled(site, engine, shared):
        try:
            take(site, release, engine, image, shared)
        finally:
            engine.forget(shared)
    else:
        require(site, release, engine, image, container["file"])
        registry.push(site, engine, image, "" if aside else shared)


def _named(template: str | None, commit: str) -> str:
    """Return the name of the image of a commit; empty without a template."""
    return re.sub(r"\{commit(?::(\d+))?\}", lambda found: commit[: int(found[1] or 40)], template or "")


def _tag(site: Site, commit: str) -> str:
    """Return the tag of an image that other hosts may have built of a commit."""
    return f"{commit[:12]}-{hashlib.sha256(configured(site).encode()).hexdigest()[:8]}"


def to_carry(site: Site, release: Path) -> str:
    """Return the name of the image of a release in an archive for other hosts."""
    return registry.carried(site, _tag(site, _commit(release)))


def take(site: Site, release: Path, engine: Engine, image: str, source: str, pulled: str = "") -> None:
    """Give an image that was made elsewhere the name and the labels of a release.

    Args:
        source: its present name.
        pulled: the name by which it can be pulled again.

    Raises:
        DeploymentError: it has lines for images which begin with it (ONBUILD).
    """
    engine.refuse_triggers(source)
    labels = {SITE: site.name, PATH: str(release), **({PULLED: pulled} if pulled else {})}
    empty = release / "image/empty"
    empty.mkdir(mode=0o755, parents=True, exist_ok=True)
    text = f"FROM {source}\n"
    dockerfile.build(site, engine, text, empty, image, ignored="*", labels=labels)


def _commit(release: Path) -> str:
    record = host_file.read_json(release / "release.json", {"commit": str})
    return str(record["commit"]) if record else release.name.partition("-")[2]


def require_again(site: Site, release: Path, container: Container) -> None:
    """Have the image of a release again where it was removed: pulled as it was, or built from the source.

    Raises:
        DeploymentError: it cannot be pulled or built.
    """
    engine, image = container.engine, container.base
    if not container.pulled:
        require(site, release, engine, image, container.file)
    elif not engine.image(image):
        hint = f"activate another release, or make a new one: {site.to_release()}"
        registry.pull(site, engine, container.pulled, hint)
        take(site, release, engine, image, container.pulled, container.pulled)
        engine.forget(container.pulled)


def require(site: Site, release: Path, engine: Engine, image: str, file: str) -> None:
    """Build the image of a Dockerfile from the source of a release, if this host does not have it.

    Args:
        file: the path of the Dockerfile, relative to the source.

    Raises:
        DeploymentError: the source has no such file, it copies a file that may have secrets, or a line of it fails.
    """
    if engine.image(image):
        return
    context = _context(release)
    source = Foreign(context)
    at = f"{site.at}:container:file"
    text = sites.inside(source, file, at, link=False).text(_MOST)
    if text is None:
        raise DeploymentError(f"the source has no file {file}", hint=f"correct {at}")
    if private := dockerfile.private_copy(text):
        raise DeploymentError(
            f"line {private.line} of {file} copies a file that may have secrets, and is in no image: {private.text}",
            hint="remove the line; containers have such a file of the source as a mount",
        )
    others = [name for name in sites.registered() if name != site.name]
    dockerfile.refuse_foreign(text, site.name, others)
    dockerfile.refuse_unsupported(text, site, engine, source)
    first = dockerfile.begins_with(text)
    neighbours = [*_applied(others)]
    for name in dockerfile.images(text):
        is_private = registry.is_by_another_login(site, name, neighbours)
        if is_private or (name in first and not engine.image(name)):
            registry.pull(site, engine, name, f"correct {file}, or {at.removesuffix('file')}login")
    for name in first:
        engine.refuse_triggers(name)
    labels = {SITE: site.name, PATH: str(release)}
    ignored = _ignored(source, file)
    dockerfile.build(site, engine, text, context, image, ignored=ignored, file=file, labels=labels)
    engine.refuse_triggers(image)


def _applied(names: Iterable[str]) -> Iterator[Site]:
    """Yield sites of this host; one whose configuration is damaged stops no other one."""
    for name in names:
        with contextlib.suppress(DeploymentError):
            yield sites.find(name)


def _context(release: Path) -> Path:
    """Return the copy of a release's source that the Dockerfile gets, as the commit has it, also after the build."""
    folder = release / "image/context"
    if not folder.is_dir():
        new = folder.with_name("context.new")
        host_file.remove_tree(new)
        new.parent.mkdir(mode=0o755, exist_ok=True)
        copy = ["cp", "--archive", "--reflink=auto", str(release / "source"), str(new)]
        commands.run(copy, doing="copying the source for the Dockerfile", timeout=_COPY)
        new.rename(folder)
    return folder


def _ignored(source: Foreign, file: str) -> str:
    """Return what the build does not get: what the project ignores, and last, so that it holds, what may be secret."""
    own = (source / f"{file}.dockerignore").text(_MOST) or (source / ".dockerignore").text(_MOST) or ""
    return "\n".join([own, *(f"**/{one}" for one in (*PRIVATE, *NEVER))])


def python_facts(site: Site, engine: Engine, image: str) -> dict[str, Any]:
    """Return what the Python of an image reports about itself: prefix, packages, names, has_python, uwsgi, version.

    Raises:
        DeploymentError: it has no such Python, or its packages are not in a folder of its own.
    """
    python, at = site.python, f"{site.at}:python"
    hint = f"set {at} to the interpreter of the image, such as /venv/bin/python"
    doing = f"looking for {python} in the image of {configured(site)}"
    printed = engine.look(image, [python, "-I", "-B", "-c", _LOOK], doing=doing, hint=hint)
    found: dict[str, Any] = shapes.parse(printed, _SHAPE, doing=doing)
    prefix, packages = found["prefix"], found["packages"]
    series = ".".join(str(found["version"]).split(".")[:2])
    if not (
        found["has_python"] and _PREFIX.fullmatch(prefix) and packages == f"{prefix}/lib/python{series}/site-packages"
    ):
        raise DeploymentError(
            f"{python} in the image of {configured(site)} has its packages in {json.dumps(packages)}, "
            "not in a virtualenv",
            hint=f"have it install into one (RUN python3 -m venv /venv), and set {at}: /venv/bin/python",
        )
    return found


def working_folder(engine: Engine, image: str) -> str:
    """Return the folder that an image names as its working directory (WORKDIR); empty for the root."""
    argv = ["image", "inspect", "--format", "{{.Config.WorkingDir}}", image]
    found = engine.run(*argv, doing=f"reading the working directory of {image}").strip()
    return found if found.startswith("/") and found != "/" else ""


def prefix(site: Site, key: str) -> Path:
    """Return the folder of the Python environment in an image, of which this host has the outline with this key."""
    return Path((site.virtualenvs / key / "bin/python").readlink()).parent.parent
