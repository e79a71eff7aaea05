"""Detect the data of an existing deployment: its SQLite databases, its uploads, and the user that owns them."""

import contextlib
import itertools
import os
import pwd
import re
from pathlib import Path
from urllib.parse import unquote

from django_formula.database import databases as database_databases
from django_formula.database.engines import SERVERS, SQLITE
from django_formula.host import file as host_file
from django_formula.site.sites import Site
from django_formula.takeover import existing as takeover_existing
from django_formula.takeover.existing import ExistingDeployment, Finding, is_below
from django_formula.takeover.process import Process
from django_formula.takeover.virtual_hosts import VirtualHost
from django_formula.untrusted.text import in_pillar

#: Folders in which a project may keep its source, next to its data.
SOURCE_FOLDERS = ("source", "src", "code", "app", "project")
#: A SQLite file in the code of settings: its path, alone or in a URI of SQLite's or a URL such as dj-database-url's.
_NAMED = re.compile(
    r"[\"'](file:(?://(?:localhost)?)?|(?:sqlite|spatialite):///)?(/[^\"'\n?#]+\.(?:sqlite3?|db))(?:[?#][^\"'\n]*)?[\"']"
)
#: Files of settings that are read at most.
_SETTINGS_FILES = 50


def detect_databases(site: Site, existing: ExistingDeployment) -> None:
    """Add the SQLite files of an existing deployment, with the path that the new site uses for each."""
    configured = site.config["databases"]
    default = configured.get("default", {"engine": None, "name": None})
    if default["engine"] in SERVERS or not (site.config["overlay"] or default["engine"]):
        return  # on a server, or at a path that only the project's settings have
    names = [database["name"] or "" for database in configured.values() if database["engine"] == SQLITE.name]
    fixed = [Path(name) for name in names if name.startswith("/")]
    files = _candidates(site, existing, fixed)
    for path in filter(_is_django_database, files):
        existing.databases[path] = path if path in fixed else _new_path(site, path, path.name)
    if len(existing.databases) == 1 and default["name"] and not fixed:
        path = next(iter(existing.databases))
        existing.databases[path] = _new_path(site, path, default["name"])
    existing.refusals += _ambiguous(site, existing.databases)
    existing.refusals += _linked(site, existing.databases, files)
    existing.findings += [Finding("database", str(path)) for path in existing.databases]


def _new_path(site: Site, path: Path, name: str) -> Path:
    """Return the path of a database in the new site; one that is already in its folder stays."""
    return path if is_below(str(path), [site.database.top]) else site.database.top / name


def _ambiguous(site: Site, databases: dict[Path, Path]) -> list[str]:
    """Return the refusals of files that would become the same database."""
    by_target: dict[Path, list[Path]] = {}
    for path, target in databases.items():
        by_target.setdefault(target, []).append(path)
    key = database_databases.pillar_key(site, "default")
    return [
        f"{' and '.join(map(str, paths))} may each be the database: move the unused files away, or name the used one: "
        f"{key}: {in_pillar({'engine': 'sqlite', 'name': str(paths[0])})}"
        for paths in by_target.values()
        if len(paths) > 1
    ]


def _linked(site: Site, databases: dict[Path, Path], files: list[Path]) -> list[str]:
    """Return the refusals of links to databases: the user who made one may change where it leads at any time."""
    key = database_databases.pillar_key(site, "default")
    links = {path: Path(os.path.realpath(path)) for path in files if path.is_symlink()}
    return [
        f"{path} is a link to the database {target}, and no link is followed: set {key}: "
        f"{in_pillar({'engine': 'sqlite', 'name': str(target)})}, or have the file itself there"
        for path, target in links.items()
        if target not in databases and _is_django_database(target)
    ]


def _candidates(site: Site, existing: ExistingDeployment, fixed: list[Path]) -> list[Path]:
    """Return the files that the pillar or the project's settings name, or that are in the project's folders."""
    files = list(fixed)
    for folder in _project_folders(existing):
        inner = (".", "database", "db", "data", *SOURCE_FOLDERS)
        files += [path for name in inner for path in sorted((folder / name).glob("*"))]
        files += _named_in_settings(folder)
    found = {finding.path for finding in existing.findings}
    own = [folder for folder in (site.database.top, site.media.top) if str(folder) not in found]
    paths = dict.fromkeys(Path(os.path.normpath(file)) for file in files)
    return [path for path in paths if not is_below(str(path), own)]


