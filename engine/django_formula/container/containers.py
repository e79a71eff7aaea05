"""Containers of a site: what a release records of its image, and a command of the project as the engine's arguments.

A server, a worker and a command run unchanged inside of a container; systemd keeps them outside. Paths in a container
are those of the host: the source and the virtualenv are the image's, the rest is mounted.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.container import engine as container_engine
from django_formula.container.engine import ENGINES, Engine
from django_formula.host import file as host_file
from django_formula.host import users
from django_formula.kind import kinds
from django_formula.site.sites import RUNTIME, Site
from django_formula.untrusted import shapes

#: Forgets the options that an image has for the server of its own CMD, such as UWSGI_HTTP=:8000, a port of the host.
_FORGET = (
    'eval "$(export -p | while IFS= read -r one; do case $one in '
    '"export UWSGI_"*=*|"export GUNICORN_CMD_ARGS="*|"export GRANIAN_"*=*|"export UVICORN_"*=*) '
    'one=${one#export }; one=${one%%=*}; case $one in *[!A-Za-z0-9_]*) ;; *) echo "unset $one";; esac;; esac; done)"; '
)
#: Reads files of variables, which systemd would read, then becomes the command: no variable is an argument or part of
#: what the engine shows of a container.
_ENTER = f'umask 027; {_FORGET}set -a; while [ "$1" != -- ]; do . "$1"; shift; done; set +a; shift; exec "$@"'
#: Where a worker has the site's folder: it follows `current`, and its own release has the same path in the image.
ROOT = Path("/site")
#: Folders with sockets of database servers of the host.
_SOCKETS = ("/run/postgresql", "/run/mysqld")
#: The names of users: clients of databases look up their own.
_USERS = ("/etc/passwd", "/etc/group")


@dataclasses.dataclass(frozen=True)
class Container:
    """The container of a release.

    Attributes:
        engine: has the images.
        image: the name of the release's image.
        base: the name of the image that it begins with.
        mounts: paths of its source that the image does not have.
        file: the Dockerfile that makes the base, relative to the source; empty if it is none of the project's.
        pulled: the name by which a registry has the base, if it is an image that the project has made elsewhere.
    """

    engine: Engine
    image: str
    base: str
    mounts: tuple[str, ...] = ()
    file: str = ""
    pulled: str = ""

    @property
    def is_of_project(self) -> bool:
        """Return whether the base is an image of the project's own, with its packages."""
        return bool(self.file or self.pulled)


@dataclasses.dataclass(frozen=True)
class Inside:
    """What a command needs in a container.

    Attributes:
        name: the container's name.
        user: the name of the user that it runs as.
        folder: its working directory.
        read: paths that it may read.
        write: paths that it may write.
        variables: files of variables, as ``sh`` reads them.
        resources: limits, as in the pillar.
        root: the folder of the site, if it reads it at `ROOT`.
    """

    name: str
    user: str
    folder: str
    read: Sequence[str] = ()
    write: Sequence[str] = ()
    variables: Sequence[str] = ()
    resources: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    root: Path | None = None


def configured_engine(site: Site) -> Engine | None:
    """Return the engine of a site's new releases; None for a site without containers."""
    return engine(site) if site.config.get("container") else None


def engine(site: Site) -> Engine:
    """Return the engine of a site that has containers."""
    return ENGINES[site.config["container"]["engine"]]


def of_release(release: Path) -> Container | None:
    """Return the container of a release, also while it is built; None for one without."""
    found = host_file.read_json(release / "release.json", {"container": shapes.CONTAINER})
    if not found or found["container"]["engine"] not in ENGINES:
        return None
    container = found["container"]
    names = (container["image"], container["base"])
    own = [container.get(key, "") for key in ("file", "pulled")]
    return Container(ENGINES[container["engine"]], *names, tuple(container["mounts"]), *own)


def expected(site: Site, release: Path) -> Container | None:
    """Return the container of a release; that of one which is not built has the mounts of the active release."""
    if (release / "release.json").exists() or not site.config.get("container"):
        return of_release(release)
    live = site.current.resolve()
    active = of_release(live)
    own = [f"{release}/source/{path}" for path in site.config["files"]]
    mounts = [path.replace(str(live), str(release), 1) for path in active.mounts] if active else own
    return Container(engine(site), f"localhost/django/{site.name}:{release.name}", "", tuple(mounts))


