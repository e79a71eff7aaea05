"""Backups of a site: dumps of its databases, each with a manifest of its contents; list, verify and delete them."""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from django_formula.backup import dumps, media
from django_formula.backup.dumps import Database, Dumper
from django_formula.backup.mysql import MySQLDumper
from django_formula.backup.postgres import PostgreSQLDumper
from django_formula.backup.sqlite import SQLiteDumper
from django_formula.database.engines import MYSQL, POSTGRES, SQLITE
from django_formula.host import clock
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError
from django_formula.host.locks import Lock
from django_formula.release import releases
from django_formula.release.releases import Release
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted.text import Log, in_command

log = Log.of(__name__)

#: What backs up each kind of data: every database engine, by its name in the pillar, uploads, and the queue once used.
DUMPERS: dict[str, Dumper] = {
    SQLITE.name: SQLiteDumper(),
    POSTGRES.name: PostgreSQLDumper(),
    MYSQL.name: MySQLDumper(),
    "media": media.MediaDumper(),
}
#: The kind of the queue, and the last part of the name of its dump.
QUEUE, _OF_QUEUE = "redis", "rdb"
#: All kinds of data that are backed up.
KINDS = (*DUMPERS, QUEUE)
#: Those that are no database, and are restored only where that is requested.
ON_REQUEST = ("media", QUEUE)
#: Why a backup was made; those before a migration stay as long as the release that they were made for, and those of a
#: moment were made later, of the archive of the log.
BY_COMMAND, BY_TIMER, MIGRATION, MOMENT = "command", "timer", "migration", "moment"
_TEXTS = ("name", "backup", "alias", "engine", "database", "taken", "why", "release", "sha256")
#: The required shape of a manifest; the backup of another one is ignored.
#: ``came`` is when it came to this host, where that was later than it was taken.
MANIFEST = {
    **dict.fromkeys(_TEXTS, str),
    "size": int,
    "rows": {str: int},
    "migrations": [str],
    "verified?": str,
    "came?": str,
}
#: Seconds for which one stays that came to be restored, however old it is.
_STAYS = 86400.0
_ENDS = [suffix for one in DUMPERS.values() for suffix in (one.zstd_suffix, one.suffix) if suffix]
_SUFFIXES = "|".join(map(re.escape, [*_ENDS, _OF_QUEUE]))
NAME = re.compile(rf"(\w+)-(\d{{8}}T\d{{6}}Z-\d{{4,}}-[0-9a-f]{{12}})\.({_SUFFIXES})")


def dumper(kind: str) -> Dumper:
    """Return what backs up a kind of data."""
    if kind == QUEUE and kind not in DUMPERS:
        from django_formula.backup import store  # which the program of a timer has where its site has a queue

        DUMPERS[kind] = store.StoreDumper()
    return DUMPERS[kind]


def has_queue(site: Site) -> bool:
    """Return whether there is a queue of a site's own to back up, or what a killed restore has left of one."""
    own = any(name == "queue" and not options["host"] for name, options in site.stores.items())
    return own or any(entry["kind"] == QUEUE for entry in _read_journal(site.backups))


def _queue(site: Site) -> list[Database]:
    """Return the queue of a site as what is backed up; nothing where it has none of its own."""
    if not has_queue(site):
        return []
    from django_formula.backup import store

    return store.own_queues(site)


def make(
    site: Site, release: Release, *, why: str, secrets: list[str], aliases: Collection[str] | None = None
) -> list[Path]:
    """Back up the databases of a site, each by a dump of a single moment; those without tables are left out.

    Args:
        release: the release whose settings name the databases.
        why: `BY_COMMAND`, `BY_TIMER` or `MIGRATION`.
        secrets: texts that no output may show.
        aliases: the databases; by default all that the site migrates, and with ``backup:media`` its uploads.

    Returns:
        The files, complete and written to disk.

    Raises:
        DeploymentError: there is not enough room, or a server or client fails; then no file is left.
    """
    with lock(site, f"backup ({why})").held():
        _remove_incomplete(site)
        aliases_of = sorted(release.facts["migrations"]) if aliases is None else sorted(aliases)
        databases = dumps.distinct(dumps.databases(release, aliases_of, secrets))
        remove_leftovers(site, databases)
        if aliases is None and site.config["backup"]["media"]:
            sites.refuse_unmounted_media(site)
            databases.append(Database(site, media.alias(aliases_of), "media", str(site.media)))
        databases += _queue(site) if aliases is None else []
        measured = {one.alias: dumper(one.kind).measure(one) for one in databases}
        if aliases is None:
            _refuse_lost(release, [one for one in databases if not measured[one.alias]["tables"]])
        databases = [one for one in databases if measured[one.alias]["tables"]]
        _check_room(site, databases, {alias: one["size"] for alias, one in measured.items()})
        live = releases.linked(site, site.current) or release
        about = {"why": why, "release": live.name, "commit": live.record["commit"]}
        made = _dump_all(databases, _new_name(site, live), about)
        prune(site)
    return made


