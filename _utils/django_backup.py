"""Backups: dumps of a site's databases, each with a manifest that says what is in it; which ones there are and stay."""

import contextlib
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import django_backup_dump
import django_backup_media
import django_backup_mysql
import django_backup_postgres
import django_backup_sqlite
import django_host_clock
import django_host_file
import django_release
from django_backup_dump import Database, Engine
from django_host_command import DeploymentError
from django_host_lock import Lock
from django_release import Release
from django_site import Site

log = logging.getLogger(__name__)

ENGINES: dict[str, Engine] = {
    "sqlite": django_backup_sqlite,
    "postgres": django_backup_postgres,
    "mysql": django_backup_mysql,
    "media": django_backup_media,
}
#: How what lies in files gets its own name again.
_FILES: dict[str, Callable[[Database, str], None]] = {
    "sqlite": django_backup_sqlite.mend,
    "media": django_backup_media.mend,
}
#: Why there is a backup; those of the last kind stay with the releases that they were made for.
BY_HAND, BY_TIMER, MIGRATION = "by hand", "timer", "migration"
_TEXTS = ("name", "backup", "alias", "engine", "database", "taken", "why", "release", "sha256")
#: What a manifest has at the least; one of another shape counts as torn, and its file as none.
_ABOUT = {**dict.fromkeys(_TEXTS, str), "size": int, "rows": {str: int}, "migrations": [str], "verified?": str}
_NAME = re.compile(r"(\w+)-(\d{8}T\d{6}Z-\d{4,}-[0-9a-f]{12})\.(dump|sql\.gz|sqlite3|tar)")


def make(
    site: Site, release: Release, *, why: str, secrets: list[str], aliases: Collection[str] | None = None
) -> list[Path]:
    """Back up the databases of a site, each by a dump of one moment; those without a table are left out.

    Args:
        release: whose code knows where the databases are.
        why: `BY_HAND`, `BY_TIMER` or `MIGRATION`.
        secrets: texts that no output may show.
        aliases: of the databases; by default all that the site migrates, and with ``backup:media`` its uploads.

    Returns:
        The files, which are there whole and on the disk.

    Raises:
        DeploymentError: there is no room for them, or a server or its client says no; nothing is left behind then.
    """
    with lock(site, f"backup ({why})").held():
        _clear_leftovers(site)
        wanted = sorted(release.facts["migrations"]) if aliases is None else sorted(aliases)
        databases = django_backup_dump.find(release, wanted, secrets)
        clear(site, databases)
        if aliases is None and site.config["backup"]["media"]:
            databases.append(Database(site, "media", "media", str(site.media)))
        looked = {one.alias: ENGINES[one.kind].look(one) for one in databases}
        databases = [one for one in databases if looked[one.alias]["tables"]]
        _refuse_without_room(site, databases, looked)
        live = django_release.linked(site, site.current) or release
        name, made = _new_name(site, live), []
        try:
            for one in databases:
                made.append(_dump(one, name, live, why))
        except BaseException:
            for path in made:
                remove(path)
            raise
        prune(site)
    return made


@contextlib.contextmanager
def before_migration(release: Release, aliases: Collection[str], secrets: list[str]) -> Iterator[None]:
    """Back up databases that are about to be migrated, unless the pillar says otherwise; the release has it recorded.

    Raises:
        DeploymentError: as `make`; one that the migration raises names the backup.
    """
    site, made = release.site, []
    if aliases and site.config["migrate"]["backup"]:
        made = make(site, release, why=MIGRATION, secrets=secrets, aliases=aliases)
    if made:
        release.update(backups=[*release.record.get("backups", ()), *(path.name for path in made)])
    try:
        yield
    except DeploymentError as error:
        found = _NAME.fullmatch(made[0].name) if made else None
        way = f"as the database was before: salt-call django.restore {site.name} {found[2]}" if found else ""
        error.hint = "\n".join(filter(None, [error.hint, way]))
        raise


def lock(site: Site, holder: str) -> Lock:
    """Return the lock of a site's backups: one at a time is made, restored or deleted."""
    return Lock(
        site.backups / ".lock",
        holder,
        busy=f"another backup of {site.name}",
        timeout=site.config["timeouts"]["lock"],
        hint=f"wait for it, or end it: salt-call django.unlock {site.name}",
    )


def journal(site: Site) -> Path:
    """Where a restore writes down what it loads, so that what it leaves when it is killed can be removed."""
    return site.backups / ".restore.json"


def note(site: Site, databases: Collection[Database], names: Mapping[str, str], kept: Mapping[str, str]) -> None:
    """Write down what a restore is about to load, and under which names the former databases will be kept."""
    loaded = [
        {
            "alias": one.alias,
            "kind": one.kind,
            "database": one.name,
            "name": names[one.alias],
            "kept": kept.get(one.alias, ""),
        }
        for one in databases
    ]
    django_host_file.write_json(journal(site), {"loaded": loaded}, mode=0o600)


