"""Drift: files of a site that differ from its active release, with their present owner."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import django_database
import django_host_config
import django_host_environment
import django_host_file
import django_host_user
import django_proxy_files
import django_proxy_listener
import django_release
import django_release_instance
import django_release_manifest
import django_release_settings
import django_schedule
import django_secret
import django_store
import django_store_service
import django_virtualenv_packages
from django_release import Release
from django_site import Site


def note(release: Release) -> None:
    """Write the manifest of a release, without its record and the paths that the site may write."""
    site = release.site
    without = [f"source/{path}" for path in site.config["writable"]]
    without += [django_virtualenv_packages.folder(release.path).name] if django_virtualenv_packages.names(site) else []
    django_release_manifest.make(release.path, django_secret.record_key(site), without, durable=False)


def of_virtualenv(site: Site, key: str) -> dict[str, str]:
    """Return what differs in a virtualenv from when it was built: path below it → how."""
    return django_release_manifest.differences(site.virtualenvs / key, django_secret.record_key(site))


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
    for kind, server in django_store.own_servers(site):
        for path, text in django_store_service.files(kind, server, site.kept_templates()).items():
            present = django_host_file.read_text(path)
            if present != text:
                yield path, "missing" if present is None else "changed"


def _in_folders(site: Site, live: Release) -> Iterator[tuple[Path, str]]:
    folders = {live.path: django_release_manifest.differences(live.path, django_secret.record_key(site))}
    if live.record.get("virtualenv"):
        virtualenv = site.virtualenvs / live.record["virtualenv"]
        folders[virtualenv] = of_virtualenv(site, live.record["virtualenv"]) if virtualenv.is_dir() else {"": "missing"}
    for folder, differences in folders.items():
        for path, how in differences.items():
            yield folder / path, how


def _of_process_manager(site: Site, live: Release) -> Iterator[tuple[Path, str]]:
    manager, parts = django_release_instance.process_manager(site, live.path), django_release_instance.parts(live.path)
    installed = {path: text for part in parts for path, text in manager.installed(site, live.path, part).items()}
    for path, text in installed.items():
        present = django_host_file.read_text(path)
        if present != text:
            yield path, "missing" if present is None else "changed"
        for addition in path.with_name(f"{path.name}.d").glob("*"):
            yield addition, "added"


def _of_proxy(site: Site, live: Release) -> Iterator[tuple[Path, str]]:
    templates = site.kept_templates()
    wanted = {**django_proxy_files.of_site(site, live.facts, templates), **django_proxy_listener.files(site, templates)}
    for path, text in wanted.items():
        present = django_host_config.read(path)
        if present != text:
            yield path, "missing" if present is None else "added" if text is None else "changed"


def _of_secrets(site: Site, live: Release) -> Iterator[tuple[Path, str]]:
    """Yield secrets that no release was made with, and the environment file where it does not match the secrets."""
    known = {name: django_secret.stored(site, name) for name in django_secret.configured(site)}
    for name, value in known.items():
        if value is None:
            yield django_secret.path_of(site, name), "missing"
        elif not django_release.has_used(site, name, value):
            yield django_secret.path_of(site, name), "changed"
    for name, login in django_database.logins(site).items():
        if (there := django_host_file.read_text(site.secrets / name)) != login:
            yield site.secrets / name, "missing" if there is None else "changed"
    values = {name: value for name, value in known.items() if value}
    if len(values) < len(known):
        return
    text = django_host_environment.environment_file(
        django_release_settings.secret_environment(site, values, django_secret.fallbacks(site))
    )
    file = site.secrets / "environment"
    if django_host_file.read_text(file) != text:
        yield file, "changed" if file.exists() else "missing"


def _of_schedules(site: Site) -> Iterator[tuple[Path, str]]:
    words = {"new": "missing", "removed": "added"}
    for path, how in django_schedule.stale(site, site.kept_templates()).items():
        yield Path(path), words.get(how, how)


def _owner(path: Path) -> dict[str, str]:
    """Return the owner of a path, and when it was last modified."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):  # ValueError: a damaged record has no such path
        return {"owner": "", "modified": ""}
    modified = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(status.st_mtime))
    return {"owner": django_host_user.owner_of(status), "modified": modified}
