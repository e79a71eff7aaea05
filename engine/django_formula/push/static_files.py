"""Static files of releases at a destination elsewhere: which are pushed, and which no kept release names any more.

Only names with a hash of their content are pushed: such a file never changes, so that one that is there is not sent
again, and files of several releases are next to each other.
"""

import importlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from django_formula.host import file
from django_formula.host.commands import DeploymentError
from django_formula.kind import kinds
from django_formula.secret.secrets import KeptSecret
from django_formula.site import sites
from django_formula.site.sites import Site
from django_formula.untrusted import shapes
from django_formula.untrusted.foreign import Foreign

#: The most bytes of a manifest: 100 000 files with long names.
_MANIFEST_SIZE = 32 << 20
_MANIFEST = {"paths": {str: str}}
#: A name with the hash of a bundler, which a storage may leave as it is: main-3f2a9c1b.js.
_HASHED = re.compile(r"[.-][0-9a-f]{8,64}\.[^/]+$")
_HINT = (
    "have the project hash the names: {at}:settings: {{STORAGES: {{default: {{BACKEND: "
    "django.core.files.storage.FileSystemStorage}}, staticfiles: {{BACKEND: "
    "django.contrib.staticfiles.storage.ManifestStaticFilesStorage}}}}}} (Django 4.1 and older: STATICFILES_STORAGE)"
)


class Destination(Protocol):
    """A kind of destination: an S3-compatible store or a static host; each is a module, ``push/<kind>.py``."""

    def place(self, push: Mapping[str, Any]) -> str:
        """Return where a site's files are."""

    def send(self, site: Site, folder: Path, names: list[str], secret: str) -> list[str]:
        """Send the files that are missing there; return their names."""

    def delete(self, site: Site, names: list[str], secret: str) -> None:
        """Delete files."""


def configured(site: Site) -> dict[str, Any] | None:
    """Return where the pillar has the site's static files pushed; None where it does not."""
    push: dict[str, Any] | None = site.config["static"].get("push")
    return push


def _destination(push: Mapping[str, Any]) -> Destination:
    """Return the module of this kind; only a site that pushes needs it, and it takes 20 ms to import."""
    module: Destination = importlib.import_module(f"django_formula.push.{push['kind']}")
    return module


def place(site: Site) -> str:
    """Return where the site's files are pushed, for people; empty where they are not."""
    push = configured(site)
    return _destination(push).place(push) if push else ""


# The secret


def reference(config: Mapping[str, Any]) -> Any:
    """Return the reference to the secret in the pillar; None where nothing is pushed."""
    push = config["static"].get("push")
    return push[kinds.PUSHES[push["kind"]]] if push else None


#: The secret of the destination.
SECRET = KeptSecret(".push_secret", reference)


def keys(site: Site) -> Path:
    """Return the folder that has the SSH key while rsync runs."""
    return sites.RUNTIME / f"{site.name}.push"


def remove_keys(site: Site) -> None:
    """Remove the SSH key that a killed push has left; the caller holds the site's lock."""
    if os.path.lexists(keys(site)):
        file.remove_tree(keys(site))


# Names


def names(site: Site, folder: Path, storage: Mapping[str, Any]) -> list[str]:
    """Return the names of collected files that are pushed, sorted.

    Args:
        folder: the collected files.
        storage: what the start of Django has reported of the storage of static files.

    Raises:
        DeploymentError: the files have no hash in their names, or a name leads out of the folder.
    """
    hint = _HINT.format(at=site.at)
    found = _named(folder, _manifest(storage))
    if found is None:
        raise DeploymentError(
            f"static:push needs static files with a hash in their names, and {storage.get('class')} gives them none: "
            "a new release would replace files of the active one",
            hint=hint,
        )
    plain = [name for name, own in found.items() if name == own and not _HASHED.search(name)]
    if plain:
        more = f" and {len(plain) - 3} more" if len(plain) > 3 else ""
        raise DeploymentError(
            f"{storage.get('class')} leaves static files without a hash in their names, and a new release would "
            f"replace those of the active one: {', '.join(plain[:3])}{more}",
            hint=hint,
        )
    return sorted(found)


def _named(folder: Path, manifest: str) -> dict[str, str] | None:
    """Return the names that a manifest gives to files, each with its own; None where there is no manifest."""
    content = (Foreign(folder) / manifest).read(_MANIFEST_SIZE)
    try:
        value = json.loads(content) if content else None
    except (ValueError, RecursionError):
        return None
    if value is None or not shapes.fits(value, _MANIFEST):
        return None
    found = {name: own for own, name in value["paths"].items()}
    for name in found:
        if name.startswith("/") or {"", ".", ".."} & {*name.split("/")} or not name.isprintable():
            raise DeploymentError(f"{folder}/{manifest} names {name!r}, which is no file below it")
    return found


# What was pushed


def _record(site: Site) -> Path:
    return site.root / "pushed.json"


def pushed(site: Site) -> set[str]:
    """Return the names that are at the destination, as far as this host has pushed them."""
    record = file.read_json(_record(site), {"place": str, "names": [str]}) or {}
    return {*record.get("names", ())} if record.get("place") == place(site) else set()


def _write(site: Site, found: Iterable[str]) -> None:
    file.write_json(_record(site), {"place": place(site), "names": sorted(found)}, mode=0o600)


def send(site: Site, folder: Path, found: list[str], value: str | None) -> list[str]:
    """Push the files that are missing at the destination; return their names.

    Args:
        folder: the collected files.
        found: their names.
        value: the secret of the destination.

    Raises:
        DeploymentError: the secret is not known, or the destination does not take them all.
    """
    push = configured(site)
    if not push or not found:
        return []
    if not value:
        raise DeploymentError(
            f"{SECRET.path(site)} does not exist yet: its value is in the pillar, which only an apply reads",
            hint="salt-call state.apply django",
        )
    _write(site, {*pushed(site), *found})  # before they are sent: a push that is interrupted leaves some
    return _destination(push).send(site, folder, found, value)


def prune(site: Site, folders: Iterable[tuple[Path, Mapping[str, Any]]], value: str | None) -> int:
    """Delete what was pushed and no kept release names; return the number of files.

    Args:
        folders: the collected files of each kept release, and its storage of static files.
        value: the secret of the destination.

    Raises:
        DeploymentError: the destination refuses it; the next release tries it again.
    """
    push = configured(site)
    present = pushed(site)
    if not push or not push["prune"] or not value or not present:
        return 0
    gone = sorted(present - {name for folder, storage in folders for name in _kept(folder, storage)})
    if gone:
        _destination(push).delete(site, gone, value)
        _write(site, present - {*gone})
    return len(gone)


def _kept(folder: Path, storage: Mapping[str, Any]) -> Iterable[str]:
    """Return the names of a kept release's files; none where its storage gives files no other names."""
    found = _named(folder, _manifest(storage))
    if found is None and storage.get("manifest"):
        raise DeploymentError(f"{folder}/{_manifest(storage)} is missing or damaged")
    return found or ()


def _manifest(storage: Mapping[str, Any]) -> str:
    return storage.get("manifest") or "staticfiles.json"