def _left(site: Site) -> list[dict[str, str]]:
    names = ("alias", "kind", "database", "name", "kept")
    found = django_host_file.read_json(journal(site), {"loaded": [dict.fromkeys(names, str)]})
    loaded: list[dict[str, str]] = (found or {"loaded": []})["loaded"]
    return loaded


def leftovers(site: Site) -> list[str]:
    """Return what a killed restore has left in files: databases of SQLite and uploads; none while one is at work."""
    if not journal(site).exists() or lock(site, "").holder():
        return []
    return [entry["name"] for entry in _left(site) if entry["kind"] in _FILES]


def clear(site: Site, databases: Collection[Database] = ()) -> list[str]:
    """Remove what a killed restore or drill has loaded; the caller holds the lock of backups.

    Where it was killed between the two names of an exchange, the former database has its own name again.

    Args:
        databases: those that can be reached; what is on servers and not among them stays for another time.

    Returns:
        The names of what was removed.
    """
    reached = {(one.alias, one.kind): one for one in databases}
    rest, gone = [], []
    for entry in _left(site):
        one = Database(site, entry["alias"], entry["kind"], entry["database"])
        if entry["kind"] not in _FILES:
            one = reached.get((entry["alias"], entry["kind"]), one)
        if entry["kind"] not in ENGINES or (entry["kind"] not in _FILES and one not in databases):
            rest.append(entry)
            continue
        if entry["kept"] and entry["kind"] in _FILES:
            _FILES[entry["kind"]](one, entry["kept"])
        ENGINES[entry["kind"]].drop(one, entry["name"])
        gone.append(entry["name"])
    if rest:
        django_host_file.write_json(journal(site), {"loaded": rest}, mode=0o600)
    else:
        journal(site).unlink(missing_ok=True)
    if gone:
        log.warning("%s: removed what a restore that was killed has left: %s", site.name, ", ".join(gone))
    return gone


def _clear_leftovers(site: Site) -> None:
    """Remove what a backup that was killed has left: files that have no manifest."""
    for path in site.backups.iterdir():
        begun = django_host_file.is_temporary(path) and _NAME.fullmatch(path.name[1:-4].removesuffix(".json"))
        alone = _NAME.fullmatch(path.name) and not _manifest(path).exists()
        lost = _NAME.fullmatch(path.stem) and path.suffix == ".json" and not path.with_suffix("").exists()
        if begun or alone or lost:
            path.unlink()


def _refuse_without_room(site: Site, databases: list[Database], looked: dict[str, dict[str, int]]) -> None:
    """A dump is no larger than its database, and than twice the last one of it; SQLite is copied beside it first."""
    last: dict[str, int] = {}
    for manifest in manifests(site):
        last.setdefault(manifest["alias"], 2 * manifest["size"] + (1 << 20))
    needed: dict[int, list[tuple[Path, int, int]]] = {}
    for one in databases:
        size = looked[one.alias]["size"]
        own = (site.backups, site.backups.stat().st_dev, django_backup_dump.free(site.backups))
        needs = [(*own, min(size, last.get(one.alias, size)))]
        if one.kind == "sqlite":
            folder = Path(one.name).parent
            needs.append((folder, *django_backup_dump.room(site, folder), size))
        for folder, device, left, more in needs:
            needed.setdefault(device, []).append((folder, left, more))
    for there in needed.values():
        (folder, left, _more), size = there[0], sum(more for _folder, _left, more in there)
        if size > left:
            raise DeploymentError(
                f"a backup needs {_size(size)} in {folder}, and {_size(left)} are free",
                hint=f"make room, or name another folder: django:sites:{site.name}:backup:directory; "
                "without backups before migrations: migrate: {backup: false}",
                transient=True,
            )


def _new_name(site: Site, live: Release) -> str:
    """What the files of a backup have in common: no other of this site has it."""
    while True:
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{live.name}"
        if not any(site.backups.glob(f"*-{name}.*")):
            return name
        time.sleep(0.2)


def _dump(database: Database, name: str, live: Release, why: str) -> Path:
    site, engine = database.site, ENGINES[database.kind]
    path = site.backups / f"{re.sub(r'[^a-zA-Z0-9_]', '_', database.alias)}-{name}.{engine.SUFFIX}"
    log.info("%s: backing up %s", site.name, database.alias)
    new = path.with_name(f".{path.name}.new")
    began, taken = time.monotonic(), django_host_clock.now()
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "rb+") as file:
            found = engine.dump(database, descriptor)
            os.fsync(descriptor)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        about = {
            "name": path.name,
            "backup": name,
            "alias": database.alias,
            "engine": database.kind,
            "database": database.name,
            "taken": taken,
            "why": why,
            "release": live.name,
            "commit": live.record["commit"],
            "size": new.stat().st_size,
            "sha256": digest,
            "seconds": round(time.monotonic() - began, 1),
            **found,
        }
        django_host_file.write_json(_manifest(path), about, mode=0o600)
        new.replace(path)
        django_host_file.sync_folder(path.parent)
    except BaseException:
        new.unlink(missing_ok=True)
        _manifest(path).unlink(missing_ok=True)
        raise
    return path


