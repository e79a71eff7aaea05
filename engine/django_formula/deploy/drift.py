"""Drift: files of a site that differ from its active release, with their present owner."""

import hashlib
import json
import os
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.database import databases
from django_formula.host import config_files, environment_files, template, users
from django_formula.host import file as host_file
from django_formula.proxy import listener, site_files
from django_formula.release import instances, releases, settings
from django_formula.release.releases import Release
from django_formula.schedule import schedules
from django_formula.secret import secrets
from django_formula.site.sites import Site
from django_formula.store import service, stores
from django_formula.untrusted import shapes
from django_formula.virtualenv import packages


def note(release: Release) -> None:
    """Write the manifest of a release, without its record and the paths that the site may write."""
    site = release.site
    without = [f"source/{path}" for path in site.config["writable"]]
    without += [packages.folder(release.path).name] if packages.names(site) else []
    make_manifest(release.path, secrets.record_key(site), without, durable=False)


def of_virtualenv(site: Site, key: str) -> dict[str, str]:
    """Return what differs in a virtualenv from when it was built: path below it → how."""
    return manifest_differences(site.virtualenvs / key, secrets.record_key(site))


def differing_paths(site: Site, live: Release) -> list[dict[str, str]]:
    """Return a row for each path that differs from the active release, sorted.

    Compared are the release's folder (source, static files, configuration), its virtualenv, the files of its process
    manager, its secrets, and the files of its proxy, schedules and stores; not what outlives a release, and not
    ``writable``. A program that cannot render templates, as the watch, leaves out those of proxy, schedules and stores.
    """
    found = dict(_in_folders(site, live))
    found |= dict(_of_process_manager(site, live))
    found |= dict(_of_secrets(site, live))
    if template.can_render():
        found |= dict(_of_proxy(site, live))
        found |= dict(_of_schedules(site))
        found |= dict(_of_stores(site))
    return [{"path": str(path), "drift": how, **_owner(path)} for path, how in sorted(found.items())]


def _of_stores(site: Site) -> Iterator[tuple[Path, str]]:
    for kind, server in stores.own_servers(site):
        for path, text in service.server_files(kind, server, site.kept_templates()).items():
            present = host_file.read_text(path)
            if present != text:
                yield path, "missing" if present is None else "changed"


def _in_folders(site: Site, live: Release) -> Iterator[tuple[Path, str]]:
    folders = {live.path: manifest_differences(live.path, secrets.record_key(site))}
    if live.record.get("virtualenv"):
        virtualenv = site.virtualenvs / live.record["virtualenv"]
        folders[virtualenv] = of_virtualenv(site, live.record["virtualenv"]) if virtualenv.is_dir() else {"": "missing"}
    for folder, differences in folders.items():
        for path, how in differences.items():
            yield folder / path, how


def _of_process_manager(site: Site, live: Release) -> Iterator[tuple[Path, str]]:
    manager, parts = instances.process_manager(site, live.path), instances.parts(live.path)
    installed = {path: text for part in parts for path, text in manager.installed(site, live.path, part).items()}
    for path, text in installed.items():
        present = host_file.read_text(path)
        if present != text:
            yield path, "missing" if present is None else "changed"
        for addition in path.with_name(f"{path.name}.d").glob("*"):
            yield addition, "added"


def _of_proxy(site: Site, live: Release) -> Iterator[tuple[Path, str]]:
    templates = site.kept_templates()
    wanted = {**site_files.files_of_site(site, live.facts, templates), **listener.listener_units(site, templates)}
    for path, text in wanted.items():
        present = config_files.read(path)
        if present != text:
            yield path, "missing" if present is None else "added" if text is None else "changed"


def _of_secrets(site: Site, live: Release) -> Iterator[tuple[Path, str]]:
    """Yield secrets that no release was made with, and the environment file where it does not match the secrets."""
    known = {name: secrets.stored(site, name) for name in secrets.configured(site)}
    for name, value in known.items():
        if value is None:
            yield secrets.path_of(site, name), "missing"
        elif not releases.has_used(site, name, value):
            yield secrets.path_of(site, name), "changed"
    for name, login in databases.logins(site).items():
        if (there := host_file.read_text(site.secrets / name)) != login:
            yield site.secrets / name, "missing" if there is None else "changed"
    values = {name: value for name, value in known.items() if value}
    if len(values) < len(known):
        return
    text = environment_files.environment_file(settings.secret_environment(site, values, secrets.fallbacks(site)))
    file = site.secrets / "environment"
    if host_file.read_text(file) != text:
        yield file, "changed" if file.exists() else "missing"


