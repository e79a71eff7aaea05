"""The images of a site: one of each virtualenv, and one of each release, which adds its source.

An image lives as long as the folder that it is made of, and is made again from that folder where it was removed.
"""

import fnmatch
import os
import re
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from django_formula.container import base as container_base
from django_formula.container import containers as container_containers
from django_formula.container import dockerfile, registry
from django_formula.container import file as container_file
from django_formula.container.base import PATH, PULLED, SITE
from django_formula.container.containers import Container
from django_formula.container.dockerfile import NEVER, PRIVATE
from django_formula.container.engine import ENGINES, Engine
from django_formula.host import file as host_file
from django_formula.host import folders, users
from django_formula.host.commands import DeploymentError
from django_formula.site.sites import Site

#: The server and the workers of a release start at once, and a build ends another one of its site.
_making = threading.Lock()
_DEPENDENCIES = """\
FROM {base}
LABEL {labels}
COPY . {target}
"""
_RELEASE = """\
FROM {dependencies}
LABEL {labels}
COPY --chown=0:{group} source {release}/source
COPY image/tree {release}
STOPSIGNAL SIGTERM
HEALTHCHECK NONE
ENTRYPOINT []
CMD []
"""


def dependencies(site: Site, key: str) -> str:
    """Return the name of the image with a virtualenv of a site, which is made where this host does not have it.

    Raises:
        DeploymentError: it cannot be made.
    """
    return _dependencies(site, container_containers.engine(site), container_base.reference(site), key)


def dependencies_of(site: Site, container: Container, key: str) -> str:
    """Return the name of the image with the virtualenv of a release, which is made where this host does not have it.

    Raises:
        DeploymentError: it cannot be made.
    """
    return _dependencies(site, container.engine, container.base, key)


def _dependencies(site: Site, engine: Engine, base: str, key: str) -> str:
    image, folder = name(site, key), site.virtualenvs / key
    if not engine.image(image):
        container_base.require_of(site, engine, base)
        text = _DEPENDENCIES.format(base=base, labels=_labels(site, folder), target=folder)
        dockerfile.build(site, engine, text, folder, image, ignored="")
    return image


def name(site: Site, key: str) -> str:
    """Return the name of the image with a virtualenv of a site."""
    return f"localhost/django/{site.name}-deps:{key}"


def of_release(site: Site, release: Path, key: str) -> Container:
    """Make the image of a new release, and return its container.

    Args:
        key: the name of its virtualenv.

    Raises:
        DeploymentError: it cannot be made.
    """
    private = [*site.config["files"], *_private(site, release / "source")]
    mounts = tuple(f"{release}/source/{path}" for path in dict.fromkeys(private))
    is_of_project = bool(container_file.configured(site))
    base = container_file.name(site, release) if is_of_project else container_base.reference(site)
    image = f"localhost/django/{site.name}:{container_base.tag(site, release)}"
    container = Container(container_containers.engine(site), image, base, mounts, *_origin(site, base))
    _make(site, release, key, container)
    return container


def _origin(site: Site, base: str) -> tuple[str, str]:
    """Return the Dockerfile of a release's base, and the name by which it was pulled; both empty for our own."""
    pulled = container_containers.engine(site).labels(base, PULLED) if site.config["container"]["image"] else ""
    return str(site.config["container"]["file"] or ""), pulled


def for_commands(site: Site, release: Path, key: str) -> tuple[str, Path]:
    """Return the image in which the commands of a build run, and its virtualenv.

    Args:
        key: the name of its virtualenv.

    Raises:
        DeploymentError: the image cannot be made.
    """
    if not container_file.configured(site):
        return dependencies(site, key), site.virtualenvs / key
    return container_file.name(site, release), container_file.prefix(site, key)


def _make(site: Site, release: Path, key: str, container: Container) -> None:
    """Make the image of a release, from its source and its virtualenv; of a Dockerfile's image it has a link to it."""
    tree = release / "image/tree"
    tree.mkdir(parents=True, exist_ok=True)
    if container.is_of_project:
        container_file.require_again(site, release, container)
        dependencies, virtualenv = container.base, str(container_file.prefix(site, key))
    else:
        dependencies = _dependencies(site, container.engine, container.base, key)
        virtualenv = os.readlink(release / "virtualenv")
    host_file.link(tree / "virtualenv", virtualenv, durable=False)
    text = _RELEASE.format(
        dependencies=dependencies,
        labels=_labels(site, release),
        release=release,
        group=users.group_id(site.user),
    )
    private = [_pattern(os.path.relpath(path, release)) for path in container.mounts]
    written = [f"source/{path}/*" for path in site.config["writable"]]  # by the site, and mounted
    ignored = ["*", "!source", "!image/tree", *private, *written, *(f"**/{one}" for one in NEVER)]
    dockerfile.build(
        site,
        container.engine,
        text,
        release,
        container.image,
        ignored="\n".join(ignored),
    )


def _pattern(path: str) -> str:
    """Return a path as .dockerignore has it, where brackets, blanks at the end and the like have a meaning."""
    return re.sub(r"[*?\[\]\\\s]", "?", path)