def _manifest(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def remove(path: Path) -> None:
    """Delete a file of a backup and its manifest."""
    path.unlink(missing_ok=True)
    _manifest(path).unlink(missing_ok=True)


def manifests(site: Site) -> list[dict[str, Any]]:
    """What there is: the manifest of each file, the newest first; files that are gone or cut are left out."""
    paths = site.backups.iterdir() if site.backups.is_dir() else ()
    read = ((path, django_host_file.read_json(_manifest(path), _ABOUT)) for path in paths if _NAME.fullmatch(path.name))
    whole = [one for path, one in read if one and one["name"] == path.name and path.stat().st_size == one["size"]]
    return sorted(whole, key=lambda one: (one["backup"], one["alias"]), reverse=True)


def newest_before(site: Site, moment: str) -> dict[str, Any] | None:
    """The manifest of the newest backup of the default database that was taken before a moment.

    Args:
        moment: as `django_host_clock.now` writes it.
    """
    return next((one for one in manifests(site) if one["alias"] == "default" and one["taken"] <= moment), None)


def overview(site: Site) -> list[dict[str, Any]]:
    """The backups on the host, the newest first: a row for each file."""
    return [
        {
            "backup": one["name"],
            "age": django_host_clock.age(one["taken"]),
            "size": _size(one["size"]),
            "why": one["why"],
            "release": one["release"],
            "rows": sum(one["rows"].values()),
            "verified": one.get("verified", ""),
        }
        for one in manifests(site)
    ]


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} GB"


def prune(site: Site) -> list[str]:
    """Delete the backups that are over ``backup:keep``, and those before migrations whose releases are gone.

    Of the latter as many stay as releases do, for a release that has failed is deleted and its migrations may have
    been applied in part. The newest backup stays, whatever it is.

    Returns:
        The names of the files that were deleted.
    """
    present = manifests(site)
    named = {name for release in django_release.releases(site) for name in release.record.get("backups", ())}
    migrations = _distinct(one["backup"] for one in present if one["why"] == MIGRATION)
    others = _distinct(one["backup"] for one in present if one["why"] != MIGRATION)
    kept = {*migrations[: site.config["releases"]["keep"]], *others[: site.config["backup"]["keep"]]}
    kept |= {one["backup"] for one in present if one["name"] in named}
    kept |= {one["backup"] for one in present[:1]}
    gone = [one["name"] for one in present if one["backup"] not in kept]
    for name in gone:
        remove(site.backups / name)
    return gone


def _distinct(names: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(names))


def status(site: Site) -> dict[str, str]:
    """When the newest backup was made, and how the last restore drill has ended."""
    newest = next(iter(manifests(site)), None)
    drill = (
        django_host_file.read_json(site.backups / "drill.json", {"date": str, "seconds": float, "result": str}) or {}
    )
    ended = f"{drill['date']}, {drill['seconds']:g} s: {drill['result']}" if drill else ""
    return {"backup": newest["taken"] if newest else "", "restore_drill": ended}


def verify(site: Site, manifest: dict[str, Any]) -> None:
    """Whether a file is as it was written.

    Raises:
        DeploymentError: it is gone or damaged.
    """
    path = site.backups / manifest["name"]
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest["sha256"]:
            raise DeploymentError(
                f"the backup {manifest['name']} is damaged: it is not what was written on {manifest['taken']}",
                hint=f"take another one: salt-call django.backups {site.name} lists them",
            )


def chosen(site: Site, which: str | None) -> list[dict[str, Any]]:
    """The manifests of a backup: of the newest one, of all files of one moment, or of one file.

    Args:
        which: the name of a file, or what the files of a backup have in common.

    Raises:
        DeploymentError: there is no such backup.
    """
    present = manifests(site)
    wanted = which or (present[0]["backup"] if present else "")
    found = [one for one in present if wanted in (one["name"], one["backup"])]
    if not found:
        raise DeploymentError(
            f"there is no backup {which} of {site.name}" if which else f"{site.name} has no backup",
            hint=f"salt-call django.backups {site.name} lists them"
            if present
            else f"salt-call django.backup {site.name} makes one",
        )
    return found


def mark(site: Site, manifest: dict[str, Any]) -> None:
    """Note that a backup was loaded and found to be whole."""
    path = site.backups / manifest["name"]
    django_host_file.write_json(_manifest(path), {**manifest, "verified": django_host_clock.now()}, mode=0o600)
