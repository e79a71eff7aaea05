"""The formula's files on Salt's file server, which a minion asks for as few of them as it can.

`django/digests` has the digest of each file that a minion fetches one by one. A copy here that has this digest is used
as it is, so that one request takes the place of one for each file. Salt's py renderer runs this file before the
formula's modules are synced; so it imports the standard library only. See docs/decisions/0065.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import random
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

#: After at most this time the file server is asked for a file again: `django/digests` may not be true of it.
TRUSTED = 24 * 3600
SCHEME = "salt://"


class Files:
    """The files of one Salt environment.

    Args:
        opts: Salt's options.
        functions: Salt's execution functions.
        saltenv: the environment.
    """

    def __init__(self, opts: Mapping[str, Any], functions: Mapping[str, Any], saltenv: str):
        self.opts, self.functions, self.saltenv = opts, functions, saltenv
        #: salt-ssh renders on the master; its wrapper contains every name. This one has no dot: Salt would load every
        #: execution module to look for a missing function.
        self.is_wrapped = "no_such_module" in functions

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """The digest of each file by its name; none where the files are on this host, and reading them is cheap."""
        if self.is_wrapped or self.opts["file_client"] == "local":
            return {}
        copy = self.functions["cp.cache_file"](f"{SCHEME}django/digests", saltenv=self.saltenv)
        lines = Path(copy).read_text(encoding="utf-8").splitlines() if copy else []
        return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}

    def path(self, url: str) -> str:
        """Return the path of a copy that is current: under salt-ssh the URL, '' where there is no such file.

        Args:
            url: `salt://` and its name.
        """
        if self.is_wrapped:
            return url
        name = url.removeprefix(SCHEME)
        copy = Path(self.opts["cachedir"], "files", self.saltenv, name)
        if self._is_trusted(copy, name):
            return str(copy)
        cached = self.functions["cp.cache_file"](url, saltenv=self.saltenv)
        if cached and name in self.digests:
            _trust(copy)
        return str(cached or "")

    def stale_kinds(self) -> list[str]:
        """Return the kinds of modules of which one is missing here, or differs from that of the file server."""
        kinds = ("modules", "states", "utils")
        return [kind for kind in kinds if any(self._is_stale(kind, name) for name in self._modules(kind))]

    def _modules(self, kind: str) -> list[str]:
        prefix = f"_{kind}/django"
        listed = self.digests or self.functions["cp.list_master"](self.saltenv, prefix=prefix)
        return [name for name in listed if name.startswith(prefix) and name.endswith(".py")]

    def _is_stale(self, kind: str, name: str) -> bool:
        copy = Path(self.opts["extension_modules"], kind, PurePosixPath(name).name)
        if self._is_trusted(copy, name):
            return False
        there = self.functions["cp.hash_file"](f"{SCHEME}{name}", saltenv=self.saltenv)
        if not there or not copy.exists() or _digest(copy, there["hash_type"]) != there["hsum"]:
            return True
        if self.digests:
            _trust(copy)
        return False

    def _is_trusted(self, copy: Path, name: str) -> bool:
        """Return whether a copy has its digest, and was compared with the file server not too long ago."""
        if name not in self.digests or not copy.is_file():
            return False
        return 0 <= time.time() - copy.stat().st_mtime < TRUSTED and _digest(copy, "sha256") == self.digests[name]


def _digest(path: Path, kind: str) -> str:
    return hashlib.new(kind, path.read_bytes()).hexdigest()


def _trust(copy: Path) -> None:
    """Note that a copy has been compared: by its time of modification, so that not all are due in the same apply."""
    compared = time.time() - random.uniform(0, TRUSTED / 4)  # noqa: S311  # nosec B311 - spreads requests, no secret
    with contextlib.suppress(OSError):
        os.utime(copy, (compared, compared))


#: What this apply was rendered with: Salt's py renderer executes this file anew for each apply.
_rendered: Files | None = None


def run() -> Files:
    """Return the files of the environment that Salt's py renderer runs this for."""
    global _rendered
    context = globals()  # Salt's py renderer adds __salt__ and the like
    _rendered = Files(context["__opts__"], context["__salt__"], context["saltenv"] or "base")
    return _rendered


def of_states(opts: Mapping[str, Any], functions: Mapping[str, Any], saltenv: str) -> Files:
    """Return the files for the states of an apply, with the digests that it was rendered with."""
    files = Files(opts, functions, saltenv)
    if _rendered and _rendered.saltenv == saltenv:
        files.digests = _rendered.digests
    return files
