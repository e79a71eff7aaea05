"""The outline on this host of the Python environment that an image of the project's own Dockerfile has."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import django_container
import django_container_file
import django_host_file
import django_server
import django_virtualenv
from django_host_command import DeploymentError
from django_site import Site

#: The names of packages and modules that an outline has, and how many.
_NAME, _MOST = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.+@-]{1,200}"), 20_000


def make(site: Site, release: Path, again: bool) -> str:
    """Build the image of a release's Dockerfile, and return the name of the outline of its Python environment.

    Commands in a container have the environment itself. The outline has the names of its packages: a status, a hint
    and the files of a server are made from them.

    Args:
        again: whether an outline that exists is written again.

    Raises:
        DeploymentError: the image cannot be built, or has no Python environment that can serve the project.
    """
    engine, file = django_container.engine(site), django_container_file.of_site(site)
    image = django_container_file.name(site, release)
    django_container_file.require(site, release, engine, image, file)
    found = django_container_file.look(site, engine, image)
    names = [name for name in found["names"] if _NAME.fullmatch(name)][:_MOST]
    key = hashlib.sha256(json.dumps({**found, "names": names}, sort_keys=True).encode()).hexdigest()[:16]
    folder = site.virtualenvs / key
    if django_virtualenv.is_complete(site, key) and not again:
        _refuse_without(site, file, {*django_virtualenv.packages(folder)})
        return key
    django_host_file.remove_tree(folder)
    _write(folder, found, names)
    _refuse_without(site, file, {*django_virtualenv.packages(folder)})
    django_host_file.write(folder / django_virtualenv.COMPLETE, "")
    return key


def _write(folder: Path, found: dict[str, Any], names: list[str]) -> None:
    packages = folder / Path(found["packages"]).relative_to(found["prefix"])
    for path in (packages, folder / "bin"):
        path.mkdir(mode=0o755, parents=True)
    for name in names:
        (packages / name).mkdir(mode=0o755)
    django_host_file.link(folder / "bin/python", f"{found['prefix']}/bin/python", durable=False)
    if found["uwsgi"]:  # a script or a binary
        django_host_file.write(folder / "bin/uwsgi", "#!" if found["uwsgi"] == "#!" else "-", durable=False)


def _refuse_without(site: Site, file: str, packages: set[str]) -> None:
    """Refuse an image without Django or the site's server.

    Raises:
        DeploymentError: it lacks one.
    """
    missing = [*(["django"] if "django" not in packages else []), *django_server.requirements(site, packages)]
    if missing:
        raise DeploymentError(
            f"the image of {file} lacks {', '.join(missing)}",
            hint="have the Dockerfile install it, mostly by the project's requirements; or set "
            f"django:sites:{site.name}:python to the interpreter that has it, such as /venv/bin/python",
        )
