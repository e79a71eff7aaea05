"""Drift: files of a site that differ from its active release, with their present owner."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from django_formula.database import databases
from django_formula.host import config_files, environment_files, users
from django_formula.host import file as host_file
from django_formula.proxy import listener, site_files
from django_formula.release import instances, manifest, releases, settings
from django_formula.release.releases import Release
from django_formula.schedule import schedules
from django_formula.secret import secrets
from django_formula.site.sites import Site
from django_formula.store import service, stores
from django_formula.virtualenv import packages


def note(release: Release) -> None:
    """Write the manifest of a release, without its record and the paths that the site may write."""
    site = release.site
    without = [f"source/{path}" for path in site.config["writable"]]
    without += [packages.folder(release.path).name] if packages.names(site) else []
    manifest.make(release.path, secrets.record_key(site), without, durable=False)


def of_virtualenv(site: Site, key: str) -> dict[str, str]:
    """Return what differs in a virtualenv from when it was built: path below it → how."""
    return manifest.differences(site.virtualenvs / key, secrets.record_key(site))


def of_site(site: Site, live: Release) -> list[dict[str, str]]:
    """Return a row for each path that differs from the active release, sorted.

    Compared are the release's folder (source, static files, configuration), its virtualenv, the files of its process
    manager, the proxy's files of the site, and its secrets; not what outlives a release, and not ``writable``.
    """
    found = dict(_in_folders(site, live))
    found |= dict(_of_process_manager(site, live))
    found |= dict(_of_proxy(site, live))
    found |= dict(_of_secrets(site, live))
    found |= dict(_of_schedules(site))
    found |= dict(_of_stores(site))
    return [{"path": str(path), "drift": how, **_owner(path)} for path, how in sorted(found.items())]


def _of_stores(site: Site) -> Iterator[tuple[Path, str]]:
    for kind, server in stores.own_servers(site):
        for path, text in service.files(kind, server, site.kept_templates()).items():
            present = host_file.read_text(path)
            if present != text:
                yield path, "missing" if present is None else "changed"


def _in_folders(site: Site, live: Release) -> Iterator[tuple[Path, str]]:
    folders = {live.path: manifest.differences(live.path, secrets.record_key(site))}
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
    wanted = {**site_files.of_site(site, live.facts, templates), **listener.files(site, templates)}
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