def _dump_all(databases: Sequence[Database], name: str, about: Mapping[str, str]) -> list[Path]:
    made: list[Path] = []
    try:
        for one in databases:
            made.append(_dump(one, name, about))
    except BaseException:
        for path in made:
            remove(path)
        raise
    return made


def keep(site: Site, databases: Sequence[Database], *, taken: str, release: str, commit: str) -> str:
    """Make a backup of databases that are as they were at a moment, and return its name, which has that moment.

    Args:
        databases: with the connections by which they are read.
        taken: the moment, in the format of `host.clock.now`.
        release: the name of the release that was active then.
        commit: of that release.

    Raises:
        DeploymentError: as `make`.
    """
    with lock(site, f"backup ({MOMENT})").held():
        _remove_incomplete(site)
        _check_room(site, list(databases), {one.alias: dumper(one.kind).measure(one)["size"] for one in databases})
        seconds, name = clock.seconds(taken), ""
        while not name or any(site.backups.glob(f"*-{name}.*")):
            name = f"{re.sub('[-:]', '', clock.timestamp(seconds))}-{release}"
            seconds += 1
        about = {"why": MOMENT, "release": release, "commit": commit, "taken": taken, "came": clock.now()}
        _dump_all(databases, name, about)
    return name


def of_moment(site: Site, taken: str) -> str:
    """Return the name of the backup that was made of a moment; empty where there is none."""
    found = (one["backup"] for one in manifests(site) if one["why"] == MOMENT and one["taken"] == taken)
    return next(found, "")


def _refuse_lost(release: Release, empty: Sequence[Database]) -> None:
    """Refuse a backup without a database that has lost its tables: the next one would replace the last good backup.

    Raises:
        DeploymentError: a database has none, though the release has migrated it.
    """
    migrations = release.facts["migrations"]
    for one in empty if release.record.get("state") == "good" else ():
        if any(migrations.get(one.alias, {}).values()):
            name = release.site.name
            raise DeploymentError(
                f"the database {one.alias!r} has no tables, though {release.name} has migrated it: "
                f"{one.name} is missing or empty",
                hint=f"restore the newest backup: salt-call django.restore {name}",
            )


@contextlib.contextmanager
def before_migration(release: Release, aliases: Collection[str], secrets: list[str]) -> Iterator[list[Path]]:
    """Back up databases before the migration in the block, unless the pillar disables it, and record it in the release.

    Yields:
        The files.

    Raises:
        DeploymentError: as `make`; the hint of an error of the migration names the backup.
    """
    site = release.site
    made: list[Path] = []
    if aliases and site.config["migrate"]["backup"]:
        made = make(site, release, why=MIGRATION, secrets=secrets, aliases=aliases)
    if made:
        release.update(backups=[*release.record.get("backups", ()), *(path.name for path in made)])
    try:
        yield made
    except DeploymentError as error:
        found = NAME.fullmatch(made[0].name) if made else None
        command = in_command("salt-call", "django.restore", site.name, found[2]) if found else ""
        undo = f"to restore the database as it was before: {command}" if command else ""
        error.hint = "\n".join(filter(None, [error.hint, undo]))
        raise


def discard(release: Release, made: Collection[Path]) -> list[str]:
    """Remove backups that were made before the migrations of a release, which another host has applied.

    Returns:
        A warning where they stay, since another backup is being made.
    """
    try:
        with lock(release.site, "discarding a backup").held():
            for path in made:
                remove(path)
    except DeploymentError as error:
        return [f"a backup stays that another host has too: {error.message}"]
    names = {path.name for path in made}
    release.update(backups=[name for name in release.record["backups"] if name not in names])
    return []