def _private(site: Site, source: Path) -> Iterator[str]:
    """Yield the paths in a source that may hold secrets, to be mounted.

    A link is in the image instead: mounted, it would show what it leads to. So is no path that the site may write.

    Raises:
        DeploymentError: the name of one cannot be given to an engine.
    """
    for parent, inside, names in os.walk(source):
        inner = os.path.relpath(parent, source)
        inside[:] = [name for name in inside if os.path.normpath(f"{inner}/{name}") not in site.config["writable"]]
        found = [name for name in (*inside, *names) if any(fnmatch.fnmatch(name, one) for one in PRIVATE)]
        inside[:] = [name for name in inside if name not in found]
        for path in sorted(os.path.normpath(f"{inner}/{name}") for name in found):
            if ":" in path or not path.isprintable():
                raise DeploymentError(
                    f"{ascii(path)[1:-1]} may have secrets, and a name with a colon or a control character cannot be "
                    "mounted in a container",
                    hint="rename it in the repository",
                )
            if not os.path.islink(source / path):
                yield path


def _labels(site: Site, folder: Path) -> str:
    return f"{SITE}={site.name} {PATH}={folder}"


def require(site: Site, release: Path) -> None:
    """Make the image of a release again where it was removed, from the release's own files.

    Raises:
        DeploymentError: it cannot be made.
    """
    container = container_containers.of_release(release)
    if not container:
        return
    with _making:
        if not container.engine.image(container.image):
            _make(site, release, os.path.basename(os.readlink(release / "virtualenv")), container)


def used(site: Site) -> list[Engine]:
    """Return the engines of a site: that of its pillar, and those of its releases."""
    own = container_containers.configured_engine(site)
    containers = [container_containers.of_release(path) for path in site.releases.glob("*-*")]
    names = {engine.name for engine in [own, *(one.engine for one in containers if one)] if engine}
    return [ENGINES[name] for name in sorted(names)]


def prune(site: Site, engines: Sequence[Engine]) -> list[str]:
    """Remove the images of a site whose folder or source is gone, and return what cannot be removed.

    Args:
        engines: those that the site used before its folders were removed.
    """
    stuck = []
    for engine in engines:
        try:
            failed = _prune(site, engine)
        except DeploymentError as error:
            failed = [error.message]
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        stuck += [f"images of {site.name} could not be removed: {message}{more}" for message in failed[:1]]
    return stuck


def _prune(site: Site, engine: Engine) -> list[str]:
    """Remove the images of a site whose folder or source is gone, and return why some cannot be removed."""
    failed = []
    waiting = engine.images(name=registry.carried(site, "*"))  # for a release that takes them
    for image in engine.images(f"{SITE}={site.name}"):
        try:
            folder = Path(engine.labels(image, PATH))
            if image not in waiting and (not folder.is_dir() or _has_failed(folder)):
                engine.remove(image)
        except DeploymentError as error:
            failed.append(error.message)
    return failed


def forget(site: Site) -> None:
    """Remove all images of a site that is removed; to be called while its releases are there.

    Raises:
        DeploymentError: an engine cannot remove one.
    """
    for engine in used(site):
        for image in engine.images(f"{SITE}={site.name}"):
            engine.remove(image)
    host_file.remove_tree(dockerfile.caches(site))


def _has_failed(folder: Path) -> bool:
    """Return whether a folder is that of a release without its source."""
    return (folder / "release.json").exists() and not (folder / "source").is_dir()


# The images of a site in an archive, for hosts that share them without a registry

#: Seconds to write or to read an archive.
_TIMEOUT = 1800
_LOADED = re.compile(r"^Loaded image(?:\(s\))?(?: ID)?:\s*(\S.*)$", re.MULTILINE)


def save_archive(site: Site, release: Path, file: Path) -> list[str]:
    """Write the image that other hosts need not build for a release into a new file; return its name.

    Raises:
        DeploymentError: the release is in no container, the file exists, or the engine cannot write it.
    """
    container = container_containers.of_release(release)
    if not container:
        raise DeploymentError(f"{release.name} is in no container", hint="set container in the pillar, and apply")
    _refuse_unsafe(file)
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # podman would make it readable for all
    except FileExistsError:
        raise DeploymentError(f"{file} exists", hint="remove it, or name another file") from None
    try:
        return [_save(site, release, container, file)]
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _save(site: Site, release: Path, container: Container, file: Path) -> str:
    engine, (image, name) = container.engine, _image(site, release, container)
    engine.run("tag", image, name, doing=f"naming the image {name}")
    try:
        engine.run("save", "--output", str(file), name, doing=f"writing {file}", timeout=_TIMEOUT)
    finally:
        engine.forget(name)
    return name


def load_archive(site: Site, file: Path) -> list[str]:
    """Give the engine of a site the images of an archive; return their names.

    Raises:
        DeploymentError: the site has no containers, or the engine cannot read the file.
    """
    engine = container_containers.configured_engine(site)
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
    image = dependencies_of(site, container, key)
    return image, registry.carried(site, f"deps-{key}")


def _refuse_unsafe(file: Path) -> None:
    if not file.is_absolute():
        raise DeploymentError(f"{file} is no absolute path", hint="name it from the root, such as /root/blog.tar")
    try:
        folders.refuse_unsafe_parents(file)
    except DeploymentError as error:
        raise DeploymentError(error.message, hint="name a file in a folder that only root may write to") from None
