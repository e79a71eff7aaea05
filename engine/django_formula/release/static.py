"""Static files of a release: compressed once, so that nginx does not at every request."""

import gzip
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from django_formula.untrusted.foreign import Foreign

_COMPRESSED = (
    ".css",
    ".js",
    ".mjs",
    ".svg",
    ".json",
    ".txt",
    ".html",
    ".xml",
    ".map",
    ".ico",
    ".ttf",
    ".eot",
    ".wasm",
    ".webmanifest",
)


def compress(folder: Path, before: Path | None = None) -> None:
    """Write a ``.gz`` next to each file that nginx would otherwise compress at every request, where it is smaller.

    Args:
        before: static files of an older release; the ``.gz`` of an equal file is shared.
    """
    paths = [Path(parent, name) for parent, _folders, files in os.walk(folder) for name in files]
    large = [
        path
        for path in paths
        if path.name.endswith(_COMPRESSED) and not path.is_symlink() and path.stat().st_size > 1024
    ]
    formers = [Foreign(before) / str(path.relative_to(folder)) if before else None for path in large]
    with ThreadPoolExecutor() as pool:  # zlib and the file system work in parallel
        list(pool.map(_compress_file, large, formers))


def _has(file: Foreign, content: bytes) -> bool:
    """Return whether a file has exactly this content."""
    status = file.status()
    return status is not None and status.st_size == len(content) and file.read(len(content)) == content


def _compress_file(path: Path, former: Foreign | None) -> None:
    content, compressed = path.read_bytes(), path.with_name(f"{path.name}.gz")
    compressed.unlink(missing_ok=True)
    shared = former.parent / compressed.name if former else None
    if shared and former and shared.is_file() and _has(former, content):
        shared.share(compressed)
        return
    smaller = gzip.compress(content, 6, mtime=0)
    if len(smaller) < len(content):
        with open(compressed, "xb") as file:
            file.write(smaller)
        compressed.chmod(0o644)