def argv(engine: Engine, image: str, inside: Inside, command: Sequence[str], *options: str) -> list[str]:
    """Return the arguments that run a command in a container of an image.

    Args:
        options: further options of the engine's ``run``.
    """
    user, group = users.owner(inside.user, inside.user)
    home = users.find_user(inside.user)
    shown = dict.fromkeys((*_USERS, *inside.read, *inside.variables), False) | dict.fromkeys(inside.write, True)
    shown = {path: mode for path, mode in shown.items() if mode is not _mode_above(path, shown)}
    return [
        *(*engine.program, "run", f"--name={inside.name}", *options),
        *container_engine.locked_down(engine.name),
        *(f"--user={user}:{group}", f"--workdir={inside.folder}"),
        *(f"--env=HOME={home.pw_dir if home else '/'}", f"--env=USER={inside.user}", f"--env=LOGNAME={inside.user}"),
        *container_engine.limits(inside.resources),
        *container_engine.mounts(shown),
        *([f"--volume={inside.root}:{ROOT}:ro"] if inside.root else []),
        image,
        *("/bin/sh", "-c", _ENTER, "sh", *inside.variables, "--", *command),
    ]


def _mode_above(path: str, shown: Mapping[str, bool]) -> bool | None:
    """Return whether the nearest mount above a path may be written; None if there is none."""
    return next((shown[str(parent)] for parent in Path(path).parents if str(parent) in shown), None)


def of_project(
    site: Site, release: Path, facts: Mapping[str, Any], container: Container, name: str, writable: Sequence[object]
) -> Inside:
    """Return what a command of the project needs: its release's configuration, the site's data, sockets of databases.

    Args:
        writable: folders that it may write in addition to the site's own.
    """
    source = release / "source"
    variables = [f"{release}/config/environment", f"{site.secrets}/environment"]
    read = [release / "config", release / "static", site.secrets, RUNTIME, site.trusted, *map(Path, _SOCKETS)]
    read += [server.parent for server in _stores(site)]
    write: list[object] = [site.database, site.media, site.shared, site.log]
    write += [source / path for path in site.config["writable"]]
    write += [Path(database["name"]).parent for database in _files_of_databases(site)]
    if site.config.get("writable_packages"):
        write.append(release / "packages")
    return Inside(
        name,
        site.user,
        str((source / str(facts["folder"])).resolve()),
        read=_existing(site, release, [*read, *container.mounts]),
        write=[*_existing(site, release, write), *map(str, writable)],
        variables=variables,
        resources=site.config["resources"],
    )


def _existing(site: Site, release: Path, paths: Sequence[object]) -> list[str]:
    """Return the paths that exist; those of a release that is not built yet, if the active one has them."""
    built = release if release.exists() else site.current.resolve()
    return [text for text in map(str, paths) if os.path.exists(text.replace(str(release), str(built), 1))]


def with_run_folder(inside: Inside, folder: str, resources: Mapping[str, Any] | None) -> Inside:
    """Return what a server or a worker needs: its own folder too, and limits of its own."""
    write = [*inside.write, folder]
    return dataclasses.replace(inside, write=write, resources=inside.resources if resources is None else resources)


def with_files(site: Site, release: Path, inside: Inside, argv: Sequence[str]) -> Inside:
    """Return what a command needs, the folders of the site's files that it names too.

    What the site may write is there already; a folder in it could be a link to elsewhere the next moment.
    """
    there = map(Path, (*inside.read, *inside.write))
    own = [release / "source", release / "config", release / "virtualenv", *there]
    named = [Path(word) for word in argv if word.startswith(f"{site.root}/")]
    others = [path.parent for path in named if not any(path.is_relative_to(one) for one in own) and path.is_file()]
    return dataclasses.replace(inside, read=[*inside.read, *map(str, others)])


def record(container: Container) -> dict[str, Any]:
    """Return what a release records of its container."""
    names = {"engine": container.engine.name, "image": container.image, "base": container.base}
    own = {key: value for key in ("file", "pulled") if (value := getattr(container, key))}
    return {**names, "mounts": [*container.mounts], **own}


def _stores(site: Site) -> list[Path]:
    """Return the sockets of the servers that a site has for its queue and caches on this host."""
    parts = (kinds.store_part(options["engine"], name) for name, options in site.stores.items())
    return [Path(f"/run/django-{site.name}-{part}/socket") for part in parts]


def _files_of_databases(site: Site) -> list[Mapping[str, Any]]:
    databases = site.config["databases"].values()
    return [database for database in databases if str(database["name"] or "").startswith("/")]