def refuse_during_restore(site: Site) -> None:
    """Check that no restore runs: it replaces the databases, with what a command writes now.

    Raises:
        DeploymentError: one runs.
    """
    if holder := releases.restore_under_way(site):
        raise DeploymentError(
            f"a restore of {site.name} is under way, and would discard what the command writes: {holder}",
            hint=lock(site, "").hint,
            transient=True,
        )


def lock(site: Site, holder: str) -> Lock:
    """Return the lock under which the backups of a site are made, restored and deleted."""
    return Lock(
        site.backups / ".lock",
        holder,
        busy=f"another backup of {site.name}",
        timeout=site.config["timeouts"]["lock"],
        hint=f"wait until it has finished, or end it: salt-call django.unlock {site.name}",
    )


def journal(folder: Path) -> Path:
    """Return the file in which is recorded what is loaded from a folder, from which leftovers are known."""
    return folder / ".restore.json"


def write_journal(
    folder: Path, databases: Collection[Database], names: Mapping[str, str], kept: Mapping[str, str]
) -> None:
    """Record what a restore is about to load, and the names under which the former databases will be kept.

    Args:
        folder: the one that the dumps are in.
        names: the names that the databases are loaded under, by alias.
        kept: the names that the former databases will have, by alias.
    """
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
    host_file.write_json(journal(folder), {"loaded": loaded}, mode=0o600)


def _read_journal(folder: Path) -> list[dict[str, str]]:
    names = ("alias", "kind", "database", "name", "kept")
    found = host_file.read_json(journal(folder), {"loaded": [dict.fromkeys(names, str)]})
    loaded: list[dict[str, str]] = (found or {"loaded": []})["loaded"]
    return loaded


def leftovers(site: Site) -> list[str]:
    """Return the paths that a killed restore has left: SQLite databases and uploads; none while a restore runs.

    What it has left on database servers is only reachable with the project's login: see `remove_leftovers`.
    """
    if not journal(site.backups).exists() or lock(site, "").holder():
        return []
    return [entry["name"] for entry in _read_journal(site.backups) if _is_path(entry["kind"])]


def _is_path(kind: str) -> bool:
    return kind in KINDS and dumper(kind).is_path


def remove_leftovers(site: Site, databases: Collection[Database] = (), folder: Path | None = None) -> list[str]:
    """Remove what a killed restore or drill has loaded; the caller holds the lock of the folder.

    A restore that was killed between the two renames of an exchange is undone: the former database gets its name back.

    Args:
        databases: those whose connection is known; leftovers on servers without one stay until the next backup,
            restore or drill.
        folder: the one that was loaded from; by default that of the site's backups.

    Returns:
        The names of what was removed.
    """
    folder = folder or site.backups
    connected = {(one.alias, one.kind): one for one in databases}
    rest, removed = [], []
    for entry in _read_journal(folder):
        one = Database(site, entry["alias"], entry["kind"], entry["database"])
        if not _is_path(entry["kind"]):
            one = connected.get((entry["alias"], entry["kind"]), one)
        if entry["kind"] not in KINDS or (not _is_path(entry["kind"]) and one not in databases):
            rest.append(entry)
            continue
        if entry["kept"]:
            dumper(entry["kind"]).undo_partial_swap(one, entry["kept"])
        dumper(entry["kind"]).drop(one, entry["name"])
        removed.append(entry["name"])
    if rest:
        host_file.write_json(journal(folder), {"loaded": rest}, mode=0o600)
    else:
        journal(folder).unlink(missing_ok=True)
    if removed:
        log.warning("%s: removed what a killed restore has left: %s", site.name, ", ".join(removed))
    return removed


def _remove_incomplete(site: Site) -> None:
    """Remove the files of a killed backup: a dump without a manifest, a manifest without a dump, temporary files."""
    for path in site.backups.iterdir():
        temporary = host_file.is_temporary(path) and NAME.fullmatch(path.name[1:-4].removesuffix(".json"))
        dump_only = NAME.fullmatch(path.name) and not manifest_path(path).exists()
        manifest_only = NAME.fullmatch(path.stem) and path.suffix == ".json" and not path.with_suffix("").exists()
        if temporary or dump_only or manifest_only:
            path.unlink()


