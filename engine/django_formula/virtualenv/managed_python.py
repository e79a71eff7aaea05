"""Managed interpreters: those that the formula installs for sites of which the host has no such Python.

They are uv's, one folder of root's for all sites; an archive is used if it has the digest that `django/pythons.yaml`
has of it (docs/decisions/0085).
"""

import hashlib
import json
import os
import platform
import re
import shutil
import ssl
import stat
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from django_formula.host import commands, users
from django_formula.host import file as host_file
from django_formula.host import folders as host_folders
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder
from django_formula.host.outcome import Outcome
from django_formula.site import sites
from django_formula.untrusted.foreign import PUBLIC, Foreign
from django_formula.untrusted.text import Log
from django_formula.virtualenv import uv

log = Log.of(__name__)

#: Has a folder for each release of Python, such as ``3.13.18``, and what is being installed in ``.new``.
FOLDER = Path("/usr/local/lib/django-formula/python")
#: The file of an interpreter that was installed to its end.
COMPLETE = ".complete"
#: Bytes that an archive has at most, and seconds in which it has to be here.
_LIMIT, _TIMEOUT = 400 << 20, 900.0
#: Seconds without a byte after which a mirror has failed.
_SILENCE = 60.0
_CHUNK = 1 << 20
#: Seconds for which an interpreter stays that no site has: an apply installs it before its new site is registered.
_FRESH = 3600.0
_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


def of_host(version: str) -> str:
    """Return the path of the host's own interpreter of a version such as ``3.13``; empty if it has none."""
    return shutil.which(f"python{version}", path=commands.PATH) or ""


def executable(version: str) -> str:
    """Return the path of the newest managed interpreter of a version such as ``3.13``; empty if there is none."""
    found = [_executable(folder) for folder in _installed() if _series(folder.name) == version]
    return str(found[-1]) if found else ""


def is_installed(release: str) -> bool:
    """Return whether a release of Python such as ``3.13.18`` is installed."""
    return release in (folder.name for folder in _installed())


def _installed() -> list[Path]:
    """Return the folders of what is installed, oldest release first."""
    folders = [path.parent for path in FOLDER.glob(f"*/{COMPLETE}") if not path.parent.name.startswith(".")]
    return sorted(folders, key=lambda folder: [int(part) for part in re.findall(r"\d+", folder.name)])


def _series(release: str) -> str:
    return ".".join(release.split(".")[:2])


def _executable(folder: Path) -> Path:
    return next(folder.glob(f"*/bin/python{_series(folder.name)}"), folder / "missing")


def known(table: Mapping[str, Any], version: str) -> dict[str, str]:
    """Return the release, path and digest of the archive of a version for this machine.

    Args:
        table: what `django/pythons.yaml` has.

    Raises:
        DeploymentError: it has none.
    """
    machine = platform.machine()
    versions = table["versions"]
    found = versions.get(version, {}).get("archives", {}).get(machine)
    if not found:
        has = ", ".join(one for one, entry in versions.items() if machine in entry["archives"])
        raise DeploymentError(
            f"there is no Python {version} to install on this host ({machine}): "
            + (f"the formula knows {has}" if has else "the formula knows interpreters for other machines only"),
            hint="set python to one of these, or to the path of an interpreter that you install",
        )
    return {"release": versions[version]["version"], **found}


def ensure(
    version: str, table: Mapping[str, Any], mirror: str, cached: Callable[[str], str | bool], *, test: bool
) -> Outcome:
    """Install the newest known interpreter of a version, unless the host has its own; an older one may stay.

    Args:
        version: such as ``3.13``.
        table: what `django/pythons.yaml` has.
        mirror: the URL that the path of the archive is below.
        cached: fetches a ``salt://`` URL, and returns its path.
        test: whether this is a dry run.

    Raises:
        DeploymentError: there is none, and none can be installed.
    """
    if of_host(version):
        return Outcome(f"this host has its own Python {version}")
    try:
        archive = known(table, version)
        release = archive["release"]
        if is_installed(release):
            return Outcome(f"Python {version} is already installed")
        if test:
            return Outcome(f"Python {release} would be installed from {mirror}", {"python": release})
        install(archive, mirror, cached)
    except (DeploymentError, OSError) as error:
        if not executable(version):
            raise
        text = f"an older Python {version} stays: {error}"
        return Outcome(text, warnings=[text])
    return Outcome(f"Python {release} has been installed", {"python": release})


def install(archive: Mapping[str, str], mirror: str, cached: Callable[[str], str | bool]) -> None:
    """Install an interpreter, of which root extracts nothing but the archive with the digest.

    Args:
        archive: what `known` returns.
        mirror: the URL that the path of the archive is below.
        cached: fetches a ``salt://`` URL, and returns its path.

    Raises:
        DeploymentError: the archive cannot be fetched, is another one, or has no interpreter that runs on this host.
    """
    release, folder, work = archive["release"], FOLDER / archive["release"], FOLDER / ".new"
    host_folders.make(Folder(FOLDER, "root", "root", 0o755))
    for path in (work, folder):
        host_file.remove_tree(path)
    host_folders.make(Folder(work, "root", "root", 0o700))
    try:
        file = work / archive["path"].rpartition("/")[2]
        _fetch(f"{mirror}/{archive['path']}", file, archive["sha256"], cached)
        _extract(file, folder, archive)
        commands.run(
            [str(_executable(folder)), "-I", "-c", "import ssl, sqlite3, zlib"], doing=f"starting Python {release}"
        )
        host_file.write(folder / COMPLETE, "")
    except (DeploymentError, OSError):
        host_file.remove_tree(folder)
        raise
    finally:
        host_file.remove_tree(work)


