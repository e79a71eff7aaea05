"""The image that a project's own Dockerfile makes of the source of a release.

The Dockerfile is repository content: it is built without a secret, a mount of this host or its network.
"""

import json
import re
from pathlib import Path
from typing import Any

import django_container_base
import django_container_dockerfile
import django_host_command
import django_host_file
import django_site
import django_wall_shape
from django_container_base import PATH, SITE
from django_container_dockerfile import NEVER, PRIVATE
from django_container_engine import Engine
from django_host_command import DeploymentError
from django_site import Site
from django_wall_foreign import Foreign

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
#: What a container that only looks at an image may do: nothing.
_LOCKED = (
    *("--rm", "--pull=never", "--network=none", "--read-only", "--cap-drop=ALL", "--user=65534:65534"),
    *("--security-opt=no-new-privileges", "--pids-limit=64", "--memory=1g", "--workdir=/", "--entrypoint="),
)


def of_site(site: Site) -> str:
    """Return the path of the Dockerfile of a site's new releases, relative to their source; empty if it has none."""
    return str((site.config.get("container") or {}).get("file") or "")


def name(site: Site, release: Path) -> str:
    """Return the name of the image that the Dockerfile makes of a release."""
    return f"localhost/django/{site.name}-file:{django_container_base.tag(site, release)}"


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
    at = f"django:sites:{site.name}:container:file"
    text = django_site.inside(source, file, at, link=False).text(_MOST)
    if text is None:
        raise DeploymentError(f"the source has no file {file}", hint=f"correct {at}")
    if private := django_container_dockerfile.private_copy(text):
        raise DeploymentError(
            f"line {private.line} of {file} copies a file that may have secrets, and is in no image: {private.text}",
            hint="remove the line; containers have such a file of the source as a mount",
        )
    labels = {SITE: site.name, PATH: str(release)}
    ignored = _ignored(source, file)
    django_container_dockerfile.build(site, engine, text, context, image, ignored=ignored, file=file, labels=labels)


def _context(release: Path) -> Path:
    """Return the copy of a release's source that the Dockerfile gets, as the commit has it, also after the build."""
    folder = release / "image/context"
    if not folder.is_dir():
        new = folder.with_name("context.new")
        django_host_file.remove_tree(new)
        new.parent.mkdir(mode=0o755, exist_ok=True)
        copy = ["cp", "--archive", "--reflink=auto", str(release / "source"), str(new)]
        django_host_command.run(copy, doing="copying the source for the Dockerfile", timeout=_COPY)
        new.rename(folder)
    return folder


def _ignored(source: Foreign, file: str) -> str:
    """Return what the build does not get: what the project ignores, and last, so that it holds, what may be secret."""
    own = (source / f"{file}.dockerignore").text(_MOST) or (source / ".dockerignore").text(_MOST) or ""
    return "\n".join([own, *(f"**/{one}" for one in (*PRIVATE, *NEVER))])


def look(site: Site, engine: Engine, image: str) -> dict[str, Any]:
    """Return what the Python of an image reports about itself: prefix, packages, names, has_python, uwsgi, version.

    Raises:
        DeploymentError: it has no such Python, or its packages are not in a folder of its own.
    """
    python, at = site.config["python"], f"django:sites:{site.name}:python"
    hint = f"set {at} to the interpreter of the image, such as /venv/bin/python"
    doing = f"looking for {python} in the image of {of_site(site)}"
    printed = engine.run("run", *_LOCKED, image, python, "-I", "-B", "-c", _LOOK, doing=doing, hint=hint)
    found: dict[str, Any] = django_wall_shape.parse(printed, _SHAPE, doing=doing)
    prefix, packages = found["prefix"], found["packages"]
    series = ".".join(str(found["version"]).split(".")[:2])
    if not (
        found["has_python"] and _PREFIX.fullmatch(prefix) and packages == f"{prefix}/lib/python{series}/site-packages"
    ):
        raise DeploymentError(
            f"{python} in the image of {of_site(site)} has its packages in {json.dumps(packages)}, not in a virtualenv",
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