def _check_room(site: Site, databases: list[Database], sizes: Mapping[str, int]) -> None:
    """Refuse a backup for which a disk has not enough room.

    A dump is estimated at the size of its database, or at twice the last dump if that is less. A SQLite database is
    first copied next to itself.
    """
    last: dict[str, int] = {}
    for manifest in manifests(site):
        last.setdefault(manifest["alias"], 2 * manifest["size"] + (1 << 20))
    needed: dict[int, list[tuple[Path, int, int]]] = {}
    for one in databases:
        size = sizes[one.alias]
        own = (site.backups, site.backups.stat().st_dev, dumps.free(site.backups))
        needs = [(*own, min(size, last.get(one.alias, size)))]
        if one.kind == SQLITE.name:
            folder = Path(one.name).parent
            needs.append((folder, *dumps.free_as_site(site, folder), size))
        for folder, device, left, more in needs:
            needed.setdefault(device, []).append((folder, left, more))
    for on_device in needed.values():
        (folder, left, _more), size = on_device[0], sum(more for _folder, _left, more in on_device)
        if size > left:
            raise DeploymentError(
                f"a backup needs {in_words(size)} in {folder}, and {in_words(left)} are free",
                hint=f"make room, or set {site.at}:backup:directory to another folder; "
                "migrate: {backup: false} turns backups before migrations off",
                transient=True,
            )


def _new_name(site: Site, live: Release) -> str:
    """Return the part of the name that all files of a new backup share, unique for the site."""
    while True:
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{live.name}"
        if not any(site.backups.glob(f"*-{name}.*")):
            return name
        time.sleep(0.2)


def _dump(database: Database, name: str, about: Mapping[str, str]) -> Path:
    site, own = database.site, dumper(database.kind)
    stem, end = re.sub(r"[^a-zA-Z0-9_]", "_", database.alias), f"-{name}.{_suffix(own)}"
    if (site.backups / f"{stem}{end}").exists():  # of an alias that differs in such a character
        stem += f"_{hashlib.sha256(database.alias.encode()).hexdigest()[:8]}"
    path = site.backups / f"{stem}{end}"
    log.info("%s: backing up %s", site.name, database.alias)
    new = path.with_name(f".{path.name}.new")
    began, taken = time.monotonic(), clock.now()
    descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "rb+") as file:
            found = own.dump(database, descriptor)
            os.fsync(descriptor)
            file.seek(0)
            digest = host_file.sha256(file)
        manifest = {
            "name": path.name,
            "backup": name,
            "alias": database.alias,
            "engine": database.kind,
            "database": database.name,
            "taken": taken,
            **about,
            "size": new.stat().st_size,
            "sha256": digest,
            "seconds": round(time.monotonic() - began, 1),
            **found,
        }
        host_file.write_json(manifest_path(path), manifest, mode=0o600)
        new.replace(path)
        host_file.sync_folder(path.parent)
    except BaseException:
        new.unlink(missing_ok=True)
        manifest_path(path).unlink(missing_ok=True)
        raise
    return path


def _suffix(own: Dumper) -> str:
    return own.zstd_suffix if own.zstd_suffix and dumps.has_zstd() else own.suffix


def manifest_path(path: Path) -> Path:
    """Return the file of the manifest of a dump."""
    return path.with_name(f"{path.name}.json")


def remove(path: Path) -> None:
    """Delete a dump and its manifest."""
    path.unlink(missing_ok=True)
    manifest_path(path).unlink(missing_ok=True)


def manifests(site: Site) -> list[dict[str, Any]]:
    """Return the manifest of each dump, the newest first, without dumps that are missing or truncated."""
    return [one for one in _described(site) if _bytes(site.backups / one["name"]) == one["size"]]


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # it has just been deleted
        return -1


def _described(site: Site) -> list[dict[str, Any]]:
    """Return the manifest of each dump, the newest first; last, those of a clock that was ahead."""
    paths = site.backups.iterdir() if site.backups.is_dir() else ()
    read = ((path, host_file.read_json(manifest_path(path), MANIFEST)) for path in paths if NAME.fullmatch(path.name))
    described = [one for path, one in read if one and one["name"] == path.name]
    order = {one["backup"]: (not clock.is_ahead(one["taken"]), one["backup"]) for one in described}
    return sorted(described, key=lambda one: (order[one["backup"]], one["alias"]), reverse=True)


def newest_before(site: Site, moment: str) -> dict[str, Any] | None:
    """Return the manifest of the newest backup of the default database that was made before a moment, or None.

    Args:
        moment: in the format of `host.clock.now`.
    """
    return next((one for one in manifests(site) if one["alias"] == "default" and one["taken"] <= moment), None)


