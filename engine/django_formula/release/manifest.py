"""Manifests: the content of a folder when it was finished, to compare it later."""

import hashlib
import json
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from django_formula.host import file
from django_formula.untrusted import shapes

#: The manifest of a folder, in that folder. The record next to it changes, and is no part of it.
NAME = ".manifest.json"
_LEFT_OUT = {NAME, "release.json"}


def make(folder: Path, key: bytes, without: Collection[str] = (), *, durable: bool = True) -> None:
    """Write the manifest of a folder: owner, group and mode of each path, the hash of files, the target of links.

    Args:
        key: for the hashes of contents, so that a short secret in a file cannot be guessed from its hash.
        without: paths below the folder that may change.
        durable: as for `host.file.write`.
    """
    entries = {path: _entry(f"{folder}/{path}", status, key) for path, status in _walk(str(folder), set(without))}
    text = json.dumps({"without": sorted(without), "entries": entries}, separators=(",", ":"))
    file.write(folder / NAME, text, mode=0o600, durable=durable)


#: An entry has mode, owner and group, and of a file its hash, of a link its target.
_MANIFEST = {"without": [str], "entries": {str: [(int, str)]}}


def exists(folder: Path) -> bool:
    """Return whether a folder has a manifest."""
    return (folder / NAME).exists()


def differences(folder: Path, key: bytes) -> dict[str, str]:
    """Return what differs from the manifest: path below the folder → ``missing``, ``added``, or what changed.

    Where the manifest is missing or damaged, it is the only difference, since nothing can be compared.
    """
    manifest = file.read_json(folder / NAME, _MANIFEST) or {}
    entries: Mapping[str, Any] | None = manifest.get("entries")
    if entries is None:
        return {NAME: "missing" if not exists(folder) else "changed"}
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
