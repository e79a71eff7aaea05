"""Virtualenvs of images: the outline of one in an image of the project's own, and those that hosts share."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from django_formula.container import containers, images, registry
from django_formula.container import file as container_file
from django_formula.container.base import PATH
from django_formula.container.engine import Engine
from django_formula.host import file as host_file
from django_formula.host import users
from django_formula.host.commands import DeploymentError
from django_formula.server import servers
from django_formula.site.sites import Site
from django_formula.untrusted.foreign import PUBLIC, Foreign
from django_formula.virtualenv import virtualenvs

#: The names of packages and modules that an outline has, and how many.
_NAME, _MOST = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.+@-]{1,200}"), 20_000


def make(site: Site, release: Path, *, again: bool, aside: bool) -> str:
    """Build the image of a release's Dockerfile, and return the name of the outline of its Python environment.

    Commands in a container have the environment itself. The outline has the names of its packages: a status, a hint
    and the files of a server are made from them.

    Args:
        again: whether the image and an outline that exist elsewhere or here are made again.
        aside: whether it is for a plan, of which other hosts get nothing.

    Raises:
        DeploymentError: the image cannot be built, or has no Python environment that can serve the project.
    """
    engine, file = containers.engine(site), container_file.configured(site)
    image = container_file.name(site, release)
    container_file.make(site, release, engine, image, again=again, aside=aside)
    found = container_file.python_facts(site, engine, image)
    names = [name for name in found["names"] if _NAME.fullmatch(name)][:_MOST]
    key = hashlib.sha256(json.dumps({**found, "names": names}, sort_keys=True).encode()).hexdigest()[:16]
    folder = site.virtualenvs / key
    if virtualenvs.is_complete(site, key) and not again:
        _refuse_without(site, file, {*virtualenvs.packages(folder)})
        return key
    host_file.remove_tree(folder)
    _write(folder, found, names)
    _refuse_without(site, file, {*virtualenvs.packages(folder)})
    host_file.write(folder / virtualenvs.COMPLETE, "")
    return key


def share(site: Site, key: str) -> None:
    """Push the image with a new virtualenv for the other hosts of a site, where they share images.

    Raises:
        DeploymentError: it cannot be made or pushed; the next apply does it.
    """
    name = registry.shared(site, f"deps-{key}")
    try:
        if name:
            engine, image = containers.engine(site), images.dependencies(site, key)
            registry.push(site, engine, image, name)
    except DeploymentError:
        (site.virtualenvs / key / virtualenvs.COMPLETE).unlink(missing_ok=True)
        raise


def taken(site: Site, key: str) -> str:
    """Take a virtualenv from an image that another host has made, or this one before; return where it was.

    Returns:
        ``pulled``, ``loaded`` from an archive, or ``here``; empty where there is none.

    Raises:
        DeploymentError: the registry refuses the login, or cannot be reached; or the image has files of other users,
            or lines for images which begin with it (ONBUILD).
    """
    engine, folder, image = (
        containers.engine(site),
        site.virtualenvs / key,
        images.name(site, key),
    )
    loaded, shared = (named(site, f"deps-{key}") for named in (registry.carried, registry.shared))
    where = "here"
    if not engine.image(image):
        where = "loaded" if engine.image(loaded) else "pulled"
        if where == "pulled" and not registry.has_pulled(site, engine, shared):
            return ""
        name = loaded if where == "loaded" else shared
        try:
            engine.refuse_triggers(name)
            engine.run("tag", name, image, doing=f"naming the image {image}")
        finally:
            engine.forget(name)
    if engine.labels(image, PATH) == str(folder):
        _copy(site, engine, image, folder)
    if not virtualenvs.is_complete(site, key):
        host_file.remove_tree(folder)
        engine.remove(image)
        return ""
    return where


def _copy(site: Site, engine: Engine, image: str, folder: Path) -> None:
    """Copy a virtualenv out of an image, as files of root that have no rights of their own.

    Raises:
        DeploymentError: it has an entry that is not a file, folder or link, or one of another user.
    """
    closed = site.root / f"image-{os.getpid()}"  # to all but root, while the modes are those of the image
    host_file.remove_tree(closed)
    closed.mkdir(mode=0o700)
    try:
        (closed / "virtualenv").mkdir()
        engine.copy(image, folder, closed / "virtualenv", f"django-{site.name}-copy")
        Foreign(closed / "virtualenv").give(users.ROOT, PUBLIC, of=0)
        host_file.remove_tree(folder)
        (closed / "virtualenv").rename(folder)
    finally:
        host_file.remove_tree(closed)


def _write(folder: Path, found: dict[str, Any], names: list[str]) -> None:
    packages = folder / Path(found["packages"]).relative_to(found["prefix"])
    for path in (packages, folder / "bin"):
        path.mkdir(mode=0o755, parents=True)
    for name in names:
        (packages / name).mkdir(mode=0o755)
    host_file.link(folder / "bin/python", f"{found['prefix']}/bin/python", durable=False)
    if found["uwsgi"]:  # a script or a binary
        host_file.write(folder / "bin/uwsgi", "#!" if found["uwsgi"] == "#!" else "-", durable=False)


def _refuse_without(site: Site, file: str, packages: set[str]) -> None:
    """Refuse an image without Django or the site's server.

    Raises:
        DeploymentError: it lacks one.
    """
    missing = [*(["django"] if "django" not in packages else []), *servers.requirements(site, packages)]
    if missing:
        raise DeploymentError(
            f"the image of {file} lacks {', '.join(missing)}",
            hint="have the Dockerfile install it, mostly by the project's requirements; or set "
            f"{site.at}:python to the interpreter that has it, such as /venv/bin/python",
        )