def _extract(file: Path, folder: Path, archive: Mapping[str, str]) -> None:
    """Have uv extract an archive, and correct what names the machine that has compiled it."""
    release, machine = archive["release"], platform.machine()
    major, minor, patch = (int(part) for part in release.split("."))
    key = f"cpython-{release}-linux-{machine}-gnu"
    entry = {
        **{"name": "cpython", "arch": {"family": machine, "variant": None}, "os": "linux", "libc": "gnu"},
        **{"major": major, "minor": minor, "patch": patch, "prerelease": "", "variant": None, "build": None},
        **{"url": file.as_uri(), "sha256": archive["sha256"]},
    }
    listed = file.parent / "list.json"
    host_file.write(listed, json.dumps({key: entry}), durable=False)
    host_folders.make(Folder(folder, "root", "root", 0o700))  # uv makes its lock for all users
    environment = {"HOME": str(file.parent), "UV_CACHE_DIR": str(file.parent / "cache"), "TMPDIR": str(file.parent)}
    commands.run(
        [
            *(str(uv.UV / "bin/uv"), "python", "install", key, "--no-config", "--no-bin"),
            *("--offline", "--compile-bytecode", f"--install-dir={folder}"),
            f"--python-downloads-json-url={listed.as_uri()}",
        ],
        doing=f"installing Python {release}",
        timeout=600,
        environment={**environment, "UV_NO_PROGRESS": "1"},
    )
    for name in (".lock", ".temp", ".gitignore"):
        host_file.remove_tree(folder / name)
    Foreign(folder).give(users.ROOT, PUBLIC, of=0)


def _fetch(url: str, target: Path, sha256: str, cached: Callable[[str], str | bool]) -> None:
    """Write what a URL has to a file, if it has the digest.

    Raises:
        DeploymentError: it cannot be fetched, or has another digest.
    """
    hint = "have this host reach it, or set django:python_mirror to a mirror that it reaches (docs/guides/projects.md)"
    digest, deadline = hashlib.sha256(), time.monotonic() + _TIMEOUT
    try:
        with closing(_opened(url, cached)) as source, target.open("xb") as file:
            for chunk in iter(lambda: source.read(_CHUNK), b""):
                digest.update(chunk)
                file.write(chunk)
                if file.tell() > _LIMIT or time.monotonic() > deadline:
                    raise OSError(f"it is larger than {_LIMIT >> 20} MiB, or takes longer than {_TIMEOUT:.0f} s")
    except (OSError, ValueError) as error:
        raise DeploymentError(f"cannot fetch {url}: {error}", hint=hint, transient=True) from error
    if digest.hexdigest() != sha256:
        raise DeploymentError(
            f"{url} is not the archive that the formula knows: its SHA-256 is {digest.hexdigest()}, not {sha256}",
            hint="have the mirror serve the file as it was published; nothing of it has been extracted",
        )


def _opened(url: str, cached: Callable[[str], str | bool]) -> BinaryIO:
    """Open what a URL has: a file of this host, of Salt's file server, or of a web server."""
    if url.startswith("salt://"):
        path = cached(url)
        if not path:
            raise FileNotFoundError("Salt's file server does not have it")
        return _opened_file(str(path))
    if url.startswith("file://"):
        return _opened_file(url.removeprefix("file://"))
    bundle = os.environ.get("SSL_CERT_FILE") or (str(_BUNDLE) if _BUNDLE.exists() else None)
    context = ssl.create_default_context(cafile=bundle)
    opened: BinaryIO = urllib.request.urlopen(url, timeout=_SILENCE, context=context)  # noqa: S310  # nosec B310 - the schema has its schemes
    return opened


def _opened_file(path: str) -> BinaryIO:
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("it is no file")
    return file


def prune() -> None:
    """Delete the interpreters that no virtualenv of this host's sites has, and no site is configured with."""
    for folder in _unused() if FOLDER.is_dir() else ():
        log.info("Python %s is used by no site any more", folder.name)
        host_file.remove_whole(folder)


def _unused() -> list[Path]:
    kept = {executable(version) for version in _wanted()} | {*_homes()}
    unused = [folder for folder in _installed() if not any(Path(path).is_relative_to(folder) for path in kept if path)]
    return [folder for folder in unused if time.time() - (folder / COMPLETE).stat().st_mtime > _FRESH]


def _wanted() -> Iterator[str]:
    """Yield the versions of Python that the sites of this host are configured with."""
    for root in sites.REGISTRY.glob("*"):
        config = (host_file.read_json(root / "site.json") or {}).get("config", {})
        if re.fullmatch(r"3\.\d+", str(config.get("python", ""))):
            yield config["python"]


def _homes() -> Iterator[str]:
    """Yield the folders of the interpreters of all virtualenvs of this host's sites."""
    for file in sites.REGISTRY.glob("*/virtualenvs/*/pyvenv.cfg"):
        for line in host_file.read_untrusted(file, follow=False).decode(errors="replace").splitlines():
            name, _is, value = line.partition("=")
            if name.strip() == "home":
                yield value.strip()