def _project_folders(existing: ExistingDeployment) -> list[Path]:
    """Return the folders of the project, and the parent of each that is only its source."""
    parents = [folder.parent for folder in existing.folders if folder.name in SOURCE_FOLDERS]
    above = [parent for parent in parents if not takeover_existing.is_shared(parent)]
    return list(dict.fromkeys([*existing.folders, *above]))


def _named_in_settings(folder: Path) -> list[Path]:
    """Return the SQLite files that the settings of a project name by an absolute path, or by a URI or URL of one."""
    contents = (host_file.read_untrusted(path, follow=False) for path in _settings_files(folder))
    texts = (content.decode(errors="replace") for content in contents)
    found = [match.groups() for text in texts for match in _NAMED.finditer(text)]
    return [Path(unquote(name) if scheme else name) for scheme, name in found]


def _settings_files(folder: Path) -> list[Path]:
    patterns = [f"{inner}/*/{name}" for inner in (".", *SOURCE_FOLDERS) for name in ("settings*.py", "settings/*.py")]
    return list(itertools.islice((path for pattern in patterns for path in folder.glob(pattern)), _SETTINGS_FILES))


def _is_django_database(path: Path) -> bool:
    """Return whether a file is a SQLite database that Django has migrated."""
    if not path.name.endswith((".sqlite3", ".sqlite", ".db")) or path.is_symlink() or not path.is_file():
        return False
    beginning = host_file.read_untrusted(path, follow=False)
    return beginning.startswith(b"SQLite format 3\0") and b"django_migrations" in beginning


def detect_uploads(site: Site, existing: ExistingDeployment, virtual_hosts: list[VirtualHost]) -> None:
    """Add the folders of uploads: those that the web server serves, and ``media`` in the project's folders."""
    served = [
        folder
        for virtual_host in virtual_hosts
        for location, folder in virtual_host.folders.items()
        if re.search("media|upload", f"{location} {folder.name}") and not _contains_project(folder, existing)
    ]
    around = [top / inner / "media" for top in _project_folders(existing) for inner in (".", *SOURCE_FOLDERS)]
    found = {finding.path for finding in existing.findings}
    folders = [path for path in (*served, *around) if path != site.media.top or str(path) in found]
    present = [path for path in dict.fromkeys(folders) if path.is_dir() and any(path.iterdir())]
    existing.media = [path for path in present if not path.is_symlink()]
    links = {path: Path(os.path.realpath(path)) for path in present if path.is_symlink()}
    existing.refusals += [
        f"{path} is a link to uploads in {target}, and no link is followed: "
        "name that folder in the file of the web server, or have the uploads themselves there"
        for path, target in links.items()
        if target not in (*existing.media, site.media.top)
    ]
    existing.findings += [Finding("uploads", str(path)) for path in existing.media if str(path) not in found]


def _contains_project(folder: Path, existing: ExistingDeployment) -> bool:
    return takeover_existing.is_project(folder) or any(one.is_relative_to(folder) for one in existing.folders)


def detect_owner(existing: ExistingDeployment, own_processes: list[Process]) -> None:
    """Set the owner: of its processes, of a worker rather than a master that root has started; else of a database.

    Args:
        own_processes: the processes of the existing deployment.
    """
    with contextlib.suppress(KeyError):  # the user does not exist, so none of its processes runs either
        entry = pwd.getpwnam(existing.wsgi_user)
        existing.owner = (entry.pw_uid, entry.pw_gid)
    uids = {status.st_uid for path in (*existing.databases, *existing.folders) if (status := _status(path))}
    for process in sorted(own_processes, key=lambda process: (process.user == 0, process.user not in uids)):
        existing.owner = existing.owner or (process.user, process.group)
    for path in existing.databases:
        status = _status(path)
        existing.owner = existing.owner or (status and (status.st_uid, status.st_gid))


def _status(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None