def _of_schedules(site: Site) -> Iterator[tuple[Path, str]]:
    words = {"new": "missing", "removed": "added"}
    for path, how in schedules.stale(site, site.kept_templates()).items():
        yield Path(path), words.get(how, how)


def _owner(path: Path) -> dict[str, str]:
    """Return the owner of a path, and when it was last modified."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):  # ValueError: a damaged record has no such path
        return {"owner": "", "modified": ""}
    modified = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(status.st_mtime))
    return {"owner": users.owner_of(status), "modified": modified}


# Manifests: the content of a folder when it was finished, to compare it later

#: The manifest of a folder, in that folder. The record next to it changes, and is no part of it.
MANIFEST = ".manifest.json"
_LEFT_OUT = {MANIFEST, "release.json"}


def make_manifest(folder: Path, key: bytes, without: Collection[str] = (), *, durable: bool = True) -> None:
    """Write the manifest of a folder: owner, group and mode of each path, the hash of files, the target of links.

    Args:
        key: for the hashes of contents, so that a short secret in a file cannot be guessed from its hash.
        without: paths below the folder that may change.
        durable: as for `host.file.write`.
    """
    entries = {path: _entry(f"{folder}/{path}", status, key) for path, status in _walk(str(folder), set(without))}
    text = json.dumps({"without": sorted(without), "entries": entries}, separators=(",", ":"))
    host_file.write(folder / MANIFEST, text, mode=0o600, durable=durable)


#: An entry has mode, owner and group, and of a file its hash, of a link its target.
_SHAPE = {"without": [str], "entries": {str: [(int, str)]}}


def has_manifest(folder: Path) -> bool:
    """Return whether a folder has a manifest."""
    return (folder / MANIFEST).exists()


def manifest_differences(folder: Path, key: bytes) -> dict[str, str]:
    """Return what differs from the manifest: path below the folder → ``missing``, ``added``, or what changed.

    Where the manifest is missing or damaged, it is the only difference, since nothing can be compared.
    """
    manifest = host_file.read_json(folder / MANIFEST, _SHAPE) or {}
    entries: Mapping[str, Any] | None = manifest.get("entries")
    if entries is None:
        return {MANIFEST: "missing" if not has_manifest(folder) else "changed"}
    found = {}
    there = dict(_walk(str(folder), set(manifest["without"])))
    for path, status in there.items():
        if path not in entries:
            found[path] = "added"
        elif not shapes.fits(entries[path][:3], [int]) or len(entries[path]) < 3:
            found[path] = "changed"
        elif entries[path] != (now := _entry(f"{folder}/{path}", status, key)):
            found[path] = _changes(entries[path], now)
    return found | dict.fromkeys(entries.keys() - there.keys(), "missing")


def _changes(before: list[Any], now: list[Any]) -> str:
    """Return what differs between two entries, in a word or two."""
    changes = []
    if before[3:] != now[3:] or stat.S_IFMT(before[0]) != stat.S_IFMT(now[0]):
        changes.append("changed")
    if stat.S_IMODE(before[0]) != stat.S_IMODE(now[0]):
        changes.append(f"mode was {stat.S_IMODE(before[0]):04o}")
    if before[1:3] != now[1:3]:
        changes.append("owner")
    return ", ".join(changes)


def _walk(folder: str, without: set[str], below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    with os.scandir(f"{folder}/{below}") as entries:
        for entry in entries:
            path = f"{below}{entry.name}"
            if path in without or path in _LEFT_OUT:
                continue
            yield path, entry.stat(follow_symlinks=False)
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(folder, without, f"{path}/")


def _entry(path: str, status: os.stat_result, key: bytes) -> list[Any]:
    """Return mode, owner, group, and the hash of a file or the target of a link."""
    about: list[Any] = [status.st_mode, status.st_uid, status.st_gid]
    if stat.S_ISLNK(status.st_mode):
        return [*about, os.readlink(path)]
    if not stat.S_ISREG(status.st_mode):
        return about
    digest = hashlib.blake2b(key=key, digest_size=16)
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        while part := os.read(descriptor, 1 << 20):
            digest.update(part)
    finally:
        os.close(descriptor)
    return [*about, digest.hexdigest()]
