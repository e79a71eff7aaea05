"""The images of a site in an archive, for hosts that share them without a registry."""

import os
import re
from pathlib import Path

from django_formula.container import containers, images, registry
from django_formula.container import file as container_file
from django_formula.container.containers import Container
from django_formula.host import folders
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site

#: Seconds to write or to read an archive.
_TIMEOUT = 1800
_LOADED = re.compile(r"^Loaded image(?:\(s\))?(?: ID)?:\s*(\S.*)$", re.MULTILINE)


def save(site: Site, release: Path, file: Path) -> list[str]:
    """Write the image that other hosts need not build for a release into a new file; return its name.

    Raises:
        DeploymentError: the release is in no container, the file exists, or the engine cannot write it.
    """
    container = containers.of_release(release)
    if not container:
        raise DeploymentError(f"{release.name} is in no container", hint="set container in the pillar, and apply")
    _refuse_unsafe(file)
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # podman would make it readable for all
    except FileExistsError:
        raise DeploymentError(f"{file} exists", hint="remove it, or name another file") from None
    engine, (image, name) = container.engine, _image(site, release, container)
    engine.run("tag", image, name, doing=f"naming the image {name}")
    try:
        engine.run("save", "--output", str(file), name, doing=f"writing {file}", timeout=_TIMEOUT)
    except DeploymentError:
        file.unlink(missing_ok=True)
        raise
    finally:
        engine.forget(name)
    return [name]


def load(site: Site, file: Path) -> list[str]:
    """Give the engine of a site the images of an archive; return their names.

    Raises:
        DeploymentError: the site has no containers, or the engine cannot read the file.
    """
    engine = containers.of_site(site)
    if not engine:
        raise DeploymentError(f"{site.name} has no containers", hint="set container in the pillar, and apply")
    _refuse_unsafe(file)
    printed = engine.run("load", "--input", str(file), doing=f"reading {file}", timeout=_TIMEOUT)
    return [name for line in _LOADED.findall(printed) for name in re.split(r",\s*", line)]


def _image(site: Site, release: Path, container: Container) -> tuple[str, str]:
    """Return the image that other hosts do not have to build, and its name in an archive."""
    if container.is_of_project:
        return container.base, container_file.to_carry(site, release)
    key = os.path.basename(os.readlink(release / "virtualenv"))
    image = images.dependencies_of(site, container, key)
    return image, registry.carried(site, f"deps-{key}")


def _refuse_unsafe(file: Path) -> None:
    if not file.is_absolute():
        raise DeploymentError(f"{file} is no absolute path", hint="name it from the root, such as /root/blog.tar")
    try:
        folders.refuse_unsafe_parents(file)
    except DeploymentError as error:
        raise DeploymentError(error.message, hint="name a file in a folder that only root may write to") from None