def overview(site: Site) -> list[dict[str, Any]]:
    """Return the backups on the host, the newest first: a row for each dump."""
    return [
        {
            "backup": one["name"],
            "age": clock.age(one["taken"]),
            "size": in_words(one["size"]),
            "why": one["why"],
            "release": one["release"],
            "rows": sum(one["rows"].values()),
            "verified": one.get("verified", ""),
        }
        for one in manifests(site)
    ]


def in_words(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.4g} GB"


def prune(site: Site) -> list[str]:
    """Delete backups beyond ``backup:keep``, and those before migrations of releases that were deleted.

    Of the latter, as many stay as releases do: a failed release is deleted, but its migrations may have been applied in
    part. The newest backup always stays, and for a day one that was fetched from elsewhere or made of a moment.

    Returns:
        The names of the files that were deleted.
    """
    present = manifests(site)
    named = {name for release in releases.releases(site) for name in release.record.get("backups", ())}
    migrations = _distinct(one["backup"] for one in present if one["why"] == MIGRATION)
    moments = _distinct(one["backup"] for one in present if one["why"] == MOMENT)
    regular = _distinct(one["backup"] for one in present if one["why"] not in (MIGRATION, MOMENT))
    keep = site.config["backup"]["keep"]
    kept = {*migrations[: site.config["releases"]["keep"]], *regular[:keep], *moments[:keep]}
    kept |= {one["backup"] for one in present if one["name"] in named}
    kept |= {one["backup"] for one in present[:1]}
    kept |= {one["backup"] for one in present if 0 <= time.time() - clock.seconds(one.get("came", "")) < _STAYS}
    deleted = [one["name"] for one in present if one["backup"] not in kept]
    for name in deleted:
        remove(site.backups / name)
    return deleted


def _distinct(names: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(names))


def status(site: Site) -> dict[str, str]:
    """Return when the newest backup was made, and the result of the last restore drill.

    One before a migration, which may have a single database and no uploads, counts where there is no other.
    """
    made = [one for one in manifests(site) if one["why"] != MOMENT]
    newest = next((one for one in made if one["why"] != MIGRATION), made[0] if made else None)
    drill = host_file.read_json(site.backups / "drill.json", {"date": str, "seconds": float, "result": str}) or {}
    drilled = f"{drill['date']}, {drill['seconds']:g} s: {drill['result']}" if drill else ""
    return {"backup": newest["taken"] if newest else "", "restore_drill": drilled}


def verify(site: Site, manifest: dict[str, Any], folder: Path) -> None:
    """Compare a dump in a folder with the checksum in its manifest.

    Raises:
        DeploymentError: it is damaged.
    """
    with open(folder / manifest["name"], "rb") as dump:
        verify_open(site, manifest, dump)


def verify_open(site: Site, manifest: dict[str, Any], dump: BinaryIO) -> None:
    """Compare an open dump, likewise."""
    if host_file.sha256(dump) != manifest["sha256"]:
        raise DeploymentError(
            f"the backup {manifest['name']} is damaged: it has changed since it was written on {manifest['taken']}",
            hint=f"use another one: salt-call django.backups {site.name} lists them",
        )


def find(site: Site, which: str | None) -> list[dict[str, Any]]:
    """Return the manifests of a backup, also of a truncated one, which `verify` refuses.

    Args:
        which: the name of a dump, or the part that the dumps of a backup share; None for the newest backup.

    Raises:
        DeploymentError: there is no such backup.
    """
    present = _described(site)
    newest = next((one for one in present if one["why"] != MOMENT), None)
    name = which or (newest["backup"] if newest else "")
    found = [one for one in present if name in (one["name"], one["backup"])]
    if not found:
        raise DeploymentError(
            f"there is no backup {which} of {site.name}" if which else f"{site.name} has no backup",
            hint=f"salt-call django.backups {site.name} lists them"
            if present
            else f"salt-call django.backup {site.name} makes one",
        )
    return found


def mark_verified(site: Site, manifest: dict[str, Any]) -> None:
    """Record in the manifest that a dump was loaded and found to be complete."""
    path = site.backups / manifest["name"]
    host_file.write_json(manifest_path(path), {**manifest, "verified": clock.now()}, mode=0o600)
